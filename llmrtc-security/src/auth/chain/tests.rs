//! B4, H8: the ways in, their order and their one answer.

use std::net::SocketAddr;

use llmrtc_core::{id::SessionId, redact::Secret, testing::ManualClock};

use super::*;
use crate::auth::{
    api_key,
    origin::Origin,
    resume::ResumeConfig,
    revocation::Revocation,
    ticket::{MemoryTickets, StoreUnavailable, TicketId, TicketRecord, TicketRequest, TicketStore},
};

const HOUR: Duration = Duration::from_secs(3600);

struct Door {
    clock: ManualClock,
    key: Secret,
    sessions: Arc<SessionHandles>,
    revocations: Arc<Revocations>,
    chain: Chain,
}

fn peer() -> SocketAddr {
    "192.0.2.1:5000".parse().unwrap()
}

fn page() -> Origin {
    Origin::from_config("https://app.example").unwrap()
}

impl Door {
    fn new(change: impl FnOnce(Chain) -> Chain) -> Self {
        let clock = ManualClock::new();
        let (key, digest) = api_key::generate();
        let mut keys = ApiKeys::new();
        keys.insert_digest(&digest, Principal::service("ci", None))
            .unwrap();
        let sessions = Arc::new(SessionHandles::new(ResumeConfig::default()));
        let revocations = Arc::new(Revocations::new(HOUR));
        let tickets = Tickets::new(Arc::new(MemoryTickets::default()));
        let chain = Chain::new(Arc::new(clock.clone()))
            .api_keys(keys)
            .tickets(tickets, Some(sessions.clone()))
            .revocations(revocations.clone());
        Self {
            clock,
            key,
            sessions,
            revocations,
            chain: change(chain),
        }
    }

    async fn ticket(&self) -> Secret {
        let caller = Principal::user("ann", None);
        let page = page();
        let request = TicketRequest::new(&caller).origin(Some(&page));
        let tickets = self.chain.ticket_office().unwrap();
        tickets.mint(request, self.clock.wall()).await.unwrap()
    }
}

fn granted(access: Result<Access, Denied>) -> Principal {
    match access {
        Ok(Access::Granted(principal)) => principal,
        other => panic!("{other:?}"),
    }
}

fn reason(access: Result<Access, Denied>) -> &'static str {
    let denied = access.unwrap_err();
    assert_eq!(denied.rejection, Rejection::Unauthenticated, "{denied:?}");
    denied.reason
}

#[tokio::test]
async fn b4_every_way_in_leads_in() {
    let door = Door::new(|chain| chain);
    let (none, page) = (Credentials::none(peer()), page());
    let header = format!("bEARER {}", door.key.expose());
    let service = door.chain.admit(&none.authorization(Some(&header))).await;
    assert_eq!(granted(service), Principal::service("ci", None));

    let protocol = format!("bearer.{}", door.key.expose());
    let protocols = ["llmrtc.v1", &protocol];
    let service = door.chain.admit(&none.subprotocols(&protocols)).await;
    assert_eq!(granted(service), Principal::service("ci", None));

    let ticket = door.ticket().await;
    let presented = none.origin(Some(&page)).query_ticket(Some(ticket.expose()));
    let user = granted(door.chain.admit(&presented).await);
    assert_eq!(user, Principal::user("ann", None));
    assert_eq!(user.credential.ticket, TicketId::of(ticket.expose()));

    let deferred = door.chain.admit(&none).await.unwrap();
    assert!(matches!(deferred, Access::Deferred { within } if within == Duration::from_secs(5)));
    let message = Presented::Token(door.key.expose());
    let service = door.chain.admit_message(message, &none).await;
    assert_eq!(granted(service), Principal::service("ci", None));
    let ticket = door.ticket().await;
    let message = Presented::Ticket(ticket.expose());
    let user = door
        .chain
        .admit_message(message, &none.origin(Some(&page)))
        .await;
    assert_eq!(granted(user), Principal::user("ann", None));
}

#[tokio::test]
async fn b4_the_first_that_is_presented_decides() {
    let door = Door::new(|chain| chain.query_token(true));
    let none = Credentials::none(peer());
    let header = format!("Bearer {}", door.key.expose());
    let protocol = format!("bearer.{}", door.key.expose());
    let good = none
        .authorization(Some(&header))
        .subprotocols(std::slice::from_ref(&*Box::leak(Box::new(&*protocol))));
    assert!(door.chain.admit(&good).await.is_ok());
    // Each is made worse by one that comes before it.
    let outcome = door.chain.admit(&good.query_ticket(Some("x"))).await;
    assert_eq!(reason(outcome), "ticket_malformed");
    let outcome = door
        .chain
        .admit(&good.authorization(Some("Bearer x")))
        .await;
    assert_eq!(reason(outcome), "jwt_malformed");
    let outcome = good.authorization(None).query_token(Some("x"));
    assert_eq!(reason(door.chain.admit(&outcome).await), "jwt_malformed");
}

#[tokio::test]
async fn h8_every_wrong_credential_gets_one_answer() {
    let door = Door::new(|chain| chain);
    let none = Credentials::none(peer());
    let long = "x".repeat(100_000);
    let unknown = "A".repeat(43);
    for header in [
        "",
        "Bearer",
        "Bearer ",
        "Bearer x",
        "Basic eDp5",
        "bearer\tx",
        &long,
        "Bearer a.b.c",
    ] {
        let outcome = none.authorization(Some(header));
        reason(door.chain.admit(&outcome).await);
        let outcome = door.chain.authenticate(&outcome).await;
        assert_eq!(outcome, Err(Rejection::Unauthenticated));
    }
    for ticket in ["", "x", &long, &unknown] {
        reason(door.chain.admit(&none.query_ticket(Some(ticket))).await);
        let message = Presented::Ticket(ticket);
        reason(door.chain.admit_message(message, &none).await);
        reason(
            door.chain
                .admit_message(Presented::Token(ticket), &none)
                .await,
        );
    }
    let outcome = door
        .chain
        .admit(&none.query_token(Some(door.key.expose())))
        .await;
    assert_eq!(reason(outcome), "query_token_disabled");
    // A request without credentials is refused like one with wrong ones.
    let outcome = door.chain.authenticate(&none).await;
    assert_eq!(outcome, Err(Rejection::Unauthenticated));
}

#[tokio::test]
async fn b4_ways_can_be_closed() {
    let door = Door::new(|chain| chain.first_message(None).subprotocol(false));
    let none = Credentials::none(peer());
    assert_eq!(reason(door.chain.admit(&none).await), "nothing_presented");
    let protocol = format!("bearer.{}", door.key.expose());
    let outcome = door.chain.admit(&none.subprotocols(&[&protocol])).await;
    assert_eq!(reason(outcome), "subprotocol_disabled");
    // A ticket is no token and opens no plain request.
    let ticket = door.ticket().await;
    let header = format!("Bearer {}", ticket.expose());
    let outcome = door
        .chain
        .authenticate(&none.authorization(Some(&header)))
        .await;
    assert_eq!(outcome, Err(Rejection::Unauthenticated));
    // A key has no end, so it has no place in a URL.
    let door = Door::new(|chain| chain.query_token(true));
    let outcome = door
        .chain
        .admit(&none.query_token(Some(door.key.expose())))
        .await;
    assert_eq!(reason(outcome), "query_token_too_long");
}

#[tokio::test]
async fn b7_a_spent_ticket_leads_back_to_its_session_and_nowhere_else() {
    let door = Door::new(|chain| chain);
    let page = page();
    let ticket = door.ticket().await;
    let presented = Credentials::none(peer())
        .origin(Some(&page))
        .query_ticket(Some(ticket.expose()));
    let principal = granted(door.chain.admit(&presented).await);
    // No session was opened with it yet.
    assert_eq!(reason(door.chain.admit(&presented).await), "ticket_unknown");

    let issued = door
        .sessions
        .issue(SessionId::random(), &principal, Some(&page));
    let Ok(Access::ResumeOnly { ticket, within }) = door.chain.admit(&presented).await else {
        panic!("the session lives");
    };
    assert_eq!(
        (ticket.principal(), within),
        (&principal, Duration::from_secs(5))
    );
    let resumed = door.sessions.resume_spent(
        &ticket,
        issued.handle.expose(),
        None,
        Some(&page),
        door.clock.now(),
    );
    assert_eq!(resumed.unwrap().session_id, issued.session_id);

    let evil = Origin::from_config("https://evil.example").unwrap();
    let outcome = door.chain.admit(&presented.origin(Some(&evil))).await;
    assert_eq!(reason(outcome), "ticket_unknown");

    let revocation = Revocation::of(&principal, door.clock.wall());
    door.revocations
        .revoke(revocation, door.clock.wall())
        .unwrap();
    assert_eq!(reason(door.chain.admit(&presented).await), "revoked");

    door.sessions.end(issued.session_id);
    assert_eq!(reason(door.chain.admit(&presented).await), "ticket_unknown");
}

#[tokio::test]
async fn b4_a_ticket_store_that_is_down_is_a_503() {
    struct Down;
    #[async_trait]
    impl TicketStore for Down {
        async fn put(
            &self,
            _: &TicketId,
            _: &TicketRecord,
            _: SystemTime,
        ) -> Result<(), StoreUnavailable> {
            Err(StoreUnavailable::full())
        }
        async fn take(
            &self,
            _: &TicketId,
            _: SystemTime,
        ) -> Result<Option<TicketRecord>, StoreUnavailable> {
            Err(StoreUnavailable::new("connection refused"))
        }
    }
    let door = Door::new(|chain| chain.tickets(Tickets::new(Arc::new(Down)), None));
    let ticket = "A".repeat(43);
    let presented = Credentials::none(peer()).query_ticket(Some(&ticket));
    let denied = door.chain.admit(&presented).await.unwrap_err();
    assert_eq!(denied.rejection.status(), 503);
    assert!(denied.rejection.retry_after_secs().is_some());
}

#[tokio::test]
async fn c1_a_client_certificate_is_an_identity_where_the_operator_says_so() {
    let none = Credentials::none(peer());
    let shown = none.certificate(Some("spiffe://example/shop"));
    let off = Door::new(|chain| chain);
    let access = off.chain.admit(&shown).await.unwrap();
    assert!(matches!(access, Access::Deferred { .. }));
    assert!(off.chain.authenticate(&shown).await.is_err());

    let on = Door::new(|chain| chain.certificates(true));
    let shop = granted(on.chain.admit(&shown).await);
    assert_eq!(shop, Principal::service("spiffe://example/shop", None));
    assert_eq!(shop.credential.method, Method::Certificate);
    assert_eq!(on.chain.authenticate(&shown).await.unwrap(), shop);
    assert!(on.chain.authenticate(&none).await.is_err());
    // A credential that is shown beside it decides, and a wrong one is not made up for.
    let wrong = shown.authorization(Some("Bearer nonsense"));
    assert!(on.chain.admit(&wrong).await.is_err());
    let now = on.clock.wall();
    on.revocations
        .revoke(Revocation::of(&shop, now), now)
        .unwrap();
    assert_eq!(reason(on.chain.admit(&shown).await), "revoked");
}
