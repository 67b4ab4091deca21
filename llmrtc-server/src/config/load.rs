//! Layers, weakest first: defaults, file, environment (`.env` below the real one), flags. The only place that reads the
//! process environment.

use std::{
    collections::BTreeMap,
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Deserialize;
use validator::Validate;

use crate::security::data::default_folder;

use super::{
    Config, ConfigError, LogFormat, Problem, Source, dotenv, print,
    problem::{from_validation, key},
    providers,
    tree::Node,
};

/// Prefix of variables that name a key: `LLMRTC_MEDIA__VAD__THRESHOLD` is `media.vad.threshold`.
const PREFIX: &str = "LLMRTC_";
/// The file used when none is named.
const DEFAULT_FILE: &str = "llmrtc.toml";
/// Names the file.
const FILE_VARIABLE: &str = "LLMRTC_CONFIG";
/// Variables with our prefix that are not configuration: the reference's Node check, and the test command's own.
const NOT_CONFIGURATION: &[&str] = &[
    FILE_VARIABLE,
    "LLMRTC_LENIENT",
    "LLMRTC_SKIP_NODE_CHECK",
    "LLMRTC_LIVE",
    "LLMRTC_CHROMIUM",
    "LLMRTC_SKIP_INSTALL",
    "LLMRTC_BIN",
    "LLMRTC_MODEL_DIR",
];
/// No configuration is longer; what is, is the wrong file.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Familiar names, most of them the reference's, and where they land.
const ALIASES: &[(&str, &[&str], Reading)] = &[
    ("PORT", &["server", "port"], Reading::AsIs),
    ("HOST", &["server", "host"], Reading::AsIs),
    ("SYSTEM_PROMPT", &["turn", "system_prompt"], Reading::AsIs),
    ("HISTORY_LIMIT", &["turn", "history_limit"], Reading::AsIs),
    (
        "STREAMING_TTS",
        &["turn", "streaming_tts"],
        Reading::UnlessFalse,
    ),
    (
        "STREAMING_STT",
        &["turn", "streaming_stt"],
        Reading::OnlyTrue,
    ),
    ("ICE_SERVERS", &["ice", "servers"], Reading::AsIs),
    (
        "METERED_APP_NAME",
        &["ice", "metered", "app_name"],
        Reading::AsIs,
    ),
    (
        "METERED_API_KEY",
        &["ice", "metered", "api_key"],
        Reading::AsIs,
    ),
    (
        "METERED_REGION",
        &["ice", "metered", "region"],
        Reading::AsIs,
    ),
    ("RUST_LOG", &["log", "level"], Reading::AsIs),
];

/// How an alias is understood.
#[derive(Clone, Copy)]
enum Reading {
    /// As the field wants it.
    AsIs,
    /// On, unless exactly `false`.
    UnlessFalse,
    /// Off, unless exactly `true`.
    OnlyTrue,
}

/// Where variables and files come from. Tests use a map and a temporary folder.
pub trait Environment {
    /// All variables. Those that are not Unicode are left out.
    fn variables(&self) -> Vec<(String, String)>;
    /// The working directory.
    fn directory(&self) -> PathBuf;
}

/// The environment of this process.
#[derive(Clone, Copy, Debug)]
pub struct ProcessEnvironment;

impl Environment for ProcessEnvironment {
    fn variables(&self) -> Vec<(String, String)> {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect()
    }

    fn directory(&self) -> PathBuf {
        PathBuf::from(".")
    }
}

/// The strongest layer: what the command line says.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--config`.
    pub file: Option<PathBuf>,
    /// `--host`.
    pub host: Option<String>,
    /// `--port`.
    pub port: Option<u16>,
    /// `--insecure-no-auth`.
    pub insecure_no_auth: bool,
    /// `--log-level`.
    pub log_level: Option<String>,
    /// `--log-format`.
    pub log_format: Option<LogFormat>,
}

impl Overrides {
    fn into_layer(self) -> Node {
        let mut layer = Node::table();
        let mut set = |path: [&str; 2], flag, value: Option<toml::Value>| {
            if let Some(value) = value {
                layer.set(path, Node::Scalar(value, Source::Flag(flag)));
            }
        };
        let format = self.log_format.map(|format| match format {
            LogFormat::Human => "human".into(),
            LogFormat::Json => "json".into(),
        });
        set(["server", "host"], "--host", self.host.map(Into::into));
        set(
            ["server", "port"],
            "--port",
            self.port.map(|port| i64::from(port).into()),
        );
        set(
            ["server", "insecure_no_auth"],
            "--insecure-no-auth",
            self.insecure_no_auth.then(|| true.into()),
        );
        set(
            ["log", "level"],
            "--log-level",
            self.log_level.map(Into::into),
        );
        set(["log", "format"], "--log-format", format);
        layer
    }
}

/// A configuration that was read and found good.
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// The file that was read, if there was one.
    pub file: Option<PathBuf>,
    /// What the operator should know: variables that look like ours and are not.
    pub notices: Vec<String>,
    tree: Node,
}

impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loaded")
            .field("config", &self.config)
            .field("file", &self.file)
            .field("notices", &self.notices)
            .finish_non_exhaustive()
    }
}

impl Loaded {
    /// The effective values as TOML that loads again, secrets apart: those show as `[secret]`.
    pub fn to_toml(&self) -> String {
        print::to_toml(&self.tree)
    }
}

/// Reads all layers.
///
/// # Errors
/// Everything that is wrong, in one error.
pub fn load(environment: &dyn Environment, overrides: Overrides) -> Result<Loaded, ConfigError> {
    let mut problems = Vec::new();
    let mut notices = Vec::new();
    let directory = environment.directory();
    let variables = variables(environment, &directory, &mut problems);

    let named = overrides
        .file
        .clone()
        .map(|path| (path, Source::Flag("--config")))
        .or_else(|| {
            let (value, origin) = variables.get(FILE_VARIABLE)?;
            Some((PathBuf::from(value), origin.clone()))
        });
    let (path, named_by) = match named {
        Some((path, origin)) => (directory.join(path), Some(origin)),
        None => (directory.join(DEFAULT_FILE), None),
    };
    let mut tree = Node::table();
    let mut file = None;
    match read(&path) {
        Ok(text) => {
            let origin = Source::File(Arc::new(path.clone()));
            match text.parse::<toml::Table>() {
                Ok(table) => tree.merge(Node::from_toml(toml::Value::Table(table), &origin)),
                Err(error) => problems.push(syntax_problem(&text, &error, origin)),
            }
            file = Some(path);
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound && named_by.is_none() => {}
        Err(error) => problems.push(Problem {
            key: String::new(),
            message: format!("cannot read {}: {error}", path.display()),
            origin: named_by.unwrap_or(Source::Default),
        }),
    }
    tree.merge(environment_layer(&variables, &mut notices));
    tree.merge(overrides.into_layer());

    let mut config = deserialize(&mut tree, &mut problems);
    if config.server.data_dir.is_none() {
        let variable = |name: &str| variables.get(name).map(|(value, _)| value.clone());
        config.server.data_dir = default_folder(variable);
    }
    if let Err(errors) = config.validate() {
        problems.extend(from_validation(&errors, &tree));
    }
    // A name is judged by what it resolves to, when the server binds.
    let address = match config.server.host.as_str() {
        "localhost" => None,
        host => host.parse::<IpAddr>().ok(),
    };
    if let Some(Err(error)) = address.map(|address| config.exposure(address)) {
        let path = ["server".to_owned(), "host".to_owned()];
        problems.push(Problem {
            key: key(&path),
            origin: tree.source(&path),
            message: error.to_string(),
        });
    }
    if problems.is_empty() {
        Ok(Loaded {
            config,
            file,
            notices,
            tree,
        })
    } else {
        problems.sort_by(|a, b| a.key.cmp(&b.key));
        Err(ConfigError { problems })
    }
}

/// All mistakes of type and name: each is reported, taken out, and the rest tried again.
fn deserialize(tree: &mut Node, problems: &mut Vec<Problem>) -> Config {
    loop {
        match Config::deserialize(&*tree) {
            Ok(config) => return config,
            Err(misfit) => {
                let path = misfit.path();
                problems.push(Problem {
                    key: key(&path),
                    origin: tree.source(&path),
                    message: misfit.message,
                });
                // Every round takes something out, and an empty tree is the default configuration.
                if !tree.remove(&path) {
                    return Config::default();
                }
            }
        }
    }
}

type Variables = BTreeMap<String, (String, Source)>;

/// The process environment over `.env`. Blank values count as unset.
fn variables(
    environment: &dyn Environment,
    directory: &Path,
    problems: &mut Vec<Problem>,
) -> Variables {
    let mut variables = Variables::new();
    let path = directory.join(".env");
    let dotenv_problem = |message| Problem {
        key: String::new(),
        origin: Source::File(Arc::new(path.clone())),
        message,
    };
    match read(&path).map(|text| dotenv::parse(&text)) {
        Ok(Ok(pairs)) => variables.extend(pairs.into_iter().map(|(name, value)| {
            let origin = Source::DotEnv(name.clone());
            (name, (value, origin))
        })),
        Ok(Err(line)) => problems.push(dotenv_problem(format!("line {line} is not NAME=value"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => problems.push(dotenv_problem(format!("cannot be read: {error}"))),
    }
    for (name, value) in environment.variables() {
        // A blank variable hides the file's, too: that is how one unsets it for a single run.
        let origin = Source::Environment(name.clone());
        variables.insert(name, (value, origin));
    }
    variables.retain(|_, (value, _)| !value.trim().is_empty());
    variables
}

fn environment_layer(variables: &Variables, notices: &mut Vec<String>) -> Node {
    let mut layer = Node::table();
    for &(name, path, reading) in ALIASES {
        let Some((value, origin)) = variables.get(name) else {
            continue;
        };
        let node = match reading {
            Reading::AsIs => Node::text(value, origin.clone()),
            Reading::UnlessFalse => Node::Scalar((value.trim() != "false").into(), origin.clone()),
            Reading::OnlyTrue => Node::Scalar((value.trim() == "true").into(), origin.clone()),
        };
        layer.set(path.iter().copied(), node);
    }
    for (name, path) in providers::variables() {
        if let Some((value, origin)) = variables.get(&name) {
            let path = std::iter::once("providers").chain(path);
            layer.set(path, Node::text(value, origin.clone()));
        }
    }
    // The full names last: whoever writes one means it.
    for (name, (value, origin)) in variables {
        let Some(rest) = name.strip_prefix(PREFIX) else {
            continue;
        };
        if rest.contains("__") {
            let path = rest.to_ascii_lowercase();
            layer.set(path.split("__"), Node::text(value, origin.clone()));
        } else if !NOT_CONFIGURATION.contains(&name.as_str()) {
            notices.push(format!(
                "{name} is ignored: a key is written as in LLMRTC_SERVER__PORT"
            ));
        }
    }
    layer
}

fn read(path: &Path) -> io::Result<String> {
    let length = std::fs::metadata(path)?.len();
    if length > MAX_FILE_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "larger than 1 MiB",
        ));
    }
    std::fs::read_to_string(path)
}

/// The line, without its text: a secret may be on it.
fn syntax_problem(text: &str, error: &toml::de::Error, origin: Source) -> Problem {
    let line = error.span().map_or(1, |span| {
        text.as_bytes()
            .iter()
            .take(span.start)
            .filter(|byte| **byte == b'\n')
            .count()
            + 1
    });
    Problem {
        key: String::new(),
        origin,
        message: format!("line {line}: {}", error.message()),
    }
}
