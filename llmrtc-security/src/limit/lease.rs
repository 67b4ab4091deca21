//! Sessions at the same time.

use std::time::Duration;

use llmrtc_core::duration;
use serde::Deserialize;
use validator::{Validate, ValidationError};

/// How many sessions there may be at the same time, over all nodes.
#[derive(Clone, Debug, PartialEq, Deserialize, Validate)]
#[serde(default, deny_unknown_fields)]
#[validate(schema(function = "lease_outlives_its_renewal"))]
pub struct LeaseConfig {
    /// Most sessions of a user. Grants may name another number.
    #[validate(range(min = 1, max = 1_000))]
    pub per_user: u32,
    /// Most sessions of a tenant; absent for no limit.
    #[validate(range(min = 1))]
    pub per_tenant: Option<u32>,
    /// Most sessions of all; absent for no limit.
    #[validate(range(min = 1))]
    pub total: Option<u32>,
    /// What happens when a user opens one more.
    pub when_full: WhenFull,
    /// How long a place is kept for a node that does not answer; 1 s to 10 min.
    #[serde(with = "duration")]
    pub ttl: Duration,
    /// How often a node says that a session lives.
    #[serde(with = "duration")]
    pub renew: Duration,
    /// How long a new session waits for the one that it replaces to end.
    #[serde(with = "duration")]
    pub wait: Duration,
}

/// What happens when a user opens one session more than they may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// The session that started first ends.
    #[default]
    DisconnectOldest,
    /// The new one is refused.
    Reject,
}

impl Default for LeaseConfig {
    fn default() -> Self {
        Self {
            // A phone, a laptop and the tab somebody forgot.
            per_user: 3,
            per_tenant: None,
            total: None,
            when_full: WhenFull::DisconnectOldest,
            ttl: Duration::from_secs(30),
            // Two renewals may be lost.
            renew: Duration::from_secs(10),
            // Ending a call takes half a second; a node that hangs is not waited for.
            wait: Duration::from_secs(5),
        }
    }
}

fn lease_outlives_its_renewal(config: &LeaseConfig) -> Result<(), ValidationError> {
    let problem = |message: &'static str| {
        Err(ValidationError::new("inconsistent").with_message(message.into()))
    };
    if config.ttl < Duration::from_secs(1) || config.ttl > Duration::from_secs(600) {
        return problem("ttl must be between 1s and 10m");
    }
    if config.renew.is_zero() || config.renew * 2 > config.ttl {
        return problem("renew must be longer than zero and at most half of ttl");
    }
    if config.wait > Duration::from_secs(60) {
        return problem("wait must be at most 1m");
    }
    Ok(())
}
