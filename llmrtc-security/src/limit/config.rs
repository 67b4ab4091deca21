//! What an operator may tune about limits. Defaults are constants of experience, each with its reason.

use std::{collections::BTreeMap, fmt, str::FromStr, time::Duration};

use llmrtc_core::duration;
use serde::{Deserialize, Deserializer, de::Error as _};
use validator::{Validate, ValidationError};

use super::{admission::AdmissionConfig, budget::BudgetConfig, gcra::Quota, lease::LeaseConfig};
use crate::net::address::Networks;

/// The class of callers whose grants name none.
pub const DEFAULT_CLASS: &str = "default";

/// The limits section of the configuration.
///
/// A limit is text such as `"10/s burst 20"`, `"60/m"` or `"off"`; see [`Limit`]. Only what is named changes: scopes
/// that a class leaves out are those of the class `default`, and what that leaves out is built in.
#[derive(Clone, Debug, PartialEq, Deserialize, Validate)]
#[serde(default, deny_unknown_fields)]
#[validate(schema(function = "limits_are_consistent"))]
pub struct LimitsConfig {
    /// Addresses and callers whose buckets are kept at a time, at most 64 bytes each.
    #[validate(range(min = 1_024, max = 16_000_000))]
    pub max_keys: usize,
    /// Nodes that share the limits. What a node may admit alone, while Redis is down, is divided by it.
    #[validate(range(min = 1, max = 10_000))]
    pub nodes: u32,
    /// What happens to shared limits while Redis is down.
    pub when_shared_fails: WhenSharedFails,
    /// Callers that no limit by address holds for. Loopback by default: the operator's own machine.
    pub exempt: Networks,
    /// How long an address stays out after too many failed attempts to authenticate; at most a day.
    #[serde(with = "duration")]
    pub auth_block: Duration,
    /// By client address: IPv4 addresses one by one, IPv6 by /64.
    pub address: BTreeMap<Scope, Limit>,
    /// How many times as much as one address an IPv6 /48 may have: as many subscribers as a provider puts there.
    #[validate(range(min = 1, max = 65_536))]
    pub network_factor: u32,
    /// By class of caller, as the grants name it.
    pub classes: BTreeMap<String, ClassConfig>,
    /// Sessions at the same time.
    #[validate(nested)]
    pub sessions: LeaseConfig,
    /// Money and tokens per day.
    #[validate(nested)]
    pub budget: BudgetConfig,
    /// What this process takes on at the same time.
    #[validate(nested)]
    pub admission: AdmissionConfig,
}

/// The limits of a class of callers.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClassConfig {
    /// For each user.
    pub user: BTreeMap<Scope, Limit>,
    /// For each user, by type of WebSocket message, beside `user.message`, which counts all types together.
    pub message: BTreeMap<String, Limit>,
    /// For all users of a tenant together.
    pub tenant: BTreeMap<Scope, Limit>,
}

/// What is counted. Each scope has buckets of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// HTTP requests.
    Http,
    /// WebSocket upgrades.
    Upgrade,
    /// Tickets issued.
    Ticket,
    /// Failed attempts to authenticate.
    AuthFailure,
    /// WebSocket messages of any type.
    Message,
    /// WebRTC offers.
    Offer,
    /// Turns of conversation.
    Turn,
    /// Tokens read and written by language models.
    LlmTokens,
    /// Seconds of synthesized speech.
    TtsSeconds,
    /// Seconds of transcribed speech.
    SttSeconds,
    /// Tool calls.
    ToolCall,
}

impl Scope {
    /// All scopes, in order of declaration.
    pub const ALL: [Self; 11] = [
        Self::Http,
        Self::Upgrade,
        Self::Ticket,
        Self::AuthFailure,
        Self::Message,
        Self::Offer,
        Self::Turn,
        Self::LlmTokens,
        Self::TtsSeconds,
        Self::SttSeconds,
        Self::ToolCall,
    ];

    /// The name in configuration, headers, metrics and audit events.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Upgrade => "upgrade",
            Self::Ticket => "ticket",
            Self::AuthFailure => "auth_failure",
            Self::Message => "message",
            Self::Offer => "offer",
            Self::Turn => "turn",
            Self::LlmTokens => "llm_tokens",
            Self::TtsSeconds => "tts_seconds",
            Self::SttSeconds => "stt_seconds",
            Self::ToolCall => "tool_call",
        }
    }

    /// Whether all nodes count together. Messages belong to a connection, which lives on one node, and there are too
    /// many of them to ask about each.
    pub const fn is_shared(self) -> bool {
        !matches!(self, Self::Message)
    }
}

/// What happens to a shared limit while nobody can be asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenSharedFails {
    /// Each node goes on with its part: the rate divided by [`LimitsConfig::nodes`].
    #[default]
    FailLocal,
    /// Nothing is admitted.
    FailClosed,
}

/// A rate, or none.
///
/// Text: a count, a period (`s`, `m`, `h`, `d` or a duration such as `10s`) and, after `burst`, how many more may come
/// at once; absent, it is the count less one, so the quota of a period may be used at once. `"10/s burst 20"` admits
/// what nginx's `rate=10r/s` with `burst=20 nodelay` admits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Unlimited.
    Off,
    /// At most this.
    Rate(Quota),
}

impl Limit {
    /// The quota, if there is one.
    pub fn quota(self) -> Option<Quota> {
        match self {
            Self::Off => None,
            Self::Rate(quota) => Some(quota),
        }
    }
}

/// Text that is no limit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a limit such as \"10/s burst 20\", \"60/m\" or \"off\"")]
pub struct InvalidLimit(String);

impl FromStr for Limit {
    type Err = InvalidLimit;

    fn from_str(text: &str) -> Result<Self, InvalidLimit> {
        parse_limit(text).ok_or_else(|| InvalidLimit(text.chars().take(40).collect()))
    }
}

fn parse_limit(text: &str) -> Option<Limit> {
    let mut words = text.split_whitespace();
    let rate = words.next()?;
    let limit = if rate == "off" {
        Limit::Off
    } else {
        let (count, per) = rate.split_once('/')?;
        let count: u32 = count.parse().ok()?;
        let per = match per {
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(3_600),
            "d" => Duration::from_secs(86_400),
            other => parse_duration(other)?,
        };
        let burst = match words.next() {
            None => count.checked_sub(1)?,
            Some("burst") => words.next()?.parse().ok()?,
            Some(_) => return None,
        };
        Limit::Rate(Quota::new(count, per, burst).ok()?)
    };
    words.next().is_none().then_some(limit)
}

fn parse_duration(text: &str) -> Option<Duration> {
    use serde::de::{IntoDeserializer, value};
    let text: value::StrDeserializer<'_, value::Error> = text.into_deserializer();
    duration::deserialize(text).ok()
}

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// The limits that are built in: scope, limit.
pub(super) type Defaults = &'static [(Scope, &'static str)];

/// By address, before anybody is known.
pub(super) const ADDRESS: Defaults = &[
    // The customary gateway limit.
    (Scope::Http, "10/s burst 20"),
    // An office behind one address that reconnects after an outage gets in within two minutes.
    (Scope::Upgrade, "60/m burst 29"),
    (Scope::Ticket, "60/m burst 29"),
    // Enough for a person with an old password or a client with a stale token, nothing for who guesses.
    (Scope::AuthFailure, "5/m"),
];

/// By user.
pub(super) const USER: Defaults = &[
    // The customary limit for a user.
    (Scope::Http, "60/m"),
    (Scope::Upgrade, "30/m burst 9"),
    (Scope::Ticket, "30/m burst 9"),
    // A call sends pings and, in its first second, some fifty candidates; recorded speech arrives in chunks.
    (Scope::Message, "50/s burst 200"),
    // An offer costs a parse and maybe a peer. A call begins with two, and people who try their microphone out toggle it.
    (Scope::Offer, "1/s burst 5"),
    // Nobody says something that deserves an answer every second for a minute.
    (Scope::Turn, "60/m"),
    // Sixty turns of 3,000 tokens.
    (Scope::LlmTokens, "180000/m"),
    // Three sessions that are spoken to without a pause, and answers that are interrupted.
    (Scope::TtsSeconds, "300/m"),
    // Three sessions that speak without a pause, and what the detector adds around it.
    (Scope::SttSeconds, "240/m"),
    (Scope::ToolCall, "120/m"),
];

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            // 64 MB at most: an IPv4 /12, each with a bucket of its own.
            max_keys: 1_000_000,
            nodes: 1,
            when_shared_fails: WhenSharedFails::FailLocal,
            exempt: Networks::loopback(),
            // Guessing at 5 per 5 minutes is hopeless, and a person comes back after a coffee.
            auth_block: Duration::from_secs(5 * 60),
            address: BTreeMap::new(),
            // A provider that gives each customer a /56 has 256 in a /48; few of them call at once.
            network_factor: 16,
            classes: BTreeMap::new(),
            sessions: LeaseConfig::default(),
            budget: BudgetConfig::default(),
            admission: AdmissionConfig::default(),
        }
    }
}

fn limits_are_consistent(config: &LimitsConfig) -> Result<(), ValidationError> {
    let problem =
        |message: String| Err(ValidationError::new("inconsistent").with_message(message.into()));
    if config.auth_block.is_zero() || config.auth_block > Duration::from_secs(86_400) {
        return problem("auth_block must be longer than zero and at most a day".into());
    }
    let by_address = [
        Scope::Http,
        Scope::Upgrade,
        Scope::Ticket,
        Scope::AuthFailure,
    ];
    if let Some(scope) = config
        .address
        .keys()
        .find(|scope| !by_address.contains(scope))
    {
        return problem(format!(
            "address: {scope} is limited by user, not by address"
        ));
    }
    for (name, class) in &config.classes {
        if class.user.contains_key(&Scope::AuthFailure)
            || class.tenant.contains_key(&Scope::AuthFailure)
        {
            return problem(format!(
                "classes.{name}: auth_failure is limited by address, not by user"
            ));
        }
    }
    Ok(())
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn limits_are_written_as_people_say_them() {
        let secs = Duration::from_secs;
        for (text, limit, per, burst) in [
            ("10/s burst 20", 10, secs(1), 20),
            ("60/m", 60, secs(60), 59),
            ("5/m burst 0", 5, secs(60), 0),
            (" 1000/h  burst 10 ", 1_000, secs(3_600), 10),
            ("100/d", 100, secs(86_400), 99),
            ("7/10s", 7, secs(10), 6),
        ] {
            let expected = Limit::Rate(Quota::new(limit, per, burst).unwrap());
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        assert_eq!("off".parse(), Ok(Limit::Off));
        for text in [
            "",
            "10",
            "10/",
            "/s",
            "0/s",
            "-1/s",
            "10/fortnight",
            "10/s burst",
            "10/s burst x",
            "10/s 20",
            "10/s burst 20 more",
            "off burst 1",
            "10/0s",
            "1/d burst 105",
            "4294967296/s",
        ] {
            assert!(text.parse::<Limit>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_defaults_are_valid_and_what_is_built_in_parses() {
        LimitsConfig::default().validate().unwrap();
        for (scope, text) in ADDRESS.iter().chain(USER) {
            assert!(text.parse::<Limit>().is_ok(), "{scope}: {text}");
        }
        assert!(Scope::ALL.is_sorted());
    }

    #[test]
    fn an_operator_names_only_what_changes_and_mistakes_are_found() {
        let config: LimitsConfig = serde_json::from_value(json!({
            "address": { "http": "5/s" },
            "auth_block": "1m",
            "exempt": [],
            "classes": {
                "gold": { "user": { "turn": "off" }, "message": { "ping": "2/s" } },
                "default": { "tenant": { "llm_tokens": "1000000/m" } },
            },
        }))
        .unwrap();
        config.validate().unwrap();
        assert_eq!(config.classes["gold"].user[&Scope::Turn], Limit::Off);

        for wrong in [
            json!({ "adress": {} }),
            json!({ "address": { "htp": "5/s" } }),
            json!({ "address": { "http": "often" } }),
            json!({ "classes": { "gold": { "users": {} } } }),
            json!({ "exempt": ["not an address"] }),
        ] {
            assert!(
                serde_json::from_value::<LimitsConfig>(wrong.clone()).is_err(),
                "{wrong}"
            );
        }
        for inconsistent in [
            json!({ "address": { "turn": "5/s" } }),
            json!({ "classes": { "gold": { "user": { "auth_failure": "5/s" } } } }),
            json!({ "auth_block": "0s" }),
            json!({ "nodes": 0 }),
            json!({ "max_keys": 1 }),
        ] {
            let config: LimitsConfig = serde_json::from_value(inconsistent.clone()).unwrap();
            assert!(config.validate().is_err(), "{inconsistent}");
        }
    }
}
