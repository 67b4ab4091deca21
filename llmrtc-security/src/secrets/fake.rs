//! A manager for tests: answers from a queue, remembers what it was asked.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, Method, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use llmrtc_core::tasks::Tasks;
use serde_json::Value;

/// One request.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) headers: HeaderMap,
    pub(super) body: String,
}

impl Asked {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub(super) fn line(&self) -> String {
        format!("{} {}", self.method, self.uri)
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

#[derive(Clone, Default)]
struct Script {
    answers: Arc<Mutex<VecDeque<(u16, String)>>>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

pub(super) struct FakeManager {
    pub(super) address: String,
    script: Script,
    _tasks: Tasks,
}

impl FakeManager {
    /// Answers one request after the other with these; 599 when there is none left.
    pub(super) async fn start(answers: impl IntoIterator<Item = (u16, &str)>) -> Self {
        let script = Script::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let app = Router::new().fallback(answer).with_state(script.clone());
        let tasks = Tasks::root("fake-manager");
        tasks
            .spawn("serve", |_| async move {
                axum::serve(listener, app).await.unwrap();
            })
            .detach();
        let fake = Self {
            address,
            script,
            _tasks: tasks,
        };
        fake.then(answers);
        fake
    }

    pub(super) fn then<'a>(&self, answers: impl IntoIterator<Item = (u16, &'a str)>) {
        let answers = answers
            .into_iter()
            .map(|(status, body)| (status, body.to_owned()));
        self.script.answers.lock().unwrap().extend(answers);
    }

    /// What was asked since the last time.
    pub(super) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.script.asked.lock().unwrap())
    }
}

async fn answer(
    State(script): State<Script>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    script.asked.lock().unwrap().push(Asked {
        method,
        uri,
        headers,
        body: String::from_utf8(body.to_vec()).unwrap(),
    });
    let (status, body) = script
        .answers
        .lock()
        .unwrap()
        .pop_front()
        .unwrap_or((599, String::new()));
    (StatusCode::from_u16(status).unwrap(), body).into_response()
}
