//! From what was said, typed or uploaded to a question.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Action, Machine, Moment, SttJob, TextPolicy, ears::Ears, ended};
use crate::{
    audio::{EncodedAudio, Utterance},
    guardrail::Refusal,
    id::TurnId,
    message::Attachment,
    provider::ProviderError,
    turn::{Component, Outcome, TurnError, TurnEvent, TurnTiming},
};

/// Utterances in transcription at a time. The caller cannot say a third before the first is understood, and a flood
/// of uploads must not become a flood of vendor calls. Full: the oldest is dropped.
const MAX_TRANSCRIBING: usize = 2;
/// Images that arrived this long before an utterance still belong to it.
const IMAGE_MAX_AGE: Duration = Duration::from_secs(10);
/// Images held for the next request. Full: the oldest is dropped, the newest view counts.
const MAX_PENDING_IMAGES: usize = 8;
/// Most text that may wait to be answered, in bytes: an hour of speech. Full: the oldest words are forgotten.
const MAX_QUESTION_BYTES: usize = 64 * 1024;

pub(super) type TranscriptResult = Result<(Arc<str>, Option<f32>), NoTranscript>;

/// Why there is no text to answer.
#[derive(Debug)]
pub(super) enum NoTranscript {
    /// The provider failed.
    Failed(ProviderError),
    /// A guardrail refused it.
    Refused(Refusal),
}

/// An utterance on its way to text.
pub(super) struct Transcribing {
    pub(super) turn: TurnId,
    pub(super) job: SttJob,
    /// When the utterance began, if it was spoken: images since then belong to it.
    pub(super) since: Option<Instant>,
    pub(super) timing: TurnTiming,
    /// Kept to try once more, buffered, when live transcription fails (RT2).
    pub(super) replay: Option<Utterance>,
    /// Images of an upload.
    pub(super) attachments: Vec<Attachment>,
    pub(super) result: Option<TranscriptResult>,
}

/// What the caller wants answered.
#[derive(Default)]
pub(super) struct Question {
    pub(super) text: String,
    pub(super) attachments: Vec<Attachment>,
}

impl Question {
    /// Two utterances as one question, images of both.
    pub(super) fn join(earlier: Option<Self>, text: &str, attachments: Vec<Attachment>) -> Self {
        let mut question = earlier.unwrap_or_default();
        let text = text.trim();
        let excess = (question.text.len() + text.len()).saturating_sub(MAX_QUESTION_BYTES);
        let forgotten = question.text.ceil_char_boundary(excess);
        question.text.drain(..forgotten);
        if !question.text.is_empty() && !text.is_empty() {
            question.text.push(' ');
        }
        question.text.push_str(text);
        let room = MAX_PENDING_IMAGES.saturating_sub(attachments.len());
        let stale = question.attachments.len().saturating_sub(room);
        question.attachments.drain(..stale);
        question.attachments.extend(attachments);
        question
    }
}

/// Images waiting for a request.
#[derive(Debug, Default)]
pub(super) struct Images {
    pub(super) pending: VecDeque<(Instant, Attachment)>,
    /// This client sends images with its utterances.
    pub(super) expected: bool,
}

impl Images {
    pub(super) fn add(&mut self, attachments: Vec<Attachment>, now: Instant) {
        self.expected |= !attachments.is_empty();
        for attachment in attachments {
            if self.pending.len() == MAX_PENDING_IMAGES {
                self.pending.pop_front();
            }
            self.pending.push_back((now, attachment));
        }
    }

    fn arrived_since(&self, since: Instant) -> bool {
        self.pending.iter().any(|(at, _)| *at >= since)
    }

    /// Those of this utterance; else recent ones. Whatever is left is stale and goes.
    fn take(&mut self, since: Instant, now: Instant) -> Vec<Attachment> {
        let from = if self.arrived_since(since) {
            since
        } else {
            now.checked_sub(IMAGE_MAX_AGE).unwrap_or(since)
        };
        self.pending
            .drain(..)
            .filter(|(at, _)| *at >= from)
            .map(|(_, image)| image)
            .collect()
    }
}

impl Machine {
    pub(super) fn text(
        &mut self,
        text: Arc<str>,
        attachments: Vec<Attachment>,
        policy: TextPolicy,
        at: Moment,
        out: &mut Vec<Action>,
    ) {
        if policy == TextPolicy::Queue && self.would_queue() {
            if !self.queue_is_full() {
                self.queued.push_back((text, attachments));
            }
            return;
        }
        let timing = TurnTiming {
            decided: Some(at.now),
            ..TurnTiming::default()
        };
        if text.trim().is_empty() {
            let turn = self.new_turn(out);
            self.images(attachments, at, out);
            out.push(ended(turn, Outcome::Empty, timing, at.now));
            return;
        }
        self.interrupt(at, out);
        let turn = self.new_turn(out);
        // Whoever follows the conversation reads what was typed where they read what was said.
        out.push(Action::Emit(TurnEvent::Transcript {
            turn,
            text: text.trim().into(),
            is_final: true,
            confidence: None,
        }));
        let question = Question::join(self.carried.take(), &text, attachments);
        self.answer(turn, question, false, timing, at, out);
    }

    pub(super) fn upload(
        &mut self,
        audio: EncodedAudio,
        attachments: Vec<Attachment>,
        at: Moment,
        out: &mut Vec<Action>,
    ) {
        self.interrupt(at, out);
        let turn = self.new_turn(out);
        let job = self.new_job();
        out.push(Action::Transcribe {
            job,
            turn,
            utterance: Utterance::Encoded(audio),
        });
        let timing = TurnTiming {
            decided: Some(at.now),
            ..TurnTiming::default()
        };
        let entry = Transcribing {
            turn,
            job,
            since: None,
            timing,
            replay: None,
            attachments,
            result: None,
        };
        self.enqueue(entry, at, out);
    }

    pub(super) fn images(
        &mut self,
        attachments: Vec<Attachment>,
        at: Moment,
        out: &mut Vec<Action>,
    ) {
        if attachments.is_empty() {
            return;
        }
        self.images.add(attachments, at.now);
        if self
            .active
            .as_ref()
            .is_some_and(|active| active.images_until.is_some())
        {
            self.ask_with_images(at, out);
        }
    }

    pub(super) fn enqueue(&mut self, entry: Transcribing, at: Moment, out: &mut Vec<Action>) {
        if self.transcribing.len() == MAX_TRANSCRIBING
            && let Some(oldest) = self.transcribing.pop_front()
        {
            out.push(Action::DropTranscription { job: oldest.job });
            out.push(ended(
                oldest.turn,
                Outcome::Cancelled,
                oldest.timing,
                at.now,
            ));
        }
        self.transcribing.push_back(entry);
    }

    pub(super) fn interim(&mut self, job: SttJob, text: Arc<str>, out: &mut Vec<Action>) {
        let turn = match &self.ears {
            Ears::Speaking {
                turn,
                live: Some(live),
                ..
            } if *live == job => Some(*turn),
            _ => self
                .transcribing
                .iter()
                .find(|entry| entry.job == job)
                .map(|entry| entry.turn),
        };
        if let Some(turn) = turn
            && !text.trim().is_empty()
        {
            out.push(Action::Emit(TurnEvent::Transcript {
                turn,
                text,
                is_final: false,
                confidence: None,
            }));
        }
    }

    pub(super) fn transcribed(
        &mut self,
        job: SttJob,
        result: TranscriptResult,
        at: Moment,
        out: &mut Vec<Action>,
    ) {
        if let Ears::Speaking {
            speculative: Some(early),
            ..
        } = &mut self.ears
            && early.job == job
        {
            early.result = Some(result);
            return;
        }
        if let Ears::Speaking { live, .. } | Ears::Onset { live, .. } = &mut self.ears
            && *live == Some(job)
        {
            // Live transcription died or finished on its own while the caller speaks: the whole utterance is
            // transcribed in one piece at its end (RT2).
            *live = None;
            return;
        }
        let awaits = |entry: &Transcribing| entry.job == job && entry.result.is_none();
        let Some(index) = self.transcribing.iter().position(awaits) else {
            return;
        };
        if matches!(result, Err(NoTranscript::Failed(_)))
            && let Some(utterance) = self.transcribing[index].replay.take()
        {
            let job = self.new_job();
            let entry = &mut self.transcribing[index];
            entry.job = job;
            out.push(Action::Transcribe {
                job,
                turn: entry.turn,
                utterance,
            });
            return;
        }
        self.transcribing[index].result = Some(result);
        self.settle_transcripts(at, out);
    }

    /// Takes transcripts in the order in which they were spoken.
    pub(super) fn settle_transcripts(&mut self, at: Moment, out: &mut Vec<Action>) {
        while self
            .transcribing
            .front()
            .is_some_and(|entry| entry.result.is_some())
        {
            let Some(mut entry) = self.transcribing.pop_front() else {
                return;
            };
            let Some(result) = entry.result.take() else {
                return;
            };
            entry.timing.transcript = Some(at.now);
            let turn = entry.turn;
            let (text, confidence) = match result {
                Ok(transcript) => transcript,
                Err(NoTranscript::Refused(refusal)) => {
                    if matches!(self.ears, Ears::Speaking { .. }) || !self.transcribing.is_empty() {
                        // The caller goes on speaking, and will hear about that.
                        let outcome = Outcome::Blocked { by: refusal.by };
                        out.push(ended(turn, outcome, entry.timing, at.now));
                    } else {
                        self.interrupt(at, out);
                        self.say_refusal(turn, refusal, entry.timing, at, out);
                    }
                    continue;
                }
                Err(NoTranscript::Failed(source)) => {
                    let error = TurnError::Provider {
                        component: Component::Stt,
                        source,
                    };
                    let outcome = Outcome::Failed(Arc::new(error));
                    out.push(ended(turn, outcome, entry.timing, at.now));
                    continue;
                }
            };
            let text: Arc<str> = text.trim().into();
            out.push(Action::Emit(TurnEvent::Transcript {
                turn,
                text: Arc::clone(&text),
                is_final: true,
                confidence,
            }));
            let speaks_again =
                matches!(self.ears, Ears::Speaking { .. }) || !self.transcribing.is_empty();
            if text.is_empty() && (speaks_again || self.carried.is_none()) {
                let outcome = if speaks_again {
                    Outcome::Cancelled
                } else {
                    Outcome::Empty
                };
                out.push(ended(turn, outcome, entry.timing, at.now));
                continue;
            }
            if !speaks_again {
                self.interrupt(at, out);
            }
            let attachments = match entry.since {
                Some(since) => self.images.take(since, at.now),
                None => entry.attachments,
            };
            let question = Question::join(self.carried.take(), &text, attachments);
            if speaks_again {
                self.carried = Some(question);
                out.push(ended(turn, Outcome::Cancelled, entry.timing, at.now));
            } else {
                let waits = entry.since.is_some()
                    && self.images.expected
                    && question.attachments.is_empty();
                self.answer(turn, question, waits, entry.timing, at, out);
            }
        }
        if self.transcribing.is_empty() && matches!(self.ears, Ears::Quiet) {
            self.release(at, out);
        }
        self.next_queued(at, out);
    }
}
