//! The client's end of a connection, for `llmrtc call`, load generators and tests.
//!
//! It follows the stock browser client: waits for `ready`, offers to resume, keeps the heartbeat, and drops payload
//! that arrives on the WebSocket while its peer is connected, because a copy comes over the data channel.

mod driver;
mod error;
mod heartbeat;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use llmrtc_core::{message::Attachment, redact::Secret};
use tokio::{
    net::TcpStream,
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async_with_config,
    tungstenite::{
        Message,
        client::{ClientRequestBuilder, IntoClientRequest},
        protocol::WebSocketConfig,
    },
};
use url::Url;

pub use self::error::{ConnectError, Disconnected, LostReason};
use crate::protocol::{ClientMessage, IceServer, Mode, ServerMessage};

/// TCP connect and upgrade together.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// The stock client's wait for `ready`.
const READY_WITHIN: Duration = Duration::from_secs(10);
/// The stock client's wait for `reconnect-ack`; then it goes on as if refused.
const ACK_WITHIN: Duration = Duration::from_secs(5);
/// How long [`Client::close`] waits for the server's part of the closing handshake.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);
/// Caller → driver. Full: the caller waits.
const COMMANDS: usize = 64;
/// Driver → caller. Full: the driver stops reading, and the server sees a slow client.
const EVENTS: usize = 256;
/// The server's largest message is a spoken answer in one piece.
const MAX_MESSAGE_BYTES: usize = 64 * 1024 * 1024;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Where to connect, and as whom.
#[derive(Clone, Debug)]
pub struct Options {
    /// A `ws:` URL, opened exactly as given. Its query may carry a ticket.
    pub url: Url,
    /// The `Origin` header, for servers that check it.
    pub origin: Option<String>,
    /// Sent as `Authorization: Bearer …`.
    pub bearer: Option<Secret>,
    /// The session to come back to.
    pub resume: Option<Resume>,
}

impl Options {
    /// Without credentials.
    pub fn new(url: Url) -> Self {
        Self {
            url,
            origin: None,
            bearer: None,
            resume: None,
        }
    }
}

/// What an earlier connection was given, see [`Greeting`].
#[derive(Clone, Debug)]
pub struct Resume {
    /// The session's handle.
    pub session_id: Secret,
    /// The last resume token, if any was issued.
    pub resume_token: Option<Secret>,
}

/// What the server said on arrival.
#[derive(Clone, Debug)]
pub struct Greeting {
    /// The handle to resume with: the old session's after a successful resume.
    pub session_id: Secret,
    /// The token to resume with, if tokens are issued.
    pub resume_token: Option<Secret>,
    /// Ways through firewalls.
    pub ice_servers: Vec<IceServer>,
    /// How answers are produced.
    pub mode: Option<Mode>,
    /// The server's protocol version; 0 if it named none.
    pub protocol_version: u32,
    /// Whether the earlier session was recovered; `None` if none was asked for.
    pub resumed: Option<bool>,
}

/// What happens on a connection.
#[derive(Debug)]
#[non_exhaustive]
pub enum ClientEvent {
    /// The server said something; `pong` and what the de-duplication rule drops are left out.
    Message(ServerMessage),
    /// The connection is over. Always the last event.
    Lost(LostReason),
}

/// A connection to a server. Dropping it drops the socket.
#[derive(Debug)]
pub struct Client {
    commands: mpsc::Sender<Command>,
    connected: Arc<AtomicBool>,
    driver: AbortOnDrop,
}

enum Command {
    /// A message for the WebSocket, written out.
    Send(String),
    /// A message from the data channel.
    Data(Bytes),
    Close,
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Send(text) => write!(f, "Send({} bytes)", text.len()),
            Self::Data(data) => write!(f, "Data({} bytes)", data.len()),
            Self::Close => f.write_str("Close"),
        }
    }
}

/// Connects, waits for `ready`, and resumes if asked to.
///
/// A refused resume is no error: see [`Greeting::resumed`]. The connection is kept by a task that lives as long as
/// the [`Client`].
///
/// # Errors
/// If the server cannot be reached, refuses the upgrade, or says no `ready` within 10 s.
///
/// # Cancel safety
/// Dropping the future drops the socket.
pub async fn connect(
    options: Options,
) -> Result<(Client, Greeting, mpsc::Receiver<ClientEvent>), ConnectError> {
    let mut socket = open(&options).await?;
    let (events, receiver) = mpsc::channel(EVENTS);
    let greeting = greet(&mut socket, options.resume, &events).await?;

    let (commands, commands_receiver) = mpsc::channel(COMMANDS);
    let connected = Arc::new(AtomicBool::new(false));
    let driver = driver::run(socket, commands_receiver, events, Arc::clone(&connected));
    #[expect(
        clippy::disallowed_methods,
        reason = "owned by the client and aborted on drop"
    )]
    let driver = AbortOnDrop(tokio::spawn(driver));
    Ok((
        Client {
            commands,
            connected,
            driver,
        },
        greeting,
        receiver,
    ))
}

impl Client {
    /// Sends an offer; the answer arrives as [`ServerMessage::Signal`].
    ///
    /// # Errors
    /// If the connection is over.
    ///
    /// # Cancel safety
    /// This and the methods below either queue the message or do not.
    pub async fn offer(&self, sdp: impl Into<String> + Send) -> Result<(), Disconnected> {
        self.send(&ClientMessage::Offer { sdp: sdp.into() }).await
    }

    /// Sends a complete utterance, in a container such as WAV.
    ///
    /// # Errors
    /// If the connection is over.
    pub async fn audio(
        &self,
        data: Bytes,
        attachments: Vec<Attachment>,
    ) -> Result<(), Disconnected> {
        self.send(&ClientMessage::Audio { data, attachments }).await
    }

    /// Asks in writing.
    ///
    /// # Errors
    /// If the connection is over.
    pub async fn text(&self, text: impl Into<String> + Send) -> Result<(), Disconnected> {
        let text = text.into();
        self.send(&ClientMessage::Text { text }).await
    }

    /// Sends any message on the WebSocket. `attachments` belong on the data channel instead:
    /// [`ClientMessage::to_json`] is what to send there.
    ///
    /// # Errors
    /// If the connection is over.
    pub async fn send(&self, message: &ClientMessage) -> Result<(), Disconnected> {
        self.command(Command::Send(message.to_json())).await
    }

    /// Passes on what arrived on the data channel, as text or as bytes of UTF-8.
    ///
    /// # Errors
    /// If the connection is over.
    pub async fn data_message(&self, message: impl Into<Bytes> + Send) -> Result<(), Disconnected> {
        self.command(Command::Data(message.into())).await
    }

    /// Says whether the peer is connected *and* its data channel open. While it is, payload from the WebSocket is
    /// dropped.
    pub fn set_connected(&self, connected: bool) {
        self.connected.store(connected, Ordering::Relaxed);
    }

    /// Closes with code 1000 and waits up to 1 s for the server.
    pub async fn close(mut self) {
        if self.command(Command::Close).await.is_ok() {
            let _ = timeout(CLOSE_WITHIN, &mut self.driver.0).await;
        }
    }

    async fn command(&self, command: Command) -> Result<(), Disconnected> {
        self.commands.send(command).await.map_err(|_| Disconnected)
    }
}

async fn open(options: &Options) -> Result<Socket, ConnectError> {
    if options.url.scheme() != "ws" {
        return Err(ConnectError::Scheme);
    }
    let uri = options
        .url
        .as_str()
        .parse()
        .map_err(|_| ConnectError::Url)?;
    let mut request = ClientRequestBuilder::new(uri);
    if let Some(origin) = &options.origin {
        request = request.with_header("Origin", origin);
    }
    if let Some(bearer) = &options.bearer {
        request = request.with_header("Authorization", format!("Bearer {}", bearer.expose()));
    }
    let request = request
        .into_client_request()
        .map_err(|_| ConnectError::Header)?;
    let config = WebSocketConfig::default()
        .read_buffer_size(16 * 1024)
        .max_message_size(Some(MAX_MESSAGE_BYTES))
        .max_frame_size(Some(MAX_MESSAGE_BYTES));
    // Offers are small and urgent: no Nagle delay.
    let connecting = connect_async_with_config(request, Some(config), true);
    let (socket, _) = timeout(CONNECT_WITHIN, connecting)
        .await
        .map_err(|_| ConnectError::Timeout)??;
    Ok(socket)
}

/// Everything up to the point where the caller takes over. Messages of other kinds go to the caller.
async fn greet(
    socket: &mut Socket,
    resume: Option<Resume>,
    events: &mpsc::Sender<ClientEvent>,
) -> Result<Greeting, ConnectError> {
    let ready = async {
        loop {
            if let ServerMessage::Ready {
                id,
                protocol_version,
                ice_servers,
                mode,
                resume_token,
            } = next(socket).await?
            {
                return Ok(Greeting {
                    session_id: id,
                    resume_token,
                    ice_servers,
                    mode,
                    protocol_version,
                    resumed: None,
                });
            }
        }
    };
    let mut greeting = timeout(READY_WITHIN, ready)
        .await
        .unwrap_or(Err(ConnectError::NoReady))?;

    if let Some(Resume {
        session_id,
        resume_token,
    }) = resume
    {
        let reconnect = ClientMessage::Reconnect {
            session_id: Some(session_id),
            resume_token,
        };
        socket.send(Message::text(reconnect.to_json())).await?;
        greeting.resumed = Some(false);
        let deadline = Instant::now() + ACK_WITHIN;
        while let Ok(message) = timeout_at(deadline, next(socket)).await {
            match message? {
                ServerMessage::ReconnectAck {
                    success,
                    session_id,
                    history_recovered,
                    resume_token,
                } => {
                    greeting.resumed = Some(success && history_recovered);
                    greeting.session_id = session_id;
                    greeting.resume_token = resume_token.or(greeting.resume_token);
                    break;
                }
                // The channel is empty; a server that fills it before its ack has gone mad.
                other => drop(events.try_send(ClientEvent::Message(other))),
            }
        }
    }
    Ok(greeting)
}

/// The next text message.
async fn next(socket: &mut Socket) -> Result<ServerMessage, ConnectError> {
    loop {
        match socket.next().await {
            Some(Ok(Message::Text(text))) => return Ok(ServerMessage::parse(&text)?),
            Some(Ok(Message::Close(frame))) => {
                return Err(ConnectError::Closed {
                    code: frame.map(|frame| frame.code.into()),
                });
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(error.into()),
            None => return Err(ConnectError::Closed { code: None }),
        }
    }
}

#[derive(Debug)]
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
