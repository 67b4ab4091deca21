//! The direction of dependencies. Siblings never import each other: a shared type moves down to core, and the server
//! introduces two crates through a core trait. Each foreign crate that would tie us down has one owner.

use super::Finding;
use crate::util::{Dependency, Metadata};

/// Which of our crates a crate may use.
const OURS: &[(&str, &[&str])] = &[
    ("llmrtc-core", &[]),
    ("llmrtc-providers", &["llmrtc-core"]),
    ("llmrtc-media", &["llmrtc-core"]),
    ("llmrtc-security", &["llmrtc-core"]),
    ("llmrtc-signal", &["llmrtc-core"]),
    (
        "llmrtc-server",
        &[
            "llmrtc-core",
            "llmrtc-providers",
            "llmrtc-media",
            "llmrtc-security",
            "llmrtc-signal",
        ],
    ),
    ("xtask", &[]),
];

/// A foreign crate and who may name it. A trailing `*` matches every name that begins like that.
struct Gate {
    name: &'static str,
    owners: &'static [&'static str],
    /// Who else may name it in tests.
    in_tests: &'static [&'static str],
}

const fn gate(name: &'static str, owners: &'static [&'static str]) -> Gate {
    Gate {
        name,
        owners,
        in_tests: &[],
    }
}

const GATES: &[Gate] = &[
    // The server's tests are clients of the server.
    Gate {
        name: "reqwest",
        // Vendors, and the services that keep keys.
        owners: &["llmrtc-providers", "llmrtc-security"],
        in_tests: &["llmrtc-server"],
    },
    gate("aws-*", &["llmrtc-providers"]),
    gate("webrtc*", &["llmrtc-media"]),
    gate("rtc*", &["llmrtc-media"]),
    gate("earshot", &["llmrtc-media"]),
    gate("ropus", &["llmrtc-media"]),
    gate("opus*", &["llmrtc-media"]),
    gate("symphonia*", &["llmrtc-media"]),
    gate("rubato", &["llmrtc-media"]),
    // One audited implementation of cryptography, in one crate of ours; it also compares the hashes of models.
    gate("aws-lc-rs", &["llmrtc-security", "llmrtc-providers"]),
    gate("jsonwebtoken", &["llmrtc-security"]),
    gate("redis", &["llmrtc-security"]),
    gate("sqlx*", &["llmrtc-security"]),
    gate("rusqlite", &["llmrtc-security"]),
    Gate {
        name: "tokio-tungstenite",
        owners: &["llmrtc-signal"],
        in_tests: &["llmrtc-server"],
    },
    Gate {
        name: "axum*",
        owners: &["llmrtc-signal", "llmrtc-server"],
        // Stands in for identity providers and secret managers.
        in_tests: &["llmrtc-security"],
    },
    gate("tower-http", &["llmrtc-server"]),
    gate("clap*", &["llmrtc-server", "xtask"]),
    gate("indicatif", &["llmrtc-server"]),
    gate("opentelemetry*", &["llmrtc-server"]),
    gate("tracing-opentelemetry", &["llmrtc-server"]),
    gate("toml*", &["llmrtc-server", "llmrtc-providers"]),
    gate("xshell", &["xtask"]),
];

/// Runtime features that would let core open sockets, files or processes.
const CORE_MAY_NOT_SWITCH_ON: &[&str] = &["full", "fs", "net", "process", "signal"];

pub(super) fn check(metadata: &Metadata) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in &metadata.packages {
        let place = format!("{}/Cargo.toml", package.name);
        let Some((_, allowed)) = OURS.iter().find(|(name, _)| *name == package.name) else {
            let message =
                "this crate is missing in the direction table of xtask/src/tidy/dependencies.rs";
            findings.push(Finding::fault(place, message));
            continue;
        };
        for dependency in &package.dependencies {
            if let Some(message) = fault(&package.name, allowed, dependency) {
                findings.push(Finding::fault(place.as_str(), message));
            }
        }
    }
    findings
}

fn fault(package: &str, allowed: &[&str], dependency: &Dependency) -> Option<String> {
    let name = dependency.name.as_str();
    if OURS.iter().any(|(ours, _)| *ours == name) {
        // A crate names itself to switch on its `testing` feature in its own tests.
        let fine = allowed.contains(&name) || name == package;
        return (!fine).then(|| {
            format!("{package} may not use {name}; move what they share down to llmrtc-core")
        });
    }
    let in_tests = dependency.kind.as_deref() == Some("dev");
    if let Some(gate) = gate_of(name) {
        let fine = gate.owners.contains(&package) || in_tests && gate.in_tests.contains(&package);
        return (!fine).then(|| {
            format!(
                "{package} may not name {name}; only {} may",
                gate.owners.join(", ")
            )
        });
    }
    if package == "llmrtc-core" && name == "tokio" && !in_tests {
        let feature = dependency
            .features
            .iter()
            .find(|f| CORE_MAY_NOT_SWITCH_ON.contains(&f.as_str()))?;
        return Some(format!(
            "llmrtc-core does no I/O and may not switch on tokio's `{feature}`"
        ));
    }
    None
}

/// The gate with the longest name that matches, so that `aws-lc-rs` is not taken for a vendor's SDK.
fn gate_of(name: &str) -> Option<&'static Gate> {
    let matches = |gate: &&Gate| match gate.name.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == gate.name,
    };
    GATES
        .iter()
        .filter(matches)
        .max_by_key(|gate| gate.name.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(
        package: &str,
        dependency: &str,
        kind: Option<&str>,
        features: &[&str],
    ) -> Option<String> {
        let (_, allowed) = OURS.iter().find(|(name, _)| *name == package).unwrap();
        let dependency = Dependency {
            name: dependency.into(),
            kind: kind.map(Into::into),
            features: features.iter().map(|&feature| feature.into()).collect(),
        };
        fault(package, allowed, &dependency)
    }

    #[test]
    fn siblings_may_not_use_each_other() {
        assert!(check("llmrtc-signal", "llmrtc-media", None, &[]).is_some());
        assert!(check("llmrtc-signal", "llmrtc-media", Some("dev"), &[]).is_some());
        assert!(check("llmrtc-core", "llmrtc-providers", None, &[]).is_some());
        assert_eq!(check("llmrtc-signal", "llmrtc-core", None, &[]), None);
        assert_eq!(check("llmrtc-server", "llmrtc-media", None, &[]), None);
        assert_eq!(check("llmrtc-core", "llmrtc-core", Some("dev"), &[]), None);
    }

    #[test]
    fn a_gatekept_crate_has_one_owner() {
        assert!(check("llmrtc-server", "webrtc", None, &[]).is_some());
        assert_eq!(check("llmrtc-media", "webrtc", None, &[]), None);
        assert!(check("llmrtc-media", "aws-lc-rs", None, &[]).is_some());
        assert_eq!(check("llmrtc-providers", "aws-sigv4", None, &[]), None);
        assert_eq!(check("llmrtc-security", "aws-lc-rs", None, &[]), None);
    }

    #[test]
    fn a_test_only_owner_owns_in_tests_only() {
        assert!(check("llmrtc-server", "reqwest", None, &[]).is_some());
        assert_eq!(check("llmrtc-server", "reqwest", Some("dev"), &[]), None);
    }

    #[test]
    fn core_opens_no_sockets() {
        assert!(check("llmrtc-core", "tokio", None, &["rt", "net"]).is_some());
        assert_eq!(check("llmrtc-core", "tokio", None, &["rt", "time"]), None);
    }
}
