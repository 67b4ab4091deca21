//! The log as a whole. One module per item of the security requirements.

mod g1_events;
mod g3_crash;
mod g3_tampering;
mod g4_injection;
mod g5_failure;
#[cfg(feature = "postgres")]
mod postgres;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use llmrtc_core::{clock::SystemClock, id::SessionId, redact::Secret, tasks::Tasks};

use super::{
    Action, Audit, AuditConfig, AuditEvent, AuditKeys, AuditOptions,
    verify::{Report, Trust, Verifier},
};
use crate::auth::Principal;

/// Long enough for a busy machine; nothing waits for it to pass.
const SOON: Duration = Duration::from_secs(30);

fn fixed_keys() -> AuditKeys {
    AuditKeys::parse(&Secret::new(format!("1 {}", "AAAA".repeat(10) + "AAA"))).unwrap()
}

fn event(n: u64) -> AuditEvent {
    AuditEvent::new(Action::RetentionSwept { records: n })
        .by(&Principal::user("ada@example.org", Some("acme".into())))
        .session(SessionId::from_u128(7))
        .from("192.0.2.1".parse().unwrap())
}

/// A log in a folder of its own.
struct Bench {
    folder: tempfile::TempDir,
    config: AuditConfig,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = AuditConfig {
            path: folder.path().join("audit.jsonl"),
            key_file: folder.path().join("audit.key"),
            fsync: false,
            head_interval: Duration::from_secs(3600),
            ..AuditConfig::default()
        };
        Self { folder, config }
    }

    fn path(&self) -> &Path {
        &self.config.path
    }

    fn head(&self) -> PathBuf {
        self.folder.path().join("audit.jsonl.head")
    }

    async fn start(&self) -> (Audit, Tasks) {
        let tasks = Tasks::root("test");
        let audit = Audit::start(
            &self.config,
            AuditOptions::default(),
            Arc::new(SystemClock),
            &tasks,
        )
        .await;
        (audit.unwrap(), tasks)
    }

    /// One run of the server that records these numbers and leaves in good order.
    async fn run(&self, numbers: impl IntoIterator<Item = u64>) {
        let (audit, tasks) = self.start().await;
        for n in numbers {
            audit.record(event(n));
        }
        assert_eq!(tasks.shutdown(SOON).await, 0);
    }

    fn keys(&self) -> Arc<AuditKeys> {
        Arc::new(AuditKeys::load(&self.config.key_file).unwrap())
    }

    /// All files in the order of writing.
    fn files(&self) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = fs::read_dir(self.folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| {
                path.extension()
                    .is_some_and(|extension| extension == "jsonl")
            })
            .collect();
        files.sort_by_key(|path| (path == self.path(), path.clone()));
        files
    }

    fn verify(&self) -> Report {
        let files: Vec<Vec<u8>> = self
            .files()
            .iter()
            .map(|path| fs::read(path).unwrap())
            .collect();
        verify(
            Trust::Keys(self.keys()),
            &files,
            fs::read(self.head()).ok().as_deref(),
        )
    }
}

fn verify(trust: Trust, files: &[impl AsRef<[u8]>], head: Option<&[u8]>) -> Report {
    let mut verifier = Verifier::new(trust);
    if let Some(head) = head {
        verifier.published_head(head).unwrap();
    }
    for (index, file) in files.iter().enumerate() {
        verifier.file(&format!("{index}"), file.as_ref()).unwrap();
    }
    verifier.finish()
}

fn values(lines: &[u8]) -> Vec<serde_json::Value> {
    String::from_utf8(lines.to_vec())
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn codes(lines: &[u8]) -> Vec<String> {
    values(lines)
        .iter()
        .map(|value| value["metadata"]["event_code"].as_str().unwrap().to_owned())
        .collect()
}
