//! What the ears report: the caller's voice as events, produced by a media pipeline and consumed by the turn engine.

use std::time::Instant;

use crate::audio::{PcmChunk, Utterance};

/// One observation about the caller's voice.
///
/// Order for one utterance: `Onset`, then `Misfire` or `Confirmed`; after `Confirmed` any number of
/// `Paused`/`Resumed` pairs, then exactly one `Ended`. `Audio` comes between `Onset` and `Misfire`/`Ended`, and only
/// where live transcription asked for it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum SpeechEvent {
    /// First evidence of a voice. Nothing is certain yet: output is held, not cancelled.
    Onset {
        /// When the first voiced frame was captured.
        at: Instant,
    },
    /// The onset was noise. Held output continues from the same sample.
    Misfire,
    /// The onset is speech.
    Confirmed,
    /// Captured audio of this utterance, pre-speech padding first; mono, 16 kHz.
    Audio(PcmChunk),
    /// The caller has been silent for a moment. Transcription may start on what is there, to be thrown away on
    /// `Resumed`.
    Paused {
        /// The utterance so far.
        utterance: Utterance,
    },
    /// The caller went on speaking after `Paused`.
    Resumed,
    /// The utterance is over.
    Ended {
        /// All of it, padding included; mono, 16 kHz.
        utterance: Utterance,
        /// When the last voiced frame was captured. Response time is counted from here.
        last_voice: Instant,
        /// What ended it.
        reason: EndReason,
    },
}

/// What ended an utterance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EndReason {
    /// The endpointing policy decided that the caller was done.
    Endpoint,
    /// The longest allowed utterance was reached.
    TooLong,
    /// No packets arrived for a while.
    SourceLost,
    /// The microphone was taken away by renegotiation, or the call ended.
    SourceRemoved,
}
