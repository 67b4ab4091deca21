//! What only the question before gives away.

use super::detector::{Context, Detector, Span};

/// Finds answers to questions for personal data.
#[derive(Debug, Default)]
pub struct ContextDetector {}

impl Detector for ContextDetector {
    fn detect(&self, _text: &str, _context: &Context<'_>, _out: &mut Vec<Span>) {}
}
