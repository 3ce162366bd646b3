//! The end of a walk beside a new object of the last spec: what differs is explained, or wrong.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use phoenix::crd::GuestStatus;
use phoenix::pve::Vmid;
use regex::Regex;
use serde_json::Value;

use super::mishaps::{GUI, Mishap};
use super::run::Walker;
use crate::engine::told;
use crate::leaves::lines::plain;
use crate::leaves::schema::get;

/// Why the guest of a walk may have what a new one has not, or the other way round.
#[derive(Debug)]
enum Because {
    /// A condition that holds says so, with these words.
    Told(&'static str),
    /// The spec does not have this field any more, and its value is one that stays (docs/kinds.md).
    Stays(&'static str),
    /// By what Proxmox does or cannot do.
    Always,
}

/// The differences that are right: the begin of the line, and why.
const EXPLAINED: &[(&str, Because, &str)] = &[
    ("hostname", Because::Stays("hostname"), "a dropped host name stays"),
    ("name", Because::Stays("hostname"), "a dropped host name stays"),
    ("memory", Because::Stays("memory"), "dropped memory stays"),
    ("machine", Because::Stays("machine"), "a dropped machine type stays"),
    ("bios", Because::Stays("bios"), "a dropped bios stays"),
    ("ostype", Because::Stays("osType"), "a dropped type of system stays"),
    ("scsihw", Because::Stays("scsiController"), "a dropped controller stays"),
    ("serial0", Because::Stays("serial"), "a dropped serial console stays"),
    ("agent", Because::Stays("agent.enabled"), "a dropped agent stays"),
    ("net", Because::Stays("network"), "a dropped list of interfaces stays"),
    ("mp", Because::Stays("volumes"), "a dropped list of volumes stays"),
    (
        "running",
        Because::Stays("powerState"),
        "without a power state it goes on as it is",
    ),
    ("rootfs", Because::Stays("rootfs.size"), "a dropped size stays"),
    (
        "rootfs",
        Because::Told("rootfs.storage"),
        "the storage of a root filesystem is chosen once",
    ),
    (
        "unused",
        Because::Told("VolumeUnclaimed"),
        "a volume that the spec dropped stays with its guest",
    ),
    ("unused", Because::Always, "a volume that was detached and is nobody's"),
    (
        "mp",
        Because::Told("RecreateRequired"),
        "what of a volume is chosen once",
    ),
    (
        "mp",
        Because::Told("VolumeNotRetained"),
        "a volume stays what it was made as",
    ),
    (
        "unprivileged",
        Because::Told("unprivileged"),
        "the sort of a container is chosen once",
    ),
    ("node", Because::Told("node is "), "a guest stays on its node"),
    (
        "efidisk",
        Because::Told(".storage"),
        "the storage of a disk is chosen once",
    ),
    (
        "tpmstate",
        Because::Told(".storage"),
        "the storage of a disk is chosen once",
    ),
    (
        "ipconfig",
        Because::Stays("network"),
        "a dropped list of interfaces stays",
    ),
    (
        "disk",
        Because::Told(".storage"),
        "the storage of a disk is chosen once",
    ),
    ("disk", Because::Told(".bus"), "the bus of a disk is chosen once"),
    (
        "ide2",
        Because::Told(".storage"),
        "the cloud-init drive is on the first disk's storage",
    ),
    ("vga", Because::Stays("vga"), "a display of creation stays"),
    (
        "boot",
        Because::Stays("bootOrder"),
        "the first disk of creation is the boot disk",
    ),
    (
        "made keys",
        Because::Told("sshKeysSecretRef"),
        "keys are put in on creation",
    ),
    (
        "made keys",
        Because::Stays("sshKeysSecretRef"),
        "keys that were put in stay",
    ),
    (
        "made install",
        Because::Told("agent.install"),
        "the agent is installed at the first boot",
    ),
    (
        "made install",
        Because::Stays("agent.install"),
        "an agent that was installed stays",
    ),
    (
        "made packages",
        Because::Told("cloudInit.packages"),
        "packages are for the first boot",
    ),
    (
        "made packages",
        Because::Stays("cloudInit.packages"),
        "packages that were installed stay",
    ),
    (
        "made userData",
        Because::Told("cloudInit.userData"),
        "user-data is for the first boot",
    ),
    (
        "made userData",
        Because::Stays("cloudInit.userData"),
        "user-data of the first boot stays",
    ),
    (
        "cicustom",
        Because::Told("RecreateRequired"),
        "a snippet is for the first boot",
    ),
    (
        "cicustom",
        Because::Stays("cloudInit.packages"),
        "the snippet of the first boot stays",
    ),
    // A new clone keeps its template's rules where its spec has `firewall` without `rules`; one that had no `firewall` when
    // it was cloned lost them. To be decided: see docs/testing.md.
    ("rule", Because::Stays("firewall.rules"), "rules that a clone copied"),
];

/// Words of those that are refused in place, where a new object is Ready: promise 4, and what docs/templates.md says.
const REFUSED: &[&str] = &[
    "ShrinkRefused",
    "which cannot change: set it back",
    "is protected in Proxmox",
];

/// What a guest is made of, as lines that can be compared.
fn lines(walker: &Walker<'_>, status: &GuestStatus) -> BTreeSet<String> {
    let Some(vmid) = status.vmid().map(Vmid::get) else {
        return BTreeSet::new();
    };
    let guests = walker.world.guests();
    let options = guests.get(&vmid).cloned().unwrap_or_default();
    let places = places(&options);
    let mut found = BTreeSet::new();
    for (key, value) in &options {
        let value = value.strip_prefix(&format!("{key}:")).unwrap_or(value);
        match key.as_str() {
            "digest" | "raw" | "scripts" | "runs" | "snapshots" => {}
            "description" => value.lines().for_each(|line| described(line, &mut found)),
            _ => {
                let default = DEFAULT_KEYS.iter().find(|(of, _)| of == key);
                let value = default.map_or(value.to_owned(), |(_, name)| value.replacen(name, "", 1));
                found.insert(format!("{}: {}", place(key, &places), sorted(&value, &places)));
            }
        }
    }
    walker.world.sim().with(|state| {
        let guest = &state.guests[&vmid];
        found.insert(format!("node: {}", guest.node));
        let config = guest.config();
        found.extend(
            config
                .current
                .lxc
                .iter()
                .map(|(key, value)| format!("raw {key}: {value}")),
        );
        let pending = config
            .pending
            .iter()
            .map(|(key, value)| format!("pending {key}: {value}"));
        found.extend(pending.chain(config.pending_delete.keys().map(|key| format!("pending {key}: goes"))));
        if let Some(firewall) = state.firewalls.get(&vmid) {
            found.extend(
                firewall
                    .options
                    .iter()
                    .map(|(key, value)| format!("firewall {key}: {value}")),
            );
            let rules = firewall.rules.iter().enumerate();
            found.extend(rules.map(|(n, rule)| format!("rule {n}: {rule:?}")));
        }
        let pools = state.pools.iter().filter(|(_, pool)| pool.vms.contains(&vmid));
        found.extend(pools.map(|(name, _)| format!("pool: {name}")));
    });
    found.retain(|line| !NOTHING.contains(&line.as_str()));
    let found: BTreeSet<String> = found.iter().map(|line| MAC.replace(line, "").into_owned()).collect();
    found.iter().map(|line| plain(line, status.vmid(), "w0")).collect()
}

/// A line of a description; of a stamp what a guest was made with is told apart.
fn described(line: &str, found: &mut BTreeSet<String>) {
    let mut words = Vec::new();
    for word in line.split(' ') {
        match word.split_once('=') {
            Some(("keys", digest)) => found.extend([format!("made keys: {digest}")]),
            Some(("boot", parts)) => {
                found.extend(parts.split(',').map(|part| format!("made {}", part.replace(':', ": "))));
            }
            _ => words.push(word),
        }
    }
    found.insert(format!("description: {}", words.join(" ")));
}

/// What is the same as nothing.
const NOTHING: &[&str] = &[
    "protection: 0",
    "onboot: 0",
    "sockets: 1",
    "numa: 0",
    "machine: pc",
    "bios: seabios",
];
/// A hardware address, which is chance.
static MAC: LazyLock<Regex> = LazyLock::new(|| Regex::new("=[0-9A-F]{2}(:[0-9A-F]{2}){5}").unwrap());
/// Parts of values that are the same as nothing.
const NOTHING_OF: &[&str] = &[
    "rombar=1",
    "pcie=0",
    "ssd=0",
    "ro=0",
    "backup=1",
    "firewall=0",
    "link_down=0",
    "usb3=0",
    "x-vga=0",
    "deny-write=0",
];
/// Names that Proxmox lets a value's first part have or not.
const DEFAULT_KEYS: &[(&str, &str)] = &[
    ("machine", "type="),
    ("vga", "type="),
    ("agent", "enabled="),
    ("cpu", "cputype="),
];

/// Slots of a machine's disks with their names, which are their serial numbers.
fn places(options: &std::collections::BTreeMap<String, String>) -> Vec<(String, String)> {
    let serial = |value: &String| {
        value
            .split(',')
            .find_map(|part| part.strip_prefix("serial="))
            .map(str::to_owned)
    };
    let disks = options
        .iter()
        .filter_map(|(key, value)| Some((key.clone(), serial(value)?)));
    disks
        .map(|(key, serial)| {
            (
                key.clone(),
                format!("{}.{serial}", key.trim_end_matches(|c: char| c.is_ascii_digit())),
            )
        })
        .collect()
}

/// A key without the number that Proxmox or Phoenix chose.
fn place(key: &str, places: &[(String, String)]) -> String {
    if let Some((_, name)) = places.iter().find(|(slot, _)| slot == key) {
        return name.clone();
    }
    let bare = key.trim_end_matches(|c: char| c.is_ascii_digit());
    match bare {
        "mp" | "dev" | "net" | "usb" | "hostpci" | "unused" => bare.to_owned(),
        _ => key.to_owned(),
    }
}

/// A value with its parts in one order.
fn sorted(value: &str, places: &[(String, String)]) -> String {
    let named: Vec<String> = value.split(';').map(|part| place(part, places)).collect();
    let value = if value.contains("order=") {
        let order = value.trim_start_matches("order=").split(';');
        order.map(|slot| place(slot, places)).collect::<Vec<_>>().join(";")
    } else {
        named.join(";")
    };
    let mut parts: Vec<&str> = value.split(',').filter(|part| !NOTHING_OF.contains(part)).collect();
    parts.sort_unstable();
    parts.join(",")
}

/// Scripts that ended well in the guest, as their hashes.
fn scripts(walker: &Walker<'_>, status: &GuestStatus) -> BTreeSet<String> {
    let vmid = status.vmid().map(Vmid::get);
    walker.world.sim().with(|state| {
        let guest = vmid.and_then(|vmid| state.guests.get(&vmid));
        let scripts = guest.into_iter().flat_map(|guest| guest.inside.scripts.values());
        // Tests of a template run with its next revision.
        let counts = |id: &str| !(walker.walk.kind == "PhoenixTemplate" && id.starts_with("test-"));
        let scripts = scripts.filter(|script| script.exit_code == 0 && counts(&script.id));
        scripts.map(|script| format!("{} {}", script.id, script.hash)).collect()
    })
}

/// Compares a walk with a new object of its last document.
pub fn compare(walker: &mut Walker<'_>, fresh: &Walker<'_>) {
    let (status, new) = (walker.status(), fresh.status());
    let (said, new_said) = (told(&walker.world, &walker.key), told(&fresh.world, &fresh.key));
    match (walker.ready(), fresh.ready()) {
        (true, true) => {}
        (false, false) => return,
        (true, false) => {
            let found = ["RecreateRequired", "LargerThanSpec"]
                .iter()
                .any(|word| said.contains(word));
            if !found {
                walker.fault("a new one is refused", format!("{new_said}while this one says\n{said}"));
            }
            return;
        }
        (false, true) => {
            if !REFUSED.iter().any(|words| said.contains(words)) {
                walker.fault("a new one is Ready", said);
            }
            return;
        }
    }
    let (old, new_lines) = (lines(walker, &status), lines(fresh, &new));
    let differences = old.symmetric_difference(&new_lines);
    let mut wrong = Vec::new();
    for line in differences {
        match explanation(walker, line, &said) {
            Some(words) => walker.report.explained.push(words),
            None => wrong.push(format!(
                "{}{line}",
                if old.contains(line) { "walked: " } else { "new:    " }
            )),
        }
    }
    if !wrong.is_empty() {
        walker.fault("ends differently", format!("{}\n{said}", wrong.join("\n")));
    }
    let (ran, new_ran) = (scripts(walker, &status), scripts(fresh, &new));
    let missing: Vec<&String> = new_ran.difference(&ran).collect();
    if !missing.is_empty() {
        walker.fault("did not run", format!("{missing:?}, ran {ran:?}\n{said}"));
    }
}

fn explanation(walker: &Walker<'_>, line: &str, said: &str) -> Option<&'static str> {
    let key = line.split(": ").next().unwrap_or_default();
    let gui = GUI.iter().any(|(container, option, value, field)| {
        let edited = |mishap: &Mishap| matches!(mishap, Mishap::Option(key, to) if key == option && to == value);
        *container == walker.walk.container
            && *option == key
            && field_of(walker, field).is_none()
            && walker.walk.steps.iter().any(|step| edited(&step.mishap))
    });
    if gui {
        return Some("what somebody set and no spec manages");
    }
    let bus = key.split('.').next().unwrap_or_default();
    let bare = match bus {
        "scsi" | "sata" | "virtio" | "ide" if key.contains('.') => "disk",
        _ => key.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end(),
    };
    let explained = EXPLAINED.iter().find(|(of, because, _)| {
        (*of == key || *of == bare)
            && match because {
                Because::Told(words) => said.contains(words),
                Because::Stays(field) => field_of(walker, field).is_none(),
                Because::Always => true,
            }
    });
    explained.map(|(.., words)| *words)
}

/// A field of the guest's spec.
fn field_of<'v>(walker: &'v Walker<'_>, field: &str) -> Option<&'v Value> {
    let prefix = match (walker.walk.kind, walker.walk.container) {
        ("PhoenixTemplate", true) => "spec.lxc.",
        ("PhoenixTemplate", false) => "spec.vm.",
        _ => "spec.",
    };
    get(&walker.doc, &format!("{prefix}{field}"))
}
