//! A guest is taken over once, when somebody asks for it, and only if it is nobody's (promise 1).

use std::collections::BTreeMap;

use crate::engine::{self, World, guest as made, hypervisor, lxc, message, rounds, template, text};
use phoenix::crd::{ADOPT, RESTAMP};
use phoenix::desired::{Key, Objects, Stamp};
use phoenix::simulator::Edit;
use serde_json::{Value, json};

/// Somebody's guest, stopped.
fn theirs(world: &World, vmid: u32, options: &[(&str, &str)]) {
    let mut all = BTreeMap::from([
        ("hostname".to_owned(), "precious".to_owned()),
        ("description".to_owned(), "mine".to_owned()),
        ("unprivileged".to_owned(), "1".to_owned()),
        ("cores".to_owned(), "2".to_owned()),
    ]);
    all.extend(options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
    let edit = Edit::CreateGuest {
        vmid,
        node: None,
        vm: false,
        options: all,
        storage: Some("quickOS-lxc-disks".into()),
    };
    world.sim().edit(edit).unwrap();
}

/// An object that takes over what is there and makes nothing.
fn adopter(name: &str, vmid: u32, fields: Value) -> Value {
    let mut object = lxc(name, fields);
    object["spec"].as_object_mut().unwrap().remove("rootfs");
    object["metadata"]["annotations"] = json!({ADOPT: vmid.to_string()});
    object
}

fn stamp(world: &World, vmid: u32) -> Option<Stamp> {
    Stamp::find(world.guests()[&vmid].get("description")?)
}

fn conflict(world: &World, key: &Key) -> bool {
    let guest = world.store.guest(key).unwrap();
    let stalled = |c: &&k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition| c.type_ == "Stalled";
    guest
        .status
        .conditions
        .iter()
        .find(stalled)
        .is_some_and(|c| c.reason == "Conflict")
}

fn writes(world: &World) -> usize {
    world.sim().requests().iter().filter(|r| r.method != "GET").count()
}

/// The annotation stays in Git for ever.
#[tokio::test(start_paused = true)]
async fn an_adopt_annotation_is_honoured_once() {
    let mut world = World::with_ssh(&[]).await;
    theirs(&world, 500, &[]);
    let script = json!({"script": "#!/bin/sh\nrm -rf /srv\n"});
    let key = world
        .store
        .apply(adopter("old", 500, json!({"cores": 3, "application": script})));
    world.settle(false).await.unwrap();
    assert_eq!(world.store.guest(&key).unwrap().status.adopted, Some(true));
    assert!(stamp(&world, 500).unwrap().adopted);
    // Somebody destroys it, and somebody else's new guest gets the lowest free id.
    world.sim().edit(Edit::RemoveGuest { vmid: 500 }).unwrap();
    theirs(&world, 500, &[("hostname", "a-database")]);
    let before = text(&world, 500);
    for _ in 0..2 {
        rounds(&world, 30).await;
        assert_eq!(text(&world, 500), before);
        assert!(conflict(&world, &key), "{}", message(&world, &key));
        world.restart();
    }
    // Deleting the object leaves it alone, too.
    world.store.delete(&key);
    rounds(&world, 30).await;
    assert!(world.store.guest(&key).is_none());
    assert_eq!(text(&world, 500), before);
}

/// With status lost, the object's own stamp comes before what the annotation names.
#[tokio::test(start_paused = true)]
async fn with_status_lost_the_own_guest_is_found_and_no_other_is_adopted() {
    let mut world = World::new(&[]).await;
    theirs(&world, 500, &[]);
    let key = world.store.apply(adopter("old", 500, json!({"cores": 3})));
    world.settle(false).await.unwrap();
    // The annotation was edited, or names a stranger by mistake, when the status is lost.
    theirs(&world, 600, &[]);
    let before = text(&world, 600);
    world.store.apply(adopter("old", 600, json!({"cores": 3})));
    world
        .store
        .objects
        .update_guest(&key, |g| g.status = Default::default());
    world.restart();
    world.settle(false).await.unwrap();
    let status = world.store.guest(&key).unwrap().status;
    assert_eq!((status.vmid, status.adopted), (Some(500), Some(true)));
    assert_eq!(text(&world, 600), before);
}

/// A copy of the adopted guest tells that the annotation was honoured, although the guest and its status are gone.
#[tokio::test(start_paused = true)]
async fn a_stranger_is_not_adopted_when_a_copy_tells_that_it_was_done_before() {
    let mut world = World::new(&[]).await;
    theirs(&world, 500, &[]);
    let key = world.store.apply(adopter("old", 500, json!({"cores": 3})));
    world.settle(false).await.unwrap();
    let stamped = world.guests()[&500]["description"].clone();
    theirs(&world, 501, &[("description", &stamped), ("tags", "phoenix")]);
    world.sim().edit(Edit::RemoveGuest { vmid: 500 }).unwrap();
    theirs(&world, 500, &[]);
    let before = (text(&world, 500), text(&world, 501));
    world
        .store
        .objects
        .update_guest(&key, |g| g.status = Default::default());
    rounds(&world, 30).await;
    assert!(conflict(&world, &key), "{}", message(&world, &key));
    assert_eq!((text(&world, 500), text(&world, 501)), before);
}

/// Two objects ask for one guest: one gets it, whatever the order, and the other never does.
#[tokio::test(start_paused = true)]
async fn of_two_adopters_one_wins_for_good() {
    for order in [["one", "two"], ["two", "one"]] {
        let mut world = World::new(&[]).await;
        theirs(&world, 500, &[]);
        let keys = order.map(|name| {
            let cores = if name == "one" { 3 } else { 4 };
            world.store.apply(adopter(name, 500, json!({"cores": cores})))
        });
        let both = async |world: &World| {
            for _ in 0..10 {
                world.poll().await;
                tokio::join!(world.look_at(&keys[0]), world.look_at(&keys[1]));
                world.pause().await;
            }
        };
        both(&world).await;
        let winner = stamp(&world, 500).unwrap().name;
        let loser = keys.iter().find(|k| k.name != winner).unwrap();
        world.settle(true).await.unwrap();
        let (before, sent) = (text(&world, 500), writes(&world));
        for forget in [false, false, true, true] {
            if forget {
                for key in &keys {
                    world.store.objects.update_guest(key, |g| g.status = Default::default());
                }
            }
            world.restart();
            both(&world).await;
            assert!(conflict(&world, loser), "{}", message(&world, loser));
            assert_eq!(stamp(&world, 500).unwrap().name, winner);
            assert_eq!(text(&world, 500), before);
        }
        assert_eq!(writes(&world), sent, "the guest is written again and again");
        // When the winner lets it go, the other may have it.
        let winner = keys.iter().find(|k| k.name == winner).unwrap();
        world.store.delete(winner);
        world.settle(true).await.unwrap();
        world.settle(false).await.unwrap();
        assert_eq!(stamp(&world, 500).unwrap().name, loser.name);
    }
}

/// What a live object of any namespace and kind has is never taken.
#[tokio::test(start_paused = true)]
async fn what_another_object_has_is_not_adopted() {
    let mut world = World::new(&[]).await;
    hypervisor(&world, |h| {
        let all = json!({"from": "All"});
        h.spec.allowed_namespaces = Some(serde_json::from_value(all).unwrap());
    });
    world.store.objects.insert_namespace("tenant", BTreeMap::new());
    let owner = world.store.apply(made("db", json!({})));
    let template = world.store.apply(engine::template("base", "Snapshot"));
    world.settle(false).await.unwrap();
    let vmids = [&owner, &template].map(|k| world.store.guest(k).unwrap().status.vmid.unwrap() as u32);
    let before = vmids.map(|vmid| text(&world, vmid));
    for vmid in vmids {
        for (namespace, kind) in [
            ("ai", "PhoenixLXC"),
            ("tenant", "PhoenixLXC"),
            ("ai", "PhoenixTemplate"),
        ] {
            let mut thief = adopter("thief", vmid, json!({"deletionPolicy": "Delete"}));
            if kind == "PhoenixTemplate" {
                let annotations = thief["metadata"]["annotations"].clone();
                thief = engine::template("thief", "Snapshot");
                thief["metadata"]["annotations"] = annotations;
            }
            thief["metadata"]["namespace"] = json!(namespace);
            thief["spec"]["hypervisorRef"] = json!({"name": "pve", "namespace": "ai"});
            let thief = world.store.apply(thief);
            rounds(&world, 5).await;
            world.restart();
            rounds(&world, 5).await;
            let refused = world.store.guest(&thief).unwrap().status;
            assert_eq!(refused.vmid, None, "{thief}: {:?}", refused.message);
            world.store.delete(&thief);
            rounds(&world, 5).await;
            assert!(
                world.store.guest(&thief).is_none(),
                "{:?}",
                world.store.guest(&thief).unwrap().status.message
            );
        }
    }
    assert_eq!(vmids.map(|vmid| text(&world, vmid)), before);
    assert!(
        [&owner, &template]
            .iter()
            .all(|k| world.store.guest(k).unwrap().is_ready())
    );
}

/// A stamp of another object's is proof enough, whoever keeps that object.
#[tokio::test(start_paused = true)]
async fn a_guest_with_anothers_stamp_is_not_adopted_but_a_copy_is() {
    for (cluster, vmid, free) in [
        (engine::CLUSTER, 500, false),
        ("elsewhere", 500, false),
        (engine::CLUSTER, 499, true),
    ] {
        let mut world = World::new(&[]).await;
        let line = format!(
            "<!-- phoenix-hypervisor.io cluster={cluster} kind=PhoenixVM namespace=x name=y uid=u vmid={vmid} -->"
        );
        theirs(&world, 500, &[("description", &line)]);
        let before = text(&world, 500);
        let key = world.store.apply(adopter("a", 500, json!({"cores": 3})));
        world.settle(true).await.unwrap();
        assert_eq!(
            world.store.guest(&key).unwrap().is_ready(),
            free,
            "{}",
            message(&world, &key)
        );
        assert_eq!(text(&world, 500) == before, !free);
    }
}

/// Owner containers, their copies and their ids are nobody's.
#[tokio::test(start_paused = true)]
async fn owner_containers_and_their_ids_are_nobodys() {
    let mut world = World::new(&[]).await;
    let volumes = json!([{"name": "models", "size": "5Gi", "mountPath": "/models"}]);
    let key = world.store.apply(made("db", json!({"volumes": volumes})));
    world.settle(false).await.unwrap();
    world.store.delete(&key);
    world.settle(false).await.unwrap();
    let stamped = world.guests()[&9900]["description"].clone();
    theirs(&world, 700, &[("description", &stamped)]);
    let before = [9900, 700].map(|vmid| text(&world, vmid));
    for vmid in [9900, 700] {
        // Also when the range is another one now.
        for (first, last) in [(9900, 9909), (9950, 9959)] {
            hypervisor(&world, |h| {
                let owners = h.spec.volume_owners.as_mut().unwrap();
                (owners.id_range.start, owners.id_range.end) = (first, last);
            });
            let thief = world
                .store
                .apply(adopter("thief", vmid, json!({"powerState": "Stopped"})));
            rounds(&world, 10).await;
            // An id of today's range is refused before anything is looked at.
            let told = message(&world, &thief);
            assert!(
                conflict(&world, &thief) || told.contains("volumeOwners.idRange"),
                "{told}"
            );
            world.store.delete(&thief);
            rounds(&world, 3).await;
        }
    }
    assert_eq!([9900, 700].map(|vmid| text(&world, vmid)), before);
    hypervisor(&world, |h| {
        let owners = h.spec.volume_owners.as_mut().unwrap();
        (owners.id_range.start, owners.id_range.end) = (9900, 9909);
    });
    // Nor is one of their ids given to a guest, whether the spec names it or the range for guests has it, too.
    let named = world.store.apply(made("named", json!({"vmid": 9905})));
    rounds(&world, 10).await;
    let told = message(&world, &named);
    assert!(
        told.contains("spec.vmid: 9905") && told.contains("volumeOwners.idRange"),
        "{told}"
    );
    hypervisor(&world, |h| {
        let range = h.spec.vmid_range.as_mut().unwrap();
        (range.start, range.end) = (9901, 9912);
    });
    world.store.delete(&named);
    let chosen = world.store.apply(made("chosen", json!({})));
    world.settle(false).await.unwrap();
    assert_eq!(world.store.guest(&chosen).unwrap().status.vmid, Some(9910));
}

/// A guest that was kept when its object went still holds that object's volumes.
#[tokio::test(start_paused = true)]
async fn a_guest_that_holds_anothers_volumes_is_taken_only_by_the_object_that_they_are_kept_for() {
    let mut world = World::new(&[]).await;
    let fields = |path: &str| {
        let volumes = json!([{"name": "models", "size": "5Gi", "mountPath": path}]);
        json!({"volumes": volumes, "deletionPolicy": "Retain"})
    };
    let key = world.store.apply(made("db", fields("/models")));
    world.settle(false).await.unwrap();
    world.store.delete(&key);
    world.settle(false).await.unwrap();
    assert_eq!(stamp(&world, 1000), None);
    let before = text(&world, 1000);
    let thief = world.store.apply(adopter("thief", 1000, json!({})));
    rounds(&world, 10).await;
    assert!(
        conflict(&world, &thief) && message(&world, &thief).contains("/lxc/ai/db/models"),
        "{}",
        message(&world, &thief)
    );
    assert_eq!(text(&world, 1000), before);
    let again = world.store.apply(adopter("db", 1000, fields("/models")));
    world.store.delete(&thief);
    world.settle(false).await.unwrap();
    assert!(world.store.guest(&again).unwrap().is_ready());
    let kept = world
        .guests()
        .values()
        .filter(|g| g.values().any(|v| v.contains("mp=/lxc/ai/db/models")))
        .count();
    assert_eq!(kept, 1);
}

/// What the spec names has to be free, also where nothing is adopted.
#[tokio::test(start_paused = true)]
async fn a_vmid_of_another_object_is_not_used() {
    let mut world = World::new(&[]).await;
    // Both name one id, and the first is only recorded when the operator is killed.
    let first = world
        .store
        .apply(made("first", json!({"vmid": 1005, "node": "phoenix"})));
    world.store.objects.update_guest(&first, |g| g.status.vmid = Some(1005));
    let second = world.store.apply(made("second", json!({"vmid": 1005})));
    world.poll().await;
    for _ in 0..3 {
        world.look_at(&second).await;
        assert!(conflict(&world, &second), "{}", message(&world, &second));
        assert!(message(&world, &second).contains("PhoenixLXC ai/first"));
        world.restart();
        world.poll().await;
    }
    world.settle(true).await.unwrap();
    assert!(world.store.guest(&first).unwrap().is_ready() && conflict(&world, &second));
    // An object that waits costs no requests.
    let sent = world.sim().requests().len();
    world.look_at(&second).await;
    assert_eq!(world.sim().requests().len(), sent);
}

/// With the id of the management cluster lost, a second guest would get the name and address of the first.
#[tokio::test(start_paused = true)]
async fn the_stamp_of_another_management_cluster_stops_a_second_guest() {
    for (kind, vmid) in [
        ("PhoenixLXC", None),
        ("PhoenixLXC", Some(1000)),
        ("PhoenixVM", None),
        ("PhoenixTemplate", None),
    ] {
        let mut world = World::with_ssh(&[]).await;
        let mut object = match kind {
            "PhoenixLXC" => made("a", json!({})),
            "PhoenixVM" => engine::vm("a", json!({})),
            _ => engine::template("a", "Snapshot"),
        };
        if let Some(vmid) = vmid {
            object["spec"]["vmid"] = json!(vmid);
        }
        let key = world.store.apply(object);
        world.settle(false).await.unwrap();
        let old = stamp(&world, 1000).unwrap();
        let foreign = Stamp {
            cluster: "the-old-one".into(),
            ..old
        };
        let options = BTreeMap::from([("description".to_owned(), Some(foreign.to_string()))]);
        world.sim().edit(Edit::SetOptions { vmid: 1000, options }).unwrap();
        world
            .store
            .objects
            .update_guest(&key, |g| g.status = Default::default());
        world.restart();
        rounds(&world, 20).await;
        let told = message(&world, &key);
        assert!(conflict(&world, &key), "{told}");
        for words in ["the-old-one", "previousClusterIds", "--cluster-id"] {
            assert!(told.contains(words), "{told}");
        }
        assert_eq!(world.guests().len(), 1, "{kind}");
        hypervisor(&world, |h| {
            h.spec.previous_cluster_ids = Some(vec!["the-old-one".into()])
        });
        world.settle(false).await.unwrap();
        assert_eq!(world.guests().len(), 1, "{kind}");
        assert_eq!(stamp(&world, 1000).unwrap().cluster, engine::CLUSTER);
    }
}

/// Notes edited in the GUI take the stamp away.
#[tokio::test(start_paused = true)]
async fn a_lost_stamp_is_written_anew_when_asked_for_and_keeps_the_origin() {
    for adopted in [false, true] {
        let mut world = World::new(&[]).await;
        let mut object = match adopted {
            true => {
                theirs(&world, 1000, &[]);
                adopter("a", 1000, json!({"cores": 2}))
            }
            false => made("a", json!({})),
        };
        let key = world.store.apply(object.clone());
        world.settle(false).await.unwrap();
        let old = stamp(&world, 1000).unwrap();
        let notes = |world: &World, text: &str| {
            let options = BTreeMap::from([("description".to_owned(), Some(text.to_owned()))]);
            world.sim().edit(Edit::SetOptions { vmid: 1000, options }).unwrap();
        };
        notes(&world, "call Ann before you stop it");
        world.restart();
        rounds(&world, 10).await;
        let told = message(&world, &key);
        assert!(conflict(&world, &key), "{told}");
        assert!(
            told.contains("lost it") && told.contains(RESTAMP) && !told.contains("not made by Phoenix"),
            "{told}"
        );
        object["metadata"]["annotations"][RESTAMP] = json!("1000");
        world.store.apply(object.clone());
        world.settle(false).await.unwrap();
        assert_eq!(stamp(&world, 1000).unwrap(), old);
        assert!(world.guests()[&1000]["description"].starts_with("call Ann before you stop it"));
        assert_eq!(world.store.guest(&key).unwrap().status.claim, None);
        // The annotation is spent: left in Git it takes nothing, not even a stranger with the tag.
        world.sim().edit(Edit::RemoveGuest { vmid: 1000 }).unwrap();
        theirs(&world, 1000, &[("tags", "phoenix")]);
        let before = text(&world, 1000);
        for _ in 0..2 {
            world.restart();
            rounds(&world, 10).await;
            assert!(conflict(&world, &key), "{}", message(&world, &key));
            assert_eq!(text(&world, 1000), before);
        }
    }
}

/// What carries another stamp, is another object's, or is not known by its tag, is not taken by a restamp either.
#[tokio::test(start_paused = true)]
async fn a_restamp_takes_no_strangers_guest() {
    let other = format!(
        "<!-- phoenix-hypervisor.io cluster={} kind=PhoenixVM namespace=x name=y uid=u vmid=1000 -->",
        engine::CLUSTER
    );
    let owner = other
        .replace("PhoenixVM", "VolumeOwner")
        .replace("vmid=1000", "vmid=9900");
    for options in [
        vec![("description", "mine")],
        vec![("description", other.as_str()), ("tags", "phoenix")],
        vec![("description", owner.as_str()), ("tags", "phoenix")],
    ] {
        let mut world = World::new(&[]).await;
        let mut object = made("a", json!({}));
        let key = world.store.apply(object.clone());
        world.settle(false).await.unwrap();
        world.sim().edit(Edit::RemoveGuest { vmid: 1000 }).unwrap();
        theirs(&world, 1000, &options);
        let before = text(&world, 1000);
        object["metadata"]["annotations"] = json!({RESTAMP: "1000"});
        world.store.apply(object);
        for _ in 0..2 {
            world.restart();
            rounds(&world, 10).await;
            assert!(conflict(&world, &key), "{}", message(&world, &key));
            assert_eq!(text(&world, 1000), before);
        }
    }
}

/// The operator is killed at each point of taking a guest over, or somebody edits the guest meanwhile.
#[tokio::test(start_paused = true)]
async fn a_claim_that_is_cut_off_anywhere_is_carried_out_once() {
    for at in 0..12 {
        let mut world = World::new(&[at]).await;
        theirs(&world, 500, &[]);
        let key = world.store.apply(adopter("a", 500, json!({"cores": 3})));
        world.settle(false).await.unwrap();
        let status = world.store.guest(&key).unwrap().status;
        assert_eq!(
            (status.vmid, status.adopted, status.claim),
            (Some(500), Some(true), None)
        );
    }
    let mut world = World::new(&[]).await;
    theirs(&world, 500, &[]);
    let sim = world.sim().clone();
    let edit = move || {
        let options = BTreeMap::from([("cores".to_owned(), Some("7".to_owned()))]);
        sim.edit(Edit::SetOptions { vmid: 500, options }).unwrap();
    };
    *world.wire.meddle.lock().unwrap() = Some(("take over", Box::new(edit)));
    let key = world.store.apply(adopter("a", 500, json!({})));
    world.settle(false).await.unwrap();
    assert!(world.wire.meddle.lock().unwrap().is_none());
    assert_eq!(world.store.guest(&key).unwrap().status.adopted, Some(true));
}

/// Otherwise a new guest would be made beside the one that is to be adopted.
#[tokio::test(start_paused = true)]
async fn an_annotation_that_cannot_be_followed_makes_no_second_guest() {
    for (value, vmid, words) in [
        ("500", Some(1005), "spec.vmid: 1005"),
        ("abc", None, "\"abc\" is no id"),
        ("", None, "\"\" is no id"),
        ("-1", None, "-1 is no id"),
        ("99", None, "99 is no id"),
    ] {
        let world = World::new(&[]).await;
        theirs(&world, 500, &[]);
        let mut object = made("a", json!({}));
        if let Some(vmid) = vmid {
            object["spec"]["vmid"] = json!(vmid);
        }
        object["metadata"]["annotations"] = json!({ADOPT: value});
        let key = world.store.apply(object);
        rounds(&world, 20).await;
        assert_eq!(world.guests().len(), 1, "{value:?}");
        let told = message(&world, &key);
        assert!(told.contains(ADOPT) && told.contains(words), "{value:?}: {told}");
    }
}

#[tokio::test(start_paused = true)]
async fn blanks_around_the_id_do_not_matter() {
    let mut world = World::new(&[]).await;
    theirs(&world, 500, &[]);
    let mut object = made("a", json!({}));
    object["metadata"]["annotations"] = json!({ADOPT: " 500\n"});
    world.store.apply(object);
    world.settle(false).await.unwrap();
    assert_eq!(world.guests().len(), 1);
}

/// It could not be started; nothing is put on it.
#[tokio::test(start_paused = true)]
async fn a_proxmox_template_is_not_adopted_as_a_guest() {
    let world = World::new(&[]).await;
    theirs(&world, 500, &[("template", "1")]);
    let key = world.store.apply(adopter("a", 500, json!({})));
    let before = text(&world, 500);
    rounds(&world, 20).await;
    assert!(conflict(&world, &key), "{}", message(&world, &key));
    assert!(message(&world, &key).contains("is a Proxmox template"));
    assert_eq!(text(&world, 500), before);
}

/// Nobody can say whose it is.
#[tokio::test(start_paused = true)]
async fn a_guest_with_a_damaged_stamp_or_two_is_not_adopted() {
    let whole = |vmid: i64| {
        format!("<!-- phoenix-hypervisor.io cluster=c kind=PhoenixLXC namespace=x name=y uid=u vmid={vmid} -->")
    };
    for notes in [
        format!("{} words after it", whole(500)),
        whole(500).replace("vmid=500", "vmid=x"),
        format!("{}\n{}", whole(500), whole(499)),
        format!("{}\nwords\n{}", whole(499), whole(500).replace("uid=u ", "")),
    ] {
        let world = World::new(&[]).await;
        theirs(&world, 500, &[("description", &notes)]);
        let before = world.guests();
        let key = world.store.apply(adopter("a", 500, json!({})));
        rounds(&world, 20).await;
        assert!(conflict(&world, &key), "{notes}: {}", message(&world, &key));
        assert_eq!(world.guests(), before, "{notes}");
    }
}

/// The backup of a cluster may be older than the guests.
#[tokio::test(start_paused = true)]
async fn an_old_status_finds_its_guest_though_the_old_vmid_is_somebody_elses() {
    for other in ["another object's", "nobody's"] {
        let mut world = World::new(&[]).await;
        let key = world.store.apply(made("a", json!({})));
        world.settle(false).await.unwrap();
        let old = world.store.guest(&key).unwrap().status;
        world.store.delete(&key);
        world.settle(false).await.unwrap();
        if other == "nobody's" {
            theirs(&world, 1000, &[]);
        } else {
            world.store.apply(made("b", json!({})));
            world.settle(false).await.unwrap();
        }
        let key = world.store.apply(made("a", json!({})));
        world.settle(false).await.unwrap();
        let before = world.guests();
        world
            .store
            .objects
            .update_guest(&key, |guest| guest.status = old.clone());
        world.restart();
        world.settle(false).await.unwrap();
        assert_eq!(world.store.guest(&key).unwrap().status.vmid, Some(1001), "{other}");
        assert_eq!(world.guests(), before, "{other}");
    }
}

/// Many that are made at once ask about an id each.
#[tokio::test(start_paused = true)]
async fn choosing_ids_costs_as_much_for_many_as_for_one() {
    let mut world = World::new(&[]).await;
    hypervisor(&world, |h| {
        h.spec.vmid_range = serde_json::from_value(json!({"start": 1000, "end": 1099})).unwrap();
    });
    world.poll().await;
    let keys: Vec<Key> = (0..20)
        .map(|n| world.store.apply(made(&format!("g{n}"), json!({"network": []}))))
        .collect();
    futures::future::join_all(keys.iter().map(|key| world.look_at(key))).await;
    world.settle(false).await.unwrap();
    let asked = world
        .sim()
        .requests()
        .iter()
        .filter(|r| r.path == "/cluster/nextid")
        .count();
    assert!(
        asked <= 25,
        "{asked} times it was asked whether an id is free, for 20 guests"
    );
    assert_eq!(world.guests().len(), 20);
}

/// Proxmox converts no guest with snapshots (facts D.10). Who asks for it is told before the guest is started and built.
#[tokio::test(start_paused = true)]
async fn a_guest_with_snapshots_is_not_made_a_template() {
    let mut world = World::with_ssh(&[]).await;
    theirs(&world, 500, &[]);
    engine::edit(
        &world,
        Edit::Snapshot {
            vmid: 500,
            name: "pre-configured".into(),
        },
    );
    let mut object = template("base", "Template");
    object["spec"]["lxc"].as_object_mut().unwrap().remove("rootfs");
    object["metadata"]["annotations"] = json!({ADOPT: "500"});
    let key = world.store.apply(object.clone());
    rounds(&world, 20).await;
    let told = message(&world, &key);
    assert!(told.contains("spec.form") && told.contains("pre-configured"), "{told}");
    let requests = world.sim().requests();
    let started = requests
        .iter()
        .filter(|r| r.path.ends_with("/status/start") || r.path.ends_with("/500/template"));
    assert_eq!(started.count(), 0);
    // With the form that the guest has it is Ready as it is.
    object["spec"]["form"] = json!("Snapshot");
    object["spec"]["snapshotName"] = json!("pre-configured");
    world.store.apply(object);
    world.settle(false).await.unwrap();
    assert!(world.store.guest(&key).unwrap().is_ready());
}
