//! Each write goes wrong once, in each of the ways that a network and Proxmox have; each task fails once; the connection
//! is lost before and after each program that is sent into a container.

use phoenix::simulator::model::state::TaskFault;
use phoenix::simulator::ssh::{SshAction, SshFault};
use phoenix::simulator::{Fault, FaultKind};

use crate::lifecycles::Lifecycle;
use crate::mishaps::Mishap;
use crate::{Disturbance, Undisturbed, all_end_alike, undisturbed};

fn ways() -> Vec<FaultKind> {
    let before = |status| FaultKind::Status {
        status,
        message: "got timeout".into(),
    };
    let after = |status| FaultKind::StatusAfter {
        status,
        message: "got timeout".into(),
    };
    vec![
        FaultKind::LostRequest,
        FaultKind::LostResponse,
        before(500),
        before(595),
        after(500),
        after(596),
    ]
}

fn writes(usual: &Undisturbed) -> Vec<Disturbance> {
    let mut disturbances = Vec::new();
    for ((verb, path), count) in &usual.writes {
        for (skip, kind) in (0..*count).flat_map(|n| ways().into_iter().map(move |kind| (n, kind))) {
            let fault = Fault {
                method: Some(verb.clone()),
                path: Some(format!("^{path}$")),
                skip,
                count: 1,
                kind,
            };
            disturbances.push(Disturbance {
                name: format!("{verb} {path} number {skip}: {:?}", fault.kind),
                mishaps: vec![Mishap::Request(fault)],
            });
        }
    }
    disturbances
}

/// The connection is lost around each of the first programs that are sent into containers. Into machines they go by the
/// API, and are among the writes.
fn connections(lifecycle: &Lifecycle, usual: &Undisturbed) -> Vec<Disturbance> {
    let by_api = usual.writes.keys().any(|(_, path)| path.ends_with("/agent/exec"));
    if !lifecycle.ssh || by_api {
        return Vec::new();
    }
    let positions = [("start ", 5), ("poll ", 8), ("cancel ", 2)];
    let positions = positions
        .into_iter()
        .flat_map(|(command, number)| (0..number).map(move |n| (command, n)));
    let fault = |command: &str, action: SshAction, count| {
        Mishap::Command(SshFault {
            vmid: None,
            command: command.into(),
            action,
            count: Some(count),
        })
    };
    let lost = |(command, skip): (&'static str, u32)| {
        [SshAction::LoseBefore, SshAction::LoseAfter].map(|action| Disturbance {
            name: format!("{command}number {skip}: {action:?}"),
            // Faults are met in order: the first ones let programs pass.
            mishaps: vec![
                fault(command, SshAction::Delay { ms: 0 }, skip),
                fault(command, action, 1),
            ],
        })
    };
    positions.flat_map(lost).collect()
}

fn tasks(usual: &Undisturbed) -> Vec<Disturbance> {
    let fail = |kind: &String| {
        let fault = TaskFault {
            kind: kind.clone(),
            id: None,
            message: "command failed: exit code 1".into(),
            count: 1,
        };
        Disturbance {
            name: format!("the first task {kind} fails"),
            mishaps: vec![Mishap::Task(fault)],
        }
    };
    usual.tasks.iter().map(fail).collect()
}

async fn sweep(lifecycle: &'static Lifecycle) {
    let usual = undisturbed(lifecycle).await;
    let mut disturbances = writes(&usual);
    disturbances.extend(tasks(&usual));
    disturbances.extend(connections(lifecycle, &usual));
    assert!(
        disturbances.len() > 10,
        "{}: only {}",
        lifecycle.name,
        disturbances.len()
    );
    all_end_alike(lifecycle, &usual, disturbances).await;
}

crate::for_each_lifecycle!(sweep);
