//! Who was let in, and what the proof of it was worth.

use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
    time::SystemTime,
};

use llmrtc_core::redact::Pii;
use serde::{Deserialize, Serialize};

use super::{grants::Grants, ticket::TicketId};

/// Somebody who was let in. Bound to the session for its whole life.
///
/// Two principals are equal if they are the same caller: subject, tenant and kind. What the caller may do and how long
/// the proof holds is no part of that, because a refreshed token speaks for the same person.
#[derive(Clone)]
pub struct Principal {
    /// Who, unique within the tenant. May be a mail address, so it prints as its length.
    pub subject: Arc<str>,
    /// Whose customer, where the deployment has tenants.
    pub tenant: Option<Arc<str>>,
    /// How the identity is known.
    pub kind: PrincipalKind,
    /// What the caller may use.
    pub grants: Arc<Grants>,
    /// The proof that was presented.
    pub credential: Credential,
}

impl Principal {
    /// Somebody without an identity: every caller of a server in open mode.
    pub fn anonymous() -> Self {
        Self::new("anonymous".into(), None, PrincipalKind::Anonymous)
    }

    /// A person, named by a verified token or ticket.
    pub fn user(subject: impl Into<Arc<str>>, tenant: Option<Arc<str>>) -> Self {
        Self::new(subject.into(), tenant, PrincipalKind::User)
    }

    /// A program, named by its key.
    pub fn service(subject: impl Into<Arc<str>>, tenant: Option<Arc<str>>) -> Self {
        Self::new(subject.into(), tenant, PrincipalKind::Service)
    }

    fn new(subject: Arc<str>, tenant: Option<Arc<str>>, kind: PrincipalKind) -> Self {
        Self {
            subject,
            tenant,
            kind,
            grants: Arc::default(),
            credential: Credential::default(),
        }
    }

    /// With these grants instead of the defaults.
    #[must_use]
    pub fn with_grants(mut self, grants: impl Into<Arc<Grants>>) -> Self {
        self.grants = grants.into();
        self
    }

    /// With this proof.
    #[must_use]
    pub fn with_credential(mut self, credential: Credential) -> Self {
        self.credential = credential;
        self
    }
}

impl PartialEq for Principal {
    fn eq(&self, other: &Self) -> bool {
        (&self.subject, &self.tenant, self.kind) == (&other.subject, &other.tenant, other.kind)
    }
}

impl Eq for Principal {}

impl Hash for Principal {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.subject, &self.tenant, self.kind).hash(state);
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Principal")
            .field("subject", &Pii(&self.subject))
            .field("tenant", &self.tenant)
            .field("kind", &self.kind)
            .field("method", &self.credential.method)
            .finish_non_exhaustive()
    }
}

/// How an identity is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PrincipalKind {
    /// It is not.
    Anonymous,
    /// By a token or ticket that speaks for a person.
    User,
    /// By a key that speaks for a program.
    Service,
}

/// The proof of an identity, without the proof itself.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Credential {
    /// What was presented.
    pub method: Method,
    /// The `jti` of the token, also of the one that a ticket was minted with. Revocation goes by it.
    pub token_id: Option<Arc<str>>,
    /// When the token was issued.
    pub issued_at: Option<SystemTime>,
    /// When it ends, without leeway. A ticket inherits it from the token that it was minted with.
    pub expires_at: Option<SystemTime>,
    /// The ticket that was redeemed. The session opened with it can be taken up again with it.
    pub ticket: Option<TicketId>,
}

/// What was presented.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Method {
    /// Nothing was, and nothing was needed.
    #[default]
    Open,
    /// A JSON Web Token.
    Jwt,
    /// An API key.
    ApiKey,
    /// A ticket.
    Ticket,
    /// A client certificate.
    Certificate,
}

impl Method {
    /// The name in the audit log and the metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Jwt => "jwt",
            Self::ApiKey => "api_key",
            Self::Ticket => "ticket",
            Self::Certificate => "certificate",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b7_a_refreshed_token_is_the_same_caller_and_another_tenant_is_not() {
        let caller = Principal::user("ann", Some("t1".into()));
        let refreshed = caller
            .clone()
            .with_grants(Grants {
                admin: true,
                ..Grants::default()
            })
            .with_credential(Credential {
                method: Method::Jwt,
                token_id: Some("2".into()),
                ..Credential::default()
            });
        assert_eq!(caller, refreshed);
        for other in [
            Principal::user("ann", None),
            Principal::user("ann", Some("t2".into())),
            Principal::user("bob", Some("t1".into())),
            Principal::service("ann", Some("t1".into())),
        ] {
            assert_ne!(caller, other);
        }
    }
}
