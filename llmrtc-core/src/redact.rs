//! Wrappers for values that must not be printed by accident.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

/// A credential. `Debug` and `Display` show a placeholder, and there is no `Serialize`. Clones share one copy in memory,
/// which is wiped when the last of them is dropped.
#[derive(Clone)]
pub struct Secret(Arc<Zeroizing<String>>);

impl Secret {
    /// Wraps a credential.
    pub fn new(value: impl Into<String>) -> Self {
        Self(Arc::new(Zeroizing::new(value.into())))
    }

    /// The credential itself. Name the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether nothing but white space is inside.
    pub fn is_blank(&self) -> bool {
        self.0.trim().is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl From<String> for Secret {
    fn from(value: String) -> Self {
        Self::new(value)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

/// Something a person said, typed or owns: transcripts, prompts, tool arguments, addresses.
///
/// Prints as its length unless the operator turned content capture on, which is why the content of log lines
/// goes through this wrapper and not through `format!`.
#[derive(Clone, Copy)]
pub struct Pii<T>(pub T);

impl<T: AsRef<str>> fmt::Debug for Pii<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} chars]", self.0.as_ref().chars().count())
    }
}

impl<T: AsRef<str>> fmt::Display for Pii<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_and_personal_text_do_not_print() {
        let secret = Secret::new("sk-canary");
        assert_eq!(format!("{secret} {secret:?}"), "[secret] [secret]");
        assert_eq!(
            format!("{} {:?}", Pii("four words of speech"), Pii("ä")),
            "[20 chars] [1 chars]"
        );
    }

    /// Security item A4. What was dropped cannot be looked at without `unsafe`, so the type system has to say it: the
    /// one copy is inside a wrapper that wipes.
    #[test]
    fn a4_clones_share_the_one_copy_that_is_wiped() {
        fn wipes<T: zeroize::ZeroizeOnDrop>(_: &T) {}
        let secret = Secret::new("sk-canary");
        let clone = secret.clone();
        assert!(std::ptr::eq(secret.expose(), clone.expose()));
        wipes(&*secret.0);
        let last_use = Arc::downgrade(&secret.0);
        drop(secret);
        assert_eq!(clone.expose(), "sk-canary");
        drop(clone);
        assert!(last_use.upgrade().is_none());
    }
}
