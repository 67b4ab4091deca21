//! JSON Web Tokens (B2): who signed them decides what they mean.
//!
//! A [`Verifier`] is bound to one issuer: its name, its keys, its algorithms, its audience. What the token says about
//! algorithms and keys is compared with that and never followed. On top of the cryptography of `jsonwebtoken` come the
//! checks that RFC 8725 and the CVEs of the last decade ask for:
//!
//! | Attack | Ends at |
//! | --- | --- |
//! | `alg: none`, in any spelling | the issuer's list |
//! | HS256 with the public key as the secret | [`SharedSecrets`] and [`PublicKey`] being different types |
//! | blank or short secret, short RSA key | [`KeyError`] when the verifier is built |
//! | `jku`, `x5u`, `jwk`, `x5c` with the attacker's key | nobody looking at them |
//! | `crit`, `b64` | [`JwtError::Critical`] |
//! | ID, logout or DPoP token used as an access token | `typ` |
//! | token for another service, or of another issuer | `aud`, `iss` |
//! | `exp` as a text, a fraction or a huge number | dates are integers up to the year 9999 |
//! | a member twice, for a second parser | duplicates are errors at every depth |
//! | loose base64, padding, white space | one spelling per value |
//! | huge token | [`MAX_TOKEN_BYTES`] |
//!
//! Clients see one answer for all of them; [`JwtError::code`] goes to the audit log.

mod claims;
mod compact;
mod json;
#[cfg(feature = "jwks")]
pub mod jwks;
mod key;
mod mint;
#[cfg(test)]
mod tests;

use std::time::SystemTime;

use serde_json::{Map, Value};

use self::compact::Compact;
pub use self::{
    claims::{IssuerPolicy, MAX_LEEWAY, TenantSource},
    compact::MAX_TOKEN_BYTES,
    key::{HmacAlgorithm, KeyError, MAX_KEYS, PublicAlgorithm, PublicKey, SharedSecrets},
    mint::{MintError, MintRequest, Minter},
};
use super::principal::Principal;

/// Why a token is refused. For the audit log; clients are told the same for every reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JwtError {
    /// Longer than [`MAX_TOKEN_BYTES`].
    #[error("token too long")]
    TooLong,
    /// Not three parts of strict base64url with JSON objects in which nothing comes twice.
    #[error("malformed token")]
    Malformed,
    /// Not an algorithm of this issuer.
    #[error("algorithm not allowed")]
    Algorithm,
    /// Not the type of an access token.
    #[error("wrong token type")]
    Type,
    /// It asks for an extension to be understood.
    #[error("critical extension")]
    Critical,
    /// Of an issuer that is not configured.
    #[error("unknown issuer")]
    Issuer,
    /// For somebody else.
    #[error("wrong audience")]
    Audience,
    /// It names a key that the issuer does not have.
    #[error("unknown key")]
    UnknownKey,
    /// The issuer's keys are out of reach.
    #[error("keys unavailable")]
    KeysUnavailable,
    /// Signed by somebody else.
    #[error("wrong signature")]
    Signature,
    /// A claim is absent.
    #[error("claim {0} is missing")]
    MissingClaim(&'static str),
    /// A claim has the wrong type or form.
    #[error("claim {0} is malformed")]
    ClaimFormat(&'static str),
    /// `exp` has passed.
    #[error("token expired")]
    Expired,
    /// `nbf` has not come.
    #[error("token not yet valid")]
    NotYetValid,
    /// `iat` has not come.
    #[error("token issued in the future")]
    IssuedInFuture,
    /// Valid for longer than the issuer's tokens may be.
    #[error("lifetime too long")]
    LifetimeTooLong,
}

impl JwtError {
    /// The name in the audit log and the metrics.
    pub const fn code(self) -> &'static str {
        match self {
            Self::TooLong => "jwt_too_long",
            Self::Malformed => "jwt_malformed",
            Self::Algorithm => "jwt_algorithm",
            Self::Type => "jwt_type",
            Self::Critical => "jwt_critical",
            Self::Issuer => "jwt_issuer",
            Self::Audience => "jwt_audience",
            Self::UnknownKey => "jwt_unknown_key",
            Self::KeysUnavailable => "jwt_keys_unavailable",
            Self::Signature => "jwt_signature",
            Self::MissingClaim(_) => "jwt_claim_missing",
            Self::ClaimFormat(_) => "jwt_claim_format",
            Self::Expired => "jwt_expired",
            Self::NotYetValid => "jwt_not_yet_valid",
            Self::IssuedInFuture => "jwt_issued_in_future",
            Self::LifetimeTooLong => "jwt_lifetime",
        }
    }
}

/// Verifies the tokens of one issuer.
#[derive(Debug)]
pub struct Verifier {
    policy: IssuerPolicy,
    keys: Keys,
}

#[derive(Debug)]
enum Keys {
    Shared(SharedSecrets),
    Public(Vec<PublicKey>),
    #[cfg(feature = "jwks")]
    Published {
        jwks: std::sync::Arc<jwks::Jwks>,
        algorithms: Vec<PublicAlgorithm>,
    },
}

impl Verifier {
    /// An issuer that shares a secret with us.
    pub fn shared(policy: IssuerPolicy, secrets: SharedSecrets) -> Self {
        Self {
            policy,
            keys: Keys::Shared(secrets),
        }
    }

    /// An issuer whose public keys we were given.
    ///
    /// # Errors
    /// When there are none or more than [`MAX_KEYS`].
    pub fn public(policy: IssuerPolicy, keys: Vec<PublicKey>) -> Result<Self, KeyError> {
        match keys.len() {
            0 => Err(KeyError::Empty("key")),
            1..=MAX_KEYS => Ok(Self {
                policy,
                keys: Keys::Public(keys),
            }),
            _ => Err(KeyError::TooMany),
        }
    }

    /// An issuer that publishes its keys.
    ///
    /// # Errors
    /// When no algorithm is allowed.
    #[cfg(feature = "jwks")]
    pub fn published(
        policy: IssuerPolicy,
        algorithms: &[PublicAlgorithm],
        jwks: std::sync::Arc<jwks::Jwks>,
    ) -> Result<Self, KeyError> {
        if algorithms.is_empty() {
            return Err(KeyError::Empty("algorithm"));
        }
        Ok(Self {
            policy,
            keys: Keys::Published {
                jwks,
                algorithms: algorithms.to_vec(),
            },
        })
    }

    /// Whose tokens it verifies.
    pub fn issuer(&self) -> &str {
        &self.policy.issuer
    }

    /// Who the token speaks for at `now`.
    ///
    /// # Errors
    /// When it speaks for nobody.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn verify(&self, token: &str, now: SystemTime) -> Result<Principal, JwtError> {
        self.verify_parsed(&Compact::parse(token)?, now).await
    }

    async fn verify_parsed(
        &self,
        token: &Compact<'_>,
        now: SystemTime,
    ) -> Result<Principal, JwtError> {
        // What costs nothing comes first, so that a token of another kind fetches no keys.
        self.policy.check_header(token)?;
        if token.claimed_issuer()? != self.issuer() {
            return Err(JwtError::Issuer);
        }
        match &self.keys {
            Keys::Shared(secrets) => secrets.verify(token)?,
            Keys::Public(keys) => key::verify_public(token, keys, None)?,
            #[cfg(feature = "jwks")]
            Keys::Published { jwks, algorithms } => {
                // An algorithm that is not ours must not fetch keys either.
                key::public_algorithm(token, Some(algorithms))?;
                let keys = jwks.keys(token.key_id()?).await?;
                key::verify_public(token, &keys, Some(algorithms))?;
            }
        }
        self.policy.principal(&token.claims, now)
    }
}

/// Verifies the tokens of several issuers, each by its own rules.
#[derive(Debug, Default)]
pub struct Verifiers(Vec<Verifier>);

impl Verifiers {
    /// These issuers. Of two with one name, the first counts.
    pub fn new(verifiers: impl IntoIterator<Item = Verifier>) -> Self {
        Self(verifiers.into_iter().collect())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Who the token speaks for at `now`.
    ///
    /// # Errors
    /// When it speaks for nobody.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn verify(&self, token: &str, now: SystemTime) -> Result<Principal, JwtError> {
        let token = Compact::parse(token)?;
        let issuer = token.claimed_issuer()?;
        let verifier = self.0.iter().find(|verifier| verifier.issuer() == issuer);
        verifier
            .ok_or(JwtError::Issuer)?
            .verify_parsed(&token, now)
            .await
    }
}

/// A token taken apart. Nothing in it is verified: good for showing to its owner, and for nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unverified {
    /// The header.
    pub header: Map<String, Value>,
    /// The claims.
    pub claims: Map<String, Value>,
}

impl Unverified {
    /// Takes a token apart, as strictly as a verifier.
    ///
    /// # Errors
    /// When its form is wrong.
    pub fn parse(token: &str) -> Result<Self, JwtError> {
        let Compact { header, claims, .. } = Compact::parse(token)?;
        Ok(Self { header, claims })
    }
}
