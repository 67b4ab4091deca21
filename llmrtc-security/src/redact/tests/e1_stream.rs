// tidy: keys are fixtures
//! E1: streams. Whatever the text and wherever it is cut, what leaves is what the whole text would give, and soon.

use std::{
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use proptest::{prelude::*, test_runner::RngSeed};

use super::*;
use crate::redact::{
    detector::{HORIZON, locality_violation},
    secrets::SecretDetector,
    stream::MAX_HOLD,
    written::WrittenDetector,
};

static REDACTOR: LazyLock<Arc<Redactor>> = LazyLock::new(|| Arc::new(redactor()));

/// Pieces out of which texts are made: identifiers of every family, their beginnings, cues, and fillers between.
#[rustfmt::skip]
const PIECES: &[&str] = &[
    "my", "card", "number", "is", "4111", "1111", "1111 1111 1111 1111", "four", "one", "double seven", "oh", "nine", "uno", "dos", "cuatro", "um", "uh", "+44 20 7946 0958", "(415) 555-2671", "415-555-2671", "call", "me", "at", "john@example.com", "j.o.h.n", "john", "dot", "com", "gmail",
    "example.com", "https://example.com/a/b/c?d=e", "DE89 3704 0044 0532 0130 00", "MT84MALT011000012345MTLCAST001S", "123-45-6789", "192.168.1.1", "2001:db8::1", "sk-proj-abcDEF123456789012345678", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.abc", "-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----", "the",
    "and", ".", ",", "order", "12345678901234567890123456789012345678901234567890123456789012345678901234567890", "1", "2", "34", "7:30", "2024-01-15", "born", "March", "5th,", "1987", "221B Baker Street", "Hauptstraße 12", "Calle Mayor 5", "My name is", "John", "Smith", "Mr.", "password", "hunter2", "=", ":", "pin", "cvv",
    "123", "a", "b", "alpha", "bravo", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "@", "[at]", "[dot]", "QQ 12 34 56 C", "12345678Z", "é", "müller", "SW1A 1AA", "api_key=3f2a9c1d4bf92f3577b34da6a3ce929d", "twenty five", "forty one nineteen", "please", "thanks",
];

fn texts() -> impl Strategy<Value = String> {
    prop::collection::vec((0..PIECES.len(), prop::bool::weighted(0.88)), 1..60).prop_map(|pieces| {
        pieces
            .iter()
            .map(|(at, gap)| [PIECES[*at], if *gap { " " } else { "" }].concat())
            .collect()
    })
}

fn cut(text: &str, lengths: &[usize]) -> Vec<String> {
    let characters: Vec<char> = text.chars().collect();
    let (mut pieces, mut at, mut turn) = (Vec::new(), 0, 0);
    while at < characters.len() {
        let end = (at + lengths[turn % lengths.len()]).min(characters.len());
        pieces.push(characters[at..end].iter().collect());
        (at, turn) = (end, turn + 1);
    }
    pieces
}

fn whole(text: &str, policy: &SinkPolicy) -> String {
    REDACTOR
        .redact(text, &Context::default(), policy, None)
        .into_owned()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, rng_seed: RngSeed::Fixed(1), ..ProptestConfig::default() })]

    #[test]
    fn a_stream_gives_what_the_whole_text_gives(text in texts(), lengths in prop::collection::vec(1..12usize, 1..8), masks in any::<bool>()) {
        let policy = SinkPolicy::all(if masks { Mode::Mask } else { Mode::Tag });
        let expected = whole(&text, &policy);
        let mut stream = RedactStream::new(REDACTOR.clone(), StreamOptions { policy: Arc::new(policy), ..StreamOptions::tags() });
        let (now, mut out) = (Instant::now(), String::new());
        for piece in cut(&text, &lengths) {
            out.push_str(&stream.push(&piece, now));
            prop_assert!(expected.starts_with(&out), "{out:?} of {expected:?}");
        }
        out.push_str(&stream.finish());
        prop_assert_eq!(out, expected);
    }

    #[test]
    fn silence_reveals_nothing_that_the_whole_text_hides(text in texts(), lengths in prop::collection::vec(1..12usize, 1..8)) {
        let mut stream = RedactStream::new(REDACTOR.clone(), StreamOptions::tags());
        let (mut now, mut out) = (Instant::now(), String::new());
        let expected = whole(&text, &SinkPolicy::default());
        for piece in cut(&text, &lengths) {
            out.push_str(&stream.push(&piece, now));
            now += MAX_HOLD / 4;
            out.push_str(&stream.tick(now));
            prop_assert!(expected.starts_with(&out), "{out:?} of {expected:?}");
        }
        out.push_str(&stream.finish());
        prop_assert_eq!(out, expected);
    }

    #[test]
    fn detectors_are_local(text in texts()) {
        let detectors: [&dyn Detector; 2] = [&WrittenDetector, &SecretDetector];
        for (at, detector) in detectors.into_iter().enumerate() {
            prop_assert_eq!(locality_violation(detector, &text, &Context::default()), None, "detector {}", at);
        }
    }

    #[test]
    fn hypotheses_end_as_the_whole_text(drafts in prop::collection::vec(texts(), 1..5)) {
        let mut stream = RedactStream::new(REDACTOR.clone(), StreamOptions::tags());
        let mut shown = String::new();
        for draft in &drafts {
            let revision = stream.revise(draft);
            shown.truncate(revision.keep);
            shown.push_str(&revision.text);
        }
        let last = drafts.last().expect("at least one");
        let revision = stream.settle(last);
        shown.truncate(revision.keep);
        shown.push_str(&revision.text);
        prop_assert_eq!(shown, whole(last, &SinkPolicy::default()));
    }

    #[test]
    fn any_text_at_all_is_safe(text in "\\PC{0,200}") {
        let expected = whole(&text, &SinkPolicy::default());
        let mut stream = RedactStream::new(REDACTOR.clone(), StreamOptions::tags());
        let mut out = String::new();
        for character in text.chars() {
            out.push_str(&stream.push(character.encode_utf8(&mut [0; 4]), Instant::now()));
        }
        out.push_str(&stream.finish());
        prop_assert_eq!(out, expected);
    }
}

#[test]
fn no_more_than_a_horizon_is_held() {
    let mut stream = RedactStream::new(REDACTOR.clone(), StreamOptions::tags());
    let text = "so here it is again, my card number is 4111 1111 1111 1111 and then we went on to talk about the weather for a while ".repeat(4);
    let (now, mut released) = (Instant::now(), 0);
    let mut shown = String::new();
    for (fed, character) in (1..).zip(text.chars()) {
        shown.push_str(&stream.push(character.encode_utf8(&mut [0; 4]), now));
        // A tag stands for the nineteen characters of the card; it may come before the last of them is released.
        let tags = shown.matches("[CARD]").count();
        released = released.max(shown.chars().count() + tags * (19 - 6));
        assert!(
            fed <= released + HORIZON,
            "{} of {} characters",
            released,
            fed
        );
    }
}

#[test]
fn harmless_text_leaves_after_the_longest_hold_and_half_a_number_does_not() {
    let start = Instant::now();
    let mut stream = RedactStream::new(REDACTOR.clone(), StreamOptions::tags());
    assert_eq!(
        stream.push(
            "what a lovely day it is today, and so we thought of you ",
            start
        ),
        ""
    );
    assert_eq!(stream.tick(start + MAX_HOLD - Duration::from_millis(1)), "");
    let early = stream.tick(start + MAX_HOLD);
    assert!(early.starts_with("what a lovely day"), "{early:?}");

    let mut stream = RedactStream::new(REDACTOR.clone(), StreamOptions::tags());
    assert_eq!(
        stream.push("thank you so much, the thing is 4111 1111 11", start),
        ""
    );
    let early = stream.tick(start + 10 * MAX_HOLD);
    assert!(!early.contains("41"), "{early:?}");
    assert_eq!(
        early + &stream.finish(),
        whole(
            "thank you so much, the thing is 4111 1111 11",
            &SinkPolicy::default()
        )
    );
}

#[test]
fn digits_that_are_unsaid_do_not_come_to_light_before_the_end() {
    let mut stream = RedactStream::new(REDACTOR.clone(), StreamOptions::tags());
    let tail = " and that was all that I wanted to say about it so please go on now";
    let first = stream.revise(&format!("it is 4111111111111111{tail}"));
    assert!(first.text.starts_with("it is [CARD]"), "{first:?}");
    // The recogniser changes its mind about what follows; the digits stay hidden although the end is not what it was.
    let second = stream.revise(&format!("it is 4111111111111111 well{tail}"));
    assert!(second.keep >= "it is [CARD]".len(), "{second:?}");
    // It takes the number back.
    let third = stream.revise(&format!("it is for one{tail}"));
    assert_eq!(third.keep, "it is ".len());
    let last = stream.settle("it is for one");
    assert_eq!((last.keep, last.text.as_str()), ("it is for one".len(), ""));
}
