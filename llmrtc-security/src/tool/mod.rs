//! What a tool call has to pass before it runs (F1, F2.4, B9, T10).
//!
//! [`GuardedTools`] wraps any [`ToolRunner`](llmrtc_core::tool::ToolRunner). In this order, the first failure decides:
//! known, granted, redaction tokens restored, well formed and according to its schema, argument values on their
//! lists, untainted or confirmed, within its rate, not run before; then it runs, isolated and within its time.
//! [`schema`] needs the feature `schema`; without it the tool's own parsing is the only check of shape.

pub mod guarded;
pub mod policy;
#[cfg(feature = "schema")]
pub mod schema;
pub mod strict;
pub mod taint;

pub use self::{
    guarded::{ArgumentCheck, Decision, GuardedTools, ToolAudit, ToolHooks, Violation},
    policy::{ArgumentRule, OnTaint, ToolGrants, ToolPolicy, ToolsConfig},
    taint::Taint,
};
