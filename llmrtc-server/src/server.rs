//! The composition root: from a configuration to something that answers calls.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use axum::{
    Extension, Router,
    extract::WebSocketUpgrade,
    http::{HeaderMap, header},
    response::Response,
};
use llmrtc_core::{
    clock::{Clock, SystemClock},
    hooks::{Hooks, LoggingObserver, MetricsObserver, Observers},
    playout::AudioDecoder,
    provider::Providers,
    redact::Secret,
    tasks::Tasks,
    telemetry::{Metrics, SESSIONS_ACTIVE},
    tool::ToolRunner,
    turn::TurnConfig,
};
#[cfg(not(feature = "local"))]
use llmrtc_media::pipeline::Models;
use llmrtc_media::{codec::decode::FileDecoder, peer::PeerFactory, pipeline::MediaThreads};
#[cfg(not(feature = "local"))]
use llmrtc_providers::select::InProcess;
use llmrtc_providers::select::{self, SelectedNames};
use llmrtc_security::{
    audit::Audit,
    auth::{Access, bind::Exposure},
    tool::GuardedTools,
};
use llmrtc_signal::connection::{
    ConnectionConfig,
    server::{configure, configure_waiting},
};
use serde_json::{Map, Value, json};
use tokio_util::task::TaskTracker;

#[cfg(feature = "local")]
use crate::local::{self, Local};
use crate::{
    admission::{Admission, Admitted},
    config::Config,
    ice::IceServers,
    metrics::PrometheusMetrics,
    routes::{self, Readiness, Web},
    security::{Security, vendors},
    session,
    session::{Checks, Keep},
    shutdown::Shutdown,
};

/// The name of what runs in this process.
const EMBEDDED: &str = "embedded";
/// Spoken on the socket, for clients that name protocols.
const SUBPROTOCOL: &str = "llmrtc.v1";
/// How often sessions whose client stays away are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);
/// How long observers may take to see the last events.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// How long providers may take to say goodbye: less than the whole closing may take (PL3).
const PROVIDER_TIMEOUT: Duration = Duration::from_secs(2);

/// Assembles a [`Server`]. Everything has a default that comes from the configuration.
#[must_use]
pub struct ServerBuilder {
    config: Config,
    providers: Option<(Providers, Value)>,
    tools: Option<Arc<dyn ToolRunner>>,
    hooks: Vec<Arc<dyn Hooks>>,
    shutdown: Shutdown,
}

/// A server that is ready to be mounted. Cloning shares it.
#[derive(Clone)]
pub struct Server {
    shared: Arc<Shared>,
    web: Web,
    numbers: Arc<PrometheusMetrics>,
}

/// What all sessions share.
pub(crate) struct Shared {
    pub(crate) signal: ConnectionConfig,
    pub(crate) turn: Arc<TurnConfig>,
    pub(crate) providers: Providers,
    pub(crate) tools: Option<Arc<dyn ToolRunner>>,
    pub(crate) tool_checks: Checks,
    pub(crate) peers: PeerFactory,
    pub(crate) decoder: Arc<dyn AudioDecoder>,
    /// The rules at the door, which are asked again for what comes in messages.
    pub(crate) admission: Admission,
    pub(crate) security: Arc<Security>,
    pub(crate) keep: Arc<Keep>,
    pub(crate) ice: IceServers,
    pub(crate) observers: Observers,
    pub(crate) metrics: Metrics,
    pub(crate) shutdown: Shutdown,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) tasks: Tasks,
    /// The sessions that have not come to their end.
    calls: TaskTracker,
}

impl ServerBuilder {
    /// Answers with these instead of the configured providers.
    pub fn providers(mut self, providers: Providers) -> Self {
        let names = json!({
            "llm": providers.llm.name(),
            "stt": providers.stt.name(),
            "tts": providers.tts.name(),
        });
        self.providers = Some((providers, names));
        self
    }

    /// Gives the model tools.
    pub fn tools(mut self, tools: Arc<dyn ToolRunner>) -> Self {
        self.tools = Some(tools);
        self
    }

    /// Adds an observer. Several are called in order, off the hot path.
    pub fn hooks(mut self, hooks: Arc<dyn Hooks>) -> Self {
        self.hooks.push(hooks);
        self
    }

    /// Lets somebody else decide when the server leaves.
    pub fn shutdown(mut self, shutdown: Shutdown) -> Self {
        self.shutdown = shutdown;
        self
    }

    /// Builds the server for a listener at `address` that is `exposure`d like this, and initialises the providers.
    ///
    /// # Errors
    /// When a provider cannot be chosen or initialised, or the media threads cannot be started.
    pub async fn build(self, address: SocketAddr, exposure: Exposure) -> anyhow::Result<Server> {
        let Self {
            mut config,
            providers,
            tools,
            hooks,
            shutdown,
        } = self;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let prometheus = Arc::new(PrometheusMetrics::default());
        let metrics = Metrics::new(Arc::clone(&prometheus) as _);
        let mut observers: Vec<Arc<dyn Hooks>> =
            vec![Arc::new(MetricsObserver::new(metrics.clone()))];

        let security = Security::build(&config, address, exposure, Arc::clone(&clock));
        let mut security = security.await?;
        // What runs in this process instead of elsewhere.
        #[cfg(feature = "local")]
        let local = {
            let keys = Arc::clone(&security.keys);
            let wanted = local::wanted(&config, &|name| keys.get(name).map(Into::into));
            let wanted = match &providers {
                Some(_) => wanted.without_providers(),
                None => wanted,
            };
            Local::of(&config, wanted).await
        };
        #[cfg(feature = "local")]
        let (in_process, models) = (local.providers, local.models);
        #[cfg(not(feature = "local"))]
        let (in_process, models) = (InProcess::default(), Models::default());
        let (mut providers, names) = match providers {
            Some(given) => given,
            None => {
                let keys = Arc::clone(&security.keys);
                let key = |name: &str| keys.get(name).map(Into::into);
                let env = |name: &str| config.providers.lookup(name);
                let selection = select::from_env_with(&env, &key, &in_process)?;
                for notice in &selection.notices {
                    tracing::info!("{notice}");
                }
                let names = selection.names;
                suit(&mut config, &names);
                if names.llm == EMBEDDED {
                    // It would sooner say it than keep it to itself.
                    security.canary = None;
                }
                (
                    selection.providers,
                    json!({ "llm": names.llm, "stt": names.stt, "tts": names.tts }),
                )
            }
        };
        let security = Arc::new(security);
        prometheus.show(&security);
        let logging = LoggingObserver::new()
            .with_payloads(config.log.capture)
            .with_scrub(security.log_scrub());
        observers.push(Arc::new(logging));
        observers.extend(hooks);
        providers
            .init()
            .await
            .context("a provider cannot be used")?;

        let tool_checks = match &tools {
            Some(tools) => {
                GuardedTools::compile(&tools.definitions()).map_err(|(tool, error)| {
                    anyhow::anyhow!(error)
                        .context(format!("the schema of tool `{tool}` cannot be used"))
                })?
            }
            None => Checks::default(),
        };
        let info = info(names, &providers);
        let _ = security.llm.set(providers.llm.name().to_owned());
        let providers = vendors::guard(providers, &security);
        let media = MediaThreads::start_with_models(&config.media, models)
            .context("cannot start the media threads")?;
        let readiness = Readiness::new(shutdown.clone());
        let admission = Admission::new(
            config.server.origin_policy(address.ip()),
            Arc::clone(&security.authenticator),
            config.server.max_connections,
            config.server.max_connections_per_address,
            shutdown.clone(),
        );
        let shared = Arc::new(Shared {
            signal: config.signal.clone(),
            turn: Arc::new(config.turn.clone()),
            providers,
            tools,
            tool_checks,
            peers: PeerFactory::new(config.media.peer.clone(), address.ip(), media),
            decoder: Arc::new(FileDecoder),
            admission: admission.clone(),
            security: Arc::clone(&security),
            keep: Arc::clone(&security.keep),
            ice: IceServers::open(&config.ice, address).await?,
            observers: Observers::new(observers, metrics.clone()),
            metrics,
            shutdown: shutdown.clone(),
            clock,
            tasks: Tasks::root("server"),
            calls: TaskTracker::new(),
        });
        // Finds unusable addresses now instead of at the first call, and warms the cryptography up.
        shared
            .peers
            .check()
            .await
            .context("media cannot be received")?;
        shared.start_housekeeping();
        let web = Web {
            admission,
            security,
            readiness: readiness.clone(),
            metrics: (config.server.metrics_bind.is_none() && exposure == Exposure::Loopback)
                .then(|| Arc::clone(&prometheus)),
            playground: config.server.playground,
            info: Arc::new(info),
        };
        readiness.ready();
        Ok(Server {
            shared,
            web,
            numbers: prometheus,
        })
    }
}

/// What the configuration leaves open and the chosen models need.
fn suit(config: &mut Config, names: &SelectedNames) {
    if names.stt == EMBEDDED {
        // Words while the caller speaks cost nothing here but time of this machine, and save it at the end of the turn.
        config.turn.streaming_stt = true;
    }
    if names.tts == EMBEDDED && config.turn.voice.is_none() {
        config.turn.voice = config.providers.lookup("EMBEDDED_TTS_VOICE");
    }
    #[cfg(feature = "local")]
    if names.llm == EMBEDDED {
        local::suit(&mut config.turn);
    }
}

/// What the playground is told. `names`: of the providers; their models are asked for after they were initialised.
fn info(names: Value, providers: &Providers) -> Value {
    let models = [
        ("llm", providers.llm.model()),
        ("stt", providers.stt.model()),
        ("tts", providers.tts.model()),
    ];
    let models = models
        .into_iter()
        .filter_map(|(part, model)| Some((part.to_owned(), model?.into())));
    json!({ "providers": names, "models": models.collect::<Map<_, _>>(), "textInput": true })
}

impl Server {
    /// Begins to assemble a server.
    pub fn builder(config: Config) -> ServerBuilder {
        ServerBuilder {
            config,
            providers: None,
            tools: None,
            hooks: Vec::new(),
            shutdown: Shutdown::new(),
        }
    }

    /// The routes: WebSocket upgrades on any path, probes, playground. Mount it with
    /// `into_make_service_with_connect_info::<SocketAddr>()`.
    pub fn router(&self) -> Router {
        let shared = Arc::clone(&self.shared);
        let upgrade = async move |Extension(admitted): Extension<Admitted>,
                                  headers: HeaderMap,
                                  upgrade: WebSocketUpgrade| {
            open(&shared, admitted, &headers, upgrade)
        };
        routes::router(self.web.clone(), upgrade)
    }

    /// The routes of a separate metrics listener.
    pub fn metrics_router(&self) -> Router {
        routes::metrics_router(Arc::clone(&self.numbers))
    }

    /// The routes of the operator's listener, behind this token.
    ///
    /// # Errors
    /// Without a token.
    pub fn admin_router(&self, token: Option<&Secret>) -> anyhow::Result<Router> {
        let token = token.context("the operator's listener needs a token")?;
        let (web, numbers) = (self.web.clone(), Arc::clone(&self.numbers));
        Ok(routes::admin::router(web, numbers, token.clone()))
    }

    /// Where what happens is written down.
    pub(crate) fn audit(&self) -> &Audit {
        &self.shared.security.audit
    }

    /// Reads all keys of vendors and of the vault again now, as SIGHUP asks for.
    pub async fn refresh_keys(&self) {
        self.shared.security.refresh_keys().await;
    }

    /// Waits until all sessions have come to their end, then lets observers and providers finish within their
    /// bounds. Begin the shutdown first.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the rest to the end of the process.
    pub async fn finish(&self) {
        let shared = &self.shared;
        shared.calls.close();
        shared.calls.wait().await;
        shared.observers.flush(FLUSH_TIMEOUT).await;
        let _ = tokio::time::timeout(PROVIDER_TIMEOUT, shared.providers.shutdown()).await;
        shared.security.finish().await;
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("providers", &self.shared.providers)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for ServerBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerBuilder")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

fn open(
    shared: &Arc<Shared>,
    admitted: Admitted,
    headers: &HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Response {
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let ice = shared.ice.for_client(host);
    let shared = Arc::clone(shared);
    let upgrade = match admitted.access {
        Access::Deferred { .. } => configure_waiting(upgrade),
        _ => configure(upgrade),
    };
    // A credential among the offered protocols is never repeated.
    let upgrade = upgrade.protocols([SUBPROTOCOL]);
    upgrade.on_upgrade(async move |socket| {
        let calls = shared.calls.clone();
        let _call = calls.token();
        session::run(shared, socket, admitted, ice).await;
    })
}

impl Shared {
    fn start_housekeeping(self: &Arc<Self>) {
        let weak = Arc::downgrade(self);
        self.tasks
            .spawn("housekeeping", |_| async move {
                let mut tick = tokio::time::interval(SWEEP_INTERVAL);
                loop {
                    tick.tick().await;
                    let Some(shared) = weak.upgrade() else { return };
                    shared.keep.sweep(shared.clock.now()).await;
                    shared.count_sessions();
                }
            })
            .detach();
        self.ice.start(&self.tasks);
    }

    /// Brings the gauge up to date: sessions with a connection and those that wait for one.
    pub(crate) fn count_sessions(&self) {
        let (held, waiting) = self.keep.handles.counts();
        self.metrics
            .gauge(SESSIONS_ACTIVE, (held + waiting) as f64, &[]);
    }
}
