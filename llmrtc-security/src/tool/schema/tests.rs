//! F1 and T19 (`$ref`), T25 (patterns).

use std::{collections::BTreeMap, net::TcpListener};

use serde_json::json;

use super::*;

fn check(schema: &Value, arguments: Value) -> Result<(), Vec<Violation>> {
    let Value::Object(arguments) = arguments else {
        panic!("arguments are an object");
    };
    ToolSchema::compile(schema).unwrap().check(&arguments)
}

/// Runs one draft of the official suite. Returns how many tests ran.
///
/// Schemas that refer to another document must not compile; schemas that our dialects or bounds exclude are named here.
fn run_suite(text: &str, dialect: &str) -> usize {
    let suite: BTreeMap<String, Vec<Value>> = serde_json::from_str(text).unwrap();
    let (mut ran, mut failures) = (0, Vec::new());
    for (file, groups) in suite {
        for group in groups {
            let mut schema = group["schema"].clone();
            if let Value::Object(members) = &mut schema {
                members.entry("$schema").or_insert_with(|| dialect.into());
            }
            let own_dialect = schema.get("$schema").is_none_or(|named| {
                named.as_str().unwrap_or_default().trim_end_matches('#')
                    == dialect.trim_end_matches('#')
            });
            // The suite serves other documents at this address.
            let remote = schema.to_string().contains("http://localhost:1234/");
            let compiled = match ToolSchema::compile_any(&schema, false) {
                Ok(compiled) if own_dialect => compiled,
                Ok(_) => panic!("another dialect compiled"),
                Err(SchemaError::Dialect) if !own_dialect => continue,
                Err(SchemaError::Invalid(why)) if remote && why.contains("not followed") => {
                    continue;
                }
                Err(error) => {
                    failures.push(format!("{file}: {}: {error}", group["description"]));
                    continue;
                }
            };
            for test in group["tests"].as_array().unwrap() {
                ran += 1;
                if compiled.accepts(&test["data"]) != test["valid"] {
                    failures.push(format!(
                        "{file}: {}: {}",
                        group["description"], test["description"]
                    ));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    ran
}

#[test]
fn f1_official_suite_2020_12() {
    let ran = run_suite(
        include_str!("../../../tests/fixtures/json-schema-test-suite/draft2020-12.json"),
        "https://json-schema.org/draft/2020-12/schema",
    );
    assert!(ran > 1_150, "only {ran} tests ran");
}

#[test]
fn f1_official_suite_draft_7() {
    let ran = run_suite(
        include_str!("../../../tests/fixtures/json-schema-test-suite/draft7.json"),
        "http://json-schema.org/draft-07/schema#",
    );
    assert!(ran > 850, "only {ran} tests ran");
}

#[test]
fn f1_formats_mean_what_they_say() {
    let schema = |format: &str| json!({"type": "object", "properties": {"x": {"type": "string", "format": format}}});
    for (format, good, bad) in [
        ("date", "2024-02-29", "2025-02-30"),
        ("date", "2025-12-31", "9999-99-99"),
        ("date", "2025-01-01", "2025-1-1"),
        ("time", "23:59:59Z", "25:00:00Z"),
        ("date-time", "2025-01-01T00:00:00Z", "2025-13-01T00:00:00Z"),
        ("email", "a@b.example", "a@"),
        ("ipv4", "127.0.0.1", "256.0.0.1"),
        ("uuid", "2eb8aa08-aa98-11ea-b4aa-73b441d16380", "2eb8aa08"),
        ("uri", "https://a.example/", "not a uri"),
    ] {
        assert!(check(&schema(format), json!({"x": good})).is_ok(), "{good}");
        assert!(check(&schema(format), json!({"x": bad})).is_err(), "{bad}");
    }
}

#[test]
fn f1_nothing_is_coerced() {
    let schema = json!({"type": "object", "properties": {"n": {"type": "integer"}, "b": {"type": "boolean"}}, "additionalProperties": false});
    assert!(check(&schema, json!({"n": 9_007_199_254_740_993_i64, "b": true})).is_ok());
    for bad in [
        json!({"n": "1"}),
        json!({"n": 1.5}),
        json!({"b": "true"}),
        json!({"b": 0}),
        json!({"m": 1}),
    ] {
        assert!(check(&schema, bad.clone()).is_err(), "{bad}");
    }
}

#[test]
fn f1_bad_schemas_are_refused_at_registration() {
    let deep = (0..40).fold(json!({}), |inner, _| json!({"properties": {"a": inner}}));
    for bad in [
        json!({"type": "string"}),
        json!({"type": "object", "properties": {"a": {"type": "strin"}}}),
        json!({"type": "object", "properties": 5}),
        json!({"type": "object", "properties": {"a": {"pattern": "("}}}),
        json!({"type": "object", "required": "a"}),
        json!({"$schema": "http://json-schema.org/draft-04/schema#", "type": "object"}),
        json!({"$schema": 7, "type": "object"}),
        deep,
    ] {
        assert!(ToolSchema::compile(&bad).is_err(), "{bad}");
    }
}

#[test]
fn t19_no_reference_leaves_the_schema() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    for target in [
        format!("http://{address}/s.json"),
        format!("https://{address}/s.json"),
        "file:///etc/hostname".to_owned(),
        "other.json".to_owned(),
        "http://169.254.169.254/latest".to_owned(),
    ] {
        for keyword in ["$ref", "$dynamicRef"] {
            let mut inner = Map::new();
            inner.insert(keyword.to_owned(), json!(target));
            let schema = json!({"type": "object", "properties": {"a": inner}});
            assert!(ToolSchema::compile(&schema).is_err(), "{keyword} {target}");
        }
    }
    assert!(listener.accept().is_err(), "nobody connected");
    // Within itself a schema may refer.
    let own = json!({"type": "object", "$defs": {"d": {"type": "integer"}}, "properties": {"a": {"$ref": "#/$defs/d"}}});
    assert!(check(&own, json!({"a": 1})).is_ok());
    assert!(check(&own, json!({"a": "1"})).is_err());
}

#[test]
fn t25_patterns_cannot_backtrack() {
    let with = |pattern: &str| json!({"type": "object", "properties": {"a": {"type": "string", "pattern": pattern}}});
    for bad in [
        r"(?=a)b",
        r"(a)\1",
        r"(?<!a)b",
        "(((a{1000}){1000}){1000}){1000}",
    ] {
        assert!(ToolSchema::compile(&with(bad)).is_err(), "{bad}");
    }
    // Exponential on a backtracking engine: the test would not end.
    let evil = format!("{}!", "a".repeat(50_000));
    assert!(check(&with("^(a+)+$"), json!({"a": evil})).is_err());
}

#[test]
fn f1_violations_hold_no_values() {
    let schema = json!({
        "type": "object",
        "properties": {"date": {"type": "string", "format": "date"}, "size": {"enum": ["s", "m"]}, "items": {"type": "array", "items": {"type": "integer"}}},
        "required": ["name"],
        "additionalProperties": false,
    });
    let violations = check(&schema, json!({"date": "4111111111111111", "size": "secret", "items": [1, "secret"], "secret-key": 1})).unwrap_err();
    let shown = format!("{violations:?}");
    assert!(
        !shown.contains("4111") && !shown.contains("secret"),
        "{shown}"
    );
    let rules: BTreeSet<(&str, &str)> = violations
        .iter()
        .map(|violation| (violation.path.as_str(), violation.rule.as_str()))
        .collect();
    for expected in [
        ("/date", "format"),
        ("/size", "enum"),
        ("/items/1", "type"),
        ("", "required"),
        ("", "additionalProperties"),
    ] {
        assert!(rules.contains(&expected), "{expected:?} in {rules:?}");
    }
    assert!(
        violations
            .iter()
            .any(|violation| violation.expected == Some(json!("name")))
    );
}

#[test]
fn f1_typed_tools_check_themselves() {
    #[derive(schemars::JsonSchema, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its schema matters")]
    struct Booking {
        guests: u8,
        name: String,
    }
    let schema = serde_json::to_value(schemars::schema_for!(Booking)).unwrap();
    assert!(check(&schema, json!({"guests": 2, "name": "Ann"})).is_ok());
    for bad in [
        json!({"guests": 300, "name": "Ann"}),
        json!({"guests": 2}),
        json!({"guests": 2, "name": "Ann", "x": 1}),
    ] {
        assert!(check(&schema, bad.clone()).is_err(), "{bad}");
    }
}
