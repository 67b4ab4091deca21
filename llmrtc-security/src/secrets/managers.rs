use std::sync::Arc;

use super::{SecretError, SecretErrorKind, SecretRef, SecretSource};

/// The secret managers that references may lead to.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Managers {
    /// `aws-sm://…`.
    #[cfg(feature = "aws")]
    pub aws: Option<Arc<super::aws::SecretsManager>>,
    /// `vault://…`.
    #[cfg(feature = "vault-kv")]
    pub vault: Option<Arc<super::vault::Vault>>,
    /// `gcp-sm://…`.
    #[cfg(feature = "gcp")]
    pub gcp: Option<Arc<super::gcp::SecretManager>>,
}

impl Managers {
    /// The source that a reference to a manager names.
    ///
    /// # Errors
    /// [`SecretErrorKind::NotConfigured`].
    pub fn source(&self, reference: &SecretRef) -> Result<Arc<dyn SecretSource>, SecretError> {
        match reference {
            #[cfg(feature = "aws")]
            SecretRef::Aws { id, key, version } => {
                if let Some(aws) = &self.aws {
                    let version = version.clone();
                    return Ok(Arc::new(Arc::clone(aws).secret(
                        id,
                        key.as_deref(),
                        version,
                    )));
                }
            }
            #[cfg(feature = "vault-kv")]
            SecretRef::Vault {
                mount,
                path,
                key,
                version,
            } => {
                if let Some(vault) = &self.vault {
                    return Ok(Arc::new(
                        Arc::clone(vault).secret(mount, path, key, *version),
                    ));
                }
            }
            #[cfg(feature = "gcp")]
            SecretRef::Gcp {
                project,
                secret,
                version,
                key,
            } => {
                if let Some(gcp) = &self.gcp {
                    return Ok(Arc::new(Arc::clone(gcp).secret(
                        project,
                        secret,
                        version,
                        key.as_deref(),
                    )));
                }
            }
            _ => {}
        }
        let manager = match reference {
            SecretRef::Aws { .. } => "AWS Secrets Manager",
            SecretRef::Vault { .. } => "Vault",
            SecretRef::Gcp { .. } => "GCP Secret Manager",
            SecretRef::Env(_) | SecretRef::File(_) => "a secret manager",
        };
        Err(SecretError::new(
            reference.to_string(),
            SecretErrorKind::NotConfigured(manager),
        ))
    }
}
