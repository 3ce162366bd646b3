//! Running scripts inside a guest so that they outlive the connection that started them.
//!
//! A small shell program is piped through `pct exec VMID -- /bin/sh -s`. Its first line is a header that says what it
//! does (`# phoenix-runner: start id=… hash=… attempt=…`), the rest does it and prints `key=value` lines:
//!
//! * [`start`] starts a script detached and returns. Output is spooled to a root-only folder in memory, hash, process
//!   and exit code are recorded on disk by the wrapper around the script, so nothing is lost with the connection.
//!   The same hash and attempt is started at most once, however often it is asked for. When the script ends, start and
//!   end of its output move beside the record, and the spool goes.
//! * [`cancel`] asks a run to end: its processes are told so (SIGTERM), and ended after ten seconds.
//! * [`poll`] prints the record of the last run of a hash, with start and end of its output.
//!
//! A record whose process is gone without an exit code reads [`State::Interrupted`]: the guest was stopped, cloned or
//! rolled back meanwhile. Another run needs a higher attempt.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::pve::Vmid;

pub use super::answer::{AnswerError, ProbeAnswer, Record, State};
use super::command::{Command, InvalidCommand, quote};
use crate::secret::Secret;

/// Shared by the two others.
const PROCESS: &str = include_str!("process.sh");
pub(super) const RUNNER: &str = include_str!("runner.sh");
const WRAPPER: &str = include_str!("wrapper.sh");

/// Where the runner keeps things in the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Root-only folder in memory for scripts and output.
    pub spool: String,
    /// Folder for records.
    pub records: String,
    /// Whether systemd may be used to start scripts.
    pub systemd: bool,
    /// From this size on the middle of the spooled output is dropped, in bytes.
    pub bound: usize,
}

impl Default for Layout {
    fn default() -> Self {
        Self {
            spool: "/run/phoenix".into(),
            records: "/var/lib/phoenix".into(),
            systemd: true,
            bound: 1 << 20,
        }
    }
}

/// So much of the start of the output is kept and shown, in bytes.
pub const HEAD: usize = 4 << 10;
/// So much of the end of the output is shown, in bytes.
const TAIL: usize = 16 << 10;
/// So much of the end of the output is kept in the guest, in bytes.
const REST: usize = 60 << 10;

/// So much of the end of a probe's output is kept, in bytes: with what is around it less than a pipe takes at once.
const PROBE_TAIL: usize = 1 << 10;

/// A script to start.
#[derive(Clone, PartialEq, Eq)]
pub struct Script {
    /// Names its record in the guest: `[A-Za-z0-9._-]`, at most 64.
    pub id: String,
    /// Hash of all that it is given: `[A-Za-z0-9_-]`, at most 128.
    pub hash: String,
    /// From 1; a higher one runs the same hash again.
    pub attempt: u32,
    /// The script; its `#!` line names the interpreter, `/bin/sh` otherwise.
    pub body: String,
    /// Where the script itself is put; in the spool otherwise.
    pub path: Option<String>,
    /// Arguments. They can be read in the guest's process list: no secrets.
    pub args: Vec<String>,
    /// Environment, delivered byte for byte.
    pub environment: BTreeMap<String, Secret>,
    /// Files that are put into the guest before it starts.
    pub files: Vec<GuestFile>,
    /// Folder that it runs in; `/root` otherwise.
    pub workdir: Option<String>,
    /// The user that it runs as; root otherwise.
    pub run_as: Option<RunAs>,
    /// After so many seconds it is stopped (exit code 124, or 137 if it had to be killed).
    pub deadline_seconds: Option<u64>,
    /// Whether its output is kept in the guest when it has ended; otherwise it goes with the guest's next stop.
    pub keep_output: bool,
}

/// A user of the guest that is not root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunAs {
    /// Its name.
    pub user: String,
    /// Folder of what it has to read; it belongs to root and to the user's group.
    pub folder: String,
}

/// A file in a guest.
#[derive(Clone, PartialEq, Eq)]
pub struct GuestFile {
    /// Absolute path; folders above are made.
    pub path: String,
    /// Octal, such as `0644`.
    pub mode: String,
    /// What is in it.
    pub content: Vec<u8>,
}

/// A command that runs inside a guest.
pub(super) fn in_guest(vmid: Vmid, program: String) -> Command {
    Command::new(["pct", "exec", &vmid.to_string(), "--", "/bin/sh", "-s"]).with_stdin(program)
}

/// Starts `script` in the container unless this hash and attempt was started before. Answers a [`Record`].
///
/// # Errors
/// A name, path, mode or hash that cannot be sent.
pub fn start(vmid: Vmid, script: &Script, layout: &Layout) -> Result<Command, InvalidCommand> {
    Ok(in_guest(vmid, start_program(script, layout)?))
}

/// The program for `sh` in the guest by which [`start`] starts a script.
///
/// # Errors
/// As [`start`].
pub fn start_program(script: &Script, layout: &Layout) -> Result<String, InvalidCommand> {
    check_token("script id", &script.id, LONGEST_ID)?;
    check_token("script hash", &script.hash, 128)?;
    let run = format!("{}.{}", script.hash, script.attempt);
    let spool = format!("{}/{}/{run}", layout.spool, script.id);
    // The spool is root's alone.
    let readable = script.run_as.as_ref().map(|r| format!("{}/.start", r.folder));
    let path = script
        .path
        .clone()
        .or(readable)
        .unwrap_or_else(|| format!("{spool}/script"));
    let private = |name: &str, content: String| GuestFile {
        path: format!("{spool}/{name}"),
        mode: "0600".into(),
        content: content.into_bytes(),
    };
    let mut files = script.files.clone();
    files.push(GuestFile {
        path: path.clone(),
        mode: if script.run_as.is_some() { "0755" } else { "0700" }.into(),
        content: script.body.clone().into_bytes(),
    });
    files.push(private("env", environment(&script.environment)?));
    files.push(private("wrapper", wrapper(script, layout, &path)));
    let header = format!(
        "start id={} hash={} attempt={} script={}",
        script.id,
        script.hash,
        script.attempt,
        encode(&path)
    );
    let settings = format!(
        "{}PHOENIX_ATTEMPT={}\nPHOENIX_LAUNCHER={}\nPHOENIX_FOLDER={}\n",
        settings(&script.id, &script.hash, layout),
        script.attempt,
        if layout.systemd { "auto" } else { "setsid" },
        quote(script.run_as.as_ref().map_or("", |r| r.folder.as_str())),
    );
    Ok(program(&header, &settings, &put_files(&files)?, "phoenix_start"))
}

/// Reads the last run of `hash`, or of any version of the script without one. Answers a [`Record`].
///
/// # Errors
/// An id or hash that cannot be sent.
pub fn poll(vmid: Vmid, id: &str, hash: Option<&str>, layout: &Layout) -> Result<Command, InvalidCommand> {
    check_token("script id", id, LONGEST_ID)?;
    if let Some(hash) = hash {
        check_token("script hash", hash, 128)?;
    }
    let header = format!("poll id={id} hash={}", hash.unwrap_or("*"));
    let settings = settings(id, hash.unwrap_or("*"), layout);
    Ok(in_guest(vmid, program(&header, &settings, "", "phoenix_poll")))
}

/// Asks the run of `hash` to end if it is under way, once or several times. Answers a [`Record`].
///
/// # Errors
/// An id or hash that cannot be sent.
pub fn cancel(vmid: Vmid, id: &str, hash: &str, layout: &Layout) -> Result<Command, InvalidCommand> {
    check_token("script id", id, LONGEST_ID)?;
    check_token("script hash", hash, 128)?;
    let header = format!("cancel id={id} hash={hash}");
    let settings = settings(id, hash, layout);
    Ok(in_guest(vmid, program(&header, &settings, "", "phoenix_cancel")))
}

/// Runs a short command and waits for it, at most `seconds`. Answers a [`ProbeAnswer`].
pub fn probe(vmid: Vmid, argv: &[String], seconds: u64, layout: &Layout) -> Command {
    let (settings, call) = probe_parts(argv, seconds, layout);
    let header = format!("probe seconds={} command={}", seconds.max(1), encode(&argv.join(" ")));
    in_guest(vmid, program(&header, &settings, "", &call))
}

/// What a probe's program has before and after the runner.
pub(super) fn probe_parts(argv: &[String], seconds: u64, layout: &Layout) -> (String, String) {
    let words: Vec<String> = argv.iter().map(|word| quote(word)).collect();
    let settings = format!(
        "PHOENIX_SPOOL={}\nPHOENIX_SECONDS={}\nPHOENIX_TAIL={PROBE_TAIL}\n",
        quote(&layout.spool),
        seconds.max(1)
    );
    (settings, format!("phoenix_probe {}", words.join(" ")))
}

/// What is piped in: header, settings, the runner, and last the one line that does something.
pub(super) fn program(header: &str, settings: &str, files: &str, call: &str) -> String {
    format!("# phoenix-runner: {header}\n{settings}\n{PROCESS}\n{RUNNER}\nphoenix_files() {{\n:\n{files}}}\n\n{call}\n")
}

pub(super) fn settings(id: &str, hash: &str, layout: &Layout) -> String {
    format!(
        "PHOENIX_ID={id}\nPHOENIX_HASH='{hash}'\nPHOENIX_RECORDS={}\nPHOENIX_SPOOL={}\nPHOENIX_HEAD={HEAD}\nPHOENIX_TAIL={TAIL}\n",
        quote(&format!("{}/{id}", layout.records)),
        quote(&format!("{}/{id}", layout.spool)),
    )
}

fn wrapper(script: &Script, layout: &Layout, path: &str) -> String {
    let run = format!("{}.{}", script.hash, script.attempt);
    let settings = settings(&script.id, &script.hash, layout);
    let words: Vec<String> = interpreter(&script.body)
        .into_iter()
        .chain([path.to_owned()])
        .chain(script.args.iter().cloned())
        .map(|word| quote(&word))
        .collect();
    let words = words.join(" ");
    let seconds = script.deadline_seconds.map(|s| s.to_string()).unwrap_or_default();
    let (user, folder) = match &script.run_as {
        Some(RunAs { user, folder }) => (user.as_str(), folder.as_str()),
        None => ("", ""),
    };
    let own = [
        ("RUN", run),
        ("BOUND", layout.bound.to_string()),
        ("REST", REST.to_string()),
        ("KEEP", if script.keep_output { "yes" } else { "no" }.to_owned()),
        ("DEADLINE", seconds),
        ("WORKDIR", quote(script.workdir.as_deref().unwrap_or("/root"))),
        ("USER", quote(user)),
        ("FOLDER", quote(folder)),
    ];
    let own: String = own.iter().map(|(k, v)| format!("PHOENIX_{k}={v}\n")).collect();
    format!("{settings}{own}\nphoenix_script() {{\n    (phoenix_become {words})\n}}\n\n{PROCESS}\n{WRAPPER}")
}

/// Program and arguments of the `#!` line.
fn interpreter(body: &str) -> Vec<String> {
    let first = body.lines().next().unwrap_or_default().trim_end();
    let words: Vec<String> = first
        .strip_prefix("#!")
        .map(|line| line.split_whitespace().map(str::to_owned).collect())
        .unwrap_or_default();
    if words.is_empty() {
        vec!["/bin/sh".into()]
    } else {
        words
    }
}

fn environment(environment: &BTreeMap<String, Secret>) -> Result<String, InvalidCommand> {
    let mut text = String::new();
    for (name, value) in environment {
        let letter = |c: char| c.is_ascii_alphabetic() || c == '_';
        let valid = name.starts_with(letter) && name.chars().all(|c| letter(c) || c.is_ascii_digit());
        if !valid {
            return Err(invalid(
                "environment variable",
                name,
                "only letters, digits and _ are allowed",
            ));
        }
        if value.expose().contains('\0') {
            return Err(invalid("environment variable", name, "its value holds a NUL byte"));
        }
        text.push_str(&format!("export {name}='{}'\n", value.expose().replace('\'', r"'\''")));
    }
    Ok(text)
}

fn put_files(files: &[GuestFile]) -> Result<String, InvalidCommand> {
    let mut out = String::new();
    for file in files {
        check_file(file)?;
        out.push_str(&format!(
            "phoenix_put {} {} <<'PHOENIX_END'\n",
            quote(&file.path),
            file.mode
        ));
        for line in BASE64.encode(&file.content).as_bytes().chunks(76) {
            out.push_str(&String::from_utf8_lossy(line));
            out.push('\n');
        }
        out.push_str("PHOENIX_END\n");
    }
    Ok(out)
}

fn check_file(file: &GuestFile) -> Result<(), InvalidCommand> {
    if !file.path.starts_with('/') || file.path.ends_with('/') || file.path.contains('\0') {
        return Err(invalid("file", &file.path, "an absolute path is needed"));
    }
    if !matches!(file.mode.len(), 3 | 4) || !file.mode.bytes().all(|b| (b'0'..=b'7').contains(&b)) {
        return Err(invalid(
            "file mode",
            &file.mode,
            "three or four octal digits are needed",
        ));
    }
    Ok(())
}

/// Characters of the longest script id: that of a feature or test whose name has 63. It is part of file and unit names,
/// which have 255 at most.
pub(super) const LONGEST_ID: usize = 96;

pub(super) fn check_token(what: &'static str, value: &str, longest: usize) -> Result<(), InvalidCommand> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if value.is_empty() || value.len() > longest || value.starts_with(['.', '-']) || !value.bytes().all(allowed) {
        let why = match value.len() > longest {
            true => "it is too long",
            false => "only letters, digits, ., _ and - are allowed",
        };
        return Err(invalid(what, value, why));
    }
    Ok(())
}

fn invalid(what: &'static str, value: &str, why: &'static str) -> InvalidCommand {
    InvalidCommand {
        what,
        value: value.to_owned(),
        why,
    }
}

pub(super) fn encode(text: &str) -> String {
    BASE64.encode(text)
}
