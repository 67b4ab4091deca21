//! `llmrtc retention`: deletes what has expired, without waiting for the server to do it.

use anyhow::bail;
use llmrtc_security::audit::Action;

use super::vault::{VaultArgs, block_on, print_rows};

/// Arguments of `llmrtc retention`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Sweep once, under the retention that the server of this database was last started with.
    Run {
        #[command(flatten)]
        vault: VaultArgs,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Runs the command.
///
/// # Errors
/// When it cannot be done; the message says why and what to do.
pub fn run(args: Args) -> anyhow::Result<()> {
    let Command::Run { vault, json } = args.command;
    block_on(async {
        let journal = vault.journal();
        let vault = vault.open().await?;
        let swept = journal.around("retention_run", None, async || {
            let report = vault.sweep().await?;
            if report.busy {
                bail!("another process is sweeping; try again in five minutes");
            }
            let records = report.records + report.snapshots;
            Ok((report, Some(Action::RetentionSwept { records })))
        });
        let report = swept.await;
        vault.close().await;
        let report = report?;
        let columns = ["records", "snapshots", "keys", "compacted"];
        print_rows(json, &columns, &[serde_json::to_value(report)?])
    })
}
