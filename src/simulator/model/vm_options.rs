//! Options of a virtual machine: which there are, drives and networks taken apart, normal forms (facts F.1, F.3).

use super::config::Section;
use super::property::{self, Properties, is_true};
use super::state::State;
use super::storage::split_volid;

pub use super::lxc_options::index_of;

/// Bus names of drives with how many there are, in the order in which Proxmox looks for a disk to boot from.
const BUSES: &[(&str, u32)] = &[("ide", 4), ("scsi", 31), ("virtio", 16), ("sata", 6)];
/// Drives that no machine boots from.
const SPECIAL: &[&str] = &["efidisk0", "tpmstate0"];
const COUNTED: &[(&str, u32)] = &[
    ("net", 32),
    ("unused", 256),
    ("serial", 4),
    ("parallel", 3),
    ("usb", 14),
    ("hostpci", 16),
    ("ipconfig", 32),
    ("numa", 8),
    ("virtiofs", 10),
];
const PLAIN: &str = "acpi affinity agent allow-ksm amd-sev arch args audio0 autostart balloon bios boot bootdisk cdrom \
    cicustom cipassword citype ciupgrade ciuser cores cpu cpulimit cpuunits description freeze hookscript hotplug \
    hugepages intel-tdx ivshmem keephugepages keyboard kvm localtime lock machine memory meta migrate_downtime \
    migrate_speed name nameserver numa onboot ostype protection reboot rng0 scsihw searchdomain shares smbios1 smp \
    sockets spice_enhancements sshkeys startdate startup tablet tags tdf template vcpus vga vmgenid vmstatestorage \
    watchdog";
/// Options that cloud-init's data is made of, without `ipconfigN`; `name` counts too.
pub const CLOUD_INIT: &[&str] = &[
    "cicustom",
    "cipassword",
    "citype",
    "ciupgrade",
    "ciuser",
    "nameserver",
    "searchdomain",
    "sshkeys",
];
const MODELS: &[&str] = &[
    "e1000",
    "e1000-82540em",
    "e1000-82544gc",
    "e1000-82545em",
    "e1000e",
    "i82551",
    "i82557b",
    "i82559er",
    "ne2k_isa",
    "ne2k_pci",
    "pcnet",
    "rtl8139",
    "virtio",
    "vmxnet3",
];

fn counted(key: &str, words: &[(&str, u32)]) -> bool {
    words
        .iter()
        .any(|(word, count)| index_of(key, word).is_some_and(|index| index < *count))
}

/// Whether a machine has an option of this name.
pub fn is_option(key: &str) -> bool {
    PLAIN.split_whitespace().any(|word| word == key) || is_drive(key) || counted(key, COUNTED)
}

/// True for the keys of drives, EFI disk and TPM state among them.
pub fn is_drive(key: &str) -> bool {
    SPECIAL.contains(&key) || counted(key, BUSES)
}

/// True for what a boot order may name: drives that can hold a system, networks and cards.
pub fn is_bootable(key: &str) -> bool {
    counted(key, BUSES) || counted(key, &[("net", 32), ("usb", 14), ("hostpci", 16)])
}

/// True for options that cloud-init's data is made of.
pub fn is_cloud_init(key: &str) -> bool {
    CLOUD_INIT.contains(&key) || index_of(key, "ipconfig").is_some()
}

/// True for the `ostype` of a Windows.
pub fn is_windows(ostype: &str) -> bool {
    let number = ostype.strip_prefix("win").unwrap_or_default();
    let numbered = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    numbered || matches!(ostype, "wxp" | "w2k" | "w2k3" | "w2k8" | "wvista")
}

/// Place of a drive in Proxmox's order.
fn rank(key: &str) -> (usize, u32) {
    let found = BUSES
        .iter()
        .enumerate()
        .find_map(|(at, (word, _))| index_of(key, word).map(|number| (at, number)));
    found.unwrap_or((BUSES.len(), u32::from(key == "tpmstate0")))
}

/// A drive taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drive {
    /// Properties with the volume under `file`.
    pub parts: Properties,
}

impl Drive {
    /// Reads the value of a drive or of `unusedN`.
    pub fn parse(text: &str) -> Self {
        let mut parts = property::parse(text, "file");
        if let Some(volume) = parts.remove("volume") {
            parts.insert("file".to_owned(), volume);
        }
        const FLAGS: &[&str] = &[
            "backup",
            "detect_zeroes",
            "iothread",
            "pre-enrolled-keys",
            "replicate",
            "ro",
            "scsiblock",
            "shared",
            "snapshot",
            "ssd",
        ];
        canonical_bools(&mut parts, FLAGS);
        Self { parts }
    }

    /// One property.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.parts.get(key).map(String::as_str)
    }

    /// Volume, path, `none` or `cdrom`.
    pub fn file(&self) -> &str {
        self.get("file").unwrap_or_default()
    }

    /// True for a CD drive, that of cloud-init among them.
    pub fn is_cdrom(&self) -> bool {
        self.get("media") == Some("cdrom")
    }

    /// True for the drive of cloud-init, existing or asked for.
    pub fn is_cloud_init(&self) -> bool {
        let last = self.file().rsplit([':', '/']).next().unwrap_or_default();
        let (stem, end) = last.split_once('.').unwrap_or((last, "raw"));
        // An ISO image may be called so, too.
        if !["raw", "qcow2", "qed", "vmdk", "cloop"].contains(&end) {
            return false;
        }
        stem == "cloudinit" || (stem.starts_with("vm-") && stem.ends_with("-cloudinit"))
    }

    /// Storage when a new drive for cloud-init is asked for (`STORAGE:cloudinit`).
    pub fn wanted_cloud_init(&self) -> Option<&str> {
        self.file().strip_suffix(":cloudinit")
    }

    /// Storage and bytes when a new disk is asked for (`STORAGE:GiB`).
    pub fn allocation(&self) -> Option<(&str, u64)> {
        let (storage, size) = self.file().split_once(':')?;
        let (whole, fraction) = size.split_once('.').unwrap_or((size, "0"));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let gib: f64 = (digits(whole) && digits(fraction))
            .then(|| size.parse().ok())
            .flatten()?;
        // Proxmox allocates whole KiB here.
        (!self.is_cdrom()).then_some((storage, ((gib * 1_048_576.0) as u64) << 10))
    }

    /// The volume, if there is one that exists or should.
    pub fn volid(&self) -> Option<&str> {
        let plain = self.allocation().is_none() && self.wanted_cloud_init().is_none();
        (plain && split_volid(self.file()).is_some()).then(|| self.file())
    }

    /// Changes one property.
    pub fn set(&mut self, key: &str, value: impl Into<String>) {
        self.parts.insert(key.to_owned(), value.into());
    }

    /// Proxmox's text form.
    pub fn print(&self) -> String {
        property::print(&self.parts, "file", &[])
    }
}

fn canonical_bools(parts: &mut Properties, keys: &[&str]) {
    for key in keys {
        if let Some(value) = parts.get_mut(*key) {
            *value = if is_true(value) { "1" } else { "0" }.to_owned();
        }
    }
}

/// All drives of a section in Proxmox's order.
pub fn drives(section: &Section) -> Vec<(String, Drive)> {
    let mut found: Vec<_> = section
        .options
        .iter()
        .filter(|(key, _)| is_drive(key))
        .map(|(key, value)| (key.clone(), Drive::parse(value)))
        .collect();
    found.sort_by_key(|(key, _)| rank(key));
    found
}

/// The drives that are disks with a volume: no CD drives, but that of cloud-init where `cloud_init` says so.
pub fn disks(section: &Section, cloud_init: bool) -> Vec<(String, Drive)> {
    let wanted = |drive: &Drive| !drive.is_cdrom() || (cloud_init && drive.is_cloud_init());
    drives(section)
        .into_iter()
        .filter(|(_, drive)| wanted(drive) && drive.volid().is_some())
        .collect()
}

/// Whether a section uses a volume: as drive, as `unusedN`, or as saved memory.
pub fn uses_volume(section: &Section, volid: &str) -> bool {
    section.options.iter().any(|(key, value)| {
        let holder = is_drive(key) || key == "vmstate" || index_of(key, "unused").is_some();
        holder && Drive::parse(value).file() == volid
    })
}

/// Notes a volume that nothing uses any more as `unusedN`.
pub fn add_unused(section: &mut Section, volid: &str) {
    if uses_volume(section, volid) {
        return;
    }
    let free = (0..256)
        .map(|number| format!("unused{number}"))
        .find(|key| section.get(key).is_none());
    if let Some(key) = free {
        section.set(&key, volid);
    }
}

/// Drops the `unusedN` entries of a volume that is used again.
pub fn drop_unused(section: &mut Section, volid: &str) {
    section
        .options
        .retain(|key, value| index_of(key, "unused").is_none() || Drive::parse(value).file() != volid);
}

/// Boot order as a list; empty where the section has none.
pub fn boot_order(section: &Section) -> Vec<String> {
    let boot = section.get("boot").unwrap_or_default();
    property::split_list(&property::parse(boot, "legacy").remove("order").unwrap_or_default())
}

/// A boot order as text; an empty one is a blank, as recorded.
pub fn print_boot_order(order: &[String]) -> String {
    if order.is_empty() {
        " ".to_owned()
    } else {
        format!("order={}", order.join(";"))
    }
}

/// What a new machine boots from: its first disk, its first CD drive, its first network.
pub fn default_boot_order(section: &Section) -> Vec<String> {
    let bootable = |cdrom: bool| {
        drives(section)
            .into_iter()
            .find(|(key, drive)| !SPECIAL.contains(&key.as_str()) && drive.is_cdrom() == cdrom)
            .map(|(key, _)| key)
    };
    let net = section.options.keys().find(|key| index_of(key, "net").is_some());
    [bootable(false), bootable(true), net.cloned()]
        .into_iter()
        .flatten()
        .collect()
}

/// The disk that a machine boots from, else its first one.
pub fn boot_disk(section: &Section) -> Option<String> {
    let disks = disks(section, false);
    let ordered = boot_order(section)
        .into_iter()
        .find(|name| disks.iter().any(|(key, _)| key == name));
    let key = ordered.or_else(|| disks.first().map(|(key, _)| key.clone()))?;
    section.get(&key).map(str::to_owned)
}

/// A network taken apart, with `model` and `macaddr` under their own names.
pub fn parse_net(text: &str) -> Properties {
    let mut parts = property::parse(text, "model");
    let named = MODELS.iter().find(|model| parts.contains_key(**model));
    if let Some(model) = named
        && let Some(mac) = parts.remove(*model)
    {
        parts.insert("model".to_owned(), (*model).to_owned());
        parts.insert("macaddr".to_owned(), mac);
    }
    canonical_bools(&mut parts, &["firewall", "link_down"]);
    parts
}

/// The text form of a network.
pub fn print_net(parts: &Properties) -> String {
    let mut rest = parts.clone();
    let model = rest.remove("model").unwrap_or_default();
    let mac = rest.remove("macaddr").unwrap_or_default();
    let mut text = format!("{model}={mac}");
    for (key, value) in rest {
        text.push_str(&format!(",{key}={value}"));
    }
    text
}

/// Memory of a machine in MiB.
pub fn memory(section: &Section) -> u64 {
    let text = section.get("memory").unwrap_or("512");
    let parts = property::parse(text, "current");
    parts.get("current").and_then(|text| text.parse().ok()).unwrap_or(512)
}

/// Whether the machine's configuration has the guest agent switched on.
pub fn agent_enabled(section: &Section) -> bool {
    let parts = property::parse(section.get("agent").unwrap_or_default(), "enabled");
    parts.get("enabled").is_some_and(|text| is_true(text))
}

impl State {
    /// The form in which Proxmox stores an option of a machine.
    pub(super) fn vm_normal_form(&mut self, node: &str, key: &str, value: &str) -> String {
        if index_of(key, "net").is_some() {
            let mut parts = parse_net(value);
            if !parts.contains_key("macaddr") {
                parts.insert("macaddr".to_owned(), self.new_mac());
            }
            return print_net(&parts);
        }
        if is_drive(key) {
            return Drive::parse(value).print();
        }
        match key {
            "tags" | "cpuunits" => self.normal_form(node, key, value),
            "vmgenid" if value == "1" => self.new_uuid(),
            "cipassword" => hashed(value, self.next_number()),
            _ => value.to_owned(),
        }
    }

    /// A new random UUID from the generator of the state.
    pub(super) fn new_uuid(&mut self) -> String {
        // The generator moves on with each address.
        self.new_mac();
        let high = u128::from(self.random);
        self.new_mac();
        let value = high << 64 | u128::from(self.random);
        uuid::Builder::from_random_bytes(value.to_be_bytes())
            .into_uuid()
            .to_string()
    }
}

/// A password as it is stored by an update (facts F.2): hashed unless it is a hash already. The shape is that of
/// SHA-256 crypt; nothing here ever checks it.
fn hashed(password: &str, salt: u64) -> String {
    use base64::Engine as _;
    use sha2::Digest as _;
    if password.starts_with('$') {
        return password.to_owned();
    }
    let digest = sha2::Sha256::digest(format!("{salt:08x}{password}"));
    let text = base64::engine::general_purpose::STANDARD_NO_PAD
        .encode(digest)
        .replace('+', ".");
    format!("$5${salt:08x}${text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drives_are_read() {
        let drive = Drive::parse("zfs:8.5,ssd=on,discard=on");
        assert_eq!(drive.allocation(), Some(("zfs", 17 << 29)));
        assert_eq!(drive.print(), "zfs:8.5,discard=on,ssd=1");
        assert_eq!(Drive::parse("none,media=cdrom").volid(), None);
        assert!(Drive::parse("zfs:cloudinit").is_cloud_init());
        assert!(Drive::parse("dir:1/vm-1-cloudinit.qcow2,media=cdrom").is_cloud_init());
        assert!(!Drive::parse("zfs:vm-1-disk-0").is_cloud_init());
    }

    #[test]
    fn options_are_known() {
        assert!(is_option("scsi30") && is_option("ipconfig0") && is_option("memory") && is_option("efidisk0"));
        assert!(!is_option("scsi31") && !is_option("virtio16") && !is_option("rootfs") && !is_option("nope"));
    }

    #[test]
    fn networks_keep_their_address() {
        let net = parse_net("virtio=BC:24:11:00:00:01,firewall=on,bridge=vmbr0");
        assert_eq!(print_net(&net), "virtio=BC:24:11:00:00:01,bridge=vmbr0,firewall=1");
        assert_eq!(parse_net("model=e1000,macaddr=x")["model"], "e1000");
    }

    #[test]
    fn the_boot_order_takes_one_of_each() {
        let mut section = Section::default();
        for (key, value) in [
            ("scsi1", "a:x"),
            ("scsi0", "a:y"),
            ("ide2", "none,media=cdrom"),
            ("net0", "virtio"),
        ] {
            section.set(key, value);
        }
        assert_eq!(default_boot_order(&section), ["scsi0", "ide2", "net0"]);
        assert_eq!(print_boot_order(&[]), " ");
    }
}
