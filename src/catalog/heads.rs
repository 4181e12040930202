//! Signed heads of the audit log, kept with the repository, where the log's own table cannot reach.

use ed25519_dalek::SigningKey;

use super::{Catalog, CatalogError, SMALL_MAX_BYTES};
use crate::rules::audit::{HEAD_KIND, Head};
use crate::rules::layout::{self, ObjectKey};
use crate::rules::signature;
use crate::store::{Parts, StoreError, read_small};

impl Catalog {
    /// Stores a head of the cluster's log; one that is there already is the same.
    ///
    /// # Errors
    /// What the store says.
    pub async fn store_head(&self, head: &Head, key: &SigningKey) -> Result<(), CatalogError> {
        let at = layout::audit_head_key(&self.cluster, &head.chain.to_string(), head.number);
        let bytes = signature::sign(HEAD_KIND, head, key)
            .map_err(|source| CatalogError::Write { key: at.to_string(), source })?;
        match self.store.put(&at, Parts::whole(bytes)).await {
            Ok(_) | Err(StoreError::Exists { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads the heads of the cluster's log that `key` signed, and names the objects that are not
    /// such heads.
    ///
    /// # Errors
    /// What the store says.
    pub async fn heads(&self, key: &SigningKey) -> Result<(Vec<Head>, Vec<ObjectKey>), CatalogError> {
        let trusted = [signature::SignerKey::of(key)];
        let (mut heads, mut others) = (Vec::new(), Vec::new());
        for object in self.store.list(&layout::audit_prefix(&self.cluster)).await? {
            let bytes = read_small(self.store.as_ref(), &object.key, SMALL_MAX_BYTES).await?;
            match signature::open::<Head>(HEAD_KIND, &bytes, &trusted) {
                Ok(head) if head.cluster == self.cluster => heads.push(head),
                _ => others.push(object.key),
            }
        }
        Ok((heads, others))
    }
}
