//! The driver over channels in place of a socket, on paused time.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use llmrtc_core::{clock::SystemClock, redact::Secret};
use tokio_util::sync::PollSender;

use super::*;

type BoxError = Box<dyn Error + Send + Sync>;

/// A socket whose other end is in the test's hands.
struct TestSocket {
    incoming: mpsc::Receiver<Result<Message, BoxError>>,
    outgoing: PollSender<Message>,
}

impl Stream for TestSocket {
    type Item = Result<Message, BoxError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.incoming.poll_recv(cx)
    }
}

impl Sink<Message> for TestSocket {
    type Error = BoxError;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.outgoing.poll_ready_unpin(cx).map_err(Into::into)
    }

    fn start_send(mut self: Pin<&mut Self>, message: Message) -> Result<(), BoxError> {
        self.outgoing.start_send_unpin(message).map_err(Into::into)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.outgoing.poll_flush_unpin(cx).map_err(Into::into)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.outgoing.poll_close_unpin(cx).map_err(Into::into)
    }
}

struct Bench {
    connection: Connection,
    events: mpsc::Receiver<ConnectionEvent>,
    to_server: mpsc::Sender<Result<Message, BoxError>>,
    from_server: mpsc::Receiver<Message>,
    driver: JoinHandle<CloseReason>,
}

impl Bench {
    fn with(config: ConnectionConfig, outgoing: usize) -> Self {
        let (to_server, incoming) = mpsc::channel(1024);
        let (outgoing, from_server) = mpsc::channel(outgoing);
        let socket = TestSocket {
            incoming,
            outgoing: PollSender::new(outgoing),
        };
        let ready = Ready::new(Secret::new("own"));
        let (connection, events, driver) = accept(socket, config, ready, Arc::new(SystemClock));
        #[expect(clippy::disallowed_methods, reason = "the test is the parent")]
        let driver = tokio::spawn(driver);
        Self {
            connection,
            events,
            to_server,
            from_server,
            driver,
        }
    }

    async fn open() -> Self {
        let mut bench = Self::with(ConnectionConfig::default(), 64);
        assert_eq!(bench.heard().await, "ready");
        bench
    }

    /// With an open data channel.
    async fn connected() -> Self {
        let mut bench = Self::open().await;
        bench.say(r#"{"type":"offer","signal":{"type":"offer","sdp":"v=0\r\nm=application 9 x y\r\n"}}"#).await;
        assert!(matches!(bench.event().await, ConnectionEvent::Offer { .. }));
        bench.connection.answer(Ok("answer".into()));
        bench.connection.data_opened();
        assert_eq!(bench.heard().await, "signal");
        bench
    }

    async fn say(&self, text: &str) {
        self.to_server.send(Ok(Message::text(text))).await.unwrap();
    }

    /// What the client sees next: a type, or `close <code>`.
    async fn heard(&mut self) -> String {
        match self.from_server.recv().await {
            Some(Message::Text(text)) => ServerMessage::parse(&text).unwrap().kind().to_owned(),
            Some(Message::Close(frame)) => format!("close {}", frame.unwrap().code),
            Some(other) => format!("{other:?}"),
            None => "gone".to_owned(),
        }
    }

    async fn event(&mut self) -> ConnectionEvent {
        timeout(Duration::from_secs(60), self.events.recv())
            .await
            .unwrap()
            .unwrap()
    }

    /// The session learns the reason last, and so does whoever awaits the driver.
    async fn closed(mut self) -> CloseReason {
        let told = loop {
            if let ConnectionEvent::Closed { reason } = self.event().await {
                break reason;
            }
        };
        assert!(self.events.recv().await.is_none());
        drop((self.to_server, self.from_server));
        assert_eq!(self.driver.await.unwrap(), told);
        told
    }
}

#[tokio::test(start_paused = true)]
async fn the_greeting_comes_first_and_pings_are_answered() {
    let mut bench = Bench::open().await;
    bench.say(r#"{"type":"ping","timestamp":1}"#).await;
    bench
        .to_server
        .send(Ok(Message::binary(&br#"{"type":"ping"}"#[..])))
        .await
        .unwrap();
    assert_eq!(bench.heard().await, "pong");
    assert_eq!(
        bench.heard().await,
        "pong",
        "binary frames are read as text"
    );
}

#[tokio::test(start_paused = true)]
async fn payload_is_handed_to_the_session_for_the_data_channel() {
    let mut bench = Bench::connected().await;
    bench.connection.send(ServerMessage::SpeechStart);
    let ConnectionEvent::SendData(text) = bench.event().await else {
        panic!()
    };
    assert_eq!(text, r#"{"type":"speech-start"}"#);
    assert_eq!(bench.heard().await, "speech-start", "mirrored");

    bench
        .connection
        .data_message(r#"{"type":"attachments","attachments":[]}"#);
    assert!(matches!(
        bench.event().await,
        ConnectionEvent::Attachments(_)
    ));
    bench.connection.data_message(vec![0xFF]);
    assert_eq!(bench.heard().await, "error");
}

#[tokio::test(start_paused = true)]
async fn a_large_message_is_parsed_elsewhere_and_keeps_its_place() {
    let mut bench = Bench::open().await;
    let audio = format!(
        r#"{{"type":"audio","data":"{}"}}"#,
        "A".repeat(8 * 1024 * 1024)
    );
    bench.say(&audio).await;
    bench.say(r#"{"type":"audio","data":"AAAA"}"#).await;
    bench.say(r#"{"type":"ping"}"#).await;
    for bytes in [6 * 1024 * 1024, 3] {
        let ConnectionEvent::Audio { data, .. } = bench.event().await else {
            panic!()
        };
        assert_eq!(data.len(), bytes);
    }
    assert_eq!(bench.heard().await, "pong");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_ends_the_conversation_is_understood() {
    use tungstenite::error::{CapacityError, Error::*, ProtocolError};

    let frame = CloseFrame {
        code: 1000,
        reason: "".into(),
    };
    let failed = |error: tungstenite::Error| Err(axum::Error::new(error).into());
    for (message, reason, heard) in [
        (
            Ok(Message::Close(Some(frame))),
            CloseReason::Client(Some(1000)),
            "gone",
        ),
        (Ok(Message::Close(None)), CloseReason::Client(None), "gone"),
        (
            Ok(Message::binary(vec![0xFF, 0])),
            CloseReason::NotText,
            "close 1003",
        ),
        (
            failed(Capacity(CapacityError::MessageTooLong {
                size: 2,
                max_size: 1,
            })),
            CloseReason::TooLarge,
            "close 1009",
        ),
        (
            failed(Protocol(ProtocolError::NonZeroReservedBits)),
            CloseReason::Protocol,
            "close 1002",
        ),
        (failed(Utf8("x".into())), CloseReason::NotText, "close 1003"),
        (
            failed(Protocol(ProtocolError::ResetWithoutClosingHandshake)),
            CloseReason::SocketLost,
            "gone",
        ),
        (Err("network".into()), CloseReason::SocketLost, "gone"),
    ] {
        let mut bench = Bench::open().await;
        bench.to_server.send(message).await.unwrap();
        assert_eq!(bench.heard().await, heard, "{reason:?}");
        assert_eq!(bench.closed().await, reason);
    }
    let mut bench = Bench::open().await;
    bench.to_server = mpsc::channel(1).0;
    assert_eq!(bench.closed().await, CloseReason::SocketLost);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_waits_for_the_data_channel() {
    let mut bench = Bench::connected().await;
    bench.connection.send(ServerMessage::TtsComplete);
    bench.connection.close(CloseReason::Shutdown);
    assert!(matches!(bench.event().await, ConnectionEvent::SendData(_)));
    assert!(matches!(bench.event().await, ConnectionEvent::FlushData));
    assert_eq!(bench.heard().await, "tts-complete");
    bench.connection.data_flushed();
    assert_eq!(bench.heard().await, "close 1001");
    assert_eq!(bench.closed().await, CloseReason::Shutdown);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_nothing_is_dropped_after_its_grace() {
    let bench = Bench::with(ConnectionConfig::default(), 1);
    let start = tokio::time::Instant::now();
    for _ in 0..5 {
        bench.connection.send(ServerMessage::Llm {
            text: "x".repeat(1024 * 1024),
        });
    }
    assert_eq!(bench.closed().await, CloseReason::SlowClient);
    assert_eq!(start.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_late_but_in_time_is_kept() {
    let mut bench = Bench::with(ConnectionConfig::default(), 1);
    for _ in 0..5 {
        bench.connection.send(ServerMessage::Llm {
            text: "x".repeat(1024 * 1024),
        });
    }
    sleep(Duration::from_secs(9)).await;
    let mut heard = Vec::new();
    for _ in 0..6 {
        heard.push(bench.heard().await);
    }
    assert_eq!(heard, ["ready", "llm", "llm", "llm", "llm", "llm"]);
    sleep(Duration::from_secs(5)).await;
    bench.say(r#"{"type":"ping"}"#).await;
    assert_eq!(bench.heard().await, "pong");
}

#[tokio::test(start_paused = true)]
async fn an_enormous_backlog_needs_no_grace() {
    let bench = Bench::with(ConnectionConfig::default(), 1);
    let start = tokio::time::Instant::now();
    for _ in 0..9 {
        bench.connection.send(ServerMessage::Llm {
            text: "x".repeat(1024 * 1024),
        });
    }
    assert_eq!(bench.closed().await, CloseReason::SlowClient);
    assert_eq!(start.elapsed().as_secs(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_vanishes_takes_its_connection_along() {
    let mut bench = Bench::open().await;
    bench.events = mpsc::channel(1).1;
    assert_eq!(bench.heard().await, "close 1011");

    let mut bench = Bench::open().await;
    let (commands, data) = (mpsc::channel(1).0, mpsc::channel(1).0);
    bench.connection = Connection {
        commands,
        data,
        overloaded: CancellationToken::new(),
    };
    assert_eq!(bench.heard().await, "close 1011");
    assert_eq!(bench.closed().await, CloseReason::Internal);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_floods_its_own_driver_loses_the_connection() {
    let bench = Bench::open().await;
    for _ in 0..COMMANDS + 1 {
        bench.connection.send(ServerMessage::SpeechStart);
    }
    assert_eq!(bench.closed().await, CloseReason::Overload);
}

#[tokio::test(start_paused = true)]
async fn a_busy_session_makes_the_client_wait_and_loses_nothing() {
    let config = ConnectionConfig {
        messages_per_second: 10_000,
        audio_per_second: 1000,
        audio_per_minute: 60_000,
        ..ConnectionConfig::default()
    };
    let mut bench = Bench::with(config, 64);
    for n in 0..200 {
        let data = format!("{n:04}");
        bench
            .say(&format!(r#"{{"type":"audio","data":"{data}"}}"#))
            .await;
    }
    sleep(Duration::from_secs(1)).await;
    let unread = bench.to_server.max_capacity() - bench.to_server.capacity();
    assert!(
        unread >= 200 - EVENTS - 1,
        "{unread} of 200 are still the client's"
    );
    for _ in 0..200 {
        assert!(matches!(bench.event().await, ConnectionEvent::Audio { .. }));
    }
}
