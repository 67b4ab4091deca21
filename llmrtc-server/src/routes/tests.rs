use std::net::SocketAddr;

use axum::{Extension, body::Body, extract::ConnectInfo, http::Method, response::Html};
use llmrtc_core::{
    clock::{Clock, SystemClock},
    telemetry::{ERRORS, MetricsSink},
};
use llmrtc_security::auth::{Open, bind::Exposure, origin::OriginPolicy};
use tower::ServiceExt;

use super::*;
use crate::{admission::Admitted, config::Config};

const LOCAL: &str = "127.0.0.1:5000";

struct Site {
    router: Router,
    shutdown: Shutdown,
    readiness: Readiness,
}

async fn site(change: impl FnOnce(&mut Web)) -> Site {
    let shutdown = Shutdown::new();
    let readiness = Readiness::new(shutdown.clone());
    let metrics = PrometheusMetrics::default();
    metrics.increment(ERRORS, 1, &[]);
    let origins = OriginPolicy::local("127.0.0.1".parse().unwrap());
    let config = Config::default();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let security = Security::build(&config, LOCAL.parse().unwrap(), Exposure::Loopback, clock);
    let mut web = Web {
        security: Arc::new(security.await.unwrap()),
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
    send(site, from(LOCAL, request)).await
}

fn upgrade(path: &str, headers: &[(&str, &str)], peer: &str) -> Request {
    let request = Request::builder()
        .uri(path)
        .header("connection", "Upgrade")
        .header("upgrade", "WebSocket");
    let request = headers.iter().fold(request, |request, (name, value)| {
        request.header(*name, *value)
    });
    from(peer, request)
}

fn from(peer: &str, request: axum::http::request::Builder) -> Request {
    let peer: SocketAddr = peer.parse().unwrap();
    let request = request.extension(ConnectInfo(peer));
    request.body(Body::empty()).unwrap()
}

#[tokio::test]
async fn every_path_and_method_has_its_answer() {
    let site = site(|_| {}).await;
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
            policy.starts_with("default-src 'none'") && policy.contains("frame-ancestors 'none'")
        );
        if status == 405 {
            assert_eq!(headers["allow"], "GET,HEAD");
        }
    }
}

#[tokio::test]
async fn the_playground_may_run_its_own_code_and_reach_this_host_only() {
    let site = site(|_| {}).await;
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
        let request = Request::builder().uri("/").header("host", host);
        let (_, headers, _) = send(&site, from(LOCAL, request)).await;
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
    })
    .await;
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
    let site = site(|_| {}).await;
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
    let site = site(|_| {}).await;
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
    let site = site(|web| *full.borrow_mut() = Some(web.admission.clone())).await;
    site.readiness.ready();
    let admission = full.into_inner().unwrap();
    let peer = "127.0.0.1:1".parse().unwrap();
    let place = admission
        .admit(
            &HeaderMap::new(),
            &axum::http::Uri::from_static("/"),
            peer,
            None,
        )
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

#[tokio::test]
async fn b1_strangers_get_one_answer_whatever_they_ask() {
    let site = site(|_| {}).await;
    site.readiness.ready();
    // Each from an address of its own: asking often has another answer.
    let mut strangers = (1..).map(|n| format!("192.0.2.{n}:5000"));
    let mut answers = Vec::new();
    for path in [
        "/",
        "/app.js",
        "/style.css",
        "/ready",
        "/info",
        "/metrics",
        "/favicon.ico",
        "/nothing",
        "/health/",
        "/health/x",
        "//health",
        "/HEALTH",
        "/%68ealth",
    ] {
        for method in [Method::GET, Method::POST, Method::OPTIONS, Method::DELETE] {
            let request = Request::builder().method(method.clone()).uri(path);
            let (status, headers, body) =
                send(&site, from(&strangers.next().unwrap(), request)).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{method} {path}");
            assert_eq!(headers["www-authenticate"], "Bearer");
            answers.push(body);
        }
    }
    let wrong = Request::builder()
        .uri("/info")
        .header("authorization", "Bearer wrong");
    answers.push(send(&site, from(&strangers.next().unwrap(), wrong)).await.2);
    answers.dedup();
    assert_eq!(answers, [r#"{"error":"authentication required"}"#]);

    for path in PUBLIC {
        let request = Request::builder().uri(path);
        let (status, _, body) = send(&site, from(&strangers.next().unwrap(), request)).await;
        assert_eq!((status, body.as_str()), (StatusCode::OK, r#"{"ok":true}"#));
    }
    let foreign = Request::builder()
        .uri("/info")
        .header("origin", "https://evil.test");
    assert_eq!(
        send(&site, from(LOCAL, foreign)).await.0,
        StatusCode::FORBIDDEN
    );
}
