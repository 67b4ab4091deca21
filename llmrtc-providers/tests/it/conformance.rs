//! The contracts of the core traits, for the engine against a server on the loopback interface.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use llmrtc_core::{
    provider::{ErrorKind, LlmProvider, SttProvider, TtsProvider},
    testing::conformance::{ANSWER, Behaviour, ProviderFixture},
};
use llmrtc_providers::{
    http::HttpClient,
    openai::{Dialect, OpenAiTts, SpeechConfig, SpeechFormat},
    testing::{FakeOpenAi, FakeOpenAiOptions, Script, ScriptedServer, scripted::Step},
};

use crate::support::*;

llmrtc_core::llm_provider_conformance!(llm_contract: Fixture<dyn LlmProvider>);
llmrtc_core::stt_provider_conformance!(stt_contract: Fixture<dyn SttProvider>);
llmrtc_core::tts_provider_conformance!(tts_contract: Fixture<dyn TtsProvider>);

enum Backend {
    Fake(#[expect(dead_code, reason = "held for its drop")] FakeOpenAi),
    Scripted(ScriptedServer),
}

impl Backend {
    /// `piece` is the beginning of an answer on this path.
    async fn start(behaviour: Behaviour, path: &str, piece: String) -> (Self, String) {
        let path = format!("/v1/{path}");
        let request = Script::expect("POST", &path);
        let refuse = |script: Script, status| script.respond(status, &[], "");
        let script = match behaviour {
            Behaviour::Answer => {
                let options = FakeOpenAiOptions::default()
                    .reply(ANSWER)
                    .transcript(ANSWER);
                let fake = FakeOpenAi::start(options).await;
                let base = fake.base_url();
                return (Self::Fake(fake), base);
            }
            Behaviour::Silent => request.step(Step::Stall),
            Behaviour::Stall => request.head(200, &[]).chunk(piece).step(Step::Stall),
            Behaviour::Break => request
                .head(200, &[])
                .chunk(piece)
                .step(Step::Chunk {
                    bytes: ": the reset must not overtake the piece\n\n".into(),
                    delay: Duration::from_millis(20),
                })
                .step(Step::Rst),
            Behaviour::Refuse(kind) => {
                let status = match kind {
                    ErrorKind::Authentication => 401,
                    ErrorKind::RateLimited => 429,
                    ErrorKind::Unavailable => 503,
                    ErrorKind::InvalidRequest => 400,
                    other => panic!("no status for {other:?}"),
                };
                // One connection carries both calls of the speech suite.
                refuse(refuse(request, status).then_expect("POST", &path), status)
            }
            other => panic!("no script for {other:?}"),
        };
        let server = ScriptedServer::start([script]).await;
        let base = server.base_url();
        (Self::Scripted(server), base)
    }
}

struct Fixture<P: ?Sized> {
    backend: Backend,
    provider: Arc<P>,
}

impl<P: ?Sized> Fixture<P> {
    fn server(&self) -> &ScriptedServer {
        match &self.backend {
            Backend::Scripted(server) => server,
            Backend::Fake(_) => panic!("only scripted backends are watched"),
        }
    }
}

macro_rules! fixture {
    ($trait:ident, $path:literal, $piece:expr, $provider:expr) => {
        #[async_trait]
        impl ProviderFixture<dyn $trait> for Fixture<dyn $trait> {
            async fn start(behaviour: Behaviour) -> Self {
                let (backend, base) = Backend::start(behaviour, $path, $piece).await;
                let provider = Arc::new($provider(base));
                Self { backend, provider }
            }

            fn provider(&self) -> Arc<dyn $trait> {
                Arc::clone(&self.provider)
            }

            async fn received(&self) {
                self.server().received(1).await;
            }

            async fn cancelled(&self) {
                self.server().closed_by_peer(1).await;
            }
        }
    };
}

fixture!(LlmProvider, "chat/completions", text_frame("Hello"), llm);
fixture!(SttProvider, "audio/transcriptions", "{".to_owned(), stt);
fixture!(TtsProvider, "audio/speech", "abcd".to_owned(), wav_tts);

/// The fake upstream has no MP3 encoder.
fn wav_tts(base_url: String) -> OpenAiTts {
    let config = SpeechConfig {
        dialect: Dialect::OpenaiCompat,
        base_url: Some(base_url),
        format: SpeechFormat::Wav,
        ..SpeechConfig::default()
    };
    OpenAiTts::new(config, HttpClient::new().unwrap()).unwrap()
}
