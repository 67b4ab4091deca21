//! What of a conversation whom may see (E1): one redactor, a policy per sink, names that only this session can undo.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use llmrtc_core::{
    guardrail::{Refusal, ResponseFilter},
    message::Message,
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
                let earlier = state.dialogue.heard_user(turn.0, text, self.lang);
                for span in earlier.into_iter().chain(state.dialogue.completes(turn.0)) {
                    if let Some(spoken) = state
                        .turns
                        .iter_mut()
                        .find(|spoken| spoken.turn == span.turn)
                    {
                        spoken.marked.push(span);
                    }
                }
                self.count(&mut state, text);
                if state.turns.len() == REMEMBERED {
                    state.turns.remove(0);
                }
                let marked = state.dialogue.completes(turn.0);
                state.turns.push(Spoken {
                    turn: turn.0,
                    text: text.to_string(),
                    marked,
                });
            }
            TurnEvent::LlmDone { text, .. } => {
                state.dialogue.heard_agent(text, self.lang);
                state.previous = text.to_string();
            }
            _ => {}
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
        let tagged = cut(&spoken.text, &spoken.marked, |kind, _| {
            let mut tag = String::new();
            kind.write_tag(&mut tag);
            tag
        });
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

    /// Takes out of a request what the vendor may not see. Each message is judged beside the one before it.
    pub(super) fn for_vendor(&self, request: &mut LlmRequest) {
        let state = self.lock();
        let mut previous: Option<Arc<str>> = None;
        for message in &mut request.messages {
            let context = Context {
                previous: previous.as_deref(),
                lang: self.lang,
                dialogue: Some(&state.dialogue),
            };
            let hide = |text: &str| -> Option<Arc<str>> {
                let marked = self.without_marked(&state, text);
                let hidden =
                    self.redactor
                        .redact(&marked, &context, &self.sinks.vendor, Some(&self.tokens));
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

    /// The text of an earlier turn without what turned out later to be a part of a number.
    fn without_marked<'t>(&self, state: &State, text: &'t str) -> Cow<'t, str> {
        let spoken = state
            .turns
            .iter()
            .find(|spoken| spoken.text == text && !spoken.marked.is_empty());
        let Some(spoken) = spoken else {
            return Cow::Borrowed(text);
        };
        let named = |kind: &Kind, value: &str| self.tokens.pseudonym(kind, value);
        Cow::Owned(cut(text, &spoken.marked, named))
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
mod tests {
    use llmrtc_core::{id::TurnId, provider::LlmConfig};
    use llmrtc_security::redact::RedactConfig;

    use super::*;

    fn privacy() -> Arc<Privacy> {
        let config = RedactConfig::default();
        let redactor = Arc::new(Redactor::new(&config).unwrap());
        Arc::new(Privacy::new(redactor, Arc::new(config.sinks), Some("en")).unwrap())
    }

    fn request(texts: &[&str]) -> LlmRequest {
        LlmRequest {
            messages: texts.iter().map(|text| Message::user(*text)).collect(),
            config: LlmConfig::default(),
            ..LlmRequest::default()
        }
    }

    #[test]
    fn t13_a_card_is_whole_for_its_tool_and_for_nobody_else() {
        let privacy = privacy();
        let said = "my card is 4111 1111 1111 1111 thanks";
        let mut asked = request(&[said]);
        privacy.for_vendor(&mut asked);
        let seen = asked.messages[0].text().to_owned();
        assert!(!seen.contains("1111"), "{seen}");
        let name = seen[seen.find('[').unwrap()..=seen.find(']').unwrap()].to_owned();

        let arguments = serde_json::json!({ "card": name, "deep": [{ "x": name }], "n": 1 });
        let Value::Object(arguments) = arguments else {
            unreachable!()
        };
        let restored = Value::Object(privacy.restore(arguments)).to_string();
        assert_eq!(
            restored.matches("4111 1111 1111 1111").count(),
            2,
            "{restored}"
        );

        for shown in [privacy.for_client(said), privacy.for_storage(said)] {
            assert!(!shown.contains("4111 1111"), "{shown}");
        }
        assert!(
            privacy.for_client(said).contains("1111"),
            "the caller recognises the card"
        );
        assert!(!privacy.for_storage(said).contains("1111"));
    }

    fn said(privacy: &Privacy, turn: u64, text: &str) {
        privacy.note(&TurnEvent::Transcript {
            turn: TurnId(turn),
            text: text.into(),
            is_final: true,
            confidence: None,
        });
    }

    fn answered(privacy: &Privacy, turn: u64, text: &str) {
        privacy.note(&TurnEvent::LlmDone {
            turn: TurnId(turn),
            text: text.into(),
            stop_reason: llmrtc_core::provider::StopReason::EndTurn,
            usage: llmrtc_core::provider::Usage::default(),
        });
    }

    #[test]
    fn e1_half_a_card_is_taken_out_of_what_is_stored_when_the_other_half_is_said() {
        let privacy = privacy();
        answered(&privacy, 0, "What is your card number?");
        let question = privacy.question();
        said(&privacy, 1, "it is 4111 1111");
        assert_eq!(privacy.revised_for_storage(1, &question), None);
        answered(&privacy, 1, "Go on.");
        said(&privacy, 2, "1111 1111");
        let stored = privacy.revised_for_storage(1, &question).unwrap();
        assert!(
            stored.starts_with("it is [") && !stored.contains("4111"),
            "{stored}"
        );
        assert_eq!(privacy.revised_for_storage(3, &question), None);
    }

    #[test]
    fn e1_what_was_found_is_counted_by_kind() {
        let privacy = privacy();
        assert!(privacy.found().is_empty());
        said(
            &privacy,
            1,
            "4111 1111 1111 1111 or write to ann@example.com",
        );
        let found = privacy.found();
        let kinds: Vec<&str> = found.iter().map(|(kind, _)| &**kind).collect();
        assert_eq!(kinds, ["card", "email"]);
        assert!(found.iter().all(|(_, count)| *count == 1));
    }

    #[test]
    fn names_in_an_answer_become_what_the_caller_may_see_however_it_is_cut() {
        let privacy = privacy();
        let mut asked = request(&["4111 1111 1111 1111"]);
        privacy.for_vendor(&mut asked);
        let name = asked.messages[0].text().to_owned();
        let answer = format!("I charged {name} [sic] as [asked");
        for size in [1, 3, 7, 100] {
            let mut filter = Names::new(Arc::clone(&privacy));
            let mut out = String::new();
            let pieces: Vec<char> = answer.chars().collect();
            for piece in pieces.chunks(size) {
                out += &filter.push(&piece.iter().collect::<String>()).unwrap();
            }
            out += &filter.finish().unwrap();
            assert!(
                out.starts_with("I charged ") && out.ends_with(" [sic] as [asked"),
                "{out}"
            );
            assert!(!out.contains(&name) && !out.contains("4111 1111"), "{out}");
        }
    }

    #[test]
    fn a_number_in_pieces_is_taken_out_of_the_turns_it_was_said_in() {
        let privacy = privacy();
        let agent = |text: &str| TurnEvent::LlmDone {
            turn: TurnId(1),
            text: text.into(),
            stop_reason: llmrtc_core::provider::StopReason::EndTurn,
            usage: Default::default(),
        };
        let user = |turn, text: &str| TurnEvent::Transcript {
            turn: TurnId(turn),
            text: text.into(),
            is_final: true,
            confidence: None,
        };
        privacy.note(&agent("Sure. What is your card number?"));
        let pieces = [
            "four one one one one one one one",
            "one one one one",
            "one one one one",
        ];
        for (turn, piece) in pieces.iter().enumerate() {
            privacy.note(&user(turn as u64 + 1, piece));
            privacy.note(&agent("Go on."));
        }
        let mut asked = request(&pieces);
        privacy.for_vendor(&mut asked);
        for message in &asked.messages {
            assert!(
                !message.text().contains("one one one one"),
                "{}",
                message.text()
            );
        }
    }
}
