//! Paced playout: turns write speech, one 20 ms frame after the other leaves on time.
//!
//! [`Playout`] decides what is sent when and does no I/O; [`Speaker`] shares it between writers on the runtime, the
//! session that controls it, and the media thread that sends.

mod engine;
mod queue;
mod speaker;

use llmrtc_core::audio::SampleRate;

pub use self::{
    engine::{Frame, Playout, TurnKey},
    speaker::Speaker,
};

/// Everything leaves at the media clock of Opus.
const RATE: SampleRate = SampleRate::HZ_48000;
