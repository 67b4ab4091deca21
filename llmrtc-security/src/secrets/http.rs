//! What the clients of secret managers share: one way to ask, bounded answers, and failures by kind.

use std::time::{Duration, SystemTime};

use llmrtc_core::redact::Secret;
use reqwest::{Client, RequestBuilder, header::RETRY_AFTER, redirect};
use serde::de::DeserializeOwned;
use serde_json::Value;
use url::{Host, Url};
use zeroize::{Zeroize, Zeroizing};

use super::{MAX_SECRET_BYTES, SecretError, SecretErrorKind};

/// TCP and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// From the request to the end of the answer. Managers answer in tens of milliseconds.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Base64 or JSON escapes at most double what people store; the rest is metadata.
const MAX_ANSWER_BYTES: usize = 2 * MAX_SECRET_BYTES + 16 * 1024;

/// The client for a manager. Certificates are verified, redirects are not followed: they would carry the credentials to
/// wherever the answer says.
pub(super) fn client() -> Result<Client, SecretError> {
    build(Client::builder())
}

/// The client for addresses that only this machine has, where no proxy may stand in between.
#[cfg(any(feature = "gcp", feature = "aws"))]
pub(super) fn direct_client() -> Result<Client, SecretError> {
    build(Client::builder().no_proxy())
}

fn build(builder: reqwest::ClientBuilder) -> Result<Client, SecretError> {
    builder
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(REQUEST_TIMEOUT)
        .redirect(redirect::Policy::none())
        .referer(false)
        .user_agent(concat!("llmrtc/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| {
            SecretError::new("HTTP client", SecretErrorKind::Unavailable).with_cause(error)
        })
}

/// The address of a manager: https, or http on this machine.
pub(super) fn address(setting: &str, text: &str) -> Result<Url, SecretError> {
    let error = |problem| SecretError::new(setting, SecretErrorKind::Reference(problem));
    let url = Url::parse(text.trim()).map_err(|_| error("the address is no URL"))?;
    let local = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => return Err(error("the address names no host")),
    };
    if !(url.scheme() == "https" || url.scheme() == "http" && local) {
        return Err(error("the address begins with https://"));
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
        return Err(error("the address has neither credentials nor a query"));
    }
    Ok(url)
}

/// `base` with a path behind its own. Each segment is encoded.
pub(super) fn join<'a>(base: &Url, segments: impl IntoIterator<Item = &'a str>) -> Url {
    let mut url = base.clone();
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(segments);
    }
    url
}

/// An answer, whatever its status.
pub(super) struct Answer {
    status: u16,
    retry_after: Option<Duration>,
    body: Zeroizing<Vec<u8>>,
}

/// Sends one request. `origin` is what errors are about.
pub(super) async fn send(origin: &str, request: RequestBuilder) -> Result<Answer, SecretError> {
    let transport = |error: reqwest::Error| {
        let kind = if error.is_timeout() {
            SecretErrorKind::Timeout
        } else {
            SecretErrorKind::Unavailable
        };
        SecretError::new(origin, kind).with_cause(error.without_url())
    };
    let mut response = request.send().await.map_err(transport)?;
    let retry_after = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| wait(text, SystemTime::now()));
    let status = response.status().as_u16();
    // The whole room at once: a buffer that grows would leave copies behind.
    let mut body = Zeroizing::new(Vec::with_capacity(MAX_ANSWER_BYTES));
    while let Some(chunk) = response.chunk().await.map_err(transport)? {
        if body.len() + chunk.len() > MAX_ANSWER_BYTES {
            return Err(SecretError::new(origin, SecretErrorKind::TooLarge));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Answer {
        status,
        retry_after,
        body,
    })
}

/// Seconds or a date (RFC 9110, section 10.2.3).
fn wait(text: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    httpdate::parse_http_date(text)
        .ok()?
        .duration_since(now)
        .ok()
}

impl Answer {
    #[cfg(any(feature = "gcp", feature = "vault-kv"))]
    pub(super) fn status(&self) -> u16 {
        self.status
    }

    pub(super) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The body as a line of text.
    #[cfg(feature = "aws")]
    pub(super) fn text(&self, origin: &str) -> Result<Secret, SecretError> {
        std::str::from_utf8(&self.body)
            .map(|text| Secret::new(text.trim()))
            .map_err(|_| SecretError::new(origin, SecretErrorKind::NotText))
    }

    /// The body, when it is JSON of this shape. What the parser says would quote it.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_slice(&self.body).ok()
    }

    /// What the status alone says.
    pub(super) fn failure(&self) -> SecretErrorKind {
        match self.status {
            401 | 403 => SecretErrorKind::Denied,
            404 => SecretErrorKind::NotFound,
            408 => SecretErrorKind::Timeout,
            429 => SecretErrorKind::RateLimited(self.retry_after),
            500.. => SecretErrorKind::Unavailable,
            status => SecretErrorKind::Refused(status),
        }
    }
}

/// JSON that holds secrets: its texts are wiped in the end.
#[derive(serde::Deserialize)]
#[serde(transparent)]
pub(super) struct Document(Value);

impl Document {
    /// The text under `key`: the member of exactly this name, else the way down through nested objects.
    pub(super) fn text(&self, key: &str) -> Option<Secret> {
        let found = self
            .0
            .get(key)
            .or_else(|| key.split('.').try_fold(&self.0, |at, name| at.get(name)))?;
        found.as_str().map(Secret::new)
    }
}

impl Drop for Document {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(items) => items.iter_mut().for_each(wipe),
        Value::Object(members) => members.values_mut().for_each(wipe),
        _ => {}
    }
}

/// The secret itself, or one text in the object that it is.
#[cfg(any(feature = "aws", feature = "gcp"))]
pub(super) fn select(stored: Secret, key: Option<&str>) -> Result<Secret, SecretErrorKind> {
    let Some(key) = key else {
        return Ok(Secret::new(stored.expose().trim_end()));
    };
    serde_json::from_str::<Document>(stored.expose())
        .ok()
        .and_then(|object| object.text(key))
        .ok_or_else(|| SecretErrorKind::NoKey(key.to_owned()))
}

/// Blank is worse than missing: it would be sent.
pub(super) fn filled(value: Secret) -> Result<Secret, SecretErrorKind> {
    if value.is_blank() {
        Err(SecretErrorKind::Blank)
    } else {
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a2_addresses_are_https_unless_they_stay_on_the_machine() {
        for good in [
            "https://vault.example:8200",
            "http://127.0.0.1:8200",
            "http://localhost/x",
            "http://[::1]:1",
        ] {
            assert!(address("a", good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "vault:8200",
            "http://vault.example:8200",
            "http://localhost.evil.example",
            "https://user:pw@vault.example",
            "https://vault.example?x=1",
            "file:///etc",
        ] {
            assert!(address("a", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a2_keys_are_members_first_and_ways_down_second() {
        let select = |json: &str, key| {
            select(Secret::new(json), Some(key)).map(|value| value.expose().to_owned())
        };
        let json = r#"{"a":{"b":"deep"},"a.c":"flat","n":1}"#;
        assert_eq!(select(json, "a.b").unwrap(), "deep");
        assert_eq!(select(json, "a.c").unwrap(), "flat");
        for missing in ["a", "n", "x", "a.b.c", ""] {
            let no_key = SecretErrorKind::NoKey(missing.to_owned());
            assert_eq!(select(json, missing), Err(no_key));
        }
        assert!(select("sk-plain", "a").is_err());
    }

    #[test]
    fn a2_waits_are_seconds_or_dates() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(wait("7", now), Some(Duration::from_secs(7)));
        let date = "Sun, 06 Nov 1994 08:50:37 GMT";
        assert_eq!(wait(date, now), Some(Duration::from_secs(60)));
        assert_eq!(wait("soon", now), None);
    }
}
