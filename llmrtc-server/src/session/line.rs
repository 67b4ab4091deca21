//! The peer of a session: offers and answers, what the peer reports, and where speech goes.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use llmrtc_core::playout::AudioSink;
use llmrtc_media::{
    error::PeerError,
    peer::{CloseReason, DataMessage, Peer, PeerEvent, PeerEvents},
};
use llmrtc_security::limit::{admission::Place, config::Scope};
use llmrtc_signal::{
    connection::NegotiateError,
    protocol::{ErrorCode, ServerMessage},
};

use super::Session;

/// How long an offer may take. Longer than a configured gathering, shorter than anybody's patience.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A peer and what it reports.
pub(super) struct Line {
    pub(super) peer: Peer,
    events: PeerEvents,
    /// Its place among the peers that are being set up, until it is connected.
    setup: Option<Place>,
    /// It has answered an offer.
    answered: bool,
    /// Its data channel was open.
    connected: bool,
}

impl Session {
    pub(super) async fn negotiate(&mut self, sdp: &str) -> Result<String, NegotiateError> {
        if !self.may(Scope::Offer).await {
            return Err(NegotiateError::Failed);
        }
        let fresh = self.peer.is_none();
        match self.try_offer(sdp).await {
            // The peer had just died, and nobody had been told: the next one may do.
            Err(NegotiateError::Failed) if !fresh && self.peer.is_none() => {
                self.try_offer(sdp).await
            }
            answer => answer,
        }
    }

    async fn try_offer(&mut self, sdp: &str) -> Result<String, NegotiateError> {
        if self.peer.is_none() {
            // Handshakes are what a herd of clients costs; whoever does not fit tries again.
            let Ok(setup) = self.shared.security.capacity.setup() else {
                return Err(NegotiateError::Unavailable);
            };
            let live = self.conversation().wants_live_audio();
            match self.shared.peers.answering(live).await {
                Ok((peer, events)) => {
                    self.peer = Some(Line {
                        peer,
                        events,
                        setup: Some(setup),
                        answered: false,
                        connected: false,
                    });
                }
                Err(error) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "no peer");
                    return Err(NegotiateError::Unavailable);
                }
            }
        }
        let Some(line) = &mut self.peer else {
            return Err(NegotiateError::Unavailable);
        };
        // Nothing else of this session moves meanwhile, so it must not take long, nor outlast the ownership.
        let answer = tokio::select! {
            biased;
            _ = self.lease.revoked() => Err(PeerError::Closed),
            answer = tokio::time::timeout(ANSWER_TIMEOUT, line.peer.answer(sdp)) => {
                answer.unwrap_or(Err(PeerError::Closed))
            }
        };
        match answer {
            Ok(answer) => {
                line.answered = true;
                Ok(answer)
            }
            Err(error) => {
                let unused = !line.answered;
                let session = self.session_id.short();
                tracing::info!(%session, error = &error as &dyn std::error::Error, "offer rejected");
                if error.is_fatal() || unused {
                    self.lose_peer();
                }
                Err(NegotiateError::Failed)
            }
        }
    }

    pub(super) fn peer_event(&mut self, event: PeerEvent) {
        match event {
            PeerEvent::DataOpened => {
                self.established = true;
                if let Some(line) = &mut self.peer {
                    line.connected = true;
                    line.setup = None;
                }
                self.shared.keep.handles.confirm(&self.lease);
                self.connection.data_opened();
            }
            PeerEvent::DataMessage(message) => {
                let bytes = match message {
                    DataMessage::Text(text) => Bytes::from(text),
                    DataMessage::Binary(bytes) => bytes,
                };
                self.connection.data_message(bytes);
            }
            // The client is gone, or closed its side: ICE would notice half a minute later.
            PeerEvent::DataClosed => self.lose_peer(),
            PeerEvent::Speech(event) if !self.leaving => self.conversation().speech(event),
            PeerEvent::AudioNegotiated(_) => self.choose_sink(),
            PeerEvent::Closed(reason) => {
                tracing::info!(session = %self.session_id.short(), ?reason, "peer closed");
                let never = self.peer.as_ref().is_some_and(|line| !line.connected);
                self.lose_peer();
                if never {
                    self.connection
                        .send(ServerMessage::error(ErrorCode::ConnectionFailed));
                }
            }
            _ => {}
        }
    }

    pub(super) fn lose_peer(&mut self) {
        self.peer = None;
        self.connection.data_closed();
        self.choose_sink();
        // Nobody hears the answer any more (R10).
        if let Some(conversation) = &mut self.conversation {
            conversation.source_lost();
        }
    }

    /// Where speech goes: to the track where one was negotiated, to messages otherwise (§4.7). A short loss of the
    /// network changes nothing: the track stands still and continues.
    pub(super) fn sink(&self) -> Arc<dyn AudioSink> {
        match &self.peer {
            Some(line) if line.peer.audio_negotiated() => line.peer.sink(),
            _ => Arc::clone(&self.chunk_sink),
        }
    }

    fn choose_sink(&mut self) {
        let sink = self.sink();
        if let Some(conversation) = &mut self.conversation {
            conversation.set_sink(sink);
        }
    }
}

/// What the peer reports next; never, where there is none.
pub(super) async fn next_peer_event(line: &mut Option<Line>) -> PeerEvent {
    match line {
        // A peer that ends without a word is as closed as any other.
        Some(line) => line
            .events
            .recv()
            .await
            .unwrap_or(PeerEvent::Closed(CloseReason::StackFailed)),
        None => std::future::pending().await,
    }
}
