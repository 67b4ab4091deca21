//! Pictures by URL, without lending strangers the server's place in the network (H5).
//!
//! Off until an operator names hosts. Then a URL is fetched when all of this holds, for the first address and for each
//! one that it redirects to:
//!
//! - `https`, or `http` where no redirect came from `https`; port 443 or 80; no user name, no password;
//! - the host is a name on the list. Numbers are no names, however they are written;
//! - every address that the name resolves to is [public](super::public), and the connection goes to one of those very
//!   addresses: the client asks our resolver, and nobody asks a second time;
//! - no proxy of the environment stands in between, which would resolve names itself.
//!
//! The answer has to arrive in time, be no longer than a picture may be, and be one ([`super::image`]). The result is
//! bytes: no provider ever sees the URL. Neither does a log; it may hold a signature.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use llmrtc_core::duration;
use reqwest::{Client, StatusCode, dns, header, redirect};
use serde::Deserialize;
use tokio::sync::Semaphore;
use url::{Host, Url};
use validator::{Validate, ValidationError};

use super::{
    image::{self, Image, ImageError},
    public::is_public,
};

/// Most redirects.
const MAX_REDIRECTS: usize = 3;
/// Longest URL.
const MAX_URL_BYTES: usize = 2_048;
/// TCP and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Fetches at a time, each of which may hold [`image::MAX_BYTES`]. Further ones wait, within their time.
const MAX_CONCURRENT: usize = 16;
/// Most addresses of a name that are tried.
const MAX_ADDRESSES: usize = 16;

/// Which pictures are fetched.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Validate)]
#[serde(default, deny_unknown_fields)]
pub struct FetchConfig {
    /// Hosts that may be asked: `"images.example.org"`, or `"*.example.org"` for all names below. Empty: none.
    #[validate(length(max = 1_000), custom(function = "hosts_are_names"))]
    pub hosts: Vec<String>,
    /// How long a fetch may take from name to last byte, redirects included; 1 s–1 min.
    #[serde(with = "duration")]
    #[validate(custom(function = "timeout_is_sensible"))]
    pub timeout: Duration,
}

impl Default for FetchConfig {
    fn default() -> Self {
        Self {
            hosts: Vec::new(),
            // The caller is waiting for an answer to what they have just said.
            timeout: Duration::from_secs(10),
        }
    }
}

fn timeout_is_sensible(timeout: &Duration) -> Result<(), ValidationError> {
    if (Duration::from_secs(1)..=Duration::from_secs(60)).contains(timeout) {
        return Ok(());
    }
    Err(ValidationError::new("range").with_message("must be between 1s and 1m".into()))
}

fn hosts_are_names(hosts: &[String]) -> Result<(), ValidationError> {
    match hosts.iter().find(|host| Pattern::parse(host).is_none()) {
        None => Ok(()),
        Some(host) => Err(ValidationError::new("host").with_message(
            format!("`{host}` is not a name such as \"images.example.org\" or \"*.example.org\"")
                .into(),
        )),
    }
}

/// A host on the list.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    Exactly(String),
    /// With the dot in front.
    Below(String),
}

impl Pattern {
    fn parse(text: &str) -> Option<Self> {
        let (name, below) = match text.strip_prefix("*.") {
            // `*.com` is no list.
            Some(name) => (name, name.contains('.')),
            None => (text, false),
        };
        if text.starts_with("*.") && !below || name.ends_with('.') {
            return None;
        }
        let is_name = |name: &str| {
            name.bytes()
                .all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c))
        };
        match Host::parse(name).ok()? {
            // URLs allow more, such as `*`, which would match nothing.
            Host::Domain(name) if !is_name(&name) => None,
            Host::Domain(name) if below => Some(Self::Below(format!(".{name}"))),
            Host::Domain(name) => Some(Self::Exactly(name)),
            Host::Ipv4(_) | Host::Ipv6(_) => None,
        }
    }

    fn matches(&self, name: &str) -> bool {
        match self {
            Self::Exactly(host) => host == name,
            Self::Below(end) => name.len() > end.len() && name.ends_with(end.as_str()),
        }
    }
}

/// Turns names into addresses.
#[async_trait]
pub trait Resolver: Send + Sync + 'static {
    /// All addresses of a name.
    ///
    /// # Errors
    /// When there are none.
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>>;
}

/// The system's resolver.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemResolver;

#[async_trait]
impl Resolver for SystemResolver {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let addresses = tokio::net::lookup_host((name, 0)).await?;
        Ok(addresses.map(|address| address.ip()).collect())
    }
}

/// Why there is no picture. Names neither URL nor address.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// No URL that may be fetched: scheme, port, length, a user name, or a step from `https` to `http`.
    #[error("address is not allowed")]
    Url,
    /// Not on the list.
    #[error("host is not allowed")]
    Host,
    /// The name resolves to an address inside somebody's network.
    #[error("host has an address that is not public")]
    NotPublic,
    /// More than three.
    #[error("too many redirects")]
    Redirects,
    /// Neither success nor redirect.
    #[error("host answered with status {0}")]
    Status(u16),
    /// It took too long.
    #[error("host did not answer in time")]
    Timeout,
    /// No address, no connection, or it broke.
    #[error("host cannot be reached")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// What came is no picture.
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// Fetches pictures. One per process: it bounds how many are fetched at a time.
pub struct ImageFetcher {
    client: Client,
    hosts: Vec<Pattern>,
    timeout: Duration,
    slots: Semaphore,
    /// Whether URLs may name this port.
    port: fn(u16) -> bool,
}

impl fmt::Debug for ImageFetcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageFetcher")
            .field("hosts", &self.hosts)
            .finish_non_exhaustive()
    }
}

impl ImageFetcher {
    /// Fetches from the hosts of the configuration, as the system resolves them.
    ///
    /// # Errors
    /// [`FetchError::Unavailable`] when there are no roots to verify certificates with.
    pub fn new(config: &FetchConfig) -> Result<Self, FetchError> {
        Self::with_resolver(config, Arc::new(SystemResolver))
    }

    /// The same with another resolver.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_resolver(
        config: &FetchConfig,
        resolver: Arc<dyn Resolver>,
    ) -> Result<Self, FetchError> {
        let web = |port| matches!(port, 80 | 443);
        Self::build(config, resolver, is_public, web)
    }

    fn build(
        config: &FetchConfig,
        resolver: Arc<dyn Resolver>,
        address: fn(IpAddr) -> bool,
        port: fn(u16) -> bool,
    ) -> Result<Self, FetchError> {
        let client = Client::builder()
            .dns_resolver(Arc::new(Checked { resolver, address }))
            .no_proxy()
            .redirect(redirect::Policy::none())
            .referer(false)
            .connect_timeout(CONNECT_TIMEOUT)
            // A connection that stays would outlive what its address was checked against.
            .pool_max_idle_per_host(0)
            .user_agent(concat!("llmrtc/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(failure)?;
        Ok(Self {
            client,
            hosts: config
                .hosts
                .iter()
                .filter_map(|host| Pattern::parse(host))
                .collect(),
            timeout: config.timeout,
            slots: Semaphore::new(MAX_CONCURRENT),
            port,
        })
    }

    /// Fetches a picture and takes its metadata off.
    ///
    /// # Errors
    /// [`FetchError`].
    ///
    /// # Cancel safety
    /// Dropping the future ends the fetch.
    pub async fn fetch(&self, url: &str) -> Result<Image, FetchError> {
        // Before anything waits: most refusals cost nothing.
        let url = self.parse(url)?;
        let bytes = tokio::time::timeout(self.timeout, async {
            let _slot = self
                .slots
                .acquire()
                .await
                .map_err(|error| FetchError::Unavailable(error.into()))?;
            self.download(url).await
        });
        Ok(image::sanitise(
            &bytes.await.map_err(|_| FetchError::Timeout)??,
        )?)
    }

    fn parse(&self, text: &str) -> Result<Url, FetchError> {
        let url = Some(text).filter(|text| text.len() <= MAX_URL_BYTES);
        let url = Url::parse(url.ok_or(FetchError::Url)?).map_err(|_| FetchError::Url)?;
        self.check(&url)?;
        Ok(url)
    }

    fn check(&self, url: &Url) -> Result<(), FetchError> {
        let port = url.port_or_known_default();
        if !matches!(url.scheme(), "http" | "https")
            || !url.username().is_empty()
            || url.password().is_some()
            || !port.is_some_and(self.port)
        {
            return Err(FetchError::Url);
        }
        match url.host() {
            Some(Host::Domain(name)) if self.hosts.iter().any(|host| host.matches(name)) => Ok(()),
            _ => Err(FetchError::Host),
        }
    }

    async fn download(&self, mut url: Url) -> Result<Bytes, FetchError> {
        for _ in 0..=MAX_REDIRECTS {
            let request = self
                .client
                .get(url.clone())
                .header(header::ACCEPT, "image/*");
            let mut response = request.send().await.map_err(failure)?;
            let status = response.status();
            if is_redirect(status) {
                let to = response.headers().get(header::LOCATION);
                let to = to.and_then(|to| to.to_str().ok()).ok_or(FetchError::Url)?;
                let next = self.parse(url.join(to).map_err(|_| FetchError::Url)?.as_str())?;
                if url.scheme() == "https" && next.scheme() == "http" {
                    return Err(FetchError::Url);
                }
                url = next;
                continue;
            }
            if status != StatusCode::OK {
                return Err(FetchError::Status(status.as_u16()));
            }
            let announced = response.content_length().unwrap_or(0);
            if announced > image::MAX_BYTES as u64 {
                return Err(ImageError::TooLarge.into());
            }
            let mut body = BytesMut::new();
            while let Some(chunk) = response.chunk().await.map_err(failure)? {
                if body.len() + chunk.len() > image::MAX_BYTES {
                    return Err(ImageError::TooLarge.into());
                }
                body.extend_from_slice(&chunk);
            }
            return Ok(body.freeze());
        }
        Err(FetchError::Redirects)
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// What went wrong underneath, without the URL.
fn failure(error: reqwest::Error) -> FetchError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(error) = cause {
        if error.is::<NotPublic>() {
            return FetchError::NotPublic;
        }
        cause = error.source();
    }
    if error.is_timeout() {
        return FetchError::Timeout;
    }
    FetchError::Unavailable(error.without_url().into())
}

/// The resolver of the HTTP client. What it returns is what is connected to.
struct Checked {
    resolver: Arc<dyn Resolver>,
    address: fn(IpAddr) -> bool,
}

#[derive(Debug, thiserror::Error)]
#[error("an address is not public")]
struct NotPublic;

impl dns::Resolve for Checked {
    fn resolve(&self, name: dns::Name) -> dns::Resolving {
        let (resolver, address) = (Arc::clone(&self.resolver), self.address);
        Box::pin(async move {
            let addresses = resolver.resolve(name.as_str()).await?;
            if addresses.is_empty() {
                return Err("the name has no address".into());
            }
            // One bad address among good ones is an attack, not an accident.
            if !addresses.iter().all(|&found| address(found)) {
                return Err(NotPublic.into());
            }
            let addresses = addresses.into_iter().take(MAX_ADDRESSES);
            // The client puts the URL's port in.
            let addresses = addresses.map(|address| SocketAddr::new(address, 0));
            Ok(Box::new(addresses) as dns::Addrs)
        })
    }
}

#[cfg(test)]
mod tests;
