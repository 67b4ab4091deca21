//! B2, T4: forged and confused tokens. Every forgery of RFC 8725 and of the CVEs named below, each refused for its own
//! reason.

use std::time::{Duration, UNIX_EPOCH};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, crypto};
use llmrtc_core::redact::Secret;
use proptest::prelude::*;
use rcgen::KeyPair;
use serde_json::json;

use super::*;
use crate::auth::{Grants, Method, grants::Allowed};

const ISSUER: &str = "https://issuer.example";
const SECRET: &str = "0123456789abcdef0123456789abcdef";
const HEADER: &str = r#"{"alg":"HS256","typ":"at+jwt"}"#;
const NOW: u64 = 1_700_000_000;

/// An RSA key of 1024 bits.
const SHORT_RSA: &str = "-----BEGIN PUBLIC KEY-----
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDQNcZgPEL8swOg03YUiDp1GoLa
4R0khcy4VtFC1wvlDuaJbrb1C6Frp4TmqRiGQizLITs7u+E0Nvmxin8RrZwQVhbL
NPFRjWeOviPONC3RCQB8RP5NucM/dbi9H8/BOE1EHlN4eEdxTwp2sTByOPHddnHa
8oHiy93VRC609U58dwIDAQAB
-----END PUBLIC KEY-----";

pub(super) fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

pub(super) fn policy() -> IssuerPolicy {
    IssuerPolicy::new(ISSUER, ["llmrtc".to_owned()])
}

fn shared() -> Verifier {
    let secret = Secret::new(SECRET);
    Verifier::shared(
        policy(),
        SharedSecrets::new(&[HmacAlgorithm::Hs256], &secret, None).unwrap(),
    )
}

/// The claims of a good token, with changes: `null` takes a claim out.
fn claims(changes: Value) -> String {
    let mut claims = json!({
        "iss": ISSUER, "aud": "llmrtc", "sub": "ann", "iat": NOW, "nbf": NOW, "exp": NOW + 600, "jti": "1",
    });
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
            value => claims[name] = value.clone(),
        }
    }
    claims.to_string()
}

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn hs256(header: &str, claims: &str) -> String {
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    sign(header, claims, &key, Algorithm::HS256)
}

fn sign(header: &str, claims: &str, key: &EncodingKey, algorithm: Algorithm) -> String {
    let message = format!("{}.{}", b64(header), b64(claims));
    let signature = crypto::sign(message.as_bytes(), key, algorithm).unwrap();
    format!("{message}.{signature}")
}

async fn check(verifier: &Verifier, token: &str) -> Result<Principal, JwtError> {
    verifier.verify(token, at(NOW + 1)).await
}

#[tokio::test]
async fn b2_a_good_token_says_who_it_is() {
    let changes = json!({"grants": {"tools": ["weather"], "rate_class": "gold"}, "extra": {"a": [1.5, null]}});
    let principal = check(&shared(), &hs256(HEADER, &claims(changes)))
        .await
        .unwrap();
    assert_eq!(principal, Principal::user("ann", None));
    assert_eq!(principal.grants.tools, Allowed::only(["weather"]));
    let credential = principal.credential;
    assert_eq!(credential.method, Method::Jwt);
    assert_eq!(credential.token_id.as_deref(), Some("1"));
    assert_eq!(credential.issued_at, Some(at(NOW)));
    assert_eq!(credential.expires_at, Some(at(NOW + 600)));
}

/// What the header says. Everything is signed with the right key.
#[tokio::test]
async fn b2_headers() {
    let cases: [(&str, Result<(), JwtError>); 33] = [
        (HEADER, Ok(())),
        (r#"{"typ":"JWT","alg":"HS256"}"#, Ok(())),
        (
            r#"{"typ":"application/AT+JWT","alg":"HS256","cty":"x"}"#,
            Ok(()),
        ),
        // Keys in the token are not looked at (CVE-2018-0114): the signature decides.
        (
            r#"{"alg":"HS256","typ":"JWT","jku":"https://evil.example/k","x5u":"x","x5c":["x"],"jwk":{"kty":"oct","k":""}}"#,
            Ok(()),
        ),
        // A shared secret has no name.
        (
            r#"{"alg":"HS256","typ":"JWT","kid":"../../dev/null"}"#,
            Ok(()),
        ),
        // CVE-2015-9235, CVE-2020-28042 and friends.
        (r#"{"alg":"none","typ":"JWT"}"#, Err(JwtError::Algorithm)),
        (r#"{"alg":"None","typ":"JWT"}"#, Err(JwtError::Algorithm)),
        (r#"{"alg":"NONE","typ":"JWT"}"#, Err(JwtError::Algorithm)),
        (r#"{"alg":"nOnE","typ":"JWT"}"#, Err(JwtError::Algorithm)),
        (r#"{"alg":"","typ":"JWT"}"#, Err(JwtError::Algorithm)),
        (r#"{"alg":"hs256","typ":"JWT"}"#, Err(JwtError::Algorithm)),
        (r#"{"alg":" HS256","typ":"JWT"}"#, Err(JwtError::Algorithm)),
        (
            r#"{"alg":"HS256\u0000","typ":"JWT"}"#,
            Err(JwtError::Algorithm),
        ),
        (r#"{"alg":null,"typ":"JWT"}"#, Err(JwtError::Algorithm)),
        (r#"{"alg":["HS256"],"typ":"JWT"}"#, Err(JwtError::Algorithm)),
        (r#"{"typ":"JWT"}"#, Err(JwtError::Algorithm)),
        // Not in the list of this issuer, although the secret would do.
        (r#"{"alg":"HS384","typ":"JWT"}"#, Err(JwtError::Algorithm)),
        (r#"{"alg":"RS256","typ":"JWT"}"#, Err(JwtError::Algorithm)),
        (r#"{"alg":"EdDSA","typ":"JWT"}"#, Err(JwtError::Algorithm)),
        // Tokens of another kind (RFC 8725 §3.11).
        (r#"{"alg":"HS256"}"#, Err(JwtError::Type)),
        (r#"{"alg":"HS256","typ":""}"#, Err(JwtError::Type)),
        (r#"{"alg":"HS256","typ":"dpop+jwt"}"#, Err(JwtError::Type)),
        (r#"{"alg":"HS256","typ":"logout+jwt"}"#, Err(JwtError::Type)),
        (r#"{"alg":"HS256","typ":"JOSE"}"#, Err(JwtError::Type)),
        (r#"{"alg":"HS256","typ":1}"#, Err(JwtError::Type)),
        // Extensions (RFC 7515 §4.1.11, RFC 7797).
        (
            r#"{"alg":"HS256","typ":"JWT","crit":["exp"]}"#,
            Err(JwtError::Critical),
        ),
        (
            r#"{"alg":"HS256","typ":"JWT","crit":[]}"#,
            Err(JwtError::Critical),
        ),
        (
            r#"{"alg":"HS256","typ":"JWT","crit":null}"#,
            Err(JwtError::Critical),
        ),
        (
            r#"{"alg":"HS256","typ":"JWT","b64":false,"crit":["b64"]}"#,
            Err(JwtError::Critical),
        ),
        (
            r#"{"alg":"HS256","typ":"JWT","b64":true}"#,
            Err(JwtError::Critical),
        ),
        // Twice.
        (
            r#"{"alg":"HS256","alg":"none","typ":"JWT"}"#,
            Err(JwtError::Malformed),
        ),
        (
            r#"{"alg":"none","\u0061lg":"HS256","typ":"JWT"}"#,
            Err(JwtError::Malformed),
        ),
        (r#"["HS256"]"#, Err(JwtError::Malformed)),
    ];
    let verifier = shared();
    for (header, expected) in cases {
        let outcome = check(&verifier, &hs256(header, &claims(json!({})))).await;
        assert_eq!(outcome.map(drop), expected, "{header}");
    }
    let mut policy = policy();
    policy.allow_missing_type = true;
    let secrets = SharedSecrets::new(&[HmacAlgorithm::Hs256], &Secret::new(SECRET), None).unwrap();
    let lenient = Verifier::shared(policy, secrets);
    let token = hs256(r#"{"alg":"HS256"}"#, &claims(json!({})));
    assert!(check(&lenient, &token).await.is_ok());
}

/// What the claims say. Everything is signed with the right key.
#[tokio::test]
async fn b2_claims() {
    use JwtError::{ClaimFormat, MissingClaim};
    let day = 24 * 60 * 60;
    let cases = [
        (json!({"aud": ["other", "llmrtc"]}), Ok(())),
        (json!({"iat": null, "nbf": null, "jti": null}), Ok(())),
        (json!({"iat": NOW + 31, "nbf": NOW + 31}), Ok(())),
        (json!({"exp": NOW - 28}), Ok(())),
        (json!({"exp": NOW + day}), Ok(())),
        (json!({"sub": "a".repeat(255)}), Ok(())),
        // Required.
        (json!({"exp": null}), Err(MissingClaim("exp"))),
        (json!({"sub": null}), Err(MissingClaim("sub"))),
        (json!({"iss": null}), Err(MissingClaim("iss"))),
        (json!({"aud": null}), Err(MissingClaim("aud"))),
        // Dates are integers (CVE-2026-25537: a text was no date and so no limit).
        (
            json!({"exp": (NOW + 600).to_string()}),
            Err(ClaimFormat("exp")),
        ),
        (json!({"exp": 1_700_000_600.5}), Err(ClaimFormat("exp"))),
        (json!({"exp": -1}), Err(ClaimFormat("exp"))),
        (json!({"exp": u64::MAX}), Err(ClaimFormat("exp"))),
        (json!({"exp": 1e300}), Err(ClaimFormat("exp"))),
        (json!({"exp": true}), Err(ClaimFormat("exp"))),
        (json!({"exp": [NOW + 600]}), Err(ClaimFormat("exp"))),
        (json!({"exp": {}}), Err(ClaimFormat("exp"))),
        (json!({"nbf": NOW.to_string()}), Err(ClaimFormat("nbf"))),
        (json!({"nbf": 1_700_000_000.5}), Err(ClaimFormat("nbf"))),
        (json!({"iat": NOW.to_string()}), Err(ClaimFormat("iat"))),
        (json!({"iat": false}), Err(ClaimFormat("iat"))),
        // Time.
        (json!({"exp": NOW - 29}), Err(JwtError::Expired)),
        (json!({"exp": 0}), Err(JwtError::Expired)),
        (json!({"nbf": NOW + 32}), Err(JwtError::NotYetValid)),
        (json!({"iat": NOW + 32}), Err(JwtError::IssuedInFuture)),
        (
            json!({"exp": NOW + day + 1}),
            Err(JwtError::LifetimeTooLong),
        ),
        (
            json!({"exp": NOW + day + 2, "iat": null}),
            Err(JwtError::LifetimeTooLong),
        ),
        // For whom and from whom.
        (json!({"aud": "other"}), Err(JwtError::Audience)),
        (json!({"aud": "LLMRTC"}), Err(JwtError::Audience)),
        (json!({"aud": "llmrtc "}), Err(JwtError::Audience)),
        (json!({"aud": []}), Err(JwtError::Audience)),
        (json!({"aud": ["llmrtc", 1]}), Err(ClaimFormat("aud"))),
        (json!({"aud": {"llmrtc": true}}), Err(ClaimFormat("aud"))),
        (
            json!({"iss": "https://issuer.example/"}),
            Err(JwtError::Issuer),
        ),
        (
            json!({"iss": "https://evil.example"}),
            Err(JwtError::Issuer),
        ),
        (json!({"iss": [ISSUER]}), Err(ClaimFormat("iss"))),
        // About whom.
        (json!({"sub": ""}), Err(ClaimFormat("sub"))),
        (json!({"sub": 7}), Err(ClaimFormat("sub"))),
        (json!({"sub": "a".repeat(256)}), Err(ClaimFormat("sub"))),
        (json!({"sub": "ann\nbob"}), Err(ClaimFormat("sub"))),
        (json!({"jti": 7}), Err(ClaimFormat("jti"))),
        (json!({"grants": {"tool": []}}), Err(ClaimFormat("grants"))),
        (json!({"grants": "*"}), Err(ClaimFormat("grants"))),
        (json!({"grants": []}), Err(ClaimFormat("grants"))),
        (json!({"grants": null}), Ok(())),
    ];
    let verifier = shared();
    for (changes, expected) in cases {
        let outcome = check(&verifier, &hs256(HEADER, &claims(changes.clone()))).await;
        assert_eq!(outcome.map(drop), expected, "{changes}");
    }
    let good = claims(json!({}));
    let twice = good.replacen('{', r#"{"sub":"root","#, 1);
    let outcome = check(&verifier, &hs256(HEADER, &twice)).await;
    assert_eq!(outcome, Err(JwtError::Malformed));
    let exponent = good.replace(&(NOW + 600).to_string(), "17e8");
    let outcome = check(&verifier, &hs256(HEADER, &exponent)).await;
    assert_eq!(outcome, Err(ClaimFormat("exp")));
}

/// How it is written down.
#[tokio::test]
async fn b2_spellings() {
    let (verifier, good) = (shared(), hs256(HEADER, &claims(json!({}))));
    assert!(check(&verifier, &good).await.is_ok());
    let parts: Vec<&str> = good.split('.').collect();
    let [header, body, signature] = parts[..] else {
        unreachable!("three parts")
    };
    let cases = [
        (String::new(), JwtError::Malformed),
        (".".into(), JwtError::Malformed),
        ("..".into(), JwtError::Malformed),
        (format!("{header}.{body}"), JwtError::Malformed),
        // No signature, an empty one, and the one of a blank password.
        (format!("{header}.{body}."), JwtError::Signature),
        (
            format!("{header}.{body}.{}", b64([0; 32])),
            JwtError::Signature,
        ),
        (format!("{good}.{signature}"), JwtError::Malformed),
        (format!(".{good}"), JwtError::Malformed),
        (format!("{header}..{body}.{signature}"), JwtError::Malformed),
        // Five parts are encrypted, and JSON is another serialization.
        (
            format!("{header}.{body}.{body}.{body}.{signature}"),
            JwtError::Malformed,
        ),
        (
            json!({"payload": body, "protected": header, "signature": signature}).to_string(),
            JwtError::Malformed,
        ),
        // Padding, white space, the other alphabet, loose bits.
        (format!("{good}="), JwtError::Malformed),
        (format!("{good} "), JwtError::Malformed),
        (format!(" {good}"), JwtError::Malformed),
        (format!("{good}\n"), JwtError::Malformed),
        (
            format!("{header}.{body}.{}+/", &signature[..41]),
            JwtError::Malformed,
        ),
        (
            format!("{header}.{body}.{}", loosened(signature)),
            JwtError::Malformed,
        ),
        (format!("{good}\u{0}"), JwtError::Malformed),
        (good.replace('.', "\u{ff0e}"), JwtError::Malformed),
        (
            format!("{good}{}", "A".repeat(MAX_TOKEN_BYTES)),
            JwtError::TooLong,
        ),
        (
            hs256(HEADER, &claims(json!({"sub": "a".repeat(MAX_TOKEN_BYTES)}))),
            JwtError::TooLong,
        ),
        (
            hs256(
                &format!(
                    r#"{{"alg":"HS256","typ":"JWT","x":"{}"}}"#,
                    "a".repeat(5000)
                ),
                "{}",
            ),
            JwtError::TooLong,
        ),
        (hs256(HEADER, &"[".repeat(4000)), JwtError::Malformed),
    ];
    for (token, expected) in cases {
        let outcome = check(&verifier, &token).await.map(drop);
        assert_eq!(outcome, Err(expected), "{}", &token[..token.len().min(200)]);
    }
}

/// The same bytes in lax decoders: one of the unused last bits is set.
fn loosened(signature: &str) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let (start, last) = signature.split_at(signature.len() - 1);
    let value = ALPHABET.iter().position(|byte| *byte == last.as_bytes()[0]);
    format!("{start}{}", char::from(ALPHABET[value.unwrap() | 1]))
}

/// Key confusion, with real key pairs.
#[tokio::test]
async fn b2_keys_do_not_pass_for_each_other() {
    let p256 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let ed = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let rsa = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    use PublicAlgorithm::{EdDsa, Es256, Es384, Ps256, Ps384, Ps512, Rs256, Rs384, Rs512};
    let pairs = [
        (Es256, &p256),
        (Es384, &p384),
        (EdDsa, &ed),
        (Rs256, &rsa),
        (Rs384, &rsa),
        (Rs512, &rsa),
        (Ps256, &rsa),
        (Ps384, &rsa),
        (Ps512, &rsa),
    ];
    let minted = |algorithm, pair: &KeyPair| {
        let pem = Secret::new(pair.serialize_pem());
        let minter = Minter::private(algorithm, &pem, ISSUER, "llmrtc").unwrap();
        let request = MintRequest::new("ann", Duration::from_secs(600));
        minter.mint(&request, at(NOW)).unwrap()
    };
    for (algorithm, pair) in pairs {
        let key = PublicKey::from_pem(algorithm, None, &pair.public_key_pem()).unwrap();
        let verifier = Verifier::public(policy(), vec![key]).unwrap();
        for (other, signer) in pairs {
            let token = minted(other, signer);
            let outcome = check(&verifier, token.expose()).await.map(drop);
            // One key, one algorithm: a known name with another key's signature, or another name.
            let expected = if other == algorithm {
                Ok(())
            } else {
                Err(JwtError::UnknownKey)
            };
            assert_eq!(outcome, expected, "{other:?} for {algorithm:?}");
        }
        // CVE-2015-9235, CVE-2016-10555: the public key as an HMAC secret, as PEM and as DER.
        let header = r#"{"alg":"HS256","typ":"JWT"}"#;
        for secret in [
            pair.public_key_pem().into_bytes(),
            rcgen::PublicKeyData::subject_public_key_info(pair),
        ] {
            let key = EncodingKey::from_secret(&secret);
            let token = sign(header, &claims(json!({})), &key, Algorithm::HS256);
            let outcome = check(&verifier, &token).await;
            assert_eq!(outcome, Err(JwtError::Algorithm), "{algorithm:?}");
        }
        // Psychic signatures (CVE-2022-21449) and other blanks.
        for length in [0, 1, 64, 96, 256] {
            for byte in [0, 0xff] {
                let header = json!({"alg": algorithm.name(), "typ": "JWT"}).to_string();
                let message = format!("{}.{}", b64(header), b64(claims(json!({}))));
                let token = format!("{message}.{}", b64(vec![byte; length]));
                let outcome = check(&verifier, &token).await;
                assert_eq!(outcome, Err(JwtError::Signature), "{algorithm:?} {length}");
            }
        }
        // The key of somebody else, also when the token brings it along.
        if algorithm == Es256 {
            let evil = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
            let token = minted(Es256, &evil);
            let outcome = check(&verifier, token.expose()).await;
            assert_eq!(outcome, Err(JwtError::Signature));
            let point = DecodingKey::from_ec_pem(evil.public_key_pem().as_bytes()).unwrap();
            let point = point.try_get_as_bytes().unwrap();
            let jwk = json!({"kty": "EC", "crv": "P-256", "x": b64(&point[1..33]), "y": b64(&point[33..])});
            let header = json!({"alg": "ES256", "typ": "JWT", "jwk": jwk}).to_string();
            let key = EncodingKey::from_ec_pem(evil.serialize_pem().as_bytes()).unwrap();
            let token = sign(&header, &claims(json!({})), &key, Algorithm::ES256);
            assert_eq!(check(&verifier, &token).await, Err(JwtError::Signature));
            // ASN.1 instead of r ‖ s (RFC 7518 §3.4).
            let message = token.rsplit_once('.').unwrap().0;
            let der = rcgen::SigningKey::sign(&p256, message.as_bytes()).unwrap();
            let token = format!("{message}.{}", b64(der));
            assert_eq!(check(&verifier, &token).await, Err(JwtError::Signature));
        }
    }
}

#[tokio::test]
async fn b2_a_key_id_chooses_among_the_issuers_keys_and_nothing_else() {
    let pair = || KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let (first, second) = (pair(), pair());
    let key = |id, pair: &KeyPair| {
        PublicKey::from_pem(PublicAlgorithm::EdDsa, Some(id), &pair.public_key_pem()).unwrap()
    };
    let keys = vec![key("1", &first), key("2", &second)];
    let verifier = Verifier::public(policy(), keys).unwrap();
    let token = |id: Option<&str>, pair: &KeyPair| {
        let pem = Secret::new(pair.serialize_pem());
        let minter = Minter::private(PublicAlgorithm::EdDsa, &pem, ISSUER, "llmrtc").unwrap();
        let request = MintRequest::new("ann", Duration::from_secs(600));
        let minter = minter.key_id(id.map(str::to_owned));
        minter.mint(&request, at(NOW)).unwrap()
    };
    for (id, pair, expected) in [
        (Some("1"), &first, Ok(())),
        (Some("2"), &second, Ok(())),
        (None, &second, Ok(())),
        (Some("2"), &first, Err(JwtError::Signature)),
        (Some("3"), &first, Err(JwtError::UnknownKey)),
        (Some(""), &first, Err(JwtError::UnknownKey)),
    ] {
        let outcome = check(&verifier, token(id, pair).expose()).await.map(drop);
        assert_eq!(outcome, expected, "{id:?}");
    }
}

#[tokio::test]
async fn b2_secrets_overlap_while_they_rotate() {
    let (old, new) = (Secret::new(SECRET), Secret::new(SECRET.repeat(2)));
    let secrets = SharedSecrets::new(&[HmacAlgorithm::Hs256], &old, None).unwrap();
    let verifier = Verifier::shared(policy(), secrets.clone());
    let token = |secret: &Secret| {
        let minter = Minter::shared(HmacAlgorithm::Hs256, secret, ISSUER, "llmrtc").unwrap();
        let request = MintRequest::new("ann", Duration::from_secs(600));
        minter.mint(&request, at(NOW)).unwrap()
    };
    let (before, after) = (token(&old), token(&new));
    let good = async |token: &Secret| check(&verifier, token.expose()).await.is_ok();
    assert_eq!((good(&before).await, good(&after).await), (true, false));
    secrets.replace(&new, Some(&old)).unwrap();
    assert_eq!((good(&before).await, good(&after).await), (true, true));
    secrets.replace(&new, None).unwrap();
    assert_eq!((good(&before).await, good(&after).await), (false, true));
    assert!(secrets.replace(&Secret::new(""), None).is_err());
    assert!(good(&after).await, "a bad secret replaces nothing");
}

#[test]
fn b2_weak_keys_are_refused_before_they_verify_anything() {
    use HmacAlgorithm::{Hs256, Hs384, Hs512};
    let long = Secret::new("a".repeat(64));
    for (algorithm, needed) in [(Hs256, 32), (Hs384, 48), (Hs512, 64)] {
        for found in [0, 1, needed - 1] {
            let weak = Secret::new("a".repeat(found));
            let expected = KeyError::ShortSecret { found, needed };
            let build = |current, previous| SharedSecrets::new(&[algorithm], current, previous);
            assert_eq!(build(&weak, None).unwrap_err(), expected);
            assert_eq!(build(&long, Some(&weak)).unwrap_err(), expected);
            let minter = Minter::shared(algorithm, &weak, ISSUER, "llmrtc");
            assert_eq!(minter.unwrap_err(), expected);
        }
    }
    assert!(SharedSecrets::new(&[], &long, None).is_err());
    assert_eq!(
        PublicKey::from_pem(PublicAlgorithm::Rs256, None, SHORT_RSA).unwrap_err(),
        KeyError::ShortRsa { bits: 1024 }
    );
    let p256 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let (public, private) = (p256.public_key_pem(), p256.serialize_pem());
    let bad = |algorithm, pem: &str| PublicKey::from_pem(algorithm, None, pem).is_err();
    assert!(bad(PublicAlgorithm::Es384, &public) && bad(PublicAlgorithm::EdDsa, &public));
    assert!(bad(PublicAlgorithm::Rs256, &public) && bad(PublicAlgorithm::Es256, &private));
    assert!(bad(PublicAlgorithm::Es256, "") && bad(PublicAlgorithm::Es256, &public[..60]));
    let private = Secret::new(private);
    for algorithm in [
        PublicAlgorithm::Es384,
        PublicAlgorithm::EdDsa,
        PublicAlgorithm::Rs256,
    ] {
        assert!(Minter::private(algorithm, &private, ISSUER, "llmrtc").is_err());
    }
    let secrets = SharedSecrets::new(&[Hs256], &Secret::new(SECRET), None).unwrap();
    let text = format!("{secrets:?}{:?}", shared());
    assert!(!text.contains(SECRET), "{text}");
}

#[tokio::test]
async fn b2_issuers_do_not_speak_for_each_other() {
    let other = "https://other.example";
    let (mut first, mut second) = (policy(), policy());
    first.tenant = TenantSource::Fixed("first".into());
    second.issuer = other.into();
    second.tenant = TenantSource::Claim("org".into());
    let secret = Secret::new("x".repeat(32));
    let verifiers = Verifiers::new([
        Verifier::shared(
            first,
            SharedSecrets::new(&[HmacAlgorithm::Hs256], &Secret::new(SECRET), None).unwrap(),
        ),
        Verifier::shared(
            second,
            SharedSecrets::new(&[HmacAlgorithm::Hs256], &secret, None).unwrap(),
        ),
    ]);
    let verify = async |token: String| verifiers.verify(&token, at(NOW)).await;
    let ann = verify(hs256(HEADER, &claims(json!({"org": "second"})))).await;
    assert_eq!(ann, Ok(Principal::user("ann", Some("first".into()))));
    // Signed by the first in the name of the second.
    let forged = hs256(HEADER, &claims(json!({"iss": other, "org": "second"})));
    assert_eq!(verify(forged).await, Err(JwtError::Signature));
    let key = EncodingKey::from_secret(secret.expose().as_bytes());
    let genuine = |changes| sign(HEADER, &claims(changes), &key, Algorithm::HS256);
    let ann = verify(genuine(json!({"iss": other, "org": "second"}))).await;
    assert_eq!(ann, Ok(Principal::user("ann", Some("second".into()))));
    let homeless = verify(genuine(json!({"iss": other}))).await;
    assert_eq!(homeless, Err(JwtError::MissingClaim("tenant")));
    let unknown = verify(hs256(HEADER, &claims(json!({"iss": "x"})))).await;
    assert_eq!(unknown, Err(JwtError::Issuer));
}

#[tokio::test]
async fn what_is_minted_is_good_from_now_until_its_end() {
    let minter = Minter::shared(HmacAlgorithm::Hs256, &Secret::new(SECRET), ISSUER, "llmrtc");
    let minter = minter.unwrap();
    let grants = Grants {
        admin: true,
        ..Grants::default()
    };
    let request = MintRequest::new("ann", Duration::from_secs(600))
        .tenant(Some("acme".into()))
        .grants(Some(grants.clone()));
    let token = minter.mint(&request, at(NOW)).unwrap();
    let mut policy = policy();
    policy.tenant = TenantSource::Claim("tenant".into());
    let secrets = SharedSecrets::new(&[HmacAlgorithm::Hs256], &Secret::new(SECRET), None).unwrap();
    let verifier = Verifier::shared(policy, secrets);
    let principal = verifier.verify(token.expose(), at(NOW)).await.unwrap();
    assert_eq!(principal, Principal::user("ann", Some("acme".into())));
    assert_eq!(*principal.grants, grants);
    let again = minter.mint(&request, at(NOW)).unwrap();
    assert_ne!(token.expose(), again.expose(), "each has an id of its own");
    let shown = Unverified::parse(token.expose()).unwrap();
    assert_eq!(shown.header["typ"], "at+jwt");
    assert_eq!(shown.claims["exp"], NOW + 600);
    for lifetime in [Duration::ZERO, Duration::from_millis(500), Duration::MAX] {
        let request = MintRequest::new("ann", lifetime);
        assert_eq!(
            minter.mint(&request, at(NOW)).unwrap_err(),
            MintError::Lifetime
        );
    }
}

proptest! {
    /// Any one bit of any valid token, and any other change of a character.
    #[test]
    fn b2_no_token_survives_a_change(
        subject in "[a-z]{1,40}",
        position in any::<prop::sample::Index>(),
        change in 1..=255_u8,
        elliptic in any::<bool>(),
    ) {
        let request = MintRequest::new(subject, Duration::from_secs(600));
        let (token, verifier) = if elliptic {
            let pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
            let pem = Secret::new(pair.serialize_pem());
            let minter = Minter::private(PublicAlgorithm::Es256, &pem, ISSUER, "llmrtc").unwrap();
            let key = PublicKey::from_pem(PublicAlgorithm::Es256, None, &pair.public_key_pem());
            let verifier = Verifier::public(policy(), vec![key.unwrap()]).unwrap();
            (minter.mint(&request, at(NOW)).unwrap(), verifier)
        } else {
            let secret = Secret::new(SECRET);
            let minter = Minter::shared(HmacAlgorithm::Hs256, &secret, ISSUER, "llmrtc").unwrap();
            (minter.mint(&request, at(NOW)).unwrap(), shared())
        };
        let verify = |token: &str| {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(check(&verifier, token))
        };
        prop_assert!(verify(token.expose()).is_ok());
        let mut bytes = token.expose().as_bytes().to_vec();
        let at = position.index(bytes.len());
        bytes[at] ^= change;
        if let Ok(changed) = std::str::from_utf8(&bytes) {
            prop_assert!(verify(changed).is_err(), "{changed}");
        }
    }

    #[test]
    fn b2_arbitrary_text_is_refused_without_a_panic(text in any::<String>(), parts in any::<[Vec<u8>; 3]>()) {
        prop_assert!(Unverified::parse(&text).is_err());
        let [header, claims, signature] = parts.map(b64);
        let token = format!("{header}.{claims}.{signature}");
        prop_assert!(Unverified::parse(&token).is_err());
    }
}

/// Every bit of one token, one by one.
#[tokio::test]
async fn b2_every_bit_counts() {
    let (verifier, token) = (shared(), hs256(HEADER, &claims(json!({}))));
    for index in 0..token.len() {
        for bit in 0..8 {
            let mut bytes = token.clone().into_bytes();
            bytes[index] ^= 1 << bit;
            if let Ok(changed) = std::str::from_utf8(&bytes) {
                assert!(check(&verifier, changed).await.is_err(), "{changed}");
            }
        }
    }
}
