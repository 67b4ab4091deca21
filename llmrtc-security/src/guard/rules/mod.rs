//! F2.2: how much a text looks like instructions from someone who has no right to give any.
//!
//! A score is a logistic sum of traits. Words become [`Concepts`](lexicon::Concepts), concepts in order become traits
//! ([`table`]), role markers and disguises are traits of their own, and signs of everyday talk count against those
//! traits that everyday talk shares. Each trait names its [`Reason`]; a reason counts once, with its strongest trait.

pub(super) mod lexicon;
mod markers;
mod table;
mod words;

use std::collections::BTreeMap;

use self::{
    lexicon::{Concepts, Lexicon},
    table::{
        BIAS, EVERYDAY, LONG_WORDS, MOST_EVERYDAY, QUOTED_SHARE, SEQUENCES, SOFT, Sequence,
        TOGETHER,
    },
};
use super::{
    Source,
    normalise::{Concealment, Folded, HiddenIn, Normalised, Place, fold_hidden},
};

/// A trait of attacks. Its name is stable: metrics and audit records carry it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// Takes back what the model was told.
    Override,
    /// Sets another task.
    NewTask,
    /// Asks for the instructions of the model.
    PromptExtraction,
    /// Asks for a password or key.
    SecretExtraction,
    /// Asks for data of other people.
    OthersData,
    /// Makes the model someone else.
    Persona,
    /// Speaks of having no limits.
    Unbound,
    /// A persona without limits.
    PersonaUnbound,
    /// A persona that has to obey.
    PersonaComplies,
    /// Harm in a story.
    FictionHarm,
    /// Turns off what protects.
    PolicyDisabling,
    /// Demands obedience.
    Compliance,
    /// The furniture of known jailbreaks.
    Furniture,
    /// Prescribes the words of the answer.
    Prescribed,
    /// Claims to be in charge.
    Authority,
    /// Claims to be in charge and asks for what only that would give.
    AuthorityAsks,
    /// Pretends that another author begins.
    Forgery,
    /// Role markers of prompts.
    RoleMarker,
    /// Role markers as they are spoken.
    SpokenRole,
    /// Speaks to models that read along.
    AddressesModel,
    /// Keeps something from the user.
    ConcealFromUser,
    /// A document that says what the answer has to contain.
    PrescribesAnswer,
    /// A document that orders side effects.
    IndirectCommand,
    /// Speaks to the model and has it send something.
    AddressesAndSends,
    /// Has an encoded text decoded and followed.
    FollowsHidden,
    /// Takes back instructions and prescribes an answer.
    OverrideSays,
    /// The phrase of a known attack with its words run together or torn apart.
    TornPhrase,
    /// Tag characters outside of flags.
    TagCharacters,
    /// Variation selectors where no variant exists.
    VariationSelectors,
    /// Zero-width characters.
    ZeroWidth,
    /// Soft hyphens.
    SoftHyphens,
    /// An override of the writing direction.
    DirectionOverride,
    /// Direction controls without a reason.
    DirectionControls,
    /// Struck or stacked marks.
    CombiningMarks,
    /// Look-alikes from other scripts.
    Homoglyphs,
    /// Mathematical, circled or fullwidth letters.
    StyledLetters,
    /// Digits for letters.
    Leet,
    /// Words spelt out.
    SpacedLetters,
    /// Instructions in a text that was hidden inside this one.
    Hidden(HiddenIn),
    /// The operator's own classifier.
    Classifier,
}

impl PartialOrd for HiddenIn {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for HiddenIn {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.name().cmp(other.name())
    }
}

impl Reason {
    /// The stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Override => "instruction-override",
            Self::NewTask => "new-task",
            Self::PromptExtraction => "prompt-extraction",
            Self::SecretExtraction => "secret-extraction",
            Self::OthersData => "others-data",
            Self::Persona => "persona",
            Self::Unbound => "unbound",
            Self::PersonaUnbound => "persona-unbound",
            Self::PersonaComplies => "persona-complies",
            Self::FictionHarm => "fiction-harm",
            Self::PolicyDisabling => "policy-disabling",
            Self::Compliance => "compliance",
            Self::Furniture => "jailbreak-furniture",
            Self::Prescribed => "prescribed-words",
            Self::Authority => "authority",
            Self::AuthorityAsks => "authority-asks",
            Self::Forgery => "forged-boundary",
            Self::RoleMarker => "role-marker",
            Self::SpokenRole => "spoken-role",
            Self::AddressesModel => "addresses-model",
            Self::ConcealFromUser => "conceal-from-user",
            Self::PrescribesAnswer => "prescribes-answer",
            Self::IndirectCommand => "indirect-command",
            Self::AddressesAndSends => "addresses-and-sends",
            Self::FollowsHidden => "follows-hidden",
            Self::OverrideSays => "override-and-say",
            Self::TornPhrase => "torn-phrase",
            Self::TagCharacters => "tag-characters",
            Self::VariationSelectors => "variation-selectors",
            Self::ZeroWidth => "zero-width",
            Self::SoftHyphens => "soft-hyphens",
            Self::DirectionOverride => "direction-override",
            Self::DirectionControls => "direction-controls",
            Self::CombiningMarks => "combining-marks",
            Self::Homoglyphs => "homoglyphs",
            Self::StyledLetters => "styled-letters",
            Self::Leet => "leet",
            Self::SpacedLetters => "spaced-letters",
            Self::Hidden(HiddenIn::Tags) => "hidden-in-tags",
            Self::Hidden(HiddenIn::Selectors) => "hidden-in-selectors",
            Self::Hidden(HiddenIn::Override) => "hidden-in-override",
            Self::Hidden(HiddenIn::Base64) => "hidden-in-base64",
            Self::Hidden(HiddenIn::Hex) => "hidden-in-hex",
            Self::Hidden(HiddenIn::Base32) => "hidden-in-base32",
            Self::Hidden(HiddenIn::Binary) => "hidden-in-binary",
            Self::Hidden(HiddenIn::Morse) => "hidden-in-morse",
            Self::Hidden(HiddenIn::Escapes) => "hidden-in-escapes",
            Self::Hidden(HiddenIn::Rot13) => "hidden-in-rot13",
            Self::Hidden(HiddenIn::Reversed) => "hidden-in-reversed",
            Self::Hidden(HiddenIn::Markup) => "hidden-in-markup",
            Self::Classifier => "classifier",
        }
    }
}

/// Traits with their weights, each reason once.
#[derive(Debug, Default)]
struct Traits {
    found: BTreeMap<Reason, f32>,
}

impl Traits {
    fn add(&mut self, reason: Reason, weight: f32) {
        if weight > 0.0 {
            let strongest = self.found.entry(reason).or_insert(0.0);
            *strongest = strongest.max(weight);
        }
    }

    fn sum(&self) -> f32 {
        self.found.values().sum()
    }
}

/// A score and what led to it, heaviest first.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Assessment {
    pub(super) score: f32,
    pub(super) reasons: Vec<Reason>,
}

/// What a trait has to weigh to be worth naming.
const WORTH_NAMING: f32 = 0.5;
/// What instructions hidden inside a text weigh at least beyond themselves: nobody hides them by accident.
const HIDING: f32 = 2.5;
/// From this weight on, a hidden text holds instructions.
const HIDDEN_FROM: f32 = 1.8;

/// Scores a normalised text.
pub(super) fn assess(text: &str, normalised: &Normalised, source: Source) -> Assessment {
    let indirect = source.is_indirect();
    let lexicon = Lexicon::shared();
    let (mut traits, everyday) = read(&normalised.folded, lexicon, indirect);
    let disguised = disguises(&normalised.concealment, &mut traits);
    let mut marker = markers::weigh(text);
    if marker > 0.0 && !indirect {
        // Logs and transcripts name speakers; people who speak for themselves do not.
        marker += 0.4;
    }
    traits.add(Reason::RoleMarker, marker);
    traits.add(Reason::TornPhrase, markers::torn(&normalised.folded));
    for hidden in &normalised.hidden {
        let folded = fold_hidden(&hidden.text);
        let (inner, _) = read(&folded, lexicon, indirect);
        let weight = inner.sum() + markers::weigh(&hidden.text);
        if weight >= HIDDEN_FROM {
            traits.add(Reason::Hidden(hidden.place), weight + HIDING);
        }
    }
    let soft: f32 = SOFT
        .iter()
        .filter_map(|reason| traits.found.get(reason))
        .sum();
    // Whoever disguises words is not talking about pizza.
    let relief = if disguised || marker >= 3.0 {
        0.0
    } else {
        everyday.min(soft)
    };
    let sum = BIAS + traits.sum() - relief;
    let mut reasons: Vec<(Reason, f32)> = traits
        .found
        .into_iter()
        .filter(|(_, weight)| *weight >= WORTH_NAMING)
        .collect();
    reasons.sort_by(|(_, left), (_, right)| right.total_cmp(left));
    Assessment {
        score: 1.0 / (1.0 + (-sum).exp()),
        reasons: reasons.into_iter().map(|(reason, _)| reason).collect(),
    }
}

/// The traits of the words, and what speaks for everyday talk.
fn read(folded: &Folded, lexicon: &Lexicon, indirect: bool) -> (Traits, f32) {
    let meanings = meanings(folded, lexicon);
    let present = meanings
        .iter()
        .fold(Concepts::NONE, |all, one| all.or(*one));
    let talks_about = present.meets(Concepts::ABOUT.or(Concepts::HOW_TO).or(Concepts::MENTION));
    let mut traits = Traits::default();
    for sequence in SEQUENCES {
        if !sequence
            .steps
            .iter()
            .all(|(concept, _)| present.meets(*concept))
        {
            continue;
        }
        let weight = sequence.weight + if indirect { sequence.indirect } else { 0.0 };
        if weight <= traits.found.get(&sequence.reason).copied().unwrap_or(0.0) {
            continue;
        }
        if let Some(quoted) = find(sequence, folded, &meanings) {
            let share = if quoted && talks_about {
                QUOTED_SHARE
            } else {
                1.0
            };
            traits.add(sequence.reason, weight * share);
        }
    }
    for pair in TOGETHER {
        if present.meets(pair.first) && present.meets(pair.second) {
            traits.add(pair.reason, pair.weight);
        }
    }
    capital_names(folded, &mut traits);
    let everyday: f32 = EVERYDAY
        .iter()
        .filter(|(concept, _, _)| present.meets(*concept))
        .filter(|(_, _, against)| {
            against
                .iter()
                .any(|reason| traits.found.contains_key(reason))
        })
        .map(|(_, weight, _)| weight)
        .sum();
    let share = (LONG_WORDS as f32 / folded.tokens.len().max(1) as f32).min(1.0);
    (traits, everyday.min(MOST_EVERYDAY) * share)
}

/// What each word means, together with those that follow.
fn meanings(folded: &Folded, lexicon: &Lexicon) -> Vec<Concepts> {
    let mut plain_until = 0;
    folded
        .tokens
        .iter()
        .map(|token| {
            let start = token.range.start as usize;
            if token.place.has(Place::ADDRESS) {
                return Concepts::ADDRESS;
            }
            if start < plain_until {
                return Concepts::NONE;
            }
            let (meaning, len) = lexicon.meaning(&folded.text[start..]);
            if meaning.meets(Concepts::PLAIN) {
                plain_until = start + len;
                return Concepts::NONE;
            }
            if token.place.has(Place::IDENTIFIER) {
                return meaning.or(Concepts::IDENTIFIER);
            }
            meaning
        })
        .collect()
}

/// Looks for a sequence; `Some(true)` if only inside quotation marks.
fn find(sequence: &Sequence, folded: &Folded, meanings: &[Concepts]) -> Option<bool> {
    let (first, _) = *sequence.steps.first()?;
    let mut quoted = None;
    for (at, meaning) in meanings.iter().enumerate() {
        if !meaning.meets(first) || (sequence.commands && !is_command(folded, meanings, at)) {
            continue;
        }
        if follow(sequence, folded, meanings, at) {
            if !folded.tokens[at].place.has(Place::QUOTED) {
                return Some(false);
            }
            quoted = Some(true);
        }
    }
    quoted
}

/// Whether the steps after the first follow from `at`.
fn follow(sequence: &Sequence, folded: &Folded, meanings: &[Concepts], at: usize) -> bool {
    let (tokens, mut at) = (&folded.tokens, at);
    for (concept, gap) in &sequence.steps[1..] {
        let mut next = None;
        for to in at + 1..(at + 2 + usize::from(*gap)).min(tokens.len()) {
            // A sentence ends the search, unless the sentence before was one word: "Ignore. All. Instructions."
            if tokens[to - 1].place.has(Place::ENDS) && !tokens[to - 1].place.has(Place::STARTS) {
                break;
            }
            if meanings[to].meets(*concept) {
                next = Some(to);
                break;
            }
            if meanings[to].meets(sequence.without) {
                return false;
            }
        }
        match next {
            Some(to) => at = to,
            None => return false,
        }
    }
    if sequence.without.is_none() {
        return true;
    }
    let after = at + 1..(at + 4).min(tokens.len());
    for to in after {
        if tokens[to - 1].place.has(Place::ENDS) {
            break;
        }
        if meanings[to].meets(sequence.without) {
            return false;
        }
    }
    true
}

/// Whether the word at `at` begins a command: nothing but lead-ins stands before it in its sentence.
fn is_command(folded: &Folded, meanings: &[Concepts], at: usize) -> bool {
    const LONGEST_LEAD: usize = 5;
    for back in 0..=LONGEST_LEAD.min(at) {
        let token = &folded.tokens[at - back];
        if token.place.has(Place::STARTS) {
            return true;
        }
        let lead = Concepts::LEAD
            .or(Concepts::URGENT)
            .or(Concepts::YOU)
            .or(Concepts::TOPIC);
        let Some(before) = (at - back).checked_sub(1) else {
            return true;
        };
        if !meanings[before].meets(lead) && folded.word(&folded.tokens[before]) != "to" {
            return false;
        }
    }
    false
}

/// Names of jailbreak personas that are words or first names unless written in capitals.
fn capital_names(folded: &Folded, traits: &mut Traits) {
    let mut count = 0;
    for token in &folded.tokens {
        if token.place.has(Place::CAPITALS)
            && matches!(
                folded.word(token),
                "dan" | "stan" | "dude" | "aim" | "ucar" | "duo" | "jon" | "ron"
            )
        {
            count += 1;
        }
    }
    if count > 0 {
        traits.add(Reason::Furniture, if count > 1 { 3.4 } else { 2.4 });
    }
}

/// Weighs disguises. True if there is one that nobody uses by accident.
fn disguises(hidden: &Concealment, traits: &mut Traits) -> bool {
    // Small numbers of some characters get into honest text by copying; each further one is less of an accident.
    let few = |count: u32, first: f32, each: f32| {
        if count == 0 {
            0.0
        } else {
            first + each * (count - 1) as f32
        }
    };
    let weights = [
        (Reason::TagCharacters, few(hidden.tags, 4.5, 0.5)),
        (Reason::VariationSelectors, few(hidden.selectors, 2.2, 0.7)),
        (Reason::ZeroWidth, few(hidden.zero_width, 2.0, 0.8)),
        (Reason::SoftHyphens, few(hidden.soft_hyphens, 0.8, 0.4)),
        (Reason::DirectionOverride, few(hidden.overrides, 5.0, 0.5)),
        (Reason::DirectionControls, few(hidden.directions, 1.2, 0.7)),
        (Reason::CombiningMarks, few(hidden.marks, 1.2, 0.9)),
        (Reason::Homoglyphs, few(hidden.mixed_words, 3.2, 1.5)),
        (Reason::StyledLetters, few(hidden.styled_words, 2.2, 1.0)),
        (Reason::Leet, few(hidden.leet_words, 0.8, 1.0)),
        (Reason::SpacedLetters, few(hidden.spaced_words, 1.5, 1.0)),
    ];
    let mut disguised = false;
    for (reason, weight) in weights {
        // Beyond certainty nothing is gained.
        traits.add(reason, weight.min(7.0));
        disguised |= weight >= 1.8;
    }
    disguised
}

/// Whether a character belongs to a script without blanks, so that words have no end to look for.
fn ideographic(c: char) -> bool {
    matches!(c, '\u{2E80}'..='\u{9FFF}' | '\u{AC00}'..='\u{D7AF}' | '\u{F900}'..='\u{FAFF}')
}

#[cfg(test)]
mod tests;
