//! Development tasks: `cargo xtask help` lists them. One module per command; `main` only matches.
#![forbid(unsafe_code)]
#![allow(
    clippy::print_stdout,
    reason = "a task runner exists to talk to the person who ran it"
)]

mod bench;
mod browser;
mod ci;
mod eval;
mod models;
mod packages;
mod release;
mod test;
mod tidy;
mod util;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    about = "Development tasks of the LLMRTC workspace"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Everything CI runs: fmt, clippy, test, doc, tidy, and deny and fuzz where the tools are installed.
    Ci,
    /// Check the formatting.
    Fmt,
    /// Lint every target with warnings denied.
    Clippy,
    /// Run the tests: unit, end to end, documentation and the browser suite; with `--all` also deployment.
    Test(test::Options),
    /// Build the API documentation with warnings denied.
    Doc,
    /// Check the repository against the house rules.
    Tidy(tidy::Options),
    /// Check licences, sources, duplicates and advisories with cargo-deny.
    Deny,
    /// Run every fuzz target for a short time with cargo-fuzz.
    Fuzz(ci::FuzzOptions),
    /// Measure a release build and print it beside the reference servers. It reports; it does not judge.
    Bench(bench::Options),
    /// Score what has a quality rather than a result. It reports; it does not judge.
    Eval(eval::Options),
    /// Prepare or publish a release. Dry unless `--execute`.
    Release(release::Options),
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        // One line: whoever reads it wants the failing check, not the task runner's call stack.
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    let sh = util::shell()?;
    match command {
        Command::Ci => ci::ci(&sh),
        Command::Fmt => ci::fmt(&sh),
        Command::Clippy => ci::clippy(&sh),
        Command::Test(options) => test::run(&sh, &options),
        Command::Doc => ci::doc(&sh),
        Command::Tidy(options) => tidy::run(&sh, &options),
        Command::Deny => ci::deny(&sh),
        Command::Fuzz(options) => ci::fuzz(&sh, &options),
        Command::Bench(options) => bench::run(&sh, &options),
        Command::Eval(options) => eval::run(&sh, &options),
        Command::Release(options) => release::run(&sh, &options),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
