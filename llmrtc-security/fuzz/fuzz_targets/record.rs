//! No record opens but one that was sealed, in its place and unchanged (E4).
#![no_main]

use std::{sync::LazyLock, time::Instant};

use libfuzzer_sys::fuzz_target;
use llmrtc_security::crypto::{
    record::{Binding, DataKey, OpeningKey, SealedRecord},
    shred::UserKey,
};

const PLACE: Binding<'static> = Binding {
    tenant: Some("acme"),
    user: "ann",
    session: "s1",
    record: "r1",
    field: "text",
    version: 0,
};

static GENUINE: LazyLock<(Vec<u8>, OpeningKey)> = LazyLock::new(|| {
    let user = UserKey::generate();
    let key = DataKey::generate(&user, Instant::now());
    let sealed = key.seal(&PLACE, b"what was said").expect("short enough");
    let wrapped = SealedRecord::parse(&sealed)
        .expect("just sealed")
        .key()
        .clone();
    let opening = OpeningKey::new(&user.unwrap_data_key(&wrapped).expect("just wrapped"));
    (sealed, opening)
});

fn opens(bytes: &[u8], place: &Binding<'_>) -> bool {
    SealedRecord::parse(bytes).is_ok_and(|record| record.open(&GENUINE.1, place).is_ok())
}

fuzz_target!(|data: &[u8]| {
    assert!(!opens(data, &PLACE));
    let mut record = GENUINE.0.clone();
    for change in data.chunks_exact(3) {
        let at = usize::from(u16::from_be_bytes([change[0], change[1]])) % record.len();
        record[at] = change[2];
    }
    assert_eq!(opens(&record, &PLACE), record == GENUINE.0);
    // Somewhere else.
    if let Ok(text) = std::str::from_utf8(data) {
        let moved = Binding {
            user: text,
            ..PLACE
        };
        assert_eq!(opens(&GENUINE.0, &moved), text == PLACE.user);
    }
});
