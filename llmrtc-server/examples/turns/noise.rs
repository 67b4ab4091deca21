//! Sounds that are nobody's turn, made from seeds.

use std::f32::consts::TAU;

use crate::{
    random::Random,
    voice::{SPEECH_RMS, rms},
};

const RATE: f32 = 16_000.0;

/// Adds `sound`, repeated as needed, to `audio`, `snr_db` below the common loudness of speech.
pub(crate) fn mix(audio: &mut [i16], sound: &[i16], snr_db: f32) {
    let gain = SPEECH_RMS * 10f32.powf(-snr_db / 20.0) / rms(sound).max(1.0);
    for (sample, noise) in audio.iter_mut().zip(sound.iter().cycle()) {
        let sum = f32::from(*sample) + gain * f32::from(*noise);
        *sample = sum.clamp(-32_768.0, 32_767.0) as i16;
    }
}

fn pcm(sound: Vec<f32>) -> Vec<i16> {
    let peak = sound.iter().fold(1e-6f32, |peak, x| peak.max(x.abs()));
    sound
        .iter()
        .map(|sample| (sample / peak * 12_000.0) as i16)
        .collect()
}

/// A room with a fan: noise that falls with frequency.
pub(crate) fn room(random: &mut Random, seconds: f32) -> Vec<i16> {
    let (mut low, mut lower) = (0.0, 0.0);
    pcm((0..(seconds * RATE) as usize)
        .map(|_| {
            let white = random.noise();
            low += 0.2 * (white - low);
            lower += 0.02 * (white - lower);
            0.05 * white + 0.5 * low + 2.0 * lower
        })
        .collect())
}

/// One to three coughs: bursts of breath through the resonances of a throat, rising in 5 ms and dying away.
pub(crate) fn coughs(random: &mut Random) -> Vec<i16> {
    let mut sound = Vec::new();
    for _ in 0..=random.below(3) {
        let length = random.between(0.12, 0.32) * RATE;
        let damping = random.between(0.75, 0.93);
        let formants = [
            random.between(450.0, 700.0),
            random.between(1_300.0, 1_800.0),
            random.between(2_400.0, 3_000.0),
        ];
        let mut state = [[0.0f32; 2]; 3];
        sound.extend((0..length as usize).map(|n| {
            let breath = random.noise();
            let sum: f32 = formants
                .iter()
                .zip(&mut state)
                .map(|(formant, [near, far])| {
                    let angle = TAU * formant / RATE;
                    let y =
                        0.3 * breath + 2.0 * damping * angle.cos() * *near - damping.powi(2) * *far;
                    (*far, *near) = (*near, y);
                    y
                })
                .sum();
            (n as f32 / 80.0).min(1.0) * (-3.0 * n as f32 / length).exp() * sum
        }));
        let gap = random.between(0.08, 0.3) * RATE;
        sound.extend(std::iter::repeat_n(0.0, gap as usize));
    }
    pcm(sound)
}

/// Typing: two clicks a key, four to nine keys a second.
pub(crate) fn typing(random: &mut Random, seconds: f32) -> Vec<i16> {
    let mut sound = vec![0.0; (seconds * RATE) as usize];
    let mut at = 0.0;
    while at < seconds - 0.3 {
        for (delay, loud) in [(0.0, 1.0), (random.between(0.05, 0.1), 0.5)] {
            let begun = ((at + delay) * RATE) as usize;
            let loud = loud * random.between(0.4, 1.0);
            let tone = random.between(1_500.0, 4_000.0);
            for n in 0..160 {
                let fade = (-(n as f32) / random.between(20.0, 45.0)).exp();
                let ring = (TAU * tone * n as f32 / RATE).sin();
                sound[begun + n] += loud * fade * (0.7 * random.noise() + 0.3 * ring);
            }
        }
        at += 1.0 / random.between(4.0, 9.0);
    }
    pcm(sound)
}

/// Music: chords, a melody with vibrato, and a drum.
pub(crate) fn music(random: &mut Random, seconds: f32) -> Vec<i16> {
    let length = (seconds * RATE) as usize;
    let mut sound = vec![0.0f32; length];
    let mut add = |at: f32, lasts: f32, hertz: f32, loud: f32, vibrato: f32| {
        let begun = (at * RATE) as usize;
        for n in 0..(lasts * RATE) as usize {
            let Some(sample) = sound.get_mut(begun + n) else {
                break;
            };
            let time = n as f32 / RATE;
            let fade = (time / 0.01).min(1.0) * (-1.5 * time / lasts).exp();
            let phase = TAU * hertz * time + vibrato * (TAU * 5.5 * time).sin();
            let tone: f32 = (1..6)
                .map(|harmonic| (phase * harmonic as f32).sin() / (harmonic as f32).powf(1.3))
                .sum();
            *sample += loud * fade * tone;
        }
    };
    let beat = random.between(0.4, 0.6);
    let key = random.between(110.0, 165.0);
    let step = |key: f32, half_tones: f32| key * 2f32.powf(half_tones / 12.0);
    let mut at = 0.0;
    while at < seconds {
        let root = [0.0, 5.0, 7.0, 9.0][random.below(4)];
        for tone in [0.0, 4.0, 7.0] {
            add(at, 4.0 * beat, step(key, root + tone), 0.3, 0.0);
        }
        for note in 0..4 {
            let scale = [12.0, 14.0, 16.0, 19.0, 21.0, 24.0][random.below(6)];
            let vibrato = random.between(0.0, 0.6);
            add(
                at + note as f32 * beat,
                beat,
                step(key, root + scale),
                0.5,
                vibrato,
            );
            add(at + note as f32 * beat, 0.12, 60.0, 0.8, 0.0);
        }
        at += 4.0 * beat;
    }
    pcm(sound)
}

/// People speaking in the background: `speakers` of the given sentences at once, from different points.
pub(crate) fn babble(
    random: &mut Random,
    sentences: &[Vec<i16>],
    speakers: usize,
    seconds: f32,
) -> Vec<i16> {
    let length = (seconds * RATE) as usize;
    let mut sound = vec![0.0; length];
    for _ in 0..speakers {
        let mut at = 0;
        let loud = random.between(0.6, 1.0);
        while at < length {
            let sentence = &sentences[random.below(sentences.len())];
            let begun = if at == 0 {
                random.below(sentence.len())
            } else {
                0
            };
            for (slot, sample) in sound[at..].iter_mut().zip(&sentence[begun..]) {
                *slot += loud * f32::from(*sample);
            }
            at += sentence.len() - begun + (random.between(0.1, 0.5) * RATE) as usize;
        }
    }
    pcm(sound)
}
