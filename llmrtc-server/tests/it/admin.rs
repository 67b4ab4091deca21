//! What operators do to a running server, by command and by API.

use std::{path::Path, sync::Arc};

use llmrtc_core::session::SessionLimits;
use llmrtc_security::{
    auth::{Principal, resume::HandleId},
    vault::{Subject, VaultSessions},
};
use serde_json::Value;
use tokio::time::timeout;

use crate::{
    guarded::{ANN, BOB, Socket, keys},
    harness::PATIENCE,
    process::{Process, llmrtc},
    restart::{has_an_answer, stored, vault},
};

/// A server process with keys for Ann and Bob, a vault, and a listener for operators.
struct Operated {
    server: Process,
    operators: String,
    folder: tempfile::TempDir,
}

impl Operated {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let keys = keys();
        let config = format!(
            r#"
            server.data_dir = "data"
            audit.sinks = []
            vault.enabled = true
            admin.bind = "127.0.0.1:0"
            {keys}
            "#
        );
        std::fs::write(folder.path().join("llmrtc.toml"), config).unwrap();
        let echo = [
            ("LLM_PROVIDER", "echo"),
            ("STT_PROVIDER", "echo"),
            ("TTS_PROVIDER", "echo"),
        ];
        let mut server = Process::start(folder.path(), &[], &echo).await;
        let line = server.line_with("listening for operators").await;
        let line: Value = serde_json::from_str(&line).unwrap();
        Self {
            server,
            operators: format!("http://{}", line["operators"].as_str().unwrap()),
            folder,
        }
    }

    fn data(&self) -> std::path::PathBuf {
        self.folder.path().join("data")
    }

    /// `llmrtc sessions` with these words. Returns the JSON that it prints.
    async fn sessions(&self, words: &[&str]) -> Value {
        let token = self.data().join("admin-token");
        let token = token.to_str().unwrap();
        let common = ["--url", &self.operators, "--token-file", token, "--json"];
        let arguments = [&["sessions"], words, &common].concat();
        let output = timeout(PATIENCE, llmrtc(Path::new("."), &arguments).output());
        let output = output.await.expect("ends").unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{error}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    async fn delete(&self, path: &str) -> Value {
        let token = std::fs::read_to_string(self.data().join("admin-token")).unwrap();
        let url = format!("{}{path}", self.operators);
        let request = reqwest::Client::new().delete(url).bearer_auth(token.trim());
        let answer = timeout(PATIENCE, request.send()).await.unwrap().unwrap();
        assert_eq!(answer.status(), 200);
        answer.json().await.unwrap()
    }

    /// A session that has said something, and its handle.
    async fn talked(&self, key: &str) -> (Socket, String) {
        let bearer = format!("Bearer {key}");
        let headers = [("authorization", &*bearer)];
        let opened = Socket::open_at(&self.server.address, "/", &headers).await;
        let mut socket = opened.unwrap();
        let ready = socket.until("ready").await;
        let handle = ready["id"].as_str().unwrap().to_owned();
        socket.speak().await;
        socket.until("tts-complete").await;
        stored(&self.data(), &handle, has_an_answer).await;
        (socket, handle)
    }
}

#[tokio::test]
async fn b6_an_operator_sees_sessions_and_ends_them_for_good() {
    let site = Operated::start().await;
    let ((mut ann, handle), (mut bob, _)) = tokio::join!(site.talked(ANN), site.talked(BOB));
    let all = site.sessions(&["list"]).await;
    assert_eq!(all.as_array().unwrap().len(), 2, "{all}");
    let hers = site.sessions(&["list", "--user", "ann", "--service"]).await;
    assert_eq!(hers[0]["user"], "ann");
    assert_eq!(hers.as_array().unwrap().len(), 1, "{hers}");
    let nobody = site.sessions(&["list", "--user", "ann"]).await;
    assert_eq!(nobody, Value::Array(Vec::new()), "a person of that name");

    let ended = site.sessions(&["end", "--user", "ann", "--service"]).await;
    assert_eq!(ended, 1);
    assert_eq!(ann.closed().await, 1008);
    let (mut again, _) = site.talked(ANN).await;
    assert!(!again.reconnect(&handle).await, "it is over");
    let session = site.sessions(&["list", "--user", "bob", "--service"]).await;
    let session = session[0]["session"].as_str().unwrap();
    assert_eq!(site.sessions(&["end", session]).await, 1);
    assert_eq!(bob.closed().await, 1008);
}

#[tokio::test]
async fn e3_erasing_a_user_leaves_nothing_connected_waiting_or_stored() {
    let site = Operated::start().await;
    let ((mut ann, first), (gone, second), (bob, his)) =
        tokio::join!(site.talked(ANN), site.talked(ANN), site.talked(BOB));
    // One of hers waits for its client.
    drop(gone);
    let answer = site.delete("/admin/users/ann/data?kind=service").await;
    assert_eq!(ann.closed().await, 1008);
    let receipt = &answer["receipt"];
    assert_eq!(receipt["sessions"], 2, "{answer}");
    assert_eq!(receipt["snapshots"], 2, "{answer}");

    let vault = Arc::new(vault(&site.data()).await);
    let ann = Subject::try_from(&Principal::service("ann", None)).unwrap();
    assert!(vault.sessions(&ann, 10).await.unwrap().is_empty());
    let snapshots = VaultSessions::<Value>::new(Arc::clone(&vault), SessionLimits::default());
    for handle in [first, second] {
        let found = snapshots.find(&HandleId::of(&handle)).await.unwrap();
        assert!(found.is_none());
    }
    let found = snapshots.find(&HandleId::of(&his)).await.unwrap();
    assert!(found.is_some_and(|found| found.record.is_some()));
    drop(bob);
}
