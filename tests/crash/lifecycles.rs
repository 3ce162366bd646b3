//! The lifecycles that are disturbed: what is asked for, step by step, and what must hold in the end.

use std::collections::BTreeMap;

use phoenix::crd::{CANCEL, RESTARTED_AT};
use phoenix::desired::Objects;
use phoenix::simulator::Edit;
use phoenix::simulator::model::GuestScript;
use serde_json::json;

use crate::engine::{IMAGE, World, adopting, lxc, made_by_hand, template, vm, vm_template};

/// A change from outside, before the engine settles.
pub type Phase = fn(&World);

pub struct Lifecycle {
    pub name: &'static str,
    pub phases: &'static [Phase],
    /// Whether it needs SSH.
    pub ssh: bool,
    /// Whether it is right that it ends Stalled.
    pub stalls: bool,
    /// Whether a guest that somebody stops is started again with no other trace: not where scripts run in it, whose runs are
    /// counted, nor where a guest is left to itself.
    pub starts_anew: bool,
    /// What must hold in the end beside being equal to an undisturbed run.
    pub check: fn(&World) -> Result<(), String>,
}

fn fine(_: &World) -> Result<(), String> {
    Ok(())
}

fn image() -> serde_json::Value {
    json!({"image": {"volid": IMAGE}})
}

fn delete_all(world: &World) {
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

/// A guest of somebody's, which is then adopted.
fn adoptable(world: &World) {
    made_by_hand(world);
    world.store.apply(adopting(json!({})));
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

/// An adopted guest that is to be destroyed with its object, and has a volume that the object does not know.
fn adoptable_with_data(world: &World) {
    adoptable(world);
    let create = |state: &mut phoenix::simulator::State| {
        let node = state.guests[&500].node.clone();
        let volid = state.alloc_ct_volume(&node, "quickOS-lxc-disks", 500, 8 << 30)?;
        let options = BTreeMap::from([("mp0".to_owned(), Some(format!("{volid},mp=/data,size=8G")))]);
        state.edit(Edit::SetOptions { vmid: 500, options })
    };
    world.sim().with(create).unwrap();
    world.store.apply(adopting(json!({"deletionPolicy": "Delete"})));
}

fn with_scripts(world: &World) {
    world.feature("one", json!({}));
    world.feature("two", json!({"requires": ["one"], "check": "exit 1\n"}));
    world.store.apply(lxc(
        "a",
        json!({"source": image(), "features": [{"name": "two"}], "application": {"script": "#!/bin/sh\necho hello\n"}}),
    ));
}

fn with_machine(world: &World) {
    world.feature("one", json!({}));
    world
        .store
        .apply(vm("a", json!({"features": [{"name": "one"}], "tags": ["x"]})));
}

/// A template that keeps no earlier revision without children.
fn revised(size: &str) -> serde_json::Value {
    let mut object = template("base", "Template");
    object["spec"]["revisionHistoryLimit"] = json!(0);
    object["spec"]["lxc"]["rootfs"]["size"] = json!(size);
    object["spec"]["lxc"].as_object_mut().unwrap().remove("protection");
    object
}

/// A container with all sorts of scripts, and one whose application has the other policy.
fn every_script(world: &World, version: u32, power: &str) {
    world.feature("vllm", json!({}));
    let application = |policy: &str| {
        let script = format!("#!/bin/sh\necho version {version}\n");
        json!({"source": image(), "network": [], "powerState": power,
            "application": {"script": script, "rerunPolicy": policy}})
    };
    let mut always = application("Always");
    always["features"] = json!([{"name": "vllm"}]);
    always["vllm"] = json!({"model": "m"});
    always["tests"] = json!([{"name": "works", "script": "#!/bin/sh\ntrue\n"}]);
    for (vmid, name, mut fields) in [(1000, "always", always), (1001, "never", application("Never"))] {
        fields["vmid"] = json!(vmid);
        world.store.apply(lxc(name, fields));
    }
}

/// How often each script was started in its guest.
fn each_as_often_as_its_policy_says(world: &World) -> Result<(), String> {
    let always = r#"["application 3", "feature-vllm 1", "test-works 1", "vllm 1"]"#;
    for (vmid, expected) in [(1000, always), (1001, r#"["application 1"]"#)] {
        let runs = world.guests()[&vmid]["runs"].clone();
        if runs != expected {
            return Err(format!(
                "the scripts of {vmid} ran so often: {runs} instead of {expected}"
            ));
        }
    }
    Ok(())
}

/// The application's script is under way, and the annotation asks for its end.
fn cancelled(world: &World) {
    let mut object = lxc(
        "a",
        json!({"source": image(), "application": {"script": "#!/bin/sh\nsleep 9999\n"}}),
    );
    let key = world.store.apply(object.clone());
    let guest = world.store.guest(&key).unwrap();
    let hypervisor = world.store.hypervisor("ai", "pve").unwrap();
    let scripts = phoenix::desired::scripts::scripts(&guest, &hypervisor, world.store.as_ref()).unwrap();
    let hash = scripts[0].hash.clone();
    object["metadata"]["annotations"] = json!({CANCEL: hash});
    world.store.apply(object);
    let start = |state: &mut phoenix::simulator::State| {
        let guest = state.guests.get_mut(&1000).unwrap();
        let script = GuestScript {
            id: "application".into(),
            hash,
            attempt: 1,
            runs: 1,
            ends_at: u64::MAX,
            guest_since: guest.running.as_ref().unwrap().since,
            ..GuestScript::default()
        };
        guest.inside.scripts.insert("application".into(), script);
    };
    world.sim().with(start);
}

/// The hypervisor's own namespace and one that it lets in, each with a container that keeps a volume of the same name;
/// the first has a directory of the node mounted. Explicit ids, and one after the other: names of volumes count.
fn own_namespace(world: &World) {
    let mut hypervisor = (*world.store.hypervisor("ai", "pve").unwrap()).clone();
    let spec = json!({"allowedNamespaces": {"from": "All"}, "allow": {"vmids": [{"start": 1001, "end": 1001}]}});
    let spec: phoenix::crd::PhoenixHypervisorSpec = {
        let mut all = serde_json::to_value(&hypervisor.spec).unwrap();
        for (key, value) in spec.as_object().unwrap() {
            all[key] = value.clone();
        }
        serde_json::from_value(all).unwrap()
    };
    hypervisor.spec = spec;
    world.store.objects.insert_hypervisor(hypervisor);
    let mount = json!([{"name": "logs", "hostPath": HOST_PATH, "mountPath": "/logs", "readOnly": true}]);
    let fields = json!({"source": image(), "vmid": 1000, "network": [], "hostMounts": mount, "volumes": kept()});
    world.store.apply(lxc("a", fields));
}

const HOST_PATH: &str = "/mnt/pve/quickOS/shared-prod-data/logs/nginx";

fn kept() -> serde_json::Value {
    json!([{"name": "data", "size": "2Gi", "mountPath": "/data"}])
}

fn other_namespace(world: &World) {
    let own = world.guests().remove(&1000).unwrap_or_default();
    let mounted = own.values().any(|v| v.starts_with(HOST_PATH) && v.contains("ro=1"));
    assert!(mounted, "the directory of the node is not mounted: {own:?}");
    let fields = json!({"source": image(), "vmid": 1001, "network": [], "volumes": kept()});
    let mut object = lxc("a", fields);
    object["metadata"]["namespace"] = json!("team");
    object["spec"]["hypervisorRef"]["namespace"] = json!("ai");
    world.store.apply(object);
}

fn each_keeps_its_own(world: &World) -> Result<(), String> {
    let guests = world.guests();
    let volume = |vmid: u32, path: &str| {
        let mounts = guests.get(&vmid).into_iter().flat_map(|o| o.values());
        let found = mounts.filter(|v| v.contains(&format!(",mp={path}")));
        found
            .map(|v| v.split(',').next().unwrap_or_default().to_string())
            .next()
    };
    let kept = |key: &str| guests.keys().find_map(|owner| volume(*owner, key));
    let (own, other) = (kept("/lxc/ai/a/data"), kept("/lxc/team/a/data"));
    let attached = volume(1001, "/data");
    if own.is_none() || other.is_none() || own == other || attached != other {
        return Err(format!("kept are {own:?} and {other:?}, attached is {attached:?}"));
    }
    match guests.contains_key(&1000) {
        true => Err("the deleted container is left".into()),
        false => Ok(()),
    }
}

/// What ran in a machine, each once.
fn ran(world: &World, vmid: u32, expected: &str) -> Result<(), String> {
    let scripts = world.guests()[&vmid]["scripts"].clone();
    (scripts == expected)
        .then_some(())
        .ok_or_else(|| format!("the scripts of machine {vmid}: {scripts}"))
}

/// A container with a GPU and its driver, restarted with every new word.
fn with_gpu(world: &World, word: &str) {
    world.feature("nvidia", json!({}));
    let mut object = lxc(
        "a",
        json!({"source": image(), "gpus": [{"index": 0}], "features": [{"name": "nvidia"}]}),
    );
    object["metadata"]["annotations"] = json!({RESTARTED_AT: word});
    world.store.apply(object);
}

/// The proof of the last start is there, whatever was lost of it.
fn proven(world: &World) -> Result<(), String> {
    let object = world.store.guests().remove(0);
    let found = object.status.conditions.iter().find(|c| c.type_ == "GPUReady");
    let proven = found.is_some_and(|c| c.status == "True" && c.reason == "Proven");
    let runs = world.guests()[&1000].get("runs").cloned().unwrap_or_default();
    (proven && runs.contains("gpu-proof"))
        .then_some(())
        .ok_or_else(|| format!("GPUReady: {found:?}; runs: {runs}"))
}

pub const LIFECYCLES: &[Lifecycle] = &[
    Lifecycle {
        name: "create from image beside a stranger",
        ssh: false,
        stalls: false,
        starts_anew: true,
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
        ssh: false,
        stalls: false,
        starts_anew: true,
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
        ssh: false,
        stalls: false,
        starts_anew: true,
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
        ssh: false,
        stalls: false,
        starts_anew: true,
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
        ssh: false,
        stalls: false,
        starts_anew: true,
        phases: &[with_volume, delete_all, with_volume],
        check: volume_kept,
    },
    Lifecycle {
        name: "delete",
        ssh: false,
        stalls: false,
        starts_anew: true,
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
        ssh: false,
        stalls: false,
        starts_anew: false,
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
    Lifecycle {
        name: "delete of an adopted guest that owns data",
        ssh: false,
        stalls: true,
        starts_anew: false,
        phases: &[adoptable_with_data, delete_all],
        check: |world| {
            let guest = world
                .guests()
                .get(&500)
                .cloned()
                .ok_or("the guest was destroyed with its data")?;
            let whole = guest["mp0"].contains("mp=/data") && guest["rootfs"].contains("500");
            whole
                .then_some(())
                .ok_or_else(|| format!("something is missing: {guest:?}"))
        },
    },
    Lifecycle {
        name: "features and application",
        ssh: true,
        stalls: false,
        starts_anew: false,
        phases: &[with_scripts],
        check: |world| {
            let scripts = world.guests()[&1000]["scripts"].clone();
            // Each ran, and at its first attempt: nothing was repeated.
            let expected = r#"["application 1 0", "feature-one 1 0", "feature-two 1 0"]"#;
            (scripts == expected)
                .then_some(())
                .ok_or_else(|| format!("the scripts of the guest: {scripts}"))
        },
    },
    Lifecycle {
        name: "machine from a cloud image, with a feature",
        ssh: true,
        stalls: false,
        starts_anew: false,
        phases: &[with_machine],
        check: |world| ran(world, 1000, r#"["feature-one 1 0"]"#),
    },
    Lifecycle {
        name: "machine template and linked clone",
        ssh: true,
        stalls: false,
        starts_anew: false,
        phases: &[|world| {
            world.store.apply(vm_template("base"));
            world
                .store
                .apply(vm("a", json!({"source": {"templateRef": {"name": "base"}}})));
        }],
        check: |world| {
            let clone = &world.guests()[&1001];
            let fine = clone["scsi0"].contains("base-1000-disk") && !clone.contains_key("protection");
            fine.then_some(()).ok_or_else(|| format!("the clone: {clone:?}"))
        },
    },
    Lifecycle {
        name: "disk added and grown, restart for a pending change, application",
        ssh: true,
        stalls: false,
        starts_anew: false,
        phases: &[
            |world| {
                world.store.apply(vm("a", json!({})));
            },
            |world| {
                world.store.apply(vm(
                    "a",
                    json!({"cpu": {"cores": 4}, "updatePolicy": {"restart": "Automatic"}, "cloudInit": {"user": "other"},
                        "disks": [{"name": "data", "size": "5Gi"}, {"name": "root", "size": "25Gi"}],
                        "application": {"script": "#!/bin/sh\necho hello\n"}}),
                ));
            },
        ],
        check: |world| {
            let guest = &world.guests()[&1000];
            let disks = guest.values().filter(|v| v.contains("serial=data")).count();
            if disks != 1 || guest["cores"] != "4" {
                return Err(format!("the machine: {guest:?}"));
            }
            ran(world, 1000, r#"["application 1 0"]"#)
        },
    },
    Lifecycle {
        name: "delete of a machine",
        ssh: true,
        stalls: false,
        starts_anew: false,
        phases: &[with_machine, delete_all],
        check: |world| {
            world
                .guests()
                .is_empty()
                .then_some(())
                .ok_or_else(|| "a machine is left".into())
        },
    },
    Lifecycle {
        name: "template revised, its old revision removed",
        ssh: false,
        stalls: false,
        starts_anew: false,
        phases: &[
            |world| {
                world.store.apply(revised("8Gi"));
                world.store.apply(lxc(
                    "a",
                    json!({"source": {"templateRef": {"name": "base"}}, "network": []}),
                ));
            },
            |world| {
                world.store.apply(revised("9Gi"));
            },
            |world| {
                let key = phoenix::desired::Key::new(phoenix::crd::GuestKind::PhoenixLXC, "ai", "a");
                world.store.delete(&key);
            },
            // The template looks again at what it keeps.
            |world| {
                let mut again = revised("9Gi");
                again["spec"]["lxc"]["cores"] = json!(2);
                world.store.apply(again);
            },
        ],
        check: |world| {
            let left: Vec<u32> = world.guests().into_keys().collect();
            (left.len() == 1)
                .then_some(())
                .ok_or_else(|| format!("guests that are left: {left:?}"))
        },
    },
    Lifecycle {
        name: "all sorts of scripts, guests that are stopped and started, and a change",
        ssh: true,
        stalls: false,
        starts_anew: false,
        phases: &[
            |world| every_script(world, 1, "Running"),
            |world| every_script(world, 1, "Stopped"),
            |world| every_script(world, 1, "Running"),
            |world| every_script(world, 2, "Running"),
        ],
        check: each_as_often_as_its_policy_says,
    },
    Lifecycle {
        name: "script that is cancelled",
        ssh: true,
        stalls: true,
        starts_anew: false,
        phases: &[
            |world| {
                world.store.apply(lxc("a", json!({"source": image()})));
            },
            cancelled,
        ],
        check: |world| {
            let guest = &world.guests()[&1000];
            let found = (guest["scripts"].as_str(), guest["runs"].as_str());
            let expected = (r#"["application 1 143"]"#, r#"["application 1"]"#);
            let object = world.store.guests().remove(0);
            let stalled = object.status.conditions.iter().any(|c| c.reason == "ScriptCancelled");
            (found == expected && stalled)
                .then_some(())
                .ok_or_else(|| format!("the script: {found:?}; {:?}", object.status.message))
        },
    },
    Lifecycle {
        name: "two namespaces, one with a directory of the node",
        ssh: true,
        stalls: false,
        starts_anew: false,
        phases: &[own_namespace, other_namespace, |world| {
            let key = phoenix::desired::Key::new(phoenix::crd::GuestKind::PhoenixLXC, "ai", "a");
            world.store.delete(&key);
        }],
        check: each_keeps_its_own,
    },
    Lifecycle {
        name: "GPU proven, and once more after a restart",
        ssh: true,
        stalls: false,
        starts_anew: false,
        phases: &[|world| with_gpu(world, "first"), |world| with_gpu(world, "second")],
        check: proven,
    },
];
