//! H4, T17: the documented coturn, run, with credentials as the server issues them.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::Stdio,
    time::{Duration, SystemTime},
};

use llmrtc_core::redact::Secret;
use llmrtc_security::{
    net::{
        public::is_public,
        relay::{Relay, RelayConfig, RelayCredential},
    },
    testing::free_port,
};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::{
    lines, read, replace,
    stun::{Client, LIFETIME},
};

const SECRET: &str = "5a0f8f2f3c0e4b7a9d6c1e2f3a4b5c6d";
const UNAUTHORIZED: u16 = 401;
const FORBIDDEN: u16 = 403;

/// First and last addresses that the file denies to peers.
fn denied() -> Vec<(IpAddr, IpAddr)> {
    let text = read("turnserver.conf");
    let ranges = lines(&text).filter_map(|line| line.strip_prefix("denied-peer-ip="));
    ranges
        .map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            (first.parse().unwrap(), last.parse().unwrap())
        })
        .collect()
}

/// Addresses on both sides of both ends of every range, and some from everywhere.
fn probes() -> Vec<IpAddr> {
    let mut probes = Vec::new();
    for (first, last) in denied() {
        match (first, last) {
            (IpAddr::V4(first), IpAddr::V4(last)) => {
                let (first, last) = (first.to_bits(), last.to_bits());
                let all = [first.wrapping_sub(1), first, last, last.wrapping_add(1)];
                probes.extend(all.map(|bits| IpAddr::from(Ipv4Addr::from_bits(bits))));
            }
            (IpAddr::V6(first), IpAddr::V6(last)) => {
                let (first, last) = (first.to_bits(), last.to_bits());
                let all = [first.wrapping_sub(1), first, last, last.wrapping_add(1)];
                probes.extend(all.map(|bits| IpAddr::from(Ipv6Addr::from_bits(bits))));
            }
            mixed => panic!("{mixed:?} is no range"),
        }
    }
    let blocks = (0..=255).map(|block| IpAddr::from([block, 7, 7, 7]));
    let segments = (0..=255_u16).map(|block| IpAddr::from([block << 8 | 1, 7, 7, 7, 7, 7, 7, 7]));
    probes.extend(blocks.chain(segments));
    probes
}

#[test]
fn h4_the_relay_denies_exactly_what_is_not_public() {
    let denied = denied();
    for address in probes() {
        // The unspecified address coturn denies by itself, as the test below shows.
        let is_denied = address.is_unspecified()
            || denied
                .iter()
                .any(|(first, last)| (first..=last).contains(&&address));
        assert_eq!(is_denied, !is_public(address), "{address}");
    }
}

#[test]
fn h4_the_relay_has_no_accounts_and_no_other_services() {
    let text = read("turnserver.conf");
    for line in [
        "use-auth-secret",
        "no-cli",
        "no-tcp-relay",
        "no-multicast-peers",
    ] {
        assert!(lines(&text).any(|told| told == line), "{line}");
    }
    for name in [
        "user",
        "no-auth",
        "allow-loopback-peers",
        "allowed-peer-ip",
        "lt-cred-mech",
    ] {
        assert!(
            !lines(&text).any(|told| told.split('=').next() == Some(name)),
            "{name}"
        );
    }
    let lifetime = lines(&text).find_map(|line| line.strip_prefix("max-allocate-lifetime="));
    assert!(
        Duration::from_secs(lifetime.unwrap().parse().unwrap())
            <= llmrtc_security::net::relay::MAX_TTL
    );
}

/// A coturn with our file.
struct Coturn {
    address: SocketAddr,
    _folder: TempDir,
    _process: Child,
}

impl Coturn {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let port = free_port();
        let mut text = read("turnserver.conf");
        replace(
            &mut text,
            "listening-port=3478",
            &format!("listening-port={port}"),
        );
        replace(&mut text, "replace-me-with-openssl-rand-hex-32", SECRET);
        replace(
            &mut text,
            "cert=/etc/letsencrypt/live/turn.example.com/fullchain.pem",
            "no-tls",
        );
        replace(
            &mut text,
            "pkey=/etc/letsencrypt/live/turn.example.com/privkey.pem",
            "no-dtls",
        );
        // Only what belongs to this machine. coturn denies loopback peers by itself; here the file has to do it.
        text += &format!(
            "\nlistening-ip=127.0.0.1\nrelay-ip=127.0.0.1\nrelay-ip=::1\nallow-loopback-peers\n\
             pidfile={}\nuserdb={}\nlog-file=stdout\nsimple-log\n",
            at("pid"),
            at("userdb")
        );
        fs::write(at("turnserver.conf"), text).unwrap();
        let log = fs::File::create(at("log")).unwrap();
        let process = Command::new("turnserver")
            .arg("-c")
            .arg(at("turnserver.conf"))
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("coturn is installed: `cargo xtask test --group deploy` installs it");
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let coturn = Self {
            address,
            _folder: folder,
            _process: process,
        };
        assert_eq!(Client::new(address, "", "").await.binding().await.error, 0);
        coturn
    }

    async fn client(&self, credential: &RelayCredential) -> Client {
        Client::new(
            self.address,
            &credential.username,
            credential.credential.expose(),
        )
        .await
    }
}

fn relay(secret: &str) -> Relay {
    let config = RelayConfig {
        urls: vec!["turn:turn.example.com".into()],
        secret: Some(Secret::new(secret)),
        ..RelayConfig::default()
    };
    Relay::new(&config).unwrap().unwrap()
}

#[tokio::test]
#[ignore = "deploy group"]
async fn h4_the_relay_takes_our_credentials_while_they_last_and_no_others() {
    let coturn = Coturn::start().await;
    let now = SystemTime::now();
    let good = relay(SECRET).issue("ann", now);
    let mut client = coturn.client(&good).await;
    let allocation = client.allocate(false).await;
    assert_eq!(allocation.error, 0, "{allocation:?}");
    let lifetime = allocation.attribute(LIFETIME).unwrap();
    assert!(u32::from_be_bytes(lifetime.try_into().unwrap()) <= 600);
    assert_eq!(client.refresh().await.error, 0);

    let hour = Duration::from_secs(3_600);
    let mut forged = relay(SECRET).issue("ann", now - hour);
    let later = good.username.split_once(':').unwrap().0;
    forged.username = format!("{later}:{}", forged.username.split_once(':').unwrap().1);
    let mut nobody = good.clone();
    nobody.credential = Secret::new("");
    for (bad, what) in [
        (relay(SECRET).issue("ann", now - hour), "one that has ended"),
        (forged, "an old one with a new date"),
        (
            relay("another secret of thirty-two characters").issue("ann", now),
            "another secret",
        ),
        (nobody, "no password"),
    ] {
        let answer = coturn.client(&bad).await.allocate(false).await;
        assert_eq!(answer.error, UNAUTHORIZED, "{what}: {answer:?}");
    }
}

#[tokio::test]
#[ignore = "deploy group"]
async fn h4_the_relay_sends_nothing_into_private_networks() {
    let coturn = Coturn::start().await;
    let credential = relay(SECRET).issue("ann", SystemTime::now());
    let (mut v4, mut v6) = (
        coturn.client(&credential).await,
        coturn.client(&credential).await,
    );
    assert_eq!(v4.allocate(false).await.error, 0);
    assert_eq!(v6.allocate(true).await.error, 0);
    let named = [
        "127.0.0.1",
        "10.0.0.1",
        "169.254.169.254",
        "192.168.1.1",
        "172.16.0.1",
        "100.100.100.200",
        "0.0.0.0",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "fd00:ec2::254",
        "fe80::1",
        "64:ff9b::7f00:1",
    ];
    let mut all: Vec<IpAddr> = named.map(|address| address.parse().unwrap()).to_vec();
    all.extend(probes());
    let mut permitted = 0;
    for (number, peer) in all.into_iter().enumerate() {
        let client = if peer.is_ipv4() { &v4 } else { &v6 };
        let answer = client.create_permission(peer).await;
        if is_public(peer) {
            assert_eq!(answer.error, 0, "{peer}");
            permitted += 1;
            continue;
        }
        assert_eq!(answer.error, FORBIDDEN, "permission for {peer}: {answer:?}");
        let channel = 0x4000 + u16::try_from(number).unwrap();
        let answer = client.bind_channel(channel, peer).await;
        assert_eq!(answer.error, FORBIDDEN, "channel to {peer}: {answer:?}");
    }
    assert!(permitted > 0, "refusing everything proves nothing");
}
