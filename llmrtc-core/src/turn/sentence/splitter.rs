use std::{fmt, ops::Range, time::Instant};

use super::{Segment, SentenceChunker, SpeechFilter, tables::is_speakable};

/// The longest remainder that waits for more text, in bytes. Beyond it every piece leaves as it is: a splitter that
/// never splits is asked about all pending text on each delta, and synthesis has limits too.
const MAX_REMAINDER_BYTES: usize = 4_096;

/// Makes a chunker of a closure that maps text to pieces, as the reference's `sentenceChunker` does.
///
/// The closure sees the pending text on every delta; the last piece it returns is the remainder and stays pending.
/// Pieces should be parts of that text, in order; the gaps between them (white space, separators) lead the next span.
/// A piece that does not occur in the text is said all the same and gets an empty span.
pub struct SplitterAdapter<F> {
    split: F,
    filter: SpeechFilter,
    pending: String,
    /// Offset of `pending` in the assistant text.
    start: usize,
    next_index: u32,
}

impl<F: FnMut(&str) -> Vec<String> + Send> SplitterAdapter<F> {
    /// Wraps `split`; `filter` applies to each piece on its own.
    pub fn new(split: F, filter: SpeechFilter) -> Self {
        Self {
            split,
            filter,
            pending: String::new(),
            start: 0,
            next_index: 0,
        }
    }

    fn split(&mut self, keep: usize, out: &mut Vec<Segment>) {
        let pieces = (self.split)(&self.pending);
        let complete = pieces.len().saturating_sub(keep);
        // Both relative to `pending`: the end of what left, and the end of what was looked at.
        let (mut left, mut seen) = (0, 0);
        for piece in &pieces[..complete] {
            let piece = piece.trim();
            if let Some(at) = self.pending[seen..].find(piece) {
                seen += at + piece.len();
            }
            let text = self.filter.apply(piece).trim().to_owned();
            if text.chars().any(is_speakable) {
                out.push(Segment {
                    index: self.next_index,
                    text,
                    span: self.start + left..self.start + seen,
                });
                self.next_index += 1;
                left = seen;
            }
        }
        self.pending.drain(..left);
        self.start += left;
    }
}

impl<F: FnMut(&str) -> Vec<String> + Send> SentenceChunker for SplitterAdapter<F> {
    fn push(&mut self, delta: &str, _now: Instant, out: &mut Vec<Segment>) {
        if delta.is_empty() {
            return;
        }
        self.pending.push_str(delta);
        let keep = usize::from(self.pending.len() <= MAX_REMAINDER_BYTES);
        self.split(keep, out);
    }

    fn tick(&mut self, _now: Instant, _out: &mut Vec<Segment>) {}

    fn deadline(&self) -> Option<Instant> {
        None
    }

    fn flush(&mut self, out: &mut Vec<Segment>) -> Range<usize> {
        if !self.pending.is_empty() {
            self.split(0, out);
        }
        self.start..self.start + self.pending.len()
    }

    fn reset(&mut self) {
        self.pending.clear();
        self.start = 0;
        self.next_index = 0;
    }
}

impl<F> fmt::Debug for SplitterAdapter<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SplitterAdapter")
            .field("pending_bytes", &self.pending.len())
            .field("next_index", &self.next_index)
            .finish_non_exhaustive()
    }
}
