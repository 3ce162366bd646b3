//! Crash sweep (promises 1, 2 and 5): every lifecycle is cut off at every effect and status write, and has to end as
//! if nothing had happened.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "test code: a panic is the report"
)]

mod engine;

use std::collections::BTreeMap;

use engine::{IMAGE, World, lxc, template};
use futures::StreamExt;
use phoenix::crd::ADOPT;
use phoenix::simulator::Edit;
use serde_json::json;

/// A change from outside, before the engine settles.
type Phase = fn(&World);

struct Lifecycle {
    name: &'static str,
    phases: &'static [Phase],
    /// What must hold in the end beside being equal to an undisturbed run.
    check: fn(&World) -> Result<(), String>,
}

fn fine(_: &World) -> Result<(), String> {
    Ok(())
}

fn image() -> serde_json::Value {
    json!({"image": {"volid": IMAGE}})
}

fn delete_all(world: &World) {
    use phoenix::desired::Objects;
    for guest in world.store.guests() {
        world.store.delete(&guest.key);
    }
}

fn stranger(world: &World) {
    let options = BTreeMap::from([
        ("hostname".into(), "precious".into()),
        ("description".into(), "mine".into()),
    ]);
    let edit = Edit::CreateGuest {
        vmid: 1000,
        node: None,
        vm: false,
        options,
        storage: Some("quickOS-lxc-disks".into()),
    };
    world.sim().edit(edit).unwrap();
}

/// A guest of somebody's with data of its own, which is then adopted.
fn adoptable(world: &World) {
    let options = BTreeMap::from([
        ("hostname".into(), "old".into()),
        ("description".into(), "made by hand".into()),
        ("unprivileged".into(), "1".into()),
    ]);
    let edit = Edit::CreateGuest {
        vmid: 500,
        node: None,
        vm: false,
        options,
        storage: Some("quickOS-lxc-disks".into()),
    };
    world.sim().edit(edit).unwrap();
    let mut object = lxc("old", json!({"vmid": 500, "cores": 3}));
    object["spec"].as_object_mut().unwrap().remove("rootfs");
    object["metadata"]["annotations"] = json!({ADOPT: "500"});
    world.store.apply(object);
}

fn with_volume(world: &World) {
    let volumes = json!([
        {"name": "models", "size": "5Gi", "mountPath": "/models"},
        {"name": "scratch", "size": "2Gi", "mountPath": "/scratch", "reclaimPolicy": "Delete"}
    ]);
    world
        .store
        .apply(lxc("a", json!({"source": image(), "volumes": volumes})));
}

fn volume_kept(world: &World) -> Result<(), String> {
    let guests = world.guests();
    let registered: Vec<&String> = guests
        .values()
        .flat_map(|o| o.values())
        .filter(|v| v.contains("mp=/lxc/ai/a/models"))
        .collect();
    if registered.len() != 1 {
        return Err(format!("the retained volume is registered {} times", registered.len()));
    }
    let volid = registered[0].split(',').next().unwrap();
    let attached = guests
        .values()
        .flat_map(|o| o.values())
        .any(|v| v.starts_with(volid) && v.contains("mp=/models"));
    attached
        .then_some(())
        .ok_or_else(|| "the retained volume is not attached".into())
}

const LIFECYCLES: &[Lifecycle] = &[
    Lifecycle {
        name: "create from image beside a stranger",
        phases: &[|world| {
            stranger(world);
            world.store.apply(lxc(
                "a",
                json!({"source": image(), "gpus": [{"index": 0}], "tags": ["x"]}),
            ));
        }],
        check: |world| {
            let stranger = world.guests()[&1000].clone();
            (stranger["description"].trim() == "mine" && stranger["running"] == "false")
                .then_some(())
                .ok_or_else(|| format!("the stranger was touched: {stranger:?}"))
        },
    },
    Lifecycle {
        name: "template and clone from its snapshot",
        phases: &[|world| {
            world.store.apply(template("base", "Snapshot"));
            world.store.apply(lxc(
                "a",
                json!({"source": {"templateRef": {"name": "base"}}, "gpus": []}),
            ));
        }],
        check: |world| {
            let clone = &world.guests()[&1001];
            let copied = ["protection", "onboot"].iter().find(|k| clone.contains_key(**k));
            copied.map_or(Ok(()), |k| Err(format!("the clone kept {k} of its template")))
        },
    },
    Lifecycle {
        name: "Proxmox template and linked clone",
        phases: &[|world| {
            world.store.apply(template("base", "Template"));
            world
                .store
                .apply(lxc("a", json!({"source": {"templateRef": {"name": "base"}}})));
        }],
        check: |world| {
            let rootfs = &world.guests()[&1001]["rootfs"];
            rootfs
                .contains("basevol-")
                .then_some(())
                .ok_or_else(|| format!("not a linked clone: {rootfs}"))
        },
    },
    Lifecycle {
        name: "configuration change and growth",
        phases: &[
            |world| {
                world.store.apply(lxc("a", json!({"source": image()})));
            },
            |world| {
                world.store.apply(lxc(
                    "a",
                    json!({"source": image(), "cores": 4, "rootfs": {"size": "12Gi"}, "boot": {"autostart": true, "order": 2},
                        "firewall": {"enabled": true, "rules": [
                            {"direction": "in", "action": "ACCEPT", "protocol": "tcp", "port": "80"},
                            {"direction": "in", "action": "DROP"}]}}),
                ));
            },
        ],
        check: fine,
    },
    Lifecycle {
        name: "retained volume: allocate, delete, create anew",
        phases: &[with_volume, delete_all, with_volume],
        check: volume_kept,
    },
    Lifecycle {
        name: "delete",
        phases: &[
            |world| {
                world.store.apply(lxc("a", json!({"source": image()})));
            },
            delete_all,
        ],
        check: |world| {
            world
                .guests()
                .is_empty()
                .then_some(())
                .ok_or_else(|| "a guest is left".into())
        },
    },
    Lifecycle {
        name: "adopt, and delete the adopted guest's object",
        phases: &[adoptable, delete_all],
        check: |world| {
            let guest = world
                .guests()
                .get(&500)
                .cloned()
                .ok_or("the adopted guest was destroyed")?;
            let clean = guest["description"].trim() == "made by hand" && guest["rootfs"].contains("500");
            clean.then_some(()).ok_or_else(|| format!("left behind: {guest:?}"))
        },
    },
];

/// Runs a lifecycle, cut off at point `at`; the points passed and the end state.
async fn run(lifecycle: &Lifecycle, at: Option<usize>) -> Result<(usize, String), String> {
    let mut world = World::new(at).await;
    for phase in lifecycle.phases {
        phase(&world);
        let settled = world.settle(false).await;
        settled.map_err(|e| format!("{} (cut at {at:?}: {}): {e}", lifecycle.name, world_cut(&world)))?;
    }
    let context = |e: String| format!("{} (cut at {at:?}: {}): {e}", lifecycle.name, world_cut(&world));
    world.check_invariants().map_err(context)?;
    (lifecycle.check)(&world).map_err(context)?;
    let passed = world.wire.passed.load(std::sync::atomic::Ordering::SeqCst);
    Ok((passed, format!("{:#?}", world.guests())))
}

fn world_cut(world: &World) -> String {
    world.wire.last.lock().unwrap().clone()
}

async fn sweep(lifecycle: &'static Lifecycle) {
    let (points, undisturbed) = run(lifecycle, None).await.unwrap();
    assert!(points > 5, "{}: only {points} points", lifecycle.name);
    let mut runs = futures::stream::iter((0..points).map(|n| async move { (n, run(lifecycle, Some(n)).await) }))
        .buffer_unordered(8);
    let mut failures = Vec::new();
    while let Some((n, result)) = runs.next().await {
        match result {
            Ok((_, end)) if end == undisturbed => {}
            Ok((_, end)) => failures.push(format!(
                "{}: cut at {n}: ends differently:\n{end}\ninstead of\n{undisturbed}",
                lifecycle.name
            )),
            Err(error) => failures.push(error),
        }
    }
    println!("{}: {points} positions", lifecycle.name);
    assert!(
        failures.is_empty(),
        "{} of {points} positions failed, first:\n{}",
        failures.len(),
        failures[0]
    );
}

macro_rules! sweeps {
    ($($name:ident: $index:expr;)*) => {
        $(#[tokio::test]
        async fn $name() {
            sweep(&LIFECYCLES[$index]).await;
        })*
        #[test]
        fn every_lifecycle_is_swept() {
            assert_eq!([$($index),*].len(), LIFECYCLES.len());
        }
    };
}

sweeps! {
    create_from_image: 0;
    clone_from_snapshot: 1;
    linked_clone: 2;
    change_and_grow: 3;
    retained_volume: 4;
    delete: 5;
    adopt_and_delete: 6;
}
