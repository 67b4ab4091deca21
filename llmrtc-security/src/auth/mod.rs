//! Who is calling. Decided at the HTTP upgrade, before anything is allocated for the caller.

pub mod api_key;
pub mod bind;
pub mod chain;
pub mod config;
mod digest;
pub mod grants;
#[cfg(feature = "jwt")]
pub mod jwt;
pub mod lifetime;
pub mod origin;
pub mod principal;
pub mod resume;
pub mod revocation;
pub mod ticket;

use std::{fmt, net::SocketAddr, time::Duration};

use async_trait::async_trait;
use llmrtc_core::redact::Secret;

pub use self::{
    grants::Grants,
    principal::{Credential, Method, Principal, PrincipalKind},
};
use self::{origin::Origin, ticket::SpentTicket};

/// Turns the credentials of a request into a principal.
///
/// Called after the Origin check and before anything is allocated for the caller. Implementations compare secrets in
/// constant time, answer every kind of wrong credential alike, and put no credential into an error; the reason in
/// [`Denied`] is for the audit log.
#[async_trait]
pub trait Authenticator: Send + Sync + 'static {
    /// Decides about one plain HTTP request, such as the one that asks for a ticket.
    ///
    /// # Errors
    /// The status that the request is refused with.
    ///
    /// # Cancel safety
    /// Dropping the future abandons the attempt. A single-use credential may be spent by then.
    async fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Principal, Rejection>;

    /// Decides about one WebSocket upgrade, before the 101. An upgrade has more ways to present credentials than a
    /// request, and more outcomes.
    ///
    /// # Errors
    /// The status that the upgrade is refused with, and the reason for the audit log.
    ///
    /// # Cancel safety
    /// As [`authenticate`](Self::authenticate).
    async fn admit(&self, credentials: &Credentials<'_>) -> Result<Access, Denied> {
        let granted = self.authenticate(credentials).await;
        granted.map(Access::Granted).map_err(Denied::from)
    }

    /// Decides about the first message of a socket that was let in with [`Access::Deferred`], and about a token that
    /// replaces the one of a running session. `credentials` are those of the upgrade.
    ///
    /// # Errors
    /// As [`admit`](Self::admit); close with 4401, or 4429 if it is about limits.
    ///
    /// # Cancel safety
    /// As [`authenticate`](Self::authenticate).
    async fn admit_message(
        &self,
        presented: Presented<'_>,
        credentials: &Credentials<'_>,
    ) -> Result<Access, Denied> {
        let _ = (presented, credentials);
        Err(Denied::from(Rejection::Unauthenticated))
    }

    /// Whether it lets anybody in who can reach the listener. [`bind::check`] asks this.
    fn is_open(&self) -> bool {
        false
    }
}

/// Compares a presented secret with the true one, in time that tells nothing about either (H8).
pub fn same_secret(presented: &str, secret: &Secret) -> bool {
    use self::digest::{same, sha256};
    same(
        &sha256(presented.as_bytes()),
        &sha256(secret.expose().as_bytes()),
    )
}

/// What an upgrade may do.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Access {
    /// Talk.
    Granted(Principal),
    /// Nothing was presented. The first message must be `auth`, within this time; until then nothing exists for the
    /// caller, and [`Authenticator::admit_message`] decides. Close with 4408 when the time is up.
    Deferred {
        /// How long to wait.
        within: Duration,
    },
    /// Take up the one session that this ticket opened. The first message must be `reconnect`, within this time, and
    /// [`SessionHandles::resume_spent`](resume::SessionHandles::resume_spent) decides; anything else closes the socket and
    /// is worth an audit event.
    ResumeOnly {
        /// Whose.
        ticket: SpentTicket,
        /// How long to wait.
        within: Duration,
    },
}

/// What a message presents.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub enum Presented<'a> {
    /// A JWT or an API key.
    Token(&'a str),
    /// A ticket.
    Ticket(&'a str),
}

impl fmt::Debug for Presented<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Token(_) => "Token",
            Self::Ticket(_) => "Ticket",
        })
    }
}

/// An upgrade that is refused. The client sees [`rejection`](Self::rejection), which has one form for every wrong
/// credential; the rest is for the audit log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{rejection}")]
#[non_exhaustive]
pub struct Denied {
    /// What the client is told.
    pub rejection: Rejection,
    /// What was presented, if anything was.
    pub method: Option<Method>,
    /// Why, from a closed set of names such as `jwt_expired`.
    pub reason: &'static str,
}

impl Denied {
    /// A refusal of what was presented, for this reason.
    pub fn new(rejection: Rejection, method: Option<Method>, reason: &'static str) -> Self {
        Self {
            rejection,
            method,
            reason,
        }
    }
}

impl From<Rejection> for Denied {
    fn from(rejection: Rejection) -> Self {
        let reason = match rejection {
            Rejection::Unauthenticated => "unauthenticated",
            Rejection::Forbidden => "forbidden",
            Rejection::RateLimited { .. } => "rate_limited",
            Rejection::Unavailable { .. } => "unavailable",
        };
        Self::new(rejection, None, reason)
    }
}

/// What a request presents. Plain values, so that no web framework is part of the contract.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct Credentials<'a> {
    /// The `Authorization` header, as received.
    pub authorization: Option<&'a str>,
    /// The `ticket` query parameter, percent-decoded.
    pub query_ticket: Option<&'a str>,
    /// The `token` query parameter, percent-decoded.
    pub query_token: Option<&'a str>,
    /// The protocols of `Sec-WebSocket-Protocol`, in the client's order.
    pub subprotocols: &'a [&'a str],
    /// The name in the client certificate that the connection itself was verified with.
    pub certificate: Option<&'a str>,
    /// The page that opened the socket; absent for clients that are no browsers. Already checked.
    pub origin: Option<&'a Origin>,
    /// The other end of the connection, or the client that a trusted proxy vouches for.
    pub peer: SocketAddr,
}

impl<'a> Credentials<'a> {
    /// A request from `peer` that presents nothing.
    pub fn none(peer: SocketAddr) -> Self {
        Self {
            authorization: None,
            query_ticket: None,
            query_token: None,
            subprotocols: &[],
            certificate: None,
            origin: None,
            peer,
        }
    }

    /// Adds the `Authorization` header.
    #[must_use]
    pub fn authorization(mut self, value: Option<&'a str>) -> Self {
        self.authorization = value;
        self
    }

    /// Adds the query parameter `ticket`.
    #[must_use]
    pub fn query_ticket(mut self, value: Option<&'a str>) -> Self {
        self.query_ticket = value;
        self
    }

    /// Adds the query parameter `token`.
    #[must_use]
    pub fn query_token(mut self, value: Option<&'a str>) -> Self {
        self.query_token = value;
        self
    }

    /// Adds the offered subprotocols.
    #[must_use]
    pub fn subprotocols(mut self, protocols: &'a [&'a str]) -> Self {
        self.subprotocols = protocols;
        self
    }

    /// Adds the name in the verified client certificate.
    #[must_use]
    pub fn certificate(mut self, name: Option<&'a str>) -> Self {
        self.certificate = name;
        self
    }

    /// Adds the checked Origin.
    #[must_use]
    pub fn origin(mut self, origin: Option<&'a Origin>) -> Self {
        self.origin = origin;
        self
    }
}

impl fmt::Debug for Credentials<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("authorization", &self.authorization.is_some())
            .field("query_ticket", &self.query_ticket.is_some())
            .field("query_token", &self.query_token.is_some())
            .field("subprotocols", &self.subprotocols.len())
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

/// Why an upgrade is refused, as far as the client may know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rejection {
    /// No credentials, or none that are valid.
    #[error("authentication required")]
    Unauthenticated,
    /// Valid credentials that do not allow this, or a foreign Origin.
    #[error("not allowed")]
    Forbidden,
    /// Too many attempts or too many sessions.
    #[error("too many requests")]
    RateLimited {
        /// When another attempt makes sense.
        retry_after: Duration,
    },
    /// The decision cannot be taken now: a store is down, the server is full or shutting down. Never treated as a yes.
    #[error("temporarily unavailable")]
    Unavailable {
        /// When another attempt makes sense.
        retry_after: Duration,
    },
}

impl Rejection {
    /// The HTTP status: 401, 403, 429 or 503.
    pub fn status(&self) -> u16 {
        match self {
            Self::Unauthenticated => 401,
            Self::Forbidden => 403,
            Self::RateLimited { .. } => 429,
            Self::Unavailable { .. } => 503,
        }
    }

    /// The value of `Retry-After` in whole seconds, rounded up: whoever waits exactly that long is not early.
    pub fn retry_after_secs(&self) -> Option<u64> {
        match self {
            Self::RateLimited { retry_after } | Self::Unavailable { retry_after } => {
                Some(retry_after.as_secs() + u64::from(retry_after.subsec_nanos() > 0))
            }
            Self::Unauthenticated | Self::Forbidden => None,
        }
    }
}

/// Lets callers in without credentials: for development on one's own machine.
///
/// By default only callers of the same machine, whatever address the listener is bound to.
#[derive(Clone, Copy, Debug)]
pub struct Open {
    anyone: bool,
}

impl Open {
    /// Callers on loopback only.
    pub fn loopback() -> Self {
        Self { anyone: false }
    }

    /// Everybody who can reach the listener. The operator asked for it by name (`--insecure-no-auth`).
    pub fn dangerous_anyone() -> Self {
        Self { anyone: true }
    }
}

#[async_trait]
impl Authenticator for Open {
    async fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Principal, Rejection> {
        if self.anyone || credentials.peer.ip().to_canonical().is_loopback() {
            Ok(Principal::anonymous())
        } else {
            Err(Rejection::Unauthenticated)
        }
    }

    fn is_open(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rejection_names_its_status_and_never_asks_to_come_back_early() {
        let ms = Duration::from_millis;
        let cases = [
            (Rejection::Unauthenticated, 401, None),
            (Rejection::Forbidden, 403, None),
            (Rejection::RateLimited { retry_after: ms(1) }, 429, Some(1)),
            (
                Rejection::RateLimited {
                    retry_after: ms(2_000),
                },
                429,
                Some(2),
            ),
            (
                Rejection::Unavailable {
                    retry_after: ms(2_001),
                },
                503,
                Some(3),
            ),
            (Rejection::Unavailable { retry_after: ms(0) }, 503, Some(0)),
        ];
        for (rejection, status, retry_after) in cases {
            assert_eq!(rejection.status(), status, "{rejection:?}");
            assert_eq!(rejection.retry_after_secs(), retry_after, "{rejection:?}");
        }
    }

    #[tokio::test]
    async fn open_mode_serves_this_machine_unless_the_danger_is_named() {
        let cases = [
            ("127.0.0.1:1", true),
            ("127.9.9.9:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("192.0.2.7:1", false),
            ("[::ffff:192.0.2.7]:1", false),
            ("[2001:db8::1]:1", false),
            ("0.0.0.0:1", false),
        ];
        for (peer, local) in cases {
            let credentials = Credentials::none(peer.parse().unwrap());
            let loopback = Open::loopback().authenticate(&credentials).await;
            assert_eq!(loopback.is_ok(), local, "{peer}");
            let anyone = Open::dangerous_anyone().authenticate(&credentials).await;
            assert_eq!(anyone, Ok(Principal::anonymous()), "{peer}");
        }
    }

    #[test]
    fn neither_credentials_nor_subjects_print() {
        let credentials = Credentials::none("127.0.0.1:1".parse().unwrap())
            .authorization(Some("Bearer canary"))
            .query_ticket(Some("canary"))
            .query_token(Some("canary"))
            .subprotocols(&["bearer.canary"]);
        let text = format!(
            "{credentials:?} {:?}",
            (
                Principal::user("canary@example.org", None),
                Presented::Token("canary")
            )
        );
        assert!(!text.contains("canary"), "{text}");
    }
}
