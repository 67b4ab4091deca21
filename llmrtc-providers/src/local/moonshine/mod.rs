//! Speech recognition with Moonshine.
//!
//! [`Moonshine`] hears 16 kHz mono audio and writes English with punctuation and capitals, in about a fiftieth of the
//! audio's duration on one core. It knows neither partial results nor timestamps, so live results come from recognising
//! the growing audio again and again: see [`StreamingStt`] on it.
//!
//! Nothing that was said appears in a log, in an error or in `Debug`.

use std::{fmt, path::Path, sync::Arc};

use async_trait::async_trait;
use futures_util::{
    FutureExt, StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use llmrtc_core::{
    audio::{PcmChunk, Utterance},
    provider::{
        CallContext, ErrorKind, ProviderError, ProviderStream, StreamingStt, SttConfig,
        SttProvider, SttResult,
    },
};

use self::{
    live::Live,
    network::{Heard, Network, Recognise, Stop},
};
use super::{
    pool::{InferencePool, PoolError, Priority},
    runtime::{Runtime, RuntimeError},
};

mod agreement;
mod audio;
mod live;
mod network;
#[cfg(test)]
mod tests;
mod tokenizer;
mod wave;

/// The name in metrics and errors.
const NAME: &str = "moonshine";

/// Speech to text in this process, English only. Clones share the model.
///
/// Buffered, an utterance of any length is recognised in pieces of at most 12 s that end in pauses; between two pieces
/// other sessions get their turn. What is silent, or so faint or short that it cannot be speech, gives an empty
/// transcript. The confidence is the mean probability of the tokens.
///
/// Live, frames must have [`input_rate`](StreamingStt::input_rate). An interim result holds the words on which two
/// recognitions in a row agree, so it grows and is not taken back. A segment becomes final in a pause after 6 s, at
/// 12 s in any case, and at the end of the frames. A recognition is made for every 400 ms of audio, less often when the
/// machine is busy, and as soon as the caller pauses: mostly, the final text is there before the end of the turn is.
///
/// Names and words to listen for ([`SttConfig::hints`]) and model ids are ignored.
///
/// # Source
/// N. Jeffries et al., *Moonshine: Speech Recognition for Live Transcription and Voice Commands*, 2024,
/// <https://arxiv.org/abs/2410.15608>. Agreement of two: D. Liu et al., *Low-Latency Sequence-to-Sequence Speech
/// Recognition and Translation by Partial Hypothesis Selection*, 2020, <https://arxiv.org/abs/2005.11185>.
#[derive(Clone)]
pub struct Moonshine(Engine);

impl Moonshine {
    /// Loads `encoder_model.ort`, `decoder_model_merged.ort` and `tokenizer.bin` from `dir`. Blocks for a few tenths of
    /// a second.
    ///
    /// # Errors
    /// [`RuntimeError`] when a file is missing or is another one than it should be.
    pub fn load(runtime: &Runtime, dir: &Path, pool: InferencePool) -> Result<Self, RuntimeError> {
        let network = Network::load(runtime, dir)?;
        Ok(Self(Engine {
            recogniser: Arc::new(network),
            pool,
        }))
    }
}

impl fmt::Debug for Moonshine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Moonshine")
            .field("pool", &self.0.pool)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl SttProvider for Moonshine {
    fn name(&self) -> &str {
        NAME
    }

    fn model(&self) -> Option<&str> {
        Some("Moonshine tiny")
    }

    async fn transcribe(
        &self,
        audio: Utterance,
        config: &SttConfig,
        _cx: &CallContext,
    ) -> Result<SttResult, ProviderError> {
        check_language(config)?;
        let prepare = move || {
            let samples = wave::samples(&audio)?;
            let pieces = audio::pieces(&samples);
            Ok::<_, ProviderError>((samples, pieces))
        };
        let (samples, pieces) = self
            .0
            .pool
            .run(Priority::Transcript, prepare)
            .await
            .map_err(pool_failed)??;
        let mut text = String::new();
        let mut confidences = Vec::new();
        for piece in pieces {
            let samples = Arc::clone(&samples);
            let (_, heard) = self
                .0
                .recognise(Priority::Transcript, move || samples[piece].to_vec())
                .await?;
            if !heard.text.is_empty() && !text.is_empty() {
                text.push(' ');
            }
            text.push_str(&heard.text);
            confidences.extend(heard.confidence);
        }
        let sum: f32 = confidences.iter().sum();
        let confidence = (!confidences.is_empty()).then(|| sum / confidences.len() as f32);
        Ok(result(Heard { text, confidence }, true))
    }

    fn streaming(&self) -> Option<&dyn StreamingStt> {
        Some(self)
    }
}

#[async_trait]
impl StreamingStt for Moonshine {
    async fn transcribe_stream(
        &self,
        frames: BoxStream<'static, PcmChunk>,
        config: &SttConfig,
        _cx: &CallContext,
    ) -> Result<ProviderStream<SttResult>, ProviderError> {
        check_language(config)?;
        let live = Live::new(self.0.clone(), frames);
        let results = stream::unfold(Some(live), |live| async move {
            let mut live = live?;
            match live.next().await? {
                Ok(result) => Some((Ok(result), Some(live))),
                Err(error) => Some((Err(error), None)),
            }
        });
        Ok(results.boxed())
    }
}

/// The model and where it runs.
#[derive(Clone)]
struct Engine {
    recogniser: Arc<dyn Recognise>,
    pool: InferencePool,
}

impl Engine {
    /// Recognises what `audio` returns when the job begins, at most 12 s; also tells how many samples that were.
    ///
    /// # Cancel safety
    /// Dropping the future ends the job between two tokens.
    fn recognise(
        &self,
        priority: Priority,
        audio: impl FnOnce() -> Vec<i16> + Send + 'static,
    ) -> BoxFuture<'static, Result<(usize, Heard), ProviderError>> {
        let Self { recogniser, pool } = self.clone();
        async move {
            let stop = Stop::default();
            let _stop = stop.on_drop();
            let job = move || {
                let audio = audio();
                let heard = match audio::conditioned(&audio) {
                    // Nobody waits for what was stopped.
                    Some(samples) => recogniser.recognise(&samples, &stop)?.unwrap_or_default(),
                    None => Heard::default(),
                };
                Ok((audio.len(), heard))
            };
            pool.run(priority, job).await.map_err(pool_failed)?
        }
        .boxed()
    }
}

fn pool_failed(error: PoolError) -> ProviderError {
    RuntimeError::from(error).into_provider(NAME)
}

fn check_language(config: &SttConfig) -> Result<(), ProviderError> {
    let language = config.language.as_deref().unwrap_or("en");
    let primary = language.split(['-', '_']).next().unwrap_or_default();
    if primary.eq_ignore_ascii_case("en") {
        return Ok(());
    }
    Err(ProviderError::new(
        ErrorKind::Unsupported,
        NAME,
        "this model understands English only: choose another speech-to-text provider for other languages",
    ))
}

fn result(heard: Heard, is_final: bool) -> SttResult {
    SttResult {
        text: heard.text,
        is_final,
        confidence: heard.confidence,
        language: Some("en".to_owned()),
    }
}
