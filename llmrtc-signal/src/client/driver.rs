//! Keeps a client's connection.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};
use tokio_tungstenite::tungstenite::{
    Message,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

use super::{
    ClientEvent, Command, LostReason, Socket,
    heartbeat::{Beat, Heartbeat},
};
use crate::protocol::{Channel, ClientMessage, ServerMessage};

/// How long the socket may refuse a message. An utterance of 16 MiB needs 1.1 Mbit/s.
const WRITE_WITHIN: Duration = Duration::from_secs(120);
/// How long the server may take to answer a close.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);

pub(super) async fn run(
    socket: Socket,
    mut commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<ClientEvent>,
    connected: Arc<AtomicBool>,
) {
    let (mut sink, mut stream) = socket.split();
    let mut heartbeat = Heartbeat::new(Instant::now().into_std());
    // Room for one event is held before anything is read, so nothing read is ever lost.
    let mut room = None;
    let reason = loop {
        let reading = room.is_some();
        let mut outgoing = None;
        let mut incoming = None;
        tokio::select! {
            biased;
            permit = events.reserve(), if !reading => match permit {
                Ok(permit) => room = Some(permit),
                // Nobody listens any more.
                Err(_) => return,
            },
            () = sleep_until(heartbeat.deadline().into()) => {
                match heartbeat.advance(Instant::now().into_std()) {
                    Beat::Nothing => {}
                    Beat::Ping => outgoing = Some(ping().to_json()),
                    Beat::Lost => break LostReason::Heartbeat,
                }
            }
            message = stream.next() , if reading => match message {
                Some(Ok(Message::Text(text))) => {
                    incoming = accepted(Channel::WebSocket, text.as_str(), &connected);
                }
                Some(Ok(Message::Close(frame))) => {
                    // Sends the reply that is queued already.
                    let _ = timeout(CLOSE_WITHIN, sink.close()).await;
                    break LostReason::Server(frame.map(|frame| frame.code.into()));
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => break LostReason::Socket,
            },
            command = commands.recv(), if reading => match command {
                Some(Command::Send(text)) => outgoing = Some(text),
                Some(Command::Data(data)) => incoming = data_text(&data)
                    .and_then(|text| accepted(Channel::Data, text, &connected)),
                Some(Command::Close) | None => {
                    let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
                    let goodbye = async {
                        if sink.send(Message::Close(Some(frame))).await.is_ok() {
                            while let Some(Ok(_)) = stream.next().await {}
                        }
                    };
                    let _ = timeout(CLOSE_WITHIN, goodbye).await;
                    break LostReason::Closed;
                }
            },
        }
        match incoming {
            Some(ServerMessage::Pong { .. }) => heartbeat.pong(),
            Some(message) => {
                if let Some(permit) = room.take() {
                    permit.send(ClientEvent::Message(message));
                }
            }
            None => {}
        }
        if let Some(text) = outgoing {
            let written = timeout(WRITE_WITHIN, sink.send(Message::text(text))).await;
            if !matches!(written, Ok(Ok(()))) {
                // The server's last words may explain it: a close frame that came before the reset.
                break last_words(&mut stream).await;
            }
        }
    };
    let event = ClientEvent::Lost(reason);
    match room {
        Some(permit) => permit.send(event),
        None => drop(events.send(event).await),
    }
}

fn ping() -> ClientMessage {
    let since_epoch = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    ClientMessage::Ping {
        timestamp: Some((since_epoch.as_millis() as u64).into()),
    }
}

fn data_text(data: &Bytes) -> Option<&str> {
    std::str::from_utf8(data).ok()
}

/// The stock client's rule: control counts on the WebSocket only; payload counts on the data channel always, and on
/// the WebSocket only while not connected. Unknown and malformed messages are ignored.
fn accepted(channel: Channel, text: &str, connected: &AtomicBool) -> Option<ServerMessage> {
    let message = ServerMessage::parse(text).ok()?;
    let accepted = match (channel, &message) {
        (_, ServerMessage::Unknown) => false,
        (Channel::WebSocket, message) => message.is_control() || !connected.load(Ordering::Relaxed),
        (Channel::Data, message) => !message.is_control(),
    };
    accepted.then_some(message)
}

async fn last_words<S, E>(stream: &mut S) -> LostReason
where
    S: futures_util::Stream<Item = Result<Message, E>> + Unpin,
{
    let words = async {
        while let Some(Ok(message)) = stream.next().await {
            if let Message::Close(frame) = message {
                return LostReason::Server(frame.map(|frame| frame.code.into()));
            }
        }
        LostReason::Socket
    };
    timeout(CLOSE_WITHIN, words)
        .await
        .unwrap_or(LostReason::Socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payload_is_taken_from_one_channel_and_control_from_the_socket() {
        let payload = r#"{"type":"llm","text":"a"}"#;
        let control = r#"{"type":"pong"}"#;
        for (channel, text, connected, taken) in [
            (Channel::WebSocket, payload, false, true),
            (Channel::WebSocket, payload, true, false),
            (Channel::Data, payload, false, true),
            (Channel::Data, payload, true, true),
            (Channel::WebSocket, control, true, true),
            (Channel::Data, control, true, false),
            (Channel::WebSocket, r#"{"type":"new"}"#, false, false),
            (Channel::WebSocket, "nonsense", false, false),
        ] {
            let read = accepted(channel, text, &AtomicBool::new(connected));
            assert_eq!(read.is_some(), taken, "{channel:?} {text} {connected}");
        }
    }
}
