//! The log-mel spectrogram that the model hears.

use std::{array, f64::consts::PI, sync::Arc};

use realfft::{RealFftPlanner, RealToComplex};

/// Samples that are judged: 8 s at 16 kHz.
pub(super) const SAMPLES: usize = 128_000;
/// Mel bands, the rows of the spectrogram.
pub(super) const BANDS: usize = 80;
/// Frames, its columns.
pub(super) const FRAMES: usize = SAMPLES / HOP;

/// Samples of a frame: 25 ms.
const WINDOW: usize = 400;
/// Samples between the middles of two frames: 10 ms.
const HOP: usize = 160;
/// Frequencies of a frame, 40 Hz apart.
const BINS: usize = WINDOW / 2 + 1;
/// The least power that is told from none.
const FLOOR: f32 = 1e-10;
/// How far below the loudest place the spectrogram ends, in powers of ten.
const RANGE: f32 = 8.0;
/// Keeps silence from being divided by zero.
const SILENCE: f64 = 1e-7;

/// The front end of Whisper as smart-turn was trained with it.
pub(super) struct LogMel {
    fft: Arc<dyn RealToComplex<f32>>,
    window: [f32; WINDOW],
    bands: [Band; BANDS],
}

/// A triangle over the frequencies. Most of its weights would be zero, so only the others are kept.
struct Band {
    first: usize,
    weights: Vec<f32>,
}

impl LogMel {
    pub(super) fn new() -> Self {
        let hann = |n| 0.5 - 0.5 * (2.0 * PI * n as f64 / WINDOW as f64).cos();
        Self {
            fft: RealFftPlanner::new().plan_fft_forward(WINDOW),
            window: array::from_fn(|n| hann(n) as f32),
            bands: bands(),
        }
    }

    /// The spectrogram of the last 8 s of `audio`, band by band; what is missing is silence before it.
    pub(super) fn of(&self, audio: &[i16]) -> Vec<f32> {
        let missing = SAMPLES.saturating_sub(audio.len());
        let audio = normalised(audio);
        let mut frame = vec![0.0; WINDOW];
        let mut spectrum = self.fft.make_output_vec();
        let mut scratch = self.fft.make_scratch_vec();
        let mut power = [0.0; BINS];
        let mut mel = vec![0.0; BANDS * FRAMES];
        let mut loudest = f32::NEG_INFINITY;
        for index in 0..FRAMES {
            // Frames of nothing but the silence in front are all alike; mostly, that is half of them.
            if index > 0 && index * HOP + WINDOW / 2 <= missing {
                for row in mel.chunks_exact_mut(FRAMES) {
                    row[index] = row[index - 1];
                }
                continue;
            }
            self.cut(&audio, index, &mut frame);
            // The buffers are the transform's own, so their lengths are right.
            let transformed =
                self.fft
                    .process_with_scratch(&mut frame, &mut spectrum, &mut scratch);
            debug_assert!(transformed.is_ok());
            for (power, bin) in power.iter_mut().zip(&spectrum) {
                *power = bin.norm_sqr();
            }
            for (row, band) in self.bands.iter().enumerate() {
                let level = band.of(&power).max(FLOOR).log10();
                loudest = loudest.max(level);
                mel[row * FRAMES + index] = level;
            }
        }
        for level in &mut mel {
            *level = (level.max(loudest - RANGE) + 4.0) / 4.0;
        }
        mel
    }

    /// One windowed frame around its middle; beyond the ends, the audio is mirrored.
    fn cut(&self, audio: &[f32], index: usize, frame: &mut [f32]) {
        let middle = index * HOP;
        for (n, (sample, weight)) in frame.iter_mut().zip(&self.window).enumerate() {
            let place = (middle + n).abs_diff(WINDOW / 2);
            let place = place.min(2 * (SAMPLES - 1) - place);
            *sample = audio[place] * weight;
        }
    }
}

impl Band {
    fn of(&self, power: &[f32]) -> f32 {
        let power = &power[self.first..];
        power.iter().zip(&self.weights).map(|(p, w)| p * w).sum()
    }
}

/// The last 8 s with zero mean and unit variance, filled up with silence in front.
fn normalised(audio: &[i16]) -> Vec<f32> {
    let audio = &audio[audio.len().saturating_sub(SAMPLES)..];
    let scaled = |sample: &i16| f64::from(*sample) / 32_768.0;
    let mean = audio.iter().map(scaled).sum::<f64>() / SAMPLES as f64;
    let square = audio.iter().map(|s| scaled(s).powi(2)).sum::<f64>() / SAMPLES as f64;
    let deviation = ((square - mean * mean).max(0.0) + SILENCE).sqrt();
    let mut samples = vec![(-mean / deviation) as f32; SAMPLES - audio.len()];
    samples.extend(
        audio
            .iter()
            .map(|s| ((scaled(s) - mean) / deviation) as f32),
    );
    samples
}

/// Triangles of equal area, equally spaced on Slaney's scale from 0 to 8 kHz.
///
/// # Source
/// M. Slaney, *Auditory Toolbox*, Technical Report 1998-010, Interval Research: linear below 1 kHz, logarithmic above.
fn bands() -> [Band; BANDS] {
    const LINEAR_MELS: f64 = 15.0;
    const LINEAR_HERTZ: f64 = 1_000.0;
    const HERTZ_PER_MEL: f64 = LINEAR_HERTZ / LINEAR_MELS;
    // The logarithmic part has 27 steps from 1 to 6.4 kHz.
    let log_step = 6.4f64.ln() / 27.0;
    let highest = LINEAR_MELS + (8_000.0 / LINEAR_HERTZ).ln() / log_step;
    let corner = |index: usize| {
        let mels = highest * index as f64 / (BANDS + 1) as f64;
        if mels < LINEAR_MELS {
            mels * HERTZ_PER_MEL
        } else {
            LINEAR_HERTZ * (log_step * (mels - LINEAR_MELS)).exp()
        }
    };
    array::from_fn(|band| {
        let [low, peak, high] = [band, band + 1, band + 2].map(corner);
        let weight = |bin: usize| {
            let hertz = 8_000.0 * bin as f64 / (BINS - 1) as f64;
            let rising = (hertz - low) / (peak - low);
            let falling = (high - hertz) / (high - peak);
            rising.min(falling).max(0.0) * 2.0 / (high - low)
        };
        let is_used = |bin: &usize| weight(*bin) > 0.0;
        let first = (0..BINS).find(is_used).unwrap_or(0);
        let weights = (first..BINS)
            .take_while(is_used)
            .map(|bin| weight(bin) as f32);
        Band {
            first,
            weights: weights.collect(),
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::local::testing::speech;

    /// The expected values are those of Whisper's own front end, computed in double precision.
    #[test]
    fn features_are_those_that_the_model_was_trained_with() {
        let mel = LogMel::new().of(&speech());
        assert_eq!(mel.len(), BANDS * FRAMES);
        let mean = mel.iter().sum::<f32>() / mel.len() as f32;
        let expected = [
            (mel[799], 0.901_551_5),
            (mel[40 * FRAMES + 700], 0.550_588_4),
            (mel[79 * FRAMES + 600], -0.032_580_5),
            (mel[10 * FRAMES], -0.032_580_5),
            (mel[2 * FRAMES + 433], -0.032_580_5),
            (mel[434], 0.019_113_5),
            (mean, 0.315_550_4),
        ];
        for (ours, theirs) in expected {
            assert!((ours - theirs).abs() < 1e-3, "{ours} {theirs}");
        }
    }

    #[test]
    fn only_the_last_eight_seconds_count() {
        let front = LogMel::new();
        let speech = speech().repeat(3);
        assert_eq!(
            front.of(&speech),
            front.of(&speech[speech.len() - SAMPLES..])
        );
    }

    #[test]
    fn silence_and_extremes_are_numbers() {
        let front = LogMel::new();
        for audio in [
            vec![],
            vec![0; 10],
            vec![i16::MIN; SAMPLES],
            vec![i16::MAX; 5],
        ] {
            assert!(front.of(&audio).iter().all(|level| level.is_finite()));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]
        #[test]
        fn any_audio_has_finite_features(audio in proptest::collection::vec(any::<i16>(), 0..2_000)) {
            let mel = LogMel::new().of(&audio);
            prop_assert!(mel.iter().all(|level| level.is_finite()));
        }
    }
}
