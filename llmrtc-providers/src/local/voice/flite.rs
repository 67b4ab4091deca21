use std::{
    ffi::{CString, OsString},
    path::PathBuf,
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
use unicode_normalization::UnicodeNormalization;

use super::{
    VoiceError,
    choice::is_english,
    library::FliteLibrary,
    speaker::{Engine, Speaker},
    tape::Tape,
};
use crate::local::pool::InferencePool;

const NAME: &str = "flite";
const REMEDY: &str = "install it (`apt-get install libflite1`), or fetch another voice \
                      (`llmrtc models fetch espeak-ng`)";

/// The voices of 16 kHz, best first: two of the statistical kind, a diphone voice, and one with an accent that
/// recognition finds harder. `kal` has 8 kHz.
const VOICES: [&str; 4] = ["slt", "rms", "kal16", "awb"];

/// What all of them have.
const RATE: SampleRate = SampleRate::HZ_16000;

/// Flite's voices are global in the process, so there is one engine for all providers.
static ENGINE: Mutex<Option<Shared>> = Mutex::new(None);

#[derive(Clone)]
struct Shared {
    engine: Arc<Mutex<FliteEngine>>,
    turn: Arc<Semaphore>,
    /// The voices that were found; numbers in the engine are indices of this.
    voices: Arc<[&'static str]>,
}

/// Flite: American English at 16 kHz.
///
/// Of [`TtsConfig`] it takes `voice` (`slt`, the default, `rms`, `kal16` or `awb`, as far as they are installed),
/// `speed` (0.25–4) and `language`, which must be English. Letters of other scripts are not spoken.
///
/// # Source
/// A. W. Black and K. A. Lenzo, *Flite: a small fast run-time synthesis engine*, <http://cmuflite.org>.
#[derive(Clone, Debug)]
pub struct Flite {
    speaker: Speaker<FliteEngine>,
    voices: Arc<[&'static str]>,
    defaults: TtsConfig,
}

impl Flite {
    /// Loads the library and its voices: from the first of `dirs` that has them, or with no `dirs` from where the
    /// system keeps libraries. What was loaded once in the process is used again, wherever it came from.
    ///
    /// # Errors
    /// [`VoiceError::Library`] when it is not installed, [`VoiceError::Symbol`] when it is not Flite 2.
    pub fn load(dirs: &[PathBuf], pool: InferencePool) -> Result<Self, VoiceError> {
        let shared = shared(dirs)?;
        Ok(Self {
            speaker: Speaker::new(NAME, RATE, shared.engine, shared.turn, pool),
            voices: shared.voices,
            defaults: TtsConfig::default(),
        })
    }

    /// Whether the system has it. Loads it.
    pub(super) fn is_there() -> bool {
        shared(&[]).is_ok()
    }

    /// The same with `voice` and `speed` of `defaults` for calls that do not say them.
    ///
    /// # Errors
    /// Those of a call with this configuration.
    pub fn with_defaults(self, defaults: TtsConfig) -> Result<Self, ProviderError> {
        self.manner(&defaults)?;
        Ok(Self { defaults, ..self })
    }

    /// The names of the voices, best first.
    pub fn voices(&self) -> &[&'static str] {
        &self.voices
    }

    fn manner(&self, config: &TtsConfig) -> Result<Manner, ProviderError> {
        if let Some(language) = &config.language
            && !is_english(language)
        {
            return Err(self.speaker.error(
                ErrorKind::InvalidInput,
                format!("Flite speaks English, not `{language}`; the voice espeak-ng has other languages"),
            ));
        }
        let voice = match config.voice.as_ref().or(self.defaults.voice.as_ref()) {
            None => 0,
            Some(name) => self
                .voices
                .iter()
                .position(|known| known == name)
                .ok_or_else(|| {
                    self.speaker.error(
                        ErrorKind::NotFound,
                        format!("no voice `{name}`; there are {}", self.voices.join(", ")),
                    )
                })?,
        };
        Ok(Manner {
            voice,
            stretch: 1.0 / self.speaker.speed(config.speed.or(self.defaults.speed))?,
        })
    }
}

fn shared(dirs: &[PathBuf]) -> Result<Shared, VoiceError> {
    let mut engine = ENGINE.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(match &*engine {
        Some(shared) => shared.clone(),
        None => engine.insert(load(dirs)?).clone(),
    })
}

fn load(dirs: &[PathBuf]) -> Result<Shared, VoiceError> {
    let place = |file: String| -> OsString {
        let found = dirs
            .iter()
            .map(|dir| dir.join(&file))
            .find(|path| path.exists());
        match (found, dirs.first()) {
            (Some(path), _) => path.into(),
            // Fails, with this path in its words.
            (None, Some(dir)) => dir.join(&file).into(),
            (None, None) => file.into(),
        }
    };
    let mut library = FliteLibrary::load(&place("libflite.so.1".into()), REMEDY)?;
    let mut voices = Vec::new();
    let mut failure = None;
    for name in VOICES {
        let file = place(format!("libflite_cmu_us_{name}.so.1"));
        match library.add_voice(&file, &format!("register_cmu_us_{name}"), REMEDY) {
            Ok(_) => voices.push(name),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    match failure {
        Some(error) if voices.is_empty() => Err(error),
        _ => Ok(Shared {
            engine: Arc::new(Mutex::new(FliteEngine { library })),
            turn: Arc::new(Semaphore::new(1)),
            voices: voices.into(),
        }),
    }
}

#[async_trait]
impl TtsProvider for Flite {
    fn name(&self) -> &str {
        NAME
    }

    fn model(&self) -> Option<&str> {
        Some("Flite")
    }

    /// Gives WAV. Dropping the future ends synthesis within milliseconds.
    async fn speak(
        &self,
        text: &str,
        config: &TtsConfig,
        _cx: &CallContext,
    ) -> Result<TtsResult, ProviderError> {
        let manner = self.manner(config)?;
        self.speaker.whole(&plain(text), Some("en"), manner).await
    }

    fn streaming(&self) -> Option<&dyn StreamingTts> {
        Some(self)
    }
}

#[async_trait]
impl StreamingTts for Flite {
    fn pcm_rate(&self) -> SampleRate {
        RATE
    }

    async fn speak_stream(
        &self,
        text: &str,
        config: &TtsConfig,
        _cx: &CallContext,
    ) -> Result<ProviderStream<Bytes>, ProviderError> {
        let manner = self.manner(config)?;
        self.speaker.stream(&plain(text), Some("en"), manner).await
    }
}

#[derive(Clone, Debug)]
struct Manner {
    voice: usize,
    /// How much longer than usual everything takes.
    stretch: f32,
}

struct FliteEngine {
    library: FliteLibrary,
}

impl Engine for FliteEngine {
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
        let rate = self
            .library
            .speak(manner.voice, &text, manner.stretch, tape);
        if tape.is_stopped() || tape.written() > 0 && rate.is_none_or(|rate| rate == RATE.hz()) {
            return Ok(());
        }
        Err(match rate {
            Some(rate) if rate != RATE.hz() => error(
                ErrorKind::Protocol,
                &format!("the voice has {rate} Hz instead of {} Hz", RATE.hz()),
            ),
            _ => error(ErrorKind::Other, "Flite made no sound of a sentence"),
        })
    }
}

/// Text as Flite reads it: ASCII. Accents are dropped, typographic marks become their plain forms, and other scripts
/// become blanks.
fn plain(text: &str) -> String {
    text.nfkd()
        .filter_map(|c| match c {
            '\u{0300}'..='\u{036f}' => None,
            '‘' | '’' | '‛' | '′' => Some('\''),
            '“' | '”' | '„' | '″' | '«' | '»' => Some('"'),
            '–' | '—' | '―' | '−' | '‐' | '‑' => Some('-'),
            '⁄' => Some('/'),
            'ß' => Some('s'),
            'æ' | 'Æ' => Some('e'),
            'ø' | 'Ø' => Some('o'),
            'ł' | 'Ł' => Some('l'),
            c if c.is_ascii() => Some(c),
            _ => Some(' '),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_without_flite_is_named() {
        let dir = tempfile::tempdir().unwrap();
        // Not `Flite::load`, which uses what another test has loaded.
        let error = load(&[dir.path().into()]).map(drop).unwrap_err();
        assert!(matches!(error, VoiceError::Library { .. }), "{error}");
        let (words, path) = (error.to_string(), dir.path().display().to_string());
        assert!(words.contains(&path), "{words}");
        assert!(words.contains("libflite1"), "{words}");
    }

    #[test]
    fn text_is_brought_to_what_flite_can_read() {
        let table = [
            ("plain", "plain"),
            ("Café “Zoë” – naïve…", "Cafe \"Zoe\" - naive..."),
            ("½ of ﬁve", "1/2 of five"),
            ("Привет, Bob", "      , Bob"),
            ("🎉", " "),
        ];
        for (text, expected) in table {
            assert_eq!(plain(text), expected, "{text}");
        }
    }
}
