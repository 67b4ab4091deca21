use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::ledger::Call;
use crate::provider::{ErrorKind, ProviderError};

/// A failure to be produced when its turn comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The nature of the failure.
    pub kind: ErrorKind,
    /// The vendor's wish for how long to wait.
    pub retry_after: Option<Duration>,
}

impl Fault {
    /// The failure as `provider` would report it.
    pub fn error(self, provider: &str) -> ProviderError {
        let error = ProviderError::new(self.kind, provider, "scripted failure");
        match self.retry_after {
            Some(wait) => error.with_retry_after(wait),
            None => error,
        }
    }
}

impl From<ErrorKind> for Fault {
    fn from(kind: ErrorKind) -> Self {
        Self {
            kind,
            retry_after: None,
        }
    }
}

#[derive(Clone, Debug)]
pub(super) enum Step<T> {
    Item(T),
    Wait(Duration),
    /// Goes on once the input has ended. Only live transcription has an input that goes on.
    InputEnd,
    Fail(Fault),
    Hang,
}

/// How one call goes: what happens before the first event, then steps in order.
#[derive(Clone, Debug)]
pub struct Script<T> {
    /// Happens before the call returns its stream.
    pub(super) opening: Vec<Step<T>>,
    /// Happens in the stream.
    pub(super) steps: Vec<Step<T>>,
}

impl<T> Script<T> {
    /// A call that ends at once.
    pub fn new() -> Self {
        Self {
            opening: Vec::new(),
            steps: Vec::new(),
        }
    }

    /// A call that fails before its first event.
    pub fn refuse(fault: impl Into<Fault>) -> Self {
        Self {
            opening: vec![Step::Fail(fault.into())],
            steps: Vec::new(),
        }
    }

    /// A call that never gets an answer.
    pub fn silent() -> Self {
        Self {
            opening: vec![Step::Hang],
            steps: Vec::new(),
        }
    }

    /// Lets the request itself take this long.
    #[must_use]
    pub fn opens_after(mut self, wait: Duration) -> Self {
        self.opening.insert(0, Step::Wait(wait));
        self
    }

    /// Delivers an item.
    #[must_use]
    pub fn item(mut self, item: T) -> Self {
        self.steps.push(Step::Item(item));
        self
    }

    /// Pauses the stream.
    #[must_use]
    pub fn wait(mut self, wait: Duration) -> Self {
        self.steps.push(Step::Wait(wait));
        self
    }

    /// Pauses the stream before each of the items so far.
    #[must_use]
    pub fn paced(mut self, gap: Duration) -> Self {
        self.steps = self
            .steps
            .into_iter()
            .flat_map(|step| match step {
                Step::Item(_) => vec![Step::Wait(gap), step],
                _ => vec![step],
            })
            .collect();
        self
    }

    /// Fails in the middle of the stream.
    #[must_use]
    pub fn fail(mut self, fault: impl Into<Fault>) -> Self {
        self.steps.push(Step::Fail(fault.into()));
        self
    }

    /// Delivers nothing more and does not end either.
    #[must_use]
    pub fn hang(mut self) -> Self {
        self.steps.push(Step::Hang);
        self
    }
}

impl<T> Default for Script<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// What a step of a running script came to.
pub(super) enum Played<T> {
    Item(T),
    InputEnd,
    Failed(ProviderError),
    End,
}

/// A script being played by one call.
#[derive(Debug)]
pub(super) struct Player<T> {
    provider: Arc<str>,
    steps: std::vec::IntoIter<Step<T>>,
    call: Call,
}

impl<T> Player<T> {
    /// Plays the opening of `script`.
    pub(super) async fn open(
        provider: Arc<str>,
        script: Script<T>,
        call: Call,
    ) -> Result<Self, ProviderError> {
        let mut player = Self {
            provider,
            steps: script.opening.into_iter(),
            call,
        };
        loop {
            match player.step().await {
                Some(Played::Failed(error)) => return Err(error),
                Some(_) => {}
                None => break,
            }
        }
        player.steps = script.steps.into_iter();
        Ok(player)
    }

    /// Plays up to the next item, for calls whose input is complete.
    pub(super) async fn next(&mut self) -> Played<T> {
        loop {
            match self.step().await {
                Some(Played::InputEnd) => {}
                Some(played) => return played,
                None => {
                    self.finish();
                    return Played::End;
                }
            }
        }
    }

    /// Ends the call as a success.
    pub(super) fn finish(&mut self) {
        self.call.completed();
    }

    /// Plays up to the next thing that matters to the provider.
    pub(super) async fn step(&mut self) -> Option<Played<T>> {
        loop {
            match self.steps.next()? {
                Step::Item(item) => return Some(Played::Item(item)),
                Step::InputEnd => return Some(Played::InputEnd),
                Step::Wait(wait) => tokio::time::sleep(wait).await,
                Step::Fail(fault) => {
                    self.call.failed();
                    self.steps = Vec::new().into_iter();
                    return Some(Played::Failed(fault.error(&self.provider)));
                }
                Step::Hang => std::future::pending().await,
            }
        }
    }
}

/// The scripts of a provider: first the queued ones, then the standing one.
#[derive(Debug)]
pub(super) struct Scripts<S> {
    queued: VecDeque<S>,
    standing: Option<S>,
}

impl<S: Clone> Scripts<S> {
    pub(super) fn new() -> Self {
        Self {
            queued: VecDeque::new(),
            standing: None,
        }
    }

    pub(super) fn then(&mut self, script: S) {
        self.queued.push_back(script);
    }

    pub(super) fn always(&mut self, script: S) {
        self.standing = Some(script);
    }

    pub(super) fn next(&mut self) -> Option<S> {
        self.queued.pop_front().or_else(|| self.standing.clone())
    }
}

/// A call that the test did not provide for.
pub(super) fn exhausted(provider: &str) -> ProviderError {
    ProviderError::new(ErrorKind::Other, provider, "no script for this call")
}

/// Locks test state; a panicking test must not hide its message behind a poisoned lock.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
