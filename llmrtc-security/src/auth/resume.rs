//! How a client finds its session again, and nobody else does.
//!
//! A session has a *handle*: 256 random bits that the client knows it by, the same for the session's life, because
//! applications compare it. The handle is a credential: kept as its SHA-256, never logged. The internal session id
//! never leaves the server, and nothing that a client sends ever becomes a key.
//!
//! On top there is a *resume token*, handed out with the handle and at every resume:
//!
//! | The client presents | It resumes if |
//! | --- | --- |
//! | handle and current token | same principal, same Origin |
//! | handle and the token before it | the same, within [`ResumeConfig::lost_ack_grace`] and before [`SessionHandles::confirm`] |
//! | handle and any older token | never: somebody kept a copy, so the session **ends** |
//! | handle and a wrong token | never |
//! | handle alone | same principal, same Origin, no token was ever presented, and tokens are not required |
//!
//! [`Binding::HandleOnly`], for open mode on loopback, drops "same principal, same Origin".
//!
//! Why a grace, and what it costs: the acknowledgement that carries the next token can be lost with the connection,
//! and the client then has only the spent one. A token that is accepted twice is still a trap for a thief: each use
//! retires the tokens issued before, so as soon as both sides have come back once, one of them presents a retired
//! token and the session ends.
//!
//! A session has one owner at a time. Resuming takes the session from the connection that holds it and returns a
//! [`Detachment`] that completes when that connection has let go of its [`Lease`]; the server awaits it (with a
//! deadline) before it acknowledges, so two connections never run turns on one history.
//!
//! Under ticket authentication a session also remembers the ticket that its client came with, because a client that
//! always connects to the same URL comes back with that one, spent. [`SessionHandles::spent_ticket`] recognises it while
//! the session lives, and [`SessionHandles::resume_spent`] gives it that session and no other. A client that resumes with
//! a fresh ticket is known by that from then on.
//!
//! Everything is kept in memory, and no method awaits or reads a clock. For a store that outlives the process there are
//! [`HandleRecord`]s: [`SessionHandles::record`] makes one, [`SessionHandles::adopt`] goes on with it, there or elsewhere.

mod elsewhere;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use llmrtc_core::{id::SessionId, redact::Secret};
use tokio::sync::watch;

pub use self::elsewhere::{HandleId, HandleRecord, Recall};
use super::{
    Principal,
    digest::{Digest, credential, owner_digest, principal_digest, same, sha256},
    origin::Origin,
    ticket::{SpentTicket, TicketId},
};

/// Retired tokens remembered per session, to recognise a replay. Older ones are merely wrong. Half a kilobyte.
const RETIRED_TOKENS: usize = 16;

/// How sessions are resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResumeConfig {
    /// How long a session waits for its client. 30 min.
    pub ttl: Duration,
    /// Most sessions waiting for a client; the one that has waited longest goes first. 10,000.
    pub max_waiting: usize,
    /// The same per principal. Callers without an identity share none, so only `max_waiting` holds for them. 16.
    pub max_waiting_per_principal: usize,
    /// Demand a token of everybody. The stock web client has none, so this is off.
    pub require_token: bool,
    /// How long a spent token is accepted once more if the acknowledgement may have been lost. 60 s.
    pub lost_ack_grace: Duration,
    /// What a handle alone is worth.
    pub binding: Binding,
}

impl Default for ResumeConfig {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(30 * 60),
            max_waiting: 10_000,
            max_waiting_per_principal: 16,
            require_token: false,
            lost_ack_grace: Duration::from_secs(60),
            binding: Binding::Identity,
        }
    }
}

/// Who may use a handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// The principal that opened the session, from the same Origin.
    Identity,
    /// Whoever has it. For open mode on loopback only.
    HandleOnly,
}

/// Orders waiting sessions by the time their client left; the number breaks ties.
type Since = (Instant, u64);

/// The handles of all sessions of this process. Shared by reference; the lock is held for a few lines.
#[derive(Debug)]
pub struct SessionHandles {
    config: ResumeConfig,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By the digest of the handle, so the time of a lookup tells nothing about a handle.
    entries: HashMap<Digest, Entry>,
    /// Sessions without a connection, oldest first.
    waiting: BTreeMap<Since, Digest>,
    /// By the ticket that the client came with.
    by_ticket: HashMap<TicketId, Digest>,
    /// The waiting ones by principal, for principals that have an identity.
    waiting_by_principal: HashMap<Digest, BTreeMap<Since, Digest>>,
    /// Numbers leases and waits.
    serial: u64,
}

#[derive(Debug)]
struct Entry {
    session_id: SessionId,
    /// Digest of principal and Origin.
    owner: Digest,
    /// Digest of the principal alone; absent for anonymous callers.
    principal: Option<Digest>,
    token: Digest,
    /// The token before it, if the client may not have received the current one.
    previous: Option<Previous>,
    retired: VecDeque<Digest>,
    /// The client has shown that it keeps tokens.
    token_seen: bool,
    /// The ticket that the client came with last, and what it admitted.
    ticket: Option<SpentTicket>,
    hold: Hold,
}

#[derive(Debug)]
struct Previous {
    token: Digest,
    until: Instant,
}

#[derive(Debug)]
enum Hold {
    /// A connection owns the session. The channel tells it to let go, and tells us that it has.
    Attached {
        epoch: u64,
        revoke: watch::Sender<Option<Revoked>>,
    },
    /// Nobody does.
    Waiting(Since),
}

/// A fresh session's credentials. Sent in `ready` and forgotten.
#[derive(Debug)]
pub struct Issued {
    /// The internal id, for the server's own maps.
    pub session_id: SessionId,
    /// What the client will know the session by.
    pub handle: Secret,
    /// The first resume token.
    pub token: Secret,
    /// The ownership of the session.
    pub lease: Lease,
}

/// A request to resume. Strings as the client sent them, of any length.
#[derive(Clone, Copy)]
pub struct Attempt<'a> {
    /// The handle.
    pub handle: &'a str,
    /// The token, if the client sent one.
    pub token: Option<&'a str>,
    /// Who asks.
    pub principal: &'a Principal,
    /// From which page.
    pub origin: Option<&'a Origin>,
}

impl fmt::Debug for Attempt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempt").finish_non_exhaustive()
    }
}

/// A resumed session.
#[derive(Debug)]
pub struct Resumed {
    /// The session.
    pub session_id: SessionId,
    /// The next token. The presented one is spent.
    pub token: Secret,
    /// The ownership, which the previous owner has lost by now.
    pub lease: Lease,
    /// The previous owner, if a connection still held the session. Await it before the acknowledgement.
    pub previous: Option<Detachment>,
}

/// The session is not resumed. From outside, every reason looks the same: an unknown session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown session")]
pub struct Refused {
    cause: RefusalCause,
}

impl Refused {
    /// Why, for the audit log. Not for the client.
    pub fn cause(&self) -> RefusalCause {
        self.cause
    }

    /// The session that this attempt ended, whose state is to be dropped.
    pub fn ended(&self) -> Option<SessionId> {
        match self.cause {
            RefusalCause::Expired(session_id) | RefusalCause::Replayed(session_id) => {
                Some(session_id)
            }
            _ => None,
        }
    }
}

/// Why a session was not resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RefusalCause {
    /// No session has this handle.
    Unknown,
    /// The client stayed away for too long. The session is gone.
    Expired(SessionId),
    /// Another principal, another Origin, or the spent ticket of another session.
    NotOwner(SessionId),
    /// A token is needed and none came.
    TokenMissing(SessionId),
    /// The token is not and never was (as far as remembered) one of this session.
    TokenWrong(SessionId),
    /// A spent token: two parties hold copies. The session is gone, and so is its owner's lease.
    Replayed(SessionId),
}

/// Why a connection no longer owns its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Revoked {
    /// Another connection of the same client resumed it (close 4001).
    TakenOver,
    /// The same in another process, which knows more of the session than this one (close 4001).
    Superseded,
    /// The session ended: a token was replayed, or an operator ended it (close 1008).
    Ended,
}

/// The ownership of a session. Give it back with [`SessionHandles::release`]; one that is dropped instead, because its
/// task died, is noticed by the next [`sweep`](SessionHandles::sweep).
#[derive(Debug)]
pub struct Lease {
    session_id: SessionId,
    handle: Digest,
    epoch: u64,
    revoked: watch::Receiver<Option<Revoked>>,
}

impl Lease {
    /// The session it is for.
    pub fn session_id(&self) -> SessionId {
        self.session_id
    }

    /// What the client knows the session by.
    pub fn handle(&self) -> HandleId {
        HandleId(self.handle)
    }

    /// Completes when the ownership is lost. The holder stops its turn, closes its socket and drops the lease.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn revoked(&mut self) -> Revoked {
        match self.revoked.wait_for(Option::is_some).await {
            Ok(reason) => reason.unwrap_or(Revoked::Ended),
            // The handles themselves are gone: the process is going down.
            Err(_) => Revoked::Ended,
        }
    }

    /// Whether and why the ownership is lost.
    pub fn is_revoked(&self) -> Option<Revoked> {
        *self.revoked.borrow()
    }
}

/// A previous owner on its way out.
#[derive(Debug)]
pub struct Detachment(watch::Sender<Option<Revoked>>);

impl Detachment {
    /// Completes when the previous owner has dropped its lease. Bound it with a timeout: a stuck connection must not
    /// lock its client out.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn completed(&self) {
        self.0.closed().await;
    }
}

impl SessionHandles {
    /// No sessions.
    pub fn new(config: ResumeConfig) -> Self {
        Self {
            config,
            state: Mutex::default(),
        }
    }

    /// Names a new session for its owner. Sessions that a connection holds are bounded by the server's connections.
    pub fn issue(
        &self,
        session_id: SessionId,
        principal: &Principal,
        origin: Option<&Origin>,
    ) -> Issued {
        let (handle, handle_digest) = credential();
        let (token, token_digest) = credential();
        let mut state = self.lock();
        let (hold, lease) = state.attach(session_id, handle_digest);
        state.entries.insert(
            handle_digest,
            Entry {
                session_id,
                owner: owner_digest(principal, origin),
                principal: principal_digest(principal),
                token: token_digest,
                previous: None,
                retired: VecDeque::new(),
                token_seen: false,
                ticket: None,
                hold,
            },
        );
        state.remember_ticket(handle_digest, principal);
        Issued {
            session_id,
            handle,
            token,
            lease,
        }
    }

    /// Takes a session over, by the rules of the [module](self).
    ///
    /// # Errors
    /// One error for every reason. [`Refused::ended`] names a session that this attempt ended.
    pub fn resume(&self, attempt: Attempt<'_>, now: Instant) -> Result<Resumed, Refused> {
        self.resume_if(attempt, |_| true, now)
    }

    /// The session that this ticket belongs to, as far as its bearer may know: the right to ask for it by its handle.
    ///
    /// Returns `None` for a ticket without a living session, and for one from another Origin.
    pub fn spent_ticket(
        &self,
        ticket: &TicketId,
        origin: Option<&Origin>,
        now: Instant,
    ) -> Option<SpentTicket> {
        let state = self.lock();
        let entry = state.entries.get(state.by_ticket.get(ticket)?)?;
        let spent = entry.ticket.as_ref()?;
        let is_owner = same(&owner_digest(&spent.principal, origin), &entry.owner);
        (is_owner && !entry.is_expired(&self.config, now)).then(|| spent.clone())
    }

    /// Takes a session over by the ticket that its client came with, by the rules of the [module](self) and for no other
    /// session than that one.
    ///
    /// # Errors
    /// As [`resume`](Self::resume).
    pub fn resume_spent(
        &self,
        ticket: &SpentTicket,
        handle: &str,
        token: Option<&str>,
        origin: Option<&Origin>,
        now: Instant,
    ) -> Result<Resumed, Refused> {
        let attempt = Attempt {
            handle,
            token,
            principal: &ticket.principal,
            origin,
        };
        let is_its_own =
            |entry: &Entry| entry.ticket.as_ref().is_some_and(|own| own.id == ticket.id);
        self.resume_if(attempt, is_its_own, now)
    }

    fn resume_if(
        &self,
        attempt: Attempt<'_>,
        may: impl FnOnce(&Entry) -> bool,
        now: Instant,
    ) -> Result<Resumed, Refused> {
        // Everything is hashed before anything is decided: what is left to tell refusals apart is a few comparisons, and takes
        // a handle that is right.
        let handle = sha256(attempt.handle.as_bytes());
        let presented = attempt.token.map(|token| sha256(token.as_bytes()));
        let owner = owner_digest(attempt.principal, attempt.origin);
        let (next, next_digest) = credential();

        let mut state = self.lock();
        let state = &mut *state;
        let Some(entry) = state.entries.get_mut(&handle) else {
            return Err(RefusalCause::Unknown.into());
        };
        let session_id = entry.session_id;
        if entry.is_expired(&self.config, now) {
            state.remove(&handle);
            return Err(RefusalCause::Expired(session_id).into());
        }
        let is_owner = self.config.binding == Binding::HandleOnly || same(&owner, &entry.owner);
        if !is_owner || !may(entry) {
            return Err(RefusalCause::NotOwner(session_id).into());
        }
        match presented.map(|token| entry.judge(&token, now)) {
            None if entry.token_seen || self.config.require_token => {
                return Err(RefusalCause::TokenMissing(session_id).into());
            }
            None => entry.rotate(next_digest, None),
            Some(Verdict::Current) => {
                let until = now + self.config.lost_ack_grace;
                entry.rotate(next_digest, Some(until));
            }
            Some(Verdict::Previous) => entry.rotate_again(next_digest),
            Some(Verdict::Wrong) => return Err(RefusalCause::TokenWrong(session_id).into()),
            Some(Verdict::Retired) => {
                state.remove(&handle);
                return Err(RefusalCause::Replayed(session_id).into());
            }
        }
        entry.token_seen |= presented.is_some();
        state.remember_ticket(handle, attempt.principal);
        state.unlink(&handle);
        let (hold, lease) = state.attach(session_id, handle);
        // Found above; nothing has removed it since.
        let previous = state
            .entries
            .get_mut(&handle)
            .map(|entry| std::mem::replace(&mut entry.hold, hold));
        let previous = match previous {
            Some(Hold::Attached { revoke, .. }) => {
                revoke.send_replace(Some(Revoked::TakenOver));
                Some(Detachment(revoke))
            }
            _ => None,
        };
        Ok(Resumed {
            session_id,
            token: next,
            lease,
            previous,
        })
    }

    /// The client has shown that it received the latest token, by sending anything after the acknowledgement. Ends the
    /// grace of the token before it. A stale lease confirms nothing.
    pub fn confirm(&self, lease: &Lease) {
        let mut state = self.lock();
        if let Some(entry) = state.entries.get_mut(&lease.handle)
            && entry.is_held_by(lease.epoch)
            && let Some(previous) = entry.previous.take()
        {
            entry.retire(previous.token);
        }
    }

    /// Gives a session back when its connection is over. With `keep` it waits for its client, otherwise it is gone.
    /// Does nothing if the lease was revoked in the meantime.
    ///
    /// Returns the sessions whose state is to be dropped now: this one without `keep`, and those that a cap pushed out.
    pub fn release(&self, lease: Lease, keep: bool, now: Instant) -> Vec<SessionId> {
        let mut state = self.lock();
        let Some(entry) = state.entries.get(&lease.handle) else {
            return Vec::new();
        };
        if !entry.is_held_by(lease.epoch) {
            return Vec::new();
        }
        if !keep {
            return state.remove(&lease.handle).into_iter().collect();
        }
        state.wait(lease.handle, now);
        state.enforce_caps(&self.config, lease.handle)
    }

    /// Ends a session whoever holds it, such as for an operator. Linear in the number of sessions.
    ///
    /// Returns whether there was one.
    pub fn end(&self, session_id: SessionId) -> bool {
        let mut state = self.lock();
        let found = state
            .entries
            .iter()
            .find(|(_, entry)| entry.session_id == session_id);
        let Some(handle) = found.map(|(handle, _)| *handle) else {
            return false;
        };
        state.remove(&handle).is_some()
    }

    /// Forgets sessions whose client stayed away for too long, and finds those whose connection died without a word.
    /// Call it at least once a minute.
    ///
    /// Returns the sessions whose state is to be dropped.
    pub fn sweep(&self, now: Instant) -> Vec<SessionId> {
        let mut state = self.lock();
        let orphans: Vec<Digest> = state
            .entries
            .iter()
            .filter(|(_, entry)| entry.is_orphaned())
            .map(|(handle, _)| *handle)
            .collect();
        let mut dropped = Vec::new();
        for handle in orphans {
            state.wait(handle, now);
            dropped.extend(state.enforce_caps(&self.config, handle));
        }
        while let Some((&(since, _), &handle)) = state.waiting.first_key_value() {
            if now.saturating_duration_since(since) < self.config.ttl {
                break;
            }
            dropped.extend(state.remove(&handle));
        }
        dropped
    }

    /// Ends all sessions of a caller with an identity that wait for their client, and returns them.
    pub fn end_waiting(&self, principal: &Principal) -> Vec<SessionId> {
        let Some(principal) = principal_digest(principal) else {
            return Vec::new();
        };
        let mut state = self.lock();
        let queue = state.waiting_by_principal.get(&principal);
        let handles: Vec<Digest> = queue
            .map(|queue| queue.values().copied().collect())
            .unwrap_or_default();
        let ended = handles.iter().filter_map(|handle| state.remove(handle));
        ended.collect()
    }

    /// How many sessions there are: held by a connection, and waiting for one.
    pub fn counts(&self) -> (usize, usize) {
        let state = self.lock();
        (
            state.entries.len() - state.waiting.len(),
            state.waiting.len(),
        )
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No step between two valid states can panic, so a poisoned lock still guards a valid one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn attach(&mut self, session_id: SessionId, handle: Digest) -> (Hold, Lease) {
        self.serial += 1;
        let (revoke, revoked) = watch::channel(None);
        let lease = Lease {
            session_id,
            handle,
            epoch: self.serial,
            revoked,
        };
        let hold = Hold::Attached {
            epoch: self.serial,
            revoke,
        };
        (hold, lease)
    }

    /// The client came with a ticket: it will come back with it, and not with the one before.
    fn remember_ticket(&mut self, handle: Digest, principal: &Principal) {
        let (Some(id), Some(entry)) = (principal.credential.ticket, self.entries.get_mut(&handle))
        else {
            return;
        };
        let spent = SpentTicket {
            id,
            principal: principal.clone(),
        };
        if let Some(before) = entry.ticket.replace(spent) {
            self.by_ticket.remove(&before.id);
        }
        self.by_ticket.insert(id, handle);
    }

    /// The connection is gone; the session stays.
    fn wait(&mut self, handle: Digest, now: Instant) {
        self.serial += 1;
        let since = (now, self.serial);
        if let Some(entry) = self.entries.get_mut(&handle) {
            entry.hold = Hold::Waiting(since);
            self.waiting.insert(since, handle);
            if let Some(principal) = entry.principal {
                self.waiting_by_principal
                    .entry(principal)
                    .or_default()
                    .insert(since, handle);
            }
        }
    }

    /// Takes a session out of the queues of the waiting.
    fn unlink(&mut self, handle: &Digest) {
        let Some(entry) = self.entries.get(handle) else {
            return;
        };
        let Hold::Waiting(since) = entry.hold else {
            return;
        };
        self.waiting.remove(&since);
        if let Some(principal) = entry.principal
            && let Some(queue) = self.waiting_by_principal.get_mut(&principal)
        {
            queue.remove(&since);
            if queue.is_empty() {
                self.waiting_by_principal.remove(&principal);
            }
        }
    }

    fn remove(&mut self, handle: &Digest) -> Option<SessionId> {
        self.let_go(handle, Revoked::Ended)
    }

    fn let_go(&mut self, handle: &Digest, reason: Revoked) -> Option<SessionId> {
        self.unlink(handle);
        let entry = self.entries.remove(handle)?;
        if let Some(ticket) = &entry.ticket {
            self.by_ticket.remove(&ticket.id);
        }
        if let Hold::Attached { revoke, .. } = entry.hold {
            revoke.send_replace(Some(reason));
        }
        Some(entry.session_id)
    }

    /// `handle` has just begun to wait; whoever has waited longest makes room.
    fn enforce_caps(&mut self, config: &ResumeConfig, handle: Digest) -> Vec<SessionId> {
        let queue = self
            .entries
            .get(&handle)
            .and_then(|entry| entry.principal)
            .and_then(|principal| self.waiting_by_principal.get(&principal));
        let crowded = queue
            .filter(|queue| queue.len() > config.max_waiting_per_principal)
            .and_then(|queue| queue.first_key_value())
            .map(|(_, oldest)| *oldest);
        let mut dropped: Vec<SessionId> = crowded
            .and_then(|oldest| self.remove(&oldest))
            .into_iter()
            .collect();
        while self.waiting.len() > config.max_waiting
            && let Some((_, &oldest)) = self.waiting.first_key_value()
        {
            dropped.extend(self.remove(&oldest));
        }
        dropped
    }
}

enum Verdict {
    Current,
    Previous,
    Retired,
    Wrong,
}

impl Entry {
    fn is_held_by(&self, lease: u64) -> bool {
        matches!(&self.hold, Hold::Attached { epoch, .. } if *epoch == lease)
    }

    fn is_expired(&self, config: &ResumeConfig, now: Instant) -> bool {
        matches!(self.hold, Hold::Waiting((since, _)) if now.saturating_duration_since(since) >= config.ttl)
    }

    fn is_orphaned(&self) -> bool {
        matches!(&self.hold, Hold::Attached { revoke, .. } if revoke.is_closed())
    }

    /// Compares with every token of this session, whatever the first comparison says.
    fn judge(&self, presented: &Digest, now: Instant) -> Verdict {
        let current = same(presented, &self.token);
        let previous = self
            .previous
            .as_ref()
            .map(|previous| (same(presented, &previous.token), previous.until));
        let retired = self
            .retired
            .iter()
            .fold(false, |found, token| found | same(presented, token));
        match (current, previous, retired) {
            (true, _, _) => Verdict::Current,
            (_, Some((true, until)), _) if now < until => Verdict::Previous,
            (_, Some((true, _)), _) | (_, _, true) => Verdict::Retired,
            _ => Verdict::Wrong,
        }
    }

    /// The current token was used, or passed over by a client that has none. With `grace` it may be presented until
    /// then once more.
    fn rotate(&mut self, next: Digest, grace: Option<Instant>) {
        if let Some(previous) = self.previous.take() {
            self.retire(previous.token);
        }
        let spent = std::mem::replace(&mut self.token, next);
        match grace {
            Some(until) => {
                self.previous = Some(Previous {
                    token: spent,
                    until,
                })
            }
            None => self.retire(spent),
        }
    }

    /// The spent token came again in its grace: the token issued for it never arrived, and must not from now on.
    fn rotate_again(&mut self, next: Digest) {
        let lost = std::mem::replace(&mut self.token, next);
        self.retire(lost);
    }

    fn retire(&mut self, token: Digest) {
        if self.retired.len() == RETIRED_TOKENS {
            self.retired.pop_front();
        }
        self.retired.push_back(token);
    }
}

impl From<RefusalCause> for Refused {
    fn from(cause: RefusalCause) -> Self {
        Self { cause }
    }
}
