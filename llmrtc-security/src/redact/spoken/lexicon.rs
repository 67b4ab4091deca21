//! What each word can mean, by language.
//!
//! The tables are text files, one feature a line; see `lexicon/any.txt` for the form. They are read once, on first use of a
//! language. A word may mean many things at once ("may" is a month and a modal, "oh" a digit and a letter), so that an
//! entry has a field for each.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasherDefault, Hasher},
    sync::LazyLock,
};

use super::token::{self, MAX_WORD};
use crate::redact::{context::Asked, detector::Lang};

/// No number.
pub(crate) const NONE: u32 = u32::MAX;

/// What a word can mean, as bits of [`Entry::flags`].
pub(crate) mod flag {
    pub(crate) const STOP: u32 = 1;
    pub(crate) const COMMON: u32 = 1 << 1;
    pub(crate) const GIVEN: u32 = 1 << 2;
    pub(crate) const SURNAME: u32 = 1 << 3;
    pub(crate) const PARTICLE: u32 = 1 << 4;
    pub(crate) const FILLER: u32 = 1 << 5;
    pub(crate) const FIX: u32 = 1 << 6;
    pub(crate) const THEN: u32 = 1 << 7;
    pub(crate) const AND: u32 = 1 << 8;
    pub(crate) const ASIN: u32 = 1 << 9;
    pub(crate) const CAPS: u32 = 1 << 10;
    pub(crate) const MONEY: u32 = 1 << 11;
    pub(crate) const UNIT: u32 = 1 << 12;
    pub(crate) const CLOCK: u32 = 1 << 13;
    pub(crate) const PLACE: u32 = 1 << 14;
    pub(crate) const TIMEPREP: u32 = 1 << 15;
    pub(crate) const TLD: u32 = 1 << 16;
    pub(crate) const MAILHOUSE: u32 = 1 << 17;
    pub(crate) const NAMEIS: u32 = 1 << 18;
    pub(crate) const THISIS: u32 = 1 << 19;
    pub(crate) const TITLE: u32 = 1 << 20;
    pub(crate) const SPEAKING: u32 = 1 << 21;
    pub(crate) const REQUEST: u32 = 1 << 22;
    pub(crate) const LEAD: u32 = 1 << 23;
    /// A word that opens a question of its own.
    pub(crate) const WH: u32 = 1 << 24;
    /// A word of a spelling alphabet; stands for a letter beside another.
    pub(crate) const TABLE: u32 = 1 << 25;
    /// The name of a letter ("aitch").
    pub(crate) const LETTERNAME: u32 = 1 << 26;
    pub(crate) const SCALE: u32 = 1 << 27;
    /// "hi it's": whatever stands alone behind it is a name.
    pub(crate) const GREETING: u32 = 1 << 28;

    /// What may stand between the parts of one identifier.
    pub(crate) const GLUE: u32 = FILLER | FIX | THEN | CAPS;
    /// What makes the number before it a quantity.
    pub(crate) const MEASURE: u32 = MONEY | UNIT | CLOCK;
    /// Any name.
    pub(crate) const NAME: u32 = GIVEN | SURNAME;
}

/// Everything a word can mean.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) flags: u32,
    /// Value as a cardinal, or the factor of a scale word, or [`NONE`].
    pub(crate) num: u32,
    /// What it asks for or announces.
    pub(crate) cue: Asked,
    /// ASCII letter it spells, or 0.
    pub(crate) letter: u8,
    /// Letter it sounds like when a recogniser guessed wrong, or 0.
    pub(crate) weak_letter: u8,
    /// Digit it sounds like, as ASCII, or 0.
    pub(crate) weak_digit: u8,
    /// Day of a month, or 0.
    pub(crate) ordinal: u8,
    /// Month, 1–12, or 0.
    pub(crate) month: u8,
    /// "double" is 2; 0 for other words.
    pub(crate) repeat: u8,
    /// Sign it says, or 0.
    pub(crate) sign: u8,
    /// Words in the longest phrase that begins here; 0 or 1 if none does.
    pub(crate) phrase: u8,
}

/// What an unknown word means.
pub(crate) static UNKNOWN: Entry = Entry {
    flags: 0,
    num: NONE,
    cue: Asked::NOTHING,
    letter: 0,
    weak_letter: 0,
    weak_digit: 0,
    ordinal: 0,
    month: 0,
    repeat: 0,
    sign: 0,
    phrase: 0,
};

impl Entry {
    /// Whether any of `flags` is set.
    pub(crate) fn is(&self, flags: u32) -> bool {
        self.flags & flags != 0
    }
}

/// FNV-1a. The tables are fixed, so that nobody can force collisions into them.
#[derive(Clone, Debug)]
pub(crate) struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// The words and phrases of one language.
pub(crate) struct Lexicon {
    /// Which language it is.
    pub(crate) lang: Lang,
    words: HashMap<Box<[u8]>, Entry, BuildHasherDefault<Fnv>>,
    /// Two and more words with which longer phrases begin.
    heads: HashSet<Box<[u8]>, BuildHasherDefault<Fnv>>,
}

macro_rules! tables {
    ($name:ident, $lang:expr, $tag:literal) => {
        static $name: LazyLock<Lexicon> = LazyLock::new(|| {
            Lexicon::new(
                $lang,
                include_str!(concat!("lexicon/", $tag, ".txt")),
                include_str!(concat!("../context/words/", $tag, ".txt")),
            )
        });
    };
}
tables!(EN, Lang::En, "en");
tables!(ES, Lang::Es, "es");
tables!(FR, Lang::Fr, "fr");
tables!(DE, Lang::De, "de");
tables!(PT, Lang::Pt, "pt");

const ANY: &str = include_str!("lexicon/any.txt");
const GIVEN: &str = include_str!("../context/names/given.txt");
const SURNAMES: &str = include_str!("../context/names/surnames.txt");

/// The languages with tables of their own.
pub(crate) const LANGS: [Lang; 5] = [Lang::En, Lang::Es, Lang::Fr, Lang::De, Lang::Pt];

impl Lexicon {
    /// The tables of `lang`; English for one that has none.
    pub(crate) fn of(lang: Lang) -> &'static Self {
        match lang {
            Lang::Es => &ES,
            Lang::Fr => &FR,
            Lang::De => &DE,
            Lang::Pt => &PT,
            _ => &EN,
        }
    }

    /// What a folded word or phrase means.
    pub(crate) fn get(&self, folded: &[u8]) -> Option<&Entry> {
        self.words.get(folded)
    }

    /// Whether a phrase begins with these folded words and goes on.
    pub(crate) fn is_head(&self, folded: &[u8]) -> bool {
        self.heads.contains(folded)
    }

    fn new(lang: Lang, grammar: &str, common: &str) -> Self {
        let mut lexicon = Self {
            lang,
            words: HashMap::default(),
            heads: HashSet::default(),
        };
        lexicon.read(ANY);
        lexicon.read(grammar);
        for (words, flags) in [
            (common, flag::COMMON),
            (GIVEN, flag::GIVEN),
            (SURNAMES, flag::SURNAME),
        ] {
            for word in words
                .lines()
                .filter(|line| !line.starts_with('#'))
                .flat_map(str::split_whitespace)
            {
                lexicon.add(word, |entry| entry.flags |= flags);
            }
        }
        lexicon
    }

    /// Reads lines of `feature value: words`.
    fn read(&mut self, grammar: &str) {
        for line in grammar.lines().filter(|line| !line.starts_with('#')) {
            let Some((feature, words)) = line.split_once(": ") else {
                continue;
            };
            let (feature, value) = feature.split_once(' ').unwrap_or((feature, ""));
            for word in words.split_whitespace() {
                self.feature(feature, value, word);
            }
        }
    }

    fn feature(&mut self, feature: &str, value: &str, word: &str) {
        let number = value.parse::<u32>().unwrap_or(NONE);
        let small = u8::try_from(number).unwrap_or(0);
        let byte = value.bytes().next().unwrap_or(b' ');
        let flags = match feature {
            "stop" => flag::STOP,
            "particle" => flag::PARTICLE,
            "filler" => flag::FILLER | flag::STOP,
            "fix" => flag::FIX | flag::STOP,
            "then" => flag::THEN | flag::STOP,
            "and" => flag::AND | flag::STOP,
            "asin" => flag::ASIN,
            "caps" => flag::CAPS,
            "money" => flag::MONEY | flag::COMMON,
            "unit" => flag::UNIT | flag::COMMON,
            "clock" => flag::CLOCK,
            "place" => flag::PLACE | flag::COMMON,
            "timeprep" => flag::TIMEPREP,
            "tld" => flag::TLD,
            "mailhouse" => flag::MAILHOUSE,
            "nameis" => flag::NAMEIS | flag::STOP,
            "thisis" => flag::THISIS | flag::STOP,
            "title" => flag::TITLE | flag::STOP,
            "greeting" => flag::GREETING | flag::STOP,
            "speaking" => flag::SPEAKING | flag::STOP,
            "request" => flag::REQUEST,
            "wh" => flag::WH,
            "lead" => flag::LEAD,
            "scale" => flag::SCALE,
            "lettername" => flag::LETTERNAME,
            "spell" => flag::TABLE,
            _ => 0,
        };
        let ordinals: &[&str] = if feature == "ordstem" {
            &["e", "en", "er", "es", "em"]
        } else {
            &[""]
        };
        for ending in ordinals {
            let word = format!("{word}{ending}");
            self.add(&word, |entry| {
                entry.flags |= flags;
                match feature {
                    "num" | "scale" => entry.num = number,
                    "ordinal" | "ordstem" => entry.ordinal = small,
                    "month" => entry.month = small,
                    "repeat" => entry.repeat = small,
                    "sign" => entry.sign = byte,
                    "lettername" | "spell" => entry.letter = byte,
                    "weakletter" => entry.weak_letter = byte,
                    "weaknum" => entry.weak_digit = byte,
                    "cue" => entry.cue |= Asked::named(value),
                    _ => {}
                }
            });
        }
    }

    /// Folds a word or `_`-joined phrase as the tokenizer would, and edits its entry.
    fn add(&mut self, word: &str, edit: impl FnOnce(&mut Entry)) {
        let spaced = word.replace('_', " ");
        let key = token::key(&spaced);
        let words = key.iter().filter(|&&byte| byte == b' ').count() + 1;
        debug_assert!(words <= token::MAX_PHRASE, "{word}");
        if words > 1 {
            let first: Box<[u8]> = key
                .split(|&byte| byte == b' ')
                .next()
                .unwrap_or_default()
                .into();
            let head = self.words.entry(first).or_insert_with(|| UNKNOWN.clone());
            head.phrase = head.phrase.max(u8::try_from(words).unwrap_or(u8::MAX));
            let ends = key.iter().enumerate().filter(|&(_, &byte)| byte == b' ');
            self.heads
                .extend(ends.skip(1).map(|(end, _)| Box::from(&key[..end])));
        }
        edit(
            self.words
                .entry(key.into())
                .or_insert_with(|| UNKNOWN.clone()),
        );
    }

    /// The value of a German number written as one word: "einundvierzig", "neunzehnhundertachtzig".
    pub(crate) fn compound(&self, word: &[u8]) -> Option<u32> {
        if word.len() > MAX_WORD {
            return None;
        }
        if let Some(entry) = self.words.get(word)
            && entry.num != NONE
            && entry.flags & flag::SCALE == 0
        {
            return Some(entry.num);
        }
        for (scale, factor) in [(&b"tausend"[..], 1000), (b"hundert", 100)] {
            if let Some(at) = word.windows(scale.len()).position(|part| part == scale) {
                let (head, tail) = (&word[..at], &word[at + scale.len()..]);
                let tail = tail.strip_prefix(b"und").unwrap_or(tail);
                let head = if head.is_empty() {
                    1
                } else {
                    self.compound(head)?
                };
                let tail = if tail.is_empty() {
                    0
                } else {
                    self.compound(tail)?
                };
                return (head < 100 && tail < factor).then_some(head * factor + tail);
            }
        }
        let at = word.windows(3).position(|part| part == b"und")?;
        let (unit, ten) = (self.compound(&word[..at])?, self.compound(&word[at + 3..])?);
        (unit < 10 && (20..100).contains(&ten) && ten % 10 == 0).then_some(ten + unit)
    }
}
