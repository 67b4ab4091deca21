//! `llmrtc keys`: the master keys under which conversations are stored.

use std::{
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context, bail};
use llmrtc_security::{
    audit::Action,
    crypto::{
        KeyId,
        keyring::{KeyInfo, KeyStatus, Keyring},
    },
    vault::Vault,
};
use serde_json::Value;

use super::{
    journal::JournalArgs,
    vault::{DatabaseArgs, OptionalDatabaseArgs, block_on, print_rows},
};
use crate::security::keys::rotated;

/// User keys re-wrapped at a time.
const REWRAP: u32 = 1_000;

/// Arguments of `llmrtc keys`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make a keyring with one key. An existing file is left alone.
    Generate {
        #[command(flatten)]
        keyring: KeyringArgs,
    },
    /// Add a key that wraps from now on. With a database, re-wrap everything under it.
    Rotate {
        #[command(flatten)]
        keyring: KeyringArgs,
        #[command(flatten)]
        database: OptionalDatabaseArgs,
    },
    /// Show the keys, by fingerprint. With a database, also what each one wraps.
    List {
        #[command(flatten)]
        keyring: KeyringArgs,
        #[command(flatten)]
        database: OptionalDatabaseArgs,
    },
    /// Throw a key away that wraps nothing any more.
    Retire {
        #[command(flatten)]
        keyring: KeyringArgs,
        #[command(flatten)]
        database: DatabaseArgs,
        /// The key.
        #[arg(long, value_name = "ID")]
        id: String,
    },
}

#[derive(Debug, clap::Args)]
struct KeyringArgs {
    /// File with the master keys; for its owner alone.
    #[arg(long, value_name = "FILE")]
    keyring: PathBuf,
    /// Print JSON lines.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    journal: JournalArgs,
}

impl KeyringArgs {
    /// Changes the file, recorded before and after.
    fn change<T>(
        &self,
        operation: &'static str,
        target: Option<&str>,
        change: impl FnOnce(&Path) -> anyhow::Result<(T, Option<Action>)>,
    ) -> anyhow::Result<T> {
        let journal = self.journal.beside(&self.keyring);
        block_on(journal.around(operation, target, async || change(&self.keyring)))
    }
}

/// Data is wrapped by this key from now on.
fn master_key(key: &KeyInfo) -> Action {
    rotated("vault", key.id.as_str(), key.fingerprint)
}

/// Runs the command.
///
/// # Errors
/// When it cannot be done; the message says why and what to do.
pub fn run(args: Args) -> anyhow::Result<()> {
    match args.command {
        Command::Generate { keyring } => {
            let created = keyring.change("keys_generate", None, |path| {
                let created = Keyring::create(path, SystemTime::now())?;
                let made = master_key(&created.active());
                Ok((created, Some(made)))
            })?;
            print(&keyring, created.list(), None)
        }
        Command::Rotate { keyring, database } => {
            let database = database.given();
            // Before anything is changed: a wrong URL must not leave half of it done.
            let opened = database
                .as_ref()
                .map(|database| block_on(database.open(&keyring.keyring)).map(drop));
            opened.transpose()?;
            let now = SystemTime::now();
            keyring.change("keys_rotate", None, |path| {
                let added = Keyring::update(path, |keys| keys.rotate(now))?;
                Ok(((), Some(master_key(&added))))
            })?;
            let rewrap = async |vault: &Vault| {
                loop {
                    let report = vault.rewrap(REWRAP).await?;
                    if report.remaining == 0 {
                        return Ok(());
                    }
                    if report.rewrapped == 0 {
                        bail!(
                            "{} user keys are under keys that are not in the keyring",
                            report.remaining
                        );
                    }
                }
            };
            show(&keyring, database.as_ref(), rewrap)
        }
        Command::List { keyring, database } => {
            let database = database.given();
            show(&keyring, database.as_ref(), async |_: &Vault| Ok(()))
        }
        Command::Retire {
            keyring,
            database,
            id,
        } => {
            let id = KeyId::try_from(&*id)?;
            let in_use = block_on(async {
                let vault = database.open(&keyring.keyring).await?;
                let usage = vault.key_usage().await?;
                vault.close().await;
                let of = usage.into_iter().find(|(key, _)| *key == id);
                Ok(of.map_or(0, |(_, count)| count))
            })?;
            keyring.change("keys_retire", Some(id.as_str()), |path| {
                Keyring::update(path, |keys| keys.retire(&id, in_use))?;
                Ok(((), None))
            })?;
            show(&keyring, Some(&database), async |_: &Vault| Ok(()))
        }
    }
}

/// Does something to the database, if there is one, and lists the keys.
fn show(
    args: &KeyringArgs,
    database: Option<&DatabaseArgs>,
    first: impl AsyncFnOnce(&Vault) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let usage = match database {
        None => None,
        Some(database) => Some(block_on(async {
            let vault = database.open(&args.keyring).await?;
            first(&vault).await?;
            let usage = vault.key_usage().await;
            vault.close().await;
            usage.context("cannot count the keys in use")
        })?),
    };
    print(args, Keyring::load(&args.keyring)?.list(), usage)
}

fn print(
    args: &KeyringArgs,
    keys: impl Iterator<Item = KeyInfo>,
    usage: Option<Vec<(KeyId, u64)>>,
) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for key in keys {
        let mut row = serde_json::to_value(&key)?;
        if let Some(usage) = &usage {
            let of = usage.iter().find(|(id, _)| *id == key.id);
            let count = of.map_or(0, |(_, count)| *count);
            row["wraps"] = match key.status {
                KeyStatus::Retired => Value::Null,
                _ => count.into(),
            };
        }
        rows.push(row);
    }
    let columns = ["id", "status", "created", "fingerprint", "wraps"];
    let shown = if usage.is_some() { 5 } else { 4 };
    print_rows(args.json, &columns[..shown], &rows)
}
