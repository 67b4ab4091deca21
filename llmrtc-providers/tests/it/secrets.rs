//! The canary key must not come back: not in an error, not in a log line, whatever the vendor echoes.

use std::{
    fmt::Write,
    sync::{Arc, Mutex},
};

use llmrtc_core::provider::{LlmProvider, ProviderError};
use llmrtc_providers::testing::{Script, ScriptedServer, scripted::Step};
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

use crate::support::*;

/// Collects every field of every event and span as text.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<String>>);

impl Visit for Log {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let _ = write!(self.0.lock().unwrap(), "{field}={value:?} ");
    }
}

impl Subscriber for Log {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, attributes: &span::Attributes<'_>) -> span::Id {
        attributes.record(&mut self.clone());
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, values: &span::Record<'_>) {
        values.record(&mut self.clone());
    }
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &Event<'_>) {
        event.record(&mut self.clone());
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

fn texts(error: &ProviderError) -> String {
    let mut text = format!("{error} {error:?} {error:#?}");
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let _ = write!(text, " {cause} {cause:?}");
        source = cause.source();
    }
    text
}

#[tokio::test]
async fn whatever_the_vendor_echoes() {
    let log = Log::default();
    let guard = tracing::subscriber::set_default(log.clone());
    let echo = format!("Incorrect API key provided: {CANARY}. Authorization: Bearer {CANARY}");
    let json =
        format!(r#"{{"error":{{"message":"{echo}","code":"{CANARY}","param":"{CANARY}"}}}}"#);
    let headers = [
        ("x-request-id", CANARY),
        ("retry-after", CANARY),
        ("location", CANARY),
    ];
    let mut seen = String::new();
    for (status, body) in [
        (400, json.as_str()),
        (401, json.as_str()),
        (401, echo.as_str()),
        (
            422,
            &format!(r#"{{"detail":[{{"loc":["{CANARY}"],"msg":"{echo}"}}]}}"#),
        ),
        (429, json.as_str()),
        (302, ""),
        (500, echo.as_str()),
    ] {
        for path in ["chat/completions", "audio/transcriptions", "audio/speech"] {
            let script = Script::expect("POST", &format!("/v1/{path}"))
                .with_header("authorization", &format!("Bearer {CANARY}"))
                .respond(status, &headers, body.to_owned());
            let server = ScriptedServer::start([script]).await;
            let base = server.base_url();
            let (debug, error) = match path {
                "chat/completions" => {
                    let llm = llm(base);
                    (format!("{llm:?}"), ask(&llm).await.1)
                }
                "audio/transcriptions" => {
                    let stt = stt(base);
                    (format!("{stt:?}"), hear(&stt).await.err())
                }
                _ => {
                    let tts = tts(base);
                    (format!("{tts:?}"), speak(&tts, "Hello.").await.1)
                }
            };
            seen += &debug;
            seen += &texts(&error.expect("an error"));
            server.finish();
        }
    }
    for frame in [
        format!("data: {json}\n\n"),
        format!("event: error\ndata: {echo}\n\n"),
    ] {
        let script = Script::expect("POST", "/v1/chat/completions")
            .sse()
            .chunk(frame)
            .step(Step::End);
        let server = ScriptedServer::start([script]).await;
        seen += &texts(&ask(&llm(server.base_url())).await.1.expect("an error"));
    }
    let unreachable = llm("http://127.0.0.1:1/v1".to_owned());
    within(unreachable.init()).await.unwrap();
    seen += &texts(&ask(&unreachable).await.1.expect("an error"));
    drop(guard);

    let logged = log.0.lock().unwrap();
    assert!(
        logged.contains("request refused"),
        "the log layer is at work: {logged}"
    );
    for text in [&*seen, &*logged] {
        if let Some(at) = text.find("CANARY") {
            panic!(
                "{}",
                &text[at.saturating_sub(200)..(at + 40).min(text.len())]
            );
        }
    }
}
