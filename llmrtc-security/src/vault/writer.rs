//! The voice path never waits for the disk: records are offered to a queue and acknowledged when they are durable (T27).
//!
//! *Full*: the newest record is refused, counted and told so at once. *Failing*: while the database (or the master key)
//! is out of reach the batch in hand is tried again, at first after 100 ms and at most every 5 s, and the queue fills
//! behind it. *Ending*: what is queued is stored within the grace period; what cannot be is reported as lost, never
//! silently dropped. An acknowledged record is durable; one whose acknowledgement was lost may be there, once.

use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::FutureExt;
use llmrtc_core::tasks::Tasks;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{NewRecord, RecordId, Vault, VaultError, store::SealedRow};

/// Records on their way to the database: a minute of 100 busy conversations. Full: the newest is refused.
const QUEUE_RECORDS: usize = 4_096;
/// Bytes on their way to the database, so that recordings cannot fill the memory. Full: the newest is refused.
const QUEUE_BYTES: usize = 64 * 1024 * 1024;
/// Records of one transaction.
const BATCH: usize = 256;
/// First and longest pause before a failed batch is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How long the queue may take to empty after the end was announced.
const GRACE: Duration = Duration::from_secs(5);

/// Hands records over to the task that stores them. Clones share the queue.
#[derive(Clone)]
pub struct VaultWriter {
    queue: mpsc::Sender<Job>,
    bytes: Arc<Semaphore>,
    counters: Arc<Counters>,
    /// Something accepted was stored or lost.
    done: Arc<Notify>,
}

#[derive(Default)]
struct Counters {
    accepted: AtomicU64,
    stored: AtomicU64,
    refused: AtomicU64,
    lost: AtomicU64,
    failures: AtomicU64,
}

/// What has become of the records so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriterStats {
    /// Waiting to be stored, without the batch in hand.
    pub queued: usize,
    /// Durable.
    pub stored: u64,
    /// Not accepted, because the queue was full or the writer had ended.
    pub refused: u64,
    /// Accepted and not stored.
    pub lost: u64,
    /// Failed attempts to store a batch. Growing while `stored` stands still: the database is down.
    pub failures: u64,
}

struct Job {
    record: NewRecord,
    acknowledge: oneshot::Sender<Result<RecordId, NotStored>>,
    /// Its share of [`QUEUE_BYTES`], held until it is stored.
    _bytes: OwnedSemaphorePermit,
}

/// A record was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// Too much is waiting already.
    #[error("vault queue is full")]
    Full,
    /// The writer has ended.
    #[error("vault writer has ended")]
    Ended,
}

/// An accepted record was not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("record was not stored")]
#[non_exhaustive]
pub struct NotStored;

/// Becomes ready when the record is durable. Dropping it leaves the record to the writer.
#[derive(Debug)]
pub struct Acknowledgement(oneshot::Receiver<Result<RecordId, NotStored>>);

impl Future for Acknowledgement {
    type Output = Result<RecordId, NotStored>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0
            .poll_unpin(cx)
            .map(|answer| answer.unwrap_or(Err(NotStored)))
    }
}

impl fmt::Debug for VaultWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("VaultWriter").field(&self.stats()).finish()
    }
}

impl VaultWriter {
    /// Starts the task that stores, a service of `tasks`.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(vault: Arc<Vault>, tasks: &Tasks) -> Self {
        let (queue, jobs) = mpsc::channel(QUEUE_RECORDS);
        let counters = Arc::new(Counters::default());
        let done = Arc::new(Notify::new());
        let run = Run {
            vault,
            jobs,
            counters: Arc::clone(&counters),
            done: Arc::clone(&done),
        };
        tasks
            .spawn_service("vault writer", |cancel| run.serve(cancel))
            .detach();
        Self {
            queue,
            bytes: Arc::new(Semaphore::new(QUEUE_BYTES)),
            counters,
            done,
        }
    }

    /// Hands a record over. Never waits.
    ///
    /// # Errors
    /// When the queue is full or the writer has ended. The record is gone then, and counted.
    pub fn offer(&self, record: NewRecord) -> Result<Acknowledgement, Refused> {
        self.try_offer(record).inspect_err(|_| {
            self.counters.refused.fetch_add(1, Ordering::Relaxed);
        })
    }

    fn try_offer(&self, record: NewRecord) -> Result<Acknowledgement, Refused> {
        // A record longer than the queue never fits; the vault would refuse it as well.
        let length = u32::try_from(record.content.len()).map_err(|_| Refused::Full)?;
        let bytes = Arc::clone(&self.bytes)
            .try_acquire_many_owned(length)
            .map_err(|_| Refused::Full)?;
        let (acknowledge, acknowledgement) = oneshot::channel();
        let job = Job {
            record,
            acknowledge,
            _bytes: bytes,
        };
        match self.queue.try_send(job) {
            Ok(()) => {
                self.counters.accepted.fetch_add(1, Ordering::Relaxed);
                Ok(Acknowledgement(acknowledgement))
            }
            Err(mpsc::error::TrySendError::Full(_)) => Err(Refused::Full),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(Refused::Ended),
        }
    }

    /// Waits until everything accepted so far is stored or lost.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn settled(&self) {
        let accepted = self.counters.accepted.load(Ordering::Relaxed);
        loop {
            let done = self.done.notified();
            let stats = self.stats();
            if stats.stored + stats.lost >= accepted {
                return;
            }
            done.await;
        }
    }

    /// What has become of the records so far.
    pub fn stats(&self) -> WriterStats {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        WriterStats {
            queued: self.queue.max_capacity() - self.queue.capacity(),
            stored: count(&self.counters.stored),
            refused: count(&self.counters.refused),
            lost: count(&self.counters.lost),
            failures: count(&self.counters.failures),
        }
    }
}

struct Run {
    vault: Arc<Vault>,
    jobs: mpsc::Receiver<Job>,
    counters: Arc<Counters>,
    done: Arc<Notify>,
}

impl Run {
    async fn serve(mut self, cancel: CancellationToken) {
        let mut batch = Vec::with_capacity(BATCH);
        // Ends the work a while after the end was announced, whatever the database does.
        let deadline = {
            let cancel = cancel.clone();
            async move {
                cancel.cancelled().await;
                tokio::time::sleep(GRACE).await;
            }
        };
        tokio::pin!(deadline);
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled(), if !self.jobs.is_closed() => {
                    // What is in the queue still comes out.
                    self.jobs.close();
                    continue;
                }
                received = self.jobs.recv_many(&mut batch, BATCH) => if received == 0 {
                    break;
                },
            }
            let stored = tokio::select! {
                biased;
                () = store(&self.vault, &self.counters, &mut batch) => true,
                () = &mut deadline => false,
            };
            if !stored {
                self.give_up(&mut batch).await;
                break;
            }
            self.done.notify_waiters();
        }
        // A writer whose handles are all gone has nothing left to do, but is not over before it is told to be.
        cancel.cancelled().await;
    }

    async fn give_up(&mut self, batch: &mut Vec<Job>) {
        self.jobs.close();
        let mut lost = 0;
        loop {
            for job in batch.drain(..) {
                lost += 1;
                let _ = job.acknowledge.send(Err(NotStored));
            }
            if self.jobs.recv_many(batch, BATCH).await == 0 {
                break;
            }
        }
        self.counters.lost.fetch_add(lost, Ordering::Relaxed);
        self.done.notify_waiters();
        tracing::error!(lost, "vault records were not stored before the end");
    }
}

/// Stores a batch, however long it takes, and acknowledges its records.
///
/// # Cancel safety
/// When the future is dropped, the batch holds the jobs that have not been acknowledged.
async fn store(vault: &Vault, counters: &Counters, batch: &mut Vec<Job>) {
    let mut pause = RETRY.0;
    let mut rows: Vec<SealedRow> = Vec::with_capacity(batch.len());
    loop {
        match attempt(vault, counters, batch, &mut rows).await {
            Ok(()) => break,
            Err(error) => {
                counters.failures.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    records = batch.len(),
                    "vault cannot store; trying again"
                );
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY.1);
            }
        }
    }
    counters
        .stored
        .fetch_add(batch.len() as u64, Ordering::Relaxed);
    for (job, row) in batch.drain(..).zip(rows) {
        let _ = job.acknowledge.send(Ok(row.id));
    }
}

/// Seals what has not been sealed yet (`rows` are the beginning of `batch`) and inserts everything.
async fn attempt(
    vault: &Vault,
    counters: &Counters,
    batch: &mut Vec<Job>,
    rows: &mut Vec<SealedRow>,
) -> Result<(), VaultError> {
    vault.advance_clock().await?;
    while let Some(job) = batch.get(rows.len()) {
        match vault.seal(&job.record).await {
            Ok(row) => rows.push(row),
            Err(error) if error.is_transient() => return Err(error),
            Err(error) => {
                // It will never go in; the others must not suffer for it.
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "vault record cannot be stored"
                );
                let job = batch.remove(rows.len());
                counters.lost.fetch_add(1, Ordering::Relaxed);
                let _ = job.acknowledge.send(Err(NotStored));
            }
        }
    }
    vault.insert(rows).await
}
