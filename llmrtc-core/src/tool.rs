//! Tools as the turn engine sees them: definitions to offer and a way to run a call.
//!
//! Registries, argument schemas, grants and policies sit behind [`ToolRunner`]; the engine only knows that a call
//! takes time, can be cancelled, and yields a value or a public reason.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};

use crate::{
    message::ToolCall,
    provider::{CallContext, ToolDefinition},
};

/// Runs the tools of a session.
#[async_trait]
pub trait ToolRunner: Send + Sync + 'static {
    /// The tools on offer now; asked before every model request.
    fn definitions(&self) -> Arc<[ToolDefinition]>;

    /// Runs one call. Never called for a call whose arguments did not parse.
    ///
    /// # Cancel safety
    /// The future is dropped and `cx.cancel` fires when the turn is interrupted or the tool's time is up.
    ///
    /// # Errors
    /// The failure as the model and the client may see it.
    async fn run(&self, call: &ToolCall, cx: &CallContext) -> Result<Value, ToolFailure>;
}

/// Why a call has no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ToolFailure {
    /// The nature of the failure.
    pub category: FailureCategory,
    /// What the model and the client are told.
    pub message: String,
}

/// The nature of a failed tool call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureCategory {
    /// The turn ended before the call did.
    Cancelled,
    /// The arguments did not parse.
    MalformedArguments,
    /// No such tool.
    NotFound,
    /// The tool exists but is not on offer here.
    NotAllowed,
    /// The arguments violate the schema.
    InvalidArguments,
    /// A policy refused.
    Denied,
    /// The tool took too long.
    Timeout,
    /// The tool itself failed.
    Handler,
    /// A limit of the turn was reached.
    Skipped,
}

impl FailureCategory {
    /// The name the model and the metrics see.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cancelled => "cancelled",
            Self::MalformedArguments => "malformed_arguments",
            Self::NotFound => "not_found",
            Self::NotAllowed => "not_allowed",
            Self::InvalidArguments => "invalid_arguments",
            Self::Denied => "denied",
            Self::Timeout => "timeout",
            Self::Handler => "handler",
            Self::Skipped => "skipped",
        }
    }
}

impl ToolFailure {
    /// A failure of this kind.
    pub fn new(category: FailureCategory, message: impl Into<String>) -> Self {
        Self {
            category,
            message: message.into(),
        }
    }
}

/// A session without tools: every call is of a tool that does not exist.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoTools;

#[async_trait]
impl ToolRunner for NoTools {
    fn definitions(&self) -> Arc<[ToolDefinition]> {
        Arc::from([])
    }

    async fn run(&self, _: &ToolCall, _: &CallContext) -> Result<Value, ToolFailure> {
        let message = "there is no such tool";
        Err(ToolFailure::new(FailureCategory::NotFound, message))
    }
}

/// What the model reads: the value as JSON, or an error object.
pub fn model_text(result: &Result<Value, ToolFailure>) -> String {
    match result {
        Ok(value) => value.to_string(),
        Err(failure) => json!({
            "error": { "category": failure.category.name(), "message": failure.message }
        })
        .to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_results_and_failures_are_both_text_for_the_model() {
        assert_eq!(model_text(&Ok(Value::Null)), "null");
        let failure = ToolFailure::new(FailureCategory::Timeout, "took longer than 30 s");
        assert_eq!(
            model_text(&Err(failure)),
            r#"{"error":{"category":"timeout","message":"took longer than 30 s"}}"#
        );
    }
}
