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

/// Prints what the newest run of a script said: first a line with the run and the size of its output, then its last
/// lines, or what came after the run and size that were seen before. Arguments: id, lines, run and size. While a script
/// runs its output is in memory; when it has ended, start and end are on disk, and the record has the size of the whole.
const SCRIPT: &str = r#"
for try in 1 2 3; do
  newest=$(ls -t /run/phoenix/"$1"/*/output /var/lib/phoenix/"$1"/output.* 2> /dev/null | head -n 1)
  [ -n "$newest" ] || break
  # It may just have been moved; once open it is whole.
  command exec 3< "$newest" 2> /dev/null && break
  newest=
done
[ -n "$newest" ] || {
  echo "nothing is kept of $1: it did not run here, or the guest went down while it ran" >&2
  exit 1
}
kept=$(wc -c < /proc/self/fd/3)
size=
case "$newest" in
*/output) run=${newest%/output} run=${run##*/} ;;
*) run=${newest##*/output.} size=$(sed -n 's/^size=//p' "${newest%/*}/run.${newest##*/output.}") ;;
esac
size=${size:-$kept}
left_out=$((size - kept))
echo "$run $size"
all() {
  if [ "$left_out" -eq 0 ]; then
    head -c "$size" /proc/self/fd/3
  else
    head -c HEAD /proc/self/fd/3
    printf '\n[… %s bytes left out …]\n' "$left_out"
    tail -c "$((kept - HEAD))" /proc/self/fd/3
  fi
}
# Another run has an output of its own.
[ "${3% *}" = "$run" ] || set -- "$1" "$2" "${3:+$run 0}"
if [ -z "$3" ]; then
  all | tail -n "$2"
elif [ "${3##* }" -eq 0 ]; then
  all
else
  new=$((size - ${3##* }))
  # Of what was added meanwhile the middle may be gone already.
  [ "$left_out" -eq 0 ] || [ "$new" -le "$((kept - HEAD))" ] || new=$((kept - HEAD))
  head -c "$size" /proc/self/fd/3 | tail -c "$new"
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
        let program = SCRIPT.replace("HEAD", &crate::guest::runner::HEAD.to_string());
        let (script, name) = match (&self.feature, &self.test, &self.unit) {
            (Some(feature), ..) => (program.as_str(), format!("feature-{feature}")),
            (_, Some(test), _) => (program.as_str(), format!("test-{test}")),
            (.., Some(unit)) => (JOURNAL, unit.clone()),
            _ if self.vllm || (serves && !self.application) => (JOURNAL, "vllm.service".into()),
            _ => (program.as_str(), "application".into()),
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
        let size = size_of("h.1 12\nx y\n");
        assert_eq!(size, ("x y\n", Some("h.1 12".into())));
    }

    #[test]
    fn what_a_script_says_is_followed_from_memory_to_disk() {
        let guest = tempfile::tempdir().unwrap();
        let path = |name: &str| guest.path().join(name);
        let put = |name: &str, text: &str| {
            std::fs::create_dir_all(path(name).parent().unwrap()).unwrap();
            std::fs::write(path(name), text).unwrap();
        };
        let logs = |lines: &str, seen: &str| {
            let here =
                |text: String, root: &str| text.replace(root, path(root.trim_start_matches('/')).to_str().unwrap());
            let program = here(here(SCRIPT.replace("HEAD", "4"), "/run/phoenix"), "/var/lib/phoenix");
            let output = std::process::Command::new("/bin/sh")
                .args(["-c", &program, "phoenix-logs", "application", lines, seen])
                .output()
                .unwrap();
            let text = |bytes| String::from_utf8(bytes).unwrap();
            (text(output.stdout), text(output.stderr))
        };
        let (_, complaint) = logs("9", "");
        assert!(complaint.contains("nothing is kept of application"), "{complaint}");
        let said = |text: &str| (text.to_string(), String::new());
        put("run/phoenix/application/h.1/output", "a1\na2\na3\n");
        assert_eq!(logs("2", ""), said("h.1 9\na2\na3\n"));
        assert_eq!(logs("2", "h.1 6"), said("h.1 9\na3\n"));
        assert_eq!(logs("2", "old.4 7"), said("h.1 9\na1\na2\na3\n"));
        // It ended: the same, from the disk.
        std::fs::remove_dir_all(path("run/phoenix/application/h.1")).unwrap();
        put("var/lib/phoenix/application/run.h.1", "pid=1\nsize=12\nexit=0\n");
        put("var/lib/phoenix/application/output.h.1", "a1\na2\na3\na4\n");
        assert_eq!(logs("2", "h.1 9"), said("h.1 12\na4\n"));
        assert_eq!(logs("2", "h.1 12"), said("h.1 12\n"));
        assert_eq!(logs("2", ""), said("h.1 12\na3\na4\n"));
        // A long one has lost its middle.
        put("var/lib/phoenix/application/run.h.1", "pid=1\nsize=1000\nexit=0\n");
        let cut = "h.1 1000\na1\na\n[… 988 bytes left out …]\n2\na3\na4\n";
        assert_eq!(logs("99", ""), said(cut));
        assert_eq!(logs("99", "old.4 7"), said(cut));
        assert_eq!(logs("99", "h.1 994"), said("h.1 1000\na3\na4\n"));
        assert_eq!(logs("99", "h.1 100"), said("h.1 1000\n2\na3\na4\n"));
    }
}
