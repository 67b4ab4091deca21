//! The commands for operators, one file each: arguments, and a `run` that prints its result to standard output.

pub mod audit;
pub mod guard;
pub mod keys;
#[cfg(feature = "local")]
pub mod models;
pub mod redact;
pub mod retention;
pub mod sessions;
pub mod ticket;
pub mod token;
pub mod transcripts;

mod http;
mod journal;
mod vault;
