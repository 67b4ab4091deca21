//! A talking machine of the simplest kind: every letter is a phone of sixty milliseconds.
//!
//! A glottal pulse train and noise excite three resonators whose frequencies follow the vowels; pitch falls through a
//! sentence, is lifted on the first syllable of each word, and rises at a question mark. The words cannot be
//! understood, but their number, the ends of sentences and questions can be heard.
//!
//! # Source
//! D. H. Klatt, "Software for a cascade/parallel formant synthesizer", J. Acoust. Soc. Am. 67 (1980), for the
//! resonator; G. E. Peterson and H. L. Barney, "Control methods used in a study of the vowels", J. Acoust. Soc. Am. 24
//! (1952), for the formants.

use std::{f32::consts::TAU, time::Duration};

use llmrtc_core::audio::SampleRate;

/// Samples per second of everything spoken here.
pub const RATE: SampleRate = SampleRate::HZ_24000;
/// Length of one letter at normal speed: sixteen letters a second, a brisk speaker.
pub const LETTER: Duration = Duration::from_millis(60);

const RATE_HZ: f32 = 24_000.0;
/// Pitch in the middle of a sentence.
const PITCH_HZ: f32 = 125.0;
/// Bandwidths of the three formants.
const BANDWIDTHS: [f32; 3] = [90.0, 110.0, 170.0];
/// How fast the mouth moves: time constant of all parameters.
const GLIDE_SECONDS: f32 = 0.012;
/// Parameters change every two milliseconds, often enough for the ear.
const CONTROL_SAMPLES: usize = 48;
/// Peaks stay 6 dB below full scale.
const PEAK: f32 = 16_000.0;

/// What the mouth does during one letter.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Phone {
    /// Loudness of the voice, 0–1.
    voice: f32,
    /// Loudness of friction, 0–1.
    noise: f32,
    /// Resonances in hertz.
    formants: [f32; 3],
    /// In letters' lengths.
    length: f32,
    /// Pitch relative to [`PITCH_HZ`].
    pitch: f32,
}

const SILENCE: Phone = Phone {
    voice: 0.0,
    noise: 0.0,
    formants: [500.0, 1500.0, 2500.0],
    length: 1.0,
    pitch: 1.0,
};

/// Speaks a text. The iterator yields samples at [`RATE`]; dropping it is all it takes to stop.
#[derive(Debug)]
pub struct Voice {
    phones: std::vec::IntoIter<Phone>,
    target: Phone,
    now: Phone,
    letter_samples: f32,
    /// Samples left of the current phone.
    left: usize,
    /// Samples left until the parameters move.
    control: usize,
    /// Position within the glottal cycle, 0–1.
    phase: f32,
    /// The glottal flow of the previous sample.
    flow: f32,
    /// State of the noise generator.
    noise: u32,
    resonators: [Resonator; 3],
}

impl Voice {
    /// Prepares to speak at `speed` times the normal rate, 0.25–4.
    pub fn new(text: &str, speed: f32) -> Self {
        let speed = if speed.is_finite() {
            speed.clamp(0.25, 4.0)
        } else {
            1.0
        };
        Self {
            phones: phones(text).into_iter(),
            target: SILENCE,
            now: SILENCE,
            letter_samples: LETTER.as_secs_f32() * RATE_HZ / speed,
            left: 0,
            control: 0,
            phase: 0.0,
            flow: 0.0,
            noise: 0x2545_F491,
            resonators: [Resonator::default(); 3],
        }
    }

    /// Moves all parameters towards their targets.
    fn glide(&mut self) {
        let step = CONTROL_SAMPLES as f32 / RATE_HZ / GLIDE_SECONDS;
        let toward = |now: &mut f32, target: f32| *now += (target - *now) * step.min(1.0);
        toward(&mut self.now.voice, self.target.voice);
        toward(&mut self.now.noise, self.target.noise);
        toward(&mut self.now.pitch, self.target.pitch);
        let mouth = self.now.formants.iter_mut().zip(self.target.formants);
        for ((now, target), (resonator, bandwidth)) in
            mouth.zip(self.resonators.iter_mut().zip(BANDWIDTHS))
        {
            toward(now, target);
            resonator.tune(*now, bandwidth);
        }
    }

    /// White noise in −1..1 (xorshift): the same text always sounds the same.
    fn hiss(&mut self) -> f32 {
        self.noise ^= self.noise << 13;
        self.noise ^= self.noise >> 17;
        self.noise ^= self.noise << 5;
        self.noise as f32 / u32::MAX as f32 * 2.0 - 1.0
    }
}

impl Iterator for Voice {
    type Item = i16;

    fn next(&mut self) -> Option<i16> {
        while self.left == 0 {
            self.target = self.phones.next()?;
            self.left = (self.target.length * self.letter_samples) as usize;
        }
        self.left -= 1;
        if self.control == 0 {
            self.control = CONTROL_SAMPLES;
            self.glide();
        }
        self.control -= 1;

        self.phase += self.now.pitch * PITCH_HZ / RATE_HZ;
        self.phase -= self.phase.floor();
        // Rosenberg's glottal flow: opens slowly, closes fast, rests.
        let flow = match self.phase {
            p if p < 0.4 => 0.5 * (1.0 - (p / 0.4 * TAU / 2.0).cos()),
            p if p < 0.56 => ((p - 0.4) / 0.16 * TAU / 4.0).cos(),
            _ => 0.0,
        };
        let hiss = self.hiss();
        // Lips radiate the change of the flow, not the flow: without this the voice is muffled.
        let radiated = 11.0 * (flow - 0.98 * std::mem::replace(&mut self.flow, flow));
        let source = self.now.voice * (radiated + 0.02 * hiss) + self.now.noise * 0.12 * hiss;
        // Higher resonances are weaker in the voice but carry the friction.
        let gains = [1.0, 0.7, 0.45 + 1.2 * self.now.noise];
        let mut out = 0.0;
        for (resonator, gain) in self.resonators.iter_mut().zip(gains) {
            out += gain * resonator.filter(source);
        }
        Some(((out * 2.4).tanh() * PEAK) as i16)
    }
}

/// A second-order resonance with unity gain at its centre.
#[derive(Clone, Copy, Debug, Default)]
struct Resonator {
    a: f32,
    b: f32,
    c: f32,
    last: [f32; 2],
}

impl Resonator {
    fn tune(&mut self, frequency: f32, bandwidth: f32) {
        let radius = (-TAU / 2.0 * bandwidth / RATE_HZ).exp();
        let angle = TAU * frequency / RATE_HZ;
        self.c = -radius * radius;
        self.b = 2.0 * radius * angle.cos();
        // |H| at the centre: (1 - r)·√(1 - 2r·cos 2θ + r²), Smith, *Introduction to Digital Filters*.
        self.a =
            (1.0 - radius) * (1.0 - 2.0 * radius * (2.0 * angle).cos() + radius * radius).sqrt();
    }

    fn filter(&mut self, input: f32) -> f32 {
        let out = self.a * input + self.b * self.last[0] + self.c * self.last[1];
        self.last = [out, self.last[0]];
        out
    }
}

/// Spells a text in phones, with the melody of its sentences.
fn phones(text: &str) -> Vec<Phone> {
    let letters: Vec<char> = text.chars().flat_map(char::to_lowercase).collect();
    let mut phones: Vec<Phone> = Vec::with_capacity(letters.len() + 1);
    let mut start = 0;
    for at in 0..=letters.len() {
        let ends = letters
            .get(at)
            .is_none_or(|c| is_sentence_end(*c) && breaks(letters.get(at + 1)));
        if !ends {
            continue;
        }
        sentence(&letters[start..at], letters.get(at).copied(), &mut phones);
        start = (at + 1).min(letters.len());
    }
    phones
}

fn is_sentence_end(c: char) -> bool {
    matches!(c, '.' | '!' | '?' | '…' | '。' | '！' | '？')
}

/// Whether a mark in front of `next` ends a sentence; it does not in `3.5`.
fn breaks(next: Option<&char>) -> bool {
    next.is_none_or(|c| !c.is_ascii_digit())
}

fn sentence(letters: &[char], end: Option<char>, phones: &mut Vec<Phone>) {
    let speaks = letters.iter().any(|c| c.is_alphanumeric());
    let question = matches!(end, Some('?' | '？'));
    let mut in_word = 0;
    for (at, letter) in letters.iter().enumerate() {
        let Some(mut phone) = phone(*letter) else {
            continue;
        };
        in_word = if letter.is_alphanumeric() {
            in_word + 1
        } else {
            0
        };
        let progress = at as f32 / letters.len() as f32;
        let fall = 1.14 - 0.26 * progress;
        let accent = if (1..=3).contains(&in_word) {
            0.09
        } else {
            0.0
        };
        // The last few letters carry the question.
        let rise = match letters.len() - at {
            left if question && left <= 5 => 0.14 * (6 - left) as f32,
            _ => 0.0,
        };
        phone.pitch = fall + accent + rise;
        phones.push(phone);
    }
    if speaks {
        let length = if end.is_some() { 5.0 } else { 1.0 };
        phones.push(Phone { length, ..SILENCE });
    }
}

/// How a letter sounds; `None` for what is not spoken.
fn phone(letter: char) -> Option<Phone> {
    let vowel = |formants| Phone {
        voice: 1.0,
        formants,
        ..SILENCE
    };
    let friction = |voice, noise, formants| Phone {
        voice,
        noise,
        formants,
        ..SILENCE
    };
    Some(match letter {
        'a' | 'á' | 'à' | 'â' | 'å' | 'ä' => vowel([730.0, 1090.0, 2440.0]),
        'e' | 'é' | 'è' | 'ê' => vowel([530.0, 1840.0, 2480.0]),
        'i' | 'í' | 'y' => vowel([300.0, 2240.0, 2950.0]),
        'o' | 'ó' | 'ô' | 'ö' => vowel([500.0, 860.0, 2410.0]),
        'u' | 'ú' | 'ü' | 'w' => vowel([330.0, 870.0, 2240.0]),
        'm' | 'n' => Phone {
            voice: 0.5,
            ..vowel([270.0, 1000.0, 2200.0])
        },
        'l' | 'r' | 'j' => Phone {
            voice: 0.65,
            ..vowel([360.0, 1200.0, 2600.0])
        },
        's' | 'z' | 'c' | 'x' | 'ß' => friction(0.0, 0.9, [700.0, 4200.0, 6000.0]),
        'f' | 'v' | 'h' => friction(0.15, 0.55, [600.0, 1600.0, 4000.0]),
        'b' | 'd' | 'g' => friction(0.3, 0.1, [250.0, 1400.0, 2400.0]),
        'p' | 't' | 'k' | 'q' => friction(0.0, 0.35, [500.0, 1900.0, 3600.0]),
        ',' | ';' | ':' | '，' | '、' => Phone {
            length: 2.5,
            ..SILENCE
        },
        c if c.is_whitespace() => SILENCE,
        // Digits and other scripts: some vowel, always the same for the same character.
        c if c.is_alphanumeric() => {
            let vowels = ['a', 'e', 'i', 'o', 'u'];
            return phone(vowels[c as usize % vowels.len()]);
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn speak(text: &str) -> Vec<i16> {
        Voice::new(text, 1.0).collect()
    }

    fn rms(samples: &[i16]) -> f64 {
        let energy: f64 = samples.iter().map(|s| f64::from(*s).powi(2)).sum();
        (energy / samples.len().max(1) as f64).sqrt()
    }

    #[test]
    fn a_letter_lasts_sixty_milliseconds() {
        let text = "The quick brown fox jumps over the lazy dog near the river bank";
        let expected = LETTER.as_secs_f64() * text.len() as f64;
        let spoken = RATE.duration_of(speak(text).len()).as_secs_f64();
        assert!(
            (spoken / expected - 1.0).abs() < 0.1,
            "{spoken} s for {expected} s"
        );
        let fast = Voice::new(text, 2.0).count();
        assert!((fast as f64 * 2.0 / speak(text).len() as f64 - 1.0).abs() < 0.01);
    }

    #[test]
    fn speech_is_loud_enough_and_never_clips() {
        let samples = speak("Hello there, how are you today?");
        assert!(rms(&samples) > 1_500.0, "rms {}", rms(&samples));
        assert!(samples.iter().all(|sample| sample.unsigned_abs() < 17_000));
    }

    #[test]
    fn sentences_are_separated_by_silence() {
        let samples = speak("One. Two.");
        let quiet = samples
            .chunks(RATE.samples_in(Duration::from_millis(20)))
            .map(|frame| rms(frame) < 100.0)
            .collect::<Vec<_>>();
        let longest = quiet
            .split(|quiet| !quiet)
            .map(<[bool]>::len)
            .max()
            .unwrap();
        assert!(longest >= 12, "longest pause {} ms", longest * 20);
        assert!(quiet.iter().any(|quiet| !quiet));
    }

    #[test]
    fn a_question_ends_higher_than_a_statement() {
        let last = |text: &str| {
            phones(text)
                .iter()
                .rev()
                .find(|p| p.voice > 0.0)
                .unwrap()
                .pitch
        };
        assert!(last("You are here?") > last("You are here.") + 0.3);
    }

    #[test]
    fn what_cannot_be_spoken_is_silent_and_short() {
        assert!(speak("").len() <= 1);
        assert!(speak("🙂 …!").len() < RATE.samples_in(Duration::from_millis(200)));
        assert!(rms(&speak("你好，世界。")) > 1_000.0);
        assert_eq!(
            Voice::new("a", f32::NAN).count(),
            Voice::new("a", 1.0).count()
        );
    }
}
