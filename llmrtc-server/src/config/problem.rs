//! Everything that is wrong with a configuration, at once.

use std::fmt;

use validator::{ValidationError, ValidationErrors, ValidationErrorsKind};

use super::tree::{Node, Source};

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key, such as `media.vad.threshold` or `ice.servers[0].urls`; empty for a file that cannot be read.
    pub key: String,
    /// Where the value came from.
    pub origin: Source,
    /// What is wrong with it.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)?;
        match &self.origin {
            Source::Default => Ok(()),
            origin => write!(f, " ({origin})"),
        }
    }
}

/// A configuration that the server must not start with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// At least one, sorted by key.
    pub problems: Vec<Problem>,
}

impl ConfigError {
    /// The exit code for it: `EX_USAGE` of `sysexits.h`.
    pub const EXIT_CODE: u8 = 64;
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.problems.len();
        write!(
            f,
            "{count} {} in the configuration",
            if count == 1 { "problem" } else { "problems" }
        )?;
        for problem in &self.problems {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// A path as people write it.
pub(super) fn key(path: &[String]) -> String {
    let mut key = String::new();
    for part in path {
        if part.bytes().all(|byte| byte.is_ascii_digit()) {
            key.extend(["[", part, "]"]);
        } else {
            if !key.is_empty() {
                key.push('.');
            }
            key.push_str(part);
        }
    }
    key
}

/// What the ranges of the sections say, as problems.
pub(super) fn from_validation(errors: &ValidationErrors, tree: &Node) -> Vec<Problem> {
    let mut problems = Vec::new();
    collect(errors, &mut Vec::new(), tree, &mut problems);
    problems
}

fn collect(
    errors: &ValidationErrors,
    path: &mut Vec<String>,
    tree: &Node,
    problems: &mut Vec<Problem>,
) {
    for (field, kind) in errors.errors() {
        // Rules about a section as a whole carry this name.
        let whole = field == "__all__";
        if !whole {
            path.push(field.to_string());
        }
        match kind {
            ValidationErrorsKind::Struct(nested) => collect(nested, path, tree, problems),
            ValidationErrorsKind::List(items) => {
                for (index, nested) in items {
                    path.push(index.to_string());
                    collect(nested, path, tree, problems);
                    path.pop();
                }
            }
            ValidationErrorsKind::Field(errors) => {
                problems.extend(errors.iter().map(|error| Problem {
                    key: key(path),
                    origin: tree.source(path),
                    message: describe(error),
                }));
            }
        }
        if !whole {
            path.pop();
        }
    }
}

fn describe(error: &ValidationError) -> String {
    if let Some(message) = &error.message {
        return message.to_string();
    }
    let param = |name: &str| error.params.get(name).map(ToString::to_string);
    match (error.code.as_ref(), param("min"), param("max")) {
        ("range", Some(min), Some(max)) => format!("must be from {min} to {max}"),
        ("range", Some(min), None) => format!("must be at least {min}"),
        ("range", None, Some(max)) => format!("must be at most {max}"),
        ("length", Some(min), Some(max)) => format!("must have {min} to {max} items or characters"),
        ("length", Some(min), None) => format!("must have at least {min} items or characters"),
        ("length", None, Some(max)) => format!("must have at most {max} items or characters"),
        (code, _, _) => format!("is not valid ({code})"),
    }
}
