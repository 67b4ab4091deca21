//! What the checks of `llmrtc-security` cost, as its example `costs` measures them.

use anyhow::Context;
use serde::{Deserialize, Serialize};
use xshell::{Shell, cmd};

use super::{align, cell, row};
use crate::util;

/// One line of the example's output.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Cost {
    name: String,
    unit: String,
    mean: f64,
    /// `None` for a rate.
    p50: Option<f64>,
    p99: Option<f64>,
    /// Operations, or batches of them, in the quietest round.
    n: u64,
    target: String,
}

pub(super) fn measure(sh: &Shell, quick: bool) -> anyhow::Result<Vec<Cost>> {
    cmd!(
        sh,
        "cargo build --release --package llmrtc-security --example costs"
    )
    .run()?;
    let costs = util::release_example(sh, "costs")?;
    let quick = quick.then_some("--quick");
    let output = cmd!(sh, "{costs} {quick...}")
        .read()
        .context("measuring the costs failed")?;
    read(&output)
}

fn read(output: &str) -> anyhow::Result<Vec<Cost>> {
    let lines = output.lines().map(serde_json::from_str);
    lines
        .collect::<Result<_, _>>()
        .context("reading the measured costs")
}

/// A Markdown table.
pub(super) fn table(costs: &[Cost], machine: &str, quick: bool) -> String {
    let mut rows = vec![row(["Check", "Mean", "p50", "p99", "n", "Target"])];
    for cost in costs {
        rows.push(row([
            cost.name.as_str(),
            &cell(Some(cost.mean), &cost.unit),
            &cell(cost.p50, &cost.unit),
            &cell(cost.p99, &cost.unit),
            &cost.n.to_string(),
            &cost.target,
        ]));
    }
    let quick = if quick { ", quick run" } else { "" };
    format!(
        "Measured on {machine}{quick}; the quietest of several rounds.\n\n{}",
        align(&rows)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_a_table() {
        let output = concat!(
            r#"{"name":"guard","unit":"µs","mean":2.97,"p50":2.6,"p99":6.13,"n":2000,"target":"≤ 50 µs"}"#,
            "\n",
            r#"{"name":"audit events","unit":"per second","mean":111891.0,"p50":null,"p99":null,"n":10000,"target":""}"#,
        );
        let table = table(&read(output).unwrap(), "a processor", false);
        assert!(
            table.contains(
                "| guard        | 2.97 µs           | 2.60 µs | 6.13 µs | 2000  | ≤ 50 µs |"
            ),
            "{table}"
        );
        assert!(
            table.contains(
                "| audit events | 111891 per second | –       | –       | 10000 |         |"
            ),
            "{table}"
        );
        assert!(read("no json").is_err());
    }
}
