//! What a machine loses before it becomes a template, so that its clones differ from it and from each other.

use crate::desired::{Script, ScriptFile, ScriptRole};

use super::{Given, RUN, launcher};

/// Identity, keys, cloud-init's state and logs go; Phoenix's own records stay, so that a clone does not repeat what its
/// template has. Containers need none of this: Proxmox empties their machine-id on cloning (facts D.4).
const CLEAN: &str = include_str!("clean.sh");

/// The script, run last before a template's machine is shut down.
pub(super) fn script() -> Script {
    let path = format!("{RUN}/template-clean/clean");
    let body = launcher(CLEAN, &path);
    let given = Given {
        files: vec![ScriptFile {
            path,
            content: CLEAN.into(),
            mode: "0700".into(),
        }],
        ..Given::default()
    };
    given.script(ScriptRole::Clean, "template-clean".into(), "template-clean", body, 600)
}
