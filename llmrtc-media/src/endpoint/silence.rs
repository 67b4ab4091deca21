use std::time::Duration;

use super::{EndpointPolicy, Pause, Verdict};
use crate::config::EndpointConfig;

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
pub(super) fn looks_unfinished(text: &str) -> bool {
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
