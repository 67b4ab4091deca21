use std::{cell::RefCell, fs::File, io::Read};

use llmrtc_core::{credential::SharedCredential, redact::Secret};

/// Keys are short; a file much longer than one is the wrong file.
const MAX_KEY_FILE_BYTES: u64 = 16 * 1024;

/// Variables, and a list of everything that is wrong with them.
pub(super) struct Lookup<'a> {
    env: &'a dyn Fn(&str) -> Option<String>,
    keys: &'a dyn Fn(&str) -> Option<SharedCredential>,
    problems: RefCell<Vec<String>>,
    notices: RefCell<Vec<String>>,
}

impl<'a> Lookup<'a> {
    pub(super) fn new(
        env: &'a dyn Fn(&str) -> Option<String>,
        keys: &'a dyn Fn(&str) -> Option<SharedCredential>,
    ) -> Self {
        Self {
            env,
            keys,
            problems: RefCell::default(),
            notices: RefCell::default(),
        }
    }

    /// The trimmed value; blank counts as unset.
    pub(super) fn get(&self, name: &str) -> Option<String> {
        let value = (self.env)(name)?;
        let value = value.trim();
        (!value.is_empty()).then(|| value.to_owned())
    }

    /// The first of these that is set.
    pub(super) fn first(&self, names: &[&str]) -> Option<String> {
        names.iter().find_map(|name| self.get(name))
    }

    /// A yes-or-no value.
    pub(super) fn switch(&self, name: &str, default: bool) -> bool {
        match self
            .get(name)
            .map(|value| value.to_ascii_lowercase())
            .as_deref()
        {
            None => default,
            Some("true" | "1" | "yes" | "on") => true,
            Some("false" | "0" | "no" | "off") => false,
            Some(other) => {
                self.problem(format!("{name}={other}: use true or false"));
                default
            }
        }
    }

    /// Whether a key or its file variable is set, without reading it.
    pub(super) fn has_key(&self, name: &str) -> bool {
        (self.keys)(name).is_some()
            || self.get(name).is_some()
            || self.get(&format!("{name}_FILE")).is_some()
    }

    /// The key: the one that was resolved already, else from `NAME` or from the file that `NAME_FILE` names.
    pub(super) fn key(&self, name: &str) -> Option<SharedCredential> {
        if let Some(key) = (self.keys)(name) {
            return Some(key);
        }
        let file = format!("{name}_FILE");
        match (self.get(name), self.get(&file)) {
            (Some(_), Some(_)) => {
                self.problem(format!("{name} and {file} are both set; keep one"));
                None
            }
            (Some(value), None) if value.starts_with("aws-sm://") => {
                self.problem(format!(
                    "{name}: aws-sm:// references are not available in this version"
                ));
                None
            }
            (Some(value), None) => Some(value.into()),
            (None, Some(path)) => {
                let mut key = String::new();
                let read = File::open(&path)
                    .and_then(|file| file.take(MAX_KEY_FILE_BYTES).read_to_string(&mut key));
                let problem = match read {
                    Err(error) => format!("cannot be read: {error}"),
                    Ok(_) if key.trim().is_empty() => "is empty".to_owned(),
                    Ok(_) => return Some(Secret::new(key.trim()).into()),
                };
                self.problem(format!("{file}: {path} {problem}"));
                None
            }
            (None, None) => None,
        }
    }

    /// A parsed value, or a problem that says what would be right.
    pub(super) fn parsed<T>(
        &self,
        name: &str,
        expected: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let value = self.get(name)?;
        let parsed = parse(&value);
        if parsed.is_none() {
            self.problem(format!("{name}={value}: expected {expected}"));
        }
        parsed
    }

    pub(super) fn problem(&self, problem: impl Into<String>) {
        push_once(&mut self.problems.borrow_mut(), problem.into());
    }

    pub(super) fn notice(&self, notice: impl Into<String>) {
        push_once(&mut self.notices.borrow_mut(), notice.into());
    }

    pub(super) fn is_sound(&self) -> bool {
        self.problems.borrow().is_empty()
    }

    pub(super) fn problems(&self) -> Vec<String> {
        self.problems.borrow().clone()
    }

    pub(super) fn notices(&self) -> Vec<String> {
        self.notices.borrow().clone()
    }
}

/// Three capabilities share variables; one mistake is one line.
fn push_once(lines: &mut Vec<String>, line: String) {
    if !lines.contains(&line) {
        lines.push(line);
    }
}
