//! A real axum server whose sessions are played by the test.

#![expect(
    clippy::unwrap_used,
    reason = "a harness that cannot start has failed the test"
)]

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{State, ws::WebSocketUpgrade},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::any,
};
use llmrtc_core::{clock::SystemClock, redact::Secret};
use llmrtc_signal::{
    client::{Client, ClientEvent, Greeting, Options, Resume, connect},
    connection::{
        ConnectionConfig, ConnectionEvent, Ready,
        server::{Connection, accept, configure},
    },
    protocol::ServerMessage,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

const DEADLINE: Duration = Duration::from_secs(20);

/// The server's end of one connection.
pub(crate) struct Session {
    pub(crate) connection: Connection,
    pub(crate) events: mpsc::Receiver<ConnectionEvent>,
}

impl Session {
    pub(crate) async fn event(&mut self) -> ConnectionEvent {
        timeout(DEADLINE, self.events.recv())
            .await
            .expect("in time")
            .expect("an event")
    }
}

/// Accepts every upgrade, greets with the handle `own`, and hands the sessions to the test.
pub(crate) struct Server {
    address: SocketAddr,
    sessions: mpsc::Receiver<Session>,
    task: JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let (sender, sessions) = mpsc::channel(8);
        let router = Router::new()
            .route("/", any(upgrade))
            .route("/refused", any(async || StatusCode::FORBIDDEN))
            .route("/silent", any(say_nothing))
            .with_state(sender);
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        #[expect(clippy::disallowed_methods, reason = "aborted with the test's server")]
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            address,
            sessions,
            task,
        }
    }

    pub(crate) fn options(&self, path: &str) -> Options {
        Options::new(format!("ws://{}/{path}", self.address).parse().unwrap())
    }

    pub(crate) async fn session(&mut self) -> Session {
        timeout(DEADLINE, self.sessions.recv())
            .await
            .expect("in time")
            .expect("a session")
    }

    /// A client and its session.
    pub(crate) async fn connect(&mut self) -> (Caller, Session) {
        let (client, greeting, events) = connect(self.options("")).await.unwrap();
        (
            Caller {
                client,
                greeting,
                events,
            },
            self.session().await,
        )
    }

    /// A client that asks to resume `old`, while the session answers.
    pub(crate) async fn resume(
        &mut self,
        answer: impl AsyncFnOnce(&mut Session),
    ) -> (Caller, Session) {
        let mut options = self.options("");
        options.resume = Some(Resume {
            session_id: Secret::new("old"),
            resume_token: Some(Secret::new("token")),
        });
        let serve = async {
            let mut session = self.session().await;
            answer(&mut session).await;
            session
        };
        let (connected, session) = tokio::join!(connect(options), serve);
        let (client, greeting, events) = connected.unwrap();
        (
            Caller {
                client,
                greeting,
                events,
            },
            session,
        )
    }

    /// A WebSocket without our client.
    pub(crate) async fn raw(&mut self) -> (WebSocketStream<MaybeTlsStream<TcpStream>>, Session) {
        let url = self.options("").url;
        let (socket, _) = tokio_tungstenite::connect_async(url.as_str())
            .await
            .unwrap();
        (socket, self.session().await)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn upgrade(
    State(sessions): State<mpsc::Sender<Session>>,
    upgrade: WebSocketUpgrade,
) -> Response {
    configure(upgrade).on_upgrade(async move |socket| {
        let mut ready = Ready::new(Secret::new("own"));
        ready.resume_token = Some(Secret::new("first"));
        let (connection, events, driver) = accept(
            socket,
            ConnectionConfig::default(),
            ready,
            Arc::new(SystemClock),
        );
        sessions
            .send(Session { connection, events })
            .await
            .unwrap_or_else(|_| panic!("the test ended"));
        driver.await;
    })
}

/// From here on nothing happens but time.
async fn say_nothing(upgrade: WebSocketUpgrade) -> impl IntoResponse {
    upgrade.on_upgrade(async |socket| {
        tokio::time::pause();
        let () = std::future::pending().await;
        drop(socket);
    })
}

/// The client's end of one connection.
pub(crate) struct Caller {
    pub(crate) client: Client,
    pub(crate) greeting: Greeting,
    pub(crate) events: mpsc::Receiver<ClientEvent>,
}

impl Caller {
    pub(crate) async fn event(&mut self) -> ClientEvent {
        timeout(DEADLINE, self.events.recv())
            .await
            .expect("in time")
            .expect("an event")
    }

    pub(crate) async fn message(&mut self) -> ServerMessage {
        match self.event().await {
            ClientEvent::Message(message) => message,
            other => panic!("{other:?}"),
        }
    }
}
