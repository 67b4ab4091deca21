use llmrtc_core::redact::Secret;
use llmrtc_signal::{
    client::{ClientEvent, ConnectError, LostReason, connect},
    connection::{CloseReason, ConnectionEvent, ResumeReply},
    protocol::PROTOCOL_VERSION,
};

use crate::harness::Server;

#[tokio::test]
async fn the_server_greets_and_either_end_can_close() {
    let mut server = Server::start().await;
    let (caller, mut session) = server.connect().await;
    assert_eq!(caller.greeting.session_id.expose(), "own");
    assert_eq!(caller.greeting.resume_token.unwrap().expose(), "first");
    assert_eq!(caller.greeting.protocol_version, PROTOCOL_VERSION);
    assert_eq!(caller.greeting.resumed, None);

    caller.client.close().await;
    let reason = CloseReason::Client(Some(1000));
    let ConnectionEvent::Closed { reason: told } = session.event().await else {
        panic!()
    };
    assert_eq!(told, reason);

    let (mut caller, session) = server.connect().await;
    session.connection.close(CloseReason::TakenOver);
    assert!(matches!(
        caller.event().await,
        ClientEvent::Lost(LostReason::Server(Some(4001)))
    ));
    assert!(caller.events.recv().await.is_none());
    assert!(caller.client.offer("v=0").await.is_err());
}

#[tokio::test]
async fn a_refused_upgrade_reports_its_status() {
    let server = Server::start().await;
    let refused = connect(server.options("refused")).await.unwrap_err();
    assert!(
        matches!(refused, ConnectError::Refused { status: 403 }),
        "{refused:?}"
    );
    let missing = connect(server.options("nowhere")).await.unwrap_err();
    assert!(
        matches!(missing, ConnectError::Refused { status: 404 }),
        "{missing:?}"
    );

    let mut options = server.options("");
    options.bearer = Some(Secret::new("a\nb"));
    assert!(matches!(
        connect(options).await.unwrap_err(),
        ConnectError::Header
    ));
    let mut options = server.options("");
    options.url = "wss://localhost/".parse().unwrap();
    assert!(matches!(
        connect(options).await.unwrap_err(),
        ConnectError::Scheme
    ));
    drop(server);
}

#[tokio::test]
async fn a_server_that_never_greets_is_given_up() {
    let server = Server::start().await;
    let silent = connect(server.options("silent")).await.unwrap_err();
    assert!(matches!(silent, ConnectError::NoReady), "{silent:?}");
}

#[tokio::test]
async fn a_session_is_resumed() {
    let mut server = Server::start().await;
    let (caller, _session) = server
        .resume(async |session| {
            let ConnectionEvent::Resume {
                session_id,
                resume_token,
            } = session.event().await
            else {
                panic!()
            };
            assert_eq!(session_id.expose(), "old");
            assert_eq!(resume_token.unwrap().expose(), "token");
            session.connection.resumed(ResumeReply::Resumed {
                session_id,
                resume_token: Some(Secret::new("next")),
            });
        })
        .await;
    assert_eq!(caller.greeting.resumed, Some(true));
    assert_eq!(caller.greeting.session_id.expose(), "old");
    assert_eq!(caller.greeting.resume_token.unwrap().expose(), "next");
}

#[tokio::test]
async fn a_refused_resume_leaves_the_new_session() {
    let mut server = Server::start().await;
    let (caller, _session) = server
        .resume(async |session| {
            assert!(matches!(
                session.event().await,
                ConnectionEvent::Resume { .. }
            ));
            session.connection.resumed(ResumeReply::Refused);
        })
        .await;
    assert_eq!(caller.greeting.resumed, Some(false));
    assert_eq!(caller.greeting.session_id.expose(), "own");
    assert_eq!(caller.greeting.resume_token.unwrap().expose(), "first");
}
