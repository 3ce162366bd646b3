//! How a template is kept: with a snapshot, as the legacy managers did, or as a Proxmox template, whose clones are linked.

use std::collections::BTreeSet;

use crate::crd::{GuestKind, TemplateForm};

use super::guests::Guest;
use super::ledger::Ledger;
use super::lxc::{self, Fleet};
use super::report::Severity;
use super::values;
use super::writer::Writer;

/// Form and snapshot of a template.
pub type Kept = (TemplateForm, Option<String>);

/// How the guest is kept if it is a template; claims the keys that say so.
pub fn form(w: &mut Writer, guest: &Guest, fleet: &Fleet, storage: Option<&str>) -> Option<Kept> {
    let at = &guest.at;
    let form = match guest.form.clone() {
        Some((TemplateForm::Snapshot, _)) if is_converted(w, guest, fleet, storage) => {
            Some((TemplateForm::Template, None))
        }
        form => form,
    };
    let of_template = w
        .key(at, &["template_snapshot_name"])
        .filter(|_| matches!(form, Some((TemplateForm::Template, _))));
    if let Some(snapshot) = of_template {
        w.skip(
            &snapshot,
            "clones are made from the Proxmox template itself, not from a snapshot",
        );
    } else {
        let snapshot = form.as_ref().and_then(|(_, snapshot)| snapshot.clone());
        lxc::snapshot_key(w, at, &snapshot);
    }
    lxc::template_key(w, at);
    form
}

/// Whether a guest that the file keeps with a snapshot becomes a Proxmox template.
fn is_converted(w: &mut Writer, guest: &Guest, fleet: &Fleet, storage: Option<&str>) -> bool {
    let facts = fleet.facts;
    if let Some(zfs) = storage.filter(|s| guest.is_vm && facts.is_zfs(s)) {
        let message = format!(
            "its disk is on ZFS ({zfs}), which cannot copy a machine from a snapshot, so it becomes a Proxmox template"
        );
        w.info(
            &guest.at,
            &message,
            "nothing: its clones are linked clones of the template",
        );
        return true;
    }
    if !fleet.linked_clones {
        return false;
    }
    let (why, fix) = match storage.map(|s| (s, facts.links_clones(s))) {
        Some((_, Some(true))) => return true,
        Some((id, Some(false))) => (
            format!("storage {id} cannot link clones"),
            "nothing; or put the template on a storage that is ZFS, LVM-thin, btrfs or RBD",
        ),
        Some((id, None)) => (
            format!("the files do not tell of what type storage {id} is"),
            "set spec.form: Template and drop snapshotName by hand, if it is ZFS, LVM-thin, btrfs or RBD",
        ),
        None => (
            "the files do not tell its storage".to_owned(),
            "set spec.form: Template and drop snapshotName by hand, if that is ZFS, LVM-thin, btrfs or RBD",
        ),
    };
    w.info(&guest.at, &format!("{why}, so it keeps its snapshot"), fix);
    false
}

/// The storage of a container's root filesystem, as far as the files tell.
pub fn rootfs_storage(guest: &Guest, fleet: &Fleet) -> Option<String> {
    let own = ["storage_pool", "storage"].iter().find_map(|k| guest.at.get(k));
    own.filter(|at| !values::is_unset(at.node))
        .and_then(|at| values::text(at.node))
        .and_then(|t| values::storage_id(&t))
        .or_else(|| fleet.facts.rootfs_storage.clone())
}

/// Says once how much faster the fleet could be built. Not done unasked: templates that are on Proxmox already have
/// snapshots, and Proxmox converts no guest that has one.
pub fn suggest(fleet: &Fleet, ledger: &mut Ledger) {
    let list = &fleet.guests.list;
    let mut clones = 0;
    let mut storages = BTreeSet::new();
    let mut templates: Vec<&Guest> = Vec::new();
    for (index, guest) in list.iter().enumerate() {
        let copied = guest.kind == GuestKind::PhoenixTemplate
            && !guest.is_vm
            && matches!(guest.form, Some((TemplateForm::Snapshot, _)))
            && !ledger.is_refused(&guest.object());
        let own = list.iter().filter(|g| g.parent == Some(index)).count();
        let storage = rootfs_storage(guest, fleet).filter(|s| fleet.facts.links_clones(s) == Some(true));
        if let Some(storage) = storage.filter(|_| copied && own > 0) {
            clones += own;
            storages.insert(storage);
            templates.push(guest);
        }
    }
    let Some(first) = templates.first().filter(|_| clones > 1 && !fleet.linked_clones) else {
        return;
    };
    let at = first.at.clone();
    let ids: Vec<String> = templates.iter().map(|t| t.id.to_string()).collect();
    let message = format!(
        "{clones} containers are copied from snapshots of their templates ({}), one after the other from each; storage {} \
         could link them, which takes seconds",
        ids.join(", "),
        Vec::from_iter(storages).join(", ")
    );
    let fix = "convert with --linked-clones, if the templates are built anew and not taken over with their snapshots";
    ledger.find(Severity::Info, &at, message, fix);
}
