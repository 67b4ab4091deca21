//! Everything that speaks HTTP: the door to the socket, probes, metrics, the playground.
//!
//! A WebSocket upgrade is accepted on any path, as the stock client's applications choose it; every other request goes
//! to the routes below. Nothing but [`PUBLIC`] is answered to somebody without credentials, unknown paths included, and a
//! new route is behind them without anybody thinking of it. Answers carry no version, and nothing but the playground may
//! be run by a browser.

pub mod admin;
mod door;
mod playground;
#[cfg(test)]
mod tests;
mod tickets;

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{Request, State},
    handler::Handler,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use llmrtc_security::auth::Rejection;
use serde_json::{Value, json};
use tokio::sync::watch;

use self::door::Door;
use crate::{
    admission::Admission,
    metrics::PrometheusMetrics,
    security::Security,
    shutdown::{Phase, Shutdown},
};

/// When to try again after a store did not answer.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// What everybody may ask: that the process is alive, and nothing else.
pub const PUBLIC: [&str; 1] = ["/health"];
/// For answers that no browser should interpret.
const CLOSED_POLICY: HeaderValue =
    HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");

/// What the routes need.
#[derive(Clone, Debug)]
pub struct Web {
    /// Who gets a socket.
    pub admission: Admission,
    /// Who may ask how often, and what is written down about it.
    pub security: Arc<Security>,
    /// Whether work can be taken on.
    pub readiness: Readiness,
    /// Serve these numbers at `/metrics`. Absent where the network can reach the listener.
    pub metrics: Option<Arc<PrometheusMetrics>>,
    /// Show the playground at `/`.
    pub playground: bool,
    /// What the playground shows about this server at `/info`, such as the names of the providers.
    pub info: Arc<Value>,
}

/// The router of the main listener. `upgrade` gets the requests that [`Admission`] let in, with
/// [`Admitted`](crate::admission::Admitted) in their extensions. Serve it with `ConnectInfo<SocketAddr>`.
pub fn router<H, T>(web: Web, upgrade: H) -> Router
where
    H: Handler<T, ()>,
    T: 'static,
{
    let mut router = Router::new()
        .route("/health", get(async || Json(json!({ "ok": true }))))
        .route("/ready", get(readiness).with_state(web.clone()))
        .route("/info", get(info).with_state(Arc::clone(&web.info)))
        // Browsers ask for it unbidden, and a 404 would stand in everybody's console.
        .route("/favicon.ico", get(async || StatusCode::NO_CONTENT));
    if let Some(metrics) = &web.metrics {
        router = router.route("/metrics", get(exposition).with_state(Arc::clone(metrics)));
    }
    if web.playground {
        for (path, media_type, content) in playground::FILES {
            let page =
                async move |headers: HeaderMap| playground::page(&headers, media_type, content);
            router = router.route(path, get(page));
        }
    }
    router = router.route(
        "/api/tickets",
        post(tickets::mint).with_state(Arc::clone(&web.security)),
    );
    let secure = web.security.is_secure;
    let door = Door {
        admission: web.admission,
        security: web.security,
    };
    let door = middleware::from_fn(move |request: Request, next: Next| {
        let (door, upgrade) = (door.clone(), upgrade.clone());
        async move {
            door.pass(request, next, |request| upgrade.call(request, ()))
                .await
        }
    });
    // Around the fallback too: upgrades may come on any path.
    let router = with_fallbacks(router).layer(door);
    router
        .layer(middleware::map_response(harden))
        .layer(middleware::map_response(move |mut response: Response| {
            if secure {
                // Two years, as browsers' preload lists ask for.
                let value = HeaderValue::from_static("max-age=63072000; includeSubDomains");
                response
                    .headers_mut()
                    .insert(header::STRICT_TRANSPORT_SECURITY, value);
            }
            std::future::ready(response)
        }))
}

/// The router of a separate metrics listener.
pub fn metrics_router(metrics: Arc<PrometheusMetrics>) -> Router {
    let router = Router::new().route("/metrics", get(exposition).with_state(metrics));
    with_fallbacks(router).layer(middleware::map_response(harden))
}

fn with_fallbacks(router: Router) -> Router {
    router
        .fallback(async || error(StatusCode::NOT_FOUND, "not found"))
        .method_not_allowed_fallback(async || {
            error(StatusCode::METHOD_NOT_ALLOWED, "method not allowed")
        })
}

fn is_upgrade(request: &Request) -> bool {
    request.method() == Method::GET
        && request
            .headers()
            .get_all(header::UPGRADE)
            .iter()
            .any(|value| {
                let protocols = value.to_str().unwrap_or_default().split(',');
                protocols
                    .into_iter()
                    .any(|protocol| protocol.trim().eq_ignore_ascii_case("websocket"))
            })
}

fn refuse(rejection: &Rejection) -> Response {
    let status = StatusCode::from_u16(rejection.status()).unwrap_or(StatusCode::FORBIDDEN);
    let mut response = error(status, &rejection.to_string());
    if let Some(seconds) = rejection.retry_after_secs() {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, seconds.into());
    }
    if status == StatusCode::UNAUTHORIZED {
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

fn error(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({ "error": message }))).into_response()
}

async fn readiness(State(web): State<Web>) -> Response {
    let reason = web
        .readiness
        .reason()
        .or_else(|| web.admission.is_full().then_some("overloaded"));
    match reason {
        None => Json(json!({ "ready": true })).into_response(),
        Some(reason) => (
            StatusCode::SERVICE_UNAVAILABLE,
            Json(json!({ "ready": false, "reason": reason })),
        )
            .into_response(),
    }
}

async fn info(State(info): State<Arc<Value>>) -> Response {
    Json(&*info).into_response()
}

async fn exposition(State(metrics): State<Arc<PrometheusMetrics>>) -> Response {
    (
        [(
            header::CONTENT_TYPE,
            "text/plain; version=0.0.4; charset=utf-8",
        )],
        metrics.render(),
    )
        .into_response()
}

async fn harden(mut response: Response) -> Response {
    let headers = response.headers_mut();
    let mut default = |name: HeaderName, value: HeaderValue| {
        headers.entry(name).or_insert(value);
    };
    default(header::CONTENT_SECURITY_POLICY, CLOSED_POLICY);
    default(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    default(
        header::REFERRER_POLICY,
        HeaderValue::from_static("no-referrer"),
    );
    default(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    let features = HeaderValue::from_static("microphone=(self), camera=(self), geolocation=()");
    default(HeaderName::from_static("permissions-policy"), features);
    response
}

/// Whether work can be taken on: `GET /ready`. A server starts unready and says what it waits for.
#[derive(Clone, Debug)]
pub struct Readiness {
    shutdown: Shutdown,
    missing: Arc<watch::Sender<Option<&'static str>>>,
}

impl Readiness {
    /// Not ready yet: `starting`.
    pub fn new(shutdown: Shutdown) -> Self {
        Self {
            shutdown,
            missing: Arc::new(watch::Sender::new(Some("starting"))),
        }
    }

    /// Everything that a call needs is there.
    pub fn ready(&self) {
        self.missing.send_replace(None);
    }

    /// Something that every call needs is missing, such as `voice detection unavailable`. Shown to whoever asks.
    pub fn not_ready(&self, reason: &'static str) {
        self.missing.send_replace(Some(reason));
    }

    /// Why not, if so.
    pub fn reason(&self) -> Option<&'static str> {
        if self.shutdown.phase() == Phase::Running {
            *self.missing.borrow()
        } else {
            Some("draining")
        }
    }
}
