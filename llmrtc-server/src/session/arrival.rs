//! From an upgraded socket to somebody who owns a session.

use std::time::Duration;

use axum::extract::ws::WebSocket;
use llmrtc_core::{
    history::HistorySnapshot,
    id::SessionId,
    redact::Secret,
    session::{Owner, SessionStore},
};
use llmrtc_security::{
    audit::{Action, AuditEvent},
    auth::{
        Access, Method, Presented,
        resume::{Lease, RefusalCause, Refused, Resumed},
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

use super::standing::Standing;
use crate::{
    admission::{Admitted, Caller},
    server::Shared,
};

/// How long a resuming connection waits for the previous one to let go. The client waits 5 s for the answer.
const DETACH_TIMEOUT: Duration = Duration::from_secs(2);

/// A session and the right to it.
pub(super) struct Held {
    pub(super) session_id: SessionId,
    pub(super) lease: Lease,
    pub(super) standing: Standing,
    /// What was said before, if the session is an earlier one.
    pub(super) history: Option<HistorySnapshot>,
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
        let origin = caller.origin.as_ref();
        let now = shared.clock.now();
        let attempt = shared
            .handles
            .resume_spent(ticket, handle.expose(), token, origin, now);
        match attempt {
            Ok(resumed) => {
                let (held, token) = match take_over(shared, resumed, caller).await {
                    Ok(taken) => taken,
                    Err(reason) => {
                        connection.close(reason);
                        return None;
                    }
                };
                let event = AuditEvent::new(Action::SessionResumed).by(&caller.principal);
                let event = event.session(held.session_id).from(caller.peer.ip());
                shared.security.note(event);
                connection.resumed(ResumeReply::Resumed {
                    session_id: handle,
                    resume_token: Some(token),
                });
                return Some(held);
            }
            Err(refused) => {
                let event = AuditEvent::new(refusal(&refused)).by(&caller.principal);
                shared.security.note(event.from(caller.peer.ip()));
                forget_ended(shared, &refused).await;
                connection.resumed(ResumeReply::Refused);
            }
        }
    }
}

/// Waits for the previous owner to let go, then takes what was said before. Returns the next resume token as well.
pub(super) async fn take_over(
    shared: &Shared,
    resumed: Resumed,
    caller: &Caller,
) -> Result<(Held, Secret), CloseReason> {
    if let Some(previous) = resumed.previous {
        // A stuck owner must not lock its client out; its history is lost then.
        let _ = tokio::time::timeout(DETACH_TIMEOUT, previous.completed()).await;
    }
    // The session keeps its place; it only changes its connection.
    let standing = Standing::take(shared, resumed.session_id, caller).await?;
    let history = shared
        .histories
        .take(resumed.session_id, &Owner::default())
        .await
        .unwrap_or_else(|error| {
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, "history not recovered");
            None
        });
    let held = Held {
        session_id: resumed.session_id,
        lease: resumed.lease,
        history,
        standing,
        resumed: true,
    };
    Ok((held, resumed.token))
}

/// The audit event of a refused attempt.
pub(super) fn refusal(refused: &Refused) -> Action {
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
pub(super) async fn forget_ended(shared: &Shared, refused: &Refused) {
    if let RefusalCause::Replayed(session_id) = refused.cause() {
        tracing::warn!(session = %session_id.short(), "resume token replayed, session ended");
    }
    if let Some(ended) = refused.ended() {
        shared.forget(ended).await;
    }
}
