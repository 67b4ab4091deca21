//! A call on paused time: events are logged as short words, so that a test reads like a transcript.

use std::{sync::Arc, time::Duration};

use llmrtc_core::{
    audio::{AudioFormat, EncodedAudio, PcmChunk, SampleRate, Utterance},
    clock::{Clock, SystemClock},
    guardrail::{Guardrail, Guardrails},
    history::HistorySnapshot,
    hooks::Observers,
    id::SessionId,
    message::Message,
    playout::{AudioDecoder, DecodeError, DecodedAudio},
    provider::{LlmChunk, Providers, SttProvider, SttResult, TtsProvider},
    speech::{EndReason, SpeechEvent},
    tasks::Tasks,
    testing::{Script, ScriptedLlm, ScriptedSink, ScriptedStt, ScriptedTts},
    tool::ToolRunner,
    turn::{
        Conversation, ConversationParts, Outcome, TextPolicy, TurnConfig, TurnEvent,
        machine::ChunkerFactory,
    },
};
use tokio::time::{Instant, timeout};

/// Who takes part.
#[derive(Clone)]
pub(crate) struct Cast {
    pub(crate) llm: ScriptedLlm,
    pub(crate) stt: ScriptedStt,
    pub(crate) tts: ScriptedTts,
    pub(crate) config: TurnConfig,
    pub(crate) tools: Option<Arc<dyn ToolRunner>>,
    pub(crate) observers: Observers,
    pub(crate) history: Option<HistorySnapshot>,
    /// Listens in place of `stt`.
    pub(crate) listener: Option<Arc<dyn SttProvider>>,
    /// Speaks in place of `tts`.
    pub(crate) speaker: Option<Arc<dyn TtsProvider>>,
    pub(crate) chunkers: Option<ChunkerFactory>,
    pub(crate) guardrails: Guardrails,
}

impl Cast {
    /// Everything heard is `heard`, everything answered is `answer`.
    pub(crate) fn new(heard: &str, answer: &str) -> Self {
        Self {
            llm: ScriptedLlm::saying(answer),
            stt: ScriptedStt::hearing(heard),
            tts: ScriptedTts::new(),
            config: TurnConfig {
                system_prompt: "Be brief.".into(),
                ..TurnConfig::default()
            },
            tools: None,
            observers: Observers::none(),
            history: None,
            listener: None,
            speaker: None,
            chunkers: None,
            guardrails: Guardrails::default(),
        }
    }

    pub(crate) fn llm(mut self, llm: ScriptedLlm) -> Self {
        self.llm = llm;
        self
    }

    pub(crate) fn answers(self, script: Script<LlmChunk>) -> Self {
        self.llm(ScriptedLlm::new().always(script))
    }

    pub(crate) fn stt(mut self, stt: ScriptedStt) -> Self {
        self.stt = stt;
        self
    }

    pub(crate) fn hears(self, script: Script<SttResult>) -> Self {
        self.stt(ScriptedStt::new().always(script))
    }

    pub(crate) fn tts(mut self, tts: ScriptedTts) -> Self {
        self.tts = tts;
        self
    }

    pub(crate) fn config(mut self, change: impl FnOnce(&mut TurnConfig)) -> Self {
        change(&mut self.config);
        self
    }

    pub(crate) fn tools(mut self, tools: impl ToolRunner) -> Self {
        self.tools = Some(Arc::new(tools));
        self
    }

    pub(crate) fn listener(mut self, stt: impl SttProvider) -> Self {
        self.listener = Some(Arc::new(stt));
        self
    }

    pub(crate) fn guardrail(mut self, guardrail: impl Guardrail) -> Self {
        self.guardrails = [Arc::new(guardrail) as Arc<dyn Guardrail>]
            .into_iter()
            .collect();
        self
    }

    pub(crate) fn observers(mut self, observers: Observers) -> Self {
        self.observers = observers;
        self
    }

    pub(crate) fn call(self) -> Call {
        let sink = ScriptedSink::new();
        let tasks = Tasks::root("test");
        let conversation = Conversation::new(
            &tasks,
            ConversationParts {
                session_id: SessionId::from_u128(1),
                config: Arc::new(self.config.clone()),
                providers: Providers {
                    llm: Arc::new(self.llm.clone()),
                    stt: self
                        .listener
                        .clone()
                        .unwrap_or_else(|| Arc::new(self.stt.clone())),
                    tts: self
                        .speaker
                        .clone()
                        .unwrap_or_else(|| Arc::new(self.tts.clone())),
                    vision: None,
                },
                sink: Arc::new(sink.clone()),
                decoder: Arc::new(WavDecoder),
                observers: self.observers.clone(),
                tools: self.tools.clone(),
                chunkers: self.chunkers.clone(),
                history: self.history.clone(),
                guardrails: self.guardrails.clone(),
                clock: Arc::new(SystemClock),
            },
        );
        Call {
            conversation,
            sink,
            cast: self,
            log: Vec::new(),
            start: Instant::now(),
            _tasks: tasks,
        }
    }
}

/// Reads the canonical WAV of the scripted one-shot voice.
struct WavDecoder;

impl AudioDecoder for WavDecoder {
    fn decode(&self, audio: EncodedAudio) -> Result<DecodedAudio, DecodeError> {
        assert_eq!(audio.format, AudioFormat::Wav);
        let rate = u32::from_le_bytes(audio.data[24..28].try_into().unwrap());
        let rate = SampleRate::try_from(rate).unwrap();
        Ok(Box::new(std::iter::once(Ok(PcmChunk::from_le_bytes(
            &audio.data[44..],
            rate,
        )))))
    }
}

pub(crate) struct Call {
    pub(crate) conversation: Conversation,
    pub(crate) sink: ScriptedSink,
    pub(crate) cast: Cast,
    pub(crate) log: Vec<(Duration, String)>,
    start: Instant,
    _tasks: Tasks,
}

impl Call {
    pub(crate) fn text(&mut self, text: &str) {
        self.conversation
            .text(text, Vec::new(), TextPolicy::Interrupt)
            .unwrap();
    }

    /// The caller begins to speak: onset and confirmation.
    pub(crate) fn speak(&mut self) {
        self.onset();
        self.conversation.speech(SpeechEvent::Confirmed);
    }

    pub(crate) fn onset(&mut self) {
        self.conversation.speech(SpeechEvent::Onset {
            at: SystemClock.now(),
        });
    }

    /// The caller stops.
    pub(crate) fn stop(&mut self) {
        self.conversation.speech(SpeechEvent::Ended {
            utterance: utterance(),
            last_voice: SystemClock.now(),
            reason: EndReason::Endpoint,
        });
    }

    /// A whole utterance in no time.
    pub(crate) fn say(&mut self) {
        self.speak();
        self.stop();
    }

    /// Logs events until one is logged as `word`; fails after a minute.
    pub(crate) async fn until(&mut self, word: &str) {
        let waited = timeout(Duration::from_secs(600), async {
            loop {
                let event = self.conversation.next().await;
                if self.note(&event) == word {
                    return;
                }
            }
        });
        if waited.await.is_err() {
            panic!("no {word:?} after {:#?}", self.words());
        }
    }

    /// Logs events for this long.
    pub(crate) async fn during(&mut self, time: Duration) {
        let _ = timeout(time, async {
            loop {
                let event = self.conversation.next().await;
                self.note(&event);
            }
        })
        .await;
    }

    fn note(&mut self, event: &TurnEvent) -> String {
        let word = word(event);
        self.log.push((self.start.elapsed(), word.clone()));
        word
    }

    /// The words logged, without turn starts and repeated deltas.
    pub(crate) fn words(&self) -> Vec<&str> {
        let mut words: Vec<&str> = self
            .log
            .iter()
            .map(|(_, word)| word.as_str())
            .filter(|word| !word.starts_with("turn-started"))
            .collect();
        words.dedup_by(|a, b| a == b && *a == "delta");
        words
    }

    pub(crate) fn at(&self, word: &str) -> Duration {
        let found = self.log.iter().find(|(_, logged)| logged == word);
        found
            .unwrap_or_else(|| panic!("no {word:?} in {:#?}", self.log))
            .0
    }

    /// The messages of the newest model request: `role:text`.
    pub(crate) fn request(&self) -> Vec<String> {
        let requests = self.cast.llm.requests();
        requests
            .last()
            .expect("the model was asked")
            .messages
            .iter()
            .map(line)
            .collect()
    }

    /// The messages of the committed history.
    pub(crate) fn end(self) -> Vec<String> {
        let (history, _) = self.conversation.close();
        history.messages().map(line).collect()
    }
}

pub(crate) fn line(message: &Message) -> String {
    match message {
        Message::System { text } => format!("system:{text}"),
        Message::User { text, .. } => format!("user:{text}"),
        Message::Assistant {
            text,
            tool_calls,
            interrupted,
        } => {
            let cut = if *interrupted { " [cut]" } else { "" };
            let calls: Vec<_> = tool_calls
                .iter()
                .map(|call| call.name.to_string())
                .collect();
            let calls = if calls.is_empty() {
                String::new()
            } else {
                format!(" ({})", calls.join(", "))
            };
            format!("assistant:{text}{calls}{cut}")
        }
        Message::Tool {
            content, is_error, ..
        } => {
            format!("tool{}:{content}", if *is_error { "!" } else { "" })
        }
        _ => "other".into(),
    }
}

pub(crate) fn utterance() -> Utterance {
    Utterance::Pcm(PcmChunk::new(vec![500i16; 16_000], SampleRate::HZ_16000))
}

fn word(event: &TurnEvent) -> String {
    match event {
        TurnEvent::UserSpeechStarted => "speech-start".into(),
        TurnEvent::UserSpeechEnded => "speech-end".into(),
        TurnEvent::TurnStarted { turn } => format!("turn-started:{turn}"),
        TurnEvent::Transcript {
            text,
            is_final: true,
            ..
        } => format!("transcript:{text}"),
        TurnEvent::Transcript { text, .. } => format!("interim:{text}"),
        TurnEvent::LlmDelta { .. } => "delta".into(),
        TurnEvent::LlmDone { text, .. } => format!("llm:{text}"),
        TurnEvent::SpeechStarted { .. } => "tts-start".into(),
        TurnEvent::SpeechEnded { .. } => "tts-complete".into(),
        TurnEvent::SpeechCancelled { heard, .. } => format!("tts-cancelled:{heard}"),
        TurnEvent::ToolStarted { call, .. } => format!("tool:{}", call.name),
        TurnEvent::ToolEnded { call, result, .. } => match result {
            Ok(_) => format!("tool-ok:{}", call.name),
            Err(failure) => format!("tool-{}:{}", failure.category.name(), call.name),
        },
        TurnEvent::TurnEnded { outcome, .. } => match outcome {
            Outcome::Failed(error) => format!("failed:{}", error.component().label()),
            outcome => outcome.label().into(),
        },
        _ => "other".into(),
    }
}
