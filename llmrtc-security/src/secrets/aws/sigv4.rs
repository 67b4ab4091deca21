use std::{
    collections::BTreeMap,
    fmt::Write,
    time::{Duration, SystemTime},
};

use aws_lc_rs::{digest, hmac};
use zeroize::Zeroizing;

use super::Credentials;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// What requests to one service in one region are signed with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scope<'a> {
    pub(super) region: &'a str,
    pub(super) service: &'a str,
}

/// The `Authorization` header of a request to `/` without a query, which is all that services of the JSON protocols
/// are sent. `headers` have lower-case names, one value each, and contain `host` and `x-amz-date` (of `date`); all of
/// them are signed.
///
/// # Source
/// *Signature Version 4 for API requests*, AWS IAM User Guide.
pub(super) fn authorization(
    scope: Scope<'_>,
    credentials: &Credentials,
    method: &str,
    headers: &BTreeMap<&str, &str>,
    body: &[u8],
    date: &str,
) -> String {
    let mut canonical = format!("{method}\n/\n\n");
    for (name, value) in headers {
        let value = value.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
        // Writing to a `String` cannot fail.
        let _ = writeln!(canonical, "{name}:{value}");
    }
    let names = headers.keys().copied().collect::<Vec<_>>().join(";");
    let _ = write!(canonical, "\n{names}\n{}", hex(sha256(body).as_ref()));

    let day = date.get(..8).unwrap_or(date);
    let Scope { region, service } = scope;
    let place = format!("{day}/{region}/{service}/aws4_request");
    let statement = format!(
        "{ALGORITHM}\n{date}\n{place}\n{}",
        hex(sha256(canonical.as_bytes()).as_ref())
    );
    let secret = Zeroizing::new(format!("AWS4{}", credentials.secret_access_key.expose()));
    let mut key = mac(secret.as_bytes(), day);
    for part in [region, service, "aws4_request"] {
        key = mac(key.as_ref(), part);
    }
    format!(
        "{ALGORITHM} Credential={}/{place}, SignedHeaders={names}, Signature={}",
        credentials.access_key_id,
        hex(mac(key.as_ref(), &statement).as_ref())
    )
}

fn sha256(bytes: &[u8]) -> digest::Digest {
    digest::digest(&digest::SHA256, bytes)
}

fn mac(key: &[u8], text: &str) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// `20150830T123600Z`.
///
/// # Source
/// H. Hinnant, *chrono-Compatible Low-Level Date Algorithms*, `civil_from_days`.
pub(super) fn timestamp(now: SystemTime) -> String {
    let seconds = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
        .as_secs();
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    // Days since 0000-03-01: years then end with their leap day.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

/// AWS's Signature Version 4 test suite, the cases without a path or a query.
#[cfg(test)]
mod tests {
    use llmrtc_core::redact::Secret;

    use super::*;

    const DATE: &str = "20150830T123600Z";
    const TOKEN: &str = "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA==";

    #[track_caller]
    fn check(
        method: &str,
        more: &[(&'static str, &'static str)],
        body: &str,
        names: &str,
        signature: &str,
    ) {
        let credentials = Credentials {
            access_key_id: "AKIDEXAMPLE".to_owned(),
            secret_access_key: Secret::new("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"),
            session_token: None,
        };
        let mut headers = BTreeMap::from([("host", "example.amazonaws.com"), ("x-amz-date", DATE)]);
        headers.extend(more.iter().copied());
        let scope = Scope {
            region: "us-east-1",
            service: "service",
        };
        assert_eq!(
            authorization(scope, &credentials, method, &headers, body.as_bytes(), DATE),
            format!(
                "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
                 SignedHeaders={names}, Signature={signature}"
            )
        );
    }

    #[test]
    fn a2_sigv4_test_suite() {
        let plain = "host;x-amz-date";
        check(
            "GET",
            &[],
            "",
            plain,
            "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
        );
        check(
            "POST",
            &[],
            "",
            plain,
            "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
        );
        check(
            "GET",
            &[("my-header1", " value1"), ("my-header2", " \"a   b   c\"")],
            "",
            "host;my-header1;my-header2;x-amz-date",
            "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736",
        );
        check(
            "GET",
            &[("my-header1", "value4,value1,value3,value2")],
            "",
            "host;my-header1;x-amz-date",
            "08c7e5a9acfcfeb3ab6b2185e75ce8b1deb5e634ec47601a50643f830c755c01",
        );
        check(
            "POST",
            &[("content-type", "application/x-www-form-urlencoded")],
            "Param1=value1",
            "content-type;host;x-amz-date",
            "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
        );
        check(
            "POST",
            &[("x-amz-security-token", TOKEN)],
            "",
            "host;x-amz-date;x-amz-security-token",
            "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead",
        );
    }

    #[test]
    fn timestamps_know_leap_years() {
        for (seconds, expected) in [
            (0, "19700101T000000Z"),
            (951_782_400, "20000229T000000Z"),
            (1_440_938_160, "20150830T123600Z"),
            (1_709_251_199, "20240229T235959Z"),
            (4_107_542_400, "21000301T000000Z"),
        ] {
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(timestamp(time), expected);
        }
    }
}
