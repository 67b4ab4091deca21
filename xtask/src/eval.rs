//! `cargo xtask eval`: scores what has a quality rather than a result, on corpora of our own. It reports; it does not judge: no
//! figure makes it fail.

use anyhow::Context;
use xshell::{Shell, cmd};

use crate::util;

/// Options of `cargo xtask eval`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Redaction and the prompt-injection guard: recall, precision and false alarms by kind and language.
    Security(Security),
}

#[derive(Debug, clap::Args)]
struct Security {
    /// All counts as JSON instead of tables.
    #[arg(long, conflicts_with = "bless")]
    json: bool,
    /// What is wrong with the texts of training instead of tables.
    #[arg(long, conflicts_with_all = ["bless", "json"])]
    missed: bool,
    /// Also write the tables into `docs/security.md`.
    #[arg(long)]
    bless: bool,
}

/// Scores and prints.
pub(crate) fn run(sh: &Shell, options: &Options) -> anyhow::Result<()> {
    match &options.what {
        What::Security(options) => security(sh, options),
    }
}

fn security(sh: &Shell, options: &Security) -> anyhow::Result<()> {
    cmd!(
        sh,
        "cargo build --release --package llmrtc-security --example eval"
    )
    .run()?;
    let eval = util::release_example(sh, "eval")?;
    let option = match options {
        Security { json: true, .. } => Some("--json"),
        Security { missed: true, .. } => Some("--missed"),
        _ => None,
    };
    let text = cmd!(sh, "{eval} {option...}")
        .quiet()
        .read()
        .context("the evaluation failed")?;
    println!("{text}");
    if options.bless {
        util::bless("docs/security.md", "eval security", &text)?;
    }
    Ok(())
}
