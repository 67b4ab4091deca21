//! Credentials whose value may change while the process runs.
//!
//! A caller asks for the value when it makes a request, not when it is built, so a rotated key needs no restart. Whoever
//! keeps the value fresh implements [`Credential`]; a plain [`Secret`] is one that never changes.

use std::{fmt, ops::Deref, sync::Arc};

use async_trait::async_trait;
use serde::{Deserialize, Deserializer};

use crate::redact::Secret;

/// The value of a credential, now. Open to implementations: new methods get default bodies.
#[async_trait]
pub trait Credential: fmt::Debug + Send + Sync {
    /// The value for the next request. Never blocks.
    fn current(&self) -> Secret;

    /// Every value that a request under way may be using: what to take out of text that the far side sends back.
    fn in_use(&self) -> Vec<Secret> {
        vec![self.current()]
    }

    /// Reports that the far side refused `refused` (HTTP 401). Answers with another value that is worth one more
    /// attempt, or `None`. May ask the source of the value first, so it takes as long as a caller can bear, at most.
    ///
    /// # Cancel safety
    /// Dropping the future may lose the report; the next refusal repeats it.
    async fn rejected(&self, refused: &Secret) -> Option<Secret> {
        let _ = refused;
        None
    }
}

impl Credential for Secret {
    fn current(&self) -> Secret {
        self.clone()
    }
}

/// A credential shared by everybody who uses it. Made of text or a [`Secret`] for a value that never changes; of an
/// `Arc` for one that does. Deserialises from text.
#[derive(Clone)]
pub struct SharedCredential(Arc<dyn Credential>);

impl SharedCredential {
    /// Whether nothing but white space is inside, now.
    pub fn is_blank(&self) -> bool {
        self.0.current().is_blank()
    }
}

impl Deref for SharedCredential {
    type Target = dyn Credential;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl fmt::Debug for SharedCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl From<Secret> for SharedCredential {
    fn from(value: Secret) -> Self {
        Self(Arc::new(value))
    }
}

impl From<&str> for SharedCredential {
    fn from(value: &str) -> Self {
        Secret::new(value).into()
    }
}

impl From<String> for SharedCredential {
    fn from(value: String) -> Self {
        Secret::new(value).into()
    }
}

impl<T: Credential + 'static> From<Arc<T>> for SharedCredential {
    fn from(credential: Arc<T>) -> Self {
        Self(credential)
    }
}

impl<'de> Deserialize<'de> for SharedCredential {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Secret::deserialize(deserializer).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_secret_is_a_credential_that_never_changes() {
        let key = SharedCredential::from("sk-canary");
        assert_eq!(key.current().expose(), "sk-canary");
        assert!(key.rejected(&key.current()).await.is_none());
        assert_eq!(key.in_use().len(), 1);
        assert!(!key.is_blank() && SharedCredential::from(" \n").is_blank());
        assert_eq!(format!("{key:?}"), "[secret]");
    }
}
