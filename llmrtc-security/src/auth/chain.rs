//! Every way to present credentials, in one [`Authenticator`] (B4).
//!
//! | | On an upgrade | |
//! | --- | --- | --- |
//! | 1 | ticket in the query (`?ticket=…`) | redeemed; spent, it may still lead to [`Access::ResumeOnly`] |
//! | 2 | `Authorization: Bearer …` | JWT or API key, for clients that are no browsers |
//! | 3 | token in the query (`?token=…`) | off by default; must end within a minute |
//! | 4 | subprotocol `bearer.…` beside the one to be spoken | JWT or API key |
//! | 5 | a client certificate, verified with the connection | off by default; the program that it names |
//! | 6 | nothing | [`Access::Deferred`]: the first message must be `auth` |
//!
//! The first that is presented decides; a wrong one is not made up for by another. Plain HTTP requests have only the
//! header and the certificate.
//!
//! A token is a JWT or an API key. Both are looked at in the same order for everybody, so neither the answer nor the work
//! tells which subjects, keys or issuers exist (H8).

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use llmrtc_core::clock::Clock;

#[cfg(feature = "jwt")]
use super::jwt::{JwtError, Verifiers};
use super::{
    Access, Authenticator, Credentials, Denied, Method, Presented, Principal, Rejection,
    api_key::ApiKeys,
    resume::{Recall, SessionHandles},
    revocation::Revocations,
    ticket::{RedeemError, Tickets},
};

/// How long a socket may stay silent before it shows who it is, or which session it wants back. A message of a client
/// that is there takes one round trip.
pub const FIRST_MESSAGE_WITHIN: Duration = Duration::from_secs(5);

/// Most life that a token in a URL may have left: URLs end up in logs, and are read there later.
pub const QUERY_TOKEN_MAX_LIFE: Duration = Duration::from_secs(60);

/// When to try again after a store or an issuer did not answer.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// What carries a token in `Sec-WebSocket-Protocol`. The server must answer with the other protocol, never with this.
pub const BEARER_PROTOCOL: &str = "bearer.";

/// The authenticator of a server that knows its callers.
pub struct Chain {
    clock: Arc<dyn Clock>,
    api_keys: ApiKeys,
    #[cfg(feature = "jwt")]
    jwt: Verifiers,
    tickets: Option<Tickets>,
    sessions: Option<Arc<SessionHandles>>,
    elsewhere: Option<Arc<dyn Recall>>,
    revocations: Option<Arc<Revocations>>,
    first_message: Option<Duration>,
    query_token: bool,
    subprotocol: bool,
    certificates: bool,
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chain")
            .field("tickets", &self.tickets)
            .field("first_message", &self.first_message)
            .field("query_token", &self.query_token)
            .field("subprotocol", &self.subprotocol)
            .finish_non_exhaustive()
    }
}

impl Chain {
    /// Lets nobody in yet. First messages and subprotocols may carry a token, URLs may not.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            api_keys: ApiKeys::new(),
            #[cfg(feature = "jwt")]
            jwt: Verifiers::default(),
            tickets: None,
            sessions: None,
            elsewhere: None,
            revocations: None,
            first_message: Some(FIRST_MESSAGE_WITHIN),
            query_token: false,
            subprotocol: true,
            certificates: false,
        }
    }

    /// Accepts these keys.
    #[must_use]
    pub fn api_keys(mut self, keys: ApiKeys) -> Self {
        self.api_keys = keys;
        self
    }

    /// Accepts tokens of these issuers.
    #[cfg(feature = "jwt")]
    #[must_use]
    pub fn jwt(mut self, verifiers: Verifiers) -> Self {
        self.jwt = verifiers;
        self
    }

    /// Accepts tickets, and with `sessions` spent ones for resuming.
    #[must_use]
    pub fn tickets(mut self, tickets: Tickets, sessions: Option<Arc<SessionHandles>>) -> Self {
        self.tickets = Some(tickets);
        self.sessions = sessions;
        self
    }

    /// Looks for the session of a spent ticket elsewhere, too.
    #[must_use]
    pub fn recall(mut self, elsewhere: Arc<dyn Recall>) -> Self {
        self.elsewhere = Some(elsewhere);
        self
    }

    /// Refuses what was revoked.
    #[must_use]
    pub fn revocations(mut self, revocations: Arc<Revocations>) -> Self {
        self.revocations = Some(revocations);
        self
    }

    /// How long to wait for a first message; `None` refuses upgrades without credentials at once.
    #[must_use]
    pub fn first_message(mut self, within: Option<Duration>) -> Self {
        self.first_message = within;
        self
    }

    /// Whether a URL may carry a token.
    #[must_use]
    pub fn query_token(mut self, allowed: bool) -> Self {
        self.query_token = allowed;
        self
    }

    /// Whether `Sec-WebSocket-Protocol` may carry one.
    #[must_use]
    pub fn subprotocol(mut self, allowed: bool) -> Self {
        self.subprotocol = allowed;
        self
    }

    /// Whether a verified client certificate says who calls.
    #[must_use]
    pub fn certificates(mut self, allowed: bool) -> Self {
        self.certificates = allowed;
        self
    }

    /// The tickets, for the route that mints them.
    pub fn ticket_office(&self) -> Option<&Tickets> {
        self.tickets.as_ref()
    }

    async fn bearer(&self, header: &str, now: SystemTime) -> Result<Principal, Denied> {
        match header.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => {
                self.token(token.trim_matches(' '), now).await
            }
            _ => Err(refused(None, "authorization_scheme")),
        }
    }

    async fn token(&self, token: &str, now: SystemTime) -> Result<Principal, Denied> {
        let principal = match self.api_keys.find(token) {
            Some(principal) => principal,
            None => self.verify(token, now).await?,
        };
        self.check_revoked(principal)
    }

    #[cfg(feature = "jwt")]
    async fn verify(&self, token: &str, now: SystemTime) -> Result<Principal, Denied> {
        self.jwt.verify(token, now).await.map_err(|error| {
            let rejection = match error {
                JwtError::KeysUnavailable => unavailable(),
                _ => Rejection::Unauthenticated,
            };
            Denied::new(rejection, Some(Method::Jwt), error.code())
        })
    }

    #[cfg(not(feature = "jwt"))]
    async fn verify(&self, _token: &str, _now: SystemTime) -> Result<Principal, Denied> {
        Err(refused(Some(Method::ApiKey), "api_key_unknown"))
    }

    async fn ticket(
        &self,
        ticket: &str,
        credentials: &Credentials<'_>,
        now: SystemTime,
    ) -> Result<Access, Denied> {
        let denied = |reason| refused(Some(Method::Ticket), reason);
        let Some(tickets) = &self.tickets else {
            return Err(denied("tickets_disabled"));
        };
        let (origin, address) = (credentials.origin, credentials.peer.ip());
        match tickets.redeem(ticket, origin, address, now).await {
            Ok(principal) => self.check_revoked(principal).map(Access::Granted),
            Err(RedeemError::Unknown(id)) => {
                if let Some(elsewhere) = &self.elsewhere {
                    elsewhere.recall(&id).await;
                }
                let spent = self
                    .sessions
                    .as_ref()
                    .and_then(|sessions| sessions.spent_ticket(&id, origin, self.clock.now()))
                    .ok_or_else(|| denied("ticket_unknown"))?;
                let expires_at = spent.principal().credential.expires_at;
                if expires_at.is_some_and(|end| now >= end) {
                    return Err(denied("ticket_expired"));
                }
                self.check_revoked(spent.principal().clone())?;
                Ok(Access::ResumeOnly {
                    ticket: spent,
                    within: FIRST_MESSAGE_WITHIN,
                })
            }
            Err(RedeemError::Unavailable(error)) => {
                tracing::error!(%error, "tickets cannot be redeemed");
                let method = Some(Method::Ticket);
                Err(Denied::new(
                    unavailable(),
                    method,
                    "ticket_store_unavailable",
                ))
            }
            Err(RedeemError::Malformed) => Err(denied("ticket_malformed")),
            Err(RedeemError::Expired) => Err(denied("ticket_expired")),
            Err(RedeemError::Origin) => Err(denied("ticket_origin")),
            Err(RedeemError::Address) => Err(denied("ticket_address")),
        }
    }

    async fn token_of_url(&self, token: &str, now: SystemTime) -> Result<Principal, Denied> {
        if !self.query_token {
            return Err(refused(None, "query_token_disabled"));
        }
        let principal = self.token(token, now).await?;
        let credential = &principal.credential;
        // A key without an end would stay good in every log that the URL is in.
        if credential
            .expires_at
            .is_none_or(|end| end > now + QUERY_TOKEN_MAX_LIFE)
        {
            return Err(refused(Some(credential.method), "query_token_too_long"));
        }
        Ok(principal)
    }

    /// The program that the connection's client certificate names.
    fn certificate(&self, credentials: &Credentials<'_>) -> Option<Result<Principal, Denied>> {
        let name = credentials.certificate.filter(|_| self.certificates)?;
        let mut principal = Principal::service(name, None);
        principal.credential.method = Method::Certificate;
        Some(self.check_revoked(principal))
    }

    fn check_revoked(&self, principal: Principal) -> Result<Principal, Denied> {
        match &self.revocations {
            Some(revocations) if revocations.is_revoked(&principal) => {
                Err(refused(Some(principal.credential.method), "revoked"))
            }
            _ => Ok(principal),
        }
    }
}

fn refused(method: Option<Method>, reason: &'static str) -> Denied {
    Denied::new(Rejection::Unauthenticated, method, reason)
}

fn unavailable() -> Rejection {
    Rejection::Unavailable {
        retry_after: RETRY_AFTER,
    }
}

#[async_trait]
impl Authenticator for Chain {
    async fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Principal, Rejection> {
        let principal = match credentials.authorization {
            Some(header) => self.bearer(header, self.clock.wall()).await,
            None => self
                .certificate(credentials)
                .ok_or(Rejection::Unauthenticated)?,
        };
        principal.map_err(|denied| denied.rejection)
    }

    async fn admit(&self, credentials: &Credentials<'_>) -> Result<Access, Denied> {
        let now = self.clock.wall();
        if let Some(ticket) = credentials.query_ticket {
            return self.ticket(ticket, credentials, now).await;
        }
        if let Some(header) = credentials.authorization {
            return self.bearer(header, now).await.map(Access::Granted);
        }
        if let Some(token) = credentials.query_token {
            return self.token_of_url(token, now).await.map(Access::Granted);
        }
        let mut protocols = credentials.subprotocols.iter();
        if let Some(token) = protocols.find_map(|name| name.strip_prefix(BEARER_PROTOCOL)) {
            if !self.subprotocol {
                return Err(refused(None, "subprotocol_disabled"));
            }
            return self.token(token, now).await.map(Access::Granted);
        }
        if let Some(principal) = self.certificate(credentials) {
            return principal.map(Access::Granted);
        }
        match self.first_message {
            Some(within) => Ok(Access::Deferred { within }),
            None => Err(refused(None, "nothing_presented")),
        }
    }

    async fn admit_message(
        &self,
        presented: Presented<'_>,
        credentials: &Credentials<'_>,
    ) -> Result<Access, Denied> {
        let now = self.clock.wall();
        match presented {
            Presented::Token(token) => self.token(token, now).await.map(Access::Granted),
            Presented::Ticket(ticket) => self.ticket(ticket, credentials, now).await,
        }
    }
}

#[cfg(test)]
mod tests;
