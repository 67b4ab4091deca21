//! Credentials that ended before their time (B8).
//!
//! Two kinds: one token by its `jti`, or everything that a subject was issued before a moment ("log out everywhere",
//! "leaked key"). Kept in memory, so asking costs two lookups and no round trip; `SharedRevocations` (feature
//! `redis`) keeps the memory of every node the same.
#[cfg(feature = "redis")]
mod redis;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use llmrtc_core::redact::Pii;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

#[cfg(feature = "redis")]
pub use self::redis::{POLL, RevokeError, SharedRevocations};
use super::principal::{Principal, PrincipalKind};

/// Revocations remembered. Each is a line that somebody caused by hand or by leaving; 100,000 within a token's lifetime is
/// an operator who should change the signing key.
const MAX_REVOCATIONS: usize = 100_000;

/// What is revoked.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Revocation {
    /// The token with this `jti`, and tickets and sessions that it opened.
    Token {
        /// The `jti`.
        token_id: Arc<str>,
    },
    /// Everything that this caller was issued until `not_before`.
    Subject {
        /// Who.
        subject: Arc<str>,
        /// Of which tenant.
        tenant: Option<Arc<str>>,
        /// A person or a program.
        kind: PrincipalKind,
        /// Credentials issued later are good. Those that do not say when are not: an API key is refused until the revocation
        /// is forgotten, so take it out of the configuration as well.
        not_before: SystemTime,
    },
}

impl std::fmt::Debug for Revocation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Token { token_id } => f.debug_tuple("Token").field(token_id).finish(),
            Self::Subject {
                subject, tenant, ..
            } => f
                .debug_struct("Subject")
                .field("subject", &Pii(subject))
                .field("tenant", tenant)
                .finish_non_exhaustive(),
        }
    }
}

impl Revocation {
    /// Everything that this caller was issued until now.
    pub fn of(principal: &Principal, now: SystemTime) -> Self {
        Self::Subject {
            subject: principal.subject.clone(),
            tenant: principal.tenant.clone(),
            kind: principal.kind,
            not_before: now,
        }
    }
}

/// No more revocations fit. Change the signing key instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the table of revocations is full")]
pub struct Full;

/// What this node knows to be revoked.
#[derive(Debug)]
pub struct Revocations {
    /// How long one counts: as long as the longest credential it can be about.
    retention: Duration,
    max: usize,
    table: RwLock<Table>,
    /// Counts changes, for those who watch.
    changed: watch::Sender<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Token(Arc<str>),
    Subject(PrincipalKind, Option<Arc<str>>, Arc<str>),
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    /// What was issued later is good. Means nothing for a token.
    not_before: SystemTime,
    /// When it may be forgotten.
    until: SystemTime,
}

type Table = HashMap<Key, Mark>;

impl Revocations {
    /// None yet. `retention` is the longest lifetime of a credential, leeway included: after that the revoked ones have
    /// ended by themselves.
    pub fn new(retention: Duration) -> Self {
        Self {
            retention,
            max: MAX_REVOCATIONS,
            table: RwLock::default(),
            changed: watch::Sender::new(0),
        }
    }

    /// Revokes on this node. To revoke on every node use `SharedRevocations`.
    ///
    /// # Errors
    /// When there are too many that still count.
    pub fn revoke(&self, revocation: Revocation, now: SystemTime) -> Result<(), Full> {
        let (key, not_before) = match revocation {
            Revocation::Token { token_id } => (Key::Token(token_id), now),
            Revocation::Subject {
                subject,
                tenant,
                kind,
                not_before,
            } => (Key::Subject(kind, tenant, subject), not_before),
        };
        let until = now + self.retention;
        {
            let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
            if table.len() >= self.max {
                table.retain(|_, mark| mark.until > now);
            }
            if table.len() >= self.max && !table.contains_key(&key) {
                return Err(Full);
            }
            let mark = table.entry(key).or_insert(Mark { not_before, until });
            // News travel by more than one way and may come late: a revocation is never taken back by an older one.
            mark.not_before = mark.not_before.max(not_before);
            mark.until = mark.until.max(until);
        }
        self.changed.send_modify(|count| *count += 1);
        Ok(())
    }

    /// Whether this caller's credential was revoked.
    pub fn is_revoked(&self, principal: &Principal) -> bool {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        if table.is_empty() {
            return false;
        }
        let credential = &principal.credential;
        let by_token = credential
            .token_id
            .as_ref()
            .is_some_and(|id| table.contains_key(&Key::Token(id.clone())));
        let subject = Key::Subject(
            principal.kind,
            principal.tenant.clone(),
            principal.subject.clone(),
        );
        let by_subject = table
            .get(&subject)
            .is_some_and(|mark| credential.issued_at.is_none_or(|at| at <= mark.not_before));
        by_token || by_subject
    }

    /// Completes when this caller's credential is revoked; at once if it is. For a session to wait on while it runs.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn revoked(&self, principal: &Principal) {
        let mut changed = self.changed.subscribe();
        // The channel lives as long as `self`, so waiting does not fail.
        let _ = changed.wait_for(|_| self.is_revoked(principal)).await;
    }

    /// How many are remembered.
    pub fn len(&self) -> usize {
        self.table
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
