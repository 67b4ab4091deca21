use async_trait::async_trait;

use super::{CallContext, ProviderError};
use crate::message::Attachment;

/// A question about images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VisionRequest {
    /// What to say about them.
    pub prompt: String,
    /// The images.
    pub attachments: Vec<Attachment>,
}

/// A description.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VisionResult {
    /// The text.
    pub content: String,
}

/// Describes images for language models that cannot see.
#[async_trait]
pub trait VisionProvider: Send + Sync + 'static {
    /// The name used as a metric label, such as `ollama-vision`.
    fn name(&self) -> &str;

    /// Checks the configuration and warms connections. Idempotent (PL2).
    async fn init(&self) -> Result<(), ProviderError> {
        Ok(())
    }

    /// Describes the images.
    ///
    /// # Cancel safety
    /// Dropping the future aborts the request.
    ///
    /// # Errors
    /// Any failure; the engine then falls back to the images' alternative texts.
    async fn describe(
        &self,
        request: VisionRequest,
        cx: &CallContext,
    ) -> Result<VisionResult, ProviderError>;

    /// Releases connections. Called once, after the sessions are gone.
    async fn shutdown(&self) {}
}
