//! Plain turns: order, pipelining, history (§2.3–2.4, §7.1, §7.9).

use std::{sync::Arc, time::Duration};

use llmrtc_core::{
    message::{Attachment, ImageSource, Message},
    provider::{LlmCapabilities, LlmChunk, StopReason},
    testing::{Script, ScriptedLlm, ScriptedTts, Speech},
    turn::{
        TextPolicy,
        sentence::{SpeechFilter, SplitterAdapter},
    },
};

use crate::harness::Cast;

#[tokio::test(start_paused = true)]
async fn a_spoken_turn_has_every_event_once_and_in_order() {
    let mut call = Cast::new("How are you?", "Fine, thanks. And you?").call();
    call.say();
    call.until("completed").await;
    assert_eq!(
        call.words(),
        [
            "speech-start",
            "speech-end",
            "transcript:How are you?",
            "delta",
            "llm:Fine, thanks. And you?",
            "tts-start",
            "tts-complete",
            "completed",
        ]
    );
    assert_eq!(call.cast.tts.texts(), ["Fine, thanks.", "And you?"]);
    assert_eq!(
        call.end(),
        ["user:How are you?", "assistant:Fine, thanks. And you?"]
    );
}

#[tokio::test(start_paused = true)]
async fn the_second_request_carries_the_first_exchange() {
    let mut call = Cast::new("One?", "First.").call();
    call.say();
    call.until("completed").await;
    call.say();
    call.until("completed").await;
    assert_eq!(
        call.request(),
        [
            "system:Be brief.",
            "user:One?",
            "assistant:First.",
            "user:One?"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn text_is_never_delayed_by_synthesis_or_playout() {
    // 173: an instant three-sentence model, a slow voice, playout in real time.
    let answer = "This is the first sentence. This is the second sentence. And this is the third.";
    let tts = ScriptedTts::new().always(Speech::normal().opens_after(Duration::from_millis(300)));
    let mut call = Cast::new("Go.", answer).tts(tts).call();
    call.text("Go.");
    call.until("completed").await;
    assert!(call.at(&format!("llm:{answer}")) < Duration::from_millis(50));
    // Two segments are synthesised side by side, so all three are requested before the first was played.
    assert_eq!(call.cast.tts.texts().len(), 3);
    let audio = Duration::from_millis(50) * 78;
    let spoken = call.at("tts-complete") - call.at("tts-start");
    assert!(
        spoken < audio + Duration::from_millis(100),
        "gaps between sentences: {spoken:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn speech_starts_before_the_text_is_complete() {
    let script = Script::answer("The first sentence is here. The second comes late.")
        .paced(Duration::from_millis(200));
    let mut call = Cast::new("Go.", "").answers(script).call();
    call.text("Go.");
    call.until("completed").await;
    assert!(
        call.at("tts-start") < call.at("llm:The first sentence is here. The second comes late.")
    );
}

#[tokio::test(start_paused = true)]
async fn a_blank_answer_is_not_spoken() {
    for answer in ["", "  \n"] {
        let mut call = Cast::new("Go.", answer).call();
        call.text("Go.");
        call.until("completed").await;
        assert!(!call.words().contains(&"tts-start"), "{:?}", call.words());
        assert_eq!(call.cast.tts.texts(), Vec::<String>::new());
    }
}

#[tokio::test(start_paused = true)]
async fn a_blank_transcript_asks_nobody() {
    for heard in ["", " \u{3000}\n"] {
        let mut call = Cast::new(heard, "Never.").call();
        call.say();
        call.until("empty").await;
        assert_eq!(
            call.words(),
            ["speech-start", "speech-end", "transcript:", "empty"]
        );
        assert!(call.cast.llm.requests().is_empty());
        assert_eq!(call.end(), Vec::<String>::new());
    }
}

#[tokio::test(start_paused = true)]
async fn without_streaming_the_answer_is_spoken_in_one_piece() {
    let mut call = Cast::new("Go.", "One sentence. Another one.")
        .config(|config| config.streaming_tts = false)
        .call();
    call.text("Go.");
    call.until("completed").await;
    assert_eq!(call.cast.tts.texts(), ["One sentence. Another one."]);
    assert!(call.words().contains(&"tts-complete"));
}

#[tokio::test(start_paused = true)]
async fn pieces_that_split_samples_are_rejoined() {
    let text = "A sentence that takes a while to say.";
    let tts = ScriptedTts::new().always(Speech::normal().odd_pieces());
    let mut call = Cast::new("Go.", text).tts(tts).call();
    call.text("Go.");
    call.until("completed").await;
    let outputs = call.sink.outputs();
    let written: Vec<i16> = outputs[0]
        .written
        .iter()
        .flat_map(|(_, audio)| audio.samples().to_vec())
        .collect();
    assert_eq!(written, ScriptedTts::audio_of(text).samples());
}

#[tokio::test(start_paused = true)]
async fn an_image_belongs_to_its_turn_and_leaves_with_it() {
    let image = Attachment {
        source: ImageSource::Inline {
            media_type: "image/png",
            data: "pixels".into(),
        },
        alt: Some("a cat".into()),
    };
    let sighted = LlmCapabilities {
        vision: true,
        ..LlmCapabilities::default()
    };
    let llm = ScriptedLlm::saying("A cat.").with_capabilities(sighted);
    let mut call = Cast::new("What is this?", "").llm(llm).call();
    call.speak();
    call.conversation.images(vec![image]);
    call.stop();
    call.until("completed").await;
    let with_image = |request: &llmrtc_core::provider::LlmRequest| {
        request.messages.iter().any(|message| {
            matches!(message, Message::User { attachments, .. } if attachments.iter().any(
                |image| matches!(image.source, ImageSource::Inline { .. })))
        })
    };
    assert!(with_image(&call.cast.llm.requests()[0]));
    call.say();
    call.until("completed").await;
    assert!(
        !with_image(&call.cast.llm.requests()[1]),
        "H5: image bytes are sent once"
    );
}

#[tokio::test(start_paused = true)]
async fn a_blind_model_is_given_the_alternative_text() {
    let image = Attachment {
        source: ImageSource::Inline {
            media_type: "image/png",
            data: "pixels".into(),
        },
        alt: Some("a cat".into()),
    };
    let mut call = Cast::new("", "Fine.").call();
    call.conversation
        .text("What is this?", vec![image], TextPolicy::Interrupt)
        .unwrap();
    call.until("completed").await;
    assert_eq!(call.request()[1], "user:[image: a cat]\nWhat is this?");
}

#[tokio::test(start_paused = true)]
async fn queued_texts_wait_for_their_turn_and_have_a_bound() {
    let mut call = Cast::new("", "Answer.").call();
    for text in ["One", "Two"] {
        call.conversation
            .text(text, Vec::new(), TextPolicy::Queue)
            .unwrap();
    }
    for _ in 0..15 {
        call.conversation
            .text("More", Vec::new(), TextPolicy::Queue)
            .unwrap();
    }
    assert!(
        call.conversation
            .text("Too many", Vec::new(), TextPolicy::Queue)
            .is_err()
    );
    call.until("completed").await;
    call.until("completed").await;
    let request = call.cast.llm.requests()[1].messages.clone();
    assert_eq!(request.last().map(Message::text), Some("Two"));
}

#[tokio::test(start_paused = true)]
async fn every_window_starts_with_the_user() {
    let mut call = Cast::new("Q", "A.").call();
    for _ in 0..20 {
        call.say();
        call.until("completed").await;
        let request = call.request();
        assert!(
            request[0].starts_with("system:") && request[1].starts_with("user:"),
            "{request:?}"
        );
        assert!(request.len() <= 10);
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_cap_ends_with_the_last_whole_sentence() {
    let script = Script::new()
        .say("The first sentence is whole. The second is cu")
        .item(LlmChunk::End(StopReason::MaxTokens));
    let mut call = Cast::new("Go.", "").answers(script).call();
    call.text("Go.");
    call.until("completed").await;
    assert_eq!(call.cast.tts.texts(), ["The first sentence is whole."]);
    assert_eq!(call.end()[1], "assistant:The first sentence is whole.");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_without_words_is_given_some() {
    let script = Script::new().item(LlmChunk::End(StopReason::Refusal));
    let mut call = Cast::new("Go.", "").answers(script).call();
    call.text("Go.");
    call.until("completed").await;
    assert_eq!(call.cast.tts.texts(), ["Sorry, I can't help with that."]);
}

#[tokio::test(start_paused = true)]
async fn an_exhausted_context_is_halved_and_asked_again_once() {
    let overflow = Script::new().item(LlmChunk::End(StopReason::ContextOverflow));
    let llm = ScriptedLlm::new()
        .then(Script::answer("One."))
        .then(Script::answer("Two."))
        .then(overflow)
        .then(Script::answer("Three."));
    let mut call = Cast::new("Q", "").llm(llm).call();
    for _ in 0..3 {
        call.text("Q");
        call.until("completed").await;
    }
    assert_eq!(
        call.request(),
        ["system:Be brief.", "user:Q", "assistant:Two.", "user:Q"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_resumed_conversation_remembers() {
    let mut first = Cast::new("My name is Ada.", "Hello Ada.").call();
    first.say();
    first.until("completed").await;
    let (history, _) = first.conversation.close();
    let mut cast = Cast::new("Who am I?", "Ada.");
    cast.history = Some(history);
    let mut second = cast.call();
    second.say();
    second.until("completed").await;
    assert_eq!(
        second.request(),
        [
            "system:Be brief.",
            "user:My name is Ada.",
            "assistant:Hello Ada.",
            "user:Who am I?"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_arrives_letter_by_letter_is_spoken_whole_and_in_order() {
    // 4, 5, 12: whatever the cuts, and without a final full stop.
    let reply =
        "The first sentence is this. The second sentence is that. And a third without an end";
    let mut script = Script::new();
    for letter in reply.chars() {
        script = script.item(LlmChunk::Text(letter.into()));
    }
    let script = script.item(LlmChunk::End(StopReason::EndTurn));
    let mut call = Cast::new("Go.", "").answers(script).call();
    call.text("Go.");
    call.until("completed").await;
    assert_eq!(
        call.cast.tts.texts(),
        [
            "The first sentence is this.",
            "The second sentence is that.",
            "And a third without an end"
        ]
    );
    let output = &call.sink.outputs()[0];
    let segments: Vec<_> = output.written.iter().map(|(segment, _)| *segment).collect();
    assert!(segments.is_sorted());
    // 9: a voice that states no rate speaks at 24 kHz.
    assert!(
        output
            .written
            .iter()
            .all(|(_, audio)| audio.rate().hz() == 24_000)
    );
}

#[tokio::test(start_paused = true)]
async fn punctuation_in_a_row_is_spoken_and_shown_as_it_is() {
    // 6.
    let mut call = Cast::new("Go.", "Wait... Really? Yes!").call();
    call.text("Go.");
    call.until("tts-complete").await;
    assert!(call.words().contains(&"llm:Wait... Really? Yes!"));
    assert_eq!(call.cast.tts.texts().join(" "), "Wait... Really? Yes!");
}

#[tokio::test(start_paused = true)]
async fn a_custom_splitter_cuts_the_answer() {
    // 24.
    let mut cast = Cast::new("Go.", "one thing, another thing, a last thing");
    cast.chunkers = Some(Arc::new(|| {
        let split = |text: &str| text.split_inclusive(',').map(str::to_owned).collect();
        Box::new(SplitterAdapter::new(split, SpeechFilter::Off))
    }));
    let mut call = cast.call();
    call.text("Go.");
    call.until("completed").await;
    assert_eq!(
        call.cast.tts.texts(),
        ["one thing,", "another thing,", "a last thing"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_queued_text_waits_for_the_caller_to_finish() {
    let mut call = Cast::new("Aloud", "Yes.").call();
    call.speak();
    for _ in 0..16 {
        let queued = call
            .conversation
            .text("Typed", Vec::new(), TextPolicy::Queue);
        assert!(queued.is_ok());
    }
    let refused = call
        .conversation
        .text("Too many", Vec::new(), TextPolicy::Queue);
    assert!(refused.is_err(), "a text that is not kept is refused");
    call.stop();
    call.until("completed").await;
    assert_eq!(call.request()[1], "user:Aloud");
    call.until("completed").await;
    assert_eq!(call.request().last().unwrap(), "user:Typed");
}
