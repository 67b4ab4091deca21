//! Time as an input. Machines take `now`; drivers ask a [`Clock`].

use std::time::{Instant, SystemTime};

/// Where a driver gets its time from.
pub trait Clock: Send + Sync + 'static {
    /// Monotonic time, for durations and deadlines.
    fn now(&self) -> Instant;
    /// Wall-clock time, only for display and correlation.
    fn wall(&self) -> SystemTime;
}

/// The machine's clocks. Follows tokio's paused time in tests.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }
}
