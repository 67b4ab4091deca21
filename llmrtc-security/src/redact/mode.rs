//! How a span is written instead, and for whom.

use std::collections::BTreeMap;

use serde::Deserialize;
use validator::{Validate, ValidationError};

use super::kind::Kind;

/// What takes a span's place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Mode {
    /// The kind's tag: `[CARD]`.
    #[default]
    Tag,
    /// A star for each letter and digit; blanks and punctuation stay, so that lengths and layouts survive.
    Mask,
    /// Like `Mask`, but the last four letters or digits stay where there are twelve or more, the last two where there are eight.
    KeepLast4,
    /// The first six and the last four of a card, the most that PCI DSS lets anyone see; other kinds as `KeepLast4`.
    KeepFirst6Last4,
    /// `[CARD_…]` with a keyed digest: the same value gets the same name within a session, and another one elsewhere.
    Pseudonym,
    /// Like `Pseudonym`, and the session's vault can put the value back.
    Token,
    /// Leaves spans of the kind as they are.
    Pass,
}

/// Which kinds one sink does not get to see, and what it sees instead.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Validate)]
#[serde(default, deny_unknown_fields)]
#[validate(schema(function = "policy_is_consistent"))]
pub struct SinkPolicy {
    /// For every kind that `kinds` does not name.
    pub mode: Mode,
    /// By kind, under its wire name (`birth_date`) or the name of an own recogniser.
    pub kinds: BTreeMap<String, Mode>,
}

impl SinkPolicy {
    /// One mode for all kinds.
    pub fn all(mode: Mode) -> Self {
        Self {
            mode,
            kinds: BTreeMap::new(),
        }
    }

    /// The mode for a kind. Nothing of a card verification value is ever kept, so its mode is `Tag` unless it passes by policy.
    pub fn mode_for(&self, kind: &Kind) -> Mode {
        let mode = if self.kinds.is_empty() {
            self.mode
        } else {
            self.kinds.get(kind.name()).copied().unwrap_or(self.mode)
        };
        match (kind, mode) {
            (Kind::Cvv, _) => Mode::Tag,
            (_, mode) => mode,
        }
    }
}

fn policy_is_consistent(policy: &SinkPolicy) -> Result<(), ValidationError> {
    if policy
        .kinds
        .get("cvv")
        .is_some_and(|mode| *mode != Mode::Tag)
    {
        return Err(ValidationError::new("cvv").with_message(
            "card verification values are never kept, so cvv cannot have a mode of its own".into(),
        ));
    }
    Ok(())
}

/// A value with its letters and digits starred, all but `first` and `last` of them.
pub(super) fn mask(value: &str, first: usize, last: usize, out: &mut String) {
    let total = value
        .chars()
        .filter(|character| character.is_alphanumeric())
        .count();
    let mut seen = 0;
    for character in value.chars() {
        if character.is_alphanumeric() {
            seen += 1;
            let kept = seen <= first || seen > total - last.min(total);
            out.push(if kept { character } else { '*' });
        } else {
            out.push(character);
        }
    }
}

/// How many of the last letters and digits `KeepLast4` keeps: never more than a third.
pub(super) fn kept_last(value: &str) -> usize {
    match value
        .chars()
        .filter(|character| character.is_alphanumeric())
        .count()
    {
        12.. => 4,
        8..=11 => 2,
        _ => 0,
    }
}
