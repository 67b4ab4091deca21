//! What the server says.

use std::{fmt, time::Duration};

use bytes::Bytes;
use llmrtc_core::{audio::AudioFormat, redact::Secret};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    ErrorCode, IceServer, Timestamp,
    text::{audio_format, base64_bytes, exposed},
};

/// A message from server to client.
///
/// Field names are the wire's, in snake case. `Debug` shows the kind only: most of these carry what somebody said.
#[derive(Clone, Serialize, Deserialize)]
#[serde(
    tag = "type",
    rename_all = "kebab-case",
    rename_all_fields = "camelCase"
)]
#[non_exhaustive]
#[expect(
    missing_docs,
    reason = "the fields are the wire's own and stand in docs/protocol.md"
)]
pub enum ServerMessage {
    /// The greeting, first and once.
    Ready {
        #[serde(serialize_with = "exposed::serialize")]
        id: Secret,
        #[serde(default)]
        protocol_version: u32,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        ice_servers: Vec<IceServer>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mode: Option<Mode>,
        /// Additive to v1: the secret that resuming takes from clients that keep it. Rotated at each use.
        #[serde(
            default,
            skip_serializing_if = "Option::is_none",
            serialize_with = "exposed::serialize_some"
        )]
        resume_token: Option<Secret>,
    },
    /// The answer to a `ping`.
    Pong {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        timestamp: Option<Timestamp>,
    },
    /// The answer to an offer.
    #[serde(with = "answer")]
    Signal { sdp: String },
    /// The answer to a `reconnect`.
    ReconnectAck {
        success: bool,
        #[serde(serialize_with = "exposed::serialize")]
        session_id: Secret,
        #[serde(default)]
        history_recovered: bool,
        /// Additive to v1, see [`Ready`](Self::Ready).
        #[serde(
            default,
            skip_serializing_if = "Option::is_none",
            serialize_with = "exposed::serialize_some"
        )]
        resume_token: Option<Secret>,
    },
    /// Additive to v1: the credential of this session ends in so many milliseconds. Send `auth` with a new one.
    AuthExpiring { expires_in_ms: u64 },
    /// Additive to v1: the new credential was accepted, and lasts this long if it ends at all.
    AuthRefreshed {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expires_in_ms: Option<u64>,
    },
    /// The caller began to speak.
    SpeechStart,
    /// The caller stopped.
    SpeechEnd,
    /// What the caller said; interim text replaces the previous one.
    Transcript {
        text: String,
        #[serde(default = "yes")]
        is_final: bool,
    },
    /// A piece of the answer, to be appended.
    LlmChunk { content: String, done: bool },
    /// The whole answer.
    Llm { text: String },
    /// The answer becomes audible.
    TtsStart,
    /// A piece of synthesised speech, where there is no RTP track.
    TtsChunk {
        #[serde(with = "audio_format", default = "pcm")]
        format: AudioFormat,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sample_rate: Option<u32>,
        #[serde(with = "base64_bytes")]
        data: Bytes,
    },
    /// A whole spoken answer, where there is no RTP track.
    Tts {
        #[serde(with = "audio_format", default = "mp3")]
        format: AudioFormat,
        #[serde(with = "base64_bytes")]
        data: Bytes,
    },
    /// The answer has been heard to its end.
    TtsComplete,
    /// The answer was cut.
    TtsCancelled,
    /// A tool begins to run.
    ToolCallStart {
        name: String,
        call_id: String,
        #[serde(default)]
        arguments: Map<String, Value>,
    },
    /// A tool is done.
    ToolCallEnd {
        call_id: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        result: Option<Value>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
        #[serde(default)]
        duration_ms: u64,
    },
    /// The playbook changed its stage.
    StageChange {
        from: String,
        to: String,
        #[serde(default)]
        reason: String,
    },
    /// What the relayed model said; interim text replaces the previous one.
    AssistantTranscript {
        text: String,
        #[serde(default = "yes")]
        is_final: bool,
    },
    /// Tokens of a relayed response.
    Usage {
        #[serde(default)]
        input_tokens: u64,
        #[serde(default)]
        output_tokens: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        audio_input_tokens: Option<u64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        audio_output_tokens: Option<u64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cached_tokens: Option<u64>,
    },
    /// The session changed between pipeline and relay.
    ModeChanged { mode: Mode },
    /// Something failed. The connection stays usable.
    Error {
        #[serde(default = "unknown_code")]
        code: ErrorCode,
        #[serde(default)]
        message: String,
        /// Additive to v1, with `RATE_LIMITED`: when it makes sense to try again.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after_ms: Option<u64>,
    },
    /// A type this version does not know; read, never sent.
    #[serde(other)]
    Unknown,
}

/// How a session produces its answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Mode {
    /// Speech to text, language model, text to speech.
    Pipeline,
    /// A speech-to-speech model, relayed.
    Realtime,
}

/// A server's message that a client cannot read. Says no more, since the parser would quote the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server sent a malformed message")]
pub struct InvalidServerMessage;

impl ServerMessage {
    /// An error with its standard sentence.
    pub fn error(code: ErrorCode) -> Self {
        Self::Error {
            code,
            message: code.sentence().to_owned(),
            retry_after_ms: None,
        }
    }

    /// `RATE_LIMITED`, with the time after which the client is served again.
    pub fn rate_limited(retry_after: Duration) -> Self {
        let code = ErrorCode::RateLimited;
        Self::Error {
            code,
            message: code.sentence().to_owned(),
            // Rounded up: whoever waits exactly that long is not early.
            retry_after_ms: Some(retry_after.as_nanos().div_ceil(1_000_000) as u64),
        }
    }

    /// An error whose sentence ends in an id that finds it in the logs.
    pub fn error_with_reference(code: ErrorCode, reference: &str) -> Self {
        Self::Error {
            code,
            message: format!("{} (ref {reference})", code.sentence()),
            retry_after_ms: None,
        }
    }

    /// The message as JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a message that is sent always serializes")
    }

    /// Reads a message at the client end; unknown types become [`Unknown`](Self::Unknown).
    ///
    /// # Errors
    /// If the text is not an object with the fields its type requires.
    pub fn parse(text: &str) -> Result<Self, InvalidServerMessage> {
        serde_json::from_str(text).map_err(|_| InvalidServerMessage)
    }

    /// Travels on the WebSocket only; the client ignores it on the data channel.
    pub fn is_control(&self) -> bool {
        matches!(
            self,
            Self::Ready { .. }
                | Self::Pong { .. }
                | Self::Signal { .. }
                | Self::ReconnectAck { .. }
                | Self::AuthExpiring { .. }
                | Self::AuthRefreshed { .. }
        )
    }

    /// Carries audio, and is therefore never sent twice.
    pub fn is_bulky(&self) -> bool {
        matches!(self, Self::Tts { .. } | Self::TtsChunk { .. })
    }

    /// The message's type on the wire.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Ready { .. } => "ready",
            Self::Pong { .. } => "pong",
            Self::Signal { .. } => "signal",
            Self::ReconnectAck { .. } => "reconnect-ack",
            Self::AuthExpiring { .. } => "auth-expiring",
            Self::AuthRefreshed { .. } => "auth-refreshed",
            Self::SpeechStart => "speech-start",
            Self::SpeechEnd => "speech-end",
            Self::Transcript { .. } => "transcript",
            Self::LlmChunk { .. } => "llm-chunk",
            Self::Llm { .. } => "llm",
            Self::TtsStart => "tts-start",
            Self::TtsChunk { .. } => "tts-chunk",
            Self::Tts { .. } => "tts",
            Self::TtsComplete => "tts-complete",
            Self::TtsCancelled => "tts-cancelled",
            Self::ToolCallStart { .. } => "tool-call-start",
            Self::ToolCallEnd { .. } => "tool-call-end",
            Self::StageChange { .. } => "stage-change",
            Self::AssistantTranscript { .. } => "assistant-transcript",
            Self::Usage { .. } => "usage",
            Self::ModeChanged { .. } => "mode-changed",
            Self::Error { .. } => "error",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Debug for ServerMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error { code, .. } => write!(f, "error({code})"),
            other => f.write_str(other.kind()),
        }
    }
}

/// `signal: {type: "answer", sdp}`.
mod answer {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Outer<T> {
        signal: Inner<T>,
    }

    #[derive(Serialize, Deserialize)]
    struct Inner<T> {
        #[serde(rename = "type")]
        kind: Kind,
        sdp: T,
    }

    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Kind {
        Answer,
    }

    pub(super) fn serialize<S: Serializer>(sdp: &str, serializer: S) -> Result<S::Ok, S::Error> {
        Outer {
            signal: Inner {
                kind: Kind::Answer,
                sdp,
            },
        }
        .serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<String, D::Error> {
        Outer::deserialize(d).map(|outer| outer.signal.sdp)
    }
}

fn yes() -> bool {
    true
}

fn pcm() -> AudioFormat {
    AudioFormat::Pcm
}

fn mp3() -> AudioFormat {
    AudioFormat::Mp3
}

fn unknown_code() -> ErrorCode {
    ErrorCode::InternalError
}
