//! What the server asks before it does something: which buckets a request is counted in, and what they say (D1–D3).

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

use aws_lc_rs::digest;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::HeaderMap;
use llmrtc_core::id::SessionId;
use tokio_util::sync::CancellationToken;

#[cfg(feature = "redis")]
use super::config::WhenSharedFails;
use super::{
    config::{ADDRESS, ClassConfig, DEFAULT_CLASS, Defaults, Limit, LimitsConfig, Scope, USER},
    gcra::{Decision, Quota},
    headers,
    rate::{Key, RateTable},
};
use crate::{
    auth::{Principal, PrincipalKind, Rejection},
    net::address::Networks,
};

/// How often [`Limits::run`] clears what is no longer used.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// When to come back while nobody can be asked: Redis is looked for at least this often.
#[cfg(feature = "redis")]
const UNAVAILABLE_RETRY: Duration = Duration::from_secs(5);

/// A limit per scope; absent for none.
type Quotas = [Option<Quota>; Scope::ALL.len()];

/// All limits of this process. Shared by reference.
#[derive(Debug)]
pub struct Limits {
    table: RateTable,
    exempt: Networks,
    auth_block: Duration,
    address: Quotas,
    network_factor: u32,
    classes: HashMap<String, Class>,
    default_class: Class,
    nodes: u32,
    #[cfg(feature = "redis")]
    when_shared_fails: WhenSharedFails,
    #[cfg(feature = "redis")]
    shared: Option<super::redis_rate::RedisRates>,
}

#[derive(Clone, Debug)]
struct Class {
    user: Quotas,
    tenant: Quotas,
    message: HashMap<String, Quota>,
}

/// Whom a request is counted for.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The client's address, as [`ProxyConfig::client`](crate::net::address::ProxyConfig::client) found it.
    pub address: IpAddr,
    /// Who it is, as far as that is verified.
    pub principal: Option<&'a Principal>,
    /// The session. Callers without an identity are counted by it.
    pub session: Option<SessionId>,
    /// The class that the grants name. An unknown one is the class `default`.
    pub class: Option<&'a str>,
}

impl<'a> Subject<'a> {
    /// Somebody of whom only the address is known.
    pub fn address(address: IpAddr) -> Self {
        Self {
            address,
            principal: None,
            session: None,
            class: None,
        }
    }

    /// Adds who it is.
    #[must_use]
    pub fn principal(mut self, principal: &'a Principal) -> Self {
        self.principal = Some(principal);
        self
    }

    /// Adds the session.
    #[must_use]
    pub fn session(mut self, session: SessionId) -> Self {
        self.session = Some(session);
        self
    }

    /// Adds the class that the grants name.
    #[must_use]
    pub fn class(mut self, class: Option<&'a str>) -> Self {
        self.class = class;
        self
    }
}

/// Which of its buckets decided about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Tier {
    /// That of the address, an IPv6 /64.
    Address,
    /// That of the IPv6 /48.
    Network,
    /// That of the user, or of the session of a caller without identity.
    User,
    /// That of the tenant.
    Tenant,
}

impl Tier {
    /// The name in metrics and audit events.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Network => "network",
            Self::User => "user",
            Self::Tenant => "tenant",
        }
    }
}

/// How a request stands with the tightest of its buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// What was counted.
    pub scope: Scope,
    /// Where.
    pub tier: Tier,
    /// How long the exhausted bucket takes to refill.
    pub window: Duration,
    /// What it says.
    pub decision: Decision,
}

impl Standing {
    /// Tells the client: `RateLimit`, `RateLimit-Policy`, and `Retry-After` after a refusal.
    pub fn apply(&self, headers: &mut HeaderMap) {
        headers::apply(headers, self.scope.name(), self.window, &self.decision);
    }
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Too much of it.
    #[error("rate limited")]
    Limited(Standing),
    /// Too many failed attempts to authenticate came from the address.
    #[error("temporarily blocked")]
    Blocked {
        /// When the block ends.
        retry_after: Duration,
    },
    /// Redis is down, and the operator chose to refuse then.
    #[error("limits are unavailable")]
    Unavailable {
        /// When another attempt makes sense.
        retry_after: Duration,
    },
}

impl Refusal {
    /// When another attempt makes sense. Absent if the request is larger than its bucket ever allows.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Limited(standing) => {
                Some(standing.decision.retry_after).filter(|wait| *wait != Duration::MAX)
            }
            Self::Blocked { retry_after } | Self::Unavailable { retry_after } => Some(*retry_after),
        }
    }

    /// Tells the client what it may know.
    pub fn apply(&self, headers: &mut HeaderMap) {
        match self {
            Self::Limited(standing) => standing.apply(headers),
            Self::Blocked { retry_after } | Self::Unavailable { retry_after } => {
                headers::retry_after(headers, *retry_after);
            }
        }
    }
}

impl From<Refusal> for Rejection {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Limited(standing) => Self::RateLimited {
                // The window for what never fits: a client that does not look must not come back at once.
                retry_after: standing.decision.retry_after.min(standing.window),
            },
            Refusal::Blocked { retry_after } => Self::RateLimited { retry_after },
            Refusal::Unavailable { retry_after } => Self::Unavailable { retry_after },
        }
    }
}

/// Names a bucket. Hashed before it is stored anywhere.
#[derive(Clone, Copy, Hash)]
enum Who<'a> {
    Address(IpAddr),
    /// The upper 48 bits.
    Network(u64),
    Session(SessionId),
    User(&'a Principal),
    Tenant(&'a str),
}

/// One bucket that a request is counted in.
struct Bucket<'a> {
    tier: Tier,
    scope: Scope,
    /// The type of message, for a limit by type.
    message: Option<&'a str>,
    who: Who<'a>,
    quota: Quota,
}

impl Limits {
    /// Limits of this process alone. `now` is the earliest time that it will be asked about.
    pub fn new(config: &LimitsConfig, now: Instant) -> Self {
        let default = config
            .classes
            .get(DEFAULT_CLASS)
            .cloned()
            .unwrap_or_default();
        let default_class = Class {
            user: merge(built_in(USER), &default.user),
            tenant: merge([None; Scope::ALL.len()], &default.tenant),
            message: messages(HashMap::new(), &default),
        };
        let named = config
            .classes
            .iter()
            .filter(|(name, _)| *name != DEFAULT_CLASS);
        let classes = named.map(|(name, class)| {
            let class = Class {
                user: merge(default_class.user, &class.user),
                tenant: merge(default_class.tenant, &class.tenant),
                message: messages(default_class.message.clone(), class),
            };
            (name.clone(), class)
        });
        Self {
            table: RateTable::new(config.max_keys, now),
            exempt: config.exempt.clone(),
            auth_block: config.auth_block,
            address: merge(built_in(ADDRESS), &config.address),
            network_factor: config.network_factor,
            classes: classes.collect(),
            default_class,
            nodes: config.nodes,
            #[cfg(feature = "redis")]
            when_shared_fails: config.when_shared_fails,
            #[cfg(feature = "redis")]
            shared: None,
        }
    }

    /// Shares the limits with all nodes that use this Redis, except those of [scopes](Scope::is_shared) that belong to a
    /// connection.
    #[cfg(feature = "redis")]
    #[must_use]
    pub fn shared(mut self, redis: crate::redis::Redis) -> Self {
        self.shared = Some(super::redis_rate::RedisRates::new(redis));
        self
    }

    /// Counts a request of `cost` in all buckets it belongs to, or in none if one of them refuses.
    ///
    /// Answers with the tightest bucket; with none if the request is not limited. Without Redis it decides at once.
    ///
    /// # Errors
    /// Why the request is refused.
    ///
    /// # Cancel safety
    /// Dropping the future abandons the decision. The cost may be counted by then.
    pub async fn check(
        &self,
        scope: Scope,
        subject: &Subject<'_>,
        cost: u32,
        now: Instant,
    ) -> Result<Option<Standing>, Refusal> {
        if matches!(scope, Scope::Http | Scope::Upgrade | Scope::Ticket) {
            let retry_after = self.blocked(subject.address, now);
            if !retry_after.is_zero() {
                return Err(Refusal::Blocked { retry_after });
            }
        }
        self.take(scope, None, subject, cost, now).await
    }

    /// Counts a WebSocket message, with all messages and with those of its type.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn message(
        &self,
        kind: &str,
        subject: &Subject<'_>,
        now: Instant,
    ) -> Result<Option<Standing>, Refusal> {
        let buckets = self.by_principal(Scope::Message, Some(kind), subject);
        self.take_here(&buckets, 1, now, false)
            .map_err(Refusal::Limited)
    }

    /// Counts what is known only afterwards: what was used beyond an estimate (positive) or less than it (negative).
    /// While Redis is down it is counted on this node.
    ///
    /// # Cancel safety
    /// Dropping the future may leave it uncounted.
    pub async fn charge(&self, scope: Scope, subject: &Subject<'_>, cost: i64, now: Instant) {
        for buckets in [
            self.by_address(scope, subject),
            self.by_principal(scope, None, subject),
        ] {
            self.charge_side(&buckets, cost, now).await;
        }
    }

    /// Counts a failed attempt to authenticate. When the address has used up its attempts, it is blocked: returns for
    /// how long, once, for the audit log.
    ///
    /// # Cancel safety
    /// Dropping the future may leave it uncounted.
    pub async fn auth_failed(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        let subject = Subject::address(address);
        let exhausted = match self.take(Scope::AuthFailure, None, &subject, 1, now).await {
            Ok(None) => false,
            Ok(Some(standing)) => standing.decision.remaining == 0,
            Err(_) => true,
        };
        (exhausted && self.blocked(address, now).is_zero()).then(|| {
            self.table
                .hold(self.block_key(address), self.auth_block, now);
            self.auth_block
        })
    }

    /// How long the address stays blocked after failed attempts to authenticate. Zero if it is not.
    pub fn blocked(&self, address: IpAddr, now: Instant) -> Duration {
        self.table.debt(self.block_key(address), now)
    }

    /// Buckets in memory.
    pub fn buckets(&self) -> usize {
        self.table.len()
    }

    /// Busy buckets that had to make room for others since the start.
    pub fn evicted(&self) -> u64 {
        self.table.evicted()
    }

    /// Forgets what is no longer used. Returns how many buckets are left.
    pub fn sweep(&self, now: Instant) -> usize {
        self.table.sweep(now)
    }

    /// Forgets what is no longer used every few seconds, until the token is cancelled.
    pub async fn run(&self, token: CancellationToken) {
        let mut every = tokio::time::interval(SWEEP_EVERY);
        while token.run_until_cancelled(every.tick()).await.is_some() {
            self.sweep(tokio::time::Instant::now().into_std());
        }
    }

    fn block_key(&self, address: IpAddr) -> Key {
        self.table.key(&("block", subscriber(address)))
    }

    async fn take(
        &self,
        scope: Scope,
        message: Option<&str>,
        subject: &Subject<'_>,
        cost: u32,
        now: Instant,
    ) -> Result<Option<Standing>, Refusal> {
        let by_address = self.by_address(scope, subject);
        let by_principal = self.by_principal(scope, message, subject);
        // Each side has a hash slot of its own, so each is asked separately; one that refuses gives back what the other took.
        let first = self.take_side(&by_address, cost, now).await?;
        let second = match self.take_side(&by_principal, cost, now).await {
            Ok(second) => second,
            Err(refusal) => {
                self.charge_side(&by_address, -i64::from(cost), now).await;
                return Err(refusal);
            }
        };
        Ok(first.into_iter().chain(second).min_by_key(tightness))
    }

    async fn take_side(
        &self,
        buckets: &[Bucket<'_>],
        cost: u32,
        now: Instant,
    ) -> Result<Option<Standing>, Refusal> {
        #[cfg(feature = "redis")]
        if let (Some(shared), Some(first)) = (&self.shared, buckets.first()) {
            let named: Vec<_> = buckets.iter().map(Bucket::shared).collect();
            return match shared.take(&first.tag(), &named, cost, now).await {
                Ok((taken, debts)) => {
                    let standings = buckets.iter().zip(debts);
                    settle(
                        taken,
                        standings
                            .map(|(bucket, debt)| bucket.standing(bucket.quota.decide(debt, cost))),
                    )
                    .map_err(Refusal::Limited)
                }
                Err(super::redis_rate::NoAnswer) => match self.when_shared_fails {
                    WhenSharedFails::FailLocal => self
                        .take_here(buckets, cost, now, true)
                        .map_err(Refusal::Limited),
                    WhenSharedFails::FailClosed => Err(Refusal::Unavailable {
                        retry_after: UNAVAILABLE_RETRY,
                    }),
                },
            };
        }
        self.take_here(buckets, cost, now, false)
            .map_err(Refusal::Limited)
    }

    /// Takes from all buckets or from none. `alone`: only this node's share of each.
    fn take_here(
        &self,
        buckets: &[Bucket<'_>],
        cost: u32,
        now: Instant,
        alone: bool,
    ) -> Result<Option<Standing>, Standing> {
        let mut standings = Vec::with_capacity(buckets.len());
        for (at, bucket) in buckets.iter().enumerate() {
            let (key, quota) = self.local(bucket, alone);
            let decision = self.table.take(key, &quota, cost, now);
            standings.push(bucket.standing(decision));
            if decision.allowed {
                continue;
            }
            for taken in &buckets[..at] {
                let (key, quota) = self.local(taken, alone);
                self.table.charge(key, &quota, -i64::from(cost), now);
            }
            // Whoever waits as told must pass all of them.
            for other in &buckets[at + 1..] {
                let (key, quota) = self.local(other, alone);
                let debt = self.table.debt(key, now).as_nanos();
                let debt = u64::try_from(debt).unwrap_or(u64::MAX);
                standings.push(other.standing(quota.decide(debt, cost)));
            }
            return settle(false, standings.into_iter());
        }
        settle(true, standings.into_iter())
    }

    async fn charge_side(&self, buckets: &[Bucket<'_>], cost: i64, now: Instant) {
        #[cfg(feature = "redis")]
        if let (Some(shared), Some(first)) = (&self.shared, buckets.first()) {
            let named: Vec<_> = buckets.iter().map(Bucket::shared).collect();
            if shared.charge(&first.tag(), &named, cost, now).await.is_ok() {
                return;
            }
        }
        for bucket in buckets {
            let (key, quota) = self.local(bucket, self.is_shared());
            self.table.charge(key, &quota, cost, now);
        }
    }

    fn is_shared(&self) -> bool {
        #[cfg(feature = "redis")]
        return self.shared.is_some();
        #[cfg(not(feature = "redis"))]
        false
    }

    fn local(&self, bucket: &Bucket<'_>, alone: bool) -> (Key, Quota) {
        let key = self.table.key(&(bucket.scope, bucket.message, bucket.who));
        (
            key,
            if alone {
                bucket.quota.share(self.nodes)
            } else {
                bucket.quota
            },
        )
    }

    fn by_address<'a>(&self, scope: Scope, subject: &Subject<'a>) -> Vec<Bucket<'a>> {
        let Some(quota) = self.address[scope as usize] else {
            return Vec::new();
        };
        if self.exempt.contain(subject.address) {
            return Vec::new();
        }
        let bucket = |tier, who, quota| Bucket {
            tier,
            scope,
            message: None,
            who,
            quota,
        };
        let address = subscriber(subject.address);
        let mut buckets = vec![bucket(Tier::Address, Who::Address(address), quota)];
        if let IpAddr::V6(address) = address {
            let network = Who::Network((address.to_bits() >> 80) as u64);
            buckets.push(bucket(
                Tier::Network,
                network,
                quota.times(self.network_factor),
            ));
        }
        buckets
    }

    fn by_principal<'a>(
        &self,
        scope: Scope,
        message: Option<&'a str>,
        subject: &Subject<'a>,
    ) -> Vec<Bucket<'a>> {
        let Some(principal) = subject.principal else {
            return Vec::new();
        };
        let named = subject.class.and_then(|name| self.classes.get(name));
        let class = named.unwrap_or(&self.default_class);
        let anonymous = principal.kind == PrincipalKind::Anonymous;
        let who = match subject.session {
            _ if !anonymous => Some(Who::User(principal)),
            Some(session) => Some(Who::Session(session)),
            None if self.exempt.contain(subject.address) => None,
            None => Some(Who::Address(subscriber(subject.address))),
        };
        let bucket = |tier, message, who, quota| Bucket {
            tier,
            scope,
            message,
            who,
            quota,
        };
        let mut buckets = Vec::new();
        if let Some(who) = who {
            let all = class.user[scope as usize];
            buckets.extend(all.map(|quota| bucket(Tier::User, None, who, quota)));
            if let Some((kind, quota)) =
                message.and_then(|kind| Some((kind, *class.message.get(kind)?)))
            {
                buckets.push(bucket(Tier::User, Some(kind), who, quota));
            }
        }
        if let (Some(tenant), Some(quota)) =
            (principal.tenant.as_deref(), class.tenant[scope as usize])
        {
            buckets.push(bucket(Tier::Tenant, None, Who::Tenant(tenant), quota));
        }
        buckets
    }
}

impl Bucket<'_> {
    fn standing(&self, decision: Decision) -> Standing {
        Standing {
            scope: self.scope,
            tier: self.tier,
            window: self.quota.window(),
            decision,
        }
    }
}

#[cfg(feature = "redis")]
mod shared_names {
    use super::*;

    impl Bucket<'_> {
        /// The hash slot: that of the /48 (or IPv4 address), or that of the tenant (or user without one), so that the
        /// buckets of one side are in one.
        pub(super) fn tag(&self) -> String {
            match self.who {
                Who::Address(IpAddr::V6(address)) if self.tier == Tier::Address => {
                    pseudonym(&[b"network", &address.octets()[..6]])
                }
                Who::User(Principal {
                    tenant: Some(tenant),
                    ..
                }) => pseudonym(&[b"tenant", tenant.as_bytes()]),
                who => who.pseudonym(),
            }
        }

        /// The name and what it holds.
        pub(super) fn shared(&self) -> (String, Quota) {
            let (scope, tier) = (self.scope.name(), self.tier.name());
            (
                format!("rate:{scope}:{tier}:{}", self.who.pseudonym()),
                self.quota,
            )
        }
    }

    impl Who<'_> {
        fn pseudonym(&self) -> String {
            match self {
                Self::Address(IpAddr::V4(address)) => pseudonym(&[b"address", &address.octets()]),
                Self::Address(IpAddr::V6(address)) => pseudonym(&[b"address", &address.octets()]),
                Self::Network(bits) => pseudonym(&[b"network", &bits.to_be_bytes()[2..]]),
                Self::Session(session) => pseudonym(&[b"session", session.to_string().as_bytes()]),
                Self::User(principal) => user_pseudonym(principal),
                Self::Tenant(tenant) => pseudonym(&[b"tenant", tenant.as_bytes()]),
            }
        }
    }
}

/// 128 bits of SHA-256: the same on all nodes, and no name can be read from a key. Lengths come before contents, so
/// that no two lists are alike.
pub(super) fn pseudonym(parts: &[&[u8]]) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    URL_SAFE_NO_PAD.encode(&context.finish().as_ref()[..16])
}

/// Names a user with an identity.
pub(super) fn user_pseudonym(principal: &Principal) -> String {
    let kind: &[u8] = match principal.kind {
        PrincipalKind::Service => b"service",
        PrincipalKind::User | PrincipalKind::Anonymous => b"user",
    };
    let tenant = principal.tenant.as_deref();
    pseudonym(&[
        kind,
        if tenant.is_some() { b"in" } else { b"" },
        tenant.unwrap_or_default().as_bytes(),
        principal.subject.as_bytes(),
    ])
}

/// The bucket to tell about: of those that refuse, the one that makes wait longest; else the fullest.
fn settle(
    taken: bool,
    standings: impl Iterator<Item = Standing>,
) -> Result<Option<Standing>, Standing> {
    if taken {
        return Ok(standings.min_by_key(tightness));
    }
    let mut worst: Option<Standing> = None;
    for mut standing in standings {
        // Shared clocks count microseconds.
        standing.decision.retry_after = whole_micros(standing.decision.retry_after);
        if worst.is_none_or(|worst| standing.decision.retry_after > worst.decision.retry_after) {
            worst = Some(standing);
        }
    }
    worst.map_or(Ok(None), Err)
}

fn whole_micros(wait: Duration) -> Duration {
    let nanos = u64::from(wait.subsec_nanos() % 1_000);
    if nanos == 0 || wait == Duration::MAX {
        wait
    } else {
        wait + Duration::from_nanos(1_000 - nanos)
    }
}

/// Thousandths of the bucket that are left.
fn tightness(standing: &Standing) -> u64 {
    let decision = &standing.decision;
    decision.remaining.saturating_mul(1_000) / decision.limit.max(1)
}

/// One subscriber: an IPv4 address, or the /64 that an IPv6 subscriber may choose addresses from.
pub(crate) fn subscriber(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(
            address.to_bits() & !u128::from(u64::MAX),
        )),
        address => address,
    }
}

fn built_in(defaults: Defaults) -> Quotas {
    let mut quotas = [None; Scope::ALL.len()];
    for (scope, text) in defaults {
        let limit: Limit = text.parse().expect("a test parses what is built in");
        quotas[*scope as usize] = limit.quota();
    }
    quotas
}

fn merge<'a>(
    mut quotas: Quotas,
    limits: impl IntoIterator<Item = (&'a Scope, &'a Limit)>,
) -> Quotas {
    for (scope, limit) in limits {
        quotas[*scope as usize] = limit.quota();
    }
    quotas
}

fn messages(mut quotas: HashMap<String, Quota>, class: &ClassConfig) -> HashMap<String, Quota> {
    for (kind, limit) in &class.message {
        match limit.quota() {
            Some(quota) => quotas.insert(kind.clone(), quota),
            None => quotas.remove(kind),
        };
    }
    quotas
}
