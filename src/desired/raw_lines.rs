//! Raw `lxc.` lines that Proxmox reads and LXC can load.
//!
//! Proxmox reads only the keys of its own list (`$valid_lxc_conf_keys` and `is_valid_lxc_conf_key` of
//! `src/PVE/LXC/Config.pm` in its repository pve-container; here as of version 6.1.10, and 5.3.5 for Proxmox VE 8.4). A
//! line with another key is left out by every reader and lost at the next write (facts L.1.6).

/// Keys that Proxmox VE 8.4 and 9 read.
const KEYS: &[&str] = &[
    "lxc.apparmor.allow_incomplete",
    "lxc.apparmor.allow_nesting",
    "lxc.apparmor.profile",
    "lxc.apparmor.raw",
    "lxc.arch",
    "lxc.autodev",
    "lxc.cap.drop",
    "lxc.cap.keep",
    "lxc.console.logfile",
    "lxc.console.path",
    "lxc.devtty.dir",
    "lxc.environment",
    "lxc.group",
    "lxc.hook.autodev",
    "lxc.hook.clone",
    "lxc.hook.destroy",
    "lxc.hook.mount",
    "lxc.hook.post-stop",
    "lxc.hook.pre-mount",
    "lxc.hook.pre-start",
    "lxc.hook.start",
    "lxc.hook.stop",
    "lxc.hook.version",
    "lxc.idmap",
    "lxc.include",
    "lxc.init.cmd",
    "lxc.kmsg",
    "lxc.log.file",
    "lxc.log.level",
    "lxc.mount.auto",
    "lxc.mount.entry",
    "lxc.mount.fstab",
    "lxc.pty.max",
    "lxc.rootfs.mount",
    "lxc.seccomp.notify.cookie",
    "lxc.seccomp.notify.proxy",
    "lxc.seccomp.profile",
    "lxc.selinux.context",
    "lxc.signal.halt",
    "lxc.signal.reboot",
    "lxc.signal.stop",
    "lxc.start.auto",
    "lxc.start.delay",
    "lxc.start.order",
    "lxc.sysctl.fs.mqueue",
    "lxc.sysctl.kernel.msgmax",
    "lxc.sysctl.kernel.msgmnb",
    "lxc.sysctl.kernel.msgmni",
    "lxc.sysctl.kernel.sem",
    "lxc.sysctl.kernel.shm_rmid_forced",
    "lxc.sysctl.kernel.shmall",
    "lxc.sysctl.kernel.shmmax",
    "lxc.sysctl.kernel.shmmni",
    "lxc.tty.max",
    "lxc.uts.name",
];

/// Keys that Proxmox VE reads from version 9 on.
const KEYS_9: &[&str] = &[
    "lxc.environment.hooks",
    "lxc.environment.runtime",
    "lxc.init.cwd",
    "lxc.init.gid",
    "lxc.init.groups",
    "lxc.init.uid",
];

/// Beginnings of keys that Proxmox reads whatever follows.
const FAMILIES: &[&str] = &["lxc.cgroup2.", "lxc.cgroup.", "lxc.prlimit.", "lxc.net."];

/// Keys of LXC before 3.0: Proxmox reads them, but LXC knows the new names only.
const RENAMED: &[(&str, &str)] = &[
    ("lxc.aa_allow_incomplete", "lxc.apparmor.allow_incomplete"),
    ("lxc.aa_profile", "lxc.apparmor.profile"),
    ("lxc.console", "lxc.console.path"),
    ("lxc.devttydir", "lxc.tty.dir"),
    ("lxc.haltsignal", "lxc.signal.halt"),
    ("lxc.id_map", "lxc.idmap"),
    ("lxc.init_cmd", "lxc.init.cmd"),
    ("lxc.logfile", "lxc.log.file"),
    ("lxc.loglevel", "lxc.log.level"),
    ("lxc.mount", "lxc.mount.fstab"),
    ("lxc.pts", "lxc.pty.max"),
    ("lxc.rebootsignal", "lxc.signal.reboot"),
    ("lxc.se_context", "lxc.selinux.context"),
    ("lxc.seccomp", "lxc.seccomp.profile"),
    ("lxc.stopsignal", "lxc.signal.stop"),
    ("lxc.tty", "lxc.tty.max"),
    ("lxc.utsname", "lxc.uts.name"),
];

/// Keys whose value LXC reads as a number.
const NUMBERS: &[&str] = &[
    "lxc.apparmor.allow_incomplete",
    "lxc.apparmor.allow_nesting",
    "lxc.autodev",
    "lxc.hook.version",
    "lxc.init.gid",
    "lxc.init.uid",
    "lxc.kmsg",
    "lxc.pty.max",
    "lxc.start.auto",
    "lxc.start.delay",
    "lxc.tty.max",
];

/// Keys whose value is a list of words with blanks between them.
const LISTS: &[&str] = &["lxc.cap.drop", "lxc.cap.keep"];

/// Why a container cannot have the line, and what to do; `None` where it can. An empty value sets a list back.
/// `version` is that of Proxmox VE, where it is known.
pub fn refusal(key: &str, value: &str, version: Option<&str>) -> Option<String> {
    if let Some((_, new)) = RENAMED.iter().find(|(old, _)| *old == key) {
        return Some(format!("LXC renamed the key {key}: write {new}"));
    }
    if let Some(rest) = key.strip_prefix("lxc.limit.") {
        return Some(format!("LXC renamed the key {key}: write lxc.prlimit.{rest}"));
    }
    let major: Option<u32> = version.and_then(|v| v.split(['.', '-']).next()?.parse().ok());
    let newer = KEYS_9.contains(&key);
    if newer && major.is_some_and(|major| major < 9) {
        return Some(format!(
            "Proxmox VE reads the key {key} from version 9 on, and this is {}: leave the line out",
            version.unwrap_or_default()
        ));
    }
    let in_family = FAMILIES
        .iter()
        .any(|f| key.strip_prefix(f).is_some_and(|rest| !rest.is_empty()));
    if !newer && !in_family && !KEYS.contains(&key) {
        let fix = match key.strip_prefix("lxc.sysctl.") {
            Some(name) => format!("leave the line out, and set {name} with sysctl on the node"),
            None => "leave the line out, or put it into a file on the node and name that with lxc.include".into(),
        };
        return Some(format!(
            "Proxmox does not read the key {key}: such a line has no effect and is lost: {fix}"
        ));
    }
    unloadable(key, value)
}

/// Why LXC could not load the value, so that the container would not start.
fn unloadable(key: &str, value: &str) -> Option<String> {
    if value.is_empty() {
        return None;
    }
    if LISTS.contains(&key) && value.contains(',') {
        return Some(format!(
            "LXC cannot load a list with commas, and the container would not start: write {:?}",
            with_blanks(key, value)
        ));
    }
    if NUMBERS.contains(&key) && value.parse::<u32>().is_err() {
        return Some("LXC cannot load the value, which must be a number, and the container would not start".into());
    }
    let words: Vec<&str> = value.split_whitespace().collect();
    let maps =
        matches!(words[..], ["u" | "g", from, to, count] if [from, to, count].iter().all(|n| n.parse::<u32>().is_ok()));
    (key == "lxc.idmap" && !maps).then(|| {
        "LXC cannot load the value, and the container would not start: write u or g, the first id in the container, the first on the node, and how many, such as 'u 0 100000 65536'".to_string()
    })
}

/// An entry of a mount's id map whose ids another one maps too, inside the container or outside.
pub fn mapped_twice(map: &str) -> Option<String> {
    let entry = |text: &'_ str| -> Option<(String, [u64; 3])> {
        let mut parts = text.split(':');
        let kind = parts.next()?.to_string();
        let numbers: Vec<u64> = parts.filter_map(|n| n.parse().ok()).collect();
        Some((kind, numbers.try_into().ok()?))
    };
    let entries: Vec<(String, [u64; 3])> = map.split(';').filter_map(entry).collect();
    for (i, (kind, a)) in entries.iter().enumerate() {
        for (_, b) in entries[..i].iter().filter(|(other, _)| other == kind) {
            for (at, side) in ["in the container", "outside it"].into_iter().enumerate() {
                if a[at] < b[at] + b[2] && b[at] < a[at] + a[2] {
                    let text = |n: &[u64; 3]| format!("{kind}:{}:{}:{}", n[0], n[1], n[2]);
                    return Some(format!("{} and {} share ids {side}", text(b), text(a)));
                }
            }
        }
    }
    None
}

/// The line with blanks in place of the commas of a list, as LXC reads it.
pub fn with_blanks(key: &str, value: &str) -> String {
    if !LISTS.contains(&key) {
        return format!("{key} = {value}");
    }
    let words: Vec<&str> = value.split([',', ' ']).filter(|w| !w.is_empty()).collect();
    format!("{key} = {}", words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_a_mount_do_not_overlap() {
        for good in ["passthrough", "u:0:100:10;u:10:110:1;g:0:100:10"] {
            assert_eq!(mapped_twice(good), None, "{good}");
        }
        for (bad, words) in [
            (
                "u:0:100:10;u:5:500:2",
                "u:0:100:10 and u:5:500:2 share ids in the container",
            ),
            ("g:0:100:10;g:20:109:1", "outside it"),
        ] {
            assert!(mapped_twice(bad).is_some_and(|found| found.contains(words)), "{bad}");
        }
    }

    #[test]
    fn only_what_proxmox_reads_and_lxc_loads_is_taken() {
        for (key, value, version, expected) in [
            ("lxc.cap.drop", "", None, None),
            ("lxc.seccomp.profile", "", None, None),
            ("lxc.cap.drop", "mknod sys_time", None, None),
            ("lxc.cgroup2.devices.allow", "c 195:* rwm", None, None),
            ("lxc.cgroup.devices.allow", "a", None, None),
            ("lxc.prlimit.nofile", "1024", None, None),
            ("lxc.sysctl.kernel.shmmax", "1", None, None),
            ("lxc.idmap", "u 0 100000 1000", None, None),
            ("lxc.idmap", "u 0 100000", None, Some("write u or g")),
            ("lxc.init.cwd", "/", Some("9.0.3"), None),
            ("lxc.init.cwd", "/", None, None),
            ("lxc.init.cwd", "/", Some("8.4.1"), Some("this is 8.4.1")),
            (
                "lxc.sysctl.vm.max_map_count",
                "1",
                None,
                Some("set vm.max_map_count with sysctl on the node"),
            ),
            (
                "lxc.proc.oom_score_adj",
                "1",
                None,
                Some("Proxmox does not read the key lxc.proc.oom_score_adj"),
            ),
            ("lxc.cgroup2.", "1", None, Some("does not read")),
            ("lxc.aa_profile", "unconfined", None, Some("write lxc.apparmor.profile")),
            ("lxc.limit.nofile", "1", None, Some("write lxc.prlimit.nofile")),
            (
                "lxc.cap.keep",
                "sys_admin,mknod",
                None,
                Some("write \"lxc.cap.keep = sys_admin mknod\""),
            ),
            ("lxc.autodev", "yes", None, Some("must be a number")),
        ] {
            let found = refusal(key, value, version);
            match expected {
                None => assert_eq!(found, None, "{key} = {value}"),
                Some(words) => assert!(
                    found.as_ref().is_some_and(|f| f.contains(words)),
                    "{key} = {value}: {found:?}"
                ),
            }
        }
    }
}
