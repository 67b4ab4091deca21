//! RIFF WAVE files, read as they are found in the wild and written as they should be.
//!
//! # Source
//! Microsoft/IBM *Multimedia Programming Interface and Data Specifications 1.0*; *Multiple channel audio data and WAVE
//! files* for the extensible header.

use std::io::{self, Seek, SeekFrom, Write};

use bytes::Bytes;
use llmrtc_core::audio::{PcmChunk, SampleRate};

/// A WAVE file that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WavError {
    /// No `RIFF … WAVE` at the beginning.
    #[error("not a RIFF WAVE file")]
    NotWave,
    /// The file ends before its audio begins.
    #[error("no audio data in the file")]
    NoData,
    /// The `fmt ` chunk is missing, too short or contradicts itself.
    #[error("invalid format chunk")]
    Format,
    /// A sample encoding other than integer or float PCM.
    #[error("unsupported encoding {tag:#06x} with {bits} bits")]
    Encoding {
        /// Format tag.
        tag: u16,
        /// Bits per sample.
        bits: u16,
    },
    /// A rate outside of what the pipeline handles.
    #[error("unsupported sample rate {0} Hz")]
    Rate(u32),
}

/// How one sample is stored, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    U8,
    I16,
    I24,
    I32,
    F32,
    F64,
}

impl Encoding {
    fn new(tag: u16, bits: u16) -> Result<Self, WavError> {
        match (tag, bits) {
            (TAG_PCM, 8) => Ok(Self::U8),
            (TAG_PCM, 16) => Ok(Self::I16),
            (TAG_PCM, 24) => Ok(Self::I24),
            (TAG_PCM, 32) => Ok(Self::I32),
            (TAG_FLOAT, 32) => Ok(Self::F32),
            (TAG_FLOAT, 64) => Ok(Self::F64),
            _ => Err(WavError::Encoding { tag, bits }),
        }
    }

    const fn bytes(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::I16 => 2,
            Self::I24 => 3,
            Self::I32 | Self::F32 => 4,
            Self::F64 => 8,
        }
    }

    /// One sample as a 16-bit value; `raw` is exactly one sample long.
    fn sample(self, raw: &[u8]) -> i32 {
        match (self, raw) {
            (Self::U8, [a]) => (i32::from(*a) - 128) << 8,
            // Wider integers lose their low bytes.
            (Self::I16, [a, b]) | (Self::I24, [_, a, b]) | (Self::I32, [_, _, a, b]) => {
                i32::from(i16::from_le_bytes([*a, *b]))
            }
            (Self::F32, &[a, b, c, d]) => from_float(f64::from(f32::from_le_bytes([a, b, c, d]))),
            (Self::F64, &[a, b, c, d, e, f, g, h]) => {
                from_float(f64::from_le_bytes([a, b, c, d, e, f, g, h]))
            }
            _ => 0,
        }
    }
}

/// Saturates; not-a-number becomes silence.
fn from_float(value: f64) -> i32 {
    (value * 32_768.0).round().clamp(-32_768.0, 32_767.0) as i32
}

const TAG_PCM: u16 = 1;
const TAG_FLOAT: u16 = 3;
const TAG_EXTENSIBLE: u16 = 0xFFFE;

/// More channels than any speech file has.
const MAX_CHANNELS: u16 = 8;

/// Reads a WAVE file held in memory piece by piece, mixed down to mono.
///
/// Chunks other than `fmt ` and `data` are skipped. A data length that is zero, "unknown" or larger than the file means
/// "until the end", as streaming writers leave it.
#[derive(Clone, Debug)]
pub struct WavReader {
    data: Bytes,
    rate: SampleRate,
    channels: usize,
    encoding: Encoding,
}

impl WavReader {
    /// Reads the header.
    ///
    /// # Errors
    /// When the file is not a WAVE file of a known encoding.
    pub fn new(file: Bytes) -> Result<Self, WavError> {
        if file.len() < 12 || &file[..4] != b"RIFF" || &file[8..12] != b"WAVE" {
            return Err(WavError::NotWave);
        }
        let mut rest = file.slice(12..);
        let mut format = None;
        while rest.len() >= 8 {
            let id = [rest[0], rest[1], rest[2], rest[3]];
            let declared = u32::from_le_bytes([rest[4], rest[5], rest[6], rest[7]]) as usize;
            let body = rest.slice(8..);
            let length = declared.min(body.len());
            match &id {
                b"fmt " => format = Some(parse_format(&body[..length])?),
                b"data" => {
                    let (rate, channels, encoding) = format.ok_or(WavError::Format)?;
                    let length = if declared == 0 { body.len() } else { length };
                    return Ok(Self {
                        data: body.slice(..length),
                        rate,
                        channels,
                        encoding,
                    });
                }
                _ => {}
            }
            // Chunks are padded to even lengths.
            let next = length + (length & 1);
            rest = body.slice(next.min(body.len())..);
        }
        Err(WavError::NoData)
    }

    /// The sample rate.
    pub fn rate(&self) -> SampleRate {
        self.rate
    }

    /// The next piece of at most `samples` mono samples; `None` at the end. A partial frame at the end is ignored.
    pub fn read(&mut self, samples: usize) -> Option<PcmChunk> {
        let frame_bytes = self.encoding.bytes() * self.channels;
        let frames = (self.data.len() / frame_bytes).min(samples.max(1));
        if frames == 0 {
            return None;
        }
        let raw = self.data.split_to(frames * frame_bytes);
        let mono: Vec<i16> = raw
            .chunks_exact(frame_bytes)
            .map(|frame| {
                let sum: i32 = frame
                    .chunks_exact(self.encoding.bytes())
                    .map(|sample| self.encoding.sample(sample))
                    .sum();
                (sum / self.channels as i32) as i16
            })
            .collect();
        Some(PcmChunk::new(mono, self.rate))
    }

    /// Everything that is left.
    pub fn read_all(mut self) -> PcmChunk {
        let rate = self.rate;
        self.read(usize::MAX)
            .unwrap_or_else(|| PcmChunk::new(Vec::new(), rate))
    }
}

fn parse_format(chunk: &[u8]) -> Result<(SampleRate, usize, Encoding), WavError> {
    let u16_at = |at: usize| -> Result<u16, WavError> {
        match chunk.get(at..at + 2) {
            Some(&[a, b]) => Ok(u16::from_le_bytes([a, b])),
            _ => Err(WavError::Format),
        }
    };
    let rate = match chunk.get(4..8) {
        Some(&[a, b, c, d]) => u32::from_le_bytes([a, b, c, d]),
        _ => return Err(WavError::Format),
    };
    let (mut tag, channels, block, bits) = (u16_at(0)?, u16_at(2)?, u16_at(12)?, u16_at(14)?);
    if tag == TAG_EXTENSIBLE {
        // The real tag is the first field of the sub-format GUID.
        tag = u16_at(24)?;
    }
    let encoding = Encoding::new(tag, bits)?;
    let consistent = usize::from(block) == encoding.bytes() * usize::from(channels);
    if !(1..=MAX_CHANNELS).contains(&channels) || !consistent {
        return Err(WavError::Format);
    }
    let rate = SampleRate::try_from(rate).map_err(|_| WavError::Rate(rate))?;
    Ok((rate, usize::from(channels), encoding))
}

/// Writes a mono 16-bit WAVE file as audio arrives; the header is completed by [`finish`](Self::finish).
///
/// A file that was never finished has a length of zero in its header, which readers take as "until the end".
#[derive(Debug)]
pub struct WavWriter<W: Write + Seek> {
    out: W,
    rate: SampleRate,
    data_bytes: u32,
}

impl<W: Write + Seek> WavWriter<W> {
    /// Writes the header.
    ///
    /// # Errors
    /// Those of the output.
    pub fn new(mut out: W, rate: SampleRate) -> io::Result<Self> {
        out.write_all(&PcmChunk::new(Vec::new(), rate).to_wav())?;
        Ok(Self {
            out,
            rate,
            data_bytes: 0,
        })
    }

    /// Appends samples of the writer's rate.
    ///
    /// # Errors
    /// Those of the output; [`io::ErrorKind::InvalidInput`] for another rate; [`io::ErrorKind::FileTooLarge`] past the
    /// 4 GiB a WAVE file can hold.
    pub fn write(&mut self, pcm: &PcmChunk) -> io::Result<()> {
        if pcm.rate() != self.rate {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let bytes = pcm.to_le_bytes();
        let total = u32::try_from(bytes.len())
            .ok()
            .and_then(|more| self.data_bytes.checked_add(more))
            .filter(|total| *total <= u32::MAX - 36)
            .ok_or(io::ErrorKind::FileTooLarge)?;
        self.out.write_all(&bytes)?;
        self.data_bytes = total;
        Ok(())
    }

    /// Completes the header and returns the output, flushed.
    ///
    /// # Errors
    /// Those of the output.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.seek(SeekFrom::Start(4))?;
        self.out.write_all(&(36 + self.data_bytes).to_le_bytes())?;
        self.out.seek(SeekFrom::Start(40))?;
        self.out.write_all(&self.data_bytes.to_le_bytes())?;
        self.out.seek(SeekFrom::End(0))?;
        self.out.flush()?;
        Ok(self.out)
    }
}

#[cfg(test)]
mod tests;
