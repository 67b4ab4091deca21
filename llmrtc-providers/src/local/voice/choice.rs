//! Which voice to use on this machine.

use std::{ops::ControlFlow, path::PathBuf, sync::Arc};

use llmrtc_core::provider::{ErrorKind, ProviderError, TtsConfig, TtsProvider};

use super::{Espeak, Flite, VoiceError};
use crate::local::{
    models::{Package, Store},
    pool::InferencePool,
};

/// The package of [`Espeak`].
const PACKAGE: &str = "espeak-ng";

/// Where systems have it that have it.
const SYSTEM_ESPEAK: &str = "libespeak-ng.so.1";

/// A man's, where [`best`] is a woman's. Of Flite's and eSpeak's voices, recognition makes the fewest mistakes with it.
const CALLER_FLITE: &str = "rms";

/// A variant of eSpeak's that is plainly another speaker than the standard one, a woman's instead of a man's, and that
/// recognition makes fewer mistakes with.
const CALLER_ESPEAK: &str = "+f5";

/// The best voice of this machine for a language (BCP 47; `None` is English): Flite where it is installed and the
/// language is English, otherwise eSpeak NG, from `store` or the system.
///
/// Blocks for some milliseconds; eSpeak NG is compared with its hashes, which takes some tens of them.
///
/// # Errors
/// When there is none: what is missing, and how to get it. [`ErrorKind::InvalidInput`] for a language that none speaks.
pub fn best(
    store: &Store,
    language: Option<&str>,
    pool: &InferencePool,
) -> Result<Arc<dyn TtsProvider>, ProviderError> {
    let defaults = TtsConfig {
        language: language.map(str::to_owned),
        ..TtsConfig::default()
    };
    if !language.is_none_or(is_english) {
        return Ok(Arc::new(espeak(store, pool)?.with_defaults(defaults)?));
    }
    match Flite::load(&[], pool.clone()) {
        Ok(flite) => Ok(Arc::new(flite)),
        Err(error) => match espeak(store, pool) {
            Ok(espeak) => Ok(Arc::new(espeak.with_defaults(defaults)?)),
            Err(other) => Err(worse(error, other)),
        },
    }
}

/// An English voice for a caller on this machine: another one than [`best`] gives, where there are two.
///
/// Blocks as [`best`] does.
///
/// # Errors
/// As [`best`].
pub fn for_caller(
    store: &Store,
    pool: &InferencePool,
) -> Result<Arc<dyn TtsProvider>, ProviderError> {
    let voice = |name: &str| TtsConfig {
        voice: Some(name.to_owned()),
        ..TtsConfig::default()
    };
    let flite = match Flite::load(&[], pool.clone()) {
        Ok(flite) => match flite.clone().with_defaults(voice(CALLER_FLITE)) {
            Ok(flite) => return Ok(Arc::new(flite)),
            Err(_) => Ok(flite),
        },
        Err(error) => Err(error),
    };
    match (espeak(store, pool), flite) {
        (Ok(espeak), _) => Ok(Arc::new(espeak.with_defaults(voice(CALLER_ESPEAK))?)),
        (Err(_), Ok(flite)) => Ok(Arc::new(flite)),
        (Err(other), Err(error)) => Err(worse(error, other)),
    }
}

/// Whether [`best`] finds a voice. Loads the library as that does, and starts nothing.
///
/// Blocks as [`best`] does.
pub fn is_there(store: &Store, language: Option<&str>) -> bool {
    let flite = language.is_none_or(is_english) && Flite::is_there();
    flite
        || espeak_files(store)
            .is_ok_and(|(library, data)| Espeak::speaks(&library, data.as_deref(), language))
}

fn espeak(store: &Store, pool: &InferencePool) -> Result<Espeak, VoiceError> {
    let (library, data) = espeak_files(store)?;
    Espeak::load(&library, data.as_deref(), pool.clone())
}

/// The library, and its data if that is not where the library looks by itself.
fn espeak_files(store: &Store) -> Result<(PathBuf, Option<PathBuf>), VoiceError> {
    let fetched = Package::named(PACKAGE).filter(|package| store.status(package).is_usable());
    let Some(package) = fetched else {
        return Ok((SYSTEM_ESPEAK.into(), None));
    };
    // The library trusts its data: a damaged file of the right size ends the process.
    store
        .verify(package, &mut |_| ControlFlow::Continue(()))
        .map_err(|source| VoiceError::Damaged { source })?;
    let dir = store.path(package);
    Ok((
        dir.join("libespeak-ng.so.1"),
        Some(dir.join("espeak-ng-data")),
    ))
}

/// Of two reasons the one to tell: that something is broken rather than that it is not there.
fn worse(flite: VoiceError, espeak: VoiceError) -> ProviderError {
    match (&flite, &espeak) {
        (VoiceError::Library { .. }, VoiceError::Library { .. }) => {
            ProviderError::new(
                ErrorKind::Config,
                "local-voice",
                "there is no voice on this machine: install Flite (`apt-get install libflite1`), or fetch eSpeak NG \
                 (`llmrtc models fetch espeak-ng`)",
            )
            .with_source(espeak)
        }
        (VoiceError::Library { .. }, _) => espeak.into(),
        _ => flite.into(),
    }
}

/// Whether a language tag (BCP 47) is one of English.
pub fn is_english(tag: &str) -> bool {
    tag.split(['-', '_'])
        .next()
        .is_some_and(|base| base.eq_ignore_ascii_case("en"))
}
