//! Speaks a text with the built-in voice into a WAV file: `cargo run --example echo_voice -- "Hello there." out.wav`

use std::{env, error::Error, fs};

use llmrtc_core::audio::PcmChunk;
use llmrtc_providers::echo::voice::{RATE, Voice};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let text = arguments.next().ok_or("which text?")?;
    let file = arguments.next().unwrap_or_else(|| "echo.wav".to_owned());
    let samples: Vec<i16> = Voice::new(&text, 1.0).collect();
    fs::write(file, PcmChunk::new(samples, RATE).to_wav())?;
    Ok(())
}
