//! One WebRTC connection: how the stack is configured and what it tells us.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use llmrtc_core::provider::BoxError;
use rtc::{
    ice::mdns::MulticastDnsMode,
    peer_connection::configuration::setting_engine::SctpMaxMessageSize,
    rtp_transceiver::rtp_sender::{
        RTCRtpCodec, RTCRtpCodecParameters, RTCRtpCodingParameters, RTCRtpEncodingParameters,
        RtpCodecKind,
    },
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use webrtc::{
    data_channel::DataChannel,
    media_stream::{
        MediaStreamTrack, track_local::static_rtp::TrackLocalStaticRTP, track_remote::TrackRemote,
    },
    peer_connection::{
        MediaEngine, PeerConnection, PeerConnectionBuilder, PeerConnectionEventHandler,
        RTCConfigurationBuilder, RTCIceGatheringState, RTCIceServer, RTCPeerConnectionState,
        Registry, SettingEngineBuilder, configure_rtcp_reports,
    },
};

use super::{config::PeerConfig, runtime::Driver};
use crate::error::PeerError;

/// Driver → owner: state changes, channels and tracks. Full: the remote opens more of them than any client does, and
/// the peer is closed.
const SIGNAL_QUEUE: usize = 64;

/// Silence after which a peer counts as disconnected; the ICE agents' customary value (and libwebrtc's).
const DISCONNECTED_AFTER: Duration = Duration::from_secs(5);
/// Consent checks; RFC 7675 §5.1 asks for one every 5 s at least.
const KEEPALIVE: Duration = Duration::from_secs(2);
/// Records remembered against replays, DTLS and SRTP alike (RFC 6347 §4.1.2.6, RFC 3711 §3.3.2).
const REPLAY_WINDOW: usize = 64;
/// Bytes the stack sends ahead of the remote's acknowledgements; the rest waits in our queue, where it is counted.
const SEND_WINDOW: usize = 256 * 1024;

/// Which end of the negotiation this is. The offering end controls ICE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Answering,
    Offering,
}

impl Role {
    /// Interval and number of connectivity checks per candidate pair. The stack's default interval of 200 ms is what a
    /// connection waits for before nomination.
    ///
    /// An answerer mostly responds: its own checks open NAT bindings, so they last two seconds, and their number is
    /// what a hostile description multiplies. An offerer nominates on this tick, and knows whom it calls.
    fn checks(self) -> (Duration, u16) {
        match self {
            Self::Answering => (Duration::from_millis(50), 40),
            Self::Offering => (Duration::from_millis(10), 500),
        }
    }
}

/// What the stack reports.
pub(super) enum Signal {
    State(RTCPeerConnectionState),
    Channel(Arc<dyn DataChannel>),
    Track(Arc<dyn TrackRemote>),
}

/// A connection and everything that comes out of it. Dropping it takes the driver down.
pub(super) struct Connection {
    pub(super) stack: Arc<dyn PeerConnection>,
    pub(super) driver: Driver,
    pub(super) signals: mpsc::Receiver<Signal>,
    /// Cancelled when a signal was lost.
    pub(super) flooded: CancellationToken,
    /// Counts finished rounds of candidate gathering.
    pub(super) gathered: watch::Receiver<u32>,
}

struct Handler {
    signals: mpsc::Sender<Signal>,
    flooded: CancellationToken,
    rounds: AtomicU32,
    gathered: watch::Sender<u32>,
}

impl Handler {
    fn report(&self, signal: Signal) {
        // Called on the driver, which must not wait.
        if self.signals.try_send(signal).is_err() {
            self.flooded.cancel();
        }
    }
}

#[async_trait]
impl PeerConnectionEventHandler for Handler {
    async fn on_ice_gathering_state_change(&self, state: RTCIceGatheringState) {
        if state == RTCIceGatheringState::Complete {
            let round = self.rounds.fetch_add(1, Ordering::Relaxed) + 1;
            self.gathered.send_replace(round);
        }
    }

    async fn on_connection_state_change(&self, state: RTCPeerConnectionState) {
        self.report(Signal::State(state));
    }

    async fn on_data_channel(&self, channel: Arc<dyn DataChannel>) {
        self.report(Signal::Channel(channel));
    }

    async fn on_track(&self, track: Arc<dyn TrackRemote>) {
        self.report(Signal::Track(track));
    }
}

impl Connection {
    /// Binds sockets and starts the driver. `listen` is the address the server itself listens on.
    pub(super) async fn open(
        config: &PeerConfig,
        listen: IpAddr,
        role: Role,
    ) -> Result<Self, PeerError> {
        let addresses = config.local_addresses(listen);
        if addresses.is_empty() {
            return Err(setup("no network interface to receive media on"));
        }
        let mut last = None;
        for port in config.ports(rand::random()) {
            let sockets: Vec<SocketAddr> = addresses
                .iter()
                .map(|address| SocketAddr::new(*address, port))
                .collect();
            // Asking the operating system is cheaper than building a connection for a port that is taken.
            if port != 0
                && sockets
                    .iter()
                    .any(|s| std::net::UdpSocket::bind(s).is_err())
            {
                continue;
            }
            match Self::build(config, role, sockets).await {
                Ok(connection) => return Ok(connection),
                Err(error) => last = Some(error),
            }
            if port == 0 {
                break;
            }
        }
        Err(last.unwrap_or_else(|| setup("every port of udp_port_range is taken")))
    }

    async fn build(
        config: &PeerConfig,
        role: Role,
        sockets: Vec<SocketAddr>,
    ) -> Result<Self, PeerError> {
        let (signal_sender, signals) = mpsc::channel(SIGNAL_QUEUE);
        let (gathered_sender, gathered) = watch::channel(0);
        let flooded = CancellationToken::new();
        let handler = Handler {
            signals: signal_sender,
            flooded: flooded.clone(),
            rounds: AtomicU32::new(0),
            gathered: gathered_sender,
        };
        let driver = Driver::new(role);
        let (interval, attempts) = role.checks();
        let failed_after = config
            .ice_disconnect_timeout
            .saturating_sub(DISCONNECTED_AFTER);
        let settings = SettingEngineBuilder::new()
            .with_multicast_dns_mode(MulticastDnsMode::Disabled)
            .with_include_loopback_candidate(true)
            .with_ice_timeouts(
                Some(DISCONNECTED_AFTER),
                // Zero would mean never.
                Some(failed_after.max(Duration::from_millis(1))),
                Some(KEEPALIVE),
            )
            .with_ice_connection_attempts(Some(interval), Some(attempts))
            // Whoever answers a check first is good enough: waiting for a better kind of candidate is for phones
            // that pay for relays.
            .with_srflx_acceptance_min_wait(Some(Duration::ZERO))
            .with_prflx_acceptance_min_wait(Some(Duration::ZERO))
            .with_relay_acceptance_min_wait(Some(Duration::ZERO))
            .with_dtls_replay_protection_window(REPLAY_WINDOW)
            .with_srtp_replay_protection_window(REPLAY_WINDOW)
            .with_srtcp_replay_protection_window(REPLAY_WINDOW)
            .with_sctp_max_message_size(SctpMaxMessageSize::Bounded(config.max_message_bytes))
            .build();
        let servers = config
            .ice_servers
            .iter()
            .map(|server| RTCIceServer {
                urls: server.urls.clone(),
                username: server.username.clone(),
                credential: server
                    .credential
                    .as_ref()
                    .map(|credential| credential.expose().to_owned())
                    .unwrap_or_default(),
            })
            .collect();
        let building = PeerConnectionBuilder::new()
            .with_configuration(
                RTCConfigurationBuilder::default()
                    .with_ice_servers(servers)
                    .build(),
            )
            .with_media_engine(opus_only().map_err(setup)?)
            .with_interceptor_registry(configure_rtcp_reports(Registry::new()))
            .with_setting_engine(settings)
            .with_data_channel_send_buffer_limit(SEND_WINDOW)
            .with_handler(Arc::new(handler))
            .with_runtime(driver.runtime())
            .with_udp_addrs(sockets)
            .build();
        // 20 kB that every future around this one, a session's above all, would have room for as long as it lives.
        let stack = Box::pin(building).await.map_err(setup)?;
        Ok(Self {
            stack: Arc::new(stack),
            driver,
            signals,
            flooded,
            gathered,
        })
    }
}

/// Wraps what the operator has to know.
fn setup(error: impl Into<BoxError>) -> PeerError {
    PeerError::Setup(error.into())
}

fn opus_only() -> Result<MediaEngine, webrtc::error::Error> {
    let mut engine = MediaEngine::default();
    engine.register_codec(
        RTCRtpCodecParameters {
            rtp_codec: opus(),
            payload_type: 111,
        },
        RtpCodecKind::Audio,
    )?;
    Ok(engine)
}

/// RFC 7587 §7: always announced as stereo at 48 kHz, whatever is inside.
fn opus() -> RTCRtpCodec {
    RTCRtpCodec {
        mime_type: "audio/opus".to_owned(),
        clock_rate: 48_000,
        channels: 2,
        sdp_fmtp_line: "minptime=10;useinbandfec=1".to_owned(),
        rtcp_feedback: Vec::new(),
    }
}

/// A local Opus track with its synchronisation source.
pub(super) fn opus_track(track: &str) -> (Arc<TrackLocalStaticRTP>, u32) {
    let ssrc = rand::random();
    let coding = RTCRtpEncodingParameters {
        rtp_coding_parameters: RTCRtpCodingParameters {
            ssrc: Some(ssrc),
            ..RTCRtpCodingParameters::default()
        },
        active: true,
        codec: opus(),
        ..RTCRtpEncodingParameters::default()
    };
    let stream = MediaStreamTrack::new(
        "llmrtc".to_owned(),
        track.to_owned(),
        track.to_owned(),
        RtpCodecKind::Audio,
        vec![coding],
    );
    (Arc::new(TrackLocalStaticRTP::new(stream)), ssrc)
}
