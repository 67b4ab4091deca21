#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod codec;
pub mod config;
pub mod ears;
pub mod endpoint;
pub mod error;
pub mod jitter;
pub mod peer;
pub mod pipeline;
pub mod playout;
pub mod resample;
pub mod stun;
pub mod vad;
