//! Where conversations wait for their clients to come back.
//!
//! A connected session is owned by its task. When the connection drops, its record is put here; a client that
//! returns in time takes it out again. The store is generic over the record, so it knows nothing about histories.

mod memory;

use std::sync::Arc;

use async_trait::async_trait;

pub use self::memory::{MemorySessions, SessionLimits};
use crate::{id::SessionId, provider::BoxError};

/// Who may take a record out again: exactly who put it in.
///
/// Possession of an id is not enough, because ids appear in logs and events.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Owner {
    /// The authenticated principal, if there is one.
    pub principal: Option<Arc<str>>,
    /// The origin of the page, if the client sent one.
    pub origin: Option<Arc<str>>,
}

/// A store that could not be reached, or whose record cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("session store failed")]
pub struct StoreError(#[source] pub BoxError);

/// Keeps the records of sessions without a connection.
#[async_trait]
pub trait SessionStore<R: Send + 'static>: Send + Sync + 'static {
    /// Keeps a record from now on, replacing an earlier one of the same id.
    ///
    /// # Errors
    /// When the record could not be stored.
    async fn put(&self, id: SessionId, owner: &Owner, record: R) -> Result<(), StoreError>;

    /// Takes a record out. `None` when there is none, when it expired, and when it belongs to somebody else: a
    /// stranger cannot tell these apart, and cannot remove the record.
    ///
    /// # Errors
    /// When the store could not be asked.
    async fn take(&self, id: SessionId, owner: &Owner) -> Result<Option<R>, StoreError>;

    /// Forgets a record. Says whether there was one.
    ///
    /// # Errors
    /// When the store could not be asked.
    async fn remove(&self, id: SessionId) -> Result<bool, StoreError>;

    /// How many records are kept.
    ///
    /// # Errors
    /// When the store could not be asked.
    async fn len(&self) -> Result<usize, StoreError>;

    /// Whether nothing is kept.
    ///
    /// # Errors
    /// When the store could not be asked.
    async fn is_empty(&self) -> Result<bool, StoreError> {
        Ok(self.len().await? == 0)
    }
}
