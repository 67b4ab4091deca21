//! Runs a [`Machine`] over a WebSocket.

mod outbox;

use std::{collections::VecDeque, error::Error, sync::Arc, time::Duration};

use axum::extract::ws::{CloseFrame, Message, WebSocketUpgrade};
use bytes::Bytes;
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use llmrtc_core::clock::Clock;
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_tungstenite::tungstenite;
use tokio_util::sync::CancellationToken;

use self::outbox::Outbox;
use super::{
    Action, CloseReason, ConnectionConfig, ConnectionEvent, Input, Machine, NegotiateError, Ready,
    ResumeReply,
};
use crate::protocol::{
    AttachmentPolicy, Channel, ClientMessage, MAX_WEBSOCKET_MESSAGE_BYTES, ParseError, Presented,
    ServerMessage,
};

/// Session → driver. Full: the driver has not run for hundreds of messages, so the connection is closed with
/// [`CloseReason::Overload`]; losing one message in silence would be worse.
const COMMANDS: usize = 512;
/// Data channel → driver, 4 MiB each at most. Full: the newest message is dropped, since only a flood gets here.
const DATA_MESSAGES: usize = 8;
/// Driver → session. Full: the driver stops reading from the client until there is room. Few, because each may be an
/// utterance of 12 MiB.
const EVENTS: usize = 8;
/// Messages above this are parsed on a blocking thread, so that a large utterance stalls no other call.
const PARSE_INLINE_BYTES: usize = 64 * 1024;
/// Unread bytes, in multiples of [`ConnectionConfig::slow_client_bytes`], that end a connection without grace.
const SLOW_CLIENT_HARD_FACTOR: usize = 2;
/// How long a closing handshake may take.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);
/// How long a socket stays open after a close that leaves input unread. Closing at once would make the kernel send a
/// reset, which may overtake the close frame.
const LINGER: Duration = Duration::from_millis(250);

/// Applies the protocol's limits to an upgrade, in place of the library's 64 MiB and its unlimited write buffer.
pub fn configure<F>(upgrade: WebSocketUpgrade<F>) -> WebSocketUpgrade<F> {
    upgrade
        .max_message_size(MAX_WEBSOCKET_MESSAGE_BYTES)
        .max_frame_size(MAX_WEBSOCKET_MESSAGE_BYTES)
        // Allocated for every connection at once, 128 KiB by default. Once a call stands, its messages are short.
        .read_buffer_size(4 * 1024)
        .write_buffer_size(16 * 1024)
        // The driver hands over one message at a time, and its own limit bounds what waits.
        .max_write_buffer_size(2 * MAX_WEBSOCKET_MESSAGE_BYTES)
}

/// Makes an upgrade small, for a client that has yet to show who it is: [`first_message`] reads what it has to say.
pub fn configure_waiting<F>(upgrade: WebSocketUpgrade<F>) -> WebSocketUpgrade<F> {
    configure(upgrade)
        .read_buffer_size(2 * 1024)
        .write_buffer_size(0)
}

/// Reads the credential that must be the first message of a client that presented none.
///
/// # Errors
/// What to [`refuse`] it with: another message, none in time, or nobody there any more.
///
/// # Cancel safety
/// Dropping the future may lose a message.
pub async fn first_message<S, E>(socket: &mut S, within: Duration) -> Result<Presented, CloseReason>
where
    S: Stream<Item = Result<Message, E>> + Unpin,
{
    let message = async {
        loop {
            match socket.next().await {
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Text(text))) => break Ok(text),
                Some(Ok(Message::Close(frame))) => {
                    break Err(CloseReason::Client(frame.map(|frame| frame.code)));
                }
                Some(Ok(Message::Binary(_))) => break Err(CloseReason::Unauthorised),
                Some(Err(_)) | None => break Err(CloseReason::SocketLost),
            }
        }
    };
    let text = timeout(within, message)
        .await
        .map_err(|_| CloseReason::AuthTimeout)??;
    match ClientMessage::parse(&text, Channel::WebSocket, AttachmentPolicy::default()) {
        Ok(Some(ClientMessage::Auth(presented))) => Ok(presented),
        _ => Err(CloseReason::Unauthorised),
    }
}

/// Closes a socket for which there is no connection.
///
/// # Cancel safety
/// Dropping the future drops the socket without a close frame.
pub async fn refuse<S, E>(mut socket: S, reason: CloseReason)
where
    S: Stream<Item = Result<Message, E>> + Sink<Message, Error = E> + Unpin,
{
    let Some(code) = reason.code() else { return };
    let goodbye = async {
        let frame = CloseFrame {
            code,
            reason: reason.label().into(),
        };
        if socket.send(Message::Close(Some(frame))).await.is_ok() {
            while let Some(Ok(_)) = socket.next().await {}
        }
    };
    let _ = timeout(CLOSE_WITHIN, goodbye).await;
}

/// Speaks to one client. Cheap to clone; when the last clone is dropped the connection closes with
/// [`CloseReason::Internal`], so a session that fails takes its connection with it.
///
/// No method blocks. After the connection has closed they do nothing.
#[derive(Clone, Debug)]
pub struct Connection {
    commands: mpsc::Sender<Input>,
    data: mpsc::Sender<Bytes>,
    overloaded: CancellationToken,
}

impl Connection {
    /// Says something. The channel is chosen by the protocol's routing rules.
    pub fn send(&self, message: ServerMessage) {
        self.command(Input::Send(message));
    }

    /// The outcome of the last [`ConnectionEvent::Offer`]: the answer's SDP, or why there is none.
    pub fn answer(&self, outcome: Result<String, NegotiateError>) {
        self.command(Input::Answer(outcome));
    }

    /// The outcome of the last [`ConnectionEvent::Resume`].
    pub fn resumed(&self, reply: ResumeReply) {
        self.command(Input::Resumed(reply));
    }

    /// The data channel opened on our side.
    pub fn data_opened(&self) {
        self.command(Input::DataOpened);
    }

    /// A message arrived on the data channel, as text or as bytes of UTF-8.
    pub fn data_message(&self, message: impl Into<Bytes>) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.data.try_send(message.into()) {
            tracing::debug!("dropped a data channel message of a client that sends too many");
        }
    }

    /// The data channel closed, or the peer failed.
    pub fn data_closed(&self) {
        self.command(Input::DataClosed);
    }

    /// The data channel has nothing left to send, as asked by [`ConnectionEvent::FlushData`].
    pub fn data_flushed(&self) {
        self.command(Input::DataFlushed);
    }

    /// Ends the connection, after at most 250 ms for the data channel to drain.
    pub fn close(&self, reason: CloseReason) {
        self.command(Input::Close(reason));
    }

    fn command(&self, input: Input) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.commands.try_send(input) {
            self.overloaded.cancel();
        }
    }
}

/// Opens a connection over an upgraded socket.
///
/// Returns the session's end, its events, and the driver: a future that the caller must run as a task of its own and
/// that ends with the connection. Nothing is spawned here. [`ConnectionEvent::Closed`] is always the last event;
/// the driver finishes once it has been taken or the receiver dropped.
///
/// # Cancel safety
/// Dropping the driver drops the socket without a close frame and ends the events.
pub fn accept<S, E>(
    socket: S,
    config: ConnectionConfig,
    ready: Ready,
    clock: Arc<dyn Clock>,
) -> (
    Connection,
    mpsc::Receiver<ConnectionEvent>,
    impl Future<Output = CloseReason> + Send + 'static,
)
where
    S: Stream<Item = Result<Message, E>> + Sink<Message, Error = E> + Send + 'static,
    E: Into<Box<dyn Error + Send + Sync>> + Send + 'static,
{
    let (commands_sender, commands) = mpsc::channel(COMMANDS);
    let (data_sender, data) = mpsc::channel(DATA_MESSAGES);
    let (events, events_receiver) = mpsc::channel(EVENTS);
    let overloaded = CancellationToken::new();

    let mut actions = Vec::new();
    let machine = Machine::new(&config, ready, clock.now(), &mut actions);
    let (sink, stream) = socket.split();
    let driver = Driver {
        machine,
        actions,
        policy: config.attachment_policy(),
        slow: SlowClient {
            limit_bytes: config.slow_client_bytes,
            grace: config.slow_client_grace,
            since: None,
        },
        outbox: Outbox::new(sink),
        stream,
        commands,
        data,
        overloaded: overloaded.clone(),
        events,
        pending: VecDeque::new(),
        pending_bytes: 0,
        parsing: None,
        unread_input: false,
        clock,
    };
    let connection = Connection {
        commands: commands_sender,
        data: data_sender,
        overloaded,
    };
    (connection, events_receiver, driver.run())
}

struct Driver<K, T> {
    machine: Machine,
    /// What the machine wants done next.
    actions: Vec<Action>,
    policy: AttachmentPolicy,
    slow: SlowClient,
    outbox: Outbox<K>,
    stream: T,
    commands: mpsc::Receiver<Input>,
    data: mpsc::Receiver<Bytes>,
    overloaded: CancellationToken,
    events: mpsc::Sender<ConnectionEvent>,
    /// Events for which the session has no room. Nothing is read meanwhile, so this holds what one input caused and
    /// what the session itself sends through the data channel, which counts as unread bytes.
    pending: VecDeque<ConnectionEvent>,
    pending_bytes: usize,
    /// A large message in the hands of a blocking thread. Nothing else is read meanwhile, so order is kept.
    parsing: Option<JoinHandle<Parsed>>,
    /// The client was in the middle of something that will never be read.
    unread_input: bool,
    clock: Arc<dyn Clock>,
}

/// A message after parsing; `None` if it was not even text.
type Parsed = Option<Result<Option<ClientMessage>, ParseError>>;

impl<K, T, E> Driver<K, T>
where
    K: Sink<Message, Error = E> + Send + Unpin,
    T: Stream<Item = Result<Message, E>> + Send + Unpin,
    E: Into<Box<dyn Error + Send + Sync>> + Send,
{
    async fn run(mut self) -> CloseReason {
        let reason = loop {
            if let Some(reason) = self.perform() {
                break reason;
            }
            let now = self.clock.now();
            let unread_bytes = self.outbox.unsent_bytes() + self.pending_bytes;
            if self.slow.is_over(unread_bytes, now) {
                break CloseReason::SlowClient;
            }
            let deadline = [self.machine.deadline(), self.slow.deadline()]
                .into_iter()
                .flatten()
                .min();
            let wait = deadline.map_or(CLOSE_WITHIN, |at| at.saturating_duration_since(now));
            let reading = self.parsing.is_none() && self.pending.is_empty();

            tokio::select! {
                biased;
                () = self.overloaded.cancelled() => break CloseReason::Overload,
                // Without a session at either end nobody owns this connection any more.
                () = self.events.closed() => break CloseReason::Internal,
                input = self.commands.recv() => match input {
                    Some(input) => self.input(input),
                    None => break CloseReason::Internal,
                },
                () = room(&self.events), if !self.pending.is_empty() => self.tell_session(),
                flushed = self.outbox.flush(), if !self.outbox.is_empty() => {
                    if flushed.is_err() {
                        break CloseReason::SocketLost;
                    }
                }
                parsed = join(&mut self.parsing), if self.parsing.is_some() => {
                    self.parsing = None;
                    match parsed {
                        Ok(parsed) => self.parsed(parsed),
                        Err(_) => self.input(Input::Close(CloseReason::Internal)),
                    }
                }
                message = self.stream.next(), if reading => self.received(message),
                Some(message) = self.data.recv(), if reading => {
                    self.text(Channel::Data, message);
                }
                () = sleep(wait) => self.input(Input::Tick),
            }
        };
        tracing::debug!(reason = reason.label(), "connection closed");
        self.close(reason).await;
        reason
    }

    fn input(&mut self, input: Input) {
        self.machine
            .handle(input, self.clock.now(), &mut self.actions);
    }

    /// Does what the machine asked for, as far as that goes without waiting.
    fn perform(&mut self) -> Option<CloseReason> {
        for action in self.actions.drain(..) {
            match action {
                Action::Send(text) => self.outbox.push(Message::Text(text.into())),
                Action::Ping => self.outbox.push(Message::Ping(Bytes::new())),
                Action::Event(event) => {
                    self.pending_bytes += data_bytes(&event);
                    self.pending.push_back(event);
                }
                Action::Close(reason) => return Some(reason),
            }
        }
        None
    }

    /// Hands over one event, for which there is room.
    fn tell_session(&mut self) {
        if let Some(event) = self.pending.pop_front() {
            self.pending_bytes -= data_bytes(&event);
            if let Err(mpsc::error::TrySendError::Full(event)) = self.events.try_send(event) {
                self.pending_bytes += data_bytes(&event);
                self.pending.push_front(event);
            }
        }
    }

    fn received(&mut self, message: Option<Result<Message, E>>) {
        match message {
            Some(Ok(Message::Text(text))) => self.text(Channel::WebSocket, text.into()),
            Some(Ok(Message::Binary(data))) => self.text(Channel::WebSocket, data),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => self.input(Input::Control),
            Some(Ok(Message::Close(frame))) => {
                let code = frame.map(|frame| frame.code);
                self.input(Input::Close(CloseReason::Client(code)));
            }
            Some(Err(error)) => {
                self.unread_input = true;
                self.input(Input::Close(classify(error.into().as_ref())));
            }
            None => self.input(Input::Close(CloseReason::SocketLost)),
        }
    }

    fn text(&mut self, channel: Channel, bytes: Bytes) {
        let now = self.clock.now();
        if !self.machine.admit(channel, now, &mut self.actions) {
            return;
        }
        let policy = self.policy;
        if bytes.len() > PARSE_INLINE_BYTES {
            let parse = move || parse(&bytes, channel, policy);
            self.parsing = Some(tokio::task::spawn_blocking(parse));
        } else {
            self.parsed(parse(&bytes, channel, policy));
        }
    }

    fn parsed(&mut self, parsed: Parsed) {
        self.input(match parsed {
            Some(message) => Input::Message(message),
            None => Input::Close(CloseReason::NotText),
        });
    }

    /// Says goodbye on the socket and to the session, each at its own pace.
    async fn close(mut self, reason: CloseReason) {
        self.pending.push_back(ConnectionEvent::Closed { reason });
        let (events, pending) = (self.events, self.pending);
        let tell_session = async move {
            for event in pending {
                if events.send(event).await.is_err() {
                    break;
                }
            }
        };

        let (mut outbox, mut stream) = (self.outbox, self.stream);
        let tell_client = async move {
            if let Some(code) = reason.code() {
                outbox.push(Message::Close(Some(CloseFrame {
                    code,
                    reason: reason.label().into(),
                })));
            }
            let handshake = async {
                if outbox.flush().await.is_err() || outbox.sink().close().await.is_err() {
                    return;
                }
                if self.unread_input {
                    sleep(LINGER).await;
                }
                while let Some(Ok(_)) = stream.next().await {}
            };
            // A client that does not take part is dropped.
            let _ = timeout(CLOSE_WITHIN, handshake).await;
        };
        // Neither is there anybody to hear it nor room to say it.
        let hopeless = matches!(
            reason,
            CloseReason::SocketLost | CloseReason::SlowClient | CloseReason::Unresponsive
        );
        if hopeless {
            drop(tell_client);
            tell_session.await;
        } else {
            tokio::join!(tell_session, tell_client);
        }
    }
}

/// Watches for a client that does not read.
struct SlowClient {
    limit_bytes: usize,
    grace: Duration,
    /// Since when the limit has been exceeded.
    since: Option<std::time::Instant>,
}

impl SlowClient {
    fn is_over(&mut self, unread_bytes: usize, now: std::time::Instant) -> bool {
        if unread_bytes <= self.limit_bytes {
            self.since = None;
            return false;
        }
        let since = *self.since.get_or_insert(now);
        now >= since + self.grace
            || unread_bytes > self.limit_bytes.saturating_mul(SLOW_CLIENT_HARD_FACTOR)
    }

    fn deadline(&self) -> Option<std::time::Instant> {
        self.since.map(|since| since + self.grace)
    }
}

/// Bytes that wait for the data channel in this event.
fn data_bytes(event: &ConnectionEvent) -> usize {
    match event {
        ConnectionEvent::SendData(text) => text.len(),
        _ => 0,
    }
}

/// Binary frames are read as text if that is what they are.
fn parse(bytes: &[u8], channel: Channel, policy: AttachmentPolicy) -> Parsed {
    match std::str::from_utf8(bytes) {
        Ok(text) => Some(ClientMessage::parse(text, channel, policy)),
        Err(_) if channel == Channel::Data => Some(Err(ParseError::Malformed)),
        Err(_) => None,
    }
}

/// Waits until an event can be sent, or never will be.
async fn room(events: &mpsc::Sender<ConnectionEvent>) {
    let _ = events.reserve().await;
}

async fn join(parsing: &mut Option<JoinHandle<Parsed>>) -> Result<Parsed, tokio::task::JoinError> {
    match parsing {
        Some(handle) => handle.await,
        None => std::future::pending().await,
    }
}

/// Whose fault a failed read was.
fn classify(error: &(dyn Error + 'static)) -> CloseReason {
    let mut cause = Some(error);
    while let Some(error) = cause {
        match error.downcast_ref::<tungstenite::Error>() {
            Some(tungstenite::Error::Capacity(_)) => return CloseReason::TooLarge,
            Some(tungstenite::Error::Utf8(_)) => return CloseReason::NotText,
            Some(tungstenite::Error::Protocol(
                tungstenite::error::ProtocolError::ResetWithoutClosingHandshake,
            )) => return CloseReason::SocketLost,
            Some(tungstenite::Error::Protocol(_)) => return CloseReason::Protocol,
            _ => cause = error.source(),
        }
    }
    CloseReason::SocketLost
}

#[cfg(test)]
mod tests;
