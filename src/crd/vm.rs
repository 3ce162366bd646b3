//! `PhoenixVM`: a QEMU/KVM virtual machine.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;

use super::common::*;
use super::guest::{GuestFields, machine_words};
use super::schema;
use super::status::GuestStatus;
use super::vm_hardware::*;

/// A virtual machine on Proxmox VE: created, configured and kept as described here.
/// A field that is not given is not managed: Phoenix neither compares nor resets it.
#[skip_serializing_none]
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "phoenix-hypervisor.io",
    version = "v1alpha1",
    kind = "PhoenixVM",
    plural = "phoenixvms",
    singular = "phoenixvm",
    shortname = "pvm",
    category = "phoenix",
    namespaced,
    status = "GuestStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "A virtual machine on Proxmox VE, created, configured and kept as its spec describes.",
    printcolumn(name = "Status", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "VMID", type_ = "integer", json_path = ".status.vmid"),
    printcolumn(name = "Node", type_ = "string", json_path = ".status.node"),
    printcolumn(name = "IP", type_ = "string", json_path = ".status.ip"),
    printcolumn(name = "GPUs", type_ = "string", json_path = ".status.gpus"),
    printcolumn(name = "Source", type_ = "string", json_path = ".status.source"),
    printcolumn(name = "Cores", type_ = "integer", json_path = ".spec.cpu.cores", priority = 1),
    printcolumn(name = "Memory", type_ = "string", json_path = ".spec.memory", priority = 1),
    printcolumn(name = "Health", type_ = "string", json_path = ".status.health", priority = 1),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct PhoenixVMSpec {
    /// The PhoenixHypervisor that the machine lives on. It cannot change once the machine has a vmid.
    pub hypervisor_ref: ObjectRef,
    /// The machine itself.
    #[serde(flatten)]
    pub guest: VmGuest,
    /// Probes that tell whether the machine works.
    pub health: Option<Health>,
    /// Ports that the cluster reaches by the object's name, through a Service of that name. Needs an operator that runs with
    /// --expose. Absent: none; empty: none.
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"], "x-kubernetes-validations" = [
        {"rule": "self.all(e, self.exists_one(f, f.port == e.port && (has(f.protocol) ? f.protocol : 'TCP') == (has(e.protocol) ? e.protocol : 'TCP')))", "message": "two entries have the same port and protocol: give each port of the Service once"}
    ]))]
    pub expose: Option<Vec<Expose>>,
    /// Scripts run once after provisioning; their results never block Ready.
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub tests: Option<Vec<GuestTest>>,
    /// Objects that must be Ready before the machine is created.
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["kind", "name"]))]
    pub depends_on: Option<Vec<Dependency>>,
    /// Whether the machine runs. Absent: Running.
    pub power_state: Option<PowerState>,
    /// What happens to the machine when this object is deleted. Absent: Delete for machines that Phoenix created, Retain
    /// for adopted ones.
    pub deletion_policy: Option<DeletionPolicy>,
    /// Whether Phoenix may restart the machine for changes that need it.
    pub update_policy: Option<UpdatePolicy>,
}

/// The machine itself: what a PhoenixVM and a PhoenixTemplate of vm form share.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "!has(self.efiDisk) || (has(self.bios) && self.bios == 'ovmf')", "message": "efiDisk belongs to bios: ovmf: set it, or leave efiDisk out"},
    {"rule": "!has(self.pci) || !self.pci.exists(p, has(p.pcie) && p.pcie) || (has(self.machine) && self.machine.matches('q35'))", "message": "pcie needs machine: q35"},
    {"rule": "!has(self.viommu) || self.viommu != 'intel' || (has(self.machine) && self.machine.matches('q35'))", "message": "viommu: intel needs machine: q35"},
    {"rule": "!has(self.hotplug) || !('memory' in self.hotplug) || (has(self.cpu) && has(self.cpu.numa) && self.cpu.numa)", "message": "hotplug of memory needs cpu.numa: true"},
    {"rule": "!has(self.vga) || self.vga.type != 'serial0' || !has(self.serial) || self.serial", "message": "vga: serial0 shows the serial console: set serial: true, or leave serial out"},
    {"rule": "!has(self.bootOrder) || !has(self.disks) || self.bootOrder.all(b, b.matches('^(net|eth)[0-9]{1,2}$') || self.disks.exists(d, d.name == b) || (has(self.cdroms) && self.cdroms.exists(c, c.slot == b)))", "message": "bootOrder holds a name that no disk has: name disks of the machine, slots of its cdroms, or interfaces such as net0"},
    {"rule": "!has(self.cdroms) || !has(self.cloudInit) || !self.cdroms.exists(c, c.slot == 'ide2')", "message": "ide2 is the cloud-init drive's: choose another slot of cdroms, such as ide0"},
    {"rule": "!has(self.cdroms) || !has(self.disks) || !self.cdroms.exists(c, self.disks.exists(d, d.name == c.slot))", "message": "one place is named by disks and by cdroms: choose another slot"},
    {"rule": "!has(self.cpu) || !has(self.cpu.cores) || !has(self.cpu.numa) || !self.cpu.numa || !has(self.cpu.sockets) || self.cpu.sockets <= 8", "message": "numa takes at most 8 sockets"}
]), transform = machine_words)]
pub struct VmGuest {
    /// What it shares with a container.
    #[serde(flatten)]
    pub shared: GuestFields,
    /// What the machine is made from. May be absent only for an adopted machine.
    pub source: Option<VmSource>,
    /// Processors.
    pub cpu: Option<VmCpu>,
    /// Memory, in whole MiB; at least 16Mi.
    #[serde(default, deserialize_with = "schema::read_quantity")]
    #[schemars(schema_with = "schema::size")]
    pub memory: Option<String>,
    /// Memory that ballooning leaves to the machine when the node is short of memory, in whole MiB; 0 turns ballooning off.
    #[serde(default, deserialize_with = "schema::read_quantity")]
    #[schemars(schema_with = "schema::size_or_zero")]
    pub balloon: Option<String>,
    /// Machine type: q35, pc, or a version of them such as pc-q35-9.2. PCI Express pass-through needs q35.
    #[serde(default)]
    #[schemars(schema_with = "schema::machine_type")]
    pub machine: Option<String>,
    /// Firmware. With ovmf the machine gets an EFI disk.
    pub bios: Option<VmBios>,
    /// The EFI disk of bios: ovmf. It is made on creation. Absent: one on the storage of the first disk.
    pub efi_disk: Option<EfiDisk>,
    /// A TPM. It is made on creation.
    pub tpm: Option<Tpm>,
    /// Guest operating system that Proxmox tunes the machine for. Absent: l26 (Linux) on creation.
    pub os_type: Option<VmOsType>,
    /// Controller of scsi disks. Absent: virtio-scsi-single on creation.
    pub scsi_controller: Option<ScsiController>,
    /// Disks. On creation the first is the boot disk; afterwards their order does not matter. Absent: unmanaged. A disk
    /// that is removed from the list is detached and kept as an unused disk of the machine.
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"], "x-kubernetes-validations" = [
        {"rule": "self.filter(d, has(d.bus) && d.bus == 'ide').size() <= 3 && self.filter(d, has(d.bus) && d.bus == 'sata').size() <= 6 && self.filter(d, has(d.bus) && d.bus == 'virtio').size() <= 16 && self.filter(d, !has(d.bus) || d.bus == 'scsi').size() <= 31", "message": "too many disks on one bus: a machine takes 31 on scsi, 16 on virtio, 6 on sata and 3 on ide beside the cloud-init drive"}
    ]))]
    pub disks: Option<Vec<VmDisk>>,
    /// CD-ROM drives with their ISO images. Absent: unmanaged; empty: none. The cloud-init drive does not count.
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["slot"]))]
    pub cdroms: Option<Vec<VmCdrom>>,
    /// What cloud-init sets up. Absent: unmanaged; the machine gets no cloud-init drive on creation.
    pub cloud_init: Option<CloudInit>,
    /// QEMU guest agent, through which Phoenix sees addresses and runs features, application and tests. Absent:
    /// unmanaged; enabled for machines that Phoenix creates.
    pub agent: Option<VmAgent>,
    /// A serial console (`qm terminal`), which cloud images expect. Absent: on for machines made from cloud images.
    pub serial: Option<bool>,
    /// Display. Absent: Proxmox's own choice.
    pub vga: Option<VmVga>,
    /// PCI devices passed through. Absent: unmanaged; empty: none.
    #[schemars(length(max = 16), extend("x-kubernetes-validations" = [
        {"rule": "self.all(p, self.exists_one(q, (has(q.mapping) == has(p.mapping)) && (!has(q.mapping) || q.mapping == p.mapping) && (has(q.address) == has(p.address)) && (!has(q.address) || q.address == p.address)))", "message": "two entries name the same device: name each once"},
        {"rule": "self.filter(p, has(p.primaryGpu) && p.primaryGpu).size() <= 1", "message": "only one device can be the primary display: give primaryGpu once"}
    ]))]
    pub pci: Option<Vec<VmPci>>,
    /// USB devices passed through. Absent: unmanaged; empty: none.
    #[schemars(length(max = 14))]
    pub usb: Option<Vec<VmUsb>>,
    /// Names of disks and network interfaces in boot order. Absent: unmanaged; the
    /// first disk on creation.
    #[serde(default)]
    #[schemars(schema_with = "schema::boot_order")]
    pub boot_order: Option<Vec<String>>,
    /// What may change while the machine runs. Absent: unmanaged (Proxmox: network, disk and usb); empty: nothing.
    #[schemars(length(max = 6), extend("x-kubernetes-list-type" = "set"))]
    pub hotplug: Option<Vec<Hotplug>>,
    /// Snippet that Proxmox runs on the node when the machine starts and stops, such as local:snippets/hook.pl. Needs root@pam or
    /// SSH.
    #[serde(default)]
    #[schemars(schema_with = "schema::snippet_volid")]
    pub hookscript: Option<String>,
    /// Further arguments for QEMU, passed unchanged, for what no field covers. They can harm the node. Needs root@pam or
    /// SSH, and an object in the hypervisor's namespace.
    #[schemars(length(min = 1, max = 4096), regex(pattern = r"^[^\n\r]+$"))]
    pub args: Option<String>,
    /// Size of the huge pages that hold the machine's memory. Needs root@pam or SSH. Absent: none.
    pub hugepages: Option<Hugepages>,
    /// An IOMMU inside the machine, which pass-through inside it needs. `intel` needs machine: q35.
    pub viommu: Option<Viommu>,
}

/// What a virtual machine is made from: exactly one of the fields.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "has(self.templateRef) != has(self.cloudImage)", "message": "give exactly one of templateRef and cloudImage"}
]))]
pub struct VmSource {
    /// Clone of a PhoenixTemplate of vm form in this namespace, else in the hypervisor's: linked where it is a Proxmox
    /// template on a storage that supports it, full otherwise.
    pub template_ref: Option<LocalRef>,
    /// A disk image that contains cloud-init. It becomes the first disk.
    pub cloud_image: Option<CloudImage>,
}

/// A cloud image: exactly one of volid and url.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "has(self.volid) != has(self.url)", "message": "give exactly one of volid and url"},
    {"rule": "!has(self.url) || has(self.sha256)", "message": "url needs sha256, the checksum of the file"},
    {"rule": "!has(self.volid) || !has(self.storage)", "message": "volid names its storage itself: leave storage out"},
    {"rule": "!has(self.url) || self.url.matches('[.](qcow2|raw|img|vmdk)([?#].*)?$')", "message": "url must end in the name of a disk image: .qcow2, .img, .raw or .vmdk"}
]))]
pub struct CloudImage {
    /// Image on a storage with content import, such as local:import/noble-server-cloudimg-amd64.qcow2.
    #[serde(default)]
    #[schemars(schema_with = "schema::disk_image_volid")]
    pub volid: Option<String>,
    /// URL of the image; the node downloads it once for all machines.
    #[serde(default)]
    #[schemars(schema_with = "schema::url")]
    pub url: Option<String>,
    /// SHA-256 of the file at url.
    #[serde(default)]
    #[schemars(schema_with = "schema::sha256")]
    pub sha256: Option<String>,
    /// Storage with content import for the downloaded image. Absent: the hypervisor's `defaults.imageStorage`.
    #[serde(default)]
    #[schemars(schema_with = "schema::storage_id")]
    pub storage: Option<String>,
}

/// What cloud-init sets up. A change is written to the cloud-init drive at once; the machine reads it at its next boot.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CloudInit {
    /// User name. Absent: the image's own.
    #[schemars(length(min = 1, max = 32), regex(pattern = r"^[a-z_][a-z0-9_-]*$"))]
    pub user: Option<String>,
    /// Password hash as mkpasswd makes it ($6$…), from a key of a Secret in the object's namespace. Never a plain password.
    pub password_hash_secret_ref: Option<KeyRef>,
    /// SSH public keys, one per line, from a key of a Secret in the object's namespace.
    pub ssh_keys_secret_ref: Option<KeyRef>,
    /// Upgrade all packages at the first boot. Default: false.
    pub upgrade: Option<bool>,
    /// Packages installed at the first boot. A later change is only reported (RecreateRequired) and installs nothing. Needs
    /// SSH to the node.
    #[serde(default)]
    #[schemars(schema_with = "schema::package_names")]
    pub packages: Option<Vec<String>>,
    /// Further user-data for the first boot: #cloud-config, a script, … It is kept in a file on a storage: no secrets.
    /// Needs SSH to the node. A change after the first boot is only reported (RecreateRequired) and has no effect.
    #[schemars(length(min = 1, max = 65_536), extend("x-kubernetes-validations" = [
        {"rule": "self.startsWith('#cloud-config') || self.startsWith('#!') || self.startsWith('#cloud-boothook') || self.startsWith('#include')", "message": "must begin with #cloud-config, #!, #cloud-boothook or #include: by its first line cloud-init knows what it is"}
    ]))]
    pub user_data: Option<String>,
    /// Storage of the cloud-init drive. Absent: the storage of the first disk.
    #[serde(default)]
    #[schemars(schema_with = "schema::storage_id")]
    pub storage: Option<String>,
    /// Storage with content snippets, for packages, userData and features at the first boot. Absent: the
    /// hypervisor's `defaults.snippetStorage`.
    #[serde(default)]
    #[schemars(schema_with = "schema::storage_id")]
    pub snippet_storage: Option<String>,
}

/// QEMU guest agent.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "!has(self.install) || !self.install || !has(self.enabled) || self.enabled", "message": "install is for an agent that is used: set enabled: true, or leave install out"}
]))]
pub struct VmAgent {
    /// Whether the machine runs the agent. Default: true.
    pub enabled: Option<bool>,
    /// Install it at the first boot through cloud-init, since cloud images lack it. Needs SSH to the node. Default: true
    /// for machines made from cloud images where SSH is available. A later change is only reported (RecreateRequired).
    pub install: Option<bool>,
    /// Freeze the machine's file systems while snapshots and backups are taken. Absent: unmanaged (Proxmox: yes).
    pub freeze_filesystems: Option<bool>,
    /// Trim disks after they have been moved or cloned.
    pub trim_cloned_disks: Option<bool>,
    /// Seconds after a start within which the agent should answer. After that the machine is reported as not healthy, and
    /// Phoenix goes on waiting. Default: 600.
    #[schemars(range(min = 10, max = 86_400))]
    pub deadline_seconds: Option<i64>,
}
