use std::{fmt::Write as _, time::Duration};

/// A table whose columns line up; the first row is its head.
pub(crate) fn align(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0).max(3)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        for (cell, width) in row.iter().zip(&widths) {
            // Writing to a string cannot fail.
            let _ = write!(text, "| {cell:width$} ");
        }
        text.push_str("|\n");
        if index == 0 {
            for width in &widths {
                let _ = write!(text, "| {} ", "-".repeat(*width));
            }
            text.push_str("|\n");
        }
    }
    text.truncate(text.trim_end().len());
    text
}

/// A part of a whole.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Share {
    pub(crate) part: usize,
    pub(crate) of: usize,
}

impl Share {
    pub(crate) fn of(counts: impl Iterator<Item = bool>) -> Self {
        let mut share = Self::default();
        for counted in counts {
            share.part += usize::from(counted);
            share.of += 1;
        }
        share
    }

    pub(crate) fn percent(self) -> String {
        match self.of {
            0 => "–".to_owned(),
            of => format!("{:.1} %", 100.0 * self.part as f64 / of as f64),
        }
    }

    pub(crate) fn ratio(self) -> f64 {
        self.part as f64 / self.of.max(1) as f64
    }
}

/// The value that `share` (0–1) of all do not exceed.
pub(crate) fn quantile(values: &[Duration], share: f64) -> Option<Duration> {
    let mut sorted = values.to_vec();
    sorted.sort();
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

pub(crate) fn millis(duration: Option<Duration>) -> String {
    duration.map_or("–".to_owned(), |duration| {
        format!("{} ms", duration.as_millis())
    })
}
