use std::time::Duration;

use llmrtc_core::{duration, redact::Secret};
use serde::Deserialize;
use validator::{Validate, ValidationError};

use super::{Chain, Fingerprinter, Managers, Observer, RotationOptions, SecretError};

/// The secrets section of the configuration.
#[derive(Clone, Debug, Deserialize, Validate)]
#[serde(default, deny_unknown_fields)]
#[validate(schema(function = "durations_are_sensible"))]
pub struct SecretsConfig {
    /// How often sources are asked, 1 s–1 h.
    #[serde(with = "duration")]
    pub poll: Duration,
    /// How long a replaced value is kept, at most a week.
    #[serde(with = "duration")]
    pub grace: Duration,
    /// How long the first answer of a source may take, 1 s–10 min.
    #[serde(with = "duration")]
    pub startup_deadline: Duration,
    /// Where keys are that are set nowhere else: a reference with `{name}`, such as `aws-sm://prod/llmrtc#{name}`.
    pub manager: Option<String>,
    /// Turn core dumps and debuggers off. Needs Linux and the feature `harden`.
    pub harden: bool,
    /// With `harden`: keep all memory out of swap, as far as the system's limit allows.
    pub lock_memory: bool,
    /// AWS Secrets Manager. Used when a region is known.
    #[validate(nested)]
    pub aws: AwsConfig,
    /// Vault. Used when an address is known.
    #[validate(nested)]
    pub vault: VaultConfig,
}

impl Default for SecretsConfig {
    fn default() -> Self {
        Self {
            // A rotation is planned hours ahead; half a minute costs 86 000 questions a month and key, some cents.
            poll: Duration::from_secs(30),
            // Longer than any call to a vendor and than the lifetime of a ticket or an access token.
            grace: Duration::from_secs(15 * 60),
            // Shorter than the patience of a supervisor that waits for readiness.
            startup_deadline: Duration::from_secs(20),
            manager: None,
            // It also takes core dumps and profilers from whoever operates the server, so that is their decision.
            harden: false,
            lock_memory: false,
            aws: AwsConfig::default(),
            vault: VaultConfig::default(),
        }
    }
}

/// Access to AWS Secrets Manager. What is absent is taken from AWS's own variables.
#[derive(Clone, Debug, Default, Deserialize, Validate)]
#[serde(default, deny_unknown_fields)]
pub struct AwsConfig {
    /// Default: `AWS_REGION`, `AWS_DEFAULT_REGION`.
    pub region: Option<String>,
    /// Another address than the region's own, for VPC endpoints and test servers. Default: `AWS_ENDPOINT_URL`.
    pub endpoint_url: Option<String>,
    /// Default: `AWS_ACCESS_KEY_ID`; without any, the container's or the machine's role.
    pub access_key_id: Option<String>,
    /// Default: `AWS_SECRET_ACCESS_KEY`.
    pub secret_access_key: Option<Secret>,
    /// Default: `AWS_SESSION_TOKEN`.
    pub session_token: Option<Secret>,
}

/// Access to Vault. What is absent is taken from Vault's own variables. One way to log in is needed.
#[derive(Clone, Debug, Default, Deserialize, Validate)]
#[serde(default, deny_unknown_fields)]
pub struct VaultConfig {
    /// Default: `VAULT_ADDR`.
    pub address: Option<String>,
    /// Default: `VAULT_NAMESPACE`.
    pub namespace: Option<String>,
    /// A token. Default: `VAULT_TOKEN`.
    pub token: Option<Secret>,
    /// An AppRole. Default: `VAULT_ROLE_ID`.
    pub role_id: Option<String>,
    /// The AppRole's secret. Default: `VAULT_SECRET_ID`.
    pub secret_id: Option<Secret>,
    /// A role of the Kubernetes login. Default: `VAULT_K8S_ROLE`.
    pub kubernetes_role: Option<String>,
    /// Where the login is mounted. Default: `approle` or `kubernetes`.
    pub login_mount: Option<String>,
}

impl SecretsConfig {
    /// How secrets are kept fresh.
    pub fn rotation(&self, observer: Observer, fingerprints: Fingerprinter) -> RotationOptions {
        RotationOptions {
            poll: self.poll,
            grace: self.grace,
            startup_deadline: self.startup_deadline,
            observer,
            fingerprints,
        }
    }

    /// Where secrets are looked for.
    ///
    /// # Errors
    /// When the default manager's reference is malformed.
    pub fn chain(&self, managers: Managers) -> Result<Chain, SecretError> {
        let chain = Chain::new(managers);
        match &self.manager {
            Some(template) => chain.with_fallback(template),
            None => Ok(chain),
        }
    }
}

fn durations_are_sensible(config: &SecretsConfig) -> Result<(), ValidationError> {
    let problem =
        |message: &'static str| Err(ValidationError::new("range").with_message(message.into()));
    let seconds = |value: Duration| value.as_secs_f64();
    if !(1.0..=3600.0).contains(&seconds(config.poll)) {
        return problem("poll must be between 1s and 1h");
    }
    if config.grace > Duration::from_secs(7 * 24 * 3600) {
        return problem("grace must be at most 7days");
    }
    if !(1.0..=600.0).contains(&seconds(config.startup_deadline)) {
        return problem("startup_deadline must be between 1s and 10m");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_ranges_and_unknown_keys_are_refused() {
        let read = |json: &str| serde_json::from_str::<SecretsConfig>(json);
        assert!(SecretsConfig::default().validate().is_ok());
        for bad in [
            r#"{"poll":"100ms"}"#,
            r#"{"poll":"2h"}"#,
            r#"{"grace":"8days"}"#,
            r#"{"startup_deadline":"0s"}"#,
        ] {
            assert!(read(bad).unwrap().validate().is_err(), "{bad}");
        }
        assert!(read(r#"{"pol":"1s"}"#).is_err());
        let config = read(r#"{"vault":{"token":"CANARY"}}"#).unwrap();
        assert!(!format!("{config:?}").contains("CANARY"));
    }
}
