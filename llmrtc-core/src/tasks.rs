//! Work with a parent: the one place that starts asynchronous tasks.
//!
//! Process, session and turn each own a [`Tasks`]; [`Tasks::child`] makes the next level. Cancelling or dropping a
//! level reaches everything below it. A panic stays inside its task: it is logged with the task's name, handed to
//! whoever joins it and reported to [`Tasks::failed`].

use std::{
    any::Any,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::FutureExt;
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;

/// How long [`Tasks::shutdown`] waits for aborted tasks to let go. Only a task that blocks its thread takes longer.
const ABORT_GRACE: Duration = Duration::from_secs(1);

/// Why a task has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TaskError {
    /// A bug: the task panicked with this message.
    #[error("task {name} panicked: {message}")]
    Panicked {
        /// The task.
        name: &'static str,
        /// The panic's message, at most 300 characters.
        message: String,
    },
    /// A task that should run until it is cancelled came to an end by itself.
    #[error("task {name} ended early")]
    EndedEarly {
        /// The task.
        name: &'static str,
    },
    /// It was aborted: by its owner, by the end of a grace period, or because its parent is gone.
    #[error("task {name} was aborted")]
    Aborted {
        /// The task.
        name: &'static str,
    },
}

/// A group of tasks with one owner. Dropping it aborts them at their next `await`.
#[derive(Debug)]
pub struct Tasks {
    name: &'static str,
    /// Asks the tasks to end.
    cancel: CancellationToken,
    /// Takes them down.
    abort: CancellationToken,
    tracker: TaskTracker,
    failure: Arc<watch::Sender<Option<TaskError>>>,
}

impl Tasks {
    /// A group without a parent, for the process or for a component that outlives its creator.
    pub fn root(name: &'static str) -> Self {
        Self::with_tokens(name, CancellationToken::new(), CancellationToken::new())
    }

    /// A group below this one.
    #[must_use]
    pub fn child(&self, name: &'static str) -> Self {
        Self::with_tokens(name, self.cancel.child_token(), self.abort.child_token())
    }

    fn with_tokens(
        name: &'static str,
        cancel: CancellationToken,
        abort: CancellationToken,
    ) -> Self {
        Self {
            name,
            cancel,
            abort,
            tracker: TaskTracker::new(),
            failure: Arc::new(watch::Sender::new(None)),
        }
    }

    /// The token of the group. Cancelling it asks every task to end and leaves the group usable by nobody else.
    pub fn token(&self) -> &CancellationToken {
        &self.cancel
    }

    /// How many tasks are running.
    pub fn len(&self) -> usize {
        self.tracker.len()
    }

    /// Whether no task is running.
    pub fn is_empty(&self) -> bool {
        self.tracker.is_empty()
    }

    /// Starts work that comes to an end by itself, inside the current span. `work` is given its own token, a child
    /// of the group's.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn spawn<F, Fut>(&self, name: &'static str, work: F) -> Task<Fut::Output>
    where
        F: FnOnce(CancellationToken) -> Fut,
        Fut: Future + Send + 'static,
        Fut::Output: Send + 'static,
    {
        let token = self.cancel.child_token();
        let work = work(token.clone()).map(Ok);
        self.start(name, token, work)
    }

    /// Starts work that goes on until its token is cancelled. An earlier end is a failure.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn spawn_service<F, Fut>(&self, name: &'static str, work: F) -> Task<()>
    where
        F: FnOnce(CancellationToken) -> Fut,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let token = self.cancel.child_token();
        let work = work(token.clone());
        self.start(name, token.clone(), async move {
            work.await;
            if token.is_cancelled() {
                Ok(())
            } else {
                Err(TaskError::EndedEarly { name })
            }
        })
    }

    fn start<T: Send + 'static>(
        &self,
        name: &'static str,
        cancel: CancellationToken,
        work: impl Future<Output = Result<T, TaskError>> + Send + 'static,
    ) -> Task<T> {
        let abort = self.abort.child_token();
        let group = self.name;
        let failure = Arc::clone(&self.failure);
        let aborted = abort.clone();
        // Each of the futures around it would have room for it twice: as what it was given and as what it waits for.
        let work = Box::pin(work);
        let supervised = async move {
            // The work is dropped inside the guard: its destructors may panic too.
            let result = AssertUnwindSafe(async move {
                tokio::select! {
                    biased;
                    () = aborted.cancelled() => Err(TaskError::Aborted { name }),
                    result = work => result,
                }
            })
            .catch_unwind()
            .await
            .unwrap_or_else(|panic| {
                Err(TaskError::Panicked {
                    name,
                    message: panic_message(panic.as_ref()),
                })
            });
            match &result {
                Ok(_) => {}
                Err(TaskError::Aborted { .. }) => {
                    tracing::debug!(group, task = name, "task aborted");
                }
                Err(error) => {
                    tracing::error!(group, task = name, %error, "task failed");
                    failure.send_replace(Some(error.clone()));
                }
            }
            result
        };
        Task {
            name,
            cancel,
            abort,
            handle: self.tracker.spawn(supervised.in_current_span()),
        }
    }

    /// Waits for the next failure of a task in this group: a panic, or the early end of a service. A failure that
    /// nobody has waited for yet is returned at once; of several, the last.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn failed(&self) -> TaskError {
        let mut failures = self.failure.subscribe();
        loop {
            // The sender lives in `self`, so waiting cannot fail.
            let _ = failures.wait_for(Option::is_some).await;
            // Somebody else who waits may have taken it.
            if let Some(failure) = self.failure.send_replace(None) {
                return failure;
            }
        }
    }

    /// Asks all tasks to end, waits up to `grace`, aborts the rest and returns how many those were.
    pub async fn shutdown(self, grace: Duration) -> usize {
        self.cancel.cancel();
        self.tracker.close();
        if tokio::time::timeout(grace, self.tracker.wait())
            .await
            .is_ok()
        {
            return 0;
        }
        let aborted = self.tracker.len();
        tracing::warn!(
            group = self.name,
            aborted,
            "tasks outlived their grace period"
        );
        self.abort.cancel();
        if tokio::time::timeout(ABORT_GRACE, self.tracker.wait())
            .await
            .is_err()
        {
            tracing::error!(
                group = self.name,
                stuck = self.tracker.len(),
                "aborted tasks do not yield"
            );
        }
        aborted
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.cancel.cancel();
        self.abort.cancel();
    }
}

/// A running task. Await it for the result; dropping the handle leaves the task to its group.
#[derive(Debug)]
#[must_use = "drop it with `.detach()` to leave the task to its group"]
pub struct Task<T> {
    name: &'static str,
    cancel: CancellationToken,
    abort: CancellationToken,
    handle: JoinHandle<Result<T, TaskError>>,
}

impl<T> Task<T> {
    /// Asks the task to end.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Takes the task down at its next `await`.
    pub fn abort(&self) {
        self.cancel.cancel();
        self.abort.cancel();
    }

    /// Whether the task is over.
    pub fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }

    /// Leaves the task to its group, for work whose result nobody needs.
    pub fn detach(self) {}
}

impl<T> Future for Task<T> {
    type Output = Result<T, TaskError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let name = self.name;
        self.handle.poll_unpin(cx).map(|joined| {
            // Panics are caught inside, so a join error means that the runtime is shutting down.
            joined.unwrap_or(Err(TaskError::Aborted { name }))
        })
    }
}

/// The text of a panic, cut to 300 characters.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&'static str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    text.chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn a_task_hands_its_result_to_whoever_joins_it() {
        let tasks = Tasks::root("test");
        assert_eq!(tasks.spawn("answer", |_| async { 42 }).await, Ok(42));
        assert!(tasks.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_caught_and_reported_upward() {
        let tasks = Tasks::root("test");
        let expected = TaskError::Panicked {
            name: "bad",
            message: "boom 7".into(),
        };
        let task = tasks.spawn("bad", |_| async { panic!("boom {}", 7) });
        let joined: Result<(), _> = task.await;
        assert_eq!(joined, Err(expected.clone()));
        assert_eq!(tasks.failed().await, expected);
        assert!(
            tokio::time::timeout(SOON, tasks.failed()).await.is_err(),
            "a failure is reported once"
        );
        assert_eq!(tasks.spawn("next", |_| async { 1 }).await, Ok(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_ends_early_is_a_failure_and_a_cancelled_one_is_not() {
        let tasks = Tasks::root("test");
        let early = tasks.spawn_service("early", |_| async {});
        assert_eq!(early.await, Err(TaskError::EndedEarly { name: "early" }));
        assert_eq!(
            tasks.failed().await,
            TaskError::EndedEarly { name: "early" }
        );
        let service =
            tasks.spawn_service("service", |token| async move { token.cancelled().await });
        service.cancel();
        assert_eq!(service.await, Ok(()));
        assert!(
            !tasks.token().is_cancelled(),
            "a task's token is not the group's"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn dropping_a_parent_aborts_its_childrens_tasks() {
        let parent = Tasks::root("parent");
        let child = parent.child("child");
        let task = child.spawn("stuck", |_| pending::<()>());
        drop(parent);
        let joined = tokio::time::timeout(SOON, task).await.unwrap();
        assert_eq!(joined, Err(TaskError::Aborted { name: "stuck" }));
    }

    #[tokio::test(start_paused = true)]
    async fn shutdown_waits_for_the_willing_and_aborts_the_rest() {
        let tasks = Tasks::root("test");
        let willing = tasks.spawn("willing", |token| async move {
            token.cancelled().await;
            tokio::time::sleep(Duration::from_millis(50)).await;
            "done"
        });
        let stuck = tasks.spawn("stuck", |_| pending::<()>());
        assert_eq!(tasks.shutdown(Duration::from_millis(100)).await, 1);
        assert_eq!(willing.await, Ok("done"));
        assert_eq!(stuck.await, Err(TaskError::Aborted { name: "stuck" }));
    }
}
