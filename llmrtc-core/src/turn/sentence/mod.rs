//! Cuts an answer into segments that are synthesised one by one while the model is still writing.
//!
//! Everything here is pure: text and `now` go in, [`Segment`]s come out. [`Chunker`] is the built-in
//! [`SentenceChunker`]; [`SplitterAdapter`] turns a plain closure into one; [`SpeechFilter`] maps written text to
//! spoken text; [`heard_text`] maps the play head back to the words that were heard.

mod chunker;
mod filter;
mod heard;
mod scan;
mod splitter;
mod tables;

#[cfg(test)]
mod tests;

use std::{fmt, ops::Range, time::Instant};

pub use self::{
    chunker::{Chunker, ChunkerConfig, Length},
    filter::SpeechFilter,
    heard::{SpokenSpan, heard_text},
    splitter::SplitterAdapter,
};
use crate::{playout::SegmentIndex, redact::Pii};

/// A piece of the answer that is synthesised in one go.
#[derive(Clone, PartialEq, Eq)]
pub struct Segment {
    /// Its number within the turn, from 0.
    pub index: SegmentIndex,
    /// What is said: filtered, trimmed, with at least one letter or digit.
    pub text: String,
    /// The bytes of the assistant text it stands for. Each span begins where the one before ended.
    pub span: Range<usize>,
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Segment")
            .field("index", &self.index)
            .field("text", &Pii(&self.text))
            .field("span", &self.span)
            .finish()
    }
}

/// Cuts the assistant text of one turn into segments.
///
/// A turn may consist of several responses, with tool calls between them: each ends with [`flush`](Self::flush), and
/// spans and indices go on counting. [`reset`](Self::reset) starts the next turn.
pub trait SentenceChunker: fmt::Debug + Send {
    /// Takes the next piece of text and appends the segments that are certain now.
    fn push(&mut self, delta: &str, now: Instant, out: &mut Vec<Segment>);

    /// Decides what only the passing of time can decide. Call it at [`deadline`](Self::deadline).
    fn tick(&mut self, now: Instant, out: &mut Vec<Segment>);

    /// When [`tick`](Self::tick) has something to do, unless text comes first.
    fn deadline(&self) -> Option<Instant>;

    /// Ends a response: what is pending leaves as the last segment.
    ///
    /// Returns the span of the rest that has nothing to say (white space, a trailing emoji), mostly empty. It counts
    /// as part of the last segment, which has already left; should the turn go on, it leads the next segment instead.
    /// The spans of all segments plus the rest of the last flush are the whole text, byte for byte.
    fn flush(&mut self, out: &mut Vec<Segment>) -> Range<usize>;

    /// Forgets everything, for the next turn.
    fn reset(&mut self);
}
