//! What the agent asked for, read from what it said last.

use std::ops::{BitAnd, BitOr, BitOrAssign};

use crate::redact::{
    detector::Lang,
    kind::Kind,
    spoken::{
        lexicon::{Lexicon, flag},
        token::{Gap, Token, tokenize},
    },
};

/// A set of things that can be asked for, or announced by the caller ("my card number is").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Asked(u32);

impl Asked {
    /// Nothing.
    pub const NOTHING: Self = Self(0);
    /// Card number.
    pub const CARD: Self = Self(1);
    /// Card verification value.
    pub const CVV: Self = Self(1 << 1);
    /// Expiry date of a card.
    pub const EXPIRY: Self = Self(1 << 2);
    /// Telephone number.
    pub const PHONE: Self = Self(1 << 3);
    /// E-mail address.
    pub const EMAIL: Self = Self(1 << 4);
    /// Date of birth.
    pub const BIRTH: Self = Self(1 << 5);
    /// Postal code.
    pub const POSTCODE: Self = Self(1 << 6);
    /// Street address.
    pub const ADDRESS: Self = Self(1 << 7);
    /// Name, or a part of one.
    pub const NAME: Self = Self(1 << 8);
    /// Social security, passport, licence, plate or another number of the state.
    pub const NATIONAL_ID: Self = Self(1 << 9);
    /// Account, membership, policy, order or reference number.
    pub const ACCOUNT: Self = Self(1 << 10);
    /// Password or one-time code.
    pub const PASSWORD: Self = Self(1 << 11);
    /// PIN.
    pub const PIN: Self = Self(1 << 12);
    /// International bank account number.
    pub const IBAN: Self = Self(1 << 13);
    /// Some number or code.
    pub const NUMBER: Self = Self(1 << 14);
    /// The letters of something.
    pub const SPELLING: Self = Self(1 << 15);

    /// Everything that is said in digits.
    pub(crate) const DIGITS: Self = Self(
        Self::CARD.0
            | Self::CVV.0
            | Self::EXPIRY.0
            | Self::PHONE.0
            | Self::BIRTH.0
            | Self::POSTCODE.0
            | Self::ADDRESS.0
            | Self::NATIONAL_ID.0
            | Self::ACCOUNT.0
            | Self::PASSWORD.0
            | Self::PIN.0
            | Self::IBAN.0
            | Self::NUMBER.0,
    );

    /// The set of a `cue` line in the lexicon; empty for a word it does not know.
    pub(crate) fn named(name: &str) -> Self {
        match name {
            "card" => Self::CARD,
            "cvv" => Self::CVV,
            "expiry" => Self::EXPIRY,
            "phone" => Self::PHONE,
            "email" => Self::EMAIL,
            "birth" => Self::BIRTH,
            "postcode" => Self::POSTCODE,
            "address" => Self::ADDRESS,
            "name" => Self::NAME,
            "ssn" => Self::NATIONAL_ID,
            "account" => Self::ACCOUNT,
            "password" => Self::PASSWORD,
            "pin" => Self::PIN,
            "iban" => Self::IBAN,
            "number" => Self::NUMBER,
            "spell" => Self::SPELLING,
            _ => Self::NOTHING,
        }
    }

    /// Whether the sets share anything.
    pub fn any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether nothing is in it.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The kind of an answer that is no clearer than the question; the most sensitive of several.
    pub(crate) fn kind(self, lang: Lang) -> Kind {
        const KINDS: [(Asked, Kind); 14] = [
            (Asked::CVV, Kind::Cvv),
            (Asked::CARD, Kind::Card),
            (Asked::EXPIRY, Kind::CardExpiry),
            (Asked::PIN, Kind::Pin),
            (Asked::PASSWORD, Kind::Password),
            (Asked::IBAN, Kind::Iban),
            (Asked::NATIONAL_ID, Kind::NationalId),
            (Asked::BIRTH, Kind::BirthDate),
            (Asked::POSTCODE, Kind::Postcode),
            (Asked::PHONE, Kind::Phone),
            (Asked::EMAIL, Kind::Email),
            (Asked::ACCOUNT, Kind::BankAccount),
            (Asked::ADDRESS, Kind::Address),
            (Asked::NAME, Kind::Name),
        ];
        let found = KINDS
            .iter()
            .find(|(asked, _)| self.any(*asked))
            .map(|(_, kind)| kind.clone());
        match found {
            Some(Kind::NationalId) if lang == Lang::En => Kind::Ssn,
            Some(kind) => kind,
            None => Kind::Number,
        }
    }

    /// What `said` asks for.
    ///
    /// The last sentence that asks for anything counts. One that mentions a thing in passing ("thanks, your card is
    /// charged") asks for it only if it is a question, holds a word of asking, or is as short as "and the zip".
    pub fn by(said: &str, lang: Lang) -> Self {
        Self::by_in(said, lang, &mut Vec::new())
    }

    /// As [`by`](Self::by), with a table to reuse.
    pub(crate) fn by_in(said: &str, lang: Lang, tokens: &mut Vec<Token>) -> Self {
        // A question stands at the end of what was said.
        let said = tail(said, 600);
        tokenize(said, Lexicon::of(lang), tokens);
        let mut end = tokens.len();
        while end > 0 {
            let start = (0..end)
                .rev()
                .find(|&at| tokens[at].gap == Gap::Stop)
                .unwrap_or(0);
            let sentence = &tokens[start..end];
            let asked = sentence
                .iter()
                .fold(Self::NOTHING, |all, token| all | token.entry.cue);
            if !asked.is_empty() && asks(said, sentence) {
                return asked;
            }
            // "Is it for a birthday? What time would you like?": the later question is the one that is answered.
            if asked.is_empty() && sentence.iter().any(|token| token.is(flag::WH)) {
                return Self::NOTHING;
            }
            end = start;
        }
        Self::NOTHING
    }
}

/// The last bytes of `text`, at most `bytes`, from a character's start.
fn tail(text: &str, bytes: usize) -> &str {
    let from = text.len().saturating_sub(bytes);
    let from = (from..=text.len())
        .find(|&at| text.is_char_boundary(at))
        .unwrap_or(text.len());
    &text[from..]
}

fn asks(said: &str, sentence: &[Token]) -> bool {
    let question = sentence.last().is_some_and(|last| {
        said[last.end..]
            .chars()
            .find(|c| !c.is_whitespace())
            .is_some_and(|c| c == '?')
    });
    question || sentence.len() <= 6 || sentence.iter().any(|token| token.is(flag::REQUEST))
}

impl BitOr for Asked {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Asked {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl BitAnd for Asked {
    type Output = Self;

    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(said: &str, lang: Lang, asked: Asked) {
        assert_eq!(Asked::by(said, lang), asked, "{said}");
    }

    #[test]
    fn e1_the_last_question_counts() {
        check("could i get your full name please", Lang::En, Asked::NAME);
        check(
            "and what's the best number to reach you",
            Lang::En,
            Asked::PHONE,
        );
        check("what was your date of birth again", Lang::En, Asked::BIRTH);
        check("and the zip?", Lang::En, Asked::POSTCODE);
        check("can you spell that for me", Lang::En, Asked::SPELLING);
        check(
            "Thanks, your card is charged. What's your email?",
            Lang::En,
            Asked::EMAIL,
        );
        check(
            "What's your postcode? Please speak slowly.",
            Lang::En,
            Asked::POSTCODE,
        );
        check(
            "Is it for a birthday? What time would you like?",
            Lang::En,
            Asked::NOTHING,
        );
        check(
            "how many people will be coming on that day this time",
            Lang::En,
            Asked::NOTHING,
        );
        check("¿Cuál es su fecha de nacimiento?", Lang::Es, Asked::BIRTH);
        check("comment vous appelez-vous", Lang::Fr, Asked::NAME);
        check("wie lautet ihre postleitzahl", Lang::De, Asked::POSTCODE);
        check("qual é o seu cpf", Lang::Pt, Asked::NATIONAL_ID);
    }
}
