use std::fmt;

use serde::{Deserialize, Serialize};

/// What a record is; each kind has its own retention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Class {
    /// A line of conversation.
    Transcript,
    /// A recording.
    Audio,
    /// What a tool answered.
    ToolResult,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Transcript, Self::Audio, Self::ToolResult];

    /// Its name in tables and exports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Transcript => "transcript",
            Self::Audio => "audio",
            Self::ToolResult => "tool-result",
        }
    }

    /// The class of that name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.as_str() == text)
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
