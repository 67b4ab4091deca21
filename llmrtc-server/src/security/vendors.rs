//! What callers use of vendors (D2, D6): places for requests, seconds of speech, money.
//!
//! Providers are wrapped once at the start. Whose call it is stands in the registry, under the session that every call
//! names.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream::BoxStream};
use llmrtc_core::{
    audio::{AudioFormat, PcmChunk, SampleRate, Utterance},
    provider::{
        CallContext, ErrorKind, LlmCapabilities, LlmProvider, LlmRequest, LlmStream, ProviderError,
        ProviderStream, Providers, StreamingStt, StreamingTts, SttConfig, SttProvider, SttResult,
        TtsConfig, TtsProvider, TtsResult,
    },
};
use llmrtc_security::{
    audit::{Action, AuditEvent},
    limit::{
        admission::Place,
        budget::{Reservation, Usage},
        config::Scope,
        policy::Subject,
    },
};

use super::Security;
use crate::registry::SessionInfo;

/// Characters that are spoken in a second. Speech is counted before it is made, since whoever pays for it pays for the
/// text; people talk at 12 to 16.
const CHARACTERS_PER_SECOND: usize = 15;
/// Bytes of a second of recorded speech, where only decoding tells how long it is: 16 kHz, 16 bits.
const PLAIN_BYTES_PER_SECOND: usize = 32_000;
/// The same for compressed containers: 32 kbit/s, what browsers record speech with at the least.
const COMPRESSED_BYTES_PER_SECOND: usize = 4_000;

/// Puts providers behind the limits of their callers.
pub(crate) fn guard(providers: Providers, security: &Arc<Security>) -> Providers {
    let gate = |name: &str| Gate {
        security: Arc::clone(security),
        name: name.into(),
    };
    Providers {
        llm: Arc::new(Llm {
            gate: gate(providers.llm.name()),
            inner: providers.llm,
        }),
        stt: Arc::new(Stt {
            gate: gate(providers.stt.name()),
            inner: providers.stt,
        }),
        tts: Arc::new(Tts {
            gate: gate(providers.tts.name()),
            inner: providers.tts,
        }),
        vision: providers.vision,
    }
}

/// The way to one vendor.
#[derive(Clone)]
struct Gate {
    security: Arc<Security>,
    name: Arc<str>,
}

impl Gate {
    /// A place for a request, held as long as the request.
    async fn place(&self) -> Result<Place, ProviderError> {
        let place = self.security.capacity.provider(&self.name).await;
        place.map_err(|full| {
            ProviderError::new(ErrorKind::Unavailable, &*self.name, full.to_string())
                .with_retry_after(full.retry_after)
                .with_retryable(false)
        })
    }

    fn caller(&self, cx: &CallContext) -> Option<SessionInfo> {
        self.security.registry.get(cx.session_id)
    }

    /// Counts seconds of speech with what the caller may have, and their price with the day's budget.
    async fn spend(
        &self,
        scope: Scope,
        usage: Usage,
        seconds: Duration,
        cx: &CallContext,
    ) -> Result<(), ProviderError> {
        // A call outside any session, such as one that warms a provider up, is the operator's.
        let Some(info) = self.caller(cx) else {
            return Ok(());
        };
        let security = &self.security;
        let class = info.caller.grants.rate_class.as_deref();
        let subject = Subject::address(info.address)
            .principal(&info.caller)
            .session(info.session_id)
            .class(class);
        let whole = u32::try_from(seconds.as_millis().div_ceil(1_000)).unwrap_or(u32::MAX);
        let limited = security
            .limits
            .check(scope, &subject, whole.max(1), security.now())
            .await;
        let (limit, retry_after) = match limited {
            Err(refusal) => (scope.name(), refusal.retry_after()),
            Ok(_) => {
                let cost = security.prices.cost(&self.name, "", &usage);
                let (address, wall) = (info.address.to_string(), security.wall());
                let reserved = security
                    .budgets
                    .reserve(&info.caller, &address, class, cost, wall)
                    .await;
                match reserved {
                    Ok(reserved) => {
                        Reservation::settle(reserved, cost, wall).await;
                        return Ok(());
                    }
                    Err(_) => ("budget", None),
                }
            }
        };
        let wait = retry_after.unwrap_or_default();
        let event = Action::RateLimited {
            limit,
            retry_after: wait,
        };
        let event = AuditEvent::new(event).by(&info.caller);
        security.note(event.session(info.session_id).from(info.address));
        Err(
            ProviderError::new(ErrorKind::RateLimited, &*self.name, "the caller's limit")
                .with_retry_after(wait)
                .with_retryable(false),
        )
    }
}

/// Keeps a place until the stream is dropped.
fn holding<T: Send + 'static>(place: Place, stream: ProviderStream<T>) -> ProviderStream<T> {
    stream
        .map(move |item| {
            let _held = &place;
            item
        })
        .boxed()
}

struct Llm {
    gate: Gate,
    inner: Arc<dyn LlmProvider>,
}

#[async_trait]
impl LlmProvider for Llm {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn capabilities(&self) -> LlmCapabilities {
        self.inner.capabilities()
    }

    async fn init(&self) -> Result<(), ProviderError> {
        self.inner.init().await
    }

    async fn stream(
        &self,
        request: LlmRequest,
        cx: &CallContext,
    ) -> Result<LlmStream, ProviderError> {
        let place = self.gate.place().await?;
        Ok(holding(place, self.inner.stream(request, cx).await?))
    }

    async fn shutdown(&self) {
        self.inner.shutdown().await;
    }
}

struct Stt {
    gate: Gate,
    inner: Arc<dyn SttProvider>,
}

/// How long an utterance is, at least roughly.
fn length(audio: &Utterance) -> Duration {
    let per_second = match audio {
        Utterance::Encoded(encoded) if encoded.format != AudioFormat::Wav => {
            COMPRESSED_BYTES_PER_SECOND
        }
        _ => PLAIN_BYTES_PER_SECOND,
    };
    let guess = || Duration::from_secs(audio.size_bytes().div_ceil(per_second) as u64);
    audio.duration().unwrap_or_else(guess)
}

fn heard(audio: Duration) -> Usage {
    Usage {
        audio,
        ..Usage::default()
    }
}

#[async_trait]
impl SttProvider for Stt {
    fn name(&self) -> &str {
        self.inner.name()
    }

    async fn init(&self) -> Result<(), ProviderError> {
        self.inner.init().await
    }

    async fn transcribe(
        &self,
        audio: Utterance,
        config: &SttConfig,
        cx: &CallContext,
    ) -> Result<SttResult, ProviderError> {
        let length = length(&audio);
        let spent = self
            .gate
            .spend(Scope::SttSeconds, heard(length), length, cx);
        spent.await?;
        let _place = self.gate.place().await?;
        self.inner.transcribe(audio, config, cx).await
    }

    fn streaming(&self) -> Option<&dyn StreamingStt> {
        self.inner.streaming().is_some().then_some(self as _)
    }

    async fn shutdown(&self) {
        self.inner.shutdown().await;
    }
}

#[async_trait]
impl StreamingStt for Stt {
    fn input_rate(&self) -> SampleRate {
        let live = self.inner.streaming();
        live.map_or(SampleRate::HZ_16000, StreamingStt::input_rate)
    }

    async fn transcribe_stream(
        &self,
        frames: BoxStream<'static, PcmChunk>,
        config: &SttConfig,
        cx: &CallContext,
    ) -> Result<ProviderStream<SttResult>, ProviderError> {
        let Some(live) = self.inner.streaming() else {
            let message = "no live transcription";
            return Err(ProviderError::new(
                ErrorKind::Unsupported,
                self.name(),
                message,
            ));
        };
        // The first second is paid in advance; who has nothing left is not listened to.
        let second = Duration::from_secs(1);
        let first = self
            .gate
            .spend(Scope::SttSeconds, heard(second), second, cx);
        first.await?;
        let place = self.gate.place().await?;
        let gate = self.gate.clone();
        let cx_of_frames = cx.clone();
        let mut unpaid = Duration::ZERO;
        let mut paid = second;
        let frames = frames.then(move |frame| {
            unpaid += frame.duration();
            let due = unpaid.saturating_sub(paid);
            let pay = due >= second;
            if pay {
                paid += due;
            }
            let (gate, cx) = (gate.clone(), cx_of_frames.clone());
            async move {
                if pay && let Err(error) = gate.spend(Scope::SttSeconds, heard(due), due, &cx).await
                {
                    tracing::debug!(%error, "live transcription is over");
                    return None;
                }
                Some(frame)
            }
        });
        // What was said until the limit is transcribed.
        let frames = frames.take_while(|frame| std::future::ready(frame.is_some()));
        let frames = frames.filter_map(std::future::ready).boxed();
        Ok(holding(
            place,
            live.transcribe_stream(frames, config, cx).await?,
        ))
    }
}

struct Tts {
    gate: Gate,
    inner: Arc<dyn TtsProvider>,
}

impl Tts {
    async fn spend(&self, text: &str, cx: &CallContext) -> Result<(), ProviderError> {
        let characters = text.chars().count();
        let seconds = Duration::from_secs(characters.div_ceil(CHARACTERS_PER_SECOND) as u64);
        let usage = Usage {
            characters: characters as u64,
            audio: seconds,
            ..Usage::default()
        };
        self.gate.spend(Scope::TtsSeconds, usage, seconds, cx).await
    }
}

#[async_trait]
impl TtsProvider for Tts {
    fn name(&self) -> &str {
        self.inner.name()
    }

    async fn init(&self) -> Result<(), ProviderError> {
        self.inner.init().await
    }

    async fn speak(
        &self,
        text: &str,
        config: &TtsConfig,
        cx: &CallContext,
    ) -> Result<TtsResult, ProviderError> {
        self.spend(text, cx).await?;
        let _place = self.gate.place().await?;
        self.inner.speak(text, config, cx).await
    }

    fn streaming(&self) -> Option<&dyn StreamingTts> {
        self.inner.streaming().is_some().then_some(self as _)
    }

    async fn shutdown(&self) {
        self.inner.shutdown().await;
    }
}

#[async_trait]
impl StreamingTts for Tts {
    fn pcm_rate(&self) -> SampleRate {
        let live = self.inner.streaming();
        live.map_or(SampleRate::HZ_24000, StreamingTts::pcm_rate)
    }

    async fn speak_stream(
        &self,
        text: &str,
        config: &TtsConfig,
        cx: &CallContext,
    ) -> Result<ProviderStream<Bytes>, ProviderError> {
        let Some(live) = self.inner.streaming() else {
            let message = "no streamed speech";
            return Err(ProviderError::new(
                ErrorKind::Unsupported,
                self.name(),
                message,
            ));
        };
        self.spend(text, cx).await?;
        let place = self.gate.place().await?;
        Ok(holding(place, live.speak_stream(text, config, cx).await?))
    }
}
