//! `cargo xtask ci` and the checks it is made of.

use anyhow::{bail, ensure};
use xshell::{Shell, cmd};

use crate::{test, tidy, util};

/// Options of `cargo xtask fuzz`.
#[derive(Debug, clap::Args)]
pub(crate) struct FuzzOptions {
    /// Seconds for each target.
    #[arg(long, default_value_t = 20)]
    seconds: u32,
}

/// Runs every check, carries on after a failure, and names the commands that failed.
pub(crate) fn ci(sh: &Shell) -> anyhow::Result<()> {
    type Check = fn(&Shell) -> anyhow::Result<()>;
    // Cheap checks first: a formatting slip should not cost a test run to see.
    let checks: [(&str, Check); 5] = [
        ("fmt", fmt),
        ("tidy", |sh| tidy::run(sh, &tidy::Options::default())),
        ("clippy", clippy),
        ("doc", doc),
        ("test", |sh| test::run(sh, &test::Options::default())),
    ];
    let mut failed = Vec::new();
    let mut run = |name: &'static str, check: Check| {
        println!("\n== {name}");
        if let Err(error) = check(sh) {
            println!("{name} failed: {error:#}");
            failed.push(name);
        }
    };
    for (name, check) in checks {
        run(name, check);
    }
    if util::has_cargo_command(sh, "deny") {
        run("deny", deny);
    } else {
        println!(
            "\n== deny skipped: cargo-deny is not installed (`cargo install --locked cargo-deny`)"
        );
    }
    if util::has_cargo_command(sh, "fuzz") {
        run("fuzz", |sh| fuzz(sh, &FuzzOptions { seconds: 10 }));
    } else {
        println!(
            "\n== fuzz skipped: cargo-fuzz is not installed (`cargo install --locked cargo-fuzz`)"
        );
    }
    if !failed.is_empty() {
        let again: Vec<String> = failed
            .iter()
            .map(|name| format!("cargo xtask {name}"))
            .collect();
        bail!(
            "{} of the checks failed; run them alone with: {}",
            failed.len(),
            again.join(", ")
        );
    }
    println!("\nall checks passed");
    Ok(())
}

/// Checks the formatting of every member.
pub(crate) fn fmt(sh: &Shell) -> anyhow::Result<()> {
    if cmd!(sh, "cargo fmt --all --check").run().is_err() {
        bail!("the formatting differs; `cargo fmt --all` repairs it");
    }
    Ok(())
}

/// Lints every target and feature.
pub(crate) fn clippy(sh: &Shell) -> anyhow::Result<()> {
    cmd!(
        sh,
        "cargo clippy --workspace --all-targets --all-features -- --deny warnings"
    )
    .run()?;
    Ok(())
}

/// Builds the documentation of our crates, where a broken link is an error.
pub(crate) fn doc(sh: &Shell) -> anyhow::Result<()> {
    cmd!(sh, "cargo doc --workspace --no-deps --all-features")
        .env("RUSTDOCFLAGS", "--deny warnings")
        .run()?;
    Ok(())
}

/// Runs cargo-deny with `deny.toml`.
pub(crate) fn deny(sh: &Shell) -> anyhow::Result<()> {
    ensure!(
        util::has_cargo_command(sh, "deny"),
        "cargo-deny is not installed; `cargo install --locked cargo-deny` installs it"
    );
    cmd!(sh, "cargo deny --all-features check").run()?;
    Ok(())
}

/// Runs each fuzz target of each crate that has a `fuzz` directory.
pub(crate) fn fuzz(sh: &Shell, options: &FuzzOptions) -> anyhow::Result<()> {
    ensure!(
        util::has_cargo_command(sh, "fuzz"),
        "cargo-fuzz is not installed; `cargo install --locked cargo-fuzz` installs it"
    );
    // Sanitizers are unstable. Without a nightly compiler, the stable one is told to take them all the same.
    let has_nightly = cmd!(sh, "cargo +nightly --version")
        .quiet()
        .ignore_stdout()
        .ignore_stderr()
        .run()
        .is_ok();
    let toolchain: &[&str] = if has_nightly { &["+nightly"] } else { &[] };
    let _unstable = (!has_nightly).then(|| sh.push_env("RUSTC_BOOTSTRAP", "1"));
    let limit = format!("-max_total_time={}", options.seconds);
    let mut targets = 0;
    for package in util::metadata(sh)?.packages {
        if !package.directory().join("fuzz").is_dir() {
            continue;
        }
        let _in_package = sh.push_dir(package.directory());
        for target in cmd!(sh, "cargo {toolchain...} fuzz list")
            .quiet()
            .read()?
            .lines()
        {
            cmd!(sh, "cargo {toolchain...} fuzz run {target} -- {limit}").run()?;
            targets += 1;
        }
    }
    ensure!(targets > 0, "no crate has a fuzz directory");
    Ok(())
}
