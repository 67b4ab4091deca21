use async_trait::async_trait;
use futures_util::stream::BoxStream;

use super::{CallContext, ProviderError, ProviderStream};
use crate::audio::{PcmChunk, SampleRate, Utterance};

/// How to transcribe; absent means the provider's default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SttConfig {
    /// BCP 47 language tag.
    pub language: Option<String>,
    /// Model id.
    pub model: Option<String>,
    /// Words and names the caller is likely to use.
    pub hints: Vec<String>,
}

/// One recognition result.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SttResult {
    /// Interim text is cumulative for the current segment: it replaces, it does not append.
    pub text: String,
    /// The segment's text will not change any more.
    pub is_final: bool,
    /// 0–1, where the provider reports it.
    pub confidence: Option<f32>,
    /// Detected language, where the provider reports it.
    pub language: Option<String>,
}

/// Speech to text.
#[async_trait]
pub trait SttProvider: Send + Sync + 'static {
    /// The name used as a metric label, such as `openai-whisper`.
    fn name(&self) -> &str;

    /// The model behind it, for people to read, such as `whisper-1`. `None` where that means nothing, and before
    /// [`init`](Self::init) where only the server knows.
    fn model(&self) -> Option<&str> {
        None
    }

    /// Checks the configuration and warms connections. Idempotent (PL2).
    async fn init(&self) -> Result<(), ProviderError> {
        Ok(())
    }

    /// Transcribes one complete utterance into one final result.
    ///
    /// # Cancel safety
    /// Dropping the future aborts the request.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`](super::ErrorKind::InvalidInput) when the audio cannot be decoded.
    async fn transcribe(
        &self,
        audio: Utterance,
        config: &SttConfig,
        cx: &CallContext,
    ) -> Result<SttResult, ProviderError>;

    /// The live capability, if there is one. Asked once, at session start.
    fn streaming(&self) -> Option<&dyn StreamingStt> {
        None
    }

    /// Releases connections. Called once, after the sessions are gone.
    async fn shutdown(&self) {}
}

/// Speech to text while the caller is speaking.
#[async_trait]
pub trait StreamingStt: Send + Sync {
    /// The rate of the frames it wants.
    fn input_rate(&self) -> SampleRate {
        SampleRate::HZ_16000
    }

    /// Transcribes the frames of one utterance. The end of `frames` means "finalise"; an empty stream ends cleanly
    /// without a result. Several finals may come, one per segment.
    ///
    /// # Cancel safety
    /// Dropping the future or the returned stream closes the connection.
    ///
    /// # Errors
    /// Connection failures; a connection that closes before the final result is an error, never an empty transcript.
    async fn transcribe_stream(
        &self,
        frames: BoxStream<'static, PcmChunk>,
        config: &SttConfig,
        cx: &CallContext,
    ) -> Result<ProviderStream<SttResult>, ProviderError>;
}
