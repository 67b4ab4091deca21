//! Identifiers as people write them: one pass over the words, and rarer passes where the text has what they need.

mod address;
pub(super) mod checksum;
mod cues;
mod dates;
mod ids;
mod net;
mod numbers;
pub(super) mod people;
mod phone;
mod run;

use cues::Cues;

use super::detector::{Context, Detector, Span};

/// Finds identifiers as people write them. Stateless.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct WrittenDetector;

/// What a text contains that a pass may need.
#[derive(Clone, Copy, Default)]
struct Seen {
    digit: bool,
    at: bool,
    colon: bool,
    dot: bool,
}

const DIGIT: u8 = 1;
const AT: u8 = 2;
const COLON: u8 = 4;
const DOT: u8 = 8;
const WORD: u8 = 16;

/// Classes of bytes. All of UTF-8 beyond ASCII counts as letters.
const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let value = byte as u8;
        classes[byte] = if value.is_ascii_digit() {
            DIGIT | WORD
        } else if value.is_ascii_alphabetic() || value >= 0x80 {
            WORD
        } else {
            match value {
                b'@' => AT,
                b':' => COLON,
                b'.' => DOT,
                _ => 0,
            }
        };
        byte += 1;
    }
    classes
};

impl Seen {
    fn of(text: &str) -> Self {
        let seen = text
            .bytes()
            .fold(0, |seen, byte| seen | CLASSES[usize::from(byte)]);
        Self {
            digit: seen & DIGIT != 0,
            at: seen & AT != 0,
            colon: seen & COLON != 0,
            dot: seen & DOT != 0,
        }
    }
}

impl Detector for WrittenDetector {
    fn detect(&self, text: &str, context: &Context<'_>, out: &mut Vec<Span>) {
        people::detect(text, out);
        let seen = Seen::of(text);
        if seen.at {
            for (at, _) in text.bytes().enumerate().filter(|(_, byte)| *byte == b'@') {
                out.extend(net::email(text, at));
            }
        }
        if seen.digit || seen.colon || seen.dot {
            words(text, context, out);
        }
    }
}

/// Whether a word at `start` goes on from something before it: "rev-42", "v1.2", "a/3", "10:30", "1,000".
fn glued(bytes: &[u8], start: usize) -> bool {
    let before = |back: usize| start.checked_sub(back).map(|at| bytes[at]);
    let word = |byte: Option<u8>| byte.is_some_and(|byte| CLASSES[usize::from(byte)] & WORD != 0);
    match before(1) {
        Some(b'-' | b'.' | b'_' | b'/' | b'\\' | b'~' | b'&') => {
            word(before(2)) || before(2) == Some(b')')
        }
        Some(b'@') => true,
        Some(b':' | b',' | b'\'') => before(2).is_some_and(|byte| byte.is_ascii_digit()),
        _ => false,
    }
}

fn words(text: &str, context: &Context<'_>, out: &mut Vec<Span>) {
    let bytes = text.as_bytes();
    let mut cues = Cues::new(text, context.previous);
    let mut memory = numbers::Memory::default();
    let mut at = 0;
    while at < bytes.len() {
        let class = CLASSES[usize::from(bytes[at])];
        if class & WORD == 0 {
            if class == COLON {
                if bytes[at..].starts_with(b"://")
                    && let Some(url) = net::url(text, at)
                {
                    at = url.end;
                    out.push(url);
                    continue;
                }
                if bytes[at..].starts_with(b"::")
                    && !at.checked_sub(1).is_some_and(|before| {
                        CLASSES[usize::from(bytes[before])] & (WORD | COLON) != 0
                    })
                    && let Some(span) = net::colons(text, at)
                {
                    at = span.end;
                    out.push(span);
                    continue;
                }
            }
            at += 1;
            continue;
        }
        let start = at;
        let (mut all, mut digits, mut wide) = (0u8, 0usize, false);
        while at < bytes.len() && CLASSES[usize::from(bytes[at])] & WORD != 0 {
            let class = CLASSES[usize::from(bytes[at])];
            all |= class;
            digits += usize::from(class & DIGIT != 0);
            wide |= bytes[at] >= 0x80;
            at += 1;
        }
        if wide && all & DIGIT != 0 {
            // No-break spaces and dashes are no letters; the words begin and end with the digits there.
            at = wide_word(text, start, at, context, &mut cues, &mut memory, out);
            continue;
        }
        let mut end = at;
        if let Some(span) = word(
            text,
            (start, &mut end),
            digits,
            context,
            &mut cues,
            &mut memory,
        ) {
            end = end.max(span.end);
            out.push(span);
        }
        at = end.max(start + 1);
    }
}

/// A word with bytes beyond ASCII and digits in it: tries each maximal stretch of ASCII in it as a word of its own, if what parts them is no letter.
fn wide_word(
    text: &str,
    start: usize,
    end: usize,
    context: &Context<'_>,
    cues: &mut Cues<'_>,
    memory: &mut numbers::Memory,
    out: &mut Vec<Span>,
) -> usize {
    let mut at = start;
    while at < end {
        let Some(character) = text[at..].chars().next() else {
            break;
        };
        if !character.is_ascii() {
            at += character.len_utf8();
            continue;
        }
        let open = !text[..at]
            .chars()
            .next_back()
            .is_some_and(|before| !before.is_ascii() && before.is_alphanumeric());
        let from = at;
        while at < end && text.as_bytes()[at].is_ascii() {
            at += 1;
        }
        let digits = text[from..at].bytes().filter(u8::is_ascii_digit).count();
        let mut stop = at;
        if open
            && digits > 0
            && let Some(span) = word(text, (from, &mut stop), digits, context, cues, memory)
        {
            stop = stop.max(span.end);
            out.push(span);
        }
        at = stop;
        if at >= end {
            return at;
        }
    }
    at.max(end)
}

/// One word of ASCII, `start..*end`, with so many digits. May move `end` on to what it has judged.
fn word(
    text: &str,
    (start, end): (usize, &mut usize),
    digits: usize,
    context: &Context<'_>,
    cues: &mut Cues<'_>,
    memory: &mut numbers::Memory,
) -> Option<Span> {
    let bytes = text.as_bytes();
    let next = bytes.get(*end).copied();
    let length = *end - start;
    if glued(bytes, start) {
        return None;
    }
    let colons = (next == Some(b':') && length <= 4)
        || (next == Some(b'-') && length == 2)
        || (next == Some(b'.') && length == 4);
    if colons
        && bytes[start..*end].iter().all(u8::is_ascii_hexdigit)
        && let Some(span) = net::colons(text, start)
    {
        return Some(span);
    }
    if matches!(next, Some(b'.' | b'-'))
        && bytes
            .get(*end + 1)
            .is_some_and(|byte| CLASSES[usize::from(*byte)] & WORD != 0)
    {
        if digits == length
            && next == Some(b'.')
            && length <= 3
            && let Some(span) = net::ipv4(text, start)
        {
            return Some(span);
        }
        if let Some(span) = net::host(text, start) {
            return Some(span);
        }
    }
    if digits == 0 {
        return None;
    }
    let dials = digits + 1 == length
        && bytes[start..*end]
            .iter()
            .filter(|byte| byte.eq_ignore_ascii_case(&b'x'))
            .count()
            == 1
        && bytes[start].is_ascii_digit()
        && bytes[*end - 1].is_ascii_digit();
    if digits < length && !dials {
        return ids::judge(text, start, *end, cues).or_else(|| address::around(text, start, *end));
    }
    if length <= 6
        && let Some(span) = address::around(text, start, *end)
    {
        return Some(span);
    }
    if matches!(length, 2 | 6)
        && let Some(span) = ids::spaced_nino(text, start)
    {
        return Some(span);
    }
    if (2..=8).contains(&length)
        && let Some(span) = ids::with_check_letter(text, start)
    {
        return Some(span);
    }
    let signed = match &bytes[..start] {
        [.., b'+', b'('] | [.., b'(', b'+'] | [.., b'+', b' '] => 2,
        [.., b'+' | b'('] => 1,
        _ => 0,
    };
    let signed = if signed > 0
        && start > signed
        && CLASSES[usize::from(bytes[start - signed - 1])] & WORD != 0
    {
        0
    } else {
        signed
    };
    match numbers::judge(text, (start - signed, start), context.lang, cues, memory) {
        numbers::Verdict::Found(span) => Some(span),
        numbers::Verdict::Skip(behind) => {
            *end = behind.max(*end);
            None
        }
    }
}
