//! What auditing costs: events per second through the whole path (rendering, queue, hash chain, mac, heads, file),
//! and what a durable record waits.
//!
//! `cargo run --release -p llmrtc-security --example audit_cost [EVENTS]`

#![expect(clippy::print_stdout, reason = "a program whose output is the result")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use llmrtc_core::{clock::SystemClock, id::SessionId, tasks::Tasks};
use llmrtc_security::{
    audit::{Action, Audit, AuditConfig, AuditEvent, AuditOptions},
    auth::Principal,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let events: u64 = match std::env::args().nth(1) {
        Some(count) => count.parse()?,
        None => 500_000,
    };
    let folder = tempfile::tempdir()?;
    let config = AuditConfig {
        path: folder.path().join("audit.jsonl"),
        key_file: folder.path().join("audit.key"),
        rotate_bytes: 1 << 40,
        ..AuditConfig::default()
    };
    let tasks = Tasks::root("audit");
    let audit = Audit::start(
        &config,
        AuditOptions::default(),
        Arc::new(SystemClock),
        &tasks,
    )
    .await?;
    let ada = Principal::user("ada@example.org", Some("acme".into()));
    let event = |n: u64| {
        AuditEvent::new(Action::RateLimited {
            limit: "connections_per_ip",
            retry_after: Duration::from_millis(n),
        })
        .by(&ada)
        .session(SessionId::random())
        .from([192, 0, 2, 1].into())
    };

    let begun = Instant::now();
    for n in 0..events {
        audit.record(event(n));
        // Callers of a server yield too; without, this loop alone would overrun any queue.
        if n % 4_096 == 4_095 {
            audit.sign_head().await?;
        }
    }
    audit.sign_head().await?;
    let took = begun.elapsed();
    let bytes = std::fs::metadata(&config.path)?.len();
    println!(
        "{events} events in {took:.2?}: {:.0} per second, {} bytes each; lost: {:?}",
        events as f64 / took.as_secs_f64(),
        bytes / events.max(1),
        audit
            .stats()
            .dropped
            .iter()
            .map(|(_, count)| count)
            .sum::<u64>(),
    );

    let mut waits: Vec<Duration> = Vec::new();
    for _ in 0..200 {
        let begun = Instant::now();
        audit
            .record_durable(AuditEvent::new(Action::AuthSucceeded { method: "jwt" }).by(&ada))
            .await?;
        waits.push(begun.elapsed());
    }
    waits.sort();
    println!(
        "durable, with fsync: p50 {:.2?}, p95 {:.2?}",
        waits[100], waits[190]
    );
    tasks.shutdown(Duration::from_secs(10)).await;
    Ok(())
}
