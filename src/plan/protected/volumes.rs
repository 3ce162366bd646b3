//! A volume is attached, kept, counted and given away as the spec says, and never covered, doubled or forgotten
//! (promise 5).

use crate::crd::VolumeStatus;
use crate::pve::{GuestRef, GuestType, Vmid};

use super::*;

pub(super) const KEPT: &str = "volumes: [{name: data, size: 5Gi, mountPath: /data}]";
const OWN: &str = "volumes: [{name: data, size: 5Gi, mountPath: /data, reclaimPolicy: Delete}]";
pub(super) const KEY: &str = "/lxc/ai/a/data";

fn volumes(scene: &Scene) -> (String, Planned) {
    scene.stage(|p| p.volumes(&scene.guest))
}

fn recorded(name: &str, volid: &str, policy: &str) -> VolumeStatus {
    VolumeStatus {
        name: name.into(),
        volid: Some(volid.into()),
        reclaim_policy: Some(policy.into()),
        ..VolumeStatus::default()
    }
}

/// Owner containers with these mount points.
pub(super) fn owned(mut scene: Scene, owners: &[&[(&str, &str)]]) -> Scene {
    let stamp = |vmid| Stamp {
        kind: OWNER_KIND.into(),
        ..scene.desired.stamp(vmid)
    };
    let owner = |(id, options): (i64, &&[(&str, &str)])| {
        let vmid = Vmid::nearest(id);
        Guest {
            digest: "of-the-owner".into(),
            options: options
                .iter()
                .map(|(k, v)| (k.to_string(), v.to_string()))
                .chain([
                    ("description".to_string(), stamp(vmid).describe("")),
                    ("unprivileged".to_string(), "1".to_string()),
                ])
                .collect(),
            ..Guest::new(GuestRef::new(GuestType::Lxc, vmid, NODE))
        }
    };
    scene.observed.owner_range = Some(Ok(OwnerRange::default()));
    // No other guest has any of them.
    let values = owners.iter().flat_map(|options| options.iter());
    let volids = values.filter_map(|(_, value)| Some(value.split_once(",mp=")?.0.to_string()));
    scene.observed.holders = volids.map(|volid| (volid, Ok(None))).collect();
    scene.observed.owners = Some(Ok(Owners {
        owners: (900..).zip(owners).map(owner).collect(),
        ..Owners::default()
    }));
    scene
}

#[test]
fn a_volume_of_the_guests_own_in_the_place_of_a_kept_one_does_not_go_with_it() {
    let mut scene = Scene::container(KEPT).with(&[("mp0", "tank:subvol-100-disk-1,mp=/data,size=5G")]);
    let (next, (findings, facts)) = volumes(&scene);
    assert_eq!(next, "as wanted");
    assert!(
        findings.iter().any(|f| f.condition == "VolumeNotRetained"),
        "{findings:?}"
    );
    scene.status().volumes.clone_from(&facts.volumes);
    assert_eq!(scene.deletion(), "stuck UnaccountedVolumes");
    // Nor once the spec has dropped it.
    let mut dropped = Scene::container("volumes: []").with(&[("unused0", "tank:subvol-100-disk-1")]);
    dropped.status().volumes = facts.volumes;
    assert_eq!(dropped.deletion(), "stuck UnaccountedVolumes");
}

/// The guest's entry has what the volume really has, and writing it again would not change that.
#[test]
fn the_size_of_a_kept_volume_is_noted_where_it_is_too_small_only() {
    let noted = |wanted: &str, owner: &str, guest: &str| {
        let volid = "tank:vm-900-disk-0";
        let spec = format!("volumes: [{{name: data, size: {wanted}, mountPath: /data}}]");
        let scene = Scene::container(&spec).with(&[("mp0", &format!("{volid},mp=/data,size={guest}"))]);
        let mut scene = owned(
            scene,
            &[&[("mp0", &format!("{volid},mp={KEY},size={owner}")), ("protection", "1")]],
        );
        let storages = scene.observed.cluster.storages.values_mut();
        storages.for_each(|row| row.type_ = "lvm".into());
        volumes(&scene).0
    };
    assert_eq!(noted("513Mi", "513M", "516M"), "as wanted", "an extent of 4 MiB");
    assert_eq!(noted("513Mi", "513M", "544M"), "as wanted", "one of 32 MiB");
    let stale = noted("600Mi", "600M", "516M");
    assert!(
        stale.starts_with("PUT /nodes/pve1/lxc/100/config mp0=") && stale.contains("size=600M"),
        "{stale}"
    );
}

#[test]
fn only_what_phoenix_attached_is_detached() {
    let scene = || Scene::container("volumes: []").with(&[("mp4", "tank:subvol-100-disk-9,mp=/theirs,size=5G")]);
    assert_eq!(volumes(&scene()).0, "as wanted", "somebody else's mount point");
    let mut known = scene();
    known.status().volumes = Some(vec![recorded("data", "tank:subvol-100-disk-9", "Delete")]);
    assert_eq!(
        volumes(&known).0,
        "PUT /nodes/pve1/lxc/100/config delete=mp4 digest=of-the-read",
        "a volume that the spec dropped"
    );
}

#[test]
fn a_bind_mount_never_covers_a_volume() {
    let bind = "hostMounts: [{name: srv, hostPath: /srv, mountPath: /data}]";
    let scene = Scene::container(bind).with(&[("mp0", "tank:subvol-100-disk-1,mp=/data,size=5G")]);
    let next = volumes(&scene).0;
    assert!(!next.contains("mp0"), "{next}");
    let empty = volumes(&Scene::container(bind)).0;
    assert!(
        empty.contains("mp0=/srv,mp=/data") || empty.starts_with("SetOnNode"),
        "{empty}"
    );
}

#[test]
fn a_key_of_the_registry_names_one_volume_or_none_is_taken() {
    let entry = |volid: &str| format!("{volid},mp={KEY},size=5G");
    let (one, other) = (entry("tank:subvol-900-disk-1"), entry("tank:subvol-900-disk-2"));
    let scene = |owners: &[&[(&str, &str)]]| volumes(&owned(Scene::container(KEPT), owners)).0;
    let protected = ("protection", "1");
    for (what, owners) in [
        (
            "twice on one owner",
            &[&[("mp0", one.as_str()), ("mp1", &other), protected][..]][..],
        ),
        (
            "on two owners",
            &[
                &[("mp0", one.as_str()), protected][..],
                &[("mp3", other.as_str()), protected],
            ],
        ),
    ] {
        assert_eq!(scene(owners), "stuck DoubleVolume", "{what}");
    }
    let attached = "PUT /nodes/pve1/lxc/100/config mp0=tank:subvol-900-disk-1,mp=/data digest=of-the-read";
    let next = scene(&[&[("mp7", &one), protected]]);
    assert!(next.starts_with(attached), "{next}");
    assert_eq!(
        scene(&[&[("mp7", &one)]]),
        "PUT /nodes/pve1/lxc/900/config protection=1 digest=of-the-owner",
        "somebody took the owner's protection away"
    );
}

#[test]
fn a_container_is_given_a_volume_only_as_it_was_read() {
    let on_owner = volumes(&owned(Scene::container(KEPT), &[&[]])).0;
    let expected = format!("PUT /nodes/pve1/lxc/900/config mp0=tank:5,mp={KEY} digest=of-the-owner");
    assert!(on_owner.starts_with(&expected), "allocated on the owner: {on_owner}");
    let own = volumes(&owned(Scene::container(OWN), &[])).0;
    assert!(
        own.starts_with("PUT /nodes/pve1/lxc/100/config mp0=tank:5,mp=/data digest=of-the-read"),
        "allocated on the guest: {own}"
    );
    for scene in [Scene::container(OWN), owned(Scene::container(KEPT), &[&[]])] {
        let mut locked = scene;
        locked.guest.lock = Some("backup".into());
        if let Some(Ok(owners)) = &mut locked.observed.owners {
            owners.owners[0].lock = Some("backup".into());
        }
        assert_eq!(volumes(&locked).0, "wait GuestLocked");
    }
}

/// Two volumes that one after the other had the same place are both known when the guest is to be destroyed.
#[test]
fn a_volume_that_was_detached_is_still_known() {
    let mut scene = Scene::container("volumes: []").with(&[
        ("unused0", "tank:subvol-100-disk-3"),
        ("unused1", "tank:subvol-100-disk-4"),
    ]);
    scene.status().volumes = Some(vec![
        recorded("old", "tank:subvol-100-disk-3", "Delete"),
        recorded("older", "tank:subvol-100-disk-4", "Delete"),
    ]);
    let (next, (_, facts)) = volumes(&scene);
    assert_eq!(next, "as wanted");
    scene.status().volumes = facts.volumes;
    assert!(scene.deletion().starts_with("DELETE"), "{}", scene.deletion());
}
