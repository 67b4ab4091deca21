//! What observers are told. Payloads are shared, so observing copies nothing (HK5).

use std::{
    error::Error,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde_json::Value;

use super::{ErrorContext, ProviderCall, Timing, TurnContext};
use crate::{
    audio::PcmChunk,
    id::SessionId,
    message::ToolCall,
    playout::SegmentIndex,
    provider::{LlmRequest, LlmResult, ProviderError, SttResult},
    tool::{FailureCategory, ToolFailure},
    turn::{Component, Outcome, TurnError, TurnTiming},
};

/// Something that happened inside a turn.
///
/// Order: `TurnStart`, `SttStart`, `SttEnd`/`SttError`, then per round `LlmStart`, `LlmChunk`…, `LlmEnd`/`LlmError`,
/// tools; `TtsStart`, segments and their chunks, `TtsEnd`/`TtsError`, which overlap with the rounds; `TurnEnd` last.
#[derive(Clone)]
#[non_exhaustive]
pub enum HookEvent {
    /// The turn began.
    TurnStart,
    /// Transcription began.
    SttStart {
        /// The call.
        call: ProviderCall,
    },
    /// The final transcript is there.
    SttEnd {
        /// The call.
        call: ProviderCall,
        /// What was understood.
        result: Arc<SttResult>,
        /// From the request; in live mode from the end of speech (ST2).
        timing: Timing,
    },
    /// Transcription failed, after retries.
    SttError {
        /// The call.
        call: ProviderCall,
        /// Why.
        error: Arc<TurnError>,
    },
    /// The model is asked.
    LlmStart {
        /// The call.
        call: ProviderCall,
        /// The request.
        request: Arc<LlmRequest>,
    },
    /// A piece of text. All but the first of a response may be dropped when the observer is slow.
    LlmChunk {
        /// The call.
        call: ProviderCall,
        /// The text, never empty.
        text: Arc<str>,
        /// Counts the pieces of one response from 0.
        index: u64,
        /// Since the request.
        elapsed: Duration,
    },
    /// A response is complete.
    LlmEnd {
        /// The call.
        call: ProviderCall,
        /// The folded response.
        result: Arc<LlmResult>,
        /// From the request to the end of the response.
        timing: Timing,
    },
    /// The model failed, after retries.
    LlmError {
        /// The call.
        call: ProviderCall,
        /// Why.
        error: Arc<TurnError>,
    },
    /// The first segment of the turn goes to synthesis.
    TtsStart {
        /// The call.
        call: ProviderCall,
        /// The segment's text.
        text: Arc<str>,
    },
    /// A segment goes to synthesis.
    SegmentStart {
        /// The call.
        call: ProviderCall,
        /// Which segment.
        segment: SegmentIndex,
        /// Its text.
        text: Arc<str>,
    },
    /// A piece of audio. All but the first of a segment may be dropped when the observer is slow.
    TtsChunk {
        /// The call.
        call: ProviderCall,
        /// Which segment.
        segment: SegmentIndex,
        /// Counts the pieces of one segment from 0.
        index: u64,
        /// The audio.
        audio: PcmChunk,
        /// Since the request for this segment.
        elapsed: Duration,
    },
    /// A segment is synthesised.
    SegmentEnd {
        /// The call.
        call: ProviderCall,
        /// Which segment.
        segment: SegmentIndex,
        /// From the request to the last audio.
        timing: Timing,
    },
    /// All speech of the turn is synthesised.
    TtsEnd {
        /// The call of the last segment.
        call: ProviderCall,
        /// From the first request to the last audio.
        timing: Timing,
    },
    /// Synthesis of a segment failed, after its second chance.
    TtsError {
        /// The call.
        call: ProviderCall,
        /// Why.
        error: Arc<TurnError>,
    },
    /// A tool begins to run.
    ToolStart {
        /// The call.
        call: Arc<ToolCall>,
    },
    /// A tool returned.
    ToolEnd {
        /// The call.
        call: Arc<ToolCall>,
        /// What it returned.
        result: Arc<Value>,
        /// How long it ran.
        timing: Timing,
    },
    /// A tool did not return a value.
    ToolError {
        /// The call.
        call: Arc<ToolCall>,
        /// Why.
        error: Arc<ToolFailure>,
        /// How long it ran.
        timing: Timing,
    },
    /// The first sample of the answer left.
    PlayoutStarted {
        /// From the caller's last voiced sample, or the arrival of the text.
        response: Duration,
    },
    /// Playout ran dry in the middle of a segment.
    PlayoutUnderrun,
    /// The caller spoke over the answer, which was cut.
    BargeIn {
        /// The part of the answer that was heard.
        heard: Arc<str>,
        /// All of the answer that had been generated.
        generated: Arc<str>,
        /// From the caller's first voiced sample to the last frame sent, where it was a voice that interrupted.
        reaction: Option<Duration>,
    },
    /// The interruption was noise: the answer goes on.
    BargeInResumed,
    /// A provider call failed and is tried again.
    Retry {
        /// Which stage.
        component: Component,
        /// The attempt that failed, from 1.
        attempt: u32,
        /// The wait before the next one.
        wait: Duration,
        /// Why.
        error: Arc<ProviderError>,
    },
    /// The turn is over. Always comes, always last.
    TurnEnd {
        /// How.
        outcome: Outcome,
        /// When its stages happened.
        stages: TurnTiming,
        /// From `TurnStart`, playout included.
        timing: Timing,
    },
}

impl HookEvent {
    /// The event's name: that of its hook without `on_`.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::TurnStart => "turn_start",
            Self::SttStart { .. } => "stt_start",
            Self::SttEnd { .. } => "stt_end",
            Self::SttError { .. } => "stt_error",
            Self::LlmStart { .. } => "llm_start",
            Self::LlmChunk { .. } => "llm_chunk",
            Self::LlmEnd { .. } => "llm_end",
            Self::LlmError { .. } => "llm_error",
            Self::TtsStart { .. } => "tts_start",
            Self::SegmentStart { .. } => "segment_start",
            Self::TtsChunk { .. } => "tts_chunk",
            Self::SegmentEnd { .. } => "segment_end",
            Self::TtsEnd { .. } => "tts_end",
            Self::TtsError { .. } => "tts_error",
            Self::ToolStart { .. } => "tool_start",
            Self::ToolEnd { .. } => "tool_end",
            Self::ToolError { .. } => "tool_error",
            Self::PlayoutStarted { .. } => "playout_started",
            Self::PlayoutUnderrun => "playout_underrun",
            Self::BargeIn { .. } => "barge_in",
            Self::BargeInResumed => "barge_in_resumed",
            Self::Retry { .. } => "retry",
            Self::TurnEnd { .. } => "turn_end",
        }
    }

    /// Whether a slow observer may miss it: chunks after the first, which latency is measured on.
    pub(super) const fn may_be_dropped(&self) -> bool {
        matches!(
            self,
            Self::LlmChunk { index, .. } | Self::TtsChunk { index, .. } if *index > 0
        )
    }

    /// The failure this event is about, for `on_error` (HK1).
    ///
    /// A failed turn is reported by the stage that failed it, so `TurnEnd` only counts when no stage did.
    pub(super) fn failure(&self, cx: &TurnContext) -> Option<ServerEvent> {
        let (context, error): (ErrorContext, SharedError) = match self {
            Self::SttError { error, .. }
            | Self::LlmError { error, .. }
            | Self::TtsError { error, .. } => (ErrorContext::of(error), error.clone()),
            Self::TurnEnd {
                outcome: Outcome::Failed(error),
                ..
            } if !matches!(**error, TurnError::Provider { .. }) => {
                (ErrorContext::of(error), error.clone())
            }
            Self::ToolError { error, .. } => (
                ErrorContext::new("TOOL_ERROR", Component::Tool),
                Arc::new(ToolCallFailed(error.category)),
            ),
            _ => return None,
        };
        Some(ServerEvent::Error {
            context: context.with_session(cx.session_id).with_turn(cx.turn_id),
            error,
        })
    }
}

impl fmt::Debug for HookEvent {
    /// The name only: most payloads are somebody's words.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What `on_error` is told about a tool: not the reason, which may quote arguments.
#[derive(Debug, thiserror::Error)]
#[error("tool call failed: {}", .0.name())]
struct ToolCallFailed(FailureCategory);

/// An error that several observers look at.
pub type SharedError = Arc<dyn Error + Send + Sync>;

/// Something that happened outside of turns.
#[derive(Clone)]
#[non_exhaustive]
pub enum ServerEvent {
    /// A client connected.
    Connection {
        /// Its session.
        session_id: SessionId,
        /// The connection, as logs name it.
        connection_id: Arc<str>,
        /// How it is connected, such as `websocket`: a metric label.
        transport: &'static str,
    },
    /// A client is gone.
    Disconnect {
        /// Its session.
        session_id: SessionId,
        /// As in `Connection`.
        transport: &'static str,
        /// The connection from open to close.
        timing: Timing,
        /// The turns it had.
        turns: u64,
    },
    /// The caller began to speak (confirmed).
    SpeechStart {
        /// The session.
        session_id: SessionId,
        /// When.
        at: SystemTime,
    },
    /// The caller stopped.
    SpeechEnd {
        /// The session.
        session_id: SessionId,
        /// When.
        at: SystemTime,
        /// The audio of the utterance.
        audio: Duration,
    },
    /// Something failed: once for every failure of every component (HK1). Failures inside turns are reported here by
    /// [`Observers`](super::Observers) itself.
    Error {
        /// What, where and when.
        context: ErrorContext,
        /// The failure.
        error: SharedError,
    },
}

impl ServerEvent {
    /// The event's name: that of its hook without `on_`.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Connection { .. } => "connection",
            Self::Disconnect { .. } => "disconnect",
            Self::SpeechStart { .. } => "speech_start",
            Self::SpeechEnd { .. } => "speech_end",
            Self::Error { .. } => "error",
        }
    }
}

impl fmt::Debug for ServerEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
