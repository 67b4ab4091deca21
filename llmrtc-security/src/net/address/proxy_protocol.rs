//! The PROXY protocol, versions 1 and 2, on bytes.
//!
//! A connection that is expected to begin with a header must begin with one: a proxy that leaves it out would lend its
//! own address to whoever it serves. Read headers only from trusted peers; anybody can write one.
//!
//! # Source
//! <https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt>

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Longest header of version 1, with its line end.
const MAX_V1: usize = 107;

/// Longest header of version 2 that is accepted: addresses and what load balancers in use add to them.
pub const MAX_HEADER: usize = 16 + 2_048;

const SIGNATURE_V1: &[u8] = b"PROXY ";
const SIGNATURE_V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// The beginning of a header. Read more; a header is never longer than [`MAX_HEADER`].
    Incomplete,
    /// A header.
    Complete {
        /// How many bytes it has. The client's own bytes begin after them.
        length: usize,
        /// The client. Absent if the proxy speaks for itself (health checks) or does not say.
        client: Option<SocketAddr>,
    },
    /// No header. Close the connection.
    Invalid,
}

/// Reads a header at the start of `bytes`.
pub fn parse(bytes: &[u8]) -> Header {
    let begins = |signature: &[u8]| {
        let common = bytes.len().min(signature.len());
        bytes[..common] == signature[..common]
    };
    let parsed = if begins(SIGNATURE_V2) {
        v2(bytes)
    } else if begins(SIGNATURE_V1) {
        v1(bytes)
    } else {
        None
    };
    parsed.unwrap_or(Header::Invalid)
}

/// `PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n`
fn v1(bytes: &[u8]) -> Option<Header> {
    let window = &bytes[..bytes.len().min(MAX_V1)];
    let Some(end) = window.windows(2).position(|pair| pair == b"\r\n") else {
        return (bytes.len() < MAX_V1).then_some(Header::Incomplete);
    };
    let line = std::str::from_utf8(&window[SIGNATURE_V1.len()..end]).ok()?;
    let fields: Vec<_> = line.split(' ').collect();
    let client = match fields[..] {
        // What follows `UNKNOWN` is to be ignored.
        ["UNKNOWN", ..] => None,
        ["TCP4", source, target, source_port, target_port] => {
            let (source, _): (Ipv4Addr, Ipv4Addr) = (source.parse().ok()?, target.parse().ok()?);
            (
                port(target_port)?,
                Some(SocketAddr::from((source, port(source_port)?))),
            )
                .1
        }
        ["TCP6", source, target, source_port, target_port] => {
            let (source, _): (Ipv6Addr, Ipv6Addr) = (source.parse().ok()?, target.parse().ok()?);
            (
                port(target_port)?,
                Some(SocketAddr::from((source, port(source_port)?))),
            )
                .1
        }
        _ => return None,
    };
    Some(Header::Complete {
        length: end + 2,
        client: client.map(canonical),
    })
}

fn port(text: &str) -> Option<u16> {
    let plain =
        text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain)
}

fn v2(bytes: &[u8]) -> Option<Header> {
    let Some((head, rest)) = bytes.split_at_checked(16) else {
        return Some(Header::Incomplete);
    };
    let (command, family) = (head[12], head[13]);
    let length = usize::from(u16::from_be_bytes([head[14], head[15]]));
    if command >> 4 != 2 || 16 + length > MAX_HEADER {
        return None;
    }
    let Some(payload) = rest.get(..length) else {
        return Some(Header::Incomplete);
    };
    let u16_at = |at: usize| {
        Some(u16::from_be_bytes([
            *payload.get(at)?,
            *payload.get(at + 1)?,
        ]))
    };
    let client = match (command & 0xf, family) {
        // LOCAL: the proxy's own connection; families and addresses are to be ignored.
        (0, _) => None,
        // PROXY over an unspecified family, or over a local socket.
        (1, 0x00 | 0x31) => None,
        (1, 0x11) => {
            let source: [u8; 4] = payload.get(..4)?.try_into().ok()?;
            payload.get(..12)?;
            Some(SocketAddr::new(IpAddr::from(source), u16_at(8)?))
        }
        (1, 0x21) => {
            let source: [u8; 16] = payload.get(..16)?.try_into().ok()?;
            payload.get(..36)?;
            Some(SocketAddr::new(IpAddr::from(source), u16_at(32)?))
        }
        // Datagrams do not come over this connection.
        _ => return None,
    };
    Some(Header::Complete {
        length: 16 + length,
        client: client.map(canonical),
    })
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod c3_proxy_protocol {
    use proptest::prelude::*;

    use super::*;

    fn v2_header(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE_V2.to_vec();
        bytes.extend([command, family]);
        bytes.extend((payload.len() as u16).to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    fn check(bytes: &[u8], expected: Option<Option<&str>>) {
        let shown = bytes.escape_ascii();
        let Some(client) = expected else {
            assert_eq!(parse(bytes), Header::Invalid, "{shown}");
            return;
        };
        let expected = Header::Complete {
            length: bytes.len(),
            client: client.map(|client| client.parse().unwrap()),
        };
        let followed = [bytes, b"GET / HTTP/1.1\r\n\r\n"].concat();
        assert_eq!(parse(&followed), expected, "{shown}");
        for end in 0..bytes.len() {
            assert_eq!(
                parse(&bytes[..end]),
                Header::Incomplete,
                "{shown} cut at {end}"
            );
        }
    }

    #[test]
    fn version_1() {
        for (line, client) in [
            (
                "PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n",
                Some("192.0.2.1:56324"),
            ),
            (
                "PROXY TCP4 255.255.255.255 255.255.255.255 65535 0\r\n",
                Some("255.255.255.255:65535"),
            ),
            (
                "PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n",
                Some("[2001:db8::1]:1"),
            ),
            (
                "PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n",
                Some("192.0.2.1:1"),
            ),
            ("PROXY UNKNOWN\r\n", None),
            ("PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n", None),
        ] {
            check(line.as_bytes(), Some(client));
        }
        for line in [
            "GET / HTTP/1.1\r\n\r\n",
            "proxy TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY  TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY TCP4 192.0.2.1  192.0.2.2 1 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 65536 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 -2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 \r\n",
            "PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
            "PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n",
            "PROXY TCP4 192.0.2 192.0.2.2 1 2\r\n",
            "PROXY TCP4 localhost 192.0.2.2 1 2\r\n",
            "PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n\r\n",
            "PROXY \r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 \u{661}\r\n",
        ] {
            check(line.as_bytes(), None);
        }
        let endless = [SIGNATURE_V1, &[b'a'; 200]].concat();
        assert_eq!(parse(&endless[..106]), Header::Incomplete);
        assert_eq!(
            parse(&endless),
            Header::Invalid,
            "a line without end is not waited for"
        );
    }

    #[test]
    fn version_2() {
        let v4 = [192, 0, 2, 1, 192, 0, 2, 2, 0xdc, 0x04, 1, 187];
        let mut v6 = [0; 36];
        v6[..16].copy_from_slice(&"2001:db8::1".parse::<Ipv6Addr>().unwrap().octets());
        v6[32..34].copy_from_slice(&7_u16.to_be_bytes());
        let mut mapped = v6;
        mapped[..16].copy_from_slice(&"::ffff:192.0.2.1".parse::<Ipv6Addr>().unwrap().octets());
        let with_tlv = [&v4[..], &[0x04, 0, 2, 0, 0]].concat();
        for (command, family, payload, client) in [
            (0x21, 0x11, &v4[..], Some("192.0.2.1:56324")),
            (0x21, 0x11, &with_tlv, Some("192.0.2.1:56324")),
            (0x21, 0x21, &v6, Some("[2001:db8::1]:7")),
            (0x21, 0x21, &mapped, Some("192.0.2.1:7")),
            (0x21, 0x31, &[0; 216], None),
            (0x21, 0x00, &[], None),
            (0x20, 0x00, &[], None),
            (0x20, 0x11, &v4, None),
            (0x20, 0xff, &[], None),
        ] {
            check(&v2_header(command, family, payload), Some(client));
        }
        for (command, family, payload) in [
            (0x11, 0x11, &v4[..]),
            (0x31, 0x11, &v4),
            (0x22, 0x11, &v4),
            (0x21, 0x12, &v4),
            (0x21, 0x41, &v4),
            (0x21, 0x11, &v4[..11]),
            (0x21, 0x21, &v6[..35]),
            (0x21, 0x11, &[0; 2_049]),
        ] {
            check(&v2_header(command, family, payload), None);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_are_waited_for_beyond_the_longest_header(
            signed in prop::option::of(prop::bool::ANY),
            bytes in prop::collection::vec(prop::num::u8::ANY, 0..3_000),
        ) {
            let signature = signed.map_or(&b""[..], |v2| if v2 { SIGNATURE_V2 } else { SIGNATURE_V1 });
            let bytes = [signature, &bytes].concat();
            match parse(&bytes) {
                Header::Incomplete => prop_assert!(bytes.len() < MAX_HEADER),
                Header::Complete { length, .. } => prop_assert!(length <= bytes.len()),
                Header::Invalid => {}
            }
        }
    }
}
