//! One request to a running server, for the commands that ask one.

use std::{
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
pub(super) use axum::http::Method;
use axum::{
    body::{Body, to_bytes},
    http::{Request, StatusCode, header},
};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use llmrtc_core::redact::Secret;
use rustls::pki_types::ServerName;
use rustls_platform_verifier::ConfigVerifierExt;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use url::{Host, Url};

use crate::{
    config::load::{Environment, ProcessEnvironment},
    security::data,
};

/// Longest wait, from the look-up of the name to the last byte.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Longest answer: a list of some thousand sessions.
const MAX_ANSWER_BYTES: usize = 4 * 1024 * 1024;

/// Sends a request and reads the JSON of its answer (`null` if there is none).
pub(super) fn request(
    method: Method,
    server: &str,
    path: &str,
    token: Option<&Secret>,
    body: Option<Value>,
) -> anyhow::Result<Value> {
    let url: Url = server.parse().context("--url is no URL")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let asked = async {
        let asking = ask(method, &url, path, token, body);
        tokio::time::timeout(TIMEOUT, asking).await
    };
    runtime
        .block_on(asked)
        .context("the server does not answer")?
}

/// A credential from a file; `-` is standard input.
pub(super) fn read_secret(file: &Path) -> anyhow::Result<Secret> {
    let mut text = String::new();
    if file == Path::new("-") {
        std::io::stdin()
            .read_to_string(&mut text)
            .context("cannot read standard input")?;
    } else {
        text = std::fs::read_to_string(file)
            .with_context(|| format!("cannot read {}", file.display()))?;
    }
    ensure!(!text.trim().is_empty(), "{} is empty", file.display());
    Ok(Secret::new(text.trim()))
}

/// The token of the operator's listener: of this file, or of the server's data folder.
pub(super) fn admin_token(file: Option<PathBuf>) -> anyhow::Result<Secret> {
    let file = match file {
        Some(file) => file,
        None => {
            let variables = ProcessEnvironment.variables();
            let variable = |name: &str| {
                let found = variables.iter().find(|(key, _)| key == name);
                found.map(|(_, value)| value.clone())
            };
            let folder = data::default_folder(variable).context("name the --token-file")?;
            folder.join("admin-token")
        }
    };
    read_secret(&file)
}

/// Percent-encodes a part of a path or query.
pub(super) fn escape(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

async fn ask(
    method: Method,
    url: &Url,
    path: &str,
    token: Option<&Secret>,
    body: Option<Value>,
) -> anyhow::Result<Value> {
    let host = url.host().context("--url has no host")?;
    let local = match &host {
        Host::Domain(name) => *name == "localhost",
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
    };
    let secure = url.scheme() == "https";
    ensure!(
        secure || url.scheme() == "http" && local,
        "--url must be https, or http on this machine: the token would be readable on the way"
    );
    let port = url.port_or_known_default().context("--url has no port")?;
    let name = match &host {
        Host::Domain(name) => (*name).to_owned(),
        Host::Ipv4(address) => address.to_string(),
        Host::Ipv6(address) => address.to_string(),
    };
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, format!("{host}:{port}"));
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.expose()));
    }
    let body = match body {
        Some(body) => {
            request = request.header(header::CONTENT_TYPE, "application/json");
            Body::from(body.to_string())
        }
        None => Body::empty(),
    };
    let request = request
        .body(body)
        .context("the token cannot be sent in a header")?;
    let tcp = TcpStream::connect((name.as_str(), port))
        .await
        .with_context(|| format!("cannot connect to {host}:{port}"))?;
    if !secure {
        return exchange(tcp, request).await;
    }
    let config = rustls::ClientConfig::with_platform_verifier().context("cannot set TLS up")?;
    let server = ServerName::try_from(name).context("--url has no name that a certificate has")?;
    let tls = TlsConnector::from(Arc::new(config))
        .connect(server, tcp)
        .await
        .context("cannot secure the connection")?;
    exchange(tls, request).await
}

async fn exchange<S>(stream: S, request: Request<Body>) -> anyhow::Result<Value>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = to_bytes(Body::new(response.into_body()), MAX_ANSWER_BYTES).await?;
        anyhow::Ok((status, body))
    };
    let (status, body) = tokio::select! {
        answer = exchange => answer?,
        ended = connection => {
            ended?;
            bail!("the server closed the connection without an answer");
        }
    };
    let value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    match status {
        status if status.is_success() => Ok(value),
        StatusCode::UNAUTHORIZED => bail!("the server does not accept the token"),
        status => {
            let reason = value["error"].as_str().unwrap_or("it does not say why");
            bail!("the server refuses ({status}): {reason}")
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::{Json, Router, http::HeaderMap, routing::post};
    use serde_json::json;

    use super::*;

    async fn server() -> Url {
        let mint = async |headers: HeaderMap, body: String| {
            let sent = headers
                .get(header::AUTHORIZATION)
                .and_then(|value| value.to_str().ok());
            if sent != Some("Bearer good") {
                return (StatusCode::UNAUTHORIZED, Json(Value::Null));
            }
            if body.is_empty() {
                return (StatusCode::CONFLICT, Json(json!({ "error": "no body" })));
            }
            (StatusCode::CREATED, Json(json!({ "echo": body })))
        };
        let router = Router::new().route("/api", post(mint));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        #[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
        tokio::spawn(async move { axum::serve(listener, router).await });
        url.parse().unwrap()
    }

    async fn post_to(url: &Url, token: &str, body: Option<Value>) -> Result<Value, String> {
        let token = Secret::new(token);
        let asked = ask(Method::POST, url, "/api", Some(&token), body).await;
        asked.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn answers_are_read_and_refusals_explained() {
        let url = server().await;
        let answer = post_to(&url, "good", Some(json!({ "a": 1 })))
            .await
            .unwrap();
        assert_eq!(answer["echo"], r#"{"a":1}"#);
        for (token, expected) in [
            ("bad", "does not accept the token"),
            ("b\u{7f}d", "cannot be sent in a header"),
            ("good", "no body"),
        ] {
            let refused = post_to(&url, token, None).await.unwrap_err();
            assert!(refused.contains(expected), "{refused}");
        }
    }

    #[tokio::test]
    async fn a_token_is_not_sent_where_others_can_read_it() {
        for url in [
            "http://voice.example",
            "http://192.0.2.1:8787",
            "ws://localhost",
        ] {
            let refused = post_to(&url.parse().unwrap(), "good", None)
                .await
                .unwrap_err();
            assert!(refused.contains("must be https"), "{refused}");
        }
    }

    #[test]
    fn names_are_escaped() {
        assert_eq!(
            escape("ann@example.org/?x=1"),
            "ann%40example.org%2F%3Fx%3D1"
        );
    }
}
