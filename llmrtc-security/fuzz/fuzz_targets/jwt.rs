//! No bytes are a token but the one that was signed (B2).
#![no_main]

use std::{
    sync::LazyLock,
    time::{Duration, SystemTime},
};

use futures_util::FutureExt;
use libfuzzer_sys::fuzz_target;
use llmrtc_core::redact::Secret;
use llmrtc_security::auth::jwt::{
    HmacAlgorithm, IssuerPolicy, MintRequest, Minter, SharedSecrets, Unverified, Verifier,
};

static GENUINE: LazyLock<(String, Verifier)> = LazyLock::new(|| {
    let secret = Secret::new("a secret of the fuzzer's, 32 bytes long");
    let algorithm = HmacAlgorithm::Hs256;
    let minter =
        Minter::shared(algorithm, &secret, "https://id.example", "llmrtc").expect("long enough");
    let request = MintRequest::new("ann", Duration::from_secs(3_600));
    let token = minter.mint(&request, SystemTime::now()).expect("a subject");
    let policy = IssuerPolicy::new("https://id.example", ["llmrtc".to_owned()]);
    let secrets = SharedSecrets::new(&[algorithm], &secret, None).expect("long enough");
    (token.expose().to_owned(), Verifier::shared(policy, secrets))
});

fn accepted(token: &str) -> bool {
    let (_, verifier) = &*GENUINE;
    let result = verifier.verify(token, SystemTime::now()).now_or_never();
    result.expect("a shared secret is at hand").is_ok()
}

fuzz_target!(|data: &[u8]| {
    // As it is.
    if let Ok(token) = std::str::from_utf8(data) {
        let _ = Unverified::parse(token);
        assert!(!accepted(token), "forged: {token}");
    }
    // As changes to the genuine one: pairs of place and value.
    let mut token = GENUINE.0.clone().into_bytes();
    for change in data.chunks_exact(3) {
        let at = usize::from(u16::from_be_bytes([change[0], change[1]])) % token.len();
        token[at] = change[2];
    }
    if let Ok(token) = String::from_utf8(token) {
        assert_eq!(accepted(&token), token == GENUINE.0, "{token}");
    }
});
