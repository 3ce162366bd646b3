//! What the look-alike starts with.

use std::collections::{BTreeMap, BTreeSet};

use super::model::State;
use super::model::access::{AclEntry, Token, User};
use super::model::download::Appliance;
use super::model::guest::OsImage;
use super::model::node::{Bridge, Gpu, Node, Pci, Qemu};
use super::model::state::Pool;
use super::model::storage::{Storage, StorageKind, Volume};

/// Password of `root@pam` in the recorded profile.
pub const RECORDED_ROOT_PASSWORD: &str = "root-password-1";

const GIB: u64 = 1 << 30;
/// The disk image that is on storages from the start.
const NOBLE: &str = "noble-server-cloudimg-amd64.qcow2";
/// The container image that is on a storage from the start.
pub(super) const UBUNTU: &str = "ubuntu-24.04-standard_24.04-2_amd64.tar.zst";
/// The image of the recorded profile.
pub(super) const DEBIAN: &str = "debian-12-standard_12.7-1_amd64.tar.zst";

/// Which inventory to start with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Profile {
    /// One large node with two ZFS pools and two NVIDIA cards, as in the legacy files.
    #[default]
    Homelab,
    /// Three nodes of one cluster, each as large and with storages as that of `homelab`, of which the first has its cards,
    /// and a storage that all of them share.
    Lab3,
    /// The small node that the recorded answers come from.
    Recorded,
}

/// Secrets of the accounts that a profile creates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secrets {
    /// Password of `root@pam`.
    pub root_password: String,
    /// Secret of the token `phoenix@pve!operator`.
    pub token: String,
}

impl Default for Secrets {
    fn default() -> Self {
        Self {
            root_password: uuid::Uuid::new_v4().to_string(),
            token: uuid::Uuid::new_v4().to_string(),
        }
    }
}

impl Profile {
    /// The initial state. `version` is what the node claims to run.
    pub fn state(self, version: Option<&str>, secrets: &Secrets, now: u64) -> State {
        let mut state = match self {
            Self::Homelab => homelab(version.unwrap_or("9.1.4"), secrets, now),
            Self::Lab3 => lab3(version.unwrap_or("9.1.4"), secrets, now),
            Self::Recorded => recorded(now),
        };
        state.broadcast();
        state
    }
}

fn role(privileges: &str) -> BTreeSet<String> {
    privileges.split_whitespace().map(str::to_owned).collect()
}

fn token(secret: &str, privsep: bool) -> Token {
    Token {
        secret: secret.to_owned(),
        privsep,
        expire: 0,
        comment: None,
    }
}

fn user(password: Option<&str>) -> User {
    User {
        password: password.map(str::to_owned),
        enable: true,
        ..User::default()
    }
}

fn grant(state: &mut State, path: &str, kind: &str, who: &str, role: &str) {
    state.access.acl.insert(AclEntry {
        path: path.to_owned(),
        kind: kind.to_owned(),
        who: who.to_owned(),
        role: role.to_owned(),
        propagate: true,
    });
}

/// A file in a storage.
/// A made-up SHA-512 of a file.
fn checksum(name: &str) -> String {
    super::model::config::digest(name).repeat(4)[..128].to_owned()
}

fn put_file(state: &mut State, node: &str, storage: &str, content: &str, name: &str, size: u64) {
    let uid = state.next_number();
    let ctime = state.seconds() - 86_400;
    let volume = Volume {
        uid,
        size,
        used: size,
        format: super::model::download::file_format(name).to_owned(),
        content: content.to_owned(),
        ctime,
        data: [("sha512".to_owned(), checksum(name))].into(),
        ..Volume::default()
    };
    if let Some(found) = state.storages.get_mut(storage) {
        found.insert(node, &format!("{content}/{name}"), volume);
    }
}

fn os(ostype: &str, systemd: u32) -> OsImage {
    OsImage {
        ostype: ostype.to_owned(),
        arch: "amd64".to_owned(),
        systemd: Some(systemd),
        agent: false,
    }
}

fn node(ip: &str, cpus: u64, memory: u64, cgroup_mode: u8, booted_at: u64, bridges: &[&str]) -> Node {
    let mtu = |name: &&str| ((*name).to_owned(), Bridge { mtu: 1500 });
    Node {
        ip: ip.to_owned(),
        online: true,
        cpus,
        memory,
        booted_at,
        cgroup_mode,
        cpu_model: BTreeMap::new(),
        bridges: bridges.iter().map(mtu).collect(),
        devices: ["/dev/fuse", "/dev/net/tun", "/dev/null", "/dev/kvm"]
            .into_iter()
            .map(str::to_owned)
            .collect(),
        paths: BTreeSet::new(),
        files: BTreeMap::new(),
        gpus: Vec::new(),
        pci: Vec::new(),
        nvidia_driver: None,
        clock_ahead: 0,
        settings: BTreeMap::new(),
    }
}

fn homelab(version: &str, secrets: &Secrets, now: u64) -> State {
    let mut state = State::empty(version, now);
    let mut phoenix = node("10.0.0.13", 96, 512 * GIB, 2, now - 86_400_000, &["vmbr0"]);
    phoenix.nvidia_driver = Some("580.76.05".to_owned());
    for (index, pci) in ["0000:41:00.0", "0000:61:00.0"].into_iter().enumerate() {
        phoenix.devices.insert(format!("/dev/nvidia{index}"));
        phoenix.devices.insert(format!("/dev/dri/card{index}"));
        phoenix.devices.insert(format!("/dev/dri/renderD{}", 128 + index));
        phoenix.gpus.push(Gpu {
            pci: pci.to_owned(),
            model: "NVIDIA GeForce RTX 5060 Ti".to_owned(),
            uuid: format!("GPU-5a1d0c3e-0000-4000-8000-00000000000{index}"),
            memory_mib: 16_311,
            dri: vec![format!("card{index}"), format!("renderD{}", 128 + index)],
            ..Gpu::default()
        });
    }
    // The graphics of the processor, and what is plugged in, are there too.
    for device in ["kfd", "uinput", "ttyUSB0", "ttyACM0"] {
        phoenix.devices.insert(format!("/dev/{device}"));
    }
    for device in ["nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset"] {
        phoenix.devices.insert(format!("/dev/{device}"));
    }
    const PATHS: &[&str] = &[
        "/etc",
        "/mnt/pve/quickOS/shared-prod-data/ssl",
        "/mnt/pve/quickOS/shared-prod-data/logs/nginx",
        "/mnt/pve/fastData/shared-bulk-data/ollama_models",
        "/mnt/pve/fastData/shared-bulk-data/llamacpp_models",
        "/mnt/pve/fastData/shared-bulk-data/vllm_models",
        "/fastData/shared-iso/template/cache",
        "/usr/local/phoenix_hypervisor/etc/nginx/sites-available",
        "/var/lib/vz/snippets",
    ];
    phoenix.paths = PATHS.iter().map(|path| (*path).to_owned()).collect();
    state.nodes.insert("phoenix".to_owned(), phoenix);
    homelab_storages(&mut state);
    homelab_access(&mut state, secrets);
    state.images.insert(DEBIAN.to_owned(), os("debian", 252));
    put_file(
        &mut state,
        "phoenix",
        "fastData-shared-iso",
        "vztmpl",
        UBUNTU,
        141_589_318,
    );
    for storage in ["local", "fastData-shared-iso"] {
        put_file(&mut state, "phoenix", storage, "import", NOBLE, 628_326_912);
    }
    // The newest build of each, as the index has it (facts L.5).
    for (template, version, size, os) in [
        (UBUNTU, "24.04-2", 141_589_318, os("ubuntu", 255)),
        (
            "debian-12-standard_12.12-1_amd64.tar.zst",
            "12.12-1",
            126_686_094,
            os("debian", 252),
        ),
        (
            "debian-13-standard_13.1-2_amd64.tar.zst",
            "13.1-2",
            129_710_398,
            os("debian", 257),
        ),
        (
            "ubuntu-25.04-standard_25.04-1.1_amd64.tar.zst",
            "25.04-1.1",
            138_412_032,
            os("ubuntu", 257),
        ),
    ] {
        let mut entry = appliance(template, version);
        entry.size = size;
        state.images.insert(template.to_owned(), os);
        let file = super::model::download::RemoteFile {
            size,
            virtual_size: None,
            sums: [("sha512".to_owned(), entry.sha512sum.clone())].into(),
            os: None,
            oci: None,
        };
        state.remote_files.insert(entry.location.clone(), file);
        state.appliances.push(entry);
    }
    state
}

fn lab3(version: &str, secrets: &Secrets, now: u64) -> State {
    let mut state = homelab(version, secrets, now);
    for (name, ip) in [("phoenix2", "10.0.0.14"), ("phoenix3", "10.0.0.15")] {
        state.add_twin("phoenix", name, ip, "lab");
    }
    for (_, node) in state.nodes.iter_mut().filter(|(name, _)| *name != "phoenix") {
        node.gpus.clear();
        node.pci.clear();
        node.nvidia_driver = None;
        node.devices
            .retain(|device| !device.contains("nvidia") && !device.contains("/dri/"));
    }
    let content = ["images", "rootdir", "vztmpl", "iso", "snippets", "import", "backup"];
    let mut shared = Storage::new(StorageKind::Dir, "/mnt/pve/lab-shared", &content, 4000 * GIB);
    shared.shared = true;
    state.storages.insert("lab-shared".to_owned(), shared);
    state
}

fn appliance(template: &str, version: &str) -> Appliance {
    let package = template.split('_').next().unwrap_or_default();
    let os = package.trim_end_matches("-standard");
    Appliance {
        template: template.to_owned(),
        package: package.to_owned(),
        os: os.to_owned(),
        version: version.to_owned(),
        section: "system".to_owned(),
        headline: format!("{os} standard"),
        location: format!("http://download.example.test/images/system/{template}"),
        sha512sum: checksum(template),
        size: 0,
    }
}

fn homelab_storages(state: &mut State) {
    let zfs = |path: &str, content: &[&str], gib| Storage::new(StorageKind::ZfsPool, path, content, gib * GIB);
    let dir = |path: &str, content: &[&str], gib| Storage::new(StorageKind::Dir, path, content, gib * GIB);
    let both: &[&str] = &["images", "rootdir"];
    let storages = [
        (
            "local",
            dir("/var/lib/vz", &["iso", "vztmpl", "backup", "snippets", "import"], 100),
        ),
        ("quickOS-vm-disks", zfs("quickOS/vm-disks", &["images"], 800)),
        ("quickOS-lxc-disks", zfs("quickOS/lxc-disks", &["rootdir"], 4000)),
        ("quickOS-shared-prod-data", zfs("quickOS/shared-prod-data", both, 400)),
        (
            "quickOS-shared-prod-data-volumes",
            zfs("quickOS/shared-prod-data-volumes", both, 400),
        ),
        (
            "fastData-shared-bulk-data",
            zfs("fastData/shared-bulk-data", both, 1400),
        ),
        ("fastData-shared-test-data", zfs("fastData/shared-test-data", both, 500)),
        (
            "fastData-shared-backups",
            dir("/fastData/shared-backups", &["backup"], 2000),
        ),
        (
            "fastData-shared-iso",
            dir("/fastData/shared-iso", &["iso", "vztmpl", "import"], 100),
        ),
    ];
    state.storages = storages
        .into_iter()
        .map(|(id, storage)| (id.to_owned(), storage))
        .collect();
}

/// User, token and roles exactly as `docs/access.md` tells operators to create them, so that whatever works here works
/// with those rights.
fn homelab_access(state: &mut State, secrets: &Secrets) {
    const GUEST: &str = "VM.Allocate VM.Audit VM.Clone VM.Config.CPU VM.Config.Memory VM.Config.Disk VM.Config.Network \
        VM.Config.Options VM.Config.HWType VM.Config.CDROM VM.Config.Cloudinit VM.PowerMgmt VM.Snapshot \
        VM.Snapshot.Rollback VM.GuestAgent.Audit VM.GuestAgent.FileWrite VM.GuestAgent.Unrestricted";
    const ROLES: &[(&str, &str, &[&str])] = &[
        ("PhoenixGuest", GUEST, &["/vms"]),
        (
            "PhoenixStorage",
            "Datastore.AllocateSpace Datastore.Audit",
            &["/storage"],
        ),
        (
            "PhoenixImages",
            "Datastore.AllocateTemplate Datastore.AllocateSpace Datastore.Audit",
            &["/storage/local", "/storage/fastData-shared-iso"],
        ),
        ("PhoenixNode", "Sys.Audit Sys.AccessNetwork", &["/nodes"]),
        ("PhoenixNet", "SDN.Use SDN.Audit", &["/sdn/zones/localnetwork"]),
        ("PhoenixMap", "Mapping.Use Mapping.Audit", &["/mapping"]),
        ("PhoenixCluster", "Sys.Audit", &["/"]),
        (
            "PhoenixPool",
            "VM.Allocate Pool.Audit Pool.Allocate",
            &["/pool/phoenix"],
        ),
    ];
    state
        .access
        .users
        .insert("root@pam".to_owned(), user(Some(&secrets.root_password)));
    let mut phoenix = user(None);
    phoenix
        .tokens
        .insert("operator".to_owned(), token(&secrets.token, false));
    state.access.users.insert("phoenix@pve".to_owned(), phoenix);
    for (name, privileges, paths) in ROLES {
        state.access.roles.insert((*name).to_owned(), role(privileges));
        for path in *paths {
            grant(state, path, "user", "phoenix@pve", name);
        }
    }
    state.access.acl = std::mem::take(&mut state.access.acl)
        .into_iter()
        .map(|entry| AclEntry {
            propagate: entry.path != "/",
            ..entry
        })
        .collect();
    state.pools.insert("phoenix".to_owned(), Pool::default());
}

/// The state that every recorded scenario started from.
fn recorded(now: u64) -> State {
    let mut state = State::empty("9.2.11", now);
    state.latency.status_interval = 1000;
    state.latency.auth_failure = 3000;
    state.qemu = Qemu {
        version: "7.2.22".to_owned(),
        by_proxmox: false,
        blank_is_empty: true,
    };
    let mut pve1 = node(
        "192.168.77.10",
        2,
        25_276_514_304,
        1,
        now - 5_000_000,
        &["vmbr0", "vmbr1"],
    );
    for (key, value) in [("mhz", "2596.134"), ("family", "25"), ("vendor", "AuthenticAMD")] {
        pve1.cpu_model.insert(key.to_owned(), value.to_owned());
    }
    pve1.paths = ["/var/lib/vz/snippets", "/etc"]
        .into_iter()
        .map(str::to_owned)
        .collect();
    pve1.pci = RECORDED_PCI.iter().map(|text| pci(text)).collect();
    state.nodes.insert("pve1".to_owned(), pve1);
    let content = ["vztmpl", "iso", "backup", "snippets", "rootdir", "images"];
    let mut local = Storage::new(StorageKind::Dir, "/var/lib/vz", &content, 270_553_174_016);
    local
        .settings
        .insert("prune-backups".to_owned(), "keep-all=1".to_owned());
    let btrfs = Storage::new(
        StorageKind::Btrfs,
        "/var/lib/pve/local-btrfs",
        &["rootdir", "images"],
        24 * GIB,
    );
    state.storages = BTreeMap::from([("local".to_owned(), local), ("local-btrfs".to_owned(), btrfs)]);
    put_file(&mut state, "pve1", "local", "vztmpl", DEBIAN, 64_144_787);
    state.images.insert(DEBIAN.to_owned(), os("debian", 252));
    recorded_access(&mut state);
    let dev = Pool {
        comment: Some("development".to_owned()),
        ..Pool::default()
    };
    state.pools.insert("dev".to_owned(), dev);
    state
}

/// Address, class, and ids of maker and model of device and card: those of a small virtual machine.
const RECORDED_PCI: &[&str] = &[
    "0000:00:00.0 0x060000 0x8086 0x0d57 0x0000 0x0000",
    "0000:00:01.0 0xffff00 0x1af4 0x1045 0x1af4 0x1045",
    "0000:00:02.0 0x018000 0x1af4 0x1042 0x1af4 0x1042",
    "0000:00:03.0 0x020000 0x1af4 0x1041 0x1af4 0x1041",
    "0000:00:04.0 0xffff00 0x1af4 0x1053 0x1af4 0x1053",
    "0000:00:05.0 0xffff00 0x1af4 0x1044 0x1af4 0x1044",
];

fn pci(text: &str) -> Pci {
    let mut words = text.split(' ').map(str::to_owned);
    let mut next = || words.next().unwrap_or_default();
    Pci {
        id: next(),
        class: next(),
        vendor: next(),
        device: next(),
        subsystem_vendor: next(),
        subsystem_device: next(),
    }
}

fn recorded_access(state: &mut State) {
    let secret = |number: u32| format!("00000000-0000-4000-8000-00000000000{number}");
    let mut root = user(Some(RECORDED_ROOT_PASSWORD));
    root.tokens.insert("test".to_owned(), token(&secret(1), false));
    let mut ops = user(Some("ops-password-1"));
    ops.settings.insert("comment".to_owned(), "operators".to_owned());
    ops.tokens.insert("lim".to_owned(), token(&secret(2), true));
    ops.tokens.insert("deploy".to_owned(), token(&secret(3), true));
    let mut audit = user(None);
    audit.tokens.insert("ro".to_owned(), token(&secret(4), false));
    for (name, found) in [("root@pam", root), ("ops@pve", ops), ("audit@pve", audit)] {
        state.access.users.insert(name.to_owned(), found);
    }
    let deployer = role(
        "VM.Allocate VM.Clone VM.Config.CPU VM.Config.Disk VM.Config.Memory VM.Config.Network VM.Config.Options \
         VM.Config.HWType VM.Config.Cloudinit VM.Config.CDROM VM.Audit VM.PowerMgmt VM.Snapshot VM.Snapshot.Rollback \
         VM.GuestAgent.Audit Pool.Audit Pool.Allocate Datastore.AllocateSpace Datastore.Audit SDN.Use",
    );
    state.access.roles.insert("Deployer".to_owned(), deployer);
    grant(state, "/", "user", "ops@pve", "Administrator");
    grant(state, "/", "user", "audit@pve", "PVEAuditor");
    grant(state, "/vms/100", "token", "ops@pve!lim", "PVEVMUser");
    grant(state, "/storage/local", "token", "ops@pve!lim", "PVEDatastoreUser");
    for path in ["/pool/dev", "/storage", "/sdn/zones/localnetwork"] {
        grant(state, path, "token", "ops@pve!deploy", "Deployer");
    }
    grant(state, "/nodes/pve1", "token", "ops@pve!deploy", "PVEAuditor");
}
