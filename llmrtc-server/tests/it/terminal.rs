//! `llmrtc call` against `llmrtc serve`, both as people run them.

use std::{path::Path, process::Stdio, time::Duration};

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

/// Calls are as long as what is said in them, up to twenty seconds.
const A_WHOLE_CALL: Duration = PATIENCE.saturating_mul(4);

/// Runs `llmrtc call` in a folder. Returns its exit code and what it printed, on both streams.
pub(crate) async fn call(directory: &Path, arguments: &[&str]) -> (i32, String, String) {
    let mut command = llmrtc(directory, &[&["call"], arguments].concat());
    // The caller's voice may be there.
    command.envs(std::env::var_os("LLMRTC_MODEL_DIR").map(|dir| ("LLMRTC_MODEL_DIR", dir)));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = timeout(A_WHOLE_CALL, command.output())
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

fn json_lines(out: &str) -> Vec<Value> {
    let lines = out.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn script(directory: &Path, text: &str) {
    std::fs::write(directory.join("call.toml"), text).unwrap();
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
    // What the playground shows about this server.
    let (_, info) = server.get("/info").await;
    let info: Value = serde_json::from_str(&info).unwrap();
    assert_eq!(info["providers"]["stt"], "openai");
    assert!(info["models"]["tts"].is_string(), "{info}");
    let url = server.url().to_string();
    let arguments = [
        url.as_str(),
        SPEECH,
        "--reply",
        "reply.wav",
        "--json",
        "--events",
    ];
    let (code, out, err) = call(directory.path(), &arguments).await;
    assert_eq!(code, 0, "{out}\n{err}");
    let lines = json_lines(&out);
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
async fn a_line_is_spoken_by_the_callers_own_voice() {
    let directory = tempfile::tempdir().unwrap();
    let server = Process::start(directory.path(), &[], &[]).await;
    let url = server.url().to_string();
    let line = "What is the capital of France?";
    let (code, out, err) = call(directory.path(), &[&url, "--say", line]).await;
    assert_eq!(code, 0, "{out}\n{err}");
    assert!(
        out.contains("transcript  final: true  text: I heard"),
        "{out}"
    );
    assert!(out.contains("  audible"), "{out}");
    let summary = out.lines().last().unwrap();
    assert!(summary.contains("reply: You said: I heard"), "{out}");
}

#[tokio::test]
async fn a_script_pauses_interrupts_and_checks_what_it_expects() {
    let directory = tempfile::tempdir().unwrap();
    let server = Process::start(directory.path(), &[], &[]).await;
    script(
        directory.path(),
        r#"
        # The pause is too short to be an answer's turn: both halves are one utterance.
        [[step]]
        say = "My number is five five five"
        wait = "150ms"
        [[step]]
        say = "one two three four."
        expect_transcript = "^I heard \\d"
        expect_reply = "first thing you have said"
        within_ms = 30000
        [[step]]
        say = "Stop, that is enough for now!"
        interrupt_after = "500ms"
        expect_interrupted = true
        expect = "one thing you said before"
        [[step]]
        wait = "100ms"
        "#,
    );
    let url = server.url().to_string();
    let arguments = [url.as_str(), "--script", "call.toml", "--json"];
    let (code, out, err) = call(directory.path(), &arguments).await;
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    let lines = json_lines(&out);
    let kinds: Vec<_> = lines.iter().map(|line| line["type"].clone()).collect();
    assert_eq!(kinds, ["step", "step", "step", "step", "summary"], "{out}");
    assert!(lines[..4].iter().all(|step| step["ok"] == true), "{out}");
    assert_eq!(lines[0]["say"], "My number is five five five");
    assert_eq!(lines[0]["reply"], "", "the first half is not answered");
    assert!(lines[1]["responseMs"].as_f64() > Some(0.0), "{out}");
    assert_eq!(lines[2]["interrupted"], true);
    assert!(lines[2]["yieldMs"].is_number(), "{out}");
    assert_eq!(
        (&lines[4]["steps"], &lines[4]["failed"]),
        (&4.into(), &0.into())
    );
}

#[tokio::test]
async fn expectations_that_do_not_hold_are_named_and_the_call_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let server = Process::start(directory.path(), &[], &[]).await;
    std::fs::copy(SPEECH, directory.path().join("speech.wav")).unwrap();
    script(
        directory.path(),
        r#"
        [[step]]
        play = "speech.wav"
        expect_reply = "Paris"
        within_ms = 1
        [[step]]
        say = "And what is the capital of Italy?"
        expect_reply = "I also remember"
        "#,
    );
    let url = server.url().to_string();
    let arguments = [url.as_str(), "--script", "call.toml", "--json"];
    let (code, out, err) = call(directory.path(), &arguments).await;
    assert_eq!(code, 1, "{out}\n{err}");
    assert!(
        err.contains("step 1: expect_reply: expected /Paris/, got \"You said: "),
        "{err}"
    );
    assert!(
        err.contains("step 1: within_ms: expected at most 1 ms, got "),
        "{err}"
    );
    let lines = json_lines(&out);
    assert_eq!(
        (&lines[0]["ok"], &lines[1]["ok"]),
        (&false.into(), &true.into()),
        "{out}"
    );
    let failures = &lines[0]["failures"];
    assert_eq!(failures[0]["expectation"], "expect_reply");
    assert_eq!(failures[0]["expected"], "/Paris/");
    assert_eq!(failures[1]["expectation"], "within_ms");
    assert_eq!(lines[2]["failed"], 2);
}

#[tokio::test]
#[cfg(unix)]
async fn a_call_that_ends_early_has_a_code_of_its_own() {
    use tokio::io::{AsyncBufReadExt, BufReader};

    let directory = tempfile::tempdir().unwrap();
    let server = Process::start(directory.path(), &[], &[]).await;
    let url = server.url().to_string();
    let mut command = llmrtc(
        directory.path(),
        &["call", &url, SPEECH, "--json", "--events"],
    );
    let mut caller = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(caller.stdout.take().unwrap()).lines();
    let mut seen = Vec::new();
    let all = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            let line: Value = serde_json::from_str(&line).unwrap();
            if line["type"] == "speaking" {
                server.signal("KILL").await;
            }
            seen.push(line);
        }
        caller.wait().await.unwrap().code()
    };
    let code = timeout(PATIENCE, all).await.expect("the call ends");
    assert_eq!(code, Some(4), "{seen:#?}");
    let step = seen.iter().find(|line| line["type"] == "step").unwrap();
    assert_eq!(step["failures"][0]["expectation"], "call");
}

#[tokio::test]
async fn what_cannot_be_called_or_played_is_said_in_words() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("noise.wav"), b"no audio at all").unwrap();
    let nobody = "ws://127.0.0.1:1/";
    for (code, url, file, expected) in [
        (3, nobody, SPEECH, "cannot connect"),
        (2, nobody, "missing.wav", "cannot read missing.wav"),
        (2, nobody, "noise.wav", "cannot use noise.wav"),
        (2, "no url", SPEECH, "is not a URL"),
    ] {
        let (found, out, err) = call(directory.path(), &[url, file]).await;
        assert_eq!((found, out.as_str()), (code, ""), "{url} {file}: {err}");
        assert!(err.contains(expected), "{err}");
    }
    script(
        directory.path(),
        "[[step]]\nplay = 'noise.wav'\n[[step]]\nsay = ''\nsya = 'x'\n",
    );
    let (code, out, err) = call(directory.path(), &[nobody, "--script", "call.toml"]).await;
    assert_eq!((code, out.as_str()), (2, ""), "{err}");
    for expected in [
        "step 1: cannot use noise.wav",
        "step 2: `say` has no words in it",
        "step 2: unknown key `sya`",
    ] {
        assert!(err.contains(expected), "{err}");
    }
}
