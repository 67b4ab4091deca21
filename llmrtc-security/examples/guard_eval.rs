//! Measures the guard on its corpora and on disguised attacks: recall and false positives by group, cost by text.
//!
//! `cargo run --release -p llmrtc-security --example guard_eval [corpus.jsonl …]`

use std::{collections::BTreeMap, time::Instant};

use llmrtc_security::guard::{Guard, Source, disguise::DISGUISES};
use serde::Deserialize;

#[derive(Deserialize)]
struct Row {
    text: String,
    #[serde(default)]
    source: Source,
    attack: bool,
    group: String,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut files: Vec<String> = std::env::args().skip(1).collect();
    if files.is_empty() {
        let corpora = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpora/guard");
        files = ["train", "test"]
            .map(|name| format!("{corpora}/{name}.jsonl"))
            .into();
    }
    let guard = Guard::default();
    // The tables are built at first use.
    guard.screen("warm", Source::User);
    for file in files {
        let rows: Result<Vec<Row>, _> = std::fs::read_to_string(&file)?
            .lines()
            .map(serde_json::from_str)
            .collect();
        measure(&guard, &file, &rows?);
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "its result")]
fn measure(guard: &Guard, file: &str, rows: &[Row]) {
    println!("{file}");
    let started = Instant::now();
    let flagged: Vec<bool> = rows
        .iter()
        .map(|row| guard.screen(&row.text, row.source).flagged)
        .collect();
    let each = started.elapsed() / rows.len().max(1) as u32;
    let mut groups: BTreeMap<(bool, &str), (usize, usize)> = BTreeMap::new();
    for (row, flagged) in rows.iter().zip(flagged) {
        for group in [row.group.as_str(), "total"] {
            let (hits, all) = groups.entry((row.attack, group)).or_default();
            (*hits, *all) = (*hits + usize::from(flagged), *all + 1);
        }
    }
    for ((attack, group), (hits, all)) in groups {
        let what = if attack { "recall" } else { "false positives" };
        println!(
            "  {what:16} {group:12} {hits:4} of {all:4}  {:.3}",
            hits as f64 / all as f64
        );
    }
    let attacks: Vec<&Row> = rows
        .iter()
        .filter(|row| row.attack && row.source == Source::User && row.text.is_ascii())
        .collect();
    for disguise in DISGUISES {
        let hidden = attacks.iter().map(|row| (disguise.apply)(&row.text));
        let hits = hidden
            .filter(|text| guard.screen(text, Source::User).flagged)
            .count();
        println!(
            "  hidden by        {:20} {hits:4} of {:4}",
            disguise.name,
            attacks.len()
        );
    }
    println!("  {each:?} per text");
}
