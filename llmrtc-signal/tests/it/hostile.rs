use futures_util::{SinkExt, StreamExt};
use llmrtc_signal::connection::{CloseReason, ConnectionEvent};
use tokio_tungstenite::tungstenite::{Message, protocol::CloseFrame};

use crate::harness::{Server, Session};

async fn closed(mut session: Session) -> CloseReason {
    loop {
        if let ConnectionEvent::Closed { reason } = session.event().await {
            return reason;
        }
    }
}

/// The next text or close code, pings aside.
async fn heard<S>(socket: &mut S) -> String
where
    S: StreamExt<Item = Result<Message, tokio_tungstenite::tungstenite::Error>> + Unpin,
{
    loop {
        match socket.next().await {
            Some(Ok(Message::Text(text))) => return text.to_string(),
            Some(Ok(Message::Close(Some(CloseFrame { code, .. })))) => return code.to_string(),
            Some(Ok(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn pings_are_answered_binary_is_read_and_unknown_types_are_not_mentioned() {
    let mut server = Server::start().await;
    let (mut socket, _session) = server.raw().await;
    assert!(
        heard(&mut socket)
            .await
            .starts_with(r#"{"type":"ready","id":"own""#)
    );
    for message in [
        Message::text(r#"{"type":"candidate","candidate":{}}"#),
        Message::text(r#"{"type":"ping","timestamp":"a"}"#),
        Message::binary(&br#"{"type":"ping","timestamp":[1]}"#[..]),
        Message::text("{"),
    ] {
        socket.send(message).await.unwrap();
    }
    assert_eq!(
        heard(&mut socket).await,
        r#"{"type":"pong","timestamp":"a"}"#
    );
    assert_eq!(
        heard(&mut socket).await,
        r#"{"type":"pong","timestamp":[1]}"#
    );
    assert!(heard(&mut socket).await.contains("INVALID_MESSAGE"));
    socket
        .send(Message::binary(vec![0xC3, 0x28]))
        .await
        .unwrap();
    assert_eq!(heard(&mut socket).await, "1003");
}

#[tokio::test]
async fn an_oversize_frame_closes_with_1009() {
    let mut server = Server::start().await;
    let (socket, session) = server.raw().await;
    let (mut sink, mut stream) = socket.split();
    // The server stops reading at the frame's header, so writing may fail before the close frame is read.
    let flood = sink.send(Message::text(" ".repeat(20 * 1024 * 1024)));
    let listen = async {
        assert!(heard(&mut stream).await.contains("ready"));
        heard(&mut stream).await
    };
    let (_, code) = tokio::join!(flood, listen);
    assert_eq!(code, "1009");
    assert_eq!(closed(session).await, CloseReason::TooLarge);
}

#[tokio::test]
async fn garbage_ends_in_1008() {
    let mut server = Server::start().await;
    let (mut socket, session) = server.raw().await;
    for _ in 0..30 {
        socket.feed(Message::text("[".repeat(1000))).await.unwrap();
    }
    socket.flush().await.unwrap();
    let mut errors = 0;
    let code = loop {
        let text = heard(&mut socket).await;
        match text.contains("INVALID_MESSAGE") {
            true => errors += 1,
            false if text.contains("ready") => {}
            false => break text,
        }
    };
    assert_eq!((code.as_str(), errors), ("1008", 21));
    assert_eq!(closed(session).await, CloseReason::Abuse);
}
