//! An operator's own recognisers and deny list.

use std::sync::Arc;

use aho_corasick::{AhoCorasick, MatchKind};
use regex::Regex;
use serde::Deserialize;

use super::{
    config::{RecogniserConfig, RedactConfig},
    detector::{Context, Detector, Span, horizon},
    kind::Kind,
    written::checksum,
};

/// Name of the kind of what the deny list names.
pub(super) const DENIED: &str = "denied";

/// Characters before a match within which a context word counts.
const NEAR: usize = 60;

/// Automata of one operator's patterns together; the default of the regex crate for one.
const PATTERN_BYTES: usize = 1 << 20;

/// Check digits that a recogniser may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Check {
    /// Payment cards, IMEI, many customer numbers.
    Luhn,
    /// IBAN.
    Iban,
    /// Remainder 1 by 97, as in ISO 7064.
    Mod97,
    /// Aadhaar.
    Verhoeff,
    /// German tax id, ISO 7064 mod 11,10.
    Mod11_10,
    /// Brazilian taxpayers.
    Cpf,
    /// Brazilian companies.
    Cnpj,
    /// Spanish DNI and NIE.
    Dni,
    /// British NHS.
    Nhs,
}

impl Check {
    fn holds(self, characters: &[u8]) -> bool {
        let digits = !characters.is_empty() && characters.iter().all(u8::is_ascii_digit);
        match self {
            Self::Iban => checksum::iban(characters),
            Self::Mod97 => checksum::mod97(characters.iter().copied()) == 1,
            Self::Dni => checksum::dni(characters),
            Self::Luhn => digits && checksum::luhn(characters),
            Self::Verhoeff => digits && checksum::verhoeff(characters),
            Self::Mod11_10 => digits && checksum::mod11_10(characters),
            Self::Cpf => digits && checksum::cpf(characters),
            Self::Cnpj => digits && checksum::cnpj(characters),
            Self::Nhs => digits && checksum::nhs(characters),
        }
    }
}

/// One recogniser. Local by construction: every match is made within the horizon of its first character.
pub(super) struct Recogniser {
    kind: Kind,
    /// Anywhere in the text: whether there is anything to do.
    anywhere: Regex,
    /// At the start of what it is given.
    here: Regex,
    check: Option<Check>,
    near: Vec<String>,
    score: f32,
}

impl Recogniser {
    pub(super) fn new(config: &RecogniserConfig) -> Result<Self, regex::Error> {
        let compile = |pattern: String| {
            regex::RegexBuilder::new(&pattern)
                .size_limit(PATTERN_BYTES)
                .build()
        };
        Ok(Self {
            kind: Kind::Custom(Arc::from(config.name.as_str())),
            anywhere: compile(config.pattern.clone())?,
            here: compile(format!("^(?:{})", config.pattern))?,
            check: config.check,
            near: config.near.iter().map(|word| word.to_lowercase()).collect(),
            score: config.score,
        })
    }

    fn announced(&self, text: &str, start: usize) -> bool {
        if self.near.is_empty() {
            return true;
        }
        let from = text[..start]
            .char_indices()
            .rev()
            .take(NEAR)
            .last()
            .map_or(start, |(at, _)| at);
        let before = text[from..start].to_lowercase();
        self.near.iter().any(|word| before.contains(word.as_str()))
    }
}

impl Detector for Recogniser {
    fn detect(&self, text: &str, _context: &Context<'_>, out: &mut Vec<Span>) {
        if !self.anywhere.is_match(text) {
            return;
        }
        let (mut behind, mut before) = (0, ' ');
        for (at, character) in text.char_indices() {
            let inside = before.is_alphanumeric() && character.is_alphanumeric();
            let starts = !(inside || character.is_whitespace());
            before = character;
            if at < behind || !starts {
                continue;
            }
            let Some(found) = self
                .here
                .find(horizon(text, at))
                .filter(|found| !found.is_empty())
            else {
                continue;
            };
            let value: Vec<u8> = found
                .as_str()
                .bytes()
                .filter(u8::is_ascii_alphanumeric)
                .map(|byte| byte.to_ascii_uppercase())
                .collect();
            if self.check.is_none_or(|check| check.holds(&value)) && self.announced(text, at) {
                behind = at + found.end();
                out.push(Span {
                    start: at,
                    end: behind,
                    kind: self.kind.clone(),
                    score: self.score,
                });
            }
        }
    }
}

/// The deny list.
pub(super) struct DenyList {
    kind: Kind,
    words: AhoCorasick,
}

impl DenyList {
    pub(super) fn new(config: &RedactConfig) -> Result<Option<Self>, aho_corasick::BuildError> {
        if config.deny.is_empty() {
            return Ok(None);
        }
        let words = AhoCorasick::builder()
            .ascii_case_insensitive(true)
            .match_kind(MatchKind::LeftmostLongest)
            .build(config.deny.iter().map(|word| word.trim()))?;
        Ok(Some(Self {
            kind: Kind::Custom(Arc::from(DENIED)),
            words,
        }))
    }
}

impl Detector for DenyList {
    fn detect(&self, text: &str, _context: &Context<'_>, out: &mut Vec<Span>) {
        for found in self.words.find_iter(text) {
            let letter = |character: char| character.is_alphanumeric();
            let alone = !text[..found.start()].ends_with(letter)
                && !text[found.end()..].starts_with(letter);
            if alone {
                out.push(Span {
                    start: found.start(),
                    end: found.end(),
                    kind: self.kind.clone(),
                    score: 1.0,
                });
            }
        }
    }
}
