//! Configuration of authentication: every mistake, and a chain that works.

use llmrtc_core::testing::ManualClock;
use serde_json::{Value, json};
use validator::Validate as _;

use super::*;
use crate::auth::{
    Access, Authenticator, Credentials,
    jwt::{MintRequest, Minter},
    resume::ResumeConfig,
    ticket::MemoryTickets,
};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn parts(clock: &ManualClock) -> Parts {
    Parts {
        clock: Arc::new(clock.clone()),
        tickets: Arc::new(MemoryTickets::default()),
        sessions: Arc::new(SessionHandles::new(ResumeConfig::default())),
        revocations: Arc::new(Revocations::new(Duration::from_secs(3600))),
    }
}

fn config(value: Value) -> AuthConfig {
    serde_json::from_value(value).unwrap()
}

/// A complete issuer with changes: `null` takes a member out.
fn issuer(changes: Value) -> Value {
    let mut issuer = json!({
        "issuer": "https://issuer.example",
        "audience": ["llmrtc"],
        "algorithms": ["HS256"],
        "secret": SECRET,
    });
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(issuer.as_object_mut().unwrap().remove(name)),
            value => issuer[name] = value.clone(),
        }
    }
    issuer
}

fn mistakes(value: Value) -> Vec<String> {
    match config(value).build(parts(&ManualClock::new())) {
        Ok(_) => Vec::new(),
        Err(mistakes) => mistakes.iter().map(ToString::to_string).collect(),
    }
}

#[tokio::test]
async fn a_configured_issuer_and_a_configured_key_open_the_door() {
    let (key, digest) = crate::auth::api_key::generate();
    let config = config(json!({
        "issuers": [issuer(json!({"default_grants": {"tools": ["weather"]}}))],
        "api_keys": [{"subject": "ci", "sha256": digest, "grants": {"admin": true}}],
    }));
    config.validate().unwrap();
    let clock = ManualClock::new();
    let built = config.build(parts(&clock)).unwrap();
    assert_eq!(built.secrets.len(), 1);
    let minter = Minter::shared(
        HmacAlgorithm::Hs256,
        &Secret::new(SECRET),
        "https://issuer.example",
        "llmrtc",
    );
    let request = MintRequest::new("ann", Duration::from_secs(60));
    let token = minter.unwrap().mint(&request, clock.wall()).unwrap();
    for (presented, subject, admin) in [(&token, "ann", false), (&key, "ci", true)] {
        let header = format!("Bearer {}", presented.expose());
        let credentials = Credentials::none("192.0.2.1:1".parse().unwrap());
        let access = built
            .chain
            .admit(&credentials.authorization(Some(&header)))
            .await;
        let Ok(Access::Granted(principal)) = access else {
            panic!("{access:?}");
        };
        assert_eq!(
            (&*principal.subject, principal.grants.admin),
            (subject, admin)
        );
        assert_eq!(principal.grants.tools.allows("pay"), admin);
    }
    assert!(!built.chain.is_open());
}

#[test]
fn every_mistake_is_reported_with_its_place() {
    let one = |changes| mistakes(json!({"issuers": [issuer(changes)]}));
    assert_eq!(one(json!({})), Vec::<String>::new());
    let public = json!([{"algorithm": "ES256", "pem": "x"}]);
    let cases = [
        (json!({"issuer": null}), "issuers[0].issuer: is missing"),
        (
            json!({"issuer": "http://issuer.example"}),
            "issuers[0].issuer: must be https",
        ),
        (json!({"audience": null}), "issuers[0].audience: is missing"),
        (json!({"audience": [""]}), "issuers[0].audience: is missing"),
        (
            json!({"secret": "short"}),
            "issuers[0].secret: the secret has 5 bytes; the algorithm needs at least 32",
        ),
        (
            json!({"algorithms": ["HS512"]}),
            "issuers[0].secret: the secret has 32 bytes",
        ),
        (
            json!({"previous_secret": ""}),
            "issuers[0].secret: the secret has 0 bytes",
        ),
        (
            json!({"algorithms": null}),
            "issuers[0].algorithms: is missing",
        ),
        (
            json!({"algorithms": ["none"]}),
            "issuers[0].algorithms: does not know \"none\"",
        ),
        (
            json!({"algorithms": ["hs256"]}),
            "issuers[0].algorithms: does not know \"hs256\"",
        ),
        (
            json!({"algorithms": ["HS256", "RS256"]}),
            "issuers[0].algorithms: mixes",
        ),
        (
            json!({"algorithms": ["ES256"]}),
            "issuers[0].algorithms: HS256, HS384 and HS512 need secret",
        ),
        (
            json!({"secret": null}),
            "issuers[0].algorithms: HS256, HS384 and HS512 need secret",
        ),
        (
            json!({"secret": null, "algorithms": ["ES256"]}),
            "issuers[0]: needs exactly one of",
        ),
        (
            json!({"public_keys": public}),
            "issuers[0]: needs exactly one of",
        ),
        (
            json!({"secret": null, "algorithms": ["ES256"], "public_keys": public}),
            "issuers[0].public_keys[0].pem: not a PEM key for ES256",
        ),
        (
            json!({"secret": null, "algorithms": ["ES384"], "public_keys": public}),
            "issuers[0].public_keys[0].algorithm: is not in",
        ),
        (
            json!({"secret": null, "algorithms": ["ES256"], "jwks": "http://issuer.example/keys"}),
            "issuers[0].jwks: must be https",
        ),
        (
            json!({"secret": null, "algorithms": ["ES256"], "jwks": "keys"}),
            "issuers[0].jwks: is not a URL",
        ),
        (
            json!({"leeway": "61s"}),
            "issuers[0].leeway: must not exceed 1m",
        ),
        (
            json!({"max_lifetime": "0s"}),
            "issuers[0].max_lifetime: must be between",
        ),
        (
            json!({"max_lifetime": "32days"}),
            "issuers[0].max_lifetime: must be between",
        ),
        (json!({"types": []}), "issuers[0].types: is empty"),
        (
            json!({"tenant": "a", "tenant_claim": "b"}),
            "issuers[0].tenant: and tenant_claim",
        ),
    ];
    for (changes, expected) in cases {
        let found = one(changes.clone());
        assert!(
            found.len() == 1 && found[0].starts_with(expected),
            "{changes}: {found:?}"
        );
        assert!(!found[0].contains(SECRET));
    }
    assert_eq!(
        mistakes(json!({})),
        ["mode: nobody could authenticate: configure an issuer or an API key"]
    );
    // All at once.
    let found = mistakes(json!({
        "issuers": [issuer(json!({"secret": "x"})), issuer(json!({"audience": null, "tenant": "b"}))],
        "api_keys": [{"subject": ""}, {"subject": "x", "sha256": "zz"}, {"subject": "x", "key": "short"}],
    }));
    let places: Vec<&str> = found
        .iter()
        .filter_map(|text| text.split(':').next())
        .collect();
    assert_eq!(
        places,
        [
            "issuers[0].tenant",
            "issuers[0].secret",
            "issuers[1].issuer",
            "issuers[1].audience",
            "api_keys[0].subject",
            "api_keys[0]",
            "api_keys[1].sha256",
            "api_keys[2].key",
        ]
    );
}

#[test]
fn several_issuers_keep_their_callers_apart() {
    let two =
        |first: Value, second: Value| mistakes(json!({"issuers": [issuer(first), issuer(second)]}));
    let other = "https://other.example";
    assert_eq!(
        two(
            json!({"tenant": "a"}),
            json!({"issuer": other, "tenant": "b"})
        ),
        Vec::<String>::new()
    );
    for (first, second) in [
        (json!({}), json!({"issuer": other, "tenant": "b"})),
        (
            json!({"tenant_claim": "org"}),
            json!({"issuer": other, "tenant": "b"}),
        ),
        (
            json!({"tenant": "a"}),
            json!({"issuer": other, "tenant": "a"}),
        ),
        (json!({"tenant": "a"}), json!({"tenant": "b"})),
    ] {
        assert_eq!(
            two(first.clone(), second.clone()).len(),
            1,
            "{first} {second}"
        );
    }
}

#[test]
fn defaults_are_strict_and_values_have_ranges() {
    let config = config(json!({}));
    assert_eq!(config.mode, AuthMode::Auto);
    assert!(!config.query_token && config.subprotocol && config.tickets.enabled);
    assert_eq!(config.first_message.timeout, Duration::from_secs(5));
    assert_eq!(config.tickets.ttl, Duration::from_secs(30));
    assert_eq!(config.longest_lifetime(), Duration::from_secs(24 * 60 * 60));
    for bad in [
        json!({"tickets": {"ttl": "3m"}}),
        json!({"tickets": {"ttl": "0s"}}),
        json!({"first_message": {"timeout": "31s"}}),
        json!({"first_message": {"timeout": "0s"}}),
    ] {
        let config: AuthConfig = serde_json::from_value(bad.clone()).unwrap();
        assert!(config.validate().is_err(), "{bad}");
    }
    for unknown in [
        json!({"querytoken": true}),
        json!({"mode": "optional"}),
        json!({"issuers": [{"isuer": "x"}]}),
        json!({"api_keys": [{"subject": "x", "grant": {}}]}),
        json!({"tickets": {"tll": "3m"}}),
    ] {
        assert!(
            serde_json::from_value::<AuthConfig>(unknown.clone()).is_err(),
            "{unknown}"
        );
    }
    let secret = serde_json::from_value::<AuthConfig>(json!({"issuers": [issuer(json!({}))]}));
    assert!(!format!("{:?}", secret.unwrap()).contains(SECRET));
}
