//! A keyring as the holder of the master key.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use llmrtc_core::redact::Secret;

use super::{KeyInfo, Keyring, KeyringError, file::Stamp};
use crate::crypto::{KeyId, KeyMaterial, KeyWrapper, WrapError, WrappedKey};

/// Wraps with the keys of a [`Keyring`], and follows its file.
///
/// Before it wraps it looks whether the file has changed (one `stat`), so that a rotation counts from the next write
/// on; it looks again when it meets a key it does not know. A file that cannot be read keeps the keys in memory
/// working and is reported in the log.
pub struct LocalKeyring {
    keys: ArcSwap<Keyring>,
    source: Option<Source>,
    observer: Option<Observer>,
}

/// Is told of the key that wraps from now on.
type Observer = Box<dyn Fn(&KeyInfo) + Send + Sync>;

impl fmt::Debug for LocalKeyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalKeyring")
            .field("keys", &self.keys)
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Source {
    path: PathBuf,
    /// What was read last.
    stamp: Mutex<Stamp>,
}

impl LocalKeyring {
    /// Wraps with these keys.
    pub fn new(keyring: Keyring) -> Self {
        Self {
            keys: ArcSwap::from_pointee(keyring),
            source: None,
            observer: None,
        }
    }

    /// Tells `observer`, which must not block, when another key wraps from now on.
    #[must_use]
    pub fn observed(mut self, observer: impl Fn(&KeyInfo) + Send + Sync + 'static) -> Self {
        self.observer = Some(Box::new(observer));
        self
    }

    /// Wraps with the keys of a file.
    ///
    /// # Errors
    /// Those of [`Keyring::load`].
    pub fn open(path: &Path) -> Result<Self, KeyringError> {
        let (keyring, stamp) = Keyring::load_stamped(path)?;
        Ok(Self {
            keys: ArcSwap::from_pointee(keyring),
            source: Some(Source {
                path: path.to_owned(),
                stamp: Mutex::new(stamp),
            }),
            observer: None,
        })
    }

    /// Wraps with the keys of a secret, for containers without a disk.
    ///
    /// # Errors
    /// Those of [`Keyring::parse`].
    pub fn from_secret(json: &Secret) -> Result<Self, KeyringError> {
        Keyring::parse(json.expose().as_bytes()).map(Self::new)
    }

    /// Wraps with other keys from now on: a secret source has delivered a new value.
    pub fn replace(&self, keyring: Keyring) {
        let active = keyring.active();
        let before = self.keys.swap(Arc::new(keyring));
        if let Some(observer) = &self.observer
            && before.active_entry().id != active.id
        {
            observer(&active);
        }
    }

    /// The keys in use.
    pub fn keys(&self) -> Arc<Keyring> {
        self.keys.load_full()
    }

    /// Reads the file again if it has changed, and says whether it had.
    ///
    /// # Errors
    /// Those of [`Keyring::load`]; the keys stay as they are.
    pub fn refresh(&self) -> Result<bool, KeyringError> {
        let Some(source) = &self.source else {
            return Ok(false);
        };
        let mut known = source.stamp.lock().unwrap_or_else(PoisonError::into_inner);
        // A file that is gone is reported by reading it.
        if Stamp::of(&source.path).is_ok_and(|stamp| stamp == *known) {
            return Ok(false);
        }
        let (keyring, stamp) = Keyring::load_stamped(&source.path)?;
        *known = stamp;
        self.replace(keyring);
        Ok(true)
    }

    fn refresh_or_warn(&self) {
        if let Err(error) = self.refresh() {
            tracing::warn!(%error, "keyring file is unusable; its previous keys stay in use");
        }
    }

    fn unwrap_now(&self, wrapped: &WrappedKey, context: &[u8]) -> Result<KeyMaterial, WrapError> {
        let keys = self.keys.load();
        let unknown = || WrapError::UnknownKey(wrapped.key_id.clone());
        let entry = keys.find(&wrapped.key_id).ok_or_else(unknown)?;
        let retired = || WrapError::Retired(wrapped.key_id.clone());
        let material = entry.material.as_ref().ok_or_else(retired)?;
        material
            .unwrap(&wrapped.bytes, context)
            .ok_or(WrapError::Rejected)
    }
}

#[async_trait]
impl KeyWrapper for LocalKeyring {
    async fn current(&self) -> Result<KeyId, WrapError> {
        self.refresh_or_warn();
        Ok(self.keys.load().active_entry().id.clone())
    }

    async fn wrap(&self, key: &KeyMaterial, context: &[u8]) -> Result<WrappedKey, WrapError> {
        self.refresh_or_warn();
        let keys = self.keys.load();
        let active = keys.active_entry();
        let material = active
            .material
            .as_ref()
            .expect("only retired keys are without material");
        Ok(WrappedKey {
            key_id: active.id.clone(),
            bytes: material.wrap(key, context),
        })
    }

    async fn unwrap(&self, wrapped: &WrappedKey, context: &[u8]) -> Result<KeyMaterial, WrapError> {
        match self.unwrap_now(wrapped, context) {
            Err(WrapError::UnknownKey(_)) => {
                self.refresh_or_warn();
                self.unwrap_now(wrapped, context)
            }
            result => result,
        }
    }
}
