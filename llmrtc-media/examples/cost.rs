//! What a call costs: microseconds per frame of each step, then a second of many listening and talking calls.
//!
//! ```text
//! cargo run --release -p llmrtc-media --example cost -- speech.wav [calls]
//! ```

use std::{
    error::Error,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use llmrtc_core::{
    audio::{PcmChunk, SampleRate},
    id::TurnId,
};
use llmrtc_media::{
    codec::{
        opus::{Decoder, Encoder, FRAME, FRAME_SAMPLES},
        wav::WavReader,
    },
    config::{MediaConfig, PlayoutConfig},
    pipeline::{MediaThreads, PacketOut, Pipeline, PipelineMode, RtpIn, RtpOut},
    resample::Resampler,
    vad::{EarshotDetector, VoiceDetector},
};
use tokio::sync::mpsc;

/// How long the calls of the load test run.
const LOAD: Duration = Duration::from_secs(10);

#[expect(clippy::print_stdout, reason = "the numbers are the program's result")]
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("usage: cost FILE.wav [CALLS]")?;
    let calls: usize = arguments.next().map_or(Ok(100), |calls| calls.parse())?;
    let speech = WavReader::new(std::fs::read(path)?.into())?.read_all();

    let (wide, per_frame) = resample(&speech, SampleRate::HZ_48000);
    println!(
        "resample {} → 48000 Hz  {per_frame:>7.1} µs per 20 ms",
        speech.rate().hz()
    );
    let (narrow, _) = resample(&speech, SampleRate::HZ_16000);
    for complexity in [0, 1, 2, 3, 5, 10] {
        let config = PlayoutConfig {
            complexity,
            ..PlayoutConfig::default()
        };
        let (packets, per_frame) = encode(&config, &wide)?;
        let distance = spectral_distance(&wide, &packets)?;
        println!(
            "encode, complexity {complexity:>2}    {per_frame:>7.1} µs per 20 ms, {distance:.2} dB from the original"
        );
    }
    let (packets, _) = encode(&PlayoutConfig::default(), &wide)?;
    for rate in [SampleRate::HZ_16000, SampleRate::HZ_48000] {
        let mut decoder = Decoder::new(rate)?;
        let begun = Instant::now();
        for packet in &packets {
            decoder.decode(packet)?;
        }
        let per_frame = micros(begun.elapsed(), packets.len());
        println!(
            "decode to {} Hz       {per_frame:>7.1} µs per 20 ms",
            rate.hz()
        );
    }
    let mut detector = EarshotDetector::new();
    let frames = narrow.chunks_exact(detector.frame_samples());
    let (count, begun) = (frames.len(), Instant::now());
    for frame in frames {
        detector.score(frame);
    }
    println!(
        "voice activity           {:>7.1} µs per 16 ms",
        micros(begun.elapsed(), count)
    );

    let mut waits = Vec::new();
    for _ in 0..20 {
        waits.push(first_packet(&speech).await?);
    }
    waits.sort();
    println!(
        "write → first packet      {:>7.1} µs, median of 20",
        micros(waits[10], 1)
    );

    for talking in [false, true] {
        let share = load(calls, talking, &packets, &speech).await?;
        let what = if talking {
            "talking and listening"
        } else {
            "listening"
        };
        println!(
            "{calls} calls {what}: {:.2} % of a core each",
            share * 100.0
        );
    }
    Ok(())
}

/// How far the decoded speech is from the original: the mean over voiced frames of the root mean square difference of
/// their log spectra below 8 kHz, in dB. Below 1 dB codecs are called transparent; what counts here is the comparison.
fn spectral_distance(original: &[i16], packets: &[Bytes]) -> Result<f64, Box<dyn Error>> {
    const BANDS: usize = 160;
    let mut decoder = Decoder::new(SampleRate::HZ_48000)?;
    let mut decoded = Vec::new();
    for packet in packets {
        decoded.extend_from_slice(decoder.decode(packet)?);
    }
    let correlation = |lag: usize| -> f64 {
        let pairs = original.iter().zip(&decoded[lag..]);
        pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    let lag = (0..FRAME_SAMPLES)
        .max_by(|a, b| correlation(*a).total_cmp(&correlation(*b)))
        .unwrap_or_default();
    let spectrum = |frame: &[i16]| -> Vec<f64> {
        let power = |band: usize| {
            // 50 Hz apart, as far as a 20 ms window can tell frequencies from each other.
            let step = std::f64::consts::TAU * band as f64 / FRAME_SAMPLES as f64;
            let (mut re, mut im) = (0.0, 0.0);
            for (n, sample) in frame.iter().enumerate() {
                let angle = std::f64::consts::TAU * n as f64 / FRAME_SAMPLES as f64;
                let windowed = f64::from(*sample) * (0.5 - 0.5 * angle.cos());
                re += windowed * (step * n as f64).cos();
                im += windowed * (step * n as f64).sin();
            }
            10.0 * (re * re + im * im + 1e4).log10()
        };
        (1..=BANDS).map(power).collect()
    };
    let frames = original
        .chunks_exact(FRAME_SAMPLES)
        .zip(decoded[lag..].chunks_exact(FRAME_SAMPLES));
    let voiced = frames.filter(|(frame, _)| {
        frame.iter().map(|s| f64::from(*s).powi(2)).sum::<f64>() / frame.len() as f64
            > 300.0 * 300.0
    });
    let distances: Vec<f64> = voiced
        .map(|(a, b)| {
            let (a, b) = (spectrum(a), spectrum(b));
            let squares = a.iter().zip(&b).map(|(a, b)| (a - b).powi(2));
            (squares.sum::<f64>() / BANDS as f64).sqrt()
        })
        .collect();
    Ok(distances.iter().sum::<f64>() / distances.len().max(1) as f64)
}

fn micros(elapsed: Duration, count: usize) -> f64 {
    elapsed.as_secs_f64() * 1e6 / count.max(1) as f64
}

fn resample(speech: &PcmChunk, to: SampleRate) -> (Vec<i16>, f64) {
    let begun = Instant::now();
    let mut resampler = Resampler::new(speech.rate(), to);
    let mut output = Vec::new();
    resampler.process(speech.samples(), &mut output);
    resampler.flush(&mut output);
    let frames = (speech.duration().as_millis() / FRAME.as_millis()) as usize;
    (output, micros(begun.elapsed(), frames))
}

fn encode(config: &PlayoutConfig, wide: &[i16]) -> Result<(Vec<Bytes>, f64), Box<dyn Error>> {
    let mut encoder = Encoder::new(config)?;
    let begun = Instant::now();
    let packets = wide
        .chunks_exact(FRAME_SAMPLES)
        .map(|frame| encoder.encode(frame))
        .collect::<Result<Vec<_>, _>>()?;
    let per_frame = micros(begun.elapsed(), packets.len());
    Ok((packets, per_frame))
}

/// How long the first audio of a turn takes from the writer to the wire, in an output that has been idle.
async fn first_packet(speech: &PcmChunk) -> Result<Duration, Box<dyn Error>> {
    struct Wire(mpsc::Sender<Instant>);
    impl PacketOut for Wire {
        fn send(&self, packet: RtpOut) {
            if packet.marker {
                // One marker per turn, and room for it.
                let _ = self.0.try_send(Instant::now());
            }
        }
    }
    let (wire, mut sent) = mpsc::channel(1);
    let (events, _receiver) = mpsc::channel(1);
    let threads = MediaThreads::start(&MediaConfig::default())?;
    let mode = PipelineMode::Listen {
        events,
        live: false,
    };
    let pipeline = threads.pipeline(mode, Arc::new(Wire(wire)));
    pipeline.set_sending(true);
    tokio::time::sleep(Duration::from_millis(333)).await;
    let (notify, _news) = mpsc::channel(16);
    let mut output = pipeline.sink().open(TurnId(1), notify);
    let begun = Instant::now();
    output.writer.write(0, speech.clone()).await?;
    let sent = sent.recv().await.ok_or("the pipeline ended")?;
    Ok(sent - begun)
}

struct Nowhere;

impl PacketOut for Nowhere {
    fn send(&self, _: RtpOut) {}
}

/// Share of a core that one of `calls` calls takes, feeding them included.
async fn load(
    calls: usize,
    talking: bool,
    packets: &[Bytes],
    speech: &PcmChunk,
) -> Result<f64, Box<dyn Error>> {
    let threads = MediaThreads::start(&MediaConfig::default())?;
    let mut keep = Vec::new();
    let pipelines: Vec<Pipeline> = (0..calls)
        .map(|_| {
            let (events, receiver) = mpsc::channel(1_000);
            keep.push(receiver);
            let mode = PipelineMode::Listen {
                events,
                live: false,
            };
            threads.pipeline(mode, Arc::new(Nowhere))
        })
        .collect();
    let mut outputs = Vec::new();
    for pipeline in &pipelines {
        pipeline.set_sending(true);
        let (notify, news) = mpsc::channel(16);
        let mut output = pipeline.sink().open(TurnId(1), notify);
        if talking {
            for segment in 0..3 {
                output.writer.write(segment, speech.clone()).await?;
            }
        }
        outputs.push((output, news));
    }
    let (begun, cpu) = (Instant::now(), cpu_time()?);
    let mut n = 0u32;
    while begun.elapsed() < LOAD {
        for (index, pipeline) in pipelines.iter().enumerate() {
            // Calls are spread over the frame, as they are in life.
            let due = begun + FRAME * n + FRAME * index as u32 / calls as u32;
            tokio::time::sleep_until(due.into()).await;
            pipeline.packet(RtpIn {
                sequence: n as u16,
                timestamp: n * FRAME_SAMPLES as u32,
                payload: packets[n as usize % packets.len()].clone(),
                arrived: Instant::now(),
            });
        }
        n += 1;
    }
    let used = cpu_time()?.saturating_sub(cpu);
    Ok(used.as_secs_f64() / begun.elapsed().as_secs_f64() / calls as f64)
}

/// Processor time of this process so far (Linux: the threads' first field of `schedstat`, in nanoseconds).
fn cpu_time() -> Result<Duration, Box<dyn Error>> {
    let mut total = 0;
    for task in std::fs::read_dir("/proc/self/task")? {
        let stat = std::fs::read_to_string(task?.path().join("schedstat"))?;
        total += stat.split(' ').next().unwrap_or_default().parse::<u64>()?;
    }
    Ok(Duration::from_nanos(total))
}
