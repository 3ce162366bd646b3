//! Raw `lxc.*` lines of a container: which ones Proxmox reads, and which values LXC itself cannot load (facts D.6,
//! L.1.6).

/// Keys that Proxmox passes on to LXC.
const KNOWN: &[&str] = &[
    "apparmor.profile",
    "apparmor.allow_incomplete",
    "apparmor.allow_nesting",
    "apparmor.raw",
    "selinux.context",
    "include",
    "arch",
    "uts.name",
    "signal.halt",
    "signal.reboot",
    "signal.stop",
    "init.cmd",
    "init.cwd",
    "init.uid",
    "init.gid",
    "init.groups",
    "pty.max",
    "console.logfile",
    "console.path",
    "tty.max",
    "devtty.dir",
    "hook.autodev",
    "autodev",
    "kmsg",
    "mount.fstab",
    "mount.entry",
    "mount.auto",
    "rootfs.mount",
    "cap.drop",
    "cap.keep",
    "seccomp.profile",
    "seccomp.notify.proxy",
    "seccomp.notify.cookie",
    "idmap",
    "hook.pre-start",
    "hook.pre-mount",
    "hook.mount",
    "hook.start",
    "hook.stop",
    "hook.post-stop",
    "hook.clone",
    "hook.destroy",
    "hook.version",
    "log.level",
    "log.file",
    "start.auto",
    "start.delay",
    "start.order",
    "group",
    "environment",
    "environment.runtime",
    "environment.hooks",
    "sysctl.fs.mqueue",
    "sysctl.kernel.msgmax",
    "sysctl.kernel.msgmnb",
    "sysctl.kernel.msgmni",
    "sysctl.kernel.sem",
    "sysctl.kernel.shmall",
    "sysctl.kernel.shmmax",
    "sysctl.kernel.shmmni",
    "sysctl.kernel.shm_rmid_forced",
];

/// Names of before LXC 3, still read with a warning.
const DEPRECATED: &[&str] = &[
    "aa_profile",
    "aa_allow_incomplete",
    "console",
    "devttydir",
    "haltsignal",
    "rebootsignal",
    "stopsignal",
    "id_map",
    "init_cmd",
    "loglevel",
    "logfile",
    "mount",
    "network.type",
    "network.flags",
    "network.link",
    "network.mtu",
    "network.name",
    "network.hwaddr",
    "network.ipv4",
    "network.ipv4.gateway",
    "network.ipv6",
    "network.ipv6.gateway",
    "network.script.up",
    "network.script.down",
    "pts",
    "se_context",
    "seccomp",
    "tty",
    "utsname",
];

const FAMILIES: &[&str] = &["cgroup.", "cgroup2.", "prlimit.", "limit.", "net."];

const CAPABILITIES: &[&str] = &[
    "chown",
    "dac_override",
    "dac_read_search",
    "fowner",
    "fsetid",
    "kill",
    "setgid",
    "setuid",
    "setpcap",
    "linux_immutable",
    "net_bind_service",
    "net_broadcast",
    "net_admin",
    "net_raw",
    "ipc_lock",
    "ipc_owner",
    "sys_module",
    "sys_rawio",
    "sys_chroot",
    "sys_ptrace",
    "sys_pacct",
    "sys_admin",
    "sys_boot",
    "sys_nice",
    "sys_resource",
    "sys_time",
    "sys_tty_config",
    "mknod",
    "lease",
    "audit_write",
    "audit_control",
    "setfcap",
    "mac_override",
    "mac_admin",
    "syslog",
    "wake_alarm",
    "block_suspend",
    "audit_read",
    "perfmon",
    "bpf",
    "checkpoint_restore",
];

/// Whether Proxmox reads lines with this key. Others make every reader warn, are never read back, and are gone after
/// the next rewrite of the file.
pub fn is_known(key: &str) -> bool {
    key.strip_prefix("lxc.").is_some_and(|rest| {
        KNOWN.contains(&rest) || DEPRECATED.contains(&rest) || FAMILIES.iter().any(|family| rest.starts_with(family))
    })
}

/// What LXC says about a value that it cannot load.
pub fn unloadable(key: &str, value: &str) -> Option<String> {
    let keep = match key {
        "lxc.cap.keep" => true,
        "lxc.cap.drop" => false,
        _ => return None,
    };
    let good = |word: &&str| {
        let lower = word.to_ascii_lowercase();
        let name = lower.strip_prefix("cap_").unwrap_or(&lower);
        CAPABILITIES.contains(&name) || word.parse::<u8>().is_ok() || (keep && name == "none")
    };
    let bad = value.split_whitespace().find(|word| !good(word))?;
    Some(format!("Unknown capability {bad}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_proxmox() {
        for key in [
            "lxc.apparmor.profile",
            "lxc.cgroup2.devices.allow",
            "lxc.net.0.type",
            "lxc.sysctl.kernel.sem",
        ] {
            assert!(is_known(key), "{key}");
        }
        for key in ["lxc.sysctl.vm.max_map_count", "lxc.rootfs.path", "lxc.nope", "memory"] {
            assert!(!is_known(key), "{key}");
        }
    }

    #[test]
    fn lists_of_capabilities_are_separated_by_blanks() {
        assert_eq!(unloadable("lxc.cap.keep", "sys_admin net_raw"), None);
        assert_eq!(unloadable("lxc.cap.drop", ""), None);
        assert!(unloadable("lxc.cap.keep", "sys_admin,net_raw").is_some());
        assert!(unloadable("lxc.cap.drop", "sys_nosuch").is_some());
    }
}
