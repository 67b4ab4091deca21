//! The browser suite: finds or installs Chromium, Node.js and the npm packages, builds the server, runs the suite.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use xshell::{Shell, cmd};

use crate::{
    packages::{self, package},
    util,
};

/// Where the suite lives, from the repository's root.
const SUITE: &str = "llmrtc-server/tests/browser";

/// Names under which distributions ship Chromium, the preferred one first. Chrome is the same engine.
const BROWSERS: &[&str] = &[
    "chromium",
    "chromium-browser",
    "google-chrome-stable",
    "google-chrome",
];

/// Runs the suite, against `built` unless another server is named or there is none. Its last line is `browser: N passed, N failed`.
pub(crate) fn run(sh: &Shell, built: Option<PathBuf>) -> anyhow::Result<()> {
    install_missing_packages(sh)?;
    ensure_node_is_recent(sh)?;
    let chromium = find_chromium()?.context("Chromium is still missing after its installation")?;
    install_npm_packages(sh)?;
    let server = server_binary(sh, built)?;

    let _in_suite = sh.push_dir(util::root().join(SUITE));
    cmd!(sh, "node run.mjs")
        .env("LLMRTC_CHROMIUM", chromium)
        .env("LLMRTC_BIN", server)
        .run()
        .context("the browser suite failed")
}

/// The browser the person named, or the first one on `PATH`.
fn find_chromium() -> anyhow::Result<Option<PathBuf>> {
    if let Some(named) = util::variable("LLMRTC_CHROMIUM") {
        let path = PathBuf::from(named);
        ensure!(
            util::is_program(&path),
            "LLMRTC_CHROMIUM names {}, which is not a program",
            path.display()
        );
        return Ok(Some(path));
    }
    Ok(BROWSERS.iter().find_map(|name| util::find_program(name)))
}

/// Installs the Debian packages whose programs are missing.
fn install_missing_packages(sh: &Shell) -> anyhow::Result<()> {
    let mut missing = Vec::new();
    if find_chromium()?.is_none() {
        missing.push(package(
            "chromium",
            "the browser that the npm client runs in",
        ));
    }
    if util::find_program("node").is_none() {
        missing.push(package("nodejs", "runs the browser suite"));
    }
    if util::find_program("npm").is_none() {
        missing.push(package("npm", "fetches the npm client under test"));
    }
    let alternative = "point LLMRTC_CHROMIUM at an existing browser";
    packages::install(sh, &missing, Some(alternative))
}

/// The browser driver says what it needs in `package.json`; an older Node.js would fail in the middle of it.
fn ensure_node_is_recent(sh: &Shell) -> anyhow::Result<()> {
    const OLDEST: u32 = 18;
    let version = cmd!(sh, "node --version").quiet().read()?;
    let major = version
        .trim_start_matches('v')
        .split('.')
        .next()
        .and_then(|major| major.parse::<u32>().ok());
    ensure!(
        major.is_some_and(|major| major >= OLDEST),
        "the browser suite needs Node.js {OLDEST} or newer; `node --version` says {version}"
    );
    Ok(())
}

/// Brings `node_modules` to what the lock file says. Package scripts never run.
fn install_npm_packages(sh: &Shell) -> anyhow::Result<()> {
    let suite = util::root().join(SUITE);
    if is_newer(
        &suite.join("node_modules/.package-lock.json"),
        &suite.join("package-lock.json"),
    ) {
        return Ok(());
    }
    ensure!(
        util::variable("LLMRTC_SKIP_INSTALL").is_none(),
        "LLMRTC_SKIP_INSTALL forbids installing: run `npm ci --ignore-scripts` in {SUITE} yourself"
    );
    println!(
        "browser: installing the npm packages of {SUITE}/package-lock.json, without their scripts"
    );
    let _in_suite = sh.push_dir(suite);
    cmd!(sh, "npm ci --ignore-scripts --no-audit --no-fund")
        .run()
        .context("npm could not fetch the packages; without a network, copy a node_modules directory here")
}

fn is_newer(file: &Path, than: &Path) -> bool {
    let modified = |path: &Path| path.metadata().and_then(|data| data.modified()).ok();
    matches!((modified(file), modified(than)), (Some(file), Some(than)) if file >= than)
}

/// The server to test: the one named, the one that is built, or a fresh debug build.
fn server_binary(sh: &Shell, built: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    if let Some(named) = util::variable("LLMRTC_BIN") {
        let path = PathBuf::from(named);
        ensure!(
            util::is_program(&path),
            "LLMRTC_BIN names {}, which is not a program",
            path.display()
        );
        // The suite runs in its own directory.
        return path.canonicalize().context("resolving LLMRTC_BIN");
    }
    if let Some(built) = built {
        return Ok(built);
    }
    cmd!(sh, "cargo build --package llmrtc-server --bin llmrtc").run()?;
    util::debug_server(sh)
}
