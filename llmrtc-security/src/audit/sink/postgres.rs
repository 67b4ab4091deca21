//! Records in PostgreSQL, a row per line. The lines are those of a file, so
//! `SELECT line FROM llmrtc_audit WHERE node = … ORDER BY seq` is what the verifier reads.

use std::{io, sync::Arc, time::Duration};

use async_trait::async_trait;
use llmrtc_core::redact::Secret;
use sqlx::{
    PgPool, Row as _,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use super::{AuditKeys, Batch, Resume, Sink};
use crate::audit::recover::resume;

/// Longest wait for the database. The waiting caller's own deadline is usually shorter.
const TIMEOUT: Duration = Duration::from_secs(5);

/// One statement each, because the extended protocol takes no more.
const SCHEMA: [&str; 2] = [
    "CREATE TABLE IF NOT EXISTS llmrtc_audit (
        node TEXT NOT NULL, seq BIGINT NOT NULL, time TIMESTAMPTZ NOT NULL, line TEXT NOT NULL,
        PRIMARY KEY (node, seq))",
    "CREATE TABLE IF NOT EXISTS llmrtc_audit_head (node TEXT PRIMARY KEY, seq BIGINT NOT NULL, line TEXT NOT NULL)",
];

/// Writes lines to a table. The role needs `INSERT` and `SELECT` on it, and nothing that changes rows.
pub(in crate::audit) struct PostgresSink {
    url: Secret,
    node: String,
    pool: Option<PgPool>,
}

impl PostgresSink {
    pub(in crate::audit) fn new(url: Secret, node: String) -> Self {
        Self {
            url,
            node,
            pool: None,
        }
    }

    async fn write(pool: &PgPool, node: &str, batch: &Batch) -> Result<(), sqlx::Error> {
        let text = |range: &std::ops::Range<usize>| {
            String::from_utf8_lossy(&batch.bytes[range.clone()]).into_owned()
        };
        let seqs: Vec<i64> = batch.rows.iter().map(|row| row.seq as i64).collect();
        let times: Vec<f64> = batch
            .rows
            .iter()
            .map(|row| row.time_ms as f64 / 1000.0)
            .collect();
        let lines: Vec<String> = batch.rows.iter().map(|row| text(&row.line)).collect();
        let mut transaction = pool.begin().await?;
        // A batch whose commit was not answered comes again, byte for byte or with other records. Only the former may
        // pass: whoever holds a number that is taken by another line gets a violation from the second statement.
        let inserted = sqlx::query(
            "INSERT INTO llmrtc_audit (node, seq, time, line)
             SELECT $1, seq, to_timestamp(time), line FROM unnest($2::bigint[], $3::float8[], $4::text[]) AS new (seq, time, line)
             WHERE NOT EXISTS (SELECT 1 FROM llmrtc_audit old WHERE old.node = $1 AND old.seq = new.seq AND old.line = new.line)",
        )
        .bind(node)
        .bind(seqs)
        .bind(times)
        .bind(lines)
        .execute(&mut *transaction)
        .await?;
        tracing::trace!(rows = inserted.rows_affected(), "audit records inserted");
        if let (Some(head), Some(row)) = (
            &batch.head,
            batch
                .rows
                .iter()
                .rev()
                .find(|row| Some(row.line.start) == batch.head.as_ref().map(|head| head.start)),
        ) {
            sqlx::query(
                "INSERT INTO llmrtc_audit_head (node, seq, line) VALUES ($1, $2, $3)
                 ON CONFLICT (node) DO UPDATE SET seq = excluded.seq, line = excluded.line WHERE llmrtc_audit_head.seq < excluded.seq",
            )
            .bind(node)
            .bind(row.seq as i64)
            .bind(text(head).trim_end().to_owned())
            .execute(&mut *transaction)
            .await?;
        }
        transaction.commit().await
    }

    async fn read(pool: &PgPool, node: &str) -> Result<(Vec<u8>, Option<Vec<u8>>), sqlx::Error> {
        for statement in SCHEMA {
            sqlx::query(statement).execute(pool).await?;
        }
        let line = |query: &'static str| {
            sqlx::query(query)
                .bind(node.to_owned())
                .fetch_optional(pool)
        };
        let last =
            line("SELECT line FROM llmrtc_audit WHERE node = $1 ORDER BY seq DESC LIMIT 1").await?;
        let head = line("SELECT line FROM llmrtc_audit_head WHERE node = $1").await?;
        let text = |row: sqlx::postgres::PgRow| row.try_get::<String, _>(0).map(String::into_bytes);
        let mut tail = last.map(text).transpose()?.unwrap_or_default();
        if !tail.is_empty() {
            tail.push(b'\n');
        }
        Ok((tail, head.map(text).transpose()?))
    }
}

#[async_trait]
impl Sink for PostgresSink {
    fn name(&self) -> &'static str {
        "postgres"
    }

    async fn open(&mut self, keys: &Arc<AuditKeys>) -> io::Result<Resume> {
        let options: PgConnectOptions = self
            .url
            .expose()
            .parse()
            .map_err(|_| io::Error::other("the URL of the audit database is not valid"))?;
        let pool = PgPoolOptions::new()
            // One writer, and one connection while a lost one is noticed.
            .max_connections(2)
            .acquire_timeout(TIMEOUT)
            .connect_with(options)
            .await
            .map_err(io::Error::other)?;
        let (tail, head) = Self::read(&pool, &self.node)
            .await
            .map_err(io::Error::other)?;
        self.pool = Some(pool);
        // A transaction is never torn: a last row that is no record of ours is somebody else's.
        match resume(&tail, true, head.as_deref(), keys) {
            Ok(resumed) if resumed.torn.is_none() => Ok(resumed),
            _ => Err(io::Error::other(
                "the audit table ends with a row that is no record under the configured keys",
            )),
        }
    }

    async fn append(&mut self, batch: &Batch) -> io::Result<()> {
        let pool = self.pool.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        tokio::time::timeout(TIMEOUT, Self::write(pool, &self.node, batch))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
            .map_err(io::Error::other)
    }
}

impl std::fmt::Debug for PostgresSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresSink")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}
