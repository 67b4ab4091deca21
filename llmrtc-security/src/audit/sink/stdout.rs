//! Records on standard output, for platforms that collect it.

use std::{
    io::{self, Write},
    sync::Arc,
};

use async_trait::async_trait;

use super::{AuditKeys, Batch, Resume, Sink};

/// Writes lines to standard output. It cannot be read back, so every run begins a chain.
#[derive(Debug, Default)]
pub(in crate::audit) struct StdoutSink;

#[async_trait]
impl Sink for StdoutSink {
    fn name(&self) -> &'static str {
        "stdout"
    }

    async fn open(&mut self, _: &Arc<AuditKeys>) -> io::Result<Resume> {
        Ok(Resume::FRESH)
    }

    async fn append(&mut self, batch: &Batch) -> io::Result<()> {
        let bytes = batch.bytes.clone();
        // Whoever reads the other end may take their time.
        tokio::task::spawn_blocking(move || {
            let mut stdout = io::stdout().lock();
            stdout.write_all(&bytes)?;
            stdout.flush()
        })
        .await
        .map_err(io::Error::other)?
    }
}
