use std::time::Duration;

use llmrtc_media::{
    error::PeerError,
    peer::{CloseReason, PeerConfig, PeerEvent, sdp::Kind},
};
use tokio::{net::UdpSocket, time::timeout};

use crate::call::{Call, DEADLINE, LOOPBACK, factory, loopback, next, parse, text};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_answer_is_complete() {
    let factory = factory(loopback());
    let call = Call::prepare(&factory).await;
    let offer = call.caller.offer().await.unwrap();
    let kinds: Vec<Kind> = parse(&offer)
        .sections
        .iter()
        .map(|section| section.kind)
        .collect();
    assert_eq!(kinds, [Kind::Data], "a client offers no audio at first");

    let answer = call.peer.answer(&offer).await.unwrap();
    assert_eq!(parse(&answer).sections.len(), 1);
    assert_eq!(parse(&answer).max_message_bytes, 262_144);
    assert!(answer.contains("a=candidate:"), "candidates are inline");
    assert!(answer.contains("a=end-of-candidates"));
    assert!(!answer.contains("trickle"));
    assert!(answer.contains("a=setup:active"));
    assert_eq!(
        answer.matches("a=candidate:").count(),
        1,
        "one socket, no RTCP component"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_ends_report_the_connection() {
    let factory = factory(loopback());
    let mut call = Call::prepare(&factory).await;
    assert!(!call.peer.can_send_data());
    let offer = call.caller.offer().await.unwrap();
    call.exchange(&offer).await;
    for events in [&mut call.caller_events, &mut call.peer_events] {
        let mut connected = false;
        next(events, "the data channel", |event| match event {
            PeerEvent::Connected => {
                connected = true;
                None
            }
            PeerEvent::DataOpened => Some(()),
            _ => None,
        })
        .await;
        assert!(connected, "the transport precedes the channel");
    }
    assert!(call.peer.can_send_data() && !call.peer.can_send_audio());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_peer_tells_the_other_and_leaves_nothing_behind() {
    let metrics = tokio::runtime::Handle::current().metrics();
    let factory = factory(loopback());
    let before = metrics.num_alive_tasks();
    let call = Call::connect(&factory).await;
    assert!(metrics.num_alive_tasks() > before);
    let Call {
        caller,
        mut caller_events,
        peer,
        mut peer_events,
        ..
    } = call;

    drop(peer);
    let reason = next(&mut peer_events, "the end", |event| match event {
        PeerEvent::Closed(reason) => Some(reason),
        _ => None,
    });
    assert_eq!(reason.await, CloseReason::Local);
    assert!(peer_events.recv().await.is_none());
    next(&mut caller_events, "the other side's end", |event| {
        matches!(event, PeerEvent::DataClosed).then_some(())
    })
    .await;

    drop(caller);
    let gone = async {
        while !factory.is_empty() || metrics.num_alive_tasks() > before {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, gone).await.expect("all tasks end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_end_with_their_factory() {
    let factory = factory(loopback());
    let mut call = Call::connect(&factory).await;
    drop(factory);
    let ended = async { while call.peer_events.recv().await.is_some() {} };
    timeout(DEADLINE, ended).await.expect("events end");
    assert!(matches!(
        call.peer.answer("v=0").await,
        Err(PeerError::Closed)
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_negotiation_leaves_no_peer() {
    let factory = factory(loopback());
    {
        let call = Call::prepare(&factory).await;
        let offer = call.caller.offer().await.unwrap();
        // Polled once, so that the command is under way.
        let _ = timeout(Duration::ZERO, call.peer.answer(&offer)).await;
    }
    let gone = async {
        while !factory.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, gone).await.expect("both peers end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ports_stay_in_their_range_and_run_out_with_an_error() {
    // Two neighbours that are free right now.
    let mut first = 0;
    for port in (40_000..60_000).step_by(2) {
        if std::net::UdpSocket::bind((LOOPBACK, port)).is_ok()
            && std::net::UdpSocket::bind((LOOPBACK, port + 1)).is_ok()
        {
            first = port;
            break;
        }
    }
    let factory = factory(PeerConfig {
        udp_port_range: Some((first, first + 1)),
        ..loopback()
    });
    let call = Call::prepare(&factory).await;
    let offer = call.caller.offer().await.unwrap();
    let answer = call.exchange(&offer).await;
    for sdp in [offer, answer] {
        let range = [
            format!(" {first} typ host"),
            format!(" {} typ host", first + 1),
        ];
        assert!(range.iter().any(|port| sdp.contains(port)), "{sdp}");
    }
    assert!(matches!(
        factory.answering(false).await,
        Err(PeerError::Setup(_))
    ));
    assert!(matches!(factory.check().await, Err(PeerError::Setup(_))));
    drop(call);
    let released = async { while factory.check().await.is_err() {} };
    timeout(DEADLINE, released)
        .await
        .expect("ports are free again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_nat_the_advertised_address_is_what_peers_learn() {
    let factory = factory(PeerConfig {
        advertised_addresses: vec!["203.0.113.7".parse().unwrap()],
        ..loopback()
    });
    let call = Call::prepare(&factory).await;
    let offer = call.caller.offer().await.unwrap();
    let answer = call.peer.answer(&offer).await.unwrap();
    assert!(answer.contains(" 203.0.113.7 "));
    assert!(!answer.contains(" 127.0.0.1 "));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_the_media_port_disturbs_nobody() {
    let factory = factory(loopback());
    let mut call = Call::prepare(&factory).await;
    let offer = call.caller.offer().await.unwrap();
    let answer = call.peer.answer(&offer).await.unwrap();
    let candidate = answer
        .lines()
        .find(|line| line.starts_with("a=candidate:"))
        .unwrap();
    let port: u16 = candidate.split(' ').nth(5).unwrap().parse().unwrap();
    let stranger = UdpSocket::bind((LOOPBACK, 0)).await.unwrap();
    // One datagram of each protocol's first byte, cut at every length, before and after the call is up.
    let spray = async |stranger: &UdpSocket| {
        for first in [0u8, 1, 20, 22, 23, 25, 64, 128, 144, 200, 255] {
            for length in [1usize, 2, 4, 8, 12, 13, 20, 21, 25, 40, 100, 1_200] {
                let mut datagram = vec![0xA5; length];
                datagram[0] = first;
                stranger.send_to(&datagram, (LOOPBACK, port)).await.unwrap();
            }
        }
    };
    spray(&stranger).await;
    call.caller.accept_answer(&answer).await.unwrap();
    crate::call::opened(&mut call.caller_events).await;
    crate::call::opened(&mut call.peer_events).await;
    spray(&stranger).await;
    call.caller.send_data("still here".into()).unwrap();
    assert_eq!(text(&mut call.peer_events).await, "still here");
}

#[tokio::test]
async fn addresses_that_are_not_ours_are_found_at_start() {
    let foreign = factory(PeerConfig {
        bind_addresses: vec!["192.0.2.77".parse().unwrap()],
        ..loopback()
    });
    assert!(matches!(foreign.check().await, Err(PeerError::Setup(_))));
    factory(loopback())
        .check()
        .await
        .expect("loopback works everywhere");
}
