//! Identifiers as people say them and a recogniser writes them: item E1's spoken forms.
//!
//! The text is cut into words once (`token`), each of which the tables of its language know a meaning for
//! (`lexicon`). Then one pass from left to right tries at every word, in this order: an e-mail or web address
//! (`address`), a date of birth (`date`), a run of digits and letters (`run`, judged in `decide`), a name
//! (`context::names`). What the agent asked before, and what the caller announces ("my card number is"),
//! decides what short answers mean.
//!
//! Every decision looks at no more than `WINDOW` bytes from where its candidate starts, as
//! `detector` asks.

use std::cell::RefCell;

use super::{
    context::Asked,
    detector::{Context, Detector, HORIZON, Lang, Span},
    kind::Kind,
};

mod address;
mod date;
mod decide;
pub(crate) mod lexicon;
mod number;
pub(crate) mod run;
#[cfg(test)]
mod tests;
pub(crate) mod token;

use lexicon::{LANGS, Lexicon, NONE, flag};
use token::{Gap, Shape, Token, Words, tokenize};

/// Bytes that a decision about a candidate may see from its start. No more than [`HORIZON`] characters, whatever their length.
pub(crate) const WINDOW: usize = HORIZON;
/// Bytes from the start of a text by which its language is told, when nobody says it.
const LANG_BYTES: usize = 48;
/// Tokens to the left among which a cue is looked for.
const CUE_TOKENS: usize = 10;

/// Finds identifiers, dates of birth and names as people say them.
#[derive(Debug, Default)]
pub struct SpokenDetector {}

/// Token tables larger than this are given back after use.
const KEEP_TOKENS: usize = 1024;

thread_local! {
    /// The tokens of the text at hand, so that a text in which nothing is found costs no allocation. Offsets only, no text.
    static TOKENS: RefCell<Vec<Token>> = const { RefCell::new(Vec::new()) };
}

impl Detector for SpokenDetector {
    fn detect(&self, text: &str, context: &Context<'_>, out: &mut Vec<Span>) {
        let lang = context
            .lang
            .unwrap_or_else(|| language(text, context.previous));
        let mut tokens = TOKENS.with_borrow_mut(std::mem::take);
        let mut asked = match context.previous {
            Some(said) => Asked::by_in(said, lang, &mut tokens),
            None => Asked::NOTHING,
        };
        let collecting = context
            .dialogue
            .map_or(Asked::NOTHING, |dialogue| dialogue.expects());
        // "and the next four digits" is no new question.
        if asked.is_empty() || asked == Asked::NUMBER {
            asked |= collecting;
        }
        let lexicon = Lexicon::of(lang);
        tokenize(text, lexicon, &mut tokens);
        let reader = Reader {
            text,
            tokens: &tokens,
            lang: lexicon.lang,
            asked,
            collecting,
        };
        if tokens.iter().any(|token| reader.may_start(token, asked)) {
            reader.read(out);
        }
        tokens.clear();
        if tokens.capacity() <= KEEP_TOKENS {
            TOKENS.with_borrow_mut(|kept| *kept = tokens);
        }
    }
}

/// The language that most words at the head of `text` belong to; that of the question on a tie; English without either.
pub(crate) fn language(text: &str, previous: Option<&str>) -> Lang {
    let mut votes = [0_u32; LANGS.len()];
    let mut count = |text: &str, weight: u32| {
        for (start, end, _) in Words::new(text).take(16) {
            if end >= LANG_BYTES {
                break;
            }
            let key = token::fold_word(&text[start..end]);
            for (vote, lang) in votes.iter_mut().zip(LANGS) {
                if let Some(entry) = Lexicon::of(lang).get(key.get()) {
                    let sure = entry.num != NONE
                        || entry.month != 0
                        || !entry.cue.is_empty()
                        || entry.is(flag::STOP);
                    let common = entry.is(flag::COMMON);
                    *vote += weight * if sure { 4 } else { 2 * u32::from(common) };
                }
            }
        }
    };
    count(text, 2);
    if let Some(previous) = previous {
        count(previous, 1);
    }
    let mut best = 0;
    for at in 1..votes.len() {
        if votes[at] > votes[best] {
            best = at;
        }
    }
    LANGS[best]
}

/// One text, cut and with what is known beside it.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    pub(crate) text: &'a str,
    pub(crate) tokens: &'a [Token],
    pub(crate) lang: Lang,
    /// What the agent asked for.
    pub(crate) asked: Asked,
    /// What the dialogue is in the middle of collecting.
    pub(crate) collecting: Asked,
}

/// A span of tokens.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) start: usize,
    /// Token after the last.
    pub(crate) end: usize,
    pub(crate) kind: Kind,
    pub(crate) score: f32,
}

impl Reader<'_> {
    fn read(&self, out: &mut Vec<Span>) {
        let mut at = 0;
        let mut cue = Cue::default();
        let mut last_name = None;
        // Addresses hold a sign; most texts hold none. The next one, from where the pass is.
        let mut sign = 0;
        while at < self.tokens.len() {
            let token = &self.tokens[at];
            cue.pass(at, token);
            let want = cue.at(at, token);
            if !self.may_start(token, want | self.asked) && !self.is_date_article(at) {
                at += 1;
                continue;
            }
            let limit = token.start + WINDOW;
            if self.is_date_article(at) {
                // "the fourth of july": the article goes with the date, and the date is judged from there.
                match self.birth_date(at + 1, limit, want) {
                    Some(found) if found.kind == Kind::BirthDate => {
                        out.push(self.span(&Found {
                            start: at,
                            ..found.clone()
                        }));
                        at = found.end;
                    }
                    _ => at += 1,
                }
                continue;
            }
            sign = sign.max(at);
            while self
                .tokens
                .get(sign)
                .is_some_and(|token| token.entry.sign == 0 && !matches!(token.gap, Gap::Sign(b'.')))
            {
                sign += 1;
            }
            let signs = self
                .tokens
                .get(sign)
                .is_some_and(|token| token.reach < limit);
            let address = if signs {
                self.address(at, limit, want)
            } else {
                None
            };
            let found = address.or_else(|| self.birth_date(at, limit, want));
            let found = match found {
                Some(found) => Some(found),
                None => match self.judge(at, limit, want, last_name) {
                    decide::Verdict::Found(found) => Some(found),
                    // The whole run is a time, a price, a room: no part of it is looked at again.
                    decide::Verdict::Harmless(end) => {
                        at = end.max(at + 1);
                        continue;
                    }
                    decide::Verdict::NoRun => self.name(at, limit, cue.name(at)),
                },
            };
            match found {
                Some(found) => {
                    if found.kind == Kind::Name {
                        last_name = Some(found.end);
                    }
                    at = found.end.max(at + 1);
                    out.push(self.span(&found));
                }
                None => at += 1,
            }
        }
    }

    /// A cheap look at a word: whether anything could begin with it.
    fn may_start(&self, token: &Token, want: Asked) -> bool {
        let entry = token.entry;
        let plain = token.shape == Shape::Word
            && token.value == NONE
            && entry.letter == 0
            && entry.repeat == 0
            && entry.ordinal == 0
            && entry.month == 0
            && !entry.is(flag::NAME | flag::CAPS | flag::TITLE);
        let stop = plain && entry.is(flag::STOP) && entry.weak_digit == 0;
        !stop || entry.sign == b'+' || entry.weak_letter != 0 && want.any(Asked::POSTCODE)
    }

    fn span(&self, found: &Found) -> Span {
        Span {
            start: self.tokens[found.start].start,
            end: self.tokens[found.end - 1].end,
            kind: found.kind.clone(),
            score: found.score,
        }
    }
}

/// What the caller announced, as the reader passes over it.
#[derive(Default)]
struct Cue {
    asked: Asked,
    at: usize,
    name: Option<NameCue>,
    name_at: usize,
}

/// How sure an announcement of a name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NameCue {
    /// "my name is"
    Sure,
    /// "this is", "i'm"
    Vague,
}

impl Cue {
    fn pass(&mut self, at: usize, token: &Token) {
        if token.gap == Gap::Stop {
            self.name = None;
        }
        if !token.entry.cue.is_empty() {
            // "card number", "birth date": words beside each other announce together.
            self.asked = if at <= self.at + 2 && !self.asked.is_empty() && token.gap != Gap::Stop {
                self.asked | token.entry.cue
            } else {
                token.entry.cue
            };
            self.at = at;
        }
        if token.is(flag::NAMEIS | flag::TITLE) {
            self.name = Some(NameCue::Sure);
            self.name_at = at + 1;
        } else if token.is(flag::THISIS) {
            if self.name != Some(NameCue::Sure) || at > self.name_at + 1 {
                self.name = Some(NameCue::Vague);
                self.name_at = at + 1;
            } else {
                self.name_at = at + 1;
            }
        } else if at == self.name_at && token.is(flag::STOP | flag::LEAD) {
            // "my name is, uh, it's"
            self.name_at = at + 1;
        }
    }

    /// What was announced shortly before token `at`.
    fn at(&self, at: usize, _token: &Token) -> Asked {
        if at <= self.at + CUE_TOKENS && at > self.at {
            self.asked
        } else {
            Asked::NOTHING
        }
    }

    /// Whether a name was announced right before token `at`.
    fn name(&self, at: usize) -> Option<NameCue> {
        self.name.filter(|_| self.name_at == at)
    }
}

/// Digits of one text that are kept for joining with other turns.
const MAX_DIGITS: usize = 64;

/// Where a text says digits, and how many.
#[derive(Clone, Debug)]
pub(crate) struct DigitGroup {
    /// First byte.
    pub(crate) start: usize,
    /// Byte after the last.
    pub(crate) end: usize,
}

/// The runs of digits in `text` that are no times, prices or quantities, what the caller announced, and the digits themselves (ASCII).
pub(crate) fn digit_groups(text: &str, lang: Lang) -> (Asked, Vec<DigitGroup>, Vec<u8>) {
    let lexicon = Lexicon::of(lang);
    let mut tokens = Vec::new();
    tokenize(text, lexicon, &mut tokens);
    let reader = Reader {
        text,
        tokens: &tokens,
        lang: lexicon.lang,
        asked: Asked::NOTHING,
        collecting: Asked::NOTHING,
    };
    let announced = tokens
        .iter()
        .rev()
        .map(|token| token.entry.cue)
        .find(|cue| cue.any(Asked::DIGITS));
    let mut groups = Vec::new();
    // Never grown, so that no copy stays behind in freed memory.
    let mut digits = Vec::with_capacity(MAX_DIGITS);
    let mut at = 0;
    while at < tokens.len() {
        match reader.digit_run(at) {
            Some((end, code)) => {
                let room = MAX_DIGITS - digits.len();
                digits.extend(code.get().iter().take(room));
                groups.push(DigitGroup {
                    start: tokens[at].start,
                    end: tokens[end - 1].end,
                });
                at = end;
            }
            None => at += 1,
        }
    }
    (announced.unwrap_or(Asked::NOTHING), groups, digits)
}

pub(crate) use decide::luhn;
