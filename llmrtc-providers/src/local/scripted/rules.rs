use std::{fmt, io, path::PathBuf, time::Duration};

use llmrtc_core::id::ToolName;
use regex::{Captures, Regex, RegexBuilder};
use serde::Deserialize;
use serde_json::{Map, Number, Value};
use toml::Spanned;

/// Largest compiled pattern. A page of alternatives fits.
const MAX_PATTERN_BYTES: usize = 1 << 20;
/// Nobody waits longer for a word.
const MAX_DELAY_MS: i64 = 60_000;

/// Why rules cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RulesError {
    /// The file is not there or cannot be read.
    #[error("cannot read {}; check that the file exists and is readable", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// All that is wrong with the rules.
    #[error("the rules cannot be used; correct these lines:{}", list(.0))]
    Invalid(Vec<Problem>),
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(|p| format!("\n  {p}")).collect()
}

/// Something wrong with a line of the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The line, from 1.
    pub line: usize,
    /// The rule, from 1, where it is in one.
    pub rule: Option<usize>,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}", self.line)?;
        if let Some(rule) = self.rule {
            write!(f, " (rule {rule})")?;
        }
        write!(f, ": {}", self.message)
    }
}

/// Rules that have been checked.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) rules: Vec<Rule>,
    pub(super) default: String,
    pub(super) word_delay: Duration,
}

#[derive(Debug)]
pub(super) struct Rule {
    pub(super) pattern: Regex,
    pub(super) action: Action,
    pub(super) delay: Duration,
}

#[derive(Debug)]
pub(super) enum Action {
    Reply(Template),
    Call {
        tool: ToolName,
        arguments: Map<String, Value>,
        /// Without it the result itself is read out.
        after: Option<Template>,
    },
}

/// A text with places to fill in.
#[derive(Debug, PartialEq)]
pub(super) struct Template(Vec<Part>);

#[derive(Debug, PartialEq)]
enum Part {
    Text(String),
    /// What the pattern captured; empty if that part did not take part in the match.
    Group(usize),
    /// A part of the tool's result, by its path.
    Result(Vec<String>),
}

/// The file as it is written. Values are looked at one by one, so that all problems can be told at once.
#[derive(Deserialize)]
struct Source {
    #[serde(default)]
    rule: Vec<Spanned<toml::Table>>,
    #[serde(flatten)]
    rest: toml::Table,
}

impl Rules {
    pub(super) fn parse(source: &str) -> Result<Self, RulesError> {
        let line = |at: usize| 1 + source.bytes().take(at).filter(|b| *b == b'\n').count();
        let parsed: Source = toml::from_str(source).map_err(|error| {
            let problem = Problem {
                line: line(error.span().map_or(0, |span| span.start)),
                rule: None,
                message: error.message().to_owned(),
            };
            RulesError::Invalid(vec![problem])
        })?;
        let mut problems = Vec::new();
        let mut section = Section {
            table: parsed.rest,
            line: 1,
            rule: None,
            problems: &mut problems,
        };
        let default = section.text("default");
        if default.as_deref().is_none_or(|text| text.trim().is_empty()) {
            section.problem("`default` is missing: what to say when no rule applies");
        }
        let word_delay = section.delay("word_delay_ms");
        section.finish();
        let mut rules = Vec::new();
        for (at, table) in parsed.rule.into_iter().enumerate() {
            let section = Section {
                line: line(table.span().start),
                table: table.into_inner(),
                rule: Some(at + 1),
                problems: &mut problems,
            };
            rules.extend(section.rule());
        }
        if !problems.is_empty() {
            return Err(RulesError::Invalid(problems));
        }
        Ok(Self {
            rules,
            default: default.unwrap_or_default(),
            word_delay,
        })
    }
}

/// A table whose entries are taken out one after the other.
struct Section<'a> {
    table: toml::Table,
    line: usize,
    rule: Option<usize>,
    problems: &'a mut Vec<Problem>,
}

impl Section<'_> {
    fn problem(&mut self, message: impl Into<String>) {
        self.problems.push(Problem {
            line: self.line,
            rule: self.rule,
            message: message.into(),
        });
    }

    fn text(&mut self, key: &str) -> Option<String> {
        match self.table.remove(key)? {
            toml::Value::String(text) => Some(text),
            other => {
                self.problem(format!("`{key}` must be text, not {}", other.type_str()));
                None
            }
        }
    }

    fn delay(&mut self, key: &str) -> Duration {
        match self.table.remove(key) {
            None => Duration::ZERO,
            Some(toml::Value::Integer(ms @ 0..=MAX_DELAY_MS)) => Duration::from_millis(ms as u64),
            Some(_) => {
                self.problem(format!("`{key}` must be a number from 0 to {MAX_DELAY_MS}"));
                Duration::ZERO
            }
        }
    }

    fn template(&mut self, key: &str, text: &str, pattern: &Regex, result: bool) -> Template {
        Template::parse(text, pattern, result).unwrap_or_else(|message| {
            self.problem(format!("`{key}`: {message}"));
            Template(Vec::new())
        })
    }

    fn rule(mut self) -> Option<Rule> {
        let before = self.problems.len();
        if !self.table.contains_key("pattern") {
            self.problem("`pattern` is missing");
        }
        let pattern = self.text("pattern").unwrap_or_default();
        let pattern = RegexBuilder::new(&pattern)
            .case_insensitive(true)
            .size_limit(MAX_PATTERN_BYTES)
            .build();
        let pattern = match pattern {
            Ok(pattern) => Some(pattern),
            Err(error) => {
                // The last line says what is wrong; those before it draw where.
                let error = error.to_string();
                let last = error.lines().next_back().unwrap_or_default();
                let last = last.trim_start_matches("error: ");
                self.problem(format!("`pattern` is no regular expression: {last}"));
                None
            }
        };
        // What refers to a broken pattern is not looked at.
        let anything = Regex::new("").ok()?;
        let (whole, pattern) = (pattern.is_some(), pattern.unwrap_or(anything));
        let delay = self.delay("delay_ms");
        let (reply, tool) = (self.text("reply"), self.text("tool"));
        let after = self.text("after_tool");
        let arguments = self.table.remove("arguments");
        let action = match (reply, tool) {
            (Some(reply), None) => {
                if after.is_some() || arguments.is_some() {
                    self.problem("`arguments` and `after_tool` go with `tool`, not with `reply`");
                }
                whole.then(|| Action::Reply(self.template("reply", &reply, &pattern, false)))
            }
            (None, Some(tool)) => {
                let fits = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
                if !(1..=64).contains(&tool.len()) || !tool.chars().all(fits) {
                    self.problem("`tool` must be 1 to 64 letters, digits, `_` and `-`");
                }
                let after = after
                    .filter(|_| whole)
                    .map(|text| self.template("after_tool", &text, &pattern, true));
                let arguments = match arguments {
                    None => Map::new(),
                    Some(toml::Value::Table(table)) => self.arguments(table, &pattern, whole),
                    Some(_) => {
                        self.problem("`arguments` must be a table, as in { city = \"$1\" }");
                        Map::new()
                    }
                };
                Some(Action::Call {
                    tool: tool.into(),
                    arguments,
                    after,
                })
            }
            _ => {
                self.problem("a rule has either `reply` or `tool`");
                None
            }
        };
        let problems = self.finish();
        let action = action.filter(|_| problems == before)?;
        Some(Rule {
            pattern,
            action,
            delay,
        })
    }

    fn arguments(
        &mut self,
        table: toml::Table,
        pattern: &Regex,
        whole: bool,
    ) -> Map<String, Value> {
        let mut arguments = Map::new();
        for (key, value) in table {
            match json(value, pattern, whole) {
                Ok(value) => {
                    arguments.insert(key, value);
                }
                Err(message) => self.problem(format!("argument `{key}`: {message}")),
            }
        }
        arguments
    }

    /// Complains about what nobody asked for. Returns how many problems there are by now.
    fn finish(mut self) -> usize {
        for key in std::mem::take(&mut self.table).keys() {
            self.problem(format!("`{key}` is unknown"));
        }
        self.problems.len()
    }
}

/// Checks the texts in an argument, which are filled in at every call.
fn json(value: toml::Value, pattern: &Regex, whole: bool) -> Result<Value, String> {
    Ok(match value {
        toml::Value::String(text) => {
            if whole {
                Template::parse(&text, pattern, false)?;
            }
            Value::String(text)
        }
        toml::Value::Integer(n) => n.into(),
        toml::Value::Float(x) => Number::from_f64(x).ok_or("not a number of JSON")?.into(),
        toml::Value::Boolean(b) => b.into(),
        toml::Value::Datetime(time) => time.to_string().into(),
        toml::Value::Array(values) => values
            .into_iter()
            .map(|value| json(value, pattern, whole))
            .collect::<Result<_, _>>()?,
        toml::Value::Table(table) => table
            .into_iter()
            .map(|(key, value)| Ok((key, json(value, pattern, whole)?)))
            .collect::<Result<Map<_, _>, String>>()?
            .into(),
    })
}

/// Fills in the texts of an argument.
pub(super) fn fill(value: &Value, captures: &Captures<'_>, pattern: &Regex) -> Value {
    match value {
        Value::String(text) => match Template::parse(text, pattern, false) {
            Ok(template) => template.fill(captures, "").into(),
            Err(_) => value.clone(),
        },
        Value::Array(values) => values.iter().map(|v| fill(v, captures, pattern)).collect(),
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| (key.clone(), fill(value, captures, pattern)))
            .collect::<Map<_, _>>()
            .into(),
        other => other.clone(),
    }
}

impl Template {
    fn parse(text: &str, pattern: &Regex, result: bool) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['$', '{']) {
            plain.push_str(&rest[..at]);
            rest = &rest[at..];
            let (part, length) = if let Some(after) = rest.strip_prefix('$') {
                group(after, pattern)?
            } else {
                match rest.find('}').map(|end| &rest[1..end]) {
                    Some(path) if path == "result" || path.starts_with("result.") => {
                        if !result {
                            return Err("`{result}` exists only in `after_tool`".to_owned());
                        }
                        let path_parts = path.split('.').skip(1).map(str::to_owned).collect();
                        (Part::Result(path_parts), path.len() + 2)
                    }
                    _ => (Part::Text("{".to_owned()), 1),
                }
            };
            rest = &rest[length..];
            match part {
                Part::Text(text) => plain.push_str(&text),
                part => {
                    if !plain.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut plain)));
                    }
                    parts.push(part);
                }
            }
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Self(parts))
    }

    /// The text with what was captured and, behind a tool, its result.
    pub(super) fn fill(&self, captures: &Captures<'_>, result: &str) -> String {
        let parsed: Option<Value> = serde_json::from_str(result).ok();
        self.0
            .iter()
            .map(|part| match part {
                Part::Text(text) => text.clone(),
                Part::Group(index) => captures
                    .get(*index)
                    .map_or(String::new(), |found| found.as_str().trim().to_owned()),
                Part::Result(path) => look_up(parsed.as_ref(), path, result),
            })
            .collect()
    }
}

/// A part of a tool's result as text; empty if there is no such part.
fn look_up(parsed: Option<&Value>, path: &[String], result: &str) -> String {
    let found = path.iter().try_fold(parsed, |value, key| {
        Some(match value? {
            Value::Array(values) => key.parse().ok().and_then(|at: usize| values.get(at)),
            value => value.get(key),
        })
    });
    match found.flatten() {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None if path.is_empty() => result.to_owned(),
        None => String::new(),
    }
}

/// What stands behind a dollar sign, and its length with the sign.
fn group(after: &str, pattern: &Regex) -> Result<(Part, usize), String> {
    if after.starts_with('$') {
        return Ok((Part::Text("$".to_owned()), 2));
    }
    let digits = after.bytes().take_while(u8::is_ascii_digit).count();
    let (name, length) = match after.strip_prefix('{').and_then(|s| s.split_once('}')) {
        Some((name, _)) => (name, name.len() + 3),
        None if digits > 0 => (&after[..digits], digits + 1),
        None => return Ok((Part::Text("$".to_owned()), 1)),
    };
    let index = match name.parse::<usize>() {
        Ok(index) => Some(index).filter(|index| *index < pattern.captures_len()),
        Err(_) => pattern.capture_names().position(|n| n == Some(name)),
    };
    match index {
        Some(index) => Ok((Part::Group(index), length)),
        None => Err(format!("the pattern captures no `{name}`")),
    }
}
