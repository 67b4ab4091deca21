#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod audio;
pub mod clock;
pub mod credential;
pub mod duration;
pub mod guardrail;
pub mod history;
pub mod hooks;
pub mod id;
pub mod message;
pub mod playout;
pub mod provider;
pub mod redact;
pub mod retry;
pub mod session;
pub mod speech;
pub mod tasks;
pub mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;
pub mod tool;
pub mod turn;
