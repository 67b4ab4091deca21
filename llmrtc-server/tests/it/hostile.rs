//! Callers who mean harm, and a bystander who must not notice.

use std::time::Duration;

use axum::http::Uri;
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use llmrtc_core::testing::{ScriptedLlm, ScriptedStt};
use llmrtc_media::{
    config::MediaConfig,
    peer::{PeerEvent, PeerFactory},
    pipeline::MediaThreads,
};
use llmrtc_providers::testing::{FakeOpenAi, FakeOpenAiOptions};
use llmrtc_server::{client::Phone, config::Config};
use llmrtc_signal::client::Options;
use serde_json::{Value, json};
use tokio::{
    net::{TcpStream, UdpSocket},
    time::timeout,
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async_with_config,
    tungstenite::{Message, protocol::WebSocketConfig},
};

use crate::{
    harness::{Caller, PATIENCE, Site, providers, voice},
    process::Process,
};

const MIB: usize = 1024 * 1024;

/// A socket without any manners.
struct Raw(WebSocketStream<MaybeTlsStream<TcpStream>>);

/// What the server did.
#[derive(Debug, PartialEq)]
enum Reaction {
    Closed(u16),
    /// The socket ended without a close frame.
    Gone,
    /// It answered with this error.
    Error(String),
    /// Nothing but the pong.
    Ignored,
}

impl Raw {
    async fn open(address: &str) -> Self {
        let uri: Uri = format!("ws://{address}/").parse().unwrap();
        let mut config = WebSocketConfig::default();
        config.max_message_size = None;
        config.max_frame_size = None;
        let connecting = connect_async_with_config(uri, Some(config), true);
        let (socket, _) = timeout(PATIENCE, connecting)
            .await
            .expect("answers")
            .unwrap();
        let mut raw = Self(socket);
        assert_eq!(raw.next().await.unwrap()["type"], "ready");
        raw
    }

    /// A refusal to take it is an answer as well, which is read later.
    async fn send(&mut self, message: impl Into<Message>) {
        let _ = timeout(PATIENCE, self.0.send(message.into()))
            .await
            .expect("takes it or closes");
    }

    /// The next message, or the end.
    async fn next(&mut self) -> Result<Value, Reaction> {
        loop {
            match timeout(PATIENCE, self.0.next()).await.expect("reacts") {
                Some(Ok(Message::Text(text))) => return Ok(serde_json::from_str(&text).unwrap()),
                Some(Ok(Message::Close(frame))) => {
                    return Err(
                        frame.map_or(Reaction::Gone, |frame| Reaction::Closed(frame.code.into()))
                    );
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(Reaction::Gone),
            }
        }
    }

    /// Sends a ping and says what came before its pong.
    async fn reaction(&mut self) -> Reaction {
        self.send(json!({ "type": "ping", "timestamp": "last" }).to_string())
            .await;
        loop {
            match self.next().await {
                Ok(message) if message["type"] == "error" => {
                    return Reaction::Error(message["code"].as_str().unwrap().to_owned());
                }
                Ok(message) if message["type"] == "pong" && message["timestamp"] == "last" => {
                    return Reaction::Ignored;
                }
                Ok(_) => {}
                Err(end) => return end,
            }
        }
    }

    /// The next error, or the end.
    async fn error(&mut self) -> Reaction {
        loop {
            match self.next().await {
                Ok(message) if message["type"] == "error" => {
                    return Reaction::Error(message["code"].as_str().unwrap().to_owned());
                }
                Ok(_) => {}
                Err(end) => return end,
            }
        }
    }

    /// The answer to an offer: a description, or an error's code.
    async fn negotiated(&mut self, sdp: &str) -> Result<String, String> {
        let offer = json!({ "type": "offer", "signal": { "type": "offer", "sdp": sdp } });
        self.send(offer.to_string()).await;
        loop {
            let message = self.next().await.map_err(|end| format!("{end:?}"))?;
            match message["type"].as_str().unwrap() {
                "signal" => return Ok(message["signal"]["sdp"].as_str().unwrap().to_owned()),
                "error" => return Err(message["code"].as_str().unwrap().to_owned()),
                _ => {}
            }
        }
    }
}

/// A real server process, and a caller who only wants to talk.
struct Scene {
    server: Process,
    bystander: Caller,
    /// Where it can be known.
    memory: Option<u64>,
    _vendor: FakeOpenAi,
    _directory: tempfile::TempDir,
}

impl Scene {
    async fn set() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let vendor = FakeOpenAi::start(FakeOpenAiOptions::default().reply("Yes.")).await;
        let server = Process::start(
            directory.path(),
            &[],
            &[
                ("LLM_PROVIDER", "openai"),
                ("STT_PROVIDER", "openai"),
                ("TTS_PROVIDER", "openai"),
                ("OPENAI_API_KEY", "sk-test"),
                ("OPENAI_BASE_URL", &vendor.base_url()),
                ("LLMRTC_SIGNAL__AUDIO_PER_SECOND", "1000"),
                ("LLMRTC_SIGNAL__AUDIO_PER_MINUTE", "60000"),
            ],
        )
        .await;
        let options = Options::new(server.url());
        let mut bystander = Caller::dial(&Phone::new().unwrap(), options).await.unwrap();
        bystander.share_microphone().await;
        bystander.turn().await;
        let memory = server.memory();
        Self {
            server,
            bystander,
            memory,
            _vendor: vendor,
            _directory: directory,
        }
    }

    async fn raw(&self) -> Raw {
        Raw::open(&self.server.address).await
    }

    /// The bystander asks, and is answered aloud.
    async fn goes_on(&mut self) {
        assert_eq!(self.bystander.ask().await.reply, "Yes.");
    }

    /// To the end: a whole turn by voice, no panic, and no memory kept.
    async fn ends_well(mut self) {
        self.bystander.turn().await;
        if let Some((before, now)) = self.memory.zip(self.server.memory()) {
            let grown = now.saturating_sub(before) / MIB as u64;
            assert!(grown < 64, "{grown} MiB more than before");
        }
        let log = self.server.log();
        assert!(!log.contains("panic"), "{log}");
    }
}

#[tokio::test]
async fn f3_messages_that_make_no_sense_are_answered_or_ignored() {
    let mut scene = Scene::set().await;
    let error = |code: &str| Reaction::Error(code.to_owned());
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let deep_field = format!(
        r#"{{"type":"ping","x":{}1{}}}"#,
        r#"{"a":"#.repeat(100_000),
        "}".repeat(100_000)
    );
    let cases: Vec<(Message, Reaction)> = vec![
        ("".into(), error("INVALID_MESSAGE")),
        ("{".into(), error("INVALID_MESSAGE")),
        ("null".into(), error("INVALID_MESSAGE")),
        ("[1,2]".into(), error("INVALID_MESSAGE")),
        (r#"{"type":"ping""#.into(), error("INVALID_MESSAGE")),
        (r#"{"timestamp":1}"#.into(), error("INVALID_MESSAGE")),
        (r#"{"type":7}"#.into(), error("INVALID_MESSAGE")),
        (deep.into(), error("INVALID_MESSAGE")),
        (deep_field.into(), error("INVALID_MESSAGE")),
        (r#"{"type":"offer"}"#.into(), error("INVALID_MESSAGE")),
        (
            r#"{"type":"offer","signal":"v=0"}"#.into(),
            error("INVALID_MESSAGE"),
        ),
        (
            r#"{"type":"offer","signal":{"type":"offer","sdp":[]}}"#.into(),
            error("INVALID_MESSAGE"),
        ),
        (r#"{"type":"audio"}"#.into(), error("INVALID_MESSAGE")),
        (
            r#"{"type":"audio","data":5}"#.into(),
            error("INVALID_MESSAGE"),
        ),
        (
            r#"{"type":"audio","data":"*?"}"#.into(),
            error("INVALID_AUDIO_FORMAT"),
        ),
        (
            r#"{"type":"audio","data":"UklGRg==","attachments":7}"#.into(),
            error("INVALID_MESSAGE"),
        ),
        (
            r#"{"type":"audio","data":"bm90IGF1ZGlv"}"#.into(),
            error("INVALID_AUDIO_FORMAT"),
        ),
        (
            r#"{"type":"attachments","attachments":[]}"#.into(),
            Reaction::Ignored,
        ),
        (
            r#"{"type":"reconnect","sessionId":{}}"#.into(),
            Reaction::Ignored,
        ),
        (r#"{"type":"reconnect"}"#.into(), Reaction::Ignored),
        (
            r#"{"type":"telepathy","data":[1,{"a":null}]}"#.into(),
            Reaction::Ignored,
        ),
        (r#"{"type":"__proto__"}"#.into(), Reaction::Ignored),
        (
            r#"{"type":"ping","timestamp":{"a":[]},"extra":1}"#.into(),
            Reaction::Ignored,
        ),
        (
            Bytes::from_static(br#"{"type":"ping"}"#).into(),
            Reaction::Ignored,
        ),
        (
            Bytes::from_static(&[0xff, 0xfe, 0, 1]).into(),
            Reaction::Closed(1003),
        ),
        (
            Bytes::from_static(&[0x80; 4096]).into(),
            Reaction::Closed(1003),
        ),
        ("a".repeat(20 * MIB).into(), Reaction::Closed(1009)),
        (
            Bytes::from(vec![7; 20 * MIB]).into(),
            Reaction::Closed(1009),
        ),
    ];
    for (index, (message, expected)) in cases.into_iter().enumerate() {
        let mut raw = scene.raw().await;
        raw.send(message).await;
        let reaction = match expected {
            Reaction::Ignored => raw.reaction().await,
            _ => raw.error().await,
        };
        assert_eq!(reaction, expected, "case {index}");
        if let Reaction::Error(_) = expected {
            assert_eq!(
                raw.reaction().await,
                Reaction::Ignored,
                "case {index} is over"
            );
        }
        scene.goes_on().await;
    }
    scene.ends_well().await;
}

#[tokio::test]
async fn h1_floods_end_the_flooding_connection_only() {
    let mut scene = Scene::set().await;
    let ping = json!({ "type": "ping", "timestamp": 1 }).to_string();
    let floods: [Message; 4] = [
        ping.into(),
        "{".into(),
        Message::Ping(Bytes::from_static(b"are you there")),
        json!({ "type": "offer", "signal": { "type": "offer", "sdp": "v=0" } })
            .to_string()
            .into(),
    ];
    for message in floods {
        let mut raw = scene.raw().await;
        let what = format!("{message:.40}");
        for _ in 0..20_000 {
            if raw.0.feed(message.clone()).await.is_err() {
                break;
            }
        }
        let _ = raw.0.flush().await;
        let end = loop {
            if let Err(end) = raw.next().await {
                break end;
            }
        };
        // The reset after the close may overtake its frame while we still write.
        assert!(
            matches!(end, Reaction::Closed(1008) | Reaction::Gone),
            "{what}: {end:?}"
        );
        scene.goes_on().await;
    }
    scene.ends_well().await;
}

#[tokio::test]
async fn h2_offers_that_cannot_be_taken_are_refused() {
    let mut scene = Scene::set().await;
    let session = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n";
    let audio =
        "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 0.0.0.0\r\na=rtpmap:111 opus/48000/2\r\n";
    let many = format!("{session}{}", audio.repeat(500));
    let offers = [
        "",
        "hello",
        "v=0",
        session,
        &session.repeat(50),
        &format!("{session}{audio}"),
        &many,
        &format!("{session}m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\na=mid:0\r\n"),
        &format!(
            "{session}a=fingerprint:sha-256 {}\r\n",
            "AA:".repeat(10_000)
        ),
        "v=0\r\no=\u{0}\u{1}\u{2}\r\nm=\r\nm=\r\n",
    ];
    for (index, offer) in offers.iter().enumerate() {
        let mut raw = scene.raw().await;
        let refused = raw.negotiated(offer).await;
        let code = refused.expect_err("no such description can be answered");
        assert!(
            matches!(code.as_str(), "CONNECTION_FAILED" | "INVALID_MESSAGE"),
            "offer {index}: {code}"
        );
        assert_eq!(raw.reaction().await, Reaction::Ignored, "offer {index}");
        scene.goes_on().await;
    }
    scene.ends_well().await;
}

#[tokio::test]
async fn h2_a_caller_whose_candidates_lead_nowhere_still_connects() {
    let site = Site::with(providers(
        ScriptedStt::hearing("Me?"),
        ScriptedLlm::saying("Yes."),
        voice(),
    ))
    .await;
    let media = MediaConfig::default();
    let threads = MediaThreads::start(&media).unwrap();
    let factory = PeerFactory::new(media.peer, "127.0.0.1".parse().unwrap(), threads);
    let (peer, mut events, _frames) = factory.calling().await.unwrap();
    let offer = peer.offer().await.unwrap();
    let (mut bogus, mut replaced) = (String::new(), 0);
    for line in offer.lines() {
        if line.starts_with("a=candidate:") {
            replaced += 1;
            continue;
        }
        bogus.push_str(line);
        bogus.push_str("\r\n");
    }
    assert!(replaced > 0);
    for candidate in [
        "1 1 udp 2113937151 0f0c3c0e-7f0e-4a55-9b1f-3d9f5a1d2c77.local 5000 typ host",
        "2 1 udp 2113937151 no.such.host.invalid 5000 typ host",
        "3 1 udp 2113937151 192.0.2.1 5000 typ host",
        "4 1 tcp 1518280447 127.0.0.1 9 typ host tcptype active",
        "5 1 udp 2113937151 127.0.0.1 99999 typ host",
        "6 1 udp x y z",
        "",
    ] {
        bogus.push_str(&format!("a=candidate:{candidate}\r\n"));
    }
    let mut raw = Raw::open(&site.address.to_string()).await;
    let answer = raw.negotiated(&bogus).await.unwrap();
    peer.accept_answer(&answer).await.unwrap();
    let opened = async {
        loop {
            match events.recv().await {
                Some(PeerEvent::DataOpened) => return,
                Some(PeerEvent::Closed(reason)) => panic!("{reason:?}"),
                Some(_) => {}
                None => panic!("no peer"),
            }
        }
    };
    timeout(PATIENCE, opened)
        .await
        .expect("the server learns the address from the client's checks");
}

#[tokio::test]
async fn h3_junk_at_the_media_port_does_not_disturb_the_call() {
    // Ports that were free a moment ago; the call takes one of them.
    let first = loop {
        let probe = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = probe.local_addr().unwrap().port();
        if port < u16::MAX - 8 {
            break port;
        }
    };
    let mut config = Config::default();
    config.media.peer.udp_port_range = Some((first, first + 7));
    let providers = providers(
        ScriptedStt::hearing("Me?"),
        ScriptedLlm::saying("Yes."),
        voice(),
    );
    let site = Site::start(config, Some(providers)).await;
    let mut caller = site.call().await;

    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut noise = tokio::task::JoinSet::new();
    noise.spawn(async move {
        let mut seed = 1u32;
        let mut tick = tokio::time::interval(Duration::from_millis(2));
        loop {
            tick.tick().await;
            for port in first..=first + 7 {
                let mut packet = [0u8; 200];
                for byte in &mut packet {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    *byte = (seed >> 24) as u8;
                }
                // As RTP, RTCP, DTLS, STUN with and without its cookie, and as nothing at all.
                let heads: [&[u8]; 6] = [
                    &[0x80, 111],
                    &[0x80, 200],
                    &[22, 254, 253],
                    &[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42],
                    &[0, 1],
                    &[],
                ];
                let head = heads[seed as usize % heads.len()];
                packet[..head.len()].copy_from_slice(head);
                let length = seed as usize % packet.len();
                let _ = socket.send_to(&packet[..length], ("127.0.0.1", port)).await;
            }
        }
    });
    for _ in 0..2 {
        assert_eq!(caller.turn().await.reply, "Yes.");
    }
}
