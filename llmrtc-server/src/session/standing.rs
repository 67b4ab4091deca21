//! The right of a running session to go on: its place among the caller's sessions, its credential, and nobody having
//! decided otherwise.

use std::time::Duration;

use llmrtc_security::{
    audit::{Action, AuditEvent},
    auth::{
        Principal,
        lifetime::{CredentialClock, Ending, RefreshRefused, SessionLimits, Step},
    },
    limit::lease::{End, Lease, NoPlace},
};
use llmrtc_signal::connection::CloseReason;

use crate::{admission::Caller, registry::Presence, server::Shared};
use llmrtc_core::id::SessionId;

/// How long a credential counts after its end: what a client's clock may be behind.
const LEEWAY: Duration = Duration::from_secs(1);

/// The connection watches over idleness and duration.
const NO_LIMITS: SessionLimits = SessionLimits {
    idle: None,
    absolute: None,
};

/// What a session learns about itself.
pub(super) enum News {
    /// Its credential ends in so long.
    Expiring(Duration),
    /// It has to end.
    End(CloseReason),
}

/// Held as long as the session.
pub(super) struct Standing {
    /// Absent once it was given up for the place of an earlier session.
    place: Option<Lease>,
    presence: Presence,
    credential: CredentialClock,
}

impl Standing {
    /// Takes the caller's place for `session_id`, which another node or connection may have held until now. Waits for the
    /// session that it replaces, if the caller has too many.
    pub(super) async fn take(
        shared: &Shared,
        session_id: SessionId,
        caller: &Caller,
    ) -> Result<Self, CloseReason> {
        let security = &shared.security;
        let principal = &caller.principal;
        let most = principal.grants.max_sessions;
        let place = security.leases.acquire(session_id, principal, most).await;
        let place = place.map_err(|no_place| {
            let event = Action::SessionEvicted { reason: "no_place" };
            security.note(AuditEvent::new(event).by(principal).from(caller.peer.ip()));
            tracing::info!(reason = %no_place, "no place for a session");
            match no_place {
                NoPlace::Replaced => CloseReason::Replaced,
                NoPlace::User | NoPlace::Tenant => CloseReason::RateLimited,
                _ => CloseReason::Overload,
            }
        })?;
        let (now, wall) = (shared.clock.now(), shared.clock.wall());
        let address = caller.peer.ip();
        Ok(Self {
            place: Some(place),
            presence: security
                .registry
                .enter(session_id, principal, address, wall),
            credential: CredentialClock::new(principal, LEEWAY, NO_LIMITS, now),
        })
    }

    /// Waits for news.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(super) async fn news(&mut self, shared: &Shared, principal: &Principal) -> News {
        loop {
            let (now, wall) = (shared.clock.now(), shared.clock.wall());
            match self.credential.poll(now, wall) {
                Some(Step::Warn { expires_in }) => return News::Expiring(expires_in),
                Some(Step::Close(Ending::Expired)) => return News::End(CloseReason::Unauthorised),
                Some(Step::Close(Ending::Idle)) => return News::End(CloseReason::Idle),
                Some(Step::Close(Ending::TooLong)) => return News::End(CloseReason::MaxDuration),
                Some(_) | None => {}
            }
            let due = self.credential.deadline(now, wall);
            let due = async {
                match due {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            let place = self.place.as_ref();
            let ended = async {
                match place {
                    Some(place) => place.ended().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                end = ended => {
                    return News::End(match end {
                        End::Replaced => CloseReason::Replaced,
                        End::Superseded => CloseReason::TakenOver,
                        _ => CloseReason::Overload,
                    });
                }
                reason = self.presence.ended() => return News::End(reason),
                () = shared.security.revocations.revoked(principal) => {
                    return News::End(CloseReason::Unauthorised);
                }
                () = due => {}
            }
        }
    }

    /// Gives the place up, because the caller takes up an earlier session instead.
    pub(super) fn let_go(&mut self) {
        self.place = None;
    }

    /// Runs on under a new credential. Says how long that lasts, if it ends at all.
    pub(super) fn refresh(
        &mut self,
        shared: &Shared,
        current: &Principal,
        fresh: &Principal,
    ) -> Result<Option<Duration>, RefreshRefused> {
        self.credential.refresh(current, fresh)?;
        let end = fresh.credential.expires_at;
        Ok(end.map(|end| end.duration_since(shared.clock.wall()).unwrap_or_default()))
    }
}
