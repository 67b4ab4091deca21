//! No credential in the repository: sources, docs and examples are searched for what looks like one (security item A1).

use super::{Finding, TextFile};

/// Beginnings by which keys are recognised, and how many characters follow at least.
const SHAPES: &[(&str, usize)] = &[
    ("sk-", 20),
    ("sk_", 20),
    ("xi-", 20),
    ("gsk_", 20),
    ("AIza", 30),
    ("AKIA", 16),
    ("ASIA", 16),
    ("hvs.", 20),
    ("ghp_", 20),
    ("gho_", 20),
    ("github_pat_", 20),
    ("xoxb-", 20),
    ("xoxp-", 20),
    ("ya29.", 20),
];

/// Words that somebody puts into a made-up key so that everybody sees it is one.
const MADE_UP: &[&str] = &["CANARY", "EXAMPLE", "SENTINEL"];

/// A file that contains this holds keys on purpose, made up or published, such as fixtures of a detector.
const MARKER: &str = concat!("tidy: keys are ", "fixtures");

pub(super) fn check(file: &TextFile) -> Vec<Finding> {
    if file.path == "Cargo.lock" || file.text.contains(MARKER) {
        return Vec::new();
    }
    let lines = file.text.lines().enumerate();
    lines
        .filter(|(_, line)| holds_key(line))
        .map(|(index, _)| {
            // Without the line: whoever reads the log should not read the key.
            Finding::fault(
                format!("{}:{}", file.path, index + 1),
                format!("looks like a credential; if it is none, write `{MARKER}` into the file"),
            )
        })
        .collect()
}

fn holds_key(line: &str) -> bool {
    let private = line.contains(concat!("-----BEGIN", " ")) && line.contains("PRIVATE KEY-----");
    private || SHAPES.iter().any(|shape| holds_shape(line, *shape))
}

fn holds_shape(line: &str, (prefix, least): (&str, usize)) -> bool {
    line.match_indices(prefix).any(|(at, _)| {
        let inside_a_word = line[..at].ends_with(|c: char| c.is_alphanumeric() || "-_".contains(c));
        let rest = &line[at + prefix.len()..];
        let end = rest
            .find(|c: char| !(c.is_ascii_alphanumeric() || "-_".contains(c)))
            .unwrap_or(rest.len());
        let token = &rest[..end];
        // Keys are random, so one without a digit is a phrase.
        !inside_a_word
            && token.len() >= least
            && token.contains(|c: char| c.is_ascii_digit())
            && !MADE_UP.iter().any(|word| token.contains(word))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a1_what_looks_like_a_key_is_found() {
        for key in [
            concat!("OPENAI_API_KEY=sk-", "proj-4f9a8b7c6d5e4f3a2b1c"),
            concat!("key: \"AKIA", "Q3EGRIOEX4MPLE12\""),
            concat!("gsk_", "a1b2c3d4e5f6a7b8c9d0e1"),
            concat!("-----BEGIN", " RSA PRIVATE KEY-----"),
        ] {
            assert!(holds_key(key), "{key}");
            let file = |text: String| TextFile {
                path: "a.md".into(),
                text,
            };
            let findings = check(&file(format!("one\n{key}\n")));
            assert_eq!(findings.len(), 1);
            assert_eq!(findings[0].place, "a.md:2");
            assert!(!findings[0].message.contains(key));
            assert!(check(&file(format!("// {MARKER}\n{key}\n"))).is_empty());
        }
    }

    #[test]
    fn a1_what_only_resembles_a_key_is_not() {
        for line in [
            "OPENAI_API_KEY=sk-…",
            "sk-short1",
            "sk-CANARY-4f9a8b7c6d5e4f3a2b1c",
            concat!("AKIA", "IOSFODNN7EXAMPLE"),
            "a-task-oriented-design-with-many-words-2",
            "sk-learn-is-a-library-with-a-long-name",
            "-----BEGIN CERTIFICATE-----",
        ] {
            assert!(!holds_key(line), "{line}");
        }
    }
}
