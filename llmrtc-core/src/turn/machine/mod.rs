//! The decisions of a conversation, without I/O: input and `now` go in, actions come out (P9).
//!
//! One machine serves text turns, uploaded utterances, and buffered or live microphone speech (P1). At most one turn
//! is past transcription; one more utterance may be in transcription while the caller speaks the next.
//!
//! | State | Input | Becomes | Said and done |
//! |---|---|---|---|
//! | anything audible | `Onset` | held | output pauses, nothing is said |
//! | held | `Misfire` | as before | output continues from the same sample |
//! | idle, answering | typed text | answering | the running answer ends as if interrupted; `Transcript`, model asked |
//! | speaking, held | typed text | answering, held | nothing is played while the caller speaks |
//! | answering | `Confirmed` | speaking | answer dropped, heard words committed, `SpeechCancelled`, `UserSpeechStarted` |
//! | speaking | `Paused` | speaking | transcription starts early |
//! | speaking | `Resumed` | speaking | that transcription is thrown away |
//! | speaking | `Ended` | transcribing | `UserSpeechEnded` |
//! | transcribing | text, caller silent | answering | `Transcript`, model asked |
//! | transcribing | text, caller speaks again | carried | `Transcript`; the words join the next question |
//! | transcribing | blank | idle | `Transcript`; words carried from before are answered after all |
//! | answering | model, tools, synthesis | answering | deltas at once, segments in order, `SpeechStarted` at the first audio |
//! | answering | text done and drained | idle | `SpeechEnded`, commit, `TurnEnded` |
//! | answering | failure | idle | `SpeechCancelled` if audible, `TurnEnded(Failed)` |

mod answer;
mod ears;
mod ends;
mod io;
mod transcripts;
mod voice;

#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

pub use self::io::{Action, Input, Moment, SttJob, TextPolicy};
use self::{
    answer::Active,
    ears::Ears,
    transcripts::{Images, NoTranscript, Question, Transcribing},
};
use super::{Outcome, TurnConfig, TurnError, TurnEvent, TurnTiming, sentence::SentenceChunker};
use crate::{
    history::{History, HistoryLimits, HistorySnapshot},
    id::TurnId,
    message::Attachment,
    provider::LlmCapabilities,
};

/// How much longer than its audio a playout may take before the turn is taken for drained.
const DRAIN_GRACE: Duration = Duration::from_secs(30);
/// Texts that may wait for a running turn under [`TextPolicy::Queue`] (CC2). Full: refused.
pub const MAX_QUEUED_TEXTS: usize = 16;

/// Makes the sentence chunker of a turn.
pub type ChunkerFactory = Arc<dyn Fn() -> Box<dyn SentenceChunker> + Send + Sync>;

/// The state of one session's conversation.
pub struct Machine {
    config: Arc<TurnConfig>,
    capabilities: LlmCapabilities,
    /// Live transcription is configured and the provider can do it.
    live: bool,
    history: History,
    chunkers: Option<ChunkerFactory>,
    last_turn: TurnId,
    last_job: u64,
    ears: Ears,
    /// Ended utterances whose text is not there yet, oldest first.
    transcribing: VecDeque<Transcribing>,
    /// The turn past transcription.
    active: Option<Active>,
    /// What was said but never answered, to be answered with the next words.
    carried: Option<Question>,
    images: Images,
    queued: VecDeque<(Arc<str>, Vec<Attachment>)>,
}

impl Machine {
    /// A fresh conversation, or one continued from `history`. `live` says whether the transcription provider can do
    /// it; `chunkers` replaces the built-in sentence chunker.
    pub fn new(
        config: Arc<TurnConfig>,
        capabilities: LlmCapabilities,
        live: bool,
        chunkers: Option<ChunkerFactory>,
        history: Option<HistorySnapshot>,
    ) -> Self {
        let mut stored = History::new(HistoryLimits::from(&*config));
        if let Some(snapshot) = history {
            stored.restore(snapshot);
        }
        Self {
            live: live && config.streaming_stt,
            config,
            capabilities,
            history: stored,
            chunkers,
            last_turn: TurnId::default(),
            last_job: 0,
            ears: Ears::Quiet,
            transcribing: VecDeque::new(),
            active: None,
            carried: None,
            images: Images::default(),
            queued: VecDeque::new(),
        }
    }

    /// The conversation so far, for a later connection (H7).
    pub fn snapshot(&self) -> HistorySnapshot {
        self.history.snapshot()
    }

    /// Whether an answer is being prepared or played.
    pub fn is_answering(&self) -> bool {
        self.active.is_some() || !self.transcribing.is_empty()
    }

    /// Whether a text under [`TextPolicy::Queue`] would have to wait: for an answer, or for the caller to finish.
    pub fn would_queue(&self) -> bool {
        self.is_answering() || !matches!(self.ears, Ears::Quiet)
    }

    /// Whether a queued text would be refused.
    pub fn queue_is_full(&self) -> bool {
        self.queued.len() >= MAX_QUEUED_TEXTS
    }

    /// When [`Input::Tick`] is due, if ever.
    pub fn deadline(&self) -> Option<Instant> {
        let active = self.active.as_ref()?;
        [active.due(), active.images_until, active.chunker_due()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Takes one input. Late news of ended turns is recognised by id and ignored.
    pub fn handle(&mut self, input: Input, at: Moment, out: &mut Vec<Action>) {
        match input {
            Input::Speech(event) => self.speech(event, at, out),
            Input::Text {
                text,
                attachments,
                policy,
            } => self.text(text, attachments, policy, at, out),
            Input::Upload { audio, attachments } => self.upload(audio, attachments, at, out),
            Input::Images(attachments) => self.images(attachments, at, out),
            Input::Interim { job, text } => self.interim(job, text, out),
            Input::Transcribed { job, result } => {
                let result = result.map_err(NoTranscript::Failed);
                self.transcribed(job, result, at, out);
            }
            Input::TranscriptRefused { job, refusal } => {
                self.transcribed(job, Err(NoTranscript::Refused(refusal)), at, out);
            }
            Input::TextRefused(refusal) => self.text_refused(refusal, at, out),
            Input::Refused { turn, refusal } => {
                if self.is_active(turn) {
                    self.refused(refusal, at, out);
                }
            }
            Input::Llm { turn, chunk } => {
                if self.is_active(turn) {
                    self.llm(chunk, at, out);
                }
            }
            Input::LlmFailed { turn, error } => {
                if self.is_active(turn) {
                    self.llm_failed(error, at, out);
                }
            }
            Input::ToolStarted { turn, call } => {
                if self.is_active(turn) {
                    self.tool_started(call, out);
                }
            }
            Input::ToolDone {
                turn,
                call,
                result,
                duration,
            } => {
                if self.is_active(turn) {
                    self.tool_done(call, result, duration, at, out);
                }
            }
            Input::Queued {
                turn,
                segment,
                audio,
            } => {
                if self.is_active(turn) {
                    self.audio_queued(segment, audio, at, out);
                }
            }
            Input::SegmentDone {
                turn,
                segment,
                result,
            } => {
                if self.is_active(turn) {
                    self.segment_done(segment, result, at, out);
                }
            }
            Input::Crashed { turn, message } => {
                if self.is_active(turn) {
                    self.fail(TurnError::Internal(message), at, out);
                }
            }
            Input::OutputClosed { turn } => {
                if self.is_active(turn) {
                    self.interrupt(at, out);
                    self.next_queued(at, out);
                }
            }
            Input::Playout(event) => {
                if self.is_active(event.turn()) {
                    self.playout(event, at, out);
                }
            }
            Input::SourceLost => {
                self.deafen(at, out);
                self.interrupt(at, out);
                self.next_queued(at, out);
            }
            Input::Interrupt => {
                self.interrupt(at, out);
                self.next_queued(at, out);
            }
            Input::Close => self.close(at, out),
            Input::Tick => self.tick(at, out),
        }
    }

    fn is_active(&self, turn: TurnId) -> bool {
        self.active
            .as_ref()
            .is_some_and(|active| active.turn == turn)
    }

    fn new_turn(&mut self, out: &mut Vec<Action>) -> TurnId {
        self.last_turn = self.last_turn.next();
        out.push(Action::Emit(TurnEvent::TurnStarted {
            turn: self.last_turn,
        }));
        self.last_turn
    }

    fn new_job(&mut self) -> SttJob {
        self.last_job += 1;
        SttJob(self.last_job)
    }
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine")
            .field("ears", &self.ears)
            .field("transcribing", &self.transcribing.len())
            .field("active", &self.active.as_ref().map(|active| active.turn))
            .finish_non_exhaustive()
    }
}

fn ended(turn: TurnId, outcome: Outcome, timing: TurnTiming, now: Instant) -> Action {
    let timing = TurnTiming {
        ended: Some(now),
        ..timing
    };
    Action::Emit(TurnEvent::TurnEnded {
        turn,
        outcome,
        timing,
    })
}
