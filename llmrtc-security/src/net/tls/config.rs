//! The TLS section of the configuration.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use llmrtc_core::duration;
use serde::Deserialize;
use validator::{Validate, ValidationError};

use super::DEFAULT_HANDSHAKE_TIMEOUT;

/// Certificates, and who has to show one.
#[derive(Clone, Debug, PartialEq, Deserialize, Validate)]
#[serde(default, deny_unknown_fields)]
#[validate(schema(function = "tls_is_consistent"))]
pub struct TlsConfig {
    /// Certificates with their keys. The first is for clients that ask for no name, or for one that none covers.
    /// Empty: no TLS; at most 64.
    pub certificates: Vec<CertificateFiles>,
    /// Whether clients show certificates.
    pub client_auth: ClientAuth,
    /// The authorities of client certificates, in PEM.
    pub client_ca_file: Option<PathBuf>,
    /// The oldest version that is spoken.
    pub min_version: MinVersion,
    /// Longest handshake, 100 ms–60 s.
    #[serde(with = "duration")]
    pub handshake_timeout: Duration,
}

/// A certificate and its key, both in PEM. The names are read from the certificate.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateFiles {
    /// The chain, leaf first.
    pub cert_file: PathBuf,
    /// The key of the leaf.
    pub key_file: PathBuf,
}

/// Whether clients show certificates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ClientAuth {
    /// They are not asked.
    #[default]
    Off,
    /// They may; a wrong one ends the handshake.
    Optional,
    /// They must.
    Required,
}

/// The oldest version of TLS that is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub enum MinVersion {
    /// With ephemeral keys and AEAD only. Clients of before 2020 need it.
    #[default]
    #[serde(rename = "1.2")]
    Tls12,
    /// Only the newest.
    #[serde(rename = "1.3")]
    Tls13,
}

impl TlsConfig {
    /// Whether connections are secured.
    pub fn is_enabled(&self) -> bool {
        !self.certificates.is_empty()
    }
}

impl Default for TlsConfig {
    fn default() -> Self {
        Self {
            certificates: Vec::new(),
            client_auth: ClientAuth::Off,
            client_ca_file: None,
            min_version: MinVersion::Tls12,
            handshake_timeout: DEFAULT_HANDSHAKE_TIMEOUT,
        }
    }
}

fn tls_is_consistent(tls: &TlsConfig) -> Result<(), ValidationError> {
    let problem = |message: &'static str| {
        Err(ValidationError::new("inconsistent").with_message(message.into()))
    };
    if tls.certificates.len() > 64 {
        return problem("there may be at most 64 certificates");
    }
    let asked = tls.client_auth != ClientAuth::Off;
    if asked != tls.client_ca_file.is_some() {
        return problem("client_auth and client_ca_file belong together");
    }
    if asked && !tls.is_enabled() {
        return problem("client_auth needs certificates of the server");
    }
    let ms = Duration::from_millis;
    if !(ms(100)..=ms(60_000)).contains(&tls.handshake_timeout) {
        return problem("handshake_timeout must be 100ms to 60s");
    }
    Ok(())
}

/// A listener that would carry voices and credentials in the clear.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "refusing to speak plain HTTP on {address}: configure certificates, bind to 127.0.0.1, or say that a proxy in \
     front ends TLS (behind_proxy)"
)]
pub struct PlaintextError {
    address: IpAddr,
}

/// Whether a listener may speak plain HTTP: on loopback, or behind a proxy that ends TLS.
///
/// # Errors
/// When strangers could listen in.
pub fn check_plaintext(
    address: IpAddr,
    tls: bool,
    behind_proxy: bool,
) -> Result<(), PlaintextError> {
    if tls || behind_proxy || address.to_canonical().is_loopback() {
        Ok(())
    } else {
        Err(PlaintextError { address })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_nonsense_is_not() {
        let valid = |json: &str| {
            serde_json::from_str::<TlsConfig>(json)
                .unwrap()
                .validate()
                .is_ok()
        };
        let pair = r#""certificates": [{"cert_file": "a", "key_file": "b"}]"#;
        assert!(TlsConfig::default().validate().is_ok());
        assert!(!TlsConfig::default().is_enabled());
        assert!(valid(&format!(
            r#"{{{pair}, "min_version": "1.3", "handshake_timeout": "1s"}}"#
        )));
        assert!(valid(&format!(
            r#"{{{pair}, "client_auth": "required", "client_ca_file": "c"}}"#
        )));
        for bad in [
            format!(r#"{{{pair}, "client_auth": "required"}}"#),
            format!(r#"{{{pair}, "client_ca_file": "c"}}"#),
            r#"{"client_auth": "optional", "client_ca_file": "c"}"#.into(),
            format!(r#"{{{pair}, "handshake_timeout": "1ms"}}"#),
        ] {
            assert!(!valid(&bad), "{bad}");
        }
        for wrong in [
            r#"{"min_version": "1.1"}"#,
            r#"{"certificates": [{"cert_file": "a"}]}"#,
        ] {
            assert!(serde_json::from_str::<TlsConfig>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn c1_plain_http_stays_on_this_machine_or_behind_a_proxy() {
        for (address, tls, proxy, allowed) in [
            ("127.0.0.1", false, false, true),
            ("::ffff:127.0.0.1", false, false, true),
            ("::1", false, false, true),
            ("0.0.0.0", false, false, false),
            ("::", false, false, false),
            ("192.0.2.1", false, false, false),
            ("192.0.2.1", true, false, true),
            ("192.0.2.1", false, true, true),
        ] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(
                check_plaintext(address, tls, proxy).is_ok(),
                allowed,
                "{address}"
            );
        }
    }
}
