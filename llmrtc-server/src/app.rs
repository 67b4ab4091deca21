//! The reference server: one listener, one [`Server`], until the shutdown is over.

use std::{future::Future, net::SocketAddr};

use anyhow::Context;
use axum::Router;
use llmrtc_security::auth::bind::Exposure;
use tokio::net::TcpListener;

use crate::{config::Config, listen::listen, server::Server, shutdown::Shutdown};

/// Runs the server until the shutdown is over.
///
/// # Errors
/// When a socket cannot be opened or a provider cannot be used.
pub async fn run(config: Config, shutdown: Shutdown) -> anyhow::Result<()> {
    let main = listen(&config.server).await?;
    let (grace, metrics_bind) = (config.shutdown.grace, config.server.metrics_bind);
    if main.exposure == Exposure::OpenToNetwork {
        tracing::warn!(address = %main.address, "anybody who reaches this address can talk at your cost");
    }
    let playground = config.server.playground;
    let server = Server::builder(config)
        .shutdown(shutdown.clone())
        .build(main.address, main.exposure)
        .await?;
    tracing::info!(address = %main.address, "listening");
    if playground {
        tracing::info!("open http://{}/ in a browser to talk", main.address);
    }

    let web = serve(main.listener, server.router(), shutdown.clone());
    let numbers = async {
        if let Some(address) = metrics_bind {
            let listener = TcpListener::bind(address).await;
            let listener = listener.with_context(|| format!("cannot listen on {address}"))?;
            serve(listener, server.metrics_router(), shutdown.clone()).await?;
        }
        anyhow::Ok(())
    };
    let drain = async {
        shutdown.drain(grace).await;
        Ok(())
    };
    tokio::try_join!(web, numbers, drain)?;
    server.finish().await;
    Ok(())
}

fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: Shutdown,
) -> impl Future<Output = anyhow::Result<()>> {
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    let closing = async move { shutdown.closing().await };
    async move {
        Ok(axum::serve(listener, service)
            .with_graceful_shutdown(closing)
            .await?)
    }
}
