//! What commands do to keys and stored conversations, written down (G1).
//!
//! A running server keeps its audit log open and locked, so commands have one of their own beside the keyring, under the
//! keys that lie there: those of the server's log, in a data folder. `llmrtc audit` verifies the one like the other. It is
//! open only while something is written, so a long export keeps no other command from being recorded.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use llmrtc_core::{clock::SystemClock, tasks::Tasks};
use llmrtc_security::audit::{Action, Audit, AuditConfig, AuditEvent, AuditOptions};
use rustix::process::getuid;

/// Names the log in its records, where nodes have their names.
const NODE: &str = "command";
/// How long a slow disk may take for a record. Nobody is on the line.
const WITHIN: Duration = Duration::from_secs(10);

/// Where the command is recorded.
#[derive(Debug, clap::Args)]
pub(super) struct JournalArgs {
    /// Audit log of commands [default: commands.jsonl beside the keyring].
    #[arg(long, value_name = "FILE")]
    audit: Option<PathBuf>,
    /// Keys of the audit log, made if there are none [default: audit.key beside the keyring].
    #[arg(long, value_name = "FILE")]
    audit_key: Option<PathBuf>,
}

impl JournalArgs {
    /// The log of commands that use this keyring.
    pub(super) fn beside(&self, keyring: &Path) -> Journal {
        let or = |given: &Option<PathBuf>, name| {
            given
                .clone()
                .unwrap_or_else(|| keyring.with_file_name(name))
        };
        Journal {
            config: AuditConfig {
                path: or(&self.audit, "commands.jsonl"),
                key_file: or(&self.audit_key, "audit.key"),
                node: NODE.into(),
                deadline: WITHIN,
                ..AuditConfig::default()
            },
        }
    }
}

/// The audit log of commands.
#[derive(Debug)]
pub(super) struct Journal {
    config: AuditConfig,
}

impl Journal {
    /// Does something that must not happen unrecorded: that it begins is on the disk before, how it ended after it.
    ///
    /// # Errors
    /// Those of `work`, which does not run if it cannot be recorded.
    pub(super) async fn around<T>(
        &self,
        operation: &'static str,
        target: Option<&str>,
        work: impl AsyncFnOnce() -> anyhow::Result<(T, Option<Action>)>,
    ) -> anyhow::Result<T> {
        let acted = |done| Action::AdminActed {
            operation,
            target: target.map(Arc::from),
            done,
        };
        self.record([acted(None)])
            .await
            .context("nothing was done")?;
        match work().await {
            Ok((result, outcome)) => {
                let outcome = outcome.into_iter().chain([acted(Some(true))]);
                self.record(outcome).await.context("it was done, but")?;
                Ok(result)
            }
            Err(error) => match self.record([acted(Some(false))]).await {
                Ok(()) => Err(error),
                Err(unrecorded) => Err(error.context(format!("{unrecorded:#}"))),
            },
        }
    }

    /// Returns when these are on the disk, in the name of whoever runs the command.
    ///
    /// # Errors
    /// When one is not. What it is about must not happen then.
    pub(super) async fn record(
        &self,
        actions: impl IntoIterator<Item = Action>,
    ) -> anyhow::Result<()> {
        let cannot = || format!("it cannot be recorded in {}", self.config.path.display());
        let operator = format!("uid:{}", getuid().as_raw());
        let tasks = Tasks::root("journal");
        let (options, clock) = (AuditOptions::default(), Arc::new(SystemClock));
        let audit = Audit::start(&self.config, options, clock, &tasks)
            .await
            .with_context(cannot)?;
        let mut result = Ok(());
        for action in actions {
            let event = AuditEvent::new(action).by_subject(&*operator, None);
            result = result.and(audit.record_durable(event).await);
        }
        // Writes the signed head, and releases the file.
        tasks.shutdown(WITHIN).await;
        result.with_context(cannot)
    }
}
