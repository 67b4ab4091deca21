use std::{io, path::PathBuf};

use llmrtc_core::provider::{ErrorKind, ProviderError};

/// Why a file cannot serve as a language model. Every message ends in what the person can do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// The file is not there or cannot be read.
    #[error("cannot read {}; check that the file exists and is readable", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The first bytes are not `GGUF`.
    #[error("not a GGUF file; download the model again in the GGUF format")]
    NotGguf,
    /// A version of the container that is not read.
    #[error("GGUF version {0} is not supported, 2 and 3 are; convert the model again")]
    Version(u32),
    /// The file ends before what it announces.
    #[error("the file is cut off; download it again")]
    Truncated,
    /// The file contradicts itself.
    #[error("damaged file: {0}; download it again")]
    Malformed(String),
    /// Something a model needs is not in the file.
    #[error("the file has no {0}; use a complete chat model")]
    Missing(String),
    /// A network of another make.
    #[error("architecture \"{0}\" is not supported; supported: {list}", list = super::model::ARCHITECTURES)]
    Architecture(String),
    /// Weights in a format that is not read.
    #[error("tensor {tensor} has type {kind}, which is not supported; supported: {list}", list = super::weights::FORMATS)]
    TensorType {
        /// The tensor's name.
        tensor: String,
        /// The type's name in GGML.
        kind: String,
    },
    /// A tokenizer of another make.
    #[error("tokenizer \"{0}\" is not supported; supported: {list}", list = super::vocab::TOKENIZERS)]
    Tokenizer(String),
    /// A conversation format that is not known.
    #[error(
        "the model's chat template is neither ChatML nor Llama 3; use an instruction-tuned model with one of these"
    )]
    Template,
}

impl From<GgufError> for ProviderError {
    fn from(error: GgufError) -> Self {
        ProviderError::new(ErrorKind::Config, super::NAME, error.to_string()).with_source(error)
    }
}
