//! Two peers and the signalling between them.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use llmrtc_media::{
    config::MediaConfig,
    peer::{
        CallerPeer, DataMessage, Peer, PeerConfig, PeerEvent, PeerEvents, PeerFactory,
        sdp::{CandidatePolicy, Description},
    },
    pipeline::{MediaThreads, ReceivedFrame},
};
use tokio::{sync::mpsc, time::timeout};

/// Far beyond what anything here takes, so that a loaded machine does not fail a test.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Loopback only: tests must not depend on the interfaces of the machine.
pub(crate) fn loopback() -> PeerConfig {
    PeerConfig {
        bind_addresses: vec![LOOPBACK],
        ..PeerConfig::default()
    }
}

pub(crate) fn factory(config: PeerConfig) -> PeerFactory {
    let media = MediaThreads::start(&MediaConfig::default()).expect("media threads");
    PeerFactory::new(config, LOOPBACK, media)
}

pub(crate) struct Call {
    pub(crate) caller: CallerPeer,
    pub(crate) caller_events: PeerEvents,
    pub(crate) frames: mpsc::Receiver<ReceivedFrame>,
    pub(crate) peer: Peer,
    pub(crate) peer_events: PeerEvents,
}

impl Call {
    /// Two peers that know nothing of each other yet.
    pub(crate) async fn prepare(factory: &PeerFactory) -> Self {
        let (peer, peer_events) = factory.answering(false).await.expect("answering peer");
        let (caller, caller_events, frames) = factory.calling().await.expect("calling peer");
        Self {
            caller,
            caller_events,
            frames,
            peer,
            peer_events,
        }
    }

    /// A call with an open data channel on both sides.
    pub(crate) async fn connect(factory: &PeerFactory) -> Self {
        let mut call = Self::prepare(factory).await;
        let offer = call.caller.offer().await.expect("offer");
        call.exchange(&offer).await;
        opened(&mut call.caller_events).await;
        opened(&mut call.peer_events).await;
        call
    }

    /// Carries an offer over and its answer back; returns the answer.
    pub(crate) async fn exchange(&self, offer: &str) -> String {
        let answer = self.peer.answer(offer).await.expect("answer");
        self.caller
            .accept_answer(&answer)
            .await
            .expect("answer is accepted");
        answer
    }

    /// Shares a microphone, in place of an earlier one; returns offer and answer.
    pub(crate) async fn share_microphone(&mut self) -> (String, String) {
        let offer = self.caller.add_microphone().await.expect("offer");
        let answer = self.exchange(&offer).await;
        (offer, answer)
    }
}

/// Waits for the first event that `pick` takes.
pub(crate) async fn next<T>(
    events: &mut PeerEvents,
    what: &str,
    mut pick: impl FnMut(PeerEvent) -> Option<T>,
) -> T {
    let found = timeout(DEADLINE, async {
        loop {
            match events.recv().await {
                Some(event) => {
                    if let Some(found) = pick(event) {
                        return found;
                    }
                }
                None => panic!("the peer is gone while waiting for {what}"),
            }
        }
    });
    found
        .await
        .unwrap_or_else(|_| panic!("{what} did not come within {DEADLINE:?}"))
}

pub(crate) async fn opened(events: &mut PeerEvents) {
    next(events, "an open data channel", |event| {
        matches!(event, PeerEvent::DataOpened).then_some(())
    })
    .await;
}

pub(crate) async fn text(events: &mut PeerEvents) -> String {
    next(events, "a message", |event| match event {
        PeerEvent::DataMessage(DataMessage::Text(text)) => Some(text),
        _ => None,
    })
    .await
}

pub(crate) async fn sendable(events: &mut PeerEvents, expected: bool) {
    next(
        events,
        "a change of what can be sent",
        |event| match event {
            PeerEvent::AudioSendable(sendable) if sendable == expected => Some(()),
            _ => None,
        },
    )
    .await;
}

pub(crate) async fn negotiated(events: &mut PeerEvents, expected: bool) {
    next(events, "a change of what is negotiated", |event| {
        matches!(event, PeerEvent::AudioNegotiated(negotiated) if negotiated == expected)
            .then_some(())
    })
    .await;
}

/// Descriptions of our own are read with the parser for foreign ones.
pub(crate) fn parse(sdp: &str) -> Description {
    let policy = CandidatePolicy {
        loopback: true,
        private: true,
    };
    Description::parse(sdp, policy).expect("our own description is valid")
}
