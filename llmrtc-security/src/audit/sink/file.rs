//! Records in files, mode 0600, ended by size and by day.
//!
//! `audit.jsonl` is written; a file that is ended becomes `audit.000000000001.jsonl`, after the number of its first
//! record, so that names sort in the order of writing. `audit.jsonl.head` holds the last signed head and is replaced
//! whole. Nothing is ever deleted: how long evidence is kept is for the operator to say.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;

use super::{AuditKeys, Batch, Resume, Sink};
use crate::audit::{
    chain::Line,
    recover::{TAIL_BYTES, resume},
};

const PRIVATE: u32 = 0o600;
const DAY_MS: i64 = 24 * 60 * 60 * 1000;
const LOCK_ATTEMPTS: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// Writes lines to a file.
#[derive(Debug)]
pub(in crate::audit) struct FileSink {
    /// Away while a thread works with it.
    log: Option<LogFile>,
}

#[derive(Debug)]
struct LogFile {
    path: PathBuf,
    rotate_bytes: u64,
    daily: bool,
    open: Option<OpenFile>,
    /// Renaming has failed once. Trying again with every batch would only fill the file.
    stays: bool,
}

#[derive(Debug)]
struct OpenFile {
    file: File,
    /// Devices and pipes are neither locked, cut nor rotated.
    regular: bool,
    /// Where the next record goes.
    len: u64,
    /// A failed append may have left something behind `len`.
    dirty: bool,
    /// Number of the first record, for the name.
    first: Option<u64>,
    /// Day of the first record of this run, counted from 1970.
    day: Option<i64>,
}

impl FileSink {
    pub(in crate::audit) fn new(path: PathBuf, rotate_bytes: u64, daily: bool) -> Self {
        Self {
            log: Some(LogFile {
                path,
                rotate_bytes,
                daily,
                open: None,
                stays: false,
            }),
        }
    }

    /// Disks may take their time; that is not the runtime's.
    async fn work<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut LogFile) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let gone = || io::Error::other("the audit file was lost with its thread");
        let mut log = self.log.take().ok_or_else(gone)?;
        let (log, result) = tokio::task::spawn_blocking(move || {
            let result = work(&mut log);
            (log, result)
        })
        .await
        .map_err(|_| gone())?;
        self.log = Some(log);
        result
    }

    fn open_file(&self) -> Option<&OpenFile> {
        self.log.as_ref()?.open.as_ref()
    }
}

#[async_trait]
impl Sink for FileSink {
    fn name(&self) -> &'static str {
        "file"
    }

    async fn open(&mut self, keys: &Arc<AuditKeys>) -> io::Result<Resume> {
        let keys = Arc::clone(keys);
        self.work(move |log| log.open(&keys)).await
    }

    async fn append(&mut self, batch: &Batch) -> io::Result<()> {
        let batch = batch.clone();
        self.work(move |log| log.append(&batch)).await
    }

    async fn prepare(&mut self) -> io::Result<()> {
        self.work(LogFile::reopen_if_moved).await
    }

    fn begins(&self) -> bool {
        self.open_file()
            .is_some_and(|open| open.regular && open.len == 0)
    }

    fn rotation_due(&self, now_ms: i64) -> bool {
        let Some(log) = &self.log else { return false };
        log.open.as_ref().is_some_and(|open| {
            let another_day = log.daily && open.day.is_some_and(|day| day < now_ms / DAY_MS);
            open.regular
                && open.len > 0
                && !log.stays
                && (another_day || open.len >= log.rotate_bytes)
        })
    }

    async fn rotate(&mut self) -> io::Result<()> {
        self.work(LogFile::rotate).await
    }
}

impl LogFile {
    fn open(&mut self, keys: &Arc<AuditKeys>) -> io::Result<Resume> {
        let mut open = self.open_path()?;
        let head = match fs::read(self.head_path()) {
            Ok(head) => Some(head),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let mut tail = Vec::new();
        let start = open.len.saturating_sub(TAIL_BYTES as u64);
        if open.regular {
            open.file.seek(SeekFrom::Start(start))?;
            open.file.read_to_end(&mut tail)?;
            open.first = first_number(&self.path)?;
        }
        let resumed = resume(&tail, start == 0, head.as_deref(), keys).map_err(|_| {
            io::Error::other("the audit file holds no records under the configured keys: move it away, or restore its keys")
        })?;
        if resumed.unterminated {
            open.file.write_all(b"\n")?;
            open.len += 1;
        }
        self.open = Some(open);
        Ok(resumed)
    }

    fn open_path(&self) -> io::Result<OpenFile> {
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(PRIVATE)
            .open(&self.path)?;
        let meta = file.metadata()?;
        let regular = meta.is_file();
        if regular {
            lock(&file)?;
            if meta.permissions().mode() & 0o077 != 0 {
                file.set_permissions(fs::Permissions::from_mode(PRIVATE))?;
            }
        }
        Ok(OpenFile {
            file,
            regular,
            len: if regular { meta.len() } else { 0 },
            dirty: false,
            first: None,
            day: None,
        })
    }

    fn append(&mut self, batch: &Batch) -> io::Result<()> {
        let open = self.open.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        if open.dirty {
            open.file.set_len(open.len)?;
            open.dirty = false;
        }
        let written = open.file.write_all(&batch.bytes).and_then(|()| {
            if batch.durable && open.regular {
                open.file.sync_data()
            } else {
                Ok(())
            }
        });
        if let Err(error) = written {
            // Part of it may be there. If it cannot be cut off now, then before the next attempt.
            open.dirty = open.regular && open.file.set_len(open.len).is_err();
            return Err(error);
        }
        if open.regular {
            open.len += batch.bytes.len() as u64;
        }
        open.first.get_or_insert(batch.first);
        if let Some(row) = batch.rows.first() {
            open.day.get_or_insert(row.time_ms / DAY_MS);
        }
        match &batch.head {
            Some(head) if open.regular => self.publish(&batch.bytes[head.clone()]),
            _ => Ok(()),
        }
    }

    /// The records are written by now, so a head that cannot be published must not make them be written again.
    fn publish(&self, head: &[u8]) -> io::Result<()> {
        let (path, mut fresh) = (self.head_path(), self.head_path().into_os_string());
        fresh.push(".new");
        let written = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(PRIVATE)
            .open(&fresh)
            .and_then(|mut file| {
                file.write_all(head)?;
                file.sync_data()
            })
            .and_then(|()| fs::rename(&fresh, path));
        if let Err(error) = written {
            tracing::error!(%error, "cannot publish the head of the audit log");
        }
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let open = self.open.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        open.file.sync_all()?;
        let first = open.first.unwrap_or(1);
        let mut target = self.ended_path(first, "");
        for copy in 2.. {
            if !target.try_exists()? {
                break;
            }
            target = self.ended_path(first, &format!("-{copy}"));
        }
        self.stays = true;
        fs::rename(&self.path, target)?;
        self.stays = false;
        self.open = Some(self.open_path()?);
        Ok(())
    }

    /// When the path leads to another file than the one that is open, what was written here would be lost.
    fn reopen_if_moved(&mut self) -> io::Result<()> {
        let Some(open) = self.open.as_ref().filter(|open| open.regular) else {
            return Ok(());
        };
        let ours = open.file.metadata()?;
        let moved = match fs::metadata(&self.path) {
            Ok(there) => (there.dev(), there.ino()) != (ours.dev(), ours.ino()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => return Err(error),
        };
        if moved {
            self.open = Some(self.open_path()?);
            tracing::error!("the audit file was moved or deleted; another one was begun");
        }
        Ok(())
    }

    fn head_path(&self) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(".head");
        path.into()
    }

    fn ended_path(&self, first: u64, suffix: &str) -> PathBuf {
        let mut name = self.path.file_stem().unwrap_or_default().to_os_string();
        name.push(format!(".{first:012}{suffix}"));
        if let Some(extension) = self.path.extension() {
            name.push(OsString::from("."));
            name.push(extension);
        }
        self.path.with_file_name(name)
    }
}

/// One process writes a file. Waits a little for one that is leaving, or that was forked and holds our descriptors
/// until it becomes another program.
fn lock(file: &File) -> io::Result<()> {
    for attempt in 1.. {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if attempt < LOCK_ATTEMPTS => {
                std::thread::sleep(LOCK_PAUSE)
            }
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::other("another process writes this audit file"));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Ok(())
}

/// The number of a file's first record.
fn first_number(path: &Path) -> io::Result<Option<u64>> {
    use std::io::BufRead;
    let limit = crate::audit::chain::MAX_LINE_BYTES as u64;
    let mut line = Vec::new();
    io::BufReader::new(File::open(path)?)
        .take(limit)
        .read_until(b'\n', &mut line)?;
    Ok(Line::parse(line.strip_suffix(b"\n").unwrap_or(&line)).map(|line| line.seq))
}
