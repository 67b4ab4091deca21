//! When is the caller done? A policy, because no single rule suits dictation, banter and phone numbers.

use std::time::Duration;

use crate::config::EndpointConfig;

/// A moment of silence within an utterance.
#[derive(Clone, Copy)]
pub struct Pause<'a> {
    /// The utterance so far: mono, 16 kHz, with padding, up to now.
    pub audio: &'a [i16],
    /// Silence since the last voiced frame.
    pub silence: Duration,
    /// What live transcription has made of it so far, where there is any.
    pub transcript: Option<&'a str>,
}

impl std::fmt::Debug for Pause<'_> {
    /// Sizes only: the rest is what somebody said.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Pause({} samples, silent for {:?})",
            self.audio.len(),
            self.silence
        )
    }
}

/// What a policy says to a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The caller is done.
    End,
    /// The caller is not done. Holds for at most [`LONGEST_HOLD`].
    Hold,
    /// No opinion (yet): the [`SilencePolicy`] decides.
    Default,
}

/// No policy keeps an utterance open in silence for longer.
pub const LONGEST_HOLD: Duration = Duration::from_secs(3);

/// Decides when an utterance ends. One per call, used on its media thread, so it must not block.
///
/// It is asked again for every silent frame, every 16 ms. A policy whose judgement takes time (a model, a service) starts
/// it when the pause has lasted as long as it wants, says [`Verdict::Default`] or [`Verdict::Hold`] meanwhile, and
/// returns the judgement once it is there: a late judgement costs no more than one frame.
pub trait EndpointPolicy: Send {
    /// Judges the pause as it is now.
    fn assess(&mut self, pause: &Pause<'_>) -> Verdict;

    /// The pause is over: the caller goes on, or the utterance has ended. Pending judgements are void.
    fn resumed(&mut self) {}
}

/// Ends after a fixed silence, a longer one where the transcript looks unfinished.
#[derive(Clone, Copy, Debug)]
pub struct SilencePolicy {
    silence: Duration,
    extended: Duration,
}

impl SilencePolicy {
    /// The operator's silences.
    pub fn new(config: &EndpointConfig) -> Self {
        Self {
            silence: config.silence,
            extended: config.extended_silence.max(config.silence),
        }
    }
}

impl EndpointPolicy for SilencePolicy {
    fn assess(&mut self, pause: &Pause<'_>) -> Verdict {
        let limit = match pause.transcript {
            Some(text) if looks_unfinished(text) => self.extended,
            _ => self.silence,
        };
        if pause.silence >= limit {
            Verdict::End
        } else {
            Verdict::Hold
        }
    }
}

/// Words that English speakers do not end a turn on. Other languages rely on punctuation.
const DANGLING: [&str; 34] = [
    "a", "an", "and", "as", "at", "because", "but", "by", "er", "erm", "for", "from", "hmm", "if",
    "in", "is", "like", "my", "of", "on", "or", "so", "than", "that", "the", "then", "to", "uh",
    "uhm", "um", "with", "when", "which", "your",
];

/// Whether more is likely to follow: a hanging comma, dash or ellipsis, or a last word that needs another.
fn looks_unfinished(text: &str) -> bool {
    let text = text.trim_end();
    if text.ends_with([',', '-', '–', '—', '…', ':']) || text.ends_with("...") {
        return true;
    }
    let last = text.rsplit(char::is_whitespace).next().unwrap_or_default();
    // A full stop or question mark after the word says that the transcriber took it for an end.
    DANGLING.iter().any(|word| last.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assess(silence_ms: u64, transcript: Option<&str>) -> Verdict {
        SilencePolicy::new(&EndpointConfig::default()).assess(&Pause {
            audio: &[],
            silence: Duration::from_millis(silence_ms),
            transcript,
        })
    }

    #[test]
    fn silence_ends_and_unfinished_sentences_get_longer() {
        let silence = EndpointConfig::default().silence.as_millis() as u64;
        let extended = EndpointConfig::default().extended_silence.as_millis() as u64;
        let table = [
            (silence - 1, None, Verdict::Hold),
            (silence, None, Verdict::End),
            (silence, Some("what time is it?"), Verdict::End),
            (
                silence,
                Some("I would like to book a table for"),
                Verdict::Hold,
            ),
            (silence, Some("well, um"), Verdict::Hold),
            (silence, Some("so I said…"), Verdict::Hold),
            (silence, Some("where are you from?"), Verdict::End),
            (silence, Some(""), Verdict::End),
            (extended, Some("and then"), Verdict::End),
        ];
        for (ms, text, expected) in table {
            assert_eq!(assess(ms, text), expected, "{ms} ms, {text:?}");
        }
    }
}
