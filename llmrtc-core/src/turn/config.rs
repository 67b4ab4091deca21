use std::time::Duration;

use serde::Deserialize;
use validator::{Validate, ValidationError};

use crate::duration;

/// How a session talks. Defaults are what a voice call wants.
#[derive(Clone, Debug, PartialEq, Deserialize, Validate)]
#[serde(default, deny_unknown_fields)]
pub struct TurnConfig {
    /// Instructions for the model, sent with every request.
    pub system_prompt: String,
    /// Most messages of earlier exchanges in a request; 0 sends the current exchange only (H2, H4).
    #[validate(range(max = 10_000))]
    pub history_limit: usize,
    /// Optional token budget for the window, applied after `history_limit` (H3).
    pub history_tokens: Option<usize>,
    /// How many of the newest exchanges keep their images (H5).
    pub attachment_turns: usize,
    /// Sampling temperature; absent leaves it to the provider.
    #[validate(range(min = 0.0, max = 2.0))]
    pub temperature: Option<f32>,
    /// Nucleus sampling; absent leaves it to the provider.
    #[validate(range(min = 0.0, max = 1.0))]
    pub top_p: Option<f32>,
    /// Most tokens of one answer.
    #[validate(range(min = 1))]
    pub max_tokens: Option<u32>,
    /// Language of the conversation (BCP 47), given to transcription, chunking and synthesis.
    pub language: Option<String>,
    /// Voice name or id.
    pub voice: Option<String>,
    /// Words and names that callers are likely to use.
    pub hints: Vec<String>,
    /// Synthesise while the model is still writing. Off: one synthesis after the answer is complete.
    pub streaming_tts: bool,
    /// Transcribe while the caller is speaking, where the provider can.
    pub streaming_stt: bool,
    /// Segments synthesised ahead of playout (PI2).
    #[validate(range(min = 1, max = 8))]
    pub tts_lookahead: usize,
    /// Start transcription in a short pause and throw it away when speech goes on.
    pub speculative_stt: bool,
    /// Spoken when a filter or a refusal left nothing to say. Blank says nothing.
    pub fallback_phrase: String,
    /// Deadlines.
    #[validate(nested)]
    pub timeouts: Timeouts,
    /// Attempts at a language model call, the first included (RT1).
    #[validate(range(min = 1, max = 10))]
    pub llm_attempts: u32,
    /// Most tool rounds in one turn; after that the model must answer.
    #[validate(range(min = 1, max = 50))]
    pub max_tool_rounds: u32,
}

impl Default for TurnConfig {
    fn default() -> Self {
        Self {
            system_prompt: "You are a helpful realtime voice assistant.".into(),
            // The reference's default; four exchanges.
            history_limit: 8,
            history_tokens: None,
            attachment_turns: 1,
            temperature: None,
            top_p: None,
            max_tokens: None,
            language: None,
            voice: None,
            hints: Vec::new(),
            streaming_tts: true,
            streaming_stt: false,
            // One playing, one ready: a third only costs money when the caller interrupts.
            tts_lookahead: 2,
            speculative_stt: true,
            fallback_phrase: "Sorry, I can't help with that.".into(),
            timeouts: Timeouts::default(),
            llm_attempts: 3,
            max_tool_rounds: 10,
        }
    }
}

/// Deadlines of a turn. On expiry the turn fails with the component's timeout code; the session goes on.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Validate)]
#[serde(default, deny_unknown_fields)]
#[validate(schema(function = "positive"))]
pub struct Timeouts {
    /// Buffered transcription, whole call.
    #[serde(with = "duration")]
    pub stt: Duration,
    /// Live transcription, from the end of speech to the final result.
    #[serde(with = "duration")]
    pub stt_final: Duration,
    /// Language model, request to first event.
    #[serde(with = "duration")]
    pub llm_first: Duration,
    /// Language model, between two events.
    #[serde(with = "duration")]
    pub llm_idle: Duration,
    /// Synthesis, request to first audio of a segment.
    #[serde(with = "duration")]
    pub tts_first: Duration,
    /// Synthesis, between two pieces of audio.
    #[serde(with = "duration")]
    pub tts_idle: Duration,
    /// One tool call.
    #[serde(with = "duration")]
    pub tool: Duration,
    /// The whole turn, playout excepted.
    #[serde(with = "duration")]
    pub turn: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            stt: Duration::from_secs(15),
            stt_final: Duration::from_secs(5),
            llm_first: Duration::from_secs(10),
            llm_idle: Duration::from_secs(15),
            tts_first: Duration::from_secs(5),
            tts_idle: Duration::from_secs(10),
            tool: Duration::from_secs(30),
            turn: Duration::from_secs(180),
        }
    }
}

fn positive(timeouts: &Timeouts) -> Result<(), ValidationError> {
    let all = [
        timeouts.stt,
        timeouts.stt_final,
        timeouts.llm_first,
        timeouts.llm_idle,
        timeouts.tts_first,
        timeouts.tts_idle,
        timeouts.tool,
        timeouts.turn,
    ];
    if all.iter().all(|timeout| !timeout.is_zero()) {
        Ok(())
    } else {
        Err(ValidationError::new("positive")
            .with_message("deadlines must be longer than zero".into()))
    }
}
