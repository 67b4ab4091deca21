use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU16, Ordering},
};

use llmrtc_core::{
    audio::{PcmChunk, SampleRate},
    id::TurnId,
};
use llmrtc_media::peer::PeerEvent;
use tokio::{net::UdpSocket, sync::mpsc, task::JoinSet, time::timeout};

use crate::call::{Call, DEADLINE, LOOPBACK, factory, loopback, next, sendable};

/// One end of a [`Network`]: stands in for a remote, towards the one who looks for it here.
struct End {
    socket: UdpSocket,
    /// Port of the one who is served here.
    client: AtomicU16,
}

impl End {
    async fn new() -> Arc<Self> {
        Arc::new(Self {
            socket: UdpSocket::bind((LOOPBACK, 0)).await.expect("a free port"),
            client: AtomicU16::new(0),
        })
    }

    /// The description, with this end in place of its sender.
    fn stand_in(&self, sdp: &str) -> String {
        let ours = self.socket.local_addr().expect("it is bound").port();
        sdp.replace(
            &format!(" {} typ host", port(sdp)),
            &format!(" {ours} typ host"),
        )
    }
}

/// The path between two peers, which can be cut.
struct Network {
    for_caller: Arc<End>,
    for_peer: Arc<End>,
    up: Arc<AtomicBool>,
    _wires: JoinSet<()>,
}

impl Network {
    async fn new() -> Self {
        let (for_caller, for_peer) = (End::new().await, End::new().await);
        let up = Arc::new(AtomicBool::new(true));
        let mut wires = JoinSet::new();
        for (from, to) in [(&for_caller, &for_peer), (&for_peer, &for_caller)] {
            let (from, to, up) = (Arc::clone(from), Arc::clone(to), Arc::clone(&up));
            wires.spawn(async move {
                let mut datagram = [0; 2_048];
                while let Ok(length) = from.socket.recv(&mut datagram).await {
                    if up.load(Ordering::Relaxed) {
                        let client = to.client.load(Ordering::Relaxed);
                        let sent = to.socket.send_to(&datagram[..length], (LOOPBACK, client));
                        let _ = sent.await;
                    }
                }
            });
        }
        Self {
            for_caller,
            for_peer,
            up,
            _wires: wires,
        }
    }

    fn set_up(&self, up: bool) {
        self.up.store(up, Ordering::Relaxed);
    }
}

/// The port of the only candidate.
fn port(sdp: &str) -> u16 {
    sdp.lines()
        .find(|line| line.starts_with("a=candidate:"))
        .and_then(|candidate| candidate.split(' ').nth(5)?.parse().ok())
        .expect("a candidate has a port")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_loss_of_the_network_suspends_speech_and_leaves_negotiation_alone() {
    let factory = factory(loopback());
    let mut call = Call::prepare(&factory).await;
    let network = Network::new().await;
    let offer = call.caller.add_microphone().await.unwrap();
    network
        .for_caller
        .client
        .store(port(&offer), Ordering::Relaxed);
    let answer = call
        .peer
        .answer(&network.for_peer.stand_in(&offer))
        .await
        .unwrap();
    network
        .for_peer
        .client
        .store(port(&answer), Ordering::Relaxed);
    call.caller
        .accept_answer(&network.for_caller.stand_in(&answer))
        .await
        .unwrap();
    sendable(&mut call.peer_events, true).await;

    let (notify, _news) = mpsc::channel(8);
    let mut output = call.peer.sink().open(TurnId(1), notify);
    let speech = PcmChunk::new(vec![1_000; 20 * 24_000], SampleRate::HZ_24000);
    output.writer.write(0, speech).await.unwrap();

    network.set_up(false);
    sendable(&mut call.peer_events, false).await;
    assert!(call.peer.audio_negotiated() && !call.peer.can_send_audio());
    let held = output.control.played();

    network.set_up(true);
    next(&mut call.peer_events, "audio again", |event| match event {
        PeerEvent::AudioSendable(sendable) => sendable.then_some(()),
        PeerEvent::AudioNegotiated(_) => panic!("nothing was negotiated"),
        _ => None,
    })
    .await;
    let goes_on = async {
        while output.control.played() == held {
            call.frames.recv().await;
        }
    };
    timeout(DEADLINE, goes_on).await.expect("playout goes on");
}
