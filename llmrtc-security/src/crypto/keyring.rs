//! Master keys in a file: names, states, rotation (E4, A3, A4).
//!
//! | State | Wraps | Unwraps | In the file |
//! | --- | --- | --- | --- |
//! | active (exactly one) | yes | yes | key |
//! | decrypt-only | no | yes | key |
//! | retired | no | no | name and dates only |
//!
//! The file is JSON, readable by its owner alone, and replaced as a whole:
//!
//! ```json
//! {"version":1,"keys":[{"id":"0f0e…","status":"active","created":"2026-01-31T12:00:00Z","key":"base64…"}]}
//! ```

mod file;
mod local;

use std::{fmt, io, path::PathBuf, time::SystemTime};

use llmrtc_core::redact::Secret;
use serde::{Deserialize, Serialize, Serializer};
use zeroize::Zeroizing;

pub use self::local::LocalKeyring;
use super::{Fingerprint, InvalidKey, KeyId, KeyMaterial};

const VERSION: u32 = 1;
/// Most keys, retired ones included: monthly rotation for twenty years.
const MAX_KEYS: usize = 256;
/// Longest keyring in JSON; 256 keys need less than 64 KiB.
const MAX_BYTES: usize = 64 * 1024;

/// What a master key may still do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyStatus {
    /// Wraps and unwraps.
    Active,
    /// Unwraps what it wrapped before it was succeeded.
    DecryptOnly,
    /// Thrown away; its name stays taken.
    Retired,
}

impl fmt::Display for KeyStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Active => "active",
            Self::DecryptOnly => "decrypt-only",
            Self::Retired => "retired",
        })
    }
}

/// What may be told about a master key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeyInfo {
    /// Its name.
    pub id: KeyId,
    /// What it may do.
    pub status: KeyStatus,
    /// When it was made, to the second.
    #[serde(serialize_with = "as_rfc3339")]
    pub created: SystemTime,
    /// Stands for the key in logs; `None` when it is retired.
    pub fingerprint: Option<Fingerprint>,
}

fn as_rfc3339<S: Serializer>(at: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_rfc3339_seconds(*at))
}

/// Master keys, the oldest first. Exactly one is active.
#[derive(Debug)]
pub struct Keyring {
    keys: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    id: KeyId,
    status: KeyStatus,
    created: SystemTime,
    /// Absent when retired.
    material: Option<KeyMaterial>,
}

impl Entry {
    fn generate(now: SystemTime) -> Self {
        Self {
            id: KeyId::random(),
            status: KeyStatus::Active,
            created: now,
            material: Some(KeyMaterial::generate()),
        }
    }
}

impl Keyring {
    /// A keyring with one new key.
    pub fn generate(now: SystemTime) -> Self {
        Self {
            keys: vec![Entry::generate(now)],
        }
    }

    /// Reads the JSON form, wherever it comes from: a file, or the secret of a container.
    ///
    /// # Errors
    /// When it is no keyring, or not exactly one key is active.
    pub fn parse(json: &[u8]) -> Result<Self, KeyringError> {
        if json.len() > MAX_BYTES {
            return Err(KeyringError::TooLong);
        }
        let stored: Stored = serde_json::from_slice(json).map_err(|error| {
            // The parser quotes what it stumbled over, which may be a key.
            KeyringError::Malformed {
                line: error.line(),
                column: error.column(),
            }
        })?;
        if stored.version != VERSION {
            return Err(KeyringError::UnknownVersion(stored.version));
        }
        if stored.keys.len() > MAX_KEYS {
            return Err(KeyringError::TooLong);
        }
        let mut keys: Vec<Entry> = Vec::with_capacity(stored.keys.len());
        for key in stored.keys {
            let id = KeyId::try_from(key.id.as_str())?;
            if keys.iter().any(|known| known.id == id) {
                return Err(KeyringError::Duplicate(id));
            }
            let created = humantime::parse_rfc3339_weak(&key.created)
                .map_err(|_| KeyringError::Date(id.clone()))?;
            let material = match (key.status, &key.key) {
                (KeyStatus::Retired, None) => None,
                (KeyStatus::Active | KeyStatus::DecryptOnly, Some(text)) => {
                    Some(KeyMaterial::from_base64(text)?)
                }
                _ => return Err(KeyringError::Inconsistent(id)),
            };
            keys.push(Entry {
                id,
                status: key.status,
                created,
                material,
            });
        }
        let active = |key: &&Entry| key.status == KeyStatus::Active;
        match keys.iter().filter(active).count() {
            1 => Ok(Self { keys }),
            count => Err(KeyringError::Active(count)),
        }
    }

    /// The JSON form, for a file or a secret manager.
    pub fn to_json(&self) -> Secret {
        let stored = StoredOut {
            version: VERSION,
            keys: self.keys.iter().map(StoredKeyOut::from).collect(),
        };
        // Room for everything from the start: a growing buffer leaves keys behind in freed memory.
        let mut json = Zeroizing::new(Vec::with_capacity(MAX_BYTES));
        serde_json::to_writer_pretty(&mut *json, &stored)
            .expect("a keyring is plain data, and memory accepts all of it");
        Secret::new(std::str::from_utf8(&json).expect("JSON is UTF-8"))
    }

    /// Adds a new key, which wraps from now on, and leaves the previous one to unwrap.
    ///
    /// # Errors
    /// When the keyring is full.
    pub fn rotate(&mut self, now: SystemTime) -> Result<KeyInfo, KeyringError> {
        if self.keys.len() >= MAX_KEYS {
            return Err(KeyringError::TooLong);
        }
        for key in &mut self.keys {
            if key.status == KeyStatus::Active {
                key.status = KeyStatus::DecryptOnly;
            }
        }
        let key = Entry::generate(now);
        let info = key.info();
        self.keys.push(key);
        Ok(info)
    }

    /// Throws a key away. `in_use` is how many wrapped keys still need it, as counted by whoever stores them.
    ///
    /// # Errors
    /// When data would be lost, the key is the active one, or there is none of this name.
    pub fn retire(&mut self, id: &KeyId, in_use: u64) -> Result<(), KeyringError> {
        let key = self
            .keys
            .iter_mut()
            .find(|key| key.id == *id)
            .ok_or_else(|| KeyringError::Unknown(id.clone()))?;
        if key.status == KeyStatus::Active {
            return Err(KeyringError::StillActive(id.clone()));
        }
        if in_use > 0 {
            return Err(KeyringError::InUse {
                id: id.clone(),
                in_use,
            });
        }
        key.status = KeyStatus::Retired;
        key.material = None;
        Ok(())
    }

    /// All keys, the oldest first.
    pub fn list(&self) -> impl Iterator<Item = KeyInfo> {
        self.keys.iter().map(Entry::info)
    }

    /// The key that wraps.
    pub fn active(&self) -> KeyInfo {
        self.active_entry().info()
    }

    fn active_entry(&self) -> &Entry {
        self.keys
            .iter()
            .find(|key| key.status == KeyStatus::Active)
            .expect("every constructor leaves exactly one active key")
    }

    fn find(&self, id: &KeyId) -> Option<&Entry> {
        self.keys.iter().find(|key| key.id == *id)
    }
}

impl Entry {
    fn info(&self) -> KeyInfo {
        KeyInfo {
            id: self.id.clone(),
            status: self.status,
            created: self.created,
            fingerprint: self.material.as_ref().map(KeyMaterial::fingerprint),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    keys: Vec<StoredKey>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredKey {
    id: String,
    status: KeyStatus,
    created: String,
    #[serde(default)]
    key: Option<Secret>,
}

#[derive(Serialize)]
struct StoredOut<'a> {
    version: u32,
    keys: Vec<StoredKeyOut<'a>>,
}

/// The one place where a key is written out.
#[derive(Serialize)]
struct StoredKeyOut<'a> {
    id: &'a str,
    status: KeyStatus,
    created: String,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "exposed")]
    key: Option<Secret>,
}

fn exposed<S: Serializer>(key: &Option<Secret>, serializer: S) -> Result<S::Ok, S::Error> {
    key.as_ref().map(Secret::expose).serialize(serializer)
}

impl<'a> From<&'a Entry> for StoredKeyOut<'a> {
    fn from(entry: &'a Entry) -> Self {
        Self {
            id: entry.id.as_str(),
            status: entry.status,
            created: humantime::format_rfc3339_seconds(entry.created).to_string(),
            key: entry.material.as_ref().map(KeyMaterial::to_base64),
        }
    }
}

/// A keyring was not read, written or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyringError {
    /// It is not JSON, or not of this shape.
    #[error("keyring is malformed at line {line}, column {column}")]
    Malformed {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
    },
    /// A later program wrote it.
    #[error("keyring version {0} is unknown")]
    UnknownVersion(u32),
    /// More than 256 keys or 64 KiB.
    #[error("keyring is too long: at most 256 keys and 64 KiB")]
    TooLong,
    /// Two keys of one name.
    #[error("key {0} is there twice")]
    Duplicate(KeyId),
    /// A name or a key is none.
    #[error("keyring holds an invalid key")]
    Invalid(#[from] InvalidKey),
    /// Not `2026-01-31T12:00:00Z`.
    #[error("creation date of key {0} is not in RFC 3339")]
    Date(KeyId),
    /// A retired key with its key, or another without.
    #[error("key {0} must have a key exactly when it is not retired")]
    Inconsistent(KeyId),
    /// None or several.
    #[error("keyring must have exactly one active key and has {0}")]
    Active(usize),
    /// No key of this name.
    #[error("there is no key {0}")]
    Unknown(KeyId),
    /// The active key cannot be retired.
    #[error("key {0} is active: rotate first")]
    StillActive(KeyId),
    /// Retiring it would lose data.
    #[error("key {id} still wraps {in_use} keys: re-wrap them first")]
    InUse {
        /// The key.
        id: KeyId,
        /// How many keys it wraps.
        in_use: u64,
    },
    /// Somebody else may read the file.
    #[error("{} may be read by others (mode {mode:o}): `chmod 600` it, and consider its keys known", .path.display())]
    Permissions {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file could not be read or written.
    #[error("cannot {action} keyring {}", .path.display())]
    Io {
        /// `read`, `write` or `create`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

#[cfg(test)]
mod tests;
