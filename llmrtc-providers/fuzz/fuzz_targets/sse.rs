//! Whatever a vendor sends, in whatever pieces, gives the same events as in one piece, and never panics.
#![no_main]

use libfuzzer_sys::fuzz_target;
use llmrtc_providers::sse::{SseDecoder, SseError, SseEvent};

fn decode<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<SseEvent>, SseError> {
    let mut decoder = SseDecoder::default();
    for chunk in chunks {
        decoder.push(chunk)?;
    }
    let mut events: Vec<_> = std::iter::from_fn(|| decoder.next_event()).collect();
    events.extend(decoder.finish()?);
    Ok(events)
}

fuzz_target!(|input: (u8, &[u8])| {
    let (size, stream) = input;
    let whole = decode([stream]);
    let split = decode(stream.chunks(usize::from(size).max(1)));
    assert_eq!(whole, split);
});
