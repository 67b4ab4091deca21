//! What clients are told about STUN and TURN (protocol.md §2.6).
//!
//! In order: the configured list and the configured relay, with a credential per caller; Metered's, fetched ahead of time; our own STUN responder beside the HTTP port, so that
//! a client's gathering ends after one round trip and no third party learns about the call. Nobody waits for Metered: a
//! client that comes before the first answer, or after a long outage, gets the responder.
//!
//! Better no server than one that does not answer: a browser waits three seconds for it, and with an empty list the
//! client has a default of its own.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use llmrtc_core::{
    provider::{ProviderError, Retry},
    tasks::Tasks,
};
use llmrtc_media::stun;
use llmrtc_providers::{
    http::HttpClient,
    metered::{MeteredConfig, MeteredTurn, TurnServer},
};
use llmrtc_security::{
    auth::{Principal, PrincipalKind},
    net::relay::Relay,
};
use llmrtc_signal::protocol::IceServer;
use tokio::{net::UdpSocket, sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use url::Host;

use crate::config::IceConfig;

/// 80 % of the five minutes for which the reference keeps a list.
const REFRESH_AFTER: Duration = Duration::from_secs(4 * 60);
/// How long a list may be served when no newer one can be had. Metered's credentials do not expire unless they were
/// created with `expiryInSeconds`, which its answer does not tell. Its documentation suggests an hour; half of that
/// leaves a client the other half for its call.
const MAX_AGE: Duration = Duration::from_secs(30 * 60);
/// After the first failure. The wait doubles with each further one.
const FIRST_RETRY: Duration = Duration::from_secs(5);
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// The ICE servers of a listener.
#[derive(Debug)]
pub(crate) struct IceServers {
    configured: Vec<IceServer>,
    relay: Option<Relay>,
    metered: Option<MeteredTurn>,
    relays: Arc<Relays>,
    responder: Option<Responder>,
}

/// Our own STUN server.
#[derive(Debug)]
struct Responder {
    socket: Arc<UdpSocket>,
    address: SocketAddr,
    /// It answers no more.
    stopped: CancellationToken,
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
        let relay = Relay::new(&config.relay)?;
        let mut metered = None;
        let mut responder = None;
        if configured.is_empty() && relay.is_none() {
            if let (Some(app_name), Some(api_key)) =
                (&config.metered.app_name, &config.metered.api_key)
            {
                let config = MeteredConfig {
                    app_name: app_name.clone(),
                    api_key: api_key.clone().into(),
                    region: config.metered.region.clone(),
                    base_url: None,
                };
                metered = Some(MeteredTurn::new(config, HttpClient::new()?)?);
            }
            match Responder::bind(listener).await {
                Ok(open) => responder = Some(open),
                // Calls still work, only slower for clients whose default server does not answer.
                Err(error) => tracing::warn!(%listener, %error, "no STUN responder"),
            }
        }
        Ok(Self {
            configured,
            relay,
            metered,
            relays: Arc::default(),
            responder,
        })
    }

    /// Answers STUN requests and keeps Metered's list fresh for as long as `tasks` live.
    pub(crate) fn start(&self, tasks: &Tasks) {
        if let Some(responder) = &self.responder {
            let socket = Arc::clone(&responder.socket);
            // However it ends.
            let stopped = responder.stopped.clone().drop_guard();
            tasks
                .spawn("stun", |_| async move {
                    let _stopped = stopped;
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
                    relays.keep_fresh(|| metered.fetch()).await;
                })
                .detach();
        }
    }

    /// The list for a client that reached us as `host` (its `Host` header), without credentials of one's own.
    pub(crate) fn for_client(&self, host: Option<&str>) -> Vec<IceServer> {
        if !self.configured.is_empty() || self.relay.is_some() {
            return self.configured.clone();
        }
        let relays = self.relays.current();
        if !relays.is_empty() {
            return relays;
        }
        let url = self
            .responder
            .as_ref()
            .zip(host)
            .and_then(|(responder, host)| responder.url(host));
        // A `Host` that does not make a URL gets no list.
        url.and_then(|url| IceServer::new(vec![url], None, None).ok())
            .into_iter()
            .collect()
    }
}

impl IceServers {
    /// What this caller may relay over, for some minutes. Only for callers who have shown who they are (H4).
    pub(crate) fn for_caller(
        &self,
        caller: &Principal,
        address: IpAddr,
        now: SystemTime,
    ) -> Option<IceServer> {
        let relay = self.relay.as_ref()?;
        // Nobody in particular is told apart by address, so that quotas per user hold.
        let user = match caller.kind {
            PrincipalKind::Anonymous => address.to_string(),
            _ => {
                let tenant = caller.tenant.as_deref().unwrap_or_default();
                format!("{tenant}\0{}", caller.subject)
            }
        };
        let issued = relay.issue(&user, now);
        let server = IceServer::new(issued.urls, Some(issued.username), Some(issued.credential));
        server
            .inspect_err(|error| tracing::error!(%error, "ice.relay.urls cannot be used"))
            .ok()
    }
}

impl Responder {
    async fn bind(address: SocketAddr) -> std::io::Result<Self> {
        let socket = UdpSocket::bind(address).await?;
        Ok(Self {
            address: socket.local_addr()?,
            socket: Arc::new(socket),
            stopped: CancellationToken::new(),
        })
    }

    /// Where a client finds it that found us at `host`; `None` if it would not.
    fn url(&self, host: &str) -> Option<String> {
        let name = without_port(host);
        // On loopback, only a client on this machine reaches it. Everybody else comes through a proxy, which has no
        // such port.
        let reachable = !self.address.ip().to_canonical().is_loopback() || is_this_machine(name);
        (reachable && !self.stopped.is_cancelled())
            .then(|| format!("stun:{name}:{}", self.address.port()))
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
    async fn keep_fresh<F>(&self, fetch: impl Fn() -> F)
    where
        F: Future<Output = Result<Vec<TurnServer>, ProviderError>>,
    {
        let mut retry = FIRST_RETRY;
        loop {
            let wait = match fetch().await {
                Ok(servers) => {
                    retry = FIRST_RETRY;
                    self.0.send_replace(Some((Instant::now(), usable(servers))));
                    REFRESH_AFTER
                }
                Err(error) => {
                    let wait = wait_after(&error, retry);
                    retry = (retry * 2).min(LONGEST_RETRY);
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

/// How long to wait after a failure: `retry`, unless the vendor or the failure itself asks for more.
fn wait_after(error: &ProviderError, retry: Duration) -> Duration {
    match error.retry() {
        // The operator may put it right at Metered, but hardly within seconds.
        Retry::Never => REFRESH_AFTER,
        // Later than MAX_AGE there would be nothing left to refresh.
        Retry::After(asked) => retry.max(asked.unwrap_or_default()).min(MAX_AGE),
    }
}

/// `example.org:8787` → `example.org`, `[::1]:8787` → `[::1]`.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Whether a name without a port stands for the machine that uses it (RFC 6761 §6.3).
fn is_this_machine(name: &str) -> bool {
    match Host::parse(name) {
        Ok(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Ok(Host::Ipv4(address)) => address.is_loopback(),
        Ok(Host::Ipv6(address)) => IpAddr::V6(address).to_canonical().is_loopback(),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, sync::Mutex};

    use llmrtc_core::{provider::ErrorKind, redact::Secret};
    use tokio::time::sleep;

    use super::*;
    use crate::config::MeteredConfig;

    type Answer = Result<Vec<TurnServer>, ProviderError>;

    /// Gives its answers in order, then fails, and notes after how many seconds it was asked.
    struct Metered {
        started: Instant,
        answers: Mutex<VecDeque<Answer>>,
        asked: Mutex<Vec<u64>>,
    }

    impl Metered {
        fn new(answers: impl IntoIterator<Item = Answer>) -> Self {
            Self {
                started: Instant::now(),
                answers: Mutex::new(answers.into_iter().collect()),
                asked: Mutex::default(),
            }
        }

        /// Keeps `relays` fresh while `body` runs, and returns when it was asked.
        async fn serve(&self, relays: &Relays, body: impl Future<Output = ()>) -> Vec<u64> {
            let fetch = || async {
                let now = self.started.elapsed().as_secs();
                self.asked.lock().unwrap().push(now);
                let answer = self.answers.lock().unwrap().pop_front();
                answer.unwrap_or_else(down)
            };
            tokio::select! {
                () = relays.keep_fresh(fetch) => unreachable!("it never ends"),
                () = body => self.asked.lock().unwrap().clone(),
            }
        }

        async fn until(&self, seconds: u64) {
            tokio::time::sleep_until(self.started + Duration::from_secs(seconds)).await;
        }
    }

    fn turn(url: &str, credential: Option<&str>) -> TurnServer {
        TurnServer {
            urls: vec![url.to_owned()],
            username: Some("u7".to_owned()),
            credential: credential.map(Secret::new),
        }
    }

    fn list(url: &str) -> Answer {
        Ok(vec![turn(url, Some("secret"))])
    }

    fn down() -> Answer {
        Err(ProviderError::new(
            ErrorKind::Unavailable,
            "metered",
            "down",
        ))
    }

    fn urls(servers: &[IceServer]) -> Vec<&str> {
        let urls = servers.iter().flat_map(IceServer::urls);
        urls.map(String::as_str).collect()
    }

    async fn open(config: &IceConfig) -> IceServers {
        open_at("0.0.0.0:0", config).await
    }

    async fn open_at(listener: &str, config: &IceConfig) -> IceServers {
        let listener = listener.parse().unwrap();
        IceServers::open(config, listener).await.unwrap()
    }

    #[tokio::test]
    async fn clients_are_sent_to_the_host_that_they_know() {
        let ice = open(&IceConfig::default()).await;
        let port = ice.responder.as_ref().unwrap().address.port();
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

    #[tokio::test]
    async fn a_responder_on_loopback_is_for_clients_on_this_machine() {
        let ice = open_at("127.0.0.1:0", &IceConfig::default()).await;
        for host in [
            "localhost:8787",
            "LocalHost",
            "app.localhost:80",
            "127.0.0.1:8787",
            "127.9.9.9",
            "[::1]:8787",
            "[::ffff:127.0.0.1]",
        ] {
            assert_eq!(ice.for_client(Some(host)).len(), 1, "{host}");
        }
        for host in [
            "voice.example",
            "voice.example:8787",
            "192.0.2.7:8787",
            "[2001:db8::7]:8787",
            "localhost.example",
            "notlocalhost",
        ] {
            assert!(ice.for_client(Some(host)).is_empty(), "{host}");
        }
    }

    #[tokio::test]
    async fn a_responder_that_has_stopped_is_not_named() {
        let ice = open(&IceConfig::default()).await;
        let tasks = Tasks::root("test");
        ice.start(&tasks);
        assert_eq!(ice.for_client(Some("host")).len(), 1);
        tasks.shutdown(Duration::ZERO).await;
        assert!(ice.for_client(Some("host")).is_empty());
    }

    #[tokio::test]
    async fn a_configured_list_comes_before_metered_and_metered_before_the_responder() {
        let mut config = IceConfig {
            metered: MeteredConfig {
                app_name: Some("my-app".to_owned()),
                api_key: Some(Secret::new("key")),
                region: None,
            },
            ..IceConfig::default()
        };
        let ice = open(&config).await;
        assert!(ice.metered.is_some() && ice.responder.is_some());
        let before = ice.for_client(Some("host"));
        assert!(urls(&before)[0].starts_with("stun:host:"));
        ice.relays
            .0
            .send_replace(Some((Instant::now(), usable(list("turn:m").unwrap()))));
        assert_eq!(urls(&ice.for_client(Some("host"))), ["turn:m"]);

        let server = r#"{"urls":"stun:own.example"}"#;
        config.servers.push(serde_json::from_str(server).unwrap());
        let ice = open(&config).await;
        assert!(ice.metered.is_none() && ice.responder.is_none());
        assert_eq!(urls(&ice.for_client(Some("host"))), ["stun:own.example"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_is_replaced_before_it_is_five_minutes_old() {
        let relays = Relays::default();
        let metered = Metered::new(["turn:a", "turn:b", "turn:c"].map(list));
        let asked = metered.serve(&relays, async {
            for (seconds, url) in [
                (1, "turn:a"),
                (239, "turn:a"),
                (241, "turn:b"),
                (481, "turn:c"),
            ] {
                metered.until(seconds).await;
                assert_eq!(urls(&relays.current()), [url], "{seconds}");
            }
        });
        assert_eq!(asked.await, [0, 240, 480]);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_a_slow_answer_and_there_is_one_call_at_a_time() {
        let ice = open(&IceConfig::default()).await;
        let calls = Mutex::new(0);
        let slow = || async {
            *calls.lock().unwrap() += 1;
            sleep(Duration::from_secs(600)).await;
            list("turn:a")
        };
        let clients = async {
            for _ in 0..10 {
                assert!(urls(&ice.for_client(Some("host")))[0].starts_with("stun:host:"));
                sleep(Duration::from_secs(59)).await;
            }
            sleep(Duration::from_secs(11)).await;
            assert_eq!(urls(&ice.for_client(Some("host"))), ["turn:a"]);
        };
        tokio::select! {
            () = ice.relays.keep_fresh(slow) => unreachable!("it never ends"),
            () = clients => assert_eq!(*calls.lock().unwrap(), 1),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_keeps_the_list_until_it_is_half_an_hour_old() {
        let relays = Relays::default();
        let metered = Metered::new([list("turn:a")]);
        let asked = metered.serve(&relays, async {
            metered.until(1799).await;
            assert_eq!(urls(&relays.current()), ["turn:a"]);
            metered.until(1801).await;
            assert!(relays.current().is_empty());
            metered.answers.lock().unwrap().push_back(list("turn:b"));
            metered.until(1801 + LONGEST_RETRY.as_secs()).await;
            assert_eq!(urls(&relays.current()), ["turn:b"]);
        });
        assert_eq!(asked.await[..7], [0, 240, 245, 255, 275, 315, 375]);
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_success_retries_are_quick_again() {
        let relays = Relays::default();
        let metered = Metered::new([down(), down(), list("turn:a"), down()]);
        let asked = metered.serve(&relays, metered.until(262));
        assert_eq!(asked.await, [0, 5, 15, 255, 260]);
    }

    #[test]
    fn the_failure_has_a_say_in_when_to_try_again() {
        let seconds = Duration::from_secs;
        let error = |kind| ProviderError::new(kind, "metered", "x");
        let limited = |wait| error(ErrorKind::RateLimited).with_retry_after(wait);
        for (error, expected) in [
            (error(ErrorKind::Unavailable), seconds(5)),
            (error(ErrorKind::Authentication), REFRESH_AFTER),
            (limited(seconds(1)), seconds(5)),
            (limited(seconds(90)), seconds(90)),
            (limited(seconds(86_400)), MAX_AGE),
        ] {
            assert_eq!(wait_after(&error, FIRST_RETRY), expected, "{error:?}");
        }
    }

    #[test]
    fn what_a_browser_would_refuse_is_left_out() {
        let servers = usable(vec![
            turn("turn:good", Some("secret")),
            turn("turn:bad", None),
            turn("turns:bad", Some(" ")),
            turn("stun:good", None),
            turn("https://bad", Some("secret")),
            TurnServer {
                urls: Vec::new(),
                username: None,
                credential: None,
            },
        ]);
        assert_eq!(urls(&servers), ["turn:good", "stun:good"]);
    }
}
