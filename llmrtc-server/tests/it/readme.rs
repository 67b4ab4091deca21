//! The commands of the README's security section, run as they stand there.

use std::{net::TcpListener, process::Stdio, time::Duration};

use tokio::{process::Command, time::timeout};

use crate::harness::PATIENCE;

#[tokio::test]
async fn the_five_minutes_end_with_a_ticket() {
    let readme = include_str!("../../../README.md");
    let (_, section) = readme.split_once("<!-- five minutes").unwrap();
    let (section, _) = section.split_once("<!-- /five minutes -->").unwrap();
    let (_, script) = section.split_once("```sh\n").unwrap();
    let (script, _) = script.split_once("```").unwrap();

    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    // The port may be taken here, and the machine may be slow.
    let ready = format!("until (: > /dev/tcp/127.0.0.1/{port}) 2> /dev/null; do sleep 0.1; done");
    assert!(script.contains("8787") && script.contains("sleep 2"));
    let script = script
        .replace("8787", &port.to_string())
        .replace("sleep 2", &ready);
    let script = format!("set -eu\ntrap 'kill $(jobs -p)' EXIT\n{script}");

    let folder = tempfile::tempdir().unwrap();
    let binary = std::path::Path::new(env!("CARGO_BIN_EXE_llmrtc"))
        .parent()
        .unwrap();
    let path = std::env::var_os("PATH").unwrap();
    let path = std::env::join_paths(
        std::iter::once(binary.to_owned()).chain(std::env::split_paths(&path)),
    )
    .unwrap();
    let run = Command::new("bash")
        .args(["-c", &script])
        .current_dir(folder.path())
        .env_clear()
        .env("PATH", path)
        .env("HOME", folder.path())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(PATIENCE + Duration::from_secs(30), run)
        .await
        .expect("ends")
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{complained}");
    let ticket = said.lines().last().unwrap();
    assert_eq!(ticket.len(), 43, "{said}\n{complained}");
    let audit = std::fs::read_to_string(folder.path().join("llmrtc-data/audit.jsonl")).unwrap();
    assert!(
        audit.contains("ticket") && !audit.contains(ticket),
        "{audit}"
    );
}
