//! What the process writes down, as it is shipped.

use llmrtc_providers::testing::FakeOpenAiOptions;
use llmrtc_server::client::Phone;
use llmrtc_signal::client::Options;

use crate::{
    harness::{Caller, WORDS},
    process::Process,
    vendor::{LLM, Sabotage, Vendor},
};

#[tokio::test]
async fn neither_the_log_nor_the_metrics_repeat_what_was_said_or_entrusted() {
    // The last one shows that this test would notice.
    for (level, capture) in [("info", "false"), ("debug", "false"), ("debug", "true")] {
        let options = FakeOpenAiOptions {
            api_key: Some("sk-canary-key".into()),
            ..FakeOpenAiOptions::default()
        };
        let options = options
            .transcript("My canary is ill.")
            .reply("Is your canary eating?");
        let vendor = Vendor::start(options).await;
        let directory = tempfile::tempdir().unwrap();
        let mut server = Process::start(
            directory.path(),
            &["--log-level", level],
            &[
                ("LLM_PROVIDER", "openai"),
                ("STT_PROVIDER", "openai"),
                ("TTS_PROVIDER", "openai"),
                ("OPENAI_API_KEY", "sk-canary-key"),
                ("LLMRTC_LOG__CAPTURE", capture),
                (
                    "OPENAI_BASE_URL",
                    &format!("http://{}/v1", vendor.address()),
                ),
            ],
        )
        .await;
        let phone = Phone::new().unwrap();
        let mut caller = Caller::dial(&phone, Options::new(server.url()))
            .await
            .unwrap();
        caller.share_microphone().await;
        assert_eq!(caller.turn().await.reply, "Is your canary eating?");
        // A failure is written down, too, and vendors repeat what they were told.
        vendor.sabotage(LLM, Some(Sabotage::Refuse(400)));
        caller.send(WORDS.to_wav()).await;
        caller.error().await;
        vendor.sabotage(LLM, None);

        let first = caller.ticket();
        let options = Options {
            resume: Some(first.clone()),
            ..Options::new(server.url())
        };
        let resumed = Caller::dial(&phone, options).await.unwrap();
        assert_eq!(resumed.call.greeting().resumed, Some(true));
        let second = resumed.ticket();
        resumed.call.hang_up().await;
        let (status, metrics) = server.get("/metrics").await;
        assert_eq!(status, 200);
        assert!(metrics.contains("llmrtc_"), "{metrics}");
        end(&mut server).await;

        let log = server.log();
        assert!(
            log.contains("session closed") && log.contains("turn failed"),
            "{log}"
        );
        if capture == "true" {
            assert!(log.contains("My canary is ill."), "{log}");
            assert!(!log.contains("canary-key"), "{log}");
            continue;
        }
        let mut secrets = vec!["canary".to_owned()];
        for ticket in [first, second] {
            secrets.push(ticket.session_id.expose().to_owned());
            secrets.push(ticket.resume_token.unwrap().expose().to_owned());
        }
        for (place, text) in [("log", log), ("metrics", metrics)] {
            for secret in &secrets {
                let found = text.lines().find(|line| line.contains(secret.as_str()));
                assert_eq!(found, None, "{place} at {level}");
            }
        }
    }
}

#[cfg(unix)]
async fn end(server: &mut Process) {
    server.signal("TERM").await;
    assert_eq!(server.code().await, Some(0));
}

#[cfg(not(unix))]
async fn end(server: &mut Process) {
    server.line_with("session closed").await;
}
