//! The three providers against the fake upstream: what an embedder's first call looks like.

use std::sync::Arc;

use llmrtc_core::{
    audio::AudioFormat,
    provider::{CallContext, LlmProvider, StopReason, SttProvider, TtsConfig, TtsProvider},
};
use llmrtc_providers::{
    http::HttpClient,
    openai::{ChatConfig, Dialect, OpenAiLlm, OpenAiTts, SpeechConfig, SpeechFormat},
    testing::{ChatReply, FakeOpenAi, FakeOpenAiOptions},
};
use serde_json::json;

use crate::support::*;

#[tokio::test]
async fn hear_think_speak() {
    let upstream = FakeOpenAi::start(
        FakeOpenAiOptions {
            api_key: Some(CANARY.to_owned()),
            ..FakeOpenAiOptions::default()
        }
        .reply("Hello there. How are you?")
        .transcript("Good morning."),
    )
    .await;
    let (llm, stt, tts) = (
        llm(upstream.base_url()),
        stt(upstream.base_url()),
        tts(upstream.base_url()),
    );
    within(async { tokio::try_join!(llm.init(), stt.init(), tts.init()) })
        .await
        .unwrap();

    assert_eq!(hear(&stt).await.unwrap().text, "Good morning.");
    let answer = within(llm.complete(question(), &CallContext::detached()))
        .await
        .unwrap();
    assert_eq!(answer.text, "Hello there. How are you?");
    assert_eq!(answer.stop_reason, Some(StopReason::EndTurn));
    assert_eq!(answer.usage.output, Some(5));
    let (pcm, error) = speak(&tts, &answer.text).await;
    assert!(error.is_none());
    // 24 kHz, 16 bit, about 60 ms a letter.
    let seconds = pcm.len() as f64 / 48_000.0;
    assert!((1.0..3.0).contains(&seconds), "{seconds} s");
    assert!(
        pcm.chunks(2)
            .any(|s| i16::from_le_bytes([s[0], s[1]]).abs() > 3_000)
    );
    assert_eq!(
        (
            upstream.chats(),
            upstream.transcriptions(),
            upstream.speeches()
        ),
        (1, 1, 1)
    );
}

#[tokio::test]
async fn answers_follow_the_request_and_may_call_tools() {
    let upstream = FakeOpenAi::start(FakeOpenAiOptions {
        chat: Arc::new(
            |request| match request["messages"].as_array().map(Vec::len) {
                Some(1) => ChatReply::Calls(vec![("clock".to_owned(), json!({"zone": "UTC"}))]),
                _ => "Noon.".into(),
            },
        ),
        ..FakeOpenAiOptions::default()
    })
    .await;
    let llm = llm(upstream.base_url());
    let result = within(llm.complete(question(), &CallContext::detached()))
        .await
        .unwrap();
    assert_eq!(result.stop_reason, Some(StopReason::ToolUse));
    assert_eq!(result.tool_calls[0].arguments["zone"], "UTC");
    assert_eq!(
        upstream.last_chat().unwrap()["messages"][0]["content"],
        "Hello?"
    );
}

#[tokio::test]
async fn a_local_server_is_asked_for_its_model() {
    let upstream = FakeOpenAi::start(FakeOpenAiOptions::default()).await;
    let config = ChatConfig {
        dialect: Dialect::Lmstudio,
        base_url: Some(upstream.base_url()),
        ..ChatConfig::default()
    };
    let llm = OpenAiLlm::new(config, HttpClient::new().unwrap()).unwrap();
    let model = async || {
        within(llm.complete(question(), &CallContext::detached()))
            .await
            .unwrap();
        upstream.last_chat().unwrap()["model"].clone()
    };
    assert_eq!(model().await, "local-model");
    within(llm.init()).await.unwrap();
    within(llm.init()).await.unwrap();
    assert_eq!(model().await, "fake-model");
}

#[tokio::test]
async fn speech_in_one_piece_is_joined_from_several_requests() {
    let upstream = FakeOpenAi::start(FakeOpenAiOptions::default()).await;
    let config = SpeechConfig {
        dialect: Dialect::OpenaiCompat,
        base_url: Some(upstream.base_url()),
        format: SpeechFormat::Wav,
        speed: Some(4.0),
        ..SpeechConfig::default()
    };
    let tts = OpenAiTts::new(config, HttpClient::new().unwrap()).unwrap();
    let cx = CallContext::detached();
    let say = async |text: &str| {
        within(tts.speak(text, &TtsConfig::default(), &cx))
            .await
            .unwrap()
    };
    let short = say("Hello.").await.audio;
    assert_eq!(AudioFormat::sniff(&short.data), Some(AudioFormat::Wav));
    let long = say(&"A sentence. ".repeat(400)).await.audio;
    assert_eq!(
        (AudioFormat::sniff(&long.data), long.format),
        (Some(AudioFormat::Wav), AudioFormat::Wav)
    );
    assert_eq!(upstream.speeches(), 3);
    for silent in ["", " \n", "🙂", "…"] {
        assert!(say(silent).await.audio.data.is_empty());
        assert!(speak(&tts, silent).await.0.is_empty());
    }
    assert_eq!(upstream.speeches(), 3);
}

#[tokio::test]
async fn connections_are_reused_between_turns() {
    // One scripted connection that serves three answers: a fourth connection would be recorded as a failure.
    use llmrtc_providers::testing::{Script, ScriptedServer, scripted::Step};
    let path = "/v1/chat/completions";
    let answer = |script: Script| {
        script
            .sse()
            .chunk(text_frame("ok"))
            .chunk(END_FRAMES)
            .step(Step::End)
    };
    let script = (0..3).fold(Script::default(), |script, _| {
        answer(script.then_expect("POST", path))
    });
    let server = ScriptedServer::start([script]).await;
    let llm = llm(server.base_url());
    for _ in 0..3 {
        let (_, error) = ask(&llm).await;
        assert!(error.is_none(), "{error:?}");
    }
    assert_eq!(server.finish().len(), 3);
}
