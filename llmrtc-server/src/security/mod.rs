//! The security of a server, composed from its configuration: who may come in, what they may use, what is kept and what
//! is written down about it.

pub mod data;
pub(crate) mod keys;
mod numbers;
pub(crate) mod vendors;

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, bail};
use llmrtc_core::{clock::Clock, hooks::Scrub, redact::Secret, tasks::Tasks};
use llmrtc_security::{
    audit::{Action, Audit, AuditEvent, AuditOptions},
    auth::{
        Authenticator, Denied, Open, Principal, Rejection,
        bind::Exposure,
        config::{Built, Parts},
        revocation::{Revocation, Revocations, SharedRevocations},
        ticket::{MemoryTickets, RedisTickets, TicketStore, Tickets},
    },
    crypto::keyring::LocalKeyring,
    guard::{
        Guard,
        output::{OutputRules, SecretFinder},
    },
    limit::{
        admission::Capacity,
        budget::{BudgetConfig, Budgets, Cost, Usage},
        lease::Leases,
        policy::Limits,
    },
    net::{address::ProxyConfig, cors::Cors, fetch::ImageFetcher},
    redact::{
        Context as RedactContext, Detector, Redactor, config::SinksConfig, secrets::SecretDetector,
        tokens::NoRandomness,
    },
    redis::Redis,
    secrets::LiveSecrets,
    tool::ToolsConfig,
    vault::{Subject, Vault, VaultUrls, VaultWriter},
};
use llmrtc_signal::connection::CloseReason;

use crate::{
    config::Config,
    registry::Registry,
    session::{Keep, Privacy, for_log},
};

/// How long the databases may take to answer at the start.
const OPEN_WITHIN: Duration = Duration::from_secs(15);
/// How long sessions that were ended may take to leave, and what they said to be written.
const LEAVE_WITHIN: Duration = Duration::from_secs(10);

/// Everything that decides about callers and remembers what they did. Shared by all sessions.
pub struct Security {
    pub(crate) authenticator: Arc<dyn Authenticator>,
    /// Mints tickets; absent in open mode.
    pub(crate) tickets: Option<Tickets>,
    pub(crate) revocations: Arc<Revocations>,
    shared_revocations: Option<SharedRevocations>,
    pub(crate) limits: Arc<Limits>,
    pub(crate) leases: Leases,
    pub(crate) capacity: Capacity,
    pub(crate) budgets: Budgets,
    prices: BudgetConfig,
    /// Stands in every system prompt and nowhere else, so that whoever hears it knows that the prompt has leaked.
    pub(crate) canary: Option<Secret>,
    /// Fetches pictures that callers name; absent where that is not allowed.
    pub(crate) images: Option<Arc<ImageFetcher>>,
    /// Names of the language model's provider and model, for prices.
    pub(crate) llm: OnceLock<String>,
    pub(crate) proxy: ProxyConfig,
    pub(crate) cors: Cors,
    pub(crate) guard: Guard,
    redactor: Arc<Redactor>,
    /// What each kind of sink sees.
    sinks: Arc<SinksConfig>,
    /// What answers may contain.
    pub(crate) output: Arc<OutputRules>,
    /// Conditions of tools.
    pub(crate) tools: Arc<ToolsConfig>,
    /// The listener speaks TLS.
    pub(crate) is_secure: bool,
    pub(crate) registry: Arc<Registry>,
    pub(crate) audit: Audit,
    /// The vendors' keys, which may change while the server runs.
    pub(crate) keys: Arc<LiveSecrets>,
    /// The keys of the vault, if there is one.
    master_keys: Option<Arc<LocalKeyring>>,
    /// Stored conversations, if there are any.
    pub(crate) vault: Option<Arc<Vault>>,
    pub(crate) archive: Option<VaultWriter>,
    /// Sessions whose client may come back.
    pub(crate) keep: Arc<Keep>,
    clock: Arc<dyn Clock>,
    /// Outlives the sessions, whose last words it writes down.
    tasks: Mutex<Option<Tasks>>,
}

impl std::fmt::Debug for Security {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Security")
            .field("open", &self.authenticator.is_open())
            .field("audit", &self.audit)
            .finish_non_exhaustive()
    }
}

impl Security {
    /// Builds what the configuration describes, and starts its services.
    ///
    /// # Errors
    /// Everything that is wrong with the configuration of authentication, or the first store that does not open: a server
    /// that cannot keep its promises does not start.
    pub async fn build(
        config: &Config,
        address: SocketAddr,
        exposure: Exposure,
        clock: Arc<dyn Clock>,
    ) -> anyhow::Result<Self> {
        let tasks = Tasks::root("security");
        let redis = match &config.redis.url {
            Some(url) => Some(
                Redis::open(url, &config.redis.prefix)
                    .context("redis.url is no address of a Redis")?,
            ),
            None => None,
        };
        let revocations = Arc::new(Revocations::new(config.auth.longest_lifetime()));
        let shared_revocations = redis
            .clone()
            .map(|redis| SharedRevocations::new(redis, Arc::clone(&revocations)));
        let mut limits = Limits::new(&config.limits, clock.now());
        let budgets = match &redis {
            Some(redis) => Budgets::shared(&config.limits, redis.clone()),
            None => Budgets::new(&config.limits),
        };
        let leases = match &redis {
            Some(redis) => {
                limits = limits.shared(redis.clone());
                Leases::shared(&config.limits, redis.clone())
            }
            None => Leases::new(&config.limits),
        };
        let limits = Arc::new(limits);
        let redactor =
            Arc::new(Redactor::new(&config.redact).context("redaction is misconfigured")?);
        let sinks = Arc::new(config.redact.sinks.clone());
        let scrub = {
            let (redactor, sinks) = (Arc::clone(&redactor), Arc::clone(&sinks));
            Arc::new(move |text: &str| for_log(&redactor, &sinks.log, text))
        };
        let options = AuditOptions::default().scrub(scrub);
        let audit = Audit::start(&config.audit()?, options, Arc::clone(&clock), &tasks)
            .await
            .context("the audit log cannot be written")?;
        let (vault, master_keys) = open_vault(config, &clock, &audit).await?.unzip();
        let keep = Keep::new(config, exposure, vault.as_ref(), Arc::clone(&clock));
        let keep = Arc::new(keep);
        let (authenticator, tickets) =
            authenticator(config, redis, &clock, &keep, &revocations, &audit, &tasks)?;
        let started = Action::ServerStarted {
            address: address.to_string().into(),
            exposure: match exposure {
                Exposure::Loopback => "loopback",
                Exposure::Authenticated => "authenticated",
                Exposure::OpenToNetwork => "open_to_network",
            },
        };
        audit
            .record_durable(AuditEvent::new(started))
            .await
            .context("the audit log cannot be written")?;
        let keys = Arc::new(keys::open(config, &audit).await?);
        let archive = vault
            .as_ref()
            .map(|vault| VaultWriter::start(Arc::clone(vault), &tasks));
        let canary = config.output.tripwire.then(|| {
            let random: [u8; 12] = rand::random();
            Secret::new(
                random
                    .iter()
                    .map(|byte| format!("{byte:02x}"))
                    .collect::<String>(),
            )
        });
        let mut output = OutputRules::new(&config.output, &config.turn.system_prompt)
            .with_secrets(Arc::new(Secrets(SecretDetector::default())));
        if let Some(canary) = &canary {
            output = output.with_canary(canary);
        }
        let images = match config.fetch.hosts.is_empty() {
            true => None,
            false => Some(Arc::new(ImageFetcher::new(&config.fetch).context("fetch")?)),
        };
        let security = Self {
            authenticator,
            tickets,
            revocations,
            shared_revocations,
            limits,
            leases,
            capacity: Capacity::new(&config.limits.admission),
            budgets,
            prices: config.limits.budget.clone(),
            llm: OnceLock::new(),
            proxy: config.proxy.clone(),
            cors: Cors::new(&config.cors),
            guard: Guard::new(config.guard.clone()),
            redactor,
            sinks,
            output: Arc::new(output),
            canary,
            images,
            tools: Arc::new(config.tools.clone()),
            is_secure: config.tls.is_enabled(),
            registry: Arc::default(),
            audit,
            keys,
            master_keys,
            vault,
            archive,
            keep,
            clock,
            tasks: Mutex::default(),
        };
        security.start_services(&tasks);
        *security
            .tasks
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(tasks);
        Ok(security)
    }

    fn start_services(&self, tasks: &Tasks) {
        let limits = Arc::clone(&self.limits);
        tasks
            .spawn_service("limits", |token| async move { limits.run(token).await })
            .detach();
        let keys = Arc::clone(&self.keys);
        tasks
            .spawn_service("keys", |token| async move { keys.run(token).await })
            .detach();
        let leases = self.leases.clone();
        tasks
            .spawn_service("leases", |token| async move { leases.run(token).await })
            .detach();
        if let Some(shared) = self.shared_revocations.clone() {
            tasks
                .spawn_service(
                    "revocations",
                    |token| async move { shared.follow(token).await },
                )
                .detach();
        }
        if let Some(vault) = self.vault.clone() {
            let audit = self.audit.clone();
            let swept = move |report: &llmrtc_security::vault::SweepReport| {
                let records = report.records + report.snapshots;
                if records > 0 {
                    audit.record(AuditEvent::new(Action::RetentionSwept { records }));
                }
            };
            tasks
                .spawn_service("retention", |token| vault.maintain(token, swept))
                .detach();
        }
    }

    /// What a request costs.
    pub(crate) fn cost(&self, usage: &Usage) -> Cost {
        let provider = self.llm.get().map(String::as_str).unwrap_or_default();
        self.prices.cost(provider, "", usage)
    }

    /// The redaction of a new session.
    ///
    /// # Errors
    /// When the system has no randomness for its names.
    pub(crate) fn privacy(&self, language: Option<&str>) -> Result<Privacy, NoRandomness> {
        Privacy::new(
            Arc::clone(&self.redactor),
            Arc::clone(&self.sinks),
            language,
        )
    }

    /// Changes text on its way into a log.
    pub(crate) fn log_scrub(&self) -> Scrub {
        let (redactor, sinks) = (Arc::clone(&self.redactor), Arc::clone(&self.sinks));
        Arc::new(move |text| for_log(&redactor, &sinks.log, text))
    }

    /// Monotonic time.
    pub(crate) fn now(&self) -> Instant {
        self.clock.now()
    }

    /// The time of day.
    pub(crate) fn wall(&self) -> SystemTime {
        self.clock.wall()
    }

    /// A caller was refused. Too many wrong credentials keep an address out for a while (D1); every one is recorded.
    pub(crate) async fn auth_failed(&self, denied: &Denied, address: IpAddr) {
        let Some(method) = denied.method else {
            let reason = denied.reason;
            return self.note(
                AuditEvent::new(Action::AuthFailed {
                    method: "none",
                    reason,
                })
                .from(address),
            );
        };
        let (method, reason) = (method.name(), denied.reason);
        self.note(AuditEvent::new(Action::AuthFailed { method, reason }).from(address));
        if denied.rejection == Rejection::Unauthenticated
            && let Some(blocked) = self.limits.auth_failed(address, self.now()).await
        {
            let event = Action::RateLimited {
                limit: "auth_failure",
                retry_after: blocked,
            };
            self.note(AuditEvent::new(event).from(address));
        }
    }

    /// Writes down what happened, without waiting. For what must not happen unrecorded use
    /// [`Audit::record_durable`].
    pub(crate) fn note(&self, event: AuditEvent) {
        self.audit.record(event);
    }

    /// Refuses everything that this caller was issued until now, on every node, and ends their sessions here.
    ///
    /// Returns how many sessions there were.
    ///
    /// # Errors
    /// When the revocation did not reach every node.
    pub(crate) async fn revoke(&self, revocation: Revocation) -> anyhow::Result<()> {
        let now = self.clock.wall();
        match &self.shared_revocations {
            Some(shared) => shared.revoke(revocation, now).await?,
            None => self.revocations.revoke(revocation, now)?,
        }
        Ok(())
    }

    /// Ends what a caller has here and destroys what is stored of them (E3): sessions, credentials, records, keys.
    ///
    /// # Errors
    /// When a session does not end or the vault does not answer. Credentials are gone by then; what is left is erased when it
    /// is asked for again.
    pub(crate) async fn erase(
        &self,
        caller: &Principal,
    ) -> anyhow::Result<Option<llmrtc_security::vault::Receipt>> {
        // First, so that they end for this reason and are not kept; then those that came before the revocation did.
        self.registry.end_all(caller, CloseReason::SessionEnded);
        self.revoke(Revocation::of(caller, self.clock.wall()))
            .await?;
        self.registry.end_all(caller, CloseReason::SessionEnded);
        // What a session writes at its end is there to be erased, too.
        let left = tokio::time::timeout(LEAVE_WITHIN, self.registry.left(caller));
        left.await.context("a session does not end")?;
        self.keep.end_waiting(caller).await;
        let Some(vault) = &self.vault else {
            return Ok(None);
        };
        if let Some(archive) = &self.archive {
            let settled = tokio::time::timeout(LEAVE_WITHIN, archive.settled());
            settled.await.context("the vault does not store")?;
        }
        let receipt = vault.erase(&Subject::try_from(caller)?).await?;
        Ok(Some(receipt))
    }

    /// Reads all keys again now.
    pub(crate) async fn refresh_keys(&self) {
        if let Some(Err(error)) = self.master_keys.as_ref().map(|keys| keys.refresh()) {
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, "the master keys cannot be read again");
        }
        match self.keys.refresh().await {
            Ok(changed) => tracing::info!(changed, "keys read again"),
            Err(problems) => {
                for problem in problems {
                    let error = &problem as &dyn std::error::Error;
                    tracing::error!(error, "a key cannot be read again");
                }
            }
        }
    }

    /// Writes what is queued. Call it when the last session is over.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the rest to the end of the process.
    pub async fn finish(&self) {
        self.audit.record(AuditEvent::new(Action::ServerStopped));
        // The audit log goes with the group; it is given seconds to write its last head.
        let tasks = self
            .tasks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(tasks) = tasks {
            tasks.shutdown(OPEN_WITHIN / 3).await;
        }
        if let Some(vault) = &self.vault {
            vault.close().await;
        }
    }
}

/// What a user is called in the audit log when something is done to them.
pub(crate) fn audit_target(tenant: Option<&str>, user: &str) -> String {
    match tenant {
        Some(tenant) => format!("{tenant}/{user}"),
        None => user.to_owned(),
    }
}

/// Finds credentials among the words of an answer.
struct Secrets(SecretDetector);

impl SecretFinder for Secrets {
    fn contains_secret(&self, word: &str) -> bool {
        let mut found = Vec::new();
        self.0.detect(word, &RedactContext::default(), &mut found);
        !found.is_empty()
    }
}

type AuthParts = (Arc<dyn Authenticator>, Option<Tickets>);

fn authenticator(
    config: &Config,
    redis: Option<Redis>,
    clock: &Arc<dyn Clock>,
    keep: &Arc<Keep>,
    revocations: &Arc<Revocations>,
    audit: &Audit,
    tasks: &Tasks,
) -> anyhow::Result<AuthParts> {
    if !config.requires_auth() {
        let open = if config.server.insecure_no_auth {
            Open::dangerous_anyone()
        } else {
            Open::loopback()
        };
        return Ok((Arc::new(open), None));
    }
    let tickets: Arc<dyn TicketStore> = match redis {
        Some(redis) => Arc::new(RedisTickets::new(redis)),
        None => Arc::new(MemoryTickets::default()),
    };
    let parts = Parts {
        clock: Arc::clone(clock),
        tickets,
        sessions: Arc::clone(&keep.handles),
        revocations: Arc::clone(revocations),
    };
    let Built { chain, jwks, .. } = config.auth.build(parts).map_err(|mistakes| {
        let lines: Vec<_> = mistakes
            .iter()
            .map(|mistake| format!("auth.{mistake}"))
            .collect();
        anyhow::anyhow!("authentication is misconfigured: {}", lines.join("; "))
    })?;
    for keys in jwks {
        keys::follow_issuer(audit, &keys);
        // Ahead of the first caller. One that does not answer now is asked again by the first token.
        tasks
            .spawn("jwks", |_| async move { keys.warm_up().await })
            .detach();
    }
    let tickets = chain.ticket_office().cloned();
    let chain = chain.recall(Arc::clone(keep) as _);
    Ok((Arc::new(chain), tickets))
}

async fn open_vault(
    config: &Config,
    clock: &Arc<dyn Clock>,
    audit: &Audit,
) -> anyhow::Result<Option<(Arc<Vault>, Arc<LocalKeyring>)>> {
    let vault = &config.vault;
    if !vault.enabled {
        return Ok(None);
    }
    let folder = config.data_folder()?;
    let urls = VaultUrls::of(vault, folder)?;
    let audit = audit.clone();
    let keyring = vault
        .open_keyring(folder, clock.wall())
        .context("the keyring cannot be used")?
        .observed(move |key| keys::master_key_replaced(&audit, key));
    let keyring = Arc::new(keyring);
    let open = Vault::open(
        &urls,
        Some(vault.retention.clone()),
        Arc::clone(&keyring) as _,
        Arc::clone(clock),
    );
    match tokio::time::timeout(OPEN_WITHIN, open).await {
        Ok(opened) => {
            let vault = opened.context("the vault cannot be opened")?;
            Ok(Some((Arc::new(vault), keyring)))
        }
        Err(_) => bail!("the vault did not open within {} s", OPEN_WITHIN.as_secs()),
    }
}
