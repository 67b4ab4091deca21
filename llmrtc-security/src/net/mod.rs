//! Addresses, headers and transport of a server on the open internet.

#[cfg(feature = "tls")]
pub mod tls;
