//! Programs that a test starts, each with its log in a file, none of which outlives the test run.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

/// Runs `"$@"` and ends with its exit code. Its standard input is a pipe that only the test run holds: when that
/// closes, because the owner dropped it or because the test run died of whatever, the program is killed.
const SUPERVISOR: &str = r#"
exec 3<&0
"$@" 3<&- </dev/null >>"$PHOENIX_E2E_LOG" 2>&1 &
pid=$!
{ read -r _ <&3; kill -KILL "$pid" 2>/dev/null; } >/dev/null 2>&1 &
watcher=$!
exec 3<&-
echo "$pid"
wait "$pid"
code=$?
kill "$watcher" 2>/dev/null
exit "$code"
"#;

/// Starts a simulated Proxmox VE by `command`, which runs the binary under test, with its folder `sim` and log in `dir`, at
/// these addresses; it is there when this returns.
pub fn simulator(mut command: Command, dir: &Path, scale: &str, [api, ssh]: [&str; 2]) -> Process {
    command.args(["simulate", "--time-scale", scale, "--listen", api, "--ssh-listen", ssh]);
    command.arg("--dir").arg(dir.join("sim"));
    let simulator = Process::start("simulator", &command, &dir.join("simulator.log"));
    super::wait_for("the simulator", || {
        let there = dir.join("sim/simulator.json").exists();
        there.then_some(()).ok_or_else(|| simulator.log_tail())
    });
    simulator
}

/// A running program; killed when dropped.
pub struct Process {
    name: String,
    supervisor: Child,
    pid: u32,
    log: PathBuf,
}

impl Process {
    /// Starts `command` (its program, arguments, environment and folder count) with both outputs appended to `log`.
    pub fn start(name: &str, command: &Command, log: &Path) -> Self {
        let mut shell = Command::new("sh");
        shell
            .args([OsStr::new("-c"), OsStr::new(SUPERVISOR), OsStr::new("supervisor")])
            .arg(command.get_program())
            .args(command.get_args())
            .env("PHOENIX_E2E_LOG", log)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // The shell's own "Killed".
            .stderr(Stdio::null());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => shell.env(key, value),
                None => shell.env_remove(key),
            };
        }
        if let Some(dir) = command.get_current_dir() {
            shell.current_dir(dir);
        }
        // The file exists from here on, so that a reader need not care how far the program got.
        File::options().create(true).append(true).open(log).unwrap();
        let mut supervisor = shell.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(supervisor.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let pid = line
            .trim()
            .parse()
            .unwrap_or_else(|e| panic!("{name}: the supervisor said {line:?} instead of a pid: {e}"));
        Self {
            name: name.to_owned(),
            supervisor,
            pid,
            log: log.to_owned(),
        }
    }

    /// Process id of the program (not of what watches over it).
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// How the program ended; `None` while it runs. Killed by a signal N counts as exit code 128 + N.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.supervisor.try_wait().unwrap()
    }

    /// Sends a signal by name (`TERM`, `KILL`) if the program still runs.
    pub fn signal(&mut self, signal: &str) {
        if self.ended().is_none() {
            // A shell's own kill: the program of that name is not installed everywhere.
            let script = format!("kill -{signal} {}", self.pid);
            Command::new("sh")
                .args(["-c", &script])
                .stderr(Stdio::null())
                .status()
                .unwrap();
        }
    }

    /// Waits for the program's end.
    pub fn wait(&mut self) -> ExitStatus {
        // Not `Child::wait`: that closes the pipe first, which means "kill it" here.
        super::wait_for(&format!("{} to end", self.name), || {
            self.ended().ok_or_else(|| self.log_tail())
        })
    }

    /// Everything that it wrote so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The end of its log, for messages of failed tests.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(20)..].join("\n");
        format!("{} (log {}):\n{tail}", self.name, self.log.display())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.supervisor.stdin.take());
        // Nothing to do about an error here; the program has been told to end either way.
        let _ = self.supervisor.wait();
    }
}
