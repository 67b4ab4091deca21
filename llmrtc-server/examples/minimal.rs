//! From the browser to a voice: `cargo run --example minimal`, open the printed address, and talk.
//!
//! Configured like the command: by `llmrtc.toml`, `.env` and the environment. Without any, an echo answers.

use llmrtc_server::{
    app,
    config::load::{Overrides, ProcessEnvironment, load},
    shutdown::{Shutdown, signals},
    telemetry,
};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let config = load(&ProcessEnvironment, Overrides::default())?.config;
    telemetry::init(&config.log)?;
    let shutdown = Shutdown::new();
    let impatient = signals(shutdown.clone())?;
    tokio::select! {
        result = app::run(config, shutdown) => result,
        _ = impatient => anyhow::bail!("left at the second signal"),
    }
}
