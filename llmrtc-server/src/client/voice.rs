//! The voice of a caller who speaks from text.

use std::sync::Arc;

use llmrtc_core::provider::TtsProvider;
use llmrtc_providers::echo::{EchoConfig, EchoTts};

/// The caller's voice, on this machine.
///
/// For now the built-in babble, which voice activity detection takes for speech and no recogniser understands.
///
/// # Errors
/// When there is no voice on this machine.
pub fn caller_voice() -> anyhow::Result<Arc<dyn TtsProvider>> {
    Ok(Arc::new(EchoTts::new(EchoConfig::default())))
}
