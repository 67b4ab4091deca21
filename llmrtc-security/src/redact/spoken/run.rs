//! Runs: digits, letters and signs said one after the other, with fillers and corrections between.

use super::{
    Reader,
    lexicon::{NONE, flag},
    number::Style,
    token::{Gap, Shape, Token, folded},
};
use crate::redact::{context::Asked, detector::Lang};

/// Most characters of a run's code that are kept to decide by.
const CODE: usize = 40;
/// Most glue tokens ("uh", "no wait", "dash") between two parts of a run.
const MAX_GLUE: usize = 4;

/// The characters that a run says, as far as they matter: lower-case letters and digits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Code {
    bytes: [u8; CODE],
    len: usize,
}

impl Code {
    const EMPTY: Self = Self {
        bytes: [0; CODE],
        len: 0,
    };

    fn push(&mut self, byte: u8) {
        if self.len < CODE {
            self.bytes[self.len] = byte;
            self.len += 1;
        }
    }

    pub(crate) fn get(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// What a run holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    /// First token.
    pub(crate) start: usize,
    /// Token after the last.
    pub(crate) end: usize,
    pub(crate) code: Code,
    pub(crate) digits: usize,
    pub(crate) letters: usize,
    /// Digits said one by one.
    pub(crate) singles: usize,
    pub(crate) pairs: usize,
    pub(crate) cardinals: usize,
    pub(crate) literals: usize,
    /// Parts: numbers, letters, words of mixed shape.
    pub(crate) atoms: usize,
    /// "b as in bravo", "capital j", radio words: somebody spells.
    pub(crate) spelled: usize,
    /// Numbers with a dot between, all below 256 so far; 0 once one is not.
    pub(crate) octets: usize,
    pub(crate) dots: usize,
    pub(crate) dashes: usize,
    pub(crate) colons: usize,
    pub(crate) slashes: usize,
    octet: u64,
    last_letter: bool,
}

impl Run {
    fn new(start: usize) -> Self {
        Self {
            start,
            end: start,
            code: Code::EMPTY,
            digits: 0,
            letters: 0,
            singles: 0,
            pairs: 0,
            cardinals: 0,
            literals: 0,
            atoms: 0,
            spelled: 0,
            octets: 1,
            dots: 0,
            dashes: 0,
            colons: 0,
            slashes: 0,
            octet: 0,
            last_letter: false,
        }
    }

    fn digit_text(&mut self, digits: &[u8]) {
        for &digit in digits {
            self.code.push(digit);
            self.octet = (self.octet * 10 + u64::from(digit - b'0')).min(10_000);
        }
        self.digits += digits.len();
        self.last_letter = false;
    }

    fn letter(&mut self, letter: u8) {
        self.code.push(letter);
        self.letters += 1;
        self.last_letter = true;
    }
}

impl Reader<'_> {
    /// The token at `at`, if all it depends on lies before byte `limit`; of a text that ends before it nothing more can come.
    pub(crate) fn seen(&self, at: usize, limit: usize) -> Option<&Token> {
        self.tokens
            .get(at)
            .filter(|token| token.reach < limit || self.text.len() < limit)
    }

    /// The run that begins at token `at`, as far as byte `limit`.
    pub(crate) fn run(&self, at: usize, limit: usize, asked: Asked) -> Option<Run> {
        let mut run = self.first(at, limit, asked)?;
        while self.step(&mut run, limit, asked) {}
        Some(run)
    }

    /// The first part of a run.
    fn first(&self, at: usize, limit: usize, asked: Asked) -> Option<Run> {
        let mut run = Run::new(at);
        // "plus forty four"
        let first = self.seen(at, limit)?;
        let from = if first.entry.sign == b'+' { at + 1 } else { at };
        let next = self.atom(from, limit, asked, &mut run)?;
        run.end = next;
        Some(run)
    }

    /// The end of a run that was decided on: read again from its start, each step seeing no more than its own horizon.
    pub(crate) fn run_end(&self, run: &Run, asked: Asked) -> usize {
        let limit = self.tokens[run.start].start + super::WINDOW;
        let Some(mut whole) = self.first(run.start, limit, asked) else {
            return run.end;
        };
        while let Some(token) = self.tokens.get(whole.end) {
            if !self.step(&mut whole, token.start + super::WINDOW, asked) {
                break;
            }
        }
        whole.end.max(run.end)
    }

    /// Adds glue and the next part.
    fn step(&self, run: &mut Run, limit: usize, asked: Asked) -> bool {
        let mut at = run.end;
        let mut dots = 0;
        let mut dashes = 0;
        let mut colons = 0;
        let mut slashes = 0;
        while at <= run.end + MAX_GLUE {
            let Some(token) = self.seen(at, limit) else {
                return false;
            };
            match token.gap {
                Gap::Other => return false,
                // A pause, which the recogniser took for the end of a sentence.
                Gap::Stop if run.digits < 2 && run.letters < 2 => return false,
                Gap::Sign(b'.') => dots += 1,
                Gap::Sign(b'-') => dashes += 1,
                Gap::Sign(b':') => colons += 1,
                // "1,000,000"
                Gap::Sign(b',') if matches!(token.shape, Shape::Digits(_)) => return false,
                Gap::Sign(b'/') => slashes += 1,
                Gap::Sign(b'@') => return false,
                _ => {}
            }
            let mut next = *run;
            next.dots += dots;
            next.dashes += dashes;
            next.colons += colons;
            next.slashes += slashes;
            if dots > 0 {
                next.octets = if run.octet < 256 && run.octets > 0 {
                    run.octets + 1
                } else {
                    0
                };
                next.octet = 0;
            }
            if (at == run.end
                || token.entry.is(flag::CAPS)
                || !token.entry.is(flag::FIX | flag::THEN))
                && let Some(end) = self.atom(at, limit, asked, &mut next)
            {
                *run = next;
                run.end = end;
                return true;
            }
            match token.entry.sign {
                b'.' => dots += 1,
                b'-' => dashes += 1,
                b'@' | b'+' => return false,
                0 if token.is(flag::GLUE) || self.is_accented_e(at) => {}
                0 => return false,
                _ => {}
            }
            at += 1;
        }
        false
    }

    /// One part of a run at token `at`; the token after it.
    fn atom(&self, at: usize, limit: usize, asked: Asked, run: &mut Run) -> Option<usize> {
        let token = *self.seen(at, limit)?;
        if token.entry.repeat > 1 {
            return self.repeated(at, limit, asked, run);
        }
        if token.is(flag::CAPS)
            && self
                .seen(at + 1, limit)
                .is_some_and(|next| self.is_letter(next))
        {
            let next = self.atom(at + 1, limit, asked, run)?;
            run.spelled += 1;
            return Some(next);
        }
        if let Some(next) = self.letter_atom(at, limit, asked, run) {
            return Some(next);
        }
        if let Some(number) = self.number(at, limit) {
            // An article ("una", "eine", "um") is a digit only among digits.
            if self.is_article(&token) && !self.digit_beside(at, number.next, limit, run) {
                return None;
            }
            run.atoms += 1;
            match number.style {
                Style::Literal => {
                    run.literals += 1;
                    let digits = &self.text.as_bytes()[token.start..token.end];
                    if digits.is_ascii() {
                        run.digit_text(digits);
                    }
                }
                style => {
                    let mut buffer = [0_u8; 20];
                    run.digit_text(decimal(number.value, &mut buffer));
                    match style {
                        Style::Single => run.singles += 1,
                        Style::Pair => run.pairs += 1,
                        _ => run.cardinals += 1,
                    }
                }
            }
            return Some(number.next);
        }
        if token.shape == Shape::Mixed {
            // "sw1a", "1aa", "m4"; not "4th" or "7pm".
            let word = folded(self.text, &token);
            let word = word.get();
            if word.len() > 24 || is_measured(word) {
                return None;
            }
            run.atoms += 1;
            for &byte in word {
                if byte.is_ascii_digit() {
                    run.digit_text(&[byte])
                } else {
                    run.letter(byte)
                }
            }
            return Some(at + 1);
        }
        self.guessed(at, limit, asked, run)
    }

    /// "double seven", "triple oh", "double l".
    fn repeated(&self, at: usize, limit: usize, asked: Asked, run: &mut Run) -> Option<usize> {
        let times = self.tokens[at].entry.repeat;
        let mut next = at + 1;
        // "dreimal die sieben"
        if self.seen(next, limit).is_some_and(|token| {
            token.is(flag::STOP) && token.value == NONE && !matches!(token.shape, Shape::Letter(_))
        }) {
            next += 1;
        }
        let mut part = Run::new(next);
        let end = self.atom(next, limit, asked, &mut part)?;
        if part.digits + part.letters > 2 || self.tokens[next].entry.repeat > 1 {
            return None;
        }
        run.atoms += 1;
        for _ in 0..times {
            for &byte in part.code.get() {
                if byte.is_ascii_digit() {
                    run.digit_text(&[byte]);
                    run.singles += 1;
                } else {
                    run.letter(byte);
                }
            }
        }
        Some(end)
    }

    /// A letter: "j", "jay", "b as in bravo", "bravo".
    fn letter_atom(&self, at: usize, limit: usize, asked: Asked, run: &mut Run) -> Option<usize> {
        let token = *self.seen(at, limit)?;
        let letter = match token.shape {
            Shape::Letter(letter) => letter,
            Shape::Word if token.entry.letter != 0 => token.entry.letter,
            _ => return None,
        };
        if token.entry.sign != 0 && token.entry.letter == 0 || self.is_accented_e(at) {
            return None;
        }
        // "b as in bravo", "b for bertie", "b bravo"
        let says = |at: usize| {
            self.seen(at, limit).is_some_and(|word| {
                word.shape == Shape::Word && folded(self.text, word).get().first() == Some(&letter)
            })
        };
        if matches!(token.shape, Shape::Letter(_)) || token.is(flag::LETTERNAME) {
            let asin = self
                .seen(at + 1, limit)
                .is_some_and(|next| next.is(flag::ASIN) && next.joined());
            if asin && says(at + 2) {
                run.letter(letter);
                run.atoms += 1;
                run.spelled += 1;
                return Some(at + 3);
            }
            if says(at + 1)
                && self.tokens[at + 1].is(flag::TABLE)
                && self.tokens[at + 1].entry.letter == letter
            {
                run.letter(letter);
                run.atoms += 1;
                run.spelled += 1;
                return Some(at + 2);
            }
        }
        let strong = match token.shape {
            // "o" is a zero among digits, and both it and other one-letter words are words among words.
            Shape::Letter(b'o') if token.value == 0 && !run.last_letter => {
                let letters = self.seen(at + 1, limit).is_some_and(|next| {
                    matches!(next.shape, Shape::Letter(other) if other != b'o') && next.joined()
                });
                if !letters {
                    return None;
                }
                true
            }
            Shape::Letter(_) if token.is(flag::STOP | flag::AND) || token.entry.value_is_word() => {
                self.letter_beside(at, limit, asked, run)
            }
            Shape::Letter(_) => true,
            // Letter names and radio words need one of their like beside them.
            _ => {
                let weak = token.is(flag::STOP | flag::COMMON) || token.value != NONE;
                let asked = asked.any(
                    Asked::POSTCODE
                        | Asked::SPELLING
                        | Asked::EMAIL
                        | Asked::NATIONAL_ID
                        | Asked::ACCOUNT
                        | Asked::NAME,
                );
                let after = self.seen(at + 1, limit).is_some_and(|next| {
                    next.joined()
                        && (self.is_letter(next)
                            || (!weak && next.value != NONE && next.value < 10))
                });
                let before = run.atoms > 0 && (run.last_letter || !weak || asked);
                before || after
            }
        };
        if !strong {
            return None;
        }
        run.letter(letter);
        run.atoms += 1;
        if token.is(flag::TABLE) {
            run.spelled += 1;
        }
        Some(at + 1)
    }

    /// A one-letter word ("a", "i", "y", "e") counts as a letter only among letters or between digits.
    fn letter_beside(&self, at: usize, limit: usize, asked: Asked, run: &Run) -> bool {
        let after = self.seen(at + 1, limit);
        let letter_after =
            after.is_some_and(|next| matches!(next.shape, Shape::Letter(_)) && next.joined());
        if run.atoms == 0 {
            // "a one two three", if it was a code that was asked for
            let code = asked.any(Asked::NATIONAL_ID | Asked::ACCOUNT | Asked::POSTCODE)
                && after.is_some_and(|next| {
                    next.joined() && (next.value < 10 || matches!(next.shape, Shape::Digits(_)))
                });
            return letter_after || code;
        }
        let ends = after.is_none_or(|next| {
            !next.joined()
                || next.value != NONE
                || matches!(next.shape, Shape::Digits(_) | Shape::Mixed)
                || next.entry.sign != 0
        });
        // "… ocho cuatro uno seis a": the check letter of a Spanish identity number is sometimes a word.
        let check = self.lang == Lang::Es
            && asked.any(Asked::NATIONAL_ID)
            && run.digits + run.letters == 8
            && run.cardinals == 0;
        letter_after
            || (run.last_letter && self.tokens[at].gap == Gap::Space)
            || ((run.letters > 0 || check) && ends)
    }

    /// Words that a recogniser writes for letters and digits, believed only where a code was asked for and among its parts.
    fn guessed(&self, at: usize, limit: usize, asked: Asked, run: &mut Run) -> Option<usize> {
        if !asked.any(Asked::POSTCODE | Asked::DIGITS) || asked.any(Asked::NAME | Asked::SPELLING) {
            return None;
        }
        let token = self.seen(at, limit)?;
        if token.shape != Shape::Word {
            return None;
        }
        let beside = |near: usize| {
            self.seen(near, limit).is_some_and(|near| {
                matches!(
                    near.shape,
                    Shape::Letter(_) | Shape::Digits(_) | Shape::Mixed
                ) || (near.value != NONE && near.value < 100)
                    || near.entry.repeat > 1
            })
        };
        let after = beside(at + 1);
        let before = run.atoms > 0 && run.end == at;
        let postcode = asked.any(Asked::POSTCODE);
        if token.entry.weak_digit != 0 && before && after {
            run.digit_text(&[token.entry.weak_digit]);
        } else if postcode
            && token.entry.weak_letter != 0
            && after
            && (before || run.atoms == 0 && self.sounds_like_a_letter(at, limit))
        {
            run.letter(token.entry.weak_letter);
        } else if postcode
            && token.end - token.start <= 3
            && !token.is(flag::STOP)
            && !(token.is(flag::COMMON) && (token.end - token.start > 2 || !before))
            && token.value == NONE
            && token.entry.cue.is_empty()
            && token.entry.month == 0
            && token.entry.sign == 0
            && (before || after)
        {
            // "sw", "bt", "ew"
            let word = folded(self.text, token);
            for &byte in word.get() {
                run.letter(byte);
            }
        } else {
            return None;
        }
        run.atoms += 1;
        Some(at + 1)
    }

    /// "see b five": a word at the head of a code that sounds like a letter and can hardly be meant.
    fn sounds_like_a_letter(&self, at: usize, limit: usize) -> bool {
        !self.tokens[at].is(flag::STOP)
            || matches!(
                folded(self.text, &self.tokens[at]).get(),
                b"see" | b"be" | b"you" | b"why" | b"are"
            ) && self
                .seen(at + 1, limit)
                .is_some_and(|next| matches!(next.shape, Shape::Letter(_)))
    }

    /// Whether a token is a letter on its own or names one.
    pub(crate) fn is_letter(&self, token: &Token) -> bool {
        matches!(token.shape, Shape::Letter(_))
            || (token.entry.letter != 0 && !token.is(flag::STOP | flag::COMMON))
    }

    /// Portuguese "é", the verb and the sound of thinking, which folds to the letter and the "and" that is written "e".
    fn is_accented_e(&self, at: usize) -> bool {
        let token = &self.tokens[at];
        self.lang == Lang::Pt && matches!(&self.text[token.start..token.end], "é" | "É")
    }

    /// "una", "eine", "um": one, and more often an article.
    fn is_article(&self, token: &Token) -> bool {
        token.value == 1
            && matches!(token.shape, Shape::Word)
            && matches!(
                folded(self.text, token).get(),
                b"un"
                    | b"una"
                    | b"une"
                    | b"ein"
                    | b"eine"
                    | b"einen"
                    | b"einem"
                    | b"einer"
                    | b"um"
                    | b"uma"
            )
    }

    /// Whether an article stands among digits: beside one, or after some and before no noun.
    fn digit_beside(&self, at: usize, next: usize, limit: usize, run: &Run) -> bool {
        let digit = |token: &Token| token.value != NONE || token.entry.repeat > 1;
        let noun = |token: &Token| {
            token.joined() && !token.is(flag::GLUE) && !digit(token) && token.entry.sign == 0
        };
        if run.digits >= 2 && run.cardinals == 0 && !self.seen(next, limit).is_some_and(noun) {
            return true;
        }
        self.seen(next, limit)
            .is_some_and(|token| digit(token) && token.joined())
            || at
                .checked_sub(1)
                .is_some_and(|before| digit(&self.tokens[before]) && self.tokens[at].joined())
    }
}

impl super::lexicon::Entry {
    /// Whether a single letter is a word of its own in this language.
    fn value_is_word(&self) -> bool {
        self.is(flag::FILLER | flag::THISIS | flag::TIMEPREP | flag::LEAD)
    }
}

/// The digits of a number.
fn decimal(mut value: u64, buffer: &mut [u8; 20]) -> &[u8] {
    let mut at = buffer.len();
    loop {
        at -= 1;
        buffer[at] = b'0' + u8::try_from(value % 10).unwrap_or(0);
        value /= 10;
        if value == 0 {
            return &buffer[at..];
        }
    }
}

/// "4th", "7pm", "20kg", "5g": a number with its unit or ending.
fn is_measured(word: &[u8]) -> bool {
    let digits = word.iter().take_while(|byte| byte.is_ascii_digit()).count();
    digits > 0
        && matches!(
            &word[digits..],
            b"st"
                | b"nd"
                | b"rd"
                | b"th"
                | b"pm"
                | b"am"
                | b"p"
                | b"kg"
                | b"g"
                | b"km"
                | b"cm"
                | b"mm"
                | b"ml"
                | b"l"
                | b"h"
                | b"k"
                | b"er"
                | b"ere"
                | b"e"
                | b"eme"
                | b"s"
                | b"x"
                | b"gb"
                | b"mb"
                | b"mph"
                | b"min"
                | b"ft"
                | b"lb"
                | b"lbs"
                | b"o"
                | b"a"
        )
}
