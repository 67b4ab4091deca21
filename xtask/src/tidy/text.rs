//! Rules about the text of single files.

use super::{Finding, TextFile};

/// Past this, look for the seam.
const LONG_LINES: usize = 600;
/// Past this, a file needs a line in [`LONG_FILES`].
const TOO_LONG_LINES: usize = 900;

/// Files that may be longer, and why splitting them would hurt.
const LONG_FILES: &[(&str, &str)] = &[];

/// Text that has no place in a tracked file, split so that this file does not contain it.
const FORBIDDEN_ADDRESSES: &[(&str, &str)] = &[
    (
        concat!("registry.", "npmjs"),
        "a lock file names packages, not the registry they came from",
    ),
    (
        concat!("\"reso", "lved\": \"http"),
        "a lock file names packages, not the registry they came from",
    ),
    (
        concat!("static.", "crates.io"),
        "cargo knows its registry; files do not name it",
    ),
    (
        concat!("index.", "crates.io"),
        "cargo knows its registry; files do not name it",
    ),
];

/// Directories of somebody's machine. They count at the beginning of a path only.
const MACHINE_PATHS: &[&str] = &[
    concat!("/ho", "me/"),
    concat!("/ro", "ot/"),
    concat!("/wo", "rk/"),
    concat!("/Us", "ers/"),
    concat!("C:\\", "Users"),
];

pub(super) fn check(file: &TextFile) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(length(file));
    for (index, line) in file.text.lines().enumerate() {
        let place = || format!("{}:{}", file.path, index + 1);
        findings.extend(
            line_faults(&file.path, line)
                .into_iter()
                .map(|message| Finding::fault(place(), message)),
        );
    }
    findings
}

fn length(file: &TextFile) -> Option<Finding> {
    let is_code = [".rs", ".js", ".mjs", ".css"]
        .iter()
        .any(|ending| file.path.ends_with(ending));
    let lines = file.text.lines().count();
    if !is_code || lines <= LONG_LINES {
        return None;
    }
    if lines > TOO_LONG_LINES && !LONG_FILES.iter().any(|(path, _)| *path == file.path) {
        let message = format!(
            "{lines} lines; split it at a seam, or list it in xtask/src/tidy/text.rs with a reason"
        );
        return Some(Finding::fault(file.path.as_str(), message));
    }
    Some(Finding::advice(
        file.path.as_str(),
        format!("{lines} lines; is there a seam?"),
    ))
}

fn line_faults(path: &str, line: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if let Some(hidden) = line.chars().find(|&c| is_hidden(c)) {
        faults.push(format!(
            "the invisible character {}; write it as an escape",
            hidden.escape_unicode()
        ));
    }
    if path.ends_with(".rs") {
        for unfinished in [concat!("todo", "!("), concat!("unimpl", "emented!(")] {
            if line.contains(unfinished) {
                faults.push(format!("`{unfinished}…)` is not an implementation"));
            }
        }
        let marker = concat!("TO", "DO");
        if let Some((_, after)) = line.split_once(marker)
            && !after.starts_with("(#")
        {
            faults.push(format!("`{marker}` names its issue: `{marker}(#123)`"));
        }
    }
    for (address, reason) in FORBIDDEN_ADDRESSES {
        // Cargo's own lock file is checked by its sources.
        if path != "Cargo.lock" && line.contains(address) {
            faults.push(format!("`{address}`: {reason}"));
        }
    }
    for directory in MACHINE_PATHS {
        let begins_a_path = line.match_indices(directory).any(|(at, _)| {
            line[..at]
                .chars()
                .next_back()
                .is_none_or(|before| before.is_whitespace() || "\"'`(=<:".contains(before))
        });
        if begins_a_path {
            faults.push(format!("`{directory}` is a path of one machine"));
        }
    }
    faults
}

/// Control characters, and those that make a line read differently from what it says. Joiners are letters' business.
fn is_hidden(c: char) -> bool {
    c.is_control() && c != '\t' && c != '\r'
        || matches!(c, '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::Weight;

    #[track_caller]
    fn faulty(path: &str, line: &str, expected: bool) {
        let faults = line_faults(path, line);
        assert_eq!(!faults.is_empty(), expected, "{path}: {line:?}: {faults:?}");
    }

    #[test]
    fn unfinished_code_is_found() {
        faulty("a.rs", concat!("    todo", "!(\"later\")"), true);
        faulty("a.rs", concat!("// TO", "DO: later"), true);
        faulty("a.rs", concat!("// TO", "DO(#12): later"), false);
        faulty("a.md", concat!("TO", "DO lists"), false);
    }

    #[test]
    fn machines_and_registries_are_found() {
        faulty("a.toml", concat!("path = \"/ho", "me/me/x\""), true);
        faulty("a.md", concat!("https://example.org/wo", "rk/1"), false);
        faulty(
            "package-lock.json",
            concat!("\"reso", "lved\": \"https://x\""),
            true,
        );
    }

    #[test]
    fn invisible_characters_are_found() {
        faulty("a.md", "a\u{202e}b", true);
        faulty("a.md", "a\u{0}b", true);
        faulty("a.md", "a\tb é 漢 👩\u{200d}🔧", false);
    }

    #[test]
    fn long_files_are_advised_and_then_refused() {
        let check = |lines: usize| {
            let file = TextFile {
                path: "a.rs".into(),
                text: "x\n".repeat(lines),
            };
            length(&file).map(|finding| finding.weight)
        };
        assert_eq!(check(600), None);
        assert_eq!(check(601), Some(Weight::Advice));
        assert_eq!(check(901), Some(Weight::Fault));
    }
}
