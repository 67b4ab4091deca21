//! The offering end, for clients written in Rust.

use std::sync::{Arc, atomic::Ordering};

use llmrtc_core::playout::AudioSink;

use super::{
    Handle, PeerStats,
    owner::{Change, Command},
};
use crate::error::PeerError;

/// The offering end of a call. Behaves like the browser client: a data channel first, audio by renegotiation, one
/// more m-line for every microphone. Dropping it closes the connection and tells the remote.
///
/// One offer at a time: its answer must be [accepted](Self::accept_answer) before the next offer is made.
#[derive(Debug)]
pub struct CallerPeer {
    pub(super) handle: Handle,
}

impl CallerPeer {
    async fn propose(&self, change: Change) -> Result<String, PeerError> {
        self.handle
            .ask(|reply| Command::Offer { change, reply })
            .await
    }

    /// The first offer: the data channel and nothing else.
    ///
    /// # Errors
    /// Those of the stack; the peer is closed then.
    ///
    /// # Cancel safety
    /// Dropping the future does not withdraw the offer.
    pub async fn offer(&self) -> Result<String, PeerError> {
        self.propose(Change::Nothing).await
    }

    /// Offers a microphone on a new m-line, in place of an earlier one.
    ///
    /// # Errors
    /// Those of the stack; the peer is closed then.
    ///
    /// # Cancel safety
    /// Dropping the future does not withdraw the offer.
    pub async fn add_microphone(&self) -> Result<String, PeerError> {
        self.propose(Change::AddMicrophone).await
    }

    /// Offers to go on without the microphone; the remote's audio keeps coming.
    ///
    /// # Errors
    /// Those of the stack; the peer is closed then.
    ///
    /// # Cancel safety
    /// Dropping the future does not withdraw the offer.
    pub async fn remove_microphone(&self) -> Result<String, PeerError> {
        self.propose(Change::RemoveMicrophone).await
    }

    /// Offers new ICE credentials, to find a path again.
    ///
    /// # Errors
    /// Those of the stack; the peer is closed then.
    ///
    /// # Cancel safety
    /// Dropping the future does not withdraw the offer.
    pub async fn restart_ice(&self) -> Result<String, PeerError> {
        self.propose(Change::RestartIce).await
    }

    /// Applies the answer to the latest offer.
    ///
    /// # Errors
    /// [`PeerError::Description`] when it is rejected at the door; everything else has closed the peer.
    ///
    /// # Cancel safety
    /// Dropping the future does not undo the negotiation.
    pub async fn accept_answer(&self, answer: &str) -> Result<(), PeerError> {
        let answer = answer.to_owned();
        self.handle
            .ask(|reply| Command::Accept { answer, reply })
            .await
    }

    /// Queues a message for the data channel.
    ///
    /// # Errors
    /// [`PeerError::NotOpen`], [`PeerError::TooLarge`] or [`PeerError::Backlogged`]; nothing was queued then.
    pub fn send_data(&self, text: String) -> Result<(), PeerError> {
        self.handle.shared.data.send(text)
    }

    /// Bytes of messages that wait to be sent, apart from the last 256 KiB that are on their way.
    pub fn buffered(&self) -> usize {
        self.handle.shared.data.buffered()
    }

    /// What the remote hears, paced like the server's speech: a file written here is sent in real time.
    pub fn microphone(&self) -> Arc<dyn AudioSink> {
        Arc::clone(&self.handle.sink)
    }

    /// Whether the remote takes the microphone and is connected.
    pub fn can_send_audio(&self) -> bool {
        self.handle.shared.sendable.load(Ordering::Acquire)
    }

    /// Counters since the start.
    pub fn stats(&self) -> PeerStats {
        self.handle.stats()
    }

    /// Closes the peer, as dropping it does.
    pub fn close(self) {}
}
