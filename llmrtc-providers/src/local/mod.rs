//! Models in this process: no key, no other server, no network.

pub mod gguf;
pub mod models;
pub mod moonshine;
pub mod neighbour;
pub mod pool;
pub mod runtime;
pub mod scripted;
pub mod silero;
#[cfg(test)]
pub(crate) mod testing;
pub mod turn;
pub mod voice;
