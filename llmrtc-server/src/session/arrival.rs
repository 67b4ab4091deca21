//! From an upgraded socket to somebody who owns a session.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::extract::ws::WebSocket;
use llmrtc_core::{history::HistorySnapshot, id::SessionId, redact::Secret};
use llmrtc_security::{
    audit::{Action, AuditEvent},
    auth::{
        Access, Method, Presented,
        resume::{Attempt, HandleId, Lease, RefusalCause, Refused, Resumed},
        ticket::SpentTicket,
    },
};
use llmrtc_signal::{
    connection::{
        CloseReason, ConnectionEvent, ResumeReply,
        server::{Connection, first_message},
    },
    protocol,
};
use tokio::sync::mpsc;

use super::{
    Privacy, Session,
    keep::{Claim, Saver},
    standing::Standing,
};
use crate::{
    admission::{Admitted, Caller},
    server::Shared,
};

/// How long a resuming connection waits for the previous one to let go. The client waits 5 s for the answer.
const DETACH_TIMEOUT: Duration = Duration::from_secs(2);

/// How often a session is taken from a node that is writing it down at this moment.
const TAKE_OVER_ATTEMPTS: usize = 3;

/// A session and the right to it.
pub(super) struct Held {
    pub(super) session_id: SessionId,
    pub(super) lease: Lease,
    pub(super) standing: Standing,
    /// What was said before, if the session is an earlier one.
    pub(super) history: Option<HistorySnapshot>,
    /// The right to write it down.
    pub(super) claim: Claim,
    /// It is an earlier one.
    pub(super) resumed: bool,
}

/// Who is at the other end. A socket that presented nothing waits here for its first message; nothing exists for it
/// until then.
pub(super) async fn identify(
    shared: &Shared,
    socket: &mut WebSocket,
    admitted: Admitted,
) -> Result<(Caller, Option<SpentTicket>), CloseReason> {
    let admitted = match admitted.access {
        Access::Deferred { within } => {
            let presented = first_message(socket, within).await?;
            let address = admitted.peer.ip();
            let access = shared.admission.admit_message(shown(&presented), &admitted);
            match access.await {
                Ok(admitted) => admitted,
                Err(denied) => {
                    tracing::info!(reason = denied.reason, "first message refused");
                    shared.security.auth_failed(&denied, address).await;
                    return Err(match denied.rejection.status() {
                        429 => CloseReason::RateLimited,
                        503 => CloseReason::Overload,
                        _ => CloseReason::Unauthorised,
                    });
                }
            }
        }
        _ => admitted,
    };
    let (principal, ticket) = match admitted.access {
        Access::Granted(principal) => (principal, None),
        Access::ResumeOnly { ticket, .. } => (ticket.principal().clone(), Some(ticket)),
        _ => return Err(CloseReason::Unauthorised),
    };
    let caller = Caller {
        principal,
        origin: admitted.origin,
        peer: admitted.peer,
        slot: admitted.slot,
    };
    let method = caller.principal.credential.method;
    if method == Method::Ticket && ticket.is_none() {
        let redeemed = AuditEvent::new(Action::TicketRedeemed).by(&caller.principal);
        shared.security.note(redeemed.from(caller.peer.ip()));
    }
    let method = method.name();
    let event = AuditEvent::new(Action::AuthSucceeded { method });
    let event = event.by(&caller.principal).from(caller.peer.ip());
    // Nobody comes in unrecorded.
    let recorded = shared.security.audit.record_durable(event).await;
    recorded.map_err(|_| CloseReason::Overload)?;
    Ok((caller, ticket))
}

/// What a message presents, as the authenticator takes it.
pub(super) fn shown(presented: &protocol::Presented) -> Presented<'_> {
    match presented {
        protocol::Presented::Ticket(ticket) => Presented::Ticket(ticket.expose()),
        protocol::Presented::Token(token) => Presented::Token(token.expose()),
        _ => Presented::Token(""),
    }
}

/// Waits for a client with a spent ticket to name the session that the ticket opened. The connection itself sees to it
/// that this is its first message, comes in time, and is the only one that counts.
pub(super) async fn returning(
    shared: &Shared,
    connection: &Connection,
    events: &mut mpsc::Receiver<ConnectionEvent>,
    caller: &Caller,
    privacy: &Privacy,
    ticket: &SpentTicket,
) -> Option<Held> {
    loop {
        let ConnectionEvent::Resume {
            session_id: handle,
            resume_token,
        } = events.recv().await?
        else {
            continue;
        };
        let token = resume_token.as_ref().map(|token| token.expose());
        let (handles, origin) = (&shared.keep.handles, caller.origin.as_ref());
        let attempt = |now| handles.resume_spent(ticket, handle.expose(), token, origin, now);
        let taken = match take_over(shared, caller, privacy, handle.expose(), attempt).await {
            Ok(earlier) => earlier.hold(shared, caller).await.map_err(NotTaken::Closed),
            Err(not_taken) => Err(not_taken),
        };
        match taken {
            Ok((held, token)) => {
                let event = AuditEvent::new(Action::SessionResumed).by(&caller.principal);
                let event = event.session(held.session_id).from(caller.peer.ip());
                shared.security.note(event);
                connection.resumed(ResumeReply::Resumed {
                    session_id: handle,
                    resume_token: Some(token),
                });
                return Some(held);
            }
            Err(NotTaken::Refused(action)) => {
                let event = AuditEvent::new(action).by(&caller.principal);
                shared.security.note(event.from(caller.peer.ip()));
                connection.resumed(ResumeReply::Refused);
            }
            Err(NotTaken::Closed(reason)) => {
                connection.close(reason);
                return None;
            }
        }
    }
}

/// Why a session was not taken over.
enum NotTaken {
    /// The caller may not have it; for the audit log.
    Refused(Action),
    /// There is no place for the caller.
    Closed(CloseReason),
}

/// An earlier session that this connection has taken over.
struct Earlier {
    session_id: SessionId,
    lease: Lease,
    history: Option<HistorySnapshot>,
    claim: Claim,
    /// The next resume token.
    token: Secret,
}

impl Earlier {
    /// Takes the caller's place for it: the session keeps its own and only changes its connection. Returns the next resume
    /// token as well.
    async fn hold(self, shared: &Shared, caller: &Caller) -> Result<(Held, Secret), CloseReason> {
        let standing = match Standing::take(shared, self.session_id, caller).await {
            Ok(standing) => standing,
            Err(reason) => {
                // For the client's next attempt.
                if let Some(history) = self.history {
                    shared.keep.remember(self.session_id, history).await;
                }
                return Err(reason);
            }
        };
        let held = Held {
            session_id: self.session_id,
            standing,
            lease: self.lease,
            history: self.history,
            claim: self.claim,
            resumed: true,
        };
        Ok((held, self.token))
    }
}

/// Takes the session with this handle over by `attempt`, waits for the previous owner to let go, and takes what was said
/// before.
async fn take_over(
    shared: &Shared,
    caller: &Caller,
    privacy: &Privacy,
    handle: &str,
    attempt: impl Fn(Instant) -> Result<Resumed, Refused>,
) -> Result<Earlier, NotTaken> {
    let keep = &shared.keep;
    for _ in 0..TAKE_OVER_ATTEMPTS {
        keep.recall(handle).await;
        let resumed = match attempt(shared.clock.now()) {
            Ok(resumed) => resumed,
            Err(refused) => {
                forget_ended(shared, &refused).await;
                return Err(NotTaken::Refused(refusal(&refused)));
            }
        };
        if let Some(previous) = resumed.previous {
            // A stuck owner must not lock its client out; its history is lost then.
            let _ = tokio::time::timeout(DETACH_TIMEOUT, previous.completed()).await;
        }
        let (session_id, lease) = (resumed.session_id, resumed.lease);
        let taken = keep.take_up(session_id, lease.handle(), &caller.principal, privacy);
        let Ok((history, claim)) = taken.await else {
            // Where the client was before, the last words were being written down: once more with them.
            continue;
        };
        return Ok(Earlier {
            session_id,
            lease,
            history,
            claim,
            token: resumed.token,
        });
    }
    Err(NotTaken::Closed(CloseReason::TakenOver))
}

impl Session {
    /// Takes an earlier session over (protocol.md §6.1, §6.2). This connection's own session is given up for it.
    pub(super) async fn resume(&mut self, handle: &str, token: Option<&str>) -> ResumeReply {
        if self.resumed {
            return ResumeReply::Refused;
        }
        let keep = Arc::clone(&self.shared.keep);
        let caller = self.caller.clone();
        let attempt = |now| {
            let attempt = Attempt {
                handle,
                token,
                principal: &caller.principal,
                origin: caller.origin.as_ref(),
            };
            keep.handles.resume(attempt, now)
        };
        if keep.handles.session_of(&HandleId::of(handle)) == Some(self.session_id) {
            // A client that names the session it has: nothing to recover.
            return match attempt(self.shared.clock.now()) {
                Ok(resumed) => {
                    self.lease = resumed.lease;
                    ResumeReply::Resumed {
                        session_id: handle.to_owned().into(),
                        resume_token: Some(resumed.token),
                    }
                }
                Err(refused) => {
                    self.note(refusal(&refused));
                    forget_ended(&self.shared, &refused).await;
                    ResumeReply::Refused
                }
            };
        }
        let taken = match take_over(&self.shared, &caller, &self.privacy, handle, attempt).await {
            Ok(earlier) => {
                // Coming back takes no second place.
                self.standing.let_go();
                let held = earlier.hold(&self.shared, &caller).await;
                held.map_err(NotTaken::Closed)
            }
            Err(not_taken) => Err(not_taken),
        };
        let (held, token) = match taken {
            Ok(taken) => taken,
            Err(NotTaken::Refused(action)) => {
                self.note(action);
                return ResumeReply::Refused;
            }
            Err(NotTaken::Closed(reason)) => {
                self.connection.close(reason);
                return ResumeReply::Refused;
            }
        };
        let own = std::mem::replace(&mut self.lease, held.lease);
        keep.handles.release(own, false, self.shared.clock.now());
        self.saver = Saver::start(
            &keep,
            &self.tasks,
            self.lease.handle(),
            &self.caller.principal,
            &self.privacy,
            held.claim,
        );
        self.history = held.history;
        self.conversation = None;
        self.session_id = held.session_id;
        self.standing = held.standing;
        self.note(Action::SessionResumed);
        self.established = true;
        self.resumed = true;
        ResumeReply::Resumed {
            session_id: handle.to_owned().into(),
            resume_token: Some(token),
        }
    }
}

/// The audit event of a refused attempt.
fn refusal(refused: &Refused) -> Action {
    let reason = match refused.cause() {
        RefusalCause::Replayed(_) => return Action::ResumeReplayed,
        RefusalCause::Unknown => "unknown",
        RefusalCause::Expired(_) => "expired",
        RefusalCause::NotOwner(_) => "not_owner",
        RefusalCause::TokenMissing(_) => "token_missing",
        RefusalCause::TokenWrong(_) => "token_wrong",
        _ => "other",
    };
    Action::ResumeRefused { reason }
}

/// Drops what is kept of a session that a refused attempt has ended.
async fn forget_ended(shared: &Shared, refused: &Refused) {
    if let RefusalCause::Replayed(session_id) = refused.cause() {
        tracing::warn!(session = %session_id.short(), "resume token replayed, session ended");
        shared.keep.end(session_id).await;
    } else if let Some(ended) = refused.ended() {
        shared.keep.forget(ended).await;
    }
}
