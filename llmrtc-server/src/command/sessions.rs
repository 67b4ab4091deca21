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
        /// Those of one user.
        #[arg(long)]
        user: Option<String>,
        /// Of this tenant.
        #[arg(long, requires = "user")]
        tenant: Option<String>,
    },
    /// End a session, or all sessions of a user.
    End {
        /// The session.
        #[arg(required_unless_present = "user", conflicts_with = "user")]
        session: Option<String>,
        /// The user.
        #[arg(long)]
        user: Option<String>,
        /// Of this tenant.
        #[arg(long, requires = "user")]
        tenant: Option<String>,
    },
}

/// Runs the command.
///
/// # Errors
/// When the server cannot be reached or refuses.
pub fn run(args: Args) -> anyhow::Result<()> {
    let token = http::admin_token(args.token_file)?;
    let query = |tenant: &Option<String>| match tenant {
        Some(tenant) => format!("?tenant={}", http::escape(tenant)),
        None => String::new(),
    };
    let mut out = std::io::stdout().lock();
    match &args.command {
        Command::List { user, tenant } => {
            let mut path = "/admin/sessions".to_owned();
            if let Some(user) = user {
                path += &format!("?user={}", http::escape(user));
                if let Some(tenant) = tenant {
                    path += &format!("&tenant={}", http::escape(tenant));
                }
            }
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
        Command::End {
            session,
            user,
            tenant,
        } => {
            let path = match (session, user) {
                (Some(session), _) => format!("/admin/sessions/{}", http::escape(session)),
                (None, Some(user)) => {
                    format!(
                        "/admin/users/{}/sessions{}",
                        http::escape(user),
                        query(tenant)
                    )
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
