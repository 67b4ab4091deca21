//! What a chat completion says, frame by frame. No I/O: frames go in, [`LlmChunk`]s come out.

use std::{
    collections::VecDeque,
    hash::{BuildHasher, RandomState},
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
};

use llmrtc_core::{
    id::{CallId, ToolName},
    message::ToolCall,
    provider::{LlmChunk, StopReason, Usage},
};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::sse::SseEvent;

/// Frames that are not JSON are skipped, but a stream full of them is not the vendor's protocol.
const MAX_BAD_FRAMES: u32 = 3;
/// More calls than any model makes in one response.
const MAX_CALLS: usize = 128;
/// All arguments of one response together.
const MAX_ARGUMENT_BYTES: usize = 4 * 1024 * 1024;
/// How much unparseable argument text is kept, so that the model can see and repair it.
const KEPT_ARGUMENT_BYTES: usize = 4 * 1024;

/// Why a frame ended the response.
#[derive(Debug, PartialEq)]
pub(super) enum FrameError {
    /// The vendor reported this error object.
    Vendor(Value),
    /// The vendor said that generating failed, without saying why.
    Failed,
    /// Too many frames were not JSON.
    Garbage,
    /// A cap was exceeded.
    TooLarge,
}

/// Collects one response.
#[derive(Debug, Default)]
pub(super) struct ChatDecoder {
    slots: Vec<Slot>,
    argument_bytes: usize,
    /// What the vendor said when it finished; the first one counts.
    finish: Option<StopReason>,
    refused: bool,
    bad_frames: u32,
    /// Any frame was understood.
    started: bool,
    done: bool,
    ready: VecDeque<LlmChunk>,
}

/// A tool call being collected.
#[derive(Debug)]
struct Slot {
    index: Option<u64>,
    id: CallId,
    /// The id came from the vendor.
    given_id: bool,
    name: String,
    announced: bool,
    arguments: String,
}

impl ChatDecoder {
    /// The next chunk that is complete.
    pub(super) fn next_chunk(&mut self) -> Option<LlmChunk> {
        self.ready.pop_front()
    }

    /// Whether `[DONE]` was seen.
    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    /// Whether the vendor said anything at all.
    pub(super) fn has_started(&self) -> bool {
        self.started
    }

    /// Takes one event of the stream.
    pub(super) fn event(&mut self, event: &SseEvent) -> Result<(), FrameError> {
        let data = event.data.trim();
        if self.done || data.is_empty() {
            return Ok(());
        }
        if data == "[DONE]" {
            self.started = true;
            self.done = true;
            self.end();
            return Ok(());
        }
        if event.event.as_deref() == Some("error") {
            let mut error = serde_json::from_str(data).unwrap_or_else(|_| Value::from(data));
            let inner = error.get_mut("error").map(Value::take);
            return Err(FrameError::Vendor(inner.unwrap_or(error)));
        }
        match serde_json::from_str::<Frame>(data) {
            Ok(frame) => self.frame(frame),
            Err(_) => {
                self.bad_frames += 1;
                if self.bad_frames > MAX_BAD_FRAMES {
                    return Err(FrameError::Garbage);
                }
                Ok(())
            }
        }
    }

    /// Takes a whole answer from a server that does not stream.
    pub(super) fn whole(&mut self, answer: Value) -> Result<(), FrameError> {
        let frame = serde_json::from_value(answer).map_err(|_| FrameError::Garbage)?;
        self.frame(frame)?;
        if !self.done {
            self.done = true;
            self.end();
        }
        Ok(())
    }

    /// The transport ended. Without a terminal marker before that, the response is truncated.
    pub(super) fn transport_ended(&mut self) {
        if !self.done {
            self.done = true;
            if self.finish.is_none() {
                // Half a call must not run.
                self.slots.clear();
                self.finish = Some(StopReason::Truncated);
            }
            self.end();
        }
    }

    fn frame(&mut self, frame: Frame) -> Result<(), FrameError> {
        if let Some(error) = frame.error.filter(|error| !error.is_null()) {
            return Err(FrameError::Vendor(error));
        }
        self.started = true;
        if let Some(usage) = frame.usage {
            self.ready.push_back(LlmChunk::Usage(usage.into()));
        }
        let Some(choice) = frame.choices.unwrap_or_default().into_iter().next() else {
            return Ok(());
        };
        if let Some(delta) = choice.delta.or(choice.message) {
            self.delta(delta)?;
        }
        match choice.finish_reason.as_deref() {
            None | Some("") => {}
            Some("error" | "network_error") => return Err(FrameError::Failed),
            Some(reason) => self.finished(reason),
        }
        Ok(())
    }

    fn delta(&mut self, delta: Delta) -> Result<(), FrameError> {
        let reasoning = delta.reasoning_content.or(delta.reasoning);
        if let Some(text) = reasoning.and_then(text_of) {
            self.ready.push_back(LlmChunk::Reasoning(text));
        }
        if let Some(text) = delta.content.and_then(text_of) {
            self.ready.push_back(LlmChunk::Text(text));
        }
        if let Some(text) = delta.refusal.and_then(text_of) {
            self.refused = true;
            self.ready.push_back(LlmChunk::Text(text));
        }
        for piece in delta.tool_calls.unwrap_or_default() {
            self.piece(piece)?;
        }
        Ok(())
    }

    fn piece(&mut self, piece: CallPiece) -> Result<(), FrameError> {
        let id = piece.id.filter(|id| !id.is_empty());
        let function = piece.function.unwrap_or_default();
        let name = function.name.filter(|name| !name.is_empty());
        let at = match self.slot_of(piece.index, id.as_deref(), name.as_deref()) {
            Some(at) => at,
            None if self.slots.len() == MAX_CALLS => return Err(FrameError::TooLarge),
            None => {
                self.slots.push(Slot {
                    index: piece.index,
                    given_id: id.is_some(),
                    id: id.clone().map_or_else(generated_id, CallId::from),
                    name: String::new(),
                    announced: false,
                    arguments: String::new(),
                });
                self.slots.len() - 1
            }
        };
        let slot = &mut self.slots[at];
        if let Some(id) = id
            && !slot.given_id
            && !slot.announced
        {
            slot.id = id.into();
            slot.given_id = true;
        }
        if let Some(name) = name {
            // Some servers repeat the name in every piece: it replaces, it does not append.
            slot.name = name;
        }
        let arguments = match function.arguments {
            Some(Value::String(text)) => text,
            None | Some(Value::Null) => String::new(),
            // Whole arguments as an object.
            Some(value) => value.to_string(),
        };
        self.argument_bytes += arguments.len();
        if self.argument_bytes > MAX_ARGUMENT_BYTES {
            return Err(FrameError::TooLarge);
        }
        slot.arguments.push_str(&arguments);
        if !slot.announced && !slot.name.is_empty() {
            slot.announced = true;
            self.ready.push_back(LlmChunk::ToolCallBegun {
                index: at,
                call_id: slot.id.clone(),
                name: ToolName::new(slot.name.as_str()),
            });
        }
        Ok(())
    }

    /// The call that a piece continues; `None` when it begins a new one.
    fn slot_of(&self, index: Option<u64>, id: Option<&str>, name: Option<&str>) -> Option<usize> {
        let slots = || self.slots.iter().enumerate().rev();
        if let Some(id) = id
            && let Some((at, _)) = slots().find(|(_, slot)| slot.given_id && slot.id.as_str() == id)
        {
            return Some(at);
        }
        match index {
            // Some servers number all parallel calls 0: a second id then means a second call.
            Some(_) => slots()
                .find(|(_, slot)| slot.index == index && (id.is_none() || !slot.given_id))
                .map(|(at, _)| at),
            None if id.is_some() || name.is_some_and(|name| self.last_name() != Some(name)) => None,
            None => self.slots.len().checked_sub(1),
        }
    }

    fn last_name(&self) -> Option<&str> {
        self.slots.last().map(|slot| slot.name.as_str())
    }

    fn finished(&mut self, reason: &str) {
        if self.finish.is_some() {
            return;
        }
        self.finish = Some(match reason {
            "stop" => StopReason::EndTurn,
            "tool_calls" | "function_call" => StopReason::ToolUse,
            "length" => StopReason::MaxTokens,
            "content_filter" | "sensitive" => StopReason::ContentFilter,
            other => StopReason::Unknown(other.chars().take(64).collect()),
        });
        self.emit_calls();
    }

    /// Complete calls need not wait for the token counts that may follow.
    fn emit_calls(&mut self) {
        let cut = self.finish == Some(StopReason::MaxTokens);
        let mut slots = std::mem::take(&mut self.slots);
        // Stable, so calls that share a number or have none stay in the order of their arrival.
        slots.sort_by_key(|slot| slot.index.unwrap_or(u64::MAX));
        let last = slots.len().saturating_sub(1);
        if !slots.is_empty() && self.finish == Some(StopReason::EndTurn) {
            // Several local servers say `stop` although they called.
            self.finish = Some(StopReason::ToolUse);
        }
        for (at, slot) in slots.into_iter().enumerate() {
            let (arguments, mut parse_error) = parse_arguments(&slot.arguments);
            if cut && at == last {
                parse_error = Some("the token limit cut this call off".to_owned());
            }
            if slot.name.is_empty() {
                parse_error = Some("the call names no tool".to_owned());
            }
            self.ready.push_back(LlmChunk::ToolCall(ToolCall {
                call_id: slot.id,
                name: ToolName::new(slot.name),
                arguments,
                parse_error,
            }));
        }
    }

    fn end(&mut self) {
        if self.finish.is_none() {
            self.finished("stop");
        }
        let reason = match self.finish.take() {
            Some(StopReason::EndTurn) if self.refused => StopReason::Refusal,
            Some(reason) => reason,
            None => StopReason::EndTurn,
        };
        self.ready.push_back(LlmChunk::End(reason));
    }
}

/// Blank means no arguments. Anything but an object is an error that the model gets to see.
fn parse_arguments(text: &str) -> (Map<String, Value>, Option<String>) {
    let text = text.trim();
    if text.is_empty() {
        return (Map::new(), None);
    }
    let problem = match serde_json::from_str::<Value>(text) {
        Ok(Value::Object(arguments)) => return (arguments, None),
        Ok(Value::Null) => return (Map::new(), None),
        Ok(_) => "not an object".to_owned(),
        Err(error) => error.to_string(),
    };
    let mut kept = text.len().min(KEPT_ARGUMENT_BYTES);
    while !text.is_char_boundary(kept) {
        kept -= 1;
    }
    let problem = format!(
        "arguments are not a JSON object ({problem}): {}",
        &text[..kept]
    );
    (Map::new(), Some(problem))
}

/// An id for a server that sends none. Unique across turns, unlike a number within the response.
fn generated_id() -> CallId {
    static SEED: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    CallId::from(format!("call_{:016x}", SEED.hash_one(number)))
}

/// Text, or the text parts of a list (Mistral's reasoning models). Empty text is no text.
fn text_of(content: Value) -> Option<String> {
    let text = match content {
        Value::String(text) => text,
        Value::Array(parts) => parts
            .iter()
            .filter_map(|part| part.get("text")?.as_str())
            .collect(),
        _ => return None,
    };
    (!text.is_empty()).then_some(text)
}

#[derive(Deserialize)]
struct Frame {
    #[serde(default)]
    choices: Option<Vec<Choice>>,
    #[serde(default)]
    usage: Option<WireUsage>,
    #[serde(default)]
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    delta: Option<Delta>,
    #[serde(default)]
    message: Option<Delta>,
    #[serde(default)]
    finish_reason: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Delta {
    content: Option<Value>,
    refusal: Option<Value>,
    reasoning_content: Option<Value>,
    reasoning: Option<Value>,
    tool_calls: Option<Vec<CallPiece>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct CallPiece {
    index: Option<u64>,
    id: Option<String>,
    function: Option<FunctionPiece>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct FunctionPiece {
    name: Option<String>,
    arguments: Option<Value>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireUsage {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    prompt_tokens_details: Option<WireDetails>,
    completion_tokens_details: Option<WireDetails>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireDetails {
    cached_tokens: Option<u64>,
    reasoning_tokens: Option<u64>,
    audio_tokens: Option<u64>,
}

impl From<WireUsage> for Usage {
    fn from(wire: WireUsage) -> Self {
        let input = wire.prompt_tokens_details.unwrap_or_default();
        let output = wire.completion_tokens_details.unwrap_or_default();
        Self {
            input: wire.prompt_tokens,
            output: wire.completion_tokens,
            cached_input: input.cached_tokens,
            reasoning: output.reasoning_tokens,
            audio_input: input.audio_tokens,
            audio_output: output.audio_tokens,
        }
    }
}

#[cfg(test)]
mod tests;
