//! Providers that need nothing: no key, no network, no model. They let a server start, be heard and be tested.
//!
//! [`EchoStt`] hears how long somebody spoke, [`EchoLlm`] answers with what it was told, and [`EchoTts`] turns text
//! into a synthetic babble in which words, sentences and questions can be told apart by ear.

mod llm;
mod stt;
mod tts;
pub mod voice;

use std::time::Duration;

use serde::Deserialize;

#[cfg(feature = "local")]
pub(crate) use self::llm::words;
pub use self::{llm::EchoLlm, stt::EchoStt, tts::EchoTts};

/// What the echo providers share. The defaults answer at once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EchoConfig {
    /// Time to a transcript.
    #[serde(with = "llmrtc_core::duration")]
    pub transcript_delay: Duration,
    /// Time to the first word of an answer.
    #[serde(with = "llmrtc_core::duration")]
    pub first_word_delay: Duration,
    /// Time between two words of an answer.
    #[serde(with = "llmrtc_core::duration")]
    pub word_delay: Duration,
    /// Time to the first audio of a text.
    #[serde(with = "llmrtc_core::duration")]
    pub speech_delay: Duration,
    /// What every utterance is heard as, instead of its length.
    pub transcript: Option<String>,
    /// What every text is answered with; `{text}` stands for it and `{turns}` for the number of earlier ones.
    pub reply: Option<String>,
}

/// Waits, unless there is nothing to wait for: a timer costs up to a millisecond even when it is zero.
async fn pause(delay: Duration) {
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
}
