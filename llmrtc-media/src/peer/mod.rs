//! Peers: the only place that knows the WebRTC stack.
//!
//! A [`Peer`] answers, as the server does; a [`CallerPeer`] offers, as a browser does, and is what the Rust client, the
//! load generator and the tests are made of. Both come from a [`PeerFactory`]. Each peer is one task that owns one
//! connection; handles send it commands, and it reports [`PeerEvent`]s.
//!
//! *Invariants.* A peer never outlives its handle. A panic of the stack ends one peer. Nothing a remote sends is queued
//! without a bound. The answering side never offers.

mod caller;
mod config;
mod connection;
mod data;
mod event;
mod owner;
mod rtp;
mod runtime;
pub mod sdp;

use std::{
    fmt,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use llmrtc_core::{playout::AudioSink, tasks::Tasks};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::DropGuard;

pub use self::{
    caller::CallerPeer,
    config::{IceServer, PeerConfig},
    event::{CloseReason, DataMessage, PeerEvent, PeerEvents},
};
use self::{
    connection::{Connection, Role},
    data::DataPort,
    owner::{COMMAND_QUEUE, Command, Owner, Shared, Start},
    rtp::OutboundQueue,
};
use crate::{
    error::PeerError,
    pipeline::{MediaThreads, Pipeline, PipelineMode, PipelineStats, ReceivedFrame},
};

/// Client → application, 20 ms each: two seconds, after which the newest frame is lost.
const FRAME_QUEUE: usize = 100;

/// Makes peers. Cloning shares everything; dropping the last clone takes the remaining peers down.
#[derive(Clone, Debug)]
pub struct PeerFactory {
    config: Arc<PeerConfig>,
    listen: IpAddr,
    media: MediaThreads,
    tasks: Arc<Tasks>,
}

impl PeerFactory {
    /// `listen`: the address the server listens on; with a loopback address, peers can be reached over loopback too.
    /// `config` is taken as valid.
    pub fn new(config: PeerConfig, listen: IpAddr, media: MediaThreads) -> Self {
        Self {
            config: Arc::new(config),
            listen,
            media,
            tasks: Arc::new(Tasks::root("peers")),
        }
    }

    /// How many peers there are, closing ones included.
    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Whether there are no peers.
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Binds and releases what a peer binds. Called at start, it finds addresses and ports that do not work before a
    /// caller does, and takes the cryptographic library's first use, some 60 ms, out of the first call.
    ///
    /// # Errors
    /// [`PeerError::Setup`] when no socket can be bound.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    pub async fn check(&self) -> Result<(), PeerError> {
        Connection::open(&self.config, self.listen, Role::Answering)
            .await
            .map(drop)
    }

    /// A peer that answers offers and listens for speech. `live` adds the caller's audio to the speech events, for live
    /// transcription.
    ///
    /// # Errors
    /// [`PeerError::Setup`] when no socket can be bound.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    pub async fn answering(&self, live: bool) -> Result<(Peer, PeerEvents), PeerError> {
        let (speech, speech_events) = mpsc::channel(event::SPEECH_QUEUE);
        let mode = PipelineMode::Listen {
            events: speech,
            live,
        };
        let (events, receiver) = event::queue(speech_events);
        let handle = self.start(Role::Answering, mode, events).await?;
        Ok((Peer { handle }, receiver))
    }

    /// A peer that offers, as a client does. Received audio comes as frames of 20 ms; when they are not read, the newest
    /// is lost.
    ///
    /// # Errors
    /// [`PeerError::Setup`] when no socket can be bound.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    pub async fn calling(
        &self,
    ) -> Result<(CallerPeer, PeerEvents, mpsc::Receiver<ReceivedFrame>), PeerError> {
        let (frames, received) = mpsc::channel(FRAME_QUEUE);
        let (_, no_speech) = mpsc::channel(1);
        let (events, receiver) = event::queue(no_speech);
        let mode = PipelineMode::Record { frames };
        let handle = self.start(Role::Offering, mode, events).await?;
        Ok((CallerPeer { handle }, receiver, received))
    }

    async fn start(
        &self,
        role: Role,
        mode: PipelineMode,
        events: event::EventSender,
    ) -> Result<Handle, PeerError> {
        let connection = Connection::open(&self.config, self.listen, role).await?;
        let (outbound, packets) = OutboundQueue::new();
        let (data, messages) = DataPort::new(self.config.send_buffer_bytes);
        let pipeline = Arc::new(self.media.pipeline(mode, Arc::clone(&outbound) as _));
        let shared = Arc::new(Shared {
            data,
            outbound,
            audio_negotiated: AtomicBool::new(false),
            sendable: AtomicBool::new(false),
        });
        let owner = Owner::new(Start {
            config: Arc::clone(&self.config),
            listen: self.listen,
            role,
            connection,
            pipeline: Arc::clone(&pipeline),
            shared: Arc::clone(&shared),
            packets,
            messages,
            events,
            tasks: self.tasks.child("peer"),
        })
        .await?;
        let (commands, inbox) = mpsc::channel(COMMAND_QUEUE);
        let closing = self.tasks.token().child_token();
        let cancel = closing.clone();
        self.tasks
            .spawn("peer", |_| owner.run(inbox, cancel))
            .detach();
        Ok(Handle {
            commands,
            shared,
            sink: pipeline.sink(),
            pipeline,
            _closing: closing.drop_guard(),
        })
    }
}

/// What both kinds of peers can do. Dropping it closes the peer.
struct Handle {
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared>,
    sink: Arc<dyn AudioSink>,
    pipeline: Arc<Pipeline>,
    _closing: DropGuard,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("shared", &self.shared)
            .finish_non_exhaustive()
    }
}

impl Handle {
    /// Has the owner do something and waits for its reply.
    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, PeerError>>) -> Command,
    ) -> Result<T, PeerError> {
        let (reply, answer) = oneshot::channel();
        self.commands
            .send(command(reply))
            .await
            .map_err(|_| PeerError::Closed)?;
        answer.await.unwrap_or(Err(PeerError::Closed))
    }
}

/// The answering end of a call. Dropping it closes the connection and tells the remote.
#[derive(Debug)]
pub struct Peer {
    handle: Handle,
}

/// Counters of one peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerStats {
    /// Of the pipeline.
    pub pipeline: PipelineStats,
    /// Audio packets dropped because the network task was behind.
    pub outbound_dropped: u64,
    /// Bytes of messages that wait to be sent.
    pub data_buffered: usize,
}

impl Peer {
    /// Applies an offer and returns the answer, candidates included. Concurrent calls are taken one after the other.
    ///
    /// # Errors
    /// [`PeerError::Description`] when the offer is rejected at the door: the peer goes on as before. Everything else
    /// has closed the peer.
    ///
    /// # Cancel safety
    /// Dropping the future does not undo the negotiation, which goes on by itself.
    pub async fn answer(&self, offer: &str) -> Result<String, PeerError> {
        let offer = offer.to_owned();
        self.handle
            .ask(|reply| Command::Answer { offer, reply })
            .await
    }

    /// Queues a message for the data channel.
    ///
    /// # Errors
    /// [`PeerError::NotOpen`], [`PeerError::TooLarge`] or [`PeerError::Backlogged`]; nothing was queued then.
    pub fn send_data(&self, text: String) -> Result<(), PeerError> {
        self.handle.shared.data.send(text)
    }

    /// Whether the data channel is open.
    pub fn can_send_data(&self) -> bool {
        self.handle.shared.data.is_open()
    }

    /// Bytes of messages that wait to be sent, apart from the last 256 KiB that are on their way.
    pub fn buffered(&self) -> usize {
        self.handle.shared.data.buffered()
    }

    /// Where the speech of turns goes. It can be used at any time; while [`can_send_audio`](Self::can_send_audio) is
    /// false, playout stands still.
    pub fn sink(&self) -> Arc<dyn AudioSink> {
        Arc::clone(&self.handle.sink)
    }

    /// Tells what live transcription has made of the caller's utterance so far: words help to judge whether it is complete,
    /// and whether a short one over an answer wants the floor.
    pub fn partial_transcript(&self, text: &str) {
        self.handle.pipeline.partial_transcript(text);
    }

    /// Whether the remote takes audio from us, as negotiated: it has shared a microphone once and not declined our speech
    /// since. Stays true while the transport is down; false once the peer is closed.
    pub fn audio_negotiated(&self) -> bool {
        self.handle.shared.audio_negotiated.load(Ordering::Acquire)
    }

    /// Whether audio reaches the remote: it has shared a microphone once, still takes audio, and is connected.
    pub fn can_send_audio(&self) -> bool {
        self.handle.shared.sendable.load(Ordering::Acquire)
    }

    /// Counters since the start.
    pub fn stats(&self) -> PeerStats {
        self.handle.stats()
    }

    /// Closes the peer, as dropping it does. [`PeerEvent::Closed`] follows.
    pub fn close(self) {}
}

impl Handle {
    fn stats(&self) -> PeerStats {
        PeerStats {
            pipeline: self.pipeline.stats(),
            outbound_dropped: self.shared.outbound.dropped(),
            data_buffered: self.shared.data.buffered(),
        }
    }
}
