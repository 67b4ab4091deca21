//! Where records go.

mod file;
#[cfg(feature = "postgres")]
mod postgres;
mod stdout;

use std::{io, ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;

#[cfg(feature = "postgres")]
pub(super) use self::postgres::PostgresSink;
pub(super) use self::{file::FileSink, stdout::StdoutSink};
use super::{keys::AuditKeys, recover::Resume};

/// Lines that belong together: all of them are written, or the sink fails.
#[derive(Clone, Debug, Default)]
pub(super) struct Batch {
    /// The lines, each with its line feed.
    pub(super) bytes: Bytes,
    /// One per line.
    pub(super) rows: Vec<Row>,
    /// Number of the first line.
    pub(super) first: u64,
    /// The last signed head among the lines.
    pub(super) head: Option<Range<usize>>,
    /// Somebody waits for the disk, or a head wants to be kept.
    pub(super) durable: bool,
}

/// A line of a batch.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) seq: u64,
    pub(super) time_ms: i64,
    /// Without its line feed.
    pub(super) line: Range<usize>,
}

/// One place for records. Only the writer task calls it.
#[async_trait]
pub(super) trait Sink: Send + 'static {
    /// The label in metrics and errors.
    fn name(&self) -> &'static str;

    /// Opens what is there. Called once, first.
    async fn open(&mut self, keys: &Arc<AuditKeys>) -> io::Result<Resume>;

    /// Appends all lines, or as few as it can help and an error. After an error the same batch, or another with the
    /// same first number, follows.
    async fn append(&mut self, batch: &Batch) -> io::Result<()>;

    /// Looks after itself before a batch is made.
    async fn prepare(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Whether the next record begins a file, so that it has to be an opening.
    fn begins(&self) -> bool {
        false
    }

    /// Whether the log should be ended and another begun, given the time of the next record.
    fn rotation_due(&self, _now_ms: i64) -> bool {
        false
    }

    /// Ends the log, which a head has closed, and begins another.
    async fn rotate(&mut self) -> io::Result<()> {
        Ok(())
    }
}
