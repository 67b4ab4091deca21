//! `cargo xtask eval`: scores what has a quality rather than a result, on corpora of our own. It reports; it does not judge: no
//! figure makes it fail.

use std::path::PathBuf;

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
    /// Turn-taking: how soon turns end and how often too soon, what interrupts an answer and what does not. Speaks with the
    /// programs `flite` and `espeak-ng`.
    Turns(Turns),
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

#[derive(Debug, clap::Args)]
struct Turns {
    /// All figures as JSON instead of tables.
    #[arg(long, conflicts_with = "bless")]
    json: bool,
    /// The part of the corpus that thresholds are chosen on.
    #[arg(long, conflicts_with = "bless")]
    training: bool,
    /// Folder with the models; by default LLMRTC_MODEL_DIR. Without it, only what needs none is scored.
    #[arg(long)]
    models: Option<PathBuf>,
    /// A TOML file with a media section to be compared with the defaults.
    #[arg(long, conflicts_with = "bless")]
    media: Vec<PathBuf>,
    /// Also write the tables into `docs/turn-taking.md`.
    #[arg(long)]
    bless: bool,
}

/// Scores and prints.
pub(crate) fn run(sh: &Shell, options: &Options) -> anyhow::Result<()> {
    match &options.what {
        What::Security(options) => security(sh, options),
        What::Turns(options) => turns(sh, options),
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

fn turns(sh: &Shell, options: &Turns) -> anyhow::Result<()> {
    for program in ["flite", "espeak-ng"] {
        util::find_program(program).with_context(|| {
            format!("{program} is not installed: the corpus is spoken by flite and espeak-ng")
        })?;
    }
    let models = options
        .models
        .clone()
        .or_else(|| util::variable("LLMRTC_MODEL_DIR").map(PathBuf::from));
    if models.is_none() {
        eprintln!("no models (--models or LLMRTC_MODEL_DIR): what needs them is not scored");
    }
    cmd!(
        sh,
        "cargo build --release --package llmrtc-server --example turns"
    )
    .run()?;
    let eval = util::release_example(sh, "turns")?;
    let mut arguments: Vec<std::ffi::OsString> = Vec::new();
    if options.json {
        arguments.push("--json".into());
    }
    if options.training {
        arguments.push("--training".into());
    }
    for (name, path) in models
        .iter()
        .map(|path| ("--models", path))
        .chain(options.media.iter().map(|path| ("--media", path)))
    {
        arguments.extend([name.into(), path.into()]);
    }
    let text = cmd!(sh, "{eval} {arguments...}")
        .quiet()
        .read()
        .context("the evaluation failed")?;
    println!("{text}");
    if options.bless {
        util::bless("docs/turn-taking.md", "eval turns", &text)?;
    }
    Ok(())
}
