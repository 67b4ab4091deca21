//! Is the client still there?

use std::time::{Duration, Instant};

use super::{CloseReason, ConnectionConfig};

/// Between two WebSocket protocol pings. Browsers answer them without the page's help.
const PING_EVERY: Duration = Duration::from_secs(20);
/// Unanswered protocol pings that make a socket dead.
const MAX_UNANSWERED: u32 = 2;

#[derive(Debug)]
pub(super) struct Heartbeat {
    /// When the last message of the application arrived.
    last_message: Instant,
    /// How long it may be silent: relaxed until its first `ping`, since the stock client starts to ping only when its
    /// peer is connected, which may take 48 s.
    patience: Duration,
    /// The patience from the first `ping` on.
    idle: Duration,
    /// When the next protocol ping is due.
    next_ping: Instant,
    /// Protocol pings since the last sign of life.
    unanswered: u32,
}

impl Heartbeat {
    pub(super) fn new(config: &ConnectionConfig, now: Instant) -> Self {
        Self {
            last_message: now,
            patience: config.idle_before_ping,
            idle: config.idle,
            next_ping: now + PING_EVERY,
            unanswered: 0,
        }
    }

    /// A text or binary message arrived on the WebSocket.
    pub(super) fn message(&mut self, now: Instant) {
        self.last_message = now;
        self.unanswered = 0;
    }

    /// A protocol ping or pong arrived. It shows that the socket lives, not that the page does.
    pub(super) fn control(&mut self) {
        self.unanswered = 0;
    }

    /// The message was a `ping`.
    pub(super) fn ping(&mut self) {
        self.patience = self.idle;
    }

    pub(super) fn deadline(&self) -> Instant {
        self.next_ping.min(self.last_message + self.patience)
    }

    /// What is due: `Ok(true)` for a protocol ping.
    pub(super) fn advance(&mut self, now: Instant) -> Result<bool, CloseReason> {
        if now >= self.last_message + self.patience {
            return Err(CloseReason::Idle);
        }
        if now < self.next_ping {
            return Ok(false);
        }
        if self.unanswered >= MAX_UNANSWERED {
            return Err(CloseReason::Unresponsive);
        }
        self.unanswered += 1;
        self.next_ping = now + PING_EVERY;
        Ok(true)
    }
}
