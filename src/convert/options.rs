//! `pct_options`, `lxc_options` and the AppArmor keys of a container.

use crate::crd::{Capabilities, MountType};
use crate::desired::raw_lines;

use super::json::{At, Node};
use super::values;
use super::writer::{Item, Writer};

/// What the option lists of a container say.
#[derive(Debug, Default)]
pub struct Options {
    /// Proxmox's features.
    pub capabilities: Option<Capabilities>,
    /// CPU time limit in cores.
    pub cpu_limit: Option<f64>,
    /// CPU weight.
    pub cpu_units: Option<i64>,
    /// Protection against removal.
    pub protection: Option<bool>,
    /// AppArmor profile.
    pub apparmor_profile: Option<String>,
    /// Raw lines.
    pub lxc_options: Option<Vec<String>>,
}

const PROFILE_KEY: &str = "lxc.apparmor.profile";

/// Maps the option lists. `extra` are items of `features` that turned out to be options (`nesting=1`).
pub fn options(w: &mut Writer, guest: &At, extra: &[Item]) -> Options {
    let mut out = Options::default();
    let list = w.key(guest, &["pct_options"]);
    let items = list.map(|at| w.list(&at, &[','])).unwrap_or_default();
    for item in items.iter().chain(extra) {
        pct_option(w, item, &mut out);
    }
    nesting(w, guest, &mut out);
    apparmor(w, guest, &mut out);
    out
}

/// Whether the text is a Proxmox feature flag such as `nesting=1`.
pub fn is_capability(text: &str) -> bool {
    let key = text.split_once('=').map_or("", |(key, _)| key.trim());
    ["nesting", "keyctl", "fuse", "mknod", "mount", "force_rw_sys"].contains(&key)
}

fn pct_option(w: &mut Writer, item: &Item, out: &mut Options) {
    let text = item.text.clone().unwrap_or_default();
    // `--features nesting=1` and `features=nesting=1` are the words of `pct set`.
    let text = text.trim_start_matches('-').trim_start();
    let text = text
        .strip_prefix("features")
        .map_or(text, |t| t.trim_start_matches(['=', ' ']));
    let (key, value) = text
        .split_once('=')
        .or_else(|| text.split_once(' '))
        .unwrap_or((text, "1"));
    let (key, value) = (key.trim(), value.trim());
    let node = Node::String(value.to_owned());
    let flag = values::boolean(&node);
    let done = match key {
        "nesting" | "keyctl" | "fuse" | "mknod" => flag.map(|on| {
            let capabilities = out.capabilities.get_or_insert_default();
            let field = match key {
                "nesting" => &mut capabilities.nesting,
                "keyctl" => &mut capabilities.keyctl,
                "fuse" => &mut capabilities.fuse,
                _ => &mut capabilities.mknod,
            };
            *field = Some(on);
            format!("capabilities.{key}")
        }),
        "mount" => mount_types(value).map(|types| {
            out.capabilities.get_or_insert_default().mount = Some(types);
            "capabilities.mount".to_owned()
        }),
        "protection" => flag.map(|on| {
            out.protection = Some(on);
            "protection".to_owned()
        }),
        "cpulimit" => values::float(&node).filter(|v| (0.0..=8192.0).contains(v)).map(|v| {
            out.cpu_limit = Some(v);
            "cpuLimit".to_owned()
        }),
        "cpuunits" => values::integer(&node).filter(|v| (1..=10_000).contains(v)).map(|v| {
            out.cpu_units = Some(v);
            "cpuUnits".to_owned()
        }),
        _ => None,
    };
    match done {
        Some(path) => w.mapped(&item.at, &path, ""),
        None => {
            let shown = item.text.clone().unwrap_or_else(|| item.at.node.show());
            let message = format!("option {shown:?} has no field");
            w.skip_warn(&item.at, &message, "set it on Proxmox by hand if the guest needs it");
        }
    }
}

fn mount_types(value: &str) -> Option<Vec<MountType>> {
    let mut types = Vec::new();
    for word in value.split([';', ' ']).filter(|w| !w.is_empty()) {
        let type_ = match word {
            "nfs" => MountType::Nfs,
            "cifs" => MountType::Cifs,
            _ => return None,
        };
        if !types.contains(&type_) {
            types.push(type_);
        }
    }
    Some(types)
}

/// `apparmor_manages_nesting: false` made the legacy manager set nesting; true made it leave nesting alone.
fn nesting(w: &mut Writer, guest: &At, out: &mut Options) {
    let Some(at) = w.key(guest, &["apparmor_manages_nesting"]) else {
        return;
    };
    let asked = out.capabilities.as_ref().and_then(|c| c.nesting);
    match (values::boolean(at.node), asked) {
        (None, _) => w.unreadable(&at, "true or false"),
        (Some(true), Some(true)) => {
            w.skip(&at, "pct_options ask for nesting themselves, and they count");
            let message = "pct_options ask for nesting=1 although apparmor_manages_nesting is true; nesting is written";
            w.info(
                &at,
                message,
                "remove capabilities.nesting if the AppArmor profile is to handle it alone",
            );
        }
        (Some(true), _) => w.defaulted(
            &at,
            "capabilities.nesting",
            "Phoenix leaves nesting alone where it is not given",
        ),
        (Some(false), Some(_)) => w.skip(&at, "pct_options say it themselves"),
        (Some(false), None) => {
            out.capabilities.get_or_insert_default().nesting = Some(true);
            w.mapped(
                &at,
                "capabilities.nesting",
                "the legacy manager set nesting=1 for false",
            );
        }
    }
}

fn apparmor(w: &mut Writer, guest: &At, out: &mut Options) {
    let expected = "the name of an AppArmor profile";
    out.apparmor_profile = w.text(
        guest,
        &["apparmor_profile"],
        "apparmorProfile",
        values::apparmor_profile,
        expected,
    );
    let Some(list) = w.key(guest, &["lxc_options"]) else {
        return;
    };
    let mut lines: Vec<String> = Vec::new();
    for item in w.list(&list, &['\n']) {
        let Some((key, value)) = item.text.as_deref().and_then(values::lxc_line) else {
            let shown = item.text.clone().unwrap_or_else(|| item.at.node.show());
            let fix = "Proxmox writes lxc.net, lxc.rootfs, lxc.uts and lxc.environment.runtime itself";
            w.skip_warn(
                &item.at,
                &format!("{shown:?} is not a raw line 'lxc.key = value' that may be set"),
                fix,
            );
            continue;
        };
        if key == PROFILE_KEY {
            profile_line(w, &item.at, &value, out);
            continue;
        }
        let Some(line) = loadable(w, &item.at, &key, &value) else {
            continue;
        };
        let place = lines.iter().position(|l| *l == line).unwrap_or(lines.len());
        if place == 64 {
            w.skip_warn(&item.at, "more than 64 raw lines", "put them into an included file");
            continue;
        }
        w.mapped(&item.at, &format!("lxcOptions[{place}]"), "");
        if place == lines.len() {
            lines.push(line);
        }
    }
    out.lxc_options = (!lines.is_empty()).then_some(lines);
    if let Some(profile) = out.apparmor_profile.clone() {
        own_profile(w, guest, &profile);
    }
}

/// The line as Proxmox reads it and LXC loads it; `None` where it cannot be had.
fn loadable(w: &mut Writer, at: &At, key: &str, value: &str) -> Option<String> {
    let line = format!("{key} = {value}").trim_end().to_owned();
    let Some(why) = raw_lines::refusal(key, value, None) else {
        return Some(line);
    };
    let mended = raw_lines::with_blanks(key, value);
    if mended != line {
        let message = format!("LXC cannot load {line:?}, a list with commas; it is written with blanks");
        w.info(at, &message, "nothing, if the container is to have these capabilities");
        return Some(mended);
    }
    w.skip_warn(
        at,
        &format!("{line:?} is not written: {why}"),
        "see whether the guest needs it",
    );
    None
}

/// A profile that neither Proxmox nor AppArmor brings must be on the node.
fn own_profile(w: &mut Writer, guest: &At, profile: &str) {
    let stock = profile == "unconfined" || profile == "generated" || profile.starts_with("lxc-container-default");
    if !stock {
        let at = guest.get("apparmor_profile").unwrap_or_else(|| guest.clone());
        w.info(
            &at,
            &format!("AppArmor profile {profile:?} is none of Proxmox's own"),
            "have it in /etc/apparmor.d on the node, loaded, before the container starts",
        );
    }
}

/// The profile has a field of its own; where it stands as a raw line too, the field has it.
fn profile_line(w: &mut Writer, at: &At, value: &str, out: &mut Options) {
    match (&out.apparmor_profile, values::apparmor_profile(value)) {
        (_, None) => w.unreadable(at, "the name of an AppArmor profile"),
        (None, Some(profile)) => {
            out.apparmor_profile = Some(profile);
            w.mapped(at, "apparmorProfile", "");
        }
        (Some(have), Some(profile)) if *have == profile => {
            w.mapped(at, "apparmorProfile", "the same as apparmor_profile");
        }
        (Some(have), Some(profile)) => {
            let message =
                format!("lxc_options set {PROFILE_KEY} to {profile:?}, apparmor_profile is {have:?}, which counts");
            w.skip_warn(at, &message, "make them equal");
        }
    }
}
