//! Asks the model that the environment selects, and prints the answer while it is written:
//! `LLM_PROVIDER=ollama cargo run --example chat -- "Why is the sky blue?"`

use std::{
    env,
    error::Error,
    io::{Write, stdout},
};

use futures_util::StreamExt;
use llmrtc_core::{
    message::Message,
    provider::{CallContext, LlmChunk, LlmRequest},
};
use llmrtc_providers::select::from_env;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let question = env::args().nth(1).unwrap_or_else(|| "Hello!".to_owned());
    #[expect(
        clippy::disallowed_methods,
        reason = "an example is its own configuration loader"
    )]
    let selection = from_env(&|name| env::var(name).ok())?;
    let llm = &selection.providers.llm;
    llm.init().await?;
    let request = LlmRequest {
        messages: vec![Message::user(question)],
        ..LlmRequest::default()
    };
    let mut out = stdout();
    let mut answer = llm.stream(request, &CallContext::detached()).await?;
    while let Some(chunk) = answer.next().await {
        if let LlmChunk::Text(text) = chunk? {
            out.write_all(text.as_bytes())?;
            out.flush()?;
        }
    }
    out.write_all(b"\n")?;
    Ok(())
}
