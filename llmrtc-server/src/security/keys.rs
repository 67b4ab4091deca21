//! The vendors' keys while the server runs: files are followed, a key that a vendor refuses is asked for again (A3).

use std::{collections::BTreeSet, sync::Arc};

use llmrtc_security::{
    audit::{Action, Audit, AuditEvent},
    secrets::{
        Environment, Fingerprinter, LiveSecrets, Managers, RotationChange, RotationEvent, Wanted,
    },
};

use crate::config::Config;

/// Reads every key that is configured, from where it is configured to be.
///
/// # Errors
/// Everything that is wrong with them, in one error.
pub(crate) async fn open(config: &Config, audit: &Audit) -> anyhow::Result<LiveSecrets> {
    let wanted: BTreeSet<&str> = config
        .providers
        .variables()
        .map(|name| name.strip_suffix("_FILE").unwrap_or(name))
        .filter(|name| name.ends_with("_API_KEY"))
        .collect();
    let audit = audit.clone();
    let observer = Arc::new(move |event: &RotationEvent| tell(&audit, event));
    let options = config.secrets.rotation(observer, Fingerprinter::random());
    let environment = |name: &str| config.providers.lookup(name);
    let chain = config.secrets.chain(managers(config, &environment)?)?;
    let opened = LiveSecrets::open(
        &chain,
        wanted.into_iter().map(Wanted::new),
        &environment,
        &options,
    );
    opened.await.map_err(|problems| {
        let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
        anyhow::anyhow!("a key cannot be read: {}", lines.join("; "))
    })
}

/// The managers that this build knows and the configuration names.
#[cfg_attr(
    not(any(feature = "aws", feature = "vault-kv", feature = "gcp")),
    expect(
        unused_variables,
        unused_mut,
        clippy::unnecessary_wraps,
        reason = "there is no manager in this build"
    )
)]
fn managers(config: &Config, environment: &Environment<'_>) -> anyhow::Result<Managers> {
    let mut managers = Managers::default();
    #[cfg(feature = "aws")]
    {
        use llmrtc_security::secrets::aws::SecretsManager;
        let manager = SecretsManager::configured(&config.secrets.aws, environment)?;
        managers.aws = manager.map(Arc::new);
    }
    #[cfg(feature = "vault-kv")]
    {
        use llmrtc_security::secrets::vault::Vault;
        managers.vault = Vault::configured(&config.secrets.vault, environment)?.map(Arc::new);
    }
    #[cfg(feature = "gcp")]
    {
        use llmrtc_security::secrets::gcp::SecretManager;
        managers.gcp = Some(Arc::new(SecretManager::new()?));
    }
    Ok(managers)
}

/// Fingerprints tell values apart and nothing else about them.
fn tell(audit: &Audit, event: &RotationEvent) {
    let name = &event.name;
    let accepted = match &event.change {
        RotationChange::Rotated { from, to, .. } => {
            tracing::info!(%name, %from, %to, "a key was replaced");
            true
        }
        RotationChange::FellBack { refused, to } => {
            tracing::error!(%name, %refused, %to, "a key was refused; the one before it is used");
            false
        }
        RotationChange::Refused { refused } => {
            tracing::error!(%name, %refused, "a key was refused, and there is no other");
            false
        }
        RotationChange::RefreshFailed { why } => {
            return tracing::error!(%name, ?why, "a key cannot be read again; the last one is used");
        }
        RotationChange::Recovered => return tracing::info!(%name, "a key can be read again"),
        _ => return,
    };
    let name = Arc::clone(name);
    audit.record(AuditEvent::new(Action::SecretRotated { name, accepted }));
}
