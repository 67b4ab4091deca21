//! Takes personal data and credentials out of text, whole or as it streams (E1, E2).
//!
//! [`Redactor`] finds spans with its [`Detector`]s and writes something else in their place, as a sink's [`SinkPolicy`] says.
//! [`RedactStream`] does the same to text that arrives in pieces. Every detector is a hand-written scanner or a linear automaton:
//! time is proportional to the text, whatever the text (T25).

pub mod config;
pub mod context;
mod custom;
pub mod detector;
pub mod dialogue;
pub mod kind;
pub mod mode;
mod redactor;
mod resolve;
pub mod secrets;
pub mod spoken;
pub mod stream;
pub mod tokens;
pub mod written;

#[cfg(test)]
mod tests;

pub use config::RedactConfig;
pub use custom::Check;
pub use detector::{Context, Detector, Lang, Span};
pub use kind::Kind;
pub use mode::{Mode, SinkPolicy};
pub use redactor::{RedactConfigError, Redactor};
pub use stream::{RedactStream, StreamOptions};
pub use tokens::SessionTokens;
