//! Behaviour that needs more than the crate: other programs, a network, minutes.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests panic like tests, and clippy looks only at the latter"
)]

mod deploy;
mod testssl;
