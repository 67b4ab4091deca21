use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    id::{StageId, TurnId},
    message::ToolCall,
    provider::{ErrorKind, ProviderError, StopReason, Usage},
    tool::ToolFailure,
};

/// What a session tells its client, in order. Converted to wire messages by the server.
///
/// Guarantees: transcripts come first (O1); `SpeechStarted` comes once and before any audio (O2), and exactly one of
/// `SpeechEnded` and `SpeechCancelled` follows it (O3); each `ToolStarted` precedes its `ToolEnded` (O5); `TurnEnded`
/// comes exactly once per turn and last (O6); `LlmDelta` never waits for synthesis or playout (O7). Every
/// `UserSpeechStarted` is followed by exactly one `UserSpeechEnded`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum TurnEvent {
    /// The caller began to speak (confirmed).
    UserSpeechStarted,
    /// The caller stopped.
    UserSpeechEnded,
    /// A turn began.
    TurnStarted {
        /// Its id.
        turn: TurnId,
    },
    /// What the caller said or typed, so far or finally. Interim text replaces the previous one.
    Transcript {
        /// The turn.
        turn: TurnId,
        /// The text.
        text: Arc<str>,
        /// It will not change any more.
        is_final: bool,
        /// 0–1, where reported.
        confidence: Option<f32>,
    },
    /// A piece of the answer.
    LlmDelta {
        /// The turn.
        turn: TurnId,
        /// The new text.
        text: Arc<str>,
    },
    /// The answer's text is complete.
    LlmDone {
        /// The turn.
        turn: TurnId,
        /// All of it.
        text: Arc<str>,
        /// Why it ended.
        stop_reason: StopReason,
        /// Token counts.
        usage: Usage,
    },
    /// Speech begins.
    SpeechStarted {
        /// The turn.
        turn: TurnId,
    },
    /// The last sample left.
    SpeechEnded {
        /// The turn.
        turn: TurnId,
    },
    /// Speech was cut.
    SpeechCancelled {
        /// The turn.
        turn: TurnId,
        /// The part of the answer that was heard.
        heard: Arc<str>,
    },
    /// A tool begins to run.
    ToolStarted {
        /// The turn.
        turn: TurnId,
        /// The call.
        call: ToolCall,
    },
    /// A tool is done.
    ToolEnded {
        /// The turn.
        turn: TurnId,
        /// The call it answers.
        call: ToolCall,
        /// The value, or the public reason of the failure.
        result: Result<serde_json::Value, ToolFailure>,
        /// How long it ran.
        duration: Duration,
    },
    /// A playbook changed its stage.
    StageChanged {
        /// The stage left.
        from: StageId,
        /// The stage entered.
        to: StageId,
        /// Why, such as `keyword:book`.
        reason: Arc<str>,
    },
    /// A turn is over.
    TurnEnded {
        /// The turn.
        turn: TurnId,
        /// How.
        outcome: Outcome,
        /// When its stages happened.
        timing: TurnTiming,
    },
}

/// How a turn ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// Everything was said.
    Completed,
    /// Nothing was said by the caller.
    Empty,
    /// Cancelled before the model was asked.
    Cancelled,
    /// The caller spoke over the answer.
    Interrupted {
        /// The part of the answer that was heard; blank if none.
        heard: Arc<str>,
    },
    /// A guardrail stepped in. Counted, not an error (GR5).
    Blocked {
        /// Which guardrail.
        by: Arc<str>,
    },
    /// Something failed.
    Failed(Arc<TurnError>),
}

impl Outcome {
    /// The metric label.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Empty => "empty",
            Self::Cancelled => "cancelled",
            Self::Interrupted { .. } => "interrupted",
            Self::Blocked { .. } => "blocked",
            Self::Failed(_) => "failed",
        }
    }
}

/// The part of the system a failure belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Component {
    /// Speech to text.
    Stt,
    /// The language model.
    Llm,
    /// Text to speech.
    Tts,
    /// Voice activity detection.
    Vad,
    /// The peer connection.
    WebRtc,
    /// The server itself.
    Server,
    /// A tool.
    Tool,
    /// A playbook.
    Playbook,
}

impl Component {
    /// The metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Stt => "stt",
            Self::Llm => "llm",
            Self::Tts => "tts",
            Self::Vad => "vad",
            Self::WebRtc => "webrtc",
            Self::Server => "server",
            Self::Tool => "tool",
            Self::Playbook => "playbook",
        }
    }
}

/// Why a turn failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TurnError {
    /// A provider failed, after retries.
    #[error("{} failed", component.label())]
    Provider {
        /// Which stage.
        component: Component,
        /// The failure.
        #[source]
        source: ProviderError,
    },
    /// The whole turn took too long.
    #[error("the turn exceeded its deadline")]
    Deadline,
    /// A bug of ours: a panic inside the turn.
    #[error("the turn ended unexpectedly: {0}")]
    Internal(String),
}

impl TurnError {
    /// The part of the system it belongs to.
    pub fn component(&self) -> Component {
        match self {
            Self::Provider { component, .. } => *component,
            Self::Deadline | Self::Internal(_) => Component::Server,
        }
    }

    /// The provider failure's kind, if it is one.
    pub fn kind(&self) -> Option<ErrorKind> {
        match self {
            Self::Provider { source, .. } => Some(source.kind()),
            Self::Deadline | Self::Internal(_) => None,
        }
    }
}

/// When the stages of a turn happened; absent where a stage did not take place.
///
/// The differences are the latencies that users feel: `first_audio − last_voice` is the response time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TurnTiming {
    /// The caller's last voiced sample was captured.
    pub last_voice: Option<Instant>,
    /// The end of the utterance was decided (or the text arrived).
    pub decided: Option<Instant>,
    /// The final transcript arrived.
    pub transcript: Option<Instant>,
    /// The model was asked.
    pub llm_request: Option<Instant>,
    /// The model's first text arrived.
    pub llm_first_text: Option<Instant>,
    /// The model's response was complete.
    pub llm_done: Option<Instant>,
    /// The first segment was sent to synthesis.
    pub tts_request: Option<Instant>,
    /// The first audio came back.
    pub tts_first_audio: Option<Instant>,
    /// The first sample left playout.
    pub first_audio: Option<Instant>,
    /// The turn ended.
    pub ended: Option<Instant>,
}
