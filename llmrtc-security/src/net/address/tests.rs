//! C3, T6: tricks with the headers that tell a client's address.

use http::HeaderValue;
use proptest::prelude::*;

use super::*;

const PROXY: &str = "10.0.0.1";

fn config(source: Source) -> ProxyConfig {
    ProxyConfig {
        source,
        trusted: Networks::parse(["10.0.0.0/8", "fd00::/8", "203.0.113.7"]).unwrap(),
        proxy_protocol: false,
    }
}

fn headers(lines: &[(&str, &str)]) -> HeaderMap {
    let lines = lines.iter().map(|(name, value)| {
        let name: HeaderName = name.parse().unwrap();
        (name, HeaderValue::from_bytes(value.as_bytes()).unwrap())
    });
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(name, value);
    }
    headers
}

/// `expected` is an address, or `400`.
fn check(source: Source, peer: &str, lines: &[(&str, &str)], expected: &str) {
    let client = config(source).client(peer.parse().unwrap(), &headers(lines));
    let address = client.map_or_else(|_| "400".to_owned(), |client| client.address.to_string());
    assert_eq!(address, expected, "{source:?} from {peer}: {lines:?}");
}

#[test]
fn c3_x_forwarded_for_is_read_from_the_right() {
    for (values, expected) in [
        // What a proxy appends to nothing, and to what the client made up.
        (&["192.0.2.1"][..], "192.0.2.1"),
        (&["127.0.0.1, 192.0.2.1"], "192.0.2.1"),
        (&["10.0.0.9, 192.0.2.1"], "192.0.2.1"),
        (&["203.0.113.7, 10.9.9.9, 192.0.2.1"], "192.0.2.1"),
        (&["junk, <script>, 192.0.2.1"], "192.0.2.1"),
        (&[",,,192.0.2.1"], "192.0.2.1"),
        (&["127.0.0.1", "192.0.2.1"], "192.0.2.1"),
        (&["192.0.2.66", "127.0.0.1, 192.0.2.1"], "192.0.2.1"),
        // A chain of our own proxies.
        (&["198.51.100.1, 192.0.2.1, 10.0.0.2"], "192.0.2.1"),
        (
            &["198.51.100.1, 192.0.2.1,10.0.0.2 ,\t10.0.0.3"],
            "192.0.2.1",
        ),
        (&["192.0.2.1, 203.0.113.7"], "192.0.2.1"),
        (&["192.0.2.1, fd00::1"], "192.0.2.1"),
        (&["192.0.2.1, ::ffff:10.0.0.2"], "192.0.2.1"),
        // Everybody is ours: the first of them asked.
        (&["10.0.0.5, 10.0.0.2"], "10.0.0.5"),
        (&["junk, 10.0.0.5, 10.0.0.2"], "10.0.0.5"),
        // Forms of addresses.
        (&["192.0.2.1:5000"], "192.0.2.1"),
        (&["[2001:db8::1]:5000"], "2001:db8::1"),
        (&["[2001:db8::1]"], "2001:db8::1"),
        (&["2001:DB8::1"], "2001:db8::1"),
        (&["::ffff:192.0.2.1"], "192.0.2.1"),
        (&["[::ffff:192.0.2.1]:1"], "192.0.2.1"),
        // What no proxy would write.
        (&[""], "400"),
        (&[" "], "400"),
        (&["192.0.2.1,"], "400"),
        (&["unknown"], "400"),
        (&["192.0.2.1, unknown"], "400"),
        (&["localhost"], "400"),
        (&["192.0.2.01"], "400"),
        (&["0x7f000001"], "400"),
        (&["2130706433"], "400"),
        (&["192.0.2"], "400"),
        (&["192.0.2.1 192.0.2.2"], "400"),
        (&["192.0.2.1;192.0.2.2"], "400"),
        (&["\"192.0.2.1\""], "400"),
        (&["192.0.2.1:"], "400"),
        (&["192.0.2.1:x"], "400"),
        (&["[192.0.2.1]"], "400"),
        (&["[2001:db8::1"], "400"),
        (&["[2001:db8::1]5000"], "400"),
        (&["fe80::1%eth0"], "400"),
        (&["for=192.0.2.1"], "400"),
        (&["١٩٢.0.2.1"], "400"),
    ] {
        let lines: Vec<_> = values
            .iter()
            .map(|value| ("X-Forwarded-For", *value))
            .collect();
        check(Source::XForwardedFor, PROXY, &lines, expected);
    }
}

#[test]
fn c3_nobody_else_is_believed_and_no_other_header_is_read() {
    let lie = "198.51.100.66";
    let all = [
        ("X-Forwarded-For", lie),
        ("X-Real-IP", lie),
        (
            "Forwarded",
            "for=198.51.100.66;proto=https;host=evil.example",
        ),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "evil.example"),
        ("X-Client-IP", lie),
        ("True-Client-IP", lie),
        ("CF-Connecting-IP", lie),
        ("X-Cluster-Client-IP", lie),
        ("Client-IP", lie),
        ("Via", "1.1 198.51.100.66"),
    ];
    for source in [
        Source::None,
        Source::XForwardedFor,
        Source::XRealIp,
        Source::Forwarded,
    ] {
        for peer in [
            "192.0.2.1",
            "11.0.0.1",
            "203.0.113.8",
            "2001:db8::1",
            "127.0.0.1",
        ] {
            let client = config(source)
                .client(peer.parse().unwrap(), &headers(&all))
                .unwrap();
            let expected = Client {
                address: peer.parse().unwrap(),
                secure: None,
                host: None,
            };
            assert_eq!(client, expected, "{source:?}");
        }
    }
    check(Source::None, PROXY, &all, PROXY);
    check(Source::XForwardedFor, PROXY, &all[1..], PROXY);
    check(Source::XRealIp, PROXY, &[all[0], all[2]], PROXY);
    check(Source::Forwarded, PROXY, &all[..2], PROXY);
    check(Source::XForwardedFor, "::ffff:10.0.0.1", &all, lie);
}

#[test]
fn c3_x_real_ip_is_one_address() {
    for (values, expected) in [
        (&["192.0.2.1"][..], "192.0.2.1"),
        (&["2001:db8::1"], "2001:db8::1"),
        (&["10.1.1.1"], "10.1.1.1"),
        (&["127.0.0.1", "192.0.2.1"], "400"),
        (&["127.0.0.1, 192.0.2.1"], "400"),
        (&["192.0.2.1,"], "400"),
        (&[""], "400"),
        (&["unknown"], "400"),
    ] {
        let lines: Vec<_> = values.iter().map(|value| ("X-Real-IP", *value)).collect();
        check(Source::XRealIp, PROXY, &lines, expected);
    }
}

#[test]
fn c3_forwarded_is_read_as_rfc_7239_says() {
    for (values, expected) in [
        (&["for=192.0.2.1"][..], "192.0.2.1"),
        (&["For=192.0.2.1;Proto=http;By=203.0.113.43"], "192.0.2.1"),
        (&["for=\"192.0.2.1\""], "192.0.2.1"),
        (&["for=\"192.0.2.1:47011\""], "192.0.2.1"),
        (&["for=192.0.2.1:47011"], "192.0.2.1"),
        (&["for=\"[2001:db8::1]:4711\""], "2001:db8::1"),
        (&["for=\"[2001:db8::1]:_port\""], "2001:db8::1"),
        (
            &["for=198.51.100.1, for=192.0.2.1;by=10.0.0.1"],
            "192.0.2.1",
        ),
        (&["for=192.0.2.1, for=10.0.0.2"], "192.0.2.1"),
        (&["for=127.0.0.1", "for=192.0.2.1"], "192.0.2.1"),
        (&["for=unknown, for=192.0.2.1"], "192.0.2.1"),
        (&["junk, for=192.0.2.1"], "192.0.2.1"),
        (&["for=\"a,b;for=127.0.0.1\", for=192.0.2.1"], "192.0.2.1"),
        (&["for=192.0.2.1; secret=\"x,y\""], "192.0.2.1"),
        // A quote that does not end swallows what the proxy wrote: refused, not believed.
        (&["for=\"127.0.0.1, for=192.0.2.1"], "400"),
        (&["for=127.0.0.1;x=\"", "for=192.0.2.1"], "400"),
        (&["for=\"127.0.0.1\\\", for=192.0.2.1"], "400"),
        (&["for=127.0.0.1;for=192.0.2.1"], "400"),
        (&["for=unknown"], "400"),
        (&["for=_hidden"], "400"),
        (&["for="], "400"),
        (&["for"], "400"),
        (&["proto=https"], "400"),
        (&["for=192.0.2.1 proto=https"], "400"),
        (&["for=\"192.0.2.1\"x"], "400"),
        (&["for=[2001:db8::1"], "400"),
        (&["for =192.0.2.1"], "400"),
    ] {
        let lines: Vec<_> = values.iter().map(|value| ("Forwarded", *value)).collect();
        check(Source::Forwarded, PROXY, &lines, expected);
    }
}

#[test]
fn c3_scheme_and_host_come_from_a_trusted_proxy_only() {
    let check = |source, lines: &[(&str, &str)], secure: Option<bool>, host: Option<&str>| {
        let client = config(source)
            .client(PROXY.parse().unwrap(), &headers(lines))
            .unwrap();
        assert_eq!(
            (client.secure, client.host.as_deref()),
            (secure, host),
            "{lines:?}"
        );
    };
    let from = ("X-Forwarded-For", "192.0.2.1");
    let xff = Source::XForwardedFor;
    check(xff, &[from], None, None);
    check(
        xff,
        &[
            from,
            ("X-Forwarded-Proto", "HTTPS"),
            ("X-Forwarded-Host", "voice.example:443"),
        ],
        Some(true),
        Some("voice.example:443"),
    );
    check(
        xff,
        &[
            from,
            ("X-Forwarded-Proto", "ws"),
            ("X-Forwarded-Host", "[2001:db8::1]"),
        ],
        Some(false),
        Some("[2001:db8::1]"),
    );
    for host in [
        "evil.example, voice.example",
        "user@voice.example",
        "voice.example/path",
        "a b",
        "",
        "a\tb",
        "a\"b",
    ] {
        check(xff, &[from, ("X-Forwarded-Host", host)], None, None);
    }
    for proto in ["https, http", "gopher", "", "https\""] {
        check(xff, &[from, ("X-Forwarded-Proto", proto)], None, None);
    }
    check(
        xff,
        &[
            from,
            ("X-Forwarded-Proto", "http"),
            ("X-Forwarded-Proto", "https"),
        ],
        None,
        None,
    );
    // In `Forwarded`, the element that names the client counts, not what the client wrote to its left.
    check(
        Source::Forwarded,
        &[(
            "Forwarded",
            "for=127.0.0.1;host=evil.example;proto=http, for=192.0.2.1;host=\"voice.example\";proto=https, for=10.0.0.2;proto=http",
        )],
        Some(true),
        Some("voice.example"),
    );
}

#[test]
fn c3_long_headers_end_somewhere() {
    let many = vec!["10.0.0.9"; 400].join(",");
    check(
        Source::XForwardedFor,
        PROXY,
        &[("X-Forwarded-For", &many)],
        "10.0.0.9",
    );
    let longer = "1".repeat(MAX_BYTES + 1);
    check(
        Source::XForwardedFor,
        PROXY,
        &[("X-Forwarded-For", &longer)],
        "400",
    );
}

#[test]
fn networks_are_prefixes_or_addresses() {
    let parse = |text: &str| serde_json::from_value::<Networks>(serde_json::json!([text]));
    let networks = parse("10.1.2.3/8").unwrap();
    assert!(networks.contain("10.200.0.1".parse().unwrap()));
    assert!(networks.contain("::ffff:10.200.0.1".parse().unwrap()));
    assert!(!networks.contain("::10.200.0.1".parse().unwrap()));
    assert!(Networks::loopback().contain("127.8.9.10".parse().unwrap()));
    assert!(Networks::loopback().contain("::1".parse().unwrap()));
    assert!(Networks::default().is_empty());
    for wrong in [
        "",
        "10.0.0.0/33",
        "10.0.0.0/-1",
        "all",
        "::ffff:10.0.0.0/104",
        "10.0.0.*",
    ] {
        assert!(parse(wrong).is_err(), "{wrong}");
    }
}

proptest! {
    #[test]
    fn whatever_a_client_sends_the_address_is_what_our_proxy_saw(
        forged in prop::collection::vec("[ -~]{0,40}", 0..5),
        source in prop::sample::select(vec![Source::XForwardedFor, Source::Forwarded]),
    ) {
        let (name, seen) = match source {
            Source::Forwarded => ("Forwarded", "for=192.0.2.1"),
            _ => ("X-Forwarded-For", "192.0.2.1"),
        };
        let mut lines: Vec<_> = forged.iter().map(|value| (name, value.trim())).collect();
        lines.push((name, seen));
        if let Ok(client) = config(source).client(PROXY.parse().unwrap(), &headers(&lines)) {
            prop_assert_eq!(client.address.to_string(), "192.0.2.1");
        } else {
            // Only quotes may swallow what the proxy wrote, and then nothing is believed.
            prop_assert!(source == Source::Forwarded && forged.iter().any(|value| value.contains('"')));
        }
    }
}
