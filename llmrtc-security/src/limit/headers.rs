//! `RateLimit`, `RateLimit-Policy` and `Retry-After` (D2).
//!
//! # Source
//! draft-ietf-httpapi-ratelimit-headers-10 (structured fields, RFC 9651); RFC 9110, section 10.2.3.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, header::RETRY_AFTER};

use super::gcra::Decision;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// The largest integer of a structured field (RFC 9651, section 3.3.1).
const MAX_INTEGER: u64 = 999_999_999_999_999;

/// Says what is left: `RateLimit` and `RateLimit-Policy`, and `Retry-After` if the request was refused.
///
/// `policy` names the limit, `window` is how long an exhausted bucket takes to refill. A name with characters that a
/// structured field cannot hold loses them.
pub fn apply(headers: &mut HeaderMap, policy: &str, window: Duration, decision: &Decision) {
    let policy: String = policy
        .chars()
        .filter(|c| matches!(c, ' '..='~') && !matches!(c, '"' | '\\'))
        .collect();
    let left = format!(
        "\"{policy}\";r={};t={}",
        decision.remaining.min(MAX_INTEGER),
        whole_secs(
            if decision.allowed || decision.retry_after == Duration::MAX {
                decision.reset_after
            } else {
                decision.retry_after
            }
        )
    );
    let quota = format!(
        "\"{policy}\";q={};w={}",
        decision.limit.min(MAX_INTEGER),
        whole_secs(window)
    );
    for (name, value) in [(RATE_LIMIT, left), (RATE_LIMIT_POLICY, quota)] {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    }
    if !decision.allowed && decision.retry_after != Duration::MAX {
        retry_after(headers, decision.retry_after);
    }
}

/// Says when to come back, in whole seconds, rounded up: whoever waits exactly that long is not early.
pub fn retry_after(headers: &mut HeaderMap, wait: Duration) {
    headers.insert(RETRY_AFTER, HeaderValue::from(whole_secs(wait)));
}

fn whole_secs(duration: Duration) -> u64 {
    let secs = duration.as_secs();
    (secs + u64::from(duration.subsec_nanos() > 0)).min(MAX_INTEGER)
}

#[cfg(test)]
mod d2_headers {
    use super::*;
    use crate::limit::gcra::Quota;

    /// A string and its parameters.
    type Member = (String, Vec<(String, i64)>);

    /// A list of strings with integer parameters, as RFC 9651, section 4.2, parses it; absent on failure.
    fn parse_list(text: &str) -> Option<Vec<Member>> {
        let mut rest = text.trim_matches(' ');
        let mut members = Vec::new();
        while !rest.is_empty() {
            let (member, after) = parse_item(rest)?;
            members.push(member);
            rest = after.trim_start_matches([' ', '\t']);
            if rest.is_empty() {
                break;
            }
            rest = rest.strip_prefix(',')?.trim_start_matches([' ', '\t']);
            if rest.is_empty() {
                return None;
            }
        }
        Some(members)
    }

    fn parse_item(text: &str) -> Option<(Member, &str)> {
        let mut string = String::new();
        let mut characters = text.strip_prefix('"')?.char_indices();
        let mut rest = loop {
            match characters.next()? {
                (_, '\\') => match characters.next()?.1 {
                    c @ ('"' | '\\') => string.push(c),
                    _ => return None,
                },
                (at, '"') => break &text[at + 2..],
                (_, c @ ' '..='~') => string.push(c),
                _ => return None,
            }
        };
        let mut parameters = Vec::new();
        while let Some(after) = rest.strip_prefix(';') {
            let after = after.trim_start_matches(' ');
            let key_end = after
                .find(|c: char| {
                    !(c.is_ascii_lowercase() || c.is_ascii_digit() || "_-.*".contains(c))
                })
                .unwrap_or(after.len());
            let (key, after) = after.split_at(key_end);
            if !key.starts_with(|c: char| c.is_ascii_lowercase() || c == '*') {
                return None;
            }
            let after = after.strip_prefix('=')?;
            let digits = after.strip_prefix('-').unwrap_or(after);
            let length = digits
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(digits.len());
            if !(1..=15).contains(&length) || digits[length..].starts_with('.') {
                return None;
            }
            let (number, after) = after.split_at(after.len() - digits.len() + length);
            parameters.push((key.to_owned(), number.parse().ok()?));
            rest = after;
        }
        Some(((string, parameters), rest))
    }

    #[test]
    fn the_parser_of_this_test_follows_rfc_9651() {
        let member = |name: &str, parameters: &[(&str, i64)]| {
            let parameters = parameters
                .iter()
                .map(|(key, value)| ((*key).to_owned(), *value));
            (name.to_owned(), parameters.collect::<Vec<_>>())
        };
        for (text, expected) in [
            (
                r#""default";q=60;w=60"#,
                Some(vec![member("default", &[("q", 60), ("w", 60)])]),
            ),
            (
                r#""a";q=1, "b\"\\";*x=-5"#,
                Some(vec![
                    member("a", &[("q", 1)]),
                    member(r#"b"\"#, &[("*x", -5)]),
                ]),
            ),
            (r#"  "a"; q=0  "#, Some(vec![member("a", &[("q", 0)])])),
            ("", Some(vec![])),
            (
                r#""a";q=999999999999999"#,
                Some(vec![member("a", &[("q", MAX_INTEGER as i64)])]),
            ),
            (r#""a";q=1000000000000000"#, None),
            (r#""a";Q=1"#, None),
            (r#""a";q="#, None),
            (r#""a";q=1."#, None),
            (r#""a" ;q=1"#, None),
            (r#""a","#, None),
            (r#""a" "b""#, None),
            (r#""a"#, None),
            (r#""\n""#, None),
            ("\"\u{e4}\"", None),
        ] {
            assert_eq!(parse_list(text), expected, "{text}");
        }
    }

    fn check(policy: &str, quota: &Quota, decision: &Decision, expected: [Option<&str>; 3]) {
        let mut headers = HeaderMap::new();
        apply(&mut headers, policy, quota.window(), decision);
        let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap());
        let written = [
            text("RateLimit"),
            text("RateLimit-Policy"),
            text("Retry-After"),
        ];
        assert_eq!(written, expected);
        for list in written[..2].iter().flatten() {
            assert_eq!(parse_list(list).unwrap().len(), 1, "{list}");
        }
    }

    #[test]
    fn what_is_left_is_a_structured_field_and_retry_after_is_whole_seconds_rounded_up() {
        let minute = Quota::new(60, Duration::from_secs(60), 59).unwrap();
        let ns = |duration: Duration| duration.as_nanos() as u64;
        check(
            "default",
            &minute,
            &minute.decide(0, 1),
            [
                Some(r#""default";r=59;t=1"#),
                Some(r#""default";q=60;w=60"#),
                None,
            ],
        );
        check(
            "default",
            &minute,
            &minute.decide(ns(Duration::from_millis(59_001)), 1),
            [
                Some(r#""default";r=0;t=1"#),
                Some(r#""default";q=60;w=60"#),
                Some("1"),
            ],
        );
        check(
            "turn",
            &minute,
            &minute.decide(ns(Duration::from_millis(60_000)), 3),
            [
                Some(r#""turn";r=0;t=3"#),
                Some(r#""turn";q=60;w=60"#),
                Some("3"),
            ],
        );
        // A request that never fits has no time to come back.
        check(
            "turn",
            &minute,
            &minute.decide(0, 61),
            [
                Some(r#""turn";r=60;t=0"#),
                Some(r#""turn";q=60;w=60"#),
                None,
            ],
        );
        let gateway = Quota::new(10, Duration::from_secs(1), 20).unwrap();
        check(
            "na\"me\\\r\n\u{e4}",
            &gateway,
            &gateway.decide(0, 1),
            [Some(r#""name";r=20;t=1"#), Some(r#""name";q=21;w=3"#), None],
        );
    }
}
