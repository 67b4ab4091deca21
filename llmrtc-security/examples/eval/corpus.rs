//! Reads the redactor's corpora and fills the sentences with values.

use std::{fs, ops::Range, path::Path};

use llmrtc_security::redact::Lang;

use super::{
    Set,
    values::{self, Form, Maker},
};

/// Texts made from one sentence.
const VALUES: usize = 40;
/// Texts made from one harmless sentence: a share of 0.2 % needs thousands.
const HARMLESS_VALUES: usize = 100;

/// A text, and what has to go.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) form: Form,
    /// Whether its values come from a seed.
    pub(crate) generated: bool,
    pub(crate) kind: String,
    pub(crate) language: String,
    pub(crate) previous: Option<String>,
    pub(crate) text: String,
    pub(crate) gone: Vec<Range<usize>>,
}

impl Row {
    pub(crate) fn lang(&self) -> Option<Lang> {
        Lang::from_tag(&self.language)
    }
}

/// Every row of a set.
pub(crate) fn read(corpora: &Path, set: Set) -> Result<Vec<Row>, Box<dyn std::error::Error>> {
    let folder = corpora.join("redact").join(set.name());
    let mut rows = Vec::new();
    for (file, form, generated) in [
        ("written.txt", Form::Written, false),
        ("written-carriers.txt", Form::Written, true),
        ("spoken.txt", Form::Spoken, false),
        ("spoken-carriers.txt", Form::Spoken, true),
        ("benign.txt", Form::Spoken, false),
        ("benign-carriers.txt", Form::Spoken, true),
    ] {
        let path = folder.join(file);
        // Not every set has every file.
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        let mut maker = Maker::new(set);
        for line in text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
        {
            let head = Head::parse(line).ok_or_else(|| format!("{}: {line}", path.display()))?;
            if !generated {
                rows.push(head.marked(form));
                continue;
            }
            let times = if head.kind == BENIGN {
                HARMLESS_VALUES
            } else {
                VALUES
            };
            for _ in 0..times {
                let row = head.filled(form, &mut maker);
                rows.push(row.ok_or_else(|| format!("{}: {line}", path.display()))?);
            }
        }
    }
    Ok(rows)
}

/// The group of texts that stay as they are.
pub(crate) const BENIGN: &str = "benign";

/// One line of a file.
struct Head<'a> {
    kind: String,
    language: &'a str,
    previous: Option<&'a str>,
    text: &'a str,
}

impl<'a> Head<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut parts = line.splitn(3, '|').map(str::trim);
        let (group, language) = parts.next()?.split_once(' ')?;
        let previous = parts.next().filter(|said| !said.is_empty());
        // The tables of the spoken grammars mark rows without a question by an x, and name some numbers by their country's word.
        let kind = match group {
            "short" | "shortx" => "name in short answers",
            "postcodex" => "postcode",
            "namex" => "name",
            "birth" | "birthx" => "birth_date",
            "expiry" => "card_expiry",
            "account" => "bank_account",
            "nino" | "nir" | "dni" | "cpf" => "national_id",
            kind => kind,
        };
        Some(Self {
            kind: kind.to_owned(),
            language,
            previous,
            text: parts.next()?,
        })
    }

    fn row(&self, form: Form, generated: bool) -> Row {
        Row {
            form,
            generated,
            kind: self.kind.clone(),
            language: self.language.to_owned(),
            previous: self.previous.map(str::to_owned),
            text: String::new(),
            gone: Vec::new(),
        }
    }

    /// With the spans that stand in braces.
    fn marked(&self, form: Form) -> Row {
        let mut row = self.row(form, false);
        for character in self.text.chars() {
            match character {
                '{' => row.gone.push(row.text.len()..row.text.len()),
                '}' => {
                    if let Some(span) = row.gone.last_mut() {
                        span.end = row.text.len();
                    }
                }
                character => row.text.push(character),
            }
        }
        row
    }

    /// With a value in place of each name in braces; `None` for a name that means nothing.
    fn filled(&self, form: Form, maker: &mut Maker) -> Option<Row> {
        let mut row = self.row(form, true);
        let mut rest = self.text;
        while let Some((before, behind)) = rest.split_once('{') {
            row.text.push_str(before);
            let (name, behind) = behind.split_once('}')?;
            let start = row.text.len();
            let value = match self.kind.as_str() {
                BENIGN => values::harmless(maker, name, self.language)?,
                _ => maker.value(name, self.language, form)?,
            };
            row.text.push_str(&value);
            if self.kind != BENIGN {
                row.gone.push(start..row.text.len());
            }
            rest = behind;
        }
        row.text.push_str(rest);
        Some(row)
    }
}
