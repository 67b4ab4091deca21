//! Where speech goes: one output per turn, bounded by the duration of the audio in it.
//!
//! A turn owns its output. Opening the output of the next turn cancels the previous one, so a late synthesis worker
//! writes where nobody listens. The media crate implements [`AudioSink`] on an RTP track, the server on `tts-chunk`
//! messages, tests on a clock.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use tokio::sync::mpsc;

use crate::{audio::PcmChunk, id::TurnId};

/// The longest audio an output holds ahead of playout (PI3). Full: the writer waits, which slows synthesis down and
/// nothing else. Two seconds bridge a vendor's hiccup, and what the vendor sent beyond them waits in the socket's buffer;
/// each second more would cost 48 kB in every speaking session.
pub const OUTPUT_QUEUE: Duration = Duration::from_secs(2);

/// Numbers the segments of one turn from 0.
pub type SegmentIndex = u32;

/// Plays the speech of turns, one at a time.
pub trait AudioSink: Send + Sync + 'static {
    /// Opens the output of `turn`, cancelling what is still open. News goes to `notify`; a full channel loses it.
    fn open(&self, turn: TurnId, notify: mpsc::Sender<PlayoutEvent>) -> TurnOutput;
}

/// Both ends of one turn's output.
pub struct TurnOutput {
    /// For the synthesis task.
    pub writer: Box<dyn AudioWriter>,
    /// For the session task.
    pub control: Arc<dyn OutputControl>,
}

impl std::fmt::Debug for TurnOutput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TurnOutput")
    }
}

/// The output was cancelled or its transport is gone. Stop producing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the output is closed")]
pub struct OutputClosed;

/// The producing end. Dropping it without [`OutputControl::finish`] plays what was written and waits for more.
#[async_trait]
pub trait AudioWriter: Send {
    /// Queues audio of `segment`; segments come in order, each possibly in many pieces. Any sample rate: the sink
    /// resamples once, keeping its filter state within a segment. Waits while [`OUTPUT_QUEUE`] is full.
    ///
    /// # Cancel safety
    /// Dropping the future queues nothing or the whole piece.
    ///
    /// # Errors
    /// [`OutputClosed`] once the turn is cancelled.
    async fn write(&mut self, segment: SegmentIndex, audio: PcmChunk) -> Result<(), OutputClosed>;

    /// Says that `segment` has no more audio, so that its tail leaves the resampler.
    ///
    /// # Errors
    /// [`OutputClosed`] once the turn is cancelled.
    async fn end_segment(&mut self, segment: SegmentIndex) -> Result<(), OutputClosed>;
}

/// The deciding end. All methods return at once.
pub trait OutputControl: Send + Sync {
    /// Pauses playout with a short fade, keeping the position. Idempotent.
    fn hold(&self);
    /// Continues from the same sample. Idempotent.
    fn release(&self);
    /// Says that everything was written: [`PlayoutEvent::Drained`] follows once the last sample has left.
    fn finish(&self);
    /// Fades out within 10 ms, drops the rest and returns how far playout came. Idempotent.
    fn cancel(&self) -> Played;
    /// How far playout came.
    fn played(&self) -> Played;
}

/// The play head: every segment before `segment` was played to its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Played {
    /// The segment being played, or the last one that was.
    pub segment: SegmentIndex,
    /// How much of that segment's audio was played.
    pub within: Duration,
}

/// News from a turn's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PlayoutEvent {
    /// The first sample was sent.
    Started {
        /// Whose output.
        turn: TurnId,
        /// When.
        at: Instant,
    },
    /// The last sample was sent, plus one frame time. Follows [`OutputControl::finish`], never a cancel.
    Drained {
        /// Whose output.
        turn: TurnId,
        /// When.
        at: Instant,
    },
    /// The queue ran dry in the middle of a segment.
    Underrun {
        /// Whose output.
        turn: TurnId,
    },
}

impl PlayoutEvent {
    /// Whose output this is about.
    pub fn turn(&self) -> TurnId {
        match self {
            Self::Started { turn, .. } | Self::Drained { turn, .. } | Self::Underrun { turn } => {
                *turn
            }
        }
    }
}

/// Decodes what one-shot synthesis returns (MP3, WAV, Ogg). Implemented by the media crate.
pub trait AudioDecoder: Send + Sync + 'static {
    /// Decodes piece by piece, so that the first samples do not wait for the last. Called on a blocking thread.
    ///
    /// # Errors
    /// When the container is not recognised. Damage further in comes through the iterator.
    fn decode(&self, audio: crate::audio::EncodedAudio) -> Result<DecodedAudio, DecodeError>;
}

/// Decoded pieces, mono, all at one rate.
pub type DecodedAudio = Box<dyn Iterator<Item = Result<PcmChunk, DecodeError>> + Send>;

/// Audio that cannot be decoded.
#[derive(Debug, thiserror::Error)]
#[error("cannot decode {format} audio: {reason}")]
pub struct DecodeError {
    /// The format's name.
    pub format: &'static str,
    /// What was wrong, without content.
    pub reason: String,
}
