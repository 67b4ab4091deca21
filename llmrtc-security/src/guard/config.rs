//! What an operator may tune about screening.

use serde::Deserialize;
use validator::Validate;

use super::Source;

/// The prompt-injection section of the configuration.
#[derive(Clone, Debug, PartialEq, Deserialize, Validate)]
#[serde(default, deny_unknown_fields)]
pub struct GuardConfig {
    /// What people say and type.
    #[validate(nested)]
    pub user: SourceConfig,
    /// What tools return.
    #[validate(nested)]
    pub tool: SourceConfig,
    /// Attachments, text in images, web pages.
    #[validate(nested)]
    pub document: SourceConfig,
    /// Longest text, in grapheme clusters; the rest is cut off. A minute of fast speech has about 1,200.
    #[validate(range(min = 16, max = 1_000_000))]
    pub max_graphemes: usize,
    /// Longest text in estimated tokens; the smaller of both limits holds.
    #[validate(range(min = 8, max = 1_000_000))]
    pub max_tokens: usize,
}

/// How one source is judged.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Validate)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// Score from which a text is flagged, 0 to 1.
    #[validate(range(min = 0.01, max = 1.0))]
    pub threshold: f32,
    /// What happens to a flagged text.
    pub action: Action,
}

/// What happens to a flagged text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Action {
    /// It is recorded and goes on.
    Log,
    /// It goes on with a note to the model that it looks like an attack.
    Annotate,
    /// It goes on as data: role markers neutralised, spotlighted, never as instructions.
    Sanitize,
    /// It does not go on.
    Block,
    /// The person is asked before anything sensitive happens in this turn.
    Ask,
}

impl Action {
    /// The name in configuration and audit records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Annotate => "annotate",
            Self::Sanitize => "sanitize",
            Self::Block => "block",
            Self::Ask => "ask",
        }
    }
}

impl Default for GuardConfig {
    fn default() -> Self {
        Self {
            // A caller who is refused hangs up, so the middle; and what a caller says can only reach his own session.
            user: SourceConfig {
                threshold: 0.5,
                action: Action::Annotate,
            },
            // Nobody speaks to the model through a tool result with good intentions.
            tool: SourceConfig {
                threshold: 0.35,
                action: Action::Sanitize,
            },
            document: SourceConfig {
                threshold: 0.35,
                action: Action::Sanitize,
            },
            max_graphemes: 8_000,
            max_tokens: 4_000,
        }
    }
}

impl GuardConfig {
    /// The rules for a source.
    pub const fn source(&self, source: Source) -> &SourceConfig {
        match source {
            Source::User => &self.user,
            Source::Tool => &self.tool,
            Source::Document => &self.document,
        }
    }
}
