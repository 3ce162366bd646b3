//! Whether a guest is there, where it is, and what may be concluded when nobody can say.

use super::*;

#[tokio::test(start_paused = true)]
async fn without_quorum_nothing_is_concluded_from_a_guest_that_is_not_there() {
    let mut world = World::new(&[]).await;
    second_node(&world);
    let key = world.store.apply(guest("a", json!({})));
    world.settle(false).await.unwrap();
    edit(&world, Edit::Quorum { quorate: false });
    let kept = world.sim().with(|state| state.guests.remove(&1000).unwrap());
    world.store.delete(&key);
    rounds(&world).await;
    assert!(said(&world, &key, "NoQuorum").is_some(), "{:?}", status(&world, &key));
    world.sim().with(|state| state.guests.insert(1000, kept));
    edit(&world, Edit::Quorum { quorate: true });
    world.settle(false).await.unwrap();
    assert!(world.store.guest(&key).is_none() && world.guests().is_empty());
}

#[tokio::test(start_paused = true)]
async fn without_quorum_no_guest_is_made() {
    let mut world = World::new(&[]).await;
    second_node(&world);
    edit(&world, Edit::Quorum { quorate: false });
    let key = world.store.apply(guest("a", json!({})));
    rounds(&world).await;
    assert!(said(&world, &key, "NoQuorum").is_some(), "{:?}", status(&world, &key));
    assert_eq!(writes(&world), Vec::<String>::new());
    edit(&world, Edit::Quorum { quorate: true });
    world.settle(false).await.unwrap();
}

/// It is noticed by the first write that Proxmox refuses: nobody tries for himself, and everybody goes on afterwards.
#[tokio::test(start_paused = true)]
async fn without_quorum_one_refused_write_makes_every_object_wait() {
    let mut world = World::new(&[]).await;
    second_node(&world);
    let keys = ["a", "b", "c"].map(|name| world.store.apply(guest(name, json!({}))));
    world.settle(false).await.unwrap();
    let before = writes(&world).len();
    edit(&world, Edit::Quorum { quorate: false });
    for name in ["a", "b", "c"] {
        world.store.apply(guest(name, json!({"cores": 4})));
    }
    for _ in 0..3 {
        for key in &keys {
            world.look_at(key).await;
        }
    }
    assert_eq!(writes(&world).len() - before, 1, "{:?}", &writes(&world)[before..]);
    for key in &keys[1..] {
        assert!(said(&world, key, "NoQuorum").is_some(), "{:?}", status(&world, key));
    }
    edit(&world, Edit::Quorum { quorate: true });
    world.settle(false).await.unwrap();
    let cores = |o: &std::collections::BTreeMap<String, String>| o["cores"].clone();
    assert_eq!(world.guests().values().map(cores).collect::<Vec<_>>(), ["4", "4", "4"]);
}

/// Owner containers are nobody's guests; any other guest with the tag may be the object's.
#[tokio::test(start_paused = true)]
async fn an_owner_on_a_node_that_is_off_holds_no_new_guest_up() {
    let mut world = World::new(&[]).await;
    second_node(&world);
    let volumes = json!([{"name": "data", "size": "1Gi", "mountPath": "/data"}]);
    let key = world
        .store
        .apply(guest("a", json!({"node": "two", "volumes": volumes})));
    world.settle(false).await.unwrap();
    world.store.delete(&key);
    world.settle(false).await.unwrap();
    let online = |online| Edit::NodeOnline {
        node: "two".into(),
        online,
    };
    edit(&world, online(false));
    world.poll().await;
    world.store.apply(guest("b", json!({"node": "phoenix"})));
    world.settle(false).await.unwrap();
    edit(&world, online(true));
    let orphan = std::collections::BTreeMap::from([("tags".to_owned(), "phoenix".to_owned())]);
    edit(
        &world,
        Edit::CreateGuest {
            vmid: 700,
            node: Some("two".into()),
            vm: false,
            options: orphan,
            storage: Some("quickOS-lxc-disks".into()),
        },
    );
    edit(&world, online(false));
    let key = world.store.apply(guest("c", json!({"node": "phoenix"})));
    rounds(&world).await;
    let told = said(&world, &key, "NodeOffline").unwrap_or_default();
    assert!(told.contains("container 700 on node two"), "{told}");
}

#[tokio::test(start_paused = true)]
async fn a_guest_of_a_node_that_is_off_is_waited_for_and_not_asked_for() {
    let mut world = World::new(&[]).await;
    second_node(&world);
    let key = world.store.apply(guest("a", json!({"node": "two"})));
    world.settle(false).await.unwrap();
    edit(
        &world,
        Edit::NodeOnline {
            node: "two".into(),
            online: false,
        },
    );
    world.poll().await;
    world.sim().clear_requests();
    world.store.delete(&key);
    rounds(&world).await;
    let told = said(&world, &key, "NodeOffline").unwrap_or_default();
    assert!(told.contains("two"), "{:?}", status(&world, &key));
    let asked: Vec<String> = world.sim().requests().into_iter().map(|r| r.path).collect();
    assert!(!asked.iter().any(|p| p.starts_with("/nodes/two/")), "{asked:?}");
    edit(
        &world,
        Edit::NodeOnline {
            node: "two".into(),
            online: true,
        },
    );
    world.settle(false).await.unwrap();
    assert!(world.guests().is_empty());
}

/// The cluster's list says where a guest is; status only says where it was.
#[tokio::test(start_paused = true)]
async fn a_container_that_somebody_migrated_is_followed() {
    let mut world = World::new(&[]).await;
    second_node(&world);
    let key = world.store.apply(guest("a", json!({"node": "phoenix"})));
    world.settle(false).await.unwrap();
    world
        .sim()
        .with(|state| state.guests.get_mut(&1000).unwrap().node = "two".into());
    world.sim().clear_requests();
    world.store.apply(guest("a", json!({"cores": 4})));
    for _ in 0..10 {
        world.round().await;
        world.pause().await;
    }
    assert_eq!(status(&world, &key).node.as_deref(), Some("two"));
    assert_eq!(world.guests()[&1000]["cores"], "4");
    let elsewhere: Vec<String> = writes(&world)
        .into_iter()
        .filter(|w| !w.contains("/nodes/two/lxc/1000/"))
        .collect();
    assert_eq!(elsewhere, Vec::<String>::new());
    world.settle(false).await.unwrap();
}

/// Who answers under the same address later does not become the cluster that was recorded.
#[tokio::test(start_paused = true)]
async fn the_recorded_cluster_stays_whoever_answers() {
    let (mut world, key) = one_guest(json!({})).await;
    let recorded = |world: &World| {
        world
            .store
            .hypervisor("ai", "pve")
            .unwrap()
            .status
            .clone()
            .unwrap()
            .cluster
    };
    let before = recorded(&world);
    let name = world.sim().with(|state| state.cluster.replace("another".into()));
    world.restart();
    rounds(&world).await;
    assert_eq!(recorded(&world), before);
    world.store.apply(guest("a", json!({"cores": 4})));
    rounds(&world).await;
    assert!(
        said(&world, &key, "WrongCluster").is_some(),
        "{:?}",
        status(&world, &key)
    );
    assert_eq!(world.guests()[&1000]["cores"], "2");
    world.sim().with(|state| state.cluster = name);
    world.settle(false).await.unwrap();
    assert_eq!(recorded(&world), before);
}
