//! Keys, their names, and the trait behind which the master key lives.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use llmrtc_core::{provider::BoxError, redact::Secret};
use serde::{Serialize, Serializer};
use zeroize::Zeroizing;

use super::cipher::{Cipher, KEY_BYTES, NONCE_BYTES, TAG_BYTES, random};

/// Longest name of a key. An AWS key ARN has 75 characters.
const MAX_ID_BYTES: usize = 128;
/// Longest wrapped key. AWS KMS answers with 184 bytes, Vault transit with about 100.
pub(super) const MAX_WRAPPED_BYTES: usize = 1024;

/// Names a key. Not secret: it stands in front of everything that the key seals.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(Arc<str>);

impl KeyId {
    /// A name that nobody has used: 16 hexadecimal digits.
    pub fn random() -> Self {
        Self(hex(&random::<8>()).into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<&str> for KeyId {
    type Error = InvalidKey;

    /// Takes 1 to 128 letters, digits and `._:/-`.
    fn try_from(text: &str) -> Result<Self, InvalidKey> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._:/-".contains(&byte);
        if text.is_empty() || text.len() > MAX_ID_BYTES || !text.bytes().all(allowed) {
            return Err(InvalidKey::Id);
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({})", self.0)
    }
}

/// Something that should be a key, or the name of one, is not.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidKey {
    /// The name.
    #[error("a key id has 1 to 128 letters, digits and ._:/-")]
    Id,
    /// The key.
    #[error("a key is 32 bytes in base64")]
    Material,
}

impl Serialize for KeyId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// An AES-256 key: wiped on drop, never printed, never copied.
pub struct KeyMaterial(Zeroizing<[u8; KEY_BYTES]>);

impl KeyMaterial {
    /// A new random key.
    pub fn generate() -> Self {
        Self(Zeroizing::new(random()))
    }

    /// Reads 32 bytes in base64.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn from_base64(text: &Secret) -> Result<Self, InvalidKey> {
        let bytes = Zeroizing::new(
            STANDARD
                .decode(text.expose().trim())
                .map_err(|_| InvalidKey::Material)?,
        );
        Self::from_slice(&bytes).ok_or(InvalidKey::Material)
    }

    /// Takes exactly 32 bytes.
    pub(super) fn from_slice(bytes: &[u8]) -> Option<Self> {
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        (bytes.len() == KEY_BYTES).then(|| {
            key.copy_from_slice(bytes);
            Self(key)
        })
    }

    /// The key in base64, for a keyring file.
    pub(super) fn to_base64(&self) -> Secret {
        Secret::new(STANDARD.encode(self.0.as_slice()))
    }

    /// What may be said about the key in logs and audit events (A3): it tells two keys apart and nothing else.
    pub fn fingerprint(&self) -> Fingerprint {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.0.as_slice());
        let tag = hmac::sign(&key, b"llmrtc key fingerprint");
        let mut short = [0; 4];
        short.copy_from_slice(&tag.as_ref()[..4]);
        Fingerprint(short)
    }

    /// For the importer, which composes its own mode.
    pub(super) fn bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    pub(super) fn cipher(&self) -> Cipher {
        Cipher::new(&self.0)
    }

    /// Seals another key: `nonce | ciphertext | tag`.
    pub(super) fn wrap(&self, key: &Self, context: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(NONCE_BYTES + KEY_BYTES + TAG_BYTES);
        self.cipher()
            .seal(context, key.0.as_slice(), &mut bytes)
            .expect("32 bytes are within the limits of the cipher");
        bytes
    }

    /// Opens what [`wrap`](Self::wrap) sealed. `None` for anything else.
    pub(super) fn unwrap(&self, wrapped: &[u8], context: &[u8]) -> Option<Self> {
        let opened = self.cipher().open(context, wrapped).ok()?;
        Self::from_slice(&opened)
    }
}

impl fmt::Debug for KeyMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[key]")
    }
}

/// Eight hexadecimal digits that stand for a key: HMAC-SHA-256 under the key itself, cut to 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 4]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A key sealed by another, with the name of that other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrappedKey {
    /// The key that can unwrap it.
    pub key_id: KeyId,
    /// The sealed key, 1 to 1,024 bytes.
    pub bytes: Vec<u8>,
}

/// Whoever holds the master key: a [keyring](super::keyring::LocalKeyring), AWS KMS, Vault transit.
///
/// `context` is authenticated but not stored: a KMS passes it as encryption context (in base64, where it wants text).
#[async_trait]
pub trait KeyWrapper: fmt::Debug + Send + Sync + 'static {
    /// The key that wraps from now on.
    ///
    /// # Errors
    /// When there is none or it could not be asked for.
    async fn current(&self) -> Result<KeyId, WrapError>;

    /// Wraps a key under the current master key.
    ///
    /// # Errors
    /// When there is no current key or it could not be used.
    async fn wrap(&self, key: &KeyMaterial, context: &[u8]) -> Result<WrappedKey, WrapError>;

    /// Unwraps a key.
    ///
    /// # Errors
    /// When the master key is unknown, retired or out of reach, and when key or context were changed.
    async fn unwrap(&self, wrapped: &WrappedKey, context: &[u8]) -> Result<KeyMaterial, WrapError>;
}

/// A key could not be wrapped or unwrapped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WrapError {
    /// No key of this name.
    #[error("unknown key {0}")]
    UnknownKey(KeyId),
    /// The key was thrown away.
    #[error("key {0} is retired")]
    Retired(KeyId),
    /// The wrapped key is damaged, or belongs to somebody else.
    #[error("wrapped key does not open")]
    Rejected,
    /// The holder of the master key does not answer. May be tried again.
    #[error("master key is out of reach")]
    Unavailable(#[source] BoxError),
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod a4_keys {
    use super::*;

    #[test]
    fn keys_do_not_print_and_fingerprints_tell_them_apart() {
        let (a, b) = (KeyMaterial::generate(), KeyMaterial::generate());
        assert_eq!(format!("{a:?}"), "[key]");
        assert_ne!(a.fingerprint(), b.fingerprint());
        assert_eq!(a.fingerprint().to_string().len(), 8);
        let again = KeyMaterial::from_base64(&a.to_base64()).unwrap();
        assert_eq!(again.fingerprint(), a.fingerprint());
        // Pinned, because it is compared across versions: HMAC-SHA-256 under 32 zero bytes.
        let zero = KeyMaterial::from_slice(&[0; 32]).unwrap();
        let key = hmac::Key::new(hmac::HMAC_SHA256, &[0; 32]);
        let tag = hmac::sign(&key, b"llmrtc key fingerprint");
        assert_eq!(zero.fingerprint().to_string(), hex(&tag.as_ref()[..4]));
    }

    #[test]
    fn ids_and_keys_are_checked_at_the_door() {
        for bad in ["", "a b", "ü", "a\n", &"k".repeat(129)] {
            assert_eq!(KeyId::try_from(bad), Err(InvalidKey::Id), "{bad}");
        }
        let arn = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";
        assert_eq!(KeyId::try_from(arn).unwrap().as_str(), arn);
        for bad in ["", "AAAA", "not base64", &STANDARD.encode([1; 33])] {
            let refused = KeyMaterial::from_base64(&Secret::new(bad)).unwrap_err();
            assert_eq!(refused, InvalidKey::Material, "{bad}");
        }
    }

    #[test]
    fn a_wrapped_key_opens_only_in_its_context() {
        let (master, key) = (KeyMaterial::generate(), KeyMaterial::generate());
        let wrapped = master.wrap(&key, b"ada");
        assert_eq!(
            master.unwrap(&wrapped, b"ada").unwrap().fingerprint(),
            key.fingerprint()
        );
        assert!(master.unwrap(&wrapped, b"eve").is_none());
        assert!(KeyMaterial::generate().unwrap(&wrapped, b"ada").is_none());
        for index in 0..wrapped.len() {
            let mut bent = wrapped.clone();
            bent[index] ^= 1;
            assert!(master.unwrap(&bent, b"ada").is_none(), "byte {index}");
            assert!(master.unwrap(&wrapped[..index], b"ada").is_none());
        }
    }
}
