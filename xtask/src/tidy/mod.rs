//! `cargo xtask tidy`: the house rules that a compiler cannot check, as code and as a test.

pub(crate) mod changelog;
mod dependencies;
mod keys;
mod manifests;
mod protocol;
mod text;

use std::fmt;

use anyhow::{Context, bail};
use xshell::{Shell, cmd};

use crate::util::{self, Metadata};

/// Options of `cargo xtask tidy`.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Options {
    /// Record that `docs/protocol.md` describes the protocol source as it is now.
    #[arg(long)]
    bless: bool,
}

/// What the rules look at: every text file that git tracks or would track, and the workspace's manifests.
#[derive(Debug)]
struct Repository {
    files: Vec<TextFile>,
    metadata: Metadata,
}

/// One file.
#[derive(Debug)]
struct TextFile {
    /// From the repository's root, with `/`.
    path: String,
    text: String,
}

/// What a rule found.
#[derive(Debug, PartialEq)]
struct Finding {
    weight: Weight,
    /// `path` or `path:line`.
    place: String,
    message: String,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Weight {
    /// Worth a thought; the check passes.
    Advice,
    /// The check fails.
    Fault,
}

impl Finding {
    fn fault(place: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            weight: Weight::Fault,
            place: place.into(),
            message: message.into(),
        }
    }

    fn advice(place: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            weight: Weight::Advice,
            ..Self::fault(place, message)
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let weight = match self.weight {
            Weight::Advice => "advice",
            Weight::Fault => "fault",
        };
        write!(f, "{weight}: {}: {}", self.place, self.message)
    }
}

impl Repository {
    fn read(sh: &Shell) -> anyhow::Result<Self> {
        // Untracked files count, or a new file would pass here and fail after its commit.
        let listing = cmd!(sh, "git ls-files -z --cached --others --exclude-standard")
            .quiet()
            .read()
            .context("listing the files with git")?;
        let root = util::root();
        let mut files = Vec::new();
        for path in listing.split('\0').filter(|path| !path.is_empty()) {
            // Deleted but not yet committed files are listed too; binary files are not text.
            let Ok(bytes) = std::fs::read(root.join(path)) else {
                continue;
            };
            let Ok(text) = String::from_utf8(bytes) else {
                continue;
            };
            files.push(TextFile {
                path: path.to_owned(),
                text,
            });
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        files.dedup_by(|a, b| a.path == b.path);
        Ok(Self {
            files,
            metadata: util::metadata(sh)?,
        })
    }

    fn file(&self, path: &str) -> Option<&TextFile> {
        self.files.iter().find(|file| file.path == path)
    }

    fn check(&self) -> Vec<Finding> {
        let mut findings = dependencies::check(&self.metadata);
        findings.extend(manifests::check(self));
        findings.extend(self.files.iter().flat_map(text::check));
        findings.extend(self.files.iter().flat_map(keys::check));
        findings.extend(changelog::check(&self.files));
        findings.extend(protocol::check(self));
        findings
    }
}

/// Checks the repository and prints what it found.
pub(crate) fn run(sh: &Shell, options: &Options) -> anyhow::Result<()> {
    if options.bless {
        protocol::bless(&Repository::read(sh)?, &util::root())?;
    }
    let findings = Repository::read(sh)?.check();
    for finding in &findings {
        println!("{finding}");
    }
    let faults = findings
        .iter()
        .filter(|finding| finding.weight == Weight::Fault)
        .count();
    if faults > 0 {
        bail!("the repository is not tidy: {faults} faults");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So that `cargo test` alone also guards the house rules.
    #[test]
    fn the_repository_is_tidy() {
        let sh = util::shell().unwrap();
        let faults: Vec<String> = Repository::read(&sh)
            .unwrap()
            .check()
            .iter()
            .filter(|finding| finding.weight == Weight::Fault)
            .map(Finding::to_string)
            .collect();
        assert!(faults.is_empty(), "{}", faults.join("\n"));
    }
}
