//! Vendors that fail, hang and die, seen from the caller's end.

use llmrtc_providers::testing::FakeOpenAiOptions;
use llmrtc_signal::protocol::{ErrorCode, ServerMessage};

use crate::{
    harness::{Caller, Site, WORDS},
    vendor::{LLM, STT, Sabotage, TTS, Vendor},
};

/// Deadlines that a healthy vendor on the same busy machine meets.
const IMPATIENT: &str = r#"
    signal.audio_per_second = 1000
    signal.audio_per_minute = 60000
    turn.llm_attempts = 1
    [turn.timeouts]
    stt = "2s"
    llm_first = "2s"
    llm_idle = "2s"
    tts_first = "2s"
    tts_idle = "2s"
"#;

const REPLY: &str = "All is well.";

async fn fails(
    caller: &mut Caller,
    vendor: &Vendor,
    path: &'static str,
    how: Sabotage,
    expected: ErrorCode,
) {
    let before = caller.said.len();
    vendor.sabotage(path, Some(how));
    caller.send(WORDS.to_wav()).await;
    let (code, message) = caller.error().await;
    assert_eq!(code, expected, "{path} {how:?}");
    assert!(message.starts_with(code.sentence()), "{message}");
    for secret in ["canary", "vendor", "http", "openai", &vendor.address()] {
        assert!(!message.contains(secret), "{message}");
    }

    vendor.sabotage(path, None);
    let turn = caller.ask().await;
    assert_eq!(turn.reply, REPLY, "{path} {how:?}");
    let said = &caller.said[before..];
    let count =
        |wanted: fn(&ServerMessage) -> bool| said.iter().filter(|message| wanted(message)).count();
    assert_eq!(
        count(|message| matches!(message, ServerMessage::Error { .. })),
        1,
        "{caller:?}"
    );
    let started = count(|message| matches!(message, ServerMessage::TtsStart));
    let ended = count(|message| {
        matches!(
            message,
            ServerMessage::TtsComplete | ServerMessage::TtsCancelled
        )
    });
    assert_eq!(started, ended, "{caller:?}");
}

async fn with_each(path: &'static str, cases: &[(Sabotage, ErrorCode)]) {
    let vendor = Vendor::start(FakeOpenAiOptions::default().reply(REPLY)).await;
    let site = Site::start(vendor.config(IMPATIENT), None).await;
    let mut caller = site.call().await;
    for (how, expected) in cases {
        fails(&mut caller, &vendor, path, *how, *expected).await;
    }
}

#[tokio::test]
async fn transcription_that_fails_is_one_error_and_the_session_goes_on() {
    with_each(
        STT,
        &[
            (Sabotage::Hang, ErrorCode::SttTimeout),
            (Sabotage::Stall, ErrorCode::SttTimeout),
            (Sabotage::Refuse(401), ErrorCode::SttError),
            (Sabotage::Refuse(500), ErrorCode::SttError),
            (Sabotage::Die, ErrorCode::SttError),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_model_that_fails_is_one_error_and_the_session_goes_on() {
    with_each(
        LLM,
        &[
            (Sabotage::Hang, ErrorCode::LlmTimeout),
            (Sabotage::Stall, ErrorCode::LlmTimeout),
            (Sabotage::Refuse(401), ErrorCode::LlmError),
            (Sabotage::Refuse(429), ErrorCode::RateLimited),
            (Sabotage::Die, ErrorCode::LlmError),
        ],
    )
    .await;
}

#[tokio::test]
async fn synthesis_that_fails_is_one_error_and_the_session_goes_on() {
    with_each(
        TTS,
        &[
            (Sabotage::Hang, ErrorCode::TtsTimeout),
            (Sabotage::Refuse(401), ErrorCode::TtsError),
        ],
    )
    .await;
}

#[tokio::test]
async fn synthesis_that_breaks_off_costs_a_sentence_and_twice_in_a_row_the_turn() {
    let two = "It is a sunny morning here by the sea. We hope that it is where you are.";
    for how in [Sabotage::Stall, Sabotage::Die] {
        for (reply, fails) in [(REPLY, false), (two, true)] {
            let vendor = Vendor::start(FakeOpenAiOptions::default().reply(reply)).await;
            let site = Site::start(vendor.config(IMPATIENT), None).await;
            let mut caller = site.call().await;
            vendor.sabotage(TTS, Some(how));
            caller.send(WORDS.to_wav()).await;
            caller.until("tts-start").await;
            if fails {
                let (code, message) = caller.error().await;
                assert!(
                    matches!(code, ErrorCode::TtsError | ErrorCode::TtsTimeout),
                    "{code}"
                );
                assert!(message.starts_with(code.sentence()), "{message}");
                assert!(!caller.kinds().contains(&"tts-complete"), "{caller:?}");
                assert!(caller.kinds().contains(&"tts-cancelled"), "{caller:?}");
            } else {
                caller.until("tts-complete").await;
                assert!(!caller.kinds().contains(&"error"), "{caller:?}");
            }
            vendor.sabotage(TTS, None);
            caller.send(WORDS.to_wav()).await;
            caller.until("tts-start").await;
            caller.until_audible().await;
        }
    }
}

#[tokio::test]
async fn a_failure_after_a_spoken_question_leaves_the_microphone_working() {
    let vendor = Vendor::start(FakeOpenAiOptions::default().reply(REPLY)).await;
    let site = Site::start(vendor.config(IMPATIENT), None).await;
    let mut caller = site.call().await;
    vendor.sabotage(STT, Some(Sabotage::Refuse(401)));
    caller.say(&WORDS);
    assert_eq!(caller.error().await.0, ErrorCode::SttError);
    vendor.sabotage(STT, None);
    caller.turn().await;
}
