//! Numbers as words: "forty one", "four hundred twelve", "quatre-vingt-dix-sept", "neunzehnhundertachtzig".

use super::{
    Reader,
    lexicon::{NONE, flag},
    token::{Gap, Shape},
};
use crate::redact::detector::Lang;

/// How a number was said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// One digit, as a word.
    Single,
    /// 10–99, as words.
    Pair,
    /// 100 and up, as words.
    Cardinal,
    /// In digits.
    Literal,
}

/// One number as it was said.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Number {
    /// Token after the last.
    pub(crate) next: usize,
    pub(crate) value: u64,
    pub(crate) style: Style,
}

impl Reader<'_> {
    /// The number that begins at token `at` and lies before byte `limit`.
    pub(crate) fn number(&self, at: usize, limit: usize) -> Option<Number> {
        let token = self.seen(at, limit)?;
        if let Shape::Digits(_) = token.shape {
            let value = if token.value == NONE {
                u64::MAX
            } else {
                u64::from(token.value)
            };
            return Some(Number {
                next: at + 1,
                value,
                style: Style::Literal,
            });
        }
        // "mil novecientos" begins with the factor.
        let head = self.scale(at, limit, 1000).map(|_| (1, at));
        let (mut value, mut next) = head.or_else(|| self.below_thousand(at, limit))?;
        let mut scaled = false;
        if let Some(after) = self.scale(next, limit, 1000) {
            scaled = true;
            value *= 1000;
            next = after;
            if let Some((rest, after)) = self.rest(next, limit, 1000) {
                value += rest;
                next = after;
            }
        }
        if let Some(after) = self.scale(next, limit, 1_000_000) {
            scaled = true;
            value *= 1_000_000;
            next = after;
            if let Some(rest) = self.number(next, limit)
                && rest.style != Style::Literal
                && rest.value < 1_000_000
                && self.flows(next, limit)
            {
                value += rest.value;
                next = rest.next;
            }
        }
        let style = match value {
            _ if scaled => Style::Cardinal,
            0..=9 => Style::Single,
            10..=99 => Style::Pair,
            _ => Style::Cardinal,
        };
        Some(Number { next, value, style })
    }

    /// What follows a scale word as part of the same number: less than `factor`, perhaps after "and".
    fn rest(&self, at: usize, limit: usize, factor: u64) -> Option<(u64, usize)> {
        let start = self.after_and(at, limit).unwrap_or(at);
        if !self.flows(start, limit) {
            return None;
        }
        let (value, next) = if factor == 100 {
            self.below_hundred(start, limit)?
        } else {
            self.below_thousand(start, limit)?
        };
        // "eight hundred five five five": digits after a round number are no part of it.
        let digit = value < 10 && start == at;
        let more = self
            .seen(next, limit)
            .is_some_and(|token| token.value != NONE && token.value < 100);
        (value > 0 && value < factor && !(digit && more)).then_some((value, next))
    }

    fn below_thousand(&self, at: usize, limit: usize) -> Option<(u64, usize)> {
        let token = self.seen(at, limit)?;
        if let Some(next) = self.scale(at, limit, 100) {
            return Some(self.plus_rest(100, next, limit));
        }
        let value = self.number_word(at, limit)?;
        if value >= 100 {
            // Spanish and Portuguese have words for the hundreds, German for any number.
            if self.lang == Lang::De || value % 100 != 0 || token.is(flag::SCALE) {
                return Some((value, at + 1));
            }
            return Some(self.plus_rest(value, at + 1, limit));
        }
        let (value, next) = self.below_hundred(at, limit)?;
        match self.scale(next, limit, 100) {
            Some(next) if value > 0 => Some(self.plus_rest(value * 100, next, limit)),
            _ => Some((value, next)),
        }
    }

    fn plus_rest(&self, value: u64, next: usize, limit: usize) -> (u64, usize) {
        match self.rest(next, limit, 100) {
            Some((rest, after)) => (value + rest, after),
            None => (value, next),
        }
    }

    fn below_hundred(&self, at: usize, limit: usize) -> Option<(u64, usize)> {
        let value = self.number_word(at, limit).filter(|&value| value < 100)?;
        let next = at + 1;
        let tens = value >= 20 && value % 10 == 0;
        match self.lang {
            Lang::Fr if value == 4 && self.flows_to(next, limit) == Some(20) => {
                let (more, next) = self.french_teen(next + 1, limit).unwrap_or((0, next + 1));
                Some((80 + more, next))
            }
            Lang::Fr if value == 60 => {
                let (more, next) = self.french_teen(next, limit).unwrap_or((0, next));
                Some((value + more, next))
            }
            Lang::Fr if value == 10 => match self.flows_to(next, limit) {
                Some(unit @ 7..=9) => Some((10 + unit, next + 1)),
                _ => Some((value, next)),
            },
            Lang::De if value < 10 => {
                let ten = self.after_and(next, limit).filter(|&ten| ten == next + 1);
                match ten.and_then(|ten| self.flows_to(ten, limit).map(|value| (value, ten))) {
                    Some((tens, ten))
                        if value > 0 && (20..100).contains(&tens) && tens % 10 == 0 =>
                    {
                        Some((tens + value, ten + 1))
                    }
                    _ => Some((value, next)),
                }
            }
            Lang::Es | Lang::Pt | Lang::Fr if tens => {
                let unit = self.after_and(next, limit);
                let hyphen = self
                    .seen(next, limit)
                    .is_some_and(|token| token.gap == Gap::Sign(b'-'));
                let unit = unit.or((self.lang == Lang::Fr || hyphen).then_some(next));
                match unit.and_then(|unit| self.flows_to(unit, limit).map(|value| (value, unit))) {
                    Some((more @ 1..=9, unit)) => Some((value + more, unit + 1)),
                    _ => Some((value, next)),
                }
            }
            _ if tens && self.lang != Lang::De => match self.flows_to(next, limit) {
                Some(unit @ 1..=9) if !self.is_zero_word(next) => Some((value + unit, next + 1)),
                _ => Some((value, next)),
            },
            _ => Some((value, next)),
        }
    }

    /// 1–19 after "soixante" or "quatre-vingt".
    fn french_teen(&self, at: usize, limit: usize) -> Option<(u64, usize)> {
        let at = self.after_and(at, limit).unwrap_or(at);
        match self.flows_to(at, limit)? {
            10 => match self.flows_to(at + 1, limit) {
                Some(unit @ 7..=9) => Some((10 + unit, at + 2)),
                _ => Some((10, at + 1)),
            },
            value @ 1..=19 => Some((value, at + 1)),
            _ => None,
        }
    }

    /// The value of a number word that is not a factor.
    fn number_word(&self, at: usize, limit: usize) -> Option<u64> {
        let token = self.seen(at, limit)?;
        let word = !matches!(token.shape, Shape::Digits(_)) && token.value != NONE;
        (word && !token.is(flag::SCALE)).then_some(u64::from(token.value))
    }

    /// The value of a number word that follows the word before without a pause.
    fn flows_to(&self, at: usize, limit: usize) -> Option<u64> {
        self.flows(at, limit)
            .then(|| self.number_word(at, limit))
            .flatten()
    }

    fn flows(&self, at: usize, limit: usize) -> bool {
        self.seen(at, limit)
            .is_some_and(|token| matches!(token.gap, Gap::Space | Gap::Sign(b'-' | b'\'')))
    }

    fn is_zero_word(&self, at: usize) -> bool {
        self.tokens[at].value == 0
    }

    fn after_and(&self, at: usize, limit: usize) -> Option<usize> {
        let token = self.seen(at, limit)?;
        (token.is(flag::AND) && self.flows(at, limit) && self.seen(at + 1, limit).is_some())
            .then_some(at + 1)
    }

    /// The token after a scale word of this factor.
    fn scale(&self, at: usize, limit: usize, factor: u32) -> Option<usize> {
        let token = self.seen(at, limit)?;
        (token.is(flag::SCALE) && token.value == factor).then_some(at + 1)
    }
}
