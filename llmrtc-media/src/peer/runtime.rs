//! What the WebRTC stack runs on: tokio, with a driver task that never outlives its peer, panics that stay inside it,
//! and plain sockets.

use std::{
    fmt,
    future::Future,
    io::{self, IoSliceMut},
    net::SocketAddr,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use tokio::{io::ReadBuf, net::UdpSocket, sync::Notify, task::AbortHandle};
use tokio_util::sync::CancellationToken;
use webrtc::runtime::{
    AsyncInterval, AsyncTcpListener, AsyncTcpStream, AsyncUdpSocket, JoinHandle, RecvMeta, Runtime,
    TokioRuntime, Transmit,
};

/// The owner's end of a peer's driver task: says when it is gone, and takes it down on drop.
#[derive(Debug)]
pub(crate) struct Driver {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Whether every datagram is followed by a second turn of the driver's loop.
    ///
    /// The driver flushes, handles events, reads, and then sleeps. What handling an event queues (the ClientHello after
    /// nomination, the SCTP INIT after the handshake, the channel's OPEN after that) is only flushed on the next
    /// turn, which the ICE agent's timer starts up to 200 ms later, once per step. A second turn costs microseconds.
    settling: AtomicBool,
    nudge: Notify,
    /// Cancelled once the driver has come to an end, however.
    ended: CancellationToken,
    /// Everything the stack has spawned; the driver, and nothing else as long as TCP candidates are not used.
    tasks: Mutex<Vec<AbortHandle>>,
}

impl Driver {
    pub(crate) fn new() -> Self {
        Self {
            shared: Arc::new(Shared {
                settling: AtomicBool::new(true),
                nudge: Notify::new(),
                ended: CancellationToken::new(),
                tasks: Mutex::new(Vec::new()),
            }),
        }
    }

    /// What to tell when the handshakes are done.
    pub(crate) fn settling(&self) -> Settling {
        Settling(Arc::clone(&self.shared))
    }

    /// The runtime to build the one connection with whose driver this is.
    pub(crate) fn runtime(&self) -> Arc<dyn Runtime> {
        Arc::new(PeerRuntime {
            shared: Arc::clone(&self.shared),
        })
    }

    /// Completes when the driver is gone: closed, failed or panicked.
    pub(crate) async fn ended(&self) {
        self.shared.ended.cancelled().await;
    }
}

/// A connection whose handshakes are going on.
#[derive(Debug)]
pub(crate) struct Settling(Arc<Shared>);

impl Settling {
    /// They are done: from here on the driver has one turn per datagram.
    pub(crate) fn done(&self) {
        self.0.settling.store(false, Ordering::Relaxed);
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let mut tasks = self.shared.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        for task in tasks.drain(..) {
            task.abort();
        }
    }
}

struct PeerRuntime {
    shared: Arc<Shared>,
}

impl fmt::Debug for PeerRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PeerRuntime")
    }
}

struct Spawned(tokio::task::JoinHandle<()>);

impl JoinHandle for Spawned {
    fn detach(&self) {}

    fn abort(&self) {
        self.0.abort();
    }

    fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

impl Runtime for PeerRuntime {
    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) -> Box<dyn JoinHandle> {
        let ended = self.shared.ended.clone().drop_guard();
        let guarded = async move {
            let _ended = ended;
            if AssertUnwindSafe(future).catch_unwind().await.is_err() {
                // Hostile packets reach parsers that index; one call ends, the process does not.
                tracing::error!("the WebRTC stack panicked; its peer is closed");
            }
        };
        #[expect(
            clippy::disallowed_methods,
            reason = "the stack's own task; `Driver` is its parent and aborts it"
        )]
        let task = tokio::spawn(guarded);
        let mut tasks = self.shared.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.push(task.abort_handle());
        Box::new(Spawned(task))
    }

    fn wrap_udp_socket(&self, socket: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        socket.set_nonblocking(true)?;
        Ok(Arc::new(PlainSocket {
            socket: UdpSocket::from_std(socket)?,
            shared: Arc::clone(&self.shared),
        }))
    }

    fn wrap_tcp_listener(
        &self,
        listener: std::net::TcpListener,
    ) -> io::Result<Arc<dyn AsyncTcpListener>> {
        TokioRuntime.wrap_tcp_listener(listener)
    }

    fn connect_tcp<'a>(
        &'a self,
        _remote: SocketAddr,
    ) -> Pin<Box<dyn Future<Output = io::Result<Arc<dyn AsyncTcpStream>>> + Send + 'a>> {
        // A description must not make this server open connections.
        Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
    }

    fn resolve_host<'a>(
        &'a self,
        host: &'a str,
    ) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'a>> {
        // Only ever asked for the operator's own STUN and TURN servers.
        Box::pin(async move { Ok(tokio::net::lookup_host(host).await?.collect()) })
    }

    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + 'static>> {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            // Ends early when nudged, which the driver takes for a timer that fired.
            let _ = tokio::time::timeout(duration, shared.nudge.notified()).await;
        })
    }

    fn interval(&self, period: Duration) -> Box<dyn AsyncInterval> {
        TokioRuntime.interval(period)
    }

    fn block_on(&self, future: Pin<Box<dyn Future<Output = ()> + '_>>) {
        TokioRuntime.block_on(future);
    }

    fn name(&self) -> &'static str {
        "llmrtc"
    }
}

/// One datagram per call. Voice is fifty small packets a second, so segmentation offload buys nothing, and its
/// receive buffers would be a third of a session's memory.
#[derive(Debug)]
struct PlainSocket {
    socket: UdpSocket,
    shared: Arc<Shared>,
}

impl AsyncUdpSocket for PlainSocket {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn poll_send(&self, cx: &mut Context<'_>, transmit: &Transmit<'_>) -> Poll<io::Result<usize>> {
        self.socket.poll_send_to(cx, transmit.contents, transmit.destination)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let (Some(buffer), Some(meta)) = (buffers.first_mut(), meta.first_mut()) else {
            return Poll::Ready(Ok(0));
        };
        let mut buffer = ReadBuf::new(buffer);
        let from = ready!(self.socket.poll_recv_from(cx, &mut buffer))?;
        meta.addr = from;
        meta.len = buffer.filled().len();
        meta.stride = meta.len.max(1);
        if self.shared.settling.load(Ordering::Relaxed) {
            self.shared.nudge.notify_one();
        }
        Poll::Ready(Ok(1))
    }
}
