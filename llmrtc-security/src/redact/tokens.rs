//! Names for a session's values: consistent pseudonyms, and tokens that can be turned back.

use std::{
    borrow::Cow,
    collections::HashMap,
    fmt,
    sync::{Mutex, PoisonError},
};

use aws_lc_rs::{hmac, rand};
use zeroize::Zeroizing;

use super::kind::Kind;

/// Values that one session's vault keeps. A caller does not have more; a flood gets irreversible names.
const MAX_VALUES: usize = 512;
/// Bytes of one value. Longer ones (private keys) have no business in a tool's arguments.
const MAX_VALUE_BYTES: usize = 512;
/// Bytes of the digest in a name: 2⁴⁰ names, so that two of 512 values meet once in ten million sessions.
const DIGEST_BYTES: usize = 5;

/// The random source of the system failed.
#[derive(Debug, thiserror::Error)]
#[error("no randomness for a session's key")]
#[non_exhaustive]
pub struct NoRandomness;

/// Names for the values of one session. Dropping it forgets key and values, and wipes the latter.
pub struct SessionTokens {
    key: hmac::Key,
    values: Mutex<HashMap<String, Zeroizing<String>>>,
}

impl SessionTokens {
    /// Starts with a fresh key and no values.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn new() -> Result<Self, NoRandomness> {
        let mut key = Zeroizing::new([0u8; 32]);
        rand::fill(key.as_mut_slice()).map_err(|_| NoRandomness)?;
        Ok(Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, key.as_slice()),
            values: Mutex::new(HashMap::new()),
        })
    }

    /// The name of a value: its kind and a keyed digest of its letters and digits, so that "4111 1111…" and "4111-1111…" are the same.
    pub fn pseudonym(&self, kind: &Kind, value: &str) -> String {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(kind.name().as_bytes());
        context.update(&[0]);
        let mut utf8 = [0; 4];
        for character in value
            .chars()
            .filter(|character| character.is_alphanumeric())
            .flat_map(char::to_lowercase)
        {
            context.update(character.encode_utf8(&mut utf8).as_bytes());
        }
        let digest = context.sign();
        let mut name = String::new();
        kind.write_tag(&mut name);
        name.pop();
        name.push('_');
        for byte in &digest.as_ref()[..DIGEST_BYTES] {
            name.push(char::from(b"0123456789abcdef"[usize::from(byte >> 4)]));
            name.push(char::from(b"0123456789abcdef"[usize::from(byte & 15)]));
        }
        name.push(']');
        name
    }

    /// The name of a value, which [`restore`](Self::restore) turns back as long as the vault has room. Card verification values are never kept.
    pub fn token(&self, kind: &Kind, value: &str) -> String {
        let name = self.pseudonym(kind, value);
        if *kind != Kind::Cvv && value.len() <= MAX_VALUE_BYTES {
            let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
            if values.len() < MAX_VALUES {
                values
                    .entry(name.clone())
                    .or_insert_with(|| Zeroizing::new(value.to_owned()));
            }
        }
        name
    }

    /// Puts values back in place of their tokens, for the arguments of a tool that may see them.
    pub fn restore<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut out, mut copied, mut at) = (String::new(), 0, 0);
        while let Some(open) = text[at..].find('[').map(|found| at + found) {
            at = open + 1;
            let Some(close) = text[at..].find(['[', ']']).map(|found| at + found) else {
                break;
            };
            if let Some(value) = values.get(&text[open..=close]) {
                out.push_str(&text[copied..open]);
                out.push_str(value);
                (copied, at) = (close + 1, close + 1);
            }
        }
        if copied == 0 {
            return Cow::Borrowed(text);
        }
        out.push_str(&text[copied..]);
        Cow::Owned(out)
    }
}

impl fmt::Debug for SessionTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = self
            .values
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len();
        f.debug_struct("SessionTokens")
            .field("values", &values)
            .finish_non_exhaustive()
    }
}
