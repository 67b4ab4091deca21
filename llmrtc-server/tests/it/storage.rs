//! `llmrtc keys`, `llmrtc transcripts` and `llmrtc retention` as an operator uses them.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use llmrtc_core::{clock::Clock, id::SessionId, redact::Secret};
use llmrtc_security::{
    crypto::keyring::LocalKeyring,
    vault::{Class, NewRecord, Subject, Vault, VaultUrls},
};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{audited::records, harness::PATIENCE, process::llmrtc};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A clock that is behind by this much.
struct Ago(Duration);

impl Clock for Ago {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::now() - self.0
    }
}

/// Runs a command on the vault of `folder`. Words are separated by spaces.
pub(crate) async fn run(folder: &Path, command: &str) -> (bool, String, String) {
    let words: Vec<_> = command.split(' ').collect();
    let run = timeout(PATIENCE, llmrtc(folder, &words).output());
    let output = run.await.expect("ends by itself").unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.success(),
        text(output.stdout),
        text(output.stderr),
    )
}

async fn lines(folder: &Path, command: &str) -> Vec<Value> {
    let (success, stdout, stderr) = run(folder, command).await;
    assert!(success, "{command}: {stderr}");
    let parse = |line| serde_json::from_str(line).unwrap();
    stdout.lines().map(parse).collect()
}

/// Stores a line for each user, as a server did this long ago.
async fn say(folder: &Path, ago: Duration, users: &[&str]) {
    let database = format!("sqlite://{}", folder.join("vault.db").display());
    let keyring = LocalKeyring::open(&folder.join("keys.json")).unwrap();
    let urls = VaultUrls::beside(Secret::new(database));
    let clock = Arc::new(Ago(ago));
    let vault = Vault::open(&urls, None, Arc::new(keyring), clock)
        .await
        .unwrap();
    for user in users {
        let line = json!({"role": "user", "text": format!("{user} said this")});
        let subject = Subject::new(None, user).unwrap();
        let session = SessionId::from_u128(7);
        let record = NewRecord::json(subject, session, Class::Transcript, &line).unwrap();
        vault.append(&[record]).await.unwrap();
    }
    vault.close().await;
}

#[tokio::test]
async fn an_operator_rotates_reads_erases_and_sweeps() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path();
    let vault = "--database sqlite://vault.db --keyring keys.json";

    // Keys.
    let made = lines(folder, "keys generate --keyring keys.json --json").await;
    assert_eq!(made[0]["status"], "active");
    let (success, _, stderr) = run(folder, "keys generate --keyring keys.json").await;
    assert!(!success && stderr.contains("keys.json"), "{stderr}");
    say(folder, DAY * 31, &["old"]).await;
    say(folder, Duration::ZERO, &["ada", "eve"]).await;
    let first = made[0]["id"].as_str().unwrap();
    let retire = format!("keys retire {vault} --id {first}");
    assert!(run(folder, &retire).await.2.contains("is active"));
    let added = lines(folder, "keys rotate --keyring keys.json --json").await;
    assert_eq!(added.len(), 2);
    let (success, _, stderr) = run(folder, &retire).await;
    assert!(!success && stderr.contains("still wraps 3"), "{stderr}");
    let rotated = lines(folder, &format!("keys rotate {vault} --json")).await;
    let wraps: Vec<_> = rotated.iter().map(|key| key["wraps"].clone()).collect();
    assert_eq!(wraps, [0, 0, 3]);
    let (success, stdout, stderr) = run(folder, &retire).await;
    assert!(success && stdout.contains("retired"), "{stdout}{stderr}");
    let keys = std::fs::read_to_string(folder.join("keys.json")).unwrap();
    let stored: Value = serde_json::from_str(&keys).unwrap();
    let (_, stdout, _) = run(folder, &format!("keys list {vault}")).await;
    for key in stored["keys"].as_array().unwrap().iter().skip(1) {
        assert!(!stdout.contains(key["key"].as_str().unwrap()), "{stdout}");
    }

    // Conversations.
    let listed = lines(
        folder,
        &format!("transcripts list {vault} --user ada --json"),
    )
    .await;
    assert_eq!(listed[0]["records"], 1);
    let session = listed[0]["session"].as_str().unwrap();
    let (_, shown, _) = run(
        folder,
        &format!("transcripts show {vault} --user ada --session {session}"),
    )
    .await;
    assert!(
        shown.contains("ada said this") && !shown.contains("eve"),
        "{shown}"
    );
    let exported = lines(folder, &format!("transcripts export {vault} --user eve")).await;
    assert_eq!(exported[0]["content"]["text"], "eve said this");

    // Retention: the expired line is invisible before and gone after.
    let old = format!("transcripts export {vault} --user old");
    assert!(lines(folder, &old).await.is_empty());
    let swept = lines(folder, &format!("retention run {vault} --json")).await;
    assert_eq!(
        (&swept[0]["records"], &swept[0]["compacted"]),
        (&json!(1), &json!(true))
    );

    // Holds and erasure.
    let hold = format!("transcripts hold {vault} --user ada --reason lawsuit");
    assert!(run(folder, &hold).await.0);
    let erase = format!("transcripts erase {vault} --user ada");
    assert!(run(folder, &erase).await.2.contains("--yes"));
    assert!(
        run(folder, &format!("{erase} --yes"))
            .await
            .2
            .contains("legal hold")
    );
    assert!(
        run(folder, &format!("transcripts release {vault} --user ada"))
            .await
            .0
    );
    let receipt = lines(folder, &format!("{erase} --yes")).await;
    assert_eq!(receipt[0]["records"], 1);
    assert!(
        lines(folder, &format!("transcripts export {vault} --user ada"))
            .await
            .is_empty()
    );
    assert_eq!(
        lines(folder, &format!("transcripts export {vault} --user eve"))
            .await
            .len(),
        1
    );

    // What was done and what was handed out, by whom, in this order; looking at lists is no deed.
    let journal = records(&folder.join("commands.jsonl"), &folder.join("audit.key"));
    let text = |record: &Value, at: &str| match record.pointer(at) {
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
        None => String::new(),
    };
    let mut done = Vec::new();
    for record in &journal {
        let code = text(record, "/metadata/event_code");
        let begins = text(record, "/status_id") == "0";
        if code.starts_with("log_") || begins {
            continue;
        }
        assert!(
            text(record, "/actor/user/uid").starts_with("uid:"),
            "{record}"
        );
        let about = ["/entity/type", "/unmapped/target", "/unmapped/records"];
        let about = about.map(|at| text(record, at));
        let failed = if text(record, "/status_id") == "2" {
            "not "
        } else {
            ""
        };
        let what = [
            failed,
            &code,
            " ",
            &text(record, "/api/operation"),
            " ",
            &about.join(" "),
        ];
        done.push(
            what.concat()
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" "),
        );
    }
    let retired = format!("admin_acted keys_retire {first}");
    let expected = [
        "key_rotated vault",
        "admin_acted keys_generate",
        "not admin_acted keys_generate",
        &format!("not {retired}"),
        "key_rotated vault",
        "admin_acted keys_rotate",
        &format!("not {retired}"),
        "key_rotated vault",
        "admin_acted keys_rotate",
        &retired,
        "data_exported ada 1",
        "data_exported eve 1",
        "data_exported old 0",
        "retention_swept 1",
        "admin_acted retention_run",
        "admin_acted hold ada",
        "not admin_acted erase ada",
        "admin_acted release ada",
        "data_erased ada 1",
        "admin_acted erase ada",
        "data_exported ada 0",
        "data_exported eve 1",
    ];
    assert_eq!(done, expected);
    for key in stored["keys"].as_array().unwrap() {
        let key = key["key"].as_str().unwrap_or("said this");
        assert!(
            !journal
                .iter()
                .any(|record| record.to_string().contains(key))
        );
    }
}

#[tokio::test]
async fn g1_without_a_record_commands_neither_hand_out_nor_change_anything() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path();
    assert!(run(folder, "keys generate --keyring keys.json").await.0);
    say(folder, DAY * 31, &["old"]).await;
    say(folder, Duration::ZERO, &["ada"]).await;
    let keyring = || std::fs::read(folder.join("keys.json")).unwrap();
    let before = keyring();
    // A folder is no file that could be written.
    std::fs::create_dir(folder.join("folder")).unwrap();
    let vault = "--database sqlite://vault.db --keyring keys.json";
    for (command, why) in [
        ("transcripts export", "nothing is handed out"),
        ("transcripts show", "nothing is handed out"),
        ("transcripts erase --yes", "nothing was done"),
        ("transcripts hold --reason x", "nothing was done"),
        ("retention run", "nothing was done"),
        ("keys rotate", "nothing was done"),
    ] {
        let user = if command.starts_with("transcripts") {
            " --user ada"
        } else {
            ""
        };
        let command = format!("{command} {vault}{user} --audit folder");
        let (success, stdout, stderr) = run(folder, &command).await;
        assert!(!success && stderr.contains(why), "{command}: {stderr}");
        assert!(stdout.is_empty(), "{command}: {stdout}");
    }
    assert_eq!(keyring(), before);
    let rest = lines(folder, &format!("transcripts export {vault} --user ada")).await;
    assert_eq!(rest.len(), 1);
    let swept = lines(folder, &format!("retention run {vault} --json")).await;
    assert_eq!(swept[0]["records"], 1, "it was still there");
}

#[tokio::test]
async fn mistakes_do_not_show_a_password() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path();
    assert!(run(folder, "keys generate --keyring keys.json").await.0);
    let command =
        "retention run --keyring keys.json --database postgres://u:hunter2@127.0.0.1:1/db";
    let (success, stdout, stderr) = run(folder, command).await;
    assert!(!success);
    assert!(!format!("{stdout}{stderr}").contains("hunter2"), "{stderr}");
}
