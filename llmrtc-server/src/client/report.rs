//! What `llmrtc call` prints: a timeline for people, or one JSON object per step for programs.

use std::{
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use llmrtc_signal::protocol::ServerMessage;
use serde_json::{Value, json};

use super::{
    call::millis,
    heard::{Heard, Since},
    script::{Line, Step},
    verdict::Failed,
};

pub(super) struct Report {
    json: bool,
    /// Whether the timeline is printed.
    events: bool,
    /// Whether verdicts are of interest to people: a single line speaks for itself.
    steps: bool,
    start: Instant,
    transcripts: Vec<String>,
    replies: Vec<String>,
    response: Option<Duration>,
}

impl Report {
    pub(super) fn new(json: bool, events: bool, steps: bool) -> Self {
        Self {
            json,
            events: events || !json,
            steps: steps || json,
            start: tokio::time::Instant::now().into_std(),
            transcripts: Vec::new(),
            replies: Vec::new(),
            response: None,
        }
    }

    pub(super) fn is_json(&self) -> bool {
        self.json
    }

    /// Something that happened, unless only steps are asked for.
    pub(super) fn event(&self, kind: &str, fields: Value) -> io::Result<()> {
        if self.events {
            self.line(kind, fields)?;
        }
        Ok(())
    }

    pub(super) fn message(&self, message: &ServerMessage) -> io::Result<()> {
        match message {
            ServerMessage::SpeechStart => self.event("speech-start", json!({})),
            ServerMessage::SpeechEnd => self.event("speech-end", json!({})),
            ServerMessage::Transcript { text, is_final } => {
                self.event("transcript", json!({ "text": text, "final": is_final }))
            }
            ServerMessage::LlmChunk {
                content,
                done: false,
            } if self.json => self.event("llm-chunk", json!({ "content": content })),
            ServerMessage::Llm { text } => self.event("llm", json!({ "text": text })),
            ServerMessage::TtsStart => self.event("tts-start", json!({})),
            ServerMessage::TtsComplete => self.event("tts-complete", json!({})),
            ServerMessage::TtsCancelled => self.event("tts-cancelled", json!({})),
            ServerMessage::ToolCallStart { name, .. } => {
                self.event("tool-call-start", json!({ "name": name }))
            }
            ServerMessage::ToolCallEnd {
                error, duration_ms, ..
            } => self.event(
                "tool-call-end",
                json!({ "error": error, "durationMs": duration_ms }),
            ),
            ServerMessage::Error { code, message, .. } => self.event(
                "error",
                json!({ "code": code.to_string(), "message": message }),
            ),
            _ => Ok(()),
        }
    }

    /// A step is over.
    pub(super) fn step(
        &mut self,
        number: usize,
        step: &Step,
        heard: &Heard,
        failed: &[Failed],
    ) -> io::Result<()> {
        let yielded = heard.yielded_in().map(millis);
        let heard: &Since = &heard.step;
        let (transcript, reply) = (heard.transcript(), heard.reply());
        self.response = self.response.or(heard.response);
        let response = heard.response.map(millis);
        if self.steps {
            if self.json {
                let mut fields = json!({
                    "step": number,
                    "ok": failed.is_empty(),
                    "transcript": transcript,
                    "reply": reply,
                    "responseMs": response,
                    "failures": failed.iter().map(Failed::to_json).collect::<Vec<_>>(),
                });
                match &step.line {
                    Some(Line::Say(text)) => fields["say"] = text.as_str().into(),
                    Some(Line::Play { file, .. }) => {
                        fields["play"] = file.to_string_lossy().into();
                    }
                    None => {}
                }
                if step.interrupt_after.is_some() {
                    fields["interrupted"] = heard.interrupted.into();
                    fields["yieldMs"] = json!(yielded);
                }
                self.line("step", fields)?;
            } else {
                let verdict = if failed.is_empty() { "held" } else { "failed" };
                let mut fields = json!({});
                if let Some(response) = response {
                    fields["responseMs"] = json!(response);
                }
                if let Some(yielded) = yielded {
                    fields["yieldMs"] = json!(yielded);
                }
                self.line(&format!("step {number} {verdict}"), fields)?;
                for failed in failed {
                    writeln!(io::stdout(), "            {failed}")?;
                }
            }
        }
        for (part, whole) in [
            (transcript, &mut self.transcripts),
            (reply, &mut self.replies),
        ] {
            if !part.is_empty() {
                whole.push(part);
            }
        }
        Ok(())
    }

    /// The call is over.
    pub(super) fn summary(&self, steps: usize, failed: usize) -> io::Result<()> {
        let mut fields = json!({
            "transcript": self.transcripts.join(" "),
            "reply": self.replies.join(" "),
            "responseMs": self.response.map(millis),
        });
        if self.steps {
            fields["steps"] = steps.into();
            fields["failed"] = failed.into();
        }
        self.line("summary", fields)
    }

    fn line(&self, kind: &str, mut fields: Value) -> io::Result<()> {
        let at = millis(tokio::time::Instant::now().into_std() - self.start);
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
}

/// How much of a line has been spoken, for people at a terminal.
pub(super) fn progress(duration: Duration, json: bool) -> ProgressBar {
    if json || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(duration.as_millis() as u64);
    if let Ok(style) = ProgressStyle::with_template("speaking {bar:40} {percent}%") {
        bar.set_style(style);
    }
    bar
}
