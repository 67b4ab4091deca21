//! The vault itself: opening, appending, reading.

use std::{
    collections::HashMap,
    fmt,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
};

use futures_util::{Stream, TryStreamExt, stream};
use llmrtc_core::{clock::Clock, id::SessionId, redact::Secret};

use super::{
    Class, NewRecord, Record, RecordId, RetentionConfig, RewrapReport, SessionSummary, Subject,
    VaultConfig, VaultError,
    db::{Database, Row, Statement, Value, statement},
    keys::KeyStore,
    retention, schema,
    types::{count, millis, session_id, system_time},
};
use crate::crypto::{
    cipher::random,
    KeyId, KeyMaterial, KeyWrapper, WrapError, WrappedKey,
    record::{Binding, DataKey, OpeningKey, SealedRecord},
    shred::UserKey,
};

/// Rows of one `INSERT`. PostgreSQL takes 65,535 parameters, SQLite 32,766; a row has seven.
const INSERT_ROWS: usize = 64;
/// Data keys in memory. Full: all are dropped and made anew, which costs a row of 60 bytes in each next record.
const DATA_KEYS: usize = 4_096;
/// Most records of one page.
pub(super) const PAGE_RECORDS: u32 = 256;
/// Most sealed bytes of one page, but never less than one record.
const PAGE_BYTES: i64 = 32 * 1024 * 1024;
/// How far the stored high-water mark may lag: it saves a write per batch and costs this much accuracy after a restart.
const CLOCK_LAG_MS: i64 = 60_000;

/// The database in the data folder, where nothing else is configured.
const FILE: &str = "vault.db";
/// Bits of a record's id behind its time.
const ID_RANDOM_BITS: u32 = 80;

/// Where the two databases are.
#[derive(Clone, Debug)]
pub struct VaultUrls {
    /// Sealed records: `sqlite:///path/to/file` or `postgres://…`.
    pub records: Secret,
    /// The users' wrapped keys.
    pub keys: Secret,
}

impl VaultUrls {
    /// Where the configuration says, else `vault.db` in the server's data folder, with the keys beside it.
    ///
    /// # Errors
    /// When the folder's path is not UTF-8.
    pub fn of(config: &VaultConfig, data_folder: &Path) -> Result<Self, VaultError> {
        let records = match &config.url {
            Some(url) => url.clone(),
            None => {
                let path = data_folder.join(FILE);
                let path = path.to_str().ok_or(VaultError::UnsupportedUrl)?;
                // What would end the path in a URL.
                let path = path.replace('%', "%25").replace('?', "%3F");
                Secret::new(format!("sqlite://{path}"))
            }
        };
        let beside = Self::beside(records);
        Ok(Self {
            keys: config.keys_url.clone().unwrap_or(beside.keys),
            records: beside.records,
        })
    }

    /// Keeps the keys of an SQLite file in `<file>.keys` beside it, and those of PostgreSQL in the same database.
    pub fn beside(records: Secret) -> Self {
        let url = records.expose();
        let keys = if url.starts_with("sqlite:") {
            match url.split_once('?') {
                Some((file, options)) => Secret::new(format!("{file}.keys?{options}")),
                None => Secret::new(format!("{url}.keys")),
            }
        } else {
            records.clone()
        };
        Self { records, keys }
    }
}

/// Sealed records in a database.
pub struct Vault {
    pub(super) records: Database,
    pub(super) keys: KeyStore,
    pub(super) retention: RetentionConfig,
    clock: Arc<dyn Clock>,
    /// Tells this process from others that sweep.
    pub(super) node: String,
    /// The latest time that this vault has seen. See [`now`](Self::now).
    high_water: AtomicI64,
    /// What of it is stored.
    high_water_stored: AtomicI64,
    last_id: Mutex<u128>,
    /// Data keys by user and session.
    data_keys: Mutex<HashMap<(Subject, SessionId), Arc<DataKey>>>,
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault")
            .field("retention", &self.retention)
            .finish_non_exhaustive()
    }
}

/// A sealed row on its way into the table. Inserting it twice is the same as once.
pub(super) struct SealedRow {
    pub(super) id: RecordId,
    subject: Subject,
    session: SessionId,
    class: Class,
    at: i64,
    sealed: Vec<u8>,
}

impl Vault {
    /// Opens the databases, making files and tables that are missing. Without a `retention` the one applies that the
    /// vault was last opened with (30 days at first), so that a tool never deletes by other rules than the server.
    ///
    /// # Errors
    /// When a database cannot be reached or is of a later version.
    pub async fn open(
        urls: &VaultUrls,
        retention: Option<RetentionConfig>,
        wrapper: Arc<dyn KeyWrapper>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, VaultError> {
        let records = Database::connect(&urls.records).await?;
        records.migrate("records", schema::RECORDS).await?;
        let retention = match retention {
            Some(retention) => {
                retention::remember(&records, &retention).await?;
                retention
            }
            None => retention::remembered(&records).await?,
        };
        let keys = KeyStore::open(&urls.keys, wrapper).await?;
        let vault = Self {
            records,
            keys,
            retention,
            clock,
            node: KeyId::random().to_string(),
            high_water: AtomicI64::new(i64::MIN),
            high_water_stored: AtomicI64::new(i64::MIN),
            last_id: Mutex::new(0),
            data_keys: Mutex::default(),
        };
        vault.learn_last_id().await?;
        vault.advance_clock().await?;
        Ok(vault)
    }

    /// Goes on after the last record, in time and in order, whatever the clock says.
    async fn learn_last_id(&self) -> Result<(), VaultError> {
        let select = statement!("SELECT id FROM vault_records ORDER BY id DESC LIMIT 1");
        if let Some(row) = self.records.row(select).await? {
            let RecordId(last) = RecordId::parse(&row.text(0)?)?;
            let at = i64::try_from(last >> ID_RANDOM_BITS).unwrap_or(i64::MAX);
            self.high_water.fetch_max(at, Ordering::Relaxed);
            *self.last_id.lock().unwrap_or_else(PoisonError::into_inner) = last;
        }
        Ok(())
    }

    /// Closes the connections after their work in hand; SQLite then folds its log into the file.
    pub async fn close(&self) {
        self.records.close().await;
        self.keys.close().await;
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ping(&self) -> Result<(), VaultError> {
        self.records.rows(statement!("SELECT 1")).await.map(drop)
    }

    /// The wall clock, kept from running backwards: never less than any time this vault has seen, restarts and other
    /// nodes included. A record stamped by a clock that fell behind would otherwise be deleted early once it is right.
    pub(super) fn now(&self) -> i64 {
        let wall = millis(self.clock.wall());
        self.high_water.fetch_max(wall, Ordering::Relaxed).max(wall)
    }

    /// Stores the high-water mark if it has moved enough, and learns that of other nodes.
    pub(super) async fn advance_clock(&self) -> Result<(), VaultError> {
        let now = self.now();
        let stored = self.high_water_stored.load(Ordering::Relaxed);
        if now.saturating_sub(stored) < CLOCK_LAG_MS {
            return Ok(());
        }
        let upsert = statement!(
            "INSERT INTO vault_state (name, holder, value) VALUES ('clock', '', $1)
             ON CONFLICT (name) DO UPDATE SET value =
                 CASE WHEN excluded.value > vault_state.value THEN excluded.value ELSE vault_state.value END
             RETURNING value",
            now,
        );
        if let Some(row) = self.records.row(upsert).await? {
            let value = row.int(0)?;
            self.high_water.fetch_max(value, Ordering::Relaxed);
            self.high_water_stored.fetch_max(value, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Time in front, randomness behind, and always more than before: an index in the order of arrival. Where the time
    /// stands still the step is random, because another node may have started from the same id.
    fn next_id(&self, at: i64) -> RecordId {
        let noise: [u8; 8] = random();
        let noise = u128::from(u64::from_be_bytes(noise));
        let fresh = u128::from(count(at)) << ID_RANDOM_BITS | noise << 16;
        let mut last = self.last_id.lock().unwrap_or_else(PoisonError::into_inner);
        let later = fresh >> ID_RANDOM_BITS > *last >> ID_RANDOM_BITS;
        *last = if later { fresh } else { last.saturating_add(noise + 1) };
        RecordId(*last)
    }

    /// Stores records, all or none; when it returns they are durable. The voice path uses [`VaultWriter`](super::VaultWriter) instead.
    ///
    /// # Errors
    /// When a record cannot be sealed, or the database or the master key is out of reach.
    ///
    /// # Cancel safety
    /// When the future is dropped, all of the records have been stored or none.
    pub async fn append(&self, records: &[NewRecord]) -> Result<Vec<RecordId>, VaultError> {
        self.advance_clock().await?;
        let mut rows = Vec::with_capacity(records.len());
        for record in records {
            rows.push(self.seal(record).await?);
        }
        let ids = rows.iter().map(|row| row.id).collect();
        self.insert(&rows).await?;
        Ok(ids)
    }

    pub(super) async fn seal(&self, record: &NewRecord) -> Result<SealedRow, VaultError> {
        let key = self.data_key(&record.subject, record.session).await?;
        let at = self.now();
        let id = self.next_id(at);
        let name = id.to_string();
        let place = place(&record.subject, record.session, &name, record.class.as_str());
        let sealed = place.seal(&key, &record.content)?;
        Ok(SealedRow {
            id,
            subject: record.subject.clone(),
            session: record.session,
            class: record.class,
            at,
            sealed,
        })
    }

    /// All rows in one transaction. A row that is there already, because the acknowledgement of an earlier attempt was
    /// lost, stays as it is.
    pub(super) async fn insert(&self, rows: &[SealedRow]) -> Result<(), VaultError> {
        let statements = rows.chunks(INSERT_ROWS).map(|chunk| {
            let mut sql = String::from(
                "INSERT INTO vault_records (id, tenant, subject, session, class, at, sealed) VALUES ",
            );
            let mut values = Vec::with_capacity(chunk.len() * 7);
            for (index, row) in chunk.iter().enumerate() {
                let comma = if index == 0 { "" } else { ", " };
                let n = index * 7;
                let [a, b, c, d, e, f, g] = [1, 2, 3, 4, 5, 6, 7].map(|column| n + column);
                sql += &format!("{comma}(${a}, ${b}, ${c}, ${d}, ${e}, ${f}, ${g})");
                values.extend([
                    Value::from(row.id.to_string()),
                    row.subject.tenant_column().into(),
                    row.subject.user().into(),
                    row.session.to_string().into(),
                    row.class.as_str().into(),
                    row.at.into(),
                    row.sealed.clone().into(),
                ]);
            }
            sql += " ON CONFLICT (id) DO NOTHING";
            Statement::new(sql, values)
        });
        self.records.transact(statements.collect()).await.map(drop)
    }

    /// The data key of a session, made or replaced if need be. The key store is asked each time, so that nothing is
    /// sealed under the key of a user who was erased meanwhile, on whatever node.
    pub(super) async fn data_key(
        &self,
        subject: &Subject,
        session: SessionId,
    ) -> Result<Arc<DataKey>, VaultError> {
        let place = (subject.clone(), session);
        let user_key = self.keys.current(subject).await?;
        let known = self.data_keys().get(&place).cloned();
        if let Some(key) = known
            && user_key.as_ref() == Some(key.user_key())
            && !key.is_due(self.clock.now())
        {
            return Ok(key);
        }
        let user_key = self.keys.key_or_create(subject, self.now()).await?;
        let key = Arc::new(DataKey::generate(&user_key, self.clock.now()));
        let mut keys = self.data_keys();
        if keys.len() >= DATA_KEYS {
            keys.clear();
        }
        keys.insert(place, Arc::clone(&key));
        Ok(key)
    }

    fn data_keys(&self) -> std::sync::MutexGuard<'_, HashMap<(Subject, SessionId), Arc<DataKey>>> {
        self.data_keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn forget_data_keys(&self, subject: &Subject) {
        self.data_keys().retain(|(owner, _), _| owner != subject);
    }

    /// The conversations of a user, the latest first, at most `limit`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn sessions(
        &self,
        subject: &Subject,
        limit: u32,
    ) -> Result<Vec<SessionSummary>, VaultError> {
        let [transcript, audio, tool_result] = self.visible_after(subject).await?;
        let select = statement!(
            "SELECT session, MIN(at), MAX(at), COUNT(*) FROM vault_records
             WHERE tenant = $1 AND subject = $2
                 AND ((class = 'transcript' AND at > $3) OR (class = 'audio' AND at > $4)
                     OR (class = 'tool-result' AND at > $5))
             GROUP BY session ORDER BY MAX(id) DESC LIMIT $6",
            subject.tenant_column(),
            subject.user(),
            transcript,
            audio,
            tool_result,
            i64::from(limit),
        );
        let rows = self.records.rows(select).await?;
        rows.iter()
            .map(|row| {
                Ok(SessionSummary {
                    session: session_id(&row.text(0)?)?,
                    first: system_time(row.int(1)?),
                    last: system_time(row.int(2)?),
                    records: count(row.int(3)?),
                })
            })
            .collect()
    }

    /// A page of a user's records in the order they were stored: of one session or of all, after `after`. At most
    /// `limit`, 256 or 32 MiB, and at least one if there is any; empty at the end.
    ///
    /// # Errors
    /// When the database or the master key fails. A record that does not open says so in its place.
    pub async fn records(
        &self,
        subject: &Subject,
        session: Option<SessionId>,
        after: Option<RecordId>,
        limit: u32,
    ) -> Result<Vec<Record>, VaultError> {
        let [transcript, audio, tool_result] = self.visible_after(subject).await?;
        let session = session.map(|session| session.to_string()).unwrap_or_default();
        let after = after.map(|id| id.to_string()).unwrap_or_default();
        let filter = |columns: &str| {
            format!(
                "SELECT {columns} FROM vault_records
                 WHERE tenant = $1 AND subject = $2 AND ($3 = '' OR session = $3) AND id > $4
                     AND ((class = 'transcript' AND at > $5) OR (class = 'audio' AND at > $6)
                         OR (class = 'tool-result' AND at > $7))
                 ORDER BY id LIMIT $8"
            )
        };
        let select = |columns, limit: i64| {
            statement!(
                filter(columns),
                subject.tenant_column(),
                subject.user(),
                &*session,
                &*after,
                transcript,
                audio,
                tool_result,
                limit,
            )
        };
        // First how long they are: a page of recordings must not fill the memory.
        let limit = i64::from(limit.clamp(1, PAGE_RECORDS));
        let mut total = 0;
        let mut rows = 0;
        for row in self.records.rows(select("CAST(LENGTH(sealed) AS BIGINT)", limit)).await? {
            total += row.int(0)?;
            if rows > 0 && total > PAGE_BYTES {
                break;
            }
            rows += 1;
        }
        if rows == 0 {
            return Ok(Vec::new());
        }
        let mut opener = Opener {
            subject,
            user_key: self.keys.key(subject).await?,
            opened: None,
        };
        let rows = self
            .records
            .rows(select("id, session, class, at, sealed", rows))
            .await?;
        rows.iter().map(|row| opener.read(row)).collect()
    }

    /// How many records [`export`](Self::export) would have now.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn count(
        &self,
        subject: &Subject,
        session: Option<SessionId>,
    ) -> Result<u64, VaultError> {
        let [transcript, audio, tool_result] = self.visible_after(subject).await?;
        let session = session.map(|session| session.to_string()).unwrap_or_default();
        let select = statement!(
            "SELECT COUNT(*) FROM vault_records
             WHERE tenant = $1 AND subject = $2 AND ($3 = '' OR session = $3)
                 AND ((class = 'transcript' AND at > $4) OR (class = 'audio' AND at > $5)
                     OR (class = 'tool-result' AND at > $6))",
            subject.tenant_column(),
            subject.user(),
            &*session,
            transcript,
            audio,
            tool_result,
        );
        match self.records.row(select).await? {
            Some(row) => Ok(count(row.int(0)?)),
            None => Ok(0),
        }
    }

    /// All of a user's records, or those of one session, as JSON objects in the order they were stored.
    ///
    /// # Errors
    /// Those of [`records`](Self::records); nothing follows one.
    pub fn export<'a>(
        &'a self,
        subject: &'a Subject,
        session: Option<SessionId>,
    ) -> impl Stream<Item = Result<serde_json::Value, VaultError>> + 'a {
        stream::try_unfold(None, move |after| async move {
            let page = self.records(subject, session, after, PAGE_RECORDS).await?;
            let Some(last) = page.last().map(|record| record.id) else {
                return Ok(None);
            };
            let lines: Vec<_> = page.iter().map(|record| Ok(record.to_json())).collect();
            Ok::<_, VaultError>(Some((stream::iter(lines), Some(last))))
        })
        .try_flatten()
    }

    /// From when on records of each class are visible, in the order of [`Class::ALL`]. A legal hold suspends expiry.
    async fn visible_after(&self, subject: &Subject) -> Result<[i64; 3], VaultError> {
        if self.hold_of(subject).await?.is_some() {
            return Ok([i64::MIN; 3]);
        }
        let now = self.now();
        Ok(Class::ALL.map(|class| self.cutoff(class, now)))
    }

    /// A record of this class expires when it was stored at or before this time.
    pub(super) fn cutoff(&self, class: Class, now: i64) -> i64 {
        let kept = i64::try_from(self.retention.of(class).as_millis()).unwrap_or(i64::MAX);
        now.saturating_sub(kept)
    }

    /// Re-wraps up to `limit` user keys that are not under the current master key. Call it until nothing remains; it
    /// goes on after a crash where it was.
    ///
    /// # Errors
    /// When the key store or the master key fails.
    pub async fn rewrap(&self, limit: u32) -> Result<RewrapReport, VaultError> {
        self.keys.rewrap(limit).await
    }

    /// How many user keys each master key wraps: what must be nothing before one is retired.
    ///
    /// # Errors
    /// When the key store fails.
    pub async fn key_usage(&self) -> Result<Vec<(KeyId, u64)>, VaultError> {
        self.keys.usage().await
    }
}

/// Where something of a user belongs, with the names it is bound to.
pub(super) struct Place<'a> {
    subject: &'a Subject,
    session: String,
    record: &'a str,
    field: &'a str,
}

pub(super) fn place<'a>(
    subject: &'a Subject,
    session: SessionId,
    record: &'a str,
    field: &'a str,
) -> Place<'a> {
    Place {
        subject,
        session: session.to_string(),
        record,
        field,
    }
}

impl Place<'_> {
    fn binding(&self) -> Binding<'_> {
        Binding {
            tenant: self.subject.tenant(),
            user: self.subject.user(),
            session: &self.session,
            record: self.record,
            field: self.field,
            version: 0,
        }
    }

    pub(super) fn seal(&self, key: &DataKey, plaintext: &[u8]) -> Result<Vec<u8>, VaultError> {
        Ok(key.seal(&self.binding(), plaintext)?)
    }
}

/// Opens rows of one user; consecutive rows mostly share a data key.
pub(super) struct Opener<'a> {
    pub(super) subject: &'a Subject,
    /// `None`: the user was erased.
    pub(super) user_key: Option<UserKey>,
    pub(super) opened: Option<(WrappedKey, OpeningKey)>,
}

impl Opener<'_> {
    fn read(&mut self, row: &Row) -> Result<Record, VaultError> {
        let id = RecordId::parse(&row.text(0)?)?;
        let session = session_id(&row.text(1)?)?;
        let class = row.text(2)?;
        let class = Class::parse(&class).ok_or(VaultError::Corrupt("class"))?;
        let at = system_time(row.int(3)?);
        let sealed = row.blob(4)?;
        let name = id.to_string();
        let content = self.open(&place(self.subject, session, &name, class.as_str()), &sealed);
        Ok(Record {
            id,
            session,
            class,
            at,
            content,
        })
    }

    pub(super) fn open(
        &mut self,
        place: &Place<'_>,
        sealed: &[u8],
    ) -> Result<zeroize::Zeroizing<Vec<u8>>, VaultError> {
        let record = SealedRecord::parse(sealed)?;
        let wrapped = record.key();
        if self.opened.as_ref().is_none_or(|(known, _)| known != wrapped) {
            let unknown = || WrapError::UnknownKey(wrapped.key_id.clone());
            let user_key = self.user_key.as_ref().ok_or_else(unknown)?;
            let key: KeyMaterial = user_key.unwrap_data_key(wrapped)?;
            self.opened = Some((wrapped.clone(), OpeningKey::new(&key)));
        }
        let (_, key) = self.opened.as_ref().expect("it was set above");
        Ok(record.open(key, &place.binding())?)
    }
}
