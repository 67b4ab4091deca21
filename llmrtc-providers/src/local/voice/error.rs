use std::path::PathBuf;

use llmrtc_core::provider::{BoxError, ErrorKind, ProviderError};

/// Why a voice cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VoiceError {
    /// The library is not there, or something that it needs is not.
    #[error("cannot load {library}: {remedy}")]
    Library {
        /// Its name or path.
        library: String,
        /// What the user can do.
        remedy: &'static str,
        /// What the system says.
        #[source]
        source: BoxError,
    },
    /// The library is there, but is another one or another version.
    #[error("{library} is not the library it should be: it has no {symbol}")]
    Symbol {
        /// Its name or path.
        library: String,
        /// What is missing.
        symbol: String,
    },
    /// The library does not accept its data.
    #[error(
        "{} does not hold the data of this version of eSpeak NG: run `llmrtc models fetch espeak-ng`",
        path.display()
    )]
    Data {
        /// The data folder.
        path: PathBuf,
    },
    /// The library copies the path of its data into a small buffer.
    #[error("the path {} is too long for eSpeak NG, which takes {limit} bytes: choose a shorter one", path.display())]
    PathTooLong {
        /// The data folder.
        path: PathBuf,
        /// How long it may be.
        limit: usize,
    },
    /// The library exists once in a process, and it is in use with another path.
    #[error("eSpeak NG is in use from {}, and a process can load it only once", path.display())]
    InUse {
        /// Where the loaded one is.
        path: PathBuf,
    },
}

impl From<VoiceError> for ProviderError {
    fn from(error: VoiceError) -> Self {
        Self::new(ErrorKind::Config, "local-voice", error.to_string()).with_source(error)
    }
}
