//! Who a verified client certificate speaks for.

use std::fmt;

use aws_lc_rs::digest;
use llmrtc_core::redact::Pii;
use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

/// The names in a client certificate that an authority of ours vouches for. Prints without them.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerIdentity {
    /// The common name of the subject, for certificates that have no better name.
    pub common_name: Option<String>,
    /// Names of hosts.
    pub dns_names: Vec<String>,
    /// URIs, such as a SPIFFE id.
    pub uris: Vec<String>,
    /// SHA-256 of the certificate in hexadecimal, to pin or to revoke it.
    pub fingerprint: String,
}

impl fmt::Debug for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerIdentity")
            .field("subject", &self.subject().map(Pii))
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

impl PeerIdentity {
    /// The name to use for a principal: the first URI, else the first host, else the common name.
    pub fn subject(&self) -> Option<&str> {
        let names = self
            .uris
            .first()
            .or(self.dns_names.first())
            .or(self.common_name.as_ref());
        names.map(String::as_str)
    }

    /// Reads a certificate that was verified. `None` when it is none.
    pub(super) fn read(der: &CertificateDer<'_>) -> Option<Self> {
        let certificate = EndEntityCert::try_from(der).ok()?;
        let hash = digest::digest(&digest::SHA256, der);
        Some(Self {
            common_name: common_name(certificate.subject()),
            dns_names: certificate.valid_dns_names().map(str::to_owned).collect(),
            uris: certificate.valid_uri_names().map(str::to_owned).collect(),
            fingerprint: hash
                .as_ref()
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect(),
        })
    }
}

/// Tags of DER.
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_IDENTIFIER: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
/// 2.5.4.3
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];

/// The last common name of a subject. A name is a sequence of sets of pairs of an identifier and a string.
fn common_name(mut subject: &[u8]) -> Option<String> {
    let mut found = None;
    while !subject.is_empty() {
        let (mut set, rest) = take(subject, SET)?;
        subject = rest;
        while !set.is_empty() {
            let (pair, rest) = take(set, SEQUENCE)?;
            set = rest;
            let (kind, value) = take(pair, OBJECT_IDENTIFIER)?;
            if kind == COMMON_NAME {
                let (text, _) =
                    take(value, UTF8_STRING).or_else(|| take(value, PRINTABLE_STRING))?;
                found = Some(std::str::from_utf8(text).ok()?.to_owned());
            }
        }
    }
    found
}

/// Splits off an element with this tag: its content, and what follows it. Names are shorter than 64 KiB.
fn take(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, der) = der.split_first()?;
    let (&length, der) = der.split_first()?;
    let (length, der) = match length {
        short @ 0..=0x7f => (usize::from(short), der),
        0x81 => der
            .split_first()
            .map(|(&length, der)| (usize::from(length), der))?,
        0x82 => der
            .split_first_chunk()
            .map(|(&length, der)| (usize::from(u16::from_be_bytes(length)), der))?,
        _ => return None,
    };
    (found == tag).then_some(())?;
    der.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_common_name_is_found_among_other_attributes() {
        let long = "x".repeat(200);
        for (value, length) in [("ada", &[3_u8][..]), (&long, &[0x81, 200])] {
            let attribute = |identifier: &[u8], value: &str| {
                let content = [
                    &[6, 3],
                    identifier,
                    &[UTF8_STRING],
                    length,
                    value.as_bytes(),
                ]
                .concat();
                let wrap = |tag, content: Vec<u8>| {
                    let [high, low] = (content.len() as u16).to_be_bytes();
                    [vec![tag, 0x82, high, low], content].concat()
                };
                wrap(SET, wrap(SEQUENCE, content))
            };
            let name = [
                attribute(&[0x55, 4, 10], value),
                attribute(COMMON_NAME, value),
            ]
            .concat();
            assert_eq!(common_name(&name).as_deref(), Some(value));
            assert_eq!(common_name(&attribute(&[0x55, 4, 10], value)), None);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_break_it(bytes: Vec<u8>) {
            common_name(&bytes);
        }
    }
}
