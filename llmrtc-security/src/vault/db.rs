//! Where SQLite and PostgreSQL differ; everything above sees statements, values and rows.
//!
//! Both number their parameters `$1`, know `ON CONFLICT … DO UPDATE` and `RETURNING`, and have 64-bit integers, text
//! and bytes, so the queries are shared. Connecting, locking a migration and giving space back are not.

use std::{borrow::Cow, time::Duration};

use llmrtc_core::redact::Secret;
#[cfg(feature = "postgres")]
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions, PgRow, PgSslMode};
#[cfg(feature = "sqlite")]
use sqlx::sqlite::{
    SqliteAutoVacuum, SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteRow, SqliteSynchronous,
};
use sqlx::{AssertSqlSafe, ConnectOptions, Row as _};

use super::error::VaultError;

/// Longest wait for a statement, a connection or a lock. A dead PostgreSQL must not hold a caller for longer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for another writer of the same SQLite file.
#[cfg(feature = "sqlite")]
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Gives back 8 MB at a time, so that writers get their turn and no step outlasts the deadline.
#[cfg(feature = "sqlite")]
const VACUUM_STEP: &str = "PRAGMA incremental_vacuum(2000)";
/// Connections to an SQLite file: one writes, the others read meanwhile.
#[cfg(feature = "sqlite")]
const SQLITE_CONNECTIONS: u32 = 4;
/// Connections to PostgreSQL. The writer uses one; the rest serve readers and the sweeper.
#[cfg(feature = "postgres")]
const POSTGRES_CONNECTIONS: u32 = 8;
/// Keeps two nodes from migrating at once. Any number that is only ours.
#[cfg(feature = "postgres")]
const MIGRATION_LOCK: &str = "SELECT pg_advisory_xact_lock(7817425216632217)";

/// A parameter.
#[derive(Clone)]
pub(super) enum Value {
    Int(i64),
    Text(String),
    Blob(Vec<u8>),
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

impl From<Vec<u8>> for Value {
    fn from(value: Vec<u8>) -> Self {
        Self::Blob(value)
    }
}

/// SQL without data, and the data.
pub(super) struct Statement {
    sql: Cow<'static, str>,
    values: Vec<Value>,
}

impl Statement {
    /// `sql` must not be made of anything a caller, a client or a row said: that goes into `values`.
    pub(super) fn new(sql: impl Into<Cow<'static, str>>, values: Vec<Value>) -> Self {
        let sql = sql.into();
        Self { sql, values }
    }
}

/// Shorthand for a [`Statement`].
macro_rules! statement {
    ($sql:expr $(, $value:expr)* $(,)?) => {
        $crate::vault::db::Statement::new($sql, vec![$($crate::vault::db::Value::from($value)),*])
    };
}
pub(super) use statement;

/// One row of an answer, columns counted from 0.
pub(super) enum Row {
    #[cfg(feature = "sqlite")]
    Sqlite(SqliteRow),
    #[cfg(feature = "postgres")]
    Postgres(PgRow),
}

macro_rules! column {
    ($row:expr, $index:expr) => {
        match $row {
            #[cfg(feature = "sqlite")]
            Row::Sqlite(row) => row.try_get($index),
            #[cfg(feature = "postgres")]
            Row::Postgres(row) => row.try_get($index),
        }
        .map_err(VaultError::from)
    };
}

impl Row {
    pub(super) fn int(&self, index: usize) -> Result<i64, VaultError> {
        column!(self, index)
    }

    pub(super) fn text(&self, index: usize) -> Result<String, VaultError> {
        column!(self, index)
    }

    pub(super) fn blob(&self, index: usize) -> Result<Vec<u8>, VaultError> {
        column!(self, index)
    }
}

/// A database with its connections.
#[derive(Clone, Debug)]
pub(super) enum Database {
    #[cfg(feature = "sqlite")]
    Sqlite(SqlitePool),
    #[cfg(feature = "postgres")]
    Postgres(PgPool),
}

macro_rules! bound {
    ($statement:expr) => {{
        let Statement { sql, values } = $statement;
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for value in values {
            query = match value {
                Value::Int(value) => query.bind(value),
                Value::Text(value) => query.bind(value),
                Value::Blob(value) => query.bind(value),
            };
        }
        query
    }};
}

/// Writes an operation once for both pools.
macro_rules! on {
    ($database:expr, $pool:ident => $body:expr) => {
        match $database {
            #[cfg(feature = "sqlite")]
            Database::Sqlite($pool) => $body,
            #[cfg(feature = "postgres")]
            Database::Postgres($pool) => $body,
        }
    };
}

impl Database {
    /// Connects to `sqlite:…` or `postgres://…`.
    pub(super) async fn connect(url: &Secret) -> Result<Self, VaultError> {
        let scheme = url.expose().split(':').next().unwrap_or_default();
        match scheme {
            #[cfg(feature = "sqlite")]
            "sqlite" => within(sqlite(url)).await,
            #[cfg(feature = "postgres")]
            "postgres" | "postgresql" => within(postgres(url)).await,
            _ => Err(VaultError::UnsupportedUrl),
        }
    }

    /// Changes rows and says how many.
    pub(super) async fn execute(&self, statement: Statement) -> Result<u64, VaultError> {
        within(async {
            Ok(on!(self, pool => bound!(statement).execute(pool).await?.rows_affected()))
        })
        .await
    }

    /// All rows of an answer. The statement bounds their number.
    pub(super) async fn rows(&self, statement: Statement) -> Result<Vec<Row>, VaultError> {
        within(async {
            Ok(match self {
                #[cfg(feature = "sqlite")]
                Self::Sqlite(pool) => {
                    let rows = bound!(statement).fetch_all(pool).await?;
                    rows.into_iter().map(Row::Sqlite).collect()
                }
                #[cfg(feature = "postgres")]
                Self::Postgres(pool) => {
                    let rows = bound!(statement).fetch_all(pool).await?;
                    rows.into_iter().map(Row::Postgres).collect()
                }
            })
        })
        .await
    }

    /// The only row of an answer.
    pub(super) async fn row(&self, statement: Statement) -> Result<Option<Row>, VaultError> {
        Ok(self.rows(statement).await?.pop())
    }

    /// Does all of it or nothing, and says how many rows each statement changed.
    pub(super) async fn transact(
        &self,
        statements: Vec<Statement>,
    ) -> Result<Vec<u64>, VaultError> {
        within(async {
            let begin = self.begin();
            on!(self, pool => {
                let mut transaction = pool.begin_with(begin).await?;
                let mut changed = Vec::with_capacity(statements.len());
                for statement in statements {
                    let result = bound!(statement).execute(&mut *transaction).await?;
                    changed.push(result.rows_affected());
                }
                transaction.commit().await?;
                Ok(changed)
            })
        })
        .await
    }

    /// Brings the tables of one part up to date. `migrations` only ever grows; `{bytes}` stands for the type of bytes.
    pub(super) async fn migrate(
        &self,
        part: &'static str,
        migrations: &[&'static str],
    ) -> Result<(), VaultError> {
        let (begin, bytes) = (self.begin(), self.bytes());
        let known = i64::try_from(migrations.len()).expect("a handful of migrations");
        within(async {
            on!(self, pool => {
                let mut transaction = pool.begin_with(begin).await?;
                if let Some(lock) = self.migration_lock() {
                    sqlx::raw_sql(lock).execute(&mut *transaction).await?;
                }
                sqlx::raw_sql(
                    "CREATE TABLE IF NOT EXISTS vault_schema (part TEXT PRIMARY KEY, version BIGINT NOT NULL)",
                )
                .execute(&mut *transaction)
                .await?;
                let select = statement!("SELECT version FROM vault_schema WHERE part = $1", part);
                let found = bound!(select).fetch_optional(&mut *transaction).await?;
                let version: i64 = found.map_or(Ok(0), |row| row.try_get(0))?;
                if version > known {
                    return Err(VaultError::Newer { version, known });
                }
                let done = usize::try_from(version).map_err(|_| VaultError::Corrupt("schema version"))?;
                for migration in &migrations[done..] {
                    let sql = migration.replace("{bytes}", bytes);
                    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *transaction).await?;
                }
                let update = statement!(
                    "INSERT INTO vault_schema (part, version) VALUES ($1, $2)
                     ON CONFLICT (part) DO UPDATE SET version = excluded.version",
                    part,
                    known
                );
                bound!(update).execute(&mut *transaction).await?;
                transaction.commit().await?;
                Ok(())
            })
        })
        .await
    }

    /// Gives the space of deleted rows back, and with it what was in them.
    ///
    /// SQLite: freed pages are zeroed (`secure_delete`), cut off the file, and the write-ahead log is emptied, so that
    /// nothing of the rows is left in either. Says `false` when a reader kept the log from being emptied; the next
    /// call gets it. PostgreSQL: plain `VACUUM`; what was ciphertext there is overwritten as pages and WAL segments
    /// are reused, which is the database's to decide.
    pub(super) async fn compact(&self, table: &'static str) -> Result<bool, VaultError> {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(_) => {
                let _ = table;
                loop {
                    let free = self.row(statement!("PRAGMA freelist_count")).await?;
                    if free.map_or(Ok(0), |row| row.int(0))? == 0 {
                        break;
                    }
                    // The pragma gives back a page per row, so all rows have to be taken.
                    self.rows(statement!(VACUUM_STEP)).await?;
                }
                let row = self.row(statement!("PRAGMA wal_checkpoint(TRUNCATE)")).await?;
                let busy = row.map_or(Ok(1), |row| row.int(0))?;
                Ok(busy == 0)
            }
            #[cfg(feature = "postgres")]
            Self::Postgres(pool) => {
                let sql = AssertSqlSafe(format!("VACUUM {table}"));
                sqlx::raw_sql(sql).execute(pool).await?;
                Ok(true)
            }
        }
    }

    /// Closes the connections after their work in hand.
    pub(super) async fn close(&self) {
        on!(self, pool => pool.close().await);
    }

    /// How a writing transaction begins. SQLite must take the write lock first: a reader that turns writer is refused
    /// at once, whatever the busy timeout, if somebody wrote in between.
    fn begin(&self) -> &'static str {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(_) => "BEGIN IMMEDIATE",
            #[cfg(feature = "postgres")]
            Self::Postgres(_) => "BEGIN",
        }
    }

    fn bytes(&self) -> &'static str {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(_) => "BLOB",
            #[cfg(feature = "postgres")]
            Self::Postgres(_) => "BYTEA",
        }
    }

    fn migration_lock(&self) -> Option<&'static str> {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(_) => None,
            #[cfg(feature = "postgres")]
            Self::Postgres(_) => Some(MIGRATION_LOCK),
        }
    }
}

async fn within<T>(work: impl Future<Output = Result<T, VaultError>>) -> Result<T, VaultError> {
    tokio::time::timeout(TIMEOUT, work)
        .await
        .unwrap_or(Err(VaultError::Timeout))
}

#[cfg(feature = "sqlite")]
async fn sqlite(url: &Secret) -> Result<Database, VaultError> {
    let options: SqliteConnectOptions = url.expose().parse()?;
    let path = options.get_filename().to_owned();
    if url.expose().contains(":memory:") || path.as_os_str().is_empty() {
        return Err(VaultError::UnsupportedUrl);
    }
    private_file(&path).map_err(|source| VaultError::File { path, source })?;
    let options = options
        // The file is there by now, with the right permissions; SQLite gives its log and index the same.
        .create_if_missing(false)
        .auto_vacuum(SqliteAutoVacuum::Incremental)
        .journal_mode(SqliteJournalMode::Wal)
        // What was acknowledged survives a power cut.
        .synchronous(SqliteSynchronous::Full)
        .pragma("secure_delete", "ON")
        // Sorting must not spill sealed rows, or anything else, into files of its own.
        .pragma("temp_store", "MEMORY")
        .busy_timeout(BUSY_TIMEOUT)
        .disable_statement_logging();
    let pool = SqlitePoolOptions::new()
        .max_connections(SQLITE_CONNECTIONS)
        .acquire_timeout(TIMEOUT)
        .connect_with(options)
        .await?;
    Ok(Database::Sqlite(pool))
}

/// Creates the file for its owner alone, or takes an existing one away from the others.
#[cfg(feature = "sqlite")]
fn private_file(path: &std::path::Path) -> std::io::Result<()> {
    use std::{
        fs::{OpenOptions, Permissions},
        os::unix::fs::{OpenOptionsExt, PermissionsExt},
    };

    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)?;
    let mode = file.metadata()?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        tracing::warn!(path = %path.display(), mode = format_args!("{mode:o}"), "database was open to others; now 600");
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok(())
}

#[cfg(feature = "postgres")]
async fn postgres(url: &Secret) -> Result<Database, VaultError> {
    let mut options: PgConnectOptions = url.expose().parse()?;
    let local = options.get_socket().is_some()
        || options.get_host().starts_with('/')
        || matches!(options.get_host(), "localhost" | "127.0.0.1" | "::1" | "[::1]");
    if !local && !url.expose().contains("sslmode=") {
        // The driver's default takes an unencrypted connection if it is offered one.
        options = options.ssl_mode(PgSslMode::VerifyFull);
    }
    let options = options.application_name("llmrtc").disable_statement_logging();
    let pool = PgPoolOptions::new()
        .max_connections(POSTGRES_CONNECTIONS)
        .acquire_timeout(TIMEOUT)
        .connect_with(options)
        .await?;
    Ok(Database::Postgres(pool))
}
