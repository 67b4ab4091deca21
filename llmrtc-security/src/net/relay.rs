//! Credentials for a TURN relay that live for minutes (H4).
//!
//! A relay is bandwidth and an address inside somebody's network, so nobody gets a password to it. The server and the
//! relay share a secret; a client gets a user name that says when it ends, and the secret's MAC over it. The relay
//! needs to ask nobody, and a leaked credential is worth nothing soon after.
//!
//! Issue credentials after authentication, for each connection anew, and never share them between users: the relay
//! counts its quotas by the name.
//!
//! # Source
//! *A REST API For Access To TURN Services*, <https://datatracker.ietf.org/doc/html/draft-uberti-behave-turn-rest-00>,
//! as coturn implements it (`use-auth-secret`).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use llmrtc_core::{duration, redact::Secret};
use serde::Deserialize;
use validator::{Validate, ValidationError};

/// Longest life of a credential. A relay checks it when an allocation is made and at each refresh, so a call that is
/// longer needs fresh ones; ten minutes are enough to connect and to survive an ICE restart.
pub const MAX_TTL: Duration = Duration::from_secs(10 * 60);
/// Shorter than this, a slow network or a clock that is a little off would be refused.
const MIN_TTL: Duration = Duration::from_secs(30);
/// Least entropy that the secret could have: 32 characters of hexadecimal are 128 bits.
const MIN_SECRET_BYTES: usize = 32;
/// Browsers slow down beyond a handful.
const MAX_URLS: usize = 8;

/// A relay of one's own, such as coturn.
#[derive(Clone, Debug, Deserialize, Validate)]
#[serde(default, deny_unknown_fields)]
#[validate(schema(function = "relay_is_consistent"))]
pub struct RelayConfig {
    /// `turn:` and `turns:` URLs, and `stun:` ones to go with them. Empty: there is no relay.
    pub urls: Vec<String>,
    /// The secret that the relay knows too: `static-auth-secret` of coturn. At least 32 characters.
    pub secret: Option<Secret>,
    /// How long a credential lives, 30 s–10 min.
    #[serde(with = "duration")]
    pub ttl: Duration,
}

impl Default for RelayConfig {
    fn default() -> Self {
        Self {
            urls: Vec::new(),
            secret: None,
            ttl: MAX_TTL,
        }
    }
}

fn problem(message: &'static str) -> Result<(), ValidationError> {
    Err(ValidationError::new("inconsistent").with_message(message.into()))
}

fn relay_is_consistent(relay: &RelayConfig) -> Result<(), ValidationError> {
    if relay.urls.len() > MAX_URLS {
        return problem("urls must not be more than 8");
    }
    let known = |url: &String| {
        let (scheme, rest) = url.split_once(':').unwrap_or_default();
        matches!(scheme, "stun" | "stuns" | "turn" | "turns")
            && !rest.is_empty()
            && !rest.contains(|c: char| c.is_whitespace() || c.is_control())
    };
    if !relay.urls.iter().all(known) {
        return problem("urls must begin with turn:, turns:, stun: or stuns:");
    }
    if !(MIN_TTL..=MAX_TTL).contains(&relay.ttl) {
        return problem("ttl must be between 30s and 10m");
    }
    match (&relay.secret, relay.urls.is_empty()) {
        (None, true) => Ok(()),
        (None, false) => problem("urls need a secret"),
        (Some(_), true) => problem("a secret needs urls"),
        (Some(secret), false) if secret.expose().trim().len() < MIN_SECRET_BYTES => {
            problem("the secret must have 32 characters or more")
        }
        (Some(_), false) => Ok(()),
    }
}

/// Issues credentials for a relay.
#[derive(Debug)]
pub struct Relay {
    urls: Vec<String>,
    key: hmac::Key,
    pseudonyms: hmac::Key,
    ttl: Duration,
}

/// What one client may use until it ends.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RelayCredential {
    /// Where the relay is.
    pub urls: Vec<String>,
    /// `expiry:user`: seconds since 1970, and a pseudonym.
    pub username: String,
    /// The password.
    pub credential: Secret,
    /// When the relay stops to take it.
    pub expires_at: SystemTime,
}

impl Relay {
    /// The configured relay; `None` if there is none.
    ///
    /// # Errors
    /// When the configuration is not valid.
    pub fn new(config: &RelayConfig) -> Result<Option<Self>, validator::ValidationErrors> {
        config.validate()?;
        Ok(config.secret.as_ref().map(|secret| {
            let secret = secret.expose().trim().as_bytes();
            Self {
                urls: config.urls.clone(),
                key: hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret),
                pseudonyms: hmac::Key::new(hmac::HMAC_SHA256, secret),
                ttl: config.ttl,
            }
        }))
    }

    /// A credential for `user`, any text that names the user and nobody else (tenant included).
    ///
    /// The relay and the client see a pseudonym, always the same one for the same user, so that the relay's quotas per
    /// user hold over any number of credentials and its logs name nobody.
    pub fn issue(&self, user: &str, now: SystemTime) -> RelayCredential {
        let since_1970 = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        // Whole seconds, rounded down: never longer than asked for.
        let expires = Duration::from_secs((since_1970 + self.ttl).as_secs());
        let pseudonym = hmac::sign(
            &self.pseudonyms,
            &[b"llmrtc relay\0", user.as_bytes()].concat(),
        );
        let pseudonym: String = pseudonym.as_ref()[..PSEUDONYM_BYTES]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let username = format!("{}:{pseudonym}", expires.as_secs());
        RelayCredential {
            urls: self.urls.clone(),
            credential: self.password(&username),
            username,
            expires_at: UNIX_EPOCH + expires,
        }
    }

    fn password(&self, username: &str) -> Secret {
        Secret::new(STANDARD.encode(hmac::sign(&self.key, username.as_bytes())))
    }
}

/// 96 bits: two users of one relay never share a name.
const PSEUDONYM_BYTES: usize = 12;

#[cfg(test)]
mod h4_relay {
    use super::*;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    fn config() -> RelayConfig {
        RelayConfig {
            urls: vec!["turn:turn.example:3478".into()],
            secret: Some(Secret::new(SECRET)),
            ..RelayConfig::default()
        }
    }

    fn relay() -> Relay {
        Relay::new(&config()).unwrap().unwrap()
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    /// `printf 1700000600:alice | openssl dgst -sha1 -hmac $SECRET -binary | base64`
    #[test]
    fn the_password_is_what_a_relay_computes() {
        assert_eq!(
            relay().password("1700000600:alice").expose(),
            "wMBOAcGEIfknqoIzyjafdBBKEx4="
        );
    }

    #[test]
    fn a_credential_ends_within_ten_minutes_of_its_making() {
        let now = at(1_700_000_000) + Duration::from_millis(999);
        let credential = relay().issue("ann@example.org", now);
        assert_eq!(credential.expires_at, at(1_700_000_600));
        let (expiry, user) = credential.username.split_once(':').unwrap();
        assert_eq!(expiry, "1700000600");
        assert!(!user.is_empty() && user.bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert!(!format!("{credential:?} {:?}", relay()).contains(credential.credential.expose()));
    }

    #[test]
    fn users_have_names_of_their_own_that_stay_and_tell_nothing() {
        let name = |user, seconds| {
            let username = relay().issue(user, at(seconds)).username;
            username.split_once(':').unwrap().1.to_owned()
        };
        assert_eq!(name("ann", 1_000), name("ann", 9_000));
        assert_ne!(name("ann", 1_000), name("bob", 1_000));
        assert!(!name("ann", 1_000).contains("ann"));
        // A name with a colon would end where the relay does not expect it.
        assert!(!name("9999999999:ann", 1_000).contains(':'));
    }

    #[test]
    fn a_configuration_that_would_weaken_it_is_refused() {
        assert!(Relay::new(&RelayConfig::default()).unwrap().is_none());
        let check = |change: fn(&mut RelayConfig)| {
            let mut config = config();
            change(&mut config);
            Relay::new(&config).is_ok()
        };
        assert!(check(|_| ()));
        assert!(check(|c| c
            .urls
            .push("turns:turn.example:443?transport=tcp".into())));
        assert!(!check(|c| c.secret = None));
        assert!(!check(|c| c.secret = Some(Secret::new("short"))));
        assert!(!check(|c| c.secret = Some(Secret::new(" ".repeat(40)))));
        assert!(!check(|c| c.urls.clear()));
        assert!(!check(|c| c.urls.push("https://turn.example".into())));
        assert!(!check(|c| c.urls.push("turn:".into())));
        assert!(!check(|c| c.ttl = Duration::from_secs(601)));
        assert!(!check(|c| c.ttl = Duration::ZERO));
    }
}
