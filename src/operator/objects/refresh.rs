//! What is read anew after a write that was refused.

use kube::ResourceExt;
use kube::api::{Api, DynamicObject, ListParams};
use tracing::debug;

use crate::desired::ObjectName;
use crate::engine::store::StoreError;

use super::store::{KubeStore, call};
use super::{Kind, Origin, watch};

impl KubeStore {
    /// The answer to a write. One that met another version of the object, or none, is a reason to take in the object as it
    /// is now: the watch may tell of it minutes later, and until then every further attempt would fail as well, with
    /// all that is asked of Proxmox before it.
    pub(super) async fn answered<T>(
        &self,
        result: Result<T, StoreError>,
        api: &Api<DynamicObject>,
        kind: Kind,
        name: &ObjectName,
    ) -> Result<T, StoreError> {
        if matches!(result, Err(StoreError::Conflict | StoreError::Gone)) {
            self.refresh(api, kind, name).await;
        }
        result
    }

    async fn refresh(&self, api: &Api<DynamicObject>, kind: Kind, name: &ObjectName) {
        let (seen, began) = (self.restores.times(), self.state().mark(kind));
        // By a listing: the operator may list all that it watches, and may not get Secrets.
        let params = ListParams::default().fields(&format!("metadata.name={}", name.name));
        let listed = match call(api.list(&params)).await {
            Ok(listed) => listed,
            Err(error) => {
                debug!(?kind, %name, %error, "not read anew; the watch will tell");
                return;
            }
        };
        let found = listed.items.into_iter().find(|object| object.name_any() == name.name);
        let version = match &found {
            Some(object) => object.resource_version(),
            None => listed.metadata.resource_version,
        };
        let version = version.unwrap_or_default();
        if self.heed_listing(kind, name, &version, began) {
            self.restores.found(seen);
        }
        match found {
            Some(mut object) => {
                object.metadata.managed_fields = None;
                watch::put(self, kind, object);
            }
            None => self.change(|state| state.remove(kind, name, &version, Origin::Elsewhere)),
        }
    }
}
