//! Hardware of a virtual machine: processors, firmware, disks, display, devices passed through.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;

use super::schema;

/// Processors of a virtual machine.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "!has(self.flags) || has(self.type)", "message": "flags change a CPU type: give type too"},
    {"rule": "!has(self.hidden) || has(self.type)", "message": "hidden belongs to a CPU type: give type too"}
]))]
pub struct VmCpu {
    /// CPU type such as host or x86-64-v2-AES.
    #[serde(rename = "type")]
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[A-Za-z0-9._-]+$"))]
    pub type_: Option<String>,
    /// Sockets.
    #[schemars(range(min = 1, max = 16))]
    pub sockets: Option<i64>,
    /// Cores of each socket.
    #[schemars(range(min = 1, max = 512))]
    pub cores: Option<i64>,
    /// CPU flags, each turned on or off by its sign, such as +aes or -pcid.
    #[serde(default)]
    #[schemars(schema_with = "schema::cpu_flags")]
    pub flags: Option<Vec<String>>,
    /// Hide from the machine that it is virtual, as some GPU drivers require. Needs type.
    pub hidden: Option<bool>,
    /// Whether the machine sees NUMA nodes.
    pub numa: Option<bool>,
    /// Cores of the node that the machine runs on, such as 0,5,8-11. Needs root@pam or SSH.
    #[serde(default)]
    #[schemars(schema_with = "schema::cpu_set")]
    pub affinity: Option<String>,
    /// CPU time limit, in cores; 0 is no limit.
    #[schemars(range(min = 0, max = 128))]
    pub limit: Option<i64>,
    /// CPU weight against other guests.
    #[schemars(range(min = 1, max = 10_000))]
    pub units: Option<i64>,
}

/// Size of huge pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Hugepages {
    /// The largest that fits.
    #[default]
    #[serde(rename = "any")]
    Any,
    /// 2 MiB.
    #[serde(rename = "2Mi")]
    TwoMi,
    /// 1 GiB.
    #[serde(rename = "1Gi")]
    OneGi,
}

impl Hugepages {
    /// Proxmox's word: MiB.
    pub fn as_str(self) -> &'static str {
        match self {
            Hugepages::Any => "any",
            Hugepages::TwoMi => "2",
            Hugepages::OneGi => "1024",
        }
    }
}

/// An IOMMU of a machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Viommu {
    /// Intel's IOMMU.
    Intel,
    /// VirtIO.
    #[default]
    Virtio,
}

impl Viommu {
    /// Proxmox's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Viommu::Intel => "intel",
            Viommu::Virtio => "virtio",
        }
    }
}

/// Firmware of a virtual machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum VmBios {
    /// Legacy BIOS.
    #[default]
    Seabios,
    /// UEFI.
    Ovmf,
}

/// The EFI disk.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EfiDisk {
    /// Storage. Absent: the storage of the first disk.
    #[serde(default)]
    #[schemars(schema_with = "schema::storage_id")]
    pub storage: Option<String>,
    /// Enrol the distributions' and Microsoft's keys, for Secure Boot. Default: false.
    pub pre_enrolled_keys: Option<bool>,
}

/// A TPM.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tpm {
    /// Storage. Absent: the storage of the first disk.
    #[serde(default)]
    #[schemars(schema_with = "schema::storage_id")]
    pub storage: Option<String>,
    /// Version. Default: v2.0.
    pub version: Option<TpmVersion>,
}

/// Version of a TPM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TpmVersion {
    /// TPM 1.2.
    #[serde(rename = "v1.2")]
    V1,
    /// TPM 2.0.
    #[default]
    #[serde(rename = "v2.0")]
    V2,
}

/// Operating system of a machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum VmOsType {
    /// Linux.
    #[default]
    L26,
    /// Windows 10, 2016 or 2019.
    Win10,
    /// Windows 11, 2022 or 2025.
    Win11,
    /// Something else.
    Other,
}

impl VmOsType {
    /// Proxmox's word.
    pub fn as_str(self) -> &'static str {
        match self {
            VmOsType::L26 => "l26",
            VmOsType::Win10 => "win10",
            VmOsType::Win11 => "win11",
            VmOsType::Other => "other",
        }
    }
}

/// SCSI controller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ScsiController {
    /// A controller for each disk; iothread works.
    #[default]
    #[serde(rename = "virtio-scsi-single")]
    VirtioScsiSingle,
    /// One controller for all disks.
    #[serde(rename = "virtio-scsi-pci")]
    VirtioScsiPci,
    /// LSI 53C895A, for old systems.
    #[serde(rename = "lsi")]
    Lsi,
    /// MegaRAID SAS.
    #[serde(rename = "megasas")]
    Megasas,
    /// VMware PVSCSI.
    #[serde(rename = "pvscsi")]
    Pvscsi,
}

impl ScsiController {
    /// Proxmox's word.
    pub fn as_str(self) -> &'static str {
        match self {
            ScsiController::VirtioScsiSingle => "virtio-scsi-single",
            ScsiController::VirtioScsiPci => "virtio-scsi-pci",
            ScsiController::Lsi => "lsi",
            ScsiController::Megasas => "megasas",
            ScsiController::Pvscsi => "pvscsi",
        }
    }
}

/// A disk of a virtual machine.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "!has(self.ssd) || !has(self.bus) || self.bus != 'virtio'", "message": "ssd belongs to scsi, sata and ide disks: leave it out, or choose another bus"},
    {"rule": "!has(self.iothread) || !has(self.bus) || self.bus in ['scsi', 'virtio']", "message": "iothread belongs to scsi and virtio disks"},
    {"rule": "!has(self.readOnly) || !has(self.bus) || self.bus in ['scsi', 'virtio']", "message": "readOnly belongs to scsi and virtio disks"}
]))]
pub struct VmDisk {
    /// Name of the disk, which identifies it permanently and becomes its serial number, so that the machine finds it under
    /// /dev/disk/by-id. A Proxmox slot such as scsi0 means the disk that an adopted machine has there.
    #[schemars(schema_with = "schema::disk_name")]
    pub name: String,
    /// Bus. It is chosen when the disk is made. Absent: scsi.
    pub bus: Option<DiskBus>,
    /// Storage. It is chosen when the disk is made. Absent: the hypervisor's `defaults.diskStorage`, or the storage of
    /// the template's disk.
    #[serde(default)]
    #[schemars(schema_with = "schema::storage_id")]
    pub storage: Option<String>,
    /// Size in whole MiB, such as 512Mi or 20Gi. It can grow, never shrink. Absent: that of the image; a disk without
    /// an image needs it.
    #[serde(default, deserialize_with = "schema::read_quantity")]
    #[schemars(schema_with = "schema::size")]
    pub size: Option<String>,
    /// Cache mode. Absent: unmanaged (Proxmox: none).
    pub cache: Option<DiskCache>,
    /// Hand freed blocks back to the storage.
    pub discard: Option<bool>,
    /// Give the disk an I/O thread of its own.
    pub iothread: Option<bool>,
    /// Tell the machine that it is a solid-state disk.
    pub ssd: Option<bool>,
    /// Whether Proxmox's backups include the disk.
    pub backup: Option<bool>,
    /// Whether the machine may only read it.
    pub read_only: Option<bool>,
}

/// A CD-ROM drive of a virtual machine.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VmCdrom {
    /// Slot of the drive, which identifies it: ide0 to ide3, sata0 to sata5, or scsi0 to scsi30. A new drive on ide or sata
    /// appears at the next start. With cloudInit, ide2 belongs to the cloud-init drive.
    #[schemars(schema_with = "schema::cdrom_slot")]
    pub slot: String,
    /// ISO image in it, such as local:iso/virtio-win.iso, or `none` for an empty drive. A change takes effect while the
    /// machine runs, and removing the field ejects what the spec put there. Absent: unmanaged; a new drive is empty.
    #[serde(default)]
    #[schemars(schema_with = "schema::iso_volid")]
    pub volid: Option<String>,
}

/// Bus of a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DiskBus {
    /// SCSI, 31 disks.
    #[default]
    Scsi,
    /// VirtIO block, 16 disks.
    Virtio,
    /// SATA, 6 disks.
    Sata,
    /// IDE, 3 disks beside the cloud-init drive.
    Ide,
}

impl DiskBus {
    /// Proxmox's word, which a number follows.
    pub fn as_str(self) -> &'static str {
        match self {
            DiskBus::Scsi => "scsi",
            DiskBus::Virtio => "virtio",
            DiskBus::Sata => "sata",
            DiskBus::Ide => "ide",
        }
    }

    /// Numbers that disks of the bus may have. `ide2` is the cloud-init drive's.
    pub fn slots(self) -> impl Iterator<Item = u32> {
        let count = match self {
            DiskBus::Scsi => 31,
            DiskBus::Virtio => 16,
            DiskBus::Sata => 6,
            DiskBus::Ide => 4,
        };
        (0..count).filter(move |n| self != DiskBus::Ide || *n != 2)
    }
}

/// Cache mode of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DiskCache {
    /// No host cache.
    None,
    /// Writes go through the host's cache.
    Writethrough,
    /// Writes are cached by the host.
    Writeback,
    /// Flushes are ignored: data is lost when the node fails.
    Unsafe,
    /// Every write is flushed.
    Directsync,
}

impl DiskCache {
    /// Proxmox's word.
    pub fn as_str(self) -> &'static str {
        match self {
            DiskCache::None => "none",
            DiskCache::Writethrough => "writethrough",
            DiskCache::Writeback => "writeback",
            DiskCache::Unsafe => "unsafe",
            DiskCache::Directsync => "directsync",
        }
    }
}

/// Display of a machine.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VmVga {
    /// Kind of display.
    #[serde(rename = "type")]
    pub type_: VgaType,
    /// Video memory in MiB.
    #[schemars(range(min = 4, max = 512))]
    pub memory: Option<i64>,
}

/// Kind of display.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum VgaType {
    /// Standard VGA.
    #[default]
    #[serde(rename = "std")]
    Std,
    /// The serial console as display.
    #[serde(rename = "serial0")]
    Serial0,
    /// VirtIO GPU.
    #[serde(rename = "virtio")]
    Virtio,
    /// SPICE.
    #[serde(rename = "qxl")]
    Qxl,
    /// No display.
    #[serde(rename = "none")]
    None,
}

impl VgaType {
    /// Proxmox's word.
    pub fn as_str(self) -> &'static str {
        match self {
            VgaType::Std => "std",
            VgaType::Serial0 => "serial0",
            VgaType::Virtio => "virtio",
            VgaType::Qxl => "qxl",
            VgaType::None => "none",
        }
    }
}

/// A PCI device passed through: by resource mapping or by address.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "has(self.mapping) != has(self.address)", "message": "give exactly one of mapping and address"}
]))]
pub struct VmPci {
    /// Resource mapping of the datacenter, which works with an API token.
    #[schemars(length(min = 2, max = 128), regex(pattern = r"^[A-Za-z][A-Za-z0-9_-]+$"))]
    pub mapping: Option<String>,
    /// PCI address such as 0000:01:00.0; without a function number all functions. Needs root@pam or SSH.
    #[serde(default)]
    #[schemars(schema_with = "schema::pci_address")]
    pub address: Option<String>,
    /// Present it as a PCI Express device. Needs machine: q35.
    pub pcie: Option<bool>,
    /// Make it the machine's primary display.
    pub primary_gpu: Option<bool>,
    /// Type of mediated device (vGPU), such as nvidia-63.
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[A-Za-z0-9_.-]+$"))]
    pub mdev: Option<String>,
    /// Show the device's firmware to the machine. Absent: Proxmox's own choice (yes).
    pub rom_bar: Option<bool>,
    /// File with the device's firmware, by its name in /usr/share/kvm of the node. Needs root@pam or SSH.
    #[schemars(length(min = 1, max = 255), regex(pattern = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$"))]
    pub rom_file: Option<String>,
}

/// A USB device passed through: by resource mapping, by device id or by port.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "has(self.mapping) != has(self.host)", "message": "give exactly one of mapping and host"}
]))]
pub struct VmUsb {
    /// Resource mapping of the datacenter, which works with an API token.
    #[schemars(length(min = 2, max = 128), regex(pattern = r"^[A-Za-z][A-Za-z0-9_-]+$"))]
    pub mapping: Option<String>,
    /// Vendor and product id such as 046d:c52b, or bus and port such as 1-2.3. Needs root@pam or SSH.
    #[schemars(
        length(min = 3, max = 32),
        regex(pattern = r"^([0-9A-Fa-f]{4}:[0-9A-Fa-f]{4}|[0-9]+-[0-9]+([.][0-9]+)*)$")
    )]
    pub host: Option<String>,
    /// Attach it to a USB 3 port.
    pub usb3: Option<bool>,
}

/// What may change while a machine runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Hotplug {
    /// Network interfaces.
    Network,
    /// Disks.
    Disk,
    /// USB devices.
    Usb,
    /// Memory; needs numa.
    Memory,
    /// Processors.
    Cpu,
    /// The cloud-init drive.
    Cloudinit,
}

impl Hotplug {
    /// Proxmox's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Hotplug::Network => "network",
            Hotplug::Disk => "disk",
            Hotplug::Usb => "usb",
            Hotplug::Memory => "memory",
            Hotplug::Cpu => "cpu",
            Hotplug::Cloudinit => "cloudinit",
        }
    }
}
