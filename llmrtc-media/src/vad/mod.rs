//! Voice activity: detectors score frames, the [`gate`] turns scores into speech.

mod earshot;
mod energy;
pub mod gate;

use std::sync::Arc;

pub use self::{earshot::EarshotDetector, energy::EnergyDetector};
use crate::{config::DetectorKind, pipeline::DetectorFactory};

/// Makes the configured detector of each call; Earshot where it is Silero and there is none.
pub fn detector_factory(kind: DetectorKind, silero: Option<DetectorFactory>) -> DetectorFactory {
    match (kind, silero) {
        (DetectorKind::Silero, Some(silero)) => silero,
        (DetectorKind::Earshot | DetectorKind::Silero, _) => {
            Arc::new(|| Box::new(EarshotDetector::new()))
        }
        (DetectorKind::Energy, _) => Arc::new(|| Box::new(EnergyDetector::default())),
    }
}

/// Scores frames of 16 kHz mono audio. One per call: detectors keep state between frames.
pub trait VoiceDetector: Send {
    /// Samples that [`score`](Self::score) takes, at 16 kHz.
    fn frame_samples(&self) -> usize;

    /// How likely the frame is voice, 0–1. `frame` has [`frame_samples`](Self::frame_samples) samples.
    fn score(&mut self, frame: &[i16]) -> f32;

    /// Forgets everything heard so far.
    fn reset(&mut self);
}
