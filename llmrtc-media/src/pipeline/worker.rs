use std::{
    fmt, io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{self, Thread},
    time::Instant,
};

use super::{call::Call, lock};

/// A media thread.
pub(super) struct Worker {
    shared: Arc<Shared>,
    thread: Thread,
}

#[derive(Default)]
struct Shared {
    inbox: Mutex<Inbox>,
    /// Calls on this thread, those in the inbox included.
    load: AtomicUsize,
}

#[derive(Default)]
struct Inbox {
    new: Vec<Call>,
    /// Nobody can add calls any more.
    orphaned: bool,
}

impl Worker {
    pub(super) fn start(index: usize) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let handle = thread::Builder::new()
            .name(format!("media-{index}"))
            .spawn({
                let shared = Arc::clone(&shared);
                move || run(&shared)
            })?;
        // The thread is not joined: its last call may be dropped on the thread itself.
        let thread = handle.thread().clone();
        Ok(Self { shared, thread })
    }

    pub(super) fn load(&self) -> usize {
        self.shared.load.load(Ordering::Relaxed)
    }

    /// Wakes the thread when it sleeps.
    pub(super) fn waker(&self) -> Thread {
        self.thread.clone()
    }

    pub(super) fn add(&self, call: Call) {
        self.shared.load.fetch_add(1, Ordering::Relaxed);
        lock(&self.shared.inbox).new.push(call);
        self.thread.unpark();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        lock(&self.shared.inbox).orphaned = true;
        self.thread.unpark();
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ({} calls)",
            self.thread.name().unwrap_or("media"),
            self.load()
        )
    }
}

/// Serves calls until none is left and none can come.
fn run(shared: &Shared) {
    let mut calls: Vec<Call> = Vec::new();
    loop {
        {
            let mut inbox = lock(&shared.inbox);
            calls.append(&mut inbox.new);
            if inbox.orphaned && calls.is_empty() {
                return;
            }
        }
        let before = calls.len();
        calls.retain_mut(Call::step);
        shared
            .load
            .fetch_sub(before - calls.len(), Ordering::Relaxed);

        let next = calls.iter().filter_map(Call::deadline).min();
        match next.map(|at| at.saturating_duration_since(Instant::now())) {
            // A wake-up since the calls were looked at is not lost: parking returns at once.
            None => thread::park(),
            Some(rest) if !rest.is_zero() => thread::park_timeout(rest),
            Some(_) => {}
        }
    }
}
