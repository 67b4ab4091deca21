//! The models for tests that talk.

use std::path::{Path, PathBuf};

use xshell::{Shell, cmd};

use crate::util;

/// Names the folder of the models, for the server as for the tests.
pub(crate) const VARIABLE: &str = "LLMRTC_MODEL_DIR";

/// Makes the models available to whatever the shell runs from now on: those in the folder that the person named, or fetched
/// by `server` into the build folder. Without them the tests that need them say that they skip.
pub(crate) fn provide(sh: &Shell, server: &Path) -> anyhow::Result<()> {
    if util::variable(VARIABLE).is_some() {
        return Ok(());
    }
    let folder: PathBuf = util::metadata(sh)?.target_directory.join("models");
    // Nothing is downloaded twice.
    let fetched = cmd!(sh, "{server} models fetch --yes --dir {folder}").run();
    if let Err(error) = fetched {
        println!("models: {error:#}");
        println!("models: not fetched, so that tests of models are skipped where they are missing");
    }
    sh.set_var(VARIABLE, folder);
    Ok(())
}

/// Whether the dynamic loader finds a library of this name.
pub(crate) fn has_library(name: &str) -> bool {
    let folders = ["/usr/lib", "/lib", "/usr/local/lib", "/usr/lib64"];
    let architectures = [
        "",
        "x86_64-linux-gnu",
        "aarch64-linux-gnu",
        "arm-linux-gnueabihf",
    ];
    folders.iter().any(|folder| {
        architectures
            .iter()
            .any(|architecture| Path::new(folder).join(architecture).join(name).exists())
    })
}
