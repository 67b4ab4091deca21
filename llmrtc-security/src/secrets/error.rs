use std::{error::Error, sync::Arc, time::Duration};

use llmrtc_core::provider::Retry;

/// A secret could not be had. Says where and why; contains no value and nothing that a manager answered.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{origin}: {kind}")]
pub struct SecretError {
    origin: Arc<str>,
    kind: SecretErrorKind,
    #[source]
    cause: Option<Arc<dyn Error + Send + Sync>>,
}

/// Why a secret could not be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SecretErrorKind {
    /// Two places have different values (operator).
    #[error("set, and so is {other}, to something else; keep one")]
    Conflict {
        /// The other variable.
        other: String,
    },
    /// Something that begins like a reference is none (operator).
    #[error("not a reference to a secret: {0}")]
    Reference(&'static str),
    /// Nothing of this name is set (operator).
    #[error("not set")]
    NotSet,
    /// The file cannot be read (operator).
    #[error("cannot be read")]
    Unreadable,
    /// Nothing but white space is there (operator).
    #[error("empty")]
    Blank,
    /// Not text (operator).
    #[error("not UTF-8 text")]
    NotText,
    /// The secret manager is not configured, or not built in (operator).
    #[error("{0} is not configured or not part of this build")]
    NotConfigured(&'static str),
    /// The manager does not let us (operator).
    #[error("access denied")]
    Denied,
    /// The manager has no such secret or version (operator).
    #[error("does not exist")]
    NotFound,
    /// It did exist (operator).
    #[error("was deleted")]
    Deleted,
    /// The secret is an object without this key, or no object (operator).
    #[error("has no text under the key `{0}`")]
    NoKey(String),
    /// The manager refused the request for another reason (operator).
    #[error("refused with status {0}")]
    Refused(u16),
    /// Too many requests (manager).
    #[error("rate limited")]
    RateLimited(Option<Duration>),
    /// The manager is down or cannot be reached (manager or network).
    #[error("unavailable")]
    Unavailable,
    /// No answer in time (manager or network).
    #[error("no answer in time")]
    Timeout,
    /// The answer is not what the manager's documentation says, or was damaged on its way (manager or network).
    #[error("malformed answer: {0}")]
    Protocol(&'static str),
    /// Longer than a secret may be.
    #[error("longer than 64 KiB")]
    TooLarge,
}

impl SecretError {
    /// `origin` is a variable, a path or a reference.
    pub fn new(origin: impl Into<Arc<str>>, kind: SecretErrorKind) -> Self {
        Self {
            origin: origin.into(),
            kind,
            cause: None,
        }
    }

    /// Adds the cause, which must not contain the value either.
    #[must_use]
    pub fn with_cause(mut self, cause: impl Error + Send + Sync + 'static) -> Self {
        self.cause = Some(Arc::new(cause));
        self
    }

    /// Why.
    pub fn kind(&self) -> &SecretErrorKind {
        &self.kind
    }

    /// Where: a variable, a path or a reference.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Whether asking again may help.
    pub fn retry(&self) -> Retry {
        match self.kind {
            SecretErrorKind::RateLimited(asked) => Retry::After(asked),
            SecretErrorKind::Unavailable
            | SecretErrorKind::Timeout
            | SecretErrorKind::Protocol(_) => Retry::After(None),
            _ => Retry::Never,
        }
    }
}
