//! `llmrtc token`: what operators and test scripts need of access tokens.

use std::{
    io::{self, Write},
    path::PathBuf,
    time::{Duration, SystemTime},
};

use super::http::read_secret as read;
use anyhow::{Context, bail};
use clap::Subcommand;
use llmrtc_core::{duration, redact::Secret};
use llmrtc_security::auth::{
    Grants, api_key,
    grants::Allowed,
    jwt::{
        HmacAlgorithm, IssuerPolicy, MintRequest, Minter, PublicAlgorithm, PublicKey,
        SharedSecrets, Unverified, Verifier,
    },
};
use serde::de::{IntoDeserializer, value};
use serde_json::json;

/// Arguments of `llmrtc token`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a token.
    Mint(MintArgs),
    /// Show what a token says, and with a key whether it is good.
    Inspect(InspectArgs),
    /// Make an API key, and its digest for the configuration.
    ApiKey,
}

#[derive(Debug, clap::Args)]
struct MintArgs {
    /// Who it speaks for.
    #[arg(long)]
    subject: String,
    /// Whose customer that is.
    #[arg(long)]
    tenant: Option<String>,
    /// How long it is good for, such as `15m`.
    #[arg(long, default_value = "1h", value_parser = parse_duration)]
    ttl: Duration,
    #[command(flatten)]
    grants: GrantArgs,
    #[command(flatten)]
    key: KeyArgs,
    /// `iss`.
    #[arg(long)]
    issuer: String,
    /// `aud`.
    #[arg(long)]
    audience: String,
    /// `kid`.
    #[arg(long)]
    kid: Option<String>,
}

/// What the token grants. Without any of these the server decides.
#[derive(Debug, clap::Args)]
struct GrantArgs {
    /// A tool that may be used; repeat it for several. Without it, all.
    #[arg(long = "tool", value_name = "NAME")]
    tools: Vec<String>,
    /// No tools at all.
    #[arg(long, conflicts_with = "tools")]
    no_tools: bool,
    /// A provider that may be asked for; repeat it for several. Without it, all.
    #[arg(long = "provider", value_name = "NAME")]
    providers: Vec<String>,
    /// Most sessions at a time.
    #[arg(long, value_name = "N")]
    max_sessions: Option<u32>,
    /// Class of limits.
    #[arg(long, value_name = "CLASS")]
    rate_class: Option<String>,
    /// The conversation must not be kept.
    #[arg(long)]
    no_record: bool,
    /// Open the administrative routes.
    #[arg(long)]
    admin: bool,
}

#[derive(Debug, clap::Args)]
struct KeyArgs {
    /// Algorithm, such as HS256 (with --secret-file), ES256 or EdDSA (with --key-file).
    #[arg(long, default_value = "HS256")]
    alg: String,
    /// File with the shared secret; `-` is standard input.
    #[arg(long, value_name = "FILE", conflicts_with = "key_file")]
    secret_file: Option<PathBuf>,
    /// File with the key as PEM: private to mint, public to inspect.
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct InspectArgs {
    /// The token; standard input if absent, which keeps it out of the list of processes.
    token: Option<String>,
    #[command(flatten)]
    key: KeyArgs,
    /// The `iss` it must have.
    #[arg(long)]
    issuer: Option<String>,
    /// The `aud` it must have.
    #[arg(long)]
    audience: Option<String>,
}

/// A key as the command line names it: of one kind, with its algorithm.
enum Key {
    Shared(HmacAlgorithm, Secret),
    Pair(PublicAlgorithm, Secret),
}

/// Runs the command.
///
/// # Errors
/// When it cannot be done, or the token is not good; the message says why and what to do.
pub fn run(args: Args) -> anyhow::Result<()> {
    let (output, verdict) = match args.command {
        Command::Mint(args) => (mint(args)?, Ok(())),
        Command::Inspect(args) => inspect(args)?,
        Command::ApiKey => {
            let (key, digest) = api_key::generate();
            let output = format!("key = \"{}\"\nsha256 = \"{digest}\"\n", key.expose());
            (output, Ok(()))
        }
    };
    io::stdout()
        .write_all(output.as_bytes())
        .context("cannot write to standard output")?;
    verdict
}

fn mint(args: MintArgs) -> anyhow::Result<String> {
    let Some(key) = args.key.read()? else {
        bail!("--secret-file or --key-file is needed to sign with");
    };
    let minter = match &key {
        Key::Shared(algorithm, secret) => {
            Minter::shared(*algorithm, secret, args.issuer, args.audience)
        }
        Key::Pair(algorithm, pem) => Minter::private(*algorithm, pem, args.issuer, args.audience),
    };
    let request = MintRequest::new(args.subject, args.ttl)
        .tenant(args.tenant)
        .grants(args.grants.into_grants());
    let token = minter?.key_id(args.kid).mint(&request, SystemTime::now())?;
    Ok(format!("{}\n", token.expose()))
}

/// What to print, and how to exit.
fn inspect(args: InspectArgs) -> anyhow::Result<(String, anyhow::Result<()>)> {
    let token = match args.token {
        Some(token) => Secret::new(token),
        None => read("-".as_ref())?,
    };
    let shown = Unverified::parse(token.expose()).context("this is no token")?;
    let outcome = match args.key.read()? {
        None => None,
        Some(key) => {
            let (Some(issuer), Some(audience)) = (args.issuer, args.audience) else {
                bail!("with a key, --issuer and --audience say what a good token has");
            };
            let mut policy = IssuerPolicy::new(issuer, [audience]);
            // Whether it lives too long is the server's business.
            policy.max_lifetime = Duration::MAX;
            let verifier = match key {
                Key::Shared(algorithm, secret) => {
                    Verifier::shared(policy, SharedSecrets::new(&[algorithm], &secret, None)?)
                }
                Key::Pair(algorithm, pem) => {
                    let key = PublicKey::from_pem(algorithm, None, pem.expose())?;
                    Verifier::public(policy, vec![key])?
                }
            };
            let runtime = tokio::runtime::Builder::new_current_thread().build()?;
            Some(runtime.block_on(verifier.verify(token.expose(), SystemTime::now())))
        }
    };
    let (verification, verdict) = match outcome {
        None => ("not verified: no key was given".to_owned(), Ok(())),
        Some(Ok(_)) => ("good".to_owned(), Ok(())),
        Some(Err(error)) => (
            format!("bad: {error}"),
            Err(anyhow::anyhow!("the token is not good: {error}")),
        ),
    };
    let output = json!({
        "header": shown.header,
        "claims": shown.claims,
        "verification": verification,
    });
    Ok((format!("{output:#}\n"), verdict))
}

impl GrantArgs {
    fn into_grants(self) -> Option<Grants> {
        let allowed = |names: &[String]| match names {
            [] => Allowed::All,
            names => Allowed::only(names.iter().map(String::as_str)),
        };
        let grants = Grants {
            tools: if self.no_tools {
                Allowed::only([])
            } else {
                allowed(&self.tools)
            },
            providers: allowed(&self.providers),
            max_sessions: self.max_sessions,
            rate_class: self.rate_class.map(Into::into),
            record: !self.no_record,
            admin: self.admin,
        };
        (grants != Grants::default()).then_some(grants)
    }
}

impl KeyArgs {
    fn read(&self) -> anyhow::Result<Option<Key>> {
        let hmac = HmacAlgorithm::from_name(&self.alg);
        let public = PublicAlgorithm::from_name(&self.alg);
        Ok(Some(
            match (&self.secret_file, &self.key_file, hmac, public) {
                (_, _, None, None) => bail!("{} is not an algorithm", self.alg),
                (None, None, ..) => return Ok(None),
                (Some(file), _, Some(algorithm), _) => Key::Shared(algorithm, read(file)?),
                (_, Some(file), _, Some(algorithm)) => Key::Pair(algorithm, read(file)?),
                (Some(_), ..) => bail!("{} needs --key-file", self.alg),
                _ => bail!("{} needs --secret-file", self.alg),
            },
        ))
    }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    duration::deserialize(text.into_deserializer()).map_err(|error: value::Error| error.to_string())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &str) -> Command {
        let words = std::iter::once("token").chain(line.split(' '));
        Cli::try_parse_from(words).unwrap().args.command
    }

    fn minted(line: &str) -> anyhow::Result<String> {
        match parse(line) {
            Command::Mint(args) => mint(args).map(|line| line.trim().to_owned()),
            other => panic!("{other:?}"),
        }
    }

    fn inspected(line: &str) -> anyhow::Result<(serde_json::Value, anyhow::Result<()>)> {
        match parse(line) {
            Command::Inspect(args) => {
                let (output, verdict) = inspect(args)?;
                Ok((serde_json::from_str(&output)?, verdict))
            }
            other => panic!("{other:?}"),
        }
    }

    fn file(name: &str, content: &str) -> (tempfile::TempDir, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        let path = path.to_str().unwrap().to_owned();
        (folder, path)
    }

    #[test]
    fn a_minted_token_shows_what_was_asked_for_and_is_good() {
        let (_folder, secret) = file("secret", "0123456789abcdef0123456789abcdef\n");
        let who = "--issuer https://i.example --audience llmrtc";
        let token = minted(&format!(
            "mint --subject ann --tenant acme --ttl 5m --tool weather --admin --kid 1 {who} --secret-file {secret}"
        ))
        .unwrap();
        let (shown, verdict) = inspected(&format!("inspect {token}")).unwrap();
        verdict.unwrap();
        assert_eq!(shown["verification"], "not verified: no key was given");
        assert_eq!(shown["header"]["kid"], "1");
        let claims = &shown["claims"];
        assert_eq!(
            (&claims["sub"], &claims["tenant"]),
            (&json!("ann"), &json!("acme"))
        );
        assert_eq!(claims["grants"]["tools"], json!(["weather"]));
        assert_eq!(claims["grants"]["admin"], true);
        let lifetime = claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap();
        assert_eq!(lifetime, 300);

        let key = format!("--secret-file {secret}");
        let (shown, verdict) = inspected(&format!("inspect {token} {key} {who}")).unwrap();
        verdict.unwrap();
        assert_eq!(shown["verification"], "good");
        let other = "--issuer https://i.example --audience other";
        let (shown, verdict) = inspected(&format!("inspect {token} {key} {other}")).unwrap();
        assert_eq!(shown["verification"], "bad: wrong audience");
        assert!(verdict.is_err());
        // Never silently: a key without the rest is a mistake.
        assert!(inspected(&format!("inspect {token} {key}")).is_err());
        assert!(inspected("inspect a.b.c").is_err());
    }

    #[test]
    fn key_pairs_sign_and_verify() {
        for (algorithm, kind) in [
            ("EdDSA", &rcgen::PKCS_ED25519),
            ("ES256", &rcgen::PKCS_ECDSA_P256_SHA256),
        ] {
            let pair = rcgen::KeyPair::generate_for(kind).unwrap();
            let (_a, private) = file("private.pem", &pair.serialize_pem());
            let (_b, public) = file("public.pem", &pair.public_key_pem());
            let who = "--issuer i --audience a";
            let token = minted(&format!(
                "mint --subject ann {who} --alg {algorithm} --key-file {private}"
            ))
            .unwrap();
            let line = format!("inspect {token} {who} --alg {algorithm} --key-file {public}");
            let (shown, verdict) = inspected(&line).unwrap();
            verdict.unwrap();
            assert_eq!(shown["header"]["alg"], algorithm);
            assert_eq!(shown["claims"].get("grants"), None, "the server decides");
        }
    }

    #[test]
    fn what_cannot_be_signed_is_explained() {
        let (_folder, short) = file("secret", "short");
        let who = "--issuer i --audience a";
        for (line, expected) in [
            (
                format!("mint --subject x {who}"),
                "--secret-file or --key-file",
            ),
            (
                format!("mint --subject x {who} --secret-file {short}"),
                "at least 32",
            ),
            (
                format!("mint --subject x {who} --secret-file {short} --alg ES256"),
                "ES256 needs --key-file",
            ),
            (
                format!("mint --subject x {who} --key-file {short}"),
                "HS256 needs --secret-file",
            ),
            (
                format!("mint --subject x {who} --key-file {short} --alg EdDSA"),
                "not a PEM key",
            ),
            (
                format!("mint --subject x {who} --alg none"),
                "none is not an algorithm",
            ),
            (
                format!("mint --subject x {who} --secret-file {short}.gone"),
                "cannot read",
            ),
        ] {
            let error = format!("{:#}", minted(&line).unwrap_err());
            assert!(error.contains(expected), "{line}: {error}");
            assert!(
                !error.contains("short") || expected == "cannot read",
                "{error}"
            );
        }
    }
}
