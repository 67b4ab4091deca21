use std::time::Duration;

use async_trait::async_trait;
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use llmrtc_core::{
    audio::{AudioFormat, EncodedAudio, PcmChunk, SampleRate},
    provider::{
        CallContext, ProviderError, ProviderStream, StreamingTts, TtsConfig, TtsProvider, TtsResult,
    },
};

use super::{
    EchoConfig, pause,
    voice::{RATE, Voice},
};

/// Length of a streamed piece.
const PIECE: Duration = Duration::from_millis(100);
/// A text of this many letters speaks for ten minutes; nobody listens longer.
const MAX_CHARS: usize = 10_000;

/// Text to speech that babbles: [`voice`](super::voice).
#[derive(Clone, Debug, Default)]
pub struct EchoTts {
    config: EchoConfig,
}

impl EchoTts {
    /// Uses the delay of `config`.
    pub fn new(config: EchoConfig) -> Self {
        Self { config }
    }

    fn voice(text: &str, config: &TtsConfig) -> Voice {
        let end = text
            .char_indices()
            .nth(MAX_CHARS)
            .map_or(text.len(), |(at, _)| at);
        Voice::new(&text[..end], config.speed.unwrap_or(1.0))
    }
}

#[async_trait]
impl TtsProvider for EchoTts {
    fn name(&self) -> &str {
        "echo-tts"
    }

    /// Gives WAV.
    async fn speak(
        &self,
        text: &str,
        config: &TtsConfig,
        _cx: &CallContext,
    ) -> Result<TtsResult, ProviderError> {
        pause(self.config.speech_delay).await;
        let samples: Vec<i16> = Self::voice(text, config).collect();
        Ok(TtsResult {
            audio: EncodedAudio {
                data: PcmChunk::new(samples, RATE).to_wav(),
                format: AudioFormat::Wav,
                rate: Some(RATE),
            },
        })
    }

    fn streaming(&self) -> Option<&dyn StreamingTts> {
        Some(self)
    }
}

#[async_trait]
impl StreamingTts for EchoTts {
    fn pcm_rate(&self) -> SampleRate {
        RATE
    }

    /// Computes a piece when it is asked for, about a hundred times faster than real time.
    async fn speak_stream(
        &self,
        text: &str,
        config: &TtsConfig,
        _cx: &CallContext,
    ) -> Result<ProviderStream<Bytes>, ProviderError> {
        pause(self.config.speech_delay).await;
        let samples = RATE.samples_in(PIECE);
        Ok(
            stream::unfold(Self::voice(text, config), move |mut voice| async move {
                let mut piece = BytesMut::with_capacity(samples * 2);
                for sample in voice.by_ref().take(samples) {
                    piece.put_i16_le(sample);
                }
                // A long text must not keep a runtime worker from its other calls.
                tokio::task::yield_now().await;
                (!piece.is_empty()).then(|| (Ok(piece.freeze()), voice))
            })
            .boxed(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn streamed_and_whole_speech_are_the_same_samples() {
        let tts = EchoTts::new(EchoConfig {
            speech_delay: Duration::from_millis(70),
            ..EchoConfig::default()
        });
        let cx = CallContext::detached();
        let begin = tokio::time::Instant::now();
        let pieces: Vec<_> = tts
            .speak_stream("Hello there.", &TtsConfig::default(), &cx)
            .await
            .unwrap()
            .collect()
            .await;
        assert_eq!(begin.elapsed(), Duration::from_millis(70));
        assert!(pieces.len() > 5);
        let streamed: Vec<u8> = pieces
            .into_iter()
            .flat_map(|piece| piece.unwrap())
            .collect();
        let whole = tts
            .speak("Hello there.", &TtsConfig::default(), &cx)
            .await
            .unwrap();
        assert_eq!(streamed, whole.audio.data[44..]);
    }

    #[tokio::test]
    async fn nothing_to_say_is_an_empty_stream() {
        let stream = EchoTts::default()
            .speak_stream("", &TtsConfig::default(), &CallContext::detached())
            .await
            .unwrap();
        assert!(stream.collect::<Vec<_>>().await.len() <= 1);
    }
}
