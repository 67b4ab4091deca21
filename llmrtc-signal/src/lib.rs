#![doc = include_str!("../README.md")]

pub mod client;
pub mod connection;
pub mod protocol;
