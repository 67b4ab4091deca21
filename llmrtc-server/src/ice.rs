//! What clients are told about STUN and TURN (protocol.md §2.6).
//!
//! In order: the configured list; Metered's, fetched ahead of time; our own STUN responder beside the HTTP port, so that
//! a client's gathering ends after one round trip and no third party learns about the call. Nobody waits for Metered: a
//! client that comes before the first answer, or after a long outage, gets the responder.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use llmrtc_core::{
    provider::{ProviderError, Retry},
    tasks::Tasks,
};
use llmrtc_media::stun;
use llmrtc_providers::{
    http::HttpClient,
    metered::{MeteredConfig, MeteredTurn, TurnServer},
};
use llmrtc_signal::protocol::IceServer;
use tokio::{net::UdpSocket, sync::watch, time::Instant};

use crate::config::IceConfig;

/// 80 % of the five minutes for which the reference keeps a list.
const REFRESH_AFTER: Duration = Duration::from_secs(4 * 60);
/// How long a list may be served when no newer one can be had. Metered's credentials do not expire unless they were
/// created with `expiryInSeconds`, which its answer does not tell. Its documentation suggests an hour; half of that
/// leaves a client the other half for its call.
const MAX_AGE: Duration = Duration::from_secs(30 * 60);
/// After the first failure; the wait doubles with each further one.
const FIRST_RETRY: Duration = Duration::from_secs(5);
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// The ICE servers of a listener.
#[derive(Debug)]
pub(crate) struct IceServers {
    configured: Vec<IceServer>,
    metered: Option<MeteredTurn>,
    relays: Arc<Relays>,
    responder: Option<Arc<UdpSocket>>,
}

impl IceServers {
    /// Opens the responder on the UDP port with the number of `listener`, unless servers are configured.
    ///
    /// # Errors
    /// When a configured server is none that a browser would take, or Metered's name or key cannot be right.
    pub(crate) async fn open(config: &IceConfig, listener: SocketAddr) -> anyhow::Result<Self> {
        let mut configured = Vec::new();
        for server in &config.servers {
            configured.push(IceServer::new(
                server.urls.clone(),
                server.username.clone(),
                server.credential.clone(),
            )?);
        }
        let mut metered = None;
        let mut responder = None;
        if configured.is_empty() {
            if let (Some(app_name), Some(api_key)) =
                (&config.metered.app_name, &config.metered.api_key)
            {
                let config = MeteredConfig {
                    app_name: app_name.clone(),
                    api_key: api_key.clone(),
                    region: config.metered.region.clone(),
                    base_url: None,
                };
                metered = Some(MeteredTurn::new(config, HttpClient::new()?)?);
            }
            match UdpSocket::bind(listener).await {
                Ok(socket) => responder = Some(Arc::new(socket)),
                // Calls still work, only slower for clients whose default server does not answer.
                Err(error) => tracing::warn!(%listener, %error, "no STUN responder"),
            }
        }
        Ok(Self {
            configured,
            metered,
            relays: Arc::default(),
            responder,
        })
    }

    /// Answers STUN requests and keeps Metered's list fresh for as long as `tasks` live.
    pub(crate) fn start(&self, tasks: &Tasks) {
        if let Some(socket) = self.responder.clone() {
            tasks
                .spawn("stun", |_| async move {
                    if let Err(error) = stun::respond(&socket).await {
                        tracing::error!(%error, "the STUN responder has stopped");
                    }
                })
                .detach();
        }
        if let Some(metered) = self.metered.clone() {
            let relays = Arc::clone(&self.relays);
            tasks
                .spawn("turn-credentials", |_| async move {
                    relays.keep_fresh(async || metered.fetch().await).await;
                })
                .detach();
        }
    }

    /// The list for a client that reached us as `host` (its `Host` header).
    pub(crate) fn for_client(&self, host: Option<&str>) -> Vec<IceServer> {
        if !self.configured.is_empty() {
            return self.configured.clone();
        }
        let relays = self.relays.current();
        if !relays.is_empty() {
            return relays;
        }
        let port = self
            .responder
            .as_ref()
            .and_then(|socket| Some(socket.local_addr().ok()?.port()));
        let url = port
            .zip(host)
            .map(|(port, host)| format!("stun:{}:{port}", without_port(host)));
        // A `Host` that does not make a URL gets no list, and the client its own default.
        url.and_then(|url| IceServer::new(vec![url], None, None).ok())
            .into_iter()
            .collect()
    }
}

/// The latest list from Metered and when it came.
#[derive(Debug, Default)]
struct Relays(watch::Sender<Option<(Instant, Vec<IceServer>)>>);

impl Relays {
    /// The list, unless there is none or it is too old.
    fn current(&self) -> Vec<IceServer> {
        match &*self.0.borrow() {
            Some((fetched, servers)) if fetched.elapsed() < MAX_AGE => servers.clone(),
            _ => Vec::new(),
        }
    }

    /// Fetches again and again, one call at a time. A failure leaves the list as it is.
    async fn keep_fresh(&self, fetch: impl AsyncFn() -> Result<Vec<TurnServer>, ProviderError>) {
        let mut failures = 0;
        loop {
            let wait = match fetch().await {
                Ok(servers) => {
                    failures = 0;
                    self.0.send_replace(Some((Instant::now(), usable(servers))));
                    REFRESH_AFTER
                }
                Err(error) => {
                    let wait = wait_after(&error, failures);
                    failures += 1;
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        retry_secs = wait.as_secs(),
                        "no TURN credentials from Metered"
                    );
                    wait
                }
            };
            tokio::time::sleep(wait).await;
        }
    }
}

/// What a browser would take. One entry that it would not breaks all of them.
fn usable(servers: Vec<TurnServer>) -> Vec<IceServer> {
    let check = |server: TurnServer| {
        IceServer::new(server.urls, server.username, server.credential)
            .inspect_err(|error| tracing::warn!(%error, "Metered's ICE server is left out"))
            .ok()
    };
    servers.into_iter().filter_map(check).collect()
}

/// How long to wait after a failure that `failures` others precede without a success in between.
fn wait_after(error: &ProviderError, failures: u32) -> Duration {
    match error.retry() {
        // What was refused once may be allowed after a look at Metered's dashboard, but hardly within seconds.
        Retry::Never => REFRESH_AFTER,
        Retry::After(asked) => {
            let doubled = FIRST_RETRY.saturating_mul(1_u32.checked_shl(failures).unwrap_or(u32::MAX));
            // Later than MAX_AGE, there would be nothing left to refresh.
            doubled.min(LONGEST_RETRY).max(asked.unwrap_or_default()).min(MAX_AGE)
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
