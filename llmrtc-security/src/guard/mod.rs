//! Screens text for instructions that its author had no right to give (F2): prompt injection, in layers.
//!
//! | Layer | Where | What it does |
//! | --- | --- | --- |
//! | normalise | [`normalise`](normalise::normalise) | takes out what carries hidden text, and undoes disguises for matching |
//! | detect | [`Guard::screen`] | scores a text, says why, and what the operator wants done |
//! | separate | [`separate`] | keeps instructions and data apart in what the model reads |
//! | contain | [`output`], [`tool`](crate::tool) | limits what a model can do that was persuaded all the same |
//! | length | [`length`] | cuts by what a reader counts, never inside a character |
//!
//! No detector of this kind is complete: it catches what is known and cheap. That is why it is one layer of five, and
//! why the others do not depend on it.

mod config;
#[cfg(any(test, feature = "testing"))]
pub mod disguise;
pub mod length;
pub mod normalise;
pub mod output;
mod rules;
pub mod separate;

use std::{fmt, sync::Arc};

pub use self::{
    config::{Action, GuardConfig, SourceConfig},
    rules::Reason,
};

/// Where a text came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// The person in the conversation.
    #[default]
    User,
    /// The result of a tool.
    Tool,
    /// An attachment, text in an image, a web page.
    Document,
}

impl Source {
    /// Whether a third party wrote it.
    pub const fn is_indirect(self) -> bool {
        matches!(self, Self::Tool | Self::Document)
    }

    /// The name in records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Tool => "tool",
            Self::Document => "document",
        }
    }
}

/// A second opinion, such as a model that the operator runs. Asked on the path of a turn: it has to be quick.
pub trait InjectionClassifier: Send + Sync + 'static {
    /// How likely the text is an injection, 0 to 1; `None` when there is no opinion, and the rules stand alone.
    fn score(&self, text: &str, source: Source) -> Option<f32>;
}

/// Screens texts. Cheap to clone; made once per process.
#[derive(Clone, Default)]
pub struct Guard {
    config: GuardConfig,
    classifier: Option<Arc<dyn InjectionClassifier>>,
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("config", &self.config)
            .field("classifier", &self.classifier.is_some())
            .finish()
    }
}

/// What became of a text. `Debug` shows no text.
#[derive(Clone, PartialEq)]
pub struct Verdict {
    /// 0 to 1.
    pub score: f32,
    /// The score reached the threshold of its source.
    pub flagged: bool,
    /// What to do; `None` when the text is not flagged.
    pub action: Option<Action>,
    /// What spoke against the text, heaviest first; also for texts that are not flagged.
    pub reasons: Vec<Reason>,
    /// The text as it may be stored and sent: without hidden characters, else byte for byte as it came.
    pub text: String,
}

impl fmt::Debug for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verdict")
            .field("score", &self.score)
            .field("flagged", &self.flagged)
            .field("action", &self.action)
            .field("reasons", &self.reasons)
            .finish_non_exhaustive()
    }
}

impl Guard {
    /// A guard with this configuration.
    pub fn new(config: GuardConfig) -> Self {
        Self {
            config,
            classifier: None,
        }
    }

    /// Asks a classifier as well. The higher score counts.
    #[must_use]
    pub fn with_classifier(mut self, classifier: Arc<dyn InjectionClassifier>) -> Self {
        self.classifier = Some(classifier);
        self
    }

    /// The configuration.
    pub fn config(&self) -> &GuardConfig {
        &self.config
    }

    /// Normalises and scores a text. Pure unless the classifier is not; linear in the text.
    pub fn screen(&self, text: &str, source: Source) -> Verdict {
        let normalised = normalise::normalise(text);
        let mut assessment = rules::assess(&normalised.output, &normalised, source);
        let opinion = self
            .classifier
            .as_ref()
            .and_then(|classifier| classifier.score(&normalised.output, source))
            .filter(|score| score.is_finite());
        if let Some(opinion) = opinion.filter(|opinion| *opinion > assessment.score) {
            assessment.score = opinion.min(1.0);
            assessment.reasons.push(Reason::Classifier);
        }
        let rules = self.config.source(source);
        let flagged = assessment.score >= rules.threshold;
        Verdict {
            score: assessment.score,
            flagged,
            action: flagged.then_some(rules.action),
            reasons: assessment.reasons,
            text: normalised.output,
        }
    }
}

#[cfg(test)]
mod tests;
