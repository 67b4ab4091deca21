//! What an operator may tune about connections.

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    time::Duration,
};

use llmrtc_core::{duration, redact::Secret};
use serde::Deserialize;
use validator::{Validate, ValidationError};

/// How peers reach this process.
#[derive(Clone, Debug, PartialEq, Deserialize, Validate)]
#[serde(default, deny_unknown_fields)]
#[validate(schema(function = "peer_is_consistent"))]
pub struct PeerConfig {
    /// Local addresses to receive media on. Empty: every interface address that a peer could reach, and loopback
    /// where the server itself listens on loopback.
    #[validate(length(max = 16))]
    pub bind_addresses: Vec<IpAddr>,
    /// Addresses to tell peers instead of the local ones: the public side of a one-to-one NAT (cloud instances,
    /// containers with mapped ports). Ports must map one to one as well.
    #[validate(length(max = 16))]
    pub advertised_addresses: Vec<IpAddr>,
    /// First and last UDP port to use. Absent: the operating system chooses. Each peer takes one port, so this also
    /// bounds the number of calls; twice the calls expected keeps the search short.
    pub udp_port_range: Option<(u16, u16)>,
    /// STUN and TURN servers for this server's own candidates. Only needed behind a NAT whose public address is not
    /// known, since every one of them delays the first answer by up to `gather_timeout`.
    #[validate(nested)]
    pub ice_servers: Vec<IceServer>,
    /// How long the first answer waits for `ice_servers`, at most 3 s. Without servers nothing is waited for.
    #[serde(with = "duration")]
    pub gather_timeout: Duration,
    /// Largest data channel message taken from a client, and the bound of its reassembly. Browsers cap their messages
    /// at 256 KiB, and the stack can do no more.
    #[validate(range(min = 65_536, max = 262_144))]
    pub max_message_bytes: u32,
    /// Most bytes waiting to be sent on a data channel; beyond, sending fails and the session decides.
    #[validate(range(min = 262_144, max = 67_108_864))]
    pub send_buffer_bytes: usize,
    /// How long a peer may be unreachable before it is given up, 5 s–5 min. Browsers restart ICE well within 30 s.
    #[serde(with = "duration")]
    pub ice_disconnect_timeout: Duration,
    /// Whether private addresses that a client names are probed. Off suits servers on the public Internet: nothing
    /// is lost, because clients' own probes reveal the address they come from.
    pub private_candidates: bool,
}

impl Default for PeerConfig {
    fn default() -> Self {
        Self {
            bind_addresses: Vec::new(),
            advertised_addresses: Vec::new(),
            udp_port_range: None,
            ice_servers: Vec::new(),
            // A STUN server answers in one round trip; one that needs longer is not worth a silent client.
            gather_timeout: Duration::from_millis(500),
            max_message_bytes: 262_144,
            // Several answers' worth of text and `tts-chunk` audio.
            send_buffer_bytes: 4 * 1024 * 1024,
            ice_disconnect_timeout: Duration::from_secs(30),
            // Half of all installations are on a LAN; a probe there costs a hundred bytes.
            private_candidates: true,
        }
    }
}

/// One STUN or TURN server.
#[derive(Clone, Debug, Default, Deserialize, Validate)]
#[serde(default, deny_unknown_fields)]
#[validate(schema(function = "server_is_consistent"))]
pub struct IceServer {
    /// `stun:host[:port]` or `turn:host[:port][?transport=udp]`.
    pub urls: Vec<String>,
    /// TURN user name.
    pub username: String,
    /// TURN credential.
    pub credential: Option<Secret>,
}

impl PartialEq for IceServer {
    fn eq(&self, other: &Self) -> bool {
        let secret = |server: &Self| server.credential.as_ref().map(|s| s.expose().to_owned());
        self.urls == other.urls && self.username == other.username && secret(self) == secret(other)
    }
}

fn problem(message: &'static str) -> Result<(), ValidationError> {
    Err(ValidationError::new("inconsistent").with_message(message.into()))
}

fn peer_is_consistent(peer: &PeerConfig) -> Result<(), ValidationError> {
    if peer.bind_addresses.iter().any(IpAddr::is_multicast) {
        return problem("bind_addresses must not contain multicast addresses");
    }
    if peer
        .advertised_addresses
        .iter()
        .any(|address| address.is_multicast() || address.is_unspecified())
    {
        return problem("advertised_addresses must be addresses that clients can reach");
    }
    if peer
        .udp_port_range
        .is_some_and(|(first, last)| first < 1_024 || first > last)
    {
        return problem("udp_port_range must be [first, last] with 1024 <= first <= last");
    }
    if peer.ice_servers.len() > 8 {
        return problem("ice_servers must not be more than 8");
    }
    if peer.gather_timeout > Duration::from_secs(3) {
        return problem("gather_timeout must not exceed 3s");
    }
    if !(Duration::from_secs(5)..=Duration::from_secs(300)).contains(&peer.ice_disconnect_timeout) {
        return problem("ice_disconnect_timeout must be between 5s and 5m");
    }
    Ok(())
}

fn server_is_consistent(server: &IceServer) -> Result<(), ValidationError> {
    if server.urls.is_empty() {
        return problem("urls must not be empty");
    }
    for url in &server.urls {
        let (scheme, rest) = url.split_once(':').unwrap_or_default();
        match scheme {
            "stun" if !rest.is_empty() => {}
            "turn" if !rest.is_empty() => {
                if server.username.is_empty()
                    || server.credential.as_ref().is_none_or(Secret::is_blank)
                {
                    return problem("a turn: server needs username and credential");
                }
            }
            _ => return problem("urls must start with stun: or turn:"),
        }
    }
    Ok(())
}

/// Most sockets per peer: each costs a descriptor and multiplies connectivity checks.
const MAX_SOCKETS: usize = 8;

impl PeerConfig {
    /// The addresses to bind for a new peer, at the moment of asking: interfaces come and go.
    pub(crate) fn local_addresses(&self, listen: IpAddr) -> Vec<IpAddr> {
        let wildcard: [IpAddr; 2] = [
            std::net::Ipv4Addr::UNSPECIFIED.into(),
            std::net::Ipv6Addr::UNSPECIFIED.into(),
        ];
        let configured: &[IpAddr] = if self.bind_addresses.is_empty() {
            &wildcard
        } else {
            &self.bind_addresses
        };
        let mut addresses = Vec::new();
        if self.bind_addresses.is_empty() && listen.is_loopback() {
            addresses.push(listen);
        }
        for &address in configured {
            if address.is_unspecified() {
                addresses
                    .extend(interface_addresses().filter(|a| a.is_ipv4() == address.is_ipv4()));
            } else {
                addresses.push(address);
            }
        }
        let mut seen = std::collections::HashSet::new();
        addresses.retain(|address| seen.insert(*address));
        addresses.truncate(MAX_SOCKETS);
        addresses
    }

    /// The ports to try, in order, starting somewhere in the range so that peers rarely collide.
    pub(crate) fn ports(&self, start: u16) -> impl Iterator<Item = u16> + use<> {
        let (first, last) = self.udp_port_range.unwrap_or((0, 0));
        let range: RangeInclusive<u32> = 0..=u32::from(last - first);
        let width = u32::from(last - first) + 1;
        range.map(move |step| first + ((u32::from(start) + step) % width) as u16)
    }
}

/// Addresses of this machine that others can send to.
fn interface_addresses() -> impl Iterator<Item = IpAddr> {
    let interfaces = rtc::shared::ifaces::ifaces().unwrap_or_else(|error| {
        tracing::warn!(%error, "network interfaces cannot be listed");
        Vec::new()
    });
    interfaces
        .into_iter()
        .filter_map(|interface| interface.addr.as_ref().map(SocketAddr::ip))
        .filter(|address| match address {
            IpAddr::V4(v4) => {
                !(v4.is_loopback()
                    || v4.is_unspecified()
                    || v4.is_multicast()
                    || v4.is_link_local())
            }
            IpAddr::V6(v6) => {
                !(v6.is_loopback()
                    || v6.is_unspecified()
                    || v6.is_multicast()
                    || super::sdp::is_link_local(*v6))
            }
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid() {
        assert_eq!(PeerConfig::default().validate(), Ok(()));
    }

    #[test]
    fn mistakes_are_reported() {
        let turn = |credential: Option<Secret>| IceServer {
            urls: vec!["turn:turn.example.org".into()],
            username: "user".into(),
            credential,
        };
        let good = PeerConfig {
            ice_servers: vec![turn(Some(Secret::new("secret")))],
            udp_port_range: Some((50_000, 50_999)),
            ..PeerConfig::default()
        };
        assert_eq!(good.validate(), Ok(()));
        let table: Vec<(&str, PeerConfig)> = vec![
            (
                "turn without a credential",
                PeerConfig {
                    ice_servers: vec![turn(None)],
                    ..good.clone()
                },
            ),
            (
                "another scheme",
                PeerConfig {
                    ice_servers: vec![IceServer {
                        urls: vec!["https://example.org".into()],
                        ..IceServer::default()
                    }],
                    ..good.clone()
                },
            ),
            (
                "ports the wrong way round",
                PeerConfig {
                    udp_port_range: Some((50_999, 50_000)),
                    ..good.clone()
                },
            ),
            (
                "a wildcard to advertise",
                PeerConfig {
                    advertised_addresses: vec!["0.0.0.0".parse().unwrap()],
                    ..good.clone()
                },
            ),
            (
                "messages the stack cannot do",
                PeerConfig {
                    max_message_bytes: 4_194_304,
                    ..good.clone()
                },
            ),
            (
                "no time to reconnect",
                PeerConfig {
                    ice_disconnect_timeout: Duration::from_secs(1),
                    ..good.clone()
                },
            ),
        ];
        for (name, config) in table {
            assert!(config.validate().is_err(), "{name}");
        }
    }

    #[test]
    fn ports_cover_the_range_once_from_anywhere() {
        let config = PeerConfig {
            udp_port_range: Some((50_000, 50_003)),
            ..PeerConfig::default()
        };
        let ports: Vec<u16> = config.ports(65_535).collect();
        assert_eq!(ports.len(), 4);
        assert_eq!(ports[0], 50_003, "65535 is 3 modulo 4");
        assert_eq!(
            ports.into_iter().collect::<std::collections::BTreeSet<_>>(),
            (50_000..=50_003).collect()
        );
        assert_eq!(PeerConfig::default().ports(7).collect::<Vec<_>>(), [0]);
    }

    #[test]
    fn loopback_is_bound_only_where_the_server_listens_on_it() {
        let config = PeerConfig::default();
        let loopback: IpAddr = "127.0.0.1".parse().unwrap();
        assert_eq!(config.local_addresses(loopback).first(), Some(&loopback));
        assert!(
            !config
                .local_addresses("192.0.2.1".parse().unwrap())
                .contains(&loopback)
        );
        let fixed = PeerConfig {
            bind_addresses: vec!["192.0.2.7".parse().unwrap()],
            ..config
        };
        assert_eq!(
            fixed.local_addresses(loopback),
            fixed.bind_addresses,
            "what the operator says is what is bound"
        );
    }
}
