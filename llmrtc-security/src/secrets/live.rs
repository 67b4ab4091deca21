//! Keeps the value of a secret fresh (security item A3).

mod event;
mod files;
mod rotation;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fmt,
    future::pending,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use futures_util::future::join_all;
use llmrtc_core::{credential::Credential, redact::Secret, retry::Backoff};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

pub use self::event::{Fingerprint, Fingerprinter, Observer, RotationChange, RotationEvent};
pub(super) use self::rotation::same;
use self::{
    files::FileEvents,
    rotation::{Refusal, Rotation},
};
use super::{Chain, Environment, SecretError, SecretErrorKind, SecretSource, Versioned, Wanted};

/// Attempts at one question, the first included.
const ATTEMPTS: u32 = 4;
/// The end of a question while serving. The last good value is used meanwhile, so nobody waits for it.
const REFRESH_DEADLINE: Duration = Duration::from_secs(10);
/// How long a refused call waits for a newer value. A person is waiting for an answer meanwhile.
const REFUSED_DEADLINE: Duration = Duration::from_secs(2);
/// However many calls are refused, the source is asked no more often than this.
const REFUSED_INTERVAL: Duration = Duration::from_secs(1);
/// Programs write files in several steps; one look at the end of them is enough.
const SETTLE: Duration = Duration::from_millis(100);
/// How often a file is read whose changes nobody reports. Reading one costs nothing.
const FILE_POLL: Duration = Duration::from_secs(1);

/// How secrets are kept fresh.
#[derive(Clone)]
pub struct RotationOptions {
    /// How often a source is asked. Up to a fifth sooner, so that a fleet does not ask in step.
    pub poll: Duration,
    /// How long a replaced value is kept, for a fallback and for what was signed or sealed with it.
    pub grace: Duration,
    /// How long the first answer of a source may take.
    pub startup_deadline: Duration,
    /// Who is told of events, besides the log.
    pub observer: Observer,
    /// Names values in events.
    pub fingerprints: Fingerprinter,
}

impl Default for RotationOptions {
    /// The defaults of [`SecretsConfig`](super::SecretsConfig), nobody to tell, random fingerprints.
    fn default() -> Self {
        super::SecretsConfig::default().rotation(Arc::new(|_| {}), Fingerprinter::random())
    }
}

impl fmt::Debug for RotationOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RotationOptions")
            .field("poll", &self.poll)
            .field("grace", &self.grace)
            .field("startup_deadline", &self.startup_deadline)
            .finish_non_exhaustive()
    }
}

/// The two values to verify with, and the one to sign with.
#[derive(Clone, Debug)]
pub struct KeyPair {
    /// The value in use: sign, seal and call with this one.
    pub current: Secret,
    /// The other value within its grace time: verify and open with this one, too.
    pub previous: Option<Secret>,
}

/// A secret that follows its source. Somebody has to [`run`](Self::run) it for that.
///
/// The last good value stays in use while the source fails. Values are wiped after their last user, see [`Secret`].
pub struct LiveSecret {
    name: Arc<str>,
    source: Arc<dyn SecretSource>,
    options: RotationOptions,
    /// What readers see, without waiting for anybody.
    keys: ArcSwap<KeyPair>,
    rotation: Mutex<Rotation>,
    /// Counts changes of `keys`.
    changes: watch::Sender<u64>,
    /// How many rounds of questions were begun.
    begun: AtomicU64,
    /// Held while the source is asked: one question at a time, whose answer serves all who waited.
    round: tokio::sync::Mutex<Option<Round>>,
}

/// A round of questions that came to an end.
struct Round {
    number: u64,
    /// It was asked because a call was refused.
    refused: bool,
    ended: Instant,
    outcome: Result<bool, SecretError>,
}

/// Which earlier round answers a question as well.
enum Enough {
    /// One that began after this many others: what changed before the question is in it.
    BegunAfter(u64),
    /// One that was asked for another refusal a short while ago. A poll does not count: the value may have been replaced
    /// right after it, and every call until the next question would fail.
    Refused(Duration),
}

impl fmt::Debug for LiveSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveSecret")
            .field("name", &self.name)
            .field("source", &self.source.origin())
            .finish_non_exhaustive()
    }
}

impl LiveSecret {
    /// Asks the source for the first value, again and again until the start-up deadline.
    ///
    /// # Errors
    /// The source's last error; [`SecretErrorKind::Timeout`] at the deadline.
    pub async fn open(
        name: &str,
        source: Arc<dyn SecretSource>,
        options: RotationOptions,
    ) -> Result<Self, SecretError> {
        let first = ask(&*source, options.startup_deadline, u32::MAX).await?;
        Ok(Self {
            name: name.into(),
            source,
            keys: ArcSwap::from_pointee(KeyPair {
                current: first.value.clone(),
                previous: None,
            }),
            rotation: Mutex::new(Rotation::new(first.value, options.grace)),
            changes: watch::Sender::new(0),
            begun: AtomicU64::new(0),
            round: tokio::sync::Mutex::new(None),
            options,
        })
    }

    /// The secret's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it comes from: a variable, a path or a reference.
    pub fn origin(&self) -> &str {
        self.source.origin()
    }

    /// The value in use.
    pub fn current(&self) -> Secret {
        self.keys.load().current.clone()
    }

    /// The value in use and the other one within its grace time.
    pub fn keys(&self) -> Arc<KeyPair> {
        self.keys.load_full()
    }

    /// Names the value in use.
    pub fn fingerprint(&self) -> Fingerprint {
        self.options.fingerprints.of(&self.current())
    }

    /// Changes whenever [`keys`](Self::keys) do.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Asks the source now: on SIGHUP, or because an administrator says so. Whether it had another value. Several
    /// callers share one question.
    ///
    /// # Errors
    /// The source's; the last good value stays in use.
    ///
    /// # Cancel safety
    /// Dropping the future abandons the question; other callers go on with their own.
    pub async fn refresh(&self) -> Result<bool, SecretError> {
        let begun = self.begun.load(Ordering::SeqCst);
        self.round(Enough::BegunAfter(begun), REFRESH_DEADLINE, ATTEMPTS)
            .await
    }

    /// Follows the source until `token` is cancelled. For `Tasks::spawn_service`.
    pub async fn run(&self, token: CancellationToken) {
        let _ = token.run_until_cancelled(self.follow()).await;
    }

    async fn follow(&self) {
        let mut events = FileEvents::watch(self.source.path());
        let interval = match (self.source.path(), &events) {
            (Some(_), None) => self.options.poll.min(FILE_POLL),
            _ => self.options.poll,
        };
        let mut changes = self.subscribe();
        let next = || Instant::now() + interval.mul_f64(0.8 + 0.2 * unit());
        let mut poll = next();
        loop {
            let expiry = self.rotation().expires_at();
            tokio::select! {
                biased;
                // A new value has a new grace time.
                Ok(()) = changes.changed() => continue,
                () = at(expiry) => {
                    self.expire();
                    continue;
                }
                () = changed(&mut events) => sleep(SETTLE).await,
                () = sleep_until(poll), if !self.source.is_fixed() => {}
            }
            // Whoever wants to know was told by an event.
            let _ = self.refresh().await;
            poll = next();
        }
    }

    /// Asks the source, unless an earlier round is enough or becomes so while waiting.
    async fn round(
        &self,
        enough: Enough,
        deadline: Duration,
        attempts: u32,
    ) -> Result<bool, SecretError> {
        let mut last = self.round.lock().await;
        if let Some(round) = &*last {
            let answers = match enough {
                Enough::BegunAfter(number) => round.number > number,
                Enough::Refused(age) => round.refused && round.ended.elapsed() < age,
            };
            if answers {
                return round.outcome.clone();
            }
        }
        let failing = last.as_ref().is_some_and(|round| round.outcome.is_err());
        let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let outcome = match ask(&*self.source, deadline, attempts).await {
            Ok(fetched) => {
                if failing {
                    tracing::info!(secret = &*self.name, "the source of the secret is back");
                    self.tell(RotationChange::Recovered);
                }
                Ok(self.accept(fetched))
            }
            Err(error) => {
                if !failing {
                    tracing::warn!(secret = &*self.name, %error, "the last good value stays in use");
                    self.tell(RotationChange::RefreshFailed {
                        why: error.kind().clone(),
                    });
                }
                Err(error)
            }
        };
        *last = Some(Round {
            number,
            refused: matches!(enough, Enough::Refused(_)),
            ended: Instant::now(),
            outcome: outcome.clone(),
        });
        outcome
    }

    fn accept(&self, fetched: Versioned<Secret>) -> bool {
        let (from, to) = {
            let mut rotation = self.rotation();
            let from = rotation.current().clone();
            if !rotation.accept(fetched.value, Instant::now()) {
                return false;
            }
            self.publish(&rotation);
            (from, rotation.current().clone())
        };
        let (from, to) = (self.fingerprint_of(&from), self.fingerprint_of(&to));
        tracing::info!(secret = &*self.name, %from, %to, "rotated");
        self.tell(RotationChange::Rotated {
            from,
            to,
            version: fetched.version,
        });
        true
    }

    /// The value in use was refused: switches to the other one, if there is one.
    fn refuse(&self, refused: &Secret) -> Option<Secret> {
        let outcome = {
            let mut rotation = self.rotation();
            // Somebody else was faster.
            if !same(rotation.current(), refused) {
                return Some(rotation.current().clone());
            }
            match rotation.refuse() {
                Refusal::Switched => {
                    self.publish(&rotation);
                    Some(rotation.current().clone())
                }
                Refusal::Hopeless => None,
            }
        };
        let refused = self.fingerprint_of(refused);
        self.tell(match &outcome {
            Some(other) => {
                let to = self.fingerprint_of(other);
                tracing::warn!(secret = &*self.name, %refused, %to, "refused; the other value is used");
                RotationChange::FellBack { refused, to }
            }
            None => {
                tracing::error!(secret = &*self.name, %refused, "refused, and there is no other value");
                RotationChange::Refused { refused }
            }
        });
        outcome
    }

    fn expire(&self) {
        let dropped = {
            let mut rotation = self.rotation();
            let dropped = rotation.expire(Instant::now());
            if dropped.is_some() {
                self.publish(&rotation);
            }
            dropped
        };
        if let Some(value) = dropped {
            let value = self.fingerprint_of(&value);
            self.tell(RotationChange::Dropped { value });
        }
    }

    fn publish(&self, rotation: &Rotation) {
        self.keys.store(Arc::new(KeyPair {
            current: rotation.current().clone(),
            previous: rotation.other().cloned(),
        }));
        self.changes.send_modify(|changes| *changes += 1);
    }

    fn rotation(&self) -> std::sync::MutexGuard<'_, Rotation> {
        // Nothing in there can be half done: a panic elsewhere changes nothing.
        self.rotation.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fingerprint_of(&self, value: &Secret) -> Fingerprint {
        self.options.fingerprints.of(value)
    }

    fn tell(&self, change: RotationChange) {
        (self.options.observer)(&RotationEvent {
            name: Arc::clone(&self.name),
            change,
        });
    }
}

#[async_trait]
impl Credential for LiveSecret {
    fn current(&self) -> Secret {
        self.current()
    }

    fn in_use(&self) -> Vec<Secret> {
        let keys = self.keys();
        std::iter::once(&keys.current)
            .chain(&keys.previous)
            .cloned()
            .collect()
    }

    /// Asks the source at once, at most once a second however many calls are refused. When it has nothing newer, the
    /// previous value is used again. Takes at most two seconds.
    async fn rejected(&self, refused: &Secret) -> Option<Secret> {
        let current = self.current();
        if !same(&current, refused) {
            return Some(current);
        }
        if !self.source.is_fixed() {
            // Failing is as good as having nothing newer; a call is waiting, so one attempt is enough.
            let question = self.round(Enough::Refused(REFUSED_INTERVAL), REFUSED_DEADLINE, 1);
            let _ = timeout(REFUSED_DEADLINE, question).await;
        }
        self.refuse(refused)
    }
}

/// Asks a source until it answers, gives up for good, or the time is over.
async fn ask(
    source: &dyn SecretSource,
    deadline: Duration,
    attempts: u32,
) -> Result<Versioned<Secret>, SecretError> {
    let end = Instant::now() + deadline;
    let mut backoff = Backoff::new(attempts);
    loop {
        let fetched = tokio::time::timeout_at(end, source.fetch())
            .await
            .unwrap_or_else(|_| Err(SecretError::new(source.origin(), SecretErrorKind::Timeout)));
        let error = match fetched {
            Ok(fetched) => return Ok(fetched),
            Err(error) => error,
        };
        let left = end.saturating_duration_since(Instant::now());
        match backoff.next_wait(error.retry(), unit(), Some(left)) {
            Some(wait) => sleep(wait).await,
            None => return Err(error),
        }
    }
}

/// A random number in 0–1, for jitter.
fn unit() -> f64 {
    let mut bytes = [0; 4];
    // Without randomness there is no jitter, which is no reason to fail.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX)
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => pending().await,
    }
}

async fn changed(events: &mut Option<FileEvents>) {
    match events {
        Some(events) => events.changed().await,
        None => pending().await,
    }
}

/// The secrets of a process, by name.
#[derive(Clone, Debug, Default)]
pub struct LiveSecrets(BTreeMap<String, Arc<LiveSecret>>);

impl LiveSecrets {
    /// Finds those of `wanted` that are set and asks for their first values, all at once.
    ///
    /// # Errors
    /// Everything that is wrong, one error per secret.
    pub async fn open(
        chain: &Chain,
        wanted: impl IntoIterator<Item = Wanted>,
        environment: &Environment<'_>,
        options: &RotationOptions,
    ) -> Result<Self, Vec<SecretError>> {
        let opened = join_all(wanted.into_iter().map(async |wanted| {
            match chain.find(&wanted, environment).await? {
                Some(source) => LiveSecret::open(&wanted.name, source, options.clone())
                    .await
                    .map(Some),
                None => Ok(None),
            }
        }))
        .await;
        let mut secrets = BTreeMap::new();
        let mut problems = Vec::new();
        for result in opened {
            match result {
                Ok(Some(secret)) => {
                    secrets.insert(secret.name().to_owned(), Arc::new(secret));
                }
                Ok(None) => {}
                Err(problem) => problems.push(problem),
            }
        }
        if problems.is_empty() {
            Ok(Self(secrets))
        } else {
            Err(problems)
        }
    }

    /// The secret of this name, if it is set.
    pub fn get(&self, name: &str) -> Option<Arc<LiveSecret>> {
        self.0.get(name).cloned()
    }

    /// All secrets, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<LiveSecret>> {
        self.0.values()
    }

    /// Asks all sources now: on SIGHUP, or because an administrator says so. How many had another value.
    ///
    /// # Errors
    /// One per source that failed. The others were refreshed nevertheless.
    pub async fn refresh(&self) -> Result<usize, Vec<SecretError>> {
        let outcomes = join_all(self.iter().map(|secret| secret.refresh())).await;
        let mut changed = 0;
        let mut problems = Vec::new();
        for outcome in outcomes {
            match outcome {
                Ok(rotated) => changed += usize::from(rotated),
                Err(problem) => problems.push(problem),
            }
        }
        if problems.is_empty() {
            Ok(changed)
        } else {
            Err(problems)
        }
    }

    /// Follows all sources until `token` is cancelled. For `Tasks::spawn_service`.
    pub async fn run(&self, token: CancellationToken) {
        join_all(self.iter().map(|secret| secret.run(token.clone()))).await;
        // Without secrets there is nothing to follow, which is no reason to end early.
        token.cancelled().await;
    }
}
