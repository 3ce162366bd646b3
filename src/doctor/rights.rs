//! Rights of the token, each with what it blocks and the line that grants it.

use std::collections::BTreeSet;

use crate::crd::PhoenixHypervisorSpec;
use crate::desired::GuestObject;

use super::facts::Facts;
use super::privileges::{self, Permissions, Wanted};
use super::uses::Uses;
use super::{Check, Outcome};

/// What each right is for: fields of objects, or words where it is no field.
const FOR: &[(&str, &[&str])] = &[
    ("Sys.AccessNetwork", &["source.image.url", "source.cloudImage.url"]),
    ("VM.Allocate", &["making and deleting any guest"]),
    ("VM.Audit", &["reading any guest"]),
    ("VM.Clone", &["source.templateRef"]),
    ("VM.Config.CDROM", &["cdroms", "cloudInit"]),
    ("VM.Config.CPU", &["cores", "cpuLimit", "cpuUnits", "cpu"]),
    ("VM.Config.Cloudinit", &["cloudInit"]),
    ("VM.Config.Disk", &["rootfs", "volumes", "disks", "efiDisk", "tpm"]),
    (
        "VM.Config.HWType",
        &["machine", "bios", "agent", "serial", "vga", "scsiController"],
    ),
    ("VM.Config.Memory", &["memory", "swap", "balloon"]),
    ("VM.Config.Network", &["network", "dns", "hostname", "firewall"]),
    (
        "VM.Config.Options",
        &["tags", "description", "protection", "boot", "capabilities.nesting"],
    ),
    (
        "VM.GuestAgent.Audit",
        &["features, application, tests and health of a PhoenixVM"],
    ),
    (
        "VM.GuestAgent.FileWrite",
        &["features, application and tests of a PhoenixVM"],
    ),
    (
        "VM.GuestAgent.Unrestricted",
        &["features, application and tests of a PhoenixVM"],
    ),
    (
        "VM.Monitor",
        &["features, application, tests and health of a PhoenixVM"],
    ),
    ("VM.PowerMgmt", &["powerState", "updatePolicy.restart"]),
    ("VM.Snapshot", &["a PhoenixTemplate"]),
];

/// The role of docs/access.md that a right belongs to.
fn role(path: &str, privilege: &str) -> &'static str {
    match (path, privilege) {
        ("/", "Sys.Modify") => "PhoenixRoot",
        ("/", _) => "PhoenixCluster",
        (_, "Datastore.AllocateTemplate") => "PhoenixImages",
        _ if path.starts_with("/storage/") => "PhoenixStorage",
        _ if path.starts_with("/nodes") => "PhoenixNode",
        _ if path.starts_with("/sdn/") => "PhoenixNet",
        _ if path.starts_with("/mapping/") => "PhoenixMapping",
        _ => "PhoenixGuest",
    }
}

/// The line that grants a right. The role may be there already, with or without other rights.
fn grant(path: &str, privilege: &str, user: &str) -> String {
    let role = role(path, privilege);
    // What is given on `/` would hold everywhere.
    let only_here = if path == "/" { " --propagate 0" } else { "" };
    format!(
        "{{ pveum role modify {role} --append 1 --privs {privilege} || pveum role add {role} --privs {privilege}; }} && \
         pveum acl modify {path}{only_here} --users {user} --roles {role}"
    )
}

/// The rights that spec and objects need: those of the hypervisor, and what objects name beyond them.
fn wanted(spec: &PhoenixHypervisorSpec, uses: &Uses, version: &str) -> Vec<Wanted> {
    let mut wanted = privileges::wanted(spec, &uses.needs, version);
    let storages = uses.storages.iter().map(|(_, named)| {
        let privilege = match (named.keeps, named.contents.first()) {
            (true, _) => "Datastore.AllocateSpace",
            (false, Some(&("vztmpl" | "import"))) if !named.field.ends_with("volumeOwners.image") => {
                "Datastore.AllocateTemplate"
            }
            _ => "Datastore.Audit",
        };
        Wanted::new(format!("/storage/{}", named.storage), privilege)
    });
    wanted.extend(storages);
    let bridges = uses.bridges.iter().filter(|(_, field, _)| !field.starts_with("spec."));
    wanted.extend(bridges.map(|(.., bridge)| Wanted::new(format!("/sdn/zones/localnetwork/{bridge}"), "SDN.Use")));
    wanted.extend(
        uses.mappings
            .iter()
            .map(|(path, _)| Wanted::new(format!("/mapping/{path}"), "Mapping.Use")),
    );
    wanted.extend(uses.modify.first().map(|_| Wanted::new("/".into(), "Sys.Modify")));
    let pools = uses.pools.iter().filter(|(_, field)| !field.starts_with("spec."));
    wanted.extend(pools.map(|(pool, _)| Wanted::new(format!("/pool/{pool}"), "Pool.Audit")));
    let mut seen = BTreeSet::new();
    wanted.retain(|one| seen.insert(one.pair()));
    wanted
}

/// What a missing right blocks.
fn blocked(path: &str, privilege: &str, objects: &[&GuestObject], uses: &Uses) -> Vec<String> {
    let storage = path.strip_prefix("/storage/");
    let on_storage = uses
        .storages
        .iter()
        .filter(|(_, named)| Some(named.storage.as_str()) == storage);
    let on_storage = on_storage.filter(|(_, named)| privilege != "Datastore.AllocateSpace" || named.keeps);
    let mut fields: Vec<String> = on_storage.map(|(_, named)| named.field.clone()).collect();
    if let Some(below) = path.strip_prefix("/sdn/zones/localnetwork") {
        let meant = |bridge: &str| below.is_empty() || below.strip_prefix('/') == Some(bridge);
        let bridges = uses.bridges.iter().filter(|(.., bridge)| meant(bridge));
        fields.extend(bridges.map(|(_, field, _)| field.clone()));
    }
    let mappings = uses
        .mappings
        .iter()
        .filter(|(name, _)| path.strip_prefix("/mapping/") == Some(name));
    fields.extend(mappings.map(|(_, field)| field.clone()));
    if let Some(pool) = path.strip_prefix("/pool/") {
        fields.extend(
            uses.pools
                .iter()
                .filter(|(name, _)| name == pool)
                .map(|(_, field)| field.clone()),
        );
    }
    match (path, privilege) {
        ("/", "Sys.Modify") => fields.extend(uses.modify.iter().cloned()),
        ("/", "Sys.Audit") => fields.push("quorum, deletion of any guest, recognising the cluster, GPUs".into()),
        ("/nodes", "Sys.Audit") => fields.push("following any task".into()),
        _ => {}
    }
    if fields.is_empty() {
        let what = FOR
            .iter()
            .find(|(name, _)| *name == privilege)
            .map_or(&[] as &[&str], |(_, what)| what);
        fields.extend(what.iter().map(|field| match field.contains(' ') {
            true => (*field).to_string(),
            false => format!("spec.{field}"),
        }));
        if path == "/vms" && !objects.is_empty() {
            fields.push(format!("{} objects", objects.len()));
        }
    }
    fields
}

/// The rights of the token.
pub fn examine(spec: &PhoenixHypervisorSpec, objects: &[&GuestObject], uses: &Uses, facts: &Facts) -> Vec<Check> {
    let permissions: &Permissions = match &facts.permissions {
        None => {
            let words = "root@pam works itself: no rights are asked for";
            return vec![Check::new("privileges", Outcome::Ok, words)];
        }
        Some(Err(why)) => {
            let words = format!("the rights of the token were not read: {why}");
            return vec![Check::new("privileges", Outcome::Unknown, words)];
        }
        Some(Ok(permissions)) => permissions,
    };
    let version = facts.endpoints.iter().find_map(|e| e.version.as_ref().ok());
    let wanted = wanted(spec, uses, version.map_or("9", String::as_str));
    let id = facts.token.as_deref().unwrap_or_default();
    let user = id.split('!').next().unwrap_or_default();
    let mut checks = Vec::new();
    for one in &wanted {
        let (path, privilege) = one.pair();
        let name = format!("privilege {privilege} on {path}");
        // Of these each has its own line; the rest is told in one when it is there.
        if one.is_granted(permissions) {
            if path == "/" {
                checks.push(Check::new(name, Outcome::Ok, "granted"));
            }
            continue;
        }
        let fields = blocked(&path, &privilege, objects, uses);
        let message = format!(
            "spec.credentials.tokenSecretRef: token {id:?} lacks {privilege} on {path}, which blocks {}: grant it to {user} (and with --tokens {id:?} to the token, if it was made with privilege separation)",
            fields.join(", ")
        );
        let fix = grant(&path, &privilege, user);
        checks.push(Check::new(name, Outcome::Fail, message).blocks(fields).fixed_by(fix));
    }
    if checks.iter().all(|check| check.outcome == Outcome::Ok) {
        let words = format!(
            "token {id:?} has all {} rights that spec and objects need",
            wanted.len()
        );
        checks.push(Check::new("privileges", Outcome::Ok, words));
    }
    checks
}
