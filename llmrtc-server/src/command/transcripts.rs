//! `llmrtc transcripts`: what users said, for those who run the server.
//!
//! These commands open the database directly, so whoever can run them is an administrator already: they need the
//! database and the master keys. What they hand out or change is recorded; without a record they do nothing.

use std::{
    io::{self, Write},
    pin::pin,
};

use anyhow::{Context, bail};
use futures_util::TryStreamExt;
use llmrtc_core::id::SessionId;
use llmrtc_security::{
    audit::Action,
    vault::{Record, Subject, Vault},
};
use serde_json::Value;

use super::vault::{SubjectArgs, VaultArgs, block_on, print_rows};

/// Conversations in one list.
const LIST: u32 = 1_000;

/// Arguments of `llmrtc transcripts`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// The conversations of a user, the latest first.
    List {
        #[command(flatten)]
        common: Common,
        /// Print JSON lines.
        #[arg(long)]
        json: bool,
    },
    /// What was said.
    Show {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        session: SessionArgs,
        /// Print JSON lines.
        #[arg(long)]
        json: bool,
    },
    /// Everything as JSON lines, recordings included.
    Export {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        session: SessionArgs,
    },
    /// Remove everything of a user, for good, and print the receipt. End their sessions first.
    Erase {
        #[command(flatten)]
        common: Common,
        /// Yes, for good.
        #[arg(long)]
        yes: bool,
    },
    /// Keep a user's data from expiring and from being erased.
    Hold {
        #[command(flatten)]
        common: Common,
        /// Why, for whoever wonders later.
        #[arg(long)]
        reason: String,
    },
    /// Lift a hold.
    Release {
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Debug, clap::Args)]
struct Common {
    #[command(flatten)]
    vault: VaultArgs,
    #[command(flatten)]
    subject: SubjectArgs,
}

impl Common {
    /// Records that what was said is handed out, before it is.
    async fn handed_out(&self, vault: &Vault, session: Option<SessionId>) -> anyhow::Result<()> {
        let records = vault.count(&self.subject.subject()?, session).await?;
        let target = self.subject.target().into();
        let exported = Action::DataExported { target, records };
        let recorded = self.vault.journal().record([exported]).await;
        recorded.context("nothing is handed out")
    }

    /// Does something to the user's data, recorded before and after.
    async fn change<T>(
        &self,
        operation: &'static str,
        work: impl AsyncFnOnce() -> anyhow::Result<(T, Option<Action>)>,
    ) -> anyhow::Result<T> {
        let target = self.subject.target();
        let journal = self.vault.journal();
        journal.around(operation, Some(&target), work).await
    }
}

#[derive(Debug, clap::Args)]
struct SessionArgs {
    /// One conversation, as named by `list`.
    #[arg(long, value_name = "ID", value_parser = session_id)]
    session: Option<SessionId>,
}

fn session_id(text: &str) -> Result<SessionId, &'static str> {
    (text.len() == 32)
        .then(|| u128::from_str_radix(text, 16).ok())
        .flatten()
        .map(SessionId::from_u128)
        .ok_or("a session id has 32 hexadecimal digits")
}

/// Runs the command.
///
/// # Errors
/// When it cannot be done; the message says why and what to do.
pub fn run(args: Args) -> anyhow::Result<()> {
    match args.command {
        Command::List { common, json } => with(&common, async |vault, subject| {
            let sessions = vault.sessions(subject, LIST).await?;
            let rows: Result<Vec<_>, _> = sessions.iter().map(serde_json::to_value).collect();
            print_rows(json, &["session", "first", "last", "records"], &rows?)
        }),
        Command::Show {
            common,
            session,
            json,
        } => with(&common, async |vault, subject| {
            common.handed_out(vault, session.session).await?;
            let columns = ["at", "session", "class", "content"];
            let mut after = None;
            loop {
                let page = vault.records(subject, session.session, after, 256).await?;
                let Some(last) = page.last() else {
                    return Ok(());
                };
                after = Some(last.id);
                let rows: Vec<_> = page.iter().map(|record| row(record, json)).collect();
                print_rows(json, &columns, &rows)?;
            }
        }),
        Command::Export { common, session } => with(&common, async |vault, subject| {
            common.handed_out(vault, session.session).await?;
            let mut lines = pin!(vault.export(subject, session.session));
            let mut out = io::stdout().lock();
            while let Some(line) = lines.try_next().await? {
                writeln!(out, "{line}").context("cannot write to standard output")?;
            }
            Ok(())
        }),
        Command::Erase { common, yes } => {
            if !yes {
                bail!("erasing cannot be undone: say --yes");
            }
            with(&common, async |vault, subject| {
                let erased = common.change("erase", async || {
                    let receipt = vault.erase(subject).await?;
                    let erased = Action::DataErased {
                        target: common.subject.target().into(),
                        records: receipt.records,
                    };
                    Ok((receipt, Some(erased)))
                });
                print_rows(true, &[], &[serde_json::to_value(erased.await?)?])
            })
        }
        Command::Hold { common, reason } => with(&common, async |vault, subject| {
            let held = common.change("hold", async || {
                vault.hold(subject, &reason).await?;
                Ok(((), None))
            });
            held.await
        }),
        Command::Release { common } => with(&common, async |vault, subject| {
            let released = common.change("release", async || {
                if !vault.release(subject).await? {
                    bail!("there was no hold");
                }
                Ok(((), None))
            });
            released.await
        }),
    }
}

/// For people, what is no text is named by its length; `export` has all of it.
fn row(record: &Record, json: bool) -> Value {
    let mut row = record.to_json();
    if !json {
        match &record.content {
            Ok(bytes) if row.get("base64").is_some() => {
                row["content"] = format!("[{} bytes]", bytes.len()).into();
            }
            Ok(_) => {}
            Err(error) => row["content"] = format!("[unreadable: {error}]").into(),
        }
    }
    row
}

fn with(
    common: &Common,
    work: impl AsyncFnOnce(&Vault, &Subject) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let subject = common.subject.subject()?;
    block_on(async {
        let vault = common.vault.open().await?;
        let result = work(&vault, &subject).await;
        vault.close().await;
        result
    })
}
