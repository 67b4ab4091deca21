//! GCP Secret Manager: `versions.access`, with its checksum (security item A2).
//!
//! # Source
//! *projects.secrets.versions.access* in the Secret Manager API reference; *Access tokens* in the Compute Engine
//! metadata server's.

#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use base64::{Engine, prelude::BASE64_STANDARD};
use llmrtc_core::redact::Secret;
use reqwest::{Client, header::HeaderValue};
use serde::Deserialize;
use tokio::{sync::Mutex, time::Instant};
use url::Url;
use zeroize::Zeroizing;

use super::{SecretError, SecretErrorKind, SecretRef, SecretSource, Versioned, http};

const ENDPOINT: &str = "https://secretmanager.googleapis.com";
/// Only reachable from machines and pods of Google, which is why it is not encrypted.
const METADATA: &str = "http://metadata.google.internal";
/// A token is replaced this long before its end. The metadata server itself has a new one four minutes before.
const MARGIN: Duration = Duration::from_secs(120);

/// GCP Secret Manager.
#[derive(Debug)]
pub struct SecretManager {
    client: Client,
    endpoint: Url,
    tokens: Tokens,
}

#[derive(Debug)]
enum Tokens {
    Given(Secret),
    /// Of the machine's own service account.
    Metadata {
        client: Client,
        address: Url,
        /// Held while asking, so that this is done once.
        cached: Mutex<Option<(Secret, Instant)>>,
    },
}

#[derive(Deserialize)]
struct WireToken {
    access_token: Secret,
    expires_in: u64,
}

#[derive(Deserialize)]
struct WireVersion {
    /// `projects/…/secrets/…/versions/5`, whatever alias was asked for.
    name: String,
    payload: Payload,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Payload {
    data: Secret,
    /// A 64-bit number, which Google's JSON writes as text.
    data_crc32c: Option<String>,
}

#[derive(Deserialize)]
struct WireError {
    error: Status,
}

#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    status: String,
}

impl SecretManager {
    /// A client that uses the service account of the machine or pod it runs on.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new() -> Result<Self, SecretError> {
        Self::with_metadata(ENDPOINT, METADATA)
    }

    /// A client with an access token of its own, such as one of workload identity federation. Not renewed.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn with_token(token: Secret) -> Result<Self, SecretError> {
        Self::at(ENDPOINT, Tokens::Given(token))
    }

    fn with_metadata(endpoint: &str, metadata: &str) -> Result<Self, SecretError> {
        let kind = SecretErrorKind::Reference("the address is no URL");
        let address =
            Url::parse(metadata).map_err(|_| SecretError::new("metadata server", kind))?;
        Self::at(
            endpoint,
            Tokens::Metadata {
                client: http::direct_client()?,
                address,
                cached: Mutex::new(None),
            },
        )
    }

    fn at(endpoint: &str, tokens: Tokens) -> Result<Self, SecretError> {
        Ok(Self {
            client: http::client()?,
            endpoint: http::address("secret manager", endpoint)?,
            tokens,
        })
    }

    /// One version of a secret, or one text in the object that it is.
    pub fn secret(
        self: Arc<Self>,
        project: &str,
        secret: &str,
        version: &str,
        key: Option<&str>,
    ) -> GcpSecret {
        let reference = SecretRef::Gcp {
            project: project.to_owned(),
            secret: secret.to_owned(),
            version: version.to_owned(),
            key: key.map(str::to_owned),
        };
        let url = http::join(
            &self.endpoint,
            [
                "v1",
                "projects",
                project,
                "secrets",
                secret,
                "versions",
                &format!("{version}:access"),
            ],
        );
        GcpSecret {
            manager: self,
            origin: reference.to_string(),
            url,
            key: key.map(str::to_owned),
        }
    }

    async fn token(&self, origin: &str) -> Result<Secret, SecretError> {
        let (client, address, cached) = match &self.tokens {
            Tokens::Given(token) => return Ok(token.clone()),
            Tokens::Metadata {
                client,
                address,
                cached,
            } => (client, address, cached),
        };
        let mut cached = cached.lock().await;
        if let Some((token, until)) = &*cached
            && *until > Instant::now()
        {
            return Ok(token.clone());
        }
        let path = "computeMetadata/v1/instance/service-accounts/default/token";
        let request = client
            .get(http::join(address, path.split('/')))
            // Without it the server refuses, so that no page can be tricked into asking.
            .header("metadata-flavor", "Google");
        let answer = http::send(origin, request).await?;
        let error = |kind| SecretError::new(origin, kind);
        if !answer.is_success() {
            return Err(error(answer.failure()));
        }
        let problem = SecretErrorKind::Protocol("the metadata server's is not a token");
        let wire: WireToken = answer.json().ok_or_else(|| error(problem))?;
        let lifetime = Duration::from_secs(wire.expires_in).saturating_sub(MARGIN);
        *cached = Some((wire.access_token.clone(), Instant::now() + lifetime));
        Ok(wire.access_token)
    }

    async fn forget_token(&self) {
        if let Tokens::Metadata { cached, .. } = &self.tokens {
            *cached.lock().await = None;
        }
    }
}

/// A secret in [`SecretManager`].
#[derive(Clone, Debug)]
pub struct GcpSecret {
    manager: Arc<SecretManager>,
    origin: String,
    url: Url,
    key: Option<String>,
}

#[async_trait]
impl SecretSource for GcpSecret {
    fn origin(&self) -> &str {
        &self.origin
    }

    async fn fetch(&self) -> Result<Versioned<Secret>, SecretError> {
        let error = |kind| SecretError::new(self.origin.as_str(), kind);
        let token = self.manager.token(&self.origin).await?;
        // A token that no header can hold is as wrong as any.
        let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose()))
            .map_err(|_| error(SecretErrorKind::Denied))?;
        value.set_sensitive(true);
        let request = self
            .manager
            .client
            .get(self.url.clone())
            .header("authorization", value);
        let answer = http::send(&self.origin, request).await?;
        if !answer.is_success() {
            if answer.status() == 401 {
                self.manager.forget_token().await;
            }
            let status = answer.json::<WireError>().map(|wire| wire.error.status);
            return Err(error(match status.as_deref() {
                // How disabled and destroyed versions are answered.
                Some("FAILED_PRECONDITION") => SecretErrorKind::Deleted,
                _ => answer.failure(),
            }));
        }
        let wire: WireVersion = answer
            .json()
            .ok_or_else(|| error(SecretErrorKind::Protocol("it is not a secret version")))?;
        let bytes = BASE64_STANDARD
            .decode(wire.payload.data.expose())
            .map(Zeroizing::new)
            .map_err(|_| error(SecretErrorKind::Protocol("it is not base64")))?;
        let sum = wire.payload.data_crc32c.and_then(|sum| sum.parse().ok());
        if sum != Some(crc32c::crc32c(&bytes)) {
            let problem = "the checksum is missing or wrong";
            return Err(error(SecretErrorKind::Protocol(problem)));
        }
        let text = std::str::from_utf8(&bytes).map_err(|_| error(SecretErrorKind::NotText))?;
        let value = http::select(Secret::new(text), self.key.as_deref())
            .and_then(http::filled)
            .map_err(error)?;
        Ok(Versioned {
            value,
            version: wire.name.rsplit('/').next().map(str::to_owned),
        })
    }
}
