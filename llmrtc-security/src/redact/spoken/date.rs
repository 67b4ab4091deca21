//! Dates of birth: a full date with a year in which callers are born, or any part of one that was asked for.

use super::{
    Found, Reader, WINDOW,
    lexicon::{NONE, flag},
    number::Style,
    token::{Gap, Shape, Token},
};
use crate::redact::{context::Asked, detector::Lang, kind::Kind};

/// Years that a date without a question is a date of birth in.
const BIRTH_YEARS: std::ops::RangeInclusive<u64> = 1900..=2016;

/// One piece of a date.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Piece {
    Month,
    /// A day or a month as an ordinal.
    Ordinal,
    /// 1–31, said or written.
    Small,
    /// Four digits, 1900–2099.
    Year(u64),
    /// 32–99.
    Late(u64),
    /// More digits than a part of a date has: "04071980".
    Packed,
}

impl Reader<'_> {
    /// The date of birth that begins at token `at`.
    pub(super) fn birth_date(&self, at: usize, limit: usize, announced: Asked) -> Option<Found> {
        self.piece(at, limit)?;
        let wanted = announced.any(Asked::BIRTH)
            || (self.asked.any(Asked::BIRTH) && !announced.any(Asked::DIGITS));
        let mut date = Date::default();
        let mut end = at;
        while let Some((piece, next)) = self.next_piece(end, at, limit, wanted) {
            if !date.takes(piece, wanted) {
                break;
            }
            end = next;
        }
        let last = self.seen(end, limit);
        if last.is_some_and(|next| {
            next.is(flag::MEASURE) && !next.is(flag::TIMEPREP) && next.gap == Gap::Space
        }) && date.pieces < 3
            && !(wanted && date.year.is_some())
        {
            return None;
        }
        // "my birthday party is at seven": only a question makes a lone number a date.
        let answers = if self.asked.any(Asked::BIRTH) {
            date.answers()
        } else {
            date.announces()
        };
        let score = if wanted && answers {
            0.9
        } else if date.is_full(self.lang)
            && !(self.asked | announced).any(Asked::EXPIRY)
            && self.alone_from(at, end, limit)
            && (date.months > 0 || self.is_all_there_is(at, end, limit, announced))
        {
            // Sentences are full of dates that are nobody's birthday; a caller who says nothing else answers a question.
            0.85
        } else if (self.asked | announced).any(Asked::EXPIRY) && date.months > 0 && date.pieces >= 2
        {
            return Some(Found {
                start: at,
                end,
                kind: Kind::CardExpiry,
                score: 0.85,
            });
        } else {
            return None;
        };
        Some(Found {
            start: at,
            end: self.date_end(at, wanted).max(end),
            kind: Kind::BirthDate,
            score,
        })
    }

    /// Whether numbers that would make a date are not the head of a longer number, nor said to be something else.
    fn is_all_there_is(&self, at: usize, end: usize, limit: usize, announced: Asked) -> bool {
        let number = |token: &Token| token.value != NONE || token.entry.repeat > 1;
        let before = at
            .checked_sub(1)
            .is_some_and(|before| number(&self.tokens[before]));
        let longer = self
            .run(at, limit, Asked::NOTHING)
            .is_some_and(|run| run.end > end);
        !before && !longer && !(self.asked | announced).any(Asked::DIGITS)
    }

    /// The end of a date that was decided on: read again, each piece seeing no more than its own horizon.
    fn date_end(&self, at: usize, wanted: bool) -> usize {
        let mut date = Date::default();
        let mut end = at;
        while let Some(token) = self.tokens.get(end)
            && let Some((piece, next)) = self.next_piece(end, at, token.start + WINDOW, wanted)
            && date.takes(piece, wanted)
        {
            end = next;
        }
        end
    }

    /// Whether the token is an article right before a day.
    pub(super) fn is_date_article(&self, at: usize) -> bool {
        let token = &self.tokens[at];
        token.is(flag::STOP)
            && token.end - token.start <= 3
            && matches!(
                self.word(at).get(),
                b"the" | b"el" | b"le" | b"am" | b"der" | b"den" | b"o"
            )
            && self.tokens.get(at + 1).is_some_and(|next| {
                next.joined()
                    && (next.entry.ordinal != 0 || next.value <= 31 || next.shape == Shape::Mixed)
            })
    }

    /// The next piece, past words that belong between pieces of a date.
    fn next_piece(
        &self,
        end: usize,
        start: usize,
        limit: usize,
        wanted: bool,
    ) -> Option<(Piece, usize)> {
        let mut at = end;
        let most = if wanted { 4 } else { 3 };
        while at <= end + most {
            let token = self.seen(at, limit)?;
            if at > start && matches!(token.gap, Gap::Stop if !wanted)
                || token.gap == Gap::Sign(b':')
                || (at > start && token.gap == Gap::Other)
            {
                return None;
            }
            // "no wait" glues, so a piece is looked for first.
            if let Some(found) = self.piece(at, limit) {
                return Some(found);
            }
            let between = at > start
                && (token.is(flag::FILLER
                    | flag::FIX
                    | flag::THEN
                    | flag::PARTICLE
                    | flag::CAPS
                    | flag::AND)
                    || matches!(token.entry.sign, b'-' | b'/' | b'.' | b' ')
                    || matches!(
                        self.word(at).get(),
                        b"of"
                            | b"the"
                            | b"in"
                            | b"de"
                            | b"del"
                            | b"do"
                            | b"le"
                            | b"el"
                            | b"en"
                            | b"im"
                            | b"der"
                            | b"year"
                            | b"day"
                            | b"month"
                            | b"ano"
                            | b"mes"
                            | b"dia"
                            | b"jahr"
                            | b"on"
                            | b"d"
                            | b"em"
                            | b"den"
                            | b"am"
                            | b"annee"
                            | b"it's"
                            | b"its"
                    ));
            if !between {
                return None;
            }
            at += 1;
        }
        None
    }

    fn piece(&self, at: usize, limit: usize) -> Option<(Piece, usize)> {
        let token = self.seen(at, limit)?;
        let entry = token.entry;
        if entry.month != 0
            && !(self.lang == Lang::En && entry.is(flag::STOP) && !self.is_month_here(at, limit))
        {
            return Some((Piece::Month, at + 1));
        }
        // "second", "erste": ordinals are also plain words.
        if entry.ordinal != 0 {
            let moment = at.checked_sub(1).is_some_and(|before| {
                matches!(
                    self.word(before).get(),
                    b"a" | b"one" | b"just" | b"un" | b"per"
                )
            });
            return (!moment).then_some((Piece::Ordinal, at + 1));
        }
        if token.shape == Shape::Mixed {
            let word = self.word(at);
            let digits = word
                .get()
                .iter()
                .take_while(|byte| byte.is_ascii_digit())
                .count();
            let ending = &word.get()[digits..];
            let ordinal = (1..=2).contains(&digits)
                && matches!(
                    ending,
                    b"st"
                        | b"nd"
                        | b"rd"
                        | b"th"
                        | b"er"
                        | b"o"
                        | b"a"
                        | b"e"
                        | b"ere"
                        | b"te"
                        | b"ten"
                        | b"ter"
                        | b"sten"
                        | b"ster"
                        | b"ste"
                );
            return ordinal.then_some((Piece::Ordinal, at + 1));
        }
        if matches!(token.shape, Shape::Letter(_)) && token.value != 0 {
            return None;
        }
        let number = self.number(at, limit)?;
        let flows = |at: usize| {
            self.seen(at, limit)
                .is_some_and(|token| matches!(token.gap, Gap::Space | Gap::Sign(b'-')))
        };
        // "twenty first"
        if number.style == Style::Pair
            && number.value % 10 == 0
            && self
                .seen(number.next, limit)
                .is_some_and(|token| (1..=9).contains(&token.entry.ordinal))
            && flows(number.next)
        {
            return Some((Piece::Ordinal, number.next + 1));
        }
        let ones = |at: usize| self.number(at, limit).filter(|_| flows(at));
        match number.value {
            // "nineteen eighty four", "nineteen oh four", "19 84"
            century @ (19 | 20) if number.style != Style::Cardinal => {
                if let Some(rest) = ones(number.next) {
                    if rest.value == 0
                        && let Some(unit) = ones(rest.next)
                        && unit.value < 10
                    {
                        return Some((Piece::Year(century * 100 + unit.value), unit.next));
                    }
                    // "twenty nineteen"; a day of twenty goes with a month or a two-digit year behind it.
                    let literal = rest.style == Style::Literal
                        && self.tokens[number.next].shape != Shape::Digits(2);
                    let day = century == 20 && rest.value > 29;
                    if (10..100).contains(&rest.value) && !literal && !day {
                        return Some((Piece::Year(century * 100 + rest.value), rest.next));
                    }
                }
                Some((Piece::Small, number.next))
            }
            // "oh four", "zero vier"
            0 => {
                let unit = ones(number.next).filter(|unit| unit.value < 10);
                unit.map(|unit| (Piece::Small, unit.next)).or_else(|| {
                    (number.style == Style::Literal).then_some((Piece::Small, number.next))
                })
            }
            1..=31 => Some((Piece::Small, number.next)),
            32..=99 => Some((Piece::Late(number.value), number.next)),
            1900..=2099 => Some((Piece::Year(number.value), number.next)),
            _ if number.style == Style::Literal && (6..=8).contains(&(token.end - token.start)) => {
                Some((Piece::Packed, number.next))
            }
            _ if token.value != NONE
                && number.style == Style::Literal
                && number.value < 1300
                && token.end - token.start == 4 =>
            {
                Some((Piece::Packed, number.next))
            }
            _ => None,
        }
    }

    /// "may" and "march" are months beside a number, an ordinal or "of".
    fn is_month_here(&self, at: usize, limit: usize) -> bool {
        let number = |at: usize| {
            self.seen(at, limit).is_some_and(|token| {
                token.value != NONE || token.entry.ordinal != 0 || token.shape == Shape::Mixed
            })
        };
        let the = self
            .seen(at + 1, limit)
            .is_some_and(|token| token.is(flag::STOP))
            && number(at + 2);
        let before = at.checked_sub(1).is_some_and(|before| {
            number(before) || matches!(self.word(before).get(), b"of" | b"in")
        });
        number(at + 1) || the || before
    }
}

/// The pieces of one date so far.
#[derive(Default)]
struct Date {
    pieces: usize,
    months: usize,
    days: usize,
    year: Option<u64>,
    late: bool,
    packed: bool,
}

impl Date {
    /// Takes a piece, if a date has room for it.
    fn takes(&mut self, piece: Piece, wanted: bool) -> bool {
        let room = match piece {
            Piece::Month => self.months == 0,
            Piece::Ordinal | Piece::Small => self.days + self.months < 3,
            Piece::Year(_) | Piece::Late(_) => self.year.is_none(),
            Piece::Packed => self.pieces == 0 || wanted,
        };
        // Whoever was asked may correct and repeat.
        let room = room || wanted && self.pieces < 10;
        if !room {
            return false;
        }
        self.pieces += 1;
        match piece {
            Piece::Month => self.months += 1,
            Piece::Ordinal | Piece::Small => self.days += 1,
            Piece::Year(year) => self.year = Some(year),
            Piece::Late(year) => {
                self.late = true;
                self.year = Some(1900 + year);
            }
            Piece::Packed => self.packed = true,
        }
        true
    }

    /// Whether this answers a question for a date of birth.
    fn answers(&self) -> bool {
        self.pieces >= 2 || self.months > 0 || self.year.is_some() || self.packed || self.days > 0
    }

    /// Whether this is what was announced as a date of birth.
    fn announces(&self) -> bool {
        self.pieces >= 2 || self.year.is_some() || self.packed
    }

    /// Whether this is a date of birth although nobody asked.
    fn is_full(&self, lang: Lang) -> bool {
        let year = self.year.is_some_and(|year| BIRTH_YEARS.contains(&year));
        let month = self.months == 1 && self.days >= 1;
        // German names months by number: "vierter siebter achtzig".
        let numbers = self.months == 0
            && self.days == 2
            && (!self.late || lang == Lang::De || self.pieces == 3);
        year && (month || numbers)
    }
}
