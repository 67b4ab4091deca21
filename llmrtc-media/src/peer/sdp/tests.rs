use super::*;

const POLICY: CandidatePolicy = CandidatePolicy {
    loopback: false,
    private: true,
};

/// What a browser sends first, with `media` in place of its attributes beyond the required ones.
fn offer(sections: &[&str]) -> String {
    let mut sdp = String::from(
        "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\n\
         a=ice-ufrag:abcd\r\na=ice-pwd:0123456789abcdef012345\r\n\
         a=fingerprint:sha-256 ",
    );
    sdp.push_str(&vec!["AB"; 32].join(":"));
    sdp.push_str("\r\n");
    for section in sections {
        sdp.push_str(section);
    }
    sdp
}

const DATA: &str = "m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\na=mid:0\r\n\
                    a=sctp-port:5000\r\na=max-message-size:262144\r\n";

fn audio(mid: u32, rest: &str) -> String {
    format!(
        "m=audio 9 UDP/TLS/RTP/SAVPF 111 63 9 0 8 13 110\r\nc=IN IP4 0.0.0.0\r\na=mid:{mid}\r\n\
         a=rtpmap:111 opus/48000/2\r\na=rtpmap:63 red/48000/2\r\na=rtpmap:9 G722/8000\r\n{rest}"
    )
}

#[test]
fn a_browsers_offer_is_understood() {
    let first = Description::parse(&offer(&[DATA]), POLICY).unwrap();
    assert_eq!(first.sections.len(), 1);
    assert_eq!(first.sections[0].kind, Kind::Data);
    assert_eq!(first.max_message_bytes, 262_144);
    assert_eq!(first.ufrag, "abcd");
    assert!(first.first_audio().is_none() && first.microphone().is_none());

    let old = audio(1, "a=recvonly\r\n");
    let new = audio(
        2,
        "a=sendrecv\r\na=ssrc:77 cname:x\r\na=ssrc:77 msid:s t\r\n",
    );
    let second = Description::parse(&offer(&[DATA, &old, &new]), POLICY).unwrap();
    assert_eq!(second.first_audio().map(|s| s.mid.as_str()), Some("1"));
    let microphone = second.microphone().unwrap();
    assert_eq!(
        (microphone.mid.as_str(), microphone.direction),
        ("2", Direction::SendRecv)
    );
    assert_eq!(
        (&microphone.ssrcs[..], &microphone.opus[..]),
        (&[77][..], &[111][..])
    );
    assert!(second.may_follow(&first));
    assert!(!first.may_follow(&second));
}

#[test]
fn what_is_not_webrtc_is_rejected_with_a_reason() {
    let many = |what, limit| SdpError::TooMany { what, limit };
    let no_password = offer(&[DATA]).replace("a=ice-pwd:0123456789abcdef012345\r\n", "");
    let no_ufrag = offer(&[DATA]).replace("a=ice-ufrag:abcd\r\n", "");
    let no_fingerprint = offer(&[DATA]).replace("a=fingerprint:", "a=x:");
    let sha1 = offer(&[DATA]).replace("sha-256", "sha-1");
    let lines: Vec<String> = (0..500)
        .map(|mid| format!("m=audio 0 UDP/TLS/RTP/SAVPF 0\r\na=mid:{mid}\r\n"))
        .collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let candidate = "a=candidate:1 1 udp 1 192.0.2.1 9 typ host\r\n";
    let table: Vec<(&str, String, SdpError)> = vec![
        ("nothing", String::new(), SdpError::NotSdp),
        ("JSON", "{\"type\":\"offer\"}".into(), SdpError::NotSdp),
        ("binary", "v=0\r\n\u{0}\u{1}".into(), SdpError::NotSdp),
        ("prose", "v=0\r\nhello there".into(), SdpError::NotSdp),
        ("no m-line", offer(&[]), SdpError::Missing("m-line")),
        (
            "no mid",
            offer(&[&DATA.replace("a=mid:0\r\n", "")]),
            SdpError::Missing("a=mid"),
        ),
        (
            "one mid twice",
            offer(&[DATA, &audio(0, "")]),
            SdpError::Invalid("a=mid"),
        ),
        (
            "a mid with spaces",
            offer(&[&DATA.replace("mid:0", "mid:a b")]),
            SdpError::Invalid("a=mid"),
        ),
        ("no password", no_password, SdpError::Missing("a=ice-pwd")),
        ("no ufrag", no_ufrag, SdpError::Missing("a=ice-ufrag")),
        (
            "no fingerprint",
            no_fingerprint,
            SdpError::Missing("a=fingerprint"),
        ),
        ("SHA-1", sha1, SdpError::Invalid("a=fingerprint")),
        (
            "plain RTP",
            offer(&[&audio(0, "").replace("UDP/TLS/RTP/SAVPF", "RTP/AVP")]),
            SdpError::Invalid("m-line"),
        ),
        (
            "another kind",
            offer(&["m=text 9 UDP/TLS/RTP/SAVPF 98\r\na=mid:0\r\n"]),
            SdpError::Invalid("m-line"),
        ),
        (
            "a port beyond ports",
            offer(&[&DATA.replace(" 9 ", " 99999 ")]),
            SdpError::Invalid("m-line"),
        ),
        (
            "audio without Opus",
            offer(&[&audio(0, "").replace("opus", "speex")]),
            SdpError::NoOpus,
        ),
        (
            "two applications",
            offer(&[DATA, &DATA.replace("mid:0", "mid:1")]),
            many("application m-lines", 1),
        ),
        ("500 m-lines", offer(&lines), many("m-lines", MAX_SECTIONS)),
        (
            "65 candidates",
            offer(&[DATA, &candidate.repeat(65)]),
            many("candidates in a section", MAX_CANDIDATES),
        ),
        (
            "300 attributes",
            offer(&[DATA, &"a=x\r\n".repeat(300)]),
            many("attributes in a section", MAX_ATTRIBUTES),
        ),
        (
            "a long line",
            offer(&[DATA, &format!("a=x:{}\r\n", "y".repeat(5_000))]),
            many("bytes in a line", MAX_LINE),
        ),
        (
            "a long text",
            format!("v=0\r\n{}", "a=x\r\n".repeat(20_000)),
            many("bytes", MAX_BYTES),
        ),
    ];
    for (name, sdp, expected) in table {
        assert_eq!(
            Description::parse(&sdp, POLICY).unwrap_err(),
            expected,
            "{name}"
        );
    }
}

#[test]
fn only_usable_candidates_reach_the_stack() {
    let public = CandidatePolicy {
        loopback: false,
        private: false,
    };
    let local = CandidatePolicy {
        loopback: true,
        private: true,
    };
    // Candidate, kept by: the strict policy, the default one, one for a server on loopback.
    let table = [
        (
            "1 1 udp 5 198.51.100.7 4000 typ srflx raddr 10.0.0.7 rport 9",
            [true, true, true],
        ),
        (
            "1 1 UDP 5 2001:db8::7 4000 typ host generation 0 network-id 1",
            [true, true, true],
        ),
        ("1 1 udp 5 10.0.0.7 4000 typ host", [false, true, true]),
        ("1 1 udp 5 100.64.0.7 4000 typ host", [false, true, true]),
        ("1 1 udp 5 fd00::7 4000 typ host", [false, true, true]),
        ("1 1 udp 5 127.0.0.1 4000 typ host", [false, false, true]),
        ("1 1 udp 5 ::1 4000 typ host", [false, false, true]),
        (
            "1 1 udp 5 ::ffff:127.0.0.1 4000 typ host",
            [false, false, true],
        ),
        ("1 1 udp 5 169.254.169.254 80 typ host", [false; 3]),
        ("1 1 udp 5 fe80::7 4000 typ host", [false; 3]),
        ("1 1 udp 5 224.0.0.1 4000 typ host", [false; 3]),
        ("1 1 udp 5 255.255.255.255 4000 typ host", [false; 3]),
        ("1 1 udp 5 0.0.0.0 4000 typ host", [false; 3]),
        ("1 1 udp 5 198.51.100.7 0 typ host", [false; 3]),
        ("1 2 udp 5 198.51.100.7 4000 typ host", [false; 3]),
        (
            "1 1 tcp 5 198.51.100.7 9 typ host tcptype active",
            [false; 3],
        ),
        ("1 1 udp 5 6a3c1d2e.local 4000 typ host", [false; 3]),
        ("1 1 udp 5 example.org 4000 typ host", [false; 3]),
        ("1 1 udp x 198.51.100.7 4000 typ host", [false; 3]),
        ("1 1 udp 5 198.51.100.7 4000 typ alien", [false; 3]),
        ("", [false; 3]),
    ];
    for (candidate, expected) in table {
        let sdp = offer(&[DATA, &format!("a=candidate:{candidate}\r\n")]);
        for (policy, expected) in [public, POLICY, local].into_iter().zip(expected) {
            let kept = Description::parse(&sdp, policy)
                .unwrap()
                .as_str()
                .contains("a=candidate:");
            assert_eq!(kept, expected, "{candidate:?} with {policy:?}");
        }
    }
}

#[test]
fn a_description_is_no_packet_cannon() {
    let candidates: String = (0..60)
        .map(|host| format!("a=candidate:1 1 udp 5 198.51.100.{host} 4000 typ host\r\n"))
        .collect();
    let description = Description::parse(&offer(&[DATA, &candidates]), POLICY).unwrap();
    assert_eq!(
        description.as_str().matches("a=candidate:").count(),
        MAX_USED_CANDIDATES
    );
}

#[test]
fn a_missing_direction_is_written_out() {
    let description = Description::parse(&offer(&[DATA, &audio(1, "")]), POLICY).unwrap();
    assert_eq!(description.sections[1].direction, Direction::SendRecv);
    assert!(description.as_str().ends_with("a=sendrecv\r\n"));
    assert!(
        !description
            .as_str()
            .contains("m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\na=sendrecv")
    );
}

#[test]
fn messages_are_limited_to_what_the_remote_takes() {
    let limit = |line: &str| {
        let data = DATA.replace("a=max-message-size:262144\r\n", line);
        Description::parse(&offer(&[&data]), POLICY).map(|d| d.max_message_bytes)
    };
    assert_eq!(limit("a=max-message-size:100000\r\n"), Ok(100_000));
    assert_eq!(limit("a=max-message-size:0\r\n"), Ok(usize::MAX));
    assert_eq!(limit(""), Ok(65_536));
    assert_eq!(
        limit("a=max-message-size:many\r\n"),
        Err(SdpError::Invalid("a=max-message-size"))
    );
}

#[test]
fn advertised_addresses_replace_those_they_map_to() {
    let sdp = "v=0\r\nm=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\n\
               a=candidate:1 1 udp 5 10.0.0.7 50000 typ host\r\n\
               a=candidate:1 2 udp 5 10.0.0.7 50000 typ host\r\n\
               a=candidate:2 1 udp 5 10.1.0.7 50000 typ host\r\n\
               a=candidate:3 1 udp 5 2001:db8::7 50000 typ host\r\n\
               a=candidate:4 1 udp 5 0.0.0.0 50001 typ host\r\n\
               a=candidate:5 1 udp 5 203.0.113.9 50002 typ srflx raddr 10.0.0.7 rport 50000\r\n\
               a=end-of-candidates\r\n";
    let addresses = |advertised: &[&str]| -> Vec<String> {
        let advertised: Vec<IpAddr> = advertised.iter().map(|a| a.parse().unwrap()).collect();
        with_advertised(sdp, &advertised)
            .lines()
            .filter_map(|line| line.strip_prefix("a=candidate:"))
            .map(|candidate| {
                candidate
                    .split(' ')
                    .skip(4)
                    .take(2)
                    .collect::<Vec<_>>()
                    .join(" ")
            })
            .collect()
    };
    assert_eq!(
        addresses(&[]),
        [
            "10.0.0.7 50000",
            "10.1.0.7 50000",
            "2001:db8::7 50000",
            "203.0.113.9 50002"
        ]
    );
    assert_eq!(
        addresses(&["198.51.100.1"]),
        [
            "198.51.100.1 50000",
            "2001:db8::7 50000",
            "203.0.113.9 50002"
        ],
        "two inner addresses behind one outer one are the same candidate"
    );
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn nothing_panics_and_nothing_passes_twice_differently(text in "(v=0\r\n)?([a-z]=.{0,60}\r\n){0,30}") {
            if let Ok(description) = Description::parse(&text, POLICY) {
                let again = Description::parse(description.as_str(), POLICY).unwrap();
                prop_assert_eq!(again.sections, description.sections);
            }
        }

        #[test]
        fn a_damaged_offer_does_not_panic(position in 0usize..900, byte in 0u8..128) {
            let mut sdp = offer(&[DATA, &audio(1, "a=sendrecv\r\na=ssrc:1 cname:x\r\n")]).into_bytes();
            let position = position % sdp.len();
            sdp[position] = byte;
            let text = String::from_utf8(sdp).unwrap();
            let parsed = Description::parse(&text, POLICY);
            if let Ok(description) = parsed {
                prop_assert!(description.sections.len() <= 2);
            }
        }
    }
}
