//! Credentials for Metered's TURN service, for clients whose network lets no direct path through.
//!
//! The key travels in the query, so addresses of requests appear in no error and no log.
//!
//! # Source
//! <https://www.metered.ca/docs/turn-rest-api/get-credential>

use std::time::Duration;

use llmrtc_core::{
    credential::SharedCredential,
    provider::{ErrorKind, ProviderError},
    redact::Secret,
};
use reqwest::{Method, RequestBuilder, Response};
use serde::Deserialize;

use crate::http::{Endpoint, HttpClient};

const NAME: &str = "metered";
/// From the request to the end of the answer.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// Metered's usual five servers take 1 KiB, and every client is sent the list.
const MAX_ANSWER_BYTES: usize = 16 * 1024;
/// DNS (RFC 1035 section 2.3.4).
const MAX_LABEL_BYTES: usize = 63;

/// Whose credentials to fetch.
#[derive(Clone, Debug)]
pub struct MeteredConfig {
    /// The application, the first label of its host name.
    pub app_name: String,
    /// The key of a credential, which may change later.
    pub api_key: SharedCredential,
    /// Where the relays should be, such as `europe`. Default: as configured at Metered.
    pub region: Option<String>,
    /// Default: `https://{app_name}.metered.live`.
    pub base_url: Option<String>,
}

/// A STUN or TURN server as Metered describes it. Nothing about it has been checked.
#[derive(Clone, Debug)]
pub struct TurnServer {
    /// `stun:`, `turn:` or `turns:` URLs.
    pub urls: Vec<String>,
    /// The user name for relays.
    pub username: Option<String>,
    /// The password for relays.
    pub credential: Option<Secret>,
}

/// Fetches credentials from Metered. Neither retries nor caches. Cloning shares the connections.
#[derive(Clone, Debug)]
pub struct MeteredTurn {
    endpoint: Endpoint,
    api_key: SharedCredential,
    region: Option<String>,
}

impl MeteredTurn {
    /// Opens no connection.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when the application's name is no host name's label, the key is blank or has characters
    /// that no key has, or the base URL is malformed.
    pub fn new(config: MeteredConfig, http: HttpClient) -> Result<Self, ProviderError> {
        let refuse = |problem| Err(ProviderError::new(ErrorKind::Config, NAME, problem));
        // It becomes a part of the host that the key is sent to.
        if !is_label(&config.app_name) {
            return refuse("the application's name must consist of letters, digits and hyphens");
        }
        if let Err(problem) = check_key(&config.api_key.current()) {
            return refuse(problem);
        }
        let base = config
            .base_url
            .unwrap_or_else(|| format!("https://{}.metered.live", config.app_name));
        Ok(Self {
            endpoint: Endpoint::new(http, NAME, &base, None, [])?.redacting(config.api_key.clone()),
            api_key: config.api_key,
            region: config.region,
        })
    }

    /// Asks for the servers with the credentials of the configured key. Takes at most five seconds.
    ///
    /// # Errors
    /// Classified by status and by what happened below HTTP; [`ErrorKind::Protocol`] when the answer is no list of
    /// servers, [`ErrorKind::TooLarge`] when it exceeds 16 KiB.
    ///
    /// # Cancel safety
    /// Dropping the future drops the request.
    pub async fn fetch(&self) -> Result<Vec<TurnServer>, ProviderError> {
        let key = self.api_key.current();
        let mut response = self.ask(&key).await;
        if let Err(error) = &response
            && error.kind() == ErrorKind::Authentication
            && let Some(other) = self.api_key.rejected(&key).await
        {
            response = self.ask(&other).await;
        }
        let response = response?;
        let body = self.endpoint.bytes(response, MAX_ANSWER_BYTES).await?;
        // The parser's message would quote the body, which holds credentials.
        let servers: Vec<WireServer> = serde_json::from_slice(&body).map_err(|_| {
            self.endpoint.error(
                ErrorKind::Protocol,
                "the answer is not a list of ICE servers",
            )
        })?;
        Ok(servers.into_iter().map(TurnServer::from).collect())
    }

    async fn ask(&self, key: &Secret) -> Result<Response, ProviderError> {
        check_key(key).map_err(|problem| self.endpoint.error(ErrorKind::Config, problem))?;
        self.endpoint
            .send(|| self.request(key))
            .await
            .map_err(|failure| failure.error)
    }

    fn request(&self, key: &Secret) -> Result<RequestBuilder, ProviderError> {
        let request = self
            .endpoint
            .request(Method::GET, "api/v1/turn/credentials");
        let (client, request) = request.timeout(FETCH_TIMEOUT).build_split();
        let mut request = request.map_err(|error| self.endpoint.transport(error))?;
        {
            let mut query = request.url_mut().query_pairs_mut();
            query.append_pair("apiKey", key.expose().trim());
            if let Some(region) = &self.region {
                query.append_pair("region", region);
            }
        }
        Ok(RequestBuilder::from_parts(client, request))
    }
}

/// Characters that a query would encode could come back encoded, past the redaction of what Metered says.
fn check_key(key: &Secret) -> Result<(), &'static str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if key.is_blank() || !key.expose().trim().bytes().all(plain) {
        return Err("the API key is blank or contains characters that no key has");
    }
    Ok(())
}

fn is_label(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    (1..=MAX_LABEL_BYTES).contains(&name.len()) && name.bytes().all(plain)
}

/// `RTCIceServer`, as far as Metered uses it.
#[derive(Deserialize)]
struct WireServer {
    urls: WireUrls,
    username: Option<String>,
    credential: Option<Secret>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum WireUrls {
    One(String),
    Many(Vec<String>),
}

impl From<WireServer> for TurnServer {
    fn from(wire: WireServer) -> Self {
        let urls = match wire.urls {
            WireUrls::One(url) => vec![url],
            WireUrls::Many(urls) => urls,
        };
        Self {
            urls,
            username: wire.username,
            credential: wire.credential,
        }
    }
}

#[cfg(test)]
mod tests {
    use llmrtc_core::provider::Phase;

    use super::*;
    use crate::testing::{Script, ScriptedServer, scripted::Step};

    const KEY: &str = "CANARY-key_1";
    const PATH: &str = "/api/v1/turn/credentials?apiKey=CANARY-key_1";

    /// Where `server` listens; its own base URL continues with OpenAI's path.
    fn base(server: &ScriptedServer) -> Option<String> {
        server.base_url().strip_suffix("/v1").map(str::to_owned)
    }

    fn config(base_url: Option<String>) -> MeteredConfig {
        MeteredConfig {
            app_name: "my-app".to_owned(),
            api_key: format!(" {KEY}\n").into(),
            region: None,
            base_url,
        }
    }

    fn turn(config: MeteredConfig) -> MeteredTurn {
        MeteredTurn::new(config, HttpClient::new().unwrap()).unwrap()
    }

    async fn fetch(script: Script) -> Result<Vec<TurnServer>, ProviderError> {
        let server = ScriptedServer::start([script]).await;
        let result = turn(config(base(&server))).fetch().await;
        server.finish();
        result
    }

    #[tokio::test]
    async fn servers_have_one_url_or_several() {
        let body = r#"[
            {"urls":"stun:stun.example:80"},
            {"urls":["turn:a.example:80","turns:a.example:443?transport=tcp"],"username":"u","credential":"CANARY-pw","x":1},
            {"urls":[],"username":null}
        ]"#;
        let servers = fetch(Script::expect("GET", PATH).respond(200, &[], body))
            .await
            .unwrap();
        let urls: Vec<_> = servers.iter().map(|server| server.urls.join(" ")).collect();
        assert_eq!(
            urls,
            [
                "stun:stun.example:80",
                "turn:a.example:80 turns:a.example:443?transport=tcp",
                ""
            ]
        );
        assert_eq!(servers[0].username, None);
        assert_eq!(servers[1].username.as_deref(), Some("u"));
        assert_eq!(
            servers[1].credential.as_ref().unwrap().expose(),
            "CANARY-pw"
        );
        assert!(!format!("{servers:?}").contains("CANARY"));
    }

    #[tokio::test]
    async fn a_region_is_asked_for_and_cannot_add_parameters() {
        let path = format!("{PATH}&region=europe%26apiKey%3Dx");
        let script = Script::expect("GET", &path).respond(200, &[], "[]");
        let server = ScriptedServer::start([script]).await;
        let region = Some("europe&apiKey=x".to_owned());
        let turn = turn(MeteredConfig {
            region,
            ..config(base(&server))
        });
        assert!(turn.fetch().await.unwrap().is_empty());
        server.finish();
    }

    #[tokio::test]
    async fn failures_are_classified_and_show_neither_key_nor_credentials() {
        let echo = format!(r#"{{"error":"Invalid API Key in {PATH}"}}"#);
        let password = r#"[{"urls":7,"credential":"CANARY-pw"}]"#;
        let table: [(Script, ErrorKind); 7] = [
            (
                Script::expect("GET", PATH).respond(401, &[], echo),
                ErrorKind::Authentication,
            ),
            (
                Script::expect("GET", PATH).respond(500, &[], PATH),
                ErrorKind::Unavailable,
            ),
            (
                Script::expect("GET", PATH).respond(302, &[("location", PATH)], ""),
                ErrorKind::Config,
            ),
            (
                Script::expect("GET", PATH).respond(200, &[], "<html>"),
                ErrorKind::Protocol,
            ),
            (
                Script::expect("GET", PATH).respond(200, &[], password),
                ErrorKind::Protocol,
            ),
            (
                Script::expect("GET", PATH).respond(200, &[], vec![b' '; MAX_ANSWER_BYTES + 1]),
                ErrorKind::TooLarge,
            ),
            (
                Script::expect("GET", PATH).step(Step::Rst),
                ErrorKind::Disconnected,
            ),
        ];
        for (script, kind) in table {
            let error = fetch(script).await.unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert!(
                !format!("{error} {error:?}").contains("CANARY"),
                "{error:?}"
            );
        }
    }

    /// Security item A3.
    #[tokio::test]
    async fn a3_a_refused_key_is_replaced_within_the_call() {
        /// A key whose source has another value by now.
        #[derive(Debug)]
        struct Rotated;

        #[async_trait::async_trait]
        impl llmrtc_core::credential::Credential for Rotated {
            fn current(&self) -> Secret {
                Secret::new("CANARY-old")
            }

            async fn rejected(&self, refused: &Secret) -> Option<Secret> {
                (refused.expose() == "CANARY-old").then(|| Secret::new(KEY))
            }
        }

        let old = PATH.replace(KEY, "CANARY-old");
        let script = Script::expect("GET", &old)
            .respond(401, &[], "{}")
            .then_expect("GET", PATH)
            .respond(200, &[], "[]");
        let server = ScriptedServer::start([script]).await;
        let turn = turn(MeteredConfig {
            api_key: std::sync::Arc::new(Rotated).into(),
            ..config(base(&server))
        });
        assert!(turn.fetch().await.unwrap().is_empty());
        server.finish();
    }

    #[tokio::test]
    async fn silence_ends_after_five_seconds() {
        for script in [
            Script::expect("GET", PATH).step(Step::Stall),
            Script::expect("GET", PATH)
                .head(200, &[])
                .chunk("[")
                .step(Step::Stall),
        ] {
            let server = ScriptedServer::start([script]).await;
            let turn = turn(config(base(&server)));
            let started = tokio::time::Instant::now();
            // Time stops only when the request has arrived, lest the deadline overtake the connection.
            let (result, ()) = tokio::join!(turn.fetch(), async {
                server.received(1).await;
                tokio::time::pause();
            });
            let elapsed = started.elapsed();
            tokio::time::resume();
            let error = result.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Timeout(Phase::Total), "{error}");
            assert!(
                elapsed >= FETCH_TIMEOUT && elapsed < FETCH_TIMEOUT * 2,
                "{elapsed:?}"
            );
            assert!(!format!("{error:?}").contains("CANARY"), "{error:?}");
            server.finish();
        }
    }

    #[test]
    fn the_key_goes_to_the_applications_host_and_nowhere_else() {
        let turn = turn(config(None));
        let url = turn
            .request(&Secret::new(KEY))
            .unwrap()
            .build()
            .unwrap()
            .url()
            .to_string();
        assert_eq!(url, format!("https://my-app.metered.live{PATH}"));
        assert!(!format!("{turn:?} {:?}", config(None)).contains("CANARY"));

        let long = "a".repeat(64);
        for app_name in ["", "evil.example/", "a.b", "a b", "user@host", "ä", &long] {
            let config = MeteredConfig {
                app_name: app_name.to_owned(),
                ..config(None)
            };
            let error = MeteredTurn::new(config, HttpClient::new().unwrap()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{app_name}");
        }
        for key in ["", " ", "CANARY key", "CANARY&region=x", "CANARY\u{e4}"] {
            let config = MeteredConfig {
                api_key: key.into(),
                ..config(None)
            };
            let error = MeteredTurn::new(config, HttpClient::new().unwrap()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(!format!("{error:?}").contains("CANARY"));
        }
    }
}
