//! Conversations by voice.

use llmrtc_core::{
    message::Message,
    testing::{Script, ScriptedLlm, ScriptedStt},
};
use llmrtc_media::codec::wav::WavReader;
use llmrtc_providers::testing::FakeOpenAiOptions;
use llmrtc_signal::protocol::ServerMessage;

use crate::{
    harness::{Caller, SPEECH, Site, WORDS, providers, voice},
    vendor::{STT, Vendor},
};

/// An answer that nobody waits out: about 40 s.
fn long_answer() -> String {
    (1..=20)
        .map(|n| format!("This is sentence number {n} of many. "))
        .collect()
}

/// Every start has its end, in order.
fn assert_paired(caller: &Caller, open: &str, closed: &[&str]) {
    let mut is_open = false;
    for kind in caller.kinds() {
        if kind == open {
            assert!(!is_open, "{open} twice: {caller:?}");
            is_open = true;
        } else if closed.contains(&kind) {
            assert!(is_open, "{kind} without {open}: {caller:?}");
            is_open = false;
        }
    }
    assert!(!is_open, "{open} without an end: {caller:?}");
}

#[tokio::test]
async fn a_spoken_turn_against_an_openai_compatible_upstream() {
    let options = FakeOpenAiOptions::default()
        .transcript("What is the weather like?")
        .reply("It is sunny today. Take a walk!");
    let vendor = Vendor::start(options).await;
    let site = Site::start(vendor.config("turn.system_prompt = \"Be brief.\""), None).await;

    let mut caller = site.call().await;
    caller.say(&SPEECH);
    let turn = caller.answer().await;
    assert_eq!(turn.transcript, "What is the weather like?");
    assert_eq!(turn.reply, "It is sunny today. Take a walk!");

    let kinds = caller.kinds();
    let at = |kind| kinds.iter().position(|other| *other == kind).unwrap();
    for (before, after) in [
        ("speech-start", "speech-end"),
        ("speech-end", "transcript"),
        ("transcript", "llm-chunk"),
        ("llm-chunk", "llm"),
        ("transcript", "tts-start"),
        ("llm", "tts-complete"),
        ("tts-start", "tts-complete"),
    ] {
        assert!(at(before) < at(after), "{before} < {after}: {kinds:?}");
    }
    for kind in [
        "speech-start",
        "speech-end",
        "transcript",
        "llm",
        "tts-start",
        "tts-complete",
    ] {
        assert_eq!(
            kinds.iter().filter(|other| **other == kind).count(),
            1,
            "{kind}: {kinds:?}"
        );
    }
    let chunks = caller.said.iter().filter_map(|message| match message {
        ServerMessage::LlmChunk { content, done } => Some((content.as_str(), *done)),
        _ => None,
    });
    let chunks: Vec<_> = chunks.collect();
    let text: String = chunks.iter().map(|(content, _)| *content).collect();
    assert_eq!(text, turn.reply);
    let ends: Vec<_> = chunks.iter().map(|(_, done)| *done).collect();
    assert!(
        ends.ends_with(&[true]) && !ends[..ends.len() - 1].contains(&true),
        "{ends:?}"
    );
    assert!(chunks.len() > 2, "delivered as it was written");

    // Speculation may have asked more than once.
    let heard = vendor.bodies(STT).pop().unwrap();
    let start = heard
        .windows(4)
        .position(|bytes| bytes == b"RIFF")
        .expect("a WAV in the form");
    let wav = WavReader::new(heard.slice(start..)).unwrap();
    let utterance = wav.read_all();
    assert_eq!(utterance.rate().hz(), 16_000);
    let (said, taken) = (
        SPEECH.duration().as_secs_f64(),
        utterance.duration().as_secs_f64(),
    );
    assert!(
        (taken - said).abs() < 1.0,
        "{said} s said, {taken} s transcribed"
    );
    let [chat] = vendor.chats().try_into().unwrap();
    // The system prompt is followed by the tripwire, a line that must never be said.
    let [(system, prompt), user] = chat.try_into().unwrap();
    assert_eq!(system, "system");
    assert!(prompt.starts_with("Be brief.\n\n"), "{prompt}");
    assert_eq!(
        user,
        ("user".to_owned(), "What is the weather like?".to_owned())
    );
}

#[tokio::test]
async fn a_conversation_remembers_and_can_be_interrupted() {
    let stt = ScriptedStt::hearing("And now?");
    let llm = ScriptedLlm::new()
        .then(Script::answer("Good morning."))
        .then(Script::answer(&long_answer()))
        .always(Script::answer("As you wish."));
    let site = Site::with(providers(stt, llm.clone(), voice())).await;
    let mut caller = site.call().await;

    assert_eq!(caller.turn().await.reply, "Good morning.");
    caller.say(&WORDS);
    caller.until("tts-start").await;
    caller.until_audible().await;
    let before = caller.said.len();
    caller.say(&WORDS);
    caller.until("speech-start").await;
    let kinds = &caller.kinds()[before..];
    let cancelled = kinds.iter().position(|kind| *kind == "tts-cancelled");
    let started = kinds.iter().position(|kind| *kind == "speech-start");
    assert!(cancelled.is_some() && cancelled < started, "{kinds:?}");
    assert_eq!(caller.answer().await.reply, "As you wish.");
    // The interrupted answer would have gone on for longer than anybody waits here.
    caller.until_silent().await;
    assert_paired(&caller, "tts-start", &["tts-complete", "tts-cancelled"]);
    assert_paired(&caller, "speech-start", &["speech-end"]);

    let requests = llm.requests();
    assert_eq!(requests.len(), 3);
    let history = &requests[2].messages;
    let texts: Vec<_> = history.iter().map(Message::text).collect();
    assert_eq!(texts[1..4], ["And now?", "Good morning.", "And now?"]);
    let Message::Assistant {
        text,
        interrupted: true,
        ..
    } = &history[4]
    else {
        panic!("{:?}", history[4]);
    };
    assert!(
        !text.is_empty() && text.len() < long_answer().len() / 2,
        "only what was heard: {text}"
    );
    assert!(
        long_answer().starts_with(text.trim_end_matches(" [interrupted by the user]")),
        "{text}"
    );
    assert_eq!(texts[5..], ["And now?"]);
}

#[tokio::test]
async fn a_microphone_can_be_taken_away_and_shared_again() {
    let stt = ScriptedStt::hearing("Hello?");
    let site = Site::with(providers(stt, ScriptedLlm::saying("Yes."), voice())).await;
    let mut caller = site.call().await;

    caller.say(&SPEECH);
    caller.until("speech-start").await;
    caller.remove_microphone().await;
    // Long before the recording is over, and although nothing arrives any more.
    caller.until("speech-end").await;
    // By voice, which stays without a microphone.
    caller.answer().await;
    assert_paired(&caller, "speech-start", &["speech-end"]);

    for _ in 0..2 {
        caller.share_microphone().await;
        assert_eq!(caller.turn().await.reply, "Yes.");
        assert_paired(&caller, "speech-start", &["speech-end"]);
    }
}
