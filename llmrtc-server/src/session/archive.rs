//! What is kept of a conversation, if the operator keeps conversations and the caller's grants allow it.

use std::{collections::VecDeque, sync::Arc};

use llmrtc_core::{
    id::SessionId,
    turn::{Outcome, TurnEvent},
};
use llmrtc_security::{
    auth::Principal,
    vault::{Class, NewRecord, Subject, VaultWriter},
};
use serde_json::{Value, json};

use super::privacy::Privacy;
use crate::server::Shared;

/// Turns of the caller that wait: what they said may turn out to be the first half of a number.
const WAITING_TURNS: usize = llmrtc_security::redact::dialogue::TURNS;

/// The record of one session. Offers lines to the vault and never waits for it.
///
/// The last turns are held back until nothing can complete them any more, or the session ends; a crash loses them.
pub(super) struct Archive {
    writer: VaultWriter,
    subject: Subject,
    waiting: VecDeque<Line>,
    /// The answer that is being spoken.
    answer: Option<Arc<str>>,
}

/// The record of a session of this caller, if one is to be kept.
pub(super) fn of(shared: &Shared, caller: &Principal) -> Option<Archive> {
    let security = &shared.security;
    let writer = security.archive.clone().filter(|_| caller.grants.record)?;
    match Subject::try_from(caller) {
        Ok(subject) => Some(Archive {
            writer,
            subject,
            waiting: VecDeque::new(),
            answer: None,
        }),
        Err(error) => {
            tracing::warn!(%error, "a conversation is not kept: its caller has no usable name");
            None
        }
    }
}

struct Line {
    session: SessionId,
    class: Class,
    value: Value,
    /// The caller's words: their turn, and what the agent had said before.
    heard: Option<(u64, String)>,
}

impl Archive {
    /// Takes notice of what happened in `session`.
    pub(super) fn note(&mut self, session: SessionId, event: &TurnEvent, privacy: &Privacy) {
        match event {
            TurnEvent::Transcript {
                turn,
                text,
                is_final: true,
                ..
            } if !text.is_empty() => {
                let text = privacy.for_storage(text);
                let line = json!({ "turn": turn.0, "role": "user", "text": text });
                let heard = Some((turn.0, privacy.question()));
                self.hold(session, Class::Transcript, line, heard, privacy);
            }
            TurnEvent::LlmDone { text, .. } => self.answer = Some(Arc::clone(text)),
            TurnEvent::TurnEnded { turn, outcome, .. } => {
                let answer = self.answer.take();
                let (text, interrupted) = match outcome {
                    Outcome::Completed | Outcome::Blocked { .. } => (answer, false),
                    // What was not heard was not said.
                    Outcome::Interrupted { heard } => (Some(Arc::clone(heard)), true),
                    _ => (None, false),
                };
                let Some(text) = text.filter(|text| !text.trim().is_empty()) else {
                    return;
                };
                let mut line = json!({ "turn": turn.0, "role": "assistant", "text": privacy.for_storage(&text) });
                if interrupted {
                    line["interrupted"] = true.into();
                }
                if let Outcome::Blocked { by } = outcome {
                    line["blocked_by"] = json!(&**by);
                }
                self.hold(session, Class::Transcript, line, None, privacy);
            }
            TurnEvent::ToolEnded {
                turn, call, result, ..
            } => {
                let line = match result {
                    Ok(value) => {
                        json!({ "turn": turn.0, "tool": call.name.as_str(), "result": privacy.value_for_storage(value) })
                    }
                    Err(failure) => {
                        json!({ "turn": turn.0, "tool": call.name.as_str(), "failure": failure.category.name() })
                    }
                };
                self.hold(session, Class::ToolResult, line, None, privacy);
            }
            _ => {}
        }
    }

    fn hold(
        &mut self,
        session: SessionId,
        class: Class,
        value: Value,
        heard: Option<(u64, String)>,
        privacy: &Privacy,
    ) {
        self.waiting.push_back(Line {
            session,
            class,
            value,
            heard,
        });
        let turns =
            |waiting: &VecDeque<Line>| waiting.iter().filter(|line| line.heard.is_some()).count();
        while turns(&self.waiting) >= WAITING_TURNS {
            self.release(privacy);
        }
    }

    /// Stores what is held back. The session is over.
    pub(super) fn finish(&mut self, privacy: &Privacy) {
        while !self.waiting.is_empty() {
            self.release(privacy);
        }
    }

    fn release(&mut self, privacy: &Privacy) {
        let Some(mut line) = self.waiting.pop_front() else {
            return;
        };
        if let Some((turn, question)) = &line.heard
            && let Some(text) = privacy.revised_for_storage(*turn, question)
        {
            line.value["text"] = text.into();
        }
        self.keep(line.session, line.class, &line.value);
    }

    fn keep(&self, session: SessionId, class: Class, line: &Value) {
        let record = NewRecord::json(self.subject.clone(), session, class, line);
        // A refused record is counted by the writer, and the metrics show it; a call does not fail for that.
        if let Ok(record) = record
            && let Err(refused) = self.writer.offer(record)
        {
            tracing::warn!(session = %session.short(), error = %refused, "a line was not stored");
        }
    }
}
