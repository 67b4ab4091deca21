//! Who is here (B6): session, caller and connection, found from either side, for as long as the connection lasts.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use llmrtc_core::id::SessionId;
use llmrtc_security::auth::Principal;
use llmrtc_signal::connection::CloseReason;
use tokio::sync::{Notify, watch};

/// The sessions that have a connection.
#[derive(Debug, Default)]
pub struct Registry {
    state: Mutex<State>,
    /// Somebody has left.
    gone: Notify,
}

#[derive(Debug, Default)]
struct State {
    sessions: HashMap<SessionId, Entry>,
    /// In the order of their names, for a list that reads the same twice.
    callers: HashMap<Principal, BTreeSet<SessionId>>,
}

#[derive(Debug)]
struct Entry {
    caller: Principal,
    address: IpAddr,
    since: SystemTime,
    end: watch::Sender<Option<CloseReason>>,
}

/// A session as an operator sees it.
#[derive(Clone, Debug)]
pub struct SessionInfo {
    /// Its internal id, which is no credential.
    pub session_id: SessionId,
    /// Whose it is.
    pub caller: Principal,
    /// Where from.
    pub address: IpAddr,
    /// Since when it is connected.
    pub since: SystemTime,
}

/// A place in the registry. Leaves it on drop.
#[derive(Debug)]
pub struct Presence {
    registry: Arc<Registry>,
    session_id: SessionId,
    end: watch::Receiver<Option<CloseReason>>,
}

fn info((session_id, entry): (&SessionId, &Entry)) -> SessionInfo {
    SessionInfo {
        session_id: *session_id,
        caller: entry.caller.clone(),
        address: entry.address,
        since: entry.since,
    }
}

impl Presence {
    /// Completes when somebody wants the session to end.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn ended(&mut self) -> CloseReason {
        match self.end.wait_for(Option::is_some).await {
            Ok(reason) => reason.unwrap_or(CloseReason::SessionEnded),
            // Entered again under the same id: whoever did that holds the session now.
            Err(_) => CloseReason::TakenOver,
        }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let mut state = self.registry.lock();
        // Unless a later connection of the same session has taken the place.
        let own = state
            .sessions
            .get(&self.session_id)
            .is_some_and(|entry| self.end.same_channel(&entry.end.subscribe()));
        if own {
            state.remove(self.session_id);
        }
        drop(state);
        self.registry.gone.notify_waiters();
    }
}

impl Registry {
    /// Enters a session. One of the same id is replaced.
    pub fn enter(
        self: &Arc<Self>,
        session_id: SessionId,
        caller: &Principal,
        address: IpAddr,
        since: SystemTime,
    ) -> Presence {
        let (end, ended) = watch::channel(None);
        let mut state = self.lock();
        state.remove(session_id);
        state
            .callers
            .entry(caller.clone())
            .or_default()
            .insert(session_id);
        let entry = Entry {
            caller: caller.clone(),
            address,
            since,
            end,
        };
        state.sessions.insert(session_id, entry);
        Presence {
            registry: Arc::clone(self),
            session_id,
            end: ended,
        }
    }

    /// Whose session it is, if it is here.
    pub fn get(&self, session_id: SessionId) -> Option<SessionInfo> {
        let state = self.lock();
        let entry = state.sessions.get(&session_id)?;
        Some(info((&session_id, entry)))
    }

    /// Everybody, or one caller's sessions.
    pub fn list(&self, caller: Option<&Principal>) -> Vec<SessionInfo> {
        let state = self.lock();
        let mut list: Vec<_> = match caller {
            None => state.sessions.iter().map(info).collect(),
            Some(caller) => state
                .callers
                .get(caller)
                .into_iter()
                .flatten()
                .filter_map(|id| state.sessions.get_key_value(id).map(info))
                .collect(),
        };
        list.sort_by_key(|info| (info.since, info.session_id));
        list
    }

    /// Ends a session. Says whether there was one.
    pub fn end(&self, session_id: SessionId, reason: CloseReason) -> bool {
        let state = self.lock();
        let entry = state.sessions.get(&session_id);
        entry.is_some_and(|entry| entry.end.send(Some(reason)).is_ok())
    }

    /// Ends all sessions of a caller, and says how many there were.
    pub fn end_all(&self, caller: &Principal, reason: CloseReason) -> usize {
        let sessions = self.list(Some(caller));
        let ended = sessions
            .iter()
            .filter(|info| self.end(info.session_id, reason));
        ended.count()
    }

    /// Waits until no session of a caller is left.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn left(&self, caller: &Principal) {
        loop {
            let gone = self.gone.notified();
            if self.list(Some(caller)).is_empty() {
                return;
            }
            gone.await;
        }
    }

    /// How many sessions there are.
    pub fn len(&self) -> usize {
        self.lock().sessions.len()
    }

    /// Whether nobody is here.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Both maps are changed together, without a way to panic in between.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn remove(&mut self, session_id: SessionId) {
        let Some(entry) = self.sessions.remove(&session_id) else {
            return;
        };
        if let Some(sessions) = self.callers.get_mut(&entry.caller) {
            sessions.remove(&session_id);
            if sessions.is_empty() {
                self.callers.remove(&entry.caller);
            }
        }
    }
}

#[cfg(test)]
mod b6_correlation {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[tokio::test]
    async fn sessions_are_found_by_caller_ended_and_gone() {
        let registry = Arc::new(Registry::default());
        let (ann, bob) = (Principal::user("ann", None), Principal::user("bob", None));
        let ids: Vec<_> = (1..=3).map(SessionId::from_u128).collect();
        let now = SystemTime::UNIX_EPOCH;
        let mut first = registry.enter(ids[0], &ann, HERE, now);
        let second = registry.enter(ids[1], &ann, HERE, now);
        let third = registry.enter(ids[2], &bob, HERE, now);
        let of = |caller| -> Vec<_> {
            let list = registry.list(Some(caller));
            list.iter().map(|info| info.session_id).collect()
        };
        assert_eq!(of(&ann), ids[..2]);
        assert_eq!(registry.list(None).len(), 3);
        assert!(registry.end(ids[0], CloseReason::Replaced));
        assert_eq!(first.ended().await, CloseReason::Replaced);
        drop(first);
        assert!(!registry.end(ids[0], CloseReason::Replaced));
        assert_eq!(registry.end_all(&ann, CloseReason::SessionEnded), 1);
        drop(second);
        assert!(of(&ann).is_empty());
        assert_eq!(of(&bob), ids[2..]);

        // A resume enters under the same id before the earlier connection has left.
        let again = registry.enter(ids[2], &bob, HERE, now);
        drop(third);
        assert_eq!(of(&bob), ids[2..]);
        drop(again);
        assert!(registry.is_empty());
    }

    #[test]
    fn nothing_is_left_of_a_hundred_thousand_visits() {
        let registry = Arc::new(Registry::default());
        for n in 0..100_000u128 {
            let caller = Principal::user(format!("user {n}"), None);
            registry.enter(
                SessionId::from_u128(n),
                &caller,
                HERE,
                SystemTime::UNIX_EPOCH,
            );
        }
        let state = registry.lock();
        assert!(state.sessions.is_empty() && state.callers.is_empty());
        // A map keeps the room of its largest size, which was one.
        assert!(state.sessions.capacity() < 16 && state.callers.capacity() < 16);
    }
}
