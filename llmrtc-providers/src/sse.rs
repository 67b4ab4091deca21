//! Server-sent events: a bounded, incremental decoder without I/O.
//!
//! It follows the event stream grammar of the WHATWG HTML standard (section 9.2.6), with two deliberate differences:
//! sizes are capped, because a vendor must not be able to grow our memory, and an event that the end of the stream
//! cut off before its blank line is delivered by [`SseDecoder::finish`], because several servers forget that line.
//! `id` and `retry` fields only matter for reconnecting, which no vendor stream supports; they are skipped.

use std::{collections::VecDeque, mem};

/// Longest line, in bytes without its line end. One token's frame is under 1 KiB; whole tool arguments fit too.
pub const MAX_LINE_BYTES: usize = 1024 * 1024;

/// Largest event, in bytes of joined `data` lines.
pub const MAX_EVENT_BYTES: usize = 4 * 1024 * 1024;

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SseEvent {
    /// The `event` field, if there was one.
    pub event: Option<String>,
    /// The `data` lines joined by `\n`. Invalid UTF-8 is replaced.
    pub data: String,
}

/// The stream exceeded a cap; the decoder accepts nothing after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SseError {
    /// A line grew past [`MAX_LINE_BYTES`].
    #[error("event stream line exceeds {MAX_LINE_BYTES} bytes")]
    LineTooLong,
    /// An event grew past [`MAX_EVENT_BYTES`].
    #[error("event exceeds {MAX_EVENT_BYTES} bytes")]
    EventTooLarge,
}

/// Turns bytes, cut anywhere, into events.
///
/// ```
/// use llmrtc_providers::sse::SseDecoder;
///
/// let mut decoder = SseDecoder::default();
/// decoder.push(b": keep-alive\r\nda")?;
/// decoder.push(b"ta: hello\r\n\r\n")?;
/// assert_eq!(decoder.next_event().unwrap().data, "hello");
/// assert!(decoder.next_event().is_none());
/// # Ok::<(), llmrtc_providers::sse::SseError>(())
/// ```
#[derive(Debug, Default)]
pub struct SseDecoder {
    /// A line whose end has not arrived.
    line: Vec<u8>,
    /// The `event` field of the event being read.
    event: Option<String>,
    /// Its `data` lines so far; `None` until the first, so that a lone `data:` still makes an event.
    data: Option<String>,
    /// Complete events nobody took yet.
    ready: VecDeque<SseEvent>,
    /// The last byte was CR: an LF that follows belongs to the same line end.
    after_cr: bool,
    /// The first line, which may start with a byte order mark, is behind us.
    past_first_line: bool,
    /// A cap was exceeded.
    failed: Option<SseError>,
}

impl SseDecoder {
    /// Feeds bytes. Take the events with [`next_event`](Self::next_event).
    ///
    /// # Errors
    /// [`SseError`] once a cap is exceeded, and on every call after that.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<(), SseError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        while !bytes.is_empty() {
            if mem::take(&mut self.after_cr) && bytes[0] == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let Some(end) = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r')) else {
                return self.keep(bytes);
            };
            self.after_cr = bytes[end] == b'\r';
            self.end_line(&bytes[..end])?;
            bytes = &bytes[end + 1..];
        }
        Ok(())
    }

    /// The next complete event.
    pub fn next_event(&mut self) -> Option<SseEvent> {
        self.ready.pop_front()
    }

    /// Ends the stream and returns the event that was still open, if any.
    ///
    /// # Errors
    /// [`SseError`] when a cap is or was exceeded.
    pub fn finish(&mut self) -> Result<Option<SseEvent>, SseError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        if !self.line.is_empty() {
            self.end_line(&[])?;
        }
        self.dispatch();
        Ok(self.ready.pop_front())
    }

    fn fail(&mut self, error: SseError) -> Result<(), SseError> {
        self.line = Vec::new();
        self.data = None;
        self.failed = Some(error);
        Err(error)
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<(), SseError> {
        if self.line.len() + bytes.len() > MAX_LINE_BYTES {
            return self.fail(SseError::LineTooLong);
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    /// A line ended with `tail`; what came before it is in `self.line`, usually nothing.
    fn end_line(&mut self, tail: &[u8]) -> Result<(), SseError> {
        if self.line.len() + tail.len() > MAX_LINE_BYTES {
            return self.fail(SseError::LineTooLong);
        }
        if self.line.is_empty() {
            return self.field(tail);
        }
        let mut line = mem::take(&mut self.line);
        line.extend_from_slice(tail);
        let result = self.field(&line);
        // Keeps the allocation for the next split line.
        line.clear();
        self.line = line;
        result
    }

    fn field(&mut self, mut line: &[u8]) -> Result<(), SseError> {
        if !mem::replace(&mut self.past_first_line, true) {
            line = line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line);
        }
        if line.is_empty() {
            self.dispatch();
            return Ok(());
        }
        let (name, value) = match line.iter().position(|byte| *byte == b':') {
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, &[][..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match name {
            b"data" => {
                let value = String::from_utf8_lossy(value);
                match &mut self.data {
                    None => self.data = Some(value.into_owned()),
                    Some(data) if data.len() + 1 + value.len() > MAX_EVENT_BYTES => {
                        return self.fail(SseError::EventTooLarge);
                    }
                    Some(data) => {
                        data.push('\n');
                        data.push_str(&value);
                    }
                }
            }
            b"event" => self.event = Some(String::from_utf8_lossy(value).into_owned()),
            // Comments have an empty name.
            _ => {}
        }
        Ok(())
    }

    fn dispatch(&mut self) {
        let event = self.event.take();
        if let Some(data) = self.data.take() {
            self.ready.push_back(SseEvent { event, data });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<SseEvent>, SseError> {
        let mut decoder = SseDecoder::default();
        let mut events = Vec::new();
        for chunk in chunks {
            decoder.push(chunk)?;
            events.extend(std::iter::from_fn(|| decoder.next_event()));
        }
        events.extend(decoder.finish()?);
        Ok(events)
    }

    #[test]
    fn the_grammar_as_a_table() {
        type Event = (Option<&'static str>, &'static str);
        let table: &[(&str, &[Event])] = &[
            ("data: a\n\ndata: b\n\n", &[(None, "a"), (None, "b")]),
            (
                "data: a\r\n\r\ndata: b\r\n\r\n",
                &[(None, "a"), (None, "b")],
            ),
            ("data: a\r\rdata: b\r\r", &[(None, "a"), (None, "b")]),
            ("data: a\ndata:b\ndata\n\n", &[(None, "a\nb\n")]),
            ("data:  two spaces\n\n", &[(None, " two spaces")]),
            ("event: error\ndata: {}\n\n", &[(Some("error"), "{}")]),
            ("event: lost\n\ndata: x\n\n", &[(None, "x")]),
            (": OPENROUTER PROCESSING\n\ndata: x\n\n", &[(None, "x")]),
            ("\u{feff}data: bom\n\n", &[(None, "bom")]),
            ("data: \u{feff}kept\n\n", &[(None, "\u{feff}kept")]),
            ("data:\n\n", &[(None, "")]),
            ("id: 7\nretry: 10\nnonsense\n\n", &[]),
            ("data: no blank line\n", &[(None, "no blank line")]),
            ("data: no line end", &[(None, "no line end")]),
            ("\n\n\r\n\r", &[]),
        ];
        for (stream, expected) in table {
            let events = decode([stream.as_bytes()]).unwrap();
            let events: Vec<_> = events
                .iter()
                .map(|e| (e.event.as_deref(), e.data.as_str()))
                .collect();
            assert_eq!(events, *expected, "{stream:?}");
        }
    }

    #[test]
    fn oversize_is_refused_for_good_and_frees_what_was_held() {
        let mut decoder = SseDecoder::default();
        let endless = vec![b'x'; MAX_LINE_BYTES];
        decoder.push(&endless).unwrap();
        assert_eq!(decoder.push(b"x"), Err(SseError::LineTooLong));
        assert_eq!(decoder.line.capacity(), 0);
        assert_eq!(decoder.push(b"\n\n"), Err(SseError::LineTooLong));
        assert_eq!(decoder.finish(), Err(SseError::LineTooLong));

        let mut line = b"data:".to_vec();
        line.resize(MAX_LINE_BYTES, b'x');
        line.push(b'\n');
        let stream = line.repeat(5);
        assert_eq!(decode([&stream[..]]), Err(SseError::EventTooLarge));
    }

    #[test]
    fn a_whole_line_past_the_cap_is_refused_too() {
        let mut line = vec![b'x'; MAX_LINE_BYTES + 1];
        line.push(b'\n');
        assert_eq!(decode([&line[..]]), Err(SseError::LineTooLong));
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_events(
            pieces in prop::collection::vec(
                prop::sample::select(vec![
                    "data: ", "data", "event: e", ":", "\n", "\r", "\r\n", "\n\n", "ä€😀", "x", "\u{feff}", " ",
                ]),
                0..40,
            ),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let stream = pieces.concat().into_bytes();
            let whole = decode([&stream[..]]).unwrap();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let split = decode(cuts.windows(2).map(|pair| &stream[pair[0]..pair[1]])).unwrap();
            prop_assert_eq!(&whole, &split);
            prop_assert_eq!(whole, decode(stream.chunks(1)).unwrap());
        }

        #[test]
        fn bytes_of_any_kind_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(bytes.chunks(7));
        }
    }
}
