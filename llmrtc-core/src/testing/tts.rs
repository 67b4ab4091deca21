use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};

use super::{
    Fault, Ledger,
    script::{Played, Player, Script, Scripts, exhausted, lock},
};
use crate::{
    audio::{AudioFormat, EncodedAudio, PcmChunk, SampleRate},
    provider::{
        CallContext, ProviderError, ProviderStream, StreamingTts, TtsConfig, TtsProvider, TtsResult,
    },
};

/// The audio of one character of text.
const PER_CHAR: Duration = Duration::from_millis(50);
/// The audio of one streamed piece.
const PIECE: Duration = Duration::from_millis(100);

/// How the synthesis of one text goes.
#[derive(Clone, Debug)]
pub struct Speech {
    /// A refusal, or the wait before the stream.
    opening: Script<Bytes>,
    /// The wait before each piece.
    gap: Duration,
    /// What happens after so many pieces instead of going on.
    cut: Option<(usize, Option<Fault>)>,
    /// Cut pieces inside samples.
    odd_pieces: bool,
}

impl Speech {
    /// All of it, at once.
    pub fn normal() -> Self {
        Self {
            opening: Script::new(),
            gap: Duration::ZERO,
            cut: None,
            odd_pieces: false,
        }
    }

    /// None of it: the request fails.
    pub fn refuse(fault: impl Into<Fault>) -> Self {
        Self {
            opening: Script::refuse(fault),
            ..Self::normal()
        }
    }

    /// None of it: no answer ever.
    pub fn silent() -> Self {
        Self {
            opening: Script::silent(),
            ..Self::normal()
        }
    }

    /// Lets the request itself take this long.
    #[must_use]
    pub fn opens_after(mut self, wait: Duration) -> Self {
        self.opening = self.opening.opens_after(wait);
        self
    }

    /// Waits before each piece of 100 ms.
    #[must_use]
    pub fn paced(mut self, gap: Duration) -> Self {
        self.gap = gap;
        self
    }

    /// Fails after so many pieces.
    #[must_use]
    pub fn fails_after(mut self, pieces: usize, fault: impl Into<Fault>) -> Self {
        self.cut = Some((pieces, Some(fault.into())));
        self
    }

    /// Delivers so many pieces, then nothing more.
    #[must_use]
    pub fn hangs_after(mut self, pieces: usize) -> Self {
        self.cut = Some((pieces, None));
        self
    }

    /// Cuts the pieces in the middle of samples, as vendors do.
    #[must_use]
    pub fn odd_pieces(mut self) -> Self {
        self.odd_pieces = true;
        self
    }

    fn script(self, audio: &PcmChunk) -> Script<Bytes> {
        let bytes = audio.to_le_bytes();
        let piece = audio.rate().samples_in(PIECE) * 2 - usize::from(self.odd_pieces);
        let mut script = self.opening;
        for (index, start) in (0..bytes.len()).step_by(piece).enumerate() {
            match self.cut {
                Some((at, Some(fault))) if at == index => return script.fail(fault),
                Some((at, None)) if at == index => return script.hang(),
                _ => {}
            }
            if !self.gap.is_zero() {
                script = script.wait(self.gap);
            }
            script = script.item(bytes.slice(start..bytes.len().min(start + piece)));
        }
        script
    }
}

/// Text to speech whose audio lasts 50 ms per character of text, at 24 kHz.
#[derive(Clone, Debug)]
pub struct ScriptedTts {
    name: Arc<str>,
    streaming: bool,
    scripts: Arc<Mutex<Scripts<Speech>>>,
    requests: Arc<Mutex<Vec<(String, TtsConfig)>>>,
    ledger: Ledger,
}

impl ScriptedTts {
    /// Speaks every text at once.
    pub fn new() -> Self {
        let tts = Self {
            name: "scripted-tts".into(),
            streaming: true,
            scripts: Arc::new(Mutex::new(Scripts::new())),
            requests: Arc::default(),
            ledger: Ledger::default(),
        };
        tts.always(Speech::normal())
    }

    /// Takes the streaming capability away.
    #[must_use]
    pub fn one_shot(mut self) -> Self {
        self.streaming = false;
        self
    }

    /// The next text without a script of its own is spoken like this.
    #[must_use]
    pub fn then(self, speech: Speech) -> Self {
        lock(&self.scripts).then(speech);
        self
    }

    /// All further texts are spoken like this.
    #[must_use]
    pub fn always(self, speech: Speech) -> Self {
        lock(&self.scripts).always(speech);
        self
    }

    /// The texts asked for so far, in order of the requests.
    pub fn texts(&self) -> Vec<String> {
        let requests = lock(&self.requests);
        requests.iter().map(|(text, _)| text.clone()).collect()
    }

    /// The configurations of all calls so far.
    pub fn configs(&self) -> Vec<TtsConfig> {
        let requests = lock(&self.requests);
        requests.iter().map(|(_, config)| config.clone()).collect()
    }

    /// What became of the calls.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The audio of a text: all samples have the same value, which depends on the text alone.
    pub fn audio_of(text: &str) -> PcmChunk {
        let rate = SampleRate::HZ_24000;
        let chars = u32::try_from(text.chars().count()).unwrap_or(u32::MAX);
        let sum = text.bytes().fold(0u16, |sum, byte| {
            sum.wrapping_mul(31).wrapping_add(u16::from(byte))
        });
        // Audible, never zero, and far from clipping.
        let level = 1_000 + (sum % 8_192).cast_signed();
        PcmChunk::new(vec![level; rate.samples_in(PER_CHAR * chars)], rate)
    }

    async fn open(&self, text: &str, config: &TtsConfig) -> Result<Player<Bytes>, ProviderError> {
        let call = self.ledger.start();
        lock(&self.requests).push((text.to_owned(), config.clone()));
        let speech = lock(&self.scripts).next();
        let speech = speech.ok_or_else(|| exhausted(&self.name))?;
        let script = speech.script(&Self::audio_of(text));
        Player::open(Arc::clone(&self.name), script, call).await
    }
}

impl Default for ScriptedTts {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl TtsProvider for ScriptedTts {
    fn name(&self) -> &str {
        &self.name
    }

    async fn speak(
        &self,
        text: &str,
        config: &TtsConfig,
        _cx: &CallContext,
    ) -> Result<TtsResult, ProviderError> {
        let mut player = self.open(text, config).await?;
        loop {
            match player.next().await {
                Played::Item(_) | Played::InputEnd => {}
                Played::Failed(error) => return Err(error),
                Played::End => break,
            }
        }
        let audio = Self::audio_of(text);
        Ok(TtsResult {
            audio: EncodedAudio {
                data: audio.to_wav(),
                format: AudioFormat::Wav,
                rate: Some(audio.rate()),
            },
        })
    }

    fn streaming(&self) -> Option<&dyn StreamingTts> {
        self.streaming.then_some(self)
    }
}

#[async_trait]
impl StreamingTts for ScriptedTts {
    async fn speak_stream(
        &self,
        text: &str,
        config: &TtsConfig,
        _cx: &CallContext,
    ) -> Result<ProviderStream<Bytes>, ProviderError> {
        let player = self.open(text, config).await?;
        let pieces = stream::unfold(Some(player), |player| async {
            let mut player = player?;
            match player.next().await {
                Played::Item(piece) => Some((Ok(piece), Some(player))),
                Played::Failed(error) => Some((Err(error), None)),
                Played::InputEnd | Played::End => None,
            }
        });
        Ok(pieces.boxed())
    }
}
