//! Security item A3 as a provider sees it: a key that changes between two requests, or because of one.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use llmrtc_core::{
    credential::{Credential, SharedCredential},
    provider::ErrorKind,
    redact::Secret,
};
use llmrtc_providers::{
    http::HttpClient,
    openai::{ChatConfig, OpenAiLlm, OpenAiStt, OpenAiTts, SpeechConfig, TranscriptionConfig},
    testing::{Script, ScriptedServer, scripted::Step},
};

use crate::support::*;

const OLD: &str = "Bearer sk-CANARY-old";
const NEW: &str = "Bearer sk-CANARY-new";
const REFUSED: &str =
    r#"{"error":{"message":"Incorrect API key: sk-CANARY-old","code":"invalid_api_key"}}"#;

/// A key whose source has another value as soon as the first one is refused.
#[derive(Debug)]
struct Rotating {
    value: Mutex<Secret>,
    next: Option<Secret>,
    refusals: Mutex<Vec<String>>,
}

impl Rotating {
    fn new(next: Option<&str>) -> Arc<Self> {
        Arc::new(Self {
            value: Mutex::new(Secret::new("sk-CANARY-old")),
            next: next.map(Secret::new),
            refusals: Mutex::default(),
        })
    }

    fn refusals(&self) -> Vec<String> {
        self.refusals.lock().unwrap().clone()
    }
}

#[async_trait]
impl Credential for Rotating {
    fn current(&self) -> Secret {
        self.value.lock().unwrap().clone()
    }

    async fn rejected(&self, refused: &Secret) -> Option<Secret> {
        self.refusals
            .lock()
            .unwrap()
            .push(refused.expose().to_owned());
        let next = self.next.clone()?;
        *self.value.lock().unwrap() = next.clone();
        Some(next)
    }
}

fn key(rotating: &Arc<Rotating>) -> Option<SharedCredential> {
    Some(Arc::clone(rotating).into())
}

fn chat(server: &ScriptedServer, rotating: &Arc<Rotating>) -> OpenAiLlm {
    let config = ChatConfig {
        api_key: key(rotating),
        base_url: Some(server.base_url()),
        ..ChatConfig::default()
    };
    OpenAiLlm::new(config, HttpClient::new().unwrap()).unwrap()
}

/// A request with the old key that is refused, then one with the new key, on the same connection.
fn refused_once(path: &str) -> Script {
    Script::expect("POST", path)
        .with_header("authorization", OLD)
        .respond(401, &[], REFUSED)
        .then_expect("POST", path)
        .with_header("authorization", NEW)
}

#[tokio::test]
async fn a3_a_refused_key_is_replaced_within_the_call() {
    let rotating = Rotating::new(Some("sk-CANARY-new"));
    let script = refused_once("/v1/chat/completions")
        .sse()
        .chunk(text_frame("ok"))
        .chunk(END_FRAMES)
        .step(Step::End);
    let server = ScriptedServer::start([script]).await;
    let (chunks, error) = ask(&chat(&server, &rotating)).await;
    assert!(error.is_none() && !chunks.is_empty(), "{error:?}");
    let requests = server.finish();
    assert_eq!(requests[0].body, requests[1].body);
    assert_eq!(rotating.refusals(), ["sk-CANARY-old"]);

    let rotating = Rotating::new(Some("sk-CANARY-new"));
    let script = refused_once("/v1/audio/transcriptions").respond(200, &[], r#"{"text":"heard"}"#);
    let server = ScriptedServer::start([script]).await;
    let config = TranscriptionConfig {
        api_key: key(&rotating),
        base_url: Some(server.base_url()),
        ..TranscriptionConfig::default()
    };
    let stt = OpenAiStt::new(config, HttpClient::new().unwrap()).unwrap();
    assert_eq!(hear(&stt).await.unwrap().text, "heard");
    server.finish();

    let rotating = Rotating::new(Some("sk-CANARY-new"));
    let script = refused_once("/v1/audio/speech").respond(200, &[], vec![0; 480]);
    let server = ScriptedServer::start([script]).await;
    let config = SpeechConfig {
        api_key: key(&rotating),
        base_url: Some(server.base_url()),
        ..SpeechConfig::default()
    };
    let tts = OpenAiTts::new(config, HttpClient::new().unwrap()).unwrap();
    let (pcm, error) = speak(&tts, "Hello.").await;
    assert!(error.is_none() && pcm.len() == 480, "{error:?}");
    server.finish();
}

#[tokio::test]
async fn a3_new_calls_use_the_new_key() {
    let rotating = Rotating::new(None);
    let answer = |script: Script| {
        script
            .sse()
            .chunk(text_frame("ok"))
            .chunk(END_FRAMES)
            .step(Step::End)
    };
    let expect = |script: Script, authorization| {
        let script = script.then_expect("POST", "/v1/chat/completions");
        answer(script.with_header("authorization", authorization))
    };
    let script = expect(expect(Script::default(), OLD), NEW);
    let server = ScriptedServer::start([script]).await;
    let llm = chat(&server, &rotating);
    assert!(ask(&llm).await.1.is_none());
    *rotating.value.lock().unwrap() = Secret::new("sk-CANARY-new");
    assert!(ask(&llm).await.1.is_none());
    server.finish();
    assert!(rotating.refusals().is_empty());
}

#[tokio::test]
async fn a3_a_key_without_an_alternative_is_tried_once_and_not_shown() {
    let rotating = Rotating::new(None);
    let script = Script::expect("POST", "/v1/chat/completions").respond(401, &[], REFUSED);
    let server = ScriptedServer::start([script]).await;
    let (_, error) = ask(&chat(&server, &rotating)).await;
    let error = error.unwrap();
    assert_eq!(error.kind(), ErrorKind::Authentication);
    assert!(!format!("{error:?}").contains("CANARY"), "{error:?}");
    assert_eq!(server.finish().len(), 1);

    // The other one is refused, too: two requests, not more.
    let rotating = Rotating::new(Some("sk-CANARY-new"));
    let script = refused_once("/v1/chat/completions").respond(401, &[], REFUSED);
    let server = ScriptedServer::start([script]).await;
    let (_, error) = ask(&chat(&server, &rotating)).await;
    let error = error.unwrap();
    assert_eq!(error.kind(), ErrorKind::Authentication);
    assert!(!format!("{error:?}").contains("CANARY"), "{error:?}");
    assert_eq!(server.finish().len(), 2);
    assert_eq!(rotating.refusals().len(), 1);
}
