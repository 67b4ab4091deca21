//! Who gets a socket. Everything is decided at the HTTP upgrade, before a session costs anything: shutdown, Origin,
//! capacity, authentication, in that order.

use std::{
    borrow::Cow,
    collections::HashMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::http::{HeaderMap, Uri, header};
use llmrtc_security::auth::{
    Access, Authenticator, Credentials, Denied, Method, Presented, Principal, Rejection,
    origin::{Origin, OriginPolicy},
};

use crate::shutdown::{Phase, Shutdown};

/// When a refused client may try again: long enough to breathe, short enough for a person to wait.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Most sockets that have not shown yet who they are. Apart from the places of callers, so that a crowd of silent ones
/// keeps nobody out; each costs a few kilobytes for at most five seconds.
const MAX_UNAUTHENTICATED: usize = 8_192;
/// The same of one address that is not loopback.
const MAX_UNAUTHENTICATED_PER_ADDRESS: usize = 16;

/// The rules at the door.
#[derive(Clone)]
pub struct Admission {
    origins: OriginPolicy,
    authenticator: Arc<dyn Authenticator>,
    slots: Arc<Slots>,
    /// Of those who have not shown yet who they are.
    waiting: Arc<Slots>,
    shutdown: Shutdown,
}

/// The name in the client certificate that a connection was verified with. Found in the extensions of its requests.
#[derive(Clone)]
pub struct ClientCertificate(pub Arc<str>);

impl std::fmt::Debug for ClientCertificate {
    /// Names are somebody's.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClientCertificate")
    }
}

/// A caller who may open a socket. Found in the extensions of the upgrade request.
#[derive(Clone, Debug)]
pub struct Admitted {
    /// What the socket may do.
    pub access: Access,
    /// The page it comes from; absent for clients that are no browsers.
    pub origin: Option<Origin>,
    /// The other end of the connection.
    pub peer: SocketAddr,
    /// Its place among the connections. Keep it as long as the connection.
    pub slot: Arc<Slot>,
}

/// A caller who may talk.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Who it is.
    pub principal: Principal,
    /// The page it comes from; absent for clients that are no browsers.
    pub origin: Option<Origin>,
    /// The other end of the connection.
    pub peer: SocketAddr,
    /// Its place among the connections.
    pub slot: Arc<Slot>,
}

impl std::fmt::Debug for Admission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admission")
            .field("origins", &self.origins)
            .field("slots", &self.slots)
            .finish_non_exhaustive()
    }
}

impl Admission {
    /// The rules: pages, callers, and how many connections there may be in all and per address.
    pub fn new(
        origins: OriginPolicy,
        authenticator: Arc<dyn Authenticator>,
        max_connections: usize,
        max_connections_per_address: usize,
        shutdown: Shutdown,
    ) -> Self {
        let waiting_per_address = max_connections_per_address.max(MAX_UNAUTHENTICATED_PER_ADDRESS);
        Self {
            origins,
            authenticator,
            slots: Slots::new(max_connections, max_connections_per_address),
            waiting: Slots::new(MAX_UNAUTHENTICATED, waiting_per_address),
            shutdown,
        }
    }

    /// Decides about one upgrade.
    ///
    /// # Errors
    /// The status to refuse it with, and the reason for the audit log.
    ///
    /// # Cancel safety
    /// The place is given back; a single-use credential may be spent.
    pub async fn admit(
        &self,
        headers: &HeaderMap,
        uri: &Uri,
        peer: SocketAddr,
        certificate: Option<&ClientCertificate>,
    ) -> Result<Admitted, Denied> {
        if self.shutdown.phase() != Phase::Running {
            let rejection = Rejection::Unavailable {
                retry_after: RETRY_AFTER,
            };
            return Err(Denied::new(rejection, None, "shutting_down"));
        }
        let origin = self.origin(headers)?;
        // Before the credentials are looked at: a full server spends no ticket.
        let mut slot = Slots::take(&self.slots, peer.ip())?;
        let presented = Presentation::of(headers, uri);
        let name = certificate.map(|certificate| &*certificate.0);
        let credentials = presented
            .credentials(peer, origin.as_ref())
            .certificate(name);
        let access = self.authenticator.admit(&credentials).await?;
        if matches!(access, Access::Deferred { .. }) {
            slot = Slots::take(&self.waiting, peer.ip())?;
        }
        Ok(Admitted {
            access,
            origin,
            peer,
            slot: Arc::new(slot),
        })
    }

    /// Decides about the first message of a socket whose access was deferred.
    ///
    /// # Errors
    /// As [`admit`](Self::admit).
    ///
    /// # Cancel safety
    /// As [`admit`](Self::admit).
    pub async fn admit_message(
        &self,
        presented: Presented<'_>,
        admitted: &Admitted,
    ) -> Result<Admitted, Denied> {
        let credentials = Credentials::none(admitted.peer).origin(admitted.origin.as_ref());
        let slot = Arc::new(Slots::take(&self.slots, admitted.peer.ip())?);
        let access = self
            .authenticator
            .admit_message(presented, &credentials)
            .await?;
        Ok(Admitted {
            access,
            slot,
            ..admitted.clone()
        })
    }

    /// Decides about a credential that is to replace the one of a running session: whose it is.
    ///
    /// # Errors
    /// As [`admit`](Self::admit).
    ///
    /// # Cancel safety
    /// As [`admit`](Self::admit).
    pub async fn refresh(
        &self,
        presented: Presented<'_>,
        caller: &Caller,
    ) -> Result<Principal, Denied> {
        let credentials = Credentials::none(caller.peer).origin(caller.origin.as_ref());
        match self
            .authenticator
            .admit_message(presented, &credentials)
            .await?
        {
            Access::Granted(principal) => Ok(principal),
            _ => Err(Denied::new(
                Rejection::Unauthenticated,
                None,
                "not_a_fresh_credential",
            )),
        }
    }

    /// Decides about one request that is no upgrade.
    ///
    /// # Errors
    /// The status to refuse it with.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn caller(
        &self,
        headers: &HeaderMap,
        uri: &Uri,
        peer: SocketAddr,
        origin: Option<&Origin>,
        certificate: Option<&ClientCertificate>,
    ) -> Result<Principal, Denied> {
        let presented = Presentation::of(headers, uri);
        let name = certificate.map(|certificate| &*certificate.0);
        let credentials = presented.credentials(peer, origin).certificate(name);
        let principal = self.authenticator.authenticate(&credentials).await;
        principal.map_err(|rejection| {
            let method = presented.authorization.map(|_| Method::Jwt);
            Denied::new(rejection, method, "request")
        })
    }

    /// The page that a request comes from, if it may.
    ///
    /// # Errors
    /// When it may not.
    pub fn origin(&self, headers: &HeaderMap) -> Result<Option<Origin>, Denied> {
        let origins = headers
            .get_all(header::ORIGIN)
            .iter()
            .map(|value| value.as_bytes());
        let host = headers.get(header::HOST);
        let host = host.and_then(|value| value.to_str().ok());
        let checked = self.origins.check(origins, host);
        checked.map_err(|_| Denied::new(Rejection::Forbidden, None, "origin"))
    }

    /// Whether there is no place left.
    pub fn is_full(&self) -> bool {
        self.slots.lock().total >= self.slots.max
    }

    /// Connections that hold a place.
    pub fn connections(&self) -> usize {
        self.slots.lock().total
    }
}

/// What a request presents, taken apart.
struct Presentation<'a> {
    authorization: Option<&'a str>,
    protocols: Vec<&'a str>,
    ticket: Option<Cow<'a, str>>,
    token: Option<Cow<'a, str>>,
}

impl<'a> Presentation<'a> {
    fn of(headers: &'a HeaderMap, uri: &'a Uri) -> Self {
        let authorization = headers.get(header::AUTHORIZATION);
        let protocols = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL);
        let parameter = |name| {
            let query = uri.query().unwrap_or_default().as_bytes();
            url::form_urlencoded::parse(query)
                .find_map(|(key, value)| (key == name).then_some(value))
        };
        Self {
            authorization: authorization.and_then(|value| value.to_str().ok()),
            protocols: protocols
                .iter()
                .filter_map(|value| value.to_str().ok())
                .flat_map(|value| value.split(',').map(str::trim))
                .collect(),
            ticket: parameter("ticket"),
            token: parameter("token"),
        }
    }

    fn credentials(&'a self, peer: SocketAddr, origin: Option<&'a Origin>) -> Credentials<'a> {
        Credentials::none(peer)
            .authorization(self.authorization)
            .query_ticket(self.ticket.as_deref())
            .query_token(self.token.as_deref())
            .subprotocols(&self.protocols)
            .origin(origin)
    }
}

/// The places for connections. A page that does not close its sockets must not take the server from everybody else.
#[derive(Debug)]
struct Slots {
    max: usize,
    max_per_address: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
}

impl Slots {
    fn new(max: usize, max_per_address: usize) -> Arc<Self> {
        Arc::new(Self {
            max,
            max_per_address,
            taken: Mutex::default(),
        })
    }

    fn take(slots: &Arc<Self>, address: IpAddr) -> Result<Slot, Denied> {
        let address = subscriber(address);
        let mut taken = slots.lock();
        if taken.total >= slots.max {
            let rejection = Rejection::Unavailable {
                retry_after: RETRY_AFTER,
            };
            return Err(Denied::new(rejection, None, "full"));
        }
        // Everything on loopback shares one address, and a proxy there stands for all its clients.
        if !address.is_loopback() {
            let count = taken.by_address.entry(address).or_default();
            if *count >= slots.max_per_address {
                let rejection = Rejection::RateLimited {
                    retry_after: RETRY_AFTER,
                };
                return Err(Denied::new(rejection, None, "connections_per_address"));
            }
            *count += 1;
        }
        taken.total += 1;
        Ok(Slot {
            slots: Arc::clone(slots),
            address,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        // Counters are changed together, without a way to panic in between.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One subscriber: an IPv4 address, or the /64 that an IPv6 subscriber may choose addresses from.
fn subscriber(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => IpAddr::V6(Ipv6Addr::from_bits(
            address.to_bits() & !u128::from(u64::MAX),
        )),
        address => address,
    }
}

/// A place among the connections, given back on drop.
#[derive(Debug)]
pub struct Slot {
    slots: Arc<Slots>,
    address: IpAddr,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.slots.lock();
        taken.total -= 1;
        if let Some(count) = taken.by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                taken.by_address.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use llmrtc_security::auth::Open;

    use super::*;

    fn admission(max: usize, per_address: usize) -> Admission {
        let origins = OriginPolicy::local("127.0.0.1".parse().unwrap());
        Admission::new(
            origins,
            Arc::new(Open::dangerous_anyone()),
            max,
            per_address,
            Shutdown::new(),
        )
    }

    async fn from(admission: &Admission, peer: &str) -> Result<Admitted, Denied> {
        admission
            .admit(
                &HeaderMap::new(),
                &Uri::from_static("/"),
                SocketAddr::new(peer.parse().unwrap(), 1),
                None,
            )
            .await
    }

    fn status(result: &Result<Admitted, Denied>) -> u16 {
        let status = |denied: &Denied| denied.rejection.status();
        result.as_ref().map_or_else(status, |_| 101)
    }

    #[tokio::test]
    async fn places_are_counted_per_subscriber_and_in_all_and_come_back() {
        let admission = admission(5, 2);
        let mut admitted = Vec::new();
        for (peer, expected) in [
            ("192.0.2.1", 101),
            ("::ffff:192.0.2.1", 101),
            ("192.0.2.1", 429),
            ("2001:db8::1", 101),
            ("2001:db8::2", 101),
            ("2001:db8::3", 429),
            ("2001:db8:0:1::1", 101),
            ("192.0.2.2", 503),
            ("127.0.0.1", 503),
        ] {
            let result = from(&admission, peer).await;
            assert_eq!(status(&result), expected, "{peer}");
            admitted.extend(result);
        }
        assert!(admission.is_full());
        assert_eq!(admission.connections(), 5);
        admitted.clear();
        assert_eq!(admission.connections(), 0);
        assert!(admission.slots.lock().by_address.is_empty());
        for _ in 0..5 {
            admitted.push(from(&admission, "127.0.0.1").await.unwrap());
        }
    }

    #[tokio::test]
    async fn a_server_on_its_way_out_takes_nobody() {
        let admission = admission(5, 5);
        admission.shutdown.begin();
        assert_eq!(status(&from(&admission, "127.0.0.1").await), 503);
    }

    struct Spy;

    #[async_trait]
    impl Authenticator for Spy {
        async fn authenticate(
            &self,
            credentials: &Credentials<'_>,
        ) -> Result<Principal, Rejection> {
            let seen = format!(
                "{:?} {:?} {:?} {:?} {:?}",
                credentials.authorization,
                credentials.query_ticket,
                credentials.query_token,
                credentials.subprotocols,
                credentials.origin
            );
            Ok(Principal::user(seen, None))
        }
    }

    #[tokio::test]
    async fn the_authenticator_sees_what_was_presented_and_no_foreign_page() {
        let mut admission = admission(5, 5);
        admission.authenticator = Arc::new(Spy);
        let mut headers = HeaderMap::new();
        headers.insert("authorization", "Bearer t".parse().unwrap());
        headers.insert("origin", "http://localhost:3000".parse().unwrap());
        headers.append(
            "sec-websocket-protocol",
            "llmrtc.v1, bearer.x".parse().unwrap(),
        );
        headers.append("sec-websocket-protocol", "y".parse().unwrap());
        let peer = "127.0.0.1:1".parse().unwrap();
        let uri = Uri::from_static("/a?x=1&ticket=a%2Bb&token=c");
        let admitted = admission.admit(&headers, &uri, peer, None).await.unwrap();
        let Access::Granted(principal) = admitted.access else {
            panic!("{:?}", admitted.access);
        };
        assert_eq!(
            &*principal.subject,
            r#"Some("Bearer t") Some("a+b") Some("c") ["llmrtc.v1", "bearer.x", "y"] Some(Origin(http://localhost:3000))"#
        );
        headers.insert("origin", "https://evil.test".parse().unwrap());
        assert_eq!(
            admission
                .admit(&headers, &uri, peer, None)
                .await
                .unwrap_err()
                .rejection,
            Rejection::Forbidden
        );
        assert_eq!(admission.connections(), 1);
    }
}
