//! What events are about: the turn, the call, the time, the failure.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::{
    id::{SessionId, TurnId},
    provider::ErrorKind,
    turn::{Component, TurnError},
};

/// What a turn began with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InputKind {
    /// Typed.
    Text,
    /// A complete utterance.
    Utterance {
        /// Size in memory.
        bytes: usize,
        /// How long it lasts; zero where that is unknown without decoding.
        duration: Duration,
    },
    /// Frames while the caller was speaking.
    Live,
}

impl InputKind {
    /// The metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Utterance { .. } => "utterance",
            Self::Live => "live",
        }
    }
}

/// The turn that an event belongs to: the same in all events of one turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TurnContext {
    /// The session.
    pub session_id: SessionId,
    /// The turn.
    pub turn_id: TurnId,
    /// When the turn began.
    pub started_at: SystemTime,
    /// What it began with.
    pub input: InputKind,
}

/// When something happened and how long it took: the duration is monotonic, the start is for display.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// When it began, by the wall clock.
    pub started_at: SystemTime,
    /// How long it took.
    pub duration: Duration,
}

impl Timing {
    /// From the wall clock alone; zero when the clock was set back in between.
    pub fn between(started_at: SystemTime, ended_at: SystemTime) -> Self {
        Self {
            started_at,
            duration: ended_at.duration_since(started_at).unwrap_or_default(),
        }
    }

    /// When it ended.
    pub fn ended_at(&self) -> SystemTime {
        self.started_at + self.duration
    }
}

/// How a provider delivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CallMode {
    /// In one piece.
    Buffered,
    /// Piece by piece.
    Streaming,
}

impl CallMode {
    /// The metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Buffered => "buffered",
            Self::Streaming => "streaming",
        }
    }
}

/// The provider call that an event belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderCall {
    /// The provider's name.
    pub provider: Arc<str>,
    /// The model asked for, where the session chose one.
    pub model: Option<Arc<str>>,
    /// How it delivers.
    pub mode: CallMode,
    /// Which request of the turn to the language model, from 0; each tool round adds one. 0 for speech.
    pub round: u32,
}

impl ProviderCall {
    /// The first call of a turn to `provider`, with its default model.
    pub fn new(provider: impl Into<Arc<str>>, mode: CallMode) -> Self {
        Self {
            provider: provider.into(),
            model: None,
            mode,
            round: 0,
        }
    }
}

/// What, where and when something failed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ErrorContext {
    /// The code a client sees.
    pub code: &'static str,
    /// The part of the system.
    pub component: Component,
    /// The provider, if it was one.
    pub provider: Option<Arc<str>>,
    /// The session, if there is one.
    pub session_id: Option<SessionId>,
    /// The turn, if there is one.
    pub turn_id: Option<TurnId>,
    /// When.
    pub at: SystemTime,
    /// Anything else an operator should know; no content.
    pub details: Option<Arc<str>>,
}

impl ErrorContext {
    /// A failure, now, of a component outside of sessions.
    pub fn new(code: &'static str, component: Component) -> Self {
        Self {
            code,
            component,
            provider: None,
            session_id: None,
            turn_id: None,
            at: SystemTime::now(),
            details: None,
        }
    }

    /// The failure of a turn, now.
    pub fn of(error: &TurnError) -> Self {
        let component = error.component();
        let code = match (component, error.kind()) {
            (_, Some(ErrorKind::RateLimited)) => "RATE_LIMITED",
            (Component::Stt, Some(ErrorKind::InvalidInput)) => "INVALID_AUDIO_FORMAT",
            (Component::Stt, Some(ErrorKind::Timeout(_))) => "STT_TIMEOUT",
            (Component::Stt, _) => "STT_ERROR",
            (Component::Llm, Some(ErrorKind::Timeout(_))) => "LLM_TIMEOUT",
            (Component::Llm, _) => "LLM_ERROR",
            (Component::Tts, Some(ErrorKind::Timeout(_))) => "TTS_TIMEOUT",
            (Component::Tts, _) => "TTS_ERROR",
            (Component::Tool, _) => "TOOL_ERROR",
            (Component::Playbook, _) => "PLAYBOOK_ERROR",
            _ => "INTERNAL_ERROR",
        };
        let provider = match error {
            TurnError::Provider { source, .. } => Some(Arc::from(source.provider())),
            TurnError::Deadline | TurnError::Internal(_) => None,
        };
        Self {
            provider,
            ..Self::new(code, component)
        }
    }

    /// Names the session.
    #[must_use]
    pub fn with_session(mut self, session_id: SessionId) -> Self {
        self.session_id = Some(session_id);
        self
    }

    /// Names the turn.
    #[must_use]
    pub fn with_turn(mut self, turn_id: TurnId) -> Self {
        self.turn_id = Some(turn_id);
        self
    }

    /// Adds what else an operator should know.
    #[must_use]
    pub fn with_details(mut self, details: impl Into<Arc<str>>) -> Self {
        self.details = Some(details.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::{Phase, ProviderError};

    #[test]
    fn a_timing_is_its_end_minus_its_start() {
        let at = |ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
        let timing = Timing::between(at(1_000), at(1_500));
        assert_eq!(timing.duration, Duration::from_millis(500));
        assert_eq!(timing.ended_at(), at(1_500));
        assert_eq!(
            Timing::between(at(2), at(1)).duration,
            Duration::ZERO,
            "the clock may be set back"
        );
    }

    #[test]
    fn an_error_context_carries_what_it_is_given() {
        let bare = ErrorContext::new("VAD_ERROR", Component::Vad);
        assert_eq!(
            (bare.session_id, bare.turn_id, &bare.details),
            (None, None, &None)
        );
        assert!(bare.at > SystemTime::UNIX_EPOCH);
        let session = SessionId::from_u128(7);
        let full = bare
            .with_session(session)
            .with_turn(TurnId(3))
            .with_details("model missing");
        assert_eq!(full.code, "VAD_ERROR");
        assert_eq!(full.component, Component::Vad);
        assert_eq!(full.session_id, Some(session));
        assert_eq!(full.turn_id, Some(TurnId(3)));
        assert_eq!(full.details.as_deref(), Some("model missing"));
    }

    #[test]
    fn codes_follow_component_and_kind() {
        let code = |component, kind| {
            ErrorContext::of(&TurnError::Provider {
                component,
                source: ProviderError::new(kind, "p", "m"),
            })
            .code
        };
        let timeout = ErrorKind::Timeout(Phase::Total);
        let table = [
            (Component::Stt, timeout, "STT_TIMEOUT"),
            (
                Component::Stt,
                ErrorKind::InvalidInput,
                "INVALID_AUDIO_FORMAT",
            ),
            (Component::Stt, ErrorKind::Protocol, "STT_ERROR"),
            (Component::Llm, timeout, "LLM_TIMEOUT"),
            (Component::Llm, ErrorKind::RateLimited, "RATE_LIMITED"),
            (Component::Llm, ErrorKind::InvalidInput, "LLM_ERROR"),
            (Component::Tts, timeout, "TTS_TIMEOUT"),
            (Component::Tts, ErrorKind::Connect, "TTS_ERROR"),
        ];
        for (component, kind, expected) in table {
            assert_eq!(code(component, kind), expected);
        }
        assert_eq!(
            ErrorContext::of(&TurnError::Deadline).code,
            "INTERNAL_ERROR"
        );
    }
}
