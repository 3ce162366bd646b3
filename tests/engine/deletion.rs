//! An object goes only when what it made is proven to be gone, or is left alone on purpose (promise 5).

use std::collections::BTreeMap;

use crate::engine::{self, World, guest, rounds, says, template, vm_template};
use phoenix::crd::ABANDON;
use phoenix::desired::{Key, Objects, Stamp};
use phoenix::engine::store::EventType;
use phoenix::simulator::Edit;
use serde_json::{Value, json};

fn message(world: &World, key: &Key) -> String {
    let guest = world.store.guest(key);
    guest.and_then(|g| g.status.message).unwrap_or_default()
}

fn lose_status(world: &World, key: &Key) {
    world.store.objects.update_guest(key, |g| g.status = Default::default());
}

fn describe(world: &World, vmid: u32, words: &str) {
    let options = BTreeMap::from([("description".to_owned(), Some(words.to_owned()))]);
    world.sim().edit(Edit::SetOptions { vmid, options }).unwrap();
}

fn unprotected(mut object: Value, form: &str) -> Value {
    object["spec"][form].as_object_mut().unwrap().remove("protection");
    object
}

/// Velero and `kubectl replace` lose the status; what it told is found again.
#[tokio::test(start_paused = true)]
async fn with_status_lost_the_guest_is_found_before_the_object_goes() {
    for kind in ["PhoenixLXC", "PhoenixVM", "PhoenixTemplate"] {
        let mut world = World::with_ssh(&[]).await;
        let object = match kind {
            "PhoenixLXC" => guest("a", json!({"vmid": 2222})),
            "PhoenixVM" => engine::vm("a", json!({})),
            _ => unprotected(template("a", "Snapshot"), "lxc"),
        };
        let key = world.store.apply(object);
        world.settle(false).await.unwrap();
        // Not even the tag tells.
        let vmid = world.store.guest(&key).unwrap().status.vmid.unwrap();
        let options = BTreeMap::from([("tags".to_owned(), None)]);
        world
            .sim()
            .edit(Edit::SetOptions {
                vmid: vmid as u32,
                options,
            })
            .unwrap();
        lose_status(&world, &key);
        world.store.delete(&key);
        world.settle(false).await.unwrap();
        assert!(world.guests().is_empty(), "{kind} left its guest");
    }
}

/// All revisions of a template are found again, too.
#[tokio::test(start_paused = true)]
async fn with_status_lost_all_revisions_of_a_template_go() {
    let mut world = World::new(&[]).await;
    let revised = |size: &str| {
        let mut object = unprotected(template("base", "Template"), "lxc");
        object["spec"]["lxc"]["rootfs"]["size"] = json!(size);
        object
    };
    let key = world.store.apply(revised("8Gi"));
    world.settle(false).await.unwrap();
    world.store.apply(revised("9Gi"));
    world.settle(false).await.unwrap();
    assert_eq!(world.guests().len(), 2);
    lose_status(&world, &key);
    world.store.delete(&key);
    world.settle(false).await.unwrap();
    assert!(world.guests().is_empty(), "{:?}", world.guests().keys());
}

/// An older status came back: from before the create call, or from another guest of the object's.
#[tokio::test(start_paused = true)]
async fn with_an_old_status_the_guest_is_found_before_the_object_goes() {
    for (vmid, sent) in [(Some(1000), None), (Some(1077), None), (Some(1077), Some(true))] {
        for deleted in [true, false] {
            let mut world = World::new(&[]).await;
            let key = world.store.apply(guest("a", json!({})));
            world.settle(false).await.unwrap();
            world.store.objects.update_guest(&key, |g| {
                g.status = Default::default();
                (g.status.vmid, g.status.create_sent) = (vmid, sent);
            });
            if deleted {
                world.store.delete(&key);
            }
            world.settle(false).await.unwrap();
            let left: Vec<u32> = world.guests().into_keys().collect();
            let expected = if deleted { vec![] } else { vec![1000] };
            assert_eq!(left, expected, "{vmid:?} {sent:?} {deleted}");
        }
    }
}

/// A guest of the object's may be anywhere that cannot be seen.
#[tokio::test(start_paused = true)]
async fn with_status_lost_nothing_goes_while_the_search_proves_nothing() {
    let mut world = World::new(&[]).await;
    world.sim().with(|state| state.cluster = Some("lab".into()));
    let key = world.store.apply(guest("a", json!({})));
    world.settle(false).await.unwrap();
    lose_status(&world, &key);
    world.store.delete(&key);
    let quorate = |world: &World, on: bool| world.sim().with(|state| state.quorate = on);
    quorate(&world, false);
    rounds(&world, 20).await;
    assert!(says(&world, &key, "NoQuorum"), "{}", message(&world, &key));
    quorate(&world, true);
    world.settle(false).await.unwrap();
    assert!(world.guests().is_empty());
    // Who cannot wait says so.
    let key = world.store.apply(guest("b", json!({})));
    world.settle(false).await.unwrap();
    lose_status(&world, &key);
    quorate(&world, false);
    world.store.delete(&key);
    rounds(&world, 10).await;
    assert!(world.store.guest(&key).is_some());
    world.store.objects.update_guest(&key, |g| {
        g.annotations.insert(ABANDON.into(), "none".into());
    });
    rounds(&world, 3).await;
    assert!(world.store.guest(&key).is_none());
    assert_eq!(world.guests().len(), 1);
}

/// A template's form is edited while its guest is of the other one.
#[tokio::test(start_paused = true)]
async fn a_template_whose_form_was_edited_takes_its_guest_along() {
    for (first, second) in [("lxc", "vm"), ("vm", "lxc")] {
        for lost in [false, true] {
            let form = |form: &str| match form {
                "lxc" => unprotected(template("base", "Snapshot"), "lxc"),
                _ => unprotected(vm_template("base"), "vm"),
            };
            let mut world = World::with_ssh(&[]).await;
            let key = world.store.apply(form(first));
            world.settle(false).await.unwrap();
            world.store.apply(form(second));
            if lost {
                lose_status(&world, &key);
            }
            rounds(&world, 20).await;
            assert_eq!(world.guests().len(), 1, "a second guest was made");
            assert!(says(&world, &key, "Conflict"), "{}", message(&world, &key));
            world.store.delete(&key);
            world.settle(false).await.unwrap();
            assert!(
                world.guests().is_empty(),
                "{first} → {second}: {:?}",
                world.guests().keys()
            );
        }
    }
}

/// The guests of a previous management cluster are the object's at its deletion as well.
#[tokio::test(start_paused = true)]
async fn a_guest_of_a_previous_management_cluster_goes_with_its_object() {
    let mut world = World::new(&[]).await;
    let key = world.store.apply(guest("a", json!({})));
    world.settle(false).await.unwrap();
    let own = Stamp::find(&world.guests()[&1000]["description"]).unwrap();
    describe(
        &world,
        1000,
        &Stamp {
            cluster: "old".into(),
            ..own
        }
        .to_string(),
    );
    let mut hypervisor = (*world.store.hypervisor("ai", "pve").unwrap()).clone();
    hypervisor.spec.previous_cluster_ids = Some(vec!["old".into()]);
    world.store.objects.insert_hypervisor(hypervisor);
    world.store.delete(&key);
    world.settle(false).await.unwrap();
    assert!(world.guests().is_empty());
}

/// Notes edited in the GUI take the stamp away: the guest stays, with its volumes, and the event says so.
#[tokio::test(start_paused = true)]
async fn a_guest_that_lost_its_stamp_stays_when_its_object_goes() {
    let mut world = World::new(&[]).await;
    let volumes = json!([{"name": "s", "size": "2Gi", "mountPath": "/s", "reclaimPolicy": "Delete"}]);
    let key = world.store.apply(guest("a", json!({"volumes": volumes})));
    world.settle(false).await.unwrap();
    describe(&world, 1000, "notes of mine");
    let before = world.guests();
    world.store.delete(&key);
    world.settle(false).await.unwrap();
    assert_eq!(world.guests(), before);
    let events = world.store.events.lock().unwrap();
    let event = &events.iter().find(|(_, e)| e.reason == "Released").unwrap().1;
    assert_eq!(event.type_, EventType::Warning);
    let told = &event.message;
    assert!(
        told.contains("1000") && told.contains("lost the stamp") && told.contains("remove it"),
        "{told}"
    );
}

/// Without a hypervisor that answers an object cannot be deleted, and says how it can be let go.
#[tokio::test(start_paused = true)]
async fn a_deletion_that_cannot_go_on_names_the_way_out() {
    let mut world = World::new(&[]).await;
    let key = world.store.apply(guest("a", json!({})));
    world.settle(false).await.unwrap();
    world.restart();
    world.store.delete(&key);
    world.look_at(&key).await;
    let told = message(&world, &key);
    assert!(told.contains("PhoenixHypervisor ai/pve was not reached yet"), "{told}");
    assert!(told.contains("phoenix-hypervisor.io/abandon: \"1000\""), "{told}");
    world.settle(false).await.unwrap();
    assert!(world.guests().is_empty());
    let events = world.store.events.lock().unwrap();
    let event = &events.iter().find(|(_, e)| e.reason == "Released").unwrap().1;
    assert_eq!(event.type_, EventType::Normal, "{event:?}");
}

/// What the message of a protected guest advises has an effect, also once the object is being deleted.
#[tokio::test(start_paused = true)]
async fn protection_false_lets_a_deletion_go_on() {
    let mut world = World::new(&[]).await;
    let key = world.store.apply(guest("a", json!({"protection": true})));
    world.settle(false).await.unwrap();
    world.store.delete(&key);
    rounds(&world, 10).await;
    assert!(says(&world, &key, "Protected"), "{}", message(&world, &key));
    for (protection, gone) in [(None, false), (Some(false), true)] {
        let fields = protection.map_or(json!({}), |given| json!({"protection": given}));
        world.store.apply(guest("a", fields));
        world.store.objects.update_guest(&key, |guest| guest.deleting = true);
        rounds(&world, 30).await;
        assert_eq!(world.guests().is_empty(), gone, "{protection:?}");
    }
}

/// The object is deleted at each moment of its creation.
#[tokio::test(start_paused = true)]
async fn an_object_that_is_deleted_while_its_guest_is_made_leaves_none() {
    for steps in 0..12 {
        let mut world = World::new(&[]).await;
        let key = world.store.apply(guest("a", json!({})));
        world.poll().await;
        for _ in 0..steps {
            world.look_at(&key).await;
        }
        world.store.delete(&key);
        if steps % 2 == 0 {
            world.restart();
        }
        world.settle(false).await.unwrap();
        rounds(&world, 10).await;
        assert!(world.guests().is_empty(), "after {steps} looks");
    }
}

/// Removing Phoenix from a cluster deletes every object, but asks for the end of no guest.
#[tokio::test(start_paused = true)]
async fn an_object_that_goes_because_its_kind_does_keeps_its_guest() {
    for object in [
        guest("a", json!({})),
        engine::vm("a", json!({})),
        unprotected(template("a", "Snapshot"), "lxc"),
    ] {
        let mut world = World::with_ssh(&[]).await;
        let key = world.store.apply(object.clone());
        world.settle(false).await.unwrap();
        let before = world.guests();
        *world.store.kind_goes.lock().unwrap() = Some(Ok(true));
        world.store.delete(&key);
        world.sim().clear_requests();
        rounds(&world, 5).await;
        assert!(world.store.guest(&key).is_none(), "{key} is not let go");
        assert_eq!(world.guests(), before, "{key}");
        let writes = world.sim().requests();
        assert!(writes.iter().all(|r| r.method == "GET"), "{writes:?}");
        let told = world.store.events.lock().unwrap().clone();
        let released = told.iter().filter(|(_, e)| e.reason == "Released").collect::<Vec<_>>();
        assert!(
            matches!(released.as_slice(), [(_, e)] if e.message.contains("is left as it is")),
            "{released:?}"
        );
        // Applied again, it goes on with the guest that it had.
        *world.store.kind_goes.lock().unwrap() = None;
        world.store.apply(object);
        world.settle(false).await.unwrap();
        assert_eq!(world.guests().len(), before.len(), "{key} has a second guest");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_destroyed_while_nobody_knows_whether_the_kind_goes() {
    let mut world = World::new(&[]).await;
    let key = world.store.apply(guest("a", json!({})));
    world.settle(false).await.unwrap();
    *world.store.kind_goes.lock().unwrap() = Some(Err("customresourcedefinitions is forbidden".into()));
    world.store.delete(&key);
    rounds(&world, 10).await;
    assert_eq!(world.guests().len(), 1);
    assert!(says(&world, &key, "KindNotRead"));
    assert!(message(&world, &key).contains("is forbidden; where that is forbidden: kubectl apply -k config/rbac"));
    *world.store.kind_goes.lock().unwrap() = None;
    world.settle(false).await.unwrap();
    assert!(world.guests().is_empty());
}
