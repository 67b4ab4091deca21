//! A language model in this process, read from a GGUF file.
//!
//! ```no_run
//! use llmrtc_core::{message::Message, provider::{CallContext, LlmProvider, LlmRequest}};
//! use llmrtc_providers::local::{gguf::{GgufLlm, GgufOptions}, pool::InferencePool};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let pool = InferencePool::new(None)?;
//! let llm = GgufLlm::load("SmolLM2-135M-Instruct.Q4_1.gguf", pool, GgufOptions::default())?;
//! let request = LlmRequest { messages: vec![Message::user("Hello!")], ..LlmRequest::default() };
//! let answer = llm.complete(request, &CallContext::detached()).await?;
//! # Ok(())
//! # }
//! ```
//!
//! The engine is plain Rust: decoders of the Llama family (`llama`, `qwen2`) with byte-level tokenizers, weights in
//! the common four- to eight-bit formats, conversations in ChatML or Llama 3's format.

mod error;
mod file;
mod kernel;
mod kv;
mod llm;
mod model;
mod sample;
mod template;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod text;
mod vocab;
mod weights;

pub use self::{
    error::GgufError,
    llm::{GgufLlm, GgufOptions},
    sample::Sampling,
};

/// The name used as a metric label.
const NAME: &str = "gguf-llm";

/// Instructions for a very small model whose words are spoken: short, positive and concrete, because that is what such
/// a model can follow.
pub const PERSONA: &str = "You are a friendly voice assistant. Answer in one or two short sentences of plain spoken English.";
