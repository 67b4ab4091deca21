//! Behaviour that needs more than the crate: other programs, a network, minutes.

mod deploy;
mod testssl;
