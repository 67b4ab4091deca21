//! Opening the socket, if the operator's decisions allow it.

use std::{io, net::SocketAddr};

use llmrtc_security::auth::bind::{BindError, Exposure};
use tokio::net::{TcpListener, lookup_host};

use crate::config::Config;

/// An open socket.
#[derive(Debug)]
pub struct Listening {
    /// The socket.
    pub listener: TcpListener,
    /// Where it listens; with the port that port 0 turned into.
    pub address: SocketAddr,
    /// Who can reach it.
    pub exposure: Exposure,
}

/// A socket that was not opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The name means nothing.
    #[error("cannot resolve {host}")]
    Resolve {
        /// The configured name.
        host: String,
        /// What the resolver says.
        #[source]
        source: io::Error,
    },
    /// It would be open to everybody.
    #[error(transparent)]
    Exposed(#[from] BindError),
    /// The system refuses: taken, or not ours.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

/// Resolves the host, checks every address that it stands for, and listens on the first that works.
///
/// # Errors
/// See [`ListenError`].
///
/// # Cancel safety
/// Cancel safe.
pub async fn listen(config: &Config) -> Result<Listening, ListenError> {
    let resolve = |source| ListenError::Resolve {
        host: config.server.host.clone(),
        source,
    };
    let addresses: Vec<SocketAddr> = lookup_host((config.server.host.as_str(), config.server.port))
        .await
        .map_err(resolve)?
        .collect();
    // All of them: which one a name resolves to first is not the operator's decision.
    for address in &addresses {
        config.exposure(address.ip())?;
    }
    let mut failure = resolve(io::ErrorKind::NotFound.into());
    for address in addresses {
        match TcpListener::bind(address)
            .await
            .and_then(|listener| Ok((listener.local_addr()?, listener)))
        {
            Ok((address, listener)) => {
                return Ok(Listening {
                    listener,
                    address,
                    exposure: config.exposure(address.ip())?,
                });
            }
            Err(source) => failure = ListenError::Bind { address, source },
        }
    }
    Err(failure)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(host: &str, port: u16) -> Config {
        let mut config = Config::default();
        config.server.host = host.into();
        config.server.port = port;
        config
    }

    #[tokio::test]
    async fn a_free_port_on_loopback_opens_and_a_taken_one_says_so() {
        let open = listen(&config("127.0.0.1", 0)).await.unwrap();
        assert_eq!(open.exposure, Exposure::Loopback);
        assert_ne!(open.address.port(), 0);
        let error = listen(&config("127.0.0.1", open.address.port()))
            .await
            .unwrap_err();
        assert!(matches!(error, ListenError::Bind { .. }), "{error}");
    }

    #[tokio::test]
    async fn everybody_only_with_consent() {
        let error = listen(&config("0.0.0.0", 0)).await.unwrap_err();
        assert!(matches!(error, ListenError::Exposed(_)), "{error}");
        let mut insecure = config("0.0.0.0", 0);
        insecure.server.insecure_no_auth = true;
        assert_eq!(
            listen(&insecure).await.unwrap().exposure,
            Exposure::OpenToNetwork
        );
    }
}
