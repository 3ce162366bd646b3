//! Deleting an object takes what is proven to be its own, and nothing that nobody said may go (promise 5).

use crate::crd::{RevisionStatus, VolumeStatus};
use crate::pve::Vmid;

use super::*;

/// A scene, what is peculiar about it, and what deleting must come to.
type Case = (&'static str, Scene, &'static str);

fn check(cases: Vec<Case>) {
    for (what, scene, expected) in cases {
        let next = scene.deletion();
        assert!(next.starts_with(expected), "{what}: {next:?} instead of {expected:?}");
    }
}

fn container() -> Scene {
    Scene::container("")
}

fn scene(mut scene: Scene, change: impl FnOnce(&mut Scene)) -> Scene {
    change(&mut scene);
    scene
}

fn locked(lock: &str, scene: Scene) -> Scene {
    self::scene(scene, |s| s.guest.lock = Some(lock.into()))
}

#[test]
fn a_guest_is_stopped_and_only_then_destroyed() {
    check(vec![
        (
            "running",
            scene(container(), |s| s.guest.running = true),
            "POST /nodes/pve1/lxc/100/status/stop",
        ),
        (
            "a running machine",
            scene(Scene::machine(""), |s| s.guest.running = true),
            "POST /nodes/pve1/qemu/100/status/stop",
        ),
        ("stopped", container(), "DELETE /nodes/pve1/lxc/100"),
    ]);
}

/// While it is there, the guest proves which cluster it is on; afterwards nothing might.
#[test]
fn a_guest_goes_only_once_its_cluster_is_proven() {
    let unproven = |running| {
        scene(container(), |s| {
            s.guest.running = running;
            s.observed.cluster.identity.ca_fingerprint = Some("AA".into());
        })
    };
    check(vec![
        ("running", unproven(true), "wait HypervisorNotReady"),
        ("stopped", unproven(false), "wait HypervisorNotReady"),
    ]);
}

#[test]
fn a_guest_that_is_locked_or_protected_or_being_made_stays() {
    let retained = || Scene::container("deletionPolicy: Retain");
    let making = |creating| {
        let unstamped = locked("create", container());
        scene(unstamped, |s| {
            s.guest.options.clear();
            s.observed.creating = creating;
        })
    };
    check(vec![
        ("a backup runs", locked("backup", container()), "wait GuestLocked"),
        (
            "a backup runs, and it is to be kept",
            locked("backup", retained()),
            "wait GuestLocked",
        ),
        (
            "it is protected",
            container().with(&[("protection", "1")]),
            "stuck Protected",
        ),
        ("nobody knows whether a task makes it", making(None), "look Creating"),
        ("a task makes it", making(Some(true)), "wait CreateRunning"),
        (
            "its creation was cut off",
            making(Some(false)),
            "stuck CreateInterrupted",
        ),
    ]);
}

/// Its protection was lifted for one call, and the object was deleted before the next.
#[test]
fn an_owner_that_was_opened_for_a_volume_is_protected_before_the_object_goes() {
    let gone = |owner: &[(&str, &str)]| {
        scene(volumes::owned(Scene::container(volumes::KEPT), &[owner]), |s| {
            s.observed.guest = Some(GuestRead::NotFound);
            s.observed.id_check = Some((VMID, IdCheck::Free));
            s.observed.creating = Some(false);
        })
    };
    let entry = format!("tank:subvol-900-disk-1,mp={},size=5G", volumes::KEY);
    let (full, protected) = (("mp0", entry.as_str()), ("protection", "1"));
    let protect = "PUT /nodes/pve1/lxc/900/config protection=1 digest=of-the-owner";
    let stranger = |s: &mut Scene| {
        for owner in &mut s.observed.owners.as_mut().unwrap().as_mut().unwrap().owners {
            owner.options.remove("description");
        }
    };
    check(vec![
        ("open", gone(&[full]), protect),
        ("protected", gone(&[full, protected]), "RemoveFinalizer"),
        ("empty", gone(&[]), "RemoveFinalizer"),
        (
            "not an owner of ours",
            scene(gone(&[full]), stranger),
            "RemoveFinalizer",
        ),
        (
            "nobody looked",
            scene(gone(&[full]), |s| s.observed.owners = None),
            "look Owners",
        ),
    ]);
}

/// Nobody may be told that a guest is gone because a list is empty, a read fails or half of the cluster is away.
#[test]
fn absence_counts_only_when_a_quorate_cluster_says_that_the_id_is_free() {
    let absent = |change: fn(&mut Observed)| {
        scene(container(), |s| {
            s.observed.guest = Some(GuestRead::NotFound);
            change(&mut s.observed);
        })
    };
    check(vec![
        (
            "nobody asked which cluster answers",
            absent(|o| o.cluster.read_now = false),
            "look Cluster",
        ),
        (
            "no quorum",
            absent(|o| o.cluster.quorate = Some(false)),
            "wait NoQuorum",
        ),
        (
            "quorum not readable",
            absent(|o| o.cluster.quorate = None),
            "stuck MissingPrivilege",
        ),
        (
            "no quorum, though the id seemed free before",
            absent(|o| {
                o.cluster.quorate = Some(false);
                o.id_check = Some((VMID, IdCheck::Free));
            }),
            "wait NoQuorum",
        ),
        ("nobody asked whether the id is free", absent(|_| {}), "look VmidFree"),
        (
            "another id is free",
            absent(|o| o.id_check = Some((Vmid::nearest(101), IdCheck::Free))),
            "look VmidFree",
        ),
        (
            "the id is taken",
            absent(|o| o.id_check = Some((VMID, IdCheck::Taken))),
            "wait GuestUnreadable",
        ),
        (
            "it cannot be read",
            absent(|o| o.guest = Some(GuestRead::Unreadable(failing(Reason::MissingPrivilege)))),
            "wait MissingPrivilege",
        ),
        (
            "the id is free",
            absent(|o| o.id_check = Some((VMID, IdCheck::Free))),
            "RemoveFinalizer",
        ),
    ]);
}

#[test]
fn guests_of_earlier_revisions_go_before_the_object_does() {
    let old = || RevisionStatus {
        revision: "old".into(),
        vmid: 101,
        node: Some(NODE.into()),
        snippet: None,
        volumes: None,
    };
    let template = || {
        let fields = "form: Snapshot, lxc: {source: {image: {volid: 'local:vztmpl/a.tar.zst'}}}";
        scene(Scene::new("PhoenixTemplate", fields), |s| {
            s.status().revisions = Some(vec![old()]);
        })
    };
    let gone = |s: &mut Scene| {
        s.observed.guest = Some(GuestRead::NotFound);
        s.observed.id_check = Some((VMID, IdCheck::Free));
    };
    let never_made = |s: &mut Scene| (s.status().vmid, s.status().create_sent) = (None, None);
    check(vec![
        (
            "its own guest is gone",
            scene(template(), gone),
            "record [TakeUpRevision]",
        ),
        (
            "the new revision was not made yet",
            scene(template(), never_made),
            "record [TakeUpRevision]",
        ),
    ]);
    let waiting = scene(template(), never_made);
    assert!(
        !abandoned(&waiting.object),
        "a template with earlier revisions has guests on Proxmox, whoever answers"
    );
}

#[test]
fn a_volume_that_nobody_said_may_go_keeps_the_guest() {
    let recorded = |policy: Option<&str>| {
        scene(
            container().with(&[("mp0", "tank:subvol-100-disk-1,mp=/data,size=8G")]),
            |s| {
                s.status().volumes = Some(vec![VolumeStatus {
                    name: "data".into(),
                    volid: Some("tank:subvol-100-disk-1".into()),
                    reclaim_policy: policy.map(str::to_string),
                    ..VolumeStatus::default()
                }]);
            },
        )
    };
    let machine = |options: &[(&str, &str)]| {
        Scene::machine("disks: [{name: root, size: 8Gi}]")
            .with(&[
                ("scsi0", "tank:vm-100-disk-0,serial=root,size=8G"),
                ("boot", "order=scsi0"),
            ])
            .with(options)
    };
    check(vec![
        (
            "a mount point of somebody's",
            container().with(&[("mp3", "tank:subvol-100-disk-7,mp=/theirs,size=8G")]),
            "stuck UnaccountedVolumes",
        ),
        (
            "a detached volume of a container",
            container().with(&[("unused0", "tank:subvol-100-disk-7")]),
            "stuck UnaccountedVolumes",
        ),
        (
            "a detached disk of a machine",
            machine(&[("unused0", "tank:vm-100-disk-7")]),
            "stuck UnaccountedVolumes",
        ),
        (
            "a disk of somebody's",
            machine(&[("scsi1", "tank:vm-100-disk-7,size=8G")]),
            "stuck UnaccountedVolumes",
        ),
        (
            "recorded to be kept",
            recorded(Some("Retain")),
            "stuck UnaccountedVolumes",
        ),
        (
            "recorded, to be decided",
            recorded(Some("Unaccounted")),
            "stuck UnaccountedVolumes",
        ),
        ("recorded without a word", recorded(None), "stuck UnaccountedVolumes"),
        ("recorded to go", recorded(Some("Delete")), "DELETE"),
        (
            "an owner's volume",
            container().with(&[("mp0", "tank:subvol-900-disk-1,mp=/data,size=8G")]),
            "DELETE",
        ),
        ("a machine's own disks", machine(&[]), "DELETE"),
    ]);
}

#[test]
fn a_guest_that_stays_loses_its_stamp_only_as_it_was_read() {
    let kept = Scene::container("deletionPolicy: Retain").with(&[("tags", "mine;phoenix")]);
    assert_eq!(
        kept.deletion(),
        "PUT /nodes/pve1/lxc/100/config tags=mine delete=description digest=of-the-read"
    );
    let adopted = container().stamped(|s| s.adopted = true);
    assert_eq!(
        adopted.deletion(),
        "PUT /nodes/pve1/lxc/100/config delete=description,tags digest=of-the-read"
    );
}
