//! What has to be fetched, in words that a person can consent to.

use std::fmt::Write as _;

use super::{Package, Size, Store};

/// Packages that are wanted and not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What can be fetched.
    pub packages: Vec<&'static Package>,
    /// What is of no use on this platform.
    pub unsupported: Vec<&'static Package>,
}

/// Those of `packages` that `store` has not.
pub fn missing(store: &Store, packages: &[&'static Package]) -> Plan {
    let (packages, unsupported) = packages
        .iter()
        .filter(|package| !store.status(package).is_usable())
        .partition(|package| package.is_supported());
    Plan {
        packages,
        unsupported,
    }
}

impl Plan {
    /// A plan to fetch `packages`, whether they are there or not.
    pub fn of(packages: &[&'static Package]) -> Self {
        let (packages, unsupported) = packages.iter().partition(|package| package.is_supported());
        Self {
            packages,
            unsupported,
        }
    }

    /// Whether there is nothing to fetch.
    pub fn is_empty(&self) -> bool {
        self.packages.is_empty()
    }

    /// How much will be downloaded. An archive that several packages are part of counts once.
    pub fn download_bytes(&self) -> u64 {
        let mut seen = Vec::new();
        for package in &self.packages {
            if !seen.contains(&package.wheel) {
                seen.push(package.wheel);
            }
        }
        seen.iter().map(|wheel| wheel.download_bytes).sum()
    }

    /// How much will stay on disk.
    pub fn installed_bytes(&self) -> u64 {
        self.packages
            .iter()
            .map(|package| package.installed_bytes())
            .sum()
    }

    /// A line per package: what it is, from where, how large, under which licence. Ends with a line break.
    pub fn describe(&self) -> String {
        let rows: Vec<[String; 4]> = self
            .packages
            .iter()
            .map(|package| {
                [
                    package.name.to_owned(),
                    format!("{} {}", package.wheel.distribution, package.wheel.version),
                    package.licence.name.to_owned(),
                    Size(package.installed_bytes()).to_string(),
                ]
            })
            .collect();
        let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
        let [name, from, licence, size] = [0, 1, 2, 3].map(width);
        let mut text = String::new();
        for (package, row) in self.packages.iter().zip(&rows) {
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "  {:<name$}  {:<from$}  {:<licence$}  {:>size$}  {}",
                row[0], row[1], row[2], row[3], package.purpose,
            );
        }
        text
    }

    /// What a person is asked before anything is downloaded, up to the question mark.
    pub fn consent(&self, store: &Store) -> String {
        let mut text = format!(
            "These models and libraries would be downloaded with this machine's pip, checked, and kept in {}:\n{}",
            store.dir().display(),
            self.describe()
        );
        let _ = write!(
            text,
            "{} to download, {} on disk. Fetch them?",
            Size(self.download_bytes()),
            Size(self.installed_bytes())
        );
        text
    }
}
