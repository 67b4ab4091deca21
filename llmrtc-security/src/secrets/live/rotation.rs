//! Which of two values is used: no I/O, no clock.

use std::time::Duration;

use llmrtc_core::redact::Secret;
use subtle::ConstantTimeEq;
use tokio::time::Instant;

/// Whether two secrets are the same, without telling by the time taken where they differ.
pub(in crate::secrets) fn same(a: &Secret, b: &Secret) -> bool {
    a.expose().as_bytes().ct_eq(b.expose().as_bytes()).into()
}

/// The newest value of a secret and the one before it.
///
/// | Event | newest good | newest refused, previous in use |
/// | --- | --- | --- |
/// | another value arrives | it is used, newest → previous | it is used, previous stays |
/// | newest is refused | previous is used, if there is one | (it is not in use) |
/// | previous is refused | (it is not in use) | dropped, newest is used again |
/// | grace is over | previous dropped | dropped, newest is used again |
#[derive(Debug)]
pub(super) struct Rotation {
    newest: Secret,
    newest_refused: bool,
    /// The value before, and until when it is kept.
    previous: Option<(Secret, Instant)>,
    grace: Duration,
}

/// What became of a refusal.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Another value is used from now on.
    Switched,
    /// There is no other value.
    Hopeless,
}

impl Rotation {
    pub(super) fn new(value: Secret, grace: Duration) -> Self {
        Self {
            newest: value,
            newest_refused: false,
            previous: None,
            grace,
        }
    }

    /// The value in use.
    pub(super) fn current(&self) -> &Secret {
        match &self.previous {
            Some((previous, _)) if self.newest_refused => previous,
            _ => &self.newest,
        }
    }

    /// The value that is not in use but still known.
    pub(super) fn other(&self) -> Option<&Secret> {
        let (previous, _) = self.previous.as_ref()?;
        Some(if self.newest_refused {
            &self.newest
        } else {
            previous
        })
    }

    /// Takes what the source has. Whether that is another value than it had before.
    pub(super) fn accept(&mut self, value: Secret, now: Instant) -> bool {
        if same(&value, &self.newest) {
            return false;
        }
        let in_use = self.current().clone();
        self.previous = Some((in_use, now + self.grace));
        self.newest = value;
        self.newest_refused = false;
        true
    }

    /// The value in use was refused.
    pub(super) fn refuse(&mut self) -> Refusal {
        match (&self.previous, self.newest_refused) {
            (None, _) => Refusal::Hopeless,
            (Some(_), false) => {
                self.newest_refused = true;
                Refusal::Switched
            }
            (Some(_), true) => {
                self.previous = None;
                self.newest_refused = false;
                Refusal::Switched
            }
        }
    }

    /// When the previous value is to be dropped.
    pub(super) fn expires_at(&self) -> Option<Instant> {
        self.previous.as_ref().map(|(_, until)| *until)
    }

    /// Drops the previous value once its time is over, and says which it was.
    pub(super) fn expire(&mut self, now: Instant) -> Option<Secret> {
        let (previous, _) = self.previous.take_if(|(_, until)| *until <= now)?;
        self.newest_refused = false;
        Some(previous)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(60);

    fn rotation() -> (Rotation, Instant) {
        let now = Instant::now();
        (Rotation::new("one".to_owned().into(), GRACE), now)
    }

    #[track_caller]
    fn check(rotation: &Rotation, current: &str, other: Option<&str>) {
        assert_eq!(rotation.current().expose(), current);
        assert_eq!(rotation.other().map(Secret::expose), other);
    }

    #[test]
    fn a3_the_value_before_is_kept_for_the_grace_time() {
        let (mut rotation, now) = rotation();
        assert!(!rotation.accept(Secret::new("one"), now));
        check(&rotation, "one", None);
        assert!(rotation.accept(Secret::new("two"), now));
        check(&rotation, "two", Some("one"));
        assert_eq!(rotation.expires_at(), Some(now + GRACE));
        assert!(
            rotation
                .expire(now + GRACE - Duration::from_millis(1))
                .is_none()
        );
        assert_eq!(rotation.expire(now + GRACE).unwrap().expose(), "one");
        check(&rotation, "two", None);
    }

    #[test]
    fn a3_a_refused_newest_value_gives_way_to_the_one_before() {
        let (mut rotation, now) = rotation();
        assert!(matches!(rotation.refuse(), Refusal::Hopeless));
        check(&rotation, "one", None);
        rotation.accept(Secret::new("bad"), now);
        assert!(matches!(rotation.refuse(), Refusal::Switched));
        check(&rotation, "one", Some("bad"));
        // The source still has the bad one, which is no news.
        assert!(!rotation.accept(Secret::new("bad"), now));
        check(&rotation, "one", Some("bad"));
        rotation.accept(Secret::new("three"), now + GRACE / 2);
        check(&rotation, "three", Some("one"));
        assert_eq!(rotation.expires_at(), Some(now + GRACE / 2 + GRACE));
    }

    #[test]
    fn a3_when_both_are_refused_the_newest_is_tried_again() {
        let (mut rotation, now) = rotation();
        rotation.accept(Secret::new("two"), now);
        rotation.refuse();
        assert!(matches!(rotation.refuse(), Refusal::Switched));
        check(&rotation, "two", None);
        assert!(matches!(rotation.refuse(), Refusal::Hopeless));
    }

    #[test]
    fn a3_a_fallback_ends_with_its_grace_time() {
        let (mut rotation, now) = rotation();
        rotation.accept(Secret::new("two"), now);
        rotation.refuse();
        rotation.expire(now + GRACE);
        check(&rotation, "two", None);
    }
}
