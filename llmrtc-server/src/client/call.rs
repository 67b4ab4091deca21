//! `llmrtc call`: a real call with a recording as the microphone.

use std::{
    fs::File,
    io::{self, BufWriter, IsTerminal, Write},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use bytes::Bytes;
use indicatif::{ProgressBar, ProgressStyle};
use llmrtc_core::{
    audio::{PcmChunk, SampleRate},
    id::TurnId,
    playout::PlayoutEvent,
};
use llmrtc_media::{
    codec::wav::{WavReader, WavWriter},
    pipeline::ReceivedFrame,
};
use llmrtc_signal::{client::Options, protocol::ServerMessage};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use url::Url;

use super::{
    Call, CallEvent, Phone,
    meter::{Meter, last_voice},
};
use crate::cli::CallArgs;

/// How long the server may take for its next sign of life, as long as something is expected of it.
const REACT_WITHIN: Duration = Duration::from_secs(30);
/// Silence that separates one spoken answer from the next.
const ANSWER_GAP: Duration = Duration::from_millis(600);
/// How long it has to be quiet after the last answer, since a recording may hold several questions.
const LINGER: Duration = Duration::from_millis(700);
/// Longest pause that a recording shows in full; more is a lost network.
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// Pieces in which the recording is handed over.
const PIECE: Duration = Duration::from_millis(100);

/// Places the call and reports it. An answer that was heard is a success.
///
/// # Errors
/// When the recording cannot be read, the call breaks, the server reports an error, or no answer is heard.
pub async fn run(args: CallArgs) -> anyhow::Result<()> {
    let recording = read(&args.speech)?;
    let url: Url = args
        .url
        .parse()
        .with_context(|| format!("{} is not a URL", args.url))?;
    let mut reply = args.reply.as_deref().map(Reply::create).transpose()?;
    let report = Report::new(args.json);

    let mut call = Phone::new()?.call(Options::new(url)).await?;
    report.line(
        "connected",
        json!({ "connectMs": millis(call.connected_in()) }),
    )?;
    call.share_microphone().await?;
    report.line("microphone", json!({}))?;

    let speech_ends_at = last_voice(&recording);
    let mut playing = play(&call, recording.clone());
    let bar = progress(recording.duration(), args.json);
    let mut heard = Heard::default();
    let mut deadline = tokio::time::Instant::now() + recording.duration() + REACT_WITHIN;
    loop {
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(deadline) => break,
            Some(event) = playing.recv() => match event {
                PlayoutEvent::Started { at, .. } => {
                    heard.began = Some(at);
                    heard.true_end = Some(at + speech_ends_at);
                    report.line("speaking", json!({}))?;
                }
                PlayoutEvent::Drained { .. } => {
                    bar.finish_and_clear();
                    heard.spoken = true;
                    deadline = tokio::time::Instant::now() + heard.patience();
                    report.line("spoken", json!({}))?;
                }
                _ => {}
            },
            event = call.next() => match event {
                CallEvent::Message(message) => {
                    heard.message(&message);
                    report.message(&message)?;
                    if heard.spoken {
                        deadline = tokio::time::Instant::now() + heard.patience();
                    }
                }
                CallEvent::Audio(frame) => {
                    let before = heard.meter.last_audible();
                    if let Some(at) = heard.meter.hear(&frame, ANSWER_GAP) {
                        heard.audible(at);
                        report.line("audible", json!({}))?;
                    }
                    // During a long answer, sound is all that comes.
                    if heard.spoken && heard.meter.last_audible() != before {
                        deadline = tokio::time::Instant::now() + heard.patience();
                    }
                    bar.set_position(heard.position());
                    if let Some(reply) = &mut reply {
                        reply.write(&frame).context("cannot write the reply")?;
                    }
                }
                CallEvent::Lost(reason) => bail!("the connection was lost ({reason:?})"),
            },
        }
    }
    bar.finish_and_clear();
    call.hang_up().await;
    if let Some(reply) = reply {
        reply.finish().context("cannot write the reply")?;
    }
    report.summary(&heard)?;
    if let Some(code) = heard.error {
        bail!("the server reported {code}");
    }
    if heard.first_audible.is_none() {
        bail!("no answer was heard");
    }
    Ok(())
}

fn read(path: &Path) -> anyhow::Result<PcmChunk> {
    let name = path.display();
    let file = std::fs::read(path).with_context(|| format!("cannot read {name}"))?;
    let wav = WavReader::new(Bytes::from(file)).with_context(|| format!("cannot use {name}"))?;
    let recording = wav.read_all();
    if recording.is_empty() {
        bail!("{name} holds no audio");
    }
    Ok(recording)
}

/// What was heard, in real time: a silent server sends few packets, so pauses are filled in.
struct Reply {
    file: WavWriter<BufWriter<File>>,
    /// Where the next frame belongs.
    until: Option<Instant>,
}

impl Reply {
    fn create(path: &Path) -> anyhow::Result<Self> {
        let file =
            File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
        let file = WavWriter::new(BufWriter::new(file), SampleRate::HZ_48000)?;
        Ok(Self { file, until: None })
    }

    fn write(&mut self, frame: &ReceivedFrame) -> io::Result<()> {
        let gap = self.until.map_or(Duration::ZERO, |until| {
            frame.at.saturating_duration_since(until)
        });
        // Below that it is jitter, which the next frames make up for.
        if gap > frame.pcm.duration() {
            let silence = vec![0i16; frame.pcm.rate().samples_in(gap.min(MAX_PAUSE))];
            self.file.write(&PcmChunk::new(silence, frame.pcm.rate()))?;
            self.until = None;
        }
        self.until = Some(self.until.unwrap_or(frame.at) + frame.pcm.duration());
        self.file.write(&frame.pcm)
    }

    fn finish(self) -> io::Result<()> {
        self.file.finish()?.flush()
    }
}

/// Plays a recording into the microphone, in real time. The events say when it began and ended.
pub fn play(call: &Call, recording: PcmChunk) -> mpsc::Receiver<PlayoutEvent> {
    let (notify, events) = mpsc::channel(4);
    let output = call.microphone().open(TurnId(1), notify);
    let (mut writer, control) = (output.writer, output.control);
    #[expect(
        clippy::disallowed_methods,
        reason = "ends with the recording or with the call"
    )]
    tokio::spawn(async move {
        let piece = recording.rate().samples_in(PIECE);
        for samples in recording.samples().chunks(piece) {
            if writer
                .write(0, PcmChunk::new(samples, recording.rate()))
                .await
                .is_err()
            {
                return;
            }
        }
        if writer.end_segment(0).await.is_ok() {
            control.finish();
        }
    });
    events
}

fn progress(duration: Duration, json: bool) -> ProgressBar {
    if json || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(duration.as_millis() as u64);
    if let Ok(style) = ProgressStyle::with_template("speaking {bar:40} {percent}%") {
        bar.set_style(style);
    }
    bar
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 10_000.0).round() / 10.0
}

/// What the caller noticed.
#[derive(Default)]
struct Heard {
    /// When the recording began to play.
    began: Option<Instant>,
    /// When the last voiced sample of the recording was sent.
    true_end: Option<Instant>,
    spoken: bool,
    meter: Meter,
    first_audible: Option<Instant>,
    response: Option<Duration>,
    transcripts: Vec<String>,
    replies: Vec<String>,
    /// An utterance has begun that was not transcribed yet.
    listening: bool,
    /// A question was transcribed whose answer is not audible yet. Utterances may be merged into one question, so they
    /// cannot be counted against answers.
    asked: bool,
    /// Answers that are audible.
    open: u32,
    /// Something came to its end: an answer, a failure, or an utterance without words.
    ended: bool,
    error: Option<String>,
}

impl Heard {
    fn message(&mut self, message: &ServerMessage) {
        match message {
            ServerMessage::SpeechStart => self.listening = true,
            ServerMessage::Transcript {
                text,
                is_final: true,
            } => {
                self.listening = false;
                if text.is_empty() {
                    self.ended = true;
                } else {
                    self.asked = true;
                    self.transcripts.push(text.clone());
                }
            }
            ServerMessage::Llm { text } => self.replies.push(text.clone()),
            ServerMessage::TtsStart => {
                self.asked = false;
                self.open += 1;
            }
            ServerMessage::TtsComplete | ServerMessage::TtsCancelled => {
                self.open = self.open.saturating_sub(1);
                self.ended = true;
            }
            ServerMessage::Error { code, .. } => {
                self.listening = false;
                self.asked = false;
                self.ended = true;
                self.error = Some(code.to_string());
            }
            _ => {}
        }
    }

    fn audible(&mut self, at: Instant) {
        self.first_audible.get_or_insert(at);
        if let Some(end) = self.true_end
            && at > end
            && self.response.is_none()
        {
            self.response = Some(at - end);
        }
    }

    /// Everything that was asked has been answered, or has failed.
    fn is_settled(&self) -> bool {
        !self.listening && !self.asked && self.open == 0 && self.ended
    }

    /// How long to wait for whatever comes next.
    fn patience(&self) -> Duration {
        if self.is_settled() {
            LINGER
        } else {
            REACT_WITHIN
        }
    }

    /// How much of the recording was played, in milliseconds.
    fn position(&self) -> u64 {
        self.began.map_or(0, |began| {
            now().saturating_duration_since(began).as_millis() as u64
        })
    }
}

/// Prints what happens: lines for people, or JSON lines.
struct Report {
    json: bool,
    start: Instant,
}

impl Report {
    fn new(json: bool) -> Self {
        Self { json, start: now() }
    }

    fn line(&self, kind: &str, mut fields: Value) -> io::Result<()> {
        let at = millis(now() - self.start);
        let mut out = io::stdout().lock();
        if self.json {
            fields["type"] = kind.into();
            fields["atMs"] = at.into();
            return writeln!(out, "{fields}");
        }
        write!(out, "{:>8.3} s  {kind}", at / 1000.0)?;
        for (name, value) in fields.as_object().into_iter().flatten() {
            match value {
                Value::String(text) => write!(out, "  {name}: {text}")?,
                value => write!(out, "  {name}: {value}")?,
            }
        }
        writeln!(out)
    }

    fn message(&self, message: &ServerMessage) -> io::Result<()> {
        match message {
            ServerMessage::SpeechStart => self.line("speech-start", json!({})),
            ServerMessage::SpeechEnd => self.line("speech-end", json!({})),
            ServerMessage::Transcript { text, is_final } => {
                self.line("transcript", json!({ "text": text, "final": is_final }))
            }
            ServerMessage::LlmChunk {
                content,
                done: false,
            } if self.json => self.line("llm-chunk", json!({ "content": content })),
            ServerMessage::Llm { text } => self.line("llm", json!({ "text": text })),
            ServerMessage::TtsStart => self.line("tts-start", json!({})),
            ServerMessage::TtsComplete => self.line("tts-complete", json!({})),
            ServerMessage::TtsCancelled => self.line("tts-cancelled", json!({})),
            ServerMessage::ToolCallStart { name, .. } => {
                self.line("tool-call-start", json!({ "name": name }))
            }
            ServerMessage::ToolCallEnd {
                error, duration_ms, ..
            } => self.line(
                "tool-call-end",
                json!({ "error": error, "durationMs": duration_ms }),
            ),
            ServerMessage::Error { code, message, .. } => self.line(
                "error",
                json!({ "code": code.to_string(), "message": message }),
            ),
            _ => Ok(()),
        }
    }

    fn summary(&self, heard: &Heard) -> io::Result<()> {
        self.line(
            "summary",
            json!({
                "transcript": heard.transcripts.join(" "),
                "reply": heard.replies.join(" "),
                "responseMs": heard.response.map(millis),
            }),
        )
    }
}

#[cfg(test)]
mod tests {
    use llmrtc_signal::protocol::ErrorCode;

    use super::*;

    fn transcript(text: &str) -> ServerMessage {
        ServerMessage::Transcript {
            text: text.to_owned(),
            is_final: true,
        }
    }

    /// Whether the caller hangs up after each of the messages.
    fn settled<const N: usize>(messages: [ServerMessage; N]) -> [bool; N] {
        let mut heard = Heard::default();
        messages.map(|message| {
            heard.message(&message);
            heard.is_settled()
        })
    }

    #[test]
    fn the_caller_stays_until_everything_is_answered() {
        use ServerMessage::{SpeechEnd, SpeechStart, TtsCancelled, TtsComplete, TtsStart};

        let error = || ServerMessage::error(ErrorCode::LlmError);
        // One question.
        assert_eq!(
            settled([
                SpeechStart,
                SpeechEnd,
                transcript("a"),
                TtsStart,
                TtsComplete
            ]),
            [false, false, false, false, true]
        );
        // Two utterances that became one question.
        assert_eq!(
            settled([
                SpeechStart,
                SpeechEnd,
                transcript("a"),
                SpeechStart,
                SpeechEnd,
                transcript("b"),
                TtsStart,
                TtsComplete,
            ])[6..],
            [false, true]
        );
        // Two questions.
        assert_eq!(
            settled([
                SpeechStart,
                transcript("a"),
                TtsStart,
                SpeechStart,
                TtsCancelled,
                transcript("b"),
                TtsStart,
                TtsComplete,
            ])[4..],
            [false, false, false, true]
        );
        // Nothing was said, a question failed, an answer broke off.
        assert_eq!(
            settled([SpeechStart, SpeechEnd, transcript("")]),
            [false, false, true]
        );
        assert_eq!(
            settled([SpeechStart, transcript("a"), error()]),
            [false, false, true]
        );
        assert_eq!(settled([SpeechStart, error()]), [false, true]);
        assert_eq!(
            settled([transcript("a"), TtsStart, error(), TtsCancelled]),
            [false, false, false, true]
        );
        // A cough does not end the wait for an answer.
        assert_eq!(
            settled([
                transcript("a"),
                SpeechStart,
                transcript(""),
                TtsStart,
                TtsComplete
            ]),
            [false, false, false, false, true]
        );
    }
}
