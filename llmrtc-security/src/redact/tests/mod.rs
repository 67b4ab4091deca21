//! Tests of the redactor as a whole: E1 (written identifiers, harmless text, modes, streams, configuration) and E2 (credentials).

mod e1_modes;
mod e1_stream;
mod e1_written;
mod e2_secrets;

use super::*;

fn redactor() -> Redactor {
    Redactor::new(&RedactConfig::default()).expect("the default configuration is valid")
}

/// Asserts that each text, in which `‹…›` marks what must go, loses just that.
#[track_caller]
fn check_marked(rows: &[&str]) {
    let redactor = redactor();
    let wrong: Vec<String> = rows
        .iter()
        .filter_map(|row| {
            let text: String = row
                .chars()
                .filter(|character| !matches!(character, '‹' | '›'))
                .collect();
            let mut seen = String::new();
            let mut at = 0;
            for span in redactor.spans(&text, &Context::default()) {
                seen.push_str(&text[at..span.start]);
                seen.push('‹');
                seen.push_str(&text[span.start..span.end]);
                seen.push('›');
                at = span.end;
            }
            seen.push_str(&text[at..]);
            (seen != **row).then(|| format!("expected {row}\n     got {seen}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
