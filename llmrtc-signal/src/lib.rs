#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod client;
pub mod connection;
pub mod protocol;
