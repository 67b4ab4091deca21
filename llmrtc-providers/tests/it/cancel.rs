//! Dropping a call closes its socket, wherever the call is.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use llmrtc_core::provider::{
    CallContext, LlmProvider, SttConfig, SttProvider, TtsConfig, TtsProvider,
};
use llmrtc_providers::testing::{Script, ScriptedServer, scripted::Step};

use crate::support::*;

/// The contract is 50 ms; a loaded test machine gets the benefit of the doubt.
const CLOSED_WITHIN: Duration = Duration::from_millis(500);

/// Waits until the server has the request, drops the call, and waits until the server sees the connection go.
async fn check(server: ScriptedServer, call: impl AsyncFnOnce(String), at: &str) {
    let mut call = Box::pin(call(server.base_url()));
    within(async {
        tokio::select! {
            () = &mut call => panic!("{at}: the call ended by itself"),
            () = server.received(1) => {}
        }
        // Lets the call reach the place it waits at.
        let settled = tokio::time::timeout(Duration::from_millis(40), &mut call).await;
        assert!(settled.is_err(), "{at}: the call ended by itself");
    })
    .await;
    drop(call);
    let dropped = Instant::now();
    within(server.closed_by_peer(1)).await;
    assert!(
        dropped.elapsed() < CLOSED_WITHIN,
        "{at}: {:?}",
        dropped.elapsed()
    );
}

#[tokio::test]
async fn language_model() {
    let request = || Script::expect("POST", "/v1/chat/completions");
    let table = [
        ("before the head", request().step(Step::Stall)),
        ("before the first event", request().sse().step(Step::Stall)),
        (
            "between events",
            request().sse().chunk(text_frame("a")).step(Step::Stall),
        ),
        (
            "inside an event",
            request().sse().chunk("data: {\"cho").step(Step::Stall),
        ),
    ];
    for (at, script) in table {
        let server = ScriptedServer::start([script]).await;
        let call = async |base_url| {
            let stream = llm(base_url)
                .stream(question(), &CallContext::detached())
                .await
                .unwrap();
            stream.for_each(|_| std::future::ready(())).await;
        };
        check(server, call, at).await;
    }
}

#[tokio::test]
async fn speech_to_text() {
    let request = || Script::expect("POST", "/v1/audio/transcriptions");
    let table = [
        ("before the head", request().step(Step::Stall)),
        (
            "inside the body",
            request().head(200, &[]).chunk("{").step(Step::Stall),
        ),
    ];
    for (at, script) in table {
        let server = ScriptedServer::start([script]).await;
        let call = async |base_url| {
            let cx = CallContext::detached();
            let _ = stt(base_url)
                .transcribe(utterance(), &SttConfig::default(), &cx)
                .await;
        };
        check(server, call, at).await;
    }
}

#[tokio::test]
async fn text_to_speech() {
    let request = || Script::expect("POST", "/v1/audio/speech");
    let table = [
        ("before the head", request().step(Step::Stall)),
        (
            "between samples",
            request().head(200, &[]).chunk("abcd").step(Step::Stall),
        ),
    ];
    for (at, script) in table {
        let server = ScriptedServer::start([script]).await;
        let call = async |base_url| {
            let tts = tts(base_url);
            let streaming = tts.streaming().unwrap();
            let cx = CallContext::detached();
            let stream = streaming
                .speak_stream("Hello.", &TtsConfig::default(), &cx)
                .await
                .unwrap();
            stream.for_each(|_| std::future::ready(())).await;
        };
        check(server, call, at).await;
    }
}
