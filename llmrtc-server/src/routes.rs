//! Everything that speaks HTTP: the door to the socket, probes, metrics, the playground.
//!
//! A WebSocket upgrade is accepted on any path, as the stock client's applications choose it; every other request goes
//! to the routes below. Answers carry no version, and nothing but the playground may be run by a browser.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Json, Router,
    extract::{ConnectInfo, Request, State},
    handler::Handler,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use llmrtc_security::auth::Rejection;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::{
    admission::Admission,
    metrics::PrometheusMetrics,
    shutdown::{Phase, Shutdown},
};

/// What the playground is made of: path, media type, content.
const PLAYGROUND: [(&str, &str, &str); 3] = [
    (
        "/",
        "text/html; charset=utf-8",
        include_str!("../playground/index.html"),
    ),
    (
        "/app.js",
        "text/javascript; charset=utf-8",
        include_str!("../playground/app.js"),
    ),
    (
        "/style.css",
        "text/css; charset=utf-8",
        include_str!("../playground/style.css"),
    ),
];
/// For answers that no browser should interpret.
const CLOSED_POLICY: HeaderValue =
    HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");

/// What the routes need.
#[derive(Clone, Debug)]
pub struct Web {
    /// Who gets a socket.
    pub admission: Admission,
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
        .route("/ready", get(ready).with_state(web.clone()))
        .route("/info", get(info).with_state(Arc::clone(&web.info)))
        // Browsers ask for it unbidden, and a 404 would stand in everybody's console.
        .route("/favicon.ico", get(async || StatusCode::NO_CONTENT));
    if let Some(metrics) = &web.metrics {
        router = router.route("/metrics", get(exposition).with_state(Arc::clone(metrics)));
    }
    if web.playground {
        for (path, media_type, content) in PLAYGROUND {
            router = router.route(
                path,
                get(async move |headers: HeaderMap| page(&headers, media_type, content)),
            );
        }
    }
    let admission = web.admission;
    let door = middleware::from_fn(move |request: Request, next: Next| {
        let (admission, upgrade) = (admission.clone(), upgrade.clone());
        async move {
            if is_upgrade(&request) {
                open(admission, upgrade, request).await
            } else {
                next.run(request).await
            }
        }
    });
    // Around the fallback too: upgrades may come on any path.
    let router = with_fallbacks(router).layer(door);
    router.layer(middleware::map_response(harden))
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

async fn open<H: Handler<T, ()>, T: 'static>(
    admission: Admission,
    upgrade: H,
    mut request: Request,
) -> Response {
    let Some(ConnectInfo(peer)) = request
        .extensions()
        .get::<ConnectInfo<SocketAddr>>()
        .copied()
    else {
        // The router was mounted without the caller's address, so nothing can be decided about it.
        tracing::error!("upgrade refused: serve the router with ConnectInfo<SocketAddr>");
        return error(StatusCode::INTERNAL_SERVER_ERROR, "internal error");
    };
    match admission
        .admit(request.headers(), request.uri(), peer)
        .await
    {
        Ok(admitted) => {
            request.extensions_mut().insert(admitted);
            upgrade.call(request, ()).await
        }
        Err(rejection) => {
            tracing::info!(status = rejection.status(), "upgrade refused");
            refuse(rejection)
        }
    }
}

fn refuse(rejection: Rejection) -> Response {
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

async fn ready(State(web): State<Web>) -> Response {
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

fn page(request: &HeaderMap, media_type: &'static str, content: &'static str) -> Response {
    let mut response = ([(header::CONTENT_TYPE, media_type)], content).into_response();
    if let Ok(policy) = HeaderValue::from_str(&page_policy(request)) {
        response
            .headers_mut()
            .insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    response
}

/// Scripts and styles of our own, sockets to this very host, captured and received media. Older Safaris do not count
/// sockets as `'self'`, so the host is named.
fn page_policy(request: &HeaderMap) -> String {
    let host = request
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .unwrap_or_default();
    // Whatever is no host name must not end up in a header of ours.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]_".contains(&byte);
    let sockets = if !host.is_empty() && host.bytes().all(plain) {
        format!(" ws://{host} wss://{host}")
    } else {
        String::new()
    };
    format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; \
         connect-src 'self'{sockets}; media-src 'self' blob: mediastream:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    )
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

#[cfg(test)]
mod tests {
    use axum::{Extension, body::Body, response::Html};
    use llmrtc_core::telemetry::{ERRORS, MetricsSink};
    use llmrtc_security::auth::{Open, origin::OriginPolicy};
    use tower::ServiceExt;

    use super::*;
    use crate::admission::Admitted;

    struct Site {
        router: Router,
        shutdown: Shutdown,
        readiness: Readiness,
    }

    fn site(change: impl FnOnce(&mut Web)) -> Site {
        let shutdown = Shutdown::new();
        let readiness = Readiness::new(shutdown.clone());
        let metrics = PrometheusMetrics::default();
        metrics.increment(ERRORS, 1, &[]);
        let origins = OriginPolicy::local("127.0.0.1".parse().unwrap());
        let mut web = Web {
            admission: Admission::new(origins, Arc::new(Open::loopback()), 1, 1, shutdown.clone()),
            readiness: readiness.clone(),
            metrics: Some(Arc::new(metrics)),
            playground: true,
            info: Arc::new(json!({ "providers": { "llm": "echo" } })),
        };
        change(&mut web);
        // What a real one does after the 101 is not the routes' business.
        let upgrade = async |Extension(admitted): Extension<Admitted>| {
            Html(format!("welcome {:?}", admitted.origin))
        };
        Site {
            router: router(web, upgrade),
            shutdown,
            readiness,
        }
    }

    async fn send(site: &Site, request: Request) -> (StatusCode, HeaderMap, String) {
        let response = site.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        (
            parts.status,
            parts.headers,
            String::from_utf8(body.into()).unwrap(),
        )
    }

    async fn call(site: &Site, method: Method, path: &str) -> (StatusCode, HeaderMap, String) {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost:8787");
        send(site, request.body(Body::empty()).unwrap()).await
    }

    fn upgrade(path: &str, headers: &[(&str, &str)], peer: &str) -> Request {
        let request = Request::builder()
            .uri(path)
            .header("connection", "Upgrade")
            .header("upgrade", "WebSocket");
        let request = headers.iter().fold(request, |request, (name, value)| {
            request.header(*name, *value)
        });
        let peer: SocketAddr = peer.parse().unwrap();
        request
            .extension(ConnectInfo(peer))
            .body(Body::empty())
            .unwrap()
    }

    #[tokio::test]
    async fn every_path_and_method_has_its_answer() {
        let site = site(|_| {});
        site.readiness.ready();
        let cases = [
            (Method::GET, "/health", 200, r#"{"ok":true}"#),
            (Method::GET, "/health?x=1", 200, r#"{"ok":true}"#),
            (Method::HEAD, "/health", 200, ""),
            (Method::GET, "/ready", 200, r#"{"ready":true}"#),
            (Method::GET, "/info", 200, r#"{"providers":{"llm":"echo"}}"#),
            (Method::GET, "/favicon.ico", 204, ""),
            (Method::GET, "/metrics", 200, "# HELP llmrtc_errors_total"),
            (Method::GET, "/", 200, "<!doctype html>"),
            (Method::GET, "/app.js", 200, ""),
            (Method::GET, "/style.css", 200, ""),
            (Method::GET, "/nothing", 404, r#"{"error":"not found"}"#),
            (Method::POST, "/nothing", 404, r#"{"error":"not found"}"#),
            (Method::GET, "/app.js/", 404, r#"{"error":"not found"}"#),
            (
                Method::GET,
                "/../Cargo.toml",
                404,
                r#"{"error":"not found"}"#,
            ),
            (
                Method::POST,
                "/health",
                405,
                r#"{"error":"method not allowed"}"#,
            ),
            (
                Method::TRACE,
                "/health",
                405,
                r#"{"error":"method not allowed"}"#,
            ),
            (
                Method::DELETE,
                "/",
                405,
                r#"{"error":"method not allowed"}"#,
            ),
            (
                Method::OPTIONS,
                "/metrics",
                405,
                r#"{"error":"method not allowed"}"#,
            ),
        ];
        for (method, path, status, start) in cases {
            let (code, headers, body) = call(&site, method.clone(), path).await;
            assert_eq!(code, status, "{method} {path}");
            assert!(
                body.to_lowercase()
                    .starts_with(start.to_lowercase().as_str()),
                "{method} {path}: {body}"
            );
            assert_eq!(headers["x-content-type-options"], "nosniff");
            assert_eq!(headers["referrer-policy"], "no-referrer");
            for banner in ["server", "x-powered-by", "access-control-allow-origin"] {
                assert!(!headers.contains_key(banner), "{method} {path}: {banner}");
            }
            let policy = headers["content-security-policy"].to_str().unwrap();
            assert!(
                policy.starts_with("default-src 'none'")
                    && policy.contains("frame-ancestors 'none'")
            );
            if status == 405 {
                assert_eq!(headers["allow"], "GET,HEAD");
            }
        }
    }

    #[tokio::test]
    async fn the_playground_may_run_its_own_code_and_reach_this_host_only() {
        let site = site(|_| {});
        let (_, headers, _) = call(&site, Method::GET, "/").await;
        let policy = headers["content-security-policy"].to_str().unwrap();
        assert!(
            policy.contains("connect-src 'self' ws://localhost:8787 wss://localhost:8787;"),
            "{policy}"
        );
        assert!(
            !policy.contains("unsafe") && !policy.contains('*'),
            "{policy}"
        );
        assert_eq!(headers["content-type"], "text/html; charset=utf-8");
        for host in ["evil; script-src *", "a b", "x'y", ""] {
            let request = Request::builder()
                .uri("/")
                .header("host", host)
                .body(Body::empty())
                .unwrap();
            let (_, headers, _) = send(&site, request).await;
            let policy = headers["content-security-policy"].to_str().unwrap();
            assert!(
                policy.contains("connect-src 'self';") && !policy.contains("ws:"),
                "{policy}"
            );
        }
    }

    #[tokio::test]
    async fn what_is_switched_off_is_not_there() {
        let site = site(|web| {
            web.playground = false;
            web.metrics = None;
        });
        for path in ["/", "/app.js", "/metrics"] {
            assert_eq!(call(&site, Method::GET, path).await.0, 404, "{path}");
        }
        let metrics = metrics_router(Arc::default());
        for (path, status) in [("/metrics", 200), ("/health", 404)] {
            let request = Request::builder().uri(path).body(Body::empty()).unwrap();
            assert_eq!(
                metrics.clone().oneshot(request).await.unwrap().status(),
                status
            );
        }
    }

    #[tokio::test]
    async fn readiness_says_what_is_missing() {
        let site = site(|_| {});
        let reason = async || {
            let (status, _, body) = call(&site, Method::GET, "/ready").await;
            let body: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(status == 200, body["ready"] == true);
            body["reason"].as_str().unwrap_or("ready").to_owned()
        };
        assert_eq!(reason().await, "starting");
        site.readiness.ready();
        assert_eq!(reason().await, "ready");
        site.readiness.not_ready("voice detection unavailable");
        assert_eq!(reason().await, "voice detection unavailable");
        site.readiness.ready();
        site.shutdown.begin();
        assert_eq!(reason().await, "draining");
        assert_eq!(call(&site, Method::GET, "/health").await.0, 200);
    }

    #[tokio::test]
    async fn upgrades_open_on_any_path_after_the_rules_at_the_door() {
        let site = site(|_| {});
        let local = "127.0.0.1:5000";
        for path in ["/", "/health", "/any/where?x=1"] {
            let headers = [
                ("host", "localhost:8787"),
                ("origin", "http://localhost:8787"),
            ];
            let (status, _, body) = send(&site, upgrade(path, &headers, local)).await;
            assert_eq!(
                (status, body.as_str()),
                (
                    StatusCode::OK,
                    "welcome Some(Origin(http://localhost:8787))"
                )
            );
        }
        let (status, headers, body) = send(
            &site,
            upgrade("/", &[("origin", "https://evil.test")], local),
        )
        .await;
        assert_eq!(
            (status, body.as_str()),
            (StatusCode::FORBIDDEN, r#"{"error":"not allowed"}"#)
        );
        assert!(!headers.contains_key("retry-after"));
        let (status, headers, body) = send(&site, upgrade("/", &[], "192.0.2.1:5000")).await;
        assert_eq!(
            (status, body.as_str()),
            (
                StatusCode::UNAUTHORIZED,
                r#"{"error":"authentication required"}"#
            )
        );
        assert_eq!(headers["www-authenticate"], "Bearer");
        site.shutdown.begin();
        let (status, headers, _) = send(&site, upgrade("/", &[], local)).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(headers["retry-after"], "5");
    }

    #[tokio::test]
    async fn a_full_server_is_not_ready_and_refuses() {
        let full = std::cell::RefCell::new(None);
        let site = site(|web| *full.borrow_mut() = Some(web.admission.clone()));
        site.readiness.ready();
        let admission = full.into_inner().unwrap();
        let peer = "127.0.0.1:1".parse().unwrap();
        let place = admission
            .admit(&HeaderMap::new(), &axum::http::Uri::from_static("/"), peer)
            .await
            .unwrap();
        let (status, _, body) = call(&site, Method::GET, "/ready").await;
        assert_eq!(
            (status, body.contains("overloaded")),
            (StatusCode::SERVICE_UNAVAILABLE, true)
        );
        assert_eq!(
            send(&site, upgrade("/", &[], "127.0.0.1:2")).await.0,
            StatusCode::SERVICE_UNAVAILABLE
        );
        drop(place);
        assert_eq!(call(&site, Method::GET, "/ready").await.0, StatusCode::OK);
    }
}
