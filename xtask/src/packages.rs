//! Installs the Debian packages that tests need, and says so. `LLMRTC_SKIP_INSTALL=1` forbids it.

use std::path::Path;

use anyhow::{Context, bail, ensure};
use xshell::{Shell, cmd};

use crate::util;

/// A Debian package.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Package {
    pub(crate) name: &'static str,
    /// What it is needed for.
    pub(crate) why: &'static str,
    /// What Debian starts as soon as it is installed. Tests start servers of their own, on free ports.
    pub(crate) service: Option<&'static str>,
}

/// A package that starts nothing.
pub(crate) const fn package(name: &'static str, why: &'static str) -> Package {
    Package {
        name,
        why,
        service: None,
    }
}

/// A package that starts a service of its name.
pub(crate) const fn service(name: &'static str, why: &'static str) -> Package {
    Package {
        name,
        why,
        service: Some(name),
    }
}

/// Whether a program is on `PATH`, or where Debian keeps those of administrators.
pub(crate) fn has_program(name: &str) -> bool {
    let administrators = ["/usr/sbin", "/sbin"];
    util::find_program(name).is_some()
        || administrators
            .iter()
            .any(|folder| util::is_program(&Path::new(folder).join(name)))
}

/// Whether PostgreSQL's programs are there. Debian keeps them beside each other, by version, and off `PATH`.
pub(crate) fn has_postgres() -> bool {
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten();
    let mut folders = versions
        .flatten()
        .map(|version| version.path().join("bin/initdb"));
    util::find_program("initdb").is_some() || folders.any(|initdb| util::is_program(&initdb))
}

/// Installs these packages, all of which are missing, and stops what that starts. `alternative` is what else a person
/// could do.
///
/// # Errors
/// When it is forbidden, there is no apt-get, it needs a password, or it fails. The error says what to do by hand.
pub(crate) fn install(
    sh: &Shell,
    missing: &[Package],
    alternative: Option<&str>,
) -> anyhow::Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|package| package.name).collect();
    for Package { name, why, .. } in missing {
        println!("install: the Debian package `{name}` is needed: {why}");
    }
    let mut by_hand = format!(
        "install {} yourself (Debian: `apt-get install {}`)",
        names.join(", "),
        names.join(" ")
    );
    if let Some(alternative) = alternative {
        by_hand = format!("{by_hand}, or {alternative}");
    }
    ensure!(
        util::variable("LLMRTC_SKIP_INSTALL").is_none(),
        "LLMRTC_SKIP_INSTALL forbids installing: {by_hand}"
    );
    ensure!(
        util::find_program("apt-get").is_some(),
        "this system has no apt-get: {by_hand}"
    );
    let (program, prefix) = as_root(sh).with_context(|| by_hand.clone())?;
    println!(
        "install: {} with apt-get (LLMRTC_SKIP_INSTALL=1 forbids this)",
        names.join(", ")
    );
    cmd!(sh, "{program} {prefix...} apt-get update --quiet")
        .run()
        .with_context(|| by_hand.clone())?;
    cmd!(
        sh,
        "{program} {prefix...} apt-get install --yes --quiet --no-install-recommends {names...}"
    )
    .run()
    .context(by_hand)?;
    for service in missing.iter().filter_map(|package| package.service) {
        println!(
            "install: stopping the service `{service}`, which Debian has just started and tests do not use"
        );
        // Where nothing was started, as in most containers, there is nothing to stop.
        let _ = cmd!(sh, "{program} {prefix...} service {service} stop")
            .ignore_stdout()
            .ignore_stderr()
            .run();
    }
    Ok(())
}

/// How to run a command as root without questions: directly, else through a `sudo` that asks no password.
fn as_root(sh: &Shell) -> anyhow::Result<(&'static str, &'static [&'static str])> {
    if cmd!(sh, "id --user").quiet().read()?.trim() == "0" {
        return Ok(("env", &["DEBIAN_FRONTEND=noninteractive"]));
    }
    let passwordless = util::find_program("sudo").is_some()
        && cmd!(sh, "sudo --non-interactive true")
            .quiet()
            .ignore_stderr()
            .run()
            .is_ok();
    if !passwordless {
        bail!("installing needs root, and sudo would ask for a password");
    }
    // `sudo` drops the environment, so the variable goes behind it.
    Ok((
        "sudo",
        &["--non-interactive", "env", "DEBIAN_FRONTEND=noninteractive"],
    ))
}
