//! The programs that are piped into a guest's shell. None is executed: their first line says what they do, and the
//! guest's model does it.
//!
//! | first line (`# phoenix-runner: …`) | does | prints |
//! |---|---|---|
//! | `start id= hash= attempt= script=` | starts a script unless this hash and attempt was started before | record |
//! | `poll id= hash=` | reads the last run (`*`: of any hash) | record |
//! | `cancel id= hash=` | ends the run of the hash if it is under way | record |
//! | `said id= run= at=` | reads what the last run said after byte `at` of `run` | `run=`, `output-*=` |
//! | `journal unit= lines= cursor=` | reads a unit's journal: the file `/var/log/journal/UNIT` of the model | `output-tail=` |
//! | `probe seconds= command=` | runs a short command | `exit=`, `output-tail=` |
//!
//! `script`, `command`, `run`, `unit` and `cursor` are base64. Files come as here-documents: `phoenix_put PATH MODE <<'PHOENIX_END'`,
//! base64, `PHOENIX_END`.
//!
//! How a script ends: a fault says so; or a comment in it, `# simulate: exit=N seconds=S output=TEXT`; or its last
//! line, `exit N`; otherwise well.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::Reply;
use super::state::SshAction;
use super::words;
use crate::simulator::model::{GuestFile, GuestScript, State};

/// Begins the comment in which a script says how it ends.
const OUTCOME: &str = "# simulate: ";

/// A recognised program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    verb: String,
    fields: BTreeMap<String, String>,
    files: Vec<(String, GuestFile)>,
}

impl Program {
    /// Recognises a program by its first line.
    pub fn parse(stdin: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(stdin).map_err(|_| "standard input is no text")?;
        let first = text.lines().next().unwrap_or_default();
        let header = first
            .strip_prefix("# phoenix-runner: ")
            .ok_or("standard input does not begin with a header")?;
        let mut parts = header.split(' ');
        let verb = parts.next().unwrap_or_default().to_owned();
        let fields = parts
            .filter_map(|p| p.split_once('='))
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect();
        Ok(Self {
            verb,
            fields,
            files: files(text)?,
        })
    }

    /// What it does, in a few words: `start feature-docker`.
    pub fn summary(&self) -> String {
        let about = match self.verb.as_str() {
            "start" | "poll" | "cancel" | "said" => self.field("id").to_owned(),
            "journal" => self.decoded("unit").unwrap_or_default(),
            _ => self.decoded("command").unwrap_or_default(),
        };
        format!("{} {about}", self.verb)
    }

    fn field(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }

    fn decoded(&self, name: &str) -> Option<String> {
        String::from_utf8(BASE64.decode(self.field(name)).ok()?).ok()
    }

    fn waits_for_cloud_init(&self) -> bool {
        let command = self.decoded("command").unwrap_or_default();
        command.contains("/run/cloud-init/result.json")
    }

    /// The script, or the file that says how it ends: an application's script is started by another.
    fn script_text(&self) -> String {
        let path = self.decoded("script").unwrap_or_default();
        let text = |(_, file): &(String, GuestFile)| String::from_utf8_lossy(&file.content).into_owned();
        let script = self
            .files
            .iter()
            .find(|(p, _)| *p == path)
            .map(text)
            .unwrap_or_default();
        let said = |text: &String| text.lines().any(|line| line.trim().starts_with(OUTCOME));
        if said(&script) {
            return script;
        }
        self.files.iter().map(text).find(said).unwrap_or(script)
    }

    /// Does it in a running guest.
    pub fn run(&self, state: &mut State, vmid: u32, fault: Option<&SshAction>) -> Reply {
        state.dirty = true;
        match self.verb.as_str() {
            "start" => self.start(state, vmid, fault),
            "poll" => Reply::ok(self.poll(state, vmid)),
            "cancel" => self.cancel(state, vmid),
            "said" => Reply::ok(self.said(state, vmid)),
            "journal" => Reply::ok(self.journal(state, vmid)),
            "probe" => {
                let what = format!(
                    "{}s {}",
                    self.field("seconds"),
                    self.decoded("command").unwrap_or_default()
                );
                if let Some(guest) = state.guests.get_mut(&vmid) {
                    guest.inside.probed.insert(what);
                }
                let (exit, output) = match fault {
                    Some(SshAction::Exit { exit, output }) => (*exit, output.as_str()),
                    // The one question that a guest's own course of time answers: whether cloud-init is through.
                    _ => (
                        i32::from(self.waits_for_cloud_init() && !state.cloud_init_done(vmid)),
                        "",
                    ),
                };
                Reply::ok(format!("exit={exit}\noutput-tail={}\n", BASE64.encode(output)))
            }
            other => Reply::fail(127, format!("phoenix-runner: {other} is not known")),
        }
    }

    /// Starts a script that nobody waits for at a time to come, as cloud-init does at a first boot: when it ends, and
    /// how. Anything but a start has no effect.
    pub fn start_at(&self, state: &mut State, vmid: u32, fault: Option<&SshAction>, at: u64) -> (u64, i32) {
        if self.verb == "start" {
            self.start_from(state, vmid, fault, at);
        }
        let script = state
            .guests
            .get(&vmid)
            .and_then(|guest| guest.inside.scripts.get(self.field("id")));
        script.map_or((at, 0), |script| (script.ends_at.max(at), script.exit_code))
    }

    fn start(&self, state: &mut State, vmid: u32, fault: Option<&SshAction>) -> Reply {
        self.start_from(state, vmid, fault, state.now)
    }

    fn start_from(&self, state: &mut State, vmid: u32, fault: Option<&SshAction>, now: u64) -> Reply {
        let (id, hash) = (self.field("id").to_owned(), self.field("hash").to_owned());
        let attempt: u32 = self.field("attempt").parse().unwrap_or(1);
        let known = state
            .guests
            .get(&vmid)
            .and_then(|guest| guest.inside.scripts.get(&id))
            .cloned();
        let guest_since = since(state, vmid);
        let (mut tries, mut runs) = (1, 1);
        if let Some(known) = known {
            if known.hash == hash && known.attempt >= attempt {
                return Reply::ok(format!("started-now=0\n{}", report(state, vmid, &known)));
            }
            if known.running(now) {
                return Reply::ok(format!("started-now=0\nbusy=1\n{}", report(state, vmid, &known)));
            }
            runs += known.runs;
            if known.hash == hash && known.guest_since == guest_since {
                tries += known.tries;
            }
        }
        self.put_files(state, vmid);
        let outcome = match (id.as_str(), fault) {
            // How the connection fares changes nothing of what CUDA says.
            (PROOF, Some(SshAction::Last { ms })) => Outcome {
                ms: *ms,
                ..super::gpus::proof(state, vmid)
            },
            (PROOF, fault) if !matches!(fault, Some(SshAction::Exit { .. })) => super::gpus::proof(state, vmid),
            _ => Outcome::of(&self.script_text(), fault, state.ssh.script_ms),
        };
        if id == DRIVER && outcome.exit == 0 {
            super::gpus::install_driver(state, vmid);
        }
        let script = GuestScript {
            id: id.clone(),
            hash,
            attempt,
            tries,
            runs,
            guest_since,
            started_at: now,
            ends_at: now + state.scaled(outcome.ms),
            exit_code: outcome.exit,
            output: outcome.output,
            cancelled: false,
            killed: false,
        };
        let answer = format!("started-now=1\n{}", report(state, vmid, &script));
        if let Some(guest) = state.guests.get_mut(&vmid) {
            guest.inside.scripts.insert(id, script);
        }
        Reply::ok(answer)
    }

    fn poll(&self, state: &State, vmid: u32) -> String {
        let hash = self.field("hash");
        let script = state
            .guests
            .get(&vmid)
            .and_then(|guest| guest.inside.scripts.get(self.field("id")));
        match script.filter(|script| hash == "*" || script.hash == hash) {
            Some(script) => report(state, vmid, script),
            None => "state=absent\n".to_owned(),
        }
    }

    /// What the last run said: all of it when it has ended, nothing before.
    fn said(&self, state: &State, vmid: u32) -> String {
        let Some(script) = state
            .guests
            .get(&vmid)
            .and_then(|guest| guest.inside.scripts.get(self.field("id")))
        else {
            return "state=absent\n".to_owned();
        };
        let run = format!("{}.{}", script.hash, script.attempt);
        let output = if script.running(state.now) {
            ""
        } else {
            script.output.as_str()
        };
        let seen = if self.decoded("run").as_deref() == Some(&run) {
            self.field("at").parse().unwrap_or(0)
        } else {
            0
        };
        format!(
            "state=present\nrun={run}\noutput-size={}\noutput-head={}\noutput-tail={}\n",
            output.len(),
            BASE64.encode(output),
            BASE64.encode(output.get(seen..).unwrap_or_default())
        )
    }

    /// The entries of a journal are the lines of a file; a cursor says how many were seen.
    fn journal(&self, state: &State, vmid: u32) -> String {
        let path = format!("/var/log/journal/{}", self.decoded("unit").unwrap_or_default());
        let file = state.guests.get(&vmid).and_then(|guest| guest.inside.files.get(&path));
        let text = file.map_or(String::new(), |file| {
            String::from_utf8_lossy(&file.content).into_owned()
        });
        let lines: Vec<&str> = text.lines().collect();
        let number = |name: &str| self.field(name).parse::<usize>().unwrap_or(0);
        let cursor = self.decoded("cursor").unwrap_or_default();
        let from = match cursor.strip_prefix("i=") {
            Some(seen) => seen.parse().unwrap_or(0),
            None => lines.len().saturating_sub(number("lines")),
        };
        let mut said: String = lines.iter().skip(from).map(|line| format!("{line}\n")).collect();
        if !lines.is_empty() {
            said.push_str(&format!("-- cursor: i={}\n", lines.len()));
        }
        format!("state=present\noutput-tail={}\n", BASE64.encode(said))
    }

    /// As if the script heeded the signal at once.
    fn cancel(&self, state: &mut State, vmid: u32) -> Reply {
        let now = state.now;
        let script = state
            .guests
            .get_mut(&vmid)
            .and_then(|guest| guest.inside.scripts.get_mut(self.field("id")));
        if let Some(script) = script.filter(|script| script.running(now) && script.hash == self.field("hash")) {
            (script.ends_at, script.exit_code, script.cancelled) = (now, 143, true);
        }
        Reply::ok(self.poll(state, vmid))
    }

    /// Files of the program that are for the guest, not for the runner's own spool.
    fn put_files(&self, state: &mut State, vmid: u32) {
        let Some(guest) = state.guests.get_mut(&vmid) else {
            return;
        };
        for (path, file) in self.files.iter().filter(|(path, _)| !path.starts_with("/run/phoenix/")) {
            guest.inside.files.insert(path.clone(), file.clone());
        }
    }
}

/// When the guest was started.
fn since(state: &State, vmid: u32) -> u64 {
    let running = state.guests.get(&vmid).and_then(|guest| guest.running.as_ref());
    running.map_or(0, |running| running.since)
}

/// The record of a run as key=value lines.
fn report(state: &State, vmid: u32, script: &GuestScript) -> String {
    let running = script.running(state.now);
    let word = match (script.killed, running) {
        (true, _) => "interrupted",
        (false, true) => "running",
        (false, false) => "finished",
    };
    let mut out = format!(
        "state={word}\nhash={}\nattempt={}\npid=4711\nstarted={}\n",
        script.hash,
        script.attempt,
        script.started_at / 1000
    );
    let here = u8::from(script.guest_since == since(state, vmid));
    out.push_str(&format!("this-start={here}\ntries={}\n", script.tries));
    if script.cancelled {
        out.push_str("cancelled=1\n");
    }
    if word == "finished" {
        out.push_str(&format!("ended={}\nexit={}\n", script.ends_at / 1000, script.exit_code));
    }
    if word == "finished" {
        let encoded = BASE64.encode(&script.output);
        let size = script.output.len();
        out.push_str(&format!(
            "output-head={encoded}\noutput-size={size}\noutput-tail={encoded}\n"
        ));
    }
    out
}

/// The script that proves that GPUs work.
const PROOF: &str = "gpu-proof";
/// The script of the feature that installs NVIDIA's driver, in the version of the node's module.
const DRIVER: &str = "feature-nvidia";

/// How a script ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Exit code.
    pub exit: i32,
    /// Output.
    pub output: String,
    /// How long it takes, in milliseconds before scaling.
    pub ms: u64,
}

impl Outcome {
    /// What a fault says, else a comment in the script, else its last line.
    pub fn of(script: &str, fault: Option<&SshAction>, usual_ms: u64) -> Self {
        let last = script
            .lines()
            .map(str::trim)
            .rfind(|line| !line.is_empty() && !line.starts_with('#'));
        let exit = last
            .and_then(|line| line.strip_prefix("exit ")?.trim().parse().ok())
            .unwrap_or(0);
        let mut outcome = Self {
            exit,
            output: String::new(),
            ms: usual_ms,
        };
        if let Some(said) = script.lines().find_map(|line| line.trim().strip_prefix(OUTCOME)) {
            for (key, value) in words::split(said)
                .unwrap_or_default()
                .iter()
                .filter_map(|w| w.split_once('='))
            {
                match key {
                    "exit" => outcome.exit = value.parse().unwrap_or(outcome.exit),
                    "seconds" => outcome.ms = value.parse::<u64>().map_or(outcome.ms, |s| s * 1000),
                    "output" => outcome.output = format!("{value}\n"),
                    _ => {}
                }
            }
        }
        match fault {
            Some(SshAction::Exit { exit, output }) => (outcome.exit, outcome.output) = (*exit, output.clone()),
            Some(SshAction::Last { ms }) => outcome.ms = *ms,
            _ => {}
        }
        outcome
    }
}

/// The here-documents of a program.
fn files(text: &str) -> Result<Vec<(String, GuestFile)>, String> {
    let mut files = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(rest) = line
            .strip_prefix("phoenix_put ")
            .and_then(|l| l.strip_suffix(" <<'PHOENIX_END'"))
        else {
            continue;
        };
        let parts = words::split(rest)?;
        let [path, mode] = &parts[..] else {
            return Err(format!("{line:?}: path and mode are expected"));
        };
        let encoded: String = lines.by_ref().take_while(|line| *line != "PHOENIX_END").collect();
        let content = BASE64.decode(encoded).map_err(|_| format!("{path}: no base64"))?;
        let mode = u32::from_str_radix(mode, 8).map_err(|_| format!("{path}: mode {mode}"))?;
        files.push((path.clone(), GuestFile { content, mode }));
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_script_is_read_from_it() {
        let end = |script: &str, fault: Option<&SshAction>| {
            let outcome = Outcome::of(script, fault, 20_000);
            (outcome.exit, outcome.output, outcome.ms)
        };
        assert_eq!(
            end("#!/bin/sh\nif x; then exit 4; fi\necho ok\n", None),
            (0, String::new(), 20_000)
        );
        assert_eq!(end("echo no\nexit 3\n# the end\n", None), (3, String::new(), 20_000));
        let said = "#!/bin/sh\n# simulate: exit=2 seconds=90 output='no space'\ntrue\n";
        assert_eq!(end(said, None), (2, "no space\n".into(), 90_000));
        let fault = SshAction::Exit {
            exit: 9,
            output: "boom".into(),
        };
        assert_eq!(end(said, Some(&fault)), (9, "boom".into(), 90_000));
    }

    #[test]
    fn programs_without_a_header_are_not_known() {
        assert!(Program::parse(b"rm -rf /\n").is_err());
        let text = "# phoenix-runner: start id=x\nphoenix_put '/a b' 0640 <<'PHOENIX_END'\naGk=\nPHOENIX_END\n";
        let program = Program::parse(text.as_bytes()).unwrap();
        assert_eq!(program.summary(), "start x");
        assert_eq!(
            program.files,
            [(
                "/a b".to_owned(),
                GuestFile {
                    content: b"hi".to_vec(),
                    mode: 0o640
                }
            )]
        );
    }
}
