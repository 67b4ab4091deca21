//! The key store: one wrapped key per user, apart from the records (E3, E4).

use std::{sync::Arc, time::Duration};

use llmrtc_core::redact::Secret;

use super::{
    Subject, VaultError,
    db::{Database, Row, statement},
    schema,
    types::count,
};
use crate::crypto::{Fingerprint, KeyId, KeyWrapper, WrappedKey, shred::UserKey};

const TABLE: &str = "vault_user_keys";

#[derive(Debug)]
pub(super) struct KeyStore {
    database: Database,
    wrapper: Arc<dyn KeyWrapper>,
}

struct UserRow {
    key_id: KeyId,
    wrapped: WrappedKey,
}

impl UserRow {
    fn read(row: &Row, first: usize) -> Result<Self, VaultError> {
        Ok(Self {
            key_id: key_id(&row.text(first)?)?,
            wrapped: WrappedKey {
                key_id: key_id(&row.text(first + 1)?)?,
                bytes: row.blob(first + 2)?,
            },
        })
    }
}

fn key_id(text: &str) -> Result<KeyId, VaultError> {
    KeyId::try_from(text).map_err(|_| VaultError::Corrupt("key id"))
}

/// What a re-wrapping run did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct RewrapReport {
    /// User keys now under the current master key.
    pub rewrapped: u64,
    /// User keys still under another.
    pub remaining: u64,
}

impl KeyStore {
    pub(super) async fn open(
        url: &Secret,
        wrapper: Arc<dyn KeyWrapper>,
    ) -> Result<Self, VaultError> {
        let database = Database::connect(url).await?;
        database.migrate("keys", schema::KEYS).await?;
        Ok(Self { database, wrapper })
    }

    pub(super) async fn close(&self) {
        self.database.close().await;
    }

    async fn find(&self, subject: &Subject) -> Result<Option<UserRow>, VaultError> {
        let select = statement!(
            "SELECT key_id, kek_id, wrapped FROM vault_user_keys WHERE tenant = $1 AND subject = $2",
            subject.tenant_column(),
            subject.user(),
        );
        let row = self.database.row(select).await?;
        row.map(|row| UserRow::read(&row, 0)).transpose()
    }

    async fn unwrap(&self, subject: &Subject, row: &UserRow) -> Result<UserKey, VaultError> {
        let (wrapper, id) = (&*self.wrapper, row.key_id.clone());
        let key =
            UserKey::unwrap(wrapper, id, &row.wrapped, subject.tenant(), subject.user()).await?;
        Ok(key)
    }

    /// The name of the user's key, to see whether a data key still belongs to them.
    pub(super) async fn current(&self, subject: &Subject) -> Result<Option<KeyId>, VaultError> {
        Ok(self.find(subject).await?.map(|row| row.key_id))
    }

    /// The user's key. `None` when they have none, perhaps no longer.
    pub(super) async fn key(&self, subject: &Subject) -> Result<Option<UserKey>, VaultError> {
        match self.find(subject).await? {
            Some(row) => self.unwrap(subject, &row).await.map(Some),
            None => Ok(None),
        }
    }

    /// The user's key, made if need be, and re-wrapped if the master key has changed since.
    pub(super) async fn key_or_create(
        &self,
        subject: &Subject,
        now: i64,
    ) -> Result<UserKey, VaultError> {
        if self.find(subject).await?.is_none() {
            let key = UserKey::generate();
            let wrapped = key
                .wrap(&*self.wrapper, subject.tenant(), subject.user())
                .await?;
            // Another node may have been faster; its key counts.
            let insert = statement!(
                "INSERT INTO vault_user_keys (tenant, subject, key_id, kek_id, wrapped, used)
                 VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (tenant, subject) DO NOTHING",
                subject.tenant_column(),
                subject.user(),
                key.id().as_str(),
                wrapped.key_id.as_str(),
                wrapped.bytes,
                now,
            );
            self.database.execute(insert).await?;
        }
        let row = self
            .find(subject)
            .await?
            .ok_or(VaultError::Corrupt("user key: erased while in use"))?;
        let key = self.unwrap(subject, &row).await?;
        if row.wrapped.key_id != self.wrapper.current().await? {
            self.rewrap_row(subject, &row, &key).await?;
        }
        let touch = statement!(
            "UPDATE vault_user_keys SET used = $1 WHERE tenant = $2 AND subject = $3 AND used < $1",
            now,
            subject.tenant_column(),
            subject.user(),
        );
        self.database.execute(touch).await?;
        Ok(key)
    }

    /// Only if the row is still the one that was read.
    async fn rewrap_row(
        &self,
        subject: &Subject,
        row: &UserRow,
        key: &UserKey,
    ) -> Result<bool, VaultError> {
        let wrapped = key
            .wrap(&*self.wrapper, subject.tenant(), subject.user())
            .await?;
        let update = statement!(
            "UPDATE vault_user_keys SET kek_id = $1, wrapped = $2
             WHERE tenant = $3 AND subject = $4 AND key_id = $5 AND kek_id = $6",
            wrapped.key_id.as_str(),
            wrapped.bytes,
            subject.tenant_column(),
            subject.user(),
            row.key_id.as_str(),
            row.wrapped.key_id.as_str(),
        );
        Ok(self.database.execute(update).await? == 1)
    }

    /// Re-wraps up to `limit` keys. The rows themselves are the progress, so it goes on after a crash where it was.
    pub(super) async fn rewrap(&self, limit: u32) -> Result<RewrapReport, VaultError> {
        let current = self.wrapper.current().await?;
        let select = statement!(
            "SELECT tenant, subject, key_id, kek_id, wrapped FROM vault_user_keys
             WHERE kek_id <> $1 ORDER BY tenant, subject LIMIT $2",
            current.as_str(),
            i64::from(limit),
        );
        let mut report = RewrapReport::default();
        for row in self.database.rows(select).await? {
            let subject = read_subject(&row)?;
            let row = UserRow::read(&row, 2)?;
            match self.unwrap(&subject, &row).await {
                Ok(key) => {
                    let done = self.rewrap_row(&subject, &row, &key).await?;
                    report.rewrapped += u64::from(done);
                }
                Err(error) if error.is_transient() => return Err(error),
                // One lost key must not keep the others from being re-wrapped. It counts as remaining.
                Err(error) => tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "a user key does not open and stays as it is"
                ),
            }
        }
        let select = statement!(
            "SELECT COUNT(*) FROM vault_user_keys WHERE kek_id <> $1",
            current.as_str()
        );
        report.remaining = match self.database.row(select).await? {
            Some(row) => count(row.int(0)?),
            None => 0,
        };
        if report.remaining == 0 && report.rewrapped > 0 {
            // What the previous master key opened is gone from the file as well.
            self.compact().await?;
        }
        Ok(report)
    }

    /// How many user keys each master key wraps.
    pub(super) async fn usage(&self) -> Result<Vec<(KeyId, u64)>, VaultError> {
        let select = statement!(
            "SELECT kek_id, COUNT(*) FROM vault_user_keys GROUP BY kek_id ORDER BY kek_id"
        );
        let rows = self.database.rows(select).await?;
        rows.iter()
            .map(|row| Ok((key_id(&row.text(0)?)?, count(row.int(1)?))))
            .collect()
    }

    /// Drops the user's key: everything of theirs is unreadable from here on. Returns its name, and its fingerprint
    /// if the master key still opens it.
    pub(super) async fn shred(
        &self,
        subject: &Subject,
    ) -> Result<Option<(KeyId, Option<Fingerprint>)>, VaultError> {
        let delete = statement!(
            "DELETE FROM vault_user_keys WHERE tenant = $1 AND subject = $2
             RETURNING key_id, kek_id, wrapped",
            subject.tenant_column(),
            subject.user(),
        );
        let Some(row) = self.database.row(delete).await? else {
            return Ok(None);
        };
        let row = UserRow::read(&row, 0)?;
        let key = self.unwrap(subject, &row).await.ok();
        self.compact().await?;
        Ok(Some((row.key_id, key.map(|key| key.fingerprint()))))
    }

    /// Users whose key nobody has needed since `before`.
    pub(super) async fn idle(&self, before: i64, limit: i64) -> Result<Vec<Subject>, VaultError> {
        let select = statement!(
            "SELECT tenant, subject FROM vault_user_keys WHERE used < $1 ORDER BY used LIMIT $2",
            before,
            limit,
        );
        let rows = self.database.rows(select).await?;
        rows.iter().map(read_subject).collect()
    }

    /// Drops the key of a user without data, unless it was used meanwhile.
    pub(super) async fn forget(&self, subject: &Subject, before: i64) -> Result<u64, VaultError> {
        let delete = statement!(
            "DELETE FROM vault_user_keys WHERE tenant = $1 AND subject = $2 AND used < $3",
            subject.tenant_column(),
            subject.user(),
            before,
        );
        self.database.execute(delete).await
    }

    pub(super) async fn compact(&self) -> Result<bool, VaultError> {
        self.database.compact(TABLE).await
    }
}

/// A data key lives for a day, and its user key is marked when it is made; one more for clocks that disagree.
pub(super) const IDLE_MARGIN: Duration = Duration::from_secs(2 * 24 * 60 * 60);

pub(super) fn read_subject(row: &Row) -> Result<Subject, VaultError> {
    let (tenant, user) = (row.text(0)?, row.text(1)?);
    Subject::from_columns(&tenant, &user)
}
