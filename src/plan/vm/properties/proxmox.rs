//! A machine of Proxmox's as far as its configuration goes: what becomes of the calls of a plan, and the spellings in
//! which it may be read back.

use crate::pve::GuestRef;
use crate::pve::Vmid;
use std::collections::{BTreeMap, BTreeSet};

use crate::crd::GuestStatus;
use crate::desired::Desired;
use crate::observed::*;
use crate::plan::*;
use crate::pve::property::{Properties, default_key};
use crate::pve::{ApiCall, GuestType};
use crate::secret::Secret;

pub(crate) const NODE: &str = "pve1";
pub(crate) const VMID: Vmid = Vmid::MIN;

/// The machine and what Phoenix has recorded of it.
#[derive(Clone, Default)]
pub(crate) struct Proxmox {
    pub options: BTreeMap<String, String>,
    pub status: GuestStatus,
    running: bool,
    pool: Option<String>,
    password: Option<Secret>,
    snippets: BTreeSet<String>,
    volumes: u32,
}

fn is_drive(key: &str) -> bool {
    let stem = key.trim_end_matches(|c: char| c.is_ascii_digit());
    stem.len() < key.len() && ["scsi", "virtio", "sata", "ide", "efidisk", "tpmstate"].contains(&stem)
}

impl Proxmox {
    /// Carries plans out until there is nothing left to do.
    pub fn made(desired: &Desired) -> Result<Proxmox, String> {
        let mut proxmox = Proxmox::default();
        let mut done = Vec::new();
        for _ in 0..80 {
            let plan = proxmox.plan(desired);
            proxmox.status.volumes = plan.facts.volumes.clone();
            match plan.next {
                Next::Done => return Ok(proxmox),
                Next::Run(step) => {
                    done.push(step.action.clone());
                    proxmox.carry_out(*step);
                }
                other => return Err(format!("{other:?} after {done:#?}")),
            }
        }
        Err(format!("no end: {done:#?}"))
    }

    /// What is to be done next, with every look answered.
    pub fn plan(&self, desired: &Desired) -> Plan {
        let mut observed = Observed {
            cluster: self.cluster(),
            ..Observed::default()
        };
        loop {
            let plan = plan(Input {
                desired,
                dependencies: &|| Ok(()),
                observed: &observed,
                status: &self.status,
                now: 1_000_000,
                clock: 0,
                preview: false,
            });
            let Next::Look(query) = &plan.next else { return plan };
            match query {
                Query::Stamped { .. } => observed.stamped = Some(Stamped::default()),
                Query::VmidFree { vmid, .. } => observed.id_check = Some((*vmid, IdCheck::Free)),
                Query::Guest { .. } => observed.guest = Some(self.read()),
                Query::Creating { .. } => observed.creating = Some(false),
                Query::Image { .. } => {
                    let image = crate::observed::Image {
                        present: true,
                        ..Default::default()
                    };
                    observed.image = Some(Ok(image));
                }
                Query::Snippet { volid, .. } => observed.snippet = Some(Ok(self.snippets.contains(volid))),
                Query::Agent { .. } => {
                    observed.agent = Some(Ok(Agent::Answers {
                        ip: None,
                        cloud_init_done: Some(true),
                    }));
                }
                Query::CloudInit { .. } => {
                    observed.cloud_init = Some(Ok(CloudInitState {
                        pending: Vec::new(),
                        password: self.password.clone(),
                    }));
                }
                other => panic!("nobody asks for {other:?}"),
            }
        }
    }

    fn cluster(&self) -> Cluster {
        let storage = |name: &str, content: &[&str]| {
            let row = StorageRow {
                available: true,
                content: content.iter().map(|c| c.to_string()).collect(),
                type_: "zfspool".into(),
            };
            ((NODE.to_string(), name.to_string()), row)
        };
        let mut cluster = Cluster {
            read_now: true,
            quorate: Some(true),
            online: [NODE.to_string()].into(),
            storages: [
                storage("local-zfs", &["images"]),
                storage("fast", &["images"]),
                storage("local", &["import", "snippets"]),
            ]
            .into(),
            ..Cluster::default()
        };
        cluster.identity.nodes = vec![NODE.to_string()];
        if !self.options.is_empty() {
            let row = Row {
                type_: "qemu".into(),
                node: NODE.into(),
                pool: self.pool.clone(),
                ..Row::default()
            };
            cluster.guests.insert(VMID, row);
        }
        cluster
    }

    fn read(&self) -> GuestRead {
        if self.options.is_empty() {
            return GuestRead::NotFound;
        }
        GuestRead::Present(Box::new(Guest {
            options: self.options.clone(),
            digest: "d".into(),
            running: self.running,
            pid: self.running.then_some(7),
            uptime: self.running.then_some(60),
            ..Guest::new(GuestRef::new(GuestType::Qemu, VMID, NODE))
        }))
    }

    fn carry_out(&mut self, step: Step) {
        for announce in step.announce {
            match announce {
                Announce::Vmid { vmid, node, .. } => {
                    (self.status.vmid, self.status.node) = (Some(vmid.into()), Some(node));
                }
                Announce::CreateSent => self.status.create_sent = Some(true),
                Announce::Snippet(volid) => self.status.snippet = volid,
                other => panic!("nobody announces {other:?}"),
            }
        }
        match step.effect {
            Effect::Record => {}
            Effect::OnNode { work, .. } => self.on_node(work),
            Effect::Call { call, .. } | Effect::Task { call, .. } => self.call(&call),
            other => panic!("{other:?}"),
        }
    }

    fn on_node(&mut self, work: NodeWork) {
        match work {
            NodeWork::WriteSnippet { volid, .. } => {
                self.snippets.insert(volid);
            }
            NodeWork::SetOptions { set, delete, .. } => {
                set.iter().for_each(|(key, value)| self.set(key, value));
                delete.iter().for_each(|key| drop(self.options.remove(key)));
            }
            other => panic!("{other:?}"),
        }
    }

    fn call(&mut self, call: &ApiCall) {
        let param = |key: &str| call.params.iter().find(|(k, _)| k == key).map(|(_, v)| v.clone());
        let machine = format!("/nodes/{NODE}/qemu");
        match call.path.strip_prefix(&machine) {
            None if call.path == "/pools" => self.pool = param("poolid"),
            Some("/100/status/start") => self.running = true,
            Some("/100/resize") => {
                let place = param("disk").unwrap();
                let disk = Properties::of_option(&place, &self.options[&place]).unwrap();
                let disk = disk.with("size", param("size").unwrap());
                self.options.insert(place, disk.to_string());
            }
            Some("" | "/100/config") => {
                for (key, value) in &call.params {
                    match key.as_str() {
                        "vmid" | "digest" => {}
                        "pool" => self.pool = Some(value.clone()),
                        "cipassword" => {
                            self.password = Some(Secret::new(value));
                            self.options.insert(key.clone(), "**********".into());
                        }
                        "delete" => value.split(',').for_each(|key| drop(self.options.remove(key))),
                        _ => self.set(key, value),
                    }
                }
            }
            _ => panic!("{call:?}"),
        }
    }

    /// An option as Proxmox stores it: volumes are made, network cards get an address.
    fn set(&mut self, key: &str, value: &str) {
        self.volumes += 1;
        let stored = if is_drive(key) {
            let mut drive = Properties::of_option(key, value).unwrap();
            let image = drive.remove("import-from").is_some();
            let (storage, what) = drive.get("file").unwrap().split_once(':').unwrap();
            let number = self.volumes;
            let (file, size) = match (what, what.parse::<u32>()) {
                ("cloudinit", _) => (format!("{storage}:vm-{VMID}-cloudinit"), "4M".to_string()),
                (_, Ok(_)) if image => (format!("{storage}:vm-{VMID}-disk-{number}"), "3584M".into()),
                (_, Ok(gib)) => (format!("{storage}:vm-{VMID}-disk-{number}"), format!("{gib}G")),
                // What is there keeps its size.
                (_, Err(_)) => (drive.get("file").unwrap().into(), drive.get("size").unwrap().into()),
            };
            if what == "cloudinit" {
                drive.set("media", "cdrom");
            }
            drive.with("file", file).with("size", size).to_string()
        } else if let Some(number) = key.strip_prefix("net") {
            let rest = value.strip_prefix("model=virtio");
            rest.map_or(value.to_string(), |rest| {
                format!("virtio=BC:24:11:00:{number:0>2}:07{rest}")
            })
        } else {
            match default_key(key) {
                Some(_) if key != "boot" => Properties::of_option(key, value).unwrap().to_string(),
                _ => value.to_string(),
            }
        };
        self.options.insert(key.into(), stored);
    }
}

/// What stands for a plain option that is not set (the API's own defaults).
const DEFAULTS: &[(&str, &str)] = &[
    ("bios", "seabios"),
    ("ciupgrade", "1"),
    ("cores", "1"),
    ("cpulimit", "0"),
    ("hotplug", "network,disk,usb"),
    ("memory", "512"),
    ("numa", "0"),
    ("onboot", "0"),
    ("ostype", "other"),
    ("protection", "0"),
    ("scsihw", "lsi"),
    ("sockets", "1"),
];

/// What stands for a property that is not given, by the option without its number.
const PROPERTY_DEFAULTS: &[(&str, &str, &str)] = &[
    ("agent", "enabled", "0"),
    ("agent", "freeze-fs-on-backup", "1"),
    ("agent", "fstrim_cloned_disks", "0"),
    ("cpu", "cputype", "kvm64"),
    ("hostpci", "pcie", "0"),
    ("hostpci", "rombar", "1"),
    ("hostpci", "x-vga", "0"),
    ("machine", "type", "pc"),
    ("net", "firewall", "0"),
    ("usb", "usb3", "0"),
    ("vga", "type", "std"),
    ("drive", "backup", "1"),
    ("drive", "cache", "none"),
    ("drive", "discard", "ignore"),
    ("drive", "iothread", "0"),
    ("drive", "ro", "0"),
    ("drive", "ssd", "0"),
];

/// Decisions of either sort, one after the other.
pub(crate) struct Coin(pub u64);

impl Coin {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }

    fn flip(&mut self) -> bool {
        self.below(2) == 1
    }

    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for i in (1..list.len()).rev() {
            list.swap(i, self.below(i + 1));
        }
    }
}

/// The same configuration in other words: defaults spelt out or left out, properties in another order, what Proxmox
/// adds of its own.
pub(crate) fn respelt(options: &BTreeMap<String, String>, coin: &mut Coin) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    for (key, value) in options {
        let default = DEFAULTS.iter().any(|(k, v)| k == key && v == value);
        let again = match key.as_str() {
            _ if default && coin.flip() => continue,
            "memory" if coin.flip() => format!("current={value}"),
            "hotplug" | "tags" => {
                let mut words: Vec<&str> = value.split([',', ';']).collect();
                coin.shuffle(&mut words);
                words.join(if key == "tags" { ";" } else { "," })
            }
            "description" => format!("{}\n", value.trim_end_matches('\n')),
            "sshkeys" if coin.flip() => format!("{value}%0A"),
            "cpulimit" if coin.flip() => format!("{value}.0"),
            _ if has_properties(key) => match respelt_properties(key, value, coin) {
                Some(text) => text,
                None => continue,
            },
            _ => value.clone(),
        };
        out.insert(key.clone(), again);
    }
    let added = [
        ("vmgenid", "6b3f0f3e-6c0c-4a4e-8f55-0d6f3c1f2d11"),
        ("smbios1", "uuid=1f2d3c4b-0d6f-4a4e-8f55-6b3f0f3e6c0c"),
        ("meta", "creation-qemu=9.2.0,ctime=1750000000"),
        ("unused0", "local-zfs:vm-100-disk-99"),
    ];
    for (key, value) in DEFAULTS.iter().copied().chain(added) {
        if coin.flip() {
            out.entry(key.to_string()).or_insert(value.to_string());
        }
    }
    out
}

fn stem(key: &str) -> &str {
    key.trim_end_matches(|c: char| c.is_ascii_digit())
}

fn has_properties(key: &str) -> bool {
    let some = [
        "agent", "cpu", "hostpci", "ipconfig", "machine", "net", "startup", "usb", "vga",
    ];
    is_drive(key) || some.contains(&stem(key))
}

/// A property string in other words; `None` where nothing but defaults is left.
fn respelt_properties(key: &str, text: &str, coin: &mut Coin) -> Option<String> {
    let option = if is_drive(key) { "drive" } else { stem(key) };
    let is_default = |part: &str| {
        let (name, value) = part
            .split_once('=')
            .unwrap_or((default_key(key).unwrap_or_default(), part));
        PROPERTY_DEFAULTS.contains(&(option, name, value))
    };
    let mut parts: Vec<String> = text
        .split(',')
        .filter(|part| !(is_default(part) && coin.flip()))
        .map(str::to_string)
        .collect();
    for part in parts.iter_mut().filter(|_| option == "agent") {
        let names = ["freeze-fs-on-backup", "freeze-fs", "guest-fsfreeze"];
        *part = part.replace("freeze-fs-on-backup", names[coin.below(3)]);
    }
    // Proxmox writes the unnamed one first, and the others in an order of its own.
    let (mut unnamed, mut named): (Vec<_>, Vec<_>) = parts.into_iter().partition(|p| !p.contains('='));
    coin.shuffle(&mut named);
    unnamed.extend(named);
    (!unnamed.is_empty()).then(|| unnamed.join(","))
}
