//! What can go wrong with a peer, sorted by whose fault it is.

use llmrtc_core::provider::BoxError;

use crate::peer::sdp::SdpError;

/// A peer could not do what it was asked to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// The remote sent a session description that we do not take. Nothing was changed.
    #[error("session description rejected")]
    Description(#[from] SdpError),
    /// The remote sent a well-formed description that cannot be applied. The peer is closed.
    #[error("session description cannot be applied")]
    Negotiation(#[source] BoxError),
    /// The remote does not read: more than the configured number of bytes wait to be sent. Nothing was queued.
    #[error("{buffered} bytes are waiting to be sent")]
    Backlogged {
        /// Bytes that wait.
        buffered: usize,
    },
    /// A message exceeds what the remote said it takes. Nothing was queued.
    #[error("message of {bytes} bytes exceeds the limit of {limit}")]
    TooLarge {
        /// Size of the message.
        bytes: usize,
        /// What the remote takes.
        limit: usize,
    },
    /// The data channel is not open, or no longer.
    #[error("data channel is not open")]
    NotOpen,
    /// The peer was closed, by either side or by a failure.
    #[error("peer is closed")]
    Closed,
    /// No socket could be bound, or the WebRTC stack refused its configuration. An operator's business.
    #[error("peer cannot be created")]
    Setup(#[source] BoxError),
    /// The WebRTC stack panicked. The peer is closed, others are not affected.
    #[error("WebRTC stack panicked")]
    Panicked,
}

impl PeerError {
    /// Whether the peer is of no more use and should be dropped.
    pub fn is_fatal(&self) -> bool {
        match self {
            Self::Negotiation(_) | Self::Closed | Self::Setup(_) | Self::Panicked => true,
            Self::Description(_)
            | Self::Backlogged { .. }
            | Self::TooLarge { .. }
            | Self::NotOpen => false,
        }
    }
}
