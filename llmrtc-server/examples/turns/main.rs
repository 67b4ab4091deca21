//! Scores turn-taking on calls made of synthetic speech and synthetic noise: how soon turns end and how often too soon, what
//! interrupts an answer and what does not. `cargo xtask eval turns` builds and runs this.
//!
//! ```text
//! turns [--json] [--training] [--models DIR] [--media FILE]… [--only turns|overs]
//! ```
//!
//! Nothing is recorded: the programs `flite` and `espeak-ng` speak, the rest is made from seeds, so the corpus is the same
//! wherever their versions are. Texts, speakers and seeds of training and test are apart. The audio is played to the ears of
//! the server faster than real time; a judge's answer arrives after a fixed time of audio. `--models` names a folder with
//! `<package>/<file>`. Each `--media` adds the media section in a TOML file to what is compared: so thresholds are tuned.

mod corpus;
mod listener;
mod minds;
mod noise;
mod over;
mod random;
mod table;
mod texts;
mod turn;
mod voice;

use std::path::PathBuf;

use anyhow::{Context, bail};
use llmrtc_media::config::MediaConfig;
use serde_json::json;

use self::corpus::{Part, Studio};

#[derive(Default)]
struct Options {
    json: bool,
    training: bool,
    models: Option<PathBuf>,
    only: Option<String>,
    /// Configurations to be compared with the defaults, by file name.
    own: Vec<(String, MediaConfig)>,
}

fn options() -> anyhow::Result<Options> {
    let mut options = Options::default();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || {
            let value = arguments.next();
            value.with_context(|| format!("{argument} takes a value"))
        };
        match argument.as_str() {
            "--json" => options.json = true,
            "--training" => options.training = true,
            "--models" => options.models = Some(value()?.into()),
            "--only" => options.only = Some(value()?),
            "--media" => options.own.push(media(value()?.into())?),
            other => bail!(
                "unknown option {other}; there are --json, --training, --models DIR, --media FILE, --only turns|overs"
            ),
        }
    }
    Ok(options)
}

fn media(file: PathBuf) -> anyhow::Result<(String, MediaConfig)> {
    let name = file.file_stem().unwrap_or_default().to_string_lossy();
    let text = std::fs::read_to_string(&file).with_context(|| format!("{}", file.display()))?;
    let config = toml::from_str(&text).with_context(|| format!("{}", file.display()))?;
    Ok((name.into_owned(), config))
}

#[expect(clippy::print_stdout, reason = "the tables are the result")]
fn main() -> anyhow::Result<()> {
    let options = options()?;
    let minds = minds::load(options.models.as_deref())?;
    let part = match options.training {
        true => Part::Training,
        false => Part::Test,
    };
    let wanted = |name| options.only.as_deref().is_none_or(|only| only == name);
    let mut studio = Studio::new();
    let (mut tables, mut figures) = (Vec::new(), serde_json::Map::new());
    if wanted("turns") {
        let turns = corpus::turns(part, &mut studio)?;
        let endings = turn::score(&turns, &minds, &options.own);
        tables.push(turn::report(&turns, &endings, &minds));
        figures.insert("turns".into(), turn::json(&endings));
    }
    if wanted("overs") {
        let overs = corpus::overs(part, &mut studio)?;
        let effects = over::score(&overs, &minds, &options.own);
        tables.push(over::report(&effects, &minds));
        figures.insert("overs".into(), over::json(&effects));
    }
    match options.json {
        true => println!("{:#}", json!(figures)),
        false => println!("{}", tables.join("\n\n")),
    }
    Ok(())
}
