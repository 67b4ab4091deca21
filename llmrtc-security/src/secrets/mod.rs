//! Where keys come from and how they change while the server runs (security items A1–A4).
//!
//! A secret is found once, by a [`Chain`]: given in code or in the configuration, in the file that `NAME_FILE` names,
//! in the variable `NAME`, or in a secret manager. What is found is a [`SecretSource`], and a [`LiveSecret`] keeps its
//! value fresh: it polls, follows files, answers a vendor's 401 with an immediate look at the source, and keeps the
//! value before for a grace time. It is an `llmrtc_core::credential::Credential`, which is what providers take.
//!
//! ```
//! use std::sync::Arc;
//! use llmrtc_core::credential::SharedCredential;
//! use llmrtc_security::secrets::{Chain, LiveSecrets, Managers, RotationOptions, Wanted};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let environment = |name: &str| (name == "OPENAI_API_KEY").then(|| "from-the-environment".to_owned());
//! let wanted = ["OPENAI_API_KEY", "GROQ_API_KEY"].map(Wanted::new);
//! let chain = Chain::new(Managers::default());
//! let secrets = LiveSecrets::open(&chain, wanted, &environment, &RotationOptions::default())
//!     .await
//!     .map_err(|problems| problems[0].clone())?;
//!
//! let key = secrets.get("OPENAI_API_KEY").expect("it is set");
//! assert_eq!(key.current().expose(), "from-the-environment");
//! assert!(secrets.get("GROQ_API_KEY").is_none());
//! let for_a_provider: SharedCredential = key.into();
//! # Ok(())
//! # }
//! ```
//!
//! # In memory
//! Values are [`Secret`]s: one copy, wiped when its last user is gone. Header values made of them by the HTTP client are
//! not wiped, which is why `harden_process` (feature `harden`, Linux) exists: no core dumps, no debugger. Locking
//! single values into memory has no safe API; `harden_process` can lock all of the process instead.

#[cfg(feature = "aws")]
pub mod aws;
mod chain;
mod config;
mod error;
#[cfg(test)]
mod fake;
mod file;
#[cfg(feature = "gcp")]
pub mod gcp;
#[cfg(all(feature = "harden", target_os = "linux"))]
mod harden;
#[cfg(any(feature = "aws", feature = "vault-kv", feature = "gcp"))]
mod http;
mod live;
mod managers;
mod reference;
#[cfg(feature = "vault-kv")]
pub mod vault;

use std::{fmt, path::Path};

use async_trait::async_trait;
use llmrtc_core::redact::Secret;

#[cfg(all(feature = "harden", target_os = "linux"))]
pub use self::harden::harden_process;
pub use self::{
    chain::{Chain, Environment, Wanted},
    config::{AwsConfig, SecretsConfig, VaultConfig},
    error::{SecretError, SecretErrorKind},
    file::FileSource,
    live::{
        Fingerprint, Fingerprinter, KeyPair, LiveSecret, LiveSecrets, Observer, RotationChange,
        RotationEvent, RotationOptions,
    },
    managers::Managers,
    reference::{AwsVersion, SecretRef},
};

/// Longest secret. Keys are short; service accounts and certificates take a few kilobytes.
const MAX_SECRET_BYTES: usize = 64 * 1024;

/// A value and what its source calls this version of it.
#[derive(Clone, Debug)]
pub struct Versioned<T> {
    /// The value.
    pub value: T,
    /// The source's name for the version, where it has one. Never derived from the value.
    pub version: Option<String>,
}

/// A place that holds one secret. Open to implementations: new methods get default bodies.
#[async_trait]
pub trait SecretSource: fmt::Debug + Send + Sync {
    /// Where this is, for messages: a variable, a path or a reference. Never the value.
    fn origin(&self) -> &str;

    /// Asks once for the newest value. Whoever calls repeats what is worth repeating
    /// ([`SecretError::retry`]) and sets a deadline.
    ///
    /// # Errors
    /// See [`SecretErrorKind`].
    ///
    /// # Cancel safety
    /// Dropping the future abandons the question.
    async fn fetch(&self) -> Result<Versioned<Secret>, SecretError>;

    /// Whether every fetch gives the same value, so that nobody needs to ask again.
    fn is_fixed(&self) -> bool {
        false
    }

    /// The file to watch, where the value is in one.
    fn path(&self) -> Option<&Path> {
        None
    }
}
