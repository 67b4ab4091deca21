//! Markdown tables, and shares as they stand in them.

use std::fmt::Write as _;

/// A part of a whole.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Share {
    pub(crate) part: usize,
    pub(crate) of: usize,
}

impl Share {
    pub(crate) fn add(&mut self, counts: bool) {
        self.part += usize::from(counts);
        self.of += 1;
    }

    /// Rounded down, so that 1.000 means all; a dash where there is nothing.
    pub(crate) fn cell(self) -> String {
        match (self.part * 1000).checked_div(self.of) {
            None => "–".to_owned(),
            Some(mille) => format!("{}.{:03}", mille / 1000, mille % 1000),
        }
    }

    /// With the size of the whole.
    pub(crate) fn cell_of(self) -> String {
        match self.of {
            0 => "–".to_owned(),
            of => format!("{} ({of})", self.cell()),
        }
    }

    /// In percent, rounded up, so that 0 means none; with the size of the whole.
    pub(crate) fn alarms(self) -> String {
        match (self.part * 10_000).div_ceil(self.of.max(1)) {
            _ if self.of == 0 => "–".to_owned(),
            0 => format!("0 % ({})", self.of),
            hundredths => format!(
                "{}.{:02} % ({})",
                hundredths / 100,
                hundredths % 100,
                self.of
            ),
        }
    }
}

/// A table whose columns line up; the first row is its head.
pub(crate) fn align(rows: &[Vec<String>]) -> String {
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

pub(crate) fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}
