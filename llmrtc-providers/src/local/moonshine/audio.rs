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
    if audio.len() < SHORTEST || Levels::of(audio).loudest() < SILENT {
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
    let levels = Levels::of(piece).0;
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

/// How many samples at the end hold no speech.
pub(super) fn quiet_tail(audio: &[i16]) -> usize {
    let levels = Levels::of(audio);
    let pause = (levels.loudest() * PAUSE).max(SILENT);
    let tail = levels.0.iter().rev().take_while(|level| **level < pause);
    (tail.count() * FRAME).min(audio.len())
}

/// The constant part, which microphones and sound cards add and no ear hears.
fn offset(audio: &[i16]) -> f32 {
    let sum: i64 = audio.iter().map(|&sample| i64::from(sample)).sum();
    sum as f32 / audio.len().max(1) as f32
}

/// Root mean square per frame, in steps of 16 bit, without the constant part. Frames end where the audio ends.
struct Levels(Vec<f32>);

impl Levels {
    fn of(audio: &[i16]) -> Self {
        let offset = offset(audio);
        let mut levels: Vec<f32> = audio
            .rchunks(FRAME)
            .map(|frame| {
                let energy: f32 = frame
                    .iter()
                    .map(|&sample| (f32::from(sample) - offset).powi(2))
                    .sum();
                (energy / frame.len() as f32).sqrt()
            })
            .collect();
        levels.reverse();
        Self(levels)
    }

    fn loudest(&self) -> f32 {
        self.0.iter().copied().fold(0.0, f32::max)
    }
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

    proptest! {
        #[test]
        fn pieces_are_the_whole(length in 0usize..1_000_000, seed in any::<u16>()) {
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
