//! Why connections end.

use std::fmt;

/// Why a connection ended, and the WebSocket close code that says so.
///
/// The stock client ignores code and reason; both are for logs and for other clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// The client closed, with this code if any.
    Client(Option<u16>),
    /// The socket failed or vanished.
    SocketLost,
    /// No message within the idle time.
    Idle,
    /// Two WebSocket pings went unanswered.
    Unresponsive,
    /// Neither offer nor audio came in time.
    Unused,
    /// The longest connection time is over.
    MaxDuration,
    /// Too many malformed messages or exceeded rates.
    Abuse,
    /// Admitted for a resume only, and did something else or failed at it.
    ResumeRequired,
    /// A message exceeded every limit.
    TooLarge,
    /// A binary frame that is not UTF-8 text.
    NotText,
    /// The client broke the WebSocket protocol.
    Protocol,
    /// The client does not read what it is sent.
    SlowClient,
    /// The server is overloaded.
    Overload,
    /// The server shuts down.
    Shutdown,
    /// Another connection resumed the session.
    TakenOver,
    /// The first message was no valid credential, or the session's credential expired or was revoked.
    Unauthorised,
    /// The credential did not come in time.
    AuthTimeout,
    /// The same user has opened another session, and may not have so many.
    Replaced,
    /// The client goes on after it was told to slow down.
    RateLimited,
    /// The session was ended: a resume token was replayed, or an operator ended it.
    SessionEnded,
    /// The session failed inside the server.
    Internal,
}

impl CloseReason {
    /// The close code (RFC 6455 §7.4), or `None` where there is nobody left to tell.
    pub const fn code(self) -> Option<u16> {
        match self {
            Self::Client(_) | Self::SocketLost => None,
            Self::Shutdown => Some(1001),
            Self::Protocol => Some(1002),
            Self::NotText => Some(1003),
            Self::Idle
            | Self::Unresponsive
            | Self::Unused
            | Self::MaxDuration
            | Self::Abuse
            | Self::ResumeRequired
            | Self::SessionEnded => Some(1008),
            Self::TooLarge => Some(1009),
            Self::Internal => Some(1011),
            Self::SlowClient | Self::Overload => Some(1013),
            Self::TakenOver => Some(4001),
            Self::Unauthorised => Some(4401),
            Self::AuthTimeout => Some(4408),
            Self::Replaced => Some(4409),
            Self::RateLimited => Some(4429),
        }
    }

    /// The reason phrase of the close frame, also the metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Client(_) => "client closed",
            Self::SocketLost => "socket lost",
            Self::Idle => "idle",
            Self::Unresponsive => "unresponsive",
            Self::Unused => "unused",
            Self::MaxDuration => "maximum duration",
            Self::Abuse => "too many violations",
            Self::ResumeRequired => "resume required",
            Self::TooLarge => "message too large",
            Self::NotText => "not text",
            Self::Protocol => "protocol error",
            Self::SlowClient => "slow client",
            Self::Overload => "overloaded",
            Self::Shutdown => "server shutting down",
            Self::TakenOver => "taken over",
            Self::Unauthorised => "unauthorised",
            Self::AuthTimeout => "authentication timeout",
            Self::Replaced => "replaced",
            Self::RateLimited => "rate limited",
            Self::SessionEnded => "session ended",
            Self::Internal => "internal error",
        }
    }

    /// Whether the data channel is worth flushing first. It is not when the client is gone, does not read, or must
    /// let go at once.
    pub(super) const fn flushes(self) -> bool {
        matches!(
            self,
            Self::Shutdown | Self::Internal | Self::Overload | Self::Abuse | Self::MaxDuration
        )
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}
