//! Never a second guest, never a stranger's (promise 1).

use crate::crd::status::ProxmoxCluster;
use crate::desired::Source;
use crate::pve::{GuestRef, GuestType, Vmid};

use super::*;

fn container() -> Scene {
    Scene::container("")
}

fn scene(mut scene: Scene, change: impl FnOnce(&mut Scene)) -> Scene {
    change(&mut scene);
    scene
}

/// An object that has no guest yet, as far as is known.
fn unborn(change: impl FnOnce(&mut Scene)) -> Scene {
    scene(container(), |s| {
        *s.status() = GuestStatus::default();
        s.observed.cluster.guests.clear();
        s.observed.stamped = Some(Stamped::default());
        change(s);
    })
}

fn check(cases: Vec<(&'static str, Scene, &'static str)>) {
    for (what, scene, expected) in cases {
        let next = scene.next();
        assert!(next.starts_with(expected), "{what}: {next:?} instead of {expected:?}");
    }
}

#[test]
fn a_stamp_is_of_one_object_of_one_cluster_and_one_vmid() {
    let own = container().desired.stamp(VMID);
    type Change = fn(&mut Stamp);
    let others: [(&str, Change); 5] = [
        ("cluster", |s| s.cluster = "another".into()),
        ("kind", |s| s.kind = "PhoenixVM".into()),
        ("namespace", |s| s.namespace = "theirs".into()),
        ("name", |s| s.name = "b".into()),
        ("vmid", |s| s.vmid = Vmid::nearest(101)),
    ];
    for (what, change) in others {
        let mut other = own.clone();
        change(&mut other);
        assert!(!other.same_identity(&own), "the {what} says nothing");
        let theirs = container().stamped(change);
        assert_eq!(theirs.next(), "stuck Conflict", "the {what} says nothing");
        assert_eq!(theirs.deletion(), "RemoveFinalizer", "the {what} says nothing");
    }
}

/// A user's description comes first in the notes, and may hold anything.
#[test]
fn a_stamp_in_somebodys_words_does_not_count_beside_the_real_one() {
    let own = container().desired.stamp(VMID);
    let forged = Stamp {
        name: "b".into(),
        ..own.clone()
    };
    let notes = own.describe(&format!("My words.\n{forged}\nMore of them."));
    assert_eq!(Stamp::find(&notes), Some(own.clone()));
    // Written by hand above the real one, or by an earlier version.
    assert_eq!(Stamp::find(&format!("{forged}\n{own}")), Some(own));
}

/// Otherwise a guest could be ours whose volumes nobody finds once the old cluster's id is not named any more.
#[test]
fn the_owners_of_a_guests_volumes_are_taken_over_before_the_guest() {
    let entry = format!("tank:subvol-900-disk-1,mp={},size=5G", volumes::KEY);
    let protected = ("protection", "1");
    let mut all = volumes::owned(
        Scene::container(volumes::KEPT),
        &[&[("mp0", entry.as_str()), protected]],
    );
    all = all.stamped(|s| s.cluster = "old".into());
    all.desired.identity.previous_clusters = vec!["old".into()];
    for owner in &mut all.observed.owners.as_mut().unwrap().as_mut().unwrap().owners {
        let stamp = Stamp {
            cluster: "old".into(),
            ..owner.stamp().unwrap()
        };
        owner.options.insert("description".into(), stamp.describe(""));
    }
    let next = all.next();
    assert!(
        next.starts_with("PUT /nodes/pve1/lxc/900/config description="),
        "{next}"
    );
}

#[test]
fn taking_a_guest_over_is_written_only_as_it_was_read() {
    let moved = scene(container().stamped(|s| s.cluster = "old".into()), |s| {
        s.desired.identity.previous_clusters = vec!["old".into()];
    });
    let adopted = scene(container(), |s| {
        *s.status() = GuestStatus::default();
        s.guest.options.remove("description");
        s.desired.identity.adopt = Some(VMID.to_string());
    });
    for (what, scene) in [("taken over", moved), ("adopted", adopted)] {
        let next = scene.next();
        assert!(
            next.starts_with("PUT /nodes/pve1/lxc/100/config description="),
            "{what}: {next}"
        );
        assert!(next.contains(" digest=of-the-read"), "{what}: {next}");
    }
}

#[test]
fn of_guests_with_the_objects_stamp_there_must_be_one() {
    let found = |vmids: &[i64], being_made: &[i64]| {
        let ours = |vmid: &i64| OurGuest {
            at: GuestRef::new(GuestType::Lxc, Vmid::nearest(*vmid), NODE),
            revision: None,
            adopted: false,
        };
        let stamped = Stamped {
            ours: vmids.iter().map(ours).collect(),
            being_made: being_made.iter().copied().map(Vmid::nearest).collect(),
            ..Stamped::default()
        };
        unborn(|s| s.observed.stamped = Some(stamped))
    };
    let unread = |scene: Scene| told(&plan(scene.input(&scene.observed, &|| Ok(()))).next);
    for (what, scene, expected) in [
        ("two", found(&[100, 101], &[]), "stuck Ambiguous"),
        (
            "two, and one that is being made",
            found(&[100, 101], &[102]),
            "stuck Ambiguous",
        ),
        ("none yet", found(&[], &[102]), "wait CreateRunning"),
        ("one", found(&[101], &[]), "look Guest { vmid: 101,"),
        ("none", found(&[], &[]), "look VmidFree { vmid: 100,"),
    ] {
        let next = unread(scene);
        assert!(next.starts_with(expected), "{what}: {next:?} instead of {expected:?}");
    }
}

#[test]
fn a_chosen_vmid_is_given_up_only_where_anothers_stamp_shows_that_it_was_lost() {
    let refused = |s: &mut Scene| s.status().last_error = Some("CT 100 already exists on node 'pve1'".into());
    let anothers = || container().stamped(|s| s.name = "b".into());
    let unstamped = || scene(container(), |s| drop(s.guest.options.remove("description")));
    check(vec![
        (
            "another object was faster",
            scene(anothers(), refused),
            "record [NoVmid]",
        ),
        (
            "the spec names the vmid",
            scene(anothers(), |s| {
                refused(s);
                s.desired.identity.vmid = Some(VMID);
            }),
            "stuck Conflict",
        ),
        ("nobody refused it", anothers(), "stuck Conflict"),
        (
            "the spec names the vmid of somebody's guest",
            unborn(|s| {
                s.guest.options.remove("description");
                s.desired.identity.vmid = Some(VMID);
            }),
            "stuck Conflict",
        ),
        // It may be ours, with its notes edited: another one would be the second.
        ("it has no stamp", scene(unstamped(), refused), "stuck Conflict"),
    ]);
}

#[test]
fn a_guest_that_is_being_made_is_waited_for() {
    let making = |creating| {
        scene(container(), |s| {
            s.guest.options.remove("description");
            s.guest.lock = Some("create".into());
            s.observed.creating = creating;
        })
    };
    check(vec![
        ("nobody knows whether a task makes it", making(None), "look Creating"),
        ("a task makes it", making(Some(true)), "wait CreateRunning"),
        (
            "its creation was cut off",
            making(Some(false)),
            "stuck CreateInterrupted",
        ),
    ]);
}

#[test]
fn a_new_guest_takes_no_id_that_anything_else_has() {
    let row = ResourceRow {
        type_: "qemu".into(),
        node: NODE.into(),
        ..ResourceRow::default()
    };
    check(vec![
        (
            "another object has it or wants it",
            unborn(|s| {
                s.observed.reserved = [100, 101]
                    .map(|id| (Vmid::nearest(id), "another"))
                    .into_iter()
                    .collect()
            }),
            "look VmidFree { vmid: 102,",
        ),
        (
            "a guest has it",
            unborn(|s| drop(s.observed.cluster.guests.insert(Vmid::nearest(100), row))),
            "look VmidFree { vmid: 101,",
        ),
        (
            "a volume of a former guest has it",
            unborn(|s| s.observed.unusable = [100].map(Vmid::nearest).into()),
            "look VmidFree { vmid: 101,",
        ),
        (
            "all are taken",
            unborn(|s| {
                s.observed.reserved = [100, 101, 102, 103]
                    .map(|id| (Vmid::nearest(id), "another"))
                    .into_iter()
                    .collect()
            }),
            "stuck NoFreeVmid",
        ),
    ]);
}

/// A reconcile that comes after a crash must find in status what the lost one did.
#[test]
fn a_guest_is_announced_before_the_call_that_makes_it() {
    let absent = |s: &mut Scene| {
        s.status().create_sent = None;
        s.observed.guest = Some(GuestRead::NotFound);
        s.observed.cluster.guests.clear();
        let image = crate::observed::Image {
            present: true,
            ..Default::default()
        };
        let source = s.desired.source.as_ref().and_then(crate::desired::Source::image_volid);
        s.observed.images.insert(source.unwrap(), Ok(image));
    };
    let create = scene(container(), absent).next();
    assert!(create.starts_with("POST /nodes/pve1/lxc vmid=100"), "{create}");
    assert!(create.ends_with("announcing [CreateSent]"), "{create}");
    assert!(
        create.contains("state=fresh"),
        "what it copied is to be cleared: {create}"
    );
    check(vec![
        (
            "an older status came back",
            scene(container(), |s| s.status().create_sent = None),
            "record [CreateSent]",
        ),
        (
            "nobody asked which cluster answers",
            unborn(|s| s.observed.cluster.read_now = false),
            "look Cluster",
        ),
        (
            "nobody asked again before the call",
            scene(container(), |s| {
                absent(s);
                s.observed.cluster.read_now = false;
            }),
            "look Cluster",
        ),
    ]);
}

#[test]
fn a_template_at_which_something_works_is_not_copied() {
    let clone = |lock: Option<&str>, ours: bool| {
        scene(container(), |s| {
            s.desired.source = Some(Source::Clone {
                vmid: Some(Vmid::nearest(150)),
                node: NODE.into(),
                snapshot: None,
                revision: "r".into(),
                template: "base".into(),
                namespace: s.desired.key.namespace.clone(),
            });
            let stamp = Stamp {
                kind: "PhoenixTemplate".into(),
                name: if ours { "base" } else { "other" }.into(),
                ..s.desired.stamp(Vmid::nearest(150))
            };
            let row = s.observed.cluster.guests.remove(&VMID).unwrap();
            s.observed.cluster.guests.insert(Vmid::nearest(150), row);
            s.observed.guest = Some(GuestRead::NotFound);
            let parent = Guest {
                at: GuestRef::new(GuestType::Lxc, Vmid::nearest(150), NODE),
                lock: lock.map(str::to_string),
                options: BTreeMap::from([
                    ("rootfs".to_string(), "tank:base-150-disk-0,size=8G".to_string()),
                    ("description".to_string(), stamp.describe("")),
                ]),
                ..s.guest.clone()
            };
            s.observed.parent = Some(GuestRead::Present(Box::new(parent)));
        })
    };
    check(vec![
        ("a backup of it runs", clone(Some("backup"), true), "wait TemplateBusy"),
        ("it is another's guest", clone(None, false), "wait TemplateNotReady"),
        ("it is free", clone(None, true), "POST /nodes/pve1/lxc/150/clone"),
    ]);
}

#[test]
fn another_cluster_under_the_same_name_is_another() {
    let answers = |name: &str, nodes: &[&str]| {
        let identity = |name: &str, nodes: &[&str]| ProxmoxCluster {
            name: name.to_string(),
            nodes: nodes.iter().map(|n| n.to_string()).collect(),
            ca_fingerprint: None,
        };
        scene(container(), |s| {
            s.observed.cluster.recorded = Some(identity("lab", &["pve1", "pve2"]));
            s.observed.cluster.identity = identity(name, nodes);
        })
    };
    let theirs = [
        ("other nodes", answers("lab", &["node1", "node2"])),
        ("another name", answers("home", &["pve1", "pve2"])),
        ("no name", answers("", &["pve1", "pve2"])),
    ];
    for (what, scene) in theirs {
        assert_eq!(scene.next(), "stuck WrongCluster", "{what}");
        assert_eq!(scene.deletion(), "stuck WrongCluster", "{what}");
    }
    let grown = answers("lab", &["pve1", "pve2", "pve3"]);
    assert!(
        grown.deletion().starts_with("DELETE"),
        "a node that was added is no other cluster"
    );
}
