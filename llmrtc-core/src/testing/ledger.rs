use std::sync::Arc;

use tokio::sync::watch;

/// What became of the calls to a scripted provider.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallCounts {
    /// Calls made.
    pub started: usize,
    /// Calls that went to their end.
    pub completed: usize,
    /// Calls that failed as scripted.
    pub failed: usize,
    /// Calls whose future or stream was dropped before its end: cancelled.
    pub dropped: usize,
}

impl CallCounts {
    /// Calls under way.
    pub fn active(&self) -> usize {
        self.started - self.completed - self.failed - self.dropped
    }
}

/// Counts calls and lets a test wait for what happens to them. Clones share the counts.
#[derive(Clone, Debug, Default)]
pub struct Ledger(Arc<watch::Sender<CallCounts>>);

impl Ledger {
    /// The counts now.
    pub fn counts(&self) -> CallCounts {
        *self.0.borrow()
    }

    /// Waits until the counts are as wanted. Bound it with a timeout.
    pub async fn until(&self, wanted: impl FnMut(&CallCounts) -> bool) -> CallCounts {
        let mut counts = self.0.subscribe();
        let found = counts.wait_for(wanted).await.map(|counts| *counts);
        // The sender lives in `self`, so waiting cannot fail.
        found.unwrap_or_else(|_| self.counts())
    }

    pub(super) fn start(&self) -> Call {
        self.0.send_modify(|counts| counts.started += 1);
        Call {
            ledger: self.clone(),
            open: true,
        }
    }
}

/// One call under way. Dropped before an end was noted, it counts as dropped.
#[derive(Debug)]
pub(super) struct Call {
    ledger: Ledger,
    open: bool,
}

impl Call {
    pub(super) fn completed(&mut self) {
        self.end(|counts| counts.completed += 1);
    }

    pub(super) fn failed(&mut self) {
        self.end(|counts| counts.failed += 1);
    }

    fn end(&mut self, note: impl FnOnce(&mut CallCounts)) {
        if std::mem::replace(&mut self.open, false) {
            self.ledger.0.send_modify(note);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end(|counts| counts.dropped += 1);
    }
}
