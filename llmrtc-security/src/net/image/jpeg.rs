//! JPEG, ITU-T T.81 and T.871 (JFIF), with the orientation from Exif (CIPA DC-008).

use super::{ImageError, Reader, Size};

const SOI: u8 = 0xD8;
const EOI: u8 = 0xD9;
const SOS: u8 = 0xDA;
/// Baseline, extended and progressive, Huffman coded: what browsers read.
const SOF: std::ops::RangeInclusive<u8> = 0xC0..=0xC2;
const DHT: u8 = 0xC4;
const DQT: u8 = 0xDB;
const DRI: u8 = 0xDD;
const APP0: u8 = 0xE0;
const APP1: u8 = 0xE1;
const APP14: u8 = 0xEE;
const APP15: u8 = 0xEF;
const COM: u8 = 0xFE;

/// Most scans. Encoders write about ten; thousands of empty ones make a decoder walk over all pixels each time.
const MAX_SCANS: usize = 100;

pub(super) fn rebuild(bytes: &[u8]) -> Result<(Size, Vec<u8>), ImageError> {
    let mut input = Reader(bytes);
    input.take(2)?;
    let mut output = Vec::with_capacity(bytes.len());
    output.extend_from_slice(&[0xFF, SOI]);
    let (mut size, mut scans, mut oriented) = (None, 0, false);
    loop {
        let marker = marker(&mut input)?;
        if marker == EOI {
            let size = size.filter(|_| scans > 0).ok_or(ImageError::Malformed)?;
            output.extend_from_slice(&[0xFF, EOI]);
            return Ok((size, output));
        }
        let length = usize::from(u16::from_be_bytes(input.array()?));
        let content = input.take(length.checked_sub(2).ok_or(ImageError::Malformed)?)?;
        match marker {
            DQT | DHT | DRI => segment(&mut output, marker, content),
            _ if SOF.contains(&marker) && size.is_none() => {
                size = Some(frame(content)?);
                segment(&mut output, marker, content);
            }
            SOS if size.is_some() && scans < MAX_SCANS => {
                scans += 1;
                segment(&mut output, SOS, content);
                output.extend_from_slice(entropy_coded(&mut input)?);
            }
            APP0 => {
                // Without the thumbnail, which may show what was cropped away.
                if let Some(header) = content.get(..12).filter(|c| c.starts_with(b"JFIF\0")) {
                    segment(&mut output, APP0, &[header, &[0, 0]].concat());
                }
            }
            APP1 => {
                // Telephones do not turn pictures, they note how they were held.
                if let Some(orientation) = orientation(content).filter(|_| !oriented) {
                    oriented = true;
                    segment(&mut output, APP1, &exif(orientation));
                }
            }
            APP14 => {
                if let Some(adobe) = content.get(..12).filter(|c| c.starts_with(b"Adobe")) {
                    segment(&mut output, APP14, adobe);
                }
            }
            APP1..=APP15 | COM => {}
            _ => return Err(ImageError::Malformed),
        }
    }
}

/// The next marker, behind any number of fill bytes.
fn marker(input: &mut Reader<'_>) -> Result<u8, ImageError> {
    if input.byte()? != 0xFF {
        return Err(ImageError::Malformed);
    }
    loop {
        match input.byte()? {
            0xFF => {}
            marker => return Ok(marker),
        }
    }
}

fn segment(output: &mut Vec<u8>, marker: u8, content: &[u8]) {
    let length =
        u16::try_from(content.len() + 2).expect("what is written is no longer than what was read");
    output.extend_from_slice(&[0xFF, marker]);
    output.extend_from_slice(&length.to_be_bytes());
    output.extend_from_slice(content);
}

/// The size in a frame header.
fn frame(content: &[u8]) -> Result<Size, ImageError> {
    let mut fields = Reader(content);
    let precision = fields.byte()?;
    let (height, width) = (fields.array()?, fields.array()?);
    let components = usize::from(fields.byte()?);
    // A height of 0 would be told after the first scan. Nobody writes that.
    if precision != 8 || !(1..=4).contains(&components) || fields.0.len() != 3 * components {
        return Err(ImageError::Malformed);
    }
    Size::new(u16::from_be_bytes(width), u16::from_be_bytes(height))
}

/// Everything up to the next marker that is no restart.
fn entropy_coded<'a>(input: &mut Reader<'a>) -> Result<&'a [u8], ImageError> {
    let is_end = |pair: &[u8]| pair[0] == 0xFF && !matches!(pair[1], 0x00 | 0xD0..=0xD7);
    let end = input
        .0
        .windows(2)
        .position(is_end)
        .ok_or(ImageError::Malformed)?;
    input.take(end)
}

/// How a viewer has to turn the picture, 2 to 8, if it has to.
fn orientation(content: &[u8]) -> Option<u8> {
    const ORIENTATION: u16 = 0x0112;
    const SHORT: u16 = 3;
    let tiff = content.strip_prefix(b"Exif\0\0")?;
    let little = match tiff.get(..4)? {
        b"II*\0" => true,
        b"MM\0*" => false,
        _ => return None,
    };
    let short = |at: usize| {
        let bytes = *tiff.get(at..)?.first_chunk()?;
        Some(if little {
            u16::from_le_bytes(bytes)
        } else {
            u16::from_be_bytes(bytes)
        })
    };
    let directory = *tiff.get(4..)?.first_chunk()?;
    let directory = if little {
        u32::from_le_bytes(directory)
    } else {
        u32::from_be_bytes(directory)
    };
    let directory = usize::try_from(directory).ok()?;
    let entries = usize::from(short(directory)?);
    // At most 64 KiB are there, so the sums cannot overflow.
    let mut entries = (0..entries).map(|index| directory + 2 + 12 * index);
    let entry = entries.find(|&entry| short(entry) == Some(ORIENTATION))?;
    let value = (short(entry + 2)? == SHORT).then(|| short(entry + 8))??;
    u8::try_from(value)
        .ok()
        .filter(|value| (2..=8).contains(value))
}

/// Exif with the orientation and nothing else.
fn exif(orientation: u8) -> Vec<u8> {
    let mut content = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
    content.extend_from_slice(&[orientation, 0, 0, 0, 0, 0, 0]);
    content
}
