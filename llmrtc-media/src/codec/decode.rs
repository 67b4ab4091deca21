//! Decodes what one-shot speech synthesis returns and what clients record: WAV, MP3, Ogg (Opus, Vorbis) and raw PCM.

use std::{
    io::Cursor,
    panic::{AssertUnwindSafe, catch_unwind},
};

use llmrtc_core::{
    audio::{AudioFormat, EncodedAudio, PcmChunk, SampleRate},
    playout::{AudioDecoder, DecodeError, DecodedAudio},
};
use symphonia::core::{
    codecs::audio::{
        AudioCodecParameters, AudioDecoder as Codec, AudioDecoderOptions, well_known::CODEC_ID_OPUS,
    },
    errors::Error,
    formats::{FormatOptions, FormatReader, TrackType, probe::Hint},
    io::MediaSourceStream,
    meta::MetadataOptions,
};

use super::{opus, wav::WavReader};

/// Samples per piece of formats without packets: 100 ms at 48 kHz.
const PIECE_SAMPLES: usize = 4_800;

/// A file with more undecodable packets than this in a row is not audio.
const MAX_BAD_PACKETS: u32 = 50;

/// The decoder of every format we speak. Memory is bounded by the input and one packet of output.
#[derive(Clone, Copy, Debug, Default)]
pub struct FileDecoder;

impl AudioDecoder for FileDecoder {
    fn decode(&self, audio: EncodedAudio) -> Result<DecodedAudio, DecodeError> {
        // Vendors mislabel; the bytes know better.
        let format = AudioFormat::sniff(&audio.data).unwrap_or(audio.format);
        let error = |reason: String| DecodeError {
            format: format.name(),
            reason,
        };
        match format {
            AudioFormat::Wav => {
                let mut wav = WavReader::new(audio.data).map_err(|e| error(e.to_string()))?;
                Ok(Box::new(std::iter::from_fn(move || {
                    wav.read(PIECE_SAMPLES).map(Ok)
                })))
            }
            AudioFormat::Pcm => {
                let rate = audio
                    .rate
                    .ok_or_else(|| error("sample rate unknown".into()))?;
                let mut rest = audio.data;
                Ok(Box::new(std::iter::from_fn(move || {
                    let whole = rest.len() & !1;
                    let piece = rest.split_to(whole.min(2 * PIECE_SAMPLES));
                    (!piece.is_empty()).then(|| Ok(PcmChunk::from_le_bytes(&piece, rate)))
                })))
            }
            AudioFormat::Mp3 | AudioFormat::Ogg => {
                let packets = guarded(|| Packets::open(audio, format))
                    .unwrap_or_else(|| Err("decoder failed".into()))
                    .map_err(error)?;
                Ok(Box::new(packets))
            }
            other => Err(DecodeError {
                format: other.name(),
                reason: "unsupported container".into(),
            }),
        }
    }
}

/// Runs parsers of foreign data: `None` when they panic.
fn guarded<T>(work: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(work)).ok()
}

/// Iterates over a container's packets.
struct Packets {
    format: AudioFormat,
    reader: Box<dyn FormatReader>,
    track: u32,
    codec: PacketCodec,
    /// Samples yet to be dropped from the beginning: the codec's warm-up.
    skip: usize,
    /// The rate of the first piece; all others must have it.
    rate: Option<SampleRate>,
    bad: u32,
    done: bool,
}

enum PacketCodec {
    Opus(opus::Decoder),
    Other {
        codec: Box<dyn Codec>,
        interleaved: Vec<i16>,
    },
}

impl Packets {
    fn open(audio: EncodedAudio, format: AudioFormat) -> Result<Self, String> {
        let stream = MediaSourceStream::new(Box::new(Cursor::new(audio.data)), Default::default());
        let mut hint = Hint::new();
        hint.with_extension(format.name());
        let reader = symphonia::default::get_probe()
            .probe(
                &hint,
                stream,
                FormatOptions::default(),
                MetadataOptions::default(),
            )
            .map_err(|e| e.to_string())?;
        let track = reader
            .default_track(TrackType::Audio)
            .ok_or("no audio track")?;
        let parameters = track
            .codec_params
            .as_ref()
            .and_then(|parameters| parameters.audio())
            .ok_or("no audio parameters")?;
        let id = track.id;
        let (codec, skip) = PacketCodec::new(parameters)?;
        Ok(Self {
            format,
            reader,
            track: id,
            codec,
            skip,
            rate: None,
            bad: 0,
            done: false,
        })
    }

    /// The next piece that is not empty; `None` at the end.
    fn read(&mut self) -> Result<Option<PcmChunk>, String> {
        loop {
            let packet = match self.reader.next_packet() {
                Ok(Some(packet)) => packet,
                Ok(None) => return Ok(None),
                // A truncated file: what was there has been heard.
                Err(Error::IoError(e)) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
                    return Ok(None);
                }
                Err(Error::ResetRequired) => return Ok(None),
                Err(e) => return Err(e.to_string()),
            };
            if packet.track_id != self.track {
                continue;
            }
            match self.codec.decode(&packet) {
                Ok((mut samples, rate)) => {
                    self.bad = 0;
                    if *self.rate.get_or_insert(rate) != rate {
                        return Err("sample rate changed".into());
                    }
                    let skipped = self.skip.min(samples.len());
                    self.skip -= skipped;
                    samples.drain(..skipped);
                    if !samples.is_empty() {
                        return Ok(Some(PcmChunk::new(samples, rate)));
                    }
                }
                Err(reason) => {
                    self.bad += 1;
                    if self.bad > MAX_BAD_PACKETS {
                        return Err(reason);
                    }
                }
            }
        }
    }
}

impl Iterator for Packets {
    type Item = Result<PcmChunk, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let result = guarded(|| self.read()).unwrap_or_else(|| Err("decoder failed".into()));
        self.done = !matches!(result, Ok(Some(_)));
        let format = self.format.name();
        result
            .map_err(|reason| DecodeError { format, reason })
            .transpose()
    }
}

impl PacketCodec {
    /// The codec, and how many samples of warm-up it leaves to the caller.
    fn new(parameters: &AudioCodecParameters) -> Result<(Self, usize), String> {
        if parameters.codec == CODEC_ID_OPUS {
            // Pre-skip, the eleventh and twelfth byte of the identification header (RFC 7845 §5.1).
            let skip = match parameters
                .extra_data
                .as_deref()
                .and_then(|head| head.get(10..12))
            {
                Some(&[low, high]) => u16::from_le_bytes([low, high]),
                _ => 0,
            };
            let decoder = opus::Decoder::new(SampleRate::HZ_48000).map_err(|e| e.to_string())?;
            return Ok((Self::Opus(decoder), usize::from(skip)));
        }
        let codec = symphonia::default::get_codecs()
            .make_audio_decoder(parameters, &AudioDecoderOptions::default())
            .map_err(|e| e.to_string())?;
        Ok((
            Self::Other {
                codec,
                interleaved: Vec::new(),
            },
            0,
        ))
    }

    fn decode(
        &mut self,
        packet: &symphonia::core::packet::Packet,
    ) -> Result<(Vec<i16>, SampleRate), String> {
        match self {
            Self::Opus(decoder) => {
                let pcm = decoder.decode(&packet.data).map_err(|e| e.to_string())?;
                let padding = packet.trim_end.get() as usize;
                let audio = &pcm[..pcm.len().saturating_sub(padding)];
                Ok((audio.to_vec(), SampleRate::HZ_48000))
            }
            Self::Other { codec, interleaved } => {
                let decoded = codec.decode(packet).map_err(|e| e.to_string())?;
                let rate = decoded.spec().rate();
                let rate = SampleRate::try_from(rate).map_err(|e| e.to_string())?;
                let channels = decoded.spec().channels().count().max(1);
                interleaved.resize(decoded.samples_interleaved(), 0);
                decoded.copy_to_slice_interleaved(&mut interleaved[..]);
                let mono = interleaved
                    .chunks_exact(channels)
                    .map(|frame| {
                        let sum: i32 = frame.iter().map(|sample| i32::from(*sample)).sum();
                        (sum / channels as i32) as i16
                    })
                    .collect();
                Ok((mono, rate))
            }
        }
    }
}

#[cfg(test)]
mod tests;
