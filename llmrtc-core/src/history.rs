//! What the model is told about the conversation so far.
//!
//! A turn is staged in an [`Exchange`] and committed to the [`History`] once, in the shape that its outcome calls for.
//! Both are pure, and neither can be brought into a shape that a model would refuse: every tool result follows the
//! message that asked for it (M1), every call has exactly one result (M2), and system text is never stored (M3).

mod stored;

use std::{collections::VecDeque, fmt, sync::Arc};

use crate::{
    id::{CallId, ToolName},
    message::{Attachment, ImageSource, Message, ToolCall},
    turn::TurnConfig,
};

/// Follows the text of an interrupted answer in a request, so that the model knows where it was cut off (B3).
const INTERRUPTED_SUFFIX: &str = " [interrupted by the user]";

/// The result of a call that was never answered, in the form of all failed results.
const CANCELLED_RESULT: &str =
    r#"{"error":{"category":"cancelled","message":"cancelled before there was a result"}}"#;

/// Characters per token where the provider does not count: what tokenisers average on English text.
const CHARS_PER_TOKEN: usize = 4;

/// How much of the conversation is kept. The current exchange is never counted and never cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryLimits {
    /// Most messages of earlier exchanges; 0 keeps none (H2, H4).
    pub messages: usize,
    /// Most tokens of earlier exchanges, estimated at four characters each, images not counted (H3).
    pub tokens: Option<usize>,
    /// How many of the newest exchanges keep their images, the current one included (H5).
    pub attachment_turns: usize,
}

impl From<&TurnConfig> for HistoryLimits {
    fn from(config: &TurnConfig) -> Self {
        Self {
            messages: config.history_limit,
            tokens: config.history_tokens,
            attachment_turns: config.attachment_turns,
        }
    }
}

/// Why messages do not form a valid exchange.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HistoryError {
    /// A result for a call that was not requested just before, or that has one already (M1, M2).
    #[error("no open tool call has the id `{0}`")]
    UnknownCall(CallId),
    /// Two calls of one response share an id, so that their results could not be told apart (M2).
    #[error("two tool calls of one response have the id `{0}`")]
    DuplicateCall(CallId),
    /// An exchange begins with a user message.
    #[error("the conversation does not begin with a user message")]
    NoUser,
    /// System text is composed per request (M3).
    #[error("a system message cannot be stored")]
    StoredSystem,
}

/// One user message and everything up to the next: the journal of a turn.
#[derive(Clone, PartialEq)]
pub struct Exchange {
    /// A user message, then assistant messages and tool results. Never two adjacent assistant messages.
    messages: Vec<Message>,
    /// Calls of the last assistant message that have no result.
    open: Vec<(CallId, ToolName)>,
}

impl Exchange {
    /// Begins with what the user said.
    pub fn new(user_text: impl Into<Arc<str>>, attachments: impl Into<Arc<[Attachment]>>) -> Self {
        Self {
            messages: vec![Message::User {
                text: user_text.into(),
                attachments: attachments.into(),
            }],
            open: Vec::new(),
        }
    }

    /// Adds a response that requests tools, or that is not the last for another reason. Calls of the response before
    /// that are still open count as cancelled. A response with neither text nor calls adds nothing.
    ///
    /// # Errors
    /// [`HistoryError::DuplicateCall`]; the exchange is unchanged.
    pub fn push_assistant(
        &mut self,
        text: impl Into<Arc<str>>,
        tool_calls: impl Into<Arc<[ToolCall]>>,
    ) -> Result<(), HistoryError> {
        let calls = tool_calls.into();
        for (at, call) in calls.iter().enumerate() {
            if calls[..at]
                .iter()
                .any(|other| other.call_id == call.call_id)
            {
                return Err(HistoryError::DuplicateCall(call.call_id.clone()));
            }
        }
        self.append(text.into(), calls, false);
        Ok(())
    }

    /// Adds the result of one call of the last response.
    ///
    /// # Errors
    /// [`HistoryError::UnknownCall`]; the exchange is unchanged.
    pub fn push_tool_result(
        &mut self,
        call_id: CallId,
        name: ToolName,
        content: impl Into<Arc<str>>,
        is_error: bool,
    ) -> Result<(), HistoryError> {
        let Some(at) = self.open.iter().position(|(open, _)| *open == call_id) else {
            return Err(HistoryError::UnknownCall(call_id));
        };
        self.open.remove(at);
        self.messages.push(Message::Tool {
            call_id,
            name,
            content: content.into(),
            is_error,
        });
        Ok(())
    }

    /// Ends the turn. Open calls count as cancelled; blank text adds no message.
    ///
    /// Not interrupted, `text` is the last response. Interrupted, it is what was heard of *everything* the assistant
    /// said in this turn (see [`heard_text`]): text that stands beside tool calls already is cut to what was heard of
    /// it (P5), and what was heard after it becomes the final message.
    ///
    /// [`heard_text`]: crate::turn::sentence::heard_text
    pub fn finish(&mut self, text: &str, interrupted: bool) {
        let text = if interrupted {
            self.cut_to_heard(text)
        } else {
            text
        };
        self.append(text.into(), Arc::from([]), interrupted);
    }

    /// The messages so far.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Whether a tool has run: then the exchange is worth keeping although the turn failed (2.10).
    pub fn ran_tools(&self) -> bool {
        self.messages
            .iter()
            .any(|message| matches!(message, Message::Tool { .. }))
    }

    /// Adds assistant text and calls, to the last message if that is an assistant message already.
    fn append(&mut self, text: Arc<str>, calls: Arc<[ToolCall]>, cut: bool) {
        self.settle();
        let blank = text.trim().is_empty();
        if blank && calls.is_empty() {
            return;
        }
        self.open = calls
            .iter()
            .map(|call| (call.call_id.clone(), call.name.clone()))
            .collect();
        match self.messages.last_mut() {
            // Calls of the last message would have been settled into results.
            Some(Message::Assistant {
                text: said,
                tool_calls,
                interrupted,
            }) => {
                if !blank {
                    *said = join(said, &text, " ");
                    *interrupted = cut;
                }
                *tool_calls = calls;
            }
            _ => self.messages.push(Message::Assistant {
                text,
                tool_calls: calls,
                interrupted: cut,
            }),
        }
    }

    /// Gives each open call a result (M2).
    fn settle(&mut self) {
        let cancelled = self.open.drain(..).map(|(call_id, name)| Message::Tool {
            call_id,
            name,
            content: CANCELLED_RESULT.into(),
            is_error: true,
        });
        self.messages.extend(cancelled);
    }

    /// Cuts the assistant messages so far to what was heard, and returns what was heard after them.
    fn cut_to_heard<'a>(&mut self, heard: &'a str) -> &'a str {
        self.settle();
        let mut rest = heard.trim();
        for message in &mut self.messages {
            let Message::Assistant {
                text, interrupted, ..
            } = message
            else {
                continue;
            };
            let said = text.trim();
            if let Some(after) = rest.strip_prefix(said) {
                rest = after.trim_start();
            } else if said.starts_with(rest) {
                *text = rest.into();
                *interrupted = true;
                rest = "";
            } else {
                // Not the text of this journal: it was heard in addition.
                break;
            }
        }
        // Without text and calls there is no message.
        self.messages.retain(|message| {
            !matches!(message, Message::Assistant { text, tool_calls, .. }
                if text.trim().is_empty() && tool_calls.is_empty())
        });
        rest
    }

    /// Leaves out the tool calls and their results, keeping what was said. Says whether there were any.
    fn condense(&mut self) -> bool {
        if !self.ran_tools() {
            return false;
        }
        let mut said: Arc<str> = Arc::from("");
        let mut cut = false;
        for message in self.messages.drain(1..) {
            if let Message::Assistant {
                text, interrupted, ..
            } = message
                && !text.trim().is_empty()
            {
                said = join(&said, &text, " ");
                cut = interrupted;
            }
        }
        self.append(said, Arc::from([]), cut);
        true
    }

    /// Replaces the images by the promise of their alternative text.
    fn release(&mut self) {
        let Some(Message::User { attachments, .. }) = self.messages.first_mut() else {
            return;
        };
        let kept = |attachment: &Attachment| attachment.source != ImageSource::Released;
        if attachments.iter().any(kept) {
            *attachments = attachments
                .iter()
                .map(|attachment| Attachment {
                    source: ImageSource::Released,
                    alt: attachment.alt.clone(),
                })
                .collect();
        }
    }

    fn tokens(&self) -> usize {
        self.messages
            .iter()
            .map(|message| chars(message).div_ceil(CHARS_PER_TOKEN))
            .sum()
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange")
            .field("messages", &self.messages.len())
            .field("open_calls", &self.open.len())
            .finish()
    }
}

/// The conversation of one session: the newest committed exchanges within [`HistoryLimits`].
///
/// Cloning copies pointers, no text and no images.
#[derive(Clone)]
pub struct History {
    limits: HistoryLimits,
    exchanges: VecDeque<Exchange>,
}

impl History {
    /// An empty history.
    pub fn new(limits: HistoryLimits) -> Self {
        Self {
            limits,
            exchanges: VecDeque::new(),
        }
    }

    /// Stores the journal of a turn that is over; calls still open in it count as cancelled.
    ///
    /// Whole exchanges leave from the front until the rest fits (H2, H3), and are returned so that they can be
    /// summarised (H8). If the newest alone does not fit, it stays without its tool groups as long as that helps: a
    /// turn with many tool calls must not be forgotten as soon as it is over. Images outside of the attachment window
    /// are released (H5).
    pub fn commit(&mut self, mut exchange: Exchange) -> Vec<Exchange> {
        exchange.settle();
        self.exchanges.push_back(exchange);
        self.trim()
    }

    /// The messages of a request: system text first, then the window, then `current`, always whole.
    ///
    /// Released images become a note with their alternative text, interrupted answers end in a note that they were,
    /// and with `needs_alternation` adjacent user messages become one (H6). Calls of `current` that have no result
    /// yet are shown as cancelled, since no model accepts them otherwise.
    pub fn request(
        &self,
        system: Option<&str>,
        current: &Exchange,
        needs_alternation: bool,
    ) -> Vec<Message> {
        let mut messages = Vec::with_capacity(self.len() + current.messages.len() + 1);
        if let Some(system) = system.filter(|text| !text.trim().is_empty()) {
            messages.push(Message::system(system));
        }
        let mut current = current.clone();
        current.settle();
        for message in self.messages().chain(&current.messages) {
            let message = render(message);
            match (messages.last_mut(), message) {
                (
                    Some(Message::User { text, attachments }),
                    Message::User {
                        text: more,
                        attachments: further,
                    },
                ) if needs_alternation => {
                    *text = join(text, &more, "\n");
                    *attachments = attachments.iter().chain(&*further).cloned().collect();
                }
                (_, message) => messages.push(message),
            }
        }
        messages
    }

    /// Drops the older half of the exchanges, for a model whose context is exhausted. Says whether there was any.
    pub fn halve(&mut self) -> bool {
        let half = self.exchanges.len().div_ceil(2);
        self.exchanges.drain(..half);
        half > 0
    }

    /// A copy for a session that may be resumed (H7).
    pub fn snapshot(&self) -> HistorySnapshot {
        HistorySnapshot {
            exchanges: self.exchanges.iter().cloned().collect(),
        }
    }

    /// Replaces the conversation by an earlier one, as far as it fits the limits.
    pub fn restore(&mut self, snapshot: HistorySnapshot) {
        self.exchanges = snapshot.exchanges.into();
        self.trim();
    }

    /// The stored messages, oldest first.
    pub fn messages(&self) -> impl Iterator<Item = &Message> {
        self.exchanges
            .iter()
            .flat_map(|exchange| &exchange.messages)
    }

    /// How many messages are stored.
    pub fn len(&self) -> usize {
        self.exchanges.iter().map(|e| e.messages.len()).sum()
    }

    /// Whether nothing is stored.
    pub fn is_empty(&self) -> bool {
        self.exchanges.is_empty()
    }

    /// Forgets the conversation.
    pub fn clear(&mut self) {
        self.exchanges.clear();
    }

    fn trim(&mut self) -> Vec<Exchange> {
        let mut gone = Vec::new();
        let mut messages = self.len();
        // Counting reads all text, so it is left out where nobody asked for it.
        let count = |exchange: &Exchange| self.limits.tokens.map_or(0, |_| exchange.tokens());
        let mut tokens: usize = self.exchanges.iter().map(count).sum();
        let limit = self.limits.tokens.unwrap_or(usize::MAX);
        while messages > self.limits.messages || tokens > limit {
            if let [newest] = self.exchanges.make_contiguous()
                && newest.condense()
            {
                messages = newest.messages.len();
                tokens = count(newest);
                continue;
            }
            let Some(oldest) = self.exchanges.pop_front() else {
                break;
            };
            messages -= oldest.messages.len();
            tokens -= count(&oldest);
            gone.push(oldest);
        }
        // The next turn's exchange is the newest then.
        let keep = self.limits.attachment_turns.saturating_sub(1);
        let release = self.exchanges.len().saturating_sub(keep);
        for exchange in self.exchanges.iter_mut().take(release).chain(&mut gone) {
            exchange.release();
        }
        gone
    }
}

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("History")
            .field("limits", &self.limits)
            .field("exchanges", &self.exchanges.len())
            .field("messages", &self.len())
            .finish()
    }
}

/// A conversation outside of its session: valid, but without limits of its own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HistorySnapshot {
    exchanges: Vec<Exchange>,
}

impl HistorySnapshot {
    /// The messages, oldest first, for storage.
    pub fn messages(&self) -> impl Iterator<Item = &Message> {
        self.exchanges
            .iter()
            .flat_map(|exchange| &exchange.messages)
    }
}

/// From stored messages. Calls without a result count as cancelled.
impl TryFrom<Vec<Message>> for HistorySnapshot {
    type Error = HistoryError;

    fn try_from(messages: Vec<Message>) -> Result<Self, HistoryError> {
        let mut exchanges: Vec<Exchange> = Vec::new();
        for message in messages {
            let last = exchanges.last_mut().ok_or(HistoryError::NoUser);
            match message {
                Message::System { .. } => return Err(HistoryError::StoredSystem),
                Message::User { text, attachments } => {
                    exchanges.push(Exchange::new(text, attachments));
                }
                Message::Assistant {
                    text,
                    tool_calls,
                    interrupted,
                } => {
                    let last = last?;
                    last.push_assistant(text, tool_calls)?;
                    if let Some(Message::Assistant {
                        interrupted: cut, ..
                    }) = last.messages.last_mut()
                    {
                        *cut = interrupted;
                    }
                }
                Message::Tool {
                    call_id,
                    name,
                    content,
                    is_error,
                } => last?.push_tool_result(call_id, name, content, is_error)?,
            }
        }
        exchanges.iter_mut().for_each(Exchange::settle);
        Ok(Self { exchanges })
    }
}

/// A stored message as the model sees it.
fn render(message: &Message) -> Message {
    match message {
        Message::User { text, attachments }
            if attachments
                .iter()
                .any(|image| image.source == ImageSource::Released) =>
        {
            let mut text = text.clone();
            let mut kept = Vec::new();
            for image in attachments.iter() {
                match (&image.source, &image.alt) {
                    (ImageSource::Released, Some(alt)) => {
                        text = join(&text, &format!("[image: {alt}]"), "\n");
                    }
                    (ImageSource::Released, None) => text = join(&text, "[image]", "\n"),
                    _ => kept.push(image.clone()),
                }
            }
            Message::User {
                text,
                attachments: kept.into(),
            }
        }
        Message::Assistant {
            text,
            tool_calls,
            interrupted: true,
        } if !text.trim().is_empty() => Message::Assistant {
            text: format!("{text}{INTERRUPTED_SUFFIX}").into(),
            tool_calls: tool_calls.clone(),
            interrupted: true,
        },
        message => message.clone(),
    }
}

/// Both texts with `separator` between them, unless one is empty or white space is there already.
fn join(first: &Arc<str>, second: &str, separator: &str) -> Arc<str> {
    if first.is_empty() {
        return second.into();
    }
    let joined = second.is_empty()
        || first.ends_with(char::is_whitespace)
        || second.starts_with(char::is_whitespace);
    let separator = if joined { "" } else { separator };
    format!("{first}{separator}{second}").into()
}

fn chars(message: &Message) -> usize {
    let calls = match message {
        Message::Assistant { tool_calls, .. } => &**tool_calls,
        _ => &[],
    };
    let arguments = |call: &ToolCall| {
        // A map with text keys always serialises.
        let json = serde_json::to_string(&call.arguments).unwrap_or_default();
        call.name.as_str().chars().count() + json.chars().count()
    };
    message.text().chars().count() + calls.iter().map(arguments).sum::<usize>()
}

#[cfg(test)]
mod tests;
