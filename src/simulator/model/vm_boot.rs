//! What happens inside a virtual machine when it boots: the guest agent comes up after a while, and cloud-init does
//! its work the first time it meets an instance (facts F.2, F.8). Nothing is executed: of cloud-config the packages,
//! the files and the programs that say what they do (`ssh::runner`) are taken, the rest only takes time.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;

use super::error::Result;
use super::guest::GuestFile;
use super::state::State;
use crate::simulator::ssh::runner::Program;

/// Name of the note of the instance that cloud-init has worked for.
const INSTANCE: &str = "cloud-init.instance";
/// Name of the note of when cloud-init is done, in milliseconds since 1970.
pub const DONE_AT: &str = "cloud-init.done-at";
/// Name of the note of how it ended: `done` or `error`.
pub const OUTCOME: &str = "cloud-init.status";
/// Name of the note whether the guest agent is installed; it is where the note is missing.
pub const AGENT: &str = "agent";

impl State {
    /// A machine boots now.
    pub(super) fn boot_vm(&mut self, vmid: u32) -> Result<()> {
        let booted = self.now + self.scaled(self.latency.boot);
        let installed = |state: &Self| {
            let guest = state.guests.get(&vmid);
            guest.is_some_and(|guest| guest.inside.facts.get(AGENT).is_none_or(|text| text != "0"))
        };
        let mut agent_from = installed(self).then_some(booted);
        if let Some((instance, texts)) = self.cloud_init_of(vmid) {
            let known = self
                .guests
                .get(&vmid)
                .is_some_and(|guest| guest.inside.facts.get(INSTANCE) == Some(&instance));
            if !known {
                let packages = self.first_boot(vmid, booted, &texts)?;
                self.guest_mut(vmid)?.inside.facts.insert(INSTANCE.to_owned(), instance);
                if agent_from.is_none() && installed(self) {
                    agent_from = Some(packages);
                }
            }
        }
        self.guest_mut(vmid)?.machine.agent_from = agent_from;
        Ok(())
    }

    /// Whether cloud-init is through in a guest, or was never there.
    pub fn cloud_init_done(&self, vmid: u32) -> bool {
        let facts = self.guests.get(&vmid).map(|guest| &guest.inside.facts);
        let done_at = facts.and_then(|facts| facts.get(DONE_AT)?.parse::<u64>().ok());
        done_at.is_none_or(|at| at <= self.now)
    }

    /// Packages, files, programs. Gives the time at which the packages are there.
    fn first_boot(&mut self, vmid: u32, booted: u64, texts: &[String]) -> Result<u64> {
        let configs: Vec<Value> = texts
            .iter()
            .flat_map(|text| parts(text))
            .filter_map(|part| cloud_config(&part))
            .collect();
        let list = |key: &str| -> Vec<Value> {
            let lists = configs.iter().filter_map(|config| config.get(key)?.as_array());
            lists.flatten().cloned().collect()
        };
        let packages = list("packages");
        let mut at = booted;
        if !packages.is_empty() {
            at += self.scaled(self.latency.cloud_init);
        }
        if packages.iter().any(|name| name.as_str() == Some("qemu-guest-agent")) {
            self.guest_mut(vmid)?
                .inside
                .facts
                .insert(AGENT.to_owned(), "1".to_owned());
        }
        for file in list("write_files") {
            if let Some((path, file)) = written(&file) {
                self.guest_mut(vmid)?.inside.files.insert(path, file);
            }
        }
        let (mut done, mut outcome) = (at, "done");
        for command in list("runcmd") {
            match self.run_command(vmid, &command, done) {
                Ok(ends_at) => done = ends_at,
                Err(ends_at) => (done, outcome) = (ends_at, "error"),
            }
        }
        let facts = &mut self.guest_mut(vmid)?.inside.facts;
        facts.insert(DONE_AT.to_owned(), done.to_string());
        facts.insert(OUTCOME.to_owned(), outcome.to_owned());
        Ok(at)
    }

    /// A command of cloud-config: when it ends, as error where it fails. A program that was written before is run; one
    /// that goes through the others of its folder runs them in order, until one fails.
    fn run_command(&mut self, vmid: u32, command: &Value, at: u64) -> std::result::Result<u64, u64> {
        let words: Vec<&str> = match command {
            Value::Array(items) => items.iter().filter_map(Value::as_str).collect(),
            Value::String(text) => text.split_whitespace().collect(),
            _ => Vec::new(),
        };
        let Some(guest) = self.guests.get(&vmid) else {
            return Ok(at);
        };
        let Some(path) = words.iter().find(|word| guest.inside.files.contains_key(**word)) else {
            return Ok(at);
        };
        let text = |path: &str| {
            let file = guest.inside.files.get(path);
            file.map(|file| String::from_utf8_lossy(&file.content).into_owned())
                .unwrap_or_default()
        };
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let programs: Vec<String> = if text(path).contains("/*.sh") {
            let inside = |other: &&String| {
                let name = other.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/'));
                name.is_some_and(|name| !name.contains('/') && name.ends_with(".sh"))
            };
            guest
                .inside
                .files
                .keys()
                .filter(inside)
                .map(|path| text(path))
                .collect()
        } else {
            vec![text(path)]
        };
        let mut at = at;
        for program in programs {
            let Ok(program) = Program::parse(program.as_bytes()) else {
                continue;
            };
            let fault = self.agent.script_fault(vmid, &program.summary());
            match program.start_at(self, vmid, fault.as_ref(), at) {
                (ends_at, 0) => at = ends_at,
                (ends_at, _) => return Err(ends_at),
            }
        }
        Ok(at)
    }
}

/// The parts of a MIME archive, or the text itself.
fn parts(text: &str) -> Vec<String> {
    let boundary = text.lines().take_while(|line| !line.is_empty()).find_map(|line| {
        line.split_once("boundary=")
            .map(|(_, rest)| rest.trim_matches('"').to_owned())
    });
    let Some(boundary) = boundary.filter(|_| text.starts_with("Content-Type: multipart/")) else {
        return vec![text.to_owned()];
    };
    let mark = format!("--{boundary}");
    text.split(&mark)
        .skip(1)
        .filter_map(|part| {
            let (head, body) = part.trim_start_matches('\n').split_once("\n\n")?;
            if !head.contains("base64") {
                return Some(body.to_owned());
            }
            let packed: String = body.split_whitespace().collect();
            String::from_utf8(BASE64.decode(packed).ok()?).ok()
        })
        .collect()
}

/// A part as cloud-config, if it is.
fn cloud_config(part: &str) -> Option<Value> {
    let yaml = part.strip_prefix("#cloud-config")?;
    serde_saphyr::from_str(yaml).ok()
}

/// An entry of `write_files`.
fn written(entry: &Value) -> Option<(String, GuestFile)> {
    let path = entry.get("path")?.as_str()?.to_owned();
    let text = entry.get("content").and_then(Value::as_str).unwrap_or_default();
    let encoded = matches!(entry.get("encoding").and_then(Value::as_str), Some("b64" | "base64"));
    let content = if encoded {
        BASE64.decode(text.trim()).unwrap_or_default()
    } else {
        text.as_bytes().to_vec()
    };
    let mode = entry.get("permissions").and_then(Value::as_str).unwrap_or("0644");
    let mode = u32::from_str_radix(mode, 8).unwrap_or(0o644);
    Some((path, GuestFile { content, mode }))
}

/// The link-local address that a MAC address gives.
pub fn link_local(mac: &str) -> String {
    let bytes: Vec<u8> = mac
        .split(':')
        .filter_map(|part| u8::from_str_radix(part, 16).ok())
        .collect();
    let [a, b, c, d, e, f] = bytes[..] else {
        return "fe80::1".to_owned();
    };
    let pair = |high: u8, low: u8| u16::from(high) << 8 | u16::from(low);
    let address = std::net::Ipv6Addr::new(
        0xfe80,
        0,
        0,
        0,
        pair(a ^ 2, b),
        pair(c, 0xff),
        pair(0xfe, d),
        pair(e, f),
    );
    address.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_taken_apart() {
        let packed = BASE64.encode("#cloud-config\n{\"packages\": [\"a\"]}\n");
        let text = format!(
            "Content-Type: multipart/mixed; boundary=\"==x==\"\nMIME-Version: 1.0\n\n--==x==\nContent-Type: \
             text/cloud-config\nContent-Transfer-Encoding: base64\n\n{packed}\n--==x==--\n"
        );
        let found: Vec<_> = parts(&text).iter().filter_map(|part| cloud_config(part)).collect();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0]["packages"][0], "a");
        assert_eq!(parts("#cloud-config\nx: 1\n").len(), 1);
    }
}
