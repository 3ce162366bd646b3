//! The main job in a cluster: the legacy fleet converted, applied with `kubectl`, and Ready, while the operator is
//! killed five times on the way.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::gitops::{is_in_sync, rendered};
use crate::harness::{repository, wait_for};
use crate::site::Site;

/// Converts the legacy fleet for the site's simulator; the folder with its objects.
pub fn convert(site: &Site) -> String {
    convert_for(&site.description(), &site.namespace.name, &site.dir.join("fleet"))
}

/// Converts the legacy fleet for the simulator that says this of itself.
pub fn convert_for(description: &Value, namespace: &str, out: &Path) -> String {
    let legacy = repository("examples/legacy");
    let mut command = Command::new(env!("CARGO_BIN_EXE_phoenix"));
    command
        .arg("convert")
        .arg("--hypervisor-config")
        .arg(legacy.join("phoenix_hypervisor_config.json"))
        .arg("--lxc-configs")
        .arg(legacy.join("phoenix_lxc_configs.json"))
        .arg("--vm-configs")
        .arg(legacy.join("phoenix_vm_configs.json"))
        .arg("--applications")
        .arg(legacy.join("applications"))
        .args(["--namespace", namespace, "--hypervisor-name", "proxmox"])
        .arg("--output-dir")
        .arg(out);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // The files describe a machine of somebody's; here the simulator stands in for it.
    let path = out.join("phoenixhypervisor-proxmox.yaml");
    let ssh = format!(
        "  ssh:\n    hosts:\n      phoenix: {}",
        description["ssh"]["phoenix"].as_str().unwrap()
    );
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text
        .replace("https://10.0.0.13:8006", description["apiUrl"].as_str().unwrap())
        .replace("  ssh:", &ssh);
    std::fs::write(&path, text).unwrap();
    out.to_str().unwrap().to_string()
}

#[test]
fn the_legacy_fleet_gets_ready_though_the_operator_is_killed_five_times() {
    let mut site = Site::new("fleet");
    site.features();
    let fleet = convert(&site);
    site.namespace.kubectl.must(&["apply", "-k", &fleet]);
    for _ in 0..5 {
        site.start_operator();
        std::thread::sleep(Duration::from_secs(3));
        let mut operator = site.operator.take().unwrap();
        operator.signal("KILL");
        operator.wait();
    }
    site.start_operator();
    for template in ["base", "gpu", "docker", "docker-gpu", "vllm"] {
        site.wait_ready(&format!("phoenixtemplate/template-{template}"), 180);
    }
    site.wait_ready("phoenixtemplate/ubuntu-2404-cloud-template", 180);
    site.namespace.kubectl.must(&[
        "wait",
        "--for=condition=Ready",
        "phoenixlxc,phoenixvm",
        "--all",
        "--timeout=240s",
    ]);
    no_duplicates(&site);
    columns(&site);
    secrets_stay_secret(&site);
    steady(&site);
    is_in_sync(&site, &rendered(&site, fleet.as_ref()));
    drop_namespace(&mut site);
}

/// 22 containers, 2 machines and the owners of retained volumes, one guest for each object.
fn no_duplicates(site: &Site) {
    let mut names: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (vmid, guest) in site.guests() {
        let text = guest.to_string();
        let name = text
            .split(&format!("namespace={} name=", site.namespace.name))
            .nth(1)
            .and_then(|t| t.split(' ').next())
            .unwrap_or("stranger")
            .to_string();
        if !text.contains("kind=VolumeOwner") {
            names.entry(name).or_default().push(vmid);
        }
    }
    assert_eq!(names.len(), 24, "{names:?}");
    assert!(names.values().all(|vmids| vmids.len() == 1), "{names:?}");
}

fn columns(site: &Site) {
    let header = |args: &[&str]| {
        let text = site.namespace.kubectl.must(args);
        text.lines()
            .next()
            .unwrap()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(
        header(&["get", "phoenixlxc"]),
        "NAME STATUS VMID NODE IP GPUS SOURCE AGE"
    );
    assert_eq!(
        header(&["get", "plxc", "-o", "wide"]),
        "NAME STATUS VMID NODE IP GPUS SOURCE CORES MEMORY MODEL HEALTH MESSAGE AGE"
    );
    let row = site
        .namespace
        .kubectl
        .must(&["get", "phoenixlxc", "vllm-qwen2.5-7b-awq"]);
    let row: Vec<&str> = row.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(
        row[..6],
        ["vllm-qwen2.5-7b-awq", "Ready", "950", "phoenix", "10.0.0.150", "0"]
    );
    let all = site.namespace.kubectl.must(&["get", "phoenix"]);
    assert!(
        all.contains("phoenixhypervisor") && all.contains("phoenixtemplate"),
        "{all}"
    );
    let vm = site.status("phoenixvm/docker-vm-01");
    assert_eq!(
        (&vm["phase"], &vm["vmid"]),
        (&Value::from("Ready"), &Value::from(8001)),
        "{vm:#}"
    );
}

/// Nothing of the credentials is in the log, a status, an event or a description.
fn secrets_stay_secret(site: &Site) {
    let description = site.description();
    let key = std::fs::read_to_string(site.dir.join("sim/ssh-key")).unwrap();
    let key_line = key.lines().nth(2).unwrap().to_string();
    let secrets = [
        description["tokenSecret"].as_str().unwrap(),
        description["rootPassword"].as_str().unwrap(),
        &key_line,
    ];
    let places = [
        ("operator log", site.operator.as_ref().unwrap().log()),
        (
            "objects",
            site.namespace.kubectl.must(&["get", "phoenix", "-o", "yaml"]),
        ),
        ("events", site.namespace.kubectl.must(&["get", "events", "-o", "yaml"])),
        ("guests", Value::Object(site.guests()).to_string()),
    ];
    for (place, text) in places {
        for secret in secrets {
            assert!(!text.contains(secret), "a secret is in the {place}");
        }
    }
}

/// Ten polls cost ten reads of the cluster's resources, no write, and nothing in Kubernetes.
fn steady(site: &Site) {
    let versions = || {
        let objects = site.namespace.kubectl.get(&["phoenixlxc,phoenixtemplate"]);
        let items = objects["items"].as_array().unwrap().clone();
        items
            .iter()
            .map(|o| o["metadata"]["resourceVersion"].to_string())
            .collect::<Vec<_>>()
    };
    // The readiness probe of a machine reaches its guest agent through the API, as that of a container goes through SSH.
    let probe = |r: &&Value| r["path"].as_str().unwrap().contains("/agent/exec");
    let requests = || {
        let log = site.control("GET", "requests", &Value::Null);
        let all = log.as_array().unwrap().clone();
        all.iter().filter(|r| !probe(r)).cloned().collect::<Vec<_>>()
    };
    // Whatever still follows from becoming Ready comes to rest first.
    wait_for("the requests to come to rest", || {
        site.control("DELETE", "requests", &Value::Null);
        std::thread::sleep(Duration::from_secs(1));
        let others = requests().iter().filter(|r| r["path"] != "/cluster/resources").count();
        (others == 0).then_some(()).ok_or_else(|| format!("{:?}", requests()))
    });
    let before = versions();
    site.control("DELETE", "requests", &Value::Null);
    wait_for("ten polls", || {
        let polls = requests().len();
        (polls >= 10).then_some(()).ok_or_else(|| format!("{polls} polls"))
    });
    let seen = requests();
    // Every thirtieth poll also reads version, quorum and rights, and whether the image of owner containers is there.
    let polled = |r: &Value| {
        let path = r["path"].as_str().unwrap();
        let image = path.ends_with("/content") && r["query"] == "content=vztmpl";
        [
            "/cluster/resources",
            "/version",
            "/cluster/status",
            "/access/permissions",
        ]
        .contains(&path)
            || image
    };
    let others: Vec<&Value> = seen.iter().filter(|r| !polled(r)).collect();
    assert!(others.is_empty(), "{others:?}");
    assert_eq!(before, versions(), "objects were written though nothing changed");
}

/// Deleting the namespace ends with everything gone, retained volumes and their owners excepted.
fn drop_namespace(site: &mut Site) {
    let name = site.namespace.name.clone();
    let answer = site
        .namespace
        .kubectl
        .run(&["delete", "namespace", &name, "--timeout=180s"]);
    assert!(answer.ok, "{}\n{}\n{}", answer.stderr, site.table(), site.words());
    for (vmid, guest) in site.guests() {
        assert!(
            guest.to_string().contains("kind=VolumeOwner"),
            "guest {vmid} is left: {guest}"
        );
    }
}
