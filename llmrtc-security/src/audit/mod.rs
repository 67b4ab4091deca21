//! Who did what, when and with what outcome, in a chain that shows tampering (G1–G5).
//!
//! [`Audit::record`] hands an event to one writer task and returns; [`Audit::record_durable`] also waits until it is
//! written, and refuses if it cannot be. Records are lines of OCSF-shaped JSON ([`AuditEvent`]), each with the hash of
//! the one before it and a keyed mac; a head signed with Ed25519 follows after so many records or seconds, at
//! rotation and at the end. [`verify`] finds what was changed afterwards.
//!
//! | When | `block` | `drop` |
//! | --- | --- | --- |
//! | a sink fails | `record_durable` waits up to the deadline and then fails: refuse the action | goes on |
//! | the queue is full | the same | counted, and recorded as `log_lost` when the sink works again |
//!
//! Content never gets in: arguments of tools are keyed hashes ([`AuditKeys::args_hash`]), messages of errors pass a
//! scrubber or are left out.

mod args;
mod chain;
mod config;
mod event;
mod keys;
mod recover;
mod render;
mod sink;
mod text;
pub mod verify;
mod writer;

#[cfg(test)]
mod tests;

use std::{
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use llmrtc_core::{clock::Clock, tasks::Tasks};
use serde_json::Value;
use tokio::sync::{Semaphore, mpsc, oneshot};

pub use self::{
    args::{ArgsHash, canonical_json},
    config::{AuditConfig, Policy, PolicyConfig, SinkKind},
    event::{Action, AuditEvent, Class, Decision, ToolOutcome},
    keys::{AuditKeys, KeyError, PublicKey},
};
use self::{
    chain::Chain,
    recover::Resume,
    sink::{FileSink, Sink, StdoutSink},
    writer::{HeadSchedule, Item, Message, PendingOpening, Told, Writer},
};

/// Callers → writer. A tenth of a second of the fastest stream. Full: the policy of the event's class.
const QUEUE: usize = 16_384;
/// What waiting records may take in bytes: many times the queue's usual content, for records of unusual size.
const QUEUE_BYTES: usize = 32 * 1024 * 1024;

/// Takes what must not be kept out of free text.
pub type Scrub = Arc<dyn Fn(&str) -> String + Send + Sync>;

/// What code, not the operator, decides.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct AuditOptions {
    /// Messages of [`Action::Failed`] pass it. Without one they are left out.
    pub scrub: Option<Scrub>,
}

impl AuditOptions {
    /// Sets the scrubber.
    #[must_use]
    pub fn scrub(mut self, scrub: Scrub) -> Self {
        self.scrub = Some(scrub);
        self
    }
}

impl fmt::Debug for AuditOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditOptions")
            .field("scrub", &self.scrub.is_some())
            .finish()
    }
}

/// An audit log that could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// The keys are not usable.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// A sink does not open.
    #[error("cannot open the audit log ({sink})")]
    Open {
        /// Which.
        sink: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// This build has no such sink.
    #[error("this build cannot write audit records to {0:?}")]
    Unsupported(SinkKind),
}

/// The record could not be written in time. Refuse the action: it must not happen unrecorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the audit log is unavailable")]
pub struct AuditUnavailable;

/// How the log is doing. Counters only grow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuditStats {
    /// Records written, the log's own included.
    pub written: u64,
    /// Events that were dropped, by class. Alert on any.
    pub dropped: Vec<(Class, u64)>,
    /// Actions that were refused for want of a record, by class. Alert on any.
    pub refused: Vec<(Class, u64)>,
    /// Failures of sinks. Alert on any.
    pub sink_failures: u64,
    /// Whether a sink fails now.
    pub failing: bool,
}

/// The way into the audit log. Cheap to clone.
#[derive(Clone)]
pub struct Audit {
    inner: Option<Arc<Inner>>,
    /// A log that is switched off still hashes.
    keys: Arc<ArcSwap<AuditKeys>>,
}

struct Inner {
    queue: mpsc::Sender<Message>,
    space: Arc<Semaphore>,
    counters: Arc<Counters>,
    policy: PolicyConfig,
    deadline: Duration,
    node: Arc<str>,
    clock: Arc<dyn Clock>,
    scrub: Option<Scrub>,
}

impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Audit")
            .field("enabled", &self.inner.is_some())
            .field("stats", &self.stats())
            .finish()
    }
}

impl Audit {
    /// A log that records nothing and refuses nothing.
    pub fn disabled() -> Self {
        Self {
            inner: None,
            keys: Arc::new(ArcSwap::from_pointee(AuditKeys::generate())),
        }
    }

    /// Opens the log and starts its writer in `tasks`. Cancelling the group writes what is queued and the last head, so
    /// it is the last group to be shut down, with seconds to spare.
    ///
    /// # Errors
    /// When the keys or a sink are not usable: better no server than an unrecorded one.
    pub async fn start(
        config: &AuditConfig,
        options: AuditOptions,
        clock: Arc<dyn Clock>,
        tasks: &Tasks,
    ) -> Result<Self, AuditError> {
        if config.sinks().is_empty() {
            return Ok(Self::disabled());
        }
        let keys = Arc::new(AuditKeys::load_or_create(&config.key_file)?);
        let sinks = config
            .sinks()
            .iter()
            .map(|kind| sink(*kind, config))
            .collect::<Result<_, _>>()?;
        Self::with_sinks(config, options, clock, tasks, keys, sinks).await
    }

    async fn with_sinks(
        config: &AuditConfig,
        options: AuditOptions,
        clock: Arc<dyn Clock>,
        tasks: &Tasks,
        keys: Arc<AuditKeys>,
        mut sinks: Vec<Box<dyn Sink>>,
    ) -> Result<Self, AuditError> {
        let mut resumed = Resume::FRESH;
        for sink in &mut sinks {
            let opened = sink.open(&keys).await.map_err(|source| AuditError::Open {
                sink: sink.name(),
                source,
            })?;
            // Where one is ahead, another missed records when the process died; numbers are never used twice.
            if opened.position.next > resumed.position.next {
                resumed.position = opened.position;
            }
            resumed.torn = resumed.torn.or(opened.torn);
            resumed.behind = resumed.behind.or(opened.behind);
        }
        if let Some(head) = resumed.behind {
            tracing::error!(
                head,
                "the audit log ends before its last signed head: somebody cut it"
            );
        }
        if let Some((bytes, _)) = resumed.torn {
            tracing::warn!(bytes, "the audit log ended in a torn record; sealing it");
        }
        let (queue, receiver) = mpsc::channel(QUEUE);
        let counters = Arc::new(Counters::default());
        let node: Arc<str> = config.node.as_str().into();
        let writer = |leaving| Writer {
            queue: receiver,
            sinks,
            chain: Chain::new(Arc::clone(&keys), resumed.position),
            node: Arc::clone(&node),
            clock: Arc::clone(&clock),
            heads: HeadSchedule {
                records: config.head_records,
                interval: config.head_interval,
            },
            fsync: config.fsync,
            counters: Arc::clone(&counters),
            opening: Some(PendingOpening {
                reason: "start",
                torn: resumed.torn,
                behind: resumed.behind,
            }),
            unsigned: 0,
            head_due: None,
            told: Told::default(),
            leaving,
        };
        tasks
            .spawn_service("audit", |leaving| writer(leaving).run())
            .detach();
        Ok(Self {
            inner: Some(Arc::new(Inner {
                queue,
                space: Arc::new(Semaphore::new(QUEUE_BYTES)),
                counters,
                policy: config.policy,
                deadline: config.deadline,
                node,
                clock,
                scrub: options.scrub,
            })),
            keys: Arc::new(ArcSwap::new(keys)),
        })
    }

    /// Records an event without waiting. When there is no room the event is counted as dropped, whatever its class:
    /// what may be refused goes through [`record_durable`](Self::record_durable).
    pub fn record(&self, event: AuditEvent) {
        let Some(inner) = &self.inner else { return };
        let class = event.class();
        let (record, at) = inner.render(event);
        let space = Arc::clone(&inner.space).try_acquire_many_owned(size(&record));
        let sent = space.is_ok_and(|space| {
            let item = Item {
                class,
                record,
                at,
                done: None,
                _space: space,
            };
            inner.queue.try_send(Message::Record(item)).is_ok()
        });
        if !sent {
            inner.counters.drop_one(class);
        }
    }

    /// Records an event before the action that it describes. With policy `block` it returns when every sink has it;
    /// with policy `drop` it is [`record`](Self::record).
    ///
    /// # Errors
    /// When the record is not written within the deadline. The action has to be refused; a record that was being
    /// written at that moment may still appear.
    ///
    /// # Cancel safety
    /// Dropping the future abandons the event if it was not being written yet.
    pub async fn record_durable(&self, event: AuditEvent) -> Result<(), AuditUnavailable> {
        let Some(inner) = &self.inner else {
            return Ok(());
        };
        let class = event.class();
        if inner.policy.of(class) == Policy::Drop {
            self.record(event);
            return Ok(());
        }
        let (record, at) = inner.render(event);
        let written = async {
            let space = Arc::clone(&inner.space)
                .acquire_many_owned(size(&record))
                .await;
            let (done, written) = oneshot::channel();
            let item = Item {
                class,
                record,
                at,
                done: Some(done),
                _space: space.ok()?,
            };
            inner.queue.send(Message::Record(item)).await.ok()?;
            written.await.ok()
        };
        match tokio::time::timeout(inner.deadline, written).await {
            Ok(Some(())) => Ok(()),
            Ok(None) | Err(_) => {
                inner.counters.refused[class as usize].fetch_add(1, Ordering::Relaxed);
                Err(AuditUnavailable)
            }
        }
    }

    /// Hashes the arguments of a tool, for [`Action::ToolCalled`].
    pub fn args_hash(&self, args: &Value) -> ArgsHash {
        self.keys.load().args_hash(args)
    }

    /// Writes what is queued and a signed head.
    ///
    /// # Errors
    /// When that does not happen within the deadline.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the request in the queue.
    pub async fn sign_head(&self) -> Result<(), AuditUnavailable> {
        self.ask(Message::Head).await
    }

    /// Continues under other keys: a last head under the old ones, then an opening that names the new epoch. Callers
    /// record [`Action::KeyRotated`].
    ///
    /// # Errors
    /// When that does not happen within the deadline. It may happen later.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the request in the queue.
    pub async fn rekey(&self, keys: AuditKeys) -> Result<(), AuditUnavailable> {
        let keys = Arc::new(keys);
        self.keys.store(Arc::clone(&keys));
        self.ask(|done| Message::Rekey(keys, done)).await
    }

    async fn ask(
        &self,
        message: impl FnOnce(oneshot::Sender<()>) -> Message,
    ) -> Result<(), AuditUnavailable> {
        let Some(inner) = &self.inner else {
            return Ok(());
        };
        let answered = async {
            let (done, answer) = oneshot::channel();
            inner.queue.send(message(done)).await.ok()?;
            answer.await.ok()
        };
        let answer = tokio::time::timeout(inner.deadline, answered).await;
        answer.ok().flatten().ok_or(AuditUnavailable)
    }

    /// How the log is doing, for metrics.
    pub fn stats(&self) -> AuditStats {
        let Some(inner) = &self.inner else {
            return AuditStats::default();
        };
        let counters = &inner.counters;
        let losses = counters.losses();
        AuditStats {
            written: counters.written.load(Ordering::Relaxed),
            dropped: Class::ALL.into_iter().zip(losses.dropped).collect(),
            refused: Class::ALL.into_iter().zip(losses.refused).collect(),
            sink_failures: counters.failures.load(Ordering::Relaxed),
            failing: counters.failing.load(Ordering::Relaxed),
        }
    }
}

impl Inner {
    fn render(&self, mut event: AuditEvent) -> (render::Rendered, std::time::SystemTime) {
        if let Action::Failed { message, .. } = &mut event.action {
            *message = match (&self.scrub, message.take()) {
                (Some(scrub), Some(message)) => Some(scrub(&message).into()),
                _ => None,
            };
        }
        let now = self.clock.wall();
        (render::event(&event, &self.node, now), now)
    }
}

fn size(record: &render::Rendered) -> u32 {
    u32::try_from(record.bytes.len()).unwrap_or(u32::MAX)
}

fn sink(kind: SinkKind, config: &AuditConfig) -> Result<Box<dyn Sink>, AuditError> {
    match kind {
        SinkKind::File => Ok(Box::new(FileSink::new(
            config.path.clone(),
            config.rotate_bytes,
            config.rotate_daily,
        ))),
        SinkKind::Stdout => Ok(Box::new(StdoutSink)),
        #[cfg(feature = "postgres")]
        SinkKind::Postgres => {
            let url = config
                .database_url
                .clone()
                .ok_or(AuditError::Unsupported(kind))?;
            Ok(Box::new(sink::PostgresSink::new(url, config.node.clone())))
        }
        #[cfg(not(feature = "postgres"))]
        SinkKind::Postgres => Err(AuditError::Unsupported(kind)),
    }
}

/// What [`AuditStats`] is read from. Indexed by class.
#[derive(Debug, Default)]
struct Counters {
    written: AtomicU64,
    dropped: [AtomicU64; Class::ALL.len()],
    refused: [AtomicU64; Class::ALL.len()],
    failures: AtomicU64,
    failing: AtomicBool,
}

impl Counters {
    fn drop_one(&self, class: Class) {
        self.dropped[class as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn losses(&self) -> Told {
        let read = |counters: &[AtomicU64; Class::ALL.len()]| {
            std::array::from_fn(|class| counters[class].load(Ordering::Relaxed))
        };
        Told {
            dropped: read(&self.dropped),
            refused: read(&self.refused),
        }
    }

    fn fail(&self, sink: &'static str, error: &io::Error) {
        // Once per outage at this level; a full disk must not fill the log with its own news.
        if self.failing.load(Ordering::Relaxed) {
            tracing::debug!(sink, %error, "audit sink still fails");
        } else {
            tracing::error!(sink, %error, "cannot write audit records");
        }
        self.failures.fetch_add(1, Ordering::Relaxed);
    }
}
