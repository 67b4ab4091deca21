//! One client's connection, from the greeting to the close.
//!
//! [`Machine`] decides, without I/O and without a clock; [`server::accept`] runs it over a WebSocket. The session that
//! owns the peer and the conversation hears [`ConnectionEvent`]s and answers through a [`server::Connection`].

mod close;
mod config;
mod heartbeat;
mod limits;
mod machine;
mod routing;
mod sdp;
pub mod server;

use std::fmt;

use bytes::Bytes;
use llmrtc_core::{message::Attachment, redact::Secret};

pub use self::{
    close::CloseReason,
    config::ConnectionConfig,
    machine::{Action, Input, Machine},
    sdp::{InvalidOffer, check_offer},
};
use crate::protocol::{IceServer, Mode, Presented};

/// What a connection is opened with: the content of `ready`, and what the client may do.
#[derive(Clone, Debug)]
pub struct Ready {
    /// The opaque handle of the session that this connection would open. A credential: never logged.
    pub id: Secret,
    /// The client's way through firewalls. An empty list makes the stock client fall back to a public server.
    pub ice_servers: Vec<IceServer>,
    /// How answers are produced.
    pub mode: Option<Mode>,
    /// The first resume token of the session, if tokens are issued.
    pub resume_token: Option<Secret>,
    /// The client was admitted on a spent ticket: its first message must be `reconnect`, within 5 s, and it must
    /// succeed; anything else closes the connection with [`CloseReason::ResumeRequired`].
    pub resume_only: bool,
}

impl Ready {
    /// A greeting with nothing but a handle.
    pub fn new(id: Secret) -> Self {
        Self {
            id,
            ice_servers: Vec::new(),
            mode: None,
            resume_token: None,
            resume_only: false,
        }
    }
}

/// The answer to [`ConnectionEvent::Resume`].
#[derive(Clone, Debug)]
pub enum ResumeReply {
    /// The earlier session now belongs to this connection. Its previous owner has been detached already.
    Resumed {
        /// The handle from now on; the same one unless handles are rotated.
        session_id: Secret,
        /// The next resume token, if tokens are issued.
        resume_token: Option<Secret>,
    },
    /// Unknown, expired, somebody else's: the client learns nothing about which.
    Refused,
}

/// Why an offer got no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NegotiateError {
    /// The media stack is switched off.
    #[error("media is not available")]
    Unavailable,
    /// The offer could not be applied; the peer has been discarded unless it was already connected.
    #[error("offer could not be applied")]
    Failed,
}

/// What a connection tells the session that owns it, in the order in which it happened.
///
/// `Debug` shows kinds and sizes only.
#[non_exhaustive]
pub enum ConnectionEvent {
    /// Apply this offer, then call [`answer`](server::Connection::answer) once. The next one comes after that.
    Offer {
        /// The session description, within the bounds of [`check_offer`].
        sdp: String,
    },
    /// Look the session up, then call [`resumed`](server::Connection::resumed) once. Offers wait for it; the client
    /// waits at most 5 s.
    Resume {
        /// The handle the client remembers.
        session_id: Secret,
        /// The token it was given last.
        resume_token: Option<Secret>,
    },
    /// A complete utterance.
    Audio {
        /// In a container still to be recognised.
        data: Bytes,
        /// Images that belong to it.
        attachments: Vec<Attachment>,
    },
    /// A question in writing; never blank.
    Text(String),
    /// Images for the utterance in progress.
    Attachments(Vec<Attachment>),
    /// Stop the answer that is being made or spoken.
    Interrupt,
    /// A new credential for the session. Answer with [`ServerMessage::AuthRefreshed`](crate::protocol::ServerMessage)
    /// or close with [`CloseReason::Unauthorised`].
    Auth(Presented),
    /// Put this text on the data channel.
    SendData(String),
    /// The connection is about to close: call [`data_flushed`](server::Connection::data_flushed) when the data
    /// channel has nothing left to send. After 250 ms it closes anyway.
    FlushData,
    /// The connection is over. Always the last event, and always sent.
    Closed {
        /// Why.
        reason: CloseReason,
    },
}

impl fmt::Debug for ConnectionEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Offer { sdp } => write!(f, "Offer({} bytes)", sdp.len()),
            Self::Resume { .. } => f.write_str("Resume"),
            Self::Audio { data, attachments } => {
                write!(
                    f,
                    "Audio({} bytes, {} attachments)",
                    data.len(),
                    attachments.len()
                )
            }
            Self::Text(text) => write!(f, "Text({} bytes)", text.len()),
            Self::Attachments(attachments) => write!(f, "Attachments({})", attachments.len()),
            Self::Interrupt => f.write_str("Interrupt"),
            Self::Auth(_) => f.write_str("Auth"),
            Self::SendData(text) => write!(f, "SendData({} bytes)", text.len()),
            Self::FlushData => f.write_str("FlushData"),
            Self::Closed { reason } => write!(f, "Closed({reason:?})"),
        }
    }
}
