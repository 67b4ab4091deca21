//! Minting, for operators, backends and tests.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use jsonwebtoken::{AlgorithmFamily, EncodingKey, Header};
use llmrtc_core::redact::Secret;
use serde_json::{Map, Value, json};

use super::{
    claims::is_name,
    key::{HmacAlgorithm, KeyError, PublicAlgorithm},
};
use crate::auth::{digest::credential, grants::Grants};

/// Signs tokens of one issuer.
#[derive(Clone)]
pub struct Minter {
    header: Header,
    key: EncodingKey,
    issuer: String,
    audience: String,
}

impl fmt::Debug for Minter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Minter")
            .field("algorithm", &self.header.alg)
            .field("issuer", &self.issuer)
            .field("audience", &self.audience)
            .finish_non_exhaustive()
    }
}

/// A token was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MintError {
    /// The key does not sign: not a key of this algorithm after all.
    #[error("the key does not sign")]
    Key,
    /// A subject or tenant that no verifier accepts: empty, longer than 255 bytes, or with control characters.
    #[error("subject and tenant are 1 to 255 bytes without control characters")]
    Name,
    /// The token would end before it begins, or after the year 9999.
    #[error("the lifetime is no time")]
    Lifetime,
}

/// What a token says.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MintRequest {
    /// `sub`.
    pub subject: String,
    /// The claim `tenant`.
    pub tenant: Option<String>,
    /// From `iat` to `exp`.
    pub lifetime: Duration,
    /// The claim `grants`; absent if these are none.
    pub grants: Option<Grants>,
}

impl MintRequest {
    /// A token for this subject.
    pub fn new(subject: impl Into<String>, lifetime: Duration) -> Self {
        Self {
            subject: subject.into(),
            tenant: None,
            lifetime,
            grants: None,
        }
    }

    /// Of this tenant.
    #[must_use]
    pub fn tenant(mut self, tenant: Option<String>) -> Self {
        self.tenant = tenant;
        self
    }

    /// With these grants.
    #[must_use]
    pub fn grants(mut self, grants: Option<Grants>) -> Self {
        self.grants = grants;
        self
    }
}

impl Minter {
    /// Signs with a shared secret.
    ///
    /// # Errors
    /// When the secret is too short.
    pub fn shared(
        algorithm: HmacAlgorithm,
        secret: &Secret,
        issuer: impl Into<String>,
        audience: impl Into<String>,
    ) -> Result<Self, KeyError> {
        let bytes = secret.expose().as_bytes();
        let (found, needed) = (bytes.len(), algorithm.min_secret_bytes());
        if found < needed {
            return Err(KeyError::ShortSecret { found, needed });
        }
        let key = EncodingKey::from_secret(bytes);
        Ok(Self::new(
            algorithm.raw(),
            key,
            issuer.into(),
            audience.into(),
        ))
    }

    /// Signs with a private key, as PEM (`PRIVATE KEY`, that is PKCS #8; for RSA also `RSA PRIVATE KEY`).
    ///
    /// # Errors
    /// When it is no such key.
    pub fn private(
        algorithm: PublicAlgorithm,
        pem: &Secret,
        issuer: impl Into<String>,
        audience: impl Into<String>,
    ) -> Result<Self, KeyError> {
        let bytes = pem.expose().as_bytes();
        let key = match algorithm.raw().family() {
            AlgorithmFamily::Rsa => EncodingKey::from_rsa_pem(bytes),
            AlgorithmFamily::Ec => EncodingKey::from_ec_pem(bytes),
            _ => EncodingKey::from_ed_pem(bytes),
        };
        let bad = KeyError::NotAKey(algorithm.name());
        let minter = Self::new(
            algorithm.raw(),
            key.map_err(|_| bad)?,
            issuer.into(),
            audience.into(),
        );
        // The key is read when it signs, so it shows only then what it is.
        jsonwebtoken::crypto::sign(b"", &minter.key, minter.header.alg).map_err(|_| bad)?;
        Ok(minter)
    }

    fn new(
        algorithm: jsonwebtoken::Algorithm,
        key: EncodingKey,
        issuer: String,
        audience: String,
    ) -> Self {
        let mut header = Header::new(algorithm);
        header.typ = Some("at+jwt".into());
        Self {
            header,
            key,
            issuer,
            audience,
        }
    }

    /// Names the key in the header.
    #[must_use]
    pub fn key_id(mut self, key_id: Option<String>) -> Self {
        self.header.kid = key_id;
        self
    }

    /// Makes a token that is valid from `now` on, with a random `jti`.
    ///
    /// # Errors
    /// When the key does not sign or the lifetime makes no sense.
    pub fn mint(&self, request: &MintRequest, now: SystemTime) -> Result<Secret, MintError> {
        let names = [Some(&request.subject), request.tenant.as_ref()];
        if !names.into_iter().flatten().all(|name| is_name(name)) {
            return Err(MintError::Name);
        }
        let seconds = |at: SystemTime| at.duration_since(UNIX_EPOCH).map(|since| since.as_secs());
        let issued = seconds(now).map_err(|_| MintError::Lifetime)?;
        let expires = now
            .checked_add(request.lifetime)
            .and_then(|end| seconds(end).ok())
            .filter(|end| *end > issued)
            .ok_or(MintError::Lifetime)?;
        let mut claims = Map::new();
        let mut claim = |name: &str, value: Value| {
            claims.insert(name.to_owned(), value);
        };
        claim("iss", json!(self.issuer));
        claim("aud", json!(self.audience));
        claim("sub", json!(request.subject));
        claim("iat", json!(issued));
        claim("nbf", json!(issued));
        claim("exp", json!(expires));
        claim("jti", json!(credential().0.expose()));
        if let Some(tenant) = &request.tenant {
            claim("tenant", json!(tenant));
        }
        if let Some(grants) = &request.grants {
            claim("grants", json!(grants));
        }
        jsonwebtoken::encode(&self.header, &claims, &self.key)
            .map(Secret::new)
            .map_err(|_| MintError::Key)
    }
}
