//! What several commands share: the shell at the repository's root, looking for tools, asking cargo.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Deserialize;
use xshell::{Shell, cmd};

/// The repository's root: the directory above this crate.
pub(crate) fn root() -> PathBuf {
    let mut root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    root.pop();
    root
}

/// A shell whose working directory is the repository's root, wherever cargo was called from.
pub(crate) fn shell() -> anyhow::Result<Shell> {
    let sh = Shell::new().context("opening a shell")?;
    sh.change_dir(root());
    Ok(sh)
}

/// An environment variable, unset when empty.
pub(crate) fn variable(name: &str) -> Option<String> {
    #[expect(
        clippy::disallowed_methods,
        reason = "the rule guards the server; tasks have no configuration file"
    )]
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The full path of a program on `PATH`.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = variable("PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|file| is_program(file))
}

/// Whether `path` is a file that may be executed.
pub(crate) fn is_program(path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        path.metadata()
            .is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
    }
    #[cfg(not(unix))]
    path.is_file()
}

/// Whether `cargo NAME` is installed.
pub(crate) fn has_cargo_command(sh: &Shell, name: &str) -> bool {
    cmd!(sh, "cargo {name} --version")
        .quiet()
        .ignore_stdout()
        .ignore_stderr()
        .run()
        .is_ok()
}

/// The built program of an example, in release mode.
pub(crate) fn release_example(sh: &Shell, name: &str) -> anyhow::Result<PathBuf> {
    Ok(metadata(sh)?
        .target_directory
        .join("release")
        .join("examples")
        .join(name))
}

/// The built server, in debug mode.
pub(crate) fn debug_server(sh: &Shell) -> anyhow::Result<PathBuf> {
    Ok(metadata(sh)?.target_directory.join("debug").join("llmrtc"))
}

/// Puts `text` between the comments `<!-- name -->` and `<!-- /name -->` of a document, in place of what stands there.
pub(crate) fn bless(document: &str, name: &str, text: &str) -> anyhow::Result<()> {
    let path = root().join(document);
    let old = std::fs::read_to_string(&path).with_context(|| format!("reading {document}"))?;
    let new = between(&old, name, text)
        .with_context(|| format!("{document} has no `<!-- {name} -->` … `<!-- /{name} -->`"))?;
    std::fs::write(&path, new).with_context(|| format!("writing {document}"))
}

fn between(document: &str, name: &str, text: &str) -> Option<String> {
    let (open, close) = (format!("<!-- {name} -->"), format!("<!-- /{name} -->"));
    let (before, rest) = document.split_once(&open)?;
    let (_, behind) = rest.split_once(&close)?;
    Some(format!(
        "{before}{open}\n\n{}\n\n{close}{behind}",
        text.trim()
    ))
}

/// The part of `cargo metadata --no-deps` that the tasks read.
#[derive(Debug, Deserialize)]
pub(crate) struct Metadata {
    pub(crate) packages: Vec<Package>,
    pub(crate) target_directory: PathBuf,
}

/// One workspace member.
#[derive(Debug, Deserialize)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) license: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) readme: Option<PathBuf>,
    pub(crate) manifest_path: PathBuf,
    pub(crate) dependencies: Vec<Dependency>,
    /// `None` means every registry, an empty list none.
    pub(crate) publish: Option<Vec<String>>,
}

/// One line of a `[dependencies]` table.
#[derive(Debug, Deserialize)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    /// `None` for a normal dependency, else `dev` or `build`.
    pub(crate) kind: Option<String>,
    #[serde(default)]
    pub(crate) features: Vec<String>,
}

impl Package {
    /// The directory of the package's manifest.
    pub(crate) fn directory(&self) -> &Path {
        self.manifest_path.parent().unwrap_or(Path::new(""))
    }
}

/// Asks cargo about the workspace's members.
pub(crate) fn metadata(sh: &Shell) -> anyhow::Result<Metadata> {
    let json = cmd!(sh, "cargo metadata --format-version 1 --no-deps --offline")
        .quiet()
        .read()?;
    serde_json::from_str(&json).context("reading `cargo metadata`")
}

#[cfg(test)]
mod tests {
    use super::between;

    #[test]
    fn a_blessed_text_replaces_the_one_before() {
        let document = "# Title\n\n<!-- bench -->\nold\n<!-- /bench -->\n\nend\n";
        let blessed = between(document, "bench", "new\n").unwrap();
        assert_eq!(
            blessed,
            "# Title\n\n<!-- bench -->\n\nnew\n\n<!-- /bench -->\n\nend\n"
        );
        assert_eq!(between(&blessed, "bench", "new").as_ref(), Some(&blessed));
        assert_eq!(between(document, "eval", "new"), None);
        assert_eq!(between("<!-- bench --> open", "bench", "new"), None);
    }
}
