//! The sealed record (E4).
//!
//! ```text
//! magic "LLMR" │ version 1 │ alg 1 │ kek_id: u8 length, text │ wrapped_dek: u16 length, bytes │ nonce 96 │ ct │ tag 128
//! ```
//!
//! Lengths are big-endian. The associated data is everything before the nonce and the record's [`Binding`], so a row
//! that is moved, swapped or replayed under another id does not open (T8). Whatever is unknown fails closed.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use zeroize::Zeroizing;

use super::{
    KeyId, KeyMaterial, WrappedKey,
    cipher::{Cipher, NONCE_BYTES, TAG_BYTES, canonical},
    key::MAX_WRAPPED_BYTES,
    shred::UserKey,
};

const MAGIC: &[u8; 4] = b"LLMR";
const VERSION: u8 = 1;
const AES_256_GCM: u8 = 1;

/// Messages after which a key with random nonces seals nothing more.
///
/// # Source
/// NIST SP 800-38D §8.3: the chance of a repeated 96-bit nonce stays below 2⁻³².
pub const MAX_MESSAGES: u64 = 1 << 32;
/// Messages after which a data key should be replaced, long before the limit.
pub const ROTATE_AFTER_MESSAGES: u64 = 1 << 20;
/// Age at which a data key should be replaced, so that one found in memory opens little.
pub const ROTATE_AFTER: Duration = Duration::from_secs(24 * 60 * 60);
/// Longest plaintext. A minute of 16 kHz PCM has 2 MB; whoever has more cuts it.
pub const MAX_PLAINTEXT_BYTES: usize = 16 * 1024 * 1024;

/// The place of a record, and with it the associated data.
#[derive(Clone, Copy)]
pub struct Binding<'a> {
    /// Whose customer, where there are tenants.
    pub tenant: Option<&'a str>,
    /// Whose data.
    pub user: &'a str,
    /// The conversation.
    pub session: &'a str,
    /// The record.
    pub record: &'a str,
    /// Which part of the record.
    pub field: &'a str,
    /// The revision of that part, for what is overwritten in place. Otherwise 0.
    pub version: u32,
}

impl fmt::Debug for Binding<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Binding({}.{})", self.record, self.field)
    }
}

impl Binding<'_> {
    fn associated_data(&self, header: &[u8]) -> Vec<u8> {
        canonical([
            b"llmrtc record v1".as_slice(),
            header,
            &[u8::from(self.tenant.is_some())],
            self.tenant.unwrap_or_default().as_bytes(),
            self.user.as_bytes(),
            self.session.as_bytes(),
            self.record.as_bytes(),
            self.field.as_bytes(),
            &self.version.to_be_bytes(),
        ])
    }
}

/// Seals the records of one session (or one user) for a while.
pub struct DataKey {
    cipher: Cipher,
    /// Everything before the nonce; the same for all of this key's records.
    header: Vec<u8>,
    user_key: KeyId,
    sealed: AtomicU64,
    created: Instant,
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataKey")
            .field("user_key", &self.user_key)
            .field("sealed", &self.sealed)
            .finish_non_exhaustive()
    }
}

impl DataKey {
    /// A new key, wrapped under the user's.
    pub fn generate(user_key: &UserKey, now: Instant) -> Self {
        let material = KeyMaterial::generate();
        let wrapped = user_key.wrap_data_key(&material);
        let (id, bytes) = (wrapped.key_id.as_str().as_bytes(), &wrapped.bytes);
        let mut header = Vec::with_capacity(MAGIC.len() + 5 + id.len() + bytes.len());
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&[VERSION, AES_256_GCM]);
        header.push(u8::try_from(id.len()).expect("a key id has at most 128 bytes"));
        header.extend_from_slice(id);
        let length = u16::try_from(bytes.len()).expect("a locally wrapped key has 60 bytes");
        header.extend_from_slice(&length.to_be_bytes());
        header.extend_from_slice(bytes);
        Self {
            cipher: material.cipher(),
            header,
            user_key: wrapped.key_id,
            sealed: AtomicU64::new(0),
            created: now,
        }
    }

    /// The user key that it is wrapped under.
    pub fn user_key(&self) -> &KeyId {
        &self.user_key
    }

    /// Whether it is time for a new one: 2²⁰ records or 24 hours.
    pub fn is_due(&self, now: Instant) -> bool {
        self.sealed.load(Ordering::Relaxed) >= ROTATE_AFTER_MESSAGES
            || now.saturating_duration_since(self.created) >= ROTATE_AFTER
    }

    /// Seals a record for its place.
    ///
    /// # Errors
    /// When the plaintext is too long, and after 2³² records.
    pub fn seal(&self, binding: &Binding<'_>, plaintext: &[u8]) -> Result<Vec<u8>, SealError> {
        if plaintext.len() > MAX_PLAINTEXT_BYTES {
            return Err(SealError::TooLong);
        }
        // A refused attempt counts as well; the counter cannot come near to wrapping.
        if self.sealed.fetch_add(1, Ordering::Relaxed) >= MAX_MESSAGES {
            return Err(SealError::Exhausted);
        }
        let aad = binding.associated_data(&self.header);
        let capacity = self.header.len() + NONCE_BYTES + plaintext.len() + TAG_BYTES;
        let mut record = Vec::with_capacity(capacity);
        record.extend_from_slice(&self.header);
        self.cipher
            .seal(&aad, plaintext, &mut record)
            .map_err(|_| SealError::TooLong)?;
        Ok(record)
    }
}

/// A record was not sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// More than [`MAX_PLAINTEXT_BYTES`].
    #[error("record is longer than 16 MiB")]
    TooLong,
    /// [`MAX_MESSAGES`] records.
    #[error("data key is used up")]
    Exhausted,
}

/// A record as it was found: parsed, not yet believed.
#[derive(Debug)]
pub struct SealedRecord<'a> {
    header: &'a [u8],
    key: WrappedKey,
    /// Nonce, ciphertext, tag.
    body: &'a [u8],
}

impl<'a> SealedRecord<'a> {
    /// Takes the format apart.
    ///
    /// # Errors
    /// When it is no record, or of a version or algorithm that this program does not know.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, OpenError> {
        let rest = bytes.strip_prefix(MAGIC).ok_or(OpenError::Malformed)?;
        let (&version, rest) = rest.split_first().ok_or(OpenError::Malformed)?;
        if version != VERSION {
            return Err(OpenError::UnknownVersion(version));
        }
        let (&algorithm, rest) = rest.split_first().ok_or(OpenError::Malformed)?;
        if algorithm != AES_256_GCM {
            return Err(OpenError::UnknownAlgorithm(algorithm));
        }
        let (&id_length, rest) = rest.split_first().ok_or(OpenError::Malformed)?;
        let (id, rest) = rest
            .split_at_checked(id_length.into())
            .ok_or(OpenError::Malformed)?;
        let (wrapped_length, rest) = rest.split_first_chunk().ok_or(OpenError::Malformed)?;
        let wrapped_length = usize::from(u16::from_be_bytes(*wrapped_length));
        if wrapped_length > MAX_WRAPPED_BYTES {
            return Err(OpenError::Malformed);
        }
        let (wrapped, body) = rest
            .split_at_checked(wrapped_length)
            .ok_or(OpenError::Malformed)?;
        if body.len() < NONCE_BYTES + TAG_BYTES {
            return Err(OpenError::Malformed);
        }
        let key_id = std::str::from_utf8(id)
            .ok()
            .and_then(|id| KeyId::try_from(id).ok())
            .ok_or(OpenError::Malformed)?;
        Ok(Self {
            header: &bytes[..bytes.len() - body.len()],
            key: WrappedKey {
                key_id,
                bytes: wrapped.to_vec(),
            },
            body,
        })
    }

    /// The data key that sealed it, wrapped, with the name of the key that unwraps it.
    pub fn key(&self) -> &WrappedKey {
        &self.key
    }

    /// Opens it. Nothing is released unless the tag is right.
    ///
    /// # Errors
    /// When the key is another, the record was changed, or this is not its place.
    pub fn open(
        &self,
        key: &OpeningKey,
        binding: &Binding<'_>,
    ) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let aad = binding.associated_data(self.header);
        key.0.open(&aad, self.body).map_err(|_| OpenError::Rejected)
    }
}

/// A data key that opens records. It seals none, so it needs no count.
pub struct OpeningKey(Cipher);

impl OpeningKey {
    /// Prepares an unwrapped data key.
    pub fn new(key: &KeyMaterial) -> Self {
        Self(key.cipher())
    }
}

impl fmt::Debug for OpeningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[key]")
    }
}

/// A record was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// It is no record, or a torn one.
    #[error("not a sealed record")]
    Malformed,
    /// A later program wrote it.
    #[error("record version {0} is unknown")]
    UnknownVersion(u8),
    /// A later program wrote it.
    #[error("record algorithm {0} is unknown")]
    UnknownAlgorithm(u8),
    /// Key, content or place are not those it was sealed with.
    #[error("record does not open")]
    Rejected,
}

#[cfg(test)]
mod tests;
