//! Volumes that exist, given by volume id: attached and detached as they are, and never formatted, resized or removed.

use crate::engine::{IMAGE, World, hypervisor, lxc, rounds, settled, status, told, vm};
use phoenix::crd::GuestKind;
use phoenix::desired::{Key, Objects};
use phoenix::simulator::model::storage::{Storage, StorageKind};
use serde_json::{Value, json};

/// The container that has the volumes, and the one that is given them.
const OLD: u32 = 1000;
const NEW: u32 = 1001;

fn with(name: &str, volumes: Value) -> Value {
    let updates = json!({"restart": "Automatic"});
    let fields = json!({"source": {"image": {"volid": IMAGE}}, "volumes": volumes, "updatePolicy": updates});
    lxc(name, fields)
}

fn own(name: &str, storage: &str) -> Value {
    json!({"name": name, "size": "2Gi", "storage": storage, "mountPath": format!("/{name}"), "reclaimPolicy": "Delete"})
}

fn existing(volid: &str) -> Value {
    json!({"name": "models", "volid": volid, "mountPath": "/models"})
}

/// A world in which container `old` has a directory and an image.
async fn world() -> World {
    let mut world = World::with_ssh(&[]).await;
    world.sim().with(|state| {
        let storage = Storage::new(StorageKind::Dir, "/srv/images", &["rootdir", "images"], 100 << 30);
        state.storages.insert("images".into(), storage);
    });
    let volumes = json!([own("dir", "fastData-shared-bulk-data"), own("image", "images")]);
    let key = world.store.apply(with("old", volumes));
    settled(&mut world).await;
    assert_eq!(status(&world, &key).vmid, Some(OLD.into()));
    world
}

/// Volume ids by mount path.
fn mounted(world: &World, vmid: u32, path: &str) -> Option<String> {
    let guests = world.guests();
    let mut values = guests[&vmid].iter().filter(|(key, _)| key.starts_with("mp"));
    let found = values.find(|(_, v)| v.split(',').any(|p| p == format!("mp={path}")));
    found.map(|(_, v)| v.split(',').next().unwrap().to_string())
}

fn is_there(world: &World, volid: &str) -> bool {
    let (storage, name) = volid.split_once(':').unwrap();
    world
        .sim()
        .with(|s| s.storages[storage].volumes["phoenix"].contains_key(name))
}

/// The object is told the reason and all of the words, and has nothing at `/models`.
async fn refused(world: &World, key: &Key, reason: &str, words: &[&str]) {
    rounds(world, 20).await;
    let told = told(world, key);
    for word in words.iter().chain(&[reason]) {
        assert!(told.contains(word), "{word} is not in: {told}");
    }
    assert_eq!(mounted(world, NEW, "/models"), None);
}

#[tokio::test(start_paused = true)]
async fn a_directory_of_another_container_is_shared_and_stays_when_the_guest_goes() {
    let mut world = world().await;
    let volid = mounted(&world, OLD, "/dir").unwrap();
    let mut volume = existing(&volid);
    volume["readOnly"] = json!(true);
    let key = world.store.apply(with("new", json!([volume])));
    settled(&mut world).await;
    let text = &world.guests()[&NEW]["mp0"];
    assert!(
        text.starts_with(&volid) && text.contains("mp=/models") && text.contains("ro=1"),
        "{text}"
    );
    let recorded = status(&world, &key).volumes.unwrap();
    assert_eq!(recorded[0].volid.as_deref(), Some(volid.as_str()));
    assert_eq!(
        (recorded[0].size_gib, recorded[0].reclaim_policy.as_deref()),
        (None, Some("Retain"))
    );

    // It moves to another path and back to being written, and nothing else is done to it.
    let mut volume = existing(&volid);
    volume["mountPath"] = json!("/elsewhere");
    volume["readOnly"] = json!(false);
    world.store.apply(with("new", json!([volume])));
    settled(&mut world).await;
    assert_eq!(mounted(&world, NEW, "/elsewhere"), Some(volid.clone()));

    world.store.delete(&key);
    settled(&mut world).await;
    assert!(!world.guests().contains_key(&NEW));
    assert!(is_there(&world, &volid), "its guest still has it");
    assert_eq!(mounted(&world, OLD, "/dir"), Some(volid));
}

#[tokio::test(start_paused = true)]
async fn what_is_taken_out_of_the_spec_is_detached_and_stays() {
    let mut world = world().await;
    let volid = mounted(&world, OLD, "/dir").unwrap();
    let key = world.store.apply(with("new", json!([existing(&volid)])));
    settled(&mut world).await;
    world.store.apply(with("new", json!([])));
    rounds(&world, 30).await;
    assert_eq!(mounted(&world, NEW, "/models"), None);
    assert!(is_there(&world, &volid));
    world.store.delete(&key);
    settled(&mut world).await;
    assert!(is_there(&world, &volid), "also where it was left as unused");
}

#[tokio::test(start_paused = true)]
async fn an_image_is_attached_only_while_no_other_container_has_it() {
    let mut world = world().await;
    let volid = mounted(&world, OLD, "/image").unwrap();
    let key = world
        .store
        .apply(with("new", json!([existing(&volid), own("other", "images")])));
    refused(
        &world,
        &key,
        "VolumeHeld",
        &[
            "spec.volumes[models].volid",
            "is an image",
            "container 1000 has it as mp1",
            "pct set 1000 -delete mp1",
        ],
    )
    .await;
    assert!(
        mounted(&world, NEW, "/other").is_some(),
        "it keeps no other volume back"
    );

    // The other object lets it go, and nothing else has to be done.
    let old = with("old", json!([own("dir", "fastData-shared-bulk-data")]));
    world.store.apply(old);
    settled(&mut world).await;
    assert_eq!(mounted(&world, OLD, "/image"), None);
    assert_eq!(mounted(&world, NEW, "/models"), Some(volid));
}

#[tokio::test(start_paused = true)]
async fn of_two_objects_that_name_one_image_the_older_one_gets_it() {
    let mut world = world().await;
    let volid = mounted(&world, OLD, "/image").unwrap();
    world
        .store
        .apply(with("old", json!([own("dir", "fastData-shared-bulk-data")])));
    settled(&mut world).await;
    let named = |name: &str, created: &str| {
        let mut object = with(name, json!([existing(&volid)]));
        object["metadata"]["creationTimestamp"] = json!(created);
        object
    };
    let young = world.store.apply(named("a", "2026-02-01T00:00:00Z"));
    let old = world.store.apply(named("b", "2026-01-01T00:00:00Z"));
    world.settle(true).await.unwrap();
    assert_eq!(status(&world, &old).volumes.unwrap()[0].volid.as_ref(), Some(&volid));
    let words = told(&world, &young);
    assert!(
        words.contains("VolumeHeld") && words.contains("PhoenixLXC ai/b names it, too"),
        "{words}"
    );
    assert!(status(&world, &young).vmid.is_none());
    // The older one goes, and the other one gets it.
    world.store.delete(&old);
    settled(&mut world).await;
    assert_eq!(status(&world, &young).volumes.unwrap()[0].volid, Some(volid));
}

#[tokio::test(start_paused = true)]
async fn what_is_no_volume_to_attach_is_refused_with_the_field() {
    let mut world = world().await;
    let machine = world.store.apply(vm("machine", json!({"vmid": 1500})));
    settled(&mut world).await;
    assert_eq!(status(&world, &machine).vmid, Some(1500));
    let key = world.store.apply(with("new", json!([])));
    settled(&mut world).await;
    let root = |vmid: u32| world.guests()[&vmid]["rootfs"].split(',').next().unwrap().to_string();
    let disk = world.guests()[&1500]["scsi0"].split(',').next().unwrap().to_string();
    let dir = mounted(&world, OLD, "/dir").unwrap();
    let cases = [
        (
            dir.replace("disk-1", "disk-77").replace("disk-0", "disk-77"),
            "VolumeMissing",
            dir.as_str(),
        ),
        (
            "nowhere:subvol-1000-disk-0".into(),
            "StorageNotFound",
            "node phoenix has no storage \"nowhere\"",
        ),
        (root(OLD), "InvalidSpec", "the root filesystem of container 1000"),
        (root(NEW), "InvalidSpec", "the root filesystem of container 1001 itself"),
        (disk, "InvalidSpec", "is a disk of machine 1500"),
    ];
    for (volid, reason, words) in cases {
        world.store.apply(with("new", json!([existing(&volid)])));
        refused(&world, &key, reason, &["spec.volumes[models].volid", words]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_volume_of_the_containers_own_that_is_given_by_id_keeps_it_from_being_destroyed() {
    let mut world = world().await;
    let volid = mounted(&world, OLD, "/dir").unwrap();
    let key = world
        .store
        .apply(with("old", json!([existing(&volid), own("image", "images")])));
    settled(&mut world).await;
    assert_eq!(mounted(&world, OLD, "/models"), Some(volid.clone()));
    world.store.delete(&key);
    world.settle(true).await.unwrap();
    assert!(world.guests().contains_key(&OLD));
    let words = told(&world, &key);
    assert!(
        words.contains("UnaccountedVolumes") && words.contains(&volid),
        "{words}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_object_of_another_namespace_attaches_nobodys_volumes() {
    let mut world = world().await;
    hypervisor(&world, |h| {
        h.spec.allowed_namespaces = serde_json::from_value(json!({"from": "All"})).unwrap();
        h.spec.allow = serde_json::from_value(json!({"storages": ["fastData-shared-bulk-data"]})).unwrap();
    });
    let volid = mounted(&world, OLD, "/dir").unwrap();
    let mut object = with("tenants", json!([existing(&volid)]));
    object["metadata"]["namespace"] = json!("tenant");
    object["spec"]["hypervisorRef"] = json!({"name": "pve", "namespace": "ai"});
    let key = world.store.apply(object);
    world.settle(true).await.unwrap();
    let words = told(&world, &key);
    assert!(
        words.contains("NotAllowed") && words.contains("spec.volumes[models].volid"),
        "{words}"
    );
    assert!(world.store.guest(&key).unwrap().status.vmid.is_none());
    // What it may not have keeps nobody else.
    world.store.delete(&Key::new(GuestKind::PhoenixLXC, "ai", "old"));
    rounds(&world, 20).await;
    assert!(!world.guests().contains_key(&OLD));
}

#[tokio::test(start_paused = true)]
async fn a_container_whose_volume_another_object_has_is_not_destroyed() {
    let mut world = world().await;
    let volid = mounted(&world, OLD, "/dir").unwrap();
    world.store.apply(with("new", json!([existing(&volid)])));
    settled(&mut world).await;
    let old = Key::new(GuestKind::PhoenixLXC, "ai", "old");
    world.store.delete(&old);
    rounds(&world, 20).await;
    let words = told(&world, &old);
    assert!(
        words.contains("VolumeHeld") && words.contains(&format!("PhoenixLXC ai/new names {volid}")),
        "{words}"
    );
    assert!(is_there(&world, &volid) && world.guests()[&OLD]["running"] == "true");
    world.store.apply(with("new", json!([])));
    settled(&mut world).await;
    assert!(!world.guests().contains_key(&OLD), "then it goes");
}

#[tokio::test(start_paused = true)]
async fn an_image_that_was_lent_is_not_attached_by_its_own_guest_again() {
    let mut world = world().await;
    let volid = mounted(&world, OLD, "/image").unwrap();
    let own_ones = || json!([own("dir", "fastData-shared-bulk-data"), own("image", "images")]);
    world
        .store
        .apply(with("old", json!([own("dir", "fastData-shared-bulk-data")])));
    world.store.apply(with("new", json!([existing(&volid)])));
    settled(&mut world).await;
    assert_eq!(mounted(&world, NEW, "/models"), Some(volid.clone()));
    let old = world.store.apply(with("old", own_ones()));
    rounds(&world, 20).await;
    let words = told(&world, &old);
    assert!(
        words.contains("VolumeHeld") && words.contains("PhoenixLXC ai/new names it"),
        "{words}"
    );
    assert_eq!(mounted(&world, OLD, "/image"), None);
    world.store.apply(with("new", json!([])));
    settled(&mut world).await;
    assert_eq!(mounted(&world, OLD, "/image"), Some(volid));
}

/// A running container has what it was started with until its next start.
#[tokio::test(start_paused = true)]
async fn an_image_is_lent_until_the_container_that_drops_it_was_restarted() {
    let mut world = world().await;
    let volid = mounted(&world, OLD, "/image").unwrap();
    let without = || with("old", json!([own("dir", "fastData-shared-bulk-data")]));
    let never = |mut object: Value| {
        object["spec"]["updatePolicy"] = json!({"restart": "Never"});
        object
    };
    world.store.apply(without());
    let new = world.store.apply(never(with("new", json!([existing(&volid)]))));
    settled(&mut world).await;
    world.store.apply(never(with("new", json!([]))));
    rounds(&world, 20).await;
    assert!(
        status(&world, &new)
            .volumes
            .is_some_and(|v| v[0].volid.as_ref() == Some(&volid))
    );
    let old = world.store.apply(with(
        "old",
        json!([own("dir", "fastData-shared-bulk-data"), own("image", "images")]),
    ));
    rounds(&world, 20).await;
    assert_eq!(mounted(&world, OLD, "/image"), None);
    assert!(told(&world, &old).contains("VolumeHeld"), "{}", told(&world, &old));
    world.store.apply(with("new", json!([])));
    settled(&mut world).await;
    assert_eq!(mounted(&world, OLD, "/image"), Some(volid));
    assert_eq!(status(&world, &new).volumes, None);
}

#[tokio::test(start_paused = true)]
async fn an_image_that_is_kept_for_an_object_and_a_volume_named_twice_are_refused() {
    let mut world = world().await;
    let keeps = json!([{"name": "kept", "size": "1Gi", "storage": "images", "mountPath": "/kept"}]);
    world.store.apply(with("keeper", keeps));
    settled(&mut world).await;
    let kept = mounted(&world, NEW, "/kept").unwrap();
    let dir = mounted(&world, OLD, "/dir").unwrap();
    let twice = json!([existing(&dir), {"name": "again", "volid": dir, "mountPath": "/again"}]);
    for (volumes, words) in [
        (
            json!([existing(&kept)]),
            "keeps for a volume with reclaimPolicy: Retain",
        ),
        (twice, "spec.volumes[again].volid"),
    ] {
        let key = world.store.apply(with("new", volumes));
        rounds(&world, 20).await;
        let told = told(&world, &key);
        assert!(told.contains("InvalidSpec") && told.contains(words), "{told}");
    }
}

/// The volume of a name stays what it was given as: a new one under it would be taken for the other guest's data.
#[tokio::test(start_paused = true)]
async fn an_entry_does_not_turn_into_a_new_volume() {
    let mut world = world().await;
    let volid = mounted(&world, OLD, "/dir").unwrap();
    let key = world.store.apply(with("new", json!([existing(&volid)])));
    settled(&mut world).await;
    let new = json!([{"name": "models", "size": "5Gi", "mountPath": "/models"}]);
    world.store.apply(with("new", new.clone()));
    rounds(&world, 20).await;
    let words = told(&world, &key);
    assert!(words.contains("which was given by volid"), "{words}");
    assert_eq!(mounted(&world, NEW, "/models"), Some(volid.clone()));
    // What it has is still lent.
    let old = Key::new(GuestKind::PhoenixLXC, "ai", "old");
    world.store.delete(&old);
    rounds(&world, 20).await;
    assert!(is_there(&world, &volid), "{}", told(&world, &old));
    world.store.apply(with("new", json!([])));
    settled(&mut world).await;
    world.store.apply(with("new", new));
    settled(&mut world).await;
    assert!(mounted(&world, NEW, "/models").is_some_and(|found| found != volid));
}

/// Without a restart between, taking an entry out and putting it back changes nothing; and no name stands twice in status.
#[tokio::test(start_paused = true)]
async fn an_entry_that_comes_back_before_the_restart_is_attached_once() {
    let mut world = world().await;
    let volid = mounted(&world, OLD, "/dir").unwrap();
    let never = |volumes: Value| {
        let mut object = with("new", volumes);
        object["spec"]["updatePolicy"] = json!({"restart": "Never"});
        object
    };
    let key = world.store.apply(never(json!([existing(&volid)])));
    settled(&mut world).await;
    world.store.apply(never(json!([])));
    rounds(&world, 20).await;
    world
        .store
        .apply(never(json!([existing(&volid.replace("disk-", "disk-9"))])));
    rounds(&world, 20).await;
    let volumes = status(&world, &key).volumes.unwrap();
    let names: std::collections::BTreeSet<&String> = volumes.iter().map(|v| &v.name).collect();
    assert_eq!(names.len(), volumes.len(), "{volumes:?}");
    world.store.apply(never(json!([existing(&volid)])));
    settled(&mut world).await;
    let options = &world.guests()[&NEW];
    let mounts = options
        .iter()
        .filter(|(k, v)| k.starts_with("mp") && v.starts_with(&volid));
    assert_eq!(mounts.count(), 1, "{options:?}");
    assert_eq!(status(&world, &key).volumes.unwrap().len(), 1);
}
