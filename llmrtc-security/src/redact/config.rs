//! What an operator may tune about redaction.

use std::collections::BTreeMap;

use serde::Deserialize;
use validator::{Validate, ValidationError};

use super::{
    custom::Check,
    detector::HORIZON,
    kind::Kind,
    mode::{Mode, SinkPolicy},
};

/// The redaction section of the configuration.
#[derive(Clone, Debug, PartialEq, Deserialize, Validate)]
#[serde(default, deny_unknown_fields)]
#[validate(schema(function = "names_are_known"))]
pub struct RedactConfig {
    /// Kinds that are not looked for at all, by wire name.
    pub off: Vec<String>,
    /// Whether identifiers that people speak are looked for.
    pub spoken: bool,
    /// Whether the question before and the state of the dialogue count.
    pub context: bool,
    /// Values that are nobody's secret, such as the company's own hotline. Compared without regard to case.
    #[validate(length(max = 1000), custom(function = "phrases_fit"))]
    pub allow: Vec<String>,
    /// Words and phrases that always go, as kind `denied`.
    #[validate(length(max = 1000), custom(function = "phrases_fit"))]
    pub deny: Vec<String>,
    /// Own recognisers.
    #[validate(nested)]
    pub recognisers: Vec<RecogniserConfig>,
    /// What each sink sees.
    #[validate(nested)]
    pub sinks: SinksConfig,
}

impl Default for RedactConfig {
    fn default() -> Self {
        Self {
            off: Vec::new(),
            spoken: true,
            context: true,
            allow: Vec::new(),
            deny: Vec::new(),
            recognisers: Vec::new(),
            sinks: SinksConfig::default(),
        }
    }
}

/// An own recogniser: a pattern, and what else must be true.
#[derive(Clone, Debug, PartialEq, Deserialize, Validate)]
#[serde(deny_unknown_fields)]
pub struct RecogniserConfig {
    /// The kind's name: lower-case letters, digits and underscores.
    #[validate(length(min = 1, max = 32), custom(function = "name_is_plain"))]
    pub name: String,
    /// A regular expression, tried at the start of every word against the next 64 characters.
    #[validate(length(min = 1, max = 1000))]
    pub pattern: String,
    /// A check on the letters and digits of the match.
    pub check: Option<Check>,
    /// Words of which one must stand within 60 characters before the match. Empty: none needed.
    #[serde(default)]
    #[validate(length(max = 64), custom(function = "phrases_fit"))]
    pub near: Vec<String>,
    /// How sure a match is, 0–1; overlaps go to the higher score.
    #[serde(default = "default_score")]
    #[validate(range(min = 0.0, max = 1.0))]
    pub score: f32,
}

fn default_score() -> f32 {
    // Above what forms alone suggest, below what check digits prove.
    0.9
}

/// What each kind of sink sees.
#[derive(Clone, Debug, PartialEq, Deserialize, Validate)]
#[serde(default, deny_unknown_fields)]
pub struct SinksConfig {
    /// Logs, traces, metric labels, error text, the audit log.
    #[validate(nested)]
    pub log: SinkPolicy,
    /// Requests to vendors of language models and speech.
    #[validate(nested)]
    pub vendor: SinkPolicy,
    /// Stored transcripts and history.
    #[validate(nested)]
    pub storage: SinkPolicy,
    /// Messages to the caller's own client.
    #[validate(nested)]
    pub client: SinkPolicy,
}

impl Default for SinksConfig {
    fn default() -> Self {
        let only = |kinds: &[Kind], mode: Mode| SinkPolicy {
            mode: Mode::Pass,
            kinds: kinds
                .iter()
                .map(|kind| (kind.name().to_owned(), mode))
                .collect::<BTreeMap<_, _>>(),
        };
        Self {
            log: SinkPolicy::all(Mode::Tag),
            // A model cannot book for a caller whose name it does not see; it never needs credentials or whole cards.
            vendor: only(
                &[
                    Kind::Card,
                    Kind::Pin,
                    Kind::Password,
                    Kind::Secret,
                    Kind::Ssn,
                ],
                Mode::Token,
            ),
            storage: SinkPolicy::all(Mode::Tag),
            // The caller knows what the caller said; what must not be shown on a screen is masked.
            client: only(
                &[Kind::Card, Kind::Pin, Kind::Password, Kind::Secret],
                Mode::KeepLast4,
            ),
        }
    }
}

/// Own recognisers. Each costs a pass over every text.
const MAX_RECOGNISERS: usize = 64;

fn names_are_known(config: &RedactConfig) -> Result<(), ValidationError> {
    if config.recognisers.len() > MAX_RECOGNISERS {
        return Err(ValidationError::new("length").with_message("at most 64 recognisers".into()));
    }
    let own = |name: &str| {
        name == super::custom::DENIED
            || config
                .recognisers
                .iter()
                .any(|recogniser| recogniser.name == name)
    };
    let sinks = [
        &config.sinks.log,
        &config.sinks.vendor,
        &config.sinks.storage,
        &config.sinks.client,
    ];
    let unknown = config
        .off
        .iter()
        .chain(sinks.iter().flat_map(|sink| sink.kinds.keys()))
        .find(|name| Kind::named(name).is_none() && !own(name));
    match unknown {
        None => Ok(()),
        Some(name) => Err(ValidationError::new("unknown_kind")
            .with_message(format!("no kind is called {name:?}").into())),
    }
}

fn name_is_plain(name: &str) -> Result<(), ValidationError> {
    let plain = name
        .bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    if plain && Kind::named(name).is_none() {
        Ok(())
    } else {
        Err(ValidationError::new("name").with_message(
            "a recogniser's name is lower case and none of the built-in kinds".into(),
        ))
    }
}

fn phrases_fit(phrases: &[String]) -> Result<(), ValidationError> {
    if phrases
        .iter()
        .all(|phrase| !phrase.trim().is_empty() && phrase.chars().count() < HORIZON)
    {
        Ok(())
    } else {
        Err(ValidationError::new("length").with_message("entries have 1 to 63 characters".into()))
    }
}
