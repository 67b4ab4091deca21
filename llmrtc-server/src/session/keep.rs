//! Sessions between two connections: their handles and what was said in them (B7).
//!
//! They wait in this process. Where conversations are stored they are written to the vault as well, after every turn, and
//! a client that comes back is looked for there first: after a restart, and on another node, its conversation goes on,
//! as far as it may be stored (E1): what was taken out is a tag for the model, too. Of two processes that hold a session
//! the one that wrote last has it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use llmrtc_core::{
    clock::Clock,
    history::HistorySnapshot,
    id::SessionId,
    session::{MemorySessions, Owner, SessionLimits, SessionStore},
    tasks::{Task, Tasks},
};
use llmrtc_security::{
    auth::{
        Principal,
        bind::Exposure,
        resume::{HandleId, HandleRecord, Recall, SessionHandles},
        ticket::TicketId,
    },
    vault::{Snapshot, SnapshotOf, Subject, Vault, VaultError, VaultSessions},
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Privacy;
use crate::config::Config;

/// How long a client that comes back, or a session that ends, waits for the vault. It goes on without: what was written
/// last is there.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);

/// All sessions of this process that could be taken up again.
pub(crate) struct Keep {
    pub(crate) handles: Arc<SessionHandles>,
    histories: MemorySessions<HistorySnapshot>,
    store: Option<VaultSessions<Kept>>,
    /// What of the store this process has read or written last.
    versions: Mutex<HashMap<SessionId, u64>>,
    clock: Arc<dyn Clock>,
}

/// A session in the vault.
#[derive(Serialize, Deserialize)]
struct Kept {
    handle: HandleRecord,
    history: HistorySnapshot,
    /// See [`Claim`].
    writer: u64,
}

/// The right of one connection to write its session.
#[derive(Clone, Copy)]
pub(super) struct Claim {
    /// What it has written last.
    version: u64,
    /// Tells its writes from those of others, where the answer to one was lost.
    writer: u64,
}

impl Claim {
    /// After what was written as `version`; 0 for a session that never was.
    fn after(version: u64) -> Self {
        let writer = rand::random();
        Self { version, writer }
    }

    /// Of a new session.
    pub(super) fn first() -> Self {
        Self::after(0)
    }
}

/// Another process has gone on with the session, or ended it.
pub(super) struct Superseded;

impl Keep {
    pub(crate) fn new(
        config: &Config,
        exposure: Exposure,
        vault: Option<&Arc<Vault>>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let sessions = &config.sessions;
        let limits = SessionLimits {
            ttl: sessions.ttl,
            total: sessions.max_waiting,
            per_principal: sessions.max_waiting_per_principal,
        };
        // The store has the sessions of connected clients as well.
        let connected = config.limits.sessions.per_user as usize;
        let stored = SessionLimits {
            total: limits.total.saturating_add(config.server.max_connections),
            per_principal: limits.per_principal.saturating_add(connected),
            ..limits
        };
        Self {
            handles: Arc::new(SessionHandles::new(config.resume(exposure))),
            histories: MemorySessions::new(limits, Arc::clone(&clock)),
            store: vault.map(|vault| VaultSessions::new(Arc::clone(vault), stored)),
            versions: Mutex::default(),
            clock,
        }
    }

    /// Whose session it is in the vault, if it may be kept there.
    fn subject(&self, caller: &Principal) -> Option<Subject> {
        self.store.as_ref().filter(|_| caller.grants.record)?;
        Subject::try_from(caller).ok()
    }

    /// Learns what other processes know of the session with this handle. Nothing of it is proof that the caller may
    /// have it: that is for the handles to say.
    pub(super) async fn recall(&self, handle: &str) {
        let Some(store) = &self.store else { return };
        let handle = HandleId::of(handle);
        self.learn(within(store.find(&handle)).await, Some(handle))
            .await;
    }

    async fn learn(
        &self,
        found: Result<Option<Snapshot<Kept>>, VaultError>,
        handle: Option<HandleId>,
    ) {
        let Snapshot { version, record } = match found {
            Ok(Some(snapshot)) => snapshot,
            Ok(None) => return self.missed(handle).await,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "stored sessions cannot be read");
                return;
            }
        };
        let handle = handle.or(record.as_ref().map(|kept| kept.handle.handle()));
        let Some(handle) = handle else { return };
        let known = self.handles.session_of(&handle);
        let known = known.and_then(|session_id| self.versions().get(&session_id).copied());
        if known.is_some_and(|known| known >= version) {
            return;
        }
        let Some(Kept {
            handle: record,
            history,
            ..
        }) = record
        else {
            if let Some(session_id) = self.handles.forget(&handle) {
                self.forget(session_id).await;
            }
            return;
        };
        let session_id = record.session_id();
        self.versions().insert(session_id, version);
        for pushed_out in self.handles.adopt(record, self.clock.now()) {
            self.forget(pushed_out).await;
        }
        self.remember(session_id, history).await;
    }

    /// The store does not have a session. If it had, its user was erased: nobody takes it up again from here either.
    async fn missed(&self, handle: Option<HandleId>) {
        let Some(handle) = handle else { return };
        let Some(session_id) = self.handles.waiting(&handle) else {
            return;
        };
        if self.versions().contains_key(&session_id) {
            self.handles.forget(&handle);
            self.forget(session_id).await;
        }
    }

    /// Keeps what was said for a client that comes back to this process.
    pub(super) async fn remember(&self, session_id: SessionId, history: HistorySnapshot) {
        // The handles have checked whose session it is and say when to forget it, so the store need not know.
        let owner = Owner::default();
        if let Err(error) = self.histories.put(session_id, &owner, history).await {
            report("history not kept", session_id, &error);
        }
    }

    /// What was said in a session that goes on, and writes down that it goes on here: other processes lose it, and the
    /// token that its client is about to get is the one that counts after a restart.
    pub(super) async fn take_up(
        &self,
        session_id: SessionId,
        handle: HandleId,
        caller: &Principal,
        privacy: &Privacy,
    ) -> Result<(Option<HistorySnapshot>, Claim), Superseded> {
        let history = self.histories.take(session_id, &Owner::default()).await;
        let history = history.unwrap_or_else(|error| {
            report("history not recovered", session_id, &error);
            None
        });
        if let Some(history) = &history {
            privacy.recall(history);
        }
        let mut claim = Claim::after(self.versions().get(&session_id).copied().unwrap_or(0));
        if let Some(subject) = self.subject(caller) {
            let said = history.as_ref().map(|history| privacy.stored(history));
            let said = said.unwrap_or_default();
            match self.write(&handle, &subject, &mut claim, said).await {
                Err(NotWritten::Superseded) => return Err(Superseded),
                // What is in the store then is older, and tells no lies.
                Ok(()) | Err(NotWritten::Failed) => {}
            }
        }
        Ok((history, claim))
    }

    async fn write(
        &self,
        handle: &HandleId,
        subject: &Subject,
        claim: &mut Claim,
        history: HistorySnapshot,
    ) -> Result<(), NotWritten> {
        let (Some(store), Some(record)) = (&self.store, self.handles.record(handle)) else {
            // It has ended in the meantime.
            return Err(NotWritten::Superseded);
        };
        let session_id = record.session_id();
        let of = SnapshotOf {
            handle: *handle,
            ticket: record.ticket(),
            session_id,
            subject: subject.clone(),
        };
        let kept = Kept {
            handle: record,
            history,
            writer: claim.writer,
        };
        let write = async {
            if let Some(version) = store.put(&of, claim.version, &kept).await? {
                return Ok(Some(version));
            }
            // An earlier write whose answer was lost is no other's.
            match store.find(handle).await? {
                Some(Snapshot {
                    version,
                    record: Some(kept_before),
                }) if kept_before.writer == claim.writer => store.put(&of, version, &kept).await,
                _ => Ok(None),
            }
        };
        match within(write).await {
            Ok(Some(version)) => {
                claim.version = version;
                self.versions().insert(session_id, version);
                Ok(())
            }
            Ok(None) => Err(NotWritten::Superseded),
            Err(error) => {
                report("session not stored", session_id, &error);
                Err(NotWritten::Failed)
            }
        }
    }

    /// Drops what this process keeps of a session, and what is stored of it unless another process goes on with it.
    pub(crate) async fn forget(&self, session_id: SessionId) {
        let _ = self.histories.remove(session_id).await;
        let version = self.versions().remove(&session_id);
        if let Some(version) = version {
            self.end_stored(session_id, Some(version)).await;
        }
    }

    /// Drops all sessions of a caller that wait for their client, and says how many there were.
    pub(crate) async fn end_waiting(&self, caller: &Principal) -> usize {
        let ended = self.handles.end_waiting(caller);
        for session_id in &ended {
            self.forget(*session_id).await;
        }
        ended.len()
    }

    /// Drops everything that is kept of a session, whoever goes on with it.
    pub(super) async fn end(&self, session_id: SessionId) {
        let _ = self.histories.remove(session_id).await;
        self.versions().remove(&session_id);
        self.end_stored(session_id, None).await;
    }

    async fn end_stored(&self, session_id: SessionId, version: Option<u64>) {
        let Some(store) = &self.store else { return };
        if let Err(error) = within(store.end(session_id, version)).await {
            report("session not forgotten", session_id, &error);
        }
    }

    /// Drops what waited for too long by `now`.
    pub(crate) async fn sweep(&self, now: Instant) {
        self.histories.sweep(now);
        for session_id in self.handles.sweep(now) {
            self.forget(session_id).await;
        }
    }

    fn versions(&self) -> MutexGuard<'_, HashMap<SessionId, u64>> {
        // No code panics between two changes of the map.
        self.versions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum NotWritten {
    Superseded,
    Failed,
}

async fn within<T>(work: impl Future<Output = Result<T, VaultError>>) -> Result<T, VaultError> {
    let result = tokio::time::timeout(STORE_TIMEOUT, work).await;
    result.unwrap_or(Err(VaultError::Timeout))
}

fn report(what: &str, session_id: SessionId, error: &(dyn std::error::Error + 'static)) {
    tracing::error!(session = %session_id.short(), error, "{what}");
}

#[async_trait]
impl Recall for Keep {
    async fn recall(&self, ticket: &TicketId) {
        let Some(store) = &self.store else { return };
        self.learn(within(store.find_by_ticket(ticket)).await, None)
            .await;
    }
}

/// Writes one session to the vault while it goes on. Of several snapshots that wait the newest counts.
pub(super) struct Saver {
    newest: watch::Sender<Option<HistorySnapshot>>,
    superseded: CancellationToken,
    task: Task<()>,
}

impl Saver {
    /// For a session that is this connection's; `None` if it is not to be stored.
    pub(super) fn start(
        keep: &Arc<Keep>,
        tasks: &Tasks,
        handle: HandleId,
        caller: &Principal,
        privacy: &Arc<Privacy>,
        mut claim: Claim,
    ) -> Option<Self> {
        let subject = keep.subject(caller)?;
        let (newest, mut news) = watch::channel::<Option<HistorySnapshot>>(None);
        let superseded = CancellationToken::new();
        let (keep, lost, privacy) = (Arc::clone(keep), superseded.clone(), Arc::clone(privacy));
        let task = tasks.spawn("saver", |_| async move {
            while news.changed().await.is_ok() {
                let Some(history) = news.borrow_and_update().clone() else {
                    continue;
                };
                let history = privacy.stored(&history);
                match keep.write(&handle, &subject, &mut claim, history).await {
                    // The next turn tries again.
                    Ok(()) | Err(NotWritten::Failed) => {}
                    Err(NotWritten::Superseded) => return lost.cancel(),
                }
            }
        });
        Some(Self {
            newest,
            superseded,
            task,
        })
    }

    /// Writes this as soon as what is being written is.
    pub(super) fn offer(&self, history: HistorySnapshot) {
        self.newest.send_replace(Some(history));
    }

    /// Completes when the session goes on in another process, or has ended there.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(super) async fn superseded(&self) {
        self.superseded.cancelled().await;
    }

    /// Waits until everything that was offered is written or cannot be.
    pub(super) async fn finish(self) -> Result<(), Superseded> {
        drop(self.newest);
        // Each write has its own deadline.
        let _ = self.task.await;
        match self.superseded.is_cancelled() {
            true => Err(Superseded),
            false => Ok(()),
        }
    }
}
