//! The vendors' keys while the server runs: files are followed, a key that a vendor refuses is asked for again (A3).

use std::{collections::BTreeSet, sync::Arc};

use llmrtc_security::{
    audit::{Action, Audit, AuditEvent},
    auth::jwt::jwks::Jwks,
    crypto::keyring::KeyInfo,
    net::tls::TlsChange,
    secrets::{
        Environment, Fingerprint, Fingerprinter, LiveSecrets, Managers, RotationChange,
        RotationEvent, Wanted,
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
    let refused = |refused: &Fingerprint, to: Option<&Fingerprint>| Action::KeyRefused {
        purpose: "vendor",
        key: Arc::clone(name),
        fingerprint: refused.to_string().into(),
        fallback: to.map(|to| to.to_string().into()),
    };
    let action = match &event.change {
        RotationChange::Rotated { from, to, .. } => {
            tracing::info!(%name, %from, %to, "a key was replaced");
            rotated("vendor", &**name, Some(to))
        }
        RotationChange::FellBack { refused: print, to } => {
            tracing::error!(%name, refused = %print, %to, "a key was refused; the one before it is used");
            refused(print, Some(to))
        }
        RotationChange::Refused { refused: print } => {
            tracing::error!(%name, refused = %print, "a key was refused, and there is no other");
            refused(print, None)
        }
        RotationChange::RefreshFailed { why } => {
            return tracing::error!(%name, ?why, "a key cannot be read again; the last one is used");
        }
        RotationChange::Recovered => return tracing::info!(%name, "a key can be read again"),
        _ => return,
    };
    audit.record(AuditEvent::new(action));
}

/// A key was made or replaced.
pub(crate) fn rotated(
    purpose: &'static str,
    key: impl Into<Arc<str>>,
    fingerprint: Option<impl ToString>,
) -> Action {
    Action::KeyRotated {
        purpose,
        key: key.into(),
        fingerprint: fingerprint.map(|print| print.to_string().into()),
    }
}

/// The server found that another master key wraps.
pub(crate) fn master_key_replaced(audit: &Audit, key: &KeyInfo) {
    tracing::info!(id = %key.id, "a new master key is used");
    let action = rotated("vault", key.id.as_str(), key.fingerprint);
    audit.record(AuditEvent::new(action));
}

/// An issuer of tokens publishes another key, of which only the name is told: the rest is public anyway.
pub(crate) fn follow_issuer(audit: &Audit, keys: &Jwks) {
    let (audit, url) = (audit.clone(), keys.url().to_owned());
    keys.observe(move |id| {
        tracing::info!(issuer = %url, key = id, "an issuer has a new key");
        let action = rotated("issuer", format!("{url}#{id}"), None::<String>);
        audit.record(AuditEvent::new(action));
    });
}

/// Files of certificates have other content.
pub(crate) fn certificates_changed(audit: &Audit, change: &TlsChange) {
    for (setting, fingerprint) in &change.certificates {
        let action = rotated("tls", setting.as_str(), Some(fingerprint));
        audit.record(AuditEvent::new(action));
    }
    let settings: Vec<Arc<str>> = change.settings.iter().map(|name| (**name).into()).collect();
    // Without any, the files are as before and only had a fault in between.
    if !settings.is_empty() {
        audit.record(AuditEvent::new(Action::ConfigChanged { settings }));
    }
}
