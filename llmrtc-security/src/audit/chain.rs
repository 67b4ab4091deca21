//! The chain (G3): what each line ends with, and how it is read back.
//!
//! A record is one line of JSON that ends in
//!
//! ```text
//! …,"prev":"<hash>","mac":"<mac>"}}                 any record
//! …,"prev":"<hash>","sig":"<sig>","mac":"<mac>"}}   a head
//! ```
//!
//! `hash` is the SHA-256 of the previous line without its line feed, zeros for the first record of all. `mac` is
//! HMAC-SHA-256 over every byte of the line before `,"mac"`, under the key of the epoch that the last `log_opened`
//! names. `sig` is Ed25519 over a domain label and every byte before `,"sig"`. All in base64url without padding, so the
//! lengths are fixed and the signed bytes are found without parsing.
//!
//! The hashes alone form a chain, so that whoever has only the public key can verify everything up to the last head;
//! the macs protect the records after it, and each on its own.

use std::sync::Arc;

use aws_lc_rs::digest;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use serde::Deserialize;

use super::{
    keys::{AuditKeys, EpochKeys},
    render::Rendered,
};

pub(super) type Digest = [u8; 32];

/// Longest line. Eight fields of full length and two lists stay below it.
pub(super) const MAX_LINE_BYTES: usize = 128 * 1024;
/// Separates our signatures from others made with the same key.
const HEAD_DOMAIN: &[u8] = b"llmrtc audit head v1\n";
/// Characters of 32 and of 64 bytes.
const HASH_CHARS: usize = 43;
const SIGNATURE_CHARS: usize = 86;
const END: &[u8] = b"}}";

/// Where a chain stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// The number of the next record; the first is 1.
    pub(super) next: u64,
    /// The hash of the last line.
    pub(super) last: Digest,
}

impl Position {
    /// Before the first record.
    pub(super) const START: Self = Self {
        next: 1,
        last: [0; 32],
    };

    /// After a line.
    pub(super) fn after(line: &Line<'_>) -> Self {
        Self {
            next: line.seq.saturating_add(1),
            last: hash(line.raw),
        }
    }
}

/// Appends records to a buffer.
#[derive(Clone, Debug)]
pub(super) struct Chain {
    keys: Arc<AuditKeys>,
    pub(super) position: Position,
}

impl Chain {
    pub(super) fn new(keys: Arc<AuditKeys>, position: Position) -> Self {
        Self { keys, position }
    }

    pub(super) fn keys(&self) -> &EpochKeys {
        self.keys.current()
    }

    pub(super) fn set_keys(&mut self, keys: Arc<AuditKeys>) {
        self.keys = keys;
    }

    /// Adds a line.
    pub(super) fn append(&mut self, record: &Rendered, out: &mut Vec<u8>) {
        self.line(record, false, out);
    }

    /// Adds a signed line.
    pub(super) fn append_head(&mut self, record: &Rendered, out: &mut Vec<u8>) {
        self.line(record, true, out);
    }

    fn line(&mut self, record: &Rendered, sign: bool, out: &mut Vec<u8>) {
        let start = out.len();
        let (before, after) = record.bytes.split_at(record.sequence_at);
        out.extend_from_slice(before);
        out.extend_from_slice(self.position.next.to_string().as_bytes());
        out.extend_from_slice(after);
        field(out, "prev", &self.position.last);
        let keys = self.keys.current();
        if sign {
            let signature = keys.sign(&[HEAD_DOMAIN, &out[start..]].concat());
            field(out, "sig", &signature);
        }
        let mac = keys.mac(&out[start..]);
        field(out, "mac", &mac);
        out.extend_from_slice(END);
        self.position = Position {
            next: self.position.next + 1,
            last: hash(&out[start..]),
        };
        out.push(b'\n');
    }
}

fn field(out: &mut Vec<u8>, name: &str, bytes: &[u8]) {
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
    out.extend_from_slice(format!("\"{name}\":\"{}\"", BASE64.encode(bytes)).as_bytes());
}

pub(super) fn hash(bytes: &[u8]) -> Digest {
    digest::digest(&digest::SHA256, bytes)
        .as_ref()
        .try_into()
        .expect("SHA-256 yields 32 bytes")
}

pub(super) fn encode(hash: &Digest) -> String {
    BASE64.encode(hash)
}

/// A line as it claims to be. Nothing in it is verified.
#[derive(Debug)]
pub(super) struct Line<'a> {
    /// Without its line feed.
    pub(super) raw: &'a [u8],
    pub(super) seq: u64,
    pub(super) code: String,
    pub(super) time: u64,
    pub(super) prev: Digest,
    pub(super) own: Own,
    mac: Digest,
    mac_over: &'a [u8],
    signature: Option<([u8; 64], &'a [u8])>,
}

/// What the log's own records say.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Own {
    pub(super) reason: Option<String>,
    pub(super) node: Option<String>,
    pub(super) epoch: Option<u32>,
    pub(super) key: Option<String>,
    pub(super) torn_bytes: Option<u64>,
    pub(super) torn_sha256: Option<String>,
    pub(super) behind_head: Option<u64>,
}

#[derive(Deserialize)]
struct Document {
    time: u64,
    metadata: Metadata,
    /// Ordinary events use none of these names.
    unmapped: Own,
}

#[derive(Deserialize)]
struct Metadata {
    sequence: u64,
    event_code: String,
}

impl<'a> Line<'a> {
    /// Reads a line. `None` when it is no record at all.
    pub(super) fn parse(raw: &'a [u8]) -> Option<Self> {
        if raw.len() > MAX_LINE_BYTES {
            return None;
        }
        let (mac_over, mac) = strip(raw.strip_suffix(END)?, "mac", HASH_CHARS)?;
        let signed = strip(mac_over, "sig", SIGNATURE_CHARS);
        let (_, prev) = strip(
            signed.as_ref().map_or(mac_over, |(over, _)| over),
            "prev",
            HASH_CHARS,
        )?;
        let document: Document = serde_json::from_slice(raw).ok()?;
        let signature = match signed {
            Some((over, bytes)) => Some((bytes.try_into().ok()?, over)),
            None => None,
        };
        Some(Self {
            raw,
            seq: document.metadata.sequence,
            code: document.metadata.event_code,
            time: document.time,
            prev: prev.try_into().ok()?,
            own: document.unmapped,
            mac: mac.try_into().ok()?,
            mac_over,
            signature,
        })
    }

    pub(super) fn is_opening(&self) -> bool {
        self.code == OPENED
    }

    pub(super) fn is_head(&self) -> bool {
        self.code == HEAD
    }

    pub(super) fn has_mac_of(&self, keys: &EpochKeys) -> bool {
        keys.verify_mac(self.mac_over, &self.mac)
    }

    pub(super) fn is_signed_by(&self, key: &super::keys::PublicKey) -> bool {
        self.signature
            .as_ref()
            .is_some_and(|(signature, over)| key.verify(&[HEAD_DOMAIN, over].concat(), signature))
    }
}

pub(super) const OPENED: &str = "log_opened";
pub(super) const HEAD: &str = "log_head";

/// Splits `…,"name":"value"` into what is before it and the value's bytes.
fn strip<'a>(bytes: &'a [u8], name: &str, chars: usize) -> Option<(&'a [u8], Vec<u8>)> {
    let bytes = bytes.strip_suffix(b"\"")?;
    let (rest, value) = bytes.split_at_checked(bytes.len().checked_sub(chars)?)?;
    let rest = rest.strip_suffix(format!("\"{name}\":\"").as_bytes())?;
    Some((
        rest.strip_suffix(b",").unwrap_or(rest),
        BASE64.decode(value).ok()?,
    ))
}
