//! Sessions at the same time (D4).
//!
//! A session starts when it holds a place and ends when it loses it. Places are counted in memory, or in Redis for
//! all nodes together. Who opens one session too many replaces the user's oldest (by start): that one is told to end,
//! the new one waits until it has, so there are never more sessions than places. A node that dies takes its places with
//! it for one lease; a node that was paused finds its epoch fenced.
//!
//! While Redis is down a node counts alone, with `max(1, limit / nodes)` places per user, and keeps what it has; it
//! registers everything again once Redis is back, and what is then too much ends, oldest first. With
//! [`WhenSharedFails::FailClosed`] it admits nobody and ends sessions as their leases run out.

#[cfg(test)]
pub(super) mod sim;
pub(super) mod table;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use llmrtc_core::{duration, id::SessionId};
use serde::Deserialize;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;
use validator::{Validate, ValidationError};

#[cfg(feature = "redis")]
use self::table::Renewed;
use self::table::{Caps, Claimed, LeaseTable, Owner};
use super::config::{LimitsConfig, WhenSharedFails};
use crate::auth::{Principal, PrincipalKind, Rejection};

/// How often a waiting session asks again if no news arrives.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// When whoever finds no place may come back.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Renewals under way at a time.
#[cfg(feature = "redis")]
const RENEWALS: usize = 64;

/// How many sessions there may be at the same time, over all nodes.
#[derive(Clone, Debug, PartialEq, Deserialize, Validate)]
#[serde(default, deny_unknown_fields)]
#[validate(schema(function = "lease_outlives_its_renewal"))]
pub struct LeaseConfig {
    /// Most sessions of a user. Grants may name another number.
    #[validate(range(min = 1, max = 1_000))]
    pub per_user: u32,
    /// Most sessions of a tenant; absent for no limit.
    #[validate(range(min = 1))]
    pub per_tenant: Option<u32>,
    /// Most sessions of all; absent for no limit.
    #[validate(range(min = 1))]
    pub total: Option<u32>,
    /// What happens when a user opens one more.
    pub when_full: WhenFull,
    /// How long a place is kept for a node that does not answer; 1 s to 10 min.
    #[serde(with = "duration")]
    pub ttl: Duration,
    /// How often a node says that a session lives.
    #[serde(with = "duration")]
    pub renew: Duration,
    /// How long a new session waits for the one that it replaces to end.
    #[serde(with = "duration")]
    pub wait: Duration,
}

/// What happens when a user opens one session more than they may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// The session that started first ends.
    #[default]
    DisconnectOldest,
    /// The new one is refused.
    Reject,
}

impl Default for LeaseConfig {
    fn default() -> Self {
        Self {
            // A phone, a laptop and the tab somebody forgot.
            per_user: 3,
            per_tenant: None,
            total: None,
            when_full: WhenFull::DisconnectOldest,
            ttl: Duration::from_secs(30),
            // Two renewals may be lost.
            renew: Duration::from_secs(10),
            // Ending a call takes half a second; a node that hangs is not waited for.
            wait: Duration::from_secs(5),
        }
    }
}

fn lease_outlives_its_renewal(config: &LeaseConfig) -> Result<(), ValidationError> {
    let problem = |message: &'static str| {
        Err(ValidationError::new("inconsistent").with_message(message.into()))
    };
    if config.ttl < Duration::from_secs(1) || config.ttl > Duration::from_secs(600) {
        return problem("ttl must be between 1s and 10m");
    }
    if config.renew.is_zero() || config.renew * 2 > config.ttl {
        return problem("renew must be longer than zero and at most half of ttl");
    }
    if config.wait > Duration::from_secs(60) {
        return problem("wait must be at most 1m");
    }
    Ok(())
}

/// Why there is no place for a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum NoPlace {
    /// The user has as many sessions as they may.
    #[error("the user has too many sessions")]
    User,
    /// The user opened newer sessions meanwhile.
    #[error("newer sessions of the user took the place")]
    Replaced,
    /// The tenant has as many sessions as it may.
    #[error("the tenant has too many sessions")]
    Tenant,
    /// There are as many sessions as there may be.
    #[error("there are too many sessions")]
    Server,
    /// The session that should make room did not end in time.
    #[error("no place became free in time")]
    Late,
    /// Redis is down, and the operator chose to refuse then.
    #[error("the count of sessions is unavailable")]
    Unavailable,
}

impl NoPlace {
    /// The name in metrics and audit events.
    pub const fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Replaced => "replaced",
            Self::Tenant => "tenant",
            Self::Server => "server",
            Self::Late => "late",
            Self::Unavailable => "unavailable",
        }
    }
}

impl From<NoPlace> for Rejection {
    fn from(reason: NoPlace) -> Self {
        let retry_after = RETRY_AFTER;
        match reason {
            NoPlace::User | NoPlace::Replaced | NoPlace::Tenant => {
                Self::RateLimited { retry_after }
            }
            NoPlace::Server | NoPlace::Late | NoPlace::Unavailable => {
                Self::Unavailable { retry_after }
            }
        }
    }
}

/// Why a session has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum End {
    /// The user opened a newer one, or resumed this one elsewhere: close with 4409.
    Replaced,
    /// The lease ran out unnoticed, and the place is somebody else's.
    Superseded,
    /// The lease ran out while Redis could not be asked.
    Expired,
}

/// The sessions of this process and their places. Cloning shares them.
#[derive(Clone)]
pub struct Leases(Arc<Inner>);

struct Inner {
    config: LeaseConfig,
    nodes: u32,
    when_shared_fails: WhenSharedFails,
    state: Mutex<State>,
    /// What the table in memory counts time from.
    epoch: Instant,
    /// Somebody let go of a place.
    freed: Notify,
    /// There is something in `State::released`.
    #[cfg(feature = "redis")]
    released: Notify,
    #[cfg(feature = "redis")]
    shared: Option<Shared>,
}

#[cfg(feature = "redis")]
struct Shared {
    leases: super::redis_lease::RedisLeases,
    circuit: super::circuit::Circuit,
}

#[derive(Default)]
struct State {
    /// Used without Redis.
    table: LeaseTable,
    live: HashMap<SessionId, Live>,
    /// Waiting for Redis to hear of it; at most as many as there were sessions.
    #[cfg(feature = "redis")]
    released: Vec<(SessionId, Option<u64>, Owner, Caps)>,
}

/// A session that holds a place here.
struct Live {
    owner: Owner,
    caps: Caps,
    /// Absent if Redis does not know of it.
    epoch: Option<u64>,
    started: Instant,
    /// The lease runs out.
    #[cfg(feature = "redis")]
    deadline: Instant,
    end: watch::Sender<Option<End>>,
}

/// A place. Keep it as long as the session lives, resumed or not; dropping it gives it back.
#[must_use = "the place is given back on drop"]
pub struct Lease {
    id: SessionId,
    inner: Arc<Inner>,
    end: watch::Receiver<Option<End>>,
}

impl Lease {
    /// Waits until the session has to end. Then close it and drop the lease: the place is taken until then.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn ended(&self) -> End {
        let mut end = self.end.clone();
        match end.wait_for(Option::is_some).await {
            Ok(end) => end.unwrap_or(End::Expired),
            // The same session took the place again here.
            Err(_) => End::Superseded,
        }
    }

    /// The session.
    pub fn session(&self) -> SessionId {
        self.id
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Leases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leases")
            .field("live", &self.live())
            .finish_non_exhaustive()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut state = self.inner.lock();
        // Not if the session was claimed again here: then the place is the newer lease's.
        let ours = |live: &Live| live.end.subscribe().same_channel(&self.end);
        if !state.live.get(&self.id).is_some_and(ours) {
            return;
        }
        if let Some(live) = state.live.remove(&self.id) {
            self.inner
                .give_back(&mut state, self.id, live.epoch, live.owner, live.caps);
        }
        drop(state);
        self.inner.freed.notify_waiters();
    }
}

/// A claim that waits, given up on drop.
struct Waiting<'a> {
    inner: &'a Inner,
    id: SessionId,
    owner: &'a Owner,
    caps: Caps,
    armed: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.armed {
            let mut state = self.inner.lock();
            self.inner
                .give_back(&mut state, self.id, None, self.owner.clone(), self.caps);
        }
    }
}

impl Leases {
    /// Places of this process alone.
    pub fn new(config: &LimitsConfig) -> Self {
        Self(Arc::new(Inner::new(config)))
    }

    /// Places of all nodes that use this Redis. [`run`](Self::run) has to run.
    #[cfg(feature = "redis")]
    pub fn shared(config: &LimitsConfig, redis: crate::redis::Redis) -> Self {
        let mut inner = Inner::new(config);
        inner.shared = Some(Shared {
            leases: super::redis_lease::RedisLeases::new(redis),
            circuit: super::circuit::Circuit::default(),
        });
        Self(Arc::new(inner))
    }

    /// Takes a place for a session of `principal`. With [`WhenFull::DisconnectOldest`] it waits for the session that it
    /// replaces to end, for as long as [`LeaseConfig::wait`].
    ///
    /// `per_user` is the number that the grants name. Callers without an identity have none in common, so only the caps
    /// of tenant and server hold for them. A session that holds a place already, here or on another node, is told to end and
    /// waited for; it takes no second place. Whoever resumes a session of this process rather keeps its lease.
    ///
    /// # Errors
    /// Why there is no place.
    ///
    /// # Cancel safety
    /// Dropping the future gives the claim up; a place that was just taken comes back with its lease.
    pub async fn acquire(
        &self,
        id: SessionId,
        principal: &Principal,
        per_user: Option<u32>,
    ) -> Result<Lease, NoPlace> {
        let inner = &*self.0;
        let owner = owner(id, principal);
        let caps = inner.caps(per_user);
        let until = Instant::now() + inner.config.wait;
        let mut waiting = Waiting {
            inner,
            id,
            owner: &owner,
            caps,
            armed: true,
        };
        loop {
            // Before asking, so that no news is missed.
            let freed = inner.freed.notified();
            let asked = Instant::now();
            match inner.claim(id, &owner, &caps, Duration::ZERO).await {
                Some(Claimed::Held { epoch }) if asked.elapsed() < inner.config.ttl => {
                    waiting.armed = false;
                    return Ok(self.hold(id, owner.clone(), caps, Some(epoch), asked));
                }
                // The answer is older than the lease: this process was paused.
                Some(Claimed::Held { .. }) => continue,
                Some(Claimed::Waiting { evicted }) => inner.evict(&evicted),
                Some(Claimed::Refused(reason)) => {
                    waiting.armed = false;
                    return Err(reason);
                }
                None if inner.when_shared_fails == WhenSharedFails::FailClosed => {
                    return Err(NoPlace::Unavailable);
                }
                None => match inner.claim_alone(id, &owner, &caps) {
                    Ok(true) => {
                        waiting.armed = false;
                        return Ok(self.hold(id, owner.clone(), caps, None, asked));
                    }
                    Ok(false) => {}
                    Err(reason) => return Err(reason),
                },
            }
            let again = until.min(Instant::now() + ASK_AGAIN);
            if timeout_at(again, freed).await.is_err() && Instant::now() >= until {
                return Err(NoPlace::Late);
            }
        }
    }

    /// Ends a session of this process.
    pub fn end(&self, id: SessionId, end: End) {
        if let Some(live) = self.0.lock().live.get(&id) {
            live.tell(end);
        }
    }

    /// Sessions that hold a place here.
    pub fn live(&self) -> usize {
        self.0.lock().live.len()
    }

    /// Renews leases, listens to other nodes and tells them what is released, until the token is cancelled. Without Redis
    /// there is nothing to do.
    pub async fn run(&self, token: CancellationToken) {
        #[cfg(feature = "redis")]
        if let Some(shared) = &self.0.shared {
            let inner = &*self.0;
            let others = async {
                tokio::join!(inner.renewals(shared), inner.listen(shared));
            };
            tokio::join!(
                token.run_until_cancelled(others),
                inner.releases(shared, &token)
            );
            return;
        }
        token.cancelled().await;
    }

    fn hold(
        &self,
        id: SessionId,
        owner: Owner,
        caps: Caps,
        epoch: Option<u64>,
        asked: Instant,
    ) -> Lease {
        let (end, ended) = watch::channel(None);
        let live = Live {
            owner,
            caps,
            epoch,
            started: asked,
            #[cfg(feature = "redis")]
            deadline: asked + self.0.config.ttl,
            end,
        };
        self.0.lock().live.insert(id, live);
        Lease {
            id,
            inner: Arc::clone(&self.0),
            end: ended,
        }
    }
}

impl Live {
    fn tell(&self, end: End) {
        self.end.send_if_modified(|told| {
            let first = told.is_none();
            told.get_or_insert(end);
            first
        });
    }
}

impl Inner {
    fn new(config: &LimitsConfig) -> Self {
        Self {
            config: config.sessions.clone(),
            nodes: config.nodes.max(1),
            when_shared_fails: config.when_shared_fails,
            state: Mutex::default(),
            epoch: Instant::now(),
            freed: Notify::new(),
            #[cfg(feature = "redis")]
            released: Notify::new(),
            #[cfg(feature = "redis")]
            shared: None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing between changes that belong together can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn caps(&self, per_user: Option<u32>) -> Caps {
        Caps {
            per_user: per_user.unwrap_or(self.config.per_user).max(1),
            per_tenant: self.config.per_tenant,
            total: self.config.total,
            reject: self.config.when_full == WhenFull::Reject,
            ttl: micros(self.config.ttl),
        }
    }

    /// Asks who counts. Absent if Redis does not answer.
    async fn claim(
        &self,
        id: SessionId,
        owner: &Owner,
        caps: &Caps,
        age: Duration,
    ) -> Option<Claimed> {
        let name = id.to_string();
        #[cfg(feature = "redis")]
        if let Some(shared) = &self.shared {
            let claim = shared.leases.claim(&name, owner, caps, micros(age));
            return shared.ask(claim).await;
        }
        let mut state = self.lock();
        let now = micros(self.epoch.elapsed());
        // One process: its leases do not run out while it lives, so nobody has to renew them.
        let caps = Caps {
            ttl: u64::MAX / 4,
            ..*caps
        };
        Some(state.table.claim(&name, owner, &caps, micros(age), now))
    }

    /// Counts alone. `Ok(false)`: ask again when somebody has let go.
    fn claim_alone(&self, id: SessionId, owner: &Owner, caps: &Caps) -> Result<bool, NoPlace> {
        let share = |limit: u32| (limit / self.nodes).max(1) as usize;
        let state = self.lock();
        // The session itself does not count: it is taken over.
        let others = || {
            state
                .live
                .iter()
                .filter(|(other, _)| **other != id)
                .map(|(_, live)| live)
        };
        if caps
            .total
            .is_some_and(|total| others().count() >= share(total))
        {
            return Err(NoPlace::Server);
        }
        let of_tenant = others()
            .filter(|live| live.owner.tenant == owner.tenant)
            .count();
        if owner.tenant.is_some() && caps.per_tenant.is_some_and(|most| of_tenant >= share(most)) {
            return Err(NoPlace::Tenant);
        }
        let mut of_user: Vec<_> = others()
            .filter(|live| live.owner.user == owner.user)
            .collect();
        let most = share(caps.per_user);
        if of_user.len() < most {
            return Ok(true);
        }
        if caps.reject {
            return Err(NoPlace::User);
        }
        of_user.sort_by_key(|live| live.started);
        for oldest in &of_user[..=of_user.len() - most] {
            oldest.tell(End::Replaced);
        }
        Ok(false)
    }

    /// Tells sessions of this process that newer ones replace them.
    fn evict(&self, ids: &[String]) {
        let state = self.lock();
        for id in ids {
            let id = u128::from_str_radix(id, 16).map(SessionId::from_u128);
            if let Some(live) = id.ok().and_then(|id| state.live.get(&id)) {
                live.tell(End::Replaced);
            }
        }
    }

    /// Gives a place or a claim back to who counts.
    fn give_back(
        &self,
        state: &mut State,
        id: SessionId,
        epoch: Option<u64>,
        owner: Owner,
        caps: Caps,
    ) {
        #[cfg(feature = "redis")]
        if self.shared.is_some() {
            state.released.push((id, epoch, owner, caps));
            self.released.notify_one();
            return;
        }
        let _ = (owner, caps);
        let now = micros(self.epoch.elapsed());
        state.table.release(&id.to_string(), epoch, now);
    }
}

#[cfg(feature = "redis")]
impl Shared {
    /// Asks Redis, unless it did not answer a moment ago.
    async fn ask<T>(
        &self,
        question: impl Future<Output = Result<T, crate::redis::Unavailable>>,
    ) -> Option<T> {
        let now = Instant::now().into_std();
        if !self.circuit.may_ask(now) {
            return None;
        }
        match question.await {
            Ok(answer) => {
                self.circuit.succeeded();
                Some(answer)
            }
            Err(error) => {
                tracing::debug!(%error, "leases");
                self.circuit.failed(Instant::now().into_std());
                None
            }
        }
    }
}

#[cfg(feature = "redis")]
impl Inner {
    /// Renews what is held, and ends what is lost.
    async fn renewals(&self, shared: &Shared) {
        use futures_util::{StreamExt, stream};

        let mut due = Instant::now() + self.config.renew;
        loop {
            // While Redis is down, look for it more often: leases are running out.
            let pause = if shared.circuit.is_open() {
                ASK_AGAIN
            } else {
                self.config.renew
            };
            tokio::time::sleep_until(due.min(self.next_deadline())).await;
            due = Instant::now() + pause;
            let held: Vec<_> = {
                let state = self.lock();
                let live = state.live.iter();
                live.map(|(id, live)| {
                    (*id, live.epoch, live.owner.clone(), live.caps, live.started)
                })
                .collect()
            };
            stream::iter(held)
                .for_each_concurrent(RENEWALS, |(id, epoch, owner, caps, started)| async move {
                    self.renew(shared, id, epoch, &owner, &caps, started).await;
                })
                .await;
            self.expire();
        }
    }

    /// The earliest time at which a lease runs out that nobody may outlive.
    fn next_deadline(&self) -> Instant {
        let far = Instant::now() + self.config.ttl;
        if self.when_shared_fails == WhenSharedFails::FailLocal {
            return far;
        }
        let state = self.lock();
        let open = state
            .live
            .values()
            .filter(|live| live.end.borrow().is_none());
        open.map(|live| live.deadline).min().unwrap_or(far)
    }

    /// Ends the sessions whose leases ran out, if that is the policy.
    fn expire(&self) {
        if self.when_shared_fails == WhenSharedFails::FailLocal {
            return;
        }
        let now = Instant::now();
        for live in self
            .lock()
            .live
            .values()
            .filter(|live| live.deadline <= now)
        {
            live.tell(End::Expired);
        }
    }

    async fn renew(
        &self,
        shared: &Shared,
        id: SessionId,
        epoch: Option<u64>,
        owner: &Owner,
        caps: &Caps,
        started: Instant,
    ) {
        // From before the question: the lease runs no longer than that here.
        let asked = Instant::now();
        let name = id.to_string();
        let renewed = match epoch {
            Some(epoch) => {
                let renewal = shared.leases.renew(&name, epoch, owner, caps);
                match shared.ask(renewal).await {
                    Some(renewed) => renewed,
                    None => return,
                }
            }
            None => Renewed::Unknown,
        };
        let (epoch, end) = match renewed {
            Renewed::Held => (epoch, None),
            Renewed::Evicted => (epoch, Some(End::Replaced)),
            Renewed::Superseded => (epoch, Some(End::Superseded)),
            Renewed::Unknown if self.when_shared_fails == WhenSharedFails::FailClosed => {
                (epoch, Some(End::Expired))
            }
            // Redis lost it, or it began while Redis was down: it takes its place among the others by age.
            Renewed::Unknown => match self.claim(id, owner, caps, asked - started).await {
                None => return,
                Some(Claimed::Held { epoch }) => (Some(epoch), None),
                Some(Claimed::Waiting { evicted }) => {
                    let others: Vec<_> =
                        evicted.into_iter().filter(|other| *other != name).collect();
                    self.evict(&others);
                    (epoch, None)
                }
                Some(Claimed::Refused(_)) => (epoch, Some(End::Replaced)),
            },
        };
        let mut state = self.lock();
        let Some(live) = state
            .live
            .get_mut(&id)
            .filter(|live| live.started == started)
        else {
            // It ended meanwhile; what was claimed for it goes back.
            if epoch.is_some() {
                state.released.push((id, epoch, owner.clone(), *caps));
                self.released.notify_one();
            }
            return;
        };
        live.epoch = epoch;
        match end {
            None => live.deadline = asked + self.config.ttl,
            Some(end) => live.tell(end),
        }
    }

    /// Tells Redis what was given back, also by sessions that ended just before the token was cancelled.
    async fn releases(&self, shared: &Shared, token: &CancellationToken) {
        while token
            .run_until_cancelled(self.released.notified())
            .await
            .is_some()
        {
            self.release_all(shared).await;
        }
        self.release_all(shared).await;
    }

    /// What Redis does not hear of runs out by itself.
    async fn release_all(&self, shared: &Shared) {
        use futures_util::{StreamExt, stream};

        let released = std::mem::take(&mut self.lock().released);
        stream::iter(released)
            .for_each_concurrent(RENEWALS, |(id, epoch, owner, caps)| async move {
                let id = id.to_string();
                shared
                    .ask(shared.leases.release(&id, epoch, &owner, &caps))
                    .await;
            })
            .await;
    }

    /// Hears of evictions and free places; what it misses is found by asking again and by renewals.
    async fn listen(&self, shared: &Shared) {
        use futures_util::StreamExt;

        loop {
            if let Ok(mut subscriber) = shared.leases.redis().subscriber().await
                && subscriber.subscribe(shared.leases.channel()).await.is_ok()
            {
                let mut news = subscriber.on_message();
                while let Some(message) = news.next().await {
                    let text: String = message.get_payload().unwrap_or_default();
                    match text.split_once(' ') {
                        Some(("evict", id)) => self.evict(&[id.to_owned()]),
                        Some(("free", _)) => self.freed.notify_waiters(),
                        _ => {}
                    }
                }
            }
            tokio::time::sleep(ASK_AGAIN * 4).await;
        }
    }
}

/// Whose session, by names that tell nothing: the same on all nodes.
fn owner(id: SessionId, principal: &Principal) -> Owner {
    use super::policy::pseudonym;

    let tenant = principal.tenant.as_deref();
    let user = match principal.kind {
        PrincipalKind::Anonymous => pseudonym(&[b"session", id.to_string().as_bytes()]),
        PrincipalKind::User | PrincipalKind::Service => super::policy::user_pseudonym(principal),
    };
    Owner {
        user,
        tenant: tenant.map(|tenant| pseudonym(&[b"tenant", tenant.as_bytes()])),
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX / 4)
}
