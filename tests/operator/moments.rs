//! Something happens just before a write to Proxmox leaves: the process has looked, decided and stands still; then it goes
//! on, and the write arrives in another world. Every life ends as it does without. `PHOENIX_MOMENT` runs one moment alone,
//! and `PHOENIX_STRIDE=1` all of them (usually every fifth).

use std::collections::BTreeMap;
use std::env;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use phoenix::desired::Stamp;
use phoenix::simulator::model::access::Access;
use phoenix::simulator::{Edit, SimConfig, Simulator, State};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::alone;
use crate::apiserver::Snapshot;
use crate::inprocess::BEGIN;
use crate::operated::{Running, Site};
use crate::steps::{STEPS, at_rest, end, invariants, only_in};

/// How long the process stands still.
const STILL: Duration = Duration::from_secs(20);
/// How long what happened lasts after that.
const LASTS: Duration = Duration::from_secs(240);
/// Longest time that a step takes.
const LIMIT: Duration = Duration::from_secs(3600);

/// Something that happens.
struct Hurt {
    name: &'static str,
    /// Before the life begins.
    prepare: fn(&Site),
    begin: fn(&Scene),
    end: fn(&Scene),
    /// Another process takes over while the first one stands still, which goes on when all is done.
    takeover: bool,
}

const NOTHING: Hurt = Hurt {
    name: "nothing",
    prepare: |_| (),
    begin: |_| (),
    end: |_| (),
    takeover: false,
};

/// What something that happens can reach and remember.
struct Scene {
    site: Site,
    first: Option<Running>,
    second: Mutex<Option<Running>>,
    access: Mutex<Option<Access>>,
    /// The API server's objects as the step began.
    snapshot: Mutex<Option<Snapshot>>,
    /// Configurations of guests as the step began.
    configs: Mutex<BTreeMap<u32, BTreeMap<String, String>>>,
}

impl Scene {
    /// Guests of ours of other kinds than these, without locks.
    fn ours(&self, but: &[&str]) -> Vec<u32> {
        self.site.sim.with(|state| {
            let fits = |options: &BTreeMap<String, String>| {
                let stamp = options.get("description").and_then(|text| Stamp::find(text));
                stamp.is_some_and(|s| !but.contains(&s.kind.as_str())) && !options.contains_key("lock")
            };
            let guests = state
                .guests
                .iter()
                .filter(|(_, guest)| fits(&guest.config().current.options));
            guests.map(|(vmid, _)| *vmid).collect()
        })
    }

    fn edit(&self, edit: Edit) {
        // What cannot be done at this moment nobody does.
        let _ = self.site.sim.edit(edit);
    }

    fn state(&self, change: impl FnOnce(&mut State)) {
        self.site.sim.with(|state| {
            change(state);
            state.broadcast();
        });
    }
}

/// A life in which something happens before its write number `at`; its end, and how many writes there were.
async fn life(hurt: &Hurt, at: usize) -> Result<(String, usize), String> {
    let site = Site::new();
    (hurt.prepare)(&site);
    let first = match hurt.takeover {
        true => site.candidate("one"),
        false => site.operator("one"),
    };
    let written = Arc::new(AtomicUsize::new(0));
    let counter = written.clone();
    first.gate.freeze_before(move |method, path| {
        let counts = method != "GET" && !path.ends_with("/access/ticket");
        counts && counter.fetch_add(1, Ordering::SeqCst) == at
    });
    let mut scene = Scene {
        site,
        first: Some(first),
        second: Mutex::default(),
        access: Mutex::default(),
        snapshot: Mutex::default(),
        configs: Mutex::default(),
    };
    for (number, step) in STEPS.iter().enumerate() {
        step(&scene.site);
        *scene.snapshot.lock().unwrap() = Some(scene.site.server.snapshot());
        *scene.configs.lock().unwrap() = scene.site.sim.with(|state| {
            let guests = state.guests.iter();
            guests
                .map(|(vmid, guest)| (*vmid, guest.config().current.options.clone()))
                .collect()
        });
        let rests = |site: &Site| match number == STEPS.len() - 1 {
            true => at_rest(site),
            false => site.all_ready(),
        };
        let done = through(&mut scene, hurt, rests).await;
        done.map_err(|words| format!("{}, PHOENIX_MOMENT={at}, step {number}: {words}", hurt.name))?;
    }
    tokio::time::sleep(Duration::from_secs(700)).await;
    let context = |words: String| format!("{}, PHOENIX_MOMENT={at}: {words}\n{}", hurt.name, scene.site.words());
    invariants(&scene.site).map_err(context)?;
    Ok((end(&scene.site), written.load(Ordering::SeqCst)))
}

/// A step, and what happens in it.
async fn through(scene: &mut Scene, hurt: &Hurt, rests: impl Fn(&Site) -> bool) -> Result<(), String> {
    let begun = Instant::now();
    // An edit is seen before anything counts as done.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut over: Option<Instant> = None;
    loop {
        let frozen = scene.first.as_ref().is_some_and(|first| first.gate.is_frozen());
        if frozen && hurt.takeover && scene.second.lock().unwrap().is_none() {
            *scene.second.lock().unwrap() = Some(scene.site.candidate("two"));
        } else if frozen && !hurt.takeover && over.is_none() {
            (hurt.begin)(scene);
            tokio::time::sleep(STILL).await;
            scene.first.iter().for_each(|first| first.gate.thaw());
            over = Some(Instant::now() + LASTS);
        }
        if over.is_some_and(|at| at <= Instant::now()) {
            (hurt.end)(scene);
            over = None;
            // Nothing stops this process again.
            continue;
        }
        if over.is_none() && rests(&scene.site) {
            match frozen {
                false => return Ok(()),
                true => scene.first.iter().for_each(|first| first.gate.thaw()),
            }
            tokio::time::sleep(Duration::from_secs(120)).await;
            scene.first = None;
            continue;
        }
        if begun.elapsed() > LIMIT {
            return Err(format!("not at rest in an hour:\n{}", scene.site.words()));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

fn number(name: &str) -> Option<usize> {
    env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// Runs a life for each moment.
fn sweep(hurt: &'static Hurt) {
    let calm = Hurt {
        prepare: hurt.prepare,
        ..NOTHING
    };
    let (usual, writes) = alone(|| life(&calm, usize::MAX)).unwrap();
    let moments: Vec<usize> = match number("PHOENIX_MOMENT") {
        Some(moment) => vec![moment],
        None => (0..writes).step_by(number("PHOENIX_STRIDE").unwrap_or(5)).collect(),
    };
    let mut failures = Vec::new();
    for at in &moments {
        match alone(|| life(hurt, *at)) {
            Ok((found, _)) if found == usual => {}
            Ok((found, _)) => failures.push(format!(
                "{}, PHOENIX_MOMENT={at}: ends with {:#?}\ninstead of {:#?}",
                hurt.name,
                only_in(&found, &usual),
                only_in(&usual, &found)
            )),
            Err(words) => failures.push(words),
        }
        if failures.len() == 3 {
            break;
        }
    }
    println!("{}: {} moments of {writes}", hurt.name, moments.len());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn second_node(site: &Site) {
    site.sim
        .with(|state| state.add_twin("phoenix", "two", "10.0.0.14", "lab"));
}

/// Somebody, or HA, moves our guests to the other node, with their volumes.
fn migrate(scene: &Scene) {
    let vmids = scene.ours(&["VolumeOwner"]);
    scene.state(|state| {
        if !state.active.is_empty() {
            return;
        }
        for vmid in vmids {
            let Some(guest) = state.guests.get_mut(&vmid) else {
                continue;
            };
            // Its retained volume stays on its node: Phoenix is Stalled then, and says what to move.
            if guest
                .config()
                .current
                .options
                .get("hostname")
                .is_some_and(|name| name == "a")
            {
                continue;
            }
            let from = guest.node.clone();
            let to = if from == "phoenix" { "two" } else { "phoenix" };
            guest.node = to.into();
            for storage in state.storages.values_mut().filter(|s| !s.shared) {
                let volumes = storage.volumes.get(&from).cloned().unwrap_or_default();
                let moved: Vec<String> = volumes
                    .keys()
                    .filter(|name| storage.owner_of(name) == Ok(vmid))
                    .cloned()
                    .collect();
                for name in moved {
                    if let Some(volume) = storage.take(&from, &name) {
                        storage.insert(to, &name, volume);
                    }
                }
            }
        }
    });
}

/// The cluster splits: one endpoint answers for the node that the guests are on, which has no quorum, the other one for the
/// rest, which has it and does not see that node.
fn split(scene: &Scene) {
    let side = Simulator::new(SimConfig {
        runtime_clock: Some(BEGIN),
        ..SimConfig::default()
    })
    .unwrap();
    let mut state = scene.site.sim.with(|state| state.clone());
    state.quorate = false;
    state
        .edit(Edit::NodeOnline {
            node: "two".into(),
            online: false,
        })
        .unwrap();
    side.with(|minority| {
        *minority = state;
        minority.broadcast();
    });
    scene.site.outside.split(Some((CUT_OFF.into(), side)));
    scene.edit(Edit::NodeOnline {
        node: "phoenix".into(),
        online: false,
    });
    scene.state(|_| ());
}

/// The node boots and joins the others, which have taken its guests over: what was done there meanwhile is lost.
fn heal(scene: &Scene) {
    migrate(scene);
    scene.site.outside.split(None);
    scene.edit(Edit::NodeOnline {
        node: "phoenix".into(),
        online: true,
    });
    scene.state(|_| ());
}

/// Host of the endpoint that is cut off.
const CUT_OFF: &str = "pve.test";

fn two_endpoints(site: &Site, endpoints: [&'static str; 2]) {
    second_node(site);
    *site.endpoints.lock().unwrap() = endpoints.to_vec();
}

fn forget_statuses(scene: &Scene) {
    for object in scene.site.guests() {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
        let (kind, name) = (text(&object["kind"]), text(&object["metadata"]["name"]));
        scene.site.server.edit(&kind, "ai", &name, |object| {
            object.as_object_mut().unwrap().remove("status");
        });
    }
}

macro_rules! moments {
    ($($test:ident: $name:expr, { $($field:ident: $value:expr),* };)*) => {$(
        #[test]
        fn $test() {
            static HURT: Hurt = Hurt { name: $name, $($field: $value,)* ..NOTHING };
            sweep(&HURT);
        }
    )*};
}

moments! {
    another_process_took_over: "a process wakes up when another one has done all", {takeover: true};
    guests_migrate: "somebody migrates the guests", {prepare: second_node, begin: migrate};
    the_quorum_is_lost: "the cluster loses its quorum", {
        prepare: second_node,
        begin: |scene| scene.state(|state| state.quorate = false),
        end: |scene| scene.state(|state| state.quorate = true)
    };
    the_node_is_cut_off: "the node is cut off, and comes back", {
        prepare: second_node,
        begin: |scene| scene.edit(Edit::NodeOnline { node: "phoenix".into(), online: false }),
        end: |scene| scene.edit(Edit::NodeOnline { node: "phoenix".into(), online: true })
    };
    the_node_crashes: "the node loses power, and boots", {
        begin: |scene| scene.edit(Edit::NodeCrash { node: "phoenix".into() }),
        // Somebody does as Phoenix says: what was cut off in its creation is removed, other locks are taken off.
        end: |scene| {
            let locked = scene.site.sim.with(|state| {
                let lock = |guest: &phoenix::simulator::model::Guest| guest.config().current.options.get("lock").cloned();
                state.guests.iter().filter_map(|(vmid, guest)| Some((*vmid, lock(guest)?))).collect::<Vec<_>>()
            });
            for (vmid, lock) in locked {
                match lock.as_str() {
                    "create" => scene.edit(Edit::RemoveGuest { vmid }),
                    _ => scene.edit(Edit::Lock { vmid, lock: None }),
                }
            }
        }
    };
    the_cluster_splits: "the cluster splits, and the other side moves the guests", {
        prepare: second_node,
        begin: |scene| scene.state(|state| state.quorate = false),
        end: |scene| {
            migrate(scene);
            scene.state(|state| state.quorate = true);
        }
    };
    the_cluster_splits_between_its_endpoints: "the cluster splits between its endpoints", {
        prepare: |site| two_endpoints(site, ["https://pve.test:8006", "https://two.test:8006"]),
        begin: split,
        end: heal
    };
    the_cluster_splits_and_the_others_answer: "the cluster splits, and the others answer", {
        prepare: |site| two_endpoints(site, ["https://two.test:8006", "https://pve.test:8006"]),
        begin: split,
        end: heal
    };
    tasks_hang: "tasks hang until somebody stops them", {
        begin: |scene| scene.edit(Edit::HangTasks { hang: true }),
        end: |scene| scene.edit(Edit::HangTasks { hang: false })
    };
    users_take_snapshots: "somebody takes snapshots, and deletes them", {
        begin: |scene| for vmid in scene.ours(&["VolumeOwner"]) {
            scene.edit(Edit::Snapshot { vmid, name: "mine".into() });
        },
        end: |scene| for vmid in scene.ours(&["VolumeOwner"]) {
            scene.edit(Edit::DeleteSnapshot { vmid, name: "mine".into() });
        }
    };
    users_roll_back: "somebody rolls guests back to snapshots", {
        begin: |scene| for vmid in scene.ours(&["VolumeOwner", "PhoenixTemplate"]) {
            scene.edit(Edit::Snapshot { vmid, name: "mine".into() });
        },
        end: |scene| for vmid in scene.ours(&["VolumeOwner", "PhoenixTemplate"]) {
            scene.edit(Edit::Rollback { vmid, name: "mine".into() });
            scene.edit(Edit::DeleteSnapshot { vmid, name: "mine".into() });
        }
    };
    // What the object asks for is made anew; its retained volume is attached again.
    users_destroy: "somebody destroys the guests", {
        begin: |scene| for vmid in scene.ours(&["VolumeOwner"]) {
            scene.edit(Edit::RemoveGuest { vmid });
        }
    };
    permissions_are_taken_away: "permissions are taken away, and given back", {
        begin: |scene| scene.state(|state| {
            *scene.access.lock().unwrap() = Some(state.access.clone());
            state.access.acl.clear();
        }),
        end: |scene| scene.state(|state| state.access = scene.access.lock().unwrap().take().unwrap())
    };
    users_start_and_stop: "somebody stops what runs and starts what does not", {
        begin: |scene| for vmid in scene.ours(&["VolumeOwner", "PhoenixTemplate"]) {
            let running = scene.site.sim.with(|state| state.guests[&vmid].running.is_some());
            scene.edit(Edit::Power { vmid, running: !running });
        }
    };
    users_edit: "somebody edits the guests", {
        begin: |scene| for vmid in scene.ours(&["VolumeOwner", "PhoenixTemplate"]) {
            let options = [("memory", "3000"), ("cores", "7")].map(|(k, v)| (k.into(), Some(v.into())));
            scene.edit(Edit::SetOptions { vmid, options: options.into() });
        }
    };
    users_back_up: "guests are locked by backups", {
        begin: |scene| for vmid in scene.ours(&["VolumeOwner"]) {
            scene.edit(Edit::Lock { vmid, lock: Some("backup".into()) });
        },
        end: |scene| scene.state(|state| for guest in state.guests.values_mut() {
            guest.edit(|config| if config.current.options.get("lock").is_some_and(|lock| lock == "backup") {
                config.current.remove("lock");
            });
        })
    };
    users_restore: "somebody restores guests as they were, under their ids", {
        begin: |scene| {
            let before = scene.configs.lock().unwrap().clone();
            for vmid in scene.ours(&["VolumeOwner", "PhoenixTemplate"]) {
                let Some(config) = before.get(&vmid).filter(|c| !c.contains_key("mp0")) else { continue };
                scene.edit(Edit::Power { vmid, running: false });
                let mut options: BTreeMap<String, Option<String>> =
                    config.iter().map(|(key, value)| (key.clone(), Some(value.clone()))).collect();
                options.insert("lock".into(), Some("create".into()));
                scene.edit(Edit::SetOptions { vmid, options });
            }
        },
        end: |scene| scene.state(|state| for guest in state.guests.values_mut() {
            guest.edit(|config| if config.current.options.get("lock").is_some_and(|lock| lock == "create") {
                config.current.remove("lock");
            });
        })
    };
    a_storage_is_offline: "a storage is offline", {
        begin: |scene| scene.edit(Edit::StorageActive { storage: "quickOS-lxc-disks".into(), active: false }),
        end: |scene| scene.edit(Edit::StorageActive { storage: "quickOS-lxc-disks".into(), active: true })
    };
    a_storage_is_full: "a storage is full", {
        begin: |scene| scene.edit(Edit::StorageTotal { storage: "quickOS-lxc-disks".into(), total: 1 << 30 }),
        end: |scene| scene.edit(Edit::StorageTotal { storage: "quickOS-lxc-disks".into(), total: 1 << 42 })
    };
    users_clone: "somebody clones the guests", {
        begin: |scene| {
            scene.configs.lock().unwrap().clear();
            for vmid in scene.ours(&["VolumeOwner"]) {
                let copy = vmid + 7000;
                scene.edit(Edit::CloneGuest { from: vmid, to: copy });
                let options = scene.site.sim.with(|state| Some(state.guests.get(&copy)?.config().current.options.clone()));
                scene.configs.lock().unwrap().extend(options.map(|options| (copy, options)));
            }
        },
        end: |scene| for (copy, options) in scene.configs.lock().unwrap().iter() {
            let found = scene.site.sim.with(|state| state.guests[copy].config().current.options.clone());
            assert_eq!(found, *options, "a copy was touched");
        }
    };
    statuses_are_lost: "all statuses are lost", {begin: forget_statuses};
    the_datastore_is_restored: "the API server's datastore is restored", {
        begin: |scene| {
            let snapshot = scene.snapshot.lock().unwrap().take();
            scene.site.server.restore(snapshot.unwrap());
        }
    };
    objects_have_new_uids: "objects are restored under new uids, without statuses", {
        begin: |scene| {
            forget_statuses(scene);
            for object in scene.site.guests() {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
                let (kind, name) = (text(&object["kind"]), text(&object["metadata"]["name"]));
                scene.site.server.edit(&kind, "ai", &name, |object| {
                    object["metadata"]["uid"] = json!(format!("restored-{name}"));
                });
            }
        }
    };
    the_clock_jumps: "the clock jumps by a day, and back", {
        begin: |scene| scene.first.iter().for_each(|first| first.skew.store(86_400, Ordering::SeqCst)),
        end: |scene| scene.first.iter().for_each(|first| first.skew.store(0, Ordering::SeqCst))
    };
    the_clock_jumps_back: "the clock jumps back by a day", {
        begin: |scene| scene.first.iter().for_each(|first| first.skew.store(-86_400, Ordering::SeqCst))
    };
}
