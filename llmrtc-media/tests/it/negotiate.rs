use llmrtc_media::{
    error::PeerError,
    peer::sdp::{Direction, SdpError},
};

use crate::call::{Call, factory, loopback, negotiated, parse, sendable, text};

fn directions(sdp: &str) -> Vec<Direction> {
    parse(sdp)
        .sections
        .iter()
        .skip(1)
        .map(|section| section.direction)
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shared_microphone_is_answered_with_our_speech() {
    let factory = factory(loopback());
    let mut call = Call::connect(&factory).await;
    let (offer, answer) = call.share_microphone().await;
    assert_eq!(directions(&offer), [Direction::SendRecv]);
    assert_eq!(directions(&answer), [Direction::SendRecv]);
    assert!(answer.contains("a=msid:llmrtc speech"));
    assert_eq!(parse(&answer).sections[1].ssrcs.len(), 1);
    assert_eq!(parse(&answer).ufrag(), parse(&answer).ufrag());
    sendable(&mut call.peer_events, true).await;
    sendable(&mut call.caller_events, true).await;
    assert!(call.peer.can_send_audio() && call.caller.can_send_audio());
    assert!(call.peer.audio_negotiated());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shared_again_the_newest_section_listens_and_the_first_keeps_speaking() {
    use Direction::{Inactive, RecvOnly, SendOnly, SendRecv};
    let factory = factory(loopback());
    let mut call = Call::connect(&factory).await;
    let (_, first) = call.share_microphone().await;
    let (offer, answer) = call.share_microphone().await;
    assert_eq!(directions(&offer), [RecvOnly, SendRecv]);
    assert_eq!(directions(&answer), [SendOnly, RecvOnly]);
    let (offer, answer) = call.share_microphone().await;
    assert_eq!(directions(&offer), [RecvOnly, RecvOnly, SendRecv]);
    assert_eq!(directions(&answer), [SendOnly, Inactive, RecvOnly]);
    assert_eq!(
        parse(&first).sections[1].ssrcs,
        parse(&answer).sections[1].ssrcs,
        "speech stays one stream"
    );
    assert!(call.peer.can_send_audio());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_microphone_leaves_our_speech_alone() {
    let factory = factory(loopback());
    let mut call = Call::connect(&factory).await;
    call.share_microphone().await;
    sendable(&mut call.peer_events, true).await;
    let offer = call.caller.remove_microphone().await.unwrap();
    let answer = call.exchange(&offer).await;
    assert_eq!(directions(&offer), [Direction::RecvOnly]);
    assert_eq!(directions(&answer), [Direction::SendOnly]);
    assert!(call.peer.can_send_audio());
    assert!(!call.caller.can_send_audio());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_declines_our_speech_is_sent_none() {
    let factory = factory(loopback());
    let mut call = Call::connect(&factory).await;
    assert!(!call.peer.audio_negotiated());
    let offer = call.caller.add_microphone().await.unwrap();
    let declined = offer.replace("a=sendrecv", "a=sendonly");
    for (offer, expected) in [(&offer, true), (&declined, false), (&offer, true)] {
        call.peer.answer(offer).await.unwrap();
        negotiated(&mut call.peer_events, expected).await;
        assert_eq!(call.peer.audio_negotiated(), expected);
        sendable(&mut call.peer_events, expected).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ice_restart_is_answered_with_fresh_credentials_and_the_call_goes_on() {
    let factory = factory(loopback());
    let mut call = Call::prepare(&factory).await;
    let offer = call.caller.offer().await.unwrap();
    let before = call.exchange(&offer).await;
    crate::call::opened(&mut call.caller_events).await;
    crate::call::opened(&mut call.peer_events).await;

    let unchanged = call.caller.offer().await.unwrap();
    let unchanged = call.exchange(&unchanged).await;
    assert_eq!(parse(&before).ufrag(), parse(&unchanged).ufrag());

    let restart = call.caller.restart_ice().await.unwrap();
    let after = call.exchange(&restart).await;
    assert_ne!(parse(&before).ufrag(), parse(&after).ufrag());
    assert!(
        after.contains("a=candidate:"),
        "a restart needs candidates too"
    );
    call.caller.send_data("after the restart".into()).unwrap();
    assert_eq!(text(&mut call.peer_events).await, "after the restart");
    call.peer.send_data("and back".into()).unwrap();
    assert_eq!(text(&mut call.caller_events).await, "and back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offers_that_overlap_are_answered_in_turn() {
    let factory = factory(loopback());
    let call = Call::prepare(&factory).await;
    let offer = call.caller.offer().await.unwrap();
    let (first, second) = tokio::join!(call.peer.answer(&offer), call.peer.answer(&offer));
    assert_eq!(
        parse(&first.unwrap()).ufrag(),
        parse(&second.unwrap()).ufrag()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_offer_is_refused_and_a_good_one_still_works() {
    let factory = factory(loopback());
    let mut call = Call::connect(&factory).await;
    let good = call.caller.add_microphone().await.unwrap();
    let many = format!(
        "{good}{}",
        "m=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:9\r\n".repeat(500)
    );
    let swapped = good.replace("a=mid:0", "a=mid:7");
    let table: [(&str, &str, SdpError); 4] = [
        ("not SDP", "hello", SdpError::NotSdp),
        (
            "too many",
            &many,
            SdpError::TooMany {
                what: "m-lines",
                limit: 32,
            },
        ),
        ("another order", &swapped, SdpError::Reordered),
        (
            "no Opus",
            &good.replace("opus/48000/2", "PCMU/8000"),
            SdpError::NoOpus,
        ),
    ];
    for (name, offer, expected) in table {
        match call.peer.answer(offer).await {
            Err(PeerError::Description(error)) => assert_eq!(error, expected, "{name}"),
            other => panic!("{name}: {other:?}"),
        }
    }
    call.exchange(&good).await;
    sendable(&mut call.peer_events, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_offer_that_cannot_be_applied_ends_the_peer() {
    let factory = factory(loopback());
    let call = Call::connect(&factory).await;
    let good = call.caller.add_microphone().await.unwrap();
    // Two sections that contradict each other about their transport.
    let conflicting = {
        let position = good.rfind("a=ice-ufrag:").unwrap();
        let (head, tail) = good.split_at(position);
        format!(
            "{head}{}",
            tail.replacen("a=ice-ufrag:", "a=ice-ufrag:zzzz", 1)
        )
    };
    let error = call.peer.answer(&conflicting).await.unwrap_err();
    assert!(
        matches!(error, PeerError::Negotiation(_)) && error.is_fatal(),
        "{error:?}"
    );
    assert!(matches!(
        call.peer.answer(&good).await,
        Err(PeerError::Closed)
    ));
}

/// What Chrome sends when a page shares a microphone and a camera, shortened to what matters.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_everything_a_browser_offers_only_opus_is_taken() {
    let fingerprint = vec!["C4"; 32].join(":");
    let transport = format!(
        "c=IN IP4 0.0.0.0\r\na=ice-ufrag:Yx3k\r\na=ice-pwd:vVg4jRf0uJqkq1v2bYb8m3Xo\r\na=ice-options:trickle\r\n\
         a=fingerprint:sha-256 {fingerprint}\r\na=setup:actpass\r\n"
    );
    let offer = format!(
        "v=0\r\no=- 4611731400430051336 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1 2\r\n\
         a=extmap-allow-mixed\r\na=msid-semantic: WMS stream\r\n\
         m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\n{transport}\
         a=candidate:1 1 udp 2113937151 6a3c1d2e-5b1f-4e57-9f5c-0d6ae8a3f2b1.local 51820 typ host generation 0\r\n\
         a=candidate:2 1 tcp 1518280447 192.0.2.7 9 typ host tcptype active generation 0\r\n\
         a=mid:0\r\na=sctp-port:5000\r\na=max-message-size:262144\r\n\
         m=audio 9 UDP/TLS/RTP/SAVPF 96 63 9 0 8 13 110 126\r\n{transport}a=mid:1\r\n\
         a=extmap:1 urn:ietf:params:rtp-hdrext:ssrc-audio-level\r\n\
         a=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid\r\na=sendrecv\r\na=msid:stream track\r\na=rtcp-mux\r\n\
         a=rtcp-rsize\r\na=rtpmap:96 opus/48000/2\r\na=rtcp-fb:96 transport-cc\r\n\
         a=fmtp:96 minptime=10;useinbandfec=1\r\na=rtpmap:63 red/48000/2\r\na=fmtp:63 96/96\r\n\
         a=rtpmap:9 G722/8000\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:13 CN/8000\r\n\
         a=rtpmap:110 telephone-event/48000\r\na=rtpmap:126 telephone-event/8000\r\n\
         a=ssrc:3012345678 cname:abc\r\na=ssrc:3012345678 msid:stream track\r\n\
         m=video 9 UDP/TLS/RTP/SAVPF 97 98\r\n{transport}a=mid:2\r\na=sendonly\r\na=msid:stream camera\r\na=rtcp-mux\r\n\
         a=rtpmap:97 VP8/90000\r\na=rtpmap:98 rtx/90000\r\na=fmtp:98 apt=97\r\na=ssrc:77 cname:abc\r\n"
    );
    let factory = factory(loopback());
    let (peer, _events) = factory.answering(false).await.unwrap();
    let answer = peer.answer(&offer).await.unwrap();
    let sections = parse(&answer).sections;
    assert_eq!(sections.len(), 3);
    assert_eq!(
        (sections[1].direction, sections[1].rejected),
        (Direction::SendRecv, false)
    );
    assert_eq!(sections[1].opus, [96], "with the payload type of the offer");
    let audio = answer
        .lines()
        .find(|line| line.starts_with("m=audio"))
        .unwrap();
    assert_eq!(
        audio.split(' ').skip(3).collect::<Vec<_>>(),
        ["96"],
        "and nothing else"
    );
    assert!(sections[2].rejected, "there is never video");
}
