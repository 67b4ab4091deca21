//! What every member's manifest and the lock file have to say.

use super::{Finding, Repository};
use crate::util::{self, Package};

/// The only place dependencies come from; cargo writes it this way whatever mirror it was told to use.
const SOURCE: &str = "registry+https://github.com/rust-lang/crates.io-index";

pub(super) fn check(repository: &Repository) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in &repository.metadata.packages {
        findings.extend(check_package(package));
        let place = format!("{}/Cargo.toml", package.name);
        let inherits = repository
            .file(&place)
            .is_some_and(|file| file.text.contains("[lints]\nworkspace = true"));
        if !inherits {
            findings.push(Finding::fault(
                place,
                "the crate does not inherit the workspace's lints",
            ));
        }
    }
    if let Some(lock) = repository.file("Cargo.lock") {
        findings.extend(check_lock(&lock.text));
    }
    findings
}

fn check_package(package: &Package) -> Vec<Finding> {
    let place = format!("{}/Cargo.toml", package.name);
    let mut findings = Vec::new();
    if package.license.is_none() {
        findings.push(Finding::fault(
            place.as_str(),
            "the `license` field is missing",
        ));
    }
    if package.description.as_deref().is_none_or(str::is_empty) {
        findings.push(Finding::fault(
            place.as_str(),
            "the `description` field is missing",
        ));
    }
    let readme = package
        .readme
        .as_ref()
        .map(|readme| package.directory().join(readme));
    if !readme.is_some_and(|readme| readme.is_file()) {
        findings.push(Finding::fault(place.as_str(), "the crate has no README.md"));
    }
    if !package.directory().starts_with(util::root()) {
        findings.push(Finding::fault(
            place,
            "the crate lies outside the repository",
        ));
    }
    findings
}

fn check_lock(text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if let Some(source) = line.strip_prefix("source = ")
            && source.trim_matches('"') != SOURCE
        {
            let message = format!("dependencies come from crates.io, not from {source}");
            findings.push(Finding::fault(format!("Cargo.lock:{}", index + 1), message));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_file_names_one_source() {
        let good = format!("[[package]]\nname = \"a\"\nsource = \"{SOURCE}\"\n");
        assert_eq!(check_lock(&good), []);
        let bad = good + "source = \"git+https://example.org/fork\"\n";
        assert_eq!(check_lock(&bad)[0].place, "Cargo.lock:4");
    }
}
