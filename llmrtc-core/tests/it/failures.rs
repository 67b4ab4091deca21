//! Vendors that fail, hang, dribble or die (§2.9, §2.10).

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use llmrtc_core::{
    audio::Utterance,
    hooks::Observers,
    provider::{
        CallContext, ErrorKind, LlmChunk, ProviderError, SttConfig, SttProvider, SttResult,
    },
    telemetry::Metrics,
    testing::{Fault, RecordingHooks, Script, ScriptedLlm, ScriptedStt, ScriptedTts, Speech},
};

use crate::harness::Cast;

const ANSWER: &str = "The first sentence is spoken here. The second one comes after it in full.";

fn fault(kind: ErrorKind) -> Fault {
    kind.into()
}

/// The turn fails with `failure`, says nothing after it, leaves `history`, and the next turn works.
async fn check(mut cast: Cast, failure: &str, history: &[&str]) {
    cast.config.timeouts.turn = Duration::from_secs(60);
    let mut call = cast.call();
    call.say();
    call.until(failure).await;
    let words = call.words();
    let starts = words.iter().filter(|word| **word == "tts-start").count();
    let cancels = words
        .iter()
        .filter(|word| word.starts_with("tts-cancelled"))
        .count();
    assert_eq!(starts, cancels, "an open tts-start is closed: {words:?}");
    call.say();
    call.until("completed").await;
    let remembered = call.end();
    assert_eq!(remembered[..history.len()], *history);
    assert_eq!(remembered.len(), history.len() + 2, "{remembered:?}");
}

fn good_after(bad: Script<LlmChunk>, times: usize) -> ScriptedLlm {
    let mut llm = ScriptedLlm::new();
    for _ in 0..times {
        llm = llm.then(bad.clone());
    }
    llm.always(Script::answer(ANSWER))
}

#[tokio::test(start_paused = true)]
async fn a_failed_turn_leaves_no_trace_in_history() {
    let refused = Script::refuse(fault(ErrorKind::Authentication));
    check(
        Cast::new("Q", "").llm(good_after(refused, 1)),
        "failed:llm",
        &[],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_hung_model_is_given_up() {
    check(
        Cast::new("Q", "").llm(good_after(Script::silent(), 3)),
        "failed:llm",
        &[],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_model_that_stalls_mid_answer_is_given_up() {
    let stalls = Script::new()
        .say("The first sentence is spoken here. And then")
        .hang();
    let heard = "assistant:The first sentence is spoken here. [cut]";
    check(
        Cast::new("Q", "").llm(good_after(stalls, 1)),
        "failed:llm",
        &["user:Q", heard],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_hung_transcription_is_given_up_and_the_next_utterance_works() {
    let stt = ScriptedStt::new()
        .then(Script::silent())
        .always(Script::transcript("Q"));
    check(Cast::new("", ANSWER).stt(stt), "failed:stt", &[]).await;
}

#[tokio::test(start_paused = true)]
async fn a_voice_that_fails_altogether_fails_the_turn_as_tts() {
    let mut tts = ScriptedTts::new();
    for _ in 0..6 {
        tts = tts.then(Speech::refuse(fault(ErrorKind::Authentication)));
    }
    check(Cast::new("Q", ANSWER).tts(tts), "failed:tts", &[]).await;
}

#[tokio::test(start_paused = true)]
async fn a_hung_voice_is_given_up() {
    let mut tts = ScriptedTts::new();
    for _ in 0..6 {
        tts = tts.then(Speech::silent());
    }
    check(Cast::new("Q", ANSWER).tts(tts), "failed:tts", &[]).await;
}

#[tokio::test(start_paused = true)]
async fn transient_failures_are_retried_before_anything_was_delivered() {
    for kind in [
        ErrorKind::RateLimited,
        ErrorKind::Unavailable,
        ErrorKind::Connect,
    ] {
        let hooks = RecordingHooks::new();
        let observers = Observers::new(vec![hooks.clone()], Metrics::noop());
        let llm = good_after(Script::refuse(fault(kind)), 2);
        let mut call = Cast::new("Q", "")
            .llm(llm)
            .observers(observers.clone())
            .call();
        call.text("Q");
        call.until("completed").await;
        assert_eq!(call.cast.llm.requests().len(), 3);
        observers.flush(Duration::from_secs(1)).await;
        let retries = hooks
            .names()
            .iter()
            .filter(|name| **name == "retry")
            .count();
        assert_eq!(retries, 2, "{kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_asked_twice_once_something_was_delivered() {
    let dies = Script::new()
        .say("Half an answer")
        .fail(fault(ErrorKind::Disconnected));
    let mut call = Cast::new("Q", "").llm(good_after(dies, 1)).call();
    call.text("Q");
    call.until("failed:llm").await;
    assert_eq!(call.cast.llm.requests().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn one_lost_sentence_does_not_end_the_answer() {
    let tts = ScriptedTts::new()
        .then(Speech::normal())
        .then(Speech::normal().fails_after(2, fault(ErrorKind::Disconnected)))
        .always(Speech::normal());
    let answer =
        "The first sentence is here. The second will be cut short. The third is fine again.";
    let mut call = Cast::new("Q", answer).tts(tts).call();
    call.text("Q");
    call.until("completed").await;
    assert_eq!(call.cast.tts.texts().len(), 3, "never spoken twice");
    let output = &call.sink.outputs()[0];
    assert_eq!(output.written_duration(1), Duration::from_millis(200));
    assert!(output.written_duration(2) > Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_voice_that_cannot_stream_now_speaks_in_one_piece() {
    let tts = ScriptedTts::new()
        .then(Speech::refuse(fault(ErrorKind::InvalidRequest)))
        .always(Speech::normal());
    let mut call = Cast::new("Q", "Only this.").tts(tts).call();
    call.text("Q");
    call.until("completed").await;
    assert_eq!(call.cast.tts.texts(), ["Only this.", "Only this."]);
}

#[tokio::test(start_paused = true)]
async fn the_whole_turn_has_a_deadline() {
    // Dribbles below every idle limit.
    let mut script = Script::new();
    for _ in 0..100 {
        script = script
            .wait(Duration::from_secs(10))
            .item(LlmChunk::Reasoning("hm".into()));
    }
    let mut call = Cast::new("Q", "").answers(script).call();
    call.text("Q");
    call.until("failed:server").await;
    assert_eq!(call.log.last().unwrap().0, Duration::from_secs(180));
}

#[tokio::test(start_paused = true)]
async fn a_sleeping_observer_changes_nothing() {
    struct Sleeper;
    #[async_trait::async_trait]
    impl llmrtc_core::hooks::Hooks for Sleeper {
        async fn on_event(
            &self,
            _: &llmrtc_core::hooks::TurnContext,
            _: &llmrtc_core::hooks::HookEvent,
        ) -> Result<(), llmrtc_core::provider::BoxError> {
            std::future::pending().await
        }
    }
    let timed = async |observers| {
        let mut call = Cast::new("Q", ANSWER).observers(observers).call();
        call.say();
        call.until("completed").await;
        call.log.last().unwrap().0
    };
    let alone = timed(Observers::none()).await;
    let watched = timed(Observers::new(vec![Arc::new(Sleeper)], Metrics::noop())).await;
    assert_eq!(alone, watched);
}

/// Panics at the first utterance.
struct Buggy(std::sync::atomic::AtomicBool);

#[async_trait]
impl SttProvider for Buggy {
    fn name(&self) -> &str {
        "buggy"
    }

    async fn transcribe(
        &self,
        _: Utterance,
        _: &SttConfig,
        _: &CallContext,
    ) -> Result<SttResult, ProviderError> {
        let fixed = self.0.swap(true, std::sync::atomic::Ordering::Relaxed);
        assert!(fixed, "a bug in an adapter");
        Ok(SttResult {
            text: "Q".into(),
            is_final: true,
            ..SttResult::default()
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_panicking_transcription_fails_its_turn_and_not_the_session() {
    let mut call = Cast::new("", "Yes.").listener(Buggy(false.into())).call();
    call.say();
    call.until("failed:stt").await;
    call.say();
    call.until("completed").await;
}
