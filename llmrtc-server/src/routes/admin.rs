//! The operator's listener: numbers, readiness with its reasons, sessions, revocation, erasure. A listener of its own, on
//! loopback unless the operator says otherwise, and behind a token of its own.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, Query, Request, State},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use llmrtc_core::{id::SessionId, redact::Secret};
use llmrtc_security::{
    audit::{Action, AuditEvent},
    auth::{Principal, PrincipalKind, Rejection, revocation::Revocation, same_secret},
};
use llmrtc_signal::connection::CloseReason;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Web, error, exposition, harden, readiness, refuse, with_fallbacks};
use crate::{
    metrics::PrometheusMetrics,
    registry::SessionInfo,
    security::{Security, audit_target},
};

/// The routes of the operator's listener.
pub fn router(web: Web, metrics: Arc<PrometheusMetrics>, token: Secret) -> Router {
    let security = Arc::clone(&web.security);
    let api = Router::new()
        .route("/admin/sessions", get(sessions))
        .route("/admin/sessions/{session}", delete(end_session))
        .route("/admin/users/{user}/sessions", delete(end_user))
        .route("/admin/users/{user}/data", delete(erase))
        .route("/admin/revocations", post(revoke))
        .with_state(security);
    let router = Router::new()
        .route("/metrics", get(exposition).with_state(metrics))
        .route("/ready", get(readiness).with_state(web))
        .merge(api);
    let token = Arc::new(token);
    let guard = middleware::from_fn(move |request: Request, next: Next| {
        let token = Arc::clone(&token);
        async move {
            // Whether the process lives is for everybody who gets here.
            if request.uri().path() == "/health" || shows(&request, &token) {
                next.run(request).await
            } else {
                refuse(&Rejection::Unauthenticated)
            }
        }
    });
    let router = router.route("/health", get(async || Json(json!({ "ok": true }))));
    with_fallbacks(router)
        .layer(guard)
        .layer(middleware::map_response(harden))
}

fn shows(request: &Request, token: &Secret) -> bool {
    let header = request.headers().get(header::AUTHORIZATION);
    let presented = header
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "));
    presented.is_some_and(|presented| same_secret(presented.trim(), token))
}

/// Whose.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Whose {
    tenant: Option<String>,
    kind: Option<PrincipalKind>,
    user: Option<String>,
}

impl Whose {
    fn caller(&self, user: &str) -> Principal {
        let tenant = self.tenant.as_deref().map(Arc::from);
        match self.kind {
            Some(PrincipalKind::Service) => Principal::service(user, tenant),
            Some(PrincipalKind::Anonymous) => Principal::anonymous(),
            _ => Principal::user(user, tenant),
        }
    }
}

async fn sessions(State(security): State<Arc<Security>>, Query(whose): Query<Whose>) -> Response {
    let caller = whose.user.as_deref().map(|user| whose.caller(user));
    let list = security.registry.list(caller.as_ref());
    Json(list.iter().map(line).collect::<Vec<_>>()).into_response()
}

fn line(info: &SessionInfo) -> Value {
    json!({
        "session": info.session_id.to_string(),
        "user": &*info.caller.subject,
        "tenant": info.caller.tenant.as_deref(),
        "kind": info.caller.kind,
        "address": info.address.to_string(),
        "since": humantime::format_rfc3339_seconds(info.since).to_string(),
    })
}

async fn end_session(
    State(security): State<Arc<Security>>,
    Path(session): Path<String>,
) -> Response {
    let Some(session_id) = session.parse::<SessionId>().ok() else {
        return error(StatusCode::BAD_REQUEST, "not a session");
    };
    let done = security.registry.end(session_id, CloseReason::SessionEnded);
    acted(&security, "end_session", &session, done).await;
    if done {
        Json(json!({ "ended": 1 })).into_response()
    } else {
        error(StatusCode::NOT_FOUND, "no such session")
    }
}

async fn end_user(
    State(security): State<Arc<Security>>,
    Path(user): Path<String>,
    Query(whose): Query<Whose>,
) -> Response {
    let caller = whose.caller(&user);
    let connected = security
        .registry
        .end_all(&caller, CloseReason::SessionEnded);
    let ended = connected + security.keep.end_waiting(&caller).await;
    let target = audit_target(whose.tenant.as_deref(), &user);
    acted(&security, "end_user", &target, true).await;
    Json(json!({ "ended": ended })).into_response()
}

async fn erase(
    State(security): State<Arc<Security>>,
    Path(user): Path<String>,
    Query(whose): Query<Whose>,
) -> Response {
    // What is erased cannot be looked at afterwards, so nothing is without a record that it was asked for.
    let target = audit_target(whose.tenant.as_deref(), &user);
    let begins = Action::AdminActed {
        operation: "erase",
        target: Some(target.as_str().into()),
        done: None,
    };
    if security
        .audit
        .record_durable(AuditEvent::new(begins))
        .await
        .is_err()
    {
        return error(
            StatusCode::SERVICE_UNAVAILABLE,
            "nothing was erased: the audit log is unavailable",
        );
    }
    let erased = security.erase(&whose.caller(&user)).await;
    acted(&security, "erase", &target, erased.is_ok()).await;
    match erased {
        Ok(receipt) => {
            if let Some(receipt) = &receipt {
                let event = Action::DataErased {
                    target: target.into(),
                    records: receipt.records,
                };
                security.note(AuditEvent::new(event));
            }
            Json(json!({ "receipt": receipt })).into_response()
        }
        Err(failure) => {
            tracing::error!(error = &*failure as &dyn std::error::Error, "not erased");
            error(
                StatusCode::SERVICE_UNAVAILABLE,
                "not everything was erased; try again",
            )
        }
    }
}

/// What to revoke.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Revoke {
    token_id: Option<String>,
    user: Option<String>,
    tenant: Option<String>,
    kind: Option<PrincipalKind>,
}

async fn revoke(State(security): State<Arc<Security>>, Json(what): Json<Revoke>) -> Response {
    let (revocation, target) = match (what.token_id, what.user) {
        (Some(token_id), None) => {
            let target = token_id.clone();
            (
                Revocation::Token {
                    token_id: token_id.into(),
                },
                target,
            )
        }
        (None, Some(user)) => {
            let whose = Whose {
                tenant: what.tenant,
                kind: what.kind,
                user: None,
            };
            let target = audit_target(whose.tenant.as_deref(), &user);
            let revocation = Revocation::of(&whose.caller(&user), security.wall());
            (revocation, target)
        }
        _ => return error(StatusCode::BAD_REQUEST, "expected tokenId or user"),
    };
    let revoked = security.revoke(revocation).await;
    acted(&security, "revoke", &target, revoked.is_ok()).await;
    match revoked {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(failure) => {
            tracing::error!(
                error = &*failure as &dyn std::error::Error,
                "not revoked everywhere"
            );
            error(
                StatusCode::SERVICE_UNAVAILABLE,
                "revoked on this node only; try again",
            )
        }
    }
}

async fn acted(security: &Security, operation: &'static str, target: &str, done: bool) {
    let event = Action::AdminActed {
        operation,
        target: Some(target.into()),
        done: Some(done),
    };
    security.note(AuditEvent::new(event));
}
