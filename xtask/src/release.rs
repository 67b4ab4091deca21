//! `cargo xtask release`: `docs/releasing.md` as code. Dry unless `--execute`.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use xshell::{Shell, cmd};

use crate::tidy::changelog;
use crate::{ci, util};

/// Options of `cargo xtask release`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    step: Step,
}

#[derive(Debug, clap::Subcommand)]
enum Step {
    /// Set the version everywhere and fold the changelog fragments.
    Prepare {
        /// The new version, such as 0.2.0.
        version: String,
        /// Change the files instead of saying what would change.
        #[arg(long)]
        execute: bool,
    },
    /// Verify and upload every crate in dependency order, then tag.
    Publish {
        /// Upload instead of verifying only.
        #[arg(long)]
        execute: bool,
    },
}

/// Runs one step of a release.
pub(crate) fn run(sh: &Shell, options: &Options) -> anyhow::Result<()> {
    match &options.step {
        Step::Prepare { version, execute } => prepare(sh, version, *execute),
        Step::Publish { execute } => publish(sh, *execute),
    }
}

/// A file to write, or to remove when there is no text.
struct Edit {
    path: PathBuf,
    text: Option<String>,
}

fn prepare(sh: &Shell, version: &str, execute: bool) -> anyhow::Result<()> {
    let packages = util::metadata(sh)?.packages;
    let current = packages
        .first()
        .map(|package| package.version.clone())
        .context("the workspace is empty")?;
    ensure!(
        version_order(version)? > version_order(&current)?,
        "{version} does not come after the present version {current}"
    );

    let manifest = util::root().join("Cargo.toml");
    let text = sh.read_file(&manifest)?;
    let mut edits = vec![Edit {
        text: Some(bump(&text, &current, version)?),
        path: manifest,
    }];
    let date = cmd!(sh, "date --utc +%Y-%m-%d").quiet().read()?;
    for package in &packages {
        edits.extend(fold_changelog(package.directory(), version, &date)?);
    }
    for edit in &edits {
        let path = edit
            .path
            .strip_prefix(util::root())
            .unwrap_or(&edit.path)
            .display();
        println!(
            "{} {path}",
            if edit.text.is_some() {
                "write "
            } else {
                "remove"
            }
        );
    }
    if !execute {
        println!("dry run: nothing changed; --execute does it");
        return Ok(());
    }

    ensure_clean(sh)?;
    ci::ci(sh)?;
    for edit in edits {
        match edit.text {
            Some(text) => sh.write_file(&edit.path, text)?,
            None => sh.remove_path(&edit.path)?,
        }
    }
    // The lock file names our crates' versions too.
    cmd!(sh, "cargo update --workspace --offline").run()?;
    println!(
        "read the diff, commit it as `release: {version}`, then `cargo xtask release publish`"
    );
    Ok(())
}

fn publish(sh: &Shell, execute: bool) -> anyhow::Result<()> {
    let packages = util::metadata(sh)?.packages;
    let publishable: Vec<_> = packages
        .iter()
        .filter(|package| package.publish != Some(vec![]))
        .collect();
    if publishable.is_empty() {
        bail!(
            "every crate says `publish = false`; decide in Cargo.toml which ones to publish first"
        );
    }
    if !execute {
        cmd!(sh, "cargo publish --workspace --dry-run --allow-dirty").run()?;
        println!("dry run: nothing was uploaded; --execute does it");
        return Ok(());
    }
    ensure_clean(sh)?;
    let tag = format!("v{}", publishable[0].version);
    // Cargo verifies everything before it uploads anything, but the uploads are not atomic: after a failure in the middle,
    // publish the remaining crates by name with `cargo publish -p`.
    cmd!(sh, "cargo publish --workspace").run()?;
    cmd!(sh, "git tag --annotate {tag} --message {tag}").run()?;
    println!("published; `git push origin {tag}` announces it");
    Ok(())
}

fn ensure_clean(sh: &Shell) -> anyhow::Result<()> {
    let changes = cmd!(sh, "git status --porcelain").quiet().read()?;
    ensure!(
        changes.is_empty(),
        "the working tree has changes; commit them first"
    );
    Ok(())
}

/// `1.2.3` as something that can be compared. Pre-releases are not part of our scheme.
fn version_order(version: &str) -> anyhow::Result<[u64; 3]> {
    let numbers: Option<Vec<u64>> = version.split('.').map(|part| part.parse().ok()).collect();
    let numbers = numbers.with_context(|| format!("{version} is not a version such as 0.2.0"))?;
    numbers
        .try_into()
        .map_err(|_| anyhow::anyhow!("{version} is not a version such as 0.2.0"))
}

/// The root manifest with the new version: the workspace's own, and that of each of our crates.
fn bump(manifest: &str, current: &str, version: &str) -> anyhow::Result<String> {
    let old = format!("version = \"{current}\"");
    let new = format!("version = \"{version}\"");
    let mut changed = 0;
    let lines: Vec<String> = manifest
        .lines()
        .map(|line| {
            let ours = line == old || line.starts_with("llmrtc-") && line.contains(&old);
            if ours {
                changed += 1;
                line.replace(&old, &new)
            } else {
                line.to_owned()
            }
        })
        .collect();
    ensure!(
        changed > 0,
        "Cargo.toml does not name the version {current}"
    );
    Ok(lines.join("\n") + "\n")
}

/// The crate's changelog with its fragments as a new section, and the removal of the fragments.
fn fold_changelog(directory: &Path, version: &str, date: &str) -> anyhow::Result<Vec<Edit>> {
    let fragments_directory = directory.join("changelog.d");
    let Ok(entries) = std::fs::read_dir(&fragments_directory) else {
        return Ok(vec![]);
    };
    let mut fragments = Vec::new();
    let mut edits = Vec::new();
    for entry in entries {
        let path = entry
            .with_context(|| format!("reading {}", fragments_directory.display()))?
            .path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if let Some((slug, kind)) = changelog::parse_name(name) {
            let text = std::fs::read_to_string(&path)
                .with_context(|| format!("reading {}", path.display()))?;
            fragments.push((kind.to_owned(), slug.to_owned(), text));
            edits.push(Edit { path, text: None });
        }
    }
    if fragments.is_empty() {
        return Ok(vec![]);
    }
    fragments.sort();
    let path = directory.join("CHANGELOG.md");
    let old = std::fs::read_to_string(&path).unwrap_or_else(|_| "# Changelog\n".to_owned());
    edits.insert(
        0,
        Edit {
            text: Some(with_section(&old, version, date, &fragments)),
            path,
        },
    );
    Ok(edits)
}

/// Inserts the section of a release before the previous release's.
fn with_section(
    changelog: &str,
    version: &str,
    date: &str,
    fragments: &[(String, String, String)],
) -> String {
    let mut section = format!("## {version} ({date})\n");
    for kind in changelog::KINDS {
        let mut of_kind = fragments.iter().filter(|(k, _, _)| k == kind).peekable();
        if of_kind.peek().is_none() {
            continue;
        }
        let (first, rest) = kind.split_at(1);
        section += &format!("\n### {}{rest}\n\n", first.to_uppercase());
        for (_, _, text) in of_kind {
            section += &format!("- {}\n", text.trim().replace('\n', "\n  "));
        }
    }
    match changelog.split_once("\n## ") {
        Some((head, earlier)) => format!("{}\n\n{section}\n## {earlier}", head.trim_end()),
        None => format!("{}\n\n{section}", changelog.trim_end()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_changes_where_it_is_ours() {
        let manifest = "[workspace.package]\nversion = \"0.1.0\"\n\n[workspace.dependencies]\n\
                        llmrtc-core = { path = \"llmrtc-core\", version = \"0.1.0\" }\nother = { version = \"0.1.0\" }\n";
        let bumped = bump(manifest, "0.1.0", "0.2.0").unwrap();
        assert_eq!(bumped.matches("0.2.0").count(), 2);
        assert!(bumped.contains("other = { version = \"0.1.0\" }"));
        assert!(bump(manifest, "9.9.9", "10.0.0").is_err());
    }

    #[test]
    fn versions_are_ordered_by_number() {
        assert!(version_order("0.10.0").unwrap() > version_order("0.9.9").unwrap());
        assert!(version_order("0.10").is_err());
        assert!(version_order("1.0.0-rc.1").is_err());
    }

    #[test]
    fn fragments_become_a_section_before_the_last_release() {
        let fragment =
            |kind: &str, text: &str| (kind.to_owned(), "slug".to_owned(), text.to_owned());
        let fragments = [
            fragment("added", "A new thing.\nIn two lines.\n"),
            fragment("fixed", "An old thing.\n"),
        ];
        let first = with_section("# Changelog\n", "0.1.0", "2026-01-02", &fragments);
        assert_eq!(
            first,
            "# Changelog\n\n## 0.1.0 (2026-01-02)\n\n### Added\n\n- A new thing.\n  In two lines.\n\n### Fixed\n\n- An old thing.\n"
        );
        let second = with_section(&first, "0.2.0", "2026-02-03", &fragments[..1]);
        assert!(second.starts_with("# Changelog\n\n## 0.2.0 (2026-02-03)\n\n### Added\n\n- A new thing.\n  In two lines.\n\n## 0.1.0"));
    }
}
