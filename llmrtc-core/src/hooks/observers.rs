//! The way from a turn to its observers: a bounded queue and a task for each.

use std::{
    fmt,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt, future::join_all};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout},
};

use super::{HookEvent, HookResult, Hooks, ServerEvent, TurnContext};
use crate::{
    tasks::{Tasks, panic_message},
    telemetry::{HOOKS_DROPPED, Metrics},
};

/// Session tasks → one observer. Full: the event is dropped and counted.
pub const EVENT_QUEUE: usize = 1024;
/// The part of the queue that chunks may not use, so that a flood of them never costs a lifecycle event: room for
/// about ten whole turns.
const LIFECYCLE_RESERVE: usize = 256;
/// The longest one call of an observer may take.
const CALL_LIMIT: Duration = Duration::from_secs(5);
/// The shortest time between two complaints about one observer.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(10);

/// The observers of a server. Cloning is cheap; emitting never blocks and never fails.
///
/// Dropping the last clone stops the observers where they are, so [`flush`](Self::flush) first.
#[derive(Clone, Default)]
pub struct Observers(Option<Arc<Inner>>);

struct Inner {
    queues: Vec<Queue>,
    metrics: Metrics,
    /// Owns the observers' tasks.
    _tasks: Tasks,
}

struct Queue {
    name: &'static str,
    sender: mpsc::Sender<Item>,
    /// Events lost so far; the observer's task logs them.
    dropped: Arc<AtomicU64>,
}

#[derive(Clone)]
enum Notice {
    Turn(TurnContext, HookEvent),
    Server(ServerEvent),
}

enum Item {
    Notice(Arc<Notice>),
    /// Answered once everything before it was handled.
    Flush(oneshot::Sender<()>),
}

impl Observers {
    /// Starts one task per observer. Events lost to a full queue are counted in `metrics`.
    ///
    /// # Panics
    /// Outside a tokio runtime, unless the list is empty.
    pub fn new(observers: Vec<Arc<dyn Hooks>>, metrics: Metrics) -> Self {
        if observers.is_empty() {
            return Self::none();
        }
        let tasks = Tasks::root("observers");
        let queues = observers
            .into_iter()
            .map(|hooks| {
                let (sender, receiver) = mpsc::channel(EVENT_QUEUE);
                let dropped = Arc::new(AtomicU64::new(0));
                let worker = Worker {
                    name: hooks.name(),
                    hooks,
                    dropped: Arc::clone(&dropped),
                    dropped_logged: 0,
                    last_complaint: None,
                    suppressed: 0,
                };
                let name = worker.name;
                tasks.spawn(name, |_| worker.run(receiver)).detach();
                Queue {
                    name,
                    sender,
                    dropped,
                }
            })
            .collect();
        Self(Some(Arc::new(Inner {
            queues,
            metrics,
            _tasks: tasks,
        })))
    }

    /// Nobody watches, and emitting costs one comparison.
    pub const fn none() -> Self {
        Self(None)
    }

    /// Whether nobody watches.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Tells all observers about an event of a turn. Where making the event costs something, use
    /// [`emit_with`](Self::emit_with).
    pub fn emit(&self, cx: &TurnContext, event: HookEvent) {
        self.emit_with(cx, || event);
    }

    /// As [`emit`](Self::emit), with an event that is made only if somebody watches.
    ///
    /// A failure is followed by its `on_error`.
    pub fn emit_with(&self, cx: &TurnContext, event: impl FnOnce() -> HookEvent) {
        let Some(inner) = &self.0 else { return };
        let event = event();
        let may_be_dropped = event.may_be_dropped();
        let failure = event.failure(cx);
        inner.send(Notice::Turn(cx.clone(), event), may_be_dropped);
        if let Some(failure) = failure {
            inner.send(Notice::Server(failure), false);
        }
    }

    /// Tells all observers about an event outside of turns.
    pub fn emit_server(&self, event: impl FnOnce() -> ServerEvent) {
        if let Some(inner) = &self.0 {
            inner.send(Notice::Server(event()), false);
        }
    }

    /// Waits until all observers have handled what was emitted before, at most `limit`. Says whether they have.
    ///
    /// # Cancel safety
    /// Dropping the future loses no event.
    pub async fn flush(&self, limit: Duration) -> bool {
        let Some(inner) = &self.0 else { return true };
        let flushes = inner.queues.iter().map(|queue| async {
            let (done, handled) = oneshot::channel();
            queue.sender.send(Item::Flush(done)).await.is_ok() && handled.await.is_ok()
        });
        match timeout(limit, join_all(flushes)).await {
            Ok(flushed) => flushed.into_iter().all(|flushed| flushed),
            Err(_) => false,
        }
    }
}

impl Inner {
    fn send(&self, notice: Notice, may_be_dropped: bool) {
        let notice = Arc::new(notice);
        for queue in &self.queues {
            let room = !may_be_dropped || queue.sender.capacity() > LIFECYCLE_RESERVE;
            if !room
                || queue
                    .sender
                    .try_send(Item::Notice(Arc::clone(&notice)))
                    .is_err()
            {
                queue.dropped.fetch_add(1, Ordering::Relaxed);
                self.metrics
                    .increment(HOOKS_DROPPED, 1, &[("observer", queue.name)]);
            }
        }
    }
}

impl fmt::Debug for Observers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.0.iter().flat_map(|inner| &inner.queues);
        f.debug_list()
            .entries(names.map(|queue| queue.name))
            .finish()
    }
}

/// One observer's task.
struct Worker {
    name: &'static str,
    hooks: Arc<dyn Hooks>,
    dropped: Arc<AtomicU64>,
    /// The part of `dropped` that was logged.
    dropped_logged: u64,
    last_complaint: Option<Instant>,
    /// Failures since the last complaint that were not logged.
    suppressed: u64,
}

impl Worker {
    async fn run(mut self, mut items: mpsc::Receiver<Item>) {
        while let Some(item) = items.recv().await {
            match item {
                Item::Notice(notice) => self.call(&notice).await,
                // Nobody may be waiting any more.
                Item::Flush(done) => drop(done.send(())),
            }
        }
    }

    async fn call(&mut self, notice: &Notice) {
        let call = AssertUnwindSafe(async {
            match notice {
                Notice::Turn(cx, event) => self.hooks.on_event(cx, event).await,
                Notice::Server(event) => self.hooks.on_server_event(event).await,
            }
        })
        .catch_unwind();
        let result: HookResult = match timeout(CALL_LIMIT, call).await {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => Err(format!("panicked: {}", panic_message(panic.as_ref())).into()),
            Err(_) => Err("took too long".into()),
        };
        let dropped = self.dropped.load(Ordering::Relaxed);
        if result.is_err() || dropped > self.dropped_logged {
            let event = match notice {
                Notice::Turn(_, event) => event.name(),
                Notice::Server(event) => event.name(),
            };
            self.complain(event, result, dropped);
        }
    }

    fn complain(&mut self, event: &'static str, result: HookResult, dropped: u64) {
        let now = Instant::now();
        let too_soon = |last: Instant| now.duration_since(last) < COMPLAINT_INTERVAL;
        if self.last_complaint.is_some_and(too_soon) {
            self.suppressed += u64::from(result.is_err());
            return;
        }
        self.last_complaint = Some(now);
        let dropped_now = dropped - std::mem::replace(&mut self.dropped_logged, dropped);
        let suppressed = std::mem::take(&mut self.suppressed);
        let observer = self.name;
        if let Err(error) = result {
            // Debug of a string escapes control characters: the error is not ours.
            let error = error.to_string();
            tracing::warn!(observer, event, ?error, suppressed, "observer failed");
        }
        if dropped_now > 0 {
            tracing::warn!(observer, dropped = dropped_now, "observer is too slow");
        }
    }
}
