//! Whether two answers mean the same. Counters, times, random values and orders that mean nothing are left out.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

/// Keys whose values are counters, times, or chosen at random.
const VOLATILE: &[&str] = &[
    "digest",
    "pid",
    "pstart",
    "starttime",
    "endtime",
    "uptime",
    "cpu",
    "mem",
    "disk",
    "netin",
    "netout",
    "diskread",
    "diskwrite",
    "memhost",
    "used",
    "ctime",
    "snaptime",
    "vmgenid",
    "smbios1",
    "meta",
    "loadavg",
    "wait",
    "idle",
    "time",
    "uid",
    "kversion",
    "free",
    "avail",
    "available",
    "upid",
    "saved",
    "used_fraction",
    "localtime",
    "notbefore",
    "notafter",
];

/// Rows of options carry these under `value`.
const VOLATILE_OPTIONS: &[&str] = &["digest", "vmgenid", "smbios1", "meta"];

/// What the requests of a scenario said, to tell chosen values from random ones.
#[derive(Debug, Default)]
pub struct Said(pub String);

impl Said {
    fn names(&self, text: &str) -> bool {
        self.0.to_uppercase().contains(&text.to_uppercase())
    }
}

fn is_property_string(key: &str) -> bool {
    ["net", "mp", "dev", "rootfs"].iter().any(|word| {
        key.strip_prefix(word)
            .is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit()))
    })
}

fn is_mac(text: &str) -> bool {
    let pair = |part: &str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
    text.split(':').count() == 6 && text.split(':').all(pair)
}

/// A property string as a set of parts, with random MAC addresses masked.
fn parts(said: &Said, text: &str) -> BTreeSet<String> {
    text.split(',')
        .map(|part| match part.split_once('=') {
            Some(("hwaddr", mac)) if !said.names(mac) => "hwaddr=<random>".to_owned(),
            // Networks of machines carry the address under the name of their model.
            Some((model, mac)) if is_mac(mac) && !said.names(mac) => format!("{model}=<random>"),
            _ => part.to_owned(),
        })
        .collect()
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(on) => Some(u8::from(*on).to_string()),
        _ => None,
    }
}

/// Type, id and user of a task id.
fn upid_meaning(text: &str) -> Option<Vec<&str>> {
    let fields: Vec<&str> = text.split(':').collect();
    (fields.len() == 9 && fields[0] == "UPID").then(|| fields[5..8].to_vec())
}

/// A text without what depends on time and place of the recording: times in names of backups, random ids, tickets,
/// hashes with a random salt, and what the resolver of the network says about an unknown name.
pub fn masked(text: &str) -> String {
    static TIME: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\d{4}(_\d\d){2}-\d\d(_\d\d){2}").unwrap());
    static ID: LazyLock<Regex> = LazyLock::new(|| Regex::new("OU=[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}").unwrap());
    static TICKET: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"^(PVE:[^:]+:)(<ticket>|[0-9A-F]{8}::\S+)$").unwrap());
    static HASH: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\$5\$[^$\s]+\$[\w./]+").unwrap());
    let text = TICKET.replace(text, "$1<ticket>");
    let text = HASH.replace_all(&text, "<hash>");
    let text = text.replace("Temporary failure in name resolution", "Name or service not known");
    let text = TIME.replace_all(&text, "<time>");
    ID.replace_all(&text, "OU=<id>").into_owned()
}

fn texts_agree(key: &str, said: &Said, expected: &str, actual: &str) -> bool {
    if let (Some(left), Some(right)) = (upid_meaning(expected), upid_meaning(actual)) {
        return left == right;
    }
    if is_property_string(key) {
        return parts(said, expected) == parts(said, actual);
    }
    if key == "content" {
        return expected.split(',').collect::<BTreeSet<_>>() == actual.split(',').collect::<BTreeSet<_>>();
    }
    // `<…>` stands for a masked value.
    if expected.starts_with('<') && expected.ends_with('>') || expected.contains("<kernel") {
        return true;
    }
    masked(expected) == masked(actual)
}

/// Differences between two values, each with its place.
pub fn differences(place: &str, said: &Said, expected: &Value, actual: &Value) -> Vec<String> {
    let key = place.rsplit('.').next().unwrap_or_default();
    match (expected, actual) {
        (Value::Object(left), Value::Object(right)) => {
            // A row of `/pending`: what is said of the option holds for its values.
            let option = left
                .get("key")
                .and_then(Value::as_str)
                .filter(|_| left.get("key") == right.get("key"));
            if option.is_some_and(|option| VOLATILE_OPTIONS.contains(&option)) {
                return Vec::new();
            }
            // The size of a backup depends on what was in the guest.
            let backup = left.get("content").and_then(Value::as_str) == Some("backup");
            // The size of a mounted file system is a measured value.
            let running = left.get("status").and_then(Value::as_str) == Some("running");
            let skip = |key: &str| {
                VOLATILE.contains(&key)
                    || key.starts_with("pressure")
                    || (running && key == "maxdisk")
                    || (backup && key == "size")
            };
            let names: BTreeSet<&String> = left.keys().chain(right.keys()).filter(|key| !skip(key)).collect();
            names
                .into_iter()
                .flat_map(|name| {
                    let place = match option.filter(|_| matches!(name.as_str(), "value" | "pending")) {
                        Some(option) => format!("{place}.{name}.{option}"),
                        None => format!("{place}.{name}"),
                    };
                    match (left.get(name), right.get(name)) {
                        (Some(left), Some(right)) => differences(&place, said, left, right),
                        (Some(left), None) => vec![format!("{place}: {left} is missing")],
                        (None, Some(right)) => vec![format!("{place}: {right} is too much")],
                        (None, None) => Vec::new(),
                    }
                })
                .collect()
        }
        (Value::Array(left), Value::Array(right)) => list_differences(place, said, left, right),
        (Value::Null, Value::Null) => Vec::new(),
        _ => match (scalar(expected), scalar(actual)) {
            (Some(left), Some(right)) if texts_agree(key, said, &left, &right) => Vec::new(),
            _ => vec![format!("{place}: expected {expected}, got {actual}")],
        },
    }
}

fn list_differences(place: &str, said: &Said, expected: &[Value], actual: &[Value]) -> Vec<String> {
    let mut left: Vec<&Value> = expected.iter().collect();
    let mut right: Vec<&Value> = actual.iter().collect();
    // Order means something only where rows carry their position, and then the position is compared.
    left.retain(|value| {
        let same = right
            .iter()
            .position(|other| differences(place, said, value, other).is_empty());
        same.map(|at| right.remove(at)).is_none()
    });
    let mut found = Vec::new();
    for value in left {
        if right.is_empty() {
            found.push(format!("{place}[]: {value} is missing"));
            continue;
        }
        let (at, closest) = right
            .iter()
            .enumerate()
            .map(|(at, other)| (at, differences(&format!("{place}[]"), said, value, other)))
            .min_by_key(|(_, differences)| differences.len())
            .unwrap_or_default();
        right.remove(at);
        found.extend(closest);
    }
    found.extend(right.iter().map(|value| format!("{place}[]: {value} is too much")));
    found
}

/// Log lines without what tools printed: only lines that Proxmox itself writes are compared, and how many there are.
pub fn log_lines(lines: &[Value]) -> Vec<String> {
    let own = [
        "TASK ",
        "WARN: ",
        "extracting archive",
        "Detected container",
        "unable to open file",
        "no content",
    ];
    lines
        .iter()
        .filter_map(|line| line.as_str().or_else(|| line.get("t").and_then(Value::as_str)))
        .map(|line| {
            if own.iter().any(|start| line.starts_with(start)) {
                masked(line)
            } else {
                "…".to_owned()
            }
        })
        .collect()
}
