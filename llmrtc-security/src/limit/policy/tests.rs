use futures_util::FutureExt;
use serde_json::json;

use super::*;

fn limits(config: serde_json::Value, now: Instant) -> Limits {
    Limits::new(&serde_json::from_value(config).unwrap(), now)
}

fn address(text: &str) -> Subject<'static> {
    Subject::address(text.parse().unwrap())
}

/// Without Redis a decision never waits.
fn check(
    limits: &Limits,
    scope: Scope,
    subject: &Subject<'_>,
    now: Instant,
) -> Result<Option<Standing>, Refusal> {
    limits.check(scope, subject, 1, now).now_or_never().unwrap()
}

fn admitted(limits: &Limits, scope: Scope, subject: &Subject<'_>, now: Instant) -> usize {
    (0..10_000)
        .take_while(|_| check(limits, scope, subject, now).is_ok())
        .count()
}

#[test]
fn d1_each_address_and_scope_has_a_bucket_of_its_own() {
    let start = Instant::now();
    let limits = limits(json!({}), start);
    let (a, b) = (address("192.0.2.1"), address("192.0.2.2"));
    assert_eq!(admitted(&limits, Scope::Http, &a, start), 21);
    assert_eq!(
        admitted(&limits, Scope::Http, &address("::ffff:192.0.2.1"), start),
        0
    );
    assert_eq!(admitted(&limits, Scope::Http, &b, start), 21);
    assert_eq!(admitted(&limits, Scope::Upgrade, &a, start), 30);
    assert_eq!(admitted(&limits, Scope::Ticket, &a, start), 30);
    let Err(Refusal::Limited(standing)) = check(&limits, Scope::Http, &a, start) else {
        panic!("the bucket is exhausted");
    };
    assert_eq!(
        (standing.tier, standing.scope),
        (Tier::Address, Scope::Http)
    );
    let later = start + standing.decision.retry_after;
    assert_eq!(admitted(&limits, Scope::Http, &a, later), 1);
    // The operator's own machine is exempt.
    assert_eq!(
        check(&limits, Scope::Http, &address("127.0.0.1"), start),
        Ok(None)
    );
    let strict = super::tests::limits(json!({ "exempt": [] }), start);
    assert_eq!(
        admitted(&strict, Scope::Http, &address("127.0.0.1"), start),
        21
    );
}

#[test]
fn d1_ipv6_is_counted_by_64_and_by_48() {
    let start = Instant::now();
    let limits = limits(json!({ "network_factor": 3 }), start);
    let subject = |subnet: u32, host: u32| address(&format!("2001:db8:1:{subnet:x}::{host:x}"));
    let mut host = 0;
    let mut all = |subnet: u32| {
        // Every request from another address of the /64.
        (0..100)
            .take_while(|_| {
                host += 1;
                check(&limits, Scope::Http, &subject(subnet, host), start).is_ok()
            })
            .count()
    };
    assert_eq!([all(1), all(2)], [21, 21]);
    assert_eq!([all(3), all(4)], [21, 0], "the /48 has three times as much");
    let Err(Refusal::Limited(standing)) = check(&limits, Scope::Http, &subject(5, 1), start) else {
        panic!("the network is exhausted");
    };
    assert_eq!(standing.tier, Tier::Network);
    assert_eq!(
        admitted(&limits, Scope::Http, &address("2001:db8:2::1"), start),
        21
    );
    // What the network refused was given back to the address.
    let later = start + Duration::from_secs(60);
    assert_eq!(admitted(&limits, Scope::Http, &subject(4, 1), later), 21);
}

#[test]
fn d1_failed_attempts_block_the_address_for_a_while() {
    let start = Instant::now();
    let limits = limits(json!({ "auth_block": "2m" }), start);
    let attacker: IpAddr = "2001:db8::1".parse().unwrap();
    let fail = |now| limits.auth_failed(attacker, now).now_or_never().unwrap();
    for _ in 0..4 {
        assert_eq!(fail(start), None);
    }
    assert!(check(&limits, Scope::Upgrade, &Subject::address(attacker), start).is_ok());
    assert_eq!(fail(start), Some(Duration::from_secs(120)));
    assert_eq!(fail(start), None, "told once");
    let neighbour = address("2001:db8::2");
    for scope in [Scope::Http, Scope::Upgrade, Scope::Ticket] {
        let blocked = Refusal::Blocked {
            retry_after: Duration::from_secs(120),
        };
        assert_eq!(check(&limits, scope, &neighbour, start), Err(blocked));
        assert_eq!(Rejection::from(blocked).status(), 429);
    }
    assert!(check(&limits, Scope::Upgrade, &address("2001:db8:0:1::1"), start).is_ok());
    let after = start + Duration::from_secs(120);
    assert!(check(&limits, Scope::Upgrade, &neighbour, after).is_ok());
    // One in twelve seconds never blocks.
    for i in 1..20 {
        let now = start + Duration::from_secs(600 + 12 * i);
        assert_eq!(
            limits
                .auth_failed("192.0.2.9".parse().unwrap(), now)
                .now_or_never(),
            Some(None)
        );
    }
}

#[test]
fn d2_a_user_is_counted_by_name_over_addresses_and_sessions() {
    let start = Instant::now();
    let limits = limits(json!({}), start);
    let ada = Principal::user("ada", Some("acme".into()));
    let same = Principal::user("ada", Some("acme".into()));
    let other_tenant = Principal::user("ada", Some("zeta".into()));
    let at_home = address("192.0.2.1")
        .principal(&ada)
        .session(SessionId::from_u128(1));
    let at_work = address("198.51.100.1")
        .principal(&same)
        .session(SessionId::from_u128(2));
    assert_eq!(admitted(&limits, Scope::Turn, &at_home, start), 60);
    assert_eq!(admitted(&limits, Scope::Turn, &at_work, start), 0);
    let stranger = address("192.0.2.1").principal(&other_tenant);
    assert_eq!(admitted(&limits, Scope::Turn, &stranger, start), 60);
    assert_eq!(admitted(&limits, Scope::Offer, &at_work, start), 6);
}

#[test]
fn d2_callers_without_identity_are_counted_by_session_else_by_address() {
    let start = Instant::now();
    let limits = limits(json!({}), start);
    let nobody = Principal::anonymous();
    let one = address("192.0.2.1").principal(&nobody);
    let session = |id| one.session(SessionId::from_u128(id));
    assert_eq!(admitted(&limits, Scope::Offer, &session(1), start), 6);
    assert_eq!(admitted(&limits, Scope::Offer, &session(2), start), 6);
    assert_eq!(admitted(&limits, Scope::Offer, &one, start), 6);
    let two = address("192.0.2.2").principal(&nobody);
    assert_eq!(admitted(&limits, Scope::Offer, &two, start), 6);
    // Even on the operator's own machine a session has limits.
    let local = address("127.0.0.1").principal(&nobody);
    assert_eq!(
        admitted(
            &limits,
            Scope::Offer,
            &local.session(SessionId::from_u128(3)),
            start
        ),
        6
    );
    assert_eq!(check(&limits, Scope::Offer, &local, start), Ok(None));
}

#[test]
fn d2_classes_inherit_and_tenants_share() {
    let start = Instant::now();
    let limits = limits(
        json!({ "classes": {
            "default": { "user": { "turn": "10/m" }, "tenant": { "turn": "15/m" } },
            "gold": { "user": { "turn": "100/m", "offer": "off" }, "tenant": { "turn": "off" } },
        }}),
        start,
    );
    let tenant = || Some("acme".into());
    let (ada, bob, eve) = (
        Principal::user("ada", tenant()),
        Principal::user("bob", tenant()),
        Principal::user("eve", tenant()),
    );
    let plain = |who| address("192.0.2.1").principal(who);
    assert_eq!(
        admitted(
            &limits,
            Scope::Turn,
            &plain(&ada).class(Some("no such class")),
            start
        ),
        10
    );
    assert_eq!(
        admitted(&limits, Scope::Turn, &plain(&bob), start),
        5,
        "the rest of the tenant"
    );
    let Err(Refusal::Limited(standing)) = check(&limits, Scope::Turn, &plain(&bob), start) else {
        panic!("the tenant is exhausted");
    };
    assert_eq!(standing.tier, Tier::Tenant);
    // What the tenant refused was given back to the user: six seconds later both have exactly one more.
    assert_eq!(
        admitted(
            &limits,
            Scope::Turn,
            &plain(&bob),
            start + Duration::from_secs(4)
        ),
        1
    );
    let gold = plain(&eve).class(Some("gold"));
    assert_eq!(admitted(&limits, Scope::Turn, &gold, start), 100);
    assert_eq!(check(&limits, Scope::Offer, &gold, start), Ok(None));
    assert_eq!(
        admitted(&limits, Scope::ToolCall, &gold, start),
        120,
        "inherited from what is built in"
    );
}

#[test]
fn d2_messages_are_counted_together_and_by_type() {
    let start = Instant::now();
    let limits = limits(
        json!({ "classes": { "default": {
            "user": { "message": "10/s burst 9" }, "message": { "ping": "1/s burst 1", "reconnect": "1/m" },
        }}}),
        start,
    );
    let ada = Principal::user("ada", None);
    let subject = address("192.0.2.1").principal(&ada);
    let admitted = |kind| {
        (0..100)
            .take_while(|_| limits.message(kind, &subject, start).is_ok())
            .count()
    };
    assert_eq!(admitted("ping"), 2);
    assert_eq!(admitted("reconnect"), 1);
    assert_eq!(admitted("audio"), 7, "refused pings did not count");
}

#[test]
fn d2_costs_are_estimated_before_and_settled_after() {
    let start = Instant::now();
    let limits = limits(
        json!({ "classes": { "default": { "user": { "llm_tokens": "60000/m" } } } }),
        start,
    );
    let ada = Principal::user("ada", None);
    let subject = address("192.0.2.1").principal(&ada);
    let take = |cost, now| {
        limits
            .check(Scope::LlmTokens, &subject, cost, now)
            .now_or_never()
            .unwrap()
    };
    let charge = |cost| {
        limits
            .charge(Scope::LlmTokens, &subject, cost, start)
            .now_or_never()
            .unwrap()
    };
    let left = |now| take(0, now).unwrap().unwrap().decision.remaining;
    take(3_000, start).unwrap();
    charge(-1_000);
    assert_eq!(left(start), 58_000);
    charge(59_000);
    assert_eq!(left(start), 0);
    let refusal = take(1_000, start).unwrap_err();
    assert_eq!(refusal.retry_after(), Some(Duration::from_secs(2)));
    assert!(take(1_000, start + Duration::from_secs(2)).is_ok());
    let never = take(60_001, start).unwrap_err();
    assert_eq!(never.retry_after(), None);
    assert_eq!(Rejection::from(never).retry_after_secs(), Some(60));
}

#[test]
fn d2_whoever_waits_exactly_as_told_passes_all_tiers() {
    use proptest::prelude::*;
    proptest!(|(steps in prop::collection::vec((0_u64..3_000, 0_usize..3, 1_u32..4), 1..100))| {
        let start = Instant::now();
        let limits = limits(json!({
            "address": { "http": "7/s burst 5" },
            "network_factor": 2,
            "classes": { "default": { "user": { "http": "3/s burst 8" }, "tenant": { "http": "4/s burst 9" } } },
        }), start);
        let users = ["ada", "bob", "eve"].map(|name| Principal::user(name, Some("acme".into())));
        let mut now = start;
        for (gap, user, cost) in steps {
            now += Duration::from_millis(gap);
            let subject = address("2001:db8::1").principal(&users[user]);
            let take = |now| limits.check(Scope::Http, &subject, cost, now).now_or_never().unwrap();
            // The address decides first; whoever passes it may have to wait for the others.
            while let Err(refusal) = take(now) {
                let wait = refusal.retry_after().unwrap();
                prop_assert!(!wait.is_zero());
                now += wait;
                if !matches!(refusal, Refusal::Limited(Standing { tier: Tier::Address | Tier::Network, .. })) {
                    prop_assert!(take(now).is_ok());
                    break;
                }
            }
        }
    });
}

#[tokio::test(start_paused = true)]
async fn d5_a_server_that_is_idle_forgets_everybody() {
    let now = || tokio::time::Instant::now().into_std();
    let limits = std::sync::Arc::new(limits(json!({}), now()));
    let token = CancellationToken::new();
    let sweeper = std::sync::Arc::clone(&limits);
    let tasks = llmrtc_core::tasks::Tasks::root("test");
    let running = tasks.spawn("sweep", |token| async move { sweeper.run(token).await });
    for user in 0..1_000 {
        let principal = Principal::user(user.to_string(), None);
        let subject = address("192.0.2.1").principal(&principal);
        for _ in 0..60 {
            limits.check(Scope::Turn, &subject, 1, now()).await.unwrap();
        }
    }
    assert_eq!(limits.buckets(), 1_000);
    tokio::time::sleep(Duration::from_secs(2 * 60)).await;
    assert_eq!(limits.buckets(), 0);
    running.cancel();
    running.await.unwrap();
    drop(token);
}

mod d3_shared {
    use super::*;
    use crate::{redis::Redis, testing::RedisServer};

    fn node(server: &RedisServer, config: serde_json::Value) -> Limits {
        limits(config, Instant::now()).shared(Redis::open(&server.url(), "t").unwrap())
    }

    #[tokio::test]
    async fn nodes_count_together_and_what_one_side_refuses_the_other_gets_back() {
        let server = RedisServer::start().await;
        let config = || {
            json!({
                "address": { "http": "1/h burst 9" },
                "classes": { "default": { "user": { "http": "1/h burst 3" }, "tenant": { "http": "1/h burst 5" } } },
            })
        };
        let nodes = [node(&server, config()), node(&server, config())];
        let now = Instant::now();
        let (ada, bob) = (
            Principal::user("ada", Some("acme".into())),
            Principal::user("bob", Some("acme".into())),
        );
        for (node, who, tier) in [
            (0, &ada, None),
            (1, &ada, None),
            (0, &ada, None),
            (1, &ada, None),
            (0, &ada, Some(Tier::User)),
            (1, &bob, None),
            (0, &bob, None),
            (0, &bob, Some(Tier::Tenant)),
            (1, &bob, Some(Tier::Tenant)),
        ] {
            let subject = address("2001:db8::1").principal(who);
            let refused = match nodes[node].check(Scope::Http, &subject, 1, now).await {
                Ok(_) => None,
                Err(Refusal::Limited(standing)) => Some(standing.tier),
                Err(other) => panic!("{other}"),
            };
            assert_eq!(refused, tier);
        }
        // The address was charged for six requests only.
        for left in [3, 2, 1, 0] {
            let standing = nodes[0]
                .check(Scope::Http, &address("2001:db8::2"), 1, now)
                .await
                .unwrap()
                .unwrap();
            assert_eq!(
                (standing.tier, standing.decision.remaining),
                (Tier::Address, left)
            );
        }
        assert!(
            nodes[1]
                .check(Scope::Http, &address("2001:db8::3"), 1, now)
                .await
                .is_err()
        );
        assert_eq!(nodes[0].buckets(), 0, "nothing is counted twice");
        // Failed attempts count together, too.
        let attacker = "192.0.2.9".parse().unwrap();
        let mut blocked = Vec::new();
        for attempt in 0..5 {
            blocked.extend(nodes[attempt % 2].auth_failed(attacker, now).await);
        }
        assert_eq!(blocked, [Duration::from_secs(300)]);
    }

    #[tokio::test]
    async fn t27_without_redis_each_node_goes_on_with_its_part_or_nobody_is_admitted() {
        let mut server = RedisServer::start().await;
        let local = node(&server, json!({ "nodes": 3 }));
        let closed = node(
            &server,
            json!({ "nodes": 3, "when_shared_fails": "fail_closed" }),
        );
        let ada = Principal::user("ada", None);
        let subject = address("192.0.2.1").principal(&ada);
        let now = Instant::now();
        assert!(closed.check(Scope::Turn, &subject, 1, now).await.is_ok());
        server.kill().await;
        let mut admitted = 0;
        while local.check(Scope::Turn, &subject, 1, now).await.is_ok() {
            admitted += 1;
        }
        assert_eq!(admitted, 20, "a third of sixty");
        let refused = closed
            .check(Scope::Turn, &subject, 1, now)
            .await
            .unwrap_err();
        assert_eq!(Rejection::from(refused).status(), 503);
        // Messages belong to a connection of this node, whatever Redis does.
        assert!(closed.message("ping", &subject, now).is_ok());
    }
}
