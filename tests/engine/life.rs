//! A whole life of a guest, and that everything that it says of itself is so.

use std::collections::BTreeMap;

use phoenix::crd::RESTARTED_AT;
use phoenix::desired::{Key, Objects};
use phoenix::engine::store::EventType;
use phoenix::simulator::Edit;
use serde_json::{Value, json};

use crate::engine::{Told, World, edit, rounds, settled, until};
use crate::health::{exec, fails, guest, mend};
use crate::truthful::{Seen, faults};

const VMID: u32 = 1000;

/// A world in which one object is watched.
struct Life {
    world: World,
    key: Key,
    object: Value,
    seen: Vec<Seen>,
    read: usize,
}

impl Life {
    async fn begin(object: Value) -> Life {
        let world = World::with_ssh(&[]).await;
        let key = world.store.apply(object.clone());
        let mut life = Life {
            world,
            key,
            object,
            seen: Vec::new(),
            read: 0,
        };
        life.note_object();
        life.seen.push(Seen::Started);
        life.seen.push(Seen::Answered);
        life.settle().await;
        life
    }

    fn note_object(&mut self) {
        let mut object = self.object.clone();
        let generation = self.world.store.guest(&self.key).unwrap().generation;
        object["metadata"]["generation"] = json!(generation);
        self.seen.push(Seen::Object(object));
    }

    fn apply(&mut self, change: impl FnOnce(&mut Value)) {
        change(&mut self.object);
        self.read();
        self.world.store.apply(self.object.clone());
        self.note_object();
    }

    /// Takes in what was written and published since.
    fn read(&mut self) {
        let journal = self.world.store.journal.lock().unwrap();
        for (_, told) in journal.iter().skip(self.read).filter(|(key, _)| *key == self.key) {
            self.seen.push(match told {
                Told::Status(status) => Seen::Status(serde_json::to_value(status).unwrap()),
                Told::Event(event) => Seen::Event {
                    warning: event.type_ == EventType::Warning,
                    reason: event.reason.clone(),
                    message: event.message.clone(),
                },
            });
        }
        self.read = journal.len();
    }

    async fn settle(&mut self) {
        settled(&mut self.world).await;
        rounds(&self.world, 3).await;
        self.read();
    }

    /// Its guest is started anew while no probe succeeds; nothing may call it Ready before one does.
    async fn through_a_start(&mut self) {
        self.seen.push(Seen::Started);
        let key = self.key.clone();
        until(&self.world, "it is starting", |w| {
            let status = w.store.guest(&key).unwrap().status;
            status.phase.as_deref() == Some("Starting") && status.message.unwrap_or_default().contains("serves says no")
        })
        .await;
        rounds(&self.world, 5).await;
        self.read();
        mend(&self.world);
        self.seen.push(Seen::Answered);
        self.settle().await;
    }

    /// Events told since the last time, without those of Ready and Healthy.
    fn told(&mut self) -> Vec<String> {
        let events = self.seen.iter().filter_map(|seen| match seen {
            Seen::Event { reason, message, .. } => Some((reason, message)),
            _ => None,
        });
        let told = events.filter(|(reason, _)| !["Ready", "Healthy"].contains(&reason.as_str()));
        told.map(|(reason, message)| format!("{reason}: {message}")).collect()
    }
}

fn options(changes: &[(&str, &str)]) -> BTreeMap<String, Option<String>> {
    let one = |(key, value): &(&str, &str)| (key.to_string(), Some(value.to_string()));
    changes.iter().map(one).collect()
}

fn probed(name: &str) -> Value {
    let mut probe = exec("serves");
    probe["failureThreshold"] = json!(1000);
    let mut object = guest(name, json!({"readiness": probe}));
    object["spec"]["application"] = json!({"script": "#!/bin/sh\ntrue\n"});
    object["spec"]["tests"] = json!([{"name": "smoke", "script": "#!/bin/sh\ntrue\n"}]);
    object
}

#[tokio::test(start_paused = true)]
async fn everything_that_a_guest_says_over_its_life_is_so() {
    let mut life = Life::begin(probed("a")).await;
    // What Proxmox applies at once, and what grows.
    life.apply(|o| o["spec"]["cores"] = json!(4));
    life.settle().await;
    life.apply(|o| o["spec"]["rootfs"]["size"] = json!("9Gi"));
    life.settle().await;
    // It is restarted by wish.
    fails(&life.world, "serves");
    life.apply(|o| o["metadata"]["annotations"] = json!({RESTARTED_AT: "now"}));
    life.through_a_start().await;
    // Somebody edits it, and somebody else restarts it.
    life.seen.push(Seen::Trouble(true));
    let cores = options(&[("cores", "8")]);
    edit(
        &life.world,
        Edit::SetOptions {
            vmid: VMID,
            options: cores,
        },
    );
    let mut asked = life.object.clone();
    asked["metadata"]["annotations"]["phoenix-hypervisor.io/reconcile"] = json!("now");
    life.apply(|o| *o = asked);
    life.settle().await;
    life.seen.push(Seen::Trouble(false));
    fails(&life.world, "serves");
    for running in [false, true] {
        edit(&life.world, Edit::Power { vmid: VMID, running });
    }
    life.through_a_start().await;
    // It is stopped and started.
    life.apply(|o| o["spec"]["powerState"] = json!("Stopped"));
    life.settle().await;
    life.apply(|o| o["spec"]["powerState"] = json!("Running"));
    life.seen.extend([Seen::Started, Seen::Answered]);
    life.settle().await;
    // A test fails.
    life.seen.push(Seen::Trouble(true));
    life.apply(|o| o["spec"]["tests"][0]["script"] = json!("#!/bin/sh\n# simulate: exit=3 output=no-answer\n"));
    life.settle().await;
    life.seen.push(Seen::Trouble(false));
    // It goes.
    life.world.store.delete(&life.key);
    life.settle().await;

    assert_eq!(faults(&life.seen), [""; 0], "{:#?}", life.seen);
    let image = crate::engine::IMAGE;
    assert_eq!(
        life.told(),
        [
            format!("Created: created container 1000 from {image}"),
            "Configured: configured container 1000 (tags: (none) → \"phoenix\")".into(),
            "Started: started container 1000".into(),
            "ScriptSucceeded: application ended well".into(),
            "ScriptSucceeded: test smoke ended well".into(),
            "Configured: configured container 1000 (cores: \"2\" → \"4\")".into(),
            "GrownVolume: grew the root filesystem of container 1000 to 9Gi".into(),
            "Restarted: restarted container 1000 (annotation restartedAt)".into(),
            "DriftCorrected: configured container 1000 (cores: \"8\" → \"4\")".into(),
            "Stopped: shut container 1000 down".into(),
            "Started: started container 1000".into(),
            "TestFailed: test smoke failed with exit code 3: no-answer".into(),
            "Stopped: stopped container 1000".into(),
            "Destroyed: destroyed container 1000".into(),
            "Released: let the object go: the guest is gone".into(),
        ]
    );
}

/// The same for a machine, whose restart is a shutdown and a start.
#[tokio::test(start_paused = true)]
async fn a_machine_that_is_restarted_tells_of_it_once() {
    let mut life = Life::begin(crate::engine::vm("m", json!({}))).await;
    life.apply(|o| o["metadata"]["annotations"] = json!({RESTARTED_AT: "now"}));
    life.settle().await;
    let told = life.told();
    let restarts: Vec<_> = told
        .iter()
        .filter(|t| t.starts_with("Restarted") || t.starts_with("Stopped"))
        .collect();
    assert_eq!(restarts, ["Restarted: restarted VM 1000 (annotation restartedAt)"]);
    assert_eq!(told.iter().filter(|t| t.starts_with("Started")).count(), 1, "{told:?}");
    assert_eq!(faults(&life.seen), [""; 0], "{told:#?}");
}
