use std::fmt;

use earshot::Detector;

use super::VoiceDetector;

/// The default detector: a small recurrent network inside the binary, 16 ms frames.
pub struct EarshotDetector(Box<Detector>);

impl EarshotDetector {
    /// A detector that has heard nothing.
    pub fn new() -> Self {
        Self(Box::default())
    }
}

impl Default for EarshotDetector {
    fn default() -> Self {
        Self::new()
    }
}

impl VoiceDetector for EarshotDetector {
    fn frame_samples(&self) -> usize {
        256
    }

    fn score(&mut self, frame: &[i16]) -> f32 {
        self.0.predict_i16(frame)
    }

    fn reset(&mut self) {
        self.0.reset();
    }
}

impl fmt::Debug for EarshotDetector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EarshotDetector")
    }
}
