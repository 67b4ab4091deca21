//! What clients are told about STUN and TURN (protocol.md §2.6).
//!
//! In order: the configured list; otherwise our own STUN responder, beside the HTTP port, so that a client's gathering
//! ends after one round trip and no third party learns about the call.

use std::{net::SocketAddr, sync::Arc};

use llmrtc_media::stun;
use llmrtc_signal::protocol::IceServer;
use tokio::net::UdpSocket;

use crate::config::IceConfig;

/// The ICE servers of a listener.
#[derive(Clone, Debug)]
pub(crate) struct IceServers {
    configured: Vec<IceServer>,
    responder: Option<Arc<UdpSocket>>,
}

impl IceServers {
    /// Opens the responder on the UDP port with the number of `listener`, unless servers are configured.
    ///
    /// # Errors
    /// When a configured server is none that a browser would take.
    pub(crate) async fn open(config: &IceConfig, listener: SocketAddr) -> anyhow::Result<Self> {
        let mut configured = Vec::new();
        for server in &config.servers {
            configured.push(IceServer::new(
                server.urls.clone(),
                server.username.clone(),
                server.credential.clone(),
            )?);
        }
        let mut responder = None;
        if configured.is_empty() {
            match UdpSocket::bind(listener).await {
                Ok(socket) => responder = Some(Arc::new(socket)),
                // Calls still work, only slower for clients whose default server does not answer.
                Err(error) => tracing::warn!(%listener, %error, "no STUN responder"),
            }
        }
        Ok(Self { configured, responder })
    }

    /// The list for a client that reached us as `host` (its `Host` header).
    pub(crate) fn for_client(&self, host: Option<&str>) -> Vec<IceServer> {
        if !self.configured.is_empty() {
            return self.configured.clone();
        }
        let port = self.responder.as_ref().and_then(|socket| Some(socket.local_addr().ok()?.port()));
        let url = port.zip(host).map(|(port, host)| format!("stun:{}:{port}", without_port(host)));
        // A `Host` that does not make a URL gets no list, and the client its own default.
        url.and_then(|url| IceServer::new(vec![url], None, None).ok()).into_iter().collect()
    }

    /// Answers STUN requests until dropped.
    pub(crate) async fn respond(self) -> anyhow::Result<()> {
        match &self.responder {
            Some(socket) => Ok(stun::respond(socket).await?),
            None => std::future::pending().await,
        }
    }
}

/// `example.org:8787` → `example.org`, `[::1]:8787` → `[::1]`.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn clients_are_sent_to_the_host_that_they_know() {
        let listener = "127.0.0.1:0".parse().unwrap();
        let ice = IceServers::open(&IceConfig::default(), listener).await.unwrap();
        let port = ice.responder.as_ref().unwrap().local_addr().unwrap().port();
        for (host, expected) in [
            ("localhost:8787", format!("stun:localhost:{port}")),
            ("voice.example", format!("stun:voice.example:{port}")),
            ("[::1]:8787", format!("stun:[::1]:{port}")),
        ] {
            assert_eq!(ice.for_client(Some(host))[0].urls(), [expected]);
        }
        for host in [None, Some("a b"), Some("a/b"), Some("user@host")] {
            assert!(ice.for_client(host).is_empty(), "{host:?}");
        }
    }
}
