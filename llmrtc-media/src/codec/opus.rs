//! Opus as WebRTC uses it: mono, 20 ms frames, loss concealment and in-band error correction.
//!
//! The codec is a pure-Rust port; a fault in it must not reach other calls. Every call into it is therefore guarded,
//! and a codec that panicked is replaced by a fresh one.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use bytes::Bytes;
use llmrtc_core::audio::SampleRate;
use ropus::{Application, Bitrate, Channels, DecodeMode, InbandFec, Signal};

use crate::config::PlayoutConfig;

/// Frame length on the wire.
pub const FRAME: Duration = Duration::from_millis(20);

/// Samples of a 20 ms frame at 48 kHz, the RTP clock of Opus (RFC 7587 §4.1).
pub const FRAME_SAMPLES: usize = 960;

/// The longest audio one packet can hold (RFC 6716 §3.2.5).
const MAX_PACKET_DURATION: Duration = Duration::from_millis(120);

/// Room for one encoded frame; at our bit rates a frame needs a tenth of it (RFC 6716 §3.2.1: at most 1275 bytes).
const MAX_PACKET_BYTES: usize = 1_275;

/// An Opus operation that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpusError {
    /// The rate is not one Opus decodes to.
    #[error("Opus does not work at {0} Hz")]
    Rate(u32),
    /// The encoder refused its settings.
    #[error("Opus encoder settings refused")]
    Settings(#[source] ropus::EncoderBuildError),
    /// The packet is not Opus.
    #[error("undecodable Opus packet")]
    Packet,
    /// The frame could not be encoded.
    #[error("Opus frame not encoded")]
    Encode,
    /// The codec panicked and was replaced.
    #[error("Opus codec failed")]
    Internal,
}

/// How long the audio of `packet` lasts, from its first bytes; `None` where it is not a valid packet.
///
/// # Source
/// RFC 6716 §3.1 and §3.2.
pub fn packet_duration(packet: &[u8]) -> Option<Duration> {
    let toc = *packet.first()?;
    let config = toc >> 3;
    let frame_us: u64 = match config {
        0..12 => [10_000, 20_000, 40_000, 60_000][usize::from(config % 4)],
        12..16 => [10_000, 20_000][usize::from(config % 2)],
        _ => [2_500, 5_000, 10_000, 20_000][usize::from(config % 4)],
    };
    let frames = match toc & 3 {
        0 => 1,
        1 | 2 => 2,
        _ => u64::from(packet.get(1)? & 0x3F),
    };
    let duration = Duration::from_micros(frame_us * frames);
    (!duration.is_zero() && duration <= MAX_PACKET_DURATION).then_some(duration)
}

/// Decodes one Opus stream to mono PCM at a fixed rate, stereo packets mixed down.
pub struct Decoder {
    inner: Box<ropus::Decoder>,
    rate: SampleRate,
    pcm: Vec<i16>,
}

impl Decoder {
    /// `rate`: 8, 16, 24 or 48 kHz. No resampler is needed at any of them.
    ///
    /// # Errors
    /// [`OpusError::Rate`] for other rates.
    pub fn new(rate: SampleRate) -> Result<Self, OpusError> {
        Ok(Self {
            inner: Self::fresh(rate)?,
            rate,
            pcm: vec![0; rate.samples_in(MAX_PACKET_DURATION)],
        })
    }

    fn fresh(rate: SampleRate) -> Result<Box<ropus::Decoder>, OpusError> {
        ropus::Decoder::new(rate.hz(), Channels::Mono)
            .map(Box::new)
            .map_err(|_| OpusError::Rate(rate.hz()))
    }

    /// The rate of the decoded audio.
    pub fn rate(&self) -> SampleRate {
        self.rate
    }

    /// Decodes one packet: 2.5–120 ms.
    ///
    /// # Errors
    /// [`OpusError::Packet`] or [`OpusError::Internal`]; the decoder can be used further, normally to
    /// [`conceal`](Self::conceal).
    pub fn decode(&mut self, packet: &[u8]) -> Result<&[i16], OpusError> {
        if packet_duration(packet).is_none() {
            return Err(OpusError::Packet);
        }
        let room = self.pcm.len();
        self.run(packet, room, DecodeMode::Normal)
    }

    /// Makes up `duration` of audio in place of what was lost, at most 120 ms, rounded down to 2.5 ms.
    ///
    /// # Errors
    /// [`OpusError::Internal`].
    pub fn conceal(&mut self, duration: Duration) -> Result<&[i16], OpusError> {
        let samples = self.whole_units(duration);
        self.run(&[], samples, DecodeMode::Normal)
    }

    /// Recovers the `duration` before `next` from the copy that `next` may carry, and conceals where it has none.
    ///
    /// # Errors
    /// [`OpusError::Packet`] or [`OpusError::Internal`].
    pub fn recover(&mut self, next: &[u8], duration: Duration) -> Result<&[i16], OpusError> {
        if packet_duration(next).is_none() {
            return Err(OpusError::Packet);
        }
        let samples = self.whole_units(duration);
        self.run(next, samples, DecodeMode::Fec)
    }

    /// Forgets the stream so far.
    pub fn reset(&mut self) {
        if let Ok(fresh) = Self::fresh(self.rate) {
            self.inner = fresh;
        }
    }

    /// Concealment works in steps of 2.5 ms (RFC 6716 §2.1.4).
    fn whole_units(&self, duration: Duration) -> usize {
        let unit = self.rate.hz() as usize / 400;
        let wanted = self.rate.samples_in(duration.min(MAX_PACKET_DURATION));
        (wanted / unit).max(1) * unit
    }

    fn run(&mut self, packet: &[u8], room: usize, mode: DecodeMode) -> Result<&[i16], OpusError> {
        let Self { inner, pcm, .. } = self;
        match catch_unwind(AssertUnwindSafe(|| {
            inner.decode(packet, &mut pcm[..room], mode)
        })) {
            Ok(Ok(samples)) => Ok(&self.pcm[..samples.min(room)]),
            Ok(Err(_)) => Err(OpusError::Packet),
            Err(_) => {
                self.reset();
                Err(OpusError::Internal)
            }
        }
    }
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "opus::Decoder({} Hz)", self.rate.hz())
    }
}

/// Encodes 20 ms frames of 48 kHz mono speech.
///
/// Discontinuous transmission is on: after a fifth of a second of silence packets shrink to [`DTX_BYTES`] or less.
pub struct Encoder {
    inner: Box<ropus::Encoder>,
    config: PlayoutConfig,
    packet: Box<[u8]>,
}

/// Packets this small hold no audio: the receiver makes comfort noise (RFC 6716 §2.1.9).
pub const DTX_BYTES: usize = 2;

impl Encoder {
    /// An encoder with the operator's settings.
    ///
    /// # Errors
    /// [`OpusError::Settings`] when the bit rate or complexity is out of range.
    pub fn new(config: &PlayoutConfig) -> Result<Self, OpusError> {
        Ok(Self {
            inner: Self::fresh(config)?,
            config: config.clone(),
            packet: vec![0; MAX_PACKET_BYTES].into_boxed_slice(),
        })
    }

    fn fresh(config: &PlayoutConfig) -> Result<Box<ropus::Encoder>, OpusError> {
        let fec = match config.expected_loss_percent {
            0 => InbandFec::Disabled,
            _ => InbandFec::Enabled,
        };
        ropus::Encoder::builder(48_000, Channels::Mono, Application::Voip)
            .signal(Signal::Voice)
            .bitrate(Bitrate::Bits(config.bitrate_bps))
            .complexity(config.complexity)
            .packet_loss_perc(config.expected_loss_percent)
            .inband_fec(fec)
            .dtx(true)
            .build()
            .map(Box::new)
            .map_err(OpusError::Settings)
    }

    /// Encodes [`FRAME_SAMPLES`] samples.
    ///
    /// # Errors
    /// [`OpusError::Encode`] for another number of samples, [`OpusError::Internal`] after a fault; the encoder can be
    /// used further.
    pub fn encode(&mut self, pcm: &[i16]) -> Result<Bytes, OpusError> {
        if pcm.len() != FRAME_SAMPLES {
            return Err(OpusError::Encode);
        }
        let Self { inner, packet, .. } = self;
        match catch_unwind(AssertUnwindSafe(|| inner.encode(pcm, packet))) {
            Ok(Ok(bytes)) => Ok(Bytes::copy_from_slice(&self.packet[..bytes])),
            Ok(Err(_)) => Err(OpusError::Encode),
            Err(_) => {
                self.inner = Self::fresh(&self.config)?;
                Err(OpusError::Internal)
            }
        }
    }
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "opus::Encoder({} bit/s)", self.config.bitrate_bps)
    }
}

#[cfg(test)]
mod tests;
