use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    audio::{EncodedAudio, Utterance},
    guardrail::Refusal,
    id::TurnId,
    message::{Attachment, ToolCall},
    playout::{Played, PlayoutEvent, SegmentIndex},
    provider::{LlmChunk, LlmRequest, ProviderError},
    speech::SpeechEvent,
    tool::ToolFailure,
    turn::TurnEvent,
};

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
    /// A guardrail refused what was said.
    TranscriptRefused {
        /// The transcription.
        job: SttJob,
        /// Which, and what to say instead.
        refusal: Refusal,
    },
    /// A guardrail refused a typed message.
    TextRefused(Refusal),
    /// A guardrail stopped the answer.
    Refused {
        /// The turn.
        turn: TurnId,
        /// Which, and what to say instead.
        refusal: Refusal,
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
    /// Caller and listener are gone, for now: whatever was being said or played ends here.
    SourceLost,
    /// Stop talking, by request.
    Interrupt,
    /// The call is over: everything in flight is settled and committed.
    Close,
    /// [`Machine::deadline`](super::Machine::deadline) has passed.
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
