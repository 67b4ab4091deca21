//! Keys for programs.
//!
//! Only their SHA-256 is kept. That is enough for what [`generate`] makes (256 random bits); a password would need a
//! slow hash, so [`ApiKeys::insert_key`] refuses short keys.

use llmrtc_core::redact::Secret;

use super::{
    digest::{Digest, credential, same, sha256},
    principal::{Credential, Method, Principal},
};

/// What a key must have at least: 32 characters of hexadecimal text are 128 bits.
pub const MIN_KEY_CHARS: usize = 32;

/// The keys of a deployment.
#[derive(Clone, Debug, Default)]
pub struct ApiKeys(Vec<(Digest, Principal)>);

/// A key that is too easy to guess.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "an API key needs at least {MIN_KEY_CHARS} characters; make one with `llmrtc token api-key`"
)]
pub struct WeakKey;

/// A digest that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the digest of an API key is the SHA-256 of the key as 64 hexadecimal digits")]
pub struct NotADigest;

impl ApiKeys {
    /// No keys.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a key by its digest: 64 hexadecimal digits.
    ///
    /// # Errors
    /// When it is something else.
    pub fn insert_digest(&mut self, hex: &str, principal: Principal) -> Result<(), NotADigest> {
        self.push(parse_hex(hex).ok_or(NotADigest)?, principal);
        Ok(())
    }

    /// Adds a key itself.
    ///
    /// # Errors
    /// When it is short.
    pub fn insert_key(&mut self, key: &Secret, principal: Principal) -> Result<(), WeakKey> {
        if key.expose().chars().count() < MIN_KEY_CHARS {
            return Err(WeakKey);
        }
        self.push(sha256(key.expose().as_bytes()), principal);
        Ok(())
    }

    fn push(&mut self, digest: Digest, principal: Principal) {
        let credential = Credential {
            method: Method::ApiKey,
            ..Credential::default()
        };
        self.0.push((digest, principal.with_credential(credential)));
    }

    /// Whose key this is. Compares with every key in constant time, whichever matches.
    pub fn find(&self, presented: &str) -> Option<Principal> {
        let presented = sha256(presented.as_bytes());
        let mut found = None;
        for (digest, principal) in &self.0 {
            if same(digest, &presented) {
                found = Some(principal);
            }
        }
        found.cloned()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A new key, and its digest for the configuration.
pub fn generate() -> (Secret, String) {
    let (key, digest) = credential();
    (key, to_hex(&digest))
}

fn to_hex(digest: &Digest) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn parse_hex(text: &str) -> Option<Digest> {
    let bytes = text.as_bytes();
    if bytes.len() != 64 {
        return None;
    }
    let nibble = |byte: u8| char::from(byte).to_digit(16);
    let mut digest = Digest::default();
    for (target, pair) in digest.iter_mut().zip(bytes.chunks_exact(2)) {
        *target = u8::try_from(nibble(pair[0])? << 4 | nibble(pair[1])?).ok()?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_by_its_digest_and_by_itself_and_by_nothing_else() {
        let (key, hex) = generate();
        let (other, _) = generate();
        let mut keys = ApiKeys::new();
        keys.insert_digest(&hex.to_uppercase(), Principal::service("ci", None))
            .unwrap();
        keys.insert_key(&other, Principal::service("cron", Some("t".into())))
            .unwrap();
        let found = keys.find(key.expose()).unwrap();
        assert_eq!(found, Principal::service("ci", None));
        assert_eq!(found.credential.method, Method::ApiKey);
        assert_eq!(
            keys.find(other.expose()).unwrap(),
            Principal::service("cron", Some("t".into()))
        );
        // The digest is no key.
        for wrong in [
            "",
            " ",
            &hex,
            &key.expose()[1..],
            &format!("{}x", key.expose()),
        ] {
            assert_eq!(keys.find(wrong), None);
        }
        assert!(!format!("{keys:?}{key:?}").contains(key.expose()));
    }

    #[test]
    fn weak_keys_and_broken_digests_are_refused() {
        let mut keys = ApiKeys::new();
        let weak = Secret::new("0123456789012345678901234567890");
        assert_eq!(
            keys.insert_key(&weak, Principal::service("x", None)),
            Err(WeakKey)
        );
        for bad in ["", "ab", &"g".repeat(64), &"a".repeat(63), &"ä".repeat(32)] {
            assert_eq!(
                keys.insert_digest(bad, Principal::service("x", None)),
                Err(NotADigest),
                "{bad}"
            );
        }
        assert!(keys.is_empty());
    }
}
