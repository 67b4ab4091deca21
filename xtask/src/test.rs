//! `cargo xtask test`: the one test command of the README.

use anyhow::bail;
use clap::ValueEnum;
use xshell::{Shell, cmd};

use crate::{browser, util};

/// Options of `cargo xtask test`.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Options {
    /// Run one group only.
    #[arg(long, value_enum, conflicts_with = "all")]
    group: Option<Group>,
    /// Run every group. This is the default; the flag exists for scripts that like to say so.
    #[arg(long)]
    all: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Group {
    /// Each crate by itself, and the examples in the documentation.
    Unit,
    /// The server driven by a real peer over loopback: the integration tests of `llmrtc-server`.
    E2e,
    /// The unmodified npm client, and our playground, in Chromium.
    Browser,
}

/// Selects the end-to-end tests in nextest's filter language.
const E2E_FILTER: &str = "package(llmrtc-server) & kind(test)";

/// Runs the chosen groups. A failing group does not hide the result of the next one.
pub(crate) fn run(sh: &Shell, options: &Options) -> anyhow::Result<()> {
    let mut failed = Vec::new();
    let mut step = |name: &'static str, result: anyhow::Result<()>| {
        if let Err(error) = result {
            println!("{name}: {error:#}");
            failed.push(name);
        }
    };
    match options.group {
        // Together they are one build and one run.
        None => step("unit and e2e", rust(sh, None)),
        Some(group @ (Group::Unit | Group::E2e)) => step("cargo tests", rust(sh, Some(group))),
        Some(Group::Browser) => {}
    }
    if matches!(options.group, None | Some(Group::Unit)) {
        step("documentation tests", doc_tests(sh));
    }
    // Last, so that its `N passed, N failed` line ends the output.
    if matches!(options.group, None | Some(Group::Browser)) {
        step("browser", browser::run(sh));
    }
    if !failed.is_empty() {
        bail!("tests failed: {}", failed.join(", "));
    }
    Ok(())
}

/// The tests that cargo builds, except those in documentation.
fn rust(sh: &Shell, group: Option<Group>) -> anyhow::Result<()> {
    if util::has_cargo_command(sh, "nextest") {
        let filter = match group {
            None => vec![],
            Some(Group::E2e) => vec!["--filterset".to_owned(), E2E_FILTER.to_owned()],
            Some(_) => vec!["--filterset".to_owned(), format!("not ({E2E_FILTER})")],
        };
        cmd!(
            sh,
            "cargo nextest run --workspace --no-fail-fast {filter...}"
        )
        .run()?;
        return Ok(());
    }
    // Without nextest: `--tests` means unit and integration tests but not the documentation, which has its own step.
    let selection: &[&str] = match group {
        None => &["--workspace", "--tests"],
        Some(Group::E2e) => &["--package", "llmrtc-server", "--test", "*"],
        Some(_) => {
            cmd!(
                sh,
                "cargo test --package llmrtc-server --lib --bins --no-fail-fast"
            )
            .run()?;
            &["--workspace", "--exclude", "llmrtc-server", "--tests"]
        }
    };
    cmd!(sh, "cargo test --no-fail-fast {selection...}").run()?;
    Ok(())
}

fn doc_tests(sh: &Shell) -> anyhow::Result<()> {
    cmd!(sh, "cargo test --workspace --doc --quiet").run()?;
    Ok(())
}
