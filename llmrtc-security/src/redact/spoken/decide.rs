//! What a run is: by what was asked or announced, by checksum and shape, by how many digits it has and how they were said.
//!
//! Without a cue the rule is that of speech analytics: every number goes, except ordinals, percentages, times, prices,
//! short decimals and quantities with a unit.

use super::{
    Found, Reader, WINDOW,
    lexicon::flag,
    run::Run,
    token::{Gap, Token, folded},
};
use crate::redact::{context::Asked, detector::Lang, kind::Kind};

/// Fewest digits that are personal whatever they are called.
const LONG: usize = 7;
/// Tokens after a run among which its meaning is looked for ("… is my pin").
const AFTER: usize = 4;

pub(super) enum Verdict {
    /// Nothing that could be an identifier begins here.
    NoRun,
    /// A run up to this token, of no interest.
    Harmless(usize),
    Found(Found),
}

impl Reader<'_> {
    /// Judges the run that begins at token `at`. `announced`: by the caller, shortly before.
    pub(super) fn judge(
        &self,
        at: usize,
        limit: usize,
        announced: Asked,
        last_name: Option<usize>,
    ) -> Verdict {
        let context = self.asked | announced;
        if let Some(end) = self.written_postcode(at, limit) {
            return Verdict::Found(Found {
                start: at,
                end,
                kind: Kind::Postcode,
                score: 0.85,
            });
        }
        let Some(run) = self.run(at, limit, context) else {
            return Verdict::NoRun;
        };
        if self.is_word_after_all(&run) {
            return Verdict::NoRun;
        }
        match self.kind_of(&run, limit, announced, last_name) {
            Some((kind, score)) => {
                let mut end = self.run_end(&run, context);
                if kind == Kind::Email {
                    end = self.rest_of_email(end);
                } else if kind == Kind::Address {
                    end = self.rest_of_street(end);
                }
                Verdict::Found(Found {
                    start: run.start,
                    end,
                    kind,
                    score,
                })
            }
            // Two radio words or a lone letter may still be a name ("victor", "j").
            None if run.digits == 0 && run.literals == 0 => Verdict::NoRun,
            None => Verdict::Harmless(run.end),
        }
    }

    /// A run of digits at token `at` that is no time, price, quantity or room: the token after, and its digits.
    pub(super) fn digit_run(&self, at: usize) -> Option<(usize, super::run::Code)> {
        let limit = self.tokens[at].start + WINDOW;
        let mut run = self.run(at, limit, Asked::NOTHING)?;
        run.end = self.run_end(&run, Asked::NOTHING);
        let next = self.tokens.get(run.end);
        let number = run.letters == 0 && run.digits > 0;
        (number
            && !self.is_measured(&run, next)
            && !self.is_time(&run, next)
            && !self.is_place(&run))
        .then_some((run.end, run.code))
    }

    /// "… wallaby way sydney" after the number of a house.
    fn rest_of_street(&self, mut end: usize) -> usize {
        while self.tokens.get(end).is_some_and(|token| {
            token.joined()
                && (!token.is(flag::STOP) || token.is(flag::PARTICLE))
                && token.entry.sign == 0
        }) {
            end += 1;
        }
        end
    }

    /// "sw 11 4 nj": a British postcode in pieces, as a recogniser writes one: the token after.
    fn written_postcode(&self, at: usize, limit: usize) -> Option<usize> {
        if self.tokens[at].end - self.tokens[at].start > 4 || self.lang != Lang::En {
            return None;
        }
        let mut code = [0; 7];
        let mut len = 0;
        let mut written = false;
        for (taken, next) in (at..at + 6).enumerate() {
            let token = self
                .seen(next, limit)
                .filter(|token| taken == 0 || token.gap == Gap::Space)?;
            let word = self.word(next);
            let word = word.get();
            if len + word.len() > code.len() || !word.iter().all(u8::is_ascii_alphanumeric) {
                return None;
            }
            written |= token.value != super::lexicon::NONE && word[0].is_ascii_digit()
                || token.shape == super::token::Shape::Mixed;
            code[len..len + word.len()].copy_from_slice(word);
            len += word.len();
            if len >= 5 && written && is_uk_postcode(&code[..len]) && is_delivered(&code[..len]) {
                return Some(next + 1);
            }
        }
        None
    }

    /// One radio or table word alone, which is an ordinary word or a name.
    fn is_word_after_all(&self, run: &Run) -> bool {
        run.digits == 0
            && run.atoms == 1
            && run.spelled <= 1
            && run.letters <= 1
            && run.end == run.start + 1
    }

    fn kind_of(
        &self,
        run: &Run,
        limit: usize,
        announced: Asked,
        last_name: Option<usize>,
    ) -> Option<(Kind, f32)> {
        let after = if announced.any(Asked::DIGITS) {
            Asked::NOTHING
        } else {
            self.named_after(run, limit)
        };
        let said = announced | after;
        let code = run.code.get();
        if run.octets == 4 && run.dots >= 3 && run.letters == 0 {
            return Some((Kind::Ip, 0.9));
        }
        // Said digit by digit an address is longer than the horizon.
        if run.octets == 3
            && run.dots >= 2
            && run.letters == 0
            && run.digits >= 6
            && run.literals == 0
            && self.text.len() >= limit
            && self.seen(run.end + 1, limit).is_none()
            && !self.is_place(run)
        {
            return Some((Kind::Ip, 0.8));
        }
        if (13..=19).contains(&run.digits)
            && run.letters == 0
            && luhn(code)
            && !said.any(Asked::ACCOUNT | Asked::IBAN)
        {
            return Some((Kind::Card, 0.95));
        }
        if run.letters == 0 {
            self.digits(run, limit, said)
        } else {
            self.letters(run, said, last_name, code)
        }
    }

    fn digits(&self, run: &Run, limit: usize, said: Asked) -> Option<(Kind, f32)> {
        let n = run.digits;
        let next = self.seen(run.end, limit);
        let measured = self.is_measured(run, next);
        if measured && (n < LONG || run.atoms == 1 || run.literals == run.atoms && n < 12) {
            return None;
        }
        let clock = self.is_time(run, next);
        if let Some(kind) = self.announced_digits(run, said, clock) {
            return Some((kind, 0.85));
        }
        let asked = self.asked & Asked::DIGITS;
        if !asked.is_empty() && said.is_empty() && !clock && !self.is_place(run) {
            let least = if self.collecting.any(Asked::CARD) {
                1
            } else if asked.any(Asked::BIRTH | Asked::EXPIRY | Asked::ADDRESS) {
                2
            } else {
                3
            };
            if n >= least
                && !(n < 4
                    && run.cardinals == 1
                    && run.atoms == 1
                    && !asked.any(Asked::CVV | Asked::ADDRESS | Asked::PIN))
            {
                return Some((self.digit_kind(asked, n), 0.8));
            }
        }
        if run.colons > 0 && n <= 6 {
            return None;
        }
        if run.literals == run.atoms {
            // Written, not said; the written forms have detectors of their own, except pieces as a recogniser leaves them.
            let signs = run.dots + run.dashes + run.slashes;
            let pieces = run.atoms >= 3 && n <= 4 * run.atoms && signs == 0;
            return (n >= LONG && pieces && !self.is_counting(run)).then(|| (self.guess(run), 0.6));
        }
        // Long words: what fills the horizon with numbers and goes on is no time and no price.
        let goes_on = next.is_none() && self.text.len() >= limit;
        if n >= LONG {
            let price = run.atoms == 1 && run.cardinals == 1;
            // "one point two million"
            let decimal = run.dots == 1 && run.atoms == 2;
            // Of a card read out one digit at a time the horizon shows as many as a telephone number has, and no end.
            let card = goes_on && n >= 10 && matches!(run.code.get(), [b'3'..=b'6', ..]);
            return (!price && !decimal && !self.is_counting(run)).then(|| {
                let kind = if card { Kind::Card } else { self.guess(run) };
                (kind, 0.7)
            });
        }
        if goes_on
            && n >= 5
            && run.atoms >= 3
            && run.cardinals == 0
            && run.dots == 0
            && !self.is_counting(run)
        {
            return Some((self.guess(run), 0.6));
        }
        let one_by_one = run.singles >= 4 || (run.singles >= 2 && n >= 5 && run.cardinals == 0);
        (one_by_one && run.dots == 0 && !self.is_place(run) && !self.is_counting(run) && !clock)
            .then_some((Kind::Number, 0.55))
    }

    /// The kind of digits that the caller named; `None` if too few for what was named.
    fn announced_digits(&self, run: &Run, said: Asked, clock: bool) -> Option<Kind> {
        let said = said & Asked::DIGITS;
        if said.is_empty() || self.is_place(run) && run.digits < LONG {
            return None;
        }
        let n = run.digits;
        let one_cardinal = run.atoms == 1 && run.cardinals == 1;
        if clock && n <= 4 || one_cardinal && n <= 4 && !self.right_after_cue(run) {
            return None;
        }
        let short = said.any(Asked::CVV | Asked::EXPIRY | Asked::PIN | Asked::PASSWORD)
            || said.any(Asked::PHONE | Asked::POSTCODE) && self.right_after_cue(run);
        let least = if short { 3 } else { 4 };
        let one_by_one = run.singles >= 3 && n >= 3;
        (n >= least || one_by_one).then(|| self.digit_kind(said, n))
    }

    /// The likeliest of several things asked for, by the number of digits.
    fn digit_kind(&self, asked: Asked, n: usize) -> Kind {
        if asked.any(Asked::CARD) && n >= 5 {
            return Kind::Card;
        }
        if asked.any(Asked::CVV) && n <= 4 && !(n == 4 && asked.any(Asked::EXPIRY)) {
            return Kind::Cvv;
        }
        if asked.any(Asked::EXPIRY) && n <= 6 {
            return Kind::CardExpiry;
        }
        let kind = asked.kind(self.lang);
        if kind == Kind::Password {
            Kind::Pin
        } else {
            kind
        }
    }

    /// The kind of a long number that nobody named.
    fn guess(&self, run: &Run) -> Kind {
        let n = run.digits;
        match n {
            13 | 15 if self.lang == Lang::Fr => Kind::NationalId,
            13..=19 => Kind::Card,
            11 if self.lang == Lang::Pt && cpf(run.code.get()) => Kind::NationalId,
            9 if self.lang == Lang::En && run.dashes >= 2 => Kind::Ssn,
            9..=12 => Kind::Phone,
            7 if self.lang == Lang::En => Kind::Phone,
            _ => Kind::Number,
        }
    }

    fn letters(
        &self,
        run: &Run,
        said: Asked,
        last_name: Option<usize>,
        code: &[u8],
    ) -> Option<(Kind, f32)> {
        let total = run.digits + run.letters;
        let context = self.asked | said;
        if is_uk_postcode(code) || is_canadian_postcode(code) {
            return (total >= 5 && (run.digits >= 2)).then_some((Kind::Postcode, 0.85));
        }
        if run.digits == 0 {
            let named = context.any(Asked::NAME | Asked::SPELLING)
                || last_name.is_some_and(|end| run.start <= end + 4);
            let goes_on = self
                .tokens
                .get(run.end)
                .is_some_and(|next| next.joined() && next.is(flag::COMMON));
            let least = if run.spelled >= 2 || named {
                2
            } else if run.spelled > 0 {
                3
            } else if goes_on {
                // "h d m i cable"
                5
            } else {
                4
            };
            // "george with a g"
            if run.letters == 2 && self.tokens[run.start].is(flag::STOP) {
                return None;
            }
            if run.letters < least && !(context.any(Asked::POSTCODE) && run.letters >= 2) {
                return None;
            }
            let kind = if context.any(Asked::NAME | Asked::SPELLING) || context.is_empty() {
                Kind::Name
            } else {
                context.kind(self.lang)
            };
            return Some((kind, 0.7));
        }
        if self.is_place(run) && total < LONG {
            return None;
        }
        if total >= 12
            && code.len() >= 4
            && code[..2].iter().all(u8::is_ascii_alphabetic)
            && code[2..4].iter().all(u8::is_ascii_digit)
        {
            return Some((Kind::Iban, 0.85));
        }
        if is_nino(code) {
            return Some((Kind::NationalId, 0.85));
        }
        if self.asked.any(Asked::POSTCODE) && said.is_empty() && total >= 2
            || said.any(Asked::POSTCODE) && total >= 3
        {
            return Some((Kind::Postcode, 0.8));
        }
        let codes = Asked::DIGITS | Asked::SPELLING | Asked::EMAIL;
        if context.any(codes)
            && total >= 4
            && !self.is_measured(
                run,
                self.tokens
                    .get(run.end)
                    .filter(|token| token.reach < self.tokens[run.start].start + WINDOW),
            )
        {
            return Some(((context & codes).kind(self.lang), 0.75));
        }
        // "2 x 500 g": digits that were written need letters that were spelled.
        let spoken = run.singles + run.pairs + run.cardinals > 0
            || run.literals < run.atoms && run.letters >= 3;
        (total >= 6 && run.digits >= 2 && run.atoms >= 4 && spoken && run.colons == 0)
            .then_some((Kind::Number, 0.6))
    }

    /// Whether a unit, a currency or a clock word follows or a currency sign stands beside: "twenty five dollars", "$25", "20%".
    fn is_measured(&self, run: &Run, next: Option<&Token>) -> bool {
        if next.is_some_and(|next| {
            next.is(flag::MEASURE) && !matches!(next.gap, Gap::Stop | Gap::Other)
        }) {
            return true;
        }
        let start = self.tokens[run.start].start;
        let end = self.tokens[run.end - 1].end;
        let sign = |text: &str| text.starts_with(['%', '€', '£', '$', '°']);
        // The character after the last is within reach of it.
        sign(&self.text[end..]) || self.text[..start].trim_end().ends_with(['€', '£', '$'])
    }

    /// Whether the run reads as a time of day, after "at" or before "pm".
    fn is_time(&self, run: &Run, next: Option<&Token>) -> bool {
        if run.digits > 4 {
            return false;
        }
        let before = run.start.checked_sub(1).map(|before| &self.tokens[before]);
        run.colons > 0
            || next.is_some_and(|next| next.is(flag::CLOCK))
            || before.is_some_and(|before| before.is(flag::TIMEPREP))
                && run.singles < 3
                && run.literals == 0
    }

    /// Whether a room, flight, gate or page stands before.
    fn is_place(&self, run: &Run) -> bool {
        let mut at = run.start;
        for _ in 0..4 {
            let Some(before) = at.checked_sub(1) else {
                return false;
            };
            let token = &self.tokens[before];
            if token.is(flag::PLACE) {
                return true;
            }
            if !token.is(flag::STOP | flag::LEAD | flag::CAPS) && token.entry.letter == 0
                || token.gap == Gap::Stop
            {
                return false;
            }
            at = before;
        }
        false
    }

    /// Whether the cue is among the three words before.
    fn right_after_cue(&self, run: &Run) -> bool {
        self.tokens[run.start.saturating_sub(3)..run.start]
            .iter()
            .any(|token| !token.entry.cue.is_empty())
    }

    /// "one two three four": somebody counts or tests the line.
    fn is_counting(&self, run: &Run) -> bool {
        let code = run.code.get();
        if code.len() != run.digits {
            return false;
        }
        // "ten nine eight" counts down from a number of two digits.
        let ten = usize::from(run.pairs == 1);
        let code = match code {
            [b'1', b'0', b'9', ..] if ten == 1 => &code[2..],
            code => code,
        };
        let n = run.singles + run.literals;
        // "ten twenty thirty"
        let tens = run.pairs == run.atoms
            && code.chunks(2).all(|pair| pair[1..] == *b"0")
            && code.chunks(2).is_sorted();
        tens || n + ten == run.atoms
            && code.len() <= 10
            && (code.windows(2).all(|pair| pair[1] == pair[0] + 1)
                || matches!(code, [b'2', b'4', b'6', b'8', ..])
                || code.last().is_some_and(|last| *last < b'2')
                    && code.windows(2).all(|pair| pair[0] == pair[1] + 1))
    }

    /// What is named after the run: "… is my pin".
    fn named_after(&self, run: &Run, limit: usize) -> Asked {
        let mut lead = false;
        for at in run.end..run.end + AFTER {
            let Some(token) = self.seen(at, limit) else {
                break;
            };
            if matches!(token.gap, Gap::Stop | Gap::Other) {
                break;
            }
            lead |= token.is(flag::LEAD);
            if lead && !token.entry.cue.is_empty() {
                return token.entry.cue;
            }
            if !token.is(flag::STOP | flag::LEAD) {
                break;
            }
        }
        Asked::NOTHING
    }

    /// The folded text of a token as a small copy; for shapes the tables do not know.
    pub(crate) fn word(&self, at: usize) -> super::token::Folded {
        folded(self.text, &self.tokens[at])
    }
}

/// ISO/IEC 7812-1 annex B.
pub(crate) fn luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(at, digit)| {
            let digit = u32::from(digit.wrapping_sub(b'0'));
            match at % 2 {
                0 => digit,
                _ if digit > 4 => digit * 2 - 9,
                _ => digit * 2,
            }
        })
        .sum();
    !digits.is_empty() && digits.iter().all(u8::is_ascii_digit) && sum.is_multiple_of(10)
}

/// The two check digits of a Brazilian taxpayer number (Receita Federal, modulo 11).
fn cpf(digits: &[u8]) -> bool {
    let check = |n: usize| {
        let sum: usize = digits[..n]
            .iter()
            .enumerate()
            .map(|(at, digit)| usize::from(digit - b'0') * (n + 1 - at))
            .sum();
        usize::from(digits[n] - b'0') == sum * 10 % 11 % 10
    };
    digits.len() == 11 && digits.iter().all(u8::is_ascii_digit) && check(9) && check(10)
}

/// `AN NAA`, `ANN NAA`, `AAN NAA`, `AANN NAA`, `ANA NAA`, `AANA NAA` (BS 7666).
pub(crate) fn is_uk_postcode(code: &[u8]) -> bool {
    let Some((outward, inward)) = code.len().checked_sub(3).map(|at| code.split_at(at)) else {
        return false;
    };
    let inward = inward[0].is_ascii_digit() && inward[1..].iter().all(u8::is_ascii_alphabetic);
    let areas = outward
        .iter()
        .take_while(|byte| byte.is_ascii_alphabetic())
        .count();
    let district = &outward[areas.min(outward.len())..];
    inward
        && (1..=2).contains(&areas)
        && match district {
            [digit] => digit.is_ascii_digit(),
            [digit, last] => digit.is_ascii_digit() && last.is_ascii_alphanumeric(),
            _ => false,
        }
}

/// Whether the area exists and the last letters are among those in use; for codes that nobody asked for.
fn is_delivered(code: &[u8]) -> bool {
    const AREAS: &str = " ab al b ba bb bd bh bl bn br bs bt ca cb cf ch cm co cr ct cv cw da dd de dg dh dl dn dt dy e ec eh en \
        ex fk fy g gl gu gy ha hd hg hp hr hs hu hx ig im ip iv je ka kt kw ky l la ld le ll ln ls lu m me mk ml n ne ng nn np nr nw \
        ol ox pa pe ph pl po pr rg rh rm s sa se sg sk sl sm sn so sp sr ss st sw sy ta td tf tn tq tr ts tw ub w wa wc wd wf wn wr ws \
        wv yo ze ";
    let letters = code
        .iter()
        .take_while(|byte| byte.is_ascii_alphabetic())
        .count();
    let area = std::str::from_utf8(&code[..letters]).unwrap_or_default();
    AREAS.split(' ').any(|known| known == area)
        && code[code.len() - 2..]
            .iter()
            .all(|letter| !matches!(letter, b'c' | b'i' | b'k' | b'm' | b'o' | b'v'))
}

fn is_canadian_postcode(code: &[u8]) -> bool {
    code.len() == 6
        && code.iter().enumerate().all(|(at, byte)| {
            if at % 2 == 0 {
                byte.is_ascii_alphabetic()
            } else {
                byte.is_ascii_digit()
            }
        })
}

/// A British national insurance number.
fn is_nino(code: &[u8]) -> bool {
    code.len() == 9
        && code[..2].iter().all(u8::is_ascii_alphabetic)
        && code[2..8].iter().all(u8::is_ascii_digit)
        && matches!(code[8], b'a'..=b'd')
}
