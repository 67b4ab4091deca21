//! Dates, which matter only as somebody's birthday.

use super::{checksum::weighted, run::Run};
use crate::redact::detector::horizon;

/// Whether the first three groups are a calendar date in one of the usual orders.
pub(crate) fn numeric(run: &Run) -> bool {
    let value = |at: usize| {
        let group = run.group(at);
        match group.len() {
            1 => weighted(group, &[1]),
            2 => weighted(group, &[10, 1]),
            4 => weighted(group, &[1000, 100, 10, 1]),
            _ => u32::MAX,
        }
    };
    let (a, b, c) = (value(0), value(1), value(2));
    let lengths = (run.group(0).len(), run.group(1).len(), run.group(2).len());
    let day_month = |one: u32, other: u32| {
        (1..=31).contains(&one) && (1..=31).contains(&other) && one.min(other) <= 12
    };
    let uniform = run.shape(3)[1] == run.shape(3)[3];
    uniform
        && match lengths {
            (4, 1 | 2, 1 | 2) => (1850..=2150).contains(&a) && day_month(b, c),
            (1 | 2, 1 | 2, 4) => (1850..=2150).contains(&c) && day_month(a, b),
            (1 | 2, 1 | 2, 2) => day_month(a, b),
            _ => false,
        }
}

#[rustfmt::skip]
const MONTHS: &[&str] = &[
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november", "december",
    "jan", "feb", "mar", "apr", "jun", "jul", "aug", "sep", "sept", "oct", "nov", "dec",
    "enero", "febrero", "marzo", "abril", "mayo", "junio", "julio", "agosto", "septiembre", "octubre", "noviembre", "diciembre",
    "janvier", "février", "mars", "avril", "mai", "juin", "juillet", "août", "septembre", "octobre", "novembre", "décembre",
    "januar", "februar", "märz", "juni", "juli", "oktober", "dezember",
    "janeiro", "fevereiro", "março", "maio", "junho", "julho", "setembro", "outubro", "novembro", "dezembro",
    "gennaio", "febbraio", "aprile", "maggio", "giugno", "luglio", "settembre", "ottobre", "dicembre",
    "januari", "februari", "maart", "mei", "augustus",
];

fn is_month(word: &str) -> bool {
    let word = word.trim_end_matches('.');
    MONTHS.iter().any(|month| {
        month.eq_ignore_ascii_case(word) || (!word.is_ascii() && word.to_lowercase() == **month)
    })
}

/// A date with its month in words, within the horizon of `from`: "March 5th, 1987", "5. März 1987", "5 de mayo de 1987".
///
/// `from` is just behind a cue; at most three other words may stand between.
pub(crate) fn in_words(text: &str, from: usize) -> Option<(usize, usize)> {
    let view = horizon(text, from);
    let words = || {
        view.split_inclusive([' ', '\u{a0}'])
            .scan(0usize, |at, piece| {
                let start = *at;
                *at += piece.len();
                Some((start, piece.trim_end_matches([' ', '\u{a0}'])))
            })
    };
    let core = |word: &'_ str| {
        word.trim_matches([',', '.', ';', ':', '(', ')', '?', '!'])
            .len()
    };
    let (index, (month_at, month)) = words()
        .enumerate()
        .find(|(_, (_, word))| is_month(word.trim_matches([',', '(', ';', ':'])))?;
    if index > 6 {
        return None;
    }
    let mut start = None;
    let mut end = month_at + month.trim_end_matches([',', '.', ';']).len();
    // Day before the month, perhaps with "of" or "de" between.
    for (at, word) in words().take(index).skip(index.saturating_sub(2)) {
        if is_day(word) {
            start = Some(at);
        } else if start.is_some() && !is_link(word) {
            start = None;
        }
    }
    let (mut day, mut year) = (start.is_some(), false);
    for (at, word) in words().skip(index + 1).take(4) {
        if !day && is_day(word) {
            day = true;
        } else if !year && is_year(word) {
            year = true;
        } else if is_link(word) {
            continue;
        } else {
            break;
        }
        let lead = word.len() - word.trim_start_matches('(').len();
        end = at + lead + core(word);
        if year {
            break;
        }
    }
    (day || year).then(|| (from + start.unwrap_or(month_at), from + end))
}

fn digits(word: &str) -> &str {
    let word = word.trim_matches([',', '.', ';', ':', '(', ')', '?', '!']);
    let number = word.bytes().take_while(u8::is_ascii_digit).count();
    match &word[number..] {
        "" | "st" | "nd" | "rd" | "th" | "er" | "º" | "ª" | "." => &word[..number],
        _ => "",
    }
}

fn is_day(word: &str) -> bool {
    matches!(digits(word).parse(), Ok(1..=31u32)) && digits(word).len() <= 2
}

fn is_year(word: &str) -> bool {
    matches!(digits(word).parse(), Ok(1850..=2150u32))
        || word
            .strip_prefix(['\'', '’'])
            .is_some_and(|word| digits(word).len() == 2)
}

fn is_link(word: &str) -> bool {
    ["of", "de", "del", "the", "in", "do", "di", "van"]
        .iter()
        .any(|link| link.eq_ignore_ascii_case(word))
}
