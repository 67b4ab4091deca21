//! The keys of an audit log: one secret per epoch, from which everything else is derived.
//!
//! The file has a line per epoch, `1 <32 bytes in base64url>`; the highest epoch is in use, the others verify. Lines
//! that begin with `#` are comments. Mode 0600.

use std::{
    collections::BTreeMap,
    fmt, fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    str::FromStr,
};

use aws_lc_rs::{
    digest,
    hkdf::{HKDF_SHA256, Salt},
    hmac, rand,
    signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use llmrtc_core::redact::Secret;
use serde_json::Value;
use zeroize::{Zeroize, Zeroizing};

use super::args::{ArgsHash, canonical_json};

/// Length of an epoch's secret.
const SECRET_BYTES: usize = 32;
/// More epochs than a key rotated weekly for ten years; bounds what a file can make us derive.
const MAX_EPOCHS: usize = 512;

/// Keys that are not usable.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The text is no key file.
    #[error(
        "line {line} of the audit keys is not `EPOCH SECRET` with 32 bytes in base64url, epochs ascending from 1"
    )]
    Format {
        /// Counted from 1.
        line: usize,
    },
    /// There is no key in it.
    #[error("the audit keys are empty")]
    Empty,
    /// The file cannot be read or written.
    #[error("cannot use the audit key file {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The text is no public key.
    #[error("a public key is 32 bytes in base64url")]
    PublicKey,
}

/// What chains, signs and hashes. Everything is derived from the secrets with HKDF-SHA-256 under a label of its own.
pub struct AuditKeys {
    epochs: BTreeMap<u32, EpochKeys>,
    current: u32,
}

/// The keys of one epoch.
pub(super) struct EpochKeys {
    pub(super) epoch: u32,
    mac: hmac::Key,
    args: hmac::Key,
    signing: Ed25519KeyPair,
    pub(super) public: PublicKey,
}

impl AuditKeys {
    /// One fresh epoch, in memory only. For tests, and for logs that nobody verifies later.
    pub fn generate() -> Self {
        Self::parse(&fresh_line(1)).expect("a fresh line parses")
    }

    /// Reads the text of a key file.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(text: &Secret) -> Result<Self, KeyError> {
        let mut epochs = BTreeMap::new();
        let mut current = 0;
        for (index, line) in text.expose().lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = KeyError::Format { line: index + 1 };
            let Some((epoch, secret)) = parse_line(line).filter(|(epoch, _)| *epoch > current)
            else {
                return Err(wrong);
            };
            if epochs.len() >= MAX_EPOCHS {
                return Err(wrong);
            }
            current = epoch;
            epochs.insert(epoch, EpochKeys::derive(epoch, &secret));
        }
        if epochs.is_empty() {
            return Err(KeyError::Empty);
        }
        Ok(Self { epochs, current })
    }

    /// Reads a key file.
    ///
    /// # Errors
    /// When it cannot be read or is no key file.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let text = fs::read_to_string(path).map_err(|source| KeyError::File {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&Secret::new(text))
    }

    /// Reads a key file, or makes one with a fresh secret if there is none yet. Of several processes that start
    /// together, one makes it.
    ///
    /// # Errors
    /// As [`load`](Self::load), and when the file cannot be made.
    pub fn load_or_create(path: &Path) -> Result<Self, KeyError> {
        match fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
        {
            Ok(mut file) => file
                .write_all(fresh_line(1).expose().as_bytes())
                .and_then(|()| file.sync_all())
                .map_err(|source| KeyError::File {
                    path: path.to_owned(),
                    source,
                })?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(source) => {
                return Err(KeyError::File {
                    path: path.to_owned(),
                    source,
                });
            }
        }
        Self::load(path)
    }

    /// Adds a fresh epoch to a key file, which is in use from the next start or
    /// [`Audit::rekey`](super::Audit::rekey). Returns its number.
    ///
    /// # Errors
    /// As [`load`](Self::load), and when the file cannot be written.
    pub fn rotate(path: &Path) -> Result<u32, KeyError> {
        let epoch = Self::load(path)?.current + 1;
        fs::OpenOptions::new()
            .append(true)
            .open(path)
            .and_then(|mut file| {
                file.write_all(format!("\n{}", fresh_line(epoch).expose()).as_bytes())?;
                file.sync_all()
            })
            .map_err(|source| KeyError::File {
                path: path.to_owned(),
                source,
            })?;
        Ok(epoch)
    }

    /// The epoch in use.
    pub fn epoch(&self) -> u32 {
        self.current
    }

    /// What verifiers need to check signed heads, by epoch.
    pub fn public_keys(&self) -> impl Iterator<Item = (u32, PublicKey)> + '_ {
        self.epochs.values().map(|keys| (keys.epoch, keys.public))
    }

    /// The keyed hash of a tool's arguments, in the current epoch.
    pub fn args_hash(&self, args: &Value) -> ArgsHash {
        let keys = self.current();
        let tag = hmac::sign(&keys.args, &canonical_json(args));
        ArgsHash {
            epoch: keys.epoch,
            mac: digest_of(tag.as_ref()),
        }
    }

    /// Whether a recorded hash is that of `args`, which settles who is right about a call. `None` when the epoch's key
    /// is not here.
    pub fn args_match(&self, hash: &ArgsHash, args: &Value) -> Option<bool> {
        let keys = self.epochs.get(&hash.epoch)?;
        Some(hmac::verify(&keys.args, &canonical_json(args), &hash.mac).is_ok())
    }

    pub(super) fn current(&self) -> &EpochKeys {
        &self.epochs[&self.current]
    }

    pub(super) fn get(&self, epoch: u32) -> Option<&EpochKeys> {
        self.epochs.get(&epoch)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &EpochKeys> {
        self.epochs.values()
    }
}

impl fmt::Debug for AuditKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditKeys")
            .field("epoch", &self.current)
            .finish_non_exhaustive()
    }
}

impl EpochKeys {
    fn derive(epoch: u32, secret: &[u8; SECRET_BYTES]) -> Self {
        let derived = |label: &str| {
            let mut key = Zeroizing::new([0; 32]);
            let pseudorandom = Salt::new(HKDF_SHA256, b"llmrtc audit v1").extract(secret);
            pseudorandom
                .expand(&[label.as_bytes()], HKDF_SHA256)
                .and_then(|output| output.fill(&mut *key))
                .expect("32 bytes are one block of HKDF-SHA-256");
            key
        };
        let signing = Ed25519KeyPair::from_seed_unchecked(&*derived("head"))
            .expect("any 32 bytes are an Ed25519 seed");
        let public = PublicKey(digest_of(signing.public_key().as_ref()));
        Self {
            epoch,
            mac: hmac::Key::new(hmac::HMAC_SHA256, &*derived("record")),
            args: hmac::Key::new(hmac::HMAC_SHA256, &*derived("arguments")),
            signing,
            public,
        }
    }

    pub(super) fn mac(&self, bytes: &[u8]) -> [u8; 32] {
        digest_of(hmac::sign(&self.mac, bytes).as_ref())
    }

    pub(super) fn verify_mac(&self, bytes: &[u8], mac: &[u8]) -> bool {
        hmac::verify(&self.mac, bytes, mac).is_ok()
    }

    pub(super) fn sign(&self, bytes: &[u8]) -> [u8; 64] {
        let signature = self.signing.sign(bytes);
        signature
            .as_ref()
            .try_into()
            .expect("an Ed25519 signature has 64 bytes")
    }
}

/// Checks the signed heads of one epoch. Not secret: give it to whoever verifies.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// A short name for it, as the log quotes it: eight bytes of its SHA-256 in hexadecimal.
    pub fn id(&self) -> String {
        let hash = digest::digest(&digest::SHA256, &self.0);
        hash.as_ref()[..8]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    pub(super) fn verify(&self, bytes: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.0)
            .verify(bytes, signature)
            .is_ok()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        BASE64
            .decode(text.trim())
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .map(Self)
            .ok_or(KeyError::PublicKey)
    }
}

fn parse_line(line: &str) -> Option<(u32, Zeroizing<[u8; SECRET_BYTES]>)> {
    let (epoch, secret) = line.split_once(' ')?;
    let bytes = Zeroizing::new(BASE64.decode(secret.trim()).ok()?);
    let secret = Zeroizing::new(<[u8; SECRET_BYTES]>::try_from(bytes.as_slice()).ok()?);
    Some((epoch.parse().ok()?, secret))
}

fn fresh_line(epoch: u32) -> Secret {
    let mut secret = Zeroizing::new([0_u8; SECRET_BYTES]);
    rand::fill(&mut *secret).expect("the system has random numbers");
    let mut encoded = BASE64.encode(*secret);
    let line = Secret::new(format!("{epoch} {encoded}\n"));
    encoded.zeroize();
    line
}

fn digest_of(bytes: &[u8]) -> [u8; 32] {
    bytes.try_into().expect("the algorithm yields 32 bytes")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use serde_json::json;

    use super::*;

    #[test]
    fn a_first_start_makes_a_private_file_and_rotation_keeps_old_epochs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.key");
        let first = AuditKeys::load_or_create(&path).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let hash = first.args_hash(&json!({"a": 1}));
        assert_eq!(AuditKeys::rotate(&path).unwrap(), 2);
        let second = AuditKeys::load_or_create(&path).unwrap();
        assert_eq!((first.epoch(), second.epoch()), (1, 2));
        assert_eq!(second.args_match(&hash, &json!({"a": 1})), Some(true));
        assert_ne!(second.args_hash(&json!({"a": 1})).mac, hash.mac);
        let public: Vec<_> = second.public_keys().collect();
        assert_eq!(public[0], first.public_keys().next().unwrap());
        assert_eq!(
            public[1].1.to_string().parse::<PublicKey>().unwrap(),
            public[1].1
        );
    }

    #[test]
    fn what_is_no_key_file_is_refused_with_its_line_and_keys_do_not_print() {
        let good = fresh_line(1);
        for (text, line) in [
            ("1".to_owned(), 1),
            ("# hello\n1 c2hvcnQ".to_owned(), 2),
            (format!("x {}", &good.expose()[2..]), 1),
            (format!("{0}\n{0}", good.expose()), 3),
            (format!("0 {}", &good.expose()[2..]), 1),
        ] {
            match AuditKeys::parse(&Secret::new(text)) {
                Err(KeyError::Format { line: found }) => assert_eq!(found, line),
                other => panic!("{other:?}"),
            }
        }
        assert!(matches!(
            AuditKeys::parse(&Secret::new("\n# x\n")),
            Err(KeyError::Empty)
        ));
        assert!("c2hvcnQ".parse::<PublicKey>().is_err());
        let text = format!("{:?}", AuditKeys::parse(&good).unwrap());
        assert_eq!(text, "AuditKeys { epoch: 1, .. }");
    }
}
