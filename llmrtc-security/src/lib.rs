#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod audit;
pub mod auth;
pub mod crypto;
pub mod guard;
pub mod limit;
pub mod net;
pub mod redact;
#[cfg(feature = "redis")]
pub mod redis;
pub mod secrets;
#[cfg(feature = "testing")]
pub mod testing;
pub mod tool;
pub mod vault;
