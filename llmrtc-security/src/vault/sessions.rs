//! Conversations waiting for their client, kept across a restart: [`SessionStore`] over the vault.

use std::{fmt, marker::PhantomData, sync::Arc};

use async_trait::async_trait;
use aws_lc_rs::digest;
use llmrtc_core::{
    id::SessionId,
    session::{Owner, SessionLimits, SessionStore, StoreError},
};
use serde::{Serialize, de::DeserializeOwned};
use zeroize::Zeroizing;

use super::{
    Subject, Vault, VaultError,
    db::statement,
    store::{Opener, place},
    types::count,
};

/// Sealed snapshots, bound to their [`Owner`].
///
/// [`Owner::principal`] is read by [`Subject::from_principal`], so that erasing the user erases their snapshots;
/// without a principal the snapshot belongs to [`Subject::anonymous`]. The limits mean what they mean in memory.
pub struct VaultSessions<R> {
    vault: Arc<Vault>,
    limits: SessionLimits,
    record: PhantomData<fn() -> R>,
}

impl<R> fmt::Debug for VaultSessions<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VaultSessions")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl<R> VaultSessions<R> {
    /// Keeps snapshots in `vault`, whose sweeper frees the expired ones.
    pub fn new(vault: Arc<Vault>, limits: SessionLimits) -> Self {
        Self {
            vault,
            limits,
            record: PhantomData,
        }
    }
}

fn subject(owner: &Owner) -> Result<Subject, VaultError> {
    match &owner.principal {
        Some(principal) => Subject::from_principal(principal),
        None => Ok(Subject::anonymous()),
    }
}

/// Stands for the owner in the table, and is bound to the content as well.
fn owner_digest(owner: &Owner) -> Vec<u8> {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in [&owner.principal, &owner.origin] {
        context.update(&[u8::from(part.is_some())]);
        let text = part.as_deref().unwrap_or_default();
        context.update(&(text.len() as u64).to_be_bytes());
        context.update(text.as_bytes());
    }
    context.finish().as_ref().to_vec()
}

fn field(owner: &[u8]) -> String {
    let hex: String = owner.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("snapshot:{hex}")
}

impl<R: Serialize + DeserializeOwned + Send + 'static> VaultSessions<R> {
    async fn try_put(&self, id: SessionId, owner: &Owner, record: R) -> Result<(), VaultError> {
        let vault = &self.vault;
        vault.advance_clock().await?;
        let subject = subject(owner)?;
        let content = Zeroizing::new(serde_json::to_vec(&record).map_err(VaultError::Content)?);
        let key = vault.data_key(&subject, id).await?;
        let (name, digest) = (id.to_string(), owner_digest(owner));
        let field = field(&digest);
        let sealed = place(&subject, id, &name, &field).seal(&key, &content)?;
        let ttl = i64::try_from(self.limits.ttl.as_millis()).unwrap_or(i64::MAX);
        let limit = |limit: usize| i64::try_from(limit).unwrap_or(i64::MAX);
        let mut statements = vec![statement!(
            "INSERT INTO vault_snapshots (id, tenant, subject, owner, expires, sealed)
             VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (id) DO UPDATE SET tenant = excluded.tenant, subject = excluded.subject,
                 owner = excluded.owner, expires = excluded.expires, sealed = excluded.sealed",
            &*name,
            subject.tenant_column(),
            subject.user(),
            digest,
            vault.now().saturating_add(ttl),
            sealed,
        )];
        if owner.principal.is_some() {
            statements.push(statement!(
                "DELETE FROM vault_snapshots WHERE tenant = $1 AND subject = $2 AND id <> $3 AND id NOT IN (
                     SELECT id FROM vault_snapshots WHERE tenant = $1 AND subject = $2 AND id <> $3
                     ORDER BY expires DESC, id LIMIT $4)",
                subject.tenant_column(),
                subject.user(),
                &*name,
                limit(self.limits.per_principal.saturating_sub(1)),
            ));
        }
        statements.push(statement!(
            "DELETE FROM vault_snapshots WHERE id IN (
                 SELECT id FROM vault_snapshots WHERE id <> $1
                 ORDER BY expires DESC, id LIMIT 100 OFFSET $2)",
            &*name,
            limit(self.limits.total.saturating_sub(1)),
        ));
        vault.records.transact(statements).await.map(drop)
    }

    async fn try_take(&self, id: SessionId, owner: &Owner) -> Result<Option<R>, VaultError> {
        let vault = &self.vault;
        let Ok(subject) = subject(owner) else {
            // Whoever has such a name put nothing in.
            return Ok(None);
        };
        // Before the row is taken, so that a master key out of reach does not cost the conversation.
        let user_key = vault.keys.key(&subject).await?;
        let (name, digest) = (id.to_string(), owner_digest(owner));
        let field = field(&digest);
        let delete = statement!(
            "DELETE FROM vault_snapshots WHERE id = $1 AND owner = $2 AND expires > $3 RETURNING sealed",
            &*name,
            digest,
            vault.now(),
        );
        let Some(row) = vault.records.row(delete).await? else {
            return Ok(None);
        };
        let mut opener = Opener {
            subject: &subject,
            user_key,
            opened: None,
        };
        let content = opener.open(&place(&subject, id, &name, &field), &row.blob(0)?)?;
        serde_json::from_slice(&content)
            .map(Some)
            .map_err(VaultError::Content)
    }
}

fn store_error(error: VaultError) -> StoreError {
    StoreError(error.into())
}

#[async_trait]
impl<R: Serialize + DeserializeOwned + Send + 'static> SessionStore<R> for VaultSessions<R> {
    async fn put(&self, id: SessionId, owner: &Owner, record: R) -> Result<(), StoreError> {
        self.try_put(id, owner, record).await.map_err(store_error)
    }

    async fn take(&self, id: SessionId, owner: &Owner) -> Result<Option<R>, StoreError> {
        self.try_take(id, owner).await.map_err(store_error)
    }

    async fn remove(&self, id: SessionId) -> Result<bool, StoreError> {
        let delete = statement!("DELETE FROM vault_snapshots WHERE id = $1", id.to_string());
        let deleted = self.vault.records.execute(delete).await;
        deleted.map(|rows| rows > 0).map_err(store_error)
    }

    async fn len(&self) -> Result<usize, StoreError> {
        let select = statement!(
            "SELECT COUNT(*) FROM vault_snapshots WHERE expires > $1",
            self.vault.now()
        );
        let row = self.vault.records.row(select).await.map_err(store_error)?;
        let rows = row.map_or(Ok(0), |row| row.int(0)).map_err(store_error)?;
        Ok(usize::try_from(count(rows)).unwrap_or(usize::MAX))
    }
}
