//! What lies beyond a guest of one's own, and the entry of `spec.allow` that gives it (docs/security.md).

use crate::crd::AllowedCapability;
use crate::pve::Vmid;

/// Something beyond a guest of one's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// An existing guest.
    Adopt(Vmid),
    /// An id that Phoenix does not choose itself.
    Vmid(Vmid),
    /// A bridge.
    Bridge(String),
    /// A VLAN tag.
    Vlan(i64),
    /// A pool.
    Pool(String),
    /// A storage.
    Storage(String),
    /// A GPU by index.
    Gpu(i64),
    /// A device node that all GPUs share: it comes with any of them.
    SharedGpu(String),
    /// A mapping of PCI devices.
    PciMapping(String),
    /// A mapping of USB devices.
    UsbMapping(String),
    /// A script that the node runs.
    Hookscript(String),
    /// Root of the container is root of the node.
    Privileged,
    /// A raw line: its key and its value.
    LxcOption(String, String),
    /// A directory or device of the node.
    HostPath(String),
    /// A capability that reaches the node's kernel.
    Capability(AllowedCapability),
    /// A file system that the container may mount.
    Mount(String),
    /// An image that a node downloads.
    ImageUrl(String),
    /// A place in the order in which the node starts and stops guests.
    BootOrder(String),
    /// What nobody but the hypervisor's namespace gets, with another way where there is one.
    Nobody(String, &'static str),
}

impl Reach {
    /// A device node of the node's: a GPU, or something else.
    pub fn device(path: String) -> Self {
        let plain =
            |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_/".contains(c));
        match path.strip_prefix("/dev/nvidia") {
            Some(name) if name.bytes().all(|b| b.is_ascii_digit()) && !name.is_empty() => {
                name.parse().map_or_else(|_| Reach::HostPath(path.clone()), Reach::Gpu)
            }
            Some(name) if plain(name) => Reach::SharedGpu(path),
            _ => Reach::HostPath(path),
        }
    }

    /// The id map of a mount, which can give root of the container the rights of the node's root on it, as raw lines can.
    pub fn id_map(map: &str) -> Self {
        Reach::LxcOption("lxc.idmap".into(), map.into())
    }

    /// Name of the entry of `spec.allow`; `None` where there is none.
    pub fn entry(&self) -> Option<&'static str> {
        Some(match self {
            Reach::Adopt(_) => "adopt",
            Reach::Vmid(_) => "vmids",
            Reach::Bridge(_) => "bridges",
            Reach::Vlan(_) => "vlans",
            Reach::Pool(_) => "pools",
            Reach::Storage(_) => "storages",
            Reach::Gpu(_) | Reach::SharedGpu(_) => "gpus",
            Reach::PciMapping(_) => "pciMappings",
            Reach::UsbMapping(_) => "usbMappings",
            Reach::Hookscript(_) => "hookscripts",
            Reach::Privileged => "privileged",
            Reach::LxcOption(..) => "lxcOptions",
            Reach::HostPath(_) => "hostPaths",
            Reach::Capability(_) | Reach::Mount(_) => "capabilities",
            Reach::ImageUrl(_) => "imageUrls",
            Reach::BootOrder(_) => "bootOrder",
            Reach::Nobody(..) => return None,
        })
    }

    /// The value as the spec or Proxmox has it.
    pub fn value(&self) -> String {
        match self {
            Reach::Adopt(id) | Reach::Vmid(id) => id.to_string(),
            Reach::Vlan(id) | Reach::Gpu(id) => id.to_string(),
            Reach::Privileged => "unprivileged: false".into(),
            Reach::LxcOption(key, value) => format!("{key} = {value}"),
            Reach::Capability(AllowedCapability::Mknod) => "mknod".into(),
            Reach::Capability(AllowedCapability::Mount) => "mount".into(),
            Reach::Mount(type_) => format!("mount {type_}"),
            Reach::Bridge(value)
            | Reach::Pool(value)
            | Reach::Storage(value)
            | Reach::PciMapping(value)
            | Reach::UsbMapping(value)
            | Reach::Hookscript(value)
            | Reach::HostPath(value)
            | Reach::SharedGpu(value)
            | Reach::ImageUrl(value)
            | Reach::BootOrder(value)
            | Reach::Nobody(value, _) => value.clone(),
        }
    }

    /// What the owner of the hypervisor would write.
    pub(super) fn fix(&self, hypervisor: &str) -> String {
        let value = match self {
            Reach::Privileged | Reach::BootOrder(_) => {
                let entry = self.entry().unwrap_or_default();
                return format!("set spec.allow.{entry}: true of PhoenixHypervisor {hypervisor}");
            }
            Reach::Nobody(_, other) => {
                return format!("{other}put the object into the namespace of PhoenixHypervisor {hypervisor}");
            }
            Reach::Vmid(id) => format!("{{start: {id}, end: {id}}}"),
            Reach::LxcOption(key, _) => key.clone(),
            Reach::SharedGpu(_) => "the index of a GPU".into(),
            Reach::Mount(_) => "mount".into(),
            other => other.value(),
        };
        let entry = self.entry().unwrap_or_default();
        format!("add {value} to spec.allow.{entry} of PhoenixHypervisor {hypervisor}")
    }
}
