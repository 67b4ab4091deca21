//! The turn engine as its users see it: a conversation with scripted providers on paused time.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

mod barge_in;
mod conversation;
mod failures;
mod guardrails;
mod harness;
mod hooks;
mod live;
mod tools;
