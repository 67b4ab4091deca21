//! E1: what the redactor finds, by kind and language.

use std::{collections::BTreeMap, fmt, path::Path};

use llmrtc_security::redact::{Context, RedactConfig, Redactor, Span};
use serde_json::{Value, json};

use super::{
    Set,
    corpus::{self, BENIGN, Row},
    table::{Share, align, row},
    values::Form,
};

/// What rows are counted together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Group {
    form: Form,
    kind: String,
    language: String,
    /// Whether the agent's question before is known.
    asked: bool,
    generated: bool,
    set: Set,
}

#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    /// Spans that have to go, and those of which no letter or digit is left.
    recall: Share,
    /// Spans that went, and those that mostly had to. An article that goes along with a date is no false alarm.
    precision: Share,
    /// Texts, and those that changed.
    changed: Share,
}

/// The figures of all corpora.
#[derive(Debug)]
pub(crate) struct Scores(BTreeMap<Group, Tally>);

fn redactor() -> Result<Redactor, Box<dyn std::error::Error>> {
    Ok(Redactor::new(&RedactConfig::default())?)
}

fn found(redactor: &Redactor, row: &Row) -> Vec<Span> {
    let context = Context {
        previous: row.previous.as_deref(),
        lang: row.lang(),
        dialogue: None,
    };
    redactor.spans(&row.text, &context)
}

/// Letters and digits of `row` between `start` and `end`.
fn letters(row: &Row, start: usize, end: usize) -> impl Iterator<Item = usize> {
    let inside = row.text[start..end]
        .char_indices()
        .filter(|(_, c)| c.is_alphanumeric());
    inside.map(move |(at, _)| start + at)
}

impl Tally {
    fn count(&mut self, row: &Row, found: &[Span]) {
        self.changed.add(!found.is_empty());
        for gone in &row.gone {
            self.recall
                .add(letters(row, gone.start, gone.end).all(|at| {
                    found
                        .iter()
                        .any(|span| (span.start..span.end).contains(&at))
                }));
        }
        for span in found {
            let (mut right, mut wrong) = (0, 0);
            for at in letters(row, span.start, span.end) {
                *if row.gone.iter().any(|gone| gone.contains(&at)) {
                    &mut right
                } else {
                    &mut wrong
                } += 1;
            }
            self.precision.add(right > wrong);
        }
    }

    fn is_right(&self) -> bool {
        self.recall.part == self.recall.of && self.precision.part == self.precision.of
    }
}

/// Scores all sets.
pub(crate) fn score(corpora: &Path) -> Result<Scores, Box<dyn std::error::Error>> {
    let redactor = redactor()?;
    let mut groups: BTreeMap<Group, Tally> = BTreeMap::new();
    for set in Set::ALL {
        for row in corpus::read(corpora, set)? {
            let group = Group {
                form: row.form,
                kind: row.kind.clone(),
                language: row.language.clone(),
                asked: row.previous.is_some(),
                generated: row.generated,
                set,
            };
            groups
                .entry(group)
                .or_default()
                .count(&row, &found(&redactor, &row));
        }
    }
    Ok(Scores(groups))
}

/// Prints the texts of training that are not as they should be.
#[expect(clippy::print_stdout, reason = "its result")]
pub(crate) fn show_missed(corpora: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let redactor = redactor()?;
    for row in corpus::read(corpora, Set::Train)? {
        let (mut tally, found) = (Tally::default(), found(&redactor, &row));
        tally.count(&row, &found);
        if !tally.is_right() {
            let taken: Vec<_> = found
                .iter()
                .map(|span| (span.kind.name(), &row.text[span.start..span.end]))
                .collect();
            println!(
                "{} {} | {} | {} => {taken:?}",
                row.kind,
                row.language,
                row.previous.as_deref().unwrap_or(""),
                row.text
            );
        }
    }
    Ok(())
}

/// A line of the specification: what it is about, what others reach, what we want.
struct Goal {
    name: &'static str,
    others: &'static str,
    target: &'static str,
    belongs: fn(&Group) -> bool,
}

/// Written kinds that the specification's figure is about.
const IDENTIFIERS: &[&str] = &[
    "card",
    "phone",
    "email",
    "domain",
    "iban",
    "ssn",
    "national_id",
    "ip",
];
/// Spoken kinds that are identifiers, and not the answers of callers that have lines of their own.
const ANSWERS: &[&str] = &[
    "birth_date",
    "postcode",
    "name",
    "name in short answers",
    BENIGN,
];

fn spoken(group: &Group, language: &str) -> bool {
    group.form == Form::Spoken
        && group.language == language
        && !ANSWERS.contains(&group.kind.as_str())
}

fn answer(group: &Group, kind: &str, asked: bool) -> bool {
    group.form == Form::Spoken && group.kind == kind && group.asked == asked
}

const GOALS: &[Goal] = &[
    Goal {
        name: "written identifiers",
        others: "best existing tool: 0.956 at precision 0.988",
        target: "≥ 0.97 at precision ≥ 0.995",
        belongs: |group| group.form == Form::Written && IDENTIFIERS.contains(&group.kind.as_str()),
    },
    Goal {
        name: "other written kinds",
        others: "",
        target: "",
        belongs: |group| group.form == Form::Written && !IDENTIFIERS.contains(&group.kind.as_str()),
    },
    Goal {
        name: "spoken, English",
        others: "every existing tool: 0; ITN, then Presidio: 0.69",
        target: "≥ 0.97",
        belongs: |group| spoken(group, "en"),
    },
    Goal {
        name: "spoken cards, English",
        others: "",
        target: "≥ 0.99",
        belongs: |group| spoken(group, "en") && group.kind == "card",
    },
    Goal {
        name: "spoken, Spanish",
        others: "every existing tool: 0",
        target: "≥ 0.85",
        belongs: |group| spoken(group, "es"),
    },
    Goal {
        name: "spoken, French",
        others: "every existing tool: 0",
        target: "≥ 0.85",
        belongs: |group| spoken(group, "fr"),
    },
    Goal {
        name: "spoken, German",
        others: "every existing tool: 0",
        target: "≥ 0.85",
        belongs: |group| spoken(group, "de"),
    },
    Goal {
        name: "spoken, Portuguese",
        others: "every existing tool: 0",
        target: "≥ 0.85",
        belongs: |group| spoken(group, "pt"),
    },
    Goal {
        name: "birth date, asked for",
        others: "",
        target: "≥ 0.98",
        belongs: |group| answer(group, "birth_date", true),
    },
    Goal {
        name: "birth date, without question",
        others: "",
        target: "≥ 0.60",
        belongs: |group| answer(group, "birth_date", false),
    },
    Goal {
        name: "postcode, asked for",
        others: "",
        target: "≥ 0.95",
        belongs: |group| answer(group, "postcode", true),
    },
    Goal {
        name: "postcode, without question",
        others: "",
        target: "≥ 0.60",
        belongs: |group| answer(group, "postcode", false),
    },
    Goal {
        name: "name, asked for",
        others: "",
        target: "≥ 0.90",
        belongs: |group| answer(group, "name", true),
    },
    Goal {
        name: "name, without question",
        others: "",
        target: "≥ 0.85",
        belongs: |group| answer(group, "name", false),
    },
    Goal {
        name: "name in a short answer, asked for",
        others: "",
        target: "≥ 0.90",
        belongs: |group| answer(group, "name in short answers", true),
    },
    Goal {
        name: "name in a short answer, without question",
        others: "",
        target: "≥ 0.45",
        belongs: |group| answer(group, "name in short answers", false),
    },
    Goal {
        name: "benign texts changed",
        others: "",
        target: "≤ 0.2 %",
        belongs: |group| group.kind == BENIGN,
    },
];

impl Scores {
    fn sum(&self, belongs: impl Fn(&Group) -> bool) -> Tally {
        let mut sum = Tally::default();
        for (_, tally) in self.0.iter().filter(|(group, _)| belongs(group)) {
            for (share, more) in [
                (&mut sum.recall, tally.recall),
                (&mut sum.precision, tally.precision),
                (&mut sum.changed, tally.changed),
            ] {
                share.part += more.part;
                share.of += more.of;
            }
        }
        sum
    }

    /// All counts.
    pub(crate) fn lines(&self) -> Value {
        self.0
            .iter()
            .map(|(group, tally)| {
                json!({
                    "set": group.set, "form": group.form, "kind": group.kind, "language": group.language,
                    "asked": group.asked, "generated": group.generated,
                    "texts": tally.changed.of, "changed": tally.changed.part,
                    "spans": tally.recall.of, "whole": tally.recall.part,
                    "taken": tally.precision.of, "right": tally.precision.part,
                })
            })
            .collect()
    }

    fn summary(&self) -> String {
        let mut rows = vec![row([
            "Redaction, test set",
            "Recall, by hand",
            "Recall, generated",
            "Precision",
            "Second set, recall",
            "Second set, precision",
            "Train",
            "Others",
            "Target",
        ])];
        for goal in GOALS {
            let of = |set: Set, generated: bool| {
                self.sum(|group| {
                    (goal.belongs)(group) && group.set == set && group.generated == generated
                })
            };
            let (hand, made) = (of(Set::Test, false), of(Set::Test, true));
            let both = self.sum(|group| (goal.belongs)(group) && group.set == Set::Test);
            let second = of(Set::Test2, false);
            let train = self.sum(|group| (goal.belongs)(group) && group.set == Set::Train);
            let benign = goal.target.contains('%');
            let cell = |tally: Tally| {
                if benign {
                    tally.changed.alarms()
                } else {
                    tally.recall.cell_of()
                }
            };
            let precision = |tally: Tally| {
                if benign {
                    "–".to_owned()
                } else {
                    tally.precision.cell()
                }
            };
            rows.push(row([
                goal.name,
                &cell(hand),
                &cell(made),
                &precision(both),
                &cell(second),
                &precision(second),
                &cell(train),
                goal.others,
                goal.target,
            ]));
        }
        align(&rows)
    }

    fn details(&self) -> String {
        let mut rows = vec![row([
            "Text",
            "Kind",
            "Language",
            "Spans",
            "Recall",
            "Precision",
            "Recall, train",
        ])];
        let mut seen: Vec<(Form, &str, &str)> = Vec::new();
        for group in self.0.keys().filter(|group| group.set == Set::Test) {
            let key = (group.form, group.kind.as_str(), group.language.as_str());
            if seen.contains(&key) {
                continue;
            }
            seen.push(key);
            let of = |set: Set| {
                self.sum(|other| {
                    (other.form, other.kind.as_str(), other.language.as_str()) == key
                        && other.set == set
                })
            };
            let (test, train) = (of(Set::Test), of(Set::Train));
            let form = if group.form == Form::Written {
                "written"
            } else {
                "spoken"
            };
            let cells = if group.kind == BENIGN {
                [
                    test.changed.of.to_string(),
                    "–".to_owned(),
                    format!("{} changed", test.changed.alarms()),
                    "–".to_owned(),
                ]
            } else {
                [
                    test.recall.of.to_string(),
                    test.recall.cell(),
                    test.precision.cell(),
                    train.recall.cell(),
                ]
            };
            let [spans, recall, precision, train] = &cells;
            rows.push(row([
                form,
                &group.kind,
                &group.language,
                spans,
                recall,
                precision,
                train,
            ]));
        }
        align(&rows)
    }
}

impl fmt::Display for Scores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}", self.summary(), self.details())
    }
}
