use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{InferencePool, PoolError, Priority, Work, prepare};

/// A place in the queue for work of which only the newest counts, such as turn checks of one session.
///
/// While a job waits, a newer one takes its place in the queue; the older is dropped without having run. A session that
/// asks faster than the pool answers thus holds one place, keeps it, and always gets an answer about the present.
/// A job that has begun is not stopped.
#[derive(Clone, Debug)]
pub struct Latest {
    pool: InferencePool,
    priority: Priority,
    slot: Arc<Slot>,
}

impl Latest {
    /// An empty place in `pool`'s queue. Clones share it.
    pub fn new(pool: InferencePool, priority: Priority) -> Self {
        Self {
            pool,
            priority,
            slot: Arc::default(),
        }
    }

    /// Runs `job` unless a newer one comes before it has begun; `None` says that one did.
    ///
    /// # Cancel safety
    /// Like [`InferencePool::run`]: dropping the future drops a job that has not begun.
    ///
    /// # Errors
    /// As [`InferencePool::run`].
    pub async fn run<T, F>(&self, job: F) -> Result<Option<T>, PoolError>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let (work, result) = prepare(job);
        let (id, replaced) = self.slot.put(work);
        let _withdraw = Withdraw {
            slot: &self.slot,
            id,
        };
        if replaced.is_none() {
            let slot = Arc::clone(&self.slot);
            // A withdrawn job leaves an empty slot and a place in the queue that costs nothing.
            let visit = Box::new(move || {
                if let Some(work) = slot.take(None) {
                    work();
                }
            });
            self.pool.submit(self.priority, visit)?;
        }
        drop(replaced);
        match result.await {
            Ok(Ok(value)) => Ok(Some(value)),
            Ok(Err(_payload)) => Err(PoolError::Panicked),
            Err(_dropped) => Ok(None),
        }
    }
}

#[derive(Default)]
struct Slot(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    id: u64,
    work: Option<Work>,
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, work: Work) -> (u64, Option<Work>) {
        let mut waiting = self.lock();
        waiting.id += 1;
        (waiting.id, waiting.work.replace(work))
    }

    /// Takes what waits; with `id`, only if that is what waits.
    fn take(&self, id: Option<u64>) -> Option<Work> {
        let mut waiting = self.lock();
        if id.is_some_and(|id| id != waiting.id) {
            return None;
        }
        waiting.work.take()
    }
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let waiting = self.lock().work.is_some();
        f.debug_struct("Slot").field("waiting", &waiting).finish()
    }
}

struct Withdraw<'a> {
    slot: &'a Slot,
    id: u64,
}

impl Drop for Withdraw<'_> {
    fn drop(&mut self) {
        drop(self.slot.take(Some(self.id)));
    }
}
