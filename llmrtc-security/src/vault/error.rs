use std::{io, path::PathBuf};

use llmrtc_core::provider::BoxError;

use crate::crypto::{
    WrapError,
    record::{OpenError, SealError},
};

/// The vault could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VaultError {
    /// Neither `sqlite:///path` nor `postgres://…`, or support for it was not built in.
    #[error("unsupported database URL: sqlite:///path/to/file or postgres://host/database")]
    UnsupportedUrl,
    /// The database file could not be made.
    #[error("cannot open database file {}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The database failed or is out of reach.
    #[error("vault database failed")]
    Database(#[source] BoxError),
    /// The database did not answer in time.
    #[error("vault database did not answer in time")]
    Timeout,
    /// A later program made these tables.
    #[error("vault tables are of version {version}; this program knows {known}")]
    Newer {
        /// What was found.
        version: i64,
        /// What is known.
        known: i64,
    },
    /// A row holds what this program never writes.
    #[error("vault holds a bad {0}")]
    Corrupt(&'static str),
    /// A user's name that cannot be one.
    #[error("a user or tenant has 1 to 512 bytes without control characters")]
    InvalidSubject,
    /// The user's data must be kept.
    #[error("user is under a legal hold")]
    Held,
    /// A key could not be wrapped or unwrapped.
    #[error("vault key failed")]
    Key(#[from] WrapError),
    /// A record could not be sealed.
    #[error("record was not sealed")]
    Seal(#[from] SealError),
    /// A record could not be opened.
    #[error("record was not opened")]
    Open(#[from] OpenError),
    /// A record's content could not be encoded or decoded.
    #[error("record has no such shape")]
    Content(#[source] serde_json::Error),
}

impl VaultError {
    /// Whether the same may succeed later: the database or the holder of the master key is out of reach.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Database(_) | Self::Timeout | Self::Key(WrapError::Unavailable(_))
        )
    }
}

impl From<sqlx::Error> for VaultError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}
