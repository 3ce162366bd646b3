//! The hypervisor file: `PhoenixHypervisor` with connection, defaults and id ranges. Its `host` block is in `host`.

use std::collections::BTreeSet;

use crate::crd::{
    Capabilities, Credentials, Defaults, Dns, HostStorage, IdRange, IpAddress, KeyRef, LocalRef, PhoenixHypervisor,
    PhoenixHypervisorSpec, Ssh, Tls, VolumeOwners,
};

use super::facts::Facts;
use super::guests::Guests;
use super::json::{At, Node};
use super::report::Severity;
use super::writer::{NOT_SET, Writer};
use super::{Options, host, secrets, values};

/// Address that stands in for one that the file does not tell.
const NO_ENDPOINT: &str = "https://pve.example.org:8006";
/// Sections whose values only the legacy managers used.
const LEGACY_ONLY: &[(&str, &str)] = &[
    ("version", "version of the legacy file"),
    ("author", "author of the legacy file"),
    ("$schema", "schema of the legacy file"),
    ("core_paths", "a path of the legacy managers"),
    ("docker", "no guest has the Portainer role that uses it"),
    (
        "tests",
        "tests of the legacy managers themselves; a hypervisor has no tests",
    ),
    (
        "behavior",
        "a switch of the legacy managers: Phoenix resumes what it did not finish, and logs by its own arguments",
    ),
];

/// Maps the hypervisor file. `image` is the image of some container, for the owner containers.
pub fn hypervisor<'a>(
    w: &mut Writer,
    root: &At<'a>,
    options: &Options,
    facts: &Facts<'a>,
    guests: &Guests,
    image: Option<String>,
) -> PhoenixHypervisor {
    let name = options.hypervisor_name.as_str();
    for (key, why) in LEGACY_ONLY {
        if let Some(at) = root.get(key) {
            w.skip(&at, why);
        }
    }
    let rollback = root.get("behavior").and_then(|b| b.get("rollback_on_failure"));
    if let Some(at) = rollback.filter(|at| values::boolean(at.node) == Some(false)) {
        w.defaulted(&at, "", "Phoenix takes nothing back: it goes on from where it failed");
    }
    if let Some(at) = root.get("core_paths").and_then(|c| c.get("hf_token_file")) {
        w.skip(
            &at,
            "put the token into a Secret and name it in spec.vllm.tokenSecretRef of the guests that need it",
        );
    }
    let mut defaults = Defaults::default();
    let mut host = host::host(w, root);
    storages(
        w,
        root,
        facts,
        &mut defaults,
        host.storages.as_deref().unwrap_or_default(),
    );
    lxc_defaults(w, root, &mut defaults);
    let timezone = w.text(root, &["timezone"], "host.timezone", values::timezone, "a time zone");
    if let (Some(at), Some(_)) = (root.get("timezone"), &timezone) {
        w.mapped(&at, "defaults.timezone", "");
    }
    rest(w, root);
    defaults.timezone.clone_from(&timezone);
    let network = host::network(w, root, &mut defaults);
    host.timezone = timezone;
    host.network = network;
    shared_volumes(w, root, guests, facts);
    let endpoint = endpoint(w, root, facts);
    let (vmid_range, owners) = ranges(&guests.ids);
    let spec = PhoenixHypervisorSpec {
        endpoints: vec![endpoint],
        vmid_range: Some(vmid_range),
        volume_owners: Some(VolumeOwners {
            id_range: owners,
            image,
            ..VolumeOwners::default()
        }),
        defaults: (defaults != Defaults::default()).then_some(defaults),
        host: (host != crate::crd::Host::default()).then_some(host),
        ..connection(name)
    };
    secrets(w, root, options);
    PhoenixHypervisor::new(name, spec)
}

/// Sections of what Phoenix has in another place, or nowhere.
fn rest(w: &mut Writer, root: &At) {
    if let Some(api) = w.key(root, &["portainer_api"]) {
        for (key, at) in api.entries() {
            match key {
                _ if values::is_unset(at.node) => w.defaulted(&at, "", NOT_SET),
                "admin_user" | "admin_password" | "api_key" => portainer_secret(w, &at, key),
                _ => w.skip(&at, "Portainer asks for its administrator when it is first opened"),
            }
        }
    }
    let known = [
        (
            "domain_name",
            "no field: --routing ingress or gateway writes what serves guests by names below it",
        ),
        (
            "vm_defaults",
            "the cloud image of each machine's template says which Ubuntu it is",
        ),
        (
            "step_ca",
            "no feature makes a certificate authority yet; settings of one stay with its guest",
        ),
    ];
    for (key, why) in known {
        if let Some(at) = w.key(root, &[key]) {
            w.skip(&at, why);
        }
    }
}

/// A secret of Portainer, for which there is a place in a Secret.
fn portainer_secret(w: &mut Writer, at: &At, key: &str) {
    // Its text is not shown.
    if values::text(at.node).is_none() {
        return w.skip_warn(
            at,
            &format!("portainer_api.{key} is no text"),
            "correct it, and convert again",
        );
    }
    let path = format!("stringData.{key}");
    let note = "only its place: Portainer asks for it when it is first opened";
    w.ledger.mapped(at, "Secret/portainer-api", &path, note);
    let fix = "give it to Portainer when it asks for it, and take it out of the file";
    secrets::secret(w, at, "portainer-api", key, true, fix);
}

fn connection(name: &str) -> PhoenixHypervisorSpec {
    let key = |suffix: &str, key: &str| KeyRef {
        name: format!("{name}-{suffix}"),
        key: key.to_owned(),
    };
    PhoenixHypervisorSpec {
        tls: Some(Tls {
            ca_secret_ref: Some(key("ca", "ca.crt")),
            ..Tls::default()
        }),
        credentials: Credentials {
            token_secret_ref: Some(LocalRef {
                name: format!("{name}-token"),
            }),
            root_password_secret_ref: None,
        },
        ssh: Some(Ssh {
            key_secret_ref: key("ssh", "ssh-privatekey"),
            known_hosts_secret_ref: key("ssh", "known_hosts"),
            ..Ssh::default()
        }),
        ..PhoenixHypervisorSpec::default()
    }
}

fn secrets(w: &mut Writer, root: &At, options: &Options) {
    let name = &options.hypervisor_name;
    let namespace = options
        .namespace
        .as_ref()
        .map(|n| format!(" -n {n}"))
        .unwrap_or_default();
    let all = [
        (
            format!("Secret {name}-token holds the API token"),
            format!(
                "kubectl create secret{namespace} generic {name}-token --from-literal=tokenId='USER@REALM!NAME' --from-file=secret=FILE"
            ),
        ),
        (
            format!("Secret {name}-ca holds the certificate authority of Proxmox (/etc/pve/pve-root-ca.pem on a node)"),
            format!("kubectl create secret{namespace} generic {name}-ca --from-file=ca.crt=pve-root-ca.pem"),
        ),
        (
            format!("Secret {name}-ssh holds the private key for SSH to the node and its host keys"),
            format!(
                "kubectl create secret{namespace} generic {name}-ssh --from-file=ssh-privatekey=FILE --from-file=known_hosts=FILE"
            ),
        ),
    ];
    for (message, fix) in all {
        w.ledger.find(
            Severity::Info,
            root,
            format!("{message}; the files do not tell it"),
            fix,
        );
    }
}

fn endpoint(w: &mut Writer, root: &At, facts: &Facts) -> String {
    match &facts.address {
        Some((ip, at)) => {
            w.mapped(at, "endpoints[0]", "");
            format!("https://{ip}:8006")
        }
        None => {
            let message = "no network.interfaces.address: the endpoint is a placeholder";
            w.warn(root, message, "set spec.endpoints to the URL of the Proxmox API");
            NO_ENDPOINT.to_owned()
        }
    }
}

/// Ids for new guests and for owner containers, in blocks that no guest of the files is in.
fn ranges(ids: &BTreeSet<i64>) -> (IdRange, IdRange) {
    let free = |range: &IdRange| ids.range(range.start..=range.end).next().is_none();
    let block = |start: i64, size: i64| IdRange {
        start,
        end: start + size - 1,
    };
    // A block of owners ends each ten thousand, so the two never meet: new guests come from the thousands 1 to 8.
    let guests = (0..)
        .flat_map(|ten: i64| (1..9).map(move |k| block(ten * 10_000 + k * 1000, 1000)))
        .find(free);
    let owners = (0..).map(|ten: i64| block(ten * 10_000 + 9900, 100)).find(free);
    (guests.unwrap_or_default(), owners.unwrap_or_default())
}

fn storages(w: &mut Writer, root: &At, facts: &Facts, defaults: &mut Defaults, made: &[HostStorage]) {
    let ids = root.get("proxmox_storage_ids");
    for (key, at) in ids.iter().flat_map(At::entries) {
        let Some(id) = values::text(at.node).and_then(|t| values::storage_id(&t)) else {
            w.unreadable(&at, "a Proxmox storage id");
            continue;
        };
        let key = key.to_ascii_lowercase();
        let (field, path) = if facts.image_storage.as_ref() == Some(&id) {
            (&mut defaults.image_storage, "defaults.imageStorage")
        } else if key.contains("volume") {
            (&mut defaults.volume_storage, "defaults.volumeStorage")
        } else if key.contains("lxc") {
            (&mut defaults.rootfs_storage, "defaults.rootfsStorage")
        } else if key.contains("vm") {
            (&mut defaults.disk_storage, "defaults.diskStorage")
        } else {
            named(
                w,
                &at,
                &id,
                made,
                "no default is of this sort; guests name their storages themselves",
            );
            continue;
        };
        if field.as_ref().is_none_or(|f| *f == id) {
            w.mapped(&at, path, "");
            *field = Some(id);
        } else {
            named(w, &at, &id, made, "another storage is the default already");
        }
    }
}

/// A storage that is no default: where the node's storages have it, its name stands there.
fn named(w: &mut Writer, at: &At, id: &str, made: &[HostStorage], why: &str) {
    match made.iter().position(|storage| storage.name == id) {
        Some(place) => w.mapped(at, &format!("host.storages[{place}].name"), why),
        None => w.skip(at, why),
    }
}

/// `proxmox_defaults`: what containers get that leave it out.
fn lxc_defaults(w: &mut Writer, root: &At, defaults: &mut Defaults) {
    let Some(section) = w.key(root, &["proxmox_defaults"]) else {
        return;
    };
    if let Some(at) = w.key(&section, &["zfs_lxc_pool"]) {
        let id = values::text(at.node).and_then(|t| values::storage_id(&t));
        match (id, &defaults.rootfs_storage) {
            (None, _) => w.unreadable(&at, "a ZFS dataset"),
            (Some(id), Some(have)) if *have != id => {
                let message = format!("zfs_lxc_pool is {id:?}, proxmox_storage_ids say {have:?}, which counts");
                w.skip_warn(&at, &message, "make them equal");
            }
            (Some(id), _) => {
                defaults.rootfs_storage = Some(id);
                w.mapped(&at, "defaults.rootfsStorage", "the storage of this dataset");
            }
        }
    }
    let Some(lxc) = w.key(&section, &["lxc"]) else { return };
    defaults.cores = w.integer(&lxc, &["cores"], "defaults.cores", 1, 8192);
    let memory = |n: &Node| {
        values::mebibytes(n, 1)
            .filter(|m| (16..=1 << 30).contains(m))
            .map(values::quantity)
    };
    defaults.memory = w.read(
        &lxc,
        &["memory_mb", "memory"],
        "defaults.memory",
        memory,
        "an amount of memory in MB",
    );
    if let Some(at) = w.key(&lxc, &["network_config"]) {
        let text = values::text(at.node).unwrap_or_default();
        let servers: Vec<_> = text
            .split(',')
            .skip(2)
            .filter_map(|t| values::ip(t.trim()))
            .take(8)
            .map(IpAddress)
            .collect();
        if servers.is_empty() {
            w.skip(&at, "an address cannot be a default: every guest has its own");
        } else {
            let note = "the name server; address and gateway cannot be defaults, every guest has its own";
            w.mapped(&at, "defaults.dns.nameservers", note);
            defaults.dns = Some(Dns {
                nameservers: Some(servers),
                ..Dns::default()
            });
        }
    }
    capabilities(w, &lxc, defaults);
    if let Some(at) = w.key(&lxc, &["security"]) {
        match values::text(at.node).as_deref() {
            Some("default") => w.defaulted(&at, "", "Proxmox's own AppArmor profile"),
            _ => w.skip(&at, "AppArmor profiles are given by each guest"),
        }
    }
}

fn capabilities(w: &mut Writer, lxc: &At, defaults: &mut Defaults) {
    let flags = w
        .key(lxc, &["features"])
        .map(|at| w.list(&at, &[',']))
        .unwrap_or_default();
    for item in flags {
        let text = item.text.clone().unwrap_or_default();
        let (key, value) = text.split_once('=').unwrap_or((&text, "1"));
        let on = values::boolean(&Node::String(value.to_owned()));
        let capabilities = defaults.capabilities.get_or_insert_default();
        let field = match key.trim() {
            "nesting" => &mut capabilities.nesting,
            "keyctl" => &mut capabilities.keyctl,
            "fuse" => &mut capabilities.fuse,
            "mknod" => &mut capabilities.mknod,
            _ => {
                w.unreadable(&item.at, "a feature flag such as nesting=1");
                continue;
            }
        };
        match on {
            Some(on) => {
                *field = Some(on);
                w.mapped(&item.at, &format!("defaults.capabilities.{}", key.trim()), "");
            }
            None => w.unreadable(&item.at, "a feature flag such as nesting=1"),
        }
    }
    if let Some(nesting) = w.boolean(lxc, &["nesting"], "defaults.capabilities.nesting") {
        let capabilities = defaults.capabilities.get_or_insert_default();
        if let (Some(have), Some(at)) = (capabilities.nesting.filter(|n| *n != nesting), lxc.get("nesting")) {
            w.ledger.unmap(&at);
            let message = format!("nesting is {nesting}, features say {have}, which counts");
            w.skip_warn(&at, &message, "make them equal");
        } else {
            capabilities.nesting = Some(nesting);
        }
    }
    defaults.capabilities = defaults.capabilities.take().filter(|c| *c != Capabilities::default());
}

/// What of the shared directories no guest has taken.
fn shared_volumes(w: &mut Writer, root: &At, guests: &Guests, facts: &Facts) {
    for section in ["shared_volumes", "shared_zfs_volumes"] {
        for (name, at) in root.get(section).iter().flat_map(At::entries) {
            if host::is_firewall(name, &at) {
                continue;
            }
            for key in ["host_path", "mount_point", "path", "mounts"] {
                if let Some(value) = at.get(key) {
                    w.skip(&value, "no guest mounts it");
                }
            }
            for key in ["pool", "size_gb"] {
                if let Some(value) = at.get(key) {
                    w.skip(&value, "guests mount the directory; its dataset is not made from here");
                }
            }
        }
    }
    for mount in &facts.mounts {
        let guest = values::guest_id(&mount.guest).and_then(|id| guests.find(id));
        if guest.is_none() {
            let message = format!(
                "shared volume {:?} is mounted into {:?}, which is not in the files",
                mount.name, mount.guest
            );
            w.skip_warn(
                &mount.path,
                &message,
                "add the file that holds that guest, or drop the mount",
            );
        }
    }
}
