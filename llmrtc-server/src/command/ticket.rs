//! `llmrtc ticket`: asks a running server for a ticket, as a backend does for its browsers.

use std::{
    io::{self, Write},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use axum::{
    body::{Body, to_bytes},
    http::{Request, StatusCode, header},
};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use llmrtc_core::redact::Secret;
use rustls::pki_types::ServerName;
use rustls_platform_verifier::ConfigVerifierExt;
use serde::Deserialize;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use url::{Host, Url};

/// Longest wait, from the look-up of the name to the last byte.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Longest answer: a ticket and its lifetime.
const MAX_ANSWER_BYTES: usize = 16 * 1024;

/// Arguments of `llmrtc ticket`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The server, such as `https://voice.example`.
    #[arg(long)]
    url: Url,
    /// File with the token or API key to ask with; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
    /// The page that will use the ticket, such as `https://app.example`.
    #[arg(long)]
    origin: Option<String>,
}

/// The server's answer.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    ticket: Secret,
    expires_in_seconds: u64,
}

/// Runs the command.
///
/// # Errors
/// When there is no ticket; the message says why and what to do.
pub fn run(args: Args) -> anyhow::Result<()> {
    let token = super::token::read(&args.token_file)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let asked = async {
        let asking = ask(&args.url, &token, args.origin.as_deref());
        tokio::time::timeout(TIMEOUT, asking).await
    };
    let answer = runtime
        .block_on(asked)
        .context("the server does not answer")??;
    let _ = writeln!(io::stderr(), "good for {} s", answer.expires_in_seconds);
    writeln!(io::stdout(), "{}", answer.ticket.expose()).context("cannot write to standard output")
}

async fn ask(url: &Url, token: &Secret, origin: Option<&str>) -> anyhow::Result<Answer> {
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
    let mut request = Request::post("/api/tickets")
        .header(header::HOST, format!("{host}:{port}"))
        .header(header::AUTHORIZATION, format!("Bearer {}", token.expose()));
    if let Some(origin) = origin {
        request = request.header(header::ORIGIN, origin);
    }
    let request = request
        .body(Body::empty())
        .context("the token or the origin cannot be sent in a header")?;
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

async fn exchange<S>(stream: S, request: Request<Body>) -> anyhow::Result<Answer>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = to_bytes(Body::new(response.into_body()), MAX_ANSWER_BYTES).await?;
        anyhow::Ok((status, body))
    };
    let (status, body) = tokio::select! {
        biased;
        result = exchange => result.context("the server broke the exchange off")?,
        ended = connection => {
            ended.context("the server broke the connection off")?;
            bail!("the server closed the connection without an answer");
        }
    };
    match status {
        StatusCode::OK | StatusCode::CREATED => {
            serde_json::from_slice(&body).context("the answer is no ticket")
        }
        StatusCode::UNAUTHORIZED => bail!("the server does not accept the token"),
        StatusCode::NOT_FOUND => bail!("this server mints no tickets"),
        status => bail!("the server answers {status}"),
    }
}

#[cfg(test)]
mod tests {
    use axum::{Router, http::HeaderMap, routing::post};

    use super::*;

    async fn server() -> Url {
        let mint = async |headers: HeaderMap| {
            let sent = |name| headers.get(name).and_then(|value| value.to_str().ok());
            if sent(header::AUTHORIZATION) != Some("Bearer good") {
                return (StatusCode::UNAUTHORIZED, String::new());
            }
            let origin = sent(header::ORIGIN).unwrap_or("none");
            let answer = format!(r#"{{"ticket":"for {origin}","expiresInSeconds":30}}"#);
            (StatusCode::OK, answer)
        };
        let router = Router::new().route("/api/tickets", post(mint));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        #[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
        tokio::spawn(async move { axum::serve(listener, router).await });
        url.parse().unwrap()
    }

    #[tokio::test]
    async fn a_good_token_gets_a_ticket_and_a_bad_one_an_explanation() {
        let url = server().await;
        let good = Secret::new("good");
        let answer = ask(&url, &good, Some("https://app.example")).await.unwrap();
        assert_eq!(answer.ticket.expose(), "for https://app.example");
        assert_eq!(answer.expires_in_seconds, 30);
        let answer = ask(&url, &good, None).await.unwrap();
        assert_eq!(answer.ticket.expose(), "for none");
        for (token, expected) in [
            ("bad", "does not accept the token"),
            ("b\u{7f}d", "cannot be sent in a header"),
        ] {
            let refused = ask(&url, &Secret::new(token), None).await.err().unwrap();
            assert!(refused.to_string().contains(expected), "{refused}");
        }
    }

    #[tokio::test]
    async fn a_token_is_not_sent_where_others_can_read_it() {
        for url in [
            "http://voice.example",
            "http://192.0.2.1:8787",
            "ws://localhost",
        ] {
            let url = url.parse().unwrap();
            let refused = ask(&url, &Secret::new("good"), None).await.err().unwrap();
            assert!(refused.to_string().contains("must be https"), "{refused}");
        }
    }
}
