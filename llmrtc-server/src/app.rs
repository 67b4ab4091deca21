//! The reference server: one listener, one [`Server`], until the shutdown is over.

mod http;
mod transport;

use anyhow::Context;
use llmrtc_security::auth::bind::Exposure;
use tokio::net::TcpListener;

use self::transport::Transport;
use crate::{
    config::Config, listen::listen, security::keys::certificates_changed, server::Server,
    shutdown::Shutdown,
};

/// Runs the server until the shutdown is over. A shutdown that begins before the server is ready ends it there.
///
/// # Errors
/// When a socket cannot be opened or a provider cannot be used.
pub async fn run(config: Config, shutdown: Shutdown) -> anyhow::Result<()> {
    let (grace, metrics_bind) = (config.shutdown.grace, config.server.metrics_bind);
    let (admin_bind, admin_token) = (config.admin.bind, config.admin_token()?);
    let start = start(config, shutdown.clone());
    let (listener, transport, server) = tokio::select! {
        biased;
        () = shutdown.draining() => return Ok(()),
        started = start => started?,
    };

    let admin = match admin_bind {
        Some(address) => Some((address, server.admin_router(admin_token.as_ref())?)),
        None => None,
    };
    let web = async {
        http::serve(listener, transport, server.router(), shutdown.clone()).await;
        anyhow::Ok(())
    };
    let numbers = async {
        if let Some(address) = metrics_bind {
            let listener = TcpListener::bind(address).await;
            let listener = listener.with_context(|| format!("cannot listen on {address}"))?;
            let router = server.metrics_router();
            http::serve(listener, Transport::default(), router, shutdown.clone()).await;
        }
        anyhow::Ok(())
    };
    let operators = async {
        if let Some((address, router)) = admin {
            let listener = TcpListener::bind(address).await;
            let listener = listener.with_context(|| format!("cannot listen on {address}"))?;
            let address = listener.local_addr()?;
            tracing::info!(operators = %address, "listening for operators");
            http::serve(listener, Transport::default(), router, shutdown.clone()).await;
        }
        anyhow::Ok(())
    };
    let hangups = async {
        let mut hangup = hangup().context("cannot watch for signals")?;
        loop {
            tokio::select! {
                () = shutdown.closing() => return anyhow::Ok(()),
                () = hangup.recv() => server.refresh_keys().await,
            }
        }
    };
    let drain = async {
        shutdown.drain(grace).await;
        Ok(())
    };
    tokio::try_join!(web, numbers, operators, hangups, drain)?;
    server.finish().await;
    Ok(())
}

/// SIGHUP, where there is such a thing.
struct Hangup(#[cfg(unix)] tokio::signal::unix::Signal);

impl Hangup {
    async fn recv(&mut self) {
        #[cfg(unix)]
        if self.0.recv().await.is_some() {
            return;
        }
        std::future::pending().await
    }
}

fn hangup() -> std::io::Result<Hangup> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        signal(SignalKind::hangup()).map(Hangup)
    }
    #[cfg(not(unix))]
    Ok(Hangup())
}

async fn start(
    config: Config,
    shutdown: Shutdown,
) -> anyhow::Result<(TcpListener, Transport, Server)> {
    let main = listen(&config).await?;
    let transport = Transport::new(&config, main.address.ip())?;
    if main.exposure == Exposure::OpenToNetwork {
        tracing::warn!(address = %main.address, "anybody who reaches this address can talk at your cost");
    }
    let playground = config.server.playground;
    let server = Server::builder(config)
        .shutdown(shutdown)
        .build(main.address, main.exposure)
        .await?;
    let audit = server.audit().clone();
    transport.watch(move |change| certificates_changed(&audit, change));
    tracing::info!(address = %main.address, tls = transport.is_secure(), "listening");
    if playground {
        let scheme = if transport.is_secure() {
            "https"
        } else {
            "http"
        };
        tracing::info!("open {scheme}://{}/ in a browser to talk", main.address);
    }
    Ok((main.listener, transport, server))
}

#[cfg(test)]
mod tests {
    use std::{path::PathBuf, time::Duration};

    use tokio::time::timeout;

    use super::*;
    use crate::config::load::{Environment, Overrides, load};

    /// A model server that takes the connection and never says a word.
    struct Stuck(String);

    impl Environment for Stuck {
        fn variables(&self) -> Vec<(String, String)> {
            [
                ("LLM_PROVIDER", "lmstudio"),
                ("LMSTUDIO_BASE_URL", self.0.as_str()),
                ("STT_PROVIDER", "echo"),
                ("TTS_PROVIDER", "echo"),
                ("PORT", "0"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec()
        }

        fn directory(&self) -> PathBuf {
            PathBuf::from("no-such-directory")
        }
    }

    #[tokio::test]
    async fn a_signal_during_a_stuck_start_is_obeyed() {
        let model = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1", model.local_addr().unwrap());
        let config = load(&Stuck(url), Overrides::default()).unwrap().config;
        let shutdown = Shutdown::new();
        let signal = async {
            let (mut socket, _) = model.accept().await.unwrap();
            shutdown.begin();
            // The question is given up, with the connection that it was asked on.
            tokio::io::copy(&mut socket, &mut tokio::io::sink()).await
        };
        let both = async { tokio::join!(run(config, shutdown.clone()), signal) };
        let (run, _) = timeout(Duration::from_secs(3), both)
            .await
            .expect("nobody waits for the model");
        run.unwrap();
    }
}
