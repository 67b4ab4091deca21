//! Disk full, sink down.

use std::{
    io,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;

use super::*;
use crate::audit::{
    AuditUnavailable, Class, Policy,
    recover::Resume,
    sink::{Batch, Sink},
};

/// A sink with a disk that can be full, and that keeps what it took.
#[derive(Clone, Default)]
struct Disk {
    full: Arc<AtomicBool>,
    lines: Arc<Mutex<Vec<u8>>>,
}

impl Disk {
    fn lines(&self) -> Vec<u8> {
        self.lines.lock().unwrap().clone()
    }
}

#[async_trait]
impl Sink for Disk {
    fn name(&self) -> &'static str {
        "disk"
    }

    async fn open(&mut self, _: &Arc<AuditKeys>) -> io::Result<Resume> {
        Ok(Resume::FRESH)
    }

    async fn append(&mut self, batch: &Batch) -> io::Result<()> {
        if self.full.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.lines.lock().unwrap().extend_from_slice(&batch.bytes);
        Ok(())
    }
}

fn auth() -> AuditEvent {
    AuditEvent::new(Action::AuthSucceeded { method: "jwt" })
}

fn limited() -> AuditEvent {
    AuditEvent::new(Action::RateLimited {
        limit: "ip",
        retry_after: Duration::ZERO,
    })
}

async fn with_disks(config: &AuditConfig, disks: &[Disk]) -> (Audit, Tasks, Arc<AuditKeys>) {
    let tasks = Tasks::root("test");
    let keys = Arc::new(fixed_keys());
    let sinks = disks
        .iter()
        .map(|disk| Box::new(disk.clone()) as Box<dyn Sink>)
        .collect();
    let audit = Audit::with_sinks(
        config,
        AuditOptions::default(),
        Arc::new(SystemClock),
        &tasks,
        Arc::clone(&keys),
        sinks,
    )
    .await
    .unwrap();
    (audit, tasks, keys)
}

fn count(counts: &[(Class, u64)], class: Class) -> u64 {
    counts.iter().find(|(other, _)| *other == class).unwrap().1
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_refuses_what_must_be_recorded_and_drops_the_rest_visibly() {
    let disk = Disk::default();
    let (audit, tasks, keys) =
        with_disks(&AuditConfig::default(), std::slice::from_ref(&disk)).await;
    audit.record_durable(auth()).await.unwrap();
    disk.full.store(true, Ordering::SeqCst);

    let begun = tokio::time::Instant::now();
    assert_eq!(audit.record_durable(auth()).await, Err(AuditUnavailable));
    assert_eq!(begun.elapsed().as_secs(), 2, "the deadline");
    let stats = audit.stats();
    assert!(stats.failing && stats.sink_failures > 0, "{stats:?}");
    assert_eq!(count(&stats.refused, Class::Auth), 1);

    // More than the queue takes. By class `drop` nobody waits.
    for _ in 0..20_000 {
        assert_eq!(audit.record_durable(limited()).await, Ok(()));
    }
    let dropped = count(&audit.stats().dropped, Class::Session);
    assert!((1..20_000).contains(&dropped), "{dropped}");
    assert_eq!(audit.record_durable(auth()).await, Err(AuditUnavailable));

    disk.full.store(false, Ordering::SeqCst);
    tokio::time::timeout(SOON, audit.sign_head())
        .await
        .unwrap()
        .unwrap_or_default();
    while audit.stats().failing || audit.record_durable(auth()).await.is_err() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    tasks.shutdown(SOON).await;

    // Every event is a record, or counted in one.
    let lines = disk.lines();
    let report = verify(Trust::Keys(keys), &[&lines], None);
    assert!(report.is_intact() && report.closed, "{report:?}");
    let (mut recorded, mut told) = (0, 0);
    for value in values(&lines) {
        match value["metadata"]["event_code"].as_str().unwrap() {
            "rate_limited" => recorded += 1,
            "log_lost" => {
                told += value["unmapped"]["dropped"]["session"]
                    .as_u64()
                    .unwrap_or(0)
            }
            _ => {}
        }
    }
    assert_eq!((recorded + told, told), (20_000, dropped));
}

#[tokio::test(start_paused = true)]
async fn one_sink_of_two_down_means_not_recorded_and_neither_sink_forks() {
    let disks = [Disk::default(), Disk::default()];
    let (audit, tasks, keys) = with_disks(&AuditConfig::default(), &disks).await;
    disks[1].full.store(true, Ordering::SeqCst);
    assert_eq!(audit.record_durable(auth()).await, Err(AuditUnavailable));
    disks[1].full.store(false, Ordering::SeqCst);
    while audit.record_durable(auth()).await.is_err() {}
    tasks.shutdown(SOON).await;
    assert_eq!(disks[0].lines(), disks[1].lines());
    assert!(verify(Trust::Keys(keys), &[disks[0].lines()], None).is_intact());
}

#[tokio::test(start_paused = true)]
async fn the_operator_chooses_the_policy() {
    let mut config = AuditConfig::default();
    config.policy.auth = Policy::Drop;
    config.policy.session = Policy::Block;
    let disk = Disk::default();
    disk.full.store(true, Ordering::SeqCst);
    let (audit, _tasks, _) = with_disks(&config, &[disk]).await;
    assert_eq!(audit.record_durable(auth()).await, Ok(()));
    assert_eq!(audit.record_durable(limited()).await, Err(AuditUnavailable));
}

#[tokio::test(start_paused = true)]
async fn a_server_leaves_though_the_disk_is_full_and_says_what_it_lost() {
    let disk = Disk::default();
    let (audit, tasks, _) = with_disks(&AuditConfig::default(), std::slice::from_ref(&disk)).await;
    audit.record_durable(auth()).await.unwrap();
    disk.full.store(true, Ordering::SeqCst);
    audit.record(limited());
    assert_eq!(tasks.shutdown(SOON).await, 0);
    assert_eq!(count(&audit.stats().dropped, Class::Session), 1);
    assert_eq!(audit.record_durable(auth()).await, Err(AuditUnavailable));
    audit.record(limited());
    assert_eq!(count(&audit.stats().dropped, Class::Session), 2);
}

#[tokio::test]
async fn dev_full_is_a_full_disk() {
    let mut bench = Bench::new();
    bench.config.path = "/dev/full".into();
    bench.config.deadline = Duration::from_millis(50);
    let (audit, tasks) = bench.start().await;
    assert_eq!(audit.record_durable(auth()).await, Err(AuditUnavailable));
    assert!(audit.stats().failing);
    assert_eq!(tasks.shutdown(SOON).await, 0);
}

#[tokio::test]
async fn without_sinks_nothing_is_refused() {
    let config = AuditConfig {
        sinks: Some(Vec::new()),
        ..AuditConfig::default()
    };
    let tasks = Tasks::root("test");
    let audit = Audit::start(
        &config,
        AuditOptions::default(),
        Arc::new(SystemClock),
        &tasks,
    )
    .await
    .unwrap();
    assert_eq!(audit.record_durable(auth()).await, Ok(()));
    assert_eq!(
        (audit.sign_head().await, audit.stats()),
        (Ok(()), Default::default())
    );
    assert!(tasks.is_empty());
}
