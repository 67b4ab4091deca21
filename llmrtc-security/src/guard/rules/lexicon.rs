//! From words to what they mean for us. Six languages share the concepts, so that a rule is written once.
//!
//! The tables hold folded words (lower case, no accents, `ß` as `ss`, no apostrophes, except that French and Italian
//! elisions stand apart: `l invite`). A star ends a stem: `ignorier*`. Several words are a phrase, and the longest
//! entry at a place wins but keeps the concepts of its beginnings, unless it is [`Concepts::PLAIN`].

use std::{
    collections::{HashMap, HashSet},
    sync::LazyLock,
};

use aho_corasick::{AhoCorasick, AhoCorasickKind, Anchored, Input, MatchKind, StartKind};

use unicode_normalization::char::{decompose_compatible, is_combining_mark};

use super::words;

macro_rules! concepts {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// A set of concepts.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub(crate) struct Concepts(u64);

        #[expect(non_camel_case_types, clippy::upper_case_acronyms, reason = "numbers the constants below")]
        enum Number { $($name),* }

        impl Concepts {
            $($(#[$doc])* pub(crate) const $name: Self = Self(1 << Number::$name as u64);)*
        }
    };
}

concepts! {
    /// An everyday meaning of trigger words; takes all other concepts from its words.
    PLAIN,
    /// To stop following.
    OVERRIDE,
    /// To drop.
    CANCEL,
    /// What came before.
    PRIOR,
    /// All of it.
    ALL,
    /// What a model was told: instructions, prompts.
    INSTRUCTIONS,
    /// What a company may have as well: rules, guidelines, policies.
    NORMS,
    /// What a conversation consists of: tasks, messages, requests.
    TASKS,
    /// "that you were given".
    TOLD,
    /// The listener's.
    YOUR,
    /// The listener.
    YOU,
    /// The speaker's.
    MY,
    /// A model, an assistant.
    AI,
    /// To say, show, write.
    REVEAL,
    /// "What is".
    ASK,
    /// The instructions of a model, by name.
    SYSTEM_PROMPT,
    /// The text before this one.
    ABOVE,
    /// To become someone.
    PERSONA,
    /// To be no longer what one is.
    UNPERSONA,
    /// From now on.
    NOW_ON,
    /// Without limits.
    UNBOUND,
    /// A state in which limits are off.
    MODE,
    /// To turn off.
    DISABLE,
    /// What is turned off.
    SAFETY,
    /// A password, a key.
    SECRET,
    /// Ways around a filter on output.
    TRANSFORM,
    /// To do what another text says.
    OBEY_IT,
    /// To use a tool by name.
    CALL,
    /// A name with an underscore: set by the tokenizer.
    IDENTIFIER,
    /// Claims to be in charge.
    AUTHORITY,
    /// Other people who use the same service.
    OTHERS,
    /// Data about them.
    SENSITIVE,
    /// To send away.
    SEND,
    /// An address: set by the tokenizer.
    ADDRESS,
    /// Data of the conversation or its user.
    DATA,
    /// Speaks to models that read along.
    ADDRESSING,
    /// To keep from the user.
    CONCEAL,
    /// Hurry.
    URGENT,
    /// To answer in prescribed words.
    SAY,
    /// Words that only attackers have said.
    TROPHY,
    /// A task instead of the given one.
    NEW_TASK,
    /// To obey without question.
    COMPLY,
    /// In a story.
    FICTION,
    /// Two answers, points, penalties: the furniture of jailbreaks.
    FURNITURE,
    /// What a provider's rules forbid.
    HARM,
    /// Everyday subjects of requests.
    EVERYDAY,
    /// Talk about programs.
    CODE,
    /// Talk about words: define, translate.
    ABOUT,
    /// A quotation follows.
    MENTION,
    /// People who are not the model.
    THIRD,
    /// How to.
    HOW_TO,
    /// Side effects that a document has no business asking for.
    ACTION,
    /// Pretends that another author begins.
    FORGERY,
    /// A role of a conversation.
    ROLE,
    /// The spoken colon.
    COLON,
    /// Narrows a request down: for, about.
    TOPIC,
    /// The user, spoken of by a third party.
    USER,
    /// When answering, in the summary.
    ANSWER,
    /// Please, also: what stands in front of a command.
    LEAD,
}

impl Concepts {
    /// No concept.
    pub(crate) const NONE: Self = Self(0);

    /// Both sets.
    #[must_use]
    pub(crate) const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether the sets share a concept.
    pub(crate) const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether the set is empty.
    pub(crate) const fn is_none(self) -> bool {
        self.0 == 0
    }
}

/// A row of the tables in [`words`].
pub(super) struct Row {
    pub(super) concept: Concepts,
    /// Why the words belong together, or why they are there at all.
    pub(super) why: &'static str,
    /// Separated by commas.
    pub(super) words: &'static str,
}

/// All words, ready to look up.
pub(crate) struct Lexicon {
    automaton: AhoCorasick,
    concepts: Vec<Concepts>,
    /// Every word of every entry, to recognise it in disguise. Stems without their star.
    vocabulary: HashSet<String>,
    /// The vocabulary as prefixes, longest first, to take joined words apart.
    splitter: AhoCorasick,
    part_lengths: Vec<usize>,
}

static SHARED: LazyLock<Lexicon> = LazyLock::new(|| Lexicon::new(words::TABLES));

impl Lexicon {
    /// The one lexicon. Built at first use, which takes some milliseconds.
    pub(crate) fn shared() -> &'static Self {
        &SHARED
    }

    fn new(tables: &[&'static [Row]]) -> Self {
        let mut meanings: HashMap<String, Concepts> = HashMap::new();
        let mut vocabulary: HashSet<String> = HashSet::new();
        for row in tables.iter().copied().flatten() {
            debug_assert!(!row.why.is_empty(), "every row says why");
            for entry in row
                .words
                .split(',')
                .map(str::trim)
                .filter(|entry| !entry.is_empty())
            {
                let entry = folded(entry);
                // The blank after the last word tells a word from a stem.
                let pattern = match entry.strip_suffix('*') {
                    Some(stem) => stem.to_owned(),
                    None if entry.chars().any(super::ideographic) => entry.to_owned(),
                    None => format!("{entry} "),
                };
                let meaning = meanings.entry(pattern).or_default();
                *meaning = meaning.or(row.concept);
                vocabulary.extend(entry.trim_end_matches('*').split(' ').map(str::to_owned));
            }
        }
        let patterns: Vec<&str> = meanings.keys().map(String::as_str).collect();
        let concepts = patterns
            .iter()
            .map(|pattern| {
                let own = meanings[*pattern];
                if own.meets(Concepts::PLAIN) {
                    return own;
                }
                let beginnings =
                    (1..pattern.len()).filter_map(|end| meanings.get(pattern.get(..end)?));
                beginnings
                    .filter(|meaning| !meaning.meets(Concepts::PLAIN))
                    .fold(own, |all, meaning| all.or(*meaning))
            })
            .collect();
        let build = |patterns: &[&str]| {
            AhoCorasick::builder()
                .kind(Some(AhoCorasickKind::ContiguousNFA))
                .match_kind(MatchKind::LeftmostLongest)
                .start_kind(StartKind::Anchored)
                .build(patterns)
                .expect("the tables are far below the automaton's limit of states")
        };
        let parts: Vec<&str> = vocabulary
            .iter()
            .map(String::as_str)
            .filter(|word| word.len() >= 2)
            .collect();
        Self {
            automaton: build(&patterns),
            concepts,
            splitter: build(&parts),
            part_lengths: parts.iter().map(|part| part.len()).collect(),
            vocabulary,
        }
    }

    /// What the words at the start of `text` mean; `text` is the rest of a folded text from some word on.
    /// The second value is how many bytes the meaning stretches over.
    pub(crate) fn meaning(&self, text: &str) -> (Concepts, usize) {
        let input = Input::new(text).anchored(Anchored::Yes);
        self.automaton
            .find(input)
            .map_or((Concepts::NONE, 0), |found| {
                (self.concepts[found.pattern().as_usize()], found.end())
            })
    }

    /// Whether a word is in the vocabulary, as itself or as the stem it begins with.
    pub(crate) fn knows(&self, word: &str) -> bool {
        self.vocabulary.contains(word)
            || (word.len() >= 5 && {
                let input = Input::new(word).anchored(Anchored::Yes);
                self.automaton.find(input).is_some()
            })
    }

    /// Takes joined words apart, longest first; letters that fit no word are skipped. Empty when hardly any fits.
    pub(crate) fn split<'w>(&self, word: &'w str) -> Vec<&'w str> {
        let (mut parts, mut at, mut fitted) = (Vec::new(), 0, 0);
        while at < word.len() {
            let input = Input::new(word).range(at..).anchored(Anchored::Yes);
            match self.splitter.find(input) {
                Some(found) => {
                    let len = self.part_lengths[found.pattern().as_usize()];
                    parts.push(&word[at..at + len]);
                    fitted += len;
                    at += len;
                }
                None => at += word[at..].chars().next().map_or(1, char::len_utf8),
            }
        }
        if fitted * 4 >= word.len() * 3 {
            parts
        } else {
            Vec::new()
        }
    }
}

/// An entry as text is folded: accents of all scripts gone. Han, kana and hangul stay as they are.
fn folded(entry: &str) -> String {
    let mut out = String::with_capacity(entry.len());
    for c in entry.chars() {
        if c.is_ascii() || super::ideographic(c) {
            out.push(c);
        } else {
            decompose_compatible(c, |part| {
                out.extend(Some(part).filter(|part| !is_combining_mark(*part)))
            });
        }
    }
    out
}

impl std::fmt::Debug for Lexicon {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lexicon")
            .field("words", &self.vocabulary.len())
            .finish_non_exhaustive()
    }
}
