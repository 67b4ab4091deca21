//! The command line of `llmrtc`. Unknown flags and bad values end with exit code 2.

use std::path::PathBuf;

use clap::{ArgAction, ArgGroup, Args, Parser, Subcommand};

use crate::{
    client::script::check_line,
    command,
    config::{LogFormat, load::Overrides},
};

/// Talk with a language model over WebRTC.
#[derive(Debug, Parser)]
#[command(
    name = "llmrtc",
    version,
    args_conflicts_with_subcommands = true,
    // `-h` is the host, as in the reference implementation.
    disable_help_flag = true,
    disable_help_subcommand = true
)]
pub struct Cli {
    /// Without a command, the server runs.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Flags of `serve`.
    #[command(flatten)]
    pub serve: ServeArgs,
    /// Print help.
    #[arg(long, global = true, action = ArgAction::Help)]
    help: Option<bool>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the server.
    Serve(ServeArgs),
    /// Place a call with a recording, a text or a script as the caller, and print what happens.
    Call(CallArgs),
    /// Look at the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Mint and inspect access tokens.
    Token(command::token::Args),
    /// Get a ticket for one connection from a running server.
    Ticket(command::ticket::Args),
    /// Generate, rotate, list and retire master keys.
    Keys(command::keys::Args),
    /// List, show, export and erase stored conversations.
    Transcripts(command::transcripts::Args),
    /// Apply the retention policy now.
    Retention(command::retention::Args),
    /// Follow and verify the audit log.
    Audit(command::audit::Args),
    /// List and end the sessions of a running server.
    Sessions(command::sessions::Args),
    /// Take personal data out of JSON lines.
    Redact(command::redact::Args),
    /// Score JSON lines for prompt injection.
    Guard(command::guard::Args),
    /// Fetch, list and verify models that run on this machine.
    #[cfg(feature = "local")]
    Models(command::models::Args),
    /// Print the version.
    Version,
}

/// What to do with the configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Report everything that is wrong with it, and nothing else.
    Check(ConfigArgs),
    /// Print the effective values as TOML, without secrets.
    Print(ConfigArgs),
}

/// How to run the server.
#[derive(Debug, Default, Args)]
pub struct ServeArgs {
    /// The configuration.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Fetch models that the server needs without asking.
    #[arg(long, short = 'y')]
    pub yes: bool,
}

/// The strongest layer of the configuration.
#[derive(Debug, Default, Args)]
pub struct ConfigArgs {
    /// Configuration file [default: $LLMRTC_CONFIG, else ./llmrtc.toml if there is one].
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address or name to listen on [default: 127.0.0.1].
    #[arg(long, short = 'h', value_name = "HOST")]
    pub host: Option<String>,
    /// Port to listen on, 0 for a free one [default: 8787].
    #[arg(long, short = 'p', value_name = "PORT")]
    pub port: Option<u16>,
    /// Serve anybody who can reach the server, at your cost.
    #[arg(long)]
    pub insecure_no_auth: bool,
    /// Log level, or filter such as `info,llmrtc_media=debug`.
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// Log lines for people or for machines.
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
}

impl From<ConfigArgs> for Overrides {
    fn from(args: ConfigArgs) -> Self {
        Self {
            file: args.config,
            host: args.host,
            port: args.port,
            insecure_no_auth: args.insecure_no_auth,
            log_level: args.log_level,
            log_format: args.log_format,
        }
    }
}

/// A call from files, a text or a script.
#[derive(Clone, Debug, Args)]
#[command(
    group = ArgGroup::new("what").args(["speech", "say", "script"]).required(true),
    after_help = "Exit codes: 0 everything held, 1 an expectation did not hold (an answer is always expected), \
        2 the arguments, the script or a file cannot be used, 3 no connection, 4 the call ended early."
)]
pub struct CallArgs {
    /// The server.
    #[arg(default_value = "ws://localhost:8787")]
    pub url: String,
    /// What to say: a WAV file, played in real time.
    #[arg(value_name = "FILE.wav")]
    pub speech: Option<PathBuf>,
    /// What to say, as text; the caller's voice is synthesised on this machine.
    #[arg(long, value_name = "TEXT", value_parser = line)]
    pub say: Option<String>,
    /// What to say and to expect, step by step.
    #[arg(long, value_name = "FILE.toml")]
    pub script: Option<PathBuf>,
    /// Where to write what was heard, as WAV.
    #[arg(long, value_name = "FILE.wav")]
    pub reply: Option<PathBuf>,
    /// Print JSON lines: one per step, and a summary.
    #[arg(long)]
    pub json: bool,
    /// With `--json`, print what happens as well.
    #[arg(long, requires = "json")]
    pub events: bool,
}

fn line(text: &str) -> Result<String, String> {
    check_line(text).map(|()| text.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_server_runs_with_and_without_its_name() {
        for line in ["llmrtc", "llmrtc serve"] {
            for flags in [
                "--port 9000 --host localhost",
                "--port=9000 -h localhost",
                "-p 9000 --host=localhost",
            ] {
                let cli = parse(&format!(
                    "{line} {flags} --config a.toml --log-format json --insecure-no-auth"
                ))
                .unwrap();
                let args = match cli.command {
                    Some(Command::Serve(args)) => args,
                    None => cli.serve,
                    other => panic!("{other:?}"),
                };
                let args = args.config;
                assert_eq!(
                    (args.port, args.host.as_deref()),
                    (Some(9000), Some("localhost"))
                );
                assert_eq!(args.config, Some("a.toml".into()));
                assert_eq!(args.log_format, Some(LogFormat::Json));
                assert!(args.insecure_no_auth);
            }
        }
    }

    #[test]
    fn a_call_takes_a_server_and_a_recording() {
        let cli = parse("llmrtc call ws://localhost:8787 a.wav --reply b.wav --json").unwrap();
        let Some(Command::Call(call)) = cli.command else {
            panic!("{cli:?}");
        };
        assert_eq!(
            (call.url.as_str(), call.speech),
            ("ws://localhost:8787", Some("a.wav".into()))
        );
        assert_eq!((call.reply, call.json), (Some("b.wav".into()), true));
        let cli = parse("llmrtc call ws://x --script a.toml --json --events").unwrap();
        let Some(Command::Call(call)) = cli.command else {
            panic!("{cli:?}");
        };
        assert_eq!((call.script, call.events), (Some("a.toml".into()), true));
        for (line, url) in [
            ("llmrtc call ws://x --say hello", "ws://x"),
            ("llmrtc call --say hello", "ws://localhost:8787"),
        ] {
            let cli = parse(line).unwrap();
            let Some(Command::Call(call)) = cli.command else {
                panic!("{cli:?}");
            };
            assert_eq!(
                (call.say.as_deref(), call.url.as_str()),
                (Some("hello"), url)
            );
        }
    }

    #[test]
    fn nonsense_is_refused_and_help_is_spelt_out() {
        let bad = [
            "llmrtc --prot 1",
            "llmrtc serve --prot 1",
            "llmrtc --port x",
            "llmrtc --port 70000",
            "llmrtc --port",
            "llmrtc dance",
            "llmrtc -h",
            "llmrtc serve extra",
            "llmrtc call ws://x",
            "llmrtc call a.wav",
            "llmrtc call ws://x a.wav --say b",
            "llmrtc call ws://x --say b --script c.toml",
            "llmrtc call ws://x --say …",
            "llmrtc call ws://x a.wav --events",
            "llmrtc config",
            "llmrtc --log-format xml",
            "llmrtc --port 1 serve",
        ];
        for line in bad {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
        for line in [
            "llmrtc --help",
            "llmrtc serve --help",
            "llmrtc config print --help",
            "llmrtc --version",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 0, "{line}");
        }
        assert!(matches!(
            parse("llmrtc version").unwrap().command,
            Some(Command::Version)
        ));
    }
}
