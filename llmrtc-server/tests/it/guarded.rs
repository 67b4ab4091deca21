//! A server whose callers have to show who they are, and sockets that try.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use llmrtc_server::config::Config;
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Error, Message, client::IntoClientRequest},
};

use crate::harness::{PATIENCE, Site, config};

/// Keys of two programs.
pub(crate) const ANN: &str = "ann-key-0123456789abcdef0123456789abcdef";
pub(crate) const BOB: &str = "bob-key-0123456789abcdef0123456789abcdef";
/// A page that may connect.
pub(crate) const PAGE: &str = "https://app.example";

/// Authentication by the keys of Ann and Bob and by tickets, from one page and from programs.
pub(crate) fn guarded(more: &str) -> Config {
    let mut config = config(&format!("{more}\n{}", keys()));
    config.server.allowed_origins = vec![PAGE.into()];
    unrecorded(config)
}

/// The keys of Ann and Bob, for the end of a configuration file.
pub(crate) fn keys() -> String {
    format!(
        r#"
        [[auth.api_keys]]
        subject = "ann"
        key = "{ANN}"
        [[auth.api_keys]]
        subject = "bob"
        key = "{BOB}"
        "#
    )
}

/// Without an audit log, which would need a folder.
pub(crate) fn unrecorded(mut config: Config) -> Config {
    config.audit.sinks = Some(Vec::new());
    config
}

/// A ticket for the bearer of `key`, for a page.
pub(crate) async fn ticket(site: &Site, key: &str, page: Option<&str>) -> String {
    ticket_at(&site.address.to_string(), key, page).await
}

/// The same from a server in a process of its own.
pub(crate) async fn ticket_at(address: &str, key: &str, page: Option<&str>) -> String {
    let url = format!("http://{address}/api/tickets");
    let mut request = reqwest::Client::new().post(url).bearer_auth(key);
    if let Some(page) = page {
        request = request.json(&json!({ "origin": page }));
    }
    let response = timeout(PATIENCE, request.send())
        .await
        .expect("answers")
        .unwrap();
    assert_eq!(response.status(), 201);
    assert_eq!(response.headers()["cache-control"], "no-store");
    let answer: Value = response.json().await.unwrap();
    assert_eq!(answer["expiresInSeconds"], 30);
    answer["ticket"].as_str().unwrap().to_owned()
}

/// A socket as a browser or a program opens it.
#[derive(Debug)]
pub(crate) struct Socket(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Socket {
    /// Opens `path` with these headers, or tells the status that it is refused with.
    pub(crate) async fn open(
        site: &Site,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Self, u16> {
        Self::open_at(&site.address.to_string(), path, headers).await
    }

    /// The same at a server in a process of its own.
    pub(crate) async fn open_at(
        address: &str,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Self, u16> {
        let mut request = format!("ws://{address}{path}")
            .into_client_request()
            .unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        match timeout(PATIENCE, connect_async(request))
            .await
            .expect("answers")
        {
            Ok((socket, _)) => Ok(Self(socket)),
            Err(Error::Http(response)) => Err(response.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }

    /// As the stock client in a page: a ticket in the URL.
    pub(crate) async fn with_ticket(site: &Site, ticket: &str, page: &str) -> Result<Self, u16> {
        Self::open(site, &format!("/?ticket={ticket}"), &[("origin", page)]).await
    }

    /// As a program: a key in the header.
    pub(crate) async fn with_key(site: &Site, key: &str) -> Self {
        let bearer = format!("Bearer {key}");
        let opened = Self::open(site, "/", &[("authorization", &bearer)]).await;
        opened.expect("a good key opens")
    }

    pub(crate) async fn say(&mut self, message: Value) {
        let _ = self.0.send(Message::text(message.to_string())).await;
    }

    pub(crate) async fn send(&mut self, message: Message) {
        let _ = timeout(PATIENCE, self.0.send(message))
            .await
            .expect("takes it or closes");
    }

    /// The next message, or the code that the socket was closed with (0: without).
    pub(crate) async fn next(&mut self) -> Result<Value, u16> {
        self.within(PATIENCE)
            .await
            .expect("says something or closes")
    }

    /// The same, or nothing within this time.
    pub(crate) async fn within(&mut self, time: Duration) -> Option<Result<Value, u16>> {
        let next = async {
            loop {
                match self.0.next().await {
                    Some(Ok(Message::Text(text))) => {
                        return Ok(serde_json::from_str(&text).unwrap());
                    }
                    Some(Ok(Message::Close(frame))) => {
                        return Err(frame.map_or(0, |frame| frame.code.into()));
                    }
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return Err(0),
                }
            }
        };
        timeout(time, next).await.ok()
    }

    /// The next message of this type.
    pub(crate) async fn until(&mut self, kind: &str) -> Value {
        loop {
            let message = self
                .next()
                .await
                .unwrap_or_else(|code| panic!("no {kind}: closed with {code}"));
            if message["type"] == kind {
                return message;
            }
        }
    }

    /// The code that the socket is closed with, whatever is said before.
    pub(crate) async fn closed(&mut self) -> u16 {
        loop {
            if let Err(code) = self.next().await {
                return code;
            }
        }
    }

    /// Says some words, as a recording.
    pub(crate) async fn speak(&mut self) {
        use base64::Engine;
        let wav = base64::engine::general_purpose::STANDARD.encode(crate::harness::WORDS.to_wav());
        self.say(json!({ "type": "audio", "data": wav })).await;
    }

    /// Asks for a session and says whether it was given.
    pub(crate) async fn reconnect(&mut self, id: &str) -> bool {
        self.say(json!({ "type": "reconnect", "sessionId": id }))
            .await;
        self.until("reconnect-ack").await["success"]
            .as_bool()
            .unwrap()
    }

    /// Makes the session worth keeping: says something that cannot be understood.
    pub(crate) async fn establish(&mut self) {
        let wav = "UklGRiQAAABXQVZFZm10IBAAAAABAAEAgD4AAAB9AAACABAAZGF0YQAAAAA=";
        self.say(json!({ "type": "audio", "data": wav })).await;
        // Answered in order, so the audio has been taken when this comes.
        self.say(json!({ "type": "ping" })).await;
        self.until("pong").await;
    }
}
