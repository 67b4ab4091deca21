//! Speech for the tests of the models.

use std::{fs, path::Path};

/// Samples of 20 ms at 16 kHz.
pub(crate) const FRAME: usize = 320;

/// What is said in [`speech`], as [`key_words`] writes it.
pub(crate) const SPOKEN: &str = "it was the best of times it was the worst of times";

/// A recording of 3.65 s as a WAV file, 16 kHz, mono, 16 bit.
pub(crate) fn speech_file() -> Vec<u8> {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    fs::read(crates.join("llmrtc-media/tests/fixtures/speech.wav")).unwrap()
}

/// The samples of [`speech_file`].
pub(crate) fn speech() -> Vec<i16> {
    let file = speech_file();
    let data = file.windows(4).position(|id| id == b"data").unwrap() + 8;
    let pairs = file[data..].chunks_exact(2);
    pairs
        .map(|pair| i16::from_le_bytes([pair[0], pair[1]]))
        .collect()
}

/// The words of a text without capitals and punctuation.
pub(crate) fn key_words(text: &str) -> String {
    let kept = |c: char| if c.is_alphanumeric() { c } else { ' ' };
    let text: String = text.to_lowercase().chars().map(kept).collect();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
