//! Asks the probes of guests beside the reconciles, so that a guest that hangs holds up nobody else: an answer that does
//! not come at once is fetched by a later reconcile. Probes of a node's containers that come together share one SSH
//! channel; a machine's go through the API to its guest agent.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use tokio::sync::{Semaphore, watch};

use crate::observed::{ProbeAnswer, ProbeKind, Serving};
use crate::plan::ProbeRequest;
use crate::proxmox::Client;
use crate::pve::{GuestRef, GuestType, Vmid};
use crate::reason::{Cause, Reason};
use crate::remote::Node;
use crate::remote::probes::{self, AT_A_TIME, BatchAnswer, GuestProbe, Lines, SLACK};
use crate::remote::runner::{self, Layout, ProbeAnswer as Said};

use super::connection::Shell;
use super::defect;
use super::failure::of_ssh;

/// A reconcile waits so long for an answer before it leaves it to a later one.
const PATIENCE: Duration = Duration::from_secs(1);
/// Probes that come within this time share a channel.
const GATHER: Duration = Duration::from_millis(20);
/// Probes that share a channel at most; more go into the next one.
const BATCH: usize = 32;
/// Channels for probes per node; OpenSSH allows ten a connection, and steps need some.
const CHANNELS: usize = 4;
/// An answer that nobody fetched for so long says nothing about now.
const STALE: Duration = Duration::from_secs(5);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where a guest is asked.
pub enum Place {
    /// A container, over SSH to its node.
    Container(Node),
    /// A machine on a node, through its agent.
    Machine(String),
}

type Answer = watch::Receiver<Option<(Instant, ProbeAnswer)>>;
type Tell = watch::Sender<Option<(Instant, ProbeAnswer)>>;

/// A probe that is under way, or whose answer was not fetched yet.
struct Asked {
    request: ProbeRequest,
    answer: Answer,
}

/// A container's probe that waits for a channel.
struct Waiting {
    probe: GuestProbe,
    tell: Tell,
}

struct NodeQueue {
    waiting: Mutex<Vec<Waiting>>,
    channels: Arc<Semaphore>,
}

/// Asks the probes of one hypervisor's guests.
pub struct Prober {
    client: Client,
    ssh: Option<Shell>,
    asked: Mutex<HashMap<(Vmid, ProbeKind), Asked>>,
    nodes: Mutex<HashMap<Node, Arc<NodeQueue>>>,
}

impl Prober {
    /// A prober; nothing is sent.
    pub fn new(client: Client, ssh: Option<Shell>) -> Self {
        Prober {
            client,
            ssh,
            asked: Mutex::default(),
            nodes: Mutex::default(),
        }
    }

    /// The answer to a probe, if it comes soon. A second question for the same start of the guest while the first is
    /// under way waits for the first one's answer.
    pub async fn ask(self: &Arc<Self>, vmid: Vmid, place: &Place, request: &ProbeRequest) -> ProbeAnswer {
        let key = (vmid, request.kind);
        let mut answer = self.under_way(key, request).unwrap_or_else(|| {
            let (tell, answer) = watch::channel(None);
            let asked = Asked {
                request: request.clone(),
                answer: answer.clone(),
            };
            lock(&self.asked).insert(key, asked);
            self.begin(vmid, place, request, tell);
            answer
        });
        let said = match tokio::time::timeout(PATIENCE, answer.wait_for(Option::is_some)).await {
            Err(_) => return ProbeAnswer::UnderWay,
            Ok(said) => said.ok().and_then(|said| said.clone().map(|(_, answer)| answer)),
        };
        lock(&self.asked).remove(&key);
        said.unwrap_or_else(|| ProbeAnswer::Unknown(Cause::new(Reason::SSHConnectionLost, "the probe was dropped")))
    }

    fn under_way(&self, key: (Vmid, ProbeKind), request: &ProbeRequest) -> Option<Answer> {
        let asked = lock(&self.asked);
        let found = asked.get(&key).filter(|a| a.request == *request)?;
        let stale = found
            .answer
            .borrow()
            .as_ref()
            .is_some_and(|(at, _)| at.elapsed() > STALE);
        (!stale).then(|| found.answer.clone())
    }

    fn begin(self: &Arc<Self>, vmid: Vmid, place: &Place, request: &ProbeRequest, tell: Tell) {
        let probe = GuestProbe {
            vmid,
            argv: request.command.clone(),
            seconds: request.timeout,
        };
        match (place, &self.ssh) {
            (Place::Container(node), Some(ssh)) => self.enqueue(ssh, node, Waiting { probe, tell }),
            (Place::Container(_), None) => {
                let (failure, _) = super::connection::no_ssh();
                tell.send_replace(Some((Instant::now(), ProbeAnswer::Unknown(failure))));
            }
            (Place::Machine(node), _) => {
                let client = self.client.clone();
                let at = GuestRef::new(GuestType::Qemu, vmid, node);
                tokio::spawn(async move {
                    let answer = defect::caught(in_machine(&client, &at, &probe)).await;
                    tell.send_replace(Some((Instant::now(), answer.unwrap_or_else(|words| defective(&words)))));
                });
            }
        }
    }

    /// Puts a probe into its node's queue; whoever finds the queue empty sees to it that it is emptied.
    fn enqueue(self: &Arc<Self>, ssh: &Shell, node: &Node, waiting: Waiting) {
        let new = || NodeQueue {
            waiting: Mutex::default(),
            channels: Arc::new(Semaphore::new(CHANNELS)),
        };
        let queue = lock(&self.nodes)
            .entry(node.clone())
            .or_insert_with(|| Arc::new(new()))
            .clone();
        let first = {
            let mut list = lock(&queue.waiting);
            list.push(waiting);
            list.len() == 1
        };
        if first {
            tokio::spawn(empty(ssh.clone(), node.clone(), queue));
        }
    }
}

/// The answer to a probe in which Phoenix panicked.
fn defective(words: &str) -> ProbeAnswer {
    tracing::error!(panic = words, "a defect in Phoenix ended a probe");
    ProbeAnswer::Unknown(Cause::new(Reason::InternalError, defect::message(words)))
}

/// Sends what gathers in a node's queue, until it is empty.
async fn empty(ssh: Shell, node: Node, queue: Arc<NodeQueue>) {
    loop {
        tokio::time::sleep(GATHER).await;
        // More gathers while all channels are in use.
        let Ok(channel) = queue.channels.clone().acquire_owned().await else {
            return;
        };
        let (batch, more) = {
            let mut list = lock(&queue.waiting);
            let count = list.len().min(BATCH);
            let batch: Vec<Waiting> = list.drain(..count).collect();
            (batch, !list.is_empty())
        };
        let (ssh, node) = (ssh.clone(), node.clone());
        tokio::spawn(async move {
            if let Err(words) = defect::caught(run(&ssh, &node, &batch)).await {
                let untold = batch.iter().filter(|w| w.tell.borrow().is_none());
                untold.for_each(|w| drop(w.tell.send_replace(Some((Instant::now(), defective(&words))))));
            }
            drop(channel);
        });
        if !more {
            return;
        }
    }
}

/// Runs a batch; each answer is told as soon as it is there.
async fn run(shell: &Shell, node: &Node, batch: &[Waiting]) {
    let list: Vec<GuestProbe> = batch.iter().map(|w| w.probe.clone()).collect();
    let command = probes::batch(&list, &Layout::default());
    let longest = list.iter().map(|p| p.seconds).max().unwrap_or(1) + SLACK;
    let rounds = u64::try_from(list.len().div_ceil(AT_A_TIME)).unwrap_or(1);
    let limit = Duration::from_secs(longest * rounds + SLACK);
    let mut told = vec![false; batch.len()];
    let mut lines = Lines::default();
    let stdout = |bytes: &[u8]| {
        for (n, answer) in lines.push(bytes).iter().filter_map(|line| probes::answer(line)) {
            if let (Some(waiting), Some(told)) = (batch.get(n), told.get_mut(n)) {
                *told = true;
                let answer = of_batch(answer, waiting.probe.seconds);
                waiting.tell.send_replace(Some((Instant::now(), answer)));
            }
        }
    };
    let problem = match shell.ssh.run_streaming(node, &command, limit, stdout).await {
        Ok(output) => Cause::new(
            Reason::CommandFailed,
            format!("probes on node {}: {}", node.name, output.complaint()),
        ),
        Err(error) => of_ssh(&error, &shell.access),
    };
    for (waiting, _) in batch.iter().zip(&told).filter(|(_, told)| !**told) {
        let unknown = ProbeAnswer::Unknown(problem.clone());
        waiting.tell.send_replace(Some((Instant::now(), unknown)));
    }
}

fn of_batch(answer: BatchAnswer, seconds: u64) -> ProbeAnswer {
    match answer {
        BatchAnswer::Ran(said) => said_by(&said, seconds),
        BatchAnswer::Late => ProbeAnswer::Failed(format!("the guest let nobody in within {seconds} s")),
        // It is not running, or the node cannot: no reason to restart it.
        BatchAnswer::NotRun(words) => ProbeAnswer::Unknown(Cause::new(Reason::GuestUnreachable, shortened(&words))),
    }
}

fn said_by(said: &Said, seconds: u64) -> ProbeAnswer {
    match said.exit {
        0 => return ProbeAnswer::Succeeded(Serving::read(&said.output)),
        124 | 137 => return ProbeAnswer::Failed(format!("no answer within {seconds} s")),
        _ => {}
    }
    let text = shortened(&said.output);
    let colon = if text.is_empty() { "" } else { ": " };
    ProbeAnswer::Failed(format!("exit code {}{colon}{text}", said.exit))
}

fn shortened(text: &str) -> String {
    text.trim().chars().take(300).collect()
}

async fn in_machine(client: &Client, at: &GuestRef, probe: &GuestProbe) -> ProbeAnswer {
    let command = runner::probe(probe.vmid, &probe.argv, probe.seconds, &Layout::default());
    let output = match super::agent::run(client, at, &command.stdin).await {
        Ok(output) => output,
        // The agent does not answer: who is cut off by it is no less unwell than one whose server is.
        Err((failure, _)) if [Reason::ProxmoxRefused, Reason::GuestUnreachable].contains(&failure.reason) => {
            return ProbeAnswer::Failed(shortened(&failure.message));
        }
        Err((failure, _)) => return ProbeAnswer::Unknown(failure),
    };
    if !output.is_success() {
        return ProbeAnswer::Failed(shortened(&output.complaint()));
    }
    match Said::parse(&output.stdout.text()) {
        Ok(said) => said_by(&said, probe.seconds),
        Err(error) => ProbeAnswer::Unknown(Cause::new(Reason::GuestUnreachable, error.to_string())),
    }
}
