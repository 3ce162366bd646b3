//! `phoenix exec` and `phoenix logs`: into a guest by the object's name, over SSH to its node, from where they run.

use std::io::{IsTerminal, Read, Write};
use std::process::ExitCode;
use std::time::Duration;

use crate::desired::memory::MemoryObjects;
use crate::desired::{Blocked, GuestObject, Objects, hypervisor};
use crate::guest::{Command, Output};
use crate::shell::connection::Connection;

use super::verbs::{Place, bad_input, cluster, find};

/// Longest wait for a command in a guest.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);
/// Pause between two looks at what grew, for `-f`.
const PAUSE: Duration = Duration::from_secs(1);

/// Arguments of `phoenix exec`.
#[derive(Debug, clap::Args)]
pub struct ExecArgs {
    /// Object: NAME, KIND/NAME or vmid
    #[arg(value_name = "NAME|VMID")]
    object: String,
    #[command(flatten)]
    place: Place,
    /// Program and arguments; no shell is involved
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Arguments of `phoenix logs`.
#[derive(Debug, clap::Args)]
pub struct LogsArgs {
    /// Object: NAME, KIND/NAME or vmid
    #[arg(value_name = "NAME|VMID")]
    object: String,
    #[command(flatten)]
    place: Place,
    /// What a feature's script said
    #[arg(long, value_name = "NAME", group = "what")]
    feature: Option<String>,
    /// What the application script said; the default where the object has no vllm block
    #[arg(long, group = "what")]
    application: bool,
    /// What a test said
    #[arg(long, value_name = "NAME", group = "what")]
    test: Option<String>,
    /// The model server's journal; the default where the object has a vllm block
    #[arg(long, group = "what")]
    vllm: bool,
    /// The journal of a systemd unit
    #[arg(long, value_name = "NAME", group = "what")]
    unit: Option<String>,
    /// Last lines to begin with
    #[arg(long, default_value_t = 100)]
    lines: u32,
    /// Go on with what is added, until interrupted
    #[arg(long)]
    follow: bool,
}

/// A guest that can be reached.
struct Guest {
    connection: Connection,
    node: String,
    vmid: i64,
}

impl Guest {
    /// Finds the object and reads what reaching its guest takes.
    async fn reach(place: &Place, word: &str) -> Result<(Guest, GuestObject), String> {
        let objects = place.objects().await?;
        let object = find(&objects, word, place.namespace())?.clone();
        if object.lxc().is_none() {
            return Err(format!("{}: this kind is not supported yet", object.key));
        }
        let (Some(vmid), Some(node)) = (object.status.vmid, object.status.node.clone()) else {
            return Err(format!("{} has no guest yet: apply it first", object.key));
        };
        let connection = match place.source() {
            Some(source) => connection(&object, source.read().map_err(|e| e.to_string())?.store.as_ref())?,
            None => {
                let known: MemoryObjects = cluster::hypervisor(&object).await?;
                connection(&object, &known)?
            }
        };
        // Where the addresses of the nodes are not given, the cluster knows them.
        let given = connection
            .access
            .ssh
            .as_ref()
            .is_some_and(|ssh| ssh.hosts.contains_key(&node));
        if !given {
            let looked = connection.look(true).await;
            connection.store(looked);
        }
        let guest = Guest { connection, node, vmid };
        Ok((guest, object))
    }

    async fn run(&self, argv: &[String], stdin: Vec<u8>) -> Result<Output, String> {
        let head = ["pct", "exec", &self.vmid.to_string(), "--"].map(str::to_string);
        let command = Command::new(head.into_iter().chain(argv.iter().cloned())).with_stdin(stdin);
        let ran = self.connection.ssh_within(&self.node, &command, PATIENCE).await;
        ran.map_err(|(failure, _)| format!("{}: {}", failure.reason, failure.message))
    }
}

fn connection(object: &GuestObject, objects: &dyn Objects) -> Result<Connection, String> {
    let (namespace, name) = object.hypervisor_ref();
    let missing = || format!("there is no PhoenixHypervisor {namespace}/{name}");
    let found = objects.hypervisor(&namespace, &name).ok_or_else(missing)?;
    let access = hypervisor::access(&found, objects).map_err(|blocked| match blocked {
        Blocked::Stalled { message, .. } | Blocked::Waiting { message, .. } => message,
    })?;
    Connection::new(access).map_err(|failure| failure.message)
}

/// Prints an output as it is; the exit code is the command's.
fn print(output: &Output) -> ExitCode {
    // Whoever does not read what is printed any more wants no more of it.
    let _ = std::io::stdout().write_all(output.stdout.text().as_bytes());
    let _ = std::io::stderr().write_all(output.stderr.text().as_bytes());
    ExitCode::from(u8::try_from(output.exit).unwrap_or(u8::MAX))
}

impl ExecArgs {
    /// Runs the command; the exit code is that of the guest's command.
    pub fn run(self) -> ExitCode {
        super::with_runtime(self.exec())
    }

    async fn exec(self) -> ExitCode {
        let mut stdin = Vec::new();
        if !std::io::stdin().is_terminal()
            && let Err(error) = std::io::stdin().read_to_end(&mut stdin)
        {
            return bad_input(format!("cannot read standard input: {error}"));
        }
        let reached = Guest::reach(&self.place, &self.object).await;
        let (guest, _) = match reached {
            Ok(reached) => reached,
            Err(message) => return bad_input(message),
        };
        match guest.run(&self.command, stdin).await {
            Ok(output) => print(&output),
            Err(message) => {
                eprintln!("{message}");
                ExitCode::FAILURE
            }
        }
    }
}

/// Prints what the newest run of a script said: first a line with its file and size, then its last lines, or what came
/// after the file and size that were seen before. Arguments: id, lines, file and size.
const SCRIPT: &str = r#"
newest=$(ls -t /run/phoenix/"$1"/*/output 2> /dev/null | head -n 1)
[ -n "$newest" ] || { echo "nothing is kept of $1: it did not run since the guest was started" >&2; exit 1; }
size=$(wc -c < "$newest")
echo "$newest $size"
if [ -z "$3" ]; then
  head -c "$size" "$newest" | tail -n "$2"
else
  seen=${3##* }
  # Another run has a file of its own.
  [ "${3% *}" = "$newest" ] || seen=0
  tail -c "+$((seen + 1))" "$newest" | head -c "$((size - seen))"
fi
"#;

/// The same for the journal of a unit, with a cursor in place of the size.
const JOURNAL: &str = r#"
if [ -z "$3" ]; then set -- "$1" -n "$2"; else set -- "$1" --after-cursor "$3"; fi
unit=$1
shift
command -v journalctl > /dev/null 2>&1 || { echo "this guest has no systemd journal" >&2; exit 1; }
# A unit that said nothing yet is an error to journalctl, and none to who waits for it.
journalctl -u "$unit" -o cat --no-pager --show-cursor "$@" || true
"#;

impl LogsArgs {
    /// Prints, and follows if that is asked for.
    pub fn run(self) -> ExitCode {
        super::with_runtime(self.show())
    }

    async fn show(self) -> ExitCode {
        let (guest, object) = match Guest::reach(&self.place, &self.object).await {
            Ok(reached) => reached,
            Err(message) => return bad_input(message),
        };
        let serves = object.lxc().is_some_and(|l| l.vllm.is_some());
        let (script, name) = match (&self.feature, &self.test, &self.unit) {
            (Some(feature), ..) => (SCRIPT, format!("feature-{feature}")),
            (_, Some(test), _) => (SCRIPT, format!("test-{test}")),
            (.., Some(unit)) => (JOURNAL, unit.clone()),
            _ if self.vllm || (serves && !self.application) => (JOURNAL, "vllm.service".into()),
            _ => (SCRIPT, "application".into()),
        };
        match self.print_all(&guest, script, &name).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(message) => {
                eprintln!("{message}");
                ExitCode::FAILURE
            }
        }
    }

    async fn print_all(&self, guest: &Guest, script: &str, name: &str) -> Result<(), String> {
        let mut seen = String::new();
        loop {
            let words = [
                "/bin/sh",
                "-c",
                script,
                "phoenix-logs",
                name,
                &self.lines.to_string(),
                &seen,
            ];
            let argv: Vec<String> = words.iter().map(|w| (*w).to_string()).collect();
            let output = guest.run(&argv, Vec::new()).await?;
            if !output.is_success() {
                return Err(output.complaint());
            }
            let text = output.stdout.text();
            let (shown, place) = if script == JOURNAL {
                cursor_of(&text)
            } else {
                size_of(&text)
            };
            let _ = std::io::stdout().write_all(shown.as_bytes());
            let _ = std::io::stdout().flush();
            if let Some(place) = place {
                seen = place;
            }
            if !self.follow {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// What a journal said, and its cursor, which is in the last line.
fn cursor_of(text: &str) -> (&str, Option<String>) {
    match text.rfind("-- cursor: ") {
        Some(at) => (&text[..at], Some(text[at + "-- cursor: ".len()..].trim().to_string())),
        None => (text, None),
    }
}

/// What a script said, and of which file how much that was, which is in the first line.
fn size_of(text: &str) -> (&str, Option<String>) {
    let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
    (rest, Some(first.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_up_to_which_was_read_is_no_part_of_what_is_shown() {
        let cursor = cursor_of("a\nb\n-- cursor: s=1;i=2\n");
        assert_eq!(cursor, ("a\nb\n", Some("s=1;i=2".into())));
        assert_eq!(cursor_of("-- No entries --\n"), ("-- No entries --\n", None));
        let size = size_of("/run/phoenix/application/h.1/output 12\nx y\n");
        assert_eq!(size, ("x y\n", Some("/run/phoenix/application/h.1/output 12".into())));
    }
}
