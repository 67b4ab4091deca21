//! The compact serialization (RFC 7515 §7.1), taken apart strictly and before any key is touched.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

use super::{JwtError, json};

/// Longest token. It has to fit into a header line; ours are below one.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// Longest header. Ours have three members; certificate chains, which make them long, are not looked at.
const MAX_HEADER_BYTES: usize = 4 * 1024;

/// A token whose form is right. Nothing in it is verified.
pub(super) struct Compact<'a> {
    pub(super) header: Map<String, Value>,
    pub(super) claims: Map<String, Value>,
    /// What the signature covers.
    pub(super) message: &'a str,
    /// Known to be base64url.
    pub(super) signature: &'a str,
}

impl<'a> Compact<'a> {
    pub(super) fn parse(token: &'a str) -> Result<Self, JwtError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(JwtError::TooLong);
        }
        let (message, signature) = token.rsplit_once('.').ok_or(JwtError::Malformed)?;
        let (header, claims) = message.split_once('.').ok_or(JwtError::Malformed)?;
        // A claim set with a dot in it is no base64url, so more parts than three end here.
        let header = decode(header)?;
        if header.len() > MAX_HEADER_BYTES {
            return Err(JwtError::TooLong);
        }
        decode(signature)?;
        Ok(Self {
            header: json::object(&header).ok_or(JwtError::Malformed)?,
            claims: json::object(&decode(claims)?).ok_or(JwtError::Malformed)?,
            message,
            signature,
        })
    }

    /// The key that the sender means. A hint, so anything but a text is an error instead of being ignored.
    pub(super) fn key_id(&self) -> Result<Option<&str>, JwtError> {
        match self.header.get("kid") {
            None => Ok(None),
            Some(Value::String(kid)) => Ok(Some(kid)),
            Some(_) => Err(JwtError::Malformed),
        }
    }

    /// The name of the algorithm. To be looked up in the issuer's list and nowhere else.
    pub(super) fn algorithm(&self) -> Result<&str, JwtError> {
        let name = self.header.get("alg").and_then(Value::as_str);
        name.ok_or(JwtError::Algorithm)
    }

    /// Who claims to have issued it. Good for choosing the rules to verify by, and for nothing else.
    pub(super) fn claimed_issuer(&self) -> Result<&str, JwtError> {
        let issuer = self
            .claims
            .get("iss")
            .ok_or(JwtError::MissingClaim("iss"))?;
        issuer.as_str().ok_or(JwtError::ClaimFormat("iss"))
    }
}

/// Base64url without padding, white space or loose bits: every value has exactly one spelling.
fn decode(text: &str) -> Result<Vec<u8>, JwtError> {
    URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|_| JwtError::Malformed)
}
