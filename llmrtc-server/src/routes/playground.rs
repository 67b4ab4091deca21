//! The page to talk from, embedded in the binary.

use axum::{
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};

/// What the playground is made of: path, media type, content.
pub(super) const FILES: [(&str, &str, &str); 6] = [
    (
        "/",
        "text/html; charset=utf-8",
        include_str!("../../playground/index.html"),
    ),
    (
        "/app.js",
        "text/javascript; charset=utf-8",
        include_str!("../../playground/app.js"),
    ),
    (
        "/call.js",
        "text/javascript; charset=utf-8",
        include_str!("../../playground/call.js"),
    ),
    (
        "/latency.js",
        "text/javascript; charset=utf-8",
        include_str!("../../playground/latency.js"),
    ),
    (
        "/sound.js",
        "text/javascript; charset=utf-8",
        include_str!("../../playground/sound.js"),
    ),
    (
        "/style.css",
        "text/css; charset=utf-8",
        include_str!("../../playground/style.css"),
    ),
];

pub(super) fn page(
    request: &HeaderMap,
    media_type: &'static str,
    content: &'static str,
) -> Response {
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
