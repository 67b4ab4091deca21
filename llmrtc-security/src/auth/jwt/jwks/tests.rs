//! B3: published keys, against a fake issuer.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::SystemTime,
};

use axum::{
    Router, extract::State as Shared, http::StatusCode, response::IntoResponse, routing::get,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use futures_util::future::join_all;
use jsonwebtoken::DecodingKey;
use llmrtc_core::{redact::Secret, testing::ManualClock};
use rcgen::KeyPair;
use serde_json::{Value, json};

use super::*;
use crate::auth::jwt::{
    HmacAlgorithm, IssuerPolicy, MintRequest, Minter, PublicAlgorithm, Verifier,
};

/// What the fake answers, and how often it was asked for keys.
#[derive(Clone)]
struct Fake {
    answer: Arc<Mutex<Answer>>,
    asked: Arc<AtomicUsize>,
}

struct Answer {
    status: StatusCode,
    cache: &'static str,
    body: String,
    issuer: Option<String>,
}

struct Bench {
    fake: Fake,
    origin: String,
    clock: ManualClock,
    verifier: Verifier,
    /// Keys that were added.
    added: Arc<Mutex<Vec<String>>>,
}

impl Bench {
    async fn new() -> Self {
        let fake = Fake {
            answer: Arc::new(Mutex::new(Answer {
                status: StatusCode::OK,
                cache: "max-age=600",
                body: String::new(),
                issuer: None,
            })),
            asked: Arc::default(),
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let discovery = {
            let (origin, fake) = (origin.clone(), fake.clone());
            async move || {
                let claimed = fake.answer.lock().unwrap().issuer.clone();
                json!({"issuer": claimed.unwrap_or(origin.clone()), "jwks_uri": format!("{origin}/keys")})
                    .to_string()
            }
        };
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(discovery))
            .route("/keys", get(keys))
            .with_state(fake.clone());
        #[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
        tokio::spawn(async move { axum::serve(listener, router).await });
        let clock = ManualClock::new();
        let source = JwksSource::discover(&origin).unwrap();
        let jwks = Jwks::new(source, Arc::new(clock.clone())).unwrap();
        let added = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&added);
        jwks.observe(move |id| log.lock().unwrap().push(id.to_owned()));
        let policy = IssuerPolicy::new(&*origin, ["llmrtc".to_owned()]);
        let algorithms = [PublicAlgorithm::EdDsa, PublicAlgorithm::Es256];
        let verifier = Verifier::published(policy, &algorithms, Arc::new(jwks)).unwrap();
        Self {
            fake,
            origin,
            clock,
            verifier,
            added,
        }
    }

    fn publish(&self, keys: &[Value]) {
        self.fake.answer.lock().unwrap().body = json!({"keys": keys}).to_string();
    }

    fn asked(&self) -> usize {
        self.fake.asked.load(Ordering::SeqCst)
    }

    fn now(&self) -> SystemTime {
        self.clock.wall()
    }

    fn token(&self, id: &str, pair: &KeyPair) -> Secret {
        let pem = Secret::new(pair.serialize_pem());
        let algorithm = PublicAlgorithm::EdDsa;
        let minter = Minter::private(algorithm, &pem, &*self.origin, "llmrtc").unwrap();
        let request = MintRequest::new("ann", Duration::from_secs(600));
        let minter = minter.key_id(Some(id.to_owned()));
        minter.mint(&request, self.now()).unwrap()
    }

    async fn verify(&self, token: &Secret) -> Result<(), JwtError> {
        let verified = self.verifier.verify(token.expose(), self.now()).await;
        verified.map(drop)
    }
}

async fn keys(Shared(fake): Shared<Fake>) -> impl IntoResponse {
    fake.asked.fetch_add(1, Ordering::SeqCst);
    let answer = fake.answer.lock().unwrap();
    let cache = [("cache-control", answer.cache)];
    (answer.status, cache, answer.body.clone())
}

fn pair() -> KeyPair {
    KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap()
}

fn jwk(id: &str, pair: &KeyPair) -> Value {
    let key = DecodingKey::from_ed_pem(pair.public_key_pem().as_bytes()).unwrap();
    let x = URL_SAFE_NO_PAD.encode(key.try_get_as_bytes().unwrap());
    json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": id, "x": x})
}

#[tokio::test]
async fn b3_one_fetch_serves_everybody_until_it_is_stale() {
    let bench = Bench::new().await;
    let pair = pair();
    bench.publish(&[jwk("1", &pair)]);
    let token = bench.token("1", &pair);
    let crowd = join_all((0..50).map(|_| bench.verify(&token))).await;
    assert_eq!(crowd, vec![Ok(()); 50]);
    assert_eq!(bench.asked(), 1);
    bench.clock.advance(Duration::from_secs(599));
    assert_eq!(bench.verify(&token).await, Ok(()));
    assert_eq!(bench.asked(), 1);
    bench.clock.advance(Duration::from_secs(1));
    assert_eq!(bench.verify(&bench.token("1", &pair)).await, Ok(()));
    assert_eq!(bench.asked(), 2);
}

#[tokio::test]
async fn b3_a_hundred_made_up_keys_are_one_fetch() {
    let bench = Bench::new().await;
    let (pair, evil) = (pair(), pair());
    bench.publish(&[jwk("1", &pair)]);
    assert_eq!(bench.verify(&bench.token("1", &pair)).await, Ok(()));
    bench.clock.advance(COOL_DOWN);
    let tokens: Vec<Secret> = (0..100)
        .map(|index| bench.token(&format!("made-up-{index}"), &evil))
        .collect();
    let crowd = join_all(tokens.iter().map(|token| bench.verify(token))).await;
    assert_eq!(crowd, vec![Err(JwtError::UnknownKey); 100]);
    assert_eq!(bench.asked(), 2);
    bench.clock.advance(COOL_DOWN - Duration::from_millis(1));
    assert!(bench.verify(&tokens[0]).await.is_err());
    assert_eq!(bench.asked(), 2);
    // A token that could not be good whatever the keys are asks for none.
    bench.clock.advance(COOL_DOWN);
    let secret = Secret::new("x".repeat(32));
    let minter = Minter::shared(HmacAlgorithm::Hs256, &secret, &*bench.origin, "llmrtc").unwrap();
    let request = MintRequest::new("ann", Duration::from_secs(600));
    let token = minter.mint(&request, bench.now()).unwrap();
    assert_eq!(bench.verify(&token).await, Err(JwtError::Algorithm));
    assert_eq!(bench.asked(), 2);
}

#[tokio::test]
async fn b3_rotation_with_overlap_loses_no_request() {
    let bench = Bench::new().await;
    let (old, new) = (pair(), pair());
    bench.publish(&[jwk("1", &old)]);
    let before = bench.token("1", &old);
    assert_eq!(bench.verify(&before).await, Ok(()));
    bench.clock.advance(Duration::from_secs(60));
    bench.publish(&[jwk("1", &old), jwk("2", &new)]);
    let after = bench.token("2", &new);
    let crowd = (0..40).map(|index| bench.verify(if index % 2 == 0 { &before } else { &after }));
    assert_eq!(join_all(crowd).await, vec![Ok(()); 40]);
    assert_eq!(bench.asked(), 2);
    assert_eq!(*bench.added.lock().unwrap(), ["2"]);
    // The old key goes, and with it what it signed, once the cache is renewed.
    bench.publish(&[jwk("2", &new)]);
    bench.clock.advance(Duration::from_secs(600));
    let late = bench.token("1", &old);
    assert_eq!(bench.verify(&late).await, Err(JwtError::UnknownKey));
    assert_eq!(bench.verify(&bench.token("2", &new)).await, Ok(()));
    assert_eq!(*bench.added.lock().unwrap(), ["2"], "less is nothing new");
}

#[tokio::test]
async fn b3_known_keys_outlive_a_silent_issuer_for_a_while() {
    let bench = Bench::new().await;
    let pair = pair();
    let answer = |change: fn(&mut Answer)| change(&mut bench.fake.answer.lock().unwrap());
    let verify = async || bench.verify(&bench.token("1", &pair)).await;
    answer(|answer| answer.status = StatusCode::INTERNAL_SERVER_ERROR);
    bench.publish(&[jwk("1", &pair)]);
    assert_eq!(verify().await, Err(JwtError::KeysUnavailable));
    answer(|answer| answer.status = StatusCode::OK);
    assert_eq!(
        verify().await,
        Err(JwtError::KeysUnavailable),
        "the issuer is left alone"
    );
    bench.clock.advance(COOL_DOWN);
    assert_eq!(verify().await, Ok(()));
    answer(|answer| answer.status = StatusCode::SERVICE_UNAVAILABLE);
    bench
        .clock
        .advance(Duration::from_secs(600) + MAX_STALE - Duration::from_millis(1));
    assert_eq!(verify().await, Ok(()));
    bench.clock.advance(COOL_DOWN);
    assert_eq!(verify().await, Err(JwtError::KeysUnavailable));
    answer(|answer| answer.status = StatusCode::OK);
    bench.clock.advance(COOL_DOWN);
    assert_eq!(verify().await, Ok(()));
}

#[tokio::test]
async fn b3_bad_answers_replace_nothing() {
    let bench = Bench::new().await;
    let pair = pair();
    let good = json!({"keys": [jwk("1", &pair)]}).to_string();
    let padding = " ".repeat(MAX_BODY_BYTES + 1 - good.len());
    let bad = [
        String::new(),
        "x".into(),
        "[]".into(),
        "{}".into(),
        r#"{"keys":{}}"#.into(),
        r#"{"keys":[]}"#.into(),
        r#"{"keys":[],"keys":[]}"#.into(),
        format!("{good}{padding}"),
        json!({"keys": vec![jwk("1", &pair); 65]}).to_string(),
    ];
    for body in bad {
        bench.fake.answer.lock().unwrap().body = body;
        bench.clock.advance(COOL_DOWN);
        let outcome = bench.verify(&bench.token("1", &pair)).await;
        assert_eq!(outcome, Err(JwtError::KeysUnavailable));
    }
    // Of another issuer, or elsewhere.
    bench.fake.answer.lock().unwrap().body = format!("{good}{}", &padding[1..]);
    bench.fake.answer.lock().unwrap().issuer = Some("https://evil.example".into());
    bench.clock.advance(COOL_DOWN);
    let outcome = bench.verify(&bench.token("1", &pair)).await;
    assert_eq!(outcome, Err(JwtError::KeysUnavailable));
    bench.fake.answer.lock().unwrap().issuer = None;
    bench.fake.answer.lock().unwrap().status = StatusCode::FOUND;
    bench.clock.advance(COOL_DOWN);
    let outcome = bench.verify(&bench.token("1", &pair)).await;
    assert_eq!(outcome, Err(JwtError::KeysUnavailable));
    bench.fake.answer.lock().unwrap().status = StatusCode::OK;
    bench.clock.advance(COOL_DOWN);
    assert_eq!(bench.verify(&bench.token("1", &pair)).await, Ok(()));
}

#[tokio::test]
async fn b3_a_fetch_goes_on_when_its_caller_leaves() {
    let bench = Bench::new().await;
    let pair = pair();
    bench.publish(&[jwk("1", &pair)]);
    let token = bench.token("1", &pair);
    let mut verify = Box::pin(bench.verify(&token));
    // Polled once: the fetch has begun.
    assert!(futures_util::poll!(&mut verify).is_pending());
    drop(verify);
    assert_eq!(bench.verify(&token).await, Ok(()));
    assert_eq!(bench.asked(), 1);
}

/// Which of these the document leaves for verifying.
#[test]
fn b3_only_keys_for_verifying_count() {
    let pair = pair();
    let p256 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let point = DecodingKey::from_ec_pem(p256.public_key_pem().as_bytes()).unwrap();
    let point = point.try_get_as_bytes().unwrap();
    let b64 = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let good = jwk("1", &pair);
    let ec = json!({"kty": "EC", "crv": "P-256", "x": b64(&point[1..33]), "y": b64(&point[33..])});
    let modulus = |bytes: usize| b64(&vec![0xff; bytes]);
    let rsa = json!({"kty": "RSA", "n": modulus(256), "e": "AQAB"});
    let with = |base: &Value, name: &str, value: Value| {
        let mut jwk = base.clone();
        jwk[name] = value;
        jwk
    };
    let padded: Vec<u8> = [vec![0; 128], vec![0xff; 128]].concat();
    let cases = [
        (good.clone(), true),
        (ec.clone(), true),
        (rsa.clone(), true),
        (with(&rsa, "alg", "PS256".into()), true),
        (with(&good, "alg", "Ed25519".into()), true),
        (with(&good, "key_ops", json!(["verify"])), true),
        (with(&good, "use", "enc".into()), false),
        (with(&good, "use", "SIG".into()), false),
        (with(&good, "use", 1.into()), false),
        (with(&good, "key_ops", json!(["sign"])), false),
        (with(&good, "key_ops", json!([])), false),
        (with(&good, "key_ops", "verify".into()), false),
        (with(&good, "alg", "ES256".into()), false),
        (with(&good, "alg", "HS256".into()), false),
        (with(&good, "alg", "none".into()), false),
        (with(&good, "kid", 1.into()), false),
        (with(&good, "d", "AA".into()), false),
        (with(&good, "x", "AA".into()), false),
        (with(&good, "crv", "X25519".into()), false),
        (with(&good, "crv", "Ed448".into()), false),
        (with(&ec, "crv", "P-521".into()), false),
        (with(&ec, "crv", "secp256k1".into()), false),
        (with(&ec, "crv", "P-384".into()), false),
        (with(&ec, "y", "AA".into()), false),
        (with(&rsa, "n", modulus(255).into()), false),
        (with(&rsa, "n", b64(&padded).into()), false),
        (with(&rsa, "n", "".into()), false),
        (with(&rsa, "crv", "P-256".into()), false),
        (with(&rsa, "e", Value::Null), false),
        (
            json!({"kty": "oct", "k": modulus(32), "alg": "HS256"}),
            false,
        ),
        (json!({"kty": "oct", "k": modulus(32)}), false),
        (json!({"kty": "AKP"}), false),
        (json!({}), false),
        (json!("x"), false),
    ];
    for (jwk, usable) in cases {
        let body = json!({"keys": [jwk.clone()]}).to_string();
        let keys = document::keys(body.as_bytes()).unwrap();
        assert_eq!(keys.len(), usize::from(usable), "{jwk}");
    }
}

#[test]
fn b3_keys_come_over_tls_or_from_this_machine() {
    let cases = [
        ("https://issuer.example", Ok(())),
        ("https://issuer.example/tenant/", Ok(())),
        ("http://127.0.0.1:8080", Ok(())),
        ("http://localhost:8080", Ok(())),
        ("http://[::1]:8080", Ok(())),
        ("http://issuer.example", Err(JwksError::Insecure)),
        ("http://localhost.evil.example", Err(JwksError::Insecure)),
        ("http://127.0.0.1.evil.example", Err(JwksError::Insecure)),
        ("ftp://issuer.example", Err(JwksError::Insecure)),
        ("issuer", Err(JwksError::Url)),
        ("file:///etc/keys", Err(JwksError::Url)),
    ];
    for (url, expected) in cases {
        assert_eq!(JwksSource::url(url).map(drop), expected, "{url}");
        assert_eq!(JwksSource::discover(url).map(drop), expected, "{url}");
    }
}
