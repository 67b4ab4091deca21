//! Scores turn-taking on calls made of synthetic speech and synthetic noise: how soon turns end and how often too soon, what
//! interrupts an answer and what does not. `cargo xtask eval turns` builds and runs this.
//!
//! ```text
//! turns [--json] [--training] [--sweep] [--models DIR]
//! ```
//!
//! Nothing is recorded: the programs `flite` and `espeak-ng` speak, the rest is made from seeds, so the corpus is the same
//! everywhere. Texts and seeds of training and test are apart; `--sweep` tries thresholds on the former. The audio is
//! played to the ears of the server faster than real time; a judge's answer arrives after a fixed time of audio.

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
use serde_json::json;

use self::corpus::{Part, Studio};

#[derive(Default)]
struct Options {
    json: bool,
    training: bool,
    sweep: bool,
    models: Option<PathBuf>,
}

fn options() -> anyhow::Result<Options> {
    let mut options = Options::default();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--json" => options.json = true,
            "--training" => options.training = true,
            "--sweep" => options.sweep = true,
            "--models" => {
                let folder = arguments.next().context("--models takes a folder")?;
                options.models = Some(folder.into());
            }
            other => {
                bail!("unknown option {other}; there are --json, --training, --sweep, --models DIR")
            }
        }
    }
    Ok(options)
}

#[expect(clippy::print_stdout, reason = "the tables are the result")]
fn main() -> anyhow::Result<()> {
    let options = options()?;
    let minds = minds::load(options.models.as_deref())?;
    let part = if options.training || options.sweep {
        Part::Training
    } else {
        Part::Test
    };
    let mut studio = Studio::new();
    let turns = corpus::turns(part, &mut studio)?;
    let overs = corpus::overs(part, &mut studio)?;
    if options.sweep {
        println!("{}", turn::sweep(&turns, &minds));
        println!("{}", over::sweep(&overs, &minds));
        return Ok(());
    }
    let endings = turn::score(&turns, &minds);
    let interruptions = over::score(&overs, &minds);
    if options.json {
        let all = json!({
            "turns": turn::json(&endings),
            "overs": over::json(&interruptions),
        });
        println!("{all:#}");
    } else {
        println!(
            "{}\n\n{}",
            turn::report(&turns, &endings),
            over::report(&interruptions)
        );
    }
    Ok(())
}
