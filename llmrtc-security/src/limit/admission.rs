//! What this process takes on at the same time (D6). Whoever does not fit is told early and when to come back; calls
//! that are under way are not affected.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use llmrtc_core::duration;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use validator::{Validate, ValidationError};

use crate::auth::Rejection;

/// What this process takes on at the same time.
#[derive(Clone, Debug, PartialEq, Deserialize, Validate)]
#[serde(default, deny_unknown_fields)]
#[validate(schema(function = "waits_are_short"))]
pub struct AdmissionConfig {
    /// Most sessions.
    #[validate(range(min = 1, max = 1_000_000))]
    pub sessions: usize,
    /// Most peer connections that are being set up: each costs a handshake's worth of processor time.
    #[validate(range(min = 1, max = 100_000))]
    pub setups: usize,
    /// Most requests to a provider, by its name; others are not limited.
    pub providers: BTreeMap<String, usize>,
    /// How long a turn waits for its place at a provider; at most a minute.
    #[serde(with = "duration")]
    pub provider_wait: Duration,
    /// When whoever is refused may come back; at most an hour.
    #[serde(with = "duration")]
    pub retry_after: Duration,
}

impl Default for AdmissionConfig {
    fn default() -> Self {
        Self {
            // Memory for them is a gigabyte; a processor full of talking callers is reached earlier, so lower it to
            // what the machine can carry.
            sessions: 1_000,
            // A setup takes some tens of milliseconds of work: a herd of reconnecting clients is served within seconds.
            setups: 64,
            providers: BTreeMap::new(),
            // Longer, and the caller asks whether anybody is there.
            provider_wait: Duration::from_secs(2),
            // Long enough to breathe, short enough for a person to wait.
            retry_after: Duration::from_secs(5),
        }
    }
}

fn waits_are_short(config: &AdmissionConfig) -> Result<(), ValidationError> {
    let problem = |message: &'static str| {
        Err(ValidationError::new("inconsistent").with_message(message.into()))
    };
    if config.provider_wait > Duration::from_secs(60) {
        return problem("provider_wait must be at most 1m");
    }
    if config.retry_after.is_zero() || config.retry_after > Duration::from_secs(3_600) {
        return problem("retry_after must be longer than zero and at most 1h");
    }
    // Nothing would ever be served; and tokio counts to a limit of its own.
    if config
        .providers
        .values()
        .any(|&places| places == 0 || places > 1_000_000)
    {
        return problem("providers must have between 1 and 1000000 places");
    }
    Ok(())
}

/// The places of this process. Cloning shares them.
#[derive(Clone, Debug)]
pub struct Capacity {
    sessions: Arc<Semaphore>,
    setups: Arc<Semaphore>,
    providers: Arc<BTreeMap<String, Arc<Semaphore>>>,
    provider_wait: Duration,
    retry_after: Duration,
}

/// A place, given back on drop. Keep it as long as what it stands for.
#[derive(Debug)]
#[must_use = "the place is given back on drop"]
pub struct Place {
    _permit: Option<OwnedSemaphorePermit>,
}

/// There is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no capacity for another {what}")]
pub struct Full {
    /// What there is no place for: `session`, `setup` or `provider request`.
    pub what: &'static str,
    /// When another attempt makes sense.
    pub retry_after: Duration,
}

impl From<Full> for Rejection {
    fn from(full: Full) -> Self {
        Self::Unavailable {
            retry_after: full.retry_after,
        }
    }
}

impl Capacity {
    /// All places free.
    pub fn new(config: &AdmissionConfig) -> Self {
        let places = |count: usize| Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS)));
        let providers = config.providers.iter();
        Self {
            sessions: places(config.sessions),
            setups: places(config.setups),
            providers: Arc::new(
                providers
                    .map(|(name, &count)| (name.clone(), places(count)))
                    .collect(),
            ),
            provider_wait: config.provider_wait,
            retry_after: config.retry_after,
        }
    }

    /// A place for a session.
    ///
    /// # Errors
    /// When all are taken.
    pub fn session(&self) -> Result<Place, Full> {
        self.at_once(&self.sessions, "session")
    }

    /// A place for setting up a peer connection, to be dropped when it is connected or has failed.
    ///
    /// # Errors
    /// When all are taken.
    pub fn setup(&self) -> Result<Place, Full> {
        self.at_once(&self.setups, "setup")
    }

    /// A place for a request to the provider of this name. Waits its turn, first come, first served, for as long as
    /// [`AdmissionConfig::provider_wait`].
    ///
    /// # Errors
    /// When none became free in time.
    ///
    /// # Cancel safety
    /// Cancel safe: dropping the future gives up the place in the line.
    pub async fn provider(&self, name: &str) -> Result<Place, Full> {
        let Some(places) = self.providers.get(name) else {
            return Ok(Place { _permit: None });
        };
        let place = Arc::clone(places).acquire_owned();
        match tokio::time::timeout(self.provider_wait, place).await {
            // The semaphore is never closed, so an inner error cannot happen; refusing would be the safe answer.
            Ok(Ok(permit)) => Ok(Place {
                _permit: Some(permit),
            }),
            Ok(Err(_)) | Err(_) => Err(self.full("provider request")),
        }
    }

    /// Places for sessions that are free.
    pub fn free_sessions(&self) -> usize {
        self.sessions.available_permits()
    }

    /// Places for setups that are free.
    pub fn free_setups(&self) -> usize {
        self.setups.available_permits()
    }

    fn at_once(&self, places: &Arc<Semaphore>, what: &'static str) -> Result<Place, Full> {
        match Arc::clone(places).try_acquire_owned() {
            Ok(permit) => Ok(Place {
                _permit: Some(permit),
            }),
            Err(_) => Err(self.full(what)),
        }
    }

    fn full(&self, what: &'static str) -> Full {
        Full {
            what,
            retry_after: self.retry_after,
        }
    }
}

#[cfg(test)]
mod d6_admission {
    use super::*;

    fn capacity() -> Capacity {
        Capacity::new(&AdmissionConfig {
            sessions: 2,
            setups: 1,
            providers: [("stt".to_owned(), 1)].into(),
            ..AdmissionConfig::default()
        })
    }

    #[test]
    fn whoever_does_not_fit_is_refused_with_a_time_and_nobody_else_is_affected() {
        let capacity = capacity();
        let _first = capacity.session().unwrap();
        let second = capacity.session().unwrap();
        let full = capacity.session().unwrap_err();
        assert_eq!(full.to_string(), "no capacity for another session");
        let rejection = Rejection::from(full);
        assert_eq!(
            (rejection.status(), rejection.retry_after_secs()),
            (503, Some(5))
        );
        let _setup = capacity.setup().unwrap();
        assert_eq!(capacity.setup().unwrap_err().what, "setup");
        drop(second);
        assert_eq!((capacity.free_sessions(), capacity.free_setups()), (1, 0));
        assert!(capacity.session().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_waits_for_a_provider_but_not_for_long() {
        let capacity = capacity();
        let held = capacity.provider("stt").await.unwrap();
        let started = tokio::time::Instant::now();
        assert_eq!(
            capacity.provider("stt").await.unwrap_err().what,
            "provider request"
        );
        assert_eq!(started.elapsed(), Duration::from_secs(2));

        let waiting = capacity.provider("stt");
        let release = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            drop(held);
        };
        let (place, ()) = tokio::join!(waiting, release);
        assert!(place.is_ok(), "the place came in time");

        let unlimited: Vec<_> = [
            capacity.provider("llm").await,
            capacity.provider("llm").await,
        ]
        .into();
        assert!(unlimited.iter().all(Result::is_ok));
    }

    #[test]
    fn a_configuration_that_serves_nobody_is_refused() {
        for (field, value) in [
            ("sessions", serde_json::json!(0)),
            ("setups", serde_json::json!(0)),
            ("providers", serde_json::json!({ "llm": 0 })),
            ("provider_wait", serde_json::json!("2m")),
            ("retry_after", serde_json::json!("0s")),
        ] {
            let config = serde_json::Value::from_iter([(field, value)]);
            let config: AdmissionConfig = serde_json::from_value(config).unwrap();
            assert!(config.validate().is_err(), "{field}");
        }
        AdmissionConfig::default().validate().unwrap();
    }
}
