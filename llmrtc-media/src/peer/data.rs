//! The one data channel of a peer.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use bytes::Bytes;
use tokio::sync::mpsc;
use webrtc::data_channel::{DataChannel, DataChannelEvent};

use super::{
    event::{DataMessage, EventSender, Overrun, PeerEvent},
    runtime::Settling,
};
use crate::error::PeerError;

/// Session → data channel, in messages; the bound that matters is the one in bytes.
const SEND_QUEUE: usize = 4 * 1024;

/// The sending side, shared by the peer's handle and its tasks.
#[derive(Debug)]
pub(super) struct DataPort {
    queue: mpsc::Sender<String>,
    /// Bytes accepted and not yet taken by the stack's send buffer.
    buffered: AtomicUsize,
    limit: usize,
    /// Largest message the remote takes.
    remote_limit: AtomicUsize,
    open: AtomicBool,
}

impl DataPort {
    /// `limit`: most bytes that may wait. The receiver feeds [`write`].
    pub(super) fn new(limit: usize) -> (Arc<Self>, mpsc::Receiver<String>) {
        let (queue, messages) = mpsc::channel(SEND_QUEUE);
        let port = Self {
            queue,
            buffered: AtomicUsize::new(0),
            limit,
            remote_limit: AtomicUsize::new(0),
            open: AtomicBool::new(false),
        };
        (Arc::new(port), messages)
    }

    pub(super) fn set_remote_limit(&self, bytes: usize) {
        self.remote_limit.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    pub(super) fn close(&self) {
        self.open.store(false, Ordering::Release);
    }

    pub(super) fn buffered(&self) -> usize {
        self.buffered.load(Ordering::Relaxed)
    }

    pub(super) fn send(&self, text: String) -> Result<(), PeerError> {
        if !self.is_open() {
            return Err(PeerError::NotOpen);
        }
        let bytes = text.len();
        let limit = self.remote_limit.load(Ordering::Relaxed);
        if bytes > limit {
            return Err(PeerError::TooLarge { bytes, limit });
        }
        let buffered = self.buffered.fetch_add(bytes, Ordering::Relaxed);
        let refused = if buffered + bytes > self.limit {
            Err(PeerError::Backlogged { buffered })
        } else {
            self.queue.try_send(text).map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => PeerError::Backlogged { buffered },
                mpsc::error::TrySendError::Closed(_) => PeerError::NotOpen,
            })
        };
        if refused.is_err() {
            self.buffered.fetch_sub(bytes, Ordering::Relaxed);
        }
        refused
    }
}

/// Moves messages into the stack, which takes the next once its own buffer has room, that is once the remote has
/// acknowledged earlier ones.
pub(super) async fn write(
    port: Arc<DataPort>,
    channel: Arc<dyn DataChannel>,
    mut messages: mpsc::Receiver<String>,
) {
    while let Some(text) = messages.recv().await {
        let sent = channel.send_text(&text).await;
        port.buffered.fetch_sub(text.len(), Ordering::Relaxed);
        if let Err(error) = sent {
            tracing::debug!(%error, "data channel takes no more messages");
            port.close();
            return;
        }
    }
}

/// Reports what the channel receives until it closes.
pub(super) async fn read(
    port: Arc<DataPort>,
    channel: Arc<dyn DataChannel>,
    events: EventSender,
    settling: Settling,
) -> Result<(), Overrun> {
    while let Some(event) = channel.poll().await {
        match event {
            DataChannelEvent::OnOpen => {
                settling.done();
                port.open.store(true, Ordering::Release);
                events.emit(PeerEvent::DataOpened)?;
            }
            DataChannelEvent::OnMessage(message) => {
                let bytes = Bytes::from(message.data);
                let message = if message.is_string {
                    String::from_utf8(bytes.into()).map_or_else(
                        |error| DataMessage::Binary(error.into_bytes().into()),
                        DataMessage::Text,
                    )
                } else {
                    DataMessage::Binary(bytes)
                };
                events.emit(PeerEvent::DataMessage(message))?;
            }
            DataChannelEvent::OnClose => break,
            _ => {}
        }
    }
    if port.open.swap(false, Ordering::AcqRel) {
        events.emit(PeerEvent::DataClosed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(limit: usize) -> (Arc<DataPort>, mpsc::Receiver<String>) {
        let (port, messages) = DataPort::new(limit);
        port.set_remote_limit(1_000);
        port.open.store(true, Ordering::Release);
        (port, messages)
    }

    #[test]
    fn nothing_is_sent_before_the_channel_is_open() {
        let (port, _messages) = DataPort::new(100);
        port.set_remote_limit(1_000);
        assert!(matches!(port.send("hello".into()), Err(PeerError::NotOpen)));
    }

    #[test]
    fn what_does_not_fit_is_refused_and_not_counted() {
        let (port, mut messages) = open(100);
        port.send("a".repeat(60)).unwrap();
        assert!(matches!(
            port.send("b".repeat(60)),
            Err(PeerError::Backlogged { buffered: 60 })
        ));
        assert_eq!(port.buffered(), 60);
        port.send("c".repeat(40)).unwrap();
        assert_eq!(messages.try_recv().unwrap().len(), 60);
        assert_eq!(messages.try_recv().unwrap().len(), 40);
        assert!(messages.try_recv().is_err());
    }

    #[test]
    fn the_remote_limit_is_respected() {
        let (port, _messages) = open(1_000_000);
        assert!(matches!(
            port.send("a".repeat(1_001)),
            Err(PeerError::TooLarge {
                bytes: 1_001,
                limit: 1_000
            })
        ));
    }

    #[test]
    fn a_queue_without_reader_is_closed() {
        let (port, messages) = open(100);
        drop(messages);
        assert!(matches!(port.send("a".into()), Err(PeerError::NotOpen)));
        assert_eq!(port.buffered(), 0);
    }
}
