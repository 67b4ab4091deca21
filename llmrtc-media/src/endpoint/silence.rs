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

/// Words that nothing ends on, whatever a transcriber puts behind them. English; other languages rely on punctuation.
const OPEN: [&str; 26] = [
    "a", "an", "and", "because", "but", "er", "erm", "every", "hmm", "if", "my", "or", "our",
    "than", "the", "their", "uh", "uhm", "um", "until", "when", "where", "whether", "which",
    "while", "your",
];

/// Words that end a turn only where the transcriber heard an end: "is that what it is for?"
const HANGING: [&str; 46] = [
    "about", "after", "am", "are", "as", "at", "be", "been", "before", "between", "by", "can",
    "could", "did", "does", "during", "for", "from", "has", "have", "he", "i", "in", "into", "is",
    "like", "near", "not", "of", "on", "she", "should", "so", "that", "then", "these", "they",
    "to", "was", "we", "were", "will", "with", "without", "would", "those",
];

const NUMBERS: [&str; 29] = [
    "oh",
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
    "thirty",
    "forty",
    "fifty",
    "sixty",
    "seventy",
    "eighty",
    "ninety",
];

/// Whether more is likely to follow: a hanging comma, dash or ellipsis, a last word that needs another, or digits being
/// dictated, of which nobody knows how many there will be.
pub(super) fn looks_unfinished(text: &str) -> bool {
    let text = text.trim_end();
    if text.ends_with([',', '-', '–', '—', '…', ':']) || text.ends_with("...") {
        return true;
    }
    let mut words = text
        .rsplit(|c: char| c.is_whitespace() || c == '-' || c == ',')
        .filter(|word| !word.is_empty());
    let last = words.next().unwrap_or_default();
    let among =
        |list: &[&str], word: &str| list.iter().any(|known| word.eq_ignore_ascii_case(known));
    let bare = last.trim_end_matches('.');
    let is_number = |word: &str| {
        !word.is_empty() && word.chars().all(|c| c.is_ascii_digit()) || among(&NUMBERS, word)
    };
    let dictated = is_number(bare)
        && (bare.len() > 2 && bare.starts_with(|c: char| c.is_ascii_digit())
            || words.next().is_some_and(is_number));
    among(&HANGING, last) || among(&OPEN, bare) || dictated
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
            (silence, Some("what is it for?"), Verdict::End),
            (silence, Some("send it to the."), Verdict::Hold),
            (
                silence,
                Some("My number is five, five, five."),
                Verdict::Hold,
            ),
            (silence, Some("the code is 4711"), Verdict::Hold),
            (silence, Some("let us meet at seven."), Verdict::End),
            (silence, Some(""), Verdict::End),
            (extended, Some("and then"), Verdict::End),
        ];
        for (ms, text, expected) in table {
            assert_eq!(assess(ms, text), expected, "{ms} ms, {text:?}");
        }
    }
}
