//! The `auth` section of the configuration, and the [`Chain`] that it describes.

use std::{fmt, sync::Arc, time::Duration};

use llmrtc_core::{clock::Clock, duration, redact::Secret};
use serde::Deserialize;
use validator::{Validate, ValidationError};

#[cfg(feature = "jwt")]
use super::jwt::{
    HmacAlgorithm, IssuerPolicy, PublicAlgorithm, PublicKey, SharedSecrets, TenantSource, Verifier,
    Verifiers,
};
use super::{
    Principal,
    api_key::ApiKeys,
    chain::{Chain, FIRST_MESSAGE_WITHIN},
    grants::Grants,
    resume::SessionHandles,
    revocation::Revocations,
    ticket::{self, TicketStore, Tickets},
};

/// Most API keys: each costs every caller one comparison.
const MAX_API_KEYS: usize = 1000;

/// How callers show who they are.
#[derive(Clone, Debug, Deserialize, Validate)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
    /// Whether they have to.
    pub mode: AuthMode,
    /// Who may sign tokens.
    #[cfg(feature = "jwt")]
    pub issuers: Vec<IssuerConfig>,
    /// Keys for programs.
    pub api_keys: Vec<ApiKeyConfig>,
    /// Tickets for browsers.
    #[validate(nested)]
    pub tickets: TicketConfig,
    /// Credentials in the first message.
    #[validate(nested)]
    pub first_message: FirstMessageConfig,
    /// Whether a token may be in the URL. Off: URLs end up in logs. With it, tokens must end within a minute.
    pub query_token: bool,
    /// Whether a token may be in `Sec-WebSocket-Protocol`.
    pub subprotocol: bool,
    /// Whether a program may show a client certificate instead (`tls.client_auth`): its first URI, host or common name is
    /// the caller's name. Whoever signs certificates for `tls.client_ca_file` then decides who comes in.
    pub client_certificates: bool,
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self {
            mode: AuthMode::Auto,
            #[cfg(feature = "jwt")]
            issuers: Vec::new(),
            api_keys: Vec::new(),
            tickets: TicketConfig::default(),
            first_message: FirstMessageConfig::default(),
            query_token: false,
            subprotocol: true,
            client_certificates: false,
        }
    }
}

/// Whether callers have to show who they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthMode {
    /// As soon as an issuer or an API key is configured. Without either nobody could, so it is the same as `open`.
    #[default]
    Auto,
    /// Everybody, always.
    Required,
    /// Nobody. Only for callers on the same machine.
    Open,
}

/// Somebody who may sign tokens. Give it exactly one of `secret`, `public_keys` and `jwks`.
#[cfg(feature = "jwt")]
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IssuerConfig {
    /// `iss` of its tokens.
    pub issuer: String,
    /// What `aud` of tokens for us says.
    pub audience: Vec<String>,
    /// Algorithms, such as `["ES256"]`: all `HS…` with a secret, none with a key.
    pub algorithms: Vec<String>,
    /// The secret that it shares with us.
    pub secret: Option<Secret>,
    /// The secret before that one, while tokens of it are around.
    pub previous_secret: Option<Secret>,
    /// Its public keys.
    pub public_keys: Vec<PublicKeyConfig>,
    /// Where it publishes its keys: `"discover"` asks the issuer (OpenID Connect Discovery), anything else is their URL.
    #[cfg(feature = "jwks")]
    pub jwks: Option<String>,
    /// How far the clocks may differ, at most a minute.
    #[serde(with = "duration")]
    pub leeway: Duration,
    /// Longest time from `iat` to `exp`.
    #[serde(with = "duration")]
    pub max_lifetime: Duration,
    /// Accepted `typ` of a token's header.
    pub types: Vec<String>,
    /// Whether `typ` may be absent.
    pub allow_missing_type: bool,
    /// The tenant of every caller of this issuer. Needed for each as soon as there are several issuers.
    pub tenant: Option<String>,
    /// The claim that names the caller's tenant; without it, callers have none.
    pub tenant_claim: Option<String>,
    /// The claim that holds grants.
    pub grants_claim: String,
    /// The grants of tokens without that claim.
    pub default_grants: Grants,
}

#[cfg(feature = "jwt")]
impl Default for IssuerConfig {
    fn default() -> Self {
        let policy = IssuerPolicy::new("", []);
        Self {
            issuer: String::new(),
            audience: Vec::new(),
            algorithms: Vec::new(),
            secret: None,
            previous_secret: None,
            public_keys: Vec::new(),
            #[cfg(feature = "jwks")]
            jwks: None,
            leeway: policy.leeway,
            max_lifetime: policy.max_lifetime,
            types: policy.types,
            allow_missing_type: policy.allow_missing_type,
            tenant: None,
            tenant_claim: None,
            grants_claim: policy.grants_claim,
            default_grants: Grants::default(),
        }
    }
}

/// A public key.
#[cfg(feature = "jwt")]
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublicKeyConfig {
    /// The algorithm it is for. One of the issuer's.
    pub algorithm: String,
    /// Its `kid`.
    #[serde(default)]
    pub key_id: Option<String>,
    /// The key, as PEM.
    pub pem: String,
}

/// A key of a program. Give it exactly one of `sha256` and `key`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiKeyConfig {
    /// Who the program is.
    pub subject: String,
    /// Whose.
    #[serde(default)]
    pub tenant: Option<String>,
    /// SHA-256 of the key, 64 hexadecimal digits. `llmrtc token api-key` makes both.
    #[serde(default)]
    pub sha256: Option<String>,
    /// The key itself, 32 characters or more.
    #[serde(default)]
    pub key: Option<Secret>,
    /// What it may use.
    #[serde(default)]
    pub grants: Grants,
}

/// Tickets for browsers.
#[derive(Clone, Debug, PartialEq, Deserialize, Validate)]
#[serde(default, deny_unknown_fields)]
#[validate(schema(function = "ticket_is_brief"))]
pub struct TicketConfig {
    /// Whether there are any.
    pub enabled: bool,
    /// How long one waits to be redeemed, 1 s–2 min.
    #[serde(with = "duration")]
    pub ttl: Duration,
    /// Whether it must be redeemed from the address (IPv6: /64) that asked for it. Off: phones have several.
    pub bind_address: bool,
}

impl Default for TicketConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            ttl: ticket::TTL,
            bind_address: false,
        }
    }
}

fn ticket_is_brief(config: &TicketConfig) -> Result<(), ValidationError> {
    let range = Duration::from_secs(1)..=Duration::from_secs(120);
    if range.contains(&config.ttl) {
        return Ok(());
    }
    Err(ValidationError::new("range").with_message("ttl must be between 1s and 2m".into()))
}

/// Credentials in the first message.
#[derive(Clone, Debug, PartialEq, Deserialize, Validate)]
#[serde(default, deny_unknown_fields)]
#[validate(schema(function = "wait_is_brief"))]
pub struct FirstMessageConfig {
    /// Whether a socket may open without credentials and show them then.
    pub enabled: bool,
    /// How long it may take, 1–30 s.
    #[serde(with = "duration")]
    pub timeout: Duration,
}

impl Default for FirstMessageConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            timeout: FIRST_MESSAGE_WITHIN,
        }
    }
}

fn wait_is_brief(config: &FirstMessageConfig) -> Result<(), ValidationError> {
    let range = Duration::from_secs(1)..=Duration::from_secs(30);
    if range.contains(&config.timeout) {
        return Ok(());
    }
    Err(ValidationError::new("range").with_message("timeout must be between 1s and 30s".into()))
}

/// What the configuration cannot say: the live parts that the chain is made of.
pub struct Parts {
    /// Reads the clocks.
    pub clock: Arc<dyn Clock>,
    /// Where tickets wait: memory for one node, Redis for several.
    pub tickets: Arc<dyn TicketStore>,
    /// The sessions that spent tickets lead back to.
    pub sessions: Arc<SessionHandles>,
    /// What was revoked.
    pub revocations: Arc<Revocations>,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").finish_non_exhaustive()
    }
}

/// One thing that is wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Where, below the section: `issuers[0].secret`.
    pub path: String,
    /// What.
    pub message: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// A chain, and what can still be changed about it.
#[derive(Debug)]
pub struct Built {
    /// The authenticator.
    pub chain: Chain,
    /// The secrets of each issuer that shares one, by its name: [`SharedSecrets::replace`] rotates them.
    #[cfg(feature = "jwt")]
    pub secrets: Vec<(String, SharedSecrets)>,
    /// The published keys, to be fetched ahead of the first caller.
    #[cfg(feature = "jwks")]
    pub jwks: Vec<Arc<super::jwt::jwks::Jwks>>,
}

impl AuthConfig {
    /// The longest that a credential can be good for: what [`Revocations`] have to remember.
    pub fn longest_lifetime(&self) -> Duration {
        let day = Duration::from_secs(24 * 60 * 60);
        #[cfg(feature = "jwt")]
        {
            let lifetimes = self.issuers.iter();
            let longest = lifetimes
                .map(|issuer| issuer.max_lifetime + issuer.leeway)
                .max();
            longest.unwrap_or(day).max(day)
        }
        #[cfg(not(feature = "jwt"))]
        day
    }

    /// Whether anybody could show who they are: there is an issuer, an API key, or trust in client certificates.
    pub fn admits_somebody(&self) -> bool {
        #[cfg(feature = "jwt")]
        let issuers = !self.issuers.is_empty();
        #[cfg(not(feature = "jwt"))]
        let issuers = false;
        issuers || !self.api_keys.is_empty() || self.client_certificates
    }

    /// Builds the authenticator of a server whose callers have to show who they are.
    ///
    /// # Errors
    /// Everything that is wrong, not only the first.
    pub fn build(&self, parts: Parts) -> Result<Built, Vec<Mistake>> {
        let mut mistakes = Mistakes::default();
        #[cfg(feature = "jwt")]
        let issuers = self.issuers(&parts, &mut mistakes);
        let mut chain = Chain::new(parts.clock)
            .api_keys(self.api_keys(&mut mistakes))
            .revocations(parts.revocations)
            .first_message(
                self.first_message
                    .enabled
                    .then_some(self.first_message.timeout),
            )
            .query_token(self.query_token)
            .subprotocol(self.subprotocol)
            .certificates(self.client_certificates);
        if self.tickets.enabled {
            let tickets = Tickets::new(parts.tickets)
                .ttl(self.tickets.ttl)
                .bind_address(self.tickets.bind_address);
            chain = chain.tickets(tickets, Some(parts.sessions));
        }
        if !self.admits_somebody() {
            mistakes.add(
                "mode",
                "nobody could authenticate: configure an issuer or an API key",
            );
        }
        if !mistakes.0.is_empty() {
            return Err(mistakes.0);
        }
        #[cfg(feature = "jwt")]
        {
            chain = chain.jwt(Verifiers::new(issuers.verifiers));
        }
        Ok(Built {
            chain,
            #[cfg(feature = "jwt")]
            secrets: issuers.secrets,
            #[cfg(feature = "jwks")]
            jwks: issuers.jwks,
        })
    }

    fn api_keys(&self, mistakes: &mut Mistakes) -> ApiKeys {
        let mut keys = ApiKeys::new();
        if self.api_keys.len() > MAX_API_KEYS {
            mistakes.add("api_keys", format!("has more than {MAX_API_KEYS} entries"));
        }
        for (index, config) in self.api_keys.iter().enumerate() {
            let path = format!("api_keys[{index}]");
            if config.subject.is_empty() {
                mistakes.add(format!("{path}.subject"), "is empty");
            }
            let tenant = config.tenant.as_deref().map(Arc::from);
            let principal =
                Principal::service(&*config.subject, tenant).with_grants(config.grants.clone());
            match (&config.sha256, &config.key) {
                (Some(digest), None) => {
                    if let Err(error) = keys.insert_digest(digest, principal) {
                        mistakes.add(format!("{path}.sha256"), error);
                    }
                }
                (None, Some(key)) => {
                    if let Err(error) = keys.insert_key(key, principal) {
                        mistakes.add(format!("{path}.key"), error);
                    }
                }
                _ => mistakes.add(path, "needs exactly one of sha256 and key"),
            }
        }
        keys
    }
}

#[derive(Default)]
struct Mistakes(Vec<Mistake>);

impl Mistakes {
    fn add(&mut self, path: impl Into<String>, message: impl fmt::Display) {
        self.0.push(Mistake {
            path: path.into(),
            message: message.to_string(),
        });
    }
}

#[cfg(feature = "jwt")]
mod issuers;

#[cfg(test)]
mod tests;
