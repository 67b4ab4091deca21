//! Vault's key-value engine, version 2, and the ways to log in to Vault (security item A2).
//!
//! # Source
//! *KV secrets engine version 2*, *AppRole*, *Kubernetes* and *Token* in the Vault HTTP API reference.

#[cfg(test)]
mod tests;

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use llmrtc_core::redact::Secret;
use reqwest::{Client, Method, RequestBuilder, header::HeaderValue};
use serde::Deserialize;
use serde_json::json;
use tokio::{sync::Mutex, time::Instant};
use url::Url;

use super::{
    Environment, FileSource, SecretError, SecretErrorKind, SecretRef, SecretSource, VaultConfig,
    Versioned, http,
};

/// Where Kubernetes mounts the token of a pod's service account.
const SERVICE_ACCOUNT_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// How to get a token.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Login {
    /// The token itself.
    Token(Secret),
    /// An AppRole, mounted at `mount` (usually `approle`).
    AppRole {
        /// Where the login is mounted.
        mount: String,
        /// The role.
        role_id: String,
        /// The role's secret.
        secret_id: Secret,
    },
    /// The service account of a Kubernetes pod, mounted at `mount` (usually `kubernetes`).
    Kubernetes {
        /// Where the login is mounted.
        mount: String,
        /// The role.
        role: String,
        /// The file with the pod's token, which Kubernetes replaces from time to time.
        token_file: PathBuf,
    },
}

/// A Vault server, or a namespace on it.
#[derive(Debug)]
pub struct Vault {
    client: Client,
    address: Url,
    namespace: Option<String>,
    login: Login,
    /// Held while logging in or renewing, so that this is done once.
    token: Mutex<Option<Token>>,
}

/// A token and its lease.
#[derive(Debug)]
struct Token {
    value: Secret,
    lease: Option<Lease>,
}

#[derive(Debug)]
struct Lease {
    /// When two thirds are over: time enough to try several times.
    renew_at: Instant,
    renewable: bool,
}

impl Lease {
    /// `None` for a token that never expires.
    fn new(seconds: u64, renewable: bool) -> Option<Self> {
        (seconds > 0).then(|| Self {
            renew_at: Instant::now() + Duration::from_secs(seconds) * 2 / 3,
            renewable,
        })
    }
}

#[derive(Deserialize)]
struct WireAuth {
    auth: Auth,
}

#[derive(Deserialize)]
struct Auth {
    client_token: Secret,
    #[serde(default)]
    lease_duration: u64,
    #[serde(default)]
    renewable: bool,
}

#[derive(Deserialize)]
struct WireLookup {
    data: Lookup,
}

#[derive(Deserialize)]
struct Lookup {
    #[serde(default)]
    ttl: u64,
    #[serde(default)]
    renewable: bool,
}

#[derive(Deserialize)]
struct WireSecret {
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    data: Option<http::Document>,
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    version: u64,
    #[serde(default)]
    deletion_time: String,
    #[serde(default)]
    destroyed: bool,
}

impl Vault {
    /// A client for the server at `address`. Logs in when the first secret is asked for.
    ///
    /// # Errors
    /// When the address is none, or TLS cannot be set up.
    pub fn new(address: &str, namespace: Option<&str>, login: Login) -> Result<Self, SecretError> {
        Ok(Self {
            client: http::client()?,
            address: http::address("secrets.vault.address", address)?,
            namespace: namespace.map(str::to_owned),
            login,
            token: Mutex::new(None),
        })
    }

    /// The client that the configuration or Vault's own variables describe; `None` without an address. Of several ways
    /// to log in, the first of token, AppRole, Kubernetes.
    ///
    /// # Errors
    /// As [`new`](Self::new); [`SecretErrorKind::NotSet`] without a way to log in.
    pub fn configured(
        config: &VaultConfig,
        environment: &Environment<'_>,
    ) -> Result<Option<Self>, SecretError> {
        let text = |given: &Option<String>, name: &str| {
            given
                .clone()
                .or_else(|| environment(name))
                .map(|value| value.trim().to_owned())
                .filter(|value| !value.is_empty())
        };
        let secret = |given: &Option<Secret>, name: &str| {
            given
                .clone()
                .or_else(|| environment(name).map(|value| Secret::new(value.trim())))
                .filter(|value| !value.is_blank())
        };
        let Some(address) = text(&config.address, "VAULT_ADDR") else {
            return Ok(None);
        };
        let mount = |default: &str| {
            let given = config.login_mount.clone();
            given.unwrap_or_else(|| default.to_owned())
        };
        let login = if let Some(token) = secret(&config.token, "VAULT_TOKEN") {
            Login::Token(token)
        } else if let (Some(role_id), Some(secret_id)) = (
            text(&config.role_id, "VAULT_ROLE_ID"),
            secret(&config.secret_id, "VAULT_SECRET_ID"),
        ) {
            Login::AppRole {
                mount: mount("approle"),
                role_id,
                secret_id,
            }
        } else if let Some(role) = text(&config.kubernetes_role, "VAULT_K8S_ROLE") {
            Login::Kubernetes {
                mount: mount("kubernetes"),
                role,
                token_file: SERVICE_ACCOUNT_TOKEN.into(),
            }
        } else {
            return Err(SecretError::new(
                "VAULT_TOKEN, VAULT_ROLE_ID with VAULT_SECRET_ID, or VAULT_K8S_ROLE",
                SecretErrorKind::NotSet,
            ));
        };
        let namespace = text(&config.namespace, "VAULT_NAMESPACE");
        Self::new(&address, namespace.as_deref(), login).map(Some)
    }

    /// One text of the object at `path`.
    pub fn secret(
        self: Arc<Self>,
        mount: &str,
        path: &str,
        key: &str,
        version: Option<u64>,
    ) -> VaultSecret {
        let reference = SecretRef::Vault {
            mount: mount.to_owned(),
            path: path.to_owned(),
            key: key.to_owned(),
            version,
        };
        VaultSecret {
            vault: self,
            origin: reference.to_string(),
            mount: mount.to_owned(),
            path: path.to_owned(),
            key: key.to_owned(),
            version,
        }
    }

    fn url<'a>(&self, path: impl IntoIterator<Item = &'a str>) -> Url {
        http::join(&self.address, std::iter::once("v1").chain(path))
    }

    fn request(&self, method: Method, url: Url, token: Option<&Secret>) -> RequestBuilder {
        // Agents and proxies refuse requests that a browser could be tricked into making; this header says we are none.
        let mut request = self
            .client
            .request(method, url)
            .header("x-vault-request", "true");
        if let Some(namespace) = &self.namespace {
            request = request.header("x-vault-namespace", namespace);
        }
        // A token that no header can hold is refused like any other wrong one.
        if let Some(mut value) = token.and_then(|token| HeaderValue::from_str(token.expose()).ok())
        {
            value.set_sensitive(true);
            request = request.header("x-vault-token", value);
        }
        request
    }

    /// A token with time left: the one at hand, renewed if that is due, or a new one.
    async fn token(&self, origin: &str) -> Result<Secret, SecretError> {
        let mut slot = self.token.lock().await;
        if let Some(token) = &mut *slot {
            let due = token
                .lease
                .as_ref()
                .filter(|lease| lease.renew_at <= Instant::now());
            let Some(lease) = due else {
                return Ok(token.value.clone());
            };
            if lease.renewable
                && let Ok(renewed) = self.renew(origin, &token.value).await
            {
                token.lease = Lease::new(renewed.lease_duration, renewed.renewable);
                return Ok(token.value.clone());
            }
            if let Login::Token(_) = self.login {
                // There is no other one. It may have a third of its time left; the secret's answer will tell.
                return Ok(token.value.clone());
            }
        }
        let token = self.log_in(origin).await?;
        let value = token.value.clone();
        *slot = Some(token);
        Ok(value)
    }

    async fn renew(&self, origin: &str, token: &Secret) -> Result<Auth, SecretError> {
        let url = self.url(["auth", "token", "renew-self"]);
        let request = self
            .request(Method::POST, url, Some(token))
            .json(&json!({}));
        self.authenticate(origin, request).await
    }

    async fn log_in(&self, origin: &str) -> Result<Token, SecretError> {
        let (mount, body) = match &self.login {
            Login::Token(value) => {
                // A policy may forbid the question; the token is good nevertheless.
                let url = self.url(["auth", "token", "lookup-self"]);
                let request = self.request(Method::GET, url, Some(value));
                let answer = http::send(origin, request).await?;
                let lease = answer
                    .json::<WireLookup>()
                    .filter(|_| answer.is_success())
                    .and_then(|wire| Lease::new(wire.data.ttl, wire.data.renewable));
                return Ok(Token {
                    value: value.clone(),
                    lease,
                });
            }
            Login::AppRole {
                mount,
                role_id,
                secret_id,
            } => (
                mount,
                json!({"role_id": role_id, "secret_id": secret_id.expose()}),
            ),
            Login::Kubernetes {
                mount,
                role,
                token_file,
            } => {
                let jwt = FileSource::new(token_file).fetch().await?.value;
                (mount, json!({"role": role, "jwt": jwt.expose()}))
            }
        };
        let path = std::iter::once("auth")
            .chain(mount.split('/'))
            .chain(["login"]);
        let request = self.request(Method::POST, self.url(path), None).json(&body);
        let auth = self.authenticate(origin, request).await?;
        Ok(Token {
            lease: Lease::new(auth.lease_duration, auth.renewable),
            value: auth.client_token,
        })
    }

    async fn authenticate(
        &self,
        origin: &str,
        request: RequestBuilder,
    ) -> Result<Auth, SecretError> {
        let answer = http::send(origin, request).await?;
        let error = |kind| SecretError::new(origin, kind);
        if !answer.is_success() {
            // A wrong role or secret is answered with 400.
            let kind = match answer.failure() {
                SecretErrorKind::Refused(400) => SecretErrorKind::Denied,
                kind => kind,
            };
            return Err(error(kind));
        }
        let wire: WireAuth = answer
            .json()
            .ok_or_else(|| error(SecretErrorKind::Protocol("it is not a login")))?;
        Ok(wire.auth)
    }

    /// Forgets a token that was refused, unless there is another one by now. Whether a new login may help.
    async fn forget(&self, refused: &Secret) -> bool {
        if matches!(self.login, Login::Token(_)) {
            return false;
        }
        let mut slot = self.token.lock().await;
        slot.take_if(|token| super::live::same(&token.value, refused));
        true
    }
}

/// A secret in [`Vault`].
#[derive(Clone, Debug)]
pub struct VaultSecret {
    vault: Arc<Vault>,
    origin: String,
    mount: String,
    path: String,
    key: String,
    version: Option<u64>,
}

impl VaultSecret {
    async fn read(&self, token: &Secret) -> Result<http::Answer, SecretError> {
        let path = [self.mount.as_str(), "data"]
            .into_iter()
            .chain(self.path.split('/'));
        let mut url = self.vault.url(path);
        if let Some(version) = self.version {
            url.set_query(Some(&format!("version={version}")));
        }
        let request = self.vault.request(Method::GET, url, Some(token));
        http::send(&self.origin, request).await
    }
}

#[async_trait]
impl SecretSource for VaultSecret {
    fn origin(&self) -> &str {
        &self.origin
    }

    async fn fetch(&self) -> Result<Versioned<Secret>, SecretError> {
        let error = |kind| SecretError::new(self.origin.as_str(), kind);
        let token = self.vault.token(&self.origin).await?;
        let mut answer = self.read(&token).await?;
        // The token may have been revoked, which nothing but this answer tells.
        if answer.status() == 403 && self.vault.forget(&token).await {
            let token = self.vault.token(&self.origin).await?;
            answer = self.read(&token).await?;
        }
        let wire = answer.json::<WireSecret>();
        // A deleted version is answered with 404 and its metadata.
        let gone = |wire: &WireSecret| {
            wire.data.metadata.destroyed || !wire.data.metadata.deletion_time.is_empty()
        };
        match (answer.status(), &wire) {
            (200 | 404, Some(wire)) if gone(wire) && wire.data.data.is_none() => {
                return Err(error(SecretErrorKind::Deleted));
            }
            (200, _) => {}
            // A standby that has not caught up yet.
            (412, _) => return Err(error(SecretErrorKind::Unavailable)),
            _ => return Err(error(answer.failure())),
        }
        let problem = "it has no `data.data`; is the engine version 2?";
        let (data, metadata) = wire
            .map(|wire| (wire.data.data, wire.data.metadata))
            .and_then(|(data, metadata)| Some((data?, metadata)))
            .ok_or_else(|| error(SecretErrorKind::Protocol(problem)))?;
        let value = data
            .text(&self.key)
            .ok_or_else(|| error(SecretErrorKind::NoKey(self.key.clone())))?;
        Ok(Versioned {
            value: http::filled(value).map_err(error)?,
            version: Some(metadata.version.to_string()),
        })
    }
}
