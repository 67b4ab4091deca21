//! PNG, <https://www.w3.org/TR/png-3/>.

use super::{ImageError, Reader, Size};

const SIGNATURE_BYTES: usize = 8;
/// Chunks that change how the picture looks. Not among them: text, Exif, time; colour profiles, which are compressed
/// and can unpack to anything; animation.
const KEPT: [&[u8; 4]; 11] = [
    b"PLTE", b"IDAT", b"IEND", b"tRNS", b"cHRM", b"gAMA", b"sRGB", b"sBIT", b"bKGD", b"pHYs",
    b"cICP",
];

pub(super) fn rebuild(bytes: &[u8]) -> Result<(Size, Vec<u8>), ImageError> {
    let mut input = Reader(bytes);
    let mut output = Vec::with_capacity(bytes.len());
    output.extend_from_slice(input.take(SIGNATURE_BYTES)?);

    let (name, header) = chunk(&mut input)?;
    let mut fields = Reader(header.content);
    let (width, height) = (fields.array()?, fields.array()?);
    if &name != b"IHDR" || header.content.len() != 13 {
        return Err(ImageError::Malformed);
    }
    let size = Size::new(u32::from_be_bytes(width), u32::from_be_bytes(height))?;
    output.extend_from_slice(header.whole);

    let mut pixels = false;
    loop {
        let (name, chunk) = chunk(&mut input)?;
        if KEPT.contains(&&name) {
            output.extend_from_slice(chunk.whole);
        } else if is_critical(name) {
            return Err(ImageError::Malformed);
        }
        match &name {
            b"IDAT" => pixels = true,
            b"IEND" if pixels => return Ok((size, output)),
            b"IEND" => return Err(ImageError::Malformed),
            _ => {}
        }
    }
}

/// Whether a decoder that does not know the chunk must give up (section 5.4).
fn is_critical(name: [u8; 4]) -> bool {
    name[0] & 0x20 == 0
}

struct Chunk<'a> {
    /// With length, name and checksum.
    whole: &'a [u8],
    content: &'a [u8],
}

fn chunk<'a>(input: &mut Reader<'a>) -> Result<([u8; 4], Chunk<'a>), ImageError> {
    let start = input.0;
    let length = Reader::length(input.array()?, u32::from_be_bytes)?;
    let name: [u8; 4] = input.array()?;
    let content = input.take(length)?;
    let _checksum: [u8; 4] = input.array()?;
    let whole = &start[..start.len() - input.0.len()];
    Ok((name, Chunk { whole, content }))
}
