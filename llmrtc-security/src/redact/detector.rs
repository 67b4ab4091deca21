//! The contract between the redactor and whatever finds things in text.
//!
//! # Locality
//!
//! Text arrives in pieces and has to leave again within [`HORIZON`] characters, so a detector may not decide about a character
//! with the help of text further right than that. Stated so that it can be tested ([`locality_violation`]): for every text
//! `t`, every prefix `p` of it and every character `j` with at least [`HORIZON`] characters of `p` after it, `p` and `t` give `j` the
//! same label, where a label is "nothing" or (start of the span, kind).
//!
//! The way to get there by construction: find a candidate's start, look at [`horizon`]`(text, start)` and nothing else while
//! deciding whether it is one and of which kind, and then let the span run on as far as its own grammar goes, each
//! step again seeing only what its own horizon shows. Grammar decides about *runs* ("eleven digits or more are a
//! card, even though I have not seen the end"), never about the end of an unbounded one.
//!
//! Context to the left is free within the window (some thousand characters).

use super::{dialogue::DialogueState, kind::Kind};

/// Characters to the right that a decision about a character may depend on; hence also the most that a stream holds back.
pub const HORIZON: usize = 64;

/// A stretch of text that gives something away.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// Byte after the last.
    pub end: usize,
    /// What it is.
    pub kind: Kind,
    /// How sure the detector is, 0–1. Overlaps go to the higher score.
    pub score: f32,
}

/// The language of an utterance, as far as grammars differ by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Lang {
    /// English.
    En,
    /// Spanish.
    Es,
    /// French.
    Fr,
    /// German.
    De,
    /// Portuguese.
    Pt,
    /// Italian.
    It,
    /// Dutch.
    Nl,
}

impl Lang {
    /// The language of a BCP 47 tag (`en`, `pt-BR`) or an English name; `None` for one without grammars of its own.
    pub fn from_tag(tag: &str) -> Option<Self> {
        let primary = tag.split(['-', '_']).next()?;
        const NAMES: [(Lang, [&str; 3]); 7] = [
            (Lang::En, ["en", "eng", "english"]),
            (Lang::Es, ["es", "spa", "spanish"]),
            (Lang::Fr, ["fr", "fra", "french"]),
            (Lang::De, ["de", "deu", "german"]),
            (Lang::Pt, ["pt", "por", "portuguese"]),
            (Lang::It, ["it", "ita", "italian"]),
            (Lang::Nl, ["nl", "nld", "dutch"]),
        ];
        NAMES
            .iter()
            .find(|(_, names)| names.iter().any(|name| name.eq_ignore_ascii_case(primary)))
            .map(|(lang, _)| *lang)
    }
}

/// What is known beside the text.
#[derive(Clone, Copy, Debug, Default)]
pub struct Context<'a> {
    /// The utterance before this one, usually the agent's question.
    pub previous: Option<&'a str>,
    /// The language of the text; `None`: try all.
    pub lang: Option<Lang>,
    /// What the conversation is about to collect.
    pub dialogue: Option<&'a DialogueState>,
}

/// Finds spans in text.
///
/// Implementations take time linear in the text, allocate nothing where they find nothing, and keep the module's rule of locality.
pub trait Detector: Send + Sync {
    /// Appends what is found in `text`, in any order, overlaps allowed. Offsets are bytes on character boundaries.
    fn detect(&self, text: &str, context: &Context<'_>, out: &mut Vec<Span>);
}

/// What a decision about a candidate that starts at byte `start` may see: from there, at most [`HORIZON`] characters.
///
/// A word that the horizon cuts in two is left out, so that nobody decides on half of it, unless it is the only one.
pub fn horizon(text: &str, start: usize) -> &str {
    let rest = &text[start..];
    if rest.len() < HORIZON {
        return rest;
    }
    let cut = if rest.as_bytes()[..HORIZON].is_ascii() {
        HORIZON
    } else {
        match rest.char_indices().nth(HORIZON) {
            None => return rest,
            Some((cut, _)) => cut,
        }
    };
    let seen = &rest[..cut];
    match seen.rfind(char::is_whitespace) {
        Some(gap) if gap > 0 => &seen[..gap],
        _ => seen,
    }
}

/// The first character (counted in `text`) about which `detector` changes its mind as text grows past its horizon.
///
/// For tests of a detector. Quadratic in the text.
pub fn locality_violation(
    detector: &dyn Detector,
    text: &str,
    context: &Context<'_>,
) -> Option<usize> {
    let whole = labels(detector, text, context);
    let mut ends: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
    ends.push(text.len());
    for (shown, &end) in ends.iter().enumerate().skip(HORIZON) {
        let part = labels(detector, &text[..end], context);
        let settled = shown - HORIZON;
        if let Some(at) = (0..settled).find(|&at| part[at] != whole[at]) {
            return Some(at);
        }
    }
    None
}

/// For each character the span that covers it: where it starts, and its kind. Higher scores win, then earlier starts.
fn labels(
    detector: &dyn Detector,
    text: &str,
    context: &Context<'_>,
) -> Vec<Option<(usize, Kind)>> {
    let mut spans = Vec::new();
    detector.detect(text, context, &mut spans);
    spans.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.start.cmp(&b.start)));
    text.char_indices()
        .map(|(at, _)| {
            spans
                .iter()
                .find(|span| span.start <= at && at < span.end)
                .map(|span| (span.start, span.kind.clone()))
        })
        .collect()
}
