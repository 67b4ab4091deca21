//! AWS Secrets Manager: `GetSecretValue`, signed by our own Signature Version 4 (security item A2).
//!
//! # Source
//! *GetSecretValue*, AWS Secrets Manager API Reference.

mod role;
mod sigv4;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt, sync::Arc, time::SystemTime};

use async_trait::async_trait;
use base64::{Engine, prelude::BASE64_STANDARD};
use llmrtc_core::redact::Secret;
use reqwest::{Client, header::HeaderValue};
use serde::Deserialize;
use serde_json::json;
use url::Url;
use zeroize::Zeroizing;

use super::{
    AwsConfig, AwsVersion, Environment, SecretError, SecretErrorKind, SecretRef, SecretSource,
    Versioned, http,
};

const SERVICE: &str = "secretsmanager";

/// Keys of an IAM user, or temporary ones of a role.
#[derive(Clone)]
pub struct Credentials {
    /// The public half.
    pub access_key_id: String,
    /// The secret half.
    pub secret_access_key: Secret,
    /// Belongs to temporary keys.
    pub session_token: Option<Secret>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

/// Where keys come from.
#[derive(Debug)]
enum Keys {
    Given(Credentials),
    Role(role::Role),
}

/// AWS Secrets Manager in one region.
#[derive(Debug)]
pub struct SecretsManager {
    client: Client,
    endpoint: Url,
    region: String,
    keys: Keys,
}

impl SecretsManager {
    /// A client for `region`. `endpoint` is another address than the region's own.
    ///
    /// # Errors
    /// When the region or the address is none, or TLS cannot be set up.
    pub fn new(
        region: &str,
        credentials: Credentials,
        endpoint: Option<&str>,
    ) -> Result<Self, SecretError> {
        Self::with_keys(region, Keys::Given(credentials), endpoint)
    }

    fn with_keys(region: &str, keys: Keys, endpoint: Option<&str>) -> Result<Self, SecretError> {
        // It becomes a part of the host that credentials are sent to.
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if region.is_empty() || !region.bytes().all(plain) {
            let kind = SecretErrorKind::Reference("the region is none");
            return Err(SecretError::new("secrets.aws.region", kind));
        }
        let own = format!("https://{SERVICE}.{region}.amazonaws.com/");
        let endpoint = http::address("secrets.aws.endpoint_url", endpoint.unwrap_or(&own))?;
        Ok(Self {
            client: http::client()?,
            endpoint,
            region: region.to_owned(),
            keys,
        })
    }

    /// The client that the configuration or AWS's own variables describe; `None` without a region. Without keys, those of
    /// the container's or the machine's role are asked for when the first secret is.
    ///
    /// # Errors
    /// As [`new`](Self::new); [`SecretErrorKind::NotSet`] when half of the keys is missing.
    pub fn configured(
        config: &AwsConfig,
        environment: &Environment<'_>,
    ) -> Result<Option<Self>, SecretError> {
        let variable = |name: &str| environment(name).filter(|value| !value.trim().is_empty());
        let region = config
            .region
            .clone()
            .or_else(|| variable("AWS_REGION"))
            .or_else(|| variable("AWS_DEFAULT_REGION"));
        let id = config
            .access_key_id
            .clone()
            .or_else(|| variable("AWS_ACCESS_KEY_ID"));
        let Some(region) = region else {
            return Ok(None);
        };
        let secret = |given: &Option<Secret>, name: &str| {
            given
                .clone()
                .or_else(|| variable(name).map(|value| Secret::new(value.trim())))
        };
        let keys = if let Some(access_key_id) = id {
            let name = "AWS_SECRET_ACCESS_KEY";
            Keys::Given(Credentials {
                access_key_id: access_key_id.trim().to_owned(),
                secret_access_key: secret(&config.secret_access_key, name)
                    .ok_or_else(|| SecretError::new(name, SecretErrorKind::NotSet))?,
                session_token: secret(&config.session_token, "AWS_SESSION_TOKEN"),
            })
        } else if let Some(role) = role::Role::configured(environment)? {
            Keys::Role(role)
        } else {
            return Ok(None);
        };
        let endpoint = config
            .endpoint_url
            .clone()
            .or_else(|| variable("AWS_ENDPOINT_URL"));
        Self::with_keys(region.trim(), keys, endpoint.as_deref()).map(Some)
    }

    /// One secret of this region.
    pub fn secret(
        self: Arc<Self>,
        id: &str,
        key: Option<&str>,
        version: Option<AwsVersion>,
    ) -> AwsSecret {
        let reference = SecretRef::Aws {
            id: id.to_owned(),
            key: key.map(str::to_owned),
            version: version.clone(),
        };
        AwsSecret {
            manager: self,
            origin: reference.to_string(),
            id: id.to_owned(),
            key: key.map(str::to_owned),
            version,
        }
    }

    async fn ask(&self, origin: &str, body: String) -> Result<http::Answer, SecretError> {
        let credentials = match &self.keys {
            Keys::Given(credentials) => credentials.clone(),
            Keys::Role(role) => role.credentials(origin).await?,
        };
        let date = sigv4::timestamp(SystemTime::now());
        let host = match (
            self.endpoint.host_str().unwrap_or_default(),
            self.endpoint.port(),
        ) {
            (host, Some(port)) => format!("{host}:{port}"),
            (host, None) => host.to_owned(),
        };
        let mut headers = BTreeMap::from([
            ("content-type", "application/x-amz-json-1.1"),
            ("host", &host),
            ("x-amz-date", &date),
            ("x-amz-target", "secretsmanager.GetSecretValue"),
        ]);
        if let Some(token) = &credentials.session_token {
            headers.insert("x-amz-security-token", token.expose());
        }
        let scope = sigv4::Scope {
            region: &self.region,
            service: SERVICE,
        };
        let authorization = sigv4::authorization(
            scope,
            &credentials,
            "POST",
            &headers,
            body.as_bytes(),
            &date,
        );
        let mut request = self.client.post(self.endpoint.clone());
        for (name, value) in headers.iter().filter(|(name, _)| **name != "host") {
            let mut value = HeaderValue::from_str(value).map_err(|_| {
                let kind = SecretErrorKind::Reference("the session token is malformed");
                SecretError::new(origin, kind)
            })?;
            value.set_sensitive(*name == "x-amz-security-token");
            request = request.header(*name, value);
        }
        let request = request.header("authorization", authorization).body(body);
        http::send(origin, request).await
    }
}

/// A secret in [`SecretsManager`].
#[derive(Clone, Debug)]
pub struct AwsSecret {
    manager: Arc<SecretsManager>,
    origin: String,
    id: String,
    key: Option<String>,
    version: Option<AwsVersion>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct WireSecret {
    version_id: Option<String>,
    secret_string: Option<Secret>,
    secret_binary: Option<Secret>,
}

#[derive(Deserialize)]
struct WireError {
    #[serde(rename = "__type")]
    kind: String,
    #[serde(alias = "Message", default)]
    message: String,
}

impl WireError {
    fn kind(&self, answer: &http::Answer) -> SecretErrorKind {
        // Some services prefix the name with a namespace.
        match self.kind.rsplit('#').next().unwrap_or_default() {
            "ResourceNotFoundException" => SecretErrorKind::NotFound,
            "InvalidRequestException" if self.message.contains("delet") => SecretErrorKind::Deleted,
            "AccessDeniedException"
            | "DecryptionFailure"
            | "ExpiredTokenException"
            | "IncompleteSignatureException"
            | "InvalidClientTokenId"
            | "InvalidSignatureException"
            | "MissingAuthenticationTokenException"
            | "NotAuthorized"
            | "UnrecognizedClientException" => SecretErrorKind::Denied,
            "ThrottlingException" | "RequestLimitExceeded" => SecretErrorKind::RateLimited(None),
            "InternalServiceError" | "InternalFailure" | "ServiceUnavailable" => {
                SecretErrorKind::Unavailable
            }
            _ => answer.failure(),
        }
    }
}

#[async_trait]
impl SecretSource for AwsSecret {
    fn origin(&self) -> &str {
        &self.origin
    }

    async fn fetch(&self) -> Result<Versioned<Secret>, SecretError> {
        let error = |kind| SecretError::new(self.origin.as_str(), kind);
        let mut body = json!({"SecretId": self.id});
        match &self.version {
            Some(AwsVersion::Id(id)) => body["VersionId"] = json!(id),
            Some(AwsVersion::Stage(stage)) => body["VersionStage"] = json!(stage),
            None => {}
        }
        let answer = self.manager.ask(&self.origin, body.to_string()).await?;
        if !answer.is_success() {
            let kind = match answer.json::<WireError>() {
                Some(wire) => wire.kind(&answer),
                None => answer.failure(),
            };
            if let (SecretErrorKind::Denied, Keys::Role(role)) = (&kind, &self.manager.keys) {
                role.forget().await;
            }
            return Err(error(kind));
        }
        let wire: WireSecret = answer
            .json()
            .ok_or_else(|| error(SecretErrorKind::Protocol("it is not a secret value")))?;
        let stored = match (wire.secret_string, wire.secret_binary) {
            (Some(text), _) => text,
            (None, Some(encoded)) => {
                let bytes = BASE64_STANDARD
                    .decode(encoded.expose())
                    .map(Zeroizing::new)
                    .map_err(|_| error(SecretErrorKind::Protocol("it is not base64")))?;
                let text =
                    std::str::from_utf8(&bytes).map_err(|_| error(SecretErrorKind::NotText))?;
                Secret::new(text)
            }
            (None, None) => return Err(error(SecretErrorKind::Blank)),
        };
        let value = http::select(stored, self.key.as_deref())
            .and_then(http::filled)
            .map_err(error)?;
        Ok(Versioned {
            value,
            version: wire.version_id,
        })
    }
}
