//! `llmrtc ticket`.

/// Arguments of `llmrtc ticket`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
///
/// # Errors
/// When it cannot be done; the message says why and what to do.
pub fn run(_: Args) -> anyhow::Result<()> {
    anyhow::bail!("`llmrtc ticket` is being written")
}
