//! From a question to the words of its answer.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{Action, DRAIN_GRACE, Machine, Moment, ears::Ears, ended, transcripts::Question};
use crate::{
    guardrail::Refusal,
    history::Exchange,
    id::TurnId,
    message::ToolCall,
    provider::{
        ErrorKind, LlmChunk, LlmConfig, LlmRequest, ProviderError, StopReason, ToolChoice, Usage,
    },
    tool::{FailureCategory, ToolFailure, model_text},
    turn::{
        Component, Outcome, TurnEvent, TurnTiming,
        sentence::{Chunker, ChunkerConfig, Segment, SentenceChunker, SpeechFilter, SpokenSpan},
    },
};

/// How long a request waits for images of a client that sent some before.
const IMAGE_WAIT: Duration = Duration::from_millis(150);
/// Most text of one answer in bytes. A model that does not stop must not fill the memory.
const MAX_ANSWER_BYTES: usize = 256 * 1024;
/// Most tool calls of one response. Full: the rest is left out, as if the model had not asked.
const MAX_CALLS: usize = 64;
/// How often a paused server-side tool loop is resumed.
const MAX_RESUMES: u32 = 3;

/// A turn past transcription.
pub(super) struct Active {
    pub(super) turn: TurnId,
    pub(super) timing: TurnTiming,
    pub(super) question: Question,
    pub(super) exchange: Exchange,
    /// Waiting for images until then; the model was not asked yet.
    pub(super) images_until: Option<Instant>,
    /// Everything but playout must be done by then.
    pub(super) deadline: Instant,
    /// Model requests so far in this turn that ended in tool calls.
    pub(super) rounds: u32,
    pub(super) resumes: u32,
    /// The history was halved for this turn already.
    pub(super) halved: bool,
    /// The answer so far, all rounds.
    pub(super) text: String,
    /// Said by the server for itself: no part of the conversation. The turn ends like this when it was said.
    pub(super) aside: Option<Outcome>,
    /// How much of `text` stands in the exchange already, beside tool calls: the current response begins here.
    pub(super) journalled: usize,
    pub(super) chunker: Box<dyn SentenceChunker>,
    /// When the chunker last had its say: what it wants decided before that is decided.
    pub(super) ticked: Option<Instant>,
    /// Calls of the current response.
    pub(super) calls: Vec<ToolCall>,
    /// Calls of the current round and their results, in model order.
    pub(super) batch: Vec<(ToolCall, ToolState)>,
    /// A tool has started: the exchange is committed whatever happens (B5).
    pub(super) tools_ran: bool,
    pub(super) usage: Usage,
    /// The text is complete.
    pub(super) text_done: bool,
    /// Segments not yet handed to synthesis.
    pub(super) waiting: VecDeque<Segment>,
    /// Segments handed to synthesis, by index.
    pub(super) spans: Vec<SpokenSpan>,
    pub(super) in_flight: usize,
    /// Segments that failed in a row (TT2).
    pub(super) failures: u32,
    /// Why the last of them failed.
    pub(super) lost: Option<ProviderError>,
    pub(super) output_open: bool,
    pub(super) held: bool,
    /// `SpeechStarted` was said and not yet closed.
    pub(super) speaking: bool,
    /// When the audio queued so far will have been played, unless the caller makes it wait.
    pub(super) playing_until: Option<Instant>,
    /// The output was told that everything is written; it must drain by then.
    pub(super) drained_by: Option<Instant>,
}

/// How far a call has come.
pub(super) enum ToolState {
    Asked,
    Running,
    Done(Result<Value, ToolFailure>),
}

impl Machine {
    /// Begins to answer; `waits` for images that may be on their way.
    pub(super) fn answer(
        &mut self,
        turn: TurnId,
        question: Question,
        waits: bool,
        timing: TurnTiming,
        at: Moment,
        out: &mut Vec<Action>,
    ) {
        self.begin(turn, question, waits, timing, at);
        if !waits {
            self.ask(at, out);
        }
    }

    fn begin(
        &mut self,
        turn: TurnId,
        question: Question,
        waits: bool,
        timing: TurnTiming,
        at: Moment,
    ) {
        self.active = Some(Active {
            turn,
            exchange: Exchange::new(question.text.as_str(), question.attachments.clone()),
            question,
            timing,
            images_until: waits.then(|| at.now + IMAGE_WAIT),
            deadline: at.now + self.config.timeouts.turn,
            rounds: 0,
            resumes: 0,
            halved: false,
            text: String::new(),
            aside: None,
            journalled: 0,
            chunker: self.new_chunker(),
            ticked: None,
            calls: Vec::new(),
            batch: Vec::new(),
            tools_ran: false,
            usage: Usage::default(),
            text_done: false,
            waiting: VecDeque::new(),
            spans: Vec::new(),
            in_flight: 0,
            failures: 0,
            lost: None,
            output_open: false,
            held: !matches!(self.ears, Ears::Quiet),
            speaking: false,
            playing_until: None,
            drained_by: None,
        });
    }

    fn new_chunker(&self) -> Box<dyn SentenceChunker> {
        match &self.chunkers {
            Some(make) => make(),
            None => Box::new(Chunker::new(ChunkerConfig {
                language: self.config.language.clone(),
                ..ChunkerConfig::default()
            })),
        }
    }

    pub(super) fn ask_with_images(&mut self, at: Moment, out: &mut Vec<Action>) {
        let Some(active) = &mut self.active else {
            return;
        };
        active.images_until = None;
        let attachments: Vec<_> = self
            .images
            .pending
            .drain(..)
            .map(|(_, image)| image)
            .collect();
        active.question.attachments.extend(attachments);
        active.exchange = Exchange::new(
            active.question.text.as_str(),
            active.question.attachments.clone(),
        );
        self.ask(at, out);
    }

    fn ask(&mut self, at: Moment, out: &mut Vec<Action>) {
        let Some(active) = &mut self.active else {
            return;
        };
        active.timing.llm_request.get_or_insert(at.now);
        active.calls.clear();
        let tool_choice = if active.rounds >= self.config.max_tool_rounds {
            ToolChoice::None
        } else {
            ToolChoice::Auto
        };
        let request = LlmRequest {
            messages: self.history.request(
                Some(&self.config.system_prompt)
                    .filter(|prompt| !prompt.trim().is_empty())
                    .map(String::as_str),
                &active.exchange,
                self.capabilities.needs_alternation,
            ),
            config: LlmConfig {
                model: None,
                temperature: self.config.temperature,
                top_p: self.config.top_p,
                max_tokens: self.config.max_tokens,
                stop_sequences: Vec::new(),
            },
            tools: Arc::from([]),
            tool_choice,
        };
        out.push(Action::Ask {
            turn: active.turn,
            request,
        });
    }

    pub(super) fn llm(&mut self, chunk: LlmChunk, at: Moment, out: &mut Vec<Action>) {
        let Some(active) = &mut self.active else {
            return;
        };
        match chunk {
            LlmChunk::Text(text) if !text.is_empty() && active.text.len() < MAX_ANSWER_BYTES => {
                active.timing.llm_first_text.get_or_insert(at.now);
                active.text.push_str(&text);
                if self.config.streaming_tts {
                    active.chunk(|chunker, segments| chunker.push(&text, at.now, segments));
                }
                out.push(Action::Emit(TurnEvent::LlmDelta {
                    turn: active.turn,
                    text: text.into(),
                }));
                self.pump(at, out);
            }
            LlmChunk::ToolCall(call) if active.calls.len() < MAX_CALLS => active.calls.push(call),
            LlmChunk::Usage(usage) => active.usage = usage,
            LlmChunk::End(reason) => self.llm_end(reason, at, out),
            LlmChunk::Text(_)
            | LlmChunk::Reasoning(_)
            | LlmChunk::ToolCall(_)
            | LlmChunk::ToolCallBegun { .. } => {}
        }
    }

    fn llm_end(&mut self, reason: StopReason, at: Moment, out: &mut Vec<Action>) {
        let Some(active) = &mut self.active else {
            return;
        };
        let response = active.text[active.journalled..].to_owned();
        let calls = std::mem::take(&mut active.calls);
        let wants_tools = !calls.is_empty();
        if wants_tools && active.rounds < self.config.max_tool_rounds {
            if self.journal_response(&response, &calls, at, out) {
                self.run_tools(calls, at, out);
                self.pump(at, out);
            }
            return;
        }
        match reason {
            StopReason::PauseTurn if active.resumes < MAX_RESUMES => {
                active.resumes += 1;
                if self.journal_response(&response, &[], at, out) {
                    self.ask(at, out);
                    self.pump(at, out);
                }
                return;
            }
            StopReason::ContextOverflow if response.is_empty() => {
                let error = ProviderError::new(
                    ErrorKind::ContextOverflow,
                    "llm",
                    "the context window is exhausted",
                );
                self.llm_failed(error, at, out);
                return;
            }
            // Half a sentence is worse than one sentence less, unless it is all there is.
            StopReason::MaxTokens if active.said_so_far() > active.journalled => {
                active.text.truncate(active.said_so_far());
            }
            StopReason::ContentFilter => {
                let journalled = active.journalled;
                active
                    .waiting
                    .retain(|segment| segment.span.end <= journalled);
                active.text.truncate(active.said_so_far().max(journalled));
                self.say_fallback(at, out);
            }
            StopReason::Refusal if response.trim().is_empty() => self.say_fallback(at, out),
            // Told to answer without tools, it asked for tools all the same.
            _ if wants_tools && response.trim().is_empty() => self.say_fallback(at, out),
            _ => self.end_of_text(),
        }
        let Some(active) = &mut self.active else {
            return;
        };
        active.text_done = true;
        active.timing.llm_done = Some(at.now);
        out.push(Action::Emit(TurnEvent::LlmDone {
            turn: active.turn,
            text: active.text.as_str().into(),
            stop_reason: reason,
            usage: active.usage,
        }));
        self.pump(at, out);
    }

    /// The model call failed. A window that is too long is tried once more at half its length.
    pub(super) fn llm_failed(&mut self, error: ProviderError, at: Moment, out: &mut Vec<Action>) {
        let Some(active) = &mut self.active else {
            return;
        };
        let overflow = error.kind() == ErrorKind::ContextOverflow;
        let nothing_said = active.text.len() == active.journalled;
        if overflow && nothing_said && !active.halved && self.history.halve() {
            active.halved = true;
            self.ask(at, out);
        } else {
            self.fail_provider(Component::Llm, error, at, out);
        }
    }

    /// Moves a response that is not the last one into the journal, and its text to synthesis. A response that does
    /// not fit ends the turn, and another may have begun then: says whether to go on.
    fn journal_response(
        &mut self,
        response: &str,
        calls: &[ToolCall],
        at: Moment,
        out: &mut Vec<Action>,
    ) -> bool {
        self.end_of_text();
        let Some(active) = &mut self.active else {
            return false;
        };
        active.journalled = active.text.len();
        if let Err(error) = active.exchange.push_assistant(response, calls.to_vec()) {
            let error = ProviderError::new(ErrorKind::Protocol, "llm", error.to_string());
            self.fail_provider(Component::Llm, error, at, out);
            return false;
        }
        true
    }

    /// The current response has no more text: what is pending is spoken.
    fn end_of_text(&mut self) {
        let streaming = self.config.streaming_tts;
        let Some(active) = &mut self.active else {
            return;
        };
        if streaming {
            active.chunk(|chunker, segments| {
                chunker.flush(segments);
            });
        } else {
            let span = active.said_so_far()..active.text.len();
            let text = SpeechFilter::default()
                .apply(&active.text[span.clone()])
                .trim()
                .to_owned();
            if text.chars().any(char::is_alphanumeric) {
                active.waiting.push_back(Segment {
                    index: 0,
                    text,
                    span,
                });
            }
        }
    }

    /// Answers what was refused with the guardrail's own words, or with silence (GR4, GR5).
    pub(super) fn say_refusal(
        &mut self,
        turn: TurnId,
        refusal: Refusal,
        timing: TurnTiming,
        at: Moment,
        out: &mut Vec<Action>,
    ) {
        let outcome = Outcome::Blocked { by: refusal.by };
        match refusal.say {
            Some(words) if !words.trim().is_empty() => {
                self.say_aside(turn, &words, outcome, timing, at, out);
            }
            _ => {
                out.push(ended(turn, outcome, timing, at.now));
                self.next_queued(at, out);
            }
        }
    }

    /// A turn that says `words` and ends with `outcome`.
    pub(super) fn say_aside(
        &mut self,
        turn: TurnId,
        words: &Arc<str>,
        outcome: Outcome,
        timing: TurnTiming,
        at: Moment,
        out: &mut Vec<Action>,
    ) {
        self.begin(turn, Question::default(), false, timing, at);
        let Some(active) = &mut self.active else {
            return;
        };
        active.aside = Some(outcome);
        active.text.push_str(words);
        active.text_done = true;
        active.waiting.push_back(Segment {
            index: 0,
            text: words.to_string(),
            span: 0..words.len(),
        });
        out.push(Action::Emit(TurnEvent::LlmDelta {
            turn,
            text: Arc::clone(words),
        }));
        out.push(Action::Emit(TurnEvent::LlmDone {
            turn,
            text: Arc::clone(words),
            stop_reason: StopReason::ContentFilter,
            usage: Usage::default(),
        }));
        self.pump(at, out);
    }

    fn say_fallback(&mut self, at: Moment, out: &mut Vec<Action>) {
        let phrase = self.config.fallback_phrase.clone();
        let Some(active) = &mut self.active else {
            return;
        };
        if phrase.trim().is_empty() {
            return;
        }
        let separator = if active.text.is_empty() { "" } else { " " };
        let start = active.text.len();
        active.text.push_str(separator);
        active.text.push_str(&phrase);
        active.timing.llm_first_text.get_or_insert(at.now);
        let span = start..active.text.len();
        active.waiting.push_back(Segment {
            index: 0,
            text: phrase.clone(),
            span,
        });
        out.push(Action::Emit(TurnEvent::LlmDelta {
            turn: active.turn,
            text: format!("{separator}{phrase}").into(),
        }));
    }

    // ── Tools ─────────────────────────────────────────────────────────────────────────────────────────────────

    fn run_tools(&mut self, calls: Vec<ToolCall>, at: Moment, out: &mut Vec<Action>) {
        let Some(active) = &mut self.active else {
            return;
        };
        active.rounds += 1;
        active.tools_ran = true;
        active.batch = calls
            .iter()
            .cloned()
            .map(|call| (call, ToolState::Asked))
            .collect();
        let (good, malformed): (Vec<_>, Vec<_>) = calls
            .into_iter()
            .partition(|call| call.parse_error.is_none());
        let turn = active.turn;
        if !good.is_empty() {
            out.push(Action::RunTools { turn, calls: good });
        }
        for call in malformed {
            let message = call.parse_error.clone().unwrap_or_default();
            self.tool_started(call.clone(), out);
            let failure = ToolFailure::new(FailureCategory::MalformedArguments, message);
            self.tool_done(call, Err(failure), Duration::ZERO, at, out);
        }
    }

    pub(super) fn tool_started(&mut self, call: ToolCall, out: &mut Vec<Action>) {
        let Some(active) = &mut self.active else {
            return;
        };
        let asked = active.batch.iter_mut().find(|(asked, state)| {
            asked.call_id == call.call_id && matches!(state, ToolState::Asked)
        });
        if let Some((_, state)) = asked {
            *state = ToolState::Running;
            out.push(Action::Emit(TurnEvent::ToolStarted {
                turn: active.turn,
                call,
            }));
        }
    }

    pub(super) fn tool_done(
        &mut self,
        call: ToolCall,
        result: Result<Value, ToolFailure>,
        duration: Duration,
        at: Moment,
        out: &mut Vec<Action>,
    ) {
        let Some(active) = &mut self.active else {
            return;
        };
        let running = active.batch.iter_mut().find(|(asked, state)| {
            asked.call_id == call.call_id && matches!(state, ToolState::Running)
        });
        let Some((_, state)) = running else {
            return;
        };
        *state = ToolState::Done(result.clone());
        out.push(Action::Emit(TurnEvent::ToolEnded {
            turn: active.turn,
            call,
            result,
            duration,
        }));
        let done = |(_, state): &(ToolCall, ToolState)| matches!(state, ToolState::Done(_));
        if active.batch.iter().all(done) {
            active.journal_tools();
            self.ask(at, out);
        }
    }
}

impl Active {
    /// Lets the chunker work and queues what it cut.
    pub(super) fn chunk(&mut self, work: impl FnOnce(&mut dyn SentenceChunker, &mut Vec<Segment>)) {
        let mut segments = Vec::new();
        work(&mut *self.chunker, &mut segments);
        self.waiting.extend(segments);
    }

    /// When the chunker wants to be asked again. One that has nothing to decide is not asked twice.
    pub(super) fn chunker_due(&self) -> Option<Instant> {
        let due = self.chunker.deadline()?;
        let decided = self.text_done || self.ticked.is_some_and(|ticked| due <= ticked);
        (!decided).then_some(due)
    }

    /// When the turn must be over. Playing what is queued takes the time that it takes; what the caller makes wait,
    /// waits.
    pub(super) fn due(&self) -> Option<Instant> {
        match (self.drained_by, self.playing_until) {
            (Some(_), _) if self.held => None,
            (Some(drained_by), _) => Some(drained_by),
            (None, Some(until)) if self.text_done => Some(self.deadline.max(until + DRAIN_GRACE)),
            (None, _) => Some(self.deadline),
        }
    }

    /// All audio of the turn so far.
    pub(super) fn audio(&self) -> Duration {
        self.spans.iter().map(|span| span.audio).sum()
    }

    /// Where the text ends that was cut into segments so far.
    pub(super) fn said_so_far(&self) -> usize {
        let waiting = self.waiting.back().map(|segment| segment.span.end);
        waiting
            .or_else(|| self.spans.last().map(|span| span.span.end))
            .unwrap_or(0)
    }

    /// Moves a finished batch of tool results into the journal, in request order (X1).
    pub(super) fn journal_tools(&mut self) {
        for (call, state) in self.batch.drain(..) {
            let ToolState::Done(result) = state else {
                // The journal itself shows it as cancelled.
                continue;
            };
            let text = model_text(&result);
            let journalled =
                self.exchange
                    .push_tool_result(call.call_id, call.name, text, result.is_err());
            // The calls of the batch are those of the last response, so this cannot fail; a lost result is shown
            // to the model as cancelled.
            debug_assert!(journalled.is_ok());
        }
    }
}
