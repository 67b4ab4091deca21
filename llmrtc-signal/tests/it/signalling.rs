use bytes::Bytes;
use llmrtc_core::message::{Attachment, ImageSource};
use llmrtc_signal::{
    connection::{ConnectionEvent, NegotiateError},
    protocol::{ClientMessage, ErrorCode, ServerMessage},
};

use crate::harness::Server;

const OFFER: &str = "v=0\r\nm=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\n";

#[tokio::test]
async fn an_offer_is_answered_and_payload_follows_the_data_channel() {
    let mut server = Server::start().await;
    let (mut caller, mut session) = server.connect().await;

    caller.client.offer(OFFER).await.unwrap();
    let ConnectionEvent::Offer { sdp } = session.event().await else {
        panic!()
    };
    assert_eq!(sdp, OFFER);
    session.connection.answer(Ok("v=0 answer".into()));
    session.connection.send(ServerMessage::SpeechStart);
    let ServerMessage::Signal { sdp } = caller.message().await else {
        panic!()
    };
    assert_eq!(sdp, "v=0 answer");

    // The client sees its data channel open first; from now on it ignores payload on the WebSocket.
    caller.client.set_connected(true);
    session.connection.data_opened();
    session.connection.send(ServerMessage::SpeechEnd);
    for kind in ["speech-start", "speech-end"] {
        let ConnectionEvent::SendData(text) = session.event().await else {
            panic!()
        };
        caller.client.data_message(text).await.unwrap();
        assert_eq!(
            caller.message().await.kind(),
            kind,
            "once each, mirrored or not"
        );
    }

    let attachments = vec![Attachment {
        source: ImageSource::Inline {
            media_type: "image/gif",
            data: Bytes::from_static(b"GIF89a"),
        },
        alt: None,
    }];
    session.connection.data_message(
        ClientMessage::Attachments {
            attachments: attachments.clone(),
        }
        .to_json(),
    );
    let ConnectionEvent::Attachments(received) = session.event().await else {
        panic!()
    };
    assert_eq!(received, attachments);

    // A failed renegotiation is heard although the client is connected.
    caller.client.offer(OFFER).await.unwrap();
    assert!(matches!(
        session.event().await,
        ConnectionEvent::Offer { .. }
    ));
    session.connection.answer(Err(NegotiateError::Failed));
    let ConnectionEvent::SendData(text) = session.event().await else {
        panic!()
    };
    caller.client.data_message(text).await.unwrap();
    let ServerMessage::Error { code, .. } = caller.message().await else {
        panic!()
    };
    assert_eq!(code, ErrorCode::ConnectionFailed);
}

#[tokio::test]
async fn a_long_utterance_arrives_whole() {
    let mut server = Server::start().await;
    let (mut caller, mut session) = server.connect().await;
    let utterance: Bytes = (0..3 * 1024 * 1024)
        .map(|n: usize| (n % 251) as u8)
        .collect();
    caller
        .client
        .audio(utterance.clone(), vec![])
        .await
        .unwrap();
    let ConnectionEvent::Audio { data, .. } = session.event().await else {
        panic!()
    };
    assert!(data == utterance);
    session.connection.send(ServerMessage::Llm {
        text: "Understood.".into(),
    });
    assert!(matches!(caller.message().await, ServerMessage::Llm { .. }));
}
