//! `llmrtc sessions`: who is connected to a running server, and ending their sessions.

use std::{io::Write, path::PathBuf};

use anyhow::{Context, bail};
use clap::Subcommand;
use serde_json::Value;

use super::http::{self, Method};

/// Arguments of `llmrtc sessions`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    /// The operator's listener (`admin.bind`).
    #[arg(
        long,
        global = true,
        value_name = "URL",
        default_value = "http://127.0.0.1:8788"
    )]
    url: String,
    /// File with the admin token [default: admin-token in the data folder].
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List sessions.
    List {
        #[command(flatten)]
        whose: Whose,
    },
    /// End a session, or all sessions of a user.
    End {
        /// The session.
        #[arg(required_unless_present = "user", conflicts_with = "user")]
        session: Option<String>,
        #[command(flatten)]
        whose: Whose,
    },
}

#[derive(Debug, clap::Args)]
struct Whose {
    /// Those of one user.
    #[arg(long)]
    user: Option<String>,
    /// Of this tenant.
    #[arg(long, requires = "user")]
    tenant: Option<String>,
    /// The user is a program, known by its key or certificate.
    #[arg(long, requires = "user")]
    service: bool,
}

impl Whose {
    /// What to ask for beside the user.
    fn query(&self) -> Vec<String> {
        let tenant = self.tenant.as_deref().map(http::escape);
        let tenant = tenant.map(|tenant| format!("tenant={tenant}"));
        let kind = self.service.then(|| "kind=service".to_owned());
        tenant.into_iter().chain(kind).collect()
    }
}

/// Runs the command.
///
/// # Errors
/// When the server cannot be reached or refuses.
pub fn run(args: Args) -> anyhow::Result<()> {
    let token = http::admin_token(args.token_file)?;
    let mut out = std::io::stdout().lock();
    match &args.command {
        Command::List { whose } => {
            let mut query = whose.query();
            let user = whose.user.as_deref().map(http::escape);
            query.extend(user.map(|user| format!("user={user}")));
            let path = format!("/admin/sessions?{}", query.join("&"));
            let sessions = http::request(Method::GET, &args.url, &path, Some(&token), None)?;
            if args.json {
                writeln!(out, "{sessions}")?;
                return Ok(());
            }
            let sessions = sessions
                .as_array()
                .context("the server's answer is not a list")?;
            for session in sessions {
                let field = |name: &str| session[name].as_str().unwrap_or("-");
                writeln!(
                    out,
                    "{}  {}  {}  {}  {}",
                    field("session"),
                    field("since"),
                    field("address"),
                    field("tenant"),
                    field("user")
                )?;
            }
        }
        Command::End { session, whose } => {
            let path = match (session, &whose.user) {
                (Some(session), _) => format!("/admin/sessions/{}", http::escape(session)),
                (None, Some(user)) => {
                    let (user, query) = (http::escape(user), whose.query().join("&"));
                    format!("/admin/users/{user}/sessions?{query}")
                }
                (None, None) => bail!("name a session or a user"),
            };
            let ended = http::request(Method::DELETE, &args.url, &path, Some(&token), None)?;
            let ended = ended["ended"].as_u64().unwrap_or_default();
            if args.json {
                writeln!(out, "{}", Value::from(ended))?;
            } else {
                writeln!(out, "ended {ended}")?;
            }
        }
    }
    Ok(())
}
