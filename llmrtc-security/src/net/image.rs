//! Pictures from strangers, made safe to pass on (H5).
//!
//! [`sanitise`] believes no media type and no file name: a picture is what its bytes are. It reads headers only, never
//! decodes pixels, and rebuilds the file from the parts that a decoder needs. What else was in it stays behind: places
//! and serial numbers in Exif, comments, thumbnails of what was cropped away, second files after the end. An animation
//! becomes its first picture, which is all that a model looks at.
//!
//! | Format | Kept |
//! | --- | --- |
//! | PNG | header, palette, transparency, pixels, how to read their colours |
//! | JPEG | tables, pixels, the resolution, Adobe's colour transform, and of Exif the orientation alone |
//! | WebP | pixels and transparency |
//! | GIF | palette, transparency and pixels of the first picture |
//!
//! SVG is a program, not a picture, and is refused like everything else.

mod gif;
mod jpeg;
mod png;
#[cfg(test)]
mod tests;
mod webp;

use bytes::Bytes;

/// Longest file.
pub const MAX_BYTES: usize = 10 * 1024 * 1024;
/// Most pixels: a decoder needs four bytes and more for each, however small the file.
pub const MAX_PIXELS: u64 = 40_000_000;

/// A format that models and browsers understand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// Portable Network Graphics.
    Png,
    /// JPEG, baseline or progressive.
    Jpeg,
    /// WebP.
    WebP,
    /// GIF.
    Gif,
}

impl Format {
    /// Recognises a format by its first bytes.
    pub fn sniff(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1A, b'\n', ..] => Some(Self::Png),
            [0xFF, 0xD8, 0xFF, ..] => Some(Self::Jpeg),
            [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some(Self::Gif),
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
                b'E',
                b'B',
                b'P',
                ..,
            ] => Some(Self::WebP),
            _ => None,
        }
    }

    /// Its media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Jpeg => "image/jpeg",
            Self::WebP => "image/webp",
            Self::Gif => "image/gif",
        }
    }
}

/// A picture without anything but the picture.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Image {
    /// What it is.
    pub format: Format,
    /// Width in pixels, before a JPEG's orientation is applied.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// The file.
    pub data: Bytes,
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { width, height, .. } = self;
        write!(
            f,
            "{:?} {width}x{height}, {} bytes",
            self.format,
            self.data.len()
        )
    }
}

/// Why bytes are no picture that may be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// More than [`MAX_BYTES`].
    #[error("image is larger than 10 MiB")]
    TooLarge,
    /// More than [`MAX_PIXELS`].
    #[error("image has more than 40 million pixels")]
    TooManyPixels,
    /// Not one of the formats.
    #[error("image is neither PNG, JPEG, WebP nor GIF")]
    Unsupported,
    /// It begins like one and is broken, cut off, or of a kind that decoders in use do not read.
    #[error("image is malformed")]
    Malformed,
}

/// Checks a picture and rebuilds it without metadata. Linear in its length; never panics.
///
/// # Errors
/// [`ImageError`].
pub fn sanitise(bytes: &[u8]) -> Result<Image, ImageError> {
    if bytes.len() > MAX_BYTES {
        return Err(ImageError::TooLarge);
    }
    let format = Format::sniff(bytes).ok_or(ImageError::Unsupported)?;
    let (size, data) = match format {
        Format::Png => png::rebuild(bytes),
        Format::Jpeg => jpeg::rebuild(bytes),
        Format::WebP => webp::rebuild(bytes),
        Format::Gif => gif::rebuild(bytes),
    }?;
    Ok(Image {
        format,
        width: size.width,
        height: size.height,
        data: data.into(),
    })
}

/// A size within the bounds.
#[derive(Clone, Copy)]
struct Size {
    width: u32,
    height: u32,
}

impl Size {
    fn new(width: impl Into<u32>, height: impl Into<u32>) -> Result<Self, ImageError> {
        let (width, height) = (width.into(), height.into());
        match u64::from(width) * u64::from(height) {
            0 => Err(ImageError::Malformed),
            1..=MAX_PIXELS => Ok(Self { width, height }),
            _ => Err(ImageError::TooManyPixels),
        }
    }
}

/// Reads from the front. Whatever is missing is [`ImageError::Malformed`].
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], ImageError> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(ImageError::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ImageError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(ImageError::Malformed)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn byte(&mut self) -> Result<u8, ImageError> {
        self.array().map(|[byte]| byte)
    }

    /// A length of four bytes, as one that memory can have.
    fn length(bytes: [u8; 4], read: fn([u8; 4]) -> u32) -> Result<usize, ImageError> {
        usize::try_from(read(bytes)).map_err(|_| ImageError::Malformed)
    }
}
