//! A vendor whose behaviour the test decides: a proxy before [`FakeOpenAi`] that records requests and sabotages them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, Method, Response, StatusCode, Uri, header},
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use llmrtc_providers::testing::{FakeOpenAi, FakeOpenAiOptions};
use llmrtc_server::config::Config;
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinSet};

use crate::harness::config;

/// What callers must never read: vendors quote keys and addresses in their errors.
pub(crate) const VENDOR_TEXT: &str = "sk-canary-vendor at https://vendor.example/v1 says no";

/// How long a dying vendor's last words take.
const FLUSH: Duration = Duration::from_millis(100);

/// How requests to one path fail.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sabotage {
    /// An answer with this status and [`VENDOR_TEXT`].
    Refuse(u16),
    /// No answer.
    Hang,
    /// The beginning of an answer, and nothing more.
    Stall,
    /// The beginning of an answer, then the connection breaks.
    Die,
}

pub(crate) struct Vendor {
    address: std::net::SocketAddr,
    shared: Arc<Shared>,
    _running: JoinSet<()>,
}

struct Shared {
    upstream: FakeOpenAi,
    client: reqwest::Client,
    requests: Mutex<Vec<(String, Bytes)>>,
    sabotage: Mutex<HashMap<&'static str, Sabotage>>,
}

pub(crate) const STT: &str = "/v1/audio/transcriptions";
pub(crate) const LLM: &str = "/v1/chat/completions";
pub(crate) const TTS: &str = "/v1/audio/speech";

impl Vendor {
    pub(crate) async fn start(options: FakeOpenAiOptions) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            upstream: FakeOpenAi::start(options).await,
            client: reqwest::Client::new(),
            requests: Mutex::default(),
            sabotage: Mutex::default(),
        });
        let router = axum::Router::new()
            .fallback(pass)
            .with_state(Arc::clone(&shared));
        let mut running = JoinSet::new();
        running.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            address,
            shared,
            _running: running,
        }
    }

    /// A server that uses this vendor for everything, with `more` lines of configuration before the providers.
    pub(crate) fn config(&self, more: &str) -> Config {
        config(&format!(
            r#"
            {more}
            [providers]
            llm = "openai"
            stt = "openai"
            tts = "openai"
            [providers.openai]
            api_key = "sk-canary-config"
            base_url = "http://{}/v1"
            "#,
            self.address
        ))
    }

    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// From now on. `None` is health.
    pub(crate) fn sabotage(&self, path: &'static str, sabotage: Option<Sabotage>) {
        let mut all = self.shared.sabotage.lock().unwrap();
        match sabotage {
            Some(sabotage) => all.insert(path, sabotage),
            None => all.remove(path),
        };
    }

    /// The bodies of the requests to a path.
    pub(crate) fn bodies(&self, path: &str) -> Vec<Bytes> {
        let requests = self.shared.requests.lock().unwrap();
        requests
            .iter()
            .filter(|(to, _)| to == path)
            .map(|(_, body)| body.clone())
            .collect()
    }

    /// Roles and texts of the messages of each request to the model.
    pub(crate) fn chats(&self) -> Vec<Vec<(String, String)>> {
        let messages = |body: &Bytes| -> Vec<(String, String)> {
            let body: Value = serde_json::from_slice(body).unwrap();
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let messages = body["messages"].as_array().unwrap().iter();
            messages
                .map(|message| (text(&message["role"]), text(&message["content"])))
                .collect()
        };
        self.bodies(LLM).iter().map(messages).collect()
    }
}

async fn pass(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let path = uri.path().to_owned();
    shared
        .requests
        .lock()
        .unwrap()
        .push((path.clone(), body.clone()));
    let sabotage = shared.sabotage.lock().unwrap().get(path.as_str()).copied();
    match sabotage {
        Some(Sabotage::Refuse(status)) => {
            let body = json!({ "error": { "message": VENDOR_TEXT } }).to_string();
            return response(
                StatusCode::from_u16(status).unwrap(),
                "application/json",
                body.into(),
            );
        }
        Some(Sabotage::Hang) => return std::future::pending().await,
        Some(Sabotage::Stall | Sabotage::Die) | None => {}
    }
    let base = shared.upstream.base_url();
    let url = format!("{}{path}", base.trim_end_matches("/v1"));
    let mut request = shared.client.request(method, url).body(body);
    for name in [header::CONTENT_TYPE, header::AUTHORIZATION] {
        if let Some(value) = headers.get(&name) {
            request = request.header(name, value);
        }
    }
    let answer = request.send().await.unwrap();
    let status = answer.status();
    let kind = answer.headers()[header::CONTENT_TYPE]
        .to_str()
        .unwrap()
        .to_owned();
    let chunks = stream::unfold(answer, |mut answer| async {
        let chunk = answer.chunk().await.unwrap()?;
        Some((Ok::<_, std::io::Error>(chunk), answer))
    });
    let body = match sabotage {
        // Half of a chunk, so that answers of a single one are cut as well.
        Some(Sabotage::Stall) => Body::from_stream(beginning(chunks).chain(stream::pending())),
        Some(Sabotage::Die) => {
            let broken = stream::once(async {
                // Or the beginning would not get through either.
                tokio::time::sleep(FLUSH).await;
                Err(std::io::Error::other("sabotage"))
            });
            Body::from_stream(beginning(chunks).chain(broken))
        }
        _ => Body::from_stream(chunks),
    };
    response(status, &kind, body)
}

fn beginning<E>(
    chunks: impl futures_util::Stream<Item = Result<Bytes, E>>,
) -> impl futures_util::Stream<Item = Result<Bytes, E>> {
    chunks
        .take(1)
        .map(|chunk| chunk.map(|chunk| chunk.slice(..chunk.len() / 2)))
}

fn response(status: StatusCode, kind: &str, body: Body) -> Response<Body> {
    Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, kind)
        .body(body)
        .unwrap()
}
