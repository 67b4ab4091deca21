//! A language model that answers by rules from a TOML file: the same words every time, for demonstrations, telephone
//! menus and tests of everything around a model.
//!
#![doc = concat!("```toml\n", include_str!("example.toml"), "```")]
//!
//! The first rule that applies to the last thing the person said answers. A pattern is a regular expression, found
//! anywhere in the text, without regard to case. A rule with `tool` applies only while that tool is on offer and may
//! be called. `$1` and `${name}` are what the pattern captured, `$$` is a dollar sign. `{result}` is the tool's
//! result, `{result.a.b}` a part of it if it is JSON. `delay_ms` is how long a rule waits before its first word.

mod llm;
mod rules;
#[cfg(test)]
mod tests;

pub use self::{
    llm::RulesLlm,
    rules::{Problem, RulesError},
};

/// Rules to begin with: those shown in the [module](self).
pub const EXAMPLE: &str = include_str!("example.toml");
