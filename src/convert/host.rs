//! The `host` block of the hypervisor: ZFS, storages, NFS, Samba, users, network, firewall, NVIDIA.

use std::collections::{BTreeMap, BTreeSet};

use crate::crd::{
    Defaults, Dns, FirewallAction, Host, HostDnsRecord, HostDnsServer, HostDnsZone, HostFirewall, HostNetwork,
    HostNvidia, HostStorage, HostUser, IpAddress, NfsExport, SambaShare, Zfs, ZfsDataset, ZfsPool,
};

use super::json::{At, Node};
use super::writer::{NOT_SET, Writer};
use super::{facts, firewall, secrets, values};

/// Maps the sections that concern the node itself.
pub fn host(w: &mut Writer, root: &At) -> Host {
    let (zfs, storages) = zfs(w, root);
    let mut host = Host {
        zfs,
        storages,
        nfs_exports: nfs(w, root),
        users: users(w, root),
        firewall: datacenter_firewall(w, root),
        dns_server: dns_server(w, root),
        nvidia: nvidia(w, root),
        mount_point_base: w.text(
            root,
            &["mount_point_base"],
            "host.mountPointBase",
            values::absolute_path,
            "an absolute path",
        ),
        ..Host::default()
    };
    samba(w, root, &mut host);
    host
}

/// Objects of a list; a single object counts as a list of one.
fn objects<'a>(w: &mut Writer, at: &At<'a>) -> Vec<At<'a>> {
    let items: Vec<At> = match at.node {
        Node::Array(items) if items.is_empty() => {
            w.defaulted(at, "", "an empty list: nothing to write");
            Vec::new()
        }
        Node::Array(_) => at.items(),
        Node::Object(_) => vec![at.clone()],
        _ => Vec::new(),
    };
    let mut out = Vec::new();
    for item in items {
        match item.node {
            _ if out.len() == 64 => w.skip_warn(&item, "more than 64 entries", "write the rest by hand"),
            Node::Object(_) => out.push(item),
            _ => w.unreadable(&item, "an object"),
        }
    }
    out
}

/// A list of texts, which may be written as one text with commas or blanks.
fn texts(
    w: &mut Writer,
    at: &At,
    names: &[&str],
    path: &str,
    check: impl Fn(&str) -> Option<String>,
    most: usize,
) -> Option<Vec<String>> {
    let list = w.key(at, names)?;
    let mut out = Vec::new();
    for item in w.list(&list, &[',', ' ']) {
        match item.text.as_deref().and_then(&check).filter(|_| out.len() < most) {
            Some(text) => {
                w.mapped(&item.at, &format!("{path}[{}]", out.len()), "");
                out.push(text);
            }
            None => w.unreadable(&item.at, "text"),
        }
    }
    Some(out)
}

fn zfs(w: &mut Writer, root: &At) -> (Option<Zfs>, Option<Vec<HostStorage>>) {
    let Some(section) = w.key(root, &["zfs"]) else {
        return (None, None);
    };
    let arc = |n: &Node| {
        values::mebibytes(n, 1024)
            .filter(|m| (1..=1 << 40).contains(m))
            .map(values::quantity)
    };
    let arc_max = w.read(&section, &["arc_max_gb"], "host.zfs.arcMax", arc, "a size in GB");
    let mut pools: Vec<ZfsPool> = Vec::new();
    let list = w
        .key(&section, &["pools"])
        .map(|at| objects(w, &at))
        .unwrap_or_default();
    for at in list.into_iter().take(16) {
        let path = |field: &str| format!("host.zfs.pools[{}].{field}", pools.len());
        let name = at
            .get("name")
            .and_then(|n| values::text(n.node))
            .filter(|n| n.len() <= 128);
        let Some(name) = name.filter(|n| pools.iter().all(|p| p.name != *n)) else {
            w.skip_warn(&at, "a ZFS pool without a name of its own", "give it one");
            continue;
        };
        w.text(&at, &["name"], &path("name"), values::at_most(128), "a name");
        let pool = ZfsPool {
            name,
            raid_level: w.text(
                &at,
                &["raid_level"],
                &path("raidLevel"),
                values::at_most(16),
                "a RAID level",
            ),
            disks: texts(w, &at, &["disks"], &path("disks"), values::at_most(256), 64).unwrap_or_default(),
            wipe: None,
        };
        pools.push(pool);
    }
    let (datasets, storages) = datasets(w, &section, root);
    let zfs = Zfs {
        arc_max,
        pools: (!pools.is_empty()).then_some(pools),
        datasets: (!datasets.is_empty()).then_some(datasets),
    };
    (
        (zfs != Zfs::default()).then_some(zfs),
        (!storages.is_empty()).then_some(storages),
    )
}

fn datasets(w: &mut Writer, section: &At, root: &At) -> (Vec<ZfsDataset>, Vec<HostStorage>) {
    let mut datasets: Vec<ZfsDataset> = Vec::new();
    let mut storages: Vec<HostStorage> = Vec::new();
    let ids: BTreeMap<String, String> = facts::datasets(root)
        .into_iter()
        .map(|(at, id)| (at.pointer, id))
        .collect();
    let list = w
        .key(section, &["datasets"])
        .map(|at| objects(w, &at))
        .unwrap_or_default();
    for at in list {
        let text = |key: &str| {
            at.get(key)
                .and_then(|v| values::text(v.node))
                .filter(|t| t.len() <= 120)
        };
        let (Some(name), Some(pool)) = (text("name"), text("pool")) else {
            w.skip_warn(&at, "a ZFS dataset needs name and pool", "give it both");
            continue;
        };
        let path = |field: &str| format!("host.zfs.datasets[{}].{field}", datasets.len());
        w.text(&at, &["name"], &path("name"), values::at_most(128), "a name");
        w.text(&at, &["pool"], &path("pool"), values::at_most(128), "a pool");
        let properties = properties(w, &at, &path("properties"));
        if let Some(class) = w.key(&at, &["storage_class"]) {
            w.skip(
                &class,
                "a word of the legacy managers: the storage's type and content say what it is for",
            );
        }
        let known = ids
            .get(&at.pointer)
            .filter(|id| storages.iter().all(|s| s.name != **id));
        if let Some(storage) = known.and_then(|id| storage(w, &at, id, &pool, &name, storages.len())) {
            storages.push(storage);
        }
        datasets.push(ZfsDataset { name, pool, properties });
    }
    (datasets, storages)
}

/// ZFS properties: an object, or text such as `compression=lz4,quota=600G`.
fn properties(w: &mut Writer, at: &At, path: &str) -> Option<BTreeMap<String, String>> {
    let at = w.key(at, &["properties"])?;
    let mut out = BTreeMap::new();
    for item in w.list(&at, &[',']) {
        let pair = item.text.as_deref().and_then(|t| t.split_once('='));
        match pair.filter(|(k, v)| !k.trim().is_empty() && v.len() <= 1000 && out.len() < 32) {
            Some((key, value)) => {
                w.mapped(&item.at, path, "");
                out.insert(key.trim().to_owned(), value.trim().to_owned());
            }
            None => w.unreadable(&item.at, "a ZFS property such as compression=lz4"),
        }
    }
    (!out.is_empty()).then_some(out)
}

fn storage(w: &mut Writer, at: &At, id: &str, pool: &str, dataset: &str, place: usize) -> Option<HostStorage> {
    let path = |field: &str| format!("host.storages[{place}].{field}");
    let type_ = w.text(
        at,
        &["proxmox_storage_type"],
        &path("type"),
        values::at_most(32),
        "a storage type",
    )?;
    let directory = type_ == "dir";
    Some(HostStorage {
        name: id.to_owned(),
        content: texts(
            w,
            at,
            &["proxmox_content_type"],
            &path("content"),
            values::at_most(16),
            8,
        ),
        pool: (!directory).then(|| format!("{pool}/{dataset}")),
        // Where ZFS mounts a dataset that says nothing else.
        path: directory
            .then(|| values::absolute_path(&format!("/{pool}/{dataset}")))
            .flatten(),
        type_,
    })
}

fn nfs(w: &mut Writer, root: &At) -> Option<Vec<NfsExport>> {
    let section = w.key(root, &["nfs"])?;
    let mut exports: Vec<NfsExport> = Vec::new();
    for at in w
        .key(&section, &["exports"])
        .map(|at| objects(w, &at))
        .unwrap_or_default()
    {
        let path = |field: &str| format!("host.nfsExports[{}].{field}", exports.len());
        let Some(directory) = w.text(&at, &["path"], &path("path"), values::absolute_path, "an absolute path") else {
            w.skip(&at, "an export needs a path");
            continue;
        };
        let export = NfsExport {
            path: directory,
            clients: texts(w, &at, &["clients"], &path("clients"), values::at_most(128), 32).unwrap_or_default(),
            options: texts(w, &at, &["options"], &path("options"), values::at_most(64), 32),
        };
        exports.push(export);
    }
    (!exports.is_empty()).then_some(exports)
}

fn samba(w: &mut Writer, root: &At, host: &mut Host) {
    let Some(section) = w.key(root, &["samba"]) else { return };
    host.samba_user = w.text(
        &section,
        &["user"],
        "host.sambaUser",
        values::at_most(32),
        "a user name",
    );
    let mut shares: Vec<SambaShare> = Vec::new();
    let mut names = BTreeSet::new();
    for at in w
        .key(&section, &["shares"])
        .map(|at| objects(w, &at))
        .unwrap_or_default()
    {
        let text = |key: &str, max: usize| {
            at.get(key)
                .and_then(|v| values::text(v.node))
                .filter(|t| t.len() <= max)
        };
        let (Some(name), Some(directory)) = (text("name", 80), text("path", 256)) else {
            w.skip_warn(&at, "a Samba share needs name and path", "give it both");
            continue;
        };
        if !names.insert(name.clone()) {
            w.skip_warn(
                &at,
                &format!("two Samba shares are called {name:?}"),
                "give them different names",
            );
            continue;
        }
        let dataset = |(at, _): &(At, String)| {
            let part = |key: &str| at.get(key).and_then(|v| values::text(v.node)).unwrap_or_default();
            let dataset = format!("{}/{}", part("pool"), part("name"));
            directory == dataset || directory.starts_with(&format!("{dataset}/"))
        };
        if !directory.starts_with('/') && !facts::datasets(root).iter().any(dataset) {
            let message = format!("Samba share {name:?}: no dataset {directory:?} is in the file");
            w.warn(&at, &message, "add the dataset, or drop the share");
        }
        let path = |field: &str| format!("host.sambaShares[{}].{field}", shares.len());
        w.text(&at, &["name"], &path("name"), values::at_most(80), "a name");
        w.text(&at, &["path"], &path("path"), values::at_most(256), "a path");
        let share = SambaShare {
            name,
            path: directory,
            options: w.text(&at, &["options"], &path("options"), values::at_most(1024), "options"),
            valid_users: texts(w, &at, &["valid_users"], &path("validUsers"), values::at_most(32), 32),
        };
        shares.push(share);
    }
    host.samba_shares = (!shares.is_empty()).then_some(shares);
}

fn users(w: &mut Writer, root: &At) -> Option<Vec<HostUser>> {
    let section = w.key(root, &["users"])?;
    let mut users: Vec<HostUser> = Vec::new();
    for at in objects(w, &section).into_iter().take(32) {
        let path = |field: &str| format!("host.users[{}].{field}", users.len());
        let name = ["username", "name"]
            .iter()
            .find_map(|k| at.get(k))
            .and_then(|v| values::text(v.node));
        let Some(name) = name.filter(|n| n.len() <= 32 && users.iter().all(|u| u.name != *n)) else {
            w.skip_warn(&at, "a user without a name of its own", "give it a username");
            continue;
        };
        w.text(
            &at,
            &["username", "name"],
            &path("name"),
            values::at_most(32),
            "a user name",
        );
        if let Some(hash) = w.key(&at, &["password_hash", "password"]) {
            password(w, &hash, &name);
        }
        let user = HostUser {
            name,
            sudo: w.boolean(&at, &["sudo_access", "sudo"], &path("sudo")),
            ssh_public_key: w.text(
                &at,
                &["ssh_public_key"],
                &path("sshPublicKey"),
                values::at_most(4096),
                "an SSH public key",
            ),
        };
        users.push(user);
    }
    (!users.is_empty()).then_some(users)
}

/// A password of a user of the node, for which there is a place in a Secret.
fn password(w: &mut Writer, at: &At, user: &str) {
    let text = values::text(at.node);
    if text.is_none_or(|text| text == "NOT_SET") {
        return w.defaulted(at, "", NOT_SET);
    }
    let name = w.object.rsplit('/').next().unwrap_or_default();
    let (secret, Some(key)) = (format!("{name}-users"), values::user(user)) else {
        return w.skip(at, "a secret: set the password on the node");
    };
    let note = "only its place: set the password on the node, since host.users has no field for it";
    w.ledger
        .mapped(at, &format!("Secret/{secret}"), &format!("stringData.{key}"), note);
    secrets::secret(
        w,
        at,
        &secret,
        &key,
        true,
        "set the password on the node (passwd), and take it out of the file",
    );
}

/// `network`: the bridge of the node. Bridge and name servers are also what guests get.
pub fn network(w: &mut Writer, root: &At, defaults: &mut Defaults) -> Option<HostNetwork> {
    let section = w.key(root, &["network"])?;
    let known = [
        (
            "external_registry_url",
            "no field: images name their registry themselves",
        ),
        (
            "portainer_server_ip",
            "the guest with portainer_role server has an address of its own",
        ),
        ("macvlan_vlan_tag", "the network entries of the guests have their VLANs"),
        ("public_vlan_tag", "the network entries of the guests have their VLANs"),
    ];
    for (key, why) in known {
        if let Some(at) = section.get(key) {
            w.skip(&at, why);
        }
    }
    let own = |key: &str, port: &str| {
        section
            .get(key)
            .filter(|at| values::text(at.node).as_deref() == Some(port))
    };
    for (key, port) in [("portainer_server_port", "9443"), ("portainer_agent_port", "9001")] {
        match (section.get(key), own(key, port)) {
            (_, Some(at)) => w.defaulted(&at, "", "the feature portainer's own port"),
            (Some(at), None) => w.skip(&at, "the feature portainer has a port of its own"),
            (None, None) => {}
        }
    }
    if let Some(at) = w.key(&section, &["default_subnet"]) {
        w.defaulted(&at, "", "addresses without prefix length are read with it");
    }
    if let Some(at) = w.key(&section, &["nfs_server"]) {
        let node = section
            .get("interfaces")
            .and_then(|i| i.get("address"))
            .and_then(|a| values::text(a.node));
        let same = node.as_deref().and_then(|a| a.split('/').next()) == values::text(at.node).as_deref();
        match same {
            true => w.defaulted(&at, "host.nfsExports", "the node itself, which exports them"),
            false => w.skip(
                &at,
                "no field: another machine exports, and guests name it in their volumes",
            ),
        }
    }
    if let Some(at) = w.key(&section, &["internal_bridge"]) {
        let message = format!("internal_bridge {}: Phoenix makes no second bridge", at.node.show());
        w.skip_warn(
            &at,
            &message,
            "make it on the node (System > Network > Create > Linux Bridge), with its subnet",
        );
    }
    let list = section.get("interfaces")?;
    let at = objects(w, &list).into_iter().next()?;
    let bridge = w.text(
        &at,
        &["name"],
        "host.network.bridge",
        values::bridge,
        "a bridge name such as vmbr0",
    )?;
    if let Some(at) = at.get("name") {
        w.mapped(&at, "defaults.bridge", "");
    }
    defaults.bridge = Some(bridge.clone());
    let cidr = |t: &str| (values::cidr4(t).is_some() || values::cidr6(t).is_some()).then(|| t.to_owned());
    let servers = texts(
        w,
        &at,
        &["dns_nameservers", "nameservers"],
        "host.network.nameservers",
        values::ip,
        8,
    );
    let addresses: Vec<IpAddress> = servers.unwrap_or_default().into_iter().map(IpAddress).collect();
    if let (Some(at), false) = (at.get("dns_nameservers"), addresses.is_empty()) {
        w.mapped(&at, "defaults.dns.nameservers", "");
        let dns = defaults.dns.get_or_insert_with(Dns::default);
        dns.nameservers = Some(addresses.clone());
    }
    if let Some(at) = w.key(&section, &["public_bridge"]) {
        match values::text(at.node).as_deref() == Some(&bridge) {
            true => w.defaulted(&at, "host.network.bridge", "the node's bridge"),
            false => w.skip(&at, "guests name the bridges of their network entries"),
        }
    }
    if let Some(at) = w.key(&section, &["fallback_dns"]) {
        match values::text(at.node).is_some_and(|ip| addresses.iter().any(|a| a.0 == ip)) {
            true => w.defaulted(&at, "host.network.nameservers", "one of the name servers"),
            false => w.skip(&at, "the name servers of the node are those of its interface"),
        }
    }
    Some(HostNetwork {
        bridge,
        address: w.text(
            &at,
            &["address", "ip"],
            "host.network.address",
            cidr,
            "an address with prefix length",
        ),
        gateway: w.text(
            &at,
            &["gateway", "gw"],
            "host.network.gateway",
            values::ip,
            "an IP address",
        ),
        nameservers: (!addresses.is_empty()).then_some(addresses),
    })
}

/// Whether an entry of `shared_volumes` is the firewall section, which some files have there.
pub fn is_firewall(name: &str, at: &At) -> bool {
    name == "firewall" && at.get("mounts").is_none() && at.get("host_path").is_none()
}

fn datacenter_firewall(w: &mut Writer, root: &At) -> Option<HostFirewall> {
    let misplaced = root
        .get("shared_volumes")
        .and_then(|s| s.get("firewall"))
        .filter(|at| is_firewall("firewall", at));
    let at = w.key(root, &["firewall"]).or_else(|| misplaced.clone())?;
    if misplaced.is_some_and(|m| m.pointer == at.pointer) {
        let message = "firewall stands below shared_volumes; it is taken for the firewall of the datacenter";
        w.warn(&at, message, "move it to the top of the file");
    }
    let action = |w: &mut Writer, key: &str, path: &str| {
        let read = |node: &Node| match values::text(node)?.to_ascii_uppercase().as_str() {
            "ACCEPT" => Some(FirewallAction::Accept),
            "DROP" => Some(FirewallAction::Drop),
            "REJECT" => Some(FirewallAction::Reject),
            _ => None,
        };
        w.read(&at, &[key], path, read, "ACCEPT, DROP or REJECT")
    };
    let firewall = HostFirewall {
        enabled: w.boolean(&at, &["enabled"], "host.firewall.enabled"),
        inbound_policy: action(w, "default_input_policy", "host.firewall.inboundPolicy"),
        outbound_policy: action(w, "default_output_policy", "host.firewall.outboundPolicy"),
        rules: firewall::rules(w, &at, &["global_firewall_rules", "rules"], "host.firewall.rules", 256),
    };
    (firewall != HostFirewall::default()).then_some(firewall)
}

fn dns_server(w: &mut Writer, root: &At) -> Option<HostDnsServer> {
    let at = w.key(root, &["dns_server"])?;
    let upstreams = texts(w, &at, &["upstream_servers"], "host.dnsServer.upstreams", values::ip, 8);
    let upstreams: Vec<IpAddress> = upstreams.unwrap_or_default().into_iter().map(IpAddress).collect();
    let mut zones: Vec<HostDnsZone> = Vec::new();
    let list = w.key(&at, &["authoritative_zones", "zones"]);
    for zone in list.map(|at| objects(w, &at)).unwrap_or_default() {
        let path = format!("host.dnsServer.zones[{}]", zones.len());
        let name = values::at_most(253);
        match w.text(
            &zone,
            &["zone_name", "name"],
            &format!("{path}.name"),
            name,
            "the name of a zone",
        ) {
            Some(name) if zones.iter().all(|z| z.name != name) => {
                let records = dns_records(w, &zone, &path);
                zones.push(HostDnsZone { name, records });
            }
            _ => w.skip_warn(&zone, "a DNS zone without a name of its own", "give it a zone_name"),
        }
    }
    let server = HostDnsServer {
        enabled: w.boolean(&at, &["enabled"], "host.dnsServer.enabled"),
        upstreams: (!upstreams.is_empty()).then_some(upstreams),
        zones: (!zones.is_empty()).then_some(zones),
    };
    (server != HostDnsServer::default()).then_some(server)
}

/// Each address of a host is a record: some files tell an internal and an external one.
fn dns_records(w: &mut Writer, zone: &At, path: &str) -> Option<Vec<HostDnsRecord>> {
    let list = w.key(zone, &["records"])?;
    let mut records: Vec<HostDnsRecord> = Vec::new();
    for at in objects(w, &list) {
        let name = ["hostname", "name"].iter().find_map(|k| at.get(k));
        let read = |at: &At| values::text(at.node).and_then(|t| values::at_most(253)(&t));
        let Some((name_at, name)) = name.and_then(|at| Some((at.clone(), read(&at)?))) else {
            w.skip_warn(&at, "a DNS record without hostname", "give it one");
            continue;
        };
        let before = records.len();
        for key in ["ip_internal", "ip_external", "ip", "address"] {
            let field = format!("{path}.records[{}]", records.len());
            if let Some(ip) = w.text(&at, &[key], &format!("{field}.address"), values::ip, "an IP address") {
                w.mapped(&name_at, &format!("{field}.name"), "");
                let (name, address) = (name.clone(), IpAddress(ip));
                records.push(HostDnsRecord { name, address });
            }
        }
        if records.len() == before {
            w.skip_warn(&at, "a DNS record without an address", "give it an ip_internal");
        }
    }
    (!records.is_empty()).then_some(records)
}

fn nvidia(w: &mut Writer, root: &At) -> Option<HostNvidia> {
    let at = w.key(root, &["nvidia_driver"])?;
    if let Some(libs) = at.get("install_vllm_libs") {
        w.defaulted(
            &libs,
            "",
            "the feature vllm brings its libraries into the guests; the node needs none",
        );
    }
    let nvidia = HostNvidia {
        install: w.boolean(&at, &["install"], "host.nvidia.install"),
        version: w.text(
            &at,
            &["version"],
            "host.nvidia.version",
            values::at_most(32),
            "a driver version",
        ),
        runfile_url: w.text(&at, &["runfile_url"], "host.nvidia.runfileUrl", values::url, "a URL"),
        cuda_version: w.text(
            &at,
            &["cuda_version"],
            "host.nvidia.cudaVersion",
            values::at_most(32),
            "a CUDA version",
        ),
    };
    (nvidia != HostNvidia::default()).then_some(nvidia)
}
