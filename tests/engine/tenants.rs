//! What objects of other namespaces than their hypervisor's can reach: nothing beyond their own guests but what
//! `spec.allow` gives, row by row; and it is as they say as soon as it is given.

use std::collections::{BTreeMap, BTreeSet};

use crate::allow_table::{self, Row, rows, tenants};
use crate::engine::{self, IMAGE, World, hypervisor, lxc, rounds, settled, template, vm};
use phoenix::crd::{ADOPT, PhoenixHypervisor};
use phoenix::desired::{Key, Objects};
use phoenix::simulator::model::access::AclEntry;
use phoenix::simulator::model::storage::Volume;
use phoenix::simulator::{Edit, Simulator};
use serde_json::{Value, json};

fn allow(world: &World, allow: &Value) {
    hypervisor(world, |h| h.spec.allow = serde_json::from_value(allow.clone()).unwrap());
}

/// A cluster that all namespaces may use, with what the rows of the table ask for.
async fn shared() -> World {
    let world = World::with_ssh(&[]).await;
    hypervisor(&world, |h| {
        h.spec.allowed_namespaces = serde_json::from_value(json!({"from": "All"})).unwrap();
        let defaults = h.spec.defaults.as_mut().unwrap();
        defaults.image_storage = Some("fastData-shared-iso".into());
        defaults.snippet_storage = Some("local".into());
    });
    furnish(world.sim());
    world
}

fn furnish(sim: &Simulator) {
    sim.with(|state| {
        let node = state.nodes.get_mut("phoenix").unwrap();
        let bridge = node.bridges["vmbr0"].clone();
        node.bridges.insert("vmbr1".into(), bridge);
        let hook = Volume {
            content: "snippets".into(),
            format: "snippet".into(),
            size: 100,
            ..Volume::default()
        };
        let files = &mut state.storages.get_mut("local").unwrap().volumes;
        let files = files.entry("phoenix".into()).or_default();
        files.insert("snippets/hook.pl".into(), hook);
        let iso = Volume {
            content: "iso".into(),
            format: "iso".into(),
            size: 100,
            ..Volume::default()
        };
        files.insert(allow_table::ISO.replace("local:", ""), iso);
        // Privileged containers and the order of starts of machines need it.
        let modify = ["Sys.Modify".to_string()];
        state.access.roles.insert("Mod".into(), modify.into_iter().collect());
        state.access.acl.insert(AclEntry {
            path: "/".into(),
            kind: "user".into(),
            who: "phoenix@pve".into(),
            role: "Mod".into(),
            propagate: true,
        });
        for (kind, id, map) in allow_table::MAPPINGS {
            let mapping = serde_json::from_value(json!({"map": [map], "options": {}})).unwrap();
            let all = state.mappings.entry((*kind).into()).or_default();
            all.insert((*id).into(), mapping);
        }
    });
    for edit in allow_table::edits() {
        sim.edit(serde_json::from_value::<Edit>(edit).unwrap()).unwrap();
    }
}

fn tenant(name: &str, fields: Value) -> Value {
    tenants(lxc(name, with_source(fields)))
}

fn with_source(mut fields: Value) -> Value {
    if fields.get("source").is_none() {
        fields["source"] = json!({"image": {"volid": IMAGE}});
    }
    fields
}

fn writes(world: &World) -> Vec<String> {
    let requests = world.sim().requests();
    let writes = requests.iter().filter(|r| r.method != "GET");
    writes.map(|r| format!("{} {}", r.method, r.path)).collect()
}

/// Reason and message of `Stalled`.
fn stalled(world: &World, key: &Key) -> Option<(String, String)> {
    let guest = world.store.guest(key)?;
    let condition = guest.status.conditions.into_iter().find(|c| c.type_ == "Stalled")?;
    Some((condition.reason, condition.message))
}

fn not_allowed(world: &World, key: &Key, words: &[&str]) -> String {
    let (reason, message) = stalled(world, key).unwrap_or_else(|| {
        let status = world.store.guest(key).unwrap().status;
        panic!("{key} is not Stalled: {:?} {:?}", status.phase, status.message)
    });
    assert_eq!(reason, "NotAllowed", "{key}: {message}");
    for word in words {
        assert!(message.contains(word), "{key}: {message} lacks {word}");
    }
    message
}

/// One row: refused without the entry, with nothing written; Ready with it; and when the entry is taken away again the
/// guest stays, nothing of it is changed, and it can be deleted.
async fn tried(row: &Row) {
    let mut world = shared().await;
    for object in &row.before {
        world.store.apply(object.clone());
    }
    settled(&mut world).await;
    let before = writes(&world);
    let guests = world.guests();
    let key = world.store.apply(row.object.clone());
    rounds(&world, 15).await;
    not_allowed(&world, &key, &[&row.field, &format!("spec.allow.{}", row.entry)]);
    assert_eq!(writes(&world), before, "{}: something was written", row.name);
    assert_eq!(world.guests(), guests, "{}", row.name);

    allow(&world, &row.allow);
    if let Err(standing) = world.settle(false).await {
        panic!("{}: {standing}", row.name);
    }
    let vmid = world.store.guest(&key).unwrap().status.vmid.unwrap();
    allow(&world, &json!({}));
    let before = writes(&world);
    let mut changed = row.object.clone();
    changed["spec"]["description"] = json!("changed");
    world.store.apply(changed);
    rounds(&world, 15).await;
    not_allowed(&world, &key, &["spec.allow"]);
    assert_eq!(
        writes(&world),
        before,
        "{}: changed though not allowed any more",
        row.name
    );
    world.store.delete(&key);
    rounds(&world, 60).await;
    assert!(
        world.store.guest(&key).is_none(),
        "{}: {:?}",
        row.name,
        stalled(&world, &key)
    );
    let stays = world.guests().contains_key(&u32::try_from(vmid).unwrap());
    assert_eq!(stays, row.entry == "adopt", "{}", row.name);
}

#[tokio::test(start_paused = true)]
async fn each_entry_of_allow_is_refused_until_it_is_given() {
    let mut failed = Vec::new();
    for row in rows() {
        let name = row.name.clone();
        // A row that fails keeps the others from nothing.
        if tokio::spawn(async move { tried(&row).await }).await.is_err() {
            failed.push(name);
        }
    }
    assert_eq!(failed, Vec::<String>::new());
}

/// A field of `allow` that nobody tries would be a hole that nobody sees.
#[test]
fn the_table_has_every_entry_of_allow() {
    use kube::core::crd::CustomResourceExt as _;
    let schema = serde_json::to_value(PhoenixHypervisor::crd()).unwrap();
    let spec = &schema["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
    let entries: BTreeSet<String> = spec["allow"]["properties"]
        .as_object()
        .unwrap()
        .keys()
        .cloned()
        .collect();
    let tried: BTreeSet<String> = rows().into_iter().map(|r| r.entry.to_string()).collect();
    assert_eq!(entries, tried);
}

/// What the owner of the hypervisor gives everybody needs no entry.
#[tokio::test(start_paused = true)]
async fn a_tenants_own_guest_with_the_defaults_gets_ready_without_any_entry() {
    let mut world = shared().await;
    let volumes = json!([{"name": "models", "size": "5Gi", "mountPath": "/models"}]);
    world.store.apply(tenant(
        "plain",
        json!({"volumes": volumes, "capabilities": {"nesting": true, "keyctl": true},
            "boot": {"autostart": true}, "firewall": {"enabled": true}, "application": {"script": "#!/bin/sh\ntrue\n"}}),
    ));
    let named = json!({"network": [{"name": "eth0", "bridge": "vmbr0", "ip": "dhcp"}],
        "rootfs": {"size": "8Gi", "storage": "quickOS-lxc-disks"}});
    world.store.apply(tenant("named", named));
    // A template of the hypervisor's namespace that carries nothing is everybody's.
    world.store.apply(template("base", "Snapshot"));
    let clone = json!({"source": {"templateRef": {"name": "base"}}});
    world.store.apply(tenant("clone", clone));
    settled(&mut world).await;
}

/// The owner containers' ids are nobody's, be it in the hypervisor's own namespace.
#[tokio::test(start_paused = true)]
async fn ids_of_owner_containers_are_nobodys() {
    let world = shared().await;
    allow(
        &world,
        &json!({"adopt": [9900], "vmids": [{"start": 9900, "end": 9909}]}),
    );
    let mut adopter = tenant("adopter", json!({}));
    adopter["metadata"]["annotations"] = json!({ADOPT: "9900"});
    let keys = [
        world.store.apply(lxc("own", with_source(json!({"vmid": 9905})))),
        world.store.apply(tenant("other", json!({"vmid": 9905}))),
        world.store.apply(adopter),
    ];
    let before = writes(&world);
    rounds(&world, 10).await;
    for key in &keys {
        not_allowed(&world, key, &["spec.volumeOwners.idRange", "990"]);
    }
    assert_eq!(writes(&world), before);
}

/// A guest of nobody's with everything that a guest can carry.
fn stranger(world: &World, options: &[(&str, &str)]) {
    let given = [
        ("hostname", "k8s-control-plane"),
        ("description", "not Phoenix's business"),
        ("unprivileged", "1"),
    ];
    let options = given.iter().chain(options).map(|(k, v)| (k.to_string(), v.to_string()));
    let guest = Edit::CreateGuest {
        vmid: 100,
        node: None,
        vm: false,
        options: options.collect::<BTreeMap<_, _>>(),
        storage: Some("quickOS-lxc-disks".into()),
    };
    world.sim().edit(guest).unwrap();
    world
        .sim()
        .edit(Edit::Power {
            vmid: 100,
            running: true,
        })
        .unwrap();
}

fn thief() -> Value {
    let mut thief = tenant(
        "thief",
        json!({"application": {"script": "#!/bin/sh\ncp /etc/kubernetes/admin.conf /srv\n"}}),
    );
    for field in ["source", "rootfs", "network", "cores", "memory"] {
        thief["spec"].as_object_mut().unwrap().remove(field);
    }
    thief["metadata"]["annotations"] = json!({ADOPT: "100"});
    thief
}

/// Who may adopt a guest may run scripts in it: what it carries is a privilege of its own, whatever the spec says.
#[tokio::test(start_paused = true)]
async fn adopting_a_guest_gives_nothing_that_it_carries() {
    let of_another = "quickOS-lxc-disks:subvol-9900-disk-0,mp=/models,size=8G";
    for (option, value, entry) in [
        ("unprivileged", "0", "spec.allow.privileged"),
        ("mp0", "/etc,mp=/host", "spec.allow.hostPaths"),
        ("dev0", "/dev/nvidia0,mode=0666", "spec.allow.gpus"),
        ("dev0", "/dev/kvm", "spec.allow.hostPaths"),
        ("hookscript", "local:snippets/hook.pl", "spec.allow.hookscripts"),
        ("features", "mount=nfs", "spec.allow.capabilities"),
        ("net0", "name=eth0,bridge=vmbr1", "spec.allow.bridges"),
        ("net0", "name=eth0,bridge=vmbr0,tag=30", "spec.allow.vlans"),
        ("mp0", of_another, "subvol-9900-disk-0"),
        // As Proxmox reads them, whatever the order and the spelling.
        ("mp0", "mp=/host,volume=/etc", "spec.allow.hostPaths"),
        ("mp0", "backup=0,volume=/etc,mp=/host", "spec.allow.hostPaths"),
        (
            "mp0",
            "mp=/models,volume=quickOS-lxc-disks:subvol-200-disk-0",
            "subvol-200-disk-0",
        ),
        ("features", "mknod=on", "spec.allow.capabilities"),
        ("features", "force_rw_sys=yes", "features"),
        ("features", "nesting=1,mount=nfs;cifs", "spec.allow.capabilities"),
        ("net0", "name=eth0,bridge=vmbr0,trunks=10-40", "11"),
        ("dev0", "/dev/nvidia/../sda", "spec.allow.hostPaths"),
        ("dev0", "mode=0666,path=/dev/sda", "spec.allow.hostPaths"),
    ] {
        let world = shared().await;
        allow(&world, &json!({"adopt": [100], "vlans": [10, 40]}));
        stranger(&world, &[(option, value)]);
        let (before, guests) = (writes(&world), world.guests());
        let key = world.store.apply(thief());
        rounds(&world, 12).await;
        not_allowed(&world, &key, &[option, "container 100", entry]);
        assert_eq!(writes(&world), before, "{option}: {value}");
        assert_eq!(world.guests(), guests, "{option}: {value}");
        world.store.delete(&key);
        rounds(&world, 12).await;
        assert_eq!(world.guests(), guests, "{option}: {value}");
    }
}

#[tokio::test(start_paused = true)]
async fn adopting_a_machine_gives_nothing_that_it_carries() {
    for (option, value) in [
        ("scsi3", "cache=none,file=/dev/sdb"),
        ("scsi3", "/dev/sdb"),
        ("efidisk0", "/dev/sdb"),
        ("tpmstate0", "file=/dev/sdb"),
        ("serial0", "/dev/ttyS0"),
        ("cicustom", "user=local:snippets/phoenix-900-abc.yaml"),
        ("rng0", "source=/dev/hwrng"),
        ("net0", "virtio=BC:24:11:00:00:01,bridge=vmbr0,trunks=10-40"),
        ("hostpci0", "0000:41:00"),
        ("usb0", "host=046d:c52b"),
    ] {
        let world = shared().await;
        allow(&world, &json!({"adopt": [100], "vlans": [10, 40]}));
        let guest = Edit::CreateGuest {
            vmid: 100,
            node: None,
            vm: true,
            options: BTreeMap::from([("name".into(), "old".into()), (option.into(), value.into())]),
            storage: Some("quickOS-vm-disks".into()),
        };
        world.sim().edit(guest).unwrap();
        let mut thief = tenants(vm("thief", json!({})));
        for field in ["source", "network", "memory", "cpu", "disks", "cloudInit"] {
            thief["spec"].as_object_mut().unwrap().remove(field);
        }
        thief["metadata"]["annotations"] = json!({ADOPT: "100"});
        let before = writes(&world);
        let key = world.store.apply(thief);
        rounds(&world, 12).await;
        not_allowed(&world, &key, &["VM 100", option]);
        assert_eq!(writes(&world), before, "{option}: {value}");
    }
}

/// What counts is which template the guest was cloned from, not which one the spec names today.
#[tokio::test(start_paused = true)]
async fn a_template_of_allow_gives_nothing_that_the_guest_did_not_get_from_it() {
    for (given, fields) in [
        (json!({"gpus": [0]}), json!({"gpus": [{"index": 0}]})),
        (json!({"privileged": true}), json!({"unprivileged": false})),
    ] {
        let mut world = shared().await;
        world.store.apply(template("base", "Snapshot"));
        allow(&world, &given);
        let key = world.store.apply(tenant("a", fields));
        settled(&mut world).await;
        let vmid = u32::try_from(world.store.guest(&key).unwrap().status.vmid.unwrap()).unwrap();
        allow(&world, &json!({"templates": ["base"]}));
        let ran = world.guests()[&vmid]["runs"].clone();
        let script = json!({"script": "#!/bin/sh\ntrue\n"});
        let source = json!({"templateRef": {"name": "base"}});
        world
            .store
            .apply(tenant("a", json!({"source": source, "application": script})));
        rounds(&world, 20).await;
        not_allowed(&world, &key, &[&format!("container {vmid}")]);
        assert_eq!(world.guests()[&vmid]["runs"], ran);
    }
}

/// What was given stays given, though the template is gone.
#[tokio::test(start_paused = true)]
async fn a_clone_of_a_template_of_allow_outlives_it() {
    let mut world = shared().await;
    let mut object = template("base", "Snapshot");
    object["spec"]["lxc"]["unprivileged"] = json!(false);
    object["spec"]["lxc"]["protection"] = json!(false);
    let base = world.store.apply(object);
    allow(&world, &json!({"templates": ["base"]}));
    let of = |cores: i64| {
        tenant(
            "a",
            json!({"source": {"templateRef": {"name": "base"}}, "cores": cores}),
        )
    };
    let key = world.store.apply(of(2));
    settled(&mut world).await;
    world.store.delete(&base);
    settled(&mut world).await;
    world.store.apply(of(4));
    settled(&mut world).await;
    let vmid = u32::try_from(world.store.guest(&key).unwrap().status.vmid.unwrap()).unwrap();
    assert_eq!(world.guests()[&vmid]["cores"], "4");
}

/// The snippet that a machine's clone copied goes before its first start.
#[tokio::test(start_paused = true)]
async fn a_tenants_machine_is_cloned_from_its_own_template_with_a_snippet() {
    let mut world = shared().await;
    allow(&world, &json!({"storages": ["local"]}));
    let mut base = tenants(engine::vm_template("base"));
    base["spec"]["vm"]["cloudInit"] = json!({"user": "ops", "packages": ["htop"]});
    world.store.apply(base);
    let fields = json!({"source": {"templateRef": {"name": "base"}}, "cloudInit": {"user": "ops", "packages": ["jq"]}});
    let key = world.store.apply(tenants(vm("a", fields)));
    settled(&mut world).await;
    let vmid = world.store.guest(&key).unwrap().status.vmid.unwrap();
    let text = world.guests()[&u32::try_from(vmid).unwrap()]["cicustom"].clone();
    assert!(text.contains(&format!("phoenix-{vmid}-")), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_file_system_that_the_defaults_give_gives_no_other() {
    let mut world = shared().await;
    hypervisor(&world, |h| {
        let mount = serde_json::from_value(json!({"mount": ["nfs"]})).unwrap();
        h.spec.defaults.as_mut().unwrap().capabilities = Some(mount);
    });
    let of = |name: &str, types: Value| tenant(name, json!({"capabilities": {"mount": types}}));
    let key = world.store.apply(of("a", json!(["nfs", "cifs"])));
    rounds(&world, 40).await;
    not_allowed(&world, &key, &["capabilities.mount", "cifs", "spec.allow.capabilities"]);
    world.store.apply(of("a", json!(["nfs"])));
    settled(&mut world).await;
}

/// Whoever takes an entry away wants the guest to end what it does with it.
#[tokio::test(start_paused = true)]
async fn a_guest_that_carries_what_is_not_allowed_any_more_can_be_stopped() {
    let mut world = shared().await;
    allow(&world, &json!({"gpus": [0]}));
    let key = world.store.apply(tenant("a", json!({"gpus": [{"index": 0}]})));
    settled(&mut world).await;
    let vmid = u32::try_from(world.store.guest(&key).unwrap().status.vmid.unwrap()).unwrap();
    allow(&world, &json!({}));
    world.store.apply(tenant("a", json!({"powerState": "Stopped"})));
    rounds(&world, 20).await;
    assert_eq!(world.guests()[&vmid]["running"], "false");
    not_allowed(&world, &key, &["dev0"]);
}

/// A name tells where to look for owner containers; a tenant's guest with such a name would be waited for by everybody.
#[tokio::test(start_paused = true)]
async fn a_tenants_hostname_holds_nobodys_volumes_up() {
    let mut world = shared().await;
    let named = |name: &str| tenant("evil", json!({"hostname": name}));
    let key = world.store.apply(named("phoenix-volumes-9900"));
    rounds(&world, 10).await;
    let (reason, message) = stalled(&world, &key).unwrap();
    assert_eq!(reason, "InvalidSpec", "{message}");
    assert!(message.contains("spec.hostname"), "{message}");
    // One that has it all the same, and cannot be read.
    world.store.apply(named("harmless"));
    settled(&mut world).await;
    let vmid = u32::try_from(world.store.guest(&key).unwrap().status.vmid.unwrap()).unwrap();
    let options = BTreeMap::from([("hostname".to_owned(), Some("phoenix-volumes-9900".to_owned()))]);
    world.sim().edit(Edit::SetOptions { vmid, options }).unwrap();
    world.sim().add_fault(phoenix::simulator::Fault {
        method: Some("GET".into()),
        path: Some(format!("^/nodes/phoenix/lxc/{vmid}/config$")),
        skip: 0,
        count: 100_000,
        kind: phoenix::simulator::FaultKind::Status {
            status: 403,
            message: "no".into(),
        },
    });
    let volumes = json!([{"name": "models", "size": "5Gi", "mountPath": "/models"}]);
    let own = world.store.apply(lxc("db", with_source(json!({"volumes": volumes}))));
    rounds(&world, 60).await;
    let guest = world.store.guest(&own).unwrap();
    assert!(guest.is_ready(), "{:?}", guest.status.message);
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_carries_nothing_is_adopted_where_its_id_is_given() {
    let mut world = shared().await;
    allow(&world, &json!({"adopt": [100]}));
    stranger(&world, &[]);
    world.store.apply(thief());
    settled(&mut world).await;
}

/// What counts is what the template's guest on Proxmox carries, not only its spec.
#[tokio::test(start_paused = true)]
async fn a_clone_is_refused_for_what_the_templates_guest_carries() {
    for (option, value, entry) in [
        ("dev0", "/dev/nvidia0,mode=0666", "spec.allow.gpus"),
        ("hookscript", "local:snippets/hook.pl", "spec.allow.hookscripts"),
        ("features", "mknod=1", "spec.allow.capabilities"),
    ] {
        let mut world = shared().await;
        world.store.apply(template("base", "Snapshot"));
        settled(&mut world).await;
        let options = BTreeMap::from([(option.to_string(), Some(value.to_string()))]);
        world.sim().edit(Edit::SetOptions { vmid: 1000, options }).unwrap();
        let before = writes(&world);
        let clone = json!({"source": {"templateRef": {"name": "base"}}});
        let key = world.store.apply(tenant("clone", clone));
        for _ in 0..10 {
            world.poll().await;
            world.look_at(&key).await;
        }
        let message = not_allowed(&world, &key, &["base", option, entry, "spec.allow.templates"]);
        assert_eq!(writes(&world), before, "{message}");
        assert_eq!(world.store.guest(&key).unwrap().status.vmid, None, "no id is taken");
    }
}

/// A template's vmid is believed only where the guest carries the template's stamp: it may be an id of another cluster.
#[tokio::test(start_paused = true)]
async fn a_guest_that_is_not_the_templates_is_not_cloned() {
    let mut world = shared().await;
    let secret = world.store.apply(lxc("secret", with_source(json!({}))));
    let mut own = tenants(template("own", "Snapshot"));
    own["spec"]["lxc"]["vmid"] = json!(1050);
    allow(&world, &json!({"vmids": [{"start": 1050, "end": 1050}]}));
    let own = world.store.apply(own);
    settled(&mut world).await;
    let theirs = world.store.guest(&secret).unwrap().status.vmid;
    // As if it stood on another Proxmox cluster, where the same vmid is the tenant's.
    world
        .store
        .objects
        .update_guest(&own, |guest| guest.status.vmid = theirs);
    let key = world
        .store
        .apply(tenant("copy", json!({"source": {"templateRef": {"name": "own"}}})));
    let before = writes(&world);
    for _ in 0..10 {
        world.poll().await;
        world.look_at(&key).await;
    }
    let status = world.store.guest(&key).unwrap().status;
    assert!(
        status.message.unwrap().contains("does not carry its stamp"),
        "{:?}",
        status.phase
    );
    assert_eq!(writes(&world), before);
}

/// A tenant who gives up what is not allowed any more gets rid of it, and goes on.
#[tokio::test(start_paused = true)]
async fn what_is_not_allowed_any_more_can_be_given_up() {
    let mut world = shared().await;
    allow(
        &world,
        &json!({"lxcOptions": ["lxc.cgroup2.devices.allow"], "gpus": [0]}),
    );
    let gpus = json!([{"index": 0}]);
    let fields = json!({"lxcOptions": ["lxc.cgroup2.devices.allow = c 10:200 rwm"], "gpus": gpus,
        "updatePolicy": {"restart": "Automatic"}});
    world.store.apply(tenant("a", fields));
    settled(&mut world).await;
    allow(&world, &json!({}));
    rounds(&world, 5).await;
    world.store.apply(tenant(
        "a",
        json!({"lxcOptions": [], "gpus": [], "updatePolicy": {"restart": "Automatic"}}),
    ));
    settled(&mut world).await;
    let guest = world.guests()[&1000].clone();
    assert!(!guest.contains_key("dev0") && guest["raw"] == "[]", "{guest:#?}");
}
