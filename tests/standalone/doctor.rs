//! `phoenix doctor`: of a healthy hypervisor everything is ok, each thing that is broken is told with its field and what
//! mends it, and what could not be read is never ok.

use std::collections::BTreeSet;

use phoenix::simulator::model::State;
use phoenix::simulator::ssh::{SshAction, SshFault};
use phoenix::simulator::{Fault, FaultKind};
use serde_json::{Value, json};

use super::site::{Site, lxc};

/// What doctor says, with the code that it ends with.
async fn doctor(site: &Site) -> (Value, i32) {
    let answer = site.phoenix(&["doctor", "-o", "json"]).await;
    let value = serde_json::from_str(&answer.stdout).unwrap_or_else(|e| panic!("{e}: {answer:#?}"));
    assert_eq!(site.writes(), 0, "doctor only looks");
    (value, answer.code.unwrap())
}

fn checks(value: &Value) -> Vec<&Value> {
    let hypervisors = value["hypervisors"].as_array().unwrap().iter();
    hypervisors.flat_map(|h| h["checks"].as_array().unwrap()).collect()
}

/// The check of this name came to this, and its message has these words.
fn told(value: &Value, name: &str, outcome: &str, words: &str) {
    let all = checks(value);
    let found = all
        .iter()
        .find(|check| check["name"].as_str().unwrap().starts_with(name));
    let found = found.unwrap_or_else(|| panic!("no check {name}: {value:#}"));
    assert_eq!(found["outcome"], outcome, "{found:#}");
    let message = found["message"].as_str().unwrap();
    assert!(message.contains(words), "{words}: {found:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_hypervisor_is_ok() {
    let site = Site::new().await;
    site.write("web", &lxc("web", json!({})));
    site.write(
        "gpu",
        &lxc(
            "gpu",
            json!({"gpus": [{"index": 0}], "features": [{"name": "base-setup"}]}),
        ),
    );
    let (value, code) = doctor(&site).await;
    for check in checks(&value) {
        assert_eq!(check["outcome"], "Ok", "{check:#}");
    }
    assert_eq!((code, &value["worst"]), (0, &json!("Ok")));
    for name in [
        "credentials",
        "password of root@pam",
        "endpoint https",
        "certificate of https",
        "quorum",
        "node phoenix",
        "version of phoenix",
        "privilege Sys.Audit on /",
        "privileges",
        "clock of phoenix",
        "certificate pve-ssl.pem of phoenix",
        "ssh phoenix",
        "gpus phoenix",
        "storage quickOS-lxc-disks on phoenix",
        "bridge vmbr0 on phoenix",
        "image ubuntu-24.04-standard_24.04-2_amd64.tar.zst on phoenix",
        "id ranges",
        "ids of spec.vmidRange",
    ] {
        told(&value, name, "Ok", "");
    }
    // Each request goes once; each endpoint is asked by itself, and the password by itself.
    let mut seen = BTreeSet::new();
    for request in site.sim().requests() {
        let line = format!("{} {}?{}", request.method, request.path, request.query);
        assert!(seen.insert(line.clone()) || line.starts_with("GET /version"), "{line}");
    }
    let text = site.phoenix(&["doctor"]).await.expect(0).stdout;
    assert!(
        text.starts_with("PhoenixHypervisor default/pve\n") && text.contains("0 unknown, 0 broken"),
        "{text}"
    );
    let text = site.phoenix(&["doctor", "--fix-commands"]).await.expect(0).stdout;
    assert!(text.starts_with("# no command"), "{text}");
}

/// What is broken on Proxmox.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_broken_on_proxmox_is_told_with_what_mends_it() {
    type Break = fn(&mut State);
    let cases: &[(Break, &str, &str, &str)] = &[
        (
            |s| (s.cluster, s.quorate) = (Some("lab".into()), false),
            "quorum",
            "Fail",
            "no quorum",
        ),
        (
            |s| s.release.version = "8.1.4".into(),
            "version of",
            "Fail",
            "older than 8.4: upgrade",
        ),
        (
            |s| s.release.version = "10.0.1".into(),
            "version of",
            "Warn",
            "newer than any",
        ),
        (
            |s| node(s).clock_ahead = 60,
            "clock of",
            "Warn",
            "ahead of this machine's",
        ),
        (
            |s| node(s).clock_ahead = -3600,
            "clock of",
            "Fail",
            "behind this machine's",
        ),
        (
            |s| node(s).booted_at = 0,
            "certificate pve-ssl.pem of",
            "Fail",
            "days ago: renew it",
        ),
        (
            |s| node(s).booted_at = s_now().saturating_sub(2 * 31_536_000_000 - 10 * 86_400_000),
            "certificate pve-ssl.pem of",
            "Warn",
            "it ends in",
        ),
        (
            |s| node(s).devices.retain(|path| path != "/dev/nvidia-uvm"),
            "gpus phoenix",
            "Warn",
            "lacks /dev/nvidia-uvm",
        ),
        (
            |s| node(s).bridges.clear(),
            "bridge vmbr0",
            "Fail",
            "spec.defaults.bridge: node phoenix has no bridge",
        ),
        (
            |s| storage(s).disabled = true,
            "storage quickOS-lxc-disks",
            "Fail",
            "spec.defaults.rootfsStorage: storage",
        ),
        (
            |s| storage(s).active = false,
            "storage quickOS-lxc-disks",
            "Fail",
            "not available on node phoenix",
        ),
        (
            |s| storage(s).content = ["images".to_owned()].into(),
            "storage quickOS-lxc-disks",
            "Fail",
            "is not for content rootdir (it has images)",
        ),
        (
            |s| drop(s.storages.remove("quickOS-lxc-disks")),
            "storage quickOS-lxc-disks",
            "Fail",
            "has no storage \"quickOS-lxc-disks\" (there are",
        ),
        (
            |s| s.access.acl.retain(|e| e.path != "/"),
            "privilege Sys.Audit on /",
            "Fail",
            "quorum, deletion",
        ),
        (
            |s| s.access.acl.retain(|e| e.path != "/"),
            "quorum",
            "Unknown",
            "it was not read",
        ),
        (
            |s| s.access.acl.retain(|e| e.path != "/nodes"),
            "clock of",
            "Unknown",
            "it was not read",
        ),
        (
            |s| s.access.acl.retain(|e| !e.path.starts_with("/storage")),
            "storage quickOS-lxc-disks",
            "Unknown",
            "hides what it has no right on",
        ),
        (
            |s| s.access.acl.retain(|e| !e.path.starts_with("/sdn")),
            "bridge vmbr0",
            "Unknown",
            "grant SDN.Use",
        ),
        (
            |s| s.appliances.retain(|a| !a.template.starts_with("ubuntu-24")),
            "image ubuntu-24.04",
            "Ok",
            "on its storage",
        ),
        (
            |s| {
                let found = s.appliances.iter_mut().find(|a| a.template.starts_with("ubuntu-24"));
                found.unwrap().template = "ubuntu-24.04-standard_24.04-3_amd64.tar.zst".into();
            },
            "image ubuntu-24.04",
            "Warn",
            "does not list it any more",
        ),
        (
            |s| {
                s.appliances.clear();
                let shared = s.storages.get_mut("fastData-shared-iso").unwrap();
                shared.volumes.clear();
            },
            "image ubuntu-24.04",
            "Fail",
            "spec.volumeOwners.image",
        ),
    ];
    for (damage, name, outcome, words) in cases {
        let site = Site::new().await;
        site.sim().with(damage);
        let (value, code) = doctor(&site).await;
        told(&value, name, outcome, words);
        let well = matches!(*outcome, "Ok" | "Warn");
        assert_eq!(code == 0, well, "{name}: {value:#}");
    }
}

fn s_now() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_millis() as u64
}

fn node(state: &mut State) -> &mut phoenix::simulator::model::node::Node {
    state.nodes.get_mut("phoenix").unwrap()
}

fn storage(state: &mut State) -> &mut phoenix::simulator::model::storage::Storage {
    state.storages.get_mut("quickOS-lxc-disks").unwrap()
}

/// Each right that is taken away is told with what it blocks and the line that grants it.
#[tokio::test(flavor = "multi_thread")]
async fn each_missing_right_has_its_fields_and_its_line() {
    let site = Site::new().await;
    site.write(
        "web",
        &lxc(
            "web",
            json!({"rootfs": {"storage": "quickOS-shared-prod-data", "size": "4Gi"}}),
        ),
    );
    for (right, path, blocks) in [
        ("VM.Config.Network", "/vms", "spec.network"),
        ("VM.Allocate", "/vms", "making and deleting any guest"),
        ("VM.PowerMgmt", "/vms", "spec.powerState"),
        ("Sys.Audit", "/nodes", "following any task"),
        (
            "Datastore.AllocateSpace",
            "/storage/quickOS-lxc-disks",
            "spec.defaults.rootfsStorage",
        ),
        (
            "Datastore.AllocateSpace",
            "/storage/quickOS-shared-prod-data",
            "PhoenixLXC default/web: spec.rootfs.storage",
        ),
        ("SDN.Use", "/sdn/zones/localnetwork", "spec.defaults.bridge"),
    ] {
        let before = site.sim().with(|state| state.access.roles.clone());
        site.sim().with(|state| {
            for role in state.access.roles.values_mut() {
                role.remove(right);
            }
        });
        let (value, code) = doctor(&site).await;
        assert_eq!(code, 1, "{value:#}");
        let name = format!("privilege {right} on {path}");
        told(&value, &name, "Fail", blocks);
        let lines = site.phoenix(&["doctor", "--fix-commands"]).await.expect(1).stdout;
        let line = lines
            .lines()
            .find(|l| l.contains(right) && l.contains(&format!("acl modify {path} ")))
            .unwrap();
        assert!(line.contains("--users phoenix@pve --roles Phoenix"), "{line}");
        assert_eq!(site.writes(), 0, "commands are never run");
        site.sim().with(|state| state.access.roles = before);
        told(&doctor(&site).await.0, "privileges", "Ok", "has all");
    }
}

/// What is wrong in the manifests.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_in_the_manifests_is_told_with_its_field() {
    let site = Site::new().await;
    let good = site.hypervisor();
    let base = good["spec"]["endpoints"][0].clone();
    let print = vec!["AA"; 32].join(":");
    for (at, value, name, outcome, words) in [
        (
            "/spec/endpoints",
            json!([base, "https://127.0.0.1:9"]),
            "endpoint https://127.0.0.1:9",
            "Warn",
            "spec.endpoints",
        ),
        (
            "/spec/endpoints",
            json!(["https://127.0.0.1:9"]),
            "endpoint https://127.0.0.1:9",
            "Fail",
            "spec.endpoints",
        ),
        (
            "/spec/endpoints",
            json!(["https://127.0.0.1:9"]),
            "quorum",
            "Unknown",
            "no endpoint answers",
        ),
        (
            "/spec/tls",
            json!({"fingerprint": print}),
            "endpoint https",
            "Fail",
            "spec.tls",
        ),
        (
            "/spec/credentials/tokenSecretRef/name",
            json!("none"),
            "credentials",
            "Fail",
            "spec.credentials.tokenSecretRef",
        ),
        (
            "/spec/credentials/tokenSecretRef/name",
            json!("none"),
            "everything else",
            "Unknown",
            "nothing was asked",
        ),
        (
            "/spec/credentials/tokenSecretRef/name",
            json!("other"),
            "credentials",
            "Fail",
            "correct what is in",
        ),
        (
            "/spec/credentials/rootPasswordSecretRef/name",
            json!("other"),
            "password of root@pam",
            "Fail",
            "rootPasswordSecretRef",
        ),
        (
            "/spec/ssh/knownHostsSecretRef",
            json!({"name": "other", "key": "hosts"}),
            "ssh phoenix",
            "Fail",
            "no host key of",
        ),
        (
            "/spec/ssh/knownHostsSecretRef",
            json!({"name": "other", "key": "hosts"}),
            "gpus phoenix",
            "Unknown",
            "not read",
        ),
        (
            "/spec/ssh/user",
            json!("phoenix"),
            "ssh phoenix",
            "Fail",
            "user id 1000 and not as root: set spec.ssh.sudo",
        ),
        (
            "/spec/ssh",
            Value::Null,
            "ssh phoenix",
            "Fail",
            "PhoenixLXC default/web: spec.features",
        ),
        (
            "/spec/defaults/rootfsStorage",
            json!("rust"),
            "storage rust",
            "Fail",
            "spec.defaults.rootfsStorage",
        ),
        (
            "/spec/defaults/snippetStorage",
            json!("fastData-shared-iso"),
            "storage fastData-shared-iso",
            "Fail",
            "content snippets",
        ),
        (
            "/spec/defaults/imageStorage",
            json!("quickOS-lxc-disks"),
            "storage quickOS-lxc-disks",
            "Fail",
            "vztmpl or import",
        ),
        (
            "/spec/volumeOwners/storage",
            json!("quickOS-vm-disks"),
            "storage quickOS-vm-disks",
            "Fail",
            "spec.volumeOwners.storage",
        ),
        (
            "/spec/defaults/bridge",
            json!("vmbr7"),
            "bridge vmbr7",
            "Fail",
            "(there are vmbr0)",
        ),
        (
            "/spec/defaults/node",
            json!("phoenix9"),
            "node phoenix9",
            "Fail",
            "spec.defaults.node",
        ),
        (
            "/spec/vmidRange",
            json!({"start": 1000, "end": 1002}),
            "ids of spec.vmidRange",
            "Warn",
            "3 of 3 ids",
        ),
    ] {
        let mut changed = good.clone();
        let (parent, key) = at.rsplit_once('/').unwrap();
        match value {
            Value::Null => drop(
                changed
                    .pointer_mut(parent)
                    .unwrap()
                    .as_object_mut()
                    .unwrap()
                    .remove(key),
            ),
            ref value => changed.pointer_mut(parent).unwrap()[key] = value.clone(),
        }
        let data = json!({"tokenId": "phoenix@pve!operator", "secret": "0-0", "password": "wrong",
            "hosts": "elsewhere ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIO7LPxhGeGDPwjwYyGXOPMV1bLzTv0vSbMOS9j0Gk0xY"});
        site.write(
            "other",
            &json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "other"}, "stringData": data}),
        );
        site.write("web", &lxc("web", json!({"features": [{"name": "base-setup"}]})));
        site.write("hypervisor", &changed);
        let (value, code) = doctor(&site).await;
        told(&value, name, outcome, words);
        assert_eq!(code == 0, outcome == "Warn", "{name}: {value:#}");
    }
}

/// What objects name beyond the hypervisor's spec.
#[tokio::test(flavor = "multi_thread")]
async fn what_objects_need_and_is_broken_names_the_object() {
    for (fields, name, outcome) in [
        (
            json!({"rootfs": {"storage": "rust", "size": "4Gi"}}),
            "storage rust",
            "Fail",
        ),
        (
            json!({"network": [{"name": "eth0", "ip": "dhcp", "bridge": "vmbr9"}]}),
            "bridge vmbr9",
            "Fail",
        ),
        (
            json!({"source": {"image": {"volid": "local:vztmpl/none_1_amd64.tar.zst"}}}),
            "image none_1_amd64.tar.zst",
            "Fail",
        ),
        (
            json!({"source": {"image": {"appliance": "gentoo-1", "storage": "local"}}}),
            "image gentoo-1",
            "Fail",
        ),
        (
            json!({"source": {"image": {"appliance": "debian-13-standard", "storage": "local"}}}),
            "image debian-13-standard",
            "Ok",
        ),
        (
            json!({"pool": "elsewhere"}),
            "privilege Pool.Audit on /pool/elsewhere",
            "Fail",
        ),
    ] {
        let site = Site::new().await;
        site.write("web", &lxc("web", fields));
        let (value, _) = doctor(&site).await;
        told(
            &value,
            name,
            outcome,
            if outcome == "Ok" {
                ""
            } else {
                "PhoenixLXC default/web: spec."
            },
        );
    }
    // A card without its device nodes is broken for who asks for it.
    let site = Site::new().await;
    site.write("web", &lxc("web", json!({"gpus": [{"index": 0}]})));
    site.sim()
        .with(|s| node(s).devices.retain(|path| !path.contains("nvidia-uvm")));
    let (value, code) = doctor(&site).await;
    told(&value, "gpus phoenix", "Fail", "lacks /dev/nvidia-uvm");
    assert_eq!(code, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_of_two_hypervisors_of_one_cluster_are_apart() {
    let site = Site::new().await;
    let mut second = site.hypervisor();
    second["metadata"]["name"] = json!("second");
    second["spec"]["volumeOwners"]["idRange"] = json!({"start": 9910, "end": 9919});
    site.write("second", &second);
    let (value, code) = doctor(&site).await;
    told(
        &value,
        "ids beside default/second",
        "Fail",
        "spec.vmidRange 1000-1099 overlaps with spec.vmidRange 1000-1099",
    );
    assert_eq!(code, 1);
    second["spec"]["vmidRange"] = json!({"start": 1100, "end": 1199});
    site.write("second", &second);
    let (value, code) = doctor(&site).await;
    told(&value, "ids beside default/second", "Ok", "");
    assert_eq!(code, 0, "{value:#}");
}

/// SSH that asks for a password, and a node whose host key is another.
#[tokio::test(flavor = "multi_thread")]
async fn ssh_that_does_not_work_is_told() {
    let site = Site::new().await;
    let mut changed = site.hypervisor();
    changed["spec"]["ssh"]["user"] = json!("phoenix");
    changed["spec"]["ssh"]["sudo"] = json!(true);
    site.write("hypervisor", &changed);
    told(&doctor(&site).await.0, "ssh phoenix", "Ok", "commands run as root");
    site.sim().with(|state| {
        state.ssh.faults.push(SshFault {
            vmid: None,
            command: "id -u".into(),
            action: SshAction::Refuse {
                exit: 1,
                message: "sudo: a password is required".into(),
            },
            count: None,
        });
    });
    let (value, code) = doctor(&site).await;
    told(&value, "ssh phoenix", "Fail", "sudo: a password is required");
    assert_eq!(code, 1);
    let lines = site.phoenix(&["doctor", "--fix-commands"]).await.expect(1).stdout;
    assert!(lines.contains("/etc/sudoers.d/phoenix"), "{lines}");
    let other = Site::new().await;
    other.sim().with(|state| state.ssh.other_host_key = true);
    told(
        &doctor(&other).await.0,
        "ssh phoenix",
        "Fail",
        "spec.ssh.knownHostsSecretRef",
    );
}

/// Whatever request is refused: what it would have shown is unknown, and nothing is broken or ok by it.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_read_is_unknown_and_never_ok() {
    for (path, names) in [
        ("^/access/permissions$", vec!["privileges"]),
        ("^/cluster/status$", vec!["quorum"]),
        (
            "^/cluster/resources$",
            vec!["ids of spec.vmidRange", "ids of spec.volumeOwners.idRange"],
        ),
        ("^/nodes/phoenix/time$", vec!["clock of phoenix"]),
        ("^/nodes/phoenix/version$", vec!["version of phoenix"]),
        ("^/nodes/phoenix/network$", vec!["bridge vmbr0 on phoenix"]),
        ("^/nodes/phoenix/certificates/info$", vec!["certificates of phoenix"]),
        ("^/nodes/phoenix/hardware/pci$", vec!["gpus phoenix"]),
        (
            "^/nodes/phoenix/storage$",
            vec!["storage quickOS-lxc-disks on phoenix", "image ubuntu-24.04"],
        ),
        (
            "^/nodes/phoenix/storage/fastData-shared-iso/content$",
            vec!["image ubuntu-24.04"],
        ),
    ] {
        let site = Site::new().await;
        site.sim().add_fault(Fault {
            method: Some("GET".into()),
            path: Some(path.into()),
            skip: 0,
            count: 100,
            kind: FaultKind::Status {
                status: 500,
                message: "out of order".into(),
            },
        });
        let (value, code) = doctor(&site).await;
        assert_eq!((code, &value["worst"]), (1, &json!("Unknown")), "{path}: {value:#}");
        for name in names {
            told(&value, name, "Unknown", "not read");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_offline_is_told_and_nothing_of_it_is_ok() {
    let site = Site::new().await;
    site.sim().with(|state| {
        state.add_twin("phoenix", "phoenix2", "10.0.0.14", "lab");
        state.nodes.get_mut("phoenix2").unwrap().online = false;
    });
    let (value, code) = doctor(&site).await;
    told(&value, "node phoenix2", "Fail", "offline");
    assert_eq!(code, 1);
    let of_it = checks(&value)
        .into_iter()
        .filter(|c| c["name"].as_str().unwrap().contains("phoenix2"));
    assert!(of_it.into_iter().all(|c| c["outcome"] != "Ok"), "{value:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_hypervisor_there_is_nothing_to_say() {
    let site = Site::new().await;
    std::fs::remove_file(site.path("hypervisor")).unwrap();
    let answer = site.phoenix(&["doctor"]).await.expect(2);
    assert!(answer.stderr.contains("no PhoenixHypervisor"), "{answer:?}");
}
