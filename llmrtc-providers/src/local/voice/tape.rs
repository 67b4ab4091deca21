use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::sync::Notify;

/// Carries samples from a thread that makes them to a task that wants them.
///
/// It is not a queue that makes the writer wait: that would hold a thread of all sessions for as long as one listener
/// takes. It holds one sentence, which is bounded, and the next is begun when this one has been taken.
#[derive(Debug)]
pub(super) struct Tape {
    limit_samples: usize,
    inner: Mutex<Inner>,
    filled: Notify,
    stopped: AtomicBool,
}

#[derive(Default)]
struct Inner {
    waiting: Vec<i16>,
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
    pub(super) fn new(limit_samples: usize) -> Self {
        Self {
            limit_samples,
            inner: Mutex::default(),
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
        let samples = std::mem::take(&mut self.inner().waiting);
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
