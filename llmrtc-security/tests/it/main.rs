//! Behaviour that needs more than the crate: other programs, a network, minutes.

#![expect(
    clippy::unwrap_used,
    reason = "these are tests; clippy only excuses the functions marked so"
)]

mod testssl;
