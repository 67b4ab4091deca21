//! C1, deploy group: what `testssl.sh` thinks of our TLS.

use std::{
    fs,
    net::SocketAddr,
    process::Stdio,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use llmrtc_core::tasks::Tasks;
use llmrtc_security::net::tls::{CertificateFiles, TlsAcceptor, TlsConfig};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    date_time_ymd,
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    process::Command,
};

/// What no server on loopback with an authority of its own can have.
const OF_THE_TEST: [&str; 6] = [
    "cert_chain_of_trust",
    "cert_trust",
    "cert_caIssuers",
    "cert_revocation",
    "cert_ocspURL",
    "DNS_CAArecord",
];
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\
    strict-transport-security: max-age=31536000; includeSubDomains\r\nx-content-type-options: nosniff\r\n\
    content-security-policy: default-src 'none'\r\nx-frame-options: DENY\r\nreferrer-policy: no-referrer\r\n\r\n";

/// A leaf for three months, of an authority made a moment ago.
fn config(folder: &std::path::Path) -> TlsConfig {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let day = Duration::from_secs(24 * 3600);
    let valid = |params: &mut CertificateParams| {
        params.not_before = date_time_ymd(1970, 1, 1) + (now - day);
        params.not_after = date_time_ymd(1970, 1, 1) + (now + 90 * day);
    };
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    valid(&mut params);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let mut params = CertificateParams::new(vec!["localhost".into(), "127.0.0.1".into()]).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    valid(&mut params);
    let key = KeyPair::generate().unwrap();
    let leaf = params.signed_by(&key, &authority).unwrap();
    let files = CertificateFiles {
        cert_file: folder.join("tls.crt"),
        key_file: folder.join("tls.key"),
    };
    fs::write(&files.cert_file, leaf.pem() + &authority.pem()).unwrap();
    fs::write(&files.key_file, key.serialize_pem()).unwrap();
    TlsConfig {
        certificates: vec![files],
        ..TlsConfig::default()
    }
}

async fn serve(config: TlsConfig, tasks: &Tasks) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::new(config).unwrap();
    let connections = tasks.child("connections");
    tasks
        .spawn("accept", |_| async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                connections
                    .spawn("connection", |_| async move {
                        let Ok((mut stream, _)) = acceptor.accept(stream).await else {
                            return;
                        };
                        let mut request = [0; 4096];
                        if stream.read(&mut request).await.is_ok_and(|read| read > 0) {
                            let _ = stream.write_all(ANSWER).await;
                            let _ = stream.shutdown().await;
                        }
                    })
                    .detach();
            }
        })
        .detach();
    address
}

/// Needs Debian's `testssl.sh` and some minutes:
/// `cargo test -p llmrtc-security --test it testssl -- --ignored --nocapture`
#[tokio::test]
#[ignore = "deploy group"]
async fn c1_testssl_finds_nothing_above_low() {
    let folder = tempfile::tempdir().unwrap();
    let tasks = Tasks::root("testssl");
    let address = serve(config(folder.path()), &tasks).await;
    let report = folder.path().join("report.json");
    let status = Command::new("testssl")
        .args([
            "--quiet",
            "--color",
            "0",
            "--warnings",
            "batch",
            "--nodns",
            "min",
            "--ip",
            "127.0.0.1",
        ])
        .arg("--jsonfile")
        .arg(&report)
        .arg(format!("localhost:{}", address.port()))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .status();
    // Its exit code counts findings; the report names them.
    tokio::time::timeout(Duration::from_secs(3600), status)
        .await
        .unwrap()
        .expect("testssl is installed");
    let findings: Vec<Value> = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
    let text = |finding: &Value, name: &str| finding[name].as_str().unwrap_or_default().to_owned();
    let mut grave = Vec::new();
    for finding in &findings {
        let (id, severity) = (text(finding, "id"), text(finding, "severity"));
        if matches!(severity.as_str(), "MEDIUM" | "HIGH" | "CRITICAL" | "FATAL")
            && !OF_THE_TEST.iter().any(|of_test| id.starts_with(of_test))
        {
            grave.push(format!("{severity} {id}: {}", text(finding, "finding")));
        }
        if id == "FS" || id == "TLS1_3" || id == "ALPN" || severity == "LOW" {
            println!("{severity} {id}: {}", text(finding, "finding"));
        }
    }
    assert!(grave.is_empty(), "{grave:#?}");
    let said = |id: &str| {
        findings
            .iter()
            .find(|finding| text(finding, "id") == id)
            .map(|finding| text(finding, "finding"))
    };
    for old in ["SSLv2", "SSLv3", "TLS1", "TLS1_1"] {
        assert!(said(old).unwrap().contains("not offered"), "{old}");
    }
    for new in ["TLS1_2", "TLS1_3"] {
        assert!(said(new).unwrap().contains("offered"), "{new}");
    }
}
