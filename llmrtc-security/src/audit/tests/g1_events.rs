use std::time::{Duration, SystemTime};

use llmrtc_core::id::{CallId, ToolName, TurnId};
use serde_json::{Value, json};

use super::*;
use crate::audit::{Decision, ToolOutcome, render};

fn everything() -> Vec<Action> {
    let keys = fixed_keys();
    let call = |decision, outcome, reason| Action::ToolCalled {
        tool: ToolName::new("transfer"),
        call: Some(CallId::new("call_1")),
        args: keys.args_hash(&json!({"to": "DE89", "pin": "4711"})),
        decision,
        reason,
        outcome,
        latency: Duration::from_millis(120),
    };
    vec![
        Action::ServerStarted {
            address: "127.0.0.1:8787".into(),
            exposure: "loopback",
        },
        Action::ServerStarted {
            address: "0.0.0.0:8787".into(),
            exposure: "open_to_network",
        },
        Action::ServerStopped,
        Action::Connected {
            origin: Some("https://example.org".into()),
        },
        Action::Connected { origin: None },
        Action::Disconnected {
            reason: "client_closed",
            lasted: Duration::from_secs(61),
        },
        Action::AuthSucceeded { method: "jwt" },
        Action::AuthFailed {
            method: "jwt",
            reason: "expired",
        },
        Action::TicketMinted {
            valid_for: Duration::from_secs(30),
        },
        Action::TicketRedeemed,
        Action::SessionResumed,
        Action::ResumeRefused { reason: "unknown" },
        Action::ResumeReplayed,
        Action::RateLimited {
            limit: "connections_per_ip",
            retry_after: Duration::from_millis(1500),
        },
        Action::SessionEvicted { reason: "idle" },
        call(Decision::Allowed, ToolOutcome::Started, None),
        call(Decision::Allowed, ToolOutcome::Succeeded, None),
        call(Decision::Allowed, ToolOutcome::TimedOut, None),
        call(Decision::Denied, ToolOutcome::NotRun, Some("not_granted")),
        Action::InjectionJudged {
            source: "user",
            verdict: "block",
            score: 0.987,
            rules: vec!["override".into(), "persona".into()],
        },
        Action::Redacted {
            sink: "storage",
            counts: vec![("card".into(), 2), ("email".into(), 1)],
        },
        Action::KeyRotated {
            purpose: "vault",
            key: "k2".into(),
            fingerprint: Some("5bdcc146".into()),
        },
        Action::KeyRotated {
            purpose: "issuer",
            key: "https://issuer.example/keys#2026".into(),
            fingerprint: None,
        },
        Action::KeyRefused {
            purpose: "vendor",
            key: "OPENAI_API_KEY".into(),
            fingerprint: "5bdcc146".into(),
            fallback: Some("0a1b2c3d".into()),
        },
        Action::ConfigChanged {
            settings: vec!["auth.mode".into(), "limits.sessions".into()],
        },
        Action::RetentionSwept { records: 12 },
        Action::DataExported {
            target: "subject:ada".into(),
            records: 3,
        },
        Action::DataErased {
            target: "subject:ada".into(),
            records: 3,
        },
        Action::AdminActed {
            operation: "sessions.end",
            target: Some("all".into()),
            done: Some(true),
        },
        Action::AdminActed {
            operation: "erase",
            target: Some("ada".into()),
            done: None,
        },
        Action::Failed {
            code: "INTERNAL_ERROR",
            correlation: "5d41402a".into(),
            message: Some("the vault is gone".into()),
        },
    ]
}

/// 2026-03-01T12:00:00.042Z
fn then() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(1_772_366_400_042)
}

/// As the log would say it, without the chain.
fn shown(event: &AuditEvent) -> String {
    let record = render::event(event, "node-1", then());
    let (before, after) = record.bytes.split_at(record.sequence_at);
    let line = [before, b"17", after, b"}}"].concat();
    String::from_utf8(line).unwrap()
}

#[test]
fn every_event_as_it_is_written() {
    let lines: Vec<String> = everything()
        .into_iter()
        .map(|action| {
            let event = AuditEvent::new(action)
                .by(&Principal::user("ada@example.org", Some("acme".into())))
                .session(SessionId::from_u128(7))
                .turn(TurnId(3))
                .from("::ffff:192.0.2.1".parse().unwrap())
                .trace("4bf92f3577b34da6a3ce929d0e0e4736");
            shown(&event)
        })
        .collect();
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn every_event_says_who_what_when_where_and_how_it_ended() {
    for action in everything() {
        let event = AuditEvent::new(action)
            .by(&Principal::user("ada", Some("acme".into())))
            .session(SessionId::from_u128(7))
            .from("192.0.2.1".parse().unwrap())
            .trace("4bf9");
        let value: Value = serde_json::from_str(&shown(&event)).unwrap();
        let owner = if value["user"].is_object() {
            &value
        } else {
            &value["actor"]
        };
        assert_eq!(owner["user"]["uid"], "ada", "{value}");
        assert_eq!(
            owner["session"]["uid"], "00000000000000000000000000000007",
            "{value}"
        );
        assert_eq!(value["src_endpoint"]["ip"], "192.0.2.1");
        assert_eq!(value["time_dt"], "2026-03-01T12:00:00.042Z");
        assert_eq!(value["time"], 1_772_366_400_042_u64);
        assert_eq!(value["metadata"]["tenant_uid"], "acme");
        assert_eq!(value["metadata"]["correlation_uid"], "4bf9");
        assert_eq!(value["metadata"]["sequence"], 17);
        assert!(value["status_id"].is_u64());
        let (class, activity) = (
            value["class_uid"].as_u64().unwrap(),
            value["activity_id"].as_u64().unwrap(),
        );
        assert_eq!(value["category_uid"], class / 1000);
        assert_eq!(value["type_uid"], class * 100 + activity);
        assert_eq!(
            activity == 99,
            value["activity_name"].is_string(),
            "{value}"
        );
    }
}

#[test]
fn an_event_without_a_caller_is_still_whole() {
    for action in everything() {
        let value: Value = serde_json::from_str(&shown(&AuditEvent::new(action))).unwrap();
        assert!(
            value.get("actor").is_none()
                && value.get("user").is_none()
                && value.get("src_endpoint").is_none()
        );
    }
}

#[tokio::test]
async fn numbers_go_up_by_one_across_runs_and_rotation() {
    let mut bench = Bench::new();
    bench.config.rotate_bytes = 20_000;
    for run in 0..4 {
        bench.run(run * 50..run * 50 + 50).await;
    }
    let lines: Vec<u8> = bench
        .files()
        .iter()
        .flat_map(|path| fs::read(path).unwrap())
        .collect();
    assert!(bench.files().len() > 3);
    let mut swept = Vec::new();
    for (index, value) in values(&lines).iter().enumerate() {
        assert_eq!(value["metadata"]["sequence"], index + 1);
        swept.extend(value["unmapped"]["records"].as_u64());
    }
    assert!(swept.into_iter().eq(0..200), "in order, and none is lost");
    assert!(bench.verify().is_intact());
}

#[tokio::test]
async fn messages_of_errors_pass_the_scrubber_or_stay_out() {
    for (scrub, expected) in [
        (None, Value::Null),
        (Some("[card]"), json!("no [card] here")),
    ] {
        let bench = Bench::new();
        let tasks = Tasks::root("test");
        let mut options = AuditOptions::default();
        if let Some(mark) = scrub {
            options = options.scrub(Arc::new(move |text| text.replace("4111 1111", mark)));
        }
        let audit = Audit::start(&bench.config, options, Arc::new(SystemClock), &tasks)
            .await
            .unwrap();
        audit.record(AuditEvent::new(Action::Failed {
            code: "INTERNAL_ERROR",
            correlation: "c".into(),
            message: Some("no 4111 1111 here".into()),
        }));
        tasks.shutdown(SOON).await;
        let lines = fs::read(bench.path()).unwrap();
        assert!(!String::from_utf8_lossy(&lines).contains("4111"));
        assert_eq!(values(&lines)[1]["message"], expected);
    }
}

/// T12: a caller denies that the assistant was asked to do this.
#[tokio::test]
async fn t12_a_claim_about_a_call_is_settled_by_chain_and_hash() {
    let bench = Bench::new();
    let (audit, tasks) = bench.start().await;
    let args = json!({"to": "DE89 3704", "amount": 73195250});
    audit
        .record_durable(
            AuditEvent::new(Action::ToolCalled {
                tool: ToolName::new("transfer"),
                call: None,
                args: audit.args_hash(&args),
                decision: Decision::Allowed,
                reason: None,
                outcome: ToolOutcome::Started,
                latency: Duration::ZERO,
            })
            .by(&Principal::user("ada", None)),
        )
        .await
        .unwrap();
    // Written before the tool runs, arguments in no form.
    let lines = fs::read(bench.path()).unwrap();
    let text = String::from_utf8(lines.clone()).unwrap();
    assert!(
        !text.contains("DE89") && !text.contains("73195250"),
        "{text}"
    );
    tasks.shutdown(SOON).await;
    assert!(bench.verify().is_intact());

    let call = &values(&lines)[1];
    let hash = &call["unmapped"]["args_hash"];
    let keys = bench.keys();
    let recomputed = |claim: &Value| keys.args_hash(claim).to_string();
    assert_eq!(hash["epoch"], 1);
    assert_eq!(
        hash["value"],
        recomputed(&json!({"amount": 7.319525e7, "to": "DE89 3704"}))
    );
    assert_ne!(
        hash["value"],
        recomputed(&json!({"to": "DE89 3704", "amount": 73195251}))
    );
}
