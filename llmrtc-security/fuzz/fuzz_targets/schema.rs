//! No schema and no arguments break the validator (F1). A line of schema, then the arguments.
#![no_main]

use libfuzzer_sys::fuzz_target;
use llmrtc_security::tool::{guarded::ArgumentCheck, schema::ToolSchema, strict};
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let (schema, arguments) = text.split_once('\n').unwrap_or((text, "{}"));
    let Ok(schema) = strict::parse(schema) else {
        return;
    };
    let Ok(schema) = ToolSchema::compile(&schema) else {
        return;
    };
    if let Ok(Value::Object(arguments)) = strict::parse(arguments) {
        if let Err(violations) = schema.check(&arguments) {
            assert!(!violations.is_empty());
        }
    }
});
