//! `POST /api/tickets`: a ticket for one connection, for whoever shows who they are (B4).

use std::sync::Arc;

use axum::{
    Extension, Json,
    body::Bytes,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use llmrtc_security::{
    audit::{Action, AuditEvent},
    auth::{Grants, Principal, Rejection, origin::Origin, ticket::TicketRequest},
    limit::{config::Scope, policy::Subject},
    net::address::Client,
};
use serde::Deserialize;
use serde_json::json;

use super::{door::limited, error, refuse};
use crate::security::Security;

/// Most bytes of a request: grants with long lists of tools.
const MAX_BYTES: usize = 16 * 1024;

/// What may be asked for. Everything is optional, and so is the body.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Wanted {
    /// The page that will connect, if a backend asks on its behalf. Absent: the page that asks.
    origin: Option<String>,
    /// Grants, if fewer than those of the caller.
    grants: Option<Grants>,
}

pub(super) async fn mint(
    State(security): State<Arc<Security>>,
    Extension(caller): Extension<Principal>,
    Extension(page): Extension<Option<Origin>>,
    Extension(client): Extension<Client>,
    body: Bytes,
) -> Response {
    let Some(tickets) = &security.tickets else {
        return error(StatusCode::NOT_FOUND, "there are no tickets here");
    };
    let subject = Subject::address(client.address)
        .principal(&caller)
        .class(caller.grants.rate_class.as_deref());
    let now = security.now();
    if let Err(refusal) = security.limits.check(Scope::Ticket, &subject, 1, now).await {
        return limited(&security, refusal, Scope::Ticket, &client, Some(&caller));
    }
    if body.len() > MAX_BYTES {
        return error(StatusCode::PAYLOAD_TOO_LARGE, "the request is too large");
    }
    let wanted = if body.is_empty() {
        Ok(Wanted::default())
    } else {
        serde_json::from_slice::<Wanted>(&body)
    };
    let Ok(wanted) = wanted else {
        return error(
            StatusCode::BAD_REQUEST,
            "expected {\"origin\"?, \"grants\"?}",
        );
    };
    // A page asks for itself only; a backend, which sends no Origin, asks for the page that it serves.
    let named = match (&page, &wanted.origin) {
        (Some(_), Some(_)) => return error(StatusCode::BAD_REQUEST, "a page cannot name another"),
        (None, Some(origin)) => match Origin::from_config(origin) {
            Ok(origin) => Some(origin),
            Err(_) => return error(StatusCode::BAD_REQUEST, "`origin` is no origin"),
        },
        (page, None) => page.clone(),
    };
    let mut request = TicketRequest::new(&caller)
        .origin(named.as_ref())
        .address(client.address);
    if let Some(grants) = &wanted.grants {
        request = request.grants(grants);
    }
    let ticket = match tickets.mint(request, security.wall()).await {
        Ok(ticket) => ticket,
        Err(failure) => {
            tracing::error!(error = &failure as &dyn std::error::Error, "no ticket");
            return refuse(&Rejection::Unavailable {
                retry_after: super::RETRY_AFTER,
            });
        }
    };
    let valid_for = tickets.time_to_live();
    let event = AuditEvent::new(Action::TicketMinted { valid_for });
    let recorded = security
        .audit
        .record_durable(event.by(&caller).from(client.address));
    if recorded.await.is_err() {
        return refuse(&Rejection::Unavailable {
            retry_after: super::RETRY_AFTER,
        });
    }
    let answer = json!({ "ticket": ticket.expose(), "expiresInSeconds": valid_for.as_secs() });
    let mut response = (StatusCode::CREATED, Json(answer)).into_response();
    let no_store = HeaderValue::from_static("no-store");
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, no_store);
    response
}
