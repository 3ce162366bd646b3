//! What the cluster holds of a guest, as lines that can be compared.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use phoenix::pve::Vmid;
use phoenix::simulator::State;
use regex::{Captures, Regex};

/// Everything of a guest.
pub fn collect(state: &State, vmid: u32, options: &BTreeMap<String, String>, lines: &mut BTreeSet<String>) {
    let mut add = |what: &str, value: &dyn std::fmt::Display| {
        lines.insert(format!("{what}: {value}"));
    };
    for (key, value) in options.iter().filter(|(key, _)| *key != "digest") {
        value.lines().for_each(|line| add(key, &line));
    }
    let Some(guest) = state.guests.get(&vmid) else {
        return;
    };
    add("node", &guest.node);
    // Those that Proxmox made are chance.
    for mac in ["BC:24:11:00:00:01", "BC:24:11:00:00:02"] {
        if guest.text().contains(mac) {
            add("mac", &mac);
        }
    }
    for line in format!("{:#?}", guest.config().pending).lines() {
        add("pending", &line);
    }
    for (script, run) in &guest.inside.scripts {
        add("script", &format!("{script} {} run {}", run.hash, run.runs));
    }
    // Only what was asked since the value changed is there; the last line says what.
    for probe in &guest.inside.probed {
        let (seconds, command) = probe.split_once(' ').unwrap_or_default();
        let last = command
            .lines()
            .rfind(|line| !line.trim().is_empty())
            .unwrap_or_default();
        add("probe", &format!("{seconds} {last}"));
    }
    for (key, value) in &guest.machine.cloud_init {
        value.lines().for_each(|line| add(&format!("cloud-init {key}"), &line));
    }
    let files = guest.inside.files.iter();
    let custom = options.get("cicustom").map_or("", String::as_str);
    let snippets = state.nodes[&guest.node].files.iter();
    let snippets = snippets.filter(|(path, _)| path.rsplit('/').next().is_some_and(|name| custom.contains(name)));
    for (path, file) in files.chain(snippets) {
        add(&format!("mode of {path}"), &format!("{:o}", file.mode));
        let text = String::from_utf8_lossy(&file.content);
        text.lines().for_each(|line| add(path, &line));
    }
    if let Some(firewall) = state.firewalls.get(&vmid) {
        firewall
            .options
            .iter()
            .for_each(|(key, value)| add(&format!("firewall {key}"), value));
        let rules = firewall.rules.iter().enumerate();
        rules.for_each(|(n, rule)| add(&format!("rule {n}"), &format!("{rule:?}")));
    }
    for (name, _) in state.pools.iter().filter(|(_, pool)| pool.vms.contains(&vmid)) {
        add("pool", name);
    }
}

/// What differs from run to run, and the word for it.
static CHANCE: LazyLock<[(Regex, &str); 4]> = LazyLock::new(|| {
    [
        (r"\b[0-9a-f]{8,}\b", "HASH"),
        (r"\b10\.2[0-9]\.[0-9]+\.7\b", "IP"),
        (r"disk-[0-9]+", "disk-N"),
        (r"\b(vm|subvol|base)-[0-9]+-", "$1-VMID-"),
    ]
    .map(|(pattern, word)| (Regex::new(pattern).unwrap(), word))
});

/// What may be the object's name or its guest's id.
static OWN: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\b(w[0-9]+|[1-4][0-9]{3})\b").unwrap());

/// Without what differs from run to run.
pub fn plain(text: &str, vmid: Option<Vmid>, name: &str) -> String {
    let vmid = vmid.map(|vmid| vmid.to_string());
    let own = |found: &Captures<'_>| match &found[0] {
        word if word == name => "NAME".to_owned(),
        word if Some(word) == vmid.as_deref() => "VMID".to_owned(),
        word => word.to_owned(),
    };
    let mut text = OWN.replace_all(text, own).into_owned();
    for (pattern, word) in CHANCE.iter() {
        if let Cow::Owned(changed) = pattern.replace_all(&text, *word) {
            text = changed;
        }
    }
    text
}

/// What went and what came, a few lines of it.
pub fn difference(before: &BTreeSet<String>, after: &BTreeSet<String>) -> String {
    // A changed hash says only that something else changed.
    let lines = |from: &BTreeSet<String>, other: &BTreeSet<String>, sign: &str| -> Vec<String> {
        let all: Vec<&String> = from.difference(other).collect();
        let telling: Vec<&String> = all.iter().copied().filter(|line| !line.contains("HASH")).collect();
        let chosen = if telling.is_empty() { all } else { telling };
        let short = |line: &String| match line.char_indices().nth(100) {
            Some((at, _)) => format!("{sign}{}…", &line[..at]),
            None => format!("{sign}{line}"),
        };
        chosen.into_iter().take(3).map(short).collect()
    };
    let both = [lines(before, after, "- "), lines(after, before, "+ ")].concat();
    both.join(" ")
}
