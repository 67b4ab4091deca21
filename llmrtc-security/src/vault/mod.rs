//! Conversations at rest: sealed, bound to their user, kept for as long as the operator said and no longer (E3, E4, E5).
//!
//! ```text
//!  voice path ─ VaultWriter::offer ─▶ queue ─▶ seal ─▶ one transaction per batch ─▶ acknowledged = durable
//!  records database          key store                    master keys
//!  sealed rows, holds,       one wrapped key per user     Keyring or KMS
//!  receipts, snapshots       (dropping it shreds)
//! ```
//!
//! One set of queries serves SQLite (one node, no server to run) and PostgreSQL (many nodes). Whoever calls has to have
//! decided that the caller may: the vault knows owners, not administrators, and writes no audit log of its own.
//!
//! **Backups.** The key store is a database of its own: `<file>.keys` beside an SQLite file, the table
//! `vault_user_keys` (or another database, `keys_url`) with PostgreSQL. Erasing a user reaches every backup that does
//! not hold it, so leave it out of those that are kept for long (`pg_dump --exclude-table=vault_user_keys`).

mod class;
mod config;

pub use self::{
    class::Class,
    config::{RetentionConfig, VaultConfig},
};

/// Everything that needs a database.
macro_rules! with_a_database {
    ($($item:item)*) => { $(#[cfg(any(feature = "sqlite", feature = "postgres"))] $item)* };
}

with_a_database! {
    mod db;
    mod erase;
    mod error;
    mod keys;
    mod retention;
    mod schema;
    mod sessions;
    mod store;
    mod types;
    mod writer;

    pub use self::{
        erase::Receipt,
        error::VaultError,
        keys::RewrapReport,
        retention::SweepReport,
        sessions::{Snapshot, SnapshotOf, VaultSessions},
        store::{Vault, VaultUrls},
        types::{NewRecord, Record, RecordId, SessionSummary, Subject},
        writer::{Acknowledgement, NotStored, Refused, VaultWriter, WriterStats},
    };
}

#[cfg(test)]
mod tests;
