//! Utterances as 16 kHz samples.

use std::{f64::consts::PI, sync::Arc};

use llmrtc_core::{
    audio::{AudioFormat, EncodedAudio, SampleRate, Utterance},
    provider::{ErrorKind, ProviderError},
};

use super::NAME;

/// Zero crossings of the interpolation filter on either side: 80 dB of rejection with a Blackman window.
const CROSSINGS: f64 = 16.0;

/// The samples of an utterance at 16 kHz, mono.
///
/// Reads PCM of any rate and RIFF WAVE with integers of 8 to 32 bits or floats. Other containers must be decoded before.
pub(super) fn samples(utterance: &Utterance) -> Result<Arc<[i16]>, ProviderError> {
    match utterance {
        Utterance::Pcm(pcm) => Ok(resampled(pcm.samples().into(), pcm.rate())),
        Utterance::Encoded(encoded) => {
            let (samples, rate) = decoded(encoded)?;
            Ok(resampled(samples.into(), rate))
        }
        _ => Err(invalid("this kind of utterance is not known here")),
    }
}

fn invalid(message: &str) -> ProviderError {
    ProviderError::new(ErrorKind::InvalidInput, NAME, message)
}

fn decoded(encoded: &EncodedAudio) -> Result<(Vec<i16>, SampleRate), ProviderError> {
    match encoded.format {
        AudioFormat::Wav => read_wave(&encoded.data).ok_or_else(|| {
            invalid("the WAV file is damaged or of a kind not supported: send 16-bit PCM")
        }),
        AudioFormat::Pcm => {
            let rate = encoded
                .rate
                .ok_or_else(|| invalid("headerless PCM needs a sample rate"))?;
            let pairs = encoded.data.chunks_exact(2);
            let samples = pairs.map(|pair| i16::from_le_bytes([pair[0], pair[1]]));
            Ok((samples.collect(), rate))
        }
        format => Err(invalid(&format!(
            "{} audio is not decoded here: send WAV or PCM",
            format.name()
        ))),
    }
}

/// Reads RIFF WAVE; channels are averaged. Data that ends early, or whose length was never filled in, is read as far
/// as it goes: recorders that stream write such files.
fn read_wave(file: &[u8]) -> Option<(Vec<i16>, SampleRate)> {
    let mut rest = file
        .strip_prefix(b"RIFF")?
        .get(4..)?
        .strip_prefix(b"WAVE")?;
    let mut format = None;
    loop {
        let (id, size) = (rest.get(..4)?, rest.get(4..8)?);
        let size = u32::from_le_bytes(size.try_into().ok()?) as usize;
        rest = &rest[8..];
        let body = &rest[..size.min(rest.len())];
        match id {
            b"fmt " => format = Some(WaveFormat::read(body)?),
            b"data" => {
                let format = format?;
                return Some((format.mono(body), format.rate));
            }
            // Tags, cue points and the like.
            _ => {}
        }
        // Chunks begin at even places.
        rest = rest.get(size.checked_add(size % 2)?..)?;
    }
}

#[derive(Clone, Copy)]
struct WaveFormat {
    channels: usize,
    rate: SampleRate,
    float: bool,
    /// Bytes of a sample, 1 to 4.
    width: usize,
}

impl WaveFormat {
    fn read(chunk: &[u8]) -> Option<Self> {
        let short = |at: usize| Some(u16::from_le_bytes(chunk.get(at..at + 2)?.try_into().ok()?));
        let rate = u32::from_le_bytes(chunk.get(4..8)?.try_into().ok()?);
        let tag = match short(0)? {
            // Extensible: the format is the beginning of an identifier.
            0xFFFE => short(24)?,
            tag => tag,
        };
        let width = usize::from(short(14)?.div_ceil(8));
        let float = match (tag, width) {
            (1, 1..=4) => false,
            (3, 4) => true,
            _ => return None,
        };
        let channels = usize::from(short(2)?);
        (1..=64).contains(&channels).then_some(())?;
        Some(Self {
            channels,
            rate: SampleRate::try_from(rate).ok()?,
            float,
            width,
        })
    }

    fn mono(self, data: &[u8]) -> Vec<i16> {
        data.chunks_exact(self.width * self.channels)
            .map(|frame| {
                let sum: f32 = frame
                    .chunks_exact(self.width)
                    .map(|sample| self.sample(sample))
                    .sum();
                // Not a number becomes silence.
                (sum / self.channels as f32).round() as i16
            })
            .collect()
    }

    /// In steps of 16 bit.
    fn sample(self, bytes: &[u8]) -> f32 {
        match *bytes {
            // Eight bits are unsigned, all others signed.
            [byte] => (f32::from(byte) - 128.0) * 256.0,
            [low, high] => f32::from(i16::from_le_bytes([low, high])),
            [a, b, c] => i32::from_le_bytes([0, a, b, c]) as f32 / 65_536.0,
            [a, b, c, d] if self.float => f32::from_le_bytes([a, b, c, d]) * 32_768.0,
            [a, b, c, d] => i32::from_le_bytes([a, b, c, d]) as f32 / 65_536.0,
            _ => 0.0,
        }
    }
}

/// Resamples to 16 kHz by interpolation with a windowed sinc that also removes what 16 kHz cannot carry.
///
/// # Source
/// J. O. Smith, *Digital Audio Resampling*, <https://ccrma.stanford.edu/~jos/resample/>.
fn resampled(samples: Arc<[i16]>, rate: SampleRate) -> Arc<[i16]> {
    let target = SampleRate::HZ_16000;
    if rate == target {
        return samples;
    }
    let step = f64::from(rate.hz()) / f64::from(target.hz());
    // The pass band ends below the lower of both Nyquist frequencies, at 95 %.
    let cutoff = 0.95 / step.max(1.0);
    let half_width = CROSSINGS / cutoff;
    let length = (samples.len() as f64 / step) as usize;
    (0..length)
        .map(|index| {
            let centre = index as f64 * step;
            let first = (centre - half_width).ceil().max(0.0) as usize;
            let last = ((centre + half_width) as usize).min(samples.len() - 1);
            let value: f64 = (first..=last)
                .map(|place| {
                    let distance = place as f64 - centre;
                    f64::from(samples[place]) * filter(distance, cutoff, half_width)
                })
                .sum();
            value.round() as i16
        })
        .collect()
}

fn filter(distance: f64, cutoff: f64, half_width: f64) -> f64 {
    let angle = PI * distance / half_width;
    let window = 0.42 + 0.5 * angle.cos() + 0.08 * (2.0 * angle).cos();
    let x = PI * distance * cutoff;
    let sinc = if x.abs() < 1e-9 { 1.0 } else { x.sin() / x };
    cutoff * sinc * window
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use llmrtc_core::audio::PcmChunk;
    use proptest::prelude::*;

    use super::*;

    fn wave(tag: u16, channels: u16, rate: u32, bits: u16, data: &[u8]) -> Vec<u8> {
        let mut fmt = Vec::new();
        fmt.extend(tag.to_le_bytes());
        fmt.extend(channels.to_le_bytes());
        fmt.extend(rate.to_le_bytes());
        fmt.extend((rate * u32::from(channels) * u32::from(bits / 8)).to_le_bytes());
        fmt.extend((channels * bits / 8).to_le_bytes());
        fmt.extend(bits.to_le_bytes());
        if tag == 0xFFFE {
            fmt.extend([22, 0, bits as u8, 0, 0, 0, 0, 0, 1, 0]);
            fmt.extend([0; 14]);
        }
        let mut file = b"RIFF\0\0\0\0WAVE".to_vec();
        for (id, body) in [(b"LIST", &b"odd"[..]), (b"fmt ", &fmt), (b"data", data)] {
            file.extend(id);
            file.extend((body.len() as u32).to_le_bytes());
            file.extend(body);
            file.resize(file.len().next_multiple_of(2), 0);
        }
        file
    }

    fn read(file: Vec<u8>) -> Option<Vec<i16>> {
        read_wave(&file).map(|(samples, _)| samples)
    }

    #[test]
    fn wave_files_of_all_kinds_are_read() {
        let sixteen = [0x34, 0x12, 0xFF, 0x7F];
        assert_eq!(
            read(wave(1, 1, 16_000, 16, &sixteen)),
            Some(vec![0x1234, 0x7FFF])
        );
        assert_eq!(
            read(wave(0xFFFE, 1, 16_000, 16, &sixteen)),
            Some(vec![0x1234, 0x7FFF])
        );
        assert_eq!(
            read(wave(1, 2, 16_000, 16, &[100, 0, 200, 0])),
            Some(vec![150])
        );
        assert_eq!(
            read(wave(1, 1, 16_000, 8, &[0, 128, 255])),
            Some(vec![-32_768, 0, 32_512])
        );
        assert_eq!(read(wave(1, 1, 16_000, 24, &[0xFF, 0, 1])), Some(vec![257]));
        let half = 0.5f32.to_le_bytes();
        assert_eq!(read(wave(3, 1, 16_000, 32, &half)), Some(vec![16_384]));
        // Written by a recorder that could not go back to fill in the length.
        let mut streamed = wave(1, 1, 16_000, 16, &sixteen);
        let at = streamed.len() - 8;
        streamed[at..at + 4].fill(0xFF);
        assert_eq!(read(streamed), Some(vec![0x1234, 0x7FFF]));
    }

    #[test]
    fn other_containers_are_refused_with_what_to_send() {
        let refused = |data: &'static [u8], format, rate| {
            let data = Bytes::from_static(data);
            let utterance = Utterance::Encoded(EncodedAudio { data, format, rate });
            samples(&utterance).unwrap_err()
        };
        for error in [
            refused(b"OggS", AudioFormat::Ogg, None),
            refused(b"RIFF\0\0\0\0WAVEfmt ", AudioFormat::Wav, None),
            refused(b"\0\0", AudioFormat::Pcm, None),
        ] {
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        }
    }

    #[test]
    fn rates_are_converted_and_what_does_not_fit_is_removed() {
        let power = |from: u32, hertz: f64| {
            let tone: Vec<i16> = (0..from)
                .map(|n| {
                    let phase = 2.0 * PI * hertz * f64::from(n) / f64::from(from);
                    (phase.sin() * 16_000.0) as i16
                })
                .collect();
            let pcm = PcmChunk::new(tone, SampleRate::try_from(from).unwrap());
            let samples = samples(&Utterance::Pcm(pcm)).unwrap();
            assert!(samples.len().abs_diff(16_000) <= 1, "{}", samples.len());
            let middle = &samples[4_000..12_000];
            let sum: f64 = middle.iter().map(|&s| f64::from(s).powi(2)).sum();
            (sum / 8_000.0).sqrt() / (16_000.0 / 2f64.sqrt())
        };
        for from in [8_000, 16_000, 24_000, 44_100, 48_000] {
            let kept = power(from, 1_000.0);
            assert!((kept - 1.0).abs() < 0.01, "{from}: {kept}");
        }
        for from in [24_000, 44_100, 48_000] {
            let removed = power(from, 9_500.0);
            assert!(removed < 0.01, "{from}: {removed}");
        }
    }

    proptest! {
        #[test]
        fn any_file_is_survived(
            head in 0usize..60,
            tail in proptest::collection::vec(any::<u8>(), 0..200),
            rate in 8_000u32..192_000,
        ) {
            let mut file = wave(1, 1, rate, 16, &[1; 40]);
            file.truncate(head);
            file.extend(tail);
            let data = Bytes::from(file);
            let utterance = Utterance::Encoded(EncodedAudio { data, format: AudioFormat::Wav, rate: None });
            let _ = samples(&utterance);
        }
    }
}
