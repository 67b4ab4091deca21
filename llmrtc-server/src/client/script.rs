//! What a caller is to say and to expect: `llmrtc call --script call.toml`.
//!
//! A script is a list of `[[step]]` tables. Everything that is wrong with one is reported at once.
//!
//! | Key | Meaning |
//! | --- | --- |
//! | `say` | a line to speak with the caller's synthesised voice |
//! | `play` | a WAV file to speak instead, relative to the script |
//! | `interrupt_after` | begin this long after the reply to the step before became audible, and while it still is |
//! | `wait` | `"reply"` (the default): until everything is answered to its end; or a pause, from the end of speech |
//! | `expect_transcript`, `expect_reply` | regular expressions that must be found in what was heard, and in the answer |
//! | `expect` | one that must be found in either |
//! | `expect_interrupted` | whether this step's line must, or must not, cut the answer that it interrupts |
//! | `within_ms` | longest time from the end of speech to the first audible sample of the answer |
//!
//! A step without a line listens for as long as its `wait` says. A step whose answer is interrupted by the next one has
//! no `wait`; what it expects is looked at when the interruption begins.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use llmrtc_core::audio::PcmChunk;
use regex::Regex;
use toml::{Table, Value};

use super::recording;

/// The keys of a step, as a complaint lists them.
const KEYS: &str = "say, play, interrupt_after, wait, expect, expect_transcript, expect_reply, expect_interrupted, within_ms";
/// Beyond that a pause is a mistake in the unit.
const MAX_PAUSE: Duration = Duration::from_secs(600);
/// Letters in one line; about ten minutes of speech.
const MAX_LINE: usize = 10_000;

/// What happens in a call, in order. Never empty.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) steps: Vec<Step>,
}

/// One line of the caller, or a time of listening.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) line: Option<Line>,
    /// When to begin, from the moment at which the answer of the step before becomes audible.
    pub(super) interrupt_after: Option<Duration>,
    pub(super) wait: Wait,
    pub(super) expect: Expectations,
}

/// What the caller says.
#[derive(Debug)]
pub(super) enum Line {
    Say(String),
    Play { file: PathBuf, recording: PcmChunk },
}

/// When a step is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// When everything that was asked has been answered to the end.
    Reply,
    /// This long after the end of speech.
    Pause(Duration),
    /// When the next step interrupts.
    Interruption,
}

/// What must hold at the end of a step.
#[derive(Debug, Default)]
pub(super) struct Expectations {
    pub(super) either: Option<Regex>,
    pub(super) transcript: Option<Regex>,
    pub(super) reply: Option<Regex>,
    pub(super) interrupted: Option<bool>,
    pub(super) within: Option<Duration>,
}

/// Everything that keeps a script from being performed.
#[derive(Debug, thiserror::Error)]
pub(super) struct ScriptError {
    file: String,
    problems: Vec<Problem>,
}

#[derive(Debug)]
struct Problem {
    /// From 1; none when it is about the whole script.
    step: Option<usize>,
    what: String,
}

impl fmt::Display for ScriptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot perform {}", self.file)?;
        for Problem { step, what } in &self.problems {
            match step {
                Some(step) => write!(f, "\n  step {step}: {what}")?,
                None => write!(f, "\n  {what}")?,
            }
        }
        Ok(())
    }
}

impl Script {
    /// A single line whose answer is waited for.
    pub(super) fn single(line: Line) -> Self {
        Self {
            steps: vec![Step {
                line: Some(line),
                interrupt_after: None,
                wait: Wait::Reply,
                expect: Expectations::default(),
            }],
        }
    }

    /// Reads a script and the recordings that it names.
    pub(super) fn load(file: &Path) -> Result<Self, ScriptError> {
        let name = file.display().to_string();
        let text = std::fs::read_to_string(file).map_err(|error| ScriptError {
            file: name.clone(),
            problems: vec![Problem {
                step: None,
                what: error.to_string(),
            }],
        })?;
        let directory = file.parent().unwrap_or(Path::new(""));
        Self::parse(&text, directory).map_err(|problems| ScriptError {
            file: name,
            problems,
        })
    }

    fn parse(text: &str, directory: &Path) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut whole = |what: String| problems.push(Problem { step: None, what });
        let mut table = match text.parse::<Table>() {
            Ok(table) => table,
            Err(error) => {
                whole(error.to_string().trim_end().replace('\n', "\n  "));
                return Err(problems);
            }
        };
        let steps = match table.remove("step") {
            Some(Value::Array(steps)) if !steps.is_empty() => steps,
            _ => {
                whole("there is no [[step]]".to_owned());
                Vec::new()
            }
        };
        for key in table.keys() {
            whole(format!("unknown key `{key}`; a script has [[step]] only"));
        }

        let count = steps.len();
        let mut read = Vec::with_capacity(count);
        for (at, value) in steps.into_iter().enumerate() {
            let mut reader = Reader {
                step: at + 1,
                table: match value {
                    Value::Table(table) => table,
                    _ => Table::new(),
                },
                problems: &mut problems,
            };
            read.push(reader.step(directory));
            reader.finish();
        }
        for at in 1..count {
            if read[at].interrupt_after.is_none() {
                continue;
            }
            let before = &mut read[at - 1];
            let what = if before.line_missing {
                "`interrupt_after` needs an answer to interrupt, but the step before says nothing"
                    .to_owned()
            } else if before.wait.is_some() {
                format!(
                    "`interrupt_after` says when this line begins; take `wait` out of step {at}"
                )
            } else {
                before.wait = Some(Wait::Interruption);
                continue;
            };
            problems.push(Problem {
                step: Some(at + 1),
                what,
            });
        }
        if !problems.is_empty() {
            problems.sort_by_key(|problem| problem.step);
            return Err(problems);
        }
        let steps = read
            .into_iter()
            .map(|step| Step {
                line: step.line,
                interrupt_after: step.interrupt_after,
                wait: step.wait.unwrap_or(Wait::Reply),
                expect: step.expect,
            })
            .collect();
        Ok(Self { steps })
    }
}

/// A step while it is checked.
struct Draft {
    line: Option<Line>,
    /// Neither `say` nor `play` was written. A line that cannot be used is another mistake.
    line_missing: bool,
    interrupt_after: Option<Duration>,
    wait: Option<Wait>,
    expect: Expectations,
}

/// Takes a step's keys one by one; what is left at the end is unknown.
struct Reader<'a> {
    step: usize,
    table: Table,
    problems: &'a mut Vec<Problem>,
}

impl Reader<'_> {
    fn step(&mut self, directory: &Path) -> Draft {
        let silent = |table: &Table| !table.contains_key("say") && !table.contains_key("play");
        let line_missing = silent(&self.table);
        let wait_given = self.table.contains_key("wait");
        let line = self.line(directory);
        let interrupt_after = self.duration("interrupt_after");
        let wait = self.wait();
        let expect = Expectations {
            either: self.regex("expect"),
            transcript: self.regex("expect_transcript"),
            reply: self.regex("expect_reply"),
            interrupted: self.boolean("expect_interrupted"),
            within: self.milliseconds("within_ms"),
        };
        if line_missing {
            if !wait_given {
                self.problem("needs a line (`say` or `play`), or a `wait` to listen for".into());
            }
            if interrupt_after.is_some() {
                self.problem("`interrupt_after` needs a line: add `say` or `play`".into());
            }
            if expect.within.is_some() {
                self.problem("`within_ms` needs a line: it is measured from its end".into());
            }
        }
        if interrupt_after.is_some() && self.step == 1 {
            self.problem(
                "`interrupt_after` needs an answer to interrupt, and this is the first step".into(),
            );
        }
        if expect.interrupted.is_some() && interrupt_after.is_none() {
            self.problem("`expect_interrupted` goes with `interrupt_after`".into());
        }
        Draft {
            line,
            line_missing,
            interrupt_after,
            wait,
            expect,
        }
    }

    fn finish(self) {
        for key in self.table.keys() {
            let what = format!("unknown key `{key}`; a step has {KEYS}");
            self.problems.push(Problem {
                step: Some(self.step),
                what,
            });
        }
    }

    fn line(&mut self, directory: &Path) -> Option<Line> {
        let said = self.text("say");
        let played = self.text("play");
        if said.is_some() && played.is_some() {
            self.problem("has both `say` and `play`; keep one".into());
        }
        if let Some(text) = said {
            return match check_line(&text) {
                Ok(()) => Some(Line::Say(text)),
                Err(what) => {
                    self.problem(format!("`say` {what}"));
                    None
                }
            };
        }
        let file = PathBuf::from(played?);
        match recording::read(&directory.join(&file)) {
            Ok(recording) => Some(Line::Play { file, recording }),
            Err(error) => {
                self.problem(format!("{error:#}"));
                None
            }
        }
    }

    fn wait(&mut self) -> Option<Wait> {
        let text = self.text("wait")?;
        if text == "reply" {
            return Some(Wait::Reply);
        }
        match parse_duration(&text) {
            Ok(pause) => Some(Wait::Pause(pause)),
            Err(what) => {
                self.problem(format!("`wait` is \"reply\" or a pause, but {what}"));
                None
            }
        }
    }

    fn duration(&mut self, key: &str) -> Option<Duration> {
        let text = self.text(key)?;
        parse_duration(&text)
            .map_err(|what| self.problem(format!("`{key}`: {what}")))
            .ok()
    }

    fn milliseconds(&mut self, key: &str) -> Option<Duration> {
        let value = self.table.remove(key)?;
        let limit = MAX_PAUSE.as_millis() as i64;
        match value.as_integer() {
            Some(ms) if (1..=limit).contains(&ms) => Some(Duration::from_millis(ms as u64)),
            _ => {
                self.problem(format!(
                    "`{key}` must be milliseconds from 1 to {limit}, not {value}"
                ));
                None
            }
        }
    }

    fn regex(&mut self, key: &str) -> Option<Regex> {
        let text = self.text(key)?;
        Regex::new(&text)
            .map_err(|error| {
                // The last line says what is wrong; those above it draw where.
                let error = error.to_string();
                let reason = error.lines().last().unwrap_or_default();
                let reason = reason.trim_start_matches("error: ");
                self.problem(format!("`{key}` is no regular expression: {reason}"));
            })
            .ok()
    }

    fn boolean(&mut self, key: &str) -> Option<bool> {
        let value = self.table.remove(key)?;
        let truth = value.as_bool();
        if truth.is_none() {
            self.problem(format!("`{key}` must be true or false, not {value}"));
        }
        truth
    }

    fn text(&mut self, key: &str) -> Option<String> {
        match self.table.remove(key)? {
            Value::String(text) => Some(text),
            value => {
                self.problem(format!("`{key}` must be a text, not {value}"));
                None
            }
        }
    }

    fn problem(&mut self, what: String) {
        self.problems.push(Problem {
            step: Some(self.step),
            what,
        });
    }
}

/// Says what is wrong with a line to speak.
pub(crate) fn check_line(text: &str) -> Result<(), String> {
    if !text.chars().any(char::is_alphanumeric) {
        return Err("has no words in it".to_owned());
    }
    let length = text.chars().count();
    if length > MAX_LINE {
        return Err(format!(
            "has {length} letters, more than {MAX_LINE}; make several steps of it"
        ));
    }
    Ok(())
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text)
        .map_err(|_| format!("\"{text}\" is not a duration such as \"800ms\" or \"2s\""))?;
    if duration > MAX_PAUSE {
        return Err(format!("\"{text}\" is more than 10 minutes"));
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        let Err(problems) = Script::parse(text, Path::new("")) else {
            panic!("{text} is a script");
        };
        let error = ScriptError {
            file: "a.toml".into(),
            problems,
        };
        let lines: Vec<_> = error.to_string().lines().map(str::to_owned).collect();
        assert_eq!(lines[0], "cannot perform a.toml");
        lines[1..].iter().map(|line| line.trim().into()).collect()
    }

    #[test]
    fn a_conversation_is_read_in_order() {
        let text = r#"
            [[step]]
            say = "Tell me a story."
            expect_transcript = "(?i)story"
            within_ms = 1500
            [[step]]
            say = "Stop!"
            interrupt_after = "600ms"
            expect_interrupted = true
            wait = "800ms"
            [[step]]
            wait = "2s"
        "#;
        let script = Script::parse(text, Path::new("")).unwrap();
        let waits: Vec<_> = script.steps.iter().map(|step| step.wait).collect();
        assert_eq!(
            waits,
            [
                Wait::Interruption,
                Wait::Pause(Duration::from_millis(800)),
                Wait::Pause(Duration::from_secs(2))
            ]
        );
        let [first, second, third] = &script.steps[..] else {
            panic!("{script:?}");
        };
        assert!(matches!(&first.line, Some(Line::Say(text)) if text == "Tell me a story."));
        assert!(
            first
                .expect
                .transcript
                .as_ref()
                .unwrap()
                .is_match("A Story")
        );
        assert_eq!(first.expect.within, Some(Duration::from_millis(1_500)));
        assert_eq!(second.interrupt_after, Some(Duration::from_millis(600)));
        assert_eq!(second.expect.interrupted, Some(true));
        assert!(third.line.is_none());
    }

    #[test]
    fn every_mistake_is_reported_at_once_with_its_step() {
        let found = problems(
            r#"
            voice = "x"
            [[step]]
            say = "Hello"
            play = "missing.wav"
            expct = "x"
            [[step]]
            say = " … "
            expect_reply = "(Paris"
            wait = "soon"
            within_ms = 0
            [[step]]
            interrupt_after = "1h"
            [[step]]
            say = 5
            expect_interrupted = "yes"
            [[step]]
            play = "missing.wav"
            "#,
        );
        let expected = [
            "unknown key `voice`",
            "step 1: has both `say` and `play`",
            "step 1: unknown key `expct`; a step has say,",
            "step 2: `say` has no words in it",
            "step 2: `wait` is \"reply\" or a pause, but \"soon\"",
            "step 2: `expect_reply` is no regular expression: unclosed group",
            "step 2: `within_ms` must be milliseconds from 1 to 600000, not 0",
            "step 3: `interrupt_after`: \"1h\" is more than 10 minutes",
            "step 3: needs a line",
            "step 4: `say` must be a text, not 5",
            "step 4: `expect_interrupted` must be true or false",
            "step 5: cannot read missing.wav",
        ];
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected), "{found} is not {expected}");
        }
    }

    #[test]
    fn an_interruption_needs_something_to_interrupt() {
        let interruption = "[[step]]\nsay = \"b\"\ninterrupt_after = \"1s\"\n";
        for (before, expected) in [
            (
                "",
                "step 1: `interrupt_after` needs an answer to interrupt, and this is the first",
            ),
            (
                "[[step]]\nwait = \"1s\"\n",
                "step 2: `interrupt_after` needs an answer to interrupt, but the step before says nothing",
            ),
            (
                "[[step]]\nsay = \"a\"\nwait = \"reply\"\n",
                "step 2: `interrupt_after` says when this line begins; take `wait` out of step 1",
            ),
        ] {
            let found = problems(&format!("{before}{interruption}"));
            assert!(
                found.len() == 1 && found[0].starts_with(expected),
                "{found:?}"
            );
        }
    }

    #[test]
    fn what_is_no_script_is_refused() {
        assert_eq!(problems(""), ["there is no [[step]]"]);
        assert_eq!(problems("step = 5"), ["there is no [[step]]"]);
        assert!(problems("[[step]").join(" ").contains("line 1"));
        let long = format!("[[step]]\nsay = \"{}\"", "a".repeat(MAX_LINE + 1));
        assert!(problems(&long)[0].contains("10001 letters"));
    }
}
