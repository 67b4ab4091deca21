//! Takes personal data and credentials out of text, whole or as it streams.

pub mod context;
pub mod detector;
pub mod dialogue;
pub mod kind;
pub mod spoken;

pub use detector::{Context, Detector, Lang, Span};
pub use kind::Kind;
