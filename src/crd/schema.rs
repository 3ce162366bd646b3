//! Schema pieces for fields whose values CEL can check: each says in its message what is wrong and how to mend it.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};

macro_rules! string_schema {
    ($(#[$doc:meta])* $name:ident, $max:expr, $rule:expr, $message:expr) => {
        $(#[$doc])*
        pub fn $name(_: &mut SchemaGenerator) -> Schema {
            json_schema!({
                "type": "string",
                "maxLength": $max,
                "x-kubernetes-validations": [{"rule": $rule, "message": $message}]
            })
        }
    };
}

/// Units of a quantity of bytes. What makes no sense for bytes (100m, 1e9, signs) is left out.
macro_rules! units_of_bytes {
    () => {
        "(k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$"
    };
}

/// A quantity may be a number, as everywhere in Kubernetes. Patterns and bounds say it all, since API servers before 1.32
/// price CEL rules of such fields as if their text had no bound.
fn quantity(least: i64, pattern: &str) -> Schema {
    json_schema!({
        "x-kubernetes-int-or-string": true,
        "maxLength": 24,
        "minimum": least,
        "maximum": 999_999_999_999_999_i64,
        "pattern": pattern
    })
}

/// A quantity as text, however it was written.
#[derive(Deserialize)]
#[serde(untagged)]
enum Quantity {
    Number(i64),
    Text(String),
}

/// Reads a quantity that may be left out.
///
/// # Errors
/// It is neither text nor a whole number.
pub fn read_quantity<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let quantity = Option::<Quantity>::deserialize(from)?;
    Ok(quantity.map(|quantity| match quantity {
        Quantity::Number(bytes) => bytes.to_string(),
        Quantity::Text(text) => text,
    }))
}

/// A positive Kubernetes quantity of bytes (`8Gi`, or a number of bytes).
pub fn size(_: &mut SchemaGenerator) -> Schema {
    let positive = concat!(
        "^(0*[1-9][0-9]{0,14}([.][0-9]{1,6})?|0+[.][0-9]{0,5}[1-9][0-9]{0,5})",
        units_of_bytes!()
    );
    quantity(1, positive)
}

/// A quantity of bytes that may be zero (swap).
pub fn size_or_zero(_: &mut SchemaGenerator) -> Schema {
    quantity(0, concat!("^[0-9]{1,15}([.][0-9]{1,6})?", units_of_bytes!()))
}

string_schema!(
    /// `dhcp`, `manual` or an IPv4 address with its prefix length.
    ipv4_or_dhcp, 32,
    // The pattern refuses leading zeros, over which implementations of isCIDR differ.
    "self == 'dhcp' || self == 'manual' || (self.matches('^((0|[1-9][0-9]*)[.]){3}(0|[1-9][0-9]*)/[0-9]+$') && isCIDR(self) && cidr(self).ip().family() == 4)",
    "must be dhcp, manual or an IPv4 address with its prefix length such as 10.0.0.150/24"
);
string_schema!(
    /// `auto`, `dhcp`, `manual` or an IPv6 address with its prefix length.
    ipv6_or_auto, 64,
    "self == 'auto' || self == 'dhcp' || self == 'manual' || (isCIDR(self) && cidr(self).ip().family() == 6)",
    "must be auto, dhcp, manual or an IPv6 address with its prefix length such as fd00::10/64"
);
string_schema!(
    /// An IPv4 address.
    ipv4, 16, "isIP(self) && ip(self).family() == 4", "must be an IPv4 address such as 10.0.0.1"
);
string_schema!(
    /// An IPv6 address.
    ipv6, 48, "isIP(self) && ip(self).family() == 6", "must be an IPv6 address such as fd00::1"
);
string_schema!(
    /// An IP address of either family.
    ip, 48, "isIP(self)", "must be an IP address such as 10.0.0.1"
);
string_schema!(
    /// A unicast MAC address.
    mac, 17,
    "self.matches('^[0-9A-Fa-f][02468ACEace](:[0-9A-Fa-f]{2}){5}$')",
    "must be a unicast MAC address such as BC:24:11:00:00:01 (the second digit is even)"
);
string_schema!(
    /// An absolute path without `..`.
    absolute_path, 256,
    r"self.matches('^/([^/,\\\\\\n]+/)*[^/,\\\\\\n]*$') && !self.matches('(^|/)[.][.]?(/|$)')",
    "must be an absolute path without '.', '..', '//', commas, backslashes or line breaks, such as /models"
);
string_schema!(
    /// A device node of the node (`pve-lxc-dev-string` of Proxmox; '=' would be taken for a property).
    device_path, 256,
    r"self.matches('^/dev/([^/,=\\\\\\n]+/)*[^/,=\\\\\\n]+$') && !self.matches('(^|/)[.][.]?(/|$)')",
    "must be the path of a device node below /dev without '.', '..', '//', commas, '=', backslashes or line breaks, such as /dev/dri/renderD128"
);
string_schema!(
    /// An absolute path that is not `/`, for mount points in a guest.
    mount_path, 256,
    r"self.matches('^/([^/,\\\\\\n]+/)*[^/,\\\\\\n]+/?$') && !self.matches('(^|/)[.][.]?(/|$)')",
    "must be an absolute path below / without '.', '..', '//', commas, backslashes or line breaks, such as /models"
);
string_schema!(
    /// Proxmox's `idmap` of a mount point (facts L.1.8).
    mount_id_map, 512,
    "self.matches('^(passthrough|[ug]:[0-9]{1,10}:[0-9]{1,10}:[1-9][0-9]{0,9}(;[ug]:[0-9]{1,10}:[0-9]{1,10}:[1-9][0-9]{0,9})*)$')",
    "must be passthrough, or entries with the first id in the container, the first outside and how many, such as u:1000:1000:1;g:1000:1000:1"
);
string_schema!(
    /// Name of a systemd service.
    systemd_unit, 255,
    "self.matches('^[A-Za-z0-9:_.@][A-Za-z0-9:_.@-]*[.]service$')",
    "must be the name of a systemd service such as vllm.service"
);
string_schema!(
    /// A file in a guest: an absolute path, or one relative to the script's folder.
    file_path, 256,
    r"self.matches('^[^\\n]*[^/\\n]$') && !self.matches('(^|/)[.][.]?(/|$)')",
    "must be the path of a file, absolute or beside the script, without '.', '..' or line breaks, such as config/app.yaml"
);
string_schema!(
    /// A Proxmox storage id.
    storage_id, 100,
    "self.matches('^[A-Za-z][A-Za-z0-9._-]*[A-Za-z0-9]$')",
    "must be a Proxmox storage id: a letter, then letters, digits, '.', '_' or '-'"
);
string_schema!(
    /// A Proxmox pool.
    pool, 128,
    "self.matches('^[A-Za-z][A-Za-z0-9._/-]*$')",
    "must be the name of a Proxmox pool: a letter, then letters, digits, '.', '_', '/' or '-'"
);
string_schema!(
    /// A resource mapping of the datacenter.
    mapping, 128,
    "self.matches('^[A-Za-z][A-Za-z0-9_-]+$')",
    "must be the name of a resource mapping: a letter, then letters, digits, '_' or '-'"
);
string_schema!(
    /// A Linux bridge name.
    bridge, 16,
    "self.matches('^[a-zA-Z][a-zA-Z0-9_.-]*$')",
    "must be the name of a bridge on the node such as vmbr0"
);
string_schema!(
    /// A network interface name inside the guest.
    interface, 15,
    "self.matches('^[A-Za-z0-9_.-]{1,15}$')",
    "must be an interface name of 1 to 15 letters, digits, '_', '.' or '-' such as eth0"
);
string_schema!(
    /// A DNS host name (labels may be upper-case, as Proxmox allows).
    hostname, 253,
    "self.matches('^([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)([.][A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$')",
    "must be a DNS name: letters, digits and '-' in labels of at most 63 characters"
);
string_schema!(
    /// DNS names with a blank between them.
    search_domain, 253,
    "self.matches('^([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)([. ][A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$')",
    "must be a DNS name, or several with a blank between them: letters, digits and '-' in labels of at most 63 characters"
);
string_schema!(
    /// A Kubernetes object name (RFC 1123 subdomain).
    object_name, 253,
    "self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')",
    "must be the name of a Kubernetes object: lower-case letters, digits, '-' and '.'"
);
string_schema!(
    /// A short name of a list entry (RFC 1123 label, underscores allowed for legacy names).
    entry_name, 63,
    "self.matches('^[a-z0-9]([-a-z0-9_]*[a-z0-9])?$')",
    "must be a name of lower-case letters, digits, '-' and '_'"
);
string_schema!(
    /// Name of a Service's port (RFC 1123 label).
    port_name, 63,
    "self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
    "must be the name of a Service's port such as http: lower-case letters, digits and '-'"
);
string_schema!(
    /// What is spoken over a Service's port.
    app_protocol, 253,
    "self.matches('^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$')",
    "must be the name of a protocol such as http or kubernetes.io/h2c"
);
string_schema!(
    /// A Proxmox snapshot name (facts D.9).
    snapshot_name, 40,
    "self.matches('^[A-Za-z][A-Za-z0-9_-]+$') && !(self in ['current', 'vzdump', 'pending', '__base__'])",
    "must be a Proxmox snapshot name: a letter, then letters, digits, '_' or '-', 2 to 40 in all, not current, vzdump or pending"
);
string_schema!(
    /// A Proxmox tag; upper-case comes back lower-case where the datacenter does not tell them apart (facts K.2.15).
    tag, 64,
    "self.matches('^[A-Za-z0-9_][A-Za-z0-9_.+-]*$')",
    "must be a Proxmox tag: letters, digits, '_', '-', '+' and '.'"
);
string_schema!(
    /// A lower-case SHA-256.
    sha256, 64, "self.matches('^[0-9a-f]{64}$')", "must be a SHA-256 checksum of 64 lower-case hexadecimal digits"
);
string_schema!(
    /// An http or https URL. A pattern and not `isURL`, whose verdict differs between implementations; a user name and
    /// password would end up in Proxmox's task log.
    url, 2048,
    r"self.matches('^https?://([A-Za-z0-9][A-Za-z0-9._-]*|\\[[0-9A-Fa-f:.]+\\])(:[0-9]{1,5})?([/?][!-~]*)?$')",
    "must be an http:// or https:// URL without user name and blanks, such as https://example.org/image.tar.zst"
);
string_schema!(
    /// A URL, or the beginning of URLs: host and path are always told apart.
    url_prefix, 2048,
    r"self.matches('^https?://([A-Za-z0-9][A-Za-z0-9._-]*|\\[[0-9A-Fa-f:.]+\\])(:[0-9]{1,5})?/[!-~]*$')",
    "must be an http:// or https:// URL with a path, such as https://example.org/images/"
);
string_schema!(
    /// The URL of a Proxmox API endpoint.
    endpoint, 253,
    r"self.matches('^https://([A-Za-z0-9][A-Za-z0-9._-]*|\\[[0-9A-Fa-f:.]+\\])(:[0-9]{1,5})?/?$')",
    "must be the https:// URL of a Proxmox API such as https://pve1.example.org:8006"
);
string_schema!(
    /// A PCI address.
    pci_address, 16,
    "self.matches('^([0-9A-Fa-f]{4}:)?[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}([.][0-7])?$')",
    "must be a PCI address such as 0000:01:00.0"
);
string_schema!(
    /// One raw `lxc.` line.
    lxc_option, 1024,
    r"self.matches('^lxc[.][a-z0-9_.-]+ *[=:][^\\n]*$') && !self.matches('^lxc[.](environment[.]runtime|rootfs|uts|net)([.]| |=|:)')",
    "must be one line 'lxc.key = value'; Proxmox writes lxc.net, lxc.rootfs, lxc.uts and lxc.environment.runtime itself"
);
string_schema!(
    /// A Go-style duration in seconds, minutes or hours.
    duration, 16,
    "self.matches('^([0-9]{1,5}(s|m|h))+$') && duration(self) >= duration('1s')",
    "must be a duration of at least one second such as 10s or 5m"
);
string_schema!(
    /// A Proxmox volume id of a container image.
    image_volid, 255,
    "self.matches('^[A-Za-z][A-Za-z0-9._-]*:vztmpl/[^/ ]+$')",
    "must be the volume id of a container image such as local:vztmpl/debian-13-standard_13.1-2_amd64.tar.zst"
);
string_schema!(
    /// A Proxmox volume id of a disk image: disks are made from content import only (facts F.1).
    disk_image_volid, 255,
    "self.matches('^[A-Za-z][A-Za-z0-9._-]*:import/[^/ ]+$')",
    "must be the volume id of a disk image such as local:import/noble-server-cloudimg-amd64.qcow2"
);
string_schema!(
    /// A Proxmox volume id of a guest's volume, bare or in the folder of its guest.
    guest_volid, 255,
    "self.matches('^[A-Za-z][A-Za-z0-9._-]*:([A-Za-z0-9._-]+/)*[a-z]+-[1-9][0-9]{2,8}-[A-Za-z0-9._-]+$')",
    "must be the volume id of a container's volume such as local-zfs:subvol-105-disk-1"
);
string_schema!(
    /// What lies in a CD-ROM drive: a Proxmox volume id of an ISO image, or nothing.
    iso_volid, 255,
    "self == 'none' || self.matches('^[A-Za-z][A-Za-z0-9._-]*:iso/[^/ ,]+[.](iso|ISO|img|IMG)$')",
    "must be the volume id of an ISO image such as local:iso/virtio-win.iso, or none for an empty drive"
);
string_schema!(
    /// The place of a CD-ROM drive.
    cdrom_slot, 8,
    "self.matches('^(ide[0-3]|sata[0-5]|scsi([0-9]|[12][0-9]|30))$')",
    "must be the place of a CD-ROM drive: ide0 to ide3, sata0 to sata5, or scsi0 to scsi30"
);
string_schema!(
    /// A Proxmox volume id of a snippet.
    snippet_volid, 255,
    "self.matches('^[A-Za-z][A-Za-z0-9._-]*:snippets/[^/ ,]+$')",
    "must be the volume id of a snippet such as local:snippets/hook.pl"
);
string_schema!(
    /// A QEMU machine type (Proxmox's own pattern).
    machine_type, 40,
    "self.matches('^(q35|pc|(pc-i440fx|pc-q35)-[0-9]+([.][0-9]+)+([+]pve[0-9]+)?)$')",
    "must be q35, pc, or a version of them such as pc-q35-9.2"
);
string_schema!(
    /// A disk's name: its serial number in the machine, which Proxmox bounds to 20 bytes.
    disk_name, 20,
    "self.matches('^[a-z0-9]([-a-z0-9_]*[a-z0-9])?$')",
    "must be a name of at most 20 lower-case letters, digits, '-' and '_'"
);
string_schema!(
    /// A CPU flag with its sign.
    cpu_flag, 32,
    "self.matches('^[+-](md-clear|pcid|spec-ctrl|ssbd|ibpb|virt-ssbd|amd-ssbd|amd-no-ssb|pdpe1gb|hv-tlbflush|hv-evmcs|aes|nested-virt)$')",
    "must be a CPU flag with a sign such as +aes: md-clear, pcid, spec-ctrl, ssbd, ibpb, virt-ssbd, amd-ssbd, amd-no-ssb, pdpe1gb, hv-tlbflush, hv-evmcs, aes or nested-virt"
);
string_schema!(
    /// A set of cores.
    cpu_set, 128,
    "self.matches('^[0-9]{1,4}(-[0-9]{1,4})?(,[0-9]{1,4}(-[0-9]{1,4})?)*$')",
    "must be a list of cores and ranges of the node such as 0,5,8-11"
);
string_schema!(
    /// A package's name, with a version where one is wanted.
    package_name, 128,
    "self.matches('^[A-Za-z0-9][A-Za-z0-9+._:~=-]*$')",
    "must be the name of a package such as qemu-guest-agent"
);
string_schema!(
    /// A port or a range or list of them, as the Proxmox firewall takes it.
    ports, 128,
    concat!(
        // A number from 1 to 65535, then more of them after ':' or ',', but never two ':' in one range.
        "self.matches('^([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])",
        "([:,]([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))*$')",
        " && !self.matches(':[0-9]+:')"
    ),
    "must be a port from 1 to 65535, a range such as 8000:8010, or a list of them separated by commas"
);
string_schema!(
    /// An environment variable name.
    env_name, 128,
    "self.matches('^[A-Za-z_][A-Za-z0-9_]*$')",
    "must be an environment variable name: letters, digits and '_', not beginning with a digit"
);
string_schema!(
    /// A user of a guest.
    user_name, 32,
    "self.matches('^[A-Za-z_][A-Za-z0-9_.-]*$')",
    "must be the name of a user: letters, digits, '_', '.' and '-', beginning with a letter or '_'"
);
string_schema!(
    /// An octal file mode.
    file_mode, 4, "self.matches('^0[0-7]{3}$')", "must be an octal file mode such as 0644"
);

/// A Proxmox guest id (facts C: 100 to 999,999,999).
pub fn vmid(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "integer", "format": "int64", "minimum": 100, "maximum": 999_999_999})
}

/// Tags of VLANs, each once.
pub fn trunks(_: &mut SchemaGenerator) -> Schema {
    let vlan = json_schema!({"type": "integer", "format": "int64", "minimum": 1, "maximum": 4094});
    json_schema!({"type": "array", "maxItems": 64, "x-kubernetes-list-type": "set", "items": vlan})
}

/// A TCP port.
pub fn port(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "integer", "format": "int64", "minimum": 1, "maximum": 65535})
}

macro_rules! list_schema {
    ($(#[$doc:meta])* $name:ident, $items:ident, $min:expr, $max:expr) => {
        $(#[$doc])*
        pub fn $name(generator: &mut SchemaGenerator) -> Schema {
            json_schema!({"type": "array", "minItems": $min, "maxItems": $max, "items": $items(generator)})
        }
    };
}

list_schema!(
    /// API endpoints.
    endpoints, endpoint, 1, 16
);
list_schema!(
    /// Names.
    entry_names, entry_name, 0, 16
);
/// CPU flags, each once whatever its sign.
pub fn cpu_flags(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "items": cpu_flag(generator),
        "x-kubernetes-validations": [{
            "rule": "self.all(f, self.exists_one(g, g.size() > 0 && f.size() > 0 && g.substring(1) == f.substring(1)))",
            "message": "a flag is given twice: give each once, with one sign"
        }]
    })
}

list_schema!(
    /// Names of packages.
    package_names, package_name, 0, 128
);
/// Names of disks and interfaces, each once.
pub fn boot_order(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "minItems": 1,
        "maxItems": 16,
        "items": disk_name(generator),
        "x-kubernetes-validations": [{
            "rule": "self.all(a, self.exists_one(b, a == b))",
            "message": "a name is given twice: give each once"
        }]
    })
}

list_schema!(
    /// Search domains.
    search_domains, hostname, 0, 6
);
list_schema!(
    /// Absolute paths.
    absolute_paths, absolute_path, 0, 32
);
list_schema!(
    /// Raw `lxc.` lines.
    lxc_options, lxc_option, 0, 64
);
list_schema!(
    /// Guest ids.
    vmids, vmid, 0, 256
);
list_schema!(
    /// Bridges.
    bridges, bridge, 0, 64
);
list_schema!(
    /// Pools.
    pools, pool, 0, 64
);
list_schema!(
    /// Storages.
    storage_ids, storage_id, 0, 64
);
list_schema!(
    /// Resource mappings.
    mappings, mapping, 0, 64
);
list_schema!(
    /// Volume ids of snippets.
    snippet_volids, snippet_volid, 0, 32
);
list_schema!(
    /// Names of objects.
    object_names, object_name, 0, 64
);
list_schema!(
    /// URLs and beginnings of them.
    url_prefixes, url_prefix, 0, 64
);
