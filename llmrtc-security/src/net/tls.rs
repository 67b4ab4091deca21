//! TLS of a listener (C1): TLS 1.2 and 1.3, forward secrecy only, certificates that change while calls go on.
//!
//! | Decision | Reason |
//! | --- | --- |
//! | rustls with aws-lc-rs | memory safe; one crypto provider in the tree |
//! | AEAD suites with ephemeral keys only | nobody who records today decrypts tomorrow |
//! | the server's order of suites | the strongest that both know, whatever the client prefers |
//! | no tickets, no session cache, no early data | a resumed session outlives its forward secrecy and its client certificate; a call takes one handshake |
//! | ALPN `http/1.1` | WebSockets are upgraded from HTTP/1.1 |
//!
//! [`TlsAcceptor::accept`] takes a connection, [`TlsAcceptor::watch`] follows the files. A handshake under way keeps
//! the certificate with which it began, and connections are never touched.

mod config;
mod identity;
mod load;
mod reload;

#[cfg(test)]
mod tests;

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tokio::net::TcpStream;
pub use tokio_rustls::server::TlsStream;

pub use self::{
    config::{
        CertificateFiles, ClientAuth, MinVersion, PlaintextError, TlsConfig, check_plaintext,
    },
    identity::PeerIdentity,
    reload::{TlsChange, TlsReload},
};

/// Decides whether an address may begin another handshake. Asked before a byte is read.
pub type HandshakeLimit = Arc<dyn Fn(IpAddr) -> bool + Send + Sync>;

/// Certificates or keys that cannot be used. Nothing of a key's content is quoted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsLoadError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{} holds no {what} in PEM", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// `certificate` or `private key`.
        what: &'static str,
    },
    /// Key and certificate do not belong together, or are of a kind that is not supported.
    #[error("the certificate {} and its key cannot be used", path.display())]
    Pair {
        /// The certificate's file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// The authorities of client certificates cannot be used.
    #[error("the client authorities in {} cannot be used", path.display())]
    Authorities {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The settings do not fit together; validated ones do.
    #[error("the TLS settings are not usable")]
    Settings(#[source] rustls::Error),
}

/// A connection that did not become a secure one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The address has begun too many.
    #[error("too many handshakes from this address")]
    Limited,
    /// The client took too long.
    #[error("TLS handshake timed out")]
    TimedOut,
    /// The client speaks something else, or shows no certificate that we accept.
    #[error("TLS handshake failed")]
    Handshake(#[source] io::Error),
    /// The client's certificate was accepted and cannot be read.
    #[error("the client certificate is not readable")]
    Identity,
}

/// Turns connections into secure ones. Cheap to clone; clones share certificates.
#[derive(Clone)]
pub struct TlsAcceptor {
    config: Arc<TlsConfig>,
    current: Arc<ArcSwap<Loaded>>,
    limit: Option<HandshakeLimit>,
}

/// What the files held when they were read last.
struct Loaded {
    server: Arc<ServerConfig>,
    /// SHA-256 of the files, in the order of reading: each certificate and its key, then the client authorities.
    prints: Vec<[u8; 32]>,
    /// SHA-256 of the certificates themselves, in the order of the configuration.
    leaves: Vec<Option<[u8; 32]>>,
}

impl fmt::Debug for TlsAcceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsAcceptor")
            .field("config", &self.config)
            .field("limited", &self.limit.is_some())
            .finish_non_exhaustive()
    }
}

impl TlsAcceptor {
    /// Loads the files once.
    ///
    /// # Errors
    /// When one of them cannot be used.
    pub fn new(config: TlsConfig) -> Result<Self, TlsLoadError> {
        let loaded = load::load(&config)?;
        Ok(Self {
            config: Arc::new(config),
            current: Arc::new(ArcSwap::from_pointee(loaded)),
            limit: None,
        })
    }

    /// Asks `limit` before each handshake: a handshake costs us more than it costs the client.
    #[must_use]
    pub fn limit(mut self, limit: HandshakeLimit) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Shakes hands, within [`TlsConfig::handshake_timeout`]. With client certificates switched on, also says who the
    /// client is; `None` for a client without one where that is allowed.
    ///
    /// # Errors
    /// See [`TlsError`]. The connection is closed by then.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub async fn accept(
        &self,
        stream: TcpStream,
    ) -> Result<(TlsStream<TcpStream>, Option<PeerIdentity>), TlsError> {
        if let Some(limit) = &self.limit {
            let peer = stream.peer_addr().map_err(TlsError::Handshake)?;
            if !limit(canonical(peer)) {
                return Err(TlsError::Limited);
            }
        }
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::clone(&self.current.load().server));
        let stream = tokio::time::timeout(self.config.handshake_timeout, acceptor.accept(stream))
            .await
            .map_err(|_| TlsError::TimedOut)?
            .map_err(TlsError::Handshake)?;
        let identity = match stream.get_ref().1.peer_certificates() {
            Some([leaf, ..]) => Some(PeerIdentity::read(leaf).ok_or(TlsError::Identity)?),
            _ => None,
        };
        Ok((stream, identity))
    }

    /// Loads the files again, and keeps what is there if one of them cannot be used.
    ///
    /// # Errors
    /// Why not.
    pub fn reload(&self) -> Result<(), TlsLoadError> {
        self.current.store(Arc::new(load::load(&self.config)?));
        Ok(())
    }
}

fn canonical(peer: SocketAddr) -> IpAddr {
    peer.ip().to_canonical()
}

/// Handshakes of honest clients take two round trips.
const DEFAULT_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
