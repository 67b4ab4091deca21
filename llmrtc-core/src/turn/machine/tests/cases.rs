//! Situations that are easy to get wrong.

use super::*;
use crate::turn::sentence::{Segment, SentenceChunker};

const SECOND: Duration = Duration::from_secs(1);

/// Has `word` among `words`.
#[track_caller]
fn assert_has(words: &[String], word: &str) {
    assert!(
        words.iter().any(|said| said == word),
        "no {word:?} in {words:?}"
    );
}

#[track_caller]
fn assert_lacks(words: &[String], start: &str) {
    assert!(
        !words.iter().any(|said| said.starts_with(start)),
        "{start:?} in {words:?}"
    );
}

fn history(bench: &Bench) -> Vec<String> {
    let snapshot = bench.machine.snapshot();
    snapshot
        .messages()
        .map(|message| message.text().to_owned())
        .collect()
}

// ── Carried words and images ──────────────────────────────────────────────────────────────────────────────────────

#[test]
fn words_that_wait_are_joined_and_not_replaced() {
    let mut bench = Bench::new();
    bench.say();
    bench.speak();
    // Typed while the caller speaks again and the first utterance is still being transcribed.
    assert_has(&bench.text("typed"), "ask 3: typed");
    bench.heard(1, "first");
    bench.ended();
    let words = bench.heard(2, "second");
    assert_has(&words, "ask 2: typed first second");
}

#[test]
fn images_of_an_utterance_that_is_carried_come_with_its_words() {
    let mut bench = Bench::new();
    bench.speak();
    bench.wait(SECOND);
    bench.give(Input::Images(vec![image("menu")]));
    bench.ended();
    bench.wait(SECOND);
    bench.speak();
    bench.heard(1, "first");
    bench.wait(SECOND);
    bench.give(Input::Images(vec![image("wine list")]));
    bench.ended();
    let asked = bench.heard(2, "second");
    assert_has(
        &asked,
        "ask 2: first second\n[image: menu]\n[image: wine list]",
    );
}

#[test]
fn typed_messages_neither_take_nor_await_images_of_speech() {
    let mut bench = Bench::new();
    bench.give(Input::Images(vec![image("stale")]));
    bench.wait(60 * SECOND);
    assert_has(&bench.text("typed"), "ask 1: typed");
}

#[test]
fn an_upload_leaves_images_to_the_utterance_being_spoken() {
    let mut bench = Bench::new();
    bench.give(Input::Images(vec![image("view")]));
    bench.give(uploaded());
    assert_has(&bench.heard(1, "uploaded"), "ask 1: uploaded");
    bench.say();
    let words = bench.heard(2, "What is this?");
    assert_has(&words, "ask 2: uploaded What is this?\n[image: view]");
}

#[test]
fn what_waits_for_an_answer_has_a_bound() {
    let mut bench = Bench::new();
    let mut asked = Vec::new();
    for job in 1..=100 {
        bench.give(Input::Images(vec![image("x"), image("y"), image("z")]));
        bench.say();
        asked = bench.heard(job, &"wörd ".repeat(1_000));
    }
    let question = asked.iter().find(|word| word.starts_with("ask")).unwrap();
    assert!(question.len() < 70_000, "{}", question.len());
    assert_eq!(question.matches("[image").count(), 8);
}

#[test]
fn a_blank_message_interrupts_nobody_and_its_images_are_kept() {
    let mut bench = Bench::new();
    bench.text("question");
    let words = bench.told(Input::Text {
        text: " ".into(),
        attachments: vec![image("view")],
        policy: TextPolicy::Interrupt,
    });
    assert_eq!(words, ["turn 2", "2 empty"]);
    bench.say();
    let asked = bench.heard(1, "And this?");
    assert_has(&asked, "ask 3: question And this?\n[image: view]");
}

// ── Queued texts ──────────────────────────────────────────────────────────────────────────────────────────────────

/// An answer that is spoken to its end: what came of the end.
fn speak_out(bench: &mut Bench, turn: u64) -> Vec<String> {
    bench.llm(turn, "Yes.");
    bench.end(turn, StopReason::EndTurn);
    bench.audio(turn, 0, SECOND);
    bench.segment(turn, 0);
    bench.drained(turn)
}

#[test]
fn a_queued_text_is_answered_after_a_misfire() {
    let mut bench = Bench::new();
    bench.text("first");
    bench.queue("second");
    bench.onset();
    assert_lacks(&speak_out(&mut bench, 1), "ask");
    assert_has(&bench.misfire(), "ask 2: second");
}

#[test]
fn a_queued_text_is_answered_when_the_output_closes() {
    let mut bench = Bench::new();
    bench.text("first");
    bench.queue("second");
    let closed = bench.told(Input::OutputClosed { turn: TurnId(1) });
    assert_has(&closed, "1 interrupted");
    assert!(
        closed.iter().any(|word| word.starts_with("ask 2: ")),
        "{closed:?}"
    );
}

#[test]
fn a_blank_queued_text_does_not_block_the_next() {
    let mut bench = Bench::new();
    bench.text("first");
    bench.queue(" ");
    bench.queue("third");
    assert_has(&speak_out(&mut bench, 1), "ask 3: third");
}

#[test]
fn a_queued_text_does_not_talk_over_the_caller() {
    let mut bench = Bench::new();
    bench.speak();
    assert_eq!(bench.queue("later"), [""; 0]);
    bench.ended();
    bench.heard(1, "question");
    assert_has(&speak_out(&mut bench, 1), "ask 2: later");
}

#[test]
fn a_failed_response_does_not_run_its_tools_in_the_next_turn() {
    let mut bench = Bench::new();
    bench.text("first");
    bench.queue("second");
    bench.call(1, "same");
    bench.call(1, "same");
    let words = bench.end(1, StopReason::ToolUse);
    assert_eq!(
        words,
        [
            "abandon 1",
            "1 failed: llm",
            "turn 2",
            "transcript second",
            "ask 2: second"
        ]
    );
}

// ── Tools ─────────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_tool_that_never_started_does_not_end() {
    let mut bench = Bench::new();
    bench.text("question");
    bench.call(1, "a");
    bench.call(1, "b");
    bench.end(1, StopReason::ToolUse);
    assert_eq!(bench.tool_started(1, "a"), ["tool-start a"]);
    let words = bench.told(Input::Interrupt);
    assert_eq!(words, ["abandon 1", "tool-end a", "1 interrupted"]);
    assert_eq!(history(&bench).len(), 4, "both calls have a result");
}

#[test]
fn calls_beyond_the_limit_never_run() {
    let mut bench = Bench::with(TurnConfig {
        max_tool_rounds: 1,
        ..TurnConfig::default()
    });
    bench.text("question");
    bench.call(1, "a");
    bench.end(1, StopReason::ToolUse);
    bench.tool_started(1, "a");
    bench.tool_done(1, "a");
    bench.call(1, "b");
    let words = bench.end(1, StopReason::ToolUse);
    assert_lacks(&words, "run");
    assert_has(&words, "say 0: Sorry, I can't help with that.");
}

#[test]
fn a_filter_takes_back_only_what_it_filtered() {
    let mut bench = Bench::new();
    bench.text("question");
    let lead =
        "The first sentence is here. The second sentence is here. The third sentence is here.";
    bench.llm(1, lead);
    bench.call(1, "a");
    bench.end(1, StopReason::ToolUse);
    bench.tool_started(1, "a");
    bench.tool_done(1, "a");
    bench.llm(1, " Something that must not be said.");
    let words = bench.end(1, StopReason::ContentFilter);
    assert_has(
        &words,
        &format!("llm {lead} Sorry, I can't help with that."),
    );
    bench.audio(1, 0, SECOND);
    for segment in 0..4 {
        bench.segment(1, segment);
    }
    assert_has(&bench.drained(1), "1 completed");
    let history = history(&bench);
    assert_eq!(history[1], lead);
    assert_eq!(history[3], " Sorry, I can't help with that.");
}

#[test]
fn an_overflow_that_comes_as_a_failure_is_treated_like_one_that_does_not() {
    let mut bench = Bench::new();
    bench.text("first");
    speak_out(&mut bench, 1);
    bench.text("second");
    let overflow = || Input::LlmFailed {
        turn: TurnId(2),
        error: ProviderError::new(ErrorKind::ContextOverflow, "vendor", "too long"),
    };
    assert_eq!(bench.told(overflow()), ["ask 2: second"]);
    assert_has(&bench.told(overflow()), "2 failed: llm");
}

#[test]
fn an_overflow_with_nothing_to_forget_is_a_failure() {
    let mut bench = Bench::new();
    bench.text("much too long");
    let words = bench.end(1, StopReason::ContextOverflow);
    assert_eq!(words, ["abandon 1", "1 failed: llm"]);
}

// ── Speech ────────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn an_answer_of_which_nothing_could_be_spoken_is_a_failure() {
    let mut bench = Bench::new();
    bench.text("question");
    bench.llm(1, "The only sentence is here. ");
    bench.wait(SECOND);
    bench.tick();
    assert_eq!(bench.segment_lost(1, 0), [""; 0]);
    let words = bench.end(1, StopReason::EndTurn);
    assert_has(&words, "1 failed: tts");
}

#[test]
fn an_answer_does_not_talk_over_the_caller() {
    let mut bench = Bench::new();
    bench.speak();
    bench.text("typed");
    bench.llm(2, "Yes.");
    let words = bench.end(2, StopReason::EndTurn);
    assert_has(&words, "hold");
    bench.audio(2, 0, SECOND);
    bench.segment(2, 0);
    // However long the caller speaks, the answer has not been heard.
    bench.wait(600 * SECOND);
    assert_eq!(bench.tick(), [""; 0]);
    assert_eq!(bench.machine.deadline(), None);
    assert_lacks(&bench.ended(), "release");
    let words = bench.heard(1, "");
    assert_eq!(words, ["transcript ", "1 empty", "release"]);
    assert_eq!(bench.machine.deadline(), Some(bench.now + 31 * SECOND));
    assert_has(&bench.drained(2), "2 completed");
}

#[test]
fn a_held_answer_goes_on_when_transcription_fails() {
    let mut bench = Bench::new();
    bench.speak();
    bench.text("typed");
    bench.ended();
    bench.llm(2, "Yes.");
    bench.end(2, StopReason::EndTurn);
    let words = bench.told(Input::Transcribed {
        job: SttJob(1),
        result: Err(failure()),
    });
    assert_eq!(words, ["1 failed: stt", "release"]);
}

#[test]
fn a_long_answer_may_take_longer_to_play_than_a_turn_to_make() {
    let mut bench = Bench::new();
    bench.text("Tell me a story.");
    bench.llm(1, "Once upon a time.");
    bench.end(1, StopReason::EndTurn);
    // Synthesis waits for playout, so its audio comes in real time.
    for second in 0..300 {
        let words = bench.audio(1, 0, SECOND);
        assert_lacks(&words, "1 failed");
        bench.wait(SECOND);
        assert_eq!(bench.tick(), [""; 0], "after {second} s");
    }
    bench.wait(600 * SECOND);
    assert_has(&bench.tick(), "1 failed: server");
}

/// Always has something to do and never does it.
#[derive(Debug)]
struct Restless(Instant);

impl SentenceChunker for Restless {
    fn push(&mut self, _: &str, _: Instant, _: &mut Vec<Segment>) {}
    fn tick(&mut self, _: Instant, _: &mut Vec<Segment>) {}
    fn deadline(&self) -> Option<Instant> {
        Some(self.0)
    }
    fn flush(&mut self, _: &mut Vec<Segment>) -> std::ops::Range<usize> {
        0..0
    }
    fn reset(&mut self) {}
}

#[test]
fn a_tick_that_changes_nothing_is_not_repeated_for_ever() {
    let start = Instant::now();
    let mut bench = Bench::from(Machine::new(
        Arc::new(TurnConfig::default()),
        LlmCapabilities::default(),
        false,
        Some(Arc::new(move || Box::new(Restless(start)))),
        None,
    ));
    bench.text("question");
    bench.llm(1, "words");
    bench.now = bench.now.max(start) + SECOND;
    bench.tick();
    assert!(bench.machine.deadline().unwrap() > bench.now);
}

// ── Turns and their ends ──────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_dropped_utterance_ends_when_it_is_dropped() {
    let mut bench = Bench::new();
    bench.say();
    bench.say();
    bench.speak();
    bench.wait(SECOND);
    let last_voice = bench.now;
    let dropped = bench.give(Input::Speech(ended(last_voice)));
    let ends: Vec<_> = dropped
        .iter()
        .filter_map(|action| match action {
            Action::Emit(TurnEvent::TurnEnded { turn, timing, .. }) => Some((turn.0, timing.ended)),
            _ => None,
        })
        .collect();
    assert_eq!(ends, [(1, Some(bench.now))]);
}

#[test]
fn what_was_heard_to_the_end_is_not_marked_as_cut() {
    let mut bench = Bench::new();
    bench.text("question");
    bench.llm(1, "Yes.");
    bench.end(1, StopReason::EndTurn);
    bench.audio(1, 0, SECOND);
    bench.segment(1, 0);
    bench.played = Some(Played {
        segment: 0,
        within: SECOND,
    });
    bench.onset();
    assert_eq!(
        bench.confirm()[..3],
        ["abandon 1", "tts-cancelled Yes.", "1 interrupted"]
    );
    let snapshot = bench.machine.snapshot();
    let cut = snapshot
        .messages()
        .any(|message| matches!(message, Message::Assistant { interrupted, .. } if *interrupted));
    assert!(!cut);
}

// ── A peer that disappears ────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_lost_peer_closes_what_the_caller_had_begun() {
    let mut bench = Bench::new();
    bench.speak();
    let words = bench.told(Input::SourceLost);
    assert_has(&words, "speech-end");
    assert_has(&words, "1 cancelled");
    // The next peer begins afresh, and texts do not wait for the end of an utterance that never comes.
    bench.onset();
    bench.told(Input::SourceLost);
    assert_has(&bench.text("typed"), "ask 2: typed");
}
