use std::{
    io,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use llmrtc_core::redact::Secret;
use tokio::io::AsyncReadExt;
use zeroize::Zeroizing;

use super::{MAX_SECRET_BYTES, SecretError, SecretErrorKind, SecretSource, Versioned};

/// A secret in a file, as Docker and Kubernetes mount them. Every fetch opens the path anew, so that a swapped symbolic
/// link is followed. White space at the end is not part of the secret.
#[derive(Clone, Debug)]
pub struct FileSource {
    path: PathBuf,
    origin: String,
}

impl FileSource {
    /// The file at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        Self {
            origin: path.display().to_string(),
            path,
        }
    }

    /// The file that a variable names, for messages that name the variable as well.
    pub(super) fn named_by(variable: &str, path: &str) -> Self {
        Self {
            origin: format!("{variable} ({path})"),
            path: path.into(),
        }
    }

    async fn read(&self) -> io::Result<Zeroizing<Vec<u8>>> {
        let file = tokio::fs::File::open(&self.path).await?;
        // The whole room at once: a buffer that grows would leave copies behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_SECRET_BYTES + 1));
        file.take(MAX_SECRET_BYTES as u64 + 1)
            .read_to_end(&mut bytes)
            .await?;
        Ok(bytes)
    }
}

#[async_trait]
impl SecretSource for FileSource {
    fn origin(&self) -> &str {
        &self.origin
    }

    async fn fetch(&self) -> Result<Versioned<Secret>, SecretError> {
        let error = |kind| SecretError::new(self.origin.as_str(), kind);
        let bytes = self.read().await.map_err(|cause| {
            let kind = match cause.kind() {
                io::ErrorKind::NotFound => SecretErrorKind::NotFound,
                _ => SecretErrorKind::Unreadable,
            };
            error(kind).with_cause(cause)
        })?;
        if bytes.len() > MAX_SECRET_BYTES {
            return Err(error(SecretErrorKind::TooLarge));
        }
        let text = std::str::from_utf8(&bytes).map_err(|_| error(SecretErrorKind::NotText))?;
        let value = Secret::new(text.trim_end());
        // Also what a file looks like that is just being written.
        if value.is_blank() {
            return Err(error(SecretErrorKind::Blank));
        }
        Ok(Versioned {
            value,
            version: None,
        })
    }

    fn path(&self) -> Option<&Path> {
        Some(&self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn kind(path: &Path) -> SecretErrorKind {
        let error = FileSource::new(path).fetch().await.unwrap_err();
        assert!(!format!("{error} {error:?}").contains("canary"));
        error.kind().clone()
    }

    #[tokio::test]
    async fn a2_files_end_where_the_text_ends_and_bad_ones_say_why() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        assert_eq!(kind(&path).await, SecretErrorKind::NotFound);
        for (content, expected) in [
            (&b"canary\r\n"[..], Ok("canary")),
            (b" canary with spaces \n\n", Ok(" canary with spaces")),
            (b"\n \n", Err(SecretErrorKind::Blank)),
            (b"", Err(SecretErrorKind::Blank)),
            (b"canary\xff", Err(SecretErrorKind::NotText)),
            (
                &[b'x'; MAX_SECRET_BYTES + 1],
                Err(SecretErrorKind::TooLarge),
            ),
        ] {
            std::fs::write(&path, content).unwrap();
            match expected {
                Ok(text) => {
                    let fetched = FileSource::new(&path).fetch().await.unwrap();
                    assert_eq!(fetched.value.expose(), text);
                }
                Err(expected) => assert_eq!(kind(&path).await, expected),
            }
        }
        assert_eq!(kind(folder.path()).await, SecretErrorKind::Unreadable);
    }
}
