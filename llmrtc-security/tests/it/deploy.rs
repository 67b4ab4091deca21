//! The files of `docs/deploy`: what they say about each other (C4), and what the programs that read them make of it.
//!
//! Tests that need those programs are in the deploy group: `cargo xtask test --group deploy`.

mod nginx;
mod relay;
mod stun;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::process::Command;

/// How long a program may take on a busy machine.
const LONG: Duration = Duration::from_secs(60);

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../docs/deploy")
        .join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap()
}

/// `old` replaced by `new`, which must be somewhere.
fn replace(text: &mut String, old: &str, new: &str) {
    assert!(text.contains(old), "{old:?} is missing");
    *text = text.replace(old, new);
}

/// The lines that say something, without comments behind them.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let told = text
        .lines()
        .map(|line| line.split(" #").next().unwrap_or(line).trim());
    told.filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// The value of a key in a section of `llmrtc.toml`.
fn setting(section: &str, key: &str) -> String {
    let text = read("llmrtc.toml");
    let mut at = String::new();
    let found = lines(&text).find_map(|line| {
        if let Some(header) = line.strip_prefix('[') {
            at = header.trim_matches(['[', ']']).to_owned();
        }
        let (name, value) = line.split_once('=')?;
        (at == section && name.trim() == key).then(|| value.trim().trim_matches('"').to_owned())
    });
    found.unwrap_or_else(|| panic!("llmrtc.toml has no {section}.{key}"))
}

/// What a firewall lets in: protocol, first and last port.
type Open = BTreeSet<(String, u16, u16)>;

/// `10000-20000` or `443`.
fn ports(text: &str, separator: char) -> (u16, u16) {
    let (first, last) = text.split_once(separator).unwrap_or((text, text));
    (first.trim().parse().unwrap(), last.trim().parse().unwrap())
}

fn open_in_nftables() -> Open {
    let text = read("nftables.nft");
    let mut defined = Vec::new();
    let mut open = Open::new();
    for line in lines(&text) {
        if let Some((name, value)) = line.strip_prefix("define ").and_then(|d| d.split_once('=')) {
            defined.push((format!("${}", name.trim()), value.trim().to_owned()));
        }
        for protocol in ["tcp", "udp"] {
            let Some(rule) = line.strip_prefix(&format!("{protocol} dport ")) else {
                continue;
            };
            assert!(rule.ends_with("accept"), "{line}");
            let name = rule.split(' ').next().unwrap();
            let (_, value) = defined
                .iter()
                .find(|(defined, _)| defined == name)
                .expect("a definition");
            for range in value.trim_matches(['{', '}', ' ']).split(',') {
                let (first, last) = ports(range, '-');
                open.insert((protocol.to_owned(), first, last));
            }
        }
    }
    open
}

fn open_in_ufw() -> Open {
    let text = read("ufw.sh");
    let variable = lines(&text)
        .find_map(|line| line.strip_prefix("ICE="))
        .unwrap();
    let rules = lines(&text).filter_map(|line| {
        let rule = line
            .strip_prefix("ufw allow ")
            .or_else(|| line.strip_prefix("ufw limit "))?;
        let target = rule
            .split(' ')
            .next()?
            .trim_matches('"')
            .replace("$ICE", variable);
        let (range, protocol) = target.split_once('/').expect("a rule names its protocol");
        let (first, last) = ports(range, ':');
        Some((protocol.to_owned(), first, last))
    });
    rules.collect()
}

#[test]
fn c4_the_firewalls_open_the_web_and_the_media_ports_of_the_server_and_nothing_else() {
    let range = setting("media.peer", "udp_port_range");
    let (first, last) = ports(range.trim_matches(['[', ']']), ',');
    let tcp = |port| ("tcp".to_owned(), port, port);
    let expected = Open::from([tcp(22), tcp(80), tcp(443), ("udp".to_owned(), first, last)]);
    assert_eq!(open_in_nftables(), expected);
    assert_eq!(open_in_ufw(), expected);
    assert!(
        lines(&read("nftables.nft"))
            .any(|line| line.contains("hook input") && line.ends_with("policy drop;"))
    );
    assert!(lines(&read("ufw.sh")).any(|line| line == "ufw default deny incoming"));
}

/// T30. Neither the server's own port nor the operators' can be reached from outside, by any of three reasons.
#[test]
fn c4_server_and_operators_are_on_loopback_and_behind_the_firewall() {
    let server = setting("server", "port").parse::<u16>().unwrap();
    assert_eq!(setting("server", "host"), "127.0.0.1");
    let admin = setting("admin", "bind")
        .parse::<std::net::SocketAddr>()
        .unwrap();
    assert!(admin.ip().is_loopback());
    for (_, first, last) in open_in_nftables().union(&open_in_ufw()) {
        assert!(!(*first..=*last).contains(&server) && !(*first..=*last).contains(&admin.port()));
    }
    let nginx = read("nginx.conf");
    let upstream = lines(&nginx).find_map(|line| line.strip_prefix("server ")?.strip_suffix(';'));
    assert_eq!(upstream, Some(format!("127.0.0.1:{server}").as_str()));
    assert!(!lines(&nginx).any(|line| line.contains(&admin.port().to_string())));
}

#[test]
fn c3_server_and_nginx_agree_on_who_tells_the_address() {
    assert_eq!(setting("proxy", "source"), "x-real-ip");
    assert_eq!(setting("proxy", "trusted"), r#"["127.0.0.1", "::1"]"#);
    assert_eq!(setting("server", "behind_proxy"), "true");
    let nginx = read("nginx.conf");
    assert!(lines(&nginx).any(|line| line == "proxy_set_header X-Real-IP         $remote_addr;"));
    assert!(!nginx.contains("proxy_add_x_forwarded_for"));
}

/// The values of a directive of the unit, in order.
fn directive(unit: &str, name: &str) -> Vec<String> {
    let found = lines(unit).filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    found.map(str::to_owned).collect()
}

#[test]
fn c4_the_unit_shuts_the_server_in() {
    let unit = read("llmrtc.service");
    for (name, value) in [
        ("DynamicUser", "yes"),
        ("NoNewPrivileges", "yes"),
        ("CapabilityBoundingSet", ""),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "yes"),
        ("PrivateTmp", "yes"),
        ("PrivateDevices", "yes"),
        ("MemoryDenyWriteExecute", "yes"),
        (
            "RestrictAddressFamilies",
            "AF_INET AF_INET6 AF_UNIX AF_NETLINK",
        ),
        ("RestrictNamespaces", "yes"),
        ("SystemCallArchitectures", "native"),
        ("LimitCORE", "0"),
        ("UMask", "0077"),
    ] {
        assert_eq!(directive(&unit, name), [value], "{name}");
    }
    assert_eq!(
        directive(&unit, "SystemCallFilter"),
        ["@system-service", "~@privileged @resources"]
    );
    let folder = format!("/var/lib/{}", directive(&unit, "StateDirectory")[0]);
    assert_eq!(setting("server", "data_dir"), folder);
    // Keys come as files, and no environment holds one.
    for variable in directive(&unit, "Environment") {
        let (name, value) = variable.split_once('=').unwrap();
        assert!(
            name.ends_with("_FILE") && value.starts_with("%d/"),
            "{variable}"
        );
    }
}

/// Runs a program to its end; its output if it was content.
async fn run(command: &mut Command) -> String {
    let command = command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(LONG, command.output())
        .await
        .expect("it ends");
    let output =
        output.expect("the program is installed: `cargo xtask test --group deploy` installs it");
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let told = text(&output.stdout) + &text(&output.stderr);
    assert!(output.status.success(), "{told}");
    told
}

#[tokio::test]
#[ignore = "deploy group"]
async fn c4_nftables_loads_its_file() {
    // Checking needs the kernel's answers, hence root.
    run(Command::new("/usr/sbin/nft")
        .arg("-c")
        .arg("-f")
        .arg(path("nftables.nft")))
    .await;
}

#[tokio::test]
#[ignore = "deploy group"]
async fn c4_ufw_s_file_is_a_shell_script() {
    run(Command::new("sh").arg("-n").arg(path("ufw.sh"))).await;
}

#[tokio::test]
#[ignore = "deploy group"]
async fn c4_systemd_understands_the_unit_and_finds_little_exposed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("llmrtc.service");
    let mut unit = read("llmrtc.service");
    // The only part of it that need not be on this machine.
    replace(
        &mut unit,
        "ExecStart=/usr/local/bin/llmrtc serve",
        "ExecStart=/bin/true serve",
    );
    fs::write(&file, unit).unwrap();
    let told = run(Command::new("systemd-analyze").arg("verify").arg(&file)).await;
    assert!(!told.contains("llmrtc.service:"), "{told}");
    // 0 is shut, 100 is open; an ordinary service has 96.
    let mut security = Command::new("systemd-analyze");
    run(security
        .args(["security", "--offline=yes", "--threshold=15", "--no-pager"])
        .arg(&file))
    .await;
}
