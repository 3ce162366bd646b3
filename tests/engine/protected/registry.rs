//! Owner containers and the registry of retained volumes.

use super::*;

fn retained() -> Value {
    json!([{"name": "data", "size": "5Gi", "mountPath": "/data"}])
}

/// Entries of the owners' registry: vmid, path and volume id.
fn entries(world: &World) -> Vec<(u32, String, String)> {
    let mut found = Vec::new();
    for (vmid, options) in world.guests() {
        for (_, value) in options.iter().filter(|(k, _)| k.starts_with("mp")) {
            let volid = value
                .split(',')
                .next()
                .unwrap_or_default()
                .trim_start_matches("volume=");
            let path = value.split(',').find_map(|p| p.strip_prefix("mp=")).unwrap_or_default();
            if path.starts_with("/lxc/") {
                found.push((vmid, path.to_string(), volid.to_string()));
            }
        }
    }
    found
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_registered_twice_is_neither_attached_nor_allocated() {
    let (mut world, key) = one_guest(json!({"volumes": retained()})).await;
    let (owner, path, volid) = entries(&world).remove(0);
    world.store.delete(&key);
    world.settle(false).await.unwrap();
    set(&world, owner, &[("mp5", &format!("{volid},mp={path},size=5G"))]);
    let key = world.store.apply(guest("a", json!({"volumes": retained()})));
    world.settle(true).await.unwrap();
    let told = said(&world, &key, "DoubleVolume").unwrap();
    assert!(told.contains(&path) && told.contains(&volid), "{told}");
    let attached = |world: &World| {
        let guests = world.guests();
        guests.get(&1000).is_some_and(|o| o.keys().any(|k| k.starts_with("mp")))
    };
    assert!(!attached(&world) && entries(&world).len() == 2, "{:#?}", world.guests());
    // The wrong entry is taken out.
    edit(
        &world,
        Edit::SetOptions {
            vmid: owner,
            options: BTreeMap::from([("mp5".to_string(), None)]),
        },
    );
    world.settle(false).await.unwrap();
    assert!(attached(&world), "{:#?}", world.guests());
}

/// `Delete` became `Retain`: the volume is the container's own, so destroying that would take it.
#[tokio::test(start_paused = true)]
async fn a_volume_that_cannot_be_kept_is_told_and_not_destroyed() {
    let volume = |policy: &str| json!([{"name": "data", "size": "5Gi", "mountPath": "/data", "reclaimPolicy": policy}]);
    let (mut world, key) = one_guest(json!({"volumes": volume("Delete")})).await;
    let own = world.guests()[&1000]["mp0"].clone();
    world.store.apply(guest("a", json!({"volumes": volume("Retain")})));
    world.settle(false).await.unwrap();
    let told = said(&world, &key, "VolumeNotRetained").unwrap();
    assert!(told.contains("data") && told.contains("/data"), "{told}");
    world.store.delete(&key);
    rounds(&world).await;
    assert!(
        said(&world, &key, "UnaccountedVolumes").is_some(),
        "{:?}",
        status(&world, &key)
    );
    assert_eq!(world.guests()[&1000]["mp0"], own);
}

#[tokio::test(start_paused = true)]
async fn a_container_of_somebodys_in_the_range_of_owners_is_no_owner() {
    let mut world = World::new(&[]).await;
    let volume = format!("{DISKS}:4");
    somebodys(&world, 9900, None, &[("hostname", "theirs"), ("unprivileged", "1")]);
    let other = stamp("b", 9901).describe("");
    somebodys(
        &world,
        9901,
        None,
        &[
            ("hostname", "another-objects"),
            ("unprivileged", "1"),
            ("description", &other),
        ],
    );
    let before = [text(&world, 9900), text(&world, 9901)];
    for name in ["a", "c"] {
        let fields = json!({"volumes": retained(), "network": []});
        world.store.apply(guest(name, fields));
    }
    world.settle(false).await.unwrap();
    assert_eq!([text(&world, 9900), text(&world, 9901)], before, "{volume}");
    let owners: Vec<u32> = entries(&world).into_iter().map(|(owner, _, _)| owner).collect();
    assert_eq!(owners, [9902, 9902], "one owner for all, found by its stamp");
}

/// Files of an unprivileged container belong to shifted ids: a volume made for the other mapping is not readable.
#[tokio::test(start_paused = true)]
async fn a_new_volume_comes_from_an_owner_of_its_own_id_mapping() {
    let mut world = World::new(&[]).await;
    let fields = |unprivileged: bool| json!({"volumes": retained(), "network": [], "unprivileged": unprivileged});
    world.sim().with(|state| {
        let privileges = ["Sys.Modify".to_string()].into_iter().collect();
        state.access.roles.insert("Modify".into(), privileges);
        state.access.acl.insert(phoenix::simulator::model::access::AclEntry {
            path: "/".into(),
            kind: "user".into(),
            who: "phoenix@pve".into(),
            role: "Modify".into(),
            propagate: true,
        });
    });
    world.store.apply(guest("a", fields(true)));
    world.settle(false).await.unwrap();
    world.store.apply(guest("b", fields(false)));
    world.settle(false).await.unwrap();
    let mapping = |vmid: u32| world.guests()[&vmid].get("unprivileged").cloned().unwrap_or_default() == "1";
    for (owner, path, _) in entries(&world) {
        assert_eq!(mapping(owner), path.contains("/a/"), "{path} is on {owner}");
    }
    assert_eq!(entries(&world).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn objects_that_need_an_owner_at_once_ask_for_one() {
    let mut world = World::new(&[]).await;
    let keys = ["a", "b"].map(|name| {
        let plain = json!({"network": [], "volumes": []});
        world.store.apply(guest(name, plain))
    });
    world.settle(false).await.unwrap();
    for name in ["a", "b"] {
        let fields = json!({"network": [], "volumes": retained()});
        world.store.apply(guest(name, fields));
    }
    world.sim().clear_requests();
    for _ in 0..5 {
        futures::future::join_all(keys.iter().map(|key| world.look_at(key))).await;
    }
    world.settle(false).await.unwrap();
    let asked = writes(&world).into_iter().filter(|w| w.ends_with("/lxc")).count();
    assert_eq!(asked, 1, "{:#?}", writes(&world));
    assert_eq!(entries(&world).len(), 2);
}
