use std::{fmt, sync::Arc};

use aws_lc_rs::{hmac, rand};
use llmrtc_core::redact::Secret;

use crate::secrets::SecretErrorKind;

/// Something happened to a secret; worth an audit record and a metric.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RotationEvent {
    /// The secret's name, such as `OPENAI_API_KEY`.
    pub name: Arc<str>,
    /// What happened.
    pub change: RotationChange,
}

/// What happened to a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RotationChange {
    /// The source has another value, which is used from now on.
    Rotated {
        /// The value used so far.
        from: Fingerprint,
        /// The new value.
        to: Fingerprint,
        /// The source's name for the new version.
        version: Option<String>,
    },
    /// The far side refused the value in use; the other one that is known is used from now on.
    FellBack {
        /// The refused value.
        refused: Fingerprint,
        /// The value that is used instead.
        to: Fingerprint,
    },
    /// The far side refused the value in use, and there is no other one.
    Refused {
        /// The refused value.
        refused: Fingerprint,
    },
    /// A value that was replaced is no longer kept.
    Dropped {
        /// Which one.
        value: Fingerprint,
    },
    /// The source cannot be asked; the last good value stays in use. Said once until it can be asked again.
    RefreshFailed {
        /// Why.
        why: SecretErrorKind,
    },
    /// The source can be asked again.
    Recovered,
}

/// Who is told of events. Must not block.
pub type Observer = Arc<dyn Fn(&RotationEvent) + Send + Sync>;

/// Names a value without telling anything about it: the first 32 bits of an HMAC, printed as eight hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 4]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", u32::from_be_bytes(self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Makes fingerprints (HMAC-SHA-256). Only those of one key are comparable.
#[derive(Clone, Debug)]
pub struct Fingerprinter(Arc<hmac::Key>);

impl Fingerprinter {
    /// Fingerprints that are comparable wherever `key` is used, such as on all nodes.
    pub fn keyed(key: &Secret) -> Self {
        Self(Arc::new(hmac::Key::new(
            hmac::HMAC_SHA256,
            key.expose().as_bytes(),
        )))
    }

    /// Fingerprints that are comparable as long as this process lives.
    pub fn random() -> Self {
        let mut key = zeroize::Zeroizing::new([0; 32]);
        rand::fill(&mut *key).expect("the operating system has random numbers");
        Self(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &*key)))
    }

    /// The fingerprint of `value`.
    pub fn of(&self, value: &Secret) -> Fingerprint {
        let tag = hmac::sign(&self.0, value.expose().as_bytes());
        let mut head = [0; 4];
        head.copy_from_slice(&tag.as_ref()[..4]);
        Fingerprint(head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231, test case 2.
    #[test]
    fn a3_a_fingerprint_is_the_head_of_an_hmac() {
        let fingerprinter = Fingerprinter::keyed(&Secret::new("Jefe"));
        let value = Secret::new("what do ya want for nothing?");
        assert_eq!(fingerprinter.of(&value).to_string(), "5bdcc146");
        assert_eq!(fingerprinter.of(&value), fingerprinter.of(&value.clone()));
        assert_ne!(fingerprinter.of(&value), Fingerprinter::random().of(&value));
    }
}
