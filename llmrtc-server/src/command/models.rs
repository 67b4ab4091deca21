//! `llmrtc models`: the models and libraries that let a conversation do without keys and other servers.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use anyhow::{Context, bail};
use llmrtc_providers::local::models::{
    ModelError, PACKAGES, Package, Pip, Plan, Size, Source, Status, Store,
};
use serde_json::{Value, json};

use super::vault::print_rows;
use crate::{
    config::load::ProcessEnvironment,
    models::{self, Bars, Consent, confirm, describe},
};

/// Arguments of `llmrtc models`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: ModelsCommand,
}

#[derive(Debug, clap::Subcommand)]
enum ModelsCommand {
    /// Download packages with this machine's pip, check them, and unpack what is needed.
    Fetch(FetchArgs),
    /// Show the packages: whether they are there, how large, under which licence.
    List(ListArgs),
    /// Read all files and compare their hashes.
    Verify(VerifyArgs),
    /// Print the folder of the models, or of a package.
    Path(PathArgs),
}

#[derive(Debug, clap::Args)]
struct StoreArgs {
    /// Where the models are [default: $LLMRTC_MODEL_DIR, else llmrtc/models in the user's data folder].
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct FetchArgs {
    /// The packages [default: all that this machine can use].
    #[arg(value_name = "PACKAGE")]
    packages: Vec<String>,
    /// Take the wheels from this folder instead of the network.
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    store: StoreArgs,
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    /// Print JSON lines.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    store: StoreArgs,
}

#[derive(Debug, clap::Args)]
struct VerifyArgs {
    /// The packages [default: all that are there].
    #[arg(value_name = "PACKAGE")]
    packages: Vec<String>,
    #[command(flatten)]
    store: StoreArgs,
}

#[derive(Debug, clap::Args)]
struct PathArgs {
    /// The package, which must be there.
    #[arg(value_name = "PACKAGE")]
    package: Option<String>,
    #[command(flatten)]
    store: StoreArgs,
}

/// Runs the command.
///
/// # Errors
/// When it cannot be done, or a package is damaged; the message says why and what to do.
pub fn run(args: Args) -> anyhow::Result<()> {
    match args.command {
        ModelsCommand::Fetch(args) => fetch(&args),
        ModelsCommand::List(args) => list(&args),
        ModelsCommand::Verify(args) => verify(&args),
        ModelsCommand::Path(args) => path(&args),
    }
}

impl StoreArgs {
    fn open(&self) -> anyhow::Result<Store> {
        models::store(self.dir.clone(), &ProcessEnvironment)
    }
}

/// The packages of these names, without repetitions.
fn named(names: &[String]) -> Result<Vec<&'static Package>, ModelError> {
    let mut packages = Vec::new();
    for name in names {
        let package = Package::named(name).ok_or_else(|| ModelError::UnknownPackage {
            name: name.clone(),
            known: PACKAGES
                .iter()
                .map(|package| package.name)
                .collect::<Vec<_>>()
                .join(", "),
        })?;
        if !packages.contains(&package) {
            packages.push(package);
        }
    }
    Ok(packages)
}

fn say(line: impl std::fmt::Display) {
    // Nobody is left to tell when standard error is gone.
    let _ = writeln!(io::stderr(), "{line}");
}

fn fetch(args: &FetchArgs) -> anyhow::Result<()> {
    let store = args.store.open()?;
    let chosen = match args.packages.as_slice() {
        [] => {
            let plan = Plan::of(&PACKAGES.iter().collect::<Vec<_>>());
            for package in plan.unsupported {
                say(format_args!(
                    "  {:17} is of no use on this machine",
                    package.name
                ));
            }
            plan.packages
        }
        names => named(names)?,
    };
    let mut bars = Bars::default();
    // Reads what is there: damage is a reason to fetch, and does not show from outside.
    let mut wanted = Vec::new();
    for package in &chosen {
        match store.verify(package, &mut |now| bars.show(now)) {
            Ok(()) => say(format_args!("  {:17} is there", package.name)),
            Err(_) => wanted.push(*package),
        }
    }
    drop(bars);
    if wanted.is_empty() {
        return Ok(());
    }
    let plan = Plan::of(&wanted);
    let source = match &args.from {
        Some(dir) => {
            say(format_args!("Installing in {}:", store.dir().display()));
            say(plan.describe().trim_end());
            Source::Folder(dir.clone())
        }
        None => {
            consent(&plan, &store, Consent::new(args.yes))?;
            Source::Pip(Pip::default())
        }
    };
    let mut bars = Bars::default();
    store.fetch(&wanted, &source, &mut |now| bars.show(now))?;
    drop(bars);
    say(format_args!(
        "{} in {}",
        Size(plan.installed_bytes()),
        store.dir().display()
    ));
    Ok(())
}

/// Nothing is downloaded before this has returned.
fn consent(plan: &Plan, store: &Store, consent: Consent) -> anyhow::Result<()> {
    match consent {
        // What nobody can use is refused by name when it is fetched.
        _ if plan.is_empty() => Ok(()),
        Consent::Given => {
            say(format_args!("Fetching into {}:", store.dir().display()));
            say(describe(plan).trim_end());
            Ok(())
        }
        Consent::Ask => {
            let question = plan.consent(store);
            let agreed = confirm(&question, &mut io::stdin().lock(), &mut io::stderr());
            if agreed.context("no answer")? {
                Ok(())
            } else {
                bail!("nothing was downloaded")
            }
        }
        Consent::Absent => {
            say(describe(plan).trim_end());
            bail!("nothing was downloaded, because nobody could be asked: say --yes")
        }
    }
}

fn list(args: &ListArgs) -> anyhow::Result<()> {
    let store = args.store.open()?;
    let rows: Vec<Value> = PACKAGES
        .iter()
        .map(|package| {
            let status = store.status(package);
            let status = match status {
                Status::Missing if !package.is_supported() => "unsupported",
                status => status.name(),
            };
            let bytes = package.installed_bytes();
            json!({
                "package": package.name,
                "status": status,
                "size": if args.json { bytes.into() } else { Value::from(Size(bytes).to_string()) },
                "licence": package.licence.name,
                "from": package.wheel.requirement(),
                "purpose": package.purpose,
                "path": store.path(package),
            })
        })
        .collect();
    let columns = ["package", "status", "size", "licence", "from", "purpose"];
    print_rows(args.json, &columns, &rows)?;
    if !args.json {
        say(format_args!("in {}", store.dir().display()));
    }
    Ok(())
}

fn verify(args: &VerifyArgs) -> anyhow::Result<()> {
    let store = args.store.open()?;
    let packages = match args.packages.as_slice() {
        [] => {
            let there = |package: &&Package| store.status(package) != Status::Missing;
            let found: Vec<_> = PACKAGES.iter().filter(there).collect();
            if found.is_empty() {
                bail!(
                    "there are no models in {}: run `llmrtc models fetch`",
                    store.dir().display()
                );
            }
            found
        }
        names => named(names)?,
    };
    let mut bad = Vec::new();
    for package in packages {
        let mut bars = Bars::default();
        let outcome = store.verify(package, &mut |now| bars.show(now));
        drop(bars);
        let line = match &outcome {
            Ok(()) => format!("{}: ok\n", package.name),
            Err(error) => format!("{}: {error}\n", package.name),
        };
        io::stdout()
            .write_all(line.as_bytes())
            .context("cannot write to standard output")?;
        if outcome.is_err() {
            bad.push(package.name);
        }
    }
    if !bad.is_empty() {
        bail!(
            "not as they should be: {}; run `llmrtc models fetch {}`",
            bad.join(", "),
            bad.join(" ")
        );
    }
    Ok(())
}

fn path(args: &PathArgs) -> anyhow::Result<()> {
    let store = args.store.open()?;
    let path = match &args.package {
        None => store.dir().to_owned(),
        Some(name) => {
            let package = named(std::slice::from_ref(name))?[0];
            if !store.status(package).is_usable() {
                return Err(ModelError::NotInstalled {
                    package: package.name,
                }
                .into());
            }
            store.path(package)
        }
    };
    writeln!(io::stdout(), "{}", path.display()).context("cannot write to standard output")
}
