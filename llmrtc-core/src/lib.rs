#![doc = include_str!("../README.md")]

pub mod audio;
pub mod clock;
pub mod duration;
pub mod id;
pub mod message;
pub mod playout;
pub mod provider;
pub mod redact;
pub mod speech;
pub mod turn;
