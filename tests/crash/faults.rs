//! Each write goes wrong once, in each of the ways that a network and Proxmox have; each task fails once.

use phoenix::simulator::model::state::TaskFault;
use phoenix::simulator::{Edit, Fault, FaultKind};

use crate::lifecycles::Lifecycle;
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
                apply: Box::new(move |world| world.sim().add_fault(fault.clone())),
                ..Disturbance::none()
            });
        }
    }
    disturbances
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
            apply: Box::new(move |world| world.sim().edit(Edit::FailTasks(fault.clone())).unwrap()),
            ..Disturbance::none()
        }
    };
    usual.tasks.iter().map(fail).collect()
}

async fn sweep(lifecycle: &'static Lifecycle) {
    let usual = undisturbed(lifecycle).await;
    let disturbances: Vec<Disturbance> = writes(&usual).into_iter().chain(tasks(&usual)).collect();
    assert!(
        disturbances.len() > 10,
        "{}: only {}",
        lifecycle.name,
        disturbances.len()
    );
    all_end_alike(lifecycle, &usual, disturbances).await;
}

crate::for_each_lifecycle!(sweep);
