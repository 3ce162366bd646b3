//! The guest firewall: rules name interfaces as the guest does, a refused rule leaves the old set in force, and a firewall
//! that is on and filters nothing is not Ready.

use crate::engine::{self, World, edit, message, rounds, says, settled, status};
use phoenix::desired::Objects;
use phoenix::simulator::Edit;
use serde_json::{Value, json};

const VMID: u32 = 1000;

fn guest(fields: Value) -> Value {
    engine::guest("a", fields)
}

fn rules(world: &World) -> Vec<String> {
    world.sim().with(|state| {
        let rules = state.firewalls[&VMID].rules.iter();
        rules
            .map(|r| {
                format!(
                    "{} {} {}",
                    r["action"],
                    r.get("iface").map_or("-", String::as_str),
                    r.get("dport").map_or("-", String::as_str)
                )
            })
            .collect()
    })
}

#[tokio::test(start_paused = true)]
async fn a_rule_is_on_the_interface_that_it_names_wherever_that_stands_in_the_list() {
    let mut world = World::new(&[]).await;
    let lan = json!({"name": "lan", "ip": "10.1.0.5/24"});
    let eth0 = json!({"name": "eth0", "ip": "10.0.0.5/24"});
    let firewall = json!({"enabled": true, "rules": [{"direction": "in", "action": "ACCEPT", "port": "22", "protocol": "tcp", "interface": "lan"}]});
    world
        .store
        .apply(guest(json!({"network": [eth0, lan], "firewall": firewall})));
    settled(&mut world).await;
    assert_eq!(rules(&world), ["ACCEPT net1 22"]);
    let key = world
        .store
        .apply(guest(json!({"network": [lan, eth0], "firewall": firewall})));
    settled(&mut world).await;
    assert_eq!(rules(&world), ["ACCEPT net1 22"], "the order of the list means nothing");
    let mut other = firewall.clone();
    other["rules"][0]["interface"] = json!("eth7");
    world
        .store
        .apply(guest(json!({"network": [lan, eth0], "firewall": other})));
    world.settle(true).await.unwrap();
    assert_eq!(rules(&world), ["ACCEPT net1 22"], "not all interfaces");
    let told = message(&world, &key);
    assert!(
        told.contains("spec.firewall.rules[0].interface") && told.contains("\"eth7\"") && told.contains("lan"),
        "{told}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_rule_that_proxmox_refuses_leaves_the_old_set_in_force() {
    let mut world = World::new(&[]).await;
    let firewall = |port: &str, second: &str| {
        json!({"firewall": {"enabled": true, "inboundPolicy": "DROP", "rules": [
            {"direction": "in", "action": "ACCEPT", "protocol": "tcp", "port": port},
            {"direction": "in", "action": "ACCEPT", "source": second, "protocol": "tcp", "port": "80"},
        ]}})
    };
    let key = world.store.apply(guest(firewall("22", "10.0.0.0/8")));
    settled(&mut world).await;
    assert_eq!(rules(&world), ["ACCEPT - 22", "ACCEPT - 80"]);
    world.store.apply(guest(firewall("22", "+nosuchset")));
    rounds(&world, 30).await;
    assert_eq!(rules(&world), ["ACCEPT - 22", "ACCEPT - 80"]);
    let told = status(&world, &key).last_error.unwrap_or_default();
    assert!(told.contains("spec.firewall.rules[1]"), "{told}");
    assert!(!world.store.guest(&key).unwrap().is_ready());
    // What is right again is carried out.
    world.store.apply(guest(firewall("2222", "10.0.0.0/8")));
    settled(&mut world).await;
    assert_eq!(rules(&world), ["ACCEPT - 2222", "ACCEPT - 80"]);
}

#[tokio::test(start_paused = true)]
async fn a_firewall_that_filters_no_interface_is_not_ready() {
    let mut world = World::new(&[]).await;
    let net = "name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:00:01,ip=dhcp,type=veth";
    let options = [
        ("hostname".to_string(), "old".to_string()),
        ("net0".to_string(), net.to_string()),
    ]
    .into();
    edit(
        &world,
        Edit::CreateGuest {
            vmid: 151,
            node: None,
            vm: false,
            options,
            storage: Some("quickOS-lxc-disks".into()),
        },
    );
    edit(
        &world,
        Edit::Power {
            vmid: 151,
            running: true,
        },
    );
    let adopted = |fields: Value| {
        let mut object = guest(fields);
        object["metadata"]["annotations"] = json!({phoenix::crd::ADOPT: "151"});
        let spec = object["spec"].as_object_mut().unwrap();
        for field in ["source", "rootfs", "network"] {
            spec.remove(field);
        }
        object
    };
    let key = world
        .store
        .apply(adopted(json!({"firewall": {"enabled": true, "inboundPolicy": "DROP"}})));
    world.settle(true).await.unwrap();
    assert!(says(&world, &key, "FirewallNotInForce"), "{:?}", status(&world, &key));
    let told = message(&world, &key);
    assert!(
        told.contains("not in force on eth0") && told.contains("firewall=1"),
        "{told}"
    );
    let set = [("net0".to_string(), Some(format!("{net},firewall=1")))].into();
    edit(
        &world,
        Edit::SetOptions {
            vmid: 151,
            options: set,
        },
    );
    settled(&mut world).await;
    assert!(world.store.guest(&key).unwrap().is_ready());
}

#[tokio::test(start_paused = true)]
async fn a_machines_eth0_is_its_net0_in_a_rule_too() {
    let mut world = World::with_ssh(&[]).await;
    let rule = json!({"direction": "in", "action": "ACCEPT", "protocol": "tcp", "port": "22", "interface": "eth0"});
    let key = world.store.apply(engine::vm(
        "a",
        json!({"network": [{"name": "eth0", "ip": "10.0.0.5/24"}], "firewall": {"enabled": true, "rules": [rule]}}),
    ));
    settled(&mut world).await;
    assert_eq!(rules(&world), ["ACCEPT net0 22"]);
    assert!(world.store.guest(&key).unwrap().is_ready());
}
