//! Two servers, each a process of its own, that share a Redis: what one of them knows, the other must not forget (D3, D4,
//! T12, T27).

use llmrtc_security::testing::RedisServer;
use tokio::time::timeout;

use crate::{
    guarded::{ANN, BOB, PAGE, Socket, keys, ticket_at},
    harness::PATIENCE,
    process::Process,
};

struct Nodes {
    redis: RedisServer,
    one: Process,
    two: Process,
    _folder: tempfile::TempDir,
}

impl Nodes {
    async fn start(more: &str) -> Self {
        let redis = RedisServer::start().await;
        let folder = tempfile::tempdir().unwrap();
        let keys = keys();
        let config = format!(
            r#"
            server.allowed_origins = ["{PAGE}"]
            audit.sinks = []
            redis.url = "{}"
            limits.nodes = 2
            {more}
            {keys}
            "#,
            redis.url().expose()
        );
        std::fs::write(folder.path().join("llmrtc.toml"), config).unwrap();
        let environment = [
            ("LLM_PROVIDER", "echo"),
            ("STT_PROVIDER", "echo"),
            ("TTS_PROVIDER", "echo"),
        ];
        let one = Process::start(folder.path(), &[], &environment).await;
        let two = Process::start(folder.path(), &[], &environment).await;
        Self {
            redis,
            one,
            two,
            _folder: folder,
        }
    }
}

async fn with_ticket(node: &Process, ticket: &str) -> Result<Socket, u16> {
    let path = format!("/?ticket={ticket}");
    Socket::open_at(&node.address, &path, &[("origin", PAGE)]).await
}

async fn with_key(node: &Process, key: &str) -> Socket {
    let bearer = format!("Bearer {key}");
    let opened = Socket::open_at(&node.address, "/", &[("authorization", &bearer)]).await;
    let mut socket = opened.unwrap();
    socket.until("ready").await;
    socket
}

#[tokio::test]
async fn t12_a_ticket_of_one_node_opens_one_connection_at_any_node() {
    let nodes = Nodes::start("").await;
    let ticket = ticket_at(&nodes.one.address, ANN, Some(PAGE)).await;
    let mut socket = with_ticket(&nodes.two, &ticket).await.unwrap();
    socket.until("ready").await;
    assert_eq!(with_ticket(&nodes.one, &ticket).await.unwrap_err(), 401);
}

#[tokio::test]
async fn d4_a_user_has_so_many_sessions_on_all_nodes_together() {
    let nodes = Nodes::start("limits.sessions.per_user = 1").await;
    let mut first = with_key(&nodes.one, ANN).await;
    let bob = with_key(&nodes.one, BOB).await;
    let second = with_key(&nodes.two, ANN).await;
    assert_eq!(
        first.closed().await,
        4409,
        "the oldest makes room, on the other node"
    );
    drop((second, bob));
}

#[tokio::test]
async fn t27_a_killed_redis_costs_no_call_and_says_what_it_costs() {
    let mut nodes = Nodes::start("").await;
    let mut call = with_key(&nodes.one, ANN).await;
    nodes.redis.kill().await;
    // Tickets cannot be promised to be good once: none are given out. Calls and new callers with keys go on.
    let url = format!("http://{}/api/tickets", nodes.one.address);
    let asked = reqwest::Client::new().post(url).bearer_auth(ANN).send();
    let answer = timeout(PATIENCE, asked).await.expect("answers").unwrap();
    assert_eq!(answer.status(), 503);
    assert!(answer.headers().contains_key("retry-after"));
    call.say(serde_json::json!({ "type": "ping" })).await;
    call.until("pong").await;
    let other = with_key(&nodes.two, BOB).await;
    nodes.redis.restart().await;
    let ticket = timeout(PATIENCE, async {
        loop {
            let url = format!("http://{}/api/tickets", nodes.one.address);
            let body = serde_json::json!({ "origin": PAGE });
            let asked = reqwest::Client::new()
                .post(url)
                .bearer_auth(ANN)
                .json(&body);
            let answer = asked.send().await.unwrap();
            if answer.status() == 201 {
                let answer: serde_json::Value = answer.json().await.unwrap();
                break answer["ticket"].as_str().unwrap().to_owned();
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    });
    let ticket = ticket.await.expect("Redis is found again");
    let mut back = with_ticket(&nodes.two, &ticket).await.unwrap();
    back.until("ready").await;
    drop(other);
}

#[tokio::test]
async fn t27_a_killed_node_takes_nobody_else_down() {
    let nodes = Nodes::start("limits.sessions.per_user = 1\nlimits.sessions.ttl = \"2s\"\nlimits.sessions.renew = \"500ms\"").await;
    let first = with_key(&nodes.one, ANN).await;
    nodes.one.signal("KILL").await;
    // The dead node's session does not answer, so its place is taken from it.
    let mut second = with_key(&nodes.two, ANN).await;
    second.say(serde_json::json!({ "type": "ping" })).await;
    second.until("pong").await;
    drop(first);
}
