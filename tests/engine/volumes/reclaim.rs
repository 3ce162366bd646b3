//! Edits of a volume's policy, name and place, several at once and half-way: nothing that somebody wants kept is
//! destroyed, and nothing empty takes its place unsaid.

use super::*;

fn stopped() -> Value {
    json!({"powerState": "Stopped"})
}

fn one(volume: Value, fields: Value) -> Value {
    container(json!([volume]), fields)
}

fn kept() -> Value {
    volume("x", "/x", "Retain")
}

fn own() -> Value {
    volume("x", "/x", "Delete")
}

fn without() -> Value {
    container(json!([]), stopped())
}

/// Until everything is Ready or Stalled.
async fn settle(world: &mut World) {
    world.settle(true).await.unwrap();
}

async fn delete(world: &World, key: &Key) {
    world.store.delete(key);
    rounds(world, 60).await;
}

fn gone(world: &World, key: &Key) -> bool {
    world.store.guest(key).is_none()
}

/// The spec says Retain now, whether or not anybody was told before the deletion.
#[tokio::test(start_paused = true)]
async fn a_volume_that_the_spec_retains_is_not_destroyed() {
    for stalled in [false, true] {
        let (mut world, key) = world(one(own(), json!({}))).await;
        let feature = json!({"features": [{"name": "nosuch"}]});
        world
            .store
            .apply(one(kept(), if stalled { feature } else { json!({}) }));
        if stalled {
            settle(&mut world).await;
        }
        delete(&world, &key).await;
        assert!(!volumes_of(&world, VMID).is_empty(), "stalled: {stalled}");
        assert_eq!(told(&world, &key).0, "UnaccountedVolumes");
    }
}

/// Two running guests on one filesystem destroy it.
#[tokio::test(start_paused = true)]
async fn a_retained_volume_is_in_one_guest_only() {
    let object = || one(kept(), json!({"deletionPolicy": "Retain"}));
    let (mut world, key) = world(object()).await;
    let before = mounts(&world);
    delete(&world, &key).await;
    world.store.apply(object());
    settle(&mut world).await;
    let volid = &before["/x"];
    let users = |world: &World| {
        let guests = world.guests();
        let uses = |o: &&BTreeMap<String, String>| o.values().any(|v| v.starts_with(volid) && v.contains("mp=/x"));
        guests.values().filter(uses).count()
    };
    assert_eq!(users(&world), 1);
    let (reason, message) = told(&world, &key);
    assert_eq!(reason, "VolumeHeld", "{message}");
    for words in [
        "spec.volumes[x]",
        volid,
        "container 1000",
        "adopt",
        "pct set 1000 -delete mp0",
    ] {
        assert!(message.contains(words), "{words} is not in: {message}");
    }
    assert_eq!(world.guests().len(), 2, "no second guest was made");
    // A running container has what it was started with until it is stopped.
    detach(&world, "mp0");
    settle(&mut world).await;
    assert_eq!((users(&world), told(&world, &key).0.as_str()), (1, "VolumeHeld"));
    power(&world, false);
    let options = BTreeMap::from([("mp0".to_owned(), None)]);
    world.sim().edit(Edit::SetOptions { vmid: VMID, options }).unwrap();
    world.sim().with(|state| {
        let guest = state.guests.get_mut(&VMID).unwrap();
        guest.edit(|c| {
            c.pending.clear();
            c.pending_delete.clear();
        });
    });
    world.settle(false).await.unwrap();
    assert_eq!(users(&world), 1);
}

/// What is kept for the object is not covered by an empty volume because the spec says Delete now.
#[tokio::test(start_paused = true)]
async fn retained_data_is_not_covered_by_an_empty_volume_that_goes() {
    for how in ["removed", "by hand", "anew", "gone"] {
        let (mut world, key) = world(one(kept(), stopped())).await;
        let before = mounts(&world);
        match how {
            "removed" => {
                world.store.apply(without());
                settle(&mut world).await;
            }
            "by hand" => detach(&world, "mp0"),
            "anew" => delete(&world, &key).await,
            _ => {
                world.sim().with(|s| s.guests.remove(&VMID));
            }
        }
        world.store.apply(one(own(), stopped()));
        settle(&mut world).await;
        let found: Vec<String> = world
            .guests()
            .iter()
            .filter(|(vmid, _)| **vmid != OWNER)
            .flat_map(|(_, o)| o.values().cloned())
            .filter(|v| v.contains("mp=/x"))
            .collect();
        assert!(
            found.len() == 1 && found[0].starts_with(&before["/x"]),
            "{how}: {found:?}"
        );
        let message = condition(&world, &key, "RecreateRequired").unwrap_or_default();
        assert!(
            message.contains("volumes[x].reclaimPolicy is Retain"),
            "{how}: {message}"
        );
    }
}

/// The volume is the guest's own and stays so; it is attached again, accounted for and told of.
#[tokio::test(start_paused = true)]
async fn a_detached_volume_that_becomes_retained_is_neither_replaced_nor_forgotten() {
    for by_hand in [false, true] {
        let (mut world, key) = world(one(own(), stopped())).await;
        let before = mounts(&world);
        if by_hand {
            detach(&world, "mp0");
        } else {
            world.store.apply(without());
            settle(&mut world).await;
        }
        world.store.apply(one(kept(), stopped()));
        settle(&mut world).await;
        assert_eq!(mounts(&world), before, "by hand: {by_hand}");
        assert!(condition(&world, &key, "VolumeNotRetained").is_some());
        world.store.apply(one(own(), stopped()));
        settle(&mut world).await;
        delete(&world, &key).await;
        assert!(gone(&world, &key), "{:?}", told(&world, &key));
    }
}

/// The registry's key follows the name, so that the volume is found again by it.
#[tokio::test(start_paused = true)]
async fn the_key_follows_the_name_through_an_edit_of_the_policy() {
    let (mut world, key) = world(one(volume("a", "/x", "Retain"), json!({}))).await;
    let before = mounts(&world);
    for policy in ["Delete", "Retain"] {
        world.store.apply(one(volume("b", "/x", policy), json!({})));
        settle(&mut world).await;
        assert!(
            world.store.guest(&key).unwrap().is_ready(),
            "{policy}: {:?}",
            told(&world, &key)
        );
    }
    delete(&world, &key).await;
    world
        .store
        .apply(one(volume("b", "/x", "Retain"), json!({"vmid": VMID})));
    settle(&mut world).await;
    assert_eq!(mounts(&world), before);
}

#[tokio::test(start_paused = true)]
async fn a_rename_that_is_taken_back_half_way_is_undone_on_the_owner() {
    let named = |name: &str| one(volume(name, "/x", "Retain"), json!({"vmid": VMID}));
    let (mut world, key) = world(named("a")).await;
    let before = mounts(&world);
    let store = world.store.clone();
    let back = named("a");
    *world.wire.meddle.lock().unwrap() = Some((
        "protect owner container",
        Box::new(move || {
            store.apply(back.clone());
        }),
    ));
    world.store.apply(named("b"));
    settle(&mut world).await;
    rounds(&world, 10).await;
    assert_eq!(condition(&world, &key, "VolumeUnclaimed"), None);
    delete(&world, &key).await;
    world.store.apply(named("a"));
    settle(&mut world).await;
    assert_eq!(mounts(&world), before);
}

/// The operator died between the call and its record.
#[tokio::test(start_paused = true)]
async fn a_volume_that_was_announced_is_not_forgotten() {
    for volumes in [
        json!([volume("x", "/y", "Delete")]),
        json!([]),
        json!([volume("z", "/x", "Delete")]),
        json!([volume("x", "/x", "Delete")]),
    ] {
        let (mut world, key) = world(one(own(), stopped())).await;
        let before = volumes_of(&world, VMID);
        world.store.objects.update_guest(&key, |guest| {
            for volume in guest.status.volumes.iter_mut().flatten() {
                (volume.volid, volume.size_gib) = (None, None);
            }
        });
        world.store.apply(container(volumes.clone(), stopped()));
        settle(&mut world).await;
        assert_eq!(volumes_of(&world, VMID), before, "{volumes}");
        delete(&world, &key).await;
        assert!(gone(&world, &key), "{volumes}: {:?}", told(&world, &key));
    }
}

/// It was announced, and the object is deleted before anybody looked.
#[tokio::test(start_paused = true)]
async fn a_volume_that_was_announced_goes_with_its_guest() {
    let (world, key) = world(one(own(), stopped())).await;
    world.store.objects.update_guest(&key, |guest| {
        for volume in guest.status.volumes.iter_mut().flatten() {
            (volume.volid, volume.size_gib) = (None, None);
        }
    });
    world.store.apply(without());
    delete(&world, &key).await;
    assert!(gone(&world, &key), "{:?}", told(&world, &key));
}

/// Proxmox lists no `unusedN` for what a snapshot still uses; the record says that it may go.
#[tokio::test(start_paused = true)]
async fn a_volume_that_only_a_snapshot_has_goes_with_its_guest_where_it_may() {
    for policy in ["Delete", "Retain"] {
        let (mut world, key) = world(one(own(), stopped())).await;
        world.sim().with(|state| {
            state.guests.get_mut(&VMID).unwrap().edit(|c| {
                c.snapshots.insert("before".into(), c.current.clone());
                c.current.options.remove("mp0");
            });
        });
        world.store.objects.update_guest(&key, |guest| {
            let mut volumes = guest.status.volumes.iter_mut().flatten();
            volumes.all(|v| v.reclaim_policy.replace(policy.into()).is_some());
        });
        world.store.delete(&key);
        settle(&mut world).await;
        assert_eq!(gone(&world, &key), policy == "Delete", "{policy}");
    }
}

/// A rename and another policy at once, which no reconcile saw, and a snapshot of before.
#[tokio::test(start_paused = true)]
async fn what_the_spec_retains_is_not_freed_by_a_snapshot() {
    let (world, key) = world(one(volume("a", "/x", "Delete"), stopped())).await;
    world.sim().with(|state| {
        let guest = state.guests.get_mut(&VMID).unwrap();
        guest.edit(|c| drop(c.snapshots.insert("before".into(), c.current.clone())));
    });
    world.store.apply(one(volume("b", "/x", "Retain"), stopped()));
    delete(&world, &key).await;
    assert!(!volumes_of(&world, VMID).is_empty());
    assert_eq!(told(&world, &key).0, "UnaccountedVolumes");
}

/// A kept volume whose attachment is refused holds no other back, and the owner is not opened and closed meanwhile.
#[tokio::test(start_paused = true)]
async fn an_attachment_that_is_refused_is_waited_for() {
    let (mut world, key) = world(without()).await;
    let scale = std::mem::replace(&mut world.time_scale, 1.0);
    world.restart();
    world.sim().clear_requests();
    let refused = phoenix::simulator::Fault {
        method: Some("PUT".into()),
        path: Some("^/nodes/phoenix/lxc/1000/config$".into()),
        skip: 0,
        count: 1,
        kind: phoenix::simulator::FaultKind::Status {
            status: 400,
            message: "hotplug problem".into(),
        },
    };
    world.sim().add_fault(refused);
    let list = json!([volume("a", "/a", "Retain"), volume("b", "/b", "Retain")]);
    world.store.apply(container(list.clone(), stopped()));
    rounds(&world, 60).await;
    let paths: Vec<String> = mounts(&world).into_keys().collect();
    assert_eq!(paths, ["/b"], "{:?}", told(&world, &key));
    let requests = world.sim().requests();
    let writes = requests.iter().filter(|r| r.method == "PUT").count();
    assert!(writes <= 10, "{writes} writes");
    assert_eq!(world.guests()[&OWNER]["protection"], "1");
    world.time_scale = scale;
    world.restart();
    world
        .store
        .apply(container(list, json!({"powerState": "Stopped", "cores": 3})));
    settle(&mut world).await;
    assert_eq!(mounts(&world).len(), 2);
}

fn disks(names: &[&str], fields: Value) -> Value {
    let root = json!({"name": "root", "size": "20Gi"});
    let list: Vec<Value> = names.iter().map(|n| json!({"name": n, "size": "2Gi"})).collect();
    let mut fields = fields;
    fields["disks"] = json!([vec![root], list].concat());
    fields["powerState"] = json!("Stopped");
    vm("a", fields)
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_left_the_spec_goes_with_its_machine() {
    for stalled in [false, true] {
        let (mut world, key) = world(disks(&["data"], json!({}))).await;
        let feature = json!({"features": [{"name": "nosuch"}]});
        world.store.apply(disks(&[], if stalled { feature } else { json!({}) }));
        if stalled {
            settle(&mut world).await;
        }
        delete(&world, &key).await;
        assert!(gone(&world, &key), "{stalled}: {:?}", told(&world, &key));
    }
}

/// An earlier volume or disk that the guest still holds is told of, with what becomes of it.
#[tokio::test(start_paused = true)]
async fn what_left_the_spec_and_is_still_held_is_told_of() {
    let (mut vm_world, key) = world(disks(&["data"], json!({}))).await;
    vm_world.store.apply(disks(&["renamed"], json!({})));
    settle(&mut vm_world).await;
    let message = condition(&vm_world, &key, "VolumeUnclaimed").unwrap();
    for words in ["data", "unused0", "goes with"] {
        assert!(message.contains(words), "{message}");
    }
    let (mut world, key) = world(one(own(), stopped())).await;
    world.store.apply(without());
    settle(&mut world).await;
    let message = condition(&world, &key, "VolumeUnclaimed").unwrap();
    assert!(message.contains('x') && message.contains("unused0"), "{message}");
    world.store.apply(one(own(), stopped()));
    settle(&mut world).await;
    assert_eq!(condition(&world, &key, "VolumeUnclaimed"), None);
}

#[tokio::test(start_paused = true)]
async fn another_node_later_is_told_of() {
    let (mut world, key) = world(without()).await;
    let mut fields = stopped();
    fields["node"] = json!("elsewhere");
    world.store.apply(container(json!([]), fields));
    settle(&mut world).await;
    let message = condition(&world, &key, "RecreateRequired").unwrap();
    assert!(
        message.contains("spec.node") && message.contains("elsewhere"),
        "{message}"
    );
}

/// A guest that somebody destroyed is made anew with what was retained. Which volume of its own went with it is said, and
/// no empty one takes its place unasked.
#[tokio::test(start_paused = true)]
async fn a_guest_that_was_destroyed_is_made_anew_and_says_what_is_lost() {
    let both = json!([kept(), volume("y", "/y", "Delete")]);
    let (mut world, key) = world(container(both.clone(), json!({}))).await;
    let data = volumes_of(&world, 9900);
    world.sim().edit(Edit::RemoveGuest { vmid: VMID }).unwrap();
    world.restart();
    settle(&mut world).await;
    let (reason, message) = told(&world, &key);
    assert_eq!(reason, "VolumeMissing");
    assert!(message.contains("spec.volumes[y]"), "{message}");
    assert_eq!(volumes_of(&world, 9900), data);
    assert!(mounts(&world).contains_key("/x"), "{:?}", mounts(&world));
    // As the message says.
    world.store.apply(container(json!([kept()]), json!({})));
    world.settle(false).await.unwrap();
    world.store.apply(container(both, json!({})));
    world.settle(false).await.unwrap();
}
