//! `cargo xtask bench`: builds a release, lets the load generator measure it, and prints the figures beside those of the
//! reference servers. Then it measures what the checks of `llmrtc-security` cost. It reports; it does not judge: no figure
//! makes it fail.

mod costs;

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use serde_json::json;
use xshell::{Shell, cmd};

use crate::util;

/// Options of `cargo xtask bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Fewer repetitions: minutes become seconds, and the percentiles mean less.
    #[arg(long)]
    quick: bool,
    /// Also write everything as JSON to this file; `-` writes it to standard output instead of the table.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measure this part alone.
    #[arg(long, value_enum, value_name = "PART")]
    only: Option<Part>,
    /// Also write the costs of the security checks into `docs/security.md`.
    #[arg(long)]
    bless: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Whole calls.
    Calls,
    /// The checks of `llmrtc-security`.
    Security,
}

/// What the load generator prints.
#[derive(Debug, Deserialize, Serialize)]
struct Report {
    figures: Vec<Figure>,
    sessions: Vec<Sessions>,
}

/// One measured figure.
#[derive(Debug, Deserialize, Serialize)]
struct Figure {
    /// A name in [`REFERENCES`], or any other.
    name: String,
    /// `ms`, `MiB`, …
    unit: String,
    /// `None` when nothing could be measured.
    p50: Option<f64>,
    /// `None` for a figure that is taken once.
    #[serde(default)]
    p95: Option<f64>,
    /// How many measurements.
    n: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

/// The cost of a number of simultaneous sessions. A value is `null` when it could not be measured.
#[derive(Debug, Deserialize, Serialize)]
struct Sessions {
    sessions: u32,
    /// Of one core, for each session.
    cpu_percent_listening: Option<f64>,
    /// Of one core, for each session.
    cpu_percent_talking: Option<f64>,
    /// The server's resident memory with this many sessions.
    rss_mib: Option<f64>,
    rss_per_session_mib: Option<f64>,
    /// As long as none of them talks.
    #[serde(default)]
    rss_connected_mib: Option<f64>,
    response_p50_ms: Option<f64>,
    response_p95_ms: Option<f64>,
}

/// What others were measured at, the same way: loopback, two cores shared with the client, providers that answer at
/// once, one client. Node is LLMRTC 1.3.0, Pipecat is 1.14 with SmallWebRTC and its default turn model.
#[derive(Debug, Serialize)]
struct Reference {
    name: &'static str,
    node: &'static str,
    pipecat: &'static str,
    target: &'static str,
}

const fn reference(
    name: &'static str,
    node: &'static str,
    pipecat: &'static str,
    target: &'static str,
) -> Reference {
    Reference {
        name,
        node,
        pipecat,
        target,
    }
}

const REFERENCES: &[Reference] = &[
    reference(
        "true end of speech to first audible reply",
        "1776 ms",
        "545–610 ms",
        "≤ 400 ms",
    ),
    reference(
        "decided end of speech to first audible reply",
        "47 ms",
        "79–85 ms",
        "≤ 30 ms",
    ),
    reference(
        "interrupting speech to notice",
        "313 ms",
        "607 ms",
        "≤ 120 ms",
    ),
    reference(
        "interrupting speech to silence",
        "548 ms",
        "674 ms",
        "≤ 220 ms",
    ),
    reference(
        "socket open to data channel open",
        "129–165 ms",
        "268–321 ms",
        "≤ 60 ms",
    ),
    reference("memory of an idle server", "98 MiB", "229 MiB", "≤ 30 MiB"),
    reference("start to listening", "~1000 ms", "seconds", "≤ 100 ms"),
    reference("response, by protection", "", "", "≤ 5 ms more"),
    reference(
        "processor time of a turn, by protection",
        "",
        "",
        "≤ 2 ms more",
    ),
    reference("memory per session", "~9–13 MiB", "~60 MiB", "≤ 1 MiB"),
];

const SESSION_REFERENCES: &[Reference] = &[
    reference("CPU listening", "~15 % at 8 sessions", "16–18 %", "≤ 0.8 %"),
    reference("CPU talking", "~15 % at 8 sessions", "16–18 %", "≤ 1.5 %"),
    reference(
        "sessions before p95 response grows by 20 %",
        "8",
        "< 4",
        "≥ 100",
    ),
];

/// Measures and prints.
pub(crate) fn run(sh: &Shell, options: &Options) -> anyhow::Result<()> {
    let wanted = |part| options.only.is_none_or(|only| only == part);
    let machine = machine();
    let calls = wanted(Part::Calls)
        .then(|| calls(sh, options.quick))
        .transpose()?;
    let costs = wanted(Part::Security)
        .then(|| costs::measure(sh, options.quick))
        .transpose()?;

    let document = json!({
        "machine": machine,
        "quick": options.quick,
        "measured": calls,
        "reference": { "figures": REFERENCES, "sessions": SESSION_REFERENCES },
        "security": costs,
    });
    let mut text = String::new();
    if let Some(report) = &calls {
        text += &table(report, &machine, options.quick);
    }
    if let Some(costs) = &costs {
        let table = costs::table(costs, &machine, options.quick);
        if options.bless {
            util::bless("docs/security.md", "bench security", &table)?;
        }
        text = [text, table].join(if calls.is_some() { "\n" } else { "" });
    }
    match &options.json {
        Some(path) if path.as_os_str() == "-" => println!("{document:#}"),
        Some(path) => {
            print!("{text}");
            std::fs::write(path, format!("{document:#}\n"))
                .with_context(|| format!("writing {}", path.display()))?;
        }
        None => print!("{text}"),
    }
    Ok(())
}

/// What the load generator measures.
fn calls(sh: &Shell, quick: bool) -> anyhow::Result<Report> {
    cmd!(
        sh,
        "cargo build --release --package llmrtc-server --bin llmrtc --example load"
    )
    .run()?;
    let load = util::release_example(sh, "load")?;
    let quick = quick.then_some("--quick");
    let output = cmd!(sh, "{load} --json {quick...}")
        .read()
        .context("the load generator failed")?;
    serde_json::from_str(&output).context("reading the load generator's report")
}

/// The processor and how many of its threads we may use: figures mean nothing without it.
fn machine() -> String {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let model = std::fs::read_to_string("/proc/cpuinfo")
        .ok()
        .and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("model name"))?;
            line.split_once(':')
                .map(|(_, model)| model.trim().to_owned())
        });
    format!(
        "{}, {threads} threads",
        model.as_deref().unwrap_or(std::env::consts::ARCH)
    )
}

/// Two Markdown tables, so that they can be pasted into the README.
fn table(report: &Report, machine: &str, quick: bool) -> String {
    let mut figures = vec![row([
        "Figure", "p50", "p95", "n", "Node", "Pipecat", "Target",
    ])];
    for figure in &report.figures {
        let known = REFERENCES
            .iter()
            .find(|reference| reference.name == figure.name);
        let note = figure
            .note
            .as_ref()
            .map(|note| format!(" ({note})"))
            .unwrap_or_default();
        let (node, pipecat, target) = known.map_or(("", "", ""), |known| {
            (known.node, known.pipecat, known.target)
        });
        figures.push(row([
            format!("{}{note}", figure.name).as_str(),
            &cell(figure.p50, &figure.unit),
            &cell(figure.p95, &figure.unit),
            &figure.n.to_string(),
            node,
            pipecat,
            target,
        ]));
    }

    let mut sessions = vec![row([
        "Sessions",
        "CPU listening",
        "CPU talking",
        "Memory",
        "Memory each",
        "Response p50",
        "Response p95",
    ])];
    for measured in &report.sessions {
        sessions.push(row([
            measured.sessions.to_string().as_str(),
            &cell(measured.cpu_percent_listening, "%"),
            &cell(measured.cpu_percent_talking, "%"),
            &cell(measured.rss_mib, "MiB"),
            &cell(measured.rss_per_session_mib, "MiB"),
            &cell(measured.response_p50_ms, "ms"),
            &cell(measured.response_p95_ms, "ms"),
        ]));
    }

    let mut others = vec![row(["Per session", "Node", "Pipecat", "Target"])];
    others.extend(
        SESSION_REFERENCES
            .iter()
            .map(|known| row([known.name, known.node, known.pipecat, known.target])),
    );

    let mut text =
        format!("Measured on {machine}, loopback, client and server on the same machine");
    text += if quick { ", quick run.\n" } else { ".\n" };
    for rows in [figures, sessions, others] {
        let _ = write!(text, "\n{}", align(&rows));
    }
    text
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

fn cell(value: Option<f64>, unit: &str) -> String {
    value.map_or("–".to_owned(), |value| {
        format!("{} {unit}", number(value))
    })
}

/// Three significant digits are all that a measurement of this kind carries.
fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// A Markdown table whose columns line up; the first row is its head.
fn align(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(text, "| {cell:<width$} ");
        }
        text.push_str("|\n");
        if index == 0 {
            for width in &widths {
                let _ = write!(text, "| {:-<width$} ", "");
            }
            text.push_str("|\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_becomes_a_table_beside_the_references() {
        let report: Report = serde_json::from_value(json!({
            "figures": [
                { "name": "socket open to data channel open", "unit": "ms", "p50": 41.25, "p95": 58.0, "n": 20 },
                { "name": "memory per session", "unit": "MiB", "p50": 0.62, "n": 2, "note": "talking" },
                { "name": "something_new", "unit": "ms", "p50": 1.5, "n": 3, "note": "warm" },
            ],
            "sessions": [{
                "sessions": 8, "cpu_percent_listening": 0.61, "cpu_percent_talking": null, "rss_mib": 31.0,
                "rss_per_session_mib": 0.8, "response_p50_ms": 512.0, "response_p95_ms": 601.4,
            }],
        }))
        .unwrap();
        let table = table(&report, "a processor, 2 threads", false);
        let line = |label: &str| {
            table
                .lines()
                .find(|line| line.contains(label))
                .unwrap()
                .to_owned()
        };
        assert!(line("data channel open").contains("| 41.2 ms "));
        assert!(line("data channel open").contains("129–165 ms"));
        let memory = line("memory per session (talking)");
        assert!(memory.contains("| 0.62 MiB ") && memory.contains("≤ 1 MiB"));
        assert!(line("something_new (warm)").contains("| 1.50 ms  | – "));
        assert!(line("| 8 ").contains("| 0.61 % ") && line("| 8 ").contains("| – "));
        let widths: Vec<usize> = table
            .lines()
            .filter(|line| line.contains("Pipecat") || line.contains("data channel open"))
            .map(|line| line.chars().count())
            .collect();
        assert_eq!(widths[0], widths[1]);
    }
}
