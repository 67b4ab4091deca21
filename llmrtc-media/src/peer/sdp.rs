//! Session descriptions at the door: bounds before parsing, candidates by policy, and the little we need to know
//! ourselves. The WebRTC stack only ever sees what [`Description::parse`] let through.
//!
//! # Source
//! RFC 8866 (SDP), RFC 9429 (JSEP), RFC 8839 (ICE attributes), RFC 8841 (data channels), RFC 5576 (`a=ssrc`).

use std::{
    collections::HashSet,
    fmt::Write as _,
    net::{IpAddr, Ipv6Addr},
};

/// Largest description, in bytes. A browser's tenth re-share is below 20 KiB.
pub const MAX_BYTES: usize = 64 * 1024;
/// Most m-lines. Re-sharing a microphone adds one each time and never recycles any.
pub const MAX_SECTIONS: usize = 32;
/// Most candidates in one section.
pub const MAX_CANDIDATES: usize = 64;
/// Most attributes in one section, and before the first.
pub const MAX_ATTRIBUTES: usize = 256;
/// Longest line, in bytes.
pub const MAX_LINE: usize = 4 * 1024;
/// Candidates handed to the stack. Each is probed from each of our addresses, so a description must not turn this
/// server into a packet cannon.
pub const MAX_USED_CANDIDATES: usize = 16;
/// Most `a=ssrc` identifiers remembered per section; audio uses one.
const MAX_SSRCS: usize = 8;
/// What a peer takes when it does not say (RFC 8841 §6.1).
const DEFAULT_MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// Why a description was rejected. Shows no content: descriptions carry credentials and addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SdpError {
    /// It is not a session description.
    #[error("not a session description")]
    NotSdp,
    /// More of something than we take.
    #[error("more than {limit} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The bound.
        limit: usize,
    },
    /// Something that a WebRTC description always has is not there.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// Something is there, and wrong.
    #[error("{0} is invalid")]
    Invalid(&'static str),
    /// The first audio section offers no Opus.
    #[error("the first audio section offers no Opus")]
    NoOpus,
    /// A later offer does not repeat the m-lines of the earlier one.
    #[error("the m-lines of the previous offer are not repeated")]
    Reordered,
}

/// What an m-line carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// RTP audio.
    Audio,
    /// RTP video; never accepted.
    Video,
    /// The data channels.
    Data,
}

/// Who sends on an m-line, seen by the author of the description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Both.
    SendRecv,
    /// The author.
    SendOnly,
    /// The reader.
    RecvOnly,
    /// Nobody.
    Inactive,
}

impl Direction {
    fn parse(attribute: &str) -> Option<Self> {
        match attribute {
            "sendrecv" => Some(Self::SendRecv),
            "sendonly" => Some(Self::SendOnly),
            "recvonly" => Some(Self::RecvOnly),
            "inactive" => Some(Self::Inactive),
            _ => None,
        }
    }

    fn attribute(self) -> &'static str {
        match self {
            Self::SendRecv => "sendrecv",
            Self::SendOnly => "sendonly",
            Self::RecvOnly => "recvonly",
            Self::Inactive => "inactive",
        }
    }

    /// Whether the author sends.
    pub fn sends(self) -> bool {
        matches!(self, Self::SendRecv | Self::SendOnly)
    }

    /// Whether the author receives.
    pub fn receives(self) -> bool {
        matches!(self, Self::SendRecv | Self::RecvOnly)
    }
}

/// One m-line.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Section {
    /// What it carries.
    pub kind: Kind,
    /// `a=mid`.
    pub mid: String,
    /// Port 0: rejected or no longer used.
    pub rejected: bool,
    /// Who sends.
    pub direction: Direction,
    /// Synchronisation sources the author announced.
    pub ssrcs: Vec<u32>,
    /// Payload types that mean `opus/48000/2`, in the author's order of preference.
    pub opus: Vec<u8>,
}

impl Section {
    /// Whether the author sends audio here.
    pub fn sends_audio(&self) -> bool {
        self.kind == Kind::Audio && !self.rejected && self.direction.sends()
    }
}

/// Which remote candidates may be probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CandidatePolicy {
    /// Loopback addresses: only where we listen on one ourselves.
    pub loopback: bool,
    /// Private ranges (RFC 1918, RFC 6598, RFC 4193).
    pub private: bool,
}

impl CandidatePolicy {
    fn allows(self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(v4) => {
                let shared = v4.octets()[0] == 100 && v4.octets()[1] & 0xC0 == 64;
                // Link-local includes the metadata service of every cloud.
                let never = v4.is_unspecified()
                    || v4.is_multicast()
                    || v4.is_broadcast()
                    || v4.is_link_local()
                    || v4.octets()[0] == 0;
                !never
                    && (self.loopback || !v4.is_loopback())
                    && (self.private || !(v4.is_private() || shared))
            }
            IpAddr::V6(v6) => {
                let never = v6.is_unspecified() || v6.is_multicast() || is_link_local(v6);
                !never
                    && (self.loopback || !v6.is_loopback())
                    && (self.private || !v6.is_unique_local())
            }
        }
    }
}

/// `fe80::/10`; unusable without a zone, which does not survive into a candidate.
pub(crate) fn is_link_local(address: Ipv6Addr) -> bool {
    address.segments()[0] & 0xFFC0 == 0xFE80
}

/// A checked session description.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Description {
    /// The m-lines in order.
    pub sections: Vec<Section>,
    /// Largest data channel message the author takes, in bytes. 0 in the description means no limit.
    pub max_message_bytes: usize,
    ufrag: String,
    /// The description as the stack gets it.
    sanitised: String,
}

impl Description {
    /// Checks a description. Candidates that cannot or must not be used (mDNS names, TCP, RTCP components, addresses
    /// outside `policy`) are left out, never fatal: the remote's own checks still find us.
    ///
    /// # Errors
    /// When it is not SDP, exceeds a bound, or lacks what WebRTC requires.
    pub fn parse(sdp: &str, policy: CandidatePolicy) -> Result<Self, SdpError> {
        if sdp.len() > MAX_BYTES {
            return Err(SdpError::TooMany {
                what: "bytes",
                limit: MAX_BYTES,
            });
        }
        let mut lines = sdp.lines();
        if lines.next() != Some("v=0") {
            return Err(SdpError::NotSdp);
        }
        let mut parser = Parser::new(policy, sdp.len());
        for line in lines {
            parser.line(line)?;
        }
        parser.finish()
    }

    /// The description without what we do not want the stack to see. Lines end in CR LF.
    pub fn as_str(&self) -> &str {
        &self.sanitised
    }

    /// The ICE user name fragment. A change of it is an ICE restart.
    pub fn ufrag(&self) -> &str {
        &self.ufrag
    }

    /// The section all speech of the server is sent on: the first audio section ever offered.
    pub fn first_audio(&self) -> Option<&Section> {
        self.sections.iter().find(|s| s.kind == Kind::Audio)
    }

    /// The section whose audio counts: of those that send, the newest.
    pub fn microphone(&self) -> Option<&Section> {
        self.sections.iter().rev().find(|s| s.sends_audio())
    }

    /// Whether this may follow `previous` in the same call (RFC 9429 §5.2.2: m-lines are appended, never removed).
    pub(crate) fn may_follow(&self, previous: &Self) -> bool {
        self.sections.len() >= previous.sections.len()
            && previous
                .sections
                .iter()
                .zip(&self.sections)
                .all(|(old, new)| old.kind == new.kind && old.mid == new.mid)
    }
}

struct Parser {
    policy: CandidatePolicy,
    out: String,
    sections: Vec<Section>,
    /// Whether the section at hand said who sends; a missing direction is inherited (RFC 8866 §6.7).
    direction_given: bool,
    session_direction: Direction,
    attributes: usize,
    candidates: usize,
    used_candidates: usize,
    max_message_bytes: usize,
    ufrag: Option<String>,
    has_password: bool,
    has_fingerprint: bool,
}

impl Parser {
    fn new(policy: CandidatePolicy, capacity: usize) -> Self {
        let mut out = String::with_capacity(capacity + 64);
        out.push_str("v=0\r\n");
        Self {
            policy,
            out,
            sections: Vec::new(),
            direction_given: true,
            session_direction: Direction::SendRecv,
            attributes: 0,
            candidates: 0,
            used_candidates: 0,
            max_message_bytes: DEFAULT_MAX_MESSAGE_BYTES,
            ufrag: None,
            has_password: false,
            has_fingerprint: false,
        }
    }

    fn line(&mut self, line: &str) -> Result<(), SdpError> {
        if line.is_empty() {
            return Ok(());
        }
        if line.len() > MAX_LINE {
            return Err(SdpError::TooMany {
                what: "bytes in a line",
                limit: MAX_LINE,
            });
        }
        if line.bytes().any(|byte| byte < b' ' && byte != b'\t') {
            return Err(SdpError::NotSdp);
        }
        let Some((kind, value)) = line
            .split_once('=')
            .filter(|(kind, _)| kind.len() == 1 && kind.as_bytes()[0].is_ascii_lowercase())
        else {
            return Err(SdpError::NotSdp);
        };
        let keep = match kind {
            "m" => self.media(value)?,
            "a" => self.attribute(value)?,
            _ => true,
        };
        if keep {
            self.out.push_str(line);
            self.out.push_str("\r\n");
        }
        Ok(())
    }

    fn media(&mut self, value: &str) -> Result<bool, SdpError> {
        self.end_section()?;
        if self.sections.len() == MAX_SECTIONS {
            return Err(SdpError::TooMany {
                what: "m-lines",
                limit: MAX_SECTIONS,
            });
        }
        let mut words = value.split_ascii_whitespace();
        let kind = match words.next() {
            Some("audio") => Kind::Audio,
            Some("video") => Kind::Video,
            Some("application") => Kind::Data,
            _ => return Err(SdpError::Invalid("m-line")),
        };
        let port: u16 = words
            .next()
            .and_then(|port| port.parse().ok())
            .ok_or(SdpError::Invalid("m-line"))?;
        let protocol = words.next().ok_or(SdpError::Invalid("m-line"))?;
        let fits = match kind {
            Kind::Data => {
                protocol.ends_with("DTLS/SCTP") && words.next() == Some("webrtc-datachannel")
            }
            Kind::Audio | Kind::Video => protocol.ends_with("SAVPF") && words.next().is_some(),
        };
        if !fits {
            return Err(SdpError::Invalid("m-line"));
        }
        if kind == Kind::Data && self.sections.iter().any(|s| s.kind == Kind::Data) {
            return Err(SdpError::TooMany {
                what: "application m-lines",
                limit: 1,
            });
        }
        self.sections.push(Section {
            kind,
            mid: String::new(),
            rejected: port == 0,
            direction: self.session_direction,
            ssrcs: Vec::new(),
            opus: Vec::new(),
        });
        self.direction_given = kind == Kind::Data;
        self.attributes = 0;
        self.candidates = 0;
        Ok(true)
    }

    fn attribute(&mut self, attribute: &str) -> Result<bool, SdpError> {
        self.attributes += 1;
        if self.attributes > MAX_ATTRIBUTES {
            return Err(SdpError::TooMany {
                what: "attributes in a section",
                limit: MAX_ATTRIBUTES,
            });
        }
        if let Some(direction) = Direction::parse(attribute) {
            match self.sections.last_mut() {
                Some(section) => {
                    section.direction = direction;
                    self.direction_given = true;
                }
                None => self.session_direction = direction,
            }
            return Ok(true);
        }
        let (key, value) = attribute.split_once(':').unwrap_or((attribute, ""));
        match key {
            "candidate" => self.candidate(value),
            // We have one stream per m-line.
            "rid" | "simulcast" => Ok(false),
            "ice-ufrag" => {
                if !(4..=256).contains(&value.len()) {
                    return Err(SdpError::Invalid("a=ice-ufrag"));
                }
                self.ufrag.get_or_insert_with(|| value.to_owned());
                Ok(true)
            }
            "ice-pwd" => {
                if !(22..=256).contains(&value.len()) {
                    return Err(SdpError::Invalid("a=ice-pwd"));
                }
                self.has_password = true;
                Ok(true)
            }
            "fingerprint" => {
                fingerprint(value)?;
                self.has_fingerprint = true;
                Ok(true)
            }
            "mid" | "ssrc" | "rtpmap" | "max-message-size" => self.section_attribute(key, value),
            _ => Ok(true),
        }
    }

    fn section_attribute(&mut self, key: &str, value: &str) -> Result<bool, SdpError> {
        let Some(section) = self.sections.last_mut() else {
            return Ok(true);
        };
        match key {
            "mid" => {
                let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.{}+".contains(&byte);
                if value.is_empty() || value.len() > 64 || !value.bytes().all(plain) {
                    return Err(SdpError::Invalid("a=mid"));
                }
                value.clone_into(&mut section.mid);
            }
            "ssrc" => {
                let ssrc = value.split(' ').next().unwrap_or_default();
                let ssrc: u32 = ssrc.parse().map_err(|_| SdpError::Invalid("a=ssrc"))?;
                if section.ssrcs.len() < MAX_SSRCS && !section.ssrcs.contains(&ssrc) {
                    section.ssrcs.push(ssrc);
                }
            }
            "rtpmap" => {
                let mut words = value.split_ascii_whitespace();
                let payload_type = words.next().and_then(|word| word.parse::<u8>().ok());
                let codec = words.next();
                let (Some(payload_type @ 0..=127), Some(codec)) = (payload_type, codec) else {
                    return Err(SdpError::Invalid("a=rtpmap"));
                };
                if codec.eq_ignore_ascii_case("opus/48000/2")
                    && !section.opus.contains(&payload_type)
                {
                    section.opus.push(payload_type);
                }
            }
            _ => {
                let bytes: u64 = value
                    .parse()
                    .map_err(|_| SdpError::Invalid("a=max-message-size"))?;
                self.max_message_bytes = match usize::try_from(bytes) {
                    Ok(0) | Err(_) => usize::MAX,
                    Ok(bytes) => bytes,
                };
            }
        }
        Ok(true)
    }

    /// Writes the candidate itself, in its shortest form, if it is one we use.
    fn candidate(&mut self, value: &str) -> Result<bool, SdpError> {
        self.candidates += 1;
        if self.candidates > MAX_CANDIDATES {
            return Err(SdpError::TooMany {
                what: "candidates in a section",
                limit: MAX_CANDIDATES,
            });
        }
        if self.used_candidates == MAX_USED_CANDIDATES || self.sections.is_empty() {
            return Ok(false);
        }
        if let Some(candidate) = Candidate::parse(value).filter(|c| self.policy.allows(c.address)) {
            self.used_candidates += 1;
            candidate.write(&mut self.out);
        }
        Ok(false)
    }

    fn end_section(&mut self) -> Result<(), SdpError> {
        let Some(section) = self.sections.last() else {
            return Ok(());
        };
        if section.mid.is_empty() {
            return Err(SdpError::Missing("a=mid"));
        }
        if !self.direction_given {
            // The stack leaves an m-line without a direction out of its answer.
            let _ = write!(self.out, "a={}\r\n", section.direction.attribute());
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Description, SdpError> {
        self.end_section()?;
        if self.sections.is_empty() {
            return Err(SdpError::Missing("m-line"));
        }
        let mids: HashSet<&str> = self.sections.iter().map(|s| s.mid.as_str()).collect();
        if mids.len() != self.sections.len() {
            return Err(SdpError::Invalid("a=mid"));
        }
        if !self.has_password {
            return Err(SdpError::Missing("a=ice-pwd"));
        }
        if !self.has_fingerprint {
            return Err(SdpError::Missing("a=fingerprint"));
        }
        let description = Description {
            ufrag: self.ufrag.ok_or(SdpError::Missing("a=ice-ufrag"))?,
            sections: self.sections,
            max_message_bytes: self.max_message_bytes,
            sanitised: self.out,
        };
        // The stack would pair our speech with it and then find nothing to speak.
        match description.first_audio() {
            Some(audio) if !audio.rejected && audio.opus.is_empty() => Err(SdpError::NoOpus),
            _ => Ok(description),
        }
    }
}

/// `sha-256 AB:CD:…`. SHA-1 is refused (RFC 8122 §5.1).
fn fingerprint(value: &str) -> Result<(), SdpError> {
    let digest_bytes = |algorithm: &str| match algorithm {
        "sha-256" => Some(32),
        "sha-384" => Some(48),
        "sha-512" => Some(64),
        _ => None,
    };
    value
        .split_once(' ')
        .filter(|(algorithm, digest)| {
            digest_bytes(&algorithm.to_ascii_lowercase()) == Some(digest.split(':').count())
                && digest
                    .split(':')
                    .all(|byte| byte.len() == 2 && byte.bytes().all(|b| b.is_ascii_hexdigit()))
        })
        .map(|_| ())
        .ok_or(SdpError::Invalid("a=fingerprint"))
}

/// A UDP candidate of component 1 (RTCP is multiplexed) with a literal address.
struct Candidate<'a> {
    foundation: &'a str,
    priority: u32,
    address: IpAddr,
    port: u16,
    kind: &'a str,
}

impl<'a> Candidate<'a> {
    fn parse(value: &'a str) -> Option<Self> {
        let mut words = value.split_ascii_whitespace();
        let foundation = words.next().filter(|f| f.len() <= 32)?;
        let component = words.next()?;
        let transport = words.next()?;
        let priority = words.next()?.parse().ok()?;
        let address = words.next()?.parse().ok()?;
        let port = words.next()?.parse().ok().filter(|port| *port != 0)?;
        let kind = (words.next()? == "typ").then(|| words.next())??;
        (component == "1"
            && transport.eq_ignore_ascii_case("udp")
            && matches!(kind, "host" | "srflx" | "prflx" | "relay"))
        .then_some(Self {
            foundation,
            priority,
            address,
            port,
            kind,
        })
    }

    fn write(&self, out: &mut String) {
        let Self {
            foundation,
            priority,
            address,
            port,
            kind,
        } = self;
        let _ = write!(
            out,
            "a=candidate:{foundation} 1 udp {priority} {address} {port} typ {kind}"
        );
        if *kind != "host" {
            // Required by the grammar; the remote's inner address is none of our business, nor ours of theirs.
            let unspecified = if address.is_ipv4() { "0.0.0.0" } else { "::" };
            let _ = write!(out, " raddr {unspecified} rport 9");
        }
        out.push_str("\r\n");
    }
}

/// Makes our own description complete: candidates of the RTP component only, none that nobody can reach, and, behind
/// a one-to-one NAT, `advertised` addresses in place of the host addresses they map to.
///
/// A host candidate of a family without an advertised address stays as it is.
pub(crate) fn with_advertised(sdp: &str, advertised: &[IpAddr]) -> String {
    let mut out = String::with_capacity(sdp.len() + 64 * advertised.len());
    let mut written: HashSet<(IpAddr, u16)> = HashSet::new();
    for line in sdp.lines() {
        let Some(value) = line.strip_prefix("a=candidate:") else {
            out.push_str(line);
            out.push_str("\r\n");
            continue;
        };
        let Some(candidate) = Candidate::parse(value).filter(|c| !c.address.is_unspecified())
        else {
            continue;
        };
        let substitutes: Vec<IpAddr> = advertised
            .iter()
            .copied()
            .filter(|a| candidate.kind == "host" && a.is_ipv4() == candidate.address.is_ipv4())
            .collect();
        let addresses = if substitutes.is_empty() {
            vec![candidate.address]
        } else {
            substitutes
        };
        for address in addresses {
            if written.insert((address, candidate.port)) {
                Candidate {
                    address,
                    ..candidate
                }
                .write(&mut out);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests;
