//! The configuration file of a guest: options, raw `lxc.*` lines, pending changes and snapshots, and its text form
//! with the SHA-1 digest (facts A.7, D.5, D.6).

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use sha1::{Digest as _, Sha1};

/// The option that holds environment variables, and the raw lines that it becomes in the file.
const ENVIRONMENT: &str = "env";
const RUNTIME: &str = "lxc.environment.runtime";

/// One section of the file: the current state or a snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Section {
    /// Options by name; `description` decoded and with its trailing newline.
    pub options: BTreeMap<String, String>,
    /// Raw `lxc.*` lines in file order.
    pub lxc: Vec<(String, String)>,
}

impl Section {
    /// Value of an option.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.options.get(key).map(String::as_str)
    }

    /// Sets an option; a description gets the form that it has after a trip through the file.
    pub fn set(&mut self, key: &str, value: impl Into<String>) {
        let value = value.into();
        let value = match key {
            "description" => file_description(&value),
            ENVIRONMENT => value,
            _ => file_value(&value),
        };
        if key == "description" && value.is_empty() {
            self.options.remove(key);
        } else {
            self.options.insert(key.to_owned(), value);
        }
    }

    /// Removes an option.
    pub fn remove(&mut self, key: &str) -> Option<String> {
        self.options.remove(key)
    }

    /// True when the option is set to a true value.
    pub fn flag(&self, key: &str) -> bool {
        self.get(key).is_some_and(super::property::is_true)
    }

    fn render(&self, out: &mut String) {
        for line in self.get("description").unwrap_or_default().lines() {
            let _ = writeln!(out, "#{}", encode_text(line));
        }
        for (key, value) in &self.options {
            if key != "description" && key != ENVIRONMENT {
                let _ = writeln!(out, "{key}: {value}");
            }
        }
        let variables = self.get(ENVIRONMENT).unwrap_or_default().split('\0');
        for variable in variables.filter(|variable| !variable.is_empty()) {
            let _ = writeln!(out, "{RUNTIME}: {variable}");
        }
        for (key, value) in &self.lxc {
            let _ = writeln!(out, "{key}: {value}");
        }
    }
}

/// A whole guest configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestConfig {
    /// What is in force.
    pub current: Section,
    /// Changes that wait for the next start.
    pub pending: BTreeMap<String, String>,
    /// Options whose removal waits for the next start; the value says whether the removal is forced.
    pub pending_delete: BTreeMap<String, bool>,
    /// Snapshots by name.
    pub snapshots: BTreeMap<String, Section>,
}

impl GuestConfig {
    /// The text of the file, as Proxmox writes it: keys sorted, description as comment.
    pub fn render(&self) -> String {
        let mut out = String::new();
        self.current.render(&mut out);
        if !self.pending.is_empty() || !self.pending_delete.is_empty() {
            out.push_str("\n[pve:pending]\n");
            if !self.pending_delete.is_empty() {
                let list: Vec<_> = self
                    .pending_delete
                    .iter()
                    .map(|(key, force)| format!("{}{key}", if *force { "!" } else { "" }))
                    .collect();
                let _ = writeln!(out, "delete: {}", list.join(","));
            }
            for (key, value) in &self.pending {
                let _ = writeln!(out, "{key}: {value}");
            }
        }
        for (name, section) in &self.snapshots {
            let _ = write!(out, "\n[{name}]\n");
            section.render(&mut out);
        }
        out
    }

    /// Reads the text of a file. Lines that are neither an option nor a known `lxc.*` line are dropped, as Proxmox drops
    /// them at the next write.
    pub fn parse(text: &str) -> Self {
        let mut config = Self::default();
        let mut section = Section::default();
        let mut description = String::new();
        let mut name: Option<String> = None;
        for line in text.lines() {
            if let Some(next) = line
                .strip_prefix('[')
                .and_then(|rest| rest.trim_end().strip_suffix(']'))
            {
                config.close_section(
                    name.take(),
                    std::mem::take(&mut section),
                    std::mem::take(&mut description),
                );
                name = Some(next.to_owned());
            } else if let Some(comment) = line.strip_prefix('#') {
                description.push_str(&decode_text(comment.trim_end()));
                description.push('\n');
            } else if let Some((key, value)) = split_line(line) {
                if key == RUNTIME {
                    let old = section
                        .get(ENVIRONMENT)
                        .map(|old| format!("{old}\0"))
                        .unwrap_or_default();
                    section.options.insert(ENVIRONMENT.to_owned(), old + &value);
                } else if key.starts_with("lxc.") {
                    if super::lxc_raw::is_known(&key) {
                        section.lxc.push((key, value));
                    }
                } else if !value.is_empty() {
                    section.options.insert(key, value);
                }
            }
        }
        config.close_section(name, section, description);
        config
    }

    fn close_section(&mut self, name: Option<String>, mut section: Section, description: String) {
        if !description.is_empty() {
            section.set("description", description);
        }
        match name.as_deref() {
            None => self.current = section,
            Some("pve:pending") => {
                if let Some(list) = section.options.remove("delete") {
                    for key in super::property::split_list(&list) {
                        let force = key.starts_with('!');
                        self.pending_delete
                            .insert(key.trim_start_matches('!').to_owned(), force);
                    }
                }
                self.pending = section.options;
            }
            Some(name) => {
                self.snapshots.insert(name.to_owned(), section);
            }
        }
    }
}

/// SHA-1 of the text in hex: the `digest` of the API.
pub fn digest(text: &str) -> String {
    Sha1::digest(text.as_bytes())
        .iter()
        .fold(String::with_capacity(40), |mut out, byte| {
            let _ = write!(out, "{byte:02x}");
            out
        })
}

fn split_line(line: &str) -> Option<(String, String)> {
    let at = line.find([':', '='])?;
    let key = line[..at].trim();
    let raw = key.starts_with("lxc.");
    let good = !key.is_empty()
        && key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-' || (raw && b == b'.'))
        && (raw || line.as_bytes().get(at) == Some(&b':'));
    good.then(|| (key.to_owned(), line[at + 1..].trim().to_owned()))
}

/// A value as it reads after being written as a line: without blanks around it, and one blank when it is empty.
fn file_value(text: &str) -> String {
    let trimmed = text.trim();
    if trimmed.is_empty() { " " } else { trimmed }.to_owned()
}

/// A description as it reads after being written as comment lines: trailing empty lines go, one newline ends it.
fn file_description(text: &str) -> String {
    let trimmed = text.trim_end_matches('\n');
    if trimmed.is_empty() {
        String::new()
    } else {
        format!("{trimmed}\n")
    }
}

/// Control characters, `%`, `:` and everything beyond ASCII percent-encoded, as in configuration comments.
fn encode_text(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if !(0x20..0x7f).contains(&byte) || byte == b'%' || byte == b':' {
            let _ = write!(out, "%{byte:02X}");
        } else {
            out.push(byte as char);
        }
        out
    })
}

fn decode_text(text: &str) -> String {
    percent_encoding::percent_decode_str(text)
        .decode_utf8_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        let mut config = GuestConfig::default();
        config.current.set("description", "line: one äö\nsecond 50%");
        config.current.set("memory", "512");
        config.current.lxc.push(("lxc.cap.drop".to_owned(), String::new()));
        config
            .current
            .lxc
            .push(("lxc.apparmor.profile".to_owned(), "unconfined".to_owned()));
        config.pending.insert("nameserver".to_owned(), "1.1.1.1".to_owned());
        config.pending_delete.insert("mp1".to_owned(), true);
        let mut snapshot = config.current.clone();
        snapshot.set("snaptime", "1700000000");
        config.snapshots.insert("s1".to_owned(), snapshot);
        let text = config.render();
        assert!(text.starts_with("#line%3A one "), "{text}");
        assert_eq!(GuestConfig::parse(&text), config);
        assert_eq!(digest(""), "da39a3ee5e6b4b0d3255bfef95601890afd80709");
    }

    #[test]
    fn edited_text_keeps_known_lines_only() {
        let config = GuestConfig::parse(
            "arch: amd64\nnonsense\nlxc.sysctl.vm.swappiness: 1\nlxc.environment.runtime: A=1\nlxc.environment.runtime: B=2\nlxc.apparmor.profile = generated\n\n[s1]\nmemory: 16\n",
        );
        assert_eq!(config.current.get("arch"), Some("amd64"));
        assert_eq!(
            config.current.lxc,
            [("lxc.apparmor.profile".to_owned(), "generated".to_owned())]
        );
        assert_eq!(config.current.get("env"), Some("A=1\0B=2"));
        assert_eq!(GuestConfig::parse(&config.render()), config);
        assert_eq!(config.snapshots["s1"].get("memory"), Some("16"));
    }
}
