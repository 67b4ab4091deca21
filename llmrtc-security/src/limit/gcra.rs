//! The generic cell rate algorithm, without clock or storage (D1).
//!
//! A bucket is one number, its *debt*: how long it takes to become empty again. A request of cost `n` adds `n`
//! emission intervals and is admitted if the debt stays within the capacity. An empty bucket is the same as one
//! never seen, so tables forget idle keys at no loss. Admits exactly what nginx's `limit_req … nodelay` and
//! redis-cell admit, with nanoseconds in place of their milliseconds.
//!
//! # Source
//! ITU-T I.371, annex A (virtual scheduling); <https://github.com/brandur/redis-cell>.

use std::time::Duration;

/// Longest time a full bucket may take to become empty: 2⁵³ − 1 ns (104 days), so that scripts which count in
/// doubles agree to the nanosecond.
const MAX_CAPACITY_NS: u64 = (1 << 53) - 1;

/// How much may pass: an emission interval and a capacity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Quota {
    /// Nanoseconds that one unit of cost takes to drain, rounded up: never more than the stated rate.
    emission_ns: u64,
    /// The debt that a full bucket has. A multiple of `emission_ns`.
    capacity_ns: u64,
}

/// A rate that cannot be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a rate needs at least 1 per period, a period, and a burst that drains within 104 days")]
pub struct InvalidQuota;

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether it may pass.
    pub allowed: bool,
    /// Units that an untouched bucket admits at once.
    pub limit: u64,
    /// Units that would pass right now, after this request.
    pub remaining: u64,
    /// How long to wait until the same request passes, if nothing else does meanwhile. Zero if it passed,
    /// [`Duration::MAX`] if it costs more than the bucket ever holds.
    pub retry_after: Duration,
    /// How long until the bucket is untouched again.
    pub reset_after: Duration,
}

impl Quota {
    /// `limit` units per `per`, and `burst` more at once: after a pause `burst + 1` pass together, as with nginx's
    /// parameters of these names.
    ///
    /// # Errors
    /// When a number is zero or too large to count with.
    pub fn new(limit: u32, per: Duration, burst: u32) -> Result<Self, InvalidQuota> {
        let per_ns = u64::try_from(per.as_nanos()).map_err(|_| InvalidQuota)?;
        if limit == 0 || per_ns == 0 {
            return Err(InvalidQuota);
        }
        let emission_ns = per_ns.div_ceil(u64::from(limit));
        let capacity_ns = (u64::from(burst) + 1)
            .checked_mul(emission_ns)
            .filter(|capacity| *capacity <= MAX_CAPACITY_NS)
            .ok_or(InvalidQuota)?;
        Ok(Self {
            emission_ns,
            capacity_ns,
        })
    }

    /// Units that an untouched bucket admits at once.
    pub fn limit(&self) -> u64 {
        self.capacity_ns / self.emission_ns
    }

    /// How long an exhausted bucket takes to become untouched.
    pub fn window(&self) -> Duration {
        Duration::from_nanos(self.capacity_ns)
    }

    /// Time that one unit takes to drain, in nanoseconds.
    pub fn emission_ns(&self) -> u64 {
        self.emission_ns
    }

    /// Debt of an exhausted bucket, in nanoseconds.
    pub fn capacity_ns(&self) -> u64 {
        self.capacity_ns
    }

    /// The part of one among `nodes` that cannot see each other: a rate of `1/nodes` and at least one unit at once.
    #[must_use]
    pub fn share(&self, nodes: u32) -> Self {
        let nodes = u64::from(nodes.max(1));
        let emission_ns = self.emission_ns.saturating_mul(nodes);
        let units = (self.limit() / nodes).max(1);
        Self {
            emission_ns,
            capacity_ns: emission_ns.saturating_mul(units),
        }
    }

    /// `factor` times the rate and the units at once, for a bucket that many share.
    #[must_use]
    pub fn times(&self, factor: u32) -> Self {
        let factor = u64::from(factor.max(1));
        let emission_ns = self.emission_ns.div_ceil(factor);
        Self {
            emission_ns,
            capacity_ns: emission_ns
                .saturating_mul(self.limit().saturating_mul(factor))
                .min(MAX_CAPACITY_NS / emission_ns * emission_ns),
        }
    }

    /// Decides about a request of `cost` on a bucket with this debt. Does not change the bucket: if the request is
    /// allowed, its new debt is [`Decision::reset_after`].
    pub fn decide(&self, debt_ns: u64, cost: u32) -> Decision {
        let price = self.emission_ns.saturating_mul(u64::from(cost));
        let after = debt_ns.saturating_add(price);
        // A cost of zero only looks, even at a bucket that is deeper in debt than requests alone could bring it.
        let allowed = cost == 0 || after <= self.capacity_ns;
        let debt = if allowed { after } else { debt_ns };
        let retry_after = if allowed {
            Duration::ZERO
        } else if price > self.capacity_ns {
            Duration::MAX
        } else {
            Duration::from_nanos(after - self.capacity_ns)
        };
        Decision {
            allowed,
            limit: self.limit(),
            remaining: self.capacity_ns.saturating_sub(debt) / self.emission_ns,
            retry_after,
            reset_after: Duration::from_nanos(debt),
        }
    }

    /// The debt after a cost that is a fact: consumption that was not known before (positive), or part of an estimate
    /// that was not used (negative). May exceed the capacity; then nothing passes until it has drained.
    pub fn charge(&self, debt_ns: u64, cost: i64) -> u64 {
        let price = self.emission_ns.saturating_mul(cost.unsigned_abs());
        if cost < 0 {
            debt_ns.saturating_sub(price)
        } else {
            debt_ns.saturating_add(price).min(MAX_CAPACITY_NS)
        }
    }
}

#[cfg(test)]
mod d1_gcra {
    use proptest::prelude::*;

    use super::*;

    /// A bucket with a clock that the test moves.
    struct Bucket {
        quota: Quota,
        empty_at: u64,
    }

    impl Bucket {
        fn new(quota: Quota) -> Self {
            Self { quota, empty_at: 0 }
        }

        fn take(&mut self, now: u64, cost: u32) -> Decision {
            let decision = self.quota.decide(self.empty_at.saturating_sub(now), cost);
            if decision.allowed {
                self.empty_at = now + decision.reset_after.as_nanos() as u64;
            }
            decision
        }
    }

    /// nginx 1.22, `ngx_http_limit_req_module`: the excess over the rate in thousandths of a request, drained by the
    /// millisecond. The first request of a key has no excess.
    struct Nginx {
        rate: i64,
        burst: i64,
        state: Option<(i64, i64)>,
    }

    impl Nginx {
        fn admits(&mut self, now_ms: i64) -> bool {
            let excess = match self.state {
                None => 0,
                Some((excess, last)) => {
                    (excess - self.rate * 1000 * (now_ms - last) / 1000 + 1000).max(0)
                }
            };
            let admitted = excess <= self.burst * 1000;
            if admitted {
                self.state = Some((excess, now_ms));
            }
            admitted
        }
    }

    /// A small generator, so that every run replays the same arrivals.
    fn arrivals(seed: u64, count: usize, mean_gap: u64) -> impl Iterator<Item = (u64, u32)> {
        let mut state = seed;
        let mut now = 0;
        std::iter::repeat_with(move || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let random = state >> 33;
            // Bunches and pauses: mostly short gaps, now and then a long one.
            now += match random % 10 {
                0 => (random / 10) % (mean_gap * 6),
                1..5 => 0,
                _ => (random / 10) % mean_gap,
            };
            (now, 1 + (random >> 20) as u32 % 4)
        })
        .take(count)
    }

    #[test]
    fn ten_thousand_arrivals_are_admitted_as_nginx_admits_them() {
        for seed in 0..5 {
            let quota = Quota::new(10, Duration::from_secs(1), 20).unwrap();
            let mut ours = Bucket::new(quota);
            let mut nginx = Nginx {
                rate: 10,
                burst: 20,
                state: None,
            };
            let mut admitted = 0;
            for (i, (now_ms, _)) in arrivals(seed, 10_000, 150).enumerate() {
                let expected = nginx.admits(now_ms as i64);
                let decision = ours.take(now_ms * 1_000_000, 1);
                assert_eq!(decision.allowed, expected, "seed {seed}, arrival {i}");
                admitted += u32::from(expected);
            }
            assert!((2_000..9_000).contains(&admitted), "{admitted}");
        }
    }

    /// A leaky bucket in exact fractions: the level in units times `limit × 10⁹`, drained by `limit` per nanosecond of a
    /// period of `per` nanoseconds.
    #[test]
    fn ten_thousand_weighted_arrivals_are_admitted_as_an_exact_leaky_bucket_admits_them() {
        for (limit, per_ns, burst) in [
            (10_u32, 1_000_000_000_u64, 20_u32),
            (60, 60_000_000_000, 59),
            (5, 60_000_000_000, 4),
            (1_000, 1_000_000_000, 0),
            (100_000, 60_000_000_000, 99_999),
        ] {
            let quota = Quota::new(limit, Duration::from_nanos(per_ns), burst).unwrap();
            let mut ours = Bucket::new(quota);
            let (mut level, mut last) = (0_u128, 0_u64);
            let mean_gap = per_ns / u64::from(limit) * 3 / 2;
            let scale = if burst > 1_000 { burst / 10 } else { 1 };
            for (i, (now, cost)) in arrivals(7, 10_000, mean_gap).enumerate() {
                let cost = cost * scale;
                level = level.saturating_sub(u128::from(now - last) * u128::from(limit));
                last = now;
                let poured = level + u128::from(cost) * u128::from(per_ns);
                let expected = poured <= u128::from(burst + 1) * u128::from(per_ns);
                if expected {
                    level = poured;
                }
                let decision = ours.take(now, cost);
                assert_eq!(decision.allowed, expected, "{limit}/{per_ns}: arrival {i}");
            }
        }
    }

    #[test]
    fn the_five_values_are_those_of_redis_cell() {
        // `CL.THROTTLE key 15 30 60 n` in redis-cell's documentation, its seconds as exact durations.
        let quota = Quota::new(30, Duration::from_secs(60), 15).unwrap();
        let first = quota.decide(0, 1);
        let secs = Duration::from_secs;
        assert_eq!(
            (
                first.allowed,
                first.limit,
                first.remaining,
                first.retry_after,
                first.reset_after
            ),
            (true, 16, 15, secs(0), secs(2))
        );
        let last = quota.decide(secs(30).as_nanos() as u64, 1);
        assert_eq!((last.allowed, last.remaining), (true, 0));
        let refused = quota.decide(secs(32).as_nanos() as u64, 1);
        assert_eq!(
            (
                refused.allowed,
                refused.remaining,
                refused.retry_after,
                refused.reset_after
            ),
            (false, 0, secs(2), secs(32))
        );
        assert_eq!(quota.decide(0, 17).retry_after, Duration::MAX);
    }

    #[test]
    fn rates_that_cannot_be_counted_are_refused() {
        let day = Duration::from_secs(86_400);
        for (limit, per, burst) in [
            (0, day, 0),
            (1, Duration::ZERO, 0),
            (1, Duration::MAX, 0),
            (1, day, 105),
        ] {
            assert_eq!(Quota::new(limit, per, burst), Err(InvalidQuota));
        }
        assert!(Quota::new(u32::MAX, day, u32::MAX - 1).is_ok());
    }

    #[test]
    fn facts_are_charged_beyond_the_capacity_and_refunded_down_to_nothing() {
        let quota = Quota::new(1, Duration::from_secs(1), 9).unwrap();
        let debt = quota.charge(0, 25);
        let decision = quota.decide(debt, 1);
        assert_eq!((decision.allowed, decision.remaining), (false, 0));
        assert_eq!(decision.retry_after, Duration::from_secs(16));
        assert!(quota.decide(debt, 0).allowed, "a look is free");
        assert_eq!(quota.charge(debt, -20), quota.charge(0, 5));
        assert_eq!(quota.charge(debt, -30), 0);
        assert!(quota.charge(u64::MAX / 2, i64::MAX) < u64::MAX / 2);
    }

    #[test]
    fn the_shares_of_all_nodes_together_are_not_more_than_the_whole() {
        let whole = Quota::new(60, Duration::from_secs(60), 59).unwrap();
        let share = whole.share(4);
        assert_eq!(
            (share.limit(), share.emission_ns()),
            (15, 4 * whole.emission_ns())
        );
        assert_eq!(whole.share(100).limit(), 1);
        assert_eq!(whole.share(0), whole);
        let network = whole.times(16);
        assert_eq!(
            (network.limit(), network.window()),
            (16 * 60, whole.window())
        );
    }

    proptest! {
        #[test]
        fn whoever_waits_exactly_as_told_passes_and_not_a_nanosecond_earlier(
            limit in 1_u32..100_000, per_ms in 1_u64..3_600_000, burst in 0_u32..1_000,
            steps in prop::collection::vec((0_u64..5_000_000_000, 1_u32..50), 1..200),
        ) {
            let Ok(quota) = Quota::new(limit, Duration::from_millis(per_ms), burst) else {
                return Ok(());
            };
            let mut bucket = Bucket::new(quota);
            let mut now = 0;
            for (gap, cost) in steps {
                now += gap;
                let decision = bucket.take(now, cost);
                if decision.allowed || decision.retry_after == Duration::MAX {
                    continue;
                }
                let wait = decision.retry_after.as_nanos() as u64;
                prop_assert!(!quota.decide(bucket.empty_at - (now + wait - 1), cost).allowed);
                now += wait;
                prop_assert!(bucket.take(now, cost).allowed);
            }
        }

        #[test]
        fn no_stretch_of_time_admits_more_than_the_burst_and_the_rate(
            limit in 1_u32..1_000, burst in 0_u32..100,
            steps in prop::collection::vec((0_u64..200_000_000, 1_u32..5), 1..300),
        ) {
            let quota = Quota::new(limit, Duration::from_secs(1), burst).unwrap();
            let mut bucket = Bucket::new(quota);
            let mut admitted: Vec<(u64, u64)> = Vec::new();
            let mut now = 0;
            for (gap, cost) in steps {
                now += gap;
                if bucket.take(now, cost).allowed {
                    admitted.push((now, u64::from(cost)));
                }
            }
            for start in 0..admitted.len() {
                let mut units = 0;
                for (at, cost) in &admitted[start..] {
                    units += cost;
                    let rate = u128::from(at - admitted[start].0) * u128::from(limit);
                    let most = u128::from(burst + 1) * 1_000_000_000 + rate;
                    prop_assert!(u128::from(units) * 1_000_000_000 <= most);
                }
            }
        }
    }
}
