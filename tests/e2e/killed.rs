//! A fleet's life from creation to deletion while the operator is killed a hundred times, at whatever moment it is in:
//! no guest is made twice, nobody else's is touched, and retained data stays.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use crate::examples::{example, publish_cloud_image};
use crate::guests::{lxc, patch};
use crate::harness::{repository, wait_for};
use crate::site::{IMAGE, Site};

/// Kills in each part of the life; a hundred in all.
const KILLS: [(&str, u32); 6] = [
    ("created", 35),
    ("edited", 15),
    ("restarted", 10),
    ("deleted in part", 10),
    ("created again", 15),
    ("deleted", 15),
];

const STRANGER: &str = "1500";
const ADOPTED: &str = "1501";

struct Life {
    site: Site,
    random: StdRng,
    stranger: Value,
    kills: u32,
}

impl Life {
    /// Starts the operator and kills it after a moment, again and again; then lets one go on.
    fn kill(&mut self, part: &str) {
        let (_, times) = KILLS.iter().find(|(name, _)| *name == part).unwrap();
        for _ in 0..*times {
            self.site.start_operator();
            std::thread::sleep(Duration::from_millis(self.random.random_range(150..1200)));
            let mut operator = self.site.operator.take().unwrap();
            operator.signal("KILL");
            operator.wait();
            self.kills += 1;
            self.check(part);
        }
        self.site.start_operator();
    }

    /// What holds at every moment of the life.
    fn check(&self, part: &str) {
        let guests = self.site.guests();
        let mut of_object: BTreeMap<String, Vec<&String>> = BTreeMap::new();
        for (vmid, guest) in &guests {
            if let Some(object) = stamped_for(guest) {
                of_object.entry(object).or_default().push(vmid);
            }
        }
        let twice: Vec<_> = of_object.iter().filter(|(_, vmids)| vmids.len() > 1).collect();
        assert!(twice.is_empty(), "{part}: {twice:?}\n{}", self.site.words());
        assert_eq!(
            guests[STRANGER]["config"], self.stranger,
            "{part}: the stranger was touched"
        );
        assert!(guests.contains_key(ADOPTED), "{part}: the adopted guest is gone");
    }

    fn ready(&self, part: &str) {
        self.site.namespace.kubectl.must(&[
            "wait",
            "--for=condition=Ready",
            "phoenixtemplate,phoenixlxc,phoenixvm",
            "--all",
            "--timeout=180s",
        ]);
        self.check(part);
    }

    /// The volume that is registered for object `keeper`.
    fn retained(&self) -> String {
        let key = format!("mp=/lxc/{}/keeper/data", self.site.namespace.name);
        let guests = Value::Object(self.site.guests()).to_string();
        let found: Vec<&str> = guests
            .split('"')
            // The state also holds the whole configuration as text.
            .filter(|value| !value.contains("\\n") && value.split(',').any(|part| part == key))
            .collect();
        assert_eq!(found.len(), 1, "{found:?}");
        found[0].split(',').next().unwrap().to_string()
    }
}

/// Object that a guest's stamp names.
fn stamped_for(guest: &Value) -> Option<String> {
    let text = guest.to_string();
    let part = |key: &str| Some(text.split(key).nth(1)?.split(' ').next()?.to_string());
    Some(format!("{} {}/{}", part("kind=")?, part("namespace=")?, part("name=")?))
}

fn keeper() -> String {
    let volumes = json!([
        {"name": "data", "size": "5Gi", "mountPath": "/data"},
        {"name": "scratch", "size": "2Gi", "mountPath": "/scratch", "reclaimPolicy": "Delete"}
    ]);
    lxc("keeper", json!({"volumes": volumes, "network": network(61)}))
}

fn network(last: u8) -> Value {
    json!([{"name": "eth0", "ip": format!("10.0.0.{last}/24"), "gateway": "10.0.0.1"}])
}

fn clone(name: &str, last: u8) -> String {
    let source = json!({"templateRef": {"name": "base"}});
    lxc(name, json!({"source": source, "network": network(last)}))
}

fn fleet(site: &Site) {
    let template = json!({
        "apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": "PhoenixTemplate", "metadata": {"name": "base"},
        "spec": {"hypervisorRef": {"name": "pve"}, "form": "Snapshot", "lxc": {
            "source": {"image": {"volid": IMAGE}}, "rootfs": {"size": "8Gi"}, "memory": "1Gi", "network": network(40)}}
    });
    let adopted = lxc(
        "adopted",
        json!({"network": network(66), "vmid": 1501, "deletionPolicy": "Retain"}),
    );
    let mut adopted: Value = serde_json::from_str(&adopted).unwrap();
    adopted["spec"]
        .as_object_mut()
        .unwrap()
        .retain(|key, _| key != "source" && key != "rootfs");
    adopted["metadata"]["annotations"] = json!({"phoenix-hypervisor.io/adopt": ADOPTED});
    let last = lxc(
        "last",
        json!({"dependsOn": [{"name": "keeper"}], "network": network(64)}),
    );
    let login = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "ubuntu-login"},
        "stringData": {"authorizedKeys": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEmC3Y0nqfXzOBnG0vPZQqYcVJq0yRr7mCqHn0yS4k5b me@desk\n"}});
    for manifest in [
        &template.to_string(),
        &login.to_string(),
        &clone("first", 62),
        &clone("second", 63),
        &keeper(),
        &last,
        &adopted.to_string(),
    ] {
        site.namespace.kubectl.apply(manifest);
    }
    example(site, &repository("examples/vm.yaml"));
}

#[test]
fn a_hundred_kills_over_a_fleets_life_leave_no_duplicate() {
    let site = Site::new("killed");
    site.features();
    publish_cloud_image(&site);
    example(&site, &site.dir.join("sim/hypervisor.yaml"));
    for (vmid, name) in [(STRANGER, "precious"), (ADOPTED, "by-hand")] {
        let options = json!({"hostname": name, "description": "made by hand", "unprivileged": "1", "cores": "1"});
        let vmid: u32 = vmid.parse().unwrap();
        let edit = json!({"op": "create-guest", "vmid": vmid, "options": options, "storage": "quickOS-lxc-disks"});
        site.control("POST", "edits", &edit);
    }
    let stranger = site.guests()[STRANGER]["config"].clone();
    let mut life = Life {
        site,
        random: StdRng::seed_from_u64(14),
        stranger,
        kills: 0,
    };

    fleet(&life.site);
    life.kill("created");
    life.ready("created");
    let data = life.retained();

    for object in ["first", "second", "keeper", "last", "adopted"] {
        patch(
            &life.site,
            &format!("phoenixlxc/{object}"),
            &json!({"spec": {"cores": 3}}),
        );
    }
    patch(
        &life.site,
        "phoenixlxc/keeper",
        &json!({"spec": {"rootfs": {"size": "10Gi"}}}),
    );
    life.kill("edited");
    wait_for("the edit to be seen everywhere", || settled(&life.site));
    life.ready("edited");

    let restart = json!({"metadata": {"annotations": {"phoenix-hypervisor.io/restartedAt": "2026-01-01T00:00:00Z"}}});
    for object in ["phoenixlxc/first", "phoenixlxc/keeper", "phoenixvm/ubuntu"] {
        patch(&life.site, object, &restart);
    }
    life.kill("restarted");
    life.ready("restarted");

    let kubectl = life.site.namespace.kubectl.clone();
    kubectl.must(&["delete", "phoenixlxc/keeper", "phoenixlxc/second", "--wait=false"]);
    life.kill("deleted in part");
    kubectl.must(&[
        "wait",
        "--for=delete",
        "phoenixlxc/keeper",
        "phoenixlxc/second",
        "--timeout=120s",
    ]);
    assert_eq!(life.retained(), data, "the volume went with its guest");

    life.site.namespace.kubectl.apply(&keeper());
    life.site.namespace.kubectl.apply(&clone("second", 63));
    life.kill("created again");
    life.ready("created again");
    let attached = life.site.status("phoenixlxc/keeper")["volumes"].to_string();
    assert!(
        life.retained() == data && attached.contains(&data),
        "not {data}: {attached}"
    );

    kubectl.must(&["delete", "phoenixlxc,phoenixvm", "--all", "--wait=false"]);
    kubectl.must(&["delete", "phoenixtemplate", "--all", "--wait=false"]);
    life.kill("deleted");
    let all = "phoenixtemplate,phoenixlxc,phoenixvm";
    wait_for("all objects to be gone", || {
        let left = kubectl.run(&["get", all, "-o", "name"]).stdout;
        if left.is_empty() {
            Ok(())
        } else {
            Err(format!("{left}\n{}", life.site.table()))
        }
    });
    life.check("deleted");
    assert_eq!(life.retained(), data);
    let left = life.site.guests();
    let left: Vec<&String> = left
        .iter()
        .filter(|(_, guest)| !guest.to_string().contains("kind=VolumeOwner"))
        .map(|(vmid, _)| vmid)
        .collect();
    assert_eq!(left, [STRANGER, ADOPTED]);
    assert_eq!(life.kills, 100);
}

/// Every object was looked at after its last edit.
fn settled(site: &Site) -> Result<(), String> {
    let list = site.namespace.kubectl.get(&["phoenixlxc"]);
    let behind = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|o| o["metadata"]["generation"] != o["status"]["observedGeneration"]);
    behind.map_or(Ok(()), |o| Err(format!("{} is behind", o["metadata"]["name"])))
}
