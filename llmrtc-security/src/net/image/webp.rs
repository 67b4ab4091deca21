//! WebP, RFC 9649.

use super::{ImageError, Reader, Size};

const ALPHA_FLAG: u8 = 0x10;
/// The fields of `ANMF` before its chunks.
const FRAME_HEADER_BYTES: usize = 16;

/// The parts of one picture.
#[derive(Default)]
struct Picture<'a> {
    alpha: Option<&'a [u8]>,
    pixels: Option<([u8; 4], &'a [u8])>,
}

pub(super) fn rebuild(bytes: &[u8]) -> Result<(Size, Vec<u8>), ImageError> {
    let mut input = Reader(bytes);
    input.take(4)?;
    let length = Reader::length(input.array()?, u32::from_le_bytes)?;
    let mut chunks = Reader(input.take(length)?);
    chunks.take(4)?;
    let picture = picture(&mut chunks, true)?;
    let (name, pixels) = picture.pixels.ok_or(ImageError::Malformed)?;
    let size = match &name {
        b"VP8 " => lossy_size(pixels)?,
        _ => lossless_size(pixels)?,
    };

    let mut output = b"RIFF\0\0\0\0WEBP".to_vec();
    // Lossless pixels have their transparency inside.
    if let Some(alpha) = picture.alpha.filter(|_| &name == b"VP8 ") {
        let mut extended = vec![ALPHA_FLAG, 0, 0, 0];
        extended.extend_from_slice(&(size.width - 1).to_le_bytes()[..3]);
        extended.extend_from_slice(&(size.height - 1).to_le_bytes()[..3]);
        write(&mut output, b"VP8X", &extended);
        write(&mut output, b"ALPH", alpha);
    }
    write(&mut output, &name, pixels);
    let length = u32::try_from(output.len() - 8).map_err(|_| ImageError::TooLarge)?;
    output[4..8].copy_from_slice(&length.to_le_bytes());
    Ok((size, output))
}

/// The first picture. Those of animations are one level down.
fn picture<'a>(chunks: &mut Reader<'a>, top: bool) -> Result<Picture<'a>, ImageError> {
    let mut found = Picture::default();
    while !chunks.0.is_empty() {
        let name: [u8; 4] = chunks.array()?;
        let length = Reader::length(chunks.array()?, u32::from_le_bytes)?;
        let content = chunks.take(length)?;
        if length % 2 == 1 && !chunks.0.is_empty() {
            chunks.byte()?;
        }
        match &name {
            b"ALPH" => found.alpha = Some(content),
            b"VP8 " | b"VP8L" => {
                found.pixels = Some((name, content));
                return Ok(found);
            }
            b"ANMF" if top => {
                let mut frame = Reader(content);
                frame.take(FRAME_HEADER_BYTES)?;
                return picture(&mut frame, false);
            }
            _ => {}
        }
    }
    Ok(found)
}

fn write(output: &mut Vec<u8>, name: &[u8; 4], content: &[u8]) {
    let length =
        u32::try_from(content.len()).expect("what is written is no longer than what was read");
    output.extend_from_slice(name);
    output.extend_from_slice(&length.to_le_bytes());
    output.extend_from_slice(content);
    if content.len() % 2 == 1 {
        output.push(0);
    }
}

/// RFC 6386, section 9.1.
fn lossy_size(pixels: &[u8]) -> Result<Size, ImageError> {
    let mut fields = Reader(pixels);
    let tag: [u8; 3] = fields.array()?;
    let start: [u8; 3] = fields.array()?;
    let is_key_frame = tag[0] & 1 == 0;
    if !is_key_frame || start != [0x9D, 0x01, 0x2A] {
        return Err(ImageError::Malformed);
    }
    // The two bits above are for scaling.
    let side = |bytes| u16::from_le_bytes(bytes) & 0x3FFF;
    let (width, height) = (fields.array()?, fields.array()?);
    Size::new(side(width), side(height))
}

/// RFC 9649, section 3.4.
fn lossless_size(pixels: &[u8]) -> Result<Size, ImageError> {
    let mut fields = Reader(pixels);
    if fields.byte()? != 0x2F {
        return Err(ImageError::Malformed);
    }
    let bits = u32::from_le_bytes(fields.array()?);
    let version = bits >> 29;
    if version != 0 {
        return Err(ImageError::Malformed);
    }
    Size::new((bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1)
}
