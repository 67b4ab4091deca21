//! E-mail and web addresses as they are said: "john dot smith at gmail dot com".

use super::{
    Found, Reader, WINDOW,
    lexicon::{NONE, flag},
    token::{Gap, Shape, Token},
};
use crate::redact::{context::Asked, kind::Kind};

/// Words in the part before the at sign that no sign joins, at most.
const LOOSE: usize = 5;

/// Endings that are words of a language as well, so that a lone one after a "dot" is believed only with company.
const WORDY: [&[u8]; 14] = [
    b"me", b"it", b"at", b"be", b"es", b"de", b"us", b"online", b"shop", b"live", b"cat", b"site",
    b"ca", b"pt",
];

impl Reader<'_> {
    /// The address that begins at token `at`.
    pub(super) fn address(&self, at: usize, limit: usize, announced: Asked) -> Option<Found> {
        let wanted = (self.asked | announced).any(Asked::EMAIL);
        if !self.is_label(at, limit) {
            return None;
        }
        if let Some(host) = self.after_scheme(at, limit) {
            let found = self.domain(host, limit)?;
            return Some(Found {
                start: at,
                kind: Kind::Url,
                ..found
            });
        }
        self.email(at, limit, wanted)
            .or_else(|| self.domain(at, limit))
    }

    /// The token after "h t t p s colon slash slash".
    fn after_scheme(&self, at: usize, limit: usize) -> Option<usize> {
        let mut next = at;
        for letter in [b'h', b't', b't', b'p'] {
            if self.seen(next, limit)?.shape != Shape::Letter(letter) {
                return None;
            }
            next += 1;
        }
        if self.seen(next, limit)?.shape == Shape::Letter(b's') {
            next += 1;
        }
        let start = next;
        while self.seen(next, limit)?.entry.sign != 0 {
            next += 1;
        }
        (next > start).then_some(next)
    }

    fn email(&self, at: usize, limit: usize, wanted: bool) -> Option<Found> {
        let mut end = at;
        let mut signs = 0;
        let mut loose = 0;
        let mut common = false;
        // The local part, up to the at sign.
        let at_sign = loop {
            let Some(next) = self.label(end, limit) else {
                break None;
            };
            let plain = self.tokens[end].is(flag::COMMON) && self.tokens[end].shape == Shape::Word;
            // "contact sales at": of two ordinary words only the second is the mailbox, unless a mailbox was asked for.
            if common && plain && !wanted {
                return None;
            }
            common = plain;
            end = next;
            let mut joined = false;
            while let Some(token) = self.seen(end, limit) {
                if matches!(token.gap, Gap::Stop | Gap::Other) {
                    break;
                }
                match token.entry.sign {
                    b'.' | b'_' | b'-' | b'+' => {
                        joined = true;
                        common = false;
                        signs += 1;
                    }
                    0 if token.is(flag::GLUE) && !self.is_letter(token) => {}
                    _ => break,
                }
                end += 1;
            }
            let token = self.seen(end, limit);
            if let Some(Gap::Sign(b'.' | b'_' | b'-')) = token.map(|token| token.gap) {
                joined = true;
                common = false;
                signs += 1;
            }
            if token.is_some_and(|token| {
                token.entry.sign == b'@' && !matches!(token.gap, Gap::Stop | Gap::Other)
            }) {
                break Some(end);
            }
            if !joined
                && self.tokens[end - 1].shape == Shape::Word
                && self.tokens[end - 1].value == NONE
            {
                loose += 1;
                if loose > LOOSE {
                    return None;
                }
            }
        };
        let Some(at_sign) = at_sign else {
            // A long one whose at sign lies past the horizon, or a part: "john dot smith".
            let long = self
                .tokens
                .get(end)
                .is_some_and(|token| token.reach >= limit);
            if !(wanted && signs > 0 && end > at + 1) || self.domain(at, limit).is_some() {
                return None;
            }
            let end = if long {
                self.rest_of_email(end)
            } else {
                self.trim(at, end)
            };
            return Some(Found {
                start: at,
                end,
                kind: Kind::Email,
                score: 0.8,
            });
        };
        let start = at_sign + 1;
        // "the link at https://…"
        let scheme = self.seen(start + 1, limit).is_some_and(|next| {
            next.gap == Gap::Other && self.text[self.tokens[start].end..].starts_with("://")
        });
        if scheme {
            return None;
        }
        let mut end = self.host(start, limit);
        if end.is_none() && wanted && self.is_label(start, limit) {
            // The ending lies past the horizon, or was forgotten.
            end = self.label(start, limit);
        }
        let end = end?;
        let end = self.rest_of_host(end);
        Some(Found {
            start: at,
            end,
            kind: Kind::Email,
            score: 0.95,
        })
    }

    /// Drops signs and glue at the end.
    fn trim(&self, start: usize, mut end: usize) -> usize {
        while end > start + 1
            && (self.tokens[end - 1].entry.sign != 0 || self.tokens[end - 1].is(flag::GLUE))
        {
            end -= 1;
        }
        end
    }

    /// Goes on through an address that was decided on before its end was seen.
    pub(super) fn rest_of_email(&self, mut end: usize) -> usize {
        let start = end - 1;
        while let Some(token) = self.tokens.get(end) {
            let limit = token.start + WINDOW;
            if matches!(token.gap, Gap::Stop | Gap::Other) {
                break;
            }
            if token.entry.sign != 0 && token.entry.sign != b' ' || token.is(flag::GLUE) {
                end += 1;
            } else if let Some(next) = self.label(end, limit) {
                // A word goes on only after a sign, a letter or a digit.
                let before = &self.tokens[end - 1];
                let code = |token: &Token| token.shape != Shape::Word || token.value != NONE;
                if before.entry.sign == 0 && !code(before) && !code(token) {
                    break;
                }
                end = next;
            } else {
                break;
            }
        }
        self.trim(start, end)
    }

    fn domain(&self, at: usize, limit: usize) -> Option<Found> {
        if self.tokens[at].is(flag::STOP) {
            return None;
        }
        let end = self.host(at, limit)?;
        // "three point five" has no ending; "amazon dot com" has.
        let mut end = self.rest_of_host(end);
        let mut kind = Kind::Domain;
        while self
            .tokens
            .get(end)
            .is_some_and(|token| token.entry.sign == b'/')
            && let Some(next) = self.label(end + 1, self.tokens[end].start + WINDOW)
        {
            end = next;
            kind = Kind::Url;
        }
        Some(Found {
            start: at,
            end,
            kind,
            score: 0.8,
        })
    }

    /// Labels with dots between and a known ending, or a mail house by its name: the token after.
    fn host(&self, at: usize, limit: usize) -> Option<usize> {
        // "at me dot com": behind an at sign any word may be a host.
        let mail = at > 0 && self.tokens[at - 1].entry.sign == b'@';
        let any = || {
            let word = self.seen(at, limit)?.shape == Shape::Word;
            (mail && word && self.is_dot(at + 1, limit)).then_some(at + 1)
        };
        let mut end = self.label(at, limit).or_else(any)?;
        if self.tokens[at].is(flag::MAILHOUSE) && !self.is_dot(end, limit) {
            return (at > 0 && self.tokens[at - 1].entry.sign == b'@').then_some(end);
        }
        let mut words = 1;
        let mut found = None;
        loop {
            if let Some(ending) = self.dot(end, limit) {
                let token = self.seen(ending, limit)?;
                if token.is(flag::TLD) {
                    let word = self.word(ending);
                    let alone = self.seen(ending + 1, limit).is_none_or(|next| {
                        next.gap == Gap::Stop || next.entry.sign != 0 || !next.is(flag::COMMON)
                    });
                    let mail = at > 0 && self.tokens[at - 1].entry.sign == b'@';
                    if found.is_some() || mail || alone || !WORDY.contains(&word.get()) {
                        found = Some(ending + 1);
                    }
                }
                // After a dot any word is a label.
                let any =
                    (token.entry.sign == 0 && token.shape == Shape::Word).then_some(ending + 1);
                end = match self.label(ending, limit) {
                    Some(end) => end,
                    None if found.is_none() => any?,
                    None => return found,
                };
                words = 1;
                continue;
            }
            if found.is_some() {
                return found;
            }
            // "my company dot com": at most three words in one label, and only after an at sign.
            let mail = self
                .tokens
                .get(at.wrapping_sub(1))
                .is_some_and(|token| token.entry.sign == b'@');
            let www = self.word(at).get() == b"www";
            if words > 3 || !mail && !www {
                return None;
            }
            words += 1;
            end = self.label(end, limit)?;
        }
    }

    /// More endings: "dot co dot uk".
    fn rest_of_host(&self, mut end: usize) -> usize {
        while let Some(token) = self.tokens.get(end) {
            let limit = token.start + WINDOW;
            match self.dot(end, limit) {
                Some(ending)
                    if self
                        .seen(ending, limit)
                        .is_some_and(|token| token.is(flag::TLD)) =>
                {
                    end = ending + 1
                }
                _ => break,
            }
        }
        end
    }

    /// The token after a dot, said or written, at `at`.
    fn dot(&self, at: usize, limit: usize) -> Option<usize> {
        let token = self.seen(at, limit)?;
        if token.gap == Gap::Sign(b'.') {
            return Some(at);
        }
        (token.entry.sign == b'.' && token.gap == Gap::Space && self.seen(at + 1, limit).is_some())
            .then_some(at + 1)
    }

    fn is_dot(&self, at: usize, limit: usize) -> bool {
        self.dot(at, limit).is_some()
    }

    fn is_label(&self, at: usize, limit: usize) -> bool {
        self.label(at, limit).is_some()
    }

    /// One word, letter, number or spelled letter of an address: the token after.
    fn label(&self, at: usize, limit: usize) -> Option<usize> {
        let token = self.seen(at, limit)?;
        if token.entry.sign != 0 {
            return None;
        }
        match token.shape {
            Shape::Digits(_) | Shape::Mixed => Some(at + 1),
            Shape::Letter(_) if !token.is(flag::STOP) => Some(at + 1),
            Shape::Letter(_) => {
                let near = |at: usize| {
                    self.seen(at, limit).is_some_and(|token| {
                        matches!(token.shape, Shape::Letter(_)) || token.entry.sign != 0
                    })
                };
                (near(at + 1) || (at > 0 && near(at - 1))).then_some(at + 1)
            }
            Shape::Word => {
                if token.entry.repeat > 1 || token.is(flag::CAPS) {
                    return self.label(at + 1, limit);
                }
                if token.value != NONE {
                    return self.number(at, limit).map(|number| number.next);
                }
                (!token.is(flag::STOP | flag::LEAD) && token.entry.cue.is_empty()
                    || token.is(flag::NAME | flag::MAILHOUSE) && !token.is(flag::STOP))
                .then_some(at + 1)
            }
        }
    }
}
