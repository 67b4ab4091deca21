use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use llmrtc_core::audio::SampleRate;
use tokio::sync::Notify;

/// What is softer than this is the silence that libraries put before a sentence: −42 dBFS.
const SILENT_BELOW: u16 = 256;
/// Kept of it, so that a soft beginning is not cut: 30 ms.
const LEAD: Duration = Duration::from_millis(30);

/// Carries samples from a thread that makes them to a task that wants them.
///
/// It is not a queue that makes the writer wait: that would hold a thread of all sessions for as long as one listener
/// takes. It holds one sentence, which is bounded, and the next is begun when this one has been taken.
///
/// A tape that begins a speech leaves the silence before it out: the caller waits for the answer, not for a fifth of a
/// second of nothing.
#[derive(Debug)]
pub(super) struct Tape {
    limit_samples: usize,
    lead_samples: usize,
    inner: Mutex<Inner>,
    filled: Notify,
    stopped: AtomicBool,
}

#[derive(Default)]
struct Inner {
    waiting: Vec<i16>,
    /// Nothing but silence has come so far, and none of it is wanted; what waits is its end.
    leading: bool,
    /// All that were ever written.
    written: usize,
}

impl std::fmt::Debug for Inner {
    /// Numbers only: samples say what was said.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {} samples", self.waiting.len(), self.written)
    }
}

impl Tape {
    /// For at most `limit` at this rate. `begins`: this is the beginning of a speech.
    pub(super) fn new(rate: SampleRate, limit: Duration, begins: bool) -> Self {
        let inner = Inner {
            leading: begins,
            ..Inner::default()
        };
        Self {
            limit_samples: rate.samples_in(limit),
            lead_samples: rate.samples_in(LEAD),
            inner: Mutex::new(inner),
            filled: Notify::new(),
            stopped: AtomicBool::new(false),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends samples. `false`: nobody wants more, or there are too many.
    pub(super) fn write(&self, samples: &[i16]) -> bool {
        if self.is_stopped() {
            return false;
        }
        let mut inner = self.inner();
        if inner.written + samples.len() > self.limit_samples {
            return false;
        }
        inner.written += samples.len();
        inner.waiting.extend_from_slice(samples);
        if inner.leading {
            let all = inner.waiting.len();
            let mut waiting = inner.waiting.iter();
            let loud = waiting.position(|sample| sample.unsigned_abs() >= SILENT_BELOW);
            inner.leading = loud.is_none();
            let unwanted = loud.unwrap_or(all).saturating_sub(self.lead_samples);
            inner.waiting.drain(..unwanted);
        }
        drop(inner);
        self.filled.notify_one();
        true
    }

    /// How many samples were written.
    pub(super) fn written(&self) -> usize {
        self.inner().written
    }

    /// Takes what is there, as little-endian bytes.
    pub(super) fn take(&self) -> Option<Bytes> {
        let mut inner = self.inner();
        if inner.leading {
            return None;
        }
        let samples = std::mem::take(&mut inner.waiting);
        drop(inner);
        if samples.is_empty() {
            return None;
        }
        let mut bytes = BytesMut::with_capacity(samples.len() * 2);
        for sample in samples {
            bytes.put_i16_le(sample);
        }
        Some(bytes.freeze())
    }

    /// Waits until samples were written since the last wait.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(super) async fn filled(&self) {
        self.filled.notified().await;
    }

    /// Asks the writer to end.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: SampleRate = SampleRate::HZ_16000;

    fn tape(begins: bool) -> Tape {
        Tape::new(RATE, Duration::from_secs(1), begins)
    }

    fn taken(tape: &Tape) -> Option<usize> {
        tape.take().map(|bytes| bytes.len() / 2)
    }

    #[test]
    fn a_speech_begins_with_sound_and_later_silence_stays() {
        let tape = tape(true);
        assert!(tape.write(&[3; 4000]));
        assert_eq!(taken(&tape), None);
        let mut sound = vec![-5; 100];
        sound.extend([-900; 50]);
        assert!(tape.write(&sound));
        assert_eq!(taken(&tape), Some(RATE.samples_in(LEAD) + 50));
        assert!(tape.write(&[0; 700]));
        assert_eq!(taken(&tape), Some(700));
    }

    #[test]
    fn sentences_within_a_speech_keep_their_pauses() {
        let tape = tape(false);
        assert!(tape.write(&[0; 700]));
        assert_eq!(taken(&tape), Some(700));
    }

    #[test]
    fn a_tape_takes_no_more_than_its_length() {
        let tape = tape(true);
        assert!(tape.write(&[0; 16_000]));
        assert!(!tape.write(&[0; 1]));
    }
}
