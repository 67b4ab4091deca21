//! How connecting fails, and how connections end.

use tokio_tungstenite::tungstenite;

use crate::protocol::InvalidServerMessage;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The URL has no host.
    #[error("the signalling URL is not usable")]
    Url,
    /// Only `ws:` is built in.
    #[error("the signalling URL does not start with ws:")]
    Scheme,
    /// The origin or credential contains characters that no header may have.
    #[error("a header has invalid characters")]
    Header,
    /// No upgrade within 10 s.
    #[error("the server did not answer in time")]
    Timeout,
    /// The server refused the upgrade.
    #[error("the server refused the connection with status {status}")]
    Refused {
        /// 401, 403, 429 or 503, usually.
        status: u16,
    },
    /// The network failed.
    #[error("the server cannot be reached")]
    Unreachable(#[source] std::io::Error),
    /// What answered does not speak the WebSocket protocol.
    #[error("the WebSocket handshake failed")]
    Handshake(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No `ready` within 10 s.
    #[error("the server did not say that it is ready")]
    NoReady,
    /// The server closed during the greeting.
    #[error("the server closed the connection during the greeting")]
    Closed {
        /// Its close code, if any.
        code: Option<u16>,
    },
    /// The greeting was malformed.
    #[error("the greeting is malformed")]
    Greeting(#[from] InvalidServerMessage),
}

impl From<tungstenite::Error> for ConnectError {
    fn from(error: tungstenite::Error) -> Self {
        match error {
            tungstenite::Error::Http(response) => Self::Refused {
                status: response.status().as_u16(),
            },
            tungstenite::Error::Io(error) => Self::Unreachable(error),
            tungstenite::Error::Url(_) => Self::Url,
            tungstenite::Error::HttpFormat(_) => Self::Header,
            error => Self::Handshake(Box::new(error)),
        }
    }
}

/// The connection is over; [`ClientEvent::Lost`](super::ClientEvent::Lost) says why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the connection is over")]
pub struct Disconnected;

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LostReason {
    /// The server closed, with this code if any.
    Server(Option<u16>),
    /// The socket failed or vanished.
    Socket,
    /// Two pings in a row went unanswered.
    Heartbeat,
    /// [`Client::close`](super::Client::close) was called.
    Closed,
}
