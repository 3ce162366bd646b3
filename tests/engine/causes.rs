//! What can be wrong with a hypervisor, a reference or a node: each cause shows a reason of its own (docs/reasons.md),
//! a message that names the object and the field or thing, and is over by itself once the cause is gone.

use std::collections::BTreeMap;

use crate::engine::{IMAGE, World, edit, hypervisor, lxc, template};
use phoenix::desired::{Key, Objects};
use phoenix::simulator::Edit;
use phoenix::simulator::model::state::TaskFault;
use serde_json::{Value, json};

const DISKS: &str = "quickOS-lxc-disks";

/// A cause, how it comes, and how it goes.
struct Cause {
    reason: &'static str,
    /// What the message has to name.
    names: &'static [&'static str],
    /// Makes the cause and applies an object; its key.
    make: fn(&World) -> Key,
    mend: fn(&World),
    ssh: bool,
}

fn guest(fields: Value) -> Value {
    let mut manifest = lxc("a", json!({"source": {"image": {"volid": IMAGE}}}));
    for (key, value) in fields.as_object().unwrap() {
        manifest["spec"][key] = value.clone();
    }
    manifest
}

fn plain(world: &World) -> Key {
    world.store.apply(guest(json!({})))
}

fn secret(world: &World, name: &str, data: Value) {
    let value = json!({"metadata": {"name": name, "namespace": "ai"}, "stringData": data});
    world
        .store
        .objects
        .insert_secret(serde_json::from_value(value).unwrap());
}

fn token(world: &World, secret_value: &str) {
    secret(
        world,
        "token",
        json!({"tokenId": "phoenix@pve!operator", "secret": secret_value}),
    );
}

/// The token as it was before the cause.
fn right_token(world: &World) {
    let mut kept = (*world.store.secret("ai", "kept-token").unwrap()).clone();
    kept.metadata.name = Some("token".into());
    world.store.objects.insert_secret(kept);
}

fn vmids(world: &World, end: i64) {
    hypervisor(world, |h| h.spec.vmid_range.as_mut().unwrap().end = end);
}

fn online(world: &World, online: bool) {
    let node = world.sim().with(|state| state.nodes.keys().next().unwrap().clone());
    edit(world, Edit::NodeOnline { node, online });
}

fn storage(world: &World, total: u64) {
    let storage = DISKS.into();
    edit(world, Edit::StorageTotal { storage, total });
}

const CAUSES: &[(&str, Cause)] = &[
    (
        "a Secret of the hypervisor is missing",
        Cause {
            reason: "SecretNotFound",
            names: &["spec.credentials.tokenSecretRef", "ai/token", "create it"],
            make: |world| {
                world.store.objects.remove_secret("ai", "token");
                plain(world)
            },
            mend: right_token,
            ssh: false,
        },
    ),
    (
        "a Secret of the guest is missing",
        Cause {
            reason: "SecretNotFound",
            names: &["spec.application.environment", "ai/hf", "create it"],
            make: |world| {
                let env = json!([{"name": "HF_TOKEN", "secretKeyRef": {"name": "hf", "key": "token"}}]);
                world.store.apply(guest(
                    json!({"application": {"script": "#!/bin/sh\ntrue\n", "environment": env}}),
                ))
            },
            mend: |world| secret(world, "hf", json!({"token": "hf_0123"})),
            ssh: true,
        },
    ),
    (
        "the token is wrong",
        Cause {
            reason: "Unauthorized",
            names: &["spec.credentials", "PhoenixHypervisor", "Secret"],
            make: |world| {
                token(world, "00000000-0000-4000-8000-000000000000");
                plain(world)
            },
            mend: right_token,
            ssh: false,
        },
    ),
    (
        "the CA is wrong",
        Cause {
            reason: "CertificateNotTrusted",
            names: &["127.0.0.1", "spec.tls"],
            make: |world| {
                let other = rcgen::generate_simple_self_signed(vec!["other".into()]).unwrap();
                secret(world, "ca", json!({"ca.crt": other.cert.pem()}));
                plain(world)
            },
            mend: |world| {
                let pem = world.network.as_ref().unwrap().certificates.ca_pem.clone();
                secret(world, "ca", json!({"ca.crt": pem}));
            },
            ssh: false,
        },
    ),
    (
        "the SSH host key is another",
        Cause {
            reason: "HostKeyMismatch",
            names: &["phoenix (127.0.0.1", "spec.ssh.knownHostsSecretRef"],
            make: |world| {
                edit(world, Edit::SshHostKey { other: true });
                world
                    .store
                    .apply(guest(json!({"application": {"script": "#!/bin/sh\ntrue\n"}})))
            },
            mend: |world| edit(world, Edit::SshHostKey { other: false }),
            ssh: true,
        },
    ),
    (
        "the storage is unknown",
        Cause {
            reason: "StorageNotFound",
            names: &["spec.rootfs.storage", "\"tank\"", DISKS],
            make: |world| {
                world
                    .store
                    .apply(guest(json!({"rootfs": {"size": "8Gi", "storage": "tank"}})))
            },
            mend: |world| {
                world.sim().with(|state| {
                    let like = state.storages[DISKS].clone();
                    state.storages.insert("tank".into(), like);
                });
            },
            ssh: false,
        },
    ),
    (
        "the template is unknown",
        Cause {
            reason: "TemplateNotFound",
            names: &["spec.source.templateRef", "PhoenixTemplate base", "create it"],
            make: |world| {
                world
                    .store
                    .apply(guest(json!({"source": {"templateRef": {"name": "base"}}})))
            },
            mend: |world| drop(world.store.apply(template("base", "Snapshot"))),
            ssh: false,
        },
    ),
    (
        "the parent is not Ready",
        Cause {
            reason: "TemplateNotReady",
            names: &["PhoenixTemplate base", "to be Ready"],
            make: |world| {
                let mut base = template("base", "Snapshot");
                base["spec"]["lxc"]["source"]["image"]["volid"] =
                    json!("fastData-shared-iso:vztmpl/ubuntu-24.04-absent_amd64.tar.zst");
                world.store.apply(base);
                world
                    .store
                    .apply(guest(json!({"source": {"templateRef": {"name": "base"}}})))
            },
            mend: |world| drop(world.store.apply(template("base", "Snapshot"))),
            ssh: false,
        },
    ),
    (
        "the range of vmids is exhausted",
        Cause {
            reason: "NoFreeVmid",
            names: &["spec.vmidRange", "1000-1000", "widen it"],
            make: |world| {
                vmids(world, 1000);
                let taken = Edit::CreateGuest {
                    vmid: 1000,
                    node: None,
                    vm: false,
                    options: BTreeMap::new(),
                    storage: None,
                };
                edit(world, taken);
                plain(world)
            },
            mend: |world| edit(world, Edit::RemoveGuest { vmid: 1000 }),
            ssh: false,
        },
    ),
    (
        "the image is missing",
        Cause {
            reason: "ImageNotFound",
            names: &["spec.source.image.volid", "vztmpl/ubuntu-24.04-absent_amd64.tar.zst"],
            make: |world| {
                world.store.apply(guest(
                    json!({"source": {"image": {"volid": "fastData-shared-iso:vztmpl/ubuntu-24.04-absent_amd64.tar.zst"}}}),
                ))
            },
            mend: |world| {
                world.sim().with(|state| {
                    let images = state.storages.get_mut("fastData-shared-iso").unwrap();
                    for volumes in images.volumes.values_mut() {
                        let like = volumes.get(IMAGE.split_once(':').unwrap().1).cloned();
                        volumes
                            .extend(like.map(|image| ("vztmpl/ubuntu-24.04-absent_amd64.tar.zst".to_owned(), image)));
                    }
                });
            },
            ssh: false,
        },
    ),
    (
        "the storage is full",
        Cause {
            reason: "StorageFull",
            names: &["1000", "out of space"],
            make: |world| {
                storage(world, 1 << 20);
                plain(world)
            },
            mend: |world| storage(world, 4 << 40),
            ssh: false,
        },
    ),
    (
        "a backup locks the guest",
        Cause {
            reason: "GuestLocked",
            names: &["1000", "backup", "pct unlock 1000 on node phoenix"],
            make: |world| {
                let options = BTreeMap::from([("lock".to_owned(), "backup".to_owned())]);
                let theirs = Edit::CreateGuest {
                    vmid: 1000,
                    node: None,
                    vm: false,
                    options,
                    storage: Some(DISKS.into()),
                };
                edit(world, theirs);
                let mut object = guest(json!({"vmid": 1000}));
                object["metadata"]["annotations"] = json!({phoenix::crd::ADOPT: "1000"});
                world.store.apply(object)
            },
            mend: |world| edit(world, Edit::Lock { vmid: 1000, lock: None }),
            ssh: false,
        },
    ),
    (
        "the annotation of guests on a template",
        Cause {
            reason: "InvalidSpec",
            names: &["phoenix-hypervisor.io/recreate", "take the annotation away"],
            make: |world| {
                let mut object = template("base", "Snapshot");
                object["metadata"]["annotations"] = json!({phoenix::crd::RECREATE: "1000-abc"});
                world.store.apply(object)
            },
            mend: |world| drop(world.store.apply(template("base", "Snapshot"))),
            ssh: false,
        },
    ),
    (
        "a creation was cut off",
        Cause {
            reason: "CreateInterrupted",
            names: &["guest 1000", "pct unlock 1000"],
            make: |world| {
                let theirs = Edit::CreateGuest {
                    vmid: 1000,
                    node: None,
                    vm: false,
                    options: BTreeMap::from([("lock".to_owned(), "create".to_owned())]),
                    storage: None,
                };
                edit(world, theirs);
                world.store.apply(guest(json!({"vmid": 1000})))
            },
            mend: |world| edit(world, Edit::RemoveGuest { vmid: 1000 }),
            ssh: false,
        },
    ),
    (
        "volumes of a former guest are left",
        Cause {
            reason: "LeftoverVolumes",
            names: &["vmid 1000", "vm-1000-disk-0", "choose another vmid"],
            make: |world| {
                world.sim().with(|state| {
                    let node = state.nodes.keys().next().unwrap().clone();
                    let name = "vm-1000-disk-0";
                    state.alloc_volume(&node, DISKS, name, "raw", 1 << 30, false).unwrap();
                });
                world.store.apply(guest(json!({"vmid": 1000})))
            },
            mend: |world| {
                world.sim().with(|state| {
                    let node = state.nodes.keys().next().unwrap().clone();
                    state.free_volume(&node, &format!("{DISKS}:vm-1000-disk-0")).unwrap();
                });
            },
            ssh: false,
        },
    ),
    (
        "a task fails",
        Cause {
            reason: "TaskFailed",
            names: &["create container 1000", "boom"],
            make: |world| {
                let fault = TaskFault {
                    kind: "vzcreate".into(),
                    id: None,
                    message: "boom: exit code 1".into(),
                    count: 1_000_000,
                };
                edit(world, Edit::FailTasks(fault));
                plain(world)
            },
            mend: |world| world.sim().with(|state| state.task_faults.clear()),
            ssh: false,
        },
    ),
    (
        "the node is offline",
        Cause {
            reason: "NodeOffline",
            names: &["node"],
            make: |world| {
                online(world, false);
                plain(world)
            },
            mend: |world| online(world, true),
            ssh: false,
        },
    ),
];

/// Everything that the object, its events and its hypervisor say: reason and message.
fn said(world: &World, key: &Key) -> Vec<(String, String)> {
    let guest = world.store.guest(key).unwrap();
    let hypervisor = world.store.hypervisor("ai", "pve").unwrap();
    let of_hypervisor = hypervisor.status.iter().flat_map(|s| &s.conditions);
    let conditions = guest.status.conditions.iter().chain(of_hypervisor);
    let conditions = conditions.map(|c| (c.reason.clone(), c.message.clone()));
    let events = world.store.events.lock().unwrap();
    let events = events
        .iter()
        .filter(|(k, _)| k == key)
        .map(|(_, e)| (e.reason.clone(), e.message.clone()));
    conditions.chain(events).collect()
}

/// Lets the cause show itself, takes it away, and waits for Ready: what is wrong, if anything.
async fn shows_and_recovers(name: &str, cause: &Cause) -> Result<(), String> {
    let mut world = match cause.ssh {
        true => World::networked(&[]).await,
        false => World::networked_without_ssh(&[]).await,
    };
    let mut kept = (*world.store.secret("ai", "token").unwrap()).clone();
    kept.metadata.name = Some("kept-token".into());
    world.store.objects.insert_secret(kept);
    let key = (cause.make)(&world);
    let mut shown = Vec::new();
    for _ in 0..150 {
        world.round().await;
        shown = said(&world, &key);
        if shown.iter().any(|(reason, _)| reason == cause.reason) {
            break;
        }
        world.pause().await;
    }
    let tells = |(reason, message): &(String, String)| {
        reason == cause.reason && cause.names.iter().all(|name| message.contains(name))
    };
    if !shown.iter().any(tells) {
        return Err(format!(
            "{name}: nothing says {} and names {:?}: {shown:#?}",
            cause.reason, cause.names
        ));
    }
    if world.store.guest(&key).unwrap().is_ready() {
        return Err(format!("{name}: Ready all the same"));
    }
    (cause.mend)(&world);
    world.settle(false).await.map_err(|e| {
        let told = said(&world, &key);
        format!("{name}: does not recover: {e}: {told:#?}")
    })?;
    world.check_invariants().map_err(|e| format!("{name}: {e}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_cause_has_its_reason_and_recovers_by_itself() {
    let documented = include_str!("../../docs/reasons.md");
    let mut wrong = Vec::new();
    for (name, cause) in CAUSES {
        assert!(
            documented.contains(&format!("| `{}` |", cause.reason)),
            "{} is not in docs/reasons.md",
            cause.reason
        );
        wrong.extend(shows_and_recovers(name, cause).await.err());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[tokio::test(start_paused = true)]
async fn clones_of_one_template_queue_and_others_do_not_wait() {
    let mut world = World::new(&[]).await;
    let base = world.store.apply(template("base", "Template"));
    world.settle(false).await.unwrap();
    let from = world.store.guest(&base).unwrap().status.vmid.unwrap();
    let lock = |lock: Option<&str>| Edit::Lock {
        vmid: u32::try_from(from).unwrap(),
        lock: lock.map(str::to_string),
    };
    edit(&world, lock(Some("backup")));
    let source = json!({"source": {"templateRef": {"name": "base"}}, "network": []});
    let clones = ["c1", "c2", "c3"].map(|name| world.store.apply(lxc(name, source.clone())));
    let other = world.store.apply(guest(json!({})));
    let ready = |world: &World, key: &Key| world.store.guest(key).unwrap().is_ready();
    let told = |world: &World, key: &Key| {
        let status = world.store.guest(key).unwrap().status;
        let ready = status.conditions.into_iter().find(|c| c.type_ == "Ready").unwrap();
        (ready.reason, ready.message)
    };
    let place = |n: usize| format!("place {n} of 3 in the queue for its clones");
    let in_queue = |world: &World| {
        let at = |(n, key): (usize, &Key)| told(world, key).1.ends_with(&place(n + 1));
        clones.iter().enumerate().all(at)
    };
    // While nothing can be cloned, all three stand in the queue, and whoever needs no clone is made.
    for _ in 0..300 {
        world.round().await;
        if ready(&world, &other) && in_queue(&world) {
            break;
        }
        world.pause().await;
    }
    assert!(ready(&world, &other), "{:?}", told(&world, &other));
    for (n, key) in clones.iter().enumerate() {
        let (reason, message) = told(&world, key);
        // Only the first one asks whether the template is free.
        let waits = match n {
            0 => format!("waits for template base ({from}), which is locked (backup)"),
            _ => format!("waits for template base ({from}): {} comes first", clones[0]),
        };
        assert_eq!(reason, "TemplateBusy");
        assert!(
            message.starts_with(&waits) && message.ends_with(&place(n + 1)),
            "{message}"
        );
    }
    // The last one does not overtake the first.
    edit(&world, lock(None));
    world.poll().await;
    world.look_at(&clones[2]).await;
    let (reason, message) = told(&world, &clones[2]);
    assert_eq!(reason, "TemplateBusy");
    assert!(
        message.contains(&format!("{} comes first", clones[0])) && message.ends_with(&place(3)),
        "{message}"
    );
    world.settle(false).await.unwrap();
    world.check_invariants().unwrap();
}
