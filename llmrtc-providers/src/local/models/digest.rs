//! SHA-256 of bytes and files, as lower-case hexadecimal.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use aws_lc_rs::digest::{Context, Digest, SHA256, digest};

/// Large enough that hashing, not reading, takes the time.
pub(super) const BUFFER_BYTES: usize = 256 * 1024;

/// The hash of what was fed to it.
pub(super) struct Hasher(Context);

impl Hasher {
    pub(super) fn new() -> Self {
        Self(Context::new(&SHA256))
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(super) fn finish(self) -> String {
        hex(&self.0.finish())
    }
}

pub(super) fn of(bytes: &[u8]) -> String {
    hex(&digest(&SHA256, bytes))
}

/// Reads a file; `progress` is told the length of each piece and may end it with an error.
pub(super) fn of_file<E: From<io::Error>>(
    path: &Path,
    mut progress: impl FnMut(u64) -> Result<(), E>,
) -> Result<String, E> {
    let mut file = File::open(path)?;
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let read = match file.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        };
        hasher.update(&buffer[..read]);
        progress(read as u64)?;
    }
}

fn hex(digest: &Digest) -> String {
    digest
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_hash_is_the_standards() {
        // FIPS 180-4, example "abc".
        assert_eq!(
            super::of(b"abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
