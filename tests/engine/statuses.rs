//! What conditions, phase and message say: what is so, and nothing of what is not there.

use phoenix::crd::GuestStatus;
use phoenix::simulator::Edit;
use serde_json::{Value, json};

use crate::engine::{World, edit, guest, object, rounds, second_node, settled, status, template, until, vm};
use crate::health::exec;

fn types(status: &GuestStatus) -> Vec<&str> {
    status.conditions.iter().map(|c| c.type_.as_str()).collect()
}

fn of(status: &GuestStatus, name: &str) -> Option<(String, String)> {
    let mut all = status.conditions.iter();
    all.find(|c| c.type_ == name)
        .map(|c| (c.status.clone(), c.reason.clone()))
}

fn pair(status: &str, reason: &str) -> Option<(String, String)> {
    Some((status.into(), reason.into()))
}

#[tokio::test(start_paused = true)]
async fn there_is_no_condition_of_what_is_not_there() {
    let script = "#!/bin/sh\ntrue\n";
    let always = ["Ready", "DependenciesReady", "Created", "Configured", "Running"];
    for (fields, more) in [
        (json!({}), None),
        (json!({"gpus": [{"index": 0}]}), Some("GPUReady")),
        (json!({"tests": [{"name": "t", "script": script}]}), Some("TestsPassed")),
        (json!({"application": {"script": script}}), Some("ApplicationReady")),
        (json!({"features": [{"name": "f"}]}), Some("FeaturesApplied")),
        (json!({"health": {"liveness": exec("alive")}}), Some("Healthy")),
    ] {
        let mut world = World::with_ssh(&[]).await;
        world.feature("f", json!({}));
        let key = world.store.apply(guest("a", fields.clone()));
        settled(&mut world).await;
        let mut expected = always.to_vec();
        // The GPUs come before the start, the rest after it.
        let place = if more == Some("GPUReady") { 4 } else { 5 };
        more.into_iter().for_each(|more| expected.insert(place, more));
        let found = status(&world, &key);
        assert_eq!(types(&found), expected, "{fields}");
        // What is taken out of the spec goes with its condition; a device node goes at the next start.
        world
            .store
            .apply(guest("a", json!({"updatePolicy": {"restart": "Automatic"}})));
        settled(&mut world).await;
        assert_eq!(types(&status(&world, &key)), always, "{fields}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stopped_guest_is_stopped_and_ready() {
    let mut world = World::with_ssh(&[]).await;
    let fields = |power: &str| json!({"powerState": power, "health": {"readiness": exec("serves")}, "application": {"script": "#!/bin/sh\ntrue\n"}});
    let key = world.store.apply(guest("a", fields("Running")));
    settled(&mut world).await;
    world.store.apply(guest("a", fields("Stopped")));
    let mut phases = Vec::new();
    for _ in 0..200 {
        world.round().await;
        phases.extend(status(&world, &key).phase);
        if object(&world, &key).is_ready() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    phases.dedup();
    assert_eq!(phases, ["Stopping", "Stopped"]);
    let stopped = status(&world, &key);
    assert_eq!(of(&stopped, "Ready").unwrap().0, "True");
    assert_eq!(of(&stopped, "Running"), pair("False", "Stopped"));
    assert_eq!(of(&stopped, "Healthy"), None);
    assert_eq!(of(&stopped, "ApplicationReady").unwrap().0, "True");
    assert_eq!((stopped.health, stopped.started), (None, None));
    // One that never ran claims nothing of what would run in it.
    let key = world.store.apply(guest("b", {
        let mut never = fields("Stopped");
        never["network"] = json!([{"name": "eth0", "ip": "10.0.0.51/24"}]);
        never
    }));
    settled(&mut world).await;
    let never = status(&world, &key);
    assert_eq!(of(&never, "ApplicationReady"), pair("Unknown", "Stopped"));
    assert_eq!(of(&never, "Healthy"), None);
}

#[tokio::test(start_paused = true)]
async fn a_template_is_stopped_once_it_is_built() {
    let mut world = World::with_ssh(&[]).await;
    let key = world.store.apply(template("base", "Snapshot"));
    settled(&mut world).await;
    let found = status(&world, &key);
    assert_eq!(of(&found, "Running"), pair("False", "Stopped"));
    assert_eq!(found.phase.as_deref(), Some("Ready"));
    assert_eq!(of(&found, "Healthy"), None);
}

#[tokio::test(start_paused = true)]
async fn a_pending_restart_stands_in_the_message() {
    let mut world = World::with_ssh(&[]).await;
    let key = world.store.apply(vm("a", json!({"cpu": {"cores": 2}})));
    settled(&mut world).await;
    world.store.apply(vm("a", json!({"cpu": {"cores": 4}})));
    settled(&mut world).await;
    let found = status(&world, &key);
    let pending = found.conditions.iter().find(|c| c.type_ == "RestartRequired").unwrap();
    assert_eq!(found.message, Some(format!("RestartRequired: {}", pending.message)));
    assert_eq!(found.phase.as_deref(), Some("Ready"));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_claimed_of_a_guest_whose_node_is_away() {
    let mut world = World::with_ssh(&[]).await;
    second_node(&world);
    let fields = |node: &str| json!({"node": node, "health": {"readiness": exec("serves")}});
    let key = world.store.apply(guest("a", fields("phoenix")));
    settled(&mut world).await;
    let before = status(&world, &key);
    let away = |online| Edit::NodeOnline {
        node: "phoenix".into(),
        online,
    };
    edit(&world, away(false));
    until(&world, "it is unknown", |w| {
        status(w, &key).phase.as_deref() == Some("Unknown")
    })
    .await;
    let hidden = status(&world, &key);
    for name in ["Ready", "Running", "Healthy", "Created"] {
        assert_eq!(of(&hidden, name), pair("Unknown", "NodeOffline"), "{name}");
    }
    // One that is still to be made waits.
    let mut new = guest("b", fields("phoenix"));
    new["spec"]["network"] = json!([{"name": "eth0", "ip": "10.0.0.51/24"}]);
    let other = world.store.apply(new);
    rounds(&world, 5).await;
    let waiting = status(&world, &other);
    assert_eq!(of(&waiting, "Ready"), pair("False", "NodeOffline"));
    assert_eq!(waiting.phase.as_deref(), Some("Waiting"));
    edit(&world, away(true));
    settled(&mut world).await;
    assert_eq!(of(&status(&world, &key), "Running"), of(&before, "Running"));
}

/// A status of an earlier release loses what is not there and keeps its times.
#[tokio::test(start_paused = true)]
async fn statuses_of_an_earlier_release_keep_their_times() {
    let mut world = World::with_ssh(&[]).await;
    let key = world
        .store
        .apply(guest("a", json!({"health": {"readiness": exec("serves")}})));
    settled(&mut world).await;
    let long_ago: Value = json!("2020-01-01T00:00:00Z");
    world.store.objects.update_guest(&key, |guest| {
        let mut old = serde_json::to_value(&guest.status).unwrap();
        old.as_object_mut().unwrap().remove("started");
        let conditions = old["conditions"].as_array_mut().unwrap();
        for (type_, message) in [
            ("VolumesReady", "volumes and mounts are as wanted"),
            ("GPUReady", "no GPUs are wanted"),
            ("FeaturesApplied", "the features are installed"),
            ("ApplicationReady", "the application is set up"),
            ("TestsPassed", "the tests passed"),
        ] {
            let mut more = conditions[1].clone();
            (more["type"], more["message"]) = (json!(type_), json!(message));
            conditions.push(more);
        }
        conditions
            .iter_mut()
            .for_each(|c| c["lastTransitionTime"] = long_ago.clone());
        guest.status = serde_json::from_value(old).unwrap();
    });
    let events = world.store.events.lock().unwrap().len();
    world.restart();
    rounds(&world, 10).await;
    let found = status(&world, &key);
    let expected = [
        "Ready",
        "DependenciesReady",
        "Created",
        "Configured",
        "Running",
        "Healthy",
    ];
    assert_eq!(types(&found), expected);
    let times = found.conditions.iter().map(|c| json!(c.last_transition_time));
    assert!(times.into_iter().all(|time| time == long_ago), "{found:?}");
    assert_eq!(world.store.events.lock().unwrap()[events..], []);
}
