//! The keyring's file: refused when others can read it, replaced atomically, never half written.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::SystemTime,
};

use zeroize::Zeroizing;

use super::{Keyring, KeyringError, MAX_BYTES};
use crate::crypto::key::hex;

/// Permission bits of group and others.
const OTHERS: u32 = 0o077;

/// Tells two contents of one path apart without reading them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: u64,
    length: u64,
    modified: (i64, i64),
}

impl Stamp {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(|meta| Self::from(&meta))
    }
}

impl From<&fs::Metadata> for Stamp {
    fn from(meta: &fs::Metadata) -> Self {
        Self {
            inode: meta.ino(),
            length: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
        }
    }
}

impl Keyring {
    /// Reads a keyring file.
    ///
    /// # Errors
    /// When group or others may read it, it cannot be read, or it is no keyring.
    pub fn load(path: &Path) -> Result<Self, KeyringError> {
        Self::load_stamped(path).map(|(keyring, _)| keyring)
    }

    pub(super) fn load_stamped(path: &Path) -> Result<(Self, Stamp), KeyringError> {
        let failed = |source| io_error("read", path, source);
        let file = File::open(path).map_err(failed)?;
        // Of the file that is open, not of what may be at its path by now.
        let meta = file.metadata().map_err(failed)?;
        let mode = meta.mode() & 0o777;
        if mode & OTHERS != 0 {
            let path = path.to_owned();
            return Err(KeyringError::Permissions { path, mode });
        }
        let mut json = Zeroizing::new(Vec::with_capacity(MAX_BYTES + 1));
        file.take(MAX_BYTES as u64 + 1)
            .read_to_end(&mut json)
            .map_err(failed)?;
        Ok((Self::parse(&json)?, Stamp::from(&meta)))
    }

    /// Creates a keyring file with one new key.
    ///
    /// # Errors
    /// When something is there already, or it cannot be written.
    pub fn create(path: &Path, now: SystemTime) -> Result<Self, KeyringError> {
        let failed = |source| io_error("create", path, source);
        let _lock = lock(path).map_err(failed)?;
        if path.symlink_metadata().is_ok() {
            return Err(failed(io::ErrorKind::AlreadyExists.into()));
        }
        let keyring = Self::generate(now);
        keyring.replace(path).map_err(failed)?;
        Ok(keyring)
    }

    /// Changes a keyring file: reads it, lets `change` work on it and replaces it, while others who would do the
    /// same wait.
    ///
    /// # Errors
    /// Those of reading, writing and `change`. The file is then as before.
    pub fn update<T, E: From<KeyringError>>(
        path: &Path,
        change: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<T, E> {
        let failed = |source| io_error("write", path, source);
        let _lock = lock(path).map_err(failed)?;
        let mut keyring = Self::load(path)?;
        let result = change(&mut keyring)?;
        keyring.replace(path).map_err(failed)?;
        Ok(result)
    }

    fn replace(&self, path: &Path) -> io::Result<()> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let mut temporary = name.to_owned();
        temporary.push(format!(
            ".{}.new",
            hex(&crate::crypto::cipher::random::<4>())
        ));
        let temporary = path.with_file_name(temporary);
        let written = write_new(&temporary, self.to_json().expose().as_bytes())
            .and_then(|()| fs::rename(&temporary, path))
            // The new name, too, has to survive a power cut.
            .and_then(|()| File::open(folder(path))?.sync_all());
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written
    }
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Held until dropped. On the folder, because the file itself is replaced.
fn lock(path: &Path) -> io::Result<File> {
    let folder = File::open(folder(path))?;
    folder.lock()?;
    Ok(folder)
}

fn folder(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> KeyringError {
    KeyringError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}
