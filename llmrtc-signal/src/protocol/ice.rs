//! The addresses a client uses to find a way through firewalls.

use llmrtc_core::redact::Secret;
use serde::{Deserialize, Serialize};

use super::text::exposed;

/// One entry of `ready.iceServers`, as `RTCIceServer` in the browser.
///
/// Validated on construction, because the browser's `RTCPeerConnection` constructor throws on a relay entry without
/// credentials and the client would then reconnect forever.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct IceServer {
    #[serde(deserialize_with = "one_or_many")]
    urls: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    username: Option<String>,
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "exposed::serialize_some"
    )]
    credential: Option<Secret>,
}

/// Why an entry would be refused by a browser.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidIceServer {
    /// An entry without an address.
    #[error("an ICE server needs at least one URL")]
    NoUrl,
    /// Not `stun:`, `stuns:`, `turn:` or `turns:` with a host.
    #[error("ICE server URL {0} of the entry is not a stun:, stuns:, turn: or turns: URL")]
    Url(usize),
    /// A relay without user name and credential.
    #[error("a turn: or turns: URL needs a username and a credential")]
    NoCredential,
}

impl IceServer {
    /// An entry of addresses such as `stun:voice.example.net:3478`.
    ///
    /// # Errors
    /// If a browser would refuse the entry.
    pub fn new(
        urls: Vec<String>,
        username: Option<String>,
        credential: Option<Secret>,
    ) -> Result<Self, InvalidIceServer> {
        if urls.is_empty() {
            return Err(InvalidIceServer::NoUrl);
        }
        let mut relay = false;
        for (index, url) in urls.iter().enumerate() {
            let (scheme, rest) = url.split_once(':').ok_or(InvalidIceServer::Url(index))?;
            // RFC 7064 and RFC 7065: no slashes, no user part, no fragment.
            let host = !rest.is_empty()
                && rest.bytes().all(|byte| byte.is_ascii_graphic())
                && !rest.contains(['/', '@', '#']);
            match scheme.to_ascii_lowercase().as_str() {
                "stun" | "stuns" if host => {}
                "turn" | "turns" if host => relay = true,
                _ => return Err(InvalidIceServer::Url(index)),
            }
        }
        let has_credential = username.as_deref().is_some_and(|name| !name.is_empty())
            && credential.as_ref().is_some_and(|secret| !secret.is_blank());
        if relay && !has_credential {
            return Err(InvalidIceServer::NoCredential);
        }
        Ok(Self {
            urls,
            username,
            credential,
        })
    }

    /// The addresses.
    pub fn urls(&self) -> &[String] {
        &self.urls
    }

    /// The user name for relays.
    pub fn username(&self) -> Option<&str> {
        self.username.as_deref()
    }

    /// The credential for relays.
    pub fn credential(&self) -> Option<&Secret> {
        self.credential.as_ref()
    }
}

/// Browsers accept one URL or a list of them.
fn one_or_many<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Urls {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Urls::deserialize(deserializer)? {
        Urls::One(url) => vec![url],
        Urls::Many(urls) => urls,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_a_browser_would_refuse_are_refused() {
        let check = |urls: &[&str], username: Option<&str>, credential: Option<&str>| {
            IceServer::new(
                urls.iter().map(|url| (*url).to_owned()).collect(),
                username.map(str::to_owned),
                credential.map(Secret::new),
            )
            .map(drop)
        };
        assert_eq!(check(&["stun:voice.example.net:3478"], None, None), Ok(()));
        assert_eq!(
            check(
                &["TURNS:[2001:db8::1]:443?transport=tcp"],
                Some("u"),
                Some("p")
            ),
            Ok(())
        );
        assert_eq!(check(&[], None, None), Err(InvalidIceServer::NoUrl));
        for bad in [
            "", "stun:", "stun://a", "http:a", "turn:u@a", "stun:a b", "stun:a#b",
        ] {
            assert_eq!(
                check(&[bad], Some("u"), Some("p")),
                Err(InvalidIceServer::Url(0)),
                "{bad}"
            );
        }
        for (username, credential) in [
            (None, None),
            (Some("u"), None),
            (None, Some("p")),
            (Some(""), Some("p")),
            (Some("u"), Some(" ")),
        ] {
            assert_eq!(
                check(&["stun:a", "turn:a"], username, credential),
                Err(InvalidIceServer::NoCredential)
            );
        }
    }

    #[test]
    fn credentials_reach_the_wire_and_nothing_else() {
        let server = IceServer::new(
            vec!["turn:a".into()],
            Some("u".into()),
            Some(Secret::new("canary")),
        )
        .unwrap();
        assert!(!format!("{server:?}").contains("canary"));
        assert_eq!(
            serde_json::to_string(&server).unwrap(),
            r#"{"urls":["turn:a"],"username":"u","credential":"canary"}"#
        );
        let read: IceServer = serde_json::from_str(r#"{"urls":"stun:a"}"#).unwrap();
        assert_eq!(read.urls(), ["stun:a"]);
    }
}
