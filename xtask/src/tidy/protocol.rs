//! `docs/protocol.md` holds every message, so it has to be looked at whenever the protocol's source changes. Its last
//! line records the source it describes; `cargo xtask tidy --bless` brings the record up to date.

use std::path::Path;

use anyhow::Context;

use super::{Finding, Repository, TextFile};

const DOCUMENT: &str = "docs/protocol.md";
const SOURCE: &str = "llmrtc-signal/src/protocol";
const OPEN: &str = "<!-- describes llmrtc-signal/src/protocol at ";
const CLOSE: &str = " -->";

pub(super) fn check(repository: &Repository) -> Option<Finding> {
    let fingerprint = fingerprint(&repository.files)?;
    let Some(document) = repository.file(DOCUMENT) else {
        return Some(Finding::fault(
            DOCUMENT,
            format!("{SOURCE} exists, but not the document that describes it"),
        ));
    };
    if recorded(&document.text) == Some(&fingerprint) {
        return None;
    }
    let message = format!(
        "{SOURCE} changed; read the document, bring it up to date, and say so with `cargo xtask tidy --bless`"
    );
    Some(Finding::fault(DOCUMENT, message))
}

/// Writes the present fingerprint into the document's last line.
pub(super) fn bless(repository: &Repository, root: &Path) -> anyhow::Result<()> {
    let fingerprint =
        fingerprint(&repository.files).with_context(|| format!("there is no {SOURCE}"))?;
    let document = repository
        .file(DOCUMENT)
        .with_context(|| format!("there is no {DOCUMENT}"))?;
    let body = document
        .text
        .split(OPEN)
        .next()
        .unwrap_or_default()
        .trim_end();
    std::fs::write(
        root.join(DOCUMENT),
        format!("{body}\n\n{OPEN}{fingerprint}{CLOSE}\n"),
    )
    .with_context(|| format!("writing {DOCUMENT}"))
}

fn recorded(text: &str) -> Option<&str> {
    text.rsplit_once(OPEN)?
        .1
        .split_once(CLOSE)
        .map(|(fingerprint, _)| fingerprint)
}

/// A hash of the protocol's source without its tests, or `None` when there is no such source.
///
/// FNV-1a with 64 bits: it has to notice an edit, not resist an attack.
fn fingerprint(files: &[TextFile]) -> Option<String> {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut found = false;
    for file in files {
        let inside = file
            .path
            .strip_prefix(SOURCE)
            .is_some_and(|rest| rest.starts_with('/') || rest == ".rs");
        let is_test = file.path.ends_with("/tests.rs") || file.path.contains("/tests/");
        if !inside || is_test || !file.path.ends_with(".rs") {
            continue;
        }
        found = true;
        for byte in file.path.bytes().chain(file.text.bytes()) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    found.then(|| format!("{hash:016x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> TextFile {
        TextFile {
            path: path.into(),
            text: text.into(),
        }
    }

    #[test]
    fn an_edit_changes_the_fingerprint_and_a_test_does_not() {
        let before = fingerprint(&[file("llmrtc-signal/src/protocol/client.rs", "a")]).unwrap();
        let after = fingerprint(&[file("llmrtc-signal/src/protocol/client.rs", "b")]).unwrap();
        assert_ne!(before, after);
        let with_test = fingerprint(&[
            file("llmrtc-signal/src/protocol/client.rs", "a"),
            file("llmrtc-signal/src/protocol/tests.rs", "b"),
            file("llmrtc-signal/src/protocol/snapshots/x.snap", "c"),
        ]);
        assert_eq!(with_test, Some(before));
        assert_eq!(fingerprint(&[file("llmrtc-signal/src/lib.rs", "a")]), None);
    }

    #[test]
    fn the_record_is_read_back() {
        assert_eq!(
            recorded(&format!("# Protocol\n\n{OPEN}00ff{CLOSE}\n")),
            Some("00ff")
        );
        assert_eq!(recorded("# Protocol\n"), None);
    }
}
