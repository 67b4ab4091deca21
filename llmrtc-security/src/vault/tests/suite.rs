//! What a vault does, whatever database is below.

use futures_util::{FutureExt, TryStreamExt, future::BoxFuture};
use llmrtc_core::{session::SessionLimits, tasks::Tasks};

use super::*;
use crate::{
    auth::{resume::HandleId, ticket::TicketId},
    crypto::keyring::KeyringError,
    vault::db::{Statement, statement},
};

type Case = (&'static str, fn(Fixture) -> BoxFuture<'static, ()>);

macro_rules! cases {
    ($($name:ident)*) => {
        /// All cases, for a database that is expensive to start.
        pub(super) const CASES: &[Case] = &[$((stringify!($name), |fixture| $name(fixture).boxed())),*];

        /// A test per case, for a database that is cheap.
        mod sqlite {
            $(#[tokio::test] async fn $name() {
                let folder = tempfile::TempDir::new().unwrap();
                super::$name(super::super::sqlite::fixture(&folder).await).await;
            })*
        }
    };
}

cases! {
    e3_records_come_back_in_order_and_to_their_user_alone
    e3_pages_follow_each_other
    e3_an_expired_row_is_never_returned_and_the_sweeper_removes_it
    e3_each_class_has_its_own_time
    e3_a_clock_that_falls_back_deletes_nothing_early
    e3_a_legal_hold_keeps_everything
    e3_erasing_leaves_nothing_but_a_receipt
    e3_one_sweeper_at_a_time_and_a_dead_one_is_succeeded
    e3_a_sweep_goes_on_where_another_stopped
    e3_who_left_nothing_behind_is_forgotten
    t18_restored_rows_of_an_erased_user_stay_unreadable
    t8_swapped_and_changed_rows_do_not_open
    e4_rotation_rewraps_in_steps_and_refuses_to_lose_data
    e4_an_erased_user_starts_anew_on_every_node
    e5_export_is_one_object_per_record
    b7_the_last_writer_of_a_snapshot_has_the_session
    b7_what_ended_is_not_found_again_and_cannot_be_revived
    e4_a_snapshot_opens_in_its_own_row_only
    snapshots_survive_a_restart_and_expire
    snapshots_are_bounded
    the_writer_acknowledges_what_is_durable
    a_later_version_is_not_touched
    upkeep_sweeps_rewraps_and_ends_when_told
}

async fn execute(fixture: &Fixture, statement: Statement) -> u64 {
    fixture.vault.records.execute(statement).await.unwrap()
}

async fn rows_of(fixture: &Fixture, table: &str) -> i64 {
    let select = statement!(format!("SELECT COUNT(*) FROM {table}"));
    let row = fixture.vault.records.row(select).await.unwrap();
    row.unwrap().int(0).unwrap()
}

async fn e3_records_come_back_in_order_and_to_their_user_alone(f: Fixture) {
    f.say("ada", 1, "first").await;
    f.clock.advance(DAY);
    let both = [line("ada", 2, "second"), line("eve", 2, "hers")];
    f.vault.append(&both).await.unwrap();
    f.say("ada", 1, "third").await;
    assert_eq!(f.read("ada").await, ["first", "second", "third"]);
    assert_eq!(f.read("eve").await, ["hers"]);
    assert!(f.read("nobody").await.is_empty());
    let elsewhere = Subject::new(None, "ada").unwrap();
    assert!(
        f.vault
            .records(&elsewhere, None, None, 9)
            .await
            .unwrap()
            .is_empty()
    );
    let one = f
        .vault
        .records(&subject("ada"), Some(session(1)), None, 9)
        .await
        .unwrap();
    assert_eq!(one.len(), 2);

    let sessions = f.vault.sessions(&subject("ada"), 10).await.unwrap();
    let seen: Vec<_> = sessions.iter().map(|s| (s.session, s.records)).collect();
    assert_eq!(seen, [(session(1), 2), (session(2), 1)]);
    assert_eq!(
        sessions[0].last.duration_since(sessions[0].first).unwrap(),
        DAY
    );
    assert_eq!(f.vault.sessions(&subject("ada"), 1).await.unwrap().len(), 1);
}

async fn e3_pages_follow_each_other(f: Fixture) {
    let records: Vec<_> = (0..150).map(|n| line("ada", 1, &n.to_string())).collect();
    f.vault.append(&records).await.unwrap();
    let (mut after, mut seen) = (None, Vec::new());
    loop {
        let page = f
            .vault
            .records(&subject("ada"), None, after, 60)
            .await
            .unwrap();
        assert!(page.len() <= 60);
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        seen.extend(
            page.into_iter()
                .map(|record| record.content.unwrap().to_vec()),
        );
    }
    let expected: Vec<_> = (0..150).map(|n: u32| n.to_string().into_bytes()).collect();
    assert_eq!(seen, expected);
}

async fn e3_an_expired_row_is_never_returned_and_the_sweeper_removes_it(f: Fixture) {
    // More than a batch.
    let old: Vec<_> = (0..700)
        .map(|n| line("ada", 1, &format!("old {n}")))
        .collect();
    f.vault.append(&old).await.unwrap();
    f.clock.advance(DAY);
    f.say("ada", 2, "new").await;
    assert_eq!(f.vault.sweep().await.unwrap().records, 0);
    f.clock.advance(DAY * 29 - Duration::from_millis(1));
    assert_eq!(f.vault.sessions(&subject("ada"), 9).await.unwrap().len(), 2);
    f.clock.advance(Duration::from_millis(1));
    assert_eq!(f.read("ada").await, ["new"]);
    let sessions = f.vault.sessions(&subject("ada"), 9).await.unwrap();
    assert_eq!(sessions.len(), 1);
    assert_eq!(rows_of(&f, "vault_records").await, 701, "not yet swept");
    let report = f.vault.sweep().await.unwrap();
    assert_eq!(report.records, 700);
    assert!(report.compacted && !report.busy);
    assert_eq!(rows_of(&f, "vault_records").await, 1);
    assert_eq!(f.vault.sweep().await.unwrap().records, 0);
}

async fn e3_each_class_has_its_own_time(f: Fixture) {
    let retention = RetentionConfig {
        audio: DAY,
        tool_result: DAY * 7,
        ..RetentionConfig::default()
    };
    let vault = Vault::open(&f.urls, Some(retention), f.ring.clone(), f.clock.clone())
        .await
        .unwrap();
    let records = Class::ALL.map(|class| NewRecord {
        class,
        ..line("ada", 1, class.as_str())
    });
    vault.append(&records).await.unwrap();
    for (days, left) in [
        (0, &["transcript", "audio", "tool-result"][..]),
        (1, &["transcript", "tool-result"]),
        (6, &["transcript"]),
        (23, &[]),
    ] {
        f.clock.advance(DAY * days);
        assert_eq!(read(&vault, "ada").await, left);
        vault.sweep().await.unwrap();
        assert_eq!(read(&vault, "ada").await, left);
        assert_eq!(rows_of(&f, "vault_records").await, left.len() as i64);
    }
    // A tool without the configuration goes by the same rules.
    let tool = f.another().await;
    assert_eq!(tool.retention.of(Class::Audio), DAY);
    assert_eq!(tool.retention.of(Class::Transcript), DAY * 30);
}

async fn e3_a_clock_that_falls_back_deletes_nothing_early(f: Fixture) {
    f.say("ada", 1, "before").await;
    f.vault.sweep().await.unwrap();
    // The machine comes up with a dead battery: forty days ago.
    f.clock.fall_back(DAY * 40);
    let restarted = f.another().await;
    restarted
        .append(&[line("ada", 1, "meanwhile")])
        .await
        .unwrap();
    restarted.sweep().await.unwrap();
    assert_eq!(read(&restarted, "ada").await, ["before", "meanwhile"]);
    // The time server answers.
    f.clock.advance(DAY * 40 + Duration::from_secs(1));
    restarted.sweep().await.unwrap();
    assert_eq!(read(&restarted, "ada").await, ["before", "meanwhile"]);
    f.clock.advance(DAY * 30);
    assert_eq!(restarted.sweep().await.unwrap().records, 2);
    // What has expired does not come back when the clock falls back again.
    f.say("ada", 1, "later").await;
    f.clock.advance(DAY * 30);
    assert!(f.read("ada").await.is_empty());
    f.clock.fall_back(DAY * 5);
    assert!(f.read("ada").await.is_empty());
}

async fn e3_a_legal_hold_keeps_everything(f: Fixture) {
    f.say("ada", 1, "evidence").await;
    f.say("eve", 1, "gossip").await;
    f.vault.hold(&subject("ada"), "case 12/26\n").await.unwrap();
    let hold = f.vault.hold_of(&subject("ada")).await.unwrap();
    assert_eq!(hold.as_deref(), Some("case 12/26"));
    f.clock.advance(DAY * 400);
    assert_eq!(f.vault.sweep().await.unwrap().records, 1);
    assert_eq!(f.read("ada").await, ["evidence"]);
    let refused = f.vault.erase(&subject("ada")).await.unwrap_err();
    assert!(matches!(refused, VaultError::Held), "{refused}");
    assert!(f.vault.release(&subject("ada")).await.unwrap());
    assert!(!f.vault.release(&subject("ada")).await.unwrap());
    assert!(f.read("ada").await.is_empty());
    assert_eq!(f.vault.sweep().await.unwrap().records, 1);
}

async fn e3_erasing_leaves_nothing_but_a_receipt(f: Fixture) {
    f.say("ada", 1, "one").await;
    f.say("ada", 2, "two").await;
    f.say("eve", 3, "hers").await;
    let sessions = sessions(&f, SessionLimits::default());
    let snapshot = snapshot_of("ada", 4);
    sessions.put(&snapshot, 0, &"said".into()).await.unwrap();
    let receipt = f.vault.erase(&subject("ada")).await.unwrap();
    assert_eq!(
        (receipt.sessions, receipt.records, receipt.snapshots),
        (2, 2, 1)
    );
    assert!(receipt.is_for(&subject("ada")));
    assert!(!receipt.is_for(&subject("eve")));
    // A digest, which contains any three digits by chance.
    assert_ne!(&*receipt.subject, "ada");
    assert_eq!(receipt.key_fingerprint.as_ref().unwrap().len(), 8);
    assert!(f.read("ada").await.is_empty());
    assert_eq!(sessions.find(&snapshot.handle).await.unwrap(), None);
    assert_eq!(f.read("eve").await, ["hers"]);
    // The receipt survives, and its digest with it.
    let again = f.another().await.receipts(10).await.unwrap();
    assert_eq!(again, [receipt]);
    // Erasing nobody is no failure, and says so.
    let nobody = f.vault.erase(&subject("nobody")).await.unwrap();
    assert_eq!((nobody.records, nobody.key_id), (0, None));
}

async fn e3_one_sweeper_at_a_time_and_a_dead_one_is_succeeded(f: Fixture) {
    let (dead, alive) = (f.another().await, f.another().await);
    f.say("ada", 1, "x").await;
    f.clock.advance(DAY * 30);
    assert!(dead.lock_sweep().await.unwrap());
    assert!(dead.lock_sweep().await.unwrap(), "its owner may renew it");
    assert!(alive.sweep().await.unwrap().busy);
    assert_eq!(rows_of(&f, "vault_records").await, 1);
    f.clock.advance(Duration::from_secs(5 * 60));
    let report = alive.sweep().await.unwrap();
    assert_eq!((report.busy, report.records), (false, 1));
    // A sweep that came to its end leaves the lock free.
    assert!(!f.vault.sweep().await.unwrap().busy);

    // Of many at once each row is deleted by one.
    let records: Vec<_> = (0..40).map(|n| line("ada", 1, &n.to_string())).collect();
    f.vault.append(&records).await.unwrap();
    f.clock.advance(DAY * 30);
    let (a, b, c) = tokio::join!(f.vault.sweep(), dead.sweep(), alive.sweep());
    let total: u64 = [a, b, c]
        .into_iter()
        .map(|report| report.unwrap().records)
        .sum();
    assert_eq!(total, 40);
}

async fn e3_a_sweep_goes_on_where_another_stopped(f: Fixture) {
    let records: Vec<_> = (0..600).map(|n| line("ada", 1, &n.to_string())).collect();
    f.vault.append(&records).await.unwrap();
    f.clock.advance(DAY * 30);
    // One batch, and the process is gone: the future is dropped at its next wait.
    let crashing = f.another().await;
    let mut sweep = Box::pin(crashing.sweep());
    tokio::time::timeout(PATIENCE, async {
        while rows_of(&f, "vault_records").await == 600 {
            let _ = futures_util::poll!(&mut sweep);
        }
    })
    .await
    .unwrap();
    drop(sweep);
    f.clock.advance(Duration::from_secs(5 * 60));
    f.another().await.sweep().await.unwrap();
    assert_eq!(rows_of(&f, "vault_records").await, 0);
}

async fn e3_who_left_nothing_behind_is_forgotten(f: Fixture) {
    f.say("ada", 1, "x").await;
    f.say("held", 1, "x").await;
    f.vault.hold(&subject("held"), "case").await.unwrap();
    f.clock.advance(DAY * 31);
    let report = f.vault.sweep().await.unwrap();
    assert_eq!((report.records, report.keys), (1, 0));
    f.clock.advance(DAY * 2);
    assert_eq!(f.vault.sweep().await.unwrap().keys, 1);
    assert_eq!(f.vault.key_usage().await.unwrap()[0].1, 1);
    assert_eq!(f.read("held").await, ["x"]);
    f.say("ada", 1, "back again").await;
    assert_eq!(f.read("ada").await, ["back again"]);
}

async fn t18_restored_rows_of_an_erased_user_stay_unreadable(f: Fixture) {
    f.say("ada", 1, "secret").await;
    execute(
        &f,
        statement!("CREATE TABLE backup AS SELECT * FROM vault_records"),
    )
    .await;
    f.vault.erase(&subject("ada")).await.unwrap();
    assert_eq!(
        execute(
            &f,
            statement!("INSERT INTO vault_records SELECT * FROM backup")
        )
        .await,
        1
    );
    assert_eq!(f.read("ada").await, ["!"]);
    // Nor does it help to come back and have a key again.
    f.say("ada", 1, "hello").await;
    assert_eq!(f.read("ada").await, ["!", "hello"]);
}

async fn t8_swapped_and_changed_rows_do_not_open(f: Fixture) {
    let (a, b) = (f.say("ada", 1, "a").await, f.say("ada", 1, "b").await);
    f.say("ada", 1, "c").await;
    f.say("eve", 1, "e").await;
    let sealed = async |id: RecordId| {
        let select = statement!(
            "SELECT sealed FROM vault_records WHERE id = $1",
            id.to_string()
        );
        let row = f.vault.records.row(select).await.unwrap();
        row.unwrap().blob(0).unwrap()
    };
    for (id, other) in [(a, sealed(b).await), (b, sealed(a).await)] {
        let swap = statement!(
            "UPDATE vault_records SET sealed = $1 WHERE id = $2",
            other,
            id.to_string()
        );
        assert_eq!(execute(&f, swap).await, 1);
    }
    assert_eq!(f.read("ada").await, ["!", "!", "c"]);
    // A row that is given to somebody else, or to another conversation.
    let moved = statement!("UPDATE vault_records SET subject = 'ada' WHERE subject = 'eve'");
    assert_eq!(execute(&f, moved).await, 1);
    assert_eq!(f.read("ada").await, ["!", "!", "c", "!"]);
    execute(
        &f,
        statement!(
            "UPDATE vault_records SET session = $1",
            session(9).to_string()
        ),
    )
    .await;
    assert_eq!(f.read("ada").await, ["!"; 4]);
}

async fn e4_rotation_rewraps_in_steps_and_refuses_to_lose_data(f: Fixture) {
    for user in ["a", "b", "c", "d", "e"] {
        f.say(user, 1, user).await;
    }
    let first = f.ring.keys().active().id;
    assert_eq!(f.vault.key_usage().await.unwrap(), [(first.clone(), 5)]);
    let second = f
        .change_keys(|keys| keys.rotate(SystemTime::UNIX_EPOCH))
        .unwrap()
        .id;
    // New writes use the new key at once, old reads still work.
    f.say("new", 1, "new").await;
    assert_eq!(f.read("a").await, ["a"]);
    let usage = |vault: Arc<Vault>, key| async move {
        let usage = vault.key_usage().await.unwrap();
        usage
            .iter()
            .find(|(id, _)| *id == key)
            .map_or(0, |(_, count)| *count)
    };
    assert_eq!(usage(f.vault.clone(), second.clone()).await, 1);
    // A user who talks again is re-wrapped in passing.
    f.say("a", 2, "again").await;
    assert_eq!(usage(f.vault.clone(), first.clone()).await, 4);
    let in_use = usage(f.vault.clone(), first.clone()).await;
    let refused = f
        .change_keys(|keys| keys.retire(&first, in_use))
        .unwrap_err();
    assert!(
        matches!(refused, KeyringError::InUse { in_use: 4, .. }),
        "{refused}"
    );
    // The others in steps, with a restart between them.
    let report = f.vault.rewrap(2).await.unwrap();
    assert_eq!((report.rewrapped, report.remaining), (2, 2));
    let restarted = f.another().await;
    let report = restarted.rewrap(100).await.unwrap();
    assert_eq!((report.rewrapped, report.remaining), (2, 0));
    assert_eq!(
        restarted.rewrap(100).await.unwrap(),
        RewrapReport::default()
    );
    let in_use = usage(restarted.clone(), first.clone()).await;
    f.change_keys(|keys| keys.retire(&first, in_use)).unwrap();
    for user in ["b", "c", "d", "e", "new"] {
        assert_eq!(read(&restarted, user).await, [user]);
    }
    assert_eq!(f.read("a").await, ["a", "again"]);
}

async fn e4_an_erased_user_starts_anew_on_every_node(f: Fixture) {
    let other = f.another().await;
    other.append(&[line("ada", 1, "old")]).await.unwrap();
    f.vault.erase(&subject("ada")).await.unwrap();
    // The other node still has the data key in memory; it must not use it.
    other.append(&[line("ada", 1, "new")]).await.unwrap();
    assert_eq!(f.read("ada").await, ["new"]);
    // Many first records at once agree on one key, and none takes another's place.
    for round in 0..10 {
        let nodes = [f.another().await, f.another().await, f.another().await];
        let text = [line("bob", round, "x"), line("bob", round, "y")];
        let [a, b, c] = &nodes;
        let (a, b, c) = tokio::join!(a.append(&text), b.append(&text), c.append(&text));
        assert!(a.is_ok() && b.is_ok() && c.is_ok());
        let read = f.read("bob").await;
        assert_eq!(read.len(), (round as usize + 1) * 6);
        assert!(!read.contains(&"!".to_owned()));
        for node in nodes {
            node.close().await;
        }
    }
}

async fn e5_export_is_one_object_per_record(f: Fixture) {
    let value = serde_json::json!({"role": "user", "text": "two\nlines"});
    let spoken = NewRecord::json(subject("ada"), session(7), Class::Transcript, &value).unwrap();
    let audio = NewRecord {
        class: Class::Audio,
        content: vec![0xff, 0].into(),
        ..line("ada", 7, "")
    };
    let plain = NewRecord {
        class: Class::ToolResult,
        ..line("ada", 8, "not JSON")
    };
    let ids = f.vault.append(&[spoken, audio, plain]).await.unwrap();
    let ada = subject("ada");
    let lines: Vec<_> = f.vault.export(&ada, None).try_collect().await.unwrap();
    assert_eq!(lines[0]["content"], value);
    assert_eq!(lines[0]["id"], ids[0].to_string());
    assert_eq!(lines[0]["session"], session(7).to_string());
    assert_eq!(lines[0]["at"], "2024-10-04T00:00:00.000Z");
    assert_eq!(lines[1]["base64"], "/wA=");
    assert_eq!(lines[2]["content"], "not JSON");
    assert!(lines.iter().all(|line| !line.to_string().contains('\n')));
    let one: Vec<_> = f
        .vault
        .export(&ada, Some(session(8)))
        .try_collect()
        .await
        .unwrap();
    assert_eq!(one.len(), 1);
    assert_eq!(f.vault.count(&ada, None).await.unwrap(), 3);
    assert_eq!(f.vault.count(&ada, Some(session(8))).await.unwrap(), 1);
    assert_eq!(f.vault.count(&subject("eve"), None).await.unwrap(), 0);
}

fn sessions(f: &Fixture, limits: SessionLimits) -> VaultSessions<String> {
    VaultSessions::new(f.vault.clone(), limits)
}

fn snapshot_of(user: &str, number: u128) -> SnapshotOf {
    SnapshotOf {
        handle: HandleId::of(&format!("handle {number}")),
        ticket: None,
        session_id: session(number),
        subject: match user {
            "" => Subject::anonymous(),
            user => subject(user),
        },
    }
}

fn found(version: u64, record: &str) -> Option<Snapshot<String>> {
    let record = Some(record.to_owned());
    Some(Snapshot { version, record })
}

async fn b7_the_last_writer_of_a_snapshot_has_the_session(f: Fixture) {
    let here = sessions(&f, SessionLimits::default());
    let there = VaultSessions::<String>::new(f.another().await, SessionLimits::default());
    let ticket = TicketId::of(&"A".repeat(43)).unwrap();
    let mut of = snapshot_of("ada", 1);
    assert_eq!(here.find(&of.handle).await.unwrap(), None);
    assert_eq!(here.put(&of, 0, &"one".into()).await.unwrap(), Some(1));
    assert_eq!(here.put(&of, 1, &"two".into()).await.unwrap(), Some(2));
    // Its client comes to another node, with a ticket.
    assert_eq!(there.find(&of.handle).await.unwrap(), found(2, "two"));
    assert_eq!(there.find_by_ticket(&ticket).await.unwrap(), None);
    of.ticket = Some(ticket);
    assert_eq!(there.put(&of, 2, &"three".into()).await.unwrap(), Some(3));
    // The first node has lost it, and learns so.
    of.ticket = None;
    assert_eq!(here.put(&of, 2, &"late".into()).await.unwrap(), None);
    assert_eq!(here.put(&of, 0, &"new".into()).await.unwrap(), None);
    assert_eq!(here.find(&of.handle).await.unwrap(), found(3, "three"));
    assert_eq!(
        here.find_by_ticket(&ticket).await.unwrap(),
        found(3, "three")
    );
    assert_eq!(here.count().await.unwrap(), 1);
}

async fn b7_what_ended_is_not_found_again_and_cannot_be_revived(f: Fixture) {
    let store = sessions(&f, SessionLimits::default());
    let mut of = snapshot_of("", 1);
    of.ticket = TicketId::of(&"A".repeat(43));
    assert!(!store.end(session(1), None).await.unwrap());
    store.put(&of, 0, &"one".into()).await.unwrap();
    store.put(&of, 1, &"two".into()).await.unwrap();
    assert!(
        !store.end(session(1), Some(1)).await.unwrap(),
        "somebody goes on"
    );
    assert!(store.end(session(1), Some(2)).await.unwrap());
    let ended = Snapshot {
        version: 3,
        record: None,
    };
    assert_eq!(store.find(&of.handle).await.unwrap(), Some(ended));
    assert_eq!(
        store.find_by_ticket(&of.ticket.unwrap()).await.unwrap(),
        None
    );
    assert_eq!(store.put(&of, 2, &"late".into()).await.unwrap(), None);
    assert_eq!(store.count().await.unwrap(), 0);
    assert!(!store.end(session(1), None).await.unwrap());
    let other = snapshot_of("", 2);
    store.put(&other, 0, &"x".into()).await.unwrap();
    assert!(
        store.end(session(2), None).await.unwrap(),
        "whoever holds it"
    );
}

async fn e4_a_snapshot_opens_in_its_own_row_only(f: Fixture) {
    let store = sessions(&f, SessionLimits::default());
    let (hers, mine) = (snapshot_of("ada", 3), snapshot_of("", 4));
    store.put(&hers, 0, &"hers".into()).await.unwrap();
    store.put(&mine, 0, &"mine".into()).await.unwrap();
    let forge = "UPDATE vault_snapshots SET sealed =
        (SELECT sealed FROM vault_snapshots WHERE session = $1) WHERE session = $2";
    let forge = statement!(forge, session(3).to_string(), session(4).to_string());
    assert_eq!(execute(&f, forge).await, 1);
    assert!(store.find(&mine.handle).await.is_err());
    let forge = "UPDATE vault_snapshots SET subject = 'eve' WHERE session = $1";
    assert_eq!(
        execute(&f, statement!(forge, session(3).to_string())).await,
        1
    );
    assert!(store.find(&hers.handle).await.is_err());
}

async fn snapshots_survive_a_restart_and_expire(f: Fixture) {
    let store = sessions(&f, SessionLimits::default());
    for number in 1..=2 {
        let of = snapshot_of("ada", number);
        store.put(&of, 0, &"kept".into()).await.unwrap();
    }
    let restarted = VaultSessions::<String>::new(f.another().await, SessionLimits::default());
    let handle = |number| snapshot_of("ada", number).handle;
    assert_eq!(restarted.find(&handle(1)).await.unwrap(), found(1, "kept"));
    // The time counts from the last write.
    f.clock.advance(SessionLimits::default().ttl / 2);
    let of = snapshot_of("ada", 1);
    restarted.put(&of, 1, &"kept".into()).await.unwrap();
    f.clock.advance(SessionLimits::default().ttl / 2);
    assert_eq!(restarted.find(&handle(2)).await.unwrap(), None);
    assert_eq!(restarted.count().await.unwrap(), 1);
    assert_eq!(f.vault.sweep().await.unwrap().snapshots, 1);
    assert_eq!(rows_of(&f, "vault_snapshots").await, 1);
}

async fn snapshots_are_bounded(f: Fixture) {
    let limits = SessionLimits {
        total: 4,
        per_principal: 2,
        ..SessionLimits::default()
    };
    let store = sessions(&f, limits);
    let kept = async |numbers: std::ops::RangeInclusive<u128>| {
        let mut kept = Vec::new();
        for number in numbers {
            let snapshot = store.find(&snapshot_of("", number).handle).await.unwrap();
            kept.extend(snapshot.map(|_| number));
        }
        kept
    };
    for number in 1..=3 {
        let of = snapshot_of("ada", number);
        store.put(&of, 0, &"x".into()).await.unwrap();
        f.clock.advance(Duration::from_secs(1));
    }
    assert_eq!(kept(1..=3).await, [2, 3]);
    for number in 4..=6 {
        let of = snapshot_of("", number);
        store.put(&of, 0, &"x".into()).await.unwrap();
        f.clock.advance(Duration::from_secs(1));
    }
    assert_eq!(kept(1..=6).await, [3, 4, 5, 6]);
    // One that had to make room and goes on is written anew.
    let of = snapshot_of("ada", 2);
    assert_eq!(store.put(&of, 7, &"x".into()).await.unwrap(), Some(8));
}

async fn the_writer_acknowledges_what_is_durable(f: Fixture) {
    let tasks = Tasks::root("test");
    let writer = VaultWriter::start(f.vault.clone(), &tasks);
    let waiting: Vec<_> = (0..600)
        .map(|n| writer.offer(line("ada", n % 3, &n.to_string())).unwrap())
        .collect();
    // One that can never be stored fails alone.
    let mut impossible = line("ada", 1, "");
    impossible.content = vec![0; 16 * 1024 * 1024 + 1].into();
    let impossible = writer.offer(impossible).unwrap();
    let mut ids = Vec::new();
    for acknowledgement in waiting {
        ids.push(
            tokio::time::timeout(PATIENCE, acknowledgement)
                .await
                .unwrap()
                .unwrap(),
        );
    }
    assert!(ids.is_sorted());
    assert_eq!(impossible.await, Err(NotStored));
    // Whoever must know that nothing is on its way any more can wait for it.
    for n in 0..300 {
        writer.offer(line("ada", 1, &n.to_string())).unwrap();
    }
    tokio::time::timeout(PATIENCE, writer.settled())
        .await
        .unwrap();
    assert_eq!(rows_of(&f, "vault_records").await, 900);
    // What is queued when the end is announced is still stored.
    let last = writer.offer(line("eve", 1, "last")).unwrap();
    assert_eq!(tasks.shutdown(PATIENCE).await, 0);
    assert!(last.await.is_ok());
    assert_eq!(
        writer.offer(line("eve", 1, "late")).unwrap_err(),
        Refused::Ended
    );
    let expected = WriterStats {
        queued: 0,
        stored: 901,
        refused: 1,
        lost: 1,
        failures: 0,
    };
    assert_eq!(writer.stats(), expected);
    let restarted = f.another().await;
    assert_eq!(read(&restarted, "eve").await, ["last"]);
    assert_eq!(rows_of(&f, "vault_records").await, 901);
}

async fn a_later_version_is_not_touched(f: Fixture) {
    execute(
        &f,
        statement!("UPDATE vault_schema SET version = 99 WHERE part = 'records'"),
    )
    .await;
    let (ring, clock) = (f.ring.clone(), f.clock.clone());
    let refused = Vault::open(&f.urls, None, ring, clock).await;
    let refused = refused.unwrap_err();
    assert!(
        matches!(refused, VaultError::Newer { version: 99, .. }),
        "{refused}"
    );
}

async fn upkeep_sweeps_rewraps_and_ends_when_told(f: Fixture) {
    f.say("ada", 1, "x").await;
    f.clock.advance(DAY * 30);
    f.say("eve", 1, "x").await;
    f.change_keys(|keys| keys.rotate(SystemTime::UNIX_EPOCH))
        .unwrap();
    let tasks = Tasks::root("test");
    let (swept, mut sweeps) = tokio::sync::mpsc::channel(1);
    let vault = f.vault.clone();
    tasks
        .spawn_service("upkeep", |cancel| {
            vault.maintain(cancel, move |report| swept.try_send(*report).unwrap())
        })
        .detach();
    let report = tokio::time::timeout(PATIENCE, sweeps.recv())
        .await
        .unwrap()
        .unwrap();
    assert_eq!((report.records, report.busy), (1, false));
    let rewrapped = async {
        let current = f.ring.keys().active().id;
        while f.vault.key_usage().await.unwrap() != [(current.clone(), 2)] {}
    };
    tokio::time::timeout(PATIENCE, rewrapped).await.unwrap();
    assert_eq!(tasks.shutdown(PATIENCE).await, 0);
}
