//! Talks to a model file and says how fast it answers.
//!
//! `cargo run --release -p llmrtc-providers --features local --example local_llm -- model.gguf ["question" …]`
#![allow(clippy::print_stdout, reason = "a program for the terminal")]

use std::{
    io::Write,
    num::NonZeroUsize,
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use llmrtc_core::{
    message::Message,
    provider::{CallContext, LlmChunk, LlmProvider, LlmRequest},
};
use llmrtc_providers::local::{
    gguf::{GgufLlm, GgufOptions, Sampling},
    pool::InferencePool,
};

const QUESTIONS: [&str; 4] = [
    "Hi there! Who are you?",
    "What is the capital of France?",
    "And what can I see there?",
    "Thank you, goodbye.",
];

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("which model file?")?;
    let mut questions: Vec<String> = arguments.collect();
    if questions.is_empty() {
        questions = QUESTIONS.map(str::to_owned).into();
    }
    let options = GgufOptions {
        sampling: Sampling {
            repetition_penalty: 1.1,
            ..Sampling::GREEDY
        },
        ..GgufOptions::default()
    };
    let begin = Instant::now();
    let pool = InferencePool::new(NonZeroUsize::new(1))?;
    let llm = GgufLlm::load(path, pool, options)?;
    let loaded = begin.elapsed();
    llm.init().await?;
    println!(
        "loaded in {loaded:.0?}, instructions read in {:.0?}",
        begin.elapsed() - loaded
    );
    let mut messages = Vec::new();
    for question in questions {
        println!("\n> {question}");
        messages.push(Message::user(question));
        let request = LlmRequest {
            messages: messages.clone(),
            ..LlmRequest::default()
        };
        let asked = Instant::now();
        let mut first = None;
        let mut text = String::new();
        let mut stream = llm.stream(request, &CallContext::detached()).await?;
        while let Some(chunk) = stream.next().await {
            match chunk? {
                LlmChunk::Text(piece) => {
                    first.get_or_insert_with(|| asked.elapsed());
                    print!("{piece}");
                    std::io::stdout().flush()?;
                    text.push_str(&piece);
                }
                LlmChunk::Usage(usage) => {
                    let first = first.unwrap_or_default();
                    let (input, output) = (usage.input.unwrap_or(0), usage.output.unwrap_or(0));
                    let cached = usage.cached_input.unwrap_or(0);
                    println!(
                        "\n  first word after {first:.0?} ({:.0} tokens/s read, {cached} of {input} recalled), \
                         then {:.1} tokens/s",
                        rate(input - cached, first),
                        rate(output.saturating_sub(1), asked.elapsed() - first),
                    );
                }
                _ => {}
            }
        }
        messages.push(Message::assistant(text));
    }
    Ok(())
}

fn rate(tokens: u64, time: Duration) -> f64 {
    tokens as f64 / time.as_secs_f64().max(1e-9)
}
