//! Names of people, in answers and announcements.
//!
//! Asked for a name, a caller answers with one: whatever is no function word and no ordinary word then is part of it, whether
//! a list knows it or not. Without the question a name needs an announcement ("my name is"), or a list that knows it.
//! The lists hold given names and surnames from many countries; a name that is an ordinary word as well ("mark", "rose",
//! "brown") also stands in the list of ordinary words and needs a neighbour that is a name, or to be alone.

use crate::redact::{
    context::Asked,
    detector::Lang,
    kind::Kind,
    spoken::{
        Found, NameCue, Reader,
        lexicon::{Lexicon, NONE, flag},
        token::{Gap, Shape},
    },
};

/// Words in a name, at most; particles count.
const MOST: usize = 6;

/// How much a word looks like a part of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Likeness {
    /// A number, a function word, an ordinary word.
    No,
    /// Nobody knows it.
    Unknown,
    /// A name that is an ordinary word as well.
    Either,
    /// A surname and nothing else.
    Surname,
    /// A given name and nothing else.
    Given,
}

impl Reader<'_> {
    /// The name that begins at token `at`. `cue`: it was announced right before.
    pub(crate) fn name(&self, at: usize, limit: usize, cue: Option<NameCue>) -> Option<Found> {
        let asked = self.asked.any(Asked::NAME);
        let first = self.likeness(at, limit);
        let sure = cue == Some(NameCue::Sure);
        if cue.is_none() && (self.is_landmark(at, limit) || asked && !self.answers(at, first)) {
            return None;
        }
        if first == Likeness::Unknown
            && (self.is_noun(at) || asked && !sure && self.tells(at, limit))
        {
            return None;
        }
        let score = match (first, cue) {
            (Likeness::No, _) => return None,
            _ if sure => 0.8,
            _ if asked => match first {
                // "it's ken from downstairs"
                Likeness::Either
                    if !(self.stands(at, limit)
                        || cue.is_some() && self.tokens[at].is(flag::GIVEN)) =>
                {
                    return None;
                }
                _ => 0.75,
            },
            (Likeness::Given | Likeness::Surname, Some(_)) => 0.6,
            // A given name in the middle of a sentence is a brand, a saint or a month as often as a person.
            (Likeness::Given, None)
                if self.alone(at, limit)
                    || self.capital_inside(at)
                    || self.is_addressed(at)
                    || self.spoken_for(at, limit)
                    || self.next_is_name(at, limit) =>
            {
                0.6
            }
            // "hi it's xiomara", "hello it's april"
            (Likeness::Unknown, Some(NameCue::Greeting)) if self.alone(at, limit) => 0.6,
            (Likeness::Either, Some(NameCue::Greeting))
                if self.alone(at, limit) && self.tokens[at].is(flag::GIVEN) =>
            {
                0.6
            }
            // "hier ist friederike schreiber"
            (Likeness::Unknown, Some(NameCue::Vague | NameCue::Greeting))
                if self.next_likeness(at, limit) == Likeness::Surname =>
            {
                0.6
            }
            (Likeness::Either, _)
                if self.tokens[at].is(flag::GIVEN) && self.next_is_name(at, limit) =>
            {
                0.6
            }
            (Likeness::Surname, None)
                if self.alone(at, limit) || self.next_likeness(at, limit) == Likeness::Given =>
            {
                0.5
            }
            // "reservation for abernathy at eight"
            (Likeness::Unknown, Some(NameCue::Vague)) if self.is_booked(at, limit) => 0.6,
            // "this is oyelaran speaking", "this is Oyelaran"
            (Likeness::Unknown, Some(_))
                if self.spoken_for(at, limit) || self.capital_inside(at) =>
            {
                0.6
            }
            (Likeness::Either, Some(NameCue::Vague))
                if self.spoken_for(at, limit) || self.capital_inside(at) =>
            {
                0.6
            }
            // "Oyelaran Smith"
            (Likeness::Unknown, None)
                if self.capital_inside(at)
                    && self.next_likeness(at, limit) == Likeness::Surname =>
            {
                0.5
            }
            _ => return None,
        };
        let mut end = at + 1;
        while end < at + MOST {
            let Some(next) = self.goes_on(end, limit, asked || sure) else {
                break;
            };
            end = next;
        }
        Some(Found {
            start: at,
            end,
            kind: Kind::Name,
            score,
        })
    }

    /// The token after the next part of a name at `at`.
    fn goes_on(&self, at: usize, limit: usize, known: bool) -> Option<usize> {
        let token = self.seen(at, limit)?;
        if !token.joined() {
            return None;
        }
        // "smith hyphen jones"
        if token.entry.sign == b'-' {
            let next = self.likeness(at + 1, limit) >= Likeness::Either
                || known && self.likeness(at + 1, limit) == Likeness::Unknown;
            return next.then_some(at + 2);
        }
        // "jean uh luc", "maria del carmen", "o' brien"
        let skips = token.is(flag::PARTICLE) && !matches!(token.shape, Shape::Digits(_))
            || known && token.is(flag::FILLER);
        if skips && self.likeness(at, limit) < Likeness::Either {
            let mut next = at + 1;
            if self
                .seen(next, limit)
                .is_some_and(|token| token.is(flag::PARTICLE))
            {
                next += 1;
            }
            let follows = self.likeness(next, limit);
            let named = follows >= Likeness::Surname
                || follows == Likeness::Either && token.is(flag::PARTICLE)
                || follows == Likeness::Unknown && known;
            return (named && self.seen(next, limit).is_some_and(|token| token.joined()))
                .then_some(next + 1);
        }
        // A comma may part a name ("smith, john") only where one is expected.
        if token.gap == Gap::Comma && !known {
            return None;
        }
        // "april may", "mark will"
        if known
            && token.is(flag::NAME)
            && token.is(flag::STOP)
            && token.entry.cue.is_empty()
            && self.alone_from(at, at + 1, limit)
        {
            return Some(at + 1);
        }
        match self.likeness(at, limit) {
            Likeness::No => None,
            Likeness::Either if token.is(flag::STOP) => None,
            Likeness::Either => {
                (token.is(flag::SURNAME) || known || self.next_is_name(at, limit)).then_some(at + 1)
            }
            Likeness::Unknown => Some(at + 1),
            _ => Some(at + 1),
        }
    }

    fn likeness(&self, at: usize, limit: usize) -> Likeness {
        let Some(token) = self.seen(at, limit) else {
            return Likeness::No;
        };
        let entry = token.entry;
        if token.shape != Shape::Word || token.end - token.start < 2 {
            return Likeness::No;
        }
        let name = entry.is(flag::NAME);
        if entry.is(flag::STOP)
            || !entry.cue.is_empty()
            || entry.sign != 0
            || entry.is(flag::GLUE | flag::MAILHOUSE)
        {
            // "will smith", "art", "mark" beside a name.
            let beside = name
                && entry.sign == 0
                && entry.cue.is_empty()
                && (self.next_likeness(at, limit) >= Likeness::Surname
                    || self.next_likeness(at, limit) == Likeness::Either
                        && self.tokens[at + 1].is(flag::SURNAME));
            return if beside && !entry.is(flag::FILLER) {
                Likeness::Either
            } else {
                Likeness::No
            };
        }
        if name && (entry.is(flag::COMMON) || token.value != NONE || entry.month != 0) {
            return Likeness::Either;
        }
        if entry.is(flag::GIVEN) {
            return Likeness::Given;
        }
        if entry.is(flag::SURNAME) {
            return Likeness::Surname;
        }
        let ordinary = entry.is(flag::COMMON
            | flag::MEASURE
            | flag::PLACE
            | flag::TIMEPREP
            | flag::ASIN
            | flag::LEAD
            | flag::SPEAKING
            | flag::AND
            | flag::REQUEST)
            || token.value != NONE
            || entry.ordinal != 0
            || entry.month != 0
            || entry.repeat != 0;
        if ordinary || self.is_inflected(at) {
            Likeness::No
        } else {
            Likeness::Unknown
        }
    }

    /// Whether a word that no list knows is a form of one that is no name ("calls"), or ends as only such words do.
    fn is_inflected(&self, at: usize) -> bool {
        let folded = self.word(at);
        let word = folded.get();
        let lexicon = Lexicon::of(self.lang);
        let endings: &[&str] = match self.lang {
            Lang::Es | Lang::Pt => &["s"],
            Lang::Fr => &["s", "e", "es"],
            Lang::De => &["e", "n", "en"],
            _ => &["s", "ed", "d", "ing", "ly", "ll"],
        };
        let form = |ending: &&str| {
            word.strip_suffix(ending.as_bytes())
                .filter(|stem| stem.len() >= 4)
                .is_some_and(|stem| {
                    lexicon.get(stem).is_some_and(|entry| {
                        entry.is(flag::COMMON | flag::STOP) && !entry.is(flag::NAME)
                    })
                })
        };
        ends_like_a_word(self.lang, word) || endings.iter().any(form)
    }

    fn next_likeness(&self, at: usize, limit: usize) -> Likeness {
        match self.seen(at + 1, limit) {
            Some(next) if next.joined() && !next.is(flag::STOP) => self.likeness(at + 1, limit),
            _ => Likeness::No,
        }
    }

    /// Whether a name follows, perhaps after particles.
    fn next_is_name(&self, at: usize, limit: usize) -> bool {
        let mut next = at + 1;
        while next < at + 3
            && self
                .seen(next, limit)
                .is_some_and(|token| token.is(flag::PARTICLE) && !token.is(flag::NAME))
        {
            next += 1;
        }
        let follows = self
            .seen(next, limit)
            .is_some_and(|token| token.joined() && !token.is(flag::STOP));
        follows
            && (self.likeness(next, limit) >= Likeness::Surname
                || self.likeness(next, limit) == Likeness::Either
                    && self.tokens[next].is(flag::SURNAME)
                    && self.alone_from(at, next + 1, limit))
    }

    /// Whether an ordinary word that is also a name stands where a name was asked for: beside a name, or as all there is.
    fn stands(&self, at: usize, limit: usize) -> bool {
        let before = at.checked_sub(1).is_some_and(|before| {
            self.tokens[at].joined() && self.likeness(before, limit) >= Likeness::Surname
        });
        let hyphen = self.seen(at + 1, limit).is_some_and(|next| {
            next.entry.sign == b'-' && self.likeness(at + 2, limit) > Likeness::No
        });
        before || hyphen || self.next_likeness(at, limit) > Likeness::No || self.alone(at, limit)
    }

    /// Whether "speaking", "here" or "calling" follows within a few words.
    fn spoken_for(&self, at: usize, limit: usize) -> bool {
        // "speaking of which" speaks for nobody.
        let onwards = |near: usize| {
            self.seen(near + 1, limit).is_some_and(|next| {
                next.joined()
                    && matches!(
                        self.word(near + 1).get(),
                        b"of" | b"to" | b"about" | b"with" | b"in" | b"for"
                    )
            })
        };
        (at + 1..at + 4)
            .map_while(|near| self.seen(near, limit).map(|token| (near, token)))
            .any(|(near, token)| token.is(flag::SPEAKING) && !onwards(near))
    }

    /// Whether a word inside a sentence is written with a capital; German writes its nouns so.
    fn capital_inside(&self, at: usize) -> bool {
        let token = &self.tokens[at];
        token.capital && !matches!(token.gap, Gap::Start | Gap::Stop) && self.lang != Lang::De
    }

    /// Whether a word that may be a name stands where one answers: first, after a pause, a filler or an announcement, or beside a name.
    ///
    /// "I already said so" has verbs that no list knows, and they stand behind pronouns and adverbs.
    fn answers(&self, at: usize, likeness: Likeness) -> bool {
        if likeness >= Likeness::Surname || self.capital_inside(at) {
            return true;
        }
        let token = &self.tokens[at];
        let Some(before) = at.checked_sub(1).map(|before| &self.tokens[before]) else {
            return true;
        };
        matches!(token.gap, Gap::Stop | Gap::Comma | Gap::Other | Gap::Start)
            || !before.is(flag::STOP)
            || !before.entry.cue.is_empty()
            || before.is(flag::GLUE | flag::LEAD | flag::THISIS | flag::NAMEIS | flag::TITLE)
            || self.lang == Lang::De && self.word(at - 1).get() == b"ja"
            || matches!(
                self.word(at - 1).get(),
                b"yes"
                    | b"sure"
                    | b"that"
                    | b"as"
                    | b"under"
                    | b"by"
                    | b"please"
                    | b"hello"
                    | b"hi"
                    | b"si"
                    | b"sim"
                    | b"oui"
                    | b"thanks"
            )
    }

    /// Whether a word that no list knows stands behind an article, as nouns do: "con el dueño", "o senhor da esquina".
    fn is_noun(&self, at: usize) -> bool {
        let Some(before) = at
            .checked_sub(1)
            .filter(|_| self.tokens[at].joined() && !self.capital_inside(at))
        else {
            return false;
        };
        let article = matches!(
            self.word(before).get(),
            b"the"
                | b"a"
                | b"an"
                | b"el"
                | b"los"
                | b"las"
                | b"un"
                | b"una"
                | b"le"
                | b"les"
                | b"une"
                | b"der"
                | b"die"
                | b"das"
                | b"den"
                | b"dem"
                | b"ein"
                | b"eine"
                | b"einem"
                | b"einen"
                | b"einer"
                | b"os"
                | b"um"
                | b"uma"
                | b"da"
                | b"do"
                | b"dos"
                | b"del"
                | b"du"
                | b"des"
        );
        // "van der merwe", "de los santos"
        let particle = before.checked_sub(1).is_some_and(|first| {
            self.tokens[before].joined()
                && matches!(self.word(first).get(), b"van" | b"von" | b"de")
        });
        article && !particle
    }

    /// Whether the words around one that no list knows tell something instead of answering: "look i only want to know".
    fn tells(&self, at: usize, limit: usize) -> bool {
        let plain = |near: usize| {
            self.seen(near, limit).is_some_and(|token| {
                token.is(flag::COMMON) && !token.is(flag::STOP | flag::NAME | flag::GLUE)
            })
        };
        let around = (at.saturating_sub(6)..at).chain(at + 1..at + 9);
        around.filter(|&near| plain(near)).take(2).count() == 2
    }

    /// Whether something is booked for the word, and for a time or nothing else.
    fn is_booked(&self, at: usize, limit: usize) -> bool {
        let booked = at.checked_sub(1).is_some_and(|before| {
            let token = &self.tokens[before];
            token.is(flag::THISIS)
                && token.end - token.start > 5
                && self.text[token.start..token.end].ends_with("for")
        });
        booked
            && (self.alone(at, limit)
                || self.seen(at + 1, limit).is_some_and(|next| {
                    next.joined()
                        && matches!(
                            self.word(at + 1).get(),
                            b"at" | b"on" | b"tonight" | b"please"
                        )
                }))
    }

    /// Whether somebody is addressed right before: "thanks jessica", "dear olivia".
    fn is_addressed(&self, at: usize) -> bool {
        at.checked_sub(1).is_some_and(|before| {
            matches!(
                self.word(before).get(),
                b"thanks"
                    | b"dear"
                    | b"regards"
                    | b"cheers"
                    | b"hi"
                    | b"hello"
                    | b"hey"
                    | b"danke"
                    | b"hallo"
                    | b"liebe"
                    | b"lieber"
                    | b"gracias"
                    | b"hola"
                    | b"querida"
                    | b"querido"
                    | b"merci"
                    | b"bonjour"
                    | b"cher"
                    | b"chere"
                    | b"obrigado"
                    | b"obrigada"
                    | b"ola"
                    | b"oi"
            )
        })
    }

    /// Whether the word belongs to the name of a place, a feast or a thing: "prince charles theatre", "st louis".
    fn is_landmark(&self, at: usize, limit: usize) -> bool {
        let before = at.checked_sub(1).is_some_and(|before| {
            matches!(
                self.word(before).get(),
                b"st"
                    | b"saint"
                    | b"san"
                    | b"santa"
                    | b"santo"
                    | b"sao"
                    | b"sankt"
                    | b"prince"
                    | b"king"
                    | b"queen"
                    | b"lake"
                    | b"mount"
                    | b"port"
                    | b"fort"
                    | b"cape"
                    | b"pope"
                    | b"emperor"
                    | b"princess"
                    | b"hurricane"
                    | b"the"
            )
        });
        let mut next = at + 1;
        while next < at + 3
            && self
                .seen(next, limit)
                .is_some_and(|token| token.joined() && token.is(flag::NAME))
        {
            next += 1;
        }
        before
            || self.seen(next, limit).is_some_and(|token| token.joined())
                && matches!(
                    self.word(next).get(),
                    b"street"
                        | b"avenue"
                        | b"road"
                        | b"station"
                        | b"theatre"
                        | b"theater"
                        | b"park"
                        | b"day"
                        | b"school"
                        | b"airport"
                        | b"hospital"
                        | b"church"
                        | b"bridge"
                        | b"square"
                        | b"cathedral"
                        | b"college"
                        | b"university"
                        | b"stadium"
                        | b"arena"
                        | b"museum"
                        | b"hotel"
                        | b"building"
                        | b"center"
                        | b"centre"
                        | b"cup"
                        | b"prize"
                        | b"award"
                        | b"salad"
                        | b"sauce"
                        | b"strasse"
                        | b"platz"
                        | b"bahnhof"
                )
    }

    /// Whether the word is all that is said, fillers and courtesies aside.
    fn alone(&self, at: usize, limit: usize) -> bool {
        self.alone_from(at, at + 1, limit)
    }

    /// Whether tokens `start..end` are all that is said.
    pub(crate) fn alone_from(&self, start: usize, end: usize, limit: usize) -> bool {
        // Only a text whose end lies before the horizon is known to end.
        if self.text.len() >= limit {
            return false;
        }
        let empty = |tokens: &[crate::redact::spoken::token::Token]| {
            tokens.iter().all(|token| {
                let letter = matches!(token.shape, Shape::Letter(_));
                letter
                    || !token.entry.cue.is_empty()
                    || token.is(flag::STOP | flag::GLUE | flag::LEAD | flag::NAME)
            })
        };
        start <= 6 && empty(&self.tokens[..start]) && empty(&self.tokens[end..])
    }
}

/// Whether a word that no list knows ends as verbs and abstract nouns do, and names hardly ever.
fn ends_like_a_word(lang: Lang, word: &[u8]) -> bool {
    let endings: &[&str] = match lang {
        Lang::Es => &[
            "cion", "mente", "ando", "iendo", "arlo", "erlo", "irlo", "arle", "arme", "irme",
            "arse", "erme", "emos", "amos", "dad",
        ],
        Lang::Fr => &[
            "ez", "tion", "ment", "ement", "ions", "aient", "ait", "ais", "erai", "eux",
        ],
        Lang::De => &[
            "ung", "lich", "keit", "heit", "ieren", "igen", "test", "isch",
        ],
        Lang::Pt => &[
            "cao", "mente", "ando", "endo", "indo", "amos", "emos", "dade", "avel", "ivel", "inho",
            "inha",
        ],
        _ => &[
            "ing", "tion", "ness", "ally", "ment", "able", "ible", "ful", "ised", "ized", "ous",
            "less", "ical",
        ],
    };
    word.len() > 4
        && endings
            .iter()
            .any(|ending| word.ends_with(ending.as_bytes()))
}
