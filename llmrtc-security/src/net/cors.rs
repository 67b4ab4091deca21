//! What pages of other origins may read (C2).
//!
//! CORS loosens the browser's rule that a page reads answers of its own origin only. The same list decides about upgrades
//! and about this, and it is exact: an origin is repeated in the answer only if [`OriginPolicy`](crate::auth::origin::OriginPolicy)
//! let it through, never because it was sent. There is no wildcard, so the combination of a wildcard and credentials
//! cannot be configured. `null`, the origin of sandboxed frames and local files, is nobody's.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use llmrtc_core::duration;
use serde::Deserialize;
use validator::{Validate, ValidationError};

use crate::auth::origin::Origin;

/// What an allowed page may send.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Validate)]
#[serde(default, deny_unknown_fields)]
#[validate(schema(function = "names_are_names"))]
pub struct CorsConfig {
    /// Methods. What the API has.
    pub methods: Vec<String>,
    /// Request headers. What a page needs to ask for a ticket.
    pub headers: Vec<String>,
    /// Whether the browser may send cookies and client certificates. Nothing here uses them.
    pub credentials: bool,
    /// How long a browser may remember the answer to a preflight.
    #[serde(with = "duration")]
    pub max_age: Duration,
}

impl Default for CorsConfig {
    fn default() -> Self {
        Self {
            methods: ["GET", "POST"].map(str::to_owned).to_vec(),
            headers: ["authorization", "content-type"]
                .map(str::to_owned)
                .to_vec(),
            credentials: false,
            // What Chromium remembers at most.
            max_age: Duration::from_secs(2 * 60 * 60),
        }
    }
}

fn names_are_names(config: &CorsConfig) -> Result<(), ValidationError> {
    let problem =
        |message: &'static str| Err(ValidationError::new("cors").with_message(message.into()));
    let methods = || config.methods.iter();
    if methods().any(|name| name == "*") || config.headers.iter().any(|name| name == "*") {
        return problem("lists what is allowed; there is no wildcard");
    }
    if methods().any(|name| Method::from_bytes(name.as_bytes()).is_err()) {
        return problem("has a method that is none");
    }
    if config
        .headers
        .iter()
        .any(|name| HeaderName::from_bytes(name.as_bytes()).is_err())
    {
        return problem("has a header that is none");
    }
    Ok(())
}

/// The rules, ready to be applied.
#[derive(Clone, Debug)]
pub struct Cors {
    methods: Vec<String>,
    headers: Vec<String>,
    allow_methods: HeaderValue,
    allow_headers: HeaderValue,
    max_age: HeaderValue,
    credentials: bool,
}

impl Cors {
    /// The rules of a validated configuration; of names that are none, nothing is allowed.
    pub fn new(config: &CorsConfig) -> Self {
        let list = |names: &[String]| {
            HeaderValue::from_str(&names.join(", ")).unwrap_or(HeaderValue::from_static(""))
        };
        let headers: Vec<_> = config
            .headers
            .iter()
            .map(|name| name.to_ascii_lowercase())
            .collect();
        Self {
            allow_methods: list(&config.methods),
            allow_headers: list(&headers),
            max_age: config.max_age.as_secs().into(),
            methods: config.methods.clone(),
            headers,
            credentials: config.credentials,
        }
    }

    /// Marks the answer to a request of an allowed page, or of no page.
    pub fn mark(&self, origin: Option<&Origin>, answer: &mut HeaderMap) {
        // A shared cache must not give one page's answer to another, allowed or not.
        answer.append(header::VARY, HeaderValue::from_static("origin"));
        let Some(origin) = origin.and_then(|origin| HeaderValue::from_str(origin.as_str()).ok())
        else {
            return;
        };
        answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        if self.credentials {
            let yes = HeaderValue::from_static("true");
            answer.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, yes);
        }
        let exposed = HeaderValue::from_static("retry-after, ratelimit, ratelimit-policy");
        answer.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    }

    /// Whether this is a preflight: a browser asking on behalf of a page, without credentials.
    pub fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
        method == Method::OPTIONS
            && headers.contains_key(header::ORIGIN)
            && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
    }

    /// The headers of the answer to a preflight of an allowed page; `None` if it asks for what is not allowed.
    pub fn preflight(&self, origin: &Origin, asked: &HeaderMap) -> Option<HeaderMap> {
        let text = |name| asked.get(name).map(HeaderValue::to_str);
        let method = text(header::ACCESS_CONTROL_REQUEST_METHOD)?.ok()?;
        let wanted = text(header::ACCESS_CONTROL_REQUEST_HEADERS)
            .transpose()
            .ok()?;
        let wanted = wanted.unwrap_or_default().split(',').map(str::trim);
        let mut wanted = wanted.filter(|name| !name.is_empty());
        let allowed = self.methods.iter().any(|name| name == method)
            && wanted.all(|name| {
                self.headers
                    .iter()
                    .any(|own| own.eq_ignore_ascii_case(name))
            });
        if !allowed {
            return None;
        }
        let mut answer = HeaderMap::new();
        self.mark(Some(origin), &mut answer);
        answer.remove(header::ACCESS_CONTROL_EXPOSE_HEADERS);
        // The whole list and not what was asked for: nothing of the request is reflected.
        answer.insert(
            header::ACCESS_CONTROL_ALLOW_METHODS,
            self.allow_methods.clone(),
        );
        answer.insert(
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            self.allow_headers.clone(),
        );
        answer.insert(header::ACCESS_CONTROL_MAX_AGE, self.max_age.clone());
        Some(answer)
    }
}

#[cfg(test)]
mod c2_cors {
    use super::*;

    fn asked(method: &str, headers: Option<&str>) -> HeaderMap {
        let mut asked = HeaderMap::new();
        asked.insert(header::ORIGIN, "https://app.example".parse().unwrap());
        asked.insert(
            header::ACCESS_CONTROL_REQUEST_METHOD,
            method.parse().unwrap(),
        );
        if let Some(headers) = headers {
            asked.insert(
                header::ACCESS_CONTROL_REQUEST_HEADERS,
                headers.parse().unwrap(),
            );
        }
        asked
    }

    #[test]
    fn a_preflight_is_granted_for_what_is_listed_and_reflects_nothing() {
        let cors = Cors::new(&CorsConfig::default());
        let origin = Origin::from_config("https://app.example").unwrap();
        for (method, headers, allowed) in [
            ("POST", None, true),
            ("GET", Some("authorization"), true),
            ("POST", Some("Content-Type, AUTHORIZATION"), true),
            ("POST", Some(" , "), true),
            ("DELETE", None, false),
            ("post", None, false),
            ("POST", Some("x-anything"), false),
            ("POST", Some("authorization, x-anything"), false),
            ("POST", Some("*"), false),
        ] {
            let answer = cors.preflight(&origin, &asked(method, headers));
            assert_eq!(answer.is_some(), allowed, "{method} {headers:?}");
            if let Some(answer) = answer {
                assert_eq!(answer["access-control-allow-origin"], "https://app.example");
                assert_eq!(answer["access-control-allow-methods"], "GET, POST");
                assert_eq!(
                    answer["access-control-allow-headers"],
                    "authorization, content-type"
                );
                assert_eq!(answer["access-control-max-age"], "7200");
                assert_eq!(answer["vary"], "origin");
                assert!(!answer.contains_key("access-control-allow-credentials"));
            }
        }
    }

    #[test]
    fn only_an_allowed_origin_is_named_and_caches_are_told() {
        let config = CorsConfig {
            credentials: true,
            ..CorsConfig::default()
        };
        let cors = Cors::new(&config);
        let mut answer = HeaderMap::new();
        cors.mark(None, &mut answer);
        assert_eq!(answer.len(), 1);
        assert_eq!(answer["vary"], "origin");
        let origin = Origin::from_config("http://localhost:3000").unwrap();
        cors.mark(Some(&origin), &mut answer);
        assert_eq!(
            answer["access-control-allow-origin"],
            "http://localhost:3000"
        );
        assert_eq!(answer["access-control-allow-credentials"], "true");
    }

    #[test]
    fn wildcards_and_nonsense_are_configuration_errors() {
        let with = |methods: &[&str], headers: &[&str]| CorsConfig {
            methods: methods.iter().map(|&name| name.to_owned()).collect(),
            headers: headers.iter().map(|&name| name.to_owned()).collect(),
            credentials: true,
            ..CorsConfig::default()
        };
        assert!(with(&["GET", "PATCH"], &["x-trace"]).validate().is_ok());
        for bad in [
            with(&["*"], &[]),
            with(&[], &["*"]),
            with(&["GE T"], &[]),
            with(&[], &["a b"]),
        ] {
            assert!(bad.validate().is_err(), "{bad:?}");
        }
        // The origins come from the list that upgrades use, which knows no wildcard and no `null`.
        for text in ["*", "https://*.example", "null"] {
            assert!(Origin::from_config(text).is_err(), "{text}");
        }
    }
}
