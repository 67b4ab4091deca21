//! `llmrtc ticket`: asks a running server for a ticket, as a backend does for its browsers.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use anyhow::Context;
use serde_json::json;

use super::http::{self, Method};

/// Arguments of `llmrtc ticket`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The server, such as `https://voice.example`.
    #[arg(long)]
    url: String,
    /// File with the token or API key to ask with; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
    /// The page that will use the ticket, such as `https://app.example`.
    #[arg(long)]
    origin: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// When there is no ticket; the message says why and what to do.
pub fn run(args: Args) -> anyhow::Result<()> {
    let token = http::read_secret(&args.token_file)?;
    let body = args.origin.map(|origin| json!({ "origin": origin }));
    let answer = http::request(Method::POST, &args.url, "/api/tickets", Some(&token), body)?;
    let ticket = answer["ticket"]
        .as_str()
        .context("the answer is no ticket")?;
    if let Some(seconds) = answer["expiresInSeconds"].as_u64() {
        let _ = writeln!(io::stderr(), "good for {seconds} s");
    }
    writeln!(io::stdout(), "{ticket}").context("cannot write to standard output")
}
