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

use super::connection::Role;

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
    role: Role,
    /// Remote addresses that media is taken from, the latest last.
    checked: Mutex<Vec<SocketAddr>>,
    /// Cancelled once the driver has come to an end, however.
    ended: CancellationToken,
    /// Everything the stack has spawned; the driver, and nothing else as long as TCP candidates are not used.
    tasks: Mutex<Vec<AbortHandle>>,
}

impl Driver {
    pub(crate) fn new(role: Role) -> Self {
        Self {
            shared: Arc::new(Shared {
                settling: AtomicBool::new(true),
                nudge: Notify::new(),
                role,
                checked: Mutex::new(Vec::new()),
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
        let mut tasks = self
            .shared
            .tasks
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for task in tasks.drain(..) {
            task.abort();
        }
    }
}

impl Shared {
    /// Watches what the ICE agent sends. Answering a check shows that its sender has our credentials, which were only
    /// given to the remote. Whoever offers may be talking to an ICE-lite server, which never checks; there, our own
    /// check has to do, since we chose whom to call.
    fn sending(&self, datagram: &[u8], to: SocketAddr) {
        let telling = datagram.starts_with(&BINDING_SUCCESS)
            || (self.role == Role::Offering && datagram.starts_with(&BINDING_REQUEST));
        if !telling {
            return;
        }
        let mut checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        if checked.last() == Some(&to) {
            return;
        }
        checked.retain(|address| *address != to);
        if checked.len() == MAX_CHECKED {
            checked.remove(0);
        }
        checked.push(to);
    }

    /// Whether a datagram may reach the stack. DTLS, SRTP and RTCP are taken from checked addresses only, so that a
    /// stranger can neither start a handshake nor keep the ciphers busy.
    fn admits(&self, datagram: &[u8], from: SocketAddr) -> bool {
        match datagram.first() {
            None => false,
            // STUN, and TURN channels (RFC 7983 §7), which authenticate themselves.
            Some(0..=3 | 64..=79) => true,
            Some(20..=63 | 128..=191) => {
                let checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
                checked.contains(&from)
            }
            Some(_) => false,
        }
    }
}

/// First bytes of a STUN Binding request (RFC 8489 §5).
const BINDING_REQUEST: [u8; 2] = [0x00, 0x01];
/// First bytes of a STUN Binding success response.
const BINDING_SUCCESS: [u8; 2] = [0x01, 0x01];
/// A remote has a handful of paths to us; the oldest makes room.
const MAX_CHECKED: usize = 16;

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
        let mut tasks = self
            .shared
            .tasks
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
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
        self.shared.sending(transmit.contents, transmit.destination);
        self.socket
            .poll_send_to(cx, transmit.contents, transmit.destination)
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
        loop {
            // Tokio's budget ends this loop, whatever a stranger sends.
            let mut buffer = ReadBuf::new(buffer);
            let from = ready!(self.socket.poll_recv_from(cx, &mut buffer))?;
            if self.shared.admits(buffer.filled(), from) {
                meta.addr = from;
                meta.len = buffer.filled().len();
                break;
            }
        }
        meta.stride = meta.len.max(1);
        if self.shared.settling.load(Ordering::Relaxed) {
            self.shared.nudge.notify_one();
        }
        Poll::Ready(Ok(1))
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn a_panic_of_the_stack_is_the_end_of_one_driver() {
        let (broken, healthy) = (Driver::new(Role::Answering), Driver::new(Role::Answering));
        broken
            .runtime()
            .spawn(Box::pin(async { panic!("index out of bounds") }));
        healthy.runtime().spawn(Box::pin(pending()));
        tokio::time::timeout(SOON, broken.ended()).await.unwrap();
        assert!(tokio::time::timeout(SOON, healthy.ended()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_driver_takes_its_task_down() {
        let driver = Driver::new(Role::Answering);
        let ended = driver.shared.ended.clone();
        driver.runtime().spawn(Box::pin(pending()));
        drop(driver);
        tokio::time::timeout(SOON, ended.cancelled()).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_nudge_ends_the_drivers_sleep() {
        let driver = Driver::new(Role::Answering);
        let started = tokio::time::Instant::now();
        driver.shared.nudge.notify_one();
        driver.runtime().sleep(SOON).await;
        assert_eq!(started.elapsed(), Duration::ZERO);
        driver.runtime().sleep(SOON).await;
        assert_eq!(started.elapsed(), SOON);
    }

    #[tokio::test]
    async fn a_description_opens_no_connection() {
        let refused = Driver::new(Role::Answering)
            .runtime()
            .connect_tcp("127.0.0.1:1".parse().unwrap())
            .await;
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::Unsupported);
    }

    #[tokio::test]
    async fn media_is_taken_from_checked_addresses_only() {
        let driver = Driver::new(Role::Answering);
        let shared = &driver.shared;
        let address = |port: u16| SocketAddr::from(([192, 0, 2, 1], port));
        // First byte of a datagram, and whether it is taken before and after its sender passed a check.
        let table = [
            (0, [true, true]),
            (1, [true, true]),
            (22, [false, true]),
            (23, [false, true]),
            (64, [true, true]),
            (128, [false, true]),
            (191, [false, true]),
            (4, [false, false]),
            (19, [false, false]),
            (80, [false, false]),
            (255, [false, false]),
        ];
        for (checked, column) in [(false, 0), (true, 1)] {
            if checked {
                shared.sending(&[0x01, 0x01, 0, 0], address(1));
            }
            for (first, expected) in table {
                assert_eq!(
                    shared.admits(&[first; 20], address(1)),
                    expected[column],
                    "{first}"
                );
            }
        }
        assert!(
            !shared.admits(&[22; 20], address(2)),
            "another port is another sender"
        );
        assert!(!shared.admits(&[], address(1)));
        shared.sending(&[0x00, 0x01, 0, 0], address(3));
        assert!(
            !shared.admits(&[22; 20], address(3)),
            "asking proves nothing"
        );
        let offering = Driver::new(Role::Offering);
        offering.shared.sending(&[0x00, 0x01, 0, 0], address(3));
        assert!(
            offering.shared.admits(&[22; 20], address(3)),
            "a lite server never asks"
        );
        for port in 10..10 + MAX_CHECKED as u16 {
            shared.sending(&[0x01, 0x01, 0, 0], address(port));
        }
        assert!(
            !shared.admits(&[22; 20], address(1)),
            "the oldest made room"
        );
        assert!(shared.admits(&[22; 20], address(10)));
    }
}
