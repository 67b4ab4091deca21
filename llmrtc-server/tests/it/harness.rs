//! A server in this process, and callers who reach it as any caller would.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use bytes::Bytes;
use llmrtc_core::{
    audio::PcmChunk,
    playout::PlayoutEvent,
    provider::{LlmProvider, Providers, SttProvider, TtsProvider},
};
use llmrtc_media::{codec::wav::WavReader, config::PolicyKind};
use llmrtc_providers::echo::{EchoConfig, EchoTts};
use llmrtc_security::auth::bind::Exposure;
use llmrtc_server::{
    Server, ServerBuilder,
    client::{Call, CallError, CallEvent, Phone, call::play},
    config::Config,
    shutdown::Shutdown,
};
use llmrtc_signal::{
    client::{LostReason, Options, Resume},
    protocol::{ErrorCode, ServerMessage},
};
use tokio::{net::TcpListener, sync::mpsc, task::JoinSet, time::timeout};

/// For a machine that is busy with other tests. Nothing here takes more than a few seconds on an idle one.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Frames of 20 ms that make a sound.
const A_SOUND: usize = 3;
/// Longer than any pause within a sentence.
const A_SILENCE: Duration = Duration::from_millis(300);

/// Real speech, 3.65 s.
pub(crate) static SPEECH: LazyLock<PcmChunk> = LazyLock::new(|| {
    let file = include_bytes!("../../../llmrtc-media/tests/fixtures/speech.wav");
    WavReader::new(Bytes::from_static(file)).unwrap().read_all()
});

/// Its first words, up to a pause: an utterance for tests that need not hear the whole of it.
pub(crate) static WORDS: LazyLock<PcmChunk> = LazyLock::new(|| {
    let rate = SPEECH.rate();
    PcmChunk::new(
        &SPEECH.samples()[..rate.samples_in(Duration::from_millis(1_450))],
        rate,
    )
});

/// A configuration from what a file would say.
pub(crate) fn config(toml: &str) -> Config {
    toml::from_str(toml).unwrap()
}

/// A set of providers. The voice of the scripted synthesis is a constant, which no codec carries; pass
/// [`voice`] to be heard.
pub(crate) fn providers(
    stt: impl SttProvider + 'static,
    llm: impl LlmProvider + 'static,
    tts: impl TtsProvider + 'static,
) -> Providers {
    Providers {
        llm: Arc::new(llm),
        stt: Arc::new(stt),
        tts: Arc::new(tts),
        vision: None,
    }
}

/// A voice that can be heard: 60 ms per letter.
pub(crate) fn voice() -> EchoTts {
    EchoTts::new(EchoConfig::default())
}

/// A running server.
pub(crate) struct Site {
    pub(crate) address: SocketAddr,
    pub(crate) shutdown: Shutdown,
    pub(crate) server: Server,
    phone: Phone,
    running: JoinSet<()>,
}

impl Site {
    /// With the providers that `config` names, or the given ones.
    pub(crate) async fn start(config: Config, providers: Option<Providers>) -> Self {
        Self::exposed(config, providers, Exposure::Loopback).await
    }

    /// As if its loopback address were one that others can reach.
    pub(crate) async fn exposed(
        config: Config,
        providers: Option<Providers>,
        exposure: Exposure,
    ) -> Self {
        let mut config = config;
        if config.media.endpoint.policy == PolicyKind::Auto {
            // Whether models are installed must not change what a test sees.
            config.media.endpoint.policy = PolicyKind::Silence;
        }
        let (shutdown, grace) = (Shutdown::new(), config.shutdown.grace);
        let mut builder = Server::builder(config).shutdown(shutdown.clone());
        if let Some(providers) = providers {
            builder = builder.providers(providers);
        }
        Self::serve(builder, exposure, shutdown, grace).await
    }

    /// A server that somebody else put together, and what ends it.
    pub(crate) async fn serve(
        builder: ServerBuilder,
        exposure: Exposure,
        shutdown: Shutdown,
        grace: Duration,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = builder.build(address, exposure).await.unwrap();
        let mut running = JoinSet::new();
        let (closing, draining) = (shutdown.clone(), shutdown.clone());
        let site_server = server.clone();
        let service = server
            .router()
            .into_make_service_with_connect_info::<SocketAddr>();
        running.spawn(async move {
            let closing = async move { closing.closing().await };
            axum::serve(listener, service)
                .with_graceful_shutdown(closing)
                .await
                .unwrap();
            server.finish().await;
        });
        running.spawn(async move { draining.drain(grace).await });
        Self {
            address,
            shutdown,
            server: site_server,
            phone: Phone::new().unwrap(),
            running,
        }
    }

    pub(crate) async fn with(providers: Providers) -> Self {
        Self::start(Config::default(), Some(providers)).await
    }

    pub(crate) fn url(&self) -> url::Url {
        format!("ws://{}/", self.address).parse().unwrap()
    }

    /// A caller without a microphone.
    pub(crate) async fn connect(&self) -> Caller {
        self.dial(Options::new(self.url())).await.unwrap()
    }

    /// A caller with a microphone.
    pub(crate) async fn call(&self) -> Caller {
        let mut caller = self.connect().await;
        caller.share_microphone().await;
        caller
    }

    /// A caller who comes back.
    pub(crate) async fn resume(&self, resume: Resume) -> Caller {
        let options = Options {
            resume: Some(resume),
            ..Options::new(self.url())
        };
        self.dial(options).await.unwrap()
    }

    pub(crate) async fn dial(&self, options: Options) -> Result<Caller, CallError> {
        Caller::dial(&self.phone, options).await
    }

    /// Status and body of a plain request.
    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        let url = format!("http://{}{path}", self.address);
        let response = timeout(PATIENCE, reqwest::get(url))
            .await
            .expect("answers")
            .unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    /// Waits until the server has closed everything down.
    pub(crate) async fn ended(&mut self) {
        let all = async { while self.running.join_next().await.is_some() {} };
        timeout(PATIENCE, all).await.expect("the server ends");
    }
}

/// Somebody on the phone, who notes what the server says.
pub(crate) struct Caller {
    pub(crate) call: Call,
    /// Everything so far.
    pub(crate) said: Vec<ServerMessage>,
    /// Arrived while something else was waited for.
    unread: VecDeque<ServerMessage>,
    playing: Option<mpsc::Receiver<PlayoutEvent>>,
    /// Frames in which something could be heard, and how many of them were before the latest question.
    audible: usize,
    audible_before: usize,
    last_audible: Option<Instant>,
    /// For how long nothing could be heard. Silence comes in few packets, so frames do not measure it.
    silence: Duration,
    /// Has shared a microphone, so that replies come by voice.
    hears: bool,
    lost: Option<LostReason>,
}

impl std::fmt::Debug for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Caller")
            .field("said", &self.kinds())
            .field("unread", &self.unread.len())
            .field("audible", &(self.audible - self.audible_before))
            .field("lost", &self.lost)
            .finish_non_exhaustive()
    }
}

impl Caller {
    pub(crate) async fn dial(phone: &Phone, options: Options) -> Result<Self, CallError> {
        let call = timeout(PATIENCE, phone.call(options))
            .await
            .expect("connects in time")?;
        Ok(Self {
            call,
            said: Vec::new(),
            unread: VecDeque::new(),
            playing: None,
            audible: 0,
            audible_before: 0,
            last_audible: None,
            silence: Duration::ZERO,
            hears: false,
            lost: None,
        })
    }

    pub(crate) async fn share_microphone(&mut self) {
        let shared = timeout(PATIENCE, self.call.share_microphone()).await;
        shared.expect("negotiates in time").unwrap();
        self.hears = true;
    }

    pub(crate) async fn remove_microphone(&mut self) {
        let removed = timeout(PATIENCE, self.call.remove_microphone()).await;
        removed.expect("negotiates in time").unwrap();
    }

    /// What to come back with.
    pub(crate) fn ticket(&self) -> Resume {
        let greeting = self.call.greeting();
        Resume {
            session_id: greeting.session_id.clone(),
            resume_token: greeting.resume_token.clone(),
        }
    }

    /// Begins to speak, in real time.
    pub(crate) fn say(&mut self, speech: &PcmChunk) {
        self.audible_before = self.audible;
        self.playing = Some(play(&self.call, speech.clone()));
    }

    /// The kinds of messages so far, in order.
    pub(crate) fn kinds(&self) -> Vec<&'static str> {
        self.said.iter().map(ServerMessage::kind).collect()
    }

    /// Waits for the next message of this kind, over those before it.
    pub(crate) async fn until(&mut self, kind: &str) -> ServerMessage {
        self.until_either(kind, kind).await
    }

    /// The same for two kinds.
    pub(crate) async fn until_either(&mut self, kind: &str, other: &str) -> ServerMessage {
        let found = timeout(PATIENCE, async {
            loop {
                while let Some(message) = self.unread.pop_front() {
                    if message.kind() == kind || message.kind() == other {
                        return message;
                    }
                }
                assert_eq!(self.lost, None, "lost before {kind}: {self:?}");
                self.step().await;
            }
        });
        match found.await {
            Ok(message) => message,
            Err(_) => panic!("no {kind}: {self:?}"),
        }
    }

    pub(crate) async fn transcript(&mut self) -> String {
        loop {
            if let ServerMessage::Transcript {
                text,
                is_final: true,
            } = self.until("transcript").await
            {
                return text;
            }
        }
    }

    pub(crate) async fn error(&mut self) -> (ErrorCode, String) {
        let ServerMessage::Error { code, message, .. } = self.until("error").await else {
            unreachable!()
        };
        (code, message)
    }

    /// Waits until something is heard after the latest question.
    pub(crate) async fn until_audible(&mut self) {
        let heard = timeout(PATIENCE, async {
            while self.audible < self.audible_before + A_SOUND {
                assert_eq!(self.lost, None, "lost before a sound: {self:?}");
                self.step().await;
            }
        });
        assert!(heard.await.is_ok(), "nothing is heard: {self:?}");
    }

    /// Waits until nothing is heard any more.
    pub(crate) async fn until_silent(&mut self) {
        let silent = timeout(PATIENCE, async {
            while self.silence < A_SILENCE {
                assert_eq!(self.lost, None, "lost before silence: {self:?}");
                self.step().await;
            }
        });
        assert!(silent.await.is_ok(), "the voice goes on: {self:?}");
    }

    /// Says some words and listens to the answer to its end.
    pub(crate) async fn turn(&mut self) -> Turn {
        self.say(&WORDS);
        self.answer().await
    }

    /// The same for words that are refused: returns what is said instead.
    pub(crate) async fn ask_refused(&mut self) -> String {
        self.send(WORDS.to_wav()).await;
        loop {
            if let ServerMessage::Llm { text } = self.next_message().await {
                return text;
            }
        }
    }

    /// The text of the answer to words that were sent before and transcribed already.
    pub(crate) async fn answer_of_sent(&mut self) -> String {
        loop {
            match self.next_message().await {
                ServerMessage::Llm { text } => return text,
                ServerMessage::Error { code, .. } => panic!("{code}: {self:?}"),
                _ => {}
            }
        }
    }

    /// Sends some words as a message and listens to the answer to its end.
    pub(crate) async fn ask(&mut self) -> Turn {
        self.send(WORDS.to_wav()).await;
        self.answer().await
    }

    pub(crate) async fn send(&mut self, audio: impl Into<Bytes>) {
        self.audible_before = self.audible;
        self.call.send_audio(audio.into()).await.unwrap();
    }

    /// Listens to an answer to its end: by ear, where there is a voice.
    pub(crate) async fn answer(&mut self) -> Turn {
        let transcript = self.transcript().await;
        let mut reply = String::new();
        loop {
            match self.next_message().await {
                ServerMessage::Llm { text } => reply = text,
                ServerMessage::TtsComplete => break,
                ServerMessage::Error { code, .. } => panic!("{code}: {self:?}"),
                _ => {}
            }
        }
        if self.hears {
            // Messages may overtake packets.
            self.until_audible().await;
            self.until_silent().await;
        }
        Turn { transcript, reply }
    }

    /// Why the connection ended.
    pub(crate) async fn lost(&mut self) -> LostReason {
        let ended = timeout(PATIENCE, async {
            loop {
                if let Some(reason) = self.lost {
                    return reason;
                }
                self.step().await;
            }
        });
        match ended.await {
            Ok(reason) => reason,
            Err(_) => panic!("the connection lives on: {self:?}"),
        }
    }

    async fn next_message(&mut self) -> ServerMessage {
        let next = timeout(PATIENCE, async {
            loop {
                if let Some(message) = self.unread.pop_front() {
                    return message;
                }
                assert_eq!(self.lost, None, "lost: {self:?}");
                self.step().await;
            }
        });
        match next.await {
            Ok(message) => message,
            Err(_) => panic!("no message: {self:?}"),
        }
    }

    async fn step(&mut self) {
        let event = self.call.next().await;
        match &event {
            CallEvent::Message(message) => {
                self.said.push(message.clone());
                self.unread.push_back(message.clone());
            }
            CallEvent::Audio(frame) => {
                // Comfort noise stays below this, speech is far above.
                if rms(&frame.pcm) > 200.0 {
                    self.audible += 1;
                    self.last_audible = Some(frame.at);
                }
                self.silence = self
                    .last_audible
                    .map_or(A_SILENCE, |last| frame.at.saturating_duration_since(last));
            }
            CallEvent::Lost(reason) => self.lost = Some(*reason),
            _ => {}
        }
    }
}

fn rms(pcm: &PcmChunk) -> f64 {
    let energy: f64 = pcm
        .samples()
        .iter()
        .map(|sample| f64::from(*sample).powi(2))
        .sum();
    (energy / pcm.samples().len().max(1) as f64).sqrt()
}

/// What came of an utterance.
#[derive(Debug)]
pub(crate) struct Turn {
    pub(crate) transcript: String,
    pub(crate) reply: String,
}
