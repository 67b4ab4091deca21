use std::{ops::Range, time::Duration};

use unicode_segmentation::UnicodeSegmentation;

use super::tables::{is_dense, is_unspaced_script};
use crate::playout::Played;

/// Characters per second of speech, used until this turn's own rate is known. English: 150–160 words per minute, six
/// characters each with the space. Dense scripts: a character is a syllable, of which Mandarin speakers say 5.2 a
/// second (F. Pellegrino et al., *A cross-language perspective on speech information rate*, Language 87, 2011).
const CHARS_PER_SECOND: u32 = 15;
const DENSE_CHARS_PER_SECOND: u32 = 5;

/// One segment as it went to playout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpokenSpan {
    /// The bytes of the assistant text it stands for.
    pub span: Range<usize>,
    /// The audio synthesised for it so far.
    pub audio: Duration,
    /// Its synthesis is over, so that `audio` is all of it.
    pub complete: bool,
}

/// The part of `text` that was heard when playout came as far as `played` (B2): segments played to their end, and
/// of the one being played the fraction that was, cut back to a word boundary. Scripts without spaces are cut between
/// graphemes. `spans` holds one entry per segment, in order of their indices.
///
/// The result is a prefix of `text` without trailing white space, and grows with `played`. Spans that do not fit
/// `text` count as not heard.
pub fn heard_text(text: &str, spans: &[SpokenSpan], played: Played) -> String {
    let current = usize::try_from(played.segment).unwrap_or(usize::MAX);
    let end = match spans.get(current) {
        None => spans.last().map_or(0, |last| last.span.end),
        Some(spoken) => {
            let part = text.get(spoken.span.clone()).unwrap_or_default();
            let chars = chars_played(part, spoken, spans, text, played.within);
            spoken.span.start + cut_back(part, chars)
        }
    };
    text.get(..end).unwrap_or_default().trim_end().to_owned()
}

/// How many characters of `part` were said in `within`.
fn chars_played(
    part: &str,
    spoken: &SpokenSpan,
    spans: &[SpokenSpan],
    text: &str,
    within: Duration,
) -> usize {
    let chars = part.chars().count();
    let audio = if spoken.complete {
        spoken.audio
    } else {
        // What has been written is a lower bound of what there will be.
        spoken.audio.max(estimate(part, chars, spans, text))
    };
    if audio.is_zero() {
        return 0;
    }
    let share = chars as u128 * within.as_nanos() / audio.as_nanos();
    usize::try_from(share).map_or(chars, |share| share.min(chars))
}

/// How long `part` will take at the rate of the segments that are complete.
fn estimate(part: &str, chars: usize, spans: &[SpokenSpan], text: &str) -> Duration {
    let (mut said, mut took) = (0_u128, Duration::ZERO);
    for spoken in spans {
        // Audio of nothing and nothing for audio (failed synthesis) say nothing about the rate.
        if spoken.complete && !spoken.audio.is_zero() {
            let part = text.get(spoken.span.clone()).unwrap_or_default();
            said += part.chars().count() as u128;
            took += spoken.audio;
        }
    }
    let own_rate = (took.as_nanos() * chars as u128).checked_div(said);
    let nanos = own_rate.unwrap_or_else(|| {
        let dense = part.chars().filter(|c| is_dense(*c)).count();
        let rate = if dense * 2 > chars {
            DENSE_CHARS_PER_SECOND
        } else {
            CHARS_PER_SECOND
        };
        1_000_000_000 * chars as u128 / u128::from(rate)
    });
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// The last place at or before `chars` characters where `part` can be cut, in bytes.
fn cut_back(part: &str, chars: usize) -> usize {
    let Some((limit, _)) = part.char_indices().nth(chars) else {
        return part.len();
    };
    let mut cut = 0;
    let mut before: Option<char> = None;
    for (at, grapheme) in part.grapheme_indices(true) {
        if at > limit {
            break;
        }
        let mut inside = grapheme.chars();
        let after = inside.next();
        let between =
            |class: fn(char) -> bool| before.is_some_and(class) || after.is_some_and(class);
        if between(char::is_whitespace) || between(is_unspaced_script) {
            cut = at;
        }
        before = inside.next_back().or(after);
    }
    cut
}
