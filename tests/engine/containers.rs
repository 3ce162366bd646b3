//! Fields of containers: each is written once and read back, a change takes effect, and what Phoenix wrote and the spec
//! dropped goes, or is told of.

use crate::engine::{self, World, guest, message, rounds, says, settled, status, text, until};
use phoenix::desired::{Key, Objects};
use phoenix::simulator::Edit;
use serde_json::{Value, json};

const VMID: u32 = 1000;
const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEmC3Y0nqfXzOBnG0vPZQqYcVJq0yRr7mCqHn0yS4k5b me@desk";

fn writes(world: &World) -> usize {
    let requests = world.sim().requests();
    requests.iter().filter(|r| r.method != "GET").count()
}

fn option(world: &World, key: &str) -> Option<String> {
    world.guests()[&VMID].get(key).cloned()
}

/// The container is made, and a second run of the engine changes nothing of it.
async fn made(world: &mut World, fields: Value) -> Key {
    let key = world.store.apply(guest("a", fields));
    settled(world).await;
    unchanged(world).await;
    key
}

/// A new engine that looks again writes nothing.
async fn unchanged(world: &mut World) {
    let (before, wrote) = (text(world, VMID), writes(world));
    world.restart();
    rounds(world, 10).await;
    assert_eq!((text(world, VMID), writes(world)), (before, wrote));
}

/// Edits the configuration by hand.
fn by_hand(world: &World, set: &[(&str, &str)]) {
    let options = set.iter().map(|(k, v)| (k.to_string(), Some(v.to_string())));
    let options = options.collect();
    let edit = Edit::SetOptions { vmid: VMID, options };
    world.sim().edit(edit).unwrap();
}

#[tokio::test(start_paused = true)]
async fn device_nodes_are_given_changed_and_taken_away() {
    for mut world in [World::new(&[]).await, World::with_ssh(&[]).await] {
        let render = json!({"path": "/dev/dri/renderD128", "gid": 104});
        made(
            &mut world,
            json!({"devices": [render, {"path": "/dev/ttyUSB0", "mode": "0660", "denyWrite": true}]}),
        )
        .await;
        assert_eq!(option(&world, "dev0").unwrap(), "/dev/dri/renderD128,gid=104");
        assert_eq!(option(&world, "dev1").unwrap(), "/dev/ttyUSB0,deny-write=1,mode=0660");
        // A part that is changed, a part that is dropped, and a whole entry that is.
        let changed = json!({"devices": [{"path": "/dev/dri/renderD128", "gid": 105, "uid": 1000}]});
        world.store.apply(guest("a", changed));
        settled(&mut world).await;
        let pending = world.sim().with(|state| state.guests[&VMID].config().pending.clone());
        assert_eq!(pending["dev0"], "/dev/dri/renderD128,gid=105,uid=1000");
        world.store.apply(guest(
            "a",
            json!({"devices": [{"path": "/dev/dri/renderD128"}], "updatePolicy": {"restart": "Automatic"}}),
        ));
        until(&world, "it was restarted", |w| {
            option(w, "dev0").as_deref() == Some("/dev/dri/renderD128")
        })
        .await;
        assert_eq!(option(&world, "dev1"), None);
        settled(&mut world).await;
        unchanged(&mut world).await;
        world
            .store
            .apply(guest("a", json!({"updatePolicy": {"restart": "Automatic"}})));
        until(&world, "the last one is gone", |w| option(w, "dev0").is_none()).await;
        settled(&mut world).await;
    }
}

#[tokio::test(start_paused = true)]
async fn device_nodes_and_gpus_live_side_by_side_with_those_of_others() {
    let mut world = World::with_ssh(&[]).await;
    let stopped = json!({"powerState": "Stopped"});
    made(&mut world, stopped).await;
    by_hand(&world, &[("dev3", "/dev/kfd,gid=44")]);
    let fields = json!({"powerState": "Stopped", "gpus": [{"index": 0}],
        "devices": [{"path": "/dev/uinput", "mode": "0666"}, {"path": "/dev/nvidia-modeset"}]});
    world.store.apply(guest("a", fields));
    settled(&mut world).await;
    unchanged(&mut world).await;
    let devices = |world: &World| -> Vec<String> {
        let guest = &world.guests()[&VMID];
        let mut list: Vec<String> = guest
            .iter()
            .filter(|(k, _)| k.starts_with("dev"))
            .map(|(_, v)| v.clone())
            .collect();
        list.sort();
        list
    };
    let gpu = [
        "/dev/nvidia-uvm,mode=0666",
        "/dev/nvidia-uvm-tools,mode=0666",
        "/dev/nvidia0,mode=0666",
        "/dev/nvidiactl,mode=0666",
    ];
    let mut all: Vec<&str> = gpu.to_vec();
    all.extend(["/dev/kfd,gid=44", "/dev/uinput,mode=0666", "/dev/nvidia-modeset"]);
    all.sort_unstable();
    assert_eq!(devices(&world), all);
    world
        .store
        .apply(guest("a", json!({"powerState": "Stopped", "gpus": []})));
    settled(&mut world).await;
    assert_eq!(devices(&world), ["/dev/kfd,gid=44"]);
    unchanged(&mut world).await;
}

#[tokio::test(start_paused = true)]
async fn a_device_node_that_the_node_lacks_is_told_with_its_field() {
    let world = World::with_ssh(&[]).await;
    let key = world.store.apply(guest(
        "a",
        json!({"devices": [{"path": "/dev/ttyUSB0"}, {"path": "/dev/ttyUSB7"}]}),
    ));
    let words = "spec.devices[1].path: node phoenix has no /dev/ttyUSB7: plug it in";
    until(&world, "it is told", |w| {
        let error = status(w, &key).last_error;
        error.is_some_and(|error| error.contains(words))
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_hookscript_is_set_and_changed() {
    for mut world in [World::new(&[]).await, World::with_ssh(&[]).await] {
        made(&mut world, json!({"hookscript": "local:snippets/nvidia.sh"})).await;
        assert_eq!(option(&world, "hookscript").unwrap(), "local:snippets/nvidia.sh");
        world
            .store
            .apply(guest("a", json!({"hookscript": "local:snippets/other.pl"})));
        settled(&mut world).await;
        assert_eq!(option(&world, "hookscript").unwrap(), "local:snippets/other.pl");
        unchanged(&mut world).await;
    }
}

#[tokio::test(start_paused = true)]
async fn quantities_may_be_numbers() {
    let mut world = World::new(&[]).await;
    let fields = json!({"swap": 0, "memory": 1_073_741_824_i64, "rootfs": {"size": 4_294_967_296_i64},
        "volumes": [{"name": "a", "size": 1_073_741_824_i64, "mountPath": "/a", "reclaimPolicy": "Delete"}]});
    made(&mut world, fields).await;
    assert_eq!(option(&world, "swap").unwrap(), "0");
    assert_eq!(option(&world, "memory").unwrap(), "1024");
    let before = writes(&world);
    // The same in words is no change.
    let words = json!({"swap": "0", "memory": "1Gi", "rootfs": {"size": "4Gi"},
        "volumes": [{"name": "a", "size": "1Gi", "mountPath": "/a", "reclaimPolicy": "Delete"}]});
    world.store.apply(guest("a", words));
    settled(&mut world).await;
    assert_eq!(writes(&world), before);
}

#[tokio::test(start_paused = true)]
async fn an_interface_is_routed_pulled_and_trunked() {
    let mut world = World::new(&[]).await;
    let net = json!({"name": "eth0", "ip": "203.0.113.7/32", "gateway": "198.51.100.1", "ip6": "2001:db8::7/128",
        "gateway6": "2001:db8:ffff::1", "linkDown": true, "trunks": [30, 20]});
    made(&mut world, json!({"network": [net]})).await;
    let has = |world: &World, part: &str| option(world, "net0").unwrap().contains(part);
    for part in ["gw=198.51.100.1", "gw6=2001:db8:ffff::1", "link_down=1", "trunks=20;30"] {
        assert!(has(&world, part), "{part}: {:?}", option(&world, "net0"));
    }
    let net = json!({"name": "eth0", "ip": "dhcp", "linkDown": false, "trunks": []});
    world.store.apply(guest("a", json!({"network": [net]})));
    settled(&mut world).await;
    assert!(
        has(&world, "link_down=0") && !has(&world, "trunks"),
        "{:?}",
        option(&world, "net0")
    );
    unchanged(&mut world).await;
}

#[tokio::test(start_paused = true)]
async fn several_search_domains_and_tags_in_upper_case_settle() {
    let mut world = World::new(&[]).await;
    // A running container takes name resolution at its next start.
    let fields = json!({"powerState": "Stopped", "dns": {"searchDomains": ["a.example", "b.example"]}, "tags": ["AI", "gpu-RTX"]});
    made(&mut world, fields).await;
    assert_eq!(option(&world, "searchdomain").unwrap(), "a.example b.example");
    assert_eq!(option(&world, "tags").unwrap(), "ai;gpu-rtx;phoenix");
    world.store.apply(guest(
        "a",
        json!({"powerState": "Stopped", "dns": {"searchDomain": "b.example a.example"}, "tags": ["AI"]}),
    ));
    settled(&mut world).await;
    assert_eq!(option(&world, "searchdomain").unwrap(), "b.example a.example");
    assert_eq!(option(&world, "tags").unwrap(), "ai;phoenix");
    unchanged(&mut world).await;
}

#[tokio::test(start_paused = true)]
async fn mounts_have_their_options() {
    let mut world = World::with_ssh(&[]).await;
    let volume = |extra: Value| with(json!({"name": "d", "size": "1Gi", "mountPath": "/d"}), extra);
    let bind = |extra: Value| with(json!({"name": "etc", "hostPath": "/etc", "mountPath": "/b"}), extra);
    let fields = |v: Value, b: Value| json!({"powerState": "Stopped", "volumes": [volume(v)], "hostMounts": [bind(b)]});
    let set = fields(
        json!({"mountOptions": ["nosuid", "discard"], "replicate": false, "acl": true, "reclaimPolicy": "Delete"}),
        json!({"mountOptions": ["noatime"], "shared": true}),
    );
    made(&mut world, set).await;
    let mount = |world: &World, path: &str| {
        let guest = world.guests()[&VMID].clone();
        let path = format!("mp={path},");
        guest
            .into_iter()
            .find(|(_, v)| v.contains(&path))
            .map(|(_, v)| v)
            .unwrap()
    };
    let has = |world: &World, path: &str, part: &str| mount(world, path).split(',').any(|p| p == part);
    for part in ["mountoptions=discard;nosuid", "replicate=0", "acl=1"] {
        assert!(has(&world, "/d", part), "{part}: {}", mount(&world, "/d"));
    }
    for part in ["mountoptions=noatime", "shared=1"] {
        assert!(has(&world, "/b", part), "{part}: {}", mount(&world, "/b"));
    }
    let changed = fields(
        json!({"mountOptions": [], "replicate": true, "reclaimPolicy": "Delete"}),
        json!({"mountOptions": ["nodev", "noatime"], "shared": false, "readOnly": true}),
    );
    world.store.apply(guest("a", changed));
    settled(&mut world).await;
    let volume = mount(&world, "/d");
    // What the spec dropped is taken off.
    assert!(
        !volume.contains("mountoptions") && volume.contains("replicate=1") && !volume.contains("acl"),
        "{volume}"
    );
    let bind = mount(&world, "/b");
    assert!(
        bind.contains("mountoptions=noatime;nodev") && bind.contains("ro=1") && !bind.contains("shared"),
        "{bind}"
    );
    unchanged(&mut world).await;
}

#[tokio::test(start_paused = true)]
async fn ids_of_a_mount_are_mapped_from_9_2_on() {
    let mut world = World::with_ssh(&[]).await;
    let fields = json!({"powerState": "Stopped",
        "hostMounts": [{"name": "etc", "hostPath": "/etc", "mountPath": "/b", "idmap": "u:1000:1000:1"}]});
    let key = world.store.apply(guest("a", fields));
    rounds(&world, 3).await;
    let told = message(&world, &key);
    assert!(
        told.starts_with("spec.hostMounts[etc].idmap: \"u:1000:1000:1\" needs Proxmox VE 9.2")
            && told.contains("lxc.idmap"),
        "{told}"
    );
    world.sim().with(|state| state.release.version = "9.2.11".into());
    settled(&mut world).await;
    assert!(option(&world, "mp0").unwrap().contains("idmap=u:1000:1000:1"));
    unchanged(&mut world).await;
}

/// Fields over others.
fn with(mut fields: Value, extra: Value) -> Value {
    let extra = extra.as_object().cloned().unwrap_or_default();
    fields.as_object_mut().unwrap().extend(extra);
    fields
}

fn secret(world: &World, keys: &str) {
    let secret = json!({"metadata": {"name": "login", "namespace": "ai"}, "stringData": {"root": keys}});
    world
        .store
        .objects
        .insert_secret(serde_json::from_value(secret).unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_mount_path_that_proxmox_does_not_keep_is_refused_with_its_field() {
    let world = World::new(&[]).await;
    for (name, path) in [("a", "/data\t/"), ("b", "/da\rta"), ("c", "/data ")] {
        let volume = json!({"name": "data", "size": "1Gi", "mountPath": path, "reclaimPolicy": "Delete"});
        let key = world
            .store
            .apply(crate::engine::guest(name, json!({"volumes": [volume]})));
        rounds(&world, 3).await;
        let words = message(&world, &key);
        assert!(words.starts_with("spec.volumes[data].mountPath: "), "{words}");
    }
    assert_eq!(writes(&world), 0);
}

#[tokio::test(start_paused = true)]
async fn ssh_keys_are_given_at_creation_and_a_later_change_is_told() {
    let mut world = World::new(&[]).await;
    secret(&world, &format!("# mine\n{KEY}\n"));
    let fields = json!({"sshKeysSecretRef": {"name": "login", "key": "root"}});
    let key = made(&mut world, fields.clone()).await;
    let inside = world.sim().with(|state| state.guests[&VMID].inside.facts.clone());
    assert_eq!(inside["authorized-keys"], KEY);
    let told = |world: &World| {
        let conditions = status(world, &key).conditions;
        let found = conditions.into_iter().find(|c| c.type_ == "RecreateRequired");
        found.map(|c| c.message)
    };
    assert_eq!(told(&world), None);
    let printed = format!("{:?} {:?}", status(&world, &key), world.store.events.lock().unwrap());
    assert!(
        !printed.contains("AAAAC3Nza") && !text(&world, VMID).contains("AAAAC3Nza"),
        "{printed}"
    );
    secret(&world, &KEY.replace("me@desk", "you@desk"));
    let before = writes(&world);
    world.restart();
    rounds(&world, 5).await;
    let words = told(&world).unwrap();
    assert!(
        words.contains("sshKeysSecretRef: it was made with other keys"),
        "{words}"
    );
    assert_eq!(writes(&world), before);
    secret(&world, KEY);
    world.restart();
    rounds(&world, 5).await;
    assert_eq!(told(&world), None);
}

#[tokio::test(start_paused = true)]
async fn ssh_keys_of_a_clone_and_of_no_secret_are_refused() {
    let world = World::new(&[]).await;
    let fields = json!({"sshKeysSecretRef": {"name": "login", "key": "root"}});
    let key = world.store.apply(guest("a", fields.clone()));
    rounds(&world, 3).await;
    assert!(message(&world, &key).starts_with("spec.sshKeysSecretRef: there is no Secret ai/login"));
    secret(&world, "no key");
    rounds(&world, 3).await;
    assert!(
        message(&world, &key).contains("its line 1 is none"),
        "{}",
        message(&world, &key)
    );
    world.store.apply(engine::template("base", "Template"));
    secret(&world, KEY);
    let mut clone = engine::lxc("b", fields);
    clone["spec"]["source"] = json!({"templateRef": {"name": "base"}});
    let clone = world.store.apply(clone);
    rounds(&world, 3).await;
    let told = message(&world, &clone);
    assert!(
        told.starts_with("spec.sshKeysSecretRef: ") && told.contains("spec.lxc.sshKeysSecretRef"),
        "{told}"
    );
    assert!(world.store.guest(&clone).unwrap().status.vmid.is_none());
}

/// Proxmox changes no mount of a protected container.
#[tokio::test(start_paused = true)]
async fn a_protected_container_gets_its_volumes_and_is_protected_in_the_end() {
    let mut world = World::with_ssh(&[]).await;
    let volumes = |list: serde_json::Value| guest("a", json!({"protection": true, "volumes": list}));
    let data = json!({"name": "data", "size": "1Gi", "mountPath": "/data", "reclaimPolicy": "Retain"});
    let cache = json!({"name": "cache", "size": "1Gi", "mountPath": "/cache", "reclaimPolicy": "Delete"});
    let bind = json!([{"hostPath": "/srv", "mountPath": "/srv"}]);
    for object in [
        volumes(json!([data, cache])),
        volumes(json!([data])),
        guest("a", json!({"protection": true, "volumes": [data], "bindMounts": bind})),
    ] {
        let key = world.store.apply(object);
        world.settle(false).await.unwrap();
        let config = text(&world, 1000);
        assert!(
            config.contains("protection: 1") && config.contains("mp=/data"),
            "{config}"
        );
        rounds(&world, 5).await;
        assert!(world.store.guest(&key).unwrap().is_ready());
    }
}

#[tokio::test(start_paused = true)]
async fn a_protection_that_the_spec_does_not_speak_of_is_not_taken_off() {
    let mut world = World::new(&[]).await;
    let volumes = json!([{"name": "cache", "size": "1Gi", "mountPath": "/cache", "reclaimPolicy": "Delete"}]);
    let key = world.store.apply(guest("a", json!({})));
    world.settle(false).await.unwrap();
    let options = std::collections::BTreeMap::from([("protection".to_owned(), Some("1".to_owned()))]);
    world.sim().edit(Edit::SetOptions { vmid: 1000, options }).unwrap();
    world.store.apply(guest("a", json!({"volumes": volumes})));
    rounds(&world, 20).await;
    assert!(says(&world, &key, "Protected"), "{}", message(&world, &key));
    assert!(message(&world, &key).contains("set spec.protection"));
    assert!(text(&world, 1000).contains("protection: 1"));
}
