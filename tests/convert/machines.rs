//! Virtual machines: what `vm_defaults` fill in, templates, sources, interfaces, cloud-init, NFS shares, and the keys
//! that have no field.

use phoenix::convert::report::{Outcome, Severity};
use phoenix::convert::{Output, Role};
use serde_json::{Value, json};

use crate::support::*;

fn file(document: Value) -> Output {
    run(&[input("v.json", Role::Vm, document.to_string())], &options())
}

/// Converts one machine that needs nothing else, with `extra` merged over it.
fn machine(extra: Value) -> Output {
    let mut config = json!({"vmid": 300, "name": "one", "template_image": "x.img"});
    for (key, value) in extra.as_object().unwrap() {
        config[key] = value.clone();
    }
    file(json!({"vms": [config]}))
}

fn spec(output: &Output) -> Value {
    manifest(output, "phoenixvm-one.yaml")["spec"].clone()
}

fn of(output: &Output, key: &str) -> (Outcome, String) {
    let entry = entry(output, &format!("/vms/0/{key}"));
    (
        entry.outcome,
        entry.target.clone().unwrap_or_else(|| entry.note.clone()),
    )
}

fn hypervisor() -> Value {
    json!({
        "network": {"interfaces": {"name": "vmbr0", "address": "10.0.0.2/24"}},
        "proxmox_storage_ids": {"vm": "tank-disks", "iso": "images"},
        "zfs": {"datasets": [
            {"pool": "tank", "name": "disks", "proxmox_storage_type": "zfspool", "proxmox_content_type": "images"},
            {"pool": "tank", "name": "files", "proxmox_storage_type": "dir", "proxmox_content_type": "images"},
        ]},
    })
}

#[test]
fn own_values_count_before_vm_defaults() {
    let defaults = json!({
        "cores": 2, "sockets": 1, "cpu_type": "host", "memory_mb": 4096, "machine": "q35", "bios": "ovmf",
        "disk_size_gb": 20, "storage_pool": "tank", "network_bridge": "vmbr0", "template": "noble.qcow2",
    });
    let own = json!({
        "vmid": 301, "name": "own", "cores": 8, "sockets": 2, "cpu_type": "x86-64-v2-AES", "memory_mb": "16384",
        "machine": "pc", "bios": "seabios", "disk_size_gb": 64, "storage_pool": "other", "network_bridge": "vmbr1",
        "template_image": "jammy.img",
    });
    let output = file(json!({"vm_defaults": defaults, "vms": [{"vmid": 300, "name": "one", "memory_mb": null}, own]}));
    let one = spec(&output);
    assert_eq!(one["cpu"], json!({"cores": 2, "sockets": 1, "type": "host"}));
    assert_eq!(
        (&one["memory"], &one["machine"], &one["bios"]),
        (&json!("4Gi"), &json!("q35"), &json!("ovmf"))
    );
    assert_eq!(
        one["disks"],
        json!([{"name": "root", "storage": "tank", "size": "20Gi"}])
    );
    assert_eq!(one["network"], json!([{"name": "net0", "bridge": "vmbr0"}]));
    assert_eq!(
        one["source"],
        json!({"cloudImage": {"volid": "local:import/noble.qcow2"}})
    );
    assert_eq!(one["agent"], json!({"enabled": true}));
    let own = manifest(&output, "phoenixvm-own.yaml")["spec"].clone();
    assert_eq!(own["cpu"], json!({"cores": 8, "sockets": 2, "type": "x86-64-v2-AES"}));
    assert_eq!(
        own["disks"],
        json!([{"name": "root", "storage": "other", "size": "64Gi"}])
    );
    assert_eq!(own["network"], json!([{"name": "net0", "bridge": "vmbr1"}]));
    assert_eq!(
        own["source"],
        json!({"cloudImage": {"volid": "local:import/jammy.qcow2"}})
    );
    for key in ["cores", "disk_size_gb", "storage_pool", "network_bridge", "template"] {
        let target = entry(&output, &format!("/vm_defaults/{key}")).target.clone().unwrap();
        assert!(
            target.contains("PhoenixVM/one ") && !target.contains("PhoenixVM/own "),
            "{target}"
        );
    }
    assert_eq!(of(&output, "memory_mb").0, Outcome::Defaulted, "null is not set");
}

#[test]
fn what_no_machine_takes_of_vm_defaults_is_accounted_for() {
    let output = file(json!({
        "vm_defaults": {"template": "ubuntu-24.04-standard", "cores": 2, "odd": 1},
        "vms": [{"vmid": 300, "name": "one", "cores": 1}],
    }));
    let note = |key: &str| entry(&output, &format!("/vm_defaults/{key}")).note.clone();
    assert_eq!(note("cores"), "every machine says it itself");
    assert_eq!(
        note("template"),
        "no disk image, so that no machine can be made from it"
    );
    assert!(note("odd").starts_with("unknown key"));
    let finding = finding(&output, Severity::Warning, "neither clone_from_vmid nor template_image");
    assert!(finding.message.contains("(vm_defaults: \"ubuntu-24.04-standard\")"));
}

#[test]
fn a_template_is_a_proxmox_template() {
    let output = file(json!({"vms": [
        {"vmid": 300, "name": "one", "is_template": true, "template_snapshot_name": "initial", "template_image": "x.img",
         "health_check": "true", "volumes": [{"type": "nfs", "server": "10.0.0.2", "path": "/a", "mount_point": "/a"}]},
        {"vmid": 301, "name": "child", "clone_from_vmid": 300, "template_snapshot_name": "initial"},
    ]}));
    let template = manifest(&output, "phoenixtemplate-one.yaml")["spec"].clone();
    assert_eq!(
        (&template["form"], &template["snapshotName"]),
        (&json!("Template"), &Value::Null)
    );
    assert_eq!(of(&output, "is_template").1, "PhoenixTemplate/one spec.form");
    let (outcome, note) = of(&output, "template_snapshot_name");
    assert_eq!(outcome, Outcome::NotMapped);
    assert!(note.contains("from the Proxmox template itself"), "{note}");
    finding(&output, Severity::Warning, "a template does not run");
    finding(&output, Severity::Warning, "a template mounts nothing");
    let child = manifest(&output, "phoenixvm-child.yaml")["spec"].clone();
    assert_eq!(child["source"], json!({"templateRef": {"name": "one"}}));
    assert_eq!(
        entry(&output, "/vms/1/template_snapshot_name").outcome,
        Outcome::NotMapped
    );
}

#[test]
fn a_snapshot_that_zfs_cannot_copy_becomes_a_template() {
    let vms = json!({"vms": [
        {"vmid": 300, "name": "zfs", "template_image": "x.img", "template_snapshot_name": "s1", "storage_pool": "tank-disks"},
        {"vmid": 301, "name": "default", "template_image": "x.img", "template_snapshot_name": "s1"},
        {"vmid": 302, "name": "files", "template_image": "x.img", "template_snapshot_name": "s1", "storage_pool": "tank-files"},
        {"vmid": 310, "name": "a", "clone_from_vmid": 300},
        {"vmid": 311, "name": "b", "clone_from_vmid": 301},
        {"vmid": 312, "name": "c", "clone_from_vmid": 302},
    ]});
    let output = run(
        &[
            input("h.json", Role::Hypervisor, hypervisor().to_string()),
            input("v.json", Role::Vm, vms.to_string()),
        ],
        &options(),
    );
    for (name, form, snapshot) in [
        ("zfs", "Template", Value::Null),
        ("default", "Template", Value::Null),
        ("files", "Snapshot", json!("s1")),
    ] {
        let spec = manifest(&output, &format!("phoenixtemplate-{name}.yaml"))["spec"].clone();
        assert_eq!(
            (&spec["form"], &spec["snapshotName"]),
            (&json!(form), &snapshot),
            "{name}"
        );
    }
    let told = findings(&output, Severity::Info);
    let told = told
        .iter()
        .filter(|f| f.message.contains("is on ZFS (tank-disks)"))
        .count();
    assert_eq!(told, 2);
}

#[test]
fn containers_and_machines_share_their_ids() {
    let lxc = json!({"lxc_configs": {"300": plain(json!({}))}}).to_string();
    let vms = json!({"vms": [{"vmid": 300, "name": "vm", "template_image": "x.img"}]}).to_string();
    let output = run(
        &[input("l.json", Role::Lxc, lxc), input("v.json", Role::Vm, vms)],
        &options(),
    );
    let finding = finding(
        &output,
        Severity::Error,
        "machine 300: id 300 is taken by container 300",
    );
    assert_eq!((finding.file.as_str(), finding.pointer.as_str()), ("v.json", "/vms/0"));
    assert!(!output.files.contains_key("phoenixvm-vm.yaml"));
}

#[test]
fn images_are_found_by_name_path_and_volume_id() {
    for (image, volid, guessed) in [
        ("noble.img", "local:import/noble.qcow2", true),
        ("noble.qcow2", "local:import/noble.qcow2", true),
        ("/var/lib/vz/template/iso/noble.img", "local:import/noble.qcow2", false),
        ("/mnt/pve/nas/import/noble.raw", "nas:import/noble.raw", false),
        ("nas:import/noble.vmdk", "nas:import/noble.vmdk", false),
        ("/srv/images/noble.img", "local:import/noble.qcow2", true),
    ] {
        let output = machine(json!({"template_image": image}));
        assert_eq!(
            spec(&output)["source"],
            json!({"cloudImage": {"volid": volid}}),
            "{image}"
        );
        let warned = findings(&output, Severity::Warning);
        let warned = warned.iter().any(|f| f.message.contains("names no storage"));
        assert_eq!(warned, guessed, "{image}");
    }
    for image in [
        "ubuntu-24.04-standard",
        "disk.iso",
        "a b.img",
        "https://example.org/noble.img",
        "nas:import/a/b.raw",
    ] {
        let output = machine(json!({"template_image": image}));
        assert_eq!(spec(&output).get("source"), None, "{image}");
        assert_eq!(of(&output, "template_image").0, Outcome::NotMapped);
    }
}

#[test]
fn a_clone_is_as_large_as_its_template() {
    let output = file(json!({"vm_defaults": {"disk_size_gb": 100}, "vms": [
        {"vmid": 300, "name": "base", "is_template": true, "template_image": "x.img"},
        {"vmid": 301, "name": "small", "clone_from_vmid": 300, "disk_size_gb": 20},
        {"vmid": 302, "name": "odd", "template_image": "x.img", "disk_size_gb": "20500M"},
    ]}));
    let small = finding(
        &output,
        Severity::Warning,
        "its disk of 20Gi is smaller than that of its template (100Gi)",
    );
    assert_eq!(small.pointer, "/vms/1/disk_size_gb");
    let odd = manifest(&output, "phoenixvm-odd.yaml")["spec"].clone();
    assert_eq!(odd["disks"][0]["size"], "20500Mi");
}

#[test]
fn interfaces_have_proxmoxs_number() {
    let output = machine(json!({
        "network_config": [
            {"name": "eth0", "bridge": "vmbr0", "ip": "10.0.0.50/24", "gw": "10.0.0.1", "model": "virtio"},
            {"name": "ens19", "bridge": "vmbr1"},
            {"name": "net7", "bridge": "vmbr2"},
            {"bridge": "vmbr3"},
        ],
        "firewall": {"enabled": true, "rules": [
            {"type": "in", "action": "ACCEPT", "proto": "tcp", "port": 22, "iface": "eth0"},
            {"type": "in", "action": "ACCEPT", "proto": "tcp", "port": 80, "iface": "ens19"},
        ]},
    }));
    let spec = spec(&output);
    let names: Vec<_> = spec["network"].as_array().unwrap().iter().map(|n| &n["name"]).collect();
    assert_eq!(names, ["net0", "net1", "net7", "net3"]);
    assert_eq!(spec["firewall"]["rules"][0]["interface"], "net0");
    assert_eq!(spec["firewall"]["rules"][1]["interface"], "net1");
    assert_eq!(spec["network"][0]["firewall"], true);
    assert_eq!(of(&output, "network_config/1/name").0, Outcome::NotMapped);
    assert_eq!(
        spec["cloudInit"],
        json!({}),
        "a static address needs the cloud-init drive"
    );
}

#[test]
fn a_machine_without_addresses_gets_no_cloud_init() {
    assert_eq!(spec(&machine(json!({}))).get("cloudInit"), None);
    assert_eq!(
        spec(&machine(json!({"network_config": "dhcp"})))["cloudInit"],
        json!({})
    );
    assert_eq!(
        spec(&machine(json!({"nameserver": "10.0.0.3"})))["cloudInit"],
        json!({})
    );
}

#[test]
fn user_config_becomes_cloud_init() {
    let output = machine(json!({
        "network_config": {"ip": "10.0.0.50/24"},
        "user_config": {
            "username": "phoenix_user", "password": "topsecret", "ssh_authorized_keys": ["ssh-ed25519 AAAA", "ssh-rsa BBBB"],
            "packages": ["jq", "jq", "not a package"], "package_upgrade": false, "gw": "10.0.0.1", "sudo": "ALL", "uid": 7,
        },
    }));
    let spec = spec(&output);
    assert_eq!(
        spec["cloudInit"],
        json!({
            "user": "phoenix_user",
            "passwordHashSecretRef": {"name": "one-cloud-init", "key": "passwordHash"},
            "sshKeysSecretRef": {"name": "one-cloud-init", "key": "authorizedKeys"},
            "upgrade": false,
            "packages": ["jq"],
        })
    );
    assert_eq!(spec["network"][0]["gateway"], "10.0.0.1", "network_config has none");
    let hash = finding(&output, Severity::Warning, "key \"passwordHash\"");
    assert!(hash.fix.starts_with("make a hash of it (mkpasswd"), "{}", hash.fix);
    assert!(
        hash.fix
            .ends_with("one-cloud-init --from-file=passwordHash=FILE --from-file=authorizedKeys=FILE")
    );
    assert_eq!(of(&output, "user_config/packages/2").0, Outcome::NotMapped);
    assert_eq!(of(&output, "user_config/sudo").0, Outcome::NotMapped);
    assert!(of(&output, "user_config/uid").1.starts_with("unknown key"));
    assert!(!serde_json::to_string(&output.report).unwrap().contains("topsecret"));
}

#[test]
fn a_second_gateway_does_not_count() {
    let network = json!({"ip": "10.0.0.50/24", "gw": "10.0.0.1"});
    let output = machine(json!({"network_config": network, "user_config": {"gw": "10.0.0.1"}}));
    assert_eq!(of(&output, "user_config/gw").0, Outcome::Defaulted);
    let output = machine(json!({"network_config": network, "user_config": {"gw": "10.0.0.9"}}));
    finding(&output, Severity::Warning, "user_config says gateway \"10.0.0.9\"");
    assert_eq!(spec(&output)["network"][0]["gateway"], "10.0.0.1");
    for user in ["Phoenix", "9lives", "a b"] {
        let output = machine(json!({"user_config": {"username": user}}));
        assert_eq!(spec(&output).get("cloudInit"), None, "{user}");
        finding(&output, Severity::Warning, "is not a user name");
    }
}

#[test]
fn nfs_shares_are_mounted_at_the_first_boot() {
    let output = machine(json!({"volumes": [
        {"type": "nfs", "server": "10.0.0.13", "path": "/quickOS/vm-persistent-data/300", "mount_point": "/persistent-storage"},
        {"name": "b", "server": "nas.example.org", "export": "/b", "mount_path": "/mnt/b/", "options": "ro,soft", "read_only": true},
        {"type": "nfs", "server": "10.0.0.13", "path": "/c", "mount_point": "/mnt/b"},
        {"type": "nfs", "server": "10.0.0.13", "path": "relative", "mount_point": "/d"},
        {"name": "data", "size_gb": 10, "mount_point": "/data"},
    ]}));
    let init = spec(&output)["cloudInit"].clone();
    assert_eq!(init["packages"], json!(["nfs-common"]));
    let text = init["userData"].as_str().unwrap();
    assert!(
        phoenix::desired::vm::vendor_data::check_user_data(text).is_ok(),
        "{text}"
    );
    let config: Value = serde_saphyr::from_str(text).unwrap();
    assert_eq!(
        config["mounts"],
        json!([
            [
                "10.0.0.13:/quickOS/vm-persistent-data/300",
                "/persistent-storage",
                "nfs",
                "defaults,nofail,_netdev",
                "0",
                "0"
            ],
            ["nas.example.org:/b", "/mnt/b", "nfs", "ro,soft,ro", "0", "0"],
        ])
    );
    assert_eq!(
        of(&output, "volumes/0/server").1,
        "PhoenixVM/one spec.cloudInit.userData"
    );
    assert_eq!(of(&output, "volumes/1/name").0, Outcome::NotMapped);
    finding(&output, Severity::Warning, "/mnt/b is taken by another share");
    finding(
        &output,
        Severity::Warning,
        "is no NFS share with server, path and mount_point",
    );
    finding(&output, Severity::Warning, "no volumes of containers");
    finding(&output, Severity::Info, "mounted by cloud-init at the first boot");
}

#[test]
fn later_keys_are_accounted_for() {
    let output = machine(json!({
        "docker_stacks": ["portainer_service", {"name": "app", "environment": "production"}],
        "portainer_role": "primary", "portainer_environment_name": "prod", "portainer_agent_port": 9001,
        "swap_mb": 512, "gpu_assignment": "none", "unprivileged": true, "lxc_options": [], "vllm_model": "m",
        "firewall": {"enabled": true, "rules": [{"type": "in", "action": "ACCEPT", "proto": "tcp", "port": "9443"}]},
        "network_config": {"ip": "10.0.0.50/24", "gw": "10.0.0.1", "nameserver": "10.0.0.3", "mac_address": "52:54:00:67:89:A0"},
        "start_at_boot": true, "boot_order": 3, "boot_delay": 10,
    }));
    let spec = spec(&output);
    assert_eq!(
        spec["features"],
        json!([{"name": "portainer", "parameters": {"role": "server"}}])
    );
    assert_eq!(spec["boot"], json!({"autostart": true, "order": 3, "upDelay": 10}));
    assert_eq!(spec["network"][0]["mac"], "52:54:00:67:89:A0");
    assert_eq!(spec["dns"], json!({"nameservers": ["10.0.0.3"]}));
    assert_eq!(spec["firewall"]["rules"][0]["port"], "9443");
    finding(&output, Severity::Warning, "Phoenix deploys no Compose files by itself");
    finding(&output, Severity::Warning, "unprivileged is a key of containers");
    finding(&output, Severity::Warning, "vllm_model is a key of containers");
    for key in [
        "docker_stacks/0",
        "docker_stacks/1/name",
        "portainer_environment_name",
        "swap_mb",
    ] {
        assert_eq!(of(&output, key).0, Outcome::NotMapped, "{key}");
    }
    for key in ["gpu_assignment", "lxc_options"] {
        assert_eq!(of(&output, key).0, Outcome::Defaulted, "{key}");
    }
    assert_eq!(output.report.unknown_keys().count(), 0);
    let gpu = machine(json!({"gpu_assignment": "0"}));
    finding(
        &gpu,
        Severity::Warning,
        "a machine gets a GPU as a PCI device of its own",
    );
}
