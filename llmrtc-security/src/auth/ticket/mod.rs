//! Tickets (B4): one connection for whoever holds one, for half a minute.
//!
//! Browsers cannot put a token into the header of a WebSocket upgrade, and a token in a URL ends up in logs. A ticket
//! can, because it is worth nothing there: 256 random bits, redeemed exactly once **before** the 101, bound to the
//! caller, the page and, if wanted, the address. The store keeps its SHA-256 and never the ticket, so a copy of the
//! store opens no door either.
//!
//! Whatever is wrong with a ticket, the answer is the same and the ticket is spent. A store that does not answer is
//! [`Unavailable`](RedeemError::Unavailable) and never a yes.
//!
//! A spent ticket is not worthless to its owner: see [`SpentTicket`].

mod memory;
#[cfg(feature = "redis")]
mod redis;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use llmrtc_core::redact::Secret;
use serde::{Deserialize, Serialize};

pub use self::memory::MemoryTickets;
#[cfg(feature = "redis")]
pub use self::redis::RedisTickets;
use super::{
    digest::{Digest, credential, sha256},
    grants::Grants,
    origin::Origin,
    principal::{Credential, Method, Principal, PrincipalKind},
};

/// How long a ticket waits to be redeemed. A page asks for one and connects with it at once; half a minute covers a bad
/// network.
pub const TTL: Duration = Duration::from_secs(30);

/// Names a ticket without being worth one: its SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TicketId(Digest);

impl TicketId {
    /// The name of this ticket; `None` for what cannot be one.
    pub fn of(ticket: &str) -> Option<Self> {
        // Exactly one spelling per ticket, so that a spent one cannot come back as another text.
        let bytes = URL_SAFE_NO_PAD.decode(ticket).ok()?;
        (bytes.len() == size_of::<Digest>()).then(|| Self(sha256(ticket.as_bytes())))
    }

    /// For the keys of a store.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for TicketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Enough to tell two tickets apart in a log.
        write!(f, "TicketId({:02x}{:02x})", self.0[0], self.0[1])
    }
}

/// Where tickets wait. Implementations keep the id and the record, and nothing to redeem them with.
#[async_trait]
pub trait TicketStore: Send + Sync + 'static {
    /// Keeps a ticket until it is taken or [`TicketRecord::redeem_before`] has passed.
    ///
    /// # Errors
    /// When it is not kept: the store is out of reach or full.
    async fn put(
        &self,
        id: &TicketId,
        record: &TicketRecord,
        now: SystemTime,
    ) -> Result<(), StoreUnavailable>;

    /// Takes a ticket out. Of any number of callers on any number of nodes, one gets it.
    ///
    /// # Errors
    /// When the store is out of reach. The ticket may be gone.
    ///
    /// # Cancel safety
    /// Dropping the future may lose the ticket.
    async fn take(
        &self,
        id: &TicketId,
        now: SystemTime,
    ) -> Result<Option<TicketRecord>, StoreUnavailable>;
}

/// The store did not do what was asked for.
#[derive(Debug, thiserror::Error)]
#[error("the ticket store is unavailable")]
pub struct StoreUnavailable(#[source] Option<Box<dyn std::error::Error + Send + Sync>>);

impl StoreUnavailable {
    /// Because of this.
    pub fn new(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(Some(source.into()))
    }

    /// Because it holds as much as it may.
    pub fn full() -> Self {
        Self(None)
    }
}

/// What a store keeps about a ticket. Opaque; serializable for stores outside of the process.
#[derive(Clone, Serialize, Deserialize)]
pub struct TicketRecord {
    #[serde(flatten)]
    bearer: Bearer,
    origin: Option<String>,
    address: Option<IpAddr>,
    redeem_before: SystemTime,
}

/// Whom a ticket speaks for, and for how long.
#[derive(Clone, Serialize, Deserialize)]
struct Bearer {
    subject: Arc<str>,
    tenant: Option<Arc<str>>,
    kind: PrincipalKind,
    grants: Arc<Grants>,
    token_id: Option<Arc<str>>,
    issued_at: Option<SystemTime>,
    expires_at: Option<SystemTime>,
}

impl From<&Principal> for Bearer {
    fn from(principal: &Principal) -> Self {
        let credential = &principal.credential;
        Self {
            subject: principal.subject.clone(),
            tenant: principal.tenant.clone(),
            kind: principal.kind,
            grants: principal.grants.clone(),
            token_id: credential.token_id.clone(),
            issued_at: credential.issued_at,
            expires_at: credential.expires_at,
        }
    }
}

impl Bearer {
    /// The caller who came with the ticket.
    fn with(self, ticket: TicketId) -> Principal {
        Principal {
            subject: self.subject,
            tenant: self.tenant,
            kind: self.kind,
            grants: self.grants,
            credential: Credential {
                method: Method::Ticket,
                token_id: self.token_id,
                issued_at: self.issued_at,
                expires_at: self.expires_at,
                ticket: Some(ticket),
            },
        }
    }
}

impl TicketRecord {
    /// When the ticket ends.
    pub fn redeem_before(&self) -> SystemTime {
        self.redeem_before
    }
}

impl fmt::Debug for TicketRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketRecord").finish_non_exhaustive()
    }
}

/// Mints and redeems tickets.
#[derive(Clone)]
pub struct Tickets {
    store: Arc<dyn TicketStore>,
    ttl: Duration,
    bind_address: bool,
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets")
            .field("ttl", &self.ttl)
            .field("bind_address", &self.bind_address)
            .finish_non_exhaustive()
    }
}

/// Who a ticket is for.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct TicketRequest<'a> {
    /// Who asks for it, as verified. The ticket speaks for the same caller, and for no longer than their credential.
    pub principal: &'a Principal,
    /// The page that will connect: the one that asks, or the one that a backend names. Check it first. `None` is for a
    /// client that is no browser, and then no page can use the ticket.
    pub origin: Option<&'a Origin>,
    /// Who asks, for deployments that bind tickets to addresses.
    pub address: Option<IpAddr>,
    /// Grants of the ticket, if fewer than those of the principal.
    pub grants: Option<&'a Grants>,
    /// Sessions that the caller has left. Narrows [`Grants::max_sessions`].
    pub remaining_sessions: Option<u32>,
}

impl<'a> TicketRequest<'a> {
    /// A ticket for this caller, from no page and from any address.
    pub fn new(principal: &'a Principal) -> Self {
        Self {
            principal,
            origin: None,
            address: None,
            grants: None,
            remaining_sessions: None,
        }
    }

    /// For this page.
    #[must_use]
    pub fn origin(mut self, origin: Option<&'a Origin>) -> Self {
        self.origin = origin;
        self
    }

    /// For this address.
    #[must_use]
    pub fn address(mut self, address: IpAddr) -> Self {
        self.address = Some(address);
        self
    }

    /// With at most these grants.
    #[must_use]
    pub fn grants(mut self, grants: &'a Grants) -> Self {
        self.grants = Some(grants);
        self
    }

    /// With at most so many sessions.
    #[must_use]
    pub fn remaining_sessions(mut self, sessions: u32) -> Self {
        self.remaining_sessions = Some(sessions);
        self
    }
}

/// Why a ticket opens nothing. Clients hear of [`Unavailable`](Self::Unavailable) (503); everything else is a 401.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RedeemError {
    /// Not the text of a ticket.
    #[error("not a ticket")]
    Malformed,
    /// Never minted, spent, or expired long ago.
    #[error("unknown or spent ticket")]
    Unknown(TicketId),
    /// Too late.
    #[error("ticket expired")]
    Expired,
    /// From another page than it was minted for.
    #[error("ticket of another origin")]
    Origin,
    /// From another address than it was minted for.
    #[error("ticket of another address")]
    Address,
    /// The store does not answer.
    #[error(transparent)]
    Unavailable(#[from] StoreUnavailable),
}

impl Tickets {
    /// Tickets in this store, for [`TTL`] and from any address.
    pub fn new(store: Arc<dyn TicketStore>) -> Self {
        Self {
            store,
            ttl: TTL,
            bind_address: false,
        }
    }

    /// With another time to live.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Whether the redeemer must have the minter's address (IPv4) or network (IPv6 /64). Off by default: a phone that
    /// changes networks, or prefers IPv6 for one connection and IPv4 for the next, has two.
    #[must_use]
    pub fn bind_address(mut self, bind: bool) -> Self {
        self.bind_address = bind;
        self
    }

    /// How long a ticket waits.
    pub fn time_to_live(&self) -> Duration {
        self.ttl
    }

    /// Mints a ticket.
    ///
    /// # Errors
    /// When the store does not keep it.
    pub async fn mint(
        &self,
        request: TicketRequest<'_>,
        now: SystemTime,
    ) -> Result<Secret, StoreUnavailable> {
        let (ticket, digest) = credential();
        let principal = request.principal;
        let mut grants = match request.grants {
            Some(grants) => Arc::new(principal.grants.narrowed(grants)),
            None => principal.grants.clone(),
        };
        if let Some(left) = request.remaining_sessions {
            let grants = Arc::make_mut(&mut grants);
            grants.max_sessions = Some(grants.max_sessions.map_or(left, |max| max.min(left)));
        }
        let record = TicketRecord {
            bearer: Bearer {
                grants,
                ..Bearer::from(principal)
            },
            origin: request.origin.map(|origin| origin.as_str().to_owned()),
            address: request
                .address
                .filter(|_| self.bind_address)
                .map(network_of),
            redeem_before: now + self.ttl,
        };
        self.store.put(&TicketId(digest), &record, now).await?;
        Ok(ticket)
    }

    /// Redeems a ticket. Whatever the outcome, unless the store is unavailable, it is spent.
    ///
    /// # Errors
    /// When it opens nothing.
    ///
    /// # Cancel safety
    /// Dropping the future may spend the ticket.
    pub async fn redeem(
        &self,
        ticket: &str,
        origin: Option<&Origin>,
        address: IpAddr,
        now: SystemTime,
    ) -> Result<Principal, RedeemError> {
        let id = TicketId::of(ticket).ok_or(RedeemError::Malformed)?;
        let record = self.store.take(&id, now).await?;
        let record = record.ok_or(RedeemError::Unknown(id))?;
        if now >= record.redeem_before || record.bearer.expires_at.is_some_and(|end| now >= end) {
            return Err(RedeemError::Expired);
        }
        if record.origin.as_deref() != origin.map(Origin::as_str) {
            return Err(RedeemError::Origin);
        }
        if record
            .address
            .is_some_and(|network| network != network_of(address))
        {
            return Err(RedeemError::Address);
        }
        Ok(record.bearer.with(id))
    }
}

/// The address itself, or the /64 that an IPv6 host chooses its addresses from (RFC 4291 §2.5.4).
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 => v4,
    }
}

/// The bearer of a ticket that is spent, and with which a session was opened that still lives.
///
/// The stock web client has one fixed URL, ticket included, for all of its automatic reconnects. So a spent ticket admits
/// its bearer to *resume-only* state and nothing else: the first message must be `reconnect` with the handle of that very
/// session, from the same Origin, in time. A stolen spent ticket without the handle gets nothing, and the other way
/// round.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(from = "KeptTicket", into = "KeptTicket")]
pub struct SpentTicket {
    pub(super) id: TicketId,
    pub(super) principal: Principal,
}

#[derive(Serialize, Deserialize)]
struct KeptTicket {
    id: Digest,
    bearer: Bearer,
}

impl From<KeptTicket> for SpentTicket {
    fn from(kept: KeptTicket) -> Self {
        let id = TicketId(kept.id);
        Self {
            id,
            principal: kept.bearer.with(id),
        }
    }
}

impl From<SpentTicket> for KeptTicket {
    fn from(ticket: SpentTicket) -> Self {
        Self {
            id: ticket.id.0,
            bearer: Bearer::from(&ticket.principal),
        }
    }
}

impl SpentTicket {
    /// Whose session it opened.
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// Which ticket.
    pub fn id(&self) -> TicketId {
        self.id
    }
}
