//! Scores the redactor and the guard on the project's own corpora (E1, F2), those of training apart from those of tests.
//!
//! `cargo run --release -p llmrtc-security --example eval [-- --json | --missed]`
//!
//! Prints Markdown tables, or all counts as JSON. `--missed` prints what is wrong with the texts of training; there is no such
//! thing for the texts of tests, so that nobody tunes on them by accident.

#![expect(clippy::print_stdout, reason = "a program whose output is the result")]

mod corpus;
mod guard;
mod redact;
mod speech;
mod table;
mod values;

use std::path::Path;

use serde_json::json;

/// What a text is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
enum Set {
    /// Whoever writes detectors looks at it.
    Train,
    /// Nobody does.
    Test,
    /// Nobody does either: written by hand when detectors had been tuned, and scored once they had been tuned again.
    Test2,
}

impl Set {
    const ALL: [Self; 3] = [Self::Train, Self::Test, Self::Test2];

    const fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Test => "test",
            Self::Test2 => "test2",
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let option = std::env::args().nth(1);
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpora");
    match option.as_deref() {
        None => print!("{}\n{}", redact::score(&corpora)?, guard::score(&corpora)?),
        Some("--json") => {
            let (redaction, guard) = (redact::score(&corpora)?, guard::score(&corpora)?);
            println!(
                "{:#}",
                json!({ "redaction": redaction.lines(), "guard": guard.lines() })
            );
        }
        Some("--missed") => {
            redact::show_missed(&corpora)?;
            guard::show_missed(&corpora)?;
        }
        Some(other) => return Err(format!("no option is called {other:?}").into()),
    }
    Ok(())
}
