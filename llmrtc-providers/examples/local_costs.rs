//! What the local models of speech cost on this machine, on one thread:
//! `cargo run -p llmrtc-providers --features local --example local_costs -- MODELS SPEECH.wav`
//!
//! `MODELS` has `onnxruntime/libonnxruntime.so.1`, `moonshine-tiny-en/`, `smart-turn/smart-turn-v3.2-cpu.onnx` and
//! `silero/silero_vad_op18_ifless.onnx`; the recording has 16 kHz, mono, 16 bit. Each line gives the median and the best
//! of many runs: on a machine that does other things too, the best says more about the model.

use std::{
    env,
    error::Error,
    fs,
    io::{Write, stdout},
    num::NonZeroUsize,
    path::PathBuf,
    time::{Duration, Instant},
};

use llmrtc_core::{
    audio::{PcmChunk, SampleRate, Utterance},
    provider::{CallContext, SttConfig, SttProvider},
};
use llmrtc_providers::local::{
    moonshine::Moonshine, pool::InferencePool, runtime::Runtime, silero::Silero, turn::SmartTurn,
};

const RUNS: usize = 21;
const RATE: SampleRate = SampleRate::HZ_16000;
/// Of a WAV file as most programs write it.
const HEADER_BYTES: usize = 44;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args_os().skip(1).map(PathBuf::from);
    let (Some(models), Some(recording)) = (arguments.next(), arguments.next()) else {
        return Err("name the folder with the models and a recording of speech".into());
    };
    let file = fs::read(recording)?;
    let speech = PcmChunk::from_le_bytes(file.get(HEADER_BYTES..).unwrap_or_default(), RATE);
    let runtime = Runtime::load(&models.join("onnxruntime/libonnxruntime.so.1"))?;
    let pool = InferencePool::new(NonZeroUsize::new(1))?;

    let path = models.join("smart-turn/smart-turn-v3.2-cpu.onnx");
    let turn = SmartTurn::load(&runtime, &path, pool.clone())?;
    // More than the 8 s that it hears: no question costs more than this.
    let long = speech.samples().repeat(3);
    let mut times = Vec::new();
    for _ in 0..RUNS {
        let began = Instant::now();
        turn.probability(&long[..]).await?;
        times.push(began.elapsed());
    }
    report("smart-turn, per decision", times, Duration::ZERO)?;

    let path = models.join("silero/silero_vad_op18_ifless.onnx");
    let mut detector = Silero::load(&runtime, &path)?.detector();
    let mut times = Vec::new();
    for frame in speech.samples().repeat(5).as_chunks().0 {
        let began = Instant::now();
        detector.score(frame)?;
        times.push(began.elapsed());
    }
    report("Silero, per frame", times, Duration::from_millis(32))?;

    let stt = Moonshine::load(&runtime, &models.join("moonshine-tiny-en"), pool)?;
    let (config, cx) = (SttConfig::default(), CallContext::detached());
    for samples in [speech.samples().to_vec(), speech.samples().repeat(10)] {
        let audio = PcmChunk::new(samples, RATE);
        let mut times = Vec::new();
        let runs = 400 / audio.duration().as_secs().max(1) as usize;
        for _ in 0..runs.clamp(1, RUNS) {
            let began = Instant::now();
            stt.transcribe(Utterance::Pcm(audio.clone()), &config, &cx)
                .await?;
            times.push(began.elapsed());
        }
        let what = format!(
            "Moonshine, {:.1} s of speech",
            audio.duration().as_secs_f64()
        );
        report(&what, times, audio.duration())?;
    }
    Ok(())
}

/// Writes one line; `audio` is what the work was about, where a share of real time says something.
fn report(what: &str, mut times: Vec<Duration>, audio: Duration) -> Result<(), Box<dyn Error>> {
    times.sort();
    let (Some(best), Some(median)) = (times.first(), times.get(times.len() / 2)) else {
        return Err("the recording is too short".into());
    };
    let mut line = format!("{what}: median {median:.1?}, best {best:.1?}");
    if !audio.is_zero() {
        let share = median.as_secs_f64() / audio.as_secs_f64();
        line += &format!(", {:.2} % of real time", share * 100.0);
    }
    writeln!(stdout(), "{line}")?;
    Ok(())
}
