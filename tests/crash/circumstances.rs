//! What happens around the engine while a lifecycle runs: guests migrate between two nodes,
//! privileges are taken away, reads fail for long, objects are deleted while their guests are made, and another engine
//! works beside it. Each begins at a point of the run, between two calls, and most are over some rounds later; what must
//! hold is the same end.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use phoenix::desired::{Key, Objects, Stamp};
use phoenix::engine::{Engine, EngineOptions, Point, Tripwire};
use phoenix::simulator::model::access::Access;
use phoenix::simulator::{Edit, Fault, FaultKind, Simulator, State};

use crate::engine::{CLUSTER, TestStore, World, second_node};
use crate::lifecycles::{LIFECYCLES, Lifecycle};
use crate::{end, report, same_end};

/// Rounds that a circumstance lasts.
const LASTS: usize = 12;
/// Points of a lifecycle at which a circumstance begins, spread over it.
const POSITIONS: usize = 10;

/// What a circumstance can reach.
struct Around {
    sim: Simulator,
    store: Arc<TestStore>,
    access: Mutex<Option<Access>>,
}

struct Circumstance {
    name: &'static str,
    /// Before the lifecycle begins.
    prepare: fn(&World),
    begin: fn(&Around),
    end: fn(&Around),
    /// Whether it is right that it ends Stalled.
    stalls: bool,
}

/// Counts the points that the engine passes, and lets the circumstance begin at one of them.
struct Begins {
    passed: AtomicUsize,
    at: Option<usize>,
    around: Around,
    begin: fn(&Around),
    /// Of which action and where it began, for messages.
    began: Mutex<Option<String>>,
}

impl Tripwire for Begins {
    fn trip(&self, key: &Key, point: Point, what: &str) -> bool {
        if Some(self.passed.fetch_add(1, Ordering::SeqCst)) == self.at {
            (self.begin)(&self.around);
            *self.began.lock().unwrap() = Some(format!("{point:?} of {what:?} for {key}"));
        }
        false
    }
}

fn is_settled(world: &World, stalled_is_fine: bool) -> bool {
    world.store.guests().iter().all(|guest| {
        let holds = |type_: &str| {
            guest
                .status
                .conditions
                .iter()
                .any(|c| c.type_ == type_ && c.status == "True")
        };
        (guest.is_ready() && !guest.deleting) || (stalled_is_fine && holds("Stalled"))
    })
}

/// One run of the first `phases` of a lifecycle; the world in the end, and the points that were passed.
async fn run(
    lifecycle: &Lifecycle,
    circumstance: &Circumstance,
    at: Option<usize>,
    phases: usize,
    beside: Option<u64>,
) -> Result<(World, usize), String> {
    let mut world = if lifecycle.ssh {
        World::with_ssh(&[]).await
    } else {
        World::new(&[]).await
    };
    (circumstance.prepare)(&world);
    let wire = Arc::new(Begins {
        passed: AtomicUsize::new(0),
        at,
        around: Around {
            sim: world.sim().clone(),
            store: world.store.clone(),
            access: Mutex::default(),
        },
        begin: circumstance.begin,
        began: Mutex::default(),
    });
    world.replace_tripwire(wire.clone());
    let other = beside.map(|_| {
        let mut options = EngineOptions::new(CLUSTER);
        options.outside = world.outside();
        options.time_scale = world.time_scale;
        Engine::new(world.store.clone(), options)
    });
    let context = |error: String| {
        let began = wire
            .began
            .lock()
            .unwrap()
            .clone()
            .unwrap_or_else(|| format!("beside {beside:?}"));
        format!("{}, {}, {began}: {error}", lifecycle.name, circumstance.name)
    };
    let mut left = LASTS;
    for (n, phase) in lifecycle.phases.iter().enumerate().take(phases) {
        phase(&world);
        // What is protected stays when its object is deleted, and says so.
        let stalls = circumstance.stalls || (lifecycle.stalls && n + 1 == lifecycle.phases.len());
        for round in 0.. {
            let beside = async {
                let (Some(other), Some(seed)) = (&other, beside) else {
                    return;
                };
                tokio::time::sleep(Duration::from_millis((seed + round) % 5)).await;
                world.record_poll(other.poll("ai", "pve").await);
                for guest in world.store.guests() {
                    other.reconcile(&guest.key).await;
                }
            };
            tokio::join!(world.round(), beside);
            if wire.began.lock().unwrap().is_some() && left > 0 {
                left -= 1;
                if left == 0 {
                    (circumstance.end)(&wire.around);
                }
                continue;
            }
            if round > 0 && is_settled(&world, stalls) {
                break;
            }
            if round > 300 {
                let standing = world.store.guests();
                let standing = standing
                    .iter()
                    .map(|g| format!("{}: {:?} {:?}", g.key, g.status.phase, g.status.message));
                return Err(context(standing.collect::<Vec<_>>().join("\n")));
            }
            world.pause().await;
        }
    }
    world.check_invariants().map_err(&context)?;
    volumes_are_registered_once(&world).map_err(&context)?;
    let passed = wire.passed.load(Ordering::SeqCst);
    Ok((world, passed))
}

/// No retained volume was allocated twice, whatever was readable at the time.
fn volumes_are_registered_once(world: &World) -> Result<(), String> {
    let mut keys: Vec<String> = Vec::new();
    for options in world.guests().values() {
        let owner = options
            .get("description")
            .and_then(|d| Stamp::find(d))
            .is_some_and(|s| s.kind == "VolumeOwner");
        let mounts = options.iter().filter(|(key, _)| owner && key.starts_with("mp"));
        keys.extend(mounts.filter_map(|(_, v)| v.split(',').find_map(|p| p.strip_prefix("mp=")).map(str::to_owned)));
    }
    keys.sort();
    match keys.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(format!("volume {} is registered twice", pair[0])),
        None => Ok(()),
    }
}

/// Positions spread over a run of so many points.
fn positions(points: usize) -> Vec<usize> {
    let step = points.div_ceil(POSITIONS).max(1);
    (step / 2..points).step_by(step).collect()
}

/// Lets a circumstance begin at points of lifecycles; each has to end as without it.
async fn sweep(circumstance: &'static Circumstance, lifecycles: &[usize]) {
    for n in lifecycles {
        let lifecycle = &LIFECYCLES[*n];
        let all = lifecycle.phases.len();
        let (usual, points) = run(lifecycle, circumstance, None, all, None).await.unwrap();
        let expected = &end(&usual);
        let runs = positions(points).into_iter().map(|at| {
            move || async move {
                let (world, _) = run(lifecycle, circumstance, Some(at), all, None).await?;
                (lifecycle.check)(&world)?;
                same_end(&end(&world), expected)
                    .map_err(|error| format!("{}, {} at {at}: {error}", lifecycle.name, circumstance.name))
            }
        });
        report(circumstance.name, positions(points).len(), runs);
    }
}

fn nothing(_: &Around) {}

/// Whose guest it is, for a guest that somebody can migrate now.
fn migratable(guest: &phoenix::simulator::model::Guest) -> bool {
    let options = &guest.config().current.options;
    let stamp = options.get("description").and_then(|d| Stamp::find(d));
    stamp.is_some_and(|s| s.kind != "VolumeOwner") && !options.contains_key("lock") && !options.contains_key("template")
}

/// Somebody moves every guest of ours to the other node, with its volumes.
fn migrate(around: &Around) {
    around.sim.with(|state: &mut State| {
        if !state.active.is_empty() {
            return;
        }
        let vmids: Vec<u32> = state
            .guests
            .iter()
            .filter(|(_, g)| migratable(g))
            .map(|(v, _)| *v)
            .collect();
        for vmid in vmids {
            let Some(guest) = state.guests.get_mut(&vmid) else {
                continue;
            };
            let from = guest.node.clone();
            let to = if from == "phoenix" { "two" } else { "phoenix" };
            guest.node = to.into();
            for storage in state.storages.values_mut().filter(|s| !s.shared) {
                let own = |name: &String| storage.owner_of(name) == Ok(vmid);
                let volumes = storage.volumes.get(&from).cloned().unwrap_or_default();
                let moved: Vec<String> = volumes.keys().filter(|name| own(name)).cloned().collect();
                for name in moved {
                    if let Some(volume) = storage.take(&from, &name) {
                        storage.insert(to, &name, volume);
                    }
                }
            }
        }
        state.broadcast();
    });
}

static MIGRATION: Circumstance = Circumstance {
    stalls: false,
    name: "somebody migrates the guests",
    prepare: second_node,
    begin: migrate,
    end: nothing,
};

static PRIVILEGES: Circumstance = Circumstance {
    stalls: false,
    name: "the token loses its privileges",
    prepare: |_| (),
    begin: |around| {
        let access = around.sim.with(|state| {
            let saved = state.access.clone();
            state.access.acl.clear();
            saved
        });
        *around.access.lock().unwrap() = Some(access);
    },
    end: |around| {
        if let Some(saved) = around.access.lock().unwrap().take() {
            around.sim.with(|state| state.access = saved);
        }
    },
};

static READS: Circumstance = Circumstance {
    stalls: false,
    name: "reads of guests and storages fail",
    prepare: |_| (),
    begin: |around| {
        around.sim.add_fault(Fault {
            method: Some("GET".into()),
            path: Some("^/nodes/.*/(config|content|current|snapshot|pending|storage)$".into()),
            skip: 0,
            count: 1_000_000,
            kind: FaultKind::Status {
                status: 500,
                message: "got timeout".into(),
            },
        });
    },
    end: |around| around.sim.clear_faults(),
};

/// `/etc/pve` cannot be written until the other nodes are back.
static QUORUM: Circumstance = Circumstance {
    stalls: false,
    name: "the cluster loses its quorum",
    prepare: second_node,
    begin: |around| {
        around.sim.with(|state| {
            state.quorate = false;
            state.broadcast();
        });
    },
    end: |around| {
        around.sim.with(|state| {
            state.quorate = true;
            state.broadcast();
        });
    },
};

static DELETION: Circumstance = Circumstance {
    stalls: true,
    name: "the objects are deleted",
    prepare: |_| (),
    begin: |around| {
        for guest in around.store.guests() {
            around.store.delete(&guest.key);
        }
    },
    end: nothing,
};

/// A task runs until somebody stops it.
static HANGING: Circumstance = Circumstance {
    stalls: false,
    name: "tasks hang until somebody stops them",
    prepare: |_| (),
    begin: |around| around.sim.edit(Edit::HangTasks { hang: true }).unwrap(),
    end: |around| around.sim.edit(Edit::HangTasks { hang: false }).unwrap(),
};

/// What the objects ask for is made anew, under the same vmid.
static DESTROYED: Circumstance = Circumstance {
    stalls: false,
    name: "somebody destroys the guests",
    prepare: |_| (),
    begin: |around| {
        around.sim.with(|state| {
            let ours: Vec<u32> = match state.active.is_empty() {
                true => state
                    .guests
                    .iter()
                    .filter(|(_, g)| migratable(g))
                    .map(|(v, _)| *v)
                    .collect(),
                false => Vec::new(),
            };
            for vmid in ours {
                state.edit(Edit::RemoveGuest { vmid }).unwrap();
            }
            state.broadcast();
        });
    },
    end: nothing,
};

static BESIDE: Circumstance = Circumstance {
    stalls: false,
    name: "another engine works beside it",
    prepare: |_| (),
    begin: nothing,
    end: nothing,
};

#[tokio::test(start_paused = true)]
async fn guests_migrate() {
    sweep(&MIGRATION, &[0, 3, 5]).await;
}

#[tokio::test(start_paused = true)]
async fn privileges_are_missing() {
    sweep(&PRIVILEGES, &[0, 4, 5]).await;
}

#[tokio::test(start_paused = true)]
async fn quorum_is_lost() {
    sweep(&QUORUM, &[0, 4, 5, 16]).await;
}

#[tokio::test(start_paused = true)]
async fn reads_fail_for_long() {
    sweep(&READS, &[0, 4, 5]).await;
}

#[tokio::test(start_paused = true)]
async fn tasks_hang() {
    sweep(&HANGING, &[0, 1, 2, 4, 5, 9, 12]).await;
}

/// What is destroyed with a volume of its own ends otherwise: see `volumes::reclaim` of `engine`.
#[tokio::test(start_paused = true)]
async fn guests_are_destroyed() {
    sweep(&DESTROYED, &[0, 1, 2, 3, 5, 9, 16]).await;
}

/// Nothing of what was begun is left, but retained volumes; and what is somebody else's is.
#[tokio::test(start_paused = true)]
async fn objects_are_deleted_while_their_guests_are_made() {
    for n in [0, 2, 4, 9] {
        let lifecycle = &LIFECYCLES[n];
        let (usual, points) = run(lifecycle, &DELETION, None, 1, None).await.unwrap();
        let strangers = |world: &World| {
            let mut guests = world.guests();
            guests.retain(|_, o| o.get("description").and_then(|d| Stamp::find(d)).is_none());
            format!("{guests:#?}")
        };
        let expected = &strangers(&usual);
        let runs = positions(points).into_iter().map(|at| {
            move || async move {
                let (world, _) = run(lifecycle, &DELETION, Some(at), 1, None).await?;
                // An owner container that was begun is finished.
                tokio::time::sleep(Duration::from_secs(60)).await;
                let ours = |o: &std::collections::BTreeMap<String, String>| {
                    o.get("description")
                        .and_then(|d| Stamp::find(d))
                        .is_some_and(|s| s.kind != "VolumeOwner")
                };
                let protected =
                    |o: &std::collections::BTreeMap<String, String>| o.get("protection").is_some_and(|v| v == "1");
                let left: Vec<u32> = world
                    .guests()
                    .iter()
                    .filter(|(_, o)| ours(o) && !protected(o))
                    .map(|(v, _)| *v)
                    .collect();
                let found = strangers(&world);
                match (left.as_slice(), found == *expected) {
                    ([], true) => Ok(()),
                    _ => Err(format!(
                        "{}, deleted at {at}: left are {left:?} and {found}",
                        lifecycle.name
                    )),
                }
            }
        });
        report("deleted while it is made", positions(points).len(), runs);
    }
}

/// A lease protects from this; where it fails, the writes' own checks do.
#[tokio::test(start_paused = true)]
async fn two_engines_work_at_once() {
    for n in [0, 1, 3, 4, 5, 16] {
        let lifecycle = &LIFECYCLES[n];
        let all = lifecycle.phases.len();
        let (usual, _) = run(lifecycle, &BESIDE, None, all, None).await.unwrap();
        let expected = &end(&usual);
        let runs = (0..6).map(|seed| {
            move || async move {
                let (world, _) = run(lifecycle, &BESIDE, None, all, Some(seed)).await?;
                (lifecycle.check)(&world)?;
                same_end(&end(&world), expected).map_err(|error| format!("{}, seed {seed}: {error}", lifecycle.name))
            }
        });
        report("two engines", 6, runs);
    }
}
