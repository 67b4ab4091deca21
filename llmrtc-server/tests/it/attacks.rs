//! The seven attacks that the reference implementation does not withstand, each by its name.

use std::time::{Duration, Instant};

use llmrtc_signal::protocol::ServerMessage;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::{
    guarded::{ANN, BOB, PAGE, Socket, guarded, ticket},
    harness::{Site, config},
};

/// Longer than any answer takes, for what must not be answered.
const QUIET: Duration = Duration::from_millis(300);

#[tokio::test]
async fn foreign_origin() {
    let site = Site::start(guarded(""), None).await;
    let good = ticket(&site, ANN, Some(PAGE)).await;
    for page in [
        "https://evil.example",
        "https://app.example.evil.example",
        "https://evil-app.example",
        "http://app.example",
        "https://app.example:8443",
        "null",
        "https://APP.example",
        "https://app.example.",
        "https://user@app.example",
    ] {
        let refused = Socket::with_ticket(&site, &good, page).await;
        assert_eq!(refused.unwrap_err(), 403, "{page}");
    }
    // The Origin is looked at before the credentials, so the ticket is still good where it belongs.
    let mut socket = Socket::with_ticket(&site, &good, PAGE).await.unwrap();
    socket.until("ready").await;
}

#[tokio::test]
async fn no_credentials() {
    let site = Site::start(guarded("auth.first_message.enabled = false"), None).await;
    let wrong = "Bearer wrong-key-0123456789abcdef0123456789ab";
    for (path, headers) in [
        ("/", vec![]),
        ("/", vec![("authorization", wrong)]),
        ("/", vec![("authorization", "Basic YW5uOmFubg==")]),
        (
            "/?ticket=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
            vec![("origin", PAGE)],
        ),
        ("/?token=ann-key-0123456789abcdef0123456789abcdef", vec![]),
        ("/anywhere/else", vec![]),
    ] {
        let refused = Socket::open(&site, path, &headers).await;
        assert_eq!(refused.unwrap_err(), 401, "{path}");
    }
    for path in ["/", "/info", "/ready", "/metrics", "/nothing"] {
        let (status, body) = site.get(path).await;
        assert_eq!(
            (status, body.as_str()),
            (401, r#"{"error":"authentication required"}"#),
            "{path}"
        );
    }
    assert_eq!(site.get("/health").await.0, 200);

    // Where a first message may bring them, nothing is said before it, and nothing else is read.
    let site = Site::start(guarded(""), None).await;
    let mut silent = Socket::open(&site, "/", &[]).await.unwrap();
    assert_eq!(silent.within(QUIET).await, None);
    silent
        .say(json!({ "type": "offer", "signal": { "type": "offer", "sdp": "v=0" } }))
        .await;
    assert_eq!(silent.next().await, Err(4401));
    let mut caller = Socket::open(&site, "/", &[]).await.unwrap();
    caller.say(json!({ "type": "auth", "token": ANN })).await;
    caller.until("ready").await;
    let mut liar = Socket::open(&site, "/", &[]).await.unwrap();
    liar.say(json!({ "type": "auth", "token": "wrong-key-0123456789abcdef0123456789ab" }))
        .await;
    assert_eq!(liar.next().await, Err(4401));
}

#[tokio::test]
async fn resume_of_anothers_session() {
    let site = Site::start(guarded(""), None).await;
    let mut ann = Socket::with_key(&site, ANN).await;
    let id = ann.until("ready").await["id"].as_str().unwrap().to_owned();
    ann.establish().await;

    let mut bob = Socket::with_key(&site, BOB).await;
    bob.until("ready").await;
    bob.say(json!({ "type": "reconnect", "sessionId": id }))
        .await;
    let stolen = bob.until("reconnect-ack").await;
    bob.say(json!({ "type": "reconnect", "sessionId": "unknown" }))
        .await;
    let unknown = bob.until("reconnect-ack").await;
    assert_eq!(stolen, unknown, "a stolen id looks like an unknown one");
    assert_eq!(stolen["success"], false);

    // Nor when its owner is away, and its owner gets it back.
    ann.say(json!({ "type": "ping" })).await;
    ann.until("pong").await;
    drop(ann);
    assert!(!bob.reconnect(&id).await);
    let mut ann = Socket::with_key(&site, ANN).await;
    assert!(ann.reconnect(&id).await);
}

#[tokio::test]
async fn client_chosen_session_id() {
    let site = Site::start(guarded(""), None).await;
    let chosen = "chosen-by-the-client-0123456789abcdefghijklm";
    let mut first = Socket::with_key(&site, ANN).await;
    let own = first.until("ready").await["id"]
        .as_str()
        .unwrap()
        .to_owned();
    first
        .say(json!({ "type": "reconnect", "sessionId": chosen }))
        .await;
    let ack = first.until("reconnect-ack").await;
    assert_eq!(
        (&ack["success"], &ack["sessionId"]),
        (&false.into(), &own.as_str().into())
    );
    first.establish().await;
    drop(first);
    // It has named nothing.
    let mut second = Socket::with_key(&site, ANN).await;
    assert!(!second.reconnect(chosen).await);
    let mut third = Socket::with_key(&site, ANN).await;
    assert!(third.reconnect(&own).await);
}

#[tokio::test]
async fn ninety_megabyte_frame() {
    let site = Site::start(guarded(""), None).await;
    let mut bystander = Socket::with_key(&site, BOB).await;
    bystander.until("ready").await;
    let mut socket = Socket::with_key(&site, ANN).await;
    socket.until("ready").await;
    let huge = format!(r#"{{"type":"audio","data":"{}"}}"#, "A".repeat(90_000_000));
    socket.send(Message::text(huge)).await;
    let code = socket.closed().await;
    // A reset may overtake the close frame while the rest of the frame is still being sent.
    assert!(code == 1009 || code == 0, "{code}");
    bystander.say(json!({ "type": "ping" })).await;
    bystander.until("pong").await;
}

#[tokio::test]
async fn socket_flood() {
    const CROWD: usize = 300;
    let site = Site::start(
        guarded("auth.first_message.timeout = \"2s\"\nserver.max_connections = 10"),
        None,
    )
    .await;
    let mut crowd = Vec::new();
    for _ in 0..CROWD {
        crowd.push(Socket::open(&site, "/", &[]).await.unwrap());
    }
    // They are many times more than there are places, and keep nobody out.
    let mut caller = Socket::with_key(&site, ANN).await;
    caller.until("ready").await;
    let begun = Instant::now();
    for mut silent in crowd {
        assert_eq!(silent.next().await, Err(4408));
    }
    assert!(begun.elapsed() < Duration::from_secs(30));
    caller.say(json!({ "type": "ping" })).await;
    caller.until("pong").await;
}

#[tokio::test]
async fn turn_credentials_before_authentication() {
    let relay = r#"
        [[ice.servers]]
        urls = "stun:stun.example:3478"
        [[ice.servers]]
        urls = "turn:relay.example:3478"
        username = "user"
        credential = "canary-credential"
    "#;
    let site = Site::start(guarded(relay), None).await;
    // Silence, and a refusal without a word.
    let mut silent = Socket::open(&site, "/", &[]).await.unwrap();
    assert_eq!(silent.within(QUIET).await, None);
    silent
        .say(json!({ "type": "auth", "token": "wrong-key-0123456789abcdef0123456789ab" }))
        .await;
    assert_eq!(silent.next().await, Err(4401));

    let good = ticket(&site, ANN, Some(PAGE)).await;
    let mut caller = Socket::with_ticket(&site, &good, PAGE).await.unwrap();
    let ready = caller.until("ready").await;
    assert!(ready.to_string().contains("canary-credential"));
    // A ticket that was read in a log opens nothing and is told of no relay.
    let mut thief = Socket::with_ticket(&site, &good, PAGE).await.unwrap();
    let ready = thief.until("ready").await;
    assert!(ready.to_string().contains("stun:stun.example"), "{ready}");
    assert!(!ready.to_string().contains("canary-credential"), "{ready}");
    thief
        .say(json!({ "type": "reconnect", "sessionId": ready["id"] }))
        .await;
    assert_eq!(thief.closed().await, 1008);
}

/// What authentication off means: this machine, and nobody else.
#[tokio::test]
async fn open_mode_is_for_this_machine() {
    let site = Site::start(config(""), None).await;
    let mut caller = site.connect().await;
    caller.send(b"no audio at all".as_slice()).await;
    assert!(matches!(
        caller.until("error").await,
        ServerMessage::Error { .. }
    ));
    let refused = Socket::open(&site, "/", &[("origin", "https://evil.example")]).await;
    assert_eq!(refused.unwrap_err(), 403);
}
