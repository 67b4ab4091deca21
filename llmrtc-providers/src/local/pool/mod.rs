//! The inference threads that all models and sessions share.
//!
//! Models are bound by arithmetic, so more threads than cores only make every caller wait longer; and a model that runs
//! on a runtime's worker stalls the connections of everybody on it. All inference of a process therefore goes through
//! one [`InferencePool`] of `cores − 1` threads whose priority lies below that of the media threads: a late word is a
//! delay, a late audio frame is a crack in somebody's ear.
//!
//! Jobs are short. A transcription is one job, a language model submits one job per token; so callers take turns,
//! and no thread is held by one session for long.

use std::{
    any::Any,
    collections::VecDeque,
    fmt, io,
    num::NonZeroUsize,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

use tokio::sync::oneshot;

mod latest;
#[cfg(test)]
mod tests;

pub use latest::Latest;

/// Jobs that wait, over all priorities. A session has at most a handful, so this is hundreds of sessions behind
/// `cores − 1` threads: an answer that far back comes too late to be spoken. Full: the newest job is refused.
const QUEUE_JOBS: usize = 1024;

/// Every so many jobs, the one that has waited longest runs whatever its priority is. Without it, sessions that
/// listen could keep those that answer from ever finishing; with it, they lose at most a quarter of the threads.
const OLDEST_EVERY: u64 = 4;

/// How far the threads step back behind the media threads, in steps of `nice`: about a third of their weight.
#[cfg(target_os = "linux")]
const NICE: i32 = 5;

/// What a job is for. Earlier variants run first; within one, first come, first served.
///
/// The order is that of what the caller waits for in silence. Only when a turn has ended does anything else of it
/// begin, so the turn check leads and the transcript follows. Partial transcripts come next because they are stale
/// soonest. Speech synthesis precedes the language model: a sentence that has been written should be heard, and while
/// it plays there is time to write the next.
///
/// The order is not strict. Every fourth job is the one that has waited longest, so nothing waits for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Whether the caller has finished speaking.
    Turn,
    /// The final transcript of what was said.
    Transcript,
    /// A transcript while the caller speaks.
    Partial,
    /// Speech synthesis.
    Voice,
    /// The next token of a language model.
    Token,
}

impl Priority {
    const COUNT: usize = Self::Token as usize + 1;
}

/// Why a job gave no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// More work waits than could be done in time. Retrying at once makes it worse.
    #[error("the inference queue is full: admit fewer sessions or give the process more cores")]
    Full,
    /// The job panicked: a defect. Others are not affected.
    #[error("an inference job panicked")]
    Panicked,
}

/// A fixed set of threads that run inference jobs by [`Priority`]. Clones share the threads, which end with the last
/// clone, after what is queued.
#[derive(Clone)]
pub struct InferencePool(Arc<Handle>);

impl InferencePool {
    /// Starts `threads` threads; by default one per core but one, and at least one.
    ///
    /// Their priority is lowered where the system can do that for a thread (Linux); elsewhere, and where it is
    /// refused, they run like any other.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn new(threads: Option<NonZeroUsize>) -> io::Result<Self> {
        let threads = threads.map_or_else(default_threads, NonZeroUsize::get);
        let handle = Handle {
            shared: Arc::default(),
            threads,
        };
        // `handle` exists before the threads do: should one fail to start, dropping it ends the others.
        for index in 0..threads {
            let shared = Arc::clone(&handle.shared);
            thread::Builder::new()
                .name(format!("inference-{index}"))
                .spawn(move || {
                    step_back();
                    shared.work();
                })?;
        }
        Ok(Self(Arc::new(handle)))
    }

    /// Runs `job` on one of the threads and returns what it returns. Costs microseconds beyond the job itself.
    ///
    /// # Cancel safety
    /// Dropping the future removes a job that has not begun. One that has begun runs to its end, and its result is
    /// dropped: a long job should look at a flag of its own now and then.
    ///
    /// # Errors
    /// [`PoolError::Full`] at once when too much waits; [`PoolError::Panicked`] when `job` panics.
    pub async fn run<T, F>(&self, priority: Priority, job: F) -> Result<T, PoolError>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let (work, result) = prepare(job);
        let shared = &self.0.shared;
        let _withdraw = Withdraw {
            shared,
            priority,
            ticket: shared.push(priority, work)?,
        };
        // The sender is dropped unused only with the pool, which `self` keeps.
        let result = result.await.map_err(|_| PoolError::Panicked)?;
        result.map_err(|_payload| PoolError::Panicked)
    }

    /// How many threads there are: how many jobs run at the same time.
    pub fn threads(&self) -> usize {
        self.0.threads
    }

    /// How many jobs wait: a measure of load.
    pub fn waiting(&self) -> usize {
        self.0.shared.lock().waiting
    }

    /// Queues work that nobody withdraws.
    pub(super) fn submit(&self, priority: Priority, work: Work) -> Result<(), PoolError> {
        self.0.shared.push(priority, work).map(drop)
    }
}

impl fmt::Debug for InferencePool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InferencePool")
            .field("threads", &self.threads())
            .field("waiting", &self.waiting())
            .finish()
    }
}

/// What the clones share. Dropping it lets the threads end.
struct Handle {
    shared: Arc<Shared>,
    threads: usize,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.ready.notify_all();
        // Not joined: the last clone may be dropped on a runtime's worker, which must not wait for a model.
    }
}

type Work = Box<dyn FnOnce() + Send>;

/// What a job returned or panicked with.
type Outcome<T> = Result<T, Box<dyn Any + Send>>;

/// Wraps a job so that its panic stays with its caller.
fn prepare<T, F>(job: F) -> (Work, oneshot::Receiver<Outcome<T>>)
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    let (sender, receiver) = oneshot::channel();
    let work = Box::new(move || {
        // The job owns what it captured, so nothing half-changed outlives the panic.
        let _ = sender.send(catch_unwind(AssertUnwindSafe(job)));
    });
    (work, receiver)
}

struct Job {
    /// Rises with every job of the pool: its place in the order of arrival.
    ticket: u64,
    work: Work,
}

#[derive(Default)]
struct Queue {
    by_priority: [VecDeque<Job>; Priority::COUNT],
    waiting: usize,
    next_ticket: u64,
    taken: u64,
    closed: bool,
}

impl Queue {
    fn pop(&mut self) -> Option<Job> {
        let heads = self
            .by_priority
            .iter()
            .enumerate()
            .filter_map(|(priority, jobs)| Some((priority, jobs.front()?.ticket)));
        let (priority, _) = if (self.taken + 1).is_multiple_of(OLDEST_EVERY) {
            heads.min_by_key(|(_, ticket)| *ticket)
        } else {
            heads.min_by_key(|(priority, _)| *priority)
        }?;
        self.taken += 1;
        self.waiting -= 1;
        self.by_priority[priority].pop_front()
    }
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    ready: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // No job runs under the lock, so a poisoned queue is a whole one.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, priority: Priority, work: Work) -> Result<u64, PoolError> {
        let mut queue = self.lock();
        if queue.waiting >= QUEUE_JOBS {
            return Err(PoolError::Full);
        }
        let ticket = queue.next_ticket;
        queue.next_ticket += 1;
        queue.waiting += 1;
        queue.by_priority[priority as usize].push_back(Job { ticket, work });
        drop(queue);
        self.ready.notify_one();
        Ok(ticket)
    }

    /// Takes a job back, if it has not begun.
    fn withdraw(&self, priority: Priority, ticket: u64) -> Option<Job> {
        let mut queue = self.lock();
        let jobs = &mut queue.by_priority[priority as usize];
        let place = jobs.binary_search_by_key(&ticket, |job| job.ticket).ok()?;
        let job = jobs.remove(place);
        queue.waiting -= 1;
        job
    }

    /// A thread's life.
    fn work(&self) {
        let mut queue = self.lock();
        loop {
            if let Some(job) = queue.pop() {
                drop(queue);
                // `prepare` catches what the job throws; this is for destructors of what it captured or returned.
                let _ = catch_unwind(AssertUnwindSafe(job.work));
                queue = self.lock();
            } else if queue.closed {
                return;
            } else {
                queue = self
                    .ready
                    .wait(queue)
                    .unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

/// Takes the job back when its future is dropped.
struct Withdraw<'a> {
    shared: &'a Shared,
    priority: Priority,
    ticket: u64,
}

impl Drop for Withdraw<'_> {
    fn drop(&mut self) {
        // What the job captured is dropped here, outside the lock.
        drop(self.shared.withdraw(self.priority, self.ticket));
    }
}

fn default_threads() -> usize {
    let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    cores.saturating_sub(1).max(1)
}

/// Lowers the priority of the calling thread. `nice` is per thread on Linux only; elsewhere it would slow the process.
fn step_back() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::nice(NICE) {
        tracing::debug!(%error, "inference threads keep their priority");
    }
}
