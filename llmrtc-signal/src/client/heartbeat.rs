//! The client's pings.

use std::time::{Duration, Instant};

/// Between two pings.
const PERIOD: Duration = Duration::from_secs(15);
/// How long the server may take to answer one.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Unanswered pings in a row that mean the server is gone.
const MAX_MISSES: u32 = 2;

/// Unlike the stock client's, it starts with the connection rather than with the peer: a client that only sends
/// `audio` has no peer and must not look idle.
#[derive(Debug)]
pub(super) struct Heartbeat {
    next_ping: Instant,
    /// When the ping in flight counts as missed.
    answer_by: Option<Instant>,
    misses: u32,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Beat {
    Nothing,
    Ping,
    Lost,
}

impl Heartbeat {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            next_ping: now + PERIOD,
            answer_by: None,
            misses: 0,
        }
    }

    pub(super) fn pong(&mut self) {
        self.answer_by = None;
        self.misses = 0;
    }

    pub(super) fn deadline(&self) -> Instant {
        self.answer_by
            .map_or(self.next_ping, |at| at.min(self.next_ping))
    }

    pub(super) fn advance(&mut self, now: Instant) -> Beat {
        if self.answer_by.is_some_and(|at| now >= at) {
            self.answer_by = None;
            self.misses += 1;
            if self.misses >= MAX_MISSES {
                return Beat::Lost;
            }
        }
        if now < self.next_ping {
            return Beat::Nothing;
        }
        self.next_ping = now + PERIOD;
        self.answer_by = Some(now + ANSWER_WITHIN);
        Beat::Ping
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_server_is_given_up_25_seconds_after_the_first_unanswered_ping() {
        let start = Instant::now();
        let mut heartbeat = Heartbeat::new(start);
        let mut beats = Vec::new();
        let mut now = start;
        while !matches!(beats.last(), Some((_, Beat::Lost))) {
            now = heartbeat.deadline();
            beats.push(((now - start).as_secs(), heartbeat.advance(now)));
        }
        assert_eq!(
            beats,
            [
                (15, Beat::Ping),
                (25, Beat::Nothing),
                (30, Beat::Ping),
                (40, Beat::Lost)
            ]
        );
        assert_eq!(now, heartbeat.deadline().min(now));
    }

    #[test]
    fn one_pong_forgives() {
        let start = Instant::now();
        let mut heartbeat = Heartbeat::new(start);
        for round in 1..100 {
            let now = start + PERIOD * round;
            assert_eq!(heartbeat.advance(now), Beat::Ping);
            if round % 2 == 0 {
                heartbeat.pong();
            }
            assert_eq!(heartbeat.advance(now + ANSWER_WITHIN), Beat::Nothing);
        }
    }
}
