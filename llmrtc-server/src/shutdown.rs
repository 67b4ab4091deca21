//! Leaving politely. [`Phase`] only moves forward:
//!
//! | Phase | Upgrades | Readiness | Connections |
//! | --- | --- | --- | --- |
//! | [`Running`](Phase::Running) | accepted | by its own reasons | live |
//! | [`Draining`](Phase::Draining), first signal | 503 | fails | audible answers finish, up to the grace period |
//! | [`Closing`](Phase::Closing) | 503 | fails | closed with 1001; what is not gone after [`CLOSE_DEADLINE`] is left behind |
//!
//! A second signal ends the process at once, whatever the phase.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::sync::watch;
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};

/// From the first close frame to the end of the process. With the default grace that makes fifteen seconds.
pub const CLOSE_DEADLINE: Duration = Duration::from_secs(5);

/// How far the server is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// It is not.
    Running,
    /// Nothing new begins.
    Draining,
    /// Everything ends.
    Closing,
}

/// The server's way out, shared by everybody who has to know. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Shutdown {
    phase: Arc<watch::Sender<Phase>>,
    audible: TaskTracker,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self {
            phase: Arc::new(watch::Sender::new(Phase::Running)),
            audible: TaskTracker::new(),
        }
    }
}

impl Shutdown {
    /// A running server.
    pub fn new() -> Self {
        Self::default()
    }

    /// The phase now.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Stop taking callers and let audible answers finish.
    pub fn begin(&self) {
        self.audible.close();
        self.advance(Phase::Draining);
    }

    /// End everything now.
    pub fn close(&self) {
        self.begin();
        self.advance(Phase::Closing);
    }

    fn advance(&self, phase: Phase) {
        self.phase.send_if_modified(|current| {
            let forward = phase > *current;
            if forward {
                *current = phase;
            }
            forward
        });
    }

    /// Completes when nothing new may begin.
    ///
    /// # Cancel safety
    /// Cancel safe, like [`closing`](Self::closing).
    pub async fn draining(&self) {
        self.reached(Phase::Draining).await;
    }

    /// Completes when connections have to close (1001).
    pub async fn closing(&self) {
        self.reached(Phase::Closing).await;
    }

    async fn reached(&self, phase: Phase) {
        // The sender lives as long as `self`.
        let _ = self
            .phase
            .subscribe()
            .wait_for(|current| *current >= phase)
            .await;
    }

    /// Holds the drain open while an answer can be heard. Drop it when the answer ends.
    pub fn audible(&self) -> Audible {
        Audible {
            _token: self.audible.token(),
        }
    }

    /// Drives the phases: once draining, waits until nothing is audible or `grace` is over, then closes.
    ///
    /// # Cancel safety
    /// Cancel safe; a new call waits for the whole grace again.
    pub async fn drain(&self, grace: Duration) {
        self.draining().await;
        let quiet = async {
            tokio::select! {
                biased;
                () = self.closing() => {}
                () = self.audible.wait() => {}
            }
        };
        if tokio::time::timeout(grace, quiet).await.is_err() {
            tracing::warn!(
                answers = self.audible.len(),
                "grace period is over, cutting answers off"
            );
        }
        self.close();
    }

    /// Completes when closing takes longer than [`CLOSE_DEADLINE`].
    ///
    /// # Cancel safety
    /// Cancel safe; a new call waits for the whole deadline again.
    pub async fn overdue(&self) {
        self.closing().await;
        tokio::time::sleep(CLOSE_DEADLINE).await;
    }
}

/// An answer that somebody is listening to.
#[derive(Debug)]
pub struct Audible {
    _token: TaskTrackerToken,
}

/// Begins the shutdown at the first SIGTERM or SIGINT and completes at the second, with the exit code for it.
///
/// # Errors
/// When the handlers cannot be installed.
pub fn signals(shutdown: Shutdown) -> std::io::Result<impl Future<Output = u8>> {
    let mut next = receiver()?;
    Ok(async move {
        let (name, _) = next().await;
        tracing::info!(signal = name, "shutting down");
        shutdown.begin();
        let (name, code) = next().await;
        tracing::warn!(signal = name, "second signal, leaving at once");
        code
    })
}

#[cfg(unix)]
fn receiver() -> std::io::Result<impl AsyncFnMut() -> (&'static str, u8)> {
    use tokio::signal::unix::{SignalKind, signal};

    // Installed now, not at the first poll: a signal in between must not kill us.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    // 128 + the signal's number, as shells report it.
    Ok(async move || {
        tokio::select! {
            _ = interrupt.recv() => ("SIGINT", 130),
            _ = terminate.recv() => ("SIGTERM", 143),
        }
    })
}

#[cfg(not(unix))]
fn receiver() -> std::io::Result<impl AsyncFnMut() -> (&'static str, u8)> {
    Ok(async || match tokio::signal::ctrl_c().await {
        Ok(()) => ("Ctrl-C", 130),
        // Without a handler the system's default ends the process.
        Err(_) => std::future::pending().await,
    })
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    async fn seconds_to_close(shutdown: &Shutdown, grace: u64) -> u64 {
        let begun = Instant::now();
        shutdown.begin();
        shutdown.drain(Duration::from_secs(grace)).await;
        assert_eq!(shutdown.phase(), Phase::Closing);
        begun.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_server_closes_at_once() {
        assert_eq!(seconds_to_close(&Shutdown::new(), 10).await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn audible_answers_finish_within_the_grace() {
        for (answer, grace, expected) in [(3, 10, 3), (30, 10, 10), (3, 0, 0)] {
            let shutdown = Shutdown::new();
            let audible = shutdown.audible();
            let answering = async {
                tokio::time::sleep(Duration::from_secs(answer)).await;
                drop(audible);
            };
            let (closed, ()) = tokio::join!(seconds_to_close(&shutdown, grace), answering);
            assert_eq!(closed, expected, "answer {answer}, grace {grace}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_begins_while_others_finish_counts_too() {
        let shutdown = Shutdown::new();
        let first = shutdown.audible();
        let answering = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            let second = shutdown.audible();
            drop(first);
            tokio::time::sleep(Duration::from_secs(2)).await;
            drop(second);
        };
        let (closed, ()) = tokio::join!(seconds_to_close(&shutdown, 10), answering);
        assert_eq!(closed, 4);
    }

    #[tokio::test(start_paused = true)]
    async fn phases_only_move_forward_and_reach_late_listeners() {
        let shutdown = Shutdown::new();
        assert_eq!(shutdown.phase(), Phase::Running);
        shutdown.close();
        shutdown.begin();
        assert_eq!(shutdown.phase(), Phase::Closing);
        shutdown.draining().await;
        shutdown.closing().await;
        let begun = Instant::now();
        shutdown.overdue().await;
        assert_eq!(begun.elapsed(), CLOSE_DEADLINE);
    }

    /// Sends signals to this very process, whose handlers stand by then.
    #[cfg(unix)]
    #[tokio::test]
    async fn the_first_signal_drains_and_the_second_names_the_exit_code() {
        async fn raise(name: &str) {
            let id = std::process::id().to_string();
            let kill = tokio::process::Command::new("kill")
                .args(["-s", name, &id])
                .status()
                .await;
            assert!(kill.unwrap().success());
        }

        for (first, second, code) in [
            ("TERM", "INT", 130),
            ("INT", "TERM", 143),
            ("TERM", "TERM", 143),
        ] {
            let shutdown = Shutdown::new();
            let signals = signals(shutdown.clone()).unwrap();
            let raised = async {
                raise(first).await;
                shutdown.draining().await;
                assert_eq!(shutdown.phase(), Phase::Draining);
                raise(second).await;
            };
            let both = async { tokio::join!(signals, raised).0 };
            let limit = Duration::from_secs(30);
            assert_eq!(
                tokio::time::timeout(limit, both).await,
                Ok(code),
                "{first}, {second}"
            );
        }
    }
}
