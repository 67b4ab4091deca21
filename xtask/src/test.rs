//! `cargo xtask test`: the one test command of the README.

use std::path::PathBuf;

use anyhow::bail;
use clap::ValueEnum;
use xshell::{Shell, cmd};

use crate::{
    browser, models,
    packages::{self, Package, package, service},
    util,
};

/// Options of `cargo xtask test`.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Options {
    /// Run one group only.
    #[arg(long, value_enum, conflicts_with = "all")]
    group: Option<Group>,
    /// Run every group. The default leaves out `deploy`, which installs servers and takes long.
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
    /// The files of `docs/deploy` in the programs that they are for, and scanners against our listeners.
    Deploy,
}

/// Selects the end-to-end tests in nextest's filter language.
const E2E_FILTER: &str = "package(llmrtc-server) & kind(test)";
/// The modules of integration tests that make up the deploy group. Their tests are marked `#[ignore]`.
const DEPLOY_MODULES: [&str; 2] = ["deploy", "testssl"];

/// What the cargo tests start, and the packages that bring it.
fn missing_for_cargo() -> Vec<Package> {
    let mut missing = Vec::new();
    if !packages::has_program("redis-server") {
        missing.push(service(
            "redis-server",
            "limits, tickets and sessions that servers share",
        ));
    }
    if !models::has_library("libflite.so.1") {
        missing.push(package("libflite1", "the voices of caller and server"));
    }
    if !packages::has_postgres() {
        missing.push(service(
            "postgresql",
            "conversations and the audit log in a database",
        ));
    }
    missing
}

/// What the deploy group starts, and the packages that bring it.
fn missing_for_deploy() -> Vec<Package> {
    let needs = [
        ("nginx", service("nginx", "the proxy of docs/deploy")),
        ("turnserver", service("coturn", "the relay of docs/deploy")),
        (
            "nft",
            package("nftables", "checks the firewall of docs/deploy"),
        ),
        (
            "systemd-analyze",
            package("systemd", "checks the unit of docs/deploy"),
        ),
        ("testssl", package("testssl.sh", "scans our TLS")),
        (
            "slowhttptest",
            package("slowhttptest", "keeps our listener waiting"),
        ),
    ];
    let missing = needs
        .into_iter()
        .filter(|(program, _)| !packages::has_program(program));
    missing.map(|(_, package)| package).collect()
}

/// Runs the chosen groups. A failing group does not hide the result of the next one.
pub(crate) fn run(sh: &Shell, options: &Options) -> anyhow::Result<()> {
    let mut failed = Vec::new();
    let mut step = |name: &'static str, result: anyhow::Result<()>| {
        if let Err(error) = result {
            println!("{name}: {error:#}");
            failed.push(name);
        }
    };
    if !matches!(options.group, Some(Group::Browser | Group::Deploy)) {
        // Without them most tests can still run, and the others say what they miss.
        if let Err(error) = packages::install(sh, &missing_for_cargo(), None) {
            println!("install: {error:#}");
        }
    }
    // The server as the tests build it, so that it is built once.
    let mut server = None;
    if !matches!(options.group, Some(Group::Browser | Group::Deploy)) {
        step("build", built(sh).map(|path| server = Some(path)));
        if let Some(server) = &server {
            step("models", models::provide(sh, server));
        }
    }
    match options.group {
        // Together they are one build and one run.
        None => step("unit and e2e", rust(sh, None)),
        Some(group @ (Group::Unit | Group::E2e)) => step("cargo tests", rust(sh, Some(group))),
        Some(Group::Browser | Group::Deploy) => {}
    }
    if matches!(options.group, None | Some(Group::Unit)) {
        step("documentation tests", doc_tests(sh));
    }
    if options.all || options.group == Some(Group::Deploy) {
        step("deploy", deploy(sh));
    }
    // Last, so that its `N passed, N failed` line ends the output.
    if matches!(options.group, None | Some(Group::Browser)) {
        step("browser", browser::run(sh, server));
    }
    if !failed.is_empty() {
        bail!("tests failed: {}", failed.join(", "));
    }
    Ok(())
}

/// Builds all tests, and returns the server that they start.
fn built(sh: &Shell) -> anyhow::Result<PathBuf> {
    cmd!(sh, "cargo test --workspace --no-run").run()?;
    util::debug_server(sh)
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

/// The tests that run other people's servers and scanners.
fn deploy(sh: &Shell) -> anyhow::Result<()> {
    packages::install(sh, &missing_for_deploy(), None)?;
    if util::has_cargo_command(sh, "nextest") {
        let modules = DEPLOY_MODULES.join("|");
        let filter = format!("kind(test) & test(/^({modules})::/)");
        cmd!(
            sh,
            "cargo nextest run --workspace --no-fail-fast --run-ignored only --filterset {filter}"
        )
        .run()?;
        return Ok(());
    }
    cmd!(
        sh,
        "cargo test --workspace --test it --no-fail-fast -- --ignored {DEPLOY_MODULES...}"
    )
    .run()?;
    Ok(())
}

fn doc_tests(sh: &Shell) -> anyhow::Result<()> {
    cmd!(sh, "cargo test --workspace --doc --quiet --no-fail-fast").run()?;
    Ok(())
}
