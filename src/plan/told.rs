//! What a step that took effect is told as: an event with a reason of its own, in words that say what was done.

use crate::pve::ApiCall;
use crate::reason::{Cause, Reason};

use super::{Announce, Effect, GuestWork, Impact, NodeWork, Plan, Stage, Step};

/// First words of actions and how they are told once they are done.
const VERBS: &[(&str, &str)] = &[
    ("add", "added"),
    ("allocate", "allocated"),
    ("attach", "attached"),
    ("bind", "bound"),
    ("clone", "cloned"),
    ("compare", "compared"),
    ("configure", "configured"),
    ("convert", "turned"),
    ("create", "created"),
    ("destroy", "destroyed"),
    ("detach", "detached"),
    ("download", "downloaded"),
    ("finish", "finished"),
    ("forget", "forgot"),
    ("give", "gave"),
    ("go", "went"),
    ("grow", "grew"),
    ("keep", "kept"),
    ("let", "let"),
    ("make", "made"),
    ("move", "moved"),
    ("note", "noted"),
    ("open", "opened"),
    ("protect", "protected"),
    ("put", "put"),
    ("record", "recorded"),
    ("register", "registered"),
    ("remove", "removed"),
    ("restart", "restarted"),
    ("rewrite", "rewrote"),
    ("run", "ran"),
    ("set", "set"),
    ("shut", "shut"),
    ("start", "started"),
    ("stop", "stopped"),
    ("take", "took"),
    ("write", "wrote"),
];

/// An action that is done, in words: `create container 950` becomes `created container 950`.
pub fn done(action: &str) -> String {
    let (first, rest) = action.split_once(' ').unwrap_or((action, ""));
    let verb = VERBS.iter().find(|(verb, _)| *verb == first).map(|(_, done)| *done);
    match verb {
        Some(done) => {
            let rest = rest.replace(" to a template", " into a template");
            format!("{done} {rest}").trim_end().to_string()
        }
        None => format!("done: {action}"),
    }
}

/// Whether it is told of a restart that a probe asked for.
pub fn is_for_a_probe(told: &Cause) -> bool {
    told.reason == Reason::Restarted && told.message.contains(super::health::PROBE_FAILS)
}

/// What is told of a plan's step once it took effect; `None` where it is of no interest to anybody: what it records, and
/// what only prepares something else.
pub fn told(plan: &Plan, step: &Step) -> Option<Cause> {
    let reason = match &step.effect {
        Effect::Record | Effect::RemoveFinalizer { .. } => return None,
        Effect::OnNode { work, .. } => match work {
            NodeWork::WriteSnippet { .. } | NodeWork::RemoveSnippet { .. } => return None,
            NodeWork::SetOptions { .. }
            | NodeWork::RawLines { .. }
            | NodeWork::GpuNodes { .. }
            | NodeWork::BindCard { .. } => Reason::Configured,
        },
        Effect::InGuest { work, .. } => match work {
            // What comes of a script is told when it has ended.
            GuestWork::StartScript { .. } => return None,
            GuestWork::CancelScript { .. } => Reason::ScriptCancelled,
            GuestWork::RestartUnit { .. } => Reason::Restarted,
        },
        Effect::Task { downloads: Some(_), .. } => Reason::ImageDownloaded,
        Effect::Call { call, impact, .. } | Effect::Task { call, impact, .. } => of_call(step, call, *impact)?,
    };
    let first = step.action.split(' ').next().unwrap_or_default();
    let drift = plan.findings.iter().any(|f| f.condition == "DriftDetected");
    let reason = match (reason, first) {
        (Reason::ImageDownloaded, "compare") | (_, "note" | "finish") => return None,
        (Reason::Configured | Reason::VolumesChanged, "configure") if drift => Reason::DriftCorrected,
        (reason, _) => reason,
    };
    Some(Cause::new(reason, done(&step.action)))
}

fn of_call(step: &Step, call: &ApiCall, impact: Impact) -> Option<Reason> {
    let announces = |of: fn(&Announce) -> bool| step.announce.iter().any(of);
    let owner = step.action.split(' ').nth(1) == Some("owner");
    Some(match call.path.rsplit('/').next().unwrap_or_default() {
        "start" => Reason::Started,
        "reboot" => Reason::Restarted,
        "shutdown" | "stop" if step.action.starts_with("restart ") => Reason::Restarted,
        "shutdown" | "stop" => Reason::Stopped,
        "resize" => Reason::GrownVolume,
        "snapshot" => Reason::SnapshotTaken,
        "template" => Reason::Converted,
        _ if impact == Impact::Destroy => Reason::Destroyed,
        // Owner containers are opened and closed again around what is told.
        _ if owner && impact != Impact::Create => return None,
        _ if owner => Reason::VolumesChanged,
        _ if announces(|a| *a == Announce::CreateSent) && impact == Impact::Create => Reason::Created,
        _ if announces(|a| matches!(a, Announce::Claim(_))) => Reason::Adopted,
        _ if step.stage == Stage::VolumesReady || announces(|a| matches!(a, Announce::Volume(_))) => {
            Reason::VolumesChanged
        }
        _ => Reason::Configured,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_is_told_in_the_past() {
        for (action, told) in [
            (
                "create container 950 from local:x",
                "created container 950 from local:x",
            ),
            ("shut container 950 down", "shut container 950 down"),
            ("take over VM 7", "took over VM 7"),
            ("convert VM 7 to a template", "turned VM 7 into a template"),
        ] {
            assert_eq!(done(action), told);
        }
    }
}
