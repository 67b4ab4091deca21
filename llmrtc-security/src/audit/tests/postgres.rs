//! The same log in a table.

use llmrtc_core::redact::Secret;
use sqlx::{Connection, PgConnection, Row};

use super::*;
use crate::{
    audit::{AuditUnavailable, SinkKind},
    testing::PostgresServer,
};

async fn lines(url: &Secret) -> Vec<u8> {
    let mut connection = PgConnection::connect(url.expose()).await.unwrap();
    let rows = sqlx::query("SELECT line, seq, extract(epoch FROM time)::float8 FROM llmrtc_audit WHERE node = 'llmrtc' ORDER BY seq")
        .fetch_all(&mut connection)
        .await
        .unwrap();
    let mut out = Vec::new();
    for row in rows {
        let line: String = row.get(0);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["metadata"]["sequence"], row.get::<i64, _>(1));
        assert_eq!(
            value["time"].as_f64().unwrap(),
            (row.get::<f64, _>(2) * 1000.0).round()
        );
        out.extend_from_slice(line.as_bytes());
        out.push(b'\n');
    }
    out
}

#[tokio::test]
async fn a_table_is_a_log_and_survives_its_server() {
    let mut server = PostgresServer::start().await;
    let mut bench = Bench::new();
    bench.config.sinks = Some(vec![SinkKind::Postgres]);
    bench.config.database_url = Some(server.url());
    bench.config.deadline = Duration::from_secs(1);
    bench.run(0..600).await;

    let (audit, tasks) = bench.start().await;
    let auth = || AuditEvent::new(Action::AuthSucceeded { method: "jwt" });
    audit.record_durable(auth()).await.unwrap();
    server.kill().await;
    assert_eq!(audit.record_durable(auth()).await, Err(AuditUnavailable));
    audit.record(event(1000));
    server.restart().await;
    let recovered = async { while audit.record_durable(auth()).await.is_err() {} };
    tokio::time::timeout(SOON, recovered).await.unwrap();
    tasks.shutdown(SOON).await;

    let lines = lines(&server.url()).await;
    let mut connection = PgConnection::connect(server.url().expose()).await.unwrap();
    let head: String = sqlx::query("SELECT line FROM llmrtc_audit_head")
        .fetch_one(&mut connection)
        .await
        .unwrap()
        .get(0);
    let report = verify(
        Trust::Keys(bench.keys()),
        std::slice::from_ref(&lines),
        Some(head.as_bytes()),
    );
    assert!(report.is_intact() && report.closed, "{report:?}");
    assert!(
        codes(&lines).iter().any(|code| code == "log_lost"),
        "the refused action is told"
    );
    assert!(
        String::from_utf8(lines)
            .unwrap()
            .contains("\"records\":1000"),
        "what waited is not lost"
    );
}
