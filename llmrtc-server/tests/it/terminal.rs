//! `llmrtc call` against `llmrtc serve`, both as people run them.

use std::{path::Path, process::Stdio};

use llmrtc_providers::testing::{FakeOpenAi, FakeOpenAiOptions};
use serde_json::Value;
use tokio::time::timeout;

use crate::{
    harness::PATIENCE,
    process::{Process, llmrtc},
};

const SPEECH: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../llmrtc-media/tests/fixtures/speech.wav"
);

async fn call(directory: &Path, arguments: &[&str]) -> (i32, String, String) {
    let mut command = llmrtc(directory, &[&["call"], arguments].concat());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = timeout(PATIENCE, command.output())
        .await
        .expect("the call ends")
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code().unwrap_or(-1),
        text(output.stdout),
        text(output.stderr),
    )
}

#[tokio::test]
async fn a_call_from_the_terminal_reports_transcript_reply_and_audible_answer() {
    let directory = tempfile::tempdir().unwrap();
    let options = FakeOpenAiOptions::default().transcript("It was the best of times.");
    let vendor = FakeOpenAi::start(options.reply("It was the age of wisdom.")).await;
    let base = vendor.base_url().to_string();
    let server = Process::start(
        directory.path(),
        &[],
        &[("OPENAI_API_KEY", "sk-test"), ("OPENAI_BASE_URL", &base)],
    )
    .await;
    let url = server.url().to_string();
    let arguments = [url.as_str(), SPEECH, "--reply", "reply.wav", "--json"];
    let (code, out, err) = call(directory.path(), &arguments).await;
    assert_eq!(code, 0, "{out}\n{err}");
    let lines: Vec<Value> = out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let summary = lines.last().unwrap();
    assert_eq!(summary["type"], "summary");
    assert_eq!(summary["transcript"], "It was the best of times.");
    assert_eq!(summary["reply"], "It was the age of wisdom.");
    assert!(lines.iter().any(|line| line["type"] == "audible"));
    assert!(
        lines
            .windows(2)
            .all(|pair| pair[0]["atMs"].as_f64() <= pair[1]["atMs"].as_f64())
    );
    let reply = std::fs::read(directory.path().join("reply.wav")).unwrap();
    assert!(reply.starts_with(b"RIFF"));
    let loudest = reply[44..]
        .chunks_exact(2)
        .map(|sample| i16::from_le_bytes([sample[0], sample[1]]).unsigned_abs())
        .max();
    assert!(
        loudest > Some(1_000),
        "the recording is audible: {loudest:?}"
    );
}

#[tokio::test]
async fn what_cannot_be_called_or_played_is_said_in_words() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("noise.wav"), b"no audio at all").unwrap();
    let nobody = "ws://127.0.0.1:1/";
    for (url, file, expected) in [
        (nobody, SPEECH, "cannot connect"),
        (nobody, "missing.wav", "cannot read missing.wav"),
        (nobody, "noise.wav", "cannot use noise.wav"),
        ("no url", SPEECH, "is not a URL"),
    ] {
        let (code, out, err) = call(directory.path(), &[url, file]).await;
        assert_eq!((code, out.as_str()), (1, ""), "{url} {file}: {err}");
        assert!(err.contains(expected), "{err}");
    }
}
