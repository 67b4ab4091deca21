//! Identifiers as people say them.

use super::detector::{Context, Detector, Span};

/// Finds identifiers as people say them.
#[derive(Debug, Default)]
pub struct SpokenDetector {}

impl Detector for SpokenDetector {
    fn detect(&self, _text: &str, _context: &Context<'_>, _out: &mut Vec<Span>) {}
}
