//! What the operator decides. [`Config`] is the sum of the crates' sections; [`load`] reads it from four layers.

mod dotenv;
pub mod load;
mod print;
mod problem;
mod providers;
#[cfg(test)]
mod tests;
mod tree;

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;

use crate::security;
use llmrtc_core::{duration, redact::Secret, turn::TurnConfig};
use llmrtc_media::config::MediaConfig;
use llmrtc_security::{
    audit::AuditConfig,
    auth::{
        bind::{self, BindError, Exposure},
        config::{AuthConfig, AuthMode},
        origin::{Origin, OriginPolicy},
        resume::{Binding, ResumeConfig},
    },
    guard::{GuardConfig, output::OutputConfig},
    limit::config::LimitsConfig,
    net::{
        address::ProxyConfig,
        cors::CorsConfig,
        fetch::FetchConfig,
        relay::RelayConfig,
        tls::{ClientAuth, TlsConfig},
    },
    redact::RedactConfig,
    secrets::SecretsConfig,
    tool::ToolsConfig,
    vault::VaultConfig,
};
use llmrtc_signal::connection::ConnectionConfig;
use serde::Deserialize;
use validator::{Validate, ValidationError};

pub use self::{
    problem::{ConfigError, Problem},
    providers::ProvidersConfig,
    tree::Source,
};

/// The reference configuration: every key with its default, or an example where there is none. `config print` starts
/// from it, and a test holds it to the code.
pub const REFERENCE: &str = include_str!("reference.toml");

/// The whole configuration of a server.
#[derive(Clone, Debug, Default, Deserialize, Validate)]
#[serde(default, deny_unknown_fields)]
#[validate(schema(function = "sections_fit"))]
#[non_exhaustive]
pub struct Config {
    /// Listening, and who may connect.
    #[validate(nested)]
    pub server: ServerConfig,
    /// How a session talks.
    #[validate(nested)]
    pub turn: TurnConfig,
    /// Hearing and speaking.
    #[validate(nested)]
    pub media: MediaConfig,
    /// Bounds of a client's connection.
    #[validate(nested)]
    pub signal: ConnectionConfig,
    /// Vendors.
    pub providers: ProvidersConfig,
    /// STUN and TURN servers for clients.
    #[validate(nested)]
    pub ice: IceConfig,
    /// Pictures that callers name instead of sending them.
    #[validate(nested)]
    pub fetch: FetchConfig,
    /// How callers show who they are.
    #[validate(nested)]
    pub auth: AuthConfig,
    /// How much a caller may have.
    #[validate(nested)]
    pub limits: LimitsConfig,
    /// Proxies in front of the server.
    #[validate(nested)]
    pub proxy: ProxyConfig,
    /// What pages of other origins may read.
    #[validate(nested)]
    pub cors: CorsConfig,
    /// TLS of the listener.
    #[validate(nested)]
    pub tls: TlsConfig,
    /// Where keys come from, and how often they are read again.
    #[validate(nested)]
    pub secrets: SecretsConfig,
    /// Personal data and credentials in text.
    #[validate(nested)]
    pub redact: RedactConfig,
    /// Screening for prompt injection.
    #[validate(nested)]
    pub guard: GuardConfig,
    /// What answers may contain.
    #[validate(nested)]
    pub output: OutputConfig,
    /// Conditions of tools.
    #[validate(nested)]
    pub tools: ToolsConfig,
    /// State shared by several servers.
    #[validate(nested)]
    pub redis: RedisConfig,
    /// The operator's listener.
    #[validate(nested)]
    pub admin: AdminConfig,
    /// Conversations at rest.
    #[validate(nested)]
    pub vault: VaultConfig,
    /// Who did what.
    #[validate(nested)]
    pub audit: AuditConfig,
    /// Sessions whose client is away.
    #[validate(nested)]
    pub sessions: SessionsConfig,
    /// What is written down.
    #[validate(nested)]
    pub log: LogConfig,
    /// How the server leaves.
    #[validate(nested)]
    pub shutdown: ShutdownConfig,
}

/// What one section says and another has to make true.
fn sections_fit(config: &Config) -> Result<(), ValidationError> {
    let problem = |message: &'static str| {
        Err(ValidationError::new("inconsistent").with_message(message.into()))
    };
    if config.signal.allow_attachment_urls && config.fetch.hosts.is_empty() {
        return problem("signal.allow_attachment_urls needs fetch.hosts");
    }
    if config.auth.client_certificates && config.tls.client_auth == ClientAuth::Off {
        return problem("auth.client_certificates needs tls.client_auth");
    }
    Ok(())
}

/// Listening, and who may connect.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Validate)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ServerConfig {
    /// Address or name to listen on. Anything but loopback needs authentication, or `insecure_no_auth`.
    #[validate(custom(function = "host"))]
    pub host: String,
    /// Port; 0 takes a free one.
    pub port: u16,
    /// Serve anybody who can reach the server, at the operator's cost.
    pub insecure_no_auth: bool,
    /// A proxy in front ends TLS, so that plain HTTP may be spoken to a network. Name it in `proxy.trusted`.
    pub behind_proxy: bool,
    /// Pages that may connect, as `https://app.example`; exactly these. Empty: pages of this server and of this machine.
    #[validate(custom(function = "origins"))]
    pub allowed_origins: Vec<String>,
    /// Let clients in that send no `Origin`, which browsers always do.
    pub allow_missing_origin: bool,
    /// Show the playground page at `/`.
    pub playground: bool,
    /// Where the server keeps its own keys, stored conversations and the audit log. Absent: where the system wants such
    /// data, such as `~/.local/share/llmrtc`.
    pub data_dir: Option<PathBuf>,
    /// Where `/metrics` is served. Absent: beside everything else if that is loopback, otherwise nowhere.
    pub metrics_bind: Option<SocketAddr>,
    /// Most connections at a time; further ones are refused with 503.
    #[validate(range(min = 1, max = 100_000))]
    pub max_connections: usize,
    /// Most connections of one address that is not loopback; further ones are refused with 429.
    #[validate(range(min = 1, max = 100_000))]
    pub max_connections_per_address: usize,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".into(),
            // The reference's port, so that its clients find us.
            port: 8787,
            insecure_no_auth: false,
            behind_proxy: false,
            allowed_origins: Vec::new(),
            allow_missing_origin: true,
            playground: true,
            data_dir: None,
            metrics_bind: None,
            max_connections: 1_000,
            // An office behind one address, but not a botnet behind one.
            max_connections_per_address: 20,
        }
    }
}

/// State that several servers share: tickets, limits, sessions per user, revocations.
#[derive(Clone, Debug, Deserialize, Validate)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct RedisConfig {
    /// `redis://` or `rediss://`. Absent: this server is alone.
    pub url: Option<Secret>,
    /// What every key begins with.
    #[validate(length(min = 1, max = 64))]
    pub prefix: String,
}

impl Default for RedisConfig {
    fn default() -> Self {
        Self {
            url: None,
            prefix: "llmrtc".into(),
        }
    }
}

/// The operator's listener: numbers, sessions, revocation, erasure. Off unless it has an address.
#[derive(Clone, Debug, Default, Deserialize, Validate)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct AdminConfig {
    /// Where it listens. Keep it on loopback or in a network of operators.
    pub bind: Option<SocketAddr>,
    /// What operators show. Absent: made at the first start, in `admin-token` of the data folder.
    pub token: Option<Secret>,
}

impl Config {
    /// What operators show on their listener; `None` if there is no listener.
    ///
    /// # Errors
    /// When it has to be made and cannot be.
    pub fn admin_token(&self) -> anyhow::Result<Option<Secret>> {
        match (&self.admin.bind, &self.admin.token) {
            (None, _) => Ok(None),
            (_, Some(token)) => Ok(Some(token.clone())),
            (_, None) => {
                let file = self.data_folder()?.join("admin-token");
                security::data::admin_token(&file).map(Some)
            }
        }
    }

    /// Whether callers have to show who they are.
    pub fn requires_auth(&self) -> bool {
        match self.auth.mode {
            AuthMode::Required => true,
            AuthMode::Open => false,
            AuthMode::Auto => self.auth.admits_somebody(),
        }
    }

    /// Whether the server may listen on `address`, one of those that `server.host` resolves to.
    ///
    /// # Errors
    /// When a network would reach a server that authenticates nobody.
    pub fn exposure(&self, address: IpAddr) -> Result<Exposure, BindError> {
        bind::check(address, !self.requires_auth(), self.server.insecure_no_auth)
    }

    /// The rules for resuming on a listener that is exposed like this. A handle alone is enough only where nobody has an
    /// identity and nobody else can reach the server.
    pub fn resume(&self, exposure: Exposure) -> ResumeConfig {
        let binding = match exposure {
            Exposure::Loopback if !self.requires_auth() => Binding::HandleOnly,
            _ => Binding::Identity,
        };
        self.sessions.resume(binding)
    }

    /// The data folder, made if it is missing.
    ///
    /// # Errors
    /// When it cannot be made, or nobody said where it should be.
    pub fn data_folder(&self) -> anyhow::Result<&Path> {
        let folder = self.server.data_dir.as_deref();
        let folder = folder.context("there is no home folder: set server.data_dir")?;
        security::data::prepare(folder)
            .with_context(|| format!("cannot make the data folder {}", folder.display()))?;
        Ok(folder)
    }

    /// The audit section with its files in the data folder. Without authentication nothing is recorded unless asked for.
    ///
    /// # Errors
    /// As [`data_folder`](Self::data_folder).
    pub fn audit(&self) -> anyhow::Result<AuditConfig> {
        let mut audit = self.audit.clone();
        if audit.sinks.is_none() && !self.requires_auth() {
            audit.sinks = Some(Vec::new());
        }
        for path in [&mut audit.path, &mut audit.key_file] {
            if path.is_relative() && !audit.sinks.as_ref().is_some_and(Vec::is_empty) {
                *path = self.data_folder()?.join(&path);
            }
        }
        Ok(audit)
    }
}

impl ServerConfig {
    /// Which pages may connect to a listener on `bind`.
    pub fn origin_policy(&self, bind: IpAddr) -> OriginPolicy {
        let policy = if self.allowed_origins.is_empty() {
            OriginPolicy::local(bind)
        } else {
            // Validated when the configuration was loaded; an entry that is no origin matches nothing.
            OriginPolicy::listed(
                self.allowed_origins
                    .iter()
                    .filter_map(|text| Origin::from_config(text).ok()),
            )
        };
        policy.allow_missing(self.allow_missing_origin)
    }
}

/// STUN and TURN servers for clients. In order: `servers`; Metered; our own STUN responder.
#[derive(Clone, Debug, Default, Deserialize, Validate)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct IceConfig {
    /// Servers as browsers know them.
    #[validate(nested)]
    pub servers: Vec<IceServerConfig>,
    /// A relay of one's own, told to every caller with a credential that ends after minutes.
    #[validate(nested)]
    pub relay: RelayConfig,
    /// Credentials for Metered's TURN service.
    #[validate(nested)]
    pub metered: MeteredConfig,
}

/// One STUN or TURN server.
#[derive(Clone, Debug, Deserialize, Validate)]
#[serde(deny_unknown_fields)]
#[validate(schema(function = "ice_server"))]
#[non_exhaustive]
pub struct IceServerConfig {
    /// `stun:`, `stuns:`, `turn:` or `turns:` URLs.
    #[serde(deserialize_with = "one_or_many")]
    pub urls: Vec<String>,
    /// Needed by `turn:` and `turns:`.
    #[serde(default)]
    pub username: Option<String>,
    /// Needed by `turn:` and `turns:`.
    #[serde(default)]
    pub credential: Option<Secret>,
}

/// Metered's TURN service. Used when both name and key are there.
#[derive(Clone, Debug, Default, Deserialize, Validate)]
#[serde(default, deny_unknown_fields)]
#[validate(schema(function = "metered"))]
#[non_exhaustive]
pub struct MeteredConfig {
    /// The application, the first label of its host name.
    pub app_name: Option<String>,
    /// The key.
    pub api_key: Option<Secret>,
    /// Where the relays should be.
    pub region: Option<String>,
}

/// Sessions whose client is away.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Validate)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct SessionsConfig {
    /// How long a session waits for its client.
    #[serde(with = "duration")]
    #[validate(custom(function = "session_ttl"))]
    pub ttl: Duration,
    /// Most sessions waiting; whoever has waited longest makes room.
    #[validate(range(min = 1, max = 1_000_000))]
    pub max_waiting: usize,
    /// The same per identity. Callers without one share only `max_waiting`.
    #[validate(range(min = 1, max = 1_000_000))]
    pub max_waiting_per_principal: usize,
    /// Resume only with the rotating token. The stock web client has none.
    pub require_resume_token: bool,
}

impl Default for SessionsConfig {
    fn default() -> Self {
        let defaults = ResumeConfig::default();
        Self {
            ttl: defaults.ttl,
            max_waiting: defaults.max_waiting,
            max_waiting_per_principal: defaults.max_waiting_per_principal,
            require_resume_token: defaults.require_token,
        }
    }
}

impl SessionsConfig {
    fn resume(&self, binding: Binding) -> ResumeConfig {
        ResumeConfig {
            ttl: self.ttl,
            max_waiting: self.max_waiting,
            max_waiting_per_principal: self.max_waiting_per_principal,
            require_token: self.require_resume_token,
            binding,
            ..ResumeConfig::default()
        }
    }
}

/// What is written down.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Validate)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct LogConfig {
    /// `error`, `warn`, `info`, `debug` or `trace`; per target as in `info,llmrtc_media=debug`.
    #[validate(custom(function = "log_level"))]
    pub level: String,
    /// Lines for people or for machines.
    pub format: LogFormat,
    /// Record what people say. Off: transcripts and prompts appear as their lengths.
    pub capture: bool,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            level: "info".into(),
            format: LogFormat::Human,
            capture: false,
        }
    }
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum LogFormat {
    /// For reading.
    Human,
    /// One JSON object per line.
    Json,
}

/// How the server leaves.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Validate)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ShutdownConfig {
    /// How long audible answers may go on after SIGTERM or SIGINT; zero ends them at once.
    #[serde(with = "duration")]
    #[validate(custom(function = "grace"))]
    pub grace: Duration,
}

impl Default for ShutdownConfig {
    fn default() -> Self {
        // Most answers end within it, and orchestrators kill after 30 s.
        Self {
            grace: Duration::from_secs(10),
        }
    }
}

fn invalid(message: impl Into<String>) -> ValidationError {
    ValidationError::new("invalid").with_message(message.into().into())
}

fn host(host: &str) -> Result<(), ValidationError> {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if host.parse::<IpAddr>().is_ok() || (host.len() <= 253 && host.split('.').all(label)) {
        Ok(())
    } else {
        Err(invalid("is neither an address nor a host name"))
    }
}

fn origins(list: &[String]) -> Result<(), ValidationError> {
    let errors: Vec<String> = list
        .iter()
        .filter_map(|text| Origin::from_config(text).err())
        .map(|error| error.to_string())
        .collect();
    if errors.is_empty() {
        Ok(())
    } else {
        Err(invalid(errors.join("; ")))
    }
}

fn session_ttl(ttl: &Duration) -> Result<(), ValidationError> {
    const DAY: Duration = Duration::from_secs(24 * 3_600);
    if *ttl <= DAY {
        Ok(())
    } else {
        Err(invalid("must be at most 24h"))
    }
}

fn grace(grace: &Duration) -> Result<(), ValidationError> {
    // Longer drains belong to whatever routes calls to this server.
    if *grace <= Duration::from_secs(600) {
        Ok(())
    } else {
        Err(invalid("must be at most 10m"))
    }
}

fn log_level(level: &str) -> Result<(), ValidationError> {
    match tracing_subscriber::EnvFilter::builder().parse(level) {
        Ok(_) => Ok(()),
        Err(error) => Err(invalid(format!(
            "is not a log filter such as \"info,llmrtc_media=debug\": {error}"
        ))),
    }
}

fn ice_server(server: &IceServerConfig) -> Result<(), ValidationError> {
    if server.urls.is_empty() {
        return Err(invalid("needs at least one URL"));
    }
    for url in &server.urls {
        let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
        match scheme {
            "stun" | "stuns" => {}
            // A browser throws when it is given such a server without credentials, and the client then retries forever.
            "turn" | "turns" if server.username.is_none() || server.credential.is_none() => {
                return Err(invalid(format!("`{url}` needs username and credential")));
            }
            "turn" | "turns" => {}
            _ => {
                return Err(invalid(format!(
                    "`{url}` does not begin with stun:, stuns:, turn: or turns:"
                )));
            }
        }
    }
    Ok(())
}

fn metered(metered: &MeteredConfig) -> Result<(), ValidationError> {
    // It becomes a label of a host name that a key is sent to.
    let label = |name: &str| {
        name.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    match &metered.app_name {
        Some(name) if name.is_empty() || !label(name) => Err(invalid(
            "app_name must consist of letters, digits and hyphens",
        )),
        _ => Ok(()),
    }
}

/// `urls` is a string or a list of strings, as in browsers.
fn one_or_many<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct OneOrMany;

    impl<'de> serde::de::Visitor<'de> for OneOrMany {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a URL or a list of URLs")
        }

        fn visit_str<E: serde::de::Error>(self, url: &str) -> Result<Vec<String>, E> {
            Ok(vec![url.to_owned()])
        }

        fn visit_seq<A: serde::de::SeqAccess<'de>>(self, seq: A) -> Result<Vec<String>, A::Error> {
            Vec::deserialize(serde::de::value::SeqAccessDeserializer::new(seq))
        }
    }

    deserializer.deserialize_any(OneOrMany)
}
