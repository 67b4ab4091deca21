//! Text as a recogniser writes it, cut into words that the grammars understand.

use super::lexicon::{Entry, Lexicon, UNKNOWN};
use crate::redact::detector::Lang;

/// Longest word that is looked up, in folded bytes. German writes a year in 38.
pub(crate) const MAX_WORD: usize = 48;
/// Most words in a phrase of the tables.
pub(crate) const MAX_PHRASE: usize = 5;
/// Bytes from the start of a phrase to its end, at most. A word that may begin a phrase is not certain before that.
const PHRASE_BYTES: usize = 28;

/// What stands between a word and the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gap {
    /// The first word.
    Start,
    /// White space, or nothing.
    Space,
    /// A bare `-`, `.`, `,`, `/`, `_`, `:`, `@`, `+` or apostrophe with no white space.
    Sign(u8),
    /// A comma, with or without white space.
    Comma,
    /// The end of a sentence.
    Stop,
    /// Any other punctuation.
    Other,
}

/// What a word is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Word,
    /// One letter, folded to lower case.
    Letter(u8),
    /// Digits only; how many.
    Digits(u8),
    /// Letters and digits.
    Mixed,
}

/// One word, or one phrase that the tables know.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Token {
    pub(crate) start: usize,
    pub(crate) end: usize,
    /// The token depends on the text up to here: the character after it (an apostrophe would go on), or a whole phrase.
    pub(crate) reach: usize,
    pub(crate) gap: Gap,
    pub(crate) shape: Shape,
    /// Whether it begins with a capital.
    pub(crate) capital: bool,
    /// Value of a number in digits or a German compound; `NONE` otherwise.
    pub(crate) value: u32,
    pub(crate) entry: &'static Entry,
}

impl Token {
    /// Whether any of `flags` is set for the word.
    pub(crate) fn is(&self, flags: u32) -> bool {
        self.entry.is(flags)
    }

    /// Whether the word follows the one before with nothing but white space, a hyphen or a comma between.
    pub(crate) fn joined(&self) -> bool {
        matches!(
            self.gap,
            Gap::Space | Gap::Comma | Gap::Sign(b'-' | b'\'' | b',')
        )
    }
}

/// A folded word on the stack.
pub(crate) struct Folded {
    bytes: [u8; 2 * MAX_WORD],
    len: usize,
}

impl Folded {
    const fn new() -> Self {
        Self {
            bytes: [0; 2 * MAX_WORD],
            len: 0,
        }
    }

    fn push(&mut self, byte: u8) {
        if self.len < self.bytes.len() {
            self.bytes[self.len] = byte;
        }
        // Past the end the length alone grows, so that no cut word is taken for a whole one.
        self.len += 1;
    }

    fn word(&mut self, word: &str) {
        for c in word.chars() {
            fold(c, self);
        }
    }

    pub(crate) fn get(&self) -> &[u8] {
        if self.len <= self.bytes.len() {
            &self.bytes[..self.len]
        } else {
            b""
        }
    }
}

/// A character as the tables write it: lower case, no accents, no apostrophes.
fn fold(c: char, out: &mut Folded) {
    match c {
        'a'..='z' | '0'..='9' => out.push(c as u8),
        'A'..='Z' => out.push(c.to_ascii_lowercase() as u8),
        '\'' | '’' | '\u{300}'..='\u{36f}' => {}
        'à'..='å' | 'À'..='Å' | 'ª' | 'ă' | 'ą' => out.push(b'a'),
        'ç' | 'Ç' | 'ć' | 'č' => out.push(b'c'),
        'è'..='ë' | 'È'..='Ë' | 'ę' | 'ě' => out.push(b'e'),
        'ì'..='ï' | 'Ì'..='Ï' => out.push(b'i'),
        'ñ' | 'Ñ' | 'ń' => out.push(b'n'),
        'ò'..='ö' | 'Ò'..='Ö' | 'ø' | 'Ø' | 'º' => out.push(b'o'),
        'ù'..='ü' | 'Ù'..='Ü' => out.push(b'u'),
        'ý' | 'ÿ' | 'Ý' => out.push(b'y'),
        'ś' | 'š' | 'ş' => out.push(b's'),
        'ł' => out.push(b'l'),
        'ź' | 'ż' | 'ž' => out.push(b'z'),
        'ß' => {
            out.push(b's');
            out.push(b's');
        }
        'æ' | 'Æ' => {
            out.push(b'a');
            out.push(b'e');
        }
        'œ' | 'Œ' => {
            out.push(b'o');
            out.push(b'e');
        }
        _ => out.push(b'?'),
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '\u{300}'..='\u{36f}')
}

/// The words of `text`, one after the other: byte range and the gap before.
pub(crate) struct Words<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Words<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }
}

impl Iterator for Words<'_> {
    type Item = (usize, usize, Gap);

    fn next(&mut self) -> Option<Self::Item> {
        let from = self.at;
        let rest = &self.text[from..];
        let start = from + rest.find(is_word)?;
        let gap = gap(&self.text[from..start], from == 0);
        let mut end = self.text.len();
        let mut chars = self.text[start..].char_indices().peekable();
        while let Some((at, c)) = chars.next() {
            if is_word(c) {
                continue;
            }
            // An apostrophe stays inside "it's" and "o'clock" and parts "m'appelle".
            if matches!(c, '\'' | '’')
                && at > 0
                && let Some(&(_, next)) = chars.peek()
                && next.is_alphabetic()
                && !elided(&self.text[start..start + at], next)
            {
                continue;
            }
            end = start + at;
            break;
        }
        self.at = end;
        Some((start, end, gap))
    }
}

/// Whether French elided the word before an apostrophe.
fn elided(before: &str, next: char) -> bool {
    let mut folded = Folded::new();
    folded.word(before);
    matches!(
        folded.get(),
        b"l" | b"d" | b"j" | b"m" | b"n" | b"s" | b"c" | b"t" | b"qu"
    ) && matches!(
        next.to_ascii_lowercase(),
        'a' | 'e' | 'i' | 'o' | 'u' | 'y' | 'h' | 'é' | 'è' | 'ê' | 'à' | 'â' | 'î' | 'ô' | 'É'
    )
}

fn gap(between: &str, first: bool) -> Gap {
    let bytes = between.as_bytes();
    match bytes {
        [] if first => Gap::Start,
        [b'+'] | [b' ', b'+'] => Gap::Sign(b'+'),
        _ if first => Gap::Start,
        [] | [b' '] => Gap::Space,
        [sign @ (b'-' | b'.' | b'/' | b'_' | b':' | b'@' | b'\'' | b',')] => Gap::Sign(*sign),
        _ if between.chars().all(char::is_whitespace) => Gap::Space,
        _ if between.contains(['.', '?', '!', ';', '…']) => Gap::Stop,
        _ if between.trim() == "," => Gap::Comma,
        _ if between.trim() == "-" => Gap::Sign(b'-'),
        _ if between.trim() == "'" || between.trim() == "’" => Gap::Sign(b'\''),
        _ => Gap::Other,
    }
}

/// A word or phrase as the keys of the tables write it.
pub(crate) fn key(text: &str) -> Vec<u8> {
    let mut key = Vec::new();
    for (start, end, _) in Words::new(text) {
        let mut folded = Folded::new();
        folded.word(&text[start..end]);
        if !key.is_empty() {
            key.push(b' ');
        }
        key.extend_from_slice(folded.get());
    }
    key
}

/// Looks one word up.
fn look_up(text: &str, start: usize, end: usize, gap: Gap, lexicon: &'static Lexicon) -> Token {
    let word = &text[start..end];
    let mut folded = Folded::new();
    folded.word(word);
    let bytes = folded.get();
    let digits = bytes.iter().filter(|byte| byte.is_ascii_digit()).count();
    let shape = match bytes {
        [letter @ b'a'..=b'z'] => Shape::Letter(*letter),
        _ if digits == 0 => Shape::Word,
        _ if digits == bytes.len() => Shape::Digits(u8::try_from(digits).unwrap_or(u8::MAX)),
        _ => Shape::Mixed,
    };
    let entry = if bytes.len() <= MAX_WORD {
        lexicon.get(bytes)
    } else {
        None
    };
    let mut value = super::lexicon::NONE;
    if digits == bytes.len() && digits > 0 && digits <= 9 {
        value = bytes
            .iter()
            .fold(0, |sum, byte| sum * 10 + u32::from(byte - b'0'));
    } else if entry.is_none() && lexicon.lang == Lang::De && bytes.len() >= 7 {
        value = lexicon.compound(bytes).unwrap_or(super::lexicon::NONE);
    }
    let entry = entry.unwrap_or(&UNKNOWN);
    if value == super::lexicon::NONE {
        value = entry.num;
    }
    Token {
        start,
        end,
        reach: if entry.phrase > 1 {
            start + PHRASE_BYTES.max(end - start + 3)
        } else {
            end + 3
        },
        gap,
        shape,
        capital: word.chars().next().is_some_and(char::is_uppercase),
        value,
        entry,
    }
}

/// Cuts `text` into `tokens`, longest phrases first.
pub(crate) fn tokenize(text: &str, lexicon: &'static Lexicon, tokens: &mut Vec<Token>) {
    tokens.clear();
    for (start, end, gap) in Words::new(text) {
        tokens.push(look_up(text, start, end, gap, lexicon));
    }
    let mut kept = 0;
    let mut at = 0;
    while at < tokens.len() {
        let mut token = tokens[at];
        let mut taken = 1;
        if token.entry.phrase > 1 {
            let (found, reach) = phrase(text, &tokens[at..], lexicon);
            token.reach = reach.unwrap_or(token.reach).max(token.end + 3);
            if let Some((words, entry)) = found {
                token.end = tokens[at + words - 1].end;
                token.reach = token.reach.max(token.end + 3);
                token.entry = entry;
                token.value = entry.num;
                token.shape = Shape::Word;
                taken = words;
            }
        }
        tokens[kept] = token;
        kept += 1;
        at += taken;
    }
    tokens.truncate(kept);
}

/// The longest phrase at the head of `tokens`: how many words, and what it means. Then the byte up to which that depends on the
/// text, if a word was seen with which no phrase goes on.
fn phrase(
    text: &str,
    tokens: &[Token],
    lexicon: &'static Lexicon,
) -> (Option<(usize, &'static Entry)>, Option<usize>) {
    let Some(head) = tokens.first() else {
        return (None, None);
    };
    let most = usize::from(head.entry.phrase).min(tokens.len());
    let mut joined = Folded::new();
    joined.word(&text[head.start..head.end]);
    let mut found = None;
    for (words, token) in tokens[..most].iter().enumerate().skip(1) {
        if matches!(token.gap, Gap::Comma | Gap::Stop | Gap::Other)
            || token.end > head.start + PHRASE_BYTES
        {
            break;
        }
        joined.push(b' ');
        joined.word(&text[token.start..token.end]);
        let entry = lexicon.get(joined.get());
        if let Some(entry) = entry {
            found = Some((words + 1, entry));
        }
        if !lexicon.is_head(joined.get()) {
            return (found, Some(token.end + 3));
        }
    }
    (found, None)
}

/// The folded text of a token, for what the tables cannot say.
pub(crate) fn folded(text: &str, token: &Token) -> Folded {
    let mut folded = Folded::new();
    folded.word(&text[token.start..token.end]);
    folded
}

/// A word as the keys of the tables write it.
pub(crate) fn fold_word(word: &str) -> Folded {
    let mut folded = Folded::new();
    folded.word(word);
    folded
}
