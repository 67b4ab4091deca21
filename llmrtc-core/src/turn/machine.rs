//! The decisions of a conversation, without I/O: input and `now` go in, actions come out (P9).
//!
//! One machine serves text turns, uploaded utterances, and buffered or live microphone speech (P1). At most one turn
//! is past transcription ([`Active`]); one more utterance may be in transcription while the caller speaks the next.
//!
//! | State | Input | Becomes | Said and done |
//! |---|---|---|---|
//! | anything audible | `Onset` | held | output pauses, nothing is said |
//! | held | `Misfire` | as before | output continues from the same sample |
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

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{
    Component, Outcome, TurnConfig, TurnError, TurnEvent, TurnTiming,
    sentence::{
        Chunker, ChunkerConfig, Segment, SentenceChunker, SpeechFilter, SpokenSpan, heard_text,
    },
};
use crate::{
    audio::{EncodedAudio, Utterance},
    history::{Exchange, History, HistoryLimits, HistorySnapshot},
    id::TurnId,
    message::{Attachment, ToolCall},
    playout::{Played, PlayoutEvent, SegmentIndex},
    provider::{
        ErrorKind, LlmCapabilities, LlmChunk, LlmConfig, LlmRequest, ProviderError, StopReason,
        ToolChoice, Usage,
    },
    speech::SpeechEvent,
    tool::{FailureCategory, ToolFailure, model_text},
};

/// Utterances in transcription at a time. The caller cannot say a third before the first is understood, and a flood
/// of uploads must not become a flood of vendor calls. Full: the oldest is dropped.
const MAX_TRANSCRIBING: usize = 2;
/// Texts that may wait for a running turn under [`TextPolicy::Queue`] (CC2). Full: refused.
pub const MAX_QUEUED_TEXTS: usize = 16;
/// Images that arrived this long before an utterance still belong to it.
const IMAGE_MAX_AGE: Duration = Duration::from_secs(10);
/// How long a request waits for images of a client that sent some before.
const IMAGE_WAIT: Duration = Duration::from_millis(150);
/// Images held for the next request. Full: the oldest is dropped, the newest view counts.
const MAX_PENDING_IMAGES: usize = 8;
/// How much longer than its audio a playout may take before the turn is taken for drained.
const DRAIN_GRACE: Duration = Duration::from_secs(30);
/// Most text of one answer in bytes. A model that does not stop must not fill the memory.
const MAX_ANSWER_BYTES: usize = 256 * 1024;
/// How often a paused server-side tool loop is resumed.
const MAX_RESUMES: u32 = 3;

/// Names one transcription, so that results of a discarded one are recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SttJob(pub u64);

/// What to do with a text that arrives while a turn is running (CC2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TextPolicy {
    /// Cancel the running turn, as a voice would.
    #[default]
    Interrupt,
    /// Wait for it, first in, first out.
    Queue,
}

/// Now, and how far the current turn's audio has been played.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Monotonic time.
    pub now: Instant,
    /// The play head of the open output; `None` when no output is open.
    pub played: Option<Played>,
}

/// What the machine is told.
#[derive(Debug)]
pub enum Input {
    /// The caller's voice. [`SpeechEvent::Audio`] is the driver's business and ignored here.
    Speech(SpeechEvent),
    /// A typed message.
    Text {
        /// The text.
        text: Arc<str>,
        /// Images sent with it.
        attachments: Vec<Attachment>,
        /// What to do when a turn is running.
        policy: TextPolicy,
    },
    /// A complete recorded utterance.
    Upload {
        /// The recording.
        audio: EncodedAudio,
        /// Images sent with it.
        attachments: Vec<Attachment>,
    },
    /// Images for the utterance being spoken.
    Images(Vec<Attachment>),
    /// Live transcription has text that may still change; cumulative.
    Interim {
        /// The transcription.
        job: SttJob,
        /// The text so far.
        text: Arc<str>,
    },
    /// A transcription is complete or failed for good.
    Transcribed {
        /// The transcription.
        job: SttJob,
        /// The text and its confidence.
        result: Result<(Arc<str>, Option<f32>), ProviderError>,
    },
    /// The model's next chunk.
    Llm {
        /// The turn.
        turn: TurnId,
        /// The chunk.
        chunk: LlmChunk,
    },
    /// The model call failed for good.
    LlmFailed {
        /// The turn.
        turn: TurnId,
        /// Why.
        error: ProviderError,
    },
    /// A tool began to run.
    ToolStarted {
        /// The turn.
        turn: TurnId,
        /// The call.
        call: ToolCall,
    },
    /// A tool is done.
    ToolDone {
        /// The turn.
        turn: TurnId,
        /// The call.
        call: ToolCall,
        /// Its result.
        result: Result<Value, ToolFailure>,
        /// How long it ran.
        duration: Duration,
    },
    /// Audio of a segment was queued for playout.
    Queued {
        /// The turn.
        turn: TurnId,
        /// The segment.
        segment: SegmentIndex,
        /// How much.
        audio: Duration,
    },
    /// A segment's synthesis is over. An error means that some or all of its audio is missing.
    SegmentDone {
        /// The turn.
        turn: TurnId,
        /// The segment.
        segment: SegmentIndex,
        /// How it went.
        result: Result<(), ProviderError>,
    },
    /// A job of the turn ended unexpectedly: a bug of ours.
    Crashed {
        /// The turn.
        turn: TurnId,
        /// What is known.
        message: String,
    },
    /// The output cannot play any more: its transport is gone.
    OutputClosed {
        /// The turn.
        turn: TurnId,
    },
    /// News from the output.
    Playout(PlayoutEvent),
    /// Stop talking, by request.
    Interrupt,
    /// The call is over: everything in flight is settled and committed.
    Close,
    /// [`Machine::deadline`] has passed.
    Tick,
}

/// What the driver shall do.
#[derive(Debug)]
pub enum Action {
    /// Tell the client.
    Emit(TurnEvent),
    /// Transcribe a complete utterance.
    Transcribe {
        /// Names it.
        job: SttJob,
        /// The turn it serves.
        turn: TurnId,
        /// The audio.
        utterance: Utterance,
    },
    /// Begin live transcription; frames follow as [`SpeechEvent::Audio`].
    OpenLive {
        /// Names it.
        job: SttJob,
        /// The turn it serves.
        turn: TurnId,
    },
    /// No more frames: finalise.
    FinishLive {
        /// Which.
        job: SttJob,
    },
    /// The result is of no use any more.
    DropTranscription {
        /// Which.
        job: SttJob,
    },
    /// Ask the model.
    Ask {
        /// The turn.
        turn: TurnId,
        /// The request, without tool definitions: the driver knows them.
        request: LlmRequest,
    },
    /// Run these tools.
    RunTools {
        /// The turn.
        turn: TurnId,
        /// The calls, in model order.
        calls: Vec<ToolCall>,
    },
    /// Open the turn's output.
    OpenOutput {
        /// The turn.
        turn: TurnId,
    },
    /// Synthesise a segment into the output.
    Synthesise {
        /// The turn.
        turn: TurnId,
        /// Its index in the turn.
        index: SegmentIndex,
        /// What to say.
        text: String,
    },
    /// Nothing more will be synthesised.
    FinishOutput {
        /// The turn.
        turn: TurnId,
    },
    /// Pause the output.
    Hold {
        /// The turn.
        turn: TurnId,
    },
    /// Continue the output.
    Release {
        /// The turn.
        turn: TurnId,
    },
    /// Drop everything that works for this turn: model, tools, synthesis and output.
    Abandon {
        /// The turn.
        turn: TurnId,
    },
}

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

/// What the caller is doing.
#[derive(Debug)]
enum Ears {
    Quiet,
    /// Perhaps speaking.
    Onset {
        since: Instant,
        live: Option<SttJob>,
    },
    /// Speaking.
    Speaking {
        turn: TurnId,
        since: Instant,
        live: Option<SttJob>,
        /// Transcription begun in a pause.
        speculative: Option<Speculation>,
    },
}

#[derive(Debug)]
struct Speculation {
    job: SttJob,
    result: Option<TranscriptResult>,
}

type TranscriptResult = Result<(Arc<str>, Option<f32>), ProviderError>;

/// An utterance on its way to text.
struct Transcribing {
    turn: TurnId,
    job: SttJob,
    /// When the utterance began: images since then belong to it.
    since: Instant,
    timing: TurnTiming,
    /// Kept to try once more, buffered, when live transcription fails (RT2).
    replay: Option<Utterance>,
    /// Images of an upload.
    attachments: Vec<Attachment>,
    result: Option<TranscriptResult>,
}

/// What the caller wants answered.
#[derive(Default)]
struct Question {
    text: String,
    attachments: Vec<Attachment>,
}

impl Question {
    /// Two utterances as one question, images of both.
    fn join(earlier: Option<Self>, text: &str, attachments: Vec<Attachment>) -> Self {
        let mut question = earlier.unwrap_or_default();
        let text = text.trim();
        if !question.text.is_empty() && !text.is_empty() {
            question.text.push(' ');
        }
        question.text.push_str(text);
        question.attachments.extend(attachments);
        question
    }
}

/// A turn past transcription.
struct Active {
    turn: TurnId,
    timing: TurnTiming,
    question: Question,
    exchange: Exchange,
    /// Waiting for images until then; the model was not asked yet.
    images_until: Option<Instant>,
    /// Everything but playout must be done by then.
    deadline: Instant,
    /// Model requests so far in this turn that ended in tool calls.
    rounds: u32,
    resumes: u32,
    /// The history was halved for this turn already.
    halved: bool,
    /// The answer so far, all rounds.
    text: String,
    /// How much of `text` stands in the exchange already, beside tool calls: the current response begins here.
    journalled: usize,
    chunker: Box<dyn SentenceChunker>,
    /// Calls of the current response.
    calls: Vec<ToolCall>,
    /// Calls of the current round and their results, in model order.
    batch: Vec<(ToolCall, Option<Result<Value, ToolFailure>>)>,
    /// A tool has started: the exchange is committed whatever happens (B5).
    tools_ran: bool,
    usage: Usage,
    /// The text is complete.
    text_done: bool,
    /// Segments not yet handed to synthesis.
    waiting: VecDeque<Segment>,
    /// Segments handed to synthesis, by index.
    spans: Vec<SpokenSpan>,
    in_flight: usize,
    /// Segments that failed in a row (TT2).
    failures: u32,
    output_open: bool,
    held: bool,
    /// `SpeechStarted` was said and not yet closed.
    speaking: bool,
    /// The output was told that everything is written; it must drain by then.
    drained_by: Option<Instant>,
}

/// Images waiting for a request.
#[derive(Debug, Default)]
struct Images {
    pending: VecDeque<(Instant, Attachment)>,
    /// This client sends images with its utterances.
    expected: bool,
}

impl Images {
    fn add(&mut self, attachments: Vec<Attachment>, now: Instant) {
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

    /// Whether a queued text would be refused.
    pub fn queue_is_full(&self) -> bool {
        self.queued.len() >= MAX_QUEUED_TEXTS
    }

    /// When [`Input::Tick`] is due, if ever.
    pub fn deadline(&self) -> Option<Instant> {
        let active = self.active.as_ref()?;
        [
            Some(active.drained_by.unwrap_or(active.deadline)),
            active.images_until,
            if active.text_done {
                None
            } else {
                active.chunker.deadline()
            },
        ]
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
            Input::Transcribed { job, result } => self.transcribed(job, result, at, out),
            Input::Llm { turn, chunk } => {
                if self.is_active(turn) {
                    self.llm(chunk, at, out);
                }
            }
            Input::LlmFailed { turn, error } => {
                if self.is_active(turn) {
                    self.fail_provider(Component::Llm, error, at, out);
                }
            }
            Input::ToolStarted { turn, call } => {
                if self.is_active(turn) {
                    out.push(Action::Emit(TurnEvent::ToolStarted { turn, call }));
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
                }
            }
            Input::Playout(event) => {
                if self.is_active(event.turn()) {
                    self.playout(event, at, out);
                }
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

    // ── The caller ────────────────────────────────────────────────────────────────────────────────────────────

    fn speech(&mut self, event: SpeechEvent, at: Moment, out: &mut Vec<Action>) {
        match (std::mem::replace(&mut self.ears, Ears::Quiet), event) {
            (Ears::Quiet, SpeechEvent::Onset { at: since }) => {
                if let Some(active) = &mut self.active
                    && !active.held
                {
                    active.held = true;
                    if active.output_open {
                        out.push(Action::Hold { turn: active.turn });
                    }
                }
                let live = self.live.then(|| self.new_job());
                if let Some(job) = live {
                    out.push(Action::OpenLive {
                        job,
                        turn: self.last_turn.next(),
                    });
                }
                self.ears = Ears::Onset { since, live };
            }
            (Ears::Onset { live, .. }, SpeechEvent::Misfire) => {
                if let Some(job) = live {
                    out.push(Action::DropTranscription { job });
                }
                self.release(out);
            }
            (Ears::Onset { since, live }, SpeechEvent::Confirmed) => {
                self.interrupt(at, out);
                let turn = self.new_turn(out);
                out.push(Action::Emit(TurnEvent::UserSpeechStarted));
                self.ears = Ears::Speaking {
                    turn,
                    since,
                    live,
                    speculative: None,
                };
            }
            (
                Ears::Speaking {
                    turn,
                    since,
                    live: None,
                    speculative,
                },
                SpeechEvent::Paused { utterance },
            ) if self.config.speculative_stt => {
                if let Some(stale) = speculative {
                    out.push(Action::DropTranscription { job: stale.job });
                }
                let job = self.new_job();
                out.push(Action::Transcribe {
                    job,
                    turn,
                    utterance,
                });
                let speculative = Some(Speculation { job, result: None });
                self.ears = Ears::Speaking {
                    turn,
                    since,
                    live: None,
                    speculative,
                };
            }
            (
                Ears::Speaking {
                    turn,
                    since,
                    live,
                    speculative,
                },
                SpeechEvent::Resumed,
            ) => {
                if let Some(stale) = speculative {
                    out.push(Action::DropTranscription { job: stale.job });
                }
                self.ears = Ears::Speaking {
                    turn,
                    since,
                    live,
                    speculative: None,
                };
            }
            (
                Ears::Speaking {
                    turn,
                    since,
                    live,
                    speculative,
                },
                SpeechEvent::Ended {
                    utterance,
                    last_voice,
                    ..
                },
            ) => {
                out.push(Action::Emit(TurnEvent::UserSpeechEnded));
                let mut result = None;
                let mut replay = None;
                let job = match (live, speculative) {
                    (Some(job), _) => {
                        out.push(Action::FinishLive { job });
                        replay = Some(utterance);
                        job
                    }
                    // What failed in the pause is tried again with the whole utterance.
                    (None, Some(early)) if !matches!(early.result, Some(Err(_))) => {
                        result = early.result;
                        early.job
                    }
                    (None, _) => {
                        let job = self.new_job();
                        out.push(Action::Transcribe {
                            job,
                            turn,
                            utterance,
                        });
                        job
                    }
                };
                let timing = TurnTiming {
                    last_voice: Some(last_voice),
                    decided: Some(at.now),
                    ..TurnTiming::default()
                };
                let entry = Transcribing {
                    turn,
                    job,
                    since,
                    timing,
                    replay,
                    attachments: Vec::new(),
                    result,
                };
                self.enqueue(entry, out);
                self.settle_transcripts(at, out);
            }
            // Everything else is live audio for the driver, or does not change who is speaking.
            (ears, _) => self.ears = ears,
        }
    }

    fn text(
        &mut self,
        text: Arc<str>,
        attachments: Vec<Attachment>,
        policy: TextPolicy,
        at: Moment,
        out: &mut Vec<Action>,
    ) {
        if policy == TextPolicy::Queue && self.is_answering() {
            if !self.queue_is_full() {
                self.queued.push_back((text, attachments));
            }
            return;
        }
        self.interrupt(at, out);
        let turn = self.new_turn(out);
        let timing = TurnTiming {
            decided: Some(at.now),
            ..TurnTiming::default()
        };
        if text.trim().is_empty() {
            out.push(ended(turn, Outcome::Empty, timing, at.now));
        } else {
            self.answer(turn, &text, attachments, timing, at, out);
        }
    }

    fn upload(
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
            since: at.now,
            timing,
            replay: None,
            attachments,
            result: None,
        };
        self.enqueue(entry, out);
    }

    fn images(&mut self, attachments: Vec<Attachment>, at: Moment, out: &mut Vec<Action>) {
        self.images.add(attachments, at.now);
        if self
            .active
            .as_ref()
            .is_some_and(|active| active.images_until.is_some())
        {
            self.ask_with_images(at, out);
        }
    }

    // ── Transcription ─────────────────────────────────────────────────────────────────────────────────────────

    fn enqueue(&mut self, entry: Transcribing, out: &mut Vec<Action>) {
        if self.transcribing.len() == MAX_TRANSCRIBING
            && let Some(oldest) = self.transcribing.pop_front()
        {
            out.push(Action::DropTranscription { job: oldest.job });
            out.push(ended(
                oldest.turn,
                Outcome::Cancelled,
                oldest.timing,
                entry.since,
            ));
        }
        self.transcribing.push_back(entry);
    }

    fn interim(&mut self, job: SttJob, text: Arc<str>, out: &mut Vec<Action>) {
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

    fn transcribed(
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
        let Some(index) = self.transcribing.iter().position(|entry| entry.job == job) else {
            return;
        };
        if result.is_err()
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
    fn settle_transcripts(&mut self, at: Moment, out: &mut Vec<Action>) {
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
                Err(source) => {
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
            if speaks_again {
                let question = Question::join(self.carried.take(), &text, entry.attachments);
                if !question.text.is_empty() {
                    self.carried = Some(question);
                }
                out.push(ended(turn, Outcome::Cancelled, entry.timing, at.now));
            } else if text.is_empty() && self.carried.is_none() {
                out.push(ended(turn, Outcome::Empty, entry.timing, at.now));
            } else {
                self.interrupt(at, out);
                let mut attachments = entry.attachments;
                attachments.extend(self.images.take(entry.since, at.now));
                self.answer(turn, &text, attachments, entry.timing, at, out);
            }
        }
        self.next_queued(at, out);
    }

    // ── The answer ────────────────────────────────────────────────────────────────────────────────────────────

    fn answer(
        &mut self,
        turn: TurnId,
        text: &str,
        attachments: Vec<Attachment>,
        timing: TurnTiming,
        at: Moment,
        out: &mut Vec<Action>,
    ) {
        let question = Question::join(self.carried.take(), text, attachments);
        let waits = self.images.expected && question.attachments.is_empty();
        self.active = Some(Active {
            turn,
            exchange: Exchange::new(question.text.as_str(), question.attachments.clone()),
            question,
            timing,
            images_until: waits.then(|| at.now + IMAGE_WAIT),
            deadline: at.now + self.config.timeouts.turn,
            rounds: 0,
            resumes: 0,
            halved: false,
            text: String::new(),
            journalled: 0,
            chunker: self.new_chunker(),
            calls: Vec::new(),
            batch: Vec::new(),
            tools_ran: false,
            usage: Usage::default(),
            text_done: false,
            waiting: VecDeque::new(),
            spans: Vec::new(),
            in_flight: 0,
            failures: 0,
            output_open: false,
            held: matches!(self.ears, Ears::Onset { .. }),
            speaking: false,
            drained_by: None,
        });
        if !waits {
            self.ask(at, out);
        }
    }

    fn new_chunker(&self) -> Box<dyn SentenceChunker> {
        match &self.chunkers {
            Some(make) => make(),
            None => Box::new(Chunker::new(ChunkerConfig {
                language: self.config.language.clone(),
                ..ChunkerConfig::default()
            })),
        }
    }

    fn ask_with_images(&mut self, at: Moment, out: &mut Vec<Action>) {
        let Some(active) = &mut self.active else {
            return;
        };
        active.images_until = None;
        let attachments: Vec<_> = self
            .images
            .pending
            .drain(..)
            .map(|(_, image)| image)
            .collect();
        active.question.attachments.extend(attachments);
        active.exchange = Exchange::new(
            active.question.text.as_str(),
            active.question.attachments.clone(),
        );
        self.ask(at, out);
    }

    fn ask(&mut self, at: Moment, out: &mut Vec<Action>) {
        let Some(active) = &mut self.active else {
            return;
        };
        active.timing.llm_request.get_or_insert(at.now);
        active.calls.clear();
        let tool_choice = if active.rounds >= self.config.max_tool_rounds {
            ToolChoice::None
        } else {
            ToolChoice::Auto
        };
        let request = LlmRequest {
            messages: self.history.request(
                Some(&self.config.system_prompt)
                    .filter(|prompt| !prompt.trim().is_empty())
                    .map(String::as_str),
                &active.exchange,
                self.capabilities.needs_alternation,
            ),
            config: LlmConfig {
                model: None,
                temperature: self.config.temperature,
                top_p: self.config.top_p,
                max_tokens: self.config.max_tokens,
                stop_sequences: Vec::new(),
            },
            tools: Arc::from([]),
            tool_choice,
        };
        out.push(Action::Ask {
            turn: active.turn,
            request,
        });
    }

    fn llm(&mut self, chunk: LlmChunk, at: Moment, out: &mut Vec<Action>) {
        let Some(active) = &mut self.active else {
            return;
        };
        match chunk {
            LlmChunk::Text(text) if !text.is_empty() && active.text.len() < MAX_ANSWER_BYTES => {
                active.timing.llm_first_text.get_or_insert(at.now);
                active.text.push_str(&text);
                if self.config.streaming_tts {
                    active.chunk(|chunker, segments| chunker.push(&text, at.now, segments));
                }
                out.push(Action::Emit(TurnEvent::LlmDelta {
                    turn: active.turn,
                    text: text.into(),
                }));
                self.pump(at, out);
            }
            LlmChunk::ToolCall(call) => active.calls.push(call),
            LlmChunk::Usage(usage) => active.usage = usage,
            LlmChunk::End(reason) => self.llm_end(reason, at, out),
            LlmChunk::Text(_) | LlmChunk::Reasoning(_) | LlmChunk::ToolCallBegun { .. } => {}
        }
    }

    fn llm_end(&mut self, reason: StopReason, at: Moment, out: &mut Vec<Action>) {
        let Some(active) = &mut self.active else {
            return;
        };
        let response = active.text[active.journalled..].to_owned();
        if !active.calls.is_empty() {
            let calls = std::mem::take(&mut active.calls);
            self.journal_response(&response, &calls, at, out);
            self.run_tools(calls, at, out);
            self.pump(at, out);
            return;
        }
        match reason {
            StopReason::PauseTurn if active.resumes < MAX_RESUMES => {
                active.resumes += 1;
                self.journal_response(&response, &[], at, out);
                self.ask(at, out);
                self.pump(at, out);
                return;
            }
            StopReason::ContextOverflow if !active.halved && response.is_empty() => {
                active.halved = true;
                self.history.halve();
                self.ask(at, out);
                return;
            }
            // Half a sentence is worse than one sentence less, unless it is all there is.
            StopReason::MaxTokens if active.said_so_far() > active.journalled => {
                active.text.truncate(active.said_so_far());
            }
            StopReason::ContentFilter => {
                active.waiting.clear();
                active.text.truncate(active.said_so_far());
                self.say_fallback(at, out);
            }
            StopReason::Refusal if response.trim().is_empty() => self.say_fallback(at, out),
            _ => self.end_of_text(),
        }
        let Some(active) = &mut self.active else {
            return;
        };
        active.text_done = true;
        active.timing.llm_done = Some(at.now);
        out.push(Action::Emit(TurnEvent::LlmDone {
            turn: active.turn,
            text: active.text.as_str().into(),
            stop_reason: reason,
            usage: active.usage,
        }));
        self.pump(at, out);
    }

    /// Moves a response that is not the last one into the journal, and its text to synthesis.
    fn journal_response(
        &mut self,
        response: &str,
        calls: &[ToolCall],
        at: Moment,
        out: &mut Vec<Action>,
    ) {
        self.end_of_text();
        let Some(active) = &mut self.active else {
            return;
        };
        active.journalled = active.text.len();
        if let Err(error) = active.exchange.push_assistant(response, calls.to_vec()) {
            let error = ProviderError::new(ErrorKind::Protocol, "llm", error.to_string());
            self.fail_provider(Component::Llm, error, at, out);
        }
    }

    /// The current response has no more text: what is pending is spoken.
    fn end_of_text(&mut self) {
        let streaming = self.config.streaming_tts;
        let Some(active) = &mut self.active else {
            return;
        };
        if streaming {
            active.chunk(|chunker, segments| {
                chunker.flush(segments);
            });
        } else {
            let span = active.said_so_far()..active.text.len();
            let text = SpeechFilter::default()
                .apply(&active.text[span.clone()])
                .trim()
                .to_owned();
            if text.chars().any(char::is_alphanumeric) {
                active.waiting.push_back(Segment {
                    index: 0,
                    text,
                    span,
                });
            }
        }
    }

    fn say_fallback(&mut self, at: Moment, out: &mut Vec<Action>) {
        let phrase = self.config.fallback_phrase.clone();
        let Some(active) = &mut self.active else {
            return;
        };
        if phrase.trim().is_empty() {
            return;
        }
        let separator = if active.text.is_empty() { "" } else { " " };
        let start = active.text.len();
        active.text.push_str(separator);
        active.text.push_str(&phrase);
        active.timing.llm_first_text.get_or_insert(at.now);
        let span = start..active.text.len();
        active.waiting.push_back(Segment {
            index: 0,
            text: phrase.clone(),
            span,
        });
        out.push(Action::Emit(TurnEvent::LlmDelta {
            turn: active.turn,
            text: format!("{separator}{phrase}").into(),
        }));
    }

    // ── Tools ─────────────────────────────────────────────────────────────────────────────────────────────────

    fn run_tools(&mut self, calls: Vec<ToolCall>, at: Moment, out: &mut Vec<Action>) {
        let Some(active) = &mut self.active else {
            return;
        };
        active.rounds += 1;
        active.tools_ran = true;
        active.batch = calls.iter().cloned().map(|call| (call, None)).collect();
        let (good, malformed): (Vec<_>, Vec<_>) = calls
            .into_iter()
            .partition(|call| call.parse_error.is_none());
        let turn = active.turn;
        if !good.is_empty() {
            out.push(Action::RunTools { turn, calls: good });
        }
        for call in malformed {
            let message = call.parse_error.clone().unwrap_or_default();
            out.push(Action::Emit(TurnEvent::ToolStarted {
                turn,
                call: call.clone(),
            }));
            let failure = ToolFailure::new(FailureCategory::MalformedArguments, message);
            self.tool_done(call, Err(failure), Duration::ZERO, at, out);
        }
    }

    fn tool_done(
        &mut self,
        call: ToolCall,
        result: Result<Value, ToolFailure>,
        duration: Duration,
        at: Moment,
        out: &mut Vec<Action>,
    ) {
        let Some(active) = &mut self.active else {
            return;
        };
        let Some(slot) = active
            .batch
            .iter_mut()
            .find(|(asked, slot)| asked.call_id == call.call_id && slot.is_none())
        else {
            return;
        };
        slot.1 = Some(result.clone());
        out.push(Action::Emit(TurnEvent::ToolEnded {
            turn: active.turn,
            call,
            result,
            duration,
        }));
        if active.batch.iter().all(|(_, slot)| slot.is_some()) {
            active.journal_tools();
            self.ask(at, out);
        }
    }

    // ── Speech ────────────────────────────────────────────────────────────────────────────────────────────────

    /// Hands waiting segments to synthesis and notices when there is nothing left to do.
    fn pump(&mut self, at: Moment, out: &mut Vec<Action>) {
        let Some(active) = &mut self.active else {
            return;
        };
        let turn = active.turn;
        while active.in_flight < self.config.tts_lookahead
            && let Some(segment) = active.waiting.pop_front()
        {
            if !active.output_open {
                active.output_open = true;
                out.push(Action::OpenOutput { turn });
                if active.held {
                    out.push(Action::Hold { turn });
                }
            }
            active.timing.tts_request.get_or_insert(at.now);
            active.in_flight += 1;
            let index = active.spans.len() as SegmentIndex;
            active.spans.push(SpokenSpan {
                span: segment.span,
                audio: Duration::ZERO,
                complete: false,
            });
            out.push(Action::Synthesise {
                turn,
                index,
                text: segment.text,
            });
        }
        let spoken_out = active.text_done && active.in_flight == 0 && active.waiting.is_empty();
        if !spoken_out || active.drained_by.is_some() {
            return;
        }
        let audio: Duration = active.spans.iter().map(|span| span.audio).sum();
        if audio.is_zero() {
            self.complete(at, out);
        } else {
            active.drained_by = Some(at.now + audio + DRAIN_GRACE);
            out.push(Action::FinishOutput { turn });
        }
    }

    fn audio_queued(
        &mut self,
        segment: SegmentIndex,
        audio: Duration,
        at: Moment,
        out: &mut Vec<Action>,
    ) {
        let Some(active) = &mut self.active else {
            return;
        };
        let Some(span) = active.spans.get_mut(segment as usize) else {
            return;
        };
        span.audio += audio;
        active.timing.tts_first_audio.get_or_insert(at.now);
        if !active.speaking {
            active.speaking = true;
            out.push(Action::Emit(TurnEvent::SpeechStarted { turn: active.turn }));
        }
    }

    fn segment_done(
        &mut self,
        segment: SegmentIndex,
        result: Result<(), ProviderError>,
        at: Moment,
        out: &mut Vec<Action>,
    ) {
        let Some(active) = &mut self.active else {
            return;
        };
        if let Some(span) = active.spans.get_mut(segment as usize) {
            span.complete = true;
        }
        active.in_flight = active.in_flight.saturating_sub(1);
        match result {
            Ok(()) => active.failures = 0,
            Err(error) => {
                active.failures += 1;
                let last = active.text_done && active.in_flight == 0 && active.waiting.is_empty();
                // One lost sentence is a stumble; two, or all there was, is a failed turn (TT2).
                if active.failures >= 2 || (last && !active.speaking) {
                    self.fail_provider(Component::Tts, error, at, out);
                    return;
                }
            }
        }
        self.pump(at, out);
    }

    fn playout(&mut self, event: PlayoutEvent, at: Moment, out: &mut Vec<Action>) {
        let Some(active) = &mut self.active else {
            return;
        };
        match event {
            PlayoutEvent::Started { at, .. } => {
                active.timing.first_audio.get_or_insert(at);
            }
            PlayoutEvent::Drained { .. } if active.drained_by.is_some() => self.complete(at, out),
            PlayoutEvent::Drained { .. } | PlayoutEvent::Underrun { .. } => {}
        }
    }

    fn release(&mut self, out: &mut Vec<Action>) {
        if let Some(active) = &mut self.active
            && active.held
        {
            active.held = false;
            if active.output_open {
                out.push(Action::Release { turn: active.turn });
            }
        }
    }

    // ── Ends ──────────────────────────────────────────────────────────────────────────────────────────────────

    fn tick(&mut self, at: Moment, out: &mut Vec<Action>) {
        let Some(active) = &mut self.active else {
            return;
        };
        if let Some(drained_by) = active.drained_by {
            if at.now >= drained_by {
                self.complete(at, out);
            }
            return;
        }
        if at.now >= active.deadline {
            self.fail(TurnError::Deadline, at, out);
            return;
        }
        if active.images_until.is_some_and(|until| at.now >= until) {
            self.ask_with_images(at, out);
            return;
        }
        if active.chunker.deadline().is_some_and(|due| at.now >= due) {
            active.chunk(|chunker, segments| chunker.tick(at.now, segments));
            self.pump(at, out);
        }
    }

    fn complete(&mut self, at: Moment, out: &mut Vec<Action>) {
        let Some(mut active) = self.active.take() else {
            return;
        };
        let turn = active.turn;
        if active.speaking {
            out.push(Action::Emit(TurnEvent::SpeechEnded { turn }));
        }
        out.push(Action::Abandon { turn });
        active
            .exchange
            .finish(&active.text[active.journalled..], false);
        self.commit(active.exchange);
        out.push(ended(turn, Outcome::Completed, active.timing, at.now));
        self.next_queued(at, out);
    }

    /// Ends the running turn because something else is to be heard.
    fn interrupt(&mut self, at: Moment, out: &mut Vec<Action>) {
        let Some(active) = self.active.take() else {
            return;
        };
        let (turn, timing) = (active.turn, active.timing);
        let heard = self.cut(active, at, true, out);
        out.push(ended(turn, Outcome::Interrupted { heard }, timing, at.now));
    }

    fn fail_provider(
        &mut self,
        component: Component,
        source: ProviderError,
        at: Moment,
        out: &mut Vec<Action>,
    ) {
        self.fail(TurnError::Provider { component, source }, at, out);
    }

    fn fail(&mut self, error: TurnError, at: Moment, out: &mut Vec<Action>) {
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
        for (call, slot) in &mut active.batch {
            if slot.is_none() {
                let failure =
                    ToolFailure::new(FailureCategory::Cancelled, "cancelled: the caller spoke");
                out.push(Action::Emit(TurnEvent::ToolEnded {
                    turn,
                    call: call.clone(),
                    result: Err(failure.clone()),
                    duration: Duration::ZERO,
                }));
                *slot = Some(Err(failure));
            }
        }
        active.journal_tools();
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
            self.carried = Some(active.question);
        }
        heard
    }

    fn commit(&mut self, exchange: Exchange) {
        // What leaves the window is forgotten: there is no summariser.
        let _left = self.history.commit(exchange);
    }

    fn next_queued(&mut self, at: Moment, out: &mut Vec<Action>) {
        if !self.is_answering()
            && matches!(self.ears, Ears::Quiet)
            && let Some((text, attachments)) = self.queued.pop_front()
        {
            self.text(text, attachments, TextPolicy::Interrupt, at, out);
        }
    }

    fn close(&mut self, at: Moment, out: &mut Vec<Action>) {
        self.queued.clear();
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

impl Active {
    /// Lets the chunker work and queues what it cut.
    fn chunk(&mut self, work: impl FnOnce(&mut dyn SentenceChunker, &mut Vec<Segment>)) {
        let mut segments = Vec::new();
        work(&mut *self.chunker, &mut segments);
        self.waiting.extend(segments);
    }

    /// Where the text ends that was cut into segments so far.
    fn said_so_far(&self) -> usize {
        let waiting = self.waiting.back().map(|segment| segment.span.end);
        waiting
            .or_else(|| self.spans.last().map(|span| span.span.end))
            .unwrap_or(0)
    }

    /// Moves a finished batch of tool results into the journal, in request order (X1).
    fn journal_tools(&mut self) {
        for (call, result) in self.batch.drain(..) {
            let Some(result) = result else { continue };
            let text = model_text(&result);
            let journalled =
                self.exchange
                    .push_tool_result(call.call_id, call.name, text, result.is_err());
            // The calls of the batch are those of the last response, so this cannot fail; a lost result is shown
            // to the model as cancelled.
            debug_assert!(journalled.is_ok());
        }
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
