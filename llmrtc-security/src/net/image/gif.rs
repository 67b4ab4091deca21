//! GIF, <https://www.w3.org/Graphics/GIF/spec-gif89a.txt>.

use super::{ImageError, Reader, Size};

const EXTENSION: u8 = 0x21;
const GRAPHIC_CONTROL: u8 = 0xF9;
const IMAGE: u8 = 0x2C;
const TRAILER: u8 = 0x3B;

pub(super) fn rebuild(bytes: &[u8]) -> Result<(Size, Vec<u8>), ImageError> {
    let mut input = Reader(bytes);
    let header = input.take(6)?;
    let screen: [u8; 7] = input.array()?;
    let canvas = size(screen[0..4].try_into().expect("four bytes"))?;
    let mut output = Vec::with_capacity(bytes.len());
    output.extend_from_slice(header);
    output.extend_from_slice(&screen);
    output.extend_from_slice(colours(&mut input, screen[4])?);

    let mut control = None;
    loop {
        match input.byte()? {
            EXTENSION => {
                let label = input.byte()?;
                let blocks = sub_blocks(&mut input)?;
                // One block of four bytes: delay and transparency of the picture that follows.
                if label == GRAPHIC_CONTROL && blocks.len() == 6 && blocks[0] == 4 {
                    control = Some(blocks);
                }
            }
            IMAGE => {
                let descriptor: [u8; 9] = input.array()?;
                size(descriptor[4..8].try_into().expect("four bytes"))?;
                if let Some(control) = control {
                    output.extend_from_slice(&[EXTENSION, GRAPHIC_CONTROL]);
                    output.extend_from_slice(control);
                }
                output.push(IMAGE);
                output.extend_from_slice(&descriptor);
                output.extend_from_slice(colours(&mut input, descriptor[8])?);
                output.push(input.byte()?);
                output.extend_from_slice(sub_blocks(&mut input)?);
                output.push(TRAILER);
                return Ok((canvas, output));
            }
            _ => return Err(ImageError::Malformed),
        }
    }
}

fn size([w0, w1, h0, h1]: [u8; 4]) -> Result<Size, ImageError> {
    Size::new(u16::from_le_bytes([w0, w1]), u16::from_le_bytes([h0, h1]))
}

/// The table of colours that these flags announce.
fn colours<'a>(input: &mut Reader<'a>, flags: u8) -> Result<&'a [u8], ImageError> {
    let colours = if flags & 0x80 == 0 {
        0
    } else {
        2 << (flags & 0x07)
    };
    input.take(3 * colours)
}

/// A chain of blocks with its end.
fn sub_blocks<'a>(input: &mut Reader<'a>) -> Result<&'a [u8], ImageError> {
    let start = input.0;
    loop {
        match input.byte()? {
            0 => return Ok(&start[..start.len() - input.0.len()]),
            length => input.take(length.into())?,
        };
    }
}
