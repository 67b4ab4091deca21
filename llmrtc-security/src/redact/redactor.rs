//! The redactor: detectors, resolution, and what takes a span's place.

use std::{borrow::Cow, collections::HashSet, fmt};

use super::{
    config::RedactConfig,
    custom::{DenyList, Recogniser},
    detector::{Context, Detector, HORIZON, Span},
    kind::Kind,
    mode::{self, Mode, SinkPolicy},
    resolve::resolve,
    secrets::SecretDetector,
    spoken::SpokenDetector,
    tokens::SessionTokens,
    written::WrittenDetector,
};

/// Text longer than this is judged in frames of this many bytes. No utterance is; documents and logs are.
pub(super) const FRAME: usize = 16384;
/// Bytes before a frame that its detectors see. A 4096-bit private key in PEM fits.
pub(super) const LOOKBACK: usize = 4096;

/// A redaction configuration that cannot work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RedactConfigError {
    /// The pattern of an own recogniser is no regular expression, or too large a one.
    #[error("the pattern of recogniser {name:?} does not compile")]
    Pattern {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: regex::Error,
    },
    /// The deny list is too large.
    #[error("the deny list does not compile")]
    DenyList(#[source] aho_corasick::BuildError),
}

/// Finds and replaces personal data and credentials. Immutable: share it in an `Arc`.
pub struct Redactor {
    spoken: Option<SpokenDetector>,
    /// The operator's recognisers and deny list.
    own: Vec<Box<dyn Detector>>,
    off: HashSet<Kind>,
    allow: HashSet<String>,
    /// Whether the question before and the dialogue count.
    context: bool,
}

impl Redactor {
    /// Builds the detectors that `config` asks for.
    ///
    /// # Errors
    /// [`RedactConfigError`] for a pattern or list that does not compile.
    pub fn new(config: &RedactConfig) -> Result<Self, RedactConfigError> {
        let mut own: Vec<Box<dyn Detector>> = Vec::new();
        for recogniser in &config.recognisers {
            let built =
                Recogniser::new(recogniser).map_err(|source| RedactConfigError::Pattern {
                    name: recogniser.name.clone(),
                    source,
                })?;
            own.push(Box::new(built));
        }
        if let Some(list) = DenyList::new(config).map_err(RedactConfigError::DenyList)? {
            own.push(Box::new(list));
        }
        Ok(Self {
            spoken: config.spoken.then(SpokenDetector::default),
            own,
            off: config
                .off
                .iter()
                .filter_map(|name| Kind::named(name))
                .collect(),
            context: config.context,
            allow: config
                .allow
                .iter()
                .map(|value| value.trim().to_lowercase())
                .collect(),
        })
    }

    /// What `text` gives away: sorted, without overlaps. Allocates only if there is something.
    pub fn spans(&self, text: &str, context: &Context<'_>) -> Vec<Span> {
        self.spans_of(text, context, &|_| true)
    }

    /// `text` as a sink may see it. Borrowed if nothing changes.
    ///
    /// `session` gives pseudonyms and tokens; without one those modes write plain tags.
    pub fn redact<'t>(
        &self,
        text: &'t str,
        context: &Context<'_>,
        policy: &SinkPolicy,
        session: Option<&SessionTokens>,
    ) -> Cow<'t, str> {
        let spans = self.spans_for(text, context, policy);
        if spans.is_empty() {
            return Cow::Borrowed(text);
        }
        let mut out = String::with_capacity(text.len());
        let mut copied = 0;
        for span in &spans {
            out.push_str(&text[copied..span.start]);
            write(
                &span.kind,
                &text[span.start..span.end],
                policy,
                session,
                &mut out,
            );
            copied = span.end;
        }
        out.push_str(&text[copied..]);
        Cow::Owned(out)
    }

    /// Spans that a sink may not see.
    pub(super) fn spans_for(
        &self,
        text: &str,
        context: &Context<'_>,
        policy: &SinkPolicy,
    ) -> Vec<Span> {
        self.spans_of(text, context, &|kind| policy.mode_for(kind) != Mode::Pass)
    }

    /// Spans of one window that a sink may not see.
    pub(super) fn window_for(
        &self,
        text: &str,
        context: &Context<'_>,
        policy: &SinkPolicy,
    ) -> Vec<Span> {
        self.window(text, context, &|kind| policy.mode_for(kind) != Mode::Pass)
    }

    fn spans_of(
        &self,
        text: &str,
        context: &Context<'_>,
        wanted: &dyn Fn(&Kind) -> bool,
    ) -> Vec<Span> {
        if text.len() <= FRAME {
            return self.window(text, context, wanted);
        }
        let mut all = Vec::new();
        let mut frame = Frame::first(text);
        loop {
            let mut spans = self.window(&text[frame.seen.clone()], context, wanted);
            clip(&mut spans, frame.seen.start, frame.start, frame.end);
            all.append(&mut spans);
            match frame.next(text) {
                Some(next) => frame = next,
                None => return all,
            }
        }
    }

    /// Resolved spans of one window.
    fn window(
        &self,
        text: &str,
        context: &Context<'_>,
        wanted: &dyn Fn(&Kind) -> bool,
    ) -> Vec<Span> {
        let context = if self.context {
            *context
        } else {
            Context {
                lang: context.lang,
                ..Context::default()
            }
        };
        let mut spans = Vec::new();
        WrittenDetector.detect(text, &context, &mut spans);
        SecretDetector.detect(text, &context, &mut spans);
        if let Some(spoken) = &self.spoken {
            let written = spans.len();
            spoken.detect(text, &context, &mut spans);
            yield_to_written(text, &context, &mut spans, written);
        }
        for detector in &self.own {
            detector.detect(text, &context, &mut spans);
        }
        if spans.is_empty() {
            return spans;
        }
        spans.retain(|span| {
            wanted(&span.kind)
                && !self.off.contains(&span.kind)
                && !self.allowed(&text[span.start..span.end])
        });
        resolve(text, &mut spans);
        spans
    }

    fn allowed(&self, value: &str) -> bool {
        !self.allow.is_empty()
            && value.len() < 4 * HORIZON
            && self.allow.contains(&value.trim().to_lowercase())
    }
}

/// Characters from the start of a spoken span by which it is told from writing. Where it ends may not be settled yet.
const TELLING: usize = 24;

/// Puts the grammar of speech behind that of writing, from `written` on: a number in the grouping of a printed page (a date, a version, a
/// hash) is the written detector's to judge, and where a written identifier has begun, speech has no say about its characters. Speech
/// has words or loose digits, or answers a question.
fn yield_to_written(text: &str, context: &Context<'_>, spans: &mut Vec<Span>, written: usize) {
    if spans.len() == written {
        return;
    }
    let mut heard = spans.split_off(written);
    spans.sort_by_key(|span| span.start);
    let asked = context.previous.is_some() || context.dialogue.is_some();
    heard.retain_mut(|span| {
        let spoken = asked || is_spoken(text, span);
        let upto = spans.partition_point(|written| written.start <= span.start);
        let mut behind = spans[..upto].iter_mut().rev().take(4);
        if let Some(written) = behind.find(|written| span.start < written.end) {
            // "date of birth 12th of march" was written, "91" is what speech adds.
            if spoken && written.kind == span.kind && written.start == span.start {
                written.end = written.end.max(span.end);
                return false;
            }
            span.score = span.score.min(0.1);
        }
        spoken
    });
    spans.append(&mut heard);
}

/// Whether a span starts as speech is written down: with a word of letters, perhaps after a short number, or with loose digits.
fn is_spoken(text: &str, span: &Span) -> bool {
    // "model=nova", "claude-3": programs write like that.
    if text[..span.start].ends_with(['=', '/', '\\', '_', ':', '#', '@', '&', '-', '.']) {
        return false;
    }
    // Whoever found a date of birth had a cue for it, or nothing else to go by.
    if span.kind == Kind::BirthDate {
        return true;
    }
    let text = &text[span.start..];
    let telling = text
        .char_indices()
        .nth(TELLING)
        .map_or(text.len(), |(at, _)| at);
    let digits = |word: &str| word.bytes().all(|byte| byte.is_ascii_digit());
    let mut loose = 0;
    let mut words = text[..telling]
        .split([' ', ','])
        .filter(|word| !word.is_empty())
        .peekable();
    while let Some(word) = words.next() {
        let word = word.trim_matches(|character: char| !character.is_alphanumeric());
        // "asp.net" is written, and somebody else's to judge.
        if matches!(span.kind, Kind::Domain | Kind::Url) && word.contains('.') {
            return false;
        }
        if word.contains(['_', '/', '='])
            || (span.kind == Kind::Name
                && word.contains(|character: char| character.is_ascii_digit()))
        {
            return false;
        }
        if word.chars().all(|character| {
            character.is_alphabetic() || matches!(character, '\'' | '’' | '-' | '.' | '@')
        }) {
            return true;
        }
        if word.split('-').all(|part| part.len() <= 2 && digits(part)) {
            loose += word.split('-').count();
        } else if loose == 0 && word.len() <= 3 && digits(word) {
            loose += 1;
        } else if loose == 0
            && word.len() == 4
            && digits(word)
            && words
                .peek()
                .is_some_and(|next| next.len() > 1 && next.chars().all(char::is_alphabetic))
        {
            // "5500 double oh"
            return true;
        } else {
            // "sw16 4ab", as a caller spells it.
            let halves = words.peek().is_some_and(|next| {
                next.len() == 1 || next.contains(|character: char| character.is_ascii_digit())
            });
            return loose >= 4 || span.kind == Kind::Postcode && (halves || word.len() >= 5);
        }
    }
    loose >= 4
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redactor")
            .field("own", &self.own.len())
            .finish_non_exhaustive()
    }
}

/// A frame of a long text, and what its detectors see: some text before it, and the horizon behind it.
///
/// Frames make the cost and the memory of streams bounded; that whole texts use the same frames makes both agree.
pub(super) struct Frame {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) seen: std::ops::Range<usize>,
}

impl Frame {
    pub(super) fn first(text: &str) -> Self {
        Self::at(text, 0)
    }

    /// The frame that starts at `start` of `text`.
    pub(super) fn at(text: &str, start: usize) -> Self {
        let end = text.ceil_char_boundary((start + FRAME).min(text.len()));
        let from = text.ceil_char_boundary(start.saturating_sub(LOOKBACK));
        let horizon = text[end..]
            .char_indices()
            .nth(HORIZON + 1)
            .map_or(text.len(), |(at, _)| end + at);
        Self {
            start,
            end,
            seen: from..horizon,
        }
    }

    pub(super) fn next(&self, text: &str) -> Option<Self> {
        (self.end < text.len()).then(|| Self::at(text, self.end))
    }
}

/// Moves `spans` of a window that starts at `offset` into the text, and cuts them to the frame.
pub(super) fn clip(spans: &mut Vec<Span>, offset: usize, start: usize, end: usize) {
    for span in &mut *spans {
        span.start = (span.start + offset).max(start);
        span.end = (span.end + offset).min(end);
    }
    spans.retain(|span| span.start < span.end);
}

/// Appends what takes the place of `value`.
pub(super) fn write(
    kind: &Kind,
    value: &str,
    policy: &SinkPolicy,
    session: Option<&SessionTokens>,
    out: &mut String,
) {
    match (policy.mode_for(kind), session) {
        (Mode::Mask, _) => mode::mask(value, 0, 0, out),
        (Mode::KeepFirst6Last4, _) if *kind == Kind::Card && mode::kept_last(value) == 4 => {
            mode::mask(value, 6, 4, out)
        }
        (Mode::KeepLast4 | Mode::KeepFirst6Last4, _) => {
            mode::mask(value, 0, mode::kept_last(value), out)
        }
        (Mode::Pseudonym, Some(session)) => out.push_str(&session.pseudonym(kind, value)),
        (Mode::Token, Some(session)) => out.push_str(&session.token(kind, value)),
        _ => kind.write_tag(out),
    }
}
