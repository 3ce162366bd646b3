//! Rights that a hypervisor's token needs, and which of them it lacks. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::crd::PhoenixHypervisorSpec;
use crate::desired::{GuestObject, GuestSpec};

/// Rights by path, with the mark whether they hold below it (`GET /access/permissions`).
pub type Permissions = BTreeMap<String, BTreeMap<String, bool>>;

/// What the objects of a hypervisor do: nobody needs rights for what nobody asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// There are machines.
    pub machines: bool,
    /// There are templates, or clones of them.
    pub templates: bool,
    /// Images of containers are downloaded to the default storage.
    pub downloads_lxc: bool,
    /// Images of machines are downloaded to the default storage.
    pub downloads_vm: bool,
    /// Something is downloaded from a URL.
    pub urls: bool,
}

impl Needs {
    /// With what one more object needs.
    pub fn add(&mut self, object: &GuestObject) {
        self.machines |= object.vm().is_some();
        self.templates |= matches!(object.spec, GuestSpec::Template(_)) || object.template_ref().is_some();
        let image = object.lxc().and_then(|l| l.source.as_ref()?.image.as_ref());
        let cloud = object.vm().and_then(|v| v.source.as_ref()?.cloud_image.as_ref());
        self.downloads_lxc |= image.is_some_and(|i| i.volid.is_none() && i.storage.is_none());
        self.downloads_vm |= cloud.is_some_and(|i| i.volid.is_none() && i.storage.is_none());
        self.urls |= image.is_some_and(|i| i.url.is_some()) || cloud.is_some_and(|i| i.url.is_some());
    }
}

/// A right that is needed at one of some places; the first is the one to grant it at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    path: String,
    privilege: &'static str,
    /// Where else it may be: everything below these paths.
    or_below: Vec<&'static str>,
}

impl Wanted {
    /// A right that is needed on this path and nowhere else.
    pub fn new(path: String, privilege: &'static str) -> Self {
        Wanted {
            path,
            privilege,
            or_below: Vec::new(),
        }
    }

    /// Path and right.
    pub fn pair(&self) -> (String, String) {
        (self.path.clone(), self.privilege.to_string())
    }

    /// Whether it is granted.
    pub fn is_granted(&self, permissions: &Permissions) -> bool {
        let elsewhere = permissions.iter().any(|(path, rights)| {
            let there = self.or_below.iter().any(|above| path.starts_with(above));
            there && rights.contains_key(self.privilege)
        });
        holds(permissions, &self.path, self.privilege) || elsewhere
    }
}

const GUEST: &[&str] = &[
    "VM.Allocate",
    "VM.Audit",
    "VM.Config.CPU",
    "VM.Config.Disk",
    "VM.Config.Memory",
    "VM.Config.Network",
    "VM.Config.Options",
    "VM.PowerMgmt",
];
const TEMPLATES: &[&str] = &["VM.Clone", "VM.Snapshot"];
const MACHINES: &[&str] = &["VM.Config.CDROM", "VM.Config.Cloudinit", "VM.Config.HWType"];
const AGENT_9: &[&str] = &[
    "VM.GuestAgent.Audit",
    "VM.GuestAgent.FileWrite",
    "VM.GuestAgent.Unrestricted",
];
const AGENT_8: &[&str] = &["VM.Monitor"];

/// The rights that a spec and its objects need (docs/access.md).
pub fn wanted(spec: &PhoenixHypervisorSpec, needs: &Needs, version: &str) -> Vec<Wanted> {
    let mut wanted = Vec::new();
    let mut want = |path: String, list: &[&'static str], or_below: &[&'static str]| {
        wanted.extend(list.iter().map(|privilege| Wanted {
            path: path.clone(),
            privilege,
            or_below: or_below.to_vec(),
        }));
    };
    want("/".into(), &["Sys.Audit"], &[]);
    want("/nodes".into(), &["Sys.Audit"], &["/nodes/"]);
    if needs.urls {
        want("/nodes".into(), &["Sys.AccessNetwork"], &["/nodes/"]);
    }
    let guests = &["/vms/", "/pool/"];
    want("/vms".into(), GUEST, guests);
    if needs.templates {
        want("/vms".into(), TEMPLATES, guests);
    }
    if needs.machines {
        want("/vms".into(), MACHINES, guests);
        let eight = version
            .split('.')
            .next()
            .and_then(|major| major.parse().ok())
            .unwrap_or(9)
            < 9;
        want("/vms".into(), if eight { AGENT_8 } else { AGENT_9 }, guests);
    }
    let defaults = spec.defaults.clone().unwrap_or_default();
    let owners = spec.volume_owners.clone().unwrap_or_default();
    let keeps = [
        defaults.rootfs_storage,
        defaults.volume_storage,
        defaults.disk_storage,
        owners.storage,
    ];
    let keeps: BTreeSet<String> = keeps.into_iter().flatten().collect();
    for storage in keeps {
        want(format!("/storage/{storage}"), &["Datastore.AllocateSpace"], &[]);
    }
    let image = owners.image.as_deref().and_then(|volid| volid.split_once(':'));
    let reads: BTreeSet<String> = [
        defaults.image_storage.clone(),
        defaults.snippet_storage,
        image.map(|(storage, _)| storage.to_string()),
    ]
    .into_iter()
    .flatten()
    .collect();
    for storage in reads {
        want(format!("/storage/{storage}"), &["Datastore.Audit"], &[]);
    }
    if let Some(storage) = defaults.image_storage {
        want(format!("/storage/{storage}"), &["Datastore.AllocateTemplate"], &[]);
    }
    if defaults.bridge.is_some() {
        want("/sdn/zones/localnetwork".into(), &["SDN.Use"], &["/sdn/zones/"]);
    }
    if let Some(pool) = owners.pool {
        want(format!("/pool/{pool}"), &["VM.Allocate"], &["/vms"]);
    }
    wanted
}

/// Those that are not granted, as path and right.
pub fn missing(permissions: &Permissions, wanted: &[Wanted]) -> Vec<(String, String)> {
    let lacking = wanted.iter().filter(|wanted| !wanted.is_granted(permissions));
    lacking.map(Wanted::pair).collect()
}

/// Whether a right holds on a path: by the rules of the nearest path that has any.
pub fn holds(permissions: &Permissions, path: &str, privilege: &str) -> bool {
    if let Some(rights) = permissions.get(path) {
        return rights.contains_key(privilege);
    }
    let mut above = path;
    while above != "/" {
        above = match above.rfind('/') {
            Some(0) | None => "/",
            Some(at) => &above[..at],
        };
        if let Some(rights) = permissions.get(above) {
            return rights.get(privilege) == Some(&true);
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn permissions(value: serde_json::Value) -> Permissions {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_right_holds_where_it_is_given_and_below_where_it_propagates() {
        let given = permissions(json!({"/": {"Sys.Audit": false}, "/storage": {"Datastore.Audit": true},
            "/storage/a": {"Datastore.AllocateSpace": true}, "/nodes": {"Sys.Audit": true}}));
        for (path, right, so) in [
            ("/", "Sys.Audit", true),
            ("/vms", "Sys.Audit", false),
            ("/nodes/pve1", "Sys.Audit", true),
            ("/storage/b", "Datastore.Audit", true),
            // Nearer rules replace those above.
            ("/storage/a", "Datastore.Audit", false),
            ("/storage/a", "Datastore.AllocateSpace", true),
        ] {
            assert_eq!(holds(&given, path, right), so, "{path} {right}");
        }
    }

    #[test]
    fn only_what_somebody_asks_for_is_needed() {
        let none = Permissions::new();
        let list = |needs: &Needs, version: &str| -> Vec<String> {
            let lacking = missing(&none, &wanted(&PhoenixHypervisorSpec::default(), needs, version));
            lacking
                .into_iter()
                .map(|(path, right)| format!("{path}: {right}"))
                .collect()
        };
        let bare = list(&Needs::default(), "9.1");
        assert!(bare.contains(&"/: Sys.Audit".to_string()) && bare.contains(&"/vms: VM.Allocate".to_string()));
        assert!(
            !bare
                .iter()
                .any(|l| l.contains("Agent") || l.contains("Clone") || l.contains("AccessNetwork"))
        );
        let machines = Needs {
            machines: true,
            ..Needs::default()
        };
        assert!(list(&machines, "9.1").contains(&"/vms: VM.GuestAgent.Audit".to_string()));
        assert!(list(&machines, "8.4.1").contains(&"/vms: VM.Monitor".to_string()));
        // Rights on a pool do as well as on all guests.
        let pool: BTreeMap<&str, bool> = GUEST.iter().map(|right| (*right, true)).collect();
        let given = permissions(json!({"/": {"Sys.Audit": true}, "/pool/ai": pool}));
        assert_eq!(
            missing(
                &given,
                &wanted(&PhoenixHypervisorSpec::default(), &Needs::default(), "9.1")
            ),
            []
        );
    }
}
