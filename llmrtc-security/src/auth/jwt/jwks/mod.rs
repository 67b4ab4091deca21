//! Keys that an issuer publishes (B3): found by OpenID Connect Discovery or at a fixed URL, cached, refreshed.
//!
//! | | |
//! | --- | --- |
//! | A key that is known and fresh | no fetch |
//! | A key that nobody knows | one fetch per [`COOL_DOWN`], however many ask |
//! | Several callers at once | one fetch, which goes on if they leave |
//! | The cache is no longer fresh (`Cache-Control`, within [`MIN_FRESH`]–[`MAX_FRESH`]) | fetched by the first who asks |
//! | The issuer does not answer | the keys we have, for [`MAX_STALE`] more; then nobody gets in |
//! | Symmetric, private, encryption and short keys, unknown curves | not looked at |
//!
//! URLs are `https`, or `http` on this machine; redirects are not followed; bodies end at [`MAX_BODY_BYTES`].

mod cache;
mod document;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use llmrtc_core::{clock::Clock, tasks::Tasks};
use reqwest::{Client, StatusCode, header, redirect};
use url::{Host, Url};

pub use self::cache::{COOL_DOWN, MAX_FRESH, MAX_STALE, MIN_FRESH};
use self::cache::{Cache, Lookup};
use super::{JwtError, PublicKey};

/// Longest document. A key takes one kilobyte with its certificates.
pub const MAX_BODY_BYTES: usize = 512 * 1024;

/// Longest wait for an issuer. Somebody may be waiting at the door for it.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Where the keys of an issuer are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwksSource {
    discovery: Option<Discovery>,
    url: Url,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Discovery {
    issuer: String,
}

/// The keys cannot be had like this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JwksError {
    /// Not an absolute URL.
    #[error("is not a URL")]
    Url,
    /// Whoever is in between could replace the keys.
    #[error("must be https outside of this machine")]
    Insecure,
    /// The HTTP client cannot be made.
    #[error("no HTTP client")]
    Client,
}

impl JwksSource {
    /// Where the issuer itself says (OpenID Connect Discovery §4).
    ///
    /// # Errors
    /// When the issuer is no acceptable URL.
    pub fn discover(issuer: &str) -> Result<Self, JwksError> {
        let well_known = format!(
            "{}/.well-known/openid-configuration",
            issuer.trim_end_matches('/')
        );
        Ok(Self {
            discovery: Some(Discovery {
                issuer: issuer.to_owned(),
            }),
            url: secure(&well_known)?,
        })
    }

    /// At this URL.
    ///
    /// # Errors
    /// When it is not acceptable.
    pub fn url(url: &str) -> Result<Self, JwksError> {
        Ok(Self {
            discovery: None,
            url: secure(url)?,
        })
    }
}

fn secure(url: &str) -> Result<Url, JwksError> {
    let url = Url::parse(url).map_err(|_| JwksError::Url)?;
    let local = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => return Err(JwksError::Url),
    };
    match url.scheme() {
        "https" => Ok(url),
        "http" if local => Ok(url),
        _ => Err(JwksError::Insecure),
    }
}

/// The published keys of one issuer.
pub struct Jwks {
    shared: Arc<Inner>,
    /// Owns the fetch that is under way.
    tasks: Tasks,
}

struct Inner {
    client: Client,
    source: JwksSource,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    observer: OnceLock<Observer>,
}

/// Is told the id of a key.
type Observer = Box<dyn Fn(&str) + Send + Sync>;

#[derive(Default)]
struct State {
    cache: Cache,
    fetching: Option<Shared<BoxFuture<'static, ()>>>,
}

impl fmt::Debug for Jwks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jwks")
            .field("url", &self.shared.source.url.as_str())
            .finish_non_exhaustive()
    }
}

impl Jwks {
    /// Prepares; the first caller fetches, or [`warm_up`](Self::warm_up).
    ///
    /// # Errors
    /// When the system gives us no HTTP client.
    pub fn new(source: JwksSource, clock: Arc<dyn Clock>) -> Result<Self, JwksError> {
        let client = Client::builder()
            .timeout(TIMEOUT)
            .redirect(redirect::Policy::none())
            .build()
            .map_err(|_| JwksError::Client)?;
        Ok(Self {
            shared: Arc::new(Inner {
                client,
                source,
                clock,
                state: Mutex::default(),
                observer: OnceLock::new(),
            }),
            tasks: Tasks::root("jwks"),
        })
    }

    /// Where the keys or the document that leads to them are.
    pub fn url(&self) -> &str {
        self.shared.source.url.as_str()
    }

    /// Tells `observer`, which must not block, the id of each key that the issuer adds to those it had. The first
    /// observer stays.
    pub fn observe(&self, observer: impl Fn(&str) + Send + Sync + 'static) {
        let _ = self.shared.observer.set(Box::new(observer));
    }

    /// Fetches ahead of the first caller. Says whether there are keys now.
    ///
    /// # Cancel safety
    /// Cancel safe: a fetch that has begun goes on.
    pub async fn warm_up(&self) -> bool {
        self.keys(None).await.is_ok()
    }

    /// The keys among which one with this id should be.
    ///
    /// # Errors
    /// [`JwtError::KeysUnavailable`] when there are none that may still be used.
    ///
    /// # Cancel safety
    /// Cancel safe: a fetch that has begun goes on.
    pub(super) async fn keys(&self, key_id: Option<&str>) -> Result<Arc<[PublicKey]>, JwtError> {
        let fetching = {
            let mut state = self.shared.lock();
            let now = self.shared.clock.now();
            match (state.cache.lookup(key_id, now), &state.fetching) {
                (Lookup::Found(keys), _) => return Ok(keys),
                // Somebody else waits for news; what we have is good enough for this one.
                (Lookup::Stale(Some(keys)), Some(_)) => return Ok(keys),
                (Lookup::Stale(_) | Lookup::Unknown, Some(fetching)) => fetching.clone(),
                (Lookup::Stale(_) | Lookup::Unknown, None) => {
                    if state.cache.begin_fetch(now) {
                        let fetching = self.fetch();
                        state.fetching = Some(fetching.clone());
                        fetching
                    } else {
                        return state.cache.usable(now).ok_or(JwtError::KeysUnavailable);
                    }
                }
            }
        };
        fetching.await;
        let state = self.shared.lock();
        let keys = state.cache.usable(self.shared.clock.now());
        keys.ok_or(JwtError::KeysUnavailable)
    }

    fn fetch(&self) -> Shared<BoxFuture<'static, ()>> {
        let inner = self.shared.clone();
        let task = self.tasks.spawn("fetch keys", move |_| async move {
            let fetched = inner.fetch().await;
            let mut state = inner.lock();
            state.fetching = None;
            match fetched {
                Ok((keys, fresh)) => {
                    tracing::debug!(issuer = %inner.source.url, keys = keys.len(), "keys fetched");
                    let added = state.cache.store(keys, fresh, inner.clock.now());
                    drop(state);
                    if let Some(observer) = inner.observer.get() {
                        added.iter().for_each(|id| observer(id));
                    }
                }
                Err(error) => {
                    tracing::warn!(issuer = %inner.source.url, error, "keys cannot be fetched");
                }
            }
        });
        // A fetch that panicked was logged by its group and looks like one that failed.
        async move { drop(task.await) }.boxed().shared()
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No step between two valid states can panic, so a poisoned lock still guards a valid one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn fetch(&self) -> Result<(Vec<PublicKey>, Duration), &'static str> {
        let url = match &self.source.discovery {
            None => self.source.url.clone(),
            Some(discovery) => {
                let (body, _) = self.get(self.source.url.clone()).await?;
                let url = document::discovered(&body, &discovery.issuer)?;
                secure(&url).map_err(|_| "the document names an unacceptable jwks_uri")?
            }
        };
        let (body, fresh) = self.get(url).await?;
        let keys = document::keys(&body)?;
        if keys.is_empty() {
            // Nobody could get in with it, so it is a mistake of the issuer's and not a rotation.
            return Err("the document has no usable key");
        }
        Ok((keys, fresh))
    }

    /// The body, and how long it stays fresh.
    async fn get(&self, url: Url) -> Result<(Vec<u8>, Duration), &'static str> {
        let request = self
            .client
            .get(url)
            .header(header::ACCEPT, "application/json");
        let mut response = request.send().await.map_err(|_| "no answer")?;
        if response.status() != StatusCode::OK {
            return Err("not a 200");
        }
        let fresh = cache::freshness(
            response
                .headers()
                .get_all(header::CACHE_CONTROL)
                .iter()
                .filter_map(|value| value.to_str().ok()),
        );
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|_| "the answer broke off")? {
            if body.len() + chunk.len() > MAX_BODY_BYTES {
                return Err("the document is too long");
            }
            body.extend_from_slice(&chunk);
        }
        Ok((body, fresh))
    }
}
