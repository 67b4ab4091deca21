//! Who may come in, by which credential, and for how long (B2, B4, B7, B8, D4).

use std::time::{Duration, SystemTime};

use llmrtc_core::redact::Secret;
use llmrtc_security::auth::jwt::{HmacAlgorithm, MintRequest, Minter};
use llmrtc_server::config::Config;
use serde_json::json;

use crate::{
    guarded::{ANN, BOB, PAGE, Socket, guarded, ticket, unrecorded},
    harness::{Site, config},
};

const SECRET: &str = "a-shared-secret-of-more-than-32-bytes!";
const ISSUER: &str = "https://issuer.example";

/// Tokens of one issuer.
fn tokens(more: &str) -> Config {
    unrecorded(config(&format!(
        r#"
        {more}
        [[auth.issuers]]
        issuer = "{ISSUER}"
        audience = ["voice"]
        algorithms = ["HS256"]
        secret = "{SECRET}"
        "#
    )))
}

/// A token for `subject` that ends in so many seconds.
fn token(subject: &str, seconds: u64) -> String {
    let secret = Secret::new(SECRET);
    let minter = Minter::shared(HmacAlgorithm::Hs256, &secret, ISSUER, "voice").unwrap();
    let request = MintRequest::new(subject, Duration::from_secs(seconds));
    let token = minter.mint(&request, SystemTime::now()).unwrap();
    token.expose().to_owned()
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

#[tokio::test]
async fn b4_a_ticket_opens_one_connection_from_one_page() {
    let site = Site::start(guarded(""), None).await;
    let good = ticket(&site, ANN, Some(PAGE)).await;
    let attempts = (0..20).map(|_| Socket::with_ticket(&site, &good, PAGE));
    let mut ready = 0;
    let sockets = futures_util::future::join_all(attempts).await;
    // The spent ticket lets a socket open in which only its own session can be asked for.
    for mut socket in sockets.into_iter().flatten() {
        let greeting = socket.until("ready").await;
        ready += usize::from(greeting["resumeToken"].is_string());
    }
    assert_eq!(ready, 1);
    // One for a program is for no page.
    let program = ticket(&site, ANN, None).await;
    assert_eq!(
        Socket::with_ticket(&site, &program, PAGE)
            .await
            .unwrap_err(),
        401
    );
}

#[tokio::test]
async fn b7_the_stock_client_comes_back_with_its_spent_ticket_and_its_id() {
    let site = Site::start(guarded(""), None).await;
    let good = ticket(&site, ANN, Some(PAGE)).await;
    let mut client = Socket::with_ticket(&site, &good, PAGE).await.unwrap();
    let id = client.until("ready").await["id"]
        .as_str()
        .unwrap()
        .to_owned();
    client.establish().await;
    drop(client);
    for _ in 0..3 {
        let mut client = Socket::with_ticket(&site, &good, PAGE).await.unwrap();
        let greeting = client.until("ready").await;
        assert_ne!(greeting["id"], id.as_str());
        client
            .say(json!({ "type": "reconnect", "sessionId": id }))
            .await;
        let ack = client.until("reconnect-ack").await;
        assert_eq!(
            (&ack["success"], &ack["sessionId"]),
            (&true.into(), &id.as_str().into())
        );
        client.establish().await;
    }
}

#[tokio::test]
async fn b7_a_stolen_spent_ticket_alone_or_a_stolen_handle_alone_gets_nothing() {
    let site = Site::start(guarded(""), None).await;
    let good = ticket(&site, ANN, Some(PAGE)).await;
    let mut client = Socket::with_ticket(&site, &good, PAGE).await.unwrap();
    let id = client.until("ready").await["id"]
        .as_str()
        .unwrap()
        .to_owned();
    client.establish().await;
    // The ticket, and a guess.
    for attempt in [
        json!({ "type": "reconnect", "sessionId": "guess" }),
        json!({ "type": "offer", "signal": { "type": "offer", "sdp": "v=0" } }),
        json!({ "type": "ping" }),
    ] {
        let mut thief = Socket::with_ticket(&site, &good, PAGE).await.unwrap();
        thief.until("ready").await;
        thief.say(attempt).await;
        assert_eq!(thief.closed().await, 1008);
    }
    // From another page, not even that.
    let site_of_thief = Socket::with_ticket(&site, &good, "https://evil.example").await;
    assert_eq!(site_of_thief.unwrap_err(), 403);
    // The handle, and somebody else's credentials.
    let mut thief = Socket::with_key(&site, BOB).await;
    thief.until("ready").await;
    assert!(!thief.reconnect(&id).await);
    let another = ticket(&site, ANN, Some(PAGE)).await;
    let mut owner = Socket::with_ticket(&site, &another, PAGE).await.unwrap();
    owner.until("ready").await;
    assert!(owner.reconnect(&id).await);
}

#[tokio::test]
async fn b2_tokens_open_by_header_first_message_and_subprotocol_but_not_by_url() {
    let site = Site::start(tokens(""), None).await;
    let good = token("ann", 600);
    let mut socket = Socket::open(&site, "/", &[("authorization", &bearer(&good))])
        .await
        .unwrap();
    socket.until("ready").await;
    let mut socket = Socket::open(&site, "/", &[]).await.unwrap();
    socket.say(json!({ "type": "auth", "token": good })).await;
    socket.until("ready").await;
    let offered = format!("llmrtc.v1, bearer.{good}");
    let mut socket = Socket::open(&site, "/", &[("sec-websocket-protocol", &offered)])
        .await
        .unwrap();
    socket.until("ready").await;
    let in_url = Socket::open(&site, &format!("/?token={good}"), &[]).await;
    assert_eq!(in_url.unwrap_err(), 401);
    let forged = good.rsplit_once('.').unwrap().0.to_owned() + ".AAAA";
    let refused = Socket::open(&site, "/", &[("authorization", &bearer(&forged))]).await;
    assert_eq!(refused.unwrap_err(), 401);
}

#[tokio::test]
async fn b8_a_session_is_warned_refreshed_and_ends_with_its_token() {
    let site = Site::start(tokens(""), None).await;
    let brief = token("ann", 3);
    let mut socket = Socket::open(&site, "/", &[("authorization", &bearer(&brief))])
        .await
        .unwrap();
    socket.until("ready").await;
    let warning = socket.until("auth-expiring").await;
    assert!(warning["expiresInMs"].as_u64().unwrap() <= 3_000);
    socket
        .say(json!({ "type": "auth", "token": token("ann", 600) }))
        .await;
    let refreshed = socket.until("auth-refreshed").await;
    assert!(refreshed["expiresInMs"].as_u64().unwrap() > 500_000);
    // Somebody else's ends it.
    socket
        .say(json!({ "type": "auth", "token": token("bob", 600) }))
        .await;
    assert_eq!(socket.closed().await, 4401);

    let mut socket = Socket::open(&site, "/", &[("authorization", &bearer(&token("ann", 2)))])
        .await
        .unwrap();
    let opened = SystemTime::now();
    assert_eq!(socket.closed().await, 4401);
    let lasted = opened.elapsed().unwrap();
    assert!(lasted >= Duration::from_secs(1), "{lasted:?}");
}

#[tokio::test]
async fn d4_a_fourth_session_replaces_the_first() {
    let site = Site::start(guarded(""), None).await;
    let mut sessions = Vec::new();
    for _ in 0..3 {
        let mut socket = Socket::with_key(&site, ANN).await;
        socket.until("ready").await;
        sessions.push(socket);
    }
    let mut bystander = Socket::with_key(&site, BOB).await;
    bystander.until("ready").await;
    let mut fourth = Socket::with_key(&site, ANN).await;
    assert_eq!(sessions[0].closed().await, 4409);
    fourth.until("ready").await;
    for socket in sessions[1..]
        .iter_mut()
        .chain([&mut bystander, &mut fourth])
    {
        socket.say(json!({ "type": "ping" })).await;
        socket.until("pong").await;
    }
}

#[tokio::test]
async fn d4_or_is_refused_where_the_operator_wants_that() {
    let site = Site::start(
        guarded("limits.sessions.per_user = 1\nlimits.sessions.when_full = \"reject\""),
        None,
    )
    .await;
    let mut first = Socket::with_key(&site, ANN).await;
    first.until("ready").await;
    let mut second = Socket::with_key(&site, ANN).await;
    assert_eq!(second.next().await, Err(4429));
    // Coming back takes no second place.
    first.establish().await;
    drop(first);
    let mut again = Socket::with_key(&site, ANN).await;
    again.until("ready").await;
}
