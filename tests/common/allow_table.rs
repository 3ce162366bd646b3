//! One object for each way in which a tenant reaches beyond its own guest, with the entry of `spec.allow` that lets it.

#![allow(dead_code, reason = "each test uses its part")]

use serde_json::{Value, json};

/// Namespace of the objects that reach out.
pub const TENANT: &str = "tenant";
/// Namespace of the hypervisor.
pub const OWNER: &str = "ai";

/// Mappings that must be there: kind, id, and what it stands for.
pub const MAPPINGS: &[(&str, &str, &str)] = &[
    ("pci", "gpu0", "node=phoenix,path=0000:41:00.0,id=10de:2d04"),
    ("usb", "dongle", "node=phoenix,id=046d:c52b"),
];

const IMAGE: &str = "fastData-shared-iso:vztmpl/ubuntu-24.04-standard_24.04-2_amd64.tar.zst";
const CLOUD_IMAGE: &str = "fastData-shared-iso:import/noble-server-cloudimg-amd64.qcow2";
/// An image for a CD-ROM drive, on a storage that only an entry gives.
pub const ISO: &str = "local:iso/virtio-win.iso";
const URL: &str = "https://images.example/debian-13.tar.zst";
const SUM: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// A way to reach out.
pub struct Row {
    /// Words for people; also the object's name.
    pub name: String,
    /// Entry of `spec.allow`.
    pub entry: &'static str,
    /// Field that the refusal names.
    pub field: String,
    /// What lets the object pass.
    pub allow: Value,
    /// Objects of the hypervisor's namespace that are there before.
    pub before: Vec<Value>,
    /// The object.
    pub object: Value,
}

/// What has to be on the simulated cluster: an image to download, and a guest of nobody's.
pub fn edits() -> Vec<Value> {
    let os = json!({"ostype": "debian", "arch": "amd64", "systemd": 252, "agent": false});
    let file = json!({"size": 1000, "virtual_size": null, "sums": {"sha256": SUM}, "os": os});
    let options = json!({"hostname": "old", "unprivileged": "1", "cores": "1"});
    vec![
        json!({"op": "remote-file", "url": URL, "file": file}),
        json!({"op": "create-guest", "vmid": 200, "options": options, "storage": "quickOS-lxc-disks"}),
    ]
}

/// The same object in the tenant's namespace, on the hypervisor of the owner's.
pub fn tenants(mut object: Value) -> Value {
    object["metadata"]["namespace"] = json!(TENANT);
    object["spec"]["hypervisorRef"] = json!({"name": "pve", "namespace": OWNER});
    object
}

fn object(kind: &str, name: &str, spec: Value) -> Value {
    let mut object = json!({
        "apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": kind,
        "metadata": {"name": name, "namespace": OWNER}, "spec": spec
    });
    object["spec"]["hypervisorRef"] = json!({"name": "pve"});
    object
}

fn container(name: &str, fields: &Value) -> Value {
    let mut spec = json!({"source": {"image": {"volid": IMAGE}}, "rootfs": {"size": "8Gi"}, "memory": "1Gi"});
    lay_over(&mut spec, fields);
    object("PhoenixLXC", name, spec)
}

fn machine(name: &str, fields: &Value) -> Value {
    let mut spec = json!({
        "source": {"cloudImage": {"volid": CLOUD_IMAGE}}, "cpu": {"cores": 2}, "memory": "2Gi",
        "disks": [{"name": "root", "size": "20Gi"}], "agent": {"enabled": false}
    });
    lay_over(&mut spec, fields);
    object("PhoenixVM", name, spec)
}

fn lay_over(spec: &mut Value, fields: &Value) {
    for (key, value) in fields.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
}

/// All rows.
pub fn rows() -> Vec<Row> {
    let storage = "quickOS-shared-prod-data";
    let storages = json!({"storages": [storage]});
    let mut rows = Vec::new();
    let mut lxc = |entry: &'static str, field: &str, fields: Value, allow: Value| {
        let name = format!("lxc-{}-{}", entry.to_lowercase(), rows.len());
        rows.push(Row {
            object: tenants(container(&name, &fields)),
            field: field.into(),
            before: vec![],
            name,
            entry,
            allow,
        });
    };
    lxc(
        "vmids",
        "spec.vmid",
        json!({"vmid": 300}),
        json!({"vmids": [{"start": 300, "end": 309}]}),
    );
    lxc(
        "bridges",
        "spec.network[eth0].bridge",
        json!({"network": [{"name": "eth0", "bridge": "vmbr1", "ip": "dhcp"}]}),
        json!({"bridges": ["vmbr1"]}),
    );
    lxc(
        "vlans",
        "spec.network[eth0].vlan",
        json!({"network": [{"name": "eth0", "vlan": 30, "ip": "dhcp"}]}),
        json!({"vlans": [30]}),
    );
    lxc(
        "pools",
        "spec.pool",
        json!({"pool": "phoenix"}),
        json!({"pools": ["phoenix"]}),
    );
    lxc(
        "storages",
        "spec.rootfs.storage",
        json!({"rootfs": {"size": "8Gi", "storage": storage}}),
        storages.clone(),
    );
    lxc(
        "storages",
        "spec.volumes[a].storage",
        json!({"volumes": [{"name": "a", "size": "1Gi", "mountPath": "/a", "storage": storage, "reclaimPolicy": "Delete"}]}),
        storages.clone(),
    );
    lxc(
        "gpus",
        "spec.gpus[0].index",
        json!({"gpus": [{"index": 0}]}),
        json!({"gpus": [0]}),
    );
    lxc(
        "privileged",
        "spec.unprivileged",
        json!({"unprivileged": false}),
        json!({"privileged": true}),
    );
    lxc(
        "lxcOptions",
        "spec.lxcOptions",
        json!({"lxcOptions": ["lxc.cgroup2.devices.allow = a"]}),
        json!({"lxcOptions": ["lxc.cgroup2.devices.allow"]}),
    );
    lxc(
        "lxcOptions",
        "spec.apparmorProfile",
        json!({"apparmorProfile": "unconfined"}),
        json!({"lxcOptions": ["lxc.apparmor.profile"]}),
    );
    lxc(
        "hostPaths",
        "spec.hostMounts[h].hostPath",
        json!({"hostMounts": [{"name": "h", "hostPath": "/mnt/pve/quickOS/shared-prod-data/ssl", "mountPath": "/ssl"}]}),
        json!({"hostPaths": ["/mnt/pve/quickOS/shared-prod-data"]}),
    );
    lxc(
        "capabilities",
        "spec.capabilities.mknod",
        json!({"capabilities": {"mknod": true}}),
        json!({"capabilities": ["mknod"]}),
    );
    lxc(
        "capabilities",
        "spec.capabilities.mount",
        json!({"capabilities": {"mount": ["nfs"]}}),
        json!({"capabilities": ["mount"]}),
    );
    lxc(
        "imageUrls",
        "spec.source.image.url",
        json!({"source": {"image": {"url": URL, "sha256": SUM}}}),
        json!({"imageUrls": ["https://images.example/"]}),
    );
    lxc(
        "bootOrder",
        "spec.boot.order",
        json!({"boot": {"order": 3}}),
        json!({"bootOrder": true}),
    );
    let mut vm = |entry: &'static str, field: &str, fields: Value, allow: Value| {
        let name = format!("vm-{}-{}", entry.to_lowercase(), rows.len());
        rows.push(Row {
            object: tenants(machine(&name, &fields)),
            field: field.into(),
            before: vec![],
            name,
            entry,
            allow,
        });
    };
    vm(
        "pciMappings",
        "spec.pci[0].mapping",
        json!({"pci": [{"mapping": "gpu0"}]}),
        json!({"pciMappings": ["gpu0"]}),
    );
    vm(
        "usbMappings",
        "spec.usb[0].mapping",
        json!({"usb": [{"mapping": "dongle"}]}),
        json!({"usbMappings": ["dongle"]}),
    );
    vm(
        "hookscripts",
        "spec.hookscript",
        json!({"hookscript": "local:snippets/hook.pl"}),
        json!({"hookscripts": ["local:snippets/hook.pl"]}),
    );
    vm(
        "storages",
        "spec.disks[root].storage",
        json!({"disks": [{"name": "root", "size": "20Gi", "storage": storage}]}),
        storages.clone(),
    );
    vm(
        "storages",
        "spec.source.cloudImage.volid",
        json!({"source": {"cloudImage": {"volid": "local:import/noble-server-cloudimg-amd64.qcow2"}}}),
        json!({"storages": ["local"]}),
    );
    vm(
        "storages",
        "spec.cdroms[ide0].volid",
        json!({"cdroms": [{"slot": "ide0", "volid": ISO}]}),
        json!({"storages": ["local"]}),
    );
    vm(
        "storages",
        "spec.tpm.storage",
        json!({"tpm": {"storage": storage}}),
        storages,
    );
    rows.push(adopting());
    rows.push(cloning());
    rows
}

/// A guest of nobody's is adopted.
fn adopting() -> Row {
    let mut object = object(
        "PhoenixLXC",
        "adopting",
        json!({"cores": 2, "deletionPolicy": "Retain"}),
    );
    object["metadata"]["annotations"] = json!({"phoenix-hypervisor.io/adopt": "200"});
    Row {
        name: "adopting".into(),
        entry: "adopt",
        field: "metadata.annotations[phoenix-hypervisor.io/adopt]".into(),
        allow: json!({"adopt": [200]}),
        before: vec![],
        object: tenants(object),
    }
}

/// A template of the hypervisor's namespace that is root on the node.
fn cloning() -> Row {
    let guest = json!({"source": {"image": {"volid": IMAGE}}, "rootfs": {"size": "8Gi"}, "unprivileged": false,
        "lxcOptions": ["lxc.cgroup2.devices.allow = a"]});
    let source =
        json!({"source": {"templateRef": {"name": "privileged"}}, "application": {"script": "#!/bin/sh\nid\n"}});
    Row {
        name: "cloning".into(),
        entry: "templates",
        field: "spec.source.templateRef.name".into(),
        allow: json!({"templates": ["privileged"]}),
        before: vec![object("PhoenixTemplate", "privileged", json!({"lxc": guest}))],
        object: tenants(container("cloning", &source)),
    }
}
