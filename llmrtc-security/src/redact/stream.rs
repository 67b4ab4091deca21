//! Text that arrives in pieces leaves redacted, soon, and exactly as if it had come whole.
//!
//! # Rule
//!
//! Detectors decide about a character with at most [`HORIZON`] characters to its right (see [`detector`](super::detector)). So the stream
//! judges all it has, releases what has a whole horizon behind it, and holds the rest: never more than 64 characters. What is
//! released is final, hence no released character is one that the whole text would redact, and in the end both outputs are the same.
//!
//! * A tag is written when its span's beginning is released; the rest of the span is swallowed. Modes that need the whole value
//!   (masks, pseudonyms, tokens) write when its end is known, so a span under way is held longer, and only that.
//! * After [`MAX_HOLD`], [`tick`](RedactStream::tick) releases text early where no continuation out of a list of hostile ones
//!   (digits, number words in five languages, "@…", "dot com") would change what the detectors say about it, and only up to the first word with a
//!   digit, a sign or a capital, and never into the last five words. Text that may still turn out to be part of something stays for its horizon: silence must not reveal half a card number.
//! * When a recogniser takes back what it had said, the stream says how much of its output still stands. What has been redacted
//!   once stays so until the hypothesis is final, even if later digits no longer make a card.

use std::{
    collections::VecDeque,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    detector::{Context, HORIZON, Lang, Span},
    dialogue::DialogueState,
    mode::{Mode, SinkPolicy},
    redactor::{Frame, Redactor, clip, write},
    tokens::SessionTokens,
    written::people,
};

/// Longest that harmless text waits for more, when ticked. A second and a half is the pause after which a caller has finished.
pub const MAX_HOLD: Duration = Duration::from_millis(1500);

/// What stays constant over a stream.
#[derive(Clone, Debug)]
pub struct StreamOptions {
    /// What the sink may see.
    pub policy: Arc<SinkPolicy>,
    /// Names of the session, for modes that need them.
    pub session: Option<Arc<SessionTokens>>,
    /// The utterance before this one.
    pub previous: Option<String>,
    /// Language of the text.
    pub lang: Option<Lang>,
    /// What the conversation is about to collect.
    pub dialogue: Option<DialogueState>,
}

impl StreamOptions {
    /// Plain tags, nothing known beside the text.
    pub fn tags() -> Self {
        Self {
            policy: Arc::new(SinkPolicy::default()),
            session: None,
            previous: None,
            lang: None,
            dialogue: None,
        }
    }
}

/// A changed transcript: `keep` bytes of all output so far stand, then comes `text`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Revision {
    /// Bytes of earlier output that stand.
    pub keep: usize,
    /// What comes behind them.
    pub text: String,
}

/// Redacts one text that arrives in pieces. No I/O, no clock: time comes in.
pub struct RedactStream {
    redactor: Arc<Redactor>,
    options: StreamOptions,
    /// The text, without frames that are done.
    text: String,
    /// Where the current frame starts in `text`.
    frame: usize,
    /// Up to where `text` has been released.
    released: usize,
    /// Whether `released` is inside a span whose tag is written.
    inside: bool,
    /// Ends of the pieces that arrived, while something of them is held, and when. No more than there are held characters.
    arrivals: VecDeque<(usize, Instant)>,
    /// Of revised hypotheses: the text shown last, and what of it was redacted.
    shown: Shown,
}

#[derive(Default)]
struct Shown {
    hypothesis: String,
    redacted: Vec<Span>,
    output: String,
}

impl RedactStream {
    /// An empty stream.
    pub fn new(redactor: Arc<Redactor>, options: StreamOptions) -> Self {
        Self {
            redactor,
            options,
            text: String::new(),
            frame: 0,
            released: 0,
            inside: false,
            arrivals: VecDeque::new(),
            shown: Shown::default(),
        }
    }

    /// Takes the next piece; returns what may be shown now.
    pub fn push(&mut self, delta: &str, now: Instant) -> String {
        self.text.push_str(delta);
        if !delta.is_empty() {
            self.arrivals.push_back((self.text.len(), now));
        }
        let mut out = String::new();
        let limit = back(&self.text, self.text.len(), HORIZON);
        self.release(limit, &mut out);
        out
    }

    /// Releases what has waited long enough and is harmless whatever follows.
    pub fn tick(&mut self, now: Instant) -> String {
        let mut out = String::new();
        let Some(expired) = self
            .arrivals
            .iter()
            .take_while(|(_, at)| now.duration_since(*at) >= MAX_HOLD)
            .last()
            .map(|(end, _)| *end)
        else {
            return out;
        };
        let limit = self.harmless_until(expired);
        if limit > self.released {
            self.release(limit, &mut out);
        }
        out
    }

    /// The text is complete: returns the rest of it.
    pub fn finish(mut self) -> String {
        let mut out = String::new();
        let end = self.text.len();
        self.release_all(end, true, &mut out);
        out
    }

    /// Replaces the whole text by a new hypothesis of a speech recogniser. Not to be mixed with [`push`](Self::push).
    ///
    /// The output covers all but the last horizon of the hypothesis, which may still change its meaning.
    pub fn revise(&mut self, hypothesis: &str) -> Revision {
        let limit = back(hypothesis, hypothesis.len(), HORIZON);
        self.show(hypothesis, limit)
    }

    /// The hypothesis is final: the output is what the whole text gives.
    pub fn settle(mut self, text: &str) -> Revision {
        self.shown.redacted.clear();
        self.show(text, text.len())
    }

    fn show(&mut self, text: &str, limit: usize) -> Revision {
        let common = text
            .char_indices()
            .zip(self.shown.hypothesis.chars())
            .find(|((_, new), old)| new != old)
            .map_or(
                text.len().min(self.shown.hypothesis.len()),
                |((at, _), _)| at,
            );
        let mut spans =
            self.redactor
                .spans_for(text, &context(&self.options), &self.options.policy);
        // What was hidden before and still stands in the same place stays hidden.
        spans.extend(
            self.shown
                .redacted
                .iter()
                .filter(|span| span.end <= common)
                .cloned(),
        );
        super::resolve::resolve(text, &mut spans);
        let mut output = String::new();
        let mut at = 0;
        for span in spans.iter().filter(|span| span.start < limit) {
            output.push_str(&text[at..span.start]);
            write(
                &span.kind,
                &text[span.start..span.end],
                &self.options.policy,
                self.options.session.as_deref(),
                &mut output,
            );
            at = span.end;
        }
        if at < limit {
            output.push_str(&text[at..limit]);
        }
        let mut keep = output
            .bytes()
            .zip(self.shown.output.bytes())
            .take_while(|(new, old)| new == old)
            .count();
        while !output.is_char_boundary(keep) {
            keep -= 1;
        }
        let revision = Revision {
            keep,
            text: output[keep..].to_owned(),
        };
        self.shown = Shown {
            hypothesis: text.to_owned(),
            redacted: spans,
            output,
        };
        revision
    }

    fn release(&mut self, limit: usize, out: &mut String) {
        self.release_all(limit, false, out);
        let released = self.released;
        while self
            .arrivals
            .front()
            .is_some_and(|(end, _)| *end <= released)
        {
            self.arrivals.pop_front();
        }
    }

    /// Writes `released..limit`, redacted, frame by frame. `last`: nothing follows, so every span is whole.
    fn release_all(&mut self, limit: usize, last: bool, out: &mut String) {
        let mut limit = limit;
        while self.released < limit || last {
            let frame = Frame::at(&self.text, self.frame);
            let upto = limit.min(frame.end);
            let mut spans = self.redactor.window_for(
                &self.text[frame.seen.clone()],
                &context(&self.options),
                &self.options.policy,
            );
            clip(&mut spans, frame.seen.start, frame.start, frame.end);
            self.write(&spans, upto, last || frame.end <= limit, out);
            // A frame is done only when more than a horizon is behind it: shorter, and it may yet grow.
            if frame.end - frame.start < super::redactor::FRAME
                || frame.end > limit
                || self.released < frame.end
            {
                return;
            }
            self.frame = frame.end;
            let done = self
                .text
                .floor_char_boundary(self.frame.saturating_sub(super::redactor::LOOKBACK));
            self.text.drain(..done);
            self.frame -= done;
            self.released -= done;
            limit -= done;
            self.arrivals
                .iter_mut()
                .for_each(|(end, _)| *end = end.saturating_sub(done));
            self.inside = false;
            if last && self.released >= self.text.len() {
                return;
            }
        }
    }

    /// Writes `released..upto`. `closed`: spans that reach `upto` end there.
    fn write(&mut self, spans: &[Span], upto: usize, closed: bool, out: &mut String) {
        for span in spans {
            if span.end <= self.released {
                continue;
            }
            if span.start >= upto {
                break;
            }
            if self.inside && span.start < self.released {
                self.released = span.end.min(upto);
                self.inside = span.end >= upto && !closed;
                continue;
            }
            self.inside = false;
            if self.released < span.start {
                out.push_str(&self.text[self.released..span.start]);
                self.released = span.start;
            }
            let whole = span.end < upto || closed;
            let tag = self.options.policy.mode_for(&span.kind) == Mode::Tag;
            if !whole && !tag {
                return;
            }
            write(
                &span.kind,
                &self.text[span.start..span.end],
                &self.options.policy,
                self.options.session.as_deref(),
                out,
            );
            self.released = span.end.min(upto);
            self.inside = !whole;
        }
        if self.released < upto {
            self.inside = false;
            out.push_str(&self.text[self.released..upto]);
            self.released = upto;
        }
    }

    /// Up to where, at most `upto`, no hostile continuation changes what is said about the held text.
    fn harmless_until(&self, upto: usize) -> usize {
        const HOSTILE: &[&str] = &[
            "1",
            "1111 1111 1111",
            " 1 1 1 1 1 1 1",
            "@example.com",
            "example.com",
            " example dot com",
            " gmail",
            ".com",
            " at gmail dot com",
            " dot smith at gmail dot com",
            "-1111",
            " Smith",
            " is my name",
            " is my pin",
            " is my username",
            " one one one one one one one",
            " uno uno uno uno uno uno uno",
            " un un un un un un un",
            " eins eins eins eins eins eins eins",
            " um um um um um um um",
            " street",
            " (415) 555-2671",
            " @ 1 a",
            " 12",
            " 5 ",
            " 12 34 56 C",
            " Main Street",
            "PRIVATE KEY-----",
            " arroba gmail punto com",
        ];
        let mut harmless = before_last_words(&self.text).min(upto);
        harmless = self.text[..harmless]
            .rfind(char::is_whitespace)
            .unwrap_or(0);
        if harmless <= self.released {
            return self.released;
        }
        if let Some(telling) = first_telling_word(&self.text[self.released..harmless]) {
            harmless = harmless.min(self.released + telling);
        }
        if harmless <= self.released {
            return self.released;
        }
        let from = self
            .text
            .floor_char_boundary(self.frame.saturating_sub(super::redactor::LOOKBACK));
        let text = &self.text[from..];
        let judge = |text: &str| {
            self.redactor
                .window_for(text, &context(&self.options), &self.options.policy)
        };
        let now = judge(text);
        let mut longer = String::with_capacity(text.len() + 64);
        for continuation in HOSTILE {
            longer.clear();
            longer.push_str(text);
            longer.push_str(continuation);
            let then = judge(&longer);
            harmless = harmless.min(from + first_difference(&now, &then, text.len()));
        }
        if let Some(open) = now.iter().find(|span| from + span.end >= harmless) {
            harmless = harmless.min(from + open.start);
        }
        harmless
    }
}

impl fmt::Debug for RedactStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedactStream")
            .field("held_bytes", &(self.text.len() - self.released))
            .finish_non_exhaustive()
    }
}

fn context(options: &StreamOptions) -> Context<'_> {
    Context {
        previous: options.previous.as_deref(),
        lang: options.lang,
        dialogue: options.dialogue.as_ref(),
    }
}

/// Words at the end that are not released early: what a name, a mailbox or a street needs to be told from what follows.
const LAST_WORDS: usize = 5;

/// The first word that may be the beginning of too many things to list: with a digit, a sign, or a capital that no sentence explains.
fn first_telling_word(text: &str) -> Option<usize> {
    let plain = |word: &str| {
        let word = word.trim_end_matches(['.', ',', '!', '?', ';']);
        let letters = word
            .chars()
            .all(|character| character.is_alphabetic() || matches!(character, '\'' | '’'));
        let lower =
            !word.starts_with(char::is_uppercase) || word == "I" || people::starts_sentences(word);
        letters && lower && (word.chars().count() > 1 || matches!(word, "I" | "a" | ""))
    };
    let mut at = 0;
    text.split_inclusive(char::is_whitespace).find_map(|piece| {
        let start = at;
        at += piece.len();
        (!plain(piece.trim())).then_some(start)
    })
}

/// Where the last words start.
fn before_last_words(text: &str) -> usize {
    let mut end = text.len();
    for _ in 0..LAST_WORDS {
        end = text[..end]
            .trim_end()
            .rfind(char::is_whitespace)
            .unwrap_or(0);
    }
    end
}

/// `count` characters before `end`.
fn back(text: &str, end: usize, count: usize) -> usize {
    text[..end]
        .char_indices()
        .rev()
        .nth(count)
        .map_or(0, |(at, character)| at + character.len_utf8())
}

/// The first byte below `length` about which two lists of resolved spans differ.
fn first_difference(one: &[Span], other: &[Span], length: usize) -> usize {
    let mut pairs = one.iter().zip(other);
    for (a, b) in &mut pairs {
        if (a.start, &a.kind) != (b.start, &b.kind) {
            return a.start.min(b.start).min(length);
        }
        if a.end != b.end {
            return a.start.min(length);
        }
    }
    let longer = if one.len() > other.len() {
        one.get(other.len())
    } else {
        other.get(one.len())
    };
    longer.map_or(length, |span| span.start.min(length))
}
