//! A PhoenixHypervisor is Ready only when it can be used, its status says what is missing, and its guests go on.

use std::collections::BTreeSet;

use crate::engine::{World, guest, hypervisor, lxc, status, vm};
use phoenix::crd::{HypervisorStatus, PhoenixHypervisor};
use phoenix::desired::Objects;
use phoenix::engine::events;
use serde_json::json;

fn seen(world: &World) -> HypervisorStatus {
    world.store.hypervisor("ai", "pve").unwrap().status.clone().unwrap()
}

/// Ready's status, reason and message.
fn ready(world: &World) -> (String, String, String) {
    let status = seen(world);
    let ready = status.conditions.into_iter().find(|c| c.type_ == "Ready").unwrap();
    (ready.status, ready.reason, ready.message)
}

fn role(world: &World, role: &str, change: impl FnOnce(&mut BTreeSet<String>)) {
    world.sim().with(|s| change(s.access.roles.get_mut(role).unwrap()));
}

type Case = (
    &'static str,
    fn(&mut PhoenixHypervisor),
    fn(&World),
    &'static str,
    &'static [&'static str],
);

fn nothing(_: &World) {}
fn as_is(_: &mut PhoenixHypervisor) {}

#[tokio::test(start_paused = true)]
async fn what_is_missing_makes_a_hypervisor_not_ready_with_field_value_and_fix() {
    let cases: &[Case] = &[
        (
            "a storage that is not there",
            |h| h.spec.defaults.as_mut().unwrap().rootfs_storage = Some("gone".into()),
            nothing,
            "StorageNotFound",
            &["spec.defaults.rootfsStorage", "\"gone\"", "correct the name"],
        ),
        (
            "a storage of owners that is not there",
            |h| h.spec.volume_owners.as_mut().unwrap().storage = Some("gone".into()),
            nothing,
            "StorageNotFound",
            &["spec.volumeOwners.storage", "\"gone\""],
        ),
        (
            "a storage for machines only",
            |h| h.spec.defaults.as_mut().unwrap().volume_storage = Some("quickOS-vm-disks".into()),
            nothing,
            "StorageContentMissing",
            &["spec.defaults.volumeStorage", "quickOS-vm-disks", "rootdir"],
        ),
        (
            "a storage for containers only",
            |h| h.spec.defaults.as_mut().unwrap().disk_storage = Some("quickOS-lxc-disks".into()),
            nothing,
            "StorageContentMissing",
            &["spec.defaults.diskStorage", "quickOS-lxc-disks", "images"],
        ),
        (
            "no snippets",
            |h| h.spec.defaults.as_mut().unwrap().snippet_storage = Some("fastData-shared-iso".into()),
            nothing,
            "StorageContentMissing",
            &["spec.defaults.snippetStorage", "snippets"],
        ),
        (
            "no images",
            |h| h.spec.defaults.as_mut().unwrap().image_storage = Some("quickOS-vm-disks".into()),
            nothing,
            "StorageContentMissing",
            &["spec.defaults.imageStorage", "vztmpl"],
        ),
        (
            "a disabled storage",
            as_is,
            |w| {
                w.sim().with(|s| {
                    s.storages.get_mut("quickOS-lxc-disks").unwrap().disabled = true;
                    s.broadcast();
                })
            },
            "StorageDisabled",
            &["spec.defaults.rootfsStorage", "quickOS-lxc-disks", "enable it"],
        ),
        (
            "an unknown node",
            |h| h.spec.defaults.as_mut().unwrap().node = Some("pve9".into()),
            nothing,
            "NodeNotFound",
            &["spec.defaults.node", "\"pve9\"", "phoenix"],
        ),
        (
            "an image that is nowhere",
            |h| h.spec.volume_owners.as_mut().unwrap().image = Some("local:vztmpl/debain-13-standard_*".into()),
            nothing,
            "ImageNotFound",
            &["spec.volumeOwners.image", "debian-13-standard_13.1-2"],
        ),
        (
            "no Sys.Audit",
            as_is,
            |w| role(w, "PhoenixCluster", BTreeSet::clear),
            "MissingPrivilege",
            &["spec.credentials.tokenSecretRef", "Sys.Audit on /"],
        ),
        (
            "no rights on guests",
            as_is,
            |w| {
                role(w, "PhoenixGuest", |r| {
                    r.remove("VM.PowerMgmt");
                })
            },
            "MissingPrivilege",
            &["VM.PowerMgmt on /vms"],
        ),
        (
            "no rights on storages",
            as_is,
            |w| role(w, "PhoenixStorage", BTreeSet::clear),
            "MissingPrivilege",
            &["Datastore.AllocateSpace on /storage/quickOS-lxc-disks"],
        ),
        (
            "no rights on the network",
            as_is,
            |w| role(w, "PhoenixNet", BTreeSet::clear),
            "MissingPrivilege",
            &["SDN.Use on /sdn/zones/localnetwork"],
        ),
    ];
    for (what, spec, make, reason, words) in cases {
        let world = World::with_ssh(&[]).await;
        hypervisor(&world, spec);
        make(&world);
        world.poll().await;
        let (holds, found, message) = ready(&world);
        assert_eq!(
            (holds.as_str(), found.as_str()),
            ("False", *reason),
            "{what}: {message}"
        );
        for word in *words {
            assert!(message.contains(word), "{what}: {message}");
        }
        let status = seen(&world);
        assert_eq!(status.message, Some(message), "{what}");
        assert_eq!(status.phase.as_deref(), Some("NotReady"), "{what}");
        assert!(
            status
                .conditions
                .iter()
                .any(|c| c.type_ == "Stalled" && c.reason == *reason),
            "{what}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_without_a_pinned_host_key_is_told() {
    let world = World::with_ssh(&[]).await;
    let secret = world.store.secret("ai", "ssh").unwrap();
    let key = secret.string_data.as_ref().unwrap()["key"].clone();
    let other = "pve9 ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";
    let data =
        json!({"metadata": {"name": "ssh", "namespace": "ai"}, "stringData": {"key": key, "known_hosts": other}});
    world.store.objects.insert_secret(serde_json::from_value(data).unwrap());
    world.poll().await;
    let (_, reason, message) = ready(&world);
    assert_eq!(reason, "HostKeyMissing", "{message}");
    assert!(
        message.contains("key \"known_hosts\" of Secret ai/ssh has no host key of node phoenix"),
        "{message}"
    );
}

#[tokio::test(start_paused = true)]
async fn who_never_needs_something_is_ready_without_it() {
    // No SSH at all, no rights that only machines, templates and downloads need.
    let world = World::new(&[]).await;
    role(&world, "PhoenixGuest", |rights| {
        rights.retain(|r| {
            ![
                "VM.GuestAgent.",
                "VM.Clone",
                "VM.Snapshot",
                "VM.Config.HWType",
                "VM.Config.C",
            ]
            .iter()
            .any(|p| r.starts_with(p))
                || r == "VM.Config.CPU"
        });
    });
    role(&world, "PhoenixNode", |rights| {
        rights.remove("Sys.AccessNetwork");
    });
    world.poll().await;
    assert_eq!(ready(&world).0, "True", "{:?}", ready(&world));
    assert_eq!(seen(&world).missing_privileges, None);
    // A machine needs more.
    world.store.apply(vm("m", json!({})));
    world.poll().await;
    let missing = seen(&world).missing_privileges.unwrap();
    assert!(missing.contains(&"/vms: VM.Config.HWType".to_string()), "{missing:?}");
    assert!(!missing.iter().any(|m| m.contains("VM.Clone")), "{missing:?}");
}

#[tokio::test(start_paused = true)]
async fn rights_that_are_granted_are_seen_at_the_next_poll_and_each_change_is_told_once() {
    let mut world = World::new(&[]).await;
    let mut told = Vec::new();
    let mut last = HypervisorStatus::default();
    let mut tell = |world: &World| {
        let now = seen(world);
        told.extend(
            events::of_hypervisor(&last, &now)
                .into_iter()
                .map(|e| format!("{}: {}", e.reason, e.message)),
        );
        last = now;
        told.clone()
    };
    role(&world, "PhoenixCluster", BTreeSet::clear);
    for _ in 0..3 {
        world.poll().await;
        tell(&world);
    }
    assert_eq!(seen(&world).missing_privileges, Some(vec!["/: Sys.Audit".to_string()]));
    // Its guests go on.
    let key = world.store.apply(guest("a", json!({})));
    world.settle(false).await.unwrap();
    assert!(status(&world, &key).vmid.is_some());
    tell(&world);
    role(&world, "PhoenixCluster", |rights| {
        rights.insert("Sys.Audit".into());
    });
    for _ in 0..3 {
        world.poll().await;
        tell(&world);
    }
    assert_eq!(seen(&world).missing_privileges, None);
    let told = tell(&world);
    let reasons: Vec<&str> = told.iter().map(|t| t.split(':').next().unwrap()).collect();
    assert_eq!(reasons, ["MissingPrivilege", "Ready", "PrivilegesGranted"], "{told:?}");
    assert!(told[2].contains("/: Sys.Audit"), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn guests_that_do_not_need_what_is_missing_go_on() {
    let mut world = World::new(&[]).await;
    hypervisor(&world, |h| {
        h.spec.defaults.as_mut().unwrap().disk_storage = Some("gone".into())
    });
    world.poll().await;
    assert_eq!(ready(&world).1, "StorageNotFound");
    let key = world.store.apply(guest("a", json!({})));
    let other = world
        .store
        .apply(lxc("b", json!({"source": {"image": {"volid": crate::engine::IMAGE}}})));
    world.settle(false).await.unwrap();
    assert!(status(&world, &key).vmid.is_some() && status(&world, &other).vmid.is_some());
    assert_eq!(ready(&world).0, "False");
    hypervisor(&world, |h| {
        h.spec.defaults.as_mut().unwrap().disk_storage = Some("quickOS-vm-disks".into())
    });
    world.poll().await;
    assert_eq!(ready(&world).0, "True");
}

#[tokio::test(start_paused = true)]
async fn a_ready_hypervisor_costs_one_request_a_poll() {
    let world = World::new(&[]).await;
    world.poll().await;
    assert_eq!(ready(&world).0, "True", "{:?}", ready(&world));
    let before = world.sim().requests().len();
    for _ in 0..5 {
        world.poll().await;
    }
    assert_eq!(world.sim().requests().len() - before, 5);
}
