//! Bounds on a session description, before anything parses it.

/// Longest description. The stock client's have 1–8 KiB.
const MAX_BYTES: usize = 64 * 1024;
/// The stock client adds one media section per microphone share and never recycles them.
const MAX_MEDIA_SECTIONS: usize = 32;
/// Candidates in all sections together.
const MAX_CANDIDATES: usize = 64;
/// Attributes in one section, or before the first. Browsers send 20–120 for audio.
const MAX_ATTRIBUTES: usize = 256;
/// Longest line.
const MAX_LINE_BYTES: usize = 4096;

/// Why an offer is not even tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidOffer {
    /// Too long, or one of its lines is.
    #[error("session description or one of its lines is too long")]
    TooLong,
    /// Does not begin with `v=0`, or has a line that is not `<letter>=<value>`.
    #[error("not a session description")]
    Malformed,
    /// Nothing to negotiate.
    #[error("session description without media sections")]
    NoMedia,
    /// More than 32 media sections.
    #[error("too many media sections")]
    MediaSections,
    /// More than 64 candidates.
    #[error("too many candidates")]
    Candidates,
    /// More than 256 attributes in a section.
    #[error("too many attributes")]
    Attributes,
}

/// Checks an offer against its bounds. Linear, and nothing is allocated.
///
/// # Errors
/// If a bound is exceeded or the text is no session description at all (RFC 8866 §5).
pub fn check_offer(sdp: &str) -> Result<(), InvalidOffer> {
    if sdp.len() > MAX_BYTES {
        return Err(InvalidOffer::TooLong);
    }
    if sdp.lines().next() != Some("v=0") {
        return Err(InvalidOffer::Malformed);
    }
    let (mut sections, mut candidates, mut attributes) = (0, 0, 0);
    for line in sdp.lines() {
        if line.len() > MAX_LINE_BYTES {
            return Err(InvalidOffer::TooLong);
        }
        match line.as_bytes() {
            [b'm', b'=', ..] => {
                sections += 1;
                attributes = 0;
            }
            [b'a', b'=', value @ ..] => {
                attributes += 1;
                candidates += usize::from(value.starts_with(b"candidate:"));
            }
            [b'a'..=b'z', b'=', ..] => {}
            _ => return Err(InvalidOffer::Malformed),
        }
        if sections > MAX_MEDIA_SECTIONS {
            return Err(InvalidOffer::MediaSections);
        }
        if candidates > MAX_CANDIDATES {
            return Err(InvalidOffer::Candidates);
        }
        if attributes > MAX_ATTRIBUTES {
            return Err(InvalidOffer::Attributes);
        }
    }
    if sections == 0 {
        Err(InvalidOffer::NoMedia)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offers_are_bounded() {
        const HEAD: &str = "v=0\r\no=- 41 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n";
        const APPLICATION: &str = "m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\n";
        const AUDIO: &str = "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:1\r\n";
        const CANDIDATE: &str = "a=candidate:1 1 udp 2122260223 x.local 50000 typ host\r\n";

        let check = |parts: &[(&str, usize)]| {
            let body: String = parts
                .iter()
                .map(|(line, times)| line.repeat(*times))
                .collect();
            check_offer(&format!("{HEAD}{body}"))
        };
        assert_eq!(check(&[(APPLICATION, 1), (CANDIDATE, 64)]), Ok(()));
        assert_eq!(check(&[(APPLICATION, 1), (AUDIO, 31)]), Ok(()));
        assert_eq!(
            check(&[(AUDIO, 2), ("a=x\n", 255)]),
            Ok(()),
            "a bare line feed is tolerated"
        );
        assert_eq!(
            check(&[(APPLICATION, 1), (AUDIO, 500)]),
            Err(InvalidOffer::MediaSections)
        );
        assert_eq!(
            check(&[(APPLICATION, 1), (CANDIDATE, 65)]),
            Err(InvalidOffer::Candidates)
        );
        assert_eq!(
            check(&[("a=x\r\n", 257), (APPLICATION, 1)]),
            Err(InvalidOffer::Attributes)
        );
        assert_eq!(check(&[]), Err(InvalidOffer::NoMedia));
        assert_eq!(
            check(&[(APPLICATION, 1), ("\r\n", 1)]),
            Err(InvalidOffer::Malformed)
        );
        assert_eq!(
            check(&[(APPLICATION, 1), ("hello\r\n", 1)]),
            Err(InvalidOffer::Malformed)
        );
        assert_eq!(check(&[("a=", 1), ("x", 4096)]), Err(InvalidOffer::TooLong));
        assert_eq!(check(&[("m", 70_000)]), Err(InvalidOffer::TooLong));
        for garbage in ["", "v=1\r\n", "garbage", "\u{feff}v=0", "\0"] {
            assert_eq!(
                check_offer(garbage),
                Err(InvalidOffer::Malformed),
                "{garbage:?}"
            );
        }
    }
}
