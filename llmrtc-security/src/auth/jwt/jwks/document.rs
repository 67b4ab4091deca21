//! Reading what an issuer publishes (RFC 7517, RFC 7518 §6, RFC 8037).

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::DecodingKey;
use serde_json::{Map, Value};

use super::super::{
    json,
    key::{PublicAlgorithm, PublicKey, check_modulus},
};

/// Most keys of a document. Issuers publish two to five.
const MAX_PUBLISHED_KEYS: usize = 64;

/// Where the keys are, by the issuer's own document, which must be about this very issuer.
pub(super) fn discovered(body: &[u8], issuer: &str) -> Result<String, &'static str> {
    let document = json::object(body).ok_or("the discovery document is not JSON")?;
    // OpenID Connect Discovery §4.3: another name is another issuer, and its keys are not ours.
    if document.get("issuer").and_then(Value::as_str) != Some(issuer) {
        return Err("the discovery document is about another issuer");
    }
    let url = document.get("jwks_uri").and_then(Value::as_str);
    url.map(str::to_owned)
        .ok_or("the discovery document has no jwks_uri")
}

/// The keys that verify signatures. Others are passed over: a document may serve more than us.
pub(super) fn keys(body: &[u8]) -> Result<Vec<PublicKey>, &'static str> {
    let document = json::object(body).ok_or("the key document is not JSON")?;
    let keys = document
        .get("keys")
        .and_then(Value::as_array)
        .ok_or("the key document has no keys")?;
    if keys.len() > MAX_PUBLISHED_KEYS {
        return Err("the key document has too many keys");
    }
    let objects = keys.iter().filter_map(Value::as_object);
    Ok(objects.filter_map(|jwk| key(&Jwk(jwk))).collect())
}

struct Jwk<'a>(&'a Map<String, Value>);

impl<'a> Jwk<'a> {
    /// A member that must be a text if it is there.
    fn text(&self, name: &str) -> Option<Option<&'a str>> {
        match self.0.get(name) {
            None => Some(None),
            Some(Value::String(text)) => Some(Some(text)),
            Some(_) => None,
        }
    }

    fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        URL_SAFE_NO_PAD.decode(self.text(name)??).ok()
    }

    fn is_for_verifying(&self) -> Option<bool> {
        let by_use = matches!(self.text("use")?, None | Some("sig"));
        let by_operations = match self.0.get("key_ops") {
            None => true,
            Some(Value::Array(operations)) => operations.contains(&"verify".into()),
            Some(_) => return None,
        };
        Some(by_use && by_operations)
    }
}

fn key(jwk: &Jwk<'_>) -> Option<PublicKey> {
    if !jwk.is_for_verifying()? {
        return None;
    }
    if jwk.0.contains_key("d") {
        tracing::error!("an issuer publishes a private key; it is not used");
        return None;
    }
    use PublicAlgorithm::{EdDsa, Es256, Es384, Ps256, Ps384, Ps512, Rs256, Rs384, Rs512};
    let (possible, key): (&[PublicAlgorithm], _) = match (jwk.text("kty")??, jwk.text("crv")?) {
        ("RSA", None) => {
            let (modulus, exponent) = (jwk.bytes("n")?, jwk.bytes("e")?);
            check_modulus(&modulus).ok()?;
            let key = DecodingKey::from_rsa_raw_components(&modulus, &exponent);
            (&[Rs256, Rs384, Rs512, Ps256, Ps384, Ps512], key)
        }
        ("EC", Some("P-256")) => (&[Es256], point(jwk, 32)?),
        ("EC", Some("P-384")) => (&[Es384], point(jwk, 48)?),
        ("OKP", Some("Ed25519")) => {
            let x = jwk.bytes("x").filter(|x| x.len() == 32)?;
            (&[EdDsa], DecodingKey::from_ed_der(&x))
        }
        _ => return None,
    };
    let algorithms = match jwk.text("alg")? {
        None => possible.to_vec(),
        // RFC 9864 gives Ed25519 a name of its own.
        Some("Ed25519") if possible == [EdDsa] => vec![EdDsa],
        Some(name) => {
            let named = PublicAlgorithm::from_name(name)?;
            possible.contains(&named).then(|| vec![named])?
        }
    };
    Some(PublicKey::from_parts(jwk.text("kid")?, algorithms, key))
}

fn point(jwk: &Jwk<'_>, coordinate: usize) -> Option<DecodingKey> {
    let fits = |bytes: &Vec<u8>| bytes.len() == coordinate;
    let (x, y) = (jwk.bytes("x").filter(fits)?, jwk.bytes("y").filter(fits)?);
    // Uncompressed (SEC 1 §2.3.3). Whether it is on the curve is checked where it is used.
    Some(DecodingKey::from_ec_der(&[&[4], &*x, &*y].concat()))
}
