//! Sessions that go on in another process: after a restart, or on another node.

use std::{collections::VecDeque, fmt, time::Instant};

use async_trait::async_trait;
use llmrtc_core::id::SessionId;
use serde::{Deserialize, Serialize};

use super::{Entry, Hold, Previous, Revoked, SessionHandles};
use crate::auth::{
    digest::{Digest, sha256},
    ticket::{SpentTicket, TicketId},
};

/// Names a handle without being worth one: its SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct HandleId(pub(super) Digest);

impl HandleId {
    /// The name of this handle, which a client sent and which may be anything.
    pub fn of(handle: &str) -> Self {
        Self(sha256(handle.as_bytes()))
    }

    /// For the keys of a store.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for HandleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HandleId({:02x}{:02x})", self.0[0], self.0[1])
    }
}

/// What another process needs to know of a session for its client to find it there. Opaque; digests and no credential.
#[derive(Clone, Serialize, Deserialize)]
pub struct HandleRecord {
    handle: Digest,
    #[serde(with = "session_id")]
    session_id: SessionId,
    owner: Digest,
    principal: Option<Digest>,
    token: Digest,
    previous: Option<Digest>,
    retired: VecDeque<Digest>,
    token_seen: bool,
    ticket: Option<SpentTicket>,
}

impl HandleRecord {
    /// What the client knows the session by.
    pub fn handle(&self) -> HandleId {
        HandleId(self.handle)
    }

    /// What the server knows it by.
    pub fn session_id(&self) -> SessionId {
        self.session_id
    }

    /// The ticket that the client came with last.
    pub fn ticket(&self) -> Option<TicketId> {
        self.ticket.as_ref().map(SpentTicket::id)
    }
}

impl fmt::Debug for HandleRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandleRecord")
            .field("session_id", &self.session_id)
            .finish_non_exhaustive()
    }
}

/// Where sessions are that this process does not hold: a store that others write to, or that it wrote to before a restart.
#[async_trait]
pub trait Recall: Send + Sync + 'static {
    /// [Adopts](SessionHandles::adopt) the session whose client came with this ticket last, if the store has it in a newer
    /// state than this process. A store that fails has found nothing.
    async fn recall(&self, ticket: &TicketId);
}

/// An internal id as the text that logs have.
mod session_id {
    use llmrtc_core::id::SessionId;
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(id: &SessionId, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(id)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<SessionId, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

impl SessionHandles {
    /// What to keep of a session, whoever holds it. `None` when there is none.
    pub fn record(&self, handle: &HandleId) -> Option<HandleRecord> {
        let state = self.lock();
        let entry = state.entries.get(&handle.0)?;
        Some(HandleRecord {
            handle: handle.0,
            session_id: entry.session_id,
            owner: entry.owner,
            principal: entry.principal,
            token: entry.token,
            previous: entry.previous.as_ref().map(|previous| previous.token),
            retired: entry.retired.clone(),
            token_seen: entry.token_seen,
            ticket: entry.ticket.clone(),
        })
    }

    /// Goes on with a session as another process left it: from now on it waits here for its client. What is known of it
    /// here is replaced, and a connection that holds it loses it. A token whose successor may not have arrived has its
    /// grace again.
    ///
    /// Returns the sessions that a cap pushed out, whose state is to be dropped.
    pub fn adopt(&self, record: HandleRecord, now: Instant) -> Vec<SessionId> {
        let handle = record.handle;
        let until = now + self.config.lost_ack_grace;
        let mut state = self.lock();
        state.let_go(&handle, Revoked::Superseded);
        if let Some(ticket) = &record.ticket {
            state.by_ticket.insert(ticket.id, handle);
        }
        state.entries.insert(
            handle,
            Entry {
                session_id: record.session_id,
                owner: record.owner,
                principal: record.principal,
                token: record.token,
                previous: record.previous.map(|token| Previous { token, until }),
                retired: record.retired,
                token_seen: record.token_seen,
                ticket: record.ticket,
                // Queued below.
                hold: Hold::Waiting((now, 0)),
            },
        );
        state.wait(handle, now);
        state.enforce_caps(&self.config, handle)
    }

    /// Forgets a session that has ended elsewhere. Returns it, if it was known.
    pub fn forget(&self, handle: &HandleId) -> Option<SessionId> {
        self.lock().remove(&handle.0)
    }

    /// The session that a handle is for, whoever asks.
    pub fn session_of(&self, handle: &HandleId) -> Option<SessionId> {
        let state = self.lock();
        state.entries.get(&handle.0).map(|entry| entry.session_id)
    }

    /// The session that a handle is for, if no connection holds it.
    pub fn waiting(&self, handle: &HandleId) -> Option<SessionId> {
        let state = self.lock();
        let entry = state.entries.get(&handle.0);
        let waiting = entry.filter(|entry| matches!(entry.hold, Hold::Waiting(_)));
        waiting.map(|entry| entry.session_id)
    }
}
