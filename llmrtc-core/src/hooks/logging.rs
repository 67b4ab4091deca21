//! Events as log lines.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use tracing::Level;

use super::{
    ErrorContext, HookEvent, HookResult, Hooks, InputKind, ServerEvent, SharedError, TurnContext,
};
use crate::{
    provider::LlmRequest,
    turn::{Component, Outcome, TurnError, TurnTiming},
};

/// Longest text of a person or of a prompt in a line, in characters.
const TEXT_LIMIT: usize = 100;
/// Longest transcript or response in a line, in characters.
const RESPONSE_LIMIT: usize = 200;

/// Changes text before it is written.
pub type Scrub = Arc<dyn Fn(&str) -> String + Send + Sync>;

/// Writes events as `tracing` events with target `llmrtc::hooks`. Times are in milliseconds.
///
/// What people said, prompts and tool data are left out unless [payloads](Self::with_payloads) are on.
#[derive(Clone)]
pub struct LoggingObserver {
    /// Takes out of payloads what a log must not hold.
    scrub: Option<Scrub>,
    level: Level,
    payloads: bool,
    events: bool,
    timing: bool,
}

/// Writes an event if the observer's own level admits it.
macro_rules! log {
    ($observer:expr, $level:ident, $($rest:tt)*) => {
        if Level::$level <= $observer.level {
            tracing::event!(target: "llmrtc::hooks", Level::$level, $($rest)*);
        }
    };
}

impl std::fmt::Debug for LoggingObserver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoggingObserver")
            .field("level", &self.level)
            .field("payloads", &self.payloads)
            .finish_non_exhaustive()
    }
}

impl LoggingObserver {
    /// Lifecycle at `info`, without payloads.
    pub fn new() -> Self {
        Self {
            scrub: None,
            level: Level::INFO,
            payloads: false,
            events: true,
            timing: false,
        }
    }

    /// Failures only.
    pub fn errors_only() -> Self {
        Self::new().with_level(Level::ERROR)
    }

    /// Everything, with payloads. For development: it writes down what people say.
    pub fn verbose() -> Self {
        Self::new().with_level(Level::DEBUG).with_payloads(true)
    }

    /// One line per turn with its latencies, and nothing else.
    pub fn timing() -> Self {
        Self {
            events: false,
            timing: true,
            ..Self::new()
        }
    }

    /// The least important level that is written.
    #[must_use]
    pub fn with_level(mut self, level: Level) -> Self {
        self.level = level;
        self
    }

    /// Whether content is written: transcripts, prompts, responses.
    #[must_use]
    pub fn with_payloads(mut self, payloads: bool) -> Self {
        self.payloads = payloads;
        self
    }

    /// Payloads pass this first, personal data stays out of the log by it.
    #[must_use]
    pub fn with_scrub(mut self, scrub: Scrub) -> Self {
        self.scrub = Some(scrub);
        self
    }

    /// Content, scrubbed, then cut at a character boundary; absent unless payloads are on.
    fn payload(&self, text: &str, limit: usize) -> Option<String> {
        self.payloads.then(|| match &self.scrub {
            Some(scrub) => cut(&scrub(text), limit).to_owned(),
            None => cut(text, limit).to_owned(),
        })
    }

    fn turn_event(&self, cx: &TurnContext, event: &HookEvent) {
        let turn = cx.turn_id.0;
        match event {
            HookEvent::TurnStart => {
                let (session, audio_size) = (cx.session_id.short(), audio_size(cx));
                log!(self, INFO, turn, %session, audioSize = audio_size, "Turn started");
            }
            HookEvent::SttStart { .. } => {
                log!(self, DEBUG, turn, audioSize = audio_size(cx), "STT started");
            }
            HookEvent::SttEnd { result, timing, .. } => {
                let duration = ms(timing.duration);
                let text = self.payload(&result.text, RESPONSE_LIMIT);
                log!(self, INFO, turn, duration, text, "STT completed");
            }
            HookEvent::LlmStart { request, .. } => {
                let messages = request.messages.len();
                let last = last_message(request).and_then(|text| self.payload(text, TEXT_LIMIT));
                log!(
                    self,
                    DEBUG,
                    turn,
                    messages,
                    lastMessage = last,
                    "LLM started"
                );
            }
            HookEvent::LlmChunk { index: 0, .. } => {
                log!(self, DEBUG, turn, "LLM first chunk received");
            }
            HookEvent::LlmEnd { result, timing, .. } => {
                let duration = ms(timing.duration);
                let chars = result.text.chars().count();
                let response = self.payload(&result.text, RESPONSE_LIMIT);
                log!(self, INFO, turn, duration, chars, response, "LLM completed");
            }
            HookEvent::TtsStart { text, .. } => {
                let length = text.chars().count();
                let text = self.payload(text, TEXT_LIMIT);
                log!(self, DEBUG, turn, textLength = length, text, "TTS started");
            }
            HookEvent::TtsChunk { index, audio, .. } => {
                let size = audio.samples().len() * 2;
                log!(self, DEBUG, turn, chunk = index, size, "TTS chunk");
            }
            HookEvent::TtsEnd { timing, .. } => {
                log!(
                    self,
                    INFO,
                    turn,
                    duration = ms(timing.duration),
                    "TTS completed"
                );
            }
            HookEvent::SttError { error, .. } => self.stage_failed(turn, "STT", error),
            HookEvent::LlmError { error, .. } => self.stage_failed(turn, "LLM", error),
            HookEvent::TtsError { error, .. } => self.stage_failed(turn, "TTS", error),
            HookEvent::ToolStart { call } => {
                let (tool, call_id) = (call.name.as_str(), call.call_id.as_str());
                log!(self, INFO, turn, tool, call = call_id, "Tool started");
            }
            HookEvent::ToolEnd { call, timing, .. } => {
                let (tool, call_id) = (call.name.as_str(), call.call_id.as_str());
                let duration = ms(timing.duration);
                log!(
                    self,
                    INFO,
                    turn,
                    tool,
                    call = call_id,
                    duration,
                    category = "success",
                    "Tool completed"
                );
            }
            HookEvent::ToolError {
                call,
                error,
                timing,
            } => {
                let (tool, call_id) = (call.name.as_str(), call.call_id.as_str());
                let duration = ms(timing.duration);
                let reason = self.payload(&error.message, RESPONSE_LIMIT);
                log!(
                    self,
                    INFO,
                    turn,
                    tool,
                    call = call_id,
                    duration,
                    category = error.category.name(),
                    reason,
                    "Tool failed"
                );
            }
            HookEvent::BargeIn {
                heard,
                generated,
                reaction,
            } => {
                let (heard_chars, generated_chars) =
                    (heard.chars().count(), generated.chars().count());
                let reaction = reaction.map(ms);
                let heard = self.payload(heard, RESPONSE_LIMIT);
                log!(
                    self,
                    INFO,
                    turn,
                    heardChars = heard_chars,
                    generatedChars = generated_chars,
                    reaction,
                    heard,
                    "Barge-in"
                );
            }
            HookEvent::Retry {
                component,
                attempt,
                wait,
                error,
            } => {
                let (component, wait) = (component.label(), ms(*wait));
                let (provider, kind) = (error.provider(), error.kind());
                log!(
                    self,
                    WARN,
                    turn,
                    component,
                    attempt,
                    wait,
                    provider,
                    ?kind,
                    "Trying again"
                );
            }
            HookEvent::TurnEnd {
                outcome, timing, ..
            } => {
                let duration = ms(timing.duration);
                log!(
                    self,
                    INFO,
                    turn,
                    duration,
                    outcome = outcome.label(),
                    "Turn completed"
                );
            }
            _ => {}
        }
    }

    fn stage_failed(&self, turn: u64, stage: &'static str, error: &TurnError) {
        let context = ErrorContext::of(error);
        // A vendor's sentence may quote the request, and with it the caller.
        let sentence = describe(error);
        log!(
            self,
            ERROR,
            turn,
            code = context.code,
            provider = context.provider.as_deref(),
            kind = error.kind().map(tracing::field::debug),
            error = self.payload(&sentence, RESPONSE_LIMIT),
            "{stage} failed"
        );
    }

    fn server_event(&self, event: &ServerEvent) {
        match event {
            ServerEvent::Connection {
                session_id,
                connection_id,
                transport,
            } => {
                let connection = &**connection_id;
                log!(self, INFO, session = %session_id.short(), connection, transport, "Connection established");
            }
            ServerEvent::Disconnect {
                session_id,
                timing,
                turns,
                ..
            } => {
                let duration = ms(timing.duration);
                log!(self, INFO, session = %session_id.short(), duration, turns, "Connection closed");
            }
            ServerEvent::SpeechStart { session_id, at } => {
                let timestamp = unix_ms(*at);
                log!(self, DEBUG, session = %session_id.short(), timestamp, "Speech started");
            }
            ServerEvent::SpeechEnd {
                session_id, audio, ..
            } => {
                log!(self, DEBUG, session = %session_id.short(), audioDuration = ms(*audio), "Speech ended");
            }
            ServerEvent::Error { context, error } => self.error(context, error),
        }
    }

    fn error(&self, context: &ErrorContext, error: &SharedError) {
        let speech = matches!(
            context.component,
            Component::Stt | Component::Llm | Component::Tts
        );
        if speech && context.turn_id.is_some() {
            // `stage_failed` has written it.
            return;
        }
        let session = context
            .session_id
            .map(|id| tracing::field::display(id.short()));
        let turn = context.turn_id.map(|turn| turn.0);
        let details = context.details.as_deref();
        log!(
            self,
            ERROR,
            code = context.code,
            message = describe(&**error).as_str(),
            session,
            turn,
            details,
            "Error in {}",
            context.component.label()
        );
    }

    fn timing_line(&self, cx: &TurnContext, outcome: &Outcome, stages: &TurnTiming) {
        let asked = stages.last_voice.or(stages.decided);
        let between = |from: Option<Instant>, to: Option<Instant>| {
            from.zip(to)
                .map(|(from, to)| ms(to.saturating_duration_since(from)))
        };
        log!(
            self,
            INFO,
            turn = cx.turn_id.0,
            stt = between(stages.decided, stages.transcript),
            ttft = between(stages.llm_request, stages.llm_first_text),
            firstAudio = between(asked, stages.first_audio),
            llm = between(stages.llm_request, stages.llm_done),
            tts = between(stages.tts_request, stages.tts_first_audio),
            total = between(asked, stages.ended),
            outcome = outcome.label(),
            "Turn timing"
        );
    }
}

impl Default for LoggingObserver {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Hooks for LoggingObserver {
    fn name(&self) -> &'static str {
        "logging"
    }

    async fn on_event(&self, cx: &TurnContext, event: &HookEvent) -> HookResult {
        if self.events {
            self.turn_event(cx, event);
        }
        if let HookEvent::TurnEnd {
            outcome, stages, ..
        } = event
            && self.timing
        {
            self.timing_line(cx, outcome, stages);
        }
        Ok(())
    }

    async fn on_server_event(&self, event: &ServerEvent) -> HookResult {
        if self.events {
            self.server_event(event);
        }
        Ok(())
    }
}

/// An error with its causes, in one line.
fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text.push_str(": ");
        text.push_str(&source.to_string());
        cause = source.source();
    }
    text
}

fn cut(text: &str, limit: usize) -> &str {
    match text.char_indices().nth(limit) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn unix_ms(at: std::time::SystemTime) -> u64 {
    ms(at
        .duration_since(std::time::SystemTime::UNIX_EPOCH)
        .unwrap_or_default())
}

fn audio_size(cx: &TurnContext) -> Option<usize> {
    match cx.input {
        InputKind::Utterance { bytes, .. } => Some(bytes),
        InputKind::Text | InputKind::Live => None,
    }
}

fn last_message(request: &LlmRequest) -> Option<&str> {
    request.messages.last().map(|message| message.text())
}
