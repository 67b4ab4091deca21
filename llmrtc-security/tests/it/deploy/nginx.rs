//! C3, deploy group: the documented nginx, run.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use aws_lc_rs::digest;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures_util::StreamExt;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use llmrtc_core::tasks::Tasks;
use llmrtc_security::{
    net::address::{Networks, ProxyConfig, Source},
    testing::free_port,
};
use reqwest::{Certificate, Client, ClientBuilder, redirect};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    sync::Notify,
};

use super::{LONG, read, replace, run};

const NAME: &str = "voice.example.com";
/// From the specification of the handshake, RFC 6455 section 1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// An nginx with our file, in front of [`answer`].
struct Nginx {
    folder: TempDir,
    config: PathBuf,
    https: u16,
    http: u16,
    certificate: String,
    /// Lets `/stream` end.
    more: Arc<Notify>,
    process: Child,
    /// The server behind it.
    tasks: Option<Tasks>,
}

impl Nginx {
    async fn start() -> Self {
        let tasks = Tasks::root("nginx");
        let more = Arc::new(Notify::new());
        let upstream = serve(&tasks, &more).await;
        let folder = tempfile::tempdir().unwrap();
        let (https, http) = (free_port(), free_port());
        let (config, certificate) = write_config(&folder, upstream, https, http);
        let log = fs::File::create(folder.path().join("stderr")).unwrap();
        let process = Command::new("/usr/sbin/nginx")
            .arg("-c")
            .arg(&config)
            .args(["-g", "daemon off; master_process off;"])
            .stdin(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("nginx is installed");
        let nginx = Self {
            folder,
            config,
            https,
            http,
            certificate,
            more,
            process,
            tasks: Some(tasks),
        };
        tokio::time::timeout(LONG, async {
            while TcpStream::connect(("127.0.0.1", https)).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
        .expect("nginx listens");
        nginx
    }

    fn builder(&self) -> ClientBuilder {
        Client::builder()
            .no_proxy()
            .http1_only()
            .redirect(redirect::Policy::none())
            .tls_certs_only([Certificate::from_pem(self.certificate.as_bytes()).unwrap()])
            .resolve(NAME, SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    fn client(&self) -> Client {
        self.builder().build().unwrap()
    }

    fn url(&self, path: &str) -> String {
        format!("https://{NAME}:{}{path}", self.https)
    }

    fn logs(&self) -> String {
        let files = ["stderr", "main.log", "llmrtc.log", "llmrtc-error.log"];
        files
            .map(|file| fs::read_to_string(self.folder.path().join(file)).unwrap_or_default())
            .concat()
    }
}

/// Our file with ports, certificate and logs of this test, in a frame that Debian's `nginx.conf` would be.
fn write_config(
    folder: &TempDir,
    upstream: SocketAddr,
    https: u16,
    http: u16,
) -> (PathBuf, String) {
    let at = |name: &str| folder.path().join(name).display().to_string();
    let issued = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
    let certificate = issued.cert.pem();
    fs::write(at("tls.crt"), &certificate).unwrap();
    fs::write(at("tls.key"), issued.signing_key.serialize_pem()).unwrap();

    let mut site = read("nginx.conf");
    replace(
        &mut site,
        "listen 443 ssl;",
        &format!("listen 127.0.0.1:{https} ssl;"),
    );
    replace(&mut site, "listen [::]:443 ssl;", "");
    replace(
        &mut site,
        "listen 80;",
        &format!("listen 127.0.0.1:{http};"),
    );
    replace(&mut site, "listen [::]:80;", "");
    replace(
        &mut site,
        "/etc/letsencrypt/live/voice.example.com/fullchain.pem",
        &at("tls.crt"),
    );
    replace(
        &mut site,
        "/etc/letsencrypt/live/voice.example.com/privkey.pem",
        &at("tls.key"),
    );
    replace(&mut site, "/var/log/nginx/", &at(""));
    replace(
        &mut site,
        "server 127.0.0.1:8787;",
        &format!("server {upstream};"),
    );
    fs::write(at("site.conf"), site).unwrap();
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {};\n", at(kind)))
        .concat();
    let frame = format!(
        "pid {};\nerror_log {};\nevents {{ worker_connections 512; }}\nhttp {{\n{temporary}include {};\n}}\n",
        at("pid"),
        at("main.log"),
        at("site.conf")
    );
    fs::write(at("nginx.conf"), frame).unwrap();
    (at("nginx.conf").into(), certificate)
}

async fn serve(tasks: &Tasks, more: &Arc<Notify>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (connections, more) = (tasks.child("connections"), Arc::clone(more));
    tasks
        .spawn("accept", |_| async move {
            while let Ok((stream, _)) = listener.accept().await {
                let more = Arc::clone(&more);
                connections
                    .spawn("connection", |_| answer(stream, more))
                    .detach();
            }
        })
        .detach();
    address
}

/// What stands for the server: upgrades become an echo, `/stream` comes in two parts, all else shows its headers.
async fn answer(stream: TcpStream, more: Arc<Notify>) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let header = |name: &str| {
            head.lines().find_map(|line| {
                let (found, value) = line.split_once(':')?;
                found.eq_ignore_ascii_case(name).then(|| value.trim())
            })
        };
        if header("upgrade") == Some("websocket") && header("connection") == Some("upgrade") {
            let key = header("sec-websocket-key").unwrap_or_default();
            let joined = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
            let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, joined.as_bytes());
            let accept = STANDARD.encode(hash);
            let switch = format!(
                "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: {accept}\r\n\r\n"
            );
            stream.write_all(switch.as_bytes()).await.unwrap();
            let (mut from, mut to) = tokio::io::split(stream);
            let _ = tokio::io::copy(&mut from, &mut to).await;
            return;
        }
        if head.starts_with("GET /stream ") {
            let first = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n";
            stream.write_all(first).await.unwrap();
            more.notified().await;
            stream.write_all(b"4\r\nlast\r\n0\r\n\r\n").await.unwrap();
            continue;
        }
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{head}",
            head.len()
        );
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
}

#[tokio::test]
#[ignore = "deploy group"]
async fn c3_nginx_accepts_the_file_without_a_warning() {
    let nginx = Nginx::start().await;
    let told = run(Command::new("/usr/sbin/nginx")
        .arg("-t")
        .arg("-c")
        .arg(&nginx.config))
    .await;
    assert!(
        !told.contains("[warn]") && told.contains("test is successful"),
        "{told}"
    );
}

#[tokio::test]
#[ignore = "deploy group"]
async fn c3_a_websocket_goes_through_nginx() {
    let nginx = Nginx::start().await;
    let request = nginx
        .client()
        .get(nginx.url("/"))
        .header("connection", "Upgrade")
        .header("upgrade", "websocket");
    let request = request
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", KEY);
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(response.headers()["sec-websocket-accept"], ACCEPT);
    let mut socket = response.upgrade().await.unwrap();
    for frame in [b"\x81\x85\0\0\0\0hello".as_slice(), b"\x8A\x80\0\0\0\0"] {
        socket.write_all(frame).await.unwrap();
        let mut echo = vec![0; frame.len()];
        socket.read_exact(&mut echo).await.unwrap();
        assert_eq!(echo, frame);
    }
    // And may then be silent for a day.
    let text = read("nginx.conf");
    assert!(text.contains("proxy_read_timeout 24h;") && text.contains("proxy_send_timeout 24h;"));
}

#[tokio::test]
#[ignore = "deploy group"]
async fn c3_the_server_sees_the_address_that_nginx_sees_whatever_the_client_says() {
    let nginx = Nginx::start().await;
    let client = nginx
        .builder()
        .local_address("127.0.0.3".parse::<IpAddr>().unwrap())
        .build()
        .unwrap();
    let mut request = client.get(nginx.url("/"));
    for name in [
        "x-real-ip",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
    ] {
        request = request.header(name, "6.6.6.6");
    }
    let request = request.header("forwarded", "for=6.6.6.6;proto=http");
    let response = request.send().await.unwrap();
    assert_eq!(
        response.headers()["strict-transport-security"],
        "max-age=63072000; includeSubDomains"
    );
    assert_eq!(response.headers()["server"], "nginx", "no version");
    let seen = response.text().await.unwrap();
    assert!(!seen.contains("6.6.6.6"), "{seen}");

    let headers: HeaderMap = seen
        .lines()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| {
            (
                name.parse::<HeaderName>().unwrap(),
                value.parse::<HeaderValue>().unwrap(),
            )
        })
        .collect();
    for source in [Source::XRealIp, Source::XForwardedFor] {
        let config = ProxyConfig {
            source,
            trusted: Networks::parse(["127.0.0.1", "::1"]).unwrap(),
            ..ProxyConfig::default()
        };
        let found = config.client([127, 0, 0, 1].into(), &headers).unwrap();
        assert_eq!(found.address, IpAddr::from([127, 0, 0, 3]));
        assert_eq!(found.secure, Some(true));
    }
}

#[tokio::test]
#[ignore = "deploy group"]
async fn c3_nginx_limits_the_requests_of_an_address() {
    let nginx = Nginx::start().await;
    let client = nginx.client();
    let statuses = futures_util::stream::iter(0..150)
        .map(|_| async { client.get(nginx.url("/")).send().await.unwrap().status() })
        .buffer_unordered(30)
        .collect::<Vec<_>>();
    let statuses = tokio::time::timeout(LONG, statuses).await.unwrap();
    let count = |status| statuses.iter().filter(|found| **found == status).count();
    let (admitted, refused) = (count(StatusCode::OK), count(StatusCode::TOO_MANY_REQUESTS));
    assert_eq!(admitted + refused, statuses.len(), "{statuses:?}");
    // One, the burst, and what a busy machine adds at ten per second.
    assert!(admitted >= 21 && refused >= 1, "{admitted} admitted");
    // Others are not affected.
    let other = nginx
        .builder()
        .local_address("127.0.0.9".parse::<IpAddr>().unwrap())
        .build()
        .unwrap();
    assert_eq!(
        other.get(nginx.url("/")).send().await.unwrap().status(),
        StatusCode::OK
    );
}

#[tokio::test]
#[ignore = "deploy group"]
async fn c3_nginx_passes_answers_on_as_they_come() {
    let nginx = Nginx::start().await;
    let mut response = nginx
        .client()
        .get(nginx.url("/stream"))
        .send()
        .await
        .unwrap();
    // The server has not ended its answer.
    assert_eq!(&response.chunk().await.unwrap().unwrap()[..], b"first");
    nginx.more.notify_one();
    assert_eq!(response.text().await.unwrap(), "last");
}

#[tokio::test]
#[ignore = "deploy group"]
async fn c3_plain_http_leads_to_https_and_operators_pages_nowhere() {
    let nginx = Nginx::start().await;
    let client = nginx.client();
    let response = client
        .get(format!("http://127.0.0.1:{}/page?x=1", nginx.http))
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::PERMANENT_REDIRECT);
    assert_eq!(
        response.headers()["location"],
        format!("https://{NAME}/page?x=1")
    );
    for path in ["/metrics", "/admin/sessions"] {
        assert_eq!(
            client.get(nginx.url(path)).send().await.unwrap().status(),
            StatusCode::NOT_FOUND
        );
    }
}

/// B4: a credential in a URL must not end up in a log, whatever becomes of the request.
#[tokio::test]
#[ignore = "deploy group"]
async fn b4_queries_are_in_no_log_of_nginx() {
    let mut nginx = Nginx::start().await;
    let client = nginx.client();
    let long = "a".repeat(20_000);
    for path in [
        "/found?token=SENTINEL",
        "/metrics?token=SENTINEL",
        &format!("/{long}?token=SENTINEL"),
    ] {
        client.get(nginx.url(path)).send().await.unwrap();
    }
    for _ in 0..40 {
        client
            .get(nginx.url("/many?token=SENTINEL"))
            .send()
            .await
            .unwrap();
    }
    client
        .get(format!(
            "http://127.0.0.1:{}/plain?token=SENTINEL",
            nginx.http
        ))
        .send()
        .await
        .unwrap();
    // A server that is gone.
    nginx.tasks.take().unwrap().shutdown(Duration::ZERO).await;
    let status = client
        .get(nginx.url("/gone?token=SENTINEL"))
        .send()
        .await
        .unwrap()
        .status();
    assert!(
        status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS,
        "{status}"
    );
    nginx.process.kill().await.unwrap();
    let logs = nginx.logs();
    assert!(
        logs.contains("GET /found") && logs.contains("GET /plain"),
        "{logs}"
    );
    assert!(!logs.contains("SENTINEL"), "{logs}");
}
