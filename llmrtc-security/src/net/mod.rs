//! Addresses, headers and transport of a server on the open internet, and what it fetches from there.

pub mod address;
pub mod cors;
#[cfg(feature = "fetch")]
pub mod fetch;
pub mod image;
pub mod public;
pub mod relay;
#[cfg(feature = "tls")]
pub mod tls;
