use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::{super::*, assert_lossless, run};

/// Text made of what the rules look at.
pub(super) fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "[a-zA-Z]{1,9}",
        2 => prop::sample::select(vec![
            " ", " ", " ", "\n", ". ", ".", "! ", "?", "…", ", ", ",", ": ", "; ", "—", "\"", "(", ")", "”", "3", "14",
            "Dr", "e.g", "No", "I", "A", "。", "！", "」", "「", "你好", "，", "．", "３", "é", "🎉", "👩‍👩‍👧", "**", "_", "`",
            "```\n", "~~~", "https://x.org/y?z=1", "[a](b)", "- ", "#", "한국어", "Τι;", "\u{301}", "1️⃣", "ไทย",
        ]).prop_map(str::to_owned),
        1 => any::<String>(),
    ];
    prop::collection::vec(piece, 0..120).prop_map(|pieces| pieces.concat())
}

/// Cuts `text` at the given fractions of it.
pub(super) fn deltas<'a>(text: &'a str, cuts: &[prop::sample::Index]) -> Vec<&'a str> {
    let places: Vec<usize> = text
        .char_indices()
        .map(|(at, _)| at)
        .chain([text.len()])
        .collect();
    let mut at: Vec<usize> = cuts
        .iter()
        .map(|cut| places[cut.index(places.len())])
        .collect();
    at.extend([0, text.len()]);
    at.sort_unstable();
    at.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect()
}

fn config() -> impl Strategy<Value = ChunkerConfig> {
    let language = prop::sample::select(vec![None, Some("en"), Some("de"), Some("el"), Some("zh")]);
    let filter = prop::sample::select(vec![SpeechFilter::Markdown, SpeechFilter::Off]);
    // Small limits too, so that the splitting rules meet all others.
    (
        language,
        filter,
        prop::sample::select(vec![(1, 1), (3, 5), (20, 30), (220, 400)]),
    )
        .prop_map(
            |(language, filter, (split_above, hard_cap))| ChunkerConfig {
                language: language.map(str::to_owned),
                filter,
                split_above,
                hard_cap,
                ..ChunkerConfig::default()
            },
        )
}

proptest! {
    #[test]
    fn segments_do_not_depend_on_the_deltas_and_lose_nothing(
        text in text(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
        config in config(),
    ) {
        let (whole, rest) = run(&mut Chunker::new(config.clone()), &[&text]);
        assert_lossless(&whole, &rest, text.len());
        let (cut, cut_rest) = run(&mut Chunker::new(config.clone()), &deltas(&text, &cuts));
        prop_assert_eq!((&whole, &rest), (&cut, &cut_rest));
        for segment in &whole {
            prop_assert!(segment.text.chars().any(char::is_alphanumeric));
            prop_assert_eq!(segment.text.trim(), &segment.text);
            prop_assert!(segment.text.chars().count() <= config.hard_cap + 8);
        }
    }

    #[test]
    fn holds_flushes_and_later_text_lose_nothing_either(
        text in text(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
        config in config(),
        flushes in prop::collection::vec(any::<bool>(), 50),
    ) {
        let mut chunker = Chunker::new(config);
        let mut now = Instant::now();
        let mut out = Vec::new();
        let mut read = 0;
        for (delta, flush) in deltas(&text, &cuts).into_iter().zip(flushes) {
            chunker.push(delta, now, &mut out);
            read += delta.len();
            if flush {
                let rest = chunker.flush(&mut out);
                assert_lossless(&out, &rest, read);
            }
            now += Duration::from_millis(200);
            let due = chunker.deadline().is_some();
            let before = out.len();
            chunker.tick(now, &mut out);
            prop_assert_eq!(out.len() > before, due, "a deadline means that there is something to do");
        }
    }

    #[test]
    fn the_filter_never_grows_text(text in text()) {
        prop_assert!(SpeechFilter::Markdown.apply(&text).len() <= text.len());
    }
}
