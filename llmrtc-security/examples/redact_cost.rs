//! What redaction costs: time per utterance, and per mebibyte of text made to be slow.
//!
//! `cargo run --release -p llmrtc-security --example redact_cost` prints one JSON object. Gates of item E1: mean 20 µs, 99th percentile
//! 200 µs per utterance, 100 ms per mebibyte.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use llmrtc_security::redact::{Context, RedactConfig, Redactor};

/// Utterances as callers and assistants say them, with and without something to hide.
const UTTERANCES: &[&str] = &[
    "I'd like a table for four at half past seven on Friday please",
    "yes",
    "my card number is 4111 1111 1111 1111 and it expires 04/27",
    "it's four one one one, one one one one, uh, one one one one, one one one one",
    "you can reach me at (415) 555-2671 or by mail, jane.doe@example.com",
    "Sure, I can help you with that. Could you tell me your date of birth and the postcode of your address?",
    "no that's all thank you very much for your help have a nice day",
    "the order number is 12345678 and it was delivered on 2024-05-03 at 10:30",
    "mi número de teléfono es seis uno dos tres cuatro cinco seis siete ocho",
    "Ich heiße Müller und wohne in der Hauptstraße 12 in Berlin",
    "meu e-mail é joana ponto silva arroba gmail ponto com",
    "2024-05-03T10:30:00Z INFO turn completed trace_id=4bf92f3577b34da6a3ce929d0e0e4736 stt=120ms llm=430ms tts=95ms",
];

/// Text that makes careless matchers quadratic.
const SLOW: &[(&str, &str)] = &[
    ("digits", "1"),
    ("loose digits", "1 "),
    ("card beginnings", "4111 1111 1111 "),
    ("number words", "one two "),
    ("dashes", "1-"),
    ("dots", "a."),
    ("at signs", "a@"),
    ("bare at signs", "@"),
    ("letters", "a"),
    ("colons", "a:"),
    ("brackets", "[at] [dot] "),
    ("key prefixes", "sk-"),
    ("private keys", "-----BEGIN PRIVATE KEY-----"),
    ("schemes", "https://"),
    ("cues", "my name is my card number is "),
    ("names", "My Name Is Mr. Smith "),
    ("addresses", "12 Baker Street "),
    ("plus signs", "+1 (415) "),
    ("hexadecimal", "3f2a9c1d"),
    ("wide", "é1 "),
];

const MEBIBYTE: usize = 1 << 20;

fn main() {
    let redactor =
        Redactor::new(&RedactConfig::default()).expect("the default configuration is valid");
    let context = Context::default();
    // Automata are built on first use.
    for text in UTTERANCES {
        black_box(redactor.spans(text, &context));
    }
    let mut times: Vec<Duration> = (0..2_000)
        .flat_map(|_| UTTERANCES)
        .map(|text| time(|| drop(black_box(redactor.spans(black_box(text), &context)))))
        .collect();
    times.sort_unstable();
    let mean = times.iter().sum::<Duration>() / times.len() as u32;
    let p99 = times[times.len() * 99 / 100];
    let slow: Vec<String> = SLOW
        .iter()
        .map(|(name, unit)| {
            let text = unit.repeat(MEBIBYTE / unit.len());
            let took = (0..3)
                .map(|_| time(|| drop(black_box(redactor.spans(&text, &context)))))
                .min()
                .unwrap_or_default();
            format!("{name:?}:{:.1}", took.as_secs_f64() * 1e3)
        })
        .collect();
    #[expect(clippy::print_stdout, reason = "the figures are the result")]
    {
        println!(
            "{{\"utterance_mean_us\":{:.2},\"utterance_p99_us\":{:.2},\"mebibyte_ms\":{{{}}}}}",
            mean.as_secs_f64() * 1e6,
            p99.as_secs_f64() * 1e6,
            slow.join(",")
        );
    }
}

fn time(work: impl FnOnce()) -> Duration {
    let started = Instant::now();
    work();
    started.elapsed()
}
