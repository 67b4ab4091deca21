//! The server and the command as their users meet them. Calls are real: UDP, DTLS, Opus, over the loopback interface.

#![expect(
    clippy::unwrap_used,
    reason = "these are tests; clippy only excuses the functions marked so"
)]

mod admin;
mod attacks;
mod audited;
mod command;
mod credentials;
mod crowd;
mod faults;
mod guarded;
mod harness;
mod hostile;
mod hygiene;
mod leaving;
mod messages;
#[cfg(feature = "local")]
mod models;
mod nodes;
mod process;
mod readme;
mod restart;
mod resume;
#[cfg(feature = "local")]
mod scripts;
mod shielded;
mod storage;
mod terminal;
mod turns;
mod vendor;
