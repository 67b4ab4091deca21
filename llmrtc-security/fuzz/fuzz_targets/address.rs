//! No header breaks the search for the client, nor makes it a stranger's word (C3).
#![no_main]

use std::net::{IpAddr, Ipv4Addr};

use http::{HeaderMap, HeaderValue, header};
use libfuzzer_sys::fuzz_target;
use llmrtc_security::net::address::{
    Networks, ProxyConfig, Source,
    proxy_protocol::{self, Header, MAX_HEADER},
};

const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));

fuzz_target!(|data: &[u8]| {
    if let Header::Complete { length, .. } = proxy_protocol::parse(data) {
        assert!(length <= data.len() && length <= MAX_HEADER);
        assert_eq!(
            proxy_protocol::parse(&data[..length]),
            proxy_protocol::parse(data)
        );
    }
    let Ok(value) = HeaderValue::from_bytes(data) else {
        return;
    };
    let mut headers = HeaderMap::new();
    for name in [
        "x-forwarded-for",
        "x-real-ip",
        "x-forwarded-proto",
        "x-forwarded-host",
    ] {
        headers.insert(name, value.clone());
    }
    headers.insert(header::FORWARDED, value);
    for source in [
        Source::None,
        Source::XForwardedFor,
        Source::XRealIp,
        Source::Forwarded,
    ] {
        let config = ProxyConfig {
            source,
            trusted: Networks::loopback(),
            ..ProxyConfig::default()
        };
        let _ = config.client(PROXY, &headers);
        let client = config
            .client(STRANGER, &headers)
            .expect("nobody believes a stranger");
        assert_eq!(client.address, STRANGER);
        assert!(client.host.is_none() && client.secure.is_none());
    }
});
