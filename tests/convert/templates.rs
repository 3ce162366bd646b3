//! How templates of containers are kept.

use phoenix::convert::report::{Outcome, Severity};
use phoenix::convert::{Options, Output, Role};
use serde_json::{Value, json};

use crate::support::*;

fn linked() -> Options {
    Options {
        linked_clones: true,
        routing: phoenix::convert::Routing::None,
        ..options()
    }
}

fn fleet(storage: Value, options: &Options) -> Output {
    let hypervisor = json!({
        "proxmox_storage_ids": {"lxc": "tank-disks", "other": "elsewhere"},
        "zfs": {"datasets": [
            {"pool": "tank", "name": "disks", "proxmox_storage_type": "zfspool", "proxmox_content_type": "rootdir"},
            {"pool": "tank", "name": "files", "proxmox_storage_type": "dir", "proxmox_content_type": "rootdir"},
        ]},
    });
    let mut template =
        json!({"name": "base", "template": "local:vztmpl/debian.tar.zst", "template_snapshot_name": "s1"});
    template["storage_pool"] = storage;
    let clone = |name: &str| json!({"name": name, "clone_from_ctid": "900"});
    let lxc = json!({"lxc_configs": {"900": template, "901": clone("a"), "902": clone("b")}});
    run(
        &[
            input("h.json", Role::Hypervisor, hypervisor.to_string()),
            input("lxc.json", Role::Lxc, lxc.to_string()),
        ],
        options,
    )
}

fn kept(output: &Output) -> (Value, Value) {
    let spec = manifest(output, "phoenixtemplate-base.yaml")["spec"].clone();
    (spec["form"].clone(), spec["snapshotName"].clone())
}

/// A template that is on Proxmox already has its snapshot, and Proxmox converts no guest that has one.
#[test]
fn a_template_keeps_its_snapshot_unless_something_else_is_asked_for() {
    for storage in [json!(null), json!("tank-disks"), json!("elsewhere")] {
        assert_eq!(kept(&fleet(storage, &options())), (json!("Snapshot"), json!("s1")));
    }
}

#[test]
fn linked_clones_are_suggested_where_the_storage_is_known_to_link() {
    let output = fleet(json!(null), &options());
    let told = finding(&output, Severity::Info, "could link them");
    assert!(
        told.message.contains("2 containers") && told.message.contains("tank-disks"),
        "{told:?}"
    );
    assert!(told.fix.contains("--linked-clones"), "{told:?}");
    let silent = |output: &Output| {
        findings(output, Severity::Info)
            .iter()
            .all(|f| !f.message.contains("could link"))
    };
    for storage in ["tank-files", "elsewhere", "local"] {
        assert!(silent(&fleet(json!(storage), &options())), "{storage}");
    }
    assert!(silent(&fleet(json!(null), &linked())), "it is done already");
}

#[test]
fn where_asked_for_templates_are_converted_on_storages_that_link() {
    for storage in [
        json!(null),
        json!("tank-disks"),
        json!("tank/disks"),
        json!("local-lvm"),
        json!("local-zfs"),
    ] {
        let output = fleet(storage.clone(), &linked());
        assert_eq!(kept(&output), (json!("Template"), Value::Null), "{storage}");
        let snapshot = entry(&output, "/lxc_configs/900/template_snapshot_name");
        assert_eq!(snapshot.outcome, Outcome::NotMapped);
        assert!(snapshot.note.contains("not from a snapshot"), "{snapshot:?}");
    }
}

#[test]
fn what_cannot_link_or_is_not_known_keeps_its_snapshot_and_says_so() {
    for (storage, why) in [
        ("tank-files", "cannot link clones"),
        ("local", "cannot link clones"),
        ("elsewhere", "do not tell of what type storage elsewhere is"),
    ] {
        let output = fleet(json!(storage), &linked());
        assert_eq!(kept(&output), (json!("Snapshot"), json!("s1")), "{storage}");
        finding(&output, Severity::Info, why);
    }
    let lxc = json!({"lxc_configs": {"900": {
        "name": "base", "template": "local:vztmpl/debian.tar.zst", "template_snapshot_name": "s1"
    }}});
    let output = run(&[input("lxc.json", Role::Lxc, lxc.to_string())], &linked());
    assert_eq!(kept(&output), (json!("Snapshot"), json!("s1")));
    finding(&output, Severity::Info, "do not tell its storage");
}
