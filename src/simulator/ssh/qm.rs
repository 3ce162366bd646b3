//! `qm` on a node: the same as the API calls of the true root.

use super::Reply;
use super::commands::pairs;
use crate::simulator::model::State;
use crate::simulator::model::vm_cloudinit::shown;
use crate::simulator::model::vm_config::VmChange;

/// A `qm` command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Qm {
    /// The machine.
    pub vmid: u32,
    verb: Verb,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Verb {
    Set(Box<VmChange>),
    Config,
    Status,
    Unlock,
}

impl Qm {
    /// Understands what follows `qm`.
    pub fn parse(words: &[&str]) -> Result<Self, String> {
        let (verb, vmid, options) = match words {
            [verb, vmid, options @ ..] => (*verb, *vmid, options),
            _ => return Err(format!("qm {} is not known", words.join(" "))),
        };
        let vmid = vmid.parse().map_err(|_| format!("{vmid:?} is no vmid"))?;
        let verb = match (verb, options) {
            ("set", options) => Verb::Set(Box::new(change(options)?)),
            ("config", []) => Verb::Config,
            ("status", []) => Verb::Status,
            ("unlock", []) => Verb::Unlock,
            _ => return Err(format!("qm {} is not known", words.join(" "))),
        };
        Ok(Self { vmid, verb })
    }

    /// What it does, in a few words.
    pub fn summary(&self) -> String {
        match &self.verb {
            Verb::Set(change) => {
                let keys: Vec<&str> = change.set.keys().chain(&change.delete).map(String::as_str).collect();
                format!("qm set {} {}", self.vmid, keys.join(" "))
            }
            Verb::Config => format!("qm config {}", self.vmid),
            Verb::Status => format!("qm status {}", self.vmid),
            Verb::Unlock => format!("qm unlock {}", self.vmid),
        }
    }

    /// Does it on `node`.
    pub fn run(&self, state: &mut State, node: &str) -> Reply {
        let vmid = self.vmid;
        let guest = match state.vm(node, vmid) {
            Ok(guest) => guest,
            Err(error) => return Reply::from_error(2, &error),
        };
        match &self.verb {
            Verb::Set(change) => match state.qm_set(node, vmid, (**change).clone()) {
                Ok(()) => {
                    let set = change.set.iter().map(|(key, value)| {
                        let value = if key == "cipassword" { "<hidden>" } else { value };
                        format!("-{key} {value}")
                    });
                    Reply::ok(format!("update VM {vmid}: {}\n", set.collect::<Vec<_>>().join(" ")))
                }
                Err(error) => Reply::from_error(255, &error),
            },
            Verb::Config => {
                let options = &guest.config().current.options;
                let line = |(key, value): (&String, &String)| {
                    let value = shown(key, value).replace('\n', "%0A");
                    format!("{key}: {value}\n")
                };
                Reply::ok(options.iter().map(line).collect())
            }
            Verb::Status => {
                let word = if guest.running.is_some() { "running" } else { "stopped" };
                Reply::ok(format!("status: {word}\n"))
            }
            Verb::Unlock => {
                state.unlock(vmid);
                Reply::ok(String::new())
            }
        }
    }
}

fn change(options: &[&str]) -> Result<VmChange, String> {
    let list = |value: &str| value.split([',', ';', ' ']).map(str::to_owned).collect();
    let mut change = VmChange::default();
    for (key, value) in pairs(options)? {
        match key.as_str() {
            "delete" => change.delete = list(&value),
            "revert" => change.revert = list(&value),
            "digest" => change.digest = Some(value),
            "force" => change.force = value == "1",
            "skiplock" => change.skiplock = value == "1",
            _ => drop(change.set.insert(key, value)),
        }
    }
    Ok(change)
}
