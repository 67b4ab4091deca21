use std::{sync::LazyLock, time::Duration};

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::{codec::opus::Encoder, config::PlayoutConfig};

fn encoded(data: impl Into<Bytes>, format: AudioFormat) -> EncodedAudio {
    EncodedAudio {
        data: data.into(),
        format,
        rate: None,
    }
}

/// All pieces as one, or the first error.
fn decode(audio: EncodedAudio) -> Result<(Vec<i16>, SampleRate, usize), DecodeError> {
    let mut whole = Vec::new();
    let (mut rate, mut pieces) = (SampleRate::HZ_8000, 0);
    for piece in FileDecoder.decode(audio)? {
        let piece = piece?;
        whole.extend_from_slice(piece.samples());
        (rate, pieces) = (piece.rate(), pieces + 1);
    }
    Ok((whole, rate, pieces))
}

fn tone(rate: u32, samples: usize) -> Vec<i16> {
    let step = 440.0 * std::f64::consts::TAU / f64::from(rate);
    (0..samples)
        .map(|n| ((n as f64 * step).sin() * 10_000.0) as i16)
        .collect()
}

/// One Ogg page holding whole packets shorter than 255 bytes × 255.
fn page(kind: u8, granule: u64, sequence: u32, packets: &[Vec<u8>]) -> Vec<u8> {
    let mut lacing = Vec::new();
    for packet in packets {
        lacing.extend(std::iter::repeat_n(255u8, packet.len() / 255));
        lacing.push((packet.len() % 255) as u8);
    }
    let mut page = b"OggS\0".to_vec();
    page.push(kind);
    page.extend(granule.to_le_bytes());
    page.extend(7u32.to_le_bytes());
    page.extend(sequence.to_le_bytes());
    page.extend([0; 4]);
    page.push(lacing.len() as u8);
    page.extend(lacing);
    page.extend(packets.concat());
    let crc = page.iter().fold(0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte) << 24, |crc, _| {
            if crc >> 31 == 1 {
                crc << 1 ^ 0x04C1_1DB7
            } else {
                crc << 1
            }
        })
    });
    page[22..26].copy_from_slice(&crc.to_le_bytes());
    page
}

/// An Ogg Opus file (RFC 7845) of one second of tone with 312 samples of pre-skip.
fn ogg_opus() -> Vec<u8> {
    static FILE: LazyLock<Vec<u8>> = LazyLock::new(make_ogg_opus);
    FILE.clone()
}

fn make_ogg_opus() -> Vec<u8> {
    let mut encoder = Encoder::new(&PlayoutConfig::default()).unwrap();
    let packets: Vec<Vec<u8>> = tone(48_000, 51 * 960)
        .chunks_exact(960)
        .map(|frame| encoder.encode(frame).unwrap().to_vec())
        .collect();
    let mut head = b"OpusHead\x01\x01".to_vec();
    head.extend(312u16.to_le_bytes());
    head.extend(48_000u32.to_le_bytes());
    head.extend([0, 0, 0]);
    let mut tags = b"OpusTags".to_vec();
    tags.extend(4u32.to_le_bytes());
    tags.extend(b"test");
    tags.extend(0u32.to_le_bytes());
    let mut file = page(2, 0, 0, &[head]);
    file.extend(page(0, 0, 1, &[tags]));
    let pages = packets.chunks(10).count();
    for (n, packets) in packets.chunks(10).enumerate() {
        let last = n + 1 == pages;
        let granule = if last { 48_312 } else { (n as u64 + 1) * 9_600 };
        file.extend(page(
            if last { 4 } else { 0 },
            granule,
            n as u32 + 2,
            packets,
        ));
    }
    file
}

/// Silent MPEG-1 layer III frames: 128 kbit/s, 44.1 kHz, mono, all side information zero.
fn mp3(frames: usize) -> Vec<u8> {
    let mut frame = vec![0xFF, 0xFB, 0x90, 0xC4];
    frame.resize(417, 0);
    let mut file = b"ID3\x04\0\0\0\0\0\x0A\0\0\0\0\0\0\0\0\0\0".to_vec();
    file.extend(std::iter::repeat_n(frame, frames).flatten());
    file
}

#[test]
fn wav_comes_in_pieces() {
    let tone = tone(24_000, 24_000);
    let wav = PcmChunk::new(tone.clone(), SampleRate::HZ_24000).to_wav();
    let (samples, rate, pieces) = decode(encoded(wav, AudioFormat::Wav)).unwrap();
    assert_eq!((samples, rate), (tone, SampleRate::HZ_24000));
    assert_eq!(pieces, 5);
}

#[test]
fn raw_pcm_needs_its_rate() {
    let data = Bytes::from_static(&[1, 0, 2, 0, 3]);
    assert!(decode(encoded(data.clone(), AudioFormat::Pcm)).is_err());
    let audio = EncodedAudio {
        data,
        format: AudioFormat::Pcm,
        rate: Some(SampleRate::HZ_24000),
    };
    assert_eq!(
        decode(audio).unwrap(),
        (vec![1, 2], SampleRate::HZ_24000, 1)
    );
}

#[test]
fn ogg_opus_loses_its_pre_skip_and_padding() {
    let (samples, rate, pieces) = decode(encoded(ogg_opus(), AudioFormat::Ogg)).unwrap();
    assert_eq!(rate, SampleRate::HZ_48000);
    assert!(pieces > 40);
    assert_eq!(samples.len(), 48_000);
    let rms = (samples.iter().map(|s| f64::from(*s).powi(2)).sum::<f64>() / 48_000.0).sqrt();
    assert!((6_000.0..8_000.0).contains(&rms), "{rms}");
}

#[test]
fn mp3_comes_in_pieces() {
    let (samples, rate, pieces) = decode(encoded(mp3(20), AudioFormat::Mp3)).unwrap();
    assert_eq!(rate.hz(), 44_100);
    assert!(pieces >= 18 && samples.len() >= 18 * 1_152);
    assert!(samples.iter().all(|sample| *sample == 0));
}

#[test]
fn bytes_win_over_labels() {
    let wav = PcmChunk::new(vec![1i16, 2], SampleRate::HZ_16000).to_wav();
    assert_eq!(decode(encoded(wav, AudioFormat::Mp3)).unwrap().0, [1, 2]);
}

#[test]
fn truncated_files_give_what_is_there() {
    for (file, format) in [(ogg_opus(), AudioFormat::Ogg), (mp3(20), AudioFormat::Mp3)] {
        let half = file[..file.len() / 2].to_vec();
        let mut heard = Duration::ZERO;
        for piece in FileDecoder.decode(encoded(half, format)).unwrap() {
            match piece {
                Ok(piece) => heard += piece.duration(),
                Err(_) => break,
            }
        }
        assert!(
            heard > Duration::from_millis(150),
            "{heard:?} of half a {} file",
            format.name()
        );
    }
}

#[test]
fn what_is_no_audio_is_an_error() {
    for format in [
        AudioFormat::Mp3,
        AudioFormat::Ogg,
        AudioFormat::Wav,
        AudioFormat::WebM,
    ] {
        for data in [
            &b""[..],
            b"hello",
            &[0; 5_000],
            b"RIFF\0\0\0\0WAVE",
            b"OggS",
            b"ID3\x04\0",
        ] {
            assert!(
                decode(encoded(data, format)).is_err(),
                "{} from {data:?}",
                format.name()
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn no_damage_panics(
        which in 0usize..3,
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..20),
        cut in any::<prop::sample::Index>(),
    ) {
        let (mut file, format) = match which {
            0 => (ogg_opus(), AudioFormat::Ogg),
            1 => (mp3(8), AudioFormat::Mp3),
            _ => (PcmChunk::new(tone(8_000, 500), SampleRate::HZ_8000).to_wav().to_vec(), AudioFormat::Wav),
        };
        for (at, byte) in damage {
            let at = at.index(file.len());
            file[at] = byte;
        }
        file.truncate(cut.index(file.len()) + 1);
        if let Err(error) = decode(encoded(file, format)) {
            prop_assert!(error.reason != "decoder failed", "a foreign parser panicked");
        }
    }
}
