//! The `llmrtc` command.
#![forbid(unsafe_code)]

use std::{
    io::{self, Write},
    process::ExitCode,
};

use anyhow::Context;
use clap::Parser;
use llmrtc_security::secrets::SecretsConfig;
use llmrtc_server::{
    app,
    cli::{CallArgs, Cli, Command, ConfigArgs, ConfigCommand, ServeArgs},
    client::{
        call::{Failure, run as place_call},
        voice::caller_voice,
    },
    command,
    config::{
        ConfigError,
        load::{Loaded, ProcessEnvironment, load},
    },
    shutdown::{Shutdown, signals},
    telemetry,
};
#[cfg(feature = "local")]
use llmrtc_server::{local, models::Consent};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command.unwrap_or(Command::Serve(cli.serve)) {
        Command::Serve(args) => serve(args),
        Command::Config(ConfigCommand::Check(args)) => read(args).map(|_| ()),
        Command::Config(ConfigCommand::Print(args)) => {
            read(args).and_then(|loaded| print(&loaded.to_toml()))
        }
        Command::Version => print(concat!("llmrtc ", env!("CARGO_PKG_VERSION"), "\n")),
        Command::Call(args) => call(args),
        Command::Token(args) => command::token::run(args),
        Command::Ticket(args) => command::ticket::run(args),
        Command::Keys(args) => command::keys::run(args),
        Command::Transcripts(args) => command::transcripts::run(args),
        Command::Retention(args) => command::retention::run(args),
        Command::Audit(args) => command::audit::run(args),
        Command::Sessions(args) => command::sessions::run(args),
        Command::Redact(args) => command::redact::run(args),
        Command::Guard(args) => command::guard::run(args),
        #[cfg(feature = "local")]
        Command::Models(args) => command::models::run(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell when standard error is gone.
            let _ = writeln!(io::stderr(), "llmrtc: {error:#}");
            ExitCode::from(if error.is::<ConfigError>() {
                ConfigError::EXIT_CODE
            } else {
                error.downcast_ref().map_or(1, Failure::exit_code)
            })
        }
    }
}

fn read(args: ConfigArgs) -> anyhow::Result<Loaded> {
    let loaded = load(&ProcessEnvironment, args.into())?;
    for notice in &loaded.notices {
        let _ = writeln!(io::stderr(), "llmrtc: {notice}");
    }
    Ok(loaded)
}

fn print(text: &str) -> anyhow::Result<()> {
    io::stdout()
        .write_all(text.as_bytes())
        .context("cannot write to standard output")
}

fn call(args: CallArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    Ok(runtime.block_on(place_call(args, caller_voice))?)
}

/// Before the first key is read.
fn harden(config: &SecretsConfig) -> anyhow::Result<()> {
    #[cfg(target_os = "linux")]
    if config.harden || config.lock_memory {
        let locked = llmrtc_security::secrets::harden_process(config.lock_memory)
            .context("secrets.harden: the process cannot be protected")?;
        anyhow::ensure!(
            locked || !config.lock_memory,
            "secrets.lock_memory: the limit on locked memory is too small (LimitMEMLOCK=infinity)"
        );
    }
    #[cfg(not(target_os = "linux"))]
    anyhow::ensure!(
        !config.harden && !config.lock_memory,
        "secrets.harden needs Linux"
    );
    Ok(())
}

fn serve(args: ServeArgs) -> anyhow::Result<()> {
    #[cfg_attr(
        not(feature = "local"),
        allow(unused_mut, reason = "nothing else changes it")
    )]
    let mut config = read(args.config)?.config;
    telemetry::init(&config.log)?;
    harden(&config.secrets)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    #[cfg(feature = "local")]
    {
        runtime.block_on(local::prefer_neighbour(&mut config));
        local::fetch_missing(&config, Consent::new(args.yes));
    }
    let result = runtime.block_on(async {
        let shutdown = Shutdown::new();
        let second_signal = signals(shutdown.clone()).context("cannot watch for signals")?;
        tokio::select! {
            biased;
            code = second_signal => std::process::exit(code.into()),
            result = app::run(config, shutdown.clone()) => result,
            () = shutdown.overdue() => Err(anyhow::anyhow!("connections did not close in time")),
        }
    });
    // What still blocks a thread must not keep the process.
    runtime.shutdown_background();
    result
}
