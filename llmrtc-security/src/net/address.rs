//! Who is at the other end, when proxies stand in between (C3).
//!
//! A header is evidence only of what the proxy that wrote it saw. So: one configured source, believed only from
//! connections of trusted networks, read from the right, where the nearest proxy wrote. The client is the rightmost
//! address that is not itself a trusted proxy; whatever stands left of it was written by that client. A header that a
//! trusted proxy sent but nobody can read is refused rather than replaced by the proxy's own address, which may be
//! exempt from limits.
//!
//! PROXY protocol headers are in [`proxy_protocol`].

pub mod proxy_protocol;
#[cfg(test)]
mod tests;

use std::{
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

use http::{HeaderMap, HeaderName};
use ipnet::IpNet;
use serde::{Deserialize, Deserializer, de::Error as _};
use validator::Validate;

/// Most hops read from a header. Real chains have two or three.
const MAX_HOPS: usize = 32;

/// Most bytes of the lines of one header.
const MAX_BYTES: usize = 4_096;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Proxies in front of the server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Validate)]
#[serde(default, deny_unknown_fields)]
pub struct ProxyConfig {
    /// The header that tells the client's address. Configure the proxy to set it, not to pass it on.
    pub source: Source,
    /// Networks of the proxies, such as `"10.0.0.0/8"`. Nobody else is believed.
    pub trusted: Networks,
    /// Whether connections from the proxies begin with a PROXY protocol header.
    pub proxy_protocol: bool,
}

/// Where the client's address is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// It is that of the connection.
    #[default]
    None,
    /// `X-Forwarded-For`, to which each proxy appends.
    XForwardedFor,
    /// `X-Real-IP`, which the one proxy sets.
    XRealIp,
    /// `Forwarded` (RFC 7239), to which each proxy appends.
    Forwarded,
}

/// A set of networks, written as prefixes or single addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(Vec<IpNet>);

impl Networks {
    /// This machine.
    pub fn loopback() -> Self {
        Self(vec![
            IpNet::from(ipnet::Ipv4Net::new_assert([127, 0, 0, 0].into(), 8)),
            IpNet::from(IpAddr::V6(Ipv6Addr::LOCALHOST)),
        ])
    }

    /// Reads prefixes and addresses.
    ///
    /// # Errors
    /// On the first text that is neither.
    pub fn parse<S: AsRef<str>>(
        texts: impl IntoIterator<Item = S>,
    ) -> Result<Self, InvalidNetwork> {
        let networks = texts.into_iter().map(|text| parse_network(text.as_ref()));
        networks.collect::<Result<_, _>>().map(Self)
    }

    /// Whether the address is in one of them. An IPv4 address in its IPv6-mapped form counts as itself.
    pub fn contain(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Text that is no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a network such as \"10.0.0.0/8\" or an address")]
pub struct InvalidNetwork(String);

fn parse_network(text: &str) -> Result<IpNet, InvalidNetwork> {
    let network = IpNet::from_str(text).or_else(|_| IpAddr::from_str(text).map(IpNet::from));
    match network {
        // `::ffff:10.0.0.0/104` would never match, because addresses are compared in their IPv4 form.
        Ok(network) if network.addr() == network.addr().to_canonical() => Ok(network.trunc()),
        _ => Err(InvalidNetwork(text.chars().take(60).collect())),
    }
}

impl<'de> Deserialize<'de> for Networks {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        Self::parse(texts).map_err(D::Error::custom)
    }
}

/// The client as the server may believe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Its address; IPv4 in its own form.
    pub address: IpAddr,
    /// What it speaks, if a trusted proxy says so: `true` for TLS.
    pub secure: Option<bool>,
    /// The host it asked for, if a trusted proxy says so. Name or address and optional port, nothing else.
    pub host: Option<String>,
}

/// A trusted proxy sent a header that does not tell the client. Answer 400: the proxy's own address would be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the header of a trusted proxy does not name the client")]
pub struct Untraceable;

/// The other end as one hop tells it.
struct Hop<'a> {
    address: IpAddr,
    proto: Option<&'a str>,
    host: Option<&'a str>,
}

/// Reads the hops of a header, nearest first.
type ReadHops = fn(&str) -> Option<Vec<Hop<'_>>>;

impl ProxyConfig {
    /// Finds the client of a request that came over a connection from `peer`.
    ///
    /// Without a trusted peer, or without the header, that is the peer itself.
    ///
    /// # Errors
    /// When a trusted proxy sent a header that cannot be read, or that is ambiguous.
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> Result<Client, Untraceable> {
        let direct = Client {
            address: peer.to_canonical(),
            secure: None,
            host: None,
        };
        if self.source == Source::None || !self.trusted.contain(peer) {
            return Ok(direct);
        }
        let (name, hops): (_, ReadHops) = match self.source {
            Source::None => return Ok(direct),
            Source::XForwardedFor => (X_FORWARDED_FOR, x_forwarded_for),
            Source::XRealIp => (X_REAL_IP, x_real_ip),
            Source::Forwarded => (http::header::FORWARDED, forwarded),
        };
        let Some(text) = joined(headers, &name)? else {
            return Ok(direct);
        };
        // Unreadable hops left of the client do not matter: whoever wrote them is the client.
        let hops = hops(&text).ok_or(Untraceable)?;
        let client = hops
            .iter()
            .find(|hop| !self.trusted.contain(hop.address))
            // Everybody is a proxy of ours, so the first of them asked.
            .or(hops.last())
            .ok_or(Untraceable)?;
        let (proto, host) = if self.source == Source::Forwarded {
            (
                client.proto.map(str::to_owned),
                client.host.map(str::to_owned),
            )
        } else {
            (
                single(headers, &X_FORWARDED_PROTO),
                single(headers, &X_FORWARDED_HOST),
            )
        };
        Ok(Client {
            address: client.address,
            secure: proto.as_deref().and_then(is_secure),
            host: host.filter(|host| is_host(host)),
        })
    }
}

/// All lines of a header as one list (RFC 9110, section 5.3).
fn joined(headers: &HeaderMap, name: &HeaderName) -> Result<Option<String>, Untraceable> {
    let mut joined: Option<String> = None;
    for value in headers.get_all(name) {
        let value = value.to_str().map_err(|_| Untraceable)?;
        let text = joined.get_or_insert_default();
        if !text.is_empty() {
            text.push(',');
        }
        if text.len() + value.len() > MAX_BYTES {
            return Err(Untraceable);
        }
        text.push_str(value);
    }
    Ok(joined)
}

/// The value of a header that is there once and is no list.
fn single(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let mut values = headers.get_all(name).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return None;
    };
    let value = value.to_str().ok()?.trim();
    (!value.contains(',')).then(|| value.to_owned())
}

fn is_secure(proto: &str) -> Option<bool> {
    let is = |name: &str| proto.eq_ignore_ascii_case(name);
    if is("https") || is("wss") {
        Some(true)
    } else if is("http") || is("ws") {
        Some(false)
    } else {
        None
    }
}

/// A name or address with an optional port: nothing that could become part of a URL's other parts or of a log line.
fn is_host(host: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
    !host.is_empty() && host.len() <= 255 && host.bytes().all(allowed)
}

/// The readable hops, nearest first. Stops at the first that is none; absent if that is the very first.
fn nearest_first<'a>(
    hops: impl DoubleEndedIterator<Item = Option<Hop<'a>>>,
) -> Option<Vec<Hop<'a>>> {
    let hops: Vec<_> = hops.rev().take(MAX_HOPS).map_while(|hop| hop).collect();
    (!hops.is_empty()).then_some(hops)
}

fn x_forwarded_for(text: &str) -> Option<Vec<Hop<'_>>> {
    nearest_first(text.split(',').map(|hop| {
        Some(Hop {
            address: node(hop.trim())?,
            proto: None,
            host: None,
        })
    }))
}

fn x_real_ip(text: &str) -> Option<Vec<Hop<'_>>> {
    // Two lines, or a list, mean that somebody else added one.
    (!text.contains(',')).then(|| x_forwarded_for(text))?
}

/// An address, with or without a port: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:80`.
fn node(text: &str) -> Option<IpAddr> {
    let address = if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        if !port.is_empty() && !is_port(port.strip_prefix(':')?) {
            return None;
        }
        IpAddr::V6(address.parse().ok()?)
    } else if let Ok(address) = text.parse() {
        address
    } else {
        let (address, port) = text.split_once(':')?;
        IpAddr::V4(address.parse().ok().filter(|_| is_port(port))?)
    };
    Some(address.to_canonical())
}

/// A port, or an obfuscated one (RFC 7239, section 6.2).
fn is_port(text: &str) -> bool {
    let digits =
        !text.is_empty() && text.len() <= 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    digits
        || text
            .strip_prefix('_')
            .is_some_and(|name| !name.is_empty() && name.bytes().all(is_token))
}

fn forwarded(text: &str) -> Option<Vec<Hop<'_>>> {
    // An element may contain commas in quotes, so elements are found from the left. A quote that does not end could
    // swallow what the proxy wrote, so it spoils the whole header.
    let elements = split_unquoted(text, b',')?;
    nearest_first(elements.into_iter().map(element))
}

/// One element of `Forwarded`: `for=…;proto=…;host=…;by=…`, each at most once.
fn element(text: &str) -> Option<Hop<'_>> {
    let (mut address, mut proto, mut host) = (None, None, None);
    for pair in split_unquoted(text, b';')? {
        let (name, value) = pair.trim().split_once('=')?;
        if !name.bytes().all(is_token) || name.is_empty() {
            return None;
        }
        let value = value_of(value)?;
        let slot = match name.to_ascii_lowercase().as_str() {
            "for" => &mut address,
            "proto" => &mut proto,
            "host" => &mut host,
            _ => continue,
        };
        if slot.replace(value).is_some() {
            return None;
        }
    }
    Some(Hop {
        address: node(address?)?,
        proto,
        host,
    })
}

/// A token or the content of a quoted string. What these parameters hold never needs an escape.
fn value_of(text: &str) -> Option<&str> {
    match text.strip_prefix('"') {
        Some(rest) => rest
            .strip_suffix('"')
            .filter(|inner| !inner.contains(['"', '\\'])),
        // Proxies in use write `for=192.0.2.1:80` without the quotes that RFC 7239 asks for.
        None => Some(text).filter(|text| {
            !text.is_empty()
                && text
                    .bytes()
                    .all(|byte| is_token(byte) || b":[]".contains(&byte))
        }),
    }
}

/// Splits outside of quoted strings. Absent if a quoted string does not end.
fn split_unquoted(text: &str, separator: u8) -> Option<Vec<&str>> {
    let (mut parts, mut start, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if byte == separator && !quoted => {
                parts.push(text.get(start..at)?);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(text.get(start..)?);
    (!quoted).then_some(parts)
}

/// RFC 9110, section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
