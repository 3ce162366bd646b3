//! `phoenix exec`.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::verbs::{Place, bad_input};
use crate::cli::with_runtime;
use crate::engine::agent;
use crate::pve::GuestType;
use crate::remote::{Command, Event, Input};

use super::Guest;
use super::terminal::{Raw, size, standard_input};

/// Arguments of `phoenix exec`.
#[derive(Debug, clap::Args)]
pub struct ExecArgs {
    /// Object: NAME, KIND/NAME or vmid
    #[arg(value_name = "NAME|VMID")]
    object: String,
    #[command(flatten)]
    place: Place,
    /// Pass standard input on even if it is a terminal; anything else is always passed on
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Run it in a terminal, as in: phoenix exec -it NAME -- bash. Containers only; for a machine use ssh, or qm terminal
    /// on the node
    #[arg(short = 't', long)]
    tty: bool,
    /// Program and arguments; no shell is involved
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// In the environment of the command and all that it starts, so that they can be found to be ended.
const MARK: &str = "PHOENIX_EXEC";

/// Sends a signal to all that carries the mark. Arguments: signal, mark.
const SIGNAL: &str = r#"
for process in /proc/[0-9]*; do
  tr '\0' '\n' 2> /dev/null < "$process/environ" | grep -qx "$2" && kill -s "$1" "${process#/proc/}"
done
exit 0
"#;

/// The last signal to a command is waited for so long.
const FAREWELL: Duration = Duration::from_secs(5);

/// How it ended: an exit code, or what went wrong.
type Ended = Result<u8, String>;

/// What ends a program: SIGINT, SIGTERM and SIGHUP, with their numbers.
struct Interrupts([(Signal, &'static str, u8); 3]);

impl Interrupts {
    fn new() -> std::io::Result<Self> {
        Ok(Self([
            (signal(SignalKind::interrupt())?, "INT", 2),
            (signal(SignalKind::terminate())?, "TERM", 15),
            (signal(SignalKind::hangup())?, "HUP", 1),
        ]))
    }

    async fn next(&mut self) -> (&'static str, u8) {
        let [(int, ..), (term, ..), (hup, ..)] = &mut self.0;
        let which = tokio::select! {
            _ = int.recv() => 0,
            _ = term.recv() => 1,
            _ = hup.recv() => 2,
        };
        (self.0[which].1, self.0[which].2)
    }
}

impl ExecArgs {
    /// Runs the command; the exit code is that of the guest's command.
    pub fn run(self) -> ExitCode {
        with_runtime(self.exec())
    }

    async fn exec(self) -> ExitCode {
        let guest = match Guest::reach(&self.place, &self.object).await {
            Ok((guest, _)) => Arc::new(guest),
            Err(message) => return bad_input(message),
        };
        if self.tty && guest.at.sort == GuestType::Qemu {
            return bad_input(format!(
                "{} has no terminal for -t, as its guest agent gives output only at the end: use ssh, or qm terminal {} \
                 on node {}",
                guest.named(),
                guest.at.vmid,
                guest.at.node
            ));
        }
        let mark = format!("{MARK}={:016x}", rand::random::<u64>());
        let ended = match (Interrupts::new(), guest.at.sort) {
            (Err(error), _) => Err(format!("signals cannot be caught: {error}")),
            (Ok(interrupts), GuestType::Lxc) => self.in_container(&guest, &mark, interrupts).await,
            (Ok(interrupts), GuestType::Qemu) => self.in_machine(&guest, &mark, interrupts).await,
        };
        match ended {
            Ok(code) => ExitCode::from(code),
            Err(message) => {
                errln!("{message}");
                ExitCode::FAILURE
            }
        }
    }

    /// Whether the command gets what is on standard input.
    fn passes_input(&self) -> bool {
        self.stdin || self.tty || !std::io::stdin().is_terminal()
    }

    async fn in_container(&self, guest: &Arc<Guest>, mark: &str, mut interrupts: Interrupts) -> Ended {
        let lent = self.tty.then(Raw::take).transpose()?;
        let terminal = lent.as_ref().map(|(_, terminal)| terminal);
        let mut argv = ["pct", "exec", &guest.at.vmid.to_string(), "--", "env", mark]
            .map(str::to_string)
            .to_vec();
        argv.extend(terminal.map(|t| format!("TERM={}", t.name)));
        argv.extend(self.command.iter().cloned());
        let command = Command::new(argv);
        let started = guest.connection.ssh_start(&guest.at.node, &command, terminal);
        let (mut running, input) = started.await.map_err(|failure| failure.to_string())?;
        let input = Arc::new(input);
        tokio::spawn(feed(input.clone(), self.passes_input()));
        let mut resized = signal(SignalKind::window_change()).map_err(|e| e.to_string())?;
        let mut asked = false;
        loop {
            tokio::select! {
                event = running.next() => match event.map_err(|e| e.to_string())? {
                    Event::Ended { exit, .. } => return Ok(code(exit)),
                    // Whoever does not read what is printed any more wants no more of it.
                    event => if print(&event).is_err() {
                        drop(running);
                        end(guest.clone(), "PIPE", mark.to_string()).await;
                        return Ok(128 + 13);
                    },
                },
                _ = resized.recv(), if self.tty => input.resize(size()).await,
                (name, number) = interrupts.next() => {
                    if asked {
                        drop(running);
                        end(guest.clone(), "KILL", mark.to_string()).await;
                        return Ok(128 + number);
                    }
                    asked = true;
                    // Beside it, because what the command still says has to be read meanwhile.
                    tokio::spawn(end(guest.clone(), name, mark.to_string()));
                }
            }
        }
    }

    async fn in_machine(&self, guest: &Arc<Guest>, mark: &str, mut interrupts: Interrupts) -> Ended {
        let mut given = Vec::new();
        if self.passes_input() {
            let mut pieces = standard_input();
            loop {
                tokio::select! {
                    piece = pieces.recv() => match piece {
                        Some(piece) => given.extend(piece),
                        None => break,
                    },
                    // Nothing was started yet.
                    (_, number) = interrupts.next() => return Ok(128 + number),
                }
            }
        }
        let argv: Vec<&str> = ["/usr/bin/env", mark]
            .into_iter()
            .chain(self.command.iter().map(String::as_str))
            .collect();
        let client = &guest.connection.client;
        let started = agent::start(client, &guest.at, &argv, &given).await;
        let pid = started.map_err(|(failure, _)| failure.to_string())?;
        let ending = agent::end(client, &guest.at, pid);
        tokio::pin!(ending);
        let mut asked = false;
        let status = loop {
            tokio::select! {
                ended = &mut ending => break ended.map_err(|failure| {
                    format!("{failure}; the command may still run in {}", guest.named())
                })?,
                (name, number) = interrupts.next() => {
                    if asked {
                        end(guest.clone(), "KILL", mark.to_string()).await;
                        return Ok(128 + number);
                    }
                    asked = true;
                    tokio::spawn(end(guest.clone(), name, mark.to_string()));
                }
            }
        };
        let _ = print(&Event::Stdout(status.out_data.clone().unwrap_or_default().into_bytes()));
        let _ = print(&Event::Stderr(status.err_data.clone().unwrap_or_default().into_bytes()));
        if status.out_truncated || status.err_truncated {
            errln!("[… the guest agent keeps 16 MiB of the output, the rest is lost …]");
        }
        Ok(code(agent::exit_code(&status)))
    }
}

fn code(exit: u32) -> u8 {
    u8::try_from(exit).unwrap_or(u8::MAX)
}

fn print(event: &Event) -> std::io::Result<()> {
    match event {
        Event::Stdout(data) => {
            let mut out = std::io::stdout().lock();
            out.write_all(data).and_then(|()| out.flush())
        }
        Event::Stderr(data) => std::io::stderr().write_all(data),
        Event::Ended { .. } => Ok(()),
    }
}

/// Gives the command its input, and its end.
async fn feed(input: Arc<Input>, passes: bool) {
    if passes {
        let mut pieces = standard_input();
        while let Some(piece) = pieces.recv().await {
            input.send(&piece).await;
        }
    }
    input.end().await;
}

/// Sends a signal to the command and what it started. The way to the node's `kill` would be an SSH signal, which OpenSSH
/// does not pass on for root.
async fn end(guest: Arc<Guest>, name: &'static str, mark: String) {
    let argv = ["/bin/sh", "-c", SIGNAL, "phoenix-exec", name, &mark];
    let sent = async {
        match guest.at.sort {
            GuestType::Lxc => {
                let head = ["pct", "exec", &guest.at.vmid.to_string(), "--"].map(str::to_string);
                let command = Command::new(head.into_iter().chain(argv.map(str::to_string)));
                guest.connection.ssh(&guest.at.node, &command).await.map(drop)
            }
            GuestType::Qemu => agent::exec(&guest.connection.client, &guest.at, &argv).await.map(drop),
        }
    };
    let why = match tokio::time::timeout(FAREWELL, sent).await {
        Ok(Ok(())) => return,
        Ok(Err((failure, _))) => failure.to_string(),
        Err(_) => format!("no answer within {} s", FAREWELL.as_secs()),
    };
    errln!("the command in {} may still run: {why}", guest.named());
}
