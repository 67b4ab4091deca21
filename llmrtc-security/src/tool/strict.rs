//! F1: JSON as it should be: no duplicate keys, bounded depth and size, numbers that survive, text that hides nothing.
//!
//! Parsers differ on what a duplicate key means, and whoever checks one reading while another is executed has checked
//! nothing. Control characters have no business in arguments; text in two normal forms is two texts that look alike.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use unicode_normalization::{UnicodeNormalization, is_nfc};

/// Deepest nesting of arrays and objects.
pub const MAX_DEPTH: usize = 32;
/// Longest arguments, bytes of JSON.
pub const MAX_BYTES: usize = 64 * 1024;
/// From here on, neighbouring integers share one floating-point number.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// Why JSON was refused. Says nothing of what was in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StrictError {
    /// Longer than [`MAX_BYTES`].
    #[error("longer than {MAX_BYTES} bytes")]
    TooLong,
    /// Nested deeper than [`MAX_DEPTH`].
    #[error("nested deeper than {MAX_DEPTH}")]
    TooDeep,
    /// A key appears twice in one object.
    #[error("a key appears twice")]
    DuplicateKey,
    /// A number that cannot be kept exactly.
    #[error("a number is too large to be exact")]
    Number,
    /// A control character, or one that changes the writing direction.
    #[error("a text contains control characters")]
    Control,
    /// Not JSON.
    #[error("not valid JSON")]
    Syntax,
}

/// Parses JSON and checks it as [`admit`] does.
///
/// # Errors
/// The first rule that is broken.
pub fn parse(text: &str) -> Result<Value, StrictError> {
    if text.len() > MAX_BYTES {
        return Err(StrictError::TooLong);
    }
    let mut problem = None;
    let mut parser = serde_json::Deserializer::from_str(text);
    let value = Strict {
        depth: 0,
        problem: &mut problem,
    }
    .deserialize(&mut parser);
    let value = match value.and_then(|value| parser.end().map(|()| value)) {
        Ok(value) => value,
        Err(_) => return Err(problem.unwrap_or(StrictError::Syntax)),
    };
    admit(value)
}

/// Checks depth, size, numbers and characters of a value, and brings its texts into normal form C.
///
/// # Errors
/// The first rule that is broken.
pub fn admit(value: Value) -> Result<Value, StrictError> {
    let mut left = MAX_BYTES;
    normal(value, 0, &mut left)
}

/// Checks depth and size alone.
///
/// # Errors
/// [`StrictError::TooDeep`] or [`StrictError::TooLong`].
pub fn within_bounds(value: &Value) -> Result<(), StrictError> {
    fn spend(value: &Value, depth: usize, left: &mut usize) -> Result<(), StrictError> {
        let bytes = match value {
            Value::String(text) => text.len() + 2,
            Value::Array(_) | Value::Object(_) if depth == MAX_DEPTH => {
                return Err(StrictError::TooDeep);
            }
            _ => 1,
        };
        *left = left.checked_sub(bytes).ok_or(StrictError::TooLong)?;
        match value {
            Value::Array(items) => items
                .iter()
                .try_for_each(|item| spend(item, depth + 1, left)),
            Value::Object(members) => members.iter().try_for_each(|(key, value)| {
                *left = left
                    .checked_sub(key.len() + 3)
                    .ok_or(StrictError::TooLong)?;
                spend(value, depth + 1, left)
            }),
            _ => Ok(()),
        }
    }
    spend(value, 0, &mut { MAX_BYTES })
}

/// As [`admit`], for the arguments of a call.
///
/// # Errors
/// The first rule that is broken.
pub fn admit_arguments(arguments: Map<String, Value>) -> Result<Map<String, Value>, StrictError> {
    match admit(Value::Object(arguments))? {
        Value::Object(arguments) => Ok(arguments),
        _ => Err(StrictError::Syntax),
    }
}

fn normal(value: Value, depth: usize, left: &mut usize) -> Result<Value, StrictError> {
    let spend = |bytes: usize, left: &mut usize| {
        *left = left.checked_sub(bytes).ok_or(StrictError::TooLong)?;
        Ok(())
    };
    // What remains is at least a comma or a bracket per value.
    spend(1, left)?;
    match value {
        Value::String(text) => {
            spend(text.len() + 2, left)?;
            normal_text(text).map(Value::String)
        }
        Value::Number(number) => {
            let inexact = number.is_f64()
                && number
                    .as_f64()
                    .is_none_or(|number| number.fract() == 0.0 && number.abs() >= EXACT);
            if inexact {
                Err(StrictError::Number)
            } else {
                Ok(Value::Number(number))
            }
        }
        Value::Array(_) | Value::Object(_) if depth == MAX_DEPTH => Err(StrictError::TooDeep),
        Value::Array(items) => {
            let items = items.into_iter().map(|item| normal(item, depth + 1, left));
            items.collect::<Result<_, _>>().map(Value::Array)
        }
        Value::Object(members) => {
            let mut out = Map::new();
            for (key, value) in members {
                spend(key.len() + 3, left)?;
                let value = normal(value, depth + 1, left)?;
                // Two keys that only differ in their normal form are one key.
                if out.insert(normal_text(key)?, value).is_some() {
                    return Err(StrictError::DuplicateKey);
                }
            }
            Ok(Value::Object(out))
        }
        plain => Ok(plain),
    }
}

fn normal_text(text: String) -> Result<String, StrictError> {
    if text.chars().any(is_refused) {
        return Err(StrictError::Control);
    }
    Ok(if is_nfc(&text) {
        text
    } else {
        text.nfc().collect()
    })
}

/// Control characters except those of plain text, and controls of the writing direction.
fn is_refused(c: char) -> bool {
    (c.is_control() && !matches!(c, '\t' | '\n' | '\r'))
        || matches!(c, '\u{061C}' | '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}' | '\u{E0000}'..='\u{E007F}')
}

/// Builds a value and notes which of our rules made it fail; the parser's own error only has words for it.
struct Strict<'p> {
    depth: usize,
    problem: &'p mut Option<StrictError>,
}

impl Strict<'_> {
    fn fail<E: Error>(&mut self, problem: StrictError) -> E {
        *self.problem = Some(problem);
        E::custom(problem)
    }

    fn inner(&mut self) -> Strict<'_> {
        Strict {
            depth: self.depth + 1,
            problem: self.problem,
        }
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<Value, A::Error> {
        if self.depth == MAX_DEPTH {
            return Err(self.fail(StrictError::TooDeep));
        }
        let mut out = Vec::new();
        while let Some(item) = items.next_element_seed(self.inner())? {
            out.push(item);
        }
        Ok(Value::Array(out))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut members: A) -> Result<Value, A::Error> {
        if self.depth == MAX_DEPTH {
            return Err(self.fail(StrictError::TooDeep));
        }
        let mut out = Map::new();
        while let Some(key) = members.next_key::<String>()? {
            if out.contains_key(&key) {
                return Err(self.fail(StrictError::DuplicateKey));
            }
            let value = members.next_value_seed(self.inner())?;
            out.insert(key, value);
        }
        Ok(Value::Object(out))
    }
}

#[cfg(test)]
mod f1_strict {
    use serde_json::json;

    use super::*;

    #[test]
    fn json_comes_back_as_every_parser_reads_it() {
        let text = r#"{"a":[1,-2,2.5,true,null,"x\n"],"b":{"c":{}},"big":18446744073709551615}"#;
        assert_eq!(
            parse(text).unwrap(),
            serde_json::from_str::<Value>(text).unwrap()
        );
    }

    #[test]
    fn what_parsers_disagree_on_is_refused() {
        let deep = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        for (text, problem) in [
            (
                r#"{"to":"a","to":"b"}"#.to_owned(),
                StrictError::DuplicateKey,
            ),
            (
                r#"{"x":{"a":1,"\u0061":2}}"#.to_owned(),
                StrictError::DuplicateKey,
            ),
            (
                "{\"e\u{301}\":1,\"\u{e9}\":2}".to_owned(),
                StrictError::DuplicateKey,
            ),
            (deep(33), StrictError::TooDeep),
            (deep(5_000), StrictError::TooDeep),
            (
                format!("\"{}\"", "a".repeat(MAX_BYTES)),
                StrictError::TooLong,
            ),
            (
                "123456789012345678901234567890".to_owned(),
                StrictError::Number,
            ),
            ("-9007199254740993000000".to_owned(), StrictError::Number),
            ("1e300".to_owned(), StrictError::Number),
            (r#""a\u0000b""#.to_owned(), StrictError::Control),
            (r#""a\u001bb""#.to_owned(), StrictError::Control),
            (r#""a\u0085b""#.to_owned(), StrictError::Control),
            (r#""a\u202eb""#.to_owned(), StrictError::Control),
            (r#"{"a\u2066":1}"#.to_owned(), StrictError::Control),
            ("{} {}".to_owned(), StrictError::Syntax),
            ("{\"a\":NaN}".to_owned(), StrictError::Syntax),
            ("[1,]".to_owned(), StrictError::Syntax),
            (String::new(), StrictError::Syntax),
        ] {
            assert_eq!(
                parse(&text).err(),
                Some(problem),
                "{}",
                &text[..text.len().min(40)]
            );
        }
        assert!(parse(&deep(32)).is_ok());
    }

    #[test]
    fn texts_come_out_in_one_normal_form() {
        assert_eq!(parse("\"e\u{301}\"").unwrap(), json!("\u{e9}"));
    }

    proptest::proptest! {
        #[test]
        fn never_panics_and_agrees_with_the_lenient_parser(text in r#"[\[\]{}",:a\\u0-9.e\- ]{0,60}"#) {
            if let Ok(value) = parse(&text) {
                proptest::prop_assert_eq!(value, serde_json::from_str::<Value>(&text).unwrap());
            }
        }
    }
}
