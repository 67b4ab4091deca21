//! Algorithms and keys. A shared secret and a public key are different types with different algorithms, so no
//! configuration and no token can make one of them pass for the other (RFC 8725 §2.1).

use std::{fmt, sync::Arc};

use arc_swap::ArcSwap;
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, crypto};
use llmrtc_core::redact::Secret;
use serde::{Deserialize, Serialize};

use super::{JwtError, compact::Compact};

/// Keys of one issuer. More than two mean that nobody retires any.
pub const MAX_KEYS: usize = 16;

/// Keys tried for one token. A token that does not name its key must not cost more than a few verifications.
const MAX_TRIED: usize = 4;

/// Algorithms with a shared secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum HmacAlgorithm {
    /// HMAC with SHA-256.
    #[serde(rename = "HS256")]
    Hs256,
    /// HMAC with SHA-384.
    #[serde(rename = "HS384")]
    Hs384,
    /// HMAC with SHA-512.
    #[serde(rename = "HS512")]
    Hs512,
}

impl HmacAlgorithm {
    const ALL: [Self; 3] = [Self::Hs256, Self::Hs384, Self::Hs512];

    /// The name in a token's header.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Hs384 => "HS384",
            Self::Hs512 => "HS512",
        }
    }

    /// The algorithm of this name, spelt exactly so.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.name() == name)
    }

    /// The shortest secret: as long as the hash (RFC 7518 §3.2).
    pub const fn min_secret_bytes(self) -> usize {
        match self {
            Self::Hs256 => 32,
            Self::Hs384 => 48,
            Self::Hs512 => 64,
        }
    }

    pub(super) const fn raw(self) -> Algorithm {
        match self {
            Self::Hs256 => Algorithm::HS256,
            Self::Hs384 => Algorithm::HS384,
            Self::Hs512 => Algorithm::HS512,
        }
    }
}

/// Algorithms with a key pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PublicAlgorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    #[serde(rename = "RS256")]
    Rs256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    #[serde(rename = "RS384")]
    Rs384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    #[serde(rename = "RS512")]
    Rs512,
    /// RSASSA-PSS with SHA-256.
    #[serde(rename = "PS256")]
    Ps256,
    /// RSASSA-PSS with SHA-384.
    #[serde(rename = "PS384")]
    Ps384,
    /// RSASSA-PSS with SHA-512.
    #[serde(rename = "PS512")]
    Ps512,
    /// ECDSA on P-256 with SHA-256.
    #[serde(rename = "ES256")]
    Es256,
    /// ECDSA on P-384 with SHA-384.
    #[serde(rename = "ES384")]
    Es384,
    /// Ed25519.
    #[serde(rename = "EdDSA")]
    EdDsa,
}

impl PublicAlgorithm {
    const ALL: [Self; 9] = [
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
        Self::Es256,
        Self::Es384,
        Self::EdDsa,
    ];

    /// The name in a token's header.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::EdDsa => "EdDSA",
        }
    }

    /// The algorithm of this name, spelt exactly so.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.name() == name)
    }

    pub(super) const fn raw(self) -> Algorithm {
        match self {
            Self::Rs256 => Algorithm::RS256,
            Self::Rs384 => Algorithm::RS384,
            Self::Rs512 => Algorithm::RS512,
            Self::Ps256 => Algorithm::PS256,
            Self::Ps384 => Algorithm::PS384,
            Self::Ps512 => Algorithm::PS512,
            Self::Es256 => Algorithm::ES256,
            Self::Es384 => Algorithm::ES384,
            Self::EdDsa => Algorithm::EdDSA,
        }
    }
}

/// A key that must not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Too short a secret.
    #[error("the secret has {found} bytes; the algorithm needs at least {needed}")]
    ShortSecret {
        /// Bytes of the secret.
        found: usize,
        /// Bytes that it needs.
        needed: usize,
    },
    /// Too short an RSA key.
    #[error("the RSA key has {bits} bits; 2048 are the least")]
    ShortRsa {
        /// Bits of the modulus.
        bits: usize,
    },
    /// Not a key for this algorithm, or not as PEM (`PUBLIC KEY`, or `PRIVATE KEY` to sign with).
    #[error("not a PEM key for {0}")]
    NotAKey(&'static str),
    /// No algorithm, or no key.
    #[error("needs at least one {0}")]
    Empty(&'static str),
    /// Too many keys.
    #[error("has more than {MAX_KEYS} keys; retire some")]
    TooMany,
}

/// The secrets of an issuer: the current one and, while tokens of both are around, the one before.
///
/// Clones share the secrets, so that whoever holds one can [`replace`](Self::replace) them while the server runs.
#[derive(Clone)]
pub struct SharedSecrets {
    algorithms: Arc<[HmacAlgorithm]>,
    keys: Arc<ArcSwap<Vec<DecodingKey>>>,
}

impl fmt::Debug for SharedSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedSecrets")
            .field("algorithms", &self.algorithms)
            .finish_non_exhaustive()
    }
}

impl SharedSecrets {
    /// The bytes of `current`, and of `previous` while it overlaps, for these algorithms.
    ///
    /// # Errors
    /// When there is no algorithm or a secret is too short for one of them.
    pub fn new(
        algorithms: &[HmacAlgorithm],
        current: &Secret,
        previous: Option<&Secret>,
    ) -> Result<Self, KeyError> {
        let keys = secrets(algorithms, current, previous)?;
        Ok(Self {
            algorithms: algorithms.into(),
            keys: Arc::new(ArcSwap::from_pointee(keys)),
        })
    }

    /// Rotates. A token that is being verified keeps the secrets it began with.
    ///
    /// # Errors
    /// As [`new`](Self::new); the secrets stay what they were.
    pub fn replace(&self, current: &Secret, previous: Option<&Secret>) -> Result<(), KeyError> {
        let keys = secrets(&self.algorithms, current, previous)?;
        self.keys.store(Arc::new(keys));
        Ok(())
    }

    pub(super) fn verify(&self, token: &Compact<'_>) -> Result<(), JwtError> {
        let algorithm = HmacAlgorithm::from_name(token.algorithm()?)
            .filter(|algorithm| self.algorithms.contains(algorithm))
            .ok_or(JwtError::Algorithm)?;
        // Every secret is tried whatever the first one says.
        let genuine = self.keys.load().iter().fold(false, |genuine, key| {
            genuine | is_genuine(token, key, algorithm.raw())
        });
        genuine.then_some(()).ok_or(JwtError::Signature)
    }
}

fn secrets(
    algorithms: &[HmacAlgorithm],
    current: &Secret,
    previous: Option<&Secret>,
) -> Result<Vec<DecodingKey>, KeyError> {
    let needed = algorithms
        .iter()
        .map(|algorithm| algorithm.min_secret_bytes());
    let needed = needed.max().ok_or(KeyError::Empty("algorithm"))?;
    [Some(current), previous]
        .into_iter()
        .flatten()
        .map(|secret| {
            let bytes = secret.expose().as_bytes();
            let found = bytes.len();
            if found < needed {
                return Err(KeyError::ShortSecret { found, needed });
            }
            Ok(DecodingKey::from_secret(bytes))
        })
        .collect()
}

/// A public key, with the algorithms it is for.
#[derive(Clone, Debug)]
pub struct PublicKey {
    key_id: Option<Arc<str>>,
    algorithms: Vec<PublicAlgorithm>,
    key: DecodingKey,
}

impl PublicKey {
    /// Reads a PEM public key for one algorithm. With `key_id`, tokens that name another key are not tried with it.
    ///
    /// # Errors
    /// When it is no such key, or too short.
    pub fn from_pem(
        algorithm: PublicAlgorithm,
        key_id: Option<&str>,
        pem: &str,
    ) -> Result<Self, KeyError> {
        let bad = KeyError::NotAKey(algorithm.name());
        // A private key parses as well, and does not belong on a server that only verifies.
        if !pem.contains("BEGIN PUBLIC KEY") && !pem.contains("BEGIN RSA PUBLIC KEY") {
            return Err(bad);
        }
        let pem = pem.as_bytes();
        let key = match algorithm.raw().family() {
            AlgorithmFamily::Rsa => DecodingKey::from_rsa_pem(pem),
            AlgorithmFamily::Ec => DecodingKey::from_ec_pem(pem),
            AlgorithmFamily::Ed => DecodingKey::from_ed_pem(pem),
            AlgorithmFamily::Hmac => return Err(bad),
        };
        let key = key.map_err(|_| bad)?;
        let bytes = key.try_get_as_bytes().map_err(|_| bad)?;
        match algorithm {
            PublicAlgorithm::Es256 => is_point(bytes, 32).then_some(()).ok_or(bad)?,
            PublicAlgorithm::Es384 => is_point(bytes, 48).then_some(()).ok_or(bad)?,
            PublicAlgorithm::EdDsa => (bytes.len() == 32).then_some(()).ok_or(bad)?,
            _ => {
                let parts = &crypto::aws_lc::DEFAULT_PROVIDER.key_utils;
                let (modulus, _) =
                    (parts.rsa_pub_components_from_public_key)(bytes).map_err(|_| bad)?;
                check_modulus(&modulus)?;
            }
        }
        Ok(Self {
            key_id: key_id.map(Arc::from),
            algorithms: vec![algorithm],
            key,
        })
    }

    #[cfg(feature = "jwks")]
    pub(super) fn from_parts(
        key_id: Option<&str>,
        algorithms: Vec<PublicAlgorithm>,
        key: DecodingKey,
    ) -> Self {
        Self {
            key_id: key_id.map(Arc::from),
            algorithms,
            key,
        }
    }

    #[cfg(feature = "jwks")]
    pub(super) fn key_id(&self) -> Option<&str> {
        self.key_id.as_deref()
    }

    fn matches(&self, key_id: Option<&str>, algorithm: PublicAlgorithm) -> bool {
        let same_id = match (key_id, &self.key_id) {
            (Some(wanted), Some(own)) => wanted == &**own,
            _ => true,
        };
        same_id && self.algorithms.contains(&algorithm)
    }
}

/// Whether these are the bytes of an uncompressed point with coordinates of this length.
pub(super) fn is_point(bytes: &[u8], coordinate: usize) -> bool {
    bytes.len() == 1 + 2 * coordinate && bytes[0] == 4
}

/// Refuses RSA keys below 2048 bits.
pub(super) fn check_modulus(modulus: &[u8]) -> Result<(), KeyError> {
    let zeros: usize = match modulus.iter().position(|byte| *byte != 0) {
        Some(bytes) => bytes * 8 + modulus[bytes].leading_zeros() as usize,
        None => modulus.len() * 8,
    };
    let bits = modulus.len() * 8 - zeros;
    if bits < 2048 {
        return Err(KeyError::ShortRsa { bits });
    }
    Ok(())
}

/// Verifies with the keys that the token may mean. The algorithm is one of `allowed` and one of the key's.
pub(super) fn verify_public(
    token: &Compact<'_>,
    keys: &[PublicKey],
    allowed: Option<&[PublicAlgorithm]>,
) -> Result<(), JwtError> {
    let algorithm = public_algorithm(token, allowed)?;
    let key_id = token.key_id()?;
    let mut candidates = keys
        .iter()
        .filter(|key| key.matches(key_id, algorithm))
        .take(MAX_TRIED)
        .peekable();
    if candidates.peek().is_none() {
        return Err(JwtError::UnknownKey);
    }
    let genuine = candidates.any(|key| is_genuine(token, &key.key, algorithm.raw()));
    genuine.then_some(()).ok_or(JwtError::Signature)
}

pub(super) fn public_algorithm(
    token: &Compact<'_>,
    allowed: Option<&[PublicAlgorithm]>,
) -> Result<PublicAlgorithm, JwtError> {
    PublicAlgorithm::from_name(token.algorithm()?)
        .filter(|algorithm| allowed.is_none_or(|allowed| allowed.contains(algorithm)))
        .ok_or(JwtError::Algorithm)
}

fn is_genuine(token: &Compact<'_>, key: &DecodingKey, algorithm: Algorithm) -> bool {
    crypto::verify(token.signature, token.message.as_bytes(), key, algorithm).unwrap_or(false)
}
