//! The caller's end of a call, composed from the same crates as the server's.
//!
//! Used by `llmrtc call`, by the load generator and by the tests.

pub mod call;
mod heard;
pub mod meter;
mod mouth;
mod recording;
mod report;
pub(crate) mod script;
mod verdict;
pub mod voice;

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use llmrtc_core::{message::Attachment, playout::AudioSink};
use llmrtc_media::{
    config::MediaConfig,
    error::PeerError,
    peer::{CallerPeer, DataMessage, PeerEvent, PeerEvents, PeerFactory},
    pipeline::{MediaThreads, ReceivedFrame},
};
use llmrtc_signal::{
    client::{
        self, Client, ClientEvent, ConnectError, Disconnected, Greeting, LostReason, Options,
    },
    protocol::{ClientMessage, ErrorCode, ServerMessage},
};
use tokio::{sync::mpsc, time::timeout};

/// How long a negotiation may take; the stock client's time for a peer.
const NEGOTIATE_WITHIN: Duration = Duration::from_secs(30);

/// Places calls. One is enough for any number of them: they share its media threads.
#[derive(Clone, Debug)]
pub struct Phone {
    peers: PeerFactory,
}

/// A call that did not come about, or broke.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The server was not reached or did not let us in.
    #[error("cannot connect to the server")]
    Connect(#[from] ConnectError),
    /// The media part failed at our end.
    #[error("the voice connection failed")]
    Peer(#[from] PeerError),
    /// The server could not take the offer.
    #[error("the server refused the voice connection: {0}")]
    Refused(ErrorCode),
    /// Nothing happened for 30 s.
    #[error("the voice connection was not established in time")]
    Timeout,
    /// The server went away.
    #[error("the connection was lost ({0:?})")]
    Lost(LostReason),
    /// The media threads could not be started.
    #[error("cannot start the media threads")]
    Threads(#[source] std::io::Error),
}

impl From<Disconnected> for CallError {
    fn from(_: Disconnected) -> Self {
        Self::Lost(LostReason::Socket)
    }
}

impl Phone {
    /// Starts the media threads.
    ///
    /// # Errors
    /// [`CallError::Threads`].
    pub fn new() -> Result<Self, CallError> {
        let config = MediaConfig::default();
        let media = MediaThreads::start(&config).map_err(CallError::Threads)?;
        // Servers under test listen on loopback, others do not mind one more candidate.
        let listen = IpAddr::V4(Ipv4Addr::LOCALHOST);
        Ok(Self {
            peers: PeerFactory::new(config.peer, listen, media),
        })
    }

    /// Connects up to the open data channel.
    ///
    /// # Errors
    /// See [`CallError`].
    ///
    /// # Cancel safety
    /// Dropping the future gives the call up.
    pub async fn call(&self, options: Options) -> Result<Call, CallError> {
        let (client, greeting, messages) = client::connect(options).await?;
        let opened = tokio::time::Instant::now().into_std();
        let (peer, peer_events, frames) = self.peers.calling().await?;
        let mut call = Call {
            client,
            greeting,
            messages,
            peer,
            peer_events,
            frames,
            early: Vec::new(),
            connected_in: Duration::ZERO,
            _phone: self.clone(),
        };
        let offer = call.peer.offer().await?;
        call.negotiate(offer).await?;
        timeout(NEGOTIATE_WITHIN, call.data_opened())
            .await
            .map_err(|_| CallError::Timeout)??;
        call.connected_in = tokio::time::Instant::now().into_std() - opened;
        Ok(call)
    }
}

/// What happens during a call.
#[derive(Debug)]
#[non_exhaustive]
pub enum CallEvent {
    /// The server said something.
    Message(ServerMessage),
    /// 20 ms of what it says aloud, silence included.
    Audio(ReceivedFrame),
    /// The call is over.
    Lost(LostReason),
}

/// A call in progress. Dropping it hangs up without a goodbye.
#[derive(Debug)]
pub struct Call {
    client: Client,
    greeting: Greeting,
    messages: mpsc::Receiver<ClientEvent>,
    peer: CallerPeer,
    peer_events: PeerEvents,
    frames: mpsc::Receiver<ReceivedFrame>,
    /// Arrived while something else was waited for.
    early: Vec<CallEvent>,
    connected_in: Duration,
    /// Peers end with their factory.
    _phone: Phone,
}

impl Call {
    /// What the server said on arrival.
    pub fn greeting(&self) -> &Greeting {
        &self.greeting
    }

    /// From the open socket to the open data channel.
    pub fn connected_in(&self) -> Duration {
        self.connected_in
    }

    /// Shares a microphone, in place of an earlier one.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn share_microphone(&mut self) -> Result<(), CallError> {
        let offer = self.peer.add_microphone().await?;
        self.negotiate(offer).await
    }

    /// Takes the microphone away; the server's voice stays.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn remove_microphone(&mut self) -> Result<(), CallError> {
        let offer = self.peer.remove_microphone().await?;
        self.negotiate(offer).await
    }

    /// Where to write what the microphone hears; sent in real time.
    pub fn microphone(&self) -> Arc<dyn AudioSink> {
        self.peer.microphone()
    }

    /// Sends a complete utterance as a message.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn send_audio(&self, data: Bytes) -> Result<(), CallError> {
        Ok(self.client.audio(data, Vec::new()).await?)
    }

    /// Asks in writing.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn send_text(&self, text: &str) -> Result<(), CallError> {
        Ok(self.client.text(text).await?)
    }

    /// Sends images over the data channel.
    ///
    /// # Errors
    /// When the data channel does not take them.
    pub fn send_images(&self, attachments: Vec<Attachment>) -> Result<(), CallError> {
        let message = ClientMessage::Attachments { attachments };
        Ok(self.peer.send_data(message.to_json())?)
    }

    /// What happens next.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> CallEvent {
        if !self.early.is_empty() {
            return self.early.remove(0);
        }
        loop {
            if let Some(event) = self.step().await {
                return event;
            }
        }
    }

    /// Hangs up.
    pub async fn hang_up(self) {
        self.peer.close();
        self.client.close().await;
    }

    async fn step(&mut self) -> Option<CallEvent> {
        tokio::select! {
            biased;
            event = self.messages.recv() => Some(match event {
                Some(ClientEvent::Message(message)) => CallEvent::Message(message),
                Some(ClientEvent::Lost(reason)) => CallEvent::Lost(reason),
                _ => CallEvent::Lost(LostReason::Socket),
            }),
            Some(event) = self.peer_events.recv() => {
                self.peer_event(event).await;
                None
            }
            Some(frame) = self.frames.recv() => Some(CallEvent::Audio(frame)),
        }
    }

    async fn peer_event(&mut self, event: PeerEvent) {
        match event {
            PeerEvent::DataOpened => self.client.set_connected(true),
            PeerEvent::DataMessage(message) => {
                let bytes = match message {
                    DataMessage::Text(text) => Bytes::from(text),
                    DataMessage::Binary(bytes) => bytes,
                };
                // A lost connection is reported by the messages' end.
                let _ = self.client.data_message(bytes).await;
            }
            PeerEvent::DataClosed | PeerEvent::Closed(_) => self.client.set_connected(false),
            _ => {}
        }
    }

    /// Sends an offer and applies the answer.
    async fn negotiate(&mut self, offer: String) -> Result<(), CallError> {
        self.client.offer(offer).await?;
        let answer = timeout(NEGOTIATE_WITHIN, async {
            loop {
                match self.step().await {
                    Some(CallEvent::Message(ServerMessage::Signal { sdp })) => return Ok(sdp),
                    Some(CallEvent::Message(ServerMessage::Error {
                        code: code @ (ErrorCode::ConnectionFailed | ErrorCode::WebrtcUnavailable),
                        ..
                    })) => return Err(CallError::Refused(code)),
                    Some(CallEvent::Lost(reason)) => return Err(CallError::Lost(reason)),
                    Some(event) => self.early.push(event),
                    None => {}
                }
            }
        });
        let answer = answer.await.map_err(|_| CallError::Timeout)??;
        Ok(self.peer.accept_answer(&answer).await?)
    }

    async fn data_opened(&mut self) -> Result<(), CallError> {
        loop {
            match self.peer_events.recv().await {
                Some(PeerEvent::DataOpened) => {
                    self.client.set_connected(true);
                    return Ok(());
                }
                Some(PeerEvent::Closed(_)) | None => return Err(PeerError::Closed.into()),
                Some(event) => self.peer_event(event).await,
            }
        }
    }
}
