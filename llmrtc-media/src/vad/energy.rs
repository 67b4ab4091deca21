use super::VoiceDetector;

/// Loud is voice: for tests and for microphones that are known to be quiet. 16 ms frames.
#[derive(Clone, Debug)]
pub struct EnergyDetector {
    threshold: f32,
}

impl EnergyDetector {
    /// `threshold`: root mean square amplitude (0–32 768) that scores one half.
    pub fn new(threshold: f32) -> Self {
        Self {
            threshold: threshold.max(1.0),
        }
    }
}

impl Default for EnergyDetector {
    /// Half at −36 dB of full scale.
    fn default() -> Self {
        Self::new(500.0)
    }
}

impl VoiceDetector for EnergyDetector {
    fn frame_samples(&self) -> usize {
        256
    }

    fn score(&mut self, frame: &[i16]) -> f32 {
        let power: f32 = frame.iter().map(|sample| f32::from(*sample).powi(2)).sum();
        let rms = (power / frame.len().max(1) as f32).sqrt();
        (rms / (2.0 * self.threshold)).min(1.0)
    }

    fn reset(&mut self) {}
}
