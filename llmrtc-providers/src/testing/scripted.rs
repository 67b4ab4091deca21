//! A server that plays a script: what to expect, what to answer, and where to break off.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::{JoinHandle, JoinSet},
};

/// Requests in tests are small; anything larger is a runaway.
const MAX_REQUEST_BYTES: usize = 64 * 1024 * 1024;

/// One step of a [`Script`].
#[derive(Clone, Debug)]
pub enum Step {
    /// Reads a request and compares it.
    ExpectHttp {
        /// `GET`, `POST`, …
        method: &'static str,
        /// The path with its query.
        path: String,
        /// Headers that must have these values.
        headers: Vec<(String, String)>,
        /// What the JSON body must contain.
        json_subset: Option<Value>,
    },
    /// Begins a response. A [`Step::Body`] after it is sent with its length, anything else chunked.
    Head {
        /// The status.
        status: u16,
        /// Headers besides those that frame the body.
        headers: Vec<(String, String)>,
    },
    /// The whole body.
    Body(Bytes),
    /// A piece of a chunked body.
    Chunk {
        /// The bytes.
        bytes: Bytes,
        /// How long to wait first.
        delay: Duration,
    },
    /// From here on bodies are written in pieces of this many bytes.
    SplitEvery(usize),
    /// Ends a chunked body properly.
    End,
    /// Says nothing until the peer closes the connection.
    Stall,
    /// Resets the connection.
    Rst,
    /// Closes the connection without ending the body.
    Fin,
}

/// What one connection does, in order.
#[derive(Clone, Debug, Default)]
pub struct Script(Vec<Step>);

impl Script {
    /// Expects a request with this method and path.
    pub fn expect(method: &'static str, path: &str) -> Self {
        Self::default().then_expect(method, path)
    }

    /// Expects another request on the same connection.
    #[must_use]
    pub fn then_expect(self, method: &'static str, path: &str) -> Self {
        self.step(Step::ExpectHttp {
            method,
            path: path.to_owned(),
            headers: Vec::new(),
            json_subset: None,
        })
    }

    /// Makes the latest expectation want a header.
    ///
    /// # Panics
    /// When there is no expectation yet.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        let Some(Step::ExpectHttp { headers, .. }) = self.0.last_mut() else {
            panic!("a header belongs to the expectation right before it");
        };
        headers.push((name.to_ascii_lowercase(), value.to_owned()));
        self
    }

    /// Makes the latest expectation want this JSON within the body.
    ///
    /// # Panics
    /// When there is no expectation yet.
    #[must_use]
    pub fn with_json(mut self, subset: Value) -> Self {
        let Some(Step::ExpectHttp { json_subset, .. }) = self.0.last_mut() else {
            panic!("a body belongs to the expectation right before it");
        };
        *json_subset = Some(subset);
        self
    }

    /// Begins a response.
    #[must_use]
    pub fn head(self, status: u16, headers: &[(&str, &str)]) -> Self {
        let headers = headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        self.step(Step::Head { status, headers })
    }

    /// A whole response.
    #[must_use]
    pub fn respond(self, status: u16, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Self {
        self.head(status, headers).step(Step::Body(body.into()))
    }

    /// Begins an event stream.
    #[must_use]
    pub fn sse(self) -> Self {
        self.head(200, &[("content-type", "text/event-stream")])
    }

    /// A piece of a chunked body.
    #[must_use]
    pub fn chunk(self, bytes: impl Into<Bytes>) -> Self {
        self.step(Step::Chunk {
            bytes: bytes.into(),
            delay: Duration::ZERO,
        })
    }

    /// Any step.
    #[must_use]
    pub fn step(mut self, step: Step) -> Self {
        self.0.push(step);
        self
    }
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The method.
    pub method: String,
    /// The path with its query.
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, its framing removed.
    pub body: Bytes,
}

impl Recorded {
    /// The value of a header; the name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(header, _)| header == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The body as JSON, `null` when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

#[derive(Debug, Default)]
struct State {
    scripts: VecDeque<Script>,
    requests: Vec<Recorded>,
    failures: Vec<String>,
    /// Connections that the peer closed during a [`Step::Stall`] or after the script.
    closed: usize,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_waiters();
    }
}

/// Plays one script per connection, in the order in which connections arrive. Dropping it closes everything.
#[derive(Debug)]
pub struct ScriptedServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    accept: JoinHandle<()>,
}

impl ScriptedServer {
    /// Listens on a free port of the loopback interface.
    ///
    /// # Panics
    /// When no port can be bound.
    pub async fn start(scripts: impl IntoIterator<Item = Script>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a free loopback port");
        let address = listener
            .local_addr()
            .expect("a bound socket has an address");
        let shared = Arc::new(Shared::default());
        shared.state().scripts.extend(scripts);
        #[expect(clippy::disallowed_methods, reason = "owned here and aborted on drop")]
        let accept = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self {
            address,
            shared,
            accept,
        }
    }

    /// The address with `/v1`, as in a base URL.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// The requests so far.
    pub fn requests(&self) -> Vec<Recorded> {
        self.shared.state().requests.clone()
    }

    /// Returns once so many requests have arrived.
    pub async fn received(&self, requests: usize) {
        self.until(|state| state.requests.len() >= requests).await;
    }

    /// Returns once so many connections were closed by the peer while the server had nothing to say.
    pub async fn closed_by_peer(&self, connections: usize) {
        self.until(|state| state.closed >= connections).await;
    }

    async fn until(&self, reached: impl Fn(&State) -> bool) {
        loop {
            let changed = self.shared.changed.notified();
            if reached(&self.shared.state()) {
                return;
            }
            changed.await;
        }
    }

    /// Checks that every script was played and every expectation met, and returns the requests.
    ///
    /// # Panics
    /// When that is not so.
    pub fn finish(self) -> Vec<Recorded> {
        let state = self.shared.state();
        assert!(state.failures.is_empty(), "{:#?}", state.failures);
        assert!(state.scripts.is_empty(), "unplayed: {:#?}", state.scripts);
        state.requests.clone()
    }
}

impl Drop for ScriptedServer {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let Some(script) = shared.state().scripts.pop_front() else {
            shared.update(|state| state.failures.push("a connection too many".to_owned()));
            continue;
        };
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let mut connection = Connection {
                stream,
                unread: Vec::new(),
                chunked: false,
                split: None,
            };
            if let Err(error) = connection.play(script, &shared).await {
                shared.update(|state| state.failures.push(error.to_string()));
            }
        });
    }
}

struct Connection {
    stream: TcpStream,
    unread: Vec<u8>,
    /// The body being written is chunked.
    chunked: bool,
    split: Option<usize>,
}

impl Connection {
    async fn play(&mut self, script: Script, shared: &Shared) -> io::Result<()> {
        self.stream.set_nodelay(true)?;
        let mut steps = script.0.into_iter().peekable();
        while let Some(step) = steps.next() {
            match step {
                Step::ExpectHttp {
                    method,
                    path,
                    headers,
                    json_subset,
                } => {
                    let request = self.read_request().await?;
                    let mismatch = compare(&request, method, &path, &headers, json_subset.as_ref());
                    shared.update(|state| {
                        state.requests.push(request);
                        state.failures.extend(mismatch);
                    });
                }
                Step::Head { status, headers } => {
                    let length = match steps.peek() {
                        Some(Step::Body(body)) => Some(body.len()),
                        _ => None,
                    };
                    self.write_head(status, &headers, length).await?;
                }
                Step::Body(body) => self.write_pieces(&body).await?,
                Step::Chunk { bytes, delay } => {
                    if !delay.is_zero() {
                        tokio::time::sleep(delay).await;
                    }
                    let mut frame = format!("{:x}\r\n", bytes.len()).into_bytes();
                    frame.extend_from_slice(&bytes);
                    frame.extend_from_slice(b"\r\n");
                    self.write_pieces(&frame).await?;
                }
                Step::SplitEvery(bytes) => self.split = Some(bytes.max(1)),
                Step::End => self.stream.write_all(b"0\r\n\r\n").await?,
                Step::Stall => return self.wait_for_close(shared).await,
                Step::Rst => return self.stream.set_zero_linger(),
                Step::Fin => return self.stream.shutdown().await,
            }
        }
        self.wait_for_close(shared).await
    }

    async fn wait_for_close(&mut self, shared: &Shared) -> io::Result<()> {
        let mut scrap = [0; 1024];
        // A reset is a way to close, too.
        while matches!(self.stream.read(&mut scrap).await, Ok(1..)) {}
        shared.update(|state| state.closed += 1);
        Ok(())
    }

    async fn write_head(
        &mut self,
        status: u16,
        headers: &[(String, String)],
        length: Option<usize>,
    ) -> io::Result<()> {
        let mut head = format!("HTTP/1.1 {status} Scripted\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        self.chunked = length.is_none();
        match length {
            Some(length) => head.push_str(&format!("content-length: {length}\r\n\r\n")),
            None => head.push_str("transfer-encoding: chunked\r\n\r\n"),
        }
        self.stream.write_all(head.as_bytes()).await
    }

    async fn write_pieces(&mut self, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(self.split.unwrap_or(usize::MAX)) {
            self.stream.write_all(piece).await?;
            if self.split.is_some() {
                // Lets the reader see the pieces one by one, as far as the kernel plays along.
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    async fn read_request(&mut self) -> io::Result<Recorded> {
        let head_end = self.read_until(|unread| find(unread, b"\r\n\r\n")).await?;
        let head: Vec<u8> = self.unread.drain(..head_end + 4).collect();
        let head = String::from_utf8_lossy(&head);
        let mut lines = head.split("\r\n");
        let mut first = lines.next().unwrap_or_default().split(' ');
        let method = first.next().unwrap_or_default().to_owned();
        let path = first.next().unwrap_or_default().to_owned();
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let mut recorded = Recorded {
            method,
            path,
            headers,
            body: Bytes::new(),
        };
        recorded.body = match (
            recorded.header("content-length"),
            recorded.header("transfer-encoding"),
        ) {
            (Some(length), _) => {
                let length: usize = length.parse().map_err(io::Error::other)?;
                self.read_until(|unread| (unread.len() >= length).then_some(0))
                    .await?;
                self.unread.drain(..length).collect()
            }
            (None, Some(_)) => self.read_chunks().await?,
            (None, None) => Bytes::new(),
        };
        Ok(recorded)
    }

    async fn read_chunks(&mut self) -> io::Result<Bytes> {
        let mut body = Vec::new();
        loop {
            let line = self.read_until(|unread| find(unread, b"\r\n")).await?;
            let size = String::from_utf8_lossy(&self.unread[..line]).into_owned();
            let size = usize::from_str_radix(size.trim(), 16).map_err(io::Error::other)?;
            self.unread.drain(..line + 2);
            self.read_until(|unread| (unread.len() >= size + 2).then_some(0))
                .await?;
            body.extend(self.unread.drain(..size));
            self.unread.drain(..2);
            if size == 0 {
                return Ok(body.into());
            }
        }
    }

    async fn read_until(&mut self, found: impl Fn(&[u8]) -> Option<usize>) -> io::Result<usize> {
        loop {
            if let Some(at) = found(&self.unread) {
                return Ok(at);
            }
            if self.unread.len() > MAX_REQUEST_BYTES {
                return Err(io::Error::other("the request is too long"));
            }
            if self.stream.read_buf(&mut self.unread).await? == 0 {
                return Err(io::Error::other(
                    "the peer closed before its request was complete",
                ));
            }
        }
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

fn compare(
    request: &Recorded,
    method: &str,
    path: &str,
    headers: &[(String, String)],
    json_subset: Option<&Value>,
) -> Vec<String> {
    let mut failures = Vec::new();
    if (request.method.as_str(), request.path.as_str()) != (method, path) {
        failures.push(format!(
            "expected {method} {path}, got {} {}",
            request.method, request.path
        ));
    }
    for (name, value) in headers {
        if request.header(name) != Some(value) {
            failures.push(format!("expected header {name}: {value}"));
        }
    }
    if let Some(subset) = json_subset {
        let body = request.json();
        if !contains(&body, subset) {
            failures.push(format!("expected {subset} within {body}"));
        }
    }
    failures
}

/// Whether every member of `subset` is in `whole`, at any depth; everything but objects must be equal.
fn contains(whole: &Value, subset: &Value) -> bool {
    match (whole, subset) {
        (Value::Object(whole), Value::Object(subset)) => subset
            .iter()
            .all(|(name, value)| whole.get(name).is_some_and(|whole| contains(whole, value))),
        _ => whole == subset,
    }
}
