//! The contracts between the engine and the vendors.
//!
//! All traits are object-safe and chosen at run time. Streaming calls return a stream, and **dropping it cancels**
//! the request: an adapter must close its connection or send the vendor's cancel message within 50 ms. Nothing here
//! retries; the engine does, and only before the first event was delivered. Errors classify themselves
//! ([`ProviderError::retry`]), so nobody matches on text or status numbers.

mod error;
mod llm;
mod stt;
mod tts;
mod vision;

use std::{sync::Arc, time::Instant};

use futures_util::stream::BoxStream;
use tokio_util::sync::CancellationToken;

pub use self::{
    error::{BoxError, ErrorKind, Phase, ProviderError, Retry},
    llm::{
        LlmCapabilities, LlmChunk, LlmConfig, LlmProvider, LlmRequest, LlmResult, LlmStream,
        StopReason, ToolChoice, ToolDefinition, Usage, fold,
    },
    stt::{StreamingStt, SttConfig, SttProvider, SttResult},
    tts::{StreamingTts, TtsConfig, TtsProvider, TtsResult},
    vision::{VisionProvider, VisionRequest, VisionResult},
};
use crate::id::{SessionId, TurnId};

/// A stream of results from a vendor. Dropping it cancels the request.
pub type ProviderStream<T> = BoxStream<'static, Result<T, ProviderError>>;

/// What every provider call is told about the turn it serves.
#[derive(Clone, Debug)]
pub struct CallContext {
    /// For adapters that own background tasks. Streams and futures are cancelled by dropping them.
    pub cancel: CancellationToken,
    /// The latest moment an answer is of use, if there is one.
    pub deadline: Option<Instant>,
    /// The session, for spans and for vendor-side cache keys (hashed).
    pub session_id: SessionId,
    /// The turn.
    pub turn_id: TurnId,
}

impl CallContext {
    /// A context that nobody cancels, for tools and tests.
    pub fn detached() -> Self {
        Self {
            cancel: CancellationToken::new(),
            deadline: None,
            session_id: SessionId::from_u128(0),
            turn_id: TurnId(0),
        }
    }
}

/// The providers a server works with: shared by all sessions, without state per session.
#[derive(Clone)]
pub struct Providers {
    /// The language model.
    pub llm: Arc<dyn LlmProvider>,
    /// Speech to text.
    pub stt: Arc<dyn SttProvider>,
    /// Text to speech.
    pub tts: Arc<dyn TtsProvider>,
    /// Describes images for language models that cannot see.
    pub vision: Option<Arc<dyn VisionProvider>>,
}

impl std::fmt::Debug for Providers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Providers")
            .field("llm", &self.llm.name())
            .field("stt", &self.stt.name())
            .field("tts", &self.tts.name())
            .field(
                "vision",
                &self.vision.as_ref().map(|vision| vision.name().to_owned()),
            )
            .finish()
    }
}

impl Providers {
    /// Initialises all providers concurrently (PL1). A failing vision provider is dropped with a warning.
    ///
    /// # Errors
    /// The first failure of a required provider.
    pub async fn init(&mut self) -> Result<(), ProviderError> {
        let vision = self.vision.clone();
        let (llm, stt, tts, vision) =
            tokio::join!(self.llm.init(), self.stt.init(), self.tts.init(), async {
                match &vision {
                    Some(vision) => vision.init().await,
                    None => Ok(()),
                }
            });
        if let Err(error) = vision {
            tracing::warn!(%error, "vision provider unavailable, images fall back to their alternative text");
            self.vision = None;
        }
        llm.and(stt).and(tts)
    }

    /// Shuts all providers down concurrently (PL3). Bound it with a timeout.
    pub async fn shutdown(&self) {
        tokio::join!(
            self.llm.shutdown(),
            self.stt.shutdown(),
            self.tts.shutdown(),
            async {
                if let Some(vision) = &self.vision {
                    vision.shutdown().await;
                }
            }
        );
    }
}
