//! What was asked for: item E1's real callers, whose answers are short and mean nothing without the question.

mod asked;
pub(crate) mod names;

pub use asked::Asked;
