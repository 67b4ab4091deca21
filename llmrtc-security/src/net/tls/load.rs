//! From files to what rustls works with.

use std::{collections::HashMap, fs, path::Path, sync::Arc};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{
        ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
        danger::ClientCertVerifier,
    },
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};
use webpki::EndEntityCert;
use zeroize::Zeroizing;

use super::{ClientAuth, Loaded, MinVersion, TlsConfig, TlsLoadError, config::CertificateFiles};

/// No file of ours is larger; a pipe or a device must not fill the memory.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Reads all files.
pub(super) fn load(config: &TlsConfig) -> Result<Loaded, TlsLoadError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut prints = Vec::new();
    let mut read = |path: &Path| {
        let bytes = read(path)?;
        prints.push(sha256(&bytes));
        Ok(bytes)
    };
    let mut names = Names::default();
    let mut leaves = Vec::new();
    for files in &config.certificates {
        let pair = pair(files, &mut read, &provider)?;
        leaves.push(pair.end_entity_cert().map(|leaf| sha256(leaf)).ok());
        names.add(Arc::new(pair));
    }
    let verifier = client_verifier(config, &mut read, &provider)?;
    let versions: &[_] = match config.min_version {
        MinVersion::Tls12 => &[&TLS13, &TLS12],
        MinVersion::Tls13 => &[&TLS13],
    };
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(TlsLoadError::Settings)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(names));
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    server.ignore_client_order = true;
    // No resumption of any kind: see the table of the module.
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    server.max_early_data_size = 0;
    Ok(Loaded {
        server: Arc::new(server),
        prints,
        leaves,
    })
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = ::aws_lc_rs::digest::digest(&::aws_lc_rs::digest::SHA256, bytes);
    let digest = digest.as_ref().try_into();
    digest.expect("SHA-256 yields 32 bytes")
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, TlsLoadError> {
    use std::io::Read;
    let mut bytes = Zeroizing::new(Vec::new());
    fs::File::open(path)
        .and_then(|file| file.take(MAX_FILE_BYTES).read_to_end(&mut bytes))
        .map_err(|source| TlsLoadError::Read {
            path: path.to_owned(),
            source,
        })?;
    Ok(bytes)
}

type Read<'a> = &'a mut dyn FnMut(&Path) -> Result<Zeroizing<Vec<u8>>, TlsLoadError>;

fn certificates(path: &Path, read: Read<'_>) -> Result<Vec<CertificateDer<'static>>, TlsLoadError> {
    let pem = read(path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    certificates
        .ok()
        .filter(|certificates| !certificates.is_empty())
        .ok_or_else(|| TlsLoadError::Content {
            path: path.to_owned(),
            what: "certificate",
        })
}

fn pair(
    files: &CertificateFiles,
    read: Read<'_>,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, TlsLoadError> {
    let chain = certificates(&files.cert_file, read)?;
    let pem = read(&files.key_file)?;
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| TlsLoadError::Content {
        path: files.key_file.clone(),
        what: "private key",
    })?;
    CertifiedKey::from_der(chain, key, provider).map_err(|source| TlsLoadError::Pair {
        path: files.cert_file.clone(),
        source,
    })
}

fn client_verifier(
    config: &TlsConfig,
    read: Read<'_>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsLoadError> {
    let (ClientAuth::Optional | ClientAuth::Required, Some(path)) =
        (config.client_auth, &config.client_ca_file)
    else {
        return Ok(WebPkiClientVerifier::no_client_auth());
    };
    let unusable = |source: Box<dyn std::error::Error + Send + Sync>| TlsLoadError::Authorities {
        path: path.clone(),
        source,
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, read)? {
        roots
            .add(certificate)
            .map_err(|error| unusable(error.into()))?;
    }
    let mut builder =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    if config.client_auth == ClientAuth::Optional {
        builder = builder.allow_unauthenticated();
    }
    builder.build().map_err(|error| unusable(error.into()))
}

/// Certificates by the names in them.
#[derive(Debug, Default)]
struct Names {
    /// Lower case; wildcards with their star.
    by_name: HashMap<String, Arc<CertifiedKey>>,
    /// For everybody else.
    first: Option<Arc<CertifiedKey>>,
}

impl Names {
    /// Of two certificates with the same name, the first is used.
    fn add(&mut self, pair: Arc<CertifiedKey>) {
        if let Some(leaf) = pair.cert.first()
            && let Ok(leaf) = EndEntityCert::try_from(leaf)
        {
            for name in leaf.valid_dns_names() {
                self.by_name
                    .entry(name.to_ascii_lowercase())
                    .or_insert_with(|| Arc::clone(&pair));
            }
        }
        self.first.get_or_insert(pair);
    }

    fn of(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        let name = name.to_ascii_lowercase();
        self.by_name.get(&name).or_else(|| {
            let (_, parent) = name.split_once('.')?;
            self.by_name.get(&format!("*.{parent}"))
        })
    }
}

impl ResolvesServerCert for Names {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.server_name().and_then(|name| self.of(name));
        named.or(self.first.as_ref()).cloned()
    }
}
