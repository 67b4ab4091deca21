use llmrtc_media::error::PeerError;

use crate::call::{Call, factory, loopback, text};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_arrive_in_order_both_ways() {
    let factory = factory(loopback());
    let mut call = Call::connect(&factory).await;
    for index in 0..50 {
        call.caller.send_data(format!("to server {index}")).unwrap();
        call.peer.send_data(format!("to client {index}")).unwrap();
    }
    for index in 0..50 {
        assert_eq!(
            text(&mut call.peer_events).await,
            format!("to server {index}")
        );
        assert_eq!(
            text(&mut call.caller_events).await,
            format!("to client {index}")
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_messages_arrive_whole_up_to_the_negotiated_limit() {
    let factory = factory(loopback());
    let mut call = Call::connect(&factory).await;
    for bytes in [200 * 1024, 262_144] {
        let message: String = (0..bytes)
            .map(|index| char::from(b'a' + (index % 23) as u8))
            .collect();
        call.caller.send_data(message.clone()).unwrap();
        assert!(
            text(&mut call.peer_events).await == message,
            "{bytes} bytes up"
        );
        call.peer.send_data(message.clone()).unwrap();
        assert!(
            text(&mut call.caller_events).await == message,
            "{bytes} bytes down"
        );
    }
    assert!(matches!(
        call.peer.send_data("x".repeat(262_145)),
        Err(PeerError::TooLarge { limit: 262_144, .. })
    ));
}
