//! D4, T7, T27: leases as a server uses them.

use std::sync::atomic::{AtomicI64, Ordering};

use futures_util::future::join_all;
use llmrtc_core::tasks::{Task, Tasks};

use super::*;
use crate::{redis::Redis, testing::RedisServer};

/// Long for a busy machine; nothing waits this long unless something is broken.
const SOON: Duration = Duration::from_secs(30);

fn config() -> LimitsConfig {
    LimitsConfig {
        nodes: 2,
        sessions: LeaseConfig {
            wait: Duration::from_secs(20),
            ..LeaseConfig::default()
        },
        ..LimitsConfig::default()
    }
}

fn ada() -> Principal {
    Principal::user("ada", Some("acme".into()))
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future).await.expect("in time")
}

fn session(id: u128) -> SessionId {
    SessionId::from_u128(id)
}

/// A node: its leases and what runs for them.
struct Running {
    leases: Leases,
    run: Task<()>,
    tasks: Tasks,
}

fn node(config: &LimitsConfig, redis: &Redis) -> Running {
    let leases = Leases::shared(config, redis.clone());
    let tasks = Tasks::root("node");
    let running = leases.clone();
    let run = tasks.spawn("leases", |token| async move { running.run(token).await });
    Running { leases, run, tasks }
}

#[tokio::test(start_paused = true)]
async fn d4_the_fourth_session_replaces_the_oldest_and_waits_until_it_has_ended() {
    let leases = Leases::new(&config());
    let ada = ada();
    let mut held = Vec::new();
    for id in 1..=3 {
        held.push(leases.acquire(session(id), &ada, None).await.unwrap());
    }
    let fourth = leases.acquire(session(4), &ada, None);
    let oldest = held.remove(0);
    let (fourth, ()) = tokio::join!(fourth, async {
        assert_eq!(oldest.ended().await, End::Replaced);
        assert_eq!(leases.live(), 3);
        tokio::time::sleep(Duration::from_millis(400)).await;
        assert_eq!(leases.live(), 3, "its audio is still on");
        drop(oldest);
    });
    let fourth = fourth.unwrap();
    assert_eq!(leases.live(), 3);
    // A session that is claimed again takes no second place: its former connection ends first.
    let (again, ()) = tokio::join!(leases.acquire(session(4), &ada, None), async {
        assert_eq!(fourth.ended().await, End::Replaced);
        drop(fourth);
    });
    let again = again.unwrap();
    assert_eq!(leases.live(), 3);
    drop((again, held));
    assert_eq!(leases.live(), 0);
    assert_eq!(leases.0.lock().table.holders(), 0);
}

#[tokio::test(start_paused = true)]
async fn d4_who_does_not_make_room_is_not_waited_for_forever() {
    let leases = Leases::new(&config());
    let _stuck = leases.acquire(session(1), &ada(), Some(1)).await.unwrap();
    let started = Instant::now();
    let late = leases
        .acquire(session(2), &ada(), Some(1))
        .await
        .unwrap_err();
    assert_eq!(
        (late, started.elapsed()),
        (NoPlace::Late, Duration::from_secs(20))
    );
    assert_eq!(Rejection::from(late).status(), 503);
    // What it claimed is given up.
    let mut state = leases.0.lock();
    assert!(!state.table.release(&session(2).to_string(), None, 0));
}

#[tokio::test(start_paused = true)]
async fn d4_reject_refuses_and_caps_of_tenant_and_server_hold_for_everybody() {
    let mut config = config();
    config.sessions.when_full = WhenFull::Reject;
    config.sessions.per_tenant = Some(4);
    config.sessions.total = Some(6);
    let leases = Leases::new(&config);
    let mut held = Vec::new();
    let bob = Principal::user("bob", Some("acme".into()));
    let stranger = Principal::user("ada", None);
    let nobody = Principal::anonymous();
    for (id, who, expected) in [
        (1, &ada(), Ok(())),
        (2, &ada(), Ok(())),
        (3, &ada(), Ok(())),
        (4, &ada(), Err(NoPlace::User)),
        (5, &bob, Ok(())),
        (6, &bob, Err(NoPlace::Tenant)),
        (7, &stranger, Ok(())),
        (8, &nobody, Ok(())),
        (9, &nobody, Err(NoPlace::Server)),
    ] {
        let result = leases.acquire(session(id), who, None).await;
        assert_eq!(
            result.as_ref().map(drop).map_err(|reason| *reason),
            expected,
            "{id}"
        );
        held.extend(result);
    }
    assert_eq!(Rejection::from(NoPlace::User).status(), 429);
    drop(held.remove(0));
    held.push(leases.acquire(session(4), &ada(), None).await.unwrap());
    assert_eq!(leases.live(), 6);
}

/// 200 connects at once over two nodes: the number of sessions is checked at every change, not just now and then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d4_two_hundred_connects_over_two_nodes_are_never_more_than_three() {
    let server = RedisServer::start().await;
    let redis = Redis::open(&server.url(), "t").unwrap();
    let nodes = [node(&config(), &redis), node(&config(), &redis)];
    let live = AtomicI64::new(0);
    let undecided = watch::Sender::new(200);
    let (ada, live, undecided) = (&ada(), &live, &undecided);
    let outcomes = join_all((0..200_u128).map(|id| {
        let leases = &nodes[(id % 2) as usize].leases;
        async move {
            let acquired = leases.acquire(session(id), ada, None).await;
            undecided.send_modify(|count| *count -= 1);
            let lease = acquired?;
            let now = live.fetch_add(1, Ordering::SeqCst) + 1;
            assert!((1..=3).contains(&now), "{now} live");
            let mut others = undecided.subscribe();
            let replaced = tokio::select! {
                biased;
                end = lease.ended() => end == End::Replaced,
                _ = others.wait_for(|count| *count == 0) => false,
            };
            let now = live.fetch_sub(1, Ordering::SeqCst) - 1;
            assert!(now >= 0);
            drop(lease);
            Ok::<_, NoPlace>(replaced)
        }
    }))
    .await;
    let kept = outcomes
        .iter()
        .filter(|outcome| **outcome == Ok(false))
        .count();
    assert_eq!(kept, 3, "{outcomes:?}");
    for node in nodes {
        node.run.cancel();
        soon(node.run).await.unwrap();
        drop(node.tasks);
    }
    // Everything was given back.
    let total: u64 = redis
        .query(redis::cmd("ZCARD").arg(redis.key("leases", "lease:total")))
        .await
        .unwrap();
    assert_eq!(total, 0);
}

#[tokio::test]
async fn d4_a_killed_node_frees_its_places_within_one_lease_and_a_resumed_session_takes_none() {
    let server = RedisServer::start().await;
    let redis = Redis::open(&server.url(), "t").unwrap();
    let mut config = config();
    config.sessions.ttl = Duration::from_secs(2);
    config.sessions.renew = Duration::from_millis(500);
    let (dying, surviving) = (node(&config, &redis), node(&config, &redis));
    let ada = ada();
    let mut lost = Vec::new();
    for id in 1..=3 {
        lost.push(dying.leases.acquire(session(id), &ada, None).await.unwrap());
    }
    // The client of session 2 is back before the first node has died: it moves, and the old connection ends.
    let second = lost.remove(1);
    let (moved, ()) = tokio::join!(
        soon(surviving.leases.acquire(session(2), &ada, None)),
        async {
            assert_eq!(soon(second.ended()).await, End::Replaced);
            drop(second);
        }
    );
    let moved = moved.unwrap();
    // `kill -9`: nothing is released.
    dying.run.abort();
    let _ = dying.run.await;
    lost.into_iter().for_each(std::mem::forget);
    let fourth = soon(surviving.leases.acquire(session(4), &ada, None))
        .await
        .unwrap();
    let fifth = soon(surviving.leases.acquire(session(5), &ada, None))
        .await
        .unwrap();
    assert_eq!(surviving.leases.live(), 3);
    let total: u64 = redis
        .query(redis::cmd("ZCARD").arg(redis.key("leases", "lease:total")))
        .await
        .unwrap();
    assert_eq!(total, 3);
    drop((moved, fourth, fifth));
}

#[tokio::test]
async fn t27_without_redis_a_node_counts_alone_and_registers_everybody_when_it_is_back() {
    let mut server = RedisServer::start().await;
    let redis = Redis::open(&server.url(), "t").unwrap();
    let mut config = config();
    config.sessions.renew = Duration::from_millis(200);
    let (one, two) = (node(&config, &redis), node(&config, &redis));
    let first = one.leases.acquire(session(1), &ada(), None).await.unwrap();
    let second = one.leases.acquire(session(2), &ada(), None).await.unwrap();
    server.kill().await;
    // Half of three, rounded down, is one per node.
    let alone = soon(two.leases.acquire(session(3), &ada(), None))
        .await
        .unwrap();
    let (replaced, newer) = tokio::join!(
        async {
            assert_eq!(soon(alone.ended()).await, End::Replaced);
            drop(alone);
        },
        async { soon(two.leases.acquire(session(4), &ada(), None)).await },
    );
    let ((), newer) = (replaced, newer.unwrap());
    assert_eq!(
        (one.leases.live(), two.leases.live()),
        (2, 1),
        "what runs goes on"
    );
    server.restart().await;
    let total = || async {
        let key = redis.key("leases", "lease:total");
        redis
            .query::<u64>(redis::cmd("ZCARD").arg(key))
            .await
            .unwrap_or(0)
    };
    soon(async {
        while total().await < 3 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    // They are ranked by age again.
    let fifth = async {
        soon(two.leases.acquire(session(5), &ada(), None))
            .await
            .unwrap()
    };
    let (fifth, ()) = tokio::join!(fifth, async {
        assert_eq!(soon(first.ended()).await, End::Replaced);
        drop(first);
    });
    drop((second, newer, fifth));
}

#[tokio::test]
async fn t27_who_must_never_have_too_many_is_refused_and_ends_when_leases_run_out() {
    let mut server = RedisServer::start().await;
    let redis = Redis::open(&server.url(), "t").unwrap();
    let mut config = config();
    config.when_shared_fails = WhenSharedFails::FailClosed;
    config.sessions.ttl = Duration::from_secs(1);
    config.sessions.renew = Duration::from_millis(300);
    let node = node(&config, &redis);
    let lease = node.leases.acquire(session(1), &ada(), None).await.unwrap();
    server.kill().await;
    let refused = soon(node.leases.acquire(session(2), &ada(), None)).await;
    assert_eq!(refused.err(), Some(NoPlace::Unavailable));
    assert_eq!(soon(lease.ended()).await, End::Expired);
}

#[test]
fn a_configuration_that_loses_places_is_refused() {
    LeaseConfig::default().validate().unwrap();
    for (field, value) in [
        ("per_user", serde_json::json!(0)),
        ("per_tenant", serde_json::json!(0)),
        ("ttl", serde_json::json!("500ms")),
        ("renew", serde_json::json!("20s")),
        ("renew", serde_json::json!("0s")),
        ("wait", serde_json::json!("2m")),
    ] {
        let config = serde_json::Value::from_iter([(field, value)]);
        let config: LeaseConfig = serde_json::from_value(config).unwrap();
        assert!(config.validate().is_err(), "{field}");
    }
}
