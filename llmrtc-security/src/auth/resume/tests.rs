use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use proptest::prelude::*;

use super::*;
use crate::auth::PrincipalKind;

const MINUTE: Duration = Duration::from_secs(60);

struct Bench {
    handles: SessionHandles,
    now: Instant,
}

impl Bench {
    fn new(change: impl FnOnce(&mut ResumeConfig)) -> Self {
        let mut config = ResumeConfig::default();
        change(&mut config);
        Self {
            handles: SessionHandles::new(config),
            now: Instant::now(),
        }
    }

    fn issue(&self, who: &str) -> Issued {
        self.handles
            .issue(SessionId::random(), &user(who), Some(&page()))
    }

    /// A session whose client is gone.
    fn waiting(&self, who: &str) -> (SessionId, String, String) {
        let issued = self.issue(who);
        let credentials = (
            issued.session_id,
            issued.handle.expose().to_owned(),
            issued.token.expose().to_owned(),
        );
        assert_eq!(self.handles.release(issued.lease, true, self.now), []);
        credentials
    }

    fn resume(&self, handle: &str, token: Option<&str>, who: &str) -> Result<Resumed, Refused> {
        self.handles.resume(
            Attempt {
                handle,
                token,
                principal: &user(who),
                origin: Some(&page()),
            },
            self.now,
        )
    }

    fn cause(&self, handle: &str, token: Option<&str>, who: &str) -> RefusalCause {
        self.resume(handle, token, who).unwrap_err().cause()
    }

    fn release(&self, lease: Lease) {
        assert_eq!(self.handles.release(lease, true, self.now), []);
    }

    /// Goes on with what another process has [`kept`].
    fn restore(&self, kept: String) -> Vec<SessionId> {
        let record = serde_json::from_str(&kept).unwrap();
        self.handles.adopt(record, self.now)
    }
}

/// What a store keeps of a session.
fn kept(bench: &Bench, handle: &str) -> String {
    let record = bench.handles.record(&HandleId::of(handle)).unwrap();
    serde_json::to_string(&record).unwrap()
}

fn user(name: &str) -> Principal {
    Principal::user(name, None)
}

fn page() -> Origin {
    Origin::from_config("https://app.example").unwrap()
}

#[test]
fn credentials_are_256_bits_of_base64url_and_do_not_print() {
    let bench = Bench::new(|_| {});
    let (one, two) = (bench.issue("ann"), bench.issue("ann"));
    for credential in [&one.handle, &one.token, &two.handle, &two.token] {
        assert_eq!(
            URL_SAFE_NO_PAD.decode(credential.expose()).unwrap().len(),
            32
        );
    }
    assert_ne!(one.handle.expose(), two.handle.expose());
    assert_ne!(one.token.expose(), two.token.expose());
    let printed = format!("{one:?} {:?}", bench.handles);
    assert!(!printed.contains(one.handle.expose()) && !printed.contains(one.token.expose()));
}

#[test]
fn the_handle_stays_and_the_token_turns() {
    let bench = Bench::new(|_| {});
    let (session, handle, first) = bench.waiting("ann");
    let mut tokens = vec![first];
    for _ in 0..3 {
        let resumed = bench
            .resume(&handle, tokens.last().map(String::as_str), "ann")
            .unwrap();
        assert_eq!(resumed.session_id, session);
        assert!(resumed.previous.is_none());
        assert!(!tokens.iter().any(|token| token == resumed.token.expose()));
        tokens.push(resumed.token.expose().to_owned());
        bench.release(resumed.lease);
    }
}

#[test]
fn a_client_without_tokens_resumes_by_handle_identity_and_origin() {
    let bench = Bench::new(|_| {});
    let (session, handle, _) = bench.waiting("ann");
    for _ in 0..3 {
        let resumed = bench.resume(&handle, None, "ann").unwrap();
        assert_eq!(resumed.session_id, session);
        bench.release(resumed.lease);
    }
}

#[test]
fn nobody_else_resumes_and_every_refusal_looks_the_same() {
    let mut bench = Bench::new(|_| {});
    let (session, handle, token) = bench.waiting("ann");
    let ann = user("ann");
    let elsewhere = Origin::from_config("https://app.example:8443").unwrap();
    let tenant = Principal::user("ann", Some("acme".into()));
    let service = Principal {
        kind: PrincipalKind::Service,
        ..ann.clone()
    };
    let attempts: [(&Principal, Option<&Origin>); 6] = [
        (&user("bob"), Some(&page())),
        (&tenant, Some(&page())),
        (&service, Some(&page())),
        (&Principal::anonymous(), Some(&page())),
        (&ann, Some(&elsewhere)),
        (&ann, None),
    ];
    let mut refusals = Vec::new();
    for (principal, origin) in attempts {
        for token in [None, Some(token.as_str()), Some("wrong")] {
            let attempt = Attempt {
                handle: &handle,
                token,
                principal,
                origin,
            };
            let refused = bench.handles.resume(attempt, bench.now).unwrap_err();
            assert_eq!(refused.cause(), RefusalCause::NotOwner(session));
            refusals.push(refused);
        }
    }
    for handle in [
        "",
        "x",
        "00000000-0000-4000-8000-000000000000",
        &handle[1..],
        &"A".repeat(100_000),
        &session.to_string(),
    ] {
        let refused = bench.resume(handle, None, "ann").unwrap_err();
        assert_eq!(refused.cause(), RefusalCause::Unknown);
        refusals.push(refused);
    }
    let refused = bench.resume(&handle, Some("wrong"), "ann").unwrap_err();
    assert_eq!(refused.cause(), RefusalCause::TokenWrong(session));
    refusals.push(refused);
    // None of this harmed the session.
    bench.release(bench.resume(&handle, Some(&token), "ann").unwrap().lease);
    refusals.push(bench.resume(&handle, None, "ann").unwrap_err());
    bench.now += 30 * MINUTE;
    refusals.push(bench.resume(&handle, Some(&token), "ann").unwrap_err());
    for refused in refusals {
        assert_eq!(refused.to_string(), "unknown session");
    }
}

#[test]
fn whoever_has_shown_a_token_must_show_one_ever_after() {
    let bench = Bench::new(|_| {});
    let (session, handle, token) = bench.waiting("ann");
    let resumed = bench.resume(&handle, Some(&token), "ann").unwrap();
    bench.release(resumed.lease);
    assert_eq!(
        bench.cause(&handle, None, "ann"),
        RefusalCause::TokenMissing(session)
    );
    assert!(
        bench
            .resume(&handle, Some(resumed.token.expose()), "ann")
            .is_ok()
    );
}

#[test]
fn tokens_can_be_demanded_of_everybody() {
    let bench = Bench::new(|config| config.require_token = true);
    let (session, handle, token) = bench.waiting("ann");
    assert_eq!(
        bench.cause(&handle, None, "ann"),
        RefusalCause::TokenMissing(session)
    );
    assert!(bench.resume(&handle, Some(&token), "ann").is_ok());
}

#[test]
fn in_open_mode_on_loopback_the_handle_is_enough() {
    let bench = Bench::new(|config| config.binding = Binding::HandleOnly);
    let (session, handle, _) = bench.waiting("ann");
    let attempt = Attempt {
        handle: &handle,
        token: None,
        principal: &Principal::anonymous(),
        origin: None,
    };
    assert_eq!(
        bench.handles.resume(attempt, bench.now).unwrap().session_id,
        session
    );
}

#[tokio::test]
async fn a_replayed_token_ends_the_session_for_both_sides() {
    let bench = Bench::new(|_| {});
    let (session, handle, stolen) = bench.waiting("ann");
    let mut resumed = bench.resume(&handle, Some(&stolen), "ann").unwrap();
    bench.handles.confirm(&resumed.lease);
    let refused = bench.resume(&handle, Some(&stolen), "ann").unwrap_err();
    assert_eq!(refused.cause(), RefusalCause::Replayed(session));
    assert_eq!(refused.ended(), Some(session));
    assert_eq!(resumed.lease.revoked().await, Revoked::Ended);
    assert_eq!(
        bench.cause(&handle, Some(resumed.token.expose()), "ann"),
        RefusalCause::Unknown
    );
    assert_eq!(bench.handles.release(resumed.lease, true, bench.now), []);
    assert_eq!(bench.handles.counts(), (0, 0));
}

#[test]
fn a_spent_token_is_good_for_a_lost_acknowledgement_only() {
    // Seconds after the rotation, confirmed, accepted.
    for (seconds, confirmed, accepted) in [
        (0, false, true),
        (59, false, true),
        (60, false, false),
        (1, true, false),
    ] {
        let mut bench = Bench::new(|_| {});
        let (session, handle, first) = bench.waiting("ann");
        let lost = bench.resume(&handle, Some(&first), "ann").unwrap();
        if confirmed {
            bench.handles.confirm(&lost.lease);
        }
        bench.release(lost.lease);
        bench.now += Duration::from_secs(seconds);
        let outcome = bench.resume(&handle, Some(&first), "ann");
        match outcome {
            Ok(_) => assert!(accepted),
            Err(refused) => {
                assert!(!accepted);
                assert_eq!(refused.cause(), RefusalCause::Replayed(session));
            }
        }
    }
}

#[test]
fn the_grace_still_catches_a_thief() {
    let bench = Bench::new(|_| {});
    let (session, handle, first) = bench.waiting("ann");
    let owner = bench.resume(&handle, Some(&first), "ann").unwrap();
    // A thief with the spent token is faster than the owner's next message, and takes the session.
    let thief = bench.resume(&handle, Some(&first), "ann").unwrap();
    assert!(owner.lease.is_revoked().is_some());
    // The owner comes back with a token that the thief's visit retired.
    assert_eq!(
        bench.cause(&handle, Some(owner.token.expose()), "ann"),
        RefusalCause::Replayed(session)
    );
    assert_eq!(thief.lease.is_revoked(), Some(Revoked::Ended));
}

#[test]
fn passing_a_token_over_retires_it() {
    let bench = Bench::new(|_| {});
    let (session, handle, first) = bench.waiting("ann");
    bench.release(bench.resume(&handle, None, "ann").unwrap().lease);
    assert_eq!(
        bench.cause(&handle, Some(&first), "ann"),
        RefusalCause::Replayed(session)
    );
}

#[test]
fn very_old_tokens_are_merely_wrong() {
    let bench = Bench::new(|_| {});
    let (session, handle, first) = bench.waiting("ann");
    for _ in 0..=RETIRED_TOKENS {
        bench.release(bench.resume(&handle, None, "ann").unwrap().lease);
    }
    assert_eq!(
        bench.cause(&handle, Some(&first), "ann"),
        RefusalCause::TokenWrong(session)
    );
}

#[tokio::test]
async fn resuming_detaches_the_previous_owner_first() {
    let bench = Bench::new(|_| {});
    let issued = bench.issue("ann");
    let handle = issued.handle.expose().to_owned();
    let mut old = issued.lease;
    assert_eq!(old.is_revoked(), None);
    let resumed = bench.resume(&handle, None, "ann").unwrap();
    assert_eq!(resumed.session_id, old.session_id());
    assert_eq!(old.revoked().await, Revoked::TakenOver);
    let detachment = resumed.previous.unwrap();
    let mut completed = std::pin::pin!(detachment.completed());
    assert!(futures_poll(completed.as_mut()).is_pending());
    // The loser's release changes nothing and lets go.
    assert_eq!(bench.handles.release(old, false, bench.now), []);
    assert!(futures_poll(completed.as_mut()).is_ready());
    assert_eq!(bench.handles.counts(), (1, 0));
    assert_eq!(resumed.lease.is_revoked(), None);
    assert_eq!(bench.handles.release(resumed.lease, true, bench.now), []);
    assert_eq!(bench.handles.counts(), (0, 1));
}

fn futures_poll<F: Future>(future: std::pin::Pin<&mut F>) -> std::task::Poll<F::Output> {
    future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
}

#[test]
fn a_stale_lease_neither_confirms_nor_releases() {
    let bench = Bench::new(|_| {});
    let (_, handle, first) = bench.waiting("ann");
    let stale = bench.resume(&handle, Some(&first), "ann").unwrap();
    let again = bench.resume(&handle, Some(&first), "ann").unwrap();
    bench.handles.confirm(&stale.lease);
    assert!(
        bench.resume(&handle, Some(&first), "ann").is_ok(),
        "the grace still holds"
    );
    assert_eq!(bench.handles.release(again.lease, false, bench.now), []);
    assert_eq!(bench.handles.counts(), (1, 0));
}

#[test]
fn sessions_wait_as_long_as_the_ttl_and_not_while_connected() {
    let mut bench = Bench::new(|_| {});
    let connected = bench.issue("ann");
    let (early, early_handle, _) = bench.waiting("bob");
    bench.now += 29 * MINUTE;
    let (late, late_handle, _) = bench.waiting("cy");
    assert_eq!(bench.handles.sweep(bench.now), []);
    bench.now += MINUTE;
    // Expired is expired, swept or not.
    assert_eq!(
        bench.cause(&early_handle, None, "bob"),
        RefusalCause::Expired(early)
    );
    assert_eq!(
        bench.cause(&early_handle, None, "bob"),
        RefusalCause::Unknown
    );
    assert_eq!(bench.handles.counts(), (1, 1));
    bench.now += 29 * MINUTE;
    assert_eq!(bench.handles.sweep(bench.now), [late]);
    assert_eq!(bench.cause(&late_handle, None, "cy"), RefusalCause::Unknown);
    assert_eq!(connected.lease.is_revoked(), None);
    assert_eq!(bench.handles.counts(), (1, 0));
}

#[test]
fn a_session_that_is_not_kept_is_gone_at_once() {
    let bench = Bench::new(|_| {});
    let issued = bench.issue("ann");
    let handle = issued.handle.expose().to_owned();
    assert_eq!(
        bench.handles.release(issued.lease, false, bench.now),
        [issued.session_id]
    );
    assert_eq!(bench.cause(&handle, None, "ann"), RefusalCause::Unknown);
    assert_eq!(bench.handles.counts(), (0, 0));
}

#[test]
fn connections_that_die_without_a_word_are_found() {
    let mut bench = Bench::new(|_| {});
    let issued = bench.issue("ann");
    let handle = issued.handle.expose().to_owned();
    drop(issued.lease);
    assert_eq!(bench.handles.sweep(bench.now), []);
    assert_eq!(bench.handles.counts(), (0, 1));
    bench.release(bench.resume(&handle, None, "ann").unwrap().lease);
    bench.now += 30 * MINUTE;
    assert_eq!(bench.handles.sweep(bench.now), [issued.session_id]);
}

#[test]
fn the_caps_push_out_whoever_has_waited_longest() {
    let bench = Bench::new(|config| {
        config.max_waiting = 4;
        config.max_waiting_per_principal = 2;
    });
    let first = bench.waiting("ann").0;
    bench.waiting("bob");
    bench.waiting("ann");
    let third = bench.issue("ann");
    assert_eq!(bench.handles.release(third.lease, true, bench.now), [first]);
    // Anonymous callers share no cap, only the global one.
    let anonymous = |_| {
        let issued = bench
            .handles
            .issue(SessionId::random(), &Principal::anonymous(), None);
        (
            issued.session_id,
            bench.handles.release(issued.lease, true, bench.now),
        )
    };
    let dropped: Vec<_> = (0..5).map(anonymous).collect();
    assert_eq!(dropped[0].1, []);
    assert_eq!(dropped[4].1, [dropped[0].0]);
    assert_eq!(bench.handles.counts(), (0, 4));
    assert!(bench.handles.lock().waiting_by_principal.is_empty());
}

#[tokio::test]
async fn an_operator_can_end_a_session() {
    let bench = Bench::new(|_| {});
    let mut issued = bench.issue("ann");
    assert!(bench.handles.end(issued.session_id));
    assert!(!bench.handles.end(issued.session_id));
    assert_eq!(issued.lease.revoked().await, Revoked::Ended);
}

#[derive(Clone, Debug)]
enum Step {
    Issue {
        who: u8,
    },
    Resume {
        session: usize,
        token: Option<usize>,
        who: u8,
    },
    Release {
        lease: usize,
        keep: bool,
    },
    Drop {
        lease: usize,
    },
    Confirm {
        lease: usize,
    },
    Sweep {
        seconds: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..3u8).prop_map(|who| Step::Issue { who }),
        (any::<usize>(), proptest::option::of(any::<usize>()), 0..3u8).prop_map(
            |(session, token, who)| Step::Resume {
                session,
                token,
                who
            }
        ),
        (any::<usize>(), any::<bool>()).prop_map(|(lease, keep)| Step::Release { lease, keep }),
        any::<usize>().prop_map(|lease| Step::Drop { lease }),
        any::<usize>().prop_map(|lease| Step::Confirm { lease }),
        (0..1_200u64).prop_map(|seconds| Step::Sweep { seconds }),
    ]
}

proptest! {
    /// Whatever happens in whatever order: one owner per session, nobody but the owner resumes, the dead stay dead,
    /// the queues agree with the entries and the caps hold.
    #[test]
    fn a_session_has_one_owner(steps in proptest::collection::vec(step(), 1..60)) {
        let mut bench = Bench::new(|config| {
            config.max_waiting = 6;
            config.max_waiting_per_principal = 3;
        });
        struct Known { id: SessionId, who: u8, handle: String, tokens: Vec<String>, dead: bool }
        let mut known: Vec<Known> = Vec::new();
        let mut leases: Vec<Lease> = Vec::new();
        for step in steps {
            let mut gone = Vec::new();
            match step {
                Step::Issue { who } => {
                    let issued = bench.issue(&who.to_string());
                    known.push(Known {
                        id: issued.session_id,
                        who,
                        handle: issued.handle.expose().to_owned(),
                        tokens: vec![issued.token.expose().to_owned()],
                        dead: false,
                    });
                    leases.push(issued.lease);
                }
                Step::Resume { session, token, who } if !known.is_empty() => {
                    let index = session % known.len();
                    let token = token.map(|token| known[index].tokens[token % known[index].tokens.len()].clone());
                    match bench.resume(&known[index].handle, token.as_deref(), &who.to_string()) {
                        Ok(resumed) => {
                            prop_assert!(!known[index].dead);
                            prop_assert_eq!(known[index].who, who);
                            prop_assert_eq!(known[index].id, resumed.session_id);
                            known[index].tokens.push(resumed.token.expose().to_owned());
                            leases.push(resumed.lease);
                        }
                        Err(refused) => gone.extend(refused.ended()),
                    }
                }
                Step::Release { lease, keep } if !leases.is_empty() => {
                    let lease = leases.swap_remove(lease % leases.len());
                    gone = bench.handles.release(lease, keep, bench.now);
                }
                Step::Drop { lease } if !leases.is_empty() => {
                    leases.swap_remove(lease % leases.len());
                }
                Step::Confirm { lease } if !leases.is_empty() => bench.handles.confirm(&leases[lease % leases.len()]),
                Step::Sweep { seconds } => {
                    bench.now += Duration::from_secs(seconds);
                    gone = bench.handles.sweep(bench.now);
                }
                _ => {}
            }
            for session in &mut known {
                session.dead |= gone.contains(&session.id);
                let owners = leases.iter().filter(|lease| lease.session_id() == session.id && lease.is_revoked().is_none());
                prop_assert!(owners.count() <= usize::from(!session.dead));
            }
            let state = bench.handles.lock();
            let alive = known.iter().filter(|session| !session.dead).count();
            prop_assert_eq!(state.entries.len(), alive);
            let queued = state.entries.values().filter(|entry| matches!(entry.hold, Hold::Waiting(_))).count();
            prop_assert_eq!(state.waiting.len(), queued);
            prop_assert_eq!(state.waiting_by_principal.values().map(BTreeMap::len).sum::<usize>(), queued);
            prop_assert!(state.waiting.len() <= 6);
            prop_assert!(state.waiting_by_principal.values().all(|queue| (1..=3).contains(&queue.len())));
        }
    }
}

#[test]
fn e3_the_waiting_sessions_of_one_caller_end_together() {
    let bench = Bench::new(|_| {});
    let (first, _, _) = bench.waiting("ann");
    let (second, handle, _) = bench.waiting("ann");
    let (_, other, _) = bench.waiting("bob");
    let attached = bench.issue("ann");
    assert_eq!(bench.handles.end_waiting(&user("ann")), [first, second]);
    assert_eq!(bench.cause(&handle, None, "ann"), RefusalCause::Unknown);
    assert_eq!(attached.lease.is_revoked(), None);
    assert!(bench.resume(&other, None, "bob").is_ok());
    assert_eq!(bench.handles.end_waiting(&user("ann")), []);
    assert_eq!(bench.handles.end_waiting(&Principal::anonymous()), []);
}

/// B7 with the stock web client: the ticket that opened the session, spent.
mod b7_spent_tickets {
    use super::*;
    use crate::auth::{
        Credential, Method,
        ticket::{MemoryTickets, TicketRequest, Tickets},
    };
    use std::{sync::Arc, time::UNIX_EPOCH};

    struct Door {
        bench: Bench,
        tickets: Tickets,
    }

    impl Door {
        fn new() -> Self {
            Self {
                bench: Bench::new(|_| {}),
                tickets: Tickets::new(Arc::new(MemoryTickets::default())),
            }
        }

        /// Somebody with a fresh ticket.
        async fn arrive(&self, who: &str) -> Principal {
            let wall = UNIX_EPOCH + MINUTE;
            let caller = user(who).with_credential(Credential::default());
            let page = page();
            let request = TicketRequest::new(&caller).origin(Some(&page));
            let ticket = self.tickets.mint(request, wall).await.unwrap();
            let here = "192.0.2.1".parse().unwrap();
            let redeemed = self
                .tickets
                .redeem(ticket.expose(), Some(&page), here, wall);
            redeemed.await.unwrap()
        }

        fn open(&self, principal: &Principal) -> (SessionId, String) {
            let handles = &self.bench.handles;
            let issued = handles.issue(SessionId::random(), principal, Some(&page()));
            let handle = issued.handle.expose().to_owned();
            assert_eq!(handles.release(issued.lease, true, self.bench.now), []);
            (issued.session_id, handle)
        }

        fn spent(&self, principal: &Principal, origin: Option<&Origin>) -> Option<SpentTicket> {
            let id = principal.credential.ticket.unwrap();
            self.bench.handles.spent_ticket(&id, origin, self.bench.now)
        }

        fn resume(
            &self,
            ticket: &SpentTicket,
            handle: &str,
            origin: Option<&Origin>,
        ) -> Result<Resumed, RefusalCause> {
            let handles = &self.bench.handles;
            handles
                .resume_spent(ticket, handle, None, origin, self.bench.now)
                .map_err(|refused| refused.cause())
        }
    }

    #[tokio::test]
    async fn it_takes_up_its_own_session_again_and_again() {
        let mut door = Door::new();
        let ann = door.arrive("ann").await;
        let (session_id, handle) = door.open(&ann);
        for _ in 0..3 {
            let ticket = door.spent(&ann, Some(&page())).unwrap();
            assert_eq!(ticket.principal(), &ann);
            let resumed = door.resume(&ticket, &handle, Some(&page())).unwrap();
            assert_eq!(resumed.session_id, session_id);
            door.bench.release(resumed.lease);
        }
        door.bench.now += Duration::from_secs(30 * 60);
        assert!(
            door.spent(&ann, Some(&page())).is_none(),
            "the session is over"
        );
    }

    #[tokio::test]
    async fn alone_it_gets_nothing() {
        let door = Door::new();
        let (ann, bob) = (door.arrive("ann").await, door.arrive("ann").await);
        assert!(door.spent(&ann, Some(&page())).is_none(), "no session yet");
        let (_, handle) = door.open(&ann);
        let (other_id, other) = door.open(&bob);
        let ticket = door.spent(&ann, Some(&page())).unwrap();
        // Another session of the same caller, from the same page.
        assert_eq!(
            door.resume(&ticket, &other, Some(&page())).unwrap_err(),
            RefusalCause::NotOwner(other_id)
        );
        for wrong in ["", "x", &handle[1..]] {
            let cause = door.resume(&ticket, wrong, Some(&page())).unwrap_err();
            assert_eq!(cause, RefusalCause::Unknown);
        }
        let evil = Origin::from_config("https://evil.example").unwrap();
        for origin in [Some(&evil), None] {
            assert!(door.spent(&ann, origin).is_none());
            assert!(door.resume(&ticket, &handle, origin).is_err());
        }
        assert!(door.resume(&ticket, &handle, Some(&page())).is_ok());
    }

    #[tokio::test]
    async fn once_tokens_are_used_they_are_needed() {
        let door = Door::new();
        let ann = door.arrive("ann").await;
        let issued = door
            .bench
            .handles
            .issue(SessionId::random(), &ann, Some(&page()));
        let (handle, token) = (issued.handle, issued.token);
        door.bench.release(issued.lease);
        let resumed = door
            .bench
            .resume(handle.expose(), Some(token.expose()), "ann")
            .unwrap();
        let session_id = resumed.session_id;
        door.bench.release(resumed.lease);
        let ticket = door.spent(&ann, Some(&page())).unwrap();
        assert_eq!(
            door.resume(&ticket, handle.expose(), Some(&page()))
                .unwrap_err(),
            RefusalCause::TokenMissing(session_id)
        );
    }

    #[tokio::test]
    async fn a_fresh_ticket_that_resumes_takes_its_place() {
        let door = Door::new();
        let first = door.arrive("ann").await;
        let (session_id, handle) = door.open(&first);
        let second = door.arrive("ann").await;
        let page = page();
        let attempt = Attempt {
            handle: &handle,
            token: None,
            principal: &second,
            origin: Some(&page),
        };
        let resumed = door.bench.handles.resume(attempt, door.bench.now).unwrap();
        door.bench.release(resumed.lease);
        assert!(door.spent(&first, Some(&page)).is_none());
        let ticket = door.spent(&second, Some(&page)).unwrap();
        let resumed = door.resume(&ticket, &handle, Some(&page)).unwrap();
        assert_eq!(resumed.session_id, session_id);
        // Nothing is left of a session that ended.
        assert!(door.bench.handles.end(session_id));
        assert!(door.spent(&second, Some(&page)).is_none());
    }

    #[tokio::test]
    async fn it_leads_back_to_a_session_of_another_process() {
        let door = Door::new();
        let ann = door.arrive("ann").await;
        let (session_id, handle) = door.open(&ann);
        let elsewhere = Door::new();
        elsewhere.bench.restore(kept(&door.bench, &handle));
        let ticket = elsewhere.spent(&ann, Some(&page())).unwrap();
        assert_eq!(ticket.principal(), &ann);
        assert_eq!(ticket.principal().credential.method, Method::Ticket);
        let resumed = elsewhere.resume(&ticket, &handle, Some(&page())).unwrap();
        assert_eq!(resumed.session_id, session_id);
        // A ticket that was forgotten here leads nowhere.
        let second = elsewhere.arrive("ann").await;
        let (_, other) = elsewhere.open(&second);
        elsewhere.bench.handles.forget(&HandleId::of(&other));
        assert!(elsewhere.spent(&second, Some(&page())).is_none());
    }
}

/// B7 across processes: what one has kept, another goes on with.
mod b7_records {
    use super::*;

    #[test]
    fn the_rules_hold_after_a_restart() {
        let bench = Bench::new(|_| {});
        let (session_id, handle, first) = bench.waiting("ann");
        let resumed = bench.resume(&handle, Some(&first), "ann").unwrap();
        let second = resumed.token.expose().to_owned();
        let text = kept(&bench, &handle);
        for secret in [&handle, &first, &second] {
            assert!(!text.contains(secret.as_str()), "digests only");
        }
        let restarted = || {
            let bench = Bench::new(|_| {});
            assert_eq!(bench.restore(text.clone()), []);
            bench
        };
        assert_eq!(
            restarted()
                .resume(&handle, Some(&second), "ann")
                .unwrap()
                .session_id,
            session_id
        );
        // The acknowledgement with the second may have been lost with the process.
        assert!(restarted().resume(&handle, Some(&first), "ann").is_ok());
        for (token, who, cause) in [
            (None, "ann", RefusalCause::TokenMissing(session_id)),
            (Some("x"), "ann", RefusalCause::TokenWrong(session_id)),
            (Some(&*second), "bob", RefusalCause::NotOwner(session_id)),
        ] {
            assert_eq!(restarted().cause(&handle, token, who), cause);
        }
        let bench = restarted();
        let third = bench.resume(&handle, Some(&second), "ann").unwrap();
        let text = kept(&bench, &handle);
        drop(third);
        let mut bench = Bench::new(|_| {});
        bench.restore(text);
        bench.now += ResumeConfig::default().lost_ack_grace;
        assert_eq!(
            bench.cause(&handle, Some(&first), "ann"),
            RefusalCause::Replayed(session_id),
            "an old copy is one here, too"
        );
        assert_eq!(
            bench.handles.record(&HandleId::of(&handle)).map(|_| ()),
            None
        );
    }

    #[test]
    fn what_another_process_did_since_replaces_what_is_known() {
        let bench = Bench::new(|_| {});
        let issued = bench.issue("ann");
        let handle = issued.handle.expose().to_owned();
        let elsewhere = Bench::new(|_| {});
        elsewhere.restore(kept(&bench, &handle));
        let resumed = elsewhere
            .resume(&handle, Some(issued.token.expose()), "ann")
            .unwrap();
        // And back again, while the first connection still thinks that it owns the session.
        assert_eq!(bench.restore(kept(&elsewhere, &handle)), []);
        assert_eq!(issued.lease.is_revoked(), Some(Revoked::Superseded));
        assert_eq!(bench.handles.counts(), (0, 1));
        let again = bench.resume(&handle, Some(resumed.token.expose()), "ann");
        assert_eq!(again.unwrap().session_id, issued.session_id);
        // The stale lease gives nothing back.
        assert_eq!(bench.handles.release(issued.lease, true, bench.now), []);
    }

    #[test]
    fn the_caps_hold_for_what_is_taken_up() {
        let full = Bench::new(|config| config.max_waiting = 2);
        let sessions: Vec<_> = (0..3)
            .map(|_| {
                let bench = Bench::new(|_| {});
                let (session_id, handle, _) = bench.waiting("ann");
                (session_id, kept(&bench, &handle))
            })
            .collect();
        assert_eq!(full.restore(sessions[0].1.clone()), []);
        assert_eq!(full.restore(sessions[1].1.clone()), []);
        assert_eq!(
            full.restore(sessions[1].1.clone()),
            [],
            "it is there already"
        );
        assert_eq!(full.restore(sessions[2].1.clone()), [sessions[0].0]);
    }
}
