//! From a TCP connection to a stream of HTTP: who a proxy says is there, then TLS.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use llmrtc_core::{
    clock::{Clock, SystemClock},
    tasks::Tasks,
};
use llmrtc_security::{
    limit::{config::LimitsConfig, gcra::Quota, rate::RateTable},
    net::{
        address::{Networks, proxy_protocol},
        tls::{TlsAcceptor, TlsChange, TlsError, TlsReload, TlsStream, check_plaintext},
    },
};
use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};

use crate::{admission::ClientCertificate, config::Config};

/// How long a proxy may take to say for whom it connects. It does so at once.
const PROXY_WITHIN: Duration = Duration::from_secs(5);
/// TLS handshakes of one address: a browser opens half a dozen connections; a flood opens thousands.
const HANDSHAKES_PER_SECOND: u32 = 20;
const HANDSHAKE_BURST: u32 = 100;
/// Addresses whose handshakes are counted.
const HANDSHAKE_KEYS: usize = 65_536;

/// How connections of a listener are opened. The default is plain TCP without proxies.
#[derive(Clone, Debug, Default)]
pub(super) struct Transport {
    /// Networks of proxies that begin with a PROXY protocol header.
    proxies: Option<Networks>,
    tls: Option<Tls>,
}

#[derive(Clone, Debug)]
struct Tls {
    acceptor: TlsAcceptor,
    /// Follow the certificates.
    watching: Arc<Tasks>,
}

/// A connection that is open.
pub(super) enum Stream {
    Plain(TcpStream),
    /// Boxed: most deployments end TLS in front, and its state is thirty times the size of a socket.
    Secure(Box<TlsStream<TcpStream>>),
}

/// A connection that is not opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum TransportError {
    #[error("the proxy protocol header is broken")]
    Proxy(#[source] io::Error),
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl Transport {
    /// As configured, for a listener on `address`.
    pub(super) fn new(config: &Config, address: IpAddr) -> anyhow::Result<Self> {
        let tls = &config.tls;
        // Whoever serves everybody without authentication has said that the network is trusted.
        let in_the_clear = config.server.behind_proxy || config.server.insecure_no_auth;
        check_plaintext(address, tls.is_enabled(), in_the_clear)?;
        let proxies = config
            .proxy
            .proxy_protocol
            .then(|| config.proxy.trusted.clone());
        if !tls.is_enabled() {
            return Ok(Self { proxies, tls: None });
        }
        let table = RateTable::new(HANDSHAKE_KEYS, SystemClock.now());
        let quota = Quota::new(
            HANDSHAKES_PER_SECOND,
            Duration::from_secs(1),
            HANDSHAKE_BURST,
        )
        .context("the handshake limit is a constant")?;
        let exempt = LimitsConfig::default().exempt;
        let limit = move |address: IpAddr| {
            exempt.contain(address)
                || table
                    .take(table.key(&address), &quota, 1, SystemClock.now())
                    .allowed
        };
        let acceptor = TlsAcceptor::new(tls.clone())
            .context("TLS cannot be set up")?
            .limit(Arc::new(limit));
        let tls = Some(Tls {
            acceptor,
            watching: Arc::new(Tasks::root("certificates")),
        });
        Ok(Self { proxies, tls })
    }

    /// Follows the certificates, changes since [`new`](Self::new) included, and tells `changed` of each.
    pub(super) fn watch(&self, changed: impl Fn(&TlsChange) + Send + Sync + 'static) {
        let Some(tls) = &self.tls else { return };
        tls.acceptor.watch(&tls.watching, move |news| match news {
            TlsReload::Reloaded(change) => {
                tracing::info!("the certificate was replaced");
                changed(&change);
            }
            TlsReload::Kept(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(
                    error,
                    "the new certificate cannot be used; the old one stays"
                );
            }
            _ => {}
        });
    }

    pub(super) fn is_secure(&self) -> bool {
        self.tls.is_some()
    }

    /// Opens a connection. Returns the stream, who is at its other end, and what their certificate calls them.
    pub(super) async fn open(
        &self,
        mut stream: TcpStream,
        mut peer: SocketAddr,
    ) -> Result<(Stream, SocketAddr, Option<ClientCertificate>), TransportError> {
        if self
            .proxies
            .as_ref()
            .is_some_and(|proxies| proxies.contain(peer.ip()))
        {
            let header = timeout(PROXY_WITHIN, proxied(&mut stream)).await;
            let header = header.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            if let Some(client) = header.map_err(TransportError::Proxy)? {
                peer = client;
            }
        }
        match &self.tls {
            None => Ok((Stream::Plain(stream), peer, None)),
            Some(tls) => {
                let (stream, identity) = tls.acceptor.accept(stream).await?;
                let name = identity.as_ref().and_then(|identity| identity.subject());
                let certificate = name.map(|name| ClientCertificate(name.into()));
                Ok((Stream::Secure(Box::new(stream)), peer, certificate))
            }
        }
    }
}

/// Reads a PROXY protocol header and nothing behind it. `None` for a connection of the proxy itself.
async fn proxied(stream: &mut TcpStream) -> io::Result<Option<SocketAddr>> {
    let mut bytes = Vec::with_capacity(128);
    loop {
        match proxy_protocol::parse(&bytes) {
            // One byte at a time: what follows belongs to somebody else, and headers are short.
            proxy_protocol::Header::Incomplete => bytes.push(stream.read_u8().await?),
            proxy_protocol::Header::Complete { client, .. } => return Ok(client),
            proxy_protocol::Header::Invalid => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}
