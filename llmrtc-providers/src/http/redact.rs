//! Takes credentials out of text that a vendor sent back.

use llmrtc_core::redact::Secret;

const PLACEHOLDER: &str = "[secret]";

/// Beginnings of keys that are recognisable by themselves.
const KEY_PREFIXES: &[&str] = &["sk-", "sk_", "xi-", "gsk_", "AIza", "AKIA"];
/// A known value shorter than this is more likely to be an ordinary word than a credential.
const MIN_SECRET_CHARS: usize = 6;

/// Replaces known credentials and whatever looks like one.
pub(super) fn redact(text: &str, secrets: &[Secret]) -> String {
    let mut text = text.to_owned();
    for secret in secrets {
        let secret = secret.expose().trim();
        if secret.chars().count() >= MIN_SECRET_CHARS {
            text = text.replace(secret, PLACEHOLDER);
        }
    }
    mask_shapes(&text)
}

/// Masks `sk-…` and its relatives, `Bearer …` and `key=…`.
fn mask_shapes(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut at_word_start = true;
    while let Some(first) = rest.chars().next() {
        if at_word_start && let Some((kept, masked)) = credential(rest) {
            out.push_str(&rest[..kept]);
            out.push_str(PLACEHOLDER);
            rest = &rest[kept + masked..];
            at_word_start = false;
            continue;
        }
        at_word_start = !first.is_alphanumeric();
        out.push(first);
        rest = &rest[first.len_utf8()..];
    }
    out
}

/// How many bytes to keep and how many to mask, when a credential starts here.
fn credential(text: &str) -> Option<(usize, usize)> {
    if KEY_PREFIXES.iter().any(|prefix| text.starts_with(prefix)) {
        let length = token_bytes(text);
        if length >= 8 {
            return Some((0, length));
        }
    }
    // `key=` also ends `api_key=` and `access-key=`, because `_` and `-` are no letters.
    for label in ["bearer ", "key=", "token="] {
        let Some(head) = text.get(..label.len()) else {
            continue;
        };
        if head.eq_ignore_ascii_case(label) {
            let length = token_bytes(&text[label.len()..]);
            return (length > 0).then_some((label.len(), length));
        }
    }
    None
}

/// Length of the run of characters that keys are made of; `*` because vendors echo keys with their middle starred out.
fn token_bytes(text: &str) -> usize {
    text.bytes()
        .take_while(|byte| byte.is_ascii_alphanumeric() || b"-_.*~+/=".contains(byte))
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_masked_and_words_are_not() {
        let known = [Secret::new("hunter2-hunter2"), Secret::new("ab")];
        let table = [
            (
                "wrong key hunter2-hunter2, sorry",
                "wrong key [secret], sorry",
            ),
            (
                "Incorrect API key: sk-proj-ab12cd34.",
                "Incorrect API key: [secret]",
            ),
            ("got sk-CAN*****xyz", "got [secret]"),
            (
                "Authorization: Bearer eyJh.bGci.x",
                "Authorization: Bearer [secret]",
            ),
            ("url ?api_key=abc123&x=1", "url ?api_key=[secret]&x=1"),
            ("AKIAIOSFODNN7EXAMPLE", "[secret]"),
            (
                "a task-oriented about ask-me sk- and keys",
                "a task-oriented about ask-me sk- and keys",
            ),
            ("ab about über", "ab about über"),
        ];
        for (text, expected) in table {
            assert_eq!(redact(text, &known), expected);
        }
    }
}
