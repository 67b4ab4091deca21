//! The real `llmrtc` process: exit codes, configuration, probes and the way out.
use std::process::Output;

use tokio::{process::Command, time::timeout};

use crate::{
    harness::PATIENCE,
    process::{Process, llmrtc},
};

async fn output(command: &mut Command) -> (i32, String, String) {
    let run = timeout(PATIENCE, command.output())
        .await
        .expect("ends by itself");
    let Output {
        status,
        stdout,
        stderr,
    } = run.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

#[tokio::test]
async fn exit_codes_tell_mistakes_apart() {
    let directory = tempfile::tempdir().unwrap();
    let cases: [(&[&str], i32); 8] = [
        (&["version"], 0),
        (&["--help"], 0),
        (&["config", "check"], 0),
        (&["config", "print"], 0),
        (&["--prot", "1"], 2),
        (&["serve", "--port", "x"], 2),
        (&["--host", "0.0.0.0"], 64),
        (&["--config", "nowhere.toml"], 64),
    ];
    for (arguments, expected) in cases {
        let (code, _, stderr) = output(&mut llmrtc(directory.path(), arguments)).await;
        assert_eq!(code, expected, "{arguments:?}: {stderr}");
    }
}

#[tokio::test]
async fn all_mistakes_are_reported_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let file = "[media.vad]\nthreshold = 2.0\n[turn]\nhistroy_limit = 3\n";
    std::fs::write(directory.path().join("llmrtc.toml"), file).unwrap();
    let mut command = llmrtc(directory.path(), &["config", "check"]);
    let (code, stdout, stderr) = output(command.env("PORT", "eighty")).await;
    assert_eq!((code, stdout.as_str()), (64, ""));
    for part in [
        "3 problems",
        "media.vad.threshold",
        "turn.histroy_limit",
        "server.port",
        "PORT",
        "llmrtc.toml",
    ] {
        assert!(stderr.contains(part), "{part} is missing:\n{stderr}");
    }
}

#[tokio::test]
async fn printing_the_configuration_shows_no_secret() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(
        directory.path().join(".env"),
        "OPENAI_API_KEY=sk-canary\nOPENAI_MODEL=some-model\n",
    )
    .unwrap();
    let (code, stdout, stderr) = output(&mut llmrtc(
        directory.path(),
        &["config", "print", "-p", "9"],
    ))
    .await;
    assert_eq!(code, 0, "{stderr}");
    let printed: toml::Table = stdout.parse().unwrap();
    assert_eq!(printed["server"]["port"].as_integer(), Some(9));
    assert_eq!(
        printed["providers"]["openai"]["model"].as_str(),
        Some("some-model")
    );
    assert!(!format!("{stdout}{stderr}").contains("canary"));
}

#[tokio::test]
async fn a_server_answers_its_probes_and_shows_its_page() {
    let directory = tempfile::tempdir().unwrap();
    let server = Process::start(directory.path(), &[], &[]).await;
    assert_eq!(
        server.get("/health").await,
        (200, r#"{"ok":true}"#.to_owned())
    );
    assert_eq!(
        server.get("/ready").await,
        (200, r#"{"ready":true}"#.to_owned())
    );
    assert_eq!(server.get("/nothing").await.0, 404);
    let (status, metrics) = server.get("/metrics").await;
    assert_eq!(status, 200);
    assert!(
        !cfg!(target_os = "linux") || metrics.contains("process_resident_memory_bytes"),
        "{metrics}"
    );
    assert!(server.get("/").await.1.contains("<script"));
}

#[tokio::test]
async fn metrics_can_have_a_listener_of_their_own() {
    let directory = tempfile::tempdir().unwrap();
    // A port that was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    std::fs::write(
        directory.path().join("llmrtc.toml"),
        format!("[server]\nmetrics_bind = \"{free}\"\n"),
    )
    .unwrap();
    let server = Process::start(directory.path(), &[], &[]).await;
    assert_eq!(server.get("/metrics").await.0, 404);
    let connected = async {
        // The second listener opens a moment after the first.
        loop {
            match reqwest::get(format!("http://{free}/metrics")).await {
                Ok(response) => return response.status().as_u16(),
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    assert_eq!(timeout(PATIENCE, connected).await.expect("opens"), 200);
}

#[cfg(unix)]
#[tokio::test]
async fn an_idle_server_leaves_at_the_first_signal() {
    let directory = tempfile::tempdir().unwrap();
    for signal in ["TERM", "INT"] {
        let mut server = Process::start(directory.path(), &[], &[]).await;
        server.signal(signal).await;
        server.line_with("shutting down").await;
        assert_eq!(server.code().await, Some(0), "{signal}");
    }
}
