//! Erasure with a receipt, and legal holds that forbid it (E3).

use std::time::SystemTime;

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use super::{
    Subject, Vault, VaultError,
    db::statement,
    retention::BATCH,
    types::{as_rfc3339, count, system_time},
};
use crate::crypto::KeyId;

/// Most characters of a hold's reason.
const MAX_REASON: usize = 500;

/// What an erasure did, for the audit log. It names nobody: the user stands there as a salted digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Receipt {
    /// Names the receipt.
    pub id: String,
    /// When.
    #[serde(serialize_with = "as_rfc3339")]
    pub at: SystemTime,
    /// `salt:SHA-256(salt, tenant, user)` in hexadecimal.
    pub subject: String,
    /// Conversations that had records.
    pub sessions: u64,
    /// Rows deleted.
    pub records: u64,
    /// Conversations that could have been taken up again, or have ended lately, that were deleted.
    pub snapshots: u64,
    /// The user key that was thrown away, if there was one.
    pub key_id: Option<String>,
    /// Its fingerprint, if the master key still opened it.
    pub key_fingerprint: Option<String>,
    /// SHA-256 over all of the above in hexadecimal, for the audit log to hold.
    pub digest: String,
}

#[derive(Serialize, Deserialize)]
struct Body {
    subject: String,
    sessions: u64,
    records: u64,
    snapshots: u64,
    key_id: Option<String>,
    key_fingerprint: Option<String>,
}

impl Receipt {
    fn new(id: String, at: i64, body: Body) -> Result<Self, VaultError> {
        let text = serde_json::to_string(&body).map_err(VaultError::Content)?;
        let digest = sha256(&[id.as_bytes(), &at.to_be_bytes(), text.as_bytes()]);
        Ok(Self {
            id,
            at: system_time(at),
            subject: body.subject,
            sessions: body.sessions,
            records: body.records,
            snapshots: body.snapshots,
            key_id: body.key_id,
            key_fingerprint: body.key_fingerprint,
            digest,
        })
    }

    /// Whether it is about this user.
    pub fn is_for(&self, subject: &Subject) -> bool {
        self.subject.split_once(':').is_some_and(|(salt, _)| {
            let expected = subject_digest(salt, subject);
            expected.as_bytes().ct_eq(self.subject.as_bytes()).into()
        })
    }
}

fn subject_digest(salt: &str, subject: &Subject) -> String {
    let parts = [salt, subject.tenant_column(), subject.user()].map(str::as_bytes);
    format!("{salt}:{}", sha256(&parts))
}

fn sha256(parts: &[&[u8]]) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let digest = context.finish();
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Vault {
    /// Removes everything of a user: first the key, which makes all of it unreadable wherever it is, then the rows.
    /// Done again after a crash, it finishes. End the user's sessions first: what they say afterwards is new data.
    ///
    /// # Errors
    /// [`VaultError::Held`] under a legal hold; otherwise when a database fails.
    pub async fn erase(&self, subject: &Subject) -> Result<Receipt, VaultError> {
        if self.hold_of(subject).await?.is_some() {
            return Err(VaultError::Held);
        }
        self.advance_clock().await?;
        let key = self.keys.shred(subject).await?;
        self.forget_data_keys(subject);
        let select = statement!(
            "SELECT COUNT(DISTINCT session) FROM vault_records WHERE tenant = $1 AND subject = $2",
            subject.tenant_column(),
            subject.user(),
        );
        let sessions = match self.records.row(select).await? {
            Some(row) => count(row.int(0)?),
            None => 0,
        };
        let records = self.delete_all("vault_records", subject).await?;
        let snapshots = self.delete_all("vault_snapshots", subject).await?;
        self.compact_records().await?;
        let (key_id, fingerprint) = key.unzip();
        let body = Body {
            subject: subject_digest(KeyId::random().as_str(), subject),
            sessions,
            records,
            snapshots,
            key_id: key_id.map(|id| id.to_string()),
            key_fingerprint: fingerprint.flatten().map(|print| print.to_string()),
        };
        let text = serde_json::to_string(&body).map_err(VaultError::Content)?;
        let receipt = Receipt::new(KeyId::random().to_string(), self.now(), body)?;
        let insert = statement!(
            "INSERT INTO vault_receipts (id, at, body) VALUES ($1, $2, $3)",
            &*receipt.id,
            super::types::millis(receipt.at),
            text,
        );
        self.records.execute(insert).await?;
        Ok(receipt)
    }

    /// In batches, so that a user with years of recordings does not outlast the deadline of a statement.
    async fn delete_all(&self, table: &'static str, subject: &Subject) -> Result<u64, VaultError> {
        let mut total = 0;
        loop {
            let delete = statement!(
                format!(
                    "DELETE FROM {table} WHERE id IN (
                         SELECT id FROM {table} WHERE tenant = $1 AND subject = $2 LIMIT $3)"
                ),
                subject.tenant_column(),
                subject.user(),
                BATCH,
            );
            let deleted = self.records.execute(delete).await?;
            total += deleted;
            if deleted == 0 {
                return Ok(total);
            }
        }
    }

    /// The receipts of past erasures, the latest first, at most `limit`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn receipts(&self, limit: u32) -> Result<Vec<Receipt>, VaultError> {
        let select = statement!(
            "SELECT id, at, body FROM vault_receipts ORDER BY at DESC, id LIMIT $1",
            i64::from(limit)
        );
        let rows = self.records.rows(select).await?;
        rows.iter()
            .map(|row| {
                let body = serde_json::from_str(&row.text(2)?).map_err(VaultError::Content)?;
                Receipt::new(row.text(0)?, row.int(1)?, body)
            })
            .collect()
    }

    /// Keeps a user's data from expiring and from being erased, until released. While it lasts, expired records that
    /// have not been swept are visible again: what must be kept must be producible.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn hold(&self, subject: &Subject, reason: &str) -> Result<(), VaultError> {
        let reason: String = reason.chars().filter(|c| !c.is_control()).take(MAX_REASON).collect();
        let upsert = statement!(
            "INSERT INTO vault_holds (tenant, subject, reason, placed) VALUES ($1, $2, $3, $4)
             ON CONFLICT (tenant, subject) DO UPDATE SET reason = excluded.reason",
            subject.tenant_column(),
            subject.user(),
            reason,
            self.now(),
        );
        self.records.execute(upsert).await.map(drop)
    }

    /// Lifts a hold, and says whether there was one.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn release(&self, subject: &Subject) -> Result<bool, VaultError> {
        let delete = statement!(
            "DELETE FROM vault_holds WHERE tenant = $1 AND subject = $2",
            subject.tenant_column(),
            subject.user(),
        );
        Ok(self.records.execute(delete).await? > 0)
    }

    /// Why a user's data is held, if it is.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn hold_of(&self, subject: &Subject) -> Result<Option<String>, VaultError> {
        let select = statement!(
            "SELECT reason FROM vault_holds WHERE tenant = $1 AND subject = $2",
            subject.tenant_column(),
            subject.user(),
        );
        let row = self.records.row(select).await?;
        row.map(|row| row.text(0)).transpose()
    }
}
