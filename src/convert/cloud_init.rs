//! `user_config` of a machine and the NFS shares that it mounts: what cloud-init sets up in it.

use serde_json::json;

use crate::crd::{CloudInit, KeyRef, Network};

use super::guests::Guest;
use super::json::{At, Node};
use super::secrets;
use super::values;
use super::writer::{NOT_SET, Writer};

const USER: &str = "a user name of lower-case letters, digits, '-' and '_'";
const PASSWORD_KEYS: &[&str] = &["password_hash", "password"];
const SSH_KEYS: &[&str] = &["ssh_public_key", "ssh_keys", "ssh_authorized_keys"];

/// Maps `user_config`. Keys and password hashes are not written: they belong into a Secret, which the object names.
/// `addressed` says that cloud-init has addresses or name servers to set up, which asks for its drive.
pub fn cloud_init(
    w: &mut Writer,
    guest: &Guest,
    addressed: bool,
    network: &mut Option<Vec<Network>>,
) -> Option<CloudInit> {
    let mut init = CloudInit::default();
    let config = w.key(&guest.at, &["user_config"]);
    if let Some(at) = &config {
        match at.node {
            Node::Object(_) => user_config(w, guest, at, &mut init, network),
            _ => w.unreadable(at, "an object with username"),
        }
    }
    (init != CloudInit::default() || addressed).then_some(init)
}

fn user_config(w: &mut Writer, guest: &Guest, at: &At, init: &mut CloudInit, network: &mut Option<Vec<Network>>) {
    init.user = w.text(at, &["username", "user"], "cloudInit.user", values::user, USER);
    user_secrets(w, guest, at, init);
    init.upgrade = w.boolean(at, &["upgrade", "package_upgrade"], "cloudInit.upgrade");
    if let Some(list) = w.key(at, &["packages"]) {
        for item in w.list(&list, &[',', ' ']) {
            package(w, &item.at, item.text.as_deref(), init);
        }
    }
    if let Some(gateway) = w.key(at, &["gw", "gateway"]) {
        user_gateway(w, &gateway, network);
    }
    for (key, value) in at.entries() {
        match key {
            "sudo" | "sudo_access" | "groups" | "shell" => {
                w.skip(
                    &value,
                    "the image's own: cloud-init gives the user its sudo rights, groups and shell",
                );
            }
            "ssh_pwauth" => w.skip(&value, "Proxmox's user-data decides: a password allows it"),
            _ => {}
        }
    }
}

fn package(w: &mut Writer, at: &At, text: Option<&str>, init: &mut CloudInit) {
    let Some(name) = text.and_then(values::package) else {
        return w.unreadable(at, "the name of a package");
    };
    let list = init.packages.get_or_insert_default();
    let place = list.iter().position(|p| *p == name).unwrap_or(list.len());
    if place == 128 {
        return w.skip_warn(at, "more than 128 packages", "install the rest in a feature");
    }
    w.mapped(at, &format!("cloudInit.packages[{place}]"), "");
    if place == list.len() {
        list.push(name);
    }
}

/// References to the Secret that holds what the file tells, or should tell.
fn user_secrets(w: &mut Writer, guest: &Guest, at: &At, init: &mut CloudInit) {
    let secret = format!("{}-cloud-init", guest.name);
    let mut found: Vec<(At, &str, &str)> = Vec::new();
    for (names, field, key) in [
        (PASSWORD_KEYS, "passwordHashSecretRef", "passwordHash"),
        (SSH_KEYS, "sshKeysSecretRef", "authorizedKeys"),
    ] {
        let Some(value) = w.key(at, names) else { continue };
        let unset = value.node.is_leaf() && values::text(value.node).is_none_or(|t| t == "NOT_SET");
        if unset {
            w.defaulted(&value, &format!("cloudInit.{field}"), NOT_SET);
        } else {
            found.push((value, field, key));
        }
    }
    let files: Vec<String> = found
        .iter()
        .map(|(_, _, key)| format!("--from-file={key}=FILE"))
        .collect();
    let create = format!("kubectl create secret generic {secret} {}", files.join(" "));
    for (value, field, key) in &found {
        let target = format!("cloudInit.{field}.key");
        w.mapped(value, &target, "only the reference: the value belongs into the Secret");
        let fix = match value.key().as_str() {
            "password" => format!("make a hash of it (mkpasswd --method=sha-512 > FILE), then {create}"),
            _ => create.clone(),
        };
        // A password is no hash, so it is never copied.
        secrets::secret(w, value, &secret, key, value.key() != "password", &fix);
        let reference = Some(KeyRef {
            name: secret.clone(),
            key: (*key).to_owned(),
        });
        match *field {
            "sshKeysSecretRef" => init.ssh_keys_secret_ref = reference,
            _ => init.password_hash_secret_ref = reference,
        }
    }
}

/// A gateway beside the user: it counts where the first interface has an address and no gateway.
fn user_gateway(w: &mut Writer, at: &At, network: &mut Option<Vec<Network>>) {
    let text = values::text(at.node).unwrap_or_default();
    let nic = network.as_mut().and_then(|list| list.first_mut());
    let Some(nic) = nic else {
        return w.skip(at, "there is no interface with an address that it could be for");
    };
    match &nic.gateway {
        Some(gateway) if *gateway == text => w.defaulted(at, "network[0].gateway", "network_config says it already"),
        Some(gateway) => {
            let message = format!("user_config says gateway {text:?}, network_config {gateway}, which counts");
            w.skip_warn(at, &message, "make them equal");
        }
        None => {
            let network = nic.ip.as_deref().and_then(values::cidr4);
            let gateway = text.parse().ok();
            match (network, gateway) {
                (Some((ip, prefix)), Some(gateway)) if values::in_network(ip, prefix, gateway) => {
                    nic.gateway = Some(gateway.to_string());
                    w.mapped(at, "network[0].gateway", "network_config has none");
                }
                _ => w.skip(at, "the first interface has no static address in its network"),
            }
        }
    }
}

/// An NFS share.
struct Share {
    source: String,
    path: String,
    options: String,
}

const SERVER: &[&str] = &["server", "nfs_server", "host"];
const EXPORT: &[&str] = &["path", "export", "share", "remote_path", "source"];
const MOUNT: &[&str] = &["mount_point", "mount_path", "mountpoint"];

/// Maps `volumes`: NFS shares that the machine mounts, written as user-data for its first boot. Other volumes belong to
/// containers.
pub fn volumes(w: &mut Writer, guest: &Guest, template: bool, init: &mut Option<CloudInit>) {
    let Some(list) = w.key(&guest.at, &["volumes"]) else {
        return;
    };
    let entries: Vec<At> = match list.node {
        Node::Array(_) | Node::Object(_) if list.node.is_leaf() => {
            return w.defaulted(&list, "", "an empty list: nothing to write");
        }
        Node::Array(_) => list.items(),
        Node::Object(_) => list.entries().into_iter().map(|(_, at)| at).collect(),
        _ => return w.unreadable(&list, "a list of NFS shares"),
    };
    if template {
        let why = "volumes: a template mounts nothing, or all its clones would";
        return w.skip_warn(&list, why, "give them to the machines that are cloned from it");
    }
    let mut shares: Vec<Share> = Vec::new();
    for at in entries {
        if let Some(share) = share(w, &at, &shares) {
            shares.push(share);
        }
    }
    if shares.is_empty() {
        return;
    }
    let init = init.get_or_insert_default();
    init.user_data = Some(user_data(&shares));
    let packages = init.packages.get_or_insert_default();
    if packages.len() < 128 && !packages.iter().any(|p| p == "nfs-common") {
        packages.push("nfs-common".into());
    }
    let message = "its NFS shares are mounted by cloud-init at the first boot (cloudInit.userData)";
    let fix = "give the hypervisor a defaults.snippetStorage; on a machine that exists already, nothing is changed";
    w.info(&list, message, fix);
}

fn share(w: &mut Writer, at: &At, shares: &[Share]) -> Option<Share> {
    let find = |names: &[&str]| {
        names
            .iter()
            .find_map(|n| at.get(n))
            .filter(|v| !values::is_unset(v.node))
    };
    let text = |at: &Option<At>| at.as_ref().and_then(|at| values::text(at.node));
    let kind = find(&["type"]);
    if text(&kind).is_some_and(|t| !t.eq_ignore_ascii_case("nfs") && !t.eq_ignore_ascii_case("nfs4"))
        || (kind.is_none() && find(SERVER).is_none())
    {
        let message = "volumes: machines have disks and NFS shares, no volumes of containers";
        w.skip_warn(at, message, "add a disk to spec.disks, and mount it in the machine");
        return None;
    }
    let (server, export, mount) = (find(SERVER), find(EXPORT), find(MOUNT));
    let options = find(&["options", "mount_options"]);
    let plain = |text: &str| text.chars().all(|c| c.is_ascii_graphic() && c != '#');
    let host = text(&server).filter(|t| values::hostname(t).is_some());
    let path = |at: &Option<At>| text(at).and_then(|t| values::mount_path(&t)).filter(|t| plain(t));
    let words = match &options {
        Some(at) => values::text(at.node).filter(|t| t.len() <= 200 && plain(t)),
        None => Some("defaults,nofail,_netdev".to_owned()),
    };
    let (Some(host), Some(export_path), Some(path), Some(options_text)) = (host, path(&export), path(&mount), words)
    else {
        let message = format!(
            "volume {} is no NFS share with server, path and mount_point",
            at.node.show()
        );
        w.skip_warn(at, &message, "correct it, or mount it from spec.application");
        return None;
    };
    if shares.iter().any(|s| s.path == path) || shares.len() == 32 {
        let message = format!("volumes: {path} is taken by another share, or there are more than 32");
        w.skip_warn(at, &message, "give it another mount_point");
        return None;
    }
    for value in [&server, &export, &mount, &options, &kind].into_iter().flatten() {
        w.mapped(value, "cloudInit.userData", "");
    }
    if let Some(name) = find(&["name"]) {
        w.skip(&name, "a share is known by its mount_point");
    }
    let read_only = w.boolean(at, &["read_only", "ro"], "cloudInit.userData") == Some(true);
    Some(Share {
        source: format!("{host}:{export_path}"),
        path,
        options: options_text + if read_only { ",ro" } else { "" },
    })
}

/// cloud-config that mounts the shares. It writes /etc/fstab before the package is there, so they are mounted after it.
fn user_data(shares: &[Share]) -> String {
    let mut text = "#cloud-config\nmounts:\n".to_owned();
    for share in shares {
        let line = json!([share.source, share.path, "nfs", share.options, "0", "0"]);
        text.push_str(&format!("- {line}\n"));
    }
    text.push_str("runcmd:\n- [\"mount\", \"-a\", \"-t\", \"nfs,nfs4\"]\n");
    text
}
