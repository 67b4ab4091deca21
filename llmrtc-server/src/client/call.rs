//! `llmrtc call`: a real call with a recording, a synthesised voice or a whole script as the caller.

use std::{
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use indicatif::ProgressBar;
use llmrtc_core::{audio::PcmChunk, playout::PlayoutEvent, provider::TtsProvider};
use llmrtc_signal::client::Options;
use serde_json::json;
use tokio::sync::mpsc;
use url::Url;

use super::{
    Call, CallEvent, Phone,
    heard::Heard,
    meter::{first_voice, last_voice},
    mouth::Mouth,
    recording::{self, Reply},
    report::{Report, progress},
    script::{Line, Script, Step, Wait},
    verdict::{Failed, judge},
};
pub use super::{mouth::play, verdict::Failure};
use crate::cli::CallArgs;

/// How long the server may take for its next sign of life, as long as something is expected of it.
const REACT_WITHIN: Duration = Duration::from_secs(30);
/// How long it has to be quiet after the last answer, since a recording may hold several questions.
const LINGER: Duration = Duration::from_millis(700);

/// Places the call and reports it. `voice` makes the caller's voice; it is asked once, and only if there is a line to
/// synthesise.
///
/// Nothing is said before everything is ready: the script is checked, recordings are read and lines synthesised first.
///
/// # Errors
/// See [`Failure`], which has the exit code. A line whose answer is waited for expects one that can be heard.
pub async fn run(
    args: CallArgs,
    voice: impl FnOnce() -> anyhow::Result<Arc<dyn TtsProvider>>,
) -> Result<(), Failure> {
    let (url, steps) = prepare(&args, voice).await.map_err(Failure::Usage)?;
    let reply = args.reply.as_deref().map(Reply::create).transpose();
    let reply = reply.map_err(Failure::Usage)?;
    let report = Report::new(args.json, args.events, args.script.is_some());

    let mut call = Phone::new()?.call(Options::new(url)).await?;
    let connect = millis(call.connected_in());
    report.event("connected", json!({ "connectMs": connect }))?;
    call.share_microphone().await?;
    report.event("microphone", json!({}))?;

    let mut performance = Performance {
        mouth: Mouth::new(call.microphone()),
        call,
        playing: None,
        voiced: (Duration::ZERO, Duration::ZERO),
        bar: ProgressBar::hidden(),
        heard: Heard::default(),
        reply,
        report,
    };
    let mut failed = Vec::new();
    let outcome = performance.perform(&steps, &mut failed).await;
    let Performance {
        call,
        reply,
        report,
        bar,
        ..
    } = performance;
    bar.finish_and_clear();
    call.hang_up().await;
    if let Some(reply) = reply {
        reply.finish()?;
    }
    report.summary(steps.len(), failed.len())?;
    outcome?;
    if failed.is_empty() {
        return Ok(());
    }
    let lines = failed.iter().map(|(step, failed)| match &args.script {
        Some(_) => format!("step {step}: {failed}"),
        None => failed.to_string(),
    });
    Err(Failure::Expectation(lines.collect::<Vec<_>>().join("\n")))
}

/// A step with the recording of its line.
struct Ready {
    step: Step,
    recording: Option<PcmChunk>,
}

async fn prepare(
    args: &CallArgs,
    voice: impl FnOnce() -> anyhow::Result<Arc<dyn TtsProvider>>,
) -> anyhow::Result<(Url, Vec<Ready>)> {
    let url = args
        .url
        .parse()
        .with_context(|| format!("{} is not a URL", args.url))?;
    let script = match (&args.script, &args.say, &args.speech) {
        (Some(file), ..) => Script::load(file)?,
        (None, Some(text), _) => Script::single(Line::Say(text.clone())),
        (None, None, Some(file)) => Script::single(Line::Play {
            file: file.clone(),
            recording: recording::read(file)?,
        }),
        (None, None, None) => return Err(anyhow!("there is nothing to say")),
    };
    let speaks = |step: &Step| matches!(step.line, Some(Line::Say(_)));
    let voice = match script.steps.iter().any(speaks) {
        true => Some(voice().context("there is no voice for the caller")?),
        false => None,
    };
    if let Some(voice) = &voice {
        voice
            .init()
            .await
            .context("the caller's voice cannot be used")?;
    }
    let mut ready = Vec::with_capacity(script.steps.len());
    for (at, step) in script.steps.into_iter().enumerate() {
        let recording = match (&step.line, &voice) {
            (Some(Line::Say(text)), Some(voice)) => Some(
                recording::synthesise(voice.as_ref(), text)
                    .await
                    .with_context(|| {
                        format!("the caller's voice failed at the line of step {}", at + 1)
                    })?,
            ),
            (Some(Line::Play { recording, .. }), _) => Some(recording.clone()),
            _ => None,
        };
        ready.push(Ready { step, recording });
    }
    if let Some(voice) = voice {
        voice.shutdown().await;
    }
    Ok((url, ready))
}

/// A script being performed.
struct Performance {
    call: Call,
    mouth: Mouth,
    /// News of the line that is being spoken.
    playing: Option<mpsc::Receiver<PlayoutEvent>>,
    /// Where that line's first and last voiced samples are.
    voiced: (Duration, Duration),
    bar: ProgressBar,
    heard: Heard,
    reply: Option<Reply>,
    report: Report,
}

/// One thing that happened.
#[derive(PartialEq)]
enum Tick {
    /// The deadline passed.
    Passed,
    /// The line was spoken to its end.
    Spoken,
    /// The server is busy: a message, or something to be heard.
    Sign,
    /// Silence.
    Nothing,
}

impl Performance {
    /// Goes through all steps. What did not hold is added to `failed`, with the step's number; the call goes on.
    async fn perform(
        &mut self,
        steps: &[Ready],
        failed: &mut Vec<(usize, Failed)>,
    ) -> Result<(), Failure> {
        // A microphone is open from the beginning.
        self.mouth.hush();
        let mut before = Vec::new();
        for (at, Ready { step, recording }) in steps.iter().enumerate() {
            let number = at + 1;
            self.heard.begin(recording.is_some());
            let next = steps.get(number).and_then(|next| next.step.interrupt_after);
            let outcome = self.line(step, recording.as_ref(), next).await;
            let (mut found, ended) = match outcome {
                Ok(next) => (mem::replace(&mut before, next), None),
                Err(Stop::Output(error)) => return Err(error.into()),
                Err(Stop::Ended(reason)) => (mem::take(&mut before), Some(reason)),
            };
            match &ended {
                Some(reason) => found.push(Failed::new("call", "to go on", reason)),
                None => found.extend(judge(step, &self.heard.step)),
            }
            self.report.step(number, step, &self.heard, &found)?;
            failed.extend(found.into_iter().map(|found| (number, found)));
            if let Some(reason) = ended {
                return Err(Failure::Ended {
                    step: number,
                    reason,
                });
            }
        }
        Ok(())
    }

    /// Speaks and waits. Returns what keeps the next step's interruption from being one.
    async fn line(
        &mut self,
        step: &Step,
        recording: Option<&PcmChunk>,
        next: Option<Duration>,
    ) -> Result<Vec<Failed>, Stop> {
        if let Some(recording) = recording {
            self.speak(recording).await?;
        }
        match step.wait {
            Wait::Reply => self.until_answered().await?,
            Wait::Pause(pause) => {
                let from = self.heard.step.voice.map(|(_, end)| end);
                self.until(from.unwrap_or_else(now) + pause).await?;
            }
            Wait::Interruption => {
                return self.until_interruption(next.unwrap_or_default()).await;
            }
        }
        Ok(Vec::new())
    }

    async fn speak(&mut self, recording: &PcmChunk) -> Result<(), Stop> {
        self.voiced = (first_voice(recording), last_voice(recording));
        self.bar = progress(recording.duration(), self.report.is_json());
        self.playing = Some(self.mouth.speak(recording.clone()));
        let deadline = now() + recording.duration() + REACT_WITHIN;
        loop {
            match self.tick(deadline).await? {
                Tick::Spoken => break,
                Tick::Passed => return Err(Stop::Ended("the line was not sent in time".into())),
                Tick::Sign | Tick::Nothing => {}
            }
        }
        self.bar.finish_and_clear();
        self.mouth.hush();
        Ok(())
    }

    async fn until(&mut self, deadline: Instant) -> Result<(), Stop> {
        while self.tick(deadline).await? != Tick::Passed {}
        Ok(())
    }

    /// Listens until everything is answered, or the server shows no sign of life.
    async fn until_answered(&mut self) -> Result<(), Stop> {
        let mut deadline = now() + self.patience();
        loop {
            match self.tick(deadline).await? {
                Tick::Passed => return Ok(()),
                // During a long answer, sound is all that comes.
                Tick::Sign => deadline = now() + self.patience(),
                Tick::Spoken | Tick::Nothing => {}
            }
        }
    }

    /// Listens until the answer has been audible for that long.
    async fn until_interruption(&mut self, after: Duration) -> Result<Vec<Failed>, Stop> {
        let mut deadline = now() + REACT_WITHIN;
        let failed =
            |expected: &str, got: &str| vec![Failed::new("interrupt_after", expected, got)];
        let audible = loop {
            if let Some(audible) = self.heard.step.audible {
                break audible;
            }
            match self.tick(deadline).await? {
                Tick::Passed => return Ok(failed("an answer to interrupt", "no answer was heard")),
                Tick::Sign => deadline = now() + REACT_WITHIN,
                Tick::Spoken | Tick::Nothing => {}
            }
        };
        self.until(audible + after).await?;
        if self.heard.is_talking() {
            return Ok(Vec::new());
        }
        let expected = format!("an answer that lasts longer than {} ms", after.as_millis());
        Ok(failed(&expected, "one that had ended"))
    }

    /// How long to wait for whatever comes next.
    fn patience(&self) -> Duration {
        if self.heard.is_settled() {
            LINGER
        } else {
            REACT_WITHIN
        }
    }

    /// Takes the next thing that happens.
    async fn tick(&mut self, deadline: Instant) -> Result<Tick, Stop> {
        let playing = async {
            match &mut self.playing {
                Some(playing) => playing.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(deadline.into()) => Ok(Tick::Passed),
            event = playing => self.played(event),
            event = self.call.next() => self.received(event),
        }
    }

    fn played(&mut self, event: Option<PlayoutEvent>) -> Result<Tick, Stop> {
        match event {
            Some(PlayoutEvent::Started { at, .. }) => {
                let (first, last) = self.voiced;
                self.heard.step.began = Some(at);
                self.heard.step.voice = Some((at + first, at + last));
                self.report.event("speaking", json!({}))?;
            }
            Some(PlayoutEvent::Drained { .. }) => {
                self.playing = None;
                self.report.event("spoken", json!({}))?;
                return Ok(Tick::Spoken);
            }
            // The connection is gone, and says so itself.
            None => self.playing = None,
            Some(_) => {}
        }
        Ok(Tick::Nothing)
    }

    fn received(&mut self, event: CallEvent) -> Result<Tick, Stop> {
        match event {
            CallEvent::Message(message) => {
                self.heard.message(&message);
                self.report.message(&message)?;
                Ok(Tick::Sign)
            }
            CallEvent::Audio(frame) => {
                let before = self.heard.last_audible();
                if self.heard.frame(&frame) {
                    self.report.event("audible", json!({}))?;
                }
                if let Some(began) = self.heard.step.began {
                    let spoken = now().saturating_duration_since(began);
                    self.bar.set_position(spoken.as_millis() as u64);
                }
                if let Some(reply) = &mut self.reply {
                    reply.write(&frame)?;
                }
                let heard = self.heard.last_audible() != before;
                Ok(if heard { Tick::Sign } else { Tick::Nothing })
            }
            CallEvent::Lost(reason) => {
                Err(Stop::Ended(format!("the connection was lost ({reason:?})")))
            }
        }
    }
}

/// What stops a performance.
enum Stop {
    Ended(String),
    Output(std::io::Error),
}

impl From<std::io::Error> for Stop {
    fn from(error: std::io::Error) -> Self {
        Self::Output(error)
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

pub(super) fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 10_000.0).round() / 10.0
}
