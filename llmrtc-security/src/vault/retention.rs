//! The sweeper: what has expired leaves the disk (E3).
//!
//! Any node may sweep; a row in the database lets one at a time. Work is done in batches, each a transaction of its
//! own, so a sweeper that dies has done what it has done, and the next one goes on once the lock has lapsed.

use std::{sync::Arc, time::Duration};

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::{
    Class, RetentionConfig, Subject, Vault, VaultError,
    db::{Database, Statement, statement},
    keys::IDLE_MARGIN,
    types::count,
};

/// Rows of one batch: short enough a transaction that the writer hardly waits.
pub(super) const BATCH: i64 = 500;
/// How long a sweeper owns the lock without renewing it. It is renewed with each batch, which takes a second at worst.
const LOCK_MS: i64 = 5 * 60 * 1000;
/// User keys that one sweep looks at, so that it ends.
const IDLE_KEYS: i64 = 1_000;
/// User keys re-wrapped by one turn of the upkeep.
const REWRAP: u32 = 1_000;
/// Attempts to empty the log while readers keep it.
const COMPACT_ATTEMPTS: u32 = 3;

/// What a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct SweepReport {
    /// Somebody else is sweeping; nothing was done.
    pub busy: bool,
    /// Records deleted.
    pub records: u64,
    /// Conversations whose client did not come back, deleted.
    pub snapshots: u64,
    /// Keys dropped of users without data.
    pub keys: u64,
    /// Whether nothing of the deleted rows is left in the file and its log. `false` if readers kept the log; the next
    /// sweep gets it. PostgreSQL reuses the space in its own time.
    pub compacted: bool,
}

/// Writes down how long what is kept, for tools that open the vault without the server's configuration.
pub(super) async fn remember(
    database: &Database,
    retention: &RetentionConfig,
) -> Result<(), VaultError> {
    let upsert = |class: Class| {
        let kept = i64::try_from(retention.of(class).as_millis()).unwrap_or(i64::MAX);
        statement!(
            "INSERT INTO vault_state (name, holder, value) VALUES ($1, '', $2)
             ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            format!("keep {class}"),
            kept,
        )
    };
    let statements = Class::ALL.map(upsert).into();
    database.transact(statements).await.map(drop)
}

/// Reads what was written down.
pub(super) async fn remembered(database: &Database) -> Result<RetentionConfig, VaultError> {
    let mut retention = RetentionConfig::default();
    for class in Class::ALL {
        let select = statement!(
            "SELECT value FROM vault_state WHERE name = $1",
            format!("keep {class}")
        );
        if let Some(row) = database.row(select).await? {
            *retention.of_mut(class) = Duration::from_millis(count(row.int(0)?));
        }
    }
    Ok(retention)
}

impl Vault {
    /// Deletes what has expired and gives the space back.
    ///
    /// # Errors
    /// When a database fails. What was deleted until then stays deleted.
    ///
    /// # Cancel safety
    /// When the future is dropped, whole batches have been deleted or none. Other nodes wait until the lock lapses.
    pub async fn sweep(&self) -> Result<SweepReport, VaultError> {
        self.advance_clock().await?;
        if !self.lock_sweep().await? {
            return Ok(SweepReport {
                busy: true,
                ..SweepReport::default()
            });
        }
        let mut report = SweepReport::default();
        for class in Class::ALL {
            report.records += self.sweep_batches(|vault, now| statement!(
                "DELETE FROM vault_records WHERE id IN (
                     SELECT id FROM vault_records r WHERE class = $1 AND at <= $2 AND NOT EXISTS (
                         SELECT 1 FROM vault_holds h WHERE h.tenant = r.tenant AND h.subject = r.subject)
                     LIMIT $3)",
                class.as_str(),
                vault.cutoff(class, now),
                BATCH,
            )).await?;
        }
        report.snapshots = self.sweep_batches(|_, now| statement!(
            "DELETE FROM vault_snapshots WHERE id IN (
                 SELECT id FROM vault_snapshots WHERE expires <= $1 LIMIT $2)",
            now,
            BATCH,
        )).await?;
        report.keys = self.sweep_keys().await?;
        report.compacted = self.compact_records().await?;
        let release = statement!(
            "UPDATE vault_state SET value = 0 WHERE name = 'sweep' AND holder = $1",
            &*self.node,
        );
        self.records.execute(release).await?;
        Ok(report)
    }

    async fn sweep_batches(
        &self,
        delete: impl Fn(&Self, i64) -> Statement,
    ) -> Result<u64, VaultError> {
        let mut total = 0;
        loop {
            let deleted = self.records.execute(delete(self, self.now())).await?;
            total += deleted;
            // Another sweeper has taken over if this one was stopped for too long. Then it is theirs to finish.
            if deleted == 0 || !self.lock_sweep().await? {
                return Ok(total);
            }
        }
    }

    /// Takes or renews the lock. One that claims to last absurdly long was set by a clock that ran ahead.
    pub(super) async fn lock_sweep(&self) -> Result<bool, VaultError> {
        let now = self.now();
        let upsert = statement!(
            "INSERT INTO vault_state (name, holder, value) VALUES ('sweep', $1, $2)
             ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, value = excluded.value
             WHERE vault_state.holder = excluded.holder OR vault_state.value <= $3 OR vault_state.value > $4",
            &*self.node,
            now.saturating_add(LOCK_MS),
            now,
            now.saturating_add(2 * LOCK_MS),
        );
        Ok(self.records.execute(upsert).await? == 1)
    }

    /// Forgets who has been here once everything of theirs is gone.
    async fn sweep_keys(&self) -> Result<u64, VaultError> {
        let kept = self.retention.longest() + IDLE_MARGIN;
        let kept = i64::try_from(kept.as_millis()).unwrap_or(i64::MAX);
        let before = self.now().saturating_sub(kept);
        let mut forgotten = 0;
        for subject in self.keys.idle(before, IDLE_KEYS).await? {
            if !self.has_data(&subject).await? {
                forgotten += self.keys.forget(&subject, before).await?;
            }
        }
        if forgotten > 0 {
            self.keys.compact().await?;
        }
        Ok(forgotten)
    }

    async fn has_data(&self, subject: &Subject) -> Result<bool, VaultError> {
        let select = statement!(
            "SELECT 1 FROM vault_records WHERE tenant = $1 AND subject = $2
             UNION ALL SELECT 1 FROM vault_snapshots WHERE tenant = $1 AND subject = $2
             LIMIT 1",
            subject.tenant_column(),
            subject.user(),
        );
        Ok(self.records.row(select).await?.is_some())
    }

    pub(super) async fn compact_records(&self) -> Result<bool, VaultError> {
        for _ in 0..COMPACT_ATTEMPTS {
            if self.records.compact("vault_records").await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Sweeps and re-wraps every [`sweep_interval`](super::RetentionConfig::sweep_interval), starting now, until it is
    /// cancelled. `swept` hears of every sweep of this node, for the audit log. A failure is logged and tried again at
    /// the next turn.
    pub async fn maintain(
        self: Arc<Self>,
        cancel: CancellationToken,
        mut swept: impl FnMut(&SweepReport) + Send,
    ) {
        let mut turns = tokio::time::interval(self.retention.sweep_interval.max(MIN_INTERVAL));
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                _ = turns.tick() => {}
            }
            let work = async {
                match self.sweep().await {
                    Ok(report) if report.busy => {}
                    Ok(report) => swept(&report),
                    Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "retention sweep failed"),
                }
                if let Err(error) = self.rewrap(REWRAP).await {
                    tracing::warn!(error = &error as &dyn std::error::Error, "re-wrapping user keys failed");
                }
            };
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                () = work => {}
            }
        }
    }
}

/// What configuration allows at least; here because an interval of zero would panic.
const MIN_INTERVAL: Duration = Duration::from_secs(1);
