//! What a peer reports, and the queue it reports through.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use llmrtc_core::speech::SpeechEvent;
use tokio::sync::mpsc;

/// Peer → session. Full: the remote outruns the session, and the peer is closed ([`CloseReason::Overrun`]). Waiting
/// instead would let the stack's own queues grow, which are bounded by count only: 512 messages of 256 KiB each.
const EVENT_QUEUE: usize = 8 * 1024;
/// Bytes of data channel messages in that queue, with `MESSAGE_OVERHEAD` for each. A client's largest legitimate
/// burst is a handful of attachments.
const EVENT_QUEUE_BYTES: usize = 8 * 1024 * 1024;
/// What a message costs beside its content, so that many empty ones are not free.
const MESSAGE_OVERHEAD: usize = 512;
/// Media thread → session. One utterance is a few events; live transcription adds fifty pieces of audio a second.
pub(super) const SPEECH_QUEUE: usize = 256;

/// News from a peer.
#[derive(Debug)]
#[non_exhaustive]
pub enum PeerEvent {
    /// The transport is up, for the first time or again.
    Connected,
    /// Nothing was heard from the remote for five seconds. It may come back, or restart ICE.
    Disconnected,
    /// The data channel is open: from here on [`send_data`](super::Peer::send_data) works.
    DataOpened,
    /// A message came over the data channel.
    DataMessage(DataMessage),
    /// The data channel is closed, which ends the call for a browser client. Nothing more comes from it.
    DataClosed,
    /// The caller's voice.
    Speech(SpeechEvent),
    /// Whether the remote takes audio from us changed, by an offer and its answer. Short losses of the network leave it
    /// alone, so this is what decides where speech goes.
    AudioNegotiated(bool),
    /// Whether audio reaches the remote changed: it takes audio, and the transport is up. Off, playout stands still and
    /// goes on from the same sample later.
    AudioSendable(bool),
    /// The peer is gone. The last event.
    Closed(CloseReason),
}

/// A message of the data channel.
#[derive(Clone, PartialEq, Eq)]
pub enum DataMessage {
    /// Sent as a string.
    Text(String),
    /// Sent as bytes, or as a string that is not UTF-8.
    Binary(Bytes),
}

impl DataMessage {
    /// The content, whichever way it was sent.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Binary(bytes) => bytes,
        }
    }
}

impl fmt::Debug for DataMessage {
    /// Size only: messages are what people say.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::Text(_) => "Text",
            Self::Binary(_) => "Binary",
        };
        write!(f, "{kind}({} bytes)", self.as_bytes().len())
    }
}

/// Why a peer is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// We closed or dropped it.
    Local,
    /// The transport failed: never reached, lost for longer than the configured time, or the handshake was refused.
    TransportFailed,
    /// An offer or answer could not be applied.
    NegotiationFailed,
    /// The remote sent faster than the session took.
    Overrun,
    /// The remote broke the protocol: it opened channel after channel.
    Misbehaved,
    /// The WebRTC stack came to an end by itself.
    StackFailed,
}

/// Receives the events of one peer.
#[derive(Debug)]
pub struct PeerEvents {
    events: mpsc::Receiver<PeerEvent>,
    speech: mpsc::Receiver<SpeechEvent>,
    bytes: Arc<AtomicUsize>,
}

impl PeerEvents {
    /// The next event; `None` after [`PeerEvent::Closed`].
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn recv(&mut self) -> Option<PeerEvent> {
        let event = tokio::select! {
            biased;
            Some(speech) = self.speech.recv() => return Some(PeerEvent::Speech(speech)),
            event = self.events.recv() => event,
        };
        if let Some(PeerEvent::DataMessage(message)) = &event {
            self.bytes.fetch_sub(cost(message), Ordering::Relaxed);
        }
        event
    }
}

fn cost(message: &DataMessage) -> usize {
    message.as_bytes().len() + MESSAGE_OVERHEAD
}

/// The queue is full, or nobody listens.
#[derive(Debug)]
pub(super) struct Overrun;

/// Sends the events of one peer. Never waits.
#[derive(Clone, Debug)]
pub(super) struct EventSender {
    events: mpsc::Sender<PeerEvent>,
    bytes: Arc<AtomicUsize>,
}

impl EventSender {
    pub(super) fn emit(&self, event: PeerEvent) -> Result<(), Overrun> {
        if let PeerEvent::DataMessage(message) = &event {
            let cost = cost(message);
            if self.bytes.fetch_add(cost, Ordering::Relaxed) + cost > EVENT_QUEUE_BYTES {
                return Err(Overrun);
            }
        }
        self.events.try_send(event).map_err(|_| Overrun)
    }
}

/// A queue for one peer; speech comes from its pipeline.
pub(super) fn queue(speech: mpsc::Receiver<SpeechEvent>) -> (EventSender, PeerEvents) {
    let (sender, events) = mpsc::channel(EVENT_QUEUE);
    let bytes = Arc::new(AtomicUsize::new(0));
    (
        EventSender {
            events: sender,
            bytes: Arc::clone(&bytes),
        },
        PeerEvents {
            events,
            speech,
            bytes,
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(bytes: usize) -> PeerEvent {
        PeerEvent::DataMessage(DataMessage::Binary(vec![0; bytes].into()))
    }

    #[tokio::test]
    async fn the_queue_is_bounded_in_bytes_and_reading_makes_room() {
        let (_speech_sender, speech) = mpsc::channel(1);
        let (sender, mut events) = queue(speech);
        let large = 256 * 1024;
        let fitting = EVENT_QUEUE_BYTES / (large + MESSAGE_OVERHEAD);
        for _ in 0..fitting {
            sender.emit(message(large)).unwrap();
        }
        let (other, mut other_events) = queue(mpsc::channel(1).1);
        other.emit(message(large)).unwrap();
        assert!(other_events.recv().await.is_some());
        assert_eq!(other.bytes.load(Ordering::Relaxed), 0);
        assert!(events.recv().await.is_some());
        sender.emit(message(large)).unwrap();
        assert!(sender.emit(message(large)).is_err());
    }

    #[tokio::test]
    async fn the_queue_is_bounded_in_messages() {
        let (_speech_sender, speech) = mpsc::channel(1);
        let (sender, _events) = queue(speech);
        let sent = (0..)
            .take_while(|_| sender.emit(message(0)).is_ok())
            .count();
        assert_eq!(sent, EVENT_QUEUE.min(EVENT_QUEUE_BYTES / MESSAGE_OVERHEAD));
    }

    #[tokio::test]
    async fn events_end_when_the_peer_is_gone() {
        let (speech_sender, speech) = mpsc::channel(1);
        let (sender, mut events) = queue(speech);
        speech_sender.send(SpeechEvent::Confirmed).await.unwrap();
        sender.emit(PeerEvent::Closed(CloseReason::Local)).unwrap();
        drop((sender, speech_sender));
        assert!(matches!(events.recv().await, Some(PeerEvent::Speech(_))));
        assert!(matches!(
            events.recv().await,
            Some(PeerEvent::Closed(CloseReason::Local))
        ));
        assert!(events.recv().await.is_none());
    }

    #[test]
    fn debug_shows_no_content() {
        assert_eq!(
            format!("{:?}", DataMessage::Text("what I said".into())),
            "Text(11 bytes)"
        );
    }
}
