//! What walks begin with, and values beside those of the leaf walks.

use serde_json::{Value, json};

use crate::leaves::{lxc, vm};

/// A manifest that walks begin with.
#[derive(Clone, Copy)]
pub struct Base {
    pub kind: &'static str,
    pub container: bool,
    pub template: Option<&'static str>,
    pub doc: fn() -> Value,
}

/// Half of the walks are containers'.
pub const BASES: &[Base] = &[
    Base {
        kind: "PhoenixLXC",
        container: true,
        template: None,
        doc: small_container,
    },
    Base {
        kind: "PhoenixLXC",
        container: true,
        template: None,
        doc: rich_container,
    },
    Base {
        kind: "PhoenixLXC",
        container: true,
        template: None,
        doc: rich_container_that_restarts,
    },
    Base {
        kind: "PhoenixLXC",
        container: true,
        template: Some("Template"),
        doc: clone,
    },
    Base {
        kind: "PhoenixVM",
        container: false,
        template: None,
        doc: small_machine,
    },
    Base {
        kind: "PhoenixVM",
        container: false,
        template: None,
        doc: rich_machine,
    },
    Base {
        kind: "PhoenixTemplate",
        container: true,
        template: None,
        doc: container_template,
    },
    Base {
        kind: "PhoenixTemplate",
        container: false,
        template: None,
        doc: machine_template,
    },
];

/// A document: the spec, and what is around it.
fn doc(mut spec: Value) -> Value {
    spec["hypervisorRef"] = json!({"name": "pve"});
    json!({
        "spec": spec,
        "defaults": {"rootfsStorage": "quickOS-lxc-disks", "volumeStorage": "fastData-shared-bulk-data",
            "diskStorage": "quickOS-vm-disks", "bridge": "vmbr0", "node": "phoenix"},
        "feature": {"install": "#!/bin/sh\necho installing first\n", "targets": ["lxc", "vm"], "parameters": [{"name": "key"}]},
    })
}

fn small_container() -> Value {
    let mut spec = lxc::base();
    spec["network"] = json!([{"name": "eth0", "ip": "@IP/24", "gateway": "10.20.0.1"}]);
    doc(spec)
}

fn rich_container() -> Value {
    let mut spec = lxc::base();
    spec["powerState"] = json!("Running");
    spec["network"] = json!([{"name": "eth0", "ip": "@IP/24"}, {"name": "eth1", "bridge": "vmbr1", "ip": "dhcp"}]);
    spec["volumes"] = json!([
        {"name": "data", "size": "1Gi", "mountPath": "/data", "reclaimPolicy": "Delete"},
        {"name": "kept", "size": "1Gi", "mountPath": "/kept"},
    ]);
    spec["features"] = json!([{"name": "first"}]);
    spec["tags"] = json!(["one", "two"]);
    spec["application"] = json!({"script": "#!/bin/sh\necho one\n"});
    doc(spec)
}

fn rich_container_that_restarts() -> Value {
    let mut rich = rich_container();
    rich["spec"]["updatePolicy"] = json!({"restart": "Automatic"});
    rich
}

fn clone() -> Value {
    let mut rich = rich_container();
    rich["spec"]["source"] = json!({"templateRef": {"name": "base"}});
    rich
}

fn small_machine() -> Value {
    let mut spec = vm::base();
    spec["network"] = json!([{"name": "net0", "ip": "@IP/24", "gateway": "10.20.0.1"}]);
    doc(spec)
}

fn rich_machine() -> Value {
    let mut machine = small_machine();
    let spec = &mut machine["spec"];
    spec["powerState"] = json!("Running");
    spec["disks"] = json!([{"name": "root", "size": "20Gi"}, {"name": "data", "size": "1Gi"}]);
    spec["tags"] = json!(["one", "two"]);
    spec["tests"] = json!([{"name": "works", "script": "#!/bin/sh\ntrue\n"}]);
    machine
}

fn template(wing: &str, mut guest: Value) -> Value {
    guest["powerState"].take();
    guest.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    doc(json!({"form": "Template", (wing): guest}))
}

fn container_template() -> Value {
    let mut guest = small_container()["spec"].take();
    guest["hypervisorRef"].take();
    guest["features"] = json!([{"name": "first"}]);
    template("lxc", guest)
}

fn machine_template() -> Value {
    let mut guest = small_machine()["spec"].take();
    guest["hypervisorRef"].take();
    template("vm", guest)
}

/// Entries of lists: the list, whether containers have it so, and the entry.
pub const ENTRIES: &[(&str, bool, &str)] = &[
    ("network", true, r#"{"name": "eth1", "bridge": "vmbr1"}"#),
    ("network", true, r#"{"name": "eth2", "ip": "dhcp", "firewall": true}"#),
    ("network", false, r#"{"name": "net1", "bridge": "vmbr1"}"#),
    ("network", false, r#"{"name": "net2", "ip": "dhcp", "firewall": true}"#),
    (
        "volumes",
        true,
        r#"{"name": "more", "size": "1Gi", "mountPath": "/more"}"#,
    ),
    (
        "volumes",
        true,
        r#"{"name": "more", "size": "1Gi", "mountPath": "/elsewhere"}"#,
    ),
    (
        "volumes",
        true,
        r#"{"name": "cache", "size": "512Mi", "mountPath": "/cache", "reclaimPolicy": "Delete"}"#,
    ),
    (
        "volumes",
        true,
        r#"{"name": "data", "size": "2Gi", "mountPath": "/data", "reclaimPolicy": "Delete"}"#,
    ),
    (
        "volumes",
        true,
        r#"{"name": "kept", "size": "2Gi", "mountPath": "/kept"}"#,
    ),
    (
        "volumes",
        true,
        r#"{"name": "lent", "volid": "fastData-shared-bulk-data:subvol-777-disk-0", "mountPath": "/lent"}"#,
    ),
    (
        "hostMounts",
        true,
        r#"{"name": "etc", "hostPath": "/etc", "mountPath": "/host"}"#,
    ),
    ("gpus", true, r#"{"index": 0}"#),
    ("gpus", true, r#"{"index": 1}"#),
    ("devices", true, r#"{"path": "/dev/kfd"}"#),
    ("devices", true, r#"{"path": "/dev/uinput", "mode": "0600"}"#),
    ("lxcOptions", true, r#""lxc.cgroup2.devices.allow = c 10:200 rwm""#),
    (
        "lxcOptions",
        true,
        r#""lxc.mount.entry = /dev/net/tun dev/net/tun none bind,create=file""#,
    ),
    ("disks", false, r#"{"name": "data", "size": "2Gi"}"#),
    ("disks", false, r#"{"name": "more", "size": "1Gi", "bus": "sata"}"#),
    ("disks", false, r#"{"name": "more", "size": "2Gi", "discard": true}"#),
    ("cdroms", false, r#"{"slot": "ide0", "volid": "local:iso/one.iso"}"#),
    ("cdroms", false, r#"{"slot": "sata5", "volid": "none"}"#),
    ("usb", false, r#"{"mapping": "stick0"}"#),
    ("usb", false, r#"{"host": "1-2"}"#),
    ("pci", false, r#"{"mapping": "gpu0"}"#),
    ("bootOrder", false, r#""root""#),
    ("bootOrder", false, r#""net0""#),
    ("features", true, r#"{"name": "first"}"#),
    ("features", true, r#"{"name": "second"}"#),
    ("features", false, r#"{"name": "second"}"#),
    ("tests", true, r##"{"name": "two", "script": "#!/bin/sh\necho two\n"}"##),
    (
        "tests",
        false,
        r##"{"name": "two", "script": "#!/bin/sh\necho two\n"}"##,
    ),
    ("tags", true, r#""three""#),
    ("tags", false, r#""three""#),
];

/// Names of what is not there, by the end of a leaf's path.
pub const NAMELESS: &[(&str, &str)] = &[
    (".bridge", "vmbr9"),
    (".storage", "nowhere"),
    ("Storage", "nowhere"),
    (".node", "nobody"),
    (".pool", "nothing"),
    ("features[].name", "absent"),
    ("scriptFrom.name", "absent"),
    ("scriptFrom.key", "absent"),
    ("SecretRef.name", "absent"),
    ("gpus[].index", "7"),
    ("devices[].path", "/dev/absent"),
    ("hostMounts[].hostPath", "/absent"),
    ("hookscript", "local:snippets/absent.pl"),
    ("volumes[].volid", "fastData-shared-bulk-data:subvol-777-disk-9"),
    ("cdroms[].volid", "local:iso/absent.iso"),
    ("pci[].mapping", "absent"),
    ("usb[].mapping", "absent"),
    ("rootfs.size", "16Gi"),
    ("rootfs.size", "8Gi"),
    ("volumes[].size", "3Gi"),
    ("disks[].size", "3Gi"),
    (".memory", "1536Mi"),
    ("application.script", "#!/bin/sh\n# simulate: exit=3 output=no\n"),
];
