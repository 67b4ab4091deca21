//! What each dialect is sent, as snapshots. A changed snapshot is a decision about somebody's protocol.

use std::{collections::BTreeMap, sync::Arc};

use llmrtc_core::{
    message::{Attachment, ImageSource, Message, ToolCall},
    provider::{
        CallContext, LlmConfig, LlmProvider, LlmRequest, StreamingTts, SttConfig, SttProvider,
        ToolChoice, ToolDefinition, TtsConfig,
    },
    redact::Secret,
};
use llmrtc_providers::{
    http::HttpClient,
    openai::{
        ChatConfig, Dialect, OpenAiLlm, OpenAiStt, OpenAiTts, Reasoning, SpeechConfig,
        TranscriptionConfig,
    },
    testing::{Recorded, Script, ScriptedServer, scripted::Step},
};
use serde_json::{Value, json};

use crate::support::*;

/// The body that this configuration sends for this request.
async fn body(config: ChatConfig, request: LlmRequest) -> Value {
    recorded(config, request).await.json()
}

async fn recorded(mut config: ChatConfig, request: LlmRequest) -> Recorded {
    let script = Script::expect("POST", "/v1/chat/completions")
        .sse()
        .chunk(END_FRAMES)
        .step(Step::End);
    let server = ScriptedServer::start([script]).await;
    config.base_url = Some(server.base_url());
    let llm = OpenAiLlm::new(config, HttpClient::new().unwrap()).unwrap();
    within(llm.complete(request, &CallContext::detached()))
        .await
        .unwrap();
    server.finish().remove(0)
}

fn dialect(dialect: Dialect) -> ChatConfig {
    ChatConfig {
        model: (dialect == Dialect::Openrouter).then(|| "vendor/model".to_owned()),
        ..chat_config(dialect, String::new())
    }
}

fn tool(name: &str) -> ToolDefinition {
    ToolDefinition {
        name: name.into(),
        description: format!("does {name}"),
        parameters: json!({"type": "object", "properties": {"city": {"type": "string"}}}),
    }
}

fn call(id: &str, name: &str) -> ToolCall {
    ToolCall {
        call_id: id.into(),
        name: name.into(),
        arguments: json!({"city": "Oslo"}).as_object().unwrap().clone(),
        parse_error: None,
    }
}

/// A conversation with everything in it that dialects treat differently.
fn everything() -> LlmRequest {
    LlmRequest {
        messages: vec![
            Message::system("Be brief."),
            Message::user("Weather and time in Oslo?"),
            Message::Assistant {
                text: "One moment.".into(),
                tool_calls: Arc::from([call("call_a", "weather"), call("call_b", "clock")]),
                interrupted: false,
            },
            Message::Tool {
                call_id: "call_a".into(),
                name: "weather".into(),
                content: r#"{"c":4}"#.into(),
                is_error: false,
            },
            Message::user("Never mind."),
            Message::user("And this?"),
        ],
        config: LlmConfig {
            temperature: Some(0.7),
            top_p: Some(0.9),
            max_tokens: Some(200),
            stop_sequences: vec!["END".to_owned()],
            ..LlmConfig::default()
        },
        tools: Arc::from([tool("weather"), tool("clock")]),
        tool_choice: ToolChoice::Auto,
    }
}

macro_rules! dialect_snapshots {
    ($($name:ident: $dialect:ident,)*) => {$(
        #[tokio::test]
        async fn $name() {
            let mut body = body(dialect(Dialect::$dialect), everything()).await;
            if let Some(key) = body.get_mut("prompt_cache_key") {
                assert_eq!(key.as_str().unwrap().len(), 16);
                // A hash whose algorithm may change with the compiler.
                *key = json!("<hash of the session>");
            }
            insta::assert_json_snapshot!(stringify!($name), body);
        }
    )*};
}

dialect_snapshots! {
    openai: Openai,
    openrouter: Openrouter,
    zai: Zai,
    groq: Groq,
    mistral: Mistral,
    lmstudio: Lmstudio,
    vllm: Vllm,
    llamacpp: Llamacpp,
    ollama: Ollama,
    openai_compat: OpenaiCompat,
}

#[tokio::test]
async fn a_plain_question() {
    let mut config = dialect(Dialect::OpenaiCompat);
    config.model = Some("m".to_owned());
    insta::assert_json_snapshot!(body(config, question()).await);
}

#[tokio::test]
async fn images_stand_before_the_text() {
    let image = |source, alt: Option<&str>| Attachment {
        source,
        alt: alt.map(Into::into),
    };
    let inline = ImageSource::Inline {
        media_type: "image/png",
        data: bytes::Bytes::from_static(b"\x89PNG"),
    };
    let request = LlmRequest {
        messages: vec![
            Message::User {
                text: "Old".into(),
                attachments: Arc::from([image(ImageSource::Released, Some("a cat"))]),
            },
            Message::assistant("A cat."),
            Message::User {
                text: "And these?".into(),
                attachments: Arc::from([
                    image(inline, None),
                    image(ImageSource::Url("https://host/x.webp".into()), None),
                ]),
            },
        ],
        ..LlmRequest::default()
    };
    let mut config = dialect(Dialect::OpenaiCompat);
    config.vision_detail = llmrtc_providers::openai::ImageDetail::Low;
    insta::assert_json_snapshot!(body(config, request).await["messages"]);
}

#[tokio::test]
async fn images_that_are_too_large_are_refused_before_sending() {
    let request = LlmRequest {
        messages: vec![Message::User {
            text: "?".into(),
            attachments: Arc::from([Attachment {
                source: ImageSource::Inline {
                    media_type: "image/png",
                    data: vec![0; 20_000_000].into(),
                },
                alt: None,
            }]),
        }],
        ..LlmRequest::default()
    };
    let server = ScriptedServer::start([]).await;
    let error = match llm(server.base_url())
        .stream(request, &CallContext::detached())
        .await
    {
        Ok(_) => panic!("the image was sent"),
        Err(error) => error,
    };
    assert_eq!(error.kind(), llmrtc_core::provider::ErrorKind::TooLarge);
    assert!(server.finish().is_empty());
}

#[tokio::test]
async fn tool_choices_as_each_dialect_understands_them() {
    let choices = [
        ("auto", ToolChoice::Auto),
        ("none", ToolChoice::None),
        ("required", ToolChoice::Required),
        ("named", ToolChoice::Named("clock".into())),
    ];
    let mut table = BTreeMap::new();
    for (dialect_name, kind) in [
        ("all", Dialect::Openai),
        ("words", Dialect::Lmstudio),
        ("auto", Dialect::Zai),
        ("absent", Dialect::Ollama),
    ] {
        for (choice_name, choice) in &choices {
            let request = LlmRequest {
                messages: vec![Message::system("s"), Message::user("u")],
                tools: Arc::from([tool("weather"), tool("clock")]),
                tool_choice: choice.clone(),
                ..LlmRequest::default()
            };
            let body = body(dialect(kind), request).await;
            let tools: Vec<&Value> = body["tools"]
                .as_array()
                .map(|tools| tools.iter().map(|tool| &tool["function"]["name"]).collect())
                .unwrap_or_default();
            let row = json!({
                "tool_choice": body.get("tool_choice"),
                "tools": tools,
                "system": body["messages"][0]["content"],
            });
            table.insert(format!("{dialect_name} {choice_name}"), row);
        }
    }
    insta::assert_json_snapshot!(table);
}

#[tokio::test]
async fn reasoning_in_the_words_of_each_service() {
    let mut table = BTreeMap::new();
    for (kind, model) in [
        (Dialect::Openai, "gpt-6-luna"),
        (Dialect::Openai, "gpt-5-mini"),
        (Dialect::Openai, "gpt-4o-mini"),
        (Dialect::Openrouter, "vendor/model"),
        (Dialect::Zai, "glm-5.2"),
        (Dialect::Zai, "glm-5.3"),
        (Dialect::Groq, "openai/gpt-oss-120b"),
        (Dialect::Vllm, "qwen"),
        (Dialect::Ollama, "llama3.2"),
        (Dialect::OpenaiCompat, "m"),
    ] {
        for reasoning in [Reasoning::Off, Reasoning::High, Reasoning::ProviderDefault] {
            let config = ChatConfig {
                model: Some(model.to_owned()),
                reasoning,
                ..dialect(kind)
            };
            let body = body(config, question()).await;
            let names = [
                "reasoning_effort",
                "reasoning",
                "thinking",
                "chat_template_kwargs",
            ];
            let sent: BTreeMap<&str, &Value> = names
                .iter()
                .filter_map(|name| Some((*name, body.get(*name)?)))
                .collect();
            table.insert(format!("{kind:?} {model} {reasoning:?}"), json!(sent));
        }
    }
    insta::assert_json_snapshot!(table);
}

#[tokio::test]
async fn headers_and_further_members() {
    let mut config = dialect(Dialect::Openrouter);
    config
        .headers
        .insert("HTTP-Referer".to_owned(), Secret::new("https://me.example"));
    config
        .extra_body
        .insert("provider".to_owned(), json!({"sort": "latency"}));
    let request = recorded(config, question()).await;
    assert_eq!(request.header("http-referer"), Some("https://me.example"));
    assert_eq!(
        request.header("authorization"),
        Some(&*format!("Bearer {CANARY}"))
    );
    assert_eq!(request.header("content-type"), Some("application/json"));
    assert_eq!(request.json()["provider"]["sort"], "latency");
}

#[tokio::test]
async fn a_greeting_without_a_question_is_one_for_zai() {
    let request = LlmRequest {
        messages: vec![Message::system("Greet the caller.")],
        ..LlmRequest::default()
    };
    let body = body(dialect(Dialect::Zai), request).await;
    assert_eq!(
        body["messages"],
        json!([{"role": "user", "content": "Greet the caller."}])
    );
}

/// The fields of a multipart body as `name=value`, files as `name: file name, type, bytes`.
fn form(request: &Recorded) -> Vec<String> {
    let boundary = request
        .header("content-type")
        .and_then(|value| value.split("boundary=").nth(1))
        .expect("a boundary");
    let body = String::from_utf8_lossy(&request.body);
    body.split(&format!("--{boundary}"))
        .filter_map(|part| part.trim_start_matches("\r\n").split_once("\r\n\r\n"))
        .map(|(head, value)| {
            let name = head
                .split("name=\"")
                .nth(1)
                .and_then(|rest| rest.split('"').next());
            let value = value.trim_end_matches("\r\n");
            if head.contains("filename=") {
                let head = head.replace("\r\n", "; ");
                format!("{head}: begins with {}", &value[..4])
            } else {
                format!("{}={value}", name.unwrap_or_default())
            }
        })
        .collect()
}

#[tokio::test]
async fn transcription_forms() {
    let mut table = BTreeMap::new();
    for (kind, model) in [
        (Dialect::Openai, None),
        (Dialect::Openai, Some("whisper-1")),
        (Dialect::Groq, None),
        (Dialect::OpenaiCompat, None),
    ] {
        let script =
            Script::expect("POST", "/v1/audio/transcriptions").respond(200, &[], r#"{"text":"x"}"#);
        let server = ScriptedServer::start([script]).await;
        let config = TranscriptionConfig {
            dialect: kind,
            api_key: Some(Secret::new(CANARY).into()),
            base_url: Some(server.base_url()),
            model: model.map(str::to_owned),
            ..TranscriptionConfig::default()
        };
        let stt = OpenAiStt::new(config, HttpClient::new().unwrap()).unwrap();
        let config = SttConfig {
            language: Some("en-GB".to_owned()),
            hints: vec!["Llmrtc".to_owned(), "Ålesund".to_owned()],
            ..SttConfig::default()
        };
        within(stt.transcribe(utterance(), &config, &CallContext::detached()))
            .await
            .unwrap();
        table.insert(format!("{kind:?} {model:?}"), form(&server.finish()[0]));
    }
    insta::assert_json_snapshot!(table);
}

#[tokio::test]
async fn an_empty_utterance_is_not_sent() {
    use llmrtc_core::audio::{PcmChunk, SampleRate, Utterance};
    let server = ScriptedServer::start([]).await;
    let silence = Utterance::Pcm(PcmChunk::new(Vec::new(), SampleRate::HZ_16000));
    let stt = stt(server.base_url());
    let result = stt
        .transcribe(silence, &SttConfig::default(), &CallContext::detached())
        .await
        .unwrap();
    assert_eq!((result.text.as_str(), result.is_final), ("", true));
    assert!(server.finish().is_empty());
}

#[tokio::test]
async fn a_refused_field_of_a_form_is_left_out() {
    let refusal = r#"{"error":{"message":"unknown parameter","param":"keywords"}}"#;
    let path = "/v1/audio/transcriptions";
    let script = Script::expect("POST", path)
        .respond(400, &[], refusal)
        .then_expect("POST", path)
        .respond(200, &[], r#"{"text":"x"}"#);
    let server = ScriptedServer::start([script]).await;
    let config = SttConfig {
        hints: vec!["Ålesund".to_owned()],
        ..SttConfig::default()
    };
    let stt = stt(server.base_url());
    within(stt.transcribe(utterance(), &config, &CallContext::detached()))
        .await
        .unwrap();
    let requests = server.finish();
    let has_keywords = |request| {
        form(request)
            .iter()
            .any(|field| field.starts_with("keywords"))
    };
    assert!(has_keywords(&requests[0]) && !has_keywords(&requests[1]));
}

#[tokio::test]
async fn speech_bodies() {
    let mut table = BTreeMap::new();
    for (name, config, call) in [
        ("defaults", SpeechConfig::default(), TtsConfig::default()),
        (
            "everything",
            SpeechConfig {
                voice: Some("nova".to_owned()),
                speed: Some(0.9),
                instructions: Some("Whisper.".to_owned()),
                ..SpeechConfig::default()
            },
            TtsConfig {
                voice: Some("coral".to_owned()),
                speed: Some(9.0),
                ..TtsConfig::default()
            },
        ),
        (
            "instructions unsupported",
            SpeechConfig {
                dialect: Dialect::OpenaiCompat,
                speed: Some(0.9),
                instructions: Some("Whisper.".to_owned()),
                ..SpeechConfig::default()
            },
            TtsConfig::default(),
        ),
    ] {
        let script = Script::expect("POST", "/v1/audio/speech").respond(200, &[], "");
        let server = ScriptedServer::start([script]).await;
        let config = SpeechConfig {
            api_key: Some(Secret::new(CANARY).into()),
            base_url: Some(server.base_url()),
            ..config
        };
        let tts = OpenAiTts::new(config, HttpClient::new().unwrap()).unwrap();
        let speech =
            within(tts.speak_stream("Say \"hi\" & <b>go</b>.", &call, &CallContext::detached()))
                .await
                .unwrap();
        drop(speech);
        table.insert(name, server.finish()[0].json());
    }
    insta::assert_json_snapshot!(table);
}

#[test]
fn configuration_is_strict_and_defaults_are_whole() {
    let parse = |text: &str| serde_json::from_str::<ChatConfig>(text);
    let config =
        parse(r#"{"dialect":"glm","api_key":"k","reasoning":"none","image_turns":2}"#).unwrap();
    assert_eq!((config.dialect, config.image_turns), (Dialect::Zai, 2));
    assert!(parse(r#"{"api_kee":"k"}"#).is_err());
    assert_eq!(parse("{}").unwrap().image_turns, 1);

    let new = |config| OpenAiLlm::new(config, HttpClient::new().unwrap()).map(drop);
    let blank = ChatConfig {
        api_key: Some(Secret::new("  ").into()),
        ..ChatConfig::default()
    };
    for (config, ok) in [
        (blank, false),
        (ChatConfig::default(), false),
        (
            ChatConfig {
                dialect: Dialect::Vllm,
                ..ChatConfig::default()
            },
            false,
        ),
        (
            ChatConfig {
                dialect: Dialect::Openrouter,
                api_key: Some(Secret::new("k").into()),
                ..ChatConfig::default()
            },
            false,
        ),
        (
            ChatConfig {
                dialect: Dialect::Ollama,
                ..ChatConfig::default()
            },
            true,
        ),
    ] {
        assert_eq!(new(config.clone()).is_ok(), ok, "{config:?}");
    }
}
