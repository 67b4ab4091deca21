//! The OpenAI-compatible engine against servers that behave, misbehave and break off.

#![expect(
    clippy::unwrap_used,
    reason = "a set-up that fails is a test that fails"
)]

mod cancel;
mod conformance;
mod fake;
mod faults;
mod requests;
mod rotation;
mod secrets;
mod support;
