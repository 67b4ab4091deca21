//! The server and the command as their users meet them. Calls are real: UDP, DTLS, Opus, over the loopback interface.

#![expect(
    clippy::unwrap_used,
    reason = "these are tests; clippy only excuses the functions marked so"
)]

mod command;
mod harness;
mod turns;
mod vendor;
