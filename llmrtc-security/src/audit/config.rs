//! The audit section of the configuration.

use std::{path::PathBuf, time::Duration};

use llmrtc_core::{duration, redact::Secret};
use serde::Deserialize;
use validator::{Validate, ValidationError};

use super::event::Class;

/// What is recorded where, and what happens when it cannot be.
#[derive(Clone, Debug, Deserialize, Validate)]
#[serde(default, deny_unknown_fields)]
#[validate(schema(function = "audit_is_consistent"))]
pub struct AuditConfig {
    /// Where records go. The first is the one that a restart continues. Empty: nothing is recorded. Absent: a file, in a
    /// server whose callers show who they are.
    pub sinks: Option<Vec<SinkKind>>,
    /// The file of sink `file`. Ended files and the signed head lie beside it.
    pub path: PathBuf,
    /// The keys; made at the first start.
    pub key_file: PathBuf,
    /// Names this node in every record. Nodes that share a table or keys need names of their own.
    #[validate(length(min = 1, max = 64))]
    pub node: String,
    /// The database of sink `postgres`.
    pub database_url: Option<Secret>,
    /// A file is ended at this size in bytes, 1 MiB–1 TiB.
    #[validate(range(min = 1_048_576, max = 1_099_511_627_776_u64))]
    pub rotate_bytes: u64,
    /// A file is also ended with the day, in UTC.
    pub rotate_daily: bool,
    /// A signed head follows after this many records at the latest.
    #[validate(range(min = 1, max = 1_000_000))]
    pub head_records: u64,
    /// A signed head follows after this time at the latest, 100 ms–1 h. What came after it can be cut off unnoticed.
    #[serde(with = "duration")]
    pub head_interval: Duration,
    /// How long an action waits for its record before it is refused, 10 ms–30 s.
    #[serde(with = "duration")]
    pub deadline: Duration,
    /// Whether an action waits for the disk, not only for the system. Without, a power failure may take the last
    /// records; a killed process never does.
    pub fsync: bool,
    /// What happens when a record cannot be written, by class.
    #[validate(nested)]
    pub policy: PolicyConfig,
}

/// A place for records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SinkKind {
    /// A file that rotates.
    File,
    /// A table in PostgreSQL (feature `postgres`).
    Postgres,
    /// Standard output.
    Stdout,
}

/// What happens when a record cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Policy {
    /// The action waits, and is refused after the deadline: nothing happens unrecorded.
    Block,
    /// The action goes on. The loss is counted, and recorded as soon as that is possible again.
    Drop,
}

/// A policy per class of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Validate)]
#[serde(default, deny_unknown_fields)]
pub struct PolicyConfig {
    /// Authentication, tickets, resumption.
    pub auth: Policy,
    /// Tool calls.
    pub tool: Policy,
    /// Keys, secrets, settings, stored data, operators.
    pub admin: Policy,
    /// Connections, limits, evictions.
    pub session: Policy,
    /// Injection and redaction.
    pub guard: Policy,
    /// Errors.
    pub system: Policy,
}

impl PolicyConfig {
    /// The policy of a class.
    pub fn of(&self, class: Class) -> Policy {
        match class {
            Class::Auth => self.auth,
            Class::Tool => self.tool,
            Class::Admin => self.admin,
            Class::Session => self.session,
            Class::Guard => self.guard,
            Class::System => self.system,
        }
    }
}

impl Default for PolicyConfig {
    fn default() -> Self {
        Self {
            // Who came in, what was done in their name, and what operators did: worthless as evidence with gaps.
            auth: Policy::Block,
            tool: Policy::Block,
            admin: Policy::Block,
            // A conversation should not stall for a statistic, and an attacker who fills the disk should not end calls.
            session: Policy::Drop,
            guard: Policy::Drop,
            system: Policy::Drop,
        }
    }
}

impl AuditConfig {
    /// Where records go, unless the server decides otherwise: a file.
    pub fn sinks(&self) -> &[SinkKind] {
        self.sinks.as_deref().unwrap_or(&[SinkKind::File])
    }
}

impl Default for AuditConfig {
    fn default() -> Self {
        Self {
            sinks: None,
            path: "audit.jsonl".into(),
            key_file: "audit.key".into(),
            node: "llmrtc".into(),
            database_url: None,
            // 150,000 records: minutes to verify, seconds to ship.
            rotate_bytes: 100 * 1024 * 1024,
            rotate_daily: true,
            head_records: 1_000,
            head_interval: Duration::from_secs(10),
            // As long as a caller waits at a door before trying again.
            deadline: Duration::from_secs(2),
            fsync: true,
            policy: PolicyConfig::default(),
        }
    }
}

fn audit_is_consistent(audit: &AuditConfig) -> Result<(), ValidationError> {
    let problem = |message: &'static str| {
        Err(ValidationError::new("inconsistent").with_message(message.into()))
    };
    let mut kinds = Vec::new();
    for kind in audit.sinks() {
        if kinds.contains(kind) {
            return problem("a sink may be named once");
        }
        kinds.push(*kind);
    }
    let ms = Duration::from_millis;
    if !(ms(100)..=ms(3_600_000)).contains(&audit.head_interval) {
        return problem("head_interval must be 100ms to 1h");
    }
    if !(ms(10)..=ms(30_000)).contains(&audit.deadline) {
        return problem("deadline must be 10ms to 30s");
    }
    if kinds.contains(&SinkKind::Postgres) {
        if audit.database_url.as_ref().is_none_or(Secret::is_blank) {
            return problem("sink postgres needs database_url");
        }
        if !cfg!(feature = "postgres") {
            return problem("this build has no sink postgres");
        }
    }
    if kinds.contains(&SinkKind::File) && audit.path.file_name().is_none() {
        return problem("path must name a file");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn valid(json: &str) -> bool {
        let config: AuditConfig = serde_json::from_str(json).unwrap();
        config.validate().is_ok()
    }

    #[test]
    fn defaults_are_valid_and_nonsense_is_not() {
        assert!(AuditConfig::default().validate().is_ok());
        assert!(valid(
            r#"{"sinks": [], "head_interval": "1s", "policy": {"auth": "drop"}}"#
        ));
        assert!(valid(
            r#"{"sinks": ["stdout", "postgres"], "database_url": "postgres://x"}"#
        ));
        for bad in [
            r#"{"sinks": ["file", "file"]}"#,
            r#"{"sinks": ["postgres"]}"#,
            r#"{"head_interval": "1ms"}"#,
            r#"{"deadline": "1h"}"#,
            r#"{"rotate_bytes": 1}"#,
            r#"{"head_records": 0}"#,
            r#"{"node": ""}"#,
            r#"{"path": "/"}"#,
        ] {
            assert!(!valid(bad), "{bad}");
        }
        for wrong in [
            r#"{"sinks": ["kafka"]}"#,
            r#"{"pth": "x"}"#,
            r#"{"policy": {"auth": "ignore"}}"#,
        ] {
            assert!(
                serde_json::from_str::<AuditConfig>(wrong).is_err(),
                "{wrong}"
            );
        }
    }

    #[test]
    fn g5_auth_and_tool_events_block_by_default() {
        let policy = PolicyConfig::default();
        let blocking: Vec<_> = Class::ALL
            .into_iter()
            .filter(|class| policy.of(*class) == Policy::Block)
            .collect();
        assert_eq!(blocking, [Class::Auth, Class::Tool, Class::Admin]);
    }
}
