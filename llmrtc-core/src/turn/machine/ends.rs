//! How turns end.

use std::{sync::Arc, time::Duration};

use super::{
    Action, Machine, Moment, TextPolicy,
    answer::{Active, ToolState},
    ears::Ears,
    ended,
    transcripts::Question,
};
use crate::{
    guardrail::Refusal,
    history::Exchange,
    provider::ProviderError,
    tool::{FailureCategory, ToolFailure},
    turn::{Component, Outcome, TurnError, TurnEvent, TurnTiming, sentence::heard_text},
};

impl Machine {
    pub(super) fn tick(&mut self, at: Moment, out: &mut Vec<Action>) {
        let Some(active) = &mut self.active else {
            return;
        };
        if active.due().is_some_and(|due| at.now >= due) {
            if active.drained_by.is_some() {
                self.complete(at, out);
            } else {
                self.fail(TurnError::Deadline, at, out);
            }
            return;
        }
        if active.images_until.is_some_and(|until| at.now >= until) {
            self.ask_with_images(at, out);
            return;
        }
        if active.chunker_due().is_some_and(|due| at.now >= due) {
            active.ticked = Some(at.now);
            active.chunk(|chunker, segments| chunker.tick(at.now, segments));
            self.pump(at, out);
        }
    }

    pub(super) fn complete(&mut self, at: Moment, out: &mut Vec<Action>) {
        let Some(mut active) = self.active.take() else {
            return;
        };
        let turn = active.turn;
        if active.speaking {
            out.push(Action::Emit(TurnEvent::SpeechEnded { turn }));
        }
        out.push(Action::Abandon { turn });
        let outcome = match active.aside {
            Some(outcome) => outcome,
            None => {
                active
                    .exchange
                    .finish(&active.text[active.journalled..], false);
                self.commit(active.exchange);
                Outcome::Completed
            }
        };
        out.push(ended(turn, outcome, active.timing, at.now));
        self.next_queued(at, out);
    }

    /// Ends the running turn because something else is to be heard.
    pub(super) fn interrupt(&mut self, at: Moment, out: &mut Vec<Action>) {
        let Some(active) = self.active.take() else {
            return;
        };
        let (turn, timing) = (active.turn, active.timing);
        let heard = self.cut(active, at, true, out);
        out.push(ended(turn, Outcome::Interrupted { heard }, timing, at.now));
    }

    /// A guardrail stopped the answer: what is queued is dropped, what was heard is committed, and its own words follow
    /// as a turn of their own, because news of this one may still be under way (GR4).
    pub(super) fn refused(&mut self, refusal: Refusal, at: Moment, out: &mut Vec<Action>) {
        let Some(active) = self.active.take() else {
            return;
        };
        let (turn, timing) = (active.turn, active.timing);
        self.cut(active, at, false, out);
        let outcome = Outcome::Blocked { by: refusal.by };
        out.push(ended(turn, outcome, timing, at.now));
        match refusal.say {
            Some(words) if !words.trim().is_empty() => {
                let turn = self.new_turn(out);
                let timing = TurnTiming {
                    decided: Some(at.now),
                    ..TurnTiming::default()
                };
                self.say_aside(turn, &words, Outcome::Completed, timing, at, out);
            }
            _ => self.next_queued(at, out),
        }
    }

    /// A typed message was refused.
    pub(super) fn text_refused(&mut self, refusal: Refusal, at: Moment, out: &mut Vec<Action>) {
        self.interrupt(at, out);
        let turn = self.new_turn(out);
        let timing = TurnTiming {
            decided: Some(at.now),
            ..TurnTiming::default()
        };
        self.say_refusal(turn, refusal, timing, at, out);
    }

    pub(super) fn fail_provider(
        &mut self,
        component: Component,
        source: ProviderError,
        at: Moment,
        out: &mut Vec<Action>,
    ) {
        self.fail(TurnError::Provider { component, source }, at, out);
    }

    pub(super) fn fail(&mut self, error: TurnError, at: Moment, out: &mut Vec<Action>) {
        let Some(active) = self.active.take() else {
            return;
        };
        let (turn, timing) = (active.turn, active.timing);
        self.cut(active, at, false, out);
        out.push(ended(
            turn,
            Outcome::Failed(Arc::new(error)),
            timing,
            at.now,
        ));
        self.next_queued(at, out);
    }

    /// Stops everything of a turn and commits what was heard (B2–B5). With nothing heard and nothing done there is
    /// nothing to commit; the question then waits for the caller's next words if `carry`.
    fn cut(
        &mut self,
        mut active: Active,
        at: Moment,
        carry: bool,
        out: &mut Vec<Action>,
    ) -> Arc<str> {
        let turn = active.turn;
        out.push(Action::Abandon { turn });
        let heard: Arc<str> =
            heard_text(&active.text, &active.spans, at.played.unwrap_or_default()).into();
        if active.speaking {
            out.push(Action::Emit(TurnEvent::SpeechCancelled {
                turn,
                heard: Arc::clone(&heard),
            }));
        }
        for (call, state) in &mut active.batch {
            if matches!(state, ToolState::Running) {
                let failure =
                    ToolFailure::new(FailureCategory::Cancelled, "cancelled: the caller spoke");
                out.push(Action::Emit(TurnEvent::ToolEnded {
                    turn,
                    call: call.clone(),
                    result: Err(failure.clone()),
                    duration: Duration::ZERO,
                }));
                *state = ToolState::Done(Err(failure));
            }
        }
        active.journal_tools();
        if active.aside.is_some() {
            return heard;
        }
        if !heard.trim().is_empty() || active.tools_ran {
            if active.text_done && heard.len() == active.text.trim_end().len() {
                active
                    .exchange
                    .finish(&active.text[active.journalled..], false);
            } else {
                active.exchange.finish(&heard, true);
            }
            self.commit(active.exchange);
        } else if carry {
            // Words may have come to wait while this question was being answered.
            let later = self.carried.take().unwrap_or_default();
            let question = Question::join(Some(active.question), &later.text, later.attachments);
            self.carried = Some(question);
        }
        heard
    }

    fn commit(&mut self, exchange: Exchange) {
        // What leaves the window is forgotten: there is no summariser.
        let _left = self.history.commit(exchange);
    }

    pub(super) fn next_queued(&mut self, at: Moment, out: &mut Vec<Action>) {
        while !self.would_queue()
            && let Some((text, attachments)) = self.queued.pop_front()
        {
            self.text(text, attachments, TextPolicy::Interrupt, at, out);
        }
    }

    /// The microphone is gone for good, in the middle of whatever was said.
    pub(super) fn deafen(&mut self, at: Moment, out: &mut Vec<Action>) {
        match std::mem::replace(&mut self.ears, Ears::Quiet) {
            Ears::Quiet => {}
            Ears::Onset { live, .. } => {
                out.extend(live.map(|job| Action::DropTranscription { job }));
            }
            Ears::Speaking {
                turn,
                live,
                speculative,
                ..
            } => {
                let jobs = live.into_iter().chain(speculative.map(|early| early.job));
                out.extend(jobs.map(|job| Action::DropTranscription { job }));
                out.push(Action::Emit(TurnEvent::UserSpeechEnded));
                out.push(ended(
                    turn,
                    Outcome::Cancelled,
                    TurnTiming::default(),
                    at.now,
                ));
            }
        }
    }

    pub(super) fn close(&mut self, at: Moment, out: &mut Vec<Action>) {
        self.queued.clear();
        self.deafen(at, out);
        for entry in std::mem::take(&mut self.transcribing) {
            out.push(Action::DropTranscription { job: entry.job });
            out.push(ended(entry.turn, Outcome::Cancelled, entry.timing, at.now));
        }
        self.interrupt(at, out);
        // The caller said it, so a resumed call knows it (B4).
        if let Some(question) = self.carried.take() {
            self.commit(Exchange::new(question.text.as_str(), question.attachments));
        }
    }
}
