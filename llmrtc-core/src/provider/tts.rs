use async_trait::async_trait;
use bytes::Bytes;

use super::{CallContext, ProviderError, ProviderStream};
use crate::audio::{EncodedAudio, SampleRate};

/// How to speak; absent means the provider's default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TtsConfig {
    /// Voice name or id.
    pub voice: Option<String>,
    /// Model id.
    pub model: Option<String>,
    /// Free-text direction of the delivery; ignored by models without support.
    pub instructions: Option<String>,
    /// Relative speed, 1.0 is normal.
    pub speed: Option<f32>,
    /// BCP 47 language tag.
    pub language: Option<String>,
}

/// One synthesised text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TtsResult {
    /// The audio in the provider's own format.
    pub audio: EncodedAudio,
}

/// Text to speech.
#[async_trait]
pub trait TtsProvider: Send + Sync + 'static {
    /// The name used as a metric label, such as `openai-tts`.
    fn name(&self) -> &str;

    /// The model behind it, for people to read, such as `gpt-4o-mini-tts`. `None` where that means nothing, and before
    /// [`init`](Self::init) where only the server knows.
    fn model(&self) -> Option<&str> {
        None
    }

    /// Checks the configuration and warms connections. Idempotent (PL2).
    async fn init(&self) -> Result<(), ProviderError> {
        Ok(())
    }

    /// Synthesises a text in one piece. `text` is never blank.
    ///
    /// # Cancel safety
    /// Dropping the future aborts the request.
    ///
    /// # Errors
    /// Any failure; nothing was delivered then.
    async fn speak(
        &self,
        text: &str,
        config: &TtsConfig,
        cx: &CallContext,
    ) -> Result<TtsResult, ProviderError>;

    /// The streaming capability, if there is one.
    fn streaming(&self) -> Option<&dyn StreamingTts> {
        None
    }

    /// Releases connections. Called once, after the sessions are gone.
    async fn shutdown(&self) {}
}

/// Text to speech that delivers audio while it is made.
#[async_trait]
pub trait StreamingTts: Send + Sync {
    /// The rate of the PCM it delivers.
    fn pcm_rate(&self) -> SampleRate {
        SampleRate::HZ_24000
    }

    /// Synthesises a text as mono s16le PCM. Chunk borders are arbitrary and may split a sample.
    ///
    /// # Cancel safety
    /// Dropping the future or the returned stream aborts the request.
    ///
    /// # Errors
    /// Whatever kept the first byte from arriving; later failures come through the stream.
    async fn speak_stream(
        &self,
        text: &str,
        config: &TtsConfig,
        cx: &CallContext,
    ) -> Result<ProviderStream<Bytes>, ProviderError>;
}
