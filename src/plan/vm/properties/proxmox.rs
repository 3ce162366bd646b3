//! Machines made by plans, and the spellings in which their configuration may be read back.

use std::collections::BTreeMap;

use crate::crd::GuestStatus;
use crate::desired::Desired;
use crate::observed::{Cluster, GuestRead, IdCheck, Observed, Stamped, StorageRow};
use crate::plan::{Forecast, Input, Next, Plan, Query, plan};
use crate::pve::property::default_key;

const NODE: &str = "pve1";

/// A cluster without guests, of which nothing was looked at yet.
fn empty() -> Observed {
    let storage = |name: &str, content: &[&str]| {
        let row = StorageRow {
            available: true,
            content: content.iter().map(|c| c.to_string()).collect(),
            type_: "zfspool".into(),
            shared: false,
        };
        ((NODE.to_string(), name.to_string()), row)
    };
    let mut cluster = Cluster {
        read_now: true,
        quorate: Some(true),
        online: [NODE.to_string()].into(),
        storages: BTreeMap::from([
            storage("local-zfs", &["images"]),
            storage("fast", &["images"]),
            storage("local", &["import", "snippets"]),
        ])
        .into(),
        ..Cluster::default()
    };
    cluster.identity.nodes = vec![NODE.to_string()];
    Observed {
        cluster,
        ..Observed::default()
    }
}

/// Carries plans out until there is nothing left to do.
pub(crate) fn made(desired: &Desired) -> Result<Forecast, String> {
    let mut forecast = Forecast::new(empty(), GuestStatus::default());
    let mut done = Vec::new();
    for _ in 0..80 {
        let plan = next(&mut forecast, desired);
        match &plan.next {
            Next::Done => return Ok(forecast),
            Next::Run(step) => {
                done.push(step.action.clone());
                if !forecast.carry_out(&plan, 1, Some(&desired.prints.applied), 1_000_000) {
                    return Err(format!("nobody knows what comes of {done:#?}"));
                }
            }
            other => return Err(format!("{other:?} after {done:#?}")),
        }
    }
    Err(format!("no end: {done:#?}"))
}

/// What is to be done next, with every look answered.
pub(crate) fn next(forecast: &mut Forecast, desired: &Desired) -> Plan {
    loop {
        let plan = plan(Input {
            desired,
            dependencies: &|| Ok(()),
            conflicts: &[],
            observed: &forecast.observed,
            status: &forecast.status,
            now: 1_000_000,
            clock: 0,
        });
        let Next::Look(query) = &plan.next else { return plan };
        let Some(query) = forecast.answer(query.clone()) else {
            continue;
        };
        // What the steps have not touched is as before the first of them.
        let observed = &mut forecast.observed;
        match &query {
            Query::Stamped { .. } => observed.stamped = Some(Stamped::default()),
            Query::VmidFree { vmid, .. } => observed.id_check = Some((*vmid, IdCheck::Free)),
            Query::Guest { vmid, .. } => {
                (observed.guest, observed.guest_of) = (Some(GuestRead::NotFound), Some(*vmid));
            }
            Query::Image { volid, .. } => {
                let image = crate::observed::Image {
                    present: true,
                    ..Default::default()
                };
                observed.images.insert(volid.clone(), Ok(image));
            }
            Query::Snippet { .. } => observed.snippet = Some(Ok(false)),
            Query::Cards { .. } => observed.cards = Some(crate::observed::Cards::Assumed),
            other => panic!("nobody asks for {other:?}"),
        }
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

fn is_drive(key: &str) -> bool {
    let drives = ["scsi", "virtio", "sata", "ide", "efidisk", "tpmstate"];
    stem(key) != key && drives.contains(&stem(key))
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
    // Proxmox notes how large an image is.
    if parts.iter().any(|part| part == "media=cdrom") && text.contains(":iso/") && coin.flip() {
        parts.push("size=374K".into());
    }
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
