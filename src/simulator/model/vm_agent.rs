//! The QEMU guest agent of a virtual machine: when it answers, processes, files (facts F.8). What goes wrong with it is
//! ordered in [`super::vm_agent_faults`].

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::error::{ApiError, Result};
use super::guest::{Guest, GuestFile};
use super::state::State;
use super::vm_agent_faults::{AgentAction, for_script};
use super::vm_boot::{DONE_AT, OUTCOME};
use super::vm_options::agent_enabled;
use crate::simulator::ssh::runner::{Outcome, Program};

/// How long a short command takes, in milliseconds before scaling.
const SHORT: u64 = 50;
/// Most that a process's output is kept of (facts F.8).
const MOST_OUTPUT: usize = 16 << 20;

/// A process that the agent started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentProcess {
    /// When it ends, in milliseconds since 1970.
    pub ends_at: u64,
    /// Exit code.
    pub exit: i32,
    /// The signal that ends it instead.
    pub signal: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
    /// How much of the output comes back.
    pub most: Option<usize>,
}

fn agent_error(text: impl std::fmt::Display) -> ApiError {
    ApiError::die(format!("Agent error: {text}"))
}

fn timeout(vmid: u32, command: &str) -> ApiError {
    ApiError::die(format!("VM {vmid} qmp command 'guest-{command}' failed - got timeout"))
}

impl State {
    /// Whether the agent of a machine would answer now.
    pub fn agent_answers(&self, guest: &Guest) -> bool {
        let machine = &guest.machine;
        let up = machine.agent_from.is_some_and(|from| from <= self.now);
        guest.running.is_some() && up && !machine.agent_dead && !machine.paused
    }

    /// The checks before every command. `what` is the command with what it is about, for faults.
    fn reach_agent(&mut self, node: &str, vmid: u32, what: &str) -> Result<Option<AgentAction>> {
        let guest = self.vm(node, vmid)?;
        if !agent_enabled(&guest.config().current) {
            return Err(ApiError::die("No QEMU guest agent configured"));
        }
        if guest.running.is_none() {
            return Err(ApiError::die(format!("VM {vmid} is not running")));
        }
        let silent = || ApiError::die("QEMU guest agent is not running");
        if !self.agent_answers(guest) {
            return Err(silent());
        }
        let frozen = guest.machine.frozen;
        let fault = self.agent.take(vmid, what, |_| true);
        self.dirty = true;
        match &fault {
            Some(AgentAction::Silent) => return Err(silent()),
            Some(AgentAction::Dies) => {
                self.guest_mut(vmid)?.machine.agent_dead = true;
                return Err(silent());
            }
            Some(AgentAction::Refuse { message }) => return Err(agent_error(message)),
            _ => {}
        }
        let name = what.split(' ').next().unwrap_or_default();
        let harmless = ["ping", "info", "fsfreeze-status", "fsfreeze-thaw", "exec-status"];
        if frozen && !harmless.contains(&name) {
            return Err(agent_error(format!(
                "Command guest-{name} has been disabled: the agent is in frozen state"
            )));
        }
        Ok(fault)
    }

    /// A command without parameters of its own.
    pub fn agent_command(&mut self, node: &str, vmid: u32, name: &str) -> Result<Value> {
        let fault = self.reach_agent(node, vmid, name)?;
        let guest = self.vm(node, vmid)?.clone();
        let result = match name {
            "fsfreeze-freeze" | "fsfreeze-thaw" => {
                let freeze = name == "fsfreeze-freeze";
                let changed = guest.machine.frozen != freeze;
                self.guest_mut(vmid)?.machine.frozen = freeze;
                json!(u8::from(changed))
            }
            "shutdown" => {
                self.power_off_vm(vmid)?;
                json!({})
            }
            "suspend-ram" | "suspend-hybrid" | "suspend-disk" => {
                self.guest_mut(vmid)?.machine.paused = true;
                json!({})
            }
            _ => self.agent_info(&guest, name),
        };
        if fault == Some(AgentAction::Timeout) {
            return Err(timeout(vmid, name));
        }
        Ok(result)
    }

    /// `POST …/agent/exec`: the process id. Known programs of the runner are done on the model, a few commands are
    /// understood, `sh -c` ends as the text says; everything else is not there.
    pub fn agent_exec(&mut self, node: &str, vmid: u32, command: &[String], input: &str) -> Result<u64> {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let pieces = self.joined_input(node, vmid, &words)?;
        let input = pieces.as_deref().unwrap_or(input);
        let words = match words[..] {
            // They are the input of a program that is named behind them.
            [_, "-c", _, _, _, ..] if pieces.is_some() => words[4..].to_vec(),
            _ => words,
        };
        let program = match words[..] {
            [_, "-c", _] if pieces.is_some() => {
                let parsed = Program::parse(input.as_bytes());
                Some(parsed.map_err(|why| agent_error(format!("simulated guest: {why}")))?)
            }
            ["/bin/sh" | "sh" | "/bin/bash" | "bash", "-s"] if input.starts_with("# phoenix-runner: ") => {
                let parsed = Program::parse(input.as_bytes());
                Some(parsed.map_err(|why| agent_error(format!("simulated guest: {why}")))?)
            }
            _ => None,
        };
        let about = program.as_ref().map_or_else(|| words.join(" "), Program::summary);
        let fault = self.reach_agent(node, vmid, &format!("exec {about}"))?;
        let mut process = match &program {
            Some(program) => {
                let reply = program.run(self, vmid, fault.as_ref().and_then(for_script).as_ref());
                AgentProcess {
                    ends_at: self.now + self.scaled(SHORT),
                    exit: reply.exit as i32,
                    out: reply.stdout,
                    err: reply.stderr,
                    ..AgentProcess::default()
                }
            }
            None => {
                let guest = self.vm(node, vmid)?;
                let Some(process) = self.builtin(guest, &words, input) else {
                    let name = words.first().copied().unwrap_or_default();
                    return Err(agent_error(format!(
                        "Guest agent command failed, error was 'Failed to execute child process “{name}” (No such file \
                         or directory)'"
                    )));
                };
                process
            }
        };
        match &fault {
            Some(AgentAction::Exit { exit, output }) if program.is_none() => {
                (process.exit, process.out) = (*exit, output.clone());
            }
            Some(AgentAction::Last { ms }) if program.is_none() => process.ends_at = self.now + self.scaled(*ms),
            Some(AgentAction::Signal { signal }) => process.signal = Some(*signal),
            Some(AgentAction::Truncate { bytes }) => process.most = Some(*bytes),
            _ => {}
        }
        let pid = self.next_number();
        if fault != Some(AgentAction::Forget) {
            self.guest_mut(vmid)?.machine.processes.insert(pid, process);
        }
        if fault == Some(AgentAction::Timeout) {
            return Err(timeout(vmid, "exec"));
        }
        Ok(pid)
    }

    /// Input that is too large for one call comes as files of a folder, and `sh -c` puts them together, removes them and
    /// gives them to a shell or a program: `cat FOLDER/* >FILE && … && exec /bin/sh -s <&3`. The text, if the command is
    /// such a one.
    fn joined_input(&mut self, node: &str, vmid: u32, words: &[&str]) -> Result<Option<String>> {
        let [_, "-c", text, ..] = words else { return Ok(None) };
        let folder = text
            .split("cat ")
            .nth(1)
            .and_then(|rest| rest.split_once("/* >"))
            .map(|(folder, _)| format!("{folder}/"));
        let Some(folder) = folder.filter(|_| text.ends_with(" <&3")) else {
            return Ok(None);
        };
        if !self.agent_answers(self.vm(node, vmid)?) {
            return Ok(None);
        }
        let files = &mut self.guest_mut(vmid)?.inside.files;
        let names: Vec<String> = files.keys().filter(|path| path.starts_with(&folder)).cloned().collect();
        let pieces = names.iter().filter_map(|name| files.remove(name));
        let bytes: Vec<u8> = pieces.flat_map(|file| file.content).collect();
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Commands that need no program: the same in machines and in containers.
    pub fn builtin(&self, guest: &Guest, words: &[&str], input: &str) -> Option<AgentProcess> {
        let soon = self.now + self.scaled(SHORT);
        let done = |exit: i32, out: &str| AgentProcess {
            ends_at: soon,
            exit,
            out: out.to_owned(),
            ..AgentProcess::default()
        };
        let (first, rest) = words.split_first()?;
        let name = first.rsplit('/').next().unwrap_or_default();
        Some(match (name, rest) {
            ("env", rest) => {
                let command: Vec<&str> = rest.iter().copied().skip_while(|word| word.contains('=')).collect();
                let missing = || AgentProcess {
                    err: unknown(&command),
                    ..done(127, "")
                };
                self.builtin(guest, &command, input).unwrap_or_else(missing)
            }
            ("true", _) => done(0, ""),
            ("false", _) => done(1, ""),
            ("hostname", []) => done(0, &format!("{}\n", guest.name())),
            ("systemctl", ["is-system-running", ..]) => done(0, "running\n"),
            ("cloud-init", ["status", options @ ..]) => self.cloud_init_status(guest, options.contains(&"--wait")),
            ("cat", [] | ["-"]) => done(0, input),
            ("echo", said) => done(0, &format!("{}\n", said.join(" "))),
            ("cat", [path]) => match guest.inside.files.get(*path) {
                Some(file) => done(0, &String::from_utf8_lossy(&file.content)),
                None => AgentProcess {
                    err: format!("cat: {path}: No such file or directory\n"),
                    ..done(1, "")
                },
            },
            ("sh" | "bash", ["-c", text, ..]) => self.shell(text),
            ("sh" | "bash", ["-s", ..] | []) => self.shell(input),
            _ => return None,
        })
    }

    fn shell(&self, text: &str) -> AgentProcess {
        let outcome = Outcome::of(text, None, SHORT);
        AgentProcess {
            ends_at: self.now + self.scaled(outcome.ms),
            exit: outcome.exit,
            out: outcome.output,
            ..AgentProcess::default()
        }
    }

    fn cloud_init_status(&self, guest: &Guest, wait: bool) -> AgentProcess {
        let facts = &guest.inside.facts;
        let done_at: u64 = facts.get(DONE_AT).and_then(|text| text.parse().ok()).unwrap_or(0);
        let soon = self.now + self.scaled(SHORT);
        if !wait && done_at > self.now {
            return AgentProcess {
                ends_at: soon,
                out: "status: running\n".to_owned(),
                ..AgentProcess::default()
            };
        }
        let word = facts.get(OUTCOME).map_or("disabled", String::as_str);
        AgentProcess {
            ends_at: soon.max(done_at),
            exit: i32::from(word == "error"),
            out: format!("status: {word}\n"),
            ..AgentProcess::default()
        }
    }

    /// `GET …/agent/exec-status`. The result of a process that has ended is handed out once.
    pub fn agent_exec_status(&mut self, node: &str, vmid: u32, pid: u64) -> Result<Value> {
        let fault = self.reach_agent(node, vmid, "exec-status")?;
        let now = self.now;
        let processes = &mut self.guest_mut(vmid)?.machine.processes;
        if fault == Some(AgentAction::Forget) {
            processes.remove(&pid);
        }
        let Some(process) = processes.get(&pid) else {
            return Err(agent_error(format!("PID {pid} does not exist")));
        };
        if process.ends_at > now {
            return Ok(json!({ "exited": 0 }));
        }
        let process = processes.remove(&pid).unwrap_or_default();
        if fault == Some(AgentAction::Timeout) {
            return Err(timeout(vmid, "exec-status"));
        }
        let mut answer = json!({ "exited": 1 });
        match process.signal {
            Some(signal) => answer["signal"] = json!(signal),
            None => answer["exitcode"] = json!(process.exit),
        }
        let most = process.most.unwrap_or(MOST_OUTPUT);
        for (name, text) in [("out", &process.out), ("err", &process.err)] {
            if text.is_empty() {
                continue;
            }
            let kept = floor(text, most);
            answer[format!("{name}-data")] = json!(kept);
            if kept.len() < text.len() {
                answer[format!("{name}-truncated")] = json!(1);
            }
        }
        Ok(answer)
    }

    /// `GET …/agent/file-read`.
    pub fn agent_read(
        &mut self,
        node: &str,
        vmid: u32,
        path: &str,
        offset: usize,
        count: usize,
        decode: bool,
    ) -> Result<Value> {
        self.reach_agent(node, vmid, &format!("file-read {path}"))?;
        let Some(file) = self.vm(node, vmid)?.inside.files.get(path) else {
            return Err(agent_error(format!(
                "failed to open file '{path}' (mode: 'r'): No such file or directory"
            )));
        };
        let rest = file.content.get(offset..).unwrap_or_default();
        let kept = &rest[..rest.len().min(count)];
        let content = if decode {
            String::from_utf8_lossy(kept).into_owned()
        } else {
            BASE64.encode(kept)
        };
        let mut answer = json!({ "content": content, "bytes-read": kept.len() });
        if kept.len() < rest.len() {
            answer["truncated"] = json!(1);
        }
        Ok(answer)
    }

    /// `POST …/agent/file-write`. Without `encode` the content is base64 already.
    pub fn agent_write(&mut self, node: &str, vmid: u32, path: &str, content: &str, encode: bool) -> Result<()> {
        let fault = self.reach_agent(node, vmid, &format!("file-write {path}"))?;
        let bytes = if encode {
            content.as_bytes().to_vec()
        } else {
            BASE64.decode(content).map_err(|_| agent_error("Invalid base64 data"))?
        };
        let files: &mut BTreeMap<String, GuestFile> = &mut self.guest_mut(vmid)?.inside.files;
        // What is there keeps its mode, as with any program that opens a file for writing.
        let mode = files.get(path).map_or(0o644, |old| old.mode);
        files.insert(path.to_owned(), GuestFile { content: bytes, mode });
        if fault == Some(AgentAction::Timeout) {
            return Err(timeout(vmid, "file-write"));
        }
        Ok(())
    }

    /// `POST …/agent/set-user-password`; nothing here ever checks a password.
    pub fn agent_password(&mut self, node: &str, vmid: u32, user: &str) -> Result<()> {
        self.reach_agent(node, vmid, &format!("set-user-password {user}"))
            .map(|_| ())
    }
}

/// What a guest says of a command that it does not have, or that is not simulated.
pub fn unknown(words: &[&str]) -> String {
    format!(
        "{}: not found: a simulated guest has true, false, echo, hostname, cat, and sh -c with a comment such as \
         '# simulate: exit=1 seconds=5 output=text'\n",
        words.first().copied().unwrap_or_default()
    )
}

/// At most so many bytes of a text, cut between characters.
fn floor(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(0);
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(floor("aä", 2), "a");
        assert_eq!(floor("ab", 9), "ab");
    }
}
