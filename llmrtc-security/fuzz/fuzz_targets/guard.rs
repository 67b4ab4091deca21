//! No text breaks the normaliser, and what it passes on is text that it passes on (F2).
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use llmrtc_security::guard::{
    Guard, GuardConfig, Source,
    length::{self, Limit},
    normalise, separate,
};

static GUARD: LazyLock<Guard> = LazyLock::new(|| Guard::new(GuardConfig::default()));

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    for source in [Source::User, Source::Tool, Source::Document] {
        let verdict = GUARD.screen(text, source);
        assert!((0.0..=1.0).contains(&verdict.score));
        assert_eq!(verdict.text, normalise::output(text));
    }
    let once = normalise::output(text);
    assert_eq!(normalise::output(&once), once);
    let cut = length::cut(
        text,
        Limit {
            graphemes: 20,
            tokens: 20,
        },
    );
    assert!(text.starts_with(cut) && length::tokens(cut) <= 20);
    let _ = separate::neutralise(text);
});
