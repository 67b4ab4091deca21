//! Conversations that can be taken up again after a restart and on another node (E4, B7).
//!
//! A row is written after every turn and read when a client comes back whose session this process does not know, or may
//! know in an old state. Rows carry a version, and a write names the version it follows: of two nodes that hold a session
//! the one that wrote last has it, and the other learns so from its next write. What ended stays as a row without
//! content until it expires, so that a late write cannot revive it.

use std::{fmt, marker::PhantomData, sync::Arc};

use llmrtc_core::{id::SessionId, session::SessionLimits};
use serde::{Serialize, de::DeserializeOwned};
use zeroize::Zeroizing;

use super::{
    Subject, Vault, VaultError,
    db::{Row, statement},
    store::{Opener, place},
    types::{count, session_id},
};
use crate::auth::{resume::HandleId, ticket::TicketId};

/// What a snapshot is sealed as.
const FIELD: &str = "snapshot";

/// Sealed snapshots of sessions. Whoever asks has to check that the caller may have them: a row is found by the handle
/// or the ticket, whose digests it is kept under.
pub struct VaultSessions<R> {
    vault: Arc<Vault>,
    limits: SessionLimits,
    record: PhantomData<fn() -> R>,
}

/// Which session, and whose. Erasing the subject erases the snapshot.
#[derive(Clone, Debug)]
pub struct SnapshotOf {
    /// What the client knows it by.
    pub handle: HandleId,
    /// The ticket that the client came with last, if it came with one.
    pub ticket: Option<TicketId>,
    /// What the server knows it by.
    pub session_id: SessionId,
    /// Whose words are in it.
    pub subject: Subject,
}

/// What was last written of a session.
#[derive(Debug, PartialEq, Eq)]
pub struct Snapshot<R> {
    /// To name in the next write.
    pub version: u64,
    /// The content; `None` when the session has ended.
    pub record: Option<R>,
}

impl<R> fmt::Debug for VaultSessions<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VaultSessions")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl<R: Serialize + DeserializeOwned> VaultSessions<R> {
    /// Keeps snapshots in `vault`, whose sweeper frees the expired ones. `limits`: a snapshot's life since it was written,
    /// and how many there may be; the oldest make room.
    pub fn new(vault: Arc<Vault>, limits: SessionLimits) -> Self {
        Self {
            vault,
            limits,
            record: PhantomData,
        }
    }

    /// Writes a snapshot that follows `version`, 0 for the first. Returns its own version, and `None` when another node
    /// has written or ended the session since.
    ///
    /// # Errors
    /// When it was not written.
    ///
    /// # Cancel safety
    /// Dropping the future leaves open whether it was written.
    pub async fn put(
        &self,
        of: &SnapshotOf,
        version: u64,
        record: &R,
    ) -> Result<Option<u64>, VaultError> {
        let vault = &self.vault;
        vault.advance_clock().await?;
        let content = Zeroizing::new(serde_json::to_vec(record).map_err(VaultError::Content)?);
        let key = vault.data_key(&of.subject, of.session_id).await?;
        let name = hex(of.handle.as_bytes());
        let sealed = place(&of.subject, of.session_id, &name, FIELD).seal(&key, &content)?;
        let written = self.write(of, &name, version, sealed).await?;
        if version == 0 && written.is_some() {
            self.make_room(of, &name).await?;
        }
        Ok(written)
    }

    /// Ends a session: nobody finds it again, and a node that holds it learns so from its next write. With `version` only
    /// if nobody has written since. Says whether it was ended by this.
    ///
    /// # Errors
    /// When it was not ended.
    pub async fn end(
        &self,
        session_id: SessionId,
        version: Option<u64>,
    ) -> Result<bool, VaultError> {
        let version = version.map_or(-1, |version| i64::try_from(version).unwrap_or(i64::MAX));
        let update = statement!(
            "UPDATE vault_snapshots SET version = version + 1, ticket = '', sealed = $2
             WHERE session = $1 AND LENGTH(sealed) > 0 AND ($3 = -1 OR version = $3)",
            session_id.to_string(),
            Vec::new(),
            version,
        );
        Ok(self.vault.records.execute(update).await? > 0)
    }

    /// What was last written of the session with this handle.
    ///
    /// # Errors
    /// When the database fails or the snapshot does not open.
    pub async fn find(&self, handle: &HandleId) -> Result<Option<Snapshot<R>>, VaultError> {
        self.read("id = $1", handle.as_bytes()).await
    }

    /// The same of the session whose client came with this ticket last.
    ///
    /// # Errors
    /// When the database fails or the snapshot does not open.
    pub async fn find_by_ticket(
        &self,
        ticket: &TicketId,
    ) -> Result<Option<Snapshot<R>>, VaultError> {
        self.read("ticket = $1", ticket.as_bytes()).await
    }

    /// How many sessions could be taken up again.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn count(&self) -> Result<u64, VaultError> {
        let select = statement!(
            "SELECT COUNT(*) FROM vault_snapshots WHERE expires > $1 AND LENGTH(sealed) > 0",
            self.vault.now()
        );
        let row = self.vault.records.row(select).await?;
        row.map_or(Ok(0), |row| Ok(count(row.int(0)?)))
    }

    async fn write(
        &self,
        of: &SnapshotOf,
        name: &str,
        version: u64,
        sealed: Vec<u8>,
    ) -> Result<Option<u64>, VaultError> {
        let follows = i64::try_from(version).unwrap_or(i64::MAX);
        let ttl = i64::try_from(self.limits.ttl.as_millis()).unwrap_or(i64::MAX);
        let upsert = statement!(
            "INSERT INTO vault_snapshots (id, session, ticket, tenant, subject, version, expires, sealed)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
             ON CONFLICT (id) DO UPDATE SET ticket = excluded.ticket, version = excluded.version,
                 expires = excluded.expires, sealed = excluded.sealed
             WHERE vault_snapshots.version = $9
             RETURNING version",
            name,
            of.session_id.to_string(),
            of.ticket.map(|ticket| hex(ticket.as_bytes())).unwrap_or_default(),
            of.subject.tenant_column(),
            of.subject.user(),
            follows.saturating_add(1),
            self.vault.now().saturating_add(ttl),
            sealed,
            follows,
        );
        let row = self.vault.records.row(upsert).await?;
        row.map(|row| row.int(0).map(count)).transpose()
    }

    /// The sessions written longest ago make room for a new one.
    async fn make_room(&self, of: &SnapshotOf, name: &str) -> Result<(), VaultError> {
        let limit = |limit: usize| i64::try_from(limit.saturating_sub(1)).unwrap_or(i64::MAX);
        let mut statements = Vec::new();
        if of.subject != Subject::anonymous() {
            statements.push(statement!(
                "DELETE FROM vault_snapshots WHERE tenant = $1 AND subject = $2 AND id <> $3 AND id NOT IN (
                     SELECT id FROM vault_snapshots WHERE tenant = $1 AND subject = $2 AND id <> $3
                     ORDER BY expires DESC, id LIMIT $4)",
                of.subject.tenant_column(),
                of.subject.user(),
                name,
                limit(self.limits.per_principal),
            ));
        }
        statements.push(statement!(
            "DELETE FROM vault_snapshots WHERE id IN (
                 SELECT id FROM vault_snapshots WHERE id <> $1
                 ORDER BY expires DESC, id LIMIT 100 OFFSET $2)",
            name,
            limit(self.limits.total),
        ));
        self.vault.records.transact(statements).await.map(drop)
    }

    /// The snapshot that has this digest in the column of `condition`.
    async fn read(
        &self,
        condition: &'static str,
        digest: &[u8],
    ) -> Result<Option<Snapshot<R>>, VaultError> {
        let select = statement!(
            format!(
                "SELECT id, session, tenant, subject, version, sealed FROM vault_snapshots
                 WHERE {condition} AND expires > $2"
            ),
            hex(digest),
            self.vault.now(),
        );
        let Some(row) = self.vault.records.row(select).await? else {
            return Ok(None);
        };
        let version = count(row.int(4)?);
        let sealed = row.blob(5)?;
        let record = match sealed.is_empty() {
            true => None,
            false => Some(self.open(&row, &sealed).await?),
        };
        Ok(Some(Snapshot { version, record }))
    }

    async fn open(&self, row: &Row, sealed: &[u8]) -> Result<R, VaultError> {
        let (name, session) = (row.text(0)?, session_id(&row.text(1)?)?);
        let subject = Subject::from_columns(&row.text(2)?, &row.text(3)?)?;
        let mut opener = Opener {
            user_key: self.vault.keys.key(&subject).await?,
            subject: &subject,
            opened: None,
        };
        let content = opener.open(&place(&subject, session, &name, FIELD), sealed)?;
        serde_json::from_slice(&content).map_err(VaultError::Content)
    }
}
