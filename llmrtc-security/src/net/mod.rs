//! Addresses, headers and transport of a server on the open internet.

pub mod address;
pub mod cors;
#[cfg(feature = "tls")]
pub mod tls;
