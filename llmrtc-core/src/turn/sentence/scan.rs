//! What the chunker knows about the text that is pending.

use super::{
    chunker::Length,
    tables::{is_closer, is_dense, is_newline, is_opener, is_speakable},
};

/// What is known about the pending text, `start..pos`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scan {
    pub(super) start: usize,
    /// The pending text begins a response, hence a line.
    pub(super) fresh: bool,
    /// Spoken text does not begin before this.
    pub(super) floor: usize,
    /// The first character that can be said. Only from there on characters count.
    pub(super) first: Option<usize>,
    pub(super) tally: Tally,
    /// The last clause mark and the last white space, for C12.
    pub(super) clause: Option<Mark>,
    pub(super) space: Option<Mark>,
    /// Open brackets and quotes.
    pub(super) depth: u32,
    pub(super) quoted: bool,
    pub(super) before: Option<char>,
    pub(super) line: Line,
    pub(super) fence: Fence,
    pub(super) state: State,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) chars: usize,
    pub(super) letters: usize,
    pub(super) dense: usize,
}

/// A place where a segment could end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    pub(super) end: usize,
    pub(super) tally: Tally,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum State {
    Text,
    Clause {
        mark: Mark,
        /// The mark is ASCII, and white space must follow (C10). After the others a digit must not (C5).
        ascii: bool,
    },
    Candidate(Candidate),
}

/// A run of terminators and the closers after it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) mark: Mark,
    /// Where the run begins.
    pub(super) run: usize,
    pub(super) kind: Kind,
    /// The run is a single `.`, the only one that C5 to C7 may veto.
    pub(super) lone_stop: bool,
    /// A digit stands before the run.
    pub(super) after_digit: bool,
    /// White space follows.
    pub(super) spaced: bool,
    /// A number after the white space would veto it.
    pub(super) before_number: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `.` and `…`: a lower-case follow-up shows that the sentence goes on.
    Soft,
    /// `!` and `?`.
    Hard,
    /// Needs no white space.
    Unspaced,
}

/// How far the reader is into a line, to recognise fences.
#[derive(Clone, Copy, Debug)]
pub(super) enum Line {
    Indent,
    Ticks(char, u8),
    Body,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fence {
    None,
    Open(char),
    /// On the line that closes it.
    Closing,
}

impl Scan {
    pub(super) fn new(start: usize, fresh: bool) -> Self {
        Self {
            start,
            fresh,
            floor: start,
            first: None,
            tally: Tally::default(),
            clause: None,
            space: None,
            depth: 0,
            quoted: false,
            before: None,
            line: if fresh { Line::Indent } else { Line::Body },
            fence: Fence::None,
            state: State::Text,
        }
    }

    pub(super) fn line(&mut self, c: char) {
        self.line = match (self.line, c) {
            _ if is_newline(c) => {
                if self.fence == Fence::Closing {
                    self.fence = Fence::None;
                }
                Line::Indent
            }
            (Line::Indent, c) if c.is_whitespace() => Line::Indent,
            (Line::Indent, '`' | '~') => Line::Ticks(c, 1),
            (Line::Ticks(mark, 2), c) if c == mark => {
                self.fence = match self.fence {
                    Fence::None => Fence::Open(mark),
                    Fence::Open(open) if open == mark => Fence::Closing,
                    fence => fence,
                };
                Line::Body
            }
            (Line::Ticks(mark, count), c) if c == mark => Line::Ticks(mark, count + 1),
            _ => Line::Body,
        };
    }

    pub(super) fn count(&mut self, c: char, at: usize) {
        if self.first.is_none() && is_speakable(c) {
            self.first = Some(at);
        }
        if self.first.is_some() {
            self.tally.chars += 1;
            self.tally.letters += usize::from(c.is_alphanumeric());
            self.tally.dense += usize::from(is_dense(c));
        }
        match c {
            '"' => self.quoted = !self.quoted,
            _ if is_opener(c) => self.depth += 1,
            // An apostrophe closes nothing.
            '\'' | '’' => {}
            _ if is_closer(c) => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
    }
}

impl Tally {
    pub(super) fn reaches(self, length: Length) -> bool {
        let dense = self.dense * 2 > self.letters;
        self.chars >= if dense { length.dense } else { length.spelled }
    }
}
