use std::{fmt, num::NonZeroUsize, sync::Arc};

use llmrtc_core::provider::{LlmProvider, SttProvider, TtsProvider};

/// Models in this process, for the name `embedded`: each of them, or why it is not there and what to do about it, to be read
/// after "and". The default has none.
#[derive(Clone)]
pub struct InProcess {
    /// The language model.
    pub llm: Result<Arc<dyn LlmProvider>, String>,
    /// Speech to text.
    pub stt: Result<Arc<dyn SttProvider>, String>,
    /// Text to speech.
    pub tts: Result<Arc<dyn TtsProvider>, String>,
}

impl Default for InProcess {
    fn default() -> Self {
        let reason = || "this program has none of its own".to_owned();
        Self {
            llm: Err(reason()),
            stt: Err(reason()),
            tts: Err(reason()),
        }
    }
}

impl fmt::Debug for InProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InProcess")
            .field("llm", &self.llm.as_ref().map(|llm| llm.name()))
            .field("stt", &self.stt.as_ref().map(|stt| stt.name()))
            .field("tts", &self.tts.as_ref().map(|tts| tts.name()))
            .finish()
    }
}

/// The models in this process that would be chosen if they were there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The language model.
    pub llm: bool,
    /// Speech to text.
    pub stt: bool,
    /// Text to speech.
    pub tts: bool,
    /// The variables name a language model, so that nothing else needs to be looked for.
    pub named_llm: bool,
    /// A model server of this machine may stand in for the language model (`EMBEDDED_NEIGHBOURS`, on by default).
    pub neighbours: bool,
    /// Threads for all models together (`EMBEDDED_THREADS`). Absent: one less than there are cores.
    pub threads: Option<NonZeroUsize>,
}

impl Wanted {
    /// The same where providers come from elsewhere: what is left is for other models.
    #[must_use]
    pub fn without_providers(self) -> Self {
        Self {
            llm: false,
            stt: false,
            tts: false,
            ..self
        }
    }

    /// Whether any is.
    pub fn any(self) -> bool {
        self.llm || self.stt || self.tts
    }
}
