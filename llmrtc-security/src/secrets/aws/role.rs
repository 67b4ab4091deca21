//! Temporary keys of the role that a container or a machine has.
//!
//! # Source
//! *Container credential provider* and *IMDS credential provider*, AWS SDKs and Tools Reference Guide.

use std::time::Duration;

use llmrtc_core::redact::Secret;
use reqwest::{Client, RequestBuilder, header::HeaderValue};
use serde::Deserialize;
use tokio::{sync::Mutex, time::Instant};
use url::{Host, Url};

use super::Credentials;
use crate::secrets::{Environment, FileSource, SecretError, SecretErrorKind, SecretSource, http};

/// Where containers of ECS ask.
const CONTAINER: &str = "http://169.254.170.2";
/// Addresses of ECS and EKS that only the container itself reaches, which is why they are not encrypted.
const CONTAINER_HOSTS: [&str; 3] = ["169.254.170.2", "169.254.170.23", "[fd00:ec2::23]"];
/// Where machines of EC2 ask.
const MACHINE: &str = "http://169.254.169.254";
/// New keys are there five minutes before the old ones end, so keys this old are still good.
const KEEP: Duration = Duration::from_secs(4 * 60);

/// A role whose keys are asked for.
#[derive(Debug)]
pub(super) struct Role {
    client: Client,
    place: Place,
    /// Held while asking, so that this is done once.
    cached: Mutex<Option<(Credentials, Instant)>>,
}

#[derive(Debug)]
enum Place {
    Container {
        url: Url,
        authorization: Authorization,
    },
    Machine {
        base: Url,
    },
}

#[derive(Debug)]
enum Authorization {
    None,
    Token(Secret),
    /// Replaced from time to time.
    File(FileSource),
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct WireCredentials {
    access_key_id: String,
    secret_access_key: Secret,
    token: Option<Secret>,
}

impl Role {
    /// The role that the environment describes: the container's, else the machine's; `None` when
    /// `AWS_EC2_METADATA_DISABLED` forbids to ask for the latter.
    pub(super) fn configured(environment: &Environment<'_>) -> Result<Option<Self>, SecretError> {
        let variable = |name: &str| environment(name).filter(|value| !value.trim().is_empty());
        let full = variable("AWS_CONTAINER_CREDENTIALS_FULL_URI");
        let relative = variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI");
        let place = match (relative, full) {
            (None, None) => {
                let disabled = variable("AWS_EC2_METADATA_DISABLED");
                if disabled.is_some_and(|value| value.eq_ignore_ascii_case("true")) {
                    return Ok(None);
                }
                Place::Machine {
                    base: container_url(MACHINE)?,
                }
            }
            (Some(path), _) => Place::Container {
                url: container_url(&format!("{CONTAINER}{path}"))?,
                authorization: Authorization::None,
            },
            (None, Some(url)) => Place::Container {
                url: container_url(&url)?,
                authorization: match variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE") {
                    Some(path) => Authorization::File(FileSource::new(path)),
                    None => match variable("AWS_CONTAINER_AUTHORIZATION_TOKEN") {
                        Some(token) => Authorization::Token(Secret::new(token)),
                        None => Authorization::None,
                    },
                },
            },
        };
        Self::new(place).map(Some)
    }

    #[cfg(test)]
    pub(super) fn machine_at(base: &str) -> Result<Self, SecretError> {
        Self::new(Place::Machine {
            base: container_url(base)?,
        })
    }

    fn new(place: Place) -> Result<Self, SecretError> {
        Ok(Self {
            client: http::direct_client()?,
            place,
            cached: Mutex::new(None),
        })
    }

    /// Keys that are good for at least a minute.
    pub(super) async fn credentials(&self, origin: &str) -> Result<Credentials, SecretError> {
        let mut cached = self.cached.lock().await;
        if let Some((credentials, asked)) = &*cached
            && asked.elapsed() < KEEP
        {
            return Ok(credentials.clone());
        }
        let request = match &self.place {
            Place::Container { url, authorization } => {
                let token = match authorization {
                    Authorization::None => None,
                    Authorization::Token(token) => Some(token.clone()),
                    Authorization::File(file) => Some(file.fetch().await?.value),
                };
                let request = self.client.get(url.clone());
                match token {
                    Some(token) => with_secret(request, "authorization", &token, origin)?,
                    None => request,
                }
            }
            Place::Machine { base } => self.ask_machine(base, origin).await?,
        };
        let answer = ask(origin, request).await?;
        let problem = SecretErrorKind::Protocol("the role's is not a pair of keys");
        let wire: WireCredentials = answer
            .json()
            .ok_or_else(|| SecretError::new(origin, problem))?;
        let credentials = Credentials {
            access_key_id: wire.access_key_id,
            secret_access_key: wire.secret_access_key,
            session_token: wire.token,
        };
        *cached = Some((credentials.clone(), Instant::now()));
        Ok(credentials)
    }

    /// Forgets keys that were refused.
    pub(super) async fn forget(&self) {
        *self.cached.lock().await = None;
    }

    /// The request for the keys of the machine's role, in the second version of the protocol.
    async fn ask_machine(&self, base: &Url, origin: &str) -> Result<RequestBuilder, SecretError> {
        let put = self
            .client
            .put(http::join(base, ["latest", "api", "token"]))
            .header("x-aws-ec2-metadata-token-ttl-seconds", "300");
        let session = ask(origin, put).await?.text(origin)?;
        let get = |url| {
            let request = self.client.get(url);
            with_secret(request, "x-aws-ec2-metadata-token", &session, origin)
        };
        let roles = ["latest", "meta-data", "iam", "security-credentials"];
        let name = ask(origin, get(http::join(base, roles))?).await?;
        let name = name.text(origin)?;
        let role = name.expose().lines().next().unwrap_or_default().trim();
        get(http::join(base, roles.into_iter().chain([role])))
    }
}

async fn ask(origin: &str, request: RequestBuilder) -> Result<http::Answer, SecretError> {
    let answer = http::send(origin, request).await?;
    if answer.is_success() {
        Ok(answer)
    } else {
        Err(SecretError::new(origin, answer.failure()))
    }
}

fn with_secret(
    request: RequestBuilder,
    name: &str,
    secret: &Secret,
    origin: &str,
) -> Result<RequestBuilder, SecretError> {
    // What no header can hold is as wrong as any other value.
    let mut value = HeaderValue::from_str(secret.expose())
        .map_err(|_| SecretError::new(origin, SecretErrorKind::Denied))?;
    value.set_sensitive(true);
    Ok(request.header(name, value))
}

/// https, or one of the addresses that only the container or machine itself reaches.
fn container_url(text: &str) -> Result<Url, SecretError> {
    let error = || {
        let problem = "the address of credentials is https, or one of AWS's own on this machine";
        SecretError::new(
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            SecretErrorKind::Reference(problem),
        )
    };
    let url = Url::parse(text.trim()).map_err(|_| error())?;
    let own = url.host_str().is_some_and(|host| {
        CONTAINER_HOSTS.contains(&host) || MACHINE.ends_with(&format!("/{host}"))
    });
    let local = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    if url.scheme() == "https" || url.scheme() == "http" && (own || local) {
        Ok(url)
    } else {
        Err(error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secrets::fake::FakeManager;

    const KEYS: &str = r#"{"Code":"Success","AccessKeyId":"ASIAEXAMPLE","SecretAccessKey":"CANARY-secret","Token":"CANARY-session","Expiration":"2030-01-01T00:00:00Z"}"#;

    #[tokio::test]
    async fn a2_a_machine_is_asked_in_the_second_version_and_its_keys_are_kept() {
        let fake =
            FakeManager::start([(200, "CANARY-imds"), (200, "llmrtc-role\n"), (200, KEYS)]).await;
        let role = Role::machine_at(&fake.address).unwrap();
        for _ in 0..2 {
            let credentials = role.credentials("x").await.unwrap();
            assert_eq!(credentials.access_key_id, "ASIAEXAMPLE");
            let token = credentials.session_token.unwrap();
            assert_eq!(token.expose(), "CANARY-session");
        }
        let asked = fake.asked();
        let lines: Vec<_> = asked.iter().map(|asked| asked.line()).collect();
        let base = "/latest/meta-data/iam/security-credentials";
        assert_eq!(
            lines,
            [
                "PUT /latest/api/token".to_owned(),
                format!("GET {base}"),
                format!("GET {base}/llmrtc-role"),
            ]
        );
        assert_eq!(
            asked[2].header("x-aws-ec2-metadata-token"),
            Some("CANARY-imds")
        );
        role.forget().await;
        let error = role.credentials("x").await.unwrap_err();
        assert_eq!(*error.kind(), SecretErrorKind::Unavailable);
        assert!(!format!("{error:?} {role:?}").contains("CANARY"));
    }

    #[tokio::test]
    async fn a2_a_container_is_asked_with_its_token() {
        let fake = FakeManager::start([(200, KEYS)]).await;
        let url = format!("{}/v1/credentials", fake.address);
        let role = Role::configured(&|name: &str| match name {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI" => Some(url.clone()),
            "AWS_CONTAINER_AUTHORIZATION_TOKEN" => Some("CANARY-token".to_owned()),
            _ => None,
        });
        let role = role.unwrap().unwrap();
        role.credentials("x").await.unwrap();
        let asked = fake.asked();
        assert_eq!(asked[0].line(), "GET /v1/credentials");
        assert_eq!(asked[0].header("authorization"), Some("CANARY-token"));
    }

    #[test]
    fn a2_keys_are_asked_for_nowhere_else() {
        let configured = |name: &'static str, value: &'static str| {
            Role::configured(&move |wanted: &str| (wanted == name).then(|| value.to_owned()))
        };
        assert!(
            configured("AWS_EC2_METADATA_DISABLED", "true")
                .unwrap()
                .is_none()
        );
        let full = "AWS_CONTAINER_CREDENTIALS_FULL_URI";
        for good in [
            "http://169.254.170.23/v1",
            "http://[fd00:ec2::23]/v1",
            "https://x.example/v1",
        ] {
            assert!(configured(full, good).unwrap().is_some(), "{good}");
        }
        assert!(configured(full, "http://evil.example/v1").is_err());
        let relative = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI";
        assert!(configured(relative, "/v2/credentials/1").unwrap().is_some());
        // What is appended must not change the host.
        assert!(configured(relative, ".evil.example/x").is_err());
        assert!(configured(relative, "@evil.example/x").is_err());
    }
}
