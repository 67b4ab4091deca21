//! Sealed conversations at rest.

mod class;
mod config;

pub use self::{
    class::Class,
    config::{RetentionConfig, VaultConfig},
};
