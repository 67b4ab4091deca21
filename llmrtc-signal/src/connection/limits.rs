//! How often a client may do what.

use std::time::{Duration, Instant};

use super::ConnectionConfig;

/// Missteps forgiven at once: malformed messages, exceeded rates, unusable offers. Each is answered with one `error`,
/// so this also bounds the errors a client can provoke.
const VIOLATIONS: u32 = 20;
/// One misstep is forgotten every three seconds.
const VIOLATIONS_FORGOTTEN_IN: Duration = Duration::from_secs(60);

/// New credentials of one session. An honest client sends one per hour, and each costs a signature check.
const AUTH_PER_MINUTE: u32 = 5;

/// A token bucket: `capacity` at once, refilled evenly over `period`.
#[derive(Debug)]
pub(super) struct Bucket {
    /// When the bucket would be full again, had nothing more been taken. The level is kept as a point in time, so
    /// there are no fractions to carry.
    full_at: Option<Instant>,
    period: Duration,
    capacity: u32,
}

impl Bucket {
    pub(super) fn new(capacity: u32, period: Duration) -> Self {
        Self {
            full_at: None,
            period,
            capacity,
        }
    }

    /// Takes one token; `false` if there is none.
    ///
    /// # Source
    /// The generic cell rate algorithm, ITU-T I.371, virtual scheduling form.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let full_at = self.full_at.map_or(now, |at| at.max(now)) + self.period / self.capacity;
        if full_at.duration_since(now) > self.period {
            return false;
        }
        self.full_at = Some(full_at);
        true
    }
}

/// All the buckets of a connection.
#[derive(Debug)]
pub(super) struct Limits {
    pub(super) messages: Bucket,
    audio_per_second: Bucket,
    audio_per_minute: Bucket,
    pub(super) offers: Bucket,
    pub(super) auth: Bucket,
    pub(super) violations: Bucket,
}

impl Limits {
    pub(super) fn new(config: &ConnectionConfig) -> Self {
        let second = Duration::from_secs(1);
        // Zero is refused by validation; a bucket of one keeps an unvalidated configuration from dividing by it.
        let bucket = |capacity: u32, period| Bucket::new(capacity.max(1), period);
        Self {
            messages: bucket(config.messages_per_second, second),
            audio_per_second: bucket(config.audio_per_second, second),
            audio_per_minute: bucket(config.audio_per_minute, 60 * second),
            offers: bucket(config.offers_per_ten_seconds, 10 * second),
            auth: bucket(AUTH_PER_MINUTE, 60 * second),
            violations: bucket(VIOLATIONS, VIOLATIONS_FORGOTTEN_IN),
        }
    }

    /// A question in one message: `audio` and `text` together.
    pub(super) fn take_question(&mut self, now: Instant) -> bool {
        self.audio_per_second.take(now) && self.audio_per_minute.take(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_allows_a_burst_then_its_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(5, Duration::from_secs(10));
        let taken = |bucket: &mut Bucket, at| (0..20).filter(|_| bucket.take(at)).count();
        assert_eq!(taken(&mut bucket, start), 5);
        assert_eq!(taken(&mut bucket, start + Duration::from_millis(1999)), 0);
        assert_eq!(taken(&mut bucket, start + Duration::from_secs(2)), 1);
        assert_eq!(taken(&mut bucket, start + Duration::from_secs(7)), 2);
        assert_eq!(taken(&mut bucket, start + Duration::from_secs(3600)), 5);
    }

    #[test]
    fn audio_is_limited_by_the_second_and_by_the_minute() {
        let start = Instant::now();
        let mut limits = Limits::new(&ConnectionConfig::default());
        assert_eq!((0..10).filter(|_| limits.take_question(start)).count(), 2);
        let accepted = (1..=240)
            .filter(|n| limits.take_question(start + Duration::from_millis(500) * *n))
            .count();
        // Two minutes of trying twice a second: the burst of 30 and what two minutes refill, less the two above.
        assert_eq!(accepted, 28 + 60);
    }
}
