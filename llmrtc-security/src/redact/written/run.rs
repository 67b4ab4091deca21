//! Digits as people group them: "(415) 555-2671", "4111 1111 1111 1111", "123.456.789-09".

use crate::redact::detector::horizon;

/// Groups of one run. No identifier has more, and the bound keeps a wall of numbers linear.
const MAX_GROUPS: usize = 10;
/// Digits of one run.
const MAX_DIGITS: usize = 40;

/// A run of digit groups with one separator between each two.
///
/// The shape names each group by its length (`1`–`9`, then `A` for ten, …) and each separator by ` `, `-`, `.`, `/`, `(` or
/// `)`, so that patterns are plain byte strings: `3-2-4` is a social security number.
pub(crate) struct Run {
    /// Byte where the run starts in the text, with its `+` or `(`.
    pub(crate) start: usize,
    /// Whether it starts with a plus sign.
    pub(crate) plus: bool,
    /// Whether it starts with an opening parenthesis.
    pub(crate) paren: bool,
    pub(crate) groups: usize,
    digits: [u8; MAX_DIGITS],
    shape: [u8; 2 * MAX_GROUPS],
    /// Per group: digits up to and with it, and the byte of the text after it.
    ends: [(u8, usize); MAX_GROUPS],
}

impl Run {
    /// Reads the run whose first digit is at `first`; `start` is there or at the sign before it.
    pub(crate) fn read(text: &str, start: usize, first: usize) -> Self {
        let view = &text.as_bytes()[..start + horizon(text, start).len()];
        let lead = &view[start..first.max(start)];
        let mut run = Self {
            start,
            plus: lead.contains(&b'+'),
            paren: lead.contains(&b'('),
            groups: 0,
            digits: [0; MAX_DIGITS],
            shape: [0; 2 * MAX_GROUPS],
            ends: [(0, 0); MAX_GROUPS],
        };
        let (mut at, mut count) = (first, 0usize);
        while run.groups < MAX_GROUPS {
            let group = at;
            while at < view.len() && view[at].is_ascii_digit() {
                if count == MAX_DIGITS {
                    return run;
                }
                run.digits[count] = view[at];
                (count, at) = (count + 1, at + 1);
            }
            let length = at - group;
            if length == 0 || glued_to_letters(text, at) {
                return run;
            }
            run.shape[2 * run.groups] = if length < 10 { b'0' } else { b'A' - 10 } + length as u8;
            run.ends[run.groups] = (count as u8, at);
            run.groups += 1;
            let Some((code, width)) = separator(&view[at..]) else {
                return run;
            };
            if !view.get(at + width).is_some_and(u8::is_ascii_digit) {
                return run;
            }
            run.shape[2 * run.groups - 1] = code;
            at += width;
        }
        run
    }

    /// The digits of the first `groups` groups.
    pub(crate) fn digits(&self, groups: usize) -> &[u8] {
        &self.digits[..usize::from(self.ends[groups - 1].0)]
    }

    /// The digits of one group, counted from zero.
    pub(crate) fn group(&self, at: usize) -> &[u8] {
        let from = if at == 0 {
            0
        } else {
            usize::from(self.ends[at - 1].0)
        };
        &self.digits[from..usize::from(self.ends[at].0)]
    }

    /// The shape of the first `groups` groups.
    pub(crate) fn shape(&self, groups: usize) -> &[u8] {
        &self.shape[..2 * groups - 1]
    }

    /// The separator after the first `groups` groups, if another group follows.
    pub(crate) fn separator(&self, groups: usize) -> Option<u8> {
        (groups < self.groups).then(|| self.shape[2 * groups - 1])
    }

    /// Byte of the text after the first `groups` groups.
    pub(crate) fn end(&self, groups: usize) -> usize {
        self.ends[groups - 1].1
    }

    /// Whether all separators of the first `groups` groups are among `allowed`.
    pub(crate) fn separated_by(&self, groups: usize, allowed: &[u8]) -> bool {
        self.shape(groups)
            .iter()
            .skip(1)
            .step_by(2)
            .all(|code| allowed.contains(code))
    }

    /// Whether the first `groups` groups may end there: what follows does not make them part of something longer.
    pub(crate) fn closes(&self, text: &str, groups: usize) -> bool {
        match self.separator(groups) {
            None => !continues(text.as_bytes(), self.end(groups)),
            // "4111-1111-1111-1111-22" is none of the shorter things it contains.
            Some(code @ (b'-' | b'.' | b'/')) => {
                groups > 1
                    && !self
                        .shape(groups)
                        .iter()
                        .skip(1)
                        .step_by(2)
                        .any(|seen| *seen == code)
            }
            Some(_) => true,
        }
    }
}

/// A separator between digit groups: its code and its bytes.
fn separator(rest: &[u8]) -> Option<(u8, usize)> {
    Some(match rest {
        [b')', b' ' | b'-' | b'.' | b'/', b'(', ..] | [b')', b' ', b'-' | b'/', ..] => (b')', 3),
        [b')', b' ' | b'-' | b'.' | b'/', ..] => (b')', 2),
        [b')', ..] => (b')', 1),
        [b' ' | b'-' | b'.', b'(', ..] => (b'(', 2),
        [b'(', ..] => (b'(', 1),
        [b' ', b'-' | b'/', b' ', ..] => (rest[1], 3),
        // En dash, as editors write between groups.
        [b' ', 0xE2, 0x80, 0x90..=0x93, b' ', ..] => (b'-', 5),
        [b' ', b' ', ..] => (b' ', 2),
        [b' ', ..] => (b' ', 1),
        [b'-', ..] => (b'-', 1),
        [b'.', ..] => (b'.', 1),
        [b'/', ..] => (b'/', 1),
        // No-break space, narrow no-break space, hyphens and en dash.
        [0xC2, 0xA0, ..] => (b' ', 2),
        [0xE2, 0x80, 0xAF | 0x89, ..] => (b' ', 3),
        [0xE2, 0x80, 0x90..=0x93, ..] => (b'-', 3),
        _ => return None,
    })
}

/// Whether a group that ends at `at` goes on as a word, as in "12th" or "5kg". An extension ("x12") is none.
fn glued_to_letters(text: &str, at: usize) -> bool {
    match text.as_bytes().get(at..) {
        Some([b'x' | b'X', b'0'..=b'9', ..]) => false,
        Some([byte, ..]) if byte.is_ascii_alphabetic() || *byte == b'_' => true,
        Some([0x80..=0xFF, ..]) => text[at..].chars().next().is_some_and(char::is_alphanumeric),
        _ => false,
    }
}

/// Whether what ends at `at` is only the beginning of something: a time, a decimal, a percentage, a hyphenated code.
fn continues(bytes: &[u8], at: usize) -> bool {
    match &bytes[at.min(bytes.len())..] {
        [b':' | b',', next, ..] => next.is_ascii_digit(),
        [b'%', ..] => true,
        [b'-' | b'/' | b'@' | b'.' | b'_' | b'\\', next, ..] => next.is_ascii_alphanumeric(),
        [b'\'', b's', ..] => false,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes() {
        let check = |text: &str, shape: &str, digits: &str| {
            let first = text.find(|c: char| c.is_ascii_digit()).expect("a digit");
            let run = Run::read(text, first, first);
            let seen = if run.groups == 0 {
                &[][..]
            } else {
                run.shape(run.groups)
            };
            assert_eq!(String::from_utf8_lossy(seen), shape, "{text}");
            if run.groups > 0 {
                assert_eq!(
                    String::from_utf8_lossy(run.digits(run.groups)),
                    digits,
                    "{text}"
                );
            }
        };
        check("415) 555-2671.", "3)3-4", "4155552671");
        check("4111 1111 1111 1111", "4 4 4 4", "4111111111111111");
        check("01\u{a0}23\u{202f}45", "2 2 2", "012345");
        check("123.456.789-09", "3.3.3-2", "12345678909");
        check("5kg", "", "");
        check("581-896-0013x3890", "3-3-4", "5818960013");
        check("1234567890123 12", "D 2", "123456789012312");
    }
}
