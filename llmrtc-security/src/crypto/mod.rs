//! Encryption at rest (E4): whose key seals what, and how a key is changed or thrown away.
//!
//! ```text
//! master key   Keyring, or a KMS behind KeyWrapper   changes by rotation
//!   └ wraps  user key    one row per user            dropping the row shreds everything of the user (E3, T18)
//!        └ wraps  data key    one per session        2²⁰ records or 24 h, whichever is first
//!             └ seals  record    AES-256-GCM, bound to its place (T8)
//! ```
//!
//! Rotating the master key re-wraps rows of 60 bytes; records are never rewritten. Everything is AES-256-GCM with
//! random 96-bit nonces, which a caller can neither choose nor see.

pub(crate) mod cipher;
mod import;
mod key;
pub mod keyring;
pub mod record;
pub mod shred;

pub use self::{
    import::{ImportError, import_legacy},
    key::{Fingerprint, InvalidKey, KeyId, KeyMaterial, KeyWrapper, WrapError, WrappedKey},
};
