//! The matching form: lower-case words without accents, look-alikes, joined tricks, one blank between them.

use std::ops::Range;

use unicode_normalization::char::{compose, decompose_compatible, is_combining_mark};

use super::{
    Concealment,
    letters::{alike, is_address, sign_letter, special_letter, styled_letter, unleet},
    script,
};
use crate::guard::rules::lexicon::Lexicon;

/// Longest word that is looked at, bytes. No word of the vocabulary comes near; blobs are the decoder's.
const MAX_WORD: usize = 64;
/// Letters that have to stand alone in a row before they count as a word spelt out. "A B C" is a list.
const MIN_SPELT: usize = 4;
/// A word without blanks that is longer than this is taken apart, as in `ignoreAllPreviousInstructions`.
const MIN_JOINED: usize = 14;

/// The words of a text as the rules read them.
#[derive(Clone, Debug, Default)]
pub struct Folded {
    /// Folded words with one blank after each; ideographs follow each other without.
    pub text: String,
    /// Where the words are.
    pub tokens: Vec<Token>,
}

/// One word.
#[derive(Clone, Debug)]
pub struct Token {
    /// Where it is in [`Folded::text`], the blank not counted.
    pub range: Range<u32>,
    /// What surrounds it.
    pub place: Place,
}

/// What surrounds a word, as a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place(u16);

impl Place {
    /// First word of a sentence.
    pub const STARTS: Self = Self(1);
    /// Last word of a sentence.
    pub const ENDS: Self = Self(1 << 1);
    /// Inside quotation marks.
    pub const QUOTED: Self = Self(1 << 2);
    /// A colon follows.
    pub const COLON: Self = Self(1 << 3);
    /// Its sentence ends in a question mark here.
    pub const ASKS: Self = Self(1 << 4);
    /// Written in capitals, at least two of them.
    pub const CAPITALS: Self = Self(1 << 5);
    /// An e-mail address or a link.
    pub const ADDRESS: Self = Self(1 << 6);
    /// More than one blank, or a line break, stands before it.
    pub const APART: Self = Self(1 << 7);
    /// Begins a name with an underscore in it, as functions have.
    pub const IDENTIFIER: Self = Self(1 << 8);

    /// Whether all of `other` is in the set.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    fn add(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl Folded {
    /// The word.
    pub fn word(&self, token: &Token) -> &str {
        &self.text[token.range.start as usize..token.range.end as usize]
    }

    fn push(&mut self, word: &str, place: Place, glued: bool) {
        let start = self.text.len() as u32;
        self.text.push_str(word);
        let end = self.text.len() as u32;
        if !glued {
            self.text.push(' ');
        }
        self.tokens.push(Token {
            range: start..end,
            place,
        });
    }
}

/// Folds a cleaned text and counts the disguises it undoes.
pub(super) fn fold(text: &str, lexicon: &Lexicon, concealment: &mut Concealment) -> Folded {
    let mut folder = Folder {
        out: Folded {
            text: String::with_capacity(text.len() + 16),
            tokens: Vec::with_capacity(text.len() / 5 + 4),
        },
        lexicon,
        seen: Concealment::default(),
        starts: true,
        identifier: false,
        apart: false,
        quotes: Quotes::default(),
        word: Word::default(),
        wide: folds_wide(text),
    };
    let mut rest = text;
    while !rest.is_empty() {
        let blank = rest
            .find(|c: char| !c.is_whitespace())
            .unwrap_or(rest.len());
        folder.blank(&rest[..blank]);
        rest = &rest[blank..];
        let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
        if end > 0 {
            folder.chunk(&rest[..end]);
        }
        rest = &rest[end..];
    }
    if let Some(last) = folder.out.tokens.last_mut() {
        last.place.add(Place::ENDS);
    }
    let mut folded = folder.out;
    let mut seen = folder.seen;
    if has_spelt_words(&folded) {
        folded = join_spelt(&folded, lexicon, &mut seen);
    }
    concealment.mixed_words += seen.mixed_words;
    concealment.styled_words += seen.styled_words;
    concealment.leet_words += seen.leet_words;
    concealment.spaced_words += seen.spaced_words;
    concealment.marks += seen.marks;
    folded
}

/// Whether fullwidth letters are a disguise here: among Han and kana they are ordinary typography.
fn folds_wide(text: &str) -> bool {
    let mut wide = false;
    for c in text.chars() {
        if script::ideographic(c) {
            return false;
        }
        wide |= matches!(c, '\u{FF21}'..='\u{FF5A}');
    }
    wide
}

/// Quotation marks that are open. A text that never closes one was not quoting.
#[derive(Default)]
struct Quotes {
    open: Option<(char, usize)>,
}

impl Quotes {
    /// A quotation mark at the current place; marks the words inside when a pair closes.
    fn mark(&mut self, c: char, out: &mut Folded) {
        let closes = |open: char| {
            matches!(
                (open, c),
                ('"', '"')
                    | ('\u{201C}', '\u{201D}' | '"')
                    | ('\u{201E}', '\u{201C}' | '\u{201D}' | '"')
                    | ('\u{2018}', '\u{2019}')
                    | ('\u{201A}', '\u{2018}')
                    | ('\u{00AB}', '\u{00BB}')
                    | ('\u{00BB}', '\u{00AB}')
                    | ('`', '`')
                    | ('\'', '\'')
                    | ('\u{300C}', '\u{300D}')
                    | ('\u{201D}', '\u{201D}')
            )
        };
        match self.open {
            Some((open, from)) if closes(open) => {
                for token in &mut out.tokens[from..] {
                    token.place.add(Place::QUOTED);
                }
                self.open = None;
            }
            Some(_) => {}
            None => self.open = Some((c, out.tokens.len())),
        }
    }
}

/// The word being read.
#[derive(Default)]
struct Word {
    text: String,
    /// Letters that are ASCII, or become so without their accents.
    latin: u32,
    /// Letters of another script for which an ASCII letter can be mistaken.
    alike: u32,
    /// Letters of another script.
    foreign: u32,
    /// Letters in a style of their own.
    styled: u32,
    /// Digits and signs that can stand for letters.
    leet: u32,
    /// Accents on letters that no language puts them on.
    stray_marks: u32,
    capitals: u32,
    lower: u32,
}

struct Folder<'l> {
    out: Folded,
    lexicon: &'l Lexicon,
    seen: Concealment,
    starts: bool,
    identifier: bool,
    apart: bool,
    quotes: Quotes,
    word: Word,
    wide: bool,
}

impl Folder<'_> {
    fn blank(&mut self, blank: &str) {
        let lines = blank.bytes().filter(|byte| *byte == b'\n').count();
        self.apart = lines > 0 || blank.chars().nth(1).is_some();
        // A blank line ends a sentence whatever its last character was.
        if lines > 1 {
            self.end_sentence(false);
        }
    }

    fn chunk(&mut self, chunk: &str) {
        if is_address(chunk) {
            self.address(chunk);
            return;
        }
        let mut parts = chunk.split('_');
        self.identifier = parts
            .next()
            .is_some_and(|part| part.ends_with(char::is_alphanumeric))
            && parts
                .next()
                .is_some_and(|part| part.starts_with(char::is_alphanumeric));
        let mut chars = chunk.char_indices().peekable();
        while let Some((at, c)) = chars.next() {
            let next = chars.peek().map(|(_, next)| *next);
            if script::ideographic(c) && c.is_alphanumeric() {
                self.finish_word();
                self.ideograph(c);
            } else if c.is_alphanumeric() || is_combining_mark(c) || styled_letter(c).is_some() {
                self.letter(c);
            } else if let Some(letter) = sign_letter(c).filter(|_| {
                next.is_some_and(char::is_alphanumeric) && (!self.word.text.is_empty() || c != '(')
            }) {
                self.word.leet += 1;
                self.word.text.push(letter);
            } else {
                self.sign(c, next, &chunk[..at]);
            }
        }
        self.finish_word();
    }

    /// Punctuation and symbols.
    fn sign(&mut self, c: char, next: Option<char>, before: &str) {
        match c {
            '\'' | '\u{2019}' | '\u{02BC}'
                if !self.word.text.is_empty() && next.is_some_and(char::is_alphabetic) =>
            {
                // French and Italian articles are words of their own; elsewhere the word goes on.
                if matches!(
                    self.word.text.as_str(),
                    "l" | "d" | "j" | "n" | "c" | "qu" | "s" | "t" | "dell" | "all" | "nell" | "un"
                ) && next != Some('t')
                {
                    self.finish_word();
                }
            }
            '"' | '\u{201C}' | '\u{201D}' | '\u{201E}' | '\u{2018}' | '\u{201A}' | '\u{00AB}'
            | '\u{00BB}' | '`' | '\u{300C}' | '\u{300D}' => {
                self.finish_word();
                self.quotes.mark(c, &mut self.out);
            }
            '\'' | '\u{2019}' => {
                self.finish_word();
                // After a word it closes or is an apostrophe; before one it opens.
                let opens = next.is_some_and(char::is_alphanumeric)
                    && !before.ends_with(char::is_alphanumeric);
                if opens
                    || self
                        .quotes
                        .open
                        .is_some_and(|(open, _)| matches!(open, '\'' | '\u{2018}'))
                {
                    self.quotes.mark(c, &mut self.out);
                }
            }
            '.' | '!' | '?' | '\u{3002}' | '\u{FF01}' | '\u{FF1F}' | '\u{061F}' | ';'
            | '\u{2026}' => {
                let glued = !self.word.text.is_empty() && next.is_some_and(char::is_alphanumeric);
                self.finish_word();
                // "3.5" and "e.g" go on.
                if !glued || c != '.' {
                    self.end_sentence(matches!(c, '?' | '\u{FF1F}' | '\u{061F}'));
                }
            }
            ':' | '\u{FF1A}' => {
                self.finish_word();
                if let Some(last) = self.out.tokens.last_mut() {
                    last.place.add(Place::COLON);
                }
                // What follows a colon can be a sentence of its own; rules may still look across.
                self.starts = true;
            }
            ')' | ']' | '}' | '>' | '\u{2014}' | '*' | '#' | '(' | '[' | '{' | '<' => {
                self.finish_word();
                self.starts |= matches!(c, '>' | ']' | '*' | '#' | '(' | '[' | '\u{2014}');
            }
            _ => self.finish_word(),
        }
    }

    fn end_sentence(&mut self, asks: bool) {
        if let Some(last) = self.out.tokens.last_mut() {
            last.place.add(Place::ENDS);
            if asks {
                last.place.add(Place::ASKS);
            }
        }
        self.starts = true;
    }

    fn letter(&mut self, c: char) {
        let word = &mut self.word;
        if word.text.len() > MAX_WORD {
            return;
        }
        if c.is_ascii() {
            word.text.push(c.to_ascii_lowercase());
            match c {
                'A'..='Z' => (word.capitals, word.latin) = (word.capitals + 1, word.latin + 1),
                'a'..='z' => (word.lower, word.latin) = (word.lower + 1, word.latin + 1),
                // Only digits that look like a letter.
                '0' | '1' | '3'..='5' | '7' | '8' => word.leet += 1,
                _ => {}
            }
            return;
        }
        if is_combining_mark(c) {
            let base = word.text.chars().next_back();
            // Marks of other scripts are spelling, and so are those that make a letter some language has.
            let spelling = !script::general_mark(c)
                || base
                    .is_some_and(|base| !base.is_ascii_alphabetic() || compose(base, c).is_some());
            word.stray_marks += u32::from(!spelling);
            return;
        }
        if let Some(letter) = styled_letter(c) {
            word.styled += 1;
            word.latin += 1;
            word.text.push(letter);
            return;
        }
        if let Some(letters) = special_letter(c) {
            word.latin += 1;
            word.text.push_str(letters);
            return;
        }
        let wide = matches!(c, '\u{FF10}'..='\u{FF5A}');
        decompose_compatible(c, |part| {
            if is_combining_mark(part) {
                return;
            }
            for lower in part.to_lowercase() {
                word.text.push(lower);
                if lower.is_ascii_alphabetic() {
                    word.latin += 1;
                    let plain_accent =
                        matches!(c, '\u{00C0}'..='\u{024F}' | '\u{1E00}'..='\u{1EFF}');
                    // Ligatures, ordinals and unit signs decompose too; one such letter is no style.
                    word.styled +=
                        u32::from(!plain_accent && (!wide || self.wide) && c.is_alphanumeric());
                } else if lower.is_alphabetic() {
                    word.foreign += 1;
                    word.alike += u32::from(alike(lower).is_some());
                }
            }
        });
    }

    fn ideograph(&mut self, c: char) {
        let mut buffer = [0; 4];
        let place = self.place();
        self.out.push(c.encode_utf8(&mut buffer), place, true);
    }

    fn place(&mut self) -> Place {
        let mut place = Place::default();
        if std::mem::take(&mut self.starts) {
            place.add(Place::STARTS);
        }
        if std::mem::take(&mut self.identifier) {
            place.add(Place::IDENTIFIER);
        }
        if std::mem::take(&mut self.apart) {
            place.add(Place::APART);
        }
        place
    }

    fn address(&mut self, chunk: &str) {
        let mut place = self.place();
        place.add(Place::ADDRESS);
        let ends = chunk.ends_with(['.', '!', '?']);
        self.out.push("address", place, false);
        if ends {
            self.end_sentence(chunk.ends_with('?'));
        }
    }

    fn finish_word(&mut self) {
        if self.word.text.is_empty() {
            self.seen.marks += std::mem::take(&mut self.word.stray_marks);
            return;
        }
        let mut word = std::mem::take(&mut self.word);
        let seen = &mut self.seen;
        if word.foreign > 0 && word.alike > 0 {
            let mixed = word.latin > 0;
            let plain: String = word.text.chars().map(|c| alike(c).unwrap_or(c)).collect();
            // A word wholly of look-alikes is a disguise only if it then reads as one of ours.
            if mixed || (word.alike == word.foreign && self.lexicon.knows(&plain)) {
                seen.mixed_words += u32::from(word.latin + word.foreign >= 3);
                word.text = plain;
            }
        }
        if word.styled >= 2 && word.styled * 2 >= word.latin {
            seen.styled_words += 1;
        }
        if word.stray_marks > 1 || (word.stray_marks == 1 && word.latin > 0) {
            seen.marks += word.stray_marks;
        }
        if word.leet > 0
            && word.text.len() >= 3
            && let Some(plain) = unleet(&word.text, self.lexicon)
        {
            seen.leet_words += 1;
            word.text = plain;
        }
        let mut place = self.place();
        if word.capitals >= 2 && word.lower == 0 {
            place.add(Place::CAPITALS);
        }
        if word.text.len() >= MIN_JOINED && !self.lexicon.knows(&word.text) {
            let parts = self.lexicon.split(&word.text);
            if parts.len() >= 2 {
                for part in parts {
                    self.out.push(part, place, false);
                    place = Place::default();
                }
                return;
            }
        }
        self.out.push(&word.text, place, false);
    }
}

fn single(folded: &Folded, token: &Token) -> bool {
    token.range.len() == 1 && folded.word(token).as_bytes()[0].is_ascii_lowercase()
}

fn has_spelt_words(folded: &Folded) -> bool {
    let mut row = 0;
    folded.tokens.iter().any(|token| {
        row = if single(folded, token) { row + 1 } else { 0 };
        row >= MIN_SPELT
    })
}

/// Joins words that were written letter by letter. Wider gaps part words; where there are none, the vocabulary does.
fn join_spelt(folded: &Folded, lexicon: &Lexicon, seen: &mut Concealment) -> Folded {
    let mut out = Folded::default();
    let mut tokens = folded.tokens.as_slice();
    while let Some(first) = tokens.first() {
        let row = tokens
            .iter()
            .take_while(|token| single(folded, token))
            .count();
        if row < MIN_SPELT {
            let take = row.max(1);
            for token in &tokens[..take] {
                let word = folded.word(token);
                let glued = word.chars().next().is_some_and(script::ideographic);
                out.push(word, token.place, glued);
            }
            tokens = &tokens[take..];
            continue;
        }
        let (spelt, rest) = tokens.split_at(row);
        tokens = rest;
        let mut place = first.place;
        let mut words: Vec<String> = Vec::new();
        for (at, token) in spelt.iter().enumerate() {
            if at == 0 || token.place.has(Place::APART) {
                words.push(String::new());
            }
            if let Some(word) = words.last_mut() {
                word.push_str(folded.word(token));
            }
        }
        for word in &words {
            let parts = if lexicon.knows(word) {
                vec![word.as_str()]
            } else {
                lexicon.split(word)
            };
            for part in parts {
                seen.spaced_words += u32::from(lexicon.knows(part));
                out.push(part, place, false);
                place = Place::default();
            }
        }
        if let (Some(last), Some(end)) = (out.tokens.last_mut(), spelt.last())
            && end.place.has(Place::ENDS)
        {
            last.place.add(Place::ENDS);
        }
    }
    out
}
