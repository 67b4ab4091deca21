//! N callers against a server of our own, as a latency and cost table. `cargo xtask bench` runs it and shows the
//! figures beside the reference's.
//!
//! Starts `llmrtc serve` from the same build directory with the built-in providers, which answer at once, so what is
//! measured is the pipeline. Client and server share the machine.
#![allow(clippy::print_stdout, reason = "the table is the result")]
#![allow(
    clippy::disallowed_methods,
    reason = "a program of its own, whose tasks end with it"
)]

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::Parser;
use llmrtc_core::{audio::PcmChunk, redact::Secret};
use llmrtc_media::codec::wav::WavReader;
use llmrtc_server::client::{
    Call, CallEvent, Phone,
    call::play,
    meter::{Meter, first_voice, last_voice},
};
use llmrtc_signal::{client::Options, protocol::ServerMessage};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{sleep, timeout},
};

/// Real speech, 3.65 s.
const SPEECH: &[u8] = include_bytes!("../../llmrtc-media/tests/fixtures/speech.wav");
/// Silence between two answers. The built-in voice pauses less between its sentences.
const ANSWER_GAP: Duration = Duration::from_millis(600);
/// By how much a sound may overtake the message that was sent before it, since they travel on different paths. Two
/// frames.
const OVERTAKES_WITHIN: Duration = Duration::from_millis(40);
/// What a caller shows to the server whose whole protection is on.
const KEY: &str = "a-key-of-the-load-generator-and-nobody-else";
/// As little as configuration allows. What is always there (sizes, depths, unforgeable sessions) is on both sides.
const PROTECTION_OFF: &str = r#"
[auth]
mode = "open"
[redact]
spoken = false
context = false
[redact.sinks]
log = { mode = "pass" }
vendor = { mode = "pass", kinds = {} }
storage = { mode = "pass" }
client = { mode = "pass", kinds = {} }
[guard]
user = { threshold = 1.0, action = "log" }
tool = { threshold = 1.0, action = "log" }
document = { threshold = 1.0, action = "log" }
[output]
tripwire = false
[audit]
sinks = []
"#;
/// The defaults, and what they leave to the operator: credentials, a durable audit log, sealed storage.
const PROTECTION_ON: &str = r#"
[[auth.api_keys]]
subject = "load"
key = "a-key-of-the-load-generator-and-nobody-else"
[audit]
sinks = ["file"]
[vault]
enabled = true
[limits]
exempt = []
"#;
/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Parser)]
struct Args {
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// Fewer repetitions, for a first impression.
    #[arg(long)]
    quick: bool,
    /// Numbers of simultaneous callers.
    #[arg(long, value_delimiter = ',', default_value = "1,8,32")]
    sessions: Vec<usize>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let speech = WavReader::new(Bytes::from_static(SPEECH))?.read_all();
    let rounds = if args.quick { 4 } else { 15 };
    let mut figures = Vec::new();

    let mut starts = Vec::new();
    for _ in 0..rounds.min(10) {
        starts.push(millis(Server::start().await?.started_in));
    }
    figures.push(figure("start to listening", starts, None));

    let server = Server::start().await?;
    let idle_rss = server.rss_mib()?;
    figures.push(json!({ "name": "memory of an idle server", "unit": "MiB", "p50": round(idle_rss), "n": 1 }));
    let phone = Phone::new()?;

    let mut connects = Vec::new();
    for _ in 0..rounds {
        let call = phone.call(server.options()).await?;
        connects.push(millis(call.connected_in()));
        call.hang_up().await;
    }
    figures.push(figure("socket open to data channel open", connects, None));

    let mut turns = Turns::default();
    let mut call = connect(&phone, &server).await?;
    for _ in 0..rounds {
        turns.add(turn(&mut call, &speech).await?);
    }
    call.hang_up().await;
    figures.push(figure(
        "true end of speech to first audible reply",
        turns.response,
        None,
    ));
    figures.push(figure(
        "decided end of speech to first audible reply",
        turns.decided,
        None,
    ));

    let mut noticed = Vec::new();
    let mut silent = Vec::new();
    for _ in 0..rounds {
        let mut call = connect(&phone, &server).await?;
        let (notice, silence) = barge_in(&mut call, &speech).await?;
        noticed.push(millis(notice));
        silent.push(millis(silence));
        call.hang_up().await;
    }
    figures.push(figure("interrupting speech to notice", noticed, None));
    figures.push(figure("interrupting speech to silence", silent, None));
    drop(server);
    figures.extend(protection(&phone, &speech, rounds).await?);

    let mut table = Vec::new();
    for count in args.sessions {
        table.push(crowd(count, &speech, if args.quick { 8 } else { 25 }).await?);
    }
    figures.push(memory_per_session(&table, "connected", "rss_connected_mib"));
    figures.push(memory_per_session(&table, "talking", "rss_mib"));
    let report = json!({ "figures": figures, "sessions": table });
    if args.json {
        println!("{report}");
    } else {
        println!("{report:#}");
    }
    Ok(())
}

/// A server process of this build.
struct Server {
    child: Child,
    port: u16,
    started_in: Duration,
    bearer: Option<Secret>,
    /// Its configuration and its data.
    folder: TempDir,
}

impl Server {
    async fn start() -> anyhow::Result<Self> {
        Self::start_with("", None).await
    }

    async fn start_with(config: &str, bearer: Option<&str>) -> anyhow::Result<Self> {
        let folder = TempDir::new()?;
        let file = folder.path().join("llmrtc.toml");
        std::fs::write(&file, config)?;
        let port = std::net::TcpListener::bind("127.0.0.1:0")?
            .local_addr()?
            .port();
        let begun = now();
        let child = Command::new(binary()?)
            .args([
                "serve",
                "--host",
                "127.0.0.1",
                "--log-level",
                "error",
                "--config",
            ])
            .arg(&file)
            .arg("--port")
            .arg(port.to_string())
            .env_clear()
            .envs([
                ("LLM_PROVIDER", "echo"),
                ("STT_PROVIDER", "echo"),
                ("TTS_PROVIDER", "echo"),
            ])
            .env("LLMRTC_SERVER__DATA_DIR", folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start the server; build it first")?;
        let mut server = Self {
            child,
            port,
            started_in: Duration::ZERO,
            bearer: bearer.map(Secret::new),
            folder,
        };
        let answers = async {
            while !server.is_healthy().await {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, answers)
            .await
            .context("the server does not answer")?;
        server.started_in = now() - begun;
        Ok(server)
    }

    async fn is_healthy(&self) -> bool {
        let request = async {
            let mut socket = TcpStream::connect(("127.0.0.1", self.port)).await?;
            socket
                .write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
                .await?;
            let mut answer = String::new();
            socket.read_to_string(&mut answer).await?;
            std::io::Result::Ok(answer.starts_with("HTTP/1.1 200"))
        };
        request.await.unwrap_or(false)
    }

    fn options(&self) -> Options {
        let url = format!("ws://127.0.0.1:{}/", self.port);
        let mut options = Options::new(url.parse().expect("a port makes a URL"));
        options.bearer = self.bearer.clone();
        options
    }

    /// Processor time that all threads have used so far, to the nanosecond where the kernel counts them. Threads that
    /// have ended do not count.
    fn cpu_of_threads(&self) -> anyhow::Result<Duration> {
        let mut nanos = 0;
        for thread in std::fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let text = std::fs::read_to_string(thread?.path().join("schedstat"))?;
            let used = text.split_whitespace().next().context("no schedstat")?;
            nanos += used.parse::<u64>()?;
        }
        Ok(Duration::from_nanos(nanos))
    }

    /// Resident memory.
    fn rss_mib(&self) -> anyhow::Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib: f64 = line
            .and_then(|line| line.trim().trim_end_matches("kB").trim().parse().ok())
            .context("no VmRSS")?;
        Ok(kib / 1024.0)
    }

    /// Processor time used so far.
    fn cpu(&self) -> anyhow::Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // Fields are counted after the command's name, which may contain anything but is in parentheses.
        let fields: Vec<&str> = stat
            .rsplit_once(')')
            .context("no stat")?
            .1
            .split_whitespace()
            .collect();
        let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
        // USER_HZ is 100 on every Linux that matters.
        Ok(Duration::from_millis(ticks * 10))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn binary() -> anyhow::Result<PathBuf> {
    let examples = std::env::current_exe()?;
    let directory = examples
        .parent()
        .and_then(|path| path.parent())
        .context("no build directory")?;
    Ok(directory.join("llmrtc"))
}

async fn connect(phone: &Phone, server: &Server) -> anyhow::Result<Call> {
    let mut call = phone.call(server.options()).await?;
    call.share_microphone().await?;
    Ok(call)
}

#[derive(Default)]
struct Turns {
    response: Vec<f64>,
    decided: Vec<f64>,
}

impl Turns {
    fn add(&mut self, turn: Turn) {
        self.response.push(turn.response);
        self.decided.push(turn.decided);
    }
}

/// Until the answer was heard, in milliseconds.
struct Turn {
    /// From the last voiced sample.
    response: f64,
    /// From the message that the caller has stopped. Slightly negative when the answer overtook it.
    decided: f64,
}

/// Says the sentence and listens to the answer to its end. What is heard before the sentence is over is not its answer.
async fn turn(call: &mut Call, speech: &PcmChunk) -> anyhow::Result<Turn> {
    let mut playing = play(call, speech.clone());
    let mut meter = Meter::default();
    let (mut true_end, mut decided, mut audible) = (None, None, None);
    let exchange = async {
        loop {
            tokio::select! {
                biased;
                Some(event) = playing.recv() => {
                    if let llmrtc_core::playout::PlayoutEvent::Started { at, .. } = event {
                        true_end = Some(at + last_voice(speech));
                    }
                }
                event = call.next() => match event {
                    // Of several, the last: the others were pauses.
                    CallEvent::Message(ServerMessage::SpeechEnd) => decided = Some(now()),
                    CallEvent::Message(ServerMessage::TtsComplete) if audible.is_some() => {
                        return Ok(());
                    }
                    CallEvent::Message(ServerMessage::Error { code, .. }) => bail!("server: {code}"),
                    CallEvent::Audio(frame) => {
                        if let Some(at) = meter.hear(&frame, ANSWER_GAP)
                            && true_end.is_some_and(|end| at >= end)
                        {
                            audible.get_or_insert(at);
                        }
                    }
                    CallEvent::Lost(reason) => bail!("lost: {reason:?}"),
                    _ => {}
                },
            }
        }
    };
    timeout(PATIENCE, exchange).await.context("no answer")??;
    let (Some(true_end), Some(decided), Some(audible)) = (true_end, decided, audible) else {
        bail!("an answer without speech");
    };
    if decided.saturating_duration_since(audible) > OVERTAKES_WITHIN {
        bail!("an answer before its question");
    }
    let after = millis(audible.saturating_duration_since(decided));
    let before = millis(decided.saturating_duration_since(audible));
    Ok(Turn {
        response: millis(audible.saturating_duration_since(true_end)),
        decided: after - before,
    })
}

/// The same turns with two servers in alternation: one with as little protection as can be configured, one with all of
/// it. What differs is what protection costs.
async fn protection(phone: &Phone, speech: &PcmChunk, rounds: usize) -> anyhow::Result<Vec<Value>> {
    let sides = [
        ("off", Server::start_with(PROTECTION_OFF, None).await?),
        ("on", Server::start_with(PROTECTION_ON, Some(KEY)).await?),
    ];
    let mut calls = Vec::new();
    for (_, server) in &sides {
        calls.push(connect(phone, server).await?);
    }
    let mut responses = [Vec::new(), Vec::new()];
    let mut processor = [Vec::new(), Vec::new()];
    // The first round warms both up.
    for round in 0..=rounds {
        for (side, (_, server)) in sides.iter().enumerate() {
            let before = server.cpu_of_threads()?;
            let turn = turn(&mut calls[side], speech).await?;
            if round > 0 {
                responses[side].push(turn.response);
                processor[side].push(millis(server.cpu_of_threads()?.saturating_sub(before)));
            }
        }
    }
    anyhow::ensure!(
        sides[1].1.folder.path().join("audit.jsonl").exists(),
        "the protected server kept no audit log"
    );
    let mut figures = Vec::new();
    for (name, values) in [
        ("response, by protection", responses),
        ("processor time of a turn, by protection", processor),
    ] {
        for ((note, _), values) in sides.iter().zip(values) {
            figures.push(figure(name, values, Some(note)));
        }
    }
    Ok(figures)
}

/// Interrupts an answer: from the first voiced sample to `tts-cancelled`, and to the last sound of the answer.
async fn barge_in(call: &mut Call, speech: &PcmChunk) -> anyhow::Result<(Duration, Duration)> {
    let mut playing = play(call, speech.clone());
    let mut meter = Meter::default();
    let (mut interrupts_at, mut voice, mut noticed) = (None, None, None);
    let exchange = async {
        loop {
            let interrupt = async {
                match interrupts_at {
                    Some(at) => tokio::time::sleep_until(tokio::time::Instant::from_std(at)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = interrupt => {
                    interrupts_at = None;
                    playing = play(call, speech.clone());
                }
                Some(event) = playing.recv() => {
                    if let llmrtc_core::playout::PlayoutEvent::Started { at, .. } = event
                        && meter.last_audible().is_some()
                    {
                        voice = Some(at + first_voice(speech));
                    }
                }
                event = call.next() => match event {
                    CallEvent::Message(ServerMessage::TtsCancelled) => noticed = Some(now()),
                    CallEvent::Message(ServerMessage::Error { code, .. }) => bail!("server: {code}"),
                    CallEvent::Audio(frame) => {
                        if meter.hear(&frame, ANSWER_GAP).is_some() && voice.is_none() {
                            interrupts_at = Some(now() + Duration::from_millis(700));
                        }
                        let quiet = meter.last_audible().is_some_and(|last| {
                            frame.at.saturating_duration_since(last) > Duration::from_millis(300)
                        });
                        if let (Some(voice), Some(noticed), true) = (voice, noticed, quiet) {
                            let last = meter.last_audible().unwrap_or(noticed);
                            return Ok((
                                noticed.saturating_duration_since(voice),
                                last.saturating_duration_since(voice),
                            ));
                        }
                    }
                    CallEvent::Lost(reason) => bail!("lost: {reason:?}"),
                    _ => {}
                },
            }
        }
    };
    timeout(PATIENCE, exchange)
        .await
        .context("the answer was not interrupted")?
}

/// `count` callers at once: what listening costs, what talking costs, and how long answers take.
async fn crowd(count: usize, speech: &PcmChunk, seconds: u64) -> anyhow::Result<Value> {
    let server = Server::start().await?;
    let before = server.rss_mib()?;
    let phone = Phone::new()?;
    let mut calls = Vec::new();
    for _ in 0..count {
        calls.push(connect(&phone, &server).await?);
    }

    // A live microphone in a quiet room: packets all the time, nothing to hear.
    let room = quiet_room(Duration::from_secs(seconds));
    let players: Vec<_> = calls.iter().map(|call| play(call, room.clone())).collect();
    sleep(Duration::from_secs(1)).await;
    let listening = cost(&server, Duration::from_secs(seconds - 2)).await? / count as f64;
    drop(players);
    let connected = server.rss_mib()?;

    let until = now() + Duration::from_secs(seconds);
    let mut talkers = JoinSet::new();
    for (index, mut call) in calls.into_iter().enumerate() {
        let speech = speech.clone();
        talkers.spawn(async move {
            // Callers do not begin in step.
            sleep(Duration::from_millis(137 * index as u64 % 4_000)).await;
            let mut turns = Vec::new();
            while now() < until {
                turns.push(turn(&mut call, &speech).await?.response);
            }
            anyhow::Ok((call, turns))
        });
    }
    sleep(Duration::from_secs(2)).await;
    let talking = cost(&server, Duration::from_secs(seconds - 3)).await? / count as f64;
    let rss = server.rss_mib()?;
    let (mut responses, mut calls) = (Vec::new(), Vec::new());
    while let Some(talker) = talkers.join_next().await {
        let (call, turns) = talker??;
        responses.extend(turns);
        calls.push(call);
    }
    Ok(json!({
        "sessions": count,
        "cpu_percent_listening": round(listening),
        "cpu_percent_talking": round(talking),
        "rss_mib": round(rss),
        "rss_per_session_mib": round((rss - before) / count as f64),
        "rss_connected_mib": round(connected),
        "response_p50_ms": percentile(&mut responses, 0.5),
        "response_p95_ms": percentile(&mut responses, 0.95),
        "turns": responses.len(),
    }))
}

/// What one more session costs: the slope between the smallest and the largest crowd, so that what a server needs once
/// does not count. Null if all crowds have one size.
fn memory_per_session(crowds: &[Value], note: &str, field: &str) -> Value {
    let points = || {
        let point = |crowd: &Value| Some((crowd["sessions"].as_f64()?, crowd[field].as_f64()?));
        crowds.iter().filter_map(point)
    };
    let by_size = |a: &(f64, f64), b: &(f64, f64)| a.0.total_cmp(&b.0);
    let slope = points()
        .min_by(by_size)
        .zip(points().max_by(by_size))
        .filter(|(small, large)| large.0 > small.0)
        .map(|(small, large)| round((large.1 - small.1) / (large.0 - small.0)));
    let n = if slope.is_some() { 2 } else { 0 };
    json!({ "name": "memory per session", "unit": "MiB", "p50": slope, "n": n, "note": note })
}

/// The server's processor time over a while, in percent of one core.
async fn cost(server: &Server, time: Duration) -> anyhow::Result<f64> {
    let (cpu, begun) = (server.cpu()?, now());
    sleep(time).await;
    let used = server.cpu()? - cpu;
    Ok(used.as_secs_f64() / (now() - begun).as_secs_f64() * 100.0)
}

/// Noise at −60 dBFS, the same every time.
fn quiet_room(length: Duration) -> PcmChunk {
    let rate = llmrtc_core::audio::SampleRate::HZ_16000;
    let mut state = 1u32;
    let samples: Vec<i16> = (0..rate.samples_in(length))
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) as i16 / 600
        })
        .collect();
    PcmChunk::new(samples, rate)
}

/// `values` are milliseconds.
fn figure(name: &str, mut values: Vec<f64>, note: Option<&str>) -> Value {
    let (p50, p95) = (percentile(&mut values, 0.5), percentile(&mut values, 0.95));
    json!({ "name": name, "unit": "ms", "p50": p50, "p95": p95, "n": values.len(), "note": note })
}

/// Null without values.
fn percentile(values: &mut [f64], quantile: f64) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    let index = (last as f64 * quantile).round() as usize;
    Some(round(values[index]))
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
