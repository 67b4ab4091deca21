//! The task that owns one connection. Both ends of a call are this task with different commands.
//!
//! Commands are taken one at a time, so offers are applied strictly in order; events of the stack are handled between
//! them. The task ends when its handle is dropped, when the transport is lost for good, or when the remote or the stack
//! misbehaves; then it closes the connection, tells the remote, and nothing of the peer is left.

use std::{
    future::Future,
    net::IpAddr,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use llmrtc_core::tasks::Tasks;
use rtc::rtp_transceiver::{RTCRtpTransceiverDirection, RTCRtpTransceiverInit};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use webrtc::{
    data_channel::DataChannel,
    media_stream::track_local::{TrackLocal, static_rtp::TrackLocalStaticRTP},
    peer_connection::{RTCPeerConnectionState, RTCSessionDescription},
    rtp_transceiver::RtpSender,
};

use super::{
    config::PeerConfig,
    connection::{Connection, Role, Signal, opus_track},
    data::{self, DataPort},
    event::{CloseReason, EventSender, PeerEvent},
    rtp::{self, Microphone, OutboundQueue, Outlet},
    sdp::{CandidatePolicy, Description, with_advertised},
};
use crate::{
    error::PeerError,
    pipeline::{Pipeline, RtpOut},
};

/// Handle → owner. A peer negotiates once a second at most, and each caller waits for its reply.
pub(super) const COMMAND_QUEUE: usize = 16;
/// Most data channels a remote may open. Clients open one.
const MAX_CHANNELS: usize = 4;
/// Most remote tracks; one per m-line.
const MAX_TRACKS: usize = super::sdp::MAX_SECTIONS;
/// How long closing may take: farewells are sent, nothing is waited for but the stack's own task.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long candidates of our own sockets may take; they are known, so this only guards against a stuck driver.
const HOST_GATHER_TIMEOUT: Duration = Duration::from_millis(500);

/// What the handle asks for.
pub(super) enum Command {
    Answer {
        offer: String,
        reply: oneshot::Sender<Result<String, PeerError>>,
    },
    Offer {
        change: Change,
        reply: oneshot::Sender<Result<String, PeerError>>,
    },
    Accept {
        answer: String,
        reply: oneshot::Sender<Result<(), PeerError>>,
    },
}

/// What an offer is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Nothing,
    AddMicrophone,
    RemoveMicrophone,
    RestartIce,
}

/// What the handle and the owner both look at.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) data: Arc<DataPort>,
    pub(super) outbound: Arc<OutboundQueue>,
    /// Whether the remote takes audio from us, as negotiated.
    pub(super) audio_negotiated: AtomicBool,
    /// The same, and the transport is up.
    pub(super) sendable: AtomicBool,
}

/// What the owner is started with.
pub(super) struct Start {
    pub(super) config: Arc<PeerConfig>,
    pub(super) listen: IpAddr,
    pub(super) role: Role,
    pub(super) connection: Connection,
    pub(super) pipeline: Arc<Pipeline>,
    pub(super) shared: Arc<Shared>,
    pub(super) packets: mpsc::Receiver<RtpOut>,
    pub(super) messages: mpsc::Receiver<String>,
    pub(super) events: EventSender,
    /// Parent of the peer's other tasks.
    pub(super) tasks: Tasks,
}

pub(super) struct Owner {
    config: Arc<PeerConfig>,
    policy: CandidatePolicy,
    role: Role,
    connection: Connection,
    pipeline: Arc<Pipeline>,
    microphone: Arc<Microphone>,
    shared: Arc<Shared>,
    outlet: watch::Sender<Option<Outlet>>,
    /// The track of the latest microphone (offering) or of the speech (answering), and who sends it.
    sender: Option<LocalTrack>,
    /// For the data channel, once there is one.
    messages: Option<mpsc::Receiver<String>>,
    channels: usize,
    tracks: usize,
    events: EventSender,
    tasks: Tasks,
    /// Cancelled by tasks that find the peer broken.
    overrun: CancellationToken,
    connected: bool,
    /// What the remote said last, and, for an offerer, whether our offer is still open.
    remote: Option<Description>,
}

struct LocalTrack {
    track: Arc<TrackLocalStaticRTP>,
    ssrc: u32,
    sender: Arc<dyn RtpSender>,
}

impl Owner {
    /// Prepares the connection: the answering end brings the track for its speech, the offering end the data channel.
    pub(super) async fn new(start: Start) -> Result<Self, PeerError> {
        let (outlet, outlets) = watch::channel(None);
        let mut owner = Self {
            policy: CandidatePolicy {
                loopback: start.listen.is_loopback()
                    || start.config.bind_addresses.iter().any(IpAddr::is_loopback),
                private: start.config.private_candidates,
            },
            config: start.config,
            role: start.role,
            connection: start.connection,
            microphone: Arc::new(Microphone::new(Arc::clone(&start.pipeline))),
            pipeline: start.pipeline,
            shared: start.shared,
            outlet,
            sender: None,
            messages: Some(start.messages),
            channels: 0,
            tracks: 0,
            events: start.events,
            tasks: start.tasks,
            overrun: CancellationToken::new(),
            connected: false,
            remote: None,
        };
        let packets = start.packets;
        owner
            .tasks
            .spawn("rtp out", |_| rtp::transmit(packets, outlets))
            .detach();
        match start.role {
            Role::Answering => {
                // JSEP pairs it with the first audio section that is offered, whenever that is.
                let (track, ssrc) = opus_track("speech");
                let local: Arc<dyn TrackLocal> = Arc::clone(&track) as _;
                let sender = owner.connection.stack.add_track(local).await;
                owner.sender = Some(LocalTrack {
                    track,
                    ssrc,
                    sender: sender.map_err(setup)?,
                });
            }
            Role::Offering => {
                let channel = owner
                    .connection
                    .stack
                    .create_data_channel("data", None)
                    .await;
                owner.take_channel(channel.map_err(setup)?);
            }
        }
        Ok(owner)
    }

    /// Runs the peer until it ends.
    pub(super) async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        cancel: CancellationToken,
    ) {
        let reason = self.serve(&mut commands, &cancel).await;
        self.close(reason).await;
    }

    async fn serve(
        &mut self,
        commands: &mut mpsc::Receiver<Command>,
        cancel: &CancellationToken,
    ) -> CloseReason {
        loop {
            let command = tokio::select! {
                biased;
                () = cancel.cancelled() => return CloseReason::Local,
                () = self.overrun.cancelled() => return CloseReason::Overrun,
                () = self.connection.flooded.cancelled() => return CloseReason::Misbehaved,
                () = self.connection.driver.ended() => return CloseReason::StackFailed,
                Some(signal) = self.connection.signals.recv() => {
                    if let Err(reason) = self.signal(signal).await {
                        return reason;
                    }
                    continue;
                }
                command = commands.recv() => match command {
                    Some(command) => command,
                    None => return CloseReason::Local,
                },
            };
            let fatal = tokio::select! {
                biased;
                () = cancel.cancelled() => return CloseReason::Local,
                fatal = self.obey(command) => fatal,
            };
            if fatal {
                return CloseReason::NegotiationFailed;
            }
        }
    }

    /// Carries a command out and says whether the peer is of no more use.
    async fn obey(&mut self, command: Command) -> bool {
        fn reply<T>(
            to: oneshot::Sender<Result<T, PeerError>>,
            result: Result<T, PeerError>,
        ) -> bool {
            let fatal = match &result {
                Ok(_) => false,
                Err(error) => {
                    tracing::debug!(error = %Causes(error), "negotiation failed");
                    error.is_fatal()
                }
            };
            // Whoever asked may have given up.
            let _ = to.send(result);
            fatal
        }
        match command {
            Command::Answer { offer, reply: to } => {
                let result = guarded(self.answer(&offer)).await;
                reply(to, result)
            }
            Command::Offer { change, reply: to } => {
                let result = guarded(self.offer(change)).await;
                reply(to, result)
            }
            Command::Accept { answer, reply: to } => {
                let result = guarded(self.accept(&answer)).await;
                reply(to, result)
            }
        }
    }

    async fn answer(&mut self, offer: &str) -> Result<String, PeerError> {
        let offer = self.check(offer)?;
        let stack = Arc::clone(&self.connection.stack);
        let description =
            RTCSessionDescription::offer(offer.as_str().to_owned()).map_err(negotiation)?;
        stack
            .set_remote_description(description)
            .await
            .map_err(negotiation)?;
        let answer = stack.create_answer(None).await.map_err(negotiation)?;
        let answer = self.apply_local(answer).await?;
        let ours = Description::parse(&answer, EVERYTHING).map_err(negotiation)?;
        self.settle(&ours, offer);
        Ok(answer)
    }

    async fn offer(&mut self, change: Change) -> Result<String, PeerError> {
        let stack = Arc::clone(&self.connection.stack);
        match change {
            Change::Nothing => {}
            Change::RestartIce => stack.restart_ice().await.map_err(negotiation)?,
            Change::RemoveMicrophone => self.drop_microphone().await?,
            Change::AddMicrophone => {
                self.drop_microphone().await?;
                let (track, ssrc) = opus_track("microphone");
                let init = RTCRtpTransceiverInit {
                    direction: RTCRtpTransceiverDirection::Sendrecv,
                    streams: Vec::new(),
                    send_encodings: Vec::new(),
                };
                let local: Arc<dyn TrackLocal> = Arc::clone(&track) as _;
                let transceiver = stack
                    .add_transceiver_from_track(local, Some(init))
                    .await
                    .map_err(negotiation)?;
                let sender = transceiver.sender().await.map_err(negotiation)?;
                let sender =
                    sender.ok_or_else(|| negotiation("the new transceiver has no sender"))?;
                self.sender = Some(LocalTrack {
                    track,
                    ssrc,
                    sender,
                });
            }
        }
        let offer = stack.create_offer(None).await.map_err(negotiation)?;
        self.apply_local(offer).await
    }

    /// Stops sending what is being sent; its section becomes `recvonly` with the next offer.
    async fn drop_microphone(&mut self) -> Result<(), PeerError> {
        self.outlet.send_replace(None);
        if let Some(local) = self.sender.take() {
            self.connection
                .stack
                .remove_track(&local.sender)
                .await
                .map_err(negotiation)?;
        }
        Ok(())
    }

    async fn accept(&mut self, answer: &str) -> Result<(), PeerError> {
        let answer = self.check(answer)?;
        let description =
            RTCSessionDescription::answer(answer.as_str().to_owned()).map_err(negotiation)?;
        let stack = &self.connection.stack;
        stack
            .set_remote_description(description)
            .await
            .map_err(negotiation)?;
        let ours = stack.local_description().await;
        let ours = ours.ok_or_else(|| negotiation("there is no open offer"))?;
        let ours = Description::parse(&ours.sdp, EVERYTHING).map_err(negotiation)?;
        self.settle(&ours, answer);
        Ok(())
    }

    fn check(&self, sdp: &str) -> Result<Description, PeerError> {
        let description = Description::parse(sdp, self.policy)?;
        match &self.remote {
            Some(previous) if !description.may_follow(previous) => {
                Err(super::sdp::SdpError::Reordered.into())
            }
            _ => Ok(description),
        }
    }

    /// Applies our own description and completes it with candidates.
    async fn apply_local(
        &mut self,
        description: RTCSessionDescription,
    ) -> Result<String, PeerError> {
        let stack = Arc::clone(&self.connection.stack);
        let round = *self.connection.gathered.borrow();
        stack
            .set_local_description(description)
            .await
            .map_err(negotiation)?;
        // Later rounds, ICE restarts included, keep the candidates of the first.
        if round == 0 {
            let patience = if self.config.ice_servers.is_empty() {
                HOST_GATHER_TIMEOUT
            } else {
                self.config.gather_timeout
            };
            let gathered = self.connection.gathered.wait_for(|round| *round > 0);
            let _ = tokio::time::timeout(patience, gathered).await;
        }
        let complete = stack.local_description().await;
        let complete = complete.ok_or_else(|| negotiation("no local description"))?;
        Ok(with_advertised(
            &complete.sdp,
            &self.config.advertised_addresses,
        ))
    }

    /// Draws the consequences of a finished negotiation.
    fn settle(&mut self, ours: &Description, theirs: Description) {
        // Sections correspond by position; `may_follow` and the stack see to it.
        let agreed = |section: &super::sdp::Section| {
            ours.sections
                .iter()
                .find(|own| own.mid == section.mid)
                .is_some_and(|own| !own.rejected && own.direction.receives())
        };
        self.microphone
            .negotiated(theirs.microphone().filter(|section| agreed(section)));
        self.shared.data.set_remote_limit(theirs.max_message_bytes);

        // Speech stays on the first audio section; a client's microphone is on the newest that it sends on.
        let section = match self.role {
            Role::Answering => ours.first_audio().filter(|own| own.sends_audio()),
            Role::Offering => ours.microphone(),
        };
        let remote = section.and_then(|own| theirs.sections.iter().find(|s| s.mid == own.mid));
        let payload_type = remote
            .filter(|remote| !remote.rejected && remote.direction.receives())
            .and_then(|remote| remote.opus.first().copied());
        let outlet = match (&self.sender, payload_type) {
            (Some(local), Some(payload_type)) => Some(Outlet {
                track: Arc::clone(&local.track),
                ssrc: local.ssrc,
                payload_type,
            }),
            _ => None,
        };
        let negotiated = outlet.is_some();
        self.outlet.send_replace(outlet);
        self.remote = Some(theirs);
        if self
            .shared
            .audio_negotiated
            .swap(negotiated, Ordering::AcqRel)
            != negotiated
        {
            self.emit(PeerEvent::AudioNegotiated(negotiated));
        }
        self.update_sendable();
    }

    fn update_sendable(&mut self) {
        let sendable = self.connected && self.shared.audio_negotiated.load(Ordering::Acquire);
        if self.shared.sendable.swap(sendable, Ordering::AcqRel) != sendable {
            self.pipeline.set_sending(sendable);
            self.emit(PeerEvent::AudioSendable(sendable));
        }
    }

    fn emit(&self, event: PeerEvent) {
        if self.events.emit(event).is_err() {
            self.overrun.cancel();
        }
    }

    async fn signal(&mut self, signal: Signal) -> Result<(), CloseReason> {
        match signal {
            Signal::State(state) => return self.state(state),
            Signal::Channel(channel) => {
                self.channels += 1;
                if self.channels > MAX_CHANNELS {
                    return Err(CloseReason::Misbehaved);
                }
                if self.messages.is_some() {
                    self.take_channel(channel);
                } else {
                    tracing::debug!("a further data channel is refused");
                    let _ = channel.close().await;
                }
            }
            Signal::Track(track) => {
                self.tracks += 1;
                if self.tracks > MAX_TRACKS {
                    return Err(CloseReason::Misbehaved);
                }
                let microphone = Arc::clone(&self.microphone);
                self.tasks
                    .spawn("rtp in", |_| rtp::receive(track, microphone))
                    .detach();
            }
        }
        Ok(())
    }

    fn state(&mut self, state: RTCPeerConnectionState) -> Result<(), CloseReason> {
        tracing::debug!(%state, "connection state");
        match state {
            RTCPeerConnectionState::Connected => {
                self.connected = true;
                self.emit(PeerEvent::Connected);
            }
            RTCPeerConnectionState::Disconnected => {
                self.connected = false;
                self.emit(PeerEvent::Disconnected);
            }
            RTCPeerConnectionState::Failed => return Err(CloseReason::TransportFailed),
            // Closing is ours; the rest precedes `Connected`.
            _ => return Ok(()),
        }
        self.update_sendable();
        Ok(())
    }

    fn take_channel(&mut self, channel: Arc<dyn DataChannel>) {
        let Some(messages) = self.messages.take() else {
            return;
        };
        let port = Arc::clone(&self.shared.data);
        let events = self.events.clone();
        let overrun = self.overrun.clone();
        let settling = self.connection.driver.settling();
        self.tasks
            .spawn("data out", |_| {
                data::write(Arc::clone(&port), Arc::clone(&channel), messages)
            })
            .detach();
        self.tasks
            .spawn("data in", |_| async move {
                if data::read(port, channel, events, settling).await.is_err() {
                    overrun.cancel();
                }
            })
            .detach();
    }

    async fn close(self, reason: CloseReason) {
        let Self {
            connection,
            pipeline,
            microphone,
            shared,
            events,
            tasks,
            ..
        } = self;
        tracing::debug!(?reason, "peer closed");
        shared.data.close();
        shared.audio_negotiated.store(false, Ordering::Release);
        shared.sendable.store(false, Ordering::Release);
        pipeline.set_sending(false);
        microphone.negotiated(None);
        let close = AssertUnwindSafe(connection.stack.close()).catch_unwind();
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, close).await;
        drop(connection);
        drop(tasks);
        let _ = events.emit(PeerEvent::Closed(reason));
    }
}

/// For descriptions of our own making, and for the one of the server a client called.
const EVERYTHING: CandidatePolicy = CandidatePolicy {
    loopback: true,
    private: true,
};

/// Keeps a panic of the stack inside the peer it concerns.
async fn guarded<T>(work: impl Future<Output = Result<T, PeerError>>) -> Result<T, PeerError> {
    AssertUnwindSafe(work)
        .catch_unwind()
        .await
        .unwrap_or(Err(PeerError::Panicked))
}

fn negotiation(error: impl Into<llmrtc_core::provider::BoxError>) -> PeerError {
    PeerError::Negotiation(error.into())
}

fn setup(error: impl Into<llmrtc_core::provider::BoxError>) -> PeerError {
    PeerError::Setup(error.into())
}

/// Prints an error with its causes.
struct Causes<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
