#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod admission;
pub mod app;
pub mod cli;
pub mod client;
pub mod command;
pub mod config;
mod ice;
pub mod listen;
#[cfg(feature = "local")]
pub mod local;
pub mod metrics;
#[cfg(feature = "local")]
pub mod models;
pub mod registry;
pub mod routes;
pub mod security;
pub mod server;
mod session;
pub mod shutdown;
pub mod telemetry;

pub use crate::server::{Server, ServerBuilder};
