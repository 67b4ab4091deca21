//! What happens to audio before the network hears it: level, length, and where long speech is cut.

use std::ops::Range;

/// Samples of a frame whose level is measured: 20 ms at 16 kHz.
const FRAME: usize = 320;
/// Root mean square, in steps of 16 bit, below which a frame is silent whatever is around it: −70 dBFS. Speech that
/// is still understood is 10 dB louder.
const SILENT: f32 = 10.0;
/// A frame this much weaker than the loudest one around is a pause: −26 dB.
const PAUSE: f32 = 0.05;
/// Less than this is no word: 0.1 s.
const SHORTEST: usize = 1_600;
/// Shorter audio is filled up with silence to 0.5 s, because the network makes things up about fragments.
const FILLED: usize = 8_000;
/// The most that is recognised in one piece: 12 s. Longer pieces cost more than in proportion and lose words.
pub(super) const LONGEST: usize = 192_000;
/// Where a piece may be cut: from 6 s on.
const CUT_FROM: usize = 96_000;
/// A cut lies in the middle of the quietest 200 ms.
const CUT_FRAMES: usize = 10;

/// Audio as the network wants it: mono, 16 kHz, −1 to 1, without a constant part. `None` when there is nothing to hear.
pub(super) fn conditioned(audio: &[i16]) -> Option<Vec<f32>> {
    if audio.len() < SHORTEST || loudest(&Levels::of(audio).levels()) < SILENT {
        return None;
    }
    let offset = offset(audio);
    let mut samples: Vec<f32> = audio
        .iter()
        .map(|&sample| (f32::from(sample) - offset) / 32_768.0)
        .collect();
    samples.resize(samples.len().max(FILLED), 0.0);
    Some(samples)
}

/// Cuts an utterance into pieces of at most 12 s, at quiet places.
pub(super) fn pieces(audio: &[i16]) -> Vec<Range<usize>> {
    let mut pieces = Vec::new();
    let mut start = 0;
    while audio.len() - start > LONGEST {
        let end = start + quietest(&audio[start..start + LONGEST]);
        pieces.push(start..end);
        start = end;
    }
    pieces.push(start..audio.len());
    pieces
}

/// The quietest place of a piece of 12 s, but not in its first half.
pub(super) fn quietest(piece: &[i16]) -> usize {
    let levels = Levels::of(piece).levels();
    let from = (CUT_FROM / FRAME).min(levels.len());
    let quiet = levels[from..]
        .windows(CUT_FRAMES)
        .map(|window| window.iter().sum::<f32>())
        .enumerate()
        .min_by(|(_, a), (_, b)| a.total_cmp(b));
    match quiet {
        Some((index, _)) => (from + index + CUT_FRAMES / 2) * FRAME,
        None => piece.len(),
    }
}

/// The constant part, which microphones and sound cards add and no ear hears.
fn offset(audio: &[i16]) -> f32 {
    let sum: i64 = audio.iter().map(|&sample| i64::from(sample)).sum();
    sum as f32 / audio.len().max(1) as f32
}

/// How loud audio is, frame by frame. Grows with the audio, so that nothing is measured twice.
#[derive(Debug, Default)]
pub(super) struct Levels(Vec<Frame>);

/// What is needed to know the level of a frame once the constant part of the whole is known.
#[derive(Clone, Copy, Debug, Default)]
struct Frame {
    samples: usize,
    sum: i64,
    squares: i64,
}

impl Frame {
    fn push(&mut self, audio: &[i16]) {
        self.samples += audio.len();
        for &sample in audio {
            let sample = i64::from(sample);
            self.sum += sample;
            self.squares += sample * sample;
        }
    }

    /// Root mean square, in steps of 16 bit, without the constant part.
    fn level(&self, offset: f64) -> f32 {
        let (samples, sum) = (self.samples as f64, self.sum as f64);
        let energy = self.squares as f64 - 2.0 * offset * sum + offset * offset * samples;
        (energy.max(0.0) / samples).sqrt() as f32
    }
}

impl Levels {
    pub(super) fn of(audio: &[i16]) -> Self {
        let mut levels = Self::default();
        levels.push(audio);
        levels
    }

    pub(super) fn push(&mut self, mut audio: &[i16]) {
        while !audio.is_empty() {
            let full = |frame: &Frame| frame.samples == FRAME;
            if self.0.last().is_none_or(full) {
                self.0.push(Frame::default());
            }
            let Some(frame) = self.0.last_mut() else {
                return;
            };
            let (now, later) = audio.split_at(audio.len().min(FRAME - frame.samples));
            frame.push(now);
            audio = later;
        }
    }

    /// How many samples at the end hold no speech.
    pub(super) fn quiet_tail(&self) -> usize {
        let levels = self.levels();
        let pause = (loudest(&levels) * PAUSE).max(SILENT);
        let tail = levels.iter().rev().take_while(|level| **level < pause);
        let frames = self.0.iter().rev().take(tail.count());
        frames.map(|frame| frame.samples).sum()
    }

    fn levels(&self) -> Vec<f32> {
        let samples: usize = self.0.iter().map(|frame| frame.samples).sum();
        let sum: i64 = self.0.iter().map(|frame| frame.sum).sum();
        let offset = sum as f64 / samples.max(1) as f64;
        self.0.iter().map(|frame| frame.level(offset)).collect()
    }
}

fn loudest(levels: &[f32]) -> f32 {
    levels.iter().copied().fold(0.0, f32::max)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tone(samples: usize, amplitude: f32) -> Vec<i16> {
        (0..samples)
            .map(|n| ((n as f32 * 0.2).sin() * amplitude) as i16)
            .collect()
    }

    #[test]
    fn nothing_to_hear_is_nothing() {
        assert!(conditioned(&[]).is_none());
        assert!(conditioned(&[0; 32_000]).is_none());
        assert!(conditioned(&tone(32_000, 8.0)).is_none());
        // However far from zero: a constant is silence.
        assert!(conditioned(&[i16::MAX; 32_000]).is_none());
        assert!(conditioned(&tone(SHORTEST - 1, 9_000.0)).is_none());
    }

    #[test]
    fn the_constant_part_is_removed_and_fragments_are_filled() {
        let shifted: Vec<i16> = tone(4_000, 3_000.0).iter().map(|s| s + 9_000).collect();
        let samples = conditioned(&shifted).unwrap();
        assert_eq!(samples.len(), FILLED);
        let mean = samples.iter().sum::<f32>() / samples.len() as f32;
        assert!(mean.abs() < 1e-4, "{mean}");
        assert!(samples.iter().all(|sample| sample.abs() < 0.2));
    }

    #[test]
    fn long_speech_is_cut_in_its_pauses() {
        let mut audio = tone(30 * 16_000, 6_000.0);
        for second in [9, 17] {
            audio[second * 16_000..second * 16_000 + 6_400].fill(0);
        }
        let pieces = pieces(&audio);
        let cuts: Vec<usize> = pieces.iter().map(|piece| piece.end).collect();
        assert!(
            (9 * 16_000..9 * 16_000 + 6_400).contains(&cuts[0]),
            "{cuts:?}"
        );
        assert!(
            (17 * 16_000..17 * 16_000 + 6_400).contains(&cuts[1]),
            "{cuts:?}"
        );
    }

    #[test]
    fn the_quiet_tail_is_relative_to_the_speech() {
        let mut audio = tone(16_000, 6_000.0);
        assert_eq!(quiet_tail(&audio), 0);
        audio.extend(tone(4_800, 60.0));
        assert_eq!(quiet_tail(&audio), 4_800);
        assert_eq!(quiet_tail(&[0; 1_000]), 1_000);
        assert_eq!(quiet_tail(&[]), 0);
    }

    fn quiet_tail(audio: &[i16]) -> usize {
        // In uneven parts, because levels must not depend on how the audio comes.
        let mut levels = Levels::default();
        for part in audio.chunks(271) {
            levels.push(part);
        }
        levels.quiet_tail()
    }

    proptest! {
        #[test]
        fn pieces_are_the_whole(length in 0usize..600_000, seed in any::<u16>()) {
            let audio: Vec<i16> = (0..length)
                .map(|n| (n as u16).wrapping_mul(seed) as i16)
                .collect();
            let pieces = pieces(&audio);
            prop_assert_eq!(pieces[0].start, 0);
            prop_assert_eq!(pieces[pieces.len() - 1].end, length);
            prop_assert!(pieces.windows(2).all(|pair| pair[0].end == pair[1].start));
            prop_assert!(pieces.iter().all(|piece| piece.len() <= LONGEST));
        }
    }
}
