//! How long a vendor asks us to wait.

use std::time::{Duration, SystemTime};

use reqwest::header::{HeaderMap, RETRY_AFTER};

/// No vendor means more than a day; a larger number is a mistake that must not overflow anything.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// Reads `retry-after-ms`, then `retry-after` as seconds or as an HTTP date.
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name| headers.get(name)?.to_str().ok().map(str::trim);
    let scaled = |text: &str, unit: f64| {
        let seconds = text.parse::<f64>().ok()? * unit;
        (seconds >= 0.0).then(|| Duration::try_from_secs_f64(seconds).unwrap_or(LONGEST))
    };
    let wait = text("retry-after-ms")
        .and_then(|ms| scaled(ms, 0.001))
        .or_else(|| {
            let value = text(RETRY_AFTER.as_str())?;
            scaled(value, 1.0).or_else(|| {
                let date = httpdate::parse_http_date(value).ok()?;
                // A date in the past means "now".
                Some(date.duration_since(now).unwrap_or_default())
            })
        })?;
    Some(wait.min(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_understood() {
        let now = httpdate::parse_http_date("Mon, 23 Nov 2026 10:00:00 GMT").unwrap();
        type Headers = &'static [(&'static str, &'static str)];
        let table: &[(Headers, Option<Duration>)] = &[
            (&[("retry-after", "1")], Some(Duration::from_secs(1))),
            (
                &[("retry-after", " 0.25 ")],
                Some(Duration::from_millis(250)),
            ),
            (&[("retry-after-ms", "40")], Some(Duration::from_millis(40))),
            (
                &[("retry-after", "9"), ("retry-after-ms", "40")],
                Some(Duration::from_millis(40)),
            ),
            (
                &[("retry-after", "Mon, 23 Nov 2026 10:00:07 GMT")],
                Some(Duration::from_secs(7)),
            ),
            (
                &[("retry-after", "Mon, 23 Nov 2026 09:00:00 GMT")],
                Some(Duration::ZERO),
            ),
            (&[("retry-after", "1e300")], Some(LONGEST)),
            (&[("retry-after", "-1")], None),
            (&[("retry-after", "NaN")], None),
            (&[("retry-after", "soon")], None),
            (&[], None),
        ];
        for (pairs, expected) in table {
            let mut headers = HeaderMap::new();
            for (name, value) in *pairs {
                headers.insert(*name, value.parse().unwrap());
            }
            assert_eq!(retry_after(&headers, now), *expected, "{pairs:?}");
        }
    }
}
