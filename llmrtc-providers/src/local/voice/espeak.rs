use std::{
    ffi::CString,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use llmrtc_core::{
    audio::SampleRate,
    provider::{
        CallContext, ErrorKind, ProviderError, ProviderStream, StreamingTts, TtsConfig,
        TtsProvider, TtsResult,
    },
};
use tokio::sync::Semaphore;

use super::{
    VoiceError,
    library::{EspeakLibrary, VoiceInfo},
    speaker::{Engine, Speaker},
    tape::Tape,
};
use crate::local::pool::InferencePool;

const NAME: &str = "espeak-ng";
const REMEDY: &str = "fetch it (`llmrtc models fetch espeak-ng`), or use another voice \
                      (`apt-get install libflite1`)";

/// Spoken when nothing else is asked for.
const DEFAULT_LANGUAGE: &str = "en-us";

/// Tags that eSpeak has under another name, or where it prefers a variety that fewer listeners expect.
const ALIASES: [(&str, &str); 5] = [
    ("en", DEFAULT_LANGUAGE),
    ("zh", "cmn"),
    ("zh-hk", "yue"),
    ("no", "nb"),
    ("iw", "he"),
];

/// The library's buffer has 160 bytes, and it appends names to it.
const MAX_PATH_BYTES: usize = 140;

/// The library's normal speed, in words per minute.
const NORMAL_SPEED: f32 = 175.0;
/// What it can do.
const SPEEDS: (f32, f32) = (80.0, 450.0);

/// The library's state is global in the process, so there is one engine for all providers.
static ENGINE: Mutex<Option<Shared>> = Mutex::new(None);

#[derive(Clone)]
struct Shared {
    library: PathBuf,
    /// Which data was asked for.
    wanted_data: Option<PathBuf>,
    /// Where the library found it.
    data: PathBuf,
    rate: SampleRate,
    engine: Arc<Mutex<EspeakEngine>>,
    turn: Arc<Semaphore>,
    voices: Arc<[VoiceInfo]>,
}

/// eSpeak NG: more than a hundred languages at 22.05 kHz.
///
/// Of [`TtsConfig`] it takes `language` (BCP 47, by default American English), `voice` (a name or file of eSpeak's
/// instead of a language, such as `en-gb-scotland`; a variant may follow, `en-us+f3`, or stand alone, `+f3`) and
/// `speed` (0.25–4, of which the library does 0.46–2.6).
///
/// Text is spoken as written: neither SSML nor eSpeak's own commands in it are obeyed.
///
/// # Source
/// <https://github.com/espeak-ng/espeak-ng>, licensed under the GPL, version 3 or later. Loaded at run time from where
/// the user put it.
#[derive(Clone, Debug)]
pub struct Espeak {
    speaker: Speaker<EspeakEngine>,
    voices: Arc<[VoiceInfo]>,
    data: PathBuf,
    defaults: TtsConfig,
}

impl Espeak {
    /// Loads the library from a path, or by its name from where the system keeps libraries, and its data from a folder
    /// (`espeak-ng-data`), or without `data` from where the library was built to look. What was loaded once in the
    /// process is used again.
    ///
    /// # Errors
    /// [`VoiceError`]: the library or its data is not there or does not fit, or another one is in use.
    pub fn load(
        library: &Path,
        data: Option<&Path>,
        pool: InferencePool,
    ) -> Result<Self, VoiceError> {
        let shared = shared(library, data)?;
        Ok(Self {
            speaker: Speaker::new(NAME, shared.rate, shared.engine, shared.turn, pool),
            voices: shared.voices,
            data: shared.data,
            defaults: TtsConfig::default(),
        })
    }

    /// Whether it is there and speaks this language (`None`: English). Loads it.
    pub(super) fn speaks(library: &Path, data: Option<&Path>, language: Option<&str>) -> bool {
        let language = language.unwrap_or(DEFAULT_LANGUAGE);
        shared(library, data).is_ok_and(|it| find_language(&it.voices, language).is_some())
    }

    /// The same with `voice`, `language` and `speed` of `defaults` for calls that do not say them. A voice yields to a
    /// call's language, unless it is a variant alone (`+f3`), which goes with any.
    ///
    /// # Errors
    /// Those of a call with this configuration.
    pub fn with_defaults(self, defaults: TtsConfig) -> Result<Self, ProviderError> {
        self.manner(&defaults)?;
        Ok(Self { defaults, ..self })
    }

    /// The language tags it knows, in lower case, sorted.
    pub fn languages(&self) -> Vec<&str> {
        let mut tags: Vec<&str> = self
            .voices
            .iter()
            .flat_map(|voice| voice.languages.iter().map(String::as_str))
            .collect();
        tags.sort_unstable();
        tags.dedup();
        tags
    }

    fn manner(&self, config: &TtsConfig) -> Result<Manner, ProviderError> {
        let defaults = &self.defaults;
        let spoken = match (&config.voice, &defaults.voice) {
            (Some(voice), _) => voice.as_str(),
            (None, Some(voice)) if config.language.is_none() || voice.starts_with('+') => voice,
            _ => "",
        };
        let (voice, variant) = match spoken.split_once('+') {
            Some((voice, variant)) => (voice, Some(variant)),
            None => (spoken, None),
        };
        let language = config.language.as_ref().or(defaults.language.as_ref());
        let language = language.map_or(DEFAULT_LANGUAGE, String::as_str);
        let found = if voice.is_empty() {
            find_language(&self.voices, language).ok_or_else(|| {
                self.speaker.error(
                    ErrorKind::InvalidInput,
                    format!("eSpeak NG has no language `{language}`"),
                )
            })?
        } else {
            find_voice(&self.voices, voice).ok_or_else(|| {
                self.speaker.error(
                    ErrorKind::NotFound,
                    format!("eSpeak NG has no voice `{voice}`"),
                )
            })?
        };
        let mut identifier = found.identifier.clone();
        if let Some(variant) = variant {
            let plain = !variant.is_empty() && variant.bytes().all(|b| b.is_ascii_alphanumeric());
            if !plain || !self.data.join("voices/!v").join(variant).is_file() {
                return Err(self.speaker.error(
                    ErrorKind::NotFound,
                    format!("eSpeak NG has no variant `{variant}`"),
                ));
            }
            identifier = format!("{identifier}+{variant}");
        }
        let identifier = CString::new(identifier).map_err(|_| {
            self.speaker
                .error(ErrorKind::Protocol, "a voice's name has a NUL")
        })?;
        let speed = self.speaker.speed(config.speed.or(defaults.speed))? * NORMAL_SPEED;
        Ok(Manner {
            identifier,
            words_per_minute: speed.clamp(SPEEDS.0, SPEEDS.1) as i32,
        })
    }
}

fn shared(library: &Path, data: Option<&Path>) -> Result<Shared, VoiceError> {
    let mut engine = ENGINE.lock().unwrap_or_else(PoisonError::into_inner);
    match &*engine {
        Some(shared) if shared.library == library && shared.wanted_data.as_deref() == data => {
            Ok(shared.clone())
        }
        Some(shared) => Err(VoiceError::InUse {
            path: shared.library.clone(),
        }),
        None => Ok(engine.insert(load(library, data)?).clone()),
    }
}

fn load(library: &Path, data: Option<&Path>) -> Result<Shared, VoiceError> {
    let wrong_data = || VoiceError::Data {
        path: data.map_or_else(|| "its own folder".into(), PathBuf::from),
    };
    let path = match data {
        Some(data) if data.as_os_str().len() > MAX_PATH_BYTES => {
            return Err(VoiceError::PathTooLong {
                path: data.into(),
                limit: MAX_PATH_BYTES,
            });
        }
        Some(data) => {
            let bytes = data.as_os_str().as_encoded_bytes();
            Some(CString::new(bytes).map_err(|_| wrong_data())?)
        }
        None => None,
    };
    // The library first: when nothing is there, that is what to say.
    let loaded = EspeakLibrary::load(library.as_os_str(), path.as_deref(), REMEDY)?;
    let mut loaded = loaded.ok_or_else(wrong_data)?;
    let rate = SampleRate::try_from(loaded.rate).map_err(|_| wrong_data())?;
    let mut voices = loaded.voices();
    // Those of MBROLA, which is another program.
    voices.retain(|voice| !voice.identifier.starts_with("mb/"));
    // The library may say that it is ready when its data was not.
    let default = find_language(&voices, DEFAULT_LANGUAGE).ok_or_else(wrong_data)?;
    let default = CString::new(default.identifier.clone()).map_err(|_| wrong_data())?;
    if !loaded.set_voice(&default) {
        return Err(wrong_data());
    }
    Ok(Shared {
        library: library.into(),
        wanted_data: data.map(PathBuf::from),
        data: loaded.data(),
        rate,
        engine: Arc::new(Mutex::new(EspeakEngine {
            library: loaded,
            voice: default,
        })),
        turn: Arc::new(Semaphore::new(1)),
        voices: voices.into(),
    })
}

/// The voice for a language tag: of the tag itself, or of the longest beginning of it that has one (RFC 4647, lookup).
fn find_language<'a>(voices: &'a [VoiceInfo], tag: &str) -> Option<&'a VoiceInfo> {
    let tag = tag.replace('_', "-").to_ascii_lowercase();
    let speaks = |tag: &str| {
        let alias = ALIASES.iter().find(|(from, _)| *from == tag);
        let tag = alias.map_or(tag, |(_, to)| *to);
        // A voice that names the language first was made for it.
        let first = voices.iter().find(|voice| {
            voice
                .languages
                .first()
                .is_some_and(|language| language == tag)
        });
        let any = || {
            voices
                .iter()
                .find(|voice| voice.languages.iter().any(|language| language == tag))
        };
        first.or_else(any)
    };
    let mut end = tag.len();
    loop {
        if let Some(voice) = speaks(&tag[..end]) {
            return Some(voice);
        }
        end = tag[..end].rfind('-')?;
    }
}

fn find_voice<'a>(voices: &'a [VoiceInfo], name: &str) -> Option<&'a VoiceInfo> {
    let named = voices.iter().find(|voice| {
        let file = voice.identifier.rsplit('/').next();
        voice.name.eq_ignore_ascii_case(name)
            || voice.identifier.eq_ignore_ascii_case(name)
            || file.is_some_and(|file| file.eq_ignore_ascii_case(name))
    });
    named.or_else(|| {
        let name = name.to_ascii_lowercase();
        voices.iter().find(|voice| voice.languages.contains(&name))
    })
}

#[async_trait]
impl TtsProvider for Espeak {
    fn name(&self) -> &str {
        NAME
    }

    fn model(&self) -> Option<&str> {
        Some("eSpeak NG")
    }

    /// Gives WAV. Dropping the future ends synthesis within milliseconds.
    async fn speak(
        &self,
        text: &str,
        config: &TtsConfig,
        _cx: &CallContext,
    ) -> Result<TtsResult, ProviderError> {
        let manner = self.manner(config)?;
        let language = config.language.as_deref();
        self.speaker.whole(text, language, manner).await
    }

    fn streaming(&self) -> Option<&dyn StreamingTts> {
        Some(self)
    }
}

#[async_trait]
impl StreamingTts for Espeak {
    fn pcm_rate(&self) -> SampleRate {
        self.speaker.rate
    }

    async fn speak_stream(
        &self,
        text: &str,
        config: &TtsConfig,
        _cx: &CallContext,
    ) -> Result<ProviderStream<Bytes>, ProviderError> {
        let manner = self.manner(config)?;
        let language = config.language.as_deref();
        self.speaker.stream(text, language, manner).await
    }
}

#[derive(Clone, Debug)]
struct Manner {
    identifier: CString,
    words_per_minute: i32,
}

struct EspeakEngine {
    library: EspeakLibrary,
    /// The voice that is set.
    voice: CString,
}

impl Engine for EspeakEngine {
    type Manner = Manner;

    fn speak(
        &mut self,
        sentence: &str,
        manner: &Manner,
        tape: &Arc<Tape>,
    ) -> Result<(), ProviderError> {
        let error = |kind, message: &str| ProviderError::new(kind, NAME, message);
        let text = CString::new(sentence)
            .map_err(|_| error(ErrorKind::InvalidInput, "a text must not contain NUL"))?;
        if self.voice != manner.identifier {
            if !self.library.set_voice(&manner.identifier) {
                return Err(error(
                    ErrorKind::NotFound,
                    "eSpeak NG cannot load the voice",
                ));
            }
            self.voice = manner.identifier.clone();
        }
        let spoken = self.library.speak(&text, manner.words_per_minute, tape);
        // A script that the voice does not know is silence, not a failure: the caller hears the rest of the text.
        if spoken || tape.is_stopped() {
            Ok(())
        } else {
            Err(error(ErrorKind::Other, "eSpeak NG refused a sentence"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn voice(identifier: &str, languages: &[&str]) -> VoiceInfo {
        VoiceInfo {
            name: identifier.to_uppercase(),
            identifier: identifier.into(),
            languages: languages.iter().map(|tag| (*tag).to_owned()).collect(),
        }
    }

    // Not through `Espeak::load`, which knows what another test has loaded.
    #[test]
    fn libraries_that_are_absent_or_others_are_typed_errors() {
        let dir = tempfile::tempdir().unwrap();
        let absent = dir.path().join("libespeak-ng.so.1");
        let error = load(&absent, None).map(drop).unwrap_err();
        assert!(matches!(error, VoiceError::Library { .. }), "{error}");
        assert!(error.to_string().contains("llmrtc models fetch"), "{error}");
        std::fs::write(&absent, "no library").unwrap();
        let error = load(&absent, None).map(drop).unwrap_err();
        assert!(matches!(error, VoiceError::Library { .. }), "{error}");
        // A library without these functions is on every machine.
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        {
            let error = load(Path::new("libm.so.6"), None).map(drop).unwrap_err();
            assert!(matches!(error, VoiceError::Symbol { .. }), "{error}");
            assert_eq!(ProviderError::from(error).kind(), ErrorKind::Config);
        }
    }

    #[test]
    fn tags_find_the_nearest_voice() {
        let voices = [
            voice("gmw/en", &["en-gb", "en"]),
            voice("gmw/en-US", &["en-us", "en"]),
            voice("gmw/de", &["de"]),
            voice("sit/cmn", &["cmn", "zh-cmn"]),
        ];
        let table = [
            ("en", Some("gmw/en-US")),
            ("en-GB", Some("gmw/en")),
            ("en_us", Some("gmw/en-US")),
            ("en-AU", Some("gmw/en-US")),
            ("de-CH-1996", Some("gmw/de")),
            ("zh-Hant-TW", Some("sit/cmn")),
            ("tlh", None),
            ("", None),
            ("-", None),
            ("d", None),
        ];
        for (tag, expected) in table {
            let found = find_language(&voices, tag).map(|voice| voice.identifier.as_str());
            assert_eq!(found, expected, "{tag}");
        }
        let found = |name| find_voice(&voices, name).map(|voice| voice.identifier.as_str());
        assert_eq!(found("GMW/DE"), Some("gmw/de"));
        assert_eq!(found("en-us"), Some("gmw/en-US"));
        assert_eq!(found("alloy"), None);
    }
}
