//! From the bytes of tokens to text that may be sent: whole characters, nothing of a stop sequence.

/// Bytes on their way to becoming text.
#[derive(Debug)]
pub(super) struct TextBuffer {
    /// Texts that end the answer; none is empty.
    stops: Vec<String>,
    /// The beginning of a character.
    bytes: Vec<u8>,
    /// Characters that could be the beginning of a stop sequence.
    held: String,
}

/// What there is to send.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ready {
    pub(super) text: String,
    /// A stop sequence came; the text ends before it.
    pub(super) stopped: bool,
}

impl TextBuffer {
    pub(super) fn new(stops: &[String]) -> Self {
        Self {
            stops: stops.iter().filter(|s| !s.is_empty()).cloned().collect(),
            bytes: Vec::new(),
            held: String::new(),
        }
    }

    /// Takes the bytes of one token and gives out what is certain.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Ready {
        self.bytes.extend_from_slice(bytes);
        let mut whole = self.bytes.len();
        if let Some(chunk) = self.bytes.utf8_chunks().last()
            && could_continue(chunk.invalid())
        {
            whole -= chunk.invalid().len();
        }
        let rest = self.bytes.split_off(whole);
        self.held.push_str(&String::from_utf8_lossy(&self.bytes));
        self.bytes = rest;
        if let Some(at) = self.stops.iter().filter_map(|s| self.held.find(s)).min() {
            self.held.truncate(at);
            return Ready {
                text: std::mem::take(&mut self.held),
                stopped: true,
            };
        }
        let kept = self
            .held
            .char_indices()
            .map(|(at, _)| at)
            .find(|at| self.stops.iter().any(|s| s.starts_with(&self.held[*at..])))
            .unwrap_or(self.held.len());
        let rest = self.held.split_off(kept);
        Ready {
            text: std::mem::replace(&mut self.held, rest),
            stopped: false,
        }
    }

    /// The end: what was held back is text after all. Half a character is not.
    pub(super) fn finish(&mut self) -> String {
        self.bytes.clear();
        std::mem::take(&mut self.held)
    }
}

/// Whether what is not valid UTF-8 at the end of the bytes so far may become so.
fn could_continue(invalid: &[u8]) -> bool {
    let wanted = match invalid.first() {
        Some(0xC2..=0xDF) => 2,
        Some(0xE0..=0xEF) => 3,
        Some(0xF0..=0xF4) => 4,
        _ => return false,
    };
    // `utf8_chunks` reports the longest beginning that could be continued, and what cannot alone.
    invalid.len() < wanted
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(stops: &[&str], pieces: &[&[u8]]) -> (Vec<String>, bool) {
        let stops: Vec<String> = stops.iter().map(|s| s.to_string()).collect();
        let mut buffer = TextBuffer::new(&stops);
        let mut out = Vec::new();
        for piece in pieces {
            let ready = buffer.push(piece);
            out.push(ready.text);
            if ready.stopped {
                return (out, true);
            }
        }
        out.push(buffer.finish());
        (out, false)
    }

    #[test]
    fn characters_stay_whole() {
        let (out, _) = run(&[], &[b"a\xE2", b"\x82", b"\xAC!", b"\xF0\x9F"]);
        assert_eq!(out, ["a", "", "€!", "", ""]);
    }

    #[test]
    fn what_is_no_text_is_marked() {
        let (out, _) = run(&[], &[b"a\xFFb", b"\xE2", b"x"]);
        assert_eq!(out.concat(), "a\u{FFFD}b\u{FFFD}x");
    }

    #[test]
    fn a_stop_sequence_over_several_tokens_is_cut_out() {
        let (out, stopped) = run(&["</s>", "END"], &[b"hi <", b"/", b"s>more"]);
        assert_eq!((out.concat().as_str(), stopped), ("hi ", true));
        let (out, stopped) = run(&["</s>"], &[b"a <", b"/b"]);
        assert_eq!((out.concat().as_str(), stopped), ("a </b", false));
        let (out, stopped) = run(&["ab"], &[b"xa"]);
        assert_eq!((out.concat().as_str(), stopped), ("xa", false));
    }

    proptest! {
        #[test]
        fn text_survives_any_cut(text in ".{0,40}", cuts in prop::collection::vec(1usize..6, 0..60)) {
            let mut rest = text.as_bytes();
            let mut pieces = Vec::new();
            for cut in cuts {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                pieces.push(piece);
                rest = after;
            }
            pieces.push(rest);
            prop_assert_eq!(run(&["never in it"], &pieces).0.concat(), text);
        }
    }
}
