//! Interruptions in every phase (B1–B6, protocol.md §4.5).

use std::time::Duration;

use llmrtc_core::{
    speech::SpeechEvent,
    testing::{Script, ScriptedLlm, ScriptedStt, ScriptedTts, SinkAction, Speech},
};

use crate::harness::{Cast, utterance};

const ANSWER: &str = "The first sentence is spoken here. The second one comes after it in full.";

async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_heard_is_what_history_remembers() {
    // 174: at 40 % of the second segment.
    let mut call = Cast::new("Go.", ANSWER).call();
    call.say();
    call.until("tts-start").await;
    let first = Duration::from_millis(50) * 34;
    let second = Duration::from_millis(50) * 38;
    call.during(first + second.mul_f64(0.4)).await;
    call.speak();
    call.until("speech-start").await;
    let words = call.words();
    let cancelled = words
        .iter()
        .position(|word| word.starts_with("tts-cancelled"))
        .unwrap();
    assert_eq!(words[cancelled + 1..], ["interrupted", "speech-start"]);
    let heard = words[cancelled]
        .strip_prefix("tts-cancelled:")
        .unwrap()
        .to_owned();
    assert!(
        heard.starts_with("The first sentence is spoken here. The second"),
        "{heard}"
    );
    assert!(ANSWER.starts_with(&heard) && heard.len() < ANSWER.len());
    assert!(
        ANSWER[heard.len()..].starts_with(' '),
        "cut at a word: {heard:?}"
    );
    let history = call.end();
    assert_eq!(
        history,
        ["user:Go.".to_owned(), format!("assistant:{heard} [cut]")]
    );
}

#[tokio::test(start_paused = true)]
async fn noise_only_pauses_the_answer() {
    let mut call = Cast::new("Go.", ANSWER).call();
    call.say();
    call.until("tts-start").await;
    call.during(Duration::from_millis(500)).await;
    call.onset();
    let held = call.sink.outputs()[0].played;
    call.during(Duration::from_millis(200)).await;
    let after = call.sink.outputs()[0].played;
    assert!(
        after.within - held.within <= Duration::from_millis(20),
        "{held:?} {after:?}"
    );
    call.conversation.speech(SpeechEvent::Misfire);
    call.until("completed").await;
    assert!(
        !call
            .words()
            .iter()
            .any(|word| word.starts_with("tts-cancelled"))
    );
    let words = call.words();
    assert_eq!(
        words.iter().filter(|word| **word == "speech-start").count(),
        1
    );
    let actions: Vec<_> = call.sink.outputs()[0]
        .actions
        .iter()
        .map(|(_, action)| *action)
        .collect();
    // The answer is longer than the output may hold, so the rest of it is written after the pause.
    let expected = [SinkAction::Hold, SinkAction::Release, SinkAction::Finish];
    assert!(
        actions.len() >= 3
            && actions.iter().zip(&expected).all(|(is, should)| {
                std::mem::discriminant(is) == std::mem::discriminant(should)
            }),
        "{actions:?}"
    );
    assert_eq!(
        call.end(),
        ["user:Go.".to_owned(), format!("assistant:{ANSWER}")]
    );
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_begins_while_the_caller_coughs_is_held_back() {
    let llm =
        ScriptedLlm::new().always(Script::answer(ANSWER).opens_after(Duration::from_millis(100)));
    let mut call = Cast::new("Go.", "").llm(llm).call();
    call.say();
    call.until("transcript:Go.").await;
    call.onset();
    call.during(Duration::from_millis(200)).await;
    assert_eq!(call.sink.outputs()[0].played.within, Duration::ZERO);
    call.conversation.speech(SpeechEvent::Misfire);
    call.until("completed").await;
}

#[tokio::test(start_paused = true)]
async fn the_model_is_dropped_at_once_and_both_questions_are_answered_together() {
    let llm = ScriptedLlm::new()
        .then(Script::silent())
        .then(Script::answer("Both."));
    let stt = ScriptedStt::new()
        .then(Script::transcript("Book a table"))
        .then(Script::transcript("for two."));
    let mut call = Cast::new("", "").llm(llm).stt(stt).call();
    call.say();
    call.until("transcript:Book a table").await;
    settle().await;
    assert_eq!(call.cast.llm.ledger().counts().active(), 1);
    call.speak();
    settle().await;
    assert_eq!(
        call.cast.llm.ledger().counts().active(),
        0,
        "the request is gone"
    );
    call.stop();
    call.until("completed").await;
    assert!(
        !call
            .words()
            .iter()
            .any(|word| word.starts_with("tts-cancelled"))
    );
    assert_eq!(
        call.request(),
        ["system:Be brief.", "user:Book a table for two."]
    );
}

#[tokio::test(start_paused = true)]
async fn speech_during_transcription_keeps_the_first_words() {
    let slow = Script::transcript("First part").opens_after(Duration::from_millis(500));
    let stt = ScriptedStt::new()
        .then(slow)
        .then(Script::transcript("second part."));
    let mut call = Cast::new("", "Both.").stt(stt).call();
    call.say();
    call.during(Duration::from_millis(100)).await;
    call.speak();
    call.until("transcript:First part").await;
    call.stop();
    call.until("completed").await;
    assert_eq!(
        call.words(),
        [
            "speech-start",
            "speech-end",
            "speech-start",
            "transcript:First part",
            "cancelled",
            "speech-end",
            "transcript:second part.",
            "delta",
            "llm:Both.",
            "tts-start",
            "tts-complete",
            "completed",
        ]
    );
    assert_eq!(
        call.request(),
        ["system:Be brief.", "user:First part second part."]
    );
}

#[tokio::test(start_paused = true)]
async fn transcripts_stay_in_the_order_of_speech() {
    let slow = Script::transcript("slow").opens_after(Duration::from_millis(500));
    let stt = ScriptedStt::new()
        .then(slow)
        .then(Script::transcript("fast"));
    let mut call = Cast::new("", "Both.").stt(stt).call();
    call.say();
    call.say();
    call.until("completed").await;
    assert_eq!(call.request()[1], "user:slow fast");
}

#[tokio::test(start_paused = true)]
async fn a_question_survives_an_interruption_without_words() {
    let llm = ScriptedLlm::new()
        .then(Script::silent())
        .then(Script::answer("After all."));
    let stt = ScriptedStt::new()
        .then(Script::transcript("A question?"))
        .then(Script::transcript(""));
    let mut call = Cast::new("", "").llm(llm).stt(stt).call();
    call.say();
    call.until("transcript:A question?").await;
    call.say();
    call.until("completed").await;
    assert_eq!(call.request(), ["system:Be brief.", "user:A question?"]);
}

#[tokio::test(start_paused = true)]
async fn a_pause_starts_transcription_early_and_resumption_discards_it() {
    let stt = ScriptedStt::new()
        .then(Script::transcript("half").opens_after(Duration::from_millis(50)))
        .then(Script::transcript("whole").opens_after(Duration::from_millis(50)));
    let mut call = Cast::new("", "Yes.").stt(stt).call();
    call.speak();
    call.conversation.speech(SpeechEvent::Paused {
        utterance: utterance(),
    });
    call.during(Duration::from_millis(20)).await;
    call.conversation.speech(SpeechEvent::Resumed);
    call.during(Duration::from_millis(100)).await;
    call.conversation.speech(SpeechEvent::Paused {
        utterance: utterance(),
    });
    call.during(Duration::from_millis(300)).await;
    assert_eq!(
        call.words(),
        ["speech-start"],
        "a transcript never comes before the end of speech"
    );
    let before = call.log.len();
    call.stop();
    call.until("transcript:whole").await;
    assert_eq!(
        call.log[before].0,
        call.log.last().unwrap().0,
        "the text was there already"
    );
    call.until("completed").await;
    assert_eq!(call.cast.stt.utterances().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn cancelling_stops_synthesis_and_later_audio_goes_nowhere() {
    let tts = ScriptedTts::new().always(Speech::normal().paced(Duration::from_millis(90)));
    let mut call = Cast::new("Go.", ANSWER).tts(tts).call();
    call.say();
    call.until("tts-start").await;
    call.during(Duration::from_millis(500)).await;
    call.speak();
    settle().await;
    let outputs = call.sink.outputs();
    assert!(matches!(
        outputs[0].actions.last(),
        Some((_, SinkAction::Cancel(_)))
    ));
    assert_eq!(call.cast.tts.ledger().counts().active(), 0);
    let written = outputs[0].written.len();
    call.during(Duration::from_secs(2)).await;
    assert_eq!(call.sink.outputs()[0].written.len(), written);
}

#[tokio::test(start_paused = true)]
async fn an_upload_cancels_audible_speech_and_says_so() {
    let mut call = Cast::new("Go.", ANSWER).call();
    call.text("Go.");
    call.until("tts-start").await;
    call.conversation.upload(
        llmrtc_core::audio::EncodedAudio {
            data: "RIFF".into(),
            format: llmrtc_core::audio::AudioFormat::Wav,
            rate: None,
        },
        Vec::new(),
    );
    call.until("completed").await;
    let words = call.words();
    assert_eq!(words.iter().filter(|word| **word == "tts-start").count(), 2);
    assert_eq!(
        words
            .iter()
            .filter(|word| word.starts_with("tts-cancelled"))
            .count(),
        1
    );
    assert!(!words.contains(&"speech-start"));
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_uploads_does_not_become_a_flood_of_vendor_calls() {
    let stt = ScriptedStt::new().always(Script::silent());
    let mut call = Cast::new("", "Yes.").stt(stt).call();
    for _ in 0..50 {
        call.conversation.upload(
            llmrtc_core::audio::EncodedAudio {
                data: "RIFF".into(),
                format: llmrtc_core::audio::AudioFormat::Wav,
                rate: None,
            },
            Vec::new(),
        );
        settle().await;
        assert!(call.cast.stt.ledger().counts().active() <= 2);
    }
}

#[tokio::test(start_paused = true)]
async fn closing_commits_what_was_said() {
    let mut call = Cast::new("", "")
        .hears(Script::transcript("Remember this."))
        .call();
    call.cast.llm = ScriptedLlm::new();
    let llm = ScriptedLlm::new().always(Script::silent());
    let mut call = Cast {
        llm,
        ..call.cast.clone()
    }
    .call();
    call.say();
    call.until("transcript:Remember this.").await;
    assert_eq!(call.end(), ["user:Remember this."]);
}
