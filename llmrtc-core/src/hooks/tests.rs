use std::{
    future::pending,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use async_trait::async_trait;
use tokio::sync::{Notify, Semaphore};

use super::*;
use crate::{
    audio::SampleRate,
    id::TurnId,
    provider::{ErrorKind, StopReason, Usage},
    telemetry::{self, InMemoryMetrics, MetricKind, Metrics},
    testing::RecordingHooks,
    tool::FailureCategory,
};

const LIMIT: Duration = Duration::from_secs(60);

fn cx() -> TurnContext {
    TurnContext {
        session_id: SessionId::from_u128(9),
        turn_id: TurnId(3),
        started_at: SystemTime::UNIX_EPOCH,
        input: InputKind::Utterance {
            bytes: 320,
            duration: Duration::from_millis(10),
        },
    }
}

fn call(provider: &str) -> ProviderCall {
    ProviderCall::new(provider, CallMode::Streaming)
}

fn timing(ms: u64) -> Timing {
    Timing {
        started_at: SystemTime::UNIX_EPOCH,
        duration: Duration::from_millis(ms),
    }
}

fn failure(component: Component) -> Arc<TurnError> {
    Arc::new(TurnError::Provider {
        component,
        source: ProviderError::new(ErrorKind::Unavailable, "mock", "overloaded"),
    })
}

fn llm_chunk(index: u64) -> HookEvent {
    HookEvent::LlmChunk {
        call: call("mock-llm"),
        text: "word".into(),
        index,
        elapsed: Duration::from_millis(120),
    }
}

fn turn_end(outcome: Outcome) -> HookEvent {
    let start = Instant::now();
    let at = |ms| Some(start + Duration::from_millis(ms));
    HookEvent::TurnEnd {
        outcome,
        stages: TurnTiming {
            last_voice: at(0),
            decided: at(100),
            transcript: at(250),
            llm_request: at(260),
            llm_first_text: at(400),
            llm_done: at(900),
            tts_request: at(450),
            tts_first_audio: at(500),
            first_audio: at(520),
            ended: at(2_000),
        },
        timing: timing(2_000),
    }
}

/// One of every event of a turn, in an order that could happen.
fn every_turn_event() -> Vec<HookEvent> {
    let tool = Arc::new(ToolCall {
        call_id: "call-1".into(),
        name: "weather".into(),
        arguments: serde_json::Map::new(),
        parse_error: None,
    });
    vec![
        HookEvent::TurnStart,
        HookEvent::SttStart {
            call: call("mock-stt"),
        },
        HookEvent::SttEnd {
            call: call("mock-stt"),
            result: Arc::new(SttResult {
                text: "grüße aus köln".into(),
                is_final: true,
                ..SttResult::default()
            }),
            timing: timing(150),
        },
        HookEvent::SttError {
            call: call("mock-stt"),
            error: failure(Component::Stt),
        },
        HookEvent::LlmStart {
            call: call("mock-llm"),
            request: Arc::default(),
        },
        llm_chunk(0),
        HookEvent::LlmEnd {
            call: call("mock-llm"),
            result: Arc::new(LlmResult {
                text: "the answer is secret".into(),
                stop_reason: Some(StopReason::EndTurn),
                usage: Usage {
                    input: Some(11),
                    output: Some(5),
                    ..Usage::default()
                },
                ..LlmResult::default()
            }),
            timing: timing(640),
        },
        HookEvent::LlmError {
            call: call("mock-llm"),
            error: failure(Component::Llm),
        },
        HookEvent::ToolStart { call: tool.clone() },
        HookEvent::ToolEnd {
            call: tool.clone(),
            result: Arc::default(),
            timing: timing(30),
        },
        HookEvent::ToolError {
            call: tool,
            error: Arc::new(ToolFailure::new(
                FailureCategory::Timeout,
                "after secret 30 s",
            )),
            timing: timing(30_000),
        },
        HookEvent::TtsStart {
            call: call("mock-tts"),
            text: "the answer".into(),
        },
        HookEvent::SegmentStart {
            call: call("mock-tts"),
            segment: 0,
            text: "the answer".into(),
        },
        HookEvent::TtsChunk {
            call: call("mock-tts"),
            segment: 0,
            index: 0,
            audio: PcmChunk::new(vec![0; 240], SampleRate::HZ_24000),
            elapsed: Duration::from_millis(80),
        },
        HookEvent::SegmentEnd {
            call: call("mock-tts"),
            segment: 0,
            timing: timing(90),
        },
        HookEvent::TtsEnd {
            call: call("mock-tts"),
            timing: timing(90),
        },
        HookEvent::TtsError {
            call: call("mock-tts"),
            error: failure(Component::Tts),
        },
        HookEvent::PlayoutStarted {
            response: Duration::from_millis(520),
        },
        HookEvent::PlayoutUnderrun,
        HookEvent::BargeIn {
            heard: "the".into(),
            generated: "the answer".into(),
            reaction: Some(Duration::from_millis(180)),
        },
        HookEvent::BargeInResumed,
        HookEvent::Retry {
            component: Component::Llm,
            attempt: 1,
            wait: Duration::from_millis(200),
            error: Arc::new(ProviderError::new(
                ErrorKind::RateLimited,
                "mock",
                "slow down",
            )),
        },
        turn_end(Outcome::Blocked {
            by: "politeness".into(),
        }),
    ]
}

fn every_server_event() -> Vec<ServerEvent> {
    let session_id = SessionId::from_u128(9);
    vec![
        ServerEvent::Connection {
            session_id,
            connection_id: "c1".into(),
            transport: "websocket",
        },
        ServerEvent::SpeechStart {
            session_id,
            at: SystemTime::UNIX_EPOCH,
        },
        ServerEvent::SpeechEnd {
            session_id,
            at: SystemTime::UNIX_EPOCH,
            audio: Duration::from_secs(2),
        },
        ServerEvent::Error {
            context: ErrorContext::new("VAD_ERROR", Component::Vad),
            error: Arc::new(TurnError::Internal("model\nmissing".into())),
        },
        ServerEvent::Disconnect {
            session_id,
            transport: "websocket",
            timing: timing(60_000),
            turns: 4,
        },
    ]
}

/// Counts the calls of every single hook.
#[derive(Default)]
struct EveryHook(Mutex<Vec<&'static str>>);

macro_rules! every_hook {
    ($($hook:ident($($argument:ty),*);)*) => {
        #[async_trait]
        impl Hooks for EveryHook {
            $(async fn $hook(&self, $(_: $argument),*) -> HookResult {
                self.0.lock().unwrap().push(stringify!($hook));
                Ok(())
            })*
        }
    };
}

every_hook! {
    on_turn_start(&TurnContext);
    on_stt_start(&TurnContext, &ProviderCall);
    on_stt_end(&TurnContext, &ProviderCall, &Arc<SttResult>, Timing);
    on_stt_error(&TurnContext, &ProviderCall, &Arc<TurnError>);
    on_llm_start(&TurnContext, &ProviderCall, &Arc<LlmRequest>);
    on_llm_chunk(&TurnContext, &ProviderCall, &Arc<str>, u64);
    on_llm_end(&TurnContext, &ProviderCall, &Arc<LlmResult>, Timing);
    on_llm_error(&TurnContext, &ProviderCall, &Arc<TurnError>);
    on_tts_start(&TurnContext, &ProviderCall, &Arc<str>);
    on_segment_start(&TurnContext, &ProviderCall, SegmentIndex, &Arc<str>);
    on_tts_chunk(&TurnContext, &ProviderCall, SegmentIndex, u64, &PcmChunk);
    on_segment_end(&TurnContext, &ProviderCall, SegmentIndex, Timing);
    on_tts_end(&TurnContext, &ProviderCall, Timing);
    on_tts_error(&TurnContext, &ProviderCall, &Arc<TurnError>);
    on_tool_start(&TurnContext, &Arc<ToolCall>);
    on_tool_end(&TurnContext, &Arc<ToolCall>, &Arc<Value>, Timing);
    on_tool_error(&TurnContext, &Arc<ToolCall>, &Arc<ToolFailure>, Timing);
    on_playout_started(&TurnContext, Duration);
    on_playout_underrun(&TurnContext);
    on_barge_in(&TurnContext, &Arc<str>, &Arc<str>);
    on_barge_in_resumed(&TurnContext);
    on_retry(&TurnContext, Component, u32, &Arc<ProviderError>);
    on_turn_end(&TurnContext, &Outcome, &TurnTiming, Timing);
    on_connection(SessionId, &Arc<str>);
    on_disconnect(SessionId, Timing);
    on_speech_start(SessionId, SystemTime);
    on_speech_end(SessionId, SystemTime, Duration);
    on_error(&SharedError, &ErrorContext);
}

#[tokio::test]
async fn every_event_reaches_the_hook_of_its_name() {
    let hooks = EveryHook::default();
    let mut expected = Vec::new();
    for event in every_turn_event() {
        expected.push(format!("on_{}", event.name()));
        hooks.on_event(&cx(), &event).await.unwrap();
    }
    for event in every_server_event() {
        expected.push(format!("on_{}", event.name()));
        hooks.on_server_event(&event).await.unwrap();
    }
    assert_eq!(*hooks.0.lock().unwrap(), expected);
}

#[tokio::test(start_paused = true)]
async fn observers_see_events_in_order_with_the_context_of_the_turn() {
    let recording = RecordingHooks::new();
    let observers = Observers::new(vec![recording.clone()], Metrics::noop());
    let tracked = ["turn_start", "stt_end", "llm_end", "tts_end", "turn_end"];
    for event in every_turn_event() {
        observers.emit(&cx(), event);
    }
    assert!(observers.flush(LIMIT).await);
    let names = recording.names();
    let places: Vec<_> = tracked
        .iter()
        .map(|name| names.iter().position(|seen| seen == name).expect(name))
        .collect();
    assert!(places.is_sorted(), "{names:?}");
    assert!(
        recording
            .turn_events()
            .iter()
            .all(|(seen, _)| *seen == cx())
    );
}

#[tokio::test(start_paused = true)]
async fn every_failure_is_reported_once_to_on_error() {
    let recording = RecordingHooks::new();
    let observers = Observers::new(vec![recording.clone()], Metrics::noop());
    let error = failure(Component::Stt);
    let stt_error = HookEvent::SttError {
        call: call("mock"),
        error: error.clone(),
    };
    observers.emit(&cx(), stt_error);
    observers.emit(&cx(), turn_end(Outcome::Failed(error)));
    observers.emit(
        &cx(),
        turn_end(Outcome::Failed(Arc::new(TurnError::Deadline))),
    );
    assert!(observers.flush(LIMIT).await);
    assert_eq!(
        recording.names(),
        ["stt_error", "error", "turn_end", "turn_end", "error"]
    );
    let contexts: Vec<_> = recording
        .server_events()
        .into_iter()
        .map(|event| match event {
            ServerEvent::Error { context, .. } => context,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(contexts[0].code, "STT_ERROR");
    assert_eq!(contexts[0].provider.as_deref(), Some("mock"));
    assert_eq!(contexts[0].turn_id, Some(cx().turn_id));
    assert_eq!(contexts[1].code, "INTERNAL_ERROR");
}

#[tokio::test]
async fn without_observers_events_are_not_even_made() {
    let observers = Observers::none();
    observers.emit_with(&cx(), || panic!("made for nobody"));
    observers.emit_server(|| panic!("made for nobody"));
    assert!(observers.is_empty() && observers.flush(LIMIT).await);
    assert!(Observers::new(Vec::new(), Metrics::noop()).is_empty());
}

/// Handles an event only when the gate lets it.
struct Gated {
    gate: Semaphore,
    arrived: Notify,
    seen: Mutex<Vec<(&'static str, u64)>>,
}

#[async_trait]
impl Hooks for Gated {
    async fn on_event(&self, _: &TurnContext, event: &HookEvent) -> HookResult {
        self.arrived.notify_one();
        self.gate.acquire().await?.forget();
        let index = match event {
            HookEvent::LlmChunk { index, .. } => *index,
            _ => 0,
        };
        self.seen.lock().unwrap().push((event.name(), index));
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_chunks_costs_chunks_and_no_lifecycle_event() {
    let gated = Arc::new(Gated {
        gate: Semaphore::new(0),
        arrived: Notify::new(),
        seen: Mutex::default(),
    });
    let metrics = InMemoryMetrics::new();
    let observers = Observers::new(vec![gated.clone()], Metrics::new(metrics.clone()));
    observers.emit(&cx(), HookEvent::TurnStart);
    gated.arrived.notified().await;
    let chunks = 2 * EVENT_QUEUE as u64;
    for index in 0..chunks {
        observers.emit(&cx(), llm_chunk(index));
    }
    observers.emit(&cx(), turn_end(Outcome::Completed));
    gated.gate.add_permits(EVENT_QUEUE * 4);
    assert!(observers.flush(LIMIT).await);

    let seen = gated.seen.lock().unwrap().clone();
    assert_eq!(seen.first(), Some(&("turn_start", 0)));
    assert_eq!(seen.last(), Some(&("turn_end", 0)));
    let kept: Vec<_> = seen[1..seen.len() - 1]
        .iter()
        .map(|(_, index)| *index)
        .collect();
    assert!(kept.is_sorted() && kept[0] == 0, "order holds");
    let dropped = metrics.count(telemetry::HOOKS_DROPPED);
    assert!(dropped > 0);
    assert_eq!(kept.len() as u64 + dropped, chunks, "every loss is counted");
}

/// Fails in every way there is, then behaves.
#[derive(Default)]
struct Broken(AtomicUsize);

#[async_trait]
impl Hooks for Broken {
    async fn on_turn_start(&self, _: &TurnContext) -> HookResult {
        match self.0.fetch_add(1, Ordering::SeqCst) {
            0 => Err("no disk".into()),
            1 => panic!("a bug"),
            2 => pending().await,
            _ => Ok(()),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_broken_observer_harms_nobody_and_goes_on() {
    let capture = capture::Capture::default();
    let _guard = tracing::subscriber::set_default(capture.clone());
    let broken = Arc::new(Broken::default());
    let recording = RecordingHooks::new();
    let observers = Observers::new(vec![broken.clone(), recording.clone()], Metrics::noop());
    let before = tokio::time::Instant::now();
    for _ in 0..5 {
        observers.emit(&cx(), HookEvent::TurnStart);
    }
    assert_eq!(before.elapsed(), Duration::ZERO, "emitting does not wait");
    assert!(
        !observers.flush(Duration::from_secs(1)).await,
        "one hook hangs"
    );
    assert_eq!(recording.names().len(), 5, "the others do not wait for it");
    assert!(observers.flush(LIMIT).await);
    assert_eq!(broken.0.load(Ordering::SeqCst), 5);
    let complaints = capture.take();
    assert_eq!(
        complaints.len(),
        1,
        "complaints are rationed: {complaints:?}"
    );
    assert!(complaints[0].contains("no disk"), "{complaints:?}");
}

#[tokio::test]
async fn every_metric_that_has_an_event_is_emitted_with_its_labels() {
    let sink = InMemoryMetrics::new();
    let observer = MetricsObserver::new(Metrics::new(sink.clone()));
    for event in every_turn_event() {
        observer.on_event(&cx(), &event).await.unwrap();
    }
    for event in every_server_event() {
        observer.on_server_event(&event).await.unwrap();
    }
    // Counted where they happen: queues, hooks, the session store, resumption.
    let elsewhere = [
        telemetry::QUEUE_DROPPED,
        telemetry::HOOKS_DROPPED,
        telemetry::SESSIONS_ACTIVE,
        telemetry::RECONNECTIONS,
    ];
    for metric in telemetry::METRICS {
        let records = sink.of(metric.name);
        if elsewhere.contains(&metric.name) {
            continue;
        }
        assert!(!records.is_empty(), "{} was not emitted", metric.name);
        for record in records {
            let labels: Vec<_> = record.tags.iter().map(|(key, _)| *key).collect();
            assert_eq!(labels, metric.labels, "{}", metric.name);
            let kind = match record.value {
                telemetry::MetricValue::Increment(_) => MetricKind::Counter,
                telemetry::MetricValue::Timing(_) => MetricKind::Timing,
                telemetry::MetricValue::Gauge(_) => MetricKind::Gauge,
                telemetry::MetricValue::Histogram(_) => MetricKind::Histogram,
            };
            assert_eq!(kind, metric.kind, "{}", metric.name);
        }
    }
    let stt = sink.latest(telemetry::STT_DURATION).unwrap();
    assert_eq!(stt.tag("provider"), Some("mock-stt"));
    assert_eq!(stt.tag("model"), Some("default"));
    assert_eq!(sink.count(telemetry::LLM_TOKENS), 16);
    assert_eq!(sink.count(telemetry::TOOL_CALLS), 2);
    assert_eq!(sink.count(telemetry::TOOL_ERRORS), 1);
    assert_eq!(
        sink.count(telemetry::ERRORS),
        1,
        "errors are counted by on_error alone"
    );
    let open = sink.of(telemetry::CONNECTIONS_ACTIVE);
    let open: Vec<_> = open.into_iter().map(|record| record.value).collect();
    assert_eq!(
        open,
        [
            telemetry::MetricValue::Gauge(1.0),
            telemetry::MetricValue::Gauge(0.0)
        ]
    );
}

#[tokio::test]
async fn a_tool_name_that_the_model_made_up_is_no_label() {
    let sink = InMemoryMetrics::new();
    let observer = MetricsObserver::new(Metrics::new(sink.clone()));
    let event = HookEvent::ToolError {
        call: Arc::new(ToolCall {
            call_id: "call-1".into(),
            name: "made_up_4711".into(),
            arguments: serde_json::Map::new(),
            parse_error: None,
        }),
        error: Arc::new(ToolFailure::new(FailureCategory::NotFound, "unknown")),
        timing: timing(0),
    };
    observer.on_event(&cx(), &event).await.unwrap();
    assert_eq!(
        sink.latest(telemetry::TOOL_CALLS).unwrap().tag("tool"),
        Some("unknown")
    );
}

/// A subscriber that writes events as `LEVEL message key=value …`, each into one line.
mod capture {
    use std::{
        fmt::{Debug, Write},
        sync::{Arc, Mutex},
    };

    use tracing::{
        Event, Metadata, Subscriber,
        field::{Field, Visit},
        span::{Attributes, Id, Record},
    };

    #[derive(Clone, Default)]
    pub(super) struct Capture(Arc<Mutex<Vec<String>>>);

    impl Capture {
        pub(super) fn take(&self) -> Vec<String> {
            std::mem::take(&mut self.0.lock().unwrap())
        }
    }

    #[derive(Default)]
    struct Line {
        message: String,
        fields: String,
    }

    impl Visit for Line {
        fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
            if field.name() == "message" && self.message.is_empty() {
                write!(self.message, "{value:?}").unwrap();
            } else {
                write!(self.fields, " {}={value:?}", field.name()).unwrap();
            }
        }
    }

    impl Subscriber for Capture {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }
        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }
        fn record(&self, _: &Id, _: &Record<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn event(&self, event: &Event<'_>) {
            let mut line = Line::default();
            event.record(&mut line);
            let level = event.metadata().level();
            let line = format!("{level} {}{}", line.message, line.fields);
            self.0.lock().unwrap().push(line);
        }
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
    }
}

/// What an observer writes about one of every event.
fn lines(observer: LoggingObserver) -> Vec<String> {
    let capture = capture::Capture::default();
    tracing::subscriber::with_default(capture.clone(), || {
        futures_util::future::FutureExt::now_or_never(async {
            for event in every_turn_event() {
                observer.on_event(&cx(), &event).await.unwrap();
            }
            for event in every_server_event() {
                observer.on_server_event(&event).await.unwrap();
            }
        })
        .expect("logging does not wait");
    });
    capture.take()
}

#[test]
fn the_default_preset_logs_the_lifecycle_without_payloads() {
    let lines = lines(LoggingObserver::new());
    let all = lines.join("\n");
    for wanted in [
        "INFO Turn started turn=3 session=00000000 audioSize=320",
        "INFO STT completed turn=3 duration=150",
        "INFO LLM completed turn=3 duration=640 chars=20",
        "INFO TTS completed turn=3 duration=90",
        "INFO Turn completed turn=3 duration=2000 outcome=\"blocked\"",
        "INFO Tool failed turn=3 tool=\"weather\" call=\"call-1\" duration=30000 category=\"timeout\"",
        "INFO Connection closed session=00000000 duration=60000 turns=4",
        "ERROR STT failed turn=3 code=\"STT_ERROR\" provider=\"mock\" kind=Unavailable",
    ] {
        assert!(
            lines.iter().any(|line| line == wanted),
            "{wanted} is not in\n{all}"
        );
    }
    assert!(
        all.contains("ERROR Error in vad code=\"VAD_ERROR\""),
        "{all}"
    );
    assert!(!all.contains("DEBUG"), "{all}");
    assert!(!all.contains("secret") && !all.contains("köln"), "{all}");
    assert!(all.contains("model\\nmissing"), "values are escaped: {all}");
}

#[test]
fn a_failed_stage_is_one_line() {
    let capture = capture::Capture::default();
    let event = HookEvent::LlmError {
        call: call("mock"),
        error: failure(Component::Llm),
    };
    let error = event.failure(&cx()).expect("a failure");
    tracing::subscriber::with_default(capture.clone(), || {
        futures_util::future::FutureExt::now_or_never(async {
            let observer = LoggingObserver::new();
            observer.on_event(&cx(), &event).await.unwrap();
            observer.on_server_event(&error).await.unwrap();
        })
        .expect("logging does not wait");
    });
    let lines = capture.take();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("code=\"LLM_ERROR\""), "{lines:?}");
}

#[test]
fn the_error_preset_logs_failures_only() {
    let lines = lines(LoggingObserver::errors_only());
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert!(
        lines.iter().all(|line| line.starts_with("ERROR ")),
        "{lines:?}"
    );
}

#[test]
fn the_verbose_preset_adds_details_and_payloads() {
    let all = lines(LoggingObserver::verbose()).join("\n");
    assert!(
        all.contains("DEBUG LLM first chunk received turn=3"),
        "{all}"
    );
    assert!(all.contains("text=\"grüße aus köln\""), "{all}");
    assert!(all.contains("response=\"the answer is secret\""), "{all}");
}

#[test]
fn the_timing_preset_writes_one_line_per_turn() {
    assert_eq!(
        lines(LoggingObserver::timing()),
        [
            "INFO Turn timing turn=3 stt=150 ttft=140 firstAudio=520 llm=640 tts=50 total=2000 \
          outcome=\"blocked\""
        ]
    );
}
