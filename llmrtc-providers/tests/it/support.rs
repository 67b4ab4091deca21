use std::time::Duration;

use futures_util::StreamExt;
use llmrtc_core::{
    audio::{PcmChunk, SampleRate, Utterance},
    message::Message,
    provider::{
        CallContext, LlmChunk, LlmProvider, LlmRequest, ProviderError, StreamingTts, SttConfig,
        SttProvider, SttResult, TtsConfig, TtsProvider,
    },
    redact::Secret,
};
use llmrtc_providers::{
    http::HttpClient,
    openai::{
        ChatConfig, Dialect, OpenAiLlm, OpenAiStt, OpenAiTts, SpeechConfig, TranscriptionConfig,
    },
};

/// Long enough for a loaded machine, short enough to fail.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);
/// A key that must never be seen again.
pub(crate) const CANARY: &str = "sk-CANARY-5f2d81c0a7";

pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future)
        .await
        .expect("finishes within the deadline")
}

pub(crate) fn chat_config(dialect: Dialect, base_url: String) -> ChatConfig {
    ChatConfig {
        dialect,
        api_key: Some(Secret::new(CANARY).into()),
        base_url: Some(base_url),
        ..ChatConfig::default()
    }
}

pub(crate) fn llm(base_url: String) -> OpenAiLlm {
    OpenAiLlm::new(
        chat_config(Dialect::Openai, base_url),
        HttpClient::new().unwrap(),
    )
    .unwrap()
}

pub(crate) fn stt(base_url: String) -> OpenAiStt {
    let config = TranscriptionConfig {
        api_key: Some(Secret::new(CANARY).into()),
        base_url: Some(base_url),
        ..TranscriptionConfig::default()
    };
    OpenAiStt::new(config, HttpClient::new().unwrap()).unwrap()
}

pub(crate) fn tts(base_url: String) -> OpenAiTts {
    let config = SpeechConfig {
        api_key: Some(Secret::new(CANARY).into()),
        base_url: Some(base_url),
        ..SpeechConfig::default()
    };
    OpenAiTts::new(config, HttpClient::new().unwrap()).unwrap()
}

pub(crate) fn question() -> LlmRequest {
    LlmRequest {
        messages: vec![Message::user("Hello?")],
        ..LlmRequest::default()
    }
}

/// Everything a response said, and how it failed, if it did.
pub(crate) async fn ask(llm: &OpenAiLlm) -> (Vec<LlmChunk>, Option<ProviderError>) {
    within(async {
        let mut stream = match llm.stream(question(), &CallContext::detached()).await {
            Ok(stream) => stream,
            Err(error) => return (Vec::new(), Some(error)),
        };
        let mut chunks = Vec::new();
        while let Some(item) = stream.next().await {
            match item {
                Ok(chunk) => chunks.push(chunk),
                Err(error) => {
                    assert!(stream.next().await.is_none(), "nothing follows an error");
                    return (chunks, Some(error));
                }
            }
        }
        (chunks, None)
    })
    .await
}

pub(crate) fn utterance() -> Utterance {
    Utterance::Pcm(PcmChunk::new(vec![100i16; 1600], SampleRate::HZ_16000))
}

pub(crate) async fn hear(stt: &OpenAiStt) -> Result<SttResult, ProviderError> {
    within(stt.transcribe(utterance(), &SttConfig::default(), &CallContext::detached())).await
}

/// The PCM of a text, and how it broke off, if it did.
pub(crate) async fn speak(tts: &OpenAiTts, text: &str) -> (Vec<u8>, Option<ProviderError>) {
    within(async {
        let streaming: &dyn StreamingTts = tts.streaming().expect("speech is streamed");
        let config = TtsConfig::default();
        let mut stream = match streaming
            .speak_stream(text, &config, &CallContext::detached())
            .await
        {
            Ok(stream) => stream,
            Err(error) => return (Vec::new(), Some(error)),
        };
        let mut pcm = Vec::new();
        while let Some(item) = stream.next().await {
            match item {
                Ok(bytes) => pcm.extend_from_slice(&bytes),
                Err(error) => return (pcm, Some(error)),
            }
        }
        (pcm, None)
    })
    .await
}

/// A stream frame with this text.
pub(crate) fn text_frame(text: &str) -> String {
    format!(
        "data: {}\n\n",
        serde_json::json!({"choices": [{"delta": {"content": text}}]})
    )
}

/// The frames that end a stream.
pub(crate) const END_FRAMES: &str =
    "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
