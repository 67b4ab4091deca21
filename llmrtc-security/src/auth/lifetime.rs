//! How long a session may go on (B8): as long as its credential, as its caller says something, and as the operator
//! allows. A machine: time comes in, steps come out.
//!
//! | Step | When |
//! | --- | --- |
//! | [`Step::Warn`] | [`WARN_BEFORE`] before the credential ends, once per credential; tell the client (`auth-expiring`) |
//! | [`Step::Close`] with [`Ending::Expired`] | the credential ended, leeway included: close with 4401 |
//! | [`Step::Close`] with [`Ending::Idle`] or [`Ending::TooLong`] | a limit of [`SessionLimits`] was reached |
//!
//! The client may send a new credential at any time: [`CredentialClock::refresh`] takes it if it speaks for the same
//! caller, and never lets the session end earlier than it would have.

use std::time::{Duration, Instant, SystemTime};

use super::principal::Principal;

/// How long before the end the client is told: time for a page in the background to wake up and fetch a token.
pub const WARN_BEFORE: Duration = Duration::from_secs(60);

/// Limits that hold whatever the credential says (ASVS 7.3.1, 7.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLimits {
    /// Longest time without a word from the client.
    pub idle: Option<Duration>,
    /// Longest session.
    pub absolute: Option<Duration>,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// Tell the client that its credential ends in so long.
    Warn {
        /// How long is left. Zero if only leeway is.
        expires_in: Duration,
    },
    /// End the session.
    Close(Ending),
}

/// Why a session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ending {
    /// The credential did.
    Expired,
    /// The client had nothing to say.
    Idle,
    /// It took too long.
    TooLong,
}

/// A credential that does not replace the session's. The session goes on as before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RefreshRefused {
    /// It speaks for somebody else.
    #[error("credential of another caller")]
    OtherCaller,
    /// It ends before the one it should replace.
    #[error("credential ends earlier")]
    Shorter,
}

/// Watches the end of one session.
#[derive(Clone, Debug)]
pub struct CredentialClock {
    expires_at: Option<SystemTime>,
    leeway: Duration,
    warned: bool,
    limits: SessionLimits,
    started: Instant,
    heard: Instant,
}

impl CredentialClock {
    /// Starts with the session. `leeway` is how long a credential counts after its end; it should be no more than a second,
    /// because nobody's clock is asked here but ours.
    pub fn new(
        principal: &Principal,
        leeway: Duration,
        limits: SessionLimits,
        now: Instant,
    ) -> Self {
        Self {
            expires_at: principal.credential.expires_at,
            leeway,
            warned: false,
            limits,
            started: now,
            heard: now,
        }
    }

    /// The client said something.
    pub fn heard(&mut self, now: Instant) {
        self.heard = now;
    }

    /// The client sent a new credential, which was verified, for the session of `current`. Afterwards the session runs under
    /// `fresh`, grants included.
    ///
    /// # Errors
    /// When it does not replace the old one.
    pub fn refresh(
        &mut self,
        current: &Principal,
        fresh: &Principal,
    ) -> Result<(), RefreshRefused> {
        if current != fresh {
            return Err(RefreshRefused::OtherCaller);
        }
        let end = fresh.credential.expires_at;
        let earlier = match (end, self.expires_at) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(fresh), Some(old)) => fresh < old,
        };
        if earlier {
            return Err(RefreshRefused::Shorter);
        }
        self.expires_at = end;
        self.warned = false;
        Ok(())
    }

    /// What is due. Call it at [`deadline`](Self::deadline) and after every other call, until it returns `None`.
    pub fn poll(&mut self, now: Instant, wall: SystemTime) -> Option<Step> {
        let over = |since: Instant, limit: Option<Duration>| {
            limit.is_some_and(|limit| now.saturating_duration_since(since) >= limit)
        };
        if over(self.started, self.limits.absolute) {
            return Some(Step::Close(Ending::TooLong));
        }
        if over(self.heard, self.limits.idle) {
            return Some(Step::Close(Ending::Idle));
        }
        let end = self.expires_at?;
        if wall >= end + self.leeway {
            return Some(Step::Close(Ending::Expired));
        }
        let expires_in = end.duration_since(wall).unwrap_or(Duration::ZERO);
        if !self.warned && expires_in <= WARN_BEFORE {
            self.warned = true;
            return Some(Step::Warn { expires_in });
        }
        None
    }

    /// When to poll again; `None` if nothing ever comes due by itself. A wall clock may be set, so a caller that wants to
    /// notice it polls every few seconds as well.
    pub fn deadline(&self, now: Instant, wall: SystemTime) -> Option<Instant> {
        let credential = self.expires_at.map(|end| {
            let due = if self.warned {
                end + self.leeway
            } else {
                end.checked_sub(WARN_BEFORE).unwrap_or(end)
            };
            now + due.duration_since(wall).unwrap_or(Duration::ZERO)
        });
        let idle = self.limits.idle.map(|limit| self.heard + limit);
        let absolute = self.limits.absolute.map(|limit| self.started + limit);
        [credential, idle, absolute].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod b8_lifetime {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::auth::Credential;

    const NONE: SessionLimits = SessionLimits {
        idle: None,
        absolute: None,
    };
    const LEEWAY: Duration = Duration::from_secs(1);

    struct Bench {
        start: Instant,
        clock: CredentialClock,
        caller: Principal,
    }

    fn wall(millis: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_700_000_000) + Duration::from_millis(millis)
    }

    fn caller(subject: &str, end: Option<u64>) -> Principal {
        Principal::user(subject, None).with_credential(Credential {
            expires_at: end.map(wall),
            ..Credential::default()
        })
    }

    impl Bench {
        fn new(end: Option<u64>, limits: SessionLimits) -> Self {
            let (start, caller) = (Instant::now(), caller("ann", end));
            let clock = CredentialClock::new(&caller, LEEWAY, limits, start);
            Self {
                start,
                clock,
                caller,
            }
        }

        fn poll(&mut self, millis: u64) -> Option<Step> {
            let now = self.start + Duration::from_millis(millis);
            self.clock.poll(now, wall(millis))
        }

        fn deadline(&self, millis: u64) -> Option<u128> {
            let now = self.start + Duration::from_millis(millis);
            let at = self.clock.deadline(now, wall(millis))?;
            Some((at - self.start).as_millis())
        }
    }

    fn warning(seconds: u64) -> Option<Step> {
        Some(Step::Warn {
            expires_in: Duration::from_secs(seconds),
        })
    }

    #[test]
    fn the_client_is_warned_once_and_gone_a_second_after_the_end() {
        let mut bench = Bench::new(Some(300_000), NONE);
        assert_eq!(bench.deadline(0), Some(240_000));
        assert_eq!(bench.poll(239_999), None);
        assert_eq!(bench.poll(240_000), warning(60));
        assert_eq!(bench.poll(240_000), None);
        assert_eq!(bench.deadline(240_000), Some(301_000));
        assert_eq!(bench.poll(300_999), None);
        assert_eq!(bench.poll(301_000), Some(Step::Close(Ending::Expired)));
        // A credential that is almost over is worth a warning at once.
        let mut bench = Bench::new(Some(5_000), NONE);
        assert_eq!(bench.deadline(0), Some(0));
        assert_eq!(bench.poll(0), warning(5));
        let mut bench = Bench::new(Some(0), NONE);
        assert_eq!(bench.poll(2_000), Some(Step::Close(Ending::Expired)));
    }

    #[test]
    fn a_new_credential_of_the_same_caller_keeps_the_call() {
        let mut bench = Bench::new(Some(300_000), NONE);
        assert_eq!(bench.poll(250_000), warning(50));
        let current = bench.caller.clone();
        for (refused, why) in [
            (caller("bob", Some(900_000)), RefreshRefused::OtherCaller),
            (caller("ann", Some(299_000)), RefreshRefused::Shorter),
        ] {
            assert_eq!(bench.clock.refresh(&current, &refused), Err(why));
            assert_eq!(bench.deadline(250_000), Some(301_000));
        }
        let fresh = caller("ann", Some(900_000));
        assert_eq!(bench.clock.refresh(&current, &fresh), Ok(()));
        assert_eq!(bench.poll(301_000), None);
        assert_eq!(bench.poll(840_000), warning(60));
        assert_eq!(bench.poll(901_000), Some(Step::Close(Ending::Expired)));
    }

    #[test]
    fn silence_and_length_have_limits_of_their_own() {
        let limits = SessionLimits {
            idle: Some(Duration::from_secs(60)),
            absolute: Some(Duration::from_secs(100)),
        };
        let mut bench = Bench::new(None, limits);
        assert_eq!(bench.deadline(0), Some(60_000));
        assert_eq!(bench.poll(59_999), None);
        bench.clock.heard(bench.start + Duration::from_secs(50));
        assert_eq!(bench.poll(60_000), None);
        assert_eq!(bench.deadline(60_000), Some(100_000));
        assert_eq!(bench.poll(100_000), Some(Step::Close(Ending::TooLong)));
        let mut bench = Bench::new(None, limits);
        assert_eq!(bench.poll(60_000), Some(Step::Close(Ending::Idle)));
        let mut bench = Bench::new(None, NONE);
        assert_eq!(
            (bench.deadline(0), bench.poll(u64::from(u32::MAX))),
            (None, None)
        );
    }
}
