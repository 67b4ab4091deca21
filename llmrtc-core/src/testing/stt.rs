use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};

use super::{
    Ledger, Script,
    script::{Played, Player, Scripts, Step, exhausted, lock},
};
use crate::{
    audio::{PcmChunk, Utterance},
    provider::{
        CallContext, ProviderError, ProviderStream, StreamingStt, SttConfig, SttProvider, SttResult,
    },
};

impl Script<SttResult> {
    /// One final transcript, once the caller stopped.
    pub fn transcript(text: &str) -> Self {
        Self::new().input_end().finally(text)
    }

    /// Live: goes on once the frames have ended. Buffered: nothing.
    #[must_use]
    pub fn input_end(mut self) -> Self {
        self.steps.push(Step::InputEnd);
        self
    }

    /// A transcript that may still change. Ignored by buffered transcription.
    #[must_use]
    pub fn interim(self, text: &str) -> Self {
        self.item(SttResult {
            text: text.to_owned(),
            ..SttResult::default()
        })
    }

    /// A final transcript. Buffered transcription joins several with spaces.
    #[must_use]
    pub fn finally(self, text: &str) -> Self {
        self.item(SttResult {
            text: text.to_owned(),
            is_final: true,
            ..SttResult::default()
        })
    }
}

/// Speech to text that follows scripts, one per utterance.
#[derive(Clone, Debug)]
pub struct ScriptedStt {
    name: Arc<str>,
    live: bool,
    scripts: Arc<Mutex<Scripts<Script<SttResult>>>>,
    heard: Arc<Mutex<Heard>>,
    ledger: Ledger,
}

#[derive(Debug, Default)]
struct Heard {
    utterances: Vec<Utterance>,
    configs: Vec<SttConfig>,
    frames: Vec<PcmChunk>,
}

impl ScriptedStt {
    /// Without a script: every call fails.
    pub fn new() -> Self {
        Self {
            name: "scripted-stt".into(),
            live: false,
            scripts: Arc::new(Mutex::new(Scripts::new())),
            heard: Arc::default(),
            ledger: Ledger::default(),
        }
    }

    /// Every utterance is understood as this text.
    pub fn hearing(text: &str) -> Self {
        Self::new().always(Script::transcript(text))
    }

    /// Adds the live capability.
    #[must_use]
    pub fn live(mut self) -> Self {
        self.live = true;
        self
    }

    /// The next call without a script of its own follows this one.
    #[must_use]
    pub fn then(self, script: Script<SttResult>) -> Self {
        lock(&self.scripts).then(script);
        self
    }

    /// All further calls follow this one.
    #[must_use]
    pub fn always(self, script: Script<SttResult>) -> Self {
        lock(&self.scripts).always(script);
        self
    }

    /// The utterances of buffered calls so far.
    pub fn utterances(&self) -> Vec<Utterance> {
        lock(&self.heard).utterances.clone()
    }

    /// The configurations of all calls so far.
    pub fn configs(&self) -> Vec<SttConfig> {
        lock(&self.heard).configs.clone()
    }

    /// The frames of all live calls so far.
    pub fn frames(&self) -> Vec<PcmChunk> {
        lock(&self.heard).frames.clone()
    }

    /// What became of the calls.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    async fn open(&self, config: &SttConfig) -> Result<Player<SttResult>, ProviderError> {
        let call = self.ledger.start();
        lock(&self.heard).configs.push(config.clone());
        let script = lock(&self.scripts).next();
        let script = script.ok_or_else(|| exhausted(&self.name))?;
        Player::open(Arc::clone(&self.name), script, call).await
    }
}

impl Default for ScriptedStt {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl SttProvider for ScriptedStt {
    fn name(&self) -> &str {
        &self.name
    }

    async fn transcribe(
        &self,
        audio: Utterance,
        config: &SttConfig,
        _cx: &CallContext,
    ) -> Result<SttResult, ProviderError> {
        lock(&self.heard).utterances.push(audio);
        let mut player = self.open(config).await?;
        let mut finals = Vec::new();
        loop {
            match player.next().await {
                Played::Item(result) if result.is_final => finals.push(result.text),
                Played::Item(_) | Played::InputEnd => {}
                Played::Failed(error) => return Err(error),
                Played::End => break,
            }
        }
        Ok(SttResult {
            text: finals.join(" "),
            is_final: true,
            ..SttResult::default()
        })
    }

    fn streaming(&self) -> Option<&dyn StreamingStt> {
        self.live.then_some(self)
    }
}

#[async_trait]
impl StreamingStt for ScriptedStt {
    async fn transcribe_stream(
        &self,
        frames: BoxStream<'static, PcmChunk>,
        config: &SttConfig,
        _cx: &CallContext,
    ) -> Result<ProviderStream<SttResult>, ProviderError> {
        let player = self.open(config).await?;
        let frames = Frames {
            source: Some(frames),
            heard: Arc::clone(&self.heard),
        };
        let live = Live {
            player,
            frames,
            any: false,
        };
        let results = stream::unfold(Some(live), |live| async {
            let mut live = live?;
            match live.next().await? {
                Ok(result) => Some((Ok(result), Some(live))),
                Err(error) => Some((Err(error), None)),
            }
        });
        Ok(results.boxed())
    }
}

struct Live {
    player: Player<SttResult>,
    frames: Frames,
    /// Whether a frame came yet.
    any: bool,
}

impl Live {
    async fn next(&mut self) -> Option<Result<SttResult, ProviderError>> {
        if !self.any {
            self.any = self.frames.read().await;
        }
        // Without a frame nothing was said, so there is nothing to finalise.
        while self.any {
            match self.frames.during(self.player.step()).await {
                Some(Played::Item(result)) => return Some(Ok(result)),
                Some(Played::Failed(error)) => return Some(Err(error)),
                Some(Played::InputEnd) => while self.frames.read().await {},
                Some(Played::End) | None => break,
            }
        }
        self.player.finish();
        None
    }
}

struct Frames {
    source: Option<BoxStream<'static, PcmChunk>>,
    heard: Arc<Mutex<Heard>>,
}

impl Frames {
    /// Reads one frame. Says whether there was one.
    async fn read(&mut self) -> bool {
        let frame = match &mut self.source {
            Some(source) => source.next().await,
            None => None,
        };
        match frame {
            Some(frame) => {
                lock(&self.heard).frames.push(frame);
                true
            }
            None => {
                self.source = None;
                false
            }
        }
    }

    /// Reads on until `work` is done.
    async fn during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        while self.source.is_some() {
            tokio::select! {
                biased;
                result = &mut work => return result,
                _ = self.read() => {}
            }
        }
        work.await
    }
}
