//! What observers are told (§7.2, §6.2).

use std::{sync::Arc, time::Duration};

use llmrtc_core::{
    audio::{AudioFormat, EncodedAudio, PcmChunk, SampleRate},
    hooks::{HookEvent, Hooks, InputKind, MetricsObserver, Observers},
    id::{SessionId, TurnId},
    provider::{ErrorKind, LlmChunk, StopReason, Usage},
    speech::SpeechEvent,
    telemetry::{self, InMemoryMetrics, METRICS, MetricValue, Metrics},
    testing::{RecordingHooks, Script, ScriptedLlm, ScriptedStt, ScriptedTts, Speech},
    turn::Outcome,
};
use serde_json::json;

use crate::{
    harness::{Call, Cast},
    tools::Toolbox,
};

const ANSWER: &str = "The first sentence is spoken here. The second one comes after it in full.";

struct Seen {
    hooks: Arc<RecordingHooks>,
    metrics: Arc<InMemoryMetrics>,
    observers: Observers,
}

impl Seen {
    fn new() -> Self {
        let hooks = RecordingHooks::new();
        let metrics = InMemoryMetrics::new();
        let counting: Arc<dyn Hooks> =
            Arc::new(MetricsObserver::new(Metrics::new(metrics.clone())));
        let observers = Observers::new(vec![hooks.clone(), counting], Metrics::noop());
        Self {
            hooks,
            metrics,
            observers,
        }
    }

    fn call(&self, cast: Cast) -> Call {
        cast.observers(self.observers.clone()).call()
    }

    async fn names(&self) -> Vec<&'static str> {
        assert!(self.observers.flush(Duration::from_secs(1)).await);
        self.hooks.names()
    }

    async fn events(&self) -> Vec<HookEvent> {
        self.names().await;
        let events = self.hooks.turn_events();
        events.into_iter().map(|(_, event)| event).collect()
    }

    fn duration(&self, name: &str) -> Duration {
        match self.metrics.latest(name).unwrap().value {
            MetricValue::Timing(duration) => duration,
            other => panic!("{name} is {other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_lifecycle_of_a_turn_is_told_in_order_and_under_one_id() {
    // 13, 17, 18.
    let seen = Seen::new();
    let mut call = seen.call(Cast::new("Go.", ANSWER));
    call.say();
    call.until("completed").await;
    let names = seen.names().await;
    let lifecycle: Vec<_> = names
        .iter()
        .copied()
        .filter(|name| {
            !matches!(
                *name,
                "llm_chunk" | "tts_chunk" | "segment_start" | "segment_end" | "playout_started"
            )
        })
        .collect();
    assert_eq!(
        lifecycle,
        [
            "turn_start",
            "speech_start",
            "speech_end",
            "stt_start",
            "stt_end",
            "llm_start",
            "llm_end",
            "tts_start",
            "tts_end",
            "turn_end",
        ]
    );
    for (cx, _) in seen.hooks.turn_events() {
        assert_eq!(cx.turn_id, TurnId(1));
        assert_eq!(cx.session_id, SessionId::from_u128(1));
    }
}

#[tokio::test(start_paused = true)]
async fn chunks_are_counted_without_gaps() {
    // 14.
    let seen = Seen::new();
    let mut call = seen.call(Cast::new("", "Three words here."));
    call.text("Go.");
    call.until("completed").await;
    let counted: Vec<_> = seen
        .events()
        .await
        .iter()
        .filter_map(|event| match event {
            HookEvent::LlmChunk { index, .. } => Some(*index),
            _ => None,
        })
        .collect();
    assert_eq!(counted, [0, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn stages_are_timed_by_what_they_took() {
    // 15, 16, 20, 21, 23.
    let seen = Seen::new();
    let stt = ScriptedStt::new()
        .always(Script::transcript("Go.").opens_after(Duration::from_millis(300)));
    let llm =
        ScriptedLlm::new().always(Script::answer("Yes.").opens_after(Duration::from_millis(200)));
    let tts = ScriptedTts::new().always(Speech::normal().opens_after(Duration::from_millis(100)));
    let mut call = seen.call(Cast::new("", "").stt(stt).llm(llm).tts(tts));
    call.say();
    call.until("completed").await;
    seen.names().await;
    assert_eq!(
        seen.duration(telemetry::STT_DURATION),
        Duration::from_millis(300)
    );
    assert_eq!(
        seen.duration(telemetry::LLM_TTFT),
        Duration::from_millis(200)
    );
    assert_eq!(
        seen.duration(telemetry::LLM_DURATION),
        Duration::from_millis(200)
    );
    assert_eq!(
        seen.duration(telemetry::TTS_FIRST_AUDIO),
        Duration::from_millis(100)
    );
    let response = seen.duration(telemetry::TURN_RESPONSE);
    assert!(
        response >= Duration::from_millis(600) && response < Duration::from_millis(650),
        "{response:?}"
    );
    let stt = seen.metrics.latest(telemetry::STT_DURATION).unwrap();
    assert_eq!(stt.tag("provider"), Some("scripted-stt"));
    assert_eq!(stt.tag("mode"), Some("buffered"));
}

#[tokio::test(start_paused = true)]
async fn live_transcription_is_timed_from_the_end_of_speech() {
    // ST2.
    let seen = Seen::new();
    let script = Script::new()
        .interim("Go")
        .input_end()
        .wait(Duration::from_millis(100))
        .finally("Go.");
    let cast = Cast::new("", "Yes.")
        .stt(ScriptedStt::new().live().always(script))
        .config(|config| config.streaming_stt = true);
    let mut call = seen.call(cast);
    call.speak();
    for _ in 0..100 {
        call.conversation.speech(SpeechEvent::Audio(PcmChunk::new(
            vec![1i16; 320],
            SampleRate::HZ_16000,
        )));
        call.during(Duration::from_millis(20)).await;
    }
    call.stop();
    call.until("completed").await;
    let inputs: Vec<_> = {
        seen.names().await;
        let events = seen.hooks.turn_events();
        events.into_iter().map(|(cx, _)| cx.input).collect()
    };
    assert!(
        inputs.iter().all(|input| *input == InputKind::Live),
        "{inputs:?}"
    );
    assert_eq!(
        seen.duration(telemetry::STT_DURATION),
        Duration::from_millis(100)
    );
}

#[tokio::test(start_paused = true)]
async fn a_turn_says_what_it_began_with() {
    let seen = Seen::new();
    let mut call = seen.call(Cast::new("Go.", "Yes."));
    call.text("Go.");
    call.until("completed").await;
    call.say();
    call.until("completed").await;
    call.conversation.upload(
        EncodedAudio {
            data: "RIFF".into(),
            format: AudioFormat::Wav,
            rate: None,
        },
        Vec::new(),
    );
    call.until("completed").await;
    seen.names().await;
    let ends: Vec<_> = seen
        .hooks
        .turn_events()
        .into_iter()
        .filter(|(_, event)| matches!(event, HookEvent::TurnEnd { .. }))
        .map(|(cx, _)| cx.input)
        .collect();
    assert!(
        matches!(
            ends[..],
            [
                InputKind::Text,
                InputKind::Utterance { bytes: 32_000, .. },
                InputKind::Utterance { bytes: 4, .. },
            ]
        ),
        "{ends:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_failing_transcription_is_told_once_and_counted() {
    // 19, 22.
    let seen = Seen::new();
    let refused = Script::refuse(ErrorKind::Authentication);
    let mut call = seen.call(Cast::new("", "Yes.").hears(refused));
    call.say();
    call.until("failed:stt").await;
    let events = seen.events().await;
    let errors: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            HookEvent::SttError { error, .. } => error.kind(),
            _ => None,
        })
        .collect();
    assert_eq!(errors, [ErrorKind::Authentication]);
    let Some(HookEvent::TurnEnd {
        outcome: Outcome::Failed(error),
        ..
    }) = events.last()
    else {
        panic!("{events:?}");
    };
    assert_eq!(error.kind(), Some(ErrorKind::Authentication));
    assert_eq!(seen.metrics.count(telemetry::ERRORS), 1);
    let counted = seen.metrics.latest(telemetry::ERRORS).unwrap();
    assert_eq!(counted.tag("component"), Some("stt"));
}

#[tokio::test(start_paused = true)]
async fn noise_does_not_count_towards_the_next_interruption() {
    let seen = Seen::new();
    let mut call = seen.call(Cast::new("Go.", ANSWER));
    call.text("Go.");
    call.until("tts-start").await;
    call.onset();
    call.conversation.speech(SpeechEvent::Misfire);
    call.during(Duration::from_secs(1)).await;
    call.text("Stop.");
    call.until("interrupted").await;
    let reactions: Vec<_> = seen
        .events()
        .await
        .iter()
        .filter_map(|event| match event {
            HookEvent::BargeIn { reaction, .. } => Some(*reaction),
            _ => None,
        })
        .collect();
    assert_eq!(reactions, [None]);
}

/// A session in which everything happens that has a number.
async fn eventful(seen: &Seen) {
    let usage = Usage {
        input: Some(10),
        output: Some(5),
        ..Usage::default()
    };
    let llm = ScriptedLlm::new()
        .then(Script::refuse(ErrorKind::Unavailable))
        .then(Script::tools([("quick", json!({})), ("broken", json!({}))]))
        .then(
            Script::new()
                .say(ANSWER)
                .item(LlmChunk::Usage(usage))
                .item(LlmChunk::End(StopReason::EndTurn)),
        )
        .always(Script::answer(ANSWER));
    // Slower than it is spoken, so that playout runs dry.
    let tts = ScriptedTts::new().always(Speech::normal().paced(Duration::from_millis(150)));
    let mut call = seen.call(Cast::new("Go.", "").llm(llm).tts(tts).tools(Toolbox));
    call.say();
    call.until("tts-start").await;
    call.during(Duration::from_secs(1)).await;
    call.onset();
    call.conversation.speech(SpeechEvent::Misfire);
    call.until("completed").await;
    call.say();
    call.until("tts-start").await;
    call.speak();
    call.until("speech-start").await;
    call.stop();
    call.until("completed").await;
    seen.names().await;
}

#[tokio::test(start_paused = true)]
async fn every_metric_of_a_conversation_is_emitted_by_one() {
    // 182, MT2.
    let elsewhere = [
        (
            telemetry::GUARDRAIL_BLOCKS,
            "guardrails are put around a conversation",
        ),
        (
            telemetry::QUEUE_DROPPED,
            "the owner of a queue counts its losses",
        ),
        (
            telemetry::HOOKS_DROPPED,
            "only a stuck observer loses events",
        ),
        (telemetry::SESSION_DURATION, "the server knows connections"),
        (telemetry::SESSION_TURNS, "the server knows connections"),
        (
            telemetry::CONNECTIONS_ACTIVE,
            "the server knows connections",
        ),
        (telemetry::SESSIONS_ACTIVE, "the server keeps sessions"),
        (telemetry::RECONNECTIONS, "the server keeps sessions"),
    ];
    let seen = Seen::new();
    eventful(&seen).await;
    for metric in METRICS {
        let emitted = !seen.metrics.of(metric.name).is_empty();
        let exception = elsewhere.iter().find(|(name, _)| *name == metric.name);
        assert_eq!(
            emitted,
            exception.is_none(),
            "{} {exception:?}",
            metric.name
        );
    }
    // The names that stages share tell their providers apart.
    for (metric, provider) in [
        (telemetry::STT_DURATION, "scripted-stt"),
        (telemetry::LLM_DURATION, "scripted-llm"),
        (telemetry::TTS_DURATION, "scripted-tts"),
    ] {
        let record = seen.metrics.latest(metric).unwrap();
        assert_eq!(record.tag("provider"), Some(provider));
    }
}
