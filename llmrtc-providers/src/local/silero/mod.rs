//! The Silero voice detector.
//!
//! A small recurrent network that tells voice from everything else that is loud. It hears better than the built-in
//! detector in noise, and costs more: less than a tenth of a millisecond for each 32 ms of audio.

use std::{fmt, path::Path, sync::Arc};

use ort::value::TensorRef;

use super::runtime::{Model, Runtime, RuntimeError, has_ports};

#[cfg(test)]
mod tests;

/// Samples that are scored at a time: 32 ms at 16 kHz. The network knows no other length.
pub const FRAME_SAMPLES: usize = 512;

/// Samples before the frame that the network hears again.
const CONTEXT: usize = 64;
/// Two vectors of a recurrent layer with 128 cells.
const STATE: usize = 2 * 128;
const RATE: [i64; 1] = [16_000];

/// After so many frames, 2 s, the state may be forgotten. Music and long noise drive it to where the network hears the
/// speech that follows one or two frames later than it could. Pipecat uses the same interval.
const FORGET_AFTER: u32 = 63;
/// It is forgotten only after so many frames, 320 ms, that are surely no voice: in speech, it would be missed.
const SURE_FRAMES: u32 = 10;
/// What is surely no voice.
const SURE: f32 = 0.1;

/// The network, of which every call makes a [detector](Self::detector). Clones share it.
///
/// For the models of Silero VAD 5 and 6 that take `input`, `state` and `sr`. All score alike; of the files that are
/// published, `silero_vad_op18_ifless.onnx` is by far the fastest.
///
/// # Source
/// Silero Team, *Silero VAD*, <https://github.com/snakers4/silero-vad>.
#[derive(Clone, Debug)]
pub struct Silero(Arc<Model>);

impl Silero {
    /// Loads the model file. Blocks for tens of milliseconds.
    ///
    /// # Errors
    /// [`RuntimeError`] when the file is missing, damaged or another model.
    pub fn load(runtime: &Runtime, path: &Path) -> Result<Self, RuntimeError> {
        let model = Model::load(runtime, path, |session| {
            has_ports(session, &["input", "state", "sr"], &["output", "stateN"])
        })?;
        Ok(Self(Arc::new(model)))
    }

    /// A detector that has heard nothing yet. Costs two kilobytes: detectors share the network, of which there are
    /// as many copies as threads have scored at the same moment.
    pub fn detector(&self) -> SileroDetector {
        SileroDetector {
            model: Arc::clone(&self.0),
            input: [0.0; CONTEXT + FRAME_SAMPLES],
            state: [0.0; STATE],
            since_forgotten: 0,
            sure: 0,
        }
    }
}

/// Scores the frames of one call.
///
/// Made for media threads: it computes on the thread that calls it, because to go to another and back would take longer.
pub struct SileroDetector {
    model: Arc<Model>,
    /// The end of the frame before, and the frame, −1 to 1.
    input: [f32; CONTEXT + FRAME_SAMPLES],
    /// What the network remembers.
    state: [f32; STATE],
    /// Frames since the state was empty.
    since_forgotten: u32,
    /// The latest frames that were surely no voice.
    sure: u32,
}

impl SileroDetector {
    /// How likely the frame is voice, 0–1. `frame`: mono, 16 kHz, follows the one before.
    ///
    /// What the network remembers is forgotten every 2 s while there is surely no voice: other sounds, music most of
    /// all, would else dull it.
    ///
    /// Blocks for about 0.1 ms; for about 10 ms when one more copy of the network is needed.
    ///
    /// # Errors
    /// [`RuntimeError::Run`] when the network fails. The next frame may succeed.
    pub fn score(&mut self, frame: &[i16; FRAME_SAMPLES]) -> Result<f32, RuntimeError> {
        self.input.copy_within(FRAME_SAMPLES.., 0);
        for (input, &sample) in self.input[CONTEXT..].iter_mut().zip(frame) {
            *input = f32::from(sample) / 32_768.0;
        }
        let Self { input, state, .. } = self;
        let score = self.model.with(|session| {
            let outputs = session.run(ort::inputs! {
                "input" => TensorRef::from_array_view(([1, input.len()], &input[..]))?,
                "state" => TensorRef::from_array_view(([2, 1, STATE / 2], &state[..]))?,
                "sr" => TensorRef::from_array_view(((), &RATE[..]))?,
            })?;
            let next = outputs
                .get("stateN")
                .ok_or_else(|| ort::Error::new("no stateN"))?;
            let next = next.try_extract_tensor::<f32>()?.1;
            if next.len() != STATE || !next.iter().all(|value| value.is_finite()) {
                return Err(ort::Error::new("the state is damaged"));
            }
            let score = outputs
                .get("output")
                .ok_or_else(|| ort::Error::new("no output"))?;
            let score = score.try_extract_tensor::<f32>()?.1.first().copied();
            state.copy_from_slice(next);
            score.ok_or_else(|| ort::Error::new("no score"))
        })?;
        self.forget_if_quiet(score);
        Ok(score)
    }

    /// Forgets everything heard so far.
    pub fn reset(&mut self) {
        self.input.fill(0.0);
        self.forget();
        self.sure = 0;
    }

    fn forget_if_quiet(&mut self, score: f32) {
        self.since_forgotten += 1;
        self.sure = if score < SURE { self.sure + 1 } else { 0 };
        if self.since_forgotten >= FORGET_AFTER && self.sure >= SURE_FRAMES {
            self.forget();
        }
    }

    fn forget(&mut self) {
        self.state.fill(0.0);
        self.since_forgotten = 0;
    }
}

impl fmt::Debug for SileroDetector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SileroDetector").finish_non_exhaustive()
    }
}
