use std::{
    fmt,
    ops::Range,
    time::{Duration, Instant},
};

use unicode_segmentation::UnicodeSegmentation;

use super::{
    Segment, SentenceChunker, SpeechFilter,
    scan::{Candidate, Fence, Kind, Mark, Scan, State, Tally},
    tables::{
        self, Abbreviation, Language, is_clause_mark, is_closer, is_emoji, is_greek,
        is_inline_mark, is_newline, is_opener, is_spaced_terminator, is_speakable,
        is_unspaced_terminator,
    },
};

/// A number of characters, for text that spells sounds and for text that writes syllables (Chinese, Japanese, Korean).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Length {
    /// Where most letters are of other scripts.
    pub spelled: usize,
    /// Where most letters are Han, kana or Hangul.
    pub dense: usize,
}

/// How the built-in chunker cuts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkerConfig {
    /// Language of the answer (BCP 47), where known. Chooses the abbreviations; without it those of all languages
    /// count.
    pub language: Option<String>,
    /// More abbreviations, with or without their last full stop.
    pub abbreviations: Vec<String>,
    /// Mapping from written to spoken text (C15).
    pub filter: SpeechFilter,
    /// C9: how long a full stop at the end of what has arrived waits for more text.
    pub hold: Duration,
    /// C10: from this length on, the first segment may end with a clause.
    pub first_clause: Length,
    /// C11: shorter segments are merged with the next.
    pub merge_below: Length,
    /// C12: longer segments are split at the last clause mark or white space.
    pub split_above: usize,
    /// C12: the most characters of any segment.
    pub hard_cap: usize,
}

impl Default for ChunkerConfig {
    fn default() -> Self {
        Self {
            language: None,
            abbreviations: Vec::new(),
            filter: SpeechFilter::default(),
            // Some token intervals of a slow model, and less than a listener notices between two sentences.
            hold: Duration::from_millis(150),
            // Some 1.6 s of speech, enough to synthesise the next segment behind.
            first_clause: Length {
                spelled: 24,
                dense: 10,
            },
            // Synthesis of a word or two alone has a wrong melody, and costs a request.
            merge_below: Length {
                spelled: 12,
                dense: 4,
            },
            // Some 15 s of speech: more would be lost by an interruption, and time to first audio grows with it.
            split_above: 220,
            // Vendors' limits begin above this.
            hard_cap: 400,
        }
    }
}

/// The built-in [`SentenceChunker`]: rules C1 to C15 as a machine that reads each character once.
///
/// What would need a look ahead is a state instead, so that segments do not depend on how the text was cut into
/// deltas, unless a hold fires. Boundaries lie before white space: it leads the next span.
///
/// | State | Meaning | Leaves it |
/// | --- | --- | --- |
/// | `Text` | no boundary in sight | a mark, or a line break (which is a boundary) |
/// | `Clause` | a clause mark that may not be one was read | the next character |
/// | `Candidate` | terminators and closers were read | white space and what follows it, the hold, or a veto |
///
/// In a code fence nothing is a boundary and nothing counts, since nothing of it is said.
///
/// A `。` with no bracket or quote open ends its sentence at once, without waiting for closers.
pub struct Chunker {
    config: ChunkerConfig,
    language: Option<Language>,
    /// The text that has not left, from `base` on.
    buffer: String,
    /// Offset of `buffer` in the assistant text. All other offsets count from the start of that text, too.
    base: usize,
    /// The next character to read.
    pos: usize,
    next_index: u32,
    last_push: Option<Instant>,
    scan: Scan,
}

impl Chunker {
    /// A chunker at the start of a turn.
    pub fn new(mut config: ChunkerConfig) -> Self {
        for word in &mut config.abbreviations {
            *word = word.trim().trim_end_matches('.').to_lowercase();
        }
        // A segment needs room for one grapheme, and the soft limit comes first.
        config.hard_cap = config.hard_cap.max(1);
        config.split_above = config.split_above.clamp(1, config.hard_cap);
        let language = config.language.as_deref().and_then(Language::parse);
        Self {
            config,
            language,
            buffer: String::new(),
            base: 0,
            pos: 0,
            next_index: 0,
            last_push: None,
            scan: Scan::new(0, true),
        }
    }

    /// Sets the language, such as the one that transcription found. Holds for the text that has yet to come.
    pub fn set_language(&mut self, tag: Option<&str>) {
        self.config.language = tag.map(str::to_owned);
        self.language = tag.and_then(Language::parse);
    }

    fn slice(&self, range: Range<usize>) -> &str {
        &self.buffer[range.start - self.base..range.end - self.base]
    }

    fn end(&self) -> usize {
        self.base + self.buffer.len()
    }

    fn here(&self) -> Mark {
        Mark {
            end: self.pos,
            tally: self.scan.tally,
        }
    }

    /// Reads what has not been read.
    fn scan(&mut self, out: &mut Vec<Segment>) {
        while let Some(c) = self.buffer[self.pos - self.base..].chars().next() {
            if self.scan.fence != Fence::None {
                self.advance(c);
                continue;
            }
            match self.scan.state {
                State::Text => self.in_text(c, out),
                State::Clause { mark, ascii } => self.after_clause(mark, ascii, c, out),
                State::Candidate(candidate) if candidate.spaced => {
                    self.after_space(candidate, c, out);
                }
                State::Candidate(candidate) => self.after_terminator(candidate, c, out),
            }
            self.split_long(out);
        }
        if self.base < self.scan.start {
            self.buffer.drain(..self.scan.start - self.base);
            self.base = self.scan.start;
        }
    }

    fn advance(&mut self, c: char) {
        let fences = self.config.filter != SpeechFilter::Off;
        let outside = self.scan.fence == Fence::None;
        if fences {
            self.scan.line(c);
        }
        if outside {
            self.scan.count(c, self.pos);
        }
        self.scan.before = Some(c);
        self.pos += c.len_utf8();
    }

    fn in_text(&mut self, c: char, out: &mut Vec<Segment>) {
        if c.is_whitespace() {
            let here = self.here();
            // C4, and C12 where nothing better came before the limit.
            let boundary = is_newline(c) && self.long_enough(here);
            if (boundary || here.tally.chars > self.config.split_above) && self.emit(here.end, out)
            {
                return;
            }
            if !self.scan.before.is_some_and(char::is_whitespace) {
                self.scan.space = Some(here);
            }
            self.advance(c);
            return;
        }
        let (run, before) = (self.pos, self.scan.before);
        let after_digit = before.is_some_and(char::is_numeric);
        self.advance(c);
        let here = self.here();
        let kind = if is_unspaced_terminator(c) {
            Some(Kind::Unspaced)
        } else if matches!(c, '.' | '…') {
            Some(Kind::Soft)
        } else if is_spaced_terminator(c) || (c == ';' && self.is_greek(before)) {
            Some(Kind::Hard)
        } else {
            None
        };
        if let Some(kind) = kind {
            let decimal = c == '．' && after_digit;
            if kind == Kind::Unspaced && !decimal && self.scan.depth == 0 && !self.scan.quoted {
                self.confirm(here, out);
                return;
            }
            self.scan.state = State::Candidate(Candidate {
                mark: here,
                run,
                kind,
                lone_stop: c == '.' || decimal,
                after_digit,
                spaced: false,
                before_number: false,
            });
        } else if is_clause_mark(c) {
            // C5 for clause marks, `10–20` and `１，０００`: only the next character tells.
            if c.is_ascii() || after_digit {
                self.scan.state = State::Clause {
                    mark: here,
                    ascii: c.is_ascii(),
                };
            } else {
                self.clause(here, out);
            }
        }
    }

    fn after_clause(&mut self, mark: Mark, ascii: bool, c: char, out: &mut Vec<Segment>) {
        if self.closes(c) {
            self.advance(c);
            let mark = self.here();
            self.scan.state = State::Clause { mark, ascii };
            return;
        }
        self.scan.state = State::Text;
        if c.is_whitespace() || !(ascii || c.is_numeric()) {
            self.clause(mark, out);
        }
    }

    /// C10 and C12: a clause ends at `mark`.
    fn clause(&mut self, mark: Mark, out: &mut Vec<Segment>) {
        let first = self.next_index == 0 && mark.tally.reaches(self.config.first_clause);
        let wanted = first || mark.tally.chars > self.config.split_above;
        if !(wanted && self.emit(mark.end, out)) {
            self.scan.clause = Some(mark);
        }
    }

    fn after_terminator(&mut self, mut candidate: Candidate, c: char, out: &mut Vec<Segment>) {
        let unspaced = is_unspaced_terminator(c);
        if unspaced || is_spaced_terminator(c) {
            candidate.lone_stop = false;
            if unspaced {
                candidate.kind = Kind::Unspaced;
            } else if !matches!(c, '.' | '…') && candidate.kind == Kind::Soft {
                candidate.kind = Kind::Hard;
            }
        }
        if unspaced || is_spaced_terminator(c) || self.closes(c) {
            self.advance(c);
            candidate.mark = self.here();
            self.scan.state = State::Candidate(candidate);
            return;
        }
        match (candidate.kind, self.veto(&candidate)) {
            // C5 for full-width digits.
            (Kind::Unspaced, _) if candidate.lone_stop && c.is_numeric() => {
                self.scan.state = State::Text;
            }
            (Kind::Unspaced, _) => self.confirm(candidate.mark, out),
            // A line break is a boundary whatever stands before it (C4), and anything but white space is none.
            _ if is_newline(c) || !c.is_whitespace() => self.scan.state = State::Text,
            (_, Some(Abbreviation::Always)) => self.scan.state = State::Text,
            (Kind::Hard, _) => self.confirm(candidate.mark, out),
            (Kind::Soft, veto) => {
                candidate.before_number = veto == Some(Abbreviation::BeforeNumber);
                candidate.spaced = true;
                self.scan.state = State::Candidate(candidate);
                self.advance(c);
            }
        }
    }

    fn after_space(&mut self, candidate: Candidate, c: char, out: &mut Vec<Segment>) {
        if c.is_whitespace() && !is_newline(c) {
            self.advance(c);
        } else if c.is_lowercase() || (candidate.before_number && c.is_numeric()) {
            // C8, C6.
            self.scan.state = State::Text;
        } else {
            self.confirm(candidate.mark, out);
        }
    }

    /// A sentence ends at `mark`: C11 decides whether a segment does.
    fn confirm(&mut self, mark: Mark, out: &mut Vec<Segment>) {
        self.scan.state = State::Text;
        if self.long_enough(mark) {
            self.emit(mark.end, out);
        }
    }

    fn long_enough(&self, mark: Mark) -> bool {
        self.scan.first.is_some()
            && (self.next_index == 0 || mark.tally.reaches(self.config.merge_below))
    }

    /// C12.
    fn split_long(&mut self, out: &mut Vec<Segment>) {
        let chars = self.scan.tally.chars;
        if chars > self.config.split_above && matches!(self.scan.state, State::Text) {
            let good = |mark: &Mark| mark.tally.reaches(self.config.merge_below);
            let best = self
                .scan
                .clause
                .filter(good)
                .or(self.scan.space.filter(good));
            if let Some(mark) = best
                && self.emit(mark.end, out)
            {
                return;
            }
        }
        if chars >= self.config.hard_cap {
            let end = match self.scan.state {
                State::Text => self.last_grapheme(),
                State::Clause { mark, .. } | State::Candidate(Candidate { mark, .. }) => mark.end,
            };
            self.emit(end, out);
        }
    }

    /// Where the last grapheme begins: whether it is complete is not known yet. If there is but one, its end.
    fn last_grapheme(&self) -> usize {
        let first = self.scan.first.unwrap_or(self.scan.start);
        let last = self
            .slice(first..self.pos)
            .grapheme_indices(true)
            .next_back();
        match last {
            Some((at, _)) if at > 0 => first + at,
            _ => self.pos,
        }
    }

    /// Lets `start..end` go and returns to `end`, or finds that there is nothing to say in it.
    fn emit(&mut self, end: usize, out: &mut Vec<Segment>) -> bool {
        let Some(first) = self.scan.first else {
            return false;
        };
        let text = self.config.filter.apply(self.slice(self.lead(first)..end));
        let text = text.trim();
        if !text.chars().any(is_speakable) {
            // The count begins anew, and marks that carry the old one with it.
            self.scan.first = None;
            self.scan.tally = Tally::default();
            (self.scan.clause, self.scan.space) = (None, None);
            return false;
        }
        out.push(Segment {
            index: self.next_index,
            text: text.to_owned(),
            span: self.scan.start..end,
        });
        self.next_index += 1;
        self.pos = end;
        self.scan = Scan::new(end, false);
        true
    }

    /// Where the spoken text begins: the signs right before the first letter belong to it (`¿Qué`, `$5`, `"Well`), the
    /// ends of earlier sentences do not.
    fn lead(&self, first: usize) -> usize {
        // Longer runs of signs are decoration.
        const MOST: usize = 8;
        let signs = self.slice(self.scan.floor..first);
        let mut from = first;
        for (at, c) in signs.char_indices().rev().take(MOST) {
            let fraction = c == '.' && self.slice(first..self.end()).starts_with(char::is_numeric);
            let ended = is_spaced_terminator(c) && !fraction || is_unspaced_terminator(c);
            let closed = is_closer(c) && !c.is_ascii();
            // At the start of a text, three of them would be a fence.
            let tick = matches!(c, '`' | '~');
            if c.is_whitespace() || ended || closed || tick || is_emoji(c) {
                break;
            }
            from = self.scan.floor + at;
        }
        from
    }

    fn closes(&self, c: char) -> bool {
        is_closer(c) || (self.config.filter != SpeechFilter::Off && is_inline_mark(c))
    }

    fn is_greek(&self, before: Option<char>) -> bool {
        self.language == Some(Language::Greek) || before.is_some_and(is_greek)
    }

    /// C5 to C7: whether the word before a full stop keeps it from ending a sentence.
    fn veto(&self, candidate: &Candidate) -> Option<Abbreviation> {
        /// No abbreviation is longer, and no text is searched for one any further.
        const LONGEST: usize = 24;
        if !candidate.lone_stop || candidate.kind != Kind::Soft {
            return None;
        }
        let text = self.slice(self.scan.start..candidate.run);
        let outside = |c: char| c.is_whitespace() || is_opener(c) || c == '"' || self.closes(c);
        let at = text
            .char_indices()
            .rev()
            .take(LONGEST)
            .take_while(|(_, c)| !outside(*c))
            .last()
            .map_or(text.len(), |(at, _)| at);
        let word = &text[at..];
        let always = self.is_list_number(&text[..at], word)
            || self.is_initial(word)
            || (self.language == Some(Language::German) && is_ordinal(word));
        if always {
            return Some(Abbreviation::Always);
        }
        let word = word.to_lowercase();
        if self.config.abbreviations.contains(&word) {
            return Some(Abbreviation::Always);
        }
        tables::abbreviation(self.language, &word)
    }

    fn is_list_number(&self, before: &str, word: &str) -> bool {
        let indent = before.trim_end_matches([' ', '\t']);
        let line_start = if indent.is_empty() {
            self.scan.fresh
        } else {
            indent.ends_with(is_newline)
        };
        line_start && !word.is_empty() && word.chars().all(char::is_numeric)
    }

    fn is_initial(&self, word: &str) -> bool {
        let mut letters = word.rsplit('.').next().unwrap_or(word).chars();
        let single = match (letters.next(), letters.next()) {
            (Some(letter), None) => letter.is_uppercase(),
            _ => false,
        };
        let pronoun = word == "I" && matches!(self.language, None | Some(Language::English));
        single && !pronoun
    }

    /// Whether the hold confirms `candidate` (C9).
    fn can_hold(&self, candidate: &Candidate) -> bool {
        let vetoed = match candidate.kind {
            Kind::Hard => false,
            Kind::Soft if candidate.spaced => candidate.before_number,
            // More digits may be on their way.
            Kind::Soft | Kind::Unspaced => {
                (candidate.lone_stop && candidate.after_digit) || self.veto(candidate).is_some()
            }
        };
        !vetoed && self.long_enough(candidate.mark)
    }
}

/// German writes "am 3. Mai": a full stop after one or two digits is a suffix.
fn is_ordinal(word: &str) -> bool {
    matches!(word.len(), 1 | 2) && word.bytes().all(|digit| digit.is_ascii_digit())
}

impl SentenceChunker for Chunker {
    fn push(&mut self, delta: &str, now: Instant, out: &mut Vec<Segment>) {
        if delta.is_empty() {
            return;
        }
        self.last_push = Some(now);
        self.buffer.push_str(delta);
        self.scan(out);
    }

    fn tick(&mut self, now: Instant, out: &mut Vec<Segment>) {
        if self.deadline().is_some_and(|deadline| now >= deadline)
            && let State::Candidate(candidate) = self.scan.state
        {
            self.confirm(candidate.mark, out);
            self.scan(out);
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let State::Candidate(candidate) = &self.scan.state else {
            return None;
        };
        let last_push = self.last_push.filter(|_| self.can_hold(candidate))?;
        last_push.checked_add(self.config.hold)
    }

    fn flush(&mut self, out: &mut Vec<Segment>) -> Range<usize> {
        let end = self.end();
        // A fence that was never closed ends with its response, and says nothing to the next one.
        let start = if self.emit(end, out) {
            end
        } else {
            self.scan.start
        };
        self.scan = Scan {
            floor: end,
            ..Scan::new(start, true)
        };
        self.buffer.drain(..start - self.base);
        self.base = start;
        start..end
    }

    fn reset(&mut self) {
        self.buffer.clear();
        self.base = 0;
        self.pos = 0;
        self.next_index = 0;
        self.last_push = None;
        self.scan = Scan::new(0, true);
    }
}

impl fmt::Debug for Chunker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chunker")
            .field("config", &self.config)
            .field("pending_bytes", &self.buffer.len())
            .field("next_index", &self.next_index)
            .finish_non_exhaustive()
    }
}
