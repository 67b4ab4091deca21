//! The one HTTP client of a process, and what every vendor call over it shares: origins, credentials, size caps and
//! the way from a vendor's failure to a [`ProviderError`].
//!
//! Nothing here retries and nothing here times a response: the engine does both, before and between events. The
//! only deadline is the one for connecting.

mod failure;
mod redact;
mod retry_after;

use std::{sync::Arc, time::Duration};

use llmrtc_core::{
    credential::SharedCredential,
    provider::{ErrorKind, Phase, ProviderError},
    redact::Secret,
};
use reqwest::{
    Method, RequestBuilder, Response,
    header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue},
    redirect,
};
use url::{Host, Url};

pub(crate) use self::failure::Failure;

/// TCP and TLS together. A vendor that needs longer is down for a voice call.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Idle connections stay warm between the turns of a conversation.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// HTTP/1.1 servers need a connection per concurrent call; HTTP/2 ones share a single connection.
const POOL_IDLE_PER_HOST: usize = 32;
/// Finds dead HTTP/2 connections before a turn does.
const PING_INTERVAL: Duration = Duration::from_secs(20);

/// Largest JSON answer.
pub(crate) const MAX_JSON_BYTES: usize = 8 * 1024 * 1024;
/// Largest request body; a longer one is refused before anything is sent.
pub(crate) const MAX_REQUEST_BYTES: usize = 32 * 1024 * 1024;
/// How much of an error answer is read.
const MAX_ERROR_BYTES: usize = 64 * 1024;

/// The shared client: rustls, HTTP/2 where offered, keep-alive, no redirects. Cloning shares the connections.
#[derive(Clone, Debug)]
pub struct HttpClient(reqwest::Client);

impl HttpClient {
    /// Builds the client. Make one per process.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when TLS cannot be set up, usually because the machine has no root certificates.
    pub fn new() -> Result<Self, ProviderError> {
        reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            .pool_max_idle_per_host(POOL_IDLE_PER_HOST)
            .http2_keep_alive_interval(PING_INTERVAL)
            .http2_keep_alive_while_idle(true)
            .http2_adaptive_window(true)
            .tcp_nodelay(true)
            .tcp_keepalive(Duration::from_secs(30))
            // A redirect would carry the credentials to wherever the answer says.
            .redirect(redirect::Policy::none())
            .referer(false)
            .user_agent(concat!("llmrtc/", env!("CARGO_PKG_VERSION")))
            .build()
            .map(Self)
            .map_err(|error| {
                ProviderError::new(ErrorKind::Config, "http", "cannot build the HTTP client")
                    .with_source(error)
            })
    }
}

/// One vendor's origin with the credentials that belong to it.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    http: HttpClient,
    provider: Arc<str>,
    base: Url,
    headers: HeaderMap,
    /// Goes on every request, as it is at that moment.
    bearer: Option<SharedCredential>,
    /// What is taken out of the vendor's words, besides the bearer.
    secrets: Arc<[SharedCredential]>,
}

impl Endpoint {
    /// `base` is the address that paths such as `chat/completions` are appended to; `headers` go on every request.
    pub(crate) fn new(
        http: HttpClient,
        provider: &str,
        base: &str,
        key: Option<&SharedCredential>,
        headers: impl IntoIterator<Item = (String, Secret)>,
    ) -> Result<Self, ProviderError> {
        let config = |message: String| ProviderError::new(ErrorKind::Config, provider, message);
        let base = parse_base(base).map_err(|problem| config(format!("base URL: {problem}")))?;
        let mut map = HeaderMap::new();
        let mut secrets = Vec::new();
        let bearer = key.filter(|key| !key.is_blank()).cloned();
        if let Some(key) = &bearer {
            authorization(&key.current()).map_err(config)?;
            if base.scheme() == "http" && !is_loopback(&base) {
                tracing::warn!(
                    provider,
                    "the API key travels unencrypted: the base URL is http"
                );
            }
        }
        for (name, value) in headers {
            let header = HeaderName::try_from(&name)
                .map_err(|_| config(format!("`{name}` is not a header name")))?;
            let mut sensitive = HeaderValue::from_str(value.expose())
                .map_err(|_| config(format!("the value of header `{name}` is malformed")))?;
            sensitive.set_sensitive(true);
            map.insert(header, sensitive);
            secrets.push(value.into());
        }
        Ok(Self {
            http,
            provider: provider.into(),
            base,
            headers: map,
            bearer,
            secrets: secrets.into(),
        })
    }

    /// Takes a credential that travels elsewhere than in a header out of what the vendor says.
    pub(crate) fn redacting(mut self, secret: SharedCredential) -> Self {
        self.secrets = self.secrets.iter().cloned().chain([secret]).collect();
        self
    }

    pub(crate) fn provider(&self) -> &str {
        &self.provider
    }

    /// Whether this is OpenAI's own service and not something that speaks like it.
    pub(crate) fn is_openai(&self) -> bool {
        self.base
            .host_str()
            .is_some_and(|host| host == "api.openai.com" || host.ends_with(".api.openai.com"))
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let mut url = self.base.clone();
        url.set_path(&format!(
            "{}/{path}",
            self.base.path().trim_end_matches('/')
        ));
        self.http
            .0
            .request(method, url)
            .headers(self.headers.clone())
    }

    /// Sends what `request` makes and returns a successful answer's head. When the vendor refuses the key and there is
    /// another one by now, the request is made and sent once more.
    pub(crate) async fn send(
        &self,
        request: impl Fn() -> Result<RequestBuilder, ProviderError>,
    ) -> Result<Response, Failure> {
        let Some(bearer) = &self.bearer else {
            return self.send_once(request()?, None).await;
        };
        let key = bearer.current();
        let refused = match self.send_once(request()?, Some(&key)).await {
            Err(failure) if failure.error.kind() == ErrorKind::Authentication => failure,
            result => return result,
        };
        match bearer.rejected(&key).await {
            Some(other) => self.send_once(request()?, Some(&other)).await,
            None => Err(refused),
        }
    }

    async fn send_once(
        &self,
        mut request: RequestBuilder,
        key: Option<&Secret>,
    ) -> Result<Response, Failure> {
        // A header that the operator configured by this name wins.
        if let Some(key) = key
            && !self.headers.contains_key(AUTHORIZATION)
        {
            let value = authorization(key).map_err(|problem| {
                Failure::from(ProviderError::new(
                    ErrorKind::Config,
                    &*self.provider,
                    problem,
                ))
            })?;
            request = request.header(AUTHORIZATION, value);
        }
        let response = request
            .send()
            .await
            .map_err(|error| Failure::from(self.transport(error)))?;
        if response.status().is_success() {
            Ok(response)
        } else {
            Err(self.read_failure(response, key).await)
        }
    }

    /// Everything that must not be repeated from what the vendor says.
    fn secrets(&self) -> Vec<Secret> {
        self.secrets
            .iter()
            .chain(&self.bearer)
            .flat_map(|credential| credential.in_use())
            .collect()
    }

    async fn read_failure(&self, mut response: Response, key: Option<&Secret>) -> Failure {
        let mut body = Vec::new();
        // A body that breaks off still explains more than none.
        while let Ok(Some(chunk)) = response.chunk().await {
            let room = MAX_ERROR_BYTES - body.len();
            body.extend_from_slice(&chunk[..chunk.len().min(room)]);
            if body.len() == MAX_ERROR_BYTES {
                break;
            }
        }
        let secrets: Vec<Secret> = self.secrets().into_iter().chain(key.cloned()).collect();
        Failure::from_response(
            &self.provider,
            response.status(),
            response.headers(),
            &body,
            &secrets,
        )
    }

    /// An error object that arrived inside a stream whose status was 200.
    pub(crate) fn stream_error(&self, error: &serde_json::Value) -> ProviderError {
        failure::stream_error(&self.provider, error, &self.secrets())
    }

    /// Classifies what went wrong below HTTP. The address is left out of the cause: its query may hold a key.
    pub(crate) fn transport(&self, error: reqwest::Error) -> ProviderError {
        let (kind, message) = if error.is_connect() && error.is_timeout() {
            (
                ErrorKind::Timeout(Phase::Connect),
                format!("no connection to {} within 3 s", self.origin()),
            )
        } else if error.is_connect() {
            (
                ErrorKind::Connect,
                format!("cannot connect; is the server running at {}", self.origin()),
            )
        } else if error.is_timeout() {
            (ErrorKind::Timeout(Phase::Total), "timed out".to_owned())
        } else if error.is_builder() {
            (ErrorKind::Config, "the request cannot be built".to_owned())
        } else {
            (
                ErrorKind::Disconnected,
                "the connection ended early".to_owned(),
            )
        };
        ProviderError::new(kind, &*self.provider, message).with_source(error.without_url())
    }

    pub(crate) fn error(&self, kind: ErrorKind, message: impl AsRef<str>) -> ProviderError {
        ProviderError::new(kind, &*self.provider, message)
    }

    /// Reads a JSON answer of at most [`MAX_JSON_BYTES`].
    pub(crate) async fn json(
        &self,
        response: Response,
    ) -> Result<serde_json::Value, ProviderError> {
        let body = self.bytes(response, MAX_JSON_BYTES).await?;
        // The parser's message would quote the body, which may hold what somebody said.
        serde_json::from_slice(&body)
            .map_err(|_| self.error(ErrorKind::Protocol, "the answer is not JSON"))
    }

    /// Reads a whole answer.
    pub(crate) async fn bytes(
        &self,
        mut response: Response,
        limit: usize,
    ) -> Result<Vec<u8>, ProviderError> {
        let mut body = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| self.transport(error))?
        {
            if body.len() + chunk.len() > limit {
                return Err(self.error(
                    ErrorKind::TooLarge,
                    format!("the answer exceeds {limit} bytes"),
                ));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    /// Opens a connection so that the first turn pays no handshake. Sends no credentials; the answer does not matter.
    pub(crate) async fn warm(&self) {
        let request = self.http.0.head(self.base.clone()).timeout(CONNECT_TIMEOUT);
        if let Err(error) = request.send().await {
            let error = self.transport(error);
            tracing::warn!(%error, "cannot reach the provider yet");
        }
    }

    fn origin(&self) -> String {
        self.base.origin().ascii_serialization()
    }
}

/// The header for a key, or what is wrong with the key.
fn authorization(key: &Secret) -> Result<HeaderValue, String> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", key.expose().trim()))
        .map_err(|_| "the API key contains characters that no key has".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}

/// Parses the address that paths are appended to.
pub(crate) fn parse_base(base: &str) -> Result<Url, String> {
    let url = Url::parse(base.trim()).map_err(|error| error.to_string())?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err("must start with http:// or https:// and name a host".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not contain credentials".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("must end with the path, without `?` or `#`".to_owned());
    }
    Ok(url)
}

/// Whether requests to this address stay on the machine.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_urls_are_checked_at_construction() {
        for good in [
            "https://api.openai.com/v1",
            " http://localhost:1234/v1/ ",
            "http://[::1]:80",
        ] {
            assert!(parse_base(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "api.openai.com/v1",
            "ftp://host/v1",
            "https://user:pw@host/v1",
            "https://host/v1?api-key=x",
            "https://host/v1#x",
            "file:///etc/passwd",
        ] {
            assert!(parse_base(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn paths_are_appended_whether_or_not_the_base_ends_in_a_slash() {
        for base in ["https://host/v1", "https://host/v1/"] {
            let endpoint = Endpoint::new(HttpClient::new().unwrap(), "p", base, None, []).unwrap();
            let request = endpoint
                .request(Method::POST, "chat/completions")
                .build()
                .unwrap();
            assert_eq!(request.url().as_str(), "https://host/v1/chat/completions");
        }
    }

    #[test]
    fn debug_shows_no_credentials() {
        let key = SharedCredential::from("sk-CANARY-debug");
        let header = [("X-Api-Key".to_owned(), Secret::new("CANARY-header"))];
        let endpoint = Endpoint::new(
            HttpClient::new().unwrap(),
            "p",
            "https://host/v1",
            Some(&key),
            header,
        )
        .unwrap();
        let request = endpoint.request(Method::GET, "models");
        assert!(!format!("{endpoint:?} {request:?}").contains("CANARY"));
    }
}
