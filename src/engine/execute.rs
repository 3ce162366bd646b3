//! Carries out one effect. The step holds every value; nothing is decided here but what the answer means.

use crate::desired::vm::vendor_data::{self, FirstBoot};
use crate::desired::{Key, Script, WantedVendor};
use crate::plan::{Effect, GuestWork, NodeWork, Step};
use crate::proxmox::Upid;
use crate::pve::{ApiCall, GuestRef, GuestType, Vmid};
use crate::reason::{Cause, Reason};
use crate::remote::gpus;
use crate::remote::node::{self, NodeLayout, RawLine, RawLinesAnswer};
use crate::remote::runner::{self, GuestFile, Layout};
use crate::remote::{Command, InvalidCommand, Output};

use super::connection::Connection;
use super::failure::of_guest;

/// What came of an effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is done.
    Done,
    /// A Proxmox task works on it.
    Started(String),
    /// It failed, or nobody knows (then the next look tells).
    Failed(Cause),
    /// Something else is in the way for a moment; not the step's fault.
    Busy(Cause),
}

/// Carries out a step's effect.
pub async fn execute(connection: &Connection, key: &Key, step: &Step) -> Outcome {
    match &step.effect {
        Effect::Record | Effect::RemoveFinalizer { .. } => Outcome::Done,
        Effect::Call { call, .. } => self::call(connection, call).await,
        Effect::Task { call, .. } => task(connection, key, call).await,
        Effect::OnNode { node, work } => on_node(connection, node, work).await,
        Effect::InGuest { at, work } => in_guest(connection, at, work).await,
    }
}

/// What sort of effect it is, in one word.
pub fn sort(effect: &Effect) -> &'static str {
    match effect {
        Effect::Record => "record",
        Effect::RemoveFinalizer { .. } => "release",
        Effect::Call { .. } => "call",
        Effect::Task { .. } => "task",
        Effect::OnNode { work, .. } => match work {
            NodeWork::SetOptions { .. } => "set_options",
            NodeWork::RawLines { .. } => "raw_lines",
            NodeWork::GpuNodes { .. } => "gpu_nodes",
            NodeWork::BindCard { .. } => "bind_card",
            NodeWork::WriteSnippet { .. } => "write_snippet",
            NodeWork::RemoveSnippet { .. } => "remove_snippet",
        },
        Effect::InGuest { work, .. } => match work {
            GuestWork::StartScript { .. } => "start_script",
            GuestWork::CancelScript { .. } => "cancel_script",
            GuestWork::RestartUnit { .. } => "restart_unit",
        },
    }
}

async fn on_node(connection: &Connection, on: &str, work: &NodeWork) -> Outcome {
    match work {
        NodeWork::SetOptions {
            at,
            set,
            delete,
            digest,
        } => {
            let command = node::set(at.sort.tool(), at.vmid, set, delete, Some(digest));
            ssh(connection, on, &command).await
        }
        NodeWork::RawLines {
            vmid,
            add,
            remove,
            digest,
        } => raw_lines(connection, on, *vmid, add, remove, digest).await,
        NodeWork::GpuNodes { minors } => at_cards(connection, on, &gpus::make_nodes(minors)).await,
        NodeWork::BindCard { address, driver } => at_cards(connection, on, &gpus::bind(address, driver)).await,
        NodeWork::WriteSnippet { volid, vendor } => write_snippet(connection, on, volid, vendor).await,
        NodeWork::RemoveSnippet { volid } => ssh(connection, on, &node::remove_snippet(volid)).await,
    }
}

/// Work at a node's cards, and a look at what came of it.
async fn at_cards(connection: &Connection, on: &str, command: &Command) -> Outcome {
    let outcome = ssh(connection, on, command).await;
    connection.look_again_at_cards(on).await;
    outcome
}

async fn in_guest(connection: &Connection, at: &GuestRef, work: &GuestWork) -> Outcome {
    // What was read of a script before is no more so, whatever comes of this.
    match work {
        GuestWork::StartScript { script, .. } => connection.recent.forget_script(at.vmid, &script.id),
        GuestWork::CancelScript { id, .. } => connection.recent.forget_script(at.vmid, id),
        GuestWork::RestartUnit { .. } => {}
    }
    let done = match work {
        GuestWork::StartScript { script, attempt } => start_script(connection, at, script, *attempt).await,
        GuestWork::CancelScript { id, hash } => cancel_script(connection, at, id, hash).await,
        GuestWork::RestartUnit { unit } => restart_unit(connection, at, unit).await,
    };
    done.map_or_else(|outcome| outcome, |()| Outcome::Done)
}

fn failed(failure: Cause) -> Outcome {
    if failure.reason.passes_soon() {
        Outcome::Busy(failure)
    } else {
        Outcome::Failed(failure)
    }
}

async fn call(connection: &Connection, call: &ApiCall) -> Outcome {
    match connection.client.call(call).await {
        Ok(_) => Outcome::Done,
        Err(error) if only_hotplug(&error) => Outcome::Done,
        Err(error) => failed(Cause::from(&error)),
    }
}

/// A machine that cannot take a change while it runs keeps it as pending, though the answer is a 400 (facts F.3).
fn only_hotplug(error: &crate::proxmox::Error) -> bool {
    match error {
        crate::proxmox::Error::Parameters { errors, .. } => {
            !errors.is_empty() && errors.values().all(|e| e.starts_with("hotplug problem"))
        }
        _ => false,
    }
}

async fn task(connection: &Connection, key: &Key, call: &ApiCall) -> Outcome {
    let outcome = match connection.client.call(call).await {
        Ok(value) => match value.as_str().map(str::parse::<Upid>) {
            Some(Ok(upid)) => Outcome::Started(upid.as_str().to_string()),
            _ => Outcome::Done,
        },
        Err(error) => failed(Cause::from(&error)),
    };
    if !matches!(outcome, Outcome::Started(_)) {
        connection.shares.release(key);
    }
    outcome
}

async fn ssh(connection: &Connection, on: &str, command: &Command) -> Outcome {
    match connection.ssh(on, command).await {
        Ok(output) if output.is_success() => Outcome::Done,
        Ok(output) => {
            let text = output.complaint();
            let reason = super::failure::reason_of(&text).unwrap_or(Reason::CommandFailed);
            failed(Cause::new(reason, text))
        }
        Err((error, _)) => Outcome::Failed(error),
    }
}

async fn raw_lines(
    connection: &Connection,
    on: &str,
    vmid: Vmid,
    add: &[String],
    remove: &[String],
    digest: &str,
) -> Outcome {
    let parse = |lines: &[String]| lines.iter().map(|l| RawLine::parse(l)).collect::<Result<Vec<_>, _>>();
    let (add, remove) = match (parse(add), parse(remove)) {
        (Ok(add), Ok(remove)) => (add, remove),
        (Err(e), _) | (_, Err(e)) => return Outcome::Failed(Cause::new(Reason::InvalidSpec, e.to_string())),
    };
    let command = node::raw_lines(vmid, &add, &remove, digest, &NodeLayout::default());
    let output = match connection.ssh(on, &command).await {
        Ok(output) => output,
        Err((error, _)) => return Outcome::Failed(error),
    };
    match RawLinesAnswer::parse(output.exit, &output.stdout.text(), &output.stderr.text()) {
        RawLinesAnswer::Done { .. } => read_back(connection, on, vmid, &add).await,
        RawLinesAnswer::Locked(text) => Outcome::Busy(Cause::new(Reason::GuestLocked, text)),
        RawLinesAnswer::Modified => {
            let message = format!("the configuration of container {vmid} was changed meanwhile; it is read again");
            Outcome::Busy(Cause::new(Reason::ConfigChanged, message))
        }
        RawLinesAnswer::Busy => {
            let message = format!("Proxmox is at work on the configuration of container {vmid}");
            Outcome::Busy(Cause::new(Reason::GuestLocked, message))
        }
        RawLinesAnswer::Missing => {
            let message = format!("container {vmid} is not on node {on} any more; it is looked for again");
            Outcome::Busy(Cause::new(Reason::ConfigChanged, message))
        }
        RawLinesAnswer::Failed(text) => {
            let message = format!("cannot write raw lines of container {vmid} on node {on}: {text}");
            Outcome::Failed(Cause::new(Reason::CommandFailed, message))
        }
    }
}

/// Proxmox leaves out what it cannot read, without a word (facts L.1.6).
async fn read_back(connection: &Connection, on: &str, vmid: Vmid, added: &[RawLine]) -> Outcome {
    let config = match connection
        .client
        .guest_config(&GuestRef::new(GuestType::Lxc, vmid, on), false)
        .await
    {
        Ok(config) => config,
        Err(error) => return failed(Cause::from(&error)),
    };
    let read = |line: &&RawLine| {
        config
            .raw
            .iter()
            .any(|(key, value)| (key, value) == (&line.key, &line.value))
    };
    let lost: Vec<String> = added
        .iter()
        .filter(|line| !read(line))
        .map(|line| format!("'{} = {}'", line.key, line.value))
        .collect();
    if lost.is_empty() {
        return Outcome::Done;
    }
    let message = format!(
        "lxcOptions: Proxmox does not read back what was written into the configuration of container {vmid}: {}: leave it out, or update Proxmox",
        lost.join(", ")
    );
    Outcome::Failed(Cause::new(Reason::RawLineNotRead, message))
}

/// The script as the runner takes it.
fn runner_script(script: &Script, attempt: i64) -> runner::Script {
    runner::Script {
        id: script.id.clone(),
        hash: script.hash.clone(),
        attempt: u32::try_from(attempt).unwrap_or(1),
        body: script.body.clone(),
        path: None,
        args: script.args.clone(),
        environment: script
            .environment
            .iter()
            .map(|(k, v)| (k.clone(), v.as_str().into()))
            .collect(),
        files: script
            .files
            .iter()
            .map(|f| GuestFile {
                path: f.path.clone(),
                mode: f.mode.clone(),
                content: f.content.clone().into_bytes(),
            })
            .collect(),
        workdir: script.workdir.clone(),
        deadline_seconds: u64::try_from(script.deadline_seconds).ok(),
        keep_output: script.keep_output,
        run_as: script.run_as.as_ref().map(|r| runner::RunAs {
            user: r.user.clone(),
            folder: r.folder.clone(),
        }),
    }
}

/// Renders the vendor-data and puts it on the node.
async fn write_snippet(connection: &Connection, on: &str, volid: &str, vendor: &WantedVendor) -> Outcome {
    let program = |script: &Script| runner::start_program(&runner_script(script, 1), &Layout::default());
    let programs: Vec<String> = match vendor.scripts.iter().map(program).collect() {
        Ok(programs) => programs,
        Err(error) => return Outcome::Failed(Cause::new(Reason::InvalidSpec, error.to_string())),
    };
    let wish = FirstBoot {
        packages: &vendor.packages,
        user_data: vendor.user_data.as_deref(),
        agent: vendor.agent,
        programs: &programs,
    };
    match vendor_data::vendor_data(&wish) {
        Ok(text) => ssh(connection, on, &node::write_snippet(volid, &text.unwrap_or_default())).await,
        Err(message) => Outcome::Failed(Cause::new(Reason::InvalidSpec, message)),
    }
}

/// Runs one of the runner's programs in a guest; what keeps it from ending well is the step's outcome.
async fn run(
    connection: &Connection,
    at: &GuestRef,
    command: Result<Command, InvalidCommand>,
) -> Result<Output, Outcome> {
    let command = command.map_err(|error| Outcome::Failed(Cause::new(Reason::InvalidSpec, error.to_string())))?;
    match connection.in_guest(at, &command).await {
        Ok(output) if output.is_success() => Ok(output),
        Ok(output) => Err(Outcome::Failed(of_guest(at, &output))),
        Err((error, _)) => Err(Outcome::Failed(error)),
    }
}

/// An answer of the runner's that cannot be read.
fn unreadable(error: runner::AnswerError) -> Outcome {
    Outcome::Failed(Cause::new(Reason::GuestUnreachable, error.to_string()))
}

/// systemd answers at once and restarts the unit by itself: a service that takes long to stop holds up nothing.
async fn restart_unit(connection: &Connection, at: &GuestRef, unit: &str) -> Result<(), Outcome> {
    let argv = ["systemctl", "restart", "--no-block", unit].map(str::to_string);
    let command = runner::probe(at.vmid, &argv, 20, &Layout::default());
    let output = run(connection, at, Ok(command)).await?;
    let answer = runner::ProbeAnswer::parse(&output.stdout.text()).map_err(unreadable)?;
    if answer.exit == 0 {
        return Ok(());
    }
    let message = format!(
        "systemctl restart {unit} in {} ended with exit code {}: {}: correct health.restartUnit",
        at.named(),
        answer.exit,
        answer.output.trim()
    );
    Err(Outcome::Failed(Cause::new(Reason::CommandFailed, message)))
}

async fn start_script(connection: &Connection, at: &GuestRef, script: &Script, attempt: i64) -> Result<(), Outcome> {
    let command = runner::start(at.vmid, &runner_script(script, attempt), &Layout::default());
    let output = run(connection, at, command).await?;
    let record = runner::Record::parse(&output.stdout.text()).map_err(unreadable)?;
    if record.busy {
        let message = format!("an earlier version of {} still runs", script.name);
        return Err(Outcome::Busy(Cause::new(Reason::ScriptRunning, message)));
    }
    Ok(())
}

async fn cancel_script(connection: &Connection, at: &GuestRef, script: &str, hash: &str) -> Result<(), Outcome> {
    let command = runner::cancel(at.vmid, script, hash, &Layout::default());
    run(connection, at, command).await.map(drop)
}
