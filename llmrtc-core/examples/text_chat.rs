//! A chat on the terminal: `cargo run --example text_chat`. The model repeats what it was told; put a real one in its
//! place. Nothing is spoken, because the chunker never cuts a segment for synthesis.

use std::{io::Write, sync::Arc};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use llmrtc_core::{
    audio::EncodedAudio,
    clock::SystemClock,
    guardrail::Guardrails,
    hooks::Observers,
    id::SessionId,
    playout::{AudioDecoder, DecodeError, DecodedAudio},
    provider::{
        CallContext, LlmChunk, LlmProvider, LlmRequest, LlmStream, ProviderError, Providers,
        StopReason,
    },
    tasks::Tasks,
    testing::{ScriptedSink, ScriptedStt, ScriptedTts},
    turn::{
        Conversation, ConversationParts, TextPolicy, TurnConfig, TurnEvent,
        machine::ChunkerFactory,
        sentence::{SpeechFilter, SplitterAdapter},
    },
};

struct Parrot;

#[async_trait]
impl LlmProvider for Parrot {
    fn name(&self) -> &str {
        "parrot"
    }

    async fn stream(
        &self,
        request: LlmRequest,
        _: &CallContext,
    ) -> Result<LlmStream, ProviderError> {
        let said = request.messages.last().map_or("", |message| message.text());
        let answer = [
            LlmChunk::Text(format!("You said: {said}")),
            LlmChunk::End(StopReason::EndTurn),
        ];
        Ok(stream::iter(answer.map(Ok)).boxed())
    }
}

struct NoDecoder;

impl AudioDecoder for NoDecoder {
    fn decode(&self, audio: EncodedAudio) -> Result<DecodedAudio, DecodeError> {
        Err(DecodeError {
            format: audio.format.name(),
            reason: "a chat has no audio".into(),
        })
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let silent: ChunkerFactory = Arc::new(|| {
        let nothing = |_: &str| Vec::new();
        Box::new(SplitterAdapter::new(nothing, SpeechFilter::Off))
    });
    let parts = ConversationParts {
        session_id: SessionId::random(),
        config: Arc::new(TurnConfig::default()),
        providers: Providers {
            llm: Arc::new(Parrot),
            stt: Arc::new(ScriptedStt::new()),
            tts: Arc::new(ScriptedTts::new()),
            vision: None,
        },
        sink: Arc::new(ScriptedSink::new()),
        decoder: Arc::new(NoDecoder),
        observers: Observers::none(),
        tools: None,
        chunkers: Some(silent),
        guardrails: Guardrails::default(),
        history: None,
        clock: Arc::new(SystemClock),
    };
    let tasks = Tasks::root("chat");
    let mut conversation = Conversation::new(&tasks, parts);
    // Reading a line blocks, which is fine as long as nothing else is going on.
    for line in std::io::stdin().lines() {
        conversation.text(line?, Vec::new(), TextPolicy::Queue)?;
        loop {
            let mut terminal = std::io::stdout().lock();
            match conversation.next().await {
                TurnEvent::LlmDelta { text, .. } => write!(terminal, "{text}")?,
                TurnEvent::TurnEnded { .. } => break writeln!(terminal)?,
                _ => {}
            }
            terminal.flush()?;
        }
    }
    Ok(())
}
