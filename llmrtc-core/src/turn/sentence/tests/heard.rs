use std::time::Duration;

use proptest::prelude::*;

use super::{
    super::*,
    properties::{deltas, text},
};
use crate::playout::Played;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn spans(parts: &[(usize, u64, bool)]) -> Vec<SpokenSpan> {
    let mut start = 0;
    parts
        .iter()
        .map(|&(len, audio, complete)| {
            let span = start..start + len;
            start = span.end;
            SpokenSpan {
                span,
                audio: ms(audio),
                complete,
            }
        })
        .collect()
}

#[track_caller]
fn check(text: &str, parts: &[(usize, u64, bool)], segment: u32, within: u64, expected: &str) {
    let played = Played {
        segment,
        within: ms(within),
    };
    assert_eq!(heard_text(text, &spans(parts), played), expected);
}

#[test]
fn a_segment_is_cut_back_to_a_word() {
    let text = "Hello there. I am your assistant.";
    let parts = [(12, 1_000, true), (21, 2_000, true)];
    check(text, &parts, 0, 0, "");
    check(text, &parts, 0, 999, "Hello");
    check(text, &parts, 1, 0, "Hello there.");
    check(text, &parts, 1, 800, "Hello there. I am");
    check(text, &parts, 1, 1_999, "Hello there. I am your");
    check(text, &parts, 1, 2_000, text);
    check(text, &parts, 9, 0, text);
}

#[test]
fn incomplete_synthesis_is_estimated() {
    let text = "aaaa bbbb cccc dddd eeee ffff ";
    // Ten characters a second so far, so the second segment will take two seconds.
    check(
        text,
        &[(10, 1_000, true), (20, 500, false)],
        1,
        500,
        "aaaa bbbb cccc",
    );
    // Nothing known yet: 15 characters a second, 30 characters, two seconds.
    check(text, &[(30, 100, false)], 0, 1_000, "aaaa bbbb cccc");
    // More was written than estimated.
    check(text, &[(30, 10_000, false)], 0, 5_000, "aaaa bbbb cccc");
}

#[test]
fn scripts_without_spaces_are_cut_between_graphemes() {
    check("今天天气很好", &[(18, 6_000, true)], 0, 2_500, "今天");
    check("กำกำกำ", &[(18, 600, true)], 0, 350, "กำ");
    check("Rust编程", &[(10, 600, true)], 0, 450, "Rust");
}

#[test]
fn nothing_synthesised_is_nothing_heard() {
    check("Hello", &[], 0, 0, "");
    check("Hello", &[(5, 0, true)], 0, 0, "");
    check("Hello", &[(5, 0, false)], 0, 0, "");
    // Spans that are not of this text.
    check("é", &[(1, 10, true)], 0, 10, "");
    check("é", &[(9, 10, true)], 0, 10, "");
}

proptest! {
    #[test]
    fn heard_text_is_a_prefix_that_grows_with_playout(
        text in text(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        audio in prop::collection::vec((0_u64..5_000, any::<bool>()), 8),
        mut marks in prop::collection::vec((0_u32..9, 0_u64..6_000), 1..20),
    ) {
        let parts: Vec<_> = deltas(&text, &cuts)
            .iter()
            .zip(audio)
            .map(|(part, (audio, complete))| (part.len(), audio, complete))
            .collect();
        let spans = spans(&parts);
        marks.sort_unstable();
        let mut before = 0;
        for (segment, within) in marks {
            let heard = heard_text(&text, &spans, Played { segment, within: ms(within) });
            prop_assert!(text.starts_with(&heard));
            prop_assert!(heard.len() >= before);
            let complete = (segment as usize).min(spans.len());
            let floor = spans[..complete].last().map_or(0, |s| s.span.end);
            prop_assert!(heard.len() >= text[..floor].trim_end().len());
            before = heard.len();
        }
    }
}
