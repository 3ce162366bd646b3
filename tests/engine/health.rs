//! Startup, readiness and liveness probes by the whole engine on the simulator: what restarts, what waits, what is told.

use std::time::Duration;

use crate::engine::{IMAGE, World, lxc, object, vm};
use phoenix::desired::{Key, Objects};
use phoenix::simulator::Edit;
use phoenix::simulator::model::{AgentAction, AgentFault};
use phoenix::simulator::ssh::{SshAction, SshFault};
use serde_json::{Value, json};

pub fn exec(word: &str) -> Value {
    json!({"exec": {"command": [word]}})
}

pub fn guest(name: &str, health: Value) -> Value {
    lxc(name, json!({"source": {"image": {"volid": IMAGE}}, "health": health}))
}

/// Probes with this word in their command end so from now on.
pub fn fault(world: &World, command: &str, action: SshAction) {
    let fault = SshFault {
        vmid: None,
        command: command.into(),
        action,
        count: None,
    };
    world.sim().edit(Edit::SshFault(fault)).unwrap();
}

pub fn fails(world: &World, command: &str) {
    let output = format!("{command} says no");
    fault(world, command, SshAction::Exit { exit: 1, output });
}

pub fn mend(world: &World) {
    world.sim().with(|state| state.ssh.faults.clear());
}

/// Reason and message of a condition that does not hold.
fn complaint(world: &World, key: &Key, condition: &str) -> Option<(String, String)> {
    let conditions = object(world, key).status.conditions;
    let found = conditions.into_iter().find(|c| c.type_ == condition)?;
    (found.status != "True").then_some((found.reason, found.message))
}

/// Looks at everything until something is so.
async fn until(world: &World, what: &str, is: impl Fn(&World) -> bool) {
    for _ in 0..400 {
        world.round().await;
        if is(world) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let objects: Vec<_> = world.store.guests().iter().map(|g| g.status.message.clone()).collect();
    panic!("{what} did not come: {objects:?}");
}

async fn rounds(world: &World, count: usize) {
    for _ in 0..count {
        world.round().await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn tasks(world: &World, kind: &str) -> usize {
    world
        .sim()
        .with(|state| state.tasks.values().filter(|t| t.kind == kind).count())
}

fn commands(world: &World, word: &str) -> usize {
    let (server, _) = world.ssh.as_ref().unwrap();
    server.log().iter().filter(|entry| entry.summary.contains(word)).count()
}

fn events(world: &World, reason: &str) -> Vec<String> {
    let events = world.store.events.lock().unwrap();
    events
        .iter()
        .filter(|(_, e)| e.reason == reason)
        .map(|(_, e)| e.message.clone())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_liveness_probe_restarts_the_guest_and_then_waits_longer_and_longer() {
    let mut world = World::networked(&[]).await;
    let key = world.store.apply(guest("a", json!({"liveness": exec("alive")})));
    world.settle(false).await.unwrap();
    assert_eq!(tasks(&world, "vzreboot"), 0);
    assert_eq!(object(&world, &key).status.health.as_deref(), Some("Healthy"));

    fails(&world, "alive");
    until(&world, "back-off", |w| {
        complaint(w, &key, "Healthy").is_some_and(|(reason, _)| reason == "RestartBackOff")
    })
    .await;
    let (_, message) = complaint(&world, &key, "Healthy").unwrap();
    assert!(
        message.contains("the liveness probe fails: exit code 1: alive says no; restarted 1 times"),
        "{message}"
    );
    assert!(complaint(&world, &key, "Ready").is_some());
    assert_eq!(tasks(&world, "vzreboot"), 1);
    let restarts = object(&world, &key).status.restarts.unwrap();
    assert_eq!((restarts.count, restarts.in_a_row), (1, 1));
    assert_eq!(events(&world, "Restarted").len(), 1);
    assert!(events(&world, "Restarted")[0].contains("(the liveness probe fails: exit code 1: alive says no)"));

    // The pause is in status: a new engine does not restart it at once either.
    world.restart();
    rounds(&world, 20).await;
    assert_eq!(tasks(&world, "vzreboot"), 1);

    // When its time has come it is restarted again; here the last one is made old.
    world.store.objects.update_guest(&key, |guest| {
        let restarts = guest.status.restarts.as_mut().unwrap();
        restarts.last.0 -= k8s_openapi::jiff::SignedDuration::from_secs(11);
    });
    until(&world, "a second restart", |w| tasks(w, "vzreboot") == 2).await;
    mend(&world);
    world.settle(false).await.unwrap();
    let restarts = object(&world, &key).status.restarts.unwrap();
    assert_eq!((restarts.count, restarts.in_a_row), (2, 2));
    assert_eq!(events(&world, "Healthy").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_is_restarted_where_the_object_names_one() {
    let mut world = World::networked(&[]).await;
    let health = json!({"liveness": exec("alive"), "restartUnit": "web.service"});
    let key = world.store.apply(guest("a", health));
    world.settle(false).await.unwrap();
    fails(&world, "alive");
    until(&world, "a restart", |w| object(w, &key).status.restarts.is_some()).await;
    mend(&world);
    world.settle(false).await.unwrap();
    assert_eq!(commands(&world, "systemctl restart --no-block web.service"), 1);
    assert_eq!(tasks(&world, "vzreboot"), 0);

    // A unit that cannot be restarted is an error that names the field, and is not tried in a hurry.
    fails(&world, "systemctl");
    fails(&world, "alive");
    let old = k8s_openapi::jiff::SignedDuration::from_secs(3600);
    world
        .store
        .objects
        .update_guest(&key, |guest| guest.status.restarts.as_mut().unwrap().last.0 -= old);
    until(&world, "an error", |w| object(w, &key).status.last_error.is_some()).await;
    let error = object(&world, &key).status.last_error.unwrap();
    assert!(
        error.contains("web.service") && error.contains("correct health.restartUnit"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_startup_probe_holds_the_others_back_after_every_start() {
    let world = World::networked(&[]).await;
    let mut startup = exec("begun");
    startup["failureThreshold"] = json!(100);
    let health = json!({"startup": startup, "readiness": exec("serves"), "liveness": exec("alive")});
    fails(&world, "begun");
    let key = world.store.apply(guest("a", health));
    until(&world, "a startup probe", |w| {
        complaint(w, &key, "Healthy").is_some_and(|(_, m)| m.contains("begun says no"))
    })
    .await;
    assert_eq!(complaint(&world, &key, "Ready").unwrap().0, "Starting");
    assert_eq!(object(&world, &key).status.phase.as_deref(), Some("Starting"));
    let asked = |world: &World, word: &str| {
        world.sim().with(|state| state.ssh.faults.retain(|f| f.command != word));
    };
    // A probe that would be noticed if it were asked.
    fault(&world, "alive", SshAction::LoseBefore);
    fault(&world, "serves", SshAction::LoseBefore);
    rounds(&world, 10).await;
    let (_, message) = complaint(&world, &key, "Healthy").unwrap();
    assert!(message.contains("begun says no"), "{message}");
    for word in ["alive", "serves", "begun"] {
        asked(&world, word);
    }
    until(&world, "health", |w| object(w, &key).is_ready()).await;
    // After a restart it begins with the startup probe again.
    fails(&world, "alive");
    until(&world, "a restart", |w| tasks(w, "vzreboot") == 1).await;
    mend(&world);
    fails(&world, "begun");
    until(&world, "a startup probe", |w| {
        complaint(w, &key, "Healthy").is_some_and(|(reason, m)| reason == "Starting" && m.contains("begun says no"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_says_nothing_of_the_guest() {
    let mut world = World::networked(&[]).await;
    let key = world.store.apply(guest(
        "a",
        json!({"readiness": exec("serves"), "liveness": exec("alive")}),
    ));
    world.settle(false).await.unwrap();
    fault(&world, "alive", SshAction::LoseBefore);
    until(&world, "a complaint", |w| complaint(w, &key, "Healthy").is_some()).await;
    assert_eq!(complaint(&world, &key, "Healthy").unwrap().0, "SSHConnectionLost");
    rounds(&world, 30).await;
    assert_eq!(
        (tasks(&world, "vzreboot"), object(&world, &key).status.restarts),
        (0, None)
    );
    mend(&world);
    world.settle(false).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_is_restarted_too() {
    let mut world = World::networked(&[]).await;
    let key = world
        .store
        .apply(vm("m", json!({"health": {"liveness": exec("alive")}})));
    world.settle(false).await.unwrap();
    let stopped = tasks(&world, "qmshutdown");
    let fault = AgentFault {
        vmid: None,
        command: "alive".into(),
        action: AgentAction::Exit {
            exit: 1,
            output: "no".into(),
        },
        count: None,
    };
    world.sim().edit(Edit::AgentFault(fault)).unwrap();
    until(&world, "a restart", |w| tasks(w, "qmshutdown") == stopped + 1).await;
    world.sim().with(|state| state.agent.faults.clear());
    world.settle(false).await.unwrap();
    assert_eq!(object(&world, &key).status.restarts.map(|r| r.count), Some(1));
}

/// Promise 8 for probes: a guest that hangs keeps a place of its own, and all probes of a node share one connection.
#[tokio::test(flavor = "multi_thread")]
async fn guests_of_a_node_share_one_connection_and_one_that_hangs_holds_up_nobody() {
    let world = World::networked(&[]).await;
    let mut hypervisor = (*world.store.hypervisor("ai", "pve").unwrap()).clone();
    hypervisor.spec.limits = Some(serde_json::from_value(json!({"parallelTasksPerNode": 16})).unwrap());
    world.store.objects.insert_hypervisor(hypervisor);
    let names: Vec<String> = (0..40).map(|n| format!("g{n:02}")).collect();
    let mut keys = Vec::new();
    for (n, name) in names.iter().enumerate() {
        let mut manifest = guest(name, json!({"readiness": exec("serves")}));
        manifest["spec"]["network"] = json!([{"name": "eth0", "ip": format!("10.0.1.{}/24", n + 1)}]);
        manifest["spec"]["node"] = json!("phoenix");
        keys.push(world.store.apply(manifest));
    }
    for _ in 0..300 {
        world.poll().await;
        futures::future::join_all(keys.iter().map(|key| world.look_at(key))).await;
        if keys.iter().all(|key| object(&world, key).is_ready()) {
            break;
        }
    }
    assert!(keys.iter().all(|key| object(&world, key).is_ready()));
    let (connections, before) = (world.ssh.as_ref().unwrap().0.connections(), commands(&world, "probes "));

    // It answers after the test.
    let hangs = SshFault {
        vmid: object(&world, &keys[7]).status.vmid.map(|v| v as u32),
        command: "serves".into(),
        action: SshAction::Delay { ms: 3_600_000_000 },
        count: None,
    };
    world.sim().edit(Edit::SshFault(hangs)).unwrap();
    fails(&world, "serves");
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        futures::future::join_all(keys.iter().map(|key| world.look_at(key))).await;
    }
    for (n, key) in keys.iter().enumerate() {
        let health = object(&world, key).status.health;
        let expected = if n == 7 { "Healthy" } else { "Unhealthy" };
        assert_eq!(health.as_deref(), Some(expected), "{key}");
    }
    let (server, _) = world.ssh.as_ref().unwrap();
    assert_eq!(
        server.connections(),
        connections,
        "all of them over the connection that was there"
    );
    let channels = commands(&world, "probes ") - before;
    assert!(channels <= 120 / 3, "{channels} channels for 120 probes");
}

/// Cut off at each point of a restart and taken over by a new engine: never more restarts than status tells of, and never
/// a second one before its time.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_that_is_cut_off_anywhere_is_not_repeated_in_a_hurry() {
    let ahead = one_restart(&[]).await.unwrap();
    for at in ahead.0..ahead.1 {
        one_restart(&[at])
            .await
            .unwrap_or_else(|why| panic!("cut at {at}: {why}"));
    }
}

/// From health over one restart to health again; the points that were passed before and after.
async fn one_restart(at: &[usize]) -> Result<(usize, usize), String> {
    let mut world = World::networked(at).await;
    let passed = |w: &World| w.wire.passed.load(std::sync::atomic::Ordering::SeqCst);
    let key = world.store.apply(guest(
        "a",
        json!({"liveness": exec("alive"), "restartUnit": "web.service"}),
    ));
    world.settle(false).await?;
    let before = passed(&world);
    fails(&world, "alive");
    for _ in 0..40 {
        if world.wire.dead.swap(false, std::sync::atomic::Ordering::SeqCst) {
            world.restart();
        }
        world.round().await;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    mend(&world);
    let (done, told) = (
        commands(&world, "systemctl restart"),
        object(&world, &key).status.restarts.map_or(0, |r| r.count),
    );
    if told != 1 || done > 1 {
        return Err(format!("{done} restarts, status tells of {told}"));
    }
    world.settle(false).await?;
    Ok((before, passed(&world)))
}
