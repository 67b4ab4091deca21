//! Audio that crosses crate boundaries: mono PCM chunks, encoded blobs and whole utterances.

use std::{fmt, sync::Arc, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};

/// A sample rate in hertz, between 8 000 and 192 000. Parsed once; functions that take it cannot fail on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SampleRate(u32);

impl SampleRate {
    /// 8 kHz, telephone band.
    pub const HZ_8000: Self = Self(8_000);
    /// 16 kHz, the rate of voice activity detection and buffered speech-to-text.
    pub const HZ_16000: Self = Self(16_000);
    /// 24 kHz, what most speech synthesis delivers.
    pub const HZ_24000: Self = Self(24_000);
    /// 48 kHz, the clock of Opus over RTP.
    pub const HZ_48000: Self = Self(48_000);

    /// The rate in hertz.
    pub const fn hz(self) -> u32 {
        self.0
    }

    /// How long `samples` mono samples last at this rate.
    pub fn duration_of(self, samples: usize) -> Duration {
        Duration::from_nanos(samples as u64 * 1_000_000_000 / u64::from(self.0))
    }

    /// How many mono samples fit into `duration`, rounded down.
    pub fn samples_in(self, duration: Duration) -> usize {
        (duration.as_nanos() * u128::from(self.0) / 1_000_000_000) as usize
    }
}

/// A sample rate outside 8 000–192 000 Hz.
#[derive(Debug, thiserror::Error)]
#[error("sample rate {0} Hz is outside 8000–192000")]
pub struct InvalidSampleRate(pub u32);

impl TryFrom<u32> for SampleRate {
    type Error = InvalidSampleRate;

    fn try_from(hz: u32) -> Result<Self, InvalidSampleRate> {
        if (8_000..=192_000).contains(&hz) {
            Ok(Self(hz))
        } else {
            Err(InvalidSampleRate(hz))
        }
    }
}

/// Mono signed 16-bit PCM. Cloning shares the samples.
#[derive(Clone, PartialEq, Eq)]
pub struct PcmChunk {
    samples: Arc<[i16]>,
    rate: SampleRate,
}

impl PcmChunk {
    /// Wraps mono samples; empty is allowed.
    pub fn new(samples: impl Into<Arc<[i16]>>, rate: SampleRate) -> Self {
        Self {
            samples: samples.into(),
            rate,
        }
    }

    /// Reads little-endian 16-bit samples. A trailing odd byte is ignored: the caller carries it.
    pub fn from_le_bytes(bytes: &[u8], rate: SampleRate) -> Self {
        let samples = bytes
            .chunks_exact(2)
            .map(|pair| i16::from_le_bytes([pair[0], pair[1]]));
        // The length is known, so the samples are written once, to where they stay.
        Self::new(samples.collect::<Arc<[i16]>>(), rate)
    }

    /// The samples, mono.
    pub fn samples(&self) -> &[i16] {
        &self.samples
    }

    /// The sample rate.
    pub fn rate(&self) -> SampleRate {
        self.rate
    }

    /// How long the chunk lasts.
    pub fn duration(&self) -> Duration {
        self.rate.duration_of(self.samples.len())
    }

    /// Whether there are no samples.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// The samples as little-endian bytes.
    pub fn to_le_bytes(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(self.samples.len() * 2);
        for sample in self.samples.iter() {
            bytes.put_i16_le(*sample);
        }
        bytes.freeze()
    }

    /// The canonical 44-byte RIFF header followed by the samples, as speech-to-text services expect it.
    ///
    /// # Source
    /// Microsoft/IBM *Multimedia Programming Interface and Data Specifications 1.0*, "Waveform Audio File Format".
    pub fn to_wav(&self) -> Bytes {
        let data_bytes = self.samples.len() as u32 * 2;
        let mut wav = BytesMut::with_capacity(44 + data_bytes as usize);
        wav.put_slice(b"RIFF");
        wav.put_u32_le(36 + data_bytes);
        wav.put_slice(b"WAVEfmt ");
        wav.put_u32_le(16);
        wav.put_u16_le(1); // integer PCM
        wav.put_u16_le(1); // channels
        wav.put_u32_le(self.rate.hz());
        wav.put_u32_le(self.rate.hz() * 2);
        wav.put_u16_le(2); // bytes per frame
        wav.put_u16_le(16); // bits per sample
        wav.put_slice(b"data");
        wav.put_u32_le(data_bytes);
        wav.put_slice(&self.to_le_bytes());
        wav.freeze()
    }
}

impl fmt::Debug for PcmChunk {
    /// Size and rate only: samples are somebody's voice.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "PcmChunk({:?} at {} Hz)",
            self.duration(),
            self.rate.hz()
        )
    }
}

/// Container or codec of encoded audio.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AudioFormat {
    /// RIFF WAVE.
    Wav,
    /// MPEG layer III.
    Mp3,
    /// Ogg (Opus or Vorbis).
    Ogg,
    /// WebM (Matroska).
    WebM,
    /// MP4 / M4A.
    Mp4,
    /// FLAC.
    Flac,
    /// Headerless signed 16-bit little-endian mono.
    Pcm,
}

impl AudioFormat {
    /// Recognises a container by its first bytes; `None` when nothing matches.
    pub fn sniff(data: &[u8]) -> Option<Self> {
        match data {
            [
                b'R',
                b'I',
                b'F',
                b'F',
                _,
                _,
                _,
                _,
                b'W',
                b'A',
                b'V',
                b'E',
                ..,
            ] => Some(Self::Wav),
            [0x1A, 0x45, 0xDF, 0xA3, ..] => Some(Self::WebM),
            [b'O', b'g', b'g', b'S', ..] => Some(Self::Ogg),
            [b'f', b'L', b'a', b'C', ..] => Some(Self::Flac),
            [b'I', b'D', b'3', ..] => Some(Self::Mp3),
            // Frame sync (eleven set bits) with a valid layer, bit rate and sample rate.
            [0xFF, second, third, ..]
                if second & 0xE0 == 0xE0
                    && second & 0x06 != 0
                    && third & 0xF0 != 0xF0
                    && third & 0x0C != 0x0C =>
            {
                Some(Self::Mp3)
            }
            [_, _, _, _, b'f', b't', b'y', b'p', ..] => Some(Self::Mp4),
            _ => None,
        }
    }

    /// The format's name on the wire and in file extensions.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Wav => "wav",
            Self::Mp3 => "mp3",
            Self::Ogg => "ogg",
            Self::WebM => "webm",
            Self::Mp4 => "mp4",
            Self::Flac => "flac",
            Self::Pcm => "pcm",
        }
    }

    /// The IANA media type.
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Wav => "audio/wav",
            Self::Mp3 => "audio/mpeg",
            Self::Ogg => "audio/ogg",
            Self::WebM => "audio/webm",
            Self::Mp4 => "audio/mp4",
            Self::Flac => "audio/flac",
            Self::Pcm => "audio/pcm",
        }
    }
}

/// Encoded audio as a vendor or client delivered it.
#[derive(Clone, PartialEq, Eq)]
pub struct EncodedAudio {
    /// The bytes, container included.
    pub data: Bytes,
    /// What the bytes are.
    pub format: AudioFormat,
    /// The sample rate, where it is known; required for [`AudioFormat::Pcm`].
    pub rate: Option<SampleRate>,
}

impl fmt::Debug for EncodedAudio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "EncodedAudio({} bytes of {})",
            self.data.len(),
            self.format.name()
        )
    }
}

/// One complete utterance of the caller, ready for buffered speech-to-text.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Utterance {
    /// From the microphone track: mono PCM, 16 kHz.
    Pcm(PcmChunk),
    /// From an `audio` message: whatever container the client recorded.
    Encoded(EncodedAudio),
}

impl Utterance {
    /// A file that transcription services accept: WAV for PCM, the client's own container otherwise.
    pub fn to_file(&self) -> (Bytes, AudioFormat) {
        match self {
            Self::Pcm(pcm) => (pcm.to_wav(), AudioFormat::Wav),
            Self::Encoded(encoded) => (encoded.data.clone(), encoded.format),
        }
    }

    /// How long it lasts, where that is known without decoding.
    pub fn duration(&self) -> Option<Duration> {
        match self {
            Self::Pcm(pcm) => Some(pcm.duration()),
            Self::Encoded(_) => None,
        }
    }

    /// Size in bytes as held in memory.
    pub fn size_bytes(&self) -> usize {
        match self {
            Self::Pcm(pcm) => pcm.samples().len() * 2,
            Self::Encoded(encoded) => encoded.data.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sample_rate_is_parsed_at_the_door() {
        assert!(SampleRate::try_from(7_999).is_err());
        assert!(SampleRate::try_from(192_001).is_err());
        assert_eq!(SampleRate::try_from(16_000).unwrap(), SampleRate::HZ_16000);
    }

    #[test]
    fn duration_and_samples_are_inverse_on_whole_frames() {
        let rate = SampleRate::HZ_48000;
        assert_eq!(rate.duration_of(960), Duration::from_millis(20));
        assert_eq!(rate.samples_in(Duration::from_millis(20)), 960);
    }

    #[test]
    fn wav_has_the_canonical_header() {
        let wav = PcmChunk::new(vec![1i16, -2], SampleRate::HZ_16000).to_wav();
        assert_eq!(wav.len(), 48);
        assert_eq!(&wav[0..4], b"RIFF");
        assert_eq!(u32::from_le_bytes(wav[4..8].try_into().unwrap()), 40);
        assert_eq!(&wav[8..16], b"WAVEfmt ");
        assert_eq!(u32::from_le_bytes(wav[24..28].try_into().unwrap()), 16_000);
        assert_eq!(&wav[44..], [1, 0, 0xFE, 0xFF]);
    }

    #[test]
    fn containers_are_recognised_by_their_first_bytes() {
        let table: &[(&[u8], Option<AudioFormat>)] = &[
            (b"RIFF\0\0\0\0WAVE", Some(AudioFormat::Wav)),
            (&[0x1A, 0x45, 0xDF, 0xA3], Some(AudioFormat::WebM)),
            (b"OggS", Some(AudioFormat::Ogg)),
            (b"ID3", Some(AudioFormat::Mp3)),
            (&[0xFF, 0xFB, 0x90], Some(AudioFormat::Mp3)),
            (b"fLaC", Some(AudioFormat::Flac)),
            (b"\0\0\0\x20ftypM4A ", Some(AudioFormat::Mp4)),
            (b"", None),
            (b"hello", None),
            (&[0xFF; 64], None),
        ];
        for (data, expected) in table {
            assert_eq!(AudioFormat::sniff(data), *expected, "{data:?}");
        }
    }

    #[test]
    fn debug_shows_no_samples() {
        let chunk = PcmChunk::new(vec![12345i16; 160], SampleRate::HZ_16000);
        assert_eq!(format!("{chunk:?}"), "PcmChunk(10ms at 16000 Hz)");
    }
}
