//! Utterances sent as messages, by callers without a microphone.

use bytes::Bytes;
use llmrtc_core::{
    audio::SampleRate,
    testing::{Script, ScriptedLlm, ScriptedStt, ScriptedTts},
};
use llmrtc_providers::echo::{EchoConfig, EchoStt};
use llmrtc_signal::protocol::{ErrorCode, ServerMessage};

use crate::harness::{Caller, Site, WORDS, config, providers, voice};

/// Utterances in quick succession are part of these tests.
const UNLIMITED: &str = "signal.audio_per_second = 1000\nsignal.audio_per_minute = 60000";

/// The audio of all `tts-chunk` messages; they are what they claim to be.
fn chunks(caller: &Caller) -> Vec<u8> {
    let mut audio = Vec::new();
    for message in &caller.said {
        if let ServerMessage::TtsChunk {
            format,
            sample_rate,
            data,
        } = message
        {
            assert_eq!((format.name(), *sample_rate), ("pcm", Some(24_000)));
            assert!(
                data.len() <= 32 * 1024 && data.len().is_multiple_of(2),
                "{}",
                data.len()
            );
            audio.extend_from_slice(data);
        }
    }
    audio
}

#[tokio::test]
async fn without_a_microphone_the_reply_comes_as_chunks() {
    let stt = ScriptedStt::hearing("Anybody there?");
    let reply = "Nobody but us chickens.";
    let site = Site::with(providers(
        stt.clone(),
        ScriptedLlm::saying(reply),
        ScriptedTts::new(),
    ))
    .await;
    let mut caller = site.connect().await;
    let turn = caller.ask().await;
    assert_eq!(
        (turn.transcript.as_str(), turn.reply.as_str()),
        ("Anybody there?", reply)
    );
    assert_eq!(chunks(&caller), ScriptedTts::audio_of(reply).to_le_bytes());
    let kinds = caller.kinds();
    let at = |kind| kinds.iter().position(|other| *other == kind).unwrap();
    assert!(at("tts-start") < at("tts-chunk"), "{kinds:?}");
    assert_eq!(kinds.last(), Some(&"tts-complete"));
    assert!(
        !kinds.iter().any(|kind| kind.starts_with("speech-")),
        "{kinds:?}"
    );
    assert_eq!(stt.utterances()[0].size_bytes(), WORDS.to_wav().len());
}

#[tokio::test]
async fn once_a_microphone_is_shared_the_reply_is_heard() {
    let stt = ScriptedStt::hearing("Anybody there?");
    let site = Site::with(providers(stt, ScriptedLlm::saying("Yes."), voice())).await;
    let mut caller = site.call().await;
    // By ear.
    caller.ask().await;
    assert!(chunks(&caller).is_empty());
}

#[tokio::test]
async fn a_question_in_writing_is_read_back_and_answered() {
    let reply = "Paris.";
    let stt = ScriptedStt::new();
    let site = Site::with(providers(
        stt.clone(),
        ScriptedLlm::saying(reply),
        ScriptedTts::new(),
    ))
    .await;
    let mut caller = site.connect().await;
    let question = "What is the capital of France?";
    caller.call.send_text(question).await.unwrap();
    assert_eq!(caller.transcript().await, question);
    caller.until("tts-complete").await;
    assert_eq!(chunks(&caller), ScriptedTts::audio_of(reply).to_le_bytes());
    assert!(stt.utterances().is_empty(), "there was nothing to hear");
}

#[tokio::test]
async fn a_question_in_writing_interrupts_the_reply() {
    let llm = ScriptedLlm::new()
        .then(Script::answer(&"This goes on for very long. ".repeat(20)))
        .always(Script::answer("Fine."));
    let site = Site::with(providers(ScriptedStt::new(), llm, voice())).await;
    let mut caller = site.connect().await;
    caller.call.send_text("Tell me a story.").await.unwrap();
    caller.until("tts-chunk").await;
    caller.call.send_text("Stop.").await.unwrap();
    caller.until("tts-cancelled").await;
    assert_eq!(caller.transcript().await, "Stop.");
    caller.until("tts-complete").await;
}

#[tokio::test]
async fn the_next_message_interrupts_the_reply() {
    let llm = ScriptedLlm::new()
        .then(Script::answer(&"This goes on for very long. ".repeat(20)))
        .always(Script::answer("Fine."));
    let providers = providers(ScriptedStt::hearing("Stop."), llm, ScriptedTts::new());
    let site = Site::start(config(UNLIMITED), Some(providers)).await;
    let mut caller = site.connect().await;
    caller.send(WORDS.to_wav()).await;
    caller.until("tts-chunk").await;
    caller.send(WORDS.to_wav()).await;
    caller.until("tts-cancelled").await;
    assert_eq!(caller.answer().await.reply, "Fine.");
}

#[tokio::test]
async fn audio_that_is_none_is_refused_and_the_session_goes_on() {
    let providers = providers(
        ScriptedStt::hearing("Yes?"),
        ScriptedLlm::saying("Yes."),
        ScriptedTts::new(),
    );
    let site = Site::start(config(UNLIMITED), Some(providers)).await;
    let mut caller = site.connect().await;
    let garbage: [&[u8]; 4] = [b"", b"RIFF", b"not audio at all", &[0; 5_000]];
    for audio in garbage {
        caller.send(Bytes::copy_from_slice(audio)).await;
        assert_eq!(
            caller.error().await.0,
            ErrorCode::InvalidAudioFormat,
            "{audio:?}"
        );
    }
    assert_eq!(caller.ask().await.reply, "Yes.");
}

#[tokio::test]
async fn a_wav_that_lies_about_itself_harms_nobody() {
    // The echo transcribes whatever it is given.
    let providers = providers(
        EchoStt::new(EchoConfig::default()),
        ScriptedLlm::saying("Yes."),
        ScriptedTts::new(),
    );
    let site = Site::start(config(UNLIMITED), Some(providers)).await;
    let mut caller = site.connect().await;
    let wav = WORDS.to_wav();
    let with = |at: usize, bytes: &[u8]| {
        let mut lie = wav[..8_000].to_vec();
        lie[at..at + bytes.len()].copy_from_slice(bytes);
        lie
    };
    let lies = [
        // Sizes of the file and of its data: 4 GiB, nothing, odd.
        with(4, &[0xff; 4]),
        with(40, &[0xff; 4]),
        with(40, &[0; 4]),
        with(40, &[1, 0, 0, 0]),
        // No channels, no rate, an absurd rate, no bits.
        with(22, &[0; 2]),
        with(24, &[0; 4]),
        with(
            24,
            &SampleRate::HZ_48000.hz().wrapping_mul(99_999).to_le_bytes(),
        ),
        with(34, &[0; 2]),
        // Nothing but the beginning of a header.
        wav[..12].to_vec(),
        wav[..44].to_vec(),
    ];
    for (index, lie) in lies.into_iter().enumerate() {
        let before = caller.said.len();
        caller.send(lie).await;
        // Errors and transcripts are both fine; silence and a lost connection are not.
        caller.until_either("error", "transcript").await;
        for message in &caller.said[before..] {
            if let ServerMessage::Error { code, .. } = message {
                assert_eq!(*code, ErrorCode::InvalidAudioFormat, "lie {index}");
            }
        }
        caller.ask().await;
    }
}
