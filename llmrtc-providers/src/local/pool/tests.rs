use std::{
    sync::{
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    task::Poll,
};

use futures_util::{FutureExt, future, poll};

use super::*;

fn one_thread() -> InferencePool {
    InferencePool::new(NonZeroUsize::new(1)).unwrap()
}

/// Occupies the pool's only thread until the sender is dropped.
async fn occupy(pool: &InferencePool) -> mpsc::Sender<()> {
    let (release, held) = mpsc::channel::<()>();
    let (begun, has_begun) = oneshot::channel();
    pool.submit(
        Priority::Turn,
        Box::new(move || {
            let _ = begun.send(());
            let _ = held.recv();
        }),
    )
    .unwrap();
    has_begun.await.unwrap();
    release
}

#[tokio::test]
async fn a_job_returns_what_it_computes_on_a_thread_of_the_pool() {
    let pool = one_thread();
    let name = pool.run(Priority::Token, || {
        thread::current().name().map(str::to_owned)
    });
    assert_eq!(name.await.unwrap().as_deref(), Some("inference-0"));
}

#[tokio::test]
async fn what_the_caller_waits_for_runs_first() {
    let pool = one_thread();
    let release = occupy(&pool).await;
    let order = Arc::new(Mutex::new(Vec::new()));
    let jobs = [
        Priority::Token,
        Priority::Partial,
        Priority::Transcript,
        Priority::Turn,
    ]
    .map(|priority| {
        let order = Arc::clone(&order);
        pool.run(priority, move || order.lock().unwrap().push(priority))
            .boxed_local()
    });
    let all = future::join_all(jobs);
    tokio::pin!(all);
    assert!(poll!(&mut all).is_pending());
    drop(release);
    all.await;
    // Two by priority, then the fourth job that began, which is the oldest.
    assert_eq!(
        *order.lock().unwrap(),
        [
            Priority::Turn,
            Priority::Transcript,
            Priority::Token,
            Priority::Partial
        ]
    );
}

#[tokio::test]
async fn a_flood_of_urgent_jobs_does_not_starve_the_others() {
    let pool = one_thread();
    let release = occupy(&pool).await;
    let before = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&before);
    let token = pool.run(Priority::Token, move || counter.load(Ordering::SeqCst));
    tokio::pin!(token);
    assert!(poll!(&mut token).is_pending());
    for _ in 0..100 {
        let before = Arc::clone(&before);
        let job = Box::new(move || {
            before.fetch_add(1, Ordering::SeqCst);
        });
        pool.submit(Priority::Partial, job).unwrap();
    }
    drop(release);
    assert!(token.await.unwrap() < OLDEST_EVERY as usize);
}

#[tokio::test]
async fn dropping_the_future_removes_a_job_that_has_not_begun() {
    let pool = one_thread();
    let release = occupy(&pool).await;
    let ran = Arc::new(AtomicBool::new(false));
    {
        let ran = Arc::clone(&ran);
        let job = pool.run(Priority::Turn, move || ran.store(true, Ordering::SeqCst));
        tokio::pin!(job);
        assert!(poll!(&mut job).is_pending());
        assert_eq!(pool.waiting(), 1);
    }
    assert_eq!(pool.waiting(), 0);
    drop(release);
    pool.run(Priority::Token, || ()).await.unwrap();
    assert!(!ran.load(Ordering::SeqCst));
}

#[tokio::test]
async fn a_panic_reaches_only_its_caller() {
    let pool = one_thread();
    let panicked = pool.run(Priority::Turn, || panic!("on purpose")).await;
    assert_eq!(panicked, Err::<(), _>(PoolError::Panicked));
    assert_eq!(pool.run(Priority::Turn, || 7).await, Ok(7));
}

#[tokio::test]
async fn a_full_queue_refuses_the_newest() {
    let pool = one_thread();
    let release = occupy(&pool).await;
    for _ in 0..QUEUE_JOBS {
        pool.submit(Priority::Token, Box::new(|| ())).unwrap();
    }
    assert_eq!(pool.run(Priority::Turn, || ()).await, Err(PoolError::Full));
    drop(release);
    pool.run(Priority::Token, || ()).now_or_never();
}

#[tokio::test]
async fn threads_end_with_the_last_clone_after_what_is_queued() {
    let pool = one_thread();
    let release = occupy(&pool).await;
    let (done, is_done) = oneshot::channel();
    pool.submit(Priority::Token, Box::new(move || done.send(()).unwrap()))
        .unwrap();
    drop(pool);
    drop(release);
    is_done.await.unwrap();
}

#[tokio::test]
async fn the_newest_takes_the_place_of_what_waits() {
    let pool = one_thread();
    let release = occupy(&pool).await;
    let latest = Latest::new(pool.clone(), Priority::Partial);
    let old = latest.run(|| "old");
    let new = latest.run(|| "new");
    tokio::pin!(old, new);
    assert!(poll!(&mut old).is_pending());
    assert!(poll!(&mut new).is_pending());
    assert_eq!(pool.waiting(), 1);
    assert_eq!(poll!(&mut old), Poll::Ready(Ok(None)));
    drop(release);
    assert_eq!(new.await, Ok(Some("new")));
    assert_eq!(latest.run(|| "next").await, Ok(Some("next")));
}

#[tokio::test]
async fn a_newest_job_can_be_withdrawn_and_may_panic() {
    let pool = one_thread();
    let release = occupy(&pool).await;
    let latest = Latest::new(pool.clone(), Priority::Partial);
    {
        let dropped = latest.run(|| unreachable!("withdrawn"));
        tokio::pin!(dropped);
        assert!(poll!(&mut dropped).is_pending());
    }
    let next = latest.run(|| 3);
    tokio::pin!(next);
    assert!(poll!(&mut next).is_pending());
    drop(release);
    assert_eq!(next.await, Ok(Some(3)));
    let panicked: Result<Option<()>, _> = latest.run(|| panic!("on purpose")).await;
    assert_eq!(panicked, Err(PoolError::Panicked));
    assert_eq!(latest.run(|| 4).await, Ok(Some(4)));
}
