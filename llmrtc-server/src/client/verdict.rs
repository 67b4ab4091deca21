//! What was expected of a call, and how it ended.

use std::fmt;

use regex::Regex;
use serde_json::{Value, json};

use super::{
    CallError,
    call::millis,
    heard::Since,
    script::{Expectations, Step, Wait},
};

/// Why a call did not go as it should. The number is the exit code of `llmrtc call`; 0 means that everything held.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// 1: an expectation did not hold; each with its step, what was expected and what came.
    #[error("{0}")]
    Expectation(String),
    /// 2: the arguments, the script, or a file cannot be used.
    #[error(transparent)]
    Usage(anyhow::Error),
    /// 3: the server was not reached, or did not take the call.
    #[error(transparent)]
    Connect(#[from] CallError),
    /// 4: the call ended early.
    #[error("the call ended in step {step}: {reason}")]
    Ended {
        /// The step in progress, from 1.
        step: usize,
        /// What ended it.
        reason: String,
    },
}

impl Failure {
    /// The exit code of the process.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Expectation(_) => 1,
            Self::Usage(_) => 2,
            Self::Connect(_) => 3,
            Self::Ended { .. } => 4,
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Usage(anyhow::Error::new(error).context("cannot write the result"))
    }
}

/// An expectation that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failed {
    /// The key of the script, or a word for what every step expects.
    pub(super) expectation: &'static str,
    pub(super) expected: String,
    pub(super) got: String,
}

impl Failed {
    pub(super) fn new(
        expectation: &'static str,
        expected: impl Into<String>,
        got: impl Into<String>,
    ) -> Self {
        Self {
            expectation,
            expected: expected.into(),
            got: got.into(),
        }
    }

    pub(super) fn to_json(&self) -> Value {
        json!({ "expectation": self.expectation, "expected": self.expected, "got": self.got })
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            expectation,
            expected,
            got,
        } = self;
        write!(f, "{expectation}: expected {expected}, got {got}")
    }
}

/// Compares what came with what was expected.
pub(super) fn judge(step: &Step, heard: &Since) -> Vec<Failed> {
    let mut failed = Vec::new();
    let (transcript, reply) = (heard.transcript(), heard.reply());
    for code in &heard.errors {
        failed.push(Failed::new("error", "none", code));
    }
    if step.wait == Wait::Reply && heard.audible.is_none() {
        failed.push(Failed::new(
            "reply",
            "an audible answer",
            "no answer was heard",
        ));
    }
    let Expectations {
        either,
        transcript: in_transcript,
        reply: in_reply,
        interrupted,
        within,
    } = &step.expect;
    let mut find = |key, pattern: &Option<Regex>, places: &[&str]| {
        if let Some(pattern) = pattern
            && !places.iter().any(|place| pattern.is_match(place))
        {
            let got: Vec<_> = places.iter().map(|place| format!("{place:?}")).collect();
            failed.push(Failed::new(key, format!("/{pattern}/"), got.join(" and ")));
        }
    };
    find("expect_transcript", in_transcript, &[&transcript]);
    find("expect_reply", in_reply, &[&reply]);
    find("expect", either, &[&transcript, &reply]);
    if let Some(interrupted) = *interrupted
        && interrupted != heard.interrupted
    {
        let words = |cut| {
            if cut {
                "the answer is cut"
            } else {
                "the answer goes on"
            }
        };
        failed.push(Failed::new(
            "expect_interrupted",
            words(interrupted),
            words(heard.interrupted),
        ));
    }
    if let Some(within) = *within
        && heard.response.is_none_or(|response| response > within)
    {
        let got = match heard.response {
            Some(response) => format!("{} ms", millis(response)),
            None => "no answer was heard".to_owned(),
        };
        let expected = format!("at most {} ms", within.as_millis());
        failed.push(Failed::new("within_ms", expected, got));
    }
    failed
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn step(expect: Expectations, wait: Wait) -> Step {
        Step {
            line: None,
            interrupt_after: None,
            wait,
            expect,
        }
    }

    fn heard(transcript: &str, response_ms: Option<u64>) -> Since {
        let mut heard = Since::default();
        heard.transcripts.push(transcript.to_owned());
        heard.response = response_ms.map(Duration::from_millis);
        heard
    }

    #[test]
    fn what_does_not_hold_says_what_was_expected_and_what_came() {
        let regex = |pattern: &str| Some(Regex::new(pattern).unwrap());
        let expect = Expectations {
            either: regex("capital|town"),
            transcript: regex("^What"),
            reply: regex("Paris"),
            interrupted: Some(true),
            within: Some(Duration::from_millis(900)),
        };
        let step = step(expect, Wait::Reply);
        let failed = judge(&step, &heard("What is the capital?", Some(901)));
        let lines: Vec<_> = failed.iter().map(Failed::to_string).collect();
        assert_eq!(
            lines,
            [
                "reply: expected an audible answer, got no answer was heard",
                "expect_reply: expected /Paris/, got \"\"",
                "expect_interrupted: expected the answer is cut, got the answer goes on",
                "within_ms: expected at most 900 ms, got 901 ms",
            ]
        );
        let failed = judge(&step, &heard("who", None));
        assert_eq!(
            failed[1].to_string(),
            "expect_transcript: expected /^What/, got \"who\""
        );
        assert_eq!(
            failed[3].to_string(),
            "expect: expected /capital|town/, got \"who\" and \"\""
        );
        assert_eq!(failed.last().unwrap().got, "no answer was heard");
    }

    #[test]
    fn a_pause_expects_nothing_but_the_absence_of_errors() {
        let step = step(Expectations::default(), Wait::Pause(Duration::ZERO));
        let mut heard = heard("", None);
        assert_eq!(judge(&step, &heard), []);
        heard.errors.push("LLM_ERROR".to_owned());
        assert_eq!(
            judge(&step, &heard),
            [Failed::new("error", "none", "LLM_ERROR")]
        );
    }
}
