use std::{
    collections::HashMap,
    convert::Infallible,
    fmt,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Frame, Incoming},
    header::CONTENT_TYPE,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::mpsc,
    task::{JoinHandle, JoinSet},
};

use crate::echo::voice::{RATE, Voice};

/// Frames waiting for a slow reader. Full: the writer waits, as a vendor's would.
const BODY_QUEUE_FRAMES: usize = 16;
/// The largest upload that is read.
const MAX_REQUEST_BYTES: usize = 64 * 1024 * 1024;
/// Distinct texts whose speech is kept, so that a benchmark measures the server and not this synthesiser.
const KEPT_SPEECHES: usize = 64;

/// What the fake model answers.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ChatReply {
    /// Text, streamed word by word.
    Text(String),
    /// Calls of tools by name, with their arguments.
    Calls(Vec<(String, Value)>),
    /// An error with this status and body.
    Error(u16, Value),
}

impl<T: Into<String>> From<T> for ChatReply {
    fn from(text: T) -> Self {
        Self::Text(text.into())
    }
}

/// Decides an answer from the request's JSON body.
type Chat = dyn Fn(&Value) -> ChatReply + Send + Sync;

/// How the fake upstream behaves. The defaults answer at once.
#[derive(Clone)]
pub struct FakeOpenAiOptions {
    /// Decides what the model says to a request's body. Default: a fixed sentence.
    pub chat: Arc<Chat>,
    /// What is heard in successive utterances, from the start again after the last.
    pub transcripts: Vec<String>,
    /// Time to a transcript.
    pub transcript_delay: Duration,
    /// Time to the first word.
    pub first_word_delay: Duration,
    /// Time between two words.
    pub word_delay: Duration,
    /// Time to the first audio.
    pub speech_delay: Duration,
    /// When set, requests must carry this bearer token.
    pub api_key: Option<String>,
}

impl Default for FakeOpenAiOptions {
    fn default() -> Self {
        Self {
            chat: Arc::new(|_| "It is sunny today. Take a walk!".into()),
            transcripts: vec!["What is the weather like?".to_owned()],
            transcript_delay: Duration::ZERO,
            first_word_delay: Duration::ZERO,
            word_delay: Duration::ZERO,
            speech_delay: Duration::ZERO,
            api_key: None,
        }
    }
}

impl FakeOpenAiOptions {
    /// Answers every request with this text.
    #[must_use]
    pub fn reply(mut self, reply: impl Into<ChatReply>) -> Self {
        let reply = reply.into();
        self.chat = Arc::new(move |_| reply.clone());
        self
    }

    /// Hears this in every utterance.
    #[must_use]
    pub fn transcript(mut self, transcript: impl Into<String>) -> Self {
        self.transcripts = vec![transcript.into()];
        self
    }
}

impl fmt::Debug for FakeOpenAiOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeOpenAiOptions").finish_non_exhaustive()
    }
}

/// An OpenAI-compatible upstream on the loopback interface: `/v1/models`, `/v1/chat/completions`,
/// `/v1/audio/transcriptions` and `/v1/audio/speech`, the latter with audible PCM at 24 kHz. Dropping it stops it.
#[derive(Debug)]
pub struct FakeOpenAi {
    address: SocketAddr,
    shared: Arc<Shared>,
    accept: JoinHandle<()>,
}

impl FakeOpenAi {
    /// Listens on a free port.
    ///
    /// # Panics
    /// When no port can be bound.
    pub async fn start(options: FakeOpenAiOptions) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a free loopback port");
        let address = listener
            .local_addr()
            .expect("a bound socket has an address");
        let shared = Arc::new(Shared {
            options,
            heard: AtomicUsize::new(0),
            counts: Counts::default(),
            last_chat: Mutex::default(),
            speeches: Mutex::default(),
        });
        #[expect(clippy::disallowed_methods, reason = "owned here and aborted on drop")]
        let accept = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self {
            address,
            shared,
            accept,
        }
    }

    /// The base URL, with `/v1`.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Chat completions asked for so far.
    pub fn chats(&self) -> u64 {
        self.shared.counts.chats.load(Ordering::Relaxed)
    }

    /// Transcriptions asked for so far.
    pub fn transcriptions(&self) -> u64 {
        self.shared.counts.transcriptions.load(Ordering::Relaxed)
    }

    /// Speeches asked for so far.
    pub fn speeches(&self) -> u64 {
        self.shared.counts.speeches.load(Ordering::Relaxed)
    }

    /// The body of the latest chat completion request.
    pub fn last_chat(&self) -> Option<Value> {
        lock(&self.shared.last_chat).clone()
    }
}

impl Drop for FakeOpenAi {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

#[derive(Debug)]
struct Shared {
    options: FakeOpenAiOptions,
    /// Utterances so far.
    heard: AtomicUsize,
    counts: Counts,
    last_chat: Mutex<Option<Value>>,
    speeches: Mutex<HashMap<String, Bytes>>,
}

#[derive(Debug, Default)]
struct Counts {
    chats: AtomicU64,
    transcriptions: AtomicU64,
    speeches: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        // Only costs latency when it fails.
        let _ = stream.set_nodelay(true);
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let shared = Arc::clone(&shared);
                async move { Ok::<_, Infallible>(shared.serve(request).await) }
            });
            // A client that goes away in the middle is what cancelling looks like.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
        while connections.try_join_next().is_some() {}
    }
}

impl Shared {
    async fn serve(self: Arc<Self>, request: Request<Incoming>) -> Response<Reply> {
        if let Some(key) = &self.options.api_key {
            let wanted = format!("Bearer {key}");
            let given = request
                .headers()
                .get("authorization")
                .map(|value| value.as_bytes());
            if given != Some(wanted.as_bytes()) {
                let message = json!({"error": {"message": "wrong key", "code": "invalid_api_key"}});
                return json_reply(StatusCode::UNAUTHORIZED, &message);
            }
        }
        let route = (request.method().clone(), request.uri().path().to_owned());
        let Some(body) = read(request.into_body()).await else {
            return json_reply(StatusCode::PAYLOAD_TOO_LARGE, &json!({}));
        };
        match (&route.0, route.1.as_str()) {
            (&Method::GET, "/v1/models") => json_reply(
                StatusCode::OK,
                &json!({"data": [{"id": "fake-model", "object": "model"}]}),
            ),
            (&Method::POST, "/v1/chat/completions") => self.chat(&body),
            (&Method::POST, "/v1/audio/transcriptions") => self.transcribe().await,
            (&Method::POST, "/v1/audio/speech") => self.speak(&body).await,
            (&Method::HEAD, _) => json_reply(StatusCode::OK, &json!({})),
            _ => json_reply(
                StatusCode::NOT_FOUND,
                &json!({"error": {"message": "no such route"}}),
            ),
        }
    }

    fn chat(self: Arc<Self>, body: &[u8]) -> Response<Reply> {
        self.counts.chats.fetch_add(1, Ordering::Relaxed);
        let request: Value = serde_json::from_slice(body).unwrap_or_default();
        let reply = (self.options.chat)(&request);
        let whole = request["stream"] != json!(true);
        *lock(&self.last_chat) = Some(request);
        let (frames, finish) = match &reply {
            ChatReply::Error(status, body) => {
                let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::BAD_GATEWAY);
                return json_reply(status, body);
            }
            ChatReply::Text(text) if whole => {
                let answer = json!({
                    "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
                });
                return json_reply(StatusCode::OK, &answer);
            }
            ChatReply::Text(text) => {
                let words = text
                    .split_inclusive(' ')
                    .map(|word| json!({"content": word}));
                (words.collect::<Vec<_>>(), "stop")
            }
            ChatReply::Calls(calls) => {
                let calls: Vec<Value> = calls
                    .iter()
                    .enumerate()
                    .map(|(index, (name, arguments))| {
                        let id =
                            format!("call_{}_{index}", self.counts.chats.load(Ordering::Relaxed));
                        let function = json!({"name": name, "arguments": arguments.to_string()});
                        json!({"index": index, "id": id, "type": "function", "function": function})
                    })
                    .collect();
                (vec![json!({"tool_calls": calls})], "tool_calls")
            }
        };
        let tokens = frames.len();
        let frame = |delta: Value, finish: Value| {
            let frame = json!({"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]});
            Bytes::from(format!("data: {frame}\n\n"))
        };
        let mut frames: Vec<Bytes> = frames
            .into_iter()
            .map(|delta| frame(delta, Value::Null))
            .collect();
        frames.push(frame(json!({}), json!(finish)));
        let usage =
            json!({"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": tokens}});
        frames.push(Bytes::from(format!("data: {usage}\n\ndata: [DONE]\n\n")));

        let (first, later) = (self.options.first_word_delay, self.options.word_delay);
        let delay = move |at: usize| match at {
            0 => first,
            at if at < tokens => later,
            _ => Duration::ZERO,
        };
        stream_reply("text/event-stream", frames, delay)
    }

    async fn transcribe(&self) -> Response<Reply> {
        self.counts.transcriptions.fetch_add(1, Ordering::Relaxed);
        wait(self.options.transcript_delay).await;
        let at = self.heard.fetch_add(1, Ordering::Relaxed);
        let count = self.options.transcripts.len().max(1);
        let text = self
            .options
            .transcripts
            .get(at % count)
            .map_or("", String::as_str);
        json_reply(StatusCode::OK, &json!({"text": text}))
    }

    async fn speak(&self, body: &[u8]) -> Response<Reply> {
        self.counts.speeches.fetch_add(1, Ordering::Relaxed);
        let request: Value = serde_json::from_slice(body).unwrap_or_default();
        let text = request["input"].as_str().unwrap_or_default();
        let pcm = self.speech(text);
        wait(self.options.speech_delay).await;
        match request["response_format"].as_str() {
            Some("pcm") => {
                let piece = RATE.hz() as usize / 5; // 100 ms
                let pieces = (0..pcm.len())
                    .step_by(piece)
                    .map(|start| pcm.slice(start..(start + piece).min(pcm.len())))
                    .collect();
                stream_reply("audio/pcm", pieces, |_| Duration::ZERO)
            }
            Some("wav") => {
                let wav = llmrtc_core::audio::PcmChunk::from_le_bytes(&pcm, RATE).to_wav();
                reply(StatusCode::OK, "audio/wav", Reply::Whole(Some(wav)))
            }
            _ => json_reply(
                StatusCode::BAD_REQUEST,
                &json!({"error": {"message": "only pcm and wav", "param": "response_format"}}),
            ),
        }
    }

    fn speech(&self, text: &str) -> Bytes {
        if let Some(pcm) = lock(&self.speeches).get(text) {
            return pcm.clone();
        }
        let mut pcm = BytesMut::new();
        Voice::new(text, 1.0).for_each(|sample| pcm.put_i16_le(sample));
        let pcm = pcm.freeze();
        let mut speeches = lock(&self.speeches);
        if speeches.len() >= KEPT_SPEECHES {
            speeches.clear();
        }
        speeches.insert(text.to_owned(), pcm.clone());
        pcm
    }
}

async fn wait(delay: Duration) {
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
}

async fn read(mut body: Incoming) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        if let Ok(data) = frame.ok()?.into_data() {
            bytes.extend_from_slice(&data);
        }
        if bytes.len() > MAX_REQUEST_BYTES {
            return None;
        }
    }
    Some(bytes)
}

/// A response body: whole, or as it is made.
enum Reply {
    Whole(Option<Bytes>),
    /// The task dies with the body, which is how a cancelled request stops costing anything.
    Stream(
        mpsc::Receiver<Bytes>,
        #[expect(dead_code, reason = "held for its drop")] JoinSet<()>,
    ),
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(frames, _) => frames
                .poll_recv(cx)
                .map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes)))),
        }
    }
}

fn reply(status: StatusCode, media_type: &'static str, body: Reply) -> Response<Reply> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(
        CONTENT_TYPE,
        hyper::header::HeaderValue::from_static(media_type),
    );
    response
}

fn json_reply(status: StatusCode, body: &Value) -> Response<Reply> {
    reply(
        status,
        "application/json",
        Reply::Whole(Some(Bytes::from(body.to_string()))),
    )
}

fn stream_reply(
    media_type: &'static str,
    frames: Vec<Bytes>,
    delay: impl Fn(usize) -> Duration + Send + 'static,
) -> Response<Reply> {
    let (sender, receiver) = mpsc::channel(BODY_QUEUE_FRAMES);
    let mut task = JoinSet::new();
    task.spawn(async move {
        for (at, frame) in frames.into_iter().enumerate() {
            wait(delay(at)).await;
            if sender.send(frame).await.is_err() {
                return;
            }
        }
    });
    reply(StatusCode::OK, media_type, Reply::Stream(receiver, task))
}
