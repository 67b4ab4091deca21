//! What the strict parser takes, the lax one takes, and it means the same (F1).
#![no_main]

use libfuzzer_sys::fuzz_target;
use llmrtc_security::tool::strict;
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(value) = strict::parse(text) {
        assert!(depth(&value) <= strict::MAX_DEPTH && text.len() <= strict::MAX_BYTES);
        assert_eq!(
            serde_json::from_str::<Value>(text).expect("lax is laxer"),
            value
        );
    }
});

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}
