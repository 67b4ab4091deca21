//! Speech from the synthesisers of the system.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, ensure};
use llmrtc_core::audio::SampleRate;
use llmrtc_media::{codec::wav::WavReader, resample::Resampler};

pub(crate) const RATE: SampleRate = SampleRate::HZ_16000;

/// How loud everybody speaks: root mean square while voiced, about −24 dB of full scale.
pub(crate) const SPEECH_RMS: f32 = 2_000.0;

/// A speaker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Voice {
    program: Program,
    name: &'static str,
    /// Duration relative to the voice's own.
    pace: f32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Program {
    Flite,
    Espeak,
}

const fn flite(name: &'static str, pace: f32) -> Voice {
    Voice {
        program: Program::Flite,
        name,
        pace,
    }
}

const fn espeak(name: &'static str, pace: f32) -> Voice {
    Voice {
        program: Program::Espeak,
        name,
        pace,
    }
}

pub(crate) const VOICES: [Voice; 8] = [
    flite("slt", 1.0),
    flite("rms", 0.95),
    flite("awb", 1.0),
    flite("slt", 0.85),
    flite("rms", 1.15),
    flite("kal16", 1.0),
    espeak("en-us+f3", 1.0),
    espeak("en-us", 1.1),
];

impl Voice {
    pub(crate) fn name(self) -> String {
        let program = match self.program {
            Program::Flite => "flite",
            Program::Espeak => "espeak-ng",
        };
        format!("{program} {} ×{}", self.name, self.pace)
    }

    /// Says `text`: 16 kHz, of the common loudness, without the silence around it.
    pub(crate) fn say(self, text: &str) -> anyhow::Result<Vec<i16>> {
        let file = std::env::temp_dir().join(format!("llmrtc-turns-{}.wav", std::process::id()));
        let audio = self.run(text, &file);
        // It may not be there.
        let _ = std::fs::remove_file(&file);
        let audio = audio?;
        let audio = loudness(trim(&audio), SPEECH_RMS);
        ensure!(!audio.is_empty(), "{} said nothing", self.name());
        Ok(audio)
    }

    fn run(self, text: &str, file: &Path) -> anyhow::Result<Vec<i16>> {
        let mut command = match self.program {
            Program::Flite => {
                let mut command = Command::new("flite");
                let pace = format!("duration_stretch={}", self.pace);
                command.args(["-voice", self.name, "--setf", &pace, "-t", text, "-o"]);
                command
            }
            Program::Espeak => {
                let mut command = Command::new("espeak-ng");
                let words = format!("{}", (165.0 / self.pace) as u32);
                command.args(["-v", self.name, "-s", &words, text, "-w"]);
                command
            }
        };
        let status =
            command.arg(file).stdout(Stdio::null()).status().context(
                "no speech synthesiser: install the Debian packages flite and espeak-ng",
            )?;
        ensure!(status.success(), "{} failed", self.name());
        let pcm = WavReader::new(std::fs::read(file)?.into())?.read_all();
        if pcm.rate() == RATE {
            return Ok(pcm.samples().to_vec());
        }
        let mut resampler = Resampler::new(pcm.rate(), RATE);
        let mut audio = Vec::new();
        resampler.process(pcm.samples(), &mut audio);
        resampler.flush(&mut audio);
        Ok(audio)
    }
}

/// Samples of a windowed level.
const WINDOW: usize = 160;

pub(crate) fn rms(audio: &[i16]) -> f32 {
    let power: f32 = audio.iter().map(|sample| f32::from(*sample).powi(2)).sum();
    (power / audio.len().max(1) as f32).sqrt()
}

/// Which windows of 10 ms are within 35 dB of the loudest.
fn sounding(audio: &[i16]) -> Vec<bool> {
    let levels: Vec<f32> = audio.chunks(WINDOW).map(rms).collect();
    let loudest = levels.iter().copied().fold(0.0, f32::max);
    levels.iter().map(|level| *level > loudest / 56.0).collect()
}

/// Cuts silence off both ends, so that the last sample is the end of the voice.
fn trim(audio: &[i16]) -> &[i16] {
    let sounding = sounding(audio);
    let first = sounding.iter().position(|sounds| *sounds).unwrap_or(0);
    let last = sounding.iter().rposition(|sounds| *sounds).unwrap_or(0);
    &audio[first * WINDOW..((last + 1) * WINDOW).min(audio.len())]
}

/// Scales what sounds to `target`.
pub(crate) fn loudness(audio: &[i16], target: f32) -> Vec<i16> {
    let sounding = sounding(audio);
    let loud: Vec<i16> = audio
        .chunks(WINDOW)
        .zip(&sounding)
        .filter(|(_, sounds)| **sounds)
        .flat_map(|(window, _)| window)
        .copied()
        .collect();
    let gain = target / rms(&loud).max(1.0);
    audio
        .iter()
        .map(|sample| (f32::from(*sample) * gain).clamp(-32_000.0, 32_000.0) as i16)
        .collect()
}

/// The silences within `audio` of at least 60 ms, as sample ranges: where a comma was.
pub(crate) fn breaks(audio: &[i16]) -> Vec<std::ops::Range<usize>> {
    let sounding = sounding(audio);
    let mut found = Vec::new();
    let mut since = None;
    for (at, sounds) in sounding.iter().enumerate() {
        match (sounds, since) {
            (false, None) => since = Some(at),
            (true, Some(begun)) => {
                if at - begun >= 6 {
                    found.push(begun * WINDOW..at * WINDOW);
                }
                since = None;
            }
            _ => {}
        }
    }
    found
}

pub(crate) fn samples(duration: Duration) -> usize {
    RATE.samples_in(duration)
}
