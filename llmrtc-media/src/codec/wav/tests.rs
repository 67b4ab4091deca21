use proptest::prelude::*;

use super::*;

/// A WAVE file from its parts.
fn file(tag: u16, channels: u16, rate: u32, bits: u16, data: &[u8]) -> Vec<u8> {
    let mut fmt = Vec::new();
    let block = channels * bits / 8;
    fmt.extend(tag.to_le_bytes());
    fmt.extend(channels.to_le_bytes());
    fmt.extend(rate.to_le_bytes());
    fmt.extend((rate * u32::from(block)).to_le_bytes());
    fmt.extend(block.to_le_bytes());
    fmt.extend(bits.to_le_bytes());
    riff(&[(b"fmt ", fmt), (b"data", data.to_vec())])
}

fn riff(chunks: &[(&[u8; 4], Vec<u8>)]) -> Vec<u8> {
    let mut body = b"WAVE".to_vec();
    for (id, data) in chunks {
        body.extend(*id);
        body.extend((data.len() as u32).to_le_bytes());
        body.extend(data);
        if data.len() % 2 == 1 {
            body.push(0);
        }
    }
    let mut file = b"RIFF".to_vec();
    file.extend((body.len() as u32).to_le_bytes());
    file.extend(body);
    file
}

fn read(file: Vec<u8>) -> Result<Vec<i16>, WavError> {
    WavReader::new(file.into()).map(|wav| wav.read_all().samples().to_vec())
}

#[test]
fn encodings_and_channels_become_mono_16_bit() {
    let f32s = |values: &[f32]| {
        values
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect::<Vec<u8>>()
    };
    let f64s = |values: &[f64]| {
        values
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect::<Vec<u8>>()
    };
    let table: Vec<(Vec<u8>, Vec<i16>)> = vec![
        (
            file(1, 1, 8_000, 8, &[128, 255, 0]),
            vec![0, 32_512, -32_768],
        ),
        (file(1, 1, 16_000, 16, &[1, 0, 0xFE, 0xFF]), vec![1, -2]),
        (
            file(1, 2, 16_000, 16, &[10, 0, 20, 0, 0xFF, 0x7F, 0xFF, 0x7F]),
            vec![15, 32_767],
        ),
        (file(1, 1, 44_100, 24, &[0xFF, 0x34, 0x12]), vec![0x1234]),
        (
            file(1, 1, 48_000, 32, &[0xFF, 0xFF, 0x34, 0x12]),
            vec![0x1234],
        ),
        (
            file(3, 1, 24_000, 32, &f32s(&[0.5, -2.0, f32::NAN])),
            vec![16_384, -32_768, 0],
        ),
        (file(3, 2, 24_000, 64, &f64s(&[0.5, 0.0])), vec![8_192]),
    ];
    for (file, expected) in table {
        assert_eq!(read(file).unwrap(), expected);
    }
}

#[test]
fn chunks_around_the_audio_are_skipped() {
    let plain = file(1, 1, 16_000, 16, &[1, 0, 2, 0]);
    let fmt = plain[20..36].to_vec();
    let chunks: &[(&[u8; 4], Vec<u8>)] = &[
        (b"LIST", b"odd".to_vec()),
        (b"fmt ", fmt),
        (b"fact", vec![0; 4]),
        (b"data", vec![1, 0, 2, 0]),
        (b"LIST", vec![9; 40]),
    ];
    assert_eq!(read(riff(chunks)).unwrap(), [1, 2]);
}

#[test]
fn the_extensible_header_names_its_encoding_later() {
    let mut fmt = file(TAG_EXTENSIBLE, 1, 16_000, 16, &[])[20..36].to_vec();
    fmt.extend([22, 0, 16, 0, 4, 0, 0, 0]);
    fmt.extend([
        1, 0, 0, 0, 0, 0, 0x10, 0, 0x80, 0, 0, 0xAA, 0, 0x38, 0x9B, 0x71,
    ]);
    assert_eq!(
        read(riff(&[(b"fmt ", fmt.clone()), (b"data", vec![7, 0])])).unwrap(),
        [7]
    );
    fmt.truncate(20);
    assert_eq!(
        read(riff(&[(b"fmt ", fmt), (b"data", vec![7, 0])])),
        Err(WavError::Format)
    );
}

#[test]
fn lengths_that_lie_mean_until_the_end() {
    for lie in [0, u32::MAX, 1_000_000] {
        let mut file = file(1, 1, 16_000, 16, &[1, 0, 2, 0, 3, 0]);
        file[40..44].copy_from_slice(&lie.to_le_bytes());
        assert_eq!(read(file).unwrap(), [1, 2, 3], "{lie}");
    }
    let mut truncated = file(1, 2, 16_000, 16, &[1, 0, 1, 0, 2, 0, 2, 0]);
    truncated.pop();
    assert_eq!(read(truncated).unwrap(), [1], "half a frame is no frame");
}

#[test]
fn what_cannot_be_read_is_refused() {
    let table: Vec<(Vec<u8>, WavError)> = vec![
        (Vec::new(), WavError::NotWave),
        (b"RIFFxxxxAVI LIST".to_vec(), WavError::NotWave),
        (file(1, 1, 16_000, 16, &[])[..30].to_vec(), WavError::Format),
        (file(1, 1, 16_000, 16, &[])[..36].to_vec(), WavError::NoData),
        (riff(&[(b"data", vec![1, 0])]), WavError::Format),
        (file(1, 0, 16_000, 16, &[1, 0]), WavError::Format),
        (file(1, 99, 16_000, 16, &[1, 0]), WavError::Format),
        (file(1, 1, 500, 16, &[1, 0]), WavError::Rate(500)),
        (
            file(6, 1, 8_000, 8, &[1]),
            WavError::Encoding { tag: 6, bits: 8 },
        ),
    ];
    for (file, expected) in table {
        assert_eq!(read(file), Err(expected));
    }
}

#[test]
fn written_files_can_be_read() {
    let rate = SampleRate::HZ_48000;
    let mut writer = WavWriter::new(io::Cursor::new(Vec::new()), rate).unwrap();
    writer.write(&PcmChunk::new(vec![1i16, 2], rate)).unwrap();
    writer.write(&PcmChunk::new(vec![3i16], rate)).unwrap();
    assert!(
        writer
            .write(&PcmChunk::new(vec![3i16], SampleRate::HZ_16000))
            .is_err()
    );
    let file = writer.finish().unwrap().into_inner();
    assert_eq!(file, PcmChunk::new(vec![1i16, 2, 3], rate).to_wav());
    assert_eq!(read(file).unwrap(), [1, 2, 3]);
}

proptest! {
    #[test]
    fn no_file_panics(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..400),
        header in any::<bool>(),
    ) {
        if header {
            let mut whole = b"RIFF\0\0\0\0WAVE".to_vec();
            whole.append(&mut bytes);
            bytes = whole;
        }
        let _ = read(bytes);
    }
}
