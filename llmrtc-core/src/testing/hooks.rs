use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use crate::hooks::{HookEvent, HookResult, Hooks, ServerEvent, TurnContext};

/// Keeps every event. [Flush](crate::hooks::Observers::flush) the observers before looking.
#[derive(Debug, Default)]
pub struct RecordingHooks {
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    names: Vec<&'static str>,
    turn: Vec<(TurnContext, HookEvent)>,
    server: Vec<ServerEvent>,
}

impl RecordingHooks {
    /// An empty record.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The names of all events, in order.
    pub fn names(&self) -> Vec<&'static str> {
        self.seen().names.clone()
    }

    /// The events of turns, in order.
    pub fn turn_events(&self) -> Vec<(TurnContext, HookEvent)> {
        self.seen().turn.clone()
    }

    /// The other events, in order.
    pub fn server_events(&self) -> Vec<ServerEvent> {
        self.seen().server.clone()
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Hooks for RecordingHooks {
    fn name(&self) -> &'static str {
        "recording"
    }

    async fn on_event(&self, cx: &TurnContext, event: &HookEvent) -> HookResult {
        let mut seen = self.seen();
        seen.names.push(event.name());
        seen.turn.push((cx.clone(), event.clone()));
        Ok(())
    }

    async fn on_server_event(&self, event: &ServerEvent) -> HookResult {
        let mut seen = self.seen();
        seen.names.push(event.name());
        seen.server.push(event.clone());
        Ok(())
    }
}
