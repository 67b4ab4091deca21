//! In front of every route: who asks, whether they may ask so often, and whether they may ask at all. In that order, so
//! that the cheapest question comes first and nothing is spent on callers who are refused.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    extract::{ConnectInfo, Request},
    http::StatusCode,
    middleware::Next,
    response::{IntoResponse, Response},
};
use llmrtc_security::{
    audit::{Action, AuditEvent},
    auth::{Denied, Principal, Rejection, origin::Origin},
    limit::{
        config::Scope,
        policy::{Refusal, Subject},
    },
    net::{address::Client, cors::Cors},
};

use super::{PUBLIC, error, is_upgrade, refuse};
use crate::{
    admission::{Admission, ClientCertificate},
    security::Security,
};

/// What the door needs.
#[derive(Clone)]
pub(super) struct Door {
    pub(super) admission: Admission,
    pub(super) security: Arc<Security>,
}

impl Door {
    /// Lets a request through to its route, or to `upgrade`, or answers it here.
    pub(super) async fn pass<F>(
        self,
        mut request: Request,
        next: Next,
        upgrade: impl FnOnce(Request) -> F,
    ) -> Response
    where
        F: Future<Output = Response>,
    {
        let Some(ConnectInfo(peer)) = request
            .extensions()
            .get::<ConnectInfo<SocketAddr>>()
            .copied()
        else {
            // Nothing can be decided about a caller whose address is unknown.
            tracing::error!("refused: serve the router with ConnectInfo<SocketAddr>");
            return error(StatusCode::INTERNAL_SERVER_ERROR, "internal error");
        };
        let Ok(client) = self.security.proxy.client(peer.ip(), request.headers()) else {
            return error(
                StatusCode::BAD_REQUEST,
                "the proxy does not name its client",
            );
        };
        let upgrades = is_upgrade(&request);
        let scope = if upgrades {
            Scope::Upgrade
        } else {
            Scope::Http
        };
        if let Err(refusal) = self.count(scope, &client).await {
            return limited(&self.security, refusal, scope, &client, None);
        }
        let peer = SocketAddr::new(client.address, peer.port());
        request.extensions_mut().insert(client.clone());
        let certificate = request.extensions().get::<ClientCertificate>().cloned();
        let certificate = certificate.as_ref();
        if upgrades {
            return match self
                .admission
                .admit(request.headers(), request.uri(), peer, certificate)
                .await
            {
                Ok(admitted) => {
                    request.extensions_mut().insert(admitted);
                    upgrade(request).await
                }
                Err(denied) => self.denied(denied, &client).await,
            };
        }
        if PUBLIC.contains(&request.uri().path()) {
            return next.run(request).await;
        }
        let origin = match self.admission.origin(request.headers()) {
            Ok(origin) => origin,
            Err(denied) => return self.denied(denied, &client).await,
        };
        if Cors::is_preflight(request.method(), request.headers()) {
            return self.preflight(origin.as_ref(), &request);
        }
        let (headers, uri) = (request.headers(), request.uri());
        let caller = self
            .admission
            .caller(headers, uri, peer, origin.as_ref(), certificate)
            .await;
        let mut response = match caller {
            Ok(principal) => {
                request.extensions_mut().insert(principal);
                request.extensions_mut().insert(origin.clone());
                next.run(request).await
            }
            Err(denied) => self.denied(denied, &client).await,
        };
        self.security
            .cors
            .mark(origin.as_ref(), response.headers_mut());
        response
    }

    async fn count(&self, scope: Scope, client: &Client) -> Result<(), Refusal> {
        let limits = &self.security.limits;
        let subject = Subject::address(client.address);
        let standing = limits.check(scope, &subject, 1, self.security.now()).await;
        standing.map(|_| ())
    }

    async fn denied(&self, denied: Denied, client: &Client) -> Response {
        let status = denied.rejection.status();
        tracing::info!(status, reason = denied.reason, "refused");
        self.security.auth_failed(&denied, client.address).await;
        refuse(&denied.rejection)
    }

    fn preflight(&self, origin: Option<&Origin>, request: &Request) -> Response {
        let answer =
            origin.and_then(|origin| self.security.cors.preflight(origin, request.headers()));
        match answer {
            Some(headers) => (StatusCode::NO_CONTENT, headers).into_response(),
            None => refuse(&Rejection::Forbidden),
        }
    }
}

/// Somebody asks too often: recorded, and told when to try again.
pub(super) fn limited(
    security: &Security,
    refusal: Refusal,
    scope: Scope,
    client: &Client,
    caller: Option<&Principal>,
) -> Response {
    let event = Action::RateLimited {
        limit: scope.name(),
        retry_after: refusal.retry_after().unwrap_or_default(),
    };
    let event = AuditEvent::new(event).from(client.address);
    security.note(match caller {
        Some(caller) => event.by(caller),
        None => event,
    });
    let mut response = refuse(&refusal.into());
    refusal.apply(response.headers_mut());
    response
}
