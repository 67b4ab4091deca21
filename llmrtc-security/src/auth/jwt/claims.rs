//! The claims of a token whose signature is genuine, against the rules of its issuer.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::Deserialize as _;
use serde_json::{Map, Value};

use super::{JwtError, compact::Compact};
use crate::auth::{
    grants::Grants,
    principal::{Credential, Method, Principal},
};

/// Most clock difference between us and an issuer.
pub const MAX_LEEWAY: Duration = Duration::from_secs(60);

/// Longest subject and identifier, in bytes (OpenID Connect Core §2 gives 255 for `sub`).
const MAX_NAME_BYTES: usize = 255;

/// Latest date that a claim may name, 9999-12-31: later ones are no dates but attacks on arithmetic.
const MAX_DATE: u64 = 253_402_300_799;

/// The rules of one issuer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct IssuerPolicy {
    /// `iss`, compared exactly.
    pub issuer: Arc<str>,
    /// We, as the issuer calls us. One of them must be in `aud`.
    pub audience: Vec<String>,
    /// How far the clocks may differ. At most [`MAX_LEEWAY`]. 30 s.
    pub leeway: Duration,
    /// Longest time between `iat` (now, if absent) and `exp`. 24 h.
    pub max_lifetime: Duration,
    /// Accepted values of the header's `typ`, upper or lower case, with or without `application/`. `at+jwt` (RFC 9068)
    /// and `JWT`. Keeps an ID token, a logout token or a DPoP proof from passing for an access token.
    pub types: Vec<String>,
    /// Whether `typ` may be absent, for issuers that send none.
    pub allow_missing_type: bool,
    /// Whose customers the callers are.
    pub tenant: TenantSource,
    /// The claim that holds [`Grants`].
    pub grants_claim: String,
    /// What a token without that claim grants.
    pub default_grants: Arc<Grants>,
}

/// Where the tenant of a caller comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TenantSource {
    /// There are none.
    #[default]
    None,
    /// Every caller of this issuer has the same. With several issuers each needs its own, or `ann` of the one would be
    /// `ann` of the other.
    Fixed(Arc<str>),
    /// A claim, which must then be there.
    Claim(String),
}

impl IssuerPolicy {
    /// The defaults above for this issuer and audience.
    pub fn new(issuer: impl Into<Arc<str>>, audience: impl IntoIterator<Item = String>) -> Self {
        Self {
            issuer: issuer.into(),
            audience: audience.into_iter().collect(),
            leeway: Duration::from_secs(30),
            max_lifetime: Duration::from_secs(24 * 60 * 60),
            types: vec!["at+jwt".into(), "JWT".into()],
            allow_missing_type: false,
            tenant: TenantSource::None,
            grants_claim: "grants".into(),
            default_grants: Arc::default(),
        }
    }

    /// What the header says beside the algorithm. `jku`, `x5u`, `jwk` and `x5c` are not looked at: a token does not choose
    /// the key it is verified with.
    pub(super) fn check_header(&self, token: &Compact<'_>) -> Result<(), JwtError> {
        // We understand no extension, so one that must be understood ends it. `b64` changes what is signed (RFC 7797).
        if token.header.contains_key("crit") || token.header.contains_key("b64") {
            return Err(JwtError::Critical);
        }
        match token.header.get("typ") {
            None if self.allow_missing_type => Ok(()),
            Some(Value::String(found)) => {
                let media_type = |text: &str| {
                    let text = text.to_ascii_lowercase();
                    text.strip_prefix("application/")
                        .map_or(text.clone(), str::to_owned)
                };
                let found = media_type(found);
                let accepted = self.types.iter().any(|one| media_type(one) == found);
                accepted.then_some(()).ok_or(JwtError::Type)
            }
            _ => Err(JwtError::Type),
        }
    }

    /// Who it is, if every claim holds at `now`.
    pub(super) fn principal(
        &self,
        claims: &Map<String, Value>,
        now: SystemTime,
    ) -> Result<Principal, JwtError> {
        let now = now
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let leeway = self.leeway.min(MAX_LEEWAY).as_secs();
        let expires = date(claims, "exp")?.ok_or(JwtError::MissingClaim("exp"))?;
        let issued = date(claims, "iat")?;
        if now >= expires.saturating_add(leeway) {
            return Err(JwtError::Expired);
        }
        if date(claims, "nbf")?.is_some_and(|begin| begin > now.saturating_add(leeway)) {
            return Err(JwtError::NotYetValid);
        }
        if issued.is_some_and(|issued| issued > now.saturating_add(leeway)) {
            return Err(JwtError::IssuedInFuture);
        }
        let lifetime = expires.saturating_sub(issued.unwrap_or(now));
        if lifetime > self.max_lifetime.as_secs() {
            return Err(JwtError::LifetimeTooLong);
        }
        let issuer = name(claims, "iss", "iss")?.ok_or(JwtError::MissingClaim("iss"))?;
        if issuer != &*self.issuer {
            return Err(JwtError::Issuer);
        }
        self.check_audience(claims)?;
        let subject = name(claims, "sub", "sub")?.ok_or(JwtError::MissingClaim("sub"))?;
        let tenant = match &self.tenant {
            TenantSource::None => None,
            TenantSource::Fixed(tenant) => Some(tenant.clone()),
            TenantSource::Claim(claim) => {
                let tenant =
                    name(claims, claim, "tenant")?.ok_or(JwtError::MissingClaim("tenant"))?;
                Some(tenant.into())
            }
        };
        let grants = match claims.get(&self.grants_claim) {
            None => self.default_grants.clone(),
            // Not a list: members without names would have meanings by their place.
            Some(grants @ Value::Object(_)) => Grants::deserialize(grants)
                .map(Arc::new)
                .map_err(|_| JwtError::ClaimFormat("grants"))?,
            Some(_) => return Err(JwtError::ClaimFormat("grants")),
        };
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let credential = Credential {
            method: Method::Jwt,
            token_id: name(claims, "jti", "jti")?.map(Arc::from),
            issued_at: issued.map(at),
            expires_at: Some(at(expires)),
            ticket: None,
        };
        Ok(Principal::user(subject, tenant)
            .with_grants(grants)
            .with_credential(credential))
    }

    fn check_audience(&self, claims: &Map<String, Value>) -> Result<(), JwtError> {
        let is_us = |value: &Value| {
            let value = value.as_str().ok_or(JwtError::ClaimFormat("aud"))?;
            Ok(self.audience.iter().any(|own| own == value))
        };
        let found = match claims.get("aud") {
            None => return Err(JwtError::MissingClaim("aud")),
            Some(Value::Array(values)) => values
                .iter()
                .try_fold(false, |found, value| Ok(is_us(value)? | found))?,
            Some(value) => is_us(value)?,
        };
        found.then_some(()).ok_or(JwtError::Audience)
    }
}

/// A NumericDate. RFC 7519 allows fractions; nobody sends them but those who hope that we read them differently.
fn date(claims: &Map<String, Value>, claim: &'static str) -> Result<Option<u64>, JwtError> {
    match claims.get(claim) {
        None => Ok(None),
        Some(value) => value
            .as_u64()
            .filter(|seconds| *seconds <= MAX_DATE)
            .map(Some)
            .ok_or(JwtError::ClaimFormat(claim)),
    }
}

/// A text that ends up in keys and logs. `label` is the claim's name in errors.
fn name<'a>(
    claims: &'a Map<String, Value>,
    claim: &str,
    label: &'static str,
) -> Result<Option<&'a str>, JwtError> {
    match claims.get(claim) {
        None => Ok(None),
        Some(Value::String(text)) if is_name(text) => Ok(Some(text)),
        Some(_) => Err(JwtError::ClaimFormat(label)),
    }
}

/// Whether a text may be a subject, tenant, issuer or identifier.
pub(super) fn is_name(text: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&text.len()) && !text.chars().any(char::is_control)
}
