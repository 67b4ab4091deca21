//! The one task that numbers, chains and writes records (G3, G5).
//!
//! Batches are rendered once and offered to every sink until each has them, so sinks never disagree. While one fails
//! the queue fills up, and then the policy of each event's class decides; see [`Audit`](super::Audit).

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use llmrtc_core::clock::Clock;
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc, oneshot},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    Counters,
    chain::{Chain, Digest},
    event::Class,
    keys::AuditKeys,
    render::{self, LogNews, Opened, Origin, Rendered},
    sink::{Batch, Row, Sink},
};

/// Records per batch. With 700 bytes each that is a write of a third of a MiB, and a few milliseconds of chaining.
const BATCH: usize = 512;
/// After a failure, until the next attempt: doubled up to the longest.
const RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(5);
/// Attempts when the server is leaving. Then what could not be written is counted as lost.
const LAST_ATTEMPTS: u32 = 3;

/// To the writer.
pub(super) enum Message {
    Record(Item),
    /// Continue under other keys.
    Rekey(Arc<AuditKeys>, oneshot::Sender<()>),
    /// Sign what is there.
    Head(oneshot::Sender<()>),
}

/// An event on its way.
pub(super) struct Item {
    pub(super) class: Class,
    pub(super) record: Rendered,
    pub(super) at: SystemTime,
    /// Told when it is written. When nobody listens any more, the action was refused.
    pub(super) done: Option<oneshot::Sender<()>>,
    /// Its share of the memory that waiting records may take.
    pub(super) _space: OwnedSemaphorePermit,
}

/// What is left of an event whose record is in a batch.
type Waiting = (Class, Option<oneshot::Sender<()>>);

/// When heads are due.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeadSchedule {
    pub(super) records: u64,
    pub(super) interval: Duration,
}

pub(super) struct Writer {
    pub(super) queue: mpsc::Receiver<Message>,
    pub(super) sinks: Vec<Box<dyn Sink>>,
    pub(super) chain: Chain,
    pub(super) node: Arc<str>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) heads: HeadSchedule,
    pub(super) fsync: bool,
    pub(super) counters: Arc<Counters>,
    /// An opening that is due before anything else.
    pub(super) opening: Option<PendingOpening>,
    /// Records since the last head, and when the next is due.
    pub(super) unsigned: u64,
    pub(super) head_due: Option<Instant>,
    /// What of the counters a record in the log already tells.
    pub(super) told: Told,
    pub(super) leaving: CancellationToken,
}

/// What the next opening has to say.
#[derive(Clone, Copy, Debug)]
pub(super) struct PendingOpening {
    pub(super) reason: &'static str,
    pub(super) torn: Option<(u64, Digest)>,
    pub(super) behind: Option<u64>,
}

impl PendingOpening {
    pub(super) fn because(reason: &'static str) -> Self {
        Self {
            reason,
            torn: None,
            behind: None,
        }
    }
}

/// Losses, by class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) dropped: [u64; Class::ALL.len()],
    pub(super) refused: [u64; Class::ALL.len()],
}

impl Writer {
    pub(super) async fn run(mut self) {
        self.write(Vec::new(), None).await;
        let mut messages = Vec::with_capacity(BATCH);
        loop {
            let due = self.head_due;
            let head_due = async {
                match due {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.leaving.cancelled(), if !self.queue.is_closed() => self.queue.close(),
                () = head_due => self.write(Vec::new(), Some("interval")).await,
                count = self.queue.recv_many(&mut messages, BATCH) => {
                    if count == 0 {
                        break;
                    }
                    self.handle(&mut messages).await;
                }
            }
        }
        self.write(Vec::new(), Some("close")).await;
    }

    async fn handle(&mut self, messages: &mut Vec<Message>) {
        let mut items = Vec::with_capacity(messages.len());
        for message in messages.drain(..) {
            match message {
                Message::Record(item) => items.push(item),
                Message::Head(done) => {
                    self.write(std::mem::take(&mut items), Some("request"))
                        .await;
                    let _ = done.send(());
                }
                Message::Rekey(keys, done) => {
                    self.write(std::mem::take(&mut items), Some("rekey")).await;
                    self.chain.set_keys(keys);
                    self.opening = Some(PendingOpening::because("rekey"));
                    self.write(Vec::new(), None).await;
                    let _ = done.send(());
                }
            }
        }
        if !items.is_empty() {
            self.write(items, None).await;
        }
    }

    /// Writes records, with a head behind them if there is a reason or one is due. Returns when every sink has them, or
    /// when the server leaves and there is no hope.
    async fn write(&mut self, items: Vec<Item>, head: Option<&'static str>) {
        for sink in &mut self.sinks {
            if let Err(error) = sink.prepare().await {
                self.counters.fail(sink.name(), &error);
            }
        }
        let now_ms = millis(self.clock.wall());
        if self.opening.is_none() && self.sinks.iter().any(|sink| sink.rotation_due(now_ms)) {
            self.rotate().await;
        }
        if self.opening.is_none() && self.sinks.iter().any(|sink| sink.begins()) {
            self.opening = Some(PendingOpening::because("reopen"));
        }
        let before = self.chain.position;
        let (batch, waiting) = self.render(items, head);
        if batch.rows.is_empty() {
            return;
        }
        match self.deliver(&batch).await {
            Delivery::Complete => {
                let rows = batch.rows.len() as u64;
                self.counters.written.fetch_add(rows, Ordering::Relaxed);
                for (_, done) in waiting {
                    // Who stopped waiting refused the action, and has counted it.
                    let _ = done.map(|done| done.send(()));
                }
            }
            undelivered => {
                for (class, _) in waiting {
                    self.counters.drop_one(class);
                }
                if undelivered == Delivery::Nowhere {
                    self.chain.position = before;
                }
            }
        }
    }

    /// Ends the file with a head and begins another. The next batch opens it.
    async fn rotate(&mut self) {
        let before = self.chain.position;
        let (batch, _) = self.render(Vec::new(), Some("rotate"));
        match self.deliver(&batch).await {
            Delivery::Complete => {}
            Delivery::Partial => return,
            Delivery::Nowhere => {
                self.chain.position = before;
                return;
            }
        }
        for sink in &mut self.sinks {
            if let Err(error) = sink.rotate().await {
                self.counters.fail(sink.name(), &error);
            }
        }
        self.opening = Some(PendingOpening::because("rotate"));
    }

    fn render(&mut self, items: Vec<Item>, head: Option<&'static str>) -> (Batch, Vec<Waiting>) {
        let now = self.clock.wall();
        let mut out = Out::new(items.len());
        if let Some(pending) = self.opening.take() {
            let opened = LogNews::Opened(Opened {
                reason: pending.reason,
                version: env!("CARGO_PKG_VERSION"),
                torn: pending.torn,
                behind: pending.behind,
            });
            self.news(&mut out, &opened, now);
        }
        self.tell_losses(&mut out, now);
        let mut waiting = Vec::with_capacity(items.len());
        let mut durable = false;
        for item in items {
            if item.done.as_ref().is_some_and(oneshot::Sender::is_closed) {
                // Refused while it waited: it did not happen.
                continue;
            }
            durable |= item.done.is_some();
            out.row(&mut self.chain, item.at, |chain, bytes| {
                chain.append(&item.record, bytes)
            });
            waiting.push((item.class, item.done));
        }
        self.unsigned += out.rows.len() as u64;
        let due = self.unsigned >= self.heads.records
            || self.head_due.is_some_and(|due| due <= Instant::now());
        let reason = head.or(due.then_some("interval"));
        let signed = reason
            .filter(|reason| self.unsigned > 0 || *reason == "close")
            .map(|reason| {
                self.news(&mut out, &LogNews::Head { reason }, now);
                self.unsigned = 0;
                out.rows.last().map(|row| row.line.start..row.line.end + 1)
            });
        self.head_due = match (self.unsigned, self.head_due, signed.is_some()) {
            (0, ..) => None,
            (_, Some(due), false) => Some(due),
            _ => Some(Instant::now() + self.heads.interval),
        };
        let batch = Batch {
            bytes: out.bytes.into(),
            first: out.rows.first().map_or(0, |row| row.seq),
            rows: out.rows,
            durable: self.fsync && (durable || signed.is_some()),
            head: signed.flatten(),
        };
        (batch, waiting)
    }

    /// Losses since the last time are news themselves.
    fn tell_losses(&mut self, out: &mut Out, now: SystemTime) {
        let all = self.counters.losses();
        if all == self.told {
            return;
        }
        let since =
            |all: &[u64], told: &[u64]| std::array::from_fn(|class| all[class] - told[class]);
        let news = LogNews::Lost {
            dropped: since(&all.dropped, &self.told.dropped),
            refused: since(&all.refused, &self.told.refused),
        };
        self.told = all;
        self.news(out, &news, now);
    }

    fn news(&mut self, out: &mut Out, news: &LogNews<'_>, now: SystemTime) {
        let keys = self.chain.keys();
        let key = keys.public.id();
        let origin = Origin {
            node: &self.node,
            epoch: keys.epoch,
            key: &key,
        };
        let record = render::news(news, origin, now);
        let sign = matches!(news, LogNews::Head { .. });
        out.row(&mut self.chain, now, |chain, bytes| {
            if sign {
                chain.append_head(&record, bytes);
            } else {
                chain.append(&record, bytes);
            }
        });
    }

    /// Offers a batch to every sink until each has it, or until the server leaves and there is no hope.
    async fn deliver(&mut self, batch: &Batch) -> Delivery {
        let mut has_it = vec![false; self.sinks.len()];
        let (mut pause, mut attempts) = (RETRY, 0);
        loop {
            for (sink, has_it) in self.sinks.iter_mut().zip(&mut has_it) {
                if !*has_it {
                    match sink.append(batch).await {
                        Ok(()) => *has_it = true,
                        Err(error) => self.counters.fail(sink.name(), &error),
                    }
                }
            }
            if has_it.iter().all(|has_it| *has_it) {
                self.counters.failing.store(false, Ordering::Relaxed);
                return Delivery::Complete;
            }
            self.counters.failing.store(true, Ordering::Relaxed);
            if self.leaving.is_cancelled() {
                attempts += 1;
                if attempts == LAST_ATTEMPTS {
                    return if has_it.contains(&true) {
                        Delivery::Partial
                    } else {
                        Delivery::Nowhere
                    };
                }
                sleep(RETRY).await;
            } else {
                tokio::select! {
                    biased;
                    () = self.leaving.cancelled() => {}
                    () = sleep(pause) => pause = (2 * pause).min(LONGEST_RETRY),
                }
            }
        }
    }
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Delivery {
    /// Every sink has it.
    Complete,
    /// Some do, and the chain cannot go back.
    Partial,
    /// None does.
    Nowhere,
}

/// A batch in the making.
struct Out {
    bytes: Vec<u8>,
    rows: Vec<Row>,
}

impl Out {
    fn new(items: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(1024 * (items + 2)),
            rows: Vec::with_capacity(items + 2),
        }
    }

    fn row(
        &mut self,
        chain: &mut Chain,
        at: SystemTime,
        append: impl FnOnce(&mut Chain, &mut Vec<u8>),
    ) {
        let (seq, start) = (chain.position.next, self.bytes.len());
        append(chain, &mut self.bytes);
        self.rows.push(Row {
            seq,
            time_ms: millis(at),
            line: start..self.bytes.len() - 1,
        });
    }
}

fn millis(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
