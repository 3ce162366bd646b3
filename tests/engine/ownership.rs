//! Whose a guest is may change at any moment: a guest that took the place of ours is left exactly as it is.

use phoenix::pve::Vmid;
use std::collections::BTreeMap;

use crate::engine::{self, World, says};
use phoenix::desired::{Key, Objects, Stamp};
use phoenix::simulator::{Edit, Simulator};
use serde_json::{Value, json};

const VMID: u32 = 1000;

fn guest(fields: Value) -> Value {
    engine::guest("a", fields)
}

/// A world with one guest, Ready.
async fn world() -> (World, Key) {
    let mut world = World::new(&[]).await;
    let key = world.store.apply(guest(json!({})));
    world.settle(false).await.unwrap();
    assert_eq!(world.store.guest(&key).unwrap().status.vmid, Some(i64::from(VMID)));
    (world, key)
}

/// Somebody destroys the guest and makes another under its vmid.
fn replace(sim: &Simulator, description: &str) {
    sim.edit(Edit::RemoveGuest { vmid: VMID }).unwrap();
    let options = [("hostname", "precious"), ("cores", "2"), ("description", description)];
    let theirs = Edit::CreateGuest {
        vmid: VMID,
        node: None,
        vm: false,
        options: BTreeMap::from(options.map(|(k, v)| (k.to_owned(), v.to_owned()))),
        storage: Some("quickOS-lxc-disks".into()),
    };
    sim.edit(theirs).unwrap();
}

fn text(world: &World) -> String {
    engine::text(world, VMID)
}

async fn rounds(world: &World) {
    engine::rounds(world, 30).await;
}

/// Between the read that showed our stamp and the write: the digest of the read tells Proxmox.
#[tokio::test(start_paused = true)]
async fn a_guest_that_came_between_read_and_write_is_not_written() {
    let (world, key) = world().await;
    let sim = world.sim().clone();
    *world.wire.meddle.lock().unwrap() = Some(("cores", Box::new(move || replace(&sim, "mine"))));
    world.store.apply(guest(json!({"cores": 4})));
    rounds(&world).await;
    assert!(world.wire.meddle.lock().unwrap().is_none(), "nothing was to be written");
    let text = text(&world);
    assert!(text.contains("cores: 2") && text.contains("precious"), "{text}");
    assert!(says(&world, &key, "Conflict"));
}

#[tokio::test(start_paused = true)]
async fn deleting_leaves_a_guest_with_anothers_stamp() {
    let (world, key) = world().await;
    let description = world.sim().with(|state| {
        state.guests[&VMID]
            .config()
            .current
            .get("description")
            .unwrap()
            .to_owned()
    });
    let stamp = Stamp::find(&description).unwrap();
    let others = [
        Stamp {
            name: "b".into(),
            ..stamp.clone()
        },
        Stamp {
            cluster: "another".into(),
            ..stamp.clone()
        },
        Stamp {
            namespace: "else".into(),
            ..stamp.clone()
        },
        Stamp {
            vmid: Vmid::nearest(7),
            ..stamp.clone()
        },
    ];
    for other in others {
        replace(world.sim(), &other.to_string());
        world
            .sim()
            .edit(Edit::Power {
                vmid: VMID,
                running: false,
            })
            .unwrap();
        let before = text(&world);
        world.store.apply(guest(json!({})));
        world.store.delete(&key);
        rounds(&world).await;
        assert!(world.store.guest(&key).is_none(), "the object does not go");
        assert_eq!(text(&world), before, "{other:?}");
        // Once more, with the next stamp: the object comes back and takes the vmid as its own.
        world.sim().edit(Edit::RemoveGuest { vmid: VMID }).unwrap();
        world.store.apply(guest(json!({})));
        let mut ready = false;
        for _ in 0..200 {
            world.round().await;
            ready = world.store.guest(&key).unwrap().is_ready();
            if ready {
                break;
            }
            world.pause().await;
        }
        assert!(ready);
    }
}

/// An endpoint that answers as another cluster proves nothing about a guest of this one.
#[tokio::test(start_paused = true)]
async fn deleting_waits_while_another_cluster_answers() {
    let (mut world, key) = world().await;
    let name = world.sim().with(|state| state.cluster.replace("another".into()));
    world.poll().await;
    world.store.delete(&key);
    rounds(&world).await;
    assert!(says(&world, &key, "WrongCluster"));
    assert!(world.sim().with(|state| state.guests.contains_key(&VMID)));
    world.sim().with(|state| state.guests.remove(&VMID).unwrap());
    rounds(&world).await;
    assert!(world.store.guest(&key).is_some(), "its absence there proves nothing");
    world.sim().with(|state| state.cluster = name);
    world.settle(false).await.unwrap();
    assert!(world.store.guest(&key).is_none());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_created_while_another_cluster_answers() {
    let (mut world, _) = world().await;
    let name = world.sim().with(|state| state.cluster.replace("another".into()));
    let mut second = guest(json!({"network": []}));
    second["metadata"]["name"] = json!("b");
    let key = world.store.apply(second);
    rounds(&world).await;
    assert!(says(&world, &key, "WrongCluster"));
    assert_eq!(world.sim().with(|state| state.guests.len()), 1);
    world.sim().with(|state| state.cluster = name);
    world.settle(false).await.unwrap();
    assert!(world.store.guest(&key).unwrap().is_ready());
}

/// Proxmox cuts comments at their first line end and trims them, and spells macros its own way: what comes back is what
/// was wanted, and is not written again.
#[tokio::test(start_paused = true)]
async fn firewall_rules_that_come_back_otherwise_are_not_written_again() {
    let mut world = World::new(&[]).await;
    let rules = json!([
        {"direction": "in", "action": "ACCEPT", "macro": "ssh", "comment": "office network\n"},
        {"direction": "in", "action": "ACCEPT", "protocol": "tcp", "port": "8000", "comment": ""},
        {"direction": "in", "action": "DROP", "protocol": "udp", "port": "53", "comment": " # blanks \nIN ACCEPT"},
        {"direction": "out", "action": "ACCEPT", "comment": "voilà"},
    ]);
    world
        .store
        .apply(guest(json!({"firewall": {"enabled": true, "rules": rules}})));
    world.settle(false).await.unwrap();
    let kept: Vec<(String, Option<String>)> = world.sim().with(|state| {
        let rules = state.firewalls[&VMID].rules.iter();
        rules
            .map(|rule| (rule["comment"].clone(), rule.get("macro").cloned()))
            .collect()
    });
    let comments: Vec<&str> = kept.iter().map(|(comment, _)| comment.as_str()).collect();
    assert_eq!(
        comments,
        [
            "phoenix:0 office network",
            "phoenix:1",
            "phoenix:2  # blanks",
            "phoenix:3 voilà."
        ]
    );
    assert_eq!(kept[0].1.as_deref(), Some("SSH"));
    let writes = || {
        let log = world.sim().requests();
        log.iter()
            .filter(|request| request.method != "GET" && request.path.contains("/firewall/"))
            .count()
    };
    let before = writes();
    rounds(&world).await;
    assert_eq!(writes(), before);
}

/// Two single nodes have the installer's name for both: only their certificate authorities differ.
#[tokio::test(start_paused = true)]
async fn a_single_node_of_the_same_name_is_another_cluster() {
    let (mut world, key) = world().await;
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
    let before = recorded(&world).unwrap();
    assert!(before.ca_fingerprint.is_some());
    // The endpoint is now the other node, which has no such guest.
    let kept = world.sim().with(|state| {
        let ca = state.ca_fingerprint.replace("AA:BB".into());
        (ca, state.guests.remove(&VMID).unwrap())
    });
    for delete in [false, true] {
        if delete {
            world.store.delete(&key);
        }
        world.restart();
        rounds(&world).await;
        assert!(says(&world, &key, "WrongCluster"));
        assert!(world.guests().is_empty(), "a second guest was made");
        assert_eq!(recorded(&world), Some(before.clone()), "it was recorded as the same");
    }
    world.sim().with(|state| {
        state.ca_fingerprint = kept.0;
        state.guests.insert(VMID, kept.1);
    });
    world.settle(false).await.unwrap();
    assert!(world.store.guest(&key).is_none() && world.guests().is_empty());
}

/// A status from before the authority was recorded gets it only where a guest proves that it is the same cluster.
#[tokio::test(start_paused = true)]
async fn an_older_record_of_the_cluster_is_completed_only_with_proof() {
    for other in [false, true] {
        let (mut world, key) = world().await;
        let mut hypervisor = (*world.store.hypervisor("ai", "pve").unwrap()).clone();
        let status = hypervisor.status.as_mut().unwrap();
        status.cluster.as_mut().unwrap().ca_fingerprint = None;
        world.store.objects.insert_hypervisor(hypervisor);
        let gone = world
            .sim()
            .with(|state| other.then(|| state.guests.remove(&VMID).unwrap()));
        world.restart();
        world.poll().await;
        let status = world.store.hypervisor("ai", "pve").unwrap().status.clone().unwrap();
        assert_eq!(status.cluster.unwrap().ca_fingerprint.is_none(), other);
        world.store.delete(&key);
        rounds(&world).await;
        assert_eq!(world.store.guest(&key).is_some(), other);
        if let Some(gone) = gone {
            assert!(says(&world, &key, "WrongCluster"));
            world.sim().with(|state| state.guests.insert(VMID, gone));
            world.restart();
            world.settle(false).await.unwrap();
        }
        assert!(world.store.guest(&key).is_none());
    }
}

/// The guest itself proves which cluster it is on. Without that nothing could prove later that it is gone.
#[tokio::test(start_paused = true)]
async fn a_guest_goes_only_once_its_cluster_is_proven() {
    let mut world = World::new(&[]).await;
    let key = world.store.apply(engine::guest("a", json!({})));
    engine::settled(&mut world).await;
    // As after a status that was lost or restored: the next full poll is minutes away.
    engine::hypervisor(&world, |h| {
        let cluster = h.status.as_mut().unwrap().cluster.as_mut().unwrap();
        assert!(cluster.ca_fingerprint.take().is_some());
    });
    world.store.delete(&key);
    engine::rounds(&world, 20).await;
    assert!(world.store.guest(&key).is_none(), "{}", engine::told(&world, &key));
    assert!(world.guests().is_empty());
}
