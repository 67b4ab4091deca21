//! F1: arguments against the tool's JSON Schema, 2020-12 or draft 7.
//!
//! A schema is compiled once, when the tool is registered, and refused if it is bad. It never makes a connection nor
//! opens a file, whatever it refers to and whichever features another crate switches on in ours. Patterns run on an
//! engine that is linear in the text, so lookaround and backreferences are refused. Values are never coerced.

use std::collections::BTreeSet;

use jsonschema::{Draft, PatternOptions, Retrieve, Uri, Validator, error::ValidationErrorKind};
use serde_json::{Map, Value};

use super::{
    guarded::{ArgumentCheck, Violation},
    strict,
};

/// Largest compiled pattern, bytes. Counted repetitions multiply: `(a{1000}){1000}` is a bomb.
const PATTERN_BYTES: usize = 256 * 1024;
/// Most violations that are told. A model repairs one or two at a time.
const MAX_VIOLATIONS: usize = 8;
/// Longest expectation that is told, bytes of JSON. An enumeration of countries is in the definition already.
const MAX_EXPECTED: usize = 200;

/// The compiled schema of a tool's arguments.
pub struct ToolSchema {
    validator: Validator,
    schema: Value,
    /// Names that the schema knows, so that paths tell nothing of what the model made up.
    names: BTreeSet<String>,
}

impl std::fmt::Debug for ToolSchema {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ToolSchema").finish_non_exhaustive()
    }
}

/// Why a schema cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SchemaError {
    /// It names a dialect other than 2020-12 and draft 7.
    #[error("schema dialect is neither 2020-12 nor draft 7")]
    Dialect,
    /// Too long or nested too deeply.
    #[error("schema is too large")]
    TooLarge(#[source] strict::StrictError),
    /// It does not describe an object, and arguments are one.
    #[error("schema of arguments does not describe an object")]
    NotAnObject,
    /// It does not compile: malformed, a pattern outside the linear engine, or a reference to somewhere else.
    #[error("schema does not compile: {0}")]
    Invalid(String),
}

/// Refuses every reference to another document.
struct Nowhere;

impl Retrieve for Nowhere {
    fn retrieve(&self, _: &Uri<String>) -> Result<Value, Box<dyn std::error::Error + Send + Sync>> {
        Err("references to other documents are not followed".into())
    }
}

impl ToolSchema {
    /// Compiles the schema of a tool's arguments.
    ///
    /// # Errors
    /// [`SchemaError`]; the tool must not be offered.
    pub fn compile(schema: &Value) -> Result<Self, SchemaError> {
        let described = schema.get("type");
        if described.is_some_and(|kind| kind != "object") {
            return Err(SchemaError::NotAnObject);
        }
        Self::compile_any(schema, true)
    }

    /// Compiles any schema. Formats can be mere annotations, as the official tests want them.
    fn compile_any(schema: &Value, formats: bool) -> Result<Self, SchemaError> {
        strict::within_bounds(schema).map_err(SchemaError::TooLarge)?;
        let dialect = schema
            .get("$schema")
            .map(|dialect| dialect.as_str().unwrap_or_default().trim_end_matches('#'));
        let draft = match dialect {
            None | Some("https://json-schema.org/draft/2020-12/schema") => Draft::Draft202012,
            Some(
                "http://json-schema.org/draft-07/schema"
                | "https://json-schema.org/draft-07/schema",
            ) => Draft::Draft7,
            Some(_) => return Err(SchemaError::Dialect),
        };
        let patterns = PatternOptions::regex()
            .size_limit(PATTERN_BYTES)
            .dfa_size_limit(PATTERN_BYTES);
        let validator = jsonschema::options()
            .with_draft(draft)
            .with_retriever(Nowhere)
            .with_pattern_options(patterns)
            .should_validate_formats(formats)
            .should_ignore_unknown_formats(true)
            .build(schema)
            .map_err(|error| SchemaError::Invalid(error.to_string()))?;
        let mut names = BTreeSet::new();
        property_names(schema, &mut names);
        Ok(Self {
            validator,
            schema: schema.clone(),
            names,
        })
    }

    /// Whether a value is valid.
    fn accepts(&self, value: &Value) -> bool {
        self.validator.is_valid(value)
    }

    fn violations(&self, value: &Value) -> Vec<Violation> {
        let errors = self.validator.iter_errors(value).take(MAX_VIOLATIONS);
        errors
            .map(|error| {
                let place = error.schema_path().as_str();
                let expected = match error.kind() {
                    ValidationErrorKind::Required { property } => Some(property.clone()),
                    _ => self.schema.pointer(place).cloned(),
                };
                Violation {
                    path: self.known_path(error.instance_path().as_str()),
                    rule: error.kind().keyword().to_owned(),
                    expected: expected
                        .filter(|expected| expected.to_string().len() <= MAX_EXPECTED),
                }
            })
            .collect()
    }

    /// A path without names that only the arguments contain.
    fn known_path(&self, path: &str) -> String {
        let shown = path.split('/').map(|part| {
            let known = part.is_empty()
                || part.bytes().all(|byte| byte.is_ascii_digit())
                || self.names.contains(part);
            if known { part } else { "*" }
        });
        shown.collect::<Vec<_>>().join("/")
    }
}

impl ArgumentCheck for ToolSchema {
    fn check(&self, arguments: &Map<String, Value>) -> Result<(), Vec<Violation>> {
        let value = Value::Object(arguments.clone());
        if self.accepts(&value) {
            Ok(())
        } else {
            Err(self.violations(&value))
        }
    }
}

fn property_names(schema: &Value, names: &mut BTreeSet<String>) {
    match schema {
        Value::Object(members) => {
            for (key, value) in members {
                if let ("properties", Value::Object(properties)) = (key.as_str(), value) {
                    names.extend(properties.keys().cloned());
                }
                property_names(value, names);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| property_names(item, names)),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
