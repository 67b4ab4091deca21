//! Transcription while the caller speaks (§2.7, §4.4 of the protocol).

use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use llmrtc_core::{
    audio::{PcmChunk, SampleRate, Utterance},
    provider::{
        CallContext, ErrorKind, ProviderError, ProviderStream, StreamingStt, SttConfig,
        SttProvider, SttResult,
    },
    speech::SpeechEvent,
    testing::{Script, ScriptedStt},
};

use crate::harness::Cast;

fn live(stt: ScriptedStt) -> Cast {
    Cast::new("", "Yes.")
        .stt(stt.live())
        .config(|config| config.streaming_stt = true)
}

fn frame() -> SpeechEvent {
    SpeechEvent::Audio(PcmChunk::new(vec![1i16; 320], SampleRate::HZ_16000))
}

#[tokio::test(start_paused = true)]
async fn interim_text_comes_while_the_caller_speaks_and_finals_are_joined() {
    let script = Script::new()
        .interim("book")
        .interim("book a table")
        .finally(" Book a table ")
        .input_end()
        .finally("for two.");
    let mut call = live(ScriptedStt::new().always(script)).call();
    assert!(call.conversation.wants_live_audio());
    call.speak();
    for _ in 0..10 {
        call.conversation.speech(frame());
        call.during(Duration::from_millis(20)).await;
    }
    call.stop();
    call.until("completed").await;
    let words = call.words();
    assert_eq!(
        words[..7],
        [
            "speech-start",
            "interim:book",
            "interim:book a table",
            "interim:Book a table",
            "speech-end",
            "interim:Book a table for two.",
            "transcript:Book a table for two.",
        ]
    );
    assert_eq!(call.cast.stt.frames().len(), 10);
    assert_eq!(call.request()[1], "user:Book a table for two.");
}

#[tokio::test(start_paused = true)]
async fn a_live_failure_falls_back_to_the_whole_utterance() {
    let stt = ScriptedStt::new()
        .then(Script::new().fail(ErrorKind::Disconnected))
        .then(Script::transcript("All of it."));
    let mut call = live(stt).call();
    call.speak();
    call.conversation.speech(frame());
    call.during(Duration::from_millis(100)).await;
    call.stop();
    call.until("completed").await;
    assert_eq!(call.request()[1], "user:All of it.");
    assert_eq!(call.cast.stt.utterances().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_final_that_never_comes_falls_back_too() {
    let stt = ScriptedStt::new()
        .then(Script::new().interim("half").input_end().hang())
        .then(Script::transcript("All of it."));
    let mut call = live(stt).call();
    call.speak();
    call.conversation.speech(frame());
    call.stop();
    call.until("completed").await;
    assert_eq!(call.request()[1], "user:All of it.");
}

#[tokio::test(start_paused = true)]
async fn interim_text_alone_is_better_than_nothing() {
    let stt = ScriptedStt::new().always(Script::new().interim("only interim").input_end());
    let mut call = live(stt).call();
    call.speak();
    call.conversation.speech(frame());
    call.stop();
    call.until("completed").await;
    assert_eq!(call.request()[1], "user:only interim");
}

#[tokio::test(start_paused = true)]
async fn a_misfire_closes_the_stream_and_says_nothing() {
    let mut call = live(ScriptedStt::new().always(Script::transcript("never"))).call();
    call.onset();
    call.during(Duration::from_millis(50)).await;
    call.conversation.speech(SpeechEvent::Misfire);
    call.during(Duration::from_millis(50)).await;
    assert_eq!(call.cast.stt.ledger().counts().active(), 0);
    assert_eq!(call.words(), Vec::<&str>::new());
}

/// Takes the frames and never looks at them.
struct Deaf;

#[async_trait]
impl SttProvider for Deaf {
    fn name(&self) -> &str {
        "deaf"
    }

    async fn transcribe(
        &self,
        _: Utterance,
        _: &SttConfig,
        _: &CallContext,
    ) -> Result<SttResult, ProviderError> {
        Ok(SttResult {
            text: "All of it.".into(),
            is_final: true,
            ..SttResult::default()
        })
    }

    fn streaming(&self) -> Option<&dyn StreamingStt> {
        Some(self)
    }
}

#[async_trait]
impl StreamingStt for Deaf {
    async fn transcribe_stream(
        &self,
        _frames: BoxStream<'static, PcmChunk>,
        _: &SttConfig,
        _: &CallContext,
    ) -> Result<ProviderStream<SttResult>, ProviderError> {
        std::future::pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn a_vendor_that_never_reads_the_frames_is_given_up_too() {
    let mut call = live(ScriptedStt::new()).listener(Deaf).call();
    call.speak();
    call.conversation.speech(frame());
    call.stop();
    call.until("completed").await;
    assert_eq!(call.request()[1], "user:All of it.");
}

#[tokio::test(start_paused = true)]
async fn without_a_live_capability_the_whole_utterance_is_transcribed() {
    // 163.
    let mut call = Cast::new("All of it.", "Yes.")
        .config(|config| config.streaming_stt = true)
        .call();
    assert!(!call.conversation.wants_live_audio());
    call.say();
    call.until("completed").await;
    assert_eq!(call.request()[1], "user:All of it.");
    assert_eq!(call.cast.stt.utterances().len(), 1);
}
