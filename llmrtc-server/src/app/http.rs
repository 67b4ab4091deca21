//! Connections before they are calls: HTTP/1 with a bound on everything that a stranger could draw out.
//!
//! | What | Bound |
//! | --- | --- |
//! | connections that are no calls yet | [`MAX_PENDING`]; further ones wait in the kernel's backlog |
//! | a request's head, and the silence between requests | [`HEAD_WITHIN`] |
//! | a request's head in bytes | [`MAX_HEAD_BYTES`] |
//! | a connection that never becomes a call | [`LONGEST`] |
//! | a TLS handshake, a PROXY protocol header | 5 s each |
//! | the goodbye | [`CLOSE_WITHIN`] |
//!
//! A connection that is upgraded leaves this module: its place here becomes free, and admission counts it instead.

use std::{convert::Infallible, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{ConnectInfo, Request},
};
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use llmrtc_core::tasks::Tasks;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::transport::{Stream, Transport};
use crate::{admission::ClientCertificate, shutdown::Shutdown};

/// Many times what honest clients need, who are done within a round trip; with a descriptor each, few enough beside
/// the calls.
const MAX_PENDING: usize = 256;
const HEAD_WITHIN: Duration = Duration::from_secs(5);
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// Bounds clients that ask and do not read the answer, too.
const LONGEST: Duration = Duration::from_secs(30);
/// What a request under way gets to come to its end. Part of [`CLOSE_DEADLINE`](crate::shutdown::CLOSE_DEADLINE).
const CLOSE_WITHIN: Duration = Duration::from_secs(1);
/// When the system refuses a connection, most likely for want of descriptors, asking again at once would only spin.
const ACCEPT_AGAIN: Duration = Duration::from_millis(500);

/// Answers with `router`, which finds the other end in [`ConnectInfo<SocketAddr>`], until `shutdown` closes. Returns
/// when every connection that was not upgraded is closed.
pub(super) async fn serve(
    listener: TcpListener,
    transport: Transport,
    router: Router,
    shutdown: Shutdown,
) {
    let connections = Tasks::root("http");
    let pending = Arc::new(Semaphore::new(MAX_PENDING));
    tokio::select! {
        biased;
        () = shutdown.closing() => {}
        never = accept_all(&listener, &transport, router, &pending, &connections) => match never {},
    }
    drop(listener);
    // They keep to CLOSE_WITHIN themselves.
    connections.shutdown(2 * CLOSE_WITHIN).await;
}

async fn accept_all(
    listener: &TcpListener,
    transport: &Transport,
    router: Router,
    pending: &Arc<Semaphore>,
    connections: &Tasks,
) -> Infallible {
    loop {
        let place = Arc::clone(pending).acquire_owned().await;
        let place = place.expect("nobody closes the semaphore");
        let (stream, peer) = accept(listener).await;
        let (transport, router) = (transport.clone(), router.clone());
        connections
            .spawn("connection", |leaving| async move {
                let _place = place;
                match transport.open(stream, peer).await {
                    Ok((Stream::Plain(stream), peer, _)) => {
                        connection(stream, peer, None, router, leaving).await;
                    }
                    Ok((Stream::Secure(stream), peer, certificate)) => {
                        connection(stream, peer, certificate, router, leaving).await;
                    }
                    Err(error) => {
                        let error = &error as &dyn std::error::Error;
                        tracing::debug!(error, "connection not opened");
                    }
                }
            })
            .detach();
    }
}

async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // Small messages follow each other, beginning with `ready` after the upgrade. Only a socket that is
                // already gone refuses.
                let _ = stream.set_nodelay(true);
                return (stream, peer);
            }
            Err(error) if is_the_clients(&error) => {}
            Err(error) => {
                tracing::error!(%error, "cannot accept connections");
                sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

/// A connection that was gone before it was accepted.
fn is_the_clients(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
    )
}

/// Serves one connection until it is closed or upgraded.
async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: SocketAddr,
    certificate: Option<ClientCertificate>,
    router: Router,
    leaving: CancellationToken,
) {
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        if let Some(certificate) = certificate.clone() {
            request.extensions_mut().insert(certificate);
        }
        router.call(request)
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_header_size(MAX_HEAD_BYTES)
        .max_buf_size(MAX_HEAD_BYTES);
    let connection = http.serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection.with_upgrades());
    let result = tokio::select! {
        biased;
        result = connection.as_mut() => Some(result),
        () = leaving.cancelled() => None,
        () = sleep(LONGEST) => None,
    };
    let result = match result {
        Some(result) => result,
        None => {
            connection.as_mut().graceful_shutdown();
            timeout(CLOSE_WITHIN, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "HTTP connection broken off");
    }
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::StatusCode, response::Response, routing::get};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        time::Instant,
    };

    use super::*;

    const HUGE: usize = 64 * 1024 * 1024;
    const WHO: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

    fn router() -> Router {
        let who = async |ConnectInfo(peer): ConnectInfo<SocketAddr>| peer.to_string();
        let upgrade = async |request: axum::extract::Request| {
            let upgraded = hyper::upgrade::on(request);
            #[expect(clippy::disallowed_methods, reason = "ends with the socket")]
            tokio::spawn(async move {
                let mut socket = TokioIo::new(upgraded.await.unwrap());
                while let Ok(byte) = socket.read_u8().await {
                    socket.write_u8(byte).await.unwrap();
                }
            });
            Response::builder()
                .status(StatusCode::SWITCHING_PROTOCOLS)
                .header("connection", "upgrade")
                .header("upgrade", "echo")
                .body(Body::empty())
                .unwrap()
        };
        Router::new()
            .route("/", get(who))
            .route("/huge", get(async || vec![b'x'; HUGE]))
            .route("/stuck", get(async || std::future::pending::<()>().await))
            .route("/upgrade", get(upgrade))
    }

    /// A server with places for `places` connections.
    struct Bench {
        address: SocketAddr,
        _accepting: Tasks,
    }

    impl Bench {
        async fn new(places: usize) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let accepting = Tasks::root("bench");
            let connections = accepting.child("http");
            let pending = Arc::new(Semaphore::new(places));
            accepting
                .spawn("accept", |_| async move {
                    let transport = Transport::default();
                    accept_all(&listener, &transport, router(), &pending, &connections).await
                })
                .detach();
            Self {
                address,
                _accepting: accepting,
            }
        }

        async fn say(&self, text: &[u8]) -> TcpStream {
            let mut socket = TcpStream::connect(self.address).await.unwrap();
            socket.write_all(text).await.unwrap();
            socket
        }
    }

    async fn rest(mut socket: TcpStream) -> String {
        let mut text = Vec::new();
        // A reset is an end as well.
        let _ = socket.read_to_end(&mut text).await;
        String::from_utf8(text).unwrap()
    }

    async fn upgrade(mut socket: TcpStream) -> TcpStream {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(socket.read_u8().await.unwrap());
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "));
        socket
    }

    const UPGRADE: &[u8] =
        b"GET /upgrade HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";

    #[tokio::test]
    async fn handlers_learn_who_asks_and_small_answers_leave_at_once() {
        let bench = Bench::new(1).await;
        let socket = bench.say(WHO).await;
        let own = socket.local_addr().unwrap().to_string();
        let answer = rest(socket).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.ends_with(&own), "{answer}");

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await;
        assert!(accept(&listener).await.0.nodelay().unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn h1_whoever_draws_a_request_out_is_cut_off() {
        let bench = Bench::new(4).await;
        for (said, seconds) in [
            (&b""[..], 5),
            (b"GET / HTTP/1.1\r\nho", 5),
            (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", 5),
            (b"GET /stuck HTTP/1.1\r\nhost: x\r\n\r\n", 31),
        ] {
            let begun = Instant::now();
            rest(bench.say(said).await).await;
            let text = String::from_utf8_lossy(said);
            assert_eq!(begun.elapsed().as_secs(), seconds, "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn h1_whoever_does_not_read_the_answer_is_cut_off() {
        let bench = Bench::new(1).await;
        let socket = bench.say(b"GET /huge HTTP/1.1\r\nhost: x\r\n\r\n").await;
        sleep(LONGEST + 2 * CLOSE_WITHIN).await;
        assert!(rest(socket).await.len() < HUGE);
    }

    #[tokio::test]
    async fn h1_a_head_is_at_most_sixteen_kib() {
        let bench = Bench::new(1).await;
        for (padding, status) in [(15, "200"), (17, "431")] {
            let padding = "x".repeat(padding * 1024);
            let head =
                format!("GET / HTTP/1.1\r\nhost: x\r\nx: {padding}\r\nconnection: close\r\n\r\n");
            let answer = rest(bench.say(head.as_bytes()).await).await;
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status} ")),
                "{answer}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn h1_silent_connections_are_bounded_and_calls_do_not_count_among_them() {
        let bench = Bench::new(2).await;
        let mut call = upgrade(bench.say(UPGRADE).await).await;
        let _silent = bench.say(b"").await;
        let begun = Instant::now();
        assert!(rest(bench.say(WHO).await).await.contains(" 200 "));
        assert_eq!(begun.elapsed().as_secs(), 0);

        let _another = (bench.say(b"").await, bench.say(b"").await);
        assert!(rest(bench.say(WHO).await).await.contains(" 200 "));
        assert!(begun.elapsed() >= HEAD_WITHIN);

        call.write_u8(7).await.unwrap();
        assert_eq!(call.read_u8().await.unwrap(), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_keeps_the_server_from_leaving() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let bench = Bench {
            address: listener.local_addr().unwrap(),
            _accepting: Tasks::root("unused"),
        };
        let shutdown = Shutdown::new();
        let clients = async {
            let mut call = upgrade(bench.say(UPGRADE).await).await;
            let sockets = [
                bench.say(b"").await,
                bench.say(b"GET / HTTP/1.1\r\nho").await,
                bench.say(b"GET /stuck HTTP/1.1\r\nhost: x\r\n\r\n").await,
                bench.say(b"GET /huge HTTP/1.1\r\nhost: x\r\n\r\n").await,
            ];
            assert!(rest(bench.say(WHO).await).await.contains(" 200 "));
            shutdown.close();
            let begun = Instant::now();
            for socket in sockets {
                rest(socket).await;
            }
            assert!(begun.elapsed() <= CLOSE_WITHIN + Duration::from_millis(10));
            assert!(TcpStream::connect(bench.address).await.is_err());
            // Calls have an end of their own.
            call.write_u8(7).await.unwrap();
            assert_eq!(call.read_u8().await.unwrap(), 7);
        };
        let serving = serve(listener, Transport::default(), router(), shutdown.clone());
        tokio::join!(serving, clients);
    }
}
