//! A language model of your own: `cargo run --example custom_provider`, open the printed address, and talk.
//!
//! Speech in and out come from the built-in echo here; [`llmrtc_core::testing::conformance`] checks that a provider
//! keeps what its trait promises.

use std::sync::Arc;

use async_trait::async_trait;
use axum::serve;
use futures_util::{StreamExt, stream};
use llmrtc_core::{
    message::Message,
    provider::{
        CallContext, LlmChunk, LlmProvider, LlmRequest, LlmStream, ProviderError, Providers,
        StopReason,
    },
};
use llmrtc_providers::echo::{EchoConfig, EchoStt, EchoTts};
use llmrtc_server::{Server, config::Config, listen::listen, telemetry};

/// Turns everything around.
struct Contrarian;

#[async_trait]
impl LlmProvider for Contrarian {
    fn name(&self) -> &str {
        "contrarian"
    }

    async fn stream(
        &self,
        request: LlmRequest,
        _cx: &CallContext,
    ) -> Result<LlmStream, ProviderError> {
        // The conversation so far, the newest message last.
        let said = request.messages.last().map_or("", Message::text);
        let mut chunks: Vec<_> = said
            .trim_end_matches(['.', '!', '?'])
            .split_whitespace()
            .rev()
            .map(|word| LlmChunk::Text(format!("{word} ")))
            .collect();
        chunks.push(LlmChunk::Text("is what I say.".into()));
        // Without this the answer counts as broken off.
        chunks.push(LlmChunk::End(StopReason::EndTurn));
        Ok(stream::iter(chunks.into_iter().map(Ok)).boxed())
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let config = Config::default();
    telemetry::init(&config.log)?;
    let listening = listen(&config).await?;
    let providers = Providers {
        llm: Arc::new(Contrarian),
        stt: Arc::new(EchoStt::new(EchoConfig::default())),
        tts: Arc::new(EchoTts::new(EchoConfig::default())),
        vision: None,
    };
    let server = Server::builder(config)
        .providers(providers)
        .build(listening.address, listening.exposure)
        .await?;
    tracing::info!("open http://{}/ in a browser to talk", listening.address);
    let service = server
        .router()
        .into_make_service_with_connect_info::<std::net::SocketAddr>();
    serve(listening.listener, service).await?;
    Ok(())
}
