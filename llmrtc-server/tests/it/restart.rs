//! Conversations that outlive the process they were held in (B7, E4): with a vault they go on after a restart and on
//! another node, for whoever they belong to and nobody else.

use std::{path::Path, sync::Arc, time::Duration};

use llmrtc_core::{
    session::SessionLimits,
    testing::{Script, ScriptedLlm, ScriptedStt, ScriptedTts},
};
use llmrtc_providers::testing::FakeOpenAiOptions;
use llmrtc_security::{
    auth::{bind::Exposure, resume::HandleId},
    crypto::keyring::LocalKeyring,
    vault::{Vault, VaultConfig, VaultSessions, VaultUrls},
};
use llmrtc_server::client::Phone;
use llmrtc_signal::client::{LostReason, Options};
use serde_json::Value;
use tokio::time::timeout;

use crate::{
    guarded::{ANN, BOB, PAGE, Socket, guarded, keys, ticket_at},
    harness::{Caller, PATIENCE, Site, providers},
    process::Process,
    resume::{resumed, told},
    vendor::Vendor,
};

/// The vault of a server whose data folder this is.
pub(crate) async fn vault(folder: &Path) -> Vault {
    let urls = VaultUrls::of(&VaultConfig::default(), folder).unwrap();
    let keyring = LocalKeyring::open(&folder.join("keyring.json")).unwrap();
    let clock = Arc::new(llmrtc_core::clock::SystemClock);
    let vault = Vault::open(&urls, None, Arc::new(keyring), clock);
    vault.await.unwrap()
}

/// Waits until what is in the vault of the session with this handle is `enough`.
pub(crate) async fn stored(folder: &Path, handle: &str, enough: impl Fn(&Value) -> bool) {
    let vault = Arc::new(vault(folder).await);
    let sessions = VaultSessions::<Value>::new(Arc::clone(&vault), SessionLimits::default());
    let handle = HandleId::of(handle);
    let found = async {
        loop {
            let snapshot = sessions.find(&handle).await.unwrap();
            if snapshot
                .and_then(|found| found.record)
                .is_some_and(|record| enough(&record))
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, found).await.expect("is stored");
    vault.close().await;
}

pub(crate) fn has_an_answer(record: &Value) -> bool {
    let history = record["history"].as_array().unwrap();
    history.iter().any(|message| message["role"] == "assistant")
}

/// A server process that stores conversations in `folder`.
async fn serve(folder: &Path, more: &str, environment: &[(&str, &str)]) -> Process {
    let config = format!(
        r#"
        server.data_dir = "data"
        server.allowed_origins = ["{PAGE}"]
        audit.sinks = []
        vault.enabled = true
        {more}
        "#
    );
    std::fs::write(folder.join("llmrtc.toml"), config).unwrap();
    Process::start(folder, &[], environment).await
}

#[cfg(unix)]
#[tokio::test]
async fn b7_a_conversation_goes_on_after_its_process_was_killed() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = FakeOpenAiOptions::default();
    let card = "My card is 4111 1111 1111 1111.";
    options.transcripts = vec![card.into(), "Go on.".into()];
    let vendor = Vendor::start(options.reply("Pleased to meet you.")).await;
    let base = format!("http://{}/v1", vendor.address());
    let environment = [("OPENAI_API_KEY", "sk-test"), ("OPENAI_BASE_URL", &*base)];
    let phone = Phone::new().unwrap();

    let mut server = serve(folder.path(), "", &environment).await;
    let mut caller = Caller::dial(&phone, Options::new(server.url()))
        .await
        .unwrap();
    caller.ask().await;
    let ticket = caller.ticket();
    stored(
        &folder.path().join("data"),
        ticket.session_id.expose(),
        has_an_answer,
    )
    .await;
    server.signal("KILL").await;
    server.code().await;
    drop(caller);

    let server = serve(folder.path(), "", &environment).await;
    let again = Options {
        resume: Some(ticket.clone()),
        ..Options::new(server.url())
    };
    let mut caller = Caller::dial(&phone, again).await.unwrap();
    assert_eq!(resumed(&caller), Some(true));
    assert_eq!(
        caller.ticket().session_id.expose(),
        ticket.session_id.expose()
    );
    caller.ask().await;
    let chats = vendor.chats();
    let told: Vec<&str> = chats.last().unwrap()[1..]
        .iter()
        .map(|(_, text)| &**text)
        .collect();
    // What may not be stored is a tag for the model, too.
    assert_eq!(
        told,
        ["My card is [CARD].", "Pleased to meet you.", "Go on."]
    );
    for file in std::fs::read_dir(folder.path().join("data")).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        let in_the_clear = |text: &str| {
            bytes
                .windows(text.len())
                .any(|window| window == text.as_bytes())
        };
        assert!(!in_the_clear("Pleased"), "sealed at rest");
        assert!(
            !in_the_clear(ticket.session_id.expose()),
            "a digest at rest"
        );
    }
}

#[cfg(unix)]
#[tokio::test]
async fn b7_a_spent_ticket_finds_its_session_after_a_restart_and_nothing_else() {
    let keys = keys();
    let folder = tempfile::tempdir().unwrap();
    let echo = [
        ("LLM_PROVIDER", "echo"),
        ("STT_PROVIDER", "echo"),
        ("TTS_PROVIDER", "echo"),
    ];
    let mut server = serve(folder.path(), &keys, &echo).await;
    let opened = async |key| {
        let ticket = ticket_at(&server.address, key, Some(PAGE)).await;
        let path = format!("/?ticket={ticket}");
        let opened = Socket::open_at(&server.address, &path, &[("origin", PAGE)]).await;
        let mut socket = opened.unwrap();
        let ready = socket.until("ready").await;
        let handle = ready["id"].as_str().unwrap().to_owned();
        socket.speak().await;
        socket.until("tts-complete").await;
        (path, handle)
    };
    let ((ann, hers), (_, his)) = tokio::join!(opened(ANN), opened(BOB));
    server.signal("TERM").await;
    assert_eq!(server.code().await, Some(0));

    let server = serve(folder.path(), &keys, &echo).await;
    let evil = Socket::open_at(&server.address, &ann, &[("origin", "https://evil.example")]);
    assert!(evil.await.is_err(), "another page");
    let open = async || {
        let opened = Socket::open_at(&server.address, &ann, &[("origin", PAGE)]).await;
        let mut socket = opened.unwrap();
        socket.until("ready").await;
        socket
    };
    assert!(!open().await.reconnect(&his).await, "a stolen handle");
    let mut socket = open().await;
    assert!(socket.reconnect(&hers).await);
    socket.speak().await;
    let reply = socket.until("llm").await.to_string();
    assert!(reply.contains("remember one thing"), "{reply}");
}

/// Two servers over one vault, as two nodes behind a balancer would be.
async fn nodes(llm: &ScriptedLlm) -> (Site, Site, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let start = async || {
        let mut config = crate::guarded::unrecorded(crate::harness::config("vault.enabled = true"));
        config.server.data_dir = Some(folder.path().to_owned());
        let providers = providers(
            ScriptedStt::hearing("It is warm."),
            llm.clone(),
            ScriptedTts::new(),
        );
        Site::start(config, Some(providers)).await
    };
    (start().await, start().await, folder)
}

fn llm() -> ScriptedLlm {
    ScriptedLlm::new()
        .then(Script::answer("Pleased to meet you."))
        .always(Script::answer("Of course."))
}

#[tokio::test]
async fn b7_the_node_that_a_client_comes_back_to_has_its_session() {
    let llm = llm();
    let (one, two, folder) = nodes(&llm).await;
    let mut first = one.connect().await;
    first.ask().await;
    let ticket = first.ticket();
    stored(folder.path(), ticket.session_id.expose(), has_an_answer).await;
    let mut second = two.resume(ticket.clone()).await;
    assert_eq!(resumed(&second), Some(true));
    second.ask().await;
    assert_eq!(
        told(&llm),
        ["It is warm.", "Pleased to meet you.", "It is warm."]
    );
    // The first node learns that it has lost the session when it has something to write.
    first.send(crate::harness::WORDS.to_wav()).await;
    assert_eq!(first.lost().await, LostReason::Server(Some(4001)));
    // And what it knew does not count when the client comes back to it.
    let ticket = second.ticket();
    let mut third = one.resume(ticket).await;
    assert_eq!(resumed(&third), Some(true));
    third.ask().await;
    assert_eq!(told(&llm).len(), 5);
}

#[tokio::test]
async fn b7_a_token_that_is_used_again_at_another_node_ends_the_session_everywhere() {
    let llm = llm();
    let (one, two, folder) = nodes(&llm).await;
    let mut first = one.connect().await;
    first.ask().await;
    let stolen = first.ticket();
    let handle = stolen.session_id.expose().to_owned();
    stored(folder.path(), &handle, has_an_answer).await;
    drop(first);
    let mut owner = two.resume(stolen.clone()).await;
    assert_eq!(resumed(&owner), Some(true));
    owner.ask().await;
    // Its next token has arrived: the one before it is worth nothing any more.
    let confirmed = |record: &Value| {
        let history = record["history"].as_array().unwrap();
        history.len() == 4 && record["handle"]["previous"].is_null()
    };
    stored(folder.path(), &handle, confirmed).await;

    let thief = one.resume(stolen).await;
    assert_eq!(resumed(&thief), Some(false));
    let ticket = owner.ticket();
    owner.send(crate::harness::WORDS.to_wav()).await;
    assert_eq!(owner.lost().await, LostReason::Server(Some(4001)));
    for site in [&one, &two] {
        let late = site.resume(ticket.clone()).await;
        assert_eq!(resumed(&late), Some(false));
    }
}

#[tokio::test]
async fn b9_who_may_not_be_recorded_is_not_stored() {
    let folder = tempfile::tempdir().unwrap();
    let site = async || {
        let mut config = guarded("vault.enabled = true");
        config.auth.api_keys[0].grants.record = false;
        config.server.data_dir = Some(folder.path().to_owned());
        Site::exposed(config, None, Exposure::Authenticated).await
    };
    let mut before = site().await;
    let mut handles = Vec::new();
    for key in [ANN, BOB] {
        let mut socket = Socket::with_key(&before, key).await;
        handles.push(
            socket.until("ready").await["id"]
                .as_str()
                .unwrap()
                .to_owned(),
        );
        socket.speak().await;
        socket.until("tts-complete").await;
    }
    before.shutdown.begin();
    before.ended().await;
    let after = site().await;
    for (key, handle, found) in [(ANN, &handles[0], false), (BOB, &handles[1], true)] {
        let mut socket = Socket::with_key(&after, key).await;
        socket.until("ready").await;
        assert_eq!(socket.reconnect(handle).await, found);
    }
}
