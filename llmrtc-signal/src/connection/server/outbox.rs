//! What waits to be written to a socket.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::extract::ws::Message;
use futures_util::Sink;

/// A queue in front of a sink that knows how many bytes the peer has not taken yet.
#[derive(Debug)]
pub(super) struct Outbox<K> {
    sink: K,
    queue: VecDeque<Message>,
    queued_bytes: usize,
    /// Handed to the sink, not yet flushed.
    in_flight: Option<usize>,
}

impl<K: Sink<Message> + Unpin> Outbox<K> {
    pub(super) fn new(sink: K) -> Self {
        Self {
            sink,
            queue: VecDeque::new(),
            queued_bytes: 0,
            in_flight: None,
        }
    }

    pub(super) fn push(&mut self, message: Message) {
        self.queued_bytes += size(&message);
        self.queue.push_back(message);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.in_flight.is_none()
    }

    /// Bytes that have been pushed and not flushed.
    pub(super) fn unsent_bytes(&self) -> usize {
        self.queued_bytes + self.in_flight.unwrap_or(0)
    }

    pub(super) fn sink(&mut self) -> &mut K {
        &mut self.sink
    }

    /// Writes and flushes everything.
    ///
    /// # Cancel safety
    /// A message is either still in the queue or in the sink.
    pub(super) async fn flush(&mut self) -> Result<(), K::Error> {
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), K::Error>> {
        while !self.queue.is_empty() {
            ready!(Pin::new(&mut self.sink).poll_ready(cx))?;
            if let Some(message) = self.queue.pop_front() {
                let bytes = size(&message);
                self.queued_bytes -= bytes;
                self.in_flight = Some(self.in_flight.unwrap_or(0) + bytes);
                Pin::new(&mut self.sink).start_send(message)?;
            }
        }
        ready!(Pin::new(&mut self.sink).poll_flush(cx))?;
        self.in_flight = None;
        Poll::Ready(Ok(()))
    }
}

fn size(message: &Message) -> usize {
    match message {
        Message::Text(text) => text.len(),
        Message::Binary(data) | Message::Ping(data) | Message::Pong(data) => data.len(),
        Message::Close(_) => 0,
    }
}
