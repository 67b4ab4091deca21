//! One key per user, so that dropping it makes everything of the user unreadable at once (E3, T18).
//!
//! The user key lives in one row of the *key store*, wrapped by the master key. Records hold it nowhere: they carry
//! their data key wrapped under the user key. The key store is apart from the records, because a backup that holds
//! both would bring an erased user back.

use std::fmt;

use super::{
    Fingerprint, KeyId, KeyMaterial, KeyWrapper, WrapError, WrappedKey, cipher::canonical,
};

/// Keeps a data key from being mistaken for a user key, should the two ever be wrapped by one key.
const DATA_KEY: &[u8] = b"llmrtc data key v1";
const USER_KEY: &[u8] = b"llmrtc user key v1";

/// The key above all data keys of one user.
pub struct UserKey {
    id: KeyId,
    material: KeyMaterial,
}

impl fmt::Debug for UserKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserKey({})", self.id)
    }
}

impl UserKey {
    /// A new key with a new name.
    pub fn generate() -> Self {
        Self {
            id: KeyId::random(),
            material: KeyMaterial::generate(),
        }
    }

    /// The name that records refer to.
    pub fn id(&self) -> &KeyId {
        &self.id
    }

    /// What may be said about it.
    pub fn fingerprint(&self) -> Fingerprint {
        self.material.fingerprint()
    }

    /// Wraps it under the current master key for the one row that keeps it.
    ///
    /// # Errors
    /// Those of the wrapper.
    pub async fn wrap(
        &self,
        wrapper: &dyn KeyWrapper,
        tenant: Option<&str>,
        user: &str,
    ) -> Result<WrappedKey, WrapError> {
        let context = context(&self.id, tenant, user);
        wrapper.wrap(&self.material, &context).await
    }

    /// Unwraps the row of this user and no other.
    ///
    /// # Errors
    /// Those of the wrapper.
    pub async fn unwrap(
        wrapper: &dyn KeyWrapper,
        id: KeyId,
        wrapped: &WrappedKey,
        tenant: Option<&str>,
        user: &str,
    ) -> Result<Self, WrapError> {
        let context = context(&id, tenant, user);
        let material = wrapper.unwrap(wrapped, &context).await?;
        Ok(Self { id, material })
    }

    /// Wraps a data key.
    pub fn wrap_data_key(&self, key: &KeyMaterial) -> WrappedKey {
        WrappedKey {
            key_id: self.id.clone(),
            bytes: self.material.wrap(key, DATA_KEY),
        }
    }

    /// Unwraps a data key.
    ///
    /// # Errors
    /// When another key wrapped it, perhaps the one this user had before they were erased, or when it is damaged.
    pub fn unwrap_data_key(&self, wrapped: &WrappedKey) -> Result<KeyMaterial, WrapError> {
        if wrapped.key_id != self.id {
            return Err(WrapError::UnknownKey(wrapped.key_id.clone()));
        }
        self.material
            .unwrap(&wrapped.bytes, DATA_KEY)
            .ok_or(WrapError::Rejected)
    }
}

/// Binds a wrapped user key to its row: nobody becomes somebody else by swapping rows.
fn context(id: &KeyId, tenant: Option<&str>, user: &str) -> Vec<u8> {
    canonical([
        USER_KEY,
        id.as_str().as_bytes(),
        &[u8::from(tenant.is_some())],
        tenant.unwrap_or_default().as_bytes(),
        user.as_bytes(),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::keyring::{Keyring, LocalKeyring};

    #[tokio::test]
    async fn a_row_opens_for_its_user_alone() {
        let ring = LocalKeyring::new(Keyring::generate(std::time::SystemTime::UNIX_EPOCH));
        let key = UserKey::generate();
        let row = key.wrap(&ring, Some("acme"), "ada").await.unwrap();
        let open =
            async |id: KeyId, tenant, user| UserKey::unwrap(&ring, id, &row, tenant, user).await;
        let data = KeyMaterial::generate();
        let wrapped = key.wrap_data_key(&data);
        let again = open(key.id().clone(), Some("acme"), "ada").await.unwrap();
        assert_eq!(
            again.unwrap_data_key(&wrapped).unwrap().fingerprint(),
            data.fingerprint()
        );
        for (id, tenant, user) in [
            (key.id().clone(), Some("acme"), "eve"),
            (key.id().clone(), None, "ada"),
            (key.id().clone(), Some(""), "acmeada"),
            (KeyId::random(), Some("acme"), "ada"),
        ] {
            assert!(matches!(
                open(id, tenant, user).await,
                Err(WrapError::Rejected)
            ));
        }
        // Whoever comes back after having been erased gets a key that opens nothing old.
        assert!(matches!(
            UserKey::generate().unwrap_data_key(&wrapped),
            Err(WrapError::UnknownKey(_))
        ));
    }
}
