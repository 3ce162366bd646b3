//! What was found in an earlier start of a guest says nothing of this one; what was found in this start outlives the
//! operator.

use std::sync::atomic::Ordering;
use std::time::Duration;

use phoenix::crd::{GuestStatus, RESTARTED_AT};
use phoenix::desired::{Key, Objects};
use phoenix::simulator::Edit;
use phoenix::simulator::ssh::SshAction;
use serde_json::{Value, json};

use crate::engine::{World, edit, object, rounds, second_node, settled, status, template, until, vm};
use crate::health::{exec, fails, fault, guest, mend};

const VMID: u32 = 1000;

fn condition(status: &GuestStatus, name: &str) -> Option<(String, String)> {
    let mut all = status.conditions.iter();
    all.find(|c| c.type_ == name)
        .map(|c| (c.status.clone(), c.reason.clone()))
}

/// Ways in which a guest is started anew.
#[derive(Clone, Copy, Debug)]
enum Way {
    Annotation,
    Elsewhere,
    NodeCrash,
    WhileAway,
}

async fn start_anew(world: &mut World, manifest: &Value, way: Way) {
    match way {
        Way::Annotation => {
            let mut asked = manifest.clone();
            asked["metadata"]["annotations"] = json!({RESTARTED_AT: "now"});
            world.store.apply(asked);
        }
        Way::NodeCrash => edit(world, Edit::NodeCrash { node: "phoenix".into() }),
        Way::Elsewhere | Way::WhileAway => {
            for running in [false, true] {
                edit(world, Edit::Power { vmid: VMID, running });
            }
        }
    }
    if matches!(way, Way::WhileAway) {
        world.restart();
    }
}

/// Statuses written since, as far as they say Ready.
fn ready_since(world: &World, since: usize) -> Vec<GuestStatus> {
    let ready = |s: &GuestStatus| condition(s, "Ready").is_some_and(|(status, _)| status == "True");
    let written = world.store.statuses();
    written.into_iter().skip(since).filter(ready).collect()
}

#[tokio::test(start_paused = true)]
async fn after_every_start_a_guest_is_starting_until_a_probe_of_this_start_succeeds() {
    for way in [Way::Annotation, Way::Elsewhere, Way::NodeCrash, Way::WhileAway] {
        for form in ["readiness", "liveness"] {
            let mut world = World::with_ssh(&[]).await;
            let mut probe = exec("serves");
            probe["failureThreshold"] = json!(1000);
            let manifest = guest("a", json!({form: probe}));
            let key = world.store.apply(manifest.clone());
            settled(&mut world).await;
            rounds(&world, 2).await;

            fails(&world, "serves");
            start_anew(&mut world, &manifest, way).await;
            let since = world.store.statuses().len();
            until(&world, "it is starting", |w| {
                let found = status(w, &key);
                let ready = condition(&found, "Ready").unwrap();
                ready == ("False".into(), "Starting".into()) && found.phase.as_deref() == Some("Starting")
            })
            .await;
            rounds(&world, 10).await;
            assert_eq!(ready_since(&world, since), [], "{way:?} {form}");
            assert_eq!(status(&world, &key).phase.as_deref(), Some("Starting"), "{way:?}");
            mend(&world);
            settled(&mut world).await;
            assert_eq!(condition(&status(&world, &key), "Healthy").unwrap().0, "True");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_guest_without_probes_is_ready_as_soon_as_it_runs_again() {
    for way in [Way::Annotation, Way::Elsewhere, Way::NodeCrash, Way::WhileAway] {
        let mut world = World::with_ssh(&[]).await;
        let manifest = guest("a", json!({}));
        let key = world.store.apply(manifest.clone());
        settled(&mut world).await;
        start_anew(&mut world, &manifest, way).await;
        settled(&mut world).await;
        assert!(object(&world, &key).is_ready(), "{way:?}");
        assert_eq!(condition(&status(&world, &key), "Healthy"), None);
    }
}

/// A probe that fails for a moment in the start in which it has succeeded changes nothing.
#[tokio::test(start_paused = true)]
async fn a_guest_that_works_stays_ready_until_its_probe_failed_often_enough() {
    let mut world = World::with_ssh(&[]).await;
    let mut probe = exec("serves");
    probe["failureThreshold"] = json!(1000);
    let key = world.store.apply(guest("a", json!({"readiness": probe})));
    settled(&mut world).await;
    rounds(&world, 3).await;
    let before = status(&world, &key);
    fails(&world, "serves");
    rounds(&world, 5).await;
    world.restart();
    rounds(&world, 5).await;
    assert_eq!(status(&world, &key), before);
}

/// A fleet with an object in every sort of standing.
fn fleet(world: &World) -> Vec<Key> {
    let lxc = |name: &str, n: u8, fields: Value| {
        let mut manifest = guest(name, json!({}));
        manifest["spec"]["network"] = json!([{"name": "eth0", "ip": format!("10.0.2.{n}/24")}]);
        for (field, value) in fields.as_object().unwrap() {
            manifest["spec"][field] = value.clone();
        }
        manifest
    };
    let probed = |word: &str| json!({"readiness": exec(word), "liveness": exec("alive")});
    let test = json!([{"name": "fails", "script": "#!/bin/sh\nexit 3\n"}]);
    let application = json!({"script": "#!/bin/sh\ntrue\n"});
    let mut machine = vm("machine", json!({"health": {"readiness": exec("serves")}}));
    machine["spec"]["network"] = json!([{"name": "net0", "ip": "10.0.2.99/24"}]);
    let all = [
        lxc("plain", 1, json!({})),
        lxc(
            "probed",
            2,
            json!({"health": probed("serves"), "application": application}),
        ),
        lxc("sick", 3, json!({"health": probed("sick")})),
        lxc("never", 4, json!({"health": {"readiness": exec("never")}})),
        lxc(
            "stopped",
            5,
            json!({"powerState": "Stopped", "health": probed("serves")}),
        ),
        lxc("stalled", 6, json!({"memory": "a lot"})),
        lxc(
            "waits",
            7,
            json!({"dependsOn": [{"kind": "PhoenixLXC", "name": "sick"}]}),
        ),
        lxc("tests", 8, json!({"tests": test})),
        lxc(
            "unit",
            9,
            json!({"health": {"liveness": exec("hangs"), "restartUnit": "web.service"}}),
        ),
        lxc("slow", 10, json!({"health": {"readiness": exec("drags")}})),
        template("base", "Snapshot"),
        machine,
    ];
    all.into_iter().map(|manifest| world.store.apply(manifest)).collect()
}

fn all(world: &World) -> Vec<(Key, GuestStatus)> {
    let guests = world.store.guests().into_iter();
    guests.map(|g| (g.key, g.status)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_new_operator_changes_no_status_and_tells_nothing_anew() {
    let mut world = World::with_ssh(&[]).await;
    second_node(&world);
    fails(&world, "never");
    let keys = fleet(&world);
    let is = |w: &World, name: &str, ready: bool| {
        let key = keys.iter().find(|k| k.name == name).unwrap();
        object(w, key).is_ready() == ready
    };
    let well = [
        "plain", "probed", "sick", "unit", "slow", "stopped", "tests", "base", "machine",
    ];
    until(&world, "most are Ready", |w| well.iter().all(|name| is(w, name, true))).await;
    for word in ["sick", "hangs", "drags"] {
        fails(&world, word);
    }
    let ill = ["sick", "unit", "slow"];
    until(&world, "three are not", |w| ill.iter().all(|name| is(w, name, false))).await;
    // The second restart is over, and the third one is not due before the end.
    tokio::time::sleep(Duration::from_secs(12)).await;
    rounds(&world, 60).await;
    // One answers late, and the new operator has heard nothing of it yet.
    world
        .sim()
        .with(|state| state.ssh.faults.retain(|f| f.command != "drags"));
    fault(&world, "drags", SshAction::Delay { ms: 3_600_000_000 });

    let (before, events) = (all(&world), world.store.events.lock().unwrap().len());
    let hypervisor = world.store.hypervisor("ai", "pve").unwrap().status.clone();
    let writes = world.store.status_writes.load(Ordering::SeqCst);
    world.restart();
    // Some are looked at before the hypervisor was asked.
    for key in &keys {
        world.look_at(key).await;
    }
    assert_eq!(all(&world), before);
    rounds(&world, 5).await;
    for (old, new) in before.iter().zip(all(&world)) {
        assert_eq!(*old, new);
    }
    assert_eq!(world.store.events.lock().unwrap()[events..], []);
    assert_eq!(world.store.status_writes.load(Ordering::SeqCst), writes);
    assert_eq!(world.store.hypervisor("ai", "pve").unwrap().status, hypervisor);
}
