// tidy: keys are fixtures
//! E2: credentials inside log lines, and identifiers that only look random. The credentials are made up here; joined from parts, so that
//! scanners of repositories have nothing to find.

use super::*;

#[test]
fn every_shape_goes() {
    let hex = "3f2a9c1d4bf92f3577b34da6a3ce929d0e0e4736";
    let mixed = "aB3dE5fG7hI9jK1lM3nO5pQ7rS9tU1vW3xY5zA7bC9dE1fG3hI5jK7";
    let keys: Vec<String> = [
        ("sk-", 40),
        ("sk-proj-", 48),
        ("sk-ant-api03-", 50),
        ("sk-or-v1-", 48),
        ("AIza", 35),
        ("gsk_", 52),
        ("hf_", 34),
        ("xai-", 52),
        ("r8_", 37),
        ("fw_", 24),
        ("tgp_v1_", 43),
        ("pplx-", 48),
        ("ghp_", 36),
        ("gho_", 36),
        ("github_pat_", 52),
        ("glpat-", 20),
        ("npm_", 36),
        ("pypi-AgEIcHlwaS5vcmc", 50),
        ("xoxb-", 40),
        ("xapp-", 40),
        ("SG.", 50),
        ("sk_live_", 24),
        ("rk_live_", 24),
        ("whsec_", 32),
        ("dop_v1_", 0),
        ("glsa_", 40),
        ("lin_api_", 40),
        ("hvs.", 40),
        ("shpat_", 0),
        ("sk_car_", 24),
    ]
    .iter()
    .map(|(prefix, length)| match length {
        0 => format!("{prefix}{}{}", &hex[..40], &hex[..24]),
        length => format!("{prefix}{}", &mixed[..*length]),
    })
    .chain([
        format!("sk_{}{}", hex, &hex[..8]),
        format!("AC{}", &hex[..32]),
        format!("SK{}", &hex[..32]),
        format!("key-{}", &hex[..32]),
        ["AKIA", "IOSFODNN7", "EXAMPLE"].concat(),
        [
            "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9",
            ".eyJzdWIiOiIxMjM0NTY3ODkwIn0",
            ".abc-DEF_123",
        ]
        .concat(),
    ])
    .collect();
    let redactor = redactor();
    for key in &keys {
        for (before, behind) in [
            (
                "2024-05-03T10:30:00Z ERROR llm request failed key=",
                " status=401",
            ),
            ("Authorization: Bearer ", ""),
            ("{\"token\":\"", "\"}"),
            ("using ", "."),
        ] {
            let out = redactor
                .redact(
                    &format!("{before}{key}{behind}"),
                    &Context::default(),
                    &SinkPolicy::default(),
                    None,
                )
                .into_owned();
            assert_eq!(out, format!("{before}[SECRET]{behind}"), "{key}");
        }
    }
}

#[test]
fn keys_without_a_prefix_go_behind_their_name() {
    check_marked(&[
        "DEEPGRAM_API_KEY=‹3f2a9c1d4bf92f3577b34da6a3ce929d0e0e4736›",
        "xi-api-key: ‹3f2a9c1d4bf92f3577b34da6a3ce929d›",
        "Authorization: Token ‹3f2a9c1d4bf92f3577b34da6a3ce929d0e0e4736›",
        "the Metered secret key is ‹aB3dE5fG7hI9jK1lM3nO5pQ7rS9tU1vW›",
        "mistral key: ‹aB3dE5fG7hI9jK1lM3nO5pQ7rS9tU1vW›",
        "aws_secret_access_key = ‹wJalrXUtnFEMI/K7MDENG/bPxRfiCYzz9XaMPLE1›",
        "Ocp-Apim-Subscription-Key: ‹3f2a9c1d4bf92f3577b34da6a3ce929d›",
        "Authorization: Basic ‹dXNlcjpwYXNzd29yZDEyMw==›",
        "-----BEGIN PRIVATE KEY-----",
        "GET /v1/listen?access_token=‹3f2a9c1d4bf92f3577b34da6a3ce929d›&model=nova",
    ].map(|row| if row.starts_with("-----") { "‹-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSj\n-----END PRIVATE KEY-----› done" } else { row }));
}

#[test]
fn passwords_in_addresses_go() {
    let redactor = redactor();
    let out = redactor.redact(
        "postgres://user:s3cretpw@db.example.com/x",
        &Context::default(),
        &SinkPolicy::default(),
        None,
    );
    assert!(!out.contains("s3cretpw"), "{out}");
}

#[test]
fn identifiers_that_look_random_stay() {
    check_marked(&[
        "trace_id=4bf92f3577b34da6a3ce929d0e0e4736 span_id=00f067aa0ba902b7",
        "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "commit 3f2a9c1d4bf92f3577b34da6a3ce929d0e0e4736 by the bot",
        "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "a=fingerprint:sha-256 3F:3D:DC:44:AC:5B:34:E7:B0:A3:50:FC:F8:9A:F4:81:C3:AF:AB:C1:89:15:D7:93:A6:DA:E6:8A:52:7A:62:20",
        "session 550e8400-e29b-41d4-a716-446655440000 ended",
        "voice 21m00Tcm4TlvDq8ikWAM, voice_id=EXAVITQu4vr4xnSDxMaL",
        "max_tokens=4096 token count 128",
        "the secret of good coffee is fresh-ground-beans-every-day",
        "sk-learn-style-names-are-not-keys at all",
    ]);
}
