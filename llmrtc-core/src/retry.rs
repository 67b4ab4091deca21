//! How long to wait before trying again: a value, not a loop. The caller sleeps, and selects on its token meanwhile.

use std::time::Duration;

use crate::provider::Retry;

/// The shortest wait. A voice turn cannot afford the customary second.
pub const BASE: Duration = Duration::from_millis(200);
/// The longest wait of our own choosing; a vendor may ask for more.
pub const CAP: Duration = Duration::from_secs(2);

/// The waits between the attempts at one call.
///
/// Decorrelated jitter: each wait is drawn between [`BASE`] and three times the previous one, at most [`CAP`], so that
/// callers who failed together do not come back together.
///
/// # Source
/// M. Brooker, *Exponential Backoff And Jitter*, AWS Architecture Blog, 2015.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Attempts not yet made, after the one under way.
    left: u32,
    /// The last wait drawn, before the vendor's wish was considered.
    previous: Duration,
}

impl Backoff {
    /// Allows `attempts` in total, the first included; 0 counts as 1.
    pub fn new(attempts: u32) -> Self {
        Self {
            left: attempts.saturating_sub(1),
            previous: BASE,
        }
    }

    /// Called after a failed attempt: how long to wait before the next one, or `None` to give up.
    ///
    /// `retry` is the failure's own classification. A vendor's `retry_after` is a lower bound on the wait. `unit` is
    /// uniform in 0–1 (values outside are clamped). With a `budget` (the time left until the deadline), a wait that
    /// would use all of it is not worth starting, so the answer is `None`.
    pub fn next_wait(
        &mut self,
        retry: Retry,
        unit: f64,
        budget: Option<Duration>,
    ) -> Option<Duration> {
        let Retry::After(asked) = retry else {
            return None;
        };
        self.left = self.left.checked_sub(1)?;
        let spread = (self.previous * 3).saturating_sub(BASE);
        // NaN passes through `clamp`, and `mul_f64` panics on it.
        let unit = if unit.is_nan() {
            0.0
        } else {
            unit.clamp(0.0, 1.0)
        };
        let drawn = (BASE + spread.mul_f64(unit)).min(CAP);
        self.previous = drawn;
        let wait = drawn.max(asked.unwrap_or_default());
        match budget {
            Some(budget) if wait >= budget => None,
            _ => Some(wait),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGAIN: Retry = Retry::After(None);

    #[test]
    fn attempts_are_counted_with_the_first_one() {
        let mut backoff = Backoff::new(3);
        assert!(backoff.next_wait(AGAIN, 0.5, None).is_some());
        assert!(backoff.next_wait(AGAIN, 0.5, None).is_some());
        assert_eq!(backoff.next_wait(AGAIN, 0.5, None), None);
        assert_eq!(Backoff::new(0).next_wait(AGAIN, 0.5, None), None);
    }

    #[test]
    fn waits_grow_from_the_base_to_the_cap() {
        let mut backoff = Backoff::new(10);
        let mut next = |unit| backoff.next_wait(AGAIN, unit, None).unwrap();
        assert_eq!(next(0.0), BASE);
        assert_eq!(next(1.0), BASE * 3);
        assert_eq!(next(1.0), Duration::from_millis(1800));
        assert_eq!(next(1.0), CAP);
        assert_eq!(next(0.0), BASE);
    }

    #[test]
    fn a_unit_outside_its_range_is_clamped() {
        for (unit, expected) in [(-1.0, BASE), (f64::NAN, BASE), (7.0, BASE * 3)] {
            assert_eq!(
                Backoff::new(2).next_wait(AGAIN, unit, None),
                Some(expected),
                "{unit}"
            );
        }
    }

    #[test]
    fn the_vendors_wish_is_a_lower_bound_that_must_fit_the_budget() {
        let asked = Retry::After(Some(Duration::from_secs(5)));
        let check = |retry, budget| Backoff::new(3).next_wait(retry, 0.0, budget);
        assert_eq!(check(asked, None), Some(Duration::from_secs(5)));
        assert_eq!(
            check(asked, Some(Duration::from_secs(6))),
            Some(Duration::from_secs(5))
        );
        assert_eq!(check(asked, Some(Duration::from_secs(4))), None);
        assert_eq!(check(AGAIN, Some(BASE)), None);
        assert_eq!(
            check(Retry::After(Some(Duration::ZERO)), None),
            Some(BASE),
            "a vendor cannot talk us below the base"
        );
    }

    #[test]
    fn a_permanent_failure_is_not_tried_again() {
        assert_eq!(Backoff::new(3).next_wait(Retry::Never, 0.5, None), None);
    }
}
