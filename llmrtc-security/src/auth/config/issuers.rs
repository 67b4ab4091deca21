//! From issuer sections to verifiers.

use super::*;
use crate::auth::jwt::MAX_LEEWAY;
#[cfg(feature = "jwks")]
use crate::auth::jwt::jwks::{Jwks, JwksSource};

/// Longest lifetime that may be configured. What lives longer is no session but a password.
const MAX_LIFETIME: Duration = Duration::from_secs(31 * 24 * 60 * 60);

/// Most issuers. Each is a party that can name anybody.
const MAX_ISSUERS: usize = 16;

#[derive(Default)]
pub(super) struct Issuers {
    pub(super) verifiers: Vec<Verifier>,
    pub(super) secrets: Vec<(String, SharedSecrets)>,
    #[cfg(feature = "jwks")]
    pub(super) jwks: Vec<Arc<Jwks>>,
}

/// The algorithms of one issuer: of one kind, by construction.
enum Algorithms {
    Hmac(Vec<HmacAlgorithm>),
    Public(Vec<PublicAlgorithm>),
}

impl AuthConfig {
    pub(super) fn issuers(&self, parts: &Parts, mistakes: &mut Mistakes) -> Issuers {
        let mut issuers = Issuers::default();
        let several = self.issuers.len() > 1;
        if self.issuers.len() > MAX_ISSUERS {
            mistakes.add("issuers", format!("has more than {MAX_ISSUERS} entries"));
        }
        for (index, config) in self.issuers.iter().enumerate() {
            let path = format!("issuers[{index}]");
            let before = &self.issuers[..index];
            if before.iter().any(|other| other.issuer == config.issuer) {
                mistakes.add(format!("{path}.issuer"), "is there twice");
            }
            if several && config.tenant.is_none() {
                mistakes.add(
                    format!("{path}.tenant"),
                    "is needed: with several issuers, the same subject of two of them would be one caller",
                );
            }
            if config.tenant.is_some() && before.iter().any(|other| other.tenant == config.tenant) {
                mistakes.add(format!("{path}.tenant"), "belongs to another issuer");
            }
            config.build(&path, parts, &mut issuers, mistakes);
        }
        issuers
    }
}

impl IssuerConfig {
    fn build(&self, path: &str, parts: &Parts, issuers: &mut Issuers, mistakes: &mut Mistakes) {
        let policy = self.policy(path, mistakes);
        let Some(algorithms) = self.algorithms(path, mistakes) else {
            return;
        };
        if self.previous_secret.is_some() && self.secret.is_none() {
            mistakes.add(format!("{path}.previous_secret"), "needs secret");
        }
        #[cfg(feature = "jwks")]
        let jwks = self.jwks.as_deref();
        #[cfg(not(feature = "jwks"))]
        let (jwks, _) = (None::<&str>, parts);
        match (&self.secret, &*self.public_keys, jwks, algorithms) {
            (Some(secret), [], None, Algorithms::Hmac(algorithms)) => {
                match SharedSecrets::new(&algorithms, secret, self.previous_secret.as_ref()) {
                    Ok(secrets) => {
                        issuers.secrets.push((self.issuer.clone(), secrets.clone()));
                        issuers.verifiers.push(Verifier::shared(policy, secrets));
                    }
                    Err(error) => mistakes.add(format!("{path}.secret"), error),
                }
            }
            (None, [_, ..], None, Algorithms::Public(algorithms)) => {
                let keys = self.keys(path, &algorithms, mistakes);
                if keys.len() == self.public_keys.len() {
                    match Verifier::public(policy, keys) {
                        Ok(verifier) => issuers.verifiers.push(verifier),
                        Err(error) => mistakes.add(format!("{path}.public_keys"), error),
                    }
                }
            }
            #[cfg(feature = "jwks")]
            (None, [], Some(jwks), Algorithms::Public(algorithms)) => {
                let source = match jwks {
                    "discover" => JwksSource::discover(&self.issuer),
                    url => JwksSource::url(url),
                };
                let built = source
                    .and_then(|source| Jwks::new(source, parts.clock.clone()))
                    .map(Arc::new)
                    .map_err(|error| error.to_string())
                    .and_then(|jwks| {
                        issuers.jwks.push(jwks.clone());
                        Verifier::published(policy, &algorithms, jwks)
                            .map_err(|error| error.to_string())
                    });
                match built {
                    Ok(verifier) => issuers.verifiers.push(verifier),
                    Err(error) => mistakes.add(format!("{path}.jwks"), error),
                }
            }
            (Some(_), [], None, Algorithms::Public(_)) | (None, _, _, Algorithms::Hmac(_)) => {
                mistakes.add(
                    format!("{path}.algorithms"),
                    "HS256, HS384 and HS512 need secret; the others need public_keys or jwks",
                )
            }
            _ => mistakes.add(path, "needs exactly one of secret, public_keys and jwks"),
        }
    }

    fn policy(&self, path: &str, mistakes: &mut Mistakes) -> IssuerPolicy {
        let mut require = |holds: bool, field: &str, message: &str| {
            if !holds {
                mistakes.add(format!("{path}.{field}"), message);
            }
        };
        require(!self.issuer.is_empty(), "issuer", "is missing");
        let plain = self.issuer.starts_with("http://");
        require(
            !plain || is_loopback(&self.issuer),
            "issuer",
            "must be https outside of this machine",
        );
        let named = !self.audience.is_empty() && self.audience.iter().all(|one| !one.is_empty());
        require(
            named,
            "audience",
            "is missing: tokens for other services would be good here",
        );
        require(self.leeway <= MAX_LEEWAY, "leeway", "must not exceed 1m");
        let lifetime = Duration::from_secs(1)..=MAX_LIFETIME;
        require(
            lifetime.contains(&self.max_lifetime),
            "max_lifetime",
            "must be between 1s and 31days",
        );
        require(
            !self.types.is_empty() || self.allow_missing_type,
            "types",
            "is empty: no token would be good",
        );
        require(
            self.tenant.is_none() || self.tenant_claim.is_none(),
            "tenant",
            "and tenant_claim exclude each other",
        );
        let mut policy = IssuerPolicy::new(&*self.issuer, self.audience.iter().cloned());
        policy.leeway = self.leeway;
        policy.max_lifetime = self.max_lifetime;
        policy.types.clone_from(&self.types);
        policy.allow_missing_type = self.allow_missing_type;
        policy.tenant = match (&self.tenant, &self.tenant_claim) {
            (Some(tenant), _) => TenantSource::Fixed(tenant.as_str().into()),
            (None, Some(claim)) => TenantSource::Claim(claim.clone()),
            (None, None) => TenantSource::None,
        };
        policy.grants_claim.clone_from(&self.grants_claim);
        policy.default_grants = Arc::new(self.default_grants.clone());
        policy
    }

    fn algorithms(&self, path: &str, mistakes: &mut Mistakes) -> Option<Algorithms> {
        let path = format!("{path}.algorithms");
        let (mut hmac, mut public, mut known) = (Vec::new(), Vec::new(), true);
        for name in &self.algorithms {
            if let Some(algorithm) = HmacAlgorithm::from_name(name) {
                hmac.push(algorithm);
            } else if let Some(algorithm) = PublicAlgorithm::from_name(name) {
                public.push(algorithm);
            } else {
                known = false;
                mistakes.add(&*path, format!("does not know {name:?}"));
            }
        }
        match (&*hmac, &*public) {
            _ if !known => None,
            ([], []) => {
                mistakes.add(path, "is missing: the token must not choose it");
                None
            }
            ([_, ..], [_, ..]) => {
                mistakes.add(path, "mixes shared secrets with public keys");
                None
            }
            (_, []) => Some(Algorithms::Hmac(hmac)),
            _ => Some(Algorithms::Public(public)),
        }
    }

    fn keys(
        &self,
        path: &str,
        allowed: &[PublicAlgorithm],
        mistakes: &mut Mistakes,
    ) -> Vec<PublicKey> {
        let mut keys = Vec::new();
        for (index, config) in self.public_keys.iter().enumerate() {
            let path = format!("{path}.public_keys[{index}]");
            let algorithm = PublicAlgorithm::from_name(&config.algorithm)
                .filter(|algorithm| allowed.contains(algorithm));
            let Some(algorithm) = algorithm else {
                mistakes.add(
                    format!("{path}.algorithm"),
                    "is not in the issuer's algorithms",
                );
                continue;
            };
            match PublicKey::from_pem(algorithm, config.key_id.as_deref(), &config.pem) {
                Ok(key) => keys.push(key),
                Err(error) => mistakes.add(format!("{path}.pem"), error),
            }
        }
        keys
    }
}

fn is_loopback(url: &str) -> bool {
    use url::{Host, Url};
    let url = Url::parse(url).ok();
    match url.as_ref().and_then(Url::host) {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}
