//! Changelog fragments: `<crate>/changelog.d/<slug>.<kind>.md`, one change each, written for the user of the crate.

use super::{Finding, TextFile};

/// What a fragment can be about, in the order of a release's sections.
pub(crate) const KINDS: &[&str] = &[
    "security",
    "added",
    "changed",
    "deprecated",
    "removed",
    "fixed",
];

pub(super) fn check(files: &[TextFile]) -> Vec<Finding> {
    files
        .iter()
        .filter_map(|file| {
            let (_, name) = file.path.split_once("/changelog.d/")?;
            Some(Finding::fault(file.path.as_str(), fault(name, &file.text)?))
        })
        .collect()
}

/// Splits `slug.kind.md`.
pub(crate) fn parse_name(name: &str) -> Option<(&str, &str)> {
    let (slug, kind) = name.strip_suffix(".md")?.rsplit_once('.')?;
    let sluggish = !slug.is_empty()
        && slug
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    (sluggish && KINDS.contains(&kind)).then_some((slug, kind))
}

fn fault(name: &str, text: &str) -> Option<String> {
    if name == ".gitkeep" {
        return None;
    }
    if parse_name(name).is_none() {
        return Some(format!(
            "a fragment is named `<slug>.<{}>.md`, the slug of a-z, 0-9 and -",
            KINDS.join("|")
        ));
    }
    if text.trim().is_empty() {
        return Some("the fragment is empty; say what the user sees and what to do".into());
    }
    if text.starts_with(['#', '-', '*']) {
        return Some(
            "a fragment is a sentence or two, not a heading or a list; the release adds those"
                .into(),
        );
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fragments_are_well_formed() {
        assert_eq!(
            fault("barge-in-fade.fixed.md", "Interrupted speech fades out.\n"),
            None
        );
        assert!(fault("barge-in-fade.md", "text").is_some());
        assert!(fault("Barge In.fixed.md", "text").is_some());
        assert!(fault("a.improved.md", "text").is_some());
        assert!(fault("a.fixed.md", " \n").is_some());
        assert!(fault("a.fixed.md", "- text").is_some());
    }
}
