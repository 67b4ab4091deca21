//! Texts inside a text: encoded, commented out, turned around.
//!
//! Each finder proposes at most [`MAX_CANDIDATES`] texts, none longer than its source, so the work stays linear.

use base64::{Engine, engine::general_purpose};

use super::Folded;
use crate::guard::rules::lexicon::Lexicon;

/// Most texts that are read inside one text. An attack needs one; a page full of blobs must not cost more.
const MAX_CANDIDATES: usize = 8;
/// Shortest encoded run worth decoding: twelve letters of plain text.
const MIN_BASE64: usize = 16;
/// Letters in Morse code that are no accident of punctuation.
const MIN_MORSE: usize = 8;
/// As above, in zeros and ones.
const MIN_BITS: usize = 64;
/// As above, in hexadecimal digits.
const MIN_HEX: usize = 20;
/// Letters of a word that can be recognised rotated or backwards.
const MIN_TURNED_LETTERS: usize = 5;
/// Words of the vocabulary that must appear turned or rotated before the whole is read that way. Short words turn
/// into each other by chance.
const MIN_TURNED_WORDS: usize = 2;

/// A text that was inside another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hidden {
    /// How it was hidden.
    pub place: HiddenIn,
    /// What it says.
    pub text: String,
}

/// How a text was hidden.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HiddenIn {
    /// In tag characters.
    Tags,
    /// In variation selectors, a byte each.
    Selectors,
    /// Turned around by an override of the writing direction.
    Override,
    /// In base64.
    Base64,
    /// In hexadecimal digits.
    Hex,
    /// In base32.
    Base32,
    /// In zeros and ones.
    Binary,
    /// In Morse code.
    Morse,
    /// In percent signs, entities or `\u` escapes.
    Escapes,
    /// Each letter moved by thirteen places.
    Rot13,
    /// Written backwards.
    Reversed,
    /// In a comment, or an element that is not displayed.
    Markup,
}

impl HiddenIn {
    /// The name in reasons.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tags => "tag-characters",
            Self::Selectors => "variation-selectors",
            Self::Override => "direction-override",
            Self::Base64 => "base64",
            Self::Hex => "hex",
            Self::Base32 => "base32",
            Self::Binary => "binary",
            Self::Morse => "morse",
            Self::Escapes => "escapes",
            Self::Rot13 => "rot13",
            Self::Reversed => "reversed",
            Self::Markup => "hidden-markup",
        }
    }
}

/// Adds what is found in `text`.
pub(super) fn find(text: &str, folded: &Folded, lexicon: &Lexicon, hidden: &mut Vec<Hidden>) {
    let bytes = text.as_bytes();
    runs(text, hidden);
    if bytes.contains(&b'%') {
        escaped(hidden, percent(text));
    }
    if bytes.contains(&b'\\') {
        escaped(hidden, backslash(text));
    }
    if bytes.contains(&b'&') {
        escaped(hidden, entities(text));
    }
    if bytes.contains(&b'<') || bytes.contains(&b'[') {
        markup(text, hidden);
    }
    if bytes.contains(&b'-') && bytes.contains(&b'.') {
        morse(text, hidden);
    }
    turned(folded, lexicon, hidden);
}

fn add(hidden: &mut Vec<Hidden>, place: HiddenIn, text: String) {
    if hidden.len() < MAX_CANDIDATES && text.chars().filter(|c| c.is_alphabetic()).count() >= 4 {
        hidden.push(Hidden { place, text });
    }
}

/// Text that decoding yielded, if it reads like text.
fn readable(bytes: Vec<u8>) -> Option<String> {
    let text = String::from_utf8(bytes).ok()?;
    let odd = text
        .chars()
        .filter(|c| c.is_control() && !c.is_whitespace())
        .count();
    let letters = text
        .chars()
        .filter(|c| c.is_alphabetic() || *c == ' ')
        .count();
    (odd == 0 && letters * 4 >= text.chars().count() * 3).then_some(text)
}

/// Base64 and hexadecimal. Runs may be broken over lines, as mail does it.
fn runs(text: &str, hidden: &mut Vec<Hidden>) {
    let (mut joined, mut octets) = (String::new(), String::new());
    for piece in text
        .split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=' | '-' | '_')))
    {
        if piece.len() >= MIN_BASE64 {
            // An assignment or the like in front is not part of it.
            let run = piece.trim_end_matches('=');
            let run = run.rsplit('=').next().unwrap_or(run);
            if let Some(plain) = hex(run) {
                add(hidden, HiddenIn::Hex, plain);
            } else if let Some(plain) = bits(run, 1, MIN_BITS) {
                add(hidden, HiddenIn::Binary, plain);
            } else if let Some(plain) = bits(run, 5, MIN_BASE64) {
                add(hidden, HiddenIn::Base32, plain);
            } else if let Some(plain) = base64(run) {
                add(hidden, HiddenIn::Base64, plain);
            }
        }
        // "01101001 01100111": octets that stand alone.
        if piece.len() == 8 && piece.bytes().all(|byte| matches!(byte, b'0' | b'1')) {
            octets.push_str(piece);
        } else if !piece.is_empty() {
            flush_octets(&mut octets, hidden);
        }
        // "69 67 6e 6f": pairs of digits that stand alone, with or without a prefix.
        let pair = piece.strip_prefix("0x").unwrap_or(piece);
        if pair.len() == 2 && pair.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            joined.push_str(pair);
        } else if !piece.is_empty() {
            flush_pairs(&mut joined, hidden);
        }
    }
    flush_pairs(&mut joined, hidden);
    flush_octets(&mut octets, hidden);
}

fn flush_octets(octets: &mut String, hidden: &mut Vec<Hidden>) {
    if let Some(plain) = bits(octets, 1, MIN_BITS) {
        add(hidden, HiddenIn::Binary, plain);
    }
    octets.clear();
}

/// Digits of `width` bits each, most significant first: zeros and ones, or base32 (RFC 4648).
fn bits(run: &str, width: u32, shortest: usize) -> Option<String> {
    if run.len() < shortest {
        return None;
    }
    let (mut bytes, mut buffer, mut filled) = (Vec::with_capacity(run.len()), 0_u32, 0);
    for digit in run.bytes() {
        let value = match (width, digit) {
            (1, b'0' | b'1') => digit - b'0',
            (5, b'A'..=b'Z') => digit - b'A',
            (5, b'2'..=b'7') => digit - b'2' + 26,
            _ => return None,
        };
        buffer = (buffer << width | u32::from(value)) & 0xFFFF;
        filled += width;
        if filled >= 8 {
            filled -= 8;
            bytes.push((buffer >> filled) as u8);
        }
    }
    readable(bytes)
}

/// Morse code: dots and dashes, blanks between letters, slashes between words.
fn morse(text: &str, hidden: &mut Vec<Hidden>) {
    /// The letters in the order of the alphabet.
    const LETTERS: [&str; 26] = [
        ".-", "-...", "-.-.", "-..", ".", "..-.", "--.", "....", "..", ".---", "-.-", ".-..", "--",
        "-.", "---", ".--.", "--.-", ".-.", "...", "-", "..-", "...-", ".--", "-..-", "-.--",
        "--..",
    ];
    let (mut plain, mut letters) = (String::new(), 0);
    for piece in text.split_whitespace() {
        if piece == "/" || piece == "|" {
            plain.push(' ');
        } else if let Some(at) = LETTERS.iter().position(|code| *code == piece) {
            plain.push(char::from(b'a' + at as u8));
            letters += 1;
        }
    }
    if letters >= MIN_MORSE {
        add(hidden, HiddenIn::Morse, plain);
    }
}

fn flush_pairs(joined: &mut String, hidden: &mut Vec<Hidden>) {
    if let Some(plain) = hex(joined) {
        add(hidden, HiddenIn::Hex, plain);
    }
    joined.clear();
}

fn base64(run: &str) -> Option<String> {
    if run.len() < MIN_BASE64 {
        return None;
    }
    // A length of 4n+1 cannot be; the last character was cut or glued.
    let run = if run.len() % 4 == 1 {
        &run[..run.len() - 1]
    } else {
        run
    };
    let standard = general_purpose::STANDARD_NO_PAD.decode(run);
    let bytes = standard.or_else(|_| general_purpose::URL_SAFE_NO_PAD.decode(run));
    readable(bytes.ok()?)
}

fn hex(run: &str) -> Option<String> {
    let run = run.strip_prefix("0x").unwrap_or(run);
    if run.len() < MIN_HEX || run.len() % 2 == 1 {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let bytes: Option<Vec<u8>> = run
        .as_bytes()
        .chunks_exact(2)
        .map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?))
        .collect();
    readable(bytes?)
}

/// Adds an unescaped text. Three escapes are an accident of markup, more are a veil.
fn escaped(hidden: &mut Vec<Hidden>, (text, count): (String, usize)) {
    if count >= 4 {
        add(hidden, HiddenIn::Escapes, text);
    }
}

fn percent(text: &str) -> (String, usize) {
    let bytes = text.as_bytes();
    let (mut out, mut at, mut letters) = (Vec::with_capacity(bytes.len()), 0, 0);
    while at < bytes.len() {
        let byte = (bytes[at] == b'%')
            .then(|| bytes.get(at + 1..at + 3))
            .flatten()
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        match byte {
            Some(byte) => {
                out.push(byte);
                letters += 1;
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    (String::from_utf8_lossy(&out).into_owned(), letters)
}

fn backslash(text: &str) -> (String, usize) {
    let (mut out, mut letters, mut rest) = (String::with_capacity(text.len()), 0, text);
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let digits = match after.as_bytes().first() {
            Some(b'u') => 4,
            Some(b'x') => 2,
            _ => 0,
        };
        let code = (digits > 0)
            .then(|| after.get(1..1 + digits))
            .flatten()
            .and_then(|code| char::from_u32(u32::from_str_radix(code, 16).ok()?));
        if let Some(c) = code {
            out.push(c);
            letters += 1;
            rest = &after[1 + digits..];
        } else {
            out.push('\\');
            rest = after;
        }
    }
    out.push_str(rest);
    (out, letters)
}

fn entities(text: &str) -> (String, usize) {
    /// The longest reference that names a character: `&#x10FFFF;`.
    const LONGEST: usize = 10;
    let (mut out, mut letters, mut rest) = (String::with_capacity(text.len()), 0, text);
    while let Some(at) = rest.find("&#") {
        out.push_str(&rest[..at]);
        let after = &rest[at + 2..];
        let end = after.bytes().take(LONGEST).position(|byte| byte == b';');
        let code = end.and_then(|end| {
            let code = &after[..end];
            let number = match code.strip_prefix(['x', 'X']) {
                Some(hex) => u32::from_str_radix(hex, 16),
                None => code.parse(),
            };
            Some((char::from_u32(number.ok()?)?, end))
        });
        if let Some((c, end)) = code {
            out.push(c);
            letters += 1;
            rest = &after[end + 1..];
        } else {
            out.push_str("&#");
            rest = after;
        }
    }
    out.push_str(rest);
    (out, letters)
}

/// Comments of HTML, Markdown and templates, and elements that style hides.
fn markup(text: &str, hidden: &mut Vec<Hidden>) {
    for (open, close) in [
        ("<!--", "-->"),
        ("[//]: # (", ")"),
        ("[comment]: # (", ")"),
        ("{#", "#}"),
    ] {
        let mut rest = text;
        while let Some(at) = rest.find(open) {
            let inner = &rest[at + open.len()..];
            // A comment that is never closed hides the rest of the page.
            let end = inner.find(close).unwrap_or(inner.len());
            add(hidden, HiddenIn::Markup, inner[..end].to_owned());
            rest = &inner[end..];
            if hidden.len() >= MAX_CANDIDATES {
                return;
            }
        }
    }
    let mut rest = text;
    while let Some(at) = rest.find('<') {
        let tag = &rest[at..];
        let Some(end) = tag.find('>') else { return };
        let element = &tag[..end];
        rest = &tag[end..];
        if element.len() < 512 && is_unseen(element) {
            let inner = &tag[end + 1..];
            let close = inner.find('<').unwrap_or(inner.len());
            add(hidden, HiddenIn::Markup, inner[..close].to_owned());
        }
        if let Some(said) =
            attribute(element, "alt=\"").or_else(|| attribute(element, "aria-label=\""))
        {
            add(hidden, HiddenIn::Markup, said.to_owned());
        }
    }
}

/// Whether an element's style keeps it from being seen.
fn is_unseen(element: &str) -> bool {
    let style: String = element
        .chars()
        .filter(|c| !c.is_whitespace())
        .map(|c| c.to_ascii_lowercase())
        .collect();
    [
        "display:none",
        "visibility:hidden",
        "font-size:0",
        "opacity:0;",
        "opacity:0\"",
        "color:white",
        "color:#fff",
        "color:transparent",
        "left:-9999",
        "hidden>",
        "hidden=",
        "font-size:1px",
    ]
    .iter()
    .any(|trick| style.contains(trick) || style.ends_with("hidden"))
}

fn attribute<'e>(element: &'e str, name: &str) -> Option<&'e str> {
    let from = element.find(name)? + name.len();
    let value = &element[from..];
    value.find('"').map(|end| &value[..end])
}

/// Rot13 and words written backwards: the vocabulary tells.
fn turned(folded: &Folded, lexicon: &Lexicon, hidden: &mut Vec<Hidden>) {
    let (mut rotated, mut backwards, mut buffer) = (0, 0, String::new());
    for token in &folded.tokens {
        let word = folded.word(token);
        if word.len() < MIN_TURNED_LETTERS || lexicon.knows(word) {
            continue;
        }
        rot13(word, &mut buffer);
        rotated += usize::from(lexicon.knows(&buffer));
        buffer.clear();
        buffer.extend(word.chars().rev());
        backwards += usize::from(lexicon.knows(&buffer));
    }
    if rotated >= MIN_TURNED_WORDS {
        rot13(&folded.text, &mut buffer);
        add(hidden, HiddenIn::Rot13, buffer.clone());
    }
    if backwards >= MIN_TURNED_WORDS {
        add(
            hidden,
            HiddenIn::Reversed,
            folded.text.chars().rev().collect(),
        );
        // Each word turned, their order kept.
        let words: Vec<String> = folded
            .tokens
            .iter()
            .map(|token| folded.word(token).chars().rev().collect())
            .collect();
        add(hidden, HiddenIn::Reversed, words.join(" "));
    }
}

fn rot13(text: &str, out: &mut String) {
    out.clear();
    out.extend(text.chars().map(|c| match c {
        'a'..='m' => char::from(c as u8 + 13),
        'n'..='z' => char::from(c as u8 - 13),
        c => c,
    }));
}
