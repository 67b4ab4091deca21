#![doc = include_str!("../README.md")]

pub mod echo;
#[cfg(feature = "openai")]
pub mod http;
#[cfg(feature = "local")]
pub mod local;
#[cfg(feature = "openai")]
pub mod metered;
#[cfg(feature = "openai")]
pub mod openai;
#[cfg(feature = "openai")]
pub mod select;
pub mod sse;
#[cfg(feature = "testing")]
pub mod testing;
