use std::sync::Arc;

use async_trait::async_trait;
use futures_util::StreamExt;
use serde_json::Value;

use super::{CallContext, ErrorKind, ProviderError, ProviderStream};
use crate::{
    id::{CallId, ToolName},
    message::{Message, ToolCall},
};

/// A stream of chunks of one response. Dropping it aborts the request.
pub type LlmStream = ProviderStream<LlmChunk>;

/// Sampling and model of one request; absent means the provider's default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LlmConfig {
    /// Model id, overriding the provider's configured one.
    pub model: Option<String>,
    /// Sampling temperature.
    pub temperature: Option<f32>,
    /// Nucleus sampling.
    pub top_p: Option<f32>,
    /// Most tokens to generate.
    pub max_tokens: Option<u32>,
    /// Texts that end the response.
    pub stop_sequences: Vec<String>,
}

/// A tool as the model is told about it.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolDefinition {
    /// `[A-Za-z0-9_-]{1,64}`, portable across vendors.
    pub name: ToolName,
    /// What it does, for the model.
    pub description: String,
    /// JSON Schema of the arguments, an object.
    pub parameters: Value,
}

/// Whether and which tools the model must call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ToolChoice {
    /// The model decides.
    #[default]
    Auto,
    /// Definitions are sent, calls are forbidden.
    None,
    /// At least one call.
    Required,
    /// This tool.
    Named(ToolName),
}

/// One request: messages already windowed, system first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LlmRequest {
    /// The conversation.
    pub messages: Vec<Message>,
    /// Sampling and model.
    pub config: LlmConfig,
    /// Tools on offer; omitted on the wire when empty.
    pub tools: Arc<[ToolDefinition]>,
    /// How tools are chosen.
    pub tool_choice: ToolChoice,
}

/// Why a response ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StopReason {
    /// The model was done.
    EndTurn,
    /// A stop sequence appeared.
    StopSequence,
    /// Tool calls were requested.
    ToolUse,
    /// The token cap was reached.
    MaxTokens,
    /// The model or a safety layer declined.
    Refusal,
    /// A vendor filter cut the response.
    ContentFilter,
    /// A server-side tool loop paused and can be resumed.
    PauseTurn,
    /// The context window is exhausted.
    ContextOverflow,
    /// The transport ended without the vendor's end marker.
    Truncated,
    /// Something this version does not know.
    Unknown(String),
}

/// Tokens of one response, so far as the vendor reports them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Prompt tokens.
    pub input: Option<u64>,
    /// Generated tokens.
    pub output: Option<u64>,
    /// Prompt tokens served from a cache.
    pub cached_input: Option<u64>,
    /// Generated tokens spent on reasoning.
    pub reasoning: Option<u64>,
    /// Audio tokens in.
    pub audio_input: Option<u64>,
    /// Audio tokens out.
    pub audio_output: Option<u64>,
}

/// One event of a response.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum LlmChunk {
    /// A piece of text, never empty.
    Text(String),
    /// A piece of reasoning: never spoken, never stored.
    Reasoning(String),
    /// Early notice of a call whose arguments are still coming.
    ToolCallBegun {
        /// Position among the calls of this response.
        index: usize,
        /// Correlates the result.
        call_id: CallId,
        /// The tool wanted.
        name: ToolName,
    },
    /// A complete call, in model order.
    ToolCall(ToolCall),
    /// Token counts; the last one wins.
    Usage(Usage),
    /// The end: exactly once, last. A stream that ends without it broke the protocol.
    End(StopReason),
}

/// What a model offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LlmCapabilities {
    /// Accepts images.
    pub vision: bool,
    /// Accepts tools.
    pub tools: bool,
    /// May request several calls at once.
    pub parallel_tools: bool,
    /// Honours [`ToolChoice::Required`] and [`ToolChoice::Named`].
    pub forced_tool_choice: bool,
    /// Refuses adjacent messages of one role.
    pub needs_alternation: bool,
    /// Context window in tokens, where known.
    pub context_tokens: Option<u32>,
}

impl Default for LlmCapabilities {
    fn default() -> Self {
        Self {
            vision: false,
            tools: true,
            parallel_tools: true,
            forced_tool_choice: true,
            needs_alternation: false,
            context_tokens: None,
        }
    }
}

/// A folded response.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LlmResult {
    /// The whole text.
    pub text: String,
    /// The calls, in model order.
    pub tool_calls: Vec<ToolCall>,
    /// Why it ended.
    pub stop_reason: Option<StopReason>,
    /// Token counts.
    pub usage: Usage,
}

/// A language model.
#[async_trait]
pub trait LlmProvider: Send + Sync + 'static {
    /// The name used as a metric label, such as `openai-llm`.
    fn name(&self) -> &str;

    /// The model behind it, for people to read, such as `gpt-4.1-mini`. `None` where that means nothing, and before
    /// [`init`](Self::init) where only the server knows.
    fn model(&self) -> Option<&str> {
        None
    }

    /// What the configured model offers. Called on the hot path: no I/O.
    fn capabilities(&self) -> LlmCapabilities {
        LlmCapabilities::default()
    }

    /// Checks the configuration and warms connections. Idempotent (PL2).
    async fn init(&self) -> Result<(), ProviderError> {
        Ok(())
    }

    /// Starts a response.
    ///
    /// # Cancel safety
    /// Dropping the future or the returned stream aborts the request.
    ///
    /// # Errors
    /// Whatever kept the first event from arriving; later failures come through the stream.
    async fn stream(
        &self,
        request: LlmRequest,
        cx: &CallContext,
    ) -> Result<LlmStream, ProviderError>;

    /// A folded [`stream`](Self::stream).
    ///
    /// # Errors
    /// As `stream`, plus any failure inside it.
    async fn complete(
        &self,
        request: LlmRequest,
        cx: &CallContext,
    ) -> Result<LlmResult, ProviderError> {
        fold(self.name(), self.stream(request, cx).await?).await
    }

    /// Releases connections. Called once, after the sessions are gone.
    async fn shutdown(&self) {}
}

/// Folds a response stream into its result.
///
/// # Errors
/// The stream's own failure, or [`ErrorKind::Protocol`] when it ends without [`LlmChunk::End`].
pub async fn fold(provider: &str, mut stream: LlmStream) -> Result<LlmResult, ProviderError> {
    let mut result = LlmResult::default();
    while let Some(chunk) = stream.next().await {
        match chunk? {
            LlmChunk::Text(text) => result.text.push_str(&text),
            LlmChunk::ToolCall(call) => result.tool_calls.push(call),
            LlmChunk::Usage(usage) => result.usage = usage,
            LlmChunk::End(reason) => {
                result.stop_reason = Some(reason);
                return Ok(result);
            }
            LlmChunk::Reasoning(_) | LlmChunk::ToolCallBegun { .. } => {}
        }
    }
    Err(ProviderError::new(
        ErrorKind::Protocol,
        provider,
        "response ended without an end marker",
    ))
}
