//! The machine alone: inputs go in, what it says and does comes out as short words.

mod cases;
mod properties;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde_json::{Map, Value};

use super::{Action, Input, Machine, Moment, SttJob, TextPolicy};
use crate::{
    audio::{AudioFormat, EncodedAudio, PcmChunk, SampleRate, Utterance},
    id::TurnId,
    message::{Attachment, ImageSource, Message, ToolCall},
    playout::{Played, PlayoutEvent, SegmentIndex},
    provider::{ErrorKind, LlmCapabilities, LlmChunk, ProviderError, StopReason},
    speech::{EndReason, SpeechEvent},
    turn::{Outcome, TurnConfig, TurnEvent},
};

struct Bench {
    machine: Machine,
    now: Instant,
    played: Option<Played>,
}

impl Bench {
    fn new() -> Self {
        Self::with(TurnConfig::default())
    }

    fn with(config: TurnConfig) -> Self {
        let live = config.streaming_stt;
        Self::from(Machine::new(
            Arc::new(config),
            LlmCapabilities::default(),
            live,
            None,
            None,
        ))
    }

    fn from(machine: Machine) -> Self {
        Self {
            machine,
            now: Instant::now(),
            played: None,
        }
    }

    fn give(&mut self, input: Input) -> Vec<Action> {
        let mut out = Vec::new();
        let at = Moment {
            now: self.now,
            played: self.played,
        };
        self.machine.handle(input, at, &mut out);
        out
    }

    /// Gives `input` and says what came of it.
    fn told(&mut self, input: Input) -> Vec<String> {
        self.give(input).iter().map(word).collect()
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
    }

    fn text(&mut self, text: &str) -> Vec<String> {
        self.told(typed(text, TextPolicy::Interrupt))
    }

    fn queue(&mut self, text: &str) -> Vec<String> {
        self.told(typed(text, TextPolicy::Queue))
    }

    fn onset(&mut self) -> Vec<String> {
        let at = self.now;
        self.told(Input::Speech(SpeechEvent::Onset { at }))
    }

    fn confirm(&mut self) -> Vec<String> {
        self.told(Input::Speech(SpeechEvent::Confirmed))
    }

    fn misfire(&mut self) -> Vec<String> {
        self.told(Input::Speech(SpeechEvent::Misfire))
    }

    fn ended(&mut self) -> Vec<String> {
        let last_voice = self.now;
        self.told(Input::Speech(ended(last_voice)))
    }

    fn speak(&mut self) {
        self.onset();
        self.confirm();
    }

    fn say(&mut self) {
        self.speak();
        self.ended();
    }

    fn heard(&mut self, job: u64, text: &str) -> Vec<String> {
        self.told(Input::Transcribed {
            job: SttJob(job),
            result: Ok((text.into(), None)),
        })
    }

    fn llm(&mut self, turn: u64, text: &str) -> Vec<String> {
        self.told(chunk(turn, LlmChunk::Text(text.into())))
    }

    fn call(&mut self, turn: u64, id: &str) {
        self.give(chunk(turn, LlmChunk::ToolCall(call(id))));
    }

    fn end(&mut self, turn: u64, reason: StopReason) -> Vec<String> {
        self.told(chunk(turn, LlmChunk::End(reason)))
    }

    fn tool_started(&mut self, turn: u64, id: &str) -> Vec<String> {
        self.told(Input::ToolStarted {
            turn: TurnId(turn),
            call: call(id),
        })
    }

    fn tool_done(&mut self, turn: u64, id: &str) -> Vec<String> {
        self.told(Input::ToolDone {
            turn: TurnId(turn),
            call: call(id),
            result: Ok(Value::Null),
            duration: Duration::ZERO,
        })
    }

    fn audio(&mut self, turn: u64, segment: SegmentIndex, audio: Duration) -> Vec<String> {
        self.told(Input::Queued {
            turn: TurnId(turn),
            segment,
            audio,
        })
    }

    fn segment(&mut self, turn: u64, segment: SegmentIndex) -> Vec<String> {
        self.told(Input::SegmentDone {
            turn: TurnId(turn),
            segment,
            result: Ok(()),
        })
    }

    fn segment_lost(&mut self, turn: u64, segment: SegmentIndex) -> Vec<String> {
        self.told(Input::SegmentDone {
            turn: TurnId(turn),
            segment,
            result: Err(failure()),
        })
    }

    fn drained(&mut self, turn: u64) -> Vec<String> {
        let (turn, at) = (TurnId(turn), self.now);
        self.told(Input::Playout(PlayoutEvent::Drained { turn, at }))
    }

    fn tick(&mut self) -> Vec<String> {
        self.told(Input::Tick)
    }
}

fn typed(text: &str, policy: TextPolicy) -> Input {
    Input::Text {
        text: text.into(),
        attachments: Vec::new(),
        policy,
    }
}

fn uploaded() -> Input {
    Input::Upload {
        audio: EncodedAudio {
            data: Bytes::from_static(b"RIFF"),
            format: AudioFormat::Wav,
            rate: None,
        },
        attachments: Vec::new(),
    }
}

fn image(alt: &str) -> Attachment {
    Attachment {
        source: ImageSource::Released,
        alt: Some(alt.into()),
    }
}

fn utterance() -> Utterance {
    Utterance::Pcm(PcmChunk::new(vec![0i16; 16], SampleRate::HZ_16000))
}

fn ended(last_voice: Instant) -> SpeechEvent {
    SpeechEvent::Ended {
        utterance: utterance(),
        last_voice,
        reason: EndReason::Endpoint,
    }
}

fn chunk(turn: u64, chunk: LlmChunk) -> Input {
    Input::Llm {
        turn: TurnId(turn),
        chunk,
    }
}

fn call(id: &str) -> ToolCall {
    ToolCall {
        call_id: id.into(),
        name: "look_up".into(),
        arguments: Map::new(),
        parse_error: None,
    }
}

fn failure() -> ProviderError {
    ProviderError::new(ErrorKind::Unavailable, "vendor", "down")
}

fn word(action: &Action) -> String {
    match action {
        Action::Emit(event) => event_word(event),
        Action::Transcribe { job, .. } => format!("transcribe {}", job.0),
        Action::OpenLive { job, .. } => format!("live {}", job.0),
        Action::FinishLive { job } => format!("finalise {}", job.0),
        Action::DropTranscription { job } => format!("forget {}", job.0),
        Action::Ask { turn, request } => {
            let question = request
                .messages
                .iter()
                .rev()
                .find_map(|message| match message {
                    Message::User { text, .. } => Some(text),
                    _ => None,
                });
            format!("ask {turn}: {}", question.map_or("", |text| text))
        }
        Action::RunTools { turn, calls } => format!("run {turn}: {}", calls.len()),
        Action::OpenOutput { .. } => "open".into(),
        Action::Synthesise { index, text, .. } => format!("say {index}: {text}"),
        Action::FinishOutput { .. } => "finish".into(),
        Action::Hold { .. } => "hold".into(),
        Action::Release { .. } => "release".into(),
        Action::Abandon { turn } => format!("abandon {turn}"),
    }
}

fn event_word(event: &TurnEvent) -> String {
    match event {
        TurnEvent::UserSpeechStarted => "speech-start".into(),
        TurnEvent::UserSpeechEnded => "speech-end".into(),
        TurnEvent::TurnStarted { turn } => format!("turn {turn}"),
        TurnEvent::Transcript { text, .. } => format!("transcript {text}"),
        TurnEvent::LlmDelta { .. } => "delta".into(),
        TurnEvent::LlmDone { text, .. } => format!("llm {text}"),
        TurnEvent::SpeechStarted { .. } => "tts-start".into(),
        TurnEvent::SpeechEnded { .. } => "tts-complete".into(),
        TurnEvent::SpeechCancelled { heard, .. } => format!("tts-cancelled {heard}"),
        TurnEvent::ToolStarted { call, .. } => format!("tool-start {}", call.call_id),
        TurnEvent::ToolEnded { call, .. } => format!("tool-end {}", call.call_id),
        TurnEvent::StageChanged { .. } => "stage".into(),
        TurnEvent::TurnEnded { turn, outcome, .. } => match outcome {
            Outcome::Failed(error) => format!("{turn} failed: {}", error.component().label()),
            outcome => format!("{turn} {}", outcome.label()),
        },
    }
}
