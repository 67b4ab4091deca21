//! C1 over loopback, with rustls as the client.

use std::{fs, path::Path, sync::Mutex};

use llmrtc_core::tasks::Tasks;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, SanType,
};
use rustls::{
    ClientConfig, ProtocolVersion, RootCertStore, SupportedProtocolVersion,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    version::{TLS12, TLS13},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc,
};
use tokio_rustls::{TlsConnector, client};

use super::*;

/// Long enough for a busy machine; nothing waits for it to pass.
const SOON: Duration = Duration::from_secs(30);
const BOTH: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];

/// An authority.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "test authority");
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.as_ref().der().clone()).unwrap();
        roots
    }

    /// Certificate and key in PEM.
    fn issue(&self, params: CertificateParams) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        (
            params.signed_by(&key, &self.0).unwrap().pem(),
            key.serialize_pem(),
        )
    }

    fn server(&self, names: &[&str]) -> (String, String) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(params)
    }

    fn client(&self) -> (String, String) {
        let mut params = CertificateParams::default();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params
            .distinguished_name
            .push(DnType::CommonName, "billing");
        params.subject_alt_names = vec![
            SanType::DnsName("billing.internal".try_into().unwrap()),
            SanType::URI("spiffe://example.org/billing".try_into().unwrap()),
        ];
        self.issue(params)
    }
}

fn write(folder: &Path, name: &str, (certificate, key): &(String, String)) -> CertificateFiles {
    let files = CertificateFiles {
        cert_file: folder.join(format!("{name}.crt")),
        key_file: folder.join(format!("{name}.key")),
    };
    fs::write(&files.cert_file, certificate).unwrap();
    fs::write(&files.key_file, key).unwrap();
    files
}

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

/// A server that echoes, and says who came.
struct Server {
    address: SocketAddr,
    acceptor: TlsAcceptor,
    outcomes: mpsc::Receiver<Result<Option<PeerIdentity>, TlsError>>,
    tasks: Tasks,
}

impl Server {
    async fn start(config: TlsConfig) -> Self {
        Self::with(TlsAcceptor::new(config).unwrap()).await
    }

    async fn with(acceptor: TlsAcceptor) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, outcomes) = mpsc::channel(64);
        let tasks = Tasks::root("server");
        let (accepting, connections) = (acceptor.clone(), tasks.child("connections"));
        tasks
            .spawn("accept", |_| async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let (acceptor, sender) = (accepting.clone(), sender.clone());
                    connections
                        .spawn("connection", |_| async move {
                            match acceptor.accept(stream).await {
                                Ok((mut stream, identity)) => {
                                    let _ = sender.send(Ok(identity)).await;
                                    while let Ok(byte) = stream.read_u8().await {
                                        if stream.write_u8(byte).await.is_err()
                                            || stream.flush().await.is_err()
                                        {
                                            break;
                                        }
                                    }
                                }
                                Err(error) => {
                                    let _ = sender.send(Err(error)).await;
                                }
                            }
                        })
                        .detach();
                }
            })
            .detach();
        Self {
            address,
            acceptor,
            outcomes,
            tasks,
        }
    }

    async fn outcome(&mut self) -> Result<Option<PeerIdentity>, TlsError> {
        tokio::time::timeout(SOON, self.outcomes.recv())
            .await
            .unwrap()
            .unwrap()
    }

    async fn connect(
        &self,
        client: ClientConfig,
        name: &str,
    ) -> io::Result<client::TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from(name.to_owned()).unwrap();
        TlsConnector::from(Arc::new(client))
            .connect(name, stream)
            .await
    }

    /// The leaf that a client is shown which asks for `name`.
    async fn leaf(&self, authority: &Authority, name: &str) -> CertificateDer<'static> {
        let stream = self.connect(client(authority, BOTH), name).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0]
            .clone()
            .into_owned()
    }
}

fn builder(
    authority: &Authority,
    versions: &[&'static SupportedProtocolVersion],
) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(authority.roots())
}

fn client(authority: &Authority, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
    let mut config = builder(authority, versions).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}

async fn echo(stream: &mut client::TlsStream<TcpStream>) {
    stream.write_u8(7).await.unwrap();
    stream.flush().await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), 7);
}

fn config(folder: &TempDir, authority: &Authority) -> TlsConfig {
    let files = write(
        folder.path(),
        "server",
        &authority.server(&["localhost", "127.0.0.1"]),
    );
    TlsConfig {
        certificates: vec![files],
        ..TlsConfig::default()
    }
}

#[tokio::test]
async fn c1_both_versions_with_forward_secrecy_and_alpn_and_no_resumption() {
    let (folder, authority) = (TempDir::new().unwrap(), Authority::new());
    let server = Server::start(config(&folder, &authority)).await;
    for (version, expected) in [
        (&TLS12, ProtocolVersion::TLSv1_2),
        (&TLS13, ProtocolVersion::TLSv1_3),
    ] {
        let client = client(&authority, &[version]);
        // The second would resume if it could.
        for _ in 0..2 {
            let mut stream = server.connect(client.clone(), "localhost").await.unwrap();
            echo(&mut stream).await;
            let connection = stream.get_ref().1;
            assert_eq!(connection.protocol_version(), Some(expected));
            assert_eq!(connection.alpn_protocol(), Some(&b"http/1.1"[..]));
            assert_eq!(
                connection.handshake_kind(),
                Some(rustls::HandshakeKind::Full)
            );
        }
    }
    for suite in &server
        .acceptor
        .current
        .load()
        .server
        .crypto_provider()
        .cipher_suites
    {
        let name = format!("{:?}", suite.suite());
        assert!(
            name.starts_with("TLS13_") || name.starts_with("TLS_ECDHE_"),
            "{name}"
        );
        assert!(name.contains("GCM") || name.contains("POLY1305"), "{name}");
    }
}

#[tokio::test]
async fn c1_the_newest_version_alone_if_the_operator_says_so() {
    let (folder, authority) = (TempDir::new().unwrap(), Authority::new());
    let mut config = config(&folder, &authority);
    config.min_version = MinVersion::Tls13;
    let server = Server::start(config).await;
    assert!(
        server
            .connect(client(&authority, &[&TLS12]), "localhost")
            .await
            .is_err()
    );
    assert!(
        server
            .connect(client(&authority, &[&TLS13]), "localhost")
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn c1_old_versions_and_plain_http_are_refused() {
    let (folder, authority) = (TempDir::new().unwrap(), Authority::new());
    let mut server = Server::start(config(&folder, &authority)).await;
    // A ClientHello of TLS 1.1 (3,2) with one old suite and no extensions.
    let body = [&[3, 2][..], &[9; 32], &[0], &[0, 2, 0xc0, 0x13], &[1, 0]].concat();
    let hello = [&[1, 0, 0, body.len() as u8][..], &body].concat();
    let record = [&[22, 3, 1, 0, hello.len() as u8][..], &hello].concat();
    for said in [&record[..], b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(said).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        // An alert or nothing.
        assert!(answer.is_empty() || answer[0] == 21, "{answer:?}");
        assert!(matches!(
            server.outcome().await,
            Err(TlsError::Handshake(_))
        ));
    }
}

#[tokio::test]
async fn c1_clients_get_the_certificate_of_the_name_they_ask_for() {
    let (folder, authority) = (TempDir::new().unwrap(), Authority::new());
    let pairs = [
        authority.server(&["localhost"]),
        authority.server(&["voice.example.org", "VOICE2.example.org"]),
        authority.server(&["*.example.org"]),
    ];
    let certificates = pairs
        .iter()
        .enumerate()
        .map(|(n, pair)| write(folder.path(), &n.to_string(), pair));
    let server = Server::start(TlsConfig {
        certificates: certificates.collect(),
        ..TlsConfig::default()
    })
    .await;
    for (name, expected) in [
        ("localhost", 0),
        ("voice.example.org", 1),
        ("Voice2.Example.org", 1),
        ("other.example.org", 2),
    ] {
        assert_eq!(
            server.leaf(&authority, name).await,
            der(&pairs[expected].0),
            "{name}"
        );
    }
    let stranger = server
        .connect(client(&authority, BOTH), "a.b.example.org")
        .await;
    assert!(stranger.is_err(), "a star is one label");
}

fn with_identity(authority: &Authority, (certificate, key): &(String, String)) -> ClientConfig {
    builder(authority, BOTH)
        .with_client_auth_cert(
            vec![der(certificate)],
            PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
        )
        .unwrap()
}

#[tokio::test]
async fn c1_a_client_certificate_names_the_principal() {
    let (folder, authority, stranger) =
        (TempDir::new().unwrap(), Authority::new(), Authority::new());
    let ca = folder.path().join("ca.crt");
    fs::write(&ca, authority.0.pem()).unwrap();
    for client_auth in [ClientAuth::Required, ClientAuth::Optional] {
        let mut server = Server::start(TlsConfig {
            client_auth,
            client_ca_file: Some(ca.clone()),
            ..config(&folder, &authority)
        })
        .await;
        let pair = authority.client();
        let mut stream = server
            .connect(with_identity(&authority, &pair), "localhost")
            .await
            .unwrap();
        let identity = server.outcome().await.unwrap().unwrap();
        echo(&mut stream).await;
        assert_eq!(identity.subject(), Some("spiffe://example.org/billing"));
        assert_eq!(identity.common_name.as_deref(), Some("billing"));
        assert_eq!(identity.dns_names, ["billing.internal"]);
        assert_eq!(identity.fingerprint.len(), 64);
        assert!(!format!("{identity:?}").contains("billing"));

        // Of another authority, and for another purpose.
        for wrong in [stranger.client(), authority.server(&["x.example.org"])] {
            let _ = server
                .connect(with_identity(&authority, &wrong), "localhost")
                .await;
            assert!(matches!(
                server.outcome().await,
                Err(TlsError::Handshake(_))
            ));
        }
        let _ = server.connect(client(&authority, BOTH), "localhost").await;
        match (client_auth, server.outcome().await) {
            (ClientAuth::Required, Err(TlsError::Handshake(_)))
            | (ClientAuth::Optional, Ok(None)) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn c1_a_handshake_that_goes_nowhere_is_ended() {
    let (folder, authority) = (TempDir::new().unwrap(), Authority::new());
    let mut server = Server::start(config(&folder, &authority)).await;
    let begun = tokio::time::Instant::now();
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(&[22, 3, 1]).await.unwrap();
    assert!(matches!(server.outcome().await, Err(TlsError::TimedOut)));
    assert_eq!(begun.elapsed().as_secs(), 5);
}

#[tokio::test]
async fn c1_a_flood_from_one_address_is_stopped_before_any_cryptography() {
    let (folder, authority) = (TempDir::new().unwrap(), Authority::new());
    let left = Mutex::new(20_u32);
    let limit: HandshakeLimit = Arc::new(move |ip| {
        assert!(ip.is_loopback());
        let mut left = left.lock().unwrap();
        *left = left.saturating_sub(1);
        *left > 0
    });
    let acceptor = TlsAcceptor::new(config(&folder, &authority))
        .unwrap()
        .limit(limit);
    let mut server = Server::with(acceptor).await;
    let (mut accepted, mut limited) = (0, 0);
    for _ in 0..500 {
        let _ = server.connect(client(&authority, BOTH), "localhost").await;
        match server.outcome().await {
            Ok(_) => accepted += 1,
            Err(TlsError::Limited) => limited += 1,
            Err(other) => panic!("{other:?}"),
        }
    }
    assert_eq!((accepted, limited), (19, 481));
}

/// Waits for the next news of the files.
async fn news(reloads: &mut mpsc::Receiver<TlsReload>) -> TlsReload {
    tokio::time::timeout(SOON, reloads.recv())
        .await
        .unwrap()
        .unwrap()
}

fn watch(server: &Server) -> mpsc::Receiver<TlsReload> {
    let (sender, reloads) = mpsc::channel(16);
    server.acceptor.watch(&server.tasks, move |reload| {
        let _ = sender.try_send(reload);
    });
    reloads
}

#[tokio::test]
async fn c1_a_renewed_certificate_is_used_and_calls_go_on() {
    let (folder, authority) = (TempDir::new().unwrap(), Authority::new());
    let config = config(&folder, &authority);
    let files = config.certificates[0].clone();
    let server = Server::start(config).await;
    let mut reloads = watch(&server);
    let first = server.leaf(&authority, "localhost").await;
    let mut call = server
        .connect(client(&authority, BOTH), "localhost")
        .await
        .unwrap();
    echo(&mut call).await;

    // Broken: the old one stays.
    fs::write(&files.cert_file, "-----BEGIN CERTIFICATE-----\nnothing\n").unwrap();
    assert!(matches!(
        news(&mut reloads).await,
        TlsReload::Kept(TlsLoadError::Content { .. })
    ));
    assert_eq!(server.leaf(&authority, "localhost").await, first);

    // A certificate without its key is as good as broken.
    let renewed = authority.server(&["localhost"]);
    fs::write(&files.cert_file, &renewed.0).unwrap();
    assert!(matches!(
        news(&mut reloads).await,
        TlsReload::Kept(TlsLoadError::Pair { .. })
    ));
    assert_eq!(server.leaf(&authority, "localhost").await, first);

    fs::write(&files.key_file, &renewed.1).unwrap();
    let TlsReload::Reloaded(change) = news(&mut reloads).await else {
        panic!("not reloaded")
    };
    let files = ["cert_file", "key_file"].map(|file| format!("tls.certificates.0.{file}"));
    assert_eq!(change.settings, files);
    let print = ::aws_lc_rs::digest::digest(&::aws_lc_rs::digest::SHA256, &der(&renewed.0));
    let print: String = print
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(
        change.certificates,
        [("tls.certificates.0".to_owned(), print)]
    );
    assert_eq!(server.leaf(&authority, "localhost").await, der(&renewed.0));
    echo(&mut call).await;
    let shown = call.get_ref().1.peer_certificates().unwrap()[0].clone();
    assert_eq!(shown, first, "the call began with the old one");
}

/// How a Kubernetes volume changes: the files are links through `..data`, and that link is renamed over.
#[tokio::test]
async fn c1_a_turned_symbolic_link_is_noticed() {
    use std::os::unix::fs::symlink;
    let (folder, authority) = (TempDir::new().unwrap(), Authority::new());
    let pairs = [
        authority.server(&["localhost"]),
        authority.server(&["localhost"]),
    ];
    for (name, pair) in ["..one", "..two"].iter().zip(&pairs) {
        let version = folder.path().join(name);
        fs::create_dir(&version).unwrap();
        write(&version, "tls", pair);
    }
    symlink("..one", folder.path().join("..data")).unwrap();
    for file in ["tls.crt", "tls.key"] {
        symlink(format!("..data/{file}"), folder.path().join(file)).unwrap();
    }
    let server = Server::start(TlsConfig {
        certificates: vec![CertificateFiles {
            cert_file: folder.path().join("tls.crt"),
            key_file: folder.path().join("tls.key"),
        }],
        ..TlsConfig::default()
    })
    .await;
    let mut reloads = watch(&server);
    assert_eq!(server.leaf(&authority, "localhost").await, der(&pairs[0].0));
    let next = folder.path().join("..next");
    symlink("..two", &next).unwrap();
    fs::rename(next, folder.path().join("..data")).unwrap();
    let news = news(&mut reloads).await;
    assert!(matches!(news, TlsReload::Reloaded(_)), "{news:?}");
    assert_eq!(server.leaf(&authority, "localhost").await, der(&pairs[1].0));
}

#[test]
fn files_that_cannot_be_used_are_named_and_not_quoted() {
    let (folder, authority) = (TempDir::new().unwrap(), Authority::new());
    let good = config(&folder, &authority);
    let key = fs::read_to_string(&good.certificates[0].key_file).unwrap();
    let check = |change: &dyn Fn(&mut TlsConfig), expected: &str| {
        let mut config = good.clone();
        change(&mut config);
        let error = TlsAcceptor::new(config).unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(text.contains(expected), "{text}");
        assert!(
            !key.lines()
                .any(|line| line.len() > 20 && text.contains(line))
        );
    };
    check(
        &|config| config.certificates[0].key_file = "/nowhere".into(),
        "cannot read /nowhere",
    );
    check(
        &|config| config.certificates[0].key_file = config.certificates[0].cert_file.clone(),
        "private key in PEM",
    );
    check(
        &|config| config.certificates[0].cert_file = config.certificates[0].key_file.clone(),
        "certificate in PEM",
    );
    let other = write(folder.path(), "other", &authority.server(&["localhost"]));
    check(
        &|config| config.certificates[0].key_file = other.key_file.clone(),
        "its key cannot be used",
    );
    check(
        &|config| {
            config.client_auth = ClientAuth::Required;
            config.client_ca_file = Some(config.certificates[0].key_file.clone());
        },
        "certificate in PEM",
    );
}
