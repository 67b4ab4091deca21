//! What went wrong, in the client's vocabulary.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The `code` of an `error` message.
///
/// Exhaustive on purpose: a new code is a protocol decision and belongs in `docs/protocol.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ErrorCode {
    /// The media stack is switched off.
    WebrtcUnavailable,
    /// An offer could not be applied, or connectivity failed.
    ConnectionFailed,
    /// A message was malformed or had fields of the wrong type.
    InvalidMessage,
    /// The bytes of `audio` could not be decoded.
    InvalidAudioFormat,
    /// A limit per connection or per principal, or a vendor's, was reached.
    RateLimited,
    /// Reserved: a failed resume is told by `reconnect-ack` alone.
    SessionNotFound,
    /// Reserved, as [`SessionNotFound`](Self::SessionNotFound).
    SessionExpired,
    /// Speech recognition failed.
    SttError,
    /// Speech recognition took too long.
    SttTimeout,
    /// The language model failed.
    LlmError,
    /// The language model took too long.
    LlmTimeout,
    /// Speech synthesis failed.
    TtsError,
    /// Speech synthesis took too long.
    TtsTimeout,
    /// Voice activity detection cannot run.
    VadError,
    /// Audio could not be decoded or encoded.
    AudioProcessingError,
    /// The tool loop cannot continue.
    ToolError,
    /// A playbook is misconfigured.
    PlaybookError,
    /// The speech-to-speech relay failed.
    RealtimeError,
    /// The relay's budget is spent.
    BudgetExceeded,
    /// A guardrail stopped the input or the answer.
    ContentBlocked,
    /// Anything else; also what a client reads from a code it does not know.
    #[serde(other)]
    InternalError,
}

impl ErrorCode {
    /// Every code.
    pub const ALL: [Self; 21] = [
        Self::WebrtcUnavailable,
        Self::ConnectionFailed,
        Self::InvalidMessage,
        Self::InvalidAudioFormat,
        Self::RateLimited,
        Self::SessionNotFound,
        Self::SessionExpired,
        Self::SttError,
        Self::SttTimeout,
        Self::LlmError,
        Self::LlmTimeout,
        Self::TtsError,
        Self::TtsTimeout,
        Self::VadError,
        Self::AudioProcessingError,
        Self::ToolError,
        Self::PlaybookError,
        Self::RealtimeError,
        Self::BudgetExceeded,
        Self::ContentBlocked,
        Self::InternalError,
    ];

    /// The code as it is written on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WebrtcUnavailable => "WEBRTC_UNAVAILABLE",
            Self::ConnectionFailed => "CONNECTION_FAILED",
            Self::InvalidMessage => "INVALID_MESSAGE",
            Self::InvalidAudioFormat => "INVALID_AUDIO_FORMAT",
            Self::RateLimited => "RATE_LIMITED",
            Self::SessionNotFound => "SESSION_NOT_FOUND",
            Self::SessionExpired => "SESSION_EXPIRED",
            Self::SttError => "STT_ERROR",
            Self::SttTimeout => "STT_TIMEOUT",
            Self::LlmError => "LLM_ERROR",
            Self::LlmTimeout => "LLM_TIMEOUT",
            Self::TtsError => "TTS_ERROR",
            Self::TtsTimeout => "TTS_TIMEOUT",
            Self::VadError => "VAD_ERROR",
            Self::AudioProcessingError => "AUDIO_PROCESSING_ERROR",
            Self::ToolError => "TOOL_ERROR",
            Self::PlaybookError => "PLAYBOOK_ERROR",
            Self::RealtimeError => "REALTIME_ERROR",
            Self::BudgetExceeded => "BUDGET_EXCEEDED",
            Self::ContentBlocked => "CONTENT_BLOCKED",
            Self::InternalError => "INTERNAL_ERROR",
        }
    }

    /// A sentence for the person in front of the client; it names no vendor and no cause.
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::WebrtcUnavailable => "Voice connections are not available on this server.",
            Self::ConnectionFailed => "The voice connection could not be established.",
            Self::InvalidMessage => "The message could not be understood.",
            Self::InvalidAudioFormat => "The audio could not be read.",
            Self::RateLimited => "Too many requests. Please slow down.",
            Self::SessionNotFound => "The session was not found.",
            Self::SessionExpired => "The session has expired.",
            Self::SttError => "Speech could not be recognised.",
            Self::SttTimeout => "Speech recognition did not respond in time.",
            Self::LlmError => "The language model could not answer.",
            Self::LlmTimeout => "The language model did not respond in time.",
            Self::TtsError => "The answer could not be spoken.",
            Self::TtsTimeout => "Speech synthesis did not respond in time.",
            Self::VadError => "Listening is not available.",
            Self::AudioProcessingError => "The audio could not be processed.",
            Self::ToolError => "A tool could not complete its work.",
            Self::PlaybookError => "The conversation could not continue as planned.",
            Self::RealtimeError => "The realtime connection failed.",
            Self::BudgetExceeded => "The budget for this session is used up.",
            Self::ContentBlocked => "This cannot be answered here.",
            Self::InternalError => "Something went wrong.",
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_written_and_read_under_its_own_name() {
        let mut seen = std::collections::HashSet::new();
        for code in ErrorCode::ALL {
            let json = serde_json::to_string(&code).unwrap();
            assert_eq!(json, format!("\"{code}\""));
            assert_eq!(serde_json::from_str::<ErrorCode>(&json).unwrap(), code);
            assert!(seen.insert(json));
            assert!(code.sentence().ends_with('.'));
        }
        assert_eq!(
            serde_json::from_str::<ErrorCode>("\"SERVER_ERROR\"").unwrap(),
            ErrorCode::InternalError
        );
    }
}
