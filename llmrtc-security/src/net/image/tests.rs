use base64::{Engine as _, engine::general_purpose::STANDARD};
use proptest::prelude::*;

use super::*;

/// Pictures of one pixel that browsers show.
const PNG: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
const GIF: &str = "R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7";
const WEBP_LOSSY: &str = "UklGRiIAAABXRUJQVlA4IBYAAAAwAQCdASoBAAEADsD+JaQAA3AAAAAA";
const WEBP_LOSSLESS: &str = "UklGRhoAAABXRUJQVlA4TA0AAAAvAAAAEAcQERGIiP4HAA==";
const WEBP_ALPHA: &str = "UklGRkoAAABXRUJQVlA4WAoAAAAQAAAAAAAAAAAAQUxQSAwAAAARBxAR/Q9ERP8DAABWUDggGAAAABQBAJ0BKgEAAQAAAP4AAA3AAP7mtQAAAA==";
const WEBP_ANIMATED: &str = "UklGRlIAAABXRUJQVlA4WAoAAAASAAAAAAAAAAAAQU5JTQYAAAD/////AABBTk1GJgAAAAAAAAAAAAAAAAAAAGQAAABWUDhMDQAAAC8AAAAQBxAREYiI/gcA";
const JPEG: &str = "/9j/4AAQSkZJRgABAQEASABIAAD/2wBDAP//////////////////////////////////////////////////////////////////////////////////////wgALCAABAAEBAREA/8QAFBABAAAAAAAAAAAAAAAAAAAAAP/aAAgBAQABPxD/2Q==";

/// What no picture may carry out.
const SECRET: &[u8] = b"GPS 52.5200 13.4050";

fn bytes(base64: &str) -> Vec<u8> {
    STANDARD.decode(base64).unwrap()
}

fn all() -> Vec<Vec<u8>> {
    let all = [
        PNG,
        GIF,
        WEBP_LOSSY,
        WEBP_LOSSLESS,
        WEBP_ALPHA,
        WEBP_ANIMATED,
        JPEG,
    ];
    all.into_iter().map(bytes).collect()
}

/// `insert` at `at`.
fn with(mut file: Vec<u8>, at: usize, insert: &[u8]) -> Vec<u8> {
    file.splice(at..at, insert.iter().copied());
    file
}

fn png_chunk(name: &[u8; 4], content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap().to_be_bytes();
    // Checksums are a decoder's business.
    [&length, name.as_slice(), content, &[0; 4]].concat()
}

fn jpeg_segment(marker: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len() + 2).unwrap().to_be_bytes();
    [&[0xFF, marker], length.as_slice(), content].concat()
}

fn webp_file(chunks: &[(&[u8; 4], &[u8])]) -> Vec<u8> {
    let mut body = b"WEBP".to_vec();
    for (name, content) in chunks {
        body.extend_from_slice(*name);
        body.extend_from_slice(&u32::try_from(content.len()).unwrap().to_le_bytes());
        body.extend_from_slice(content);
        body.resize(body.len().next_multiple_of(2), 0);
    }
    let length = u32::try_from(body.len()).unwrap().to_le_bytes();
    [b"RIFF".as_slice(), &length, &body].concat()
}

fn is_clean(file: &[u8]) -> bool {
    !file.windows(SECRET.len()).any(|window| window == SECRET)
}

#[test]
fn h5_plain_pictures_pass_unchanged() {
    for (file, format) in [
        (PNG, Format::Png),
        (GIF, Format::Gif),
        (WEBP_LOSSY, Format::WebP),
        (WEBP_LOSSLESS, Format::WebP),
        (WEBP_ALPHA, Format::WebP),
        (JPEG, Format::Jpeg),
    ] {
        let file = bytes(file);
        let image = sanitise(&file).unwrap();
        assert_eq!((image.format, image.width, image.height), (format, 1, 1));
        assert_eq!(&image.data[..], &file[..], "{format:?}");
    }
}

#[test]
fn h5_what_is_no_picture_is_refused_whatever_it_claims_to_be() {
    for file in [
        b"".as_slice(),
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"\xEF\xBB\xBF<?xml version='1.0'?><svg/>",
        b"<!DOCTYPE html><script>",
        b"BM\x36\0\0\0",
        b"II*\0\x08\0\0\0",
        b"\0\0\x01\0\x01\0",
        b"\0\0\0\x20ftypavif",
        b"\0\0\0\x18ftypheic",
        b"%PDF-1.7",
        b"RIFF\0\0\0\0WAVE",
        b"GIF90a",
        b" \x89PNG\r\n\x1A\n",
    ] {
        assert_eq!(sanitise(file), Err(ImageError::Unsupported), "{file:?}");
    }
}

#[test]
fn h5_large_files_and_pictures_are_refused() {
    let long = with(bytes(GIF), bytes(GIF).len(), &vec![0; MAX_BYTES]);
    assert_eq!(sanitise(&long), Err(ImageError::TooLarge));

    // 8000 × 5000 is the most.
    let mut png = bytes(PNG);
    png[16..24].copy_from_slice(&[0, 0, 0x1F, 0x40, 0, 0, 0x13, 0x88]);
    assert!(sanitise(&png).is_ok());
    png[23] += 1;
    assert_eq!(sanitise(&png), Err(ImageError::TooManyPixels));
    png[16..24].copy_from_slice(&[0xFF; 8]);
    assert_eq!(sanitise(&png), Err(ImageError::TooManyPixels));
    png[16..20].copy_from_slice(&[0; 4]);
    assert_eq!(sanitise(&png), Err(ImageError::Malformed));

    let mut jpeg = bytes(JPEG);
    let frame = jpeg
        .windows(2)
        .position(|pair| pair == [0xFF, 0xC2])
        .unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0xFF; 4]);
    assert_eq!(sanitise(&jpeg), Err(ImageError::TooManyPixels));

    // The canvas of a GIF, and a frame that is larger than its canvas.
    for at in [
        6,
        bytes(GIF).iter().position(|&byte| byte == 0x2C).unwrap() + 5,
    ] {
        let mut gif = bytes(GIF);
        gif[at..at + 4].copy_from_slice(&[0xFF; 4]);
        assert_eq!(sanitise(&gif), Err(ImageError::TooManyPixels));
    }

    let mut lossless = bytes(WEBP_LOSSLESS);
    lossless[21..25].copy_from_slice(&[0xFF, 0xFF, 0xFF, 0x1F]);
    assert_eq!(sanitise(&lossless), Err(ImageError::TooManyPixels));
    let mut lossy = bytes(WEBP_LOSSY);
    lossy[26..30].copy_from_slice(&[0xFF; 4]);
    assert_eq!(sanitise(&lossy), Err(ImageError::TooManyPixels));
}

#[test]
fn h5_metadata_stays_behind() {
    let png_metadata = [
        b"tEXt", b"iTXt", b"zTXt", b"eXIf", b"tIME", b"iCCP", b"acTL", b"fdAT", b"prVt",
    ]
    .map(|name| png_chunk(name, SECRET))
    .concat();
    let icc = [b"ICC_PROFILE\0".as_slice(), SECRET].concat();
    let jpeg_metadata = [
        jpeg_segment(0xE0, &[b"JFXX\0".as_slice(), SECRET].concat()),
        jpeg_segment(0xE1, &[b"Exif\0\0".as_slice(), SECRET].concat()),
        jpeg_segment(
            0xE1,
            &[b"http://ns.adobe.com/xap/1.0/\0".as_slice(), SECRET].concat(),
        ),
        jpeg_segment(0xE2, &icc),
        jpeg_segment(0xED, SECRET),
        jpeg_segment(0xEE, SECRET),
        jpeg_segment(0xEF, SECRET),
        jpeg_segment(0xFE, SECRET),
    ]
    .concat();
    let jpeg = bytes(JPEG);
    let after_jfif = 2 + 18;
    let between_scans = jpeg.len() - 2;
    let gif = bytes(GIF);
    let comment = |label| {
        let length = u8::try_from(SECRET.len()).unwrap();
        [&[0x21, label, length], SECRET, &[0]].concat()
    };
    let gif_image = gif.iter().position(|&byte| byte == 0x2C).unwrap();
    let lossy = bytes(WEBP_LOSSY);
    for (plain, file) in [
        (bytes(PNG), with(bytes(PNG), 33, &png_metadata)),
        (
            bytes(PNG),
            with(bytes(PNG), bytes(PNG).len() - 12, &png_metadata),
        ),
        (jpeg.clone(), with(jpeg.clone(), after_jfif, &jpeg_metadata)),
        (
            jpeg.clone(),
            with(jpeg.clone(), between_scans, &jpeg_metadata),
        ),
        (gif.clone(), with(gif.clone(), gif_image, &comment(0xFE))),
        (gif.clone(), with(gif.clone(), gif_image, &comment(0xFF))),
        (
            gif.clone(),
            with(gif.clone(), gif.len() - 1, &comment(0xFE)),
        ),
        (
            lossy.clone(),
            webp_file(&[
                (b"VP8X", &[0x2C, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
                (b"ICCP", SECRET),
                (b"VP8 ", &lossy[20..]),
                (b"EXIF", SECRET),
                (b"XMP ", SECRET),
            ]),
        ),
    ] {
        assert!(!is_clean(&file));
        assert_eq!(&sanitise(&file).unwrap().data[..], &plain[..]);
    }
    // Whole files behind the end: motion photographs, archives that are pictures too.
    for file in all() {
        let clean = sanitise(&file).unwrap();
        let image = sanitise(&[file.as_slice(), b"PK\x03\x04", SECRET].concat()).unwrap();
        assert_eq!(image, clean);
    }
}

#[test]
fn h5_of_exif_only_the_orientation_remains() {
    let exif = |little: bool, orientation: u16| {
        let short = |value: u16| {
            if little {
                value.to_le_bytes()
            } else {
                value.to_be_bytes()
            }
        };
        let long = |value: u32| {
            if little {
                value.to_le_bytes()
            } else {
                value.to_be_bytes()
            }
        };
        let mut content = b"Exif\0\0".to_vec();
        content.extend_from_slice(if little { b"II*\0" } else { b"MM\0*" });
        content.extend_from_slice(&long(8));
        content.extend_from_slice(&short(2));
        for (tag, kind, value) in [(0x010F, 2, 0), (0x0112, 3, orientation)] {
            content.extend_from_slice(&[short(tag), short(kind)].concat());
            content.extend_from_slice(&long(1));
            content.extend_from_slice(&[short(value), [0; 2]].concat());
        }
        content.extend_from_slice(&long(0));
        content.extend_from_slice(SECRET);
        jpeg_segment(0xE1, &content)
    };
    let jpeg = bytes(JPEG);
    let clean = |segment: &[u8]| sanitise(&with(jpeg.clone(), 20, segment)).unwrap().data;
    for little in [true, false] {
        let turned = clean(&exif(little, 6));
        assert!(is_clean(&turned));
        assert_eq!(turned.len(), jpeg.len() + 36);
        // What we write we read.
        assert_eq!(sanitise(&turned).unwrap().data, turned);
        for upright in [0, 1, 9, 0xFFFF] {
            assert_eq!(&clean(&exif(little, upright))[..], &jpeg[..]);
        }
    }
    assert_eq!(clean(&exif(true, 6)), clean(&exif(false, 6)));
    assert_ne!(clean(&exif(true, 6)), clean(&exif(true, 8)));
}

#[test]
fn h5_thumbnails_stay_behind() {
    let mut jfif = b"JFIF\0\x01\x01\0\0\x48\0\x48\x01\x01".to_vec();
    jfif.extend_from_slice(SECRET);
    let jpeg = [
        &[0xFF, 0xD8],
        jpeg_segment(0xE0, &jfif).as_slice(),
        &bytes(JPEG)[20..],
    ]
    .concat();
    let image = sanitise(&jpeg).unwrap();
    assert!(is_clean(&image.data));
    assert_eq!(image.data[2..4], [0xFF, 0xE0]);
    assert_eq!(image.data[18..20], [0, 0]);
}

#[test]
fn h5_animations_become_their_first_picture() {
    assert_eq!(
        sanitise(&bytes(WEBP_ANIMATED)).unwrap().data,
        bytes(WEBP_LOSSLESS)
    );
    let gif = bytes(GIF);
    let second = gif[gif.len() - 23..gif.len() - 1].to_vec();
    let animated = with(gif.clone(), gif.len() - 1, &second);
    assert_eq!(sanitise(&animated).unwrap().data, gif);
}

#[test]
fn h5_broken_pictures_are_refused() {
    for file in all() {
        for end in 12..file.len() {
            // Only the end mark of a GIF may be missing, and is written anew.
            let expected = match Format::sniff(&file) {
                Some(Format::Gif) if end == file.len() - 1 => sanitise(&file),
                _ => Err(ImageError::Malformed),
            };
            assert_eq!(sanitise(&file[..end]), expected, "{end} of {}", file.len());
        }
    }
    let png = bytes(PNG);
    for file in [
        // No header first; a second one; an unknown critical chunk; no pixels.
        with(png.clone(), 8, &png_chunk(b"tEXt", b"")),
        with(png.clone(), 33, &png[8..33]),
        with(png.clone(), 33, &png_chunk(b"ABCD", b"")),
        [&png[..33], &png[png.len() - 12..]].concat(),
    ] {
        assert_eq!(sanitise(&file), Err(ImageError::Malformed));
    }
    let jpeg = bytes(JPEG);
    let scan = jpeg
        .windows(2)
        .position(|pair| pair == [0xFF, 0xDA])
        .unwrap();
    for file in [
        // No frame; no scan; a second frame; arithmetic coding; a thousand scans.
        [&jpeg[..20], &jpeg[scan..]].concat(),
        [&jpeg[..scan], &[0xFF, 0xD9]].concat(),
        with(
            jpeg.clone(),
            scan,
            &jpeg_segment(0xC2, &[8, 0, 1, 0, 1, 1, 1, 0x11, 0]),
        ),
        with(
            jpeg.clone(),
            20,
            &jpeg_segment(0xC9, &[8, 0, 1, 0, 1, 1, 1, 0x11, 0]),
        ),
        with(jpeg.clone(), scan, &jpeg[scan..jpeg.len() - 2].repeat(1000)),
    ] {
        assert_eq!(sanitise(&file), Err(ImageError::Malformed));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn h5_no_input_panics_and_what_passes_passes_again(
        which in 0..7_usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        tail in prop::collection::vec(any::<u8>(), 0..40),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut file = all().swap_remove(which);
        for (at, value) in changes {
            let at = at.index(file.len());
            file[at] = value;
        }
        file = with(file.clone(), cut.index(file.len()), &tail);
        if let Ok(image) = sanitise(&file) {
            prop_assert!(image.data.len() <= file.len() + 18);
            prop_assert!(u64::from(image.width) * u64::from(image.height) <= MAX_PIXELS);
            prop_assert_eq!(sanitise(&image.data).unwrap(), image);
        }
    }
}
