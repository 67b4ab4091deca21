//! The voice of a caller who speaks from text.

use std::sync::Arc;

use llmrtc_core::provider::TtsProvider;

/// The caller's voice, on this machine: another one than the server's, where there are two.
///
/// Blocks for some milliseconds.
///
/// # Errors
/// When there is no voice on this machine: what is missing, and how to get it.
#[cfg(feature = "local")]
pub fn caller_voice() -> anyhow::Result<Arc<dyn TtsProvider>> {
    use anyhow::Context;
    use llmrtc_providers::local::{models::Store, pool::InferencePool, voice};

    use crate::{config::load::ProcessEnvironment, models};

    let store = models::store(None, &ProcessEnvironment)
        // Voices that the system has need no folder.
        .unwrap_or_else(|_| Store::new("/nonexistent"));
    let pool = InferencePool::new(None).context("cannot start a thread for the voice")?;
    Ok(voice::for_caller(&store, &pool)?)
}

/// The caller's voice: a babble that voice activity detection takes for speech and no recogniser understands.
///
/// # Errors
/// Never.
#[cfg(not(feature = "local"))]
pub fn caller_voice() -> anyhow::Result<Arc<dyn TtsProvider>> {
    use llmrtc_providers::echo::{EchoConfig, EchoTts};

    Ok(Arc::new(EchoTts::new(EchoConfig::default())))
}
