//! B4, T5: tickets.

use std::{collections::BTreeSet, time::UNIX_EPOCH};

use futures_util::future::join_all;

use super::*;
use crate::{auth::grants::Allowed, redis::Redis, testing::RedisServer};

const START: Duration = Duration::from_secs(1_700_000_000);

fn at(millis: u64) -> SystemTime {
    UNIX_EPOCH + START + Duration::from_millis(millis)
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn page() -> Origin {
    Origin::from_config("https://app.example").unwrap()
}

fn caller() -> Principal {
    let credential = Credential {
        method: Method::Jwt,
        token_id: Some("jti-1".into()),
        issued_at: Some(at(0)),
        expires_at: Some(at(600_000)),
        ticket: None,
    };
    Principal::user("ann@example.org", Some("acme".into()))
        .with_grants(Grants {
            tools: Allowed::only(["weather", "clock"]),
            max_sessions: Some(3),
            ..Grants::default()
        })
        .with_credential(credential)
}

fn memory() -> Tickets {
    Tickets::new(Arc::new(MemoryTickets::default()))
}

/// The same behaviour for every store.
async fn check_store(store: Arc<dyn TicketStore>) {
    let tickets = Tickets::new(store).bind_address(true);
    let (caller, origin) = (caller(), page());
    let mint = async |when| {
        let request = TicketRequest::new(&caller)
            .origin(Some(&origin))
            .address(address("2001:db8:1:2::77"));
        tickets.mint(request, when).await.unwrap()
    };
    let home = address("2001:db8:1:2:aaaa::1");
    let redeem = async |ticket: &Secret, origin: Option<&Origin>, from, when| {
        tickets.redeem(ticket.expose(), origin, from, when).await
    };

    // Redeemed once, for the same caller, and nobody afterwards.
    let ticket = mint(at(0)).await;
    let principal = redeem(&ticket, Some(&origin), home, at(29_000))
        .await
        .unwrap();
    assert_eq!(principal, caller);
    assert_eq!(principal.grants, caller.grants);
    let credential = &principal.credential;
    assert_eq!(credential.method, Method::Ticket);
    assert_eq!(credential.token_id.as_deref(), Some("jti-1"));
    assert_eq!(credential.issued_at, caller.credential.issued_at);
    assert_eq!(credential.expires_at, caller.credential.expires_at);
    assert_eq!(credential.ticket, TicketId::of(ticket.expose()));
    let again = redeem(&ticket, Some(&origin), home, at(29_000)).await;
    assert!(matches!(again, Err(RedeemError::Unknown(id)) if Some(id) == credential.ticket));

    // Bound to the page and the network; whoever tries has spent it.
    let other = Origin::from_config("https://evil.example").unwrap();
    for (origin, from, expected) in [
        (Some(&other), home, "ticket of another origin"),
        (None, home, "ticket of another origin"),
        (
            Some(&origin),
            address("2001:db8:1:3::77"),
            "ticket of another address",
        ),
        (
            Some(&origin),
            address("192.0.2.1"),
            "ticket of another address",
        ),
    ] {
        let ticket = mint(at(0)).await;
        let refused = redeem(&ticket, origin, from, at(1)).await.unwrap_err();
        assert_eq!(refused.to_string(), expected);
        let spent = redeem(&ticket, Some(&page()), home, at(2)).await;
        assert!(matches!(spent, Err(RedeemError::Unknown(_))));
    }

    // Half a minute, and never longer than the token it was minted with.
    let ticket = mint(at(0)).await;
    let late = redeem(&ticket, Some(&origin), home, at(30_500)).await;
    assert!(matches!(
        late,
        Err(RedeemError::Expired | RedeemError::Unknown(_))
    ));
    let ticket = mint(at(590_000)).await;
    let late = redeem(&ticket, Some(&origin), home, at(600_000)).await;
    assert!(matches!(late, Err(RedeemError::Expired)));
}

#[tokio::test]
async fn b4_a_ticket_in_memory_is_good_once_for_its_owner() {
    check_store(Arc::new(MemoryTickets::default())).await;
}

#[tokio::test]
async fn b4_a_ticket_in_redis_is_good_once_for_its_owner() {
    let server = RedisServer::start().await;
    let redis = Redis::open(&server.url(), "t").unwrap();
    check_store(Arc::new(RedisTickets::new(redis))).await;
}

#[tokio::test]
async fn b4_of_fifty_who_race_over_two_nodes_one_wins() {
    let server = RedisServer::start().await;
    let node = || {
        let redis = Redis::open(&server.url(), "t").unwrap();
        Tickets::new(Arc::new(RedisTickets::new(redis)))
    };
    let nodes = [node(), node()];
    let caller = caller();
    // The specification's 1,000 rounds; each is one batch on two multiplexed connections.
    for round in 0..1_000 {
        let minted = nodes[round % 2]
            .mint(TicketRequest::new(&caller), at(0))
            .await;
        let ticket = minted.unwrap();
        let attempts = (0..50).map(|index| {
            nodes[index % 2].redeem(ticket.expose(), None, address("192.0.2.1"), at(1))
        });
        let outcomes = join_all(attempts).await;
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
        let spent = |outcome: &&Result<_, _>| matches!(outcome, Err(RedeemError::Unknown(_)));
        assert_eq!(outcomes.iter().filter(spent).count(), 49);
    }
}

#[tokio::test]
async fn b4_redis_holds_nothing_to_redeem_and_its_absence_is_no_yes() {
    let mut server = RedisServer::start().await;
    let redis = Redis::open(&server.url(), "t").unwrap();
    let tickets = Tickets::new(Arc::new(RedisTickets::new(redis.clone())));
    let caller = caller();
    let ticket = tickets
        .mint(TicketRequest::new(&caller), at(0))
        .await
        .unwrap();

    let keys: Vec<String> = redis.query(::redis::cmd("KEYS").arg("*")).await.unwrap();
    assert_eq!(keys.len(), 1);
    let value: String = redis
        .query(::redis::cmd("GET").arg(&keys[0]))
        .await
        .unwrap();
    let life: i64 = redis
        .query(::redis::cmd("PTTL").arg(&keys[0]))
        .await
        .unwrap();
    assert!((1..=30_000).contains(&life), "{life}");
    assert!(!keys[0].contains(ticket.expose()) && !value.contains(ticket.expose()));
    // What a stolen or restored copy of the store says opens nothing.
    let words = keys[0].split([':', '{', '}']).chain(value.split('"'));
    for word in words.collect::<BTreeSet<_>>() {
        let outcome = tickets
            .redeem(word, None, address("192.0.2.1"), at(1))
            .await;
        assert!(outcome.is_err(), "{word}");
    }

    server.kill().await;
    let here = address("192.0.2.1");
    let outcome = tickets.redeem(ticket.expose(), None, here, at(1)).await;
    assert!(matches!(outcome, Err(RedeemError::Unavailable(_))));
    assert!(
        tickets
            .mint(TicketRequest::new(&caller), at(0))
            .await
            .is_err()
    );
    server.restart().await;
}

#[tokio::test]
async fn b9_a_ticket_carries_no_more_than_its_minter_has() {
    let tickets = memory();
    let caller = caller();
    let asked = Grants {
        tools: Allowed::only(["weather", "pay"]),
        admin: true,
        ..Grants::default()
    };
    let request = TicketRequest::new(&caller)
        .grants(&asked)
        .remaining_sessions(1);
    let ticket = tickets.mint(request, at(0)).await.unwrap();
    let redeemed = tickets
        .redeem(ticket.expose(), None, address("::1"), at(1))
        .await;
    let grants = redeemed.unwrap().grants;
    assert_eq!(grants.tools, Allowed::only(["weather"]));
    assert_eq!((grants.max_sessions, grants.admin), (Some(1), false));
    // The minter keeps what it had.
    assert_eq!(caller.grants.max_sessions, Some(3));
}

#[tokio::test]
async fn addresses_bind_only_where_the_operator_wants_it() {
    let caller = caller();
    let tickets = memory();
    let request = TicketRequest::new(&caller).address(address("192.0.2.1"));
    let ticket = tickets.mint(request, at(0)).await.unwrap();
    let elsewhere = address("198.51.100.1");
    assert!(
        tickets
            .redeem(ticket.expose(), None, elsewhere, at(1))
            .await
            .is_ok()
    );

    let bound = memory().bind_address(true);
    let ticket = bound.mint(request, at(0)).await.unwrap();
    let mapped = address("::ffff:192.0.2.1");
    assert!(
        bound
            .redeem(ticket.expose(), None, mapped, at(1))
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn what_is_no_ticket_never_reaches_the_store() {
    let tickets = memory();
    let ticket = tickets
        .mint(TicketRequest::new(&caller()), at(0))
        .await
        .unwrap();
    let text = ticket.expose();
    assert_eq!(text.len(), 43);
    let padded = format!("{text}=");
    for wrong in [
        "",
        "x",
        &text[1..],
        &padded,
        &text.repeat(1000),
        "ä",
        "../../etc/passwd",
    ] {
        let outcome = tickets.redeem(wrong, None, address("::1"), at(1)).await;
        assert!(matches!(outcome, Err(RedeemError::Malformed)), "{wrong}");
    }
    assert!(
        tickets
            .redeem(text, None, address("::1"), at(1))
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn memory_is_bounded_and_expired_tickets_make_room() {
    let tickets = Tickets::new(Arc::new(MemoryTickets::new(2)));
    let caller = caller();
    let mint = async |when| tickets.mint(TicketRequest::new(&caller), when).await;
    mint(at(0)).await.unwrap();
    let second = mint(at(10_000)).await.unwrap();
    assert!(mint(at(20_000)).await.is_err());
    mint(at(30_000)).await.unwrap();
    assert!(mint(at(30_000)).await.is_err());
    let outcome = tickets
        .redeem(second.expose(), None, address("::1"), at(30_001))
        .await;
    assert!(outcome.is_ok());
    mint(at(30_001)).await.unwrap();
}
