//! Text in pieces comes out as the whole text does (E1).
#![no_main]

use std::{
    sync::{Arc, LazyLock},
    time::Instant,
};

use libfuzzer_sys::fuzz_target;
use llmrtc_security::redact::{
    Context, RedactConfig, RedactStream, Redactor, SinkPolicy, StreamOptions,
};

static REDACTOR: LazyLock<Arc<Redactor>> = LazyLock::new(|| {
    Arc::new(Redactor::new(&RedactConfig::default()).expect("the defaults compile"))
});

fuzz_target!(|data: &[u8]| {
    // One byte says how long the pieces are.
    let Some((&piece, text)) = data.split_first() else {
        return;
    };
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    let policy = SinkPolicy::default();
    let whole = REDACTOR.redact(text, &Context::default(), &policy, None);
    let now = Instant::now();
    let mut stream = RedactStream::new(Arc::clone(&REDACTOR), StreamOptions::tags());
    let (mut out, mut rest) = (String::new(), text);
    while !rest.is_empty() {
        let length = rest.floor_char_boundary(usize::from(piece % 32) + 4);
        let (delta, behind) = rest.split_at(length);
        out += &stream.push(delta, now);
        rest = behind;
    }
    out += &stream.finish();
    assert_eq!(out, whole);
});
