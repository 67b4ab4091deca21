//! Voice inside your own web application: `cargo run --example embedded_server`, then
//! `llmrtc call ws://127.0.0.1:8080/voice speech.wav`.

use std::net::SocketAddr;

use axum::{Router, routing::get};
use llmrtc_security::auth::bind::Exposure;
use llmrtc_server::{Server, config::Config, shutdown::Shutdown};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // Your listener, and your answer to who can reach it.
    let listener = TcpListener::bind("127.0.0.1:8080").await?;
    let address = listener.local_addr()?;

    let mut config = Config::default();
    config.server.playground = false;
    config.turn.system_prompt = "You are the shop's assistant. Be brief.".into();
    let grace = config.shutdown.grace;

    let shutdown = Shutdown::new();
    let server = Server::builder(config)
        .shutdown(shutdown.clone())
        .build(address, Exposure::Loopback)
        .await?;

    let app = Router::new()
        .route("/", get(async || "the shop"))
        .nest("/voice", server.router());
    // Admission needs to know where callers come from.
    let service = app.into_make_service_with_connect_info::<SocketAddr>();

    let closing = shutdown.clone();
    let serving = axum::serve(listener, service)
        .with_graceful_shutdown(async move { closing.closing().await });
    let leaving = async {
        tokio::signal::ctrl_c().await?;
        // Nobody new; who is being spoken to may hear the end.
        shutdown.begin();
        shutdown.drain(grace).await;
        Ok(())
    };
    tokio::try_join!(async { serving.await }, leaving)?;
    server.finish().await;
    Ok(())
}
