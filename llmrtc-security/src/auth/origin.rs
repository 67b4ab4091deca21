//! Which web pages may open a socket.
//!
//! Browsers let any page connect to any WebSocket and send the page's origin along; without a check, every site that a
//! visitor opens could talk at the operator's cost (cross-site WebSocket hijacking). CORS does not cover upgrades.

use std::{fmt, net::IpAddr, sync::Arc};

use url::{Host, Url};

/// A web origin in its serialized form, such as `https://app.example` or `http://localhost:8080`: lower case, punycode,
/// no default port, no path.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin(Arc<str>);

impl Origin {
    /// The serialized form.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Reads what an operator writes: any spelling of the origin, in Unicode if they like, with or without the final
    /// slash.
    ///
    /// # Errors
    /// When it is not `http(s)://host[:port]`.
    pub fn from_config(text: &str) -> Result<Self, OriginError> {
        let error = |reason| OriginError {
            text: text.to_owned(),
            reason,
        };
        let url = Url::parse(text.trim()).map_err(|_| error("is not a URL"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(error("needs the scheme http or https"));
        }
        let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        if !bare || !url.username().is_empty() || url.password().is_some() {
            return Err(error("has more than scheme, host and port"));
        }
        if text.contains('*') {
            return Err(error("has a wildcard; list every origin"));
        }
        Ok(Self(url.origin().ascii_serialization().into()))
    }

    /// Reads an `Origin` header. Browsers send the serialized form and nothing else does any good, so every other
    /// spelling (upper case, a default port, a path, credentials) is refused instead of being interpreted.
    fn from_header(bytes: &[u8]) -> Option<(Self, Url)> {
        let text = std::str::from_utf8(bytes)
            .ok()
            .filter(|text| text.is_ascii())?;
        let url = Url::parse(text).ok()?;
        let serialized = url.origin().ascii_serialization();
        (matches!(url.scheme(), "http" | "https") && serialized == text)
            .then(|| (Self(serialized.into()), url))
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Origin({})", self.0)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An allow-list entry that is not an origin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` {reason}; expected an origin such as \"https://app.example\"")]
pub struct OriginError {
    text: String,
    reason: &'static str,
}

/// The page may not connect. Answered with 403 and without a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("origin not allowed")]
pub struct OriginRefused;

/// Which origins may connect. Runs before authentication and before the 101.
#[derive(Clone, Debug)]
pub struct OriginPolicy {
    rule: Rule,
    allow_missing: bool,
}

#[derive(Clone, Debug)]
enum Rule {
    /// These, compared exactly.
    Listed(Vec<Origin>),
    /// Pages of this machine, and pages served by this very server.
    Local {
        /// Whether a page may name the server by a DNS name. Not on loopback, where the name of a hostile page can be
        /// pointed at 127.0.0.1 while the browser watches (DNS rebinding): `Origin` and `Host` then agree.
        dns_names: bool,
    },
}

impl OriginPolicy {
    /// Exactly the listed origins; the server's own is not implied.
    pub fn listed(origins: impl IntoIterator<Item = Origin>) -> Self {
        Self {
            rule: Rule::Listed(origins.into_iter().collect()),
            allow_missing: true,
        }
    }

    /// The default: pages on loopback, and pages whose host and port are those of the request's `Host` header. Where
    /// the listener itself is on loopback (`bind`), the latter must be an address or `localhost`; a reverse proxy in
    /// front of it therefore needs [`listed`](Self::listed) origins.
    pub fn local(bind: IpAddr) -> Self {
        Self {
            rule: Rule::Local {
                dns_names: !bind.to_canonical().is_loopback(),
            },
            allow_missing: true,
        }
    }

    /// Whether requests without an `Origin` header are let through to authentication. True by default: only browsers
    /// send the header, and a page cannot suppress it.
    #[must_use]
    pub fn allow_missing(mut self, allow: bool) -> Self {
        self.allow_missing = allow;
        self
    }

    /// Decides about one request. `origins` are the values of all its `Origin` headers, `host` its `Host`.
    ///
    /// Returns the origin to bind the session to; `None` for a client that is no browser.
    ///
    /// # Errors
    /// When the page may not connect.
    pub fn check<'a>(
        &self,
        origins: impl IntoIterator<Item = &'a [u8]>,
        host: Option<&str>,
    ) -> Result<Option<Origin>, OriginRefused> {
        let mut origins = origins.into_iter();
        let Some(header) = origins.next() else {
            return if self.allow_missing {
                Ok(None)
            } else {
                Err(OriginRefused)
            };
        };
        // Two headers mean that somebody in between is confused, or wants us to be.
        if origins.next().is_some() {
            return Err(OriginRefused);
        }
        let (origin, url) = Origin::from_header(header).ok_or(OriginRefused)?;
        let allowed = match &self.rule {
            Rule::Listed(list) => list.contains(&origin),
            Rule::Local { dns_names } => {
                let literal = match url.host() {
                    Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
                    Some(Host::Ipv4(_) | Host::Ipv6(_)) => true,
                    None => false,
                };
                is_loopback(&url)
                    || ((literal || *dns_names) && host.is_some_and(|host| same_host(&url, host)))
            }
        };
        if allowed {
            Ok(Some(origin))
        } else {
            Err(OriginRefused)
        }
    }
}

/// Checks the fetch metadata of an upgrade (`Sec-Fetch-Site`, `Sec-Fetch-Mode`) beside its Origin. Pages can neither set
/// nor remove these headers, and only browsers send them, so they catch a browser whose `Origin` was lost on the way and
/// would pass for a client that is none. Which sites may connect is the policy's decision and not made here.
///
/// # Errors
/// When a browser says that this is no WebSocket of a page.
pub fn check_fetch_metadata(
    origin: Option<&Origin>,
    site: Option<&str>,
    mode: Option<&str>,
) -> Result<(), OriginRefused> {
    // `none` is a navigation by the user, which cannot open a socket.
    let site_fits =
        site.is_none_or(|site| matches!(site, "same-origin" | "same-site" | "cross-site"));
    let mode_fits = mode.is_none_or(|mode| mode == "websocket");
    let is_browser = site.is_some() || mode.is_some();
    let origin_fits = origin.is_some() || !is_browser;
    (site_fits && mode_fits && origin_fits)
        .then_some(())
        .ok_or(OriginRefused)
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        // Browsers resolve these to loopback themselves (RFC 6761 §6.3).
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => IpAddr::V6(address).to_canonical().is_loopback(),
        None => false,
    }
}

/// Whether the `Host` header names the host and port of `origin`. The scheme may differ: TLS can end before us.
fn same_host(origin: &Url, host: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_graphic() && !br"/\@?#".contains(&byte);
    if !host.bytes().all(plain) {
        return false;
    }
    // Reading it as part of a URL with the origin's scheme gives the same case folding and default port.
    Url::parse(&format!("{}://{host}", origin.scheme())).is_ok_and(|url| {
        url.host() == origin.host() && url.port_or_known_default() == origin.port_or_known_default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(policy: &OriginPolicy, origin: &str, host: &str) -> bool {
        policy.check([origin.as_bytes()], Some(host)).is_ok()
    }

    #[test]
    fn a_list_means_exactly_its_scheme_host_and_port() {
        let policy = OriginPolicy::listed(
            [
                "https://app.example",
                "https://bücher.example",
                "http://10.0.0.5:8080",
            ]
            .map(|text| Origin::from_config(text).unwrap()),
        );
        let cases = [
            ("https://app.example", true),
            ("https://xn--bcher-kva.example", true),
            ("http://10.0.0.5:8080", true),
            // Scheme and port.
            ("http://app.example", false),
            ("wss://app.example", false),
            ("https://app.example:8443", false),
            ("https://app.example:443", false),
            ("https://app.example:", false),
            ("http://10.0.0.5", false),
            // Suffix, prefix, sub-domain.
            ("https://evilapp.example", false),
            ("https://app.example.evil.test", false),
            ("https://app.exampleevil", false),
            ("https://app.exampl", false),
            ("https://x.app.example", false),
            // User info, path, query, fragment, back slash, white space, list.
            ("https://app.example@evil.test", false),
            ("https://evil.test@app.example", false),
            ("https://app.example/", false),
            ("https://app.example/chat", false),
            ("https://app.example?x", false),
            ("https://app.example#x", false),
            ("https:\\\\app.example", false),
            (" https://app.example", false),
            ("https://app.example ", false),
            ("https://app.example\t", false),
            ("https://app.example,https://evil.test", false),
            ("https://app.example https://evil.test", false),
            // Other spellings that a browser never sends.
            ("HTTPS://APP.EXAMPLE", false),
            ("https://App.example", false),
            ("https://app.example.", false),
            ("https://bücher.example", false),
            ("https://XN--BCHER-KVA.example", false),
            ("https://аpp.example", false),
            ("https://a%70p.example", false),
            ("http://167772165:8080", false),
            ("http://0xa.0.0.5:8080", false),
            // Opaque and others.
            ("null", false),
            ("", false),
            ("*", false),
            ("file://", false),
            ("data:text/html,x", false),
            ("chrome-extension://abcdef", false),
            ("app.example", false),
            ("//app.example", false),
        ];
        for (origin, allowed) in cases {
            // A matching Host header must not help.
            assert_eq!(check(&policy, origin, "evil.test"), allowed, "{origin:?}");
        }
        assert!(
            policy
                .check([b"https://app.example\xff".as_slice()], None)
                .is_err()
        );
    }

    #[test]
    fn by_default_pages_of_this_server_and_this_machine_connect() {
        let loopback = OriginPolicy::local("127.0.0.1".parse().unwrap());
        let network = OriginPolicy::local("0.0.0.0".parse().unwrap());
        // Origin, Host, allowed on a loopback listener, allowed on a network listener.
        let cases = [
            ("http://localhost:8787", "localhost:8787", true, true),
            ("http://127.0.0.1:8787", "127.0.0.1:8787", true, true),
            ("http://localhost:3000", "localhost:8787", true, true),
            ("https://localhost", "localhost:8787", true, true),
            ("http://app.localhost:3000", "localhost:8787", true, true),
            ("http://[::1]:8787", "[::1]:8787", true, true),
            ("http://[::ffff:127.0.0.1]", "[::1]:8787", false, false),
            ("http://192.168.1.5:8787", "192.168.1.5:8787", true, true),
            ("https://voice.example", "voice.example", false, true),
            ("https://voice.example", "VOICE.example:443", false, true),
            (
                "http://voice.example:8787",
                "voice.example:8787",
                false,
                true,
            ),
            // DNS rebinding: the name of a hostile page now points at this machine.
            ("http://evil.test:8787", "evil.test:8787", false, true),
            ("http://evil.test", "localhost:8787", false, false),
            ("https://evil.test", "voice.example", false, false),
            ("https://voice.example", "voice.example:8443", false, false),
            ("http://voice.example", "voice.example:443", false, false),
            ("https://voice.example", "voice.example/", false, false),
            ("https://voice.example", "x@voice.example", false, false),
            ("https://voice.example", "voice.example/x", false, false),
            ("https://voice.example", "voice.example.", false, false),
            ("http://localhost.evil.test", "localhost", false, false),
            ("http://evillocalhost", "localhost", false, false),
            ("null", "localhost:8787", false, false),
        ];
        for (origin, host, on_loopback, on_network) in cases {
            assert_eq!(
                check(&loopback, origin, host),
                on_loopback,
                "loopback: {origin} at {host}"
            );
            assert_eq!(
                check(&network, origin, host),
                on_network,
                "network: {origin} at {host}"
            );
        }
        assert!(
            loopback
                .check([b"https://voice.example".as_slice()], None)
                .is_err()
        );
        assert!(
            network
                .check([b"https://voice.example".as_slice()], None)
                .is_err()
        );
    }

    #[test]
    fn b5_fetch_metadata_must_fit_a_page_that_opens_a_socket() {
        let page = Origin::from_config("https://app.example").unwrap();
        let cases = [
            (Some(&page), Some("same-origin"), Some("websocket"), true),
            (Some(&page), Some("cross-site"), Some("websocket"), true),
            (Some(&page), Some("same-site"), None, true),
            (Some(&page), None, None, true),
            (None, None, None, true),
            // A browser whose Origin is gone.
            (None, Some("same-origin"), Some("websocket"), false),
            (None, Some("cross-site"), None, false),
            (None, None, Some("websocket"), false),
            // No socket.
            (Some(&page), Some("none"), Some("navigate"), false),
            (Some(&page), Some("cross-site"), Some("no-cors"), false),
            (Some(&page), Some("same-origin"), Some("cors"), false),
            (Some(&page), Some("Same-Origin"), Some("websocket"), false),
            (Some(&page), Some(""), None, false),
        ];
        for (origin, site, mode, allowed) in cases {
            let outcome = check_fetch_metadata(origin, site, mode);
            assert_eq!(outcome.is_ok(), allowed, "{origin:?} {site:?} {mode:?}");
        }
    }

    #[test]
    fn clients_that_are_no_browsers_send_none_and_nobody_sends_two() {
        let policy = OriginPolicy::local("127.0.0.1".parse().unwrap());
        assert_eq!(policy.check([], Some("localhost")), Ok(None));
        assert_eq!(
            policy
                .clone()
                .allow_missing(false)
                .check([], Some("localhost")),
            Err(OriginRefused)
        );
        let twice = [
            b"http://localhost".as_slice(),
            b"http://localhost".as_slice(),
        ];
        assert_eq!(policy.check(twice, Some("localhost")), Err(OriginRefused));
    }

    #[test]
    fn operators_may_spell_but_not_blur() {
        for (text, canonical) in [
            ("https://App.Example/", "https://app.example"),
            (" https://app.example:443", "https://app.example"),
            ("http://app.example:80", "http://app.example"),
            ("http://localhost:5173", "http://localhost:5173"),
            ("https://bücher.example", "https://xn--bcher-kva.example"),
        ] {
            assert_eq!(Origin::from_config(text).unwrap().as_str(), canonical);
        }
        for text in [
            "*",
            "null",
            "app.example",
            "https://*.app.example",
            "https://app.example/x",
            "ws://app.example",
            "https://u@app.example",
            "",
        ] {
            assert!(Origin::from_config(text).is_err(), "{text:?}");
        }
    }
}
