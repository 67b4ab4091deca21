//! Speaks a text with a voice of this machine, writes it as WAV, and says how fast that was.
//!
//! `cargo run --release -p llmrtc-providers --features local --example local_voice -- "Good morning." out.wav [times]`
//!
//! Models are looked for in `LLMRTC_MODEL_DIR`, otherwise where `llmrtc models fetch` puts them.
#![allow(clippy::print_stdout, reason = "a program for the terminal")]

use std::{
    num::NonZeroUsize,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use futures_util::StreamExt;
use llmrtc_core::{
    audio::PcmChunk,
    provider::{CallContext, TtsConfig, TtsProvider},
};
use llmrtc_providers::local::{models::Store, pool::InferencePool, voice};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let text = arguments.next().ok_or("which text?")?;
    let path = arguments.next().ok_or("which file?")?;
    let times = arguments.next().map_or(Ok(1), |times| times.parse())?;
    let store = Store::of_user(|name| std::env::var_os(name)).ok_or("set LLMRTC_MODEL_DIR")?;
    let pool = InferencePool::new(NonZeroUsize::new(1))?;
    for (who, voice) in [
        ("server", voice::best(&store, None, &pool)?),
        ("caller", voice::for_caller(&store, &pool)?),
    ] {
        let (mut first, mut all) = (Vec::new(), Duration::ZERO);
        let mut spoken = None;
        for _ in 0..times {
            let begin = Instant::now();
            let (chunk, to_first) = speak(&*voice, &text).await?;
            all += begin.elapsed();
            first.push(to_first);
            spoken = Some(chunk);
        }
        first.sort_unstable();
        let Some(spoken) = spoken else { continue };
        println!(
            "{who}: {} at {} Hz, first audio p50 {:.1?} max {:.1?}, {:.2?} of speech, {:.4} s per second of it{}",
            voice.name(),
            spoken.rate().hz(),
            first[first.len() / 2],
            first[first.len() - 1],
            spoken.duration(),
            all.as_secs_f64() / (spoken.duration().as_secs_f64() * f64::from(times)),
            memory().map_or(String::new(), |memory| format!(", process {memory}")),
        );
        if who == "server" {
            std::fs::write(&path, spoken.to_wav())?;
        }
    }
    Ok(())
}

async fn speak(
    voice: &dyn TtsProvider,
    text: &str,
) -> Result<(PcmChunk, Duration), Box<dyn std::error::Error>> {
    let (config, cx) = (TtsConfig::default(), CallContext::detached());
    let streaming = voice.streaming().ok_or("the voice does not stream")?;
    let begin = Instant::now();
    let mut pieces = streaming.speak_stream(text, &config, &cx).await?;
    let (mut bytes, mut first) = (BytesMut::new(), None);
    while let Some(piece) = pieces.next().await {
        first.get_or_insert_with(|| begin.elapsed());
        bytes.extend_from_slice(&piece?);
    }
    let spoken = PcmChunk::from_le_bytes(&bytes, streaming.pcm_rate());
    Ok((spoken, first.unwrap_or_default()))
}

/// What the process has in memory, where the system says so.
fn memory() -> Option<String> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    Some(line.trim_start_matches("VmRSS:").trim().to_owned())
}
