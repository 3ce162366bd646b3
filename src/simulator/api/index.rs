//! Answers that only list the paths below.

use serde_json::{Value, json};

use super::call::{Answer, Call};
use crate::simulator::model::State;
use crate::simulator::schema;

/// Paths whose list is not simply what the description has below them: key and names.
const LISTS: &[(&str, &str, &str)] = &[
    ("/", "subdir", "version cluster nodes storage access pools"),
    (
        "/access",
        "subdir",
        "users groups roles acl domains openid tfa ticket password",
    ),
    (
        "/cluster",
        "name",
        "acme backup backup-info bulk-action ceph config firewall ha jobs log mapping metrics notifications nextid \
         options qemu replication resources status tasks sdn",
    ),
    (
        "/nodes/{node}",
        "name",
        "aplinfo apt capabilities ceph certificates config disks dns firewall hardware hosts journal lxc migrateall \
         netstat network qemu query-oci-repo-tags query-url-metadata replication report rrd rrddata scan sdn services \
         spiceshell startall status stopall storage subscription suspendall syslog tasks termproxy time version \
         vncshell vzdump wakeonlan",
    ),
    ("/nodes/{node}/capabilities", "name", "qemu"),
    (
        "/nodes/{node}/capabilities/qemu",
        "name",
        "cpu cpu-flags machines migration",
    ),
    ("/nodes/{node}/hardware", "type", "pci usb"),
    ("/nodes/{node}/hardware/pci/{pci-id-or-mapping}", "method", "mdev"),
    ("/nodes/{node}/scan", "method", "cifs iscsi lvm nfs pbs zfs"),
    ("/nodes/{node}/sdn", "name", "fabrics vnets zones"),
    (
        "/nodes/{node}/storage/{storage}",
        "subdir",
        "content download-url file-restore import-metadata identity oci-registry-pull prunebackups rrd rrddata status \
         upload",
    ),
    ("/cluster/jobs", "subdir", "schedule-analyze realm-sync"),
    ("/cluster/mapping", "name", "dir pci usb"),
    ("/cluster/bulk-action", "name", "guest"),
    ("/cluster/bulk-action/guest", "name", "start shutdown migrate suspend"),
    ("/nodes/{node}/tasks/{upid}", "name", "log status"),
    (
        "/nodes/{node}/lxc/{vmid}",
        "subdir",
        "config pending status vncproxy termproxy vncwebsocket spiceproxy migrate clone rrd rrddata firewall snapshot \
         resize interfaces",
    ),
    (
        "/nodes/{node}/lxc/{vmid}/status",
        "subdir",
        "current start stop shutdown reboot migrate",
    ),
    ("/nodes/{node}/lxc/{vmid}/snapshot/{snapname}", "cmd", "rollback config"),
    (
        "/nodes/{node}/qemu/{vmid}",
        "subdir",
        "config cloudinit pending status unlink vncproxy termproxy migrate resize move rrd rrddata monitor agent snapshot \
         spiceproxy sendkey firewall mtunnel remote_migrate",
    ),
    (
        "/nodes/{node}/qemu/{vmid}/status",
        "subdir",
        "current start stop reset shutdown suspend reboot",
    ),
    (
        "/nodes/{node}/qemu/{vmid}/snapshot/{snapname}",
        "cmd",
        "rollback config",
    ),
    (
        "/nodes/{node}/qemu/{vmid}/firewall",
        "name",
        "rules aliases ipset refs options",
    ),
    (
        "/nodes/{node}/qemu/{vmid}/agent",
        "name",
        "exec exec-status file-read file-write fsfreeze-freeze fsfreeze-status fsfreeze-thaw fstrim get-fsinfo \
         get-host-name get-memory-block-info get-memory-blocks get-osinfo get-time get-timezone get-users get-vcpus \
         info network-get-interfaces ping set-user-password shutdown suspend-disk suspend-hybrid suspend-ram",
    ),
    (
        "/nodes/{node}/lxc/{vmid}/firewall",
        "name",
        "rules aliases ipset refs options",
    ),
];

fn rows<'a>(key: &str, names: impl Iterator<Item = &'a str>) -> Vec<Value> {
    names.map(|name| json!({ key: name })).collect()
}

fn answer(_state: &mut State, call: &Call) -> Answer {
    let Some(found) = schema::find(&call.path) else {
        return Ok(Vec::new().into());
    };
    if let Some((_, key, names)) = LISTS.iter().find(|(path, _, _)| *path == found.template) {
        return Ok(rows(key, names.split_whitespace()).into());
    }
    let key = schema::method(found.template, "GET")
        .and_then(|method| method.index.clone())
        .unwrap_or_default();
    let names = schema::children(found.template);
    Ok(rows(&key, names.iter().map(String::as_str)).into())
}

/// The handler, if the path has an index.
pub fn handler(template: &str) -> Option<fn(&mut State, &Call) -> Answer> {
    let listed = LISTS.iter().any(|(path, _, _)| *path == template);
    let described = schema::method(template, "GET").is_some_and(|method| method.index.is_some());
    (listed || described).then_some(answer as fn(&mut State, &Call) -> Answer)
}
