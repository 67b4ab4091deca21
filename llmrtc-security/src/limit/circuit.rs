//! A dead Redis must not cost every decision its timeout.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// How long nobody asks after the first failure; doubled with each that follows.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// The longest pause: a Redis that is back is found within this time.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Remembers whether asking makes sense.
///
/// | State | `may_ask` | Success | Failure |
/// | --- | --- | --- | --- |
/// | closed | yes | closed | open for 250 ms |
/// | open | no until the pause is over, then yes to one caller, who holds the others off for another pause | closed | open, pause doubled up to 5 s |
#[derive(Debug, Default)]
pub struct Circuit {
    state: Mutex<Option<Open>>,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    until: Instant,
    pause: Duration,
    /// Whether somebody was sent to find out.
    probing: bool,
}

impl Circuit {
    /// Whether to ask. If so, report what came of it.
    pub fn may_ask(&self, now: Instant) -> bool {
        match self.lock().as_mut() {
            None => true,
            Some(open) if now < open.until => false,
            Some(open) => {
                open.until = now + open.pause;
                open.probing = true;
                true
            }
        }
    }

    /// There was an answer.
    pub fn succeeded(&self) {
        if self.lock().take().is_some() {
            tracing::info!("redis answers again");
        }
    }

    /// There was none.
    pub fn failed(&self, now: Instant) {
        let mut state = self.lock();
        let pause = match *state {
            None => {
                tracing::warn!("redis does not answer");
                FIRST_PAUSE
            }
            // Callers that asked together fail together; that is one failure.
            Some(open) if !open.probing => return,
            Some(open) => (open.pause * 2).min(LONGEST_PAUSE),
        };
        *state = Some(Open {
            until: now + pause,
            pause,
            probing: false,
        });
    }

    /// Whether the last that was heard is a failure.
    pub fn is_open(&self) -> bool {
        self.lock().is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Open>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod t27_circuit {
    use super::*;

    #[test]
    fn one_caller_at_a_time_finds_out_whether_redis_is_back() {
        let start = Instant::now();
        let circuit = Circuit::default();
        assert!(circuit.may_ask(start) && circuit.may_ask(start) && !circuit.is_open());
        circuit.failed(start);
        circuit.failed(start);
        assert!(circuit.is_open() && !circuit.may_ask(start));
        let mut now = start;
        let mut pauses = Vec::new();
        for _ in 0..7 {
            let paused = now;
            while !circuit.may_ask(now) {
                now += Duration::from_millis(1);
            }
            assert!(!circuit.may_ask(now), "one probe");
            pauses.push((now - paused).as_millis());
            circuit.failed(now);
        }
        assert_eq!(pauses, [250, 500, 1_000, 2_000, 4_000, 5_000, 5_000]);
        now += LONGEST_PAUSE;
        assert!(circuit.may_ask(now));
        circuit.succeeded();
        assert!(circuit.may_ask(now) && circuit.may_ask(now) && !circuit.is_open());
    }
}
