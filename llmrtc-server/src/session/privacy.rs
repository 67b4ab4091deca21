//! What of a conversation whom may see (E1): one redactor, a policy per sink, names that only this session can undo.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use llmrtc_core::{
    guardrail::{Refusal, ResponseFilter},
    history::HistorySnapshot,
    message::{Message, ToolCall},
    provider::LlmRequest,
    turn::TurnEvent,
};
use llmrtc_security::redact::{
    Context, Kind, Lang, Redactor, SessionTokens, SinkPolicy,
    config::SinksConfig,
    dialogue::{DialogueState, EarlierSpan},
};
use serde_json::{Map, Value};

/// Turns whose text may still turn out to be part of something that was read out in pieces.
const REMEMBERED: usize = llmrtc_security::redact::dialogue::TURNS;
/// A name in brackets is no longer than this; what is longer is text.
const LONGEST_NAME: usize = 64;

/// The redaction of one session.
pub(crate) struct Privacy {
    redactor: Arc<Redactor>,
    sinks: Arc<SinksConfig>,
    lang: Option<Lang>,
    tokens: SessionTokens,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    dialogue: DialogueState,
    /// What the agent said last.
    previous: String,
    /// How often each kind was found in what the caller said.
    found: BTreeMap<Arc<str>, u64>,
    /// The caller's last turns, and what of them has to go although it did not look like it at first.
    turns: Vec<Spoken>,
}

impl State {
    /// The caller said this. What was a part of a number in an earlier turn is marked there.
    fn mark_earlier(&mut self, turn: u64, text: &str, lang: Option<Lang>) {
        let earlier = self.dialogue.heard_user(turn, text, lang);
        for span in earlier.into_iter().chain(self.dialogue.completes(turn)) {
            if let Some(spoken) = self
                .turns
                .iter_mut()
                .find(|spoken| spoken.turn == span.turn)
            {
                spoken.marked.push(span);
            }
        }
    }

    fn remember(&mut self, turn: u64, text: &str) {
        if self.turns.len() == REMEMBERED {
            self.turns.remove(0);
        }
        self.turns.push(Spoken {
            turn,
            text: text.to_owned(),
            marked: self.dialogue.completes(turn),
        });
    }

    fn answered(&mut self, text: &str, lang: Option<Lang>) {
        self.dialogue.heard_agent(text, lang);
        self.previous = text.to_owned();
    }
}

/// `text` with other words in these places.
fn cut(text: &str, places: &[EarlierSpan], instead: impl Fn(&Kind, &str) -> String) -> String {
    let mut places: Vec<&EarlierSpan> = places.iter().collect();
    places.sort_by_key(|place| place.start);
    let (mut out, mut copied) = (String::new(), 0);
    for place in places {
        if place.start >= copied && place.end <= text.len() {
            out.push_str(&text[copied..place.start]);
            out.push_str(&instead(&place.kind, &text[place.start..place.end]));
            copied = place.end;
        }
    }
    out.push_str(&text[copied..]);
    out
}

/// The tag of what was cut.
fn tag(kind: &Kind, _: &str) -> String {
    let mut tag = String::new();
    kind.write_tag(&mut tag);
    tag
}

/// The text of an earlier turn without what turned out later to be a part of a number.
fn without_marked<'t>(
    state: &State,
    text: &'t str,
    instead: impl Fn(&Kind, &str) -> String,
) -> Cow<'t, str> {
    let mut turns = state.turns.iter();
    match turns.find(|spoken| spoken.text == text && !spoken.marked.is_empty()) {
        Some(spoken) => Cow::Owned(cut(text, &spoken.marked, instead)),
        None => Cow::Borrowed(text),
    }
}

struct Spoken {
    turn: u64,
    text: String,
    marked: Vec<EarlierSpan>,
}

impl Privacy {
    pub(crate) fn new(
        redactor: Arc<Redactor>,
        sinks: Arc<SinksConfig>,
        language: Option<&str>,
    ) -> Result<Self, llmrtc_security::redact::tokens::NoRandomness> {
        Ok(Self {
            redactor,
            sinks,
            lang: language.and_then(Lang::from_tag),
            tokens: SessionTokens::new()?,
            state: Mutex::default(),
        })
    }

    /// Takes notice of what is said, so that questions and numbers in pieces are understood.
    pub(super) fn note(&self, event: &TurnEvent) {
        let mut state = self.lock();
        match event {
            TurnEvent::Transcript {
                turn,
                text,
                is_final: true,
                ..
            } => {
                state.mark_earlier(turn.0, text, self.lang);
                self.count(&mut state, text);
                state.remember(turn.0, text);
            }
            TurnEvent::LlmDone { text, .. } => state.answered(text, self.lang),
            _ => {}
        }
    }

    /// Takes notice of what was said in an earlier connection of the session, instead of what was said in this one.
    pub(super) fn recall(&self, history: &HistorySnapshot) {
        let mut state = self.lock();
        *state = State {
            found: std::mem::take(&mut state.found),
            ..State::default()
        };
        // Numbers that no turn of this connection will have.
        for (number, message) in (0..u64::MAX).rev().zip(history.messages()) {
            match message {
                Message::User { text, .. } => {
                    state.mark_earlier(number, text, self.lang);
                    state.remember(number, text);
                }
                Message::Assistant { text, .. } if !text.is_empty() => {
                    state.answered(text, self.lang);
                }
                _ => {}
            }
        }
    }

    /// What the caller's client may see of what was said.
    pub(super) fn for_client(&self, text: &str) -> String {
        self.apply(text, &self.sinks.client)
    }

    /// What may be stored of it.
    pub(super) fn for_storage(&self, text: &str) -> String {
        self.apply(text, &self.sinks.storage)
    }

    /// What the agent had said before the caller's last words.
    pub(super) fn question(&self) -> String {
        self.lock().previous.clone()
    }

    /// What may be stored of an earlier turn, if something of it turned out since to be a part of a number. `question` is
    /// what the agent had said before it.
    pub(super) fn revised_for_storage(&self, turn: u64, question: &str) -> Option<String> {
        let state = self.lock();
        let spoken = state.turns.iter().find(|spoken| spoken.turn == turn)?;
        if spoken.marked.is_empty() {
            return None;
        }
        let tagged = cut(&spoken.text, &spoken.marked, tag);
        let context = Context {
            previous: Some(question).filter(|text| !text.is_empty()),
            lang: self.lang,
            dialogue: None,
        };
        let policy = &self.sinks.storage;
        let text = self
            .redactor
            .redact(&tagged, &context, policy, Some(&self.tokens));
        Some(text.into_owned())
    }

    /// How often each kind was found so far in what the caller said.
    pub(super) fn found(&self) -> Vec<(Arc<str>, u64)> {
        let state = self.lock();
        let found = state.found.iter();
        found
            .map(|(kind, count)| (Arc::clone(kind), *count))
            .collect()
    }

    fn apply(&self, text: &str, policy: &SinkPolicy) -> String {
        let state = self.lock();
        let context = Context {
            previous: Some(&state.previous)
                .filter(|text| !text.is_empty())
                .map(String::as_str),
            lang: self.lang,
            dialogue: Some(&state.dialogue),
        };
        self.redactor
            .redact(text, &context, policy, Some(&self.tokens))
            .into_owned()
    }

    /// Takes out of a request what the vendor may not see.
    pub(super) fn for_vendor(&self, request: &mut LlmRequest) {
        let named = |kind: &Kind, value: &str| self.tokens.pseudonym(kind, value);
        self.hide(&mut request.messages, &self.sinks.vendor, named);
    }

    /// What may be stored of a conversation, for another process to go on with.
    pub(super) fn stored(&self, history: &HistorySnapshot) -> HistorySnapshot {
        let mut messages: Vec<Message> = history.messages().cloned().collect();
        self.hide(&mut messages, &self.sinks.storage, tag);
        for message in &mut messages {
            if let Message::Assistant { tool_calls, .. } = message {
                let hidden = tool_calls.iter().map(|call| ToolCall {
                    arguments: self.arguments_for_storage(&call.arguments),
                    ..call.clone()
                });
                *tool_calls = hidden.collect();
            }
        }
        // They were a conversation before, and only their texts have changed.
        HistorySnapshot::try_from(messages).unwrap_or_default()
    }

    fn arguments_for_storage(&self, arguments: &Map<String, Value>) -> Map<String, Value> {
        let hidden = arguments.iter();
        hidden
            .map(|(name, value)| (name.clone(), self.value_for_storage(value)))
            .collect()
    }

    /// A value with every text in it as it may be stored.
    pub(super) fn value_for_storage(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => self.for_storage(text).into(),
            Value::Array(items) => {
                let items = items.iter().map(|item| self.value_for_storage(item));
                items.collect()
            }
            Value::Object(fields) => Value::Object(self.arguments_for_storage(fields)),
            other => other.clone(),
        }
    }

    /// Applies a policy to messages, each judged beside the one before it. `instead` stands for what turned out later to
    /// be a part of a number.
    fn hide(
        &self,
        messages: &mut [Message],
        policy: &SinkPolicy,
        instead: impl Fn(&Kind, &str) -> String,
    ) {
        let state = self.lock();
        let mut previous: Option<Arc<str>> = None;
        for message in messages {
            let context = Context {
                previous: previous.as_deref(),
                lang: self.lang,
                dialogue: Some(&state.dialogue),
            };
            let hide = |text: &str| -> Option<Arc<str>> {
                let marked = without_marked(&state, text, &instead);
                let hidden = self
                    .redactor
                    .redact(&marked, &context, policy, Some(&self.tokens));
                (hidden != text).then(|| Arc::from(&*hidden))
            };
            match message {
                Message::User { text, .. } => {
                    if let Some(hidden) = hide(text) {
                        *text = hidden;
                    }
                }
                Message::Assistant { text, .. } => {
                    let said = Arc::clone(text);
                    if let Some(hidden) = hide(text) {
                        *text = hidden;
                    }
                    previous = Some(said);
                }
                Message::Tool { content, .. } => {
                    if let Some(hidden) = hide(content) {
                        *content = hidden;
                    }
                }
                _ => {}
            }
        }
    }

    fn count(&self, state: &mut State, text: &str) {
        let spans = {
            let context = Context {
                previous: Some(&*state.previous).filter(|text| !text.is_empty()),
                lang: self.lang,
                dialogue: Some(&state.dialogue),
            };
            self.redactor.spans(text, &context)
        };
        for span in spans {
            *state.found.entry(span.kind.name().into()).or_default() += 1;
        }
    }

    /// Puts values back into the arguments of a tool; the model has only their names.
    pub(super) fn restore(&self, arguments: Map<String, Value>) -> Map<String, Value> {
        let restored = arguments.into_iter();
        restored
            .map(|(name, value)| (name, self.restore_value(value)))
            .collect()
    }

    fn restore_value(&self, value: Value) -> Value {
        match value {
            Value::String(text) => match self.tokens.restore(&text) {
                Cow::Borrowed(_) => Value::String(text),
                Cow::Owned(restored) => Value::String(restored),
            },
            Value::Array(items) => items
                .into_iter()
                .map(|item| self.restore_value(item))
                .collect(),
            Value::Object(fields) => Value::Object(self.restore(fields)),
            other => other,
        }
    }

    /// What a name stands for, as the caller may see and hear it.
    fn shown(&self, name: &str) -> Option<String> {
        match self.tokens.restore(name) {
            Cow::Borrowed(_) => None,
            Cow::Owned(value) => Some(self.apply(&value, &self.sinks.client)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half-way; and if it did, redacting with what is there beats not redacting.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Turns names in an answer back into what the caller may see of their values.
pub(super) struct Names {
    privacy: Arc<Privacy>,
    held: String,
}

impl Names {
    pub(super) fn new(privacy: Arc<Privacy>) -> Self {
        Self {
            privacy,
            held: String::new(),
        }
    }

    fn release(&mut self, last: bool) -> String {
        let mut out = String::new();
        let held = std::mem::take(&mut self.held);
        let mut rest = held.as_str();
        while let Some(open) = rest.find('[') {
            out.push_str(&rest[..open]);
            rest = &rest[open..];
            let Some(close) = rest.find(']') else {
                if last || rest.len() > LONGEST_NAME {
                    out.push('[');
                    rest = &rest[1..];
                    continue;
                }
                self.held = rest.to_owned();
                return out;
            };
            let name = &rest[..=close];
            match self.privacy.shown(name) {
                Some(shown) => {
                    out.push_str(&shown);
                    rest = &rest[close + 1..];
                }
                None => {
                    out.push('[');
                    rest = &rest[1..];
                }
            }
        }
        out.push_str(rest);
        out
    }
}

impl ResponseFilter for Names {
    fn push(&mut self, delta: &str) -> Result<String, Refusal> {
        self.held.push_str(delta);
        Ok(self.release(false))
    }

    fn finish(&mut self) -> Result<String, Refusal> {
        Ok(self.release(true))
    }
}

/// What a log may see of a text.
pub(crate) fn for_log(redactor: &Redactor, policy: &SinkPolicy, text: &str) -> String {
    redactor
        .redact(text, &Context::default(), policy, None)
        .into_owned()
}

#[cfg(test)]
mod tests;
