//! `llmrtc redact`: JSON lines in, JSON lines out, with the spans that were found.

use std::{
    io::{self, BufRead, Write},
    sync::Arc,
    time::Instant,
};

use anyhow::Context as _;
use llmrtc_security::redact::{
    Context, Lang, Mode, RedactConfig, RedactStream, Redactor, SessionTokens, SinkPolicy, Span,
    StreamOptions,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A longer line is an error, not a reason to fill the memory.
const MAX_LINE_BYTES: usize = 16 << 20;

/// Arguments of `llmrtc redact`.
///
/// Reads `{"id"?, "text", "previous"?, "lang"?}` per line and writes `{"id", "text", "spans"}`; offsets are Unicode code points of the
/// input, the end exclusive. `previous` is the utterance before, `lang` a language tag.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Take `text` as a list of pieces and report what was released after which of them.
    #[arg(long)]
    stream: bool,
    /// What takes a span's place.
    #[arg(long, value_enum, default_value_t = Replacement::Tag)]
    mode: Replacement,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Replacement {
    /// `[CARD]`
    Tag,
    /// A star for every letter and digit.
    Mask,
    /// A mask that leaves the last four of long values.
    KeepLast4,
    /// A name that is the same for the same value within this run.
    Pseudonym,
}

impl From<Replacement> for Mode {
    fn from(replacement: Replacement) -> Self {
        match replacement {
            Replacement::Tag => Self::Tag,
            Replacement::Mask => Self::Mask,
            Replacement::KeepLast4 => Self::KeepLast4,
            Replacement::Pseudonym => Self::Pseudonym,
        }
    }
}

#[derive(Deserialize)]
struct Input {
    #[serde(default)]
    id: Value,
    text: Text,
    previous: Option<String>,
    lang: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Text {
    Whole(String),
    Pieces(Vec<String>),
}

#[derive(Serialize)]
struct Output<'a> {
    id: &'a Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    emitted: Option<Vec<Emitted>>,
    text: &'a str,
    spans: Vec<Found<'a>>,
}

#[derive(Serialize)]
struct Emitted {
    /// Pieces that had arrived.
    after: usize,
    text: String,
}

#[derive(Serialize)]
struct Found<'a> {
    start: usize,
    end: usize,
    kind: &'a str,
    score: f32,
}

#[derive(Serialize)]
struct Failure<'a> {
    id: &'a Value,
    line: usize,
    error: String,
}

/// Runs the command.
///
/// # Errors
/// When a line was no request (each is answered by an error object, and the others are still served), or input or output fails.
pub fn run(args: Args) -> anyhow::Result<()> {
    let redactor = Redactor::new(&RedactConfig::default()).context("the built-in detectors")?;
    let session = SessionTokens::new().context("a key for pseudonyms")?;
    let command = Command {
        redactor: Arc::new(redactor),
        policy: Arc::new(SinkPolicy::all(args.mode.into())),
        session: Arc::new(session),
        stream: args.stream,
    };
    let failed = command.serve(io::stdin().lock(), io::stdout().lock())?;
    anyhow::ensure!(
        failed == 0,
        "{failed} malformed {}",
        if failed == 1 { "line" } else { "lines" }
    );
    Ok(())
}

struct Command {
    redactor: Arc<Redactor>,
    policy: Arc<SinkPolicy>,
    session: Arc<SessionTokens>,
    stream: bool,
}

impl Command {
    /// Answers every line; returns how many were malformed.
    fn serve(&self, mut input: impl BufRead, mut output: impl Write) -> anyhow::Result<usize> {
        let (mut line, mut number, mut failed) = (Vec::new(), 0, 0);
        loop {
            line.clear();
            number += 1;
            let read = io::Read::take(&mut input, MAX_LINE_BYTES as u64)
                .read_until(b'\n', &mut line)
                .context("standard input")?;
            if read == 0 {
                return Ok(failed);
            }
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let answer = if read == MAX_LINE_BYTES && line.last() != Some(&b'\n') {
                skip_line(&mut input).context("standard input")?;
                Err((Value::Null, "the line is longer than 16 MiB".to_owned()))
            } else {
                self.answer(&line)
            };
            let written = answer.unwrap_or_else(|(id, error)| {
                failed += 1;
                // An id and a number cannot fail to serialize; the message has no content of the line.
                serde_json::to_string(&Failure {
                    id: &id,
                    line: number,
                    error,
                })
                .unwrap_or_default()
            });
            writeln!(output, "{written}")
                .and_then(|()| output.flush())
                .context("standard output")?;
        }
    }

    fn answer(&self, line: &[u8]) -> Result<String, (Value, String)> {
        let value: Value = serde_json::from_slice(line).map_err(|error| {
            (
                Value::Null,
                format!(
                    "no JSON: {:?} error at column {}",
                    error.classify(),
                    error.column()
                ),
            )
        })?;
        let id = value.get("id").cloned().unwrap_or_default();
        let input: Input = serde_json::from_value(value).map_err(|_| (id.clone(), "expected an object with a string or list of strings as text, and strings as previous and lang".to_owned()))?;
        let lang = input.lang.as_deref().and_then(Lang::from_tag);
        let pieces = match input.text {
            Text::Whole(text) => vec![text],
            Text::Pieces(pieces) if self.stream => pieces,
            Text::Pieces(_) => return Err((id, "a list of pieces needs --stream".to_owned())),
        };
        let whole = pieces.concat();
        let context = Context {
            previous: input.previous.as_deref(),
            lang,
            dialogue: None,
        };
        let (emitted, text) = if self.stream {
            let emitted = self.emit(&pieces, input.previous.clone(), lang);
            let text = emitted
                .iter()
                .map(|emitted| emitted.text.as_str())
                .collect();
            (Some(emitted), text)
        } else {
            (
                None,
                self.redactor
                    .redact(&whole, &context, &self.policy, Some(&self.session))
                    .into_owned(),
            )
        };
        let spans = self.redactor.spans(&whole, &context);
        let output = Output {
            id: &input.id,
            emitted,
            text: &text,
            spans: code_points(&whole, &spans),
        };
        serde_json::to_string(&output).map_err(|error| (id, error.to_string()))
    }

    fn emit(
        &self,
        pieces: &[String],
        previous: Option<String>,
        lang: Option<Lang>,
    ) -> Vec<Emitted> {
        let options = StreamOptions {
            policy: self.policy.clone(),
            session: Some(self.session.clone()),
            previous,
            lang,
            dialogue: None,
        };
        let mut stream = RedactStream::new(self.redactor.clone(), options);
        let mut emitted = Vec::new();
        // Pieces of a file have no times of their own, so none of them waits.
        let now = Instant::now();
        for (at, piece) in pieces.iter().enumerate() {
            let text = stream.push(piece, now);
            if !text.is_empty() {
                emitted.push(Emitted {
                    after: at + 1,
                    text,
                });
            }
        }
        let text = stream.finish();
        if !text.is_empty() {
            emitted.push(Emitted {
                after: pieces.len(),
                text,
            });
        }
        emitted
    }
}

fn skip_line(input: &mut impl BufRead) -> io::Result<()> {
    loop {
        let buffer = input.fill_buf()?;
        if buffer.is_empty() {
            return Ok(());
        }
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let used = end.map_or(buffer.len(), |end| end + 1);
        input.consume(used);
        if end.is_some() {
            return Ok(());
        }
    }
}

/// Spans with offsets in code points, in one pass.
fn code_points<'a>(text: &str, spans: &'a [Span]) -> Vec<Found<'a>> {
    let (mut byte, mut point) = (0, 0);
    let mut upto = |end: usize| {
        point += text[byte..end].chars().count();
        byte = end;
        point
    };
    spans
        .iter()
        .map(|span| Found {
            start: upto(span.start),
            end: upto(span.end),
            kind: span.kind.name(),
            score: (span.score * 1000.0).round() / 1000.0,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(stream: bool, input: &str, expected: &[&str], failures: usize) {
        let command = Command {
            redactor: Arc::new(Redactor::new(&RedactConfig::default()).unwrap()),
            policy: Arc::new(SinkPolicy::default()),
            session: Arc::new(SessionTokens::new().unwrap()),
            stream,
        };
        let mut output = Vec::new();
        let failed = command.serve(input.as_bytes(), &mut output).unwrap();
        let lines: Vec<Value> = String::from_utf8(output)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let expected: Vec<Value> = expected
            .iter()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines, expected);
        assert_eq!(failed, failures);
    }

    #[test]
    fn offsets_are_code_points_of_the_input() {
        check(
            false,
            r#"{"id":7,"text":"né 🎂 a@b.example"}"#,
            &[
                r#"{"id":7,"text":"né 🎂 [EMAIL]","spans":[{"start":5,"end":16,"kind":"email","score":0.98}]}"#,
            ],
            0,
        );
    }

    #[test]
    fn a_malformed_line_is_answered_and_the_next_served() {
        check(
            false,
            "nonsense\n\n{\"id\":\"a\"}\n{\"text\":\"fine\"}",
            &[
                r#"{"id":null,"line":1,"error":"no JSON: Syntax error at column 2"}"#,
                r#"{"id":"a","line":3,"error":"expected an object with a string or list of strings as text, and strings as previous and lang"}"#,
                r#"{"id":null,"text":"fine","spans":[]}"#,
            ],
            2,
        );
    }

    #[test]
    fn a_stream_reports_what_left_when() {
        let before = "x".repeat(70);
        check(
            true,
            &format!(r#"{{"id":1,"text":["{before}"," 4111 1111"," 1111 1111"]}}"#),
            &[&format!(
                r#"{{"id":1,"emitted":[{{"after":1,"text":"xxxxxx"}},{{"after":2,"text":"xxxxxxxxxx"}},{{"after":3,"text":"xxxxxxxxxx"}},{{"after":3,"text":"{} [CARD]"}}],"text":"{before} [CARD]","spans":[{{"start":71,"end":90,"kind":"card","score":0.99}}]}}"#,
                "x".repeat(44)
            )],
            0,
        );
    }
}
