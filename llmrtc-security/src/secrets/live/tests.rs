//! A3 and T27: rotation without a restart, and a source that is down.

use std::{
    collections::VecDeque,
    sync::{Weak, atomic::AtomicUsize},
};

use llmrtc_core::credential::SharedCredential;
use tokio::sync::{Notify, mpsc};

use super::*;

const DEADLINE: Duration = Duration::from_secs(20);

/// A source that has what the test put there.
#[derive(Debug, Default)]
struct Shelf {
    state: Mutex<ShelfState>,
    /// Fetches that were begun.
    asked: AtomicUsize,
    /// While set, fetches wait here.
    gate: Mutex<Option<Arc<Notify>>>,
}

#[derive(Debug)]
struct ShelfState {
    value: Secret,
    failures: VecDeque<SecretErrorKind>,
}

impl Default for ShelfState {
    fn default() -> Self {
        Self {
            value: Secret::new("one"),
            failures: VecDeque::new(),
        }
    }
}

impl Shelf {
    fn put(&self, value: &str) {
        self.state.lock().unwrap().value = Secret::new(value);
    }

    fn fail(&self, kinds: impl IntoIterator<Item = SecretErrorKind>) {
        self.state.lock().unwrap().failures = kinds.into_iter().collect();
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl SecretSource for Shelf {
    fn origin(&self) -> &str {
        "shelf"
    }

    async fn fetch(&self) -> Result<Versioned<Secret>, SecretError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        // What is on the shelf when the question arrives is the answer, however late.
        let answer = {
            let mut state = self.state.lock().unwrap();
            match state.failures.pop_front() {
                Some(kind) => Err(SecretError::new("shelf", kind)),
                None => Ok(Versioned {
                    value: state.value.clone(),
                    version: Some("v".to_owned()),
                }),
            }
        };
        let gate = self.gate.lock().unwrap().clone();
        if let Some(gate) = gate {
            gate.notified().await;
        }
        answer
    }
}

struct Bench {
    shelf: Arc<Shelf>,
    live: Arc<LiveSecret>,
    events: mpsc::Receiver<RotationEvent>,
}

impl Bench {
    async fn new() -> Self {
        let shelf = Arc::new(Shelf::default());
        let (told, events) = mpsc::channel(100);
        let options = RotationOptions {
            observer: Arc::new(move |event| told.try_send(event.clone()).unwrap()),
            ..RotationOptions::default()
        };
        let source: Arc<dyn SecretSource> = shelf.clone();
        let live = LiveSecret::open("KEY", source, options).await.unwrap();
        Self {
            shelf,
            live: Arc::new(live),
            events,
        }
    }

    fn run(&self) -> tokio_util::task::AbortOnDropHandle<()> {
        let live = Arc::clone(&self.live);
        #[expect(clippy::disallowed_methods, reason = "aborted when the test ends")]
        let task = tokio::spawn(async move { live.run(CancellationToken::new()).await });
        tokio_util::task::AbortOnDropHandle::new(task)
    }

    async fn event(&mut self) -> RotationChange {
        timeout(Duration::from_secs(3600), self.events.recv())
            .await
            .expect("an event")
            .unwrap()
            .change
    }

    fn fingerprint(&self, value: &str) -> Fingerprint {
        self.live.fingerprint_of(&Secret::new(value))
    }
}

#[tokio::test(start_paused = true)]
async fn a3_a_change_is_seen_within_the_poll_and_the_old_value_is_dropped_after_the_grace() {
    let mut bench = Bench::new().await;
    let _running = bench.run();
    let mut changes = bench.live.subscribe();
    let in_flight = bench.live.current();
    let old: Weak<_> = {
        let pair = bench.live.keys();
        Arc::downgrade(&pair)
    };
    bench.shelf.put("two");
    let began = Instant::now();
    changes.changed().await.unwrap();
    assert!(began.elapsed() <= Duration::from_secs(30));
    assert_eq!(bench.live.current().expose(), "two");
    assert_eq!(in_flight.expose(), "one");
    let pair = bench.live.keys();
    assert_eq!(pair.current.expose(), "two");
    assert_eq!(pair.previous.as_ref().unwrap().expose(), "one");
    drop(pair);
    assert!(old.upgrade().is_none(), "readers let go of the old pair");
    assert_eq!(
        bench.event().await,
        RotationChange::Rotated {
            from: bench.fingerprint("one"),
            to: bench.fingerprint("two"),
            version: Some("v".to_owned()),
        }
    );
    assert_eq!(
        bench.event().await,
        RotationChange::Dropped {
            value: bench.fingerprint("one")
        }
    );
    assert!(began.elapsed() >= bench.live.options.grace);
    assert!(bench.live.keys().previous.is_none());
}

#[tokio::test(start_paused = true)]
async fn a3_refresh_does_not_wait_for_the_poll_and_events_hold_no_values() {
    let mut bench = Bench::new().await;
    assert!(!bench.live.refresh().await.unwrap());
    bench.shelf.put("canary-two");
    assert!(bench.live.refresh().await.unwrap());
    assert_eq!(bench.live.current().expose(), "canary-two");
    let event = bench.events.recv().await.unwrap();
    assert_eq!(&*event.name, "KEY");
    let text = format!("{event:?} {:?}", bench.live);
    assert!(!text.contains("canary"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a3_callers_share_a_question_but_none_gets_an_answer_older_than_their_own() {
    let bench = Bench::new().await;
    let gate = Arc::new(Notify::new());
    *bench.shelf.gate.lock().unwrap() = Some(Arc::clone(&gate));
    let asked = bench.shelf.asked();
    let first = bench.live.refresh();
    let later = async {
        // The first question is under way with the old value in its answer.
        tokio::task::yield_now().await;
        assert_eq!(bench.shelf.asked(), asked + 1);
        bench.shelf.put("two");
        let crowd = join_all((0..10).map(|_| bench.live.refresh()));
        let open = async {
            for _ in 0..2 {
                tokio::task::yield_now().await;
                gate.notify_one();
            }
        };
        tokio::join!(crowd, open).0
    };
    let (first, crowd) = tokio::join!(first, later);
    assert!(!first.unwrap());
    assert!(crowd.into_iter().all(|changed| changed.unwrap()));
    assert_eq!(bench.shelf.asked(), asked + 2);
}

#[tokio::test(start_paused = true)]
async fn a3_a_refusal_asks_the_source_at_once() {
    let mut bench = Bench::new().await;
    bench.shelf.put("two");
    let refused = bench.live.current();
    let asked = bench.shelf.asked();
    let answers = join_all((0..20).map(|_| bench.live.rejected(&refused))).await;
    for answer in answers {
        assert_eq!(answer.unwrap().expose(), "two");
    }
    assert_eq!(bench.shelf.asked(), asked + 1);
    assert!(matches!(
        bench.event().await,
        RotationChange::Rotated { .. }
    ));
    // A call that began with the old value learns the new one without a question.
    let late = bench.live.rejected(&refused).await.unwrap();
    assert_eq!(late.expose(), "two");
    assert_eq!(bench.shelf.asked(), asked + 1);
}

#[tokio::test(start_paused = true)]
async fn a3_a_bad_new_value_falls_back_for_the_grace_time_and_says_so() {
    let mut bench = Bench::new().await;
    let _running = bench.run();
    bench.shelf.put("bad");
    bench.live.refresh().await.unwrap();
    bench.event().await;
    let other = bench.live.rejected(&Secret::new("bad")).await.unwrap();
    assert_eq!(other.expose(), "one");
    assert_eq!(bench.live.current().expose(), "one");
    assert_eq!(
        bench.event().await,
        RotationChange::FellBack {
            refused: bench.fingerprint("bad"),
            to: bench.fingerprint("one"),
        }
    );
    let in_use: Vec<_> = bench
        .live
        .in_use()
        .iter()
        .map(|value| value.expose().to_owned())
        .collect();
    assert_eq!(in_use, ["one", "bad"]);
    // Grace ends, the newest is all there is, and a refusal has no way out.
    assert!(matches!(
        bench.event().await,
        RotationChange::Dropped { .. }
    ));
    assert!(bench.live.rejected(&Secret::new("bad")).await.is_none());
    assert_eq!(
        bench.event().await,
        RotationChange::Refused {
            refused: bench.fingerprint("bad")
        }
    );
}

#[tokio::test(start_paused = true)]
async fn t27_a_source_that_is_down_leaves_the_last_good_value_and_is_reported_once() {
    let mut bench = Bench::new().await;
    let _running = bench.run();
    bench
        .shelf
        .fail(std::iter::repeat_n(SecretErrorKind::Unavailable, 30));
    assert_eq!(
        bench.event().await,
        RotationChange::RefreshFailed {
            why: SecretErrorKind::Unavailable
        }
    );
    assert_eq!(bench.live.current().expose(), "one");
    assert!(bench.live.refresh().await.is_err());
    bench.shelf.put("two");
    assert_eq!(bench.event().await, RotationChange::Recovered);
    assert!(matches!(
        bench.event().await,
        RotationChange::Rotated { .. }
    ));
    assert_eq!(bench.live.current().expose(), "two");
}

#[tokio::test(start_paused = true)]
async fn a2_the_start_waits_for_a_slow_source_until_its_deadline() {
    let open = async |kinds: Vec<SecretErrorKind>| {
        let shelf = Arc::new(Shelf::default());
        shelf.fail(kinds);
        let began = Instant::now();
        let opened = LiveSecret::open("KEY", shelf.clone(), RotationOptions::default()).await;
        (opened.map(drop), began.elapsed(), shelf.asked())
    };
    let (opened, _, asked) = open(vec![
        SecretErrorKind::Unavailable,
        SecretErrorKind::RateLimited(Some(Duration::from_secs(3))),
        SecretErrorKind::Timeout,
    ])
    .await;
    opened.unwrap();
    assert_eq!(asked, 4);
    let (opened, _, asked) = open(vec![SecretErrorKind::Denied]).await;
    assert_eq!(*opened.unwrap_err().kind(), SecretErrorKind::Denied);
    assert_eq!(asked, 1, "a refusal is final");
    let (opened, took, _) = open(vec![SecretErrorKind::Unavailable; 1000]).await;
    assert_eq!(*opened.unwrap_err().kind(), SecretErrorKind::Unavailable);
    assert!(took <= RotationOptions::default().startup_deadline);

    let shelf = Arc::new(Shelf::default());
    *shelf.gate.lock().unwrap() = Some(Arc::new(Notify::new()));
    let stuck = LiveSecret::open("KEY", shelf, RotationOptions::default()).await;
    assert_eq!(*stuck.unwrap_err().kind(), SecretErrorKind::Timeout);
}

/// The vendor of the run below: takes the newest key, and for a while the one before.
#[derive(Debug)]
struct Vendor {
    accepts: Mutex<&'static str>,
}

impl Vendor {
    /// A turn of 200 ms. The key is looked at when the call begins, as vendors do.
    async fn call(&self, key: &Secret) -> bool {
        let accepted = key.expose() == *self.accepts.lock().unwrap();
        sleep(Duration::from_millis(200)).await;
        accepted
    }
}

/// What a provider does with a credential: one more attempt, if there is another value.
async fn turn(vendor: &Vendor, key: &SharedCredential) -> bool {
    let value = key.current();
    if vendor.call(&value).await {
        return true;
    }
    match key.rejected(&value).await {
        Some(other) => vendor.call(&other).await,
        None => false,
    }
}

/// 20 turns a second for a minute, with the key replaced in the middle and the old one refused from that moment on.
#[tokio::test(start_paused = true)]
async fn a3_no_turn_fails_across_a_rotation() {
    let bench = Bench::new().await;
    let _running = bench.run();
    let vendor = Vendor {
        accepts: Mutex::new("one"),
    };
    let key = SharedCredential::from(Arc::clone(&bench.live));
    let turns = join_all((0..1200_u32).map(|n| {
        let (vendor, key) = (&vendor, &key);
        async move {
            sleep(Duration::from_millis(50) * n).await;
            turn(vendor, key).await
        }
    }));
    let rotate = async {
        sleep(Duration::from_millis(30_010)).await;
        bench.shelf.put("two");
        *vendor.accepts.lock().unwrap() = "two";
    };
    let (turns, ()) = tokio::join!(turns, rotate);
    let failed = turns.iter().filter(|succeeded| !**succeeded).count();
    assert_eq!(failed, 0);
    assert_eq!(bench.live.current().expose(), "two");
}

#[tokio::test(start_paused = true)]
async fn a3_a_key_replaced_right_after_a_poll_is_found_by_the_first_refusal() {
    let bench = Bench::new().await;
    assert!(!bench.live.refresh().await.unwrap());
    bench.shelf.put("two");
    let key = SharedCredential::from(Arc::clone(&bench.live));
    let refused = key.current();
    let other = key.rejected(&refused).await.expect("there is a new one");
    assert_eq!(other.expose(), "two");
}

#[tokio::test]
async fn a3_file_events_are_seen_without_a_poll() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    std::fs::write(&path, "one\n").unwrap();
    let options = RotationOptions {
        // Only an event can bring the news.
        poll: Duration::from_secs(3600),
        ..RotationOptions::default()
    };
    let source = Arc::new(crate::secrets::FileSource::new(&path));
    let live = LiveSecret::open("KEY", source, options).await.unwrap();
    let mut changes = live.subscribe();
    let replace = async {
        // Written beside and moved, as by Kubernetes; again and again, because the watch begins at its own time.
        for round in 0_u32.. {
            let next = folder.path().join("next");
            std::fs::write(&next, format!("two {round}\n")).unwrap();
            std::fs::rename(&next, &path).unwrap();
            if timeout(Duration::from_secs(1), changes.changed())
                .await
                .is_ok()
            {
                break;
            }
        }
    };
    let token = CancellationToken::new();
    tokio::select! {
        () = live.run(token) => unreachable!("nobody cancels"),
        result = timeout(DEADLINE, replace) => result.expect("an event within the deadline"),
    }
    assert!(live.current().expose().starts_with("two"));
}

#[tokio::test]
async fn a1_everything_that_is_wrong_is_said_at_once() {
    let chain = Chain::new(crate::secrets::Managers::default());
    let wanted = ["A", "B", "C", "D"].map(Wanted::new);
    let environment = |name: &str| match name {
        "A" => Some("canary-a".to_owned()),
        "B" => Some("env://NOWHERE".to_owned()),
        "C_FILE" => Some("/nowhere/at/all".to_owned()),
        _ => None,
    };
    let options = RotationOptions::default();
    let problems = LiveSecrets::open(&chain, wanted, &environment, &options)
        .await
        .unwrap_err();
    let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        [
            "B (env://NOWHERE): not set",
            "C_FILE (/nowhere/at/all): does not exist"
        ]
    );
}
