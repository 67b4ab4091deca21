//! What the commands around stored conversations share: opening the vault, and printing rows for people or machines.

use std::{
    future::Future,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context;
use llmrtc_core::{clock::SystemClock, redact::Secret};
use llmrtc_security::{
    crypto::keyring::LocalKeyring,
    vault::{Subject, Vault, VaultUrls},
};
use serde_json::Value;

use super::journal::{Journal, JournalArgs};
use crate::security::audit_target;

/// Where the conversations are.
#[derive(Debug, clap::Args)]
pub(super) struct DatabaseArgs {
    /// `sqlite:///path/to/file` or `postgres://…`.
    #[arg(long, value_name = "URL")]
    database: Secret,
    /// Where the users' keys are, if not beside the database.
    #[arg(long, value_name = "URL")]
    keys_database: Option<Secret>,
}

impl DatabaseArgs {
    /// Opens the vault under the retention that its server was last started with.
    pub(super) async fn open(&self, keyring: &Path) -> anyhow::Result<Vault> {
        let mut urls = VaultUrls::beside(self.database.clone());
        if let Some(keys) = &self.keys_database {
            urls.keys = keys.clone();
        }
        let keyring = LocalKeyring::open(keyring)?;
        Vault::open(&urls, None, Arc::new(keyring), Arc::new(SystemClock))
            .await
            .context("cannot open the vault")
    }
}

/// Where the conversations are, if the command is to look at them.
#[derive(Debug, clap::Args)]
pub(super) struct OptionalDatabaseArgs {
    /// `sqlite:///path/to/file` or `postgres://…`.
    #[arg(long, value_name = "URL")]
    database: Option<Secret>,
    /// Where the users' keys are, if not beside the database.
    #[arg(long, value_name = "URL", requires = "database")]
    keys_database: Option<Secret>,
}

impl OptionalDatabaseArgs {
    pub(super) fn given(self) -> Option<DatabaseArgs> {
        Some(DatabaseArgs {
            database: self.database?,
            keys_database: self.keys_database,
        })
    }
}

/// Where the conversations and the master keys are.
#[derive(Debug, clap::Args)]
pub(super) struct VaultArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    /// File with the master keys.
    #[arg(long, value_name = "FILE")]
    keyring: PathBuf,
    #[command(flatten)]
    journal: JournalArgs,
}

impl VaultArgs {
    pub(super) async fn open(&self) -> anyhow::Result<Vault> {
        self.database.open(&self.keyring).await
    }

    pub(super) fn journal(&self) -> Journal {
        self.journal.beside(&self.keyring)
    }
}

/// Whose conversations.
#[derive(Debug, clap::Args)]
pub(super) struct SubjectArgs {
    /// The user, as named by their token.
    #[arg(long, value_name = "NAME")]
    user: String,
    /// Whose customer they are, where there are tenants.
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
}

impl SubjectArgs {
    pub(super) fn subject(&self) -> anyhow::Result<Subject> {
        Ok(Subject::new(self.tenant.as_deref(), &self.user)?)
    }

    /// What the user is called in the audit log.
    pub(super) fn target(&self) -> String {
        audit_target(self.tenant.as_deref(), &self.user)
    }
}

/// Runs a command to its end.
pub(super) fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(work)
}

/// Prints JSON objects: as lines of JSON, or as a table of these columns.
pub(super) fn print_rows(json: bool, columns: &[&str], rows: &[Value]) -> anyhow::Result<()> {
    write_rows(&mut io::stdout().lock(), json, columns, rows)
        .context("cannot write to standard output")
}

fn write_rows(
    out: &mut impl Write,
    json: bool,
    columns: &[&str],
    rows: &[Value],
) -> io::Result<()> {
    if json {
        return rows.iter().try_for_each(|row| writeln!(out, "{row}"));
    }
    let cell = |row: &Value, column: &&str| match &row[*column] {
        Value::Null => "-".to_owned(),
        Value::String(text) => printable(text),
        value => printable(&value.to_string()),
    };
    let header = columns.iter().map(|column| column.to_uppercase()).collect();
    let mut table: Vec<Vec<String>> = vec![header];
    table.extend(
        rows.iter()
            .map(|row| columns.iter().map(|column| cell(row, column)).collect()),
    );
    let width = |index: usize| table.iter().map(|row| row[index].chars().count()).max();
    let widths: Vec<usize> = (0..columns.len())
        .map(|index| width(index).unwrap_or(0))
        .collect();
    for row in &table {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line += &format!("{cell:<width$}  ");
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// What a caller said must not move the operator's cursor.
fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let plain = (!c.is_control()).then_some(c);
            let escaped = c.is_control().then(|| c.escape_default());
            plain.into_iter().chain(escaped.into_iter().flatten())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn written(json: bool, rows: &[Value]) -> String {
        let mut out = Vec::new();
        write_rows(&mut out, json, &["id", "text"], rows).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn rows_are_tables_for_people_and_lines_for_machines() {
        let rows = [
            json!({"id": 1, "text": "a\u{1b}[2Jb\nc", "more": true}),
            json!({"id": 100, "text": null}),
        ];
        assert_eq!(
            written(false, &rows),
            "ID   TEXT\n1    a\\u{1b}[2Jb\\nc\n100  -\n"
        );
        let lines = written(true, &rows);
        assert_eq!(lines.lines().count(), 2);
        assert!(lines.contains("\"more\":true"));
    }
}
