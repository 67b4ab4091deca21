//! The offline verifier (G3): what was done to a log since it was written.
//!
//! | Manipulation | Found by |
//! | --- | --- |
//! | a record edited | its mac; without the secret keys, the next record's `prev` |
//! | deleted, inserted, reordered | sequence numbers and `prev` |
//! | the end cut off | the last published head, and the sequence when the log goes on |
//! | two files spliced | `prev` |
//! | an older file put back | sequence across files, and the last published head |
//!
//! A torn line that a later run sealed is no manipulation: that run recorded its length and hash, under its own mac.
//! What comes after the last head can be cut without a trace until the next one, which is what the interval is for.
//! Works in constant memory and never panics, whatever the input.

use std::{
    fmt,
    io::{self, BufRead, Read},
    sync::Arc,
};

use aws_lc_rs::digest;

use super::{
    chain::{Line, MAX_LINE_BYTES, Position, encode, hash},
    keys::{AuditKeys, PublicKey},
};

/// Findings that are kept; further ones are counted.
const MAX_FINDINGS: usize = 100;

/// What the verifier trusts.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Trust {
    /// The secret keys: every record is checked.
    Keys(Arc<AuditKeys>),
    /// Public keys only: everything up to the last head is checked.
    PublicKeys(Vec<PublicKey>),
}

/// Something that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// The name of the file, as given.
    pub file: String,
    /// The line, counted from 1.
    pub line: u64,
    /// What it is.
    pub kind: FindingKind,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.kind)
    }
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FindingKind {
    /// The bytes are not those that were written.
    #[error("record {seq} was edited: its mac does not match")]
    Edited {
        /// Its number.
        seq: u64,
    },
    /// No record, and nobody sealed it.
    #[error("not a record")]
    Malformed,
    /// The last line breaks off and nobody has sealed it yet: the process was killed there, or the file was cut.
    #[error("the last line is torn and not sealed")]
    Torn,
    /// Records are missing.
    #[error("records {from} to {to} are missing")]
    Missing {
        /// The first.
        from: u64,
        /// The last.
        to: u64,
    },
    /// A record stands where it does not belong: inserted, repeated or moved.
    #[error("record {seq} is out of place: {expected} was expected")]
    OutOfPlace {
        /// Its number.
        seq: u64,
        /// The number that would have fitted.
        expected: u64,
    },
    /// The number fits and the chain does not: records of two logs were joined, or the record before was edited.
    #[error("record {seq} does not follow from the one before it")]
    BrokenLink {
        /// Its number.
        seq: u64,
    },
    /// A file begins in the middle.
    #[error("the file does not begin where a log begins: its first records are gone")]
    NoOpening,
    /// The records are those of another log.
    #[error("the log of node {found:?} instead of {expected:?}")]
    OtherLog {
        /// The node of the first file.
        expected: String,
        /// The node here.
        found: String,
    },
    /// A head whose signature is not valid, or by a key that is not trusted.
    #[error("head {seq} is not signed by a trusted key")]
    BadSignature {
        /// Its number.
        seq: u64,
    },
    /// Records of an epoch whose key is not there.
    #[error("no key for epoch {epoch}")]
    UnknownEpoch {
        /// The epoch.
        epoch: u32,
    },
    /// A published head is newer than the log.
    #[error(
        "the log ends at record {last}, but head {head} was published: its end was cut off, or the file is an older one"
    )]
    Truncated {
        /// The last record.
        last: u64,
        /// The head.
        head: u64,
    },
    /// A published head is not the one in the log.
    #[error("record {seq} is not the head that was published: the log was rewritten")]
    Replaced {
        /// The head.
        seq: u64,
    },
    /// Only public keys are trusted, and there is no head they could vouch for.
    #[error("nothing is signed: without the secret keys nothing can be verified")]
    Unsigned,
}

/// The outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// How many records were read.
    pub records: u64,
    /// The number of the first.
    pub first: Option<u64>,
    /// The number of the last.
    pub last: Option<u64>,
    /// When the last was written, in milliseconds since 1970.
    pub last_time: Option<u64>,
    /// Up to here a signature vouches for everything.
    pub signed_through: Option<u64>,
    /// Whether the last record is the head of an orderly end.
    pub closed: bool,
    /// Torn lines that a later run sealed: the numbers of the sealing records.
    pub sealed: Vec<u64>,
    /// What is wrong, in the order of the files; empty if nothing is.
    pub findings: Vec<Finding>,
    /// Findings beyond the first hundred.
    pub more_findings: u64,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_intact(&self) -> bool {
        self.findings.is_empty()
    }
}

/// Reads files in the order in which they were written.
#[derive(Debug)]
pub struct Verifier {
    trust: Trust,
    /// Heads that were published: number and hash.
    published: Vec<(u64, [u8; 32])>,
    report: Report,
    file: String,
    line: u64,
    /// The first line of a file is expected.
    beginning: bool,
    /// What the next record should be: its number and its link.
    next: Option<(u64, [u8; 32])>,
    /// How many lines came since then that are no genuine records. They may have been put in, or put in place of
    /// genuine ones; either way they are findings already.
    doubtful: u64,
    epoch: Option<u32>,
    node: Option<String>,
    debris: Option<Debris>,
}

/// Bytes that are no records, until somebody seals them.
struct Debris {
    line: u64,
    bytes: u64,
    hash: digest::Context,
    terminated: bool,
}

impl fmt::Debug for Debris {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Debris")
            .field("line", &self.line)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

impl Verifier {
    /// A verifier for one log.
    pub fn new(trust: Trust) -> Self {
        Self {
            trust,
            published: Vec::new(),
            report: Report::default(),
            file: String::new(),
            line: 0,
            beginning: true,
            next: None,
            doubtful: 0,
            epoch: None,
            node: None,
            debris: None,
        }
    }

    /// Adds a head that was published: the content of the `.head` file beside the log, or a copy kept elsewhere, which
    /// is worth more. Call before the files. Returns its number, `None` if no trusted key signed it.
    pub fn published_head(&mut self, line: &[u8]) -> Option<u64> {
        let line = Line::parse(line.strip_suffix(b"\n").unwrap_or(line))?;
        self.signed(&line).then(|| {
            self.published.push((line.seq, hash(line.raw)));
            line.seq
        })
    }

    /// Reads the next file.
    ///
    /// # Errors
    /// When it cannot be read; what is wrong with its content is a [`Finding`].
    pub fn file(&mut self, name: &str, mut reader: impl BufRead) -> io::Result<()> {
        self.settle_debris(None);
        name.clone_into(&mut self.file);
        self.line = 0;
        self.beginning = true;
        let mut buffer = Vec::new();
        let mut continued = false;
        loop {
            buffer.clear();
            let limit = MAX_LINE_BYTES as u64 + 1;
            if reader.by_ref().take(limit).read_until(b'\n', &mut buffer)? == 0 {
                break;
            }
            if !continued {
                self.line += 1;
            }
            let terminated = buffer.ends_with(b"\n");
            let overlong = !terminated && buffer.len() > MAX_LINE_BYTES;
            if continued || overlong {
                self.add_debris(&buffer, terminated);
            } else {
                self.line(&buffer, terminated);
            }
            continued = !terminated;
        }
        Ok(())
    }

    /// The outcome, after the last file.
    pub fn finish(mut self) -> Report {
        self.settle_debris(None);
        let last = self.report.last.unwrap_or(0);
        for (head, _) in std::mem::take(&mut self.published) {
            if head > last {
                self.find(FindingKind::Truncated { last, head });
            }
        }
        if matches!(self.trust, Trust::PublicKeys(_))
            && self.report.signed_through.is_none()
            && self.report.records > 0
        {
            self.find(FindingKind::Unsigned);
        }
        self.report
    }

    fn line(&mut self, buffer: &[u8], terminated: bool) {
        let raw = buffer.strip_suffix(b"\n").unwrap_or(buffer);
        let Some(line) = Line::parse(raw) else {
            self.add_debris(buffer, terminated);
            return;
        };
        self.settle_debris(Some(&line));
        self.report.records += 1;
        self.report.first.get_or_insert(line.seq);
        self.report.closed = false;
        let opens = line.is_opening();
        if std::mem::take(&mut self.beginning) && !opens {
            self.find(FindingKind::NoOpening);
        }
        if opens {
            self.opening(&line);
        }
        let genuine = self.mac_is_good(&line);
        if !genuine {
            self.find(FindingKind::Edited { seq: line.seq });
        }
        self.link(&line, genuine);
        if line.is_head() && genuine {
            self.head(&line);
        }
        for (seq, hash_) in self.published.clone() {
            if seq == line.seq && hash_ != hash(raw) {
                self.find(FindingKind::Replaced { seq });
            }
        }
    }

    fn opening(&mut self, line: &Line<'_>) {
        if let Some(epoch) = line.own.epoch {
            if let Trust::Keys(keys) = &self.trust
                && keys.get(epoch).is_none()
                && self.epoch != Some(epoch)
            {
                self.find(FindingKind::UnknownEpoch { epoch });
            }
            self.epoch = Some(epoch);
        }
        let found = line.own.node.clone().unwrap_or_default();
        match &self.node {
            None => self.node = Some(found),
            Some(expected) if *expected != found => {
                let expected = expected.clone();
                self.find(FindingKind::OtherLog { expected, found });
            }
            Some(_) => {}
        }
    }

    fn mac_is_good(&self, line: &Line<'_>) -> bool {
        let Trust::Keys(keys) = &self.trust else {
            return true;
        };
        match self.epoch {
            // An epoch without a key is a finding of its own.
            Some(epoch) => keys.get(epoch).is_none_or(|keys| line.has_mac_of(keys)),
            // A file that begins in the middle; that is a finding of its own.
            None => keys.all().any(|keys| line.has_mac_of(keys)),
        }
    }

    fn link(&mut self, line: &Line<'_>, genuine: bool) {
        if !genuine {
            self.doubtful += 1;
            return;
        }
        let seq = line.seq;
        let doubtful = std::mem::take(&mut self.doubtful);
        if let Some((expected, link)) = self.next {
            if seq < expected {
                self.find(FindingKind::OutOfPlace { seq, expected });
                // Whatever was expected still is.
                return;
            }
            if seq > expected.saturating_add(doubtful) {
                let (from, to) = (expected, seq - 1);
                self.find(FindingKind::Missing { from, to });
            } else if seq == expected && link != line.prev {
                self.find(FindingKind::BrokenLink { seq });
            }
        }
        let Position { next, last } = Position::after(line);
        self.next = Some((next, last));
        self.report.last = Some(seq);
        self.report.last_time = Some(line.time);
    }

    fn head(&mut self, line: &Line<'_>) {
        if self.signed(line) {
            self.report.signed_through = Some(line.seq);
            self.report.closed = line.own.reason.as_deref() == Some("close");
        } else {
            self.find(FindingKind::BadSignature { seq: line.seq });
        }
    }

    fn signed(&self, line: &Line<'_>) -> bool {
        match &self.trust {
            Trust::Keys(keys) => line
                .own
                .epoch
                .and_then(|epoch| keys.get(epoch))
                .is_some_and(|keys| line.is_signed_by(&keys.public)),
            Trust::PublicKeys(keys) => keys.iter().any(|key| line.is_signed_by(key)),
        }
    }

    fn add_debris(&mut self, bytes: &[u8], terminated: bool) {
        let line = self.line;
        let debris = self.debris.get_or_insert_with(|| Debris {
            line,
            bytes: 0,
            hash: digest::Context::new(&digest::SHA256),
            terminated,
        });
        debris.bytes += bytes.len() as u64;
        debris.hash.update(bytes);
        debris.terminated = terminated;
    }

    /// Decides about bytes that are no records, now that `next` follows them, or nothing.
    fn settle_debris(&mut self, next: Option<&Line<'_>>) {
        let Some(debris) = self.debris.take() else {
            return;
        };
        let hash = encode(
            &debris
                .hash
                .finish()
                .as_ref()
                .try_into()
                .expect("SHA-256 yields 32 bytes"),
        );
        if let Some(line) = next
            && line.is_opening()
            && line.own.torn_bytes == Some(debris.bytes)
            && line.own.torn_sha256.as_deref() == Some(&hash)
        {
            self.report.sealed.push(line.seq);
            return;
        }
        let here = std::mem::replace(&mut self.line, debris.line);
        self.find(if debris.terminated {
            FindingKind::Malformed
        } else {
            FindingKind::Torn
        });
        self.line = here;
        self.beginning &= next.is_none();
        self.doubtful += 1;
    }

    fn find(&mut self, kind: FindingKind) {
        if self.report.findings.len() < MAX_FINDINGS {
            self.report.findings.push(Finding {
                file: self.file.clone(),
                line: self.line,
                kind,
            });
        } else {
            self.report.more_findings += 1;
        }
    }
}
