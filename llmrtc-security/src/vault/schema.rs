//! The tables. A list only ever grows: what has been released is never edited.
//!
//! Times are milliseconds since 1970. A tenant is empty where there is none. Names of users are in the clear, because
//! they are what operators look for; what users said is not.

/// Next to the records, in the database that is backed up.
pub(super) const RECORDS: &[&str] = &["
    CREATE TABLE vault_records (
        id TEXT PRIMARY KEY,
        tenant TEXT NOT NULL,
        subject TEXT NOT NULL,
        session TEXT NOT NULL,
        class TEXT NOT NULL,
        at BIGINT NOT NULL,
        sealed {bytes} NOT NULL
    );
    CREATE INDEX vault_records_by_subject ON vault_records (tenant, subject, session, id);
    CREATE INDEX vault_records_by_age ON vault_records (class, at);

    CREATE TABLE vault_snapshots (
        id TEXT PRIMARY KEY,
        tenant TEXT NOT NULL,
        subject TEXT NOT NULL,
        owner {bytes} NOT NULL,
        expires BIGINT NOT NULL,
        sealed {bytes} NOT NULL
    );
    CREATE INDEX vault_snapshots_by_subject ON vault_snapshots (tenant, subject, expires);
    CREATE INDEX vault_snapshots_by_expiry ON vault_snapshots (expires);

    CREATE TABLE vault_holds (
        tenant TEXT NOT NULL,
        subject TEXT NOT NULL,
        reason TEXT NOT NULL,
        placed BIGINT NOT NULL,
        PRIMARY KEY (tenant, subject)
    );

    CREATE TABLE vault_receipts (
        id TEXT PRIMARY KEY,
        at BIGINT NOT NULL,
        body TEXT NOT NULL
    );

    CREATE TABLE vault_state (
        name TEXT PRIMARY KEY,
        holder TEXT NOT NULL,
        value BIGINT NOT NULL
    );
", "
    DROP TABLE vault_snapshots;
    CREATE TABLE vault_snapshots (
        id TEXT PRIMARY KEY,
        session TEXT NOT NULL,
        ticket TEXT NOT NULL,
        tenant TEXT NOT NULL,
        subject TEXT NOT NULL,
        version BIGINT NOT NULL,
        expires BIGINT NOT NULL,
        sealed {bytes} NOT NULL
    );
    CREATE INDEX vault_snapshots_by_session ON vault_snapshots (session);
    CREATE INDEX vault_snapshots_by_ticket ON vault_snapshots (ticket);
    CREATE INDEX vault_snapshots_by_subject ON vault_snapshots (tenant, subject, expires);
    CREATE INDEX vault_snapshots_by_expiry ON vault_snapshots (expires);
"];

/// In the key store, whose backups, if any, are kept for a shorter time than anybody may be remembered.
pub(super) const KEYS: &[&str] = &["
    CREATE TABLE vault_user_keys (
        tenant TEXT NOT NULL,
        subject TEXT NOT NULL,
        key_id TEXT NOT NULL,
        kek_id TEXT NOT NULL,
        wrapped {bytes} NOT NULL,
        used BIGINT NOT NULL,
        PRIMARY KEY (tenant, subject)
    );
    CREATE INDEX vault_user_keys_by_kek ON vault_user_keys (kek_id);
"];
