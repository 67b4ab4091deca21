//! Which addresses are on the public Internet (H5).
//!
//! Whoever makes the server connect somewhere must not reach what only the server can: itself, its network, the
//! metadata service of its cloud. `IpAddr::is_global` is not stable, and it knows no clouds; hence a table.
//!
//! IPv4 addresses in IPv6 clothes (mapped, NAT64, 6to4, Teredo) are not public, whatever they wrap: no honest name
//! resolves to them on a network where the server could not have the plain address.
//!
//! # Source
//! IANA's special-purpose registries: <https://www.iana.org/assignments/iana-ipv4-special-registry>,
//! <https://www.iana.org/assignments/iana-ipv6-special-registry>.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// First address, prefix length.
type V4 = ([u8; 4], u32);
/// First segments, prefix length.
type V6 = ([u16; 3], u32);

const NOT_PUBLIC_V4: &[V4] = &[
    // "This network", RFC 791. Linux connects to itself.
    ([0, 0, 0, 0], 8),
    // Private, RFC 1918.
    ([10, 0, 0, 0], 8),
    // Carrier-grade NAT, RFC 6598. Alibaba's metadata is 100.100.100.200.
    ([100, 64, 0, 0], 10),
    // Loopback.
    ([127, 0, 0, 0], 8),
    // Link-local, RFC 3927. Most clouds' metadata is 169.254.169.254, that of AWS's containers 169.254.170.2.
    ([169, 254, 0, 0], 16),
    // Azure's host, which answers every virtual machine at a public address.
    ([168, 63, 129, 16], 32),
    // Private, RFC 1918.
    ([172, 16, 0, 0], 12),
    // Protocol assignments, RFC 6890. Oracle's metadata is 192.0.0.192.
    ([192, 0, 0, 0], 24),
    // Documentation, RFC 5737.
    ([192, 0, 2, 0], 24),
    // Relays of 6to4, RFC 7526.
    ([192, 88, 99, 0], 24),
    // Private, RFC 1918.
    ([192, 168, 0, 0], 16),
    // Benchmarks, RFC 2544.
    ([198, 18, 0, 0], 15),
    // Documentation, RFC 5737.
    ([198, 51, 100, 0], 24),
    ([203, 0, 113, 0], 24),
    // Multicast, RFC 5771.
    ([224, 0, 0, 0], 4),
    // Reserved, RFC 1112, and broadcast.
    ([240, 0, 0, 0], 4),
];

/// The only unicast addresses that are routed between networks, RFC 4291. Outside of it are, among others, loopback,
/// mapped addresses (`::ffff:0:0/96`), NAT64 (`64:ff9b::/96`, `64:ff9b:1::/48`), segment routing (`5f00::/16`), unique
/// local (`fc00::/7`, with the metadata of AWS at `fd00:ec2::254` and of Google at `fd20:ce::254`), link-local
/// (`fe80::/10`), site-local (`fec0::/10`) and multicast (`ff00::/8`).
const GLOBAL_UNICAST: V6 = ([0x2000, 0, 0], 3);

const NOT_PUBLIC_V6: &[V6] = &[
    // Protocol assignments, RFC 2928: Teredo (2001::/32), benchmarks, ORCHID.
    ([0x2001, 0, 0], 23),
    // Documentation, RFC 3849.
    ([0x2001, 0x0db8, 0], 32),
    // 6to4, RFC 3056.
    ([0x2002, 0, 0], 16),
    // Documentation, RFC 9637.
    ([0x3fff, 0, 0], 20),
];

/// Whether anybody on the Internet could have this address, so that connecting to it reaches nothing that only this
/// machine can reach.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !NOT_PUBLIC_V4.iter().any(|range| in_v4(address, range)),
        IpAddr::V6(address) => {
            in_v6(address, &GLOBAL_UNICAST)
                && !NOT_PUBLIC_V6.iter().any(|range| in_v6(address, range))
        }
    }
}

fn in_v4(address: Ipv4Addr, (first, length): &V4) -> bool {
    let different = address.to_bits() ^ u32::from_be_bytes(*first);
    different.leading_zeros() >= *length
}

fn in_v6(address: Ipv6Addr, (first, length): &V6) -> bool {
    let [a, b, c] = *first;
    let first = Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0);
    (address.to_bits() ^ first.to_bits()).leading_zeros() >= *length
}

#[cfg(test)]
mod h5_public {
    use super::*;

    fn check(text: &str) -> bool {
        is_public(text.parse().unwrap())
    }

    #[test]
    fn reserved_ranges_are_not_public_from_end_to_end() {
        for (first, last) in [
            ("0.0.0.0", "0.255.255.255"),
            ("10.0.0.0", "10.255.255.255"),
            ("100.64.0.0", "100.127.255.255"),
            ("127.0.0.0", "127.255.255.255"),
            ("169.254.0.0", "169.254.255.255"),
            ("172.16.0.0", "172.31.255.255"),
            ("192.0.0.0", "192.0.0.255"),
            ("192.0.2.0", "192.0.2.255"),
            ("192.88.99.0", "192.88.99.255"),
            ("192.168.0.0", "192.168.255.255"),
            ("198.18.0.0", "198.19.255.255"),
            ("198.51.100.0", "198.51.100.255"),
            ("203.0.113.0", "203.0.113.255"),
            ("224.0.0.0", "239.255.255.255"),
            ("240.0.0.0", "255.255.255.255"),
            ("::", "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("2001::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("2002::", "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("4000::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ] {
            assert!(!check(first), "{first}");
            assert!(!check(last), "{last}");
        }
    }

    #[test]
    fn their_neighbours_are_public() {
        for address in [
            "1.0.0.0",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "168.63.129.15",
            "168.63.129.17",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.0.3.0",
            "192.88.98.255",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "198.51.99.255",
            "203.0.114.0",
            "223.255.255.255",
            "2000::1",
            "2001:200::",
            "2001:db7:ffff::1",
            "2001:db9::",
            "2003::",
            "2606:4700::6810:84e5",
            "3fff:1000::",
        ] {
            assert!(check(address), "{address}");
        }
    }

    #[test]
    fn services_of_clouds_and_wrapped_addresses_are_not_public() {
        for address in [
            // AWS, Google, Azure, DigitalOcean; AWS's containers; AWS's DNS; Azure's host; Alibaba; Oracle.
            "169.254.169.254",
            "169.254.170.2",
            "169.254.169.253",
            "168.63.129.16",
            "100.100.100.200",
            "192.0.0.192",
            "fd00:ec2::254",
            "fd20:ce::254",
            // 127.0.0.1, and a public address, in other clothes: mapped, compatible, NAT64, 6to4, Teredo, ISATAP.
            "::ffff:127.0.0.1",
            "::ffff:8.8.8.8",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::808:808",
            "64:ff9b:1::7f00:1",
            "2002:7f00:1::",
            "2001:0:7f00:1::",
            "fe80::5efe:7f00:1",
            "::1",
            "fe80::1",
            "fec0::1",
            "fc00::1",
            "ff02::1",
            "100::1",
            "5f00::1",
        ] {
            assert!(!check(address), "{address}");
        }
    }
}
