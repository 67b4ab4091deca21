//! What the voices share: sentences, turns at the library, the stream.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, TryStreamExt, future::BoxFuture, stream};
use llmrtc_core::{
    audio::{AudioFormat, EncodedAudio, PcmChunk, SampleRate},
    provider::{ErrorKind, ProviderError, ProviderStream, TtsResult},
    turn::sentence::{Chunker, ChunkerConfig, SentenceChunker, SpeechFilter},
};
use tokio::sync::Semaphore;

use super::tape::Tape;
use crate::local::pool::{InferencePool, PoolError, Priority};

/// The longest text, in bytes: a quarter of an hour of speech. The engine sends sentences.
const MAX_TEXT_BYTES: usize = 16 * 1024;

/// The longest speech of a sentence. Only one that counts up or spells at the slowest speed comes near.
const MAX_SENTENCE: Duration = Duration::from_secs(600);

/// The slowest and fastest speech.
const SPEEDS: std::ops::RangeInclusive<f32> = 0.25..=4.0;

/// A library that speaks, one sentence at a time.
pub(super) trait Engine: Send + 'static {
    /// How a text is spoken: what the options of a call became.
    type Manner: Clone + Send + Sync + 'static;

    /// Speaks a sentence, which has something to say and no control characters. Ends early, with `Ok`, when the tape
    /// takes no more.
    fn speak(
        &mut self,
        sentence: &str,
        manner: &Self::Manner,
        tape: &Arc<Tape>,
    ) -> Result<(), ProviderError>;
}

/// Speaks texts with an engine. Clones share it.
pub(super) struct Speaker<E: Engine> {
    pub(super) name: &'static str,
    pub(super) rate: SampleRate,
    engine: Arc<Mutex<E>>,
    /// Who may use the engine. Waiting here costs nothing; waiting for the mutex would cost a thread of the pool.
    turn: Arc<Semaphore>,
    pool: InferencePool,
}

impl<E: Engine> Clone for Speaker<E> {
    fn clone(&self) -> Self {
        Self {
            name: self.name,
            rate: self.rate,
            engine: Arc::clone(&self.engine),
            turn: Arc::clone(&self.turn),
            pool: self.pool.clone(),
        }
    }
}

impl<E: Engine> fmt::Debug for Speaker<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {} Hz", self.name, self.rate.hz())
    }
}

impl<E: Engine> Speaker<E> {
    pub(super) fn new(
        name: &'static str,
        rate: SampleRate,
        engine: Arc<Mutex<E>>,
        turn: Arc<Semaphore>,
        pool: InferencePool,
    ) -> Self {
        Self {
            name,
            rate,
            engine,
            turn,
            pool,
        }
    }

    pub(super) fn error(&self, kind: ErrorKind, message: impl AsRef<str>) -> ProviderError {
        ProviderError::new(kind, self.name, message)
    }

    /// The speed of a call.
    pub(super) fn speed(&self, speed: Option<f32>) -> Result<f32, ProviderError> {
        let speed = speed.unwrap_or(1.0);
        if SPEEDS.contains(&speed) {
            Ok(speed)
        } else {
            Err(self.error(
                ErrorKind::InvalidInput,
                format!(
                    "speed must be between {} and {}",
                    SPEEDS.start(),
                    SPEEDS.end()
                ),
            ))
        }
    }

    /// Speaks a text; nothing when it has no letter and no digit.
    pub(super) async fn stream(
        &self,
        text: &str,
        language: Option<&str>,
        manner: E::Manner,
    ) -> Result<ProviderStream<Bytes>, ProviderError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(self.error(
                ErrorKind::TooLarge,
                format!(
                    "a text of {} bytes is too long to be spoken; the limit is {MAX_TEXT_BYTES}",
                    text.len()
                ),
            ));
        }
        let mut saying = Saying {
            sentences: sentences(text, language),
            speaker: self.clone(),
            manner,
            now: None,
        };
        // A failure before the first piece belongs to the call.
        let first = saying.next().await?;
        let rest = stream::try_unfold(saying, |mut saying| async move {
            Ok(saying.next().await?.map(|piece| (piece, saying)))
        });
        Ok(stream::iter(first.map(Ok)).chain(rest).boxed())
    }

    /// Speaks a text in one piece, as WAV.
    pub(super) async fn whole(
        &self,
        text: &str,
        language: Option<&str>,
        manner: E::Manner,
    ) -> Result<TtsResult, ProviderError> {
        let pieces = self.stream(text, language, manner).await?;
        let bytes = pieces
            .try_fold(BytesMut::new(), |mut all, piece| async move {
                all.extend_from_slice(&piece);
                Ok(all)
            })
            .await?;
        Ok(TtsResult {
            audio: EncodedAudio {
                data: PcmChunk::from_le_bytes(&bytes, self.rate).to_wav(),
                format: AudioFormat::Wav,
                rate: Some(self.rate),
            },
        })
    }

    /// Queues a sentence.
    fn begin(&self, sentence: String, manner: &E::Manner) -> Sentence {
        let tape = Arc::new(Tape::new(self.rate.samples_in(MAX_SENTENCE)));
        let (speaker, manner, written) = (self.clone(), manner.clone(), Arc::clone(&tape));
        let job = Box::pin(async move {
            let turn = Arc::clone(&speaker.turn).acquire_owned().await;
            let turn = turn.map_err(|_| speaker.error(ErrorKind::Other, "the voice is closed"))?;
            let engine = Arc::clone(&speaker.engine);
            let spoken = speaker.pool.run(Priority::Voice, move || {
                // Held by the job and not by whoever waits for it: that one may be gone before the library is idle.
                let _turn = turn;
                if written.is_stopped() {
                    return Ok(());
                }
                let mut engine = engine.lock().unwrap_or_else(PoisonError::into_inner);
                engine.speak(&sentence, &manner, &written)
            });
            spoken.await.map_err(|error| match error {
                PoolError::Full => {
                    speaker.error(ErrorKind::Unavailable, "too much waits for the processor")
                }
                other => speaker
                    .error(ErrorKind::Other, "synthesis failed")
                    .with_source(other),
            })?
        });
        Sentence {
            tape,
            job,
            ended: false,
        }
    }
}

/// A text that is being spoken.
struct Saying<E: Engine> {
    speaker: Speaker<E>,
    manner: E::Manner,
    sentences: VecDeque<String>,
    now: Option<Sentence>,
}

/// A sentence that is being spoken. Dropping it ends that.
struct Sentence {
    tape: Arc<Tape>,
    job: BoxFuture<'static, Result<(), ProviderError>>,
    ended: bool,
}

impl Drop for Sentence {
    fn drop(&mut self) {
        self.tape.stop();
    }
}

impl<E: Engine> Saying<E> {
    /// The next piece of the text.
    async fn next(&mut self) -> Result<Option<Bytes>, ProviderError> {
        loop {
            let now = match &mut self.now {
                Some(now) => now,
                None => match self.sentences.pop_front() {
                    Some(sentence) => self.now.insert(self.speaker.begin(sentence, &self.manner)),
                    None => return Ok(None),
                },
            };
            if let Some(piece) = now.tape.take() {
                return Ok(Some(piece));
            }
            if now.ended {
                self.now = None;
                continue;
            }
            tokio::select! {
                biased;
                done = &mut now.job => {
                    now.ended = true;
                    done?;
                }
                () = now.tape.filled() => {}
            }
        }
    }
}

/// Cuts a text into what is spoken in one go: sentences, at most some 400 characters each, all with a letter or digit.
fn sentences(text: &str, language: Option<&str>) -> VecDeque<String> {
    // NUL would end the text, and eSpeak takes commands behind control characters.
    let text: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let mut chunker = Chunker::new(ChunkerConfig {
        language: language.map(str::to_owned),
        filter: SpeechFilter::Off,
        ..ChunkerConfig::default()
    });
    let mut segments = Vec::new();
    chunker.push(&text, Instant::now(), &mut segments);
    chunker.flush(&mut segments);
    segments.into_iter().map(|segment| segment.text).collect()
}
