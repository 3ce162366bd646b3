//! What the spec sets and later drops is taken off the guest; what it never set stays (promise 3).

use crate::engine::{self, World, edit, rounds, settled, text, vm};
use phoenix::desired::Objects;
use phoenix::simulator::Edit;
use phoenix::simulator::model::access::AclEntry;
use serde_json::{Value, json};

const VMID: u32 = 1000;

fn guest(fields: Value) -> Value {
    engine::guest("a", fields)
}

fn option(world: &World, key: &str) -> Option<String> {
    world.guests()[&VMID].get(key).cloned()
}

fn writes(world: &World) -> usize {
    let requests = world.sim().requests();
    requests
        .iter()
        .filter(|r| r.method != "GET" && !r.path.contains("/agent/"))
        .count()
}

async fn quiet(world: &mut World) {
    settled(world).await;
    let before = writes(world);
    rounds(world, 10).await;
    let requests = world.sim().requests();
    let later: Vec<_> = requests
        .iter()
        .filter(|r| r.method != "GET" && !r.path.contains("/agent/"))
        .skip(before)
        .collect();
    assert!(later.is_empty(), "nothing is written any more: {later:?}");
}

#[tokio::test(start_paused = true)]
async fn every_value_of_a_container_that_was_set_can_be_taken_off() {
    let mut world = World::with_ssh(&[]).await;
    world.sim().with(|state| {
        state.pools.insert("ai".into(), Default::default());
        let rights = ["Pool.Audit", "Pool.Allocate"].map(str::to_string);
        state.access.roles.insert("Pools".into(), rights.into());
        for (kind, who) in [("user", "phoenix@pve"), ("token", "phoenix@pve!operator")] {
            state.access.acl.insert(AclEntry {
                path: "/pool/ai".into(),
                kind: kind.into(),
                who: who.into(),
                role: "Pools".into(),
                propagate: true,
            });
        }
    });
    let key = world.store.apply(guest(json!({
        "dns": {"nameservers": ["10.0.0.53"], "searchDomain": "lab.example"}, "pool": "ai", "tags": ["llm"], "powerState": "Stopped",
        "description": "words", "timezone": "host", "swap": "1Gi", "cpu": {"limit": 1.5, "units": 500},
        "boot": {"autostart": true, "order": 3, "upDelay": 10}, "capabilities": {"nesting": true, "keyctl": true},
        "network": [{"name": "eth0", "ip": "10.0.0.5/24", "gateway": "10.0.0.1", "vlan": 20, "mtu": 1400, "rate": 10}],
        "firewall": {"enabled": true, "inboundPolicy": "DROP", "rules": [{"direction": "in", "action": "ACCEPT"}]},
    })));
    quiet(&mut world).await;
    let net = option(&world, "net0").unwrap();
    assert!(
        net.contains("gw=10.0.0.1") && net.contains("tag=20") && net.contains("rate=10"),
        "{net}"
    );
    // What somebody added by hand is nobody's to take off.
    let by_hand = format!("{},link_down=1", net.trim_start_matches("net0:"));
    edit(
        &world,
        Edit::SetOptions {
            vmid: VMID,
            options: [("net0".to_string(), Some(by_hand))].into(),
        },
    );
    quiet(&mut world).await;
    world.store.apply(guest(json!({
        "dns": {"nameservers": ["10.0.0.53"]}, "cores": 2, "boot": {"order": 3}, "powerState": "Stopped",
        "network": [{"name": "eth0", "ip": "192.168.50.5/24"}],
    })));
    quiet(&mut world).await;
    let net = option(&world, "net0").unwrap();
    for gone in ["gw=", "tag=", "mtu=", "rate=", "firewall=1"] {
        assert!(!net.contains(gone), "{gone} in {net}");
    }
    assert!(
        net.contains("ip=192.168.50.5/24") && net.contains("link_down=1"),
        "{net}"
    );
    for key in [
        "searchdomain",
        "timezone",
        "cpulimit",
        "cpuunits",
        "swap",
        "features",
        "onboot",
    ] {
        assert_eq!(option(&world, key), None, "{key}");
    }
    assert_eq!(option(&world, "nameserver").as_deref(), Some("10.0.0.53"));
    assert_eq!(option(&world, "startup").as_deref(), Some("order=3"));
    assert_eq!(option(&world, "tags").as_deref(), Some("phoenix"));
    assert!(!text(&world, VMID).contains("words"));
    world.sim().with(|state| {
        assert!(state.pools["ai"].vms.is_empty(), "it left the pool");
        let firewall = &state.firewalls[&VMID];
        assert!(firewall.rules.is_empty() && !firewall.options.contains_key("policy_in"));
    });
    assert!(world.store.guest(&key).unwrap().is_ready());
}

#[tokio::test(start_paused = true)]
async fn every_value_of_a_machine_that_was_set_can_be_taken_off() {
    let mut world = World::with_ssh(&[]).await;
    world.store.apply(vm("a", json!({
        "dns": {"nameservers": ["10.0.0.53"], "searchDomain": "lab.example"}, "cpu": {"cores": 2, "type": "host", "affinity": "0-1"},
        "disks": [{"name": "root", "size": "20Gi", "ssd": true, "cache": "writeback"}], "powerState": "Stopped",
        "network": [{"name": "net0", "ip": "10.0.0.5/24", "gateway": "10.0.0.1", "vlan": 20, "mtu": 1400, "rate": 10}],
    })));
    quiet(&mut world).await;
    assert!(option(&world, "ipconfig0").unwrap().contains("gw=10.0.0.1"));
    world.store.apply(vm(
        "a",
        json!({
            "dns": {"nameservers": ["10.0.0.53"]}, "cpu": {"cores": 2},
            "network": [{"name": "net0", "ip": "192.168.50.5/24"}],
        }),
    ));
    quiet(&mut world).await;
    let net = option(&world, "net0").unwrap();
    assert!(
        !net.contains("tag=") && !net.contains("mtu=") && !net.contains("rate="),
        "{net}"
    );
    assert_eq!(option(&world, "ipconfig0").as_deref(), Some("ip=192.168.50.5/24"));
    for key in ["searchdomain", "affinity", "cpu"] {
        assert_eq!(option(&world, key), None, "{key}");
    }
    let disk = option(&world, "scsi0").unwrap();
    assert!(!disk.contains("cache=") && !disk.contains("ssd="), "{disk}");
}

#[tokio::test(start_paused = true)]
async fn what_an_adopted_guest_has_stays_until_the_spec_sets_it() {
    let mut world = World::new(&[]).await;
    let options = [
        ("hostname", "old"),
        ("searchdomain", "by.hand"),
        (
            "net0",
            "name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:00:01,ip=10.0.0.5/24,gw=10.0.0.1,type=veth",
        ),
    ];
    let options = options.map(|(k, v)| (k.to_string(), v.to_string())).into();
    edit(
        &world,
        Edit::CreateGuest {
            vmid: 140,
            node: None,
            vm: false,
            options,
            storage: Some("quickOS-lxc-disks".into()),
        },
    );
    let adopt = |fields: Value| {
        let mut object = guest(fields);
        object["metadata"]["annotations"] = json!({phoenix::crd::ADOPT: "140"});
        let spec = object["spec"].as_object_mut().unwrap();
        spec.remove("source");
        spec.remove("rootfs");
        object
    };
    world
        .store
        .apply(adopt(json!({"network": [{"name": "eth0", "vlan": 7}]})));
    quiet(&mut world).await;
    world.store.apply(adopt(json!({"network": [{"name": "eth0"}]})));
    quiet(&mut world).await;
    let guest = &world.guests()[&140];
    assert_eq!(guest["searchdomain"], "by.hand");
    assert!(
        guest["net0"].contains("gw=10.0.0.1") && !guest["net0"].contains("tag="),
        "{}",
        guest["net0"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_list_of_interfaces_that_goes_leaves_them_with_their_addresses() {
    let mut world = World::with_ssh(&[]).await;
    let fields = |network: Value| json!({"powerState": "Stopped", "network": network});
    let net = json!([{"name": "net0", "ip": "10.0.0.5/24", "gateway": "10.0.0.1", "mtu": 1400}]);
    world.store.apply(vm("a", fields(net)));
    quiet(&mut world).await;
    let before = text(&world, VMID);
    let mut object = vm("a", json!({"powerState": "Stopped"}));
    object["spec"].as_object_mut().unwrap().remove("network");
    world.store.apply(object);
    quiet(&mut world).await;
    assert_eq!(text(&world, VMID), before);
}

#[tokio::test(start_paused = true)]
async fn a_property_of_a_mount_that_is_dropped_goes() {
    let mut world = World::with_ssh(&[]).await;
    let fields = |more: Value| {
        let mut volume = json!({"name": "data", "size": "1Gi", "mountPath": "/data", "reclaimPolicy": "Delete"});
        let mut bind = json!({"name": "srv", "hostPath": "/srv/a", "mountPath": "/a"});
        for (key, value) in more.as_object().unwrap() {
            volume[key] = value.clone();
            bind[key] = value.clone();
        }
        guest(json!({"powerState": "Stopped", "volumes": [volume], "hostMounts": [bind]}))
    };
    world
        .store
        .apply(fields(json!({"readOnly": true, "mountOptions": ["noatime"]})));
    quiet(&mut world).await;
    let mounts = |world: &World| -> Vec<String> {
        let guest = world.guests()[&VMID].clone();
        guest
            .into_iter()
            .filter(|(k, _)| k.starts_with("mp"))
            .map(|(_, v)| v)
            .collect()
    };
    assert!(
        mounts(&world)
            .iter()
            .all(|m| m.contains("ro=1") && m.contains("noatime")),
        "{:?}",
        mounts(&world)
    );
    world.store.apply(fields(json!({})));
    quiet(&mut world).await;
    assert_eq!(mounts(&world).len(), 2);
    assert!(
        mounts(&world)
            .iter()
            .all(|m| !m.contains("ro=") && !m.contains("noatime")),
        "{:?}",
        mounts(&world)
    );
}
